"""All clients in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from genesis.federated.messages import ClientInfo, Reply, Request
from genesis.federated.shard import Shard

__all__ = ["InProcessTransport"]


class InProcessTransport:
    """Clients that are objects of this process.

    Args:
        shards: Client id -> shard.
    """

    def __init__(self, shards: Mapping[str, Shard]) -> None:
        self._shards = dict(shards)

    def clients(self) -> Sequence[ClientInfo]:
        """All of them, always."""
        return [ClientInfo(client_id) for client_id in self._shards]

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        """Ask them in the order of their names; whose turn comes after the timeout is left out."""
        deadline = time.monotonic() + timeout
        for client_id in sorted(requests):
            if time.monotonic() > deadline:
                return
            yield self._shards[client_id].handle(requests[client_id])
