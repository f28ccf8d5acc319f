import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.evaluation import similarity as module
from genesis.evaluation.rows import align
from genesis.evaluation.similarity import similarity
from genesis.schema import Schema
from tests.dirty import dirty_table

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _few_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDMetrics needs about 10 ms for each."""
    monkeypatch.setattr(module, "LOOKED_UP", 20)


def compare(real, synthetic, holdout=None, *, schema=None, seed: int = 0) -> dict:
    aligned = align({"real": real, "synthetic": synthetic, "holdout": holdout}, schema=schema)
    name = None if holdout is None else "holdout"
    found = similarity(aligned, name, seed=seed).to_dict()
    json.dumps(found, allow_nan=False)
    return found


def people(n: int, seed: int) -> pd.DataFrame:
    return dirty_table(n, seed).drop(columns="hospital")


def test_a_copy_is_seen_as_one() -> None:
    real, holdout = people(400, 0), people(400, 1)
    found = compare(real, real, holdout)
    assert found["label"] == "similarity, not privacy"
    assert found["dcr"]["synthetic"] == {"median": 0, "p05": 0}
    assert found["dcr"]["holdout"]["p05"] > 0
    assert found["nndr"]["synthetic"]["median"] == 0
    assert found["nndr"]["holdout"]["median"] > 0.5
    assert found["exact_copies"] == {"count": 400, "share": 1, "holdout_share": 0}
    assert found["near_copies"]["share"] == 1
    assert found["near_copies"]["holdout_share"] < 0.2
    assert found["closer_to_real"]["low"] > 0.95
    assert found["new_rows"]["share"] == 0
    assert found["new_rows"]["rows"] == 20


def test_fresh_rows_are_as_close_as_the_holdout() -> None:
    found = compare(people(600, 0), people(600, 1), people(600, 2))
    ours, theirs = found["dcr"]["synthetic"], found["dcr"]["holdout"]
    assert ours["median"] == pytest.approx(theirs["median"], rel=0.1)
    assert found["closer_to_real"]["low"] < 0.5 < found["closer_to_real"]["high"]
    assert found["exact_copies"]["share"] == 0
    assert found["near_copies"]["share"] == pytest.approx(0.05, abs=0.04)
    # SDMetrics takes dates for equal that are half a year apart.
    assert found["new_rows"]["share"] > 0.7


def test_noise_does_not_hide_copies() -> None:
    rng = np.random.default_rng(0)
    real, holdout = (pd.DataFrame(rng.normal(size=(300, 4))).add_prefix("x") for _ in range(2))
    found = compare(real, real + rng.normal(0, 0.01, real.shape), holdout)
    assert found["exact_copies"]["count"] == 0
    assert found["near_copies"]["share"] > 0.95
    assert found["near_copies"]["holdout_share"] < 0.2
    assert found["closer_to_real"]["low"] > 0.9


def test_distances_by_hand() -> None:
    # Real ranks of x: 1/8, 3/8, 5/8, 7/8, linear in between; categories are at distance 1.
    real = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "c": ["a", "a", "b", "b"]})
    found = compare(real, pd.DataFrame({"x": [0.25, 1.75], "c": ["a", "a"]}))
    near, far = 0.25 / 4, 0.75 / 4
    assert found["dcr"]["synthetic"]["median"] == pytest.approx((near + far) / 2)
    # The second row: 3/16 from x = 1; sqrt(1 + (1/16)²) from x = 2, and 7/16 from x = 0.
    assert found["nndr"]["synthetic"]["median"] == pytest.approx((1 / 3 + 3 / 7) / 2)
    assert found["near_copies"]["threshold"] == pytest.approx(0.25)
    assert found["near_copies"]["share"] == 1
    assert found["dcr"]["holdout"] is None
    assert found["closer_to_real"] is None


def test_new_rows_are_counted_by_sdmetrics() -> None:
    real = pd.DataFrame({"x": [100.0, -200.0, np.nan, 0.0], "c": ["a", "b", None, "a"]})
    made = pd.DataFrame(
        {
            "x": [100.5, -201.0, np.nan, 0.0, 102.0, 100.0, 0.001, np.nan],
            "c": ["a", "b", None, "a", "a", "b", "a", "a"],
        }
    )
    found = compare(real, made)
    assert found["new_rows"]["share"] == 0.5
    assert found["exact_copies"] == {"count": 2, "share": 0.25, "holdout_share": None}


def test_copied_ids() -> None:
    real, made = people(40, 0), people(40, 1)
    made["patient_id"] = [f"P-{i:05d}" for i in range(30, 70)]
    assert compare(real, made)["copied_ids"] == {"patient_id": 0.25}
    made["patient_id"] = pd.Series([None] * 40, dtype=object)
    found = compare(real, made, schema=Schema.infer(real))
    assert found["copied_ids"] == {"patient_id": None}


@given(seeds)
@settings(max_examples=5)
def test_the_order_of_rows_and_columns_does_not_matter(seed: int) -> None:
    tables = [people(50, seed + i) for i in range(3)]
    names = list(np.random.default_rng(seed).permutation(list(tables[0])))
    others = [t[names].sample(frac=1, random_state=seed % 2**32) for t in tables]
    assert compare(*tables, seed=3) == compare(*others, seed=3)


def test_the_same_seed_draws_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TARGETS", 30)
    tables = [people(100, i) for i in range(3)]
    assert compare(*tables, seed=1) == compare(*tables, seed=1)
    assert compare(*tables, seed=1)["dcr"] != compare(*tables, seed=2)["dcr"]


def test_one_row_on_each_side() -> None:
    real = pd.DataFrame({"x": [1.0], "c": ["a"]})
    made, holdout = real.assign(x=-1.0), real.assign(c="b")
    found = compare(real, made, holdout)
    assert found["nndr"] == {"synthetic": None, "holdout": None}
    assert found["near_copies"] == {"share": None, "threshold": None, "holdout_share": None}
    assert found["new_rows"]["share"] == 1
    assert compare(real, made)["dcr"]["holdout"] is None


def test_rows_that_are_all_alike() -> None:
    real = pd.DataFrame({"c": ["a"] * 5 + [None], "x": [0.0] * 5 + [np.nan]})
    found = compare(real, real, real)
    assert found["dcr"]["synthetic"]["median"] == 0
    assert found["nndr"]["synthetic"]["median"] == 1
    assert found["near_copies"]["share"] == found["exact_copies"]["share"] == 1


def test_unseen_categories_nulls_only_and_odd_names() -> None:
    real = pd.DataFrame({"a.b": ["x", "y", "x"], "`q'\n": [-1.0, 0.0, 1.0], "1": [None, 2.0, 3.0]})
    made = pd.DataFrame({"a.b": ["z", None], "`q'\n": [np.nan, np.nan], "1": [9e9, -9e9]})
    found = compare(real, made)
    assert found["exact_copies"]["count"] == 0
    assert found["new_rows"]["share"] == 1


def test_more_columns_than_numpy_takes_at_once() -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 40))).add_prefix("x")
    assert compare(table, table)["new_rows"]["share"] == 0
