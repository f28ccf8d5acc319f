"""What is filled in follows the truth, and nothing else changes."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genesis import DataError, FederatedSynthesizer, PlanError, SchemaError, Synthesizer
from tests.dirty import QUICK, QUICK_TVAE, dirty_table

SMALL = {"components": 6, "epochs": 4, "restarts": 1}
WARDS = {"a": [0.9, 0.08, 0.02], "b": [0.1, 0.7, 0.2], "c": [0.05, 0.05, 0.9]}
LABELS = ["low", "middle", "high"]
CHANCE = 1e-4  # below it a p-value counts as a difference


def wards(n: int, seed: int) -> pd.DataFrame:
    """Rows in which "ward" decides how "risk" and "age" are distributed."""
    rng = np.random.default_rng(seed)
    ward = rng.choice(list(WARDS), n, p=[0.5, 0.3, 0.2])
    risk = np.array([rng.choice(LABELS, p=WARDS[w]) for w in ward], dtype=object)
    mean = pd.Series(ward).map({"a": 20.0, "b": 45.0, "c": 70.0}).to_numpy()
    return pd.DataFrame({"ward": ward, "risk": risk, "age": np.round(rng.normal(mean, 4.0, n), 1)})


@pytest.fixture(scope="module")
def knows_wards() -> Synthesizer:
    return Synthesizer("mixture", {"components": 8}, seed=0).fit(wards(6000, 1))


@pytest.fixture(scope="module")
def dirty() -> Synthesizer:
    return Synthesizer("mixture", SMALL, seed=0).fit(dirty_table(300))


# --- against the truth ---


def test_labels_follow_the_true_conditional(knows_wards: Synthesizer) -> None:
    truth = wards(3000, 2)
    filled = knows_wards.impute(truth.assign(risk=None, age=np.nan), seed=3)
    for ward, chances in WARDS.items():
        found = filled["risk"][filled["ward"] == ward].value_counts().reindex(LABELS).fillna(0)
        expected = np.array(chances) * found.sum()
        assert stats.chisquare(found, expected).pvalue > CHANCE, ward
        overall = truth["risk"].value_counts(normalize=True).reindex(LABELS) * found.sum()
        assert stats.chisquare(found, overall).pvalue < CHANCE, "the test sees no difference"


def test_labels_are_better_than_the_commonest_one(knows_wards: Synthesizer) -> None:
    truth = wards(3000, 4)
    filled = knows_wards.impute(truth.assign(risk=None), seed=5)
    mode = (truth["risk"] == truth["risk"].mode()[0]).mean()
    assert (filled["risk"] == truth["risk"]).mean() > mode + 0.15


def test_numbers_follow_the_true_conditional(knows_wards: Synthesizer) -> None:
    truth = wards(3000, 6)
    filled = knows_wards.impute(truth.assign(age=np.nan), seed=7)
    for ward, mean in (("a", 20.0), ("b", 45.0), ("c", 70.0)):
        ages = filled["age"][filled["ward"] == ward]
        assert stats.kstest(ages[:400], "norm", args=(mean, 4.0)).pvalue > CHANCE
    error = np.sqrt(((filled["age"] - truth["age"]) ** 2).mean())
    assert error < 0.5 * truth["age"].std()  # a draw is off by √2 · 4, the mean by 19


@pytest.mark.parametrize("known", [["ward"], ["age"], ["ward", "age"], []])
def test_labels_follow_the_models_own_conditional(
    knows_wards: Synthesizer, known: list[str]
) -> None:
    """P(risk | what is known), from the chances that the model gives to whole rows."""
    row = pd.DataFrame({"ward": ["b"], "age": [30.5], "risk": [None]})
    row[[name for name in ("ward", "age") if name not in known]] = None
    filled = knows_wards.impute(row.loc[[0] * 4000], seed=8)
    encoder = knows_wards.encoder
    each = row.loc[[0] * 3].assign(risk=LABELS)
    each["age"] = each["age"].astype(float)
    rows = encoder.encode(each, None)
    for name in ("ward", "age"):
        if name not in known:
            rows.codes[:, encoder.block_of[name]] = -1
    logs = knows_wards.model.row_scores(rows, np.random.default_rng(0))["log_likelihood"]
    chances = np.exp(logs - logs.max())
    found = filled["risk"].value_counts().reindex(LABELS).fillna(0)
    assert stats.chisquare(found, 4000 * chances / chances.sum()).pvalue > CHANCE


def test_the_columns_of_a_row_are_filled_together(knows_wards: Synthesizer) -> None:
    """Drawn one by one they would not go together."""
    filled = knows_wards.impute(wards(2000, 9).assign(ward=None, age=np.nan, risk=None), seed=1)
    assert filled.groupby("ward")["age"].mean().reindex(["a", "b", "c"]).to_list() == (
        pytest.approx([20, 45, 70], abs=2)
    )


# --- what does not change ---


def holed(seed: int, n: int, share: float) -> pd.DataFrame:
    """n rows of the dirty table with nulls in any column, in any order of them."""
    rng = np.random.default_rng(seed)
    table = dirty_table(60, seed)[:n]
    table = table.mask(rng.random(table.shape) < share)
    table = table[rng.permutation(table.columns)[: rng.integers(1, table.shape[1] + 1)]]
    table.index = rng.integers(0, 5, n)  # one of the user's own, with repetitions
    return table


def same_where_known(table: pd.DataFrame, filled: pd.DataFrame) -> bool:
    """Whether all cells that are not null are the same in both."""
    known = table.notna().to_numpy()
    pairs = zip(table.items(), filled.items(), strict=True)
    return all(
        name == other and (cells[known[:, j]] == those[known[:, j]]).all()
        for j, ((name, cells), (other, those)) in enumerate(pairs)
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), n=st.integers(0, 12), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_known_cells_never_change(dirty: Synthesizer, seed: int, n: int, share: float) -> None:
    table = holed(seed, n, share)
    before = table.copy()
    filled = dirty.impute(table, seed=seed)
    assert table.equals(before)
    assert table.index.equals(before.index)
    assert filled.index.equals(table.index)
    assert same_where_known(table, filled)
    left = filled.columns[filled.isna().any()]
    assert set(left) <= {"patient_id"}
    again = dirty.impute(filled, seed=seed + 1)
    assert again.equals(filled)
    assert dirty.impute(table, seed=seed).equals(filled)
    for name in filled:
        if not table[name].isna().any():
            assert filled[name].dtype == table[name].dtype


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 12))
def test_what_is_filled_in_is_of_the_column(dirty: Synthesizer, seed: int, n: int) -> None:
    filled = dirty.impute(dirty_table(n, seed).map(lambda _: None), seed=seed)
    assert filled["sex"].isin(["Female", "Male"]).all()
    assert (filled["hospital"] == "north").all()
    heights = filled["größe, cm"]
    assert (np.round(heights, 1) == heights).all()
    assert filled["visits"].dtype == np.int64
    assert pd.to_datetime(filled["admitted"], format="%Y-%m-%d").between("2019", "2022").all()


def test_a_full_table_is_only_copied(dirty: Synthesizer) -> None:
    table = dirty_table(40).dropna()
    filled = dirty.impute(table)
    assert filled.equals(table)
    filled.iloc[0, 1] = "nobody"
    assert "nobody" not in set(table["sex"])


def test_tables_without_rows_or_columns(dirty: Synthesizer) -> None:
    for table in (dirty_table(5)[:0], pd.DataFrame(index=range(3)), pd.DataFrame()):
        assert dirty.impute(table).equals(table)


def test_seeds(dirty: Synthesizer) -> None:
    table = holed(1, 60, 0.5)
    assert dirty.impute(table, seed=1).equals(dirty.impute(table, seed=1))
    assert not dirty.impute(table, seed=1).equals(dirty.impute(table, seed=2))
    assert not dirty.impute(table).equals(dirty.impute(table))
    with pytest.raises(PlanError, match="seed"):
        dirty.impute(table, seed=-1)


def test_chunks_do_not_show(dirty: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genesis.imputation.CHUNK_ROWS", 7)
    table = dirty_table(60).drop(columns="patient_id")
    filled = dirty.impute(table, seed=1)
    assert not filled.isna().any(axis=None)
    assert same_where_known(table, filled)


# --- columns of every kind ---


def kinds(n: int = 200) -> pd.DataFrame:
    """Columns as they were learned, all full."""
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, n), unit="D")
    return pd.DataFrame(
        {
            "whole": rng.integers(0, 50, n),
            "half": rng.integers(0, 50, n) / 2,
            "code": rng.choice([1, 2, 3], n),
            "text": rng.choice(["x", "y"], n),
            "flag": rng.random(n) < 0.5,
            "day": days,
            "written": days.strftime("%d/%m/%Y"),
            "local": days.tz_localize("Asia/Tokyo"),
            "one": 7,
        }
    )


@pytest.fixture(scope="module")
def of_kinds() -> Synthesizer:
    return Synthesizer("mixture", SMALL, seed=0).fit(kinds(), discrete_columns=["code"])


DAY = dt.date(2020, 3, 1)
HELD: list[tuple[str, pd.Series[Any], str]] = [
    ("whole", pd.Series([1, None, 3]), "int64"),
    ("whole", pd.Series([1, None, 3.5]), "float64"),
    ("whole", pd.Series([1, None, 3], dtype="Int64"), "Int64"),
    ("whole", pd.Series([1, None, 3], dtype="float32"), "float32"),
    ("whole", pd.Series([1, None, 3], dtype=object), "object"),
    ("whole", pd.Series([None, None], dtype="Int64"), "Int64"),
    ("whole", pd.Series([None, None], dtype=object), "int64"),
    ("half", pd.Series([1.0, None, 3.0]), "float64"),
    ("half", pd.Series([Decimal("1.5"), None], dtype=object), "object"),
    ("code", pd.Series([1, None, 3]), "int64"),
    ("code", pd.Series([1, None, 3], dtype="category"), "category"),
    ("text", pd.Series(["x", None]), "object"),
    ("text", pd.Series(["x", None], dtype="string"), "string"),
    ("text", pd.Series(["x", None], dtype="category"), "category"),
    ("text", pd.Series([np.nan, np.nan]), "object"),
    ("text", pd.Series([5.0, np.nan]), "object"),
    ("flag", pd.Series([True, None]), "bool"),
    ("flag", pd.Series([True, None], dtype="boolean"), "boolean"),
    ("flag", pd.Series([np.nan, np.nan]), "bool"),
    ("day", pd.Series([pd.Timestamp(DAY), None]), "datetime64[ns]"),
    ("day", pd.Series([DAY, None], dtype=object), "object"),
    ("day", pd.Series(["01.03.2020", "31.03.2020", None]), "object"),
    ("written", pd.Series(["01/03/2020", None]), "object"),
    ("written", pd.Series(["01/03/2020", None], dtype="string"), "string"),
    ("written", pd.Series([pd.Timestamp(DAY), None]), "datetime64[ns]"),
    ("local", pd.Series([pd.Timestamp(DAY, tz="UTC"), None]), "datetime64[ns, UTC]"),
    ("local", pd.Series(["2020-03-01 00:00:00+09:00", None]), "object"),
    ("one", pd.Series([7, None]), "int64"),
]


@pytest.mark.parametrize(
    ("name", "cells", "dtype"), HELD, ids=[f"{n}-{c.dtype}-{i}" for i, (n, c, _) in enumerate(HELD)]
)
def test_a_column_keeps_its_type(
    of_kinds: Synthesizer, name: str, cells: pd.Series[Any], dtype: str
) -> None:
    filled = of_kinds.impute(cells.repeat(30).to_frame(name), seed=0)[name]
    assert str(filled.dtype) == dtype
    assert filled.notna().all()
    known = cells.repeat(30).notna()
    assert filled[known].to_list() == cells.repeat(30)[known].to_list()
    types = {type(cell) for cell in filled.astype(object)}
    assert len(types) == 1 or (name, dtype) == ("text", "object")  # 5.0 beside labels stays 5.0


def test_dates_are_written_as_the_others_are(of_kinds: Synthesizer) -> None:
    for name, cell, format in (
        ("written", "31/03/2020", "%d/%m/%Y"),
        ("day", "31.03.2020", "%d.%m.%Y"),
        ("local", "2020-03-31 00:00:00+09:00", None),
    ):
        filled = of_kinds.impute(pd.DataFrame({name: [cell, *[None] * 50]}), seed=0)[name]
        times = pd.to_datetime(filled, format=format)
        ends = pd.to_datetime(["2019-12-31", "2020-11-01"]).tz_localize(times.dt.tz)
        assert times.between(*ends).all()
    assert filled.str.endswith("+09:00").all()


def test_keys_stay_and_constants_are_filled(dirty: Synthesizer) -> None:
    table = dirty_table(30).assign(patient_id=[None, "x"] * 15, hospital=[None, "south"] * 15)
    filled = dirty.impute(table)
    assert filled["patient_id"].equals(table["patient_id"])
    assert filled["hospital"].to_list() == ["north", "south"] * 15


@pytest.mark.parametrize(
    ("name", "strange", "null"), [("ward", "z", None), ("age", 1e6, np.nan), ("age", -1.0, np.nan)]
)
def test_what_was_never_seen_is_unknown_and_stays(
    knows_wards: Synthesizer, name: str, strange: object, null: object
) -> None:
    table = wards(50, 1).assign(risk=None)
    one = knows_wards.impute(table.assign(**{name: strange}), seed=1)
    other = knows_wards.impute(table.assign(**{name: null}), seed=1)
    assert (one[name] == strange).all()
    assert one["risk"].equals(other["risk"])
    assert not one["risk"].equals(knows_wards.impute(table, seed=1)["risk"])


def test_labels_never_seen_are_not_those_of_the_tail() -> None:
    table = pd.DataFrame({"c": list("aaaabbbcdefghijk") * 12, "x": np.arange(192) % 37})
    table["y"] = table["c"].isin(["a", "b"])
    synthesizer = Synthesizer("mixture", SMALL, max_categories=3, seed=0).fit(table)
    rows = table[["c"]].assign(y=None)
    strange = synthesizer.impute(rows.assign(c="never"), seed=0)
    assert (strange["c"] == "never").all()
    assert strange["y"].equals(synthesizer.impute(rows.assign(c=None), seed=0)["y"])
    assert set(synthesizer.impute(table.assign(c=None), seed=0)["c"]) > {"a", "b"}


def test_columns_that_the_table_lacks_are_not_added(knows_wards: Synthesizer) -> None:
    filled = knows_wards.impute(wards(20, 1)[["risk"]].assign(ward=None), seed=0)
    assert list(filled) == ["risk", "ward"]


def test_columns_called_by_numbers() -> None:
    table = pd.DataFrame({0: ["p", None, "q"] * 30, 1: np.arange(90) % 11})
    filled = Synthesizer("mixture", SMALL, seed=0).fit(table).impute(table)
    assert list(filled) == [0, 1]
    assert filled[0].isin(["p", "q"]).all()  # null was learned too, but fills nothing


# --- what cannot be done ---


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": 1}, SchemaError, "does not know column 'u'; fit with it, or drop it"),
        ({"u": 1, "v": 1}, SchemaError, "columns 'u', 'v'; fit with them, or drop them"),
        ({"age": "old"}, DataError, "column 'age' is not all numbers"),
        ({"age": np.inf}, DataError, "infinities"),
    ],
)
def test_tables_that_cannot_be_filled(
    knows_wards: Synthesizer, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        knows_wards.impute(wards(5, 0).assign(**change))


def test_two_columns_of_one_name(knows_wards: Synthesizer) -> None:
    with pytest.raises(SchemaError, match="'ward' 2 times"):
        knows_wards.impute(wards(5, 0)[["ward", "ward"]])


@pytest.mark.parametrize(("method", "config"), [("ctgan", QUICK), ("tvae", QUICK_TVAE)])
def test_methods_that_cannot(method: str, config: dict[str, Any]) -> None:
    table = wards(60, 0)
    with pytest.raises(PlanError, match="call fit first"):
        Synthesizer(method, config).impute(table)
    fitted = Synthesizer(method, {**config, "epochs": 1, "batch_size": 20}, seed=0).fit(table)
    with pytest.raises(PlanError, match=f"{method} cannot .* mixture or circuit"):
        fitted.impute(table)


def test_a_federation_fills_as_its_model_does() -> None:
    table = wards(200, 0)
    federation = FederatedSynthesizer("mixture", SMALL, seed=0)
    federation.fit([table[:120], table[120:]])
    rows = table.assign(risk=None)
    assert federation.impute(rows, seed=1).equals(federation.model.impute(rows, seed=1))
