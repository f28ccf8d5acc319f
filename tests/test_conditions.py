from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from genesis import ConditionError, Encoder, Schema, Synthesizer
from genesis.conditions import Where
from tests.dirty import QUICK, QUICK_TVAE, dirty_table
from tests.test_statistics import pool


@pytest.fixture(scope="module", params=["ctgan", "tvae"])
def fitted(request: pytest.FixtureRequest) -> Synthesizer:
    config = QUICK if request.param == "ctgan" else QUICK_TVAE
    return Synthesizer(request.param, config, seed=3).fit(dirty_table(400))


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ({"sex": "Female"}, lambda t: t["sex"] == "Female"),
        ({"sex": ["Male", "Female"]}, lambda t: t["sex"].notna()),
        ({"zeros": 0}, lambda t: t["zeros"] == 0),
        ({"zeros": (1, 50)}, lambda t: t["zeros"].between(1, 50)),
        ({"größe, cm": (188.0, None)}, lambda t: t["größe, cm"] >= 188),
        ({"größe, cm": None}, lambda t: t["größe, cm"].isna()),
        ({"smoker": True}, lambda t: t["smoker"]),
        ({"smoker": "true"}, lambda t: t["smoker"]),
        (
            {"région=?": [None, "Bretagne"]},
            lambda t: t["région=?"].fillna("Bretagne") == "Bretagne",
        ),
        ({"admitted": ("2020-01-01", "2020-01-31")}, lambda t: t["admitted"].str[:7] == "2020-01"),
        ({"visits": [2, 5]}, lambda t: t["visits"].isin([2, 5])),
        ({"hospital": "north"}, lambda t: t["hospital"] == "north"),
        (
            {"sex": "Male", "smoker": True, "visits": (7, 9), "zeros": 99.5, "région=?": None},
            lambda t: (
                (t["sex"] == "Male")
                & t["smoker"]
                & t["visits"].between(7, 9)
                & (t["zeros"] == 99.5)
                & t["région=?"].isna()
            ),
        ),
    ],
)
def test_every_row_satisfies_the_condition(
    fitted: Synthesizer, where: dict[str, Any], holds: Any
) -> None:
    rows = fitted.generate(173, where=where)
    assert len(rows) == 173
    assert holds(rows).all()
    assert rows.dtypes.equals(dirty_table(400).dtypes)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"sexe": "Male"}, "did you mean sex"),
        ({"sex": "male"}, "did you mean .*Male"),
        ({"sex": None}, "no row can have"),
        ({"zeros": (-5, -1)}, "zeros = -5..-1; .* is between"),
        ({"zeros": (10, 5)}, "swap its ends"),
        ({"visits": (2.2, 2.8)}, "is between"),
        ({"visits": None}, "no row can have"),
        ({"patient_id": "P-00001"}, "generated anew"),
        ({"hospital": "south"}, "always"),
        ({"admitted": "yesterday-ish"}, "needs a date"),
        ({"zeros": "many"}, "needs a number"),
        ({"zeros": (1, 2, 3)}, "a pair"),
    ],
)
def test_impossible_conditions_are_errors(
    fitted: Synthesizer, where: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConditionError, match=message):
        fitted.generate(5, where=where)


def test_the_other_columns_keep_their_company() -> None:
    """What goes with a rare label in the table goes with it when it is asked for."""
    table = pd.DataFrame({"a": ["x"] * 950 + ["y"] * 50, "b": ["p"] * 950 + ["q"] * 50})
    table["n"] = range(1000)
    table["n"] = table["n"] % 97
    synthesizer = Synthesizer("ctgan", {"epochs": 80, "batch_size": 100}, seed=1).fit(table)
    rows = synthesizer.generate(300, where={"a": "y"})
    assert (rows["b"] == "q").mean() > 0.5


@pytest.mark.parametrize(("method", "config"), [("ctgan", QUICK), ("tvae", QUICK_TVAE)])
def test_a_label_with_a_code_of_its_own_beside_a_tail(
    method: str, config: dict[str, object]
) -> None:
    """The model may miss what it is told and draw the tail, which holds nothing that is wanted."""
    table = pd.DataFrame({"c": list("aaaabbbcdefghijk") * 12, "x": np.arange(192) % 37})
    synthesizer = Synthesizer(method, config, max_categories=3, seed=0).fit(table)
    assert (synthesizer.generate(60, where={"c": "a"})["c"] == "a").all()
    assert set(synthesizer.generate(60, where={"c": ["e", "k"]})["c"]) == {"e", "k"}


@pytest.mark.parametrize(
    ("where", "possible"),
    [
        ({"year": [2013, 2014]}, True),
        ({"year": (2010, 2020)}, True),
        ({"year": "2013"}, True),
        ({"year": (2014, None)}, False),
        ({"year": None}, False),
        ({"day": "2013-01-05"}, True),
        ({"day": ("2013-01-01", "2013-02-01")}, True),
        ({"day": ["2013-01-04", "2013-01-06"]}, False),
        ({"time": pd.Timestamp("2013-01-05 10:00")}, True),
        ({"time": "2013-01-05 10:00"}, True),
        ({"site": ["north", "south"]}, True),
        ({"site": ["south"]}, False),
        ({"open": "True"}, True),
    ],
)
def test_constants_satisfy_what_their_value_does(where: dict[str, Any], possible: bool) -> None:
    table = pd.DataFrame(
        {
            "year": 2013,
            "day": "2013-01-05",
            "time": pd.Timestamp("2013-01-05 10:00"),
            "site": "north",
            "open": True,
            "x": np.arange(20) % 7,
        }
    )
    schema = Schema.infer(table)
    encoder = Encoder.fit(pool(schema, [table]))
    if possible:
        assert not Where.parse(where, encoder).condition.allowed
    else:
        with pytest.raises(ConditionError, match="always"):
            Where.parse(where, encoder)


def test_dates_are_read_as_the_column_writes_them() -> None:
    days = pd.date_range("2020-01-01", periods=366)
    table = pd.DataFrame(
        {"day": days.strftime("%d/%m/%Y"), "local": days.tz_localize("Asia/Tokyo")}
    )
    table = pd.concat([table, table], ignore_index=True)
    synthesizer = Synthesizer("ctgan", QUICK, seed=0).fit(table)
    rows = synthesizer.generate(40, where={"day": ("05/06/2020", "07/06/2020")})
    assert set(rows["day"]) <= {"05/06/2020", "06/06/2020", "07/06/2020"}
    rows = synthesizer.generate(40, where={"local": ("2020-06-05", "2020-06-07")})
    first, last = (pd.Timestamp(f"2020-06-0{day}", tz="Asia/Tokyo") for day in (5, 7))
    assert rows["local"].between(first, last).all()


def test_columns_that_are_called_by_numbers_and_the_null_of_pandas() -> None:
    table = pd.DataFrame({0: ["p", None, "q"] * 30, 1: np.arange(90) % 11})
    synthesizer = Synthesizer("ctgan", QUICK, seed=0).fit(table)
    assert (synthesizer.generate(9, where={0: "p"})["0"] == "p").all()
    assert synthesizer.generate(9, where={0: pd.NA})["0"].isna().all()
    with pytest.raises(ConditionError, match="no column '2'"):
        synthesizer.generate(9, where={2: "p"})
