"""Names of clients."""

from pathlib import Path

import pytest
from genesis_cli.clients import name_clients

from genesis.errors import DataError


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.csv", "b.csv"], ["a", "b"]),
        (["x/a.csv.gz", "y/b.parquet"], ["a", "b"]),
        (["a.b.csv", "a.c.csv"], ["a.b", "a.c"]),
        (["x/data.csv", "y/data.csv"], ["x/data", "y/data"]),
        (["x/a.csv", "x/a.parquet"], ["x/a.csv", "x/a.parquet"]),
    ],
)
def test_names(files: list[str], names: list[str]) -> None:
    paths = [Path(file) for file in files]
    assert name_clients(paths) == dict(zip(names, paths, strict=True))


def test_a_file_twice() -> None:
    with pytest.raises(DataError, match="is given 2 times"):
        name_clients([Path("a.csv"), Path("b.csv"), Path("x/../a.csv")])
