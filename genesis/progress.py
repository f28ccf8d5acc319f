"""A progress bar on stderr, for a person who waits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["ProgressBar", "losses_as_text"]


class ProgressBar:
    """How far something has come, the time left, and its losses; as a context, it ends by itself.

    Nothing is shown if stderr is not a terminal.

    Args:
        what: What is counted, such as "epochs".
        quiet: Show nothing anyway.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self.what, self.quiet = what, quiet
        self._bar: Progress | None = None

    def start(self, total: int) -> None:
        """Show an empty bar, if there is anybody to see it."""
        if self._bar is None and not self.quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.add_task(self.what, total=total, losses="")
            self._bar.start()

    def show(self, done: int, total: int, metrics: Mapping[str, float] | str) -> None:
        """Move the bar, which need not have been started."""
        self.start(total)
        if self._bar is not None:
            text = metrics if isinstance(metrics, str) else losses_as_text(metrics)
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, losses=text)

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def losses_as_text(metrics: Mapping[str, float]) -> str:
    """Metrics in a few words; those of single columns, with a dot in the name, are left out."""
    shown = {name.removesuffix("_loss"): v for name, v in metrics.items() if "." not in name}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def _bar() -> Progress:
    """A bar that keeps its room in a narrow window: the losses are cut."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20, table_column=Column(no_wrap=True, min_width=20)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn(
            "{task.fields[losses]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=Console(stderr=True),
        expand=True,
    )
