from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import PlanError
from genesis.federated.plan import Plan


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"method": "ctgam"}, "did you mean ctgan"),
        ({"aggregation": "fedavq"}, "did you mean fedavg"),
        ({"aggregation": "fedavg", "aggregation_options": {"beta": 1}}, "no option 'beta'"),
        ({"config": {"epoch": 5}}, "did you mean epochs"),
        ({"config": {"batch_size": 505}}, "pac"),
        ({"config": 5}, "config must map names to values"),
        ({"batch_size": 55}, "pac"),
        ({"n_rounds": 0}, "n_rounds must be a whole number of at least 1"),
        ({"n_rounds": 2.5}, "n_rounds"),
        ({"client_fraction": 0}, "client_fraction must be above 0 and at most 1"),
        ({"client_fraction": 1.01}, "client_fraction"),
        ({"min_clients": 4, "max_clients": 3}, "max_clients is below min_clients"),
        ({"lr_schedule": "cosinus"}, "did you mean cosine"),
        ({"synchronize": "critic"}, "unknown synchronize"),
        ({"method": "tvae", "synchronize": "discriminator"}, "no discriminator"),
        ({"clip_per_layer": True}, "set max_grad_norm"),
        ({"proximal_mu": 0.1}, "option of aggregation 'fedprox'"),
        ({"max_grad_norm": -1}, "max_grad_norm must be above 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"aggregation": "scaffold", "synchronize": "generator"}, "scaffold"),
        ({"aggregation": "scaffold", "sync_every": 2}, "scaffold"),
        ({"privacy": {"differential_privacy": {"delta": 1e-5}}}, "needs an epsilon"),
        ({"encryption": "paillier"}, "without secure_aggregation"),
        ({"secure_aggregation": "maskin"}, "did you mean masking"),
        ({"secure_aggregation": "masking", "encryption": "paillier"}, "name two schemes"),
        ({"secure_aggregation": True, "secure_aggregation_bits": 16}, "24 or 32"),
        ({"secure_aggregation": True, "aggregation": "median"}, "needs each client's update"),
        ({"secure_aggregation": True, "aggregation": "trimmed_mean"}, "needs each client's"),
        ({"secure_aggregation": True, "aggregation": "krum"}, "needs each client's update"),
        ({"secure_aggregation": True, "aggregation": "multi_krum"}, "needs each client's update"),
        ({"secure_aggregation": True, "aggregation": "similarity"}, "tell how it differs"),
        ({"secure_aggregation": True, "aggregation": lambda v, _: v[0]}, "needs each client's"),
        ({"secure_aggregation": True, "min_clients": 2}, "at least 3 clients"),
        ({"secure_aggregation": True, "sync_every": 2}, "every round to be averaged"),
        ({"secure_aggregation": True, "max_clients": 2}, "at least 3 clients"),
    ],
)
def test_impossible_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan(**choices)


def test_local_epochs_follow_the_config() -> None:
    assert Plan().epochs_per_round == 30
    assert Plan(config={"epochs": 100}, n_rounds=10).epochs_per_round == 10
    assert Plan(config={"epochs": 5}, n_rounds=10).epochs_per_round == 1
    assert Plan(config={"epochs": 100}, local_epochs=3).epochs_per_round == 3


def test_schedules() -> None:
    scales = {
        name: [Plan(n_rounds=6, lr_schedule=name).learning_rate_scale(r) for r in range(6)]
        for name in ("constant", "cosine", "step")
    }
    assert scales["constant"] == [1.0] * 6
    assert scales["step"] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert scales["cosine"][0] == 1
    assert all(a > b > 0 for a, b in zip(scales["cosine"], scales["cosine"][1:], strict=False))


@settings(max_examples=50, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["ctgan", "tvae"]),
            "n_rounds": st.integers(1, 50),
            "local_epochs": st.integers(1, 9),
            "learning_rate": st.floats(1e-6, 1),
            "aggregation": st.sampled_from(["fedavg", "median", "fedadam"]),
            "client_fraction": st.floats(0.01, 1),
            "lr_schedule": st.sampled_from(["constant", "cosine"]),
            "discrete_columns": st.lists(st.text(max_size=5), max_size=3),
            "seed": st.integers(0, 2**40),
            "config": st.fixed_dictionaries({"epochs": st.integers(1, 500)}),
        },
    )
)
def test_toml_gives_the_plan_back(choices: dict[str, Any]) -> None:
    plan = Plan(**choices)
    assert Plan.from_toml(plan.to_toml()) == plan


def test_toml_that_is_no_plan() -> None:
    with pytest.raises(PlanError, match="not TOML"):
        Plan.from_toml("rounds = = 3")
    with pytest.raises(PlanError, match="did you mean n_rounds"):
        Plan.from_toml("n_round = 3")


def test_a_seed_is_drawn_once() -> None:
    assert Plan().seed != Plan().seed
    assert Plan(seed=3).seed == 3
