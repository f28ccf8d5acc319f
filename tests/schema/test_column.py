"""Columns as entries of a schema file."""

from __future__ import annotations

import pytest

from genesis.errors import SchemaError
from genesis.schema import Column, Kind, Schema


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
