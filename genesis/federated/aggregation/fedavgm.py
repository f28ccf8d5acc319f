"""FedAvgM: averaging, with momentum at the server."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genesis.federated.aggregation import State
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.options import check_interval

__all__ = ["FedAvgM"]


@dataclass(frozen=True)
class FedAvgM(FedAvg):
    """The server goes on in the direction of earlier rounds.

    Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification", section 4.3. With Δ = combined - w::

        v ← momentum · v + Δ
        w ← w + server_learning_rate · v

    Changes that agree over rounds add up to 1 / (1 - momentum) times one of them, so with much
    momentum a smaller server_learning_rate is in place.

    Args:
        momentum: In [0, 1).
        server_learning_rate: Above 0. With momentum 0, 1 is federated averaging.

    Raises:
        PlanError: An option is out of range.
    """

    momentum: float = 0.9
    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        check_interval("momentum", self.momentum, "[0, 1)")
        check_interval("server_learning_rate", self.server_learning_rate, "(0, inf)")

    def initial(self, vector: Tensor) -> State:
        """Slot "momentum": zeros (P,)."""
        return State(vector, {"momentum": torch.zeros_like(vector)})

    def step(self, state: State, combined: Tensor, participation: float) -> State:
        """The parameters moved along the momentum."""
        momentum = self.momentum * state.slots["momentum"] + (combined - state.vector)
        vector = state.vector + self.server_learning_rate * momentum
        return State(vector, {"momentum": momentum})
