"""What a ledger's events cost together, by Google's dp-accounting.

ε is claimed from privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022), rounded
up on a grid, so it is an upper bound. Noise that clients add together to vectors is known by its
Rényi divergence alone: where there is any, ε of all releases comes from Rényi DP (Mironov 2017),
also an upper bound, and some percent above. For the others, that and Opacus' numerical accountant
(Gopi et al. 2021) compute the same by other means and are here to be compared with. The central
limit theorem of Gaussian DP is not: it claims too little for few steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from genesis.errors import PrivacyError
from genesis.privacy.events import (
    Composed,
    Event,
    Gaussian,
    SampledGaussian,
    Skellam,
    SkellamSum,
    Threshold,
    repeated,
    times,
)

__all__ = ["epsilon", "epsilon_prv", "epsilon_rdp"]

_STEPS = 2_500
"""Steps of the grid that the loss of one release reaches over: more of them claim less, by less
than 0.5 % here, and take longer."""

_MOST_LOSS = 300.0
_MOST_TIMES = 10**8
"""Beyond a mean loss, or a number of releases, like these no promise means anything."""

_MOST_DEVIATION = 3e4
"""Of noise; more is accounted as this much, with which its loss can still be computed."""

_ROUNDING = 1e-16
"""What a Fourier transform may lose of δ for every release that it composes."""

_TAIL = 1e-15
"""Chance of noise so large that it is counted as if all were lost."""


def epsilon(events: Sequence[Event], delta: float) -> float:
    """The least ε for which all events together are (ε, δ)-differentially private.

    Args:
        events: In any order.
        delta: In (0, 1).

    Returns:
        0 where nothing was released, infinity where δ is too small for any ε.
    """
    _check_delta(delta)
    if not events:
        return 0.0
    flat = tuple(sorted(_flat(events), key=repr))
    if any(isinstance(event, SkellamSum) for event in flat):
        return _epsilon_renyi(flat, delta)
    return _epsilon(flat, delta)


def epsilon_rdp(events: Sequence[Event], delta: float) -> float:
    """The same by Rényi differential privacy: an upper bound, looser than `epsilon`.

    Raises:
        PrivacyError: There are thresholded histograms, which have no Rényi guarantee.
    """
    _check_delta(delta)
    flat = _flat(events)
    if any(isinstance(event, Threshold) for event in flat):
        raise PrivacyError("Rényi DP knows no thresholded histograms", do="use epsilon")
    return _renyi(flat, delta)


def _renyi(events: Sequence[Event], delta: float) -> float:
    """ε by Rényi DP of events that have it."""
    from dp_accounting import rdp

    whole = any(isinstance(event, SkellamSum) for event in events)
    accountant = rdp.RdpAccountant(_whole_orders() if whole else _orders())
    for event in events:
        accountant.compose(_dp_event(event))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=4096)
def _epsilon_renyi(events: tuple[Event, ...], delta: float) -> float:
    """ε by Rényi DP of any events.

    A thresholded histogram is a Gaussian release, but for a chance that is taken from δ.
    """
    if sum(map(_mean_loss, events)) > _MOST_LOSS or max(map(times, events)) > _MOST_TIMES:
        return math.inf
    smooth: list[Event] = []
    for event in events:
        if isinstance(event, Threshold):
            delta -= event.count * event.delta
            event = Gaussian(event.deviation, event.count)
        smooth.append(event)
    return _renyi(smooth, delta) if delta > 0 else math.inf


def epsilon_prv(events: Sequence[Event], delta: float) -> float:
    """The same by Opacus' accountant of privacy loss random variables.

    Raises:
        PrivacyError: There are other events than Gaussian ones, which is all it knows.
    """
    import numpy as np
    from opacus.accountants import PRVAccountant

    _check_delta(delta)
    accountant = PRVAccountant()
    for event in _flat(events):
        match event:
            case Gaussian():
                accountant.history.append((event.noise_multiplier, 1.0, event.count))
            case SampledGaussian():
                step = event.noise_multiplier, event.sample_rate, event.steps
                accountant.history.append(step)
            case _:
                raise PrivacyError("Opacus accounts for normal noise only", do="use epsilon")
    with np.errstate(divide="ignore"):  # of a sample of all, it takes the logarithm of 1 - q
        return float(accountant.get_epsilon(delta))


def _flat(events: Sequence[Event]) -> list[Event]:
    """Events without compositions, those that differ in purpose and number alone made one.

    Raises:
        PrivacyError: One is unknown.
    """
    counts: dict[Event, int] = {}
    for event in events:
        match event:
            case Composed():
                inner, repetitions = _flat(event.events), event.count
            case Gaussian() | SampledGaussian() | Skellam() | SkellamSum() | Threshold():
                inner, repetitions = [event], 1
            case _:
                raise PrivacyError("a release that nothing can account for", got=repr(event))
        for each in inner:
            single = repeated(each, 1, purpose="")
            counts[single] = counts.get(single, 0) + repetitions * times(each)
    return [repeated(event, count) for event, count in counts.items()]


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    """ε of events that are all different, on a grid that suits them."""
    mean = sum(_mean_loss(event) for event in events)
    if mean > _MOST_LOSS or max(map(times, events)) > _MOST_TIMES:
        return math.inf  # which costs nothing to say; a ledger may be somebody else's
    # A loss whose mean is m has a variance of about 2m.
    together = mean + 8 * math.sqrt(2 * mean)
    interval = _rounded(max(_span(events), together / 40) / _STEPS)
    composed = None
    for event in events:
        loss = _loss(event, interval)
        composed = loss if composed is None else composed.compose(loss)
    assert composed is not None
    composed_times = sum(times(event) for event in events if not isinstance(event, Gaussian))
    left = delta - _ROUNDING * composed_times
    return float(composed.get_epsilon_for_delta(left)) if left > 0 else math.inf


def _rounded(value: float) -> float:
    """1, 2 or 5 times a power of ten, so that like releases share a grid and what is cached."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= value * (1 + 1e-9))


