"""What every rule of aggregation promises, and each rule against an oracle of its own."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance
from torch import Tensor

from genesis.errors import FederationError, PlanError
from genesis.federated.aggregation import (
    AGGREGATORS,
    Aggregator,
    State,
    aggregate,
    aggregator_class,
    create_aggregator,
)
from genesis.federated.aggregation.divergence import jensen_shannon, wasserstein
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.messages import Update

RULES = sorted(AGGREGATORS)
ROBUST = ["krum", "median", "multi_krum", "trimmed_mean"]
MEANS = ["fedavg", "fedprox", "similarity", "weighted"]
"""Rules whose global parameters are a weighted mean of the clients' and nothing else."""

few_examples = settings(max_examples=20, deadline=None)
more_examples = settings(max_examples=60, deadline=None)

seeds = st.integers(0, 2**32 - 1)
# Two clients are each as close to the other: Krum cannot tell which one to take but by their order.
cohorts = st.sampled_from([1, 3, 4, 5, 6, 9, 12])


def make_vectors(seed: int, k: int, p: int = 40) -> Tensor:
    """K parameter vectors around a common one, as local training leaves them."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.normal(size=p) + 0.1 * rng.normal(size=(k, p))).astype(np.float32))


def make_updates(vectors: Tensor, seed: int = 0) -> list[Update]:
    """One update for each vector, with random numbers of rows and divergences of three columns."""
    rng = np.random.default_rng(seed)
    return [
        Update(
            client_id=f"org_{k:03}",
            vector=vector.numpy(),
            weight=float(rng.integers(1, 1000)),
            metrics={"loss": 1.0} | {f"divergence.{j}": rng.uniform() for j in range(3)},
        )
        for k, vector in enumerate(vectors)
    ]


def weights_of(rule: Aggregator, vectors: Tensor, seed: int = 0) -> Tensor:
    return rule.weigh(make_updates(vectors, seed))


def bits(vector: Tensor) -> Tensor:
    """So that -0.0 is not 0.0."""
    return vector.view(torch.int32)


# --- the contract


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_every_member(name: str) -> None:
    rule = create_aggregator(name)
    assert isinstance(rule, Aggregator)
    assert all(isinstance(value, float) for value in rule.local_options.values())
    assert rule.needs_individual_updates == (name in ROBUST)
    assert rule.control_variates == (name == "scaffold")
    assert rule.uniform_weights == (name not in ("weighted", "similarity"))
    assert rule.measures == (("divergence",) if name == "similarity" else ())


@pytest.mark.parametrize("name", RULES)
@given(seed=seeds, k=cohorts, p=st.integers(1, 60))
@few_examples
def test_the_order_of_clients_does_not_matter(name: str, seed: int, k: int, p: int) -> None:
    rule = create_aggregator(name)
    vectors = make_vectors(seed, k, p)
    updates = make_updates(vectors, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(k))

    weights = rule.weigh(updates)
    permuted = rule.weigh([updates[i] for i in order])
    torch.testing.assert_close(permuted, weights[order])

    combined = rule.combine(vectors, weights)
    assert combined.shape == (p,)
    assert combined.dtype == torch.float32
    torch.testing.assert_close(rule.combine(vectors[order], permuted), combined)


@pytest.mark.parametrize("name", RULES)
@given(seed=seeds, k=st.integers(1, 12))
@few_examples
def test_weights_are_shares(name: str, seed: int, k: int) -> None:
    weights = weights_of(create_aggregator(name), make_vectors(seed, k), seed)
    assert weights.shape == (k,)
    assert weights.dtype == torch.float64
    assert (weights >= 0).all()
    assert math.isclose(weights.sum(), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("name", RULES)
@given(seed=seeds, k=st.integers(1, 12))
@few_examples
def test_equal_vectors_combine_to_themselves(name: str, seed: int, k: int) -> None:
    rule = create_aggregator(name)
    vectors = make_vectors(seed, 1).repeat(k, 1)
    combined = rule.combine(vectors, weights_of(rule, vectors, seed))
    torch.testing.assert_close(combined, vectors[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", RULES)
@given(seed=seeds, k=cohorts)
@few_examples
def test_combine_commutes_with_a_shift(name: str, seed: int, k: int) -> None:
    """Why rules can work on parameters as well as on their changes."""
    rule = create_aggregator(name)
    vectors, shift = make_vectors(seed, k), make_vectors(seed + 1, 1)[0]
    weights = weights_of(rule, vectors, seed)
    torch.testing.assert_close(
        rule.combine(vectors + shift, weights),
        rule.combine(vectors, weights) + shift,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", RULES)
def test_one_client_is_taken_bit_for_bit(name: str) -> None:
    rule = create_aggregator(name)
    vectors = torch.tensor([[-0.0, 0.0, 1e-42, 3.4e38, 1 / 3, -7.0]])
    weights = weights_of(rule, vectors)
    assert weights.tolist() == [1.0]
    assert torch.equal(bits(rule.combine(vectors, weights)), bits(vectors[0]))


@pytest.mark.parametrize("name", [*MEANS, *ROBUST])
def test_the_combined_parameters_are_taken_bit_for_bit(name: str) -> None:
    rule = create_aggregator(name)
    state = rule.initial(make_vectors(0, 1)[0])
    combined = make_vectors(1, 1)[0]
    combined[0] = -0.0
    after = rule.step(state, combined, 0.5)
    assert torch.equal(bits(after.vector), bits(combined))
    assert after.slots == {}


@pytest.mark.parametrize("name", RULES)
def test_no_method_changes_what_it_is_given(name: str) -> None:
    rule = create_aggregator(name)
    for k, p in itertools.product([1, 2, 5], [1, 2, 7]):
        width = 2 * p if rule.control_variates else p
        vectors = make_vectors(k, k, width)
        state = rule.initial(torch.ones(p))
        before = vectors.clone(), {key: t.clone() for key, t in state.to_tensors().items()}
        combined = rule.combine(vectors, weights_of(rule, vectors))
        copy = combined.clone()
        rule.step(state, combined, 1.0)
        assert torch.equal(combined, copy)
        assert torch.equal(vectors, before[0])
        assert state.to_tensors().keys() == before[1].keys()
        assert all(torch.equal(t, before[1][key]) for key, t in state.to_tensors().items())


@pytest.mark.parametrize("name", RULES)
def test_a_checkpointed_run_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    rule = create_aggregator(name)
    width = 80 if rule.control_variates else 40
    straight = resumed = rule.initial(make_vectors(0, 1)[0])
    for round in range(4):
        updates = make_updates(make_vectors(round + 1, 5, width), seed=round)
        straight = aggregate(rule, straight, updates, 1.0)
        stored = resumed.to_tensors()
        assert all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in stored.values())
        resumed = aggregate(create_aggregator(name), State.from_tensors(stored), updates, 1.0)
    assert straight.slots.keys() == resumed.slots.keys() == rule.initial(torch.ones(1)).slots.keys()
    for key, tensor in straight.to_tensors().items():
        assert torch.equal(tensor, resumed.to_tensors()[key])
        assert tensor.shape == (40,)
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", RULES)
def test_aggregate_does_not_depend_on_the_order_of_arrival(name: str) -> None:
    rule = create_aggregator(name)
    updates = make_updates(make_vectors(3, 6, 80 if rule.control_variates else 40))
    state = rule.initial(torch.zeros(40))
    first, second = (aggregate(rule, state, u, 1.0) for u in (updates, updates[::-1]))
    assert torch.equal(first.vector, second.vector)


@pytest.mark.parametrize("name", RULES)
def test_clients_that_all_return_what_they_received_change_nothing(name: str) -> None:
    rule = create_aggregator(name)
    state = rule.initial(make_vectors(0, 1)[0])
    unchanged = state.vector
    if rule.control_variates:
        unchanged = torch.cat([unchanged, torch.zeros(40)])
    after = aggregate(rule, state, make_updates(unchanged.repeat(3, 1)), 1.0)
    torch.testing.assert_close(after.vector, state.vector, rtol=1e-6, atol=1e-9)


# --- means


def test_fedavg_counts_clients_and_weighted_counts_rows() -> None:
    vectors = torch.tensor([[0.0, 8.0], [4.0, 0.0]])
    updates = [
        Update("a", vectors[0].numpy(), weight=300, metrics={}),
        Update("b", vectors[1].numpy(), weight=100, metrics={}),
    ]
    state = State(torch.zeros(2))
    for name, expected in {"fedavg": [2, 4], "fedprox": [2, 4], "weighted": [1, 6]}.items():
        after = aggregate(create_aggregator(name), state, updates, 1.0)
        assert after.vector.tolist() == expected


@given(seed=seeds, k=st.integers(1, 30))
@few_examples
def test_means_are_numpys(seed: int, k: int) -> None:
    vectors = make_vectors(seed, k)
    updates = make_updates(vectors, seed)
    rows = [update.weight for update in updates]
    for name, weights in {"fedavg": None, "weighted": rows}.items():
        after = aggregate(create_aggregator(name), State(vectors[0]), updates, 1.0)
        expected = np.average(vectors.double().numpy(), axis=0, weights=weights)
        np.testing.assert_allclose(after.vector, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [[-1.0, 2.0], [math.nan, 1.0], [0.0, 0.0]])
def test_impossible_numbers_of_rows_are_refused(rows: list[float]) -> None:
    updates = [Update(str(k), np.zeros(1, np.float32), n, {}) for k, n in enumerate(rows)]
    with pytest.raises(FederationError, match="rows"):
        create_aggregator("weighted").weigh(updates)


def test_fedprox_tells_clients_mu() -> None:
    assert create_aggregator("fedprox", proximal_mu=0.1).local_options == {"proximal_mu": 0.1}
    assert create_aggregator("fedavg").local_options == {}


# --- robust rules


@given(seed=seeds, k=st.integers(1, 13), p=st.integers(1, 30))
@more_examples
def test_median_is_numpys(seed: int, k: int, p: int) -> None:
    vectors = make_vectors(seed, k, p)
    combined = create_aggregator("median").combine(vectors, torch.ones(k) / k)
    np.testing.assert_allclose(combined, np.median(vectors.numpy(), axis=0), rtol=1e-6)


@given(seed=seeds, k=st.integers(1, 30), fraction=st.floats(0, 0.49))
@more_examples
def test_trimmed_mean_is_scipys(seed: int, k: int, fraction: float) -> None:
    vectors = make_vectors(seed, k)
    combined = create_aggregator("trimmed_mean", trim_fraction=fraction).combine(vectors, None)
    n_trimmed = min(math.ceil(fraction * k - 1e-9), (k - 1) // 2)  # scipy rounds down
    expected = stats.trim_mean(vectors.double().numpy(), (n_trimmed + 0.5) / k if k > 1 else 0)
    np.testing.assert_allclose(combined, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fraction", "k", "kept"), [(0.1, 2, 2), (0.1, 3, 1), (0.1, 10, 8), (0.07, 100, 86), (0, 5, 5)]
)
def test_trimming_rounds_up_and_keeps_one(fraction: float, k: int, kept: int) -> None:
    """Powers of two: their mean tells which of them were kept."""
    vectors = 2.0 ** torch.arange(k).fmod(100)[:, None].double()
    combined = create_aggregator("trimmed_mean", trim_fraction=fraction).combine(vectors, None)
    n = (k - kept) // 2
    torch.testing.assert_close(combined, vectors[n : k - n].mean(0))


def test_columns_are_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = make_vectors(0, 7, 101)
    rules = [create_aggregator(name) for name in ROBUST]
    whole = [rule.combine(vectors, None) for rule in rules]
    monkeypatch.setattr("genesis.federated.aggregation.trimmed_mean._NUMBERS_AT_A_TIME", 30)
    monkeypatch.setattr("genesis.federated.aggregation.krum._COLUMNS_AT_A_TIME", 4)
    for rule, expected in zip(rules, whole, strict=True):
        torch.testing.assert_close(rule.combine(vectors, None), expected)


def krum_by_hand(vectors: np.ndarray, f: int) -> list[int]:
    """Clients by their scores, as the paper defines them."""
    k = len(vectors)
    scores = []
    for i in range(k):
        others = sorted(((vectors[i] - vectors[j]) ** 2).sum() for j in range(k) if j != i)
        scores.append(sum(others[: k - f - 2]))
    return sorted(range(k), key=scores.__getitem__)


@given(seed=seeds, k=st.integers(4, 12), data=st.data())
@more_examples
def test_krum_is_what_the_paper_defines(seed: int, k: int, data: st.DataObject) -> None:
    f = data.draw(st.none() | st.integers(0, (k - 3) // 2))
    m = data.draw(st.none() | st.integers(1, k))
    vectors = make_vectors(seed, k)
    used = (k - 3) // 2 if f is None else f
    best = krum_by_hand(vectors.double().numpy(), used)
    chosen = create_aggregator("krum", n_byzantine=f).combine(vectors, None)
    assert torch.equal(chosen, vectors[best[0]])
    mean = create_aggregator("multi_krum", n_byzantine=f, n_selected=m).combine(vectors, None)
    selected = best[: k - used - 2 if m is None else m]
    np.testing.assert_allclose(mean, vectors[selected].double().mean(0), rtol=1e-5, atol=1e-6)


def test_krum_in_tiny_cohorts() -> None:
    krum, multi = create_aggregator("krum"), create_aggregator("multi_krum")
    two = make_vectors(0, 2)
    assert torch.equal(krum.combine(two, None), two[0])
    assert torch.equal(multi.combine(two, None), two[0])
    three = torch.tensor([[1.5], [1.0], [0.0]])  # of the two closest, the one closer to the third
    assert krum.combine(three, None).tolist() == [1.0]
    assert krum.combine(three.flip(0), None).tolist() == [1.0]


def test_krum_needs_enough_clients_for_what_it_is_told_to_withstand() -> None:
    with pytest.raises(FederationError, match=r"n_byzantine=2 needs 7 updates; got 6; lower"):
        create_aggregator("krum", n_byzantine=2).combine(make_vectors(0, 6), None)
    with pytest.raises(FederationError, match=r"n_selected=6 needs 6 updates; got 5"):
        create_aggregator("multi_krum", n_selected=6).combine(make_vectors(0, 5), None)
    create_aggregator("krum", n_byzantine=0).combine(make_vectors(0, 1), None)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("poison", [1e6, -1e6, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("k", [5, 6, 10])
def test_one_client_that_sends_anything_is_without_effect(name: str, poison: float, k: int) -> None:
    vectors = make_vectors(0, k)
    vectors[2] = poison
    honest = vectors[[i for i in range(k) if i != 2]]
    combined = create_aggregator(name).combine(vectors, None)
    assert ((combined >= honest.min(0).values) & (combined <= honest.max(0).values)).all()


@pytest.mark.parametrize("name", ["krum", "median", "multi_krum"])
def test_a_minority_that_agrees_is_without_effect(name: str) -> None:
    vectors = make_vectors(0, 11)
    vectors[[0, 4, 8, 9]] = 1e6
    honest = vectors[[i for i in range(11) if i not in (0, 4, 8, 9)]]
    combined = create_aggregator(name).combine(vectors, None)
    assert ((combined >= honest.min(0).values) & (combined <= honest.max(0).values)).all()


@pytest.mark.parametrize("name", ["krum", "multi_krum"])
def test_krum_tells_honest_clients_apart_however_far_the_others_are(name: str) -> None:
    """||x||² + ||y||² - 2xy would have no digit of their distances left."""
    honest = 1000 + make_vectors(0, 6)
    far = torch.full((1, 40), 1e9)
    rule = create_aggregator(name, n_byzantine=1)
    best = krum_by_hand(torch.cat([honest, far]).double().numpy(), 1)
    chosen = torch.cat([honest, far])[best[:1] if name == "krum" else best[:4]].double().mean(0)
    combined = rule.combine(torch.cat([honest, far]), None)
    np.testing.assert_allclose(combined, chosen, rtol=1e-6)


def test_one_client_that_sends_anything_ruins_a_mean() -> None:
    """The control of the tests above."""
    vectors = make_vectors(0, 10)
    vectors[2] = 1e6
    assert create_aggregator("fedavg").combine(vectors, torch.ones(10) / 10).min() > 1e4


# --- server optimisers


def two_rounds(name: str, changes: list[float], **options: float) -> list[float]:
    """The parameter after each round, if it starts at 1 and clients change it by so much."""
    rule = create_aggregator(name, **options)
    state = rule.initial(torch.ones(1))
    path = []
    for change in changes:
        state = rule.step(state, state.vector + change, 1.0)
        path.append(float(state.vector))
    return path


def test_fedavgm_by_hand() -> None:
    # v = 0.5; v = 0.9 * 0.5 - 0.25 = 0.2
    path = two_rounds("fedavgm", [0.5, -0.25], momentum=0.9, server_learning_rate=0.5)
    assert path == pytest.approx([1.25, 1.35], rel=1e-6)


def test_fedavgm_without_momentum_is_fedavg() -> None:
    assert two_rounds("fedavgm", [0.5, -0.25], momentum=0.0) == pytest.approx([1.5, 1.25])


def test_fedadam_by_hand() -> None:
    options = {"server_learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.01}
    # m = 0.05, v = 0.99 * 1e-4 + 0.01 * 0.25 = 0.002599
    first = 1 + 0.1 * 0.05 / (math.sqrt(0.002599) + 0.01)
    # m = 0.9 * 0.05 - 0.1 * 0.25 = 0.02, v = 0.99 * 0.002599 + 0.01 * 0.0625 = 0.00319801
    second = first + 0.1 * 0.02 / (math.sqrt(0.00319801) + 0.01)
    assert two_rounds("fedadam", [0.5, -0.25], **options) == pytest.approx(
        [first, second], rel=1e-5
    )


def test_fedyogi_by_hand() -> None:
    options = {"server_learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.1}
    # v = 0.01 < 0.25: v = 0.01 + 0.01 * 0.25 = 0.0125
    first = 1 + 0.1 * 0.05 / (math.sqrt(0.0125) + 0.1)
    # v = 0.0125 > 0.0001: v = 0.0125 - 0.01 * 0.0001 = 0.012499; m = 0.9 * 0.05 - 0.1 * 0.01
    second = first + 0.1 * 0.044 / (math.sqrt(0.012499) + 0.1)
    assert two_rounds("fedyogi", [0.5, -0.01], **options) == pytest.approx(
        [first, second], rel=1e-5
    )


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_server_learning_rate_is_how_far_a_parameter_moves(name: str) -> None:
    path = two_rounds(name, [0.3] * 600, server_learning_rate=0.01)
    assert path[-1] - path[-2] == pytest.approx(0.01, rel=0.05)


@given(seed=seeds)
@few_examples
def test_the_second_moment_of_fedyogi_stays_positive(seed: int) -> None:
    rule = create_aggregator("fedyogi")
    rng = np.random.default_rng(seed)
    state = rule.initial(torch.zeros(50))
    for _ in range(20):
        change = torch.from_numpy(
            rng.normal(size=50) * 10.0 ** rng.integers(-6, 3, size=50)
        ).float()
        state = rule.step(state, state.vector + change, 1.0)
        assert (state.slots["second_moment"] > 0).all()


# --- SCAFFOLD

CURVATURES = torch.tensor([[1.0, 8.0], [6.0, 1.0], [2.0, 3.0]])
CENTRES = torch.tensor([[1.0, -1.0], [-2.0, 3.0], [4.0, 0.5]])
OPTIMUM = (CURVATURES * CENTRES).sum(0) / CURVATURES.sum(0)
"""Of the sum of the three clients' losses ½ a (x - b)²; local descent pulls each to its own b."""


