"""What columns are."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from genesis.errors import DataError, GenesisError, SchemaError
from genesis.schema import Column, Kind, Schema
from genesis.schema.inference import MIN_KEYS
from tests.schema.columns import SECRET, infer

many = range(MIN_KEYS)
month = pd.Series(pd.date_range("2020-01-30", periods=9, freq="D"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1, 2, 2], Column("x", Kind.NUMERIC, "int64", decimals=0)),
        ([1, 2, None], Column("x", Kind.NUMERIC, "float64", decimals=0, nulls=True)),
        (pd.array([1, 2, None], "Int64"), Column("x", Kind.NUMERIC, "Int64", 0, nulls=True)),
        (np.array([3, 1, 3], np.int8), Column("x", Kind.NUMERIC, "int8", decimals=0)),
        ([0.1, 0.25, -3.0], Column("x", Kind.NUMERIC, "float64", decimals=2)),
        (np.array([0.1, 0.5], np.float32), Column("x", Kind.NUMERIC, "float32", decimals=1)),
        ([1 / 3, 0.5], Column("x", Kind.NUMERIC, "float64")),
        ([1e300, -1e300], Column("x", Kind.NUMERIC, "float64", decimals=0)),
        ([Decimal("1.5"), None], Column("x", Kind.NUMERIC, "float64", decimals=1, nulls=True)),
        (pd.Series([1, 2, 2], dtype=object), Column("x", Kind.NUMERIC, "int64", decimals=0)),
        ([1, "2", 2.5], Column("x", Kind.NUMERIC, "float64", decimals=1)),
        ([True, False], Column("x", Kind.BOOLEAN, "bool")),
        ([True, False, None], Column("x", Kind.BOOLEAN, "object", nulls=True)),
        (
            pd.array([True, None, False], "boolean"),
            Column("x", Kind.BOOLEAN, "boolean", nulls=True),
        ),
        (["a", "b", "b"], Column("x", Kind.CATEGORICAL, "object")),
        (["01", "02", "02"], Column("x", Kind.CATEGORICAL, "object")),
        (["01", "b", "c"], Column("x", Kind.CATEGORICAL, "object", ambiguous=True)),
        (["2010-11", "2011-12", "2012-13"] * 2, Column("x", Kind.CATEGORICAL, "object")),
        (["1-2", "3-4", "5-0"] * 2, Column("x", Kind.CATEGORICAL, "object")),
        (pd.array(["a", "b", "b"], "string"), Column("x", Kind.CATEGORICAL, "string")),
        (pd.Categorical(["a", "b", "a"]), Column("x", Kind.CATEGORICAL, "category")),
        (pd.Categorical([1, 2, 1]), Column("x", Kind.CATEGORICAL, "int64")),
        (pd.cut([1, 2, 9], 2), Column("x", Kind.CATEGORICAL, "category")),
        (["a", True, None, "a"], Column("x", Kind.CATEGORICAL, "object", nulls=True)),
        (month, Column("x", Kind.DATETIME, "datetime64[ns]", unit="D")),
        (list(month.dt.date), Column("x", Kind.DATETIME, "datetime64[ns]", unit="D")),
        (month + pd.Timedelta("1h"), Column("x", Kind.DATETIME, "datetime64[ns]", unit="s")),
        (
            (month + pd.Timedelta("1ms")).dt.tz_localize("Europe/Berlin"),
            Column("x", Kind.DATETIME, "datetime64[ns, Europe/Berlin]", unit="us"),
        ),
        (["same"] * 3, Column("x", Kind.CONSTANT, "object", value="same", of=Kind.CATEGORICAL)),
        ([7] * 3, Column("x", Kind.CONSTANT, "int64", decimals=0, value=7, of=Kind.NUMERIC)),
        ([True] * 3, Column("x", Kind.CONSTANT, "bool", value=True, of=Kind.BOOLEAN)),
        ([7, 7, None], Column("x", Kind.NUMERIC, "float64", decimals=0, nulls=True)),
        (
            [pd.Timestamp("2020-01-01")] * 2,
            Column(
                "x",
                Kind.CONSTANT,
                "datetime64[ns]",
                unit="D",
                value="2020-01-01T00:00:00",
                of=Kind.DATETIME,
            ),
        ),
        ([None, None], Column("x", Kind.CONSTANT, "object", nulls=True)),
        ([f"PAT-{i:05d}" for i in many], Column("x", Kind.ID, "object", format=r"P\AT-99999")),
        (
            pd.array([f"{i}x" for i in range(10, 10 + MIN_KEYS)], "string"),
            Column("x", Kind.ID, "string", format="99x"),
        ),
        (
            pd.array(["2020-01-31", "2020-01-01"], "string"),
            Column("x", Kind.DATETIME, "string", format="%Y-%m-%d", unit="D"),
        ),
        (
            [f"user{10 ** (i % 5) + i // 5}" for i in many],
            Column("x", Kind.ID, "object", format="user99999"),
        ),
        ([f"{i:03d}{chr(97 + i)}" for i in many], Column("x", Kind.ID, "object", format="999a")),
        ([f"{i} or so" * i for i in many], Column("x", Kind.ID, "object", format="aaaaaaaa")),
        ([str(uuid.UUID(int=i)) for i in many], Column("x", Kind.ID, "object", format="uuid")),
        (list(many), Column("x", Kind.ID, "int64", format="integer")),
        ([17 * i for i in many], Column("x", Kind.NUMERIC, "int64", decimals=0)),
        ([1990 + i for i in many], Column("x", Kind.NUMERIC, "int64", decimals=0)),
        ([1 + i for i in many], Column("x", Kind.ID, "int64", format="integer")),
        ([float(i) for i in many], Column("x", Kind.NUMERIC, "float64", decimals=0)),
        ([*many, None], Column("x", Kind.NUMERIC, "float64", decimals=0, nulls=True)),
    ],
)
def test_kinds(cells, expected: Column) -> None:
    assert infer(cells) == expected


@pytest.mark.parametrize(
    ("name", "is_key"),
    [
        *(
            (name, True)
            for name in ("id", "ID", "Id", "patient_id", "CustomerID", "claimId", "uuid")
        ),
        *((name, True) for name in ("Unnamed: 0", "row.key", "account no", "case_number")),
        *(
            (name, False)
            for name in ("paid", "grid", "BID", "humid", "monkey", "identity", "price")
        ),
    ],
)
def test_names_of_keys(name: str, is_key: bool) -> None:
    numbers = [17 * i for i in many]
    assert infer(numbers, name).kind is (Kind.ID if is_key else Kind.NUMERIC)
    assert infer([i / 2 for i in numbers], name).kind is Kind.NUMERIC
    assert infer(numbers + numbers, name).kind is Kind.NUMERIC


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2), st.integers(0, 8))
def test_decimals_are_those_that_were_written(whole: list[int], d: int) -> None:
    written = [float(f"{k}e-{d}") for k in whole]
    shortest = max(max(0, -Decimal(f"{k}e-{d}").normalize().as_tuple().exponent) for k in whole)
    assert infer([*written, None]).decimals == shortest


def test_discrete_columns() -> None:
    table = pd.DataFrame({"n": [1, 2, 2], "m": [1, "a", 3.0], "d": month[:3], 4: [0.5, 1.5, 0.5]})
    schema = Schema.infer(table, ["n", "m", "d", "4"])
    assert {column.kind for column in schema} == {Kind.CATEGORICAL}
    assert [column.dtype for column in schema] == ["int64", "object", "object", "float64"]
    with pytest.raises(SchemaError, match="column 'x' holds lists; got 1 of them"):
        infer(["a", ["a"]], discrete_columns=["x"])
    with pytest.raises(SchemaError, match="unknown column 'nn'; did you mean n"):
        Schema.infer(table, ["nn"])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["1", "2.5", *[SECRET] * 2],
            "mixes numbers and text; got 2 numbers and 2 texts, the first in row 3",
        ),
        (
            [1, None, SECRET, 2.5],
            "got 2 numbers and 1 text, the first in row 3; .*discrete_columns",
        ),
        (["1"] * 4120 + [SECRET], "got 4,120 numbers and 1 text, the first in row 4,121"),
        (["2020-01-01", SECRET, "2020-01-02"], "mixes dates and text; .* first in row 2"),
        ([SECRET, [1]], "holds lists; got 1 of them, the first in row 2"),
        ([{SECRET: 1}], "holds lists"),
        (month - month[0], "cannot be modelled; got timedelta64.*total_seconds"),
        ([dt.timedelta(1)], "total_seconds"),
        ([SECRET.encode()] * 2, "cannot be modelled"),
        ([1j, 2.0], "cannot be modelled; got complex128"),
        (pd.period_range("2020", periods=2), "cannot be modelled"),
        ([dt.date(9999, 1, 1), dt.date(2020, 1, 1)], "dates that pandas cannot hold"),
        ([1.0, np.inf, -np.inf], "infinities; got 2, the first in row 2"),
        (pd.array([1.0, None, np.inf], "Float64"), "infinities; got 1, the first in row 3"),
    ],
)
def test_what_cannot_be_told(cells, message: str) -> None:
    with pytest.raises(GenesisError, match=f"column 'x' .*{message}") as caught:
        infer(cells)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError if "infinities" in message else SchemaError)
