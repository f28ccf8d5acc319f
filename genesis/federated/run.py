"""What simulation and server share: a plan, handlers, and what came of a run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd
import torch

from genesis.devices import resolve_device
from genesis.errors import PlanError, nearest_names
from genesis.federated.callbacks import Callback, RoundReport
from genesis.federated.callbacks.handlers import call_with_named, check_handler
from genesis.federated.callbacks.round import RoundCallback
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.schema import Schema
from genesis.synthesizer import Synthesizer

__all__ = ["FederatedRun"]

Handler = TypeVar("Handler", bound=Callable[..., object])


class FederatedRun:
    """The part of a federation's interface that does not depend on where its clients are.

    Args:
        method: "ctgan", "tvae", one of `models.SUM_MODELS`, or "auto".
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
        self._choices = self.plan  # as they were given; self.plan is that of the last run
        self.device = resolve_device(device, config)
        self.history: list[RoundReport] = []
        self.seconds: dict[str, float] = {}
        self.rows: dict[str, int] = {}  # client id -> its number of rows
        self.privacy: dict[str, Any] | None = None  # what was promised and released
        self._schema = schema
        self._callbacks = list(callbacks)
        self._on_training_complete: list[Callable[..., object]] = []
        self._model: Synthesizer | None = None

    @property
    def n_rounds(self) -> int:
        """Rounds of the plan."""
        return self.plan.n_rounds

    @property
    def model(self) -> Synthesizer:
        """The trained synthesizer.

        Raises:
            PlanError: Nothing was trained yet.
        """
        if self._model is None:
            raise PlanError("nothing was trained yet", do=f"call {self._first} first")
        return self._model

    @property
    def epsilon(self) -> float | None:
        """What everything released costs together; None without a promise of privacy."""
        return None if self.privacy is None else self.privacy["epsilon"]

    @property
    def total_rows(self) -> int:
        """Rows of all clients together; of each alone, secure aggregation hides them.

        Raises:
            PlanError: Nothing was trained yet.
        """
        return sum(self.rows.values()) if self.rows else self.model.encoder.rows

    @property
    def schema(self) -> Schema:
        """The schema that the clients agreed on."""
        return self.model.schema

    def generate(
        self,
        n: int,
        where: Mapping[str, Any] | None = None,
        seed: int | None = None,
        *,
        calibrate: bool = False,
    ) -> pd.DataFrame:
        """Generate n rows; see `Synthesizer.generate`."""
        return self.model.generate(n, where, seed, calibrate=calibrate)

    def impute(self, table: pd.DataFrame, seed: int | None = None) -> pd.DataFrame:
        """Fill the nulls of a table; see `Synthesizer.impute`."""
        return self.model.impute(table, seed)

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

    _first = "fit"  # what trains

    def _adopt(self, federation: Federation) -> None:
        """Keep what came of a run, also of one that failed on its way."""
        self.history, self.seconds = list(federation.reports), dict(federation.seconds)
        self.rows, self.privacy = dict(federation.rows), federation.privacy
        if federation.encoder is None or federation.state is None:
            return
        self._model = Synthesizer.of_parameters(
            self.plan.method,
            federation.config,
            federation.encoder,
            federation.state.vector.cpu(),
            seed=federation.seed,
            device=self.device,
            privacy=self.privacy,
        )
        self._model.losses = [dict(report.metrics) for report in federation.reports]

    def _complete(self) -> None:
        """Call the handlers of the end."""
        metrics = dict(self.history[-1].metrics) if self.history else {}
        known = {"model": self.model, "metrics": metrics, "history": self.history}
        for handler in self._on_training_complete:
            call_with_named(handler, **known)
