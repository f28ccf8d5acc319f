"""The sections about how good synthetic rows are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genesis.evaluation.report import figures
from genesis.evaluation.report.figures import Figure
from genesis.evaluation.report.names import MEASURES, RULES
from genesis.evaluation.report.rulers import Mark, auc_mark
from genesis.evaluation.report.section import Content, Measured, Scores
from genesis.evaluation.report.values import at, finite, place, words

__all__ = [
    "columns",
    "controls",
    "detection",
    "invalid_columns",
    "losses",
    "pairs",
    "similarity",
    "utility",
]

SHOWN = 12
"""Plots that are open from the start, and rows of a ranking."""


@dataclass(frozen=True)
class Measure:
    """A score beside its controls.

    Args:
        label: Its name.
        best: What would be best.
        scores: The score of the tables "synthetic", "shuffled" and "holdout".
        marks: The same on a ruler, better to the right.
    """

    label: str
    best: str
    scores: Scores
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class ColumnCard:
    """A column: its scores and its plot."""

    name: str
    score: Any
    metric: str
    jsd: Any
    wd: Any
    coverage: Any
    figure: Figure | None


def controls(measured: Measured) -> Content | None:
    """Each score of the synthetic rows beside those of shuffled columns and of the holdout."""
    if not any(at(measured.scores, "controls", name) for name in ("shuffled", "holdout")):
        return None
    scores = measured.scores
    held = not scores.get("tables") or "holdout" in scores["tables"]
    return Content({"measures": [m for m in _measures(scores) if m.marks], "held": held})


def _measures(scores: Scores) -> Iterator[Measure]:
    """What the classifier sees, what models learn, and what SDMetrics says."""

    def measure(label: str, best: str, key: str, worst: float, top: float, *path: str) -> Measure:
        found = {name: at(scores, "controls", name, key) for name in ("shuffled", "holdout")}
        found["synthetic"] = at(scores, *path)
        places = {name: place(value, worst, top) for name, value in found.items()}
        marks = [Mark(name, where) for name, where in places.items() if where is not None]
        return Measure(label, best, found, tuple(marks))

    logistic = ("detection", "models", "logistic_regression", "auc")
    metric = at(scores, "utility", "metric") or "utility"
    learned = f"{MEASURES.get(metric, words(metric))} of a model trained on it"
    chance = 0.5 if metric == "auroc" else 0.0
    trends = "column_pair_trends"
    yield measure("Told from real, boosting", "0.5", "c2st_auc", 1, 0.5, "detection", "c2st_auc")
    yield measure("Told from real, logistic", "0.5", "c2st_logistic", 1, 0.5, *logistic)
    yield measure(learned, "1", "tstr", chance, 1, "utility", "tstr")
    yield measure("Quality", "1", "quality", 0, 1, "fidelity", "quality")
    yield measure("Column shapes", "1", "column_shapes", 0, 1, "fidelity", "column_shapes")
    yield measure("Pair trends", "1", trends, 0, 1, "fidelity", trends)


def columns(measured: Measured) -> Content | None:
    """Every column, those that differ most first."""
    fidelity = measured.scores.get("fidelity") or {}
    drawn = measured.pictures.get("distributions") or {}
    cards = [
        ColumnCard(
            name=str(name),
            score=at(fidelity, "columns", name, "score"),
            metric=at(fidelity, "columns", name, "metric") or "",
            jsd=at(fidelity, "jsd", name),
            wd=at(fidelity, "wd", name),
            coverage=at(fidelity, "coverage", "columns", name, "score"),
            figure=figures.distribution(i, name, drawn[name]) if name in drawn else None,
        )
        for i, name in enumerate(dict.fromkeys([*(fidelity.get("columns") or ()), *drawn]))
    ]
    if not cards and at(fidelity, "quality") is None:
        return None
    cards.sort(key=lambda card: (finite(card.score) is None, finite(card.score) or 0.0))
    plotted = [card for card in cards if card.figure]
    data = {
        "fidelity": fidelity,
        "cards": cards,
        "first": plotted[:SHOWN],
        "more": plotted[SHOWN:],
        "holdout": any(at(picture, "holdout") for picture in drawn.values()),
        "invalid": invalid_columns(measured.scores),
        "rules": RULES,
        "audit": measured.scores.get("kind") == "audit",
    }
    return Content(data, tuple(card.figure for card in plotted if card.figure))


def invalid_columns(scores: Scores) -> list[Scores]:
    """Columns with values that break the rules of SDMetrics' diagnosis."""
    checked = at(scores, "fidelity", "diagnostic", "columns") or ()
    return [
        entry
        for entry in checked
        if (score := finite(entry.get("score"))) is not None and score < 1
    ]


def pairs(measured: Measured) -> Content | None:
    """Heat maps, and the pairs that agree least."""
    every = at(measured.scores, "fidelity", "pairs") or ()
    judged = [pair for pair in every if finite(pair.get("score")) is not None]
    drawn = measured.pictures.get("trends") or {}
    if not judged and not drawn.get("columns"):
        return None
    worst = sorted(judged, key=lambda pair: float(pair["score"]))[:SHOWN]
    plots = figures.trends(drawn)
    gaps = any(None in row for plot in plots for row in plot.data["cells"])
    return Content({"pairs": worst, "total": len(judged), "gaps": gaps}, plots)


def detection(measured: Measured) -> Content | None:
    """Classifiers, and the columns they go by."""
    found = measured.scores.get("detection") or {}
    if finite(found.get("c2st_auc")) is None:
        return None
    models = [
        (words(name), entry, auc_mark("synthetic", entry))
        for name, entry in (found.get("models") or {}).items()
    ]
    ranked = list(found.get("columns") or ())[:SHOWN]
    most = max((finite(entry.get("importance")) or 0.0 for entry in ranked), default=0.0)
    return Content({"found": found, "models": models, "ranked": ranked, "most": most or 1.0})


def utility(measured: Measured) -> Content | None:
    """Models by what they were trained on, and what they rely on."""
    found = measured.scores.get("utility") or {}
    models: Scores = found.get("models") or {}
    if not models and found.get("tstr") is None:
        return None
    metrics = dict.fromkeys(
        metric for model in models.values() for scores in model.values() for metric in scores or ()
    )
    relied = {kind: at(found, "importances", kind) or {} for kind in ("real", "synthetic")}
    weights = {
        name: max(finite(part.get(name)) or 0.0 for part in relied.values())
        for name in [*relied["real"], *relied["synthetic"]]
    }
    ranked = sorted(weights, key=lambda name: -weights[name])[:SHOWN]
    data = {
        "found": found,
        "models": models,
        "metrics": {metric: MEASURES.get(metric, words(metric)) for metric in metrics},
        "ranked": [
            (name, relied["real"].get(name), relied["synthetic"].get(name)) for name in ranked
        ],
        "most": max(weights.values(), default=0.0) or 1.0,
    }
    return Content(data)


def similarity(measured: Measured) -> Content | None:
    """Distances and copies beside the holdout's."""
    found = measured.scores.get("similarity") or {}
    return Content({"found": found}) if set(found) - {"why", "label"} else None


def losses(measured: Measured) -> Content | None:
    """Metrics of training."""
    rounds = measured.pictures.get("losses")
    return Content({}, (figures.losses(rounds),)) if rounds else None
