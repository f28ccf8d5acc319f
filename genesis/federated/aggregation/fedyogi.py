"""FedYogi: averaging, with Yogi at the server."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from genesis.federated.aggregation.fedadam import FedAdam

__all__ = ["FedYogi"]


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """`FedAdam` whose second moment moves by Δ² and not towards it.

    Reddi et al. 2021, algorithm 2::

        v ← v - (1 - beta2) · Δ² · sign(v - Δ²)

    After a round with large changes v falls by little at a time, so that steps do not suddenly
    grow when changes become rare. Options are those of `FedAdam`.
    """

    def next_second_moment(self, second: Tensor, square: Tensor) -> Tensor:
        """The v after a round with Δ² = square: both (P,).

        It stays positive: it falls only by a part of a square that is smaller than it.
        """
        return second - (1 - self.beta2) * square * (second - square).sign()