def local_descent(start: Tensor, client: int, correction: Tensor) -> tuple[Tensor, Tensor]:
    """Ten steps of gradient descent: the parameters, and the mean of the uncorrected gradients."""
    x, total = start.clone(), torch.zeros(2)
    for _ in range(10):
        gradient = CURVATURES[client] * (x - CENTRES[client])
        x = x - 0.05 * (gradient + correction)
        total += gradient
    return x, total / 10


def optimise(name: str, cohorts: list[list[int]]) -> tuple[State, Tensor]:
    """The server's state after rounds with these cohorts, and the clients' control variates."""
    rule = create_aggregator(name)
    state = rule.initial(torch.zeros(2))
    controls = torch.zeros(3, 2)
    for cohort in cohorts:
        updates = []
        for client in cohort:
            correction = torch.zeros(2)
            if rule.control_variates:
                correction = state.slots["control"] - controls[client]
            vector, control = local_descent(state.vector, client, correction)
            if rule.control_variates:
                vector = torch.cat([vector, control - controls[client]])
                controls[client] = control
            updates.append(Update(str(client), vector.numpy(), 1.0, {}))
        state = aggregate(rule, state, updates, len(cohort) / 3)
    return state, controls


def test_scaffold_finds_the_optimum_where_fedavg_drifts() -> None:
    everyone = [[0, 1, 2]] * 150
    drifted, _ = optimise("fedavg", everyone)
    assert (drifted.vector - OPTIMUM).norm() > 0.5
    state, _ = optimise("scaffold", everyone)
    torch.testing.assert_close(state.vector, OPTIMUM, rtol=1e-4, atol=1e-4)


