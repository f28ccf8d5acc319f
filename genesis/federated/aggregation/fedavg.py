"""Federated averaging, the rule that all the others vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from genesis.federated.aggregation import State
from genesis.federated.messages import Update

__all__ = ["FedAvg", "uniform", "weighted_mean"]


class FedAvg:
    """The plain mean of the clients' parameters becomes the global parameters.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", with every client counting alike: w ← (1/K) Σ_k w_k. For weights by rows, as in their
    algorithm 1, see `weighted`.
    """

    needs_individual_updates: ClassVar[bool] = False
    uniform_weights: ClassVar[bool] = True
    control_variates: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ()

    @property
    def local_options(self) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def initial(self, vector: Tensor) -> State:
        """Parameters vector (P,) and no slots."""
        return State(vector)

    def weigh(self, updates: Sequence[Update]) -> Tensor:
        """1/K each."""
        return uniform(len(updates))

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Σ_k weight_k · vector_k."""
        return weighted_mean(vectors, weights)

    def step(self, state: State, combined: Tensor, participation: float) -> State:
        """The combined parameters, exactly."""
        return State(combined, state.slots)


def uniform(k: int) -> Tensor:
    """K equal weights: (K,) float64."""
    return torch.full((k,), 1.0 / k, dtype=torch.float64)


def weighted_mean(vectors: Tensor, weights: Tensor) -> Tensor:
    """Σ_k weights[k] · vectors[k], for vectors (K, P) and weights (K,) of sum 1."""
    if len(vectors) == 1:
        return vectors[0].clone()  # a product would turn -0.0 into 0.0
    return weights.to(vectors) @ vectors
