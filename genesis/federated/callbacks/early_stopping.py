"""Ending a run whose metric no longer improves."""

from __future__ import annotations

import math

from genesis.errors import PlanError, nearest_names
from genesis.federated.callbacks import Callback, RoundReport, Run

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Stops the run after so many rounds without a better value of one metric.

    A round in which the metric is missing or NaN counts as one without a better value. The losses
    of a GAN say little about the quality of its rows: monitor a score if there is one.

    Args:
        monitor: Name of the metric.
        patience: Rounds to wait for a better value, at least 1.
        min_delta: By how much a value must be better than the best one, at least 0.
        mode: "min" if smaller is better, "max" if larger is.

    Raises:
        PlanError: An option is out of range; or, after the first round, there is no such metric.
    """

    best: float | None
    """The best value so far."""

    best_round_num: int | None
    """The round that it is from, counted from 1."""

    def __init__(
        self, monitor: str, patience: int = 3, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise PlanError(
                "patience must be a whole number of rounds",
                got=repr(patience),
                do="choose 1 or more",
            )
        if not (isinstance(min_delta, int | float) and 0 <= min_delta < math.inf):
            raise PlanError("min_delta is out of range", got=repr(min_delta), do="choose 0 or more")
        if mode not in ("min", "max"):
            raise PlanError(f"unknown mode '{mode}'", do=nearest_names(str(mode), ["min", "max"]))
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self._reset()

    def _reset(self) -> None:
        """Forget an earlier run."""
        self.best, self.best_round_num, self._waited, self._known = None, None, 0, False

    def on_run_start(self, run: Run) -> None:
        """Forget an earlier run; of one that is continued, take in the rounds before.

        Raises:
            PlanError: The run promises privacy, so losses stay at the clients.
        """
        if run.private:
            raise PlanError(
                "a run that promises privacy cannot be stopped by what clients measure",
                got=f"early stopping by {self.monitor}",
                do="plan a number of rounds",
            )
        self._reset()
        for report in run.reports:
            self.on_round_complete(run, report)

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Stop the run if the metric has not improved for long enough."""
        if self.monitor not in report.metrics and report.metrics and not self._known:
            raise PlanError(
                f"there is no metric '{self.monitor}' to stop early by",
                do=nearest_names(self.monitor, report.metrics),
            )
        self._known = self._known or self.monitor in report.metrics
        value = report.metrics.get(self.monitor, math.nan)
        if self._improves(value):
            self.best, self.best_round_num, self._waited = value, report.round_num, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            rounds = "1 round" if self._waited == 1 else f"{self._waited} rounds"
            run.stop(f"{self.monitor} has not improved for {rounds}")

    def _improves(self, value: float) -> bool:
        """Whether a value is better than the best one by more than min_delta."""
        if self.best is None:
            return not math.isnan(value)
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta
