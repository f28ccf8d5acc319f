"""Checks of the numbers that rules are configured with."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from genesis.errors import PlanError

__all__ = ["check_count", "check_interval"]


def check_interval(name: str, value: Any, interval: str) -> None:
    """Refuse a value outside an interval, written as in "[0, 1)" or "(0, inf)".

    Raises:
        PlanError: The value is not a number in the interval.
    """
    low, high = map(float, interval[1:-1].split(","))
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):  # NaN is neither
        raise PlanError(f"{name} is out of range", got=repr(value), do=f"choose from {interval}")


def check_count(name: str, value: Any, at_least: int) -> None:
    """Refuse a value that is not a whole number of at least so much.

    Raises:
        PlanError: It is not.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise PlanError(
            f"{name} is out of range", got=repr(value), do=f"choose a whole number >= {at_least}"
        )
