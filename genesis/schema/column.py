"""One column: its name, its kind and how its values are written."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

import numpy as np
import pandas as pd

from genesis.errors import SchemaError, nearest_names
from genesis.schema.dates import UNITS, count_since_1970, unit_of_format
from genesis.schema.keys import LONGEST_SHAPE

__all__ = ["Column", "Kind", "Scalar", "described"]

Scalar = str | int | float | bool

MAX_DECIMALS = 22  # the largest power of ten that a float64 holds exactly


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
        self._require(
            self.kind is not Kind.ID or len(self.format or "") <= LONGEST_SHAPE,
            f"a format of {len(self.format or ''):,} letters",
            f"at most {LONGEST_SHAPE}",
        )
        self._require((self.decimals or 0) >= 0, "decimals below 0")
        self._require((self.decimals or 0) <= MAX_DECIMALS, f"decimals above {MAX_DECIMALS}")
        self._require(self.categories != (), "no categories")
        self._require(len(set(self.categories or ())) == len(self.categories or ()), "twins")
        self._require(
            self.lower is None or self.upper is None or self.lower <= self.upper,
            "lower above upper",
        )
        self._require(_is_dtype(self.dtype), f"dtype '{self.dtype}'", "a dtype of pandas")

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

    @property
    def plain_dtype(self) -> str:
        """The dtype that values have as categories: datetimes become text."""
        dtype = pd.api.types.pandas_dtype(self.dtype)
        return "object" if pd.api.types.is_datetime64_any_dtype(dtype) else self.dtype

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
            given.setdefault("unit", unit_of_format(given.get("format")))
            for bound in ("lower", "upper"):
                if bound in given and given["unit"] in UNITS:
                    given[bound] = count_since_1970(name, given[bound], given["unit"])
        if kind is Kind.ID:
            given.setdefault("format", "integer")
        if kind is Kind.CONSTANT and "value" in given:
            given.setdefault("of", _kind_of(given["value"]))
        given.setdefault("dtype", _usual_dtype(given))
        return cls(**given)


def described(column: Column) -> str:
    """The kind of a column in words."""
    if column.kind is Kind.CONSTANT and column.of is not None:
        return f"constant ({column.of})"
    if column.kind is Kind.DATETIME:
        return f"datetime ({column.format or column.dtype})"
    return str(column.kind)


def _is_dtype(name: str) -> bool:
    """Whether a column may have a dtype by this name: of numbers, truth, text or times."""
    types = pd.api.types
    try:
        dtype = types.pandas_dtype(name)
    except (TypeError, ValueError, KeyError, NotImplementedError):
        return False
    plain = types.is_numeric_dtype(dtype) or types.is_bool_dtype(dtype)
    text = types.is_string_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype)
    times = types.is_datetime64_any_dtype(dtype)
    return (plain or text or times) and not types.is_complex_dtype(dtype)


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
        if not _is_finite(value):
            raise SchemaError(f"the schema's column '{name}' has a {key} that is not finite")
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


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that a float64 can hold, or no number."""
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


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
