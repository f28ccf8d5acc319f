"""What a shard says about its columns, and what the sums say about the pooled table.

A shard answers questions with vectors of counts, and nothing but their sum over the shards is ever
used. So K shards and the pooled table give the same statistics, bit for bit.

Numeric columns are counted on one fixed tree. A float64 becomes an unsigned integer of the same
order, and a bin is a prefix of its bits: the first 12 are sign and exponent, so the root's children
are the powers of two. Those that are populated are counted in 128 bins each. From there on only
bins that hold at least 1 % of the rows are split, down to a single number if need be: so a point
mass (zeros, caps, default codes) is found exactly without any value being sent, resolution goes
where the rows are, and an outlier of 1e30 costs one bin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.errors import DataError
from genesis.schema import Column, Kind, Schema
from genesis.values import Label, labels, numbers

__all__ = [
    "DISCRETE",
    "NUMERIC",
    "DiscreteStatistics",
    "NumericStatistics",
    "PooledStatistics",
    "Question",
    "ShardStatistics",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

POINT_MASS = 0.01  # share of the rows from which a single value is kept as itself
SMALL_CELL = 5  # fewer rows than this never make a point mass or a bound
RANGE_BITS = 12  # sign and exponent: the powers of two
HISTOGRAM_BITS = 7  # 128 bins in a populated power of two
MOST_BINS = 1 << (RANGE_BITS + HISTOGRAM_BITS)  # all powers of two in all their bins
REFINE_BITS = 9  # 512 children of a heavy bin; 64 - 12 - 7 = 5 x 9 levels at most

NUMERIC = (Kind.NUMERIC, Kind.DATETIME)
DISCRETE = (Kind.CATEGORICAL, Kind.BOOLEAN)


# --- the tree of bins ---


def _keys(values: Floats) -> Keys:
    """Floats as unsigned integers of the same order: flip negatives, else set the sign bit."""
    bits = values.view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def _values(keys: Keys) -> Floats:
    """The inverse of `_keys`."""
    sign = np.uint64(1 << 63)
    bits = np.where(keys & sign, keys ^ sign, ~keys)
    return bits.view(np.float64)


@dataclass(frozen=True)
class Question:
    """How many values of a column lie in each of some bins, or carry each of some labels.

    Args:
        column: Name of the column.
        labels: The labels to count; None among them counts nulls.
        parents: Or: bins to count within, as prefixes of `64 - shift` bits.
        shift: Bits of a key below the prefix of a parent.
        bits: Each parent is divided in 2**bits bins.
    """

    column: str
    labels: tuple[Label, ...] | None = None
    parents: tuple[int, ...] = ()
    shift: int = 64
    bits: int = 0

    def __post_init__(self) -> None:
        # Questions come over networks too, and what no tree asks would cost any amount of memory.
        if self.labels is None and not (
            0 <= self.bits <= min(RANGE_BITS, self.shift)
            and self.shift <= 64
            and len(self.parents) << self.bits <= MOST_BINS
            and all(0 <= parent < 1 << (64 - self.shift) for parent in self.parents)
        ):
            raise DataError("a question about bins that do not exist")

    @property
    def size(self) -> int:
        """Number of counts in an answer."""
        return len(self.labels) if self.labels is not None else len(self.parents) << self.bits

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        if self.labels is not None:
            return {"column": self.column, "labels": list(self.labels)}
        return {
            "column": self.column,
            "parents": list(self.parents),
            "shift": self.shift,
            "bits": self.bits,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Question:
        """The inverse of `to_dict`."""
        given = dict(values)
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
        return cls(**given)

    def first_keys(self) -> Keys:
        """The lowest key of every bin: (parents * 2**bits,)."""
        width = 1 << (self.shift - self.bits)
        starts = np.array([parent << self.shift for parent in self.parents], dtype=np.uint64)
        steps = np.array([i * width for i in range(1 << self.bits)], dtype=np.uint64)
        return (starts[:, None] + steps[None, :]).ravel()


class ShardStatistics:
    """Answers questions about one table.

    Args:
        schema: The schema agreed on.
        table: Rows of that schema.
    """

    def __init__(self, schema: Schema, table: pd.DataFrame) -> None:
        self.schema, self._table = schema, table
        self._numeric: dict[str, tuple[Keys, Integers]] = {}
        self._discrete: dict[str, tuple[Integers, list[Label]]] = {}

    def labels(self) -> dict[str, list[Label]]:
        """The labels that occur in every discrete column whose categories are not public.

        Sorted: in the order of the rows, those of several columns would tell which belong together.
        """
        return {
            column.name: _sorted(label for label in self._labels(column)[1] if label is not None)
            for column in self.schema
            if column.kind in DISCRETE and column.categories is None
        }

    def answer(self, question: Question) -> Integers:
        """The counts asked for, one number a label or bin."""
        column = self.schema[question.column]
        if question.labels is not None:
            return self._count_labels(column, question.labels)
        keys, counts = self._sorted_keys(column)
        below = np.concatenate([[0], np.cumsum(counts)])
        first = question.first_keys()
        last = first + np.uint64((1 << (question.shift - question.bits)) - 1)
        left = np.searchsorted(keys, first, side="left")
        right = np.searchsorted(keys, last, side="right")
        counted: Integers = below[right] - below[left]
        return counted

    def _labels(self, column: Column) -> tuple[Integers, list[Label]]:
        if column.name not in self._discrete:
            self._discrete[column.name] = labels(self._table[column.name])
        return self._discrete[column.name]

    def _sorted_keys(self, column: Column) -> tuple[Keys, Integers]:
        if column.name not in self._numeric:
            values = numbers(column, self._table[column.name])
            keys, counts = np.unique(_keys(values[~np.isnan(values)]), return_counts=True)
            self._numeric[column.name] = keys, counts.astype(np.int64)
        return self._numeric[column.name]

    def _count_labels(self, column: Column, wanted: Sequence[Label]) -> Integers:
        if column.kind in NUMERIC:
            nulls = int(self._table[column.name].isna().sum())
            return np.array([nulls if label is None else 0 for label in wanted], dtype=np.int64)
        codes, found = self._labels(column)
        if any(isinstance(label, str) for label in wanted):
            found = [None if label is None else str(label) for label in found]
        occurrences = np.bincount(codes % len(found), minlength=len(found))
        by_label: dict[Label, int] = {}
        for label, count in zip(found, occurrences, strict=True):
            by_label[label] = by_label.get(label, 0) + int(count)
        return np.array([by_label.get(label, 0) for label in wanted], dtype=np.int64)


def _sorted(labels: Iterable[Label]) -> list[Label]:
    """Labels in an order of their own: numbers before text."""
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


# --- the sums ---


@dataclass(frozen=True)
class NumericStatistics:
    """The pooled values of a numeric column.

    Args:
        nulls: Number of nulls.
        positions: (m,) ascending positions of the bins that hold no point mass.
        counts: (m,) rows in each.
        atoms: (a,) ascending point masses: single values with at least 1 % of the rows.
        atom_counts: (a,) rows of each.
        lower: Values below, fewer than 5 rows, are drawn in to it.
        upper: The same above.
    """

    nulls: int
    positions: Floats
    counts: Integers
    atoms: Floats
    atom_counts: Integers
    lower: float
    upper: float


@dataclass(frozen=True)
class DiscreteStatistics:
    """The pooled labels of a discrete column, in their order, nulls aside.

    Args:
        nulls: Number of nulls.
        labels: What occurs, sorted.
        counts: (len(labels),) rows of each.
    """

    nulls: int
    labels: tuple[Label, ...]
    counts: Integers


@dataclass
class _Tree:
    """The part of the tree that is known of one column."""

    column: Column
    parents: list[int] = field(default_factory=lambda: [0])
    shift: int = 64
    bits: int = RANGE_BITS
    bins: list[tuple[float, float, int, bool]] = field(default_factory=list)  # low, high, n, atom
    octaves: tuple[float, float] = (0.0, 0.0)


class PooledStatistics:
    """The statistics of all shards together, asked for step by step.

    Ask `questions()`, sum the shards' answers, `take()` them, until there are no more questions.

    Args:
        schema: The schema agreed on.
        labels: Labels of each discrete column whose categories are not public, of all shards.
    """

    def __init__(self, schema: Schema, labels: Iterable[Mapping[str, Sequence[Label]]]) -> None:
        self.schema = schema
        self.rows = 0
        self.numeric: dict[str, NumericStatistics] = {}
        self.discrete: dict[str, DiscreteStatistics] = {}
        self._nulls: dict[str, int] = {}
        self._labels = _merge_labels(schema, labels)
        self._trees = {c.name: _Tree(c) for c in schema if c.kind in NUMERIC}
        self._asked: list[Question] = []
        self._begun = False

    def questions(self) -> list[Question]:
        """What to ask every shard next; empty when everything is known."""
        questions = []
        if not self._begun:
            questions += [Question(name, labels=(None,)) for name in self._trees]
            questions += [
                Question(name, labels=(*known, None)) for name, known in self._labels.items()
            ]
        questions += [
            Question(name, parents=tuple(tree.parents), shift=tree.shift, bits=tree.bits)
            for name, tree in self._trees.items()
            if tree.parents
        ]
        self._asked, self._begun = questions, True
        return questions

    def take(self, answers: Sequence[Integers]) -> None:
        """The sums of the shards' answers, in the order of the questions."""
        for question, counts in zip(self._asked, answers, strict=True):
            if question.labels is None:
                continue
            self._nulls[question.column] = int(counts[-1])
            if question.column in self._labels:
                self.discrete[question.column] = DiscreteStatistics(
                    nulls=int(counts[-1]), labels=question.labels[:-1], counts=counts[:-1]
                )
                self.rows = max(self.rows, int(counts.sum()))
        for question, counts in zip(self._asked, answers, strict=True):
            if question.labels is None:
                self.rows = max(self.rows, int(counts.sum()) + self._nulls[question.column])
        for question, counts in zip(self._asked, answers, strict=True):
            if question.labels is None:
                self._grow(self._trees[question.column], question, counts)

    def _grow(self, tree: _Tree, question: Question, counts: Integers) -> None:
        """Divide the bins that need it; the others are leaves."""
        shift = question.shift - question.bits
        keys = question.first_keys()[counts > 0]
        counts = counts[counts > 0]
        low = _values(keys)
        high = _values(keys + np.uint64((1 << shift) - 1))
        if question.shift == 64:
            tree.octaves = (float(low[0]), float(high[-1])) if len(low) else (0.0, 0.0)
            divide = np.ones(len(counts), dtype=bool)
            single = np.zeros(len(counts), dtype=bool)
        else:
            single = _holds_one_number(low, high, tree.column.decimals) | (shift == 0)
            heavy = counts >= max(math.ceil(POINT_MASS * self.rows), SMALL_CELL)
            divide = heavy & ~single
            low, high = _to_grid(low, high, tree.column.decimals)
            leaves = zip(
                low[~divide], high[~divide], counts[~divide], (heavy & single)[~divide], strict=True
            )
            tree.bins += [(float(a), float(b), int(n), bool(atom)) for a, b, n, atom in leaves]
        tree.parents = [int(key) >> shift for key in keys[divide]]
        tree.bits = HISTOGRAM_BITS if question.shift == 64 else REFINE_BITS
        tree.shift = shift
        if not tree.parents:
            self.numeric[tree.column.name] = _numeric_statistics(
                tree, self._nulls[tree.column.name]
            )


