"""A whole federation in one process: `FederatedSynthesizer`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from genesis.blocks import TableBlocks
from genesis.errors import DataError
from genesis.federated.checkpoint import checkpoint_seed
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.run import FederatedRun
from genesis.federated.secagg.identity import Identity, Roster, Trust
from genesis.federated.secure_shard import SecureShard
from genesis.federated.shard import Shard
from genesis.federated.transport.in_process import InProcessTransport

__all__ = ["FederatedSynthesizer"]

Table: TypeAlias = pd.DataFrame | TableBlocks


class FederatedSynthesizer(FederatedRun):
    """Learns the tables of several clients, in one process, as a federation over a network would.

    Every choice of `Plan` is an argument here.

    Args:
        method: "ctgan" or "tvae".
        config: Arguments of the model.
        callbacks: Called at the start, after every round and at the end.
        schema: Kinds and types of the columns; agreed on by the clients if None.
        device: "auto", "cpu" or "cuda".
        **choices: The other choices of `Plan`: n_rounds, local_epochs, aggregation, …

    Raises:
        PlanError: A choice is unknown or impossible, or two contradict each other.
    """

    def fit(
        self,
        datasets: Sequence[Table] | Mapping[str, Table],
        discrete_columns: Sequence[str] = (),
        *,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> FederatedSynthesizer:
        """Train one generator over all tables.

        Args:
            datasets: One table a client, or client id -> table. Clients without an id are called
                client_1, client_2, … `TableBlocks` are for more rows than memory holds; they take a
                schema and a method that is fitted from sums.
            discrete_columns: Columns to take as categories, whatever they look like.
            resume_from: Directory of a checkpoint; the run continues there, and ends as if it had
                never been stopped.

        Raises:
            SchemaError: The tables do not fit together, or there is nothing to learn in them.
            DataError: A value cannot be used.
            TrainingError: A loss is not finite; `model` is then the last good state.
            FederationError: Fewer than min_clients clients came through a round.
        """
        tables = _named(datasets)
        changes: dict[str, Any] = {}
        if discrete_columns:
            named = [discrete_columns] if isinstance(discrete_columns, str) else discrete_columns
            both = (*self._choices.discrete_columns, *named)
            changes["discrete_columns"] = tuple(dict.fromkeys(both))
        if resume_from is not None and not self._seeded:
            changes["seed"] = checkpoint_seed(Path(resume_from))
        self.plan = dataclasses.replace(self._choices, **changes)
        shards = {name: Shard(name, table, device=self.device) for name, table in tables.items()}
        transport = InProcessTransport(
            shards if self.plan.scheme is None else _secured(shards, self.plan)
        )
        federation = Federation(self.plan, transport, tuple(self._callbacks), self._schema)
        try:
            federation.run(None if resume_from is None else Path(resume_from))
        finally:
            self._adopt(federation)
        self._complete()
        return self


def _secured(shards: Mapping[str, Shard], plan: Plan) -> dict[str, SecureShard]:
    """The same shards behind secure aggregation, with new keys that all of them know."""
    options = dict(plan.secure_aggregation_options)
    if plan.scheme == "paillier":
        options["workers"] = 1  # all clients share the cores of this machine
    identities = {name: Identity.generate() for name in shards}
    roster = Roster({name: identity.public for name, identity in identities.items()})
    return {
        name: SecureShard(
            shard, identity=identities[name], trust=Trust(roster), required=True, options=options
        )
        for name, shard in shards.items()
    }


def _named(
    datasets: Sequence[Table] | Mapping[str, Table],
) -> dict[str, Table]:
    """Client id -> table."""
    if isinstance(datasets, Table):
        raise DataError(
            "fit takes one table a client", got="a single table", do="pass a list of tables"
        )
    if isinstance(datasets, Mapping):
        tables = {str(name): table for name, table in datasets.items()}
    else:
        # Zeros in front, so that the order of the names is the order of the tables.
        digits = len(str(len(datasets)))
        tables = {f"client_{i:0{digits}d}": table for i, table in enumerate(datasets, start=1)}
    for name, table in tables.items():
        if not isinstance(table, Table):
            raise DataError(f"the table of client '{name}' is a {type(table).__name__}")
    if not tables:
        raise DataError("there are no tables", do="pass one table a client")
    return tables
