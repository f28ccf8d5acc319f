"""`evaluate`: all scores of one table, and what they do not depend on."""

import json
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest

from genesis import DataError, Report, SchemaError, evaluate
from tests.dirty import dirty_table


@lru_cache
def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Real, synthetic (another draw) and held-out rows."""
    return dirty_table(240, 0), dirty_table(200, 1), dirty_table(160, 2)


@lru_cache
def full() -> Report:
    real, synthetic, holdout = tables()
    losses = [{"loss": 2.0}, {"loss": 1.0}]
    return evaluate(real, synthetic, holdout=holdout, target="smoker", losses=losses)


def test_the_scores_that_programs_rely_on() -> None:
    scores = full().to_dict()
    assert set(scores["fidelity"]) >= {"quality", "column_shapes", "column_pair_trends"}
    assert 0 <= scores["detection"]["c2st_auc"] <= 1
    assert set(scores["utility"]) >= {"tstr", "trtr", "metric"}
    assert set(scores["controls"]) == {"shuffled", "holdout"}
    assert set(scores["privacy"]["attacks"]) >= {"distance", "density", "classifier"}
    assert scores["privacy"]["worst"] in scores["privacy"]["attacks"]
    finding = scores["privacy"]["verdict"]["finding"]
    assert finding in {"leak", "nothing found", "inconclusive"}
    assert scores["similarity"]["label"] == "similarity, not privacy"
    json.dumps(scores, allow_nan=False)


def test_the_report_shows_them() -> None:
    report = full()
    assert set(report.to_frame().columns) == {"section", "name", "column", "value", "low", "high"}
    page = report.to_html()
    assert "größe, cm" in page
    assert report.pictures["losses"] == [{"loss": 2.0}, {"loss": 1.0}]


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    mixed = [
        table.iloc[rng.permutation(len(table)), rng.permutation(table.shape[1])]
        for table in tables()
    ]
    again = evaluate(mixed[0], mixed[1], holdout=mixed[2], target="smoker")
    assert again.to_dict() == full().to_dict()


def test_without_a_holdout_nothing_is_attacked() -> None:
    real, synthetic, _ = tables()
    scores = evaluate(real, synthetic, target="zeros").to_dict()
    assert scores["privacy"]["attacks"] is None
    assert "no holdout was given" in scores["privacy"]["why"]
    assert "generator has seen" in scores["utility"]["tested_on"]
    assert scores["utility"]["task"] == "regression"
    assert scores["controls"]["holdout"]["quality"] is not None


def test_a_small_holdout_says_how_many_rows_are_needed() -> None:
    real, synthetic, holdout = tables()
    why = evaluate(real, synthetic, holdout=holdout.iloc[:9]).to_dict()["privacy"]["why"]
    assert why == "the holdout has 9 rows, and an interval needs at least 40"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_rows_have_a_report_too(n: int) -> None:
    real, synthetic, holdout = (table.iloc[:n] for table in tables())
    report = evaluate(real, synthetic, holdout=holdout)
    json.dumps(report.to_dict(), allow_nan=False)
    assert "</html>" in report.to_html()
    assert "</html>" in evaluate(real, synthetic).to_html()


def test_odd_columns() -> None:
    """One category, new categories, nulls only, negatives, zeros and huge numbers."""
    rng = np.random.default_rng(0)
    n = 120
    real = pd.DataFrame(
        {
            "<xmp>": rng.choice(["a", "b"], n),
            "one": "x",
            "nothing": [None] * n,
            "some": np.where(rng.random(n) < 0.5, np.nan, -rng.random(n)),
            "zero": [0] * (n - 1) + [1],
            "huge": rng.normal(0, 1e300, n),
            "many": [f"c{i}" for i in rng.integers(0, 90, n)],
            "": rng.random(n) < 0.5,
        }
    )
    synthetic = real.assign(**{"<xmp>": "new", "nothing": 1.5, "zero": -5, "some": np.nan})
    report = evaluate(real, synthetic, target="")
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_dict()["detection"]["c2st_auc"] > 0.95
    assert "<xmp>" not in report.to_html()


def test_a_holdout_that_was_trained_on_is_refused() -> None:
    real, synthetic, holdout = tables()
    overlapping = pd.concat([holdout, real.iloc[:60]])
    with pytest.raises(DataError, match="the rows of the holdout overlap the real rows; got"):
        evaluate(real, synthetic, holdout=overlapping)


def test_the_target_must_be_there_and_vary() -> None:
    real, synthetic, holdout = tables()
    with pytest.raises(SchemaError, match=r"no column 'smokes' to be the target; did you mean"):
        evaluate(real, synthetic, target="smokes")
    with pytest.raises(SchemaError, match="'hospital' cannot be predicted"):
        evaluate(real, synthetic, target="hospital")
    with pytest.raises(DataError, match="'smoker' cannot be predicted; got one value"):
        evaluate(
            real.assign(smoker=True),
            synthetic,
            holdout=holdout.assign(smoker=True),
            target="smoker",
        )


def test_what_is_no_table_is_named() -> None:
    real, synthetic, _ = tables()
    with pytest.raises(DataError, match="the real table must be a pandas DataFrame; got str"):
        evaluate("real.csv", synthetic)
    with pytest.raises(DataError, match="the synthetic table must be a pandas DataFrame"):
        evaluate(real, None)
    numbered = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)))
    assert evaluate(numbered, numbered, target=2).to_dict()["utility"]["target"] == "2"


def test_every_step_is_told() -> None:
    real, synthetic, _ = tables()
    told: list[tuple[int, int, str]] = []
    evaluate(real, synthetic, progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == list(range(len(told)))
    assert {total for _, total, _ in told} == {len(told)}
