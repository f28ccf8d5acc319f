"""What is told of a promise is all that it needs to mean something, and no more than was kept."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from genesis.errors import PrivacyError
from genesis.privacy.budget import Privacy
from genesis.privacy.events import Gaussian, SampledGaussian, Skellam
from genesis.privacy.ledger import Ledger
from genesis.privacy.report import (
    client_report,
    in_words,
    recomputed,
    record_report,
    spent_epsilon,
)

SMALL = Ledger((Skellam(60.0, 4, "counts"), SampledGaussian(2.0, 0.01, 100, "steps")))
LARGE = Ledger((Skellam(30.0, 4, "counts"), SampledGaussian(1.0, 0.01, 100, "steps")))


def spent(ledger: Ledger, **choices: Any) -> dict[str, Any]:
    return {**Privacy(3.0, **choices).to_dict(), "ledger": ledger.to_list()}


def report(overlap: str = "disjoint", clients: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    return record_report(
        {"a": spent(SMALL, delta=1e-6), "b": spent(LARGE, delta=1e-5)},
        clients,
        overlap=overlap,
        public_schema=True,
        gradients="in closed form",
    )


def whole_clients() -> dict[str, Any]:
    ledger = Ledger((Gaussian(5.0, 10, "rounds"),))
    return client_report(Privacy(8.0, unit="client"), ledger, clients=1000)


EPSILONS = SMALL.epsilon(1e-6), LARGE.epsilon(1e-5)


def test_a_person_at_one_client_has_the_worst_promise_and_at_several_their_sum() -> None:
    apart, together = report(), report("overlapping")
    assert (apart["epsilon"], apart["delta"]) == (max(EPSILONS), 1e-5)
    assert together["epsilon"] == pytest.approx(sum(EPSILONS))
    assert together["delta"] == pytest.approx(1.1e-5)
    assert (apart["combined"], together["combined"]) == ("maximum", "sum")


@pytest.mark.parametrize("told", [report(), report("overlapping"), whole_clients()])
def test_a_report_says_all_that_a_claim_needs(told: dict[str, Any]) -> None:
    for name in ("unit", "neighbouring", "trust", "protects", "public", "accountant", "combined"):
        assert told[name]
    assert told["neighbouring"] == f"add or remove one {told['unit']}"
    assert 0 < told["delta"] < 1
    again = json.loads(json.dumps(told))
    assert recomputed(again) == told
    assert spent_epsilon(again) == told["epsilon"]
    assert str(told["unit"]) in in_words(told)
    assert "add or remove one" in in_words(told)


def test_one_client_without_a_promise_leaves_none() -> None:
    told = report(clients=("a", "b", "c"))
    assert told["epsilon"] is told["delta"] is spent_epsilon(told) is None
    assert told["unprotected"] == ["c"]
    assert in_words(told) == "no promise of privacy for the records of c"
    assert in_words(None) == "no promise of privacy"


def lowered(told: dict[str, Any], *path: str, by: float = 0.9) -> dict[str, Any]:
    """A report with one number in it that is smaller than it should be."""
    told = copy.deepcopy(told)
    place = told
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] *= by
    return told


@pytest.mark.parametrize(
    "told",
    [
        lowered(report(), "epsilon"),
        lowered(report(), "delta"),
        lowered(report(), "epsilon", by=math.nan),
        lowered(report("overlapping"), "epsilon"),
        lowered(report("overlapping"), "delta"),
        lowered(report(), "clients", "a", "epsilon"),
        lowered(report(), "clients", "a", "delta"),
        lowered(whole_clients(), "epsilon"),
        lowered(whole_clients(), "delta", by=0.5),
        report() | {"unprotected": ["c"]},
        report("overlapping") | {"epsilon": max(EPSILONS)},
    ],
)
def test_a_claim_of_more_than_was_kept_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match="claims more privacy than its ledger"):
        spent_epsilon(told)


def test_a_claim_of_less_is_none_of_ours() -> None:
    assert spent_epsilon(report() | {"epsilon": 50.0}) == max(EPSILONS)


@pytest.mark.parametrize("name", ["unit", "epsilon", "delta", "overlap", "unprotected", "clients"])
@pytest.mark.parametrize("value", ["missing", None, 7, "x", ["x"], {"a": 1}])
def test_a_damaged_report_is_refused(name: str, value: Any) -> None:
    told = report()
    if value == "missing":
        del told[name]
    else:
        told[name] = value
    if (name, value) in (("epsilon", None), ("epsilon", 7), ("delta", None), ("delta", 7)):
        assert spent_epsilon(told) == max(EPSILONS)
        return
    with pytest.raises(PrivacyError) as error:
        spent_epsilon(told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "ledger", [[{"kind": "laplace"}], None, 5, [[]], [{"kind": "gaussian", "noise_multiplier": 0}]]
)
def test_a_ledger_that_cannot_be_accounted_for_is_refused(ledger: Any) -> None:
    told = report()
    told["clients"]["a"]["ledger"] = ledger
    with pytest.raises(PrivacyError):
        spent_epsilon(told)
    with pytest.raises(PrivacyError):
        spent_epsilon(whole_clients() | {"ledger": ledger})


def test_a_ledger_with_less_taken_out_of_it_costs_what_it_claims_at_most() -> None:
    told = report()
    told["clients"]["b"]["ledger"] += SMALL.to_list()
    with pytest.raises(PrivacyError, match="claims more privacy"):
        spent_epsilon(told)
