"""A progress bar on stderr."""

from __future__ import annotations

from collections.abc import Sequence

from genesis.federated.callbacks import Callback, RoundReport, Run
from genesis.progress import ProgressBar

__all__ = ["ProgressCallback"]


class ProgressCallback(Callback):
    """Shows how far the run has come, the time left and the losses of the last round.

    Nothing is shown if stderr is not a terminal.

    Args:
        quiet: Show nothing anyway.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._bar = ProgressBar("rounds", quiet=quiet)

    def on_run_start(self, run: Run) -> None:
        """Show an empty bar."""
        self._bar.start(run.n_rounds)

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Move the bar."""
        self._bar.show(report.round_num, run.n_rounds, report.metrics)

    def on_run_end(self, run: Run, reports: Sequence[RoundReport]) -> None:
        """Leave the bar as it is."""
        self._bar.stop()
