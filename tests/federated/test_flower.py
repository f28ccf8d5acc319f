"""The rounds over Flower: through its own message, context and record types, in one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genesis
from genesis import (
    DataError,
    FederatedSynthesizer,
    FederationError,
    PlanError,
    SchemaError,
    Synthesizer,
)
from genesis.errors import PrivacyError
from genesis.federated.callbacks import RoundReport
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.secagg import masking
from genesis.federated.secagg.identity import Identity, Roster, key_text
from genesis.federated.shard import Shard
from genesis.federated.transport.body import (
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from genesis.privacy.ledger import Ledger, LedgerFile
from genesis.privacy.report import spent_epsilon
from genesis.schema import Kind
from tests.dirty import QUICK, QUICK_TVAE, dirty_table
from tests.federated.flower_grid import FlowerTransport, MemoryGrid, copied, write_tables
from tests.federated.lossy import IDENTITIES, Lossy, secured
from tests.privacy.test_private_runs import public_schema

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import ServerApp  # isort: skip
from genesis.federated.flower import client_app, server_app  # isort: skip

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "examples" / "flower"
NO_INSTALLATION = "--disable-runtime-dependency-installation"
CONFIGS: dict[str, dict[str, Any]] = {"ctgan": QUICK, "tvae": QUICK_TVAE}


def tables(k: int = 3, n: int = 300) -> dict[str, pd.DataFrame]:
    table = dirty_table(n)
    return {f"site_{i}": table.iloc[i::k].reset_index(drop=True) for i in range(k)}


def grid_of(folder: Path, k: int = 3, **options: Any) -> MemoryGrid:
    return MemoryGrid(write_tables(tables(k), folder), **options)


def train(grid: MemoryGrid, plan: Plan, fewest: int | None = None) -> Federation:
    transport = FlowerTransport(grid)
    transport.wait_for((), len(grid.contexts) if fewest is None else fewest, 0.3)
    federation = Federation(plan, transport)
    federation.run()
    return federation


def quick_plan(**choices: Any) -> Plan:
    return Plan(**{"method": "tvae", "config": QUICK_TVAE, "n_rounds": 2, "seed": 3, **choices})


def silent(*_: object) -> None:
    """A node that never answers."""


def vector_of(federation: Federation) -> torch.Tensor:
    assert federation.state is not None
    return federation.state.vector


def server_context(**run_config: Any) -> Context:
    return Context(7, 1, {}, RecordDict(), run_config)


@pytest.mark.parametrize("processes", [1, 2, 0], ids=["one process", "two", "one a message"])
@pytest.mark.parametrize(
    ("method", "choices"),
    [
        ("ctgan", {}),
        ("tvae", {"aggregation": "scaffold", "client_fraction": 0.6}),
        ("ctgan", {"synchronize": "generator", "max_grad_norm": 0.5}),
    ],
    ids=["fedavg", "scaffold", "local critics"],
)
def test_it_is_the_simulation_bit_for_bit(
    method: str, choices: dict[str, Any], processes: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"n_rounds": 3, "local_epochs": 1, "seed": 5, **choices}
    simulated = FederatedSynthesizer(method, CONFIGS[method], device="cpu", **options)
    simulated.fit(tables())
    grid = grid_of(tmp_path, processes=processes)
    federation = train(grid, Plan(method=method, config=CONFIGS[method], **options))
    assert torch.equal(vector_of(federation), simulated.model.model.get_vector())
    assert [r.metrics for r in federation.reports] == [r.metrics for r in simulated.history]


def test_the_server_app_writes_what_the_simulation_generates(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(Plan(method="tvae", config=QUICK_TVAE, n_rounds=9, seed=1).to_toml())
    grid = grid_of(tmp_path)
    model, synthetic = tmp_path / "final.model", tmp_path / "synthetic.parquet"
    server_app.app(
        grid,
        server_context(
            plan=str(plan),
            n_rounds=2,
            seed=8,
            min_clients=3,
            discrete_columns="visits, sex",
            model=str(model),
            synthetic=str(synthetic),
            rows=77,
            method="",
            device="cpu",
            **{"config.epochs": 4},
        ),
    )
    simulated = FederatedSynthesizer(
        "tvae", {**QUICK_TVAE, "epochs": 4}, n_rounds=2, seed=8, min_clients=3, device="cpu"
    ).fit(tables(), discrete_columns=["visits", "sex"])
    genesis.write_table(simulated.generate(77), same := tmp_path / "same.parquet")
    assert synthetic.read_bytes() == same.read_bytes()
    loaded = Synthesizer.load(model, device="cpu")
    assert loaded.generate(20, seed=1).equals(simulated.model.generate(20, seed=1))
    # The run is over: nodes keep neither tables nor models.
    assert client_app._shards == {}
    for context in grid.contexts.values():
        assert context.state["genesis"]["snapshot"] == b""
        assert context.state["genesis"]["setup"] == []


def test_a_node_has_a_say_in_its_training_and_gets_the_model(tmp_path: Path) -> None:
    plan = quick_plan()
    configs = write_tables(tables(), tmp_path)
    for config in configs:
        config |= {"max-grad-norm": 0.01, "clip-per-layer": True}
    configs[1]["model"] = str(tmp_path / "own.model")
    federation = train(MemoryGrid(configs, processes=0), plan)
    simulated = FederatedSynthesizer(
        "tvae", QUICK_TVAE, n_rounds=2, seed=3, max_grad_norm=0.01, clip_per_layer=True
    ).fit(tables())
    assert torch.equal(vector_of(federation), simulated.model.model.get_vector())
    own = Synthesizer.load(tmp_path / "own.model", device="cpu")
    assert own.generate(20, seed=1).equals(simulated.model.generate(20, seed=1))


def test_no_path_of_the_server_and_no_schema_of_flower_crosses(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, 2)
    transport = FlowerTransport(grid)
    transport.wait_for((), 2, 5)
    requests = {"site_0": Request("checkpoint", meta={"rounds": 1}, local={"directory": "/secret"})}
    list(transport.exchange(requests, timeout=5))
    assert b"/secret" not in grid.pushed[-1].content["body"]["body"]


def test_equal_requests_are_the_same_bytes_and_no_message_can_be_guessed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, 3)
    transport = FlowerTransport(grid)
    transport.wait_for((), 3, 5)
    request = Request("describe", meta={"discrete_columns": []})
    assert len(list(transport.exchange(dict.fromkeys(tables(3), request), timeout=5))) == 3
    sent = [message.content for message in grid.pushed[-3:]]
    assert len({content["body"].object_id for content in sent}) == 1
    assert len({content["turn"]["nonce"] for content in sent}) == 3


# --- joining ---


def test_it_waits_for_nodes_that_come_later(tmp_path: Path) -> None:
    class Late(MemoryGrid):
        looks = 0

        def get_node_ids(self) -> list[int]:
            self.looks += 1
            return super().get_node_ids()[: self.looks]

    transport = FlowerTransport(grid := Late(write_tables(tables(), tmp_path)))
    transport.wait_for((), 3, 10)
    assert [info.client_id for info in transport.clients()] == sorted(tables())
    del grid.contexts[101]
    assert [info.present for info in transport.clients()] == [True, False, True]


def test_a_node_tells_no_keys_unless_its_owner_names_them(tmp_path: Path) -> None:
    keyed = {
        name: table.assign(key=[f"Person {name} {i:04d} X" for i in range(len(table))])
        for name, table in tables().items()
    }
    configs = write_tables(keyed, tmp_path)
    plan = quick_plan(discrete_columns=("key",))
    with pytest.raises(SchemaError, match="'key' holds keys at client 'site_0'"):
        train(MemoryGrid(configs), plan)
    for config in configs:
        config["discrete-columns"] = "key"
    encoder = train(MemoryGrid(configs, run_id=8), plan).encoder
    assert encoder is not None
    assert encoder.schema["key"].kind is Kind.CATEGORICAL


def test_too_few_nodes_are_an_error_that_says_why(tmp_path: Path) -> None:
    configs = write_tables(tables(), tmp_path)
    configs[1]["data"] = str(tmp_path / "nothing.csv")
    del configs[2]["client-id"]
    grid = MemoryGrid([*configs, *write_tables({"mute": dirty_table(50)}, tmp_path)])
    grid.handlers[103] = silent
    with pytest.raises(FederationError) as caught:
        FlowerTransport(grid).wait_for((), 2, 0.2)
    text = str(caught.value)
    assert "too few clients joined within 0.2 s; got 1, min_clients is 2" in text
    assert "node 101: a file of this node cannot be used" in text
    assert "node 102: the node config has no 'client-id'" in text
    assert str(tmp_path) not in text  # a path of the node's machine stays there


def test_enough_nodes_begin_without_one_that_never_answers(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, 3)
    grid.handlers[101] = silent
    transport = FlowerTransport(grid)
    transport.wait_for((), 2, 0.2)
    assert [info.client_id for info in transport.clients()] == ["site_0", "site_2"]


def test_no_nodes_at_all_end_in_an_error() -> None:
    with pytest.raises(FederationError, match="too few clients joined"):
        server_app.app(MemoryGrid([]), server_context(join_timeout=0.1))


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    configs = write_tables(tables(2), tmp_path)
    grid = MemoryGrid([configs[0], configs[1], configs[0]])
    with pytest.raises(FederationError, match=r"client 'site_0'; got nodes 100 and 102; give"):
        FlowerTransport(grid).wait_for((), 2, 1)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({}, "it says no name"),
        ({"client_id": 3, "version": genesis.__version__}, "it says no name"),
        ({"client_id": "x" * 101, "version": genesis.__version__}, "it says no name"),
        ({"client_id": "a\x1b[2Jb", "version": genesis.__version__}, "its name cannot be printed"),
        ({"client_id": "a", "version": "0.0"}, "it has version 0.0, and the server"),
        ({"error": "two\nlines\x1b[2J"}, "node 102: two lines [2J"),
        ({"error": ""}, "node 102: nothing that can be read"),
    ],
)
def test_a_node_that_is_no_client_is_left_out(
    told: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    grid = grid_of(tmp_path)
    grid.handlers[102] = lambda message, _: Message(
        RecordDict({"turn": ConfigRecord(told)}), reply_to=message
    )
    with pytest.raises(FederationError, match="too few clients") as caught:
        FlowerTransport(grid).wait_for((), 3, 0.1)
    assert reason in str(caught.value)


# --- failing ---


def at_training(answer: Callable[[Message, Context], Message | None]) -> Any:
    """A node that is like others until it is asked to train."""

    def handle(message: Message, context: Context) -> Message | None:
        if "body" in message.content:
            body = message.content["body"]["body"]
            assert isinstance(body, bytes)
            if b'"kind":"train"' in body:
                return answer(message, context)
        return client_app.app(message, context)

    return handle


def only_report(grid: MemoryGrid, **choices: Any) -> RoundReport:
    [report] = train(grid, quick_plan(n_rounds=1, min_clients=2, **choices)).reports
    return report


def test_a_node_that_raises_fails_its_round_only(tmp_path: Path) -> None:
    def fail(*_: object) -> Message:
        raise MemoryError("far\ntoo large")

    grid = grid_of(tmp_path)
    grid.handlers[101] = at_training(fail)
    report = only_report(grid)
    assert report.failed == {"site_1": "<class 'MemoryError'>:<'far too large'>"}
    assert report.clients == ("site_0", "site_2")


def test_a_node_that_never_answers_dropped_out(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    grid.handlers[101] = at_training(silent)
    report = only_report(grid, timeout_seconds=0.3)
    assert report.dropped == ("site_1",)
    assert report.clients == ("site_0", "site_2")


@pytest.mark.parametrize("reason", ["", "\n\x00", None])
def test_a_failure_without_a_reason_is_one(reason: str | None, tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    grid.handlers[101] = at_training(lambda message, _: Message(Error(8, reason), reply_to=message))
    assert list(only_report(grid).failed) == ["site_1"]


@pytest.mark.parametrize("code", [3, 4, 5])
def test_what_flower_says_of_a_node_that_is_gone_is_no_failure(code: int, tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    grid.handlers[101] = at_training(
        lambda message, _: Message(Error(code, "Node Unavailable"), reply_to=message)
    )
    assert only_report(grid).dropped == ("site_1",)


def records(**named: Mapping[str, Any]) -> RecordDict:
    return RecordDict({name: ConfigRecord(dict(values)) for name, values in named.items()})


def update(**arrays: Any) -> bytes:
    return encode_reply(Reply("", {"rows": 100, "metrics": {}}, arrays))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (records(), "its reply is not one of this program"),
        (records(body={"body": b"\x80\x04pickle"}, turn={"handled": 9}), "not a message of this"),
        (records(body={"body": b""}, turn={"handled": 9}), "not a message of this"),
        (records(body={"body": "text"}, turn={"handled": 9}), "not one of this program"),
        (records(body={"body": update()}, turn={"handled": "9"}), "not one of this program"),
        (records(body={"body": update()}, turn={}), "not one of this program"),
        (records(body={"body": update()}, turn={"handled": 9}), "holds other arrays"),
        (records(turn={"lost": True}), "not one of this program"),
        (
            records(body={"body": update(vector=np.zeros(3, np.float32))}, turn={"handled": 9}),
            "'vector' of the wrong shape",
        ),
        (records(body={"body": b"x" * (40 << 20)}, turn={"handled": 9}), "its reply is too large"),
    ],
)
def test_a_hostile_reply_costs_its_sender_the_round(
    content: RecordDict, reason: str, tmp_path: Path
) -> None:
    grid = grid_of(tmp_path)
    grid.handlers[101] = at_training(lambda message, _: Message(content, reply_to=message))
    report = only_report(grid)
    assert reason in report.failed["site_1"]
    assert report.clients == ("site_0", "site_2")


# --- a node ---


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[MemoryGrid, FlowerTransport]]:
    grid = grid_of(tmp_path, 1)
    transport = FlowerTransport(grid)
    transport.wait_for((), 1, 5)
    yield grid, transport
    client_app._shards.clear()


def reply_to(content: RecordDict, context: Context) -> Reply:
    """What the app replies, which must not raise whatever it is sent."""
    message = Message(content, 100, "query.ask", ttl=5)
    reply = client_app.app(message, context).content
    return decode_reply(reply["body"]["body"], "site_0", {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        records(),
        records(body={"body": b"{}"}, turn={"handled": 0}),
        records(body={"body": "text"}, turn={"handled": 0}),
        records(body={"body": encode_request(Request("shutdown"))}, turn={"handled": 0}),
        records(body={"body": encode_request(Request("train"))}, turn={"handled": 0}),
        records(body={"body": b""}, turn={"handled": "x"}),
        records(body={"body": b""}, turn={"handled": 9}, setup={"bodies": [b"x"]}),
        records(body={"body": b""}, turn={"handled": 9}, setup={}),
    ],
)
def test_a_node_answers_anything(
    content: RecordDict, node: tuple[MemoryGrid, FlowerTransport]
) -> None:
    context = node[0].contexts[100]
    assert reply_to(content, context).error
    described = Request("describe", meta={"discrete_columns": []})
    again = records(body={"body": encode_request(described)}, turn={"handled": 0})
    assert reply_to(again, context).error is None


def test_no_text_of_a_foreign_error_leaves_the_node(
    node: tuple[MemoryGrid, FlowerTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> pd.DataFrame:
        raise ValueError("could not convert 'Mrs Jones, 41'")

    monkeypatch.setattr(client_app, "read_table", fail)
    client_app._shards.clear()
    content = records(body={"body": encode_request(Request("describe"))}, turn={"handled": 0})
    assert reply_to(content, node[0].contexts[100]).error == "an unexpected ValueError"


def test_a_node_knows_nothing_of_another_run(node: tuple[MemoryGrid, FlowerTransport]) -> None:
    """Flower hands the state of one run of a series to the next."""
    grid, transport = node
    Federation(quick_plan(n_rounds=1), transport).run()
    old = grid.contexts[100]
    assert client_app.Memory.of(old).handled > 3
    new = Context(8, old.node_id, old.node_config, old.state, {})
    assert client_app.Memory.of(new) == client_app.Memory("8")


@pytest.mark.parametrize("processes", [1, 0])
def test_a_node_that_lost_its_context_begins_again(processes: int, tmp_path: Path) -> None:
    """As a SuperNode does that is started again with its key."""
    grid = grid_of(tmp_path, processes=processes)
    plan = quick_plan(n_rounds=3)
    transport = FlowerTransport(grid)
    transport.wait_for((), 3, 5)

    def restart(message: Message, context: Context) -> Message | None:
        context.state.clear()
        client_app._shards.clear()
        grid.handlers[101] = client_app.app
        return client_app.app(message, context)

    grid.handlers[101] = at_training(restart)
    federation = Federation(plan, transport)
    federation.run()
    assert [report.clients for report in federation.reports] == [tuple(tables())] * 3
    assert torch.isfinite(vector_of(federation)).all()


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    choices = {"method": "tvae", "seed": 4, "local_epochs": 1, "min_clients": 3}
    configs = write_tables(tables(), tmp_path)
    for config in configs:
        config["checkpoint"] = str(tmp_path / "own" / config["client-id"])
    plan = tmp_path / "plan.toml"
    plan.write_text(Plan(config=QUICK_TVAE, **choices).to_toml())
    saved = tmp_path / "saved"

    def rounds(n: int, run_id: int, **run_config: Any) -> pd.DataFrame:
        path = tmp_path / "synthetic.parquet"
        said = {"plan": str(plan), "synthetic": str(path), "n_rounds": n, "rows": 40}
        grid = MemoryGrid(configs, processes=0, run_id=run_id)
        server_app.app(grid, server_context(**said, **run_config))
        return genesis.read_table(path)

    straight = rounds(4, 1)
    rounds(2, 2, checkpoint=str(saved))
    resumed = rounds(4, 3, checkpoint=str(saved), resume=True)
    assert resumed.equals(straight)


# --- promises of privacy ---


def own_promise(epsilon: float) -> dict[str, Any]:
    return {"differential_privacy": {"epsilon": epsilon}}


def ledger_of(report: Mapping[str, Any], client: str) -> list[Mapping[str, Any]]:
    """What one client released, which its promise allows."""
    told = report["clients"][client]
    assert Ledger.from_list(told["ledger"]).epsilon(told["delta"]) == told["epsilon"]
    assert told["epsilon"] <= told["promise"]["epsilon"]
    return list(told["ledger"])


@pytest.mark.parametrize("processes", [1, 2, 0], ids=["one process", "two", "one a message"])
@pytest.mark.parametrize("method", ["ctgan", "tvae"])
def test_the_plans_promise_is_kept_whoever_handles_a_message(
    method: str, processes: int, tmp_path: Path
) -> None:
    """What one process has released and answered, the next one knows."""
    model, plan = tmp_path / "final.model", tmp_path / "plan.toml"
    choices = {"config": CONFIGS[method], "seed": 3, "privacy": own_promise(9.0)}
    plan.write_text(Plan(method=method, **choices).to_toml())
    grid = grid_of(tmp_path, processes=processes)
    said = {"plan": str(plan), "n_rounds": 3, "local_epochs": 1, "model": str(model)}
    server_app.app(grid, server_context(**said, min_clients=3, **{"privacy.epsilon": 2.0}))
    report = Synthesizer.load(model, device="cpu").privacy
    assert report is not None
    assert 1.8 < report["epsilon"] == spent_epsilon(report) <= 2.0
    for client in tables():
        counts, labels, steps = ledger_of(report, client)
        kinds = (counts["kind"], labels["kind"], steps["kind"])
        assert kinds == ("skellam", "threshold", "sampled_gaussian")
        assert steps["steps"] % 3 == 0


def test_a_node_promises_by_itself(tmp_path: Path) -> None:
    configs = write_tables(tables(), tmp_path)
    configs[0] |= {"epsilon": 1.0, "delta": 1e-6, "privacy-budget": 1.1}
    configs[1] |= {"epsilon": 3.0, "privacy-max-grad-norm": 0.5, "privacy-ledger": "mine.json"}
    configs[1]["privacy-ledger"] = str(tmp_path / "mine.json")
    configs[1]["model"] = str(tmp_path / "own.model")
    model = tmp_path / "final.model"
    grid = MemoryGrid(configs, processes=0)
    said = {"method": "ctgan", "config.epochs": 2, "n_rounds": 2, "min_clients": 3}
    server_app.app(grid, server_context(**said, model=str(model)))
    report = Synthesizer.load(model, device="cpu").privacy
    assert report is not None
    assert Synthesizer.load(tmp_path / "own.model", device="cpu").privacy == report
    assert (report["epsilon"], report["unprotected"]) == (None, ["site_2"])
    promises = [report["clients"][client]["promise"] for client in ("site_0", "site_1")]
    assert [(each["epsilon"], each["delta"]) for each in promises] == [(1.0, 1e-6), (3.0, 1e-5)]
    assert promises[1]["max_grad_norm"] == 0.5
    beside = f"{configs[0]['data']}.ledger.json"
    for client, file in (("site_0", beside), ("site_1", configs[1]["privacy-ledger"])):
        kept = LedgerFile(file, budget=None, delta=1e-5).ledger().to_list()
        assert kept == ledger_of(report, client)
    with pytest.raises(PrivacyError, match="more than the budget in") as caught:
        server_app.app(MemoryGrid(configs, run_id=8), server_context(**said))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"epsilon": -1.0}, "epsilon of differential privacy must be a number above 0"),
        ({"delta": 1e-5}, "needs an epsilon"),
        ({"privacy-budget": 2.0}, "needs an epsilon"),
    ],
)
def test_a_node_whose_promise_is_none_takes_no_part(
    own: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    configs = write_tables(tables(1), tmp_path)
    with pytest.raises(FederationError, match="too few clients") as caught:
        FlowerTransport(MemoryGrid([configs[0] | own])).wait_for((), 1, 0.1)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kept", [True, False])
def test_a_private_node_that_lost_its_context_releases_nothing_again(
    kept: bool, tmp_path: Path
) -> None:
    configs = write_tables(tables(), tmp_path)
    if kept:
        configs[1]["checkpoint"] = str(tmp_path / "own")
    grid = MemoryGrid(configs, processes=0)
    transport = FlowerTransport(grid)
    transport.wait_for((), 3, 5)
    trained: list[Message] = []

    def lose(message: Message, context: Context) -> Message | None:
        trained.append(message)
        if len(trained) == 2:  # in the second round
            context.state.clear()
        return client_app.app(message, context)

    grid.handlers[101] = at_training(lose)
    federation = Federation(quick_plan(n_rounds=3, privacy=own_promise(2.0)), transport)
    federation.run()
    others = ("site_0", "site_2")
    clients = [report.clients for report in federation.reports]
    assert clients == [tuple(tables()), *([tuple(tables()) if kept else others] * 2)]
    if not kept:
        assert "has kept nothing" in federation.reports[1].failed["site_1"]
    report = federation.privacy
    assert report is not None
    assert report["epsilon"] <= 2.0
    steps = [ledger_of(report, client)[-1]["steps"] for client in tables()]
    assert len(ledger_of(report, "site_1")) == 3
    assert kept or steps[1] < steps[0]


def test_a_private_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    configs = write_tables(tables(), tmp_path)
    for config in configs:
        config["checkpoint"] = str(tmp_path / "own" / config["client-id"])
    plan, saved = tmp_path / "plan.toml", tmp_path / "saved"
    choices = {"method": "tvae", "config": QUICK_TVAE, "seed": 4, "local_epochs": 1}
    plan.write_text(Plan(**choices, privacy=own_promise(2.0), n_rounds=4).to_toml())
    said = {"plan": str(plan), "min_clients": 3, "checkpoint": str(saved), "resume": True}
    grid = MemoryGrid(configs, processes=0, run_id=1)
    trained: list[Message] = []

    def stop(message: Message, context: Context) -> Message | None:
        trained.append(message)
        if len(trained) == 3:  # when site_0 has answered
            raise KeyboardInterrupt
        return client_app.app(message, context)

    grid.handlers[101] = at_training(stop)
    with pytest.raises(KeyboardInterrupt):
        server_app.app(grid, server_context(**said))
    model = tmp_path / "final.model"
    grid = MemoryGrid(configs, processes=0, run_id=2)
    server_app.app(grid, server_context(**said, model=str(model)))
    report = Synthesizer.load(model, device="cpu").privacy
    assert report is not None
    assert 1.8 < report["epsilon"] <= 2.0
    for client in tables():
        assert len(ledger_of(report, client)) == 3
        assert ledger_of(report, client)[-1]["steps"] % 4 == 0


# --- secure aggregation ---

SMALL = ["sex", "größe, cm", "visits"]


def small_tables(names: str = "abc", n: int = 60) -> dict[str, pd.DataFrame]:
    return {name: dirty_table(n + 7 * k, k)[SMALL] for k, name in enumerate(names)}


def secure_configs(folder: Path, names: str = "abc") -> list[dict[str, Any]]:
    """Nodes that know each other's keys."""
    roster = folder / "roster.toml"
    Roster({name: IDENTITIES[name].public for name in names}).save(roster)
    configs = write_tables(small_tables(names), folder)
    for config in configs:
        key = folder / f"{config['client-id']}.key"
        IDENTITIES[config["client-id"]].save(key)
        config |= {"identity": str(key), "roster": str(roster)}
    return configs


