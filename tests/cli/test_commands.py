"""Every command does what it says."""

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import genesis
from genesis.model_file import read_file
from tests.cli.conftest import SHORT, SITES, SMALL, Run

SIMULATE = ["federated", "simulate", *SITES, *SHORT]


def _works(run: Run, words: list[object], env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; what it wrote to stderr."""
    done = run(words, env)
    assert done.exit_code == 0, done.stderr
    return done.stderr


def test_schema(run: Run) -> None:
    done = run(["schema", *SITES, "--discrete-columns", "age"])
    assert (done.exit_code, done.stderr) == (0, "")
    kinds = {column["name"]: column["kind"] for column in tomllib.loads(done.stdout)["columns"]}
    assert kinds == {"age": "categorical", "sex": "categorical", "income": "numeric"}
    _works(run, ["schema", *SITES, "--discrete-columns", "age", "--output", "s.toml"])
    assert Path("s.toml").read_text() == done.stdout


def test_fit_takes_a_schema(run: Run) -> None:
    _works(run, ["schema", "north.csv", "--discrete-columns", "age", "--output", "s.toml"])
    words = ["fit", "north.csv", "--epochs", 1, *SMALL, "--schema", "s.toml", "--output", "m"]
    _works(run, words)
    assert genesis.Synthesizer.load("m").schema == genesis.Schema.load("s.toml")


def test_fit_is_repeatable_and_says_what_it_did(run: Run) -> None:
    words = ["fit", "north.csv", "--epochs", 1, *SMALL, "--seed", 4, "--output"]
    said = _works(run, [*words, "one.model"])
    assert "40 rows, 1 epochs" in said
    assert "one.model" in said
    assert _works(run, [*words, "two.model", "--quiet"]) == ""
    assert read_file("one.model", "model").digest == read_file("two.model", "model").digest


@pytest.mark.parametrize("method", ["ctgan", "tvae"])
def test_fit_of_every_method(run: Run, method: str) -> None:
    words = ["fit", "north.csv", "--method", method, "--epochs", 1, "--batch-size", 20]
    _works(run, [*words, "--config", "embedding_dim=4", "--output", "m"])
    synthesizer = genesis.Synthesizer.load("m")
    assert synthesizer.method == method
    chosen = {"embedding_dim": 4, "epochs": 1, "batch_size": 20}
    assert chosen.items() <= synthesizer.config.items()


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_generate(run: Run, model: Path, suffix: str) -> None:
    for name in ("one", "two"):
        words = ["generate", model, "--rows", 30, "--seed", 7, "--output", f"{name}.{suffix}"]
        assert f"30 synthetic rows in {name}.{suffix}" in _works(run, words)
    table = genesis.read_table(f"one.{suffix}")
    assert table.shape == (30, 3)
    pd.testing.assert_frame_equal(table, genesis.read_table(f"two.{suffix}"))


def test_generate_under_conditions(run: Run, model: Path) -> None:
    words = ["generate", model, "--rows", 40, "--output", "out.csv"]
    conditions = ["--where", "sex=Female", "--where", "age=30..50", "--where", "income="]
    _works(run, [*words, *conditions])
    table = pd.read_csv("out.csv")
    assert (table.sex == "Female").all()
    assert table.age.between(30, 50).all()
    assert table.income.isna().all()


def test_partition_keeps_every_row(run: Run) -> None:
    whole = pd.read_csv("west.csv")
    words = ["partition", "west.csv", "--output"]
    choices = {
        "iid": ["--clients", 4, "--iid"],
        "plain": ["--clients", 4],
        "labels": ["--clients", 4, "--dirichlet", 0.5, "--by", "sex"],
        "sizes": ["--clients", 4, "--quantity", 0.5],
        "values": ["--by", "sex"],
    }
    for name, choice in choices.items():
        _works(run, [*words, name, *choice])
        shards = [pd.read_csv(path) for path in sorted(Path(name).iterdir())]
        assert len(shards) == (2 if name == "values" else 4)
        order = list(whole.columns)
        joined = pd.concat(shards).sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(joined, whole.sort_values(order, ignore_index=True))
    assert sorted(path.name for path in Path("values").iterdir()) == ["Female.csv", "Male.csv"]
    assert _files("iid") == _files("plain")
    assert not list(Path().glob(".*"))


def _files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_simulate(run: Run) -> None:
    words = ["--output", "out.csv", "--model", "out.model", "--json", "out.json"]
    said = _works(run, [*SIMULATE, *words])
    assert pd.read_csv("out.csv").shape == (40 + 50 + 60, 3)
    assert genesis.Synthesizer.load("out.model").generate(5).shape == (5, 3)
    account = json.loads(Path("out.json").read_text())
    assert account["clients"] == {
        "north": {"rows": 40},
        "south": {"rows": 50},
        "west": {"rows": 60},
    }
    assert [each["round"] for each in account["rounds"]] == [1, 2]
    assert account["rounds"][0]["clients"] == ["north", "south", "west"]
    assert account["seconds"]["total"] > 0
    assert (account["epsilon"], account["method"], account["seed"]) == (None, "ctgan", 5)
    for part in ["north", "2 of 2", "2 rounds in", "150 synthetic rows in out.csv", "out.model"]:
        assert part in said


def test_simulate_is_repeatable(run: Run) -> None:
    for name in ("one", "two"):
        said = _works(run, [*SIMULATE, "--rows", 20, "--quiet", "--output", f"{name}.csv"])
        assert said == ""
    assert Path("one.csv").read_bytes() == Path("two.csv").read_bytes()
    assert len(pd.read_csv("one.csv")) == 20


def test_simulate_resumes(run: Run) -> None:
    """Two rounds, and one round and then another, end alike."""
    _works(run, [*SIMULATE, "--output", "whole.csv"])
    saved = [*SIMULATE, "--checkpoint", "saved", "--output"]
    _works(run, [*saved, "first.csv", "--rounds", 1])
    _works(run, [*saved, "second.csv", "--resume"])
    assert Path("second.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert Path("first.csv").read_bytes() != Path("whole.csv").read_bytes()


class Stop(genesis.GenesisError):
    """Raised instead of training."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What `simulate` asks of FederatedSynthesizer, which is not run."""
    seen: dict[str, object] = {}

    def spy(**arguments: object) -> None:
        seen.clear()
        seen.update(arguments)
        raise Stop("stopped")

    monkeypatch.setattr(genesis, "FederatedSynthesizer", spy)
    return seen


def test_the_command_line_goes_before_environment_and_plan(
    run: Run, asked: dict[str, object]
) -> None:
    Path("plan.toml").write_text(
        'n_rounds = 2\nmethod = "tvae"\nmin_clients = 2\nmax_clients = 9\n'
        'discrete_columns = ["a"]\n[config]\nepochs = 6\nl2scale = 0.5\n'
    )
    words = ["federated", "simulate", *SITES, "--output", "out.csv"]

    run(words)
    assert (asked["n_rounds"], asked["method"], asked["min_clients"]) == (None, "ctgan", 1)
    assert (asked["config"], asked["aggregation_options"]) == ({}, {})

    run([*words, "--plan", "plan.toml"])
    assert (asked["n_rounds"], asked["method"], asked["min_clients"]) == (2, "tvae", 2)
    assert (asked["config"], asked["max_clients"]) == ({"epochs": 6, "l2scale": 0.5}, 9)
    assert asked["discrete_columns"] == ["a"]

    env = {"GENESIS_ROUNDS": "3", "GENESIS_MIN_CLIENTS": "1", "GENESIS_PLAN": "plan.toml"}
    run([*words, "--rounds", "4", "--epochs", "8", "--discrete-columns", "b"], env)
    assert (asked["n_rounds"], asked["method"], asked["min_clients"]) == (4, "tvae", 1)
    assert asked["config"] == {"epochs": 8, "l2scale": 0.5}
    assert asked["discrete_columns"] == ["b"]


def test_lists_come_in_parts_and_from_the_environment(run: Run, asked: dict[str, object]) -> None:
    words = ["federated", "simulate", *SITES, "--output", "out.csv"]
    run([*words, "--discrete-columns", 'a,"b, c"', "--discrete-columns", "d,a"])
    assert asked["discrete_columns"] == ["a", "b, c", "d"]
    env = {
        "GENESIS_DISCRETE_COLUMNS": 'two words,"b, c"',
        "GENESIS_CONFIG": "epochs=3 'cuda=some name' log_frequency=False",
        "GENESIS_AGGREGATION_OPTIONS": "share=0.1",
    }
    run(words, env)
    assert asked["discrete_columns"] == ["two words", "b, c"]
    assert asked["config"] == {"epochs": 3, "cuda": "some name", "log_frequency": False}
    assert asked["aggregation_options"] == {"share": 0.1}


def test_environment_reaches_every_command(run: Run, model: Path) -> None:
    _works(run, ["generate", model], {"GENESIS_ROWS": "3", "GENESIS_OUTPUT": "three.csv"})
    assert len(pd.read_csv("three.csv")) == 3
    env = {"GENESIS_OUTPUT": "women.csv", "GENESIS_WHERE": "sex=Female 'age=20..80'"}
    _works(run, ["generate", model, "--rows", 10], env)
    assert set(pd.read_csv("women.csv").sex) == {"Female"}
