"""Words are translated back."""

from dataclasses import replace

import numpy as np
import pytest

from genesis.evaluation.attacks import View, create_attack
from genesis.evaluation.attacks.recoding import MOST, translate
from genesis.evaluation.controls import recoded
from genesis.evaluation.intervals import auc
from genesis.evaluation.rows import Columns, Rows
from tests.evaluation.population import population

MEMBERS, OTHERS, KNOWN = (population(2_000, seed) for seed in range(3))


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_translated_back_by_rows_of_others(seed: int) -> None:
    """Not one of the known rows is among those to be translated."""
    found = translate(recoded(MEMBERS, seed), KNOWN)
    assert (found.codes == MEMBERS.codes).mean() > 0.95
    for before, after in zip(MEMBERS.numeric.T, found.numeric.T, strict=True):
        known = ~np.isnan(before)
        assert np.array_equal(known, ~np.isnan(after))
        assert np.corrcoef(before[known], after[known])[0, 1] > 0.95


def test_plain_rows_stay_as_they_are() -> None:
    found = translate(OTHERS, KNOWN)
    assert np.array_equal(found.codes, OTHERS.codes)


def test_numbers_are_those_of_known_rows() -> None:
    found = translate(recoded(MEMBERS, 0), KNOWN)
    for mine, theirs in zip(found.numeric.T, KNOWN.numeric.T, strict=True):
        assert set(mine[~np.isnan(mine)]) <= set(theirs[~np.isnan(theirs)])


def test_members_in_other_words_are_found() -> None:
    view = View(recoded(MEMBERS, 0), KNOWN, Rows.concat([MEMBERS, OTHERS]))
    found = {name: create_attack(name).scores(view) for name in ("recoding", "calibrated")}
    assert auc(found["recoding"][:2_000], found["recoding"][2_000:]) > 0.9
    assert auc(found["calibrated"][:2_000], found["calibrated"][2_000:]) < 0.6


def test_categories_may_be_many_and_new() -> None:
    """Frequent ones are matched by their company, rare ones by frequency, surplus ones are null."""
    size = 3 * MOST
    columns = Columns((), ("name", "group"), (tuple(range(size - 1)), tuple("abcd")))

    def drawn(n: int, seed: int) -> Rows:
        rng = np.random.default_rng([seed])
        name = 1 + np.minimum(rng.geometric(0.03, n), size // 2) - 1
        group = 1 + (name + (rng.random(n) < 0.1)) % 4
        return Rows(columns, np.empty((n, 0)), np.column_stack([name, group]))

    rows, known = drawn(20_000, 0), drawn(20_000, 1)
    shifted = replace(
        rows, codes=rows.codes + np.array([size // 3, 0])
    )  # labels that nobody has seen
    found = translate(shifted, known)
    assert (found.codes[:, 0] == rows.codes[:, 0]).mean() > 0.5
    assert found.codes.min() >= 0
    assert found.codes[:, 0].max() < size
