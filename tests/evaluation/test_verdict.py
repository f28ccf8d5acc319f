"""What an audit lets one say."""

from typing import Any

import pytest

from genesis.evaluation.verdict import STRANGE, verdict


def finding(found: bool = False, auc: float = 0.5) -> dict[str, Any]:
    """What an attack found."""
    rates = {"tpr_at_1pct_fpr": 0.01, "tpr_low": 0.0, "tpr_high": 0.03}
    return {"auc": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.02, "found": found, **rates}


def finding_of(auc: float) -> dict[str, Any]:
    """What an attack found that succeeds."""
    return finding(True, auc)


RISK = {"risk": 0.2, "risk_low": 0.1, "risk_high": 0.3}


def scores(**power: bool) -> dict[str, Any]:
    """A membership inference that finds nothing where there is nothing to find."""
    known = {"copier": True, "noisy_copier": True, "leak": True, "recoded": True}
    known |= {"fresh": False, "shuffled": False, "holdout": False} | power
    return {
        "attacks": {"distance": finding(), "density": finding()},
        "worst": "density",
        "power": {name: finding(found) for name, found in known.items()},
        "members": 500,
        "non_members": 400,
    }


def test_nothing_found_names_what_would_have_been() -> None:
    found = verdict(scores(), 0.9)
    assert found.finding == "nothing found"
    assert "5 % of the members" in found.text
    assert "stays unseen" in found.text


def test_a_leak_is_told_by_its_best_attack() -> None:
    leaking = scores()
    leaking["attacks"] = {"distance": finding(True, 0.6), "density": finding(True, 0.8)}
    found = verdict(leaking, 0.9)
    assert found.finding == "leak"
    assert "'density'" in found.text
    assert len(found.reasons) == 2


@pytest.mark.parametrize("missed", ["copier", "noisy_copier", "leak", "recoded"])
def test_attacks_that_miss_a_planted_leak_say_nothing(missed: str) -> None:
    found = verdict(scores(**{missed: False}), 0.9)
    assert found.finding == "inconclusive"
    assert "missed" in found.text


@pytest.mark.parametrize("harmless", ["fresh", "shuffled", "holdout"])
def test_attacks_that_cry_wolf_say_nothing(harmless: str) -> None:
    found = verdict(scores(**{harmless: True}), 0.9)
    assert found.finding == "inconclusive"
    assert "cry wolf" in found.text


def test_rows_unlike_real_ones_may_be_members_in_disguise() -> None:
    assert verdict(scores(), STRANGE).finding == "inconclusive"


def test_too_few_rows_to_look_at_may_be_members_in_disguise() -> None:
    assert verdict(scores(), None).finding == "inconclusive"


def test_counts_of_the_members_may_be_members_in_disguise() -> None:
    found = verdict(scores() | {"same_counts": ["age"]}, 0.5)
    assert found.finding == "inconclusive"
    assert "age values occur exactly as often" in found.text


@pytest.mark.parametrize(("low", "finding"), [(0.52, "inconclusive"), (0.49, "leak")])
def test_members_of_another_population_need_no_leak(low: float, finding: str) -> None:
    differing = scores() | {"apart": {"value": 0.6, "low": low, "high": 0.65}}
    differing["attacks"] = {"distance": finding_of(0.6), "density": finding_of(0.65)}
    found = verdict(differing | {"linkability": RISK}, 0.5)
    assert found.finding == finding
    if finding == "inconclusive":
        assert "different populations" in found.text
        assert any("'distance'" in reason for reason in found.reasons)


def test_a_leak_tells_more_than_the_population() -> None:
    differing = scores() | {"apart": {"value": 0.6, "low": 0.55, "high": 0.65}}
    differing["attacks"] = {"distance": finding_of(0.8), "density": finding_of(0.6)}
    found = verdict(differing, 0.5)
    assert (found.finding, "'distance'" in found.text) == ("leak", True)
    assert not any("'density'" in reason for reason in found.reasons)
    assert verdict(scores() | {"apart": differing["apart"]}, 0.5).finding == "inconclusive"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"white_box": {"attacks": {"critic": finding(True)}}}, "With the model, the attack"),
        ({"shadow": {"attacks": {"lira": finding(True)}}}, "With shadow models, the attack"),
        ({"linkability": {"risk": 0.2, "risk_low": 0.1, "risk_high": 0.3}}, "linked better"),
        ({"singling_out": {"risk": 0.2, "risk_low": 0.1, "risk_high": 0.3}}, "singled out better"),
        ({"attributes": {"risk": 0.2, "risk_low": 0.1, "risk_high": 0.3}}, "guessed better"),
        ({"one_run": {"epsilon": 1.5}}, "at least 1.50"),
    ],
)
def test_leaks_elsewhere_count(part: dict[str, Any], said: str) -> None:
    found = verdict(scores() | part, 0.5)
    assert found.finding == "leak"
    assert said in found.text


def test_one_round_of_training_is_told_apart_from_the_model() -> None:
    part = {"white_box": {"attacks": {"single_update_critic": finding(True, 0.6)}}}
    found = verdict(scores() | part, 0.5)
    assert found.finding == "nothing found"
    assert "A server that sees" in " ".join(found.reasons)


def test_parts_that_found_nothing_do_not_count() -> None:
    parts = {
        "white_box": None,
        "shadow": {"attacks": {"lira": finding(False)}},
        "linkability": {"risk": 0.1, "risk_low": 0.0, "risk_high": 0.3},
        "attributes": {"risk": None, "risk_low": None, "risk_high": None},
        "one_run": {"epsilon": 0.0},
    }
    assert verdict(scores() | parts, 0.5).finding == "nothing found"


@pytest.mark.parametrize("auc", [0.5, 0.999])
def test_no_verdict_calls_anything_private(auc: float) -> None:
    for known in (scores(), scores(leak=False), scores(fresh=True)):
        found = verdict(known, auc)
        assert "private" not in " ".join([found.finding, found.text, *found.reasons]).lower()
