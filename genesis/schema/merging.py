"""One column from those that several clients have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from genesis.errors import SchemaError
from genesis.schema.cells import as_text
from genesis.schema.column import Column, Kind, described
from genesis.schema.dates import UNITS, swapped_format
from genesis.schema.keys import ANY_TEXT, merge_shapes

__all__ = ["merge_columns"]


def merge_columns(parts: Mapping[str, Column]) -> Column:
    """The column that holds what several hold.

    Args:
        parts: Owner, in the words of messages -> its column; at least one.

    Raises:
        SchemaError: They are of different kinds, or their dates are written differently.
    """
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
    values = {as_text(c.value) for c in columns}
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
                f"column '{part.name}' is {described(parts[first])} at {first} "
                f"and {described(part)} at {owner}",
                do="name it in discrete_columns everywhere, or give all the same schema file",
            )
    return kind


def _merged_format(kind: Kind, parts: Mapping[str, Column]) -> str | None:
    """The format of all, if there is one.

    Raises:
        SchemaError: Datetimes are written differently.
    """
    if kind is Kind.ID:
        shapes = (part.format or ANY_TEXT for part in parts.values() if part.kind is Kind.ID)
        return merge_shapes(shapes)
    if kind is not Kind.DATETIME:
        return None
    # Dates that read both ways say nothing of which way is meant if others do.
    firm = {owner: part for owner, part in parts.items() if not part.ambiguous} or parts
    first, chosen = next(iter(firm.items()))
    for owner, part in parts.items():
        readings = {part.format}
        if part.format and part.ambiguous:
            readings.add(swapped_format(part.format))
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
