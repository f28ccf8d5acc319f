"""Tables in files."""

from __future__ import annotations

import gzip
import string
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from genesis.errors import DataError
from genesis.tables import TABLE_SUFFIXES, check_output, read_table, replace_file, write_table


@pytest.fixture
def table() -> pd.DataFrame:
    """One column of every kind that CSV can carry."""
    return pd.DataFrame(
        {
            "age": [31, 64, 7],
            "größe": [1.71, None, 0.1 + 0.2],
            "sex": ["f", "m, or so", None],
            "smoker": [True, False, True],
            "vaccinated": [True, None, False],
            "seen": ["2020-01-31", "2020-02-01", None],
            "note": ['say "no"', "two\nlines", "ünï"],
        }
    )


@pytest.mark.parametrize("suffix", [*TABLE_SUFFIXES, ".CSV"])
def test_what_is_written_is_read(table: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_table(table, path)
    pd.testing.assert_frame_equal(read_table(path), read_table(path).astype(table.dtypes))
    pd.testing.assert_frame_equal(read_table(path).fillna("-"), table.fillna("-"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


cells = {
    "whole": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_infinity=False),
    "text": st.text(string.ascii_letters + ' ,;"\n\tüß€😀', min_size=1).map("x".__add__),
    "boolean": st.booleans(),
}


@given(st.data())
def test_csv_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(cells)), min_size=1, max_size=4))
    n = data.draw(st.integers(1, 5))
    table = pd.DataFrame(
        {
            f"{kind} {i}": data.draw(st.lists(cells[kind], min_size=n, max_size=n))
            for i, kind in enumerate(kinds)
        }
    )
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    write_table(table, path)
    pd.testing.assert_frame_equal(read_table(path), table, check_exact=True)


def test_gzip_is_reproducible(table: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        write_table(table, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("\ufeffa,b\n1,2\n".encode())
    assert list(read_table(tmp_path / "rows.csv")) == ["a", "b"]


def test_index_of_parquet_with_a_name_is_a_column(table: pd.DataFrame, tmp_path: Path) -> None:
    table.set_index("age").to_parquet(tmp_path / "rows.parquet")
    assert set(read_table(tmp_path / "rows.parquet")) == set(table)
    table.iloc[::-1].to_parquet(tmp_path / "rows.parquet")
    assert list(read_table(tmp_path / "rows.parquet").index) == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty; got blank lines"),
        (b"a,b\n", "has no rows; got 2 columns"),
        (b"a,b,a\n1,2,3\n", "same name; got 'a' 2 times"),
        (b"a,b,\n1,2,3\n", "no name; got a blank in place 3"),
        (b"a;b\n1;2\n", "not separated by commas; got semicolons; .*sep=';'"),
        (b"a\tb\n1\t2\n", "not separated by commas; got tabs"),
        (b"a|b\n1|2\n", "not separated by commas; got bars"),
        (b"a,b\n1,2\n3,4,5\n", "as long as its header; got 3 cells instead of 2 in line 3"),
        (b"a,b\n1,2,3\n4,5,6\n", "as long as its header; got a first row"),
        (b'a,b\n1,"2\n', "is no CSV"),
        ("a,b\n1,ü\n".encode("latin1"), "not UTF-8; got a foreign byte at offset 6; .*iconv"),
        ("ä,b\n1,2\n".encode("latin1"), "not UTF-8; got a foreign byte at offset 0"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8; got a foreign byte at offset 0"),
        (b"a\nx\n" + "€".encode() * 400_000 + b"\xe2", "at offset 1,200,004"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_table(tmp_path: Path, content: bytes, message: str, zipped: bool) -> None:
    path = tmp_path / ("rows.csv.gz" if zipped else "rows.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_cut_short(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"rows{suffix}"
    write_table(pd.DataFrame({"a": np.random.default_rng(0).random(5000)}), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"empty|damaged|cannot be read"):
        read_table(path)


def test_what_is_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"cannot be read; got Not a gzipped file"):
        read_table(tmp_path / "rows.csv.gz")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, message in {
        "none.csv": "there is no file",
        "folder.csv": "is a folder",
        "rows.xlsx": r"known format; got \.xlsx; use \.csv or \.csv\.gz or \.parquet or \.pq",
        "rows": "known format; got no ending",
    }.items():
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / name)


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert check_output(tmp_path / "rows.csv.gz") == ".csv.gz"
    assert check_output(tmp_path / "report.html", [".html"]) == ".html"
    assert check_output(tmp_path / "model", None) == ""
    for name, message in {
        "rows.txt": r"got \.txt",
        "none/rows.csv": "got no such folder; create .*none",
        "folder.csv": "got a folder of that name",
    }.items():
        with pytest.raises(DataError, match=message):
            check_output(tmp_path / name)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replace_file(path) as temporary:
        temporary.write_text("ne") and 1 / 0
    assert path.read_text() == "old"
    with replace_file(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(DataError, match="cannot write"), replace_file(tmp_path / "no" / "x") as t:
        t.write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
