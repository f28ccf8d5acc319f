"""Every route: for those who may, for those who may not, and for whoever sends just anything."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from queue import SimpleQueue
from typing import Any, ClassVar, Self

import httpx
import numpy as np
import pandas as pd
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from starlette.types import Receive, Scope, Send

import genesis
from genesis.federated import FederatedClient
from genesis.federated.messages import Reply, Request
from genesis.federated.transport.body import compress, encode_reply, encode_request, largest_reply
from genesis.federated.transport.http import app as routes
from genesis.federated.transport.http import listener as web
from genesis.federated.transport.http.app import create_app
from genesis.federated.transport.http.hub import Body, Hub, Task
from genesis.federated.transport.http.listener import Listener
from genesis.federated.transport.http.page import POLICY
from genesis.federated.transport.http.protocol import COMPRESSION, SESSION, TASK, VERSION
from genesis.federated.transport.http.tokens import Tokens
from tests.federated.http import status
from tests.federated.http.processes import in_thread, serve, until

SHARED, OPERATOR = "the-token-of-all-clients", "the-token-of-the-operator"
NORTH, SOUTH = "the-token-of-north-alone", "the-token-of-south-alone"
WRONG = "a-token-that-nobody-has-got"
TOKENS = {
    "open": Tokens(),
    "shared": Tokens(SHARED),
    "shared, an operator": Tokens(SHARED, OPERATOR),
    "one each": Tokens({"north": NORTH, "south": SOUTH}),
    "one each, an operator": Tokens({"north": NORTH, "south": SOUTH}, OPERATOR),
}
FOR_CLIENTS = [
    ("GET", "/v1/task"),
    ("POST", "/v1/reply/x"),
    ("POST", "/v1/alive"),
    ("POST", "/v1/leave"),
]
FOR_OPERATORS = ["/", "/v1/status", "/metrics"]
EXPECTS = {"vector": ("float32", 4)}


class Served:
    """A server whose run nobody plays: the test is its transport.

    All of them take turns behind one listener, because a web server takes its time to stop.

    Args:
        tokens: Who may ask.
        clients: Who has joined; the run has begun with them.
    """

    listener: ClassVar[Listener]
    now: ClassVar[FastAPI]

    def __init__(self, tokens: Tokens, *clients: str) -> None:
        self.hub = Hub(genesis.__version__)
        self.app: FastAPI = create_app(self.hub, tokens, status, {"n_rounds": 3})
        self.url = f"http://127.0.0.1:{self.listener.port}"
        self._http = httpx.Client(base_url=self.url, verify=False)
        self.inbox: SimpleQueue[Reply] = SimpleQueue()
        self.secrets = {name: self.hub.join(name, genesis.__version__) for name in clients}
        if clients:
            self.hub.ask([Task(name, "describe", Body(b"")) for name in clients], self.inbox)
            self.hub.withdraw()

    def ask(self, client: str, size: int = 4) -> Task:
        """Ask a client for its parameters."""
        request = Request("train", arrays={"vector": np.zeros(size, np.float32)}, expects=EXPECTS)
        task = Task(client, "train", Body(encode_request(request)), EXPECTS)
        self.listener.call(self.hub.ask, [task], self.inbox)
        return task

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request."""
        return self._http.request(method, path, **options)

    def lives(self) -> None:
        """Make sure that the server answers."""
        assert self.call("GET", "/health").json() == {"status": "ok"}

    def socket(self) -> closing[socket.socket]:
        """A connection that the test writes bytes to."""
        return closing(socket.create_connection(("127.0.0.1", self.listener.port), timeout=10))

    def __enter__(self) -> Self:
        type(self).now = self.app
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self.listener.call(self.hub.end, "interrupted", None)


