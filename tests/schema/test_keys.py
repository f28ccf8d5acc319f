"""What keys look like."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pandas as pd
from hypothesis import given

from genesis.schema import Column, Kind
from genesis.schema.keys import merge_shapes, new_keys, shape_of, shape_tokens
from tests.schema.columns import merge

shapes = st.lists(st.sampled_from(["9", "9", "A", "a", "-", r"\A"]), min_size=1, max_size=5)


@given(st.lists(shapes.map("".join) | st.sampled_from(["integer", "uuid"]), min_size=3, max_size=3))
def test_shapes_of_ids_merge_in_any_order(formats: list[str]) -> None:
    columns = [Column("x", Kind.ID, "object", format=format) for format in formats]
    merged = {merge(*order).format for order in itertools.permutations(columns)}
    assert len(merged) == 1
    assert merge(columns[0], columns[0]).format == columns[0].format


def test_shapes_of_ids() -> None:
    def shape(*formats: str) -> str | None:
        return merge(*(Column("x", Kind.ID, "object", format=f) for f in formats)).format

    assert shape("A-99", "A-999", "A-9") == "A-999"
    assert shape("x-9", "y-9") == "a-9"
    assert shape(r"\A-9", r"B-9") == "A-9"
    assert shape("uuid", "integer") == "aaaaaaaa"
    assert shape_tokens(r"P\AT-9") == ["P", r"\A", "T", "-", "9"]


@given(shapes.map("".join) | st.sampled_from(["integer", "uuid"]), st.integers(0, 10**6))
def test_new_keys_do_not_repeat_over_calls(format: str, first_row: int) -> None:
    rng = np.random.default_rng(0)
    keys = [*new_keys(format, 30, rng, first_row), *new_keys(format, 30, rng, first_row + 30)]
    assert len(set(keys)) == 60


@given(shapes.map("".join), st.integers(0, 10**6))
def test_new_keys_have_their_shape(shape: str, first_row: int) -> None:
    keys = pd.Index(new_keys(shape, 30, np.random.default_rng(0), first_row))
    fitting = keys[keys.str.len() == len(shape_tokens(shape))]
    assert fitting.empty or merge_shapes([shape, shape_of(fitting)]) == shape
    # The others are numbers that are too large for the shape, written after it.
    assert all(
        key.endswith(str(first_row + 1 + keys.get_loc(key))) for key in keys.difference(fitting)
    )
