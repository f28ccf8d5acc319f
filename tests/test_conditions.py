from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from genesis import ConditionError, Synthesizer
from tests.dirty import QUICK, QUICK_TVAE, dirty_table


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
        ({"smoker": "True"}, lambda t: t["smoker"]),
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
        ({"zeros": (-5, -1)}, "is between"),
        ({"zeros": (10, 5)}, "is between"),
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
