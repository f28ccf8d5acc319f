"""Utility: do models trained on synthetic rows work on real ones?

"Train on synthetic, test on real" (Esteban, Hyland & Rätsch 2017), beside the same models trained
on the real rows and on both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import DataError, SchemaError, nearest_names
from genesis.evaluation.features import learn, permutation_importances
from genesis.evaluation.intervals import Interval
from genesis.evaluation.rows import Rows

__all__ = ["Utility", "check_target", "headline", "utility"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

HEADLINE = "gradient_boosting"
LINEAR = {"classification": "logistic_regression", "regression": "ridge"}
METRICS = {"classification": ("auroc", "f1_macro", "accuracy"), "regression": ("r2", "mae")}
MOST_ROWS = 30_000  # of a table
MOST_CLASSES = 20  # of a target; rarer ones share the last
IMPORTANCE_ROWS = 5_000
FARTHEST = 1e6  # times the largest real number: synthetic targets beyond count as that
SMALLEST_VARIANCE = 1e-200
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Utility:
    """How models do on real rows, by what they were trained on.

    Args:
        target: The column that they predict.
        task: "classification" or "regression".
        models: Name -> "tstr" (trained on synthetic rows), "trtr" (on real ones) and "augmented"
            (on both) -> metric -> score. AUROC, F1 and accuracy, or R² and the mean absolute error
            in the target's own unit; None where a score has no meaning.
        difference: Boosting's AUROC or R² of tstr less trtr, with its 95 % interval.
        augmentation_gain: The same of augmented less trtr.
        importances: "real" and "synthetic" -> column -> drop of that score on the test rows when
            the column is permuted, for the boosting trained on those rows.
        importance_agreement: The share of importance that both put on the same columns, in [0, 1].
        train_rows: Real rows trained on.
        synthetic_rows: Synthetic rows trained on.
        test_rows: Real rows tested on.
        reason: What there is to know about scores that are missing or at chance level.
    """

    target: str
    task: str
    models: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    difference: Interval | None
    augmentation_gain: Interval | None
    importances: Mapping[str, Mapping[str, float]]
    importance_agreement: float | None
    train_rows: int
    synthetic_rows: int
    test_rows: int
    reason: str | None = None

    @property
    def metric(self) -> str:
        """The metric of the headline."""
        return METRICS[self.task][0]

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON; boosting's scores are the headline."""
        headline = self.models[HEADLINE]
        return {
            "target": self.target,
            "task": self.task,
            "metric": self.metric,
            "model": HEADLINE,
            **{trained_on: scores[self.metric] for trained_on, scores in headline.items()},
            "difference": self.difference and self.difference.to_dict(),
            "augmentation_gain": self.augmentation_gain and self.augmentation_gain.to_dict(),
            "importance_agreement": self.importance_agreement,
            "importances": {name: dict(drops) for name, drops in self.importances.items()},
            "models": {
                name: {trained_on: dict(scores) for trained_on, scores in each.items()}
                for name, each in self.models.items()
            },
            "train_rows": self.train_rows,
            "synthetic_rows": self.synthetic_rows,
            "test_rows": self.test_rows,
            "reason": self.reason,
        }


def utility(
    train_real: Rows, synthetic: Rows, test: Rows, target: str, *, seed: int = 0
) -> Utility:
    """Train models on synthetic rows, on real ones and on both, and test them on other real rows.

    A category or boolean is classified, and so is a number with two values (synthetic numbers
    between them count as the nearer one); of more than 20 classes the rarest share one. Other
    numbers are regressed. Rows whose target is null are left out, and at most 30,000 rows of each
    table are used. A generator that lost a class is judged like any other: its models give that
    class no chance, and if one class is all there is, their AUROC is 0.5.

    Args:
        train_real: Real rows to train on.
        synthetic: Synthetic rows to train on.
        test: Real rows that neither models nor the generator have seen.
        target: The column to predict, from all others.
        seed: Decides rows, models and permutations.

    Raises:
        SchemaError: There is no such column that can be predicted.
        DataError: The target has one value or none in the real rows.
    """
    check_target(train_real, test, target)
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(train_real.columns.names)]))
    drawn = [_drawn(_known(table, target), rng) for table in (train_real, synthetic, test)]
    (y_real, y_synthetic, truth), classes, scale = _answers(drawn, target)
    real, made, tested = (_without(table, target) for table in drawn)
    sources = {
        "tstr": (made, y_synthetic),
        "trtr": (real, y_real),
        "augmented": (Rows.concat([real, made]), np.concatenate([y_real, y_synthetic])),
    }
    task = "regression" if classes is None else "classification"
    asked = np.sort(rng.permutation(len(tested))[:IMPORTANCE_ROWS])

    models: dict[str, dict[str, dict[str, float | None]]] = {}
    estimates: dict[str, _Estimate | None] = {}
    drops: dict[str, dict[str, float]] = {}
    for name in (HEADLINE, "random_forest", LINEAR[task]):
        learner = "linear" if name == LINEAR[task] else name
        models[name] = {}
        for trained_on, (rows, answers) in sources.items():
            if not len(rows):
                models[name][trained_on] = dict.fromkeys(METRICS[task])
                continue
            predict = learn(learner, rows, answers, classes=classes, seed=seed)
            guesses = predict(tested)
            models[name][trained_on] = _metrics(truth, guesses, classes, scale)
            if name == HEADLINE:
                estimates[trained_on] = _estimate(truth, guesses, classes)
                if trained_on != "augmented":
                    drops[trained_on] = _importances(
                        tested.take(asked), truth[asked], predict, classes, seed
                    )
    importances = {"real": drops["trtr"], "synthetic": drops.get("tstr", {})}
    return Utility(
        target=target,
        task=task,
        models=models,
        difference=_difference(estimates.get("tstr"), estimates["trtr"]),
        augmentation_gain=_difference(estimates["augmented"], estimates["trtr"]),
        importances=importances,
        importance_agreement=_agreement(**importances),
        train_rows=len(real),
        synthetic_rows=len(made),
        test_rows=len(tested),
        reason=_reason(y_real, y_synthetic, truth),
    )


