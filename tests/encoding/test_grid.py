"""Numeric columns on a grid: against the values themselves and the histogram that is released."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from genesis.codes import Codes
from genesis.conditions import Where
from genesis.encoding.encoder import Encoder
from genesis.encoding.grid import GridEncoding, _starts
from genesis.errors import ConditionError
from genesis.schema import Column, Kind, Schema
from genesis.statistics import PooledStatistics, ShardStatistics

Floats = npt.NDArray[np.float64]

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
QUARTERS = st.integers(-40, 100).map(lambda n: n / 4)
BETWEEN = QUARTERS.map(lambda x: x + 1 / 8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pool(schema: Schema, tables: Sequence[pd.DataFrame]) -> PooledStatistics:
    """Fine statistics of some shards."""
    shards = [ShardStatistics(schema, schema.conform(table)) for table in tables]
    pooled = PooledStatistics(schema, [shard.labels() for shard in shards], fine=True)
    while questions := pooled.questions():
        pooled.take([np.sum([s.answer(q) for s in shards], axis=0) for q in questions])
    return pooled


def column(**stated: Any) -> Column:
    return Column("x", Kind.NUMERIC, **{"dtype": "float64", "nulls": True, **stated})


def encoder_of(values: Any, *, bins: int = 32, stated: Column | None = None) -> Encoder:
    """An encoder of one column beside another, which a table must have."""
    table = pd.DataFrame({"x": values, "y": np.resize(["a", "b"], len(values))})
    labels = Column("y", Kind.CATEGORICAL, dtype="object")
    schema = Schema.infer(table).settle() if stated is None else Schema((stated, labels))
    return Encoder.fit(pool(schema, [table]), grid=bins)


def grid_of(values: Any, *, bins: int = 32, stated: Column | None = None) -> GridEncoding:
    found = encoder_of(values, bins=bins, stated=stated).encodings[0]
    assert isinstance(found, GridEncoding)
    assert found.is_sound
    return found


def there_and_back(grid: GridEncoding, values: Any) -> Floats:
    scalars, codes = grid.encode(pd.Series(values), None)
    return grid.decode(scalars, codes, rng())


def histogram(low: Any, high: Any, counts: Any, starts: Any = (0,), **stated: Any) -> GridEncoding:
    """An encoding with a given histogram."""
    parts = (np.array(low, float), np.array(high, float), np.array(counts), np.array(starts))
    return GridEncoding(column(**stated), *parts, nulls=0)


UNEVEN = histogram(
    [-3.0, -1.0, 0.0, 0.5, 7.0], [-2.0, -1.0, 0.0, 2.5, 8.0], [10, 30, 5, 40, 15], [0, 1, 2, 4]
)
"""Five leaves, two of them single values, in four codes."""

WHOLE = histogram([0, 5, 6, 20], [4, 5, 9, 20], [50, 20, 20, 10], [0, 1], decimals=0)
"""Whole numbers: 0 to 4, 5, 6 to 9, and 20."""


# --- what comes back ---


@pytest.mark.parametrize("bins", [1, 4, 128])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param(rng().integers(-50, 50, 3000), id="whole numbers"),
        pytest.param(np.round(rng().uniform(-3, 3, 5000), 1), id="decimals"),
        pytest.param(np.resize([0.0, 99.5, -1e300, 5e-324], 100), id="few values"),
        pytest.param([3.0] * 50 + [np.nan] * 3, id="one value"),
        pytest.param(np.resize(np.arange(8) * 1e15, 80), id="large numbers"),
        pytest.param(pd.array([7, 8, None] * 20, dtype="Int64"), id="nullable"),
    ],
)
def test_values_of_their_own_leaf_come_back(values: Any, bins: int) -> None:
    grid = grid_of(values, bins=bins)
    assert (grid.low == grid.high).all()
    given = pd.Series(values).to_numpy(np.float64, na_value=np.nan)
    # The fewer than 5 rows at an end are drawn in to the bound.
    np.testing.assert_array_equal(
        there_and_back(grid, values), np.clip(given, grid.lower, grid.upper)
    )


@settings(max_examples=25)
@given(st.lists(FLOATS, min_size=2, max_size=30), st.integers(1, 12))
@example([1e300] * 20 + [-1e300] * 20 + [0.0] * 20, 3)
@example([1.7e308, 5e-324] * 10, 3)
@example([-1.7e308, 1.7e308] * 3, 3)
def test_any_value_comes_back_within_its_code(values: list[float], bins: int) -> None:
    grid = grid_of(values, bins=bins, stated=column())
    scalars, codes = grid.encode(pd.Series(values), None)
    assert (np.abs(scalars) <= 1).all()
    decoded = grid.decode(scalars, codes, rng())
    clipped = np.clip(np.array(values) + 0.0, grid.lower, grid.upper)
    first, last = grid.starts, np.append(grid.starts[1:], len(grid.low)) - 1
    for numbers in (clipped, decoded):
        assert ((grid.low[first][codes] <= numbers) & (numbers <= grid.high[last][codes])).all()
    single = np.isin(clipped, grid.low[grid.low == grid.high])
    assert (decoded == clipped)[single].all()


@pytest.mark.parametrize("seed", range(3))
def test_values_come_back_to_their_place(seed: int) -> None:
    values = rng(seed).lognormal(0, 2, 3000)
    grid = grid_of(values)
    clipped = np.clip(values, grid.lower, grid.upper)
    np.testing.assert_allclose(there_and_back(grid, values), clipped, rtol=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(pd.date_range("1890-01-01", periods=300).repeat(6), id="days"),
        pytest.param(pd.date_range("2020-01-01", periods=90, freq="37s").repeat(7), id="seconds"),
        pytest.param(
            pd.Series(pd.date_range("2020-01-01", periods=90).repeat(7)).dt.strftime("%d.%m.%Y"),
            id="text",
        ),
    ],
)
def test_dates_come_back(values: Any) -> None:
    encoder = encoder_of(values)
    assert isinstance(encoder.encodings[0], GridEncoding)
    table = pd.DataFrame({"x": values, "y": "a"})
    decoded = encoder.decode(encoder.encode(encoder.schema.conform(table), None), rng())["x"]
    assert decoded.dtype == table["x"].dtype
    assert (decoded != table["x"]).sum() <= 8  # fewer than 5 at either end are drawn in
    assert decoded.isin(table["x"]).all()


def test_of_nulls_alone_null_is_the_only_code() -> None:
    grid = grid_of([np.nan] * 50, stated=column())
    assert (grid.n_bins, grid.nulls, len(grid.counts)) == (0, 50, 1)
    scalars, codes = grid.encode(pd.Series([np.nan, 1.0]), None)
    assert list(codes) == [0, -1]
    assert np.isnan(grid.decode(scalars, codes, rng())).all()


def test_without_any_row_there_is_one_code() -> None:
    pooled = PooledStatistics(Schema((column(),)), [], fine=True)
    while questions := pooled.questions():
        pooled.take([np.zeros(question.size, np.int64) for question in questions])
    grid = GridEncoding.build(column(), pooled.numeric["x"], 8)
    assert grid.is_sound
    assert len(grid.counts) == 1


def test_a_null_where_there_was_none_is_unknown() -> None:
    grid = grid_of(np.arange(50.0))
    assert grid.encode(pd.Series([np.nan, 3.0]), None)[1][0] == -1


@pytest.mark.parametrize("seed", range(3))
def test_values_never_seen_go_to_the_nearest_leaf(seed: int) -> None:
    values = np.append(rng(seed).uniform(-10, 10, 200), [-1e9, 1e9, -2.5, -1.6, 0.4])
    gaps = np.maximum(UNEVEN.low - values[:, None], values[:, None] - UNEVEN.high).clip(min=0)
    nearest = np.searchsorted(UNEVEN.starts, gaps.argmin(1), side="right") - 1
    assert (UNEVEN.encode(pd.Series(values), None)[1] == nearest).all()


def test_json_keeps_every_bit() -> None:
    grid = grid_of(np.append(rng().lognormal(0, 3, 500), np.nan))
    again = GridEncoding.from_dict(grid.column, json.loads(json.dumps(grid.to_dict())))
    assert again.to_dict() == grid.to_dict()
    assert (again.counts == grid.counts).all()


def test_shards_give_the_encoder_of_the_pooled_table_bit_for_bit() -> None:
    table = pd.DataFrame({"x": rng().lognormal(0, 3, 600).round(2), "y": ["a", "b"] * 300})
    schema = Schema.infer(table).settle()
    whole = Encoder.fit(pool(schema, [table]), grid=64)
    shards = [table.iloc[:1], table.iloc[1:400:2], table.iloc[2:400:2], table.iloc[400:]]
    assert Encoder.fit(pool(schema, shards), grid=64).digest == whole.digest


# --- codes ---


@pytest.mark.parametrize("bins", [2, 8, 32, 128])
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_few_and_about_as_frequent_as_each_other(bins: int, seed: int) -> None:
    values = rng(seed).lognormal(0, 2, 4000)
    grid = grid_of(values, bins=bins)
    assert grid.n_bins <= bins
    assert grid.counts.sum() == 4000
    assert grid.counts.max() <= 3 * 4000 / bins
    assert grid.counts.min() >= 5
    codes = grid.encode(pd.Series(values), None)[1]
    assert (np.bincount(codes, minlength=grid.n_bins) == grid.counts).all()


@settings(max_examples=50)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 30))
def test_no_code_is_of_fewer_than_five_rows(counts: list[int], bins: int) -> None:
    starts = _starts(np.array(counts), bins)
    held = np.add.reduceat(counts, starts)
    assert starts[0] == 0
    assert len(starts) <= bins
    assert held.min() >= min(5, sum(counts))


@given(st.lists(st.integers(5, 60), min_size=6, max_size=60), st.data())
def test_frequent_leaves_have_codes_of_their_own(counts: list[int], data: Any) -> None:
    place = data.draw(st.integers(0, len(counts)))
    counts = [*counts[:place], 10_000, *counts[place:]]
    starts = list(_starts(np.array(counts), data.draw(st.integers(5, 40))))
    assert place in starts
    assert place + 1 in [*starts, len(counts)]


def test_a_point_mass_stands_alone() -> None:
    grid = grid_of(np.concatenate([np.zeros(400), rng().lognormal(8, 1, 500), np.full(99, 99.5)]))
    for value, rows in ((0.0, 400), (99.5, 99)):
        code = grid.encode(pd.Series([value]), None)[1]
        assert rows <= grid.counts[code] < rows + 5  # a few that would be a code of their own
        decoded = grid.decode(np.linspace(-1, 1, 101), code.repeat(101), rng())
        assert (decoded == value).mean() > 0.94


# --- what is generated ---


def test_generated_values_follow_the_histogram() -> None:
    n = 40_000
    codes = rng().choice(UNEVEN.n_bins, n, p=UNEVEN.counts / 100).astype(np.int32)
    values = UNEVEN.decode(rng(1).uniform(-1, 1, n).astype(np.float32), codes, rng())
    leaf = np.searchsorted(UNEVEN.high, values, side="left")
    assert (values >= UNEVEN.low[leaf]).all()
    assert chisquare(np.bincount(leaf), n * UNEVEN.leaf_counts / 100).pvalue > 1e-3
    for inside in (0, 3, 4):
        low, width = UNEVEN.low[inside], UNEVEN.high[inside] - UNEVEN.low[inside]
        assert kstest((values[leaf == inside] - low) / width, "uniform").pvalue > 1e-3


def test_numbers_of_a_leaf_are_equally_likely() -> None:
    n = 40_000
    codes = rng().choice(2, n, p=WHOLE.counts / 100).astype(np.int32)
    values = WHOLE.decode(rng(1).uniform(-1, 1, n).astype(np.float32), codes, rng())
    expected = np.zeros(21)
    expected[:5], expected[5], expected[6:10], expected[20] = 0.1, 0.2, 0.05, 0.1
    found = np.bincount(values.astype(int), minlength=21)
    assert not found[expected == 0].any()
    assert chisquare(found[expected > 0], n * expected[expected > 0]).pvalue > 1e-3


@pytest.mark.parametrize("scalar", [-1.0, -0.99999994, 0.0, 0.99999994, 1.0])
@pytest.mark.parametrize("decimals", [None, 2])
def test_the_ends_of_a_code_stay_in_it(scalar: float, decimals: int | None) -> None:
    values = rng().normal(size=3000).round(decimals or 9)
    grid = grid_of(values, bins=64, stated=column(decimals=decimals))
    codes = np.arange(grid.n_bins, dtype=np.int32)
    decoded = grid.decode(np.full(grid.n_bins, scalar, np.float32), codes, rng())
    last = np.append(grid.starts[1:], len(grid.low)) - 1
    assert ((decoded >= grid.low[grid.starts]) & (decoded <= grid.high[last])).all()
    if decimals is not None:
        assert (decoded == decoded.round(decimals)).all()


# --- rows below a value ---


@given(st.floats(0, 100, exclude_max=True))
def test_quantiles_and_rows_below_are_inverse(below: float) -> None:
    value = UNEVEN.quantile(np.array([below]))
    bounds = [UNEVEN.rows_below(float(value[0]), included=included) for included in (False, True)]
    assert bounds[0] - 1e-6 <= below <= bounds[1] + 1e-6
    number = WHOLE.quantile(np.array([below]))
    bounds = [WHOLE.rows_below(float(number[0]), included=included) for included in (False, True)]
    assert bounds[0] - 1e-6 <= below <= bounds[1] + 1e-6
    assert number == np.round(number)


@given(st.lists(st.integers(-30, 30), min_size=5, max_size=200), st.floats(-31, 31))
def test_rows_below_are_counted(values: list[int], value: float) -> None:
    """Each number is a leaf of its own here, so that the histogram knows all."""
    numbers, counts = np.unique(values, return_counts=True)
    grid = histogram(numbers, numbers, counts, decimals=0)
    for included in (False, True):
        expected = np.sum(np.array(values) <= value if included else np.array(values) < value)
        assert grid.rows_below(value, included=included) == expected


def test_rows_below_one_of_several_numbers() -> None:
    asked = [(2, False, 20), (2, True, 30), (2.5, True, 30), (2.5, False, 30), (9, True, 90)]
    for value, included, rows in [*asked, (10, False, 90), (20, True, 100), (-1, True, 0)]:
        assert WHOLE.rows_below(value, included=included) == pytest.approx(rows)


# --- shares ---


@settings(max_examples=60)
@given(st.lists(BETWEEN, max_size=6), st.sampled_from([UNEVEN, WHOLE]))
def test_shares_of_a_partition_of_the_line_add_up(cuts: list[float], grid: GridEncoding) -> None:
    ends = [-math.inf, *sorted(set(cuts)), math.inf]
    parts = list(itertools.pairwise(ends))
    each = np.array([grid.shares([part]) for part in parts])
    assert ((each >= 0) & (each <= 1)).all()
    np.testing.assert_allclose(each.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(grid.shares(parts[::2]), each[::2].sum(0), atol=1e-5)


@given(
    st.lists(st.tuples(QUARTERS, QUARTERS), min_size=1, max_size=4),
    st.sampled_from([UNEVEN, WHOLE]),
)
def test_a_share_is_how_often_a_code_decodes_to_it(
    ends: list[tuple[float, float]], grid: GridEncoding
) -> None:
    intervals = [(min(pair), max(pair)) for pair in ends]
    scalars = np.linspace(-1, 1, 2001, dtype=np.float32)[:-1] + np.float32(0.0005)
    shares = grid.shares(intervals)
    for code in range(grid.n_bins):
        values = grid.decode(scalars, np.full(2000, code, np.int32), rng())
        inside = np.any([(values >= a) & (values <= b) for a, b in intervals], axis=0)
        assert inside.mean() == pytest.approx(shares[code], abs=0.005)


@given(
    st.lists(st.tuples(QUARTERS, QUARTERS), min_size=1, max_size=4),
    st.sampled_from([UNEVEN, WHOLE]),
)
@example([(1.5, 1.5)], UNEVEN)
@example([(8.0, 9.0)], UNEVEN)
def test_what_is_decoded_within_intervals_lies_there(
    ends: list[tuple[float, float]], grid: GridEncoding
) -> None:
    intervals = [(min(pair), max(pair)) for pair in ends]
    shares = grid.shares(intervals)
    for code in range(grid.n_bins):
        scalars = np.array([-1, -0.99999994, -0.3, 0.3, 0.99999994, 1], np.float32)
        values = grid.decode_within(scalars, np.full(6, code, np.int32), intervals)
        assert np.isnan(values).all() == (shares[code] == 0)
        if shares[code] == 0:
            continue
        assert np.any([(values >= a) & (values <= b) for a, b in intervals], axis=0).all()
        if grid.column.decimals is not None:
            assert (values == np.round(values)).all()


def test_decoding_within_intervals_is_decoding_what_falls_there() -> None:
    intervals = [(-1.0, 1.0), (2.0, 7.5)]
    n, code = 60_000, 2  # 5 rows at 0.0 and 40 from 0.5 to 2.5
    scalars, codes = rng().uniform(-1, 1, n).astype(np.float32), np.full(n, code, np.int32)
    values = UNEVEN.decode_within(scalars, codes, intervals)
    found = np.histogram(values, [-0.5, 0.25, 0.5, 0.75, 1.0001, 1.9999, 2.25, 2.5])[0]
    expected = n * np.array([5, 0, 5, 5, 0, 5, 5]) / 25
    assert not found[expected == 0].any()
    assert chisquare(found[expected > 0], expected[expected > 0]).pvalue > 1e-3


# --- conditions ---


@pytest.fixture(scope="module")
def mixed() -> Encoder:
    return encoder_of(np.append(rng().normal(size=500), [np.nan] * 20))


def asked(encoder: Encoder, wanted: Any) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Values of every code that may be, at its ends and its middle, and which are right."""
    where = Where.parse({"x": wanted}, encoder)
    allowed = np.flatnonzero(where.condition.allowed[0])
    codes = np.stack([allowed.repeat(3), np.zeros(3 * len(allowed))], 1).astype(np.int32)
    scalars = np.resize([-1, 0, 1], (len(codes), 1)).astype(np.float32)
    values, keep = where.values(encoder, Codes(scalars, codes), rng())
    return values["x"], keep


