"""Tables in files: CSV, gzipped CSV and Parquet, told by their names.

Everything that this package writes goes through `replace_file`, so that nobody ever sees half a
file, and is checked by `check_output` before the work whose result it will hold.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import re
import secrets
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd

from genesis.errors import DataError

__all__ = ["TABLE_SUFFIXES", "check_output", "read_table", "replace_file", "write_table"]

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
PARQUET = (".parquet", ".pq")
CSV: dict[str, Any] = {
    "low_memory": False,
    # Without it, one cell too many in every row would turn the first column into an index; with
    # it, pandas would drop the last column and warn.
    "index_col": False,
    "float_precision": "round_trip",
}


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table.

    Empty cells and what else pandas takes for one ("NA", "null", …) are nulls. Numbers are read
    exactly as Python reads them, so that 0.1 is a multiple of a tenth.

    Args:
        path: A file whose name ends in one of `TABLE_SUFFIXES`. CSV is UTF-8, with commas and a
            header.

    Returns:
        At least one row, with columns of unique names, numbered from 0.

    Raises:
        DataError: There is no such file, or it holds no such table.
    """
    path, suffix = existing(path)
    with reading(path, suffix):
        table = _read_parquet(path) if suffix in PARQUET else _read_csv(path, suffix)
    if table.empty:
        raise DataError(f"{path} has no rows", got=f"{table.shape[1]} columns")
    return table


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table, without its index.

    Args:
        table: What to write.
        path: Where to; the end of its name, one of `TABLE_SUFFIXES`, decides the format.

    Raises:
        DataError: The folder is missing, the name ends otherwise, or the disk refuses.
    """
    suffix = check_output(path)
    with replace_file(path) as temporary:
        if suffix in PARQUET:
            table.to_parquet(temporary, index=False)
        elif suffix == ".csv.gz":
            # Neither a name nor a time in the header: the same rows are the same bytes.
            with (
                temporary.open("wb") as file,
                gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as zipped,
            ):
                table.to_csv(zipped, index=False)
        else:
            table.to_csv(temporary, index=False)


def check_output(
    path: str | os.PathLike[str], suffixes: Sequence[str] | None = TABLE_SUFFIXES
) -> str:
    """Make sure that a file can be written, before the work that fills it.

    Args:
        path: The file to be.
        suffixes: How its name may end; anyhow if None.

    Returns:
        The one of suffixes that it ends in, "" if None were given.

    Raises:
        DataError: It cannot be written.
    """
    path = Path(path)
    suffix = "" if suffixes is None else _suffix(path, suffixes)
    if path.is_dir():
        raise DataError(f"cannot write {path}", got="a folder of that name", do="name a file")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}", got="no such folder", do=f"create {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write {path}", got="a folder that is not yours to write in")
    return suffix


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all.

    Args:
        path: The file to be; one of that name is replaced.

    Yields:
        A name in the same folder to write to. It becomes path at the end of the block, and is
        removed if the block raises.

    Raises:
        DataError: The operating system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}", got=_one_line(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_private(path: str | os.PathLike[str], text: str) -> None:
    """Write a text that only its owner can read.

    Raises:
        DataError: The operating system refuses.
    """
    with replace_file(path) as temporary:
        temporary.touch(mode=0o600)  # and only then written to
        temporary.write_text(text, encoding="utf-8")


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter; one that is there keeps its mode.

    Raises:
        DataError: The operating system refuses.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {path}", got=error.strerror) from error


def _suffix(path: Path, suffixes: Sequence[str]) -> str:
    """The longest of suffixes that path ends in, in upper or lower case."""
    for suffix in sorted(suffixes, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return suffix
    got = path.suffix or "no ending"
    raise DataError(
        f"the name of {path} says no known format", got=got, do=f"use {' or '.join(suffixes)}"
    )


def _one_line(error: Exception) -> str:
    """What an error of another library says, without its line breaks."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def existing(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """A file that is there and not empty, and how its name ends."""
    path = Path(path)
    suffix = _suffix(path, TABLE_SUFFIXES)
    if path.is_dir():
        raise DataError(f"{path} is a folder", do="name a file")
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    return path, suffix


def _read_parquet(path: Path) -> pd.DataFrame:
    with reading_parquet(path):
        return with_levels(path, pd.read_parquet(path))


@contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Raise DataError where a file is not Parquet."""
    try:
        yield
    except (ValueError, OSError) as error:  # pyarrow's errors are one or the other
        raise DataError(f"{path} is not Parquet, or is damaged", got=_one_line(error)) from error


