"""Tables in files that memory does not hold, a block of rows at a time: `TableBlocks`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genesis.errors import DataError
from genesis.tables import CSV, PARQUET, existing, open_csv, reading, reading_parquet, with_levels

__all__ = ["BLOCK_ROWS", "TableBlocks"]

BLOCK_ROWS = 100_000
TRUTH = np.dtype(np.bool_)


class TableBlocks:
    """The rows of a file in blocks: joined, they are what `genesis.read_table` returns.

    Their types are those of all rows together, which the file is gone over for once. (Whole numbers
    from 2^63 on, beside smaller ones, are floats.)

    Args:
        path: A file as of `genesis.read_table`. It must stay as it is.
        rows: Rows of a block, at most.

    Raises:
        DataError: There is no such file, or it holds no such table.
    """

    def __init__(self, path: str | os.PathLike[str], rows: int = BLOCK_ROWS) -> None:
        if rows < 1:
            raise DataError("a block has at least 1 row", got=str(rows))
        self.path, self._suffix = existing(path)
        self._size = rows
        self._stamp = self._stamped()
        self._rows = 0
        found: dict[str, Any] = {}
        nulls: set[str] = set()
        for block in self._read(None, {}):
            self._rows += len(block)
            for name, cells in block.items():
                found[name] = _joined(found.get(name), _dtype_of(cells))
                if cells.isna().any():
                    nulls.add(name)
        if not self._rows:
            raise DataError(f"{self.path} has no rows")
        self.columns = tuple(found)
        """Their names."""
        known = {name: dtype for name, dtype in found.items() if dtype is not None}
        self._dtypes = {n: _with_nulls(d) if n in nulls else d for n, d in known.items()}
        # True and False beside nulls are only told from text where no type is asked for.
        self._asked = {n: d for n, d in self._dtypes.items() if (d == TRUTH) == (known[n] == TRUTH)}

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return self.read()

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Go over the rows.

        Args:
            columns: Names of those to read; all if None.

        Yields:
            At least one row, numbered from the first row of the file.

        Raises:
            DataError: The file has changed.
        """
        names = list(self.columns if columns is None else columns)
        types = {name: self._dtypes[name] for name in names if name in self._dtypes}
        if self._stamped() != self._stamp:
            raise DataError(f"{self.path} has changed since it was read first", do="start again")
        start = 0
        for block in self._read(names, {n: d for n, d in self._asked.items() if n in types}):
            block.index = pd.RangeIndex(start, start + len(block))
            yield block[names].astype(types)
            start += len(block)

    def _read(self, columns: Sequence[str] | None, types: dict[str, Any]) -> Iterator[pd.DataFrame]:
        if self._suffix in PARQUET:
            blocks = _parquet_blocks(self.path, self._size, columns)
        else:
            blocks = _csv_blocks(self.path, self._suffix, self._size, columns, types)
        while True:
            with reading(self.path, self._suffix):
                block = next(blocks, None)
            if block is None:
                return
            if len(block):
                yield block

    def _stamped(self) -> tuple[int, int]:
        """What tells that a file was not written to."""
        with reading(self.path, self._suffix):
            status = self.path.stat()
        return status.st_size, status.st_mtime_ns


def _csv_blocks(
    path: Path, suffix: str, rows: int, columns: Sequence[str] | None, types: dict[str, Any]
) -> Iterator[pd.DataFrame]:
    with (
        open_csv(path, suffix) as file,
        pd.read_csv(file, chunksize=rows, usecols=columns, dtype=types, **CSV) as blocks,
    ):
        yield from blocks


def _parquet_blocks(path: Path, rows: int, columns: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with reading_parquet(path), ParquetFile(path) as file:
        for batch in file.iter_batches(rows, columns=columns):
            block = with_levels(path, pa.Table.from_batches([batch]).to_pandas())
            yield block.set_axis([str(name) for name in block], axis=1)


def _dtype_of(cells: pd.Series[Any]) -> Any:
    """The type of the cells of one block that are not null; None if all are."""
    if cells.isna().all():
        return None
    truth = cells.dtype == object and pd.api.types.infer_dtype(cells, skipna=True) == "boolean"
    return TRUTH if truth else cells.dtype


def _joined(first: Any, second: Any) -> Any:
    """The type of what is not null in two blocks together: text if theirs have nothing in common.

    Joined, cells of a CSV that are numbers in one block and text in another are text in both.
    """
    if first is None or second is None:
        return second if first is None else first
    if _is_number(first) and _is_number(second):
        return np.result_type(first, second)
    return first if first == second else np.dtype(object)


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "iuf"


def _with_nulls(dtype: Any) -> Any:
    """The type of a column beside nulls."""
    if dtype == TRUTH:
        return np.dtype(object)
    return np.dtype(np.float64) if _is_number(dtype) and dtype.kind != "f" else dtype
