"""The server's end: `Transport` over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue

from genesis.errors import FederationError
from genesis.federated.messages import ClientInfo, Reply, Request
from genesis.federated.transport.body import encode_request
from genesis.federated.transport.http.hub import Body, Hub, Task
from genesis.federated.transport.http.listener import Listener
from genesis.federated.transport.http.protocol import HEARTBEAT_SECONDS

__all__ = ["HttpTransport"]

TICK = 0.2  # seconds from one look for absent clients to the next


class HttpTransport:
    """Clients on other machines.

    Args:
        hub: Who is there, and what they are asked.
        listener: What they are connected to; it serves already.
        fewest: How many replies a round needs. Beyond them nobody waits for a client that is not
            there.
    """

    def __init__(self, hub: Hub, listener: Listener, fewest: int = 1) -> None:
        self._hub, self._listener, self._fewest = hub, listener, fewest

    def clients(self) -> Sequence[ClientInfo]:
        """Those who have joined, and those of an earlier server's run."""
        hub = self._hub
        return [ClientInfo(name, hub.is_present(name)) for name in hub.names()]

    def wait_for(
        self, names: Sequence[str], fewest: int, timeout: float, *, expected: int = 0
    ) -> None:
        """Wait for clients to join.

        Args:
            names: Those to wait for as long as there is time; nobody in particular if empty.
            fewest: How many there must be.
            timeout: Seconds.
            expected: How many to wait for as long as there is time.

        Raises:
            FederationError: There are fewer.
        """
        deadline = time.monotonic() + timeout
        while True:
            present = {info.client_id for info in self.clients() if info.present}
            if len(present) >= max(fewest, expected) and present >= set(names):
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if len(present) < fewest:
            raise FederationError(
                f"too few clients joined within {timeout:g} s",
                got=f"{len(present)}, min_clients is {fewest}",
                do="check their logs, the address and the firewall, or wait longer (join_timeout)",
            )

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        """Hand out requests and yield replies as they come; see `Transport`."""
        bodies: dict[int, Body] = {}
        for request in requests.values():
            if id(request) not in bodies:
                bodies[id(request)] = Body(encode_request(request))
        tasks = [
            Task(client, request.kind, bodies[id(request)], request.expects, request.setup)
            for client, request in requests.items()
        ]
        del bodies
        inbox: SimpleQueue[Reply] = SimpleQueue()
        self._listener.call(self._hub.ask, tasks, inbox)
        waiting = set(requests)
        answered = 0
        deadline = time.monotonic() + timeout
        try:
            while waiting:
                left = deadline - time.monotonic()
                try:
                    reply = inbox.get(timeout=max(0.0, min(left, TICK)))
                except Empty:
                    if left <= 0:
                        return
                    waiting -= self._given_up(waiting, answered)
                    continue
                waiting.discard(reply.client_id)
                answered += 1
                yield reply
        finally:
            self._listener.call(self._hub.withdraw)

    def close(self, state: str, reason: str | None, linger: float = 3 * HEARTBEAT_SECONDS) -> None:
        """Tell clients how the run ended, and stop to listen.

        Args:
            state: "complete", "failed" or "interrupted".
            reason: Why, or None.
            linger: Seconds in which every client asks at least once.
        """
        try:
            self._listener.call(self._hub.end, state, reason)
            deadline = time.monotonic() + (linger if state != "interrupted" else 0.2)
            time.sleep(0.05)
            while self._hub.untold() and time.monotonic() < deadline:
                time.sleep(0.05)
        except FederationError:
            pass  # it has stopped already
        finally:
            self._listener.stop()

    def _given_up(self, waiting: set[str], answered: int) -> set[str]:
        """Clients that nobody waits for any more: absent, and not needed."""
        absent = {client for client in waiting if not self._hub.is_present(client)}
        return absent if answered + len(waiting - absent) >= self._fewest else set()