@pytest.fixture(scope="module", autouse=True)
def _listener() -> Iterator[None]:
    async def whose_turn_it_is(scope: Scope, receive: Receive, send: Send) -> None:
        await Served.now(scope, receive, send)

    Served.listener = Listener("127.0.0.1", 0)
    Served.listener.start(whose_turn_it_is)
    yield
    Served.listener.stop()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """That there is no task is said at once, and tests may guess tokens as often as they like."""
    monkeypatch.setattr(web, "LINGER_SECONDS", 0.2)
    monkeypatch.setattr(routes, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(routes, "WRONG_TOKENS", RateLimitItemPerMinute(10**9))
    monkeypatch.setattr(routes, "CALLS", RateLimitItemPerSecond(10**9))


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client sends is an error of the server."""
    caplog.set_level(logging.INFO)
    yield
    for record in caplog.get_records("call"):
        assert record.levelno < logging.ERROR, record.getMessage()
        assert record.exc_info is None, record.getMessage()


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    tokens, *clients = getattr(request, "param", (TOKENS["shared"], "north", "south"))
    with Served(tokens, *clients) as served:
        yield served


def headers(token: str | None = SHARED, session: str | None = None) -> dict[str, str]:
    """What a client sends with everything."""
    given = {VERSION: genesis.__version__}
    if token is not None:
        given["Authorization"] = f"Bearer {token}".strip()
    if session is not None:
        given[SESSION] = session
    return given


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    """What a browser sends."""
    code = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {code}"}


def join(served: Served, client: str, **options: Any) -> httpx.Response:
    content = json.dumps({"client_id": client}).encode()
    return served.call("POST", "/v1/join", **{"headers": headers(), "content": content} | options)


def reply_of(**arrays: Any) -> bytes:
    return encode_reply(Reply("north", {"metrics": {}}, arrays))


GOOD = reply_of(vector=np.ones(4, np.float32))


# --- who may ---


def test_there_are_no_other_routes() -> None:
    found = {
        (method, getattr(each, "path", "?"))
        for each in create_app(Hub("1"), Tokens(), dict).routes
        for method in getattr(each, "methods", ())
    }
    known = {*FOR_CLIENTS, ("POST", "/v1/join"), *(("GET", path) for path in FOR_OPERATORS)}
    known = {(method, path.replace("reply/x", "reply/{task_id}")) for method, path in known}
    assert found == known | {("GET", "/health")}


@pytest.mark.parametrize("kind", TOKENS)
def test_who_may_use_the_routes_of_clients(kind: str) -> None:
    owners: dict[str | None, str] = {SHARED: "anybody"}
    if kind.startswith("one each"):
        owners = {NORTH: "north", SOUTH: "south"}
    with Served(TOKENS[kind], "north", "south") as served:
        sessions = served.secrets | {"nobody": "x" * 43, "empty": "", "none": None}
        for token, (name, secret) in itertools.product(
            (None, "", WRONG, SHARED, NORTH, SOUTH, OPERATOR), sessions.items()
        ):
            owner = "anybody" if kind == "open" else owners.get(token)
            allowed = owner in ("anybody", name)
            expected = 401 if owner is None else 428 if name not in served.secrets else 403
            for method, path in FOR_CLIENTS:
                response = served.call(method, path, headers=headers(token, secret))
                if allowed and name in served.secrets:
                    assert response.status_code == (204 if path == "/v1/task" else 200)
                else:
                    assert response.status_code == expected
                    assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    ("kind", "served"), [(kind, (tokens,)) for kind, tokens in TOKENS.items()], indirect=["served"]
)
def test_who_may_join(kind: str, served: Served) -> None:
    tokens = (None, WRONG, SHARED, NORTH, OPERATOR)
    for token, name in itertools.product(tokens, ("north", "west")):
        response = join(served, name, headers=headers(token))
        if kind == "open" or (kind.startswith("shared") and token == SHARED):
            expected = 200
        elif kind.startswith("one each") and token == NORTH:
            expected = 200 if name == "north" else 403
        else:
            expected = 401
        assert response.status_code == expected
        if expected == 200:
            session = served.hub.session(response.json()["session"])
            assert session.client_id == name
            assert response.json()["n_rounds"] == 3
            served.hub.leave(session)
        assert not served.hub.sessions


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("path", FOR_OPERATORS)
def test_who_may_look(kind: str, path: str) -> None:
    """The token in a header, or as a password; that of a client only where all have the same."""
    operator = OPERATOR if "operator" in kind else SHARED if kind == "shared" else None
    clients = {SHARED} if kind.startswith("shared") else {NORTH, SOUTH}
    with Served(TOKENS[kind], "north") as served:
        for token in (None, "", WRONG, SHARED, NORTH, OPERATOR):
            for given in (headers(token), basic(token or "")):
                response = served.call("GET", path, headers=given)
                if kind == "open" or (operator is not None and token == operator):
                    assert response.status_code == 200
                    assert response.headers["Cache-Control"] == "no-store"
                    assert response.headers["X-Content-Type-Options"] == "nosniff"
                elif token in clients and kind != "open":
                    assert response.status_code == 403
                    assert "operator" in response.json()["error"]
                else:
                    assert response.status_code == 401
                    scheme = "Basic" if path == "/" else "Bearer"
                    assert response.headers["WWW-Authenticate"].startswith(scheme)
            # A session is none of its business.
            assert served.call(
                "GET", path, headers={SESSION: served.secrets["north"]}
            ).status_code == (200 if kind == "open" else 401)


def test_a_password_opens_no_route_of_clients(served: Served) -> None:
    """A browser that knows it sends it along with whatever another page makes it ask."""
    for method, path in [*FOR_CLIENTS, ("POST", "/v1/join")]:
        given = headers(None, served.secrets["north"]) | basic(SHARED)
        assert served.call(method, path, headers=given, content=b"{}").status_code == 401


@pytest.mark.parametrize("given", [f"Bearer  {SHARED}", f"bearer {SHARED}", f"BEARER {SHARED}"])
def test_the_scheme_may_be_written_as_one_likes(served: Served, given: str) -> None:
    assert served.call("GET", "/v1/status", headers={"Authorization": given}).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        "Bearer",
        SHARED,
        f"Token {SHARED}",
        f"Bearer {SHARED[:-1]}",
        f"Bearer {SHARED}x",
        f"Bearer {SHARED}, Bearer {SHARED}",
        f"Bearer {SHARED.upper()}",
        "Basic",
        "Basic !!!!",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Basic " + base64.b64encode(SHARED.encode()).decode(),
        "Basic " + base64.b64encode(f"{SHARED}:".encode()).decode(),
        "Bearer " + "x" * 60_000,
    ],
)
def test_other_credentials_open_nothing(served: Served, given: str) -> None:
    for path in FOR_OPERATORS:
        assert served.call("GET", path, headers={"Authorization": given}).status_code == 401


@pytest.mark.parametrize(
    "served", [(TOKENS[kind], "north") for kind in ("open", "shared")], indirect=True
)
@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:1", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8000", False),
        ("evil.example:127.0.0.1", False),
        ("[::1", False),
        ("", False),
        ("169.254.169.254", False),
    ],
)
def test_an_open_server_is_not_reached_under_a_name_of_somebody_else(
    served: Served, host: str, known: bool
) -> None:
    """Else any page could point its own name here, and read what this browser gets."""
    north = served.secrets["north"]
    is_open = served.call("GET", "/v1/status").status_code == 200
    for method, path in [*FOR_CLIENTS, *(("GET", path) for path in FOR_OPERATORS)]:
        given = headers(session=north) | {"Host": host}
        status = served.call(method, path, headers=given).status_code
        assert (status == 403) == (is_open and not known), path
    status = join(served, "north", headers=headers() | {"Host": host}).status_code
    assert (status == 403) == (is_open and not known)


@pytest.mark.parametrize("served", [(TOKENS["open"],)], indirect=True)
def test_a_page_of_another_site_cannot_join(served: Served) -> None:
    """It cannot send a header of its own without a permission, which no route gives."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        given = {"Origin": "https://evil.example", "Content-Type": content_type}
        assert join(served, "north", headers=given).status_code == 400
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": VERSION,
    }
    response = served.call("OPTIONS", "/v1/join", headers=asked)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_page_comes_with_its_fences(served: Served) -> None:
    response = served.call("GET", "/", headers=basic(SHARED))
    assert response.headers["Content-Security-Policy"] == POLICY
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"


