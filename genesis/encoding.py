"""The encoder: rows of a table to codes that a network can learn, and back.

Mode-specific normalisation (Xu et al. 2019, section 4.2) fitted on summed histograms instead of on
rows. A numeric value becomes the number of a mode and its position within it; a mode is a Gaussian
of the column's mixture, a point mass, or null. A label becomes its number. See `codes.Layout` for
the order of the features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.codes import Codes, Layout
from genesis.errors import SchemaError
from genesis.keys import new_keys
from genesis.mixtures import Mixture, fit_mixtures
from genesis.schema import Column, Kind, Schema
from genesis.statistics import (
    DISCRETE,
    NUMERIC,
    DiscreteStatistics,
    NumericStatistics,
    PooledStatistics,
)
from genesis.values import Label, as_column, labels, numbers

__all__ = ["ColumnEncoding", "DiscreteEncoding", "Encoder", "NumericEncoding"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MODE_HALF_WIDTH = 4.0  # standard deviations of a mode that the scalar's [-1, 1] spans
SCALAR_LIMIT = 0.99  # a scalar never quite reaches +-1, where tanh has no gradient
FIT_BINS = 1024  # bins of a column that its mixture is fitted on, at most
BLOCK_ROWS = 65_536  # rows encoded at a time, to bound memory


class ColumnEncoding(Protocol):
    """How one column becomes a code and, if it has an inside, a scalar."""

    @property
    def column(self) -> Column:
        """The column."""

    @property
    def has_scalar(self) -> bool:
        """Whether codes need a position within them."""

    @property
    def counts(self) -> Integers:
        """(width,) pooled rows of every code."""

    def encode(
        self, values: pd.Series[Any], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Scalars (n,) in [-1, 1] and codes (n,); -1 for a label that was never seen."""

    def decode(
        self,
        scalars: npt.NDArray[np.float32] | None,
        codes: npt.NDArray[np.int32],
        rng: np.random.Generator,
    ) -> npt.NDArray[Any]:
        """Values (n,): float64 with NaN for null, or labels as objects with None for null."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""


@dataclass(frozen=True)
class NumericEncoding:
    """A numeric or datetime column: Gaussian modes, then point masses, then null.

    Args:
        column: The column.
        mixture: Gaussian modes of what is neither a point mass nor null, or None.
        mode_counts: (k,) rows of each Gaussian mode, by the mixture's weights.
        atoms: (a,) ascending point masses.
        atom_counts: (a,) rows of each.
        nulls: Rows that are null; the null mode exists if there are any.
        lower: Smallest value decoded.
        upper: Largest value decoded.
    """

    column: Column
    mixture: Mixture | None
    mode_counts: Integers
    atoms: Floats
    atom_counts: Integers
    nulls: int
    lower: float
    upper: float
    kind: ClassVar[str] = "numeric"

    @classmethod
    def build(
        cls, column: Column, statistics: NumericStatistics, mixture: Mixture | None
    ) -> NumericEncoding:
        """From the pooled statistics of the column and the mixture fitted on them."""
        rest = statistics.counts.sum()
        weights = mixture.weights if mixture is not None else np.empty(0)
        # Public bounds may exclude point masses, which then count as the bound.
        inside = np.clip(statistics.atoms, statistics.lower, statistics.upper)
        atoms, place = np.unique(inside, return_inverse=True)
        atom_counts = np.zeros(len(atoms), dtype=np.int64)
        np.add.at(atom_counts, place, statistics.atom_counts)
        return cls(
            column=column,
            mixture=mixture,
            mode_counts=np.rint(weights * rest).astype(np.int64),
            atoms=atoms,
            atom_counts=atom_counts,
            nulls=statistics.nulls,
            lower=statistics.lower,
            upper=statistics.upper,
        )

    @property
    def has_scalar(self) -> bool:
        """A column of point masses alone has no inside: its values are labels."""
        return self.mixture is not None

    @property
    def n_modes(self) -> int:
        """Number of Gaussian modes."""
        return len(self.mixture.means) if self.mixture is not None else 0

    @property
    def counts(self) -> Integers:
        """(width,) pooled rows of Gaussian modes, point masses and null."""
        null = [self.nulls] if self.nulls else []
        return np.concatenate([self.mode_counts, self.atom_counts, null]).astype(np.int64)

    def encode(
        self, values: pd.Series[Any], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Draw each value's mode by its responsibility, as CTGAN does; then its place in it."""
        given = numbers(self.column, values)
        scalars = np.zeros(len(given), dtype=np.float32)
        null_code = self.n_modes + len(self.atoms) if self.nulls else -1
        codes = np.full(len(given), null_code, dtype=np.int32)
        present = np.flatnonzero(~np.isnan(given))
        inside = np.clip(given[present], self.lower, self.upper)
        if len(self.atoms):
            nearest = _nearest(self.atoms, inside)
            on_atom = self.atoms[nearest] == inside
            if self.mixture is None:  # nothing else to be: a value never seen is the nearest one
                on_atom[:] = True
            codes[present[on_atom]] = self.n_modes + nearest[on_atom]
            present, inside = present[~on_atom], inside[~on_atom]
        if self.mixture is not None:
            for start in range(0, len(present), BLOCK_ROWS):
                rows = present[start : start + BLOCK_ROWS]
                codes[rows], scalars[rows] = _place(
                    self.mixture, inside[start : start + BLOCK_ROWS], rng
                )
        return scalars, codes

    def decode(
        self,
        scalars: npt.NDArray[np.float32] | None,
        codes: npt.NDArray[np.int32],
        rng: np.random.Generator,
    ) -> Floats:
        """Values (n,), NaN for null, rounded as the column is and within its bounds."""
        fixed = np.concatenate([np.zeros(self.n_modes), self.atoms, [np.nan]])
        decoded = fixed[codes]
        if self.mixture is not None and scalars is not None:
            inside = np.flatnonzero((codes >= 0) & (codes < self.n_modes))
            modes = codes[inside]
            x = scalars[inside] * (MODE_HALF_WIDTH * self.mixture.deviations)[modes]
            decoded[inside] = self.settle(x + self.mixture.means[modes])
        return decoded

    def settle(self, values: Floats) -> Floats:
        """Values on the column's grid and within its bounds."""
        clipped = np.clip(values, self.lower, self.upper)
        if self.column.decimals is None:
            return clipped
        return np.clip(np.round(clipped, self.column.decimals), self.lower, self.upper) + 0.0

    def reach(self, mode: int) -> tuple[float, float]:
        """The values that a Gaussian mode can decode to."""
        assert self.mixture is not None
        half = MODE_HALF_WIDTH * self.mixture.deviations[mode]
        ends = np.array([self.mixture.means[mode] - half, self.mixture.means[mode] + half])
        low, high = self.settle(ends)
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; floats keep every bit."""
        mixture = self.mixture
        return {
            "kind": self.kind,
            "column": self.column.name,
            "weights": mixture.weights.tolist() if mixture else None,
            "means": mixture.means.tolist() if mixture else None,
            "deviations": mixture.deviations.tolist() if mixture else None,
            "mode_counts": self.mode_counts.tolist(),
            "atoms": self.atoms.tolist(),
            "atom_counts": self.atom_counts.tolist(),
            "nulls": self.nulls,
            "lower": self.lower,
            "upper": self.upper,
        }

    @classmethod
    def from_dict(cls, column: Column, values: Mapping[str, Any]) -> NumericEncoding:
        """The inverse of `to_dict`."""
        mixture = None
        if values["weights"] is not None:
            mixture = Mixture(
                *(np.array(values[key], np.float64) for key in ("weights", "means", "deviations"))
            )
        return cls(
            column=column,
            mixture=mixture,
            mode_counts=np.array(values["mode_counts"], np.int64),
            atoms=np.array(values["atoms"], np.float64),
            atom_counts=np.array(values["atom_counts"], np.int64),
            nulls=int(values["nulls"]),
            lower=float(values["lower"]),
            upper=float(values["upper"]),
        )


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
        self, values: pd.Series[Any], rng: np.random.Generator
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


class Encoder:
    """Encodes the rows of a schema and decodes codes to rows.

    Build it with `fit`. It holds released sums and what was fitted on them: no row, no exact
    minimum or maximum of a handful of rows, nothing of a single shard.

    Args:
        schema: The schema.
        encodings: One for every column that is neither an id nor constant, in the schema's order.
        rows: Number of rows that it was fitted on.
    """

    def __init__(self, schema: Schema, encodings: Sequence[ColumnEncoding], rows: int) -> None:
        self.schema, self.rows = schema, rows
        # Scalars and their modes first, then what a model can be conditioned on: see codes.Layout.
        self.encodings = tuple(
            [e for e in encodings if e.has_scalar] + [e for e in encodings if not e.has_scalar]
        )
        self.layout = Layout(
            mode_widths=tuple(len(e.counts) for e in self.encodings if e.has_scalar),
            category_widths=tuple(len(e.counts) for e in self.encodings if not e.has_scalar),
        )
        self.block_of = {e.column.name: i for i, e in enumerate(self.encodings)}

    @classmethod
    def fit(
        cls, statistics: PooledStatistics, *, max_categories: int = 1000, max_modes: int = 10
    ) -> Encoder:
        """Fit on pooled statistics.

        Args:
            statistics: Sums of all shards, with no question left.
            max_categories: Labels of a column that get a code of their own; the rest share one.
            max_modes: Gaussian modes of a numeric column.
        """
        numeric = [c for c in statistics.schema if c.kind in NUMERIC]
        inner = [c for c in numeric if len(statistics.numeric[c.name].counts)]
        histograms = [_coarsen(statistics.numeric[c.name]) for c in inner]
        fitted = fit_mixtures(
            [x for x, _ in histograms], [w for _, w in histograms], components=max_modes
        )
        mixtures = {c.name: mixture for c, mixture in zip(inner, fitted, strict=True)}
        encodings: list[ColumnEncoding] = []
        for column in statistics.schema:
            name = column.name
            if column.kind in NUMERIC:
                encodings.append(
                    NumericEncoding.build(column, statistics.numeric[name], mixtures.get(name))
                )
            elif column.kind in DISCRETE:
                encodings.append(
                    DiscreteEncoding.build(column, statistics.discrete[name], max_categories)
                )
        return cls(statistics.schema, encodings, statistics.rows)

    @property
    def frequencies(self) -> Floats:
        """(S,) pooled rows of every code of every block, in the order of the blocks."""
        counts = [encoding.counts for encoding in self.encodings]
        return np.concatenate([*counts, np.empty(0)]).astype(np.float64)

    def encode(self, table: pd.DataFrame, rng: np.random.Generator) -> Codes:
        """Encode rows.

        Args:
            table: Rows with the schema's columns.
            rng: Draws the modes.

        Raises:
            SchemaError: A column is missing.
            DataError: A value is not of its column's kind.
        """
        scalars = np.zeros((len(table), self.layout.n_scalars), dtype=np.float32)
        codes = np.empty((len(table), self.layout.n_blocks), dtype=np.int32)
        for block, encoding in enumerate(self.encodings):
            if encoding.column.name not in table:
                raise SchemaError(
                    f"column '{encoding.column.name}' is missing", do="add it, or fit without it"
                )
            inside, codes[:, block] = encoding.encode(table[encoding.column.name], rng)
            if encoding.has_scalar:
                scalars[:, block] = inside
        return Codes(scalars, codes)

    def values(self, codes: Codes, block: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """The decoded values of one column, not yet of the table's type."""
        scalars = codes.scalars[:, block] if block < self.layout.n_scalars else None
        return self.encodings[block].decode(scalars, codes.codes[:, block], rng)

    def decode(self, codes: Codes, rng: np.random.Generator, first_row: int = 0) -> pd.DataFrame:
        """Decode rows to a table with the types and the order of the schema.

        Args:
            codes: Encoded rows.
            rng: Draws labels of a tail and new keys.
            first_row: Number of the first row, for keys that must not repeat over calls.
        """
        values = {
            e.column.name: self.values(codes, block, rng) for block, e in enumerate(self.encodings)
        }
        return self.assemble(values, len(codes), rng, first_row)

    def assemble(
        self,
        values: Mapping[str, npt.NDArray[Any]],
        n: int,
        rng: np.random.Generator,
        first_row: int = 0,
    ) -> pd.DataFrame:
        """A table of decoded values, constants and new keys."""
        columns: dict[str, Any] = {}
        for column in self.schema:
            if column.kind is Kind.ID:
                keys = new_keys(column.format or "", n, rng, first_row)
                columns[column.name] = as_column(column, keys)
            elif column.kind is Kind.CONSTANT:
                constant = np.full(n, column.value, dtype=object)
                columns[column.name] = as_column(column, constant, [column.value])
            else:
                encoding = self.encodings[self.block_of[column.name]]
                known = encoding.known if isinstance(encoding, DiscreteEncoding) else ()
                columns[column.name] = as_column(column, values[column.name], known)
        return pd.DataFrame(columns, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; two encoders are equal if these are."""
        return {
            "rows": self.rows,
            "schema": self.schema.to_dict(),
            "columns": [encoding.to_dict() for encoding in self.encodings],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Encoder:
        """The inverse of `to_dict`."""
        schema = Schema.from_dict(values["schema"])
        kinds: dict[str, Any] = {"numeric": NumericEncoding, "discrete": DiscreteEncoding}
        encodings = [
            kinds[each["kind"]].from_dict(schema[each["column"]], each)
            for each in values["columns"]
        ]
        return cls(schema, encodings, int(values["rows"]))

    @property
    def digest(self) -> str:
        """SHA-256 of all it holds."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _coarsen(statistics: NumericStatistics) -> tuple[Floats, Floats]:
    """At most 1,024 bins: neighbours join if they share a slot of width and a slot of mass.

    Equal width alone would lose the bulk of a column with a long tail, equal mass alone its tail.
    The few values beyond the bounds are drawn in, as encoding does with them: a mode of a mixture
    would otherwise tell where a single outlier lies, or be as wide as it is far away.
    """
    x = np.clip(statistics.positions, statistics.lower, statistics.upper)
    n = statistics.counts.astype(np.float64)
    if len(x) <= FIT_BINS:
        return x, n
    slots = FIT_BINS // 2
    span = (x[-1] - x[0]) or 1.0
    by_width = np.minimum(((x - x[0]) / span * slots).astype(np.int64), slots - 1)
    by_mass = ((np.cumsum(n) - n) / n.sum() * slots).astype(np.int64)
    changes = (np.diff(by_width) > 0) | (np.diff(by_mass) > 0)
    group = np.concatenate([[0], np.cumsum(changes)])
    mass = np.bincount(group, weights=n)
    return np.bincount(group, weights=n * x) / mass, mass.astype(np.float64)


def _place(
    mixture: Mixture, values: Floats, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Modes drawn by responsibility (n,), and positions within them (n,)."""
    distance = (values[:, None] - mixture.means) / mixture.deviations
    log_density = np.log(mixture.weights / mixture.deviations) - 0.5 * distance**2
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    cumulative = np.cumsum(density, axis=1)
    drawn = rng.random(len(values)) * cumulative[:, -1]
    modes = (cumulative <= drawn[:, None]).sum(axis=1).clip(max=len(mixture.means) - 1)
    inside = np.take_along_axis(distance, modes[:, None], axis=1)[:, 0] / MODE_HALF_WIDTH
    return modes.astype(np.int32), np.clip(inside, -SCALAR_LIMIT, SCALAR_LIMIT).astype(np.float32)


def _nearest(ascending: Floats, values: Floats) -> Integers:
    """Index of the nearest of some ascending numbers."""
    right = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    left = (right - 1).clip(min=0)
    nearer_left = np.abs(values - ascending[left]) <= np.abs(ascending[right] - values)
    return np.where(nearer_left, left, right)
