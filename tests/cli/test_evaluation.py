"""`genesis evaluate`, `genesis audit`, and the report of `genesis federated simulate`."""

import json
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import SHORT, SITES, SMALL, Run, people

REAL = ["--real", "real.csv", "--synthetic", "synthetic.csv"]
AUDIT = ["--members", "real.csv", "--non-members", "holdout.csv", "--synthetic", "synthetic.csv"]


@pytest.fixture(autouse=True)
def tables(folder: Path) -> None:  # noqa: ARG001 (only there)
    """Real, held-out and synthetic rows, and members among the latter."""
    for seed, name in enumerate(["real.csv", "holdout.csv", "synthetic.csv", "copies.csv"]):
        table = people(150, 20 + seed if name != "copies.csv" else 20)
        table.assign(smokes=table.age > 50).to_csv(name, index=False)


def error_of(run: Run, words: list[object]) -> str:
    done = run(words)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_evaluate_writes_scores_and_a_page(run: Run) -> None:
    words = ["--holdout", "holdout.csv", "--target", "smokes"]
    done = run(["evaluate", *REAL, *words, "--report", "r.html", "--json", "s.json"])
    assert done.exit_code == 0, done.stderr
    scores = json.loads(Path("s.json").read_text())
    assert scores["utility"]["target"] == "smokes"
    assert f"{scores['fidelity']['quality']:.3f}" in done.stdout
    assert f"{scores['utility']['trtr']:.3f}" in done.stdout
    assert f"{scores['controls']['holdout']['tstr']:.3f}" in done.stdout
    assert scores["privacy"]["verdict"]["text"] in done.stdout
    table = done.stdout.split("\n\n")[0].splitlines()
    assert len({len(line) for line in table}) == 1
    assert "report in r.html" in done.stderr
    assert Path("r.html").read_text().startswith("<!")


def test_evaluate_without_a_holdout_says_what_is_missing(run: Run) -> None:
    done = run(["evaluate", *REAL, "--quiet"])
    assert done.exit_code == 0
    assert "not attacked: no holdout was given" in done.stdout
    assert done.stderr == ""


def test_audit_finds_a_copier(run: Run) -> None:
    words = [*AUDIT[:-1], "copies.csv", "--json", "a.json", "--report", "a.html"]
    done = run(["audit", *words])
    assert done.exit_code == 0, done.stderr
    scores = json.loads(Path("a.json").read_text())
    assert scores["verdict"]["finding"] == "leak"
    assert scores["attacks"][scores["worst"]]["auc"] > 0.95
    assert scores["power"]["copier"]["found"]
    assert "A leak was found." in done.stdout
    assert "</html>" in Path("a.html").read_text()


def test_audit_with_a_model_shadows_and_canaries(run: Run) -> None:
    done = run(["fit", "real.csv", "--output", "m", "--method", "tvae", "--epochs", 2])
    assert done.exit_code == 0, done.stderr
    people(80, 30).assign(smokes=[True, False] * 40).to_csv("more.csv", index=False)
    words = ["--model", "m", "--secrets", "smokes", "--shadows", 4, "--canaries", 120]
    words += ["--reference", "more.csv"]
    done = run(["audit", *AUDIT, *words, "--json", "a.json"])
    assert done.exit_code == 0, done.stderr
    scores = json.loads(Path("a.json").read_text())
    assert "likelihood" in scores["white_box"]["attacks"]
    assert scores["reference"] == scores["white_box"]["reference"] == 80
    assert set(scores["shadow"]["attacks"]) == {"lira", "rmia"}
    assert scores["attributes"]["secret"] == "smokes"
    assert 0 <= scores["one_run"]["epsilon"] <= scores["one_run"]["ceiling"]


def test_audit_of_a_method(run: Run) -> None:
    words = ["--method", "tvae", "--epochs", 1, "--canaries", 120, "--quiet"]
    done = run(["audit", *AUDIT, *words])
    assert done.exit_code == 0, done.stderr
    assert "the most that could have been shown" in done.stdout


def test_simulate_evaluates_when_asked_to(run: Run) -> None:
    words = ["--holdout", "west.csv", "--target", "sex", "--report", "r.html", "--json", "j.json"]
    done = run(["federated", "simulate", *SITES[:2], *SHORT, "--output", "s.csv", *words])
    assert done.exit_code == 0, done.stderr
    account = json.loads(Path("j.json").read_text())
    assert account["evaluation"]["utility"]["target"] == "sex"
    assert account["seconds"]["evaluation"] > 0
    assert "Training" in Path("r.html").read_text()


def test_simulate_without_a_report_evaluates_nothing(run: Run) -> None:
    words = ["--output", "s.csv", "--json", "j.json"]
    assert run(["federated", "simulate", *SITES, *SHORT, *words]).exit_code == 0
    assert json.loads(Path("j.json").read_text())["evaluation"] is None


