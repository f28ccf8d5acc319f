"""Secure aggregation: how the server learns the sum of the clients' vectors and nothing else.

    masking     masks that cancel in the sum, and shares of them for clients that drop out
    paillier    encryption under which sums can be taken, by a key that one of the clients holds

A scheme is a module with the two ends of one protocol, as pure machines: bytes in, bytes out. No
transport, clock or file is in it, so a test can be the network, and the network can be anybody.

    ServerSide   makes a Collector for each sum      the server's end
    ClientSide   makes a Party for each sum          a client's end

A sum goes in steps. In each, the server sends every client that is still there some bytes and takes
in the answers; whoever does not answer has dropped out. `secure_sums` does that over a transport,
and `secure_shard` is what answers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

from genesis.errors import FederationError, MissingExtraError, PlanError, nearest_names

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from genesis.federated.secagg.identity import Identity

__all__ = [
    "FEWEST",
    "SCHEMES",
    "Answer",
    "ClientSide",
    "Collector",
    "Party",
    "PortableParty",
    "PortableSide",
    "Ring",
    "Scheme",
    "ServerSide",
    "Sum",
    "check_portable",
    "scheme",
    "threshold_of",
]

SCHEMES: dict[str, str] = {
    "masking": "genesis.federated.secagg.masking",
    "paillier": "genesis.federated.secagg.paillier",
}

FEWEST = 3  # clients; of a sum of two, each knows the other's vector
BITS = (24, 32, 64)

Ring: TypeAlias = "npt.NDArray[np.uint32] | npt.NDArray[np.uint64]"
"""Numbers modulo a power of two, of which the upper half stands for negative ones."""


@dataclass(frozen=True)
class Sum:
    """What one sum is about. Whoever believes something else takes part in another sum.

    Args:
        session: Of the run, in hexadecimal digits.
        number: Of the sum in its session, from 0.
        purpose: (32 bytes) digest of everything else that all clients must agree on: what is asked,
            the plan, the parameters that they received. A server that shows different clients
            different models would otherwise learn from what they have in common (Pasquini et al.
            2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency").
        cohort: Ids of the clients asked, sorted.
        keys: Their Ed25519 public keys, of 32 bytes each, in that order.
        length: Numbers in a vector.
        bits: Of a number on its way: 24, 32 or 64. Sums are modulo 2^bits.
        complete: Whether nobody may be missing from it. Statistics of the same rows over two sets
            of clients would tell of the client in which they differ.

    Raises:
        FederationError: It is no sum: too few clients, an impossible length.
    """

    session: str
    number: int
    purpose: bytes
    cohort: tuple[str, ...]
    keys: tuple[bytes, ...]
    length: int
    bits: int = 32
    complete: bool = False

    def __post_init__(self) -> None:
        if len(self.cohort) < FEWEST:
            raise FederationError(
                f"secure aggregation needs at least {FEWEST} clients",
                got=f"{len(self.cohort)} in a sum",
                do="add clients, or let more of them take part in a round",
            )
        whole = list(self.cohort) == sorted(set(self.cohort)) and len(self.keys) == len(self.cohort)
        keys = len(set(self.keys)) == len(self.keys) and all(len(key) == 32 for key in self.keys)
        fits = self.bits in BITS and self.length >= 1 and self.number >= 0
        if not (whole and keys and fits and len(self.purpose) == 32):
            raise FederationError(
                "what is to be summed makes no sense", do="give server and clients the same version"
            )

    @property
    def threshold(self) -> int:
        """Clients without whom nothing is revealed: all, or more than two thirds.

        More than half, so that no client's answer can be part of two sums of the same number.
        """
        return len(self.cohort) if self.complete else threshold_of(len(self.cohort))

    @cached_property
    def context(self) -> bytes:
        """SHA-256 of all of it, which every key and signature of the sum is bound to."""
        ids = [client.encode("utf-8", "surrogatepass") for client in self.cohort]
        parts = [self.session.encode(), self.purpose, *ids, *self.keys]
        numbers = struct.pack(
            ">QQII?", self.number, self.length, self.bits, len(self.cohort), self.complete
        )
        digest = hashlib.sha256(b"genesis secure sum 1" + numbers)
        for part in parts:  # with their lengths, so that no two lists look alike
            digest.update(struct.pack(">Q", len(part)) + part)
        return digest.digest()

    @property
    def dtype(self) -> type[np.uint32] | type[np.uint64]:
        """Of vectors while they are added up: 24-bit numbers are the lower part of 32-bit ones."""
        import numpy as np  # here, because help texts come at once without it

        return np.uint64 if self.bits == 64 else np.uint32

    def at(self, client_id: str) -> int:
        """The position of a client in the cohort.

        Raises:
            FederationError: It is not in it.
        """
        if client_id not in self.cohort:
            raise FederationError(f"client '{client_id}' is not in the sum")
        return self.cohort.index(client_id)


def threshold_of(clients: int) -> int:
    """How many of some clients must come through a round for its sum to be revealed."""
    return max(2 * clients // 3 + 1, FEWEST)


Answer = bytes | bytearray | memoryview


class Party(Protocol):
    """A client's end of one sum."""

    def answer(self, step: int, message: bytes, values: Callable[[], Ring]) -> Answer:
        """What the client says in a step; each step once, in order.

        Args:
            step: From 0.
            message: What the server sent.
            values: Gives the vector, of `Sum.dtype` and `Sum.length`, when it is needed.

        Raises:
            FederationError: The server, or another client, did not keep to the protocol.
        """


class PortableParty(Party, Protocol):
    """A party that another process can go on with."""

    def to_dict(self) -> dict[str, Any]:
        """What its further steps need, as JSON values. They are secret."""


class Collector(Protocol):
    """The server's end of one sum."""

    failed: Mapping[str, str]
    """Clients that answered nonsense, and what. They count as dropped out."""

    survivors: tuple[str, ...]
    """Clients whose vectors are in the sum, sorted."""

    def messages(self) -> Mapping[str, bytes]:
        """What is sent to each client in this step; nothing once the sum is known."""

    def reply_length(self) -> int:
        """Bytes of an answer in this step."""

    def take(self, answers: Mapping[str, Answer]) -> None:
        """Go on with the answers of this step. Who is missing in them has dropped out.

        Raises:
            FederationError: Too few are left.
        """

    def total(self) -> npt.NDArray[np.int64]:
        """(length,) the sum, once there is nothing to send any more."""


class ServerSide(Protocol):
    """The server's end of a scheme, for a session."""

    def setup(self, sum: Sum) -> Collector | None:
        """What all clients do once before the first sum, such as agreeing on keys."""

    def collector(self, sum: Sum) -> Collector:
        """For one sum."""


class ClientSide(Protocol):
    """A client's end of a scheme, for a session."""

    def setup(self, sum: Sum) -> Party | None:
        """What the client does once before the first sum."""

    def party(self, sum: Sum) -> Party:
        """For one sum."""


class PortableSide(ClientSide, Protocol):
    """A client's end of a scheme whose parties are portable."""

    def resumed(self, sum: Sum, values: Mapping[str, Any]) -> PortableParty:
        """A party that another process began: from its `to_dict`."""


class Scheme(Protocol):
    """A module of `SCHEMES`."""

    UPLOAD: ClassVar[int]
    """The step whose answer holds the vector."""

    REVEAL: ClassVar[int]
    """The step whose answer lets a sum be opened. A client gives it once for each round."""

    def ServerSide(self, **options: Any) -> ServerSide:  # noqa: N802 - a class of the module
        """The server's end."""

    def ClientSide(self, client_id: str, identity: Identity, **options: Any) -> ClientSide:  # noqa: N802
        """A client's end."""


def scheme(name: str) -> Scheme:
    """The scheme called name.

    Raises:
        PlanError: There is none.
        MissingExtraError: What it needs is not installed.
    """
    if name not in SCHEMES:
        raise PlanError(f"unknown secure aggregation '{name}'", do=nearest_names(name, SCHEMES))
    try:
        return cast(Scheme, import_module(SCHEMES[name]))
    except ModuleNotFoundError as error:
        if error.name != "gmpy2":
            raise
        raise MissingExtraError(
            "paillier needs gmpy2", do="run: pip install 'genesis-federated[paillier]'"
        ) from error


def check_portable(name: str) -> None:
    """Refuse a scheme whose clients need processes that last as long as the run.

    Raises:
        PlanError: It is such a one, or there is none of that name.
        MissingExtraError: What it needs is not installed.
    """
    if not hasattr(scheme(name).ClientSide, "resumed"):
        raise PlanError(
            f"{name} needs clients whose processes last as long as the run, and Flower's do not",
            do="use masking, or our own server: genesis federated server",
        )
