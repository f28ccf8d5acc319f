"""`Guard`: written down first, never more than was promised, and the same when asked again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import Schema
from genesis.errors import DataError, PrivacyError
from genesis.privacy.budget import Privacy
from genesis.privacy.events import SampledGaussian, Skellam, Threshold, times
from genesis.privacy.guard import Guard
from genesis.privacy.ledger import LedgerFile
from genesis.privacy.noise import Noise, repeatable_noise
from genesis.statistics import PooledStatistics, Question, ShardStatistics, planned_releases

PROMISE = Privacy(2.0)
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": RNG.integers(18, 80, 600),
        "pay": RNG.normal(30.0, 5.0, 600).round(2),
        "town": RNG.choice(["a", "b", "c"], 600),
        "rare": ["x"] * 599 + ["only one has this"],
    }
)
SCHEMA = Schema.infer(TABLE, []).without_values()
SHARD = ShardStatistics(SCHEMA, TABLE)
OTHER = Schema.infer(TABLE[["age", "town"]], []).without_values()


def begun(promise: Privacy = PROMISE, **choices: Any) -> Guard:
    guard = Guard(promise, **choices)
    guard.begin(SCHEMA)
    return guard


def counted(guard: Guard, n: int | None = None) -> list[list[int]]:
    """Ask for statistics as a server does, n times or until it is done."""
    pooled = PooledStatistics(SCHEMA, [guard.labels(SHARD)], private=True)
    answers = []
    while (questions := pooled.questions()) and (n is None or len(answers) < n):
        counts = guard.answer(SHARD, questions)
        answers.append(counts.tolist())
        ends = np.cumsum([question.size for question in questions])[:-1]
        pooled.take(np.split(counts, ends), guard.deviation, guard.count_rows(len(TABLE)))
    return answers


class Spy(Noise):
    """Counts how often anything was drawn: without a draw nothing is released."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0
        self._entropy = self._counted

    def _counted(self, n: int) -> bytes:
        self.draws += 1
        return os.urandom(n)


def releases(guard: Guard) -> list[Callable[[], object]]:
    """All that a guard can be asked for before training."""
    return [
        lambda: guard.labels(SHARD),
        lambda: guard.answer(SHARD, [Question("town", labels=("a", "b"))]),
        lambda: guard.count_rows(len(TABLE)),
    ]


# --- statistics ---


def test_all_statistics_are_written_down_before_the_first_is_released() -> None:
    for which in range(3):
        guard = begun()
        assert guard.ledger.events == ()
        releases(guard)[which]()
        kinds = [type(event) for event in guard.ledger.events]
        assert kinds == [Skellam, Threshold]
        assert times(guard.ledger.events[0]) == planned_releases(SCHEMA) + 1
        assert times(guard.ledger.events[1]) == 2
        after = guard.ledger
        for release in releases(guard):
            release()
        assert guard.ledger == after


def test_a_whole_run_asks_for_no_more_than_was_planned() -> None:
    guard = begun()
    counted(guard)
    assert guard.to_dict()["released"] <= planned_releases(SCHEMA) + 1
    assert guard.ledger.epsilon(PROMISE.delta) < 0.5 * PROMISE.epsilon


def test_labels_and_rows_are_the_same_when_asked_again_and_cost_nothing() -> None:
    guard = begun(noise=(spy := Spy()))
    labels, rows = guard.labels(SHARD), guard.count_rows(600)
    ledger, released, draws = guard.ledger, guard.to_dict()["released"], spy.draws
    for _ in range(5):
        assert guard.labels(SHARD) == labels
        assert guard.count_rows(600) == rows
        assert guard.count_rows(7) == rows  # what it said, not what it now has
    assert (guard.ledger, guard.to_dict()["released"], spy.draws) == (ledger, released, draws)


def test_counts_are_noisy_and_a_rare_label_stays() -> None:
    rows = [begun().count_rows(600) for _ in range(12)]
    assert len(set(rows)) > 6
    assert abs(np.mean(rows) - 600) < 6 * begun().deviation
    assert begun().labels(SHARD)["rare"] == ["x"]


def test_next_to_no_rows_are_one_at_least() -> None:
    assert {begun().count_rows(0) for _ in range(12)} > {1}
    assert min(begun().count_rows(0) for _ in range(12)) == 1