def _merge_labels(
    schema: Schema, found: Iterable[Mapping[str, Sequence[Label]]]
) -> dict[str, tuple[Label, ...]]:
    """The sorted union of each column's labels; all text as soon as one of them is."""
    found = list(found)
    merged: dict[str, tuple[Label, ...]] = {}
    for column in schema:
        if column.kind not in DISCRETE:
            continue
        union: set[Label] = set()
        if column.categories is not None:
            union |= set(column.categories)
        for shard in found:
            union |= set(shard.get(column.name, ()))
        if any(isinstance(label, str) for label in union):
            union = {str(label) for label in union}
        # All text or all numbers by now, so that they can be compared.
        merged[column.name] = tuple(sorted(union))  # type: ignore[type-var]
    return merged


def _holds_one_number(low: Floats, high: Floats, decimals: int | None) -> npt.NDArray[np.bool_]:
    """Which bins [low, high] hold exactly one multiple of 10**-decimals."""
    if decimals is None:
        return np.zeros(len(low), dtype=bool)
    first, last = _to_grid(low, high, decimals)
    single: npt.NDArray[np.bool_] = first == last
    return single


def _to_grid(low: Floats, high: Floats, decimals: int | None) -> tuple[Floats, Floats]:
    """The smallest and largest multiple of 10**-decimals in each bin that holds any."""
    if decimals is None:
        return low, high
    scale = 10.0**decimals
    with np.errstate(over="ignore", invalid="ignore"):
        first, last = np.floor(low * scale), np.ceil(high * scale)
        # Dividing a whole number by a power of ten is correctly rounded, so it gives the very
        # float that the decimal text reads as; multiplying may be off by one unit, hence the steps.
        first = np.where(first / scale < low, first + 1, first)
        first = np.where(first / scale < low, first + 1, first)
        last = np.where(last / scale > high, last - 1, last)
        last = np.where(last / scale > high, last - 1, last)
        first, last = first / scale + 0.0, last / scale + 0.0
    on_grid = np.isfinite(first) & np.isfinite(last) & (first <= last)
    return np.where(on_grid, first, low), np.where(on_grid, last, high)


