"""Telling what a column is from its cells. `Schema.infer` says by which rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.errors import DataError, SchemaError
from genesis.schema.cells import as_text, typed
from genesis.schema.column import Column, Kind, Scalar
from genesis.schema.dates import coarsest_unit, find_format
from genesis.schema.keys import is_called_a_key, shape_of

__all__ = ["MIN_KEYS", "infer_column"]

MIN_KEYS = 20  # rows from which on unique values are taken for keys
MAX_DECIMALS = 8


def infer_column(name: str, cells: pd.Series[Any], discrete: bool) -> Column:
    """Tell what one column is.

    Args:
        name: Its name.
        cells: (n,) its cells; at least one.
        discrete: Whether it is categorical whatever it looks like.

    Raises:
        SchemaError: It cannot be told, or has a type that cannot be modelled.
        DataError: There are infinities.
    """
    nulls = bool(cells.isna().any())
    if cells.isna().all():
        return Column(name, Kind.CONSTANT, _dtype(cells), nulls=True)
    _check_not_nested(name, cells)
    if discrete or isinstance(cells.dtype, pd.CategoricalDtype):
        column = _discrete_column(name, cells)
    else:
        column = _typed_column(name, typed(name, cells))
    column = replace(column, nulls=nulls)
    first = cells.dropna().iloc[0]
    if not nulls and column.kind is not Kind.ID and _all_equal(cells, first):
        return replace(column, kind=Kind.CONSTANT, of=column.kind, value=_scalar(column, first))
    return column


def _typed_column(name: str, cells: pd.Series[Any]) -> Column:
    """Tell what a column is whose cells are all of one type."""
    dtype, types = str(cells.dtype), pd.api.types
    if types.is_bool_dtype(cells.dtype) or types.infer_dtype(cells, skipna=True) == "boolean":
        return Column(name, Kind.BOOLEAN, dtype)
    if types.is_datetime64_any_dtype(cells.dtype):
        return Column(name, Kind.DATETIME, dtype, unit=coarsest_unit(cells))
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
    keys = len(known) == len(cells) and (running or is_called_a_key(name)) and known.is_unique
    if keys and len(cells) >= MIN_KEYS:
        return Column(name, Kind.ID, dtype, format="integer")
    return Column(name, Kind.NUMERIC, dtype, decimals=0, ambiguous=keys)


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


def _text_column(name: str, cells: pd.Series[Any]) -> Column:
    """Tell dates, keys and categories from each other in text."""
    codes, texts = pd.factorize(cells)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    dtype = str(cells.dtype)
    number = np.asarray(pd.to_numeric(texts, errors="coerce").notna())
    _check_not_mixed(name, "numbers", number, codes, counts)
    found = None if number.any() else find_format(texts)
    if found is not None:
        format, swapped = found
        times = pd.to_datetime(texts, format=format, errors="coerce")
        _check_not_mixed(name, "dates", np.asarray(times.notna()), codes, counts)
        if times.notna().all():
            ambiguous = swapped is not None and bool(
                pd.to_datetime(texts, format=swapped, errors="coerce").notna().all()
            )
            unit = coarsest_unit(times.to_series())
            return Column(name, Kind.DATETIME, dtype, format=format, ambiguous=ambiguous, unit=unit)
    keys = len(texts) == len(cells)
    if keys and len(cells) >= MIN_KEYS:
        return Column(name, Kind.ID, dtype, format=shape_of(texts))
    return Column(name, Kind.CATEGORICAL, dtype, ambiguous=keys)


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
        return as_text(value)
    plain: Scalar = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, (bool, int, float)) else float(plain)


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