def _deviation(event: Event) -> float:
    """Standard deviation of the noise over the most that one unit changes, or less."""
    match event:
        case Gaussian() | SampledGaussian() | SkellamSum():
            deviation = event.noise_multiplier
        case Skellam() | Threshold():
            deviation = event.deviation
        case _:
            raise PrivacyError("a release that nothing can account for", got=repr(event))
    return float(min(deviation, _MOST_DEVIATION))


def _mean_loss(event: Event) -> float:
    """At least the mean privacy loss of all releases of an event, infinite for next to no noise.

    It is 1 / 2σ² for normal noise. Of samples it is at most q / 2σ², as it is convex, and at most
    ln(1 + χ²), where χ² = q² (exp(1/σ²) - 1).
    """
    if _deviation(event) < 1e-3:
        return math.inf
    square = 1 / _deviation(event) ** 2
    if not isinstance(event, SampledGaussian):
        return times(event) * square / 2
    rate = event.sample_rate
    return times(event) * min(
        rate * square / 2, math.log1p(rate**2 * math.expm1(square)) if square < 500 else math.inf
    )


def _span(events: Sequence[Event]) -> float:
    """About how far the privacy loss of one release reaches: the length of its distribution."""
    least = min(
        _deviation(event) / (math.sqrt(event.count) if isinstance(event, Gaussian) else 1)
        for event in events
    )
    return 0.5 / least**2 + 8 / least


@lru_cache(maxsize=512)
def _loss(event: Event, interval: float) -> Any:
    """The privacy loss distribution of all releases of an event."""
    if isinstance(event, Gaussian):  # n of them are one with noise of 1/√n, exactly
        multiplier = _deviation(event) / math.sqrt(event.count)
        return _single_loss(Gaussian(multiplier), interval)
    loss = _single_loss(repeated(event, 1), interval)
    return loss.self_compose(times(event)) if times(event) > 1 else loss


@lru_cache(maxsize=512)
def _single_loss(event: Event, interval: float) -> Any:
    """The privacy loss distribution of one release."""
    from dp_accounting.pld import common, privacy_loss_distribution

    deviation = _deviation(event)
    match event:
        case Gaussian():
            return privacy_loss_distribution.from_gaussian_mechanism(
                deviation, value_discretization_interval=interval
            )
        case SampledGaussian():
            return privacy_loss_distribution.from_gaussian_mechanism(
                deviation,
                sampling_prob=event.sample_rate,
                value_discretization_interval=interval,
            )
        case Skellam():
            return _skellam_loss(deviation, interval)
        case Threshold():
            # The labels that pass are a Gaussian release, but for what one unit alone has.
            loss = privacy_loss_distribution.from_gaussian_mechanism(
                deviation, value_discretization_interval=interval
            )
            alone = common.DifferentialPrivacyParameters(0.0, event.delta)
            return loss.compose(
                privacy_loss_distribution.from_privacy_parameters(
                    alone, value_discretization_interval=interval
                )
            )
    raise PrivacyError("a release that nothing can account for", got=repr(event))


