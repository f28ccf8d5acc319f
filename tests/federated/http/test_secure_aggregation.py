"""Secure aggregation through real processes and over HTTP, whoever is killed and whoever lies."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from genesis_cli.main import genesis as command_line

import genesis
from genesis.errors import FederationError, PlanError
from genesis.federated import FederatedClient
from genesis.federated.messages import Reply, Request
from genesis.federated.secagg.identity import Identity, Roster, roster_line
from genesis.federated.secure_shard import SecureShard
from genesis.federated.transport.http import connection
from genesis.federated.transport.http.connection import Connection, Received
from genesis.federated.transport.http.transport import HttpTransport
from tests.dirty import QUICK, dirty_table
from tests.federated.http.processes import (
    PATIENCE,
    TOKEN,
    Gate,
    Processes,
    Program,
    held,
    in_thread,
    serve,
)

THREE = ("north", "south", "west")
FIVE = ("east", "middle", *THREE)
CHOICES: dict[str, Any] = {
    "config": QUICK,
    "n_rounds": 2,
    "min_clients": 3,
    "seed": 7,
    "secure_aggregation": "masking",
}

DOOMED = """
import json, os, signal, sys
from genesis.federated.secure_shard import SecureShard
from genesis_cli.main import genesis

ends = json.loads(sys.argv.pop(1))
handle, kind = SecureShard.handle, None

def handle_until(self, request):
    global kind
    if request.kind == "sum":
        kind = request.meta["inner"]["kind"] if "inner" in request.meta else kind
        if [kind, request.round, request.meta["step"]] == ends:
            os.kill(os.getpid(), signal.SIGKILL)
    return handle(self, request)

SecureShard.handle = handle_until
genesis(prog_name="genesis")
"""
"""A client that is killed when it is asked for a certain step of a certain sum."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients in threads try again soon."""
    monkeypatch.setattr(connection, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.3)


class Parties(Processes):
    """Processes in a folder with tables, keys and the roster."""

    def secure_client(self, url: str, client_id: str, *words: object) -> Program:
        """A client that insists on secure aggregation, and remembers."""
        return self.client(url, client_id, *_secure_words(client_id), *words)

    def doomed_client(self, ends: tuple[str, int, int], url: str, client_id: str) -> Program:
        """The same, but it is killed: see `DOOMED`."""
        line = ["federated", "client", "--server", url, "--client-id", client_id]
        line += ["--data", f"{client_id}.csv", *_secure_words(client_id)]
        words = [sys.executable, "-c", DOOMED, json.dumps(ends), *line]
        program = Program(words, self.folder, self.environment)
        self._programs.append(program)
        return program


