"""What private steps are audited on: ordinary records, and candidates for canaries among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from genesis.codes import Codes, Layout
from genesis.errors import TrainingError
from genesis.evaluation.mechanism.shipped import Floats, Step

__all__ = ["Chosen", "chosen", "ordinary"]

LARGE = (10.0, 100.0, 1000.0)
"""Scalars of very large canaries; those of a table's rows are in [-1, 1]."""

CANDIDATES = 12
"""Rows among which a canary is chosen."""


@dataclass(frozen=True)
class Chosen:
    """A canary among the records.

    Args:
        kind: As in `Canary`.
        row: The canary alone.
        rows: The records and it.
        change: (P,) how it changes the sum when there is no noise, over C.
        fails: Whether another one made training fail.
    """

    kind: str
    row: Codes
    rows: Codes
    change: Floats
    fails: bool


def chosen(step: Step, kind: str, table: Codes, rng: np.random.Generator) -> Chosen:
    """Of some candidates, the canary that moves the sum of the table's gradients furthest.

    Args:
        step: The step that is audited.
        kind: As in `Canary`.
        table: The other records.
        rng: Draws the candidates.

    Raises:
        TrainingError: Training fails with each of them.
    """
    base = step.sum(table, quiet=True)
    best, fails = None, False
    for row in _extreme(step.layout, rng) if kind == "extreme" else _large(step.layout, rng):
        rows = Codes(
            np.concatenate([table.scalars, row.scalars]), np.concatenate([table.codes, row.codes])
        )
        try:
            change = step.sum(rows, quiet=True) - base
        except TrainingError:
            fails = True
            continue
        if best is None or np.linalg.norm(change) > np.linalg.norm(best.change):
            best = Chosen(kind, row, rows, change, fails)
    if best is None:
        raise TrainingError("every canary makes training fail", got=f"{CANDIDATES} {kind} ones")
    return Chosen(kind, best.row, best.rows, best.change, fails)


def ordinary(layout: Layout, rng: np.random.Generator, n: int) -> Codes:
    """n records such as tables have."""
    codes = [rng.integers(width, size=n) for width in layout.block_widths]
    scalars = rng.uniform(-0.99, 0.99, (n, layout.n_scalars))
    return Codes(scalars.astype(np.float32), np.stack(codes, axis=1).astype(np.int32))


def _extreme(layout: Layout, rng: np.random.Generator) -> Iterator[Codes]:
    """Candidates at the ends of what the encoding allows."""
    for _ in range(CANDIDATES):
        row = ordinary(layout, rng, 1)
        yield Codes(np.where(row.scalars < 0, -1, 1).astype(np.float32), row.codes)


def _large(layout: Layout, rng: np.random.Generator) -> Iterator[Codes]:
    """Candidates beyond them: no encoder makes them, and clipping must not rest on that."""
    for i, row in enumerate(_extreme(layout, rng)):
        yield Codes(row.scalars * np.float32(LARGE[i % len(LARGE)]), row.codes)
