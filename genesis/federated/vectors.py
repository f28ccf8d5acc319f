"""Parts of a vector of parameters: where they lie, and how their change is clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.errors import FederationError
from genesis.models import GenerativeModel
from genesis.models.parameters import ParameterLayout

__all__ = ["clipped", "moved", "places_of", "tensor_sizes", "write_parts"]


def places_of(layout: ParameterLayout, parts: Sequence[str] | None) -> list[slice]:
    """Where the given parts lie in the vector, in its order; None means all of it."""
    return [place for name, place in layout.parts.items() if parts is None or name in parts]


def tensor_sizes(layout: ParameterLayout, places: Sequence[slice]) -> list[int]:
    """Numbers in each tensor that lies in one of some places, in the order of the vector."""
    return [
        place.stop - place.start
        for place in layout.slices.values()
        if any(part.start <= place.start < part.stop for part in places)
    ]


def write_parts(
    model: GenerativeModel, vector: Tensor, received: Tensor, parts: list[str] | None
) -> None:
    """Put received parts in their places in vector.

    Raises:
        FederationError: They are not as long as these parts.
    """
    places = places_of(model.parameters, parts)
    if sum(place.stop - place.start for place in places) != len(received):
        raise FederationError(
            "the server sent parameters of another model",
            got=f"{len(received)} numbers",
            do="give server and clients the same version and plan",
        )
    start = 0
    for place in places:
        size = place.stop - place.start
        vector[place] = received[start : start + size]
        start += size


def moved(
    vector: Tensor,
    change: npt.NDArray[np.float64],
    layout: ParameterLayout,
    parts: Sequence[str] | None,
) -> Tensor:
    """Parameters after a mean change, as the rules of aggregation combine them.

    Args:
        vector: (P,) parameters before.
        change: (p,) of some parts; or (2P,) of all and of the control variates, which are changes.
        layout: Where the parts are.
        parts: Which; None for all.
    """
    changes = vector.new_tensor(change)
    combined, start = vector.clone(), 0
    for place in places_of(layout, parts):
        size = place.stop - place.start
        combined[place] += changes[start : start + size]
        start += size
    return torch.cat([combined, changes[start:]])


def clipped(
    model: GenerativeModel,
    received: Tensor,
    sent: Tensor,
    places: list[slice],
    max_norm: float,
    per_layer: bool,
) -> Tensor:
    """Parameters whose change has an L2 norm of at most max_norm.

    Per layer, each of the L tensors is clipped to max_norm / sqrt(L), which bounds the whole too.
    """
    change = sent - received
    if not per_layer:
        norm = torch.linalg.vector_norm(change)
        return sent if norm <= max_norm else received + change * (max_norm / norm)
    layers = tensor_sizes(model.parameters, places)
    limit = max_norm / math.sqrt(len(layers))
    for layer in torch.split(change, layers):
        norm = torch.linalg.vector_norm(layer)
        if norm > limit:
            layer.mul_(limit / norm)
    return received + change
