"""Whole runs in which clients hide in sums: what leaves them, how noisy it is, what is refused.

A check passes on what is shipped. A bug is planted in it, as somebody might write it, and the same
check must then fail.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from scipy import stats

from genesis import FederatedSynthesizer, Schema, Synthesizer
from genesis.errors import FederationError, PlanError, PrivacyError, TrainingError
from genesis.federated import CheckpointCallback
from genesis.federated import secure_shard as secure_shards
from genesis.federated import secure_sums as sums
from genesis.federated.client_promise import ClientPromise
from genesis.federated.disclosures import Disclosures
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.promise import RunPromise
from genesis.federated.rounds import Federation
from genesis.federated.secagg import masking
from genesis.federated.secure_answers import Answers
from genesis.federated.secure_shard import SecureShard
from genesis.federated.shard import Shard
from genesis.federated.transport.in_process import InProcessTransport
from genesis.models.tvae import TVAE
from genesis.privacy import client_guard, guard
from genesis.privacy.budget import Privacy
from genesis.privacy.client_guard import ClientGuard
from genesis.privacy.client_level import COUNTS, ROUNDS
from genesis.privacy.distributed import NoisySum, OneCohort
from genesis.privacy.events import SampledGaussian, Skellam, SkellamSum, Threshold, times
from genesis.privacy.ledger import Ledger
from genesis.privacy.noise import Noise
from genesis.privacy.report import in_words, spent_epsilon
from genesis.statistics import Question
from tests.dirty import QUICK, QUICK_TVAE, dirty_table
from tests.federated.lossy import secured
from tests.privacy.test_private_runs import Spy, promise, public_schema

Patch = pytest.MonkeyPatch
Lost = Callable[[str, Request], bool]

NAMES = ("a", "b", "c", "d")
COLUMNS = ["sex", "größe, cm", "visits", "région=?"]
TABLES = {name: dirty_table(60 + 10 * i, seed=i)[COLUMNS] for i, name in enumerate(NAMES)}
SCHEMA = public_schema(TABLES)
CONFIGS = {"ctgan": QUICK, "tvae": QUICK_TVAE}
UNITS, TRUSTS = ("record", "client"), ("local", "server", "distributed")
KEPT = [("record", "local"), ("record", "distributed"), ("client", "distributed")]
SHARED = [("record", "distributed"), ("client", "distributed")]
EPSILON = 4.0
ALPHA = 1e-7  # chance that a test of right noise fails


def wanted(unit: str, trust: str, **choices: Any) -> dict[str, Any]:
    small = {"insist": True, "max_grad_norm": 1e-3} if unit == "client" else {}
    return promise(**{"epsilon": EPSILON, "unit": unit, "trust": trust, **small, **choices})


class Wire(Spy):
    """Clients behind secure aggregation, of which all is kept that they send.

    Args:
        tables: Client id -> its rows.
        arguments: Of the shards.

    `lost` says which of their replies never arrive.
    """

    def __init__(self, tables: Mapping[str, pd.DataFrame] = TABLES, **arguments: Any) -> None:
        super().__init__(tables, **arguments)
        self.secured = secured(self.shards, required=True)
        self._inner = InProcessTransport(self.secured)
        self.lost: Lost = lambda *_: False

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        for reply in super().exchange(requests, timeout=timeout):
            if not self.lost(reply.client_id, requests[reply.client_id]):
                yield reply

    def guard(self, name: str = "a") -> Any:
        """What a client adds noise with."""
        return self.shards[name].promise._begun

    def spent(self, name: str = "a") -> Ledger:
        found: Ledger = self.guard(name).ledger
        return found


def federation(
    unit: str, trust: str, *, wire: Wire | None = None, method: str = "tvae", **choices: Any
) -> tuple[Federation, Wire]:
    """A run that has not begun."""
    wire = wire or Wire()
    chosen: dict[str, Any] = {"n_rounds": 2, "seed": 0, "secure_aggregation": True}
    chosen |= {"privacy": wanted(unit, trust), "config": CONFIGS[method], **choices}
    return Federation(Plan(method, **chosen), wire, schema=SCHEMA), wire


def run(unit: str, trust: str, **choices: Any) -> tuple[Federation, Wire]:
    begun, wire = federation(unit, trust, **choices)
    begun.run()
    return begun, wire


@cache
def usual(unit: str, trust: str) -> tuple[Federation, Wire]:
    """A run as it is shipped, which nobody changes."""
    return run(unit, trust)


class StoppedError(Exception):
    pass


class Stop:
    """Ends a run where its rounds would begin."""

    def on_run_start(self, _: Any) -> None:
        raise StoppedError

    def on_round_complete(self, *_: Any) -> None: ...

    def on_run_end(self, *_: Any) -> None: ...


def ready(unit: str, trust: str, **choices: Any) -> tuple[Federation, Wire]:
    """A run before its first round."""
    begun, wire = federation(unit, trust, **choices)
    begun.callbacks = (Stop(),)  # type: ignore[assignment]
    with pytest.raises(StoppedError):
        begun.run()
    return begun, wire


# --- kept or refused ---


@pytest.mark.parametrize("method", ["tvae", pytest.param("ctgan", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("unit", "trust"), list(itertools.product(UNITS, TRUSTS)))
def test_every_promise_is_kept_or_refused(method: str, unit: str, trust: str) -> None:
    if (unit, trust) not in KEPT:
        with pytest.raises(PlanError):
            Plan(method, privacy=wanted(unit, trust), secure_aggregation=True)
        return
    done, wire = usual(unit, trust) if method == "tvae" else run(unit, trust, method=method)
    report = done.privacy
    assert report is not None
    assert (report["unit"], report["trust"]) == (unit, trust)
    assert 0.9 * EPSILON < report["epsilon"] <= EPSILON
    assert spent_epsilon(json.loads(json.dumps(report))) == report["epsilon"]
    assert f"each {unit}" in in_words(report)
    for name in wire.shards:
        assert wire.spent(name).epsilon(report["delta"]) <= EPSILON
        if unit == "record":
            assert report["clients"][name]["ledger"] == wire.spent(name).to_list()
        else:
            assert report["ledger"] == wire.spent(name).to_list()


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"secure_aggregation": False}, "needs secure aggregation"),
        ({"encryption": "paillier"}, "bears none"),
        ({"secure_aggregation_bits": 24}, "sums of 32 bits"),
        ({"privacy": wanted("client", "server")}, "must see each client's update"),
        ({"aggregation": "weighted"}, "count alike"),
        ({"aggregation": "median"}, "nothing but sums"),
        ({"aggregation": "similarity"}, "which secure aggregation is there to hide"),
        ({"sync_every": 2}, "every round to be averaged"),
        ({"max_grad_norm": 1.0}, "clips updates itself"),
    ],
)
def test_choices_under_which_whole_clients_would_not_be_hidden(
    choices: dict[str, Any], says: str
) -> None:
    given = {"privacy": wanted("client", "distributed"), "secure_aggregation": True, **choices}
    with pytest.raises(PlanError, match=says):
        Plan("tvae", **given)


def test_records_hide_in_sums_that_bear_clients_who_help_the_server() -> None:
    choices = {"privacy": wanted("record", "distributed"), "secure_aggregation": True}
    Plan(secure_aggregation_bits=24, **choices)
    with pytest.raises(PlanError, match="bears none"):
        Plan(encryption="paillier", **choices)


@pytest.mark.parametrize("unit", UNITS)
def test_nobody_is_left_who_tells_nobody_its_noise(unit: str) -> None:
    with pytest.raises(PlanError, match="all of them might tell"):
        run(unit, "distributed", privacy=wanted(unit, "distributed", colluding=4))


def test_too_few_clients_are_refused_with_a_reason() -> None:
    with pytest.raises(FederationError, match="at least 3 clients"):
        run("record", "distributed", wire=Wire({name: TABLES[name] for name in NAMES[:2]}))
    with pytest.raises(PlanError, match="drown"):
        run("client", "distributed", privacy=promise(unit="client", trust="distributed"))


def test_a_round_of_some_of_the_clients_costs_as_much() -> None:
    tables = {name: dirty_table(40, seed=i)[COLUMNS] for i, name in enumerate("abcdef")}
    done, wire = run("client", "distributed", wire=Wire(tables), client_fraction=0.5, n_rounds=3)
    assert [len(report.clients) for report in done.reports] == [3, 3, 3]
    played = [wire.guard(name).rounds for name in tables]
    assert sum(played) == 9
    assert played == [sum(name in each.clients for each in done.reports) for name in tables]
    assert done.promise.ledger.events[1] == done.promise.noisy.event(3)  # type: ignore[union-attr]
    # Of three clients two are honest, and nobody can be drawn so that it costs less.
    assert done.promise.noisy.honest == 2  # type: ignore[union-attr]
    assert 0.9 * EPSILON < done.privacy["epsilon"] <= EPSILON  # type: ignore[index]


# --- every message ---

OF_SETUP = {
    "secure": {"key"},
    "roster": set(),
    "labels": {"labels", "private"},
    "prepare": {"rows", "parameters"},
    "finish": set(),
}
OF_SUMS = {"count": {"deviation"}, "train": set()}
OF_RECORDS = {"prepare": {"private", "spent"}, "train": {"spent"}}


def is_public_or_paid(unit: str, trust: str) -> None:
    """All that leaves a client is a step of a sum, is in its ledger, or tells nothing."""
    _, wire = usual(unit, trust)
    for name in wire.shards:
        said = [(q, r) for q, r in wire.heard if r.client_id == name]
        events, summed = wire.spent(name).events, []
        for request, reply in said:
            assert reply.error is None
            kind, may_say, arrays = request.kind, OF_SETUP, set()
            if kind == "sum":
                if "inner" in request.meta:
                    summed.append(request.meta["inner"])
                uploads = request.meta["step"] == masking.UPLOAD
                kind, may_say, arrays = summed[-1]["kind"] if uploads else "", OF_SUMS, {"message"}
            of_records = OF_RECORDS.get(kind, set()) if unit == "record" else set()
            assert set(reply.meta) == may_say.get(kind, set()) | of_records
            assert set(reply.arrays) == arrays
            assert reply.meta.get("labels", {}) == {}  # the schema states all of them
            assert reply.meta.get("rows") is None
        asked = [each["meta"]["questions"] for each in summed if each["kind"] == "count"]
        vectors = sum(len({(q["column"], q.get("decimals")) for q in each}) for each in asked)
        rounds = sum(each["kind"] == "train" for each in summed)
        assert len(events) == 2
        counts, steps = events
        if unit == "record":
            assert isinstance(counts, Skellam)
            assert isinstance(steps, SampledGaussian)
            assert vectors + (2 if trust == "distributed" else 1) <= counts.count
            assert steps.steps == rounds * wire.guard(name).training.steps
            heard = [r.meta["deviation"] for _, r in said if "deviation" in r.meta]
            honest = math.sqrt(3) if trust == "distributed" else 1  # one of four may collude
            assert heard == [pytest.approx(counts.deviation / honest)] * len(heard)
        else:
            assert isinstance(counts, SkellamSum)
            assert isinstance(steps, SkellamSum)
            assert (counts.purpose, steps.purpose) == (COUNTS, ROUNDS)
            assert vectors <= counts.count
            assert steps.count == rounds


def ledgers_agree(unit: str, trust: str) -> None:
    """The server's, and each client's own."""
    done, wire = usual(unit, trust)
    for name in wire.shards:
        if unit == "client":
            assert done.promise.ledger == wire.spent(name)
            assert times(done.promise.ledger.events[1]) == done.n_rounds
        else:
            assert done.promise.clients[name]["ledger"] == wire.spent(name).to_list()


def nobody_can_repeat_it(unit: str, trust: str) -> None:
    """Neither the seed of the plan nor that of this process tells the noise."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        with pytest.MonkeyPatch.context() as patch:
            totals = recorded_totals(patch)
            ready(unit, trust)
            found.append(totals[0].total)
    assert (found[0] != found[1]).mean() > 0.9