# --- what a client does ---


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"client_id": 1}',
        b'{"client_id": null}',
        b'{"client_id": ""}',
        b'{"client_id": " x"}',
        b'{"client_id": "a\\nb"}',
        b'{"client_id": "\\ud800"}',
        b'{"client_id": "\xff"}',
        b'{"client_id": "x", "former": 1}',
        b'{"client_id": "x", "more": 1}',
        b'{"client_id": "' + b"x" * 101 + b'"}',
        b'{"client_id": ' + b"[" * 10_000,
        b'{"client_id": "x"}' + b" " * 20_000,
    ],
)
def test_who_says_something_else_does_not_join(content: bytes) -> None:
    with Served(TOKENS["shared"]) as served:
        response = join(served, "", content=content)
        assert response.status_code in (400, 413, 422)
        assert set(response.json()) == {"error"}
        assert not served.hub.sessions


def test_a_client_with_another_version_is_told_so() -> None:
    with Served(TOKENS["shared"]) as served:
        response = join(served, "north", headers=headers() | {VERSION: "0.0.1"})
        assert response.status_code == 409
        assert "install the same version" in response.json()["error"]


@pytest.mark.parametrize("how", [None, "gzip", "zstd"])
def test_a_task_and_its_reply(served: Served, how: str | None) -> None:
    asked = served.ask("north")
    given = headers(session=served.secrets["north"]) | ({COMPRESSION: how} if how else {})
    response = served.call("GET", "/v1/task", headers=given)
    assert response.status_code == 200
    assert response.headers[TASK] == asked.id
    assert response.headers.get(COMPRESSION) == how
    assert response.content == compress(asked.body.plain, how)
    path = f"/v1/reply/{asked.id}"
    content = compress(GOOD, how)
    for accepted in (True, False, False):
        response = served.call("POST", path, headers=given, content=content)
        assert (response.status_code, response.json()) == (200, {"accepted": accepted})
    assert served.inbox.get_nowait().arrays["vector"].tolist() == [1, 1, 1, 1]
    assert served.inbox.empty()
    assert served.call("GET", "/v1/task", headers=given).status_code == 204


