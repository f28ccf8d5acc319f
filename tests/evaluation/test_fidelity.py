import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sdmetrics.reports import DiagnosticReport, QualityReport

from genesis.evaluation.fidelity import MOST_ROWS, fidelity, jensen_shannon, quality, wasserstein
from genesis.evaluation.rows import Aligned, align
from genesis.schema import Schema
from tests.dirty import dirty_table

seeds = st.integers(0, 2**32 - 1)
finite = st.floats(-1e6, 1e6)


def compare(real: pd.DataFrame, synthetic: pd.DataFrame, **options) -> dict:
    """The scores, which have to be JSON, and in [0, 1] where they are scores."""
    found = fidelity(align({"real": real, "synthetic": synthetic}, **options)).to_dict()
    json.dumps(found, allow_nan=False)
    scored = [*found["columns"].values(), *found["pairs"], *found["diagnostic"]["columns"]]
    for entry in [*scored, *found["coverage"]["columns"].values()]:
        assert entry["score"] is None or -1e-9 <= entry["score"] <= 1 + 1e-9
        assert (entry["score"] is None) == ("why" in entry)
    return found


def any_table(seed: int, n: int | None = None) -> pd.DataFrame:
    """Rows with all that is awkward, some columns nearly or entirely null or constant."""
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(2, 40))
    table = pd.DataFrame(
        {
            "x": rng.normal(size=n) * 10.0 ** rng.integers(-9, 9),
            "y": rng.choice([0.0, -1.0, 5.0], n),
            "flat": np.where(rng.random(n) < rng.random(), 0.0, 1.5),
            "a.b `c'\n": rng.choice(["u", "v", "ü", ""], n),
            "1 + 1": rng.choice([True, False], n),
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), unit="h"),
        }
    )
    for name in table:
        rate = rng.choice([0.0, 0.0, 0.3, 0.9])
        table[name] = table[name].mask(rng.random(n) < rate)
    return table


KINDS = Schema.from_dict(
    {
        "columns": [
            {"name": "x", "kind": "numeric"},
            {"name": "y", "kind": "numeric"},
            {"name": "flat", "kind": "numeric"},
            {"name": "a.b `c'\n", "kind": "categorical"},
            {"name": "1 + 1", "kind": "boolean", "nulls": True},
            {"name": "when", "kind": "datetime"},
        ]
    }
)


# What SDMetrics says


def clean_table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = dirty_table(n, seed).drop(columns=["patient_id", "hospital", "admitted"])
    return table.assign(double=table["größe, cm"] * 2 + rng.normal(size=n), south=table["sex"])


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_sdmetrics(seed: int) -> None:
    real, synthetic = clean_table(500, seed), clean_table(300, seed + 9)
    synthetic["visits"] += 1
    synthetic["double"] = synthetic["double"].sample(frac=1, random_state=seed).to_numpy()
    kinds = dict.fromkeys(real, "numerical")
    kinds |= dict.fromkeys(["sex", "région=?", "south"], "categorical")
    kinds |= {"smoker": "boolean", "seen": "datetime"}
    columns = {name: {"sdtype": kind} for name, kind in kinds.items()}
    metadata = {"tables": {"t": {"columns": columns}}}
    theirs, checks = QualityReport(), DiagnosticReport()
    for report in (theirs, checks):
        report.generate({"t": real}, {"t": synthetic}, metadata, verbose=False)
    shapes = theirs.get_details("Column Shapes").set_index("Column")["Score"]
    trends = theirs.get_details("Column Pair Trends").set_index(["Column 1", "Column 2"])

    ours = compare(real, synthetic)

    assert ours["quality"] == pytest.approx(theirs.get_score(), abs=1e-9)
    properties = theirs.get_properties().set_index("Property")["Score"]
    assert ours["column_shapes"] == pytest.approx(properties["Column Shapes"], abs=1e-9)
    assert ours["column_pair_trends"] == pytest.approx(properties["Column Pair Trends"], abs=1e-9)
    for name, score in shapes.items():
        assert ours["columns"][name]["score"] == pytest.approx(score, abs=1e-9)
    counted = {frozenset(p["columns"]): p["score"] for p in ours["pairs"] if p["counted"]}
    expected = {
        frozenset(pair): score for pair, score in trends["Score"].items() if not math.isnan(score)
    }
    assert counted == pytest.approx(expected, abs=1e-9)
    assert len(ours["pairs"]) == math.comb(len(columns), 2)
    assert ours["diagnostic"]["score"] == pytest.approx(checks.get_score(), abs=1e-9)


