"""The three answers at the top of the page: how good, how private, what to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genesis.evaluation.report.names import (
    CONTROLS,
    MEASURES,
    NEGATIVE,
    ONE_ROUND,
    POSITIVE,
    SHORT,
    attack_label,
    column_label,
    control_label,
)
from genesis.evaluation.report.privacy import membership, risk_rows
from genesis.evaluation.report.quality import invalid_columns
from genesis.evaluation.report.section import Scores
from genesis.evaluation.report.values import at, count, finite, interval, number, percent, sentence

__all__ = ["Answer", "Fact", "Pointer", "good", "look", "privacy"]

CHANCE = {"auroc": 0.5, "r2": 0.0}
"""What a model reaches that has learned nothing."""

POINTERS = 6
"""A list longer than this is not read."""


@dataclass(frozen=True)
class Fact:
    """One number of an answer, and what it says.

    Args:
        value: The number as it is printed.
        says: What it is, in a few words.
        beside: What to compare it with.
    """

    value: str
    says: str
    beside: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer to one question.

    Args:
        question: The question.
        headline: The answer in a few words.
        tone: "alert", "caution" or "plain"; there is no tone for "safe".
        text: The answer in one or two sentences.
        facts: The numbers that it rests on.
        note: What it does not say.
    """

    question: str
    headline: str
    tone: str
    text: str
    facts: tuple[Fact, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Pointer:
    """Something that deserves a look.

    Args:
        text: What it is.
        section: The section of the page that shows it.
        tone: "alert", "caution" or "plain".
    """

    text: str
    section: str
    tone: str = "plain"


def good(scores: Scores) -> Answer:
    """How good the synthetic rows are: can they be told from real ones, and do they teach as well?

    The headline follows detection, because shuffled columns reach a high quality score and do not
    fool a classifier.
    """
    auc, quality = at(scores, "detection", "c2st_auc"), at(scores, "fidelity", "quality")
    headline, tone, text = _told_apart(auc)
    return Answer("How good?", headline, tone, text, tuple(_facts(scores, auc, quality)))


def _told_apart(auc: float | None) -> tuple[str, str, str]:
    """Headline, tone and sentence for an AUC of real against synthetic."""
    if auc is None:
        return "Not judged", "plain", "Whether they can be told from real rows was not measured."
    if auc <= 0.55:
        return "Hard to tell from real", "plain", "A classifier does little better than guessing."
    if auc <= 0.7:
        return "Close to real", "plain", "A classifier finds differences, but not in most rows."
    if auc <= 0.9:
        return "Visibly different", "caution", "A classifier tells many of the rows from real ones."
    return "Easily told from real", "alert", "A classifier tells nearly every row from real ones."


def _facts(scores: Scores, auc: Any, quality: Any) -> Iterator[Fact]:
    """The numbers behind "how good"."""
    if auc is not None:
        beside = _controls(scores, "c2st_auc")
        yield Fact(number(auc), "told from real rows (AUC; 0.5 cannot, 1 always)", beside)
    tstr, trtr = at(scores, "utility", "tstr"), at(scores, "utility", "trtr")
    if tstr is not None:
        metric = at(scores, "utility", "metric") or ""
        says = f"{MEASURES.get(metric, metric)} of a model trained on synthetic rows"
        yield Fact(number(tstr), says, _kept(metric, tstr, trtr))
    if quality is not None:
        yield Fact(number(quality), "SDMetrics quality (1 is best)", _controls(scores, "quality"))


def _controls(scores: Scores, key: str) -> str:
    """What both controls reach."""
    found = {name: at(scores, "controls", name, key) for name in ("shuffled", "holdout")}
    held = not scores.get("tables") or "holdout" in scores["tables"]
    names = {"shuffled": "shuffled columns", "holdout": "real holdout" if held else "real rows"}
    return ", ".join(f"{names[k]} {number(v)}" for k, v in found.items() if v is not None)


def _kept(metric: str, tstr: float, trtr: float | None) -> str:
    """What real rows teach, and the share of it that synthetic rows teach."""
    if trtr is None:
        return ""
    text, chance = f"real rows {number(trtr)}", CHANCE.get(metric)
    # A share of next to nothing would be noise.
    if chance is None or trtr - chance < 0.05:
        return text
    share = max(tstr - chance, 0) / (trtr - chance)
    return f"{text}: {100 * share:.0f} % of what they teach is kept"


def privacy(scores: Scores) -> Answer:
    """What the attacks found, and what they would have found. Never that rows are private."""
    question, part = "How private?", membership(scores)
    attacks, power = at(part, "attacks"), at(part, "power") or {}
    if not attacks:
        why = sentence(at(part, "why") or "no rows were given that were never trained on")
        note = "Without attacks nothing is known about leaks; similarity does not replace them."
        return Answer(question, "Not tested", "caution", why, note=note)
    finding = at(part, "verdict", "finding")
    headline, tone = {
        "leak": ("A leak was found", "alert"),
        "nothing found": ("Nothing was found", "plain"),
        "inconclusive": ("Inconclusive", "caution"),
    }.get(finding, ("See what was tried", "plain"))
    text = (at(part, "verdict", "text") or "").removeprefix(f"{headline}. ")
    facts = tuple(_tried(part, attacks, power))
    note = "This says what was tried. It is no guarantee."
    return Answer(question, headline, tone, text, facts, note)


def _tried(part: Scores, attacks: Scores, power: Any) -> Iterator[Fact]:
    """The strongest attack, how many there were, and the power that the controls showed."""
    worst = at(part, "worst")
    if worst in attacks:
        found = attacks[worst]
        bounds = interval(found.get("auc_low"), found.get("auc_high"))
        says = "AUC of the strongest attack (0.5 is guessing)"
        beside = ", ".join(filter(None, [attack_label(worst), bounds]))
        yield Fact(number(found.get("auc")), says, beside)
    members, others = at(part, "members"), at(part, "non_members")
    people = f"{count(members)} members against {count(others)} others" if members else ""
    tried = "attack was tried" if len(attacks) == 1 else "attacks were tried"
    yield Fact(count(len(attacks)), tried, people)
    planted = [name for name in POSITIVE if name in power]
    if planted:
        seen = [name for name in planted if power[name].get("found")]
        reached = ", ".join(f"{SHORT[name]} {number(power[name].get('auc'))}" for name in planted)
        yield Fact(f"{len(seen)} of {len(planted)}", "planted leaks were found", f"AUC: {reached}")


def look(scores: Scores) -> tuple[Pointer, ...]:
    """What to look at first: privacy before validity before quality."""
    found = [
        *_privacy_pointers(scores),
        *_risk_pointers(scores),
        *_similarity_pointers(scores),
        *_quality_pointers(scores),
        *_utility_pointers(scores),
    ]
    order = {"alert": 0, "caution": 1, "plain": 2}
    return tuple(sorted(found, key=lambda pointer: order[pointer.tone])[:POINTERS])


def _privacy_pointers(scores: Scores) -> Iterator[Pointer]:
    """What the attacks and their controls say."""
    part = membership(scores)
    worst, power = at(part, "worst"), at(part, "power") or {}
    if worst and at(part, "attacks", worst, "found"):
        yield Pointer(f"{attack_label(worst)} tells members from others", "attacks", "alert")
    for name, entry in power.items():
        if name in NEGATIVE and entry.get("found"):
            text = f"A false alarm: “{control_label(name)}” was called a leak"
            yield Pointer(text, "attacks", "alert")
    missed = [name for name in POSITIVE if name in power and not power[name].get("found")]
    if missed:
        names = " and ".join(f"“{CONTROLS[name]}”" for name in missed)
        yield Pointer(f"A leak like {names} would go unseen", "attacks", "caution")
    for key, title in (("white_box", "With the model at hand"), ("shadow", "With shadow models")):
        worst = at(scores, key, "worst")
        if worst and at(scores, key, "attacks", worst, "found"):
            text = f"{title}, “{attack_label(worst)}” tells members from others"
            yield Pointer(text, key, "alert")
    update = [
        name
        for name, entry in (at(scores, "white_box", "attacks") or {}).items()
        if name.startswith(ONE_ROUND) and entry.get("found")
    ]
    if update:
        text = "One round of a federation would show its server whose rows a client has"
        yield Pointer(text, "white_box", "caution")
    epsilon = finite(at(scores, "one_run", "epsilon")) or 0.0
    if epsilon > 0:
        text = f"The training method shows which canaries it saw: its ε is at least {epsilon:.2f}"
        yield Pointer(text, "one_run", "alert")


def _risk_pointers(scores: Scores) -> Iterator[Pointer]:
    """What an attacker learns beyond the control."""
    for key, title in (
        ("attributes", "Secrets are guessed"),
        ("singling_out", "People are singled out"),
        ("linkability", "Records are linked"),
    ):
        worst = next(iter(risk_rows(scores.get(key))), None)
        if worst and (finite(worst.scores.get("risk_low")) or 0.0) > 0:
            text = f"{title} better about members than about others ({worst.label})"
            yield Pointer(text, key, "alert")


def _similarity_pointers(scores: Scores) -> Iterator[Pointer]:
    """Copies."""
    copies = at(scores, "similarity", "exact_copies") or {}
    share, beside = finite(copies.get("share")) or 0.0, finite(copies.get("holdout_share"))
    # Fresh rows repeat some real ones too, and their share is a chance finding.
    if share > 2 * (beside or 0.0):
        than = "" if beside is None else f"; of the holdout {percent(beside)}"
        tone = "caution" if beside is None else "alert"
        text = f"{percent(share)} of the synthetic rows are exact copies{than}"
        yield Pointer(text, "similarity", tone)
    # Keys that are numbers agree by chance, too: how many do is for the reader to judge.
    for name, part in (at(scores, "similarity", "copied_ids") or {}).items():
        if part:
            beside = finite(at(scores, "similarity", "copied_ids_holdout", name))
            than = "" if beside is None else f"; of the holdout's {percent(beside)}"
            text = f"{percent(part)} of the keys in {_some([name])} are keys of real rows{than}"
            yield Pointer(text, "similarity", "caution")


def _quality_pointers(scores: Scores) -> Iterator[Pointer]:
    """Where the synthetic rows differ most from real ones."""
    quality = finite(at(scores, "fidelity", "quality"))
    shuffled = finite(at(scores, "controls", "shuffled", "quality"))
    if quality is not None and shuffled is not None and shuffled >= quality:
        text = f"Shuffled columns score a higher quality ({number(shuffled)}): do not rely on it"
        yield Pointer(text, "controls", "caution")
    invalid = [str(entry["column"]) for entry in invalid_columns(scores)]
    if invalid:
        yield Pointer(
            f"Not all synthetic values are valid in {_some(invalid)}", "columns", "caution"
        )
    telling = at(scores, "detection", "columns") or ()
    if telling and (finite(at(scores, "detection", "c2st_auc")) or 0) > 0.55:
        text = f"{_some([telling[0]['column']])} gives the synthetic rows away most"
        yield Pointer(text, "detection")
    shapes = at(scores, "fidelity", "columns") or {}
    poor = sorted(
        (score, name)
        for name, entry in shapes.items()
        if (score := finite(at(entry, "score"))) is not None and score < 0.9
    )
    if poor:
        yield Pointer(f"Shapes that differ most: {_some([name for _, name in poor])}", "columns")
    pairs = [
        (score, list(pair["columns"]))
        for pair in at(scores, "fidelity", "pairs") or ()
        if (score := finite(pair.get("score"))) is not None and score < 0.9
    ]
    if pairs:
        yield Pointer(f"The pair that differs most: {_some(min(pairs)[1])}", "pairs")


def _utility_pointers(scores: Scores) -> Iterator[Pointer]:
    """What models lose, if it is beyond chance."""
    high = finite(at(scores, "utility", "difference", "high"))
    if high is not None and high < 0:
        value = number(abs(at(scores, "utility", "difference", "value") or 0.0))
        metric = at(scores, "utility", "metric") or ""
        lost = f"{value} of {MEASURES.get(metric, metric)}" if metric else value
        text = f"A model trained on synthetic rows loses {lost}, beyond chance"
        yield Pointer(text, "utility")


def _some(names: Sequence[str]) -> str:
    """The first three of many columns."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"“{column_label(name)}”" for name in names[:3]) + more
