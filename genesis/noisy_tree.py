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
from functools import cache

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
from genesis.denoising import (
    FAINT,
    averaged,
    last_occupied,
    occupied,
    on_simplex,
    quantile,
    shared_out,
    whole,
)
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
STRAY_OCTAVE = 1e-4  # chance that noise makes a value of 1e-40 or 1e40 of nothing
LARGEST = 2.0**400  # squares of what is larger may overflow, and no column needs it
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
        self._public = _public_bounds(column)
        low, high = _octave_ends()
        numbers = _room(low, high, self.decimals, self._public)
        self._octaves = [int(i) for i in np.flatnonzero(numbers)]
        finest = np.where(numbers > 0, _bins_at_most(low, high, self.decimals), 0)
        self._ranged = bool(finest.sum() > FEW_BINS)
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
        room = self._room(level.question, self._public).ravel() > 0
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
        room = self._room(self._bins.question, self._public).ravel() > 0
        counts, deviation = self._bins.counts.ravel(), math.sqrt(self._bins.variance)
        limit = max(POINT_MASS * present, SMALL_CELL, quantile(int(room.sum())) * deviation)
        for places in (np.flatnonzero(room), np.flatnonzero(room & (counts >= limit))):
            for bits in range(MOST_REFINE_BITS + 1):
                self._heavy, self._refine_bits = places, bits
                question = self._refining(places, bits)
                if question.size > MOST_CELLS:
                    break
                if (numbers_in(*question.ends(), self.decimals) <= 1).all():
                    return
        self._refine_bits = MOST_REFINE_BITS

    def statistics(self, nulls: int, present: int) -> NumericStatistics:
        """What is known of the column.

        Args:
            nulls: Rows that are null.
            present: Rows that are not.
        """
        column = replace(self.column, decimals=self.decimals)
        if self._bins is None:  # nothing but null, as far as is known
            none = np.empty(0)
            nothing = Leaves(none, none, none.astype(np.int64), none.astype(bool))
            return settled(column, nothing, max(nulls + present, 1), (0.0, 0.0))
        ends = self._occupied_ends(self._bins)
        limit = max(POINT_MASS * (nulls + present), SMALL_CELL)
        parts = zip(*self._leaves(self._bins, ends, present, limit), strict=True)
        low, high, expected, is_atom = map(np.concatenate, parts)
        order = np.argsort(low)
        low, high, expected, is_atom = (a[order] for a in (low, high, expected, is_atom))
        noise = quantile() * math.sqrt(self._bins.variance)
        if is_atom.any() and expected[~is_atom].sum() < noise:
            expected = np.where(is_atom, expected, 0.0)  # the rest may be noise alone
            expected *= present / expected.sum()
        counts = whole(expected)
        kept = counts > 0
        leaves = Leaves(low[kept], high[kept], counts[kept], is_atom[kept])
        return settled(column, leaves, nulls if kept.any() else max(nulls, 1), ends)

    def _totals(self, bins: _Level, room: Floats, variances: Floats) -> tuple[Floats, Floats]:
        """Rows of every power of two by all that was counted, and the variance of that."""
        totals, total_variances = _sums(bins.counts, variances, room)
        if self._range is None:
            return totals, total_variances
        own = np.full(len(totals), self._range.variance)
        return averaged(self._range.counts.ravel(), own, totals, total_variances)

    def _occupied_ends(self, bins: _Level) -> tuple[float, float]:
        """From where to where there seem to be rows: no single spurious bin is a bound."""
        room = self._room(bins.question, self._public)
        variances = np.where(room > 0, bins.variance, 0.0)
        counts = np.where(room > 0, bins.counts, 0.0)
        totals, total_variances = self._totals(bins, room, variances)
        limits = np.maximum(quantile() * np.sqrt(total_variances), SMALL_CELL)
        occupied_octaves = np.flatnonzero(room.any(axis=1) & (totals > limits))
        low, high = (a.reshape(room.shape) for a in bins.question.ends())
        start, end = low[0, 0], high[-1, -1]
        if len(occupied_octaves):
            a, b = occupied_octaves[[0, -1]]
            start = low[a, -1 - last_occupied(counts[a, ::-1], variances[a, ::-1])]
            end = high[b, last_occupied(counts[b], variances[b])]
        return max(float(start), self._public[0]), min(float(end), self._public[1])

    def _leaves(
        self, bins: _Level, ends: tuple[float, float], present: int, limit: float
    ) -> Iterator[tuple[Floats, Floats, Floats, Booleans]]:
        """Bins that are not divided: their ends, expected rows, and which are point masses."""
        room = self._room(bins.question, ends)
        counts, variances = bins.counts.copy(), np.full(room.shape, bins.variance)
        children = self._children
        if children is not None:
            # What was counted in a bin's children says again how many are in the bin.
            inner_room = self._room(children.question, ends)
            inner_variances = np.full(inner_room.shape, children.variance)
            counts.flat[self._heavy], variances.flat[self._heavy] = averaged(
                counts.ravel()[self._heavy],
                variances.ravel()[self._heavy],
                *_sums(children.counts, inner_variances, inner_room),
            )
        totals, total_variances = self._totals(replace(bins, counts=counts), room, variances)
        possible = room.any(axis=1)
        totals[~possible] = 0
        totals[possible] = on_simplex(totals[possible], present, total_variances[possible])
        expected = shared_out(totals, counts, variances, room).ravel()
        low, high = _on_grid(bins.question, self.decimals)
        least = max(limit, quantile() * math.sqrt(bins.variance))
        divided = np.zeros(room.size, dtype=bool)
        divided[self._heavy if children is not None else []] = True
        single = (low == high) & (expected >= least)
        yield low[~divided], high[~divided], expected[~divided], single[~divided]
        if children is None:
            return
        expected = shared_out(
            expected[self._heavy], children.counts, inner_variances, inner_room
        ).ravel()
        low, high = _on_grid(children.question, self.decimals)
        deviation = math.sqrt(children.variance)
        certain = children.counts.ravel() > quantile(inner_room.size) * deviation
        is_atom = (low == high) | (certain & _stands_alone(expected))
        is_atom &= expected >= max(limit, quantile() * deviation)
        for i in np.flatnonzero(is_atom & (low < high)):
            low[i] = high[i] = _roundest(float(low[i]), float(high[i]), self.decimals)
        yield low, high, expected, is_atom

    def _room(self, question: Question, ends: tuple[float, float]) -> Floats:
        """How many of the column's numbers each bin may hold: (parents, bins)."""
        return _room(*question.ends(), self.decimals, ends).reshape(len(question.parents), -1)


