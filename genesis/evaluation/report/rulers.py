"""Marks on the lines that show a score between its worst and its best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genesis.evaluation.report.values import at, place

__all__ = ["Mark", "auc_mark"]

AUC_ENDS = (0.4, 1.0)
"""An AUC below 0.4 lies at the left end: there is nothing to be told apart there."""


@dataclass(frozen=True)
class Mark:
    """A point on a ruler.

    Args:
        name: What it stands for, which decides how it looks.
        at: Where it lies, in per cent from the left.
        low: Where its interval begins; None if it has none.
        high: Where its interval ends.
    """

    name: str
    at: float
    low: float | None = None
    high: float | None = None


def auc_mark(name: str, scores: Mapping[str, Any], prefix: str = "") -> Mark | None:
    """Where an AUC lies, with the interval under the prefix's "low" and "high"."""
    keys = ("auc", f"{prefix}low", f"{prefix}high")
    value, low, high = (place(at(scores, key), *AUC_ENDS) for key in keys)
    return None if value is None else Mark(name, value, low, high)