@given(seeds)
@settings(max_examples=10)
def test_the_order_of_rows_and_columns_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, synthetic = any_table(seed), any_table(seed + 1)
    first = compare(real, synthetic, schema=KINDS)
    names = list(rng.permutation(list(real)))
    second = compare(
        real[names].sample(frac=1, random_state=seed % 2**32),
        synthetic[names[::-1]].sample(frac=1, random_state=seed % 2**32),
        schema=KINDS,
    )
    assert first == second


@given(seeds)
@settings(max_examples=10)
def test_a_table_is_like_itself(seed: int) -> None:
    table = any_table(seed)
    found = compare(table, table, schema=KINDS)
    scored = [*found["columns"].values(), *found["pairs"], *found["diagnostic"]["columns"]]
    scores = [entry["score"] for entry in scored if entry["score"] is not None]
    assert [*scores, *found["nulls"].values()] == pytest.approx(
        [1.0] * (len(scores) + len(found["nulls"]))
    )
    distances = [*found["jsd"].values(), *found["wd"].values()]
    assert all(distance in (0.0, None) for distance in distances)


def test_shuffled_columns_keep_their_shapes_and_lose_their_trends() -> None:
    table = clean_table(2000, 0)
    rng = np.random.default_rng(0)
    shuffled = pd.DataFrame({name: rng.permutation(table[name]) for name in table})
    found = compare(table, shuffled.astype(table.dtypes))
    assert found["column_shapes"] == pytest.approx(1)
    assert found["column_pair_trends"] < 0.7


# What SDMetrics leaves out


def test_a_column_without_values_scores_nothing() -> None:
    real = clean_table(200, 0)
    synthetic = real.assign(**{"größe, cm": np.nan, "région=?": None})
    found = compare(real, synthetic)
    assert found["columns"]["größe, cm"] == {"metric": "KSComplement", "score": 0.0}
    assert found["columns"]["région=?"] == {"metric": "TVComplement", "score": 0.0}
    assert found["coverage"]["columns"]["größe, cm"]["score"] == 0
    assert found["coverage"]["columns"]["région=?"]["score"] == 0
    assert found["wd"]["größe, cm"] == 1
    assert found["jsd"]["région=?"] > 0.5
    assert found["nulls"]["größe, cm"] == pytest.approx(real["größe, cm"].isna().mean())
    assert found["diagnostic"]["score"] == 1


def test_a_constant_does_not_drop_out_of_the_trends() -> None:
    x = np.arange(100.0)
    real = pd.DataFrame({"x": x, "y": 3 - x, "z": x % 2})
    (pair,) = compare(real[["x", "y"]], real[["x", "y"]].assign(y=1.0))["pairs"]
    assert pair["real"] == pytest.approx(-1)
    assert pair["synthetic"] is None
    assert pair["counted"]
    assert pair["score"] == pytest.approx(0.5)


def test_without_dependent_columns_there_is_no_trend() -> None:
    grid = np.array([(i, j) for i in range(6) for j in range(6)], dtype=float)
    real = pd.DataFrame(grid, columns=["i", "j"])
    found = compare(real, real)
    assert found["column_pair_trends"] is None
    assert found["quality"] == found["column_shapes"] == 1


# Awkward tables


@given(seeds, st.integers(1, 3))
@settings(max_examples=15)
def test_every_score_is_a_number_or_has_a_reason(seed: int, n: int) -> None:
    compare(any_table(seed), any_table(seed + 1, n), schema=KINDS)
    compare(any_table(seed + 2, n), any_table(seed + 3), schema=KINDS)


def test_one_row_on_both_sides() -> None:
    real = pd.DataFrame({"x": [-1.0], "c": ["a"]})
    found = compare(real, pd.DataFrame({"x": [0.0], "c": ["b"]}))
    assert found["columns"]["x"]["score"] == 0
    assert found["columns"]["c"]["score"] == pytest.approx(0, abs=1e-5)
    assert found["jsd"] == {"c": 1.0}
    assert found["wd"] == {"x": None}
    assert found["average_wd"] is None


def test_unseen_categories() -> None:
    real = pd.DataFrame({"c": ["a", "a", "b", "b"], "x": [1.0, 2, 3, 4]})
    found = compare(real, real.assign(c=["a", "a", "new", "new"]))
    assert found["columns"]["c"]["score"] == pytest.approx(0.5, abs=1e-6)
    assert found["coverage"]["columns"]["c"] == {"metric": "CategoryCoverage", "score": 0.5}
    (validity,) = [e for e in found["diagnostic"]["columns"] if e["column"] == "c"]
    assert validity == {"column": "c", "metric": "CategoryAdherence", "score": 0.5}
    assert found["jsd"]["c"] == pytest.approx(0.5)