@pytest.mark.parametrize("null", [None, float("nan"), [None], [pd.NA]])
def test_null_can_be_asked_for(mixed: Encoder, null: Any) -> None:
    values, keep = asked(mixed, null)
    assert keep.all()
    assert np.isnan(values).all()


@pytest.mark.parametrize(
    "wanted",
    [(0, 0.1), (None, -1), (1.5, None), [0.5, -0.5], [None, 0.5], (None, None), (0.5, 0.5000001)],
)
def test_what_is_asked_for_is_decoded(mixed: Encoder, wanted: Any) -> None:
    values, keep = asked(mixed, wanted)
    assert keep.all()
    assert np.isnan(values).any() == (isinstance(wanted, list) and None in wanted)


def test_both_ends_of_a_column_can_be_asked_for() -> None:
    """Also where no single value is known there: an end belongs to the last leaf."""
    (grid, *_), end = (histogram([0.0], [1.0], [100]), UNEVEN), [0.0, 1.0]
    for low, high in [(1, 1), (1, math.inf), (1, 5), (0, 0), (-math.inf, 0), (-5, 0)]:
        shares = grid.shares([(low, high)])
        assert 0 < shares[0] < 1e-6
        values = grid.decode_within(np.zeros(1, np.float32), np.zeros(1, np.int32), [(low, high)])
        assert values[0] in end
    assert not grid.shares([(1.5, 2)]).any()
    assert not grid.shares([(-2, -1.5)]).any()


