"""The final model, as a client puts it together from what the server has sent."""

from __future__ import annotations

import torch

from genesis.encoding.encoder import Encoder
from genesis.errors import FederationError
from genesis.federated.messages import Request
from genesis.synthesizer import Synthesizer

__all__ = ["final_model"]


def final_model(
    prepared: Request | None, finish: Request, device: str | torch.device
) -> Synthesizer:
    """The global model.

    Args:
        prepared: The request that named the model and its encoder.
        finish: The request with its final parameters.
        device: Where it generates.

    Raises:
        FederationError: There was no such request.
    """
    if prepared is None:
        raise FederationError(
            "the server sent a model without its encoder",
            do="give server and clients the same version",
        )
    meta = prepared.meta
    return Synthesizer.of_parameters(
        meta["method"],
        finish.meta.get("config", meta["config"]),
        Encoder.from_dict(meta["encoder"]),
        torch.from_numpy(finish.arrays["vector"].copy()),
        seed=meta["seed"],
        device=device,
        privacy=finish.meta.get("privacy"),
    )
