"""A whole federation in one process: `FederatedSynthesizer`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from genesis.devices import resolve_device
from genesis.errors import DataError, PlanError, nearest_names
from genesis.federated.callbacks import Callback, RoundReport
from genesis.federated.callbacks.handlers import call_with_named, check_handler
from genesis.federated.callbacks.round import RoundCallback
from genesis.federated.checkpoint import checkpoint_seed
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.transport.in_process import InProcessTransport
from genesis.schema import Schema
from genesis.synthesizer import Synthesizer

__all__ = ["FederatedSynthesizer"]

Handler = TypeVar("Handler", bound=Callable[..., object])


class FederatedSynthesizer:
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

    def __init__(
        self,
        method: str = "ctgan",
        config: Mapping[str, Any] | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        schema: Schema | None = None,
        device: str | torch.device = "auto",
        **choices: Any,
    ) -> None:
        known = {field.name for field in dataclasses.fields(Plan)}
        for name in choices:
            if name not in known:
                raise PlanError(f"there is no argument '{name}'", do=nearest_names(name, known))
        self._seeded = choices.get("seed") is not None
        self.plan = Plan(method=method, config={} if config is None else config, **choices)
        self._choices = self.plan  # those of every fit; self.plan is that of the last one
        self.device = resolve_device(device, config)
        self.history: list[RoundReport] = []
        self.seconds: dict[str, float] = {}
        self._schema = schema
        self._callbacks = list(callbacks)
        self._on_training_complete: list[Callable[..., object]] = []
        self._model: Synthesizer | None = None

    def fit(
        self,
        datasets: Sequence[pd.DataFrame] | Mapping[str, pd.DataFrame],
        discrete_columns: Sequence[str] = (),
        *,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> FederatedSynthesizer:
        """Train one generator over all tables.

        Args:
            datasets: One table a client, or client id -> table. Clients without an id are called
                client_1, client_2, …
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
        federation = Federation(
            self.plan, InProcessTransport(shards), tuple(self._callbacks), self._schema
        )
        try:
            federation.run(None if resume_from is None else Path(resume_from))
        finally:
            self._adopt(federation)
        for handler in self._on_training_complete:
            call_with_named(handler, **self._known_at_the_end())
        return self

    def _adopt(self, federation: Federation) -> None:
        """Keep what came of a run, also of one that failed on its way."""
        self.history, self.seconds = list(federation.reports), dict(federation.seconds)
        if federation.encoder is None or federation.state is None:
            return
        self._model = Synthesizer.of_parameters(
            self.plan.method,
            self.plan.model_config,
            federation.encoder,
            federation.state.vector.cpu(),
            seed=federation.seed,
            device=self.device,
        )
        self._model.losses = [dict(report.metrics) for report in federation.reports]

    @property
    def model(self) -> Synthesizer:
        """The trained synthesizer.

        Raises:
            PlanError: Nothing was fitted yet.
        """
        if self._model is None:
            raise PlanError("this synthesizer has learned nothing yet", do="call fit first")
        return self._model

    @property
    def schema(self) -> Schema:
        """The schema that the clients agreed on."""
        return self.model.schema

    def generate(
        self, n: int, where: Mapping[str, Any] | None = None, seed: int | None = None
    ) -> pd.DataFrame:
        """Generate n rows; see `Synthesizer.generate`."""
        return self.model.generate(n, where, seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file; see `Synthesizer.save`."""
        self.model.save(path)

    def on_round_complete(self, handler: Handler) -> Handler:
        """Decorator: call the function after every round.

        It receives what its signature names of round_num (from 1), n_rounds, metrics, n_clients,
        clients, failed, dropped, seconds, report and run.

        Raises:
            PlanError: The signature names something else.
        """
        self._callbacks.append(RoundCallback(handler))
        return handler

    def on_training_complete(self, handler: Handler) -> Handler:
        """Decorator: call the function when training is complete.

        It receives what its signature names of model, metrics (of the last round) and history.

        Raises:
            PlanError: The signature names something else.
        """
        check_handler(handler, ("model", "metrics", "history"))
        self._on_training_complete.append(handler)
        return handler

    def _known_at_the_end(self) -> dict[str, Any]:
        metrics = dict(self.history[-1].metrics) if self.history else {}
        return {"model": self.model, "metrics": metrics, "history": self.history}


def _named(
    datasets: Sequence[pd.DataFrame] | Mapping[str, pd.DataFrame],
) -> dict[str, pd.DataFrame]:
    """Client id -> table."""
    if isinstance(datasets, pd.DataFrame):
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
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"the table of client '{name}' is a {type(table).__name__}")
    if not tables:
        raise DataError("there are no tables", do="pass one table a client")
    return tables