def test_values_beyond_the_real_range_and_ids_used_twice() -> None:
    real = dirty_table(100).drop(columns="hospital")
    synthetic = dirty_table(100, seed=1).drop(columns="hospital")
    synthetic["visits"] = np.where(np.arange(100) < 25, 10_000, 3)
    synthetic["patient_id"] = [f"P-{i // 2:05d}" for i in range(100)]
    # A schema, because ids that stand twice are no ids to who sees only them.
    found = compare(real, synthetic, schema=Schema.infer(real))["diagnostic"]
    scores = {(e["column"], e["metric"]): e["score"] for e in found["columns"]}
    assert scores["visits", "BoundaryAdherence"] == 0.75
    assert scores["patient_id", "KeyUniqueness"] == 0.5
    assert found["data_structure"] == 1


def test_tiny_numbers_are_not_rounded_away() -> None:
    x = np.random.default_rng(0).normal(size=200)
    plain, tiny = (
        compare(pd.DataFrame({"x": x * unit}), pd.DataFrame({"x": (x + 1) * unit}))
        for unit in (1.0, 2.0**-60)
    )
    assert plain["columns"] == tiny["columns"]
    assert plain["columns"]["x"]["score"] < 0.8


def test_numbers_as_large_as_they_come() -> None:
    x = np.array([-1.7e308, -1.0, 0.0, 1.0, 1.7e308] * 5)
    real = pd.DataFrame({"x": x, "y": x / 3, "c": list("abcde") * 5})
    found = compare(real, real.assign(y=np.arange(25.0)))
    assert found["columns"]["x"]["score"] == 1
    assert found["wd"]["x"] == 0
    assert found["wd"]["y"] == pytest.approx(0.2)


def test_many_categories() -> None:
    rng = np.random.default_rng(0)
    codes = rng.zipf(1.3, (2, 20_000)) % 10_000
    tables = [
        pd.DataFrame({"c": [f"c{i}" for i in side], "d": side % 7, "e": side.astype(str)})
        for side in codes
    ]
    found = compare(*tables)
    assert found["columns"]["c"]["score"] > 0.9
    assert found["coverage"]["columns"]["c"]["score"] < 0.9


def test_long_tables_are_thinned_alike_and_leave_numpy_s_generator_alone() -> None:
    n = MOST_ROWS + 5_000
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=n), "c": rng.choice(["a", "b"], n)})
    rows = align({"real": table, "synthetic": table[: n - 3000]}).rows
    state = np.random.get_state()[1].copy()
    first = quality(rows["real"], rows["synthetic"])
    assert quality(rows["real"], rows["synthetic"]) == first
    assert first.score is not None
    assert first.score > 0.99
    assert (state == np.random.get_state()[1]).all()


def test_any_two_tables_can_be_compared() -> None:
    table = clean_table(60, 0)
    aligned = align({"real": table, "holdout": clean_table(50, 1)})
    assert isinstance(aligned, Aligned)
    assert fidelity(aligned, synthetic="holdout").quality.score is not None


# The field's two distances


def test_jensen_shannon_by_hand() -> None:
    # p = (1/2, 1/2, 0), q = (1/2, 0, 1/2), m = (1/2, 1/4, 1/4): both KL are 1/2 log2 2 = 1/2.
    assert jensen_shannon([5, 5, 0], [1, 0, 1]) == pytest.approx(0.5)
    # p = (1, 0), q = (1/4, 3/4), m = (5/8, 3/8).
    by_hand = (math.log2(8 / 5) + math.log2(2 / 5) / 4 + math.log2(2) * 3 / 4) / 2
    assert jensen_shannon([7, 0], [1, 3]) == pytest.approx(by_hand)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_jensen_shannon_is_the_square_of_scipy_s_distance(counts) -> None:
    p, q = np.array([*counts, (1, 1)]).T
    found = jensen_shannon(p, q)
    assert 0 <= found <= 1
    assert found == pytest.approx(jensen_shannon(q, p))
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


def test_wasserstein_by_hand() -> None:
    # 0 -> 1, 5 -> 5, 10 -> 16: moved by 7 in all, 7/3 on average, of a range of 10.
    found = wasserstein(np.array([0.0, 10, 5, np.nan]), np.array([1.0, 16, 5]))
    assert found == pytest.approx(7 / 30)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20), st.integers(-20, 20))
def test_wasserstein_is_the_mean_move_of_the_sorted_values(pairs, power: int) -> None:
    a, b = np.array(pairs).T
    span = np.ptp(a)
    found = wasserstein(a, b)
    if span < 1e-3:
        assert found is None or span > 0
        return
    expected = np.abs(np.sort(a) - np.sort(b)).mean() / span
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert wasserstein(a * 2.0**power, b * 2.0**power) == pytest.approx(found)
