"""How far an evaluation or an audit has come, told to whoever waits."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Counter", "Steps"]

Steps = Callable[[int, int, str], None]
"""Called before every step with the steps done, their number in all, and what comes next."""


class Counter:
    """Counts steps as they begin.

    Args:
        total: Number of steps.
        progress: Told of each of them.
    """

    def __init__(self, total: int, progress: Steps | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, step: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, step)
        self.done += 1