def request_in(message: Message) -> Request:
    """What a node is asked; a greeting is none."""
    if "body" not in message.content:
        return Request("hello")
    body = message.content["body"]["body"]
    assert isinstance(body, bytes)
    return decode_request(body)


def kept(context: Context) -> dict[str, Any]:
    return dict(context.state["genesis"])


@pytest.mark.parametrize(
    ("method", "choices"),
    [
        ("tvae", {"aggregation": "fedavgm", "secure_aggregation_bits": 24}),
        ("ctgan", {"aggregation": "weighted", "n_rounds": 3}),
    ],
    ids=["fedavgm", "weighted"],
)
def test_sums_are_the_simulations_whoever_handles_a_message(
    method: str, choices: dict[str, Any], tmp_path: Path
) -> None:
    plan = {"n_rounds": 2, "local_epochs": 1, "seed": 5, "secure_aggregation": True, **choices}
    simulated = FederatedSynthesizer(method, CONFIGS[method], device="cpu", **plan)
    simulated.fit(small_tables())
    grid = MemoryGrid(secure_configs(tmp_path), processes=0)
    federation = train(grid, Plan(method=method, config=CONFIGS[method], **plan))
    assert torch.equal(vector_of(federation), simulated.model.model.get_vector())
    assert [r.metrics for r in federation.reports] == [r.metrics for r in simulated.history]