def test_the_control_variate_stays_the_mean_of_the_clients() -> None:
    rng = np.random.default_rng(0)
    some = [sorted(rng.choice(3, size=rng.integers(1, 4), replace=False)) for _ in range(400)]
    state, controls = optimise("scaffold", some)
    torch.testing.assert_close(state.slots["control"], controls.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(state.vector, OPTIMUM, rtol=1e-3, atol=1e-3)


def test_the_server_learning_rate_of_scaffold() -> None:
    rule = create_aggregator("scaffold", server_learning_rate=0.5)
    combined = torch.tensor([2.0, 3.0, 0.5, -1.0])
    after = rule.step(rule.initial(torch.ones(2)), combined, 0.5)
    assert after.vector.tolist() == [1.5, 2.0]
    assert after.slots["control"].tolist() == [0.25, -0.5]
    # At 1 the mean is taken as it is; 1e8 + (0.1 - 1e8) would be 0.
    far = create_aggregator("scaffold").initial(torch.tensor([1e8]))
    exact = create_aggregator("scaffold").step(far, torch.tensor([0.1, 0.0]), 1.0)
    assert torch.equal(exact.vector, torch.tensor([0.1]))


# --- Fed-TGAN's weights


def similarity_of(divergences: list[list[float]], rows: list[float]) -> list[float]:
    updates = [
        Update(
            f"org_{k}", np.zeros(1, np.float32), n, {f"divergence.{j}": d for j, d in enumerate(ds)}
        )
        for k, (ds, n) in enumerate(zip(divergences, rows, strict=True))
    ]
    return create_aggregator("similarity").weigh(updates).tolist()


def test_similarity_by_hand() -> None:
    # S = [[.25, .5], [.75, .5]], summed [.75, 1.25], relative [.375, .625]
    a = np.array([0.625 * 0.2, 0.375 * 0.8])
    expected = np.exp(a) / np.exp(a).sum()
    assert similarity_of([[0.1, 2.0], [0.3, 2.0]], [20, 80]) == pytest.approx(expected)


def test_similarity_prefers_tables_like_the_pool_and_does_not_mind_units() -> None:
    weights = similarity_of([[0.1, 5.0], [0.2, 90.0], [0.9, 400.0]], [10, 10, 10])
    assert weights == sorted(weights, reverse=True)
    rescaled = similarity_of([[0.1, 5e-60], [0.2, 9e-59], [0.9, 4e-58]], [10, 10, 10])
    assert rescaled == pytest.approx(weights)


def test_similarity_without_differences_goes_by_rows_alone() -> None:
    equal = similarity_of([[0.0, 0.0], [0.0, 0.0]], [10, 30])
    a = np.array([0.25, 0.75])
    assert equal == pytest.approx(np.exp(a) / np.exp(a).sum())
    assert similarity_of([[0.0, 0.3], [0.0, 0.1]], [10, 30]) == similarity_of(
        [[0.3], [0.1]], [10, 30]
    )


@pytest.mark.parametrize(
    "divergences",
    [[[], []], [[0.1], []], [[0.1], [-0.1]], [[0.1], [math.nan]], [[0.1], [math.inf]]],
)
def test_similarity_needs_every_divergence(divergences: list[list[float]]) -> None:
    with pytest.raises(FederationError, match="org_") as error:
        similarity_of(divergences, [1, 1])
    assert "\n" not in str(error.value)


counts = st.lists(st.integers(0, 50), min_size=2, max_size=8)


@given(pair=st.tuples(counts, counts))
@more_examples
def test_divergences_are_scipys(pair: tuple[list[int], list[int]]) -> None:
    n = min(map(len, pair))
    own, pooled = pair[0][:n], [c + 1 for c in pair[1][:n]]
    positions = np.cumsum(np.arange(1, n + 1))
    if not any(own):
        assert jensen_shannon(own, pooled) == math.sqrt(math.log(2))
        assert wasserstein(own, pooled, positions) == 1.0
        return
    assert jensen_shannon(own, pooled) == pytest.approx(
        distance.jensenshannon(own, pooled), abs=1e-7
    )
    expected = stats.wasserstein_distance(positions, positions, own, pooled)
    scale = positions[-1] - positions[0]
    assert wasserstein(own, pooled, positions) == pytest.approx(expected / scale, abs=1e-12)


def test_divergences_at_their_ends() -> None:
    assert jensen_shannon([3, 0], [0, 7]) == pytest.approx(math.sqrt(math.log(2)))
    assert wasserstein([3, 0], [0, 7], [10, 20]) == 1.0
    assert jensen_shannon([2, 4], [1, 2]) == 0.0
    assert wasserstein([2, 4], [1, 2], [0, 5]) == 0.0
    assert wasserstein([2], [1], [5]) == 0.0


# --- finding a rule


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("fedavgg", {}, "unknown aggregation 'fedavgg'; did you mean fedavg"),
        ("fedavg", {"proximal_mu": 1}, "'fedavg' has no option 'proximal_mu'; it takes no options"),
        ("fedprox", {"mu": 1}, "'fedprox' has no option 'mu'; choose one of proximal_mu"),
        (
            "fedprox",
            {"proximal_mu": -1},
            r"proximal_mu is out of range; got -1; choose from \[0, inf\)",
        ),
        ("fedprox", {"proximal_mu": math.inf}, "out of range; got inf"),
        ("fedprox", {"proximal_mu": "0.1"}, "out of range; got '0.1'"),
        ("fedprox", {"proximal_mu": True}, "out of range; got True"),
        ("fedavgm", {"momentum": 1.0}, "momentum is out of range"),
        ("fedavgm", {"server_learning_rate": 0}, "server_learning_rate is out of range"),
        ("fedadam", {"beta1": math.nan}, "beta1 is out of range; got nan"),
        ("fedyogi", {"tau": 0.0}, "tau is out of range"),
        ("trimmed_mean", {"trim_fraction": 0.5}, "trim_fraction is out of range"),
        (
            "krum",
            {"n_byzantine": 1.5},
            "n_byzantine is out of range; got 1.5; choose a whole number",
        ),
        ("multi_krum", {"n_selected": 0}, "n_selected is out of range"),
        ("multi_krum", {"n_byzantine": -1}, "n_byzantine is out of range"),
        ("scaffold", {"server_learning_rate": -1}, "server_learning_rate is out of range"),
        (FedAvg(), {"momentum": 1}, "options go only with an aggregation given by name"),
        (FedAvg, {}, "aggregation is the class FedAvg; pass an object of it"),
        (3, {}, "aggregation must be a name, an aggregator or a function; got a int"),
    ],
)
def test_an_impossible_choice_is_refused(rule: object, options: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message) as error:
        create_aggregator(rule, **options)
    assert "\n" not in str(error.value)


