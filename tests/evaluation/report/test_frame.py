"""Scores with one number a row."""

import math
from typing import Any

import pandas as pd

from genesis.evaluation.report import Report
from tests.evaluation.report.samples import COLUMNS, ODD, SAMPLES


def frame(name: str) -> pd.DataFrame:
    return Report(*SAMPLES[name]()).to_frame()


def pick(table: pd.DataFrame, section: str, name: str, column: str | None = None) -> list[Any]:
    """Value, low and high of one number, None where there is no bound."""
    rows = table[(table.section == section) & (table.name == name)]
    rows = rows[rows.column.isna() if column is None else rows.column == column]
    assert len(rows) == 1
    bounds = rows[["value", "low", "high"]].iloc[0]
    return [None if math.isnan(bound) else bound for bound in bounds]


def test_numbers_carry_their_intervals() -> None:
    table = frame("evaluation")
    assert list(table) == ["section", "name", "column", "value", "low", "high"]
    assert pick(table, "detection", "c2st_auc") == [0.784, 0.777, 0.791]
    assert pick(table, "detection", "models.logistic_regression.auc") == [0.639, 0.63, 0.648]
    assert pick(table, "utility", "difference.value") == [-0.065, -0.071, -0.059]
    assert pick(table, "similarity", "closer_to_real.share") == [0.506, 0.498, 0.514]
    assert pick(table, "controls", "shuffled.c2st_auc") == [0.987, None, None]
    value, low, high = pick(table, "privacy", "attacks.distance.tpr_at_1pct_fpr")
    assert low < value < high
    assert (
        not table.name.str.contains("_low$|_high$", regex=True)
        .drop(table.index[table.name.str.endswith("epsilon_low")])
        .any()
    )


def test_columns_of_the_table_have_a_column_of_their_own() -> None:
    table = frame("evaluation")
    for name, (_, score) in COLUMNS.items():
        assert pick(table, "fidelity", "columns.score", name) == [score, None, None]
    assert pick(table, "fidelity", "jsd", "workclass") == [0.012, None, None]
    assert pick(table, "utility", "importances.real", "age") == [0.2, None, None]
    assert pick(table, "fidelity", "pairs.score", "age × workclass")[0] == 0.973
    assert pick(table, "detection", "columns.importance", "income")[0] == 0.14 / 4 - 0.02


def test_odd_columns_keep_their_names() -> None:
    table = frame("wide")
    assert set(ODD) <= set(table[table.name == "columns.score"].column)
    assert set(table[table.name == "copied_ids"].column) == set(ODD)


def test_an_audit_has_rates_and_bounds() -> None:
    table = frame("audit")
    assert pick(table, "attributes", "rate")[0] == 0.86
    assert pick(table, "attributes", "columns.nearest.rate", "income")[0] == 0.86
    assert pick(table, "singling_out", "univariate.risk")[2] is not None
    assert pick(table, "one_run", "epsilon") == [1.32, None, None]
    assert pick(table, "power", "copier.found") == [1.0, None, None]


def test_every_number_is_there_once() -> None:
    """But for bounds, which stand beside their number."""
    for name in SAMPLES:
        table = frame(name)
        assert not table.duplicated(["section", "name", "column"]).any(), name
        assert table.value.notna().all()