def test_the_server_app_aggregates_securely(tmp_path: Path, caplog: Any) -> None:
    """Nodes without files of keys make their own, and keep them from one process to the next."""
    configs = write_tables(small_tables(), tmp_path)
    for config in configs:
        config["trust-on-first-use"] = True
    synthetic, model = tmp_path / "synthetic.csv", tmp_path / "final.model"
    said = {"n_rounds": 2, "seed": 8, "secure_aggregation": True, "method": "tvae"}
    config = {f"config.{name}": value for name, value in QUICK_TVAE.items() if value is not None}
    files = {"synthetic": str(synthetic), "model": str(model), "rows": 50, "device": "cpu"}
    grid = MemoryGrid(configs, processes=0)
    server_app.app(grid, server_context(**said, **files, **config))
    simulated = FederatedSynthesizer(config=QUICK_TVAE, device="cpu", **said).fit(small_tables())
    genesis.write_table(simulated.generate(50), same := tmp_path / "same.csv")
    assert synthetic.read_bytes() == same.read_bytes()
    loaded = Synthesizer.load(model, device="cpu")
    assert loaded.generate(20, seed=1).equals(simulated.model.generate(20, seed=1))
    # Each node said once that it believes the server, and then remembered whom.
    assert [record.levelname for record in caplog.records].count("WARNING") == 3
    for context in grid.contexts.values():
        assert (kept(context)["identity"], kept(context)["opened"]) == (b"", b"")


@pytest.mark.parametrize(("last", "processes"), [(masking.UPLOAD, 0), (masking.REVEAL, 1)])
def test_a_node_that_is_gone_in_the_middle_of_a_sum(
    last: int, processes: int, tmp_path: Path
) -> None:
    plan = quick_plan(n_rounds=2, secure_aggregation=True, timeout_seconds=0.5)

    def is_silent(client: str, request: Request) -> bool:
        sums = request.kind == "sum" and request.round == 1
        return client == "b" and sums and request.meta["step"] >= last

    def answer(message: Message, context: Context) -> Message | None:
        return None if is_silent("b", request_in(message)) else client_app.app(message, context)

    tables = small_tables("abcd")
    shards = {name: Shard(name, table, device="cpu") for name, table in tables.items()}
    expected = Federation(plan, Lossy(secured(shards), is_silent))
    expected.run()
    grid = MemoryGrid(secure_configs(tmp_path, "abcd"), processes=processes)
    grid.handlers[101] = answer
    federation = train(grid, plan)
    assert torch.equal(vector_of(federation), vector_of(expected))
    without = ("a", "c", "d") if last == masking.UPLOAD else tuple("abcd")
    clients = [report.clients for report in federation.reports]
    assert clients == [tuple("abcd"), without]


def test_a_process_knows_what_others_before_it_have_revealed(tmp_path: Path) -> None:
    """Each message of a sum comes twice, to processes that do not know each other."""
    grid = MemoryGrid(secure_configs(tmp_path), processes=0)
    refusals: list[str] = []

    def asked_again(message: Message, context: Context) -> Message | None:
        reply = client_app.app(message, context)
        if request_in(message).kind == "sum":
            client_app._shards = {}
            refusals.append(reply_to(message.content, copied(context)).error or "")
            client_app._shards = {}
        return reply

    grid.handlers[101] = asked_again
    [report] = train(grid, quick_plan(n_rounds=1, secure_aggregation=True)).reports
    assert report.clients == tuple("abc")
    reasons = ["begun before", *["twice, or out of order"] * 3, "takes no part"]
    assert len(refusals) > 5 * len(reasons)
    for number, refusal in enumerate(refusals):
        assert reasons[number % len(reasons)] in refusal
    # And a server that says that the node has lost everything changes nothing of that.
    context = grid.contexts[101]
    assert json.loads(kept(context)["session"])["revealed"] == ["train 0"]
    begun = encode_request(Request("secure", meta={"scheme": "masking", "session": "00"}))
    content = records(body={"body": begun}, turn={"handled": 9}, setup={"bodies": []})
    assert "taken part in another session" in str(reply_to(content, context).error)


