"""The tree of bins of a numeric column where every count is noisy.

    powers of two → bins in those that are not empty → up to 512 children of the heavy bins

A bin that holds one number is asked about again as its own only child: the mean of two noisy counts
is the better count.

Every step costs privacy, so their number is fixed before anything is seen: three, or two where
what is public (bounds, decimals, the type) leaves so few powers of two that there is nothing to
find out. All the rest is arithmetic on the noisy counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.counting import (
    KEY_BITS,
    POINT_MASS,
    RANGE_BITS,
    SMALL_CELL,
    Leaves,
    NumericStatistics,
    Question,
    numbers_in,
    settled,
    to_grid,
)
from genesis.denoising import averaged, occupied, on_simplex, quantile, shared_out, whole
from genesis.schema import Column, Kind

__all__ = ["NoisyTree", "covering_decimals", "public_decimals"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

MOST_BITS, LEAST_BITS = 7, 3  # a power of two is divided in 8 to 128 bins
MOST_REFINE_BITS = 9  # at most 512 children of a bin
MOST_CELLS = 4096  # up to here all bins are asked about again, then the heavy ones
FEW_BINS = 256  # so few in all powers of two that they are counted at once
CERTAIN = 1e-3  # the least deviation: counts without noise are known this well
FAINT = 1.645  # deviations above which an octave beside an occupied one counts as well
COVERED = 0.99  # share of the values that a column's decimals must write


def public_decimals(column: Column) -> int | None:
    """Decimals that are known without a look at the rows."""
    if column.decimals is None and (
        column.kind is Kind.DATETIME
        or pd.api.types.is_integer_dtype(pd.api.types.pandas_dtype(column.dtype))
    ):
        return 0  # times count whole units
    return column.decimals


def covering_decimals(counts: Integers, deviation: float) -> int | None:
    """The fewest decimals that write 99 % of the values, None if no few do.

    Args:
        counts: (10,) noisy numbers of values that need 0, 1, … 8, or more.
        deviation: Of the noise.
    """
    real = np.where(occupied(counts, deviation), counts, 0).astype(np.float64)
    if not real.sum():
        return None
    fewest = int(np.argmax(np.cumsum(real) >= COVERED * real.sum()))
    return fewest if fewest < len(counts) - 1 else None


@dataclass(frozen=True)
class _Level:
    """Some bins, `2**question.bits` of each parent, and what was counted in them.

    Args:
        question: The bins.
        counts: (parents, 2**bits) noisy counts.
        variance: Of their noise.
    """

    question: Question
    counts: Floats
    variance: float


class NoisyTree:
    """What is known of one column; grows by `question` and `take`.

    Args:
        column: The column.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self.decimals = public_decimals(column)
        self._octaves = _possible_octaves(column, self.decimals)
        finest = 1 << MOST_BITS
        octaves = Question("", parents=tuple(self._octaves), shift=KEY_BITS - RANGE_BITS)
        numbers = numbers_in(*octaves.ends(), self.decimals)
        self._ranged = bool(np.minimum(numbers, finest).sum() > FEW_BINS)
        self._bits = MOST_BITS
        self._heavy: Integers = np.empty(0, dtype=np.int64)  # numbers of bins to be divided
        self._refine_bits = 0
        self._range: _Level | None = None
        self._bins: _Level | None = None
        self._children: _Level | None = None

    @property
    def releases(self) -> int:
        """How many steps there will be, at most."""
        return 3 if self._ranged else 2

    def question(self) -> Question | None:
        """What to count next; None when there is nothing more to count."""
        name, octaves = self.column.name, tuple(self._octaves)
        shift = KEY_BITS - RANGE_BITS
        if self._range is None and self._ranged:
            return Question(name, parents=octaves, shift=shift)
        if self._bins is None and octaves:
            return Question(name, parents=octaves, shift=shift, bits=self._bits)
        if self._bins is None or self._children is not None or not len(self._heavy):
            return None
        return self._refining(self._heavy, self._refine_bits)

    def take(self, question: Question, counts: Integers, deviation: float, present: float) -> None:
        """Learn the answer.

        Args:
            question: What was asked.
            counts: The sums of noisy counts.
            deviation: Of the noise in a sum.
            present: Rows that are not null, as far as is known.
        """
        by_parent = counts.reshape(len(question.parents), -1).astype(np.float64)
        level = _Level(question, by_parent, max(deviation, CERTAIN) ** 2)
        if self._range is None and self._ranged:
            self._take_range(level, present)
        elif self._bins is None:
            self._bins = level
            self._choose_heavy(present)
        else:
            self._children = level

    def _take_range(self, level: _Level, present: float) -> None:
        """Keep the powers of two that are not empty, and choose into how many bins they go."""
        room = self._room(level.question).ravel() > 0
        found = np.zeros(len(room), dtype=bool)
        deviation = math.sqrt(level.variance)
        found[room] = _runs_with_occupied(level.counts.ravel()[room], deviation)
        self._octaves = [octave for octave, kept in zip(self._octaves, found, strict=True) if kept]
        kept = replace(level.question, parents=tuple(self._octaves))
        self._range = _Level(kept, level.counts[found], level.variance)
        if self._octaves:
            # So that an even spread would be twice the noise: finer bins would show noise alone.
            share = present / (2 * deviation * len(self._octaves))
            bits = math.floor(math.log2(max(share, 1.0)))
            self._bits = min(max(bits, LEAST_BITS), MOST_BITS)

    def _refining(self, places: Integers, bits: int) -> Question:
        """The question that divides some bins."""
        assert self._bins is not None
        first = self._bins.question.first_keys()
        below = self._bins.question.shift - self._bins.question.bits
        parents = tuple(int(first[i]) >> below for i in places)
        return Question(self.column.name, parents=parents, shift=below, bits=bits)

    def _choose_heavy(self, present: float) -> None:
        """Divide bins down to single numbers if that is soon done, else those with many rows."""
        assert self._bins is not None
        room = self._room(self._bins.question).ravel() > 0
        counts, deviation = self._bins.counts.ravel(), math.sqrt(self._bins.variance)
        limit = max(POINT_MASS * present, SMALL_CELL, quantile(int(room.sum())) * deviation)
        for places in (np.flatnonzero(room), np.flatnonzero(room & (counts >= limit))):
            self._heavy = places
            for self._refine_bits in range(MOST_REFINE_BITS + 1):
                question = self._refining(places, self._refine_bits)
                if question.size > MOST_CELLS:
                    break
                if (numbers_in(*question.ends(), self.decimals) <= 1).all():
                    return
        self._refine_bits = MOST_REFINE_BITS

    def statistics(self, nulls: int, present: int, small: float) -> NumericStatistics:
        """What is known of the column.

        Args:
            nulls: Rows that are null.
            present: Rows that are not.
            small: How many rows are a handful that decides nothing.
        """
        column = replace(self.column, decimals=self.decimals)
        limit = max(POINT_MASS * (nulls + present), SMALL_CELL)
        found = list(self._leaves(present, limit))
        if not found:
            none = np.empty(0)
            nothing = Leaves(none, none, none.astype(np.int64), none.astype(bool))
            return settled(column, nothing, max(nulls + present, 1), (0.0, 0.0))
        low, high, expected, is_atom = (np.concatenate(each) for each in zip(*found, strict=True))
        order = np.argsort(low)
        low, high, expected, is_atom = (a[order] for a in (low, high, expected, is_atom))
        if is_atom.any() and expected[~is_atom].sum() < small:
            expected = np.where(is_atom, expected, 0.0)  # noise beside point masses
            expected *= present / max(expected.sum(), 1e-300)
        counts = whole(expected)
        kept = counts > 0
        leaves = Leaves(low[kept], high[kept], counts[kept], is_atom[kept])
        if not kept.any():
            nulls = max(nulls, 1)
        return settled(column, leaves, nulls, self._widest(), small)

    def _widest(self) -> tuple[float, float]:
        """The ends of the outermost powers of two that are not empty."""
        shift = KEY_BITS - RANGE_BITS
        ends = Question("", parents=(self._octaves[0], self._octaves[-1]), shift=shift).ends()
        return float(ends[0][0]), float(ends[1][1])

    def _leaves(
        self, present: int, limit: float
    ) -> Iterator[tuple[Floats, Floats, Floats, Booleans]]:
        """Bins that are not divided: their ends, expected rows, and which are point masses."""
        if self._bins is None:
            return
        bins, children = self._bins, self._children
        room = self._room(bins.question)
        counts, variances = bins.counts.copy(), np.full(room.shape, bins.variance)
        if children is not None:
            # What was counted in a bin's children says again how many are in the bin.
            inner_room = self._room(children.question)
            inner, inner_variance = _sums(children, inner_room)
            counts.flat[self._heavy], variances.flat[self._heavy] = averaged(
                counts.ravel()[self._heavy], variances.ravel()[self._heavy], inner, inner_variance
            )
        totals, total_variances = _sums(replace(bins, counts=counts), room, variances)
        if self._range is not None:
            totals, total_variances = averaged(
                self._range.counts.ravel(),
                np.full(len(totals), self._range.variance),
                totals,
                total_variances,
            )
        possible = room.any(axis=1)
        totals = np.where(possible, totals, 0.0)
        totals[possible] = on_simplex(totals[possible], present, total_variances[possible])
        expected = shared_out(totals, counts, variances, room)
        low, high = to_grid(*bins.question.ends(), self.decimals)
        divided = np.zeros(room.size, dtype=bool)
        divided[self._heavy if children is not None else []] = True
        certain = expected.ravel() > quantile() * math.sqrt(bins.variance)
        single = (low == high) & certain & (expected.ravel() >= limit)
        yield tuple(a[~divided] for a in (low, high, expected.ravel(), single))  # type: ignore[misc]
        if children is None:
            return
        inner_variances = np.full(inner_room.shape, children.variance)
        inner_expected = shared_out(
            expected.ravel()[self._heavy], children.counts, inner_variances, inner_room
        ).ravel()
        low, high = to_grid(*children.question.ends(), self.decimals)
        deviation = math.sqrt(children.variance)
        alone = _stands_alone(inner_expected) & (
            children.counts.ravel() > quantile(inner_room.size) * deviation
        )
        heavy = inner_expected >= max(limit, quantile() * deviation)
        is_atom = heavy & ((low == high) | alone)
        for i in np.flatnonzero(is_atom & (low < high)):
            low[i] = high[i] = _roundest(float(low[i]), float(high[i]))
        yield low, high, inner_expected, is_atom

    def _room(self, question: Question) -> Floats:
        """How many of the column's numbers each bin may hold (parents, bins); 1 if no grid."""
        low, high = question.ends()
        numbers = numbers_in(low, high, self.decimals)
        room = np.where(np.isfinite(numbers), numbers, 1.0)
        lower, upper = _public_bounds(self.column)
        room[(high < lower) | (low > upper)] = 0
        return room.reshape(len(question.parents), -1)


