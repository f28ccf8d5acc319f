"""Scores as text, for a person at a terminal. The whole of them is in the report and the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["attacks_as_text", "audit_as_text", "evaluation_as_text"]

SCORES = {
    "quality": ("fidelity", "quality", "quality"),
    "column shapes": ("fidelity", "column_shapes", "column_shapes"),
    "pair trends": ("fidelity", "column_pair_trends", "column_pair_trends"),
    "told apart by boosting (AUC)": ("detection", "c2st_auc", "c2st_auc"),
}
"""Line -> section and key of the score, and its key among the controls."""

RISKS = {
    "attributes": "attributes guessed",
    "singling_out": "people singled out",
    "linkability": "records linked",
}


def evaluation_as_text(scores: Mapping[str, Any]) -> str:
    """The scores beside those of the controls, and what the attacks found."""
    controls = scores["controls"]
    lines = [f"{'':30}{'synthetic':>11}{'shuffled':>11}{'real rows':>11}"]
    for name, (section, key, control) in SCORES.items():
        shuffled, real = (controls[each][control] for each in ("shuffled", "holdout"))
        lines.append(_line(name, scores[section][key], shuffled, real))
    utility = scores["utility"]
    if utility is not None:
        shuffled, real = (controls[each]["tstr"] for each in ("shuffled", "holdout"))
        name = f"predicts {utility['target']} ({utility['metric']})"
        lines.append(_line(name, utility["tstr"], shuffled, utility["trtr"]))
    copies = scores["similarity"]["exact_copies"]
    lines.append(f"{'exact copies of real rows':30}{copies['share']:>11.2%}")
    privacy = scores["privacy"]
    if privacy["attacks"] is None:
        lines += ["", f"not attacked: {privacy['why']}"]
    else:
        lines += ["", attacks_as_text(privacy), "", privacy["verdict"]["text"]]
    return "\n".join(lines)


def audit_as_text(scores: Mapping[str, Any]) -> str:
    """What the attacks found in the synthetic rows, in the model and in the controls."""
    lines = [attacks_as_text(scores)]
    for key, title in (("white_box", "with the model"), ("shadow", "with shadow models")):
        found = scores.get(key)
        if found and found.get("attacks"):
            lines += ["", _attack_table(title, found["attacks"])]
    lines += [f"{title:30}{_risk(scores[key])}" for key, title in RISKS.items() if scores.get(key)]
    run = scores.get("one_run")
    if run:
        lines.append(
            f"{'ε of the training, at least':30}{run['epsilon']:.2f} "
            f"(the most that could have been shown: {run['ceiling']:.2f})"
        )
    return "\n".join([*lines, "", scores["verdict"]["text"]])


def attacks_as_text(found: Mapping[str, Any]) -> str:
    """Attacks, and the best of them on every control."""
    parts = [_attack_table("attack", found["attacks"])]
    if found["power"]:
        parts.append(_attack_table("control, best attack", found["power"]))
    return "\n\n".join(parts)


def _attack_table(title: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for every attack: AUC and the share of members found at 1 % false positives."""
    lines = [f"{title:30}{'AUC':>7} {'interval':16}{'found at 1 % FPR':>16}"]
    for name, each in found.items():
        interval = f"[{each['auc_low']:.3f}, {each['auc_high']:.3f}]"
        rate = each["tpr_at_1pct_fpr"]
        share = "–" if rate is None else f"{rate:.1%}"
        lines.append(f"{name.replace('_', ' '):30}{each['auc']:7.3f} {interval:16}{share:>16}")
    return "\n".join(lines)


def _line(name: str, *values: float | None) -> str:
    """A line of numbers, a dash where there is none."""
    return f"{name:30}" + "".join(f"{'–' if v is None else format(v, '.3f'):>11}" for v in values)


def _risk(found: Mapping[str, Any]) -> str:
    """A risk with its interval."""
    if found["risk"] is None:
        return "–"
    interval = f"[{found['risk_low']:.1%}, {found['risk_high']:.1%}]"
    return f"{found['risk']:.1%} more than of others {interval}"
