"""SCAFFOLD: averaging, with the clients' drift corrected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genesis.federated.aggregation import State
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.options import check_interval

__all__ = ["Scaffold"]


@dataclass(frozen=True)
class Scaffold(FedAvg):
    """Clients add c - c_k to their gradients, so that on the whole they all descend the same way.

    Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    algorithm 1. Client k keeps a control variate c_k, its mean gradient when it last took part; the
    server keeps their mean c in the slot "control". Client k is sent (w, c), trains to w_k with the
    correction c - c_k, and returns [ w_k (P) | c_k_new - c_k (P) ]: one vector (2P,), so that its
    two halves are averaged, masked and summed as one. With means over the cohort, the server does::

        w ← w + server_learning_rate · (mean w_k - w)
        c ← c + |cohort| / |all clients| · mean (c_k_new - c_k)

    c stays the mean of all c_k only if a client whose update did not arrive keeps its old c_k.

    Args:
        server_learning_rate: Above 0; 1 takes the mean parameters as they are.

    Raises:
        PlanError: server_learning_rate is out of range.
    """

    control_variates: ClassVar[bool] = True

    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        check_interval("server_learning_rate", self.server_learning_rate, "(0, inf)")

    def initial(self, vector: Tensor) -> State:
        """Slot "control": zeros (P,)."""
        return State(vector, {"control": torch.zeros_like(vector)})

    def step(self, state: State, combined: Tensor, participation: float) -> State:
        """The next parameters and control variate, of combined (2P,)."""
        vector, change = combined.chunk(2)
        if self.server_learning_rate != 1:  # if it is 1, w + (w_k - w) would round
            vector = state.vector + self.server_learning_rate * (vector - state.vector)
        return State(vector, {"control": state.slots["control"] + participation * change})
