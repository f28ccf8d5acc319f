"""Where tensors live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from genesis.errors import PlanError

__all__ = ["resolve_device"]


def resolve_device(
    device: str | torch.device, config: Mapping[str, Any] | None = None
) -> torch.device:
    """The device meant: "auto" is the GPU where there is one, else the CPU.

    Args:
        device: "auto", "cpu", "cuda" or a device of torch.
        config: A model's config. Its `enable_gpu` or `cuda`, arguments of the reference library,
            decide where device is "auto".

    Raises:
        PlanError: The device is unknown, or this machine has none.
    """
    if device == "auto":
        wish = (config or {}).get("cuda")
        if wish is None:
            wish = (config or {}).get("enable_gpu", True)
        if isinstance(wish, str):
            return resolve_device(wish)
        if not wish:
            return torch.device("cpu")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise PlanError(f"unknown device '{device}'", do="choose auto, cpu or cuda") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise PlanError("device 'cuda' is asked for", got="no GPU here", do="choose auto or cpu")
    return resolved
