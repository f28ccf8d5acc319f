"""Multi-Krum: the mean of the updates that lie closest to the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from genesis.errors import FederationError
from genesis.federated.aggregation.fedavg import uniform, weighted_mean
from genesis.federated.aggregation.krum import Krum, assumed_byzantine, closest_first
from genesis.federated.aggregation.options import check_count

__all__ = ["MultiKrum"]


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the m clients with the smallest scores of `Krum`.

    Blanchard et al. 2017, section 4: m = 1 is Krum, m = K the plain mean. The default K - f - 2 is
    the most for which Damaskinos et al. 2019, "AggregaThor", prove that it withstands f clients.

    Args:
        n_byzantine: f, as in `Krum`.
        n_selected: m, at least 1; by default K - f - 2, or 1 if that is less.

    Raises:
        PlanError: An option is out of range.
    """

    n_selected: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_selected is not None:
            check_count("n_selected", self.n_selected, at_least=1)

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """The mean (P,) of the chosen ones of vectors (K, P); weights are not used."""
        k = len(vectors)
        f = assumed_byzantine(self.n_byzantine, k)
        m = max(1, k - f - 2) if self.n_selected is None else self.n_selected
        if m > k:
            raise FederationError(
                f"n_selected={m} needs {m} updates", got=str(k), do="lower it or raise min_clients"
            )
        return weighted_mean(vectors[closest_first(vectors, f)[:m]], uniform(m))
