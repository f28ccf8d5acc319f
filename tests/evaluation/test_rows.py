"""Tables made comparable."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import DataError, Schema, SchemaError
from genesis.evaluation.rows import Rows, align
from tests.dirty import dirty_table


def test_every_kind_finds_its_place() -> None:
    aligned = align({"real": dirty_table(300), "synthetic": dirty_table(200, seed=1)})
    columns = aligned.rows["real"].columns
    assert columns.numeric == ("admitted", "größe, cm", "seen", "visits", "zeros")
    assert columns.discrete == ("région=?", "sex", "smoker")
    assert columns.sizes == (5, 3, 3)  # the null has a code of its own
    assert "patient_id" in aligned.frames["real"], "ids are in the frames, for keys to be checked"
    assert "patient_id" not in columns.names


def test_nulls_are_nan_and_code_0() -> None:
    table = dirty_table(300)
    rows = align({"real": table}).rows["real"]
    nulls = np.isnan(rows.numeric).sum(0)
    assert nulls[rows.columns.numeric.index("größe, cm")] == table["größe, cm"].isna().sum()
    assert (rows.codes[:, 0] == 0).sum() == table["région=?"].isna().sum()


def test_rows_stay_together() -> None:
    """Frames and numbers are the same rows in the same order."""
    aligned = align({"real": dirty_table(300)})
    frame, rows = aligned.frames["real"], aligned.rows["real"]
    place = rows.columns.numeric.index("visits")
    np.testing.assert_array_equal(frame["visits"], rows.numeric[:, place])
    known = (None, *rows.columns.categories[rows.columns.discrete.index("sex")])
    codes = rows.codes[:, rows.columns.discrete.index("sex")]
    assert [known[code] for code in codes] == frame["sex"].tolist()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_the_order_of_rows_and_columns_is_forgotten(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, other = dirty_table(40), dirty_table(30, seed=1)
    mixed = table.iloc[rng.permutation(40), rng.permutation(table.shape[1])]
    before = align({"real": table, "synthetic": other})
    after = align({"real": mixed, "synthetic": other})
    np.testing.assert_array_equal(before.rows["real"].numeric, after.rows["real"].numeric)
    np.testing.assert_array_equal(before.rows["real"].codes, after.rows["real"].codes)
    # Rows that differ in nothing but their ids may stand in any order.
    columns = [c for c in before.frames["real"] if c != "patient_id"]
    pd.testing.assert_frame_equal(before.frames["real"][columns], after.frames["real"][columns])


def test_codes_are_shared_and_unseen_categories_have_one() -> None:
    real = pd.DataFrame({"x": ["a", "b", "b"], "y": [1.5, 2.5, 3.5]})
    synthetic = pd.DataFrame({"y": [0.5, -1.5], "x": ["c", "b"]})
    rows = align({"real": real, "synthetic": synthetic}).rows
    assert rows["real"].columns.categories == (("a", "b", "c"),)
    assert set(rows["synthetic"].codes[:, 0]) == {2, 3}


def test_keys_tell_equal_rows() -> None:
    table = pd.DataFrame({"x": ["a", "b", "a"], "y": [1.5, np.nan, 1.5]})
    other = pd.DataFrame({"x": ["b", "b"], "y": [np.nan, 1.5]})
    rows = align({"real": table, "synthetic": other}).rows
    real, synthetic = rows["real"].keys(), rows["synthetic"].keys()
    assert len(set(real)) == 2
    assert len(set(real) & set(synthetic)) == 1


def test_a_constant_here_may_vary_there() -> None:
    real = pd.DataFrame({"x": [1.5, 1.5], "y": [1.5, 2.5]})
    synthetic = pd.DataFrame({"x": [2.5, 1.5], "y": [1.5, 2.5]})
    assert align({"real": real, "synthetic": synthetic}).rows["real"].columns.numeric == ("x", "y")


def test_a_schema_says_what_kinds_there_are_but_not_what_may_occur() -> None:
    real = pd.DataFrame({"x": ["a", "b"], "y": [1, 2]})
    schema = Schema.from_toml(
        '[[columns]]\nname = "x"\nkind = "categorical"\ncategories = ["a", "b"]\n'
        '[[columns]]\nname = "y"\nkind = "categorical"'
    )
    synthetic = pd.DataFrame({"x": ["c", None], "y": [1, 3]})
    rows = align({"real": real, "synthetic": synthetic}, schema=schema).rows
    assert rows["real"].columns.discrete == ("x", "y")
    assert (rows["synthetic"].codes[:, 0] == 0).sum() == 1


@pytest.mark.parametrize("there", ["north", "south", None])
def test_a_constant_of_the_schema_may_be_something_else(there) -> None:
    real = pd.DataFrame({"x": [1.5, 2.5], "where": "north"})
    synthetic = pd.DataFrame({"x": [1.5, 3.5], "where": [there, "north"]})
    aligned = align({"real": real, "synthetic": synthetic}, schema=Schema.infer(real))
    assert aligned.rows["real"].columns.discrete == (() if there == "north" else ("where",))


def test_concat_and_take() -> None:
    rows = align({"real": dirty_table(50)}).rows["real"]
    both = Rows.concat([rows.take(slice(0, 20)), rows.take(np.arange(20, 50))])
    np.testing.assert_array_equal(both.keys(), rows.keys())


GOOD = pd.DataFrame({"x": ["a", "b", "a"], "y": [1.5, 2.5, 3.5]})


@pytest.mark.parametrize(
    ("synthetic", "error", "message"),
    [
        (GOOD.iloc[:0], DataError, "the synthetic table has no rows; got 2 columns"),
        (GOOD.drop(columns="y"), SchemaError, "the synthetic table does not have the columns"),
        (GOOD.assign(z=1), SchemaError, "besides"),
        (GOOD.assign(y=["u", "v", "w"]), SchemaError, "column 'y' is .* at the synthetic table"),
        (GOOD.assign(y=np.inf), DataError, "the synthetic table: column 'y' holds infinities"),
    ],
)
def test_what_does_not_fit_is_named(synthetic, error, message) -> None:
    with pytest.raises(error, match=message):
        align({"real": GOOD, "synthetic": synthetic})


def test_nothing_to_compare() -> None:
    with pytest.raises(SchemaError, match="no column can be compared"):
        align({"real": pd.DataFrame({"x": [1, 1]}), "synthetic": pd.DataFrame({"x": [1]})})
