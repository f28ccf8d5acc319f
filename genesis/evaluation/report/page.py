"""The page: one HTML file with everything inside of it.

Two fences keep data from being more than data. Jinja escapes every value; and a content security
policy lets the browser run two scripts alone, those with the hashes that are named in it, and load
nothing at all.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from genesis.evaluation.report import summary, values
from genesis.evaluation.report.names import column_label
from genesis.evaluation.report.privacy import membership
from genesis.evaluation.report.reading import READING
from genesis.evaluation.report.section import Content, Measured, Section
from genesis.evaluation.report.sections import AUDIT, EVALUATION

__all__ = ["render"]

TITLES = {
    "evaluation": "How good are these synthetic rows, and do they leak?",
    "audit": "Do these synthetic rows leak?",
}

TABLES = {"non_members": "Non-members"}
"""Names that are not their keys."""


def render(scores: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """The page of `Report.to_html`."""
    scores = values.without_gaps(scores)
    contents, missing = _contents(Measured(scores, pictures))
    figures = [dataclasses.asdict(figure) for _, content in contents for figure in content.plots]
    audit = scores.get("kind") == "audit"
    answers = [summary.privacy(scores)]
    if not audit:
        answers.insert(0, summary.good(scores))
    # Plotly is most of the file: it is left out where there is nothing to draw.
    scripts = [_plotly(), _read("page.js")] if figures else []
    page = _environment().get_template("page.html")
    return page.render(
        title=TITLES["audit" if audit else "evaluation"],
        kind="Privacy audit" if audit else "Evaluation",
        tables=_tables(scores),
        answers=answers,
        reasons=_reasons(membership(scores).get("verdict")),
        pointers=summary.look(scores),
        contents=contents,
        missing=missing,
        figures=figures,
        style=Markup(_read("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def _contents(
    measured: Measured,
) -> tuple[list[tuple[Section, Content]], list[tuple[Section, str]]]:
    """The sections that have something to show, and the others with the reason."""
    present, missing = [], []
    for section in AUDIT if measured.scores.get("kind") == "audit" else EVALUATION:
        content = section.build(measured)
        if content is None:
            part = values.at(measured.scores, section.key or section.id)
            why = values.at(part, "why") or values.at(part, "reason") or section.why
            if why:
                missing.append((section, values.sentence(str(why))))
        else:
            present.append((section, content))
    return present, missing


def _reasons(verdict: Mapping[str, Any] | None) -> list[str]:
    """What the verdict on privacy rests on, as far as its sentence does not say it."""
    reasons, text = values.at(verdict, "reasons") or (), values.at(verdict, "text") or ""
    return [reason for reason in reasons if reason not in text]


def _tables(scores: Mapping[str, Any]) -> list[str]:
    """Each table with its size: "Real: 32,561 rows × 15 columns"."""
    lines = []
    for name, table in (scores.get("tables") or {}).items():
        sizes = [
            f"{values.count(size)} {what if size != 1 else what[:-1]}"
            for what in ("rows", "columns")
            if (size := values.at(table, what)) is not None
        ]
        lines.append(f"{TABLES.get(name, values.words(name))}: {' × '.join(sizes)}")
    return lines


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: these scripts, styles of the page, and nothing from outside."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    allowed = " ".join(hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    """Templates beside this file; every value is escaped, a missing name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genesis.evaluation.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = ("at", "count", "digits", "interval", "number", "percent", "place")
    texts = ("sentence", "tied", "words")
    environment.filters |= {name: getattr(values, name) for name in numbers + texts}
    environment.filters["named"] = column_label
    environment.globals["reading"] = READING
    return environment


@cache
def _plotly() -> str:
    """The library that draws, as it is installed."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _read(name: str) -> str:
    """A file beside this one."""
    return resources.files("genesis.evaluation.report").joinpath(name).read_text("utf-8")
