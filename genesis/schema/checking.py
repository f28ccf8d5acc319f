"""Whether the cells of a table are what its schema says, and making them so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from genesis.errors import GenesisError, SchemaError
from genesis.schema.cells import as_text, typed
from genesis.schema.column import Column, Kind, Scalar, described
from genesis.schema.inference import infer_column
from genesis.schema.merging import merge_columns

__all__ = ["check_column", "conformed", "loosely_conformed"]


def check_column(column: Column, cells: pd.Series[Any], owner: str) -> None:
    """Make sure that cells are what a schema says of their column.

    Args:
        column: What the schema says.
        cells: (n,) the cells; at least one.
        owner: Whose they are, for the message.

    Raises:
        SchemaError: They are something else.
        DataError: There are infinities.
    """
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
        kind = merge_columns({"the schema": column, owner: found}).kind
    except SchemaError:
        kind = found.kind
    if kind is not column.kind and found.of is not None and found.of is column.of:
        raise SchemaError(
            f"{what} has another value than the constant of the schema",
            do="mend it, or change the schema",
        )
    if kind is not column.kind:
        raise SchemaError(
            f"{what} is {described(found)} and the schema says {described(column)}",
            do="mend it, or change the schema",
        )
    if column.categories is not None:
        listed = {as_text(category) for category in column.categories}
        strange = ~known.map(as_text).isin(listed)
        _require_none(strange, f"{what} holds values that are not among the schema's categories")


def _infer_for_check(column: Column, cells: pd.Series[Any], owner: str) -> Column:
    """Infer one column, and name the owner in what goes wrong."""
    discrete = Kind.CATEGORICAL in (column.kind, column.of)
    try:
        found = infer_column(column.name, cells, discrete)
    except GenesisError as error:
        raise type(error)(f"{owner}: {error.what}", got=error.got, do=error.do) from error
    return found


def _require_none(strange: pd.Series[Any], what: str) -> None:
    """Raise SchemaError if there are strange cells."""
    if strange.any():
        got = f"{strange.sum():,} other values" if strange.sum() > 1 else "one other value"
        raise SchemaError(what, got=got, do="mend it, or change the schema")


def conformed(column: Column, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Cells (n,) that `check_column` finds right, as one type: see `Schema.conform`."""
    kind = column.of or column.kind
    if kind is Kind.CATEGORICAL:
        plain = cells.astype(object)
        if column.is_text and pd.api.types.infer_dtype(plain, skipna=True) != "string":
            return plain.map(as_text, na_action="ignore")
        return plain if isinstance(cells.dtype, pd.CategoricalDtype) else cells
    return cells if kind is Kind.ID else typed(column.name, cells)


def loosely_conformed(column: Column, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Cells (n,) as one type, each read by itself; what `check_column` would refuse becomes null.

    Nothing fails, and no cell decides how another one is read: either would tell of a single row.
    """
    kind, dtype = column.of or column.kind, pd.api.types.pandas_dtype(column.dtype)
    if kind is Kind.ID:
        return cells
    if kind is Kind.NUMERIC:
        return _numbers(cells)
    plain = cells.astype(object)
    if kind is Kind.DATETIME:
        if pd.api.types.is_datetime64_any_dtype(cells.dtype):
            return cells
        # Without a format pandas would take the first cell's for all others.
        texts, format = plain.map(str, na_action="ignore"), column.format or "ISO8601"
        return pd.to_datetime(texts, format=format, errors="coerce", utc=True)
    if kind is Kind.BOOLEAN or pd.api.types.is_bool_dtype(dtype):
        found = plain.where(plain.map(lambda cell: isinstance(cell, bool | np.bool_)), None)
    elif column.is_text:
        plain = plain.where(plain.map(lambda cell: isinstance(cell, Scalar | np.generic)), None)
        found = plain.map(as_text, na_action="ignore")
    else:  # or 1, True and "1" would be one label or three, by which of them comes first
        found = _numbers(cells)
    if column.categories is not None:
        known = {as_text(category) for category in column.categories}
        found = found.where(found.map(as_text, na_action="ignore").isin(known), None)
    return found


def _numbers(cells: pd.Series[Any]) -> pd.Series[Any]:
    """Cells (n,) as finite numbers, NaN where they are none; numbers keep their type."""
    types = pd.api.types
    if not types.is_numeric_dtype(cells.dtype) or types.is_complex_dtype(cells.dtype):
        return cells.astype(object).map(_number).astype(np.float64)
    return cells.mask(cells.isin([np.inf, -np.inf])) if types.is_float_dtype(cells.dtype) else cells


def _number(cell: Any) -> float:
    """One cell as a finite number, else NaN."""
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        return np.nan
    return number if np.isfinite(number) else np.nan
