"""How dates are written."""

from __future__ import annotations

import datetime as dt

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings

from genesis.schema import Kind
from genesis.schema.dates import UNITS
from tests.schema.columns import infer, merge

dates = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2260, 1, 1))
century = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2060, 1, 1))


@pytest.mark.parametrize("date", ["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%y", "%d.%m.%Y", "%d %b %Y"])
@pytest.mark.parametrize("time", ["", " %H:%M", "T%H:%M:%SZ", " %H:%M:%S.%f", " %H:%M:%S+01:00"])
@settings(max_examples=4)
@given(moments=st.lists(century, min_size=2, unique=True))
def test_formats_are_found(date: str, time: str, moments: list[dt.datetime]) -> None:
    texts = [moment.strftime(date + time) for moment in moments]
    assume(len(set(texts)) > 1)
    column = infer([*texts, None])
    assert column.kind is Kind.DATETIME
    if not column.ambiguous:
        assert column.format == date + time
    assert [dt.datetime.strptime(t, column.format).strftime(column.format) for t in texts] == texts


@given(st.lists(dates, min_size=2, unique=True), st.sampled_from(UNITS))
def test_units(moments: list[dt.datetime], unit: str) -> None:
    times = pd.Series(np.array(moments, dtype=f"datetime64[{unit}]").astype("datetime64[ns]"))
    assume(times.nunique() > 1)
    found = infer(times).unit
    assert (times.to_numpy().astype(f"datetime64[{found}]") == times.to_numpy()).all()
    assert UNITS.index(found) <= UNITS.index(unit)


def test_day_and_month_need_a_row_that_tells_them_apart() -> None:
    both, day_first = infer(["01/02/2020", "03/04/2020"]), infer(["01/02/2020", "13/04/2020"])
    assert (both.format, both.ambiguous) == ("%m/%d/%Y", True)
    assert (day_first.format, day_first.ambiguous) == ("%d/%m/%Y", False)
    merged = merge(both, day_first)
    assert (merged.format, merged.ambiguous) == ("%d/%m/%Y", False)
