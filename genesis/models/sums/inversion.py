"""Draws from discrete distributions, many at a time, by inverting cumulative sums."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_columns", "draw_from"]

_BELOW_ONE = 1 - 2**-30
"""A factor on uniform numbers: below 1 even after the number of a row is added."""


def draw_from(table: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an entry of a row of a table, again and again.

    Cumulative sums of row i, scaled to end at 1, lie in [i, i + 1], so that one search over all of
    them finds the entry. One of 0 ends where the one before it does, and is never found.

    Args:
        table: (r, c) not negative; rows that are asked for need not sum to 1, but not to 0.
        rows: (n,) int64, the row of each draw.
        generator: Draws uniform numbers.

    Returns:
        (n,) int64 columns.
    """
    cumulative = table.double().cumsum(1)
    cumulative /= torch.where(cumulative[:, -1:] > 0, cumulative[:, -1:], 1.0)
    cumulative += torch.arange(len(table), device=table.device).unsqueeze(1)
    u = torch.rand(len(rows), dtype=torch.float64, device=table.device, generator=generator)
    found = torch.searchsorted(cumulative.ravel(), u.mul_(_BELOW_ONE).add_(rows), right=True)
    return found.sub_(rows * table.shape[1])


def draw_columns(chances: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one entry of every row of chances (n, c), as in `draw_from`: (n,) int64."""
    cumulative = chances.double().cumsum(1)
    shape = len(chances), 1
    u = torch.rand(shape, dtype=torch.float64, device=chances.device, generator=generator)
    return (cumulative <= u.mul_(_BELOW_ONE) * cumulative[:, -1:]).sum(1)
