"""How close synthetic rows come to real ones: similarity, not privacy.

A row that looks like a real one need not come from it, and a row that comes from a real one need
not look like it: an invertible re-coding of the training table lies far from it and gives all of it
away, while a good generator comes as close as fresh rows do. So every number stands beside that of
a holdout, which nobody generated. Whether rows leak is for membership inference to tell.

Distances are Euclidean in a `Space` fitted on the real rows: at most about 1 per column, squared.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from genesis.evaluation.intervals import Interval, proportion_interval
from genesis.evaluation.neighbours import neighbourhood
from genesis.evaluation.rows import Aligned, Rows
from genesis.evaluation.space import Space
from genesis.schema import Kind

__all__ = ["LABEL", "Closeness", "Similarity", "Spread", "similarity"]

Floats = npt.NDArray[np.float64]

LABEL = "similarity, not privacy"

TARGETS = 5_000
"""Rows of a table whose nearest real rows are looked for, among all real rows."""

LOOKED_UP = 300
"""Synthetic rows that SDMetrics looks up: it needs about 10 ms for each."""

NEAR = 0.05
"""Share of the real rows that are near copies of another one, which sets the threshold."""


@dataclass(frozen=True)
class Spread:
    """The middle and the lower end of a quantity over the rows of a table.

    Args:
        median: Its median.
        p05: Its 5 % quantile.
    """

    median: float
    p05: float

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """That of values (n,)."""
        median, p05 = np.quantile(values, [0.5, 0.05])
        return cls(float(median), float(p05))

    def to_dict(self) -> dict[str, float]:
        """As values of JSON."""
        return {"median": self.median, "p05": self.p05}


@dataclass(frozen=True)
class Closeness:
    """How close the rows of one table come to the real ones.

    Args:
        dcr: Distance to the closest real row.
        nndr: Distance to the closest real row over that to the second closest, in [0, 1]: small
            where a row belongs to one real row alone, 1 where both are 0. None if there is but one
            real row.
        exact: Share of rows that equal a real one in all columns but ids and constants.
        near: Share of rows that lie within the threshold of a real one, the exact copies among
            them. None if there is but one real row.
    """

    dcr: Spread
    nndr: Spread | None
    exact: float
    near: float | None


@dataclass(frozen=True)
class Similarity:
    """How close synthetic rows come to the real ones.

    Args:
        synthetic: How close they do.
        holdout: How close the rows of the holdout do; None without one.
        closer_to_real: Share of synthetic rows that are closer to the real rows than to as many
            rows of the holdout: 0.5 for fresh rows, more for copies. A coin decides ties. The
            interval is that of the synthetic rows; which rows are in the holdout is chance too.
            None without a holdout.
        exact_copies: Number of synthetic rows that equal a real one.
        threshold: The distance within which 5 % of the real rows have another real one; None if
            there is but one.
        new_rows: Share of synthetic rows that match no real one, by SDMetrics' `NewRowSynthesis`:
            a number matches within 1 % of itself, a category or a null by being equal; a date
            within 1 % of its time since 1970, which is half a year.
        looked_up: Number of synthetic rows, drawn at random, that this was asked of.
        copied_ids: Id column -> share of the synthetic ids that real rows have; None if all are
            null. Ids that merely count from 1 agree in any two tables.
        copied_ids_holdout: The same of the holdout's ids; None without one.
    """

    synthetic: Closeness
    holdout: Closeness | None
    closer_to_real: Interval | None
    exact_copies: int
    threshold: float | None
    new_rows: Interval
    looked_up: int
    copied_ids: dict[str, float | None]
    copied_ids_holdout: dict[str, float | None] | None

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        made, held = self.synthetic, self.holdout
        return {
            "label": LABEL,
            "dcr": {"synthetic": made.dcr.to_dict(), "holdout": held and held.dcr.to_dict()},
            "closer_to_real": self.closer_to_real and _share(self.closer_to_real),
            "nndr": {
                "synthetic": made.nndr and made.nndr.to_dict(),
                "holdout": held and held.nndr and held.nndr.to_dict(),
            },
            "exact_copies": {
                "count": self.exact_copies,
                "share": made.exact,
                "holdout_share": held and held.exact,
            },
            "near_copies": {
                "share": made.near,
                "threshold": self.threshold,
                "holdout_share": held and held.near,
            },
            "new_rows": {**_share(self.new_rows), "rows": self.looked_up},
            "copied_ids": self.copied_ids,
            "copied_ids_holdout": self.copied_ids_holdout,
        }


def similarity(
    aligned: Aligned,
    holdout: str | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Similarity:
    """Tell how close synthetic rows come to real ones.

    Args:
        aligned: Tables, of which "real" is what the generator was trained on, and "synthetic" what
            it made.
        holdout: Name of real rows among them that the generator was not trained on; None if there
            are none, and then nothing tells how close is close.
        device: Where distances are computed, block by block.
        seed: Decides which rows are looked at where there are many, and ties.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    # In random order, so that the first rows of a table are a sample of it.
    known, made = (_shuffled(aligned.rows[name], rng) for name in ("real", "synthetic"))
    held = _shuffled(aligned.rows[holdout], rng) if holdout else None
    space = Space.fit(known)
    corpus, targets = space.embed(known, device), space.embed(made.take(slice(TARGETS)), device)
    threshold = None
    if len(known) > 1:
        apart = neighbourhood(corpus[:TARGETS], corpus, k=1, exclude_self=True).distances
        threshold = float(np.quantile(apart, NEAR))
    keys, real_keys = made.keys(), known.keys()
    new_rows, looked_up = _new_rows(known, made.take(slice(LOOKED_UP)))
    close = _closeness(targets, corpus, threshold, np.isin(keys, real_keys))
    close_others = closer = None
    if held is not None:
        others = space.embed(held.take(slice(TARGETS)), device)
        close_others = _closeness(others, corpus, threshold, np.isin(held.keys(), real_keys))
        n = min(len(known), len(held))
        to_real = neighbourhood(targets, corpus[:n], k=1).distances[:, 0]
        del corpus  # points take most of the memory: one table of them at a time
        others = space.embed(held.take(slice(n)), device)
        closer = _closer(to_real, neighbourhood(targets, others, k=1).distances[:, 0], rng)
    return Similarity(
        synthetic=close,
        holdout=close_others,
        closer_to_real=closer,
        exact_copies=int(np.isin(keys, real_keys).sum()),
        threshold=threshold,
        new_rows=new_rows,
        looked_up=looked_up,
        copied_ids=_copied_ids(aligned, "synthetic"),
        copied_ids_holdout=None if holdout is None else _copied_ids(aligned, holdout),
    )