@pytest.mark.parametrize("wanted", [(50, 60), (1, 0), 1e9])
def test_what_cannot_be_is_refused(mixed: Encoder, wanted: Any) -> None:
    with pytest.raises(ConditionError, match=r"no row can have x|ends before it begins"):
        Where.parse({"x": wanted}, mixed)


# --- fine statistics ---


@pytest.mark.parametrize("n", [400, 60_000])
@pytest.mark.parametrize("decimals", [None, 3])
def test_every_value_that_enough_rows_share_is_found(n: int, decimals: int | None) -> None:
    rows = max(math.ceil(n / 5000), 5)
    shared = rng(1).normal(0, 100, 12).round(3)
    others = rng(2).normal(0, 100, n - 12 * rows).round(decimals or 12)
    values = np.concatenate([np.repeat(shared, rows), others])
    schema = Schema((column(decimals=decimals), Column("y", Kind.BOOLEAN, dtype="bool")))
    table = pd.DataFrame({"x": values, "y": np.arange(n) % 2 == 0})
    leaves = pool(schema, [table.iloc[::2], table.iloc[1::2]]).numeric["x"].leaves
    assert leaves.counts.sum() == n
    for value in shared:
        leaf = np.flatnonzero((leaves.low <= value) & (value <= leaves.high))
        assert (leaves.low[leaf] == leaves.high[leaf]).all()
        assert leaves.counts[leaf] == (values == value).sum()


