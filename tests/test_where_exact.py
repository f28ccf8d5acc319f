"""Rows under a condition are those rows of the unconditioned model that satisfy it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from genesis import ConditionError, Synthesizer

CHANCE = 1e-5  # below it a p-value counts as a difference
N = 4000


def visits(n: int, seed: int) -> pd.DataFrame:
    """Rows whose columns depend on each other, with nulls, point masses and rare labels."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["day", "night", "home"], n, p=[0.6, 0.3, 0.1])
    mean = pd.Series(kind).map({"day": 30.0, "night": 60.0, "home": 80.0}).to_numpy()
    cost = np.where(rng.random(n) < mean / 100, 0.0, rng.gamma(2.0, mean, n))
    start = pd.Timestamp("2020-01-01") + pd.to_timedelta((mean + rng.normal(0, 9, n)) * 5, unit="D")
    table = pd.DataFrame(
        {
            "kind": kind,
            "age": np.clip(np.rint(rng.normal(mean, 12, n)), 0, 110).astype(np.int64),
            "cost": cost,
            "start": pd.Series(start).dt.floor("D"),
            "doctor": [f"d{i:02d}" for i in rng.geometric(0.15, n).clip(max=25)],
            "again": rng.random(n) < mean / 120,
        }
    )
    table.loc[rng.random(n) < mean / 200, "cost"] = np.nan
    table.loc[rng.random(n) < 0.2, "kind"] = None
    return table


@pytest.fixture(scope="module")
def fitted() -> Synthesizer:
    config = {"components": 8, "epochs": 6, "restarts": 1}
    return Synthesizer("mixture", config, max_categories=12, seed=0).fit(visits(4000, 0))


@pytest.fixture(scope="module")
def free(fitted: Synthesizer) -> pd.DataFrame:
    """Rows of the unconditioned model."""
    return fitted.generate(200_000, seed=1)


def classes(table: pd.DataFrame, wide: pd.DataFrame) -> pd.DataFrame:
    """Every column as a few classes: its labels, or tenths of the wide table; null is one."""
    found = {}
    for name, cells in table.items():
        if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
            known = wide[name].dropna().to_numpy(dtype=np.float64)
            edges = np.unique(np.quantile(known, np.linspace(0, 1, 11))) if len(known) else known
            place = np.searchsorted(edges, cells.to_numpy(dtype=np.float64), side="right")
            found[name] = pd.Series(np.where(cells.isna(), -1, place), cells.index)
        elif pd.api.types.is_datetime64_any_dtype(cells):
            found[name] = cells.dt.to_period("Q").astype(str)
        else:
            found[name] = cells.astype(str)
    return pd.DataFrame(found)


