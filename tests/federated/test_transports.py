"""What every transport promises, over all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from genesis import FederatedSynthesizer, __version__
from genesis.errors import FederationError, GenesisError
from genesis.federated.certificates import make_certificates
from genesis.federated.client_promise import ClientPromise
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.transport import Transport
from genesis.federated.transport.http.app import create_app
from genesis.federated.transport.http.connection import Connection
from genesis.federated.transport.http.hub import Hub
from genesis.federated.transport.http.listener import TLS, Listener
from genesis.federated.transport.http.reach import client_tls
from genesis.federated.transport.http.tokens import Tokens
from genesis.federated.transport.http.transport import HttpTransport
from genesis.federated.transport.in_process import InProcessTransport
from tests.dirty import QUICK, dirty_table

TOKEN = "a-token-of-these-tests"


class Echo:
    """A client that sends back what it was sent."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.promise = ClientPromise(client_id, None, Parts())
        self.seen: list[Request] = []
        self.wait = threading.Event()
        self.wait.set()

    def handle(self, request: Request) -> Reply:
        self.seen.append(request)
        if request.kind == "fail":
            return Reply(self.client_id, {"error_type": "DataError"}, error="it does not work")
        if request.kind == "wait":
            self.wait.wait(30)
        return Reply(self.client_id, {"round": request.round, **request.meta}, request.arrays)


Handlers = Mapping[str, Any]
Build = Callable[[Handlers], Transport]


@contextmanager
def in_process(handlers: Handlers, _: Path) -> Iterator[Transport]:
    yield InProcessTransport(handlers)


@contextmanager
def http(
    handlers: Handlers, folder: Path, tls: bool = False, compression: str | None = None
) -> Iterator[Transport]:
    server, client = None, True
    if tls:
        make_certificates(folder, servers=["localhost"])
        server = TLS(folder / "server.crt", folder / "server.key")
        client = client_tls(folder / "ca.crt")
    hub = Hub(__version__)
    listener = Listener("127.0.0.1", 0, server)
    listener.start(create_app(hub, Tokens(TOKEN), dict))
    transport = HttpTransport(hub, listener)
    url = f"http{'s' if tls else ''}://127.0.0.1:{listener.port}"

    def answer(name: str) -> None:
        connection = Connection(url, name, token=TOKEN, tls=client, compression=compression)
        try:
            with connection:
                for received in connection.tasks():
                    connection.reply(received, handlers[name].handle(received.request))
        except FederationError:
            pass  # the run is over

    threads = [threading.Thread(target=answer, args=(name,)) for name in handlers]
    for thread in threads:
        thread.start()
    try:
        transport.wait_for(list(handlers), len(handlers), 30)
        yield transport
    finally:
        for handler in handlers.values():
            if isinstance(handler, Echo):
                handler.wait.set()
        transport.close("complete", None)
        for thread in threads:
            thread.join(30)


@contextmanager
def https(handlers: Handlers, folder: Path) -> Iterator[Transport]:
    with http(handlers, folder, tls=True, compression="gzip") as transport:
        yield transport


@contextmanager
def zstd(handlers: Handlers, folder: Path) -> Iterator[Transport]:
    with http(handlers, folder, compression="zstd") as transport:
        yield transport


@contextmanager
def flower(handlers: Handlers, _: Path) -> Iterator[Transport]:
    from tests.federated.flower_grid import flower_transport

    with flower_transport(handlers) as transport:
        yield transport


NETWORKS = [http, https, zstd, flower]
TRANSPORTS = [in_process, *NETWORKS]


@pytest.fixture
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Build]:
    with ExitStack() as stack:
        yield lambda handlers: stack.enter_context(request.param(handlers, tmp_path))


over_all = pytest.mark.parametrize("build", TRANSPORTS, indirect=True)
over_networks = pytest.mark.parametrize("build", NETWORKS, indirect=True)


def names(replies: list[Reply]) -> list[str]:
    return sorted(reply.client_id for reply in replies)


@over_all
def test_every_client_gets_its_request_and_answers_once(build: Build) -> None:
    clients = {name: Echo(name) for name in ("a", "b b", "größe/№1")}
    transport = build(clients)
    assert sorted(info.client_id for info in transport.clients()) == sorted(clients)
    assert all(info.present for info in transport.clients())
    rng = np.random.default_rng(0)
    arrays = {
        "vector": rng.normal(size=1000).astype(np.float32),
        "counts": rng.integers(0, 2**53, 7),
    }
    arrays["vector"][:3] = np.nan, np.inf, -0.0
    expects = {name: (array.dtype.name, len(array)) for name, array in arrays.items()}
    meta = {"π": 0.1 + 0.2, "list": [1, None, True, "x"], "large": 2**62, "nested": {"": {}}}
    requests = {name: Request("echo", 3, meta | {"to": name}, arrays, expects) for name in clients}
    for _ in range(3):
        replies = list(transport.exchange(requests, timeout=30))
        assert names(replies) == sorted(clients)
        for reply in replies:
            assert reply.error is None
            assert reply.meta == {"round": 3, **meta, "to": reply.client_id}
            for name, array in arrays.items():
                assert reply.arrays[name].tobytes() == array.tobytes()
                assert reply.arrays[name].dtype == array.dtype


