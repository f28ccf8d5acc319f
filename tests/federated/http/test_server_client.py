"""`FederatedServer` and `FederatedClient` in scripts, threads and notebooks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from genesis import FederatedSynthesizer
from genesis.errors import FederationError, PlanError, SchemaError
from genesis.federated import FederatedClient, FederatedServer
from genesis.schema import Schema
from tests.dirty import QUICK, QUICK_TVAE, dirty_table

TABLES = {f"c{i}": dirty_table(120 + 20 * i, seed=i) for i in range(3)}


class Program(threading.Thread):
    """A thread that keeps what its function raised."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.function, self.error = function, None
        self.start()

    def run(self) -> None:
        try:
            self.function()
        except BaseException as error:
            self.error: BaseException | None = error

    def end(self, seconds: float = 60) -> None:
        """Wait, and raise what it raised."""
        self.join(seconds)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_listening(server: FederatedServer) -> bool:
    try:
        return server.status()["state"] == "waiting"
    except PlanError:
        return False


def serve(**choices: Any) -> tuple[FederatedServer, Program]:
    server = FederatedServer(port=0, config=QUICK, **{"n_rounds": 3, "seed": 7, **choices})
    program = Program(server.start)
    until(lambda: is_listening(server) or program.error)
    return server, program


def join(server: FederatedServer, name: str, **choices: Any) -> tuple[FederatedClient, Program]:
    client = FederatedClient(server.url, name, **choices)
    table = TABLES.get(name, TABLES["c0"])
    return client, Program(lambda: client.train(table))


def vector(run: Any) -> torch.Tensor:
    return run.model.model.get_vector()


def simulated(**choices: Any) -> torch.Tensor:
    config = {"config": QUICK, "n_rounds": 3, "seed": 7, **choices}
    return vector(FederatedSynthesizer(**config).fit(TABLES))


def test_the_result_is_that_of_the_simulation() -> None:
    server, running = serve(min_clients=3)
    joined = [join(server, name, compression="zstd") for name in TABLES]
    for _, program in joined:
        program.end()
    running.end()
    expected = simulated()
    for run in (server, *(client for client, _ in joined)):
        assert torch.equal(vector(run), expected)
    status = server.status()
    assert (status["state"], status["round"], status["n_rounds"]) == ("complete", 3, 3)
    assert [client["rows"] for client in status["clients"]] == [120, 140, 160]
    assert server.rows == {"c0": 120, "c1": 140, "c2": 160}


def test_what_a_client_decides_by_itself_holds() -> None:
    server, running = serve(min_clients=2, local_epochs=1, max_grad_norm=10.0)
    strict, one = join(server, "c0", local_epochs=3, max_grad_norm=0.01)
    lenient, two = join(server, "c1", max_grad_norm=100.0)
    for program in (one, two, running):
        program.end()
    assert strict.history[0]["update_norm"] > 0.01  # before it is clipped
    assert len(strict.history) == len(lenient.history) == 3


def test_a_schema_of_the_operator_is_checked_at_home() -> None:
    schema = Schema.infer(TABLES["c0"]).settle()
    server, running = serve(min_clients=2, schema=schema)
    other = FederatedClient(server.url, "other")
    with pytest.raises(SchemaError):
        other.train(pd.DataFrame({"x": [1, 2, 3]}))
    joined = [join(server, name) for name in ("c0", "c1")]
    for _, program in (*joined, (None, running)):
        program.end()
    assert sorted(server.rows) == ["c0", "c1"]


def test_a_run_that_fails_is_told_to_everybody() -> None:
    server, running = serve(min_clients=2)
    _, good = join(server, "good")
    bad = FederatedClient(server.url, "bad")
    contradicting = Program(lambda: bad.train(pd.DataFrame({"x": ["a", "b"] * 20})))
    with pytest.raises(SchemaError):
        running.end()
    for program in (good, contradicting):
        with pytest.raises(FederationError, match="the run failed at the server; got"):
            program.end()
    assert server.status()["state"] == "failed"


