"""Columns that give themselves away by how often their values occur."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genesis.evaluation.fingerprint import same_counts
from genesis.evaluation.rows import Rows
from tests.evaluation.population import population


def test_any_one_to_one_recoding_keeps_counts() -> None:
    members = _rounded(population(800, 0))
    rng = np.random.default_rng(1)
    numeric = members.numeric.copy()
    for column in numeric.T:
        distinct, place = np.unique(column, return_inverse=True)
        column[:] = rng.permutation(len(distinct))[place]
    codes = np.where(members.codes > 0, 1 + (members.codes + 2) % 8, 0)
    moved = replace(members, numeric=numeric, codes=codes).take(rng.permutation(800))
    assert set(same_counts(members, moved)) >= {"age", "job"}


@pytest.mark.parametrize("seed", range(20))
def test_fresh_rows_have_other_counts(seed: int) -> None:
    rows = [_rounded(population(800, 2 * seed + k)) for k in (0, 1)]
    assert same_counts(*rows) == ()


def test_columns_of_few_or_of_unique_values_tell_nothing() -> None:
    members = population(300, 0)
    assert not {"smoker", "région=?"} & set(same_counts(members, members))
    assert same_counts(members, members.take(slice(299))) == ()


def _rounded(rows: Rows) -> Rows:
    """Rows whose numbers occur more than once."""
    return replace(rows, numeric=rows.numeric.round(0))
