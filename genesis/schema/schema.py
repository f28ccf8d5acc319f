"""What a table's columns are: their names, their kinds and how their values are written.

Every client infers the schema of its own rows and `Schema.merge` finds the one that fits all; or
the operator states it in a TOML file. A schema says nothing of single rows, except the value of a
column that has no other and the letters that all ids have in common.

What columns are is told in `inference.py`, what those of several clients are together in
`merging.py`, and whether a table's are what they should be in `checking.py`. Rows are counted from
1 in messages.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import tomli_w

from genesis.errors import DataError, SchemaError, nearest_names
from genesis.schema.checking import check_column, conformed, loosely_conformed
from genesis.schema.column import Column, Kind
from genesis.schema.inference import infer_column
from genesis.schema.keys import ANY_TEXT
from genesis.schema.merging import merge_columns
from genesis.schema.sdv_metadata import columns_of_metadata, metadata_of_columns
from genesis.tables import check_output, replace_file

if TYPE_CHECKING:
    from sdv.metadata import Metadata

__all__ = ["Column", "Kind", "Schema"]


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in their order.

    Args:
        columns: The columns, with unique names.

    Raises:
        SchemaError: Two columns have the same name.
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        _check_unique(self.names)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Column:
        if name in self._by_name:
            return self._by_name[name]
        raise SchemaError(f"unknown column '{name}'", do=nearest_names(name, self.names))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        """Name -> column."""
        return {column.name: column for column in self.columns}

    @classmethod
    def infer(cls, table: pd.DataFrame, discrete_columns: Sequence[str] = ()) -> Self:
        """Tell what the columns of a table are.

        * One value and no nulls: constant. Nulls only: undecided, which `merge` or `settle` ends.
        * Numbers: numeric; text that reads as dates in one format: datetime; other text and pandas'
          categories: categorical; True and False: boolean. Numbers written as text stay text.
        * Objects: what they are. Those of type `datetime.date` are datetimes, and generated rows
          have them as datetime64.
        * Values that are all different, without nulls, in at least 20 rows: an id if they are text
          (free text too: its values are no categories) or whole numbers, but numbers only if they
          are those from 0 or 1 on, or are called a key ("patient_id", "CustomerID", "uuid"). Other
          numbers that are all different are measurements.

        Args:
            table: At least one row.
            discrete_columns: Names of columns that are categorical whatever they look like.

        Raises:
            SchemaError: A column cannot be told, or has a type that cannot be modelled; a name is
                not unique; discrete_columns names an unknown column.
            DataError: There are no rows, or infinities.
        """
        names = _labels(table)
        discrete = _discrete_names(discrete_columns, names)
        if names and table.empty:
            raise DataError("the table has no rows", got=f"{len(names)} columns")
        return cls(
            tuple(
                infer_column(name, table.iloc[:, place], name in discrete)
                for place, name in enumerate(names)
            )
        )

    @classmethod
    def merge(cls, schemas: Mapping[str, Schema], *, owner: str = "client '{}'") -> Self:
        """The schema that the tables of all clients have.

        It is the schema that their pooled rows would have, as far as single schemas can tell, and
        the same for any order of the clients. Columns stand in the order of the first client by
        its id.

        Args:
            schemas: Client id -> the schema of its rows; at least one.
            owner: How messages call the owner of a schema, with {} for its key.

        Raises:
            SchemaError: A client lacks a column, or has one too many or of another kind.
        """
        clients = sorted(schemas)
        first = schemas[clients[0]]
        for client in clients[1:]:
            _check_names(
                schemas[client].names, first.names, owner.format(client), owner.format(clients[0])
            )
        return cls(
            tuple(
                merge_columns({owner.format(client): schemas[client][name] for client in clients})
                for name in first.names
            )
        )

    def discretise(self, discrete_columns: Sequence[str]) -> Self:
        """This schema with some columns as categories, whatever it says of them.

        Constants stay: they have one value anyway.

        Raises:
            SchemaError: discrete_columns names an unknown column.
        """
        discrete = _discrete_names(discrete_columns, self.names)
        stays = (Kind.CATEGORICAL, Kind.CONSTANT)
        return type(self)(
            tuple(
                Column(c.name, Kind.CATEGORICAL, c.plain_dtype, nulls=c.nulls)
                if c.name in discrete and c.kind not in stays
                else c
                for c in self
            )
        )

    def without_values(self) -> Self:
        """This schema without anything that was read from values: names, kinds and types are left.

        Constants become what they would be with more values; decimals, categories and bounds are
        unknown, but that whole numbers are whole; so is what keys look like, but that they are
        numbers, UUIDs or text.
        """
        return type(self)(tuple(_without_values(column) for column in self))

    def settle(self) -> Self:
        """This schema, if a table of it can be modelled.

        Raises:
            SchemaError: A column holds nulls only, or no column can be learnt from.
        """
        empty = [column.name for column in self if column.undecided]
        if empty:
            raise SchemaError(
                f"column '{empty[0]}' holds nothing but nulls",
                got=f"{len(empty)} such columns" if len(empty) > 1 else None,
                do="drop it",
            )
        if all(column.kind in (Kind.ID, Kind.CONSTANT) for column in self):
            kinds = Counter(str(column.kind) for column in self)
            raise SchemaError(
                "no column can be learnt from",
                got=" and ".join(f"{n} of kind {kind}" for kind, n in sorted(kinds.items()))
                or "no columns",
                do="add columns of numbers, categories or dates",
            )
        return self

    def check(self, table: pd.DataFrame, owner: str = "the table") -> None:
        """Make sure that a table has this schema.

        An id may hold anything, because ids are made up and never read. Numbers may lie outside
        the bounds stated: they count as the bounds.

        Args:
            table: The rows to check.
            owner: Whose they are, for the message.

        Raises:
            SchemaError: Columns are missing, too many, or of another kind; there are nulls where
                there should be none, or values that are not among the stated categories.
            DataError: There are no rows, or infinities.
        """
        names = _labels(table)
        _check_names(names, self.names, owner, "the schema")
        if table.empty:
            raise DataError(f"{owner} has no rows")
        places = {name: place for place, name in enumerate(names)}
        for column in self:
            if column.kind is not Kind.ID:
                check_column(column, table.iloc[:, places[column.name]], owner)

    def conform(self, table: pd.DataFrame, owner: str = "the table") -> pd.DataFrame:
        """A table that `check` finds right, with the names, order and types of this schema.

        Objects become the numbers or datetimes that they are, and categories become text where
        they are text for other clients ("1" for both 1 and 1.0).

        Args:
            table: The rows; they are not changed.
            owner: Whose they are, for the message.

        Raises:
            SchemaError: As `check`.
            DataError: As `check`.
        """
        self.check(table, owner)
        places = {name: place for place, name in enumerate(_labels(table))}
        columns = {c.name: conformed(c, table.iloc[:, places[c.name]]) for c in self}
        return pd.DataFrame(columns, index=table.index)

    def conform_loosely(self, table: pd.DataFrame, owner: str = "the table") -> pd.DataFrame:
        """The same as `conform`, but what does not fit becomes null instead of an error.

        For rows that nobody may learn anything of: whether all of them fit is something to learn.

        Args:
            table: The rows; they are not changed.
            owner: Whose they are, for the message.

        Raises:
            SchemaError: Columns are missing or too many.
        """
        names = _labels(table)
        _check_names(names, self.names, owner, "the schema")
        places = {name: place for place, name in enumerate(names)}
        columns = {c.name: loosely_conformed(c, table.iloc[:, places[c.name]]) for c in self}
        return pd.DataFrame(columns, index=table.index)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON and TOML."""
        return {"columns": [column.to_dict() for column in self]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` returned.

        Raises:
            SchemaError: It is something else.
        """
        for key in values:
            if key != "columns":
                raise SchemaError(f"a schema has no key '{key}'", do="use columns only")
        columns = values.get("columns")
        if not isinstance(columns, list) or not all(isinstance(c, Mapping) for c in columns):
            raise SchemaError("a schema needs columns", do="write one [[columns]] for each")
        return cls(tuple(Column.from_dict(column) for column in columns))

    def to_toml(self) -> str:
        """As the text of a schema file."""
        return "\n".join(
            "[[columns]]\n" + tomli_w.dumps(column) for column in self.to_dict()["columns"]
        )

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """From the text of a schema file.

        Raises:
            SchemaError: It is not TOML, or no schema.
        """
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise SchemaError("the schema is not TOML", got=str(error)) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a schema file.

        Raises:
            DataError: It cannot be written.
        """
        check_output(path, suffixes=None)
        with replace_file(path) as temporary:
            temporary.write_text(self.to_toml(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a schema file.

        Raises:
            SchemaError: It cannot be read, or is no schema.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            got = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
            raise SchemaError(f"the schema {path} cannot be read", got=got) from error
        return cls.from_toml(text)

    def to_metadata(self) -> Metadata:
        """As SDV's metadata of one table.

        Ids are ids without being a primary key, because those of two clients may be the same.
        """
        return metadata_of_columns(self)

    @classmethod
    def from_metadata(cls, metadata: Metadata, *, public_ranges: bool = False) -> Self:
        """From SDV's metadata of one table.

        Kinds of personal data (emails, names, phone numbers) become ids: they are made up.

        Args:
            metadata: The metadata.
            public_ranges: Take its ranges and categories as public bounds and categories. SDV
                detects them from rows: say True only of those that were stated by hand.

        Raises:
            SchemaError: It has no table, or several.
        """
        return cls(tuple(columns_of_metadata(metadata, public_ranges)))


def _without_values(column: Column) -> Column:
    """A column without its constant, categories, bounds, decimals and letters of its keys."""
    whole = np.issubdtype(pd.api.types.pandas_dtype(column.dtype).type, np.integer)
    kind, format = column.of or column.kind, column.format
    if kind is Kind.ID and format not in ("integer", "uuid"):
        format = ANY_TEXT
    return replace(
        column,
        kind=kind,
        format=format,
        of=None,
        value=None,
        categories=None,
        lower=None,
        upper=None,
        decimals=0 if column.decimals is not None and whole else None,
    )


def _labels(table: pd.DataFrame) -> list[str]:
    """The names of a table's columns as text, which are unique."""
    names = [str(name) for name in table.columns]
    _check_unique(names)
    return names


def _discrete_names(discrete_columns: Sequence[str], names: Sequence[str]) -> set[str]:
    """The names in discrete_columns, which are among those of a table."""
    given = {discrete_columns} if isinstance(discrete_columns, str) else discrete_columns
    discrete = {str(name) for name in given}
    for name in sorted(discrete - set(names)):
        raise SchemaError(
            f"discrete_columns names an unknown column '{name}'", do=nearest_names(name, names)
        )
    return discrete


def _check_unique(names: Sequence[str]) -> None:
    """Raise SchemaError if a name stands twice."""
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise SchemaError(
                "two columns have the same name", got=f"'{name}' {count} times", do="rename them"
            )


def _check_names(found: Sequence[str], expected: Sequence[str], owner: str, other: str) -> None:
    """Raise SchemaError if the owner's names are not those of another, in any order."""
    if set(found) == set(expected):
        return
    missing = [f"'{name}'" for name in expected if name not in found]
    extra = [f"'{name}'" for name in found if name not in expected]
    parts = [
        f"no column {', '.join(missing)}" if missing else "",
        f"{', '.join(extra)} besides" if extra else "",
    ]
    raise SchemaError(
        f"{owner} does not have the columns of {other}",
        got=" and ".join(part for part in parts if part),
        do="rename, add or drop columns so that they agree",
    )
