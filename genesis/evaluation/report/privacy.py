"""The sections about what an attacker learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genesis.evaluation.report import figures
from genesis.evaluation.report.names import (
    NEGATIVE,
    POSITIVE,
    attack_label,
    column_label,
    control_label,
)
from genesis.evaluation.report.rulers import Mark, auc_mark
from genesis.evaluation.report.section import Content, Measured, Scores
from genesis.evaluation.report.values import at, finite, words

__all__ = ["attacks", "membership", "model_attacks", "one_run", "risk", "risk_rows"]

ONE_RUN = {
    "epsilon": "ε at least",
    "ceiling": "Ceiling: ε if every guess had been right",
    "correct": "Right guesses",
    "guesses": "Guesses",
    "canaries": "Canaries",
    "included": "Canaries trained on",
    "p_value": "p-value if ε were 0",
    "delta": "δ",
    "level": "Confidence",
    "attack": "Attack",
}
"""What the numbers of an audit in one run are called, in the order in which they are shown."""


SHOWN = 12
"""Rates that are shown, those of the surest risks."""

KINDS = {"univariate": "one column", "multivariate": "several columns"}
"""Kinds of guesses; others are called after the column that is guessed, or as they are."""

WAYS = {"nearest": "by the nearest row", "boosting": "by boosting"}
"""Ways to guess a secret."""


@dataclass(frozen=True)
class AttackRow:
    """An attack on the synthetic rows, or the strongest one on a control.

    Args:
        label: Name of the attack or the control.
        scores: What it reached.
        mark: Its AUC on a ruler.
        worst: Whether it is the strongest of all.
        sees: What the attacker has to hold, if the scores say so.
        by: For a control, the attack that it was.
        result: For a control, whether it was found, in words.
        tone: "alert" where a control came out as it should not.
    """

    label: str
    scores: Scores
    mark: Mark | None
    worst: bool = False
    sees: str = ""
    by: str = ""
    result: str = ""
    tone: str = "plain"


@dataclass(frozen=True)
class RiskRow:
    """A rate beside its baseline and its control.

    Args:
        label: What is guessed.
        scores: "rate", "control" and "risk", with their intervals.
    """

    label: str
    scores: Scores


def membership(scores: Scores) -> Scores:
    """The attacks of an evaluation ("privacy") or of an audit (at the top)."""
    part = scores if scores.get("kind") == "audit" else scores.get("privacy")
    return part if isinstance(part, Mapping) else {}


def attacks(measured: Measured) -> Content | None:
    """Membership inference: attacks, and the controls that show their power."""
    part = membership(measured.scores)
    if not part.get("attacks"):
        return None
    power = part.get("power") or {}
    controls = {
        "positive": [_control_row(name, power[name], True) for name in POSITIVE if name in power],
        "negative": [_control_row(name, power[name], False) for name in NEGATIVE if name in power],
    }
    drawn = measured.pictures.get("curves")
    plots = (figures.curves(drawn, part.get("worst")),) if drawn else ()
    return Content({"part": part, "attacks": _attack_rows(part), "controls": controls}, plots)


def model_attacks(key: str) -> Callable[[Measured], Content | None]:
    """The builder of a section of attacks that have no controls of their own."""

    def build(measured: Measured) -> Content | None:
        part = measured.scores.get(key) or {}
        if not part.get("attacks"):
            return None
        return Content({"part": part, "attacks": _attack_rows(part), "controls": {}})

    return build


def _attack_rows(part: Scores) -> list[AttackRow]:
    """Attacks, the strongest first."""
    rows = [
        AttackRow(
            attack_label(name),
            entry,
            auc_mark("synthetic", entry, "auc_"),
            worst=name == part.get("worst"),
            sees=str(at(part, "sees", name) or ""),
        )
        for name, entry in part["attacks"].items()
    ]
    return sorted(rows, key=lambda row: (not row.worst, -(finite(row.scores.get("auc")) or 0.0)))


def _control_row(name: str, entry: Scores, expected: bool) -> AttackRow:
    """What the attacks made of a control that they should find, or should not."""
    found, same = entry.get("found"), entry.get("same_as")
    by = f"the same rows as “{control_label(same)}”" if same else attack_label(entry["attack"])
    said = (
        {True: "found", False: "missed"}
        if expected
        else {True: "false alarm", False: "nothing found"}
    )
    return AttackRow(
        control_label(name),
        entry,
        auc_mark("positive" if expected else "negative", entry, "auc_"),
        by=by,
        result=said[bool(found)],
        tone="plain" if bool(found) == expected else "alert",
    )


def risk(key: str) -> Callable[[Measured], Content | None]:
    """The builder of a section of rates beside their controls."""

    def build(measured: Measured) -> Content | None:
        rows = risk_rows(measured.scores.get(key))
        if not rows:
            return None
        reference = any("reference" in row.scores for row in rows)
        data = {"rows": rows[:SHOWN], "total": len(rows), "reference": reference}
        return Content(data)

    return build


def risk_rows(part: Any) -> list[RiskRow]:
    """Every rate in a section, the surest risk first."""
    rows = list(_rates(part, ()))
    keys = ("risk_low", "risk")
    return sorted(rows, key=lambda row: [-(finite(row.scores.get(key)) or 0.0) for key in keys])


def _rates(part: Any, path: tuple[str, ...]) -> Iterator[RiskRow]:
    """The rates of a section: one, or one for each kind of guess and each column."""
    if not isinstance(part, Mapping):
        return
    kinds = [row for key, inner in part.items() for row in _rates(inner, (*path, str(key)))]
    # A rate beside others is that of the worst of them.
    if kinds or "rate" not in part:
        yield from kinds
        return
    if len(path) > 1 and path[0] == "columns":
        _, column, *ways = path
        label = " ".join([column_label(column), *(WAYS.get(way, way) for way in ways)])
    else:
        label = ", ".join(KINDS.get(key, column_label(key)) for key in path)
    yield RiskRow(label or "all guesses", part)


def one_run(measured: Measured) -> Content | None:
    """Every number of the audit, the bound and its ceiling first."""
    found = measured.scores.get("one_run") or {}
    known = {key: value for key, value in found.items() if isinstance(value, int | float | str)}
    known.pop("why", None)
    order = [
        *(key for key in ONE_RUN if key in known),
        *(key for key in known if key not in ONE_RUN),
    ]
    named = known | {"attack": attack_label(str(known["attack"]))} if "attack" in known else known
    rows = [(ONE_RUN.get(key, words(key)), named[key]) for key in order]
    return Content({"rows": rows}) if rows else None
