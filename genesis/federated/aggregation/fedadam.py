"""FedAdam: averaging, with Adam at the server."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genesis.federated.aggregation import State
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.options import check_interval

__all__ = ["FedAdam"]


@dataclass(frozen=True)
class FedAdam(FedAvg):
    """The server takes one step of Adam a round, with the mean change as its gradient.

    Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2. With Δ = combined - w::

        m ← beta1 · m + (1 - beta1) · Δ                      m starts at 0
        v ← beta2 · v + (1 - beta2) · Δ²                     v starts at tau²
        w ← w + server_learning_rate · m / (√v + tau)

    There is no correction for the start, as in the paper: the first rounds are cautious.

    Where changes agree over rounds, a parameter comes to move by about server_learning_rate a
    round, however small its Δ is, until |Δ| falls below tau. So server_learning_rate is a length:
    how far a parameter may go in a round. Clients that train with Adam at 2e-4 move a parameter by
    about 2e-4 a step at most; the default is fifty such steps all one way.

    Args:
        server_learning_rate: Above 0.
        beta1: In [0, 1).
        beta2: In [0, 1).
        tau: Above 0; the larger, the less adaptive.

    Raises:
        PlanError: An option is out of range.
    """

    server_learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        check_interval("server_learning_rate", self.server_learning_rate, "(0, inf)")
        check_interval("beta1", self.beta1, "[0, 1)")
        check_interval("beta2", self.beta2, "[0, 1)")
        check_interval("tau", self.tau, "(0, inf)")

    def initial(self, vector: Tensor) -> State:
        """Slots "momentum", zeros (P,), and "second_moment", tau² (P,)."""
        slots = {
            "momentum": torch.zeros_like(vector),
            "second_moment": torch.full_like(vector, self.tau**2),
        }
        return State(vector, slots)

    def step(self, state: State, combined: Tensor, participation: float) -> State:
        """The parameters after one step of the optimiser."""
        change = combined - state.vector
        momentum = self.beta1 * state.slots["momentum"] + (1 - self.beta1) * change
        second = self.next_second_moment(state.slots["second_moment"], change.square())
        vector = state.vector + self.server_learning_rate * momentum / (second.sqrt() + self.tau)
        return State(vector, {"momentum": momentum, "second_moment": second})

    def next_second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """The v after a round with Δ² = square: both (P,)."""
        return self.beta2 * second + (1 - self.beta2) * square
