"""The bound on ε from one training run."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import DataError, PlanError
from genesis.evaluation.one_run import (
    audit_one_run,
    epsilon_of_guesses,
    epsilon_one_run,
    p_value_of_guesses,
)
from tests.dirty import dirty_table


def tail(r: int, v: int, q: float) -> float:
    """P[Binomial(r, q) >= v], term by term."""
    return math.fsum(math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(v, r + 1))


audits = st.integers(1, 120).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r)))


@given(audits, st.floats(0, 6))
def test_without_delta_it_is_the_binomial_tail(audit: tuple[int, int], epsilon: float) -> None:
    r, v = audit
    exact = tail(r, v, math.exp(epsilon) / (1 + math.exp(epsilon)))
    assert p_value_of_guesses(1000, r, v, epsilon, 0.0) == pytest.approx(exact, rel=1e-9, abs=1e-12)


@given(audits, st.floats(0, 4), st.sampled_from([1e-7, 1e-5, 1e-3]))
def test_delta_adds_what_the_theorem_says(
    audit: tuple[int, int], epsilon: float, delta: float
) -> None:
    r, v = audit
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    most = max((tail(r, v - i, q) - tail(r, v, q)) / i for i in range(1, v + 1)) if v else 0
    exact = min(1.0, tail(r, v, q) + 2 * 500 * delta * most)
    assert p_value_of_guesses(500, r, v, epsilon, delta) == pytest.approx(
        exact, rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize(
    ("m", "r", "v", "epsilon", "delta", "p_value"),
    [  # the same to six digits in another implementation, jax_privacy
        (1000, 100, 90, 1.0, 1e-5, 8.41289e-4),
        (1000, 1000, 700, 0.5, 0.0, 1.66588e-7),
        (400, 40, 35, 2.0, 1e-5, 0.660649),
    ],
)
def test_known_p_values(
    m: int, r: int, v: int, epsilon: float, delta: float, p_value: float
) -> None:
    assert p_value_of_guesses(m, r, v, epsilon, delta) == pytest.approx(p_value, rel=1e-5)


@settings(max_examples=40)
@given(audits, st.sampled_from([0.0, 1e-6, 1e-4]), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_bound_is_where_refutation_ends(
    audit: tuple[int, int], delta: float, level: float
) -> None:
    """Every smaller ε is refuted, and none just above."""
    r, v = audit
    bound = epsilon_of_guesses(1000, r, v, delta, level)
    for share in (0.0, 0.3, 0.7, 0.999):
        if bound > 0:
            assert p_value_of_guesses(1000, r, v, share * bound, delta) < 1 - level
    assert p_value_of_guesses(1000, r, v, bound + 1e-5, delta) >= 1 - level


def test_an_exact_bound() -> None:
    """Of r right guesses out of r, e^ε / (1 + e^ε) = 0.05^(1 / r)."""
    q = 0.05 ** (1 / 50)
    assert epsilon_of_guesses(500, 50, 50, 0.0, 0.95) == pytest.approx(
        math.log(q / (1 - q)), abs=1e-5
    )


def test_null_data_claim_nothing() -> None:
    """Scores that know nothing refute ε = 0 in at most 5 % of the audits."""
    rng = np.random.default_rng(0)
    claims = [
        epsilon_one_run(rng.normal(size=500), rng.integers(2, size=500), 0.2, 1e-5, 0.95) > 0
        for _ in range(1000)
    ]
    assert np.mean(claims) <= 0.05


def test_randomised_response_is_bounded_from_below() -> None:
    """Each coin is told rightly with e / (1 + e): ε = 1, of which the bound finds most."""
    rng = np.random.default_rng(0)
    bounds = []
    for seed in range(200):
        coins = rng.integers(2, size=10_000)
        told = np.where(rng.random(10_000) < math.e / (1 + math.e), coins, 1 - coins)
        bounds.append(epsilon_one_run(told, coins, 0.1, 1e-5, 0.95, seed=seed))
    assert np.mean(np.array(bounds) <= 1) >= 0.95
    assert np.mean(bounds) > 0.7


def test_equal_scores_tell_nothing() -> None:
    """Even where those that were included come first."""
    included = np.repeat([True, False], 200)
    claims = [epsilon_one_run(np.zeros(400), included, 0.5, seed=seed) > 0 for seed in range(100)]
    assert np.mean(claims) <= 0.05


def copy(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A generator that learns rows by heart."""
    return rows.sample(frac=1, random_state=seed)


@pytest.mark.parametrize("attack", ["calibrated", "density", "distance"])
def test_a_copier_is_caught(attack: str) -> None:
    found = audit_one_run(copy, dirty_table(1000), canaries=400, attack=attack, seed=0)
    assert (found.guesses, found.canaries) == (40, 400)
    assert 150 < found.included < 250
    assert found.correct >= 34
    assert 0.8 < found.epsilon <= found.ceiling < 3
    assert found.p_value < 1e-3
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_generator_that_knows_no_canary_is_not_accused() -> None:
    fresh = dirty_table(600, seed=1)
    claims = [
        audit_one_run(lambda *_: fresh, dirty_table(400), canaries=100, seed=seed).epsilon > 0
        for seed in range(20)
    ]
    assert sum(claims) <= 2


def test_canaries_are_valid_rows() -> None:
    """Each has values that its columns have, an id of its own, and is trained on once at most."""
    table = dirty_table(500)
    seen: list[pd.DataFrame] = []

    def spy(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        seen.append(rows)
        return copy(rows, seed)

    found = audit_one_run(spy, table, canaries=200, seed=3)
    (rows,) = seen
    assert len(rows) == 300 + found.included
    assert rows["patient_id"].is_unique
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    for name in table:
        assert set(rows[name].dropna()) <= set(table[name].dropna())
    untouched = rows.merge(table, how="inner", on=list(table.columns))
    assert 300 <= len(untouched) < 320


def test_a_seed_decides_everything_and_no_seed_nothing() -> None:
    table = dirty_table(300)
    first, again, other, another = (
        audit_one_run(copy, table, canaries=100, seed=seed) for seed in (5, 5, None, None)
    )
    assert first == again
    assert len({first.included, other.included, another.included, 50}) > 1


def test_audits_that_can_say_nothing() -> None:
    with pytest.raises(PlanError, match=r"got 4 guesses about 40 canaries.*at least 60 canaries"):
        audit_one_run(copy, dirty_table(100), canaries=40)
    with pytest.raises(PlanError, match="no bound on ε"):
        epsilon_one_run(np.zeros(100), np.zeros(100), 0.5, delta=0.01)
    with pytest.raises(PlanError, match="guess_fraction"):
        epsilon_one_run(np.zeros(100), np.zeros(100), 1.5)
    with pytest.raises(PlanError, match="level"):
        epsilon_one_run(np.zeros(100), np.zeros(100), level=95)
    with pytest.raises(DataError, match="got 100 canaries, 100 rows"):
        audit_one_run(copy, dirty_table(100), canaries=100)
    with pytest.raises(PlanError, match="unknown attack"):
        audit_one_run(copy, dirty_table(100), attack="magic")
