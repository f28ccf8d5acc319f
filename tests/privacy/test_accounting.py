"""ε against dp-accounting asked directly, closed forms, direct sums, and other accountants."""

from __future__ import annotations

import math
from collections.abc import Callable

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant, common, privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from genesis.errors import PrivacyError
from genesis.privacy.accounting import epsilon, epsilon_prv, epsilon_rdp
from genesis.privacy.budget import calibrated
from genesis.privacy.events import (
    Composed,
    Event,
    Gaussian,
    SampledGaussian,
    Skellam,
    Threshold,
    event_from_dict,
    event_to_dict,
)

GRID = 1e-4  # of the loss, where dp-accounting is asked directly

# Plan, δ, and ε as dp-accounting gave it on the grid above.
GOLDEN: list[tuple[list[Event], float, float]] = [
    ([Gaussian(1.0)], 1e-5, 4.377178),
    ([Gaussian(4.0, 20)], 1e-6, 5.55086),
    ([SampledGaussian(1.0, 0.01, 1000)], 1e-5, 1.828244),
    ([SampledGaussian(0.7, 0.02, 500)], 1e-6, 7.74505),
    ([SampledGaussian(2.0, 1.0, 10)], 1e-5, 7.511276),
    ([Skellam(5.0)], 1e-5, 0.685266),
    ([Skellam(40.0, 25)], 1e-5, 0.434416),
    ([Threshold(8.0, 1e-7, 3)], 1e-5, 0.792919),
    ([Skellam(60.0, 30), SampledGaussian(1.2, 0.01, 2000)], 1e-5, 1.896768),
    (
        [
            Composed((Skellam(50.0, 4), Gaussian(9.0)), 5),
            Threshold(20.0, 1e-8, 2),
            SampledGaussian(1.5, 0.02, 800),
        ],
        1e-5,
        2.078547,
    ),
]


def loss_of(event: Event) -> privacy_loss_distribution.PrivacyLossDistribution:
    """The loss of all releases, as dp-accounting builds it of its own events or of chances."""
    match event:
        case Composed():
            total = privacy_loss_distribution.identity(GRID)
            for _ in range(event.count):
                for each in event.events:
                    total = total.compose(loss_of(each))
            return total
        case Gaussian():
            own = dp.SelfComposedDpEvent(dp.GaussianDpEvent(event.noise_multiplier), event.count)
        case SampledGaussian():
            step = dp.PoissonSampledDpEvent(
                event.sample_rate, dp.GaussianDpEvent(event.noise_multiplier)
            )
            own = dp.SelfComposedDpEvent(step, event.steps)
        case Skellam():
            k, p, q = two_chances(event.deviation)
            known = (p > 0) & (q > 0)
            return privacy_loss_distribution.from_two_probability_mass_functions(
                dict(zip(k[known].tolist(), np.log(p[known]).tolist(), strict=True)),
                dict(zip(k[known].tolist(), np.log(q[known]).tolist(), strict=True)),
                value_discretization_interval=GRID / 10,
            ).self_compose(event.count)
        case Threshold():
            noise = privacy_loss_distribution.from_gaussian_mechanism(
                event.deviation / math.sqrt(event.count), value_discretization_interval=GRID
            )
            # Any of the sets may name a label that one record alone has.
            alone = common.DifferentialPrivacyParameters(0.0, 1 - (1 - event.delta) ** event.count)
            return noise.compose(
                privacy_loss_distribution.from_privacy_parameters(
                    alone, value_discretization_interval=GRID
                )
            )
    accountant = PLDAccountant(value_discretization_interval=GRID)
    accountant.compose(own)
    return accountant._pld


def directly(events: list[Event], delta: float) -> float:
    """ε by dp-accounting."""
    total = None
    for event in events:
        loss = loss_of(coarse(event))
        total = loss if total is None else total.compose(loss)
    assert total is not None
    return float(total.get_epsilon_for_delta(delta))


