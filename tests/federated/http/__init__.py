"""Statuses of runs as a server tells them, and a small server that tells whatever it is given."""

from __future__ import annotations

import base64
import json
import math
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

EVIL = "<img src=x onerror=alert(1)>"
HOSTILE = [
    EVIL,
    "<script>alert(2)</script>",
    "north\x1b[31m\x07red\r\nsouth",
    "שלום עולם",
    "\u202egpj.exe",
    "👩‍🔬🧪 lab",
    "y" * 200,
    "__proto__",
    "{{ 7 * 7 }} ${1} $style",
    "\ud800",
    "",
]


def client(client_id: str, **values: Any) -> dict[str, Any]:
    """A client at work."""
    usual = {"state": "working", "last_seen": 1.2, "rows": 12_345, "task": "train", "rounds": 3}
    return {"client_id": client_id, **usual, **values}


def report(number: int, clients: list[str], **values: Any) -> dict[str, Any]:
    """A round of a CTGAN: losses that settle."""
    settled = math.exp(-number / 8)
    metrics = {
        "generator_loss": 0.4 - 1.3 * settled + 0.05 * math.sin(1.7 * number),
        "condition_loss": 0.2 + 1.1 * settled,
        "discriminator_loss": -0.1 - 0.6 * settled + 0.04 * math.cos(2.3 * number),
    }
    usual = {"metrics": metrics, "clients": clients, "failed": {}, "dropped": [], "seconds": 1.25}
    return {"round": number, **usual, **values}


def status(
    complete: int = 3, names: tuple[str, ...] = ("north", "south"), **values: Any
) -> dict[str, Any]:
    """The status of a run in which some rounds are complete."""
    usual = {
        "state": "training",
        "reason": None,
        "method": "ctgan",
        "aggregation": "fedavg",
        "version": "0.3.0",
        "round": complete,
        "n_rounds": 10,
        "min_clients": 2,
        "seconds": 83.4,
        "seconds_left": 200.1,
        "epsilon": None,
        "secure_aggregation": None,
        "rows_per_second": 5_432.1,
        "bytes_received": 12_345_678,
        "bytes_sent": 999_950,
        "clients": [client(name) for name in names],
        "rounds": [report(number + 1, list(names)) for number in range(complete)],
    }
    return usual | values


class Stub:
    """A server on 127.0.0.1 that can go away and come back at the same address.

    Args:
        tls: Makes it speak https.

    Its `answers`, path -> (status, headers, body), may be changed while it serves; `turns` are
    called one after the other, each before an answer; `asked` are the paths and headers that it
    got. If there is a `token`, it wants it, from a browser as a password.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.token = ""
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.turns: list[Callable[[], object]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def tell(self, value: Any, path: str = "/v1/status") -> None:
        """Answer with JSON from now on."""
        body = json.dumps(value).encode()
        self.answers[path] = (200, {"Content-Type": "application/json"}, body)

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """What a request gets."""
        self.asked.append((path, headers))
        if self.turns:
            self.turns.pop(0)()
        password = base64.b64encode(f"operator:{self.token}".encode()).decode()
        given = headers.get("authorization")
        if self.token and given not in (f"Bearer {self.token}", f"Basic {password}"):
            kind = 'Basic realm="genesis"' if path == "/" else "Bearer"
            return 401, {"WWW-Authenticate": kind}, b""
        return self.answers.get(path, (404, {}, b"nothing here"))

    def start(self) -> None:
        self.server = _Server(self)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """Serves what a stub answers."""

    def __init__(self, stub: Stub) -> None:
        super().__init__(("127.0.0.1", stub.port), _Handler)
        self.stub = stub
        if stub.tls:
            # Handshakes belong to the threads: one that fails must not end the server.
            self.socket = stub.tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked went away, or was meant to fail."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: _Server

    def do_GET(self) -> None:
        given = {name.lower(): value for name, value in self.headers.items()}
        code, headers, body = self.server.stub.answer(self.path, given)
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