def recorded_totals(patch: Patch) -> list[Any]:
    """What the server learns of sums from now on."""
    found: list[Any] = []
    shipped = sums.SecureSums._total

    def total(self: Any, *given: Any) -> Any:
        found.append(shipped(self, *given))
        return found[-1]

    patch.setattr(sums.SecureSums, "_total", total)
    return found


def test_labels_that_no_schema_states_have_all_of_their_noise() -> None:
    wire = Wire()
    begun, _ = federation("record", "distributed", wire=wire)
    begun.schema, begun.callbacks = None, (Stop(),)  # type: ignore[assignment]
    with pytest.raises(StoppedError):
        begun.run()
    for name, table in TABLES.items():
        counts, labels = wire.spent(name).events
        local = guard.Guard(Privacy(EPSILON))
        local.begin(Schema.infer(table).without_values().settle())
        assert isinstance(labels, Threshold)
        assert labels == local._planned.events[1]
        assert isinstance(counts, Skellam)


# --- noise ---


def is_variance(drawn: npt.NDArray[Any], variance: float) -> bool:
    """Whether Skellam numbers, which are all but normal ones, may have a variance."""
    square = np.square(drawn.astype(float)).sum() / variance
    chance = stats.chi2.cdf(square, drawn.size)
    return bool(ALPHA < chance < 1 - ALPHA)


