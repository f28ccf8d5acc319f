"""What an audit lets one say, in one sentence: a leak, nothing found, or nothing to be said.

That nothing was found is worth as much as the attacks would have found: so the sentence names what
they did find in tables that leak on purpose, and where they missed one it says that the audit is
inconclusive. No result makes rows "private".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genesis.evaluation.controls import HARMLESS, LEAKING

__all__ = ["STRANGE", "Verdict", "verdict"]

STRANGE = 0.99
"""AUC of telling synthetic from real rows, from which on attacks that compare values are weak."""

ONE_ROUND = "single_update"
"""How the names of attacks begin that tell of one round of training, and not of the model."""

CALLED = {
    "copier": "a table of copied members",
    "noisy_copier": "copied members with 5 % noise",
    "leak": "a table with 5 % of the members in it",
    "recoded": "copied members in another coding",
}
"""The controls that leak, as the sentence names them."""

RISKS = {
    "attributes": "Secret columns are guessed",
    "singling_out": "People are singled out",
    "linkability": "Records are linked",
}
"""Section of an audit -> what goes wrong there."""


@dataclass(frozen=True)
class Verdict:
    """What an audit lets one say.

    Args:
        finding: "leak", "nothing found" or "inconclusive".
        text: The same in one sentence.
        reasons: What it rests on, a sentence each.
    """

    finding: str
    text: str
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {"finding": self.finding, "text": self.text, "reasons": list(self.reasons)}


def verdict(scores: Mapping[str, Any], c2st: float | None) -> Verdict:
    """The verdict on synthetic rows.

    Where members can be told from non-members without the synthetic rows, attacks are expected to
    succeed on harmless rows too. A leak is then what tells them apart better than that.

    Args:
        scores: What `Membership.to_dict` returns, with its controls; in an audit also what the
            other attacks found, under the names of its sections.
        c2st: AUC of telling the synthetic rows from real ones; None if there are too few rows.
    """
    power = scores["power"]
    false_alarms = [
        f"The attacks also cry wolf at the control '{name}', which holds no member: members and "
        f"non-members may differ in something else, such as when or where they were collected."
        for name in (*HARMLESS, "holdout")
        if name in power and power[name]["found"] and not power[name].get("same_as")
    ]
    apart = scores.get("apart")
    beside = 0.0
    if apart and apart["low"] > 0.5:
        beside = apart["high"]
        false_alarms.insert(0, _told_apart(apart))
    leaks = [*_membership(scores, beside), *_copies(scores, beside), *_elsewhere(scores, beside)]
    if leaks:
        reasons = (*leaks, *_one_round(scores), *false_alarms)
        return Verdict("leak", "A leak was found. " + leaks[0], reasons)
    explained = [*_membership(scores), *_copies(scores), *_elsewhere(scores)]
    if explained:
        return Verdict(
            "inconclusive",
            "Attacks found something that need not be a leak. " + false_alarms[0],
            (*false_alarms, *explained, *_one_round(scores)),
        )
    doubts = [
        f"The attacks missed {CALLED[name]}: with {scores['members']:,} members and "
        f"{scores['non_members']:,} non-members a leak like that stays unseen."
        for name in LEAKING
        if name in power and not power[name]["found"]
    ]
    doubts += false_alarms
    if scores.get("same_counts"):
        doubts.append(
            f"In {', '.join(scores['same_counts'])} values occur exactly as often as among the "
            f"members: the rows may be theirs in another coding."
        )
    if c2st is None:
        doubts.append(
            "There are too few rows to tell whether the synthetic ones look like real ones: they "
            "may hold members in another form."
        )
    elif c2st >= STRANGE:
        doubts.append(
            f"The synthetic rows do not look like real ones (a classifier tells them apart with "
            f"an AUC of {c2st:.3f}), so attacks that compare values say little about them: they "
            f"may hold members in another form."
        )
    if doubts:
        return Verdict(
            "inconclusive",
            "No attack found a leak, but that means little. " + doubts[0],
            (*doubts, *_one_round(scores)),
        )
    found = ", ".join(CALLED[name] for name in LEAKING if name in power)
    text = (
        f"No attack found a leak. The same attacks found {found}; what is smaller than that, or "
        f"needs a cleverer attack, stays unseen."
    )
    return Verdict("nothing found", text, (_worst(scores), *_one_round(scores)))


def _one_round(scores: Mapping[str, Any]) -> Iterator[str]:
    """What the server of a federation would learn in one round, by the best attack."""
    attacks = (scores.get("white_box") or {}).get("attacks", {})
    found = [each for name, each in attacks.items() if name.startswith(ONE_ROUND) and each["found"]]
    if found:
        best = max(found, key=lambda each: float(each["auc_low"]))
        yield (
            "A server that sees what one client made of the model in one round could tell its "
            f"rows from others with an AUC of {best['auc']:.3f} [{best['auc_low']:.3f}, "
            f"{best['auc_high']:.3f}]; secure aggregation hides that."
        )


def _copies(scores: Mapping[str, Any], beside: float = 0.0) -> Iterator[str]:
    """Members that are published as they are, unless a difference of populations explains them."""
    found = scores.get("copies") or {}
    if found.get("found") and not beside:
        yield (
            f"{found['members']:,} members stand in the synthetic table as they are, and only "
            f"{found['non_members']:,} non-members, where chance would make {found['share']:.0%} "
            f"of such rows members."
        )


def _told_apart(apart: Mapping[str, float]) -> str:
    """That members differ from non-members in more than training."""
    return (
        f"A classifier tells members from non-members without any synthetic row, with an AUC of "
        f"{apart['value']:.3f} [{apart['low']:.3f}, {apart['high']:.3f}]: they seem to come from "
        f"different populations, and attacks find that, too. Divide rows at random before training."
    )


def _membership(scores: Mapping[str, Any], beside: float = 0.0) -> Iterator[str]:
    """What attacks found in the synthetic rows above an AUC that needs no leak, the best first."""
    attacks = scores["attacks"]
    for name in sorted(attacks, key=lambda name: name != scores["worst"]):
        if attacks[name]["found"] and attacks[name]["auc_low"] > beside:
            yield _sentence(name, attacks[name])


def _elsewhere(scores: Mapping[str, Any], beside: float = 0.0) -> Iterator[str]:
    """Leaks that attacks of an audit found beside membership inference from synthetic rows.

    Risks have no AUC to compare: where an AUC needs no leak, neither do they. The coins of canaries
    always are fair.
    """
    for key, by in (("white_box", "With the model, the"), ("shadow", "With shadow models, the")):
        for name, found in (scores.get(key) or {}).get("attacks", {}).items():
            # What one round of a federation gives away is no leak of this model.
            if found["found"] and found["auc_low"] > beside and not name.startswith(ONE_ROUND):
                sees = (scores[key].get("sees") or {}).get(name)
                who = f" It takes {sees}." if sees else ""
                yield by + _sentence(name, found).removeprefix("The") + who
    for key, what in RISKS.items():
        found = scores.get(key) or {}
        if not beside and (found.get("risk_low") or 0) > 0:
            yield (
                f"{what} better about members than about others: by {found['risk']:.1%} "
                f"[{found['risk_low']:.1%}, {found['risk_high']:.1%}]."
            )
    run = scores.get("one_run") or {}
    if run.get("epsilon", 0) > 0:
        yield f"The method shows which canaries it saw: its ε is at least {run['epsilon']:.2f}."


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    """What an attack has found."""
    text = (
        f"The attack '{name}' tells members from non-members with an AUC of {found['auc']:.3f} "
        f"[{found['auc_low']:.3f}, {found['auc_high']:.3f}]"
    )
    tpr = found["tpr_at_1pct_fpr"]
    if tpr is None:
        return text + "."
    return text + (
        f" and finds {tpr:.1%} [{found['tpr_low']:.1%}, {found['tpr_high']:.1%}] of them where "
        f"about 1 % would be chance."
    )


def _worst(scores: Mapping[str, Any]) -> str:
    """What the best attack reached."""
    name = scores["worst"]
    found = scores["attacks"][name]
    return (
        f"The best attack, '{name}', has an AUC of {found['auc']:.3f} "
        f"[{found['auc_low']:.3f}, {found['auc_high']:.3f}]; 0.5 is guessing."
    )
