"""Promises of privacy over a network: what is told, what is refused, and what a crash costs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import local
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from genesis_cli.main import genesis as command_line

from genesis import Schema, Synthesizer
from genesis.errors import FederationError, PlanError, PrivacyError
from genesis.federated import FederatedClient, FederatedServer
from genesis.federated.messages import Reply, Request
from genesis.federated.promise import RunPromise
from genesis.federated.shard import Shard
from genesis.federated.transport.http import connection, hub
from genesis.federated.transport.http.connection import Connection
from genesis.federated.transport.http.metrics import metrics_text
from genesis.federated.transport.http.transport import HttpTransport
from genesis.models.tvae import TVAE
from genesis.privacy.budget import Privacy
from genesis.privacy.events import Skellam, event_to_dict
from genesis.privacy.ledger import Ledger, LedgerFile, read_ledger
from genesis.privacy.report import spent_epsilon
from genesis.schema import Kind
from tests.federated.http.processes import (
    PATIENCE,
    TOKEN,
    Gate,
    Processes,
    held,
    in_thread,
    serve,
    until,
)

NAMES = ("north", "south")
SMALL = {"epochs": 2, "batch_size": 50, "compress_dims": (8,), "decompress_dims": (8,)}
CHOICES: dict[str, Any] = {
    "method": "tvae",
    "config": SMALL,
    "n_rounds": 2,
    "min_clients": 2,
    "local_epochs": 1,
    "seed": 7,
}


def table(seed: int, n: int = 160) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "ward": rng.choice(["a", "b"], n),
            "cost": rng.normal(50, 9, n).round(2),
        }
    )


TABLES = {name: table(seed) for seed, name in enumerate((*NAMES, "west"))}


def promise(epsilon: float = 2.0, **choices: Any) -> dict[str, Any]:
    return {"differential_privacy": {"epsilon": epsilon, **choices}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients in threads try again soon, and their ids are free soon."""
    monkeypatch.setattr(connection, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.3)
    monkeypatch.setattr(hub, "GRACE_SECONDS", 0.5)


def join(
    url: str, name: str, *rounds: int, **choices: Any
) -> tuple[FederatedClient, Future[FederatedClient], Gate]:
    """Start a client in a thread, to be held in some rounds."""
    client = FederatedClient(url, name, **{"auth_token": TOKEN} | choices)
    gate = Gate(client, *rounds)
    return client, in_thread(client.train, TABLES[name]), gate


def play(
    choices: Mapping[str, Any], clients: Mapping[str, Mapping[str, Any]]
) -> tuple[FederatedServer, dict[str, FederatedClient]]:
    """A whole run."""
    server, serving = serve(**CHOICES | dict(choices))
    joined = {name: join(server.url, name, **own) for name, own in clients.items()}
    for running in (*(each[1] for each in joined.values()), serving):
        running.result(PATIENCE)
    return server, {name: each[0] for name, each in joined.items()}


def told(run: Any) -> dict[str, Any]:
    """What somebody's model says of its privacy."""
    report: dict[str, Any] | None = run.model.privacy
    assert report is not None
    assert spent_epsilon(report) == report["epsilon"]
    return json.loads(json.dumps(report))  # type: ignore[no-any-return]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


ONE_RUN = ["skellam", "threshold", "sampled_gaussian"]


# --- whoever promises ---


def test_the_servers_promise_is_kept_by_clients_that_know_nothing_of_it() -> None:
    statuses: list[dict[str, Any]] = []
    texts: list[str] = []
    server, serving = serve(**CHOICES, privacy=promise(2.0, delta=1e-6))

    @server.on_round_complete
    def look(metrics: Any) -> None:
        assert metrics == {}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        statuses.append(httpx.get(f"{server.url}/v1/status", headers=headers).json())
        texts.append(httpx.get(f"{server.url}/metrics", headers=headers).text)

    joined = [join(server.url, name) for name in NAMES]
    for running in (*(each[1] for each in joined), serving):
        running.result(PATIENCE)
    report = told(server)
    assert 1.8 < report["epsilon"] <= 2.0
    assert report["unprotected"] == []
    assert server.epsilon == report["epsilon"]
    for client, _, _ in joined:
        assert told(client) == report
        assert set(client.history[0]) >= {"loss"}  # for its own eyes
    noisy = {name: client["rows"] for name, client in _by_name(server.status()).items()}
    assert noisy == server.rows != dict.fromkeys(NAMES, 160)
    for status, text in zip(statuses, texts, strict=True):
        assert status["epsilon"] == 2.0
        assert {name: each["rows"] for name, each in _by_name(status).items()} == noisy
        assert [each["metrics"] for each in status["rounds"]] == [{}] * len(status["rounds"])
        assert "genesis_epsilon 2.0" in text
        for name, rows in noisy.items():
            assert f'genesis_client_rows{{client="{name}"}} {float(rows)}' in text
    assert b"genesis_epsilon 2.0" in metrics_text(server.status())


