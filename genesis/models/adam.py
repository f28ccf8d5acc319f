"""Adam over a part of a flat vector, with the corrections of federated learning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["FlatAdam"]


class FlatAdam:
    """Adam (Kingma and Ba 2015) that moves weights along gradient, both contiguous views.

    Args:
        weights: (p,) parameters, changed in place.
        gradient: (p,) their gradient, written by the caller before every step.
        learning_rate: Step size.
        betas: Decay of the two moments.
        weight_decay: L2 term, added to the gradient as torch.optim.Adam does.
    """

    def __init__(
        self,
        weights: Tensor,
        gradient: Tensor,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self._weights, self._gradient = weights, gradient
        self._learning_rate = learning_rate
        self._parameter = torch.nn.Parameter(weights, requires_grad=False)
        self._parameter.grad = gradient
        self._adam = torch.optim.Adam(
            [self._parameter],
            lr=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
        )
        self._sum = torch.zeros_like(weights)
        self._steps = 0
        self._mu = 0.0
        self._received = weights
        self._correction: Tensor | None = None

    def begin(self, scale: float, mu: float, correction: Tensor | None) -> None:
        """Prepare a stretch of local training.

        Args:
            scale: Factor on the learning rate.
            mu: FedProx's pull towards the weights as they are now.
            correction: (p,) added to every gradient, or None.
        """
        self._adam.param_groups[0]["lr"] = self._learning_rate * scale
        self._sum.zero_()
        self._steps = 0
        self._mu = mu
        if mu:
            self._received = self._weights.clone()
        self._correction = None if correction is None else correction.to(self._weights)

    def step(self) -> None:
        """Move the weights along the gradient g, which becomes g + mu (w - w_received) + c."""
        self._sum.add_(self._gradient)
        self._steps += 1
        if self._mu:
            self._gradient.add_(self._weights - self._received, alpha=self._mu)
        if self._correction is not None:
            self._gradient.add_(self._correction)
        self._adam.step()

    def mean_gradient(self) -> Tensor:
        """Mean of the raw gradients since `begin`: (p,)."""
        return self._sum / max(self._steps, 1)

    def state(self) -> dict[str, Tensor]:
        """Copies of the two moments (p,) and the count of steps; empty before the first step."""
        state: Mapping[str, Tensor] = self._adam.state.get(self._parameter, {})
        return {key: value.detach().clone().cpu() for key, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self._adam.state.clear()
        if state:
            like = self._weights
            self._adam.state[self._parameter] = {
                key: value.detach().to(like.device, copy=True) for key, value in state.items()
            }
