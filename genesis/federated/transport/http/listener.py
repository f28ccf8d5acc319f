"""A web server in a thread of its own, with TLS and limits.

The main thread stays free for the run, so that Ctrl-C works there, in a notebook's cell too.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from genesis.errors import FederationError, PlanError
from genesis.federated.transport.http.app import CERTIFICATE
from genesis.federated.transport.http.memory import return_large_blocks

__all__ = ["TLS", "Listener"]

HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its headers
STUCK_SECONDS = 60.0  # that a client may take nothing of what is sent to it
LINGER_SECONDS = 5.0  # in which the rest of a request that was refused may still come
LAST_SECONDS = 1.0  # that requests have when the server stops
HEAD_BYTES = 1 << 19  # one read of a socket may hold the start of a body too
HEADERS = 100  # of a request; each costs 30 times its bytes here
QUEUED = 16  # requests of a connection that came before the answer to the one before them
CONNECTIONS = 1024  # in all, as far as the system lets a process have so many
OWN_FILES = 64  # descriptors that the program needs for itself
CONNECTIONS_EACH = 256  # of one address: behind one gateway may be many clients


@dataclass(frozen=True)
class TLS:
    """The server's side of TLS.

    Args:
        certificate: PEM file with its certificate.
        key: PEM file with the key to it.
        authority: PEM file of the authority whose certificates clients must show; None if they
            need none.
    """

    certificate: Path
    key: Path
    authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What connections are made with: TLS 1.2 or newer.

        Raises:
            PlanError: A file is missing, is no certificate or key, or does not fit the other.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in filter(None, (self.certificate, self.key, self.authority)):
            if not path.is_file():
                raise PlanError(f"there is no file {path}", do="check ssl_cert, ssl_key and ssl_ca")
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise PlanError(
                f"{self.certificate} and {self.key} are no certificate and its key",
                got=getattr(error, "reason", None) or str(error),
                do="give PEM files that belong together, the key without a password",
            ) from None
        if self.authority is not None:
            try:
                context.load_verify_locations(self.authority)
            except (ssl.SSLError, OSError) as error:
                raise PlanError(
                    f"{self.authority} holds no certificates", do="give the authority's PEM file"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Listener:
    """A web server.

    Args:
        host: Address to listen at.
        port: Its port; 0 for a free one.
        tls: With what certificates; None for plain HTTP.

    Raises:
        PlanError: The address is none of this machine, or a certificate cannot be used.
        FederationError: The port is in use.
    """

    def __init__(self, host: str, port: int, tls: TLS | None = None) -> None:
        self._context = tls.context() if tls is not None else None
        self._socket = _bind(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self.loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: Thread | None = None

    def start(self, app: Any) -> None:
        """Serve until `stop`."""
        return_large_blocks()
        context = self._context
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,  # the application's logging is not ours to set
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # an address that a client claims is not believed
            backlog=128,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
            ssl_context_factory=None if context is None else (lambda *_: context),
        )
        self._server = uvicorn.Server(config)
        ready = _Ready()
        self._thread = Thread(target=self._serve, args=(ready,), name="genesis-server", daemon=True)
        self._thread.start()
        self.loop = ready.loop()

    def _serve(self, ready: _Ready) -> None:
        async def serve() -> None:
            assert self._server is not None
            ready.set(asyncio.get_running_loop())
            await self._server.serve([self._socket])

        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(serve())

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the server's event loop, soon.

        Raises:
            FederationError: It does not run any more.
        """
        if self.loop is None or self._thread is None or not self._thread.is_alive():
            raise FederationError("the web server has stopped by itself", do="start it again")
        self.loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Close all connections and end the thread."""
        if self._server is not None and self._thread is not None:
            if self.loop is not None:
                with suppress(RuntimeError):  # the thread has ended already
                    self.loop.call_soon_threadsafe(self.loop.call_later, LAST_SECONDS, self._cut)
            self._server.should_exit = True
            self._thread.join(timeout=10)
        self._socket.close()

    def _cut(self) -> None:
        """Cut off who is still not done, so that no request has to be cancelled."""
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


class _Ready:
    """Waits for the event loop of another thread."""

    def __init__(self) -> None:
        self._loops: SimpleQueue[asyncio.AbstractEventLoop] = SimpleQueue()

    def set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loops.put(loop)

    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loops.get()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers wait no longer for TLS to begin than for a request."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HEAD_SECONDS
        return await super().create_server(*args, **options)


class _Door(socket.socket):
    """A listening socket that closes what is too much, before TLS begins.

    The server needs no worker for a connection, but each one costs memory and a descriptor.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.open: Counter[str] = Counter()
        self.most = _most_connections()

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        connection = _Counted(fileno=accepted.detach())
        connection.setblocking(False)
        connection.count(self.open, str(address[0]))
        if self.open.total() > self.most or self.open[str(address[0])] > CONNECTIONS_EACH:
            connection.close()
            raise ConnectionAbortedError  # the event loop comes again for the next one
        return connection, address


