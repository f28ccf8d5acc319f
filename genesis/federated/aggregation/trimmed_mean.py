"""The trimmed mean of every coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genesis.federated.aggregation.fedavg import FedAvg, uniform, weighted_mean
from genesis.federated.aggregation.options import check_interval

__all__ = ["TrimmedMean", "mean_without_extremes"]

_NUMBERS_AT_A_TIME = 1 << 22
"""Numbers that are sorted together: 16 MiB, whatever the number of clients and parameters."""


@dataclass(frozen=True)
class TrimmedMean(FedAvg):
    """Each coordinate's mean without its largest and smallest values.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    definition 2. Clients count alike. The number dropped on each side, trim_fraction · K, is
    rounded up, so that a cohort of three is protected against one client too; at least one value
    is always kept.

    Args:
        trim_fraction: In [0, 0.5): the share of clients that may send anything.

    Raises:
        PlanError: trim_fraction is out of range.
    """

    needs_individual_updates: ClassVar[bool] = True

    trim_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_interval("trim_fraction", self.trim_fraction, "[0, 0.5)")

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """The trimmed mean (P,) of vectors (K, P); weights are not used."""
        k = len(vectors)
        # 1e-9: 0.07 * 100 is 7.000000000000001
        return mean_without_extremes(
            vectors, min(math.ceil(self.trim_fraction * k - 1e-9), (k - 1) // 2)
        )


def mean_without_extremes(vectors: Tensor, n_trimmed: int) -> Tensor:
    """Each coordinate's mean without its n_trimmed largest and smallest values.

    NaN counts as larger than everything, so it is dropped first.

    Args:
        vectors: (K, P).
        n_trimmed: In [0, (K - 1) // 2].
    """
    k = len(vectors)
    kept = slice(n_trimmed, k - n_trimmed)
    weights = uniform(k - 2 * n_trimmed)
    blocks = torch.split(vectors, max(1, _NUMBERS_AT_A_TIME // k), dim=1)
    return torch.cat([weighted_mean(_sort_clients(block)[kept], weights) for block in blocks])


def _sort_clients(block: Tensor) -> Tensor:
    """Every column of block (K, B) in ascending order."""
    if block.device.type != "cpu":
        return block.sort(dim=0).values
    # numpy sorts contiguous rows with vector instructions, 10 to 30 times as fast as torch.
    rows = block.T.clone(memory_format=torch.contiguous_format)
    rows.numpy().sort(axis=1)
    return rows.T
