"""Synthetic rows that are members in other words: the words are translated back first.

A generator that turns numbers around and renames categories can give away every member without one
row that looks like any. Which word means what shows in how often words come together: that of
"husband" with "male" and with high numbers of another column. So every column is cut into bins
(quantiles of a number, categories), all pairs of bins are counted in the synthetic rows and in the
rows that the attacker knows, and the bins of one table are matched to those of the other such that
the counts agree. This is a matching of two graphs, done column by column: with all others fixed,
the best translation of one column is a linear assignment (as Vogelstein et al. 2015 do it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from genesis.evaluation.attacks import View
from genesis.evaluation.attacks.calibrated import log_ratio
from genesis.evaluation.neighbours import neighbourhood
from genesis.evaluation.rows import Rows

__all__ = ["Recoding", "translate"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = list[Integers]
"""Of every column, the known bin that each bin (size,) means, or -1."""

BINS = 8
"""Quantiles of a number."""

MOST = 64
"""Categories of a column that are matched by what they come with; the rarer ones by frequency."""

SWEEPS = 8
"""Passes over all columns; most tables need three."""

ROWS = 20_000
"""Rows of each table that are counted."""


class Recoding:
    """`Calibrated`, after the synthetic rows have been translated to what they most likely mean."""

    name: ClassVar[str] = "recoding"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """Those of `Calibrated`, of translated rows: (n,).

        The attacker knows the targets, so that they help to translate; which of them are members
        does not enter.
        """
        known = Rows.concat([view.reference, view.targets])
        seen = view.of(translate(view.synthetic, known, view.seed))
        return log_ratio(
            view.near_reference, neighbourhood(seen.targets_at, seen.synthetic_at, k=1)
        )


def translate(rows: Rows, known: Rows, seed: int = 0) -> Rows:
    """Rows in the words of known rows of the same population.

    Args:
        rows: Rows whose numbers may have gone through monotone functions, rising or falling, and
            whose categories may have been renamed, column by column. Nulls mean nulls.
        known: Rows in the usual words.
        seed: Decides which rows are counted where there are many.

    Returns:
        The rows, with the numbers that known rows have at the same ranks, and the codes that come
        with the same company there. A code without counterpart becomes a null.
    """
    here, there = _Counts.of(rows, seed), _Counts.of(known, seed)
    plain = _same_words(here, there)
    found = _improved(_first_guess(here, there), here, there)
    words = max(plain, found, key=lambda words: _agreement(words, here, there))
    p = rows.numeric.shape[1]
    numeric, codes = rows.numeric.copy(), rows.codes.copy()
    for k in range(p):
        ranks = _mid_ranks(rows.numeric[:, k])
        turned = words[k][1] != 1
        numeric[:, k] = _at_ranks(1 - ranks if turned else ranks, known.numeric[:, k])
    for k, size in enumerate(rows.columns.sizes):
        new = np.zeros(size, dtype=np.int64)
        mine, theirs, to = here.codes[k], there.codes[k], words[p + k]
        new[mine[: len(to)][to > 0]] = theirs[to[to > 0]]
        rare, known_rare = mine[MOST + 1 :], theirs[MOST + 1 :]
        new[rare[: len(known_rare)]] = known_rare[: len(rare)]
        codes[:, k] = new[rows.codes[:, k]]
    return replace(rows, numeric=numeric, codes=codes)


@dataclass(frozen=True)
class _Counts:
    """How often the bins of a table come together. Bin 0 of every column is the null.

    Args:
        codes: Of every discrete column, all its codes, the null's and then the most frequent first:
            a bin is a place in it, as long as it is not above `MOST`.
        sizes: Number of bins of every column, numeric ones first.
        starts: (c + 1,) the place of every column's first bin among all.
        roots: (b, b) square roots of the shares of rows that are in two bins.
    """

    codes: tuple[Integers, ...]
    sizes: tuple[int, ...]
    starts: Integers
    roots: Floats

    @classmethod
    def of(cls, rows: Rows, seed: int) -> _Counts:
        """The counts of a table, or of a part of it where it is large."""
        from scipy import sparse

        if len(rows) > ROWS:
            rng = np.random.default_rng(np.random.SeedSequence([seed, len(rows)]))
            rows = rows.take(rng.choice(len(rows), ROWS, replace=False))
        bins = [_quantile_bins(column) for column in rows.numeric.T]
        sizes, codes = [BINS + 1] * len(bins), []
        for column, size in zip(rows.codes.T, rows.columns.sizes, strict=True):
            counts = np.bincount(column, minlength=size)
            seen = np.flatnonzero(counts[1:]) + 1
            codes.append(np.append(0, seen[np.argsort(-counts[seen], kind="stable")]))
            place = np.full(size, -1)
            place[codes[-1][: MOST + 1]] = np.arange(len(codes[-1][: MOST + 1]))
            bins.append(place[column])
            sizes.append(len(codes[-1][: MOST + 1]))
        starts = np.cumsum([0, *sizes])
        row, column = np.nonzero((places := np.stack(bins, axis=1)) >= 0)
        marks = sparse.csr_array(
            (np.ones(len(row)), (row, places[row, column] + starts[column])),
            shape=(len(rows), starts[-1]),
        )
        return cls(
            tuple(codes), tuple(sizes), starts, np.sqrt((marks.T @ marks).todense() / len(rows))
        )

    def block(self, k: int) -> slice:
        """The bins of column k."""
        return slice(self.starts[k], self.starts[k + 1])

    def frequencies(self, k: int) -> Floats:
        """Square roots of the shares of the bins of column k: (size,)."""
        return np.asarray(np.diagonal(self.roots)[self.block(k)])


def _quantile_bins(column: Floats) -> Integers:
    """The bins (n,) of numbers: 1 to `BINS` by their rank, 0 for nulls."""
    ranks = _mid_ranks(column)
    return np.where(np.isnan(ranks), 0, 1 + np.floor(np.nan_to_num(ranks) * BINS)).astype(np.int64)


def _mid_ranks(column: Floats) -> Floats:
    """Ranks (n,) of numbers in (0, 1), ties in their middle; NaN for nulls."""
    from scipy import stats

    ranks = stats.rankdata(column, nan_policy="omit") - 0.5
    return np.asarray(ranks / max(1, (~np.isnan(column)).sum()))


def _at_ranks(ranks: Floats, known: Floats) -> Floats:
    """The known numbers at ranks (n,); NaN where the rank is."""
    rising = np.sort(known[~np.isnan(known)])
    if not len(rising):
        return np.full(len(ranks), np.nan)
    place = np.nan_to_num(np.floor(ranks * len(rising))).astype(np.int64)
    return np.where(np.isnan(ranks), np.nan, rising[np.clip(place, 0, len(rising) - 1)])


def _same_words(here: _Counts, there: _Counts) -> Words:
    """Every bin means itself."""
    p = len(here.sizes) - len(here.codes)
    words = [np.arange(size) for size in here.sizes]
    for k, (mine, theirs) in enumerate(zip(here.codes, there.codes, strict=True), start=p):
        place = {code: i for i, code in enumerate(theirs[: there.sizes[k]].tolist())}
        words[k] = np.array([place.get(c, -1) for c in mine[: here.sizes[k]].tolist()])
    return words


def _first_guess(here: _Counts, there: _Counts) -> Words:
    """A translation by what does not depend on the words of other columns.

    Bins are alike if they are as frequent and, for every other column, as unevenly spread over its
    bins, whichever those are.
    """
    words = []
    for k in range(len(here.sizes)):
        affinity = np.outer(here.frequencies(k), there.frequencies(k))
        for other, sizes in enumerate(zip(here.sizes, there.sizes, strict=True)):
            if other != k:
                mine, theirs = (
                    -np.sort(-counts.roots[counts.block(k), counts.block(other)])[:, : min(sizes)]
                    for counts in (here, there)
                )
                affinity += mine @ theirs.T
        words.append(_matched(affinity, numeric=k < len(here.sizes) - len(here.codes)))
    return words


def _improved(words: Words, here: _Counts, there: _Counts) -> Words:
    """The translation after matching every column anew, given the others, until nothing changes."""
    for _ in range(SWEEPS):
        before = list(words)
        for k in range(len(words)):
            mine = _translated(words, here, there, of=k)
            affinity = mine @ there.roots[there.block(k)].T
            affinity += np.outer(here.frequencies(k), there.frequencies(k))
            words[k] = _matched(affinity, numeric=k < len(here.sizes) - len(here.codes))
        if all(np.array_equal(a, b) for a, b in zip(before, words, strict=True)):
            break
    return words


def _matched(affinity: Floats, *, numeric: bool) -> Integers:
    """The known bin of each bin with the largest sum of affinities (a, b); nulls mean nulls."""
    from scipy.optimize import linear_sum_assignment

    to = np.full(len(affinity), -1)
    to[0] = 0
    inner = affinity[1:, 1:]
    if numeric:
        rising = np.arange(1, len(affinity))
        turned = np.trace(inner[:, ::-1]) > np.trace(inner)
        to[1:] = rising[::-1] if turned else rising
    else:
        mine, theirs = linear_sum_assignment(inner, maximize=True)
        to[1 + mine] = 1 + theirs
    return to


def _agreement(words: Words, here: _Counts, there: _Counts) -> float:
    """Sum of the Bhattacharyya coefficients Σ √(p q) of all pairs of columns."""
    mine = _translated(words, here, there)
    place = _places(words, there)
    known = place >= 0
    return float((mine[known] * there.roots[place[known]]).sum())


def _translated(words: Words, here: _Counts, there: _Counts, of: int | None = None) -> Floats:
    """Counts (b here, b there) of the bins here (or of one column with others) with known bins."""
    place, roots = _places(words, there), here.roots
    if of is not None:
        place[here.block(of)] = -1
        roots = roots[here.block(of)]
    mine = np.zeros((len(roots), there.starts[-1]))
    mine[:, place[place >= 0]] = roots[:, place >= 0]
    return mine


def _places(words: Words, there: _Counts) -> Integers:
    """The known bin that each of all bins means, or -1: (b here,)."""
    return np.concatenate(
        [np.where(to < 0, -1, to + start) for to, start in zip(words, there.starts, strict=False)]
    )
