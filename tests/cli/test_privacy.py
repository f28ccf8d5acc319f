"""`genesis privacy plan` and `genesis privacy spent`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from genesis_cli.main import genesis as program

from genesis import Schema, read_table
from genesis.federated.promise import RunPromise
from genesis.model_file import Contents, read_file, write_file
from genesis.privacy.budget import Privacy
from genesis.privacy.guard import Statistics, Training
from genesis.privacy.ledger import LedgerFile
from genesis.privacy.report import client_report
from tests.cli.conftest import SMALL, Run, people

PLAN = ["privacy", "plan", "--epsilon", 1, "--rows", 3000, "--epochs", 2]
ODD = "a b;\u202e'[red]§.tab le"


@pytest.fixture(scope="session")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a private model, and the ledger of its table."""
    folder = tmp_path_factory.mktemp("promised")
    people(200, 9).to_csv(folder / "table.csv", index=False)
    words = ["fit", folder / "table.csv", "--output", folder / "model", "--epochs", 1, *SMALL]
    words += ["--epsilon", 2, "--privacy-budget", 5]
    done = CliRunner().invoke(program, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def private_model(folder: Path, promised: Path) -> Path:  # noqa: ARG001 (the current one)
    """A private model in the current folder."""
    Path("private.model").write_bytes((promised / "model").read_bytes())
    return Path("private.model")


@pytest.fixture
def ledger(folder: Path, promised: Path) -> Path:  # noqa: ARG001 (the current one)
    """The ledger of its table in the current folder."""
    Path("table.csv.ledger.json").write_bytes((promised / "table.csv.ledger.json").read_bytes())
    return Path("table.csv.ledger.json")


def _ok(run: Run, *words: object, env: dict[str, str] | None = None) -> str:
    done = run(words, env)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def _fails(run: Run, words: list[object], says: str, status: int = 1) -> None:
    """One line that says so, and nothing is written."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = run(words)
    assert done.exit_code == status, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert "unexpected" not in done.stderr
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


# --- plan ---


def test_a_plan_of_a_table_reads_nothing_but_its_kinds(run: Run) -> None:
    words = [*PLAN, "--clients", 3, "--rounds", 2, "--local-epochs", 1, "--batch-size", 100]
    text = _ok(run, *words, "north.csv")
    people(500, 77).to_csv("other.csv", index=False)
    assert _ok(run, *words, "other.csv") == text
    found = json.loads(_ok(run, *words, "north.csv", "--json"))

    schema = Schema.infer(read_table("north.csv")).without_values()
    statistics = Statistics.planned(schema, Privacy(1.0))
    training = Training.planned(
        statistics.events, Privacy(1.0), rows=1000, batch_size=100, epochs=2
    )
    assert found["deviation"] == statistics.deviation
    assert found["noise_multiplier"] == training.noise_multiplier
    assert found["steps"] == 2 * training.steps
    assert found["promise"]["epsilon"] == 1
    assert (found["rows"], found["clients"], found["rounds"]) == (3000, 3, 2)
    for number in (f"{statistics.deviation:,.1f} rows", f"{training.noise_multiplier:.3g}"):
        assert number in text
    for what in (*found["mechanisms"], *(change["what"] for change in found["changes"])):
        assert what in text
    assert f"about {found['clients_needed']:,} clients would be needed" in text


def test_one_table_is_planned_as_it_is_fitted(run: Run, private_model: Path) -> None:
    """With the noise of the model that was fitted with the same options."""
    people(200, 9).to_csv("table.csv", index=False)
    words = ["privacy", "plan", "table.csv", "--epsilon", 2, "--rows", 200, "--epochs", 1, "--json"]
    found = json.loads(_ok(run, *words))
    report = read_file(private_model, "model").meta["privacy"]
    kept = {each["kind"]: each for each in report["clients"]["table"]["ledger"]}
    assert found["deviation"] == kept["skellam"]["deviation"]
    assert found["releases"] == kept["skellam"]["count"]
    # The number of rows was counted with noise there, and is as stated here.
    assert kept["sampled_gaussian"]["steps"] == found["steps"] == 1
    assert found["clients_needed"] is None


def test_options_come_from_files_and_the_environment(run: Run) -> None:
    Path("plan.toml").write_text(
        'n_rounds = 2\nlocal_epochs = 1\nbatch_size = 100\nmethod = "tvae"\n'
        "[privacy.differential_privacy]\nepsilon = 1.0\n"
    )
    _ok(run, "schema", "north.csv", "--output", "schema.toml")
    rest = ["--json", "--schema", "schema.toml"]
    words = ["privacy", "plan", "--rows", 300, "--clients", 3, *rest]
    by_file = _ok(run, *words, "--plan", "plan.toml")
    options = ["--epsilon", 1, "--rounds", 2, "--local-epochs", 1, "--batch-size", 100]
    assert _ok(run, *words, *options, "--method", "tvae") == by_file
    names = ("EPSILON", "ROUNDS", "LOCAL_EPOCHS", "BATCH_SIZE")
    env = {f"GENESIS_{n}": str(v) for n, v in zip(names, options[1::2], strict=True)}
    env |= {"GENESIS_METHOD": "tvae", "GENESIS_ROWS": "300", "GENESIS_CLIENTS": "3"}
    assert _ok(run, "privacy", "plan", *rest, env=env) == by_file


def test_whole_clients(run: Run) -> None:
    words = ["privacy", "plan", "--epsilon", 8, "--privacy-unit", "client", "--columns", 4]
    words += ["--rows", 4000, "--clients", 4, "--rounds", 2]
    text = _ok(run, *words)
    assert "This run would be refused: the noise that hides a whole client would drown" in " ".join(
        text.split()
    )
    found = json.loads(_ok(run, *words, "--json"))
    assert found["unit"] == "client"
    assert found["batch_size"] is None
    assert f"about {found['clients_needed']:,} clients would be needed instead of 4" in text
    # A table says nothing of categories that may be told.
    assert "needs a schema file that states all categories" in " ".join(
        _ok(run, *words[:6], *words[8:], "north.csv").split()
    )


IMPOSSIBLE_PLANS: dict[str, tuple[list[object], str, int]] = {
    "no columns": ([], "give one of TABLE, --schema and --columns", 2),
    "two of them": (["north.csv", "--columns", 3], "give one of TABLE", 2),
    "numeric without columns": (["north.csv", "--numeric", 3], "--numeric needs --columns", 2),
    "too many numbers": (["--columns", 3, "--numeric", 4], "--numeric must be from 0", 2),
    "columns below 1": (["--columns", 0], "--columns must be at least 1", 2),
    "rows below 1": (["--columns", 3, "--rows", 0], "--rows must be at least 1", 2),
    "clients below 1": (["--columns", 3, "--clients", 0], "--clients must be at least 1", 2),
    "fewer rows than clients": (["--columns", 3, "--clients", 3001], "every client needs a row", 1),
    "no table": (["missing.csv"], "there is no file missing.csv", 1),
    "no schema": (["--schema", "missing.toml"], "missing.toml", 1),
    "no epsilon": (["--columns", 3, "--epsilon", "-1"], "epsilon", 1),
    "a wrong delta": (["--columns", 3, "--delta", 1], "delta", 1),
    "an unknown unit": (["--columns", 3, "--privacy-unit", "person"], "unknown unit", 1),
    "an unknown choice": (["--columns", 3, "--privacy", "noise=1"], "has no 'noise'", 1),
    "pac": (["--columns", 3, "--config", "pac=10"], "private steps of ctgan need pac 1", 1),
    "a ledger": (["--columns", 3, "--privacy", "ledger=x"], "belong to the owner", 1),
}


@pytest.mark.parametrize("case", IMPOSSIBLE_PLANS)
def test_impossible_plans(run: Run, case: str) -> None:
    words, says, status = IMPOSSIBLE_PLANS[case]
    _fails(run, [*PLAN, *words], says, status)


def test_a_plan_needs_a_promise(run: Run) -> None:
    words = ["privacy", "plan", "--rows", 100, "--columns", 3]
    _fails(run, words, "a promise of privacy needs --epsilon", 2)


# --- spent ---


def test_a_model_tells_what_it_spent(run: Run, private_model: Path) -> None:
    text = " ".join(_ok(run, "privacy", "spent", private_model).split())
    told = json.loads(_ok(run, "privacy", "spent", private_model, "--json"))["files"][0]
    report = read_file(private_model, "model").meta["privacy"]
    assert told["epsilon"] == report["epsilon"] <= 2
    assert told["privacy"] == report
    for words in (
        f"({report['epsilon']:.4g}, 1e-05)-differential privacy for each record",
        "add or remove one record",
        "Assumed to be known to all: names, kinds and types of the columns",
        "and not the server",
        report["accountant"][1:],
        *report["clients"]["table"]["mechanisms"],
    ):
        assert words in text


def test_a_model_without_a_promise_says_so(run: Run, model: Path) -> None:
    text = _ok(run, "privacy", "spent", model)
    assert "None. This model was trained without differential privacy" in text
    told = json.loads(_ok(run, "privacy", "spent", model, "--json"))["files"]
    assert told == [{"file": str(model), "kind": "model", "epsilon": None, "privacy": None}]


def test_a_ledger_tells_what_was_spent_and_stays_as_it_is(run: Run, ledger: Path) -> None:
    before = ledger.read_bytes()
    text = _ok(run, "privacy", "spent", ledger)
    told = json.loads(_ok(run, "privacy", "spent", ledger, "--json"))["files"][0]
    assert sorted(Path().glob("table*")) == [ledger]  # no lock beside it
    assert ledger.read_bytes() == before
    file = LedgerFile(ledger, budget=None, delta=1e-5)
    assert told["epsilon"] == file.spent()
    assert (told["budget"], told["delta"]) == (5, 1e-5)
    assert list(told["runs"].values()) == [
        {"epsilon": told["epsilon"], "mechanisms": told["mechanisms"]}
    ]
    assert f"({file.spent():.4g}, 1e-05)" in text
    assert next(iter(told["runs"])) in text


def test_a_ledger_of_several_runs(run: Run, ledger: Path) -> None:
    values = json.loads(ledger.read_text())
    again = [{**release, "run": "again"} for release in values["releases"]]
    values["releases"] += again
    values["budget"] = 2.0
    ledger.write_text(json.dumps(values))
    told = json.loads(_ok(run, "privacy", "spent", ledger, "--json"))["files"][0]
    one, other = (each["epsilon"] for each in told["runs"].values())
    assert one == other < told["epsilon"] < one + other
    text = _ok(run, "privacy", "spent", ledger)
    assert "All that 2 runs released" in text
    assert "ε = 2, which is spent" in text


def test_a_ledger_of_nothing(run: Run, folder: Path) -> None:
    LedgerFile(folder / "new.ledger.json", budget=None, delta=1e-6)
    text = _ok(run, "privacy", "spent", "new.ledger.json")
    assert "Nothing so far" in text
    assert "None was set" in text


@pytest.mark.parametrize("name", [ODD, "-x", "model.json"])
def test_odd_names(run: Run, private_model: Path, ledger: Path, name: str) -> None:
    """What a file is, is told by what is in it."""
    Path(name).write_bytes(ledger.read_bytes())
    both = _ok(run, "privacy", "spent", "--", name, private_model)
    assert "\u202e" not in both
    assert "All that 1 run released" in both
    assert "Each file speaks for itself" in both


def _rewritten(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A model file of somebody who knows how they are written."""
    contents = read_file(model, "model")
    meta = json.loads(json.dumps(contents.meta))
    change(meta["privacy"])
    write_file(model, Contents("model", meta, contents.tensors))


FALSE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a smaller ε": (lambda told: told.update(epsilon=0.1), "claims more privacy"),
    "a smaller δ": (lambda told: told.update(delta=1e-9), "claims more privacy"),
    "a smaller ε of a client": (
        lambda told: told["clients"]["table"].update(epsilon=0.1),
        "claims more privacy",
    ),
    "a client without a promise": (
        lambda told: told.update(unprotected=["other"]),
        "claims more privacy",
    ),
    "an unknown release": (
        lambda told: told["clients"]["table"]["ledger"].append({"kind": "laplace"}),
        "a release that nothing can account for",
    ),
    "impossible noise": (
        lambda told: told["clients"]["table"]["ledger"].append(
            {"kind": "gaussian", "noise_multiplier": 1e-300}
        ),
        "claims more privacy",
    ),
    "an unknown unit": (lambda told: told.update(unit="person"), "is damaged"),
    "no ledger": (lambda told: told["clients"]["table"].pop("ledger"), "is damaged"),
    "no clients": (lambda told: told.pop("clients"), "is damaged"),
    "no text": (lambda told: told.pop("protects"), "is damaged"),
    "no trust": (lambda told: told.update(public=3), "is damaged"),
}


