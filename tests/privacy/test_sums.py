"""Answers of a fit: planned as a whole, paid before the first leaves, each given once."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import Schema
from genesis.errors import PlanError, PrivacyError
from genesis.federated.client_promise import ClientPromise
from genesis.federated.parts import Parts
from genesis.federated.promise import RunPromise
from genesis.models.sums import Question
from genesis.privacy.accounting import epsilon
from genesis.privacy.budget import Privacy
from genesis.privacy.events import Skellam, SkellamSum
from genesis.privacy.guard import Guard, Statistics
from genesis.privacy.histograms import noisy_counts
from genesis.privacy.ledger import LedgerFile
from genesis.privacy.noise import Noise, repeatable_noise
from genesis.privacy.sums import LEAST, SUMS, Release, Sums

PROMISE = Privacy(1.0)
SHARED = Privacy(1.0, trust="distributed")
TABLE = pd.DataFrame({"town": ["a", "b"] * 30, "pay": np.arange(60) / 2})
SCHEMA = Schema.infer(TABLE, []).without_values()
COUNTS = (Release(3, 0.25), Release(6, 0.75))
WHOLE = (Release(None),)
SIZE = 40
NAMES = [f"client {i}" for i in range(8)]


def question(vectors: float = 3, **other: Any) -> Question:
    return Question("cells", SIZE, norm=math.sqrt(vectors), **other)


def exact() -> npt.NDArray[np.int64]:
    return np.arange(SIZE)


def never() -> npt.NDArray[np.int64]:
    raise AssertionError("the rows were looked at")


class Spy(Noise):
    """Counts how often anything was drawn: without a draw nothing is released."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0
        self._entropy = self._counted

    def _counted(self, n: int) -> bytes:
        self.draws += 1
        return os.urandom(n)


def counted(promise: Privacy = PROMISE, **choices: Any) -> Guard:
    """A guard whose statistics were paid for."""
    guard = Guard(promise, run="run", **choices)
    guard.begin(SCHEMA)
    guard.count_rows(len(TABLE))
    return guard


def planned(promise: Privacy = PROMISE, **choices: Any) -> Guard:
    guard = counted(promise, **choices)
    guard.plan_sums(COUNTS)
    return guard


def again(guard: Guard, file: LedgerFile | None = None) -> Guard:
    """The same guard after a restart."""
    found = Guard(guard.privacy, run="run", file=file)
    found.restore(json.loads(json.dumps(guard.to_dict())))
    return found


# --- the plan ---


@settings(max_examples=6)
@given(
    target=st.floats(0.1, 20),
    delta=st.sampled_from([1e-7, 1e-5, 1e-3]),
    statistics=st.sampled_from([0.05, 0.15, 0.6]),
    kinds=st.lists(st.one_of(st.none(), st.integers(1, 400)), min_size=1, max_size=3),
)
def test_all_releases_together_use_the_promise_up_and_no_more(
    target: float, delta: float, statistics: float, kinds: list[int | None]
) -> None:
    promise = Privacy(target, delta, statistics=statistics)
    releases = tuple(Release(kind, 1 / len(kinds)) for kind in kinds)
    spent = Statistics.planned(SCHEMA, promise).events
    plan = Sums.planned(spent, promise, releases)
    cost = epsilon((*spent, *plan.events), delta)
    assert 0.98 * target < cost <= target


def test_shares_of_the_budget_are_shares_of_rho() -> None:
    plan = Sums.planned((), PROMISE, COUNTS)
    costs = [r.norm**2 / (2 * plan.deviation(i, r.norm) ** 2) for i, r in enumerate(COUNTS)]
    assert costs == pytest.approx([0.25 * plan.rho, 0.75 * plan.rho])
    whole = Sums.planned((), PROMISE, WHOLE)
    assert whole.deviation(0, 5000.0) == pytest.approx(5000 / math.sqrt(2 * whole.rho))