def check_target(train_real: Rows, test: Rows, target: str) -> None:
    """Make sure that `utility` can predict a target, before there are synthetic rows.

    Raises:
        SchemaError: As `utility`.
        DataError: As `utility`.
    """
    names = train_real.columns.names
    if target not in names:
        raise SchemaError(
            f"the target '{target}' cannot be predicted",
            got="no column of that name, or one that is an id or constant",
            do=nearest_names(target, names),
        )
    real = _known(train_real, target)
    _answers([real, real, _known(test, target)], target)


def headline(train: Rows, test: Rows, target: str, *, seed: int = 0) -> float | None:
    """AUROC or R² of boosting alone, as `utility` has it, for rows that serve as a control.

    Args:
        train: Rows to train on.
        test: Rows to test on.
        target: The column to predict, one of theirs.
        seed: Decides rows and models.

    Returns:
        The score; None where it has no meaning, because there are too few values of the target.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(train.columns.names)]))
    train, test = (_drawn(_known(table, target), rng) for table in (train, test))
    try:
        (answers, _, truth), classes, _ = _answers([train, train, test], target)
    except DataError:
        return None
    predict = learn(HEADLINE, _without(train, target), answers, classes=classes, seed=seed)
    estimate = _estimate(truth, predict(_without(test, target)), classes)
    return estimate.value if estimate else None


@dataclass(frozen=True)
class _Estimate:
    """A score, and by how much each of the n test rows, weighing 1 / n more, would raise it.

    The variance of the score is that of the influence over n (the infinitesimal jackknife), and the
    influence of a difference is the difference of influences: the tests are paired.
    """

    value: float
    influence: Floats


def _known(rows: Rows, target: str) -> Rows:
    """The rows in which the target is not null."""
    numeric, discrete = rows.columns.numeric, rows.columns.discrete
    if target in numeric:
        return rows.take(~np.isnan(rows.numeric[:, numeric.index(target)]))
    return rows.take(rows.codes[:, discrete.index(target)] > 0)


def _drawn(rows: Rows, rng: np.random.Generator) -> Rows:
    """At most `MOST_ROWS` of the rows."""
    return rows.take(np.sort(rng.permutation(len(rows))[:MOST_ROWS]))


def _without(rows: Rows, target: str) -> Rows:
    """All columns but one."""
    return rows.only([name for name in rows.columns.names if name != target])


def _answers(
    tables: Sequence[Rows], target: str
) -> tuple[list[npt.NDArray[Any]], int | None, float]:
    """The target of real, synthetic and test rows: classes and their number, or numbers and a unit.

    The unit is the largest real number, so that no square overflows.
    """
    columns = tables[0].columns
    if target in columns.numeric:
        j = columns.numeric.index(target)
        found: list[npt.NDArray[Any]] = [rows.numeric[:, j] for rows in tables]
    else:
        j = columns.discrete.index(target)
        found = [rows.codes[:, j] for rows in tables]
    real, synthetic, test = found
    values, counts = np.unique(np.concatenate([real, test]), return_counts=True)
    if not len(real) or not len(test) or len(values) < 2:
        empty = "training" if not len(real) else "test" if not len(test) else None
        raise DataError(
            f"the target '{target}' cannot be predicted",
            got=f"nulls in all real {empty} rows" if empty else "one value in all real rows",
            do="choose another target",
        )
    if target in columns.discrete:
        # 0 is the most frequent class; those that no real row has share the one after the last.
        place = np.full(columns.sizes[j], min(len(values), MOST_CLASSES - 1))
        by_frequency = values[np.argsort(-counts, kind="stable")]
        place[by_frequency] = np.minimum(np.arange(len(values)), MOST_CLASSES - 1)
        found = [place[codes] for codes in found]
        return found, 1 + max(int(y.max(initial=0)) for y in found), 1.0
    if len(values) == 2:
        middle = values[0] / 2 + values[1] / 2
        return [(numbers > middle).astype(np.int64) for numbers in found], 2, 1.0
    scale = float(np.abs(values).max())
    limit = FARTHEST * min(scale, 1e300)
    return [real / scale, np.clip(synthetic, -limit, limit) / scale, test / scale], None, scale


def _metrics(
    truth: npt.NDArray[Any], guesses: Floats, classes: int | None, scale: float
) -> dict[str, float | None]:
    """All metrics of the task; F1 is averaged over the classes of truth."""
    estimate = _estimate(truth, guesses, classes)
    value = estimate.value if estimate else None
    if classes is None:
        return {"r2": value, "mae": float(np.abs(truth - guesses).mean()) * scale}
    guess = guesses.argmax(axis=1)
    right = truth == guess
    rows, guessed, hits = (
        np.bincount(each, minlength=classes) for each in (truth, guess, truth[right])
    )
    f1 = 2 * hits[rows > 0] / (rows + guessed)[rows > 0]
    return {"auroc": value, "f1_macro": float(f1.mean()), "accuracy": float(right.mean())}


def _estimate(truth: npt.NDArray[Any], guesses: Floats, classes: int | None) -> _Estimate | None:
    """AUROC or R²; None if all of truth is one value."""
    if (truth == truth[0]).all():
        return None
    return _r2(truth, guesses) if classes is None else _auroc(truth, guesses)


def _auroc(truth: Integers, guesses: Floats) -> _Estimate:
    """Area under the ROC curve of each class of truth against the rest, averaged over classes.

    The area is the mean of v, where v of a row of the class is the share of other rows that it
    outscores, and v of another row the share of rows of the class that outscore it, with half for
    ties (DeLong, DeLong & Clarke-Pearson 1988). A row's influence is (v - area) n / m, where m
    is the number of rows on its side.
    """
    present, n = np.unique(truth), len(truth)
    total, influence = 0.0, np.zeros(n)
    for c in present:
        score, own = guesses[:, c], truth == c
        won = _outscored(score[own], score[~own])
        lost = 1 - _outscored(score[~own], score[own])
        area = float(won.mean())
        influence[own] += (won - area) * n / len(won)
        influence[~own] += (lost - area) * n / len(lost)
        total += area
    return _Estimate(total / len(present), influence / len(present))


def _outscored(scores: Floats, others: Floats) -> Floats:
    """The share of others below each score; ties count half."""
    others = np.sort(others)
    places = np.searchsorted(others, scores) + np.searchsorted(others, scores, side="right")
    return np.asarray(places / (2 * len(others)))


def _r2(truth: Floats, guesses: Floats) -> _Estimate | None:
    """R² = 1 - A / B, where A is the mean squared error and B the variance of truth.

    By the delta method a row's influence is -(a - a' A / B) / B, with its squared error a and its
    squared distance a' to the mean.
    """
    errors, distances = (truth - guesses) ** 2, (truth - truth.mean()) ** 2
    A, B = float(errors.mean()), float(distances.mean())
    if SMALLEST_VARIANCE > B:
        return None
    return _Estimate(1 - A / B, -(errors - distances * (A / B)) / B)


def _importances(
    rows: Rows,
    truth: npt.NDArray[Any],
    predict: Callable[[Rows], Floats],
    classes: int | None,
    seed: int,
) -> dict[str, float]:
    """What permuting a column costs of AUROC or R²; every model sees the same permutations."""

    def score(permuted: Rows) -> float:
        estimate = _estimate(truth, predict(permuted), classes)
        return estimate.value if estimate else 0.0

    rng = np.random.default_rng(np.random.SeedSequence([seed, len(rows)]))
    return permutation_importances(rows, score, rng)


def _agreement(real: Mapping[str, float], synthetic: Mapping[str, float]) -> float | None:
    """Σ min(a, b) over columns, where a and b are importances above 0, each divided by its sum.

    A rank correlation would give the many columns that do not matter the same say as the few
    that do.
    """
    a, b = (
        np.maximum(np.array([drops.get(c, 0.0) for c in real]), 0) for drops in (real, synthetic)
    )
    if not synthetic or not a.sum():
        return None
    return float(np.minimum(a / a.sum(), b / (b.sum() or 1)).sum())


def _difference(one: _Estimate | None, other: _Estimate | None) -> Interval | None:
    """One score less another on the same rows, ± 1.96 standard errors."""
    if one is None or other is None:
        return None
    value = one.value - other.value
    spread = Z95 * float((one.influence - other.influence).std()) / math.sqrt(len(one.influence))
    return Interval(value, value - spread, value + spread)


def _reason(
    real: npt.NDArray[Any], synthetic: npt.NDArray[Any], test: npt.NDArray[Any]
) -> str | None:
    """What rows lack that scores need."""
    reasons = []
    lost = len(np.setdiff1d(real, synthetic)) if real.dtype == np.int64 else 0
    if not len(synthetic):
        reasons.append("the target is null in every synthetic row")
    elif lost:
        reasons.append(f"the synthetic rows lack {lost} of the {len(np.unique(real))} classes")
    for owner, answers in (("training", real), ("test", test)):
        if (answers == answers[0]).all():
            reasons.append(f"the real {owner} rows hold one value of the target")
    return "; ".join(reasons) or None
