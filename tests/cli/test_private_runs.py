"""Promises of privacy on the command line: `fit` and `federated simulate`, kept or refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from genesis.model_file import read_file
from genesis.privacy.report import recomputed
from tests.cli.conftest import SMALL, Run, people

TABLES = ["one.csv", "two.csv"]
ONE = ["fit", "one.csv", "--output", "out.model", "--epochs", 1, "--seed", 5]
FIT = [*ONE, *SMALL]
TVAE = ["--method", "tvae", "--config", "compress_dims=[16]", "--config", "decompress_dims=[16]"]
SIMULATE = ["federated", "simulate", *TABLES, "--output", "out.csv", "--rows", 20, *SMALL]
SIMULATE += ["--rounds", 2, "--local-epochs", 1, "--seed", 5]
WRITTEN = ["--model", "out.model", "--json", "out.json"]


@pytest.fixture(autouse=True)
def _tables(folder: Path) -> None:  # noqa: ARG001 (only there)
    for seed, name in enumerate(TABLES):
        people(200, seed).to_csv(name, index=False)


def _ok(run: Run, words: list[Any], env: dict[str, str] | None = None) -> str:
    done = run(words, env)
    assert done.exit_code == 0, done.output
    return str(done.stderr)


def _fails(run: Run, words: list[Any], says: str, status: int = 1) -> None:
    """One line that says so, and neither a model nor rows are written."""
    done = run(words)
    assert done.exit_code == status, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert "unexpected" not in done.stderr
    assert not [path for path in Path().iterdir() if path.name.startswith("out.")]


def _promise(model: str = "out.model") -> dict[str, Any]:
    """What a model file tells."""
    report: dict[str, Any] = read_file(model, "model").meta["privacy"]
    assert recomputed(report) == report
    return report


def _spent(run: Run, *files: str) -> list[dict[str, Any]]:
    """What `privacy spent` tells of some files."""
    done = run(["privacy", "spent", *files, "--json"])
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["files"]
    return found


@pytest.mark.parametrize("choices", [SMALL, TVAE], ids=["ctgan", "tvae"])
def test_fit_keeps_its_promise(run: Run, choices: list[str]) -> None:
    said = _ok(run, [*ONE, *choices, "--epsilon", 2, "--delta", 1e-6])
    report = _promise()
    assert 1.8 < report["epsilon"] <= 2
    assert report["delta"] == 1e-6
    assert "-differentially private for each record (add or remove one record)" in said
    # The table's owner has the same in a file beside it.
    model, ledger = _spent(run, "out.model", "one.csv.ledger.json")
    assert model["epsilon"] == pytest.approx(report["epsilon"], rel=1e-9)
    assert ledger["epsilon"] == pytest.approx(report["epsilon"], rel=1e-9)
    assert ledger["delta"] == 1e-6
    done = run(["generate", "out.model", "--rows", 30, "--output", "out.csv"])
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv("out.csv")) == 30


def test_fits_of_one_table_share_its_budget(run: Run) -> None:
    words = [*FIT, "--epsilon", 2, "--privacy-ledger", "kept.json", "--privacy-budget", 2.5]
    _ok(run, words)
    Path("out.model").unlink()
    _fails(run, words, "more than the budget in kept.json")
    _ok(run, [*words[:-1], 5])
    ledger = _spent(run, "kept.json")[0]
    assert len([each for each in ledger["runs"].values() if each["epsilon"] > 1.8]) == 2
    assert 2 < ledger["epsilon"] <= 5
    assert ledger["budget"] == 5


def test_simulate_keeps_its_promise(run: Run) -> None:
    said = _ok(run, [*SIMULATE, *WRITTEN, "--epsilon", 2])
    told = json.loads(Path("out.json").read_text())
    report = _promise()
    assert told["privacy"] == report
    assert told["epsilon"] == report["epsilon"] == _spent(run, "out.model")[0]["epsilon"]
    assert 1.8 < told["epsilon"] <= 2
    assert report["epsilon"] == max(each["epsilon"] for each in report["clients"].values())
    assert list(report["clients"]) == ["one", "two"]
    assert f"({report['epsilon']:.3g}, 1e-05)-differentially private for each record" in said
    assert "loss" not in said  # what clients measure of their rows stays with them
    assert [each["metrics"] for each in told["rounds"]] == [{}, {}]
    assert not list(Path().glob("*.ledger.json"))  # the clients' owners are not asked here


def test_without_a_promise_none_is_told(run: Run) -> None:
    _ok(run, [*SIMULATE, *WRITTEN])
    told = json.loads(Path("out.json").read_text())
    assert (told["epsilon"], told["privacy"]) == (None, None)
    assert _spent(run, "out.model")[0]["epsilon"] is None


def test_overlapping_clients_share_the_promise(run: Run) -> None:
    _ok(run, [*SIMULATE, *WRITTEN, "--epsilon", 2, "--privacy", "overlap=overlapping"])
    report = _promise()
    each = [client["epsilon"] for client in report["clients"].values()]
    assert report["epsilon"] == sum(each) <= 2
    assert max(each) <= 1
    assert report["delta"] == pytest.approx(1e-5)


def test_whole_clients_are_hidden_with_a_schema(run: Run) -> None:
    _ok(run, ["schema", *TABLES, "--output", "schema.toml"])
    text = Path("schema.toml").read_text()
    stated = text.replace(
        'kind = "categorical"', 'kind = "categorical"\ncategories = ["Female", "Male"]'
    )
    assert stated != text
    Path("schema.toml").write_text(stated)
    words = [*SIMULATE, *WRITTEN, "--epsilon", 8, "--privacy-unit", "client"]
    words += ["--privacy", "insist=true", "--schema", "schema.toml"]
    _ok(run, words)
    report, told = _promise(), json.loads(Path("out.json").read_text())
    assert told["epsilon"] == report["epsilon"] == _spent(run, "out.model")[0]["epsilon"] <= 8
    assert (report["unit"], report["trust"]) == ("client", "server")


STATED = """
[[columns]]
name = "age"
kind = "numeric"
dtype = "int64"

