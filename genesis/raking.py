"""Weights of rows with which their categories are as frequent as they should be.

Iterative proportional fitting (Deming and Stephan 1940) with bounded weights (Deville and Särndal
1992, "Calibration estimators in survey sampling", case 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Margin", "raked", "resampled"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SWEEPS = 50
CLOSE = 1e-4  # difference of a share from the wanted one that needs no further sweep
LEAST = 1e-6  # smallest weight: cells that contradict each other leave some rows all the same
_TRIMS = 10


@dataclass(frozen=True)
class Margin:
    """A partition of rows into cells, and how the rows should divide among them.

    Args:
        cell_of: (n,) number of each row's cell.
        counts: (k,) wanted size of every cell, in any unit; none below 0.
    """

    cell_of: npt.NDArray[np.integer]
    counts: Floats


def raked(margins: Sequence[Margin], rows: int, *, most: float) -> Floats:
    """Weights of rows with which every cell is as large as it should be, or nearly so.

    The cells of one margin after the other are scaled until all fit. A cell without rows stays
    empty. Where only weights above the bound would do, a cell stays too small: a few rows that
    stood for many would bring their other columns with them.

    Args:
        margins: What should hold.
        rows: Number of rows.
        most: Largest weight, above 1.

    Returns:
        (rows,) weights of mean 1, or as near to it as the bound allows.
    """
    weights = np.ones(rows)
    for _ in range(SWEEPS if rows else 0):
        worst = 0.0
        for margin in margins:
            size = np.bincount(margin.cell_of, weights, minlength=len(margin.counts))
            wanted = np.where(size > 0, margin.counts, 0.0)
            if not wanted.any():
                continue
            wanted *= size.sum() / wanted.sum()
            worst = max(worst, float(np.abs(size - wanted).max()) / rows)
            factor = np.divide(wanted, size, out=np.ones_like(size), where=size > 0)
            weights *= factor[margin.cell_of]
        weights = _bounded(weights, most)
        if worst < CLOSE:
            break
    return weights


def resampled(weights: Floats, n: int, rng: np.random.Generator) -> Integers:
    """Numbers of n rows in random order, each drawn in proportion to its weight.

    Systematic sampling: a row whose weight is w comes n w / Σw times, rounded down or up.
    """
    if not n:
        return np.empty(0, dtype=np.int64)
    # In a random order: points a step apart would keep time with what repeats among the rows.
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order])
    points = (np.arange(n) + rng.random()) * (ends[-1] / n)
    place = np.searchsorted(ends, points, side="right").clip(max=len(weights) - 1)
    rows: Integers = order[place].astype(np.int64)
    return rows


def _bounded(weights: Floats, most: float) -> Floats:
    """Weights of mean 1, none above a bound: what is cut off goes to the other rows."""
    for _ in range(_TRIMS):
        weights = weights / weights.mean()
        if weights.max() <= most:
            break
        weights = np.clip(weights, LEAST, most)
    bounded: Floats = np.clip(weights, LEAST, most)
    return bounded
