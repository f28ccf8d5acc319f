"""How often an attacker guesses right, and how much of that the synthetic rows gave away.

An attacker guesses about members and, in the same way, about people who were never trained on: the
control. What can be said about the control is knowledge of the population. Only what is said better
about members is a leak (Giomi et al. 2023, "A Unified Framework for Quantifying Privacy Risk in
Synthetic Data"):

    risk = (rate - control) / (1 - control) = 1 - (1 - rate) / (1 - control)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from genesis.evaluation.intervals import Interval, proportion_interval
from genesis.evaluation.rows import Rows

__all__ = ["Guesses", "difference_interval", "drawn", "risk_interval"]


@dataclass(frozen=True)
class Guesses:
    """Guesses about members beside the same guesses about a control.

    Args:
        n: Number of guesses about members.
        rate: Share of these that are right; None if nothing could be guessed.
        baseline: Share that is right without looking at the synthetic rows' details.
        control: Share of guesses about the control that are right.
        risk: What is guessed better about members, in [0, 1]; None if it means nothing.
        reason: Why there is None.
    """

    n: int = 0
    rate: Interval | None = None
    baseline: float | None = None
    control: Interval | None = None
    risk: Interval | None = None
    reason: str | None = None

    @classmethod
    def count(
        cls,
        right: int,
        n: int,
        right_control: int,
        n_control: int,
        *,
        baseline: float | None,
        level: float,
    ) -> Guesses:
        """What numbers of right guesses say.

        Args:
            right: Right guesses about members.
            n: Guesses about members, at least 1.
            right_control: Right guesses about the control.
            n_control: Guesses about the control, at least 1.
            baseline: See the class.
            level: Confidence of both rates, in (0, 1).
        """
        rate = proportion_interval(right, n, level=level)
        control = proportion_interval(right_control, n_control, level=level)
        return cls.of(n, rate, baseline, control)

    @classmethod
    def of(cls, n: int, rate: Interval, baseline: float | None, control: Interval) -> Guesses:
        """What the rates of n guesses about members, and of others about the control, say."""
        risk = risk_interval(rate, control)
        reason = None if risk else "the control is always guessed: nothing can be guessed better"
        return cls(n, rate, baseline, control, risk, reason)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        entry: dict[str, Any] = {"guesses": self.n, "baseline": self.baseline}
        for name, value in (("rate", self.rate), ("control", self.control), ("risk", self.risk)):
            prefix = "" if name == "rate" else f"{name}_"
            entry[name] = value and value.value
            entry[f"{prefix}low"] = value and value.low
            entry[f"{prefix}high"] = value and value.high
        return entry | {"reason": self.reason}

    @property
    def sure_risk(self) -> float:
        """The lower end of the risk: above 0 where something surely leaks; -1 if there is none."""
        return self.risk.low if self.risk else -1.0

    @property
    def severity(self) -> tuple[float, float]:
        """What guesses are ranked by: what surely leaks, then what seems to."""
        return self.sure_risk, self.risk.value if self.risk else -1.0


def risk_interval(rate: Interval, control: Interval) -> Interval | None:
    """The risk with its interval, cut to [0, 1].

    1 - risk is a ratio of two rates of failure, a / b. Its interval follows from theirs by the
    method of variance estimates recovery (Donner & Zou 2012):

        [ab ∓ √((ab)² - t)] / s,  t = l_a u_b (2a - l_a)(2b - u_b) with s = u_b (2b - u_b) below,
                                  t = u_a l_b (2a - u_a)(2b - l_b) with s = l_b (2b - l_b) above.

    Returns:
        None where the control is always guessed.
    """
    a, l_a, u_a = 1 - rate.value, 1 - rate.high, 1 - rate.low
    b, l_b, u_b = 1 - control.value, 1 - control.high, 1 - control.low
    if b <= 0:
        return None
    # The lower end is expanded by its conjugate: its own form is 0 / 0 where u_b = 2b.
    root = math.sqrt(max(0.0, (a * b) ** 2 - l_a * u_b * (2 * a - l_a) * (2 * b - u_b)))
    low = l_a * (2 * a - l_a) / (a * b + root) if a > 0 else 0.0
    root = math.sqrt(max(0.0, (a * b) ** 2 - u_a * l_b * (2 * a - u_a) * (2 * b - l_b)))
    scale = l_b * (2 * b - l_b)
    high = (a * b + root) / scale if scale > 0 else math.inf
    return Interval(*(min(1.0, max(0.0, 1 - ratio)) for ratio in (a / b, high, low)))


def difference_interval(first: Interval, second: Interval) -> Interval:
    """first - second with its interval, by the same method (Newcombe 1998, method 10).

    It takes the two for independent; where both are about the same people, it is a little wide.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, max(-1.0, value - below), min(1.0, value + above))


def drawn(rows: Rows, most: int, rng: np.random.Generator) -> Rows:
    """At most so many of the rows, in random order."""
    return rows.take(rng.permutation(len(rows))[:most])