def test_a_node_that_lost_its_context_is_back_in_the_next_round(tmp_path: Path) -> None:
    grid = MemoryGrid(secure_configs(tmp_path, "abcd"), processes=0)
    lost: list[int] = []

    def lose(message: Message, context: Context) -> Message | None:
        request = request_in(message)
        if request.kind == "sum" and request.round == 1 and not lost:
            lost.append(request.meta["step"])
        elif lost == [0]:  # in the step after the first
            lost.append(request.meta["step"])
            context.state.clear()
        return client_app.app(message, context)

    grid.handlers[101] = lose
    federation = train(grid, quick_plan(n_rounds=3, secure_aggregation=True))
    assert lost == [0, 1]
    clients = [report.clients for report in federation.reports]
    assert clients == [tuple("abcd"), ("a", "c", "d"), tuple("abcd")]


@pytest.mark.parametrize("unit", ["client", "record"])
def test_noise_that_nodes_add_together_is_paid_for_once(unit: str, tmp_path: Path) -> None:
    tables = small_tables("abcd")
    promised = {"epsilon": 4.0, "unit": unit, "trust": "distributed"}
    if unit == "client":
        promised |= {"insist": True, "max_grad_norm": 1e-3}
    plan = quick_plan(privacy={"differential_privacy": promised}, secure_aggregation=True)
    transport = FlowerTransport(MemoryGrid(secure_configs(tmp_path, "abcd"), processes=0))
    transport.wait_for((), 4, 0.3)
    federation = Federation(plan, transport, schema=public_schema(tables))
    federation.run()
    assert [report.clients for report in federation.reports] == [tuple("abcd")] * 2
    report = federation.privacy
    assert report is not None
    assert 3.0 < report["epsilon"] == spent_epsilon(report) <= 4.0


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"secure-aggregation": True}, "needs to know the other clients' keys"),
        ({"secure-aggregation": "enigma"}, "unknown secure aggregation 'enigma'"),
        ({"trust-on-first-use": "false"}, "neither true nor false"),
        ({"roster": "/no/such/roster.toml"}, "a file of this node cannot be used"),
        ({"identity": "/no/such.key"}, "a file of this node cannot be used"),
    ],
)
def test_a_node_whose_keys_cannot_be_used_takes_no_part(
    own: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    configs = write_tables(tables(1), tmp_path)
    with pytest.raises(FederationError, match="too few clients") as caught:
        FlowerTransport(MemoryGrid([configs[0] | own])).wait_for((), 1, 0.1)
    assert reason in str(caught.value)
    assert "/no/such" not in str(caught.value)


def test_a_node_with_a_roster_insists_and_a_server_cannot_be_another(tmp_path: Path) -> None:
    configs = secure_configs(tmp_path)
    with pytest.raises(FederationError, match="client 'a' insists on secure aggregation"):
        train(MemoryGrid(configs), quick_plan())
    other = Roster({**{name: IDENTITIES[name].public for name in "bc"}, "a": bytes(32)})
    other.save(configs[1]["roster"])
    del configs[0]["roster"], configs[2]["roster"]
    configs[0]["trust-on-first-use"] = configs[2]["trust-on-first-use"] = True
    with pytest.raises(FederationError, match="client 'a' shows another key than the roster has"):
        train(MemoryGrid(configs, run_id=8), quick_plan(secure_aggregation=True))


def test_keys_that_were_believed_once_are_the_only_ones(tmp_path: Path) -> None:
    [config] = write_tables(small_tables("a"), tmp_path)
    context = MemoryGrid([{**config, "trust-on-first-use": True}]).contexts[100]

    def ask(request: Request, *bodies: bytes) -> Reply:
        client_app._shards = {}
        told = {"setup": {"bodies": list(bodies)}} if bodies else {}
        content = records(body={"body": encode_request(request)}, turn={"handled": 0}, **told)
        return reply_to(content, context)

    hello = Request("secure", meta={"scheme": "masking", "session": "0123"}, setup=True)
    begun = ask(hello)
    keys = {"a": begun.meta["key"], "b": key_text(IDENTITIES["b"].public)}
    assert ask(Request("roster", meta={"keys": keys}, setup=True)).error is None
    keys["b"] = key_text(Identity.generate().public)
    other = Request("roster", meta={"keys": keys}, setup=True)
    assert "another key" in str(ask(other).error)
    # The same if the server says that the node has lost what it knew.
    assert "another key" in str(ask(other, encode_request(hello)).error)


def test_paillier_is_refused_with_what_to_use(tmp_path: Path) -> None:
    pytest.importorskip("gmpy2")
    said = "Flower's do not; use masking, or our own server"
    with pytest.raises(PlanError, match=said):
        server_app.app(MemoryGrid([]), server_context(secure_aggregation="paillier"))
    plan = quick_plan(secure_aggregation="paillier")
    with pytest.raises(PlanError, match=said):
        train(MemoryGrid(secure_configs(tmp_path)), plan)


# --- the run config and the bundle ---


@pytest.mark.parametrize(
    ("run_config", "message"),
    [
        ({"n_round": 3}, "the run config has no 'n_round'; did you mean n_rounds"),
        ({"config": "x"}, "the run config has no 'config'"),
        ({"seed.x": 3}, "the run config has no 'seed.x'"),
        ({"config.epochz": 3}, "epochz"),
        ({"n_rounds": 0}, "n_rounds must be a whole number"),
        ({"plan": "/no/such/plan.toml"}, "cannot be read; got No such file"),
        ({"rows": -1}, "rows in the run config is impossible"),
        ({"rows": True}, "rows in the run config is impossible"),
        ({"rows": 1.5}, "rows in the run config is impossible"),
        ({"join_timeout": "long"}, "join_timeout in the run config is impossible"),
        ({"resume": "yes"}, "resume in the run config is impossible"),
        ({"resume": True}, "there is nothing to resume from"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"privacy": "strict"}, "the run config has no 'privacy'"),
        ({"privacy.epsilon": -1}, "epsilon of differential privacy must be a number above 0"),
        ({"privacy.delta": 1e-5}, "needs an epsilon"),
        ({"privacy.epsilom": 1.0}, "did you mean epsilon"),
        ({"privacy.epsilon": 1.0, "privacy.ledger": "x"}, "belong to the owner of a table"),
        ({"privacy.epsilon": 1.0, "config.pac": 2}, "need pac 1"),
    ],
)
def test_a_run_config_that_is_wrong_is_told_before_anybody_is_asked(
    run_config: dict[str, Any], message: str
) -> None:
    grid = MemoryGrid([])
    with pytest.raises(PlanError) as caught:
        server_app.app(grid, server_context(**run_config))
    assert message in str(caught.value)
    assert grid.pushed == []


