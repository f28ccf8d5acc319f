"""`Privacy`: what is understood is kept, and everything else is refused in one line."""

from __future__ import annotations

import itertools
import math
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.errors import PlanError
from genesis.privacy.accounting import epsilon
from genesis.privacy.budget import OVERLAPS, TRUSTS, UNITS, Privacy, rho_of
from genesis.privacy.events import Gaussian


def parse(**given: Any) -> Privacy:
    promise = Privacy.parse({"differential_privacy": {"epsilon": 1.0, **given}})
    assert promise is not None
    return promise


def refused(privacy: Any) -> str:
    with pytest.raises(PlanError) as error:
        Privacy.parse(privacy)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


def test_nothing_is_promised_where_nothing_is_said() -> None:
    assert Privacy.parse(None) is None


@pytest.mark.parametrize(
    "privacy",
    [
        {},
        [],
        1.0,
        "dp",
        True,
        {"epsilon": 1.0},
        {"differential_privacy": None},
        {"differential_privacy": 1.0},
        {"differential_privacy": True},
        {"differential_privacy": [("epsilon", 1.0)]},
        {"differential_privacy": {}},
        {"differential_privacy": {"delta": 1e-5}},
        {"differential_privacy": {"epsilon": None}},
        {"differential_privacy": {"epsilon": 1.0}, "other": 1},
        {"differential_privacy": {"epsilon": 1.0, "sigma": 2.0}},
        {"differential_privacy": {"epsilon": 1.0, 5: 2.0}},
        {"differential_privacy": {"epsilon": 1.0, "a\nb": 2.0}},
        {"a\nb": {}},
    ],
)
def test_what_is_no_promise_is_refused(privacy: Any) -> None:
    refused(privacy)


def test_a_misspelt_choice_is_told_the_right_one() -> None:
    message = refused({"differential_privacy": {"epsilon": 1.0, "max_grad_nrom": 1.0}})
    assert "did you mean max_grad_norm?" in message


ODD: list[Any] = [
    True,
    "1.0",
    "a\nb",
    [1.0],
    {},
    1j,
    10**5000,
    -(10**5000),
    math.nan,
    math.inf,
    -math.inf,
    0,
    -1.0,
    np.zeros((20, 20)),
    pd.DataFrame({"a": range(50)}),
    b"x",
    object(),
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("name", ["epsilon", "delta", "max_grad_norm", "statistics", "budget"])
def test_numbers_are_numbers_in_their_ranges(name: str, value: Any) -> None:
    message = refused({"differential_privacy": {"epsilon": 1.0, "ledger": "x", name: value}})
    assert message.startswith(name)


@pytest.mark.parametrize("name", ["unit", "trust", "overlap", "bands", "insist", "adaptive_clip"])
@pytest.mark.parametrize("value", ODD[1:], ids=range(len(ODD) - 1))
def test_words_and_switches_are_such(name: str, value: Any) -> None:
    assert name in refused({"differential_privacy": {"epsilon": 1.0, name: value}})


@pytest.mark.parametrize("value", [*ODD, ""], ids=range(len(ODD) + 1))
def test_a_ledger_is_the_name_of_a_file(value: Any) -> None:
    if value in ("1.0", "a\nb") if isinstance(value, str) else False:
        return
    assert "ledger" in refused({"differential_privacy": {"epsilon": 1.0, "ledger": value}})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", 100.1), ("delta", 1.0), ("delta", 2), ("statistics", 0.91), ("bands", 0)],
)
def test_limits(name: str, value: float) -> None:
    assert name in refused({"differential_privacy": {"epsilon": 1.0, name: value}})


NAMES = [*Privacy.__dataclass_fields__, "sigma", "", "Epsilon"]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([*UNITS, *TRUSTS, *OVERLAPS, 1e-5, 0.5]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), ANYTHING, max_size=5))
def test_every_dictionary_is_a_promise_or_refused_in_one_line(given: dict[str, Any]) -> None:
    try:
        promise = Privacy.parse({"differential_privacy": given})
    except PlanError:
        refused({"differential_privacy": given})
        return
    assert promise is not None
    # All that was said is in it: nothing is accepted and left out.
    assert all(
        getattr(promise, name) == value for name, value in given.items() if value is not None
    )


