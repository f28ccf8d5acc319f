"""Whether halves of people's data can be linked."""

import pytest

from genesis import SchemaError
from genesis.evaluation.linkability import linkability
from tests.evaluation.three_tables import AWKWARD, check_entry, copied, fresh, three


def test_a_copier_is_caught() -> None:
    found = linkability(*copied()).guesses
    assert found.rate is not None
    assert found.control is not None
    assert found.rate.value == 1, "a member's halves meet at its copy"
    assert found.rate.low > found.control.high + 0.5
    assert found.sure_risk > 0.9


def test_false_links_are_the_baseline() -> None:
    """Halves of strangers meet at a row only if it is like both: rarely, with many columns."""
    found = linkability(*copied()).guesses
    assert found.baseline is not None
    assert found.baseline < 0.1


def test_fresh_rows_are_not_accused() -> None:
    accused = [
        linkability(*fresh(300, 200, seed), seed=seed).guesses.sure_risk > 0 for seed in range(100)
    ]
    assert sum(accused) <= 5


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_tables(name: str) -> None:
    entry = linkability(*three(*AWKWARD[name])).to_dict()
    check_entry(entry)
    assert (entry["rate"] is None) == (name == "one column")


def test_rows_and_columns_in_any_order() -> None:
    tables = AWKWARD["numbers and words"]
    mixed = [table.sample(frac=1, random_state=1).iloc[:, ::-1] for table in tables]
    assert linkability(*three(*mixed)).to_dict() == linkability(*three(*tables)).to_dict()


def test_halves_are_balanced_or_given() -> None:
    rows = fresh(50, 50)
    first, second = linkability(*rows).halves
    assert abs(len(first) - len(second)) <= 1
    assert sorted(first + second) == sorted(rows.members.columns.names)
    assert linkability(*rows, halves=(["sex"], ["visits"])).halves == (("sex",), ("visits",))


def test_halves_that_make_no_sense() -> None:
    rows = fresh(50, 50)
    with pytest.raises(SchemaError, match="no column 'vists' can be linked; did you mean visits"):
        linkability(*rows, halves=(["sex"], ["vists"]))
    with pytest.raises(SchemaError, match="both halves; got sex"):
        linkability(*rows, halves=(["sex"], ["sex", "visits"]))
