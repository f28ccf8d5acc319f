"""What cells of type object really are: numbers, times, or else text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from genesis.errors import SchemaError

__all__ = ["as_text", "typed"]


def typed(name: str, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Cells of type object as the one type that they have, or as text if they have several.

    Args:
        name: The column's, for messages.
        cells: (n,) cells of any type; those of other types than object are returned as they are.

    Raises:
        SchemaError: They are times that no dtype of pandas holds together.
    """
    if cells.dtype != object:
        return cells
    found = pd.api.types.infer_dtype(cells, skipna=True)
    if found in ("string", "boolean", "empty", "bytes", "complex"):
        return cells
    if found in ("integer", "floating", "mixed-integer-float", "decimal"):
        return _as_numbers(cells)
    if found in ("date", "datetime", "datetime64", "timedelta", "timedelta64"):
        return _as_times(name, cells, durations=found.startswith("timedelta"))
    texts = cells.map(as_text, na_action="ignore")
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


def as_text(cell: Any) -> str:
    """A value as text: whole numbers without a fraction, whatever their type."""
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        return str(int(cell))
    return str(cell)
