"""A promise of differential privacy as options, for every command that trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

from . import options

__all__ = ["gather_privacy", "ledger_options", "ledgers_of", "privacy_options"]

Decorator = Callable[[Any], Any]

_promise = [
    options.number(
        "--epsilon", help="Promise (ε, δ)-differential privacy for all that the run releases."
    ),
    options.number("--delta", help="δ of that promise. [default: 1e-5]"),
    options.option(
        "--privacy",
        type=options.SETTING,
        multiple=True,
        metavar="KEY=VALUE",
        help="Another choice of the promise, such as max_grad_norm=0.5; repeatable.",
    ),
]

_unit = options.text("--privacy-unit", help="What is hidden: a record or a client.")

_ledger = [
    options.option(
        "--privacy-ledger",
        type=options.FILE,
        metavar="FILE",
        help="Where all that was ever released of this table is written down, with --epsilon. "
        "[default: the table's name and .ledger.json]",
    ),
    options.number("--privacy-budget", help="ε that all runs in the ledger together may cost."),
]


def privacy_options(*, unit: bool = False) -> Decorator:
    """What a promise says; with its unit, where whole clients can be hidden."""
    return _together([*_promise, *([_unit] if unit else [])])


def ledger_options() -> Decorator:
    """Where the owner of a table keeps what was released of it."""
    return _together(_ledger)


def gather_privacy(
    *,
    epsilon: float | None,
    delta: float | None,
    privacy: tuple[tuple[str, Any], ...],
    privacy_unit: str | None = None,
    privacy_ledger: Path | None = None,
    privacy_budget: float | None = None,
    table: Path | None = None,
    plan: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """The argument ``privacy`` of the options; None where none was given.

    Args:
        epsilon: As given.
        delta: As given.
        privacy: As given.
        privacy_unit: As given.
        privacy_ledger: As given.
        privacy_budget: As given.
        table: The table beside which the ledger lies, if it is the owner who promises.
        plan: What a plan file says, which options go before.
    """
    named = {
        "epsilon": epsilon,
        "delta": delta,
        "unit": privacy_unit,
        "ledger": None if privacy_ledger is None else str(privacy_ledger),
        "budget": privacy_budget,
    }
    given = dict(privacy) | {name: value for name, value in named.items() if value is not None}
    if plan:
        given = plan.get("differential_privacy", {}) | given
    if given and table is not None and given.get("unit", "record") == "record":
        given.setdefault("ledger", f"{table}.ledger.json")
    return {"differential_privacy": given} if given else None


def ledgers_of(promise: dict[str, Any] | None) -> list[Path]:
    """The files that a promise keeps its releases in, which nothing may write over."""
    named = {} if promise is None else promise["differential_privacy"]
    return [Path(named["ledger"])] if isinstance(named.get("ledger"), str) else []


def _together(decorators: list[Decorator]) -> Decorator:
    return lambda command: reduce(lambda made, add: add(made), reversed(decorators), command)
