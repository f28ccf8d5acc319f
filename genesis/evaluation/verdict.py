"""What an audit lets one say, in one sentence: a leak, nothing found, or nothing to be said.

That nothing was found is worth as much as the attacks would have found: so the sentence names what
they did find in tables that leak on purpose, and where they missed one it says that the audit is
inconclusive. No result makes rows "private".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["STRANGE", "Verdict", "verdict"]

STRANGE = 0.99
"""AUC of telling synthetic from real rows, from which on attacks that compare values are weak."""

LEAKS = ("copier", "noisy_copier", "leak", "recoded")
"""The controls that attacks must find."""

ONE_ROUND = "single_update"
"""How the names of attacks begin that tell of one round of training, and not of the model."""

HARMLESS = ("fresh", "shuffled", "holdout")
"""The controls in which there is nothing to find."""

CALLED = {
    "copier": "a table of copied members",
    "noisy_copier": "copied members with 5 % noise",
    "leak": "a table with 5 % of the members in it",
    "recoded": "copied members in another coding",
}


RISKS = {
    "attributes": "Secret columns are guessed",
    "singling_out": "People are singled out",
    "linkability": "Records are linked",
}


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

    Args:
        scores: What `Membership.to_dict` returns, with its controls; in an audit also what the
            other attacks found, under the names of its sections.
        c2st: AUC of telling the synthetic rows from real ones; None if unknown.
    """
    power = scores["power"]
    false_alarms = [
        f"The attacks also cry wolf at the control '{name}', which holds no member: members and "
        f"non-members may differ in something else, such as when or where they were collected."
        for name in HARMLESS
        if name in power and power[name]["found"]
    ]
    leaks = [
        *(_sentence(name, scores["attacks"][name]) for name in _found(scores)),
        *_elsewhere(scores),
    ]
    if leaks:
        reasons = (*leaks, *_one_round(scores), *false_alarms)
        return Verdict("leak", "A leak was found. " + leaks[0], reasons)
    doubts = [
        f"The attacks missed {CALLED[name]}: with {scores['members']:,} members and "
        f"{scores['non_members']:,} non-members a leak like that stays unseen."
        for name in LEAKS
        if name in power and not power[name]["found"]
    ]
    doubts += false_alarms
    if c2st is not None and c2st >= STRANGE:
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
    found = ", ".join(CALLED[name] for name in LEAKS if name in power)
    text = (
        f"No attack found a leak. The same attacks found {found}; what is smaller than that, or "
        f"needs a cleverer attack, stays unseen."
    )
    return Verdict("nothing found", text, (_worst(scores), *_one_round(scores)))


def _one_round(scores: Mapping[str, Any]) -> Iterator[str]:
    """What the server of a federation would learn in one round."""
    for name, found in (scores.get("white_box") or {}).get("attacks", {}).items():
        if found["found"] and name.startswith(ONE_ROUND):
            yield (
                "A server that sees what one client made of the model in one round could tell its "
                f"rows from others with an AUC of {found['auc']:.3f} [{found['auc_low']:.3f}, "
                f"{found['auc_high']:.3f}]; secure aggregation hides that."
            )


def _found(scores: Mapping[str, Any]) -> list[str]:
    """Attacks on the synthetic rows that found something, the best first."""
    found = [name for name, each in scores["attacks"].items() if each["found"]]
    return sorted(found, key=lambda name: name != scores["worst"])


def _elsewhere(scores: Mapping[str, Any]) -> Iterator[str]:
    """Leaks that attacks of an audit found beside membership inference from synthetic rows."""
    for key, by in (("white_box", "With the model, the"), ("shadow", "With shadow models, the")):
        for name, found in (scores.get(key) or {}).get("attacks", {}).items():
            # What one round of a federation gives away is no leak of this model.
            if found["found"] and not name.startswith(ONE_ROUND):
                sees = (scores[key].get("sees") or {}).get(name)
                who = f" It takes {sees}." if sees else ""
                yield by + _sentence(name, found).removeprefix("The") + who
    for key, what in RISKS.items():
        found = scores.get(key) or {}
        if (found.get("risk_low") or 0) > 0:
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
        f"1 % would be chance."
    )


def _worst(scores: Mapping[str, Any]) -> str:
    """What the best attack reached."""
    name = scores["worst"]
    found = scores["attacks"][name]
    return (
        f"The best attack, '{name}', has an AUC of {found['auc']:.3f} "
        f"[{found['auc_low']:.3f}, {found['auc_high']:.3f}]; 0.5 is guessing."
    )
