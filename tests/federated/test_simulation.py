from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from genesis import (
    DataError,
    FederatedSynthesizer,
    FederationError,
    ModelFileError,
    PlanError,
    SchemaError,
    Synthesizer,
    TrainingError,
)
from genesis.federated.aggregation import AGGREGATORS
from genesis.federated.agreement import ask_labels
from genesis.federated.callbacks import (
    Callback,
    CheckpointCallback,
    EarlyStopping,
    MetricsCallback,
    RoundReport,
    Run,
)
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.transport.in_process import InProcessTransport
from genesis.schema import Column, Kind, Schema
from tests.dirty import QUICK, QUICK_TVAE, dirty_table

CONFIGS: dict[str, dict[str, Any]] = {"ctgan": QUICK, "tvae": QUICK_TVAE}


def shards(k: int, n: int = 300) -> list[pd.DataFrame]:
    table = dirty_table(n)
    return [table.iloc[i::k].reset_index(drop=True) for i in range(k)]


def vector_of(synthesizer: FederatedSynthesizer) -> torch.Tensor:
    return synthesizer.model.model.get_vector()


@pytest.mark.parametrize("method", ["ctgan", "tvae"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_one_client_is_central_training_bit_for_bit(method: str, rounds: int) -> None:
    table, config = dirty_table(250), {**CONFIGS[method], "epochs": 6}
    central = Synthesizer(method, config, seed=5).fit(table)
    federated = FederatedSynthesizer(method, config, n_rounds=rounds, seed=5).fit([table])
    assert torch.equal(vector_of(federated), central.model.get_vector())
    assert federated.generate(60).equals(central.generate(60))


@pytest.mark.parametrize("k", [2, 5])
def test_any_number_of_clients_agrees_on_the_encoder_of_the_pooled_table(k: int) -> None:
    central = Synthesizer("ctgan", QUICK, seed=0).fit(dirty_table(300))
    federated = FederatedSynthesizer("ctgan", QUICK, n_rounds=1, seed=0).fit(shards(k))
    assert federated.model.encoder.digest == central.encoder.digest


def test_the_seed_decides_everything_and_the_order_of_clients_nothing() -> None:
    named = {f"h{i}": table for i, table in enumerate(shards(3))}
    backwards = dict(reversed(named.items()))

    def train(tables: Mapping[str, pd.DataFrame], seed: int) -> torch.Tensor:
        choices: dict[str, Any] = {"n_rounds": 2, "client_fraction": 0.6, "seed": seed}
        return vector_of(FederatedSynthesizer("ctgan", QUICK, **choices).fit(tables))

    assert torch.equal(train(named, 1), train(backwards, 1))
    assert not torch.equal(train(named, 1), train(named, 2))


@pytest.mark.parametrize("rule", sorted(AGGREGATORS))
def test_every_rule_trains(rule: str) -> None:
    federated = FederatedSynthesizer(
        "tvae", {**QUICK_TVAE, "epochs": 2}, n_rounds=2, aggregation=rule, seed=0
    ).fit(shards(4))
    assert len(federated.history) == 2
    assert vector_of(federated).isfinite().all()
    assert len(federated.generate(10)) == 10


def test_a_function_can_be_the_rule() -> None:
    federated = FederatedSynthesizer(
        "tvae",
        QUICK_TVAE,
        n_rounds=1,
        seed=0,
        aggregation=lambda vectors, _: vectors.mean(dim=0),
    ).fit(shards(3))
    plain = FederatedSynthesizer("tvae", QUICK_TVAE, n_rounds=1, seed=0).fit(shards(3))
    assert torch.allclose(vector_of(federated), vector_of(plain), atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "synchronize"),
    [("fedavg", "both"), ("fedavg", "generator"), ("scaffold", "both"), ("fedyogi", "generator")],
)
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    rule: str, synchronize: str, tmp_path: Path
) -> None:
    choices: dict[str, Any] = {
        "n_rounds": 4,
        "local_epochs": 1,
        "aggregation": rule,
        "synchronize": synchronize,
        "client_fraction": 0.5,
        "lr_schedule": "cosine",
        "seed": 4,
    }
    straight = FederatedSynthesizer("ctgan", QUICK, **choices).fit(shards(4))

    class Stop(CheckpointCallback):
        def on_round_complete(self, run: Any, report: Any) -> None:
            super().on_round_complete(run, report)
            if report.round == 1:
                run.stop("enough for today")

    FederatedSynthesizer("ctgan", QUICK, callbacks=[Stop(tmp_path)], **choices).fit(shards(4))
    resumed = FederatedSynthesizer("ctgan", QUICK, **choices)
    resumed.fit(shards(4), resume_from=tmp_path)
    assert torch.equal(vector_of(resumed), vector_of(straight))
    assert [r.metrics for r in resumed.history] == [r.metrics for r in straight.history]


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"n_rounds": 2, "local_epochs": 1, "seed": 0}
    callback = CheckpointCallback(tmp_path)
    FederatedSynthesizer("ctgan", QUICK, callbacks=[callback], **choices).fit(shards(2))
    other = FederatedSynthesizer("ctgan", QUICK, aggregation="median", **choices)
    with pytest.raises(PlanError, match="another aggregation"):
        other.fit(shards(2), resume_from=tmp_path)
    with pytest.raises(ModelFileError, match="no checkpoint file"):
        FederatedSynthesizer("ctgan", QUICK, **choices).fit(
            shards(2), resume_from=tmp_path / "nowhere"
        )
    longer = FederatedSynthesizer("ctgan", QUICK, **{**choices, "n_rounds": 3})
    assert len(longer.fit(shards(2), resume_from=tmp_path).history) == 3


