"""Tables whose leak is known: what a score says about them shows what it says at all.

Four of them leak: a copier, a copier that adds noise, fresh rows with a few members among them, and
a copier that re-codes every column. Two do not: fresh rows, and fresh rows with every column
shuffled.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from genesis.evaluation.rows import Rows

__all__ = [
    "HARMLESS",
    "LEAKING",
    "control",
    "copier",
    "fresh",
    "leak",
    "noisy_copier",
    "recoded",
    "shuffled",
]

LEAKING = ("copier", "noisy_copier", "leak", "recoded")
"""Controls that give members away: attacks must find them."""

HARMLESS = ("fresh", "shuffled")
"""Controls that hold nothing about members: there is nothing to find."""

NOISE = 0.05
"""Of each number's standard deviation, and share of the categories that a noisy copier replaces."""

LARGEST = np.finfo(np.float64).max

LEAKED = 0.05
"""Share of the members that a leak gives away."""


class _Stream(IntEnum):
    """What random numbers are drawn for, so that no two controls share them."""

    COPIER = 1
    NOISE = 2
    LEAK = 3
    FRESH = 4
    SHUFFLE = 5
    RECODE = 6


def control(name: str, members: Rows, others: Rows, n: int, seed: int) -> Rows:
    """A control by its name.

    Args:
        name: One of `LEAKING` or `HARMLESS`.
        members: At least one row.
        others: Rows that are no members.
        n: Rows wanted; fewer come where the others do not suffice.
        seed: Decides all that is random.
    """
    match name:
        case "copier":
            return copier(members, n, seed)
        case "noisy_copier":
            return noisy_copier(members, n, seed)
        case "leak":
            return leak(members, others, n, seed)
        case "recoded":
            return recoded(copier(members, n, seed), seed)
        case "shuffled":
            return shuffled(fresh(others, n, seed), seed)
    return fresh(others, n, seed)


def copier(members: Rows, n: int, seed: int) -> Rows:
    """n members in random order; each as often as any other, give or take one.

    Args:
        members: At least one row.
        n: Rows wanted: an audit of a table of n rows has the power that is found with n rows.
        seed: Decides which ones and their order.
    """
    order = _rng(seed, _Stream.COPIER).permutation(len(members))
    return members.take(np.resize(order, n))


def noisy_copier(members: Rows, n: int, seed: int) -> Rows:
    """What `copier` returns, every cell disturbed a little.

    Numbers get Gaussian noise of 5 % of their column's standard deviation; 5 % of the categories
    are replaced by that of a random row. Nulls of numeric columns stay.

    Args:
        members: At least one row.
        n: Rows wanted.
        seed: Decides all that is random.
    """
    rows, rng = copier(members, n, seed), _rng(seed, _Stream.NOISE)
    scale, spread = _scale(members), _spread(members)
    disturbance = NOISE * spread * rng.standard_normal(rows.numeric.shape)
    replaced = rng.random(rows.codes.shape) < NOISE
    others = rng.integers(len(members), size=rows.codes.shape)
    drawn = np.take_along_axis(members.codes, others, axis=0)
    with np.errstate(over="ignore"):
        numeric = np.clip(rows.numeric + scale * disturbance, -LARGEST, LARGEST)
    return replace(rows, numeric=numeric, codes=np.where(replaced, drawn, rows.codes))


def leak(members: Rows, others: Rows, n: int, seed: int) -> Rows:
    """5 % of the members (at least one) hidden among other rows of the same population.

    Args:
        members: At least one row.
        others: Rows that are no members; all of them if they do not suffice.
        n: Rows wanted in all.
        seed: Decides which rows.
    """
    given_away = min(max(1, round(LEAKED * len(members))), n)
    rng = _rng(seed, _Stream.LEAK)
    chosen = members.take(rng.permutation(len(members))[:given_away])
    return Rows.concat([chosen, fresh(others, n - given_away, seed)])


def fresh(others: Rows, n: int, seed: int) -> Rows:
    """n rows of the population that are no members, or all where there are fewer."""
    return others.take(_rng(seed, _Stream.FRESH).permutation(len(others))[:n])


def shuffled(rows: Rows, seed: int) -> Rows:
    """The same columns, each in an order of its own: no dependence between them is left."""
    rng = _rng(seed, _Stream.SHUFFLE)
    return replace(
        rows, numeric=rng.permuted(rows.numeric, axis=0), codes=rng.permuted(rows.codes, axis=0)
    )


def recoded(rows: Rows, seed: int) -> Rows:
    """The same rows written differently: every column by a function that can be undone.

    Numbers are bent by x ↦ sign(x) |x|^(1/3), x being how many standard deviations they lie from
    the mean, and every other column or so (by chance) is turned around. Categories exchange their
    codes. Nulls stay nulls. Nothing is protected by that, but no row is near its origin.
    """
    rng = _rng(seed, _Stream.RECODE)
    scale, spread = _scale(rows), _spread(rows)
    scaled = rows.numeric / scale
    middle = np.nanmean(_or_zero(scaled), axis=0)
    turned = rng.choice([-1.0, 1.0], size=rows.numeric.shape[1])
    with np.errstate(over="ignore"):
        numeric = scale * (middle + spread * turned * np.cbrt((scaled - middle) / spread))
    numeric = np.clip(numeric, -LARGEST, LARGEST)
    codes = rows.codes.copy()
    for place, size in enumerate(rows.columns.sizes):
        new = np.append(0, 1 + rng.permutation(size - 1))
        codes[:, place] = new[rows.codes[:, place]]
    return replace(rows, numeric=numeric, codes=codes)


def _spread(rows: Rows) -> npt.NDArray[np.float64]:
    """(p,) standard deviations in units of `_scale`; 1 where all numbers are the same, or none."""
    spread = np.nanstd(_or_zero(rows.numeric / _scale(rows)), axis=0)
    return np.where(spread > 0, spread, 1.0)


def _scale(rows: Rows) -> npt.NDArray[np.float64]:
    """(p,) the largest sizes of the numbers, in units of which no square overflows; 1 for 0."""
    sizes = np.abs(_or_zero(rows.numeric))
    largest = np.nanmax(sizes, axis=0, initial=0.0)
    return np.where(largest > 0, largest, 1.0)


def _or_zero(numeric: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers (n, p) with zeros in columns of nulls alone, of which there is no mean."""
    return np.where(np.isnan(numeric).all(axis=0), 0.0, numeric)


def _rng(seed: int, stream: _Stream) -> np.random.Generator:
    """The random numbers of one control."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(stream)]))
