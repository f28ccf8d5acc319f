"""The sum that a client takes part in right now: `OpenSum`.

It answers each step once, says the same again to a server that has not heard it, and can be taken
to another process between two steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from genesis.errors import FederationError
from genesis.federated.messages import Reply, Request
from genesis.federated.secagg import Party, PortableParty, Scheme, Sum

__all__ = ["OpenSum", "digest_of", "kept_sum", "within"]


@dataclass
class OpenSum:
    """A client's part in one sum.

    Args:
        scheme: What it is summed by.
        sum: What all clients agree on.
        party: This client's end.
        inner: The request whose answers are summed; None for what a scheme does once beforehand.
        work: Waits for this client's answer to it.
        begun_by: Digest of the message that began it.
        step: The next one.
    """

    scheme: Scheme
    sum: Sum
    party: Party
    inner: Request | None
    work: Callable[[], Reply]
    begun_by: bytes
    step: int = 0
    _last: tuple[bytes, Reply] | None = None  # the message before, and what was said to it

    def is_begun_by(self, request: Request) -> bool:
        """Whether a request asks for the first step once more, and for no other sum."""
        return self.step == 1 and self.begun_by == digest_of(request)

    @property
    def has_just_uploaded(self) -> bool:
        """Whether the vector was in the last answer."""
        return self.step == self.scheme.UPLOAD + 1

    def said(self, step: int, message: bytes) -> Reply | None:
        """What was said to the same message before; None if it is a new one.

        Raises:
            FederationError: It is out of order.
        """
        if step == self.step - 1 and self._last is not None and self._last[0] == message:
            return self._last[1]
        if step < self.step:  # a scheme need not ask everybody in every step
            raise FederationError("a step of a sum was asked for twice, or out of order")
        return None

    def says(self, step: int, message: bytes, reply: Reply) -> None:
        """Remember what is said to a message."""
        self.step, self._last = step + 1, (message, reply)

    def to_request(self) -> Request | None:
        """A message to a process that goes on with it; None if there is nothing to go on with.

        There are secrets in it until it has been opened: see `masking.MaskingParty.to_dict`.
        """
        if self.inner is None or self.step > self.scheme.REVEAL:
            return None
        meta = {
            "number": self.sum.number,
            "purpose": self.sum.purpose.hex(),
            "cohort": list(self.sum.cohort),
            "length": self.sum.length,
            "bits": self.sum.bits,
            "complete": self.sum.complete,
            "inner": self.inner.meta,
            "step": self.step,
            "party": cast(PortableParty, self.party).to_dict(),
        }
        # Once the vector has left, its training needs nothing any more.
        arrays = self.inner.arrays if self.step <= self.scheme.UPLOAD else {}
        return Request(self.inner.kind, self.inner.round, meta, arrays)


def kept_sum(kept: Request, session: str, keys: Mapping[str, bytes]) -> tuple[Sum, Request]:
    """What `OpenSum.to_request` tells: the sum, and the request whose answers are summed.

    Args:
        kept: What it gave.
        session: As before.
        keys: Of all clients of the cohort, at least.
    """
    meta = kept.meta
    sum = Sum(
        session=session,
        number=meta["number"],
        purpose=bytes.fromhex(meta["purpose"]),
        cohort=tuple(meta["cohort"]),
        keys=tuple(keys[name] for name in meta["cohort"]),
        length=meta["length"],
        bits=meta["bits"],
        complete=meta["complete"],
    )
    return sum, within(sum, Request(kept.kind, kept.round, meta["inner"], kept.arrays))


def within(sum: Sum, request: Request) -> Request:
    """A request that knows the sum it is for, as noise must that clients add together."""
    told = {"cohort": sum.cohort, "threshold": sum.threshold, "purpose": sum.purpose}
    return replace(request, local=told)


def digest_of(request: Request) -> bytes:
    """What a request says, in short."""
    digest = hashlib.sha256(json.dumps(request.meta, sort_keys=True).encode())
    for name in sorted(request.arrays):
        digest.update(name.encode() + request.arrays[name].tobytes())
    return digest.digest()
