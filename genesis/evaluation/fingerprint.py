"""Columns whose values occur exactly as often as the members', whatever they are called.

No re-coding of a column that can be undone changes how often its values occur: members in any other
coding keep these counts, while fresh rows have others. So counts show what attacks that compare
values, or translate them, cannot see. Members who were drawn anew, or in part, have other counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genesis.evaluation.rows import Rows

__all__ = ["same_counts"]

TELLING = 8
"""Different counts that a column needs: of fresh rows each is right in less than half of the cases,
so that all are in less than 1 of 200."""


def same_counts(members: Rows, synthetic: Rows) -> tuple[str, ...]:
    """Names of columns with the same counts of values in both tables; sorted.

    Args:
        members: All rows that the generator was trained on.
        synthetic: What it made; where it has more rows or fewer, no counts can be the same.
    """
    if len(members) != len(synthetic):
        return ()
    columns = zip(
        members.columns.names,
        [*members.numeric.T, *members.codes.T],
        [*synthetic.numeric.T, *synthetic.codes.T],
        strict=True,
    )
    found = []
    for name, ours, made in columns:
        counts = _counts(ours)
        if len(np.unique(counts)) >= TELLING and np.array_equal(counts, _counts(made)):
            found.append(name)
    return tuple(sorted(found))


def _counts(cells: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """How often the values of a column (n,) occur, rising; nulls are a value."""
    return np.sort(np.unique(cells, return_counts=True)[1])
