"""Membership inference finds leaks whose size is known, and none where there is none."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.errors import DataError, PlanError
from genesis.evaluation.attacks import ATTACKS, logan
from genesis.evaluation.membership import (
    CONTROLS,
    FEWEST_MEMBERS,
    FEWEST_NON_MEMBERS,
    check_disjoint,
    judge,
    membership,
)
from genesis.evaluation.rows import Rows, align
from tests.dirty import dirty_table
from tests.evaluation.population import only, population

MEMBERS, OTHERS, FRESH = population(600, 0), population(800, 1), population(400, 2)
QUICK = ["calibrated", "distance"]
KEYS = {
    *("auc", "auc_low", "auc_high", "epsilon_low", "found"),
    *("tpr_at_1pct_fpr", "tpr_low", "tpr_high", "tpr_at_01pct_fpr", "tpr_01_low", "tpr_01_high"),
}
POWER_KEYS = {*("attack", "auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low"), "tpr_high"}

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logan, "STEPS", 60)


def test_all_attacks_on_all_controls() -> None:
    found = membership(MEMBERS, OTHERS, FRESH)
    scores = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(scores["attacks"]) == set(ATTACKS)
    assert all(set(each) == KEYS for each in scores["attacks"].values())
    assert all(each["tpr_at_01pct_fpr"] is None for each in scores["attacks"].values())
    assert scores["worst"] in ATTACKS
    assert (scores["members"], scores["non_members"], scores["reference"]) == (600, 400, 200)
    assert set(scores["power"]) == {*CONTROLS, "holdout"}
    assert scores["power"]["holdout"] == scores["power"]["fresh"] | {"same_as": "fresh"}
    for name, control in scores["power"].items():
        assert set(control) - {"same_as"} == {*POWER_KEYS, "found"}
        assert control["attack"] in ATTACKS
        assert control["found"] == (name not in ("fresh", "shuffled", "holdout"))
    assert scores["power"]["copier"]["auc"] > 0.95
    assert scores["power"]["noisy_copier"]["auc"] > 0.8
    assert scores["power"]["leak"]["tpr_low"] > 0.02
    assert scores["power"]["recoded"]["attack"] == "recoding"
    assert set(found.curves) == {*ATTACKS, *CONTROLS, "holdout"}
    for fpr, tpr in found.curves.values():
        assert fpr[-1] == tpr[-1] == 1
        assert list(fpr) == sorted(fpr)
        assert list(tpr) == sorted(tpr)


def test_a_copy_is_found_by_its_nearness() -> None:
    found = membership(MEMBERS, OTHERS, MEMBERS, attacks=QUICK, controls=False)
    assert found.power == {}
    assert set(found.attacks) == set(QUICK)
    assert found.attacks[found.worst].auc.low > 0.95
    assert found.attacks[found.worst].epsilon_low > 1
    assert all(finding.found for finding in found.attacks.values())


def test_fewer_attacks_or_tables_need_less_correction() -> None:
    def width(**kwargs: object) -> float:
        area = membership(MEMBERS, OTHERS, FRESH, **kwargs).attacks["distance"].auc
        return area.high - area.low

    alone = width(attacks=["distance"], controls=False)
    assert alone < width(attacks=QUICK, controls=False) < width(attacks=QUICK)


def test_a_reference_leaves_more_to_attack() -> None:
    found = membership(MEMBERS, OTHERS, FRESH, reference=FRESH, attacks=QUICK, controls=False)
    assert (found.members, found.non_members, found.reference) == (600, 600, 400)


def test_scores_do_not_depend_on_order() -> None:
    tables = {
        "members": dirty_table(120, 0),
        "non_members": dirty_table(160, 1),
        "synthetic": dirty_table(120, 2),
    }

    def scores(turn: bool) -> dict:
        def turned(table: pd.DataFrame) -> pd.DataFrame:
            return table.sample(frac=1, random_state=0)[table.columns[::-1]] if turn else table

        rows = align({name: turned(table) for name, table in tables.items()}).rows
        found = membership(rows["members"], rows["non_members"], rows["synthetic"], controls=False)
        return found.to_dict()

    assert scores(True) == scores(False)


@pytest.mark.parametrize("columns", ["numbers", "categories", "nulls", "one value"])
@pytest.mark.parametrize("n", [1, 50])
def test_any_columns_and_any_number_of_rows(columns: str, n: int) -> None:
    tables = [MEMBERS.take(slice(0, 40)), OTHERS.take(slice(0, 60)), FRESH.take(slice(0, n))]
    if columns == "numbers":
        tables = [only(rows, discrete=slice(0, 0)) for rows in tables]
    elif columns == "categories":
        tables = [only(rows, numeric=slice(0, 0)) for rows in tables]
    else:
        value = np.nan if columns == "nulls" else 1.0
        tables = [
            replace(rows, numeric=rows.numeric * 0 + value, codes=rows.codes * 0) for rows in tables
        ]
    found = membership(*tables, attacks=QUICK).to_dict()
    json.dumps(found, allow_nan=False)
    assert found["attacks"]["distance"]["tpr_at_1pct_fpr"] is None  # 30 non-members


def test_too_few_rows_are_refused() -> None:
    few = MEMBERS.take(slice(0, FEWEST_MEMBERS - 1))
    with pytest.raises(DataError, match="few members for an interval; got 19; give at least 20"):
        membership(few, OTHERS, FRESH)
    few = OTHERS.take(slice(0, FEWEST_NON_MEMBERS - 1))
    with pytest.raises(DataError, match="few non-members for an interval; got 39; give at least"):
        membership(MEMBERS, few, FRESH)


def test_unknown_attacks_are_refused() -> None:
    with pytest.raises(PlanError, match="unknown attack 'domias'"):
        membership(MEMBERS, OTHERS, FRESH, attacks=["domias"])
    with pytest.raises(PlanError, match="there is no attack to make"):
        membership(MEMBERS, OTHERS, FRESH, attacks=[])


def test_an_overlap_is_refused_with_its_count() -> None:
    mixed = Rows.concat([OTHERS, MEMBERS.take(slice(0, 30))])
    with pytest.raises(DataError, match=r"the non-members overlap the members; got 30 of 830 that"):
        membership(MEMBERS, mixed, FRESH)
    with pytest.raises(DataError, match=r"the reference rows overlap the members; got 600 of 600"):
        membership(MEMBERS, OTHERS, FRESH, reference=MEMBERS)
    with pytest.raises(DataError, match=r"the reference rows overlap the non-members"):
        membership(MEMBERS, OTHERS, FRESH, reference=OTHERS)


@settings(max_examples=50)
@given(seed=seeds, share=st.floats(0.1, 0.9))
def test_twins_by_chance_are_no_overlap(seed: int, share: float) -> None:
    """Rows of two columns, divided at random: many groups are on both sides."""
    rows = only(population(2_000, 5), numeric=slice(2, 3), discrete=slice(0, 2))
    inside = np.random.default_rng(seed).random(len(rows)) < share
    check_disjoint(rows.take(inside), rows.take(~inside))


@settings(max_examples=20)
@given(seed=seeds)
def test_an_overlap_is_found_among_twins_by_chance(seed: int) -> None:
    rows = only(population(2_000, 5), discrete=slice(0, 2))
    rows = Rows.concat([rows, rows.take(slice(0, 500))])  # a quarter of them twice
    order = np.random.default_rng(seed).permutation(len(rows))
    members, others = rows.take(order[:1500]), rows.take(order[1500:])
    check_disjoint(members, others)
    with pytest.raises(DataError, match="overlap"):
        check_disjoint(members, Rows.concat([others, members.take(slice(0, 200))]))


@pytest.mark.parametrize(
    ("n", "m", "ties"), [(20, 20, False), (150, 100, False), (150, 100, True), (30, 400, False)]
)
def test_chance_is_found_in_one_table_of_twenty(n: int, m: int, ties: bool) -> None:
    rng, level, runs = np.random.default_rng(n), 0.95, 100
    found = 0
    for _ in range(runs):
        scores = rng.standard_t(3, n + m)
        scores = scores.round() if ties else scores
        found += judge(scores[:n], scores[n:], level=level).found
    # At most 5 % are expected; 10 % of 100 runs are more than two standard deviations above.
    assert found <= 0.1 * runs


def test_a_few_members_on_top_are_found_though_the_area_says_nothing() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(size=1000), rng.normal(size=1000)
    members[:50] += 10
    found = judge(members, others)
    assert found.found
    assert found.tpr_1 is not None
    assert found.tpr_1.low > 0.03
    assert judge(-members, others).auc.high < 0.55


def test_equal_scores_say_nothing() -> None:
    found = judge(np.zeros(30), np.zeros(120))
    assert (found.auc.value, found.found, found.epsilon_low) == (0.5, False, 0.0)
    assert found.tpr_1 is not None
    assert found.tpr_1.value == 0


def test_a_handful_of_copies_is_found_where_none_of_the_others_has_one() -> None:
    rng = np.random.default_rng(0)
    members, others = -rng.random(1000) - 1, -rng.random(500) - 1
    assert not judge(members, others, level=0.999).found
    members[:25] = 0
    assert judge(members, others, level=0.999).found


def test_members_of_another_population_are_told_apart() -> None:
    later = replace(OTHERS, numeric=OTHERS.numeric + np.array([10.0, 0.0, 0.0]))
    apart = [
        membership(MEMBERS, others, FRESH, attacks=["distance"], controls=False).apart
        for others in (OTHERS, later)
    ]
    assert apart[0] is not None
    assert apart[1] is not None
    assert apart[0].low < 0.5 < apart[1].low
