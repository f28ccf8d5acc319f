"""Tables block by block: joined, they are the table as it is read at once."""

from __future__ import annotations

import datetime as dt
import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import DataError, TableBlocks, read_table, write_table
from tests.dirty import dirty_table

SUFFIXES = [".csv", ".csv.gz", ".parquet"]


def shifting_table(n: int = 90) -> pd.DataFrame:
    """Columns whose first rows say something else than the others."""
    half, rest = n // 2, n - n // 2
    return dirty_table(n).assign(
        late_text=["1"] * half + ["x"] * rest,
        late_fraction=[*map(str, range(n - 1)), "2.5"],
        late_null=[*range(n - 1), None],
        truth=[None] * half + [True] * rest,
        late_truth=[True] * half + [None] * rest,
        truth_or_text=["True"] * half + ["maybe"] * rest,
        truth_or_number=["True"] * half + ["1"] * rest,
        nothing=None,
        empty_at_first=[None] * half + ["x"] * rest,
    )


def parquet_table(n: int = 90) -> pd.DataFrame:
    """The same, with types that CSV does not have."""
    return shifting_table(n).assign(
        nullable=pd.array([1, None, 3] * (n // 3), dtype="Int64"),
        small=np.arange(n).astype(np.int8),
        short=np.float32(0.1),
        label=pd.Categorical(["a", "b", "c"] * (n // 3)),
        day=dt.date(2020, 2, 29),
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rows", [1, 7, 45, 1000])
def test_joined_blocks_are_the_table(tmp_path: Path, suffix: str, rows: int) -> None:
    path = tmp_path / f"rows{suffix}"
    write_table(parquet_table() if suffix == ".parquet" else shifting_table(), path)
    table, blocks = read_table(path), TableBlocks(path, rows)
    for _ in range(2):
        found = list(blocks)
        pd.testing.assert_frame_equal(pd.concat(found), table, check_exact=True)
        assert [len(block) for block in found[:-1]] == [rows] * (len(found) - 1)
        assert all((block.dtypes == table.dtypes).all() for block in found)
    assert len(blocks) == len(table)
    assert blocks.columns == tuple(table)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_some_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_table(shifting_table(), path)
    names = ["truth", "late_text", "nothing", "größe, cm"]
    found = pd.concat(TableBlocks(path, 7).read(names))
    pd.testing.assert_frame_equal(found, read_table(path)[names], check_exact=True)


CELLS = ["", "", "1", "-2", "007", "2.5", "1e5", "9007199254740993", "True", "false", "x", "NA"]


@settings(max_examples=200)
@given(st.data(), st.integers(1, 5))
def test_any_csv(tmp_path_factory: pytest.TempPathFactory, data, rows: int) -> None:
    """What a cell is read as depends on the others of its column, in whatever block they are."""
    n = data.draw(st.integers(1, 12))
    columns = [
        data.draw(
            st.lists(
                st.sampled_from(data.draw(st.lists(st.sampled_from(CELLS), min_size=1))),
                min_size=n,
                max_size=n,
            )
        )
        for _ in range(3)
    ]
    lines = ["a,b,c,row", *(",".join([*cells, "y"]) for cells in zip(*columns, strict=True))]
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_text("\n".join(lines))
    found = pd.concat(TableBlocks(path, rows))
    pd.testing.assert_frame_equal(found, read_table(path), check_exact=True)


def test_an_index_of_parquet_with_a_name_is_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    dirty_table(30).set_index("sex").to_parquet(path)
    pd.testing.assert_frame_equal(pd.concat(TableBlocks(path, 7)), read_table(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"a,b\n",
        b"a,b,a\n1,2,3\n",
        b"a;b\n1;2\n",
        b"a,b\n1,2,3\n4,5,6\n",
        b"a,b\n1,2\n3,4\n5,6\n7,8,9\n",
        b'a,b\n1,"2\n',
        "a,b\n1,2\n3,4\n1,ü\n".encode("latin1"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_table_is_refused_in_the_same_words(
    tmp_path: Path, content: bytes, zipped: bool
) -> None:
    path = tmp_path / ("rows.csv.gz" if zipped else "rows.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError) as whole:
        read_table(path)
    with pytest.raises(DataError) as blocks:
        TableBlocks(path, 2)
    assert blocks.value.what == whole.value.what
    assert "\n" not in str(blocks.value)


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_cut_short(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"rows{suffix}"
    write_table(pd.DataFrame({"a": np.random.default_rng(0).random(5000)}), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"empty|damaged|cannot be read"):
        TableBlocks(path, 7)


def test_what_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with pytest.raises(DataError, match="there is no file"):
        TableBlocks(path)
    path.write_text("a\n1\n")
    with pytest.raises(DataError, match="at least 1 row; got 0"):
        TableBlocks(path, 0)


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    blocks = TableBlocks(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="has changed"):
        next(iter(blocks))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        next(iter(blocks))
