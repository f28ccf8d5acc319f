"""Whether predicates single people out."""

import numpy as np
import pandas as pd
import pytest

from genesis.evaluation.singling_out import _Boxes, _corners, _rare_values, _Table, singling_out
from tests.evaluation.three_tables import AWKWARD, check_entry, copied, fresh, three


@pytest.mark.parametrize("control", [600, 150, 1200])
def test_a_copier_is_caught(control: int) -> None:
    """By both kinds of predicates, and beside a control of any size."""
    found = singling_out(*copied(600, control))
    for guesses in (found.univariate, found.multivariate):
        assert guesses.rate is not None
        assert guesses.control is not None
        assert guesses.rate.value == 1, "each predicate holds for just the row that was copied"
        assert guesses.rate.low > guesses.control.high + 0.3
        assert guesses.sure_risk > 0.9


@pytest.mark.parametrize("control", [300, 100, 500])
def test_fresh_rows_are_not_accused(control: int) -> None:
    found = [singling_out(*fresh(300, control, seed), seed=seed) for seed in range(40)]
    assert sum(each.univariate.sure_risk > 0 for each in found) <= 2
    assert sum(each.multivariate.sure_risk > 0 for each in found) <= 2


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_tables(name: str) -> None:
    entry = singling_out(*three(*AWKWARD[name])).to_dict()
    for each in (entry, entry["univariate"], entry["multivariate"]):
        check_entry(each)
    if name == "one column":
        assert entry["multivariate"]["rate"] is None


def test_no_predicate_at_all() -> None:
    """Where every value is common, no value is anybody's; pairs of them may be."""
    table = pd.DataFrame({"a": ["u", "u", "v", "v"], "b": ["x", "y", "x", "y"]})
    entry = singling_out(*three(table, table, table)).to_dict()
    assert entry["univariate"]["rate"] is None
    assert "no predicate" in entry["univariate"]["reason"]
    assert entry["predicates"] == "multivariate"
    assert (entry["guesses"], entry["rate"]) == (4, 1)


def test_rows_and_columns_in_any_order() -> None:
    tables = AWKWARD["numbers and words"]
    mixed = [table.sample(frac=1, random_state=1).iloc[:, ::-1] for table in tables]
    assert singling_out(*three(*mixed)).to_dict() == singling_out(*three(*tables)).to_dict()


def test_chance_stays_below_its_ceiling() -> None:
    """A predicate that knows nobody singles out with the chance (1 - 1/n)^(n - 1) at most."""
    found = singling_out(*fresh(600, 60))
    for guesses in (found.univariate, found.multivariate):
        assert guesses.control is not None
        assert guesses.control.high <= (1 - 1 / 600) ** 599


def test_rows_in_boxes_are_counted() -> None:
    """As going through all rows counts them."""
    table = _Table(fresh(200, 50).members)
    rng = np.random.default_rng(0)
    b, d = 300, table.values.shape[1]
    columns = np.argsort(rng.random((b, d)), axis=1)[:, :3]
    ends = np.sort([table.values[rng.integers(200, size=(b, 3)), columns] for _ in range(2)], 0)
    boxes = _Boxes(columns, *ends)
    inside = (table.values[:, columns] >= boxes.low) & (table.values[:, columns] <= boxes.high)
    np.testing.assert_array_equal(table.count(boxes), inside.all(2).sum(0))
    np.testing.assert_array_equal(
        table.count(_Boxes(columns[:, :1], ends[0][:, :1], ends[1][:, :1])), inside[:, :, 0].sum(0)
    )


def test_predicates_hold_for_exactly_one_row() -> None:
    table = _Table(fresh(200, 50).members)
    for find in (_rare_values, _corners):
        boxes = find(table, 100, np.random.default_rng(0))
        assert len(boxes)
        assert (table.count(boxes) == 1).all()


def test_nulls_are_on_no_half_line() -> None:
    """Of a column that is null but for one number, that number is the only extreme."""
    rows = three(*AWKWARD["nulls in the synthetic rows"]).synthetic
    table = _Table(rows)
    place = rows.columns.numeric.index("x")
    boxes = _rare_values(table, 1000, np.random.default_rng(0))
    boxes = boxes.take(boxes.columns[:, 0] == place)
    assert len(boxes) == 3
    assert ((boxes.low <= 1) & (boxes.high >= 1)).all()
    assert (boxes.low > -np.inf).all()
