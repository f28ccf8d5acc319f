"""Members that stand in the synthetic rows as they are, beside non-members that do.

A synthetic row may equal a real one by chance, and then it equals a non-member as easily. If chance
decided who was trained on, each real row that is found again is a member with the probability that
any real row is one: more members than that are copies. All rows are looked at, so that a few copies
among very many members are seen, which attacks on samples miss.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genesis.evaluation.rows import Rows

__all__ = ["Copies", "copies"]

CHANCE = 0.01
"""Copies are found where fewer tables than this have as many by chance."""


@dataclass(frozen=True)
class Copies:
    """Real rows that are found again among the synthetic ones.

    Args:
        members: How many of them are members.
        non_members: How many are not.
        share: Share of the members among all real rows that were looked for.
        p_value: The chance of so many members or more.
    """

    members: int
    non_members: int
    share: float
    p_value: float

    @property
    def found(self) -> bool:
        """Whether there are more members than chance explains."""
        return self.p_value < CHANCE

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return asdict(self) | {"found": self.found}


def copies(members: Rows, non_members: Rows, synthetic: Rows) -> Copies:
    """Look for real rows among the synthetic ones.

    Only rows that no other real row equals are looked for: of a group of equal rows one would have
    to know how likely all of them are on one side. The test is Fisher's exact one (hypergeometric).

    Args:
        members: All rows that the generator was trained on.
        non_members: Rows of the same population that it was not.
        synthetic: What it made.
    """
    from scipy import stats

    keys = np.concatenate([members.keys(), non_members.keys()])
    distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
    alone = counts == 1
    is_member = first[alone] < len(members)
    again = np.isin(distinct[alone], synthetic.keys())
    n, ours, found = int(alone.sum()), int(is_member.sum()), int(again.sum())
    hits = int((again & is_member).sum())
    chance = float(stats.hypergeom.sf(hits - 1, n, ours, found)) if found else 1.0
    return Copies(hits, found - hits, ours / max(n, 1), chance)
