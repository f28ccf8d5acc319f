"""What a shard says about its columns, and what the sums say about the pooled table.

A shard answers questions with vectors of counts, and nothing but their sum over the shards is ever
used. So K shards and the pooled table give the same statistics, bit for bit.

Numeric columns are counted on the tree of bins of `counting`. The powers of two that are populated
are counted in 128 bins each. From there on only bins that hold at least 1 % of the rows are split,
down to a single number if need be: so a point mass (zeros, caps, default codes) is found exactly
without any value being sent, resolution goes where the rows are, and an outlier of 1e30 costs one
bin.

Under differential privacy every answer comes with noise, and the number of questions is fixed
beforehand: see `noisy_tree`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.counting import (
    DECIMALS,
    POINT_MASS,
    RANGE_BITS,
    SMALL_CELL,
    DiscreteStatistics,
    Leaves,
    NumericStatistics,
    Question,
    settled,
    sorted_labels,
    to_grid,
)
from genesis.counting import keys_of as _keys
from genesis.counting import values_of as _values
from genesis.denoising import denoised, quantile
from genesis.errors import DataError
from genesis.noisy_tree import NoisyTree, covering_decimals
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
    "planned_releases",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

HISTOGRAM_BITS = 7  # 128 bins in a populated power of two
REFINE_BITS = 9  # 512 children of a heavy bin; 64 - 12 - 7 = 5 x 9 levels at most
FINE = 1 / 5000  # share of the rows from which bins are divided where single values matter
FINE_BINS = 1 << 16  # of a column at once, where there may be many heavy bins

NUMERIC = (Kind.NUMERIC, Kind.DATETIME)
DISCRETE = (Kind.CATEGORICAL, Kind.BOOLEAN)


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
            column.name: sorted_labels(
                label for label in self._labels(column)[1] if label is not None
            )
            for column in self.schema
            if column.kind in DISCRETE and column.categories is None
        }

    def answer(self, question: Question) -> Integers:
        """The counts asked for, one number a label or bin."""
        column = self.schema[question.column]
        if question.labels is not None:
            return self._count_labels(column, question.labels)
        keys, counts = self._sorted_keys(column)
        if question.decimals:
            dtype = pd.api.types.pandas_dtype(self._table[column.name].dtype)
            needed = _decimals(_values(keys), getattr(dtype, "numpy_dtype", dtype))
            return np.bincount(needed, counts, minlength=DECIMALS).astype(np.int64)
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


# --- the sums ---


@dataclass
class _Tree:
    """The part of the tree that is known of one column."""

    column: Column
    fine: bool = False
    parents: list[int] = field(default_factory=lambda: [0])
    shift: int = 64
    bits: int = RANGE_BITS
    bins: list[tuple[float, float, int, bool]] = field(default_factory=list)  # low, high, n, atom
    octaves: tuple[float, float] = (0.0, 0.0)

    def question(self) -> Question | None:
        """The bins to count next; None when all are leaves."""
        if not self.parents:
            return None
        name, parents = self.column.name, tuple(self.parents)
        return Question(name, parents=parents, shift=self.shift, bits=self.bits)

    def take(self, question: Question, counts: Integers, rows: int) -> None:
        """Divide the bins that need it; the others are leaves."""
        shift = question.shift - question.bits
        keys = question.first_keys()[counts > 0]
        counts = counts[counts > 0]
        low = _values(keys)
        high = _values(keys + np.uint64((1 << shift) - 1))
        if question.shift == 64:
            self.octaves = (float(low[0]), float(high[-1])) if len(low) else (0.0, 0.0)
            divide = np.ones(len(counts), dtype=bool)
            single = np.zeros(len(counts), dtype=bool)
        else:
            single = _holds_one_number(low, high, self.column.decimals) | (shift == 0)
            heavy = counts >= max(math.ceil(POINT_MASS * rows), SMALL_CELL)
            fine = counts >= max(math.ceil(FINE * rows), SMALL_CELL)
            divide = (fine if self.fine else heavy) & ~single
            low, high = to_grid(low, high, self.column.decimals)
            leaves = zip(
                low[~divide], high[~divide], counts[~divide], (heavy & single)[~divide], strict=True
            )
            self.bins += [(float(a), float(b), int(n), bool(atom)) for a, b, n, atom in leaves]
        self.parents = [int(key) >> shift for key in keys[divide]]
        self.bits = HISTOGRAM_BITS if question.shift == 64 else REFINE_BITS
        if self.fine and question.shift != 64 and self.parents:
            room = (FINE_BINS // len(self.parents)).bit_length() - 1
            self.bits = min(max(room, 1), REFINE_BITS, shift)
        self.shift = shift

    def statistics(self, nulls: int) -> NumericStatistics:
        """What is known when all bins are leaves."""
        bins = sorted(self.bins)
        leaves = Leaves(
            low=np.array([b[0] for b in bins]),
            high=np.array([b[1] for b in bins]),
            counts=np.array([b[2] for b in bins], dtype=np.int64),
            is_atom=np.array([b[3] for b in bins], dtype=bool),
        )
        return settled(self.column, leaves, nulls, self.octaves)


class PooledStatistics:
    """The statistics of all shards together, asked for step by step.

    Ask `questions()`, sum the shards' answers, `take()` them, until there are no more questions.

    Args:
        schema: The schema agreed on.
        labels: Labels of each discrete column whose categories are not public, of all shards.
        private: Whether the answers come with noise. Then no more is asked than
            `planned_releases` says, decimals that are not public are asked for too, and `schema`
            has them in the end.
        fine: Whether single values are told apart that fewer than 1 % of the rows have, down to
            one row in 5,000. Answers with noise are as fine as the noise lets them be.
    """

    def __init__(
        self,
        schema: Schema,
        labels: Iterable[Mapping[str, Sequence[Label]]],
        *,
        private: bool = False,
        fine: bool = False,
    ) -> None:
        self.schema = schema
        self.rows = 0
        self.numeric: dict[str, NumericStatistics] = {}
        self.discrete: dict[str, DiscreteStatistics] = {}
        self._nulls: dict[str, int] = {}
        self._labels = _merge_labels(schema, labels)
        numeric = [column for column in schema if column.kind in NUMERIC]
        self._trees = {} if private else {column.name: _Tree(column, fine) for column in numeric}
        self._noisy = {column.name: NoisyTree(column) for column in numeric} if private else {}
        self._private = private
        self._asked: list[Question] = []
        self._begun = False

    def questions(self) -> list[Question]:
        """What to ask every shard next; empty when everything is known."""
        questions = []
        trees: dict[str, _Tree | NoisyTree] = {**self._trees, **self._noisy}
        if not self._begun:
            questions += [Question(name, labels=(None,)) for name in trees]
            questions += [
                Question(name, labels=(*known, None)) for name, known in self._labels.items()
            ]
            questions += [
                Question(name, decimals=True)
                for name, tree in self._noisy.items()
                if tree.decimals is None
            ]
        asked_of_trees = (tree.question() for tree in trees.values())
        questions += [question for question in asked_of_trees if question is not None]
        self._asked, self._begun = questions, True
        return questions

    def take(
        self, answers: Sequence[Integers], deviation: float = 0.0, rows: float | None = None
    ) -> None:
        """The sums of the shards' answers, in the order of the questions.

        Args:
            answers: One array a question.
            deviation: If private: standard deviation of the noise in each sum, which is
                sqrt(sum of variances) where every shard adds noise of its own.
            rows: If private: the noisy number of rows of all shards, the same at every step.
        """
        if self._private:
            self._take_noisy(answers, deviation, rows)
            return
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
                name, tree = question.column, self._trees[question.column]
                tree.take(question, counts, self.rows)
                if not tree.parents:
                    self.numeric[name] = tree.statistics(self._nulls[name])

    def _take_noisy(
        self, answers: Sequence[Integers], deviation: float, rows: float | None
    ) -> None:
        """Learn noisy sums: what goes before what is needed to understand it."""
        if rows is None:
            raise DataError("noisy counts without a noisy number of rows", do="give rows")
        self.rows = max(round(rows), 0)
        noise = quantile() * deviation  # what a single empty cell does not exceed
        for question, counts in zip(self._asked, answers, strict=True):
            if question.decimals:
                self._noisy[question.column].decimals = covering_decimals(counts, deviation)
            elif question.labels is not None:
                some = self.schema[question.column].nulls and counts[-1] > noise
                nulls = int(counts[-1]) if some else 0
                self._nulls[question.column] = min(nulls, self.rows)
                if question.column in self._labels:
                    self.discrete[question.column] = self._noisy_labels(question, counts, noise)
        for question, counts in zip(self._asked, answers, strict=True):
            if question.labels is None and not question.decimals:
                present = self.rows - self._nulls[question.column]
                self._noisy[question.column].take(question, counts, deviation, present)
        for name, tree in self._noisy.items():
            if name not in self.numeric and tree.question() is None:
                nulls = self._nulls[name]
                self.numeric[name] = tree.statistics(nulls, self.rows - nulls)
        self.schema = Schema(tuple(map(self._with_decimals, self.schema)))

    def _noisy_labels(
        self, question: Question, counts: Integers, noise: float
    ) -> DiscreteStatistics:
        """Labels that add up to the rows, as far as the labels that are known can account for them.

        A column of which nothing was released is null in all rows: it must be something.
        """
        assert question.labels is not None
        nulls, known = self._nulls[question.column], question.labels[:-1]
        present = float(self.rows - nulls)
        if not known:
            nulls = max(self.rows, 1)
        elif (found := float(counts[:-1].sum())) < present - noise * math.sqrt(len(known)):
            present = max(found, 0.0)  # the others have labels too rare to be told
        return DiscreteStatistics(nulls, known, denoised(counts[:-1], present))

    def _with_decimals(self, column: Column) -> Column:
        """A column as it is known by now."""
        if column.kind is not Kind.NUMERIC or column.name not in self._noisy:
            return column
        return replace(column, decimals=self._noisy[column.name].decimals)


def planned_releases(schema: Schema) -> int:
    """How many vectors of counts private statistics ask for, of which a row changes one count each.

    Known before anything is asked. Of a column of which nothing is left to be found out, less is
    asked in the end.
    """
    trees = [NoisyTree(column) for column in schema if column.kind in NUMERIC]
    labels = sum(column.kind in DISCRETE for column in schema)
    return labels + sum(tree.releases + (tree.decimals is None) for tree in trees)


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
    first, last = to_grid(low, high, decimals)
    single: npt.NDArray[np.bool_] = first == last
    return single


def _decimals(values: Floats, dtype: Any) -> Integers:
    """The fewest decimals d <= 8 that write each value in its type, 9 if none do: (n,).

    k / 10^d is the float next to the decimal fraction as long as k and 10^d are exact.
    """
    needed = np.full(len(values), DECIMALS - 1, dtype=np.int64)
    for d in reversed(range(DECIMALS - 1)):
        scale = 10.0**d
        rounded = np.rint(np.where(np.abs(values) < 2**50, values, 0) * scale) / scale
        fits = rounded.astype(dtype) == values.astype(dtype)
        exact = np.abs(values) <= 2**50 / scale
        needed[fits & exact if d else values == np.rint(values)] = d
    return needed
