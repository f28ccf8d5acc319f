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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from genesis.models.dense import Dense, dense_shapes, draw_dense

__all__ = ["Critic", "critic_shapes", "draw_dropout"]

_LAMBDA = 10.0
"""Weight of the gradient penalty."""

_LEAK = 0.2
"""Slope of the leaky ReLU below 0."""


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
        loss = scores[:n].mean() - scores[n:].mean()

        # d loss / d score of fake and real packs, and the seed of the chain u of the mixed ones.
        seed = scores.new_ones(3 * n, 1)
        seed[:n], seed[n : 2 * n] = 1 / n, -1 / n
        u = _backward_chain(seed * self._output.weight, slopes, self._hidden)
        g = u[0][2 * n :] @ self._hidden[0].weight
        norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        penalty = _LAMBDA * (norm - 1).square().mean()
        e = g * ((2 * _LAMBDA / n) * (norm - 1) / norm.clamp(min=1e-30))
        for layer, x, u_i, slope in zip(self._hidden, inputs, u, slopes, strict=True):
            torch.mm(u_i.t(), torch.cat([x[: 2 * n], e]), out=layer.weight_gradient)
            torch.sum(u_i[: 2 * n], 0, out=layer.bias_gradient)
            e = (e @ layer.weight.t()).mul_(slope[2 * n :])
        torch.mm(seed[: 2 * n].t(), last, out=self._output.weight_gradient)
        self._output.weight_gradient.add_(e.sum(0))
        # Fake and real scores have opposite signs: the last bias cancels.
        self._output.bias_gradient.zero_()
        return loss, penalty

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
