"""Linkability: do synthetic rows tell which two halves of a person's data belong together?

The attacker has two files about the same people, with different columns of the table. They look up
the nearest synthetic rows of every row of each file; where a person's two rows meet at the same
synthetic row, it links them (Giomi et al. 2023).

Of equally near rows all count, for few columns make many of them. As squared distances add up over
columns, halves meet just if the nearest row in both is as near as the nearest ones in either:

    min_s d²(x, s) = min_s d_A²(x, s) + min_s d_B²(x, s)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.errors import SchemaError, nearest_names
from genesis.evaluation.guesses import Guesses, drawn
from genesis.evaluation.neighbours import neighbourhood
from genesis.evaluation.rows import Columns, Rows
from genesis.evaluation.space import Space

if TYPE_CHECKING:
    import torch

__all__ = ["Linkability", "linkability"]

SLACK = 1e-4
"""Squared distances that differ by less are equal: they are sums of float32."""


@dataclass(frozen=True)
class Linkability:
    """How many people's halves meet.

    Args:
        guesses: The shares.
        halves: The columns of either file.
    """

    guesses: Guesses
    halves: tuple[tuple[str, ...], tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {**self.guesses.to_dict(), "halves": [list(half) for half in self.halves]}


def linkability(
    members: Rows,
    control: Rows,
    synthetic: Rows,
    *,
    halves: tuple[Sequence[str], Sequence[str]] | None = None,
    most: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Linkability:
    """Try to link the halves of members, and of people who were never trained on.

    The baseline is the share of false links: how often the halves of two different members meet.

    Args:
        members: Rows that the generator was trained on.
        control: Rows of other people; distances are measured by their ranks.
        synthetic: What the generator made.
        halves: The columns of either file; every second column of each kind if None.
        most: Members and controls that are tried, of each.
        level: Confidence of the intervals.
        seed: Which of them are tried.
        device: Where distances are computed.

    Raises:
        SchemaError: A named column is not there, or is in both halves.
    """
    chosen = _halves(members.columns, halves)
    if not all(chosen):
        return Linkability(Guesses(reason="linking needs two columns"), chosen)
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(members), len(control)]))
    tried, others = drawn(members, most, rng), drawn(control, most, rng)
    strangers = _halves_exchanged(tried, chosen[1])
    n = len(tried)
    met = _met(Rows.concat([tried, others, strangers]), synthetic, control, chosen, device)
    right, right_control, false = (int(part.sum()) for part in np.split(met, [n, len(met) - n]))
    baseline = false / n if n > 1 else None
    counted = Guesses.count(right, n, right_control, len(others), baseline=baseline, level=level)
    return Linkability(counted, chosen)


def _met(
    targets: Rows,
    synthetic: Rows,
    reference: Rows,
    halves: tuple[tuple[str, ...], tuple[str, ...]],
    device: str | torch.device,
) -> npt.NDArray[np.bool_]:
    """(n,) whether some synthetic row is nearest to both halves of a target."""

    def squared(names: tuple[str, ...]) -> npt.NDArray[np.float64]:
        space = Space.fit(reference.only(names))
        points = (space.embed(rows.only(names), device) for rows in (targets, synthetic))
        return neighbourhood(*points, k=1).distances[:, 0] ** 2

    first, second = halves
    return np.asarray(squared(first + second) <= squared(first) + squared(second) + SLACK)


def _halves_exchanged(rows: Rows, half: tuple[str, ...]) -> Rows:
    """Rows with the named columns of the row before, in the order of the rows: strangers'."""
    columns = rows.columns
    moved = [name in half for name in columns.numeric], [name in half for name in columns.discrete]
    before = rows.take(np.roll(np.arange(len(rows)), 1))
    return Rows(
        columns,
        np.where(moved[0], before.numeric, rows.numeric),
        np.where(moved[1], before.codes, rows.codes),
    )


def _halves(
    columns: Columns, halves: tuple[Sequence[str], Sequence[str]] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of either file; numbers and categories are spread over both."""
    if halves is None:
        numeric, discrete = columns.numeric, columns.discrete
        odd = len(numeric) % 2  # so that the halves differ by at most one column
        first = numeric[::2] + discrete[odd::2]
        return first, tuple(name for name in columns.names if name not in first)
    for name in (*halves[0], *halves[1]):
        if name not in columns.names:
            raise SchemaError(
                f"no column '{name}' can be linked", do=nearest_names(name, columns.names)
            )
    shared = set(halves[0]) & set(halves[1])
    if shared:
        raise SchemaError(
            "columns are in both halves", got=", ".join(sorted(shared)), do="leave them in one"
        )
    return tuple(halves[0]), tuple(halves[1])
