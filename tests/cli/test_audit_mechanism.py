"""`genesis audit --mechanism`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genesis.evaluation.mechanism import audit_step, private_steps
from genesis.privacy import client_level
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.opacus_steps import PrivateOptimizer
from tests.cli.conftest import SMALL, Run

AUDIT = ["audit", "--mechanism"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps than a claim to others needs, and no false alarm: noise has no seed."""
    monkeypatch.setitem(audit_step.__kwdefaults__, "trials", 30)
    monkeypatch.setitem(audit_step.__kwdefaults__, "level", 1 - 1e-8)


def test_a_method(run: Run) -> None:
    done = run([*AUDIT, "--method", "tvae", "--json", "steps.json", "--quiet"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "private step of tvae" in done.stdout
    assert "ctgan" not in done.stdout
    told = json.loads(Path("steps.json").read_text())
    assert (told["kind"], told["seed"], list(told["steps"])) == ("mechanism", 0, ["tvae"])
    step = told["steps"]["tvae"]
    assert step["verdict"]["finding"] == "nothing found"
    for canary in step["canaries"]:
        assert canary["low"] <= step["mu"] == 1.0


def test_every_step_unless_one_is_named(run: Run) -> None:
    done = run([*AUDIT, "--json", "steps.json"])
    assert (done.exit_code, done.stderr) == (0, "")
    told = json.loads(Path("steps.json").read_text())
    names = ["ctgan", "tvae", "classifier", "client-level", "marginals", "mixture"]
    assert list(told["steps"]) == private_steps() == names
    for step in ("ctgan", "tvae", "the classifier", "the client level", "marginals", "mixture"):
        assert f"A private step of {step} does what its ε was computed for" in done.stdout


def test_whole_clients(run: Run) -> None:
    done = run([*AUDIT, "--method", "client-level", "--json", "steps.json"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "large client, distance" in done.stdout
    assert list(json.loads(Path("steps.json").read_text())["steps"]) == ["client-level"]


@pytest.mark.parametrize(
    ("step", "where", "name"),
    [
        ("classifier", PrivateOptimizer, "add_noise"),
        ("client-level", client_level, "clipped"),
    ],
)
def test_steps_of_no_model_fail_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, step: str, where: Any, name: str
) -> None:
    planted: dict[str, Callable[..., Any]] = {
        "add_noise": lambda self: [setattr(p, "grad", p.summed_grad) for p in self.params],
        "clipped": lambda changes, _: changes,
    }
    monkeypatch.setattr(where, name, planted[name])
    done = run([*AUDIT, "--method", step])
    assert done.exit_code == 1
    assert f"got {step}: fault" in done.stderr


def test_a_config_of_the_method(run: Run) -> None:
    done = run([*AUDIT, "--method", "ctgan", *SMALL, "--seed", 3, "--json", "steps.json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(Path("steps.json").read_text())["seed"] == 3


def test_a_step_that_fails_ends_with_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateSteps, "factors", lambda _, norms: torch.ones_like(norms))
    done = run([*AUDIT, "--method", "tvae", "--json", "steps.json"])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "error: the private step does not pass its audit; got tvae: fault"
    )
    assert "A private step of tvae is not what its ε was computed for." in done.stdout
    verdict = json.loads(Path("steps.json").read_text())["steps"]["tvae"]["verdict"]
    assert verdict["finding"] == "fault"
    assert verdict["reasons"][0] in done.stdout


def test_an_audit_that_tests_nothing_does_not_pass(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genesis.evaluation.mechanism.shipped.MAX_NORM", 1e12)
    done = run([*AUDIT, "--method", "ctgan"])
    assert done.exit_code == 1
    assert "got ctgan: inconclusive" in done.stderr
    assert "little is known of clipping" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members", "north.csv"], "--members says nothing with --mechanism"),
        (["--non-members", "north.csv"], "--non-members says nothing with --mechanism"),
        (["--canaries", 100], "--canaries says nothing with --mechanism"),
        (["--report", "a.html"], "--report says nothing with --mechanism"),
        (["--config", "embedding_dim=8"], "--config needs --method"),
    ],
)
def test_options_that_would_say_nothing_are_wrong_usage(run: Run, words, message) -> None:
    done = run([*AUDIT, *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("missing", ["members", "non-members", "synthetic"])
def test_an_audit_of_rows_needs_its_tables(run: Run, missing: str) -> None:
    tables = [name for name in ("members", "non-members", "synthetic") if name != missing]
    done = run(["audit", *(word for name in tables for word in (f"--{name}", "north.csv"))])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"missing option '--{missing}'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "tvea"], "unknown method 'tvea'; did you mean tvae"),
        (
            ["--method", "ctgan", "--config", "pac=2"],
            "private steps of ctgan need pac 1; got pac 2",
        ),
        (["--method", "client-leve"], "unknown method 'client-leve'; did you mean client-level"),
        (["--method", "client-level", "--config", "bands=2"], "has no options; got 'bands'"),
        (["--method", "tvae", "--config", "pac=1"], "tvae has no option 'pac'"),
        (["--method", "tvae", "--seed", -1], "seed must be a whole number of at least 0"),
        (["--json", "nowhere/steps.json"], "nowhere"),
    ],
)
def test_what_cannot_be_audited_is_one_line(run: Run, words, message) -> None:
    done = run([*AUDIT, *words])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_the_environment_may_hold_options_of_other_commands(run: Run) -> None:
    env = {"GENESIS_EPOCHS": "3", "GENESIS_CONFIG": "pac=10", "GENESIS_DEVICE": "cpu"}
    assert run([*AUDIT, "--quiet"], env=env).exit_code == 0
