"""Design matrices, and the models trained on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genesis.evaluation.features import (
    LEVELS,
    LinearFeatures,
    TreeFeatures,
    learn,
    permutation_importances,
)
from genesis.evaluation.rows import Columns, Rows

LEARNERS = ("gradient_boosting", "random_forest", "linear")


def rows_of(numeric: object = None, codes: object = None) -> Rows:
    """Rows of columns x0, x1, … and c0, c1, …, given as lists of cells."""
    n = len((numeric if numeric is not None else codes)[0])  # type: ignore[index]
    x = np.empty((n, 0)) if numeric is None else np.array(numeric, dtype=float).T
    c = np.empty((n, 0), dtype=np.int64) if codes is None else np.array(codes, dtype=np.int64).T
    names = [
        tuple(f"{kind}{j}" for j in range(each.shape[1])) for kind, each in (("x", x), ("c", c))
    ]
    categories = tuple(tuple(f"v{i}" for i in range(1, 400)) for _ in names[1])
    return Rows(Columns(names[0], names[1], categories), x, c)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    reference=arrays(float, st.integers(1, 20), elements=finite),
    others=arrays(float, st.integers(1, 20), elements=finite),
)
def test_trees_are_told_the_order_and_nothing_else(
    reference: np.ndarray, others: np.ndarray
) -> None:
    features = TreeFeatures.fit(rows_of([reference]))
    known, new = (features.transform(rows_of([x]))[:, 0] for x in (reference, others))
    assert (
        np.sign(np.subtract.outer(known, known)) == np.sign(_compared(reference, reference))
    ).all()
    # A new number is on the right side of every known one.
    assert (np.sign(np.subtract.outer(new, known)) == np.sign(_compared(others, reference))).all()
    assert (known.astype(np.float32) == known).all()


def _compared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a[:, None] > b).astype(int) - (a[:, None] < b).astype(int)


def test_nulls_and_unseen_categories_of_trees() -> None:
    features = TreeFeatures.fit(rows_of([[1, np.nan, 3]], [[2, 2, 0]]))
    found = features.transform(rows_of([[np.nan, 0, -0.0, 2]], [[0, 2, 2, 1]]))
    np.testing.assert_array_equal(found[:, 0], [np.nan, 0, 0, 2])
    np.testing.assert_array_equal(found[:, 1], [1, 0, 0, np.nan])
    np.testing.assert_array_equal(features.categorical, [False, True])


def test_the_rarest_categories_share_one_level() -> None:
    codes = np.repeat(np.arange(300), np.r_[np.full(LEVELS - 1, 3), np.ones(46, dtype=int)])
    rows = rows_of(None, [codes])
    levels = TreeFeatures.fit(rows).transform(rows)[:, 0]
    assert len(np.unique(levels[codes < LEVELS - 1])) == LEVELS - 1
    assert set(levels[codes >= LEVELS - 1]) == {LEVELS - 1}
    hot = LinearFeatures.fit(rows).transform(rows)
    assert hot[:, 1:].shape[1] <= LEVELS
    np.testing.assert_array_equal(np.asarray(hot.sum(axis=1)).ravel(), 1)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e250])
def test_linear_features_are_standardised(scale: float) -> None:
    x = np.random.default_rng(0).lognormal(sigma=2, size=999) * scale
    found = LinearFeatures.fit(rows_of([x])).transform(rows_of([x])).toarray()[:, 0]
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert found.std() == pytest.approx(1, abs=1e-3)


def test_linear_features_of_nulls_and_unseen_categories() -> None:
    reference = rows_of([[1, np.nan, 3], [0, 0, 0]], [[2, 2, 0]])
    features = LinearFeatures.fit(reference)
    others = rows_of([[np.nan, 9], [np.nan, 0]], [[1, 0]])
    half = np.sqrt(3)  # √12 (1 - ½)
    np.testing.assert_allclose(
        # x0, x1, null of x0 (x1 had none), c0 = 2, c0 null
        features.transform(others).toarray(),
        [[0, 0, 1, 0, 0], [half, 0, 0, 0, 1]],
    )


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("n", [1, 2, 3, 30])
@pytest.mark.parametrize("classes", [None, 3])
def test_any_rows_can_be_learned_from(name: str, n: int, classes: int | None) -> None:
    rng = np.random.default_rng(n)
    rows = rows_of(
        [rng.normal(size=n) * 1e300, np.full(n, np.nan), np.zeros(n)], [rng.integers(5, size=n)] * 2
    )
    target = rng.normal(size=n) if classes is None else rng.integers(2, size=n)
    others = rows_of([[np.nan, -1e308], [5, np.nan], [0, 1]], [[300, 0]] * 2)
    found = learn(name, rows, target, classes=classes)(others)
    assert np.isfinite(found).all()
    if classes is not None:
        assert found.shape == (2, 3)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        np.testing.assert_array_equal(found[:, 2], 0)  # a class without rows


@pytest.mark.parametrize("name", LEARNERS)
def test_learning_finds_what_there_is(name: str) -> None:
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=900), rng.integers(1, 4, size=900)
    rows, y = rows_of([x], [c]), x + c
    train, test = rows.take(slice(600)), rows.take(slice(600, None))
    found = learn(name, train, y[:600])(test)
    assert np.corrcoef(found, y[600:])[0, 1] > 0.95
    label = (y > 2).astype(np.int64)
    classified = learn(name, train, label[:600], classes=2)(test)
    assert (classified.argmax(axis=1) == label[600:]).mean() > 0.9


@pytest.mark.parametrize("name", LEARNERS)
def test_large_numbers_that_differ_little_can_be_predicted(name: str) -> None:
    x = np.random.default_rng(0).normal(size=500)
    found = learn(name, rows_of([x]), 1.7e15 + x)(rows_of([x]))
    assert np.corrcoef(found - 1.7e15, x)[0, 1] > 0.9


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    rng = np.random.default_rng(0)
    rows, y = rows_of(rng.normal(size=(4, 300))), rng.integers(3, size=300)
    first, second = (learn(name, rows, y, classes=3, seed=2**40)(rows) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", LEARNERS)
def test_without_columns_or_classes_the_answer_is_constant(name: str) -> None:
    none = rows_of([[0.0] * 4]).take(slice(None))
    none = Rows(Columns((), (), ()), none.numeric[:, :0], none.codes)
    y = np.array([0, 1, 1, 1])
    np.testing.assert_array_equal(learn(name, none, y, classes=2)(none), [[0.25, 0.75]] * 4)
    np.testing.assert_array_equal(learn(name, none, y * 2.0)(none), [1.5] * 4)
    one = learn(name, rows_of([[1, 2]]), np.array([1, 1]), classes=2)
    np.testing.assert_array_equal(one(rows_of([[1.0]])), [[0, 1]])


@settings(max_examples=5)
@given(seed=st.integers(0, 2**16))
def test_boosting_does_not_care_how_numbers_are_scaled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 200)), rng.integers(2, size=200)
    plain = learn("gradient_boosting", rows_of(x), y, classes=2)(rows_of(x))
    mapped = learn("gradient_boosting", rows_of(np.sinh(5 * x)), y, classes=2)
    np.testing.assert_array_equal(plain, mapped(rows_of(np.sinh(5 * x))))


def test_importance_is_what_the_score_loses() -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(rng.normal(size=(2, 400)), rng.integers(1, 3, size=(2, 400)))
    truth = rows.numeric[:, 1] + 0.1 * rows.codes[:, 0]

    def score(given: Rows) -> float:
        guess = given.numeric[:, 1] + 0.1 * given.codes[:, 0]
        return -float(((guess - truth) ** 2).mean())

    drops = permutation_importances(rows, score, np.random.default_rng(1))
    assert list(drops) == ["x0", "x1", "c0", "c1"]
    assert drops["x0"] == drops["c1"] == 0
    # E (a - b)² = 2 Var
    assert drops["x1"] == pytest.approx(2, rel=0.15)
    assert drops["c0"] == pytest.approx(0.02 * 0.25, rel=0.15)


def test_one_row_has_no_importance() -> None:
    drops = permutation_importances(
        rows_of([[1.0]], [[0]]), lambda rows: float(rows.numeric.sum()), np.random.default_rng(0)
    )
    assert drops == {"x0": 0, "c0": 0}


def test_features_of_frames_with_odd_names() -> None:
    from genesis.evaluation.rows import align

    table = pd.DataFrame({"größe, [cm] <1>": [1.5, 2.5, None, 1.5], "ja/nein": [True, False] * 2})
    rows = align({"real": table}).rows["real"]
    for name in LEARNERS:
        assert learn(name, rows, np.array([0, 1, 0, 1]), classes=2)(rows).shape == (4, 2)
