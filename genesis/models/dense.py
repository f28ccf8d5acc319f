"""A linear layer whose parameters and gradients are views of flat vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dense", "dense_shapes", "draw_dense"]


@dataclass(frozen=True, slots=True)
class Dense:
    """y = x Wᵀ + b.

    Args:
        weight: (out, in).
        bias: (out,).
        weight_gradient: (out, in), overwritten by `set_gradient`.
        bias_gradient: (out,), likewise.
    """

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    @classmethod
    def of(cls, name: str, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Dense:
        """The layer called name among named views of a vector and of its gradient."""
        w, b = f"{name}.weight", f"{name}.bias"
        return cls(weights[w], weights[b], gradients[w], gradients[b])

    def __call__(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        return torch.addmm(self.bias, x, self.weight.t())

    def columns(self, x: Tensor) -> Tensor:
        """(n, in) -> (out, n): the transposed result, whose features are contiguous rows."""
        return torch.addmm(self.bias.unsqueeze(1), self.weight, x.t())

    def set_gradient(self, dy: Tensor, x: Tensor) -> None:
        """Write the gradient, given that of the result (n, out) and the input (n, in)."""
        torch.mm(dy.t(), x, out=self.weight_gradient)
        torch.sum(dy, 0, out=self.bias_gradient)


def dense_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def draw_dense(layer: Dense, generator: torch.Generator) -> None:
    """Draw initial parameters, all uniform in ±1/sqrt(in), which is what torch.nn.Linear does.

    Numbers come from the CPU in float32, so that every device starts from the same ones.
    """
    bound = 1 / math.sqrt(layer.weight.shape[1])
    for parameter in (layer.weight, layer.bias):
        drawn = torch.empty(parameter.shape, dtype=torch.float32)
        parameter.copy_(drawn.uniform_(-bound, bound, generator=generator))
