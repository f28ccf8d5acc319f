"""Detection: can a classifier tell synthetic rows from real ones?

The classifier two-sample test (Lopez-Paz & Oquab 2017), with the area under the ROC curve in place
of the accuracy: 0.5 where rows cannot be told apart, 1 where they always can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.evaluation.features import Predict, learn, permutation_importances
from genesis.evaluation.intervals import Interval, auc, auc_interval
from genesis.evaluation.rows import Rows

__all__ = ["Detection", "detect"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MODELS = {"gradient_boosting": "gradient_boosting", "logistic_regression": "linear"}
FOLDS = 3
MOST_ROWS = 20_000  # of each table
FEWEST_ROWS = 30  # boosting passes over categories with fewer than 10
MOST_TWINS = 20  # rows of a leaf: a group of equal rows as small as this is no signal by itself
IMPORTANCE_ROWS = 2_000  # of each fold

WORSE_THAN_CHANCE = (
    "boosting does worse than chance, as it does where synthetic rows repeat the real ones; "
    "it means no more than 0.5"
)


@dataclass(frozen=True)
class Detection:
    """How well classifiers tell synthetic rows from real ones.

    Args:
        models: Name -> AUC with its 95 % interval; empty if there are too few rows or columns.
        columns: The columns that give synthetic rows away to boosting, with the drop of its AUC
            when they are permuted; the most telling first.
        rows: Rows of each table that were compared.
        reason: Why there are no scores, or why boosting does worse than chance.
    """

    models: Mapping[str, Interval]
    columns: tuple[tuple[str, float], ...]
    rows: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON; boosting's AUC is the headline."""
        found = self.models.get("gradient_boosting")
        return {
            "c2st_auc": found and found.value,
            "c2st_low": found and found.low,
            "c2st_high": found and found.high,
            "models": {
                name: {"auc": area.value, "low": area.low, "high": area.high}
                for name, area in self.models.items()
            },
            "columns": [{"column": name, "importance": drop} for name, drop in self.columns],
            "rows": self.rows,
            "reason": self.reason,
        }


def detect(real: Rows, synthetic: Rows, *, seed: int = 0) -> Detection:
    """Train classifiers to tell synthetic rows from real ones, and see how well they do.

    Both tables give equally many rows, at most 20,000. Each row is scored by a model that was
    trained on the other folds; scores of different folds are compared by their ranks.

    The bootstrap of the rows scored does not see that other rows would have trained other models,
    nor that models share theirs. For k = 3 folds its standard deviation is therefore multiplied by
    √(1 + k / (k - 1)), the correction of Nadeau & Bengio (2003, section 3) for one part tested on
    k - 1 parts trained on.

    Equal rows are held out together: otherwise a model that has seen a row as "real" would call its
    synthetic copy real too, and a table of copies would score below 0.5. As it is, a copy of the
    real table scores 0.5, and so do fresh real rows: detection says nothing about copying. Near
    copies may still score a little below 0.5; it means no more than 0.5 does. Only rows of which
    there are more than 20, or more than 1 % of all rows, are spread over folds, because how
    frequent they are is a signal. Tables that consist of such rows score below 0.5 if they have
    them equally often: what is more frequent in a fold than it should be is less frequent in the
    others. The same befalls logistic regression where all columns, one by one, have the same
    values equally often. `reason` says so where the interval of boosting ends below 0.5.

    Args:
        real: Real rows.
        synthetic: Synthetic rows with the same columns.
        seed: Decides rows, folds and models.

    Returns:
        The areas; without any, and with a reason, if either table has fewer than 30 rows or there
        is no column to go by.
    """
    n = min(len(real), len(synthetic), MOST_ROWS)
    if n < FEWEST_ROWS:
        few = f"detection needs {FEWEST_ROWS} rows of each table, and there are {n}"
        return Detection({}, (), n, few)
    if not real.columns.names:
        return Detection({}, (), n, "there is no column to tell rows apart by")
    rng = np.random.default_rng(np.random.SeedSequence([seed, n, FOLDS]))
    drawn = [table.take(np.sort(rng.permutation(len(table))[:n])) for table in (real, synthetic)]
    rows, is_synthetic = Rows.concat(drawn), np.arange(2 * n) >= n
    fold = _folds(rows, rng)

    scores = {name: np.empty(2 * n) for name in MODELS}
    drops = np.zeros(len(rows.columns.names))
    for k in range(FOLDS):
        rest, held = fold != k, np.flatnonzero(fold == k)
        if not len(held) or not rest.any():
            for found_scores in scores.values():
                found_scores[held] = 0.5
            continue
        for name, learner in MODELS.items():
            predict = learn(learner, rows.take(rest), is_synthetic[rest] * 1, classes=2, seed=seed)
            scores[name][held] = _ranks(predict(rows.take(held))[:, 1])
            if name == "gradient_boosting":
                some = rng.permutation(held)[:IMPORTANCE_ROWS]
                score = partial(_area, predict, is_synthetic[some])
                found = permutation_importances(rows.take(some), score, rng)
                drops += np.array(list(found.values())) / FOLDS
    areas = {
        name: auc_interval(
            score[is_synthetic],
            score[~is_synthetic],
            seed=seed,
            widening=math.sqrt(1 + FOLDS / (FOLDS - 1)),
        )
        for name, score in scores.items()
    }
    ranked = sorted(zip(rows.columns.names, drops.tolist(), strict=True), key=lambda x: -x[1])
    worse = areas["gradient_boosting"].high < 0.5
    return Detection(areas, tuple(ranked), n, WORSE_THAN_CHANCE if worse else None)


def _folds(rows: Rows, rng: np.random.Generator) -> Integers:
    """The fold (n,) of every row, whatever its table: few equal rows share one, many do not.

    That it does not look at the table keeps held-out rows independent of the others: 0.5 is what
    tables of the same distribution score on average.
    """
    _, group, sizes = np.unique(rows.keys(), return_inverse=True, return_counts=True)
    together = sizes[group] <= max(2, min(MOST_TWINS, len(rows) // 100))
    alone = len(sizes) + np.arange(len(rows))
    _, unit = np.unique(np.where(together, group, alone), return_inverse=True)
    return np.asarray(rng.permutation(int(unit.max()) + 1)[unit] % FOLDS)


def _ranks(scores: Floats) -> Floats:
    """Mid-ranks (n,) in (0, 1)."""
    ordered = np.sort(scores)
    ranks = np.searchsorted(ordered, scores) + np.searchsorted(ordered, scores, side="right")
    return np.asarray(ranks / (2 * len(scores)))


def _area(predict: Predict, is_synthetic: Flags, rows: Rows) -> float:
    """The AUC of a model on rows; 0.5 where those of one table are missing."""
    if is_synthetic.all() or not is_synthetic.any():
        return 0.5
    scores = predict(rows)[:, 1]
    return auc(scores[is_synthetic], scores[~is_synthetic])