def _numeric_statistics(tree: _Tree, nulls: int) -> NumericStatistics:
    """Leaves in order, point masses apart, and bounds that no handful of rows decides."""
    bins = sorted(tree.bins)
    low = np.array([b[0] for b in bins])
    high = np.array([b[1] for b in bins])
    counts = np.array([b[2] for b in bins], dtype=np.int64)
    is_atom = np.array([b[3] for b in bins], dtype=bool)
    total = int(counts.sum())
    lower, upper = tree.octaves
    if total >= 2 * SMALL_CELL:
        lower = float(low[np.searchsorted(np.cumsum(counts), SMALL_CELL)])
        upper = float(high[::-1][np.searchsorted(np.cumsum(counts[::-1]), SMALL_CELL)])
    if tree.column.lower is not None:
        lower = float(tree.column.lower)
    if tree.column.upper is not None:
        upper = float(tree.column.upper)
    first, last = _to_grid(np.array([lower]), np.array([upper]), tree.column.decimals)
    middle = low / 2 + high / 2  # halves first: the sum of two large floats may overflow
    return NumericStatistics(
        nulls=nulls,
        positions=middle[~is_atom],
        counts=counts[~is_atom],
        atoms=low[is_atom],
        atom_counts=counts[is_atom],
        lower=float(first[0]),
        upper=float(last[0]),
    )