class Unreliable:
    """A transport whose clients fail or fall silent at training, in some rounds."""

    def __init__(
        self,
        tables: list[pd.DataFrame],
        silent: Mapping[int, set[str]] | None = None,
        failing: Mapping[int, set[str]] | None = None,
        spoil: Any = None,
    ) -> None:
        self._inner = InProcessTransport({f"c{i}": Shard(f"c{i}", t) for i, t in enumerate(tables)})
        self._silent, self._failing, self._spoil = silent or {}, failing or {}, spoil

    def clients(self) -> Any:
        return self._inner.clients()

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        for reply in self._inner.exchange(requests, timeout=timeout):
            request = requests[reply.client_id]
            if request.kind == "train":
                if reply.client_id in self._silent.get(request.round, set()):
                    continue
                if reply.client_id in self._failing.get(request.round, set()):
                    yield Reply(reply.client_id, error="its disk is full")
                    continue
                if self._spoil is not None and reply.client_id == "c0":
                    yield self._spoil(reply)
                    continue
            yield reply


def test_the_round_goes_on_without_those_who_fail_or_fall_silent() -> None:
    transport = Unreliable(shards(4), silent={1: {"c0"}}, failing={1: {"c3"}, 2: {"c3"}})
    plan = Plan("ctgan", QUICK, n_rounds=4, min_clients=2, seed=0)
    federation = Federation(plan, transport)
    federation.run()
    found = [(r.clients, dict(r.failed), r.dropped) for r in federation.reports]
    assert found == [
        (("c0", "c1", "c2", "c3"), {}, ()),
        (("c1", "c2"), {"c3": "its disk is full"}, ("c0",)),
        (("c0", "c1", "c2"), {"c3": "its disk is full"}, ()),
        (("c0", "c1", "c2", "c3"), {}, ()),
    ]


def test_too_few_survivors_end_the_run_and_say_why() -> None:
    transport = Unreliable(shards(3), silent={1: {"c0"}}, failing={1: {"c2"}})
    plan = Plan("ctgan", QUICK, n_rounds=3, min_clients=2, seed=0)
    federation = Federation(plan, transport)
    with pytest.raises(FederationError, match=r"round 2.*min_clients is 2.*disk is full"):
        federation.run()
    assert len(federation.reports) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda v: v[:-1], "wrong shape"),
        (lambda v: v.astype(np.float64), "wrong shape"),
        (lambda v: np.where(np.arange(len(v)) == 3, np.nan, v).astype(np.float32), "not finite"),
    ],
)
def test_an_update_that_makes_no_sense_is_left_out(spoil: Any, reason: str) -> None:
    def spoiled(reply: Reply) -> Reply:
        return Reply(
            reply.client_id, reply.meta, {**reply.arrays, "vector": spoil(reply.arrays["vector"])}
        )

    federation = Federation(
        Plan("ctgan", QUICK, n_rounds=1, seed=0), Unreliable(shards(3), spoil=spoiled)
    )
    federation.run()
    assert federation.reports[0].clients == ("c1", "c2")
    assert reason in federation.reports[0].failed["c0"]


