"""Rows fitted to released statistics: what changes, and what must not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest, norm

from genesis.calibration import Calibration, Distribution
from genesis.codes import Codes
from genesis.encoding.encoder import Encoder
from genesis.encoding.grid import GridEncoding
from genesis.encoding.numeric import NumericEncoding
from genesis.mixtures import Mixture
from genesis.schema import Column, Kind, Schema
from tests.test_statistics import pool

GRIDS = [None, 60]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def people(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows with trends, nulls, point masses, decimals and a date."""
    draw = rng(seed)
    z = draw.normal(size=n)
    gain = np.where(draw.random(n) < 0.8, 0.0, np.round(np.exp(z + 3), 2))
    table = pd.DataFrame(
        {
            "work": np.where(z + draw.normal(size=n) > 0.5, "own", "firm").astype(object),
            "sex": draw.choice(["f", "m"], n, p=[0.3, 0.7]).astype(object),
            "member": draw.random(n) < 0.1 + 0.3 * (z > 0),
            "age": np.clip(np.rint(40 + 10 * z), 18, 80).astype(int),
            "weight": 70 + 10 * z + draw.normal(size=n),
            "gain": gain,
            "score": np.where(draw.random(n) < 0.15, np.nan, np.round(z, 1)),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.rint(100 + 20 * z), unit="D"),
        }
    )
    table.loc[draw.random(n) < 0.05, "work"] = None
    return table


def encoder_of(table: pd.DataFrame, grid: int | None = None) -> Encoder:
    return Encoder.fit(pool(Schema.infer(table).settle(), [table]), grid=grid)


def drawing(encoder: Encoder, table: pd.DataFrame, seed: int = 0) -> Callable[[int], Codes]:
    """A generator of the rows of a table."""
    codes, draw = encoder.encode(encoder.schema.conform(table), rng(seed)), rng(seed + 1)
    return lambda n: codes.take(draw.integers(0, len(codes), n))


def off(n: int) -> pd.DataFrame:
    """Rows of a poor generator: shares, nulls and shapes are wrong, trends are not."""
    table = people(4 * n, seed=5)
    keep = rng(6).random(4 * n) < np.where(table["sex"] == "f", 0.9, 0.3)
    keep &= rng(7).random(4 * n) < np.where(table["score"].isna(), 0.5, 1.0)
    keep &= rng(8).random(4 * n) < np.where(table["member"], 0.9, 0.3)
    table = table[keep].reset_index(drop=True)
    return table.assign(
        age=np.clip(table["age"] + 4, 18, 80), weight=70 + (table["weight"] - 70) * 0.7
    )