[[columns]]
name = "sex"
kind = "categorical"
categories = ["Female", "Male"]

[[columns]]
name = "income"
kind = "numeric"
nulls = true
"""


@pytest.mark.parametrize("unit", ["record", "client"])
def test_clients_add_noise_together(run: Run, unit: str) -> None:
    people(200, 2).to_csv("three.csv", index=False)
    Path("schema.toml").write_text(STATED)
    words = ["federated", "simulate", *TABLES, "three.csv", "--output", "out.csv", *TVAE, *WRITTEN]
    words += ["--schema", "schema.toml", "--epsilon", 4, "--privacy-unit", unit]
    words += ["--rounds", 2, "--local-epochs", 1, "--seed", 5, *SUMS]
    words += [
        "--privacy",
        "trust=distributed",
        "--privacy",
        f"insist={str(unit == 'client').lower()}",
    ]
    said = _ok(run, words)
    report, told = _promise(), json.loads(Path("out.json").read_text())
    assert told["privacy"] == report
    assert told["secure_aggregation"] == "masking"
    assert 3.6 < told["epsilon"] <= 4
    assert told["epsilon"] == report["epsilon"] == _spent(run, "out.model")[0]["epsilon"]
    assert (report["unit"], report["trust"]) == (unit, "distributed")
    assert "trust: distributed" in said
    for client in ("one", "two", "three"):
        assert f"{client:6}     hidden  2 of 2" in said
    # As many as all have, which is known with noise; of whole clients, what they count for.
    assert 300 < len(pd.read_csv("out.csv")) <= (3000 if unit == "client" else 900)
    done = run(["privacy", "spent", "out.model"])
    assert done.exit_code == 0, done.output
    assert "who add the noise together" in done.stdout


def test_a_plan_says_what_noise_of_all_together_costs(run: Run) -> None:
    Path("schema.toml").write_text(STATED)
    words = ["privacy", "plan", "--schema", "schema.toml", "--rows", 20_000, "--clients", 5]
    words += ["--json", *SUMS]

    def planned(*more: Any) -> dict[str, Any]:
        done = run([*words, *more])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    apart = planned("--epsilon", 3)
    together = planned("--epsilon", 3, "--privacy", "trust=distributed")
    # √(5 / 4) times the noise of one instead of √5 times, and the rows are counted twice.
    ratio = (10 / 9 / 4) ** 0.5
    assert together["sum_deviation"] == pytest.approx(ratio * apart["sum_deviation"], rel=1e-6)
    assert together["noise_multiplier"] == pytest.approx(apart["noise_multiplier"], rel=0.01)
    assert planned(*TOGETHER)["promise"]["trust"] == "distributed"
    done = run([*words[:-2], "--epsilon", 3, "--privacy", "trust=distributed"])
    assert done.exit_code == 1
    assert "needs secure aggregation" in done.stderr


def test_a_promise_of_a_plan_file_goes_behind_the_command_line(run: Run) -> None:
    Path("plan.toml").write_text(
        "[privacy.differential_privacy]\nepsilon = 4.0\ndelta = 1e-6\nmax_grad_norm = 0.5\n"
    )
    words = [*SIMULATE, *WRITTEN, "--plan", "plan.toml"]
    _ok(run, words)
    promise = _promise()["clients"]["one"]["promise"]
    assert (promise["epsilon"], promise["delta"], promise["max_grad_norm"]) == (4, 1e-6, 0.5)
    _ok(run, [*words, "--epsilon", 2, "--privacy", "max_grad_norm=2"])
    promise = _promise()["clients"]["one"]["promise"]
    assert (promise["epsilon"], promise["delta"], promise["max_grad_norm"]) == (2, 1e-6, 2)
    assert _spent(run, "out.model")[0]["epsilon"] <= 2


def test_a_promise_comes_from_the_environment(run: Run) -> None:
    env = {"GENESIS_EPSILON": "3", "GENESIS_DELTA": "1e-7", "GENESIS_PRIVACY": "statistics=0.3"}
    _ok(run, [*FIT], env | {"GENESIS_PRIVACY_LEDGER": "mine.json"})
    promise = _promise()["clients"]["table"]["promise"]
    assert (promise["epsilon"], promise["delta"], promise["statistics"]) == (3, 1e-7, 0.3)
    assert Path("mine.json").exists()
    _ok(run, [*SIMULATE, *WRITTEN, "--epsilon", 2], env | {"GENESIS_PRIVACY_UNIT": "record"})
    promise = _promise()["clients"]["one"]["promise"]
    assert (promise["epsilon"], promise["delta"], promise["statistics"]) == (2, 1e-7, 0.3)


CLIENTS: list[Any] = ["--epsilon", 1, "--privacy-unit", "client"]
SUMS: list[Any] = ["--secure-aggregation", "masking"]
TOGETHER: list[Any] = [*CLIENTS, *SUMS, "--privacy", "trust=distributed"]
BOTH: dict[str, tuple[list[Any], str]] = {
    "no ε": (["--delta", 1e-6], "a promise of differential privacy needs an epsilon"),
    "ε of 0": (["--epsilon", 0], "epsilon of differential privacy must be a number above 0"),
    "ε of infinity": (["--epsilon", "inf"], "epsilon of differential privacy must be"),
    "ε that is no number": (["--epsilon", "nan"], "epsilon of differential privacy must be"),
    "δ of 1": (["--epsilon", 1, "--delta", 1], "delta of differential privacy must be"),
    "δ of 0": (["--epsilon", 1, "--delta", 0], "delta of differential privacy must be"),
    "a norm of 0": (
        ["--epsilon", 1, "--privacy", "max_grad_norm=0"],
        "max_grad_norm of differential privacy must be",
    ),
    "all for statistics": (["--epsilon", 1, "--privacy", "statistics=1"], "statistics of diff"),
    "an unknown choice": (
        ["--epsilon", 1, "--privacy", "max_norm=1"],
        "did you mean max_grad_norm",
    ),
    "a choice of another type": (["--epsilon", 1, "--privacy", "bands=x"], "bands must be a whole"),
    "an unknown unit": (["--epsilon", 1, "--privacy", "unit=person"], "unknown unit 'person'"),
    "an unknown trust": (["--epsilon", 1, "--privacy", "trust=all"], "unknown trust 'all'"),
    "noise that nobody adds": (["--epsilon", 1, "--privacy", "trust=server"], "nothing adds it"),
    "noise of all together": (
        ["--epsilon", 1, "--privacy", "trust=distributed"],
        "needs secure aggregation",
    ),
    "clients of records": (["--epsilon", 1, "--privacy", "adaptive_clip=true"], "about clients'"),
    "several rows at once": (["--epsilon", 1, "--config", "pac=2"], "need pac 1; got pac 2"),
}
FITS: dict[str, tuple[list[Any], str]] = BOTH | {
    "whole clients": (["--epsilon", 1, "--privacy", "unit=client"], "no clients to hide"),
    "a budget of 0": (["--epsilon", 1, "--privacy-budget", 0], "budget of differential privacy"),
    "a budget below ε": (["--epsilon", 2, "--privacy-budget", 1], "the budget in one.csv.ledger"),
    "a ledger without a promise": (["--privacy-ledger", "x.json"], "needs an epsilon"),
    "a damaged ledger": (["--epsilon", 1, "--privacy-ledger", "one.csv"], "one.csv is damaged"),
}
RUNS: dict[str, tuple[list[Any], str]] = BOTH | {
    "no schema": (CLIENTS, "needs a schema file"),
    "clients that add their noise": (
        [*CLIENTS, "--privacy", "trust=local"],
        "tells nothing",
    ),
    "clients that overlap": (
        [*CLIENTS, "--privacy", "overlap=overlapping"],
        "are about records",
    ),
    "clients that weigh": (
        [*CLIENTS, "--aggregation", "weighted"],
        "all clients count alike",
    ),
    "clients one by one": (
        [*CLIENTS, "--aggregation", "median"],
        "all clients count alike",
    ),
    "clients clipped twice": (
        [*CLIENTS, "--max-grad-norm", 1],
        "clips updates itself",
    ),
    "clients now and then": (
        [*CLIENTS, "--sync-every", 2],
        "averages everything in every round",
    ),
    "two kinds of clip": (
        [*CLIENTS, "--privacy", "bands=2", "--privacy", "adaptive_clip=true"],
        "leave one of them out",
    ),
    "rows that are measured": (["--epsilon", 1, "--aggregation", "similarity"], "measure their"),
    "the ledger of an owner": (["--epsilon", 1, "--privacy", "ledger=x"], "belong to the owner"),
    "the budget of an owner": (["--epsilon", 1, "--privacy", "budget=3"], "budget"),
    "sums of two": (["--epsilon", 1, *SUMS], "at least 3 clients"),
    "clients whose updates nobody sees": ([*CLIENTS, *SUMS], "must see each client's update"),
    "noise without room": ([*TOGETHER, "--secure-aggregation-bits", 24], "needs sums of 32 bits"),
    "all of them colluding": (
        [*TOGETHER, "--privacy", "colluding=-1"],
        "colluding must be a whole number",
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_what_fit_cannot_promise(run: Run, case: str) -> None:
    words, says = FITS[case]
    _fails(run, [*FIT, *words], says)


@pytest.mark.parametrize("case", RUNS)
def test_what_simulate_cannot_promise(run: Run, case: str) -> None:
    words, says = RUNS[case]
    _fails(run, [*SIMULATE, *WRITTEN, *words], says)


def test_too_few_clients_to_hide_one(run: Run) -> None:
    schema = '[[columns]]\nname = "age"\nkind = "numeric"\ndtype = "int64"\n'
    schema += '[[columns]]\nname = "sex"\nkind = "categorical"\ncategories = ["Female", "Male"]\n'
    schema += '[[columns]]\nname = "income"\nkind = "numeric"\nnulls = true\n'
    Path("schema.toml").write_text(schema)
    words = [*CLIENTS, "--schema", "schema.toml"]
    _fails(run, [*SIMULATE, *WRITTEN, *words], "would drown what clients learn")


def test_a_choice_that_is_no_setting(run: Run) -> None:
    for words in (["--privacy", "insist"], ["--privacy", "=1"], ["--epsilon", "much"]):
        _fails(run, [*FIT, *words], "", 2)
        _fails(run, [*SIMULATE, *words], "", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[privacy]\nepsilon = 1\n", "privacy must be"),
        ("[privacy.differential_privacy]\ndelta = 1e-5\n", "needs an epsilon"),
        ("[privacy.differential_privacy]\nepsilon = '1'\n", "must be a number"),
        ("[privacy.differential_privacy]\nepsilon = 1\nledger = 'x'\n", "belong to the owner"),
        ("[privacy.dp]\nepsilon = 1\n", "privacy must be"),
        ("privacy = 1\n", "privacy must be"),
        ("privacy.differential_privacy = 1\n", "must map names to values"),
    ],
)
def test_plan_files_that_promise_nothing(run: Run, text: str, says: str) -> None:
    Path("plan.toml").write_text(text)
    _fails(run, [*SIMULATE, "--plan", "plan.toml"], says)
    _fails(run, [*SIMULATE, "--plan", "plan.toml", "--epsilon", 1], says)
