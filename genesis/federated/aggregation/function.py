"""A plain function as a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genesis.errors import FederationError
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.weighted import row_shares
from genesis.federated.messages import Update

__all__ = ["FunctionRule"]


@dataclass(frozen=True)
class FunctionRule(FedAvg):
    """What a user's function makes of the clients' vectors becomes the global parameters.

    Args:
        function: From vectors (K, P) float32 and the clients' shares of the rows (K,) float64 to a
            vector (P,).
    """

    needs_individual_updates: ClassVar[bool] = True
    uniform_weights: ClassVar[bool] = False

    function: Callable[[Tensor, Tensor], Tensor]

    def weigh(self, updates: Sequence[Update]) -> Tensor:
        """n_k / n, for the function to use or not."""
        return row_shares(updates)

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """What the function returns.

        Raises:
            FederationError: It is not a vector (P,).
        """
        combined = self.function(vectors, weights)
        if not isinstance(combined, Tensor) or combined.shape != vectors.shape[1:]:
            found = tuple(combined.shape) if isinstance(combined, Tensor) else type(combined)
            raise FederationError(
                "the aggregation function must return one vector",
                got=f"{found} from vectors {tuple(vectors.shape)}",
                do=f"return a tensor of shape ({vectors.shape[1]},)",
            )
        return combined.to(vectors)