def test_more_questions_than_planned_are_refused_without_an_answer() -> None:
    guard = begun(noise=(spy := Spy()))
    question = [Question("town", labels=("a", "b"))]
    for _ in range(planned_releases(SCHEMA) + 1):
        guard.answer(SHARD, question)
    ledger, draws = guard.ledger, spy.draws
    with pytest.raises(PrivacyError, match=r"more statistics .*got \d+ vectors of counts instead"):
        guard.answer(SHARD, question)
    with pytest.raises(PrivacyError, match="more statistics"):
        guard.count_rows(600)
    assert (guard.ledger, spy.draws) == (ledger, draws)


@pytest.mark.parametrize(
    "questions",
    [
        [Question("town", labels=("a", "a"))],
        [Question("town", labels=("a",)), Question("town", labels=("a",))],
        [Question("age", parents=(0, 0), shift=64, bits=0)],
        [Question("age", decimals=True)] * 500,
    ],
)
def test_questions_that_count_a_row_twice_are_refused_and_cost_nothing(
    questions: list[Question],
) -> None:
    guard = begun(noise=(spy := Spy()))
    with pytest.raises(PrivacyError):
        guard.answer(SHARD, questions)
    assert spy.draws == 0
    counted(guard)  # an honest server can still ask
    assert [times(event) for event in guard.ledger.events] == [planned_releases(SCHEMA) + 1, 2]


def test_nothing_is_released_before_it_was_begun() -> None:
    guard = Guard(PROMISE, noise=(spy := Spy()))
    for release in releases(guard):
        with pytest.raises(PrivacyError, match="before the schema was agreed on"):
            release()
    assert spy.draws == 0


def test_statistics_of_another_schema_are_refused() -> None:
    guard = begun()
    guard.begin(SCHEMA)
    with pytest.raises(PrivacyError, match="statistics of another schema"):
        guard.begin(OTHER)


# --- training ---


def test_training_is_planned_from_the_noisy_rows_once() -> None:
    guard = begun()
    with pytest.raises(PrivacyError, match="before it was planned"):
        guard.steps(1)
    with pytest.raises(PrivacyError, match="before the rows were counted"):
        guard.plan_training(batch_size=50, epochs=4)
    rows = guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=4)
    plan = guard.training
    guard.plan_training(batch_size=10, epochs=400)
    assert guard.training is plan is not None
    steps = guard.steps(1)
    assert steps.sample_rate == 50 / rows
    assert (steps.batch_size, steps.steps) == (50, rows // 50)
    assert steps.noise is guard._noise
    assert guard.ledger.events[-1] == SampledGaussian(
        plan.noise_multiplier, 50 / rows, rows // 50, "steps of training"
    )


def test_more_steps_than_planned_are_refused() -> None:
    guard = begun()
    guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=4)
    for _ in range(4):
        guard.steps(1)
    before = guard.ledger
    assert 0.93 * PROMISE.epsilon < before.epsilon(PROMISE.delta) <= PROMISE.epsilon
    for _ in range(3):
        with pytest.raises(PrivacyError, match=r"more than was promised; got ε = .* of 2"):
            guard.steps(1)
    assert guard.ledger == before


@settings(max_examples=5)
@given(
    target=st.floats(0.3, 20),
    delta=st.sampled_from([1e-7, 1e-5, 1e-3]),
    rows=st.integers(0, 100_000),
    batch=st.integers(1, 600),
    rounds=st.integers(1, 12),
    epochs=st.integers(1, 3),
    share=st.sampled_from([0.05, 0.15, 0.9]),
    columns=st.integers(1, 25),
)
def test_a_run_never_costs_more_than_its_promise(
    target: float,
    delta: float,
    rows: int,
    batch: int,
    rounds: int,
    epochs: int,
    share: float,
    columns: int,
) -> None:
    table = pd.DataFrame({f"c{i}": ["a", "b"] if i % 2 else [0.5, 1.5] for i in range(columns)})
    guard = Guard(Privacy(target, delta, statistics=share), noise=repeatable_noise(0))
    schema = Schema.infer(table, []).without_values()
    guard.begin(schema)
    guard.labels(ShardStatistics(schema, table))
    assert guard.ledger.epsilon(delta) <= target
    guard.count_rows(rows)
    guard.plan_training(batch_size=batch, epochs=rounds * epochs)
    for _ in range(rounds):
        guard.steps(epochs)
        assert guard.ledger.is_within(guard._allowed)
    assert guard.ledger.epsilon(delta) <= target