@pytest.fixture(scope="module", params=GRIDS, ids=["modes", "grid"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(people(8000), request.param)


@pytest.fixture(scope="module")
def calibrated(encoder: Encoder) -> pd.DataFrame:
    n = 6000
    values = Calibration(encoder).values(drawing(encoder, off(8000)), n, rng())
    return encoder.assemble(values, n, rng())


NORMAL = Calibration(encoder_of(pd.DataFrame({"x": rng().normal(size=200)})))


# What is fitted.


@pytest.mark.parametrize("name", ["work", "sex", "member"])
def test_labels_and_nulls_are_as_frequent_as_released(calibrated, name):
    """Up to the error of drawing n rows."""
    n = len(calibrated)
    wanted, found = (
        t[name].astype(object).where(t[name].notna(), "null").value_counts(normalize=True)
        for t in (people(8000), calibrated)
    )
    assert set(found.index) == set(wanted.index)
    for label, share in wanted.items():
        assert abs(found[label] - share) < 4 * np.sqrt(share * (1 - share) / n)
    poor = off(8000)["sex"].value_counts(normalize=True)
    assert abs(poor["f"] - 0.3) > 0.2


@pytest.mark.parametrize("name", ["age", "weight", "gain", "score", "day"])
def test_numbers_have_the_released_distribution(calibrated, name):
    real, found = (
        pd.to_numeric(t[name].dropna()).astype("float64") for t in (people(8000), calibrated)
    )
    known = np.unique(real)
    steps = [np.searchsorted(np.sort(x), known, side="right") / len(x) for x in (real, found)]
    # Two samples differ by 1.63 √(1/n + 1/m) = 0.03 in one case of 100; mixtures are no histogram.
    assert np.abs(steps[0] - steps[1]).max() < 0.035


def test_nulls_of_numbers_are_as_frequent_as_released(calibrated):
    wanted = people(8000)["score"].isna().mean()
    assert abs(off(8000)["score"].isna().mean() - wanted) > 0.04
    assert calibrated["score"].isna().mean() == pytest.approx(wanted, abs=0.015)


def test_types_bounds_and_decimals_are_kept(calibrated):
    real = people(8000)
    assert list(calibrated.columns) == list(real.columns)
    assert calibrated.dtypes.equals(real.dtypes)
    for name in ("age", "weight", "gain", "score", "day"):
        assert calibrated[name].min() >= real[name].min()
        assert calibrated[name].max() <= real[name].max()
    assert np.allclose(
        calibrated["score"].dropna() * 10, np.rint(calibrated["score"].dropna() * 10)
    )
    assert (calibrated["gain"] == 0).mean() == pytest.approx((real["gain"] == 0).mean(), abs=0.02)


def test_trends_stay(calibrated):
    real = people(8000)
    for a, b in (("age", "weight"), ("weight", "score")):
        found, wanted = (t[[a, b]].corr("spearman").iloc[0, 1] for t in (calibrated, real))
        assert found == pytest.approx(wanted, abs=0.03)
    # Members have z > 0 in 4 of 5 cases, others in 2 of 5: 10 · 1.2 · √(2/π) · 2/3 = 6.4 years.
    difference = calibrated.groupby("member")["age"].mean().diff().iloc[-1]
    assert difference == pytest.approx(6.4, abs=0.9)


@pytest.mark.parametrize("grid", GRIDS, ids=["modes", "grid"])
def test_order_is_kept(grid):
    """Two columns in the same order are so afterwards, whatever happens to each."""
    z = rng().normal(size=5000)
    table = pd.DataFrame({"a": z, "b": np.round(np.exp(z), 2), "c": np.where(z > 0, "x", "y")})
    encoder = encoder_of(table, grid)
    generated = table.assign(c=table["c"].where(rng(1).random(5000) < 0.8, "x"))
    values = Calibration(encoder).values(drawing(encoder, generated), 4000, rng())
    assert pd.Series(values["a"]).corr(pd.Series(values["b"]), method="spearman") > 0.999


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.integers(-5, 5).map(float)),
    st.integers(0, 100),
)
def test_larger_numbers_stay_larger(values, seed):
    weights = rng(seed).uniform(0.1, 3, len(values))
    holes = np.where(rng(seed).random(len(values)) < 0.2, np.nan, values)
    moved = NORMAL._moved(0, holes, weights, rng(seed))
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(holes))
    order = np.lexsort((moved, holes))
    assert (np.diff(moved[order][~np.isnan(moved[order])]) >= 0).all()


@pytest.mark.parametrize("grid", GRIDS, ids=["modes", "grid"])
def test_columns_that_have_no_trend_get_none(grid):
    """The control: labels and numbers drawn by themselves stay independent."""
    table = people(6000)
    shuffled = pd.DataFrame(
        {name: rng(i).permutation(c) for i, (name, c) in enumerate(table.items())}
    )
    encoder = encoder_of(table, grid)
    codes = drawing(encoder, shuffled.astype(table.dtypes))
    values = Calibration(encoder).values(codes, 6000, rng())
    rows = encoder.assemble(values, 6000, rng())
    assert abs(rows["age"].corr(rows["weight"])) < 4 / np.sqrt(6000)
    assert abs(rows["member"].astype(float).corr(rows["age"])) < 4 / np.sqrt(6000)


# Few rows, odd tables.


@pytest.mark.parametrize("n", [0, 1, 2, 700])
def test_any_number_of_rows(encoder, n):
    values = Calibration(encoder).values(drawing(encoder, off(2000)), n, rng())
    assert list(encoder.assemble(values, n, rng()).columns) == list(people(3).columns)
    assert {len(column) for column in {**values}.values()} <= {n}


