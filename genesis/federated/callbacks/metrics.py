"""A table of the metrics of all rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis.errors import PlanError
from genesis.federated.callbacks import Callback, RoundReport, Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MetricsCallback"]


class MetricsCallback(Callback):
    """Keeps one row for each round, in memory and, if wanted, in a file.

    A row has round_num (from 1), n_clients, n_failed, n_dropped, seconds and the metrics.

    Args:
        path: A file that is brought up to date after each round: ``.csv``, or ``.jsonl`` for one
            JSON object a line. The first round replaces the file; a run that is continued from a
            checkpoint keeps the rows of the rounds before.

    Raises:
        PlanError: The file is neither .csv nor .jsonl.
    """

    history: list[dict[str, Any]]
    """The rows so far."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.suffix not in (".csv", ".jsonl"):
            raise PlanError(
                "metrics are written to .csv or .jsonl",
                got=repr(self.path.name),
                do="rename the file",
            )
        self.history = []

    def on_run_start(self, run: Run) -> None:
        """Forget an earlier run."""
        self.history = []

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Add a row."""
        if self.path is not None and not self.history and report.round > 0 and self.path.exists():
            self.history = [row for row in _read(self.path) if row["round_num"] < report.round_num]
        self.history.append(
            {
                "round_num": report.round_num,
                "n_clients": len(report.clients),
                "n_failed": len(report.failed),
                "n_dropped": len(report.dropped),
                "seconds": report.seconds,
                **report.metrics,
            }
        )
        if self.path is not None:
            # All of it, because a round may bring a column that the header lacks.
            _write(self.history, self.path)

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table; a metric that a round lacks is null."""
        import pandas as pd

        return pd.DataFrame(self.history)


def _write(history: list[dict[str, Any]], path: Path) -> None:
    """Replace the file at once, so that nobody reads half of it."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".csv":
        pd.DataFrame(history).to_csv(partial, index=False)
    else:
        partial.write_text("".join(f"{json.dumps(row)}\n" for row in history))
    partial.replace(path)


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `_write` wrote."""
    import pandas as pd

    if path.suffix == ".csv":
        rows = pd.read_csv(path, float_precision="round_trip").to_dict("records")
        return [{name: v for name, v in row.items() if not pd.isna(v)} for row in rows]
    return [json.loads(line) for line in path.read_text().splitlines()]
