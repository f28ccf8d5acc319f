"""The encoder of a whole table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.codes import Codes, Layout
from genesis.encoding import ColumnEncoding
from genesis.encoding.discrete import DiscreteEncoding
from genesis.encoding.grid import GridEncoding
from genesis.encoding.numeric import NumericEncoding
from genesis.errors import SchemaError
from genesis.mixtures import fit_mixtures
from genesis.schema import Kind, Schema
from genesis.schema.keys import new_keys
from genesis.statistics import DISCRETE, NUMERIC, NumericStatistics, PooledStatistics
from genesis.values import as_column

__all__ = ["Encoder"]

Floats = npt.NDArray[np.float64]

FIT_BINS = 1024  # bins of a column that its mixture is fitted on, at most


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
            null_modes=tuple(
                e.nulls > 0
                for e in self.encodings
                if isinstance(e, NumericEncoding | GridEncoding) and e.has_scalar
            ),
        )
        self.block_of = {e.column.name: i for i, e in enumerate(self.encodings)}

    @classmethod
    def fit(
        cls,
        statistics: PooledStatistics,
        *,
        max_categories: int = 1000,
        max_modes: int = 10,
        grid: int | None = None,
    ) -> Encoder:
        """Fit on pooled statistics.

        Args:
            statistics: Sums of all shards, with no question left.
            max_categories: Labels of a column that get a code of their own; the rest share one.
            max_modes: Gaussian modes of a numeric column.
            grid: Bins of a numeric column, for models that learn bins instead of modes.
        """
        numeric = [c for c in statistics.schema if c.kind in NUMERIC and grid is None]
        inner = [c for c in numeric if len(statistics.numeric[c.name].counts)]
        histograms = [_coarsen(statistics.numeric[c.name]) for c in inner]
        fitted = fit_mixtures(
            [x for x, _ in histograms], [w for _, w in histograms], components=max_modes
        )
        mixtures = {c.name: mixture for c, mixture in zip(inner, fitted, strict=True)}
        encodings: list[ColumnEncoding] = []
        for column in statistics.schema:
            name = column.name
            if column.kind in NUMERIC and grid is not None:
                encodings.append(GridEncoding.build(column, statistics.numeric[name], grid))
            elif column.kind in NUMERIC:
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

    def encode(self, table: pd.DataFrame, rng: np.random.Generator | None) -> Codes:
        """Encode rows.

        Args:
            table: Rows with the schema's columns.
            rng: Draws the modes; if None, each is the likeliest, and decided by its row alone.

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
        values: MutableMapping[str, npt.NDArray[Any]],
        n: int,
        rng: np.random.Generator,
        first_row: int = 0,
    ) -> pd.DataFrame:
        """A table of decoded values, constants and new keys; values is empty afterwards."""
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
                columns[column.name] = as_column(column, values.pop(column.name), known)
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
        kinds: dict[str, Any] = {
            encoding.kind: encoding
            for encoding in (NumericEncoding, GridEncoding, DiscreteEncoding)
        }
        encodings = [
            kinds[each["kind"]].from_dict(schema[each["column"]], each)
            for each in values["columns"]
        ]
        return cls(schema, encodings, int(values["rows"]))

    def suits(self, schema: Schema) -> bool:
        """Whether any table of a schema can be encoded, whatever its values are.

        An encoder that comes from others may be made so that a certain value breaks it.
        """
        columns = [e.column for e in self.encodings]
        return (
            [replace(c, decimals=None) for c in self.schema]
            == [replace(c, decimals=None) for c in schema]
            and len({c.name for c in columns}) == len(columns)
            # All of them: what a promise is divided among follows from their number.
            and {c.name for c in columns}
            == {c.name for c in schema if c.kind in (*NUMERIC, *DISCRETE)}
            and all(
                e.column.kind in (DISCRETE if isinstance(e, DiscreteEncoding) else NUMERIC)
                and e.is_sound
                for e in self.encodings
            )
        )

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
