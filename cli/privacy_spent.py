"""`genesis privacy spent`."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from genesis.errors import GenesisError, ModelFileError, PrivacyError, printable

from . import options

__all__ = ["spent"]

INDENT = 14
"""Columns of what a line is about."""


@click.command(short_help="Show what was promised and what was released.")
@click.argument("files", metavar="MODEL_OR_LEDGER...", type=options.FILE, nargs=-1, required=True)
# Not from the environment, where GENESIS_JSON is the name of a file for other commands.
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
def spent(files: tuple[Path, ...], as_json: bool) -> None:
    """Show what was promised and what was released, of models and of ledgers.

    A model file has the ledger of its own run in it; the ledger of a table (TABLE.ledger.json) has
    all that was ever released of that table. ε is not read but computed again from what was
    released, and a file that claims less is an error. Nothing is written.

    \b
    Examples:
      genesis privacy spent ward.model
      genesis privacy spent patients.csv.ledger.json
      genesis privacy spent ward.model --json
    """
    found = [_account(path) for path in files]
    if as_json:
        click.echo(json.dumps({"files": found}, indent=2))
        return
    parts = [_in_words(each) for each in found]
    if len(found) > 1:
        parts.append("Each file speaks for itself: who is in several of them has spent all of it.")
    click.echo("\n\n".join(parts))


# --- what is in the files ---


def _account(path: Path) -> dict[str, Any]:
    """What a file tells, with all costs computed again; an error says of which file.

    Raises:
        GenesisError: There is no such file, or it is damaged, or claims too much.
    """
    try:
        told = _of_ledger(path) if _is_ledger(path) else _of_model(path)
        if told["epsilon"] == math.inf:
            raise PrivacyError("no ε bounds what was released", got="ε = infinity")
    except GenesisError as error:
        if str(path) in error.what:
            raise
        raise type(error)(f"{path}: {error.what}", got=error.got, do=error.do) from error
    return {"file": str(path), **told}


def _is_ledger(path: Path) -> bool:
    """Whether a file is a ledger, or would be one if it were not damaged; any name may be one."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:  # it is told of when it is read
        start = b""
    is_text = start.lstrip().startswith(b"{") and b"\0" not in start
    return is_text or path.suffix == ".json"


def _of_model(path: Path) -> dict[str, Any]:
    """What a model file tells of its run.

    Raises:
        ModelFileError: It is no model.
        PrivacyError: It claims more privacy than its ledger shows.
    """
    from genesis.model_file import read_file  # here, because it brings torch
    from genesis.privacy.report import recomputed

    report = read_file(path, "model").meta.get("privacy")
    if report is None:
        return {"kind": "model", "epsilon": None, "privacy": None}
    told = recomputed(report)
    return {"kind": "model", "epsilon": told["epsilon"], "privacy": told}


def _of_ledger(path: Path) -> dict[str, Any]:
    """What a ledger tells of a table.

    Raises:
        PrivacyError: It is damaged.
    """
    from genesis.privacy.ledger import Ledger, read_ledger
    from genesis.privacy.report import accountant

    try:
        known = read_ledger(path)
    except FileNotFoundError:
        raise ModelFileError(f"there is no ledger {path}", do="check the path") from None
    delta = known["delta"]
    events: dict[str, list[Mapping[str, Any]]] = {}
    for release in known["releases"]:
        events.setdefault(release["run"], []).append(release["event"])
    ledgers = {run: Ledger.from_list(of_run) for run, of_run in events.items()}
    everything = Ledger.from_list([release["event"] for release in known["releases"]])
    return {
        "kind": "ledger",
        "unit": "record",
        "epsilon": everything.epsilon(delta),
        "delta": delta,
        "budget": known["budget"],
        "accountant": accountant(),
        "mechanisms": everything.split(delta),
        "runs": {
            run: {"epsilon": ledger.epsilon(delta), "mechanisms": ledger.split(delta)}
            for run, ledger in ledgers.items()
        },
    }


# --- in words ---


def _in_words(told: Mapping[str, Any]) -> str:
    """What a file tells, for somebody who has to answer for it.

    Raises:
        ModelFileError: A part of it is missing, though all ledgers are there.
    """
    try:
        return _ledger_in_words(told) if told["kind"] == "ledger" else _model_in_words(told)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        path = told["file"]
        raise ModelFileError(f"{path} is damaged", do="write or fetch it again") from error


def _model_in_words(told: Mapping[str, Any]) -> str:
    """What a model file tells."""
    report = told["privacy"]
    lines = [printable(told["file"])]
    if report is None:
        return "\n".join(
            [
                *lines,
                _paragraph(
                    "promise",
                    "None. This model was trained without differential privacy: nothing limits by "
                    "proof what it, or rows generated from it, may tell of a single person.",
                ),
            ]
        )
    lines += _promised(report)
    lines += [
        _paragraph("protects", f"{_sentence(report['protects'])}."),
        _paragraph("trusted", _trusted(report["trust"])),
        _paragraph("public", f"Assumed to be known to all: {'; '.join(report['public'])}."),
    ]
    if report["unit"] == "record" and len(report["clients"]) > 1:
        lines.append(_paragraph("clients", _combined(report["overlap"])))
    lines += [
        _paragraph("gradients", f"{_sentence(report['gradients'])}."),
        _paragraph("accountant", f"{_sentence(report['accountant'])}."),
    ]
    parts = {"all clients": report} if report["unit"] == "client" else report["clients"]
    broken = [name for name, part in parts.items() if part["epsilon"] > part["promise"]["epsilon"]]
    if broken:
        lines.append(_paragraph("broken", f"More was spent than promised by {', '.join(broken)}."))
    return "\n".join([*lines, "", *_split(parts)])


