"""What a table's columns are: their names, their kinds and how their values are written.

Every client infers the schema of its own rows and `Schema.merge` finds the one that fits all; or
the operator states it in a TOML file. A schema says nothing of single rows, except the value of a
column that has no other and the letters that all ids have in common.

Rows are counted from 1 in messages.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import tomli_w

from genesis.errors import DataError, GenesisError, SchemaError, nearest_names
from genesis.tables import check_output, replace_file

if TYPE_CHECKING:
    from sdv.metadata import Metadata

__all__ = ["Column", "Kind", "Schema", "shape_tokens"]

Scalar = str | int | float | bool

MIN_KEYS = 20  # rows from which on unique values are taken for keys
MAX_DECIMALS = 8
ANY_TEXT = "aaaaaaaa"  # shape of keys that have none in common
UNITS = ("D", "s", "us")


class Kind(StrEnum):
    """What a column holds."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    ID = "id"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: Its name.
        kind: What it holds. Neither an id nor a constant is modelled: ids are made up, and a
            constant has one value, or none where `undecided`.
        dtype: The pandas dtype that generated rows have.
        decimals: Of numbers: all are multiples of 10^-decimals; None if they are not rounded.
        format: Of datetimes: how text is written, as in strftime; None for real datetimes. Of ids:
            "integer", "uuid", or a shape in which 9 is any digit, A and a are any letters and the
            rest is itself; a backslash before 9, A, a or a backslash takes its meaning away.
        ambiguous: Whether the rows said too little: text datetimes that all read as well with day
            and month exchanged, or values that would be ids if there were 20 rows of them.
        unit: Of datetimes: the resolution in which they are counted since 1970: "D", "s" or "us".
        nulls: Whether there may be nulls.
        categories: Of categories: all that there are, stated by the operator and therefore public.
        value: Of a constant: its value; a datetime in ISO format.
        of: Of a constant: what it would be if it had more values.
        lower: Of numbers and datetimes: a public bound, stated by the operator; of datetimes in
            units since 1970.
        upper: The other bound.

    Raises:
        SchemaError: These contradict each other.
    """

    name: str
    kind: Kind
    dtype: str
    decimals: int | None = None
    format: str | None = None
    ambiguous: bool = False
    unit: str | None = None
    nulls: bool = False
    categories: tuple[Scalar, ...] | None = None
    value: Scalar | None = None
    of: Kind | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        self._require(self.kind is not Kind.DATETIME or self.unit is not None, "no unit")
        self._require(self.unit in (None, *UNITS), f"unit '{self.unit}'", "D, s or us")
        self._require(self.kind is not Kind.ID or self.format is not None, "no format")
        self._require(self.decimals is None or self.decimals >= 0, "decimals below 0")
        self._require(self.categories != (), "no categories")
        self._require(len(set(self.categories or ())) == len(self.categories or ()), "twins")
        self._require(
            self.lower is None or self.upper is None or self.lower <= self.upper,
            "lower above upper",
        )
        try:
            pd.api.types.pandas_dtype(self.dtype)
        except (TypeError, ValueError, KeyError):
            self._require(False, f"dtype '{self.dtype}'", "a dtype of pandas")

    def _require(self, holds: bool, got: str, need: str | None = None) -> None:
        """Raise SchemaError if something does not hold."""
        if not holds:
            what = f"the schema's column '{self.name}' ({self.kind}) makes no sense"
            raise SchemaError(what, got=got, do=need and f"use {need}")

    @property
    def undecided(self) -> bool:
        """Whether the column was seen with nulls only, and may be anything."""
        return self.kind is Kind.CONSTANT and self.value is None

    @property
    def is_text(self) -> bool:
        """Whether values are text where they are neither numbers nor datetimes."""
        dtype = pd.api.types.pandas_dtype(self.dtype)
        return not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype))

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON and TOML: what differs from its default."""
        entry: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name in ("lower", "upper") and self.kind is Kind.DATETIME:
                value = str(np.array(int(value)).astype(f"datetime64[{self.unit}]"))
            entry[field.name] = list(value) if isinstance(value, tuple) else value
            if isinstance(value, Kind):
                entry[field.name] = str(value)
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """What `to_dict` returned, or an entry of a schema file.

        Only name and kind are needed; the rest is filled in with what is usual.

        Raises:
            SchemaError: Unknown keys or kinds, or values of a wrong type.
        """
        given = _checked_entry(entry)
        name, kind = given["name"], given["kind"]
        if kind is Kind.DATETIME:
            given.setdefault("unit", _unit_of_format(given.get("format")))
            for bound in ("lower", "upper"):
                if bound in given:
                    given[bound] = _count_since_1970(name, given[bound], given["unit"])
        if kind is Kind.ID:
            given.setdefault("format", "integer")
        if kind is Kind.CONSTANT and "value" in given:
            given.setdefault("of", _kind_of(given["value"]))
        given.setdefault("dtype", _usual_dtype(given))
        return cls(**given)


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
        discrete = {discrete_columns} if isinstance(discrete_columns, str) else discrete_columns
        discrete = {str(name) for name in discrete}
        for name in sorted(discrete - set(names)):
            raise SchemaError(
                f"discrete_columns names an unknown column '{name}'", do=nearest_names(name, names)
            )
        if names and table.empty:
            raise DataError("the table has no rows", got=f"{len(names)} columns")
        return cls(
            tuple(
                _infer_column(name, table.iloc[:, place], name in discrete)
                for place, name in enumerate(names)
            )
        )

    @classmethod
    def merge(cls, schemas: Mapping[str, Schema]) -> Self:
        """The schema that the tables of all clients have.

        It is the schema that their pooled rows would have, as far as single schemas can tell, and
        the same for any order of the clients. Columns stand in the order of the first client by
        its id.

        Args:
            schemas: Client id -> the schema of its rows; at least one.

        Raises:
            SchemaError: A client lacks a column, or has one too many or of another kind.
        """
        clients = sorted(schemas)
        first = schemas[clients[0]]
        for client in clients[1:]:
            _check_names(
                schemas[client].names, first.names, f"client '{client}'", f"client '{clients[0]}'"
            )
        return cls(
            tuple(
                _merge_columns({f"client '{client}'": schemas[client][name] for client in clients})
                for name in first.names
            )
        )

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
                _check_column(column, table.iloc[:, places[column.name]], owner)

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
        columns = {c.name: _conformed(c, table.iloc[:, places[c.name]]) for c in self}
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
        from sdv.metadata import Metadata

        columns = {column.name: _to_sdv(column) for column in self}
        return Metadata.load_from_dict({"tables": {"table": {"columns": columns}}})

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
        tables = metadata.to_dict()["tables"]
        if len(tables) != 1:
            raise SchemaError(
                "the metadata is not that of one table",
                got=f"{len(tables)} tables",
                do="keep one, with metadata.remove_table",
            )
        (table,) = tables.values()
        return cls(
            tuple(
                Column.from_dict(_from_sdv(name, entry, public_ranges))
                for name, entry in table["columns"].items()
            )
        )


