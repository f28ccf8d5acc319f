"""CTGAN's generator: residual layers with batch normalisation, forward and backward by hand.

Layer i maps its input x to [relu(bn(x Wᵀ)), x] (Xu et al. 2019, section 4.4), so the input of the
last layer is [o_n, …, o_1, latent, condition]. All of them share one buffer, the hidden rows: layer
i reads the right end of it and writes just left of that. Nothing is ever concatenated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genesis.models.dense import Dense, dense_shapes, draw_dense

__all__ = ["Generator", "Saved", "generator_shapes"]

_EPS = 1e-5
"""Added to variances, torch.nn.BatchNorm1d's default."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What the backward pass of one batch normalisation needs.

    Args:
        inputs: (B, out) x Wᵀ.
        mean: (out,) over the batch.
        inverse_std: (out,).
    """

    inputs: Tensor
    mean: Tensor
    inverse_std: Tensor


@dataclass(frozen=True, slots=True)
class _Residual:
    """One residual layer, and where it reads and writes in the hidden rows.

    The bias of the linear layer cancels in the batch normalisation: it is never read, its gradient
    is 0, and it is kept because the layer of the reference implementation has it.
    """

    dense: Dense
    scale: Tensor
    shift: Tensor
    scale_gradient: Tensor
    shift_gradient: Tensor
    written: slice
    read: slice


class Generator:
    """Maps latent numbers and conditions to logits.

    Args:
        weights: Named views of the parameters, "generator.…".
        gradients: Named views of their gradients.
        latent: E, the number of latent numbers.
        conditions: C, the width of the condition.
        dims: Widths of the residual layers.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        latent: int,
        conditions: int,
        dims: tuple[int, ...],
    ) -> None:
        self.latent, self.conditions = latent, conditions
        self.hidden_width = sum(dims) + latent + conditions
        self._written = sum(dims)
        self._residuals = []
        start = sum(dims)
        for i, width in enumerate(dims):
            bn = f"generator.seq.{i}.bn"
            self._residuals.append(
                _Residual(
                    dense=Dense.of(f"generator.seq.{i}.fc", weights, gradients),
                    scale=weights[f"{bn}.weight"],
                    shift=weights[f"{bn}.bias"],
                    scale_gradient=gradients[f"{bn}.weight"],
                    shift_gradient=gradients[f"{bn}.bias"],
                    written=slice(start - width, start),
                    read=slice(start, self.hidden_width),
                )
            )
            start -= width
        self._output = Dense.of(f"generator.seq.{len(dims)}", weights, gradients)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the initial parameters."""
        for residual in self._residuals:
            draw_dense(residual.dense, generator)
            residual.scale.fill_(1)
            residual.shift.zero_()
        draw_dense(self._output, generator)

    def start(self, hidden: Tensor, latent: Tensor, conditions: Tensor | None) -> None:
        """Write latent numbers (B, E) and one-hot conditions (B,) to the hidden rows (B, H)."""
        inputs = hidden[:, self._written :]
        inputs[:, : self.latent] = latent
        one_hot = inputs[:, self.latent :].zero_()
        if conditions is not None:
            one_hot.scatter_(1, conditions.unsqueeze(1), 1.0)

    def forward(self, hidden: Tensor) -> tuple[Tensor, list[Saved]]:
        """Complete started hidden rows (B, H); returns logits (F, B) and what backward needs."""
        saved = []
        for layer in self._residuals:
            x = hidden[:, layer.read] @ layer.dense.weight.t()
            y, mean, inverse_std = torch.native_batch_norm(
                x, layer.scale, layer.shift, None, None, True, 0.0, _EPS
            )
            torch.clamp_min(y, 0, out=hidden[:, layer.written])
            saved.append(Saved(x, mean, inverse_std))
        return self._output.columns(hidden), saved

    def backward(self, d_logits: Tensor, hidden: Tensor, saved: list[Saved]) -> None:
        """Write the gradients, given d_logits (F, B) for the logits."""
        self._output.set_gradient(d_logits.t(), hidden)
        # d is the gradient for [o_n, …, o_1]: nothing learns from that of the inputs.
        d = d_logits.t() @ self._output.weight[:, : self._written]
        for layer, kept in zip(reversed(self._residuals), reversed(saved), strict=True):
            d_relu = torch.ops.aten.threshold_backward(
                d[:, layer.written], hidden[:, layer.written], 0
            )
            d_x, d_scale, d_shift = torch.ops.aten.native_batch_norm_backward(
                d_relu,
                kept.inputs,
                layer.scale,
                None,
                None,
                kept.mean,
                kept.inverse_std,
                True,
                _EPS,
                [True, True, True],
            )
            layer.scale_gradient.copy_(d_scale)
            layer.shift_gradient.copy_(d_shift)
            torch.mm(d_x.t(), hidden[:, layer.read], out=layer.dense.weight_gradient)
            layer.dense.bias_gradient.zero_()
            earlier = slice(layer.written.stop, self._written)
            n_earlier = earlier.stop - earlier.start
            d[:, earlier].addmm_(d_x, layer.dense.weight[:, :n_earlier])

    def fold(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Make every batch normalisation a fixed affine map, and part of its linear layer.

        Args:
            hidden: (B, H) started hidden rows that stand for the population; completed here.

        Returns:
            Weight (out, in) and bias (out,) of every layer. With the population's mean m and
            variance v: scale (x Wᵀ - m) / sqrt(v + eps) + shift = x W'ᵀ + b', where
            W' = s W, b' = shift - s m and s = scale / sqrt(v + eps).
        """
        folded = []
        for layer in self._residuals:
            x = hidden[:, layer.read] @ layer.dense.weight.t()
            variance, mean = torch.var_mean(x, dim=0, correction=0)
            s = layer.scale * torch.rsqrt(variance + _EPS)
            folded.append((layer.dense.weight * s.unsqueeze(1), layer.shift - s * mean))
            self._complete(hidden, layer, *folded[-1])
        return folded

    def folded_logits(self, hidden: Tensor, folded: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Logits (F, B) of started hidden rows (B, H), every row by itself."""
        for layer, (weight, bias) in zip(self._residuals, folded, strict=True):
            self._complete(hidden, layer, weight, bias)
        return self._output.columns(hidden)

    @staticmethod
    def _complete(hidden: Tensor, layer: _Residual, weight: Tensor, bias: Tensor) -> None:
        """Write one layer's output with its folded parameters."""
        y = torch.addmm(bias, hidden[:, layer.read], weight.t())
        torch.clamp_min(y, 0, out=hidden[:, layer.written])


def generator_shapes(
    latent: int, conditions: int, dims: tuple[int, ...], width: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters, in the order of the reference implementation."""
    inputs = latent + conditions
    for i, outputs in enumerate(dims):
        yield from dense_shapes(f"generator.seq.{i}.fc", inputs, outputs).items()
        yield f"generator.seq.{i}.bn.weight", (outputs,)
        yield f"generator.seq.{i}.bn.bias", (outputs,)
        inputs += outputs
    yield from dense_shapes(f"generator.seq.{len(dims)}", inputs, width).items()
