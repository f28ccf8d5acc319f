"""The client's end: one session with a server, through whatever the network does."""

from __future__ import annotations

import json
import logging
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import httpx

import genesis
from genesis.errors import FederationError, printable
from genesis.federated.messages import Reply, Request
from genesis.federated.transport.body import compress, decode_request, encode_reply, inflate
from genesis.federated.transport.http.protocol import (
    COMPRESSION,
    HEARTBEAT_SECONDS,
    POLL_SECONDS,
    SESSION,
    TASK,
    VERSION,
    is_loopback,
)
from genesis.federated.transport.http.reach import explain, is_hopeless, speaks_tls

__all__ = ["Connection", "Received"]

log = logging.getLogger(__name__)

LARGEST_TASK = 1 << 30  # bytes
LARGEST_ANSWER = 1 << 20  # bytes of everything else
TAKEN_SECONDS = 25.0  # how long a client that was killed waits for its former session to end
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds before a request is sent again
GOODBYE_SECONDS = 2.0  # that a client which has somewhere to go waits for a server


@dataclass(frozen=True)
class Received:
    """A task.

    Args:
        id: What the reply names.
        request: What is asked.
    """

    id: str
    request: Request


@dataclass(frozen=True)
class _Answer:
    """What a server said."""

    status: int
    headers: httpx.Headers
    body: bytearray

    def said(self) -> dict[str, Any]:
        """Its JSON."""
        try:
            values = json.loads(self.body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise _foreign()
        return values


class _RejoinError(Exception):
    """The server does not know the session: it was started again."""


class Connection:
    """A client's session with a server; a context that ends with a goodbye.

    A request that fails is sent again, after pauses that grow and differ between clients. The
    client gives up once it has tried retry_attempts times more and the server has not answered for
    timeout_seconds; so it lives through a restart of the server.

    Args:
        url: Of the server.
        client_id: Who joins.
        token: The bearer token, or None.
        tls: For https; see `reach.client_tls`.
        compression: "gzip", "zstd" or None, in both directions.
        retry_attempts: Least number of repetitions; 0 for none at all.
        timeout_seconds: How long a server may be away.
        former: Secret of an earlier session under this id.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | bool = True,
        compression: str | None = None,
        retry_attempts: int = 3,
        timeout_seconds: float = 300.0,
        former: str | None = None,
    ) -> None:
        self.url, self.client_id = url, client_id
        self.secret = former
        self.welcome: Mapping[str, Any] = {}
        self._compression = compression
        self._attempts, self._seconds = retry_attempts, timeout_seconds
        headers = {VERSION: genesis.__version__}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if compression is not None:
            headers[COMPRESSION] = compression
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            verify=tls,
            # What goes to this machine must not go round by a proxy, which would leave it.
            trust_env=not is_loopback(httpx.URL(url).host),
            timeout=httpx.Timeout(30.0, connect=10.0, read=POLL_SECONDS + 15.0),
        )
        self._heard, self._known = time.monotonic(), False
        self._ended: FederationError | None = None
        self._closing = Event()
        self._heart = Thread(target=self._beat, name="genesis-client", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._join()
            self._heart.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Say goodbye, if there is somebody to say it to."""
        self._closing.set()
        try:
            if self._heart.is_alive():
                self._heart.join(GOODBYE_SECONDS)
            if self.welcome:
                self._send("POST", "v1/leave", limit=LARGEST_ANSWER, seconds=GOODBYE_SECONDS)
        except (httpx.HTTPError, FederationError):
            pass  # it is gone, or forgets us after a while
        finally:
            self._http.close()

    def tasks(self) -> Iterator[Received]:
        """What the server asks, one after the other; a task that was not answered comes again.

        Raises:
            FederationError: The run has ended without this client, or the server is gone.
        """
        while True:
            try:
                answer = self._call("GET", "v1/task", limit=LARGEST_TASK)
            except _RejoinError:
                self._join()
                continue
            if answer.status == 204:
                continue
            how = answer.headers.get(COMPRESSION)
            body = inflate(answer.body, how, LARGEST_TASK)
            yield Received(answer.headers.get(TASK, ""), decode_request(body))

    def reply(self, received: Received, reply: Reply) -> bool:
        """Answer a task, until the server says that it has the answer.

        Returns:
            Whether it still counts: False if it came too late or had come before.

        Raises:
            FederationError: The server refuses it, or is gone.
        """
        body = compress(encode_reply(reply), self._compression)
        try:
            path = f"v1/reply/{received.id}"
            answer = self._call("POST", path, limit=LARGEST_ANSWER, content=body)
        except _RejoinError:
            self._join()
            return False
        return answer.said().get("accepted") is True

    # --- one request ---

    def _join(self) -> None:
        """Begin a session. Waits a while for an earlier one under the same id to end."""
        until = time.monotonic() + TAKEN_SECONDS
        while True:
            said = json.dumps({"client_id": self.client_id, "former": self.secret}).encode()
            answer = self._call("POST", "v1/join", limit=LARGEST_ANSWER, content=said, joins=True)
            if answer.status == 200:
                break
            pause = _seconds(answer.headers.get("Retry-After"))
            if pause is None or time.monotonic() + pause > until:
                raise self._refusal(answer)
            log.info("waiting for the former session of '%s' to end", self.client_id)
            time.sleep(pause)
        welcome = answer.said()
        if not isinstance(welcome.get("session"), str):
            raise _foreign()
        self.secret, self.welcome = welcome["session"], welcome

    def _call(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        content: bytes | None = None,
        joins: bool = False,
    ) -> _Answer:
        """Send a request until there is an answer that means something."""
        failures = 0
        while True:
            pause: float | None = None
            try:
                answer = self._send(method, path, limit=limit, content=content)
                self._known = True
                if answer.status < 500:
                    self._heard = time.monotonic()
                if answer.status < 300:
                    return answer
                if answer.status == 428 and not joins:
                    raise _RejoinError
                if answer.status == 409 and joins:
                    return answer
                if answer.status == 410:
                    raise _ended(answer.said())
                if answer.status < 500 and answer.status != 429 and answer.status != 408:
                    raise self._refusal(answer)
                pause = _seconds(answer.headers.get("Retry-After"))
                why = f"status {answer.status}"
            except httpx.TransportError as error:
                found = explain(error, self._http.base_url)
                if is_hopeless(error) or self._is_turned_away(error, failures):
                    raise found from None
                why = f"{found.what}: {found.got}" if found.got else found.what
            failures += 1
            self._give_up(failures, why)
            growing = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
            # Different for every client, so that a server that comes back is not run over.
            time.sleep(max(pause or 0.0, growing) * random.uniform(0.5, 1.5))

    def _is_turned_away(self, error: httpx.TransportError, failures: int) -> bool:
        """Whether a server that has never answered takes connections only to cut them.

        So does one with TLS if it is spoken to without; and one that does not accept a client's
        certificate, whose reason gets lost: in TLS 1.3 the client has connected by then.
        """
        broken = isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)
        if self._known or not broken:
            return False
        url = self._http.base_url
        return failures >= self._attempts if url.scheme == "https" else speaks_tls(url)

    def _send(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        content: bytes | None = None,
        seconds: float | None = None,
    ) -> _Answer:
        """One request, and its answer of at most limit bytes."""
        headers = {} if self.secret is None else {SESSION: self.secret}
        timeout = self._http.timeout if seconds is None else seconds
        body = bytearray()
        with self._http.stream(
            method, path, content=content, headers=headers, timeout=timeout
        ) as response:
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > limit:
                    raise FederationError(
                        "the server sends too much", got=f"more than {limit:,} bytes"
                    )
            return _Answer(response.status_code, response.headers, body)

    def _give_up(self, failures: int, why: str) -> None:
        """Raise if there is no hope left."""
        if self._ended is not None:
            raise self._ended
        if failures == 1:
            log.info("the server does not answer (%s); trying again", why)
        silent = time.monotonic() - self._heard
        if self._attempts == 0 or (failures > self._attempts and silent > self._seconds):
            raise FederationError(
                f"the server at {self.url} does not answer",
                got=f"{why}, {failures} times in {silent:.0f} s",
                do="check the address, the network and the server's log; a client that is started "
                "again under its id goes on",
            )

    def _refusal(self, answer: _Answer) -> FederationError:
        """A refusal in the server's words."""
        try:
            reason = str(answer.said().get("error") or f"status {answer.status}")
        except FederationError:
            return _foreign()
        reason = printable(reason)[:1000]
        advice = None
        if answer.status == 401:
            advice = "set FEDERATED_AUTH_TOKEN to the token that the server was started with"
        return FederationError("the server refused", got=reason, do=advice)

    def _beat(self) -> None:
        """Say every few seconds that this client is alive, also while it trains."""
        while not self._closing.wait(HEARTBEAT_SECONDS):
            try:
                answer = self._send("POST", "v1/alive", limit=LARGEST_ANSWER)
                if answer.status == 410:
                    self._ended = _ended(answer.said())
                    return
            except (httpx.HTTPError, FederationError, RuntimeError):
                continue  # whoever waits for an answer deals with it


def _ended(said: Mapping[str, Any]) -> FederationError:
    """A run that has ended for this client, in words."""
    if said.get("state") == "complete":
        return FederationError(
            "the run ended without this client", do="ask the operator for the model"
        )
    reason = printable(str(said.get("error") or "no reason given"))[:1000]
    return FederationError(
        "the run failed at the server", got=reason, do="ask its operator, whose log says more"
    )


def _foreign() -> FederationError:
    return FederationError(
        "what answers there is no server of this program", do="check the address"
    )


def _seconds(text: str | None) -> float | None:
    """The value of a Retry-After, at most a minute."""
    return min(float(text), 60.0) if text is not None and text.isdecimal() else None