# Names -------------------------------------------------------------------------------------------


def _labels(table: pd.DataFrame) -> list[str]:
    """The names of a table's columns as text, which are unique."""
    names = [str(name) for name in table.columns]
    _check_unique(names)
    return names


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


# Inference ---------------------------------------------------------------------------------------


def _infer_column(name: str, cells: pd.Series[Any], discrete: bool) -> Column:
    """Tell what one column is."""
    nulls = bool(cells.isna().any())
    if cells.isna().all():
        return Column(name, Kind.CONSTANT, _dtype(cells), nulls=True)
    _check_not_nested(name, cells)
    if discrete or isinstance(cells.dtype, pd.CategoricalDtype):
        column = _discrete_column(name, cells)
    else:
        column = _typed_column(name, _typed(name, cells))
    column = replace(column, nulls=nulls)
    first = cells.dropna().iloc[0]
    if not nulls and column.kind is not Kind.ID and _all_equal(cells, first):
        return replace(column, kind=Kind.CONSTANT, of=column.kind, value=_scalar(column, first))
    return column


def _check_not_nested(name: str, cells: pd.Series[Any]) -> None:
    """Raise SchemaError for cells that are no single values, such as lists."""
    if cells.dtype != object or pd.api.types.infer_dtype(cells, skipna=True) != "mixed":
        return
    nested = cells.map(lambda cell: isinstance(cell, (list, tuple, dict, set, np.ndarray)))
    if nested.any():
        raise SchemaError(
            f"column '{name}' holds lists",
            got=f"{nested.sum():,} of them, the first in row {nested.argmax() + 1:,}",
            do="split it into columns, or drop it",
        )


def _typed_column(name: str, cells: pd.Series[Any]) -> Column:
    """Tell what a column is whose cells are all of one type."""
    dtype, types = str(cells.dtype), pd.api.types
    if types.is_bool_dtype(cells.dtype) or types.infer_dtype(cells, skipna=True) == "boolean":
        return Column(name, Kind.BOOLEAN, dtype)
    if types.is_datetime64_any_dtype(cells.dtype):
        return Column(name, Kind.DATETIME, dtype, unit=_unit(cells))
    if types.is_numeric_dtype(cells.dtype) and not types.is_complex_dtype(cells.dtype):
        return _numeric_column(name, cells)
    if types.infer_dtype(cells, skipna=True) in ("string", "empty"):
        return _text_column(name, cells)
    durations = types.is_timedelta64_dtype(cells.dtype)
    raise SchemaError(
        f"column '{name}' has a type that cannot be modelled",
        got=dtype,
        do="turn it into numbers, with .dt.total_seconds()"
        if durations
        else "turn it into numbers, text or datetimes",
    )


