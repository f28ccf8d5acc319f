"""Categorical and boolean columns: labels, a tail of rare ones, and null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.schema import Column
from genesis.statistics import DiscreteStatistics
from genesis.values import Label, labels

__all__ = ["DiscreteEncoding"]

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DiscreteEncoding:
    """A categorical or boolean column: its commonest labels, then the tail, then null.

    Args:
        column: The column.
        labels: Labels with a code of their own, sorted.
        label_counts: Rows of each.
        tail: The rarest labels of a column with too many; one code together, told apart again by
            their counts.
        tail_counts: Rows of each.
        nulls: Rows that are null; null has a code if there are any.
    """

    column: Column
    labels: tuple[Label, ...]
    label_counts: Integers
    tail: tuple[Label, ...]
    tail_counts: Integers
    nulls: int
    kind: ClassVar[str] = "discrete"

    @classmethod
    def build(
        cls, column: Column, statistics: DiscreteStatistics, max_categories: int
    ) -> DiscreteEncoding:
        """From the pooled counts; ties at the limit go by the order of the labels."""
        order = np.argsort(-statistics.counts, kind="stable")
        kept = np.sort(order)
        rare = order[:0]
        if len(order) > max_categories:
            kept, rare = np.sort(order[: max_categories - 1]), np.sort(order[max_categories - 1 :])
            rare = rare[statistics.counts[rare] > 0]
        return cls(
            column=column,
            labels=tuple(statistics.labels[i] for i in kept),
            label_counts=statistics.counts[kept],
            tail=tuple(statistics.labels[i] for i in rare),
            tail_counts=statistics.counts[rare],
            nulls=statistics.nulls,
        )

    @property
    def has_scalar(self) -> bool:
        """A label has no inside."""
        return False

    @property
    def is_sound(self) -> bool:
        """Whether it encodes every label: as many counts as labels, and nothing twice."""
        every = (*self.labels, *self.tail)
        return (
            all(isinstance(label, str | int | float) for label in every)
            and len(set(every)) == len(every)
            and self.label_counts.shape == (len(self.labels),)
            and self.tail_counts.shape == (len(self.tail),)
            and self.nulls >= 0
        )

    @property
    def known(self) -> list[Label]:
        """All labels, the tail's too, in their order."""
        return sorted((*self.labels, *self.tail))  # type: ignore[type-var]

    @property
    def counts(self) -> Integers:
        """(width,) pooled rows of the labels, the tail and null."""
        tail = [self.tail_counts.sum()] if self.tail else []
        null = [self.nulls] if self.nulls else []
        return np.concatenate([self.label_counts, tail, null]).astype(np.int64)

    def encode(
        self, values: pd.Series[Any], rng: np.random.Generator | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Codes of the labels; a label never seen belongs to the tail, or to nothing (-1)."""
        as_text = any(isinstance(label, str) for label in (*self.labels, *self.tail))
        given, found = labels(values, as_text)
        code_of: dict[Label, int] = {label: i for i, label in enumerate(self.labels)}
        unseen = len(self.labels) if self.tail else -1
        code_of[None] = len(self.labels) + bool(self.tail) if self.nulls else -1
        lookup = np.array([code_of.get(label, unseen) for label in found], dtype=np.int32)
        return np.zeros(len(given), dtype=np.float32), lookup[given]

    def decode(
        self,
        scalars: npt.NDArray[np.float32] | None,
        codes: npt.NDArray[np.int32],
        rng: np.random.Generator,
        among: frozenset[Label] | None = None,
    ) -> npt.NDArray[Any]:
        """Labels (n,), None for null; the tail's are drawn by their counts.

        If some labels are given, the tail's are drawn among them, as long as the tail has any.
        """
        fixed = np.array([*self.labels, *([None] if self.tail else []), None, None], dtype=object)
        decoded = fixed[codes]
        if self.tail:
            rows = np.flatnonzero(codes == len(self.labels))
            wanted = np.array([among is None or label in among for label in self.tail])
            wanted |= not wanted.any()  # the model missed what it was told: its row is dropped
            chance = np.cumsum(np.where(wanted, self.tail_counts, 0).astype(np.float64))
            drawn = np.searchsorted(chance, rng.random(len(rows)) * chance[-1], side="right")
            decoded[rows] = np.array(self.tail, dtype=object)[drawn]
        return decoded

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "column": self.column.name,
            "labels": list(self.labels),
            "label_counts": self.label_counts.tolist(),
            "tail": list(self.tail),
            "tail_counts": self.tail_counts.tolist(),
            "nulls": self.nulls,
        }

    @classmethod
    def from_dict(cls, column: Column, values: Mapping[str, Any]) -> DiscreteEncoding:
        """The inverse of `to_dict`."""
        return cls(
            column=column,
            labels=tuple(values["labels"]),
            label_counts=np.array(values["label_counts"], np.int64),
            tail=tuple(values["tail"]),
            tail_counts=np.array(values["tail_counts"], np.int64),
            nulls=int(values["nulls"]),
        )
