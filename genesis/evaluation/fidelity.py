"""How far synthetic columns, and pairs of them, look like the real ones.

The scores are those of SDMetrics, which everybody quotes, and the field's two distances beside
them. A column and a pair at a time is all that they see: columns shuffled apart keep every column's
score, and a table that scores well here may still be told from the real one at a glance. Read them
beside detection, utility and the controls.

SDMetrics leaves out what it cannot compute, so that a generator which ruins a column can gain by
it. Where the synthetic table is the reason, the score here is the lowest that makes sense instead:

* a column with values in one table only scores 0;
* a numeric pair whose synthetic correlation is undefined scores as if that were 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.evaluation.rows import Aligned, Rows
from genesis.schema import Kind

__all__ = ["Diagnostic", "Fidelity", "PairScore", "Quality", "Score", "fidelity", "quality"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_ROWS = 50_000
"""Rows of a table that the quality report reads, as many as SDMetrics itself would draw."""

MOST_CATEGORIES = 1_000
"""Categories of a column that the quality report tells apart: its time and memory grow with their
square. The rarer ones count as one."""

DEPENDENT = 1e-9
"""Cramér's V from which the report scores a pair at all; which pairs count is decided later."""

_TABLE = "table"


@dataclass(frozen=True)
class Score:
    """What one metric of SDMetrics says of one column.

    Args:
        metric: Its name there.
        score: In [0, 1], 1 is best; None where it has no meaning.
        why: The reason, where it has none.
    """

    metric: str
    score: float | None
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        entry: dict[str, Any] = {"metric": self.metric, "score": self.score}
        return entry if self.why is None else entry | {"why": self.why}


@dataclass(frozen=True)
class PairScore:
    """What one metric of SDMetrics says of one pair of columns.

    Args:
        columns: The two names.
        score: See `Score`.
        real: How the two depend on each other in the real table: Pearson's correlation of two
            numbers, else Cramér's V; None where undefined.
        synthetic: The correlation in the synthetic table; None where undefined, or not a number.
        counted: Whether the pair enters the average of pair trends.
    """

    columns: tuple[str, str]
    score: Score
    real: float | None
    synthetic: float | None
    counted: bool

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        strengths = {"real": self.real, "synthetic": self.synthetic, "counted": self.counted}
        return {"columns": list(self.columns), **self.score.to_dict(), **strengths}


@dataclass(frozen=True)
class Quality:
    """SDMetrics' quality report.

    Args:
        columns: Name -> `KSComplement` of a numeric column (1 - the largest difference of the
            distribution functions) or `TVComplement` of a discrete one (1 - half the sum of the
            differences of the shares). Nulls are left out by both.
        pairs: Of every pair, `CorrelationSimilarity` (1 - |r - r'| / 2) of two numeric columns,
            else `ContingencySimilarity` (1 - half the sum of the differences of the shares of all
            combinations, numbers in ten bins from their own minimum to their own maximum).
    """

    columns: dict[str, Score]
    pairs: tuple[PairScore, ...]

    @property
    def column_shapes(self) -> float | None:
        """Mean over the columns."""
        return _mean(score.score for score in self.columns.values())

    @property
    def column_pair_trends(self) -> float | None:
        """Mean over the pairs that depend on each other in the real table; None without any.

        SDMetrics' thresholds: a correlation beyond ±0.5, a Cramér's V above 0.3. Without them
        independent pairs, which anything gets right, would drown the others.
        """
        return _mean(pair.score.score for pair in self.pairs if pair.counted)

    @property
    def score(self) -> float | None:
        """Mean of column shapes and pair trends, of those that there are."""
        return _mean([self.column_shapes, self.column_pair_trends])

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "quality": self.score,
            "column_shapes": self.column_shapes,
            "column_pair_trends": self.column_pair_trends,
            "columns": {name: score.to_dict() for name, score in self.columns.items()},
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


@dataclass(frozen=True)
class Diagnostic:
    """SDMetrics' diagnostic report: whether the rows are possible, not whether they are likely.

    Args:
        columns: Column and `BoundaryAdherence` (share of values within the real range),
            `CategoryAdherence` (share of values among the real ones) or, of ids that are unique in
            the real table, `KeyUniqueness`. A null counts as wrong where the real column has none.
        data_structure: Share of columns of the right name and type. Tables in which they differ
            are refused or converted before, so that it is 1.
    """

    columns: tuple[tuple[str, Score], ...]
    data_structure: float | None

    @property
    def data_validity(self) -> float | None:
        """Mean over the columns."""
        return _mean(score.score for _, score in self.columns)

    @property
    def score(self) -> float | None:
        """Mean of validity and structure."""
        return _mean([self.data_validity, self.data_structure])

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "score": self.score,
            "data_validity": self.data_validity,
            "data_structure": self.data_structure,
            "columns": [{"column": name, **score.to_dict()} for name, score in self.columns],
        }


