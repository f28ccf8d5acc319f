"""A progress bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genesis.federated.callbacks import Callback, RoundReport, Run
from genesis.federated.callbacks.round import describe_losses

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressCallback"]


class ProgressCallback(Callback):
    """Shows how far the run has come, the time left and the losses of the last round.

    Nothing is shown if stderr is not a terminal.

    Args:
        quiet: Show nothing anyway.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: tuple[Progress, TaskID] | None = None

    def on_run_start(self, run: Run) -> None:
        """Show an empty bar."""
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        progress = Progress(
            TextColumn("rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}", markup=False),
            console=Console(stderr=True),
        )
        self._bar = progress, progress.add_task("rounds", total=run.n_rounds, losses="")
        progress.start()

    def on_round_complete(self, run: Run, report: RoundReport) -> None:  # noqa: ARG002
        """Move the bar."""
        if self._bar:
            progress, task = self._bar
            progress.update(task, completed=report.round_num, losses=describe_losses(report))

    def on_run_end(self, run: Run, reports: Sequence[RoundReport]) -> None:  # noqa: ARG002
        """Leave the bar as it is."""
        if self._bar:
            self._bar[0].stop()
            self._bar = None
