"""CTGAN's critic with its gradient penalty in closed form.

The critic is linear in pieces: a_i = s_i ∘ z_i with z_i = W_i a_{i-1} + b_i, where the slope s_i is
the derivative of the leaky ReLU times the dropout mask, and the score is w·a_n + b. Its gradient
for the input is therefore a chain of products too::

    u_n = s_n ∘ w,    u_i = s_i ∘ (W_{i+1}ᵀ u_{i+1}),    g = W_1ᵀ u_1.

The penalty lambda mean((‖g‖ - 1)²) (Gulrajani et al. 2017, eq. 3) depends on the parameters through
these products only, since slopes are constant almost everywhere. Its gradient is again a chain,
which runs upwards and looks like a forward pass without biases::

    e_0 = 2 lambda / G (‖g‖ - 1) g / ‖g‖,    e_i = s_i ∘ (W_i e_{i-1}),
    dW_i = u_i e_{i-1}ᵀ,    dw = e_n.

So for every layer the gradient of loss and penalty together is *one* product: the u of all rows
with their inputs, a for the loss and e for the penalty.

Without packs a record i has a loss of its own, D(fake_i) - D(real_i) + lambda (‖∇D(mixed_i)‖ - 1)²,
and its gradient is, for every layer, the sum of three such products::

    dW_i = u_fake a_fakeᵀ - u_real a_realᵀ + u_mixed eᵀ.

That is what `set_clipped` needs: the penalty is inside of what is clipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genesis.models.dense import Dense, RecordGradients, dense_shapes, draw_dense, set_clipped
from genesis.privacy.dp_sgd import PrivateSteps

__all__ = ["Critic", "critic_shapes", "draw_dropout"]

_LAMBDA = 10.0
"""Weight of the gradient penalty."""

_LEAK = 0.2
"""Slope of the leaky ReLU below 0."""


@dataclass(frozen=True, slots=True)
class _Chains:
    """All that a gradient of the critic is made of, for G packs each of fake, real and mixed rows.

    Args:
        losses: mean(score of fake) - mean(score of real), and the gradient penalty.
        signs: (3G, 1) the derivatives of the loss for the scores, and 1 for mixed packs.
        u: (3G, width) of every hidden layer.
        x: (3G, in) its inputs: a of fake and real packs, e of mixed ones.
        last: (2G, width) inputs of the last layer, a of fake and real packs.
        e: (G, width) its e.
    """

    losses: tuple[Tensor, Tensor]
    signs: Tensor
    u: list[Tensor]
    x: list[Tensor]
    last: Tensor
    e: Tensor


class Critic:
    """Scores packs of `pac` rows (Lin et al. 2018).

    Args:
        weights: Named views of the parameters, "discriminator.…".
        gradients: Named views of their gradients.
        dims: Widths of the hidden layers, at least one.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], dims: tuple[int, ...]
    ) -> None:
        # The reference implementation has an activation and a dropout between linear layers.
        layers = [
            Dense.of(f"discriminator.seq.{3 * i}", weights, gradients) for i in range(len(dims) + 1)
        ]
        self._hidden, self._output = layers[:-1], layers[-1]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the initial parameters."""
        for layer in (*self._hidden, self._output):
            draw_dense(layer, generator)

    def loss_gradient(
        self, packs: Tensor, mixing: Tensor, dropout: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient of the critic's loss, and return its two terms.

        Args:
            packs: (2G, pac (F + C)): G packs of fake rows, then G of real rows.
            mixing: (G, 1) in [0, 1): the penalty is taken at mixing real + (1 - mixing) fake.
            dropout: Masks (3G, width) of every hidden layer: fake, real and mixed packs.

        Returns:
            mean(score of fake) - mean(score of real), and the gradient penalty.
        """
        n = len(mixing)
        chains = self._chains(packs, mixing, dropout, n)
        for layer, u, x in zip(self._hidden, chains.u, chains.x, strict=True):
            torch.mm(u.t(), x, out=layer.weight_gradient)
            torch.sum(u[: 2 * n], 0, out=layer.bias_gradient)
        torch.mm(chains.signs[: 2 * n].t(), chains.last, out=self._output.weight_gradient)
        self._output.weight_gradient.add_(chains.e.sum(0))
        # Fake and real scores have opposite signs: the last bias cancels.
        self._output.bias_gradient.zero_()
        return chains.losses

    def clipped_gradient(
        self,
        packs: Tensor,
        mixing: Tensor,
        dropout: list[Tensor],
        private: PrivateSteps,
        records: int,
    ) -> tuple[Tensor, Tensor]:
        """Write the sum of the clipped gradients of records; returns what `loss_gradient` does.

        Args:
            packs: (2n, F + C) fake rows, then real rows.
            mixing: (n, 1).
            dropout: Masks (3n, width).
            private: Says how gradients are clipped.
            records: So many of the n, the first ones, count.
        """
        n = len(mixing)
        chains = self._chains(packs, mixing, dropout, 1)
        gradients = [
            RecordGradients(layer, u.view(3, n, u.shape[1]), x.view(3, n, x.shape[1]), biased=2)
            for layer, u, x in zip(self._hidden, chains.u, chains.x, strict=True)
        ]
        # The last layer's three terms share their y, 1, and so are one; its bias cancels.
        last = chains.last[:n] - chains.last[n:] + chains.e
        one = last.new_ones(1, n, 1)
        gradients.append(RecordGradients(self._output, one, last.unsqueeze(0), biased=0))
        set_clipped(gradients, private, records)
        return chains.losses

    def _chains(
        self, packs: Tensor, mixing: Tensor, dropout: list[Tensor], divisor: int
    ) -> _Chains:
        """One pass downwards and two upwards; see the module. The loss is divided by divisor."""
        n = len(mixing)
        z = self._hidden[0](packs)
        # The mixed packs need no product: the first layer is affine, and mixing adds up to 1.
        z = torch.cat([z, torch.lerp(z[:n], z[n:], mixing)])
        inputs, slopes = [packs], []
        for i, mask in enumerate(dropout):
            if i:
                z = self._hidden[i](inputs[i])
            slopes.append(_slope(z, mask))
            inputs.append(z * slopes[i])
        last = inputs.pop()[: 2 * n]
        scores = self._output(last)
        signs = scores.new_ones(3 * n, 1)
        signs[:n], signs[n : 2 * n] = 1 / divisor, -1 / divisor
        u = _backward_chain(signs * self._output.weight, slopes, self._hidden)
        g = u[0][2 * n :] @ self._hidden[0].weight
        norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        e = g * ((2 * _LAMBDA / divisor) * (norm - 1) / norm.clamp(min=1e-30))
        x = []
        for layer, a, slope in zip(self._hidden, inputs, slopes, strict=True):
            x.append(torch.cat([a[: 2 * n], e]))
            e = (e @ layer.weight.t()).mul_(slope[2 * n :])
        loss = scores[:n].mean() - scores[n:].mean()
        return _Chains((loss, _LAMBDA * (norm - 1).square().mean()), signs, u, x, last, e)

    def score_gradient(self, packs: Tensor, dropout: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The generator's loss, -mean(score), and its gradient for packs (G, pac (F + C))."""
        slopes, x = [], packs
        for layer, mask in zip(self._hidden, dropout, strict=True):
            z = layer(x)
            slopes.append(_slope(z, mask))
            x = z * slopes[-1]
        loss = -self._output(x).mean()
        u = _backward_chain(self._output.weight * (-1 / len(packs)), slopes, self._hidden)
        return loss, u[0] @ self._hidden[0].weight

    def score(self, packs: Tensor) -> Tensor:
        """Scores (G,) of packs (G, pac (F + C)), without dropout."""
        x = packs
        for layer in self._hidden:
            x = torch.nn.functional.leaky_relu(layer(x), _LEAK)
        return self._output(x).squeeze(1)


def critic_shapes(inputs: int, dims: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters, in the order of the reference implementation."""
    for i, outputs in enumerate((*dims, 1)):
        yield from dense_shapes(f"discriminator.seq.{3 * i}", inputs, outputs).items()
        inputs = outputs


def draw_dropout(
    rate: float, n: int, dims: tuple[int, ...], like: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """Dropout masks (n, width) of the hidden layers: 0 with chance rate, else 1 / (1 - rate)."""
    sizes = [n * width for width in dims]
    if rate == 0.5:
        masks = _coins(sum(sizes), like, generator).mul_(2)
    else:
        masks = like.new_ones(sum(sizes))
        if rate:  # nothing is drawn for what is certain
            masks.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
    layers = zip(masks.split_with_sizes(sizes), dims, strict=True)
    return [mask.view(n, width) for mask, width in layers]


def _coins(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) numbers that are 0 or 1 with equal chances.

    One random bit decides a number, not one random float: 64 of them come from one draw.
    """
    words = torch.empty(-(-n // 64), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    shifts = torch.arange(8, dtype=torch.uint8, device=like.device)
    bits = (words.view(torch.uint8).unsqueeze(1) >> shifts).bitwise_and_(1)
    return bits.view(-1)[:n].to(like.dtype)


def _slope(z: Tensor, mask: Tensor) -> Tensor:
    """Derivative of the leaky ReLU at z, times the mask, in one pass."""
    slope: Tensor = torch.ops.aten.leaky_relu_backward(mask, z, _LEAK, False)
    return slope


def _backward_chain(top: Tensor, slopes: list[Tensor], layers: list[Dense]) -> list[Tensor]:
    """The u of every hidden layer, first layer first; top (n, width) or (1, width) is u_{n+1} W."""
    chain = [top * slopes[-1]]
    for layer, slope in zip(reversed(layers[1:]), reversed(slopes[:-1]), strict=True):
        chain.append((chain[-1] @ layer.weight).mul_(slope))
    return chain[::-1]
