"""Numbers with what is known of them: areas, shares and bounds with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import DataError

__all__ = [
    "Interval",
    "auc",
    "auc_interval",
    "epsilon_lower_bound",
    "proportion_interval",
    "roc_curve",
    "tpr_at_fpr",
]

Floats = npt.NDArray[np.float64]

DRAWS_AT_ONCE = 2**22
"""Weights of bootstrapped rows that are held at a time."""


@dataclass(frozen=True)
class Interval:
    """A number and the interval that holds the true one with the confidence asked for."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """As values of JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def auc(members: npt.ArrayLike, non_members: npt.ArrayLike) -> float:
    """Chance that a member scores higher than a non-member; ties count half.

    Args:
        members: (n,) scores.
        non_members: (m,) scores.

    Raises:
        DataError: There are none of either.
    """
    return _Places(members, non_members).area


def auc_interval(
    members: npt.ArrayLike,
    non_members: npt.ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 400,
    seed: int = 0,
    widening: float = 1.0,
) -> Interval:
    """The AUC with its bootstrap interval: members and non-members are drawn anew, each on its own.

    The interval is ± z standard deviations of the draws on the logit scale, so that it stays
    within [0, 1] and its tails need no more draws where the level is high. An AUC of 0 or 1
    leaves the bootstrap nothing to vary: the interval then ends where a row on the wrong side
    would have been likely to be seen, as with the "rule of three".

    Args:
        members: (n,) scores.
        non_members: (m,) scores.
        level: Confidence, in (0, 1).
        draws: Number of bootstrap samples.
        seed: Decides them.
        widening: Factor on their standard deviation, for what they do not vary.

    Raises:
        DataError: There are no members or no non-members.
    """
    from scipy import stats

    place = _Places(members, non_members)
    value = place.area
    rng = np.random.default_rng(np.random.SeedSequence([seed, place.n, place.m]))
    at_once = max(1, DRAWS_AT_ONCE // (place.n + place.m))
    areas = np.concatenate(
        [
            place.areas(_drawn_anew(place.n, size, rng), _drawn_anew(place.m, size, rng))
            for size in np.diff([*range(0, draws, at_once), draws])
        ]
    )
    if value in (0.0, 1.0):
        slack = -math.log((1 - level) / 2) / min(place.n, place.m)
        slack = min(1.0, slack)
        return Interval(value, value * (1 - slack), value + (1 - value) * slack)
    z = float(stats.norm.ppf((1 + level) / 2))
    spread = widening * z * float(areas.std(ddof=1)) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    return Interval(value, _expit(logit - spread), _expit(logit + spread))


def proportion_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """A share with its exact binomial interval (Clopper & Pearson 1934).

    Args:
        successes: How many trials succeeded.
        trials: How many there were.
        level: Confidence, in (0, 1).

    Raises:
        DataError: There were no trials.
    """
    from scipy import stats

    if trials < 1:
        raise DataError("a share of no trials has no interval", got="0 trials")
    tail, k, n = (1 - level) / 2, successes, trials
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0
    high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Interval(k / n, low, high)


def tpr_at_fpr(
    members: npt.ArrayLike, non_members: npt.ArrayLike, fpr: float, *, level: float = 0.95
) -> Interval | None:
    """Share of members found when at most a share fpr of non-members is taken for members.

    The threshold is the smallest score that so few non-members exceed; ties with it are not found.
    The interval is that of members at this threshold. The threshold is itself chosen by these
    non-members: of others, on average (k + 1) / (m + 1) exceed it, with k of m allowed, so that the
    interval alone does not say whether a rate is above chance; `judge` does.

    Args:
        members: (n,) scores.
        non_members: (m,) scores.
        fpr: False positive rate, in (0, 1).
        level: Confidence of the Clopper-Pearson interval.

    Returns:
        None where there are fewer than 1 / fpr non-members: no such rate can be seen then.
    """
    scores, others = _scores(members, non_members)
    allowed = math.floor(fpr * len(others) + 1e-9)
    if allowed < 1:
        return None
    threshold = np.sort(others)[::-1][allowed]
    return proportion_interval(int((scores > threshold).sum()), len(scores), level=level)


def epsilon_lower_bound(
    members: npt.ArrayLike,
    non_members: npt.ArrayLike,
    *,
    delta: float = 1e-5,
    level: float = 0.95,
    seed: int = 0,
) -> float:
    """An ε that the mechanism behind the scores exceeds, with the confidence asked for.

    (ε, δ)-DP allows TPR ≤ e^ε FPR + δ for every test (Kairouz et al. 2015, theorem 2.1), so
    ε ≥ log((TPR - δ) / FPR). The threshold and its direction are chosen on one half of the rows;
    on the other half the rates take their worst ends of Clopper-Pearson intervals, each with half
    of what may go wrong.

    That takes rows for independent, and members for drawn by chance: it is as strong as the claim
    that nothing but training tells members from non-members. `one_run` needs no such claim.

    Args:
        members: (n,) scores.
        non_members: (m,) scores.
        delta: δ of the claim, in [0, 1).
        level: Confidence of the bound, in (0, 1).
        seed: Decides which rows choose the threshold.

    Returns:
        The bound, at least 0.

    Raises:
        DataError: There are no members or no non-members.
    """
    scores, others = _scores(members, non_members)
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(scores), len(others)]))
    (first, second), (first_0, second_0) = (
        np.split(rng.permutation(side), [len(side) // 2]) for side in (scores, others)
    )
    if not len(first) or not len(first_0):
        return 0.0
    best, choice = -math.inf, (math.inf, 1.0)
    for sign in (1.0, -1.0):
        for threshold in np.unique(np.quantile(sign * first_0, np.linspace(0, 1, 101))):
            bound = _ratio_bound(sign * first > threshold, sign * first_0 > threshold, delta, level)
            if bound > best:
                best, choice = bound, (float(threshold), sign)
    threshold, sign = choice
    return max(
        0.0, _ratio_bound(sign * second > threshold, sign * second_0 > threshold, delta, level)
    )


def _ratio_bound(
    hits: npt.NDArray[np.bool_], alarms: npt.NDArray[np.bool_], delta: float, level: float
) -> float:
    """log((TPR - δ) / FPR) at the worst ends of both intervals."""
    low = proportion_interval(int(hits.sum()), len(hits), level=level).low
    high = proportion_interval(int(alarms.sum()), len(alarms), level=level).high
    return math.log(max(low - delta, 1e-300) / high)


def roc_curve(members: npt.ArrayLike, non_members: npt.ArrayLike, fprs: npt.ArrayLike) -> Floats:
    """True positive rates (k,) at false positive rates (k,), as `tpr_at_fpr` counts them."""
    scores, others = _scores(members, non_members)
    falling = np.append(np.sort(others)[::-1], -np.inf)
    allowed = np.floor(np.asarray(fprs, dtype=np.float64) * len(others) + 1e-9).astype(np.int64)
    rising = np.sort(scores)
    above = len(rising) - np.searchsorted(rising, falling[allowed], side="right")
    return np.asarray(above / len(scores))


class _Places:
    """Where scores stand among each other, for the AUC of any weights of theirs."""

    def __init__(self, members: npt.ArrayLike, non_members: npt.ArrayLike) -> None:
        scores, others = _scores(members, non_members)
        self.n, self.m = len(scores), len(others)
        distinct, places = np.unique(np.concatenate([scores, others]), return_inverse=True)
        self._distinct, places = len(distinct), places.reshape(-1)
        self._member_order = np.argsort(places[: self.n], kind="stable")
        self._other_order = np.argsort(places[self.n :], kind="stable")
        self._ends = np.searchsorted(
            places[: self.n][self._member_order], np.arange(self._distinct), side="right"
        )
        self._other_ends = np.searchsorted(
            places[self.n :][self._other_order], np.arange(self._distinct), side="right"
        )

    @property
    def area(self) -> float:
        """The AUC of the scores as they are."""
        return float(self.areas(np.ones((1, self.n)), np.ones((1, self.m)))[0])

    def areas(self, weights: npt.NDArray[Any], others: npt.NDArray[Any]) -> Floats:
        """AUCs (b,) where members weigh (b, n) and non-members (b, m)."""
        at = _counts(weights[:, self._member_order], self._ends)
        at_others = _counts(others[:, self._other_order], self._other_ends)
        below = np.cumsum(at_others, 1) - at_others
        won = (at * (below + at_others / 2)).sum(1)
        return np.asarray(won / (weights.sum(1) * others.sum(1)))


def _drawn_anew(n: int, draws: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """How often each of n rows is among n drawn with replacement: (draws, n)."""
    drawn = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n)


def _counts(weights: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> Floats:
    """Sums of sorted weights (b, n) of every distinct score, given where each ends."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return np.diff(sums[:, ends], axis=1, prepend=0.0)


def _scores(members: npt.ArrayLike, non_members: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64; infinite scores are the largest or smallest numbers."""
    found = [np.nan_to_num(np.asarray(s, dtype=np.float64)) for s in (members, non_members)]
    if not all(map(len, found)):
        raise DataError(
            "attacks need members and non-members",
            got=f"{len(found[0])} and {len(found[1])} of them",
        )
    return found[0], found[1]


def _expit(x: float) -> float:
    """1 / (1 + e^-x), for any x."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