def _by_name(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["client_id"]: each for each in status["clients"]}


def test_clients_promise_to_a_server_that_promises_nothing(tmp_path: Path) -> None:
    files = {name: str(tmp_path / f"{name}.json") for name in NAMES}
    own = {name: {"privacy": promise(1.0, ledger=files[name], budget=1.1)} for name in NAMES}
    server, clients = play({}, own)
    report = told(server)
    assert 0.9 < report["epsilon"] <= 1.0
    assert server.status()["epsilon"] is None  # what the plan promises
    for name, client in clients.items():
        assert told(client) == report
        kept = LedgerFile(files[name], budget=None, delta=1e-5)
        assert kept.ledger().to_list() == report["clients"][name]["ledger"]
        assert "budget" not in json.dumps(report)
        assert files[name] not in json.dumps(report)
    # The next run is refused before anybody was asked anything.
    for name, client in clients.items():
        before = Path(files[name]).read_bytes()
        with pytest.raises(PrivacyError, match=f"more than the budget in {name}.json"):
            client.train(TABLES[name])
        assert json.loads(Path(files[name]).read_bytes()) == json.loads(before)


def test_a_server_learns_of_a_budget_only_that_it_is_spent(tmp_path: Path) -> None:
    """Two runs at the same time: the second one is refused when the run has begun."""
    own = promise(1.0, ledger=str(tmp_path / "north.json"), budget=1.1)
    server, serving = serve(**CHOICES)
    north = join(server.url, "north", privacy=own)
    until(lambda: len(server.status()["clients"]) == 1, "a client")
    play({"min_clients": 1}, {"north": {"privacy": own}})
    before = read_ledger(tmp_path / "north.json")
    south = join(server.url, "south")
    for running in (serving, north[1], south[1]):
        error = running.exception(PATIENCE)
        assert "more than the budget" in str(error)
        assert str(tmp_path) not in str(error)
    assert read_ledger(tmp_path / "north.json") == before


def test_some_promise_and_some_do_not() -> None:
    server, clients = play(
        {"method": "ctgan", "config": {"epochs": 2, "batch_size": 50}},
        {"north": {"privacy": promise(1.0)}, "south": {}},
    )
    report = told(server)
    assert report["epsilon"] is None
    assert report["unprotected"] == ["south"]
    assert 0.9 < report["clients"]["north"]["epsilon"] <= 1.0
    assert server.rows["south"] == 160 != server.rows["north"]
    for client in clients.values():
        assert told(client) == report
        assert len(client.generate(9)) == 9


def test_the_stricter_of_the_servers_and_a_clients_promise_holds() -> None:
    strict = promise(0.7, delta=1e-7, max_grad_norm=0.3)
    server, _ = play(
        {"privacy": promise(2.0, max_grad_norm=0.5)},
        {"north": {"privacy": strict}, "south": {"privacy": promise(50.0)}},
    )
    found = told(server)["clients"]
    assert found["north"]["epsilon"] <= 0.7 < found["south"]["epsilon"] <= 2.0
    north, south = found["north"]["promise"], found["south"]["promise"]
    assert (north["delta"], north["max_grad_norm"]) == (1e-7, 0.3)
    assert (south["epsilon"], south["max_grad_norm"]) == (2.0, 0.5)


