"""Numeric and datetime columns on a grid: bins of the released histogram, then null.

A code is a run of neighbouring leaves of the pooled histogram. Values that many rows share are
leaves, and codes, of their own; the others are joined until each code holds about as many rows as
the others. The place inside a code is drawn from its leaves, so that generated values follow the
histogram as finely as it is known, whatever the number of codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.counting import SMALL_CELL
from genesis.schema import Column
from genesis.statistics import NumericStatistics
from genesis.values import numbers

__all__ = ["GridEncoding"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GridEncoding:
    """A numeric or datetime column as bins in ascending order, then null.

    Args:
        column: The column.
        low: (m,) smallest value of every leaf, ascending.
        high: (m,) largest value of every leaf; low where it is a single value.
        leaf_counts: (m,) rows of every leaf, none of which is empty.
        starts: (b,) first leaf of every code, ascending from 0.
        nulls: Rows that are null; null has a code if there are any.
    """

    column: Column
    low: Floats
    high: Floats
    leaf_counts: Integers
    starts: Integers
    nulls: int
    kind: ClassVar[str] = "grid"

    @classmethod
    def build(cls, column: Column, statistics: NumericStatistics, bins: int) -> GridEncoding:
        """From the pooled statistics of the column.

        Args:
            column: The column.
            statistics: Its histogram.
            bins: Codes for what is not null, at most.
        """
        leaves = statistics.leaves
        kept = leaves.counts > 0
        # Values beyond the bounds count as the bound, as encoding has them.
        low = np.clip(leaves.low[kept], statistics.lower, statistics.upper)
        high = np.clip(leaves.high[kept], statistics.lower, statistics.upper)
        counts = leaves.counts[kept].astype(np.int64)
        if not len(counts) and not statistics.nulls:
            low, high, counts = np.array([statistics.lower]), np.array([statistics.lower]), _ONE
        low, high, counts = _joined(low, high, counts)
        return cls(
            column=column,
            low=low,
            high=high,
            leaf_counts=counts,
            starts=_starts(counts, bins),
            nulls=statistics.nulls,
        )

    @property
    def has_scalar(self) -> bool:
        """A bin has an inside."""
        return True

    @property
    def is_sound(self) -> bool:
        """Whether it encodes every value: leaves and codes that make sense."""
        sizes = {part.shape for part in (self.low, self.high, self.leaf_counts)}
        ends = np.stack([self.low, self.high], 1).ravel() if len(sizes) == 1 else np.empty(0)
        return (
            len(sizes) == 1
            and self.low.ndim == self.starts.ndim == 1
            and bool(np.isfinite(ends).all())
            and bool((ends[1:] >= ends[:-1]).all())
            and bool((self.leaf_counts > 0).all())
            and bool((np.diff(self.starts) > 0).all())
            and self.nulls >= 0
            and (
                (self.starts[0] == 0 and self.starts[-1] < len(self.low))
                if len(self.starts)
                else not len(self.low)
            )
            and len(self.counts) > 0
        )

    @property
    def lower(self) -> float:
        """Smallest value decoded."""
        return float(self.low[0]) if len(self.low) else 0.0

    @property
    def upper(self) -> float:
        """Largest value decoded."""
        return float(self.high[-1]) if len(self.high) else 0.0

    @property
    def n_bins(self) -> int:
        """Codes of what is not null."""
        return len(self.starts)

    @property
    def counts(self) -> Integers:
        """(width,) pooled rows of the bins and null."""
        bins = np.diff(self._below[np.append(self.starts, len(self.low))])
        null = [self.nulls] if self.nulls else []
        return np.concatenate([bins, null]).astype(np.int64)

    @cached_property
    def _below(self) -> Integers:
        """(m + 1,) rows below every leaf, and all of them."""
        return np.concatenate([[0], np.cumsum(self.leaf_counts)]).astype(np.int64)

    @cached_property
    def _numbers(self) -> Floats:
        """(m,) multiples of 10**-decimals in every leaf; 0 where the column has no such grid."""
        if self.column.decimals is None:
            return np.zeros(len(self.low))
        numbers: Floats = np.rint((self.high - self.low) * 10.0**self.column.decimals) + 1
        return numbers

    def encode(
        self, values: pd.Series[Any], rng: np.random.Generator | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """The bin of every value and its place in it, in [-1, 1]; of the nearest leaf in a gap."""
        given = numbers(self.column, values)
        scalars = np.zeros(len(given), dtype=np.float32)
        codes = np.full(len(given), self.n_bins if self.nulls else -1, dtype=np.int32)
        present = np.flatnonzero(~np.isnan(given))
        if not len(self.low):
            codes[present] = -1
            return scalars, codes
        leaf, place = self._leaf_of(given[present])
        bins = np.searchsorted(self.starts, leaf, side="right") - 1
        ends = self._below[np.append(self.starts, len(self.low))]
        within = self._below[leaf] + place * self.leaf_counts[leaf] - ends[bins]
        codes[present] = bins
        scalars[present] = np.clip(2 * within / np.diff(ends)[bins] - 1, -1, 1)
        return scalars, codes

    def decode(
        self,
        scalars: npt.NDArray[np.float32] | None,
        codes: npt.NDArray[np.int32],
        rng: np.random.Generator,
    ) -> Floats:
        """Values (n,), NaN for null: the quantiles of the bins' leaves at the places given."""
        decoded = np.full(len(codes), np.nan)
        rows = np.flatnonzero((codes >= 0) & (codes < self.n_bins))
        if len(rows):
            assert scalars is not None
            ends = self._below[np.append(self.starts, len(self.low))]
            place = np.clip((scalars[rows].astype(np.float64) + 1) / 2, 0, 1 - 2**-24)
            bins = codes[rows]
            decoded[rows] = self.quantile(ends[bins] + place * np.diff(ends)[bins])
        return decoded

    def quantile(self, below: Floats) -> Floats:
        """(n,) values with so many rows below them, from 0 to almost all."""
        leaf = np.searchsorted(self._below, below, side="right") - 1
        place = (below - self._below[leaf]) / self.leaf_counts[leaf]
        low, high, n = self.low[leaf], self.high[leaf], self._numbers[leaf]
        if self.column.decimals is None:
            return np.clip(low * (1 - place) + high * place, low, high)
        step = 10.0**-self.column.decimals
        drawn: Floats = np.clip(low + np.floor(place * n) * step, low, high)
        return self.settle(drawn)

    def rows_below(self, value: float, *, included: bool) -> float:
        """How many rows the histogram has below a value, or up to it."""
        leaf = int(np.searchsorted(self.high, value, side="left"))
        if leaf == len(self.low):
            return float(self._below[-1])
        low, high, n = self.low[leaf], self.high[leaf], self._numbers[leaf]
        if value < low:
            share = 0.0
        elif n:
            multiple = (value - low) * 10.0 ** (self.column.decimals or 0)
            whole = round(multiple)
            on_grid = abs(multiple - whole) < 1e-6
            passed = (whole + included) if on_grid else np.floor(multiple) + 1
            share = min(passed / n, 1.0)
        elif high == low:
            share = float(included)
        else:
            share = (value - low) / (high - low)
        return float(self._below[leaf] + share * self.leaf_counts[leaf])

    def shares(self, intervals: list[tuple[float, float]]) -> Floats:
        """(b,) share of every bin that lies in disjoint closed intervals."""
        ends = self._below[np.append(self.starts, len(self.low))].astype(np.float64)
        inside = np.zeros(self.n_bins)
        for first, last in self.spans(intervals):
            inside += np.maximum(np.minimum(ends[1:], last) - np.maximum(ends[:-1], first), 0.0)
        inside /= np.diff(ends)
        return np.minimum(inside, 1.0)

    def spans(self, intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Closed intervals as rows below their ends: disjoint, ascending, none of them empty."""
        spans: list[tuple[float, float]] = []
        for low, high in sorted(intervals):
            first = self.rows_below(low, included=False)
            last = self.rows_below(high, included=True)
            if first == last and self._is_inside(point := max(low, self.lower)) and point <= high:
                # Of a continuous column no row has a value exactly.
                first = min(first, self._below[-1] - POINT)
                last = first + POINT
            if spans:
                first = max(first, spans[-1][1])
            if last > first:
                spans.append((first, last))
        return spans

    def decode_within(
        self,
        scalars: npt.NDArray[np.float32],
        codes: npt.NDArray[np.int32],
        intervals: list[tuple[float, float]],
    ) -> Floats:
        """As `decode`, of what lies in some intervals only; NaN for bins outside all of them."""
        decoded = np.full(len(codes), np.nan)
        ends = self._below[np.append(self.starts, len(self.low))].astype(np.float64)
        spans = self.spans(intervals)
        for code in np.unique(codes[(codes >= 0) & (codes < self.n_bins)]):
            parts = [(max(a, ends[code]), min(b, ends[code + 1])) for a, b in spans]
            parts = [(a, b) for a, b in parts if b > a]
            if not parts:
                continue
            rows = np.flatnonzero(codes == code)
            sizes = np.array([b - a for a, b in parts])
            place = np.clip((scalars[rows].astype(np.float64) + 1) / 2, 0, 1 - 2**-24) * sizes.sum()
            part = np.searchsorted(np.cumsum(sizes), place, side="right").clip(max=len(parts) - 1)
            first = np.array([a for a, _ in parts])[part]
            below = first + place - (np.cumsum(sizes) - sizes)[part]
            decoded[rows] = self.quantile(np.minimum(below, np.nextafter(ends[-1], 0)))
        return _drawn_in(decoded, intervals)

    def _is_inside(self, value: float) -> bool:
        """Whether a column without a grid of numbers may hold a value, in a leaf or between two."""
        return self.column.decimals is None and self.lower <= value <= self.upper

    def settle(self, values: Floats) -> Floats:
        """Values on the column's grid and within its bounds."""
        clipped = np.clip(values, self.lower, self.upper)
        if self.column.decimals is None:
            return clipped
        return np.clip(np.round(clipped, self.column.decimals), self.lower, self.upper) + 0.0

    def _leaf_of(self, values: Floats) -> tuple[Integers, Floats]:
        """The leaf of every value, or the nearest one, and the share of it that lies below."""
        after = np.searchsorted(self.high, values, side="left").clip(max=len(self.low) - 1)
        before = (after - 1).clip(min=0)
        with np.errstate(over="ignore"):
            nearer = np.abs(values - self.high[before]) < np.abs(self.low[after] - values)
        leaf = np.where((values < self.low[after]) & nearer, before, after)
        # Halves first: the difference of two large floats may overflow.
        low, high = self.low[leaf] / 2, self.high[leaf] / 2
        step = 0.0 if self.column.decimals is None else 10.0**-self.column.decimals / 2
        inside, width = np.clip(values / 2, low, high) - low, high - low + step
        # The middle of a single number, so that decoding finds it again.
        place = (inside + step / 2) / np.where(width > 0, width, 1.0)
        return leaf, np.where(width > 0, place, 0.5)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; floats keep every bit."""
        return {
            "kind": self.kind,
            "column": self.column.name,
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "leaf_counts": self.leaf_counts.tolist(),
            "starts": self.starts.tolist(),
            "nulls": self.nulls,
        }

    @classmethod
    def from_dict(cls, column: Column, values: Mapping[str, Any]) -> GridEncoding:
        """The inverse of `to_dict`."""
        return cls(
            column=column,
            low=np.array(values["low"], np.float64),
            high=np.array(values["high"], np.float64),
            leaf_counts=np.array(values["leaf_counts"], np.int64),
            starts=np.array(values["starts"], np.int64),
            nulls=int(values["nulls"]),
        )


_ONE = np.ones(1, dtype=np.int64)
MOST_LEAVES = 5000  # single values that stand for themselves; of joined ones a quarter as many
FEW_TIMES = 4  # as many rows as its neighbour: a leaf of no more takes the neighbour's values in
POINT = 1e-6  # rows that a single value of a continuous column stands for


def _drawn_in(values: Floats, intervals: list[tuple[float, float]]) -> Floats:
    """Values that rounding has moved out of all intervals, moved back to the nearest end."""
    ends = np.array(sorted(intervals), dtype=np.float64).reshape(-1, 2)
    outside = ~((values[:, None] >= ends[:, 0]) & (values[:, None] <= ends[:, 1])).any(1)
    rows = np.flatnonzero(outside & ~np.isnan(values))
    flat = ends.ravel()
    nearest = np.abs(values[rows, None] - flat).argmin(1) if len(flat) else rows[:0]
    values[rows] = flat[nearest]
    return values


def _joined(low: Floats, high: Floats, counts: Integers) -> tuple[Floats, Floats, Integers]:
    """Neighbouring leaves joined until none tells of fewer than 5 rows, or there are too many.

    Single values of enough rows stay as they are; what is left between two of them, of fewer than 5
    rows, belongs to the one before.
    """
    total = int(counts.sum())
    alone = (low == high) & (counts >= max(SMALL_CELL, total / MOST_LEAVES))
    least = max(SMALL_CELL, total / (MOST_LEAVES // 4))
    leaves: list[tuple[float, float, int]] = []
    begun: tuple[float, float, int] | None = None
    for first, last, count, stays in zip(low, high, counts.tolist(), alone, strict=True):
        if stays:
            if begun is not None:
                count += _close(leaves, begun)
                begun = None
            if leaves and leaves[-1][:2] == (first, last):  # values that are drawn in to a bound
                count += leaves.pop()[2]
            leaves.append((float(first), float(last), count))
            continue
        begun = (
            (float(first), float(last), count)
            if begun is None
            else (begun[0], float(last), begun[2] + count)
        )
        if begun[2] >= least:
            leaves.append(begun)
            begun = None
    if begun is not None and (left := _close(leaves, begun)):
        leaves.append((*begun[:2], left))  # there is nothing else
    kept = np.array([leaf[:2] for leaf in leaves], dtype=np.float64).reshape(-1, 2)
    return kept[:, 0], kept[:, 1], np.array([leaf[2] for leaf in leaves], dtype=np.int64)


def _close(leaves: list[tuple[float, float, int]], begun: tuple[float, float, int]) -> int:
    """End a leaf: it stands if it has enough rows, else they count as the leaf before.

    Returns:
        Rows that are left for the leaf after it, because there is none before.
    """
    if begun[2] >= SMALL_CELL:
        leaves.append(begun)
    elif leaves:
        low, high, count = leaves[-1]
        # A point that many rows share stays a point; among few, the values are kept apart no more.
        reach = begun[1] if count <= FEW_TIMES * begun[2] else high
        leaves[-1] = low, reach, count + begun[2]
    else:
        return begun[2]
    return 0


def _starts(counts: Integers, bins: int) -> Integers:
    """First leaf of every code: heavy leaves alone, the others joined to about equal numbers.

    A code of fewer than 5 rows would tell of them what a histogram must not.
    """
    heavy = np.zeros(len(counts), dtype=bool)
    least = float(SMALL_CELL)
    if len(counts) > bins:
        # What stands alone leaves fewer codes, and fewer rows, to the rest.
        while True:
            rest = max(bins - 2 * int(heavy.sum()), 1)
            least = max(float(counts[~heavy].sum()) / rest, SMALL_CELL)
            more = ~heavy & (counts >= least)
            if not more.any() or 2 * int((heavy | more).sum()) >= bins:
                break
            heavy |= more
    alone = heavy | np.append(False, heavy[:-1])  # a heavy leaf ends its code too
    starts, held = [], least
    for leaf, count in enumerate(counts.tolist()):
        if held >= least or (alone[leaf] and held >= SMALL_CELL):
            starts.append(leaf)
            held = 0.0
        held += count
    if len(starts) > 1 and held < min(least, SMALL_CELL):
        starts.pop()  # a last code of too few rows
    return np.array(starts, dtype=np.int64)
