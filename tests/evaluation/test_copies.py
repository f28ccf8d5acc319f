"""Members found again as they are."""

import numpy as np
import pytest

from genesis.evaluation.copies import copies
from genesis.evaluation.rows import Rows
from tests.evaluation.population import only, population


def test_a_few_copies_among_very_many_members_are_found() -> None:
    members, others, fresh = population(20_000, 0), population(20_000, 1), population(5_000, 2)
    leaking = Rows.concat([fresh, members.take(slice(0, 12))])
    found = copies(members, others, leaking)
    assert found.found
    assert found.members >= 12
    assert not copies(members, others, fresh).found


@pytest.mark.parametrize("n_others", [300, 1000, 3000])
def test_twins_by_chance_are_not_accused(n_others: int) -> None:
    """A few columns, so that many rows are found again and many groups are large."""
    accused = 0
    for seed in range(40):
        rows = only(population(1000 + n_others + 500, seed), numeric=slice(2, 3))
        order = np.random.default_rng(seed).permutation(len(rows))
        members, others, fresh = (
            rows.take(part) for part in np.split(order, [1000, 1000 + n_others])
        )
        accused += copies(members, others, fresh).found
    assert accused <= 2


def test_rows_in_both_tables_say_nothing() -> None:
    members = population(100, 0)
    found = copies(members, members, members)
    assert (found.members, found.non_members, found.found) == (0, 0, False)


def test_one_row() -> None:
    members, others = population(50, 0), population(50, 1)
    found = copies(members, others, members.take(slice(0, 1)))
    assert (found.members, found.non_members) == (1, 0)
    assert not found.found, "one row is a coin that fell once"
