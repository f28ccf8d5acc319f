"""What right guesses say of a leak."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.evaluation.guesses import Guesses, difference_interval, drawn, risk_interval
from genesis.evaluation.intervals import proportion_interval
from genesis.evaluation.rows import align
from tests.dirty import dirty_table

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_the_risk_is_what_is_guessed_better_of_what_can_be() -> None:
    guesses = Guesses.count(80, 100, 60, 100, baseline=0.5, level=0.95)
    assert guesses.risk is not None
    assert guesses.risk.value == pytest.approx((0.8 - 0.6) / (1 - 0.6))
    assert guesses.risk.low > 0


def test_nothing_can_be_guessed_better_than_always() -> None:
    entry = Guesses.count(10, 10, 20, 20, baseline=1.0, level=0.95).to_dict()
    assert entry["risk"] is None
    assert "always" in entry["reason"]
    json.dumps(entry, allow_nan=False)


@given(counts, counts)
def test_the_interval_holds_the_risk_and_says_what_the_rates_say(
    members: tuple[int, int], control: tuple[int, int]
) -> None:
    rate, other = proportion_interval(*members), proportion_interval(*control)
    risk = risk_interval(rate, other)
    if other.value == 1:
        assert risk is None
        return
    assert risk is not None
    assert 0 <= risk.low <= risk.value <= risk.high <= 1
    if rate.low > other.high:
        assert risk.low > 0
    if rate.value <= other.value:
        assert (risk.value, risk.low) == (0, 0)


@given(counts, counts)
def test_differences_turn_round(first: tuple[int, int], second: tuple[int, int]) -> None:
    one, two = proportion_interval(*first), proportion_interval(*second)
    there, back = difference_interval(one, two), difference_interval(two, one)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.3), (0.6, 0.5), (0.95, 0.9), (0.02, 0.01)])
def test_intervals_cover(p: float, q: float) -> None:
    """Some 95 % of the intervals hold the true risk."""
    rng = np.random.default_rng(0)
    risk, hits = (p - q) / (1 - q), 0
    for right, right_control in rng.binomial([300, 200], [p, q], (1000, 2)):
        found = risk_interval(
            proportion_interval(int(right), 300), proportion_interval(int(right_control), 200)
        )
        assert found is not None
        hits += found.low <= risk <= found.high
    assert hits >= 940


def test_columns_and_rows_are_chosen() -> None:
    rows = align({"real": dirty_table(50)}).rows["real"]
    some = rows.only(["sex", "visits"])
    assert some.columns.names == ("visits", "sex")
    assert some.columns.sizes == (rows.columns.sizes[rows.columns.discrete.index("sex")],)
    assert (some.numeric[:, 0] == rows.numeric[:, rows.columns.numeric.index("visits")]).all()
    few = drawn(rows, 20, np.random.default_rng(0))
    assert len(few) == len(np.unique(few.keys())) == 20
    assert np.isin(few.keys(), rows.keys()).all()