def test_a_loss_that_is_not_finite_names_round_and_client_and_keeps_the_last_good_state() -> None:
    config = {**QUICK, "generator_lr": 1e30, "discriminator_lr": 1e30}
    synthesizer = FederatedSynthesizer("ctgan", config, n_rounds=3, seed=0)
    with pytest.raises(TrainingError, match=r"round 1 at client 'north'.*learning rate"):
        synthesizer.fit({"north": dirty_table(100)})
    assert vector_of(synthesizer).isfinite().all()


def test_what_is_not_synchronized_never_crosses() -> None:
    sent: list[tuple[int, int]] = []

    class Spy(InProcessTransport):
        def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
            for reply in super().exchange(requests, timeout=timeout):
                if requests[reply.client_id].kind == "train":
                    received = requests[reply.client_id].arrays.get("vector", np.empty(0))
                    sent.append((len(received), len(reply.arrays.get("vector", np.empty(0)))))
                yield reply

    def play(**choices: Any) -> Federation:
        sent.clear()
        tables = {f"c{i}": Shard(f"c{i}", table) for i, table in enumerate(shards(1))}
        federation = Federation(Plan("ctgan", QUICK, n_rounds=3, seed=0, **choices), Spy(tables))
        federation.run()
        return federation

    federation = play(synchronize="generator")
    assert federation._layout is not None
    parts = {n: p.stop - p.start for n, p in federation._layout.parts.items()}
    g, d = parts["generator"], parts["discriminator"]
    assert sent == [(g + d, g), (g, g), (g, g)]
    play(synchronize="discriminator")
    assert sent == [(g + d, d), (d, d), (d, g + d)]
    play(sync_every=2)
    assert sent == [(g + d, 0), (0, g + d), (g + d, g + d)]


def test_clients_that_keep_their_critic_train_as_if_it_had_been_sent() -> None:
    """With one client nothing is lost by keeping parts at home."""
    table, choices = [dirty_table(200)], {"n_rounds": 3, "local_epochs": 1, "seed": 0}
    both = vector_of(FederatedSynthesizer("ctgan", QUICK, **choices).fit(table))
    for extra in (
        {"synchronize": "generator"},
        {"sync_every": 2},
        {"synchronize": "discriminator"},
    ):
        other = FederatedSynthesizer("ctgan", QUICK, **choices, **extra).fit(table)
        place = other.model.model.parameters.parts["generator"]
        assert torch.equal(vector_of(other)[place], both[place])


@pytest.mark.parametrize("per_layer", [False, True])
def test_updates_are_clipped(per_layer: bool) -> None:
    federation = Federation(
        Plan("ctgan", QUICK, n_rounds=1, max_grad_norm=0.05, clip_per_layer=per_layer, seed=0),
        InProcessTransport({"a": Shard("a", dirty_table(200))}),
    )
    federation.run()
    assert federation.state is not None
    assert federation._layout is not None
    before = Federation(Plan("ctgan", QUICK, n_rounds=1, seed=0), federation.transport)
    before.encoder = federation.encoder
    before._clients = federation.clients
    ask_labels(before.clients, federation.encoder.schema, before.promise)
    before._prepare()
    assert before.state is not None
    change = federation.state.vector - before.state.vector
    assert change.norm() <= 0.05 * (1 + 1e-4)
    assert federation.reports[0].metrics["update_norm"] > 0.05
    if per_layer:
        layers = federation._layout.slices.values()
        limit = 0.05 / len(layers) ** 0.5
        assert all(change[layer].norm() <= limit * (1 + 1e-4) for layer in layers)
    else:
        assert change.norm() >= 0.05 * (1 - 1e-3)


