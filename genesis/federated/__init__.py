"""Federated training: one generator over the rows of many clients, none of whom shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genesis.lazy import lazy_names

if TYPE_CHECKING:
    from genesis.federated.plan import Plan as Plan
    from genesis.federated.simulation import FederatedSynthesizer as FederatedSynthesizer

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "genesis.federated.plan": ["Plan"],
        "genesis.federated.simulation": ["FederatedSynthesizer"],
    },
)