def _shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    """The rows in random order."""
    return rows.take(rng.permutation(len(rows)))


def _closeness(
    targets: Tensor, corpus: Tensor, threshold: float | None, exact: npt.NDArray[np.bool_]
) -> Closeness:
    """How close targets (n, d) come to the real rows (m, d), given which are exact copies (n,)."""
    first, second = neighbourhood(targets, corpus, k=2).distances.T
    share = float(exact.mean())
    if threshold is None:
        return Closeness(Spread.of(first), None, share, None)
    ratio = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    near = float((first <= threshold).mean())
    return Closeness(Spread.of(first), Spread.of(ratio), share, near)


def _closer(to_real: Floats, to_others: Floats, rng: np.random.Generator) -> Interval:
    """Share of targets closer to real rows than to equally many others, by both distances (n,)."""
    coin = rng.random(len(to_real)) < 0.5
    won = np.where(to_real == to_others, coin, to_real < to_others)
    return proportion_interval(int(won.sum()), len(won))


def _new_rows(real: Rows, synthetic: Rows) -> tuple[Interval, int]:
    """Share of synthetic rows that SDMetrics finds new, and how many it looked up."""
    from sdmetrics.single_table import NewRowSynthesis

    columns = {
        f"c{place}": {"sdtype": "numerical" if place < real.numeric.shape[1] else "categorical"}
        for place in range(len(real.columns.names))
    }
    # It writes a query for each row, in which names of its own are safest; nulls may be NaN only.
    frames = (
        pd.DataFrame(
            np.hstack([rows.numeric, np.where(rows.codes > 0, rows.codes, np.nan)]),
            columns=list(columns),
        )
        for rows in (real, synthetic)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = NewRowSynthesis.compute_breakdown(*frames, metadata={"columns": columns})
    return proportion_interval(found["num_new_rows"], len(synthetic)), len(synthetic)


def _copied_ids(aligned: Aligned, table: str) -> dict[str, float | None]:
    """Id column -> share of a table's ids that real rows have."""
    shares: dict[str, float | None] = {}
    for column in aligned.schema:
        if column.kind is Kind.ID:
            ids = aligned.frames[table][column.name].dropna()
            copied = ids.isin(aligned.frames["real"][column.name])
            shares[column.name] = float(copied.mean()) if len(ids) else None
    return shares


def _share(interval: Interval) -> dict[str, float]:
    """A share and its interval as values of JSON."""
    return {"share": interval.value, "low": interval.low, "high": interval.high}
