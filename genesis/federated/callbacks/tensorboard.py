"""Metrics to TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from genesis.errors import MissingExtraError
from genesis.federated.callbacks import Callback, RoundReport, Run

__all__ = ["TensorBoardCallback"]


class TensorBoardCallback(Callback):
    """Writes the metrics of each round for ``tensorboard --logdir``.

    Args:
        directory: Where events are written; another one for each run keeps their curves apart.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, directory: str | Path = "runs") -> None:
        self.directory = Path(directory)
        try:
            # Now rather than at the start of the run, so that a missing package is known at once.
            self._writer_class: Any = import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError:
            raise MissingExtraError(
                "TensorBoardCallback needs tensorboard, which is not installed",
                do="pip install 'genesis-federated[tensorboard]'",
            ) from None
        self._writer: Any = None

    def on_run_start(self, run: Run) -> None:
        """Open the file of events."""
        self._writer = self._writer_class(str(self.directory))

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Write the metrics, at step round_num."""
        values = {**report.metrics, "clients": len(report.clients), "seconds": report.seconds}
        for name, value in values.items():
            self._writer.add_scalar(name, value, report.round_num)
        self._writer.flush()

    def on_run_end(self, run: Run, reports: Sequence[RoundReport]) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