def _skellam_loss(deviation: float, interval: float) -> Any:
    """The loss between Skellam noise and the same moved by one: one count, changed by one unit.

    P(X = k) = exp(-σ²) I_k(σ²) for a difference of two Poisson numbers of mean σ²/2 each. The loss
    l(k) = ln P(X = k - 1) / P(X = k) grows with k, so that for the first j with l(j) > ε

        δ(ε) = Σ max(0, P(X = k - 1) - e^ε P(X = k)) = P(X = j - 1) - (e^ε - 1) P(X >= j).

    The grid's points are connected (Doroshenko et al. 2022): of many releases, losses that are
    each rounded up would claim a tenth too much.
    """
    import numpy as np
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution
    from scipy.special import ive

    # Bernstein: P(|X| > t) <= 2 exp(-t² / 2(σ² + t / 3)).
    reach = -math.log(_TAIL / 2)
    largest = math.ceil(reach / 3 + math.sqrt((reach / 3) ** 2 + 2 * deviation**2 * reach)) + 1
    half = ive(np.arange(largest + 1), deviation**2)
    half = half[half > 1e-300]
    chances = np.concatenate([half[:0:-1], half])  # of k = -L, …, L
    above = np.cumsum(chances[::-1])[::-1]  # P(k <= X <= L)
    above = np.append(above, 0.0)
    loss = np.maximum.accumulate(-np.diff(np.log(chances)))  # of k = -L + 1, …, L
    most = math.ceil(loss[-1] / interval)
    grid = np.arange(-most, most + 1) * interval
    j = np.searchsorted(loss, grid, side="right") + 1
    deltas = np.clip(chances[j - 1] - np.expm1(grid) * above[j] + _TAIL, 0.0, 1.0)
    return privacy_loss_distribution.PrivacyLossDistribution(
        pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
            interval, -most, most, np.minimum.accumulate(deltas)
        )
    )


def _dp_event(event: Event) -> Any:
    """An event in the words of dp-accounting, for Rényi DP."""
    import dp_accounting as dp

    match event:
        case Gaussian():
            return dp.SelfComposedDpEvent(dp.GaussianDpEvent(event.noise_multiplier), event.count)
        case SampledGaussian():
            step = dp.PoissonSampledDpEvent(
                event.sample_rate, dp.GaussianDpEvent(event.noise_multiplier)
            )
            return dp.SelfComposedDpEvent(step, event.steps)
        case Skellam():
            return dp.SelfComposedDpEvent(dp.ZCDpEvent(_skellam_rho(event.deviation)), event.count)
        case SkellamSum():
            return dp.SelfComposedDpEvent(_skellam_sum(event), event.count)
    raise PrivacyError("a release that nothing can account for", got=repr(event))


def _skellam_rho(deviation: float) -> float:
    """zCDP of Skellam noise on one count, from Agarwal et al. 2021, theorem 3.5.

    ε(α) <= α / 2σ² + min((2α - 1 + 6) / 4σ⁴, 3 / 2σ²), and with α >= 1 the first of the two is at
    most α · 7 / 4σ⁴.
    """
    return 0.5 / deviation**2 + 1.75 / deviation**4


def _skellam_sum(event: SkellamSum) -> Any:
    """ρ α + ξ, at least the Rényi divergence of a vector under Skellam noise of variance μ.

    Agarwal et al. 2021, theorem 3.5, of whole orders α >= 2::

        ε(α) <= α Δ₂² / 2μ + min(((2α - 1) Δ₂² + 6 Δ₁) / 4μ², 3 Δ₁ / 2μ)

    Both in the minimum are lines, of which this takes the one that is lower at α = 2: next to the
    normal noise's line it is small wherever noise hides anything.
    """
    import dp_accounting as dp

    square = event.l2**2
    variance = event.noise_multiplier**2 * square
    slope = square / (2 * variance**2)
    first = max(6 * event.l1 - square, 0.0) / (4 * variance**2)
    second = 1.5 * event.l1 / variance
    gaussian = square / (2 * variance)
    if 2 * slope + first <= second:
        return dp.ZCDpEvent(gaussian + slope, first)
    return dp.ZCDpEvent(gaussian, second)


def _whole_orders() -> list[int]:
    """Whole orders, about as dense in the range that matters for ε between 0.01 and 100."""
    return [*range(2, 64), *(round(64 * 1.1**i) for i in range(52))]  # up to about 8,000


def _orders() -> list[float]:
    """Orders of Rényi divergence, dense enough for ε between 0.01 and 100."""
    return (
        [1 + x / 10.0 for x in range(1, 100)] + list(range(11, 64)) + [2.0**i for i in range(6, 16)]
    )


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError("delta must be above 0 and below 1", got=repr(delta))