@pytest.mark.parametrize("name", ["model", "synthetic"])
def test_outputs_are_looked_at_before_anybody_is_asked(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        server_app.app(
            MemoryGrid([]), server_context(**{name: str(tmp_path / "missing" / "file.csv")})
        )


def test_the_bundle_holds_no_code_and_says_nothing_that_is_not_understood() -> None:
    assert [path.name for path in BUNDLE.iterdir()] == ["pyproject.toml"]
    declared = tomllib.loads((BUNDLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert isinstance(server_app.app, ServerApp)
    assert isinstance(client_app.app, ClientApp)
    for name, app in declared["components"].items():
        assert app == f"genesis.federated.flower.{name.removesuffix('app')}_app:app"
    said = declared["config"]
    flat = {k: v for k, v in said.items() if not isinstance(v, dict)}
    for table in ("config", "privacy"):
        flat |= {f"{table}.{k}": v for k, v in said[table].items()}
    settings = server_app.Settings.read(flat)
    assert settings == server_app.Settings(Plan(seed=settings.plan.seed))


# --- what Flower does besides ---


def run_program(home: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    program = ["import warnings", "warnings.simplefilter('ignore', DeprecationWarning)", *lines]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        # "1" is what Flower takes it for where nobody has said anything.
        env={**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "before", ["", "import flwr.supercore.telemetry"], ids=["before Flower", "after Flower"]
)
def test_flower_reports_nothing_home(before: str, tmp_path: Path) -> None:
    done = run_program(
        tmp_path,
        "import urllib.request",
        "urllib.request.urlopen = lambda *args, **options: 1 / 0",
        before,
        "import genesis.federated.flower.transport",
        "import threading",
        "assert threading.active_count() == 1",
        "from flwr.supercore.telemetry import EventType, event",
        "assert event(EventType.PING).result() == 'disabled'",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_flower_the_extra_is_named(tmp_path: Path) -> None:
    done = run_program(
        tmp_path,
        "import sys",
        "sys.modules['flwr'] = None",
        "from genesis import MissingExtraError",
        "try: import genesis.federated.flower",
        "except MissingExtraError as error: print(error)",
    )
    assert "pip install 'genesis-federated[flower]'" in done.stdout


# --- a SuperLink and SuperNodes, by Flower's own commands ---


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts commands; whatever is still running at the end is ended, also what they started."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    }

    def start(*command: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{len(started)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT
            )
        started.append(process)
        return process

    started: list[subprocess.Popen[bytes]] = []
    yield start
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    home = f"FLWR_HOME={tmp_path / 'home'}\0".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if home in environ.read_bytes():
                os.kill(int(environ.parent.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_flowers_own_commands_run_the_bundle(
    secure: bool, flower: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    sites = {client: table[["sex", "smoker"]].head(100) for client, table in tables(3).items()}
    link = f"127.0.0.1:{(port := free_port())}"
    flower("flower-superlink", "--insecure", "--port", str(port), NO_INSTALLATION)
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    for config in write_tables(sites, tmp_path):
        told = " ".join(f'{name}="{value}"' for name, value in config.items())
        told += " trust-on-first-use=true" if secure else ""
        node = ["flower-supernode", "--insecure", "--superlink", link, "--node-config", told]
        flower(*node, "--port", str(free_port()))
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{link}"\ninsecure = true\n'
    )
    choices: dict[str, Any] = {"n_rounds": 2, "seed": 6, "min_clients": 3}
    choices["secure_aggregation"] = secure
    plan, synthetic = tmp_path / "plan.toml", tmp_path / "synthetic.parquet"
    plan.write_text(Plan(method="tvae", config=QUICK_TVAE, **choices).to_toml())
    said = f'plan="{plan}" synthetic="{synthetic}" rows=50 join_timeout=60'
    schema = public_schema(sites) if secure else None  # fewer sums, each of which takes its time
    if schema is not None:
        schema.save(tmp_path / "schema.toml")
        said += f' schema="{tmp_path / "schema.toml"}"'
    run = flower("flwr", "run", str(BUNDLE), "here", "--stream", "--run-config", said)
    assert run.wait(timeout=900) == 0
    log = (tmp_path / "4.log").read_text()
    assert "round 2/2: 3 clients" in log
    simulated = FederatedSynthesizer(
        "tvae", QUICK_TVAE, schema=schema, device="cpu", **choices
    ).fit(sites)
    genesis.write_table(simulated.generate(50), same := tmp_path / "same.parquet")
    assert synthetic.read_bytes() == same.read_bytes()