def test_whole_clients_are_hidden_by_the_server_alone() -> None:
    stated = [
        {**column.to_dict(), "categories": ["a", "b"]}
        if column.name == "ward"
        else column.to_dict()
        for column in Schema.infer(pd.concat(TABLES.values(), ignore_index=True))
    ]
    schema = Schema.from_dict({"columns": stated})
    hidden = promise(8.0, unit="client", insist=True, max_grad_norm=1e-3)
    server, clients = play({"privacy": hidden, "schema": schema}, {name: {} for name in NAMES})
    report = told(server)
    assert (report["unit"], report["trust"]) == ("client", "server")
    assert 7 < report["epsilon"] <= 8
    assert set(server.rows.values()) == {1000}  # all count alike
    assert all(told(client) == report for client in clients.values())
    server, serving = serve(**CHOICES, privacy=hidden, schema=schema)
    running = [join(server.url, "north", privacy=promise(1.0))[1], join(server.url, "south")[1]]
    with pytest.raises(PlanError, match="leave one of the two promises out"):
        serving.result(PATIENCE)
    assert all(each.exception(PATIENCE) for each in running)


def test_no_letter_of_a_key_is_told() -> None:
    keyed = table(0).assign(number=[f"Winterbourne-{i:04d}" for i in range(160)])
    shard = Shard("north", keyed, guarded=True, privacy=Privacy(1.0))
    said = shard.handle(Request("describe", meta={"discrete_columns": []}))
    column = Schema.from_dict(said.meta["schema"])["number"]
    assert (column.kind, column.format) == (Kind.ID, "aaaaaaaa")
    assert "Winter" not in json.dumps(said.meta)


# --- clients that are stopped ---


class Killed(BaseException):
    """Ends a client that is a thread."""


