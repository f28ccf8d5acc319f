"""Imputation: the nulls of a table, drawn from a model's distribution given the rest of their rows.

For models that can be conditioned on whatever is known of a row: see `SumModel.complete`. Every
null is one draw, not the likeliest value, so that filled columns keep their spread and what holds
them together (Rubin 1987).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.encoding.discrete import DiscreteEncoding
from genesis.encoding.encoder import Encoder
from genesis.encoding.grid import GridEncoding
from genesis.errors import PlanError, SchemaError
from genesis.models import GenerativeModel, is_sum_model
from genesis.models.sums import SumModel
from genesis.schema import Column, Kind, Schema
from genesis.schema.checking import conformed
from genesis.schema.dates import find_format
from genesis.values import Label, as_column, labels, numbers

__all__ = ["impute"]

CHUNK_ROWS = 32_768  # rows that are completed at a time, to bound memory
EXACT = 2.0**53  # up to here float64 holds every whole number

Booleans = npt.NDArray[np.bool_]


def impute(
    table: pd.DataFrame, encoder: Encoder, model: GenerativeModel, rng: np.random.Generator
) -> pd.DataFrame:
    """Fill the nulls of a table.

    A null is no more than unknown: that it is null says nothing of its row. So are labels that the
    encoder has never seen and numbers beyond its bounds, but they stay as they are.

    Args:
        table: Any number of rows, with all or some of the columns that the model knows.
        encoder: The model's encoder.
        model: Draws what is unknown of a row.
        rng: Draws the places inside bins, and whatever the model draws.

    Returns:
        A copy without nulls, but for ids. A column keeps its dtype, with these exceptions. Floats
        of whole numbers and objects that are True and False become int64 and bool once they are
        full. Floats or objects that were all null get the dtype of generated rows.

    Raises:
        PlanError: The model cannot be conditioned on all that may be known of a row.
        SchemaError: The table has a column that the model does not know, or two of one name.
        DataError: A value is not of its column's kind.
    """
    if not is_sum_model(model.name):
        raise PlanError(
            f"{model.name} cannot fill in what is unknown of a row",
            do="fit with mixture or circuit",
        )
    columns = [
        _as_written(column, table.iloc[:, place])
        for place, column in enumerate(_columns(table, encoder.schema))
    ]
    gaps = table.isna().to_numpy()
    codes = np.full((len(table), encoder.layout.n_blocks), -1, dtype=np.int32)
    allowed: dict[int, Booleans] = {}
    empty = np.zeros(len(table), dtype=bool)
    for place, column in enumerate(columns):
        block = encoder.block_of.get(column.name)
        if block is None or not len(table):
            continue
        encoding = encoder.encodings[block]
        assert isinstance(encoding, GridEncoding | DiscreteEncoding)  # as sum models have them
        encoding = dataclasses.replace(encoding, column=column)
        codes[:, block] = _known_codes(encoding, table.iloc[:, place])
        not_null = np.arange(len(encoding.counts)) < len(encoding.counts) - bool(encoding.nulls)
        if not_null.any():
            allowed[block] = not_null
        empty |= gaps[:, place]
    rows = np.flatnonzero(empty)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        codes[chunk] = cast(SumModel, model).complete(codes[chunk], allowed, rng)
    filled = table.copy()
    for place, column in enumerate(columns):
        gap = gaps[:, place]
        if column.kind is Kind.ID or column.undecided or not gap.any():
            continue
        values, known = _drawn(column, encoder, codes[gap], rng)
        filled.isetitem(place, _fill(column, table.iloc[:, place], gap, values, known))
    return filled


def _columns(table: pd.DataFrame, schema: Schema) -> list[Column]:
    """What the model knows of every column of a table."""
    names = [str(name) for name in table.columns]
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise SchemaError(
                "two columns have the same name", got=f"'{name}' {count} times", do="rename them"
            )
    strange = [f"'{name}'" for name in names if name not in schema]
    if strange:
        several = len(strange) > 1
        raise SchemaError(
            f"the model does not know column{'s' * several} {', '.join(strange)}",
            do="fit with them, or drop them" if several else "fit with it, or drop it",
        )
    return [schema[name] for name in names]


def _as_written(column: Column, cells: pd.Series[Any]) -> Column:
    """A column; one of dates that a table has as text, in the format that it has them in."""
    texts = column.kind is Kind.DATETIME and pd.api.types.infer_dtype(cells) == "string"
    # The zone of a format is plain text, which would be written beside times of another one.
    zoned = isinstance(pd.api.types.pandas_dtype(column.dtype), pd.DatetimeTZDtype)
    if column.format is not None or zoned or not texts:
        return column
    found = find_format(pd.Index(cells.dropna().unique()))
    return column if found is None else dataclasses.replace(column, format=found[0])


def _known_codes(
    encoding: GridEncoding | DiscreteEncoding, cells: pd.Series[Any]
) -> npt.NDArray[np.int32]:
    """(n,) codes of cells; -1 where they are null, of a label never seen, or out of bounds."""
    if cells.isna().all():
        return np.full(len(cells), -1, dtype=np.int32)
    cells = conformed(encoding.column, cells)
    codes = encoding.encode(cells, None)[1]
    if isinstance(encoding, DiscreteEncoding):
        every = {*encoding.labels, *encoding.tail}
        given, found = labels(cells, as_text=any(isinstance(label, str) for label in every))
        known = np.array([label in every for label in found])[given]
    else:
        values = numbers(encoding.column, cells)
        known = (values >= encoding.lower) & (values <= encoding.upper)
    # A code of no row was listed, but never seen.
    known &= (codes >= 0) & (encoding.counts[codes] > 0)
    return np.where(known, codes, np.int32(-1))


def _drawn(
    column: Column, encoder: Encoder, codes: npt.NDArray[np.int32], rng: np.random.Generator
) -> tuple[npt.NDArray[Any], Sequence[Label]]:
    """Values of a column for completed codes (n, blocks), and all labels that it may have."""
    if column.kind is Kind.CONSTANT:
        return np.full(len(codes), column.value, dtype=object), [column.value]
    block = encoder.block_of[column.name]
    encoding = encoder.encodings[block]
    inside = rng.random(len(codes), dtype=np.float32) * 2 - 1
    known = encoding.known if isinstance(encoding, DiscreteEncoding) else ()
    return encoding.decode(inside, codes[:, block], rng), known


def _fill(
    column: Column,
    cells: pd.Series[Any],
    gap: Booleans,
    values: npt.NDArray[Any],
    known: Sequence[Label],
) -> pd.Series[Any]:
    """Cells (n,) with values in their gaps."""
    if gap.all() and cells.dtype in (np.float64, object):
        drawn = pd.Series(as_column(column, values, known)).set_axis(cells.index)
        return _restored(column, drawn, known)
    try:
        drawn = _as_held(column, cells, values, known)
    except (TypeError, ValueError):  # of a type too narrow for what the model knows
        drawn, cells = as_column(column, values, known), cells.astype(object)
    if isinstance(cells.dtype, pd.CategoricalDtype):
        listed = cells.cat.categories
        new = [label for label in drawn.categories if label not in listed and label in drawn]
        cells = cells.cat.add_categories(new)
        drawn = drawn.set_categories(cells.cat.categories)
    array = cells.array.copy()
    array[gap] = drawn
    return _restored(column, pd.Series(array, cells.index, cells.dtype), known)


def _as_held(
    column: Column, cells: pd.Series[Any], values: npt.NDArray[Any], known: Sequence[Label]
) -> Any:
    """Values as a table holds the cells of their column."""
    inferred = pd.api.types.infer_dtype(cells, skipna=True)
    if column.kind is Kind.DATETIME and inferred == "string":
        drawn = as_column(column, values, known)
        return drawn if column.format is not None else drawn.astype(str).to_numpy(dtype=object)
    held = dataclasses.replace(column, format=None)
    if cells.dtype != object:
        held = dataclasses.replace(held, dtype=str(cells.dtype))
    elif column.kind is Kind.DATETIME:
        held = dataclasses.replace(held, dtype="datetime64[us]")
    drawn = as_column(held, values, known)
    drawn = drawn.array if isinstance(drawn, pd.Series) else drawn
    if cells.dtype == object and inferred in _OBJECTS:
        return np.array([_OBJECTS[inferred](value) for value in drawn], dtype=object)
    return drawn


def _whole(number: Any) -> Any:
    """A number as an int, if it is whole."""
    return int(number) if float(number).is_integer() else number


_OBJECTS: dict[str | None, Callable[[Any], Any]] = {
    "date": lambda time: time.date(),
    "decimal": lambda number: Decimal(str(number)),
    "integer": _whole,
}
"""What pandas calls the cells of a column of objects -> what makes one of them."""


def _restored(column: Column, cells: pd.Series[Any], known: Sequence[Label]) -> pd.Series[Any]:
    """Cells as pandas holds them without nulls: whole numbers as int64, truth values as bool."""
    if cells.dtype == np.float64:
        whole = len(known) > 0 and all(type(label) is int for label in known)
        exact = (cells.abs() < EXACT) & (cells == cells.round())
        return cells.astype(np.int64) if (whole or column.decimals == 0) and exact.all() else cells
    if cells.dtype == object and Kind.BOOLEAN in (column.kind, column.of):
        truth = cells.map(lambda cell: isinstance(cell, bool | np.bool_))
        return cells.astype(bool) if truth.all() else cells
    return cells