# --- the owner's file ---


def of_file(path: Path, budget: float, run: str, noise: Noise | None = None) -> Guard:
    return Guard(PROMISE, run=run, file=LedgerFile(path, budget=budget, delta=1e-5), noise=noise)


def run_all(guard: Guard) -> None:
    guard.begin(SCHEMA)
    guard.labels(SHARD)
    guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=4)
    for _ in range(4):
        guard.steps(1)


def test_a_second_run_is_refused_before_it_releases_anything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    run_all(of_file(path, 2.0, "a"))  # the budget of exactly one promise
    written = path.read_bytes()
    second = of_file(path, 2.5, "b", noise=(spy := Spy()))
    with pytest.raises(PrivacyError, match=r"more than the budget in ledger.json"):
        second.begin(SCHEMA)
    assert spy.draws == 0
    assert not second.begun
    assert json.loads(path.read_bytes())["releases"] == json.loads(written)["releases"]
    run_all(of_file(path, 4.0, "c"))
    assert 2.0 < LedgerFile(path, budget=None, delta=1e-5).spent() < 4.0


def test_a_budget_lowered_meanwhile_stops_what_was_not_yet_released(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    guard = of_file(path, 2.0, "a", noise=(spy := Spy()))
    guard.begin(SCHEMA)
    LedgerFile(path, budget=1e-3, delta=1e-5)
    for release in releases(guard):
        with pytest.raises(PrivacyError, match="more than the budget"):
            release()
    assert spy.draws == 0
    assert guard.ledger.events == ()


def test_on_a_full_disk_nothing_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.json"
    guard = of_file(path, 2.0, "a", noise=(spy := Spy()))
    guard.begin(SCHEMA)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        for release in releases(guard):
            with pytest.raises(DataError, match="No space left"):
                release()
        assert spy.draws == 0
        assert guard.ledger.events == ()
        assert guard.to_dict()["released"] == 0
    guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=2)
    before = guard.ledger
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(DataError, match="No space left"):
            guard.steps(1)
    assert guard.ledger == before
    assert guard._file is not None
    assert guard._file.ledger("a") == before


# --- what is remembered ---


@pytest.mark.parametrize("stop", range(7))
@pytest.mark.parametrize("with_file", [False, True])
def test_a_run_that_goes_on_is_the_one_that_never_stopped(
    tmp_path: Path, stop: int, with_file: bool
) -> None:
    def file(name: str) -> LedgerFile | None:
        path = tmp_path / name
        return LedgerFile(path, budget=2.0, delta=1e-5) if with_file else None

    def steps_of(guard: Guard) -> list[Callable[[], object]]:
        return [
            lambda: guard.begin(SCHEMA),
            lambda: guard.labels(SHARD),
            lambda: guard.count_rows(600),
            lambda: guard.plan_training(batch_size=50, epochs=3),
            lambda: guard.steps(1).noise_multiplier,
            lambda: guard.steps(2).noise_multiplier,
        ]

    straight = Guard(PROMISE, run="r", file=file("a"), noise=(noise := repeatable_noise(3)))
    expected = [step() for step in steps_of(straight)]
    same = repeatable_noise(3)
    guard = Guard(PROMISE, run="r", file=file("b"), noise=same)
    found = [step() for step in steps_of(guard)[:stop]]
    kept = json.loads(json.dumps(guard.to_dict()))
    guard = Guard(PROMISE, run="r", file=file("b"), noise=same)
    guard.restore(kept)
    assert guard.to_dict() == kept
    found += [step() for step in steps_of(guard)[stop:]]
    assert found == expected
    assert guard.to_dict() == straight.to_dict()
    assert noise is not same
    with pytest.raises(PrivacyError, match="more than was promised"):
        guard.steps(1)


def test_another_promise_or_schema_is_refused() -> None:
    kept = begun().to_dict()
    for other in (Privacy(3.0), Privacy(2.0, 1e-6), Privacy(2.0, max_grad_norm=2.0)):
        with pytest.raises(PrivacyError, match="another promise"):
            Guard(other).restore(kept)
    guard = Guard(PROMISE)
    guard.restore(kept)
    with pytest.raises(PrivacyError, match="another schema"):
        guard.begin(OTHER)