@pytest.mark.parametrize("case", FALSE)
def test_false_models(run: Run, private_model: Path, case: str) -> None:
    change, says = FALSE[case]
    _rewritten(private_model, change)
    _fails(run, ["privacy", "spent", private_model], says)
    _fails(run, ["privacy", "spent", private_model], str(private_model))


def test_more_spent_than_promised_is_told(run: Run, private_model: Path) -> None:
    _rewritten(private_model, lambda told: told["clients"]["table"]["promise"].update(epsilon=0.5))
    text = _ok(run, "privacy", "spent", private_model)
    assert "More was spent than promised by table." in text


def test_clients_without_a_promise_are_told(run: Run, private_model: Path) -> None:
    _rewritten(
        private_model,
        lambda told: told.update(epsilon=None, delta=None, unprotected=["west\u202e", "south"]),
    )
    text = _ok(run, "privacy", "spent", private_model)
    assert "None for all: west , south took part without a promise" in text


def _ledger(**changes: object) -> str:
    """A ledger of nothing, with something changed."""
    values = {"version": 1, "unit": "record", "budget": None, "delta": 1e-5, "releases": []}
    return json.dumps(values | changes)


DAMAGED: dict[str, str] = {
    "": "is damaged",
    "{": "is damaged",
    "[1, 2]": "is damaged",
    "{}": "is damaged",
    "[" * 100_000: "is damaged",
    _ledger(version=2): "is of another version",
    _ledger(delta="x"): "is damaged",
    _ledger(delta=1): "is damaged",
    _ledger(budget=-1): "is damaged",
    _ledger(releases=[{}]): "is damaged",
    _ledger(releases=[{"run": 1, "event": {}}]): "is damaged",
    _ledger(releases=[{"run": "", "event": {}}]): "a release that nothing can account for",
    _ledger(
        releases=[{"run": "", "event": {"kind": "gaussian", "noise_multiplier": 1e-300}}]
    ): "no ε bounds what was released; got ε = infinity",
}


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_ledgers(run: Run, text: str) -> None:
    Path("bad.ledger.json").write_text(text)
    _fails(run, ["privacy", "spent", "bad.ledger.json"], DAMAGED[text])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.model", "there is no model file missing.model"),
        ("missing.ledger.json", "there is no ledger missing.ledger.json"),
        (".", "there is no model file ."),
        ("north.csv", "north.csv is not a model file"),
        ("cut.model", "cut.model is not a model file, or was cut short"),
    ],
)
def test_what_is_neither(run: Run, private_model: Path, name: str, says: str) -> None:
    Path("cut.model").write_bytes(private_model.read_bytes()[:-100])
    _fails(run, ["privacy", "spent", name], says)
    _fails(run, ["privacy", "spent", private_model, name], says)
    assert not Path("missing.ledger.json").exists()


