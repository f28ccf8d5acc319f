"""Models trained on synthetic rows, tested on real ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from genesis import DataError, SchemaError
from genesis.evaluation import features
from genesis.evaluation import utility as module
from genesis.evaluation.rows import align
from genesis.evaluation.utility import Utility, headline, utility
from tests.dirty import dirty_table


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "TREES", 20)


def judged(
    real: pd.DataFrame, synthetic: pd.DataFrame, test: pd.DataFrame, target: str, seed: int = 0
) -> Utility:
    rows = align({"real": real, "synthetic": synthetic, "holdout": test}).rows
    return utility(rows["real"], rows["synthetic"], rows["holdout"], target, seed=seed)


def people(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(50, 15, n).round()
    job = rng.choice(["a", "b", "c"], n)
    wage = 20 * age + 300 * (job == "a") + rng.normal(0, 50, n)
    noise = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))
    rich = wage + rng.normal(0, 50, n) > 1100
    return pd.DataFrame({"age": age, "job": job, "wage": wage, "noise": noise, "rich": rich})


REAL, FRESH, TEST = (people(400, seed) for seed in range(3))


def shuffled(table: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(9)
    return pd.DataFrame({name: rng.permutation(table[name].to_numpy()) for name in table})


@pytest.mark.parametrize(
    ("target", "metric", "third"),
    [("rich", "auroc", "logistic_regression"), ("job", "auroc", None), ("wage", "r2", "ridge")],
)
def test_fresh_rows_are_as_useful_as_real_ones(target: str, metric: str, third: str | None) -> None:
    found = judged(REAL, FRESH, TEST, target).to_dict()
    assert found["metric"] == metric
    assert list(found["models"]) == [
        "gradient_boosting",
        "random_forest",
        third or "logistic_regression",
    ]
    assert found["tstr"] == pytest.approx(found["trtr"], abs=0.06)
    assert abs(found["difference"]["value"]) < 0.06
    assert found["difference"]["low"] < 0.01
    assert found["difference"]["high"] > -0.01
    assert found["augmented"] > found["trtr"] - 0.02
    assert found["importance_agreement"] > 0.75
    assert found["reason"] is None


@pytest.mark.parametrize(("target", "chance"), [("rich", 0.5), ("wage", 0.0)])
def test_shuffled_columns_are_useless(target: str, chance: float) -> None:
    found = judged(REAL, shuffled(FRESH), TEST, target)
    score = found.models["gradient_boosting"]["tstr"][found.metric]
    assert score is not None
    assert score < chance + 0.25
    assert found.difference is not None
    assert found.difference.high < -0.15
    assert found.augmentation_gain is not None
    assert found.augmentation_gain.value < 0
    assert max(found.importances["real"], key=found.importances["real"].__getitem__) in (
        "wage",
        "age",
    )


def test_a_copy_is_worth_exactly_as_much() -> None:
    found = judged(REAL, REAL, TEST, "rich").to_dict()
    assert found["tstr"] == found["trtr"]
    assert found["difference"] == {"value": 0, "low": 0, "high": 0}
    assert found["importances"]["real"] == found["importances"]["synthetic"]
    assert found["importance_agreement"] == pytest.approx(1)


@pytest.mark.parametrize("target", ["rich", "job", "wage"])
def test_the_headline_of_a_control(target: str) -> None:
    rows = align({"real": REAL, "synthetic": FRESH, "holdout": TEST}).rows
    found = utility(*rows.values(), target)
    assert headline(rows["real"], rows["holdout"], target) == found.to_dict()["trtr"]
    assert headline(rows["real"].take([0]), rows["holdout"].take([0]), target) is None


def test_a_lost_class_is_a_finding() -> None:
    poor = FRESH[~FRESH["rich"]]
    found = judged(REAL, poor, TEST, "rich")
    assert found.reason == "the synthetic rows lack 1 of the 2 classes"
    for scores in found.models.values():
        assert scores["tstr"]["auroc"] == 0.5
        assert scores["tstr"]["accuracy"] == pytest.approx((~TEST["rich"]).mean())
    assert found.importance_agreement == 0
    of_three = judged(REAL, FRESH[FRESH["job"] != "b"], TEST, "job")
    assert of_three.reason == "the synthetic rows lack 1 of the 3 classes"
    assert of_three.difference is not None
    assert of_three.difference.value < 0


def test_invented_and_unseen_categories() -> None:
    synthetic = FRESH.assign(job=FRESH["job"].replace("a", "invented"))
    test = TEST.assign(job=TEST["job"].replace("b", "unseen"))
    for target in ("job", "rich", "wage"):
        found = judged(REAL, synthetic, test, target)
        json.dumps(found.to_dict(), allow_nan=False)
    # A class that no training row has is never guessed: its area is 0.5.
    found = judged(REAL, FRESH, test, "job")
    for scores in found.models.values():
        assert all(0.3 < (each["auroc"] or 0) < 1 for each in scores.values())


def test_rows_without_the_target_are_left_out() -> None:
    real = REAL.assign(job=REAL["job"].where(np.arange(400) % 2 == 0))
    found = judged(real, FRESH, TEST, "job")
    assert (found.train_rows, found.synthetic_rows, found.test_rows) == (200, 400, 400)
    by_number = judged(REAL, FRESH, TEST, "noise")
    assert by_number.train_rows == REAL["noise"].notna().sum()
    none = judged(REAL, FRESH.assign(job=None), TEST, "job").to_dict()
    assert none["tstr"] is None
    assert none["difference"] is None
    assert none["importance_agreement"] is None
    assert none["augmented"] == none["trtr"]
    assert none["reason"] == "the target is null in every synthetic row"


def test_numbers_with_two_values_are_classes() -> None:
    real, test = (table.assign(rich=np.where(table["rich"], 2.5, -1.5)) for table in (REAL, TEST))
    rng = np.random.default_rng(0)
    smeared = FRESH.assign(rich=np.where(FRESH["rich"], 2.5, -1.5) + rng.uniform(-1, 1, 400))
    found = judged(real, smeared, test, "rich")
    plain = judged(REAL, FRESH, TEST, "rich")
    assert found.task == "classification"
    assert found.models["random_forest"]["tstr"] == pytest.approx(
        plain.models["random_forest"]["tstr"], abs=0.05
    )


@pytest.mark.parametrize("scale", [1e-200, 1e300, 1e15])
def test_the_unit_of_a_number_does_not_matter(scale: float) -> None:
    plain, scaled = (
        judged(*(t.assign(wage=t["wage"] * s) for t in (REAL, FRESH, TEST)), "wage")
        for s in (1.0, scale)
    )
    for name, scores in plain.models.items():
        for trained_on, each in scores.items():
            other = scaled.models[name][trained_on]
            assert other["r2"] == pytest.approx(each["r2"], rel=1e-3)
            assert other["mae"] == pytest.approx(abs(scale) * (each["mae"] or 0), rel=1e-3)


def test_absurd_synthetic_numbers_are_scored() -> None:
    found = judged(REAL, FRESH.assign(wage=FRESH["wage"] * 1e200), TEST, "wage").to_dict()
    json.dumps(found, allow_nan=False)
    assert found["tstr"] < -1e6


def test_many_classes_share_the_last() -> None:
    rng = np.random.default_rng(0)
    real, synthetic, test = (
        pd.DataFrame(
            {"town": [f"t{int(i)}" for i in rng.geometric(0.05, 300)], "x": rng.normal(size=300)}
        )
        for _ in range(3)
    )
    found = judged(real, synthetic, test, "town")
    assert 0.3 < found.models["gradient_boosting"]["trtr"]["auroc"] < 0.7  # type: ignore[operator]


@pytest.mark.parametrize("owner", ["real", "synthetic", "test"])
@pytest.mark.parametrize("target", ["rich", "wage"])
def test_one_row(owner: str, target: str) -> None:
    tables = {"real": REAL[:60], "synthetic": FRESH[:60], "test": TEST[:60]}
    tables[owner] = tables[owner][:1]
    found = judged(*tables.values(), target).to_dict()
    json.dumps(found, allow_nan=False)
    if owner == "test":
        assert found["tstr"] is found["difference"] is None
        metric = "mae" if target == "wage" else "accuracy"
        assert found["models"]["random_forest"]["trtr"][metric] is not None
        assert found["reason"] == "the real test rows hold one value of the target"
    elif target == "rich":
        assert found["trtr" if owner == "real" else "tstr"] == 0.5


def test_nothing_to_predict_from() -> None:
    tables = (table[["rich"]] for table in (REAL, FRESH, TEST))
    found = judged(*tables, "rich").to_dict()
    assert found["tstr"] == found["trtr"] == 0.5
    assert found["importances"] == {"real": {}, "synthetic": {}}
    assert found["importance_agreement"] is None


def test_a_target_that_cannot_be_predicted() -> None:
    with pytest.raises(SchemaError, match=r"target 'ritch' .* did you mean rich\?"):
        judged(REAL, FRESH, TEST, "ritch")
    same = REAL.assign(job="a"), FRESH, TEST.assign(job="a")
    with pytest.raises(DataError, match="target 'job' cannot be predicted; got one value in all"):
        judged(*same, "job")
    with pytest.raises(DataError, match="got nulls in all real test rows"):
        judged(REAL, FRESH, TEST.assign(wage=np.nan), "wage")
    with pytest.raises(DataError, match="got nulls in all real training rows"):
        judged(REAL.assign(job=None), FRESH, TEST, "job")


@settings(max_examples=2)
@given(seed=st.integers(0, 2**16))
@pytest.mark.parametrize("target", ["région=?", "zeros", "admitted"])
def test_the_order_of_rows_and_columns_does_not_matter(target: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [dirty_table(n, seed=n) for n in (90, 80, 70)]
    mixed = [t.iloc[rng.permutation(len(t)), rng.permutation(t.shape[1])] for t in tables]
    plain = judged(*tables, target).to_dict()
    assert judged(*mixed, target).to_dict() == plain
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


classes = st.integers(2, 5)


@given(seed=st.integers(0, 2**16), classes=classes, n=st.integers(5, 60), ties=st.booleans())
def test_classification_metrics_are_those_of_scikit_learn(
    seed: int, classes: int, n: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = np.append(np.arange(classes), rng.integers(classes, size=n))
    guesses = rng.dirichlet(np.ones(classes), len(truth))
    guesses = np.round(guesses, 1) if ties else guesses
    found = module._metrics(truth, guesses, classes, 1.0)
    areas = [metrics.roc_auc_score(truth == c, guesses[:, c]) for c in range(classes)]
    guess = guesses.argmax(axis=1)
    f1 = metrics.f1_score(truth, guess, average="macro", labels=np.unique(truth), zero_division=0)
    assert found == pytest.approx(
        {
            "auroc": np.mean(areas),
            "f1_macro": f1,
            "accuracy": metrics.accuracy_score(truth, guess),
        }
    )


@given(seed=st.integers(0, 2**16), n=st.integers(2, 60), scale=st.sampled_from([1.0, 1e9]))
def test_regression_metrics_are_those_of_scikit_learn(seed: int, n: int, scale: float) -> None:
    truth, guesses = np.random.default_rng(seed).normal(size=(2, n))
    assert module._metrics(truth, guesses, None, scale) == pytest.approx(
        {
            "r2": metrics.r2_score(truth, guesses),
            "mae": scale * metrics.mean_absolute_error(truth, guesses),
        }
    )


@pytest.mark.parametrize("classes", [None, 2, 3])
def test_intervals_agree_with_the_bootstrap(classes: int | None) -> None:
    rng = np.random.default_rng(0)
    n = 500
    truth: np.ndarray[Any, Any]
    if classes is None:
        truth = rng.normal(size=n)
        one, other = truth + rng.normal(0, 0.5, n), 0.8 * truth + rng.normal(0, 0.6, n)
    else:
        truth = rng.integers(classes, size=n)
        hot = np.eye(classes)[truth]
        one, other = hot + rng.normal(0, 0.9, hot.shape), hot + rng.normal(0, 1.2, hot.shape)

    def difference(rows: np.ndarray[Any, Any]) -> float:
        values = [module._estimate(truth[rows], each[rows], classes) for each in (one, other)]
        assert values[0] is not None
        assert values[1] is not None
        return values[0].value - values[1].value

    found = module._difference(
        module._estimate(truth, one, classes), module._estimate(truth, other, classes)
    )
    assert found is not None
    draws = [difference(rng.integers(n, size=n)) for _ in range(400)]
    assert found.value == pytest.approx(difference(np.arange(n)))
    assert (found.high - found.low) / (2 * module.Z95) == pytest.approx(np.std(draws), rel=0.12)


def test_influences_are_what_a_row_more_would_change() -> None:
    """A row twice, in n + 1 rows, raises the score by its influence / n."""
    rng = np.random.default_rng(0)
    n = 4000
    truth, guesses = rng.integers(2, size=n), rng.normal(size=(n, 2))
    guesses[:, 1] += truth
    numbers = rng.normal(size=n)
    for labels, scores, classes in (
        (truth, guesses, 2),
        (numbers, numbers + guesses[:, 0], None),
    ):
        whole = module._estimate(labels, scores, classes)
        assert whole is not None
        assert whole.influence.mean() == pytest.approx(0, abs=1e-9)
        for row in range(5):
            rows = np.append(np.arange(n), row)
            more = module._estimate(labels[rows], scores[rows], classes)
            assert more is not None
            assert n * (more.value - whole.value) == pytest.approx(
                whole.influence[row], rel=0.02, abs=0.01
            )


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=9))
def test_agreement_is_a_share(pairs: list[tuple[float, float]]) -> None:
    real, synthetic = ({str(i): pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    found = module._agreement(real, synthetic)
    if found is not None:
        assert 0 <= found <= 1 + 1e-9
        assert module._agreement(real, real) == pytest.approx(1)
