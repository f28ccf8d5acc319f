"""Whole runs that promise privacy: what leaves a client, what the ledger says, what is kept."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from genesis import FederatedSynthesizer, Schema, Synthesizer
from genesis.errors import GenesisError, PlanError, PrivacyError
from genesis.federated import CheckpointCallback, EarlyStopping
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.transport.in_process import InProcessTransport
from genesis.privacy.budget import Privacy
from genesis.privacy.events import SampledGaussian, Skellam, Threshold
from genesis.privacy.ledger import Ledger
from genesis.privacy.report import spent_epsilon
from genesis.schema import Kind
from tests.dirty import QUICK, QUICK_TVAE, dirty_table

TABLES = {f"c{i}": dirty_table(260 + 20 * i, seed=i) for i in range(3)}
CONFIGS = {"ctgan": QUICK, "tvae": QUICK_TVAE}


def promise(epsilon: float = 3.0, **choices: Any) -> dict[str, Any]:
    return {"differential_privacy": {"epsilon": epsilon, **choices}}


def public_schema(tables: Mapping[str, pd.DataFrame]) -> Schema:
    """A schema that states every category, as an operator would write it."""
    pooled = pd.concat(tables.values(), ignore_index=True)
    entries = []
    for column in Schema.infer(pooled):
        entry = column.to_dict()
        if column.kind in (Kind.CATEGORICAL, Kind.BOOLEAN):
            known = pooled[column.name].dropna().unique().tolist()
            entry["categories"] = sorted(known, key=str)
        entries.append(entry)
    return Schema.from_dict({"columns": entries})


class Spy:
    """A transport that keeps all that clients send."""

    def __init__(self, tables: Mapping[str, pd.DataFrame], **arguments: Any) -> None:
        self.shards = {n: Shard(n, t, device="cpu", **arguments) for n, t in tables.items()}
        self._inner = InProcessTransport(self.shards)
        self.heard: list[tuple[Request, Reply]] = []

    def clients(self) -> Any:
        return self._inner.clients()

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        for reply in self._inner.exchange(requests, timeout=timeout):
            self.heard.append((requests[reply.client_id], reply))
            yield reply


def run(
    method: str = "ctgan", privacy: Any = None, spy: Spy | None = None, **choices: Any
) -> tuple[Federation, Spy]:
    spy = spy or Spy(TABLES)
    schema = choices.pop("schema", None)
    choices = {"n_rounds": 2, "seed": 0, **choices}
    federation = Federation(
        Plan(method, CONFIGS[method], privacy=privacy, **choices), spy, schema=schema
    )
    federation.run()
    return federation, spy


# --- every message ---

MAY_SAY = {
    "describe": {"schema"},
    "labels": {"labels", "private"},
    "count": {"deviation", "rows"},
    "prepare": {"rows", "parameters", "private", "spent"},
    "train": {"metrics", "spent"},
    "finish": set(),
}


@pytest.mark.parametrize("method", ["ctgan", "tvae"])
def test_all_that_leaves_a_client_is_in_its_ledger_or_public(method: str) -> None:
    _, spy = run(method, promise())
    for name, shard in spy.shards.items():
        said = [(q, r) for q, r in spy.heard if r.client_id == name]
        ledger = Ledger.from_list(said[-2][1].meta["spent"]["ledger"])
        counts, labels, steps = ledger.events
        assert isinstance(counts, Skellam)
        assert isinstance(labels, Threshold)
        assert isinstance(steps, SampledGaussian)
        vectors = 1  # the number of rows
        for request, reply in said:
            assert reply.error is None
            assert set(reply.meta) == MAY_SAY[request.kind]
            if request.kind == "describe":
                for column in Schema.from_dict(reply.meta["schema"]):
                    assert (column.value, column.categories) == (None, None)
                    assert (column.lower, column.upper) == (None, None)
                    assert column.decimals in (None, 0)
            if request.kind == "labels":
                assert len(reply.meta["labels"]) == labels.count
            if request.kind == "count":
                assert set(reply.arrays) == {"counts"}
                questions = request.meta["questions"]
                vectors += len({q["column"] for q in questions if not q.get("decimals")})
                vectors += sum(bool(q.get("decimals")) for q in questions)
                assert reply.meta["deviation"] == counts.deviation
            if request.kind == "prepare":
                assert reply.arrays == {}
                assert reply.meta["rows"] == shard._guard.rows  # type: ignore[union-attr]
            if request.kind == "train":
                assert set(reply.arrays) == {"vector"}
                assert reply.meta["metrics"] == {}
        assert vectors <= counts.count
        trained = sum(request.kind == "train" for request, _ in said)
        assert steps.steps == trained * shard._guard.training.steps  # type: ignore[union-attr]


def test_counts_carry_the_noise_that_the_ledger_says() -> None:
    _, noisy = run("tvae", promise(1.0))
    exact, _ = run("tvae")
    assert exact.encoder is not None
    differences = []
    for request, reply in noisy.heard:
        if request.kind != "count":
            continue
        shard = Shard(reply.client_id, TABLES[reply.client_id], device="cpu")
        labels = next(q for q, r in noisy.heard if q.kind == "labels")
        shard.handle(Request("labels", meta={"schema": labels.meta["schema"]}))
        true = shard.handle(Request("count", meta={"questions": request.meta["questions"]}))
        scaled = (reply.arrays["counts"] - true.arrays["counts"]) / reply.meta["deviation"]
        differences.append(scaled)
    found = np.concatenate(differences)
    assert len(found) > 5000
    assert abs(found.mean()) < 6 / np.sqrt(len(found))
    assert abs(found.var() - 1) < 8 * np.sqrt(2 / len(found))


def test_the_noise_never_comes_from_the_seed() -> None:
    first, spy = run("tvae", promise())
    second, other = run("tvae", promise())
    assert first.state is not None
    assert second.state is not None
    assert not torch.equal(first.state.vector, second.state.vector)

    def counts(heard: Spy) -> Any:
        return next(r.arrays["counts"] for q, r in heard.heard if q.kind == "count")

    assert not np.array_equal(counts(spy), counts(other))


def test_a_table_of_numbers_alone() -> None:
    """Each column is asked for its nulls, its decimals and its values at once."""
    rng = np.random.default_rng(0)
    tables = {f"c{i}": pd.DataFrame(rng.normal(size=(60, 3)), columns=[*"abc"]) for i in range(2)}
    federation, _ = run("tvae", promise(), Spy(tables))
    assert federation.phase == "complete"


# --- every combination ---

UNITS, TRUSTS = ("record", "client"), ("local", "server", "distributed")
ENFORCED = {("record", "local"), ("client", "server")}


@pytest.mark.parametrize("method", ["ctgan", "tvae"])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
@pytest.mark.parametrize(("unit", "trust"), list(itertools.product(UNITS, TRUSTS)))
def test_every_promise_is_kept_or_refused(
    method: str, epsilon: float, unit: str, trust: str
) -> None:
    small = {"insist": True, "max_grad_norm": 1e-3} if unit == "client" else {}
    wanted = promise(epsilon, unit=unit, trust=trust, **small)
    if (unit, trust) not in ENFORCED:
        with pytest.raises(PlanError):
            Plan(method, privacy=wanted)
        return
    federation, _ = run(method, wanted, schema=public_schema(TABLES))
    report = federation.privacy
    assert report is not None
    assert report["unit"] == unit
    assert 0.9 * epsilon < report["epsilon"] <= epsilon
    assert spent_epsilon(report) == report["epsilon"]
    for word in ("delta", "neighbouring", "trust", "protects", "public", "accountant"):
        assert report[word]


@pytest.mark.parametrize(
    "choices",
    [
        {"aggregation": "similarity"},
        {"config": {"pac": 2}},
        {"privacy": promise(unit="client"), "aggregation": "median"},
        {"privacy": promise(unit="client"), "aggregation": "weighted"},
        {"privacy": promise(unit="client"), "aggregation": "scaffold"},
        {"privacy": promise(unit="client"), "max_grad_norm": 1.0},
        {"privacy": promise(unit="client"), "sync_every": 2},
        {"privacy": promise(ledger="x.json")},
    ],
)
def test_choices_under_which_a_promise_would_not_hold(choices: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        Plan("ctgan", **{"privacy": promise(), **choices})


def test_people_at_several_clients_share_the_promise() -> None:
    federation, _ = run("tvae", promise(3.0, overlap="overlapping"))
    report = federation.privacy
    assert report is not None
    each = [client["epsilon"] for client in report["clients"].values()]
    assert all(epsilon <= 1.0 for epsilon in each)
    assert report["epsilon"] == pytest.approx(sum(each))
    assert report["epsilon"] <= 3.0
    assert report["delta"] == pytest.approx(1e-5)


def test_too_few_clients_to_hide_one_is_refused_with_a_reason() -> None:
    with pytest.raises(PlanError, match=r"drown.*record"):
        run("tvae", promise(unit="client"), schema=public_schema(TABLES))
    with pytest.raises(PlanError, match="schema"):
        run("tvae", promise(unit="client", insist=True))


@pytest.mark.parametrize("choices", [{"bands": 2}, {"adaptive_clip": True}, {}])
def test_whole_clients_in_turns_and_samples(choices: dict[str, Any]) -> None:
    wanted = promise(8.0, unit="client", insist=True, max_grad_norm=1e-3, **choices)
    tables = {f"c{i:02}": dirty_table(40, seed=i) for i in range(30 if choices else 6)}
    fraction = 1.0 if "bands" in choices else 0.5
    if "adaptive_clip" in choices:
        wanted["differential_privacy"]["epsilon"] = 60.0
    federation, _ = run(
        "tvae",
        wanted,
        Spy(tables),
        schema=public_schema(tables),
        client_fraction=fraction,
        n_rounds=4,
    )
    report = federation.privacy
    assert report is not None
    assert report["epsilon"] <= wanted["differential_privacy"]["epsilon"]
    cohorts = [set(each.clients) for each in federation.reports]
    if "bands" in choices:
        assert cohorts[0] == cohorts[2]
        assert not cohorts[0] & cohorts[1]


def test_a_promise_has_defaults_of_its_own() -> None:
    spy = Spy({name: pd.concat([table] * 2) for name, table in TABLES.items()})
    wanted = Plan("tvae", {"learning_rate": 0.1}, n_rounds=1, privacy=promise(9.0), local_epochs=1)
    federation = Federation(wanted, spy)
    federation.run()
    assert federation.config["learning_rate"] == 0.1
    for shard in spy.shards.values():
        assert shard._guard is not None
        assert shard._guard.training is not None
        assert shard._guard.training.batch_size == federation.config["batch_size"] == 128


# --- what is kept ---


def test_a_model_file_has_the_promise_and_no_row(tmp_path: Path) -> None:
    tables = {name: table.copy() for name, table in TABLES.items()}
    canary, number = "Canary-Straße-77", 918273.625
    tables["c0"].loc[0, "région=?"] = canary
    tables["c0"].loc[0, "zeros"] = number
    trained = FederatedSynthesizer("ctgan", QUICK, n_rounds=2, privacy=promise(1.0), seed=0)
    trained.fit(tables)
    path = tmp_path / "a.model"
    trained.save(path)
    content = path.read_bytes()
    assert canary.encode() not in content
    assert json.dumps(canary).strip('"').encode() not in content
    for written in (np.float64(number), np.float32(number)):
        assert written.tobytes() not in content
    assert b"918273.625" not in content
    loaded = Synthesizer.load(path)
    assert loaded.privacy == json.loads(json.dumps(trained.privacy))
    assert loaded.epsilon == trained.epsilon
    assert len(loaded.generate(20)) == 20


def test_one_table_keeps_the_same_promise(tmp_path: Path) -> None:
    ledger = tmp_path / "table.ledger.json"
    wanted = promise(2.0, ledger=str(ledger), budget=2.5)
    fitted = Synthesizer("tvae", QUICK_TVAE, seed=0, privacy=wanted).fit(TABLES["c0"])
    assert fitted.epsilon is not None
    assert 1.8 < fitted.epsilon <= 2.0
    assert len(fitted.generate(30)) == 30
    with pytest.raises(PrivacyError, match="budget"):
        Synthesizer("tvae", QUICK_TVAE, seed=0, privacy=wanted).fit(TABLES["c0"])
    with pytest.raises(PlanError, match="clients"):
        Synthesizer("tvae", privacy=promise(unit="client"))
    with pytest.raises(PlanError, match="pac"):
        Synthesizer("ctgan", {"pac": 10}, privacy=promise())


def test_losses_stop_no_private_run() -> None:
    run_ = FederatedSynthesizer(
        "tvae", QUICK_TVAE, n_rounds=2, privacy=promise(), callbacks=[EarlyStopping("loss")]
    )
    with pytest.raises(PlanError, match="early stopping"):
        run_.fit(TABLES)


# --- going on ---


class CrashError(Exception):
    pass


@pytest.mark.parametrize("unit", ["record", "client"])
def test_a_resumed_run_has_the_ledger_of_a_straight_one(tmp_path: Path, unit: str) -> None:
    small = {"insist": True, "max_grad_norm": 1e-3} if unit == "client" else {}
    wanted = promise(4.0, unit=unit, **small)
    choices: dict[str, Any] = {"n_rounds": 4, "local_epochs": 1, "privacy": wanted, "seed": 3}
    choices["schema"] = public_schema(TABLES)
    straight = FederatedSynthesizer("tvae", QUICK_TVAE, **choices).fit(TABLES)

    broken = FederatedSynthesizer(
        "tvae", QUICK_TVAE, callbacks=[CheckpointCallback(tmp_path)], **choices
    )

    @broken.on_round_complete
    def crash(round_num: int) -> None:
        if round_num == 2:
            raise CrashError

    with pytest.raises(CrashError):
        broken.fit(TABLES)
    resumed = FederatedSynthesizer("tvae", QUICK_TVAE, **choices).fit(TABLES, resume_from=tmp_path)
    assert resumed.privacy is not None
    assert straight.privacy is not None
    assert resumed.epsilon is not None
    assert resumed.epsilon <= 4.0
    if unit == "client":
        assert resumed.privacy == straight.privacy
        return
    for name, client in resumed.privacy["clients"].items():
        kinds = [event["kind"] for event in client["ledger"]]
        assert kinds == [e["kind"] for e in straight.privacy["clients"][name]["ledger"]]
        first, steps = client["ledger"][0], client["ledger"][-1]
        assert first["count"] == straight.privacy["clients"][name]["ledger"][0]["count"]
        assert steps["steps"] % 4 == 0


# --- clients that promise by themselves ---


def own(name: str, **arguments: Any) -> Shard:
    return Shard(name, TABLES[name], device="cpu", guarded=True, **arguments)


def test_a_client_keeps_its_own_promise_whatever_the_plan_says(tmp_path: Path) -> None:
    spy = Spy(TABLES)
    file = str(tmp_path / "c1.json")
    spy.shards["c1"] = own("c1", privacy=Privacy(1.0, ledger=file))
    spy._inner = InProcessTransport(spy.shards)
    federation, _ = run("ctgan", None, spy)
    report = federation.privacy
    assert report is not None
    assert report["epsilon"] is None
    assert report["unprotected"] == ["c0", "c2"]
    assert 0.9 < report["clients"]["c1"]["epsilon"] <= 1.0
    assert federation.config["pac"] == 1
    for request, reply in spy.heard:
        if reply.client_id == "c1" and request.kind == "train":
            assert reply.meta["metrics"] == {}
    kept = json.loads(Path(file).read_text())
    assert {each["event"]["kind"] for each in kept["releases"]} == {
        "skellam",
        "threshold",
        "sampled_gaussian",
    }


def test_the_stricter_of_two_promises_holds() -> None:
    spy = Spy(TABLES)
    spy.shards["c1"] = own("c1", privacy=Privacy(0.5, max_grad_norm=0.1))
    spy._inner = InProcessTransport(spy.shards)
    federation, _ = run("tvae", promise(2.0), spy)
    report = federation.privacy
    assert report is not None
    assert report["clients"]["c1"]["epsilon"] <= 0.5 < report["clients"]["c0"]["epsilon"]
    assert report["epsilon"] <= 2.0


@pytest.mark.parametrize("kind", ["count", "train", "labels"])
def test_a_hostile_server_gets_no_more_than_was_promised(kind: str) -> None:
    """Whatever is asked again and again, the ledger stays within the promise."""
    _, spy = run("tvae", promise(1.0))
    shard = spy.shards["c0"]
    requests = [q for q, r in spy.heard if q.kind == kind and r.client_id == "c0"]
    answers = [shard.handle(requests[-1]) for _ in range(8)]
    guard = shard._guard
    assert guard is not None
    assert guard.ledger.epsilon(1e-5) <= 1.0
    if kind == "labels":
        assert len({json.dumps(answer.meta["labels"]) for answer in answers}) == 1
    elif kind == "train":  # the very same training is sent again, not done again
        sent = {answer.arrays["vector"].tobytes() for answer in answers if not answer.error}
        assert len(sent) == 1
    else:
        assert answers[-1].error is not None


def test_what_is_wrong_with_a_row_stays_with_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """Neither an error nor its absence tells of a cell, whatever schema the server chooses."""
    tables = {name: table.copy() for name, table in TABLES.items()}
    tables["c1"].loc[3, "zeros"] = np.inf
    tables["c1"].loc[4, "sex"] = "a label that no schema states"
    tables["c1"]["smoker"] = tables["c1"]["smoker"].astype(object)
    tables["c1"].loc[5, "smoker"] = "sometimes"
    tables["c1"].loc[6, "hospital"] = "south"
    _, spy = run("tvae", promise(), Spy(tables), schema=public_schema(TABLES))
    assert all(reply.error is None for _, reply in spy.heard)
    assert "cells do not fit the schema" in caplog.text
    with pytest.raises(GenesisError):
        run("tvae", None, Spy(tables), schema=public_schema(TABLES))
