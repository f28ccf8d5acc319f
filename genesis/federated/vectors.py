"""Parts of a vector of parameters: where they lie, and how their change is clipped."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genesis.errors import FederationError
from genesis.models import GenerativeModel

__all__ = ["clipped", "places_of", "write_parts"]


def places_of(model: GenerativeModel, parts: list[str] | None) -> list[slice]:
    """Where the given parts lie in the vector, in its order; None means all of it."""
    known = model.parameters.parts
    return [place for name, place in known.items() if parts is None or name in parts]


def write_parts(
    model: GenerativeModel, vector: Tensor, received: Tensor, parts: list[str] | None
) -> None:
    """Put received parts in their places in vector.

    Raises:
        FederationError: They are not as long as these parts.
    """
    places = places_of(model, parts)
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
    layers = [
        place.stop - place.start
        for place in model.parameters.slices.values()
        if any(part.start <= place.start < part.stop for part in places)
    ]
    limit = max_norm / math.sqrt(len(layers))
    for layer in torch.split(change, layers):
        norm = torch.linalg.vector_norm(layer)
        if norm > limit:
            layer.mul_(limit / norm)
    return received + change