def noise_of_counts_is_enough(unit: str, trust: str) -> None:
    """The server's sums less the exact ones, and less what two colluding clients know of it."""
    with pytest.MonkeyPatch.context() as patch:
        totals, sent = recorded_totals(patch), recorded_vectors(patch)
        begun, wire = ready(unit, trust, privacy=wanted(unit, trust, colluding=2))
    labels = next(q.meta["schema"] for q, _ in wire.heard if q.kind == "labels")
    asked = [
        q.meta["inner"]["meta"]["questions"]
        for q, r in wire.heard
        if q.kind == "sum" and "inner" in q.meta and r.client_id == "a"
    ]
    everything, honest = [], []
    for questions, total in zip(asked, (each.total for each in totals), strict=True):
        known = {name: exact_counts(name, labels, questions, unit) for name in NAMES}
        mine = {name: vector.view(np.int64)[:-1] for name, vector in sent.pop(0).items()}
        noise = total[:-1] - sum(known.values())
        everything.append(noise)
        honest.append(noise - sum(mine[name] - known[name] for name in ("b", "d")))
    (event,) = wire.spent().events
    if isinstance(event, Skellam):
        variance = event.deviation**2
    else:
        assert isinstance(event, SkellamSum)
        variance = (event.noise_multiplier * event.l2) ** 2
    assert len(np.concatenate(everything)) > 500
    # Two of the four tell nobody: all of them together have twice the noise that was planned.
    assert is_variance(np.concatenate(honest), variance)
    assert is_variance(np.concatenate(everything), 4 / 2 * variance)
    if unit == "client":
        assert begun.promise.ledger == wire.spent()


