"""Whether tables are what their schema says, and making them so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genesis.errors import GenesisError, SchemaError
from genesis.schema import Column, Kind, Schema
from tests.schema.columns import SECRET, people_table


def test_shards_have_the_schema_of_the_table() -> None:
    people = people_table()
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
def test_what_does_not_fit(change, message: str) -> None:
    people = people_table()
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


def test_conform() -> None:
    people = people_table()
    schema = Schema.infer(people)
    shuffled = people.iloc[:, ::-1]
    pd.testing.assert_frame_equal(schema.conform(shuffled), people)
    objects = people.astype({"age": object, "score": object, "born": object})
    pd.testing.assert_frame_equal(schema.conform(objects), people)


@pytest.mark.parametrize("cells", [[1, 2, 1], [1.0, 2.0, None], ["1", "2", None], ["1", 2.0, 1]])
def test_categories_become_text_where_they_are_text_elsewhere(cells) -> None:
    schema = Schema((Column("x", Kind.CATEGORICAL, "object", nulls=True),))
    conformed = schema.conform(pd.DataFrame({"x": cells}))
    assert set(conformed["x"].dropna()) == {"1", "2"}
    pd.testing.assert_frame_equal(schema.conform(conformed), conformed)
