"""Servers and clients as processes of their own, or as threads of a test that waits for them.

A thread costs nothing to start and can be held in the middle of a round; a process can be killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import tomli_w

from genesis.federated import FederatedClient, FederatedServer

__all__ = [
    "PATIENCE",
    "TOKEN",
    "Gate",
    "Processes",
    "Program",
    "held",
    "in_thread",
    "serve",
    "until",
]

TOKEN = "a-token-of-these-tests"
PATIENCE = 120.0  # seconds after which something that should happen counts as not happening
PROGRAM = Path(sys.executable).with_name("genesis")


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


class Program:
    """One process.

    Args:
        words: What is run.
        folder: Where; what it says is kept there too.
        environment: In place of the test's own.
    """

    def __init__(self, words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        number = len(list(folder.glob("*.said")))
        self._said = folder / f"{number}.said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """What it has written so far."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it says something."""
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            over = self.process.poll() is not None  # looked at first: its last words count
            found.extend(re.finditer(pattern, self.said))
            assert found or not over, f"ended without '{pattern}': {self.said}"
            return bool(found)

        until(is_there, f"'{pattern}' in: {self.said}")
        return found[0]

    def end(self) -> int:
        """Its exit status, once it has ended by itself."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end: {self.said}") from None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self.process.kill()
        self.process.wait()


class Processes:
    """The processes of one test, in its folder; none of them outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not _is_ours(name)},
            "OMP_NUM_THREADS": "1",
            "FEDERATED_AUTH_TOKEN": TOKEN,
        }
        self._programs: list[Program] = []

    def run(self, command: str, *words: object) -> Program:
        """Start `genesis federated COMMAND WORDS…`."""
        line = [str(PROGRAM), "federated", command, *map(str, words)]
        program = Program(line, self.folder, self.environment)
        self._programs.append(program)
        return program

    def write_plan(self, choices: Mapping[str, Any]) -> None:
        """Write plan.toml."""
        (self.folder / "plan.toml").write_text(tomli_w.dumps(choices), encoding="utf-8")

    def server(self, *words: object) -> tuple[Program, str]:
        """Start a server and return it with its address."""
        port = () if "--port" in words else ("--port", 0)
        program = self.run("server", *port, *words)
        return program, program.wait_for(r"listening at (\S+)")[1]

    def client(self, url: str, client_id: str, *words: object) -> Program:
        """Start a client whose table is CLIENT_ID.csv."""
        who = ("--server", url, "--client-id", client_id, "--data", f"{client_id}.csv")
        return self.run("client", *who, *words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.process.send_signal(signal.SIGKILL)
            program.process.wait()


def _is_ours(name: str) -> bool:
    return name.startswith(("GENESIS_", "FEDERATED_"))


def in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function in a thread. What it raises is raised where the result is asked for."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    # A thread that hangs must not keep the tests from ending.
    Thread(target=call, daemon=True).start()
    return future


def serve(**choices: Any) -> tuple[FederatedServer, Future[FederatedServer]]:
    """Start a server in a thread."""
    usual = {"port": 0, "auth_token": TOKEN, "join_timeout": PATIENCE, "timeout_seconds": PATIENCE}
    server = FederatedServer(**usual | choices)
    running = in_thread(server.start)
    until(lambda: server.port or running.done(), "a server that listens")
    return server, running


class Gate:
    """Holds a client that is a thread at the end of its training in some rounds, from 1."""

    def __init__(self, client: FederatedClient, *rounds: int) -> None:
        self._reached = {round: Event() for round in rounds}
        self._open = {round: Event() for round in rounds}
        client.on_train_complete(self._wait)

    def _wait(self, round_num: int) -> None:
        if round_num in self._open:
            self._reached[round_num].set()
            assert self._open[round_num].wait(PATIENCE)

    def is_reached(self, round: int) -> bool:
        """Whether the client is held in a round, or was."""
        return self._reached[round].is_set()

    def open(self, round: int) -> None:
        """Let the client go on."""
        self._open[round].set()


@contextmanager
def held(round: int, *gates: Gate) -> Iterator[None]:
    """The middle of a round, which goes on at the end of the block."""
    until(lambda: any(gate.is_reached(round) for gate in gates), f"round {round}")
    try:
        yield
    finally:
        for gate in gates:
            gate.open(round)
