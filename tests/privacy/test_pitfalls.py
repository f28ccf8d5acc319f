"""The fifteen mistakes of docs/pitfalls.md: a check for each, and bugs that each check must find.

A check passes on what is shipped. A bug is planted in what is shipped, as somebody might write it,
and the same check must then fail: a check that finds nothing proves nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from genesis import FederatedSynthesizer, Schema, Synthesizer
from genesis.classifier import Classifier
from genesis.codes import Codes, Layout
from genesis.encoding.encoder import Encoder
from genesis.errors import GenesisError, PlanError, TrainingError
from genesis.evaluation.mechanism import Mechanism
from genesis.federated import (
    CheckpointCallback,
    EarlyStopping,
    agreement,
    promise,
    shard,
)
from genesis.federated.callbacks import Callback
from genesis.federated.clients import Clients
from genesis.federated.messages import Reply, Request, Update
from genesis.federated.plan import Plan
from genesis.federated.promise import RunPromise
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.transport.in_process import InProcessTransport
from genesis.models import LocalTraining, create_model, flat
from genesis.models.ctgan import CTGAN
from genesis.models.rows import TrainingRows
from genesis.models.sampler import ReleasedSampler, RowSampler
from genesis.privacy import client_level, one_table, report
from genesis.privacy import guard as guards
from genesis.privacy import noise as noises
from genesis.privacy.budget import Privacy
from genesis.privacy.client_level import Adaptive, NoisyMean
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.events import (
    Gaussian,
    SampledGaussian,
    Skellam,
    Threshold,
    event_from_dict,
    times,
)
from genesis.privacy.guard import Guard
from genesis.privacy.histograms import check_disjoint, noisy_counts
from genesis.privacy.ledger import Ledger, LedgerFile
from genesis.privacy.noise import Noise, repeatable_noise
from genesis.statistics import Question, ShardStatistics
from tests.evaluation import test_mechanism as steps
from tests.privacy.test_private_runs import Spy, public_schema
from tests.privacy.test_private_runs import promise as promised

Patch = pytest.MonkeyPatch
Check = Callable[[Path], None]
Bug = Callable[[Patch], None]

CHECKS: dict[int, list[Check]] = {}
BUGS: list[tuple[int, Bug]] = []


def check(n: int) -> Callable[[Check], Check]:
    """That fails if mistake n is made; there may be several."""

    def keep(function: Check) -> Check:
        CHECKS.setdefault(n, []).append(function)
        return function

    return keep


def bug(n: int) -> Callable[[Bug], Bug]:
    """That makes mistake n."""

    def keep(plant: Bug) -> Bug:
        BUGS.append((n, plant))
        return plant

    return keep


# --- what the checks share ---

TINY = {
    "tvae": {"epochs": 1, "batch_size": 50, **steps.TINY["tvae"]},
    "ctgan": {"epochs": 1, "batch_size": 50, **steps.TINY["ctgan"]},
}
LAYOUT = Layout((3,), (4,))
ROWS = 151
"""A prime: what has as many numbers, or a multiple of it, was made of the rows."""


def table(n: int = ROWS, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": np.round(rng.normal(50, 10, n), 1),
            "c": rng.choice(["a", "b", "c"], n),
            "y": rng.random(n) < 0.4,
        }
    )


TABLES = {"one": table(75, 1), "two": table(76, 2)}


@contextmanager
def noise_of(seed: int) -> Iterator[None]:
    """Noise of clients and tables that is the same in every run."""
    seeds = itertools.count(1000 * seed)
    with Patch.context() as patch:
        patch.setattr(guards, "Noise", lambda: repeatable_noise(next(seeds)))
        yield


def refused(call: Callable[[], object]) -> bool:
    """Whether something raises, and says why."""
    try:
        call()
    except GenesisError:
        return True
    return False


def federation(
    privacy: Any,
    spy: Any = None,
    method: str = "tvae",
    schema: Schema | None = None,
    **choices: Any,
) -> Federation:
    """One that has not run yet."""
    callbacks = choices.pop("callbacks", ())
    plan = Plan(method, TINY[method], privacy=privacy, seed=0, **{"n_rounds": 1, **choices})
    return Federation(plan, spy or Spy(TABLES), callbacks, schema)


def begun(privacy: Privacy, seed: int = 3, **arguments: Any) -> tuple[Guard, ShardStatistics]:
    """A guard that has released all statistics of a table."""
    guard = Guard(privacy, noise=repeatable_noise(seed), **arguments)
    rows = table()
    schema = one_table.schema_of(rows, None, (), private=True)
    statistics = ShardStatistics(schema, schema.conform(rows))
    one_table.pooled_statistics(statistics, len(rows), guard)
    return guard, statistics


def gradient_of(method: str, rows: Codes, private: PrivateSteps, **config: Any) -> torch.Tensor:
    """What one step adds up to."""
    model = create_model(method, LAYOUT, {**steps.TINY[method], **config}, seed=1)
    local = LocalTraining(1, 8, (0,), learning_rate_scale=0.0, private=private)
    model.train(rows, local)
    return model.mean_gradient().double() * private.batch_size


def some_codes(n: int, seed: int = 0) -> Codes:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(width, size=n) for width in LAYOUT.block_widths], axis=1)
    return Codes(rng.uniform(-1, 1, (n, 1)).astype(np.float32), codes.astype(np.int32))


def audited(method: str) -> Mechanism:
    """The one-step audit with few trials."""
    return steps.audited(method, 20)


# --- 1: a term of the loss outside the clip ---


@check(1)
def every_term_is_clipped(_: Path) -> None:
    for method in ("tvae", "ctgan"):
        for canary in audited(method).canaries:
            assert canary.sensitivity <= 1.001
            assert canary.low <= 1


bug(1)(steps.penalty_outside_the_clip)
bug(1)(steps.sigma_outside_the_clip)


# --- 2: the mean of a batch is clipped ---


@check(2)
def every_record_is_clipped(_: Path) -> None:
    found = audited("tvae")
    assert {canary.kind for canary in found.canaries} == {"extreme", "large"}
    for canary in found.canaries:
        assert canary.sensitivity <= 1.001
        assert canary.low <= 1


bug(2)(steps.clipping_of_the_mean)
bug(2)(steps.clipping_of_the_sum)
bug(2)(steps.clipping_of_every_layer)
bug(2)(steps.no_clipping)


# --- 3: batches that are no Poisson samples ---


@check(3)
def batches_are_poisson_samples(_: Path) -> None:
    found = audited("tvae").batches
    assert found.poisson
    assert found.counted
    for sampling in ("shuffled", "fixed", "with replacement"):
        assert refused(lambda sampling=sampling: SampledGaussian(1.0, 0.1, 5, "", sampling))
        written = {"kind": "sampled_gaussian", "noise_multiplier": 1.0, "sample_rate": 0.1}
        written |= {"steps": 5, "sampling": sampling}
        assert refused(lambda written=written: event_from_dict(written))


bug(3)(steps.shuffled_batches)
bug(3)(steps.batches_of_one_size)
bug(3)(steps.batches_with_replacement)
bug(3)(steps.batches_cut_to_size)


@bug(3)
def ledger_of_any_sampling(patch: Patch) -> None:
    patch.setattr(SampledGaussian, "__post_init__", lambda _: None)


# --- 4: the wrong scale of noise ---


@check(4)
def noise_is_as_large_as_is_written(_: Path) -> None:
    found = audited("tvae")
    assert found.noise.right
    assert found.empty.right
    zeros = np.zeros(40_000, dtype=np.int64)
    assert abs(noisy_counts(zeros, 7.0, repeatable_noise(1)).std() / 7 - 1) < 0.02
    assert abs(guards.noisy_counts(zeros, 7.0, repeatable_noise(1)).std() / 7 - 1) < 0.02
    zero = torch.zeros(40_000)
    for n in (0, 3):  # of 10 clients that were expected
        mean = NoisyMean(2.0, 0.5, 10.0)
        moved = mean.combine(zero, torch.zeros(n, len(zero)), repeatable_noise(2))
        assert abs(float(moved.std()) / (2.0 * 0.5 / 10) - 1) < 0.02


bug(4)(steps.noise_by_root_of_batch)
bug(4)(steps.noise_after_division)
bug(4)(steps.no_noise_on_empty_batches)


@bug(4)
def deviation_for_variance(patch: Patch) -> None:
    def noisy(counts: Any, deviation: float, noise: Noise) -> Any:
        return counts + noise.skellam(len(counts), deviation)

    patch.setattr(guards, "noisy_counts", noisy)


@bug(4)
def mean_over_the_clients_that_came(patch: Patch) -> None:
    combine = NoisyMean.combine

    def combined(self: NoisyMean, vector: Any, vectors: Any, noise: Noise) -> Any:
        self.expected = max(len(vectors), 1)
        return combine(self, vector, vectors, noise)

    patch.setattr(NoisyMean, "combine", combined)


# --- 5: encoder, bounds or categories from the rows ---

NEIGHBOURS = {
    "outlier": {"x": 1e30, "c": "a", "y": True},
    "small one": {"x": -1e-30, "c": "a", "y": True},
    "many decimals": {"x": 48.123456789, "c": "a", "y": True},
    "rare label": {"x": 50.0, "c": "rare", "y": True},
}
EPSILON = 20.0
"""So large that all but single rows shows."""


def agreed(rows: pd.DataFrame) -> tuple[dict[str, Any], Encoder]:
    """What a client says of its columns, and the encoder that comes of its counts."""
    with noise_of(1):
        clients = Clients(InProcessTransport({"one": Shard("one", rows)}), {"one": 0}, 60.0, 1)
        kept = RunPromise(Privacy(EPSILON), public_schema=False)
        described = agreement.agree_on_schema(clients, (), private=True)
        return described.to_dict(), agreement.fit_encoder(clients, described, 1000, kept)


def learnt(rows: pd.DataFrame) -> tuple[dict[str, Any], Encoder]:
    """The same of a table alone."""
    schema = one_table.schema_of(rows, None, (), private=True)
    guard = Guard(Privacy(EPSILON), noise=repeatable_noise(1000))
    statistics = ShardStatistics(schema, schema.conform(rows))
    pooled = one_table.pooled_statistics(statistics, len(rows), guard)
    return schema.to_dict(), Encoder.fit(pooled)


def released(encoder: Encoder) -> list[Any]:
    """What is known of each column, but for counts."""
    known: list[Any] = [encoder.schema.to_dict(), encoder.layout]
    for encoding in encoder.encodings:
        if encoding.kind == "numeric":
            known.append((encoding.lower, encoding.upper, encoding.atoms.tolist()))
        else:
            known.append((encoding.labels, encoding.tail))
    return known


@check(5)
def one_record_shows_in_no_encoder(_: Path) -> None:
    base = table(400)
    for path in (agreed, learnt):
        schema, encoder = path(base)
        assert encoder.schema["x"].decimals == 1
        assert encoder.encodings[encoder.block_of["c"]].labels == ("a", "b", "c")
        for row in NEIGHBOURS.values():
            more = pd.concat([base, pd.DataFrame([row])], ignore_index=True)
            other, neighbour = path(more)
            assert other == schema
            assert released(neighbour) == released(encoder)
            # One record more, and what it moves between modes that were fitted on it.
            assert abs(neighbour.frequencies.sum() - encoder.frequencies.sum()) <= 9


@check(5)
def a_rare_label_is_released_with_chance_delta(_: Path) -> None:
    noise = repeatable_noise(1)
    passed = [guards.released_labels(["rare"], np.ones(1), 9.0, 1e-6, noise) for _ in range(200)]
    assert not any(passed)
    assert guards.released_labels(["common"], np.full(1, 120), 9.0, 1e-6, noise) == ["common"]


@bug(5)
def raw_labels(patch: Patch) -> None:
    patch.setattr(guards, "released_labels", lambda labels, *_: sorted(labels))


@bug(5)
def threshold_forgotten(patch: Patch) -> None:
    patch.setattr("genesis.privacy.histograms.label_threshold", lambda *_: 1.0)


@bug(5)
def raw_decimals(patch: Patch) -> None:
    without = Schema.without_values

    def kept(self: Schema) -> Schema:
        clean = without(self)
        pairs = zip(clean, self, strict=True)
        return Schema(tuple(dataclasses.replace(c, decimals=s.decimals) for c, s in pairs))

    patch.setattr(Schema, "without_values", kept)


@bug(5)
def raw_schema_of_a_table_alone(patch: Patch) -> None:
    original = one_table.schema_of

    def raw(*arguments: Any, **_: Any) -> Schema:
        return original(*arguments, private=False)

    patch.setattr(one_table, "schema_of", raw)


@bug(5)
def raw_bounds(patch: Patch) -> None:
    infer = Schema.infer.__func__  # type: ignore[attr-defined]

    def inferred(cls: type[Schema], rows: pd.DataFrame, *more: Any) -> Schema:
        ends = {"lower": float(rows["x"].min()), "upper": float(rows["x"].max())}
        columns = infer(cls, rows, *more)
        return Schema(
            tuple(dataclasses.replace(c, **ends) if c.name == "x" else c for c in columns)
        )

    patch.setattr(Schema, "infer", classmethod(inferred))
    patch.setattr(Schema, "without_values", lambda self: self)


# --- 6: raw frequencies and row counts beside the noisy gradients ---

PUBLIC = {
    ("describe", "schema"),
    ("labels", "private"),
    ("count", "deviation"),
    ("prepare", "private"),
    ("prepare", "parameters"),
    ("prepare", "spent"),
    ("train", "spent"),
}
"""Of the schema and the plan, or computed of what is released."""

PAID = {
    ("labels", "labels"): Threshold,
    ("count", "rows"): Skellam,
    ("count", "counts"): Skellam,
    ("prepare", "rows"): Skellam,
    ("train", "vector"): SampledGaussian,
}
"""Which event pays for what leaves a client."""


def overheard(seed: int) -> dict[tuple[str, str], list[Any]]:
    """What a client released, of which every value was found to be paid for."""
    spy = Spy(TABLES)
    with noise_of(seed):
        federation(promised(3.0), spy).run()
    said = [(request, reply) for request, reply in spy.heard if reply.client_id == "one"]
    spent = [reply.meta["spent"] for _, reply in said if "spent" in reply.meta]
    assert spent
    ledger = Ledger.from_list(spent[-1]["ledger"]).events
    paid = {type(event): event for event in ledger}
    found: dict[tuple[str, str], list[Any]] = {}
    vectors = 1  # the number of rows
    for request, reply in said:
        assert reply.error is None
        if request.kind == "count":
            vectors += check_disjoint([Question.from_dict(q) for q in request.meta["questions"]])
            assert reply.meta["deviation"] == paid[Skellam].deviation
        for name, value in {**reply.meta, **reply.arrays}.items():
            place = request.kind, name
            if place == ("train", "metrics"):
                assert value == {}
            elif place in PAID:
                assert PAID[place] in paid
                found.setdefault(place, []).append(value)
            else:
                assert place in PUBLIC
    assert vectors <= times(paid[Skellam])
    assert len(found["labels", "labels"][0]) == times(paid[Threshold])
    return found


@check(6)
def all_that_leaves_a_client_is_paid_for(_: Path) -> None:
    first, second = overheard(1), overheard(2)
    assert first.keys() == second.keys() == PAID.keys()
    for place in first.keys() - {("labels", "labels")}:
        # What is the same under other noise has none.
        assert not np.array_equal(first[place][0], second[place][0])
    assert len({*first["count", "rows"], *first["prepare", "rows"]}) == 1


@check(6)
def conditions_come_from_released_frequencies(_: Path) -> None:
    frequencies = np.array([5.0, 3.0, 1.0, 40.0, 30.0, 20.0, -2.0])
    model = CTGAN(LAYOUT, {**steps.TINY["ctgan"], "pac": 1}, frequencies=frequencies)
    local = LocalTraining(1, 8, (0,), private=PrivateSteps(1.0, 1.0, 0.5, 8, 1))
    drawn = []
    for code in (0, 3):
        rows = Codes(
            np.zeros((20, 1), np.float32), np.full((20, 2), code, np.int32).clip(0, (2, 3))
        )
        prepared = model.prepare(TrainingRows.of(rows, model.device, model.dtype), local)
        conditions = prepared.sampler.conditions(300, torch.Generator().manual_seed(0))
        assert conditions is not None
        drawn.append(conditions)
    assert torch.equal(*drawn)
    assert set(drawn[0].tolist()) == {0, 1, 2}  # never what has a negative count


@check(6)
def no_single_cell_decides_whether_there_is_an_answer(_: Path) -> None:
    rows = pd.DataFrame({"x": np.arange(60) / 2, "c": ["1", "2", "3"] * 20})
    other = rows.copy()
    other.loc[7, "c"] = "rare"  # no number
    schema = Schema.infer(rows).without_values().to_dict()
    questions = (
        Question("c", decimals=True),
        Question("c", parents=(0,), shift=64, bits=12),
        Question("c", labels=("1", None)),
        Question("x", labels=(None,)),
    )
    for question in questions:
        answers = []
        for each in (rows, other):
            client = Shard("one", each, device="cpu", guarded=True)
            told = {"schema": schema, "run": "a", "privacy": promised(1.0)}
            assert client.handle(Request("labels", meta=told)).error is None
            asked = {"questions": [question.to_dict()]}
            answers.append(client.handle(Request("count", meta=asked)).error)
        assert answers[0] == answers[1]


@bug(6)
def bins_of_labels(patch: Patch) -> None:
    patch.setattr(guards, "check_kinds", lambda *_: None)


@bug(6)
def exact_number_of_rows(patch: Patch) -> None:
    def count_rows(self: Guard, rows: int) -> int:
        if self.rows is None:
            self._pay(1)
        self.rows = rows
        return rows

    patch.setattr(Guard, "count_rows", count_rows)


@bug(6)
def exact_counts(patch: Patch) -> None:
    patch.setattr(guards, "noisy_counts", lambda counts, *_: counts)


@bug(6)
def metrics_are_sent(patch: Patch) -> None:
    train = Shard._train

    def trained(self: Shard, request: Request) -> Reply:
        reply = train(self, request)
        return dataclasses.replace(reply, meta={**reply.meta, "metrics": dict(self.losses)})

    patch.setattr(Shard, "_train", trained)


@bug(6)
def a_mean_beside_the_counts(patch: Patch) -> None:
    count = Shard._count

    def counted(self: Shard, request: Request) -> Reply:
        reply = count(self, request)
        return dataclasses.replace(
            reply, meta={**reply.meta, "mean": self._given._table["x"].mean()}
        )

    patch.setattr(Shard, "_count", counted)


@bug(6)
def statistics_nobody_wrote_down(patch: Patch) -> None:
    patch.setattr(Guard, "_pay", lambda *_: None)


@bug(6)
def raw_frequencies_for_the_sampler(patch: Patch) -> None:
    prepare = CTGAN.prepare

    def prepared(self: CTGAN, rows: TrainingRows, local: LocalTraining) -> Any:
        counts = torch.bincount(rows.codes[:, 1].long(), minlength=4).double().numpy()
        sampler = ReleasedSampler(self.layout, counts, self.device)
        return dataclasses.replace(prepare(self, rows, local), sampler=sampler)

    patch.setattr(CTGAN, "prepare", prepared)


# --- 7: the budget is checked after it was spent ---


@check(7)
def no_release_goes_beyond_the_promise(path: Path) -> None:
    for epsilon, batch_size, epochs in ((1.0, 30, 2), (4.0, 151, 5), (0.3, 8, 1)):
        privacy = Privacy(epsilon)
        guard, statistics = begun(privacy)
        assert guard.rows is not None
        guard.plan_training(batch_size=batch_size, epochs=epochs)
        for _ in range(epochs):
            taken = guard.steps(1)
            event = guard.ledger.events[-1]
            assert isinstance(event, SampledGaussian)
            assert taken.noise_multiplier == event.noise_multiplier
            assert taken.sample_rate == event.sample_rate
        assert event.steps == epochs * taken.steps
        assert 0.92 * epsilon < guard.ledger.epsilon(privacy.delta) <= epsilon
        for _ in range(3):  # more of it is refused, and not noticed afterwards
            assert refused(lambda guard=guard: guard.steps(1))
            assert refused(lambda g=guard, s=statistics: g.answer(s, many_questions()))
        assert guard.ledger.epsilon(privacy.delta) <= epsilon
    file = LedgerFile(path / "owner.json", budget=1.0, delta=1e-5)
    file.spend([Gaussian(6.0)], "a run")
    assert refused(lambda: file.spend([Gaussian(4.0)], "another"))
    assert file.spent() <= 1.0


def many_questions() -> list[Question]:
    return [Question("x", decimals=True)] * 50


@bug(7)
def noise_planned_too_low(patch: Patch) -> None:
    planned = guards.calibrated
    patch.setattr(guards, "calibrated", lambda *arguments: 0.9 * planned(*arguments))


@bug(7)
def less_noise_than_is_written(patch: Patch) -> None:
    given = Guard.steps

    def steps_of(self: Guard, epochs: int) -> PrivateSteps:
        found = given(self, epochs)
        return dataclasses.replace(found, noise_multiplier=found.noise_multiplier / 2)

    patch.setattr(Guard, "steps", steps_of)


@bug(7)
def nobody_asks_the_promise(patch: Patch) -> None:
    def spend(self: Guard, *events: Any) -> None:
        for event in events:
            self.ledger = self.ledger.with_event(event)

    patch.setattr(Guard, "_spend", spend)


@bug(7)
def asked_after_the_release(patch: Patch) -> None:
    spend = Guard._spend

    def late(self: Guard, *events: Any) -> None:
        before = self.ledger
        for event in events:
            self.ledger = self.ledger.with_event(event)
        after, self.ledger = self.ledger, before
        try:
            spend(self, *events)
        finally:
            self.ledger = after

    patch.setattr(Guard, "_spend", late)


@bug(7)
def statistics_without_end(patch: Patch) -> None:
    def pay(self: Guard, _: int) -> None:
        if not self.ledger.events:
            self._spend(*self._planned.events)

    patch.setattr(Guard, "_pay", pay)


@bug(7)
def budget_of_the_owner_forgotten(patch: Patch) -> None:
    patch.setattr(LedgerFile, "_check", lambda *_: None)


# --- 8: a ledger that begins anew when a run is resumed ---


class CrashError(Exception):
    pass


class CrashAfterRound(Callback):
    def on_round_complete(self, run: Any, report: Any) -> None:
        raise CrashError


def ledgers(found: Federation) -> dict[str, Ledger]:
    """Those of the server or of every client."""
    told = found.privacy
    assert told is not None
    clients = told.get("clients", {"server": told})
    return {name: Ledger.from_list(each["ledger"]) for name, each in clients.items()}


@check(8)
def a_resumed_run_goes_on_with_its_ledger(path: Path) -> None:
    hidden = promised(8.0, unit="client", insist=True, max_grad_norm=1e-3)
    cases = {"record": (promised(3.0), None), "client": (hidden, public_schema(TABLES))}
    for unit, (wanted, schema) in cases.items():
        callbacks = (CheckpointCallback(path / unit), CrashAfterRound())
        choices: dict[str, Any] = {"n_rounds": 2, "local_epochs": 1, "schema": schema}
        broken = federation(wanted, callbacks=callbacks, **choices)
        with noise_of(1), pytest.raises(CrashError):
            broken.run()
        spy = Spy(TABLES)
        resumed = federation(wanted, spy, **choices)
        with noise_of(2):
            resumed.run(resume_from=path / unit)
        before, after = ledgers(broken), ledgers(resumed)
        assert before.keys() == after.keys()
        for name, ledger in before.items():
            assert ledger.is_within(after[name])
            assert times(after[name].events[-1]) == 2 * times(ledger.events[-1])
            if unit == "record":  # the server remembers it too, but may be somebody else's
                guard = spy.shards[name]._guard
                assert guard is not None
                assert guard.ledger == after[name]
        assert resumed.privacy is not None
        assert resumed.privacy["epsilon"] > 0.9 * wanted["differential_privacy"]["epsilon"]


@check(8)
def a_client_that_lost_its_ledger_is_refused(path: Path) -> None:
    callbacks = (CheckpointCallback(path / "lost"), CrashAfterRound())
    choices: dict[str, Any] = {"n_rounds": 2, "local_epochs": 1}
    write = shard.write_part

    def written(folder: Path, number: int, run: str, state: dict[str, Any]) -> None:
        write(folder, number, run, {k: v for k, v in state.items() if k != "guard"})

    broken = federation(promised(3.0), callbacks=callbacks, **choices)
    with Patch.context() as patch, noise_of(1):
        patch.setattr(shard, "write_part", written)
        with pytest.raises(CrashError):
            broken.run()
    resumed = federation(promised(3.0), **choices)
    with noise_of(2):
        assert refused(lambda: resumed.run(resume_from=path / "lost"))


@check(8)
def the_owner_s_file_outlives_a_run(path: Path) -> None:
    for n in (1, 2):
        LedgerFile(path / "file", budget=None, delta=1e-5).spend([Gaussian(5.0)], f"run {n}")
        assert len(LedgerFile(path / "file", budget=None, delta=1e-5).ledger().events) == 1
        assert times(LedgerFile(path / "file", budget=None, delta=1e-5).ledger().events[0]) == n


@bug(8)
def client_forgets_what_it_spent(patch: Patch) -> None:
    restore = Guard.restore

    def restored(self: Guard, values: Mapping[str, Any]) -> None:
        restore(self, values)
        self.ledger = Ledger()

    patch.setattr(Guard, "restore", restored)


@bug(8)
def client_that_lost_its_ledger_begins_anew(patch: Patch) -> None:
    def private_steps(self: Shard, meta: Mapping[str, Any], epochs: int) -> PrivateSteps | None:
        guard, codes = self._guard, self._codes
        if guard is None or codes is None:
            return None
        guard.count_rows(len(codes))
        guard.plan_training(batch_size=self._batch_size, epochs=epochs * meta["rounds"])
        return guard.steps(epochs)

    patch.setattr(Shard, "_private_steps", private_steps)


@bug(8)
def checkpoint_without_the_ledger(patch: Patch) -> None:
    remembered = Guard.to_dict
    patch.setattr(Guard, "to_dict", lambda self: {**remembered(self), "ledger": []})


@bug(8)
def server_forgets_what_it_spent(patch: Patch) -> None:
    restore = RunPromise.restore

    def restored(self: RunPromise, values: Any, tensors: Any) -> None:
        restore(self, values, tensors)
        self.ledger = Ledger()

    patch.setattr(RunPromise, "restore", restored)


@bug(8)
def file_begun_anew(patch: Patch) -> None:
    begin = LedgerFile.__init__

    def begun_anew(self: LedgerFile, path: Path, **choices: Any) -> None:
        Path(path).unlink(missing_ok=True)
        begin(self, path, **choices)

    patch.setattr(LedgerFile, "__init__", begun_anew)


# --- 9: an ε without its unit and neighbouring relation ---


@check(9)
def every_report_says_what_its_epsilon_means(path: Path) -> None:
    with noise_of(1):
        alone = Synthesizer("tvae", TINY["tvae"], seed=0, privacy=promised(3.0)).fit(table())
        run = federation(promised(3.0))
        run.run()
    alone.save(path / "a.model")
    loaded = Synthesizer.load(path / "a.model").privacy
    hidden = RunPromise(Privacy(2.0, unit="client"), public_schema=True)
    told = {
        "record": (alone.privacy, loaded, run.privacy),
        "client": (hidden.report(["one", "two"], "of no use"),),
    }
    for unit, reports in told.items():
        for each in reports:
            assert each is not None
            assert each.get("unit") == unit
            assert each.get("neighbouring") == f"add or remove one {unit}"
            assert 0 < each.get("delta", 0) < 1
            for word in ("trust", "protects", "overlap", "combined", "public", "accountant"):
                assert each.get(word)
            assert not refused(lambda each=each: report.spent_epsilon(each))
            words = report.in_words(each)
            assert f"for each {unit}" in words
            assert f"add or remove one {unit}" in words
            assert f"{each['delta']:.3g}" in words


def without(name: str) -> Bug:
    """Reports that do not say something."""

    def plant(patch: Patch) -> None:
        for module, kind in (
            (one_table, "record_report"),
            (promise, "record_report"),
            (promise, "client_report"),
        ):
            told = getattr(module, kind)

            def less(*a: Any, told: Callable[..., Any] = told, **k: Any) -> dict[str, Any]:
                return {key: value for key, value in told(*a, **k).items() if key != name}

            patch.setattr(module, kind, less)

    plant.__name__ = f"no_{name}"
    return plant


for word in ("unit", "neighbouring", "delta", "trust", "public"):
    bug(9)(without(word))


@bug(9)
def model_file_without_a_report(patch: Patch) -> None:
    import genesis.synthesizer as written

    write = written.write_file

    def silent(path: Any, contents: Any) -> None:
        write(path, dataclasses.replace(contents, meta={**contents.meta, "privacy": None}))

    patch.setattr(written, "write_file", silent)


@bug(9)
def words_of_epsilon_alone(patch: Patch) -> None:
    patch.setattr(report, "in_words", lambda each: f"ε = {each['epsilon']:.3g}")


@bug(9)
def epsilon_that_the_ledger_does_not_show(patch: Patch) -> None:
    told = one_table.record_report

    def better(*a: Any, **k: Any) -> dict[str, Any]:
        found = told(*a, **k)
        return {**found, "epsilon": found["epsilon"] / 2}

    patch.setattr(one_table, "record_report", better)


# --- 10: a saved model that holds rows ---

CANARY, NUMBER = "Canary-Straße-77", 918273.625


def reachable(*roots: Any) -> Iterator[Any]:
    """All that hangs on some objects: attributes, items, and what functions have closed over."""
    seen: set[int] = set()
    alive = list(roots)  # what is looked at must not be freed, or its id is another's
    for each in alive:
        if id(each) in seen or isinstance(each, type | types.ModuleType | str | bytes):
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, Mapping):
            alive += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            alive += each
        elif isinstance(each, types.MethodType):
            alive += [each.__self__, each.__func__]
        elif isinstance(each, types.FunctionType):
            alive += [cell.cell_contents for cell in each.__closure__ or ()]
        elif not isinstance(each, np.ndarray | torch.Tensor | pd.DataFrame | pd.Series):
            alive += vars(each).values() if hasattr(each, "__dict__") else ()
            slots = [s for cls in type(each).__mro__ for s in getattr(cls, "__slots__", ())]
            alive += [getattr(each, slot) for slot in slots if hasattr(each, slot)]


def made_of_rows(each: Any, rows: int, columns: int) -> bool:
    """Whether something has a number, or several, for every row."""
    if isinstance(each, pd.DataFrame | pd.Series | pd.Index):
        return True
    lengths = {rows * k for k in range(1, columns + 1)}
    if isinstance(each, torch.Tensor):
        return bool(lengths & {*each.shape, each.untyped_storage().nbytes() // each.itemsize})
    if isinstance(each, np.ndarray):
        return bool(lengths & {*each.shape, each.size})
    return isinstance(each, list | tuple | set | frozenset | dict) and len(each) in lengths


@check(10)
def a_model_holds_no_row(path: Path) -> None:
    rows = table()
    rows.loc[7, ["c", "x"]] = [CANARY, NUMBER]
    halves = {"one": rows.iloc[:75], "two": rows.iloc[75:].reset_index(drop=True)}
    with noise_of(1):
        alone = Synthesizer("ctgan", TINY["ctgan"], seed=0, privacy=promised(3.0)).fit(rows)
        run = FederatedSynthesizer("tvae", TINY["tvae"], seed=0, n_rounds=1, privacy=promised(3.0))
        run.fit(halves)
    for fitted, sizes in ((alone, (len(rows),)), (run, (75, 76))):
        fitted.save(path / "a.model")
        content = (path / "a.model").read_bytes()
        for secret in (CANARY.encode(), b"Canary-Stra", b"918273"):
            assert secret not in content
        for number in (np.float64(NUMBER), np.float32(NUMBER)):
            assert number.tobytes() not in content
        for each in reachable(fitted, Synthesizer.load(path / "a.model")):
            assert not isinstance(each, RowSampler | TrainingRows | Codes | ShardStatistics | Shard)
            assert not any(made_of_rows(each, n, rows.shape[1]) for n in sizes)
            assert not (isinstance(each, float) and each == NUMBER)


@bug(10)
def sampler_is_kept(patch: Patch) -> None:
    prepare = CTGAN.prepare

    def prepared(self: CTGAN, rows: TrainingRows, local: LocalTraining) -> Any:
        kept = RowSampler(rows, self.layout, log_frequency=True)
        self._conditions = kept.conditions  # type: ignore[attr-defined]
        return prepare(self, rows, local)

    patch.setattr(CTGAN, "prepare", prepared)


@bug(10)
def order_of_the_rows_is_kept(patch: Patch) -> None:
    prepare = CTGAN.prepare

    def prepared(self: CTGAN, rows: TrainingRows, local: LocalTraining) -> Any:
        self._order = {"c": torch.argsort(rows.codes[:, 1])}  # type: ignore[attr-defined]
        return prepare(self, rows, local)

    patch.setattr(CTGAN, "prepare", prepared)


@bug(10)
def table_is_kept(patch: Patch) -> None:
    fit = Synthesizer.fit

    def fitted(self: Synthesizer, rows: pd.DataFrame, *more: Any) -> Synthesizer:
        self._again = lambda: fit(self, rows, *more)  # type: ignore[attr-defined]
        return fit(self, rows, *more)

    patch.setattr(Synthesizer, "fit", fitted)


@bug(10)
def clients_are_kept(patch: Patch) -> None:
    adopt = FederatedSynthesizer._adopt

    def adopted(self: FederatedSynthesizer, run: Federation) -> None:
        adopt(self, run)
        self._federation = run  # type: ignore[attr-defined]

    patch.setattr(FederatedSynthesizer, "_adopt", adopted)


bug(10)(raw_labels)
bug(10)(raw_bounds)


# --- 11: noise from the seed ---


def drawn_after_one_seed() -> list[bytes]:
    """All that differential privacy draws, when everything that has a seed was given the same."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    noise = Noise()
    drawn = [noise.normal(64).numpy(), noise.uniform(64).numpy(), noise.skellam(64, 1e6)]
    private = PrivateSteps(1.0, 1.0, 0.5, 8, 1)
    drawn.append(np.packbits(np.isin(np.arange(200), private.batch(200, torch.device("cpu")))))
    drawn.append(private.entries(64, torch.device("cpu")).numpy())
    drawn.append(gradient_of("tvae", some_codes(0), private).numpy())
    guard = Guard(Privacy(0.01))
    guard.begin(one_table.schema_of(table(), None, (), private=True))
    drawn.append(np.array(guard.count_rows(10**6)))
    hidden = RunPromise(Privacy(1.0, unit="client"), public_schema=True)
    drawn.append(hidden._noise.normal(64).numpy())
    return [each.tobytes() for each in drawn]


