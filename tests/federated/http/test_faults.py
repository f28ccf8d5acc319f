"""What networks, disks and people do to a run, and that it comes out right all the same."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pandas as pd
import pytest
import tomli_w
from click.testing import CliRunner, Result
from genesis_cli.main import genesis as command_line

import genesis
from genesis.errors import FederationError, SchemaError
from genesis.federated import FederatedClient, FederatedServer, certificates
from genesis.federated.certificates import make_certificates
from genesis.federated.checkpoint import Checkpoint
from genesis.federated.messages import Reply, Request
from genesis.federated.shard import Shard
from genesis.federated.transport.body import compress
from genesis.federated.transport.http import app, connection, hub
from genesis.federated.transport.http.connection import Connection, Received
from genesis.federated.transport.http.hub import Hub
from genesis.federated.transport.http.listener import TLS, Listener
from genesis.federated.transport.http.protocol import SESSION
from genesis.federated.transport.http.tokens import Tokens
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
    until,
)
from tests.federated.http.proxy import Fault, Proxy

NAMES = ["north", "south", "west"]
CHOICES: dict[str, Any] = {"config": QUICK, "n_rounds": 3, "min_clients": 3, "seed": 7}
REMEMBERS = {"n_rounds": 5, "aggregation": "scaffold"}
"""A run whose server and clients remember more than parameters."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients in threads try again soon."""
    monkeypatch.setattr(connection, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.3)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes in a folder with the tables."""
    write_tables(tmp_path)
    with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three authorities: the right one, another one, and one of the past."""
    folder = tmp_path_factory.mktemp("authorities")
    for name in ("right", "wrong"):
        make_certificates(folder / name, servers=["localhost"], clients=NAMES)
    past = datetime.now(UTC) - timedelta(days=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_now", lambda: past)
        make_certificates(folder / "expired", servers=["localhost"], clients=NAMES, days=20)
    return folder


def write_tables(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        dirty_table(200 + 20 * seed, seed).to_csv(folder / f"{name}.csv", index=False)


@cache
def tables() -> dict[str, pd.DataFrame]:
    """The tables as programs read them."""
    with TemporaryDirectory() as folder:
        write_tables(Path(folder))
        return {name: genesis.read_table(Path(folder) / f"{name}.csv") for name in NAMES}


def simulated(names: list[str] = NAMES, **choices: Any) -> bytes:
    """The parameters that an undisturbed run ends with."""
    return _simulated(tuple(names), json.dumps(CHOICES | {"min_clients": 1} | choices))


@cache
def _simulated(names: tuple[str, ...], choices: str) -> bytes:
    run = genesis.FederatedSynthesizer(**json.loads(choices))
    return parameters(run.fit({name: tables()[name] for name in names}))


def parameters(run: Any) -> bytes:
    """The parameters of whoever has a model."""
    return bytes(run.model.model.get_vector().numpy().tobytes())


def model_file(run: Any) -> bytes:
    """The model file that somebody would write."""
    with TemporaryDirectory() as folder:
        run.save(Path(folder) / "model")
        return (Path(folder) / "model").read_bytes()


@dataclass
class Joined:
    """A client in a thread."""

    client: FederatedClient
    running: Future[FederatedClient]
    gate: Gate


def join(url: str, name: str, *rounds: int, **choices: Any) -> Joined:
    """Start a client, to be held in some rounds."""
    client = FederatedClient(url, name, **{"auth_token": TOKEN} | choices)
    gate = Gate(client, *rounds)
    return Joined(client, in_thread(client.train, tables()[name]), gate)


def all_end(*running: Future[Any]) -> list[Any]:
    """What they return, without an error."""
    return [each.result(PATIENCE) for each in running]


def task_of(server: FederatedServer, name: str) -> object:
    """What a client is asked at the moment."""
    return next(each["task"] for each in server.status()["clients"] if each["client_id"] == name)


def run_here(*words: object, **environment: str) -> Result:
    """Run `genesis federated WORDS…` in this thread."""
    line = ["federated", *map(str, words)]
    return CliRunner().invoke(command_line, line, env={"FEDERATED_AUTH_TOKEN": TOKEN} | environment)


def error_of(result: Result) -> str:
    """The one line that a program which failed ends with."""
    assert result.exit_code == 1, result.output
    *before, last = result.stderr.splitlines()
    assert last.startswith("error: ")
    assert not any("error:" in line or "Traceback" in line for line in before), result.stderr
    return last


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers begin with three clients, also if fewer are enough."""
    wait_for = HttpTransport.wait_for

    def wait(
        self: HttpTransport, names: Sequence[str], fewest: int, timeout: float, **_: int
    ) -> None:
        wait_for(self, names or NAMES, fewest, timeout)

    monkeypatch.setattr(HttpTransport, "wait_for", wait)


def trains(requests: Mapping[str, Request], round: int) -> bool:
    """Whether clients are asked to train in a round, from 0."""
    return any(each.kind == "train" and each.round == round for each in requests.values())


# --- processes that are stopped ---


def test_processes_end_as_the_simulation_does(processes: Processes, authorities: Path) -> None:
    folder, right = processes.folder, authorities / "right"
    processes.write_plan(CHOICES)
    tokens = {name: f"this-is-the-token-of-{name}" for name in NAMES}
    (folder / "tokens").write_text(tomli_w.dumps(tokens), encoding="utf-8")
    both = ("--ssl-cert", right / "server.crt", "--ssl-key", right / "server.key")
    words = ("--ssl-ca", right / "ca.crt", "--auth-token-file", "tokens", "--plan", "plan.toml")
    server, url = processes.server(*both, *words, "--model", "server.model")
    programs = [server]
    for name, token in tokens.items():
        (folder / f"{name}.token").write_text(token, encoding="utf-8")
        own = right / "clients" / f"{name}.crt"
        words = ("--ssl-verify", right / "ca.crt", "--auth-token-file", f"{name}.token")
        both = ("--ssl-cert", own, "--ssl-key", own.with_suffix(".key"))
        programs.append(processes.client(url, name, *words, *both, "--model", f"{name}.model"))
    for program in programs:
        assert program.end() == 0, program.said
        assert not any(word in program.said for word in ("warning", "Traceback", *tokens.values()))
    alone = run_here(
        "simulate",
        *(folder / f"{name}.csv" for name in NAMES),
        *("--plan", folder / "plan.toml", "--model", folder / "simulated.model"),
        *("--output", folder / "synthetic.csv"),
    )
    assert alone.exit_code == 0, alone.output
    expected = (folder / "simulated.model").read_bytes()
    for name in ("server", *NAMES):
        assert (folder / f"{name}.model").read_bytes() == expected


def test_a_client_that_is_stopped_goes_on_as_if_it_had_not_been(processes: Processes) -> None:
    server, serving = serve(**CHOICES | REMEMBERS)
    south, west = join(server.url, "south", 2, 3, 4, 5), join(server.url, "west")
    words = ("--checkpoint", "kept", "--model", "north.model")
    north = processes.client(server.url, "north", *words)
    with held(2, south.gate):
        north.kill()  # wherever it is
        north = processes.client(server.url, "north", *words)
    with held(3, south.gate):
        until(lambda: task_of(server, "north") is None, "an answer")
        north.kill()  # when its work is done, and the round is not over
        north = processes.client(server.url, "north", *words)
    for round, number, status in ((4, signal.SIGINT, 130), (5, signal.SIGTERM, 143)):
        with held(round, south.gate):
            north.wait_for("joined")
            north.signal(number)
            assert north.end() == status, north.said
            assert "Traceback" not in north.said
            north = processes.client(server.url, "north", *words)
    assert north.end() == 0, north.said
    all_end(serving, south.running, west.running)
    assert parameters(server) == simulated(**REMEMBERS)
    assert (processes.folder / "north.model").read_bytes() == model_file(server)


class Killed(BaseException):
    """Ends a client that is a thread."""


KINDS = [
    *(pytest.param(kind, False, marks=pytest.mark.slow) for kind in ("describe", "labels")),
    *((kind, False) for kind in ("count", "prepare", "train", "finish")),
    *((kind, True) for kind in ("train", "checkpoint")),
]


@pytest.mark.parametrize(("kind", "keeps"), KINDS)
def test_a_client_that_is_stopped_at_whatever_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, keeps: bool
) -> None:
    """Before it answers, without a goodbye; and what it kept is all that the next one has."""
    monkeypatch.setattr(hub, "GRACE_SECONDS", 0.5)
    handle, leave = Shard.handle, Connection.__exit__
    ends = [kind]

    def handle_until(self: Shard, request: Request) -> Reply:
        reply = handle(self, request)
        is_later = request.kind != "train" or request.round == 1
        if self.client_id == "north" and request.kind in ends and is_later:
            ends.clear()
            raise Killed
        return reply

    def vanish(self: Connection, kind: type | None, *what: Any) -> None:
        if kind is Killed:
            self._closing.set()
            self._heart.join()
            monkeypatch.setattr(self, "_send", lambda *_, **__: None)
        leave(self, kind, *what)

    monkeypatch.setattr(Shard, "handle", handle_until)
    monkeypatch.setattr(Connection, "__exit__", vanish)
    server, serving = serve(**CHOICES, aggregation="scaffold", checkpoint=tmp_path / "server")
    folder = {"checkpoint": tmp_path / "north"} if keeps else {}
    north = join(server.url, "north", **folder)
    south, west = join(server.url, "south"), join(server.url, "west")
    assert isinstance(north.running.exception(PATIENCE), Killed)
    north = join(server.url, "north", **folder)
    joined = all_end(north.running, south.running, west.running)
    all_end(serving)
    assert [report.clients for report in server.history] == [tuple(NAMES)] * 3
    # Who trained, and kept nothing, goes on with the global model and a new optimiser.
    is_exact = keeps or kind != "train"
    expected = simulated(aggregation="scaffold") if is_exact else parameters(server)
    assert {parameters(run) for run in (server, *joined)} == {expected}


@pytest.mark.slow
def test_a_client_that_kept_nothing_goes_on_too(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "GRACE_SECONDS", 1.0)
    server, serving = serve(**CHOICES)
    south, west = join(server.url, "south", 2), join(server.url, "west")
    north = processes.client(server.url, "north")
    with held(2, south.gate):
        north.kill()
        north = processes.client(server.url, "north", "--model", "north.model")
    assert north.end() == 0, north.said
    all_end(serving, south.running, west.running)
    assert [report.clients for report in server.history] == [tuple(NAMES)] * 3
    assert (processes.folder / "north.model").read_bytes() == model_file(server)


def test_a_server_that_is_stopped_goes_on_as_if_it_had_not_been(processes: Processes) -> None:
    processes.write_plan(CHOICES | REMEMBERS)
    words = ("--plan", "plan.toml", "--checkpoint", "kept", "--resume", "--model", "server.model")
    server, url = processes.server(*words)
    port = url.rpartition(":")[2]
    north = join(url, "north", 2, 3, 4, checkpoint=processes.folder / "north")
    south, west = join(url, "south"), join(url, "west")
    ends = ((2, signal.SIGKILL, -signal.SIGKILL), (3, signal.SIGINT, 130), (4, signal.SIGTERM, 143))
    for round, number, status in ends:
        with held(round, north.gate):
            server.signal(number)
            assert server.end() == status, server.said
            assert "Traceback" not in server.said
            server, _ = processes.server(*words, "--port", port)
    assert server.end() == 0, server.said
    joined = all_end(north.running, south.running, west.running)
    assert {parameters(client) for client in joined} == {simulated(**REMEMBERS)}
    assert (processes.folder / "server.model").read_bytes() == model_file(joined[0])


@pytest.mark.parametrize(
    "choices",
    [
        {"aggregation": "fedadam", "synchronize": "generator", "sync_every": 2},
        # South is not among the two who train when the server stops in the third round, and
        # trains in the fourth.
        {"aggregation": "scaffold", "client_fraction": 0.5, "min_clients": 1, "seed": 9},
    ],
    ids=["parts", "fraction"],
)
def test_whatever_a_rule_remembers_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: dict[str, Any]
) -> None:
    """Servers that are stopped in the middle of a round, and clients of which one keeps a folder.

    The first server has no checkpoint yet, and the last does not know its sessions any more.
    """
    wait_for_all(monkeypatch)
    exchange = HttpTransport.exchange
    ends = [0, 2, 4]

    def exchange_until(
        self: HttpTransport, requests: Mapping[str, Request], *, timeout: float
    ) -> Iterator[Reply]:
        for reply in exchange(self, requests, timeout=timeout):
            if ends and trains(requests, ends[0]):
                ends.pop(0)
                raise KeyboardInterrupt
            yield reply

    monkeypatch.setattr(HttpTransport, "exchange", exchange_until)
    choices, saved, port = REMEMBERS | choices, tmp_path / "server", free_port()
    url = f"http://127.0.0.1:{port}"
    joined = [join(url, "north", checkpoint=tmp_path / "north"), join(url, "south")]
    joined.append(join(url, "west"))
    while ends:
        _, serving = serve(**CHOICES | choices, port=port, checkpoint=saved, resume=True)
        assert isinstance(serving.exception(PATIENCE), KeyboardInterrupt)
    (saved / "sessions.json").unlink()
    server, serving = serve(**CHOICES | choices, port=port, checkpoint=saved, resume=True)
    all_end(serving, *(each.running for each in joined))
    expected = simulated(**choices)
    assert {parameters(run) for run in (server, *(each.client for each in joined))} == {expected}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_killed_whenever(processes: Processes, authorities: Path, seed: int) -> None:
    choices = REMEMBERS | {"n_rounds": 6, "local_epochs": 10}
    processes.write_plan(CHOICES | choices)
    right = authorities / "right"
    tls = ("--ssl-cert", right / "server.crt", "--ssl-key", right / "server.key")
    kept = ("--plan", "plan.toml", "--checkpoint", "kept", "--resume", "--model", "server.model")
    first, url = processes.server(*tls, *kept)

    def start(name: str) -> Program:
        if name == "server":
            return processes.run("server", *tls, *kept, "--port", url.rpartition(":")[2])
        own = ("--checkpoint", f"{name}.kept", "--model", f"{name}.model")
        return processes.client(url, name, "--ssl-verify", right / "ca.crt", *own)

    programs = {"server": first} | {name: start(name) for name in NAMES}
    rng = random.Random(seed)
    for _ in range(10):
        time.sleep(rng.uniform(0.0, 5.0))
        name = rng.choice(sorted(programs))
        if "round 5/6" in programs["server"].said:
            break  # whoever comes back must still find a server
        programs[name].kill()
        programs[name] = start(name)
    for program in programs.values():
        assert program.end() == 0, program.said
        assert "Traceback" not in program.said
    models = {(processes.folder / f"{name}.model").read_bytes() for name in programs}
    alone = genesis.FederatedSynthesizer(**CHOICES | choices).fit(tables())
    assert models == {model_file(alone)}


# --- ways that are bad ---


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 11))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_way_on_which_every_connection_breaks_sooner_or_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    monkeypatch.setattr(hub, "GRACE_SECONDS", 0.3)  # the answer to who joins may be lost
    monkeypatch.setattr(app, "POLL_SECONDS", 0.3)
    monkeypatch.setattr(connection, "POLL_SECONDS", -14)  # so that a read waits for a second
    rng = random.Random(seed)
    sizes = [0, 60, 300, 3_000, 50_000, 150_000]  # bytes; a reply has 200,000
    faults = [
        *(Fault(**{way: size}) for way in ("up", "down") for size in sizes),
        *(Fault(**{way: size}, hole=True) for way in ("up", "down") for size in sizes[2:5]),
        *(Fault(up=300_000, twice=True) for _ in range(6)),
        *(Fault(up=300_000, delay=0.02) for _ in range(6)),
    ]
    rng.shuffle(faults)
    server, serving = serve(**CHOICES | {"n_rounds": 6, "aggregation": "fedyogi"})
    with Proxy(server.port, lambda number: faults[number % len(faults)]) as proxy:
        joined = [join(proxy.url, name) for name in NAMES]
        all_end(serving, *(each.running for each in joined))
        assert proxy.cuts > 5
    expected = simulated(n_rounds=6, aggregation="fedyogi")
    assert {parameters(run) for run in (server, *(each.client for each in joined))} == {expected}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_last_answer_of_the_server_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has the final model has it, whoever knows."""
    deliver = Connection.reply

    def reply(self: Connection, received: Received, reply: Reply) -> bool:
        taken = deliver(self, received, reply)
        if received.request.kind == "finish":
            raise FederationError("the run ended without this client")
        return taken

    monkeypatch.setattr(Connection, "reply", reply)
    server, serving = serve(**CHOICES | {"min_clients": 1})
    north = join(server.url, "north")
    all_end(serving, north.running)
    assert parameters(north.client) == parameters(server)


# --- disks ---


def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved, kept = tmp_path / "server", tmp_path / "north"
    full = {saved, kept}

    def unless_full(write: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
            if full & set(path.parents):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, *arguments, **options)

        return refuse

    for name in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, unless_full(getattr(Path, name)))
    server, serving = serve(**CHOICES, checkpoint=saved)
    joined = [join(server.url, "north", checkpoint=kept), join(server.url, "south", 3)]
    joined.append(join(server.url, "west"))
    with held(3, joined[1].gate):
        full.clear()
    all_end(serving, *(each.running for each in joined))
    assert {parameters(run) for run in (server, *(each.client for each in joined))} == {simulated()}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for expected in (
        "sessions will not outlive the server",
        "the session will not outlive this client",
        "no checkpoint after round 1",
        "no checkpoint after round 2",
        "client 'north' kept no checkpoint",
    ):
        assert any(warning.startswith(expected) for warning in warnings), warnings
    assert not any("round 3" in warning for warning in warnings)
    assert Checkpoint.is_in(saved)
    assert not [*tmp_path.rglob("*.part")]


# --- whom a server refuses, and who refuses a server ---


@contextmanager
def listening(tls: TLS | None = None) -> Iterator[str]:
    """The address of a server that waits for clients."""
    scheme = "http" if tls is None else "https"
    listener = Listener("127.0.0.1", 0, tls)
    listener.start(app.create_app(Hub(genesis.__version__), Tokens(TOKEN), dict))
    try:
        yield f"{scheme}://127.0.0.1:{listener.port}"
    finally:
        listener.stop()


def test_who_has_the_wrong_papers_is_told_and_nobody_else_is_disturbed(
    authorities: Path, tmp_path: Path
) -> None:
    write_tables(tmp_path)
    right, wrong, expired = (authorities / name for name in ("right", "wrong", "expired"))
    certificate = (right / "server.crt", right / "server.key")
    shown = dict(zip(("ssl_cert", "ssl_key"), certificate, strict=True))
    tokens = {name: f"this-is-the-token-of-{name}" for name in NAMES}
    server, serving = serve(
        **CHOICES | {"min_clients": 2}, **shown, ssl_ca=right / "ca.crt", auth_token=tokens
    )

    def own(folder: Path, name: str = "west") -> tuple[object, ...]:
        path = folder / "clients" / f"{name}.crt"
        return ("--ssl-cert", path, "--ssl-key", path.with_suffix(".key"))

    trust = ("--ssl-verify", right / "ca.crt")
    plain = server.url.replace("https", "http")
    with (
        listening() as bare,
        listening(TLS(*certificate)) as asks_nothing,
        listening(TLS(expired / "server.crt", expired / "server.key")) as late,
    ):
        joining = join(
            server.url,
            "north",
            auth_token=tokens["north"],
            ssl_verify=right / "ca.crt",
            ssl_cert=right / "clients" / "north.crt",
            ssl_key=right / "clients" / "north.key",
        )
        cases = [
            (server.url, (*trust, *own(right)), "a-token-that-nobody-has", "a valid token"),
            (server.url, (*trust, *own(right)), "", "a valid token is needed; set FEDERATED"),
            (server.url, (*trust, *own(right)), tokens["south"], "belongs to another client id"),
            (server.url, (*trust, *own(right, "south")), "", "a valid token is needed"),
            (server.url, (*trust, *own(right, "south")), None, "certificate belongs to another"),
            (server.url, ("--ssl-verify", wrong / "ca.crt", *own(right)), None, "unknown CA"),
            (late, ("--ssl-verify", expired / "ca.crt"), None, "has expired; renew"),
            (server.url, trust, None, "if it wants a certificate, give one"),
            (server.url, (*trust, *own(wrong)), None, "if it wants a certificate, give one"),
            (server.url, (*trust, *own(expired)), None, "if it wants a certificate, give one"),
            (plain, (), None, "use https://"),
            (asks_nothing.replace("https", "http"), (), None, "use https://"),
            (bare.replace("http", "https"), trust, None, "does not speak TLS; use http://"),
        ]
        for url, words, token, expected in cases:
            who = ("--client-id", "west", "--data", tmp_path / "west.csv", "--server", url)
            given = tokens["west"] if token is None else token
            result = run_here("client", *who, *words, FEDERATED_AUTH_TOKEN=given)
            assert expected in error_of(result), (words, result.output)
            assert not any(token in result.output for token in tokens.values())
    assert not serving.done()
    other = join(
        server.url,
        "south",
        auth_token=tokens["south"],
        ssl_verify=right / "ca.crt",
        ssl_cert=right / "clients" / "south.crt",
        ssl_key=right / "clients" / "south.key",
    )
    all_end(serving, joining.running, other.running)
    assert parameters(server) == simulated(["north", "south"])


def test_who_comes_twice_too_late_or_from_elsewhere_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TAKEN_SECONDS", 0.0)  # else it waits for the first to go
    write_tables(tmp_path)
    tables()["west"].drop(columns=["zeros"]).to_csv(tmp_path / "west.csv", index=False)
    schema = genesis.Schema.infer(tables()["north"])
    server, serving = serve(**CHOICES | {"min_clients": 2}, schema=schema)

    def refused(name: str) -> str:
        who = ("--client-id", name, "--data", tmp_path / f"{name}.csv", "--server", server.url)
        return error_of(run_here("client", *who))

    with monkeypatch.context() as patch:
        patch.setattr(genesis, "__version__", "0.0.1")
        assert "install the same version" in refused("south")
    assert "no column 'zeros'" in refused("west")
    north = join(server.url, "north", 1)
    until(lambda: server.status()["clients"], "a client")
    assert "there is a client 'north' already" in refused("north")
    south = join(server.url, "south")
    with held(1, north.gate):
        assert "the run has begun without client 'west'" in refused("west")
        assert "there is a client 'north' already" in refused("north")
    all_end(serving, north.running, south.running)
    expected = genesis.FederatedSynthesizer(schema=schema, **CHOICES | {"min_clients": 2})
    expected.fit({name: tables()[name] for name in ("north", "south")})
    assert parameters(server) == parameters(expected)


def test_tables_that_contradict_each_other_end_the_run_for_everybody(tmp_path: Path) -> None:
    server, serving = serve(**CHOICES | {"min_clients": 2})
    north = join(server.url, "north")
    table = tables()["south"].assign(visits=["many", "few"] * 110)
    table.to_csv(tmp_path / "south.csv", index=False)
    who = ("--client-id", "south", "--data", tmp_path / "south.csv", "--server", server.url)
    assert "'visits'" in error_of(run_here("client", *who))
    for running in (serving, north.running):
        assert "'visits'" in str(running.exception(PATIENCE))
    assert isinstance(serving.exception(), SchemaError)


# --- who is slow, and who does not come ---


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round has an end that is near, and nothing else has."""
    exchange = HttpTransport.exchange

    def exchange_soon(
        self: HttpTransport, requests: Mapping[str, Request], *, timeout: float
    ) -> Iterator[Reply]:
        return exchange(self, requests, timeout=3.0 if trains(requests, 1) else timeout)

    monkeypatch.setattr(HttpTransport, "exchange", exchange_soon)


@pytest.mark.usefixtures("soon")
def test_a_frozen_client_is_left_behind_and_welcomed_back(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_all(monkeypatch)
    server, serving = serve(**CHOICES | {"min_clients": 2})
    north = processes.client(server.url, "north", "--model", "north.model")
    south, west = join(server.url, "south", 1, 3), join(server.url, "west")
    with held(1, south.gate):
        until(lambda: task_of(server, "north") is None, "an answer")
        north.signal(signal.SIGSTOP)
    with held(3, south.gate):
        north.signal(signal.SIGCONT)
        until(lambda: task_of(server, "north") is None, "another answer")
    assert north.end() == 0, north.said
    all_end(serving, south.running, west.running)
    assert [report.dropped for report in server.history] == [(), ("north",), ()]
    assert server.history[2].clients == tuple(NAMES)
    assert (processes.folder / "north.model").read_bytes() == model_file(server)


@pytest.mark.usefixtures("soon")
def test_a_round_with_too_few_clients_ends_the_run_for_everybody() -> None:
    server, serving = serve(**CHOICES | {"min_clients": 2})
    north = join(server.url, "north")
    south = FederatedClient(server.url, "south", auth_token=TOKEN)

    @south.on_train_complete
    def stop(round_num: int) -> None:
        if round_num == 2:
            raise KeyboardInterrupt

    leaving = in_thread(south.train, tables()["south"])
    for running in (serving, north.running):
        told = running.exception(PATIENCE)
        assert isinstance(told, FederationError)
        assert "too few clients finished round 2; got 1, min_clients is 2" in str(told)
    assert isinstance(leaving.exception(PATIENCE), KeyboardInterrupt)
    assert len(server.history) == 1
    assert server.status()["state"] == "failed"


def test_too_few_clients_end_the_run_for_everybody() -> None:
    port = free_port()
    north = join(f"http://127.0.0.1:{port}", "north")
    result = run_here("server", "--port", port, "--min-clients", 2, "--join-timeout", 3)
    expected = "too few clients joined within 3 s; got 1, min_clients is 2"
    assert expected in error_of(result)
    assert expected in str(north.running.exception(PATIENCE))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_waits_can_be_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    status: int,
) -> None:
    monkeypatch.setattr(hub, "GRACE_SECONDS", 1.0)  # who is stopped while joining says no goodbye
    write_tables(tmp_path)
    joined: list[Joined] = []

    def stopped(when: Callable[[], object], *words: object) -> None:
        def stop() -> None:
            when()
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # it would end the tests
            os.kill(os.getpid(), number)

        stopping = in_thread(stop)
        result = run_here(*words)
        all_end(stopping)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output

    def address() -> str:
        """That of the server that began last, as it says."""
        return "".join(caplog.text.rpartition("listening at ")[2].split()[:1])

    def first_joins() -> None:
        until(lambda: "listening at" in caplog.text, "a server")
        joined.append(join(address(), "north"))
        until(lambda: len(clients_at(address())) == 1, "a client")

    stopped(first_joins, "server", "--port", 0, "--join-timeout", PATIENCE)
    url = address()
    server, serving = serve(**CHOICES, port=int(url.rpartition(":")[2]))
    until(lambda: len(clients_at(url)) == 1, "a client that comes back")
    stopped(
        lambda: until(lambda: len(clients_at(url)) == 2, "another client"),
        *("client", "--server", url, "--client-id", "south", "--data", tmp_path / "south.csv"),
    )
    joined += [join(url, "south"), join(url, "west")]
    all_end(serving, *(each.running for each in joined))
    assert parameters(server) == simulated()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def clients_at(url: str) -> list[Any]:
    """The clients of a server, as it says itself; none if there is no server."""
    try:
        answer = httpx.get(f"{url}/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})
    except httpx.TransportError:
        return []
    return list(answer.json()["clients"])


# --- somebody who means harm, and has a token ---


def test_a_run_among_enemies(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[tuple[str, str, bytes]] = []  # session, path and content of every reply
    send = Connection._send

    def listen(self: Connection, method: str, path: str, **options: Any) -> Any:
        if path.startswith("v1/reply"):
            sent.append((str(self.secret), path, options["content"]))
        return send(self, method, path, **options)

    monkeypatch.setattr(Connection, "_send", listen)
    server, serving = serve(**CHOICES)
    joined = [join(server.url, "north", 2), *(join(server.url, name) for name in NAMES[1:])]

    def post(path: str, session: str, content: bytes) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}", SESSION: session}
        return httpx.post(f"{server.url}/{path}", headers=headers, content=content)

    def post_slowly(more: str) -> socket.socket:
        """The beginning of a reply."""
        head = f"POST /{waiting} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        return stack.enter_context(connect(server, f"{head}{SESSION}: {own}\r\n{more}"))

    with ExitStack() as stack, held(2, joined[0].gate):
        until(lambda: task_of(server, "south") is task_of(server, "west") is None, "two answers")
        known = server._hub
        assert known is not None
        waiting = f"v1/reply/{known.pending['north'].id}"
        replies = sent.copy()
        of = {known.session(session).client_id: session for session, *_ in replies}
        own = of.pop("north")
        for session, path, content in replies:
            assert post(path, session, content).json() == {"accepted": False}  # a replay
            assert post(waiting, "stolen", content).status_code == 428
        for session in of.values():
            assert post(waiting, session, replies[-1][2]).json() == {"accepted": False}
        huge = post_slowly(f"Content-Length: {10**10}\r\n\r\nx")
        assert huge.recv(100).startswith(b"HTTP/1.1 413")
        for _ in range(50):
            post_slowly("")
            post_slowly("Content-Length: 1000\r\n\r\nx")
            stack.enter_context(connect(server, ""))
        joined[0].gate.open(2)
        all_end(serving, *(each.running for each in joined))
    assert parameters(server) == simulated()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_bomb_costs_its_thrower_the_run(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    wait_for_all(monkeypatch)
    encode = connection.encode_reply
    bomb = bytes(1 << 27)
    assert len(compress(bomb, how)) < 1 << 20

    def encode_or_throw(reply: Reply) -> bytes:
        is_second = len(north.client.history) == 2 and "vector" in reply.arrays
        return bomb if is_second and reply.client_id == "north" else encode(reply)

    monkeypatch.setattr(connection, "encode_reply", encode_or_throw)
    server, serving = serve(**CHOICES | {"min_clients": 2})
    north = join(server.url, "north", compression=how)
    south, west = join(server.url, "south"), join(server.url, "west")
    all_end(serving, south.running, west.running)
    assert "a body is too large" in str(north.running.exception(PATIENCE))
    assert [dict(report.failed).keys() for report in server.history] == [set(), {"north"}, set()]
    assert [len(report.clients) for report in server.history] == [3, 2, 2]
    assert {parameters(run.client) for run in (south, west)} == {parameters(server)}


def connect(server: FederatedServer, text: str) -> socket.socket:
    """A connection on which something was sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), 30)
    connection.sendall(text.encode())
    return connection
