"""What clients send back after training, made sense of before it is averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError
from genesis.federated.clients import read
from genesis.federated.messages import Reply, Update, check_arrays
from genesis.models.parameters import ParameterLayout

__all__ = ["expected", "mean_metrics", "part_of", "read_updates"]

Vector = npt.NDArray[np.float32]


def part_of(
    vector: Vector, layout: ParameterLayout, parts: tuple[str, ...] | None
) -> npt.NDArray[np.float32]:
    """The parameters of some parts, or of all if None: (p,) of vector (P,), in their order."""
    return np.concatenate([vector[place] for place in _places(layout, parts)])


def read_updates(
    replies: Sequence[Reply],
    failed: dict[str, str],
    *,
    vector: Vector,
    layout: ParameterLayout,
    parts: tuple[str, ...] | None,
    copies: int,
    rows: Mapping[str, int],
) -> list[Update]:
    """Replies as updates of the whole vector, in which what a client kept counts as unchanged.

    Args:
        replies: Of the clients that did not fail.
        failed: Client id -> why; those whose reply makes no sense are added.
        vector: (P,) the global parameters that they received.
        layout: Where the parts are.
        parts: What they were asked for: () for nothing, None for everything.
        copies: Vectors in a reply: two where a rule has control variates.
        rows: Client id -> its number of rows.
    """
    updates: list[Update] = []
    for reply in replies:
        try:
            whole = _read_vector(reply, vector, layout, parts, copies)
            metrics = read(reply, lambda meta: _finite(meta["metrics"]))
        except FederationError as error:
            failed[reply.client_id] = str(error)
            continue
        updates.append(Update(reply.client_id, whole, float(rows[reply.client_id]), metrics))
    return updates


def mean_metrics(updates: Sequence[Update], measures: Sequence[str]) -> dict[str, float]:
    """Means of the clients' losses, weighted by rows; what a rule had measured is left out."""
    hidden = tuple(f"{measure}." for measure in measures)
    names = [name for name in updates[0].metrics if not name.startswith(hidden)] if updates else []
    total = sum(update.weight for update in updates) or 1.0
    return {
        name: sum(update.metrics.get(name, 0.0) * update.weight for update in updates) / total
        for name in names
    }


def expected(
    layout: ParameterLayout, parts: tuple[str, ...] | None, copies: int
) -> dict[str, tuple[str, int]]:
    """What a reply must hold that is asked for some parts, or for all if None."""
    size = copies * sum(place.stop - place.start for place in _places(layout, parts))
    return {"vector": ("float32", size)} if parts != () else {}


def _read_vector(
    reply: Reply,
    vector: Vector,
    layout: ParameterLayout,
    parts: tuple[str, ...] | None,
    copies: int,
) -> Vector:
    """The whole vector after a reply that holds some parts of it.

    Raises:
        FederationError: It has another shape than was asked for, or is not finite.
    """
    check_arrays(reply.arrays, expected(layout, parts, copies))
    if parts == ():
        return vector
    sent = reply.arrays["vector"]
    if not np.isfinite(sent).all():
        raise FederationError("its update holds values that are not finite")
    if parts is None:
        return sent
    whole = vector.copy()
    start = 0
    for place in _places(layout, parts):
        size = place.stop - place.start
        whole[place] = sent[start : start + size]
        start += size
    return whole


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics that a mean can be taken of.

    Raises:
        ValueError: One is not finite.
    """
    values = {str(name): float(value) for name, value in metrics.items()}
    if not all(map(math.isfinite, values.values())):
        raise ValueError("a metric that is not finite")
    return values


def _places(layout: ParameterLayout, parts: tuple[str, ...] | None) -> list[slice]:
    """Where the parts are in the vector."""
    return [place for name, place in layout.parts.items() if parts is None or name in parts]