@given(st.lists(FLOATS, min_size=1, max_size=80))
def test_the_leaves_of_fine_statistics_hold_every_row_once(values: list[float]) -> None:
    schema = Schema((column(), Column("y", Kind.BOOLEAN, dtype="bool")))
    table = pd.DataFrame({"x": values, "y": True})
    leaves = pool(schema, [table]).numeric["x"].leaves
    given_values = np.sort(np.array(values) + 0.0)
    assert (leaves.low[1:] > leaves.high[:-1]).all()
    inside = [((given_values >= a) & (given_values <= b)).sum() for a, b in _ends(leaves)]
    assert list(leaves.counts) == inside
    assert sum(inside) == len(values)


def _ends(leaves: Any) -> list[tuple[float, float]]:
    return list(zip(leaves.low, leaves.high, strict=True))


# --- bounds that are stated, and encodings of others ---


@pytest.mark.parametrize(
    ("lower", "upper"), [(-1.0, None), (None, 1.0), (-0.5, 0.5), (5.0, 9.0), (-100.0, 100.0)]
)
def test_values_stay_within_stated_bounds(lower: float | None, upper: float | None) -> None:
    values = rng().normal(size=1000)
    inside = np.clip(values, lower, upper)
    grid = grid_of(inside, stated=column(lower=lower, upper=upper))
    assert grid.lower >= (-math.inf if lower is None else lower)
    assert grid.upper <= (math.inf if upper is None else upper)
    decoded = there_and_back(grid, values)
    assert np.median(np.abs(decoded - inside)) < 1e-3


def test_what_others_send_is_looked_at() -> None:
    whole = UNEVEN.to_dict()
    wrong: list[dict[str, Any]] = [
        {"starts": [0, 1, 1]},
        {"starts": [1, 2]},
        {"starts": [0, 9]},
        {"starts": []},
        {"low": [0.0] * 5},
        {"low": whole["low"][:-1]},
        {"high": [float("nan")] * 5},
        {"leaf_counts": [1, 1, 0, 1, 1]},
        {"nulls": -1},
        {"low": [], "high": [], "leaf_counts": [], "starts": []},
    ]
    assert GridEncoding.from_dict(UNEVEN.column, whole).is_sound
    for change in wrong:
        assert not GridEncoding.from_dict(UNEVEN.column, {**whole, **change}).is_sound, change
