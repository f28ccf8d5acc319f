"""What a section of the page is made from, and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from genesis.evaluation.report.figures import Figure

__all__ = ["Content", "Measured", "Scores", "Section"]

Scores = Mapping[str, Any]


class Measured(NamedTuple):
    """All that a report is given.

    Args:
        scores: The numbers.
        pictures: What plots draw.
    """

    scores: Scores
    pictures: Scores


class Content(NamedTuple):
    """What a section shows.

    Args:
        data: What its template needs.
        plots: Its plots.
    """

    data: Mapping[str, Any]
    plots: tuple[Figure, ...] = ()


class Section(NamedTuple):
    """A part of the page.

    Args:
        id: Its anchor, and its texts in reading.py.
        title: Its heading.
        lead: What it is about, in one sentence.
        why: Why there is nothing to show, unless the scores say so themselves; nothing is said if
            it is empty.
        build: What it shows; None if there is nothing.
        template: The file in sections/ that shows it; called after the anchor if empty.
        key: Where the scores have their own "why"; called after the anchor if empty.
    """

    id: str
    title: str
    lead: str
    why: str
    build: Callable[[Measured], Content | None]
    template: str = ""
    key: str = ""
