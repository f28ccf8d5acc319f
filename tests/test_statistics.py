from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genesis.schema import Schema
from genesis.statistics import PooledStatistics, Question, ShardStatistics, _keys, _values
from tests.dirty import dirty_table

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def pool(schema: Schema, tables: list[pd.DataFrame]) -> PooledStatistics:
    shards = [ShardStatistics(schema, schema.conform(table)) for table in tables]
    pooled = PooledStatistics(schema, [shard.labels() for shard in shards])
    while questions := pooled.questions():
        asked = [Question.from_dict(question.to_dict()) for question in questions]
        assert asked == questions
        pooled.take([np.sum([s.answer(q) for s in shards], axis=0) for q in questions])
    return pooled


@given(st.lists(FLOATS, min_size=1, max_size=50))
@example([-0.0, 0.0, 5e-324, -5e-324, 1.7e308, -1.7e308])
def test_keys_keep_the_order_and_every_bit(values: list[float]) -> None:
    floats = np.array(values) + 0.0
    keys = _keys(floats)
    assert (np.argsort(floats, kind="stable") == np.argsort(keys, kind="stable")).all()
    assert (_values(keys) == floats).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(FLOATS, min_size=12, max_size=300))
def test_every_value_is_counted_once(values: list[float]) -> None:
    table = pd.DataFrame({"x": values, "y": np.arange(len(values)) % 2})
    schema = Schema.infer(table, ["y"])
    if "x" not in pool(schema, [table]).numeric:
        return  # all values are one
    found = pool(schema, [table]).numeric["x"]
    assert found.counts.sum() + found.atom_counts.sum() == len(values)
    assert (np.diff(found.positions) > 0).all()
    for atom, count in zip(found.atoms, found.atom_counts, strict=True):
        assert (np.array(values) == atom).sum() == count


def test_shards_give_the_statistics_of_the_pooled_table_bit_for_bit() -> None:
    table = dirty_table(900)
    schema = Schema.infer(table)
    whole = pool(schema, [table])
    for shards in ([table.iloc[i::3] for i in range(3)], [table.iloc[:1], table.iloc[1:]]):
        parts = pool(schema, shards)
        assert parts.rows == whole.rows == 900
        for name, column in whole.numeric.items():
            other = parts.numeric[name]
            assert (other.nulls, other.lower, other.upper) == (
                column.nulls,
                column.lower,
                column.upper,
            )
            for field in ("positions", "counts", "atoms", "atom_counts"):
                assert getattr(other, field).tobytes() == getattr(column, field).tobytes()
        for name, labels in whole.discrete.items():
            assert parts.discrete[name].labels == labels.labels
            assert (parts.discrete[name].counts == labels.counts).all()


def test_point_masses_are_found_exactly() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(10, 2, 10_000)
    values[:400] = 1234.5678901234567
    values[400:520] = -np.pi * 1e-7
    values[520:619] = 7e22  # 0.99 %: not a point mass
    values[619:5000] = 0.0
    table = pd.DataFrame({"x": values, "y": rng.random(10_000)})
    found = pool(Schema.infer(table), [table]).numeric["x"]
    expected = {-np.pi * 1e-7: 120, 0.0: 4381, 1234.5678901234567: 400}
    assert dict(zip(found.atoms, found.atom_counts, strict=True)) == expected


def test_an_outlier_costs_no_resolution() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(50, 1, 5000)
    values[0] = 1e30
    table = pd.DataFrame({"x": values, "y": rng.random(5000)})
    found = pool(Schema.infer(table), [table]).numeric["x"]
    inner = found.positions[found.positions < 1e10]
    assert np.median(np.diff(np.sort(inner))) < 0.05


def test_bounds_are_not_the_extremes_of_a_handful_of_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 5000)
    table = pd.DataFrame({"x": values, "y": rng.random(5000)})
    found = pool(Schema.infer(table), [table]).numeric["x"]
    ordered = np.sort(values)
    assert ordered[0] < found.lower <= ordered[4]
    assert ordered[-5] <= found.upper < ordered[-1]


def test_few_rows_are_bounded_by_powers_of_two() -> None:
    table = pd.DataFrame({"x": [3, 5, 90], "y": [1.5, 2.5, 9.25]})
    found = pool(Schema.infer(table), [table]).numeric
    assert (found["x"].lower, found["x"].upper) == (2, 127)
    assert not len(found["x"].atoms)


@pytest.mark.parametrize("decimals", [0, 1, 3])
def test_rounded_values_stay_on_their_grid(decimals: int) -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0, 5, 3000), decimals)
    table = pd.DataFrame({"x": values, "y": rng.random(3000)})
    found = pool(Schema.infer(table), [table]).numeric["x"]
    for number in (*found.atoms, found.lower, found.upper):
        assert number == np.round(number, decimals)


def test_a_label_of_one_client_and_numbers_that_are_text_elsewhere() -> None:
    one = pd.DataFrame({"code": [1, 2, 2], "x": [1.0, 2.5, 3.0]})
    two = pd.DataFrame({"code": ["2", "B", None], "x": [1.0, 2.5, 3.5]})
    schema = Schema.merge({"a": Schema.infer(one, ["code"]), "b": Schema.infer(two, ["code"])})
    found = pool(schema, [one, two]).discrete["code"]
    assert found.labels == ("1", "2", "B")
    assert found.counts.tolist() == [1, 3, 1]
    assert found.nulls == 1