def test_too_few_clients_are_an_error_after_a_while() -> None:
    server, running = serve(min_clients=2, join_timeout=0.5)
    _, alone = join(server, "c0")
    with pytest.raises(FederationError, match=r"too few clients joined within 0\.5 s; got [01]"):
        running.end()
    with pytest.raises(FederationError):
        alone.end()


def test_a_port_in_use(caplog: pytest.LogCaptureFixture) -> None:
    server, running = serve(min_clients=2)
    with pytest.raises(FederationError, match=r"cannot listen at 127\.0\.0\.1:.* in use"):
        FederatedServer(port=server.port).start()
    joined = [join(server, name)[1] for name in ("c0", "c1")]
    for program in (*joined, running):
        program.end()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("aggregation", ["fedavg", "scaffold"])
def test_a_notebook_can_be_interrupted_and_go_on(tmp_path: Path, aggregation: str) -> None:
    """A cell runs inside an event loop; its clients wait for the next server."""
    choices = {"min_clients": 3, "n_rounds": 4, "aggregation": aggregation, "seed": 7}
    more = {"config": QUICK, "checkpoint": tmp_path / "saved", "resume": True}
    first = FederatedServer(port=0, **choices, **more)
    clients: list[FederatedClient] = []
    programs: list[Program] = []

    pressed = threading.Event()

    def press(round_num: int) -> None:
        if round_num == 3 and not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: first.status()["state"] == "interrupted")

    def start_clients() -> None:
        until(lambda: is_listening(first))
        for i, name in enumerate(TABLES):
            folder = None if i else tmp_path / name  # the others remember by themselves
            client = FederatedClient(first.url, name, checkpoint=folder)
            clients.append(client)
            programs.append(Program(lambda client=client: client.train(TABLES[client.client_id])))
        clients[1].on_train_complete(press)

    starting = threading.Thread(target=start_clients)
    starting.start()

    async def cell() -> None:
        first.start()

    loop = asyncio.new_event_loop()  # asyncio.run would take Ctrl-C for itself; notebooks do not
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    loop.close()
    starting.join()
    assert first.status()["state"] == "interrupted"
    assert all(program.is_alive() for program in programs)
    second = FederatedServer(port=first.port, **choices, **more).start()
    for program in programs:
        program.end()
    expected = simulated(n_rounds=4, aggregation=aggregation)
    for run in (second, *clients):
        assert torch.equal(vector(run), expected)
    assert len(second.history) == 4


def test_a_complete_run_that_is_resumed_hands_out_its_model(tmp_path: Path) -> None:
    choices = {"min_clients": 2, "checkpoint": tmp_path, "resume": True}
    server, running = serve(**choices)
    for _, program in [join(server, name) for name in ("c0", "c1")]:
        program.end()
    running.end()
    again, running = serve(**choices)
    joined = [join(again, name) for name in ("c0", "c1")]
    for client, program in joined:
        program.end()
        assert torch.equal(vector(client), vector(server))
    running.end()
    assert len(again.history) == 3


def test_tvae_and_handlers() -> None:
    server = FederatedServer(port=0, method="tvae", config=QUICK_TVAE, n_rounds=2, min_clients=1)
    told: list[Any] = []
    server.on_round_complete(lambda round_num, n_clients: told.append((round_num, n_clients)))
    server.on_training_complete(lambda model: told.append(len(model.generate(5))))
    running = Program(server.start)
    until(lambda: is_listening(server))
    client = FederatedClient(server.url, "c0")
    client.on_train_complete(lambda metrics, round_num: told.append((round_num, set(metrics))))
    client.train(TABLES["c0"])
    running.end()
    assert [each for each in told if each in [(1, 1), (2, 1), 5]] == [(1, 1), (2, 1), 5]
    assert len(told) == 5
    assert len(client.generate(7)) == 7
