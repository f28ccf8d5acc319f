"""What a report draws: distributions side by side, and how far pairs of columns agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.schema import Kind

if TYPE_CHECKING:
    from genesis.evaluation.fidelity import Quality
    from genesis.evaluation.membership import Membership
    from genesis.evaluation.rows import Aligned, Rows

__all__ = ["curves", "distributions", "trends"]

BINS = 40
"""Bars of a numeric column."""

CATEGORIES = 20
"""Bars of a discrete column; the rest share one."""

SMALL_CELL = 5
"""Categories of fewer real rows have no bar of their own, and no bar ends where fewer rows lie
beyond: a report is shown around."""

LARGEST = 2.0**1022
"""Beyond its negative and itself there are no edges."""

TAIL = 0.001
"""Share of the rows that lie beyond the first bar, and beyond the last; `SMALL_CELL` at least."""


def distributions(aligned: Aligned) -> dict[str, dict[str, Any]]:
    """The share of rows in every bar of every column, for each table.

    Bars are chosen by the real rows and those of the synthetic table; numbers that lie outside of
    them count in the outermost ones.

    Args:
        aligned: Tables "real" and "synthetic", and "holdout" if there is one.

    Returns:
        Column -> {"kind", "edges" or "labels", and for each table the shares; "nulls" of numbers
        have shares of their own}.
    """
    columns = aligned.rows["real"].columns
    drawn = {}
    for place, name in enumerate(columns.numeric):
        drawn[name] = _numeric(aligned, place, name)
    for place, name in enumerate(columns.discrete):
        drawn[name] = _discrete(aligned.rows, place)
    return {name: drawn[name] for name in sorted(drawn)}


def _numeric(aligned: Aligned, place: int, name: str) -> dict[str, Any]:
    """One numeric column."""
    cells = {table: rows.numeric[:, place] for table, rows in aligned.rows.items()}
    known = {table: values[~np.isnan(values)] for table, values in cells.items()}
    column = aligned.schema[name]
    edges = _edges(known["real"], known["synthetic"], whole=column.decimals == 0)
    picture: dict[str, Any] = {"kind": str(column.kind), "edges": edges.tolist()}
    if column.kind is Kind.DATETIME:
        ticks = np.rint(edges).astype(np.int64).astype(f"datetime64[{column.unit}]")
        picture["edges"] = [str(tick) for tick in ticks]
    for table in ("real", "synthetic", "holdout"):
        if table not in cells:
            picture[table] = None
            continue
        counts, _ = np.histogram(np.clip(known[table], edges[0], edges[-1]), edges)
        picture[table] = (counts / max(len(cells[table]), 1)).tolist()
    picture["nulls"] = {table: float(np.isnan(values).mean()) for table, values in cells.items()}
    return picture


def _edges(
    real: npt.NDArray[np.float64], synthetic: npt.NDArray[np.float64], *, whole: bool
) -> npt.NDArray[np.float64]:
    """Edges of bars that hold nearly all numbers of both tables."""
    ends = [_ends(each) for each in (real, synthetic) if len(each)]
    # The range of the largest numbers is none.
    low = max(min((end[0] for end in ends), default=0.0), -LARGEST)
    high = min(max((end[1] for end in ends), default=1.0), LARGEST)
    if low == high:
        return np.array([low - 0.5, high + 0.5])
    if not whole:
        return np.linspace(low, high, BINS + 1)
    # Every bar holds equally many whole numbers: others would make a comb of an even distribution.
    low, high = np.floor(low), np.ceil(high)
    width = np.ceil((high - low + 1) / BINS)
    bars = np.ceil((high - low + 1) / width)
    return np.asarray(low - 0.5 + width * np.arange(bars + 1))


def _ends(numbers: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Where all but a few numbers lie: neither the smallest nor the largest of real rows shows."""
    beyond = max(int(TAIL * len(numbers)), SMALL_CELL - 1)
    beyond = min(beyond, (len(numbers) - 1) // 2)  # of a handful, the middle
    ordered = np.sort(numbers)
    return float(ordered[beyond]), float(ordered[-1 - beyond])


def _discrete(tables: Mapping[str, Rows], place: int) -> dict[str, Any]:
    """One discrete column."""
    columns = tables["real"].columns
    size, known = columns.sizes[place], columns.categories[place]
    counts = {
        name: np.bincount(rows.codes[:, place], minlength=size) for name, rows in tables.items()
    }
    real = counts["real"]
    common = np.argsort(-real[1:], kind="stable") + 1
    shown = [int(code) for code in common[:CATEGORIES] if real[code] >= SMALL_CELL]
    others = [code for code in range(1, size) if code not in set(shown)]
    picture: dict[str, Any] = {"kind": "discrete", "labels": [str(known[c - 1]) for c in shown]}
    has_null = any(count[0] for count in counts.values())
    if others:
        picture["labels"].append("1 other" if len(others) == 1 else f"{len(others):,} others")
    if has_null:
        picture["labels"].append("null")
    for table in ("real", "synthetic", "holdout"):
        if table not in counts:
            picture[table] = None
            continue
        count = counts[table]
        bars = [int(count[code]) for code in shown]
        bars += [int(count[others].sum())] * bool(others) + [int(count[0])] * has_null
        picture[table] = [bar / max(int(count.sum()), 1) for bar in bars]
    return picture


def trends(found: Quality, mirrored: Quality) -> dict[str, Any]:
    """How pairs of columns depend on each other in both tables, and how far they agree.

    Args:
        found: The quality of the synthetic rows.
        mirrored: The same with the tables exchanged, which tells of the synthetic rows what the
            other tells of the real ones.

    Returns:
        "columns", and matrices "score", "real" and "synthetic": None where a pair has no value.
    """
    names = sorted({name for pair in found.pairs for name in pair.columns})
    place = {name: i for i, name in enumerate(names)}
    values = {
        "score": {pair.columns: pair.score.score for pair in found.pairs},
        "real": {pair.columns: pair.real for pair in found.pairs},
        "synthetic": {pair.columns: pair.real for pair in mirrored.pairs},
    }
    drawn: dict[str, Any] = {"columns": names}
    for key, pairs in values.items():
        cells: list[list[float | None]] = [[None] * len(names) for _ in names]
        for i in range(len(names)):
            cells[i][i] = 1.0
        for (a, b), value in pairs.items():
            cells[place[a]][place[b]] = cells[place[b]][place[a]] = value
        drawn[key] = cells
    return drawn


def curves(attacked: Membership) -> dict[str, Any]:
    """ROC curves of the attacks, and those of the best attack on each control."""
    return {
        name: {"fpr": list(fpr), "tpr": list(tpr), "control": name in attacked.power}
        for name, (fpr, tpr) in attacked.curves.items()
    }
