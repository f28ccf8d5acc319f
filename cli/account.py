"""What happened in a run: for a program to read, and for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genesis.privacy.report import in_words
from genesis.progress import losses_as_text

if TYPE_CHECKING:
    from genesis import Report
    from genesis.federated.run import FederatedRun

__all__ = ["account_of", "summary_of"]


def account_of(
    run: FederatedRun,
    sizes: Mapping[str, int],
    seconds: Mapping[str, float],
    scores: Report | None = None,
) -> dict[str, Any]:
    """What happened, for a program to read. Rounds count from 1."""
    plan = run.plan
    return {
        "method": plan.method,
        "aggregation": plan.aggregation,
        "seed": plan.seed,
        "clients": {client: {"rows": size} for client, size in sizes.items()},
        "rounds": [report.to_dict() for report in run.history],
        "seconds": dict(seconds),
        "epsilon": run.epsilon,
        "secure_aggregation": plan.scheme,
        "privacy": run.privacy,
        "evaluation": None if scores is None else scores.to_dict(),
    }


def summary_of(run: FederatedRun, sizes: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    """What happened, for a person to read."""
    reports = run.history
    clients = sorted({*sizes, *(client for report in reports for client in report.clients)})
    width = max(map(len, [*clients, "client"]))
    lines = [f"{'client':{width}}  {'rows':>9}  rounds"]
    for client in clients:
        size = f"{sizes[client]:,}" if client in sizes else "hidden"
        took_part = sum(client in report.clients for report in reports)
        lines.append(f"{client:{width}}  {size:>9}  {took_part} of {len(reports)}")
    spent = ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items() if what != "total")
    lines.append(f"{len(reports)} rounds in {seconds['total']:.1f} s: {spent}")
    if run.privacy is not None:
        lines.append(in_words(run.privacy))
    elif reports:
        lines.append(f"last round: {losses_as_text(reports[-1].metrics)}")
    return "\n".join(lines)