@dataclass(frozen=True)
class Fidelity:
    """All that is said of single columns and of pairs.

    Args:
        quality: Shapes and pair trends.
        diagnostic: Validity and structure.
        coverage: Name -> `RangeCoverage` (share of the real range that synthetic values span) or
            `CategoryCoverage` (share of the real categories that occur).
        nulls: Name -> 1 - the difference of the shares of nulls (`MissingValueSimilarity`), which
            column shapes do not see.
        jsd: Discrete column -> see `jensen_shannon`.
        wd: Numeric column -> see `wasserstein`.
    """

    quality: Quality
    diagnostic: Diagnostic
    coverage: dict[str, Score]
    nulls: dict[str, float]
    jsd: dict[str, float]
    wd: dict[str, float | None]

    @property
    def average_jsd(self) -> float | None:
        """Mean Jensen-Shannon divergence over the discrete columns, "Avg JSD"; 0 is best."""
        return _mean(self.jsd.values())

    @property
    def average_wd(self) -> float | None:
        """Mean scaled Wasserstein distance over the numeric columns, "Avg WD"; 0 is best."""
        return _mean(self.wd.values())

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            **self.quality.to_dict(),
            "diagnostic": self.diagnostic.to_dict(),
            "coverage": {
                "score": _mean(score.score for score in self.coverage.values()),
                "columns": {name: score.to_dict() for name, score in self.coverage.items()},
            },
            "nulls": self.nulls,
            "average_jsd": self.average_jsd,
            "average_wd": self.average_wd,
            "jsd": self.jsd,
            "wd": self.wd,
        }


def fidelity(aligned: Aligned, real: str = "real", synthetic: str = "synthetic") -> Fidelity:
    """Compare the columns of two tables, and pairs of them. Ids and constants are left out.

    Args:
        aligned: The tables.
        real: Name of the real one among them.
        synthetic: Name of the other.
    """
    rows, others = aligned.rows[real], aligned.rows[synthetic]
    cells, other_cells = _cells(rows), _cells(others)
    columns = rows.columns
    discrete = zip(columns.discrete, columns.sizes, rows.codes.T, others.codes.T, strict=True)
    return Fidelity(
        quality=quality(rows, others),
        diagnostic=_diagnostic(aligned, real, synthetic),
        coverage=_coverage(cells, other_cells, set(columns.numeric)),
        nulls={
            name: 1 - abs(float(np.isnan(cells[name]).mean() - np.isnan(other_cells[name]).mean()))
            for name in cells
        },
        jsd={
            name: jensen_shannon(np.bincount(a, minlength=size), np.bincount(b, minlength=size))
            for name, size, a, b in discrete
        },
        wd={name: wasserstein(cells[name], other_cells[name]) for name in columns.numeric},
    )


def jensen_shannon(real: npt.ArrayLike, synthetic: npt.ArrayLike) -> float:
    """Jensen-Shannon divergence of two discrete distributions to base 2 (Lin 1991).

    (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2: in [0, 1], 0 for equal shares, 1 for disjoint
    categories. A null is a category. Beware of what is compared with it: SciPy's `jensenshannon`,
    and papers that use it, give the square root of this.

    Args:
        real: (k,) counts of the categories, at least one of them above 0.
        synthetic: (k,) counts of the same.
    """
    from scipy.special import rel_entr

    p, q = (np.asarray(counts, dtype=np.float64) / np.sum(counts) for counts in (real, synthetic))
    m = (p + q) / 2
    return float((rel_entr(p, m).sum() + rel_entr(q, m).sum()) / (2 * math.log(2)))


