"""Checkpoints while a run goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from genesis.errors import GenesisError, PlanError
from genesis.federated.callbacks import Callback, RoundReport, Run

__all__ = ["CheckpointCallback"]

log = logging.getLogger(__name__)


class CheckpointCallback(Callback):
    """Saves what the run can be continued from, every few rounds and after the last one.

    Args:
        directory: Where checkpoints are written.
        every: Rounds from one checkpoint to the next, at least 1; 1 where the run promises privacy.
        strict: Whether a checkpoint that cannot be written ends the run. If not, it goes on with a
            warning, and the checkpoint before is kept.

    Raises:
        PlanError: every is not a whole number of at least 1.
    """

    def __init__(
        self, directory: str | Path = "checkpoints", every: int = 1, *, strict: bool = True
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise PlanError(
                "every must be a whole number of rounds", got=repr(every), do="choose 1 or more"
            )
        self.directory, self.every, self.strict = Path(directory), every, strict

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Save if it is time."""
        if self._is_time(run, report):
            self._save(run)

    def on_run_end(self, run: Run, reports: Sequence[RoundReport]) -> None:
        """Save the last round of a run that was stopped, if that has not been done.

        After an error nothing is saved: clients may be in the middle of a round.
        """
        if run.stopped is not None and reports and not self._is_time(run, reports[-1]):
            self._save(run)

    def _save(self, run: Run) -> None:
        """Save, or warn."""
        try:
            run.save_checkpoint(self.directory, strict=self.strict)
        except (GenesisError, OSError) as error:
            if self.strict or run.private:
                raise
            log.warning("no checkpoint after round %d: %s", len(run.reports), error)

    def _is_time(self, run: Run, report: RoundReport) -> bool:
        """Whether a checkpoint is due after a round, whatever happens next.

        A private run keeps every round: one that was played twice would be released twice.
        """
        return run.private or report.round_num % self.every == 0 or report.round_num == run.n_rounds