@check(11)
def no_seed_decides_the_noise(_: Path) -> None:
    for first, second in zip(drawn_after_one_seed(), drawn_after_one_seed(), strict=True):
        assert first != second
    # What a test may do, nobody else can.
    with Patch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")
        assert refused(lambda: noises.repeatable_noise(0))


@check(11)
def no_seed_decides_how_rows_are_encoded(_: Path) -> None:
    """A row more would shift the numbers of all rows after it: that may not be known either."""
    encode, drawn = Encoder.encode, []

    def encoded(self: Encoder, rows: pd.DataFrame, rng: np.random.Generator | None) -> Codes:
        drawn.append(rng.bytes(8) if rng is not None else None)
        return encode(self, rows, rng)

    with Patch.context() as patch:
        patch.setattr(Encoder, "encode", encoded)
        for _ in range(2):
            with noise_of(1):
                Synthesizer("tvae", TINY["tvae"], seed=0, privacy=promised(3.0)).fit(table())
                federation(promised(3.0)).run()
    assert len(drawn) == 6
    assert len(set(drawn)) == 6


@bug(11)
def codes_of_a_seed(patch: Patch) -> None:
    for module in ("genesis.synthesizer", "genesis.federated.shard"):
        patch.setattr(f"{module}.secret_generator", lambda: np.random.default_rng(0))