@given(
    multiplier=st.floats(0.3, 50),
    norm=st.floats(LEAST, 1e9),
    size=st.integers(1, 10**6),
    delta=st.sampled_from([1e-7, 1e-3]),
)
def test_larger_whole_numbers_cost_no_more_than_was_planned(
    multiplier: float, norm: float, size: int, delta: float
) -> None:
    event = Sums(WHOLE, multiplier).events[0]
    true = SkellamSum(multiplier, norm, norm * min(norm, math.sqrt(size)))
    assert epsilon([true], delta) <= epsilon([event], delta) * (1 + 1e-9)


@pytest.mark.parametrize(
    "releases",
    [(), (Release(3, 0.5),), (Release(3), Release(3)), (Release(0),), (Release(3, -1.0),)],
    ids=["none", "half", "twice", "empty", "negative"],
)
def test_shares_that_are_none_are_refused(releases: tuple[Release, ...]) -> None:
    with pytest.raises(PrivacyError, match="answers without noise"):
        counted().plan_sums(releases)


def test_sums_are_planned_once_and_after_the_statistics() -> None:
    guard = Guard(PROMISE)
    guard.begin(SCHEMA)
    with pytest.raises(PrivacyError, match="before the values were counted"):
        guard.plan_sums(COUNTS)
    guard = counted()
    assert guard.plan_sums(COUNTS) == guard.plan_sums(COUNTS)
    with pytest.raises(PrivacyError, match="other sums were planned"):
        guard.plan_sums(WHOLE)


def test_a_promise_is_for_steps_or_for_sums() -> None:
    with pytest.raises(PrivacyError, match="divided among sums"):
        planned().plan_training(batch_size=5, epochs=1)
    guard = counted()
    guard.plan_training(batch_size=5, epochs=1)
    with pytest.raises(PrivacyError, match="divided among steps"):
        guard.plan_sums(COUNTS)


# --- answers ---


def spread(
    guard: Guard, cohort: list[str] | None = None, norm: float = math.sqrt(3)
) -> tuple[float, float]:
    """Deviation of the noise in a long answer, as it is and as it was told."""
    zeros = np.zeros(20_000, dtype=np.int64)
    asked = Question("cells", len(zeros), norm=norm)
    noisy, told = guard.answer_sum(asked, lambda: zeros, cohort=cohort)
    return float(noisy.std()), told


def test_noise_is_as_large_as_it_is_paid_for() -> None:
    guard = planned(noise=repeatable_noise(0))
    found, told = spread(guard)
    paid = guard.ledger.events[-2]
    assert isinstance(paid, Skellam)
    assert (paid.count, paid.purpose) == (3, SUMS)
    assert found == pytest.approx(paid.deviation, rel=0.03)
    assert told == paid.deviation


def test_the_check_above_finds_noise_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    right = noisy_counts
    monkeypatch.setattr(
        "genesis.privacy.sums.noisy_counts", lambda c, d, noise: right(c, d / 1.1, noise)
    )
    with pytest.raises(AssertionError):
        test_noise_is_as_large_as_it_is_paid_for()


def test_answers_are_right_on_average() -> None:
    guard = planned(Privacy(100.0), noise=repeatable_noise(0))
    noisy, deviation = guard.answer_sum(question(), exact)
    assert np.abs(noisy - exact()).max() < 6 * deviation < 15


@pytest.mark.parametrize("norm", [LEAST, 1e6])
def test_noise_of_whole_numbers_is_in_proportion_to_their_norm(norm: float) -> None:
    guard = counted(noise=repeatable_noise(0))
    plan = guard.plan_sums(WHOLE)
    found, told = spread(guard, norm=norm)
    assert told == plan.noise_multiplier * norm
    assert found == pytest.approx(told, rel=0.03)