def test_single_rows_are_of_the_distribution():
    table = pd.DataFrame({"x": rng().normal(size=3000), "y": rng(1).choice(["a", "b"], 3000)})
    encoder = encoder_of(table)
    calibration = Calibration(encoder)
    draw = drawing(encoder, table.assign(x=table["x"] * 3 + 1))
    single = [calibration.values(draw, 1, rng(seed)) for seed in range(100)]
    assert kstest(np.array([row["x"][0] for row in single]), norm.cdf).pvalue > 0.001
    assert {row["y"][0] for row in single} == {"a", "b"}


@pytest.mark.parametrize("grid", GRIDS, ids=["modes", "grid"])
@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"x": np.arange(50.0)}),
        pd.DataFrame({"y": ["a", "b"] * 20}),
        pd.DataFrame({"x": [1.0, 2.0] * 20}),
        pd.DataFrame({"x": [1.5, None] * 20, "y": ["a", None] * 20}),
        pd.DataFrame({"x": [1e300, -1e300, 0.0, 5e-324] * 10, "y": [True, False] * 20}),
    ],
    ids=["numbers", "labels", "point masses", "nulls", "extremes"],
)
def test_odd_tables(table, grid):
    encoder = encoder_of(table, grid)
    values = Calibration(encoder).values(drawing(encoder, table), 30, rng())
    rows = encoder.assemble(values, 30, rng())
    assert rows.shape == (30, table.shape[1])
    assert (rows.isna().any() <= table.isna().any()).all()


def test_whole_numbers_of_a_leaf_are_equally_frequent():
    column = Column("x", Kind.NUMERIC, dtype="int64", decimals=0)
    encoding = GridEncoding(
        column,
        low=np.array([0.0, 1.0, 7.0]),
        high=np.array([0.0, 4.0, 9.0]),
        leaf_counts=np.array([100, 400, 300]),
        starts=np.array([0, 1]),
        nulls=0,
    )
    x = encoding.settle(Distribution.of(encoding).quantile((np.arange(8000) + 0.5) / 8000))
    found, counts = np.unique(x, return_counts=True)
    assert found.tolist() == [0, 1, 2, 3, 4, 7, 8, 9]
    assert np.abs(counts - 1000).max() <= 2


def test_what_was_released_as_absent_is_hardly_drawn():
    """Counts with noise may be 0, even of all that a generator makes."""
    table = pd.DataFrame({"y": ["a"] * 30 + ["b"] * 30})
    encoder = encoder_of(table)
    encoder.encodings[0].label_counts[:] = [60, 0]
    values = Calibration(encoder).values(drawing(encoder, table), 1000, rng())
    assert (values["y"] == "b").sum() <= 1
    only_b = Calibration(encoder).values(drawing(encoder, table[30:]), 50, rng())
    assert (only_b["y"] == "b").all()


# Parts.


def test_the_gaussian_part_is_that_of_the_mixture():
    """Fine numbers, whole numbers, and whole numbers between point masses."""
    mixture = Mixture(np.array([0.3, 0.7]), np.array([0.0, 50.0]), np.array([10.0, 4.0]))
    for decimals in (None, 0):
        encoding = NumericEncoding(
            column=Column("x", Kind.NUMERIC, "float64", decimals=decimals),
            mixture=mixture,
            mode_counts=np.array([300, 700]),
            atoms=np.array([50.0]),
            atom_counts=np.array([1000]),
            nulls=0,
            lower=-20.0,
            upper=60.0,
        )
        x = Distribution.of(encoding).quantile((np.arange(20_000) + 0.5) / 20_000)
        assert (np.diff(x) >= 0).all()
        assert (x == 50).mean() == pytest.approx(0.5, abs=1e-3)
        rest = x[x != 50]
        assert rest.min() == pytest.approx(-20, abs=0.1)
        at = np.array([-10.0, 0.0, 20.0, 45.0])
        wanted = mixture.weights @ norm.cdf(
            at + 0.5, mixture.means[:, None], mixture.deviations[:, None]
        )
        if decimals == 0:
            assert np.array_equal(rest, np.rint(rest))
            hole = mixture.weights @ (
                norm.cdf(50.5, mixture.means, mixture.deviations)
                - norm.cdf(49.5, mixture.means, mixture.deviations)
            )
            wanted = wanted / (1 - hole)
        found = [(rest <= t + 0.5).mean() for t in at]
        np.testing.assert_allclose(found, wanted, atol=2e-3)
