"""Shadow models: against their definitions, and on trainings whose leak is known."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from genesis.errors import DataError, PlanError, SchemaError
from genesis.evaluation.membership import judge
from genesis.evaluation.shadow import lira, rmia, shadow
from tests.dirty import dirty_table
from tests.evaluation.three_tables import AWKWARD

PEOPLE = dirty_table(2400)


def sides(n=150, seed=0):
    """Members, non-members, and everyone else."""
    order = np.random.default_rng(seed).permutation(len(PEOPLE))
    members, others, rest = np.split(order, [n, 2 * n])
    return tuple(PEOPLE.iloc[part].reset_index(drop=True) for part in (members, others, rest))


def copier(rows, _):
    return rows


def many(table, n):
    """The table as often as it takes to have n rows."""
    return pd.concat([table] * -(-n // len(table)), ignore_index=True)


def test_copies_are_found():
    members, others, _ = sides()
    found = shadow(copier, members, others, members, shadows=8)
    assert min(each.auc.value for each in found.attacks.values()) > 0.95
    assert found.attacks["rmia"].found
    assert found.rows == len(members)


def test_fresh_rows_leave_nothing():
    covered = 0
    for seed in range(10):
        members, others, rest = sides(seed=seed)

        def fresh(rows, key, rest=rest):
            return rest.sample(len(rows), random_state=key % 2**32)

        found = shadow(fresh, members, others, fresh(members, 9), shadows=4, seed=seed)
        covered += all(each.auc.low <= 0.5 <= each.auc.high for each in found.attacks.values())
    assert covered >= 8


def test_what_is_ordinary_is_told_from_what_was_trained_on():
    """Rows differ more in how ordinary they are than in what training changes."""
    rng = np.random.default_rng(0)
    ordinary = rng.normal(0, 5, 400)
    included = rng.random((400, 32)).argsort(1) < 16
    known = ordinary[:, None] + included + rng.normal(0, 0.5, (400, 32))
    member = np.arange(400) < 200
    scores = ordinary + member + rng.normal(0, 0.5, 400)
    for attacked in (lira(scores, known, included), rmia(scores, known)):
        assert judge(attacked[member], attacked[~member]).auc.value > 0.85
    assert judge(scores[member], scores[~member]).auc.value < 0.65


def test_lira_is_a_ratio_of_likelihoods():
    """With the true means and variances it is the optimal test (Neyman & Pearson)."""
    rng = np.random.default_rng(0)
    included = np.tile(np.arange(4000) < 2000, (3, 1))
    known = np.where(included, rng.normal(1, 2, (3, 4000)), rng.normal(-1, 0.5, (3, 4000)))
    scores = np.array([-1.0, 0.0, 2.0])
    wanted = norm.logpdf(scores, 1, 2) - norm.logpdf(scores, -1, 0.5)
    np.testing.assert_allclose(lira(scores, known, included), wanted, atol=1)
    np.testing.assert_allclose(lira(scores[:2], known[:2], included[:2]), wanted[:2], atol=0.3)


@given(
    arrays(np.float64, (7, 5), elements=st.floats(-50, 50)),
    arrays(np.float64, 7, elements=st.floats(-50, 50)),
)
def test_rmia_orders_targets_as_the_paper_does(known, scores):
    """By the share of rows z with (p(x|θ) / p(x)) / (p(z|θ) / p(z)) ≥ 1."""
    ratio = np.log(np.exp(scores) / np.exp(known).mean(1))
    share = (ratio[:, None] - ratio >= -1e-9).mean(1)
    order = rmia(scores, known)
    np.testing.assert_allclose(order, ratio, atol=1e-9)
    assert (np.diff(share[np.argsort(order)]) >= 0).all()


def test_scores_that_never_vary():
    included = np.tile([True, False], (4, 3))
    attacked = lira(np.zeros(4), np.zeros((4, 6)), included)
    assert (attacked == 0).all()


def test_half_of_the_shadows_train_on_every_row():
    members, others, _ = sides(60)
    seen, seeds = [], []

    def train(rows, seed):
        seen.append(rows)
        seeds.append(seed)
        return rows

    shadow(train, members, others, members, shadows=6, seed=3)
    assert len(set(seeds)) == 6
    times = pd.concat(seen).groupby(list(PEOPLE.columns), dropna=False).size()
    alike = pd.concat([members, others]).groupby(list(PEOPLE.columns), dropna=False).size()
    assert (times.sort_index().to_numpy() == 3 * alike.sort_index().to_numpy()).all()


def test_order_does_not_matter():
    members, others, _ = sides(60)
    found = shadow(copier, members, others, members, shadows=4)
    mixed = [table.sample(frac=1, random_state=1).iloc[:, ::-1] for table in (members, others)]
    again = shadow(copier, *mixed, mixed[0], shadows=4)
    assert again == found
    assert shadow(copier, members, others, members, shadows=4, seed=1) != found


def test_no_more_non_members_than_members():
    members, others, rest = sides(60)
    found = shadow(copier, members, pd.concat([others, rest]), members, shadows=4)
    assert (found.members, found.non_members) == (60, 60)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_tables(name):
    members, others, synthetic = AWKWARD[name]
    found = shadow(copier, many(members, 20), many(others, 40), synthetic, shadows=4)
    entry = found.to_dict()
    json.dumps(entry, allow_nan=False)
    assert set(entry["attacks"]) == {"lira", "rmia"}
    assert entry["worst"] in entry["attacks"]


@pytest.mark.parametrize("shadows", [0, 2, 5])
def test_impossible_numbers_of_shadows(shadows):
    members, others, _ = sides(40)
    with pytest.raises(PlanError, match=r"must be even and at least 4; got \d; choose [46]"):
        shadow(copier, members, others, members, shadows=shadows)


def test_trainings_that_return_something_else():
    members, others, _ = sides(40)
    with pytest.raises(DataError, match="returned no rows"):
        shadow(lambda rows, _: rows[:0], members, others, members, shadows=4)
    with pytest.raises(SchemaError, match="the synthetic table"):
        shadow(lambda rows, _: rows.iloc[:, 1:], members, others, members, shadows=4)


def test_members_among_non_members_are_refused():
    members, others, _ = sides(60)
    with pytest.raises(DataError, match="overlap"):
        shadow(copier, members, pd.concat([others, members[:30]]), members, shadows=4)


def test_too_few_members_are_refused():
    members, others, _ = sides(40)
    with pytest.raises(DataError, match="too few members for an interval; got 5; give at least"):
        shadow(copier, members[:5], others, members, shadows=4)
