"""Krum: the one update that lies closest to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pdist

from genesis.errors import FederationError
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.options import check_count

__all__ = ["Krum", "assumed_byzantine", "closest_first"]

_COLUMNS_AT_A_TIME = 4096
"""Coordinates of all clients that are compared together: they stay in the processor's cache."""


@dataclass(frozen=True)
class Krum(FedAvg):
    """The parameters of the client that lies closest to its neighbours.

    Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent". A client's score is the sum of its squared distances to its K - f - 2 nearest others,
    and the smallest score wins. It withstands f clients that send anything if K >= 2f + 3.

    With fewer than three clients nothing can be withstood: f is 0, and the first of them wins.

    Args:
        n_byzantine: f, at least 0; by default the most that the cohort allows, ⌊(K - 3) / 2⌋.

    Raises:
        PlanError: n_byzantine is out of range.
    """

    needs_individual_updates: ClassVar[bool] = True

    n_byzantine: int | None = None

    def __post_init__(self) -> None:
        if self.n_byzantine is not None:
            check_count("n_byzantine", self.n_byzantine, at_least=0)

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """The chosen one (P,) of vectors (K, P); weights are not used."""
        order = closest_first(vectors, assumed_byzantine(self.n_byzantine, len(vectors)))
        return vectors[order[0]].clone()


def assumed_byzantine(n_byzantine: int | None, k: int) -> int:
    """The f of a cohort of k clients.

    Raises:
        FederationError: The cohort is too small for the given f.
    """
    if n_byzantine is None:
        return max(0, (k - 3) // 2)
    if n_byzantine and k < 2 * n_byzantine + 3:
        raise FederationError(
            f"n_byzantine={n_byzantine} needs {2 * n_byzantine + 3} updates",
            got=str(k),
            do="lower n_byzantine or raise min_clients",
        )
    return n_byzantine


def closest_first(vectors: Tensor, n_byzantine: int) -> Tensor:
    """Numbers of the clients, best score first: (K,) int64.

    Of clients with the same score (in a cohort of three, two are each other's nearest) the one that
    is closer to all of them comes first, then the earlier one.
    """
    k = len(vectors)
    squares = _squared_distances(vectors).sort(dim=1).values[:, 1:]  # without itself, at 0
    score = squares[:, : max(1, k - n_byzantine - 2)].sum(dim=1)
    by_total = squares.sum(dim=1).argsort(stable=True)
    return by_total[score[by_total].argsort(stable=True)]


def _squared_distances(vectors: Tensor) -> Tensor:
    """||x_i - x_j||² of every two clients: (K, K) float64; NaN, which sorts last, if a number is.

    Summed from differences. The usual ||x||² + ||y||² - 2xy loses all digits of the distances
    between honest clients as soon as one client is far away, which is when they matter.
    """
    k = len(vectors)
    upper = torch.zeros(k * (k - 1) // 2, dtype=torch.float64, device=vectors.device)
    for block in torch.split(vectors, _COLUMNS_AT_A_TIME, dim=1):
        upper += pdist(block.contiguous()).double().square()
    squares = torch.zeros(k, k, dtype=torch.float64, device=vectors.device)
    i, j = torch.triu_indices(k, k, offset=1, device=vectors.device)
    squares[i, j] = squares[j, i] = upper
    return squares
