"""A network in one process on which clients fall silent and requests are changed on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from genesis.federated.messages import ClientInfo, Reply, Request
from genesis.federated.secagg.identity import Identity, Roster, Trust
from genesis.federated.secure_shard import SecureShard

__all__ = ["IDENTITIES", "Change", "Lossy", "Silent", "secured", "step_of"]

IDENTITIES = {letter: Identity.generate() for letter in "abcdefg"}
"""Of clients that are called so."""

Silent = Callable[[str, Request], bool]
"""Whether a client, which is asked something, does not hear it and says nothing."""

Change = Callable[[str, Request], Request]
"""What a client is asked instead."""


def step_of(request: Request) -> tuple[str, int, int] | None:
    """What a request begins or continues: kind, round and step of a sum; None if it is no sum.

    Only the first step says what is summed; the kind of the others is empty.
    """
    if request.kind != "sum":
        return None
    inner = request.meta.get("inner")
    return (inner["kind"] if inner else "", request.round, int(request.meta["step"]))


class Lossy:
    """Clients of this process.

    Args:
        shards: Client id -> shard.
        silent: Which of them say nothing, and when.

    `asked` and `heard` are all that passed, and `change`, if a test sets it, what becomes of it.
    """

    def __init__(self, shards: Mapping[str, Any], silent: Silent = lambda *_: False) -> None:
        self.shards, self.silent = dict(shards), silent
        self.change: Change = lambda _, request: request
        self.asked: list[tuple[str, Request]] = []
        self.heard: list[Reply] = []

    def clients(self) -> Sequence[ClientInfo]:
        return [ClientInfo(name) for name in self.shards]

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        for name in sorted(requests):
            self.asked.append((name, requests[name]))
            if not self.silent(name, requests[name]):
                reply = self.shards[name].handle(self.change(name, requests[name]))
                self.heard.append(reply)
                yield reply


def secured(shards: Mapping[str, Any], **options: Any) -> dict[str, SecureShard]:
    """Shards behind secure aggregation, which know each other."""
    roster = Roster({name: IDENTITIES[name].public for name in shards})
    return {
        name: SecureShard(shard, identity=IDENTITIES[name], trust=Trust(roster), **options)
        for name, shard in shards.items()
    }
