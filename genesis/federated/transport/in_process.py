"""All clients in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from genesis.federated.messages import ClientInfo, Reply, Request

__all__ = ["InProcessTransport"]


class Client(Protocol):
    """Whoever answers for some rows: a `Shard` or a `SecureShard`."""

    def handle(self, request: Request) -> Reply:
        """Do what is asked."""


class InProcessTransport:
    """Clients that are objects of this process.

    Args:
        shards: Client id -> shard.
    """

    def __init__(self, shards: Mapping[str, Client]) -> None:
        self._shards = dict(shards)

    def clients(self) -> Sequence[ClientInfo]:
        """All of them, always."""
        return [ClientInfo(client_id) for client_id in self._shards]

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        """Ask them in the order of their names, and wait for each.

        Nobody is late here: clients that wait for their turn would drop out by the clock of this
        machine, and the same seed would not give the same run.
        """
        for client_id in sorted(requests):
            yield self._shards[client_id].handle(requests[client_id])
