"""The clients of a run: asking them, and insisting on answers where all of them are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from genesis.errors import FederationError, GenesisError, printable
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.secagg import FEWEST
from genesis.federated.transport import Transport

__all__ = ["MOST_ROWS", "Clients", "raise_failures", "read", "whole"]

MOST_ROWS = 2**48  # that a table has; sums over clients do not overflow

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Clients:
    """The clients that take part in a run.

    Args:
        transport: How they are reached.
        numbers: Client id -> its number in the run, which its random streams depend on.
        timeout: Seconds that a client has for an answer.
        fewest: How many every round needs.
    """

    transport: Transport
    numbers: Mapping[str, int]
    timeout: float
    fewest: int

    @classmethod
    def join(cls, transport: Transport, plan: Plan) -> Clients:
        """Whoever is there, in the order of their names.

        Raises:
            FederationError: They are too few.
        """
        names = sorted(client.client_id for client in transport.clients())[: plan.max_clients]
        numbers = {client: number for number, client in enumerate(names)}
        if plan.scheme is not None and len(names) < FEWEST:
            raise FederationError(
                f"secure aggregation needs at least {FEWEST} clients: of a sum of two, each knows "
                "the other's part",
                got=f"{len(names)}",
                do="add clients",
            )
        joined = cls(transport, numbers, plan.timeout_seconds, plan.min_clients)
        joined.enough(names, "joined")
        return joined

    @property
    def names(self) -> list[str]:
        """Their ids, in order."""
        return sorted(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def present(self) -> list[str]:
        """Those who would hear a request now, in order."""
        there = {info.client_id for info in self.transport.clients() if info.present}
        return [name for name in self.names if name in there]

    def numbered(self, before: Mapping[str, int]) -> Clients:
        """The same clients with the numbers that they had before.

        Raises:
            FederationError: They are others.
        """
        missing = [f"no '{client}'" for client in sorted(set(before) - set(self.numbers))]
        extra = [f"'{client}' besides" for client in sorted(set(self.numbers) - set(before))]
        if missing or extra:
            raise FederationError(
                "the checkpoint was made with other clients",
                got=", ".join([*missing, *extra]),
                do="continue with the same tables under the same names, or start anew",
            )
        return replace(self, numbers=dict(before))

    def exchange(self, requests: Mapping[str, Request]) -> list[Reply]:
        """All replies, in the order of the clients' names, so that sums never depend on arrival."""
        replies = self.transport.exchange(requests, timeout=self.timeout)
        return sorted(replies, key=lambda reply: reply.client_id)

    def ask(self, request: Request, names: Iterable[str] | None = None) -> list[Reply]:
        """The replies of some clients, or of all, to the same request."""
        return self.exchange(dict.fromkeys(self.names if names is None else names, request))

    def require(
        self, request: Request, what: str, *, numbered: bool = False, missing_ok: bool = False
    ) -> list[Reply]:
        """The replies of all clients, none of which may fail.

        Args:
            request: What they are asked for.
            what: The same in words, for "did not …".
            numbered: Tell each its number.
            missing_ok: Whether as many as a round needs are enough.

        Raises:
            GenesisError: What a client failed with, or FederationError if some did not answer.
        """
        requests = dict.fromkeys(self.names, request)
        if numbered:
            requests = {
                client: replace(request, meta={**request.meta, "number": number})
                for client, number in self.numbers.items()
            }
        replies = self.exchange(requests)
        raise_failures(replies)
        missing = sorted(set(self.numbers) - {reply.client_id for reply in replies})
        if missing_ok:
            self.enough([reply.client_id for reply in replies], f"did {what}")
        elif missing:
            raise FederationError(
                f"client '{missing[0]}' did not {what}",
                got=f"{len(missing)} of {len(self)} clients without an answer",
                do="check that they are running, or leave them out",
            )
        return replies

    def enough(
        self, names: Sequence[str], what: str, failed: Mapping[str, str | None] | None = None
    ) -> None:
        """Raise FederationError if fewer clients than a round needs did something."""
        if len(names) >= self.fewest:
            return
        reasons = "; ".join(f"'{client}': {why}" for client, why in (failed or {}).items())
        raise FederationError(
            f"too few clients {what}",
            got=f"{len(names)}, min_clients is {self.fewest}"
            + (f" ({reasons})" if reasons else ""),
            do="add clients or lower min_clients",
        )


def raise_failures(replies: Iterable[Reply]) -> None:
    """Raise the GenesisError that a client failed with, if one did."""
    kinds = {cls.__name__: cls for cls in _subclasses(GenesisError)}
    for reply in replies:
        if reply.error:
            cls = kinds.get(str(reply.meta.get("error_type")), FederationError)
            named = f"client '{reply.client_id}'"
            raise cls(reply.error if named in reply.error else f"{named}: {reply.error}")


def read(reply: Reply, reader: Callable[[Mapping[str, Any]], Answer]) -> Answer:
    """What a reader makes of a reply, which comes from somebody else and may be anything.

    Raises:
        FederationError: It is not what was asked for.
    """
    try:
        return reader(reply.meta)
    except GenesisError as error:
        # It may quote names of columns, which are the client's words.
        text = printable(f"client '{reply.client_id}': {error}")
        raise type(error)(text[:1000]) from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise FederationError(
            f"client '{reply.client_id}' answered something else than it was asked",
            do="give server and clients the same version",
        ) from error


def whole(value: object) -> int:
    """A number of rows that somebody claims to have.

    Raises:
        ValueError: It is no whole number, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST_ROWS:
        raise ValueError("not a number of rows")
    return value


def _subclasses(cls: type[GenesisError]) -> Iterator[type[GenesisError]]:
    """An error and everything under it in the tree."""
    yield cls
    for each in cls.__subclasses__():
        yield from _subclasses(each)
