"""Singling out: do synthetic rows tell what is true of exactly one person?

The attacker looks for predicates that hold for exactly one synthetic row, and hopes that each of
them singles out one member ("there is just one woman over 90 who works 60 hours"; Giomi et al.
2023). A predicate is a box: an interval of every column.

Some predicates single out by chance. One that holds for a share w of the population singles out in
n rows with the chance n w (1 - w)^(n - 1), which is never above (1 - 1/n)^(n - 1), about 37 %
(Cohen & Nissim 2020). So the same predicates are tried on people who were never trained on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.evaluation.guesses import Guesses, drawn
from genesis.evaluation.intervals import Interval, proportion_interval
from genesis.evaluation.rows import Rows

__all__ = ["SinglingOut", "singling_out"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_COLUMNS = 10
"""A multivariate predicate speaks of two to so many columns."""

ATTEMPTS = 10
"""Predicates that are looked at for each that is wanted, before the search is given up."""

LOWEST, HIGHEST = -sys.float_info.max, sys.float_info.max
"""Ends of half-lines; a null, being -inf, is on none of them."""


@dataclass(frozen=True)
class SinglingOut:
    """How many predicates single out a member.

    Args:
        univariate: Of predicates about one column: a value that occurs once, or an extreme.
        multivariate: Of predicates about several columns.
    """

    univariate: Guesses
    multivariate: Guesses

    @property
    def worst(self) -> str:
        """The kind of predicates that surely leaks most."""
        return max(("multivariate", "univariate"), key=lambda kind: getattr(self, kind).severity)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON: the worst kind, then both."""
        kinds = {
            "univariate": self.univariate.to_dict(),
            "multivariate": self.multivariate.to_dict(),
        }
        return {**kinds[self.worst], "predicates": self.worst, **kinds}


