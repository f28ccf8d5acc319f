"""Dividing a table among clients."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from genesis.errors import DataError, PlanError, SchemaError
from genesis.partition import partition, split_dirichlet

cells = st.one_of(
    st.lists(st.none() | st.sampled_from(["a", "b", "c/d", "C d", ""]), min_size=1, max_size=60),
    st.lists(st.floats(allow_infinity=False), min_size=1, max_size=60),
    st.lists(st.booleans() | st.none(), min_size=1, max_size=60),
)
alphas = st.sampled_from([1e-6, 0.01, 0.1, 1.0, 10.0, 1e6])


@st.composite
def divisions(draw) -> tuple[pd.DataFrame, dict]:
    """A table and how to divide it."""
    table = pd.DataFrame({"x": draw(cells)})
    table.index = table.index[::-1] * 2
    k = draw(st.integers(1, len(table)))
    seed = draw(st.integers(0, 2**32))
    choices = [
        {"k": k},
        {"k": k, "dirichlet": draw(alphas), "by": "x"},
        {"k": k, "quantity": draw(alphas)},
        {"by": "x"},
    ]
    return table, draw(st.sampled_from(choices)) | {"seed": seed}


@given(divisions())
def test_every_row_is_in_one_shard(division) -> None:
    table, choice = division
    shards = partition(table, **choice)
    assert all(len(shard) for shard in shards.values())
    assert len(shards) == choice.get("k", len(shards))
    pd.testing.assert_frame_equal(pd.concat(shards.values()).loc[table.index], table)
    for shard in shards.values():
        assert list(shard.index) == [label for label in table.index if label in set(shard.index)]
    again = partition(table, **choice)
    assert list(again) == list(shards)
    for client, shard in shards.items():
        pd.testing.assert_frame_equal(again[client], shard)


@given(divisions())
def test_sizes_are_equal_unless_they_shall_not_be(division) -> None:
    table, choice = division
    if "quantity" in choice or "k" not in choice:
        return
    sizes = [len(shard) for shard in partition(table, **choice).values()]
    assert max(sizes) - min(sizes) <= 1


def test_names_of_values() -> None:
    values = ["Köln", "a/b", "a b", "A_b", None, "missing", "..", "x" * 300, 1.0]
    shards = partition(pd.DataFrame({"x": values}, dtype=object), by="x")
    names = ["Köln", "a_b", "a_b_2", "A_b_3", "missing", "missing_2", "value", "x" * 100, "1"]
    assert list(shards) == names
    assert [str(shard["x"].iloc[0]) for shard in shards.values()] == [str(v) for v in values]
    numbers = partition(pd.DataFrame({"x": [2.0, np.nan, 2.0, 0.5]}), by="x")
    assert {name: len(shard) for name, shard in numbers.items()} == {"2": 2, "missing": 1, "0.5": 1}


def distance(table: pd.DataFrame, alpha: float) -> float:
    """Mean total variation between the labels of ten clients and those of the table."""
    rows = split_dirichlet(table, 10, "x", alpha, seed=1)
    whole = table["x"].value_counts(normalize=True)
    shares = [table["x"].iloc[r].value_counts(normalize=True) for r in rows]
    return float(np.mean([share.sub(whole, fill_value=0).abs().sum() / 2 for share in shares]))


def test_alpha_decides_how_alike_clients_are() -> None:
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"x": rng.choice(list("abcde"), 5000, p=[0.4, 0.3, 0.15, 0.1, 0.05])})
    distances = [distance(labels, alpha) for alpha in (0.01, 0.1, 1, 10, 1000)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 0.05

    sizes = [
        np.ptp([len(shard) for shard in partition(labels, 10, quantity=alpha).values()])
        for alpha in (0.1, 1, 10, 1e6)
    ]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("unit", [None, "D"])
def test_measurements_are_divided_by_quantile(unit: str | None) -> None:
    numbers = np.arange(2000)
    values = numbers.astype(f"datetime64[{unit}]") if unit else numbers
    shards = partition(pd.DataFrame({"x": values}), 10, dirichlet=1e-6, by="x").values()
    # Ten clients of 200 rows, each with one of ten quantiles of 200 rows.
    assert [np.ptp(shard["x"].to_numpy()) for shard in shards] == [np.ptp(values[:200])] * 10


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({}, PlanError, "number of clients is missing"),
        ({"dirichlet": 1.0, "by": "x"}, PlanError, "number of clients is missing"),
        ({"k": 2, "dirichlet": 1.0}, PlanError, "needs a column"),
        ({"k": 2, "by": "x"}, PlanError, "column alone decides .*; got k; .* add dirichlet"),
        ({"quantity": 1.0, "by": "x"}, PlanError, "column alone decides .*; got quantity"),
        ({"k": 2, "quantity": 1.0, "dirichlet": 1.0, "by": "x"}, PlanError, "values or by sizes"),
        ({"k": 0}, PlanError, "got 0 clients"),
        ({"k": 2, "quantity": 0.0}, PlanError, "number above 0; got 0.0"),
        ({"k": 2, "dirichlet": float("nan"), "by": "x"}, PlanError, "number above 0; got nan"),
        ({"k": 9}, DataError, "fewer rows than clients; got 3 rows for 9; use fewer"),
        ({"by": "y"}, SchemaError, "unknown column 'y'; choose one of x"),
        ({"k": 2, "dirichlet": 1.0, "by": "y"}, SchemaError, "unknown column 'y'"),
    ],
)
def test_contradictions(choice: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        partition(pd.DataFrame({"x": [1, 2, 3]}), **choice)


def test_a_measurement_is_not_divided_by_value() -> None:
    with pytest.raises(DataError, match="too many values to divide by; got 1,001"):
        partition(pd.DataFrame({"x": range(1001)}), by="x")