def test_an_object_is_a_rule() -> None:
    class Doubled(FedAvg):
        def step(self, state: State, combined: Tensor, participation: float) -> State:
            return State(2 * combined, state.slots)

    rule = Doubled()
    assert create_aggregator(rule) is rule
    updates = make_updates(make_vectors(0, 1))
    after = aggregate(rule, State(torch.zeros(40)), updates, 1.0)
    np.testing.assert_array_equal(after.vector, 2 * updates[0].vector)


def test_a_function_is_a_rule() -> None:
    seen = []

    def largest(vectors: Tensor, weights: Tensor) -> Tensor:
        seen.append(weights)
        return vectors.max(0).values

    rule = create_aggregator(largest)
    assert isinstance(rule, Aggregator)
    assert rule.needs_individual_updates
    assert not rule.uniform_weights
    vectors = make_vectors(0, 4)
    updates = make_updates(vectors)
    after = aggregate(rule, State(torch.zeros(40)), updates, 1.0)
    assert torch.equal(after.vector, vectors.max(0).values)
    assert torch.equal(seen[0], create_aggregator("weighted").weigh(updates))


@pytest.mark.parametrize("wrong", [lambda v, _: v, lambda v, _: v.sum(), lambda v, _: v[0].numpy()])
def test_a_function_must_return_a_vector(wrong: object) -> None:
    updates = make_updates(make_vectors(0, 4))
    with pytest.raises(FederationError, match="must return one vector"):
        aggregate(create_aggregator(wrong), State(torch.zeros(40)), updates, 1.0)


def test_updates_that_do_not_fit_are_refused() -> None:
    rule = create_aggregator("fedavg")
    with pytest.raises(FederationError, match="no client sent an update"):
        aggregate(rule, State(torch.zeros(40)), [], 1.0)
    updates = [*make_updates(make_vectors(0, 2)), Update("odd", np.zeros(39, np.float32), 1.0, {})]
    with pytest.raises(FederationError, match=r"'odd' has the wrong length; got shape \(39,\)"):
        aggregate(rule, State(torch.zeros(40)), updates, 1.0)


def test_the_registry_imports_on_use() -> None:
    program = (
        "import sys; import genesis.federated.aggregation as a;"
        "assert 'torch' not in sys.modules; a.create_aggregator('median');"
        "assert 'genesis.federated.aggregation.krum' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    for name in RULES:
        assert isinstance(aggregator_class(name), type)
