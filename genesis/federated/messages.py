"""What the server and a client say to each other.

A message is a kind, a round, JSON and named arrays: nothing else ever crosses, in one process or
over a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError

__all__ = ["ClientInfo", "Reply", "Request", "Update", "check_arrays"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ClientInfo:
    """Who takes part.

    Args:
        client_id: Its name.
        present: Whether it would hear a request now.
    """

    client_id: str
    present: bool = True


@dataclass(frozen=True)
class Request:
    """What the server asks of one client.

    Args:
        kind: "describe", "labels", "count", "prepare", "train", …: see `shard`.
        round: Number of the round, from 0.
        meta: JSON values.
        arrays: Numbers.
        expects: Arrays that the reply must hold, and no others: name -> (dtype, length). A
            transport knows by it how much to take in at most.
        setup: Whether a client that lost what it knew must be asked this again before anything
            else: the agreed schema, the encoder.
        local: What only a client in the server's process is told, such as folders of this machine.
            No transport sends it anywhere.
    """

    kind: str
    round: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    expects: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    setup: bool = False
    local: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What one client answers.

    Args:
        client_id: Who answers.
        meta: JSON values.
        arrays: Numbers.
        error: Why the client failed, in one line, or None.
    """

    client_id: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Update:
    """What one client's training came to.

    Args:
        client_id: Whose update it is.
        vector: (P,) float32, the client's parameters after local training. Parameters and not
            their difference to what was received, because a + (b - a) is not b in floating point;
            whoever needs the difference has both ends of it.
        weight: Number of rows it was trained on.
        metrics: Losses of the last local epoch, and what a rule asks the client to measure.
    """

    client_id: str
    vector: npt.NDArray[np.float32]
    weight: float
    metrics: Mapping[str, float]


def check_arrays(arrays: Arrays, expects: Mapping[str, tuple[str, int]]) -> None:
    """Make sure that a reply holds the arrays that were asked for.

    Raises:
        FederationError: One is missing, is too many, or has another dtype or shape.
    """
    if set(arrays) != set(expects):
        raise FederationError(
            "its reply holds other arrays than were asked for",
            got=f"{len(arrays)} instead of {len(expects)}",
            do="give server and clients the same version",
        )
    for name, (dtype, length) in expects.items():
        found = arrays[name]
        if found.dtype != np.dtype(dtype) or found.shape != (length,):
            raise FederationError(
                f"its reply has a '{name}' of the wrong shape",
                got=f"{found.dtype} {found.shape} instead of {dtype} ({length},)",
                do="give server and clients the same version",
            )
