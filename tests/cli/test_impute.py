"""`genesis impute`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import genesis
from tests.cli.conftest import SITES, Run, people

MIXTURE = ["--method", "mixture", "--config", "components=4", "--epochs", 3, "--seed", 0]
IMPUTE = ["impute", "north.csv", "--model", "people.mixture", "--output"]


@pytest.fixture(autouse=True)
def mixture(run: Run) -> Path:
    """A mixture of the people in the current folder."""
    people(200, 7).to_csv("all.csv", index=False)
    done = run(["fit", "all.csv", "--output", "people.mixture", *MIXTURE])
    assert done.exit_code == 0, done.stderr
    return Path("people.mixture")


@pytest.mark.parametrize("name", ["full.csv", "full.csv.gz", "full.parquet"])
def test_the_empty_cells_of_a_table(run: Run, name: str) -> None:
    table = genesis.read_table("north.csv")
    done = run([*IMPUTE, name, "--seed", 1])
    assert done.exit_code == 0, done.stderr
    empty = int(table["income"].isna().sum())
    assert done.stdout == ""
    assert done.stderr == f"{empty} cells of 1 column filled in {name}\n"
    filled = genesis.read_table(name)
    assert filled.notna().all(axis=None)
    assert filled.dtypes.equals(table.dtypes)
    known = table["income"].notna()
    assert filled[known].equals(table[known])


def test_seeds_and_quiet(run: Run) -> None:
    for name in ("one.csv", "two.csv"):
        done = run([*IMPUTE, name, "--seed", 1, "--quiet"])
        assert (done.exit_code, done.output) == (0, "")
    run([*IMPUTE, "three.csv", "--seed", 2])
    assert Path("one.csv").read_bytes() == Path("two.csv").read_bytes()
    assert Path("one.csv").read_bytes() != Path("three.csv").read_bytes()


def test_whole_numbers_and_keys_are_written_as_they_were(run: Run) -> None:
    people(200, 1).assign(key=range(200)).to_csv("keys.csv", index=False)
    run(["fit", "keys.csv", "--output", "keys.model", *MIXTURE])
    rows = ["age,sex,income,key", "40,,1.5,7", ",Female,2.25,", "1000,None of these,,9"]
    Path("holes.csv").write_text("\n".join(rows) + "\n")
    done = run(["impute", "holes.csv", "--model", "keys.model", "--output", "full.csv"])
    assert done.exit_code == 0, done.stderr
    said = done.stderr.splitlines()
    assert said == [
        "the empty cells of column 'key' stay: it holds keys",
        "3 cells of 3 columns filled in full.csv",
    ]
    first, second, third = (line.split(",") for line in Path("full.csv").read_text().split()[1:4])
    assert first[0] == "40"
    assert first[1] in ("Female", "Male")
    assert first[2:] == ["1.5", "7"]
    assert second[0].isdigit()
    assert second[1:] == ["Female", "2.25", ""]
    assert third[0] == "1000"


def test_nothing_to_fill(run: Run) -> None:
    people(5, 0).dropna().to_csv("rows.csv", index=False)
    done = run(["impute", "rows.csv", "--model", "people.mixture", "--output", "same.csv"])
    assert done.stderr == "0 cells of 0 columns filled in same.csv\n"
    assert Path("same.csv").read_bytes() == Path("rows.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*IMPUTE, "north.csv"], "cannot write north.csv; got a file that this command uses"),
        ([*IMPUTE, "people.mixture"], "says no known format"),
        ([*IMPUTE, "full.txt"], "says no known format"),
        ([*IMPUTE, "nowhere/full.csv"], "no such folder"),
        ([*IMPUTE, "full.csv", "--seed", -1], "seed must be"),
        (["impute", "no.csv", *IMPUTE[2:], "full.csv"], "there is no file no.csv"),
        ([*IMPUTE[:3], "no.model", "--output", "full.csv"], "no.model"),
        ([*IMPUTE[:3], "people.model", "--output", "full.csv"], "fit with mixture or circuit"),
        (["impute", "more.csv", *IMPUTE[2:], "full.csv"], "does not know column 'ward'; fit with"),
    ],
)
@pytest.mark.usefixtures("model")
def test_what_cannot_be_done(run: Run, words: list[object], says: str) -> None:
    people(5, 0).assign(ward="A").to_csv("more.csv", index=False)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    done = run(words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_options_come_from_the_environment(run: Run) -> None:
    env = {"GENESIS_MODEL": "people.mixture", "GENESIS_OUTPUT": "full.csv", "GENESIS_SEED": "3"}
    assert run(["impute", SITES[1]], env).exit_code == 0
    assert np.isfinite(pd.read_csv("full.csv")["income"]).all()
