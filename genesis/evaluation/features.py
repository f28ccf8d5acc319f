"""Rows as scikit-learn wants them, and the models that scores are made of.

Two kinds of design matrix. Trees take one feature a column and find nulls and groups of categories
by themselves. Linear models take quantiles, flags and one-hots. Both are fitted on the rows that
a model is trained on, and take whatever other rows bring: new categories, new nulls, any number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.evaluation.rows import Rows

__all__ = ["LinearFeatures", "Predict", "TreeFeatures", "learn", "permutation_importances"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Predict = Callable[[Rows], Floats]

LEVELS = 255  # categories that HistGradientBoosting can tell apart in one feature
TREES = 100
L2 = 10.0  # keeps boosting from being sure of classes with few rows
FOREST_ROWS = 10_000  # drawn for each tree of a forest: more cost time and gain little


@dataclass(frozen=True)
class TreeFeatures:
    """One feature a column, in the order of `Columns.names`.

    A number becomes its place among the distinct numbers of the reference: 2i + 1 if it equals the
    i-th, 2i if it lies below that and above the one before. Trees see nothing but order, so nothing
    is lost, and any float64 survives a forest's float32. A category becomes its rank by frequency,
    0 the most frequent, and the rarest share the last of `LEVELS`; the null of a discrete column is
    a category like the others. The null of a number is NaN, and so is a category that the reference
    does not hold: trees send NaN to a side of its own choice.

    Args:
        categorical: (d,) whether a feature is a category.
        distinct: Of every numeric column, its distinct numbers, sorted.
        levels: Of every discrete column, the level of each code; NaN where there is none.
    """

    categorical: npt.NDArray[np.bool_]
    distinct: tuple[Floats, ...]
    levels: tuple[Floats, ...]

    @classmethod
    def fit(cls, reference: Rows) -> TreeFeatures:
        """Learn distinct numbers and frequencies."""
        p, q = reference.numeric.shape[1], reference.codes.shape[1]
        levels = [np.array(level, dtype=np.float64) for level in _levels(reference)]
        for level in levels:
            level[level < 0] = np.nan
        return cls(
            np.arange(p + q) >= p,
            tuple(np.unique(x[~np.isnan(x)]) for x in reference.numeric.T),
            tuple(levels),
        )

    def transform(self, rows: Rows) -> Floats:
        """The (n, d) features of rows with the same columns."""
        features = np.empty((len(rows), len(self.categorical)))
        for j, (x, distinct) in enumerate(zip(rows.numeric.T, self.distinct, strict=True)):
            places = np.searchsorted(distinct, x) + np.searchsorted(distinct, x, side="right")
            # Boosting cannot bin a feature that is nothing but NaN; all 0 says as much.
            features[:, j] = np.where(np.isnan(x), np.nan, places) if len(distinct) else 0
        for j, (code, level) in enumerate(zip(rows.codes.T, self.levels, strict=True)):
            features[:, len(self.distinct) + j] = level[code]
        return features


@dataclass(frozen=True)
class LinearFeatures:
    """Quantiles, flags of nulls, and one-hots, as a sparse matrix.

    A number becomes √12 (u - ½), where u is its mid-rank among the n numbers of the reference over
    n: mean 0 and variance 1 for whatever distribution. Its null is 0, and 1 in a feature of its own
    if the reference has nulls. The rarest categories share the last of `LEVELS`; one that the
    reference does not hold is 0 everywhere.

    Args:
        sorted_numbers: Of every numeric column, its numbers, sorted.
        flagged: Places of numeric columns with nulls.
        levels: Of every discrete column, the level of each code; -1 where there is none.
    """

    sorted_numbers: tuple[Floats, ...]
    flagged: Integers
    levels: tuple[Integers, ...]

    @classmethod
    def fit(cls, reference: Rows) -> LinearFeatures:
        """Learn quantiles and frequencies."""
        null = np.isnan(reference.numeric)
        return cls(
            tuple(np.sort(x[~np.isnan(x)]) for x in reference.numeric.T),
            np.flatnonzero(null.any(axis=0)),
            tuple(_levels(reference)),
        )

    def transform(self, rows: Rows) -> Any:
        """The (n, d) features of rows with the same columns, in compressed sparse rows."""
        from scipy import sparse

        n, null = len(rows), np.isnan(rows.numeric)
        quantiles = np.zeros((n, len(self.sorted_numbers)))
        for j, (x, known) in enumerate(zip(rows.numeric.T, self.sorted_numbers, strict=True)):
            ranks = (np.searchsorted(known, x) + np.searchsorted(known, x, side="right")) / 2
            quantiles[:, j] = np.sqrt(12) * (ranks / max(len(known), 1) - 0.5)
        quantiles[null] = 0
        blocks = [sparse.csr_matrix(np.hstack([quantiles, null[:, self.flagged]]))]
        for code, level in zip(rows.codes.T, self.levels, strict=True):
            hot = level[code]
            (held,) = np.nonzero(hot >= 0)
            shape = (n, int(level.max(initial=-1)) + 1)
            blocks.append(sparse.csr_matrix((np.ones(len(held)), (held, hot[held])), shape))
        return sparse.hstack(blocks, format="csr")


def learn(
    name: str, rows: Rows, target: npt.NDArray[Any], *, classes: int | None = None, seed: int = 0
) -> Predict:
    """Train a model.

    Args:
        name: "gradient_boosting", "random_forest" or "linear": logistic or ridge regression.
        rows: (n,) what to predict from; at least one row.
        target: (n,) classes from 0 on, or numbers if classes is None.
        classes: Number of classes; some may not be in target, which get probability 0.
        seed: Decides whatever is drawn.

    Returns:
        A function: m rows -> (m, classes) probabilities, or (m,) numbers. Where there is nothing
        to learn, because target has one value or rows have no columns, it is constant.
    """
    if not rows.columns.names or (target == target[0]).all():
        share = target.mean() if classes is None else _shares(target, classes)
        return lambda others: np.repeat(np.asarray(share)[None], len(others), axis=0)
    features: TreeFeatures | LinearFeatures
    features = LinearFeatures.fit(rows) if name == "linear" else TreeFeatures.fit(rows)
    if classes is None:
        regressor = _regressor(name, features, len(rows), seed)
        # Boosting sums gradients in float32: numbers like 1e9 ± 1 must be standardised first.
        place, scale = target.mean(), target.std() or 1.0
        _fit(regressor, features.transform(rows), (target - place) / scale)
        return lambda others: place + scale * regressor.predict(features.transform(others))
    classifier = _classifier(name, features, len(rows), len(np.unique(target)), seed)
    _fit(classifier, features.transform(rows), target)

    def probabilities(others: Rows) -> Floats:
        found = np.zeros((len(others), classes))
        found[:, classifier.classes_] = classifier.predict_proba(features.transform(others))
        return found

    return probabilities


def permutation_importances(
    rows: Rows, score: Callable[[Rows], float], rng: np.random.Generator
) -> dict[str, float]:
    """How much a score drops when one column's cells change places (Breiman 2001, section 10).

    Of two columns that say the same, neither may seem to matter.

    Args:
        rows: Rows that the model behind the score was not trained on.
        score: Rows -> score, higher is better.
        rng: Draws the permutations.

    Returns:
        Column -> score as it is, less the score without that column's information.
    """
    whole = score(rows)
    drops: dict[str, float] = {}
    for j, name in enumerate(rows.columns.names):
        numeric, codes = rows.numeric, rows.codes
        if j < numeric.shape[1]:
            numeric = numeric.copy()
            numeric[:, j] = rng.permutation(numeric[:, j])
        else:
            codes, k = codes.copy(), j - numeric.shape[1]
            codes[:, k] = rng.permutation(codes[:, k])
        drops[name] = whole - score(replace(rows, numeric=numeric, codes=codes))
    return drops


def _levels(reference: Rows) -> list[Integers]:
    """Of each discrete column, the level (size,) of every code: rank by frequency, -1 if absent."""
    found = []
    for code, size in zip(reference.codes.T, reference.columns.sizes, strict=True):
        counts = np.bincount(code, minlength=size)
        present = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        level = np.full(size, -1, dtype=np.int64)
        level[present] = np.minimum(np.arange(len(present)), LEVELS - 1)
        found.append(level)
    return found


def _shares(target: Integers, classes: int) -> Floats:
    """Share (classes,) of every class."""
    return np.asarray(np.bincount(target, minlength=classes) / len(target))


def _classifier(name: str, features: Any, n: int, classes: int, seed: int) -> Any:
    """An untrained classifier for n rows."""
    from sklearn import ensemble, linear_model

    if name == "linear":
        return linear_model.LogisticRegression(max_iter=100)
    if name == "random_forest":
        return ensemble.RandomForestClassifier(max_features="sqrt", **_forest(n, seed))
    # One tree a class and iteration: many classes get fewer iterations.
    iterations = TREES if classes == 2 else max(20, 2 * TREES // classes)
    return ensemble.HistGradientBoostingClassifier(
        max_iter=iterations, **_boosting(features, n, seed)
    )


def _regressor(name: str, features: Any, n: int, seed: int) -> Any:
    """An untrained regressor for n rows."""
    from sklearn import ensemble, linear_model

    if name == "linear":
        return linear_model.Ridge()
    if name == "random_forest":
        return ensemble.RandomForestRegressor(max_features=1 / 3, **_forest(n, seed))
    return ensemble.HistGradientBoostingRegressor(max_iter=TREES, **_boosting(features, n, seed))


def _boosting(features: TreeFeatures, n: int, seed: int) -> dict[str, Any]:
    """Arguments of boosted trees; small tables get smaller leaves."""
    return {
        "categorical_features": features.categorical,
        "min_samples_leaf": min(20, 1 + n // 10),
        "l2_regularization": L2,
        "early_stopping": False,  # it would need rows of every class to spare
        "random_state": seed % 2**32,
    }


def _forest(n: int, seed: int) -> dict[str, Any]:
    """Arguments of a random forest."""
    return {
        "n_estimators": TREES,
        "min_samples_leaf": min(5, 1 + n // 10),
        "max_samples": min(n, FOREST_ROWS),
        "n_jobs": -1,
        "random_state": seed % 2**32,
    }


def _fit(model: Any, features: Any, target: npt.NDArray[Any]) -> None:
    """Train a model of scikit-learn in silence."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # A logistic regression that is not quite there yet ranks rows as well as one that is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, target)
    if hasattr(model, "estimators_"):
        # Threads would add up a forest's votes in the order in which they happen to finish.
        model.n_jobs = 1
