"""Where tensors live."""

from __future__ import annotations

import torch

from genesis.errors import PlanError

__all__ = ["resolve_device"]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant: "auto" is the GPU where there is one, else the CPU.

    Raises:
        PlanError: The device is unknown, or this machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise PlanError(f"unknown device '{device}'", do="choose auto, cpu or cuda") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise PlanError("device 'cuda' is asked for", got="no GPU here", do="choose auto or cpu")
    return resolved