def recorded_vectors(patch: Patch) -> list[dict[str, Any]]:
    """What clients put into sums from now on."""
    found: list[dict[str, Any]] = []
    shipped = Answers.vector

    def vector(self: Answers, inner: Request, sum: Any, reply: Reply) -> Any:
        if not found or reply.client_id in found[-1]:
            found.append({})
        found[-1][reply.client_id] = shipped(self, inner, sum, reply)
        return found[-1][reply.client_id]

    patch.setattr(Answers, "vector", vector)
    return found


def exact_counts(name: str, schema: Any, questions: Any, unit: str) -> npt.NDArray[np.int64]:
    """A client's counts without noise; of a client that hides as a whole, its weighted ones."""
    shard = Shard(name, TABLES[name], device="cpu")
    shard.handle(Request("labels", meta={"schema": schema}))
    reply = shard.handle(Request("count", meta={"questions": questions}))
    counts: npt.NDArray[np.int64] = reply.arrays["counts"]
    return counts * client_guard.WEIGHT // len(TABLES[name]) if unit == "client" else counts


def noise_of_updates_is_enough(unit: str, trust: str) -> None:
    """The server's sum less the clients' changes, and less what one of them knows of the noise."""
    assert unit == "client"
    changes: list[npt.NDArray[np.float64]] = []
    shipped = ClientGuard.change

    def change(self: ClientGuard, change: Any, **given: Any) -> Any:
        changes.append(change.astype(np.float64))
        return shipped(self, change, **given)

    begun, wire = ready(unit, trust)
    before = begun.state.vector.clone()  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        totals, sent = recorded_totals(patch), recorded_vectors(patch)
        patch.setattr(ClientGuard, "change", change)
        begun._play(0)
    planned: NoisySum = wire.guard().sum
    assert planned == begun.promise.noisy
    exact = [
        each * min(planned.max_norm / np.linalg.norm(each), 1) * planned.scale for each in changes
    ]
    total, mine = totals[0].total, sent[0]["d"].view(np.int32)
    event = wire.spent().events[-1]
    assert isinstance(event, SkellamSum)
    variance = (event.noise_multiplier * event.l2) ** 2
    assert variance > 1e6  # of which rounding is no part
    # Of four clients three have to be in the sum, and one of them may tell: half of all noise.
    assert is_variance(total - sum(exact), 4 / 2 * variance)
    assert is_variance(total - mine - sum(exact[:3]), 3 / 2 * variance)
    # What becomes of it is a mean, clients count alike, and whoever has no share is not in it.
    moved = begun.state.vector - before  # type: ignore[union-attr]
    mean = total / (planned.scale * 4)
    assert np.allclose(moved.numpy(), mean, atol=1e-6 + 1e-6 * np.abs(mean).max())


# --- rounds are paid ---


def every_try_is_paid(unit: str, trust: str) -> None:
    """A round that failed costs as much as one that did not, and in the end there is none left."""
    assert unit == "client"
    begun, wire = ready(unit, trust)

    def lost(name: str, request: Request) -> bool:
        return request.meta.get("step") == masking.UPLOAD and name in ("a", "b")

    wire.lost = lost
    with pytest.raises(FederationError, match="too few clients are left"):
        begun._play(0)
    assert begun.promise.ledger == wire.spent()
    assert [wire.guard(name).rounds for name in NAMES] == [1] * 4
    wire.lost = lambda *_: False
    begun._play(0)
    assert begun.promise.ledger == wire.spent()
    assert [wire.guard(name).rounds for name in NAMES] == [2] * 4
    assert wire.spent().epsilon(1e-5) <= EPSILON
    with pytest.raises(PrivacyError, match="more than was promised"):
        begun._play(1)
    begun.promise.pay_round = lambda: None  # type: ignore[method-assign]
    with pytest.raises(FederationError, match="more rounds than the promise"):
        begun._play(1)
    assert [wire.guard(name).rounds for name in NAMES] == [2] * 4