def with_levels(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A table as read from Parquet; the levels of an index with a name become columns again."""
    named = [level for level in table.index.names if level is not None]
    table = table.reset_index(level=named) if named else table
    _check_header(path, [str(name) for name in table.columns])
    return table.reset_index(drop=True)


def _read_csv(path: Path, suffix: str) -> pd.DataFrame:
    with open_csv(path, suffix) as file:
        table: pd.DataFrame = pd.read_csv(file, **CSV)
    return table


def open_csv(path: Path, suffix: str) -> BinaryIO:
    """The bytes of a CSV file, unzipped, once its header was found to be that of a table."""
    with _open(path, suffix) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        header = next((row for row in csv.reader(text) if row), None)
    if header is None:
        raise DataError(f"{path} is empty", got="blank lines")
    _check_header(path, header)
    return _open(path, suffix)


@contextmanager
def reading(path: Path, suffix: str) -> Iterator[None]:
    """Raise DataError for all that pandas would quietly make the best of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8",
            got=f"a foreign byte at offset {_foreign_byte(path, suffix):,}",
            do="convert it, for example with iconv -f latin1 -t utf-8",
        ) from error
    except OSError as error:  # also a file that is not gzip
        raise DataError(f"{path} cannot be read", got=_one_line(error)) from error
    except (EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged gzip", got=_one_line(error), do="make or copy it again"
        ) from error
    except pd.errors.ParserWarning as warning:
        raise DataError(
            f"{path} has rows that are not as long as its header",
            got="a first row with more cells than names",
            do="mend it",
        ) from warning
    except (pd.errors.ParserError, csv.Error) as error:
        # "Error tokenizing data. C error: Expected 3 fields in line 5, saw 4"
        found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        raise DataError(
            f"{path} has rows that are not as long as its header" if found else f"{path} is no CSV",
            got="{2} cells instead of {0} in line {1}".format(*found.groups())
            if found
            else _one_line(error),
            do="mend it, or quote cells that hold commas",
        ) from error


def _open(path: Path, suffix: str) -> BinaryIO:
    """The bytes of a CSV file, unzipped."""
    return cast(BinaryIO, gzip.open(path)) if suffix.endswith(".gz") else path.open("rb")


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Raise DataError for names that are blank or not unique, and for another separator."""
    if len(header) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in header[0]:
                raise DataError(
                    f"the columns of {path} are not separated by commas",
                    got=name,
                    do=f"convert it: pandas.read_csv(file, sep={separator!r}).to_csv(…)",
                )
    blank = [number for number, name in enumerate(header, start=1) if not name.strip()]
    if blank:
        raise DataError(
            f"a column of {path} has no name",
            got=f"a blank in place {blank[0]} of the header",
            do="name it, or write the table without its index (index=False)",
        )
    name, count = Counter(header).most_common(1)[0] if header else ("", 0)
    if count > 1:
        raise DataError(
            f"two columns of {path} have the same name",
            got=f"'{name}' {count} times",
            do="rename them",
        )


def _foreign_byte(path: Path, suffix: str) -> int:
    """Where, from 0, the first byte lies that is not UTF-8 (in the unzipped file)."""
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    with _open(path, suffix) as file:
        while True:
            chunk = file.read(1 << 20)
            kept = len(decoder.getstate()[0])  # of a character cut in two, from the last chunk
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return start - kept + error.start
            if not chunk:
                return start
            start += len(chunk)
