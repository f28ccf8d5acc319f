"""The client's end: one session with a server, through whatever the network does."""

from __future__ import annotations

import json
import logging
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import httpx

import genesis
from genesis.errors import FederationError, PlanError
from genesis.federated.messages import Reply, Request
from genesis.federated.transport.body import compress, decode_request, encode_reply, inflate
from genesis.federated.transport.http.protocol import (
    COMPRESSION,
    HEARTBEAT_SECONDS,
    LOOPBACK,
    POLL_SECONDS,
    SESSION,
    TASK,
    VERSION,
)

__all__ = ["Connection", "Received", "check_url", "client_tls"]

log = logging.getLogger(__name__)

LARGEST_TASK = 1 << 30  # bytes
LARGEST_ANSWER = 1 << 20  # bytes of everything else
TAKEN_SECONDS = 25.0  # how long a client that was killed waits for its former session to end
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds before a request is sent again


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
        tls: For https; see `client_tls`.
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
            timeout=httpx.Timeout(30.0, connect=10.0, read=POLL_SECONDS + 15.0),
        )
        self._heard = time.monotonic()
        self._ended: FederationError | None = None
        self._closing = Event()
        self._heart = Thread(target=self._beat, name="genesis-client", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._join()
        except BaseException:
            self._http.close()
            raise
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._heart.join(timeout=5.0)
        try:
            self._send("POST", "v1/leave", limit=LARGEST_ANSWER)
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
                self._raise_if_hopeless(error)
                why = _describe(error)
            failures += 1
            self._give_up(failures, why)
            growing = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
            # Different for every client, so that a server that comes back is not run over.
            time.sleep(max(pause or 0.0, growing) * random.uniform(0.5, 1.5))

    def _send(self, method: str, path: str, *, limit: int, content: bytes | None = None) -> _Answer:
        """One request, and its answer of at most limit bytes."""
        headers = {} if self.secret is None else {SESSION: self.secret}
        body = bytearray()
        with self._http.stream(method, path, content=content, headers=headers) as response:
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

    def _raise_if_hopeless(self, error: httpx.TransportError) -> None:
        """Some failures are the same however often one tries."""
        if isinstance(error, httpx.UnsupportedProtocol):
            raise PlanError("the address of a server begins with https:// or http://") from None
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise FederationError(
                    "the server's certificate cannot be trusted",
                    got=cause.verify_message,
                    do="give the certificate of its authority (ssl_verify), or ask its operator",
                ) from None
            if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
                raise FederationError(
                    "the server refuses this client's certificate",
                    got=(cause.reason or "").replace("_", " ").lower(),
                    do="give a certificate of its authority (ssl_cert and ssl_key)",
                ) from None
            if isinstance(cause, ssl.SSLError) and "WRONG_VERSION" in (cause.reason or ""):
                raise FederationError(
                    "the server speaks no TLS", do="use http://, or give the server a certificate"
                ) from None
            cause = cause.__cause__ or cause.__context__

    def _refusal(self, answer: _Answer) -> FederationError:
        """A refusal in the server's words."""
        try:
            reason = str(answer.said().get("error") or f"status {answer.status}")
        except FederationError:
            return _foreign()
        reason = " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:1000]
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


def check_url(url: str, *, token: str | None, insecure: bool) -> str:
    """The address of a server.

    Raises:
        PlanError: It is none; or the token would be sent in the clear.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise PlanError(
            "the address of a server begins with https:// or http://",
            got=repr(url),
            do="write it as https://server.example:8000",
        )
    if parsed.userinfo:
        raise PlanError("an address holds no user and password", do="use a token")
    if parsed.scheme == "http" and parsed.host not in LOOPBACK and not insecure:
        if token is not None:
            raise PlanError(
                "a token is not sent over plain HTTP to another machine",
                got=f"http://{parsed.host}",
                do="use https://, or say insecure=True (--insecure) on a network that you trust",
            )
        log.warning(
            "http://%s: whoever is on the way can read and change what is sent", parsed.host
        )
    return url


def client_tls(
    verify: bool | str | Path = True,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> ssl.SSLContext:
    """What a client's connections are made with.

    Args:
        verify: True to trust the authorities that this machine trusts, or the PEM file of one.
            False trusts anybody, and is for trying things out.
        certificate: PEM file with the client's certificate, for a server that wants one.
        key: PEM file with the key to it.

    Raises:
        PlanError: A file is missing or holds something else.
    """
    for path in (certificate, key, None if isinstance(verify, bool) else verify):
        if path is not None and not Path(path).is_file():
            raise PlanError(f"there is no file {path}", do="check ssl_verify, ssl_cert and ssl_key")
    try:
        if isinstance(verify, bool):
            context = httpx.create_ssl_context(verify=verify)
        else:
            context = ssl.create_default_context(cafile=verify)
    except (ssl.SSLError, OSError) as error:
        raise PlanError(f"{verify} holds no certificates", do="give a PEM file") from error
    if verify is False:
        log.warning("ssl_verify=False: the server may be anybody")
    if (certificate is None) != (key is None):
        raise PlanError("a certificate and its key go together", do="give ssl_cert and ssl_key")
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise PlanError(
                f"{certificate} and {key} are no certificate and its key",
                do="give PEM files that belong together, the key without a password",
            ) from error
    return context


def _ended(said: Mapping[str, Any]) -> FederationError:
    """A run that has ended for this client, in words."""
    if said.get("state") == "complete":
        return FederationError(
            "the run ended without this client", do="ask the operator for the model"
        )
    reason = " ".join(str(said.get("error") or "no reason given").split())[:1000]
    return FederationError("the run failed at the server", got=reason)


def _foreign() -> FederationError:
    return FederationError(
        "what answers there is no server of this program", do="check the address"
    )


def _seconds(text: str | None) -> float | None:
    """The value of a Retry-After, at most a minute."""
    return min(float(text), 60.0) if text is not None and text.isdecimal() else None


def _describe(error: httpx.TransportError) -> str:
    """A failure of the network in a few words."""
    match error:
        case httpx.ConnectTimeout() | httpx.ReadTimeout() | httpx.WriteTimeout():
            return "no answer in time"
        case httpx.ConnectError():
            return str(error).lower() or "no connection"
    return "the connection broke off"


def _no_password() -> str:
    # Else OpenSSL asks for it on the terminal and waits.
    raise ValueError("a key with a password")