def no_round_after_the_last(unit: str, trust: str) -> None:
    """Whatever the server says of how many there are."""
    assert unit == "client"
    begun, wire = run(unit, trust)
    begun.promise.pay_round = lambda: None  # type: ignore[method-assign]
    wire.heard.clear()
    for rounds in (2, 3):
        begun.plan = replace(begun.plan, n_rounds=rounds)
        with pytest.raises(FederationError, match=r"more rounds than|other rounds were planned"):
            begun._play(2)
    uploads = [r for q, r in wire.heard if q.meta.get("step") == masking.UPLOAD]
    assert len(uploads) == 8
    assert all(is_refused(reply) for reply in uploads)


# --- a server that means harm ---


def is_refused(reply: Reply) -> bool:
    """Whether nothing but a refusal leaves."""
    refused = reply.meta.get("error_type") in ("PrivacyError", "FederationError")
    return refused and bool(reply.error) and set(reply.meta) == {"error_type"} and not reply.arrays


def asked_of(wire: Wire, kind: str) -> Request:
    """What the first client was asked first: in the clear, or inside of a sum."""
    for request, reply in wire.heard:
        inner = request.meta.get("inner") or {}
        if reply.client_id == "a" and inner.get("kind") == kind:
            return Request(kind, inner["round"], inner["meta"])
        if reply.client_id == "a" and request.kind == kind:
            return request
    raise AssertionError(f"{kind} was not asked")


def uploads(wire: Wire) -> list[Reply]:
    """What clients said when they were to send their vectors."""
    return [r for q, r in wire.heard if q.meta.get("step") == masking.UPLOAD]


COLLECT = Request("collect", meta={"send": None, "max_grad_norm": None, "clip_per_layer": False})


def nothing_leaves_in_the_clear(unit: str, trust: str) -> None:
    """Where sums were agreed on, it is a sum or nothing."""
    begun, wire = ready(unit, trust)
    before = wire.spent()
    train = begun._training_requests(0, ["a"])["a"]
    for request in (asked_of(wire, "count"), train, COLLECT):
        assert is_refused(wire.secured["a"].handle(request)), request.kind
    assert wire.spent() == before


def a_share_needs_a_sum(unit: str, trust: str) -> None:
    """A client that nobody secures notices: the server may not even have begun a session."""
    begun, wire = ready(unit, trust)
    asked = [asked_of(wire, "count"), begun._training_requests(0, ["a"])["a"], COLLECT]
    bare = Shard("a", TABLES["a"], device="cpu", guarded=True)
    assert bare.handle(asked_of(wire, "labels")).error is None
    before = bare.promise.memory()
    assert is_refused(bare.handle(asked[0]))
    assert bare.promise.memory() == before
    if unit == "client":  # what is trained where records are hidden is private by itself
        bare.promise.whole.restore(wire.guard().to_dict())  # type: ignore[union-attr]
        assert bare.handle(asked_of(wire, "prepare")).error is None
        assert is_refused(bare.handle(asked[1]))
        assert is_refused(bare.handle(asked[2]))
        assert bare.promise.memory()["ledger"] == wire.spent().to_list()  # type: ignore[index]


def counts_are_summed_over_everybody(unit: str, trust: str) -> None:
    """Else two sums tell of those in which they differ, behind two shares of noise."""
    begun, wire = ready(unit, trust)
    assert begun._sums is not None
    count, labels, before = asked_of(wire, "count"), asked_of(wire, "labels"), wire.spent()
    wire.heard.clear()
    numbers = {name: begun.clients.numbers[name] for name in NAMES[:3]}
    begun._sums.clients = replace(begun.clients, numbers=numbers)
    with pytest.raises(FederationError, match="of some of the clients only"):
        begun._sums.counts(count, 1)
    assert len(wire.heard) == 3
    assert all(is_refused(reply) for _, reply in wire.heard)
    # The guard behind knows it too, and has not paid for more than it allows.
    wire.guard()._released = 1
    assert wire.shards["a"].handle(labels).error is None
    for cohort in (NAMES[:3], (*NAMES, "e"), (*NAMES[:3], "e")):
        assert is_refused(wire.shards["a"].handle(replace(count, local={"cohort": cohort})))
    assert wire.spent() == before