def test_nobody_answers_for_somebody_else(served: Served) -> None:
    """A task's id is no secret to rely on: it counts only in the session that was asked."""
    asked = served.ask("north")
    given = headers(session=served.secrets["south"])
    response = served.call("POST", f"/v1/reply/{asked.id}", headers=given, content=GOOD)
    assert response.json() == {"accepted": False}
    assert served.inbox.empty()
    assert served.hub.pending["north"] is asked


def bomb(how: str) -> bytes:
    """A gigabyte of nothing, in a hundredth of a percent or less."""
    import zlib

    import zstandard

    if how == "gzip":
        packer = zlib.compressobj(level=9, wbits=31)
        return b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()


REPLIES = {
    "empty": (b"", None),
    "garbage": (b"\x00" * 100, None),
    "a pickle": (b"\x80\x04\x95\x00.", None),
    "JSON": (b'{"meta": {}, "error": null}', None),
    "cut short": (GOOD[:-1], None),
    "one byte more": (GOOD + b"x", None),
    "not gzip": (GOOD, "gzip"),
    "not zstd": (GOOD, "zstd"),
    "an unknown compression": (GOOD, "br"),
    "two compressions": (compress(GOOD, "gzip"), "gzip, gzip"),
    "a gzip bomb": (bomb("gzip"), "gzip"),
    "a zstd bomb": (bomb("zstd"), "zstd"),
    "no array": (reply_of(), None),
    "another dtype": (reply_of(vector=np.ones(4)), None),
    "another shape": (reply_of(vector=np.ones(5, np.float32)), None),
    "another name": (reply_of(weights=np.ones(4, np.float32)), None),
    "too many": (reply_of(vector=np.ones(4, np.float32), w=np.ones(4, np.float32)), None),
}


