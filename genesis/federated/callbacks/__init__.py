"""Callbacks: what happens beside a federated run, one kind a file.

A callback is told of three events: the run starts, a round is complete, the run ends. It may stop
the run and save checkpoints. To write your own, subclass `Callback` and override what you need. An
error that a callback raises ends the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genesis.errors import PlanError, nearest_names
from genesis.lazy import lazy_names

if TYPE_CHECKING:
    from genesis.federated.callbacks.checkpoint import CheckpointCallback as CheckpointCallback
    from genesis.federated.callbacks.early_stopping import EarlyStopping as EarlyStopping
    from genesis.federated.callbacks.metrics import MetricsCallback as MetricsCallback
    from genesis.federated.callbacks.mlflow import MLflowCallback as MLflowCallback
    from genesis.federated.callbacks.progress import ProgressCallback as ProgressCallback
    from genesis.federated.callbacks.round import RoundCallback as RoundCallback
    from genesis.federated.callbacks.tensorboard import TensorBoardCallback as TensorBoardCallback

CALLBACKS: dict[str, str] = {
    "checkpoint": "genesis.federated.callbacks.checkpoint:CheckpointCallback",
    "early_stopping": "genesis.federated.callbacks.early_stopping:EarlyStopping",
    "metrics": "genesis.federated.callbacks.metrics:MetricsCallback",
    "mlflow": "genesis.federated.callbacks.mlflow:MLflowCallback",
    "progress": "genesis.federated.callbacks.progress:ProgressCallback",
    "round": "genesis.federated.callbacks.round:RoundCallback",
    "tensorboard": "genesis.federated.callbacks.tensorboard:TensorBoardCallback",
}

_classes, __getattr__, __dir__ = lazy_names(
    __name__, {m: [cls] for m, _, cls in (entry.partition(":") for entry in CALLBACKS.values())}
)
__all__ = ["CALLBACKS", "Callback", "RoundReport", "Run", "create_callback", *_classes]


@dataclass(frozen=True)
class RoundReport:
    """What happened in one round.

    Args:
        round: Number of the round, from 0.
        n_rounds: Rounds that the run was planned for.
        metrics: Weighted means of what the clients measured, and what the server measured.
        clients: Those whose updates were used.
        failed: Client -> why it failed, in one line.
        dropped: Clients that did not answer.
        seconds: How long the round took.
    """

    round: int
    n_rounds: int
    metrics: Mapping[str, float]
    clients: tuple[str, ...]
    failed: Mapping[str, str]
    dropped: tuple[str, ...]
    seconds: float

    @property
    def round_num(self) -> int:
        """Number of the round from 1, as people and charts count."""
        return self.round + 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the round counts from 1."""
        return {
            "round": self.round_num,
            "metrics": dict(self.metrics),
            "clients": list(self.clients),
            "failed": dict(self.failed),
            "dropped": list(self.dropped),
            "seconds": self.seconds,
        }


class Run(Protocol):
    """What a callback can do to the run that it watches."""

    @property
    def n_rounds(self) -> int:
        """Rounds that the run is planned for."""

    @property
    def private(self) -> bool:
        """Whether the run promises privacy: no metric of a client is then known."""

    @property
    def stopped(self) -> str | None:
        """Why the run was stopped early, if it was."""

    @property
    def reports(self) -> Sequence[RoundReport]:
        """The rounds played so far, those before a checkpoint too."""

    def stop(self, reason: str) -> None:
        """End the run after this round, as if it had been the last one."""

    def save_checkpoint(self, directory: Path, *, strict: bool = True) -> None:
        """Write to directory what the run can be continued from; see `Federation`."""


class Callback:
    """Told of what happens in a run; each method does nothing until it is overridden."""

    def on_run_start(self, run: Run) -> None:
        """The first round is about to start."""

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """The global parameters have been updated."""

    def on_run_end(self, run: Run, reports: Sequence[RoundReport]) -> None:
        """No more rounds will follow; called after an error too, so that files are closed."""


def create_callback(name: str, **options: Any) -> Callback:
    """The callback called name.

    Args:
        name: A key of `CALLBACKS`.
        **options: Arguments of its class.

    Raises:
        PlanError: Unknown name, unknown or impossible option.
        MissingExtraError: It needs a package that is not installed.
    """
    if name not in CALLBACKS:
        raise PlanError(f"unknown callback '{name}'", do=nearest_names(name, CALLBACKS))
    module, _, cls_name = CALLBACKS[name].partition(":")
    cls = getattr(import_module(module), cls_name)
    known = inspect.signature(cls).parameters
    for option in options:
        if option not in known:
            advice = nearest_names(option, known) if known else "it takes no options"
            raise PlanError(f"callback '{name}' has no option '{option}'", do=advice)
    for option, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise PlanError(f"callback '{name}' needs the option '{option}'", do="set it")
    callback: Callback = cls(**options)
    return callback