def _numeric_column(name: str, cells: pd.Series[Any]) -> Column:
    """Tell numbers from whole numbers that are keys."""
    _check_finite(name, cells)
    dtype, known = str(cells.dtype), cells.dropna()
    if not pd.api.types.is_integer_dtype(cells.dtype):
        return Column(name, Kind.NUMERIC, dtype, decimals=_decimals(known))
    # Not from any number on: a table by years has years that follow each other.
    running = int(known.min()) in (0, 1) and int(known.max() - known.min()) == len(known) - 1
    keys = len(known) == len(cells) and (running or _is_called_a_key(name)) and known.is_unique
    if keys and len(cells) >= MIN_KEYS:
        return Column(name, Kind.ID, dtype, format="integer")
    return Column(name, Kind.NUMERIC, dtype, decimals=0, ambiguous=keys)


def _check_finite(name: str, cells: pd.Series[Any]) -> None:
    """Raise DataError for infinities."""
    if not pd.api.types.is_float_dtype(cells.dtype):
        return
    infinite = np.isinf(cells.to_numpy(dtype=np.float64, na_value=np.nan))
    if infinite.any():
        raise DataError(
            f"column '{name}' holds infinities",
            got=f"{infinite.sum():,}, the first in row {infinite.argmax() + 1:,}",
            do="replace them by numbers or nulls",
        )


def _decimals(known: pd.Series[Any]) -> int | None:
    """The least d <= 8 such that all numbers are multiples of 10^-d, None if there is none.

    k / 10^d is the float next to the decimal fraction, as long as k and 10^d are exact; so a number
    that was written with d decimals is met to the bit. Nothing is known where k > 2^50.
    """
    values = known.to_numpy()
    exact = values.astype(np.float64)
    largest = np.abs(exact).max()
    for d in range(MAX_DECIMALS + 1):
        if d and largest > 2**50 / 10.0**d:
            return None
        multiples = np.rint(exact * 10.0**d) / 10.0**d
        if np.array_equal(multiples.astype(values.dtype), values):
            return d
    return None


_KEY_WORD = re.compile(
    "ids?|uu?id|guid|key|pk|no|nr|number|ssn|mrn|index|row|rownames?|unnamed|record|serial"
    "|patient|subject|obs"
)


def _is_called_a_key(name: str) -> bool:
    """Whether a name is, or ends in, a word for keys, set off by a mark or by its capitals."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    last = re.split(r"[^a-z0-9]+", words.strip("_ .:-#0"))[-1]
    return _KEY_WORD.fullmatch(last) is not None


def _text_column(name: str, cells: pd.Series[Any]) -> Column:
    """Tell dates, keys and categories from each other in text."""
    codes, texts = pd.factorize(cells)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    dtype = str(cells.dtype)
    number = np.asarray(pd.to_numeric(texts, errors="coerce").notna())
    _check_not_mixed(name, "numbers", number, codes, counts)
    found = None if number.any() else _date_format(texts)
    if found is not None:
        format, swapped = found
        times = pd.to_datetime(texts, format=format, errors="coerce")
        _check_not_mixed(name, "dates", np.asarray(times.notna()), codes, counts)
        if times.notna().all():
            ambiguous = swapped is not None and bool(
                pd.to_datetime(texts, format=swapped, errors="coerce").notna().all()
            )
            unit = _unit(times.to_series())
            return Column(name, Kind.DATETIME, dtype, format=format, ambiguous=ambiguous, unit=unit)
    keys = len(texts) == len(cells)
    if keys and len(cells) >= MIN_KEYS:
        return Column(name, Kind.ID, dtype, format=_shape(texts))
    return Column(name, Kind.CATEGORICAL, dtype, ambiguous=keys)


def _check_not_mixed(
    name: str,
    things: str,
    fits: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> None:
    """Raise SchemaError if half of the cells or more, but not all, are numbers (or dates).

    Args:
        name: The column.
        things: "numbers" or "dates".
        fits: (m,) which of the distinct values are such.
        codes: (n,) number of the distinct value in every row, -1 where null.
        counts: (m,) rows of every distinct value.
    """
    n_fits = int(counts[fits].sum())
    n_rest = int(counts.sum()) - n_fits
    if not 0 < n_rest <= n_fits:
        return
    row = int(np.argmax((codes >= 0) & ~fits[codes])) + 1
    texts = f"{n_rest:,} text{'s' if n_rest > 1 else ''}"
    raise SchemaError(
        f"column '{name}' mixes {things} and text",
        got=f"{n_fits:,} {things} and {texts}, the first in row {row:,}",
        do="mend it, or name it in discrete_columns",
    )


def _discrete_column(name: str, cells: pd.Series[Any]) -> Column:
    """A column of categories, by the wish of the user or of pandas."""
    dtype = cells.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        # Numbers come back as numbers: pandas gives a category of them no dtype by name.
        plain = dtype.categories.dtype
        text = not (pd.api.types.is_numeric_dtype(plain) or pd.api.types.is_bool_dtype(plain))
        return Column(name, Kind.CATEGORICAL, "category" if text else str(plain))
    _check_finite(name, cells)
    return Column(name, Kind.CATEGORICAL, _dtype(cells))


def _dtype(cells: pd.Series[Any]) -> str:
    """The dtype of cells that are taken as they are: what is no number or text becomes text."""
    types = pd.api.types
    plain = types.is_bool_dtype, types.is_numeric_dtype, types.is_string_dtype
    return str(cells.dtype) if any(is_plain(cells.dtype) for is_plain in plain) else "object"


def _typed(name: str, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Cells of type object as the one type that they have, or as text if they have several."""
    if cells.dtype != object:
        return cells
    found = pd.api.types.infer_dtype(cells, skipna=True)
    if found in ("string", "boolean", "empty", "bytes", "complex"):
        return cells
    if found in ("integer", "floating", "mixed-integer-float", "decimal"):
        return _as_numbers(cells)
    if found in ("date", "datetime", "datetime64", "timedelta", "timedelta64"):
        return _as_times(name, cells, durations=found.startswith("timedelta"))
    texts = cells.map(_as_text, na_action="ignore")
    if pd.to_numeric(texts.dropna(), errors="coerce").notna().all():
        return _as_numbers(cells)
    return texts