def _room(low: Floats, high: Floats, decimals: int | None, ends: tuple[float, float]) -> Floats:
    """How many numbers each bin may hold, given what is known; 1 of a bin that is not on a grid."""
    numbers = numbers_in(low, high, decimals)
    room = np.where(np.isfinite(numbers), numbers, 1.0)
    room = np.where(_subnormal(low, high), (low == 0) & ~np.signbit(low), room)
    inside = (high >= ends[0]) & (low <= ends[1])
    return np.where(inside, room, 0.0)


def _subnormal(low: Floats, high: Floats) -> Booleans:
    """Bins of numbers below 2e-308, of which a table has none but zero."""
    tiny = np.finfo(np.float64).tiny
    return np.asarray((np.abs(low) < tiny) & (np.abs(high) < tiny))


def _on_grid(question: Question, decimals: int | None) -> tuple[Floats, Floats]:
    """The ends of the bins of a question as numbers that a table has."""
    low, high = to_grid(*question.ends(), decimals)
    zero = _subnormal(low, high)
    return np.where(zero, 0.0, low), np.where(zero, 0.0, high)


def _bins_at_most(low: Floats, high: Floats, decimals: int | None) -> Floats:
    """How many bins of each power of two hold anything, where it is divided most finely."""
    return np.minimum(numbers_in(low, high, decimals), 1 << MOST_BITS)


