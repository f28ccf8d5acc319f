"""How the server reaches clients: the one protocol `Transport`, one file for each way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from genesis.federated.messages import ClientInfo, Reply, Request

__all__ = ["Transport"]


class Transport(Protocol):
    """A way to reach clients."""

    def clients(self) -> Sequence[ClientInfo]:
        """Who can be asked now."""

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        """Send each client its request and yield replies in any order.

        Args:
            requests: Client id -> request.
            timeout: Seconds after which clients that have not answered are left out.

        Yields:
            At most one reply a client. A client that is absent dropped out; one that failed says
            why in `Reply.error`.
        """