def _as_numbers(cells: pd.Series[Any]) -> pd.Series[Any]:
    """Objects as int64 where all are whole and none is null, else as float64."""
    numbers = pd.to_numeric(cells.map(_plain_number, na_action="ignore"))
    return numbers if numbers.dtype == np.int64 else numbers.astype(np.float64)


def _plain_number(cell: Any) -> Any:
    """An int, or else a float (of a Decimal, for example)."""
    return cell if isinstance(cell, (int, np.integer, str)) else float(cell)


def _as_times(name: str, cells: pd.Series[Any], durations: bool) -> pd.Series[Any]:
    """Date, datetime or timedelta objects as a column of that dtype."""
    try:
        return pd.to_timedelta(cells) if durations else pd.to_datetime(cells)
    except (ValueError, TypeError, OverflowError) as error:
        raise SchemaError(
            f"column '{name}' holds dates that pandas cannot hold together",
            got="several time zones, or years before 1678 or after 2261",
            do="mend it, or name it in discrete_columns",
        ) from error


def _as_text(cell: Any) -> str:
    """A value as text: whole numbers without a fraction, whatever their type."""
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        return str(int(cell))
    return str(cell)


def _all_equal(cells: pd.Series[Any], first: Any) -> bool:
    """Whether cells without nulls all equal the first one."""
    return bool((cells == first).all())


def _scalar(column: Column, value: Any) -> Scalar:
    """The value of a constant in terms of JSON."""
    if column.kind is Kind.BOOLEAN:
        return bool(value)
    if column.kind is Kind.DATETIME:
        return str(value) if column.format else str(pd.Timestamp(value).isoformat())
    if column.is_text:
        return _as_text(value)
    plain: Scalar = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, (bool, int, float)) else float(plain)