def _sums(level: _Level, room: Floats, variances: Floats | None = None) -> tuple[Floats, Floats]:
    """Rows of each parent by its bins that may hold any, and the variance of that."""
    variances = np.full(room.shape, level.variance) if variances is None else variances
    counts = np.where(room > 0, level.counts, 0.0).sum(axis=1)
    return counts, np.maximum(np.where(room > 0, variances, 0.0).sum(axis=1), CERTAIN**2)


def _public_bounds(column: Column) -> tuple[float, float]:
    """Bounds that are stated, or those of the column's type."""
    lower, upper = -math.inf, math.inf
    dtype = pd.api.types.pandas_dtype(column.dtype)
    if column.kind is Kind.DATETIME:
        lower, upper = -(2.0**63), 2.0**63
    elif pd.api.types.is_integer_dtype(dtype):
        limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        lower, upper = float(limits.min), float(limits.max)
    return (
        lower if column.lower is None else float(column.lower),
        upper if column.upper is None else float(column.upper),
    )


def _possible_octaves(column: Column, decimals: int | None) -> list[int]:
    """The powers of two, as prefixes of a key, that may hold a value of the column."""
    everything = Question("", parents=tuple(range(1 << RANGE_BITS)), shift=KEY_BITS - RANGE_BITS)
    low, high = everything.ends()
    finite = np.isfinite(low) & np.isfinite(high)
    lower, upper = _public_bounds(column)
    inside = finite & (high >= lower) & (low <= upper)
    inside[inside] = numbers_in(low[inside], high[inside], decimals) > 0
    return [int(i) for i in np.flatnonzero(inside)]


def _runs_with_occupied(counts: Floats, deviation: float) -> Booleans:
    """Cells that are occupied beyond doubt, and faint ones that a chain of such leads to."""
    certain = occupied(counts, deviation)
    faint = certain | (counts > FAINT * deviation)
    run = np.cumsum(np.diff(faint, prepend=False))
    return faint & np.isin(run, run[certain])


def _stands_alone(counts: Floats) -> Booleans:
    """Which bins hold more than twice what either neighbour does: a point, not a narrow heap."""
    left, right = np.append(0.0, counts[:-1]), np.append(counts[1:], 0.0)
    return np.asarray(counts > 2 * np.maximum(left, right))


def _roundest(low: float, high: float) -> float:
    """The number in [low, high] that takes the fewest digits to write."""
    if low <= 0 <= high:
        return 0.0
    for zeros in range(22, 0, -1):
        rounded = math.ceil(low / 10.0**zeros) * 10.0**zeros
        if low <= rounded <= high:
            return rounded
    for decimals in range(23):
        first, last = to_grid(np.array([low]), np.array([high]), decimals)
        if numbers_in(np.array([low]), np.array([high]), decimals)[0] > 0:
            return float(first[0] if low > 0 else last[0])
    return low / 2 + high / 2