def _sums(counts: Floats, variances: Floats, room: Floats) -> tuple[Floats, Floats]:
    """Rows of each parent by its bins that may hold any, and the variance of that."""
    summed = (np.where(room > 0, each, 0.0).sum(axis=1) for each in (counts, variances))
    total, variance = summed
    return total, np.maximum(variance, CERTAIN**2)


def _public_bounds(column: Column) -> tuple[float, float]:
    """Bounds that are stated, or those of the column's type."""
    lower, upper = -LARGEST, LARGEST
    dtype = pd.api.types.pandas_dtype(column.dtype)
    if column.kind is Kind.DATETIME:
        lower, upper = _times(column)
    elif pd.api.types.is_integer_dtype(dtype):
        limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        lower, upper = float(limits.min), float(limits.max)
    return (
        lower if column.lower is None else float(column.lower),
        upper if column.upper is None else float(column.upper),
    )


def _times(column: Column) -> tuple[float, float]:
    """The first and last time that a column of datetimes can hold, in its units."""
    ends = ["0001-01-02", "9999-12-30"]
    if "[ns" in column.dtype:  # as pandas had it, where the number of nanoseconds is an int64
        ends = ["1677-09-23", "2262-04-10"]
    first, last = np.array(ends, dtype=f"datetime64[{column.unit or 'us'}]").astype(np.int64)
    return float(first), float(last)


@cache
def _octave_ends() -> tuple[Floats, Floats]:
    """The ends of all powers of two, by their prefix of a key; NaN where there are no numbers."""
    everything = Question("", parents=tuple(range(1 << RANGE_BITS)), shift=KEY_BITS - RANGE_BITS)
    low, high = everything.ends()
    finite = np.isfinite(low) & np.isfinite(high)
    return np.where(finite, low, np.nan), np.where(finite, high, np.nan)


def _runs_with_occupied(counts: Floats, deviation: float) -> Booleans:
    """Cells that are occupied beyond doubt, and faint ones that a chain of such leads to."""
    certain = occupied(counts, deviation, STRAY_OCTAVE)
    faint = certain | (counts > FAINT * deviation)
    run = np.cumsum(np.diff(faint, prepend=False))
    return faint & np.isin(run, run[certain])


def _stands_alone(counts: Floats) -> Booleans:
    """Which bins hold more than twice what either neighbour does: a point, not a narrow heap."""
    left, right = np.append(0.0, counts[:-1]), np.append(counts[1:], 0.0)
    return np.asarray(counts > 2 * np.maximum(left, right))


def _roundest(low: float, high: float, decimals: int | None) -> float:
    """The number in [low, high] that takes the fewest digits to write, or as many nines.

    Caps and codes are such numbers: 0, 12.5, 5000, 99999, 2999.99.
    """
    if low <= 0 <= high:
        return 0.0
    unit = 0.0 if decimals is None else 10.0**-decimals
    for zeros in range(22, -23, -1):
        first = _first_multiple(low, high, zeros)
        if first is not None:
            return first
        # At least two nines, or it is no more likely than another number.
        if unit and 10.0**zeros > 99 * unit:
            above = _first_multiple(low + unit, high + unit, zeros)
            if above is not None:
                return round(above - unit, decimals or 0)
    return low / 2 + high / 2


def _first_multiple(low: float, high: float, zeros: int) -> float | None:
    """The multiple of 10**zeros in [low, high] that is nearest to 0; None if there is none."""
    if zeros <= 0:
        ends, each = (np.array([low]), np.array([high])), -zeros
        first, last = to_grid(*ends, each)
        return float(first[0] if low > 0 else last[0]) if numbers_in(*ends, each)[0] else None
    step = 10.0**zeros
    multiple = math.ceil(low / step) * step if low > 0 else math.floor(high / step) * step
    return multiple if low <= multiple <= high else None
