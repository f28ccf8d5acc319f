"""The likeliest counts behind noisy ones.

All of this is arithmetic on numbers that were released, so it costs no privacy. Every count came
with independent noise of a known variance; counts are not negative, and those of a partition add
up to a total.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = [
    "FAINT",
    "averaged",
    "denoised",
    "last_occupied",
    "occupied",
    "on_simplex",
    "quantile",
    "shared_out",
    "whole",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

FALSE_ALARM = 0.005  # chance that noise alone makes any of a set of empty cells look occupied
FAINT = 1.645  # deviations above which rows are likelier than noise, where rows are near
SHRINKAGE = 2.0  # of the difference of two halves; 1 is James and Stein's, for noise in the mean


def quantile(cells: int = 1, chance: float = FALSE_ALARM) -> float:
    """What noise exceeds, in standard deviations, in any of so many empty cells, by that chance."""
    return NormalDist().inv_cdf(1 - chance / max(cells, 1))


def occupied(
    counts: npt.NDArray[np.number], deviation: float, chance: float = FALSE_ALARM
) -> Booleans:
    """Which cells are not empty: hardly ever, by noise alone, any of them.

    Args:
        counts: (m,) noisy counts.
        deviation: Standard deviation of the noise.
        chance: How often noise alone may make one of empty cells look occupied.
    """
    return np.asarray(counts > deviation * quantile(len(counts), chance))


def last_occupied(counts: Floats, variances: Floats) -> int:
    """The last of some bins side by side that is not empty, as far as noisy counts tell.

    Half after half: the right one if it seems occupied, else the left one if that does, else the
    one with more rows. One bin's count may say nothing where that of a whole half does.

    Args:
        counts: (2**b,) noisy counts, of bins that are not all empty.
        variances: (2**b,) of their noise; 0 where there can be no rows.
    """
    first, last = 0, len(counts)
    while last - first > 1:
        middle = (first + last) // 2
        left, right = float(counts[first:middle].sum()), float(counts[middle:last].sum())
        noise = np.sqrt([variances[first:middle].sum(), variances[middle:last].sum()])
        seems_right = right > FAINT * noise[1] or (right > left and left <= FAINT * noise[0])
        if noise[1] and (seems_right or not noise[0]):
            first = middle
        else:
            last = middle
    return first


def denoised(counts: npt.NDArray[np.number], total: float | None = None) -> Integers:
    """Whole counts, none negative, that add up: the nearest point of the simplex, rounded.

    Args:
        counts: (m,) noisy counts of a partition, all of the same deviation.
        total: What they add up to; their own sum if it is not known.

    Returns:
        (m,) what is as it was where counts are without noise and add up.
    """
    total = max(float(counts.sum() if total is None else total), 0.0)
    return whole(on_simplex(counts.astype(np.float64), total))


def on_simplex(counts: Floats, total: float, variances: Floats | None = None) -> Floats:
    """The x >= 0 with sum `total` that minimises sum (x - counts)^2 / variances.

    x = max(counts - t variances, 0); as a function of t its sum is piecewise linear and falling.

    Args:
        counts: (m,) noisy counts.
        total: At least 0.
        variances: (m,) of their noise, above 0; all the same if not given.
    """
    if not len(counts):
        return counts
    variances = np.ones(len(counts)) if variances is None else variances
    order = np.argsort(-counts / variances, kind="stable")
    t = (np.cumsum(counts[order]) - total) / np.cumsum(variances[order])
    within = np.flatnonzero(counts[order] >= t * variances[order])
    t_last = t[within[-1]] if len(within) else t[0]
    nearest: Floats = np.maximum(counts - t_last * variances, 0.0)
    return nearest


def whole(values: Floats) -> Integers:
    """Whole numbers whose running sums are those of `values` rounded: what is even stays even."""
    return np.diff(np.rint(np.cumsum(values)), prepend=0.0).astype(np.int64)


def averaged(
    one: Floats, one_variance: Floats, other: Floats, other_variance: Floats
) -> tuple[Floats, Floats]:
    """Two measurements of the same made one, each by its precision; and the variance of it."""
    share = other_variance / (one_variance + other_variance)
    return one * share + other * (1 - share), one_variance * share


def shared_out(totals: Floats, counts: Floats, variances: Floats, room: Floats) -> Floats:
    """How totals are divided among bins side by side, as far as noisy counts tell.

    First come bins that stand out from an even spread: they have what was counted. The rest is
    halved again and again; the left half's surplus z over its share of the room, with variance v,
    is shrunk to z (1 - 2 v / z²)+ (after James and Stein 1961). So what noise could have done is
    spread evenly, and detail is kept where there are rows enough to show it.

    Args:
        totals: (k,) rows of each parent, at least 0.
        counts: (k, 2**b) noisy counts of its bins.
        variances: (k, 2**b) of their noise, above 0.
        room: (k, 2**b) how much each bin holds where rows are spread evenly; 0 where none can be.

    Returns:
        (k, 2**b) none negative; they add up to the totals of all parents that have room.
    """
    open_to = room > 0
    space = np.maximum(room.sum(axis=1, keepdims=True), 1e-300)
    even = totals[:, None] * room / space
    limit = quantile(int(open_to.sum()))
    stands_out = open_to & (counts - even > limit * np.sqrt(variances))
    left_over = totals - np.where(stands_out, counts, 0.0).sum(axis=1)
    shared = np.where(stands_out, counts, 0.0)
    for i in np.flatnonzero((left_over < 0) | ~(open_to & ~stands_out).any(axis=1)):
        some = stands_out[i]
        shared[i, some] = on_simplex(counts[i, some], totals[i], variances[i, some])
    rest = open_to & ~stands_out
    masked = (np.where(rest, each, 0.0) for each in (counts, variances, room))
    return shared + _halved(np.maximum(left_over, 0.0), *masked)


def _halved(totals: Floats, counts: Floats, variances: Floats, room: Floats) -> Floats:
    """Totals divided by halves, down to single bins; nothing where there is no room at all."""
    levels = [(counts, variances, room)]
    while levels[-1][0].shape[1] > 1:
        counts, variances, room = (a[:, ::2] + a[:, 1::2] for a in levels[-1])
        levels.append((counts, variances, room))
    shared = np.where(levels.pop()[2] > 0, totals[:, None], 0.0)
    for counts, variances, room in reversed(levels):
        both = np.maximum(room[:, ::2] + room[:, 1::2], 1e-300)
        p = room[:, ::2] / both
        surplus = (1 - p) * counts[:, ::2] - p * counts[:, 1::2]
        variance = (1 - p) ** 2 * variances[:, ::2] + p**2 * variances[:, 1::2]
        surplus *= np.maximum(1 - SHRINKAGE * variance / np.maximum(surplus**2, 1e-300), 0.0)
        left = np.clip(p * shared + surplus, 0.0, shared)
        shared = np.stack([left, shared - left], axis=2).reshape(len(totals), -1)
    return shared
