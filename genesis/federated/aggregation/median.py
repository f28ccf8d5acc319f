"""The median of every coordinate."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.trimmed_mean import mean_without_extremes

__all__ = ["Median"]


class Median(FedAvg):
    """Each coordinate's median; of an even number of clients, the mean of the middle two.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    definition 1. Clients count alike. Anything that fewer than half of them send is without effect
    beyond moving the median among the values of the others.
    """

    needs_individual_updates: ClassVar[bool] = True

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """The median (P,) of vectors (K, P); weights are not used."""
        return mean_without_extremes(vectors, (len(vectors) - 1) // 2)