def _promised(report: Mapping[str, Any]) -> list[str]:
    """What is promised, to whom, and what it means."""
    unit, epsilon, delta = report["unit"], report["epsilon"], report["delta"]
    whose = "record" if unit == "record" else "client with all of its records"
    if epsilon is None:
        without = ", ".join(report["unprotected"]) or "every client"
        return [
            _paragraph(
                "promise",
                f"None for all: {without} took part without a promise. What follows holds for the "
                "records of the other clients.",
            )
        ]
    return [
        _paragraph(
            "promise", f"({epsilon:.4g}, {delta:.3g})-differential privacy for each {whose}."
        ),
        _paragraph("to whom", _means(unit, report["neighbouring"], epsilon, delta)),
    ]


def _means(unit: str, neighbouring: str, epsilon: float, delta: float) -> str:
    """What (ε, δ) says of one unit (Dwork and Roth 2014, definition 2.4)."""
    factor = f"{math.exp(epsilon):,.3g}" if epsilon < 500 else "more than anybody can count"
    return (
        f"Everybody whose {'data are one record' if unit == 'record' else 'data are at one client'}"
        f". The same run with and without that {unit} (neighbouring: {neighbouring}): no outcome "
        f"of it is more than e^ε = {factor} times as likely with it as without, or the other way "
        f"round, but for a chance of at most δ = {delta:.3g}. For who has several {unit}s, ε "
        "counts once for each, and δ more."
    )


def _trusted(trust: str) -> str:
    """Who has to be honest for the promise to hold."""
    if trust == "server":
        return "The server: it sees the updates of all clients and adds the noise."
    if trust == "distributed":
        return (
            "Most of the clients, who add the noise together and tell nobody their part of it, and "
            "secure aggregation, which shows the server sums alone; not the server."
        )
    return "Whoever holds the records, with those alone; nobody else, and not the server."


def _combined(overlap: str) -> str:
    """How the clients' promises make one."""
    if overlap == "overlapping":
        return "A person may have a record at each of them: ε and δ are the sums over the clients."
    return (
        "A person is assumed to have a record at one of them only: ε and δ are those of the client "
        "that spent most."
    )


def _ledger_in_words(told: Mapping[str, Any]) -> str:
    """What the ledger of a table tells."""
    epsilon, delta, runs = told["epsilon"], told["delta"], told["runs"]
    lines = [printable(told["file"])]
    if not runs:
        lines.append(_paragraph("released", "Nothing so far."))
    else:
        what = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        lines += [
            _paragraph(
                "released",
                f"All that {what} released of this table, together, is ({epsilon:.4g}, {delta:.3g})"
                "-differentially private for each record.",
            ),
            _paragraph("to whom", _means("record", "add or remove one record", epsilon, delta)),
        ]
    lines.append(_paragraph("budget", _budget(epsilon, told["budget"])))
    lines.append(_paragraph("accountant", f"{_sentence(told['accountant'])}."))
    return "\n".join([*lines, *(["", *_split(runs, "run")] if runs else [])])


def _budget(epsilon: float, budget: float | None) -> str:
    """How much may still be spent."""
    if budget is None:
        return "None was set: every run may spend what it promises."
    if epsilon >= budget:
        return f"ε = {budget:.4g}, which is spent."
    return f"ε = {budget:.4g}; more may be spent as long as all together stays within it."


def _split(parts: Mapping[str, Mapping[str, Any]], name: str = "client") -> list[str]:
    """Who spent what on what: a table, one line for each part and each mechanism of it."""
    width = max(map(len, map(printable, [*parts, name])))
    lines = [f"{name:{width}}  {'promised ε':>10}  {'spent ε':>8}  {'at δ':>7}  what for"]
    for part, told in parts.items():
        said = f"{told['promise']['epsilon']:.4g}" if "promise" in told else ""
        delta = f"{told['delta']:.3g}" if "delta" in told else ""
        head = f"{printable(part):{width}}  {said:>10}  {told['epsilon']:8.4g}  {delta:>7}"
        lines.append(f"{head}  all together")
        blank = " " * (width + 12)
        for purpose, epsilon in told["mechanisms"].items():
            lines.append(f"{blank}  {epsilon:8.4g}  {'':7}  {printable(purpose)}, alone")
    return lines


def _paragraph(name: str, text: str) -> str:
    """A name, and beside it what is to be said of it."""
    return textwrap.fill(
        printable(text),
        100,
        initial_indent=f"  {name:{INDENT - 2}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sentence(text: str) -> str:
    """A text as it begins a sentence."""
    return text[:1].upper() + text[1:]
