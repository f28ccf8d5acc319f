"""Schemas as SDV's metadata, and back."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from genesis.errors import SchemaError
from genesis.schema import Schema
from tests.schema.columns import people_table


def test_metadata_is_there_and_back() -> None:
    people = people_table()
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
