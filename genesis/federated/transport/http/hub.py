"""Who is there, what each is asked, and what came back: the state behind the routes.

All of it lives on the server's event loop, so nothing needs a lock; other threads look at it only
through single reads. A client is known by its session, whose secret it got when it joined.

A client that joins again has lost what it knew. It is first asked again what every later request
builds on (`Request.setup`), its answers are held against the earlier ones, and then it gets the
task that it had not answered. So a client that was killed goes on in the same round.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock
from typing import Any

from genesis.federated.messages import Reply
from genesis.federated.transport.body import compress

__all__ = [
    "GRACE_SECONDS",
    "Body",
    "Hub",
    "RefusedError",
    "RunEndedError",
    "Session",
    "Task",
]

GRACE_SECONDS = 10.0  # of silence after which somebody else may take a client's id
LONGEST_ID = 100
MOST_CLIENTS = 1000  # where nobody says how many: each is a session, for whoever has a token


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: The HTTP status, 4xx.
        reason: In one line, for the person at the client.
        retry_after: Seconds after which asking again may help, or None.
    """

    def __init__(self, status: int, reason: str, retry_after: float | None = None) -> None:
        self.status, self.reason, self.retry_after = status, reason, retry_after
        super().__init__(reason)


class RunEndedError(Exception):
    """The run has ended, or its server is about to stop.

    Args:
        state: "complete", "failed" or "interrupted".
        reason: Why, or None.
    """

    def __init__(self, state: str, reason: str | None) -> None:
        self.state, self.reason = state, reason
        super().__init__(state)


class Body:
    """A request's bytes, of which compressed forms are made once for all clients."""

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self._packed: dict[str, bytes] = {}
        self._lock = Lock()

    def packed(self, how: str | None) -> bytes:
        """The bytes as a client wants them; slow the first time."""
        if how is None:
            return self.plain
        with self._lock:
            if how not in self._packed:
                self._packed[how] = compress(self.plain, how)
            return self._packed[how]


@dataclass(frozen=True)
class Task:
    """One request to one client.

    Args:
        client_id: To whom.
        kind: What is asked.
        body: The request.
        expects: What the reply must hold; see `Request`.
        setup: Whether later requests build on it.
        id: What the reply names.
    """

    client_id: str
    kind: str
    body: Body
    expects: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    setup: bool = False
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))