def wasserstein(real: Floats, synthetic: Floats) -> float | None:
    """Wasserstein-1 distance of two columns of numbers, in units of the real range.

    ∫ |F(x) - G(x)| dx / (max - min), nulls left out: how far, as a share of the real range, values
    have to be moved on average to make one column of the other. Above 1 where they lie outside.

    Args:
        real: (n,) numbers, NaN where null.
        synthetic: (m,) numbers.

    Returns:
        1 where the synthetic column holds nulls only; None where the real range is 0 or unknown,
        or so small beside the distance that their ratio is no number.
    """
    from scipy.stats import wasserstein_distance

    # A quarter of each, because the range of the largest numbers is none.
    a, b = (cells[~np.isnan(cells)] / 4 for cells in (real, synthetic))
    span = float(np.ptp(a)) if len(a) else 0.0
    if span == 0:
        return None
    if not len(b):
        return 1.0
    with _quiet():
        # From the minimum on, because differences of large numbers (dates) would lose digits.
        moved = wasserstein_distance((a - a.min()) / span, (b - a.min()) / span)
    return _finite(moved)


def quality(real: Rows, synthetic: Rows) -> Quality:
    """SDMetrics' quality report of two tables, computed by SDMetrics.

    Of longer tables it reads 50,000 rows, evenly spaced, where SDMetrics would draw as many for
    each pair without a seed; of more than 1,000 categories the rarest count as one.

    Args:
        real: (n, ...) rows.
        synthetic: (m, ...) rows with the same columns.
    """
    from sdmetrics.reports import QualityReport

    frames = _comparable(_at_most(real), _at_most(synthetic))
    names, numeric = list(frames[0]), set(real.columns.numeric)
    report = QualityReport()
    report.num_rows_subsample = None
    # Every pair is to be scored, for the picture; which ones count in the average is told below.
    thresholds = {
        "CorrelationSimilarity": report.real_correlation_threshold,
        "ContingencySimilarity": report.real_association_threshold,
    }
    report.real_correlation_threshold, report.real_association_threshold = 0, DEPENDENT
    _generate(report, frames, numeric)
    shapes, trends = (report.get_details(f"Column {each}") for each in ("Shapes", "Pair Trends"))
    return Quality(
        {name: _shape(entry, name, frames) for name, entry in _by_name(shapes, names)},
        tuple(_pair(entry, names, frames, thresholds) for entry in trends.to_dict("records")),
    )


def _shape(entry: Mapping[str, Any], name: str, frames: tuple[pd.DataFrame, pd.DataFrame]) -> Score:
    """The score of a column's shape."""
    score = _finite(entry["Score"])
    present = [bool(frame[name].notna().any()) for frame in frames]
    if score is None and any(present):
        score = 0.0
    return Score(entry["Metric"], score, None if any(present) else "neither table has values")


def _pair(
    entry: Mapping[str, Any],
    names: list[str],
    frames: tuple[pd.DataFrame, pd.DataFrame],
    thresholds: Mapping[str, float],
) -> PairScore:
    """The score of a pair's trend."""
    pair = (names[_place(entry["Column 1"])], names[_place(entry["Column 2"])])
    metric, score = entry["Metric"], _finite(entry["Score"])
    real, synthetic = _finite(entry["Real Association"]), None
    if metric == "CorrelationSimilarity":
        # Told anew where there is no score, because SDMetrics then tells neither.
        keys = ("Real Correlation", "Synthetic Correlation")
        real, synthetic = (
            _finite(entry[key] if score is not None else frame[[*pair]].corr().iloc[0, 1])
            for key, frame in zip(keys, frames, strict=True)
        )
        if score is None and real is not None:
            score = 1 - abs(real - (synthetic or 0.0)) / 2
    why = "the real columns do not depend on each other, or one of them hardly varies"
    counted = score is not None and real is not None and abs(real) > thresholds[metric]
    return PairScore(
        pair, Score(metric, score, why if score is None else None), real, synthetic, counted
    )


def _diagnostic(aligned: Aligned, real: str, synthetic: str) -> Diagnostic:
    """SDMetrics' diagnostic report, on all rows, with the ids."""
    from sdmetrics.reports import DiagnosticReport

    frames = (
        pd.DataFrame(_cells(aligned.rows[real])),
        pd.DataFrame(_cells(aligned.rows[synthetic])),
    )
    ids = [c.name for c in aligned.schema if c.kind is Kind.ID]
    keys = [name for name in ids if aligned.frames[real][name].is_unique]
    for name in keys:
        frames[0][name] = aligned.frames[real][name].to_numpy()
        frames[1][name] = aligned.frames[synthetic][name].to_numpy()
    report = DiagnosticReport()
    _generate(report, frames, set(aligned.rows[real].columns.numeric), keys)
    details = report.get_details("Data Validity")
    return Diagnostic(
        tuple(
            (name, _scored(entry["Metric"], entry["Score"], "the column holds nulls only"))
            for name, entry in _by_name(details, list(frames[0]))
        ),
        _finite(report.get_details("Data Structure")["Score"].mean()),
    )