def test_decorators_receive_what_they_name() -> None:
    synthesizer = FederatedSynthesizer("tvae", QUICK_TVAE, n_rounds=2, seed=0)
    told: list[Any] = []

    @synthesizer.on_round_complete
    def log_round(round_num: int, metrics: dict[str, float], n_clients: int) -> None:
        told.append((round_num, n_clients, sorted(metrics)[0]))

    @synthesizer.on_training_complete
    def keep(model: Synthesizer) -> None:
        told.append(len(model.generate(3)))

    synthesizer.fit(shards(3))
    assert told == [(1, 3, "divergence_loss"), (2, 3, "divergence_loss"), 3]
    with pytest.raises(PlanError, match="did you mean"):
        synthesizer.on_round_complete(lambda round_number: round_number)


def test_callbacks_are_told_and_may_stop() -> None:
    metrics = MetricsCallback()
    stopping = EarlyStopping("loss", patience=1, min_delta=1e9)
    synthesizer = FederatedSynthesizer(
        "tvae", QUICK_TVAE, n_rounds=9, callbacks=[metrics, stopping], seed=0
    ).fit(shards(2))
    assert len(synthesizer.history) == len(metrics.history) < 9


def test_a_category_and_nulls_that_one_client_alone_has() -> None:
    tables = shards(3)
    tables[0] = tables[0].assign(sex="Female", visits=4)
    tables[1].loc[0, "sex"] = "Diverse"
    tables[2] = tables[2].assign(smoker=False)
    tables[2]["größe, cm"] = np.nan
    tables.append(tables[0].iloc[:1])
    synthesizer = FederatedSynthesizer("ctgan", QUICK, n_rounds=2, seed=0).fit(tables)
    assert len(synthesizer.generate(7, where={"sex": "Diverse"})) == 7
    assert set(synthesizer.generate(50)["smoker"].unique()) <= {True, False}


def test_clients_that_disagree_are_named() -> None:
    one, two = shards(2)
    with pytest.raises(SchemaError, match=r"north.*sex|sex.*north"):
        FederatedSynthesizer(seed=0).fit({"north": one.drop(columns="sex"), "south": two})
    with pytest.raises(SchemaError) as raised:
        FederatedSynthesizer(seed=0).fit({"north": one.assign(visits="many"), "south": two})
    assert "visits" in str(raised.value)


def test_what_a_federation_cannot_be_made_of() -> None:
    with pytest.raises(DataError, match="list of tables"):
        FederatedSynthesizer().fit(dirty_table(50))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no tables"):
        FederatedSynthesizer().fit([])
    with pytest.raises(FederationError, match="min_clients is 3"):
        FederatedSynthesizer(min_clients=3).fit(shards(2))
    with pytest.raises(PlanError, match="did you mean n_rounds"):
        FederatedSynthesizer(n_round=3)
    with pytest.raises(PlanError, match="fit first"):
        FederatedSynthesizer().generate(3)


def test_an_unexpected_failure_never_quotes_the_table() -> None:
    shard = Shard("north", dirty_table(50))
    reply = shard.handle(Request("count", meta={"questions": [{"secret": "x"}]}))
    assert reply.error is not None
    shard.handle(Request("describe", meta={"discrete_columns": []}))
    reply = shard.handle(Request("labels", meta={"schema": 17}))
    assert str(reply.error).startswith("an unexpected ")
    assert "unknown kind" in str(shard.handle(Request("dance")).error)
    assert "before" in str(shard.handle(Request("train")).error)


class Stop(Callback):
    """Stops the run after its second round."""

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        if report.round_num == 2:
            run.stop("enough for today")


SPARSE: list[dict[str, Any]] = [
    {"sync_every": 4},
    {"synchronize": "discriminator"},
    {"synchronize": "discriminator", "sync_every": 4},
    {"synchronize": "generator", "sync_every": 4},
]
"""Runs whose clients hold what the server lacks, until the last round."""


