"""`method="auto"`: the method that our measurements speak for. See docs/choosing-a-method.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genesis.models import is_sum_model
from genesis.privacy.budget import Privacy

__all__ = ["AUTO", "advice", "chosen_method", "recommended", "suited"]

AUTO = "auto"

SMALL_EPSILON = 3.0
"""Up to here noisy marginals are far better than noisy steps of any network."""

SUM_STATISTICS = 0.35
"""Share of a promise for the statistics of columns, if a model is fitted from sums."""


def recommended(promise: Privacy | None) -> str:
    """The method for a table under a promise of privacy, or under none.

    What decides is known before any row is seen: a choice that followed the rows would tell of
    them, and clients that have different rows must come to the same one.
    """
    if promise is None:
        return "circuit"
    # Whole clients are hidden in updates; no sum over rows is bounded by what a client may hold.
    return "tvae" if promise.unit == "client" else "marginals"


def chosen_method(method: str, promise: Privacy | None) -> str:
    """The name of a method, with "auto" decided."""
    return recommended(promise) if method == AUTO else method


def suited(method: str, privacy: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """An argument ``privacy=`` with what suits a method, where it does not say otherwise.

    Sums over the rows are few, so more of a promise is left for the statistics of single columns,
    which they are about.
    """
    given = None if privacy is None else privacy.get("differential_privacy")
    if not isinstance(given, Mapping) or "statistics" in given or not is_sum_model(method):
        return privacy
    return {"differential_privacy": {**given, "statistics": SUM_STATISTICS}}


def advice(method: str, promise: Privacy | None) -> str | None:
    """What to say to somebody who has chosen a method that noise hurts more than another."""
    if promise is None or promise.unit != "record" or promise.epsilon > SMALL_EPSILON:
        return None
    better = recommended(promise)
    if method == better:
        return None
    return f"at ε = {promise.epsilon:g} {better} is far closer to the table than {method}"