def counts_are_those_that_were_planned(unit: str, trust: str) -> None:
    """Neither of another schema nor more of the same."""
    _, wire = ready(unit, trust)
    count, labels, before = asked_of(wire, "count"), asked_of(wire, "labels"), wire.spent()
    other = Schema((replace(SCHEMA["sex"], categories=("Male",)), *list(SCHEMA)[1:])).to_dict()
    weaker = wanted(unit, trust, epsilon=50.0)
    for changed in ({"schema": other}, {"privacy": weaker}, {"privacy": None}, {"run": "other"}):
        asked = replace(labels, meta={**labels.meta, **changed})
        assert is_refused(wire.secured["a"].handle(asked)), changed
        assert wire.shards["a"]._statistics is None
        assert wire.spent() == before
    assert wire.shards["a"].handle(labels).error is None
    left = before.events[0].count - wire.guard()._released  # type: ignore[union-attr]
    for number in range(left + 2):
        question = Question("sex", labels=(str(number),)).to_dict()
        meta = {**count.meta, "questions": [question]}
        reply = wire.shards["a"].handle(Request("count", meta=meta, local={"cohort": NAMES}))
        assert is_refused(reply) == (number >= left)
    assert wire.spent() == before


def rounds_are_those_that_were_planned(unit: str, trust: str) -> None:
    """The first says how many there are and how many are asked; no other is of fewer, or more."""
    assert unit == "client"
    begun, wire = ready(unit, trust)
    begun._play(0)
    wire.heard.clear()
    begun.promise.pay_round = lambda: None  # type: ignore[method-assign]
    with pytest.raises(FederationError, match="other rounds were planned"):
        begun._combine(begun._training_requests(1, list(NAMES[:3])), "", lambda _: None)
    assert len(uploads(wire)) == 3
    begun.plan = replace(begun.plan, n_rounds=4)
    with pytest.raises(FederationError, match="other rounds were planned"):
        begun._combine(begun._training_requests(1, list(NAMES)), "", lambda _: None)
    assert len(uploads(wire)) == 7
    assert all(is_refused(reply) for reply in uploads(wire))
    assert times(wire.spent().events[-1]) == 1


def no_round_is_played_twice(unit: str, trust: str) -> None:
    begun, wire = ready(unit, trust)
    begun._play(0)
    before = wire.spent()
    wire.heard.clear()
    with pytest.raises(FederationError, match="a second time for round 1"):
        begun._combine(begun._training_requests(0, list(NAMES[:3])), "", lambda _: None)
    assert len(wire.heard) == 3
    assert all(is_refused(reply) for _, reply in wire.heard)
    assert wire.spent() == before


def nothing_is_collected(unit: str, trust: str) -> None:
    """No round is paid for in which a client sends what it trained, all but itself."""
    assert unit == "client"
    begun, wire = ready(unit, trust)
    begun._play(0)
    wire.heard.clear()
    with pytest.raises(FederationError, match="a second time"):
        begun._combine(dict.fromkeys(NAMES, COLLECT), "", lambda _: None)
    assert all(is_refused(reply) for _, reply in wire.heard)
    in_a_sum = replace(COLLECT, local={"cohort": NAMES, "threshold": 3})
    assert is_refused(wire.shards["a"].handle(in_a_sum))
    assert times(wire.spent().events[-1]) == 1


def nobody_hears_that_training_diverged(unit: str, trust: str) -> None:
    """It depends on a client's rows: who is hidden as a whole sends noise alone."""
    assert unit == "client"
    begun, wire = ready(unit, trust)
    with pytest.MonkeyPatch.context() as patch:
        shipped = TVAE.train

        def train(self: TVAE, rows: Any, local: Any) -> dict[str, float]:
            if self is wire.shards["b"]._model:
                raise TrainingError("training diverged")
            return shipped(self, rows, local)

        patch.setattr(TVAE, "train", train)
        report = begun._play(0)
    assert report.clients == NAMES
    assert not report.failed
    assert wire.guard("b").rounds == 1


# --- checks, and bugs in what they check ---

Check = Callable[[str, str], None]
Bug = Callable[[Patch], None]

OF_BOTH: list[Check] = [
    is_public_or_paid,
    ledgers_agree,
    nobody_can_repeat_it,
    noise_of_counts_is_enough,
    nothing_leaves_in_the_clear,
    a_share_needs_a_sum,
    counts_are_summed_over_everybody,
    counts_are_those_that_were_planned,
    no_round_is_played_twice,
]
OF_CLIENTS: list[Check] = [
    noise_of_updates_is_enough,
    every_try_is_paid,
    no_round_after_the_last,
    rounds_are_those_that_were_planned,
    nothing_is_collected,
    nobody_hears_that_training_diverged,
]
OF_ALL: list[Check] = [is_public_or_paid, ledgers_agree, nothing_leaves_in_the_clear]
SHIPPED = [
    *itertools.product(OF_BOTH, SHARED),
    *itertools.product(OF_CLIENTS, SHARED[1:]),
    *itertools.product(OF_ALL, KEPT[:1]),
]