def difference(one: pd.Series[Any], other: pd.Series[Any]) -> float:
    """The p-value of a chi-square test of whether two samples have the same frequencies."""
    cells, distinct = pd.factorize(pd.concat([one, other]))
    parts = np.split(cells, [len(one)])
    table = np.stack([np.bincount(part, minlength=len(distinct)) for part in parts], 1)
    rare = table.sum(1) * min(table.sum(0)) / table.sum() < 5
    table = np.vstack([table[~rare], table[rare].sum(0, keepdims=True)])
    table = table[table.sum(1) > 0]
    return 1.0 if len(table) < 2 else float(stats.chi2_contingency(table).pvalue)


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "a label": ({"kind": "night"}, lambda t: t["kind"] == "night"),
    "several labels": ({"kind": ["night", "home"]}, lambda t: t["kind"].isin(["night", "home"])),
    "null": ({"cost": None}, lambda t: t["cost"].isna()),
    "null or a label": ({"kind": [None, "home"]}, lambda t: t["kind"].fillna("home") == "home"),
    "null or a number": ({"cost": [None, 0]}, lambda t: t["cost"].fillna(0) == 0),
    "a point mass": ({"cost": 0}, lambda t: t["cost"] == 0),
    "an interval": ({"cost": (50, 120)}, lambda t: t["cost"].between(50, 120)),
    "inside a bin": ({"cost": (60.2, 60.9)}, lambda t: t["cost"].between(60.2, 60.9)),
    "across two bins": ({"cost": (61.3, 64.9)}, lambda t: t["cost"].between(61.3, 64.9)),
    "open above": ({"cost": (230.5, None)}, lambda t: t["cost"] >= 230.5),
    "whole numbers": ({"age": (38, 41)}, lambda t: t["age"].between(38, 41)),
    "between whole numbers": ({"age": (37.5, 41.5)}, lambda t: t["age"].between(38, 41)),
    "a list of numbers": ({"age": [30, 60, 80]}, lambda t: t["age"].isin([30, 60, 80])),
    "dates": (
        {"start": ("2020-07-03", "2020-08-20")},
        lambda t: t["start"].between("2020-07-03", "2020-08-20"),
    ),
    "labels of the tail": ({"doctor": ["d13", "d17"]}, lambda t: t["doctor"].isin(["d13", "d17"])),
    "the tail and others": ({"doctor": ["d01", "d14"]}, lambda t: t["doctor"].isin(["d01", "d14"])),
    "several columns": (
        {"kind": "day", "age": (45, 70), "again": True},
        lambda t: (t["kind"] == "day") & t["age"].between(45, 70) & t["again"],
    ),
    "every column": (
        {
            "kind": ["day", "night"],
            "age": (20, 70),
            "cost": (10.5, None),
            "start": (None, "2020-12-01"),
            "doctor": ["d01", "d02", "d03", "d13"],
            "again": False,
        },
        lambda t: (
            t["kind"].isin(["day", "night"])
            & t["age"].between(20, 70)
            & (t["cost"] >= 10.5)
            & (t["start"] <= "2020-12-01")
            & t["doctor"].isin(["d01", "d02", "d03", "d13"])
            & ~t["again"]
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_frequencies_are_those_of_rejection(
    fitted: Synthesizer, free: pd.DataFrame, case: str
) -> None:
    where, holds = CASES[case]
    rows = fitted.generate(N, where=where, seed=2)
    assert holds(rows).all()
    kept = free[holds(free)]
    assert len(kept) > 400, "too few to compare"
    one, other, ignorant = (classes(table, kept) for table in (rows, kept, free[:N]))
    for name in rows:
        assert difference(one[name], other[name]) > CHANCE, name
    for name, partner in (("age", "again"), ("cost", "kind"), ("start", "age")):
        pairs = [t[name].astype(str) + "/" + t[partner].astype(str) for t in (one, other)]
        assert difference(*pairs) > CHANCE, (name, partner)
    # Rows that ignore the condition fail.
    assert min(difference(ignorant[name], other[name]) for name in rows) < CHANCE


def test_a_bin_that_is_cut_counts_by_its_share(fitted: Synthesizer, free: pd.DataFrame) -> None:
    """One half of the condition is part of a bin, the other whole bins: they come as often."""
    cut, whole = (60.0, 60.9), (100.0, 140.0)
    table = fitted.generate(20_000, where={"cost": (60.0, 140.0)}, seed=3)
    kept = free[free["cost"].between(60.0, 140.0)]
    for low, high in (cut, whole):
        share, expected = (t["cost"].between(low, high).mean() for t in (table, kept))
        spread = np.sqrt(expected * (1 - expected) * (1 / len(table) + 1 / len(kept)))
        assert abs(share - expected) < 4 * spread


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(fitted: Synthesizer, n: int) -> None:
    assert len(fitted.generate(n, where={"kind": None, "cost": (5, 100)}, seed=0)) == n


def test_what_never_goes_together_names_the_columns() -> None:
    table = pd.DataFrame({"a": ["x", "y"] * 200, "b": ["p", "q"] * 200, "c": np.arange(400) % 7})
    synthesizer = Synthesizer("mixture", {"components": 2, "epochs": 3}, seed=0).fit(table)
    model, encoder = synthesizer.model, synthesizer.encoder
    vector = model.get_vector()
    tables = model.parameters.views(vector)["generator.tables"]
    starts = encoder.layout.block_starts - encoder.layout.n_scalars
    for name in ("a", "b"):  # x and p in one component, y and q in the other
        start = starts[encoder.block_of[name]]
        tables[start : start + 2] = torch.eye(2)
    model.set_vector(vector)
    with pytest.raises(ConditionError) as caught:
        synthesizer.generate(5, where={"a": "x", "b": "q"})
    assert str(caught.value) == (
        "no row can have what is asked of a, b together; ask for less of one of them"
    )
    assert (synthesizer.generate(5, where={"a": "x", "b": "p"})["b"] == "p").all()
