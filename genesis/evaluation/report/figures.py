"""What each plot draws, as plain data; page.js gives it colours and hands it to Plotly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from genesis.evaluation.report.names import POSITIVE, SHORT, attack_label, control_label
from genesis.evaluation.report.values import finite, percent, words

__all__ = ["Figure", "curves", "distribution", "losses", "trends"]

OTHERS = re.compile(r"[\d,]+ others")
"""What a bar is called that stands for several categories already."""

BARS = 9
"""Categories that a small plot has room for; the others share one bar."""


@dataclass(frozen=True)
class Figure:
    """One plot.

    Args:
        id: Its anchor.
        draw: The function of page.js that draws it.
        title: What it shows.
        says: The same in words, for those who do not see it.
        data: What is drawn, ready for JSON.
    """

    id: str
    draw: str
    title: str
    says: str
    data: Mapping[str, Any]


def distribution(index: int, name: str, picture: Mapping[str, Any]) -> Figure:
    """Shares of one column, real beside synthetic (and beside the holdout's)."""
    shares = {table: _numbers(picture.get(table)) for table in ("real", "synthetic", "holdout")}
    if "edges" in picture:
        edges = list(picture["edges"])
        labels = [_bar(low, high) for low, high in pairwise(edges)]
        draw = "dates" if picture.get("kind") == "datetime" else "numbers"
        data: dict[str, Any] = {"edges": edges, "labels": labels}
    else:
        labels, shares = _folded([str(label) for label in picture.get("labels") or ()], shares)
        draw, data = "categories", {"labels": labels}
    says = _largest_gap(labels, shares) + _nulls(picture.get("nulls"))
    return Figure(f"distribution-{index}", draw, name, says, data | shares)


def _folded(
    labels: list[str], shares: Mapping[str, list[float | None] | None]
) -> tuple[list[str], dict[str, list[float | None] | None]]:
    """The largest categories in their order; the others added up."""
    if len(labels) <= BARS:
        return labels, dict(shares)
    weights = [
        max(values[i] or 0.0 for values in shares.values() if values) for i in range(len(labels))
    ]
    single = [i for i in range(len(labels)) if not OTHERS.fullmatch(labels[i])]
    kept = sorted(sorted(single, key=lambda i: -weights[i])[: BARS - 1])
    rest = [i for i in range(len(labels)) if i not in set(kept)]
    folded = {
        table: values and [*(values[i] for i in kept), sum(values[i] or 0.0 for i in rest)]
        for table, values in shares.items()
    }
    return [*(labels[i] for i in kept), "all others"], folded


def _largest_gap(labels: Sequence[str], shares: Mapping[str, Any]) -> str:
    """Where real and synthetic shares differ most."""
    real, synthetic = shares.get("real") or (), shares.get("synthetic") or ()
    gaps = [
        (abs(r - s), label, r, s)
        for label, r, s in zip(labels, real, synthetic, strict=False)
        if r is not None and s is not None
    ]
    if not gaps:
        return "No shares to compare."
    gap, label, r, s = max(gaps, key=lambda gap: gap[0])
    if gap < 0.0005:
        return "The same shares."
    return f"Largest gap at {label}: real {percent(r)}, synthetic {percent(s)}."


def _nulls(nulls: Mapping[str, Any] | None) -> str:
    """Shares of nulls, where there are any."""
    known = {table: finite(value) for table, value in (nulls or {}).items()}
    if not any(known.values()):
        return ""
    said = ", ".join(
        f"{table} {percent(known[table])}" for table in ("real", "synthetic") if table in known
    )
    return f" Nulls: {said}."


def _bar(low: Any, high: Any) -> str:
    """What lies between two edges: a range, or the one whole number that there is."""
    first, last = finite(low), finite(high)
    if first is not None and last == first + 1 and first % 1 == 0.5:
        return f"{first + 0.5:,.0f}".replace("-", "−")
    return f"{_edge(low)} to {_edge(high)}"


def _edge(value: Any) -> str:
    """An edge of a bar: a number in few digits, a moment as it is."""
    known = finite(value)
    if known is None:
        return str(value).replace("T", " ")
    return (f"{known:,.0f}" if abs(known) >= 1000 else f"{known:.3g}").replace("-", "−")


def trends(picture: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Heat maps over pairs of columns: how far they agree, and both tables' own associations."""
    columns = [str(name) for name in picture.get("columns") or ()]
    titles = {
        "score": ("Agreement", "Agreement of each pair of columns: 1 is the same in both tables."),
        "real": ("Real rows", "How strongly each pair of columns goes together in the real rows."),
        "synthetic": ("Synthetic rows", "The same in the synthetic rows."),
    }
    figures = []
    for key, (title, says) in titles.items():
        if picture.get(key) is None:
            continue
        cells = [[finite(value) for value in row] for row in picture[key]]
        lowest = min((value for row in cells for value in row if value is not None), default=0.0)
        # Agreement is mostly close to 1: its scale begins where the worst pair is, or at 0.5.
        if key == "score":
            scale, low = "agreement", min(lowest, 0.5)
        else:
            scale, low = ("signed", -1.0) if lowest < 0 else ("plain", 0.0)
        data = {"columns": columns, "cells": cells, "scale": scale, "low": low}
        figures.append(Figure(f"trends-{key}", "pairs", title, says, data))
    return tuple(figures)


def curves(picture: Mapping[str, Any], worst: str | None) -> Figure:
    """ROC curves of attacks and controls, on log axes."""
    lines = []
    for name, curve in picture.items():
        if curve.get("control"):
            role = "positive" if name in POSITIVE else "negative"
        else:
            role = "worst" if name == worst else "attack"
        label = control_label(name) if curve.get("control") else attack_label(name)
        points = {"fpr": _numbers(curve.get("fpr")), "tpr": _numbers(curve.get("tpr"))}
        lines.append({"name": label, "short": SHORT.get(name), "role": role, **points})
    # The strongest attack is drawn last, above the others.
    order = ("negative", "positive", "attack", "worst")
    lines.sort(key=lambda line: order.index(line["role"]))
    says = "Attacks and controls on log axes; the tables below have the rates at 1 % and 0.1 %."
    return Figure(
        "plot-curves", "curves", "Members found against false alarms", says, {"lines": lines}
    )


def losses(rounds: Sequence[Mapping[str, Any]]) -> Figure:
    """Every metric of training over the rounds."""
    names = dict.fromkeys(name for metrics in rounds for name in metrics)
    lines = [
        {"name": words(name), "values": _numbers([metrics.get(name) for metrics in rounds])}
        for name in names
    ]
    says = f"{len(lines)} metrics over {len(rounds)} rounds."
    return Figure("plot-losses", "losses", "Metrics by round", says, {"lines": lines})


def _numbers(values: Sequence[Any] | None) -> list[float | None] | None:
    """Numbers ready for JSON; what is not finite is a gap."""
    return None if values is None else [finite(value) for value in values]
