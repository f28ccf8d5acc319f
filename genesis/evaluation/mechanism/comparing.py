"""How far apart results are, how large their noise is, and how batches are drawn."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from genesis.codes import Codes
from genesis.evaluation.mechanism.findings import TOLERANCE, Batches, Canary, NoiseScale
from genesis.evaluation.mechanism.records import Chosen
from genesis.evaluation.mechanism.shipped import BATCH, Floats, Step

__all__ = ["Bools", "batches_of", "compared", "moved", "noise_scale"]

Bools = npt.NDArray[np.bool_]

COPIES = 64
"""Records, all alike, of which batches are drawn."""

COUNTED = 12
"""Batches whose records are counted by the sum of their gradients."""


def compared(
    chosen: Chosen,
    with_it: Floats,
    without: Floats,
    noisy: Bools,
    tail: float,
) -> Canary:
    """How far apart (trials, P) sums with and without a canary are, by those coordinates."""
    from scipy import stats

    n, change = len(without), np.where(noisy, chosen.change, 0.0)
    direction = change / max(float(np.linalg.norm(change)), 1e-300)
    ours, theirs = with_it @ direction, without @ direction
    spread = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    apart = float(ours.mean() - theirs.mean())
    mu = apart / spread if spread else math.copysign(math.inf, apart) if apart else 0.0
    # Cohen's d: the means' part, and that of the standard deviation below them.
    error = math.sqrt(2 / n + mu**2 / (4 * n)) if math.isfinite(mu) else 0.0
    slack = float(stats.norm.isf(tail / 2)) * error
    sensitivity = math.inf if chosen.fails else float(np.linalg.norm(chosen.change))
    return Canary(chosen.kind, sensitivity, mu, mu - slack, mu + slack, n)


def noise_scale(noise: Floats, freedom: int, tail: float) -> NoiseScale:
    """How large noise (trials, p) is, in units of what was promised.

    Every coordinate and every step is looked at by itself: noise that is the same in all steps has
    the right size on the whole, and so has one number that is added to all coordinates.
    """
    from scipy import stats

    trials, p = noise.shape
    squares = noise**2
    total = float(squares.sum())
    if not total:
        return NoiseScale(0.0, 0.0, 0.0, even=True, trials=trials)
    chi = stats.chi2(freedom * p)
    scale = math.sqrt(total / (freedom * p))
    low, high = (math.sqrt(total / float(chi.isf(share))) for share in (tail / 2, 1 - tail / 2))
    squares /= scale**2
    of_coordinates = stats.chi2(freedom).cdf(squares.sum(0))
    of_steps = stats.chi2(p).cdf(squares.sum(1) * (trials / freedom))
    even = all(
        tail / len(each) < 2 * min(float(each.min()), 1 - float(each.max()))
        for each in (of_coordinates, of_steps)
    )
    return NoiseScale(scale, low, high, even, trials)


def batches_of(step: Step, row: Codes, noisy: Bools, steps: int, tail: float) -> Batches:
    """Draw batches of records that are all like one, and count who came."""
    from scipy import stats

    same = row.take(np.zeros(COPIES, dtype=np.int64))
    rate = BATCH / COPIES
    drawn = step.batch(same, quiet=False, rate=rate, steps=steps)[1]
    joined = np.zeros((steps, COPIES))
    for seen, records in zip(joined, drawn, strict=False):
        np.add.at(seen, records.numpy(), 1)
    variance = rate * (1 - rate)
    sizes, records, total = joined.sum(1), joined.sum(0), float(joined.sum())
    of_sizes = ((sizes - COPIES * rate) ** 2 / (COPIES * variance)).sum()
    of_records = ((records - steps * rate) ** 2 / (steps * variance)).sum()
    chances = [
        stats.chi2(steps).cdf(of_sizes),
        stats.chi2(COPIES).cdf(of_records),
        stats.norm.cdf((total - joined.size * rate) / math.sqrt(joined.size * variance)),
    ]
    poisson = len(drawn) == steps and joined.max() <= 1
    return Batches(
        steps=steps,
        sizes=float(of_sizes / steps),
        records=float(of_records / COPIES),
        share=total / (joined.size * rate),
        poisson=bool(poisson and all(tail < 2 * min(chance, 1 - chance) for chance in chances)),
        counted=_counted(step, row, same, rate, noisy),
    )


def _counted(step: Step, row: Codes, same: Codes, rate: float, noisy: Bools) -> bool:
    """Whether k records that are alike, in a batch of any size, make k times the sum of one."""
    one = step.sum(row, quiet=True)[noisy]
    for _ in range(COUNTED):
        total, drawn = step.batch(same, quiet=True, rate=rate, steps=1)
        k = len(drawn[0]) if len(drawn) == 1 else 0
        allowed = TOLERANCE * max(k, 1) * max(float(np.linalg.norm(one)), 1)
        if np.linalg.norm(total[noisy] - k * one) > allowed:
            return False
    return True


def moved(sums: Floats, others: Floats, still: Bools) -> int:
    """In how many coordinates without noise (trials, P) sums over two tables differ."""
    return int((sums[:, still] != others[0, still]).any(0).sum())