@bug(11)
def normal_numbers_of_torch(patch: Patch) -> None:
    patch.setattr(Noise, "normal", lambda _, n: torch.randn(n))


@bug(11)
def entropy_of_a_seed(patch: Patch) -> None:
    begun = Noise.__init__

    def begin(self: Noise) -> None:
        begun(self)
        self._entropy = np.random.default_rng(0).bytes

    patch.setattr(Noise, "__init__", begin)


@bug(11)
def counts_of_numpy(patch: Patch) -> None:
    def skellam(_: Noise, n: int, variance: float) -> Any:
        rng = np.random.default_rng(0)
        return rng.poisson(variance / 2, n) - rng.poisson(variance / 2, n)

    patch.setattr(Noise, "skellam", skellam)


@bug(11)
def batches_of_torch(patch: Patch) -> None:
    def batch(self: PrivateSteps, n: int, _: torch.device) -> torch.Tensor:
        return torch.nonzero(torch.rand(n) < self.sample_rate).squeeze(1)

    patch.setattr(PrivateSteps, "batch", batch)


@bug(11)
def noise_of_tests_for_everybody(patch: Patch) -> None:
    patch.setattr(noises, "repeatable_noise", lambda _: Noise())


# --- 12: early stopping or tuning on private losses ---

LOSS = 987.654321


