"""What the network costs: seconds and memory of rounds in which nobody trains.

    python -m benchmarks.network overhead   # a round of 3 clients, by size, TLS and compression
    python -m benchmarks.network clients    # a round of 10 and of 50 clients
    python -m benchmarks.network memory     # of a server, against its clients' parameters
    python -m benchmarks.network start      # from the last join to the end of the first round

Clients are processes that send back what they received; "start" is a real run. One JSON object a
line, on stdout; all of it on loopback.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

import genesis
from genesis.errors import FederationError
from genesis.federated import FederatedServer
from genesis.federated.aggregation import State, aggregate, create_aggregator
from genesis.federated.certificates import make_certificates
from genesis.federated.messages import Reply, Request, Update
from genesis.federated.transport.http.app import create_app
from genesis.federated.transport.http.connection import Connection
from genesis.federated.transport.http.hub import Hub
from genesis.federated.transport.http.listener import TLS, Listener
from genesis.federated.transport.http.reach import client_tls
from genesis.federated.transport.http.tokens import Tokens
from genesis.federated.transport.http.transport import HttpTransport

TOKEN = "a-token-of-the-benchmarks"
ROUNDS = 15


@click.group()
def network() -> None:
    """What the network costs."""


@network.command(hidden=True)
@click.argument("url")
@click.argument("names", nargs=-1)
@click.option("--ca")
@click.option("--compression")
def echo(url: str, names: tuple[str, ...], ca: str | None, compression: str | None) -> None:
    """Be clients that send back what they receive, each in a thread."""

    def answer(name: str) -> None:
        tls = client_tls(ca) if ca else True
        connection = Connection(url, name, token=TOKEN, tls=tls, compression=compression)
        try:
            with connection:
                for received in connection.tasks():
                    request = received.request
                    connection.reply(received, Reply(name, {"metrics": {}}, request.arrays))
        except FederationError:
            pass  # the run is over

    threads = [threading.Thread(target=answer, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def echoing(
    clients: int, processes: int, tls: bool = False, compression: str | None = None
) -> Iterator[HttpTransport]:
    """A transport to so many clients in so many processes."""
    names = [f"client_{i:03d}" for i in range(clients)]
    with tempfile.TemporaryDirectory() as folder:
        files, more = None, []
        if tls:
            make_certificates(Path(folder), servers=["localhost"])
            files = TLS(Path(folder, "server.crt"), Path(folder, "server.key"))
            more = ["--ca", f"{folder}/ca.crt"]
        if compression:
            more += ["--compression", compression]
        hub = Hub(genesis.__version__)
        listener = Listener("127.0.0.1", 0, files)
        listener.start(create_app(hub, Tokens(TOKEN), dict))
        transport = HttpTransport(hub, listener)
        url = f"http{'s' if tls else ''}://127.0.0.1:{listener.port}"
        command = [sys.executable, "-m", "benchmarks.network", "echo", url, *more]
        running = [
            subprocess.Popen([*command, *names[start::processes]]) for start in range(processes)
        ]
        try:
            transport.wait_for(names, clients, 120)
            yield transport
        finally:
            transport.close("complete", None)
            for process in running:
                process.wait(30)


def play(transport: HttpTransport, clients: int, megabytes: float, rounds: int) -> list[float]:
    """Seconds of each round; every client must have answered rightly."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=round(megabytes * 2**20 / 4)).astype(np.float32)
    expects = {"vector": ("float32", len(vector))}
    seconds = []
    for number in range(rounds):
        request = Request("train", number, {"epochs": 1}, {"vector": vector}, expects)
        started = time.perf_counter()
        requests = {info.client_id: request for info in transport.clients()}
        replies = list(transport.exchange(requests, timeout=300))
        seconds.append(time.perf_counter() - started)
        assert len(replies) == clients
        assert all(np.array_equal(reply.arrays["vector"], vector) for reply in replies)
    return seconds


def show(**values: object) -> None:
    click.echo(json.dumps(values))


def peak() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@network.command()
def overhead() -> None:
    """Seconds of a round of 3 clients, both directions."""
    for megabytes in (1, 20):
        for tls, compression in ((False, None), (True, None), (True, "gzip"), (True, "zstd")):
            with echoing(3, 3, tls, compression) as transport:
                seconds = play(transport, 3, megabytes, ROUNDS)[2:]
            show(
                what="overhead",
                clients=3,
                megabytes=megabytes,
                tls=tls,
                compression=compression,
                median_seconds=round(statistics.median(seconds), 4),
                largest_seconds=round(max(seconds), 4),
            )


@network.command()
def clients() -> None:
    """Seconds of a round of 10 and of 50 clients, with TLS."""
    for number, megabytes in ((10, 1), (50, 1), (10, 20)):
        with echoing(number, 5, tls=True) as transport:
            seconds = play(transport, number, megabytes, 5)
        show(
            what="clients",
            clients=number,
            megabytes=megabytes,
            first_seconds=round(seconds[0], 3),
            median_seconds=round(statistics.median(seconds), 3),
        )


@network.command()
@click.option("--clients", default=10)
@click.option("--megabytes", default=20.0)
def memory(clients: int, megabytes: float) -> None:
    """Memory of a server that combines what its clients send."""

    rule = create_aggregator("fedavg")
    size = round(megabytes * 2**20 / 4)
    expects = {"vector": ("float32", size)}

    def turn(transport: HttpTransport, number: int, state: State) -> State:
        arrays = {"vector": state.vector.numpy()}
        request = Request("train", number, {"epochs": 1}, arrays, expects)
        requests = {info.client_id: request for info in transport.clients()}
        replies = list(transport.exchange(requests, timeout=300))
        updates = [Update(each.client_id, each.arrays["vector"], 1.0, {}) for each in replies]
        assert len(updates) == clients
        return aggregate(rule, state, updates, 1.0)

    with echoing(clients, min(clients, 5), tls=True) as transport:
        before = peak()
        state = rule.initial(torch.zeros(size))
        for number in range(5):
            state = turn(transport, number, state)
        after = peak()
    vectors = clients * megabytes
    show(
        what="memory",
        clients=clients,
        megabytes=megabytes,
        before_mb=round(before),
        peak_mb=round(after),
        more_per_client_vector=round((after - before) / vectors, 2),
    )


@network.command()
def start() -> None:
    """Seconds from the last join to the end of the first round of a real run."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(3):
            pd.DataFrame({"x": rng.normal(size=1000), "y": rng.choice(list("abc"), 1000)}).to_csv(
                f"{folder}/{i}.csv", index=False
            )
        server = FederatedServer(port=0, config={"epochs": 1}, n_rounds=1, min_clients=3)
        times: list[float] = []
        server.on_round_complete(lambda: times.append(time.perf_counter()))
        running = threading.Thread(target=server.start)
        running.start()
        while not server.port:
            time.sleep(0.01)
        program = Path(sys.executable).with_name("genesis")
        command = [program, "federated", "client", "--server", server.url, "--quiet"]
        started = time.perf_counter()
        processes = [
            subprocess.Popen(
                [*command, "--data", f"{folder}/{i}.csv", "--client-id", f"client_{i}"],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for i in range(3)
        ]
        joined: float | None = None
        while running.is_alive():
            if joined is None and len(server.status()["clients"]) == 3:
                joined = time.perf_counter()
            time.sleep(0.005)
        for process in processes:
            process.wait(30)
    assert joined is not None
    show(
        what="start",
        clients=3,
        seconds_to_last_join=round(joined - started, 2),
        seconds_from_last_join_to_first_round=round(times[0] - joined, 2),
    )


if __name__ == "__main__":
    network()