@given(ANYTHING | st.dictionaries(ANYTHING.filter(lambda x: x.__hash__), ANYTHING, max_size=2))
def test_every_argument_is_none_a_promise_or_refused(privacy: Any) -> None:
    if privacy is not None:
        refused(privacy)


@pytest.mark.parametrize(
    ("unit", "trust", "overlap", "bands", "adaptive"),
    list(itertools.product(UNITS, (None, *TRUSTS), OVERLAPS, (1, 2), (False, True))),
)
def test_every_combination_is_kept_or_refused(
    unit: str, trust: str | None, overlap: str, bands: int, adaptive: bool
) -> None:
    plain = overlap == "disjoint" and bands == 1 and not adaptive
    if trust == "distributed":
        enforced = plain
    elif unit == "record":
        enforced = trust in (None, "local") and bands == 1 and not adaptive
    else:
        enforced = trust in (None, "server") and overlap == "disjoint"
        enforced &= not (adaptive and bands > 1)
    said = {"unit": unit, "overlap": overlap, "bands": bands, "adaptive_clip": adaptive}
    if trust is not None:
        said["trust"] = trust
    if not enforced:
        refused({"differential_privacy": {"epsilon": 1.0, **said}})
        return
    promise = parse(**said)
    assert {name: getattr(promise, name) for name in said} == said
    assert promise.trust == (trust or ("local" if unit == "record" else "server"))


def test_what_is_about_records_is_refused_for_clients() -> None:
    for said in ({"ledger": "x"}, {"ledger": "x", "budget": 2.0}):
        refused({"differential_privacy": {"epsilon": 1.0, "unit": "client", **said}})
    assert "needs a ledger" in refused({"differential_privacy": {"epsilon": 1.0, "budget": 2.0}})


def test_what_is_told_can_be_read_again_and_names_no_file_of_the_owner() -> None:
    promise = parse(delta=1e-6, overlap="overlapping", ledger="/secret/place", budget=5.0)
    told = promise.to_dict()
    assert "secret" not in str(told)
    assert "budget" not in told["differential_privacy"]
    again = Privacy.parse(told)
    assert again is not None
    assert again.to_dict() == told


def test_overlapping_clients_share_the_promise() -> None:
    assert parse(overlap="disjoint").among(5) == parse(overlap="disjoint")
    share = parse(delta=1e-5, overlap="overlapping").among(5)
    assert (share.epsilon, share.delta) == pytest.approx((0.2, 2e-6))


def test_the_stricter_of_two_promises_keeps_both() -> None:
    one = parse(epsilon=1.0, delta=1e-4, max_grad_norm=2.0, ledger="x", budget=3.0)
    other = parse(epsilon=2.0, delta=1e-6, max_grad_norm=0.5)
    for both in (one.stricter(other), other.stricter(one)):
        assert (both.epsilon, both.delta, both.max_grad_norm) == (1.0, 1e-6, 0.5)
        assert (both.ledger, both.budget) == ("x", 3.0)


@pytest.mark.parametrize("target", [1e-12, 1e-3, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("delta", [1e-320, 1e-9, 1e-5, 0.5])
def test_rho_solves_its_equation(target: float, delta: float) -> None:
    rho = rho_of(target, delta)
    assert rho > 0
    assert rho + 2 * math.sqrt(rho * -math.log(delta)) == pytest.approx(target, rel=1e-9)


@pytest.mark.parametrize("target", [0.1, 1.0, 10.0])
def test_rho_is_about_what_normal_noise_costs(target: float) -> None:
    noise = math.sqrt(1 / (2 * rho_of(target, 1e-5)))
    assert 0.6 * target < epsilon([Gaussian(noise)], 1e-5) < target


def test_a_path_is_no_surprise() -> None:
    assert parse(ledger=str(pathlib.Path("a") / "b")).ledger is not None
