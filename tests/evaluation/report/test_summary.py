"""The three answers: they follow from the numbers, and never promise anything."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.evaluation.report.sections import AUDIT, EVALUATION
from genesis.evaluation.report.summary import good, look, privacy
from tests.evaluation.report.samples import SAMPLES, attack, audit, evaluation, membership

TONES = ["plain", "caution", "alert"]


def scores(**parts: Any) -> dict[str, Any]:
    """Scores of an evaluation with parts in the place of others."""
    return evaluation()[0] | parts


@given(st.lists(st.floats(0.3, 1), min_size=2, max_size=2).map(sorted))
def test_rows_that_are_easier_to_tell_apart_sound_no_better(aucs: list[float]) -> None:
    tones = [TONES.index(good(scores(detection={"c2st_auc": auc})).tone) for auc in aucs]
    assert tones == sorted(tones)


@pytest.mark.parametrize(
    ("auc", "headline"),
    [(0.5, "Hard"), (0.62, "Close"), (0.8, "Visibly"), (0.99, "Easily"), (None, "Not judged")],
)
def test_the_headline_follows_detection(auc: float | None, headline: str) -> None:
    assert good(scores(detection={"c2st_auc": auc})).headline.startswith(headline)


def test_a_high_quality_score_does_not_make_the_headline() -> None:
    """Shuffled columns: quality 0.88, and every row is told apart."""
    answer = good(scores(detection={"c2st_auc": 0.987}, fidelity={"quality": 0.99}))
    assert answer.tone == "alert"


@pytest.mark.parametrize(
    ("metric", "tstr", "trtr", "kept"),
    [
        ("auroc", 0.861, 0.926, "85 %"),
        ("auroc", 0.4, 0.9, "0 %"),
        ("r2", 0.3, 0.6, "50 %"),
        ("auroc", 0.5, 0.51, None),  # nothing to learn from real rows either
        ("accuracy", 0.8, 0.9, None),  # chance is not known
    ],
)
def test_the_share_that_is_kept(metric: str, tstr: float, trtr: float, kept: str | None) -> None:
    answer = good(scores(utility={"metric": metric, "tstr": tstr, "trtr": trtr}))
    (beside,) = [fact.beside for fact in answer.facts if "trained on" in fact.says]
    assert (f"{kept} of what they teach" in beside) if kept else ("%" not in beside)


@pytest.mark.parametrize(
    ("finding", "headline", "tone"),
    [
        ("leak", "A leak was found", "alert"),
        ("nothing found", "Nothing was found", "plain"),
        ("inconclusive", "Inconclusive", "caution"),
    ],
)
def test_the_verdict_is_the_headline(finding: str, headline: str, tone: str) -> None:
    part = membership() | {"verdict": {"finding": finding, "text": "Said.", "reasons": []}}
    answer = privacy(scores(privacy=part))
    assert (answer.headline, answer.tone, answer.text) == (headline, tone, "Said.")
    assert "no guarantee" in answer.note
    assert any("planted leaks" in fact.says for fact in answer.facts)


def test_the_sentence_does_not_repeat_the_headline() -> None:
    verdict = {"finding": "leak", "text": "A leak was found. Density found it.", "reasons": []}
    assert privacy(scores(privacy=membership() | {"verdict": verdict})).text == "Density found it."


def test_rows_that_were_not_attacked_are_not_tested() -> None:
    for part in (None, {}, {"attacks": None, "why": "No holdout was given."}):
        answer = privacy(scores(privacy=part))
        assert answer.headline == "Not tested"
        assert answer.tone == "caution"
    assert answer.text == "No holdout was given."
    part = {"attacks": None, "why": "the holdout has 3 rows"}
    assert privacy(scores(privacy=part)).text == "The holdout has 3 rows."


def test_a_missed_control_and_a_false_alarm_are_pointed_out() -> None:
    part = membership()
    part["power"]["fresh"]["found"] = True
    texts = [pointer.text for pointer in look(scores(privacy=part))]
    assert any(text.startswith("A false alarm") for text in texts)
    assert any("5 % of the members” would go unseen" in text for text in texts)


def test_shuffled_columns_that_score_higher_are_pointed_out() -> None:
    assert any("Shuffled columns score a higher quality" in p.text for p in look(scores()))


def test_an_audit_points_at_each_leak() -> None:
    leaks = {pointer.section for pointer in look(audit()[0]) if pointer.tone == "alert"}
    assert leaks == {"attacks", "white_box", "shadow", "one_run", "attributes"}


def test_what_one_round_gives_away_is_no_leak_of_the_model_but_is_pointed_out() -> None:
    (found,) = [pointer for pointer in look(audit()[0]) if "One round" in pointer.text]
    assert (found.section, found.tone) == ("white_box", "caution")


def test_real_rows_are_no_holdout_where_there_was_none() -> None:
    sizes = {name: {"rows": 9, "columns": 2} for name in ("real", "synthetic", "holdout")}
    says = [fact.beside for fact in good(scores(tables=sizes)).facts]
    assert any("real holdout" in text for text in says)
    del sizes["holdout"]
    says = [fact.beside for fact in good(scores(tables=sizes)).facts]
    assert not any("holdout" in text for text in says)


def test_keys_of_real_rows_are_counted() -> None:
    part = {"copied_ids": {"id": 0.051, "other": 0.0}}
    (pointer,) = look({"similarity": part})
    assert (
        pointer.text.replace("\N{NO-BREAK SPACE}", " ")
        == "5.1 % of the keys in “id” are keys of real rows"
    )


def test_nothing_stands_out_in_good_rows() -> None:
    part = membership()
    part["power"]["leak"]["found"] = True
    clean = {"privacy": part, "detection": {"c2st_auc": 0.5}}
    assert look({"kind": "evaluation", **clean}) == ()


@given(st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1)))
def test_copies_beyond_the_holdouts_are_pointed_out(share: float, beside: float | None) -> None:
    part = {"exact_copies": {"share": share, "holdout_share": beside}}
    assert bool(look({"similarity": part})) == (share > 2 * (beside or 0))


@pytest.mark.parametrize("name", SAMPLES)
def test_pointers_are_few_sorted_and_lead_somewhere(name: str) -> None:
    pointers = look(SAMPLES[name]()[0])
    assert len(pointers) <= 6
    tones = [TONES.index(pointer.tone) for pointer in pointers]
    assert tones == sorted(tones, reverse=True)
    assert {pointer.section for pointer in pointers} <= {s.id for s in (*EVALUATION, *AUDIT)}


def test_one_attack_is_one_attack() -> None:
    part = {"attacks": {"distance": attack(0.5, 0.01)}, "worst": "distance", "power": {}}
    facts = [fact.says for fact in privacy(scores(privacy=part)).facts]
    assert facts == ["AUC of the strongest attack (0.5 is guessing)", "attack was tried"]
