"""Federated averaging by rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from genesis.errors import FederationError
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.messages import Update

__all__ = ["Weighted", "row_shares"]


class Weighted(FedAvg):
    """The mean in which every row counts alike: w ← Σ_k (n_k / n) w_k.

    McMahan et al. 2017, algorithm 1. The server learns how many rows each client has.
    """

    uniform_weights: ClassVar[bool] = False

    def weigh(self, updates: Sequence[Update]) -> Tensor:
        """n_k / n."""
        return row_shares(updates)


def row_shares(updates: Sequence[Update]) -> Tensor:
    """Each client's share of the rows of the cohort: (K,) float64 of sum 1.

    Raises:
        FederationError: A number of rows is negative or not finite, or all are 0.
    """
    for update in updates:
        if not (math.isfinite(update.weight) and update.weight >= 0):
            raise FederationError(
                f"client '{update.client_id}' reports an impossible number of rows",
                got=repr(update.weight),
            )
    rows = torch.tensor([update.weight for update in updates], dtype=torch.float64)
    if not rows.any():
        raise FederationError("no client of the round has rows")
    return rows / rows.sum()
