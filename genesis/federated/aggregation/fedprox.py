"""FedProx: averaging, with clients held near what they received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.options import check_interval

__all__ = ["FedProx"]


@dataclass(frozen=True)
class FedProx(FedAvg):
    """The plain mean of clients that each minimise F_k(w) + mu/2 ||w - w_received||².

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", equation 2 and algorithm 2.
    The pull is part of local training; the server only says how strong it is.

    Args:
        proximal_mu: mu, at least 0; 0 is federated averaging. The paper tries 0.001 to 1.

    Raises:
        PlanError: proximal_mu is out of range.
    """

    proximal_mu: float = 0.01

    def __post_init__(self) -> None:
        check_interval("proximal_mu", self.proximal_mu, "[0, inf)")

    @property
    def local_options(self) -> Mapping[str, float]:
        """mu, for `LocalTraining`."""
        return {"proximal_mu": self.proximal_mu}