def _coverage(
    real: Mapping[str, Floats], synthetic: Mapping[str, Floats], numeric: set[str]
) -> dict[str, Score]:
    """SDMetrics' coverage of every column."""
    from sdmetrics.single_column import CategoryCoverage, RangeCoverage

    found = {}
    for name, column in real.items():
        metric = RangeCoverage if name in numeric else CategoryCoverage
        values, other = (cells[~np.isnan(cells)] for cells in (column, synthetic[name]))
        if len(values) and not len(other):
            found[name] = Score(metric.__name__, 0.0)
            continue
        covered: Callable[..., float] = metric.compute
        with _quiet():
            score = covered(pd.Series(values), pd.Series(other)) if len(values) else math.nan
        found[name] = _scored(metric.__name__, score, "the real column has one value or none")
    return found


def _generate(
    report: Any,
    frames: tuple[pd.DataFrame, pd.DataFrame],
    numeric: set[str],
    keys: Iterable[str] = (),
) -> None:
    """Let a report of SDMetrics read two tables whose columns are called c0, c1, … meanwhile."""
    names = list(frames[0])
    kinds = {name: "numerical" if name in numeric else "categorical" for name in names}
    kinds |= dict.fromkeys(keys, "id")
    columns = {f"c{place}": {"sdtype": kinds[name]} for place, name in enumerate(names)}
    table = {"columns": columns, "alternate_keys": [f"c{names.index(key)}" for key in keys]}
    real, synthetic = (frame.set_axis(list(columns), axis=1) for frame in frames)
    with _quiet():
        report.generate(
            {_TABLE: real}, {_TABLE: synthetic}, {"tables": {_TABLE: table}}, verbose=False
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of SDMetrics, SciPy and NumPy: what they mean is in the scores."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _by_name(details: pd.DataFrame, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a report about columns, with their real names."""
    for entry in details.to_dict("records"):
        yield names[_place(entry["Column"])], entry


def _place(name: str) -> int:
    """The place of a column, from the name that a report knows it by."""
    return int(name[1:])


def _cells(rows: Rows) -> dict[str, Floats]:
    """Name -> numbers or codes, NaN where null; sorted by name."""
    codes = np.where(rows.codes > 0, rows.codes.astype(np.float64), np.nan)
    names = rows.columns.numeric + rows.columns.discrete
    cells = dict(zip(names, [*rows.numeric.T, *codes.T], strict=True))
    return {name: cells[name] for name in sorted(cells)}


def _at_most(rows: Rows) -> Rows:
    """As many rows as are read, evenly from all: they are sorted, so every region has its share."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows.take(np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(np.int64))


def _comparable(real: Rows, synthetic: Rows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells as the quality report can take them, without changing what it says."""
    cells, other_cells = _cells(real), _cells(synthetic)
    for name in real.columns.numeric:
        # SDMetrics rounds to 14 decimals, which would leave nothing of columns of tiny numbers.
        # Powers of two change no other digit.
        sizes = np.abs(cells[name])
        # Half of each, because the mean of the two in the middle may overflow.
        typical = np.median(sizes[sizes > 0] / 2) if (sizes > 0).any() else 0.5
        power = -1 - int(np.frexp(typical)[1])
        with np.errstate(over="ignore"):
            cells[name] = np.ldexp(cells[name], power)
            other_cells[name] = np.ldexp(other_cells[name], power)
    for place, name in enumerate(real.columns.discrete):
        codes = np.concatenate([real.codes[:, place], synthetic.codes[:, place]])
        counts = np.bincount(codes[codes > 0])
        if np.count_nonzero(counts) > MOST_CATEGORIES:
            rare = np.argsort(-counts, kind="stable")[MOST_CATEGORIES - 1 :]
            for each in (cells, other_cells):
                each[name] = np.where(np.isin(each[name], rare), 0.0, each[name])
    return pd.DataFrame(cells), pd.DataFrame(other_cells)


def _scored(metric: str, score: float, why: str) -> Score:
    """A score, or the reason why there is none."""
    known = _finite(score)
    return Score(metric, known, why if known is None else None)


def _finite(value: float) -> float | None:
    """A number of Python, None in place of NaN."""
    return float(value) if math.isfinite(value) else None


def _mean(scores: Iterable[float | None]) -> float | None:
    """Mean of the scores that there are."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None