def shares_are_not_added(patch: Patch) -> None:
    for place in (guard, client_guard):
        patch.setattr(place, "noisy_counts", lambda counts, *_: counts)
    patch.setattr(Noise, "skellam", lambda _, n, __: np.zeros(n, np.int64))


def shares_for_all_clients(patch: Patch) -> None:
    patch.setattr(Privacy, "honest", lambda _, clients, *__: clients)


def shares_for_all_who_come(patch: Patch) -> None:
    patch.setattr(Privacy, "honest", lambda _, *given: given[-1])


def noise_comes_from_a_seed(patch: Patch) -> None:
    def init(self: Noise) -> None:
        self._entropy = np.random.default_rng(0).bytes
        self._uniform = np.empty(0, np.float32)

    patch.setattr(Noise, "__init__", init)


def cohort_is_not_checked(patch: Patch) -> None:
    patch.setattr(OneCohort, "size", lambda _, cohort: len(cohort))


def a_sum_is_not_asked_for(patch: Patch) -> None:
    shipped = OneCohort.size
    patch.setattr(OneCohort, "size", lambda self, cohort: shipped(self, cohort or NAMES))


def size_of_a_round_is_not_checked(patch: Patch) -> None:
    shipped = ClientGuard.plan_rounds

    def plan(self: ClientGuard, *given: Any, **named: Any) -> NoisySum:
        return self.sum or shipped(self, *given, **named)

    def change(self: ClientGuard, change: Any, **_: Any) -> Any:
        assert self.sum is not None
        self._spend(self.sum.event())
        return self.sum.encode(change, self._noise)

    patch.setattr(ClientGuard, "plan_rounds", plan)
    patch.setattr(ClientGuard, "change", change)


def round_is_not_paid(patch: Patch) -> None:
    shipped = ClientGuard._spend

    def spend(self: ClientGuard, event: SkellamSum) -> None:
        if event.purpose != ROUNDS:
            shipped(self, event)

    patch.setattr(ClientGuard, "_spend", spend)


def server_pays_no_round(patch: Patch) -> None:
    patch.setattr(RunPromise, "pay_round", lambda _: None)


def server_pays_no_counts(patch: Patch) -> None:
    patch.setattr(RunPromise, "pay_counts", lambda *_: None)


def vectors_are_not_counted(patch: Patch) -> None:
    patch.setattr(guard, "check_disjoint", lambda _: 0)
    patch.setattr(client_guard, "check_disjoint", lambda _: 0)


def promise_is_taken_again(patch: Patch) -> None:
    shipped = ClientPromise.take

    def take(self: ClientPromise, meta: Mapping[str, Any]) -> None:
        self.guard = self.whole = None
        shipped(self, meta)

    patch.setattr(ClientPromise, "take", take)


def shard_is_asked(patch: Patch) -> None:
    shipped = SecureShard._in_the_clear

    def asked(self: SecureShard, request: Request) -> Reply:
        hidden = request.kind in secure_shards.SUMMED
        return self.shard.handle(request) if hidden else shipped(self, request)

    patch.setattr(SecureShard, "_in_the_clear", asked)


def too_much_is_told(patch: Patch) -> None:
    patch.setattr(secure_shards, "TOLD", (*secure_shards.TOLD, "rows", "metrics"))


def rounds_may_come_again(patch: Patch) -> None:
    patch.setattr(Disclosures, "reveal", lambda *_: None)


def failures_are_told(patch: Patch) -> None:
    patch.setattr(Shard, "_learn", lambda _, model, *given: model.train(*given))


def anything_is_collected(patch: Patch) -> None:
    def collect(self: Shard, request: Request) -> Reply:
        model, _ = self._ready()
        sent, _ = self._trained(model, request.meta)
        whole = sent.numpy().view(np.uint32)
        return Reply(self.client_id, meta={"metrics": {}}, arrays={"vector": whole})

    patch.setattr(Shard, "_collect", collect)


