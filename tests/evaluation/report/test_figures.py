"""What plots are given to draw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.evaluation.report import figures
from genesis.evaluation.report.values import digits, number, percent, place
from tests.evaluation.report.samples import EVIL, curves, discrete, evaluation, numeric

shares = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(shares)
def test_folding_keeps_the_sum_and_the_largest(real: list[float]) -> None:
    labels = [f"c{i}" for i in range(len(real))]
    figure = figures.distribution(0, "x", {"labels": labels, "real": real, "synthetic": real})
    drawn = figure.data["real"]
    assert len(drawn) == len(figure.data["labels"]) <= figures.BARS
    assert sum(drawn) == pytest.approx(sum(real))
    assert max(real) in drawn
    assert figure.data["holdout"] is None
    assert figure.says == "The same shares."


def test_bars_of_several_categories_become_one() -> None:
    labels = [*"abcdefghijk", "1,204 others", "null"]
    picture = {"labels": labels, "real": [0.05] * 11 + [0.3, 0.15], "synthetic": None}
    figure = figures.distribution(0, "x", picture)
    assert figure.data["labels"] == [*"abcdefg", "null", "all others"]
    assert figure.data["real"][-2:] == pytest.approx([0.15, 0.5])


def test_the_largest_gap_is_told_in_words() -> None:
    figure = figures.distribution(
        3, EVIL, discrete(["a", EVIL, "b"], [0.5, 0.3, 0.2], [0.6, 0.1, 0.3])
    )
    assert figure.says.replace("\N{NO-BREAK SPACE}", " ") == (
        f"Largest gap at {EVIL}: real 30.0 %, synthetic 10.0 %."
    )
    assert (figure.id, figure.draw) == ("distribution-3", "categories")


def test_bars_of_numbers_are_called_by_their_edges() -> None:
    figure = figures.distribution(0, "x", numeric(0, 4000, 0.1, bars=4))
    assert figure.data["labels"][0] == "0 to 1,000"
    assert "Nulls: real 2.1" in figure.says
    moments = numeric(0, 1, bars=2) | {
        "kind": "datetime",
        "edges": ["2020-01-01T00", "2021", "2022"],
    }
    assert figures.distribution(0, "x", moments).draw == "dates"


def test_a_bar_of_one_whole_number_is_called_by_it() -> None:
    assert figures.distribution(0, "x", numeric(-1.5, 2.5, bars=4)).data["labels"] == [
        "−1",
        "0",
        "1",
        "2",
    ]
    assert figures.distribution(0, "x", numeric(-2, 2, bars=4)).data["labels"][0] == "−2 to −1"


def test_heat_maps_begin_where_the_worst_pair_is() -> None:
    score, real, _ = figures.trends(evaluation()[1]["trends"])
    assert (score.data["scale"], score.data["low"]) == ("agreement", 0.5)
    assert (real.data["scale"], real.data["low"]) == ("signed", -1.0)
    names = {"columns": ["a", "b"], "real": [[1, 0.2], [0.2, None]], "synthetic": None}
    (plain,) = figures.trends(names | {"score": None})
    assert (plain.data["scale"], plain.data["low"]) == ("plain", 0.0)
    assert figures.trends({"columns": []}) == ()


def test_curves_have_roles_and_the_strongest_is_on_top() -> None:
    lines = figures.curves(curves(), "density").data["lines"]
    assert [line["role"] for line in lines] == (
        ["negative"] * 2 + ["positive"] * 4 + ["attack"] * 2 + ["worst"]
    )
    assert lines[-1]["name"] == "Density ratio (DOMIAS)"


def test_losses_may_come_late_and_may_be_missing() -> None:
    lines = figures.losses([{"a_b": 1.0}, {"a_b": float("nan"), "c": 2}]).data["lines"]
    assert lines == [
        {"name": "A b", "values": [1.0, None]},
        {"name": "C", "values": [None, 2.0]},
    ]


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_place_on_a_ruler_is_on_the_ruler(value: float) -> None:
    where = place(value, 1, 0.5)
    assert where is None or 0 <= where <= 100


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(0.9741), "0.974"),
        (number(-0.5), "−0.500"),
        (number(1), "1.000"),
        (number(None), "–"),
        (number(float("nan")), "–"),
        (number(32561), "32,561"),
        (percent(0.5), "50.0\N{NO-BREAK SPACE}%"),
        (percent(1), "100\N{NO-BREAK SPACE}%"),
        (percent(0.00067), "0.07\N{NO-BREAK SPACE}%"),
        (digits(1e-9), "1e−09"),
        (digits(1000), "1,000"),
    ],
)
def test_numbers_are_written_for_people(shown: str, text: str) -> None:
    assert shown == text
