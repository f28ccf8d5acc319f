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

__all__ = ["ClientInfo", "Reply", "Request", "Update"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ClientInfo:
    """Who takes part."""

    client_id: str


@dataclass(frozen=True)
class Request:
    """What the server asks of one client.

    Args:
        kind: "describe", "labels", "count", "prepare", "train", …: see `shard`.
        round: Number of the round, from 0.
        meta: JSON values.
        arrays: Numbers.
    """

    kind: str
    round: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


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
