"""Callbacks: the events, the handlers, and each callback against a run that is not there."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.errors import MissingExtraError, PlanError
from genesis.federated import callbacks
from genesis.federated.callbacks import (
    CALLBACKS,
    Callback,
    CheckpointCallback,
    EarlyStopping,
    MetricsCallback,
    MLflowCallback,
    ProgressCallback,
    RoundCallback,
    RoundReport,
    TensorBoardCallback,
    create_callback,
)
from genesis.federated.callbacks.handlers import (
    ROUND_NAMES,
    call_with_named,
    check_handler,
    round_arguments,
)


class FakeRun:
    """A run that reports given metrics, round after round, until a callback stops it."""

    def __init__(self, n_rounds: int = 3) -> None:
        self.n_rounds = n_rounds
        self.stopped: str | None = None
        self.private = False
        self.checkpoints: list[tuple[Path, int]] = []
        self.reports: list[RoundReport] = []

    def stop(self, reason: str) -> None:
        self.stopped = reason

    def save_checkpoint(self, directory: Path, *, strict: bool = True) -> None:
        self.checkpoints.append((directory, self.reports[-1].round_num))

    def report(self, round: int, metrics: dict[str, float], **changes: object) -> RoundReport:
        fields = {"clients": ("a", "b"), "failed": {}, "dropped": (), "seconds": 1.25} | changes
        return RoundReport(round, self.n_rounds, metrics, **fields)

    def play(
        self,
        callback: Callback,
        metrics: Sequence[dict[str, float]],
        first: int = 0,
        stop_at_the_end: str | None = None,
    ) -> None:
        callback.on_run_start(self)
        for round, values in enumerate(metrics, first):
            self.reports.append(self.report(round, values))
            callback.on_round_complete(self, self.reports[-1])
            if self.stopped:
                break
        self.stopped = self.stopped or stop_at_the_end
        callback.on_run_end(self, self.reports)


def losses(*values: float) -> list[dict[str, float]]:
    return [{"generator": value} for value in values]


# --- the contract


@pytest.fixture
def fake_packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple]]:
    """tensorboard and mlflow that write down how they are called."""
    calls: dict[str, list[tuple]] = {"tensorboard": [], "mlflow": []}

    class SummaryWriter:
        def __init__(self, directory: str) -> None:
            calls["tensorboard"].append(("open", directory))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls["tensorboard"].append((name, value, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            calls["tensorboard"].append(("close",))

    tensorboard = ModuleType("torch.utils.tensorboard")
    tensorboard.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)

    mlflow = ModuleType("mlflow")
    mlflow.active = None

    def start_run(run_name: str | None) -> None:
        mlflow.active = "run"
        calls["mlflow"].append(("start", run_name))

    mlflow.start_run = start_run
    mlflow.active_run = lambda: mlflow.active
    mlflow.set_experiment = lambda name: calls["mlflow"].append(("experiment", name))
    mlflow.log_param = lambda name, value: calls["mlflow"].append((name, value))
    mlflow.log_metrics = lambda values, step: calls["mlflow"].append((values, step))
    mlflow.end_run = lambda: calls["mlflow"].append(("end",))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


@pytest.mark.usefixtures("fake_packages")
@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_every_callback_lives_through_runs_that_end_well_and_badly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"monitor": "generator"} if name == "early_stopping" else {}
    callback = create_callback(name, **options)
    assert isinstance(callback, Callback)
    assert type(callback).__name__ in callbacks.__all__
    callback.on_run_end(FakeRun(), [])
    for metrics in (losses(1.0, 2.0, 3.0), losses(3.0, 2.0), [{}, {"generator": 1.0}], []):
        FakeRun().play(callback, metrics)


def test_the_registry_is_lazy() -> None:
    program = (
        "import sys; from genesis.federated.callbacks import *;"
        "sys.exit(', '.join({'torch', 'pandas', 'rich', 'mlflow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(callbacks.__all__) <= set(dir(callbacks))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chekpoint", {}, "unknown callback 'chekpoint'; did you mean checkpoint"),
        (
            "checkpoint",
            {"evry": 1},
            "callback 'checkpoint' has no option 'evry'; did you mean every",
        ),
        ("early_stopping", {}, "callback 'early_stopping' needs the option 'monitor'"),
        ("checkpoint", {"every": 0}, "every must be a whole number of rounds; got 0"),
        ("checkpoint", {"every": True}, "every must be"),
        ("metrics", {"path": "metrics.xlsx"}, "written to .csv or .jsonl; got 'metrics.xlsx'"),
        ("early_stopping", {"monitor": "x", "patience": 0}, "patience must be"),
        ("early_stopping", {"monitor": "x", "min_delta": -0.1}, "min_delta is out of range"),
        (
            "early_stopping",
            {"monitor": "x", "mode": "minn"},
            "unknown mode 'minn'; did you mean min",
        ),
        ("round", {"function": 3}, "the handler int is not a function"),
    ],
)
def test_an_impossible_choice_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message) as error:
        create_callback(name, **options)
    assert "\n" not in str(error.value)


def test_the_errors_of_a_callback_go_through() -> None:
    def broken(n_clients: int) -> float:
        return n_clients / 0

    with pytest.raises(ZeroDivisionError):
        FakeRun().play(RoundCallback(broken), losses(1.0))


# --- handlers

AVAILABLE = {"round_num": 3, "metrics": {"generator": 0.5}, "n_clients": 2}


class Object:
    def __call__(self, n_clients: int) -> int:
        return n_clients

    def method(self, round_num: int) -> int:
        return round_num


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: "nothing", "nothing"),
        (lambda round_num, metrics: (round_num, metrics), (3, {"generator": 0.5})),
        (lambda n_clients, *, round_num: (n_clients, round_num), (2, 3)),
        (lambda round_num, sep=" of ": f"{round_num}{sep}", "3 of "),
        (lambda metrics=None: metrics, {"generator": 0.5}),
        (lambda *args, n_clients: (args, n_clients), ((), 2)),
        (lambda **everything: everything, AVAILABLE),
        (lambda n_clients, **others: (n_clients, sorted(others)), (2, ["metrics", "round_num"])),
        (lambda other=1, /, *, n_clients: (other, n_clients), (1, 2)),
        (Object(), 2),
        (Object().method, 3),
        (partial(lambda a, n_clients: (a, n_clients), 7), (7, 2)),
    ],
)
def test_a_handler_receives_what_it_names(function, expected: object) -> None:
    check_handler(function, AVAILABLE)
    assert call_with_named(function, **AVAILABLE) == expected


@given(
    wanted=st.lists(st.sampled_from(ROUND_NAMES), unique=True),
    keyword_only=st.booleans(),
)
def test_any_selection_of_names_can_be_asked_for(wanted: list[str], keyword_only: bool) -> None:
    star = "*, " if keyword_only and wanted else ""
    handler = eval(
        f"lambda {star}{', '.join(wanted)}: dict({', '.join(f'{n}={n}' for n in wanted)})"
    )
    run = FakeRun()
    available = round_arguments(run, run.report(0, {"generator": 1.0}))
    check_handler(handler, ROUND_NAMES)
    assert call_with_named(handler, **available) == {name: available[name] for name in wanted}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda round_number: round_number, "asks for 'round_number', .*did you mean round_num"),
        (lambda *, loss: loss, "asks for 'loss'.*choose one of metrics, n_clients, round_num"),
        (lambda metrics, /: metrics, "asks for 'metrics'"),
        ([].append, "the handler append asks for 'object'"),
        ("print", "the handler str is not a function with named arguments; define it with def"),
        (dict, "the handler dict is not a function with named arguments"),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused(function, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_handler(function, AVAILABLE)
    with pytest.raises(PlanError, match=message):
        call_with_named(function, **AVAILABLE)


def test_the_names_of_a_round_are_what_a_handler_gets() -> None:
    run = FakeRun(n_rounds=7)
    report = run.report(4, {"generator": 0.5}, failed={"c": "why"}, dropped=("d",))
    arguments = round_arguments(run, report)
    assert tuple(arguments) == ROUND_NAMES
    assert arguments["round_num"] == 5
    assert arguments["n_rounds"] == 7
    assert arguments["n_clients"] == 2
    assert arguments["failed"] == {"c": "why"}
    assert arguments["run"] is run


# --- each callback


def test_a_function_is_called_each_round() -> None:
    seen = []
    callback = RoundCallback(lambda round_num, metrics: seen.append((round_num, metrics)))
    FakeRun().play(callback, losses(1.0, 0.5))
    assert seen == [(1, {"generator": 1.0}), (2, {"generator": 0.5})]
    with pytest.raises(PlanError, match="asks for 'rnd'"):
        RoundCallback(lambda rnd: rnd)


def test_a_function_can_stop_the_run() -> None:
    run = FakeRun()
    run.play(RoundCallback(lambda run: run.stop("enough")), losses(1.0, 2.0))
    assert (run.stopped, len(run.reports)) == ("enough", 1)


def test_by_default_a_round_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(n_rounds=10)
    callback = RoundCallback()
    callback.on_round_complete(run, run.report(2, {"generator": 0.51234567, "divergence.0": 1.0}))
    callback.on_round_complete(
        run, run.report(3, {}, clients=("a",), failed={"b": "no rows"}, dropped=("c", "d"))
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "round 3/10: 2 clients; generator 0.5123; 1.2 s",
        "round 4/10: 1 client; 1.2 s; b failed: no rows; no answer from c, d",
    ]


def test_metrics_are_collected() -> None:
    callback = MetricsCallback()
    FakeRun().play(callback, [{"a": 1.0}, {"a": 0.5, "b": 2.0}])
    assert callback.history[0] == {
        "round_num": 1,
        "n_clients": 2,
        "n_failed": 0,
        "n_dropped": 0,
        "seconds": 1.25,
        "a": 1.0,
    }
    frame = callback.to_frame()
    assert frame["a"].tolist() == [1.0, 0.5]
    assert frame["b"].isna().tolist() == [True, False]
    FakeRun().play(callback, [{"a": 3.0}])
    assert len(callback.history) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_metrics_are_in_the_file_after_each_round(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / f"metrics{suffix}"
    callback = MetricsCallback(path)
    run = FakeRun()
    callback.on_run_start(run)
    for round, metrics in enumerate([{"a": 1 / 3}, {"a": 0.5, "b": 2.0}, {"b": 1e-12}]):
        callback.on_round_complete(run, run.report(round, metrics))
        if suffix == ".csv":
            read = pd.read_csv(path, float_precision="round_trip")
        else:
            read = pd.DataFrame(map(json.loads, path.read_text().splitlines()))
        pd.testing.assert_frame_equal(read, callback.to_frame())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_file_goes_on_where_a_checkpoint_does(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"metrics{suffix}"
    metrics = [{"a": 117.91870367106105}, {"a": 0.5, "b": 2.0}, {"a": 1.0}]  # read_csv rounds it
    straight = MetricsCallback(path)
    FakeRun().play(straight, metrics)
    # Killed after the third round, continued from the checkpoint of the first.
    resumed = MetricsCallback(path)
    FakeRun().play(resumed, metrics[1:], first=1)
    assert resumed.history == straight.history
    # A new run starts a new file.
    FakeRun().play(MetricsCallback(path), metrics[:1])
    assert len(path.read_text().splitlines()) == (2 if suffix == ".csv" else 1)


@pytest.mark.parametrize(
    ("every", "rounds", "saved"),
    [(1, 3, [1, 2, 3]), (2, 4, [2, 4]), (2, 5, [2, 4, 5]), (10, 3, [3]), (3, 0, [])],
)
def test_checkpoints_are_saved_in_time_and_at_the_end(
    every: int, rounds: int, saved: list[int], tmp_path: Path
) -> None:
    run = FakeRun(rounds)
    run.play(CheckpointCallback(tmp_path, every=every), losses(*range(rounds)))
    assert run.checkpoints == [(tmp_path, round_num) for round_num in saved]
    assert CheckpointCallback().directory == Path("checkpoints")


@pytest.mark.parametrize(("every", "saved"), [(1, [1, 2, 3]), (2, [2, 3]), (10, [3])])
def test_a_stopped_run_is_saved_and_a_broken_one_is_not(every: int, saved: list[int]) -> None:
    for stopped in ("enough", None):
        callback, run = CheckpointCallback(every=every), FakeRun(n_rounds=9)
        run.play(callback, losses(1.0, 2.0, 3.0), stop_at_the_end=stopped)
        expected = saved if stopped else [n for n in saved if n % every == 0]
        assert [round_num for _, round_num in run.checkpoints] == expected


@pytest.mark.parametrize(
    ("options", "values", "rounds", "best"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 1], 4, 2),
        ({"patience": 2}, [3, 2, 3, 1, 5, 0], 6, 0),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.4, 2, 1], 3, 2.4),
        ({"patience": 2, "mode": "max"}, [1, 2, 1, 1, 9], 4, 2),
        ({"patience": 2}, [math.nan, 1, math.nan, 0.5], 4, 0.5),
        ({"patience": 2}, [math.nan, math.nan, 1], 2, None),
        ({"patience": 2}, [math.inf, math.inf, math.inf, 1], 3, math.inf),
        ({}, [1, 1, 1, 1, 1], 4, 1),
    ],
)
def test_early_stopping(
    options: dict, values: list[float], rounds: int, best: float | None
) -> None:
    callback = EarlyStopping("generator", **options)
    for _ in range(2):  # a second run starts afresh
        run = FakeRun()
        run.play(callback, losses(*values))
        assert len(run.reports) == rounds
        assert (run.stopped is None) == (rounds == len(values))
        assert callback.best == best
        assert callback.best_round_num == (None if best is None else values.index(best) + 1)


def test_early_stopping_says_why() -> None:
    run = FakeRun()
    run.play(EarlyStopping("generator", patience=1), losses(1.0, 1.0))
    assert run.stopped == "generator has not improved for 1 round"


def test_early_stopping_refuses_a_metric_that_there_is_not() -> None:
    run = FakeRun()
    with pytest.raises(PlanError, match=r"no metric 'genrator' .*did you mean generator"):
        run.play(EarlyStopping("genrator"), [{}, {"generator": 1.0}])
    assert len(run.reports) == 2  # the first round had no metrics at all
    run = FakeRun()
    run.play(EarlyStopping("generator", patience=2), [{"generator": 1.0}, {}, {"other": 1.0}])
    assert run.stopped


def test_tensorboard(fake_packages: dict[str, list[tuple]], tmp_path: Path) -> None:
    FakeRun().play(TensorBoardCallback(tmp_path), losses(0.5))
    assert fake_packages["tensorboard"] == [
        ("open", str(tmp_path)),
        ("generator", 0.5, 1),
        ("clients", 2, 1),
        ("seconds", 1.25, 1),
        ("close",),
    ]


def test_mlflow_starts_and_ends_a_run(fake_packages: dict[str, list[tuple]]) -> None:
    FakeRun().play(MLflowCallback(run_name="adult", experiment="hospitals"), losses(0.5, 0.25))
    assert fake_packages["mlflow"] == [
        ("experiment", "hospitals"),
        ("start", "adult"),
        ("n_rounds", 3),
        ({"generator": 0.5, "clients": 2, "seconds": 1.25}, 1),
        ({"generator": 0.25, "clients": 2, "seconds": 1.25}, 2),
        ("end",),
    ]


def test_mlflow_leaves_a_run_of_the_user_open(fake_packages: dict[str, list[tuple]]) -> None:
    sys.modules["mlflow"].active = "the user's"
    FakeRun().play(MLflowCallback(run_name="adult"), losses(0.5))
    assert fake_packages["mlflow"] == [({"generator": 0.5, "clients": 2, "seconds": 1.25}, 1)]


@pytest.mark.parametrize(
    ("callback", "module", "install"),
    [
        (TensorBoardCallback, "torch.utils.tensorboard", "genesis-federated[tensorboard]"),
        (MLflowCallback, "mlflow", "genesis-federated[mlflow]"),
    ],
)
def test_a_missing_package_comes_with_the_line_that_installs_it(
    callback: type[Callback], module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as error:
        callback()
    assert f"pip install '{install}'" in str(error.value)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    FakeRun().play(
        ProgressCallback(), [{"generator": 0.5}, {"generator": 0.25, "divergence.0": 1.0}]
    )
    last = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", terminal.getvalue()).rstrip().splitlines()[-1]
    assert "2/3" in last
    assert "generator 0.25" in last
    assert "divergence" not in last


@pytest.mark.parametrize(("terminal", "quiet"), [(Terminal(), True), (io.StringIO(), False)])
def test_no_progress_where_nobody_looks(
    terminal: io.StringIO, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    FakeRun().play(ProgressCallback(quiet=quiet), losses(1.0, 2.0))
    assert terminal.getvalue() == ""
