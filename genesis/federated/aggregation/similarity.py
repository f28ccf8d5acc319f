"""Fed-TGAN's weights: clients whose tables are like the pooled one count for more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from genesis.errors import FederationError
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.weighted import row_shares
from genesis.federated.messages import Update

__all__ = ["Similarity"]


class Similarity(FedAvg):
    """The mean with weights from the similarity of tables and the number of rows.

    Zhao et al. 2021, "Fed-TGAN: Federated Learning Framework for Synthesizing Tabular Data",
    arXiv 2108.07927. D_kj >= 0 is how far column j of client k is from that column of all clients
    together: the Jensen-Shannon distance if it is discrete, the Wasserstein distance if it is
    numeric. Then::

        S_kj = D_kj / Σ_i D_ij                           each column counts alike
        S_k  = Σ_j S_kj
        a_k  = (1 - S_k / Σ_i S_i) · n_k / n
        weights = softmax(a)

    Since every a_k is in [0, 1], no client counts for more than e times another. A column in which
    all clients equal the pool says nothing and is left out.

    The server has only the pooled statistics, so each client measures its own D_k against them and
    sends it as metrics "divergence.0", "divergence.1", …, in the order of the encoder's columns. A
    client can lie about it: this is a remedy for skew, not for attacks.
    """

    uniform_weights: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ("divergence",)

    def weigh(self, updates: Sequence[Update]) -> Tensor:
        """softmax((1 - S_k / Σ_i S_i) · n_k / n)."""
        divergences = _divergences(updates)
        shares = divergences / divergences.sum(dim=0, keepdim=True)
        distances = shares.nan_to_num(nan=0.0).sum(dim=1)  # 0/0: all clients equal the pool
        total = distances.sum()
        relative = distances / total if total > 0 else torch.zeros_like(distances)
        return ((1 - relative) * row_shares(updates)).softmax(dim=0)


def _divergences(updates: Sequence[Update]) -> Tensor:
    """D (K, columns), float64.

    Raises:
        FederationError: A client sent none, not all, or an impossible one.
    """
    columns = max(sum(name.startswith("divergence.") for name in u.metrics) for u in updates)
    names = [f"divergence.{j}" for j in range(columns)]
    for update in updates:
        missing = [name for name in names if name not in update.metrics]
        if missing or not names:
            raise FederationError(
                f"client '{update.client_id}' did not measure how far its table is from the pool",
                got=f"no metric {missing[0] if missing else 'divergence.0'}",
                do="give every client the same version and plan",
            )
    values = torch.tensor(
        [[u.metrics[name] for name in names] for u in updates], dtype=torch.float64
    )
    impossible = ~(values.isfinite() & (values >= 0)).all(dim=1)
    if impossible.any():
        client = updates[int(impossible.nonzero()[0])].client_id
        raise FederationError(f"client '{client}' sent a divergence that is negative or not finite")
    return values
