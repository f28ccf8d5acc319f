"""Federated training: one generator over the rows of many clients, none of whom shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genesis.lazy import lazy_names

if TYPE_CHECKING:
    from genesis.federated.aggregation import AGGREGATORS as AGGREGATORS
    from genesis.federated.aggregation import Aggregator as Aggregator
    from genesis.federated.aggregation import State as State
    from genesis.federated.aggregation import create_aggregator as create_aggregator
    from genesis.federated.callbacks import Callback as Callback
    from genesis.federated.callbacks import CheckpointCallback as CheckpointCallback
    from genesis.federated.callbacks import EarlyStopping as EarlyStopping
    from genesis.federated.callbacks import MetricsCallback as MetricsCallback
    from genesis.federated.callbacks import MLflowCallback as MLflowCallback
    from genesis.federated.callbacks import ProgressCallback as ProgressCallback
    from genesis.federated.callbacks import RoundCallback as RoundCallback
    from genesis.federated.callbacks import RoundReport as RoundReport
    from genesis.federated.callbacks import TensorBoardCallback as TensorBoardCallback
    from genesis.federated.callbacks import create_callback as create_callback
    from genesis.federated.client import FederatedClient as FederatedClient
    from genesis.federated.messages import Update as Update
    from genesis.federated.plan import Plan as Plan
    from genesis.federated.server import FederatedServer as FederatedServer
    from genesis.federated.simulation import FederatedSynthesizer as FederatedSynthesizer
    from genesis.federated.transport.http.tokens import read_token as read_token
    from genesis.federated.transport.http.tokens import read_tokens as read_tokens

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "genesis.federated.aggregation": [
            "AGGREGATORS",
            "Aggregator",
            "State",
            "create_aggregator",
        ],
        "genesis.federated.callbacks": [
            "Callback",
            "CheckpointCallback",
            "EarlyStopping",
            "MLflowCallback",
            "MetricsCallback",
            "ProgressCallback",
            "RoundCallback",
            "RoundReport",
            "TensorBoardCallback",
            "create_callback",
        ],
        "genesis.federated.client": ["FederatedClient"],
        "genesis.federated.messages": ["Update"],
        "genesis.federated.plan": ["Plan"],
        "genesis.federated.server": ["FederatedServer"],
        "genesis.federated.simulation": ["FederatedSynthesizer"],
        "genesis.federated.transport.http.tokens": ["read_token", "read_tokens"],
    },
)
