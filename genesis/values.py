"""The values of a column: as numbers or labels for the encoder, and back as the table had them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.errors import DataError
from genesis.schema import Column, Kind

__all__ = ["Label", "as_column", "labels", "numbers"]

Label = str | int | float | bool | None
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def numbers(column: Column, values: pd.Series[Any]) -> Floats:
    """The values of a numeric or datetime column as (n,) float64, NaN where null.

    Datetimes count the column's unit since 1970.

    Raises:
        DataError: A value is not of the column's kind, or is infinite.
    """
    if column.kind is Kind.DATETIME:
        try:
            times = pd.to_datetime(values, format=column.format, utc=True)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"column '{column.name}' is not all dates",
                got=f"values that do not read as {column.format or 'dates'}",
                do="mend them, or name the column in discrete_columns",
            ) from error
        unit = column.unit or "us"
        ticks = times.dt.tz_localize(None).to_numpy().astype(f"datetime64[{unit}]")
        return np.where(np.isnat(ticks), np.nan, ticks.astype(np.int64).astype(np.float64))
    try:
        converted = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"column '{column.name}' is not all numbers",
            got="text among its values",
            do="mend them, or name the column in discrete_columns",
        ) from error
    if np.isinf(converted).any():
        raise DataError(
            f"column '{column.name}' holds infinities",
            got=f"{int(np.isinf(converted).sum())} of them",
            do="replace them by nulls or by a large number",
        )
    # Adding zero turns -0.0 into 0.0: they are one value.
    return np.array(converted, dtype=np.float64) + 0.0


def _label(value: Any, as_text: bool) -> Label:
    """One value as a label: whole numbers are ints whatever their type, unknown types are text."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)) if as_text else bool(value)
    if isinstance(value, (int, float, np.integer, np.floating)):
        number = float(value)
        whole = int(value) if number.is_integer() else number
        return str(whole) if as_text else whole
    return str(value)


def labels(values: pd.Series[Any], as_text: bool = False) -> tuple[Integers, list[Label]]:
    """The values of a discrete column as codes (n,) into the labels returned; null is label None.

    Args:
        values: The column.
        as_text: Turn numbers into text, for a column that is text at some other client.
    """
    codes, distinct = pd.factorize(values, use_na_sentinel=True)
    found: list[Label] = [_label(value, as_text) for value in distinct]
    found.append(None)  # code -1, the null, is the last one
    return codes.astype(np.int64), found


def as_column(column: Column, values: npt.NDArray[Any], known: Sequence[Label] = ()) -> Any:
    """Decoded values (n,) as the table had them: the column's dtype, its text format for dates.

    Args:
        column: The column.
        values: float64 with NaN for null, or labels as objects with None for null.
        known: All labels that the column may have: the categories of pandas' categories.
    """
    if column.kind is Kind.DATETIME:
        return _as_datetimes(column, values)
    dtype = pd.api.types.pandas_dtype(column.dtype)
    null = pd.isna(values)
    if isinstance(dtype, np.dtype):
        if dtype.kind in "iub" and null.any():
            # Nulls where the table had none to hold: pandas' nullable type of the same name.
            nullable = "boolean" if dtype.kind == "b" else dtype.name.title().replace("Ui", "UI")
            return pd.array(_with_none(values, null), dtype=nullable)
        if dtype.kind in "iu" and values.dtype == object:
            return values.astype(dtype)  # labels, which float64 could not hold beyond 2^53
        if dtype.kind in "iu":
            return np.rint(values.astype(np.float64)).astype(dtype)
        if dtype.kind == "b":
            return values.astype(bool)
        if dtype.kind == "f":
            return np.where(null, np.nan, values).astype(dtype)
        if dtype.kind == "M":  # a constant, written in ISO format
            return pd.to_datetime(pd.Series(values)).astype(dtype)
        text = values.astype(object, copy=True)
        text[null] = np.nan
        return text
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Categorical(_with_none(values, null), categories=known)
    if values.dtype == np.float64 and pd.api.types.is_integer_dtype(dtype):
        values = np.rint(values)
    return pd.array(_with_none(values, null), dtype=dtype)


def _with_none(values: npt.NDArray[Any], null: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Values as objects, None where they are null."""
    objects = values.astype(object, copy=True)
    objects[null] = None
    return objects


def _as_datetimes(column: Column, ticks: npt.NDArray[Any]) -> Any:
    """Counts of the column's unit since 1970 as datetimes or as text."""
    unit = column.unit or "us"
    null = np.isnan(ticks)
    times = np.where(null, 0, np.rint(ticks)).astype(np.int64).astype(f"datetime64[{unit}]")
    times[null] = np.datetime64("NaT")
    if column.format is None:
        found = pd.Series(times.astype("datetime64[us]"))
        dtype = pd.api.types.pandas_dtype(column.dtype)
        if isinstance(dtype, pd.DatetimeTZDtype):
            return found.dt.tz_localize("UTC").astype(dtype)
        return found.astype(dtype)
    # Formatting is slow and dates repeat: once for every distinct one.
    codes, distinct = pd.factorize(times)
    written = np.array([*pd.DatetimeIndex(distinct).strftime(column.format), np.nan], dtype=object)
    return written[codes]
