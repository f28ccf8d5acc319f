"""Nested scores as a table of one number a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["tidy"]

BOUNDS = {
    "c2st_auc": ("c2st_low", "c2st_high"),
    "tpr_at_1pct_fpr": ("tpr_low", "tpr_high"),
    "tpr_at_01pct_fpr": ("tpr_01_low", "tpr_01_high"),
}
"""Numbers whose bounds are not called after them."""

PLAIN = ("value", "share", "rate", "auc")
"""Numbers whose bounds, beside them, are simply "low" and "high"."""

BY_COLUMN = {
    ("fidelity", "columns"),
    ("fidelity", "jsd"),
    ("fidelity", "wd"),
    ("fidelity", "coverage", "columns"),
    ("utility", "importances", "real"),
    ("utility", "importances", "synthetic"),
    ("similarity", "copied_ids"),
    ("attributes", "columns"),
}
"""Dictionaries whose keys are columns of the table; any name can stand there."""


class Row(NamedTuple):
    """One number."""

    section: str
    name: str
    column: str | None
    value: float
    low: float | None
    high: float | None


def tidy(scores: Mapping[str, Any]) -> pd.DataFrame:
    """The frame that `Report.to_frame` describes."""
    import pandas as pd

    rows = [
        row
        for section, part in scores.items()
        for row in _rows(part if isinstance(part, Mapping) else {section: part}, (section,), None)
    ]
    frame = pd.DataFrame(rows, columns=list(Row._fields))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


def _rows(part: Mapping[str, Any], path: tuple[str, ...], column: str | None) -> Iterator[Row]:
    """The numbers of a dictionary and of all that lies in it."""
    bounds = {key: _bounds(key, part) for key in part}
    taken = {bound for pair in bounds.values() for bound in pair}
    for key, value in part.items():
        if isinstance(value, int | float):
            if key not in taken:
                low, high = (part.get(bound) for bound in bounds[key] or ("", ""))
                name = ".".join([*path[1:], str(key)])
                yield Row(path[0], name, column, float(value), low, high)
        elif isinstance(value, Mapping):
            yield from _inner(value, (*path, str(key)), column)
        elif isinstance(value, list | tuple):
            for item in value:
                if isinstance(item, Mapping):
                    yield from _rows(item, (*path, str(key)), _column(item))


def _inner(part: Mapping[str, Any], path: tuple[str, ...], column: str | None) -> Iterator[Row]:
    """The numbers of a dictionary, whose keys may be columns."""
    if path not in BY_COLUMN:
        yield from _rows(part, path, column)
        return
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _rows(value, path, str(name))
        elif isinstance(value, int | float):
            yield Row(path[0], ".".join(path[1:]), str(name), float(value), None, None)


def _column(item: Mapping[str, Any]) -> str | None:
    """The column or the pair of columns that an entry of a list is about."""
    if isinstance(item.get("columns"), list | tuple):
        return " × ".join(map(str, item["columns"]))
    return str(item["column"]) if "column" in item else None


def _bounds(key: str, part: Mapping[str, Any]) -> tuple[str, str] | tuple[()]:
    """The keys of a number's interval, if it has one."""
    choices = [BOUNDS.get(key), (f"{key}_low", f"{key}_high"), ("low", "high")]
    for pair in choices if key in PLAIN else choices[:2]:
        if pair and pair[0] in part and pair[1] in part:
            return pair
    return ()
