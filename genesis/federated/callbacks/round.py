"""A line, or a function of yours, for each round."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from genesis.federated.callbacks import Callback, RoundReport, Run
from genesis.federated.callbacks.handlers import (
    ROUND_NAMES,
    call_with_named,
    check_handler,
    round_arguments,
)
from genesis.progress import losses_as_text

__all__ = ["RoundCallback"]


class RoundCallback(Callback):
    """Calls a function after each round, or writes a line to stderr.

    Args:
        function: Receives the arguments that its signature names, of those in
            `handlers.ROUND_NAMES`: ``def log(round_num, metrics): …``. Rounds count from 1. By
            default a line of text.

    Raises:
        PlanError: The function asks for something else.
    """

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        if function is not None:
            check_handler(function, ROUND_NAMES)
        self._function = function or _write_line

    def on_round_complete(self, run: Run, report: RoundReport) -> None:
        """Call the function."""
        call_with_named(self._function, **round_arguments(run, report))


def _write_line(report: RoundReport) -> None:
    """What the default says of a round."""
    n = len(report.clients)
    parts = [
        f"{n} client{'' if n == 1 else 's'}",
        losses_as_text(report.metrics),
        f"{report.seconds:.1f} s",
    ]
    parts += [f"{client} failed: {why}" for client, why in report.failed.items()]
    if report.dropped:
        parts.append(f"no answer from {', '.join(report.dropped)}")
    line = "; ".join(part for part in parts if part)
    sys.stderr.write(f"round {report.round_num}/{report.n_rounds}: {line}\n")
