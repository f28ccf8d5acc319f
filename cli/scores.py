"""Scores as text, for a person at a terminal. The whole of them is in the report and the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["attacks_as_text", "audit_as_text", "evaluation_as_text", "mechanism_as_text"]

SCORES = {
    "quality": ("fidelity", "quality", "quality"),
    "column shapes": ("fidelity", "column_shapes", "column_shapes"),
    "pair trends": ("fidelity", "column_pair_trends", "column_pair_trends"),
    "told apart by boosting (AUC)": ("detection", "c2st_auc", "c2st_auc"),
}
"""Line -> section and key of the score, and its key among the controls."""

METRICS = {"auroc": "AUROC", "f1_macro": "F1 macro", "accuracy": "accuracy", "r2": "R²"}

RISKS = {
    "attributes": "secrets guessed",
    "singling_out": "people singled out",
    "linkability": "records linked",
}

WIDTH = 30
"""Characters of what begins a line."""


def evaluation_as_text(scores: Mapping[str, Any]) -> str:
    """The scores beside those of the controls, and what the attacks found."""
    controls = scores["controls"]
    lines = [f"{'':{WIDTH}}{'synthetic':>11}{'shuffled':>11}{'real rows':>11}"]
    for name, (section, key, control) in SCORES.items():
        shuffled, real = (controls[each][control] for each in ("shuffled", "holdout"))
        lines.append(_line(name, scores[section][key], shuffled, real))
    utility = scores["utility"]
    if utility is not None:
        shuffled, real = (controls[each]["tstr"] for each in ("shuffled", "holdout"))
        metric = METRICS.get(utility["metric"], utility["metric"])
        lines.append(_line(f"model trained on it ({metric})", utility["tstr"], shuffled, real))
        lines.append(_line("model trained on real rows", None, None, utility["trtr"]))
    copies = scores["similarity"]["exact_copies"]
    shares = copies["share"], None, copies["holdout_share"]
    lines.append(_line("copies of real rows", *shares, form=".2%"))
    privacy = scores["privacy"]
    if privacy["attacks"] is None:
        lines += ["", f"not attacked: {privacy['why']}"]
    else:
        lines += ["", attacks_as_text(privacy), "", *_said(privacy["verdict"])]
    return "\n".join(lines)


def audit_as_text(scores: Mapping[str, Any]) -> str:
    """What the attacks found in the synthetic rows, in the model and in the controls."""
    parts = [attacks_as_text(scores)]
    for key, title in (("white_box", "with the model"), ("shadow", "with shadow models")):
        found = scores.get(key)
        if found and found.get("attacks"):
            parts.append(_attack_table(title, found["attacks"]))
    risks = [_risk(title, scores[key]) for key, title in RISKS.items() if scores.get(key)]
    if risks:
        head = (
            f"{'risk for members':{WIDTH}}{'risk':>7} {'interval':16}{'hits':>8}{'of others':>11}"
        )
        parts.append("\n".join([head, *risks]))
    run = scores.get("one_run")
    if run:
        parts.append(
            f"{'ε of the training, at least':{WIDTH}}{run['epsilon']:7.2f} "
            f"(the most that could have been shown: {run['ceiling']:.2f})"
        )
    return "\n\n".join([*parts, "\n".join(_said(scores["verdict"]))])


def mechanism_as_text(found: Mapping[str, Any]) -> str:
    """What the audit of a private step found, beside what is right."""
    title = f"private step of {found['method']}"
    lines = [f"{title:{WIDTH}}{'found':>9} {'interval':18}{'right':>9}"]
    for canary in found["canaries"]:
        name = f"{canary['kind']} {found['unit']}, distance"
        allowed = f"≤ {found['mu']:.2f}"
        lines.append(_beside(name, canary, "mu", allowed, ".2f"))
        moved = canary["sensitivity"]
        shown = "infinite" if moved is None else f"{moved:.4g}"
        lines.append(f"{'  moves the sum, over C':{WIDTH}}{shown:>9} {'':18}{'≤ 1':>9}")
    lines.append(_beside("noise over σC/B", found["noise"], "scale", "1", ".3f"))
    lines.append(_beside("  of empty batches", found["empty"], "scale", "1", ".3f"))
    if found["batches"] is not None:
        sampled = found["batches"]["poisson"] and found["batches"]["counted"]
        lines.append(f"{'batches by Poisson sampling':{WIDTH}}{'yes' if sampled else 'no':>9}")
    return "\n".join([*lines, "", *_said(found["verdict"])])


def attacks_as_text(found: Mapping[str, Any]) -> str:
    """Attacks, and the best of them on every control."""
    parts = [_attack_table("attack", found["attacks"])]
    if found["power"]:
        parts.append(_attack_table("control, best attack", found["power"]))
    return "\n\n".join(parts)


def _attack_table(title: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for every attack: AUC, the share of members named at 1 % false positives, result."""
    lines = [f"{title:{WIDTH}}{'AUC':>7} {'interval':16}{'TPR at 1 % FPR':>16}  result"]
    for name, each in found.items():
        interval = f"[{each['auc_low']:.3f}, {each['auc_high']:.3f}]"
        rate = each["tpr_at_1pct_fpr"]
        share = "–" if rate is None else f"{rate:.1%}"
        result = "found" if each["found"] else "–"
        start = f"{name.replace('_', ' '):{WIDTH}}{each['auc']:7.3f}"
        lines.append(f"{start} {interval:16}{share:>16}  {result}")
    return "\n".join(lines)


def _line(name: str, *values: float | None, form: str = ".3f") -> str:
    """A line of numbers, a dash where there is none."""
    shown = ("–" if value is None else format(value, form) for value in values)
    return f"{name:{WIDTH}}" + "".join(f"{text:>11}" for text in shown)


def _beside(name: str, found: Mapping[str, Any], key: str, right: str, form: str) -> str:
    """A line with an estimate, its interval, and what it ought to be."""
    value, low, high = (found[each] for each in (key, "low", "high"))
    if value is None:
        return f"{name:{WIDTH}}{'infinite':>9} {'':18}{right:>9}"
    form = form if abs(value) < 1000 else ".3g"
    interval = f"[{low:{form}}, {high:{form}}]"
    return f"{name:{WIDTH}}{value:>9{form}} {interval:18}{right:>9}"


def _risk(title: str, found: Mapping[str, Any]) -> str:
    """A risk with its interval, and the rates that it comes from."""
    if "secret" in found:
        title = _short(f"{title}, {found['secret']}")
    if found["risk"] is None:
        return f"{title:{WIDTH}}{'–':>7} {found.get('reason') or ''}".rstrip()
    interval = f"[{found['risk_low']:.3f}, {found['risk_high']:.3f}]"
    rates = f"{found['rate']:>8.1%}{found['control']:>11.1%}"
    return f"{title:{WIDTH}}{found['risk']:7.3f} {interval:16}{rates}"


def _short(text: str) -> str:
    """A text on one line that leaves room for numbers."""
    line = " ".join(text.split())
    return line if len(line) < WIDTH else f"{line[: WIDTH - 2]}…"


def _said(verdict: Mapping[str, Any]) -> list[str]:
    """The verdict, and what it rests on as far as that is not in it."""
    others = (reason for reason in verdict["reasons"] if reason not in verdict["text"])
    return [verdict["text"], *(f"- {reason}" for reason in others)]