@dataclass
class Session:
    """A client that has joined.

    Args:
        client_id: Its name.
        secret_hash: SHA-256 of the secret that it got.
        since: When the session began.
        seen: When it was last heard of; None until then.
        behind: What it must be asked again first.
        refused: Why it may not go on, if so.
        left: Whether it said goodbye.
    """

    client_id: str
    secret_hash: str
    since: float
    seen: float | None = None
    behind: deque[Task] = field(default_factory=deque)
    refused: str | None = None
    left: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """The sessions, tasks and replies of one run.

    Args:
        version: Of the program; clients must have the same.
        max_clients: How many may join; 1,000 if None.
        patience: Seconds of silence after which a client counts as absent.
        on_change: Called with client id -> hash of its session's secret, of all that are there,
            whenever somebody joins or leaves.
        clock: Seconds.
    """

    def __init__(
        self,
        version: str,
        *,
        max_clients: int | None = None,
        patience: float = 60.0,
        on_change: Callable[[Mapping[str, str]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version, self.max_clients, self.patience = version, max_clients, patience
        self.sessions: dict[str, Session] = {}
        self.pending: dict[str, Task] = {}
        self.received = self.sent = 0
        self.told: set[str] = set()
        self._on_change, self._clock = on_change, clock
        self._by_secret: dict[str, Session] = {}
        self._roster: frozenset[str] | None = None
        self._setup: dict[str, dict[str, Task]] = {}
        self._answers: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._inbox: SimpleQueue[Reply] = SimpleQueue()
        self._end: RunEndedError | None = None

    # --- clients come and go ---

    def join(self, client_id: str, version: str, former: str | None = None) -> str:
        """Begin a session and return its secret.

        Args:
            client_id: Who joins.
            version: Of its program.
            former: Secret of the session that it had before, which it may replace at once.

        Raises:
            RefusedError: It may not.
            RunEndedError: The run has ended.
        """
        self._check_running()
        _check_id(client_id)
        if version != self.version:
            raise RefusedError(
                409,
                f"this server runs genesis {self.version} and client '{client_id}' {version[:40]}; "
                "install the same version",
            )
        known = self.sessions.get(client_id)
        if self._roster is not None and client_id not in self._roster:
            raise RefusedError(409, f"the run has begun without client '{client_id}'")
        others = set(self.names()) - {client_id}
        most = self.max_clients or MOST_CLIENTS
        if self._roster is None and len(others) >= most:
            raise RefusedError(409, f"the run is full: it takes {most} clients")
        if known is not None and not known.left and not _is_secret(known, former):
            silent = self._clock() - (known.since if known.seen is None else known.seen)
            if silent < GRACE_SECONDS:
                raise RefusedError(
                    409,
                    f"there is a client '{client_id}' already; choose another client id, or stop "
                    "the other one",
                    retry_after=GRACE_SECONDS - silent,
                )
        return self._begin(client_id, known)

    def _begin(self, client_id: str, known: Session | None) -> str:
        if known is not None:
            self._by_secret.pop(known.secret_hash, None)
            known.refused = "another client has joined under this id"
            known.wake.set()
        secret = secrets.token_urlsafe(32)
        now = self._clock()
        session = Session(client_id, _hash(secret), now, now)
        again = self._setup.get(client_id, {}).values()
        pending = self.pending.get(client_id)
        session.behind.extend(task for task in again if task is not pending)
        self.sessions[client_id] = self._by_secret[session.secret_hash] = session
        self._remember()
        return secret

    def session(self, secret: str) -> Session:
        """The session of a secret, which has now been heard of.

        Raises:
            RefusedError: There is none.
        """
        # Found by its hash, so that the time it takes says nothing about the secret.
        session = self._by_secret.get(_hash(secret))
        if session is None:
            raise RefusedError(428, "this session is not known; join again")
        session.seen = self._clock()
        return session

    def has_answered(self, client_id: str) -> bool:
        """Whether a client of this name has told what later requests build on."""
        return bool(self._answers.get(client_id))

    def leave(self, session: Session) -> None:
        """A client says goodbye. Its id is free, and it may come back."""
        session.left = True
        session.wake.set()  # nobody listens any more to what is still asked for
        if self._roster is None and self.sessions.get(session.client_id) is session:
            # Nobody counts on it yet.
            del self.sessions[session.client_id]
            self._by_secret.pop(session.secret_hash, None)
        self._remember()

    def check(self, session: Session) -> None:
        """Make sure that a client may go on.

        Raises:
            RefusedError: It may not.
            RunEndedError: The run has ended; it has now been told so.
        """
        if self._end is not None:
            self.told.add(session.client_id)
        self._check_running()
        if session.refused is not None:
            raise RefusedError(409, session.refused)

    # --- tasks and replies ---

    async def next_task(self, session: Session, seconds: float) -> Task | None:
        """What a client is asked, as soon as there is anything; None after some seconds.

        Until it is answered, the same task is given to whoever asks again.

        Raises:
            RefusedError: The client may not go on.
            RunEndedError: The run has ended.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self.check(session)
                    task = session.behind[0] if session.behind else None
                    if task := task or self.pending.get(session.client_id):
                        return task
                    session.wake.clear()
                    await session.wake.wait()
                    if session.left:
                        self.check(session)
                        return None
        except TimeoutError:
            return None

    def task(self, session: Session, task_id: str) -> Task | None:
        """The task that a reply names; None if it is answered already or came too late."""
        for task in (*list(session.behind)[:1], self.pending.get(session.client_id)):
            if task is not None and hmac.compare_digest(task.id.encode(), task_id.encode()):
                return task
        return None

    def deliver(self, session: Session, task: Task, reply: Reply) -> bool:
        """Take in a reply; False if another one was quicker, or came in time."""
        if session.behind and session.behind[0] is task:
            session.behind.popleft()
            self._compare(session, task, reply)
            return True
        if self.pending.get(session.client_id) is not task:
            return False
        del self.pending[session.client_id]
        if task.setup and not reply.error:
            self._answers.setdefault(session.client_id, {})[task.kind] = reply.meta
        self._inbox.put(reply)
        return True

    def _compare(self, session: Session, task: Task, reply: Reply) -> None:
        """A client that came back must say what it said before."""
        before = self._answers.get(session.client_id, {}).get(task.kind)
        if reply.error:
            session.refused = f"this client cannot go on: {reply.error}"
        elif before is not None and _lasting(before) != _lasting(reply.meta):
            session.refused = (
                f"client '{session.client_id}' came back with another table or key; start it "
                "with those that it began with"
            )

    # --- for the transport ---

    def ask(self, tasks: Iterable[Task], inbox: SimpleQueue[Reply]) -> None:
        """Give clients their tasks; replies go to inbox. The first ones close the run."""
        tasks = list(tasks)
        if self._roster is None:
            self._close(frozenset(task.client_id for task in tasks))
        self._inbox = inbox
        for task in tasks:
            self.pending[task.client_id] = task
            if task.setup:
                self._setup.setdefault(task.client_id, {})[task.kind] = task
            if task.client_id in self.sessions:
                self.sessions[task.client_id].wake.set()

    def _close(self, roster: frozenset[str]) -> None:
        """From now on the run has the clients that it has."""
        self._roster = roster
        for client_id in sorted(set(self.sessions) - roster):
            session = self.sessions.pop(client_id)
            session.refused = f"the run has begun without client '{client_id}'"
            session.wake.set()

    def withdraw(self) -> None:
        """Nobody waits any more for what is not answered."""
        self.pending.clear()

    def expect(self, secret_hashes: Mapping[str, str | None]) -> None:
        """Go on with the clients of an earlier server, whose sessions stay valid."""
        self._roster = frozenset(secret_hashes)
        for client_id, secret_hash in secret_hashes.items():
            if secret_hash is not None:
                session = Session(client_id, secret_hash, self._clock())
                self.sessions[client_id] = self._by_secret[secret_hash] = session

    def end(self, state: str, reason: str | None = None) -> None:
        """Tell every client that asks that the run is over."""
        self._end = RunEndedError(state, reason)
        for session in self.sessions.values():
            session.wake.set()

    def names(self) -> list[str]:
        """Clients of the run; until it begins, those who have joined and are still there."""
        if self._roster is not None:
            return sorted(self._roster)
        return sorted(name for name in list(self.sessions) if self.is_present(name))

    def silence(self, client_id: str) -> float | None:
        """Seconds since a client was last heard of; None if it never was."""
        session = self.sessions.get(client_id)
        if session is None or session.seen is None:
            return None
        return self._clock() - session.seen

    def is_present(self, client_id: str) -> bool:
        """Whether a client was heard of lately, and has not said goodbye since."""
        session, silent = self.sessions.get(client_id), self.silence(client_id)
        return not (session is None or session.left or silent is None or silent >= self.patience)

    def untold(self) -> set[str]:
        """Clients that are there and do not know yet that the run has ended."""
        there = [name for name, session in list(self.sessions.items()) if not session.left]
        lately = {name for name in there if (self.silence(name) or 0.0) < GRACE_SECONDS}
        return lately - self.told

    def _check_running(self) -> None:
        if self._end is not None:
            raise RunEndedError(self._end.state, self._end.reason)

    def _remember(self) -> None:
        if self._on_change is not None:
            stay = {name: each for name, each in self.sessions.items() if not each.left}
            self._on_change({name: each.secret_hash for name, each in stay.items()})


def _check_id(client_id: str) -> None:
    """A client's name is short, and can be printed anywhere."""
    if not 0 < len(client_id) <= LONGEST_ID:
        raise RefusedError(400, f"a client id has 1 to {LONGEST_ID} characters")
    if not client_id.isprintable() or client_id != client_id.strip():
        raise RefusedError(400, "a client id is printable text without spaces around it")


def _lasting(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a client says the same whenever it is asked; what it has spent grows."""
    return {name: value for name, value in meta.items() if name != "spent"}


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _is_secret(session: Session, given: str | None) -> bool:
    return given is not None and hmac.compare_digest(session.secret_hash, _hash(given))