def _conformed(column: Column, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Cells with one type, and text where the column's categories are text."""
    kind = column.of or column.kind
    if kind is Kind.CATEGORICAL:
        plain = cells.astype(object)
        if column.is_text and pd.api.types.infer_dtype(plain, skipna=True) != "string":
            return plain.map(_as_text, na_action="ignore")
        return plain if isinstance(cells.dtype, pd.CategoricalDtype) else cells
    return cells if kind is Kind.ID else _typed(column.name, cells)


def _check_column(column: Column, cells: pd.Series[Any], owner: str) -> None:
    """Raise SchemaError if the owner's cells are not what a schema says of their column."""
    what = f"column '{column.name}' of {owner}"
    n_nulls = int(cells.isna().sum())
    if n_nulls and not column.nulls:
        raise SchemaError(
            f"{what} holds nulls and the schema allows none",
            got=f"{n_nulls:,}, the first in row {cells.isna().argmax() + 1:,}",
            do="set nulls = true in the schema, or fill them in",
        )
    if n_nulls == len(cells):
        return
    known = cells.dropna()
    real = pd.api.types.is_datetime64_any_dtype(cells.dtype)
    if column.kind is Kind.DATETIME and column.format and not real:
        # A format that was stated by hand may be one that is never inferred.
        strange = pd.to_datetime(known, format=column.format, errors="coerce").isna()
        _require_none(strange, f"{what} is not written as {column.format}")
        return
    found = _infer_for_check(column, cells, owner)
    try:
        kind = _merge_columns({"the schema": column, owner: found}).kind
    except SchemaError:
        kind = found.kind
    if kind is not column.kind and found.of is not None and found.of is column.of:
        raise SchemaError(
            f"{what} has another value than the constant of the schema",
            do="mend it, or change the schema",
        )
    if kind is not column.kind:
        raise SchemaError(
            f"{what} is {_described(found)} and the schema says {_described(column)}",
            do="mend it, or change the schema",
        )
    if column.categories is not None:
        listed = {_as_text(category) for category in column.categories}
        strange = ~known.map(_as_text).isin(listed)
        _require_none(strange, f"{what} holds values that are not among the schema's categories")


def _infer_for_check(column: Column, cells: pd.Series[Any], owner: str) -> Column:
    """Infer one column, and name the owner in what goes wrong."""
    discrete = Kind.CATEGORICAL in (column.kind, column.of)
    try:
        found = _infer_column(column.name, cells, discrete)
    except GenesisError as error:
        raise type(error)(f"{owner}: {error.what}", got=error.got, do=error.do) from error
    return found


def _require_none(strange: pd.Series[Any], what: str) -> None:
    """Raise SchemaError if there are strange cells."""
    if strange.any():
        got = f"{strange.sum():,} other values" if strange.sum() > 1 else "one other value"
        raise SchemaError(what, got=got, do="mend it, or change the schema")


# Datetimes ---------------------------------------------------------------------------------------

# Where a day and a month cannot be told apart, the month comes first, as pandas reads them.
_DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m", "%Y/%m"),
    *("%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%Y", "%m/%d/%y", "%d/%m/%y"),
    *("%d-%b-%Y", "%d %b %Y", "%d/%b/%Y", "%d-%b-%y"),
)
_TIMES = ("", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S.%f", " %H:%M", "T%H:%M")
_LOOKS_LIKE_A_DATE = re.compile(r"\d{1,4}[-/. ](\d{1,2}|[A-Za-z]{3})\b")
_ZONE = re.compile(r":\d\d(?:\.\d+)?( ?UTC|Z|[+-]\d\d:?\d\d)$")


def _date_format(texts: pd.Index[Any]) -> tuple[str, str | None] | None:
    """The format in which half of some distinct texts or more are dates, None if there is none.

    With it comes the same one with day and month exchanged, if it reads as many. A time zone is
    part of the format as plain text, so that it is written again.
    """
    places = np.unique(np.linspace(0, len(texts) - 1, 100).astype(int))
    sample = texts[places].astype(str)
    if sum(map(bool, map(_LOOKS_LIKE_A_DATE.match, sample))) * 2 < len(sample):
        return None
    zones = Counter(match[1] for match in map(_ZONE.search, sample) if match)
    zone = zones.most_common(1)[0][0] if zones else ""
    read = {
        format: int(pd.to_datetime(sample, format=format, errors="coerce").notna().sum())
        for format in (date + time + (zone if time else "") for date in _DATES for time in _TIMES)
    }
    best = max(read, key=lambda format: read[format])  # the first one of equals
    # A number of a year and a month may also be a season (2011-12) or a score.
    enough = len(sample) if "%d" not in best else (len(sample) + 1) // 2
    if read[best] < enough:
        return None
    swapped = _swapped(best)
    return best, swapped if read.get(swapped) == read[best] else None


def _swapped(format: str) -> str:
    """A format with day and month exchanged."""
    return re.sub(r"%[dm]", lambda match: {"%d": "%m", "%m": "%d"}[match[0]], format)


def _unit(times: pd.Series[Any]) -> str:
    """The coarsest unit in which times are whole since 1970, at most microseconds."""
    utc = times.dropna()
    utc = utc.dt.tz_convert("UTC").dt.tz_localize(None) if utc.dt.tz is not None else utc
    ticks = utc.to_numpy()
    for unit in UNITS[:-1]:
        if (ticks.astype(f"datetime64[{unit}]") == ticks).all():
            return unit
    return UNITS[-1]


def _unit_of_format(format: str | None) -> str:
    """The unit of times that are written in a format, seconds if there is none."""
    if format is None:
        return "s"
    return "us" if "%f" in format else "s" if re.search("%[HISMpcX]", format) else "D"


def _count_since_1970(name: str, bound: Any, unit: str) -> int:
    """A bound of datetimes, given in ISO format, as units since 1970."""
    try:
        return int(np.array(str(bound), dtype=f"datetime64[{unit}]").astype(np.int64))
    except ValueError as error:
        raise SchemaError(
            f"a bound of column '{name}' is no date", do='write it as "2024-12-31"'
        ) from error


# Keys --------------------------------------------------------------------------------------------

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CLASSES = "9Aa"  # ordered: what is of several classes is of the last one


def _shape(texts: pd.Index[Any]) -> str:
    """What unique texts look like: see `Column.format`."""
    values = texts.astype(str)
    if _UUID.fullmatch(values[0]) and all(map(_UUID.fullmatch, values)):
        return "uuid"
    lengths = values.str.len()
    if lengths.min() == lengths.max() <= 64:
        letters = np.array(values, dtype=f"U{lengths[0]}").view(np.uint32).reshape(len(values), -1)
        return "".join(map(_shape_of_place, letters.T, values[0]))
    ends = zip(min(values), max(values), strict=False)
    shared = list(itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    rest = values.str.slice(len(shared))
    if all(re.fullmatch("[0-9]+", text) for text in rest):
        return "".join(_token(letter) for letter, _ in shared) + "9" * int(rest.str.len().max())
    return ANY_TEXT


def _shape_of_place(letters: npt.NDArray[np.uint32], first: str) -> str:
    """The token for one place of texts that are equally long, from its code points (n,)."""
    if (letters == ord(first)).all():
        return _token(first)
    if ((letters >= ord("0")) & (letters <= ord("9"))).all():
        return "9"
    return "a" if ((letters >= ord("a")) & (letters <= ord("z"))).any() else "A"


def _token(letter: str) -> str:
    """The token for a letter that all have in common: itself, or any digit if it is one."""
    return "9" if letter in "0123456789" else _literal(letter)


def _literal(letter: str) -> str:
    """The token that means a letter itself."""
    return "\\" + letter if letter in "9Aa\\" else letter


def shape_tokens(shape: str) -> list[str]:
    """The tokens of a shape of ids: its letters, each with its backslash if it has one.

    The last letter of a token is what it means, or its class if the token is just 9, A or a.
    """
    return re.findall(r"\\.|.", shape, re.DOTALL)


_tokens = shape_tokens


def _class(token: str) -> str:
    """The class of what a token means."""
    if token in _CLASSES:
        return token
    letter = token[-1]
    return "9" if letter in "0123456789" else "A" if letter.isupper() else "a"


def _merge_shapes(one: str, other: str) -> str:
    """The narrowest shape of both. The order of merging several does not matter."""
    if one == other:
        return one
    if {one, other} & {"integer", "uuid"}:
        return ANY_TEXT
    a, b = shape_tokens(one), shape_tokens(other)
    if len(a) == len(b):
        return "".join(
            x if x == y else max(_class(x), _class(y), key=_CLASSES.index)
            for x, y in zip(a, b, strict=True)
        )
    heads = [list(itertools.dropwhile("9".__eq__, reversed(tokens))) for tokens in (a, b)]
    if heads[0] == heads[1] and len(heads[0]) < min(len(a), len(b)):
        return max(one, other, key=len)  # numbers that differ in their digits
    return ANY_TEXT


# Merging -----------------------------------------------------------------------------------------


def _merge_columns(parts: Mapping[str, Column]) -> Column:
    """The column that holds what several hold, from their owners' names -> their columns."""
    decided = {owner: part for owner, part in parts.items() if not part.undecided}
    nulls = any(part.nulls for part in parts.values())
    if not decided:
        return replace(next(iter(parts.values())), nulls=True)
    kind = _merged_kind(decided)
    columns = list(decided.values())
    dtype = _merged_dtype(columns)
    if len(decided) < len(parts):
        dtype = _nullable(dtype)
    merged = Column(
        name=columns[0].name,
        kind=kind,
        dtype=dtype,
        nulls=nulls,
        decimals=_merged_decimals(columns) if kind is Kind.NUMERIC else None,
        unit=max((c.unit or "D" for c in columns), key=UNITS.index)
        if kind is Kind.DATETIME
        else None,
        format=_merged_format(kind, decided),
        ambiguous=kind is not Kind.ID and all(c.ambiguous for c in columns),
        # What the operator stated holds if all say the same.
        categories=_agreed([c.categories for c in columns]),
        lower=_agreed([c.lower for c in columns]),
        upper=_agreed([c.upper for c in columns]),
    )
    constant = all(c.kind is Kind.CONSTANT for c in columns) and not nulls
    values = {_as_text(c.value) for c in columns}
    if constant and len(values) == 1:
        value = columns[0].value
        if isinstance(value, int) and any(isinstance(c.value, float) for c in columns):
            value = float(value)
        elif merged.is_text:
            value = values.pop()
        return replace(merged, kind=Kind.CONSTANT, of=kind, value=value)
    return merged


def _merged_kind(parts: Mapping[str, Column]) -> Kind:
    """The kind of what several columns hold, where a constant is what it would be otherwise.

    Ids stay ids among themselves and beside columns that may be ids. Beside others they are the
    numbers or the text that they are made of; whole numbers are also text where there is text.
    """
    kinds = {owner: part.of or part.kind for owner, part in parts.items()}
    if Kind.ID in kinds.values() and all(
        kinds[owner] is Kind.ID or (part.ambiguous and kinds[owner] is not Kind.DATETIME)
        for owner, part in parts.items()
    ):
        return Kind.ID
    others = {owner: kind for owner, kind in kinds.items() if kind is not Kind.ID}
    first, kind = next(iter(others.items()))
    for owner, part in parts.items():
        readings = {kinds[owner]}
        if kinds[owner] is Kind.ID:
            numbers = {Kind.NUMERIC} if part.format == "integer" else set()
            readings = {Kind.CATEGORICAL} | numbers
        if kind not in readings:
            raise SchemaError(
                f"column '{part.name}' is {_described(parts[first])} at {first} "
                f"and {_described(part)} at {owner}",
                do="name it in discrete_columns everywhere, or give all the same schema file",
            )
    return kind


def _described(column: Column) -> str:
    """The kind of a column in words."""
    if column.kind is Kind.CONSTANT and column.of is not None:
        return f"constant ({column.of})"
    if column.kind is Kind.DATETIME:
        return f"datetime ({column.format or column.dtype})"
    return str(column.kind)


def _merged_format(kind: Kind, parts: Mapping[str, Column]) -> str | None:
    """The format of all, if there is one.

    Raises:
        SchemaError: Datetimes are written differently.
    """
    if kind is Kind.ID:
        shapes = (part.format or ANY_TEXT for part in parts.values() if part.kind is Kind.ID)
        return reduce(_merge_shapes, shapes)
    if kind is not Kind.DATETIME:
        return None
    # Dates that read both ways say nothing of which way is meant if others do.
    firm = {owner: part for owner, part in parts.items() if not part.ambiguous} or parts
    first, chosen = next(iter(firm.items()))
    for owner, part in parts.items():
        readings = {part.format}
        if part.format and part.ambiguous:
            readings.add(_swapped(part.format))
        if chosen.format not in readings or _zone(part) != _zone(chosen):
            raise SchemaError(
                f"the dates of column '{part.name}' are {chosen.format or chosen.dtype} at {first} "
                f"and {part.format or part.dtype} at {owner}",
                do="write them alike everywhere",
            )
    return chosen.format


def _zone(column: Column) -> str | None:
    """The time zone of real datetimes."""
    dtype = pd.api.types.pandas_dtype(column.dtype)
    return str(dtype.tz) if isinstance(dtype, pd.DatetimeTZDtype) else None


def _merged_decimals(columns: Sequence[Column]) -> int | None:
    """The most decimals; None, without rounding, is more than any."""
    decimals = [0 if c.kind is Kind.ID else c.decimals for c in columns]
    return None if None in decimals else max(d for d in decimals if d is not None)


def _agreed(stated: Sequence[Any]) -> Any:
    """What all state, None if they differ."""
    return stated[0] if all(each == stated[0] for each in stated) else None


def _merged_dtype(columns: Sequence[Column]) -> str:
    """The narrowest dtype that holds the values of all.

    Where they differ: int64 for whole numbers, float64 for numbers, object for the rest; and the
    nullable one if any is.
    """
    names = sorted({column.dtype for column in columns})
    if len(names) == 1:
        return names[0]
    types, dtypes = pd.api.types, [pd.api.types.pandas_dtype(name) for name in names]
    nullable = any(types.is_extension_array_dtype(dtype) for dtype in dtypes)
    if all(types.is_bool_dtype(dtype) for dtype in dtypes):
        return "boolean"
    if all(types.is_numeric_dtype(d) and not types.is_bool_dtype(d) for d in dtypes):
        whole = all(types.is_integer_dtype(dtype) for dtype in dtypes)
        name = "int64" if whole else "float64"
        return name.capitalize() if nullable else name
    if all(types.is_datetime64_any_dtype(dtype) for dtype in dtypes):
        zone = _zone(columns[0])
        return f"datetime64[ns, {zone}]" if zone else "datetime64[ns]"
    return "object"


def _nullable(dtype: str) -> str:
    """What pandas makes of a dtype when nulls are appended."""
    plain = pd.api.types.pandas_dtype(dtype)
    if isinstance(plain, np.dtype) and plain.kind in "iub":
        return "object" if plain.kind == "b" else "float64"
    return dtype


# Entries of files --------------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "dtype": (str,),
    "decimals": (int,),
    "format": (str,),
    "ambiguous": (bool,),
    "unit": (str,),
    "nulls": (bool,),
    "categories": (list, tuple),
    "value": (str, int, float, bool),
    "of": (str,),
    "lower": (int, float, str, dt.date),
    "upper": (int, float, str, dt.date),
}


def _checked_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a column from an entry of a file, checked by type."""
    name = entry.get("name")
    if not isinstance(name, str):
        raise SchemaError("a column of the schema has no name", do='write name = "…"')
    given: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in _TYPES:
            raise SchemaError(
                f"the schema's column '{name}' has an unknown key '{key}'",
                do=nearest_names(key, _TYPES),
            )
        wrong = isinstance(value, bool) and bool not in _TYPES[key]
        if wrong or not isinstance(value, _TYPES[key]):
            raise SchemaError(
                f"the schema's column '{name}' has a wrong {key}",
                got=f"a value of type {type(value).__name__}",
                do=f"use one of type {' or '.join(t.__name__ for t in _TYPES[key])}",
            )
        given[key] = value
    for key in ("kind", "of"):
        if key in given:
            if given[key] not in list(Kind):
                raise SchemaError(
                    f"the schema's column '{name}' has an unknown {key} '{given[key]}'",
                    do=nearest_names(given[key], list(Kind)),
                )
            given[key] = Kind(given[key])
    if "kind" not in given:
        raise SchemaError(f"the schema's column '{name}' has no kind", do='write kind = "numeric"')
    if "categories" in given:
        given["categories"] = tuple(given["categories"])
        if not all(isinstance(each, Scalar) for each in given["categories"]):
            raise SchemaError(
                f"the schema's column '{name}' has categories of a wrong type",
                do="use text, numbers, true or false",
            )
    if given["kind"] is not Kind.DATETIME and not all(
        isinstance(given.get(bound, 0), (int, float)) for bound in ("lower", "upper")
    ):
        raise SchemaError(f"the schema's column '{name}' has a bound that is no number")
    return given


def _kind_of(value: Scalar) -> Kind:
    """What a constant would be if it had more values."""
    if isinstance(value, bool):
        return Kind.BOOLEAN
    return Kind.CATEGORICAL if isinstance(value, str) else Kind.NUMERIC


def _usual_dtype(given: Mapping[str, Any]) -> str:
    """The dtype that pandas would give such a column, read from a file."""
    kind, nulls, format = given["kind"], given.get("nulls", False), given.get("format")
    values = given.get("categories") or [given.get("value", "")]
    match given.get("of") or kind:
        case Kind.NUMERIC if kind is Kind.NUMERIC:
            return "int64" if given.get("decimals") == 0 and not nulls else "float64"
        case Kind.BOOLEAN:
            return "object" if nulls else "bool"
        case Kind.DATETIME:
            return "object" if format else "datetime64[ns]"
        case Kind.ID:
            return "int64" if format == "integer" else "object"
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "float64" if nulls else "int64"
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return "float64" if numbers else "object"


# SDV ---------------------------------------------------------------------------------------------

_SDTYPES = {
    Kind.NUMERIC: "numerical",
    Kind.CATEGORICAL: "categorical",
    Kind.BOOLEAN: "boolean",
    Kind.DATETIME: "datetime",
    Kind.ID: "id",
}
_REGEXES = {"9": "[0-9]", "A": "[A-Z]", "a": "[a-z]"}
_HEX = "[0-9a-f]"
_UUID_REGEX = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"


def _to_sdv(column: Column) -> dict[str, Any]:
    """A column in SDV's words."""
    kind = column.of or column.kind
    if column.undecided:
        return {"sdtype": "unknown", "pii": False, "range_is_nullable": True}
    entry: dict[str, Any] = {"sdtype": _SDTYPES[kind], "range_is_nullable": column.nulls}
    if kind is Kind.ID and column.format != "integer":
        entry["regex_format"] = _regex(column.format or ANY_TEXT)
    if kind is Kind.DATETIME and column.format:
        entry["datetime_format"] = column.format
    if kind is Kind.NUMERIC and column.decimals is not None:
        entry["decimal_places"] = column.decimals
    if kind is Kind.CATEGORICAL and column.categories:
        entry["range_values"] = list(column.categories)
    if kind is Kind.NUMERIC:
        bounds = {"range_min": column.lower, "range_max": column.upper}
        entry |= {key: bound for key, bound in bounds.items() if bound is not None}
    return entry


def _from_sdv(name: str, entry: Mapping[str, Any], public_ranges: bool) -> dict[str, Any]:
    """A column of SDV as an entry of a schema file."""
    kind = {sdtype: kind for kind, sdtype in _SDTYPES.items()}.get(entry["sdtype"], Kind.ID)
    values = entry.get("range_values")
    if entry["sdtype"] == "ordinal":
        kind = Kind.CATEGORICAL
    if kind is Kind.CATEGORICAL and values and all(isinstance(v, bool) for v in values):
        kind = Kind.BOOLEAN
    # SDV allows nulls where it does not say otherwise.
    found = {"name": name, "kind": str(kind), "nulls": entry.get("range_is_nullable", True)}
    if kind is Kind.ID:
        text = entry["sdtype"] != "id" or "regex_format" in entry
        found["format"] = _shape_of_regex(entry.get("regex_format", "")) if text else "integer"
    if kind is Kind.NUMERIC and "decimal_places" in entry:
        found["decimals"] = entry["decimal_places"]
    if entry.get("datetime_format"):
        found["format"] = entry["datetime_format"]
    if public_ranges and kind in (Kind.NUMERIC, Kind.DATETIME):
        places = {"lower": entry.get("range_min"), "upper": entry.get("range_max")}
        found |= {key: bound for key, bound in places.items() if bound is not None}
    if public_ranges and kind is Kind.CATEGORICAL and values:
        found["categories"] = values
    return found


def _regex(shape: str) -> str:
    """The regular expression of a shape of keys."""
    if shape == "uuid":
        return _UUID_REGEX
    runs = ((token, len(list(run))) for token, run in itertools.groupby(shape_tokens(shape)))
    return "".join(
        _REGEXES.get(token, re.escape(token[-1])) + (f"{{{n}}}" if n > 1 else "")
        for token, n in runs
    )


def _shape_of_regex(regex: str) -> str:
    """The shape of keys that a regular expression means, any text if it is not a simple one."""
    if regex == _UUID_REGEX:
        return "uuid"
    part = r"(\[0-9\]|\\d|\[A-Z\]|\[a-z\]|\\\W|[^][\\.^$*+?{}()|])(?:\{(\d+)\})?"
    if not re.fullmatch(f"(?:{part})+", regex):
        return ANY_TEXT
    tokens = {regex: token for token, regex in _REGEXES.items()} | {r"\d": "9"}
    return "".join(
        tokens.get(found, _literal(found[-1])) * int(n or 1) for found, n in re.findall(part, regex)
    )