def _secure_words(client_id: str) -> list[str]:
    who = ["--identity", f"{client_id}.key", "--roster", "roster.toml"]
    return [*who, "--secure-aggregation", "masking", "--checkpoint", f"kept-{client_id}"]


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    """Everything for five clients."""
    write_tables(tmp_path)
    lines = []
    for name in FIVE:
        identity = Identity.generate()
        identity.save(tmp_path / f"{name}.key")
        lines.append(roster_line(name, identity.public))
    (tmp_path / "roster.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with Parties(tmp_path) as parties:
        yield parties


@cache
def tables() -> dict[str, pd.DataFrame]:
    columns = ["sex", "visits", "smoker"]
    return {name: dirty_table(60 + 10 * k, k)[columns] for k, name in enumerate(FIVE)}


def write_tables(folder: Path) -> None:
    for name, table in tables().items():
        table.to_csv(folder / f"{name}.csv", index=False)


class Joined:
    """A client in a thread, which may be held in some rounds."""

    def __init__(self, parties: Parties, url: str, name: str, *rounds: int, **choices: Any) -> None:
        folder = parties.folder
        usual = {
            "auth_token": TOKEN,
            "secure_aggregation": True,
            "identity": folder / f"{name}.key",
            "roster": folder / "roster.toml",
        }
        self.client = FederatedClient(url, name, **usual | choices)
        self.gate = Gate(self.client, *rounds)
        table = genesis.read_table(folder / f"{name}.csv")
        self.running: Future[FederatedClient] = in_thread(self.client.train, table)


def all_end(*running: Future[Any]) -> list[Any]:
    """What they return, without an error."""
    return [each.result(PATIENCE) for each in running]


def run_here(*words: object) -> Result:
    """Run `genesis federated WORDS…` in this thread."""
    line = ["federated", *map(str, words)]
    return CliRunner().invoke(command_line, line, env={"FEDERATED_AUTH_TOKEN": TOKEN})


def simulated(parties: Parties, names: Sequence[str] = THREE, **choices: Any) -> bytes:
    """The parameters that an undisturbed run ends with."""
    run = genesis.FederatedSynthesizer(**CHOICES | choices)
    given = {name: genesis.read_table(parties.folder / f"{name}.csv") for name in names}
    return parameters(run.fit(given))


def parameters(run: Any) -> bytes:
    """The parameters of whoever has a model."""
    return bytes(run.model.model.get_vector().numpy().tobytes())


# --- as it should be ---


def test_processes_end_as_the_simulation_does(parties: Parties) -> None:
    """With a key and a line of the roster made by the program, and the same table bit for bit."""
    folder = parties.folder
    (folder / "north.key").unlink()
    words = ("--output", folder / "north.key", "--client-id", "north", "--quiet")
    lines = (folder / "roster.toml").read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [line for line in lines if "north" not in line] + [run_here("identity", *words).stdout]
    (folder / "roster.toml").write_text("".join(lines), encoding="utf-8")
    parties.write_plan(CHOICES)
    made = ("--plan", "plan.toml", "--output", "server.csv", "--rows", 50)
    server, url = parties.server(*made, "--model", "server.model", "--json", "run.json")
    north = parties.secure_client(url, "north", "--model", "north.model")
    others = [Joined(parties, url, name) for name in THREE[1:]]
    alone = run_here(
        *("simulate", *(folder / f"{name}.csv" for name in THREE)),
        *("--plan", folder / "plan.toml", "--model", folder / "simulated.model"),
        *("--output", folder / "simulated.csv", "--rows", 50),
    )
    assert alone.exit_code == 0, alone.output
    for program in (server, north):
        assert program.end() == 0, program.said
        assert not any(word in program.said for word in ("warning", "Traceback"))
    all_end(*(each.running for each in others))
    expected = (folder / "simulated.model").read_bytes()
    assert {(folder / f"{name}.model").read_bytes() for name in ("server", "north")} == {expected}
    assert (folder / "server.csv").read_bytes() == (folder / "simulated.csv").read_bytes()
    sizes = {str(len(tables()[name])) for name in THREE}
    told = server.said + (folder / "run.json").read_text(encoding="utf-8")
    assert not sizes & set(re.findall(r"\d+", told))  # no client's rows are known


def test_the_status_of_a_secure_run_tells_no_rows_and_24_bits_are_less_to_send(
    parties: Parties,
) -> None:
    received = {}
    for bits in (24, 32):
        server, serving = serve(**CHOICES, secure_aggregation_bits=bits)
        joined = [Joined(parties, server.url, name, 1, 2) for name in THREE]
        for round in (1, 2):
            with held(round, *(each.gate for each in joined)):
                shown = run_here("status", "--server", server.url, "--json")
                plain = run_here("status", "--server", server.url)
        assert shown.exit_code == plain.exit_code == 0, shown.output + plain.output
        status = json.loads(shown.stdout)
        assert [client["rows"] for client in status["clients"]] == [None] * 3
        assert (status["round"], status["secure_aggregation"]) == (1, "masking")
        assert "generator_loss" in status["rounds"][0]["metrics"]
        sizes = {str(len(tables()[name])) for name in THREE}
        assert not sizes & set(re.findall(r"\d+", json.dumps(status["clients"])))
        clients = all_end(*(each.running for each in joined))
        all_end(serving)
        assert [len(client.history) for client in clients] == [2] * 3
        received[bits] = server.status()["bytes_received"]
        expected = simulated(parties, secure_aggregation_bits=bits)
        assert {parameters(run) for run in (server, *clients)} == {expected}
    size = len(expected) // 4
    assert 0.8 * 3 * 2 * size < received[32] - received[24] < 1.2 * 3 * 2 * size


# --- clients that are killed ---

BEFORE_SHARES, IN_TRAINING, BEFORE_AGREEING, BEFORE_UNMASKING = 1, 2, 3, 4


def test_a_client_that_is_killed_comes_back(
    parties: Parties, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed during statistics, these are counted again; in training, a round goes on without."""
    server, serving = serve(**CHOICES | {"min_clients": 4, "expect_clients": 5})
    others = [Joined(parties, server.url, name) for name in FIVE if name != "north"]
    for ends in (("count", 0, IN_TRAINING), ("train", 0, IN_TRAINING)):
        north = parties.doomed_client(ends, server.url, "north")
        assert north.end() == -signal.SIGKILL, north.said
    north = parties.secure_client(server.url, "north", "--model", "north.model")
    assert north.end() == 0, north.said
    all_end(serving, *(each.running for each in others))
    again = "a client was away while values were added up; doing it again"
    assert caplog.messages.count(again) == 1
    first, second = server.history
    assert first.clients == tuple(name for name in FIVE if name != "north")
    assert first.failed == {"north": "it was away, and takes no part in this sum any more"}
    assert second.clients == FIVE
    assert not [*first.dropped, *second.dropped, *second.failed]
    server.save(parties.folder / "server.model")
    model = (parties.folder / "server.model").read_bytes()
    assert (parties.folder / "north.model").read_bytes() == model


@pytest.mark.slow
def test_a_client_that_is_killed_in_every_phase(parties: Parties) -> None:
    """Another one in each round, so it never gets to the end of any but the last."""
    server, serving = serve(**CHOICES | {"min_clients": 4, "expect_clients": 5, "n_rounds": 5})
    others = [Joined(parties, server.url, name) for name in FIVE if name != "north"]
    phases = (BEFORE_SHARES, IN_TRAINING, BEFORE_AGREEING, BEFORE_UNMASKING)
    for round, step in enumerate(phases):
        north = parties.doomed_client(("train", round, step), server.url, "north")
        assert north.end() == -signal.SIGKILL, north.said
    north = parties.secure_client(server.url, "north")
    assert north.end() == 0, north.said
    all_end(serving, *(each.running for each in others))
    without = tuple(name for name in FIVE if name != "north")
    came = [report.clients for report in server.history]
    assert came == [without, without, FIVE, FIVE, FIVE]
    assert [set(report.failed) for report in server.history] == [{"north"}] * 2 + [set()] * 3


@pytest.mark.slow
def test_a_client_that_is_killed_and_stays_away_is_left_out(parties: Parties) -> None:
    server, serving = serve(**CHOICES | {"min_clients": 4, "expect_clients": 5, "patience": 6.0})
    others = [Joined(parties, server.url, name) for name in FIVE if name != "north"]
    north = parties.doomed_client(("train", 0, IN_TRAINING), server.url, "north")
    assert north.end() == -signal.SIGKILL, north.said
    all_end(serving, *(each.running for each in others))
    without = tuple(name for name in FIVE if name != "north")
    assert [report.clients for report in server.history] == [without] * 2
    assert [report.dropped for report in server.history] == [("north",)] * 2


class Killed(BaseException):
    """Ends a client that is a thread."""


@pytest.mark.parametrize("step", [0, IN_TRAINING, BEFORE_UNMASKING])
def test_too_few_that_are_left_end_the_run_for_everybody(
    parties: Parties, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """One of three goes away: before its keys are known it is waited for, and then it is missed."""
    handle = SecureShard.handle
    kind = ""

    def handle_or_fail(self: SecureShard, request: Request) -> Reply:
        nonlocal kind
        if self.client_id == "north" and request.kind == "sum":
            kind = request.meta["inner"]["kind"] if "inner" in request.meta else kind
            if (kind, request.round, request.meta["step"]) == ("train", 1, step):
                raise Killed
        return handle(self, request)

    monkeypatch.setattr(SecureShard, "handle", handle_or_fail)
    exchange = HttpTransport.exchange

    def exchange_soon(
        self: HttpTransport, requests: Mapping[str, Request], *, timeout: float
    ) -> Iterator[Reply]:
        waiting = set(requests)
        is_last = any(
            each.kind == "sum" and (each.round, each.meta["step"]) == (1, step)
            for each in requests.values()
        )
        for reply in exchange(self, requests, timeout=timeout):
            waiting.discard(reply.client_id)
            yield reply
            if is_last and waiting == {"north"}:
                return

    monkeypatch.setattr(HttpTransport, "exchange", exchange_soon)
    server, serving = serve(**CHOICES)
    north = Joined(parties, server.url, "north")
    others = [Joined(parties, server.url, name) for name in THREE[1:]]
    for running in (serving, *(each.running for each in others)):
        told = str(running.exception(PATIENCE))
        assert "too few clients are left in a secure sum" in told
        assert "2 of 3 where 3 are needed; 'north': no answer" in told
    assert isinstance(north.running.exception(PATIENCE), Killed)
    assert len(server.history) == 1


# --- servers that are killed ---


@pytest.mark.slow
def test_a_server_that_is_killed_goes_on_with_the_clients_that_live(parties: Parties) -> None:
    parties.write_plan(CHOICES | {"n_rounds": 3})
    words = ("--plan", "plan.toml", "--checkpoint", "kept", "--resume", "--model", "server.model")
    server, url = parties.server(*words)
    port = url.rpartition(":")[2]
    north = Joined(parties, url, "north", 2)
    others = [Joined(parties, url, name) for name in THREE[1:]]
    with held(2, north.gate):
        for _ in range(2):
            server.kill()
            server, _ = parties.server(*words, "--port", port)
    assert server.end() == 0, server.said
    clients = all_end(*(each.running for each in (north, *others)))
    for each in clients:
        each.save(parties.folder / "model")
        model = (parties.folder / "model").read_bytes()
        assert model == (parties.folder / "server.model").read_bytes()


# --- those who do not go together ---


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Reply]]:
    """What clients in threads answered, and to what."""
    sent: list[tuple[str, Reply]] = []
    reply_to = Connection.reply

    def listen(self: Connection, received: Received, reply: Reply) -> bool:
        sent.append((received.request.kind, reply))
        return reply_to(self, received, reply)

    monkeypatch.setattr(Connection, "reply", listen)
    return sent


def all_fail(running: Sequence[Future[Any]], *words: str) -> list[BaseException]:
    """What they end with, which says some words."""
    errors = []
    for each in running:
        error = each.exception(PATIENCE)
        assert error is not None, "it did not fail"
        assert all(word in str(error) for word in words), str(error)
        errors.append(error)
    return errors


def test_a_client_that_insists_refuses_a_plain_server(
    parties: Parties, replies: list[tuple[str, Reply]]
) -> None:
    server, serving = serve(**CHOICES | {"secure_aggregation": False})
    joined = [Joined(parties, server.url, "north")]
    joined += [Joined(parties, server.url, name, secure_aggregation=False) for name in THREE[1:]]
    running = [serving, *(each.running for each in joined)]
    all_fail(running, "client 'north' insists on secure aggregation")
    own = [(kind, reply) for kind, reply in replies if reply.client_id == "north"]
    assert [(kind, bool(reply.error)) for kind, reply in own] == [
        ("describe", False),
        ("labels", True),
    ]
    assert not any(reply.arrays for _, reply in replies)


def test_a_client_that_knows_nobody_says_what_it_needs(
    parties: Parties, replies: list[tuple[str, Reply]]
) -> None:
    server, serving = serve(**CHOICES)
    alone = {"secure_aggregation": False, "roster": None}
    joined = [Joined(parties, server.url, "north", **alone)]
    joined += [Joined(parties, server.url, name) for name in THREE[1:]]
    running = [serving, *(each.running for each in joined)]
    errors = all_fail(running, "client 'north' knows nobody's key", "--roster")
    assert isinstance(errors[0], PlanError)
    assert {kind for kind, _ in replies} == {"secure"}
    with pytest.raises(PlanError, match="--roster"):
        Joined(parties, server.url, "north", roster=None)


def test_whose_key_is_another_than_the_roster_has_is_named(parties: Parties) -> None:
    folder = parties.folder
    roster = {**Roster.load(folder / "roster.toml"), "north": Identity.generate().public}
    Roster(roster).save(folder / "other.toml")
    server, serving = serve(**CHOICES)
    joined = [Joined(parties, server.url, name) for name in THREE[:2]]
    joined.append(Joined(parties, server.url, "west", roster=folder / "other.toml"))
    errors = all_fail(
        [serving, *(each.running for each in joined)],
        "client 'north' shows another key than the roster has; somebody may be between",
    )
    assert isinstance(errors[0], FederationError)


def test_the_server_is_believed_by_those_who_say_so(
    parties: Parties, caplog: pytest.LogCaptureFixture
) -> None:
    """They warn of it, write down whom they met, and from then on they are not told otherwise."""
    met = parties.folder / "met"
    met.mkdir()
    for number in range(2):
        server, serving = serve(**CHOICES | {"n_rounds": 1})
        joined = [
            Joined(parties, server.url, name, roster=met / f"{name}.toml", trust_on_first_use=True)
            for name in THREE
        ]
        running = [serving, *(each.running for each in joined)]
        if number == 0:
            all_end(*running)
            warned = [text for text in caplog.messages if "took the server's word" in text]
            assert len(warned) == 3
            (parties.folder / "north.key").unlink()
            Identity.generate().save(parties.folder / "north.key")
            (met / "north.toml").unlink()
        else:
            all_fail(running, "client 'north' shows another key")


def test_two_runs_and_other_ways_of_one_message(parties: Parties) -> None:
    """Compressed, and by another rule; and a client is good for another run afterwards."""
    choices = {"aggregation": "fedavgm", "n_rounds": 3}
    server, serving = serve(**CHOICES | choices)
    how = dict(zip(THREE, (None, "gzip", "zstd"), strict=True))
    joined = [Joined(parties, server.url, name, compression=how[name]) for name in THREE]
    clients = all_end(*(each.running for each in joined))
    all_end(serving)
    expected = simulated(parties, **choices)
    assert {parameters(run) for run in (server, *clients)} == {expected}
    server, serving = serve(port=server.port, **CHOICES)
    again = [
        in_thread(each.train, genesis.read_table(parties.folder / f"{each.client_id}.csv"))
        for each in clients
    ]
    all_end(serving, *again)
    assert parameters(server) == simulated(parties)
