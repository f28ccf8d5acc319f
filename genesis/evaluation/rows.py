"""Tables made comparable: one schema for all, and every cell a number.

Scores must not depend on how a table happens to be ordered. So here, once and for all, columns are
sorted by name and rows by their values; whatever is drawn later by a seed is then drawn alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.errors import DataError, GenesisError, SchemaError
from genesis.schema import Column, Kind, Schema
from genesis.values import Label, labels, numbers

__all__ = ["Aligned", "Columns", "Rows", "align"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Index = Integers | npt.NDArray[np.bool_] | slice

OWNERS = {
    "real": "the real table",
    "synthetic": "the synthetic table",
    "holdout": "the holdout",
    "members": "the table of members",
    "non_members": "the table of non-members",
    "reference": "the reference table",
}
"""What tables are called in messages."""

NEEDED = ("real", "synthetic", "members", "non_members")
"""Tables that cannot be left out where they are named."""


@dataclass(frozen=True)
class Columns:
    """The columns that can be compared, sorted by name: ids and constants are not among them.

    Args:
        numeric: Names of numbers and datetimes.
        discrete: Names of categories and booleans.
        categories: Of every discrete column, the labels of the codes from 1 on; code 0 is the null.
    """

    numeric: tuple[str, ...]
    discrete: tuple[str, ...]
    categories: tuple[tuple[Label, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, numeric ones first."""
        return self.numeric + self.discrete

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of every discrete column, that of the null included."""
        return tuple(len(known) + 1 for known in self.categories)


@dataclass(frozen=True)
class Rows:
    """The rows of one table as numbers.

    Args:
        columns: What the columns are.
        numeric: (n, p) numbers, and datetimes in their unit since 1970; NaN where null.
        codes: (n, q) in [0, size) of each discrete column; 0 where null.
    """

    columns: Columns
    numeric: Floats
    codes: Integers

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: Index) -> Rows:
        """The given rows, in that order."""
        return replace(self, numeric=self.numeric[rows], codes=self.codes[rows])

    def only(self, names: Collection[str]) -> Rows:
        """The same rows with the named columns alone, in the order that they have."""
        columns = self.columns
        numeric = [i for i, name in enumerate(columns.numeric) if name in names]
        discrete = [i for i, name in enumerate(columns.discrete) if name in names]
        kept = Columns(
            tuple(columns.numeric[i] for i in numeric),
            tuple(columns.discrete[i] for i in discrete),
            tuple(columns.categories[i] for i in discrete),
        )
        return Rows(kept, self.numeric[:, numeric], self.codes[:, discrete])

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """The rows of several tables with the same columns, one after the other."""
        return Rows(
            parts[0].columns,
            np.concatenate([part.numeric for part in parts]),
            np.concatenate([part.codes for part in parts]),
        )

    def keys(self) -> npt.NDArray[np.uint64]:
        """(n,) hashes of the rows: equal for equal rows, also those of two tables."""
        cells = pd.concat([pd.DataFrame(self.numeric), pd.DataFrame(self.codes)], axis=1)
        return np.asarray(pd.util.hash_pandas_object(cells, index=False), dtype=np.uint64)

    def order(self) -> Integers:
        """(n,) the places of the rows when they are sorted by their values, column by column."""
        return np.lexsort((*self.codes.T[::-1], *self.numeric.T[::-1]))


@dataclass(frozen=True)
class Aligned:
    """Tables with one schema.

    Args:
        schema: The schema that all have together.
        frames: Name -> the table, with all columns (sorted by name) in the schema's types.
        rows: Name -> the same rows as numbers, in the same order.
    """

    schema: Schema
    frames: dict[str, pd.DataFrame]
    rows: dict[str, Rows]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Numbers of rows and columns of every table."""
        return {
            name: {"rows": len(frame), "columns": frame.shape[1]}
            for name, frame in self.frames.items()
        }