@pytest.mark.parametrize("name", sorted(Guard(PROMISE).to_dict()))
def test_memory_that_lacks_something_is_refused(name: str) -> None:
    kept = begun().to_dict()
    del kept[name]
    with pytest.raises(PrivacyError, match="damaged"):
        Guard(PROMISE).restore(kept)


@pytest.mark.parametrize(
    "change",
    [
        {"ledger": [{"kind": "laplace"}]},
        {"ledger": None},
        {"statistics": {"deviation": 0.0}},
        {"statistics": {"deviation": 0.0, "releases": 9} | {f"label_{x}": 1 for x in ()}},
        {"training": {"noise_multiplier": 1.0}},
        {"released": None},
        {"statistics": 5},
    ],
)
def test_memory_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        Guard(PROMISE).restore(begun().to_dict() | change)


def test_memory_without_noise_is_refused() -> None:
    kept = begun().to_dict()
    silent = kept | {"statistics": dict(kept["statistics"]) | {"deviation": 0.0}}
    with pytest.raises(PrivacyError, match="must be above 0"):
        Guard(PROMISE).restore(silent)
    guard = begun()
    guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=3)
    kept = guard.to_dict()
    silent = kept | {"training": dict(kept["training"]) | {"noise_multiplier": 0.0}}
    with pytest.raises(PrivacyError, match="must be above 0"):
        Guard(PROMISE).restore(silent)


def test_a_file_that_knows_less_than_the_run_is_refused(tmp_path: Path) -> None:
    guard = of_file(tmp_path / "a.json", 2.0, "r")
    run_all(guard)
    with pytest.raises(PrivacyError, match="lacks what this run has released"):
        of_file(tmp_path / "b.json", 2.0, "r").restore(guard.to_dict())


def test_without_its_other_memory_a_client_knows_what_it_spent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    run_all(of_file(path, 100.0, "r"))
    guard = of_file(path, 100.0, "r", noise=(spy := Spy()))
    guard.begin(SCHEMA)
    for release in releases(guard):
        with pytest.raises(PrivacyError, match="more than was promised"):
            release()
    assert spy.draws == 0


def test_what_is_told_of_it_is_not_about_the_rows() -> None:
    guards = [begun(), begun()]
    for guard, rows in zip(guards, (600, 600), strict=True):
        guard.labels(SHARD)
        guard.count_rows(rows)
    told = [json.dumps(guard.spent()) for guard in guards]
    assert told[0] == told[1]
    assert "only one has this" not in told[0]


def test_training_that_a_crash_kept_from_leaving_is_paid_for_once(tmp_path: Path) -> None:
    path, kept = tmp_path / "ledger.json", {}

    def keep() -> None:
        kept.clear()
        kept.update(json.loads(json.dumps(guard.to_dict())))

    def again() -> Guard:
        """After a crash, with what was kept."""
        found = of_file(path, 2.0, "r")
        found.restore(kept)
        return found

    guard = of_file(path, 2.0, "r")
    guard.begin(SCHEMA)
    guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=4)
    for crashes in (1, 0, 3, 0):
        for _ in range(crashes):
            guard.steps(1, keep=keep)
            guard = again()
        guard.steps(1, keep=keep)
        guard.sent("a round")
        keep()
        guard = again()
    assert guard.training is not None
    assert times(guard.ledger.events[-1]) == 4 * guard.training.steps
    assert guard._file is not None
    assert guard._file.ledger("r") == guard.ledger
    with pytest.raises(PrivacyError, match="more than was promised"):
        guard.steps(1, keep=keep)
    assert again().ledger == guard.ledger  # what was refused is not taken for paid


def test_what_was_paid_for_and_not_asked_for_again_stays_spent(tmp_path: Path) -> None:
    guard = of_file(tmp_path / "ledger.json", 2.0, "r")
    guard.begin(SCHEMA)
    guard.count_rows(600)
    guard.plan_training(batch_size=50, epochs=4)
    kept: list[dict[str, Any]] = []
    guard.steps(2, keep=lambda: kept.append(guard.to_dict()))
    guard = of_file(tmp_path / "ledger.json", 2.0, "r")
    guard.restore(kept[0])
    guard.steps(1, keep=lambda: None)
    assert guard.training is not None
    assert times(guard.ledger.events[-1]) == 3 * guard.training.steps
    assert guard._file is not None
    assert guard._file.ledger("r") == guard.ledger