@over_all
def test_only_those_who_are_asked_answer(build: Build) -> None:
    clients = {name: Echo(name) for name in "abc"}
    transport = build(clients)
    list(transport.exchange(dict.fromkeys("abc", Request("echo")), timeout=30))
    replies = list(transport.exchange({"b": Request("echo")}, timeout=30))
    assert names(replies) == ["b"]
    assert [len(client.seen) for client in clients.values()] == [1, 2, 1]


@over_all
def test_a_failure_is_a_reply(build: Build) -> None:
    transport = build({name: Echo(name) for name in "ab"})
    requests = {"a": Request("fail", expects={"vector": ("float32", 3)}), "b": Request("echo")}
    replies = {reply.client_id: reply for reply in transport.exchange(requests, timeout=30)}
    assert replies["a"].error == "it does not work"
    assert replies["a"].meta["error_type"] == "DataError"
    assert replies["b"].error is None


@over_networks
def test_folders_of_the_server_do_not_leave_it(build: Build) -> None:
    client = Echo("a")
    transport = build({"a": client})
    request = Request("echo", local={"directory": Path("/etc")}, setup=True)
    list(transport.exchange({"a": request}, timeout=30))
    assert client.seen[0].local == {}
    assert client.seen[0].setup


@over_networks
def test_who_is_late_is_left_out_and_back_in_the_next_exchange(build: Build) -> None:
    clients = {name: Echo(name) for name in "ab"}
    transport = build(clients)
    clients["a"].wait.clear()
    replies = list(transport.exchange(dict.fromkeys("ab", Request("wait", 1)), timeout=0.5))
    assert names(replies) == ["b"]
    clients["a"].wait.set()
    replies = list(transport.exchange(dict.fromkeys("ab", Request("echo", 2)), timeout=30))
    assert names(replies) == ["a", "b"]
    assert {reply.meta["round"] for reply in replies} == {2}


@over_networks
def test_a_reply_of_the_wrong_shape_does_not_count(build: Build) -> None:
    transport = build({name: Echo(name) for name in "ab"})
    right = np.zeros(3, np.float32)
    wrong = {
        "a": Request("echo", arrays={"vector": right}, expects={"vector": ("float32", 4)}),
        "b": Request("echo", arrays={"vector": right}, expects={"vector": ("float32", 3)}),
    }
    replies = list(transport.exchange(wrong, timeout=2))
    assert names([reply for reply in replies if not reply.error]) == ["b"]


@over_all
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"aggregation": "scaffold"},
        {"synchronize": "generator", "sync_every": 2, "max_grad_norm": 0.1},
        {"aggregation": "fedyogi", "client_fraction": 0.5, "min_clients": 2},
    ],
    ids=["fedavg", "scaffold", "parts", "fraction"],
)
def test_a_run_is_the_same_over_all_of_them(build: Build, choices: dict[str, Any]) -> None:
    tables = {f"c{i}": dirty_table(120 + 20 * i, seed=i) for i in range(3)}
    choices = {"config": QUICK, "n_rounds": 3, "seed": 5, **choices}
    expected = FederatedSynthesizer("ctgan", **choices).fit(tables)
    shards = {name: Shard(name, table, device="cpu") for name, table in tables.items()}
    federation = Federation(Plan("ctgan", **choices), build(shards))
    federation.run()
    assert federation.state is not None
    assert torch.equal(federation.state.vector.cpu(), expected.model.model.get_vector())
    assert [report.metrics for report in federation.reports] == [
        report.metrics for report in expected.history
    ]


@over_all
def test_an_error_of_a_client_is_the_same_over_all_of_them(build: Build) -> None:
    tables = {"a": dirty_table(80), "b": pd.DataFrame({"other": ["x", "y"] * 40})}
    shards = {name: Shard(name, table, device="cpu") for name, table in tables.items()}
    with pytest.raises(GenesisError) as told:
        Federation(Plan("ctgan", QUICK, n_rounds=1), build(shards)).run()
    with pytest.raises(GenesisError) as expected:
        FederatedSynthesizer("ctgan", QUICK, n_rounds=1).fit(tables)
    assert (type(told.value), str(told.value)) == (type(expected.value), str(expected.value))