def singling_out(
    members: Rows,
    control: Rows,
    synthetic: Rows,
    *,
    most: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> SinglingOut:
    """Try to single out members, and people who were never trained on.

    The baseline are predicates with values, columns and directions at random. Both tables must be
    equally large, for the chance depends on the number of rows: of a larger control, as many rows
    are drawn as there are members; the rate c of a smaller one, of m < n rows, is scaled up to the
    most that it can be in n rows, min(c n / m, (1 - 1/n)^(n - 1)).

    Args:
        members: Rows that the generator was trained on.
        control: Rows of other people.
        synthetic: What the generator made.
        most: Predicates of either kind.
        level: Confidence of the intervals, both together.
        seed: Which predicates are found.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(members), len(control)]))
    distinct = synthetic.take(np.unique(synthetic.keys(), return_index=True)[1])
    source = _Table(drawn(distinct, len(distinct), rng))
    tables = _Table(members), _Table(drawn(control, len(members), rng))
    each = 1 - (1 - level) / 2
    kinds = []
    for find, columns in ((_rare_values, 1), (_corners, MOST_COLUMNS)):
        boxes = find(source, most, rng)
        if not len(boxes):
            kinds.append(Guesses(reason="no predicate holds for exactly one synthetic row"))
            continue
        guesses = _random_boxes(source, len(boxes), columns, rng)
        kinds.append(_tried(boxes, guesses, *tables, each))
    return SinglingOut(*kinds)


def _tried(
    boxes: _Boxes, guesses: _Boxes, members: _Table, control: _Table, level: float
) -> Guesses:
    """What boxes single out among members and in a control of at most as many rows."""
    n, m = len(members.values), len(control.values)
    ceiling = (1 - 1 / n) ** (n - 1)
    rate, seen = (
        proportion_interval(int((table.count(boxes) == 1).sum()), len(boxes), level=level)
        for table in (members, control)
    )
    scaled = (min(share * n / m, ceiling) for share in (seen.value, seen.low, seen.high))
    baseline = float((members.count(guesses) == 1).mean())
    return Guesses.of(len(boxes), rate, baseline, Interval(*scaled))


@dataclass(frozen=True)
class _Boxes:
    """Predicates: box i holds for rows with low <= value <= high in each of its columns.

    Args:
        columns: (b, c) which columns.
        low: (b, c) lower ends.
        high: (b, c) upper ends; a column of which nothing is said has -inf and inf.
    """

    columns: Integers
    low: Floats
    high: Floats

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, boxes: Integers | npt.NDArray[np.bool_] | slice) -> _Boxes:
        """The given boxes."""
        return _Boxes(self.columns[boxes], self.low[boxes], self.high[boxes])


class _Table:
    """Rows as one matrix of numbers, quick at counting who is in a box; nulls are -inf."""

    def __init__(self, rows: Rows) -> None:
        numeric = np.where(np.isnan(rows.numeric), -np.inf, rows.numeric)
        codes = np.where(rows.codes == 0, -np.inf, rows.codes)
        self.values = np.concatenate([numeric, codes], axis=1)
        self.n_numeric = numeric.shape[1]
        self.is_numeric = np.arange(self.values.shape[1]) < self.n_numeric
        self._order = np.argsort(self.values, axis=0, kind="stable")
        self.sorted = np.take_along_axis(self.values, self._order, axis=0)
        self.medians = self.sorted[len(self.values) // 2]

    def count(self, boxes: _Boxes) -> Integers:
        """(b,) number of rows in each box."""
        start, stop = np.empty_like(boxes.columns), np.empty_like(boxes.columns)
        for column in np.unique(boxes.columns):
            here = boxes.columns == column
            start[here] = np.searchsorted(self.sorted[:, column], boxes.low[here], side="left")
            stop[here] = np.searchsorted(self.sorted[:, column], boxes.high[here], side="right")
        if boxes.columns.shape[1] == 1:
            return (stop - start)[:, 0]
        # The column that leaves fewest rows first: only these are looked at in the other columns.
        fewest = np.argmin(stop - start, axis=1)
        counts = np.empty(len(boxes), np.int64)
        for box, first in enumerate(fewest):
            columns = boxes.columns[box]
            rows = self._order[start[box, first] : stop[box, first], columns[first]]
            for place, column in enumerate(columns):
                if place != first and len(rows):
                    values = self.values[rows, column]
                    rows = rows[
                        (values >= boxes.low[box, place]) & (values <= boxes.high[box, place])
                    ]
            counts[box] = len(rows)
        return counts


def _rare_values(table: _Table, most: int, rng: np.random.Generator) -> _Boxes:
    """Boxes of one column that hold for one row: values that occur once, and extremes."""
    found = []
    for column, values in enumerate(table.sorted.T):
        distinct, counts = np.unique(values, return_counts=True)
        once = distinct[counts == 1]
        found.append(_one_column(column, once, once))
        if column < table.n_numeric:
            known = distinct[np.isfinite(distinct)]
            least, largest = (np.intersect1d(end, once) for end in (known[:1], known[-1:]))
            found.append(_one_column(column, np.full_like(least, LOWEST), least))
            found.append(_one_column(column, largest, np.full_like(largest, HIGHEST)))
    cells = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    chosen = rng.permutation(len(cells[0]))[:most]
    return _Boxes(*(cell[chosen, None] for cell in cells))


def _one_column(column: int, low: Floats, high: Floats) -> tuple[Integers, Floats, Floats]:
    """The parts of boxes (b,) of one column."""
    return np.full(len(low), column), low, high


def _corners(table: _Table, most: int, rng: np.random.Generator) -> _Boxes:
    """Boxes of several columns that hold for one row: where it is, and further out.

    Each row is asked for once, with some of its columns: the same category, and numbers on the
    same side of the median that are as far out or further.
    """
    several = table.values.shape[1] > 1
    values = table.values[: ATTEMPTS * most if several else 0]
    outwards = np.where(values > table.medians, 1, -1)
    boxes = _boxes(values, np.where(table.is_numeric, outwards, 0), MOST_COLUMNS, rng)
    return boxes.take(table.count(boxes) == 1).take(slice(most))


def _random_boxes(table: _Table, n: int, most_columns: int, rng: np.random.Generator) -> _Boxes:
    """Boxes (n,) of columns, values and directions at random; values come from different rows."""
    rows = rng.integers(len(table.values), size=(n, table.values.shape[1]))
    values = np.take_along_axis(table.values, rows, axis=0)
    directions = rng.integers(-1, 2, size=values.shape)
    return _boxes(values, np.where(table.is_numeric, directions, 0), most_columns, rng)


def _boxes(
    values: Floats, directions: Integers, most_columns: int, rng: np.random.Generator
) -> _Boxes:
    """Boxes at the values (b, d) of rows, about some columns of each, chosen at random.

    Args:
        values: One row for each box.
        directions: (b, d) 1 for at least the value, -1 for at most, 0 for just this one.
        most_columns: A box speaks of at most so many columns, and of two where it may.
        rng: Chooses the columns.
    """
    b, d = values.shape
    columns = np.argsort(rng.random((b, d)), axis=1)[:, :most_columns]
    values = np.take_along_axis(values, columns, axis=1)
    directions = np.take_along_axis(directions, columns, axis=1)
    directions = np.where(np.isfinite(values), directions, 0)
    low = np.where(directions < 0, LOWEST, values)
    high = np.where(directions > 0, HIGHEST, values)
    width = columns.shape[1]
    spoken_of = rng.integers(min(2, width), width + 1, size=(b, 1))
    silent = np.arange(width) >= spoken_of
    return _Boxes(columns, np.where(silent, -np.inf, low), np.where(silent, np.inf, high))