def test_simulate_checks_what_it_will_evaluate_before_it_trains(run: Run) -> None:
    words = ["federated", "simulate", *SITES[:2], *SHORT, "--output", "s.csv"]
    assert "no column 'sxe' to be the target" in error_of(run, [*words, "--target", "sxe"])
    for name in SITES[:2]:
        pd.read_csv(name).assign(same="x").to_csv(name, index=False)
    assert "'same' cannot be predicted" in error_of(run, [*words, "--target", "same"])
    for name in SITES[:2]:
        pd.read_csv(name).drop(columns="same").to_csv(name, index=False)
    people(60, 8).drop(columns="sex").to_csv("other.csv", index=False)
    assert "does not have the columns" in error_of(run, [*words, "--holdout", "other.csv"])
    assert "overlap" in error_of(run, [*words, "--holdout", "north.csv"])
    assert run([*words, "--rows", 0, "--report", "r.html"]).exit_code == 2
    assert not Path("s.csv").exists()


def changed(**columns: object) -> None:
    pd.read_csv("synthetic.csv").assign(**columns).to_csv("synthetic.csv", index=False)


BAD = {
    "an empty synthetic table": (
        lambda: Path("synthetic.csv").write_text("age,sex,income,smokes\n"),
        "synthetic.csv has no rows",
    ),
    "another column": (lambda: changed(more=1), "does not have the columns of the"),
    "another kind": (lambda: changed(age="old"), "column 'age' is"),
    "members among the others": (
        lambda: Path("holdout.csv").write_bytes(Path("real.csv").read_bytes()),
        "overlap the",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_one_clear_line(run: Run, case: str) -> None:
    spoil, message = BAD[case]
    spoil()
    assert message in error_of(run, ["evaluate", *REAL, "--holdout", "holdout.csv"])
    assert message in error_of(run, ["audit", *AUDIT])


def test_too_few_members(run: Run) -> None:
    people(9, 3).assign(smokes=[True, False, True] * 3).to_csv("real.csv", index=False)
    message = error_of(run, ["audit", *AUDIT])
    assert "too few members for an interval; got 9; give at least" in message


def test_a_model_of_another_schema(run: Run) -> None:
    assert run(["fit", "north.csv", "--output", "m", "--epochs", 1, *SMALL]).exit_code == 0
    message = error_of(run, ["audit", *AUDIT, "--model", "m"])
    assert "'smokes' besides" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--secrets", "smoke"], "no column 'smoke' can be guessed; did you mean smokes"),
        (["--method", "tvae", "--shadows", 3], "must be even and at least"),
        (["--method", "tvae", "--canaries", -3], "an audit needs canaries; got -3"),
        (["--method", "tvae", "--canaries", 5000], "the canaries take all rows of the table"),
    ],
)
def test_what_cannot_be_audited_is_told_before_any_attack(run: Run, words, message, monkeypatch):
    module = import_module("genesis.evaluation.audit")
    monkeypatch.setattr(module, "membership", None)  # would fail if it were called
    assert message in error_of(run, ["audit", *AUDIT, *words])


def test_targets_that_cannot_be(run: Run) -> None:
    assert "no column 'smoke'" in error_of(run, ["evaluate", *REAL, "--target", "smoke"])
    for name in ("real.csv", "holdout.csv"):
        pd.read_csv(name).assign(smokes=True).to_csv(name, index=False)
    words = ["evaluate", *REAL, "--holdout", "holdout.csv", "--target", "smokes"]
    assert "'smokes' cannot be predicted; got one value" in error_of(run, words)


def test_methods_that_cannot_be(run: Run) -> None:
    words = ["audit", *AUDIT, "--canaries", 120]
    assert "need a method to train" in error_of(run, words)
    assert "unknown method 'tvea'" in error_of(run, [*words, "--method", "tvea"])


def test_options_that_would_say_nothing_are_wrong_usage(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, message in (
        (["--epochs", 3], "--epochs needs --method"),
        (["--config", "a=1", "--canaries", 120], "--config needs --method"),
        (["--method", "tvae"], "--method needs --shadows or --canaries"),
    ):
        done = run(["audit", *AUDIT, *words])
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in done.stderr
    # In the environment it may be there for 'genesis fit'.
    monkeypatch.setenv("GENESIS_EPOCHS", "3")
    assert run(["audit", *AUDIT]).exit_code == 0


def test_results_do_not_overwrite_tables(run: Run) -> None:
    assert "cannot write real.csv" in error_of(run, ["evaluate", *REAL, "--json", "real.csv"])
    words = ["audit", *AUDIT, "--json", "holdout.csv"]
    assert "cannot write holdout.csv" in error_of(run, words)