@check(12)
def losses_stay_at_the_client(_: Path) -> None:
    train = flat.FlatModel.train

    def marked(self: Any, rows: Codes, local: LocalTraining) -> dict[str, float]:
        return dict.fromkeys(train(self, rows, local), LOSS)

    seen: list[Any] = []

    class Watch(Callback):
        def on_round_complete(self, run: Any, report: Any) -> None:
            seen.append((report.metrics, report))

    hidden = promised(8.0, unit="client", insist=True, max_grad_norm=1e-3)
    for wanted, schema in ((promised(3.0), None), (hidden, public_schema(TABLES))):
        spy = Spy(TABLES)
        with noise_of(1), Patch.context() as patch:
            patch.setattr(flat.FlatModel, "train", marked)
            run = federation(wanted, spy, schema=schema, callbacks=(Watch(),))
            run.run()
        assert any(s.losses for s in spy.shards.values())
        assert str(LOSS) not in repr([(reply.meta, reply.error) for _, reply in spy.heard])
        assert str(LOSS) not in repr((seen, run.reports, run.privacy))
        assert all(not metrics for metrics, _ in seen)
        stopping = (EarlyStopping("loss"),)
        with noise_of(1):
            assert refused(federation(wanted, schema=schema, callbacks=stopping).run)


