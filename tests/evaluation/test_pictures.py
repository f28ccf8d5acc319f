"""What the report draws."""

import numpy as np
import pandas as pd
import pytest

from genesis.evaluation import pictures
from genesis.evaluation.fidelity import quality
from genesis.evaluation.rows import align
from tests.dirty import dirty_table


def drawn(real: pd.DataFrame, synthetic: pd.DataFrame, holdout: pd.DataFrame | None = None):
    return pictures.distributions(align({"real": real, "synthetic": synthetic, "holdout": holdout}))


def test_bars_and_nulls_hold_all_rows() -> None:
    found = drawn(dirty_table(300), dirty_table(200, seed=1), dirty_table(100, seed=2))
    assert list(found) == sorted(found)
    for picture in found.values():
        bars = len(picture["labels"] if picture["kind"] == "discrete" else picture["edges"][1:])
        for table in ("real", "synthetic", "holdout"):
            nulls = 0 if picture["kind"] == "discrete" else picture["nulls"][table]
            assert len(picture[table]) == bars
            assert sum(picture[table]) + nulls == pytest.approx(1)


def test_without_a_holdout_there_is_none() -> None:
    found = drawn(dirty_table(50), dirty_table(50, seed=1))
    assert {picture["holdout"] for picture in found.values()} == {None}


def test_whole_numbers_share_bars_evenly() -> None:
    ages = pd.DataFrame({"age": np.repeat(np.arange(17, 91), 10)})
    found = drawn(ages, ages)["age"]
    counts = np.histogram(ages.age, found["edges"])[0]
    assert len(set(counts[:-1])) == 1, "an even distribution is drawn even"
    assert (np.asarray(found["edges"]) % 1 == 0.5).all()


def test_bars_do_not_end_at_the_smallest_and_largest_numbers() -> None:
    real = pd.DataFrame({"x": [-999.5, *np.linspace(0, 10, 98), 12345.5]})
    edges = drawn(real, real.assign(x=np.where(real.x > 5, 5.25, 5.75)))["x"]["edges"]
    assert edges[0] > 0
    assert edges[-1] < 10


def test_dates_have_edges_that_read_as_dates() -> None:
    edges = drawn(dirty_table(300), dirty_table(300, seed=1))["admitted"]["edges"]
    assert pd.to_datetime(edges).is_monotonic_increasing
    assert edges[0].startswith("2019")


def test_rare_categories_have_no_bar_of_their_own() -> None:
    real = pd.DataFrame({"x": ["a"] * 50 + ["b"] * 30 + ["rare"] * 4, "y": np.arange(84) / 7})
    synthetic = pd.DataFrame({"x": ["a"] * 40 + ["new"] * 40, "y": np.arange(80) / 7})
    picture = drawn(real, synthetic)["x"]
    assert picture["labels"] == ["a", "b", "2 others"]
    assert picture["real"] == pytest.approx([50 / 84, 30 / 84, 4 / 84])
    assert picture["synthetic"] == [0.5, 0, 0.5]


def test_many_categories_share_a_bar() -> None:
    table = pd.DataFrame({"x": [f"c{i % 100}" for i in range(1000)], "y": np.arange(1000) / 7})
    labels = drawn(table, table)["x"]["labels"]
    assert len(labels) == pictures.CATEGORIES + 1
    assert labels[-1] == "80 others"


def test_a_column_of_one_value_here_and_nulls_there() -> None:
    real = pd.DataFrame({"x": [1.5] * 10, "y": range(10)})
    picture = drawn(real, real.assign(x=np.nan))["x"]
    assert picture["real"] == [1.0]
    assert picture["nulls"] == {"real": 0.0, "synthetic": 1.0}


def test_trends_are_matrices_of_all_pairs() -> None:
    rows = align({"real": dirty_table(300), "synthetic": dirty_table(300, seed=1)}).rows
    real, synthetic = rows["real"], rows["synthetic"]
    found = pictures.trends(quality(real, synthetic), quality(synthetic, real))
    n = len(found["columns"])
    for key in ("score", "real", "synthetic"):
        matrix = np.array(found[key], dtype=float)
        assert matrix.shape == (n, n)
        assert (np.diagonal(matrix) == 1).all()
        np.testing.assert_array_equal(matrix, matrix.T)
    assert not np.isnan(np.array(found["synthetic"], dtype=float)).any()