@pytest.mark.parametrize("extra", SPARSE)
def test_a_stopped_run_ends_as_if_its_last_round_had_been_planned_so(extra: dict[str, Any]) -> None:
    choices: dict[str, Any] = {"local_epochs": 1, "seed": 4, **extra}
    stopped = FederatedSynthesizer("ctgan", QUICK, n_rounds=5, callbacks=[Stop()], **choices)
    planned = FederatedSynthesizer("ctgan", QUICK, n_rounds=2, **choices)
    one, other = vector_of(stopped.fit(shards(3))), vector_of(planned.fit(shards(3)))
    generator = stopped.model.model.parameters.parts["generator"]
    assert torch.equal(one[generator], other[generator])
    assert torch.allclose(one, other, atol=1e-6)  # critics averaged before are averaged again
    assert len(stopped.history) == 2


@pytest.mark.parametrize("extra", [{"synchronize": "generator"}, *SPARSE])
def test_the_checkpoint_of_a_stopped_run_holds_what_clients_kept(
    extra: dict[str, Any], tmp_path: Path
) -> None:
    choices: dict[str, Any] = {"n_rounds": 5, "local_epochs": 1, "seed": 4, **extra}
    straight = FederatedSynthesizer("ctgan", QUICK, **choices).fit(shards(3))
    callbacks = [CheckpointCallback(tmp_path, every=5), Stop()]
    FederatedSynthesizer("ctgan", QUICK, callbacks=callbacks, **choices).fit(shards(3))
    resumed = FederatedSynthesizer("ctgan", QUICK, **choices).fit(shards(3), resume_from=tmp_path)
    assert torch.equal(vector_of(resumed), vector_of(straight))


def test_a_run_continues_only_as_it_began(tmp_path: Path) -> None:
    """With the same clients, and with averages where they were; and it deletes only its own."""
    (tmp_path / "round-table").mkdir()
    choices: dict[str, Any] = {"local_epochs": 1, "sync_every": 3, "seed": 0}
    first = FederatedSynthesizer(
        "ctgan", QUICK, n_rounds=2, callbacks=[CheckpointCallback(tmp_path)], **choices
    )
    first.fit(shards(2))
    assert (tmp_path / "round-table").is_dir()
    with pytest.raises(PlanError, match="sync_every 1"):
        FederatedSynthesizer("ctgan", QUICK, n_rounds=5, **choices).fit(
            shards(2), resume_from=tmp_path
        )
    again = FederatedSynthesizer("ctgan", QUICK, n_rounds=2, **choices)
    with pytest.raises(FederationError, match="'client_3' besides"):
        again.fit(shards(3), resume_from=tmp_path)
    with pytest.raises(FederationError, match="no 'client_2'"):
        again.fit(shards(1), resume_from=tmp_path)


def test_with_a_schema_nothing_is_inferred() -> None:
    table = pd.DataFrame({"code": [*["1", "2"] * 45, *["x"] * 10], "n": np.arange(100) % 13})
    with pytest.raises(SchemaError, match="mixes numbers and text"):
        FederatedSynthesizer("ctgan", QUICK, n_rounds=1).fit([table])
    schema = Schema(
        (Column("code", Kind.CATEGORICAL, "object"), Column("n", Kind.NUMERIC, "int64", 0))
    )
    synthesizer = FederatedSynthesizer("ctgan", QUICK, n_rounds=1, schema=schema, seed=0)
    synthesizer.fit([table, table], discrete_columns=["n"])
    assert synthesizer.schema["n"].kind is Kind.CATEGORICAL
    ids = Schema((Column("n", Kind.ID, "int64", format="integer"),))
    with pytest.raises(SchemaError, match="no column can be learnt"):
        FederatedSynthesizer("ctgan", QUICK, n_rounds=1, schema=ids).fit([table[["n"]]])


def test_every_fit_begins_with_the_choices_of_its_synthesizer() -> None:
    synthesizer = FederatedSynthesizer("ctgan", QUICK, n_rounds=1, seed=0)
    synthesizer.fit(shards(1), discrete_columns="visits")
    synthesizer.fit([table.drop(columns="visits") for table in shards(1)])
    assert "visits" not in synthesizer.schema