def coarse(event: Event) -> Event:
    """Skellam noise of a large deviation as the normal noise that it is all but."""
    match event:
        case Skellam(deviation=deviation, count=count) if deviation > 30:
            return Gaussian(deviation, count)
        case Composed(events=events, count=count):
            return Composed(tuple(coarse(each) for each in events), count)
    return event


def two_chances(deviation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers, and the chance of each under Skellam noise on 0 and on 1."""
    reach = int(12 * deviation + 60)
    k = np.arange(-reach, reach + 1)
    half = deviation**2 / 2
    return k, stats.skellam.pmf(k, half, half), stats.skellam.pmf(k - 1, half, half)


def least(of: Callable[[float], float], delta: float) -> float:
    """The least ε at which a falling δ(ε) is δ."""
    if of(0.0) <= delta:
        return 0.0
    return float(brentq(lambda x: of(x) - delta, 0.0, 100.0, xtol=1e-12))


def normal(mu: float) -> Callable[[float], float]:
    """δ(ε) of normal noise of 1/μ (Balle and Wang 2018)."""
    cdf = stats.norm.cdf
    return lambda x: float(cdf(mu / 2 - x / mu) - math.exp(x) * cdf(-mu / 2 - x / mu))


@pytest.mark.parametrize(("events", "delta", "golden"), GOLDEN, ids=range(len(GOLDEN)))
def test_the_ledgers_cost_is_what_dp_accounting_says(
    events: list[Event], delta: float, golden: float
) -> None:
    found = epsilon(events, delta)
    assert found == pytest.approx(golden, rel=5e-3)
    assert found == pytest.approx(directly(events, delta), rel=5e-3)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9, 1e-12])
@pytest.mark.parametrize(("noise", "count"), [(0.8, 1), (1.0, 3), (40.0, 1000), (300.0, 10**5)])
def test_normal_noise_costs_its_closed_form_and_not_less(
    noise: float, count: int, delta: float
) -> None:
    exact = least(normal(math.sqrt(count) / noise), delta)
    assert exact <= epsilon([Gaussian(noise, count)], delta) * (1 + 1e-9) <= exact * 1.0001


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("deviation", [0.3, 0.5, 1.0, 3.0, 20.0, 100.0])
def test_one_vector_of_counts_costs_its_direct_sum(deviation: float, delta: float) -> None:
    _, p, q = two_chances(deviation)
    exact = least(lambda x: float(np.maximum(0, q - math.exp(x) * p).sum()), delta)
    assert exact <= epsilon([Skellam(deviation)], delta) * (1 + 1e-9) <= exact * 1.001


@pytest.mark.parametrize("deviation", [1.0, 4.0, 12.0])
def test_two_vectors_of_counts_cost_their_direct_sum(deviation: float) -> None:
    _, p, q = two_chances(deviation)
    both, moved = np.outer(p, p), np.outer(q, q)
    exact = least(lambda x: float(np.maximum(0, moved - math.exp(x) * both).sum()), 1e-5)
    assert exact <= epsilon([Skellam(deviation, 2)], 1e-5) * (1 + 1e-9) <= exact * 1.001


def test_a_threshold_costs_its_delta_as_well() -> None:
    noise, alone, sets, delta = 6.0, 2e-6, 3, 1e-5
    left = 1 - (1 - delta) / (1 - alone) ** sets
    exact = least(normal(math.sqrt(sets) / noise), left)
    found = epsilon([Threshold(noise, alone, sets)], delta)
    assert exact <= found * (1 + 1e-9) <= exact * 1.001
    assert epsilon([Threshold(noise, 1e-5)], 1e-5 / 2) == math.inf


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(2.0, 4),
        SampledGaussian(1.0, 0.01, 1000),
        SampledGaussian(0.8, 0.05, 200),
        SampledGaussian(2.0, 0.02, 5000),
    ],
)
def test_other_accountants_agree(event: Event) -> None:
    found = epsilon([event], 1e-5)
    assert epsilon_prv([event], 1e-5) == pytest.approx(found, rel=0.02)
    assert found < epsilon_rdp([event], 1e-5) < 1.5 * found


def test_renyi_bounds_counts_from_above() -> None:
    for deviation in (3.0, 30.0):
        found = epsilon([Skellam(deviation, 10)], 1e-5)
        assert found < epsilon_rdp([Skellam(deviation, 10)], 1e-5) < 1.5 * found


def test_cross_checks_refuse_what_they_do_not_know() -> None:
    with pytest.raises(PrivacyError, match="Rényi DP knows no"):
        epsilon_rdp([Threshold(3.0, 1e-6)], 1e-5)
    for event in (Skellam(3.0), Threshold(3.0, 1e-6)):
        with pytest.raises(PrivacyError, match="normal noise only"):
            epsilon_prv([event], 1e-5)


def test_order_names_and_nesting_do_not_matter() -> None:
    counts, steps = Skellam(20.0, 6, "a"), SampledGaussian(1.0, 0.01, 50, "b")
    expected = epsilon([counts, steps], 1e-5)
    for same in (
        [steps, counts],
        [Skellam(20.0, 2), steps, Skellam(20.0, 4, "c")],
        [Composed((Skellam(20.0, 3), SampledGaussian(1.0, 0.01, 25)), 2)],
        [Composed((Composed((Skellam(20.0),), 6), steps))],
    ):
        assert epsilon(same, 1e-5) == expected
    assert epsilon([], 1e-5) == 0


EVENTS = st.one_of(
    st.builds(Gaussian, st.floats(0.5, 50), st.integers(1, 20)),
    st.builds(SampledGaussian, st.floats(0.6, 20), st.floats(1e-4, 1), st.integers(1, 40)),
    st.builds(Skellam, st.floats(0.6, 200), st.integers(1, 20)),
    st.builds(Threshold, st.floats(0.6, 50), st.floats(1e-12, 1e-7), st.integers(1, 5)),
)


@settings(max_examples=15)
@given(st.lists(EVENTS, min_size=1, max_size=3), EVENTS)
def test_more_releases_never_cost_less(events: list[Event], another: Event) -> None:
    # Two grids may round differently, by what they are allowed to.
    assert epsilon([*events, another], 1e-5) >= epsilon(events, 1e-5) * (1 - 5e-3)


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(1e-160),
        Gaussian(1e200),
        Gaussian(10**400),
        Gaussian(1.0, 10**12),
        Gaussian(10**6, 10**30),
        SampledGaussian(1e-2, 1e-6, 10**6),
        SampledGaussian(1e200, 1e-300, 10**8),
        SampledGaussian(1.0, 1e-3, 10**15),
        Skellam(1e-3),
        Skellam(1e6, 300),
        Skellam(1e300),
        Threshold(1e-3, 1e-6),
        Threshold(1.0, 1e-320),
        Composed((Composed((Gaussian(1.0),), 10**9),), 10**9),
    ],
)
def test_a_ledger_of_somebody_else_cannot_hang_or_break_the_accountant(event: Event) -> None:
    assert 0 <= epsilon([event], 1e-5) <= math.inf


def test_what_cannot_be_computed_counts_as_everything() -> None:
    assert epsilon([Gaussian(1e-9)], 1e-5) == math.inf
    assert epsilon([Skellam(50.0, 10**5)], 1e-12) == math.inf  # less than rounding may lose
    # Noise beyond what can be accounted for is accounted as less, so it never costs less.
    assert epsilon([Skellam(1e9)], 1e-6) == epsilon([Skellam(3e4)], 1e-6) > 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_delta_must_be_a_chance(delta: float) -> None:
    for accountant in (epsilon, epsilon_rdp, epsilon_prv):
        with pytest.raises(PrivacyError, match="delta must be above 0 and below 1"):
            accountant([Gaussian(1.0)], delta)


@settings(max_examples=8)
@given(
    target=st.floats(0.1, 20),
    delta=st.sampled_from([1e-7, 1e-5, 1e-4]),
    columns=st.integers(1, 60),
    n=st.integers(50, 10**5),
    batch=st.integers(20, 1000),
    epochs=st.integers(1, 100),
)
def test_calibrated_noise_never_passes_the_target(
    target: float, delta: float, columns: int, n: int, batch: int, epochs: int
) -> None:
    rate = min(batch / n, 1.0)
    steps = max(n // batch, 1) * epochs
    spent = (Gaussian(6 * math.sqrt(columns) / target, columns),)
    noise = calibrated(spent, SampledGaussian(1.0, rate, steps), target, delta)
    cost = epsilon([*spent, SampledGaussian(noise, rate, steps)], delta)
    assert cost <= target
    assert cost >= 0.98 * target or noise < 0.3


def test_no_noise_is_enough_for_a_promise_already_spent() -> None:
    with pytest.raises(PrivacyError, match=r"no noise is enough.*got ε = 4\.38 without.*of 1"):
        calibrated((Gaussian(1.0),), SampledGaussian(1.0, 0.01, 100), 1.0, 1e-5)


# --- events ---


@given(EVENTS, st.integers(1, 3))
def test_an_event_is_the_same_after_json(event: Event, count: int) -> None:
    for each in (event, Composed((event, event), count, "both")):
        assert event_from_dict(event_to_dict(each)) == each


GAUSSIAN = event_to_dict(Gaussian(1.0))
SAMPLED = event_to_dict(SampledGaussian(1.0, 0.1, 5))


@pytest.mark.parametrize(
    "values",
    [
        {},
        None,
        [],
        "gaussian",
        {"kind": "laplace", "scale": 1.0},
        {"kind": ["gaussian"]},
        {"kind": "gaussian"},
        GAUSSIAN | {"noise": 2.0},
        GAUSSIAN | {"noise_multiplier": 0},
        GAUSSIAN | {"noise_multiplier": -1.0},
        GAUSSIAN | {"noise_multiplier": math.nan},
        GAUSSIAN | {"noise_multiplier": math.inf},
        GAUSSIAN | {"noise_multiplier": "1.0"},
        GAUSSIAN | {"noise_multiplier": True},
        GAUSSIAN | {"noise_multiplier": None},
        GAUSSIAN | {"count": 0},
        GAUSSIAN | {"count": -3},
        GAUSSIAN | {"count": 1.5},
        GAUSSIAN | {"count": True},
        GAUSSIAN | {"purpose": ["a"]},
        SAMPLED | {"sample_rate": 0},
        SAMPLED | {"sample_rate": 1.01},
        SAMPLED | {"sample_rate": math.nan},
        SAMPLED | {"steps": 0},
        SAMPLED | {"sampling": "shuffled"},
        SAMPLED | {"sampling": "fixed"},
        SAMPLED | {"sampling": None},
        {"kind": "skellam", "deviation": 0.0},
        {"kind": "threshold", "deviation": 3.0, "delta": 1.0},
        {"kind": "threshold", "deviation": 3.0, "delta": 0.0},
        {"kind": "composed", "events": []},
        {"kind": "composed", "events": None},
        {"kind": "composed", "events": [{"kind": "laplace"}]},
        {"kind": "composed", "events": [GAUSSIAN], "count": 0},
    ],
)
def test_what_nothing_can_account_for_is_refused(values: object) -> None:
    with pytest.raises(PrivacyError) as error:
        event_from_dict(values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_an_event_nested_without_end_is_refused() -> None:
    values = GAUSSIAN
    for _ in range(5000):
        values = {"kind": "composed", "events": [values]}
    with pytest.raises(PrivacyError, match="nothing can account for"):
        event_from_dict(values)


def test_an_unknown_event_in_a_ledger_is_refused_and_not_left_out() -> None:
    with pytest.raises(PrivacyError, match="nothing can account for"):
        epsilon([Gaussian(1.0), "laplace"], 1e-5)  # type: ignore[list-item]
    with pytest.raises(PrivacyError, match="what is no event"):
        Composed(("laplace",))  # type: ignore[arg-type]