def kill_north(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Stop north without a goodbye: when it has done something and not told, or in training.

    In the second round, if it is about training.
    """
    handle, leave, train = Shard.handle, Connection.__exit__, TVAE.train
    ends, training = [kind], local()

    def handle_until(self: Shard, request: Request) -> Reply:
        is_later = request.kind != "train" or request.round == 1
        training.by = self.client_id if request.kind == "train" and is_later else None
        reply = handle(self, request)
        if self.client_id == "north" and request.kind in ends and is_later:
            ends.clear()
            raise Killed
        return reply

    def train_until(self: TVAE, *given: Any) -> Any:
        losses = train(self, *given)
        if "training" in ends and training.by == "north":
            ends.clear()
            raise Killed
        return losses

    def vanish(self: Connection, kind: type | None, *what: Any) -> None:
        if kind is Killed:
            self._closing.set()
            self._heart.join()
            monkeypatch.setattr(self, "_send", lambda *_, **__: None)
        leave(self, kind, *what)

    monkeypatch.setattr(Shard, "handle", handle_until)
    monkeypatch.setattr(TVAE, "train", train_until)
    monkeypatch.setattr(Connection, "__exit__", vanish)


KINDS = [
    *("count", "train", "training"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("labels", "prepare", "finish")),
]


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_kept_its_memory_pays_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, with_file: bool
) -> None:
    kill_north(monkeypatch, kind)
    file = tmp_path / "north.json"
    own: dict[str, Any] = {"checkpoint": tmp_path / "north"}
    if with_file:
        own["privacy"] = promise(5.0, ledger=str(file), budget=2.2)
        with pytest.raises(PrivacyError, match="budget"):  # of what it would have promised alone
            FederatedClient("http://127.0.0.1:1", "north", **own).train(TABLES["north"])
        own["privacy"] = promise(2.0, ledger=str(file), budget=2.2)
    server, serving = serve(**CHOICES, privacy=promise(2.0))
    south = join(server.url, "south")
    assert isinstance(join(server.url, "north", **own)[1].exception(PATIENCE), Killed)
    north = join(server.url, "north", **own)
    for running in (north[1], south[1], serving):
        running.result(PATIENCE)
    report = told(server)
    assert 1.8 < report["epsilon"] <= 2.0
    for name in NAMES:
        assert kinds(report["clients"][name]["ledger"]) == ONE_RUN
    steps, *others = (report["clients"][name]["ledger"] for name in NAMES)
    assert [event["count"] for event in steps[:2]] == [e["count"] for e in others[0][:2]]
    assert [each.clients for each in server.history] == [NAMES] * 2
    assert told(north[0]) == report
    if with_file:
        kept = LedgerFile(file, budget=None, delta=1e-5)
        assert kept.ledger().to_list() == report["clients"]["north"]["ledger"]


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize(
    "kind", ["train", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("labels", "count"))]
)
def test_a_client_that_kept_nothing_releases_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, with_file: bool
) -> None:
    kill_north(monkeypatch, kind)
    wait_for_all(monkeypatch)
    file = tmp_path / "north.json"
    own = {"privacy": promise(2.0, ledger=str(file))} if with_file else {}
    # Where everybody is needed, the server waits for north as long as it has time.
    needs = {"min_clients": 1} if kind == "train" else {"timeout_seconds": 6.0}
    server, serving = serve(**CHOICES | needs, privacy=promise(2.0))
    south, north = join(server.url, "south"), join(server.url, "north", **own)
    assert isinstance(north[1].exception(PATIENCE), Killed)
    before = read_ledger(file) if with_file else None
    north = join(server.url, "north", **own)
    if kind == "labels":  # what it did had not left it
        for running in (north[1], south[1], serving):
            running.result(PATIENCE)
        assert told(server)["epsilon"] <= 2.0
        return
    error = north[1].exception(PATIENCE)
    assert isinstance(error, FederationError)
    assert "has kept nothing of what it has released" in str(error)
    if with_file:
        assert read_ledger(file) == before
        assert LedgerFile(file, budget=None, delta=1e-5).spent() <= 2.0
    if kind == "count":  # without its counts there is no run
        assert "did not count its values" in str(serving.exception(PATIENCE))
        assert south[1].exception(PATIENCE)
        return
    south[1].result(PATIENCE)
    serving.result(PATIENCE)
    report = told(server)
    assert [each.clients for each in server.history] == [NAMES, ("south",)]
    assert report["epsilon"] <= 2.0
    assert kinds(report["clients"]["north"]["ledger"]) == ONE_RUN


def wait_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers begin with two clients, also if fewer are enough."""
    wait_for = HttpTransport.wait_for

    def wait(self: HttpTransport, names: Any, fewest: int, timeout: float, **_: int) -> None:
        wait_for(self, names or NAMES, fewest, timeout)

    monkeypatch.setattr(HttpTransport, "wait_for", wait)


def test_a_client_that_claims_to_have_forgotten_has_spent_both() -> None:
    known = RunPromise(None, public_schema=False)

    def says(*deviations: float) -> list[tuple[float, int]]:
        events = [event_to_dict(Skellam(each, 2)) for each in deviations]
        meta = {"private": True, "spent": {**promise(1.0), "ledger": events}}
        known.hear([Reply("north", meta)])
        ledger: list[dict[str, Any]] = known.clients["north"]["ledger"]
        assert Ledger.from_list(ledger).to_list() == ledger
        return [(each["deviation"], each["count"]) for each in ledger]

    assert says(30.0) == [(30.0, 2)]
    assert says(30.0, 9.0) == [(30.0, 2), (9.0, 2)]
    assert says(30.0, 9.0) == [(30.0, 2), (9.0, 2)]
    assert says(9.0) == [(30.0, 2), (9.0, 4)]
    with pytest.raises(FederationError, match="more than can be told"):
        says(*np.linspace(10, 20, 1001))


# --- servers that are stopped ---


def stop_server(monkeypatch: pytest.MonkeyPatch, round: int) -> None:
    """Stop the first server in the middle of a round, from 0, when one client has answered."""
    exchange = HttpTransport.exchange
    ends = [round]

    def exchange_until(
        self: HttpTransport, requests: Mapping[str, Request], *, timeout: float
    ) -> Iterator[Reply]:
        for reply in exchange(self, requests, timeout=timeout):
            trains = any((r.kind, r.round) == ("train", round) for r in requests.values())
            if ends and trains:
                ends.clear()
                raise KeyboardInterrupt
            yield reply

    monkeypatch.setattr(HttpTransport, "exchange", exchange_until)


def test_a_server_that_is_stopped_gets_the_same_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_server(monkeypatch, 1)
    sent: dict[tuple[str, int], set[bytes]] = {}
    handle = Shard.handle

    def listen(self: Shard, request: Request) -> Reply:
        reply = handle(self, request)
        if request.kind == "train":
            vector = reply.arrays["vector"].tobytes()
            sent.setdefault((self.client_id, request.round), set()).add(vector)
        return reply

    monkeypatch.setattr(Shard, "handle", listen)
    kept = {"checkpoint": tmp_path / "server", "resume": True, "privacy": promise(2.0)}
    choices = CHOICES | {"n_rounds": 3} | kept
    first, serving = serve(**choices)
    file = tmp_path / "north.json"
    own = {"checkpoint": tmp_path / "north", "privacy": promise(2.0, ledger=str(file))}
    joined = [join(first.url, "north", **own), join(first.url, "south")]
    assert isinstance(serving.exception(PATIENCE), KeyboardInterrupt)
    until(lambda: {name for name, round in sent if round == 1} == set(NAMES), "two answers")
    second, serving = serve(**choices, port=first.port)
    for running in (*(each[1] for each in joined), serving):
        running.result(PATIENCE)
    report = told(second)
    assert 1.8 < report["epsilon"] <= 2.0
    assert {key: len(answers) for key, answers in sent.items()} == {
        (name, round): 1 for name in NAMES for round in range(3)
    }
    assert all(kinds(each["ledger"]) == ONE_RUN for each in report["clients"].values())
    mine = LedgerFile(file, budget=None, delta=1e-5).ledger().to_list()
    assert mine == report["clients"]["north"]["ledger"]
    assert all(told(each[0]) == report for each in joined)


def test_a_run_that_had_no_checkpoint_yet_begins_anew_and_costs_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_server(monkeypatch, 0)
    choices = CHOICES | {"checkpoint": tmp_path, "resume": True, "privacy": promise(2.0)}
    own = {name: promise(2.0, ledger=str(tmp_path / f"{name}.json")) for name in NAMES}
    first, serving = serve(**choices)
    joined = [join(first.url, name, privacy=own[name]) for name in NAMES]
    assert isinstance(serving.exception(PATIENCE), KeyboardInterrupt)
    _, serving = serve(**choices, port=first.port)
    # Clients that are still there would begin with an empty ledger.
    assert "under another promise already" in str(serving.exception(PATIENCE))
    assert all(each[1].exception(PATIENCE) for each in joined)
    server, serving = serve(**choices, port=first.port)
    joined = [join(first.url, name, privacy=own[name]) for name in NAMES]
    for running in (*(each[1] for each in joined), serving):
        running.result(PATIENCE)
    report = told(server)
    assert report["epsilon"] <= 2.0
    for name in NAMES:
        releases = read_ledger(tmp_path / f"{name}.json")["releases"]
        assert len({each["run"] for each in releases}) == 2
        spent = LedgerFile(tmp_path / f"{name}.json", budget=None, delta=1e-5).spent()
        assert spent > report["clients"][name]["epsilon"]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_server_and_client_are_stopped_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    stop_server(monkeypatch, 1)
    kill_north(monkeypatch, "train")
    wait_for_all(monkeypatch)
    saved = {"checkpoint": tmp_path / "server", "resume": True, "privacy": promise(2.0)}
    choices = CHOICES | {"n_rounds": 3, "min_clients": 1, "patience": 1.0} | saved
    own = {"checkpoint": tmp_path / "north"} if kept else {}
    first, serving = serve(**choices)
    south, north = join(first.url, "south"), join(first.url, "north", **own)
    assert isinstance(north[1].exception(PATIENCE), Killed)
    assert isinstance(serving.exception(PATIENCE), KeyboardInterrupt)
    second, serving = serve(**choices, port=first.port)
    north = join(first.url, "north", **own)
    for running in (south[1], north[1], serving):
        running.result(PATIENCE)
    report = told(second)
    assert report["epsilon"] <= 2.0
    assert kinds(report["clients"]["north"]["ledger"]) == ONE_RUN
    took_part = [each.clients for each in second.history]
    assert took_part == [NAMES, *([NAMES] * 2 if kept else [("south",)] * 2)]


# --- processes ---


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes in a folder with the tables."""
    for name, rows in TABLES.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    with Processes(tmp_path) as processes:
        processes.write_plan({**CHOICES, "config": {k: _list(v) for k, v in SMALL.items()}})
        yield processes


def _list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def spent(folder: Path, *files: str) -> list[dict[str, Any]]:
    """What `genesis privacy spent` tells of some files."""
    words = ["privacy", "spent", *(str(folder / file) for file in files), "--json"]
    done = CliRunner().invoke(command_line, words)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["files"]
    return found


@pytest.mark.slow
def test_commands_keep_promises_and_budgets(processes: Processes) -> None:
    folder = processes.folder
    words = ("--plan", "plan.toml", "--epsilon", 2, "--delta", 1e-6, "--json", "server.json")
    server, url = processes.server(*words, "--model", "server.model")
    own = ("--epsilon", 1, "--privacy-budget", 1.2)
    programs = [
        server,
        processes.client(url, "north", *own, "--model", "north.model"),
        processes.client(url, "south", "--model", "south.model"),
    ]
    for program in programs:
        assert program.end() == 0, program.said
        assert "Traceback" not in program.said
    account = json.loads((folder / "server.json").read_text())
    reports = [Synthesizer.load(folder / f"{n}.model").privacy for n in ("server", *NAMES)]
    assert reports == [account["privacy"]] * 3
    north, model, mine = spent(folder, "north.model", "server.model", "north.csv.ledger.json")
    assert north["epsilon"] == model["epsilon"] == account["epsilon"] <= 2.0
    assert 0.8 < mine["epsilon"] <= 1.0  # at its own δ, which is larger than the server's
    assert (mine["budget"], mine["delta"]) == (1.2, 1e-5)
    assert not (folder / "south.csv.ledger.json").exists()  # it promised nothing by itself
    assert "differentially private for each record" in server.said
    refused_by_its_budget(folder, *own)


def refused_by_its_budget(folder: Path, *own: object) -> None:
    """A command that takes part in no other run says so in one line, and writes nothing down."""
    before = read_ledger(folder / "north.csv.ledger.json")
    line = ["federated", "client", "--server", "http://127.0.0.1:1", *map(str, own)]
    line += ["--data", str(folder / "north.csv"), "--client-id", "north"]
    done = CliRunner().invoke(command_line, line, env={"FEDERATED_AUTH_TOKEN": TOKEN})
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "error: this would spend more than the budget in north.csv.ledger.json" in done.stderr
    assert read_ledger(folder / "north.csv.ledger.json") == before


def test_a_command_keeps_its_ledger_beside_the_table(tmp_path: Path) -> None:
    TABLES["north"].to_csv(tmp_path / "north.csv", index=False)
    server, serving = serve(**CHOICES | {"min_clients": 1})
    own = ("--epsilon", 1, "--privacy-budget", 1.2)
    line = ["federated", "client", "--server", server.url, "--data", str(tmp_path / "north.csv")]
    line += ["--client-id", "north", "--model", str(tmp_path / "north.model"), *map(str, own)]
    done = CliRunner().invoke(command_line, line, env={"FEDERATED_AUTH_TOKEN": TOKEN})
    assert done.exit_code == 0, done.output
    serving.result(PATIENCE)
    model, ledger = spent(tmp_path, "north.model", "north.csv.ledger.json")
    assert 0.9 < model["epsilon"] <= 1.0
    assert ledger["epsilon"] == pytest.approx(model["epsilon"], rel=1e-9)
    refused_by_its_budget(tmp_path, *own)


@pytest.mark.slow
def test_whoever_is_killed_pays_once(processes: Processes) -> None:
    """A client in training and when it has answered, then the server in the middle of a round."""
    folder = processes.folder
    words = ("--plan", "plan.toml", "--rounds", 4, "--epsilon", 2, "--resume", "--patience", 20)
    words = (*words, "--checkpoint", "kept", "--model", "server.model")
    server, url = processes.server(*words)
    mine = ("--epsilon", 2, "--checkpoint", "own", "--model", "north.model")
    north = processes.client(url, "north", *mine)
    south = join(url, "south", 2, 3, 4, checkpoint=folder / "souths")
    with held(2, south[2]):
        north.kill()  # wherever it is
        north = processes.client(url, "north", *mine)
    with held(3, south[2]):
        north.wait_for("round 3/4")
        north.kill()
        north = processes.client(url, "north", *mine)
    with held(4, south[2]):
        server.signal(signal.SIGKILL)
        server.end()
        server, _ = processes.server(*words, "--port", url.rpartition(":")[2])
    for program in (north, server):
        assert program.end() == 0, program.said
    south[1].result(PATIENCE)
    model, ledger = spent(folder, "server.model", "north.csv.ledger.json")
    assert 1.8 < model["epsilon"] <= 2.0
    assert ledger["epsilon"] == pytest.approx(model["epsilon"], rel=0.05)
    report = Synthesizer.load(folder / "server.model").privacy
    assert report is not None
    assert Synthesizer.load(folder / "north.model").privacy == report
    assert told(south[0]) == report
    for each in report["clients"].values():
        assert kinds(each["ledger"]) == ONE_RUN
    kept = read_ledger(folder / "north.csv.ledger.json")
    found = [each["event"] for each in kept["releases"]]
    assert found == report["clients"]["north"]["ledger"]
