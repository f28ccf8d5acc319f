"""What all clients of a sum must agree on, as one digest: `Sum.purpose`.

Each client computes it from what it was sent itself, the server from what it sent, and every key of
the sum is derived from it. So if the server sends one client another encoder, plan, question or
model than the others, that client and they take nobody's keys for those of one sum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FRESH", "Agreed", "after", "purpose"]

PERSONAL = ("number", "receive", "used")
"""What of a request belongs to one client: its number, and what it lacks of the model."""


FRESH = bytes(32)
"""The past of a client whose optimiser is new."""


class Agreed:
    """Digests of the requests that set all clients up: of each kind, the last one."""

    def __init__(self) -> None:
        self._digests: dict[str, bytes] = {}

    def note(self, kind: str, meta: Mapping[str, Any]) -> None:
        """Another such request."""
        self._digests[kind] = hashlib.sha256(_text(meta)).digest()

    @property
    def digest(self) -> bytes:
        """Of all of them."""
        parts = (kind.encode() + self._digests[kind] for kind in sorted(self._digests))
        return hashlib.sha256(b"".join(parts)).digest()


def purpose(
    agreed: Agreed,
    kind: str,
    round: int,
    meta: Mapping[str, Any],
    arrays: Iterable[npt.NDArray[Any]] = (),
) -> bytes:
    """The digest of what is asked of all clients of a sum.

    Args:
        agreed: What they were set up with.
        kind: Of the request.
        round: Its round.
        meta: Its JSON values.
        arrays: What the answers depend on: the parameters that all clients start from.
    """
    digest = hashlib.sha256(agreed.digest)
    for part in (kind.encode(), str(round).encode(), _text(meta)):
        digest.update(len(part).to_bytes(8, "big") + part)
    for array in arrays:
        # With its type: the same bytes are other numbers as another.
        digest.update(array.dtype.str.encode() + array.nbytes.to_bytes(8, "big"))
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.digest()


def after(past: bytes, purpose: bytes) -> bytes:
    """The digest of what a client has trained for, after one more sum.

    It is part of the purpose of the next one. Adam's moments outlive a round, and moments that were
    spoilt by an earlier one make a client stand still: a sum in which all clients but one have such
    is that one's update. So all clients of a sum must have the same past, or none.

    Args:
        past: The digest before; `FRESH` for a new optimiser.
        purpose: Of the sum.
    """
    return hashlib.sha256(past + purpose).digest()


def _text(meta: Mapping[str, Any]) -> bytes:
    """JSON values in the one way that both ends write them."""
    values = {name: value for name, value in meta.items() if name not in PERSONAL}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