def test_the_same_question_has_the_same_answer_and_costs_nothing() -> None:
    guard = planned(noise=(spy := Spy()))
    first, deviation = guard.answer_sum(question(), exact)
    ledger, draws = guard.ledger, spy.draws
    second, _ = guard.answer_sum(question(6), exact)
    assert guard.ledger == ledger
    assert spy.draws > draws
    draws = spy.draws
    for other in (guard, again(guard)):
        found, told = other.answer_sum(question(), never)
        assert (found.tolist(), told) == (first.tolist(), deviation)
        assert other.answer_sum(question(6), never)[0].tolist() == second.tolist()
        assert other.ledger == ledger
    assert spy.draws == draws


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "others"},
        {"meta": {"group": 1}},
        {"arrays": {"weights": np.ones(2)}},
        {"norm": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_question_has_noise_of_its_own(change: dict[str, Any]) -> None:
    guard = planned()
    first, _ = guard.answer_sum(question(), exact)
    second, _ = guard.answer_sum(replace(question(), **change), exact)
    assert first.tolist() != second.tolist()


def test_more_answers_than_planned_are_refused() -> None:
    guard = planned(noise=(spy := Spy()))
    for group in range(2):
        guard.answer_sum(question(meta={"group": group}), exact)
    ledger, draws = guard.ledger, spy.draws
    for other in (guard, again(guard)):
        with pytest.raises(PrivacyError, match=r"more sums .*; got 3 instead of 2"):
            other.answer_sum(question(meta={"group": 2}), never)
    assert (guard.ledger, spy.draws) == (ledger, draws)


@pytest.mark.parametrize("norm", [1.8, 0.0, -1.0, math.inf, math.nan])
def test_rows_that_change_more_than_planned_are_refused(norm: float) -> None:
    guard = planned(noise=(spy := Spy()))
    before, draws = guard.ledger, spy.draws
    with pytest.raises(PrivacyError, match="does not account for"):
        guard.answer_sum(replace(question(), norm=norm), never)
    assert (guard.ledger, spy.draws) == (before, draws)


@pytest.mark.parametrize("norm", [LEAST - 1, math.inf, math.nan])
def test_whole_numbers_too_small_to_be_accounted_for_are_refused(norm: float) -> None:
    guard = counted()
    guard.plan_sums(WHOLE)
    with pytest.raises(PrivacyError, match=r"1024 or more"):
        guard.answer_sum(replace(question(), norm=norm), never)


def test_an_answer_of_another_size_costs_nothing() -> None:
    guard = planned()
    before = guard.ledger
    with pytest.raises(PrivacyError, match="another size"):
        guard.answer_sum(question(), lambda: exact()[1:])
    assert guard.ledger == before


def test_nothing_is_answered_before_it_was_planned() -> None:
    with pytest.raises(PrivacyError, match="before they were planned"):
        counted().answer_sum(question(), never)


# --- the owner's file ---


def test_all_answers_are_written_down_before_the_first_leaves(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger", budget=None, delta=1e-5)
    guard = planned(file=file)
    assert SUMS not in [event.purpose for event in file.ledger().events]
    guard.answer_sum(question(), exact)
    paid = file.ledger()
    assert [event.purpose for event in paid.events].count(SUMS) == len(COUNTS)
    assert paid == guard.ledger
    assert paid.epsilon(PROMISE.delta) <= PROMISE.epsilon
    guard.answer_sum(question(6), exact)
    assert file.ledger() == paid


def test_what_a_crash_paid_for_is_not_paid_again(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger", budget=None, delta=1e-5)
    guard = planned(file=file)
    kept = json.loads(json.dumps(guard.to_dict()))
    guard.answer_sum(question(), exact)  # and never sent, for nothing was kept of it
    after = Guard(PROMISE, run="run", file=file)
    after.restore(kept)
    after.answer_sum(question(), exact)
    assert file.ledger() == guard.ledger == after.ledger
    after.answer_sum(question(6), exact)
    with pytest.raises(PrivacyError, match="more sums"):
        after.answer_sum(question(meta={"group": 2}), never)


def test_a_budget_without_room_refuses_the_plan(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger", budget=None, delta=1e-5)
    guard = counted(file=file)
    LedgerFile(tmp_path / "ledger", budget=0.9, delta=1e-5)
    with pytest.raises(PrivacyError, match="more than the budget"):
        guard.plan_sums(COUNTS)
    assert guard.sums is None


def test_a_damaged_memory_is_refused() -> None:
    guard = planned()
    kept = json.loads(json.dumps(guard.to_dict()))
    damage: list[Any] = [{}, {"plan": {}, "given": {}}, {"plan": {"releases": []}, "given": {}}]
    for damaged in damage:
        with pytest.raises(PrivacyError, match="damaged"):
            Guard(PROMISE, run="run").restore({**kept, "sums": damaged})


# --- noise that clients add together ---


def test_shares_add_up_to_what_is_paid_for() -> None:
    guard = planned(SHARED, noise=repeatable_noise(0))
    found, told = spread(guard, NAMES)
    paid = guard.ledger.events[-2]
    assert isinstance(paid, Skellam)
    honest = SHARED.honest(len(NAMES))
    assert found * math.sqrt(honest) == pytest.approx(paid.deviation, rel=0.03)
    assert told * math.sqrt(honest) == pytest.approx(paid.deviation)


def test_a_share_of_noise_leaves_for_one_sum_over_the_same_clients_only() -> None:
    guard = planned(SHARED, noise=(spy := Spy()))
    draws = spy.draws
    with pytest.raises(PrivacyError, match="outside of a sum"):
        guard.answer_sum(question(), never)
    with pytest.raises(PlanError, match="with so few clients"):
        planned(replace(SHARED, colluding=8)).answer_sum(question(), never, cohort=NAMES)
    assert spy.draws == draws
    first, _ = guard.answer_sum(question(), exact, cohort=NAMES)
    for other in (guard, again(guard)):
        for asked in (question(), question(6)):
            with pytest.raises(PrivacyError, match="summed over other clients"):
                other.answer_sum(asked, never, cohort=NAMES[1:])
        assert other.answer_sum(question(), never, cohort=NAMES)[0].tolist() == first.tolist()


# --- clients and their server ---


def client(promise: Privacy | None) -> ClientPromise:
    found = ClientPromise("a", None, Parts())
    found.take({"run": "run", "privacy": None if promise is None else promise.to_dict()})
    return found


def test_a_client_without_a_promise_tells_the_exact_sum() -> None:
    plain = client(None)
    plain.plan_sums(())
    told = plain.sum(question(), exact)
    assert (told[0].tolist(), told[1]) == (exact().tolist(), {"deviation": 0.0})


def test_a_client_with_a_promise_adds_noise_and_says_how_much() -> None:
    private = client(PROMISE)
    private.begin(SCHEMA, known=False)
    assert private.guard is not None
    private.guard.count_rows(60)
    private.plan_sums(COUNTS)
    noisy, told = private.sum(question(), exact)
    assert private.sum(question(), never)[0].tolist() == noisy.tolist()
    assert told == {"deviation": private.guard.sums.plan.deviation(0, 1.0)}  # type: ignore[union-attr]


def test_a_client_refuses_sums_that_keep_no_promise() -> None:
    private = client(PROMISE)
    with pytest.raises(PrivacyError, match="no noise hides"):
        private.plan_sums(())
    for trust in ("server", "distributed"):
        whole = client(Privacy(1.0, unit="client", trust=trust))
        with pytest.raises(PrivacyError, match="not whole clients"):
            whole.plan_sums(COUNTS)
        with pytest.raises(PrivacyError, match="before they were planned"):
            whole.sum(question(), never)


def test_a_server_knows_what_the_noise_of_all_clients_will_be() -> None:
    for promise, shares in ((PROMISE, 1), (SHARED, SHARED.honest(8))):
        budget = RunPromise(promise, public_schema=True).budget(SCHEMA, COUNTS, 8)
        assert budget is not None
        plan = planned(promise).plan_sums(COUNTS)
        assert budget.rho == pytest.approx(plan.rho)
        assert budget.clients == 8 / shares
    assert RunPromise(None, public_schema=True).budget(SCHEMA, COUNTS, 8) is None
