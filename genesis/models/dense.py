"""A linear layer whose parameters and gradients are views of flat vectors.

DP-SGD bounds what each record adds to a gradient, and no record's gradient need ever be formed. The
gradient of a record i is a sum of few products of two vectors, Σ_s y_s x_sᵀ, and so its norm is one
of inner products, and the sum of clipped gradients is one matrix product, as without privacy
(Goodfellow 2015, "Efficient per-example gradient computations")::

    ‖Σ_s y_s x_sᵀ‖² = Σ_s,t (y_s·y_t) (x_s·x_t),    Σ_i f_i Σ_s y_is x_isᵀ.

For a bias x is 1, which adds 1 to the second factor. Terms may cancel, and what is left of a sum of
large ones is then rounding; hence the norm is enlarged by what rounding may hide, and a gradient
never counts for more than about C, whatever the parameters are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from genesis.privacy.dp_sgd import PrivateSteps

__all__ = ["Dense", "RecordGradients", "dense_shapes", "draw_dense", "set_clipped"]

_ROUNDING = 16
"""How wrong a sum of products may be, in units of the last place of the squares in it."""


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


@dataclass(frozen=True, slots=True)
class RecordGradients:
    """The gradients of one layer by each of n records, as k products of two vectors.

    Args:
        layer: The layer.
        dy: (k, n, out), spoilt by `set_scaled_sum`.
        x: (k, n, in).
        biased: So many terms, the first ones, are those of the bias too.
    """

    layer: Dense
    dy: Tensor
    x: Tensor
    biased: int = 1

    def set_scaled_sum(self, factors: Tensor) -> None:
        """Write the sum of the records' gradients, each times its own of the factors (n,)."""
        scaled = self.dy.mul_(factors.unsqueeze(1))
        dy, x = scaled.flatten(0, 1), self.x.flatten(0, 1)
        torch.mm(dy.t(), x, out=self.layer.weight_gradient)
        torch.sum(scaled[: self.biased], (0, 1), out=self.layer.bias_gradient)

    def erase(self, records: Tensor) -> None:
        """Make the gradients of some records (n,) zero, where scaling does not: 0 inf is NaN."""
        self.dy[:, records] = 0
        self.x[:, records] = 0


def set_clipped(gradients: Sequence[RecordGradients], private: PrivateSteps, n: int) -> None:
    """Write the sum of clipped gradients of all layers, which count as one gradient together.

    Args:
        gradients: Those of all layers.
        private: Says what is clipped.
        n: Number of records; whatever comes after the first n counts nothing.
    """
    squared = _squared_norms(gradients)
    broken = ~squared.isfinite()
    if broken.any():
        for gradient in gradients:
            gradient.erase(broken)
    factors = torch.zeros_like(squared)
    factors[:n] = private.factors(squared[:n])
    for gradient in gradients:
        gradient.set_scaled_sum(factors)


def _squared_norms(gradients: Sequence[RecordGradients]) -> Tensor:
    """(n,) squared norms over all layers, or a little more: see the module."""
    limits = torch.finfo(gradients[0].dy.dtype)
    # (terms of all layers, n). A square too small for its type must not hide a large factor.
    own_dy, own_x = (
        torch.cat([torch.linalg.vector_norm(t, dim=2) for t in of_layers]).square_()
        for of_layers in ([g.dy for g in gradients], [g.x for g in gradients])
    )
    biased = [float(term < g.biased) for g in gradients for term in range(len(g.dy))]
    own_x += own_x.new_tensor(biased).unsqueeze(1)
    squared = (own_dy.clamp_min_(limits.tiny) * own_x.clamp_min_(limits.tiny)).sum(0)
    squared *= 1 + _ROUNDING * limits.eps
    for gradient in gradients:
        dy, x = gradient.dy, gradient.x
        for s, t in combinations(range(len(dy)), 2):
            inner = (x[s] * x[t]).sum(1)
            if t < gradient.biased:
                inner += 1
            squared += 2 * (dy[s] * dy[t]).sum(1) * inner
    return squared


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