def align(
    tables: Mapping[str, pd.DataFrame | None],
    *,
    schema: Schema | None = None,
    discrete_columns: Sequence[str] = (),
) -> Aligned:
    """Make tables comparable.

    Values that a schema does not foresee (a null, a category that is not stated) are kept: whether
    they occur is for scores to tell.

    Args:
        tables: Name (see `OWNERS`) -> table; None for one that there is not.
        schema: Kinds of the columns; what all tables together say if None.
        discrete_columns: Columns to take as categories, whatever they look like.

    Raises:
        DataError: A table has no rows, or infinities.
        SchemaError: Columns or their kinds differ between tables, or none can be compared.
    """
    given = {name: table for name, table in tables.items() if table is not None or name in NEEDED}
    for name, table in given.items():
        if not isinstance(table, pd.DataFrame):
            raise DataError(
                f"{OWNERS[name]} must be a pandas DataFrame",
                got=type(table).__name__,
                do="read it with genesis.read_table",
            )
        if table.empty:
            raise DataError(f"{OWNERS[name]} has no rows", got=f"{table.shape[1]} columns")
    if schema is None:
        schema = _merged(given, discrete_columns)
    else:
        schema = _lenient(schema.discretise(discrete_columns), given)
    schema = Schema(tuple(sorted(schema, key=lambda column: column.name)))
    if all(column.kind in (Kind.ID, Kind.CONSTANT) for column in schema):
        raise SchemaError(
            "no column can be compared",
            got=f"{len(schema)} columns that are ids, or have one value or none",
            do="add columns of numbers, categories or dates",
        )
    frames = {name: schema.conform(table, OWNERS[name]) for name, table in given.items()}
    rows = _as_rows(schema, frames)
    for name in frames:
        order = rows[name].order()
        frames[name] = frames[name].iloc[order].reset_index(drop=True)
        rows[name] = rows[name].take(order)
    return Aligned(schema, frames, rows)


def _merged(tables: Mapping[str, pd.DataFrame], discrete_columns: Sequence[str]) -> Schema:
    """What all tables together say that their columns are."""
    found = {}
    for name, table in tables.items():
        try:
            found[OWNERS[name]] = Schema.infer(table, discrete_columns)
        except GenesisError as error:  # name the table in what goes wrong
            what = f"{OWNERS[name]}: {error.what}"
            raise type(error)(what, got=error.got, do=error.do) from error
    return Schema.merge(found, owner="{}")


def _lenient(schema: Schema, tables: Mapping[str, pd.DataFrame]) -> Schema:
    """A schema that takes its tables as they are, as long as kinds are right.

    Nulls and new categories are allowed, and what should be constant is what the tables say.
    """
    columns = []
    for column in schema:
        having = {name: table for name, table in tables.items() if column.name in table}
        if column.kind is Kind.CONSTANT and having:
            cells = {name: table[[column.name]] for name, table in having.items()}
            named = [column.name] if column.of is Kind.CATEGORICAL else []
            columns.append(_merged(cells, named)[column.name])
        else:
            columns.append(replace(column, nulls=True, categories=None))
    return Schema(tuple(columns))


def _as_rows(schema: Schema, frames: Mapping[str, pd.DataFrame]) -> dict[str, Rows]:
    """Every table as numbers; codes are the same for all."""
    numeric = [c for c in schema if c.kind in (Kind.NUMERIC, Kind.DATETIME)]
    discrete = [c for c in schema if c.kind in (Kind.CATEGORICAL, Kind.BOOLEAN)]
    coded = [_coded(column, frames) for column in discrete]
    columns = Columns(
        tuple(c.name for c in numeric),
        tuple(c.name for c in discrete),
        tuple(known for _, known in coded),
    )
    return {
        name: Rows(
            columns,
            _matrix([numbers(c, frame[c.name]) for c in numeric], len(frame), np.float64),
            _matrix([codes[name] for codes, _ in coded], len(frame), np.int64),
        )
        for name, frame in frames.items()
    }


def _coded(
    column: Column, frames: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Integers], tuple[Label, ...]]:
    """One discrete column of every table as codes, and the labels of the codes from 1 on."""
    parts = {name: labels(frame[column.name], column.is_text) for name, frame in frames.items()}
    distinct = {label for _, found in parts.values() for label in found if label is not None}
    # Numbers before text, for a column that holds both.
    known = sorted(distinct, key=lambda label: (isinstance(label, str), label))
    code_of: dict[Label, int] = {None: 0} | {label: i for i, label in enumerate(known, start=1)}
    codes = {
        name: np.array([code_of[label] for label in found], dtype=np.int64)[places]
        for name, (places, found) in parts.items()
    }
    return codes, tuple(known)


def _matrix(columns: Sequence[npt.NDArray[Any]], n: int, dtype: type) -> npt.NDArray[Any]:
    """Columns (n,) side by side, also if there are none."""
    return np.column_stack(columns).astype(dtype) if columns else np.empty((n, 0), dtype)
