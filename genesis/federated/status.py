"""What a run says of itself while it goes on."""

from __future__ import annotations

import time
from typing import Any

from genesis import __version__
from genesis.federated.callbacks import RoundReport
from genesis.federated.rounds import Federation
from genesis.federated.transport.http.hub import Hub

__all__ = ["run_status"]

RECENT = 5  # rounds that the time left is guessed from


def run_status(
    federation: Federation, hub: Hub, started: float, ended: tuple[str, str | None] | None = None
) -> dict[str, Any]:
    """The state of a run as JSON values.

    Safe to call from another thread than the run's: it looks at each thing once, or at a copy.

    Args:
        federation: The run.
        hub: Its clients.
        started: `time.monotonic()` when the server began.
        ended: How the run ended and why, if it has.

    Returns:
        state ("waiting", "agreeing", "training", "finishing", "complete", "failed" or
        "interrupted"), reason, method, aggregation, version, round (rounds complete), n_rounds,
        min_clients, seconds, seconds_left, epsilon (what the plan promises, None without a
        promise), secure_aggregation (the scheme, None without one), rows_per_second (rows trained
        on in the last round, with the epochs of the plan; None where they are not known),
        bytes_received, bytes_sent; clients: client_id, state ("waiting", "working" or "absent"),
        last_seen (seconds ago), rows, task, rounds (in which it took part); and rounds: see
        `RoundReport.to_dict`.
    """
    plan, reports = federation.plan, list(federation.reports)
    state, reason = ended if ended is not None else (federation.phase, federation.stopped)
    rule = plan.aggregation
    return {
        "state": state,
        "reason": reason,
        "method": plan.method,
        "aggregation": rule if isinstance(rule, str) else type(rule).__name__,
        "version": __version__,
        "round": len(reports),
        "n_rounds": plan.n_rounds,
        "min_clients": plan.min_clients,
        "seconds": time.monotonic() - started,
        "seconds_left": _seconds_left(state, reports, plan.n_rounds),
        "epsilon": None if plan.promise is None else plan.promise.epsilon,
        "secure_aggregation": plan.scheme,
        "rows_per_second": _throughput(federation, reports),
        "bytes_received": hub.received,
        "bytes_sent": hub.sent,
        "clients": [_client(name, federation, hub, reports) for name in hub.names()],
        "rounds": [report.to_dict() for report in reports],
    }


def _client(
    name: str, federation: Federation, hub: Hub, reports: list[RoundReport]
) -> dict[str, Any]:
    task = hub.pending.get(name)
    present = hub.is_present(name)
    return {
        "client_id": name,
        "state": ("working" if task else "waiting") if present else "absent",
        "last_seen": hub.silence(name),
        "rows": federation.rows.get(name),
        "task": task.kind if task else None,
        "rounds": sum(name in report.clients for report in reports),
    }


def _seconds_left(state: str, reports: list[RoundReport], n_rounds: int) -> float | None:
    """As long as the last rounds took on average, for every round that is left."""
    recent = reports[-RECENT:]
    if state != "training" or not recent:
        return None
    mean = sum(report.seconds for report in recent) / len(recent)
    return mean * (n_rounds - len(reports))


def _throughput(federation: Federation, reports: list[RoundReport]) -> float | None:
    if not reports or reports[-1].seconds <= 0:
        return None
    last = reports[-1]
    if not federation.rows.keys() >= set(last.clients):  # which secure aggregation hides
        return None
    rows = sum(federation.rows[client] for client in last.clients)
    return rows * federation.plan.epochs_per_round / last.seconds
