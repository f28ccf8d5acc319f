"""Metrics to MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from genesis.errors import MissingExtraError
from genesis.federated.callbacks import Callback, RoundReport, Run

__all__ = ["MLflowCallback"]


class MLflowCallback(Callback):
    """Logs the metrics of each round to an MLflow run.

    If one is active it is used and left open; otherwise one is started and ended with the training.
    Where it goes is MLflow's own configuration (``MLFLOW_TRACKING_URI``).

    Args:
        run_name: Name of the run that is started.
        experiment: Name of the experiment that it belongs to; MLflow's default if None.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self, run_name: str | None = None, experiment: str | None = None) -> None:
        self.run_name, self.experiment = run_name, experiment
        try:
            self._mlflow: Any = import_module("mlflow")
        except ImportError:
            raise MissingExtraError(
                "MLflowCallback needs mlflow, which is not installed",
                do="pip install 'genesis-federated[mlflow]'",
            ) from None
        self._owned = False

    def on_run_start(self, run: Run) -> None:
        """Start a run, unless one is active."""
        self._owned = self._mlflow.active_run() is None
        if self._owned:
            if self.experiment is not None:
                self._mlflow.set_experiment(self.experiment)
            self._mlflow.start_run(run_name=self.run_name)
            self._mlflow.log_param("n_rounds", run.n_rounds)

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Log the metrics, at step round_num."""
        values = {**report.metrics, "clients": len(report.clients), "seconds": report.seconds}
        self._mlflow.log_metrics(values, step=report.round_num)

    def on_run_end(self, run: Run, reports: Sequence[RoundReport]) -> None:
        """End the run that was started."""
        if self._owned:
            self._mlflow.end_run()
