"""Conditions as text."""

import pytest
from genesis_cli.where import read_conditions

from genesis.errors import ConditionError
from genesis.schema import Column, Kind, Schema

SCHEMA = Schema(
    (
        Column("age", Kind.NUMERIC, "int64"),
        Column("born", Kind.DATETIME, "object", unit="D", format="%Y-%m-%d"),
        Column("sex", Kind.CATEGORICAL, "object"),
        Column("a=b", Kind.CATEGORICAL, "object"),
    )
)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("sex=Female", {"sex": "Female"}),
        ("sex=Female,Male", {"sex": ["Female", "Male"]}),
        ('sex="one, two",three', {"sex": ["one, two", "three"]}),
        ("sex=", {"sex": None}),
        ("sex=Female,", {"sex": ["Female", None]}),
        ("sex=from..to", {"sex": "from..to"}),
        ("sex=x=y", {"sex": "x=y"}),
        ("a=b=c", {"a=b": "c"}),
        ("age=30", {"age": "30"}),
        ("age=30,40", {"age": ["30", "40"]}),
        ("age=30..40", {"age": ("30", "40")}),
        ("age=-5.5..-1.5", {"age": ("-5.5", "-1.5")}),
        ("age=30..", {"age": ("30", None)}),
        ("age=..40", {"age": (None, "40")}),
        ("born=2020-01-01..2020-06-30", {"born": ("2020-01-01", "2020-06-30")}),
        ("unknown=1..2", {"unknown": "1..2"}),
    ],
)
def test_reading(text: str, where: dict[str, object]) -> None:
    assert read_conditions([text], SCHEMA) == where


def test_several_conditions() -> None:
    assert read_conditions(["sex=F", "age=1.."], SCHEMA) == {"sex": "F", "age": ("1", None)}
    with pytest.raises(ConditionError, match="column 'sex' has two conditions"):
        read_conditions(["sex=F", "sex=M"], SCHEMA)