@pytest.mark.parametrize(("content", "how"), REPLIES.values(), ids=REPLIES)
def test_other_replies_are_refused_and_count_as_failures(
    served: Served, content: bytes, how: str | None
) -> None:
    asked = served.ask("north")
    given = headers(session=served.secrets["north"])
    path = f"/v1/reply/{asked.id}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    response = served.call(
        "POST", path, headers=given | ({COMPRESSION: how} if how else {}), content=content
    )
    assert response.status_code == 422
    assert set(response.json()) == {"error"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KB
    assert served.inbox.get_nowait().error
    assert served.call("POST", path, headers=given, content=GOOD).json() == {"accepted": False}


def test_a_task_is_not_sent_in_an_unknown_compression(served: Served) -> None:
    served.ask("north")
    given = headers(session=served.secrets["north"]) | {COMPRESSION: "br"}
    assert served.call("GET", "/v1/task", headers=given).status_code == 400


def test_the_end_is_told(served: Served) -> None:
    for state, expected in (("complete", 410), ("failed", 410), ("interrupted", 503)):
        served.listener.call(served.hub.end, state, "a reason")
        for method, path in FOR_CLIENTS[:3]:
            response = served.call(method, path, headers=headers(session=served.secrets["north"]))
            assert response.status_code == expected
            assert response.json() == {"state": state, "error": "a reason"}
        assert join(served, "north").status_code == expected


# --- limits ---


def test_who_guesses_tokens_is_slowed_down(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "WRONG_TOKENS", RateLimitItemPerMinute(5))
    found = [served.call("GET", "/v1/status", headers=headers(WRONG)) for _ in range(8)]
    assert [each.status_code for each in found] == [401] * 5 + [429] * 3
    assert found[-1].headers["Retry-After"] == "60"
    # Who has the token is not held up by who is behind the same address and has not.
    assert served.call("GET", "/v1/status", headers=headers()).status_code == 200


def test_a_session_asks_only_so_often(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "CALLS", RateLimitItemPerMinute(5))
    north, south = (headers(session=served.secrets[name]) for name in ("north", "south"))
    found = [served.call("POST", "/v1/alive", headers=north).status_code for _ in range(8)]
    assert found == [200] * 5 + [429] * 3
    assert served.call("POST", "/v1/alive", headers=south).status_code == 200


def read_all(connection: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    found = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            found += chunk
    return found


def statuses(answer: bytes) -> list[int]:
    """The statuses of all responses in a stream."""
    return [int(each) for each in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


def test_an_address_has_only_so_many_connections(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "CONNECTIONS_EACH", 5)
    kept = [socket.create_connection(("127.0.0.1", served.listener.port), 10) for _ in range(5)]
    with served.socket() as one_more:
        with suppress(ConnectionError):
            one_more.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(one_more) == b""
    for each in kept[:2]:  # those who were there are served
        each.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert statuses(read_all(each)) == [200]
    for each in kept:
        each.close()
    until(lambda: not served.listener._socket.open, "all connections closed")
    served.lives()


HEADS = {
    "nothing": [],
    "half a line": [b"GET / HT"],
    "no end of the headers": [b"GET / HTTP/1.1\r\nHost: a\r\n"],
    "a header now and then": [b"GET / HTTP/1.1\r\n", *[b"X-a: b\r\n"] * 500],
    "a byte now and then": [bytes([letter]) for letter in b"GET /" + b"a" * 500],
    "after a whole request": [b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /hea"],
}


@pytest.mark.parametrize("parts", HEADS.values(), ids=HEADS)
def test_a_head_that_takes_too_long_is_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
) -> None:
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
    with served.socket() as slow:
        with suppress(ConnectionError):
            for part in parts:
                slow.sendall(part)
                time.sleep(0.02)
        assert statuses(read_all(slow)) in ([], [200])
    served.lives()


@pytest.mark.parametrize("path", ["/v1/join", "/v1/reply/{id}", "/v1/reply/another"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_takes_too_long_is_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, chunked: bool
) -> None:
    monkeypatch.setattr(routes, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(routes, "SLOWEST", 10**9)
    asked = served.ask("north")
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5000"
    lines = [f"POST {path.format(id=asked.id)} HTTP/1.1", "Host: a", length]
    lines += [
        f"{name}: {value}" for name, value in headers(session=served.secrets["north"]).items()
    ]
    with served.socket() as slow:
        slow.sendall("\r\n".join([*lines, "", ""]).encode())
        with suppress(ConnectionError):
            for _ in range(200):
                slow.sendall(b"1\r\nx\r\n" if chunked else b"x")
                time.sleep(0.02)
        assert statuses(read_all(slow)) in ([408], [])
    served.lives()


def test_who_takes_no_answer_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a large task nor many small answers wait for ever in the server's memory."""
    monkeypatch.setattr(web, "STUCK_SECONDS", 0.3)
    served.ask("north", size=5 << 20)
    given = headers(session=served.secrets["north"]).items()
    task = "GET /v1/task HTTP/1.1\r\nHost: a\r\n" + "".join(f"{k}: {v}\r\n" for k, v in given)
    floods = [f"{task}\r\n".encode(), b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 5000]
    for flood in floods:
        with closing(socket.socket()) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(1)
            deaf.connect(("127.0.0.1", served.listener.port))
            with suppress(ConnectionError, TimeoutError):
                for _ in range(20):
                    deaf.sendall(flood)
            until(lambda: not served.listener._socket.open, "the connection is cut", 20)
    served.lives()


def test_a_refusal_is_heard_by_who_still_sends(served: Served) -> None:
    """To close at once would reset the connection before the reason is read."""
    with served.socket() as sender:
        head = b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
        sender.sendall(head)
        found = b""
        while b"}" not in found:
            found += sender.recv(1 << 16)
        assert b'{"error":"a valid token is needed"}' in found
        for byte in (b"a", b"b"):
            sender.sendall(byte * 3)
            time.sleep(0.02)
        sender.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert statuses(read_all(sender)) == [200]


def test_more_than_was_asked_for_is_not_read(served: Served) -> None:
    """10 GB that are only said cost nothing; those that come end with the bound."""
    asked = served.ask("north")
    given = [f"{k}: {v}" for k, v in headers(session=served.secrets["north"]).items()]
    wrong = [f"{k}: {v}" for k, v in headers(WRONG).items()]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for said, path, lines, expected in (
        ("Content-Length: 10000000000", f"/v1/reply/{asked.id}", given, 413),
        ("Content-Length: 10000000000", "/v1/reply/another", given, 413),
        ("Content-Length: 10000000000", "/v1/join", given, 413),
        ("Content-Length: 10000000000", "/v1/join", wrong, 401),
        ("Content-Length: 10000000000", "/v1/alive", given, 200),
        ("Content-Length: 10000000000", "/health", [], 405),
        ("Content-Length: 10000000000", "/nowhere", [], 404),
        ("Transfer-Encoding: chunked", "/v1/join", given, 413),
    ):
        with served.socket() as sender:
            head = [f"POST {path} HTTP/1.1", "Host: a", said, *lines]
            sender.sendall("\r\n".join([*head, "", ""]).encode())
            with suppress(ConnectionError):
                for _ in range(50):
                    sender.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
                    time.sleep(0.001)
            assert statuses(read_all(sender)) in ([expected], [])  # or reset while it still sent
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KB
    assert largest_reply("train", EXPECTS) < 10**10
    served.lives()


def test_a_chunked_reply_ends_at_its_bound(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "largest_reply", lambda *_: 10_000)
    asked = served.ask("north")

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield bytes(1000)

    with suppress(httpx.WriteError, httpx.ReadError):
        response = served.call(
            "POST",
            f"/v1/reply/{asked.id}",
            headers=headers(session=served.secrets["north"]),
            content=endless(),
        )
        assert response.status_code == 413
    assert served.inbox.empty()
    served.lives()


@pytest.mark.parametrize(
    "flood",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(2000)),
        b"GET /" + b"a" * (2 << 20),
        b"GET / HTTP/1.1\r\nX: " + b"a" * (2 << 20),
    ],
    ids=["many headers", "a long path", "a long header"],
)
def test_a_flood_of_headers_is_cut_off(served: Served, flood: bytes) -> None:
    with served.socket() as sender:
        with suppress(ConnectionError):
            sender.sendall(flood)
            sender.sendall(b"\r\n\r\n")
        assert all(400 <= each < 500 for each in statuses(read_all(sender)))
    served.lives()


# --- anything at all ---


@pytest.fixture(scope="module")
def module_served() -> Iterator[Served]:
    """One server for all that follows, with a task for both clients."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(routes, "POLL_SECONDS", 0.01)
        patched.setattr(routes, "WRONG_TOKENS", RateLimitItemPerMinute(10**9))
        patched.setattr(routes, "CALLS", RateLimitItemPerSecond(10**9))
        patched.setattr(routes, "STALL_SECONDS", 1.0)
        with Served(TOKENS["shared"], "north", "south") as served:
            yield served


@pytest.mark.parametrize("session", ["north", None])
@pytest.mark.parametrize("token", [SHARED, None])
def test_whatever_fits_the_description_is_answered(
    module_served: Served, token: str | None, session: str | None
) -> None:
    served = module_served
    schema = schemathesis.openapi.from_dict(served.app.openapi())
    given_headers = headers(token, served.secrets.get(session or ""))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == len(FOR_CLIENTS) + len(FOR_OPERATORS) + 2
    strategy = st.one_of(
        [
            operation.as_strategy(generation_mode=mode)
            for operation in operations
            for mode in schemathesis.GenerationMode
        ]
    )

    @given(case=strategy)
    @settings(
        max_examples=100, suppress_health_check=list(HealthCheck), derandomize=True, deadline=None
    )
    def check(case: schemathesis.Case) -> None:
        if case.path == "/v1/leave":
            case.headers = {}  # it would take the session with it
        response = case.call(base_url=served.url, headers=given_headers)
        case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])
        assert response.status_code < 300 or 400 <= response.status_code < 500
        public = case.path == "/health"
        assert public or token or response.status_code in (401, 404, 405)

    check()
    served.lives()


some_tokens = st.sampled_from([SHARED, WRONG, ""])
words = st.binary(max_size=30) | st.sampled_from([b"1", b"0", b"-1", b"10", b"99999999999", b"1e9"])
pieces = st.binary(max_size=200) | st.sampled_from(
    [
        b"",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"ffffffffffffffff\r\n",
        b"-1\r\n",
        b"g\r\n",
        b"{}",
        GOOD,
    ]
)


@st.composite
def http_requests(draw: st.DrawFn) -> bytes:
    """Something like a request, in which anything may be wrong."""
    methods = st.sampled_from(
        [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b""]
    )
    known = [b"/health", b"/", b"/v1/task", b"/v1/join", b"/v1/alive", b"/v1/status", b"*", b"//a"]
    known += [b"/v1/reply/ID", b"/v1/reply/%2e%2e", b"/v1/reply/%ff%00", b"http://a/health", b"a:1"]
    targets = st.sampled_from(known) | st.binary(max_size=30)
    versions = st.sampled_from(
        [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"", b"RTSP/1.0"]
    )
    ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n "])
    names = st.sampled_from(
        [
            *(b"Content-Length", b"Transfer-Encoding", b"Expect", b"Connection", b"Upgrade"),
            *(b"Host", b"Authorization", b"Content-Type", b"Cookie"),
            *(COMPRESSION.encode(), VERSION.encode()),
        ]
    )
    values = words | st.sampled_from([b"chunked", b"gzip", b"100-continue", b"close", b"websocket"])
    lines = [
        draw(st.sampled_from([b" ", b"  ", b"\t"])).join(
            [draw(methods), draw(targets), draw(versions)]
        )
    ]
    if draw(st.booleans()):
        lines += [
            b"Authorization: Bearer " + draw(some_tokens).encode(),
            SESSION.encode() + b": KEY",
        ]
    lines += [
        name + draw(st.sampled_from([b": ", b":", b" : ", b""])) + value
        for name, value in draw(st.lists(st.tuples(names | words, values), max_size=4))
    ]
    head = b"".join(line + draw(ends) for line in lines) + draw(ends)
    return head + b"".join(draw(st.lists(pieces, max_size=3)))


@given(st.lists(http_requests(), min_size=1, max_size=3).map(b"".join) | st.binary(max_size=500))
@settings(
    max_examples=600, suppress_health_check=list(HealthCheck), derandomize=True, deadline=None
)
def test_whatever_bytes_come_are_answered_or_cut_off(module_served: Served, sent: bytes) -> None:
    served = module_served
    asked = served.hub.pending.get("north") or served.ask("north")
    key = served.secrets["north"].encode()
    sent = sent.replace(b"ID", asked.id.encode()).replace(b"KEY", key)
    with served.socket() as fuzzed:
        found = b""
        with suppress(ConnectionError, TimeoutError):
            fuzzed.sendall(sent)
            fuzzed.settimeout(0.02)
            while chunk := fuzzed.recv(1 << 16):
                found += chunk
        fuzzed.settimeout(10)
        with suppress(OSError):
            fuzzed.shutdown(socket.SHUT_WR)
        found += read_all(fuzzed)
    assert all(each == 100 or 200 <= each < 300 or 400 <= each < 500 for each in statuses(found))
    served.lives()


# --- what is written down ---


def test_no_log_holds_a_token_a_secret_or_a_parameter(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(1)
    caplog.set_level(1, "uvicorn.error")
    secrets: list[str] = []
    join = Hub.join
    monkeypatch.setattr(Hub, "join", lambda *a: secrets.append(join(*a)) or secrets[-1])
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"cell": rng.normal(size=60), "label": rng.choice(["zebra", "okapi"], 60)})
    config = {"generator_dim": (8,), "discriminator_dim": (8,), "embedding_dim": 4}
    server, running = serve(
        auth_token=SHARED,
        operator_token=OPERATOR,
        config=config,
        n_rounds=2,
        local_epochs=1,
        min_clients=2,
    )
    clients = [FederatedClient(server.url, name, auth_token=SHARED) for name in ("north", "south")]
    training = [in_thread(client.train, table) for client in clients]
    for token in (WRONG, OPERATOR):
        httpx.get(f"{server.url}/v1/status", headers=headers(token))
        httpx.get(f"{server.url}/", headers=basic(token))
    for each in (*training, running):
        each.result(60)
    assert len(secrets) == 2
    encoded = [
        base64.b64encode(f"anybody:{token}".encode()).decode() for token in (WRONG, OPERATOR)
    ]
    hidden = [SHARED, OPERATOR, WRONG, *encoded, *secrets, "zebra", "okapi"]
    names = {record.name.split(".")[0] for record in caplog.records}
    assert {"genesis", "httpx", "httpcore", "uvicorn"} <= names
    for record in caplog.records:
        text = f"{record.getMessage()} {record.args} {record.exc_text} {record.exc_info}"
        assert not [each for each in hidden if each in text], record.name
        assert len(text) < 3000, record.name
        assert record.levelno < logging.ERROR, text
        for argument in record.args if isinstance(record.args, tuple) else ():
            assert not isinstance(argument, np.ndarray | bytes | bytearray | pd.DataFrame)