class _Counted(socket.socket):
    """A connection that counts as one of its address until it is closed."""

    _among: Counter[str] | None = None
    _address = ""

    def count(self, among: Counter[str], address: str) -> None:
        """Count it from now on."""
        self._among, self._address = among, address
        among[address] += 1

    def close(self) -> None:
        if self._among is not None:
            self._among[self._address] -= 1
            if not self._among[self._address]:
                del self._among[self._address]
            self._among = None
        super().close()


def _most_connections() -> int:
    """As many as we want, or as the system lets a process have."""
    try:
        import resource
    except ImportError:  # Windows
        return CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(1, min(CONNECTIONS, files - OWN_FILES))


class _TooMuchError(Exception):
    """A request that no client of this program makes."""


class _Connection(HttpToolsProtocol):
    """A connection that is cut when a request takes too long to arrive, or a response to leave."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._name = _certificate_name(transport)
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        for timer in filter(None, (self._rest, self._stuck)):
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        # Thousands of requests fit in one read. What a callback raises becomes a 400, and the end
        # of the connection.
        if len(self.pipeline) >= QUEUED:
            raise _TooMuchError
        super().on_message_begin()
        if self._timer is None:
            self._wait_for_head()
        self._whole = False
        if self._name is not None:
            self.scope[CERTIFICATE] = self._name  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        self._whole = True
        if self._rest is not None:
            self._rest.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._whole:
            # It was refused before all of it had come, and may never end. To close at once would
            # be to reset the connection under a client that still sends, and never reads why.
            self._rest = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > HEADERS:
            raise _TooMuchError

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _wait_for_head(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _certificate_name(transport: asyncio.Transport) -> str | None:
    """The common name of the certificate that a client showed, if it had to."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None or tls.context.verify_mode is not ssl.CERT_REQUIRED:
        return None
    found = dict(pair for part in (tls.getpeercert() or {}).get("subject", ()) for pair in part)
    return str(found.get("commonName", ""))


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=512)
    except (socket.gaierror, UnicodeError) as error:
        raise PlanError(
            f"this machine has no address '{host}'", do="listen at 127.0.0.1 or 0.0.0.0"
        ) from error
    except OverflowError:
        raise PlanError("a port is a number from 0 to 65535", got=str(port)) from None
    except OSError as error:
        raise FederationError(
            f"cannot listen at {host}:{port}",
            got=(error.strerror or "an error").lower(),
            do="choose another port, or stop the program that has it",
        ) from error
    # Inherited by connections, to which asyncio gives it only if it made the socket itself. Else
    # the second part of every response waits 40 ms for the acknowledgement of the first.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Door(fileno=listening.detach())


def _no_password() -> str:
    # Else OpenSSL asks for it on the terminal and waits.
    raise ValueError("a key with a password")