@check(12)
def no_loss_decides_whether_training_ends(_: Path) -> None:
    rows = some_codes(6)
    rows.scalars[2] = np.nan  # of a loss that is not finite
    private = PrivateSteps(1.0, 1.0, 1.0, 6, 1, repeatable_noise(1))
    assert not refused(lambda: gradient_of("tvae", rows, private))


bug(12)(metrics_are_sent)


@bug(12)
def metrics_of_hidden_clients_are_sent(patch: Patch) -> None:
    train = Shard._train

    def trained(self: Shard, request: Request) -> Reply:
        reply = train(self, request)
        told = self.losses if self._guard is None else {}
        return dataclasses.replace(reply, meta={**reply.meta, "metrics": dict(told)})

    patch.setattr(Shard, "_train", trained)


@bug(12)
def early_stopping_is_allowed(patch: Patch) -> None:
    patch.setattr(EarlyStopping, "on_run_start", lambda *_: None)


@bug(12)
def a_loss_that_is_not_finite_ends_training(patch: Patch) -> None:
    read = flat._as_floats

    def checked(losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        found = read(losses)
        if not np.isfinite(list(found.values())).all():
            raise TrainingError("a loss is not finite")
        return found

    patch.setattr(flat, "_as_floats", checked)


# --- 13: weighted averages of hidden clients, or a wrong adaptive clip ---


def hiding(**choices: Any) -> RunPromise:
    """A run of 40 hidden clients that is about to play its rounds."""
    privacy = Privacy(100.0, unit="client", insist=True, **choices)
    kept = RunPromise(privacy, public_schema=True)
    kept._noise = repeatable_noise(5)
    kept.begin_rounds(6, 40, 4, 1.0)
    return kept


@check(13)
def hidden_clients_count_alike(_: Path) -> None:
    wanted = promised(8.0, unit="client")
    for rule in ("weighted", "median", "krum", "trimmed_mean", "similarity", "scaffold"):
        assert refused(lambda rule=rule: Plan("tvae", privacy=wanted, aggregation=rule))
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    combined = []
    for weight in (1.0, 1e6):
        updates = [Update(str(i), v, weight if i == 0 else 1.0, {}) for i, v in enumerate(vectors)]
        combined.append(hiding().combine(torch.zeros(6), updates))
    assert torch.equal(*combined)


@check(13)
def an_adaptive_clip_finds_the_quantile_and_its_noise_fits(_: Path) -> None:
    norms = torch.linspace(0.1, 3.0, 80)
    vectors = norms[:, None] * torch.nn.functional.one_hot(torch.arange(80) % 5, 5)
    for start, quantile in itertools.product((0.05, 20.0), (0.25, 0.75)):
        mean = NoisyMean(1.0, start, 80.0, adaptive=Adaptive(quantile))
        noise = repeatable_noise(3)
        for _ in range(100):
            mean.combine(torch.zeros(5), vectors, noise)
        assert abs(float((norms <= mean.max_norm).double().mean()) - quantile) < 0.12
    # All changes are within the clip, which therefore shrinks; the noise is that of the larger one.
    mean = NoisyMean(1.0, 1.0, 80.0, adaptive=Adaptive(rate=2.0))
    multiplier = Adaptive().rest(1.0, 80.0)
    still = torch.zeros(20_000)
    moved = mean.combine(still, torch.zeros(80, len(still)), repeatable_noise(4))
    assert mean.max_norm < 0.5
    assert abs(float(moved.std()) * 80 / multiplier - 1) < 0.03


@bug(13)
def weighted_rules_are_allowed(patch: Patch) -> None:
    patch.setattr(Plan, "_check_client_level", lambda *_: None)
    patch.setattr(Plan, "_check_promise", lambda *_: None)


@bug(13)
def updates_are_weighted(patch: Patch) -> None:
    combine = RunPromise.combine

    def weighted(self: RunPromise, vector: torch.Tensor, updates: Any) -> torch.Tensor:
        mean = sum(update.weight for update in updates) / len(updates)
        scaled = [dataclasses.replace(u, vector=u.vector * (u.weight / mean)) for u in updates]
        return combine(self, vector, scaled)

    patch.setattr(RunPromise, "combine", weighted)


@bug(13)
def clip_that_runs_away(patch: Patch) -> None:
    step = Adaptive.step

    def inverted(self: Adaptive, max_norm: float, *more: Any) -> float:
        return max_norm**2 / step(self, max_norm, *more)

    patch.setattr(Adaptive, "step", inverted)


@bug(13)
def clip_of_the_other_quantile(patch: Patch) -> None:
    step = Adaptive.step

    def other(self: Adaptive, *more: Any) -> float:
        return step(dataclasses.replace(self, quantile=1 - self.quantile), *more)

    patch.setattr(Adaptive, "step", other)


@bug(13)
def clip_updated_before_the_noise(patch: Patch) -> None:
    def combine(
        self: NoisyMean, vector: torch.Tensor, vectors: torch.Tensor, noise: Noise
    ) -> torch.Tensor:
        changes = vectors - vector
        total = client_level.clipped(changes, self.max_norm).sum(0)
        if self.adaptive:
            self.max_norm = self.adaptive.step(self.max_norm, changes, self.expected, noise)
        drawn = noise.normal(len(vector))
        self.rounds += 1
        return vector + (total + self._multiplier * self.max_norm * drawn) / self.expected

    patch.setattr(NoisyMean, "combine", combine)


# --- 14: records that see each other ---


@dataclasses.dataclass(frozen=True)
class EveryRecord(PrivateSteps):
    """Steps on all records, each with the same entry of the pool, almost without noise."""

    def batch(self, n: int, device: torch.device) -> torch.Tensor:
        return torch.arange(n)

    def entries(self, n: int, device: torch.device) -> torch.Tensor:
        return torch.zeros(n, dtype=torch.int64)


@check(14)
def records_do_not_see_each_other(_: Path) -> None:
    rows = some_codes(9)
    private = EveryRecord(0.5, 1e-9, 1.0, 8, 1, repeatable_noise(2))
    for method in ("ctgan", "tvae"):
        config = {"pac": 1} if method == "ctgan" else {}
        of = {
            key: gradient_of(method, rows.take(np.array(key, dtype=np.int64)), private, **config)
            for key in [(), (0,), *((j,) for j in range(1, 9)), *((0, j) for j in range(1, 9))]
        }
        several = gradient_of(method, rows, private, **config)
        part = slice(None)
        if method == "ctgan":  # the generator's own step has no record, and moves with the critic's
            model = CTGAN(LAYOUT, {**steps.TINY[method], "pac": 1})
            part = model.parameters.parts["discriminator"]
        first = of[0,][part]
        assert first.norm() > 0.1
        for j in range(1, 9):
            assert torch.allclose(of[0, j][part] - of[j,][part], first, atol=1e-4)
        singles = torch.stack([of[j,][part] for j in range(9)])
        assert torch.allclose(several[part], singles.sum(0), atol=1e-4)


@check(14)
def packs_of_records_are_refused(_: Path) -> None:
    wanted, config = promised(3.0), {**TINY["ctgan"], "pac": 2}
    assert refused(lambda: Synthesizer("ctgan", config, privacy=wanted))
    assert refused(lambda: Plan("ctgan", config, privacy=wanted))
    private = PrivateSteps(1.0, 1.0, 1.0, 8, 1, repeatable_noise(1))
    assert refused(lambda: gradient_of("ctgan", some_codes(8), private, pac=2))
    assert Plan("ctgan", TINY["ctgan"], privacy=wanted).model_config["pac"] == 1


bug(14)(steps.centred_batches)
bug(14)(steps.neighbours_mixed)


@bug(14)
def packs_are_allowed(patch: Patch) -> None:
    for place in ("models", "synthesizer", "federated.plan"):
        patch.setattr(f"genesis.{place}.check_private_config", lambda *_: None)


@bug(14)
def a_fake_for_every_row(patch: Patch) -> None:
    """Generated rows see each other in batch normalisation, so their number is seen too."""
    prepare = CTGAN.prepare

    def prepared(self: CTGAN, rows: TrainingRows, local: LocalTraining) -> Any:
        found = prepare(self, rows, local)
        n = max(len(rows), 2)
        return dataclasses.replace(
            found,
            hidden=found.hidden.new_empty(n, found.hidden.shape[1]),
            fake=found.fake.new_empty(n, found.fake.shape[1]),
        )

    patch.setattr(CTGAN, "prepare", prepared)


# --- 15: an ε that is accepted and not enforced ---

COMBINATIONS = list(
    itertools.product(
        ("record", "client"), ("local", "server", "distributed"), ("disjoint", "overlapping")
    )
)


@contextmanager
def counted_noise() -> Iterator[list[int]]:
    """How many normal numbers were drawn, each time."""
    normal, drawn = Noise.normal, []

    def counted(self: Noise, n: int) -> torch.Tensor:
        drawn.append(n)
        return normal(self, n)

    with Patch.context() as patch:
        patch.setattr(Noise, "normal", counted)
        yield drawn


def check_kept(told: Mapping[str, Any] | None, epsilon: float, drawn: list[int]) -> None:
    """That a run has spent what it promised, and drew noise for every step that it took."""
    assert told is not None
    assert told["epsilon"] is not None
    assert 0.9 * epsilon < told["epsilon"] <= epsilon
    assert report.spent_epsilon(told) == told["epsilon"]
    trained = 0
    for client in told.get("clients", {"server": told}).values():
        statistics, *_, training = Ledger.from_list(client["ledger"]).events
        assert isinstance(statistics, Skellam | Gaussian)
        assert isinstance(training, SampledGaussian | Gaussian)
        trained += times(training)
    assert sum(n > 30 for n in drawn) >= trained  # sets of labels are smaller


@check(15)
def every_promise_is_kept_or_refused(_: Path) -> None:
    kept = set()
    for method, (unit, trust, overlap) in itertools.product(("ctgan", "tvae"), COMBINATIONS):
        small = {"insist": True, "max_grad_norm": 1e-3} if unit == "client" else {}
        wanted = promised(3.0, unit=unit, trust=trust, overlap=overlap, **small)
        try:
            Plan(method, privacy=wanted)
        except PlanError:
            continue
        run = federation(wanted, method=method, schema=public_schema(TABLES))
        with noise_of(1), counted_noise() as drawn:
            run.run()
        check_kept(run.privacy, 3.0, drawn)
        assert run.privacy is not None
        assert run.state is not None
        assert unit == "record" or drawn.count(len(run.state.vector)) == run.n_rounds
        found = tuple(run.privacy[key] for key in ("unit", "trust", "overlap"))
        assert found == (unit, trust, overlap)
        kept.add(found)
    assert kept == {
        ("record", "local", "disjoint"),
        ("record", "local", "overlapping"),
        ("client", "server", "disjoint"),
    }


@check(15)
def a_promise_of_one_table_is_kept_or_refused(_: Path) -> None:
    for method in ("ctgan", "tvae"):
        alone = Synthesizer(method, TINY[method], seed=0, privacy=promised(3.0))
        with noise_of(1), counted_noise() as drawn:
            alone.fit(table())
        check_kept(alone.privacy, 3.0, drawn)
    schema = public_schema(TABLES)
    classes = Classifier(epochs=1, hidden=(8,), schema=schema, privacy=promised(3.0))
    with noise_of(1), counted_noise() as drawn:
        classes.fit(table(), "c")
    check_kept(classes.privacy, 3.0, drawn)
    hidden = promised(3.0, unit="client")
    assert refused(lambda: Synthesizer("tvae", privacy=hidden))
    assert refused(lambda: Classifier(privacy=hidden))


@check(15)
def what_is_not_understood_is_refused(_: Path) -> None:
    for wrong in (
        {"epsilon": 1.0},
        {"differential_privacy": 1.0},
        {"differential_privacy": {}},
        {"differential_privacy": {"delta": 1e-5}},
        {"differential_privacy": {"epsilon": 1.0, "epsilom": 0.1}},
        {"differential_privacy": {"epsilon": -1.0}},
        {"differential_privacy": {"epsilon": 1.0}, "noise": True},
        {},
    ):
        for call in (Plan, Synthesizer):
            assert refused(lambda call=call, wrong=wrong: call("tvae", privacy=wrong))
        assert refused(lambda wrong=wrong: Classifier(privacy=wrong))


@bug(15)
def silently_ignored_epsilon(patch: Patch) -> None:
    patch.setattr(Privacy, "parse", classmethod(lambda *_: None))


@bug(15)
def what_is_not_known_is_left_out(patch: Patch) -> None:
    parse = Privacy.parse

    def lenient(_: type[Privacy], privacy: Any) -> Privacy | None:
        return parse(privacy) if not refused(lambda: parse(privacy)) else None

    patch.setattr(Privacy, "parse", classmethod(lenient))


@bug(15)
def combinations_that_nothing_enforces(patch: Patch) -> None:
    patch.setattr(Privacy, "_check_together", lambda _: None)


@bug(15)
def private_steps_are_paid_and_not_taken(patch: Patch) -> None:
    paid = Shard._private_steps

    def none(self: Shard, meta: Mapping[str, Any], epochs: int) -> None:
        paid(self, meta, epochs)

    patch.setattr(Shard, "_private_steps", none)


@bug(15)
def server_adds_no_noise(patch: Patch) -> None:
    def combine(self: RunPromise, _: torch.Tensor, updates: Any) -> torch.Tensor:
        assert self._rounds is not None
        self._spend(self._rounds.event(self._multiplier))
        return torch.from_numpy(np.mean([update.vector for update in updates], axis=0))

    patch.setattr(RunPromise, "combine", combine)


@bug(15)
def only_statistics_are_private(patch: Patch) -> None:
    train = Synthesizer._train

    def trained(self: Synthesizer, model: Any, codes: Codes, _: Any, progress: Any) -> None:
        train(self, model, codes, None, progress)

    patch.setattr(Synthesizer, "_train", trained)


@bug(15)
def classifier_trains_without_noise(patch: Patch) -> None:
    train = Classifier._train
    patch.setattr(Classifier, "_train", lambda self, *a: train(self, *a[:3], None))


# --- the tests ---


def test_every_mistake_has_a_check_and_a_bug() -> None:
    assert sorted(CHECKS) == sorted({n for n, _ in BUGS}) == list(range(1, 16))


@pytest.mark.parametrize("n", CHECKS)
def test_check_passes(n: int, tmp_path: Path) -> None:
    for each in CHECKS[n]:
        each(tmp_path)


@pytest.mark.parametrize(("n", "plant"), BUGS, ids=[f"{n}-{plant.__name__}" for n, plant in BUGS])
def test_check_finds(n: int, plant: Bug, tmp_path: Path, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_check_passes(n, tmp_path)