def test_nothing_to_read(run: Run) -> None:
    _fails(run, ["privacy", "spent"], "missing argument", 2)


def test_a_model_that_hides_whole_clients(run: Run, private_model: Path) -> None:
    """Its one ledger is the server's."""
    privacy = Privacy(8.0, unit="client", insist=True)
    promise = RunPromise(privacy, public_schema=True)
    schema = Schema.from_dict({"columns": [{"name": "a", "kind": "numeric"}]})
    promise.noisy_counts(schema, [np.zeros(3, dtype=np.int64)], 1000)
    promise.begin_rounds(10, 30, 2, 1.0)
    promise.combine(torch.zeros(10), [])
    report = client_report(privacy, promise.ledger, clients=30)
    _rewritten(private_model, lambda told: (told.clear(), told.update(report)))
    text = " ".join(_ok(run, "privacy", "spent", private_model).split())
    assert "differential privacy for each client with all of its records" in text
    assert "The server: it sees the updates of all clients" in text
    assert "the number of clients, 30" in text
    told = json.loads(_ok(run, "privacy", "spent", private_model, "--json"))["files"][0]
    assert told["epsilon"] == promise.ledger.epsilon(1e-5)
    _rewritten(private_model, lambda told: told.update(epsilon=0.5))
    _fails(run, ["privacy", "spent", private_model], "claims more privacy")
