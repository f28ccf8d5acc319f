"""Intervals against libraries, exact sums and simulations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from genesis import DataError
from genesis.evaluation.intervals import (
    auc,
    auc_interval,
    epsilon_lower_bound,
    proportion_interval,
    roc_curve,
    tpr_at_fpr,
)

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30)


@given(scores, scores)
def test_auc_is_that_of_scikit_learn(members, others) -> None:
    wanted = roc_auc_score([1] * len(members) + [0] * len(others), members + others)
    assert auc(members, others) == pytest.approx(wanted)


@given(scores, scores)
def test_intervals_hold_their_value(members, others) -> None:
    found = auc_interval(members, others, draws=20)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_auc_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / 2**0.5)
    held = 0
    for seed in range(200):
        found = auc_interval(rng.normal(1, 1, 60), rng.normal(0, 1, 80), draws=200, seed=seed)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_a_perfect_score_has_an_interval_too() -> None:
    found = auc_interval([2.0] * 50, [1.0] * 50)
    assert found.value == found.high == 1
    assert 0.85 < found.low < 1
    assert auc_interval([1.0], [2.0]).low == 0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1)])
def test_proportions_are_those_of_scipy(k: int, n: int) -> None:
    found = proportion_interval(k, n)
    wanted = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_the_rate_of_false_positives_is_kept() -> None:
    rng = np.random.default_rng(0)
    others = rng.normal(size=1000)
    found = tpr_at_fpr(others[:500] + 3, others, 0.01)
    threshold = np.sort(others)[-11]
    assert found.value == (others[:500] + 3 > threshold).mean()
    assert tpr_at_fpr(others, others[:99], 0.01) is None
    assert tpr_at_fpr([1.0] * 50, [1.0] * 200, 0.01).value == 0, "ties are not found"


def test_the_curve_agrees_with_its_points() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 300), rng.normal(0, 1, 400)
    fprs = [0.005, 0.01, 0.1, 0.5, 1.0]
    curve = roc_curve(members, others, fprs)
    for fpr, tpr in zip(fprs[:-1], curve[:-1], strict=True):
        assert tpr_at_fpr(members, others, fpr).value == tpr
    assert curve[-1] == 1


def test_epsilon_of_randomised_response() -> None:
    """A bit that is told truly with probability e/(1+e): ε = 1."""
    rng = np.random.default_rng(0)
    bounds = []
    for seed in range(40):
        truth = 1 / (1 + math.exp(-1))
        members = (rng.random(4000) < truth) + rng.normal(0, 1e-3, 4000)
        others = (rng.random(4000) > truth) + rng.normal(0, 1e-3, 4000)
        bounds.append(epsilon_lower_bound(members, others, delta=0, seed=seed))
    assert sum(bound > 1 for bound in bounds) <= 4
    assert np.mean(bounds) > 0.8


def test_epsilon_of_noise_is_nothing() -> None:
    rng = np.random.default_rng(0)
    found = [epsilon_lower_bound(*rng.normal(size=(2, 500)), seed=s) > 0 for s in range(100)]
    assert sum(found) <= 10


def test_epsilon_sees_scores_that_are_lower_for_members() -> None:
    rng = np.random.default_rng(0)
    assert epsilon_lower_bound(rng.normal(-3, 1, 2000), rng.normal(0, 1, 2000)) > 1


def test_nobody_to_attack() -> None:
    with pytest.raises(DataError, match="got 0 and 1 of them"):
        auc([], [1.0])
    with pytest.raises(DataError, match="no trials"):
        proportion_interval(0, 0)
