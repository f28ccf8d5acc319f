"""What several clients' columns are together."""

from __future__ import annotations

import datetime as dt
import json
import random
from dataclasses import replace

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given

from genesis.errors import SchemaError
from genesis.schema import Column, Kind, Schema
from genesis.schema.inference import MIN_KEYS
from tests.schema.columns import infer, merge

number = Column("x", Kind.NUMERIC, "int64", decimals=0)
text = Column("x", Kind.CATEGORICAL, "object")
key = Column("x", Kind.ID, "int64", format="integer")
name_key = Column("x", Kind.ID, "object", format="A99")
unknown = Column("x", Kind.CONSTANT, "float64", nulls=True)
flag = Column("x", Kind.BOOLEAN, "bool")
day = Column("x", Kind.DATETIME, "object", format="%Y-%m-%d", unit="D")
one = Column("x", Kind.CONSTANT, "int64", decimals=0, value=1, of=Kind.NUMERIC)


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


def test_statements_of_the_operator_survive_agreement_only() -> None:
    stated = replace(number, lower=0, upper=9)
    assert merge(stated, stated) == stated
    assert merge(stated, number) == number