RECORD, CLIENT = SHARED
BUGS: list[tuple[Check, tuple[str, str], Bug]] = [
    (is_public_or_paid, RECORD, too_much_is_told),
    (is_public_or_paid, CLIENT, round_is_not_paid),
    (ledgers_agree, CLIENT, server_pays_no_round),
    (ledgers_agree, CLIENT, server_pays_no_counts),
    (nobody_can_repeat_it, RECORD, noise_comes_from_a_seed),
    (nobody_can_repeat_it, CLIENT, noise_comes_from_a_seed),
    (noise_of_counts_is_enough, RECORD, shares_are_not_added),
    (noise_of_counts_is_enough, CLIENT, shares_are_not_added),
    (noise_of_counts_is_enough, RECORD, shares_for_all_clients),
    (noise_of_counts_is_enough, CLIENT, shares_for_all_clients),
    (noise_of_updates_is_enough, CLIENT, shares_are_not_added),
    (noise_of_updates_is_enough, CLIENT, shares_for_all_clients),
    (noise_of_updates_is_enough, CLIENT, shares_for_all_who_come),
    (every_try_is_paid, CLIENT, round_is_not_paid),
    (every_try_is_paid, CLIENT, server_pays_no_round),
    (no_round_after_the_last, CLIENT, round_is_not_paid),
    (nothing_leaves_in_the_clear, RECORD, shard_is_asked),
    (nothing_leaves_in_the_clear, ("record", "local"), shard_is_asked),
    (a_share_needs_a_sum, RECORD, a_sum_is_not_asked_for),
    (a_share_needs_a_sum, CLIENT, a_sum_is_not_asked_for),
    (counts_are_summed_over_everybody, RECORD, cohort_is_not_checked),
    (counts_are_summed_over_everybody, CLIENT, cohort_is_not_checked),
    (counts_are_those_that_were_planned, RECORD, vectors_are_not_counted),
    (counts_are_those_that_were_planned, CLIENT, vectors_are_not_counted),
    (counts_are_those_that_were_planned, CLIENT, promise_is_taken_again),
    (rounds_are_those_that_were_planned, CLIENT, size_of_a_round_is_not_checked),
    (no_round_is_played_twice, RECORD, rounds_may_come_again),
    (no_round_is_played_twice, CLIENT, rounds_may_come_again),
    (nothing_is_collected, CLIENT, anything_is_collected),
    (nobody_hears_that_training_diverged, CLIENT, failures_are_told),
]


def _name(part: Any) -> str:
    return " ".join(part) if isinstance(part, tuple) else str(part.__name__)


@pytest.mark.parametrize(("check", "promised"), SHIPPED, ids=_name)
def test_what_is_shipped_passes(check: Check, promised: tuple[str, str]) -> None:
    check(*promised)


def _slow_of_records(bugs: list[Any]) -> list[Any]:
    """Runs that hide records take several times as long."""
    return [
        pytest.param(*each, marks=pytest.mark.slow if each[1][0] == "record" else [])
        for each in bugs
    ]


@pytest.mark.parametrize(("check", "promised", "plant"), _slow_of_records(BUGS), ids=_name)
def test_what_is_planted_is_found(
    check: Check, promised: tuple[str, str], plant: Bug, monkeypatch: Patch
) -> None:
    usual.cache_clear()
    plant(monkeypatch)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check(*promised)
    finally:
        usual.cache_clear()


# --- what is kept ---


@pytest.mark.parametrize("unit", UNITS)
def test_a_resumed_run_has_the_ledger_of_a_straight_one(tmp_path: Path, unit: str) -> None:
    choices: dict[str, Any] = {"n_rounds": 3, "local_epochs": 1, "seed": 3, "schema": SCHEMA}
    choices |= {"privacy": wanted(unit, "distributed"), "secure_aggregation": True}
    straight = FederatedSynthesizer("tvae", QUICK_TVAE, **choices).fit(TABLES)

    broken = FederatedSynthesizer(
        "tvae", QUICK_TVAE, callbacks=[CheckpointCallback(tmp_path)], **choices
    )

    @broken.on_round_complete
    def crash(round_num: int) -> None:
        if round_num == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        broken.fit(TABLES)
    resumed = FederatedSynthesizer("tvae", QUICK_TVAE, **choices).fit(TABLES, resume_from=tmp_path)
    assert resumed.privacy is not None
    assert straight.privacy is not None
    assert 0.9 * EPSILON < spent_epsilon(resumed.privacy) <= EPSILON  # type: ignore[operator]
    if unit == "client":
        assert resumed.privacy == straight.privacy
        return
    for name, client in resumed.privacy["clients"].items():
        counts, steps = client["ledger"]
        assert counts == straight.privacy["clients"][name]["ledger"][0]
        assert steps["steps"] % 3 == 0


@pytest.mark.parametrize("unit", UNITS)
def test_a_model_file_tells_what_was_promised(tmp_path: Path, unit: str) -> None:
    choices: dict[str, Any] = {"n_rounds": 1, "seed": 0, "schema": SCHEMA}
    choices |= {"privacy": wanted(unit, "distributed", colluding=1), "secure_aggregation": True}
    trained = FederatedSynthesizer("tvae", QUICK_TVAE, **choices).fit(TABLES)
    trained.save(tmp_path / "a.model")
    loaded = Synthesizer.load(tmp_path / "a.model")
    assert loaded.privacy == json.loads(json.dumps(trained.privacy))
    assert loaded.epsilon == trained.epsilon == spent_epsilon(loaded.privacy)  # type: ignore[arg-type]
    assert loaded.privacy is not None
    assert "1 of the clients" in loaded.privacy["protects"]
    assert len(loaded.generate(20)) == 20
