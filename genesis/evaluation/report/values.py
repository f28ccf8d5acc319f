"""Numbers in nested scores: how they are found, and how they are written for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "at",
    "count",
    "digits",
    "finite",
    "interval",
    "number",
    "percent",
    "place",
    "sentence",
    "tied",
    "without_gaps",
    "words",
]

TIE = "\N{NO-BREAK SPACE}"
"""What keeps a number and its sign on one line."""

NOTHING = "–"
"""What stands where there is no number."""


def at(scores: Any, *path: str) -> Any:
    """What lies at the end of a path of keys, or None where the path breaks off."""
    for key in path:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return scores


def without_gaps(part: Any) -> Any:
    """The same without what is None or no number: a key that is there says something."""
    if isinstance(part, Mapping):
        kept = {key: without_gaps(value) for key, value in part.items()}
        return {key: value for key, value in kept.items() if value is not None}
    if isinstance(part, list | tuple):
        return [value for value in map(without_gaps, part) if value is not None]
    return None if isinstance(part, float) and not math.isfinite(part) else part


def finite(value: Any) -> float | None:
    """A number that can be drawn and compared, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number(value: Any, decimals: int = 3) -> str:
    """A score: 0.974; counts beyond a thousand lose their decimals."""
    known = finite(value)
    if known is None:
        return NOTHING
    if abs(known) >= 1000 or (isinstance(value, int) and abs(known) > 1):
        return f"{known:,.0f}"
    return f"{known:.{decimals}f}".replace("-", "−")


def digits(value: Any) -> str:
    """A number of any size in three digits: 1e-05; a count in full."""
    known = finite(value)
    if known is None:
        return NOTHING
    return f"{known:,.0f}" if isinstance(value, int) else f"{known:.3g}".replace("-", "−")


def percent(value: Any) -> str:
    """A share: 97.4 %."""
    known = finite(value)
    if known is None:
        return NOTHING
    share = 100 * known
    form = ".0f" if share in (0, 100) else ".1f" if abs(share) >= 0.1 else ".1g"
    return f"{share:{form}}{TIE}%".replace("-", "−")


def count(value: Any) -> str:
    """How many: 32,561."""
    known = finite(value)
    return NOTHING if known is None else f"{known:,.0f}"


def interval(low: Any, high: Any) -> str:
    """Both ends of an interval, or nothing where there is none."""
    if finite(low) is None or finite(high) is None:
        return ""
    return f"{number(low)}{TIE}to{TIE}{number(high)}"


def place(value: Any, left: float, right: float) -> float | None:
    """Where a value lies on a ruler from left (0) to right (100), its ends included."""
    known = finite(value)
    if known is None:
        return None
    return round(min(max(100 * (known - left) / (right - left), 0.0), 100.0), 2)


def tied(text: str) -> str:
    """A text that does not break before a per cent sign."""
    return text.replace(" %", f"{TIE}%")


def sentence(text: str) -> str:
    """A clause as a sentence, with a capital and a full stop."""
    ended = text if text.endswith((".", "?", "!")) else f"{text}."
    return text and ended[:1].upper() + ended[1:]


def words(name: str) -> str:
    """A key as a person would write it: "noisy_copier" → "Noisy copier"."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
