"""A bar on stderr while one table is learned."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from genesis.synthesizer import Progress

__all__ = ["epoch_bar"]


@contextmanager
def epoch_bar(*, quiet: bool) -> Iterator[Progress | None]:
    """What `Synthesizer.fit` calls after every epoch; None if there is nobody to see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("epochs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}", markup=False),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("epochs", total=None, losses="")

        def show(done: int, total: int, losses: Mapping[str, float]) -> None:
            text = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            bar.update(task, completed=done, total=total, losses=text)

        yield show
