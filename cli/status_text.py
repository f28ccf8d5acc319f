"""The status of a run for a person at a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genesis.progress import losses_as_text

__all__ = ["ENDED", "status_as_text"]

ENDED = ("complete", "failed", "interrupted")  # states that stay as they are


def status_as_text(found: Mapping[str, Any]) -> str:
    """A status for a person at a terminal. Values of other kinds than expected are dashes."""
    rounds, clients = found["rounds"], found["clients"]
    last = rounds[-1] if rounds else {}
    state = _plain(found["state"])
    if found.get("reason"):
        state += f": {_plain(found['reason'])}"
    speed, epsilon = _number(found.get("rows_per_second")), _number(found.get("epsilon"))
    traffic = [f"{_bytes(found.get(f'bytes_{way}'))} {way}" for way in ("received", "sent")]
    lines = {
        "state": state,
        "round": _progress(found),
        "losses": _losses(last),
        "missed": _missed(last),
        "run": ", ".join(
            _plain(found[key]) for key in ("method", "aggregation") if found.get(key) is not None
        ),
        "privacy": _privacy(epsilon, found.get("secure_aggregation")),
        "traffic": ", ".join([*([f"{speed:,.0f} rows/s"] if speed is not None else []), *traffic]),
    }
    text = "\n".join(f"{name:9}{value}" for name, value in lines.items() if value)
    return f"{text}\n\n{_client_table(clients)}" if clients else f"{text}\n\nno clients yet"


def _privacy(epsilon: float | None, scheme: object) -> str:
    """What is promised to people, and what is hidden from the server."""
    promised = "no differential privacy" if epsilon is None else f"ε {epsilon:.4g} promised"
    return promised if scheme is None else f"{promised}, secure aggregation by {_plain(scheme)}"


def _progress(found: Mapping[str, Any]) -> str:
    """How far the run has come, and for how long it goes on."""
    parts = [f"{found['round']:,} of {found['n_rounds']:,}"]
    if _number(found.get("seconds")) is not None:
        parts.append(f"{_time(found['seconds'])} so far")
    if _number(found.get("seconds_left")) is not None and found["state"] not in ENDED:
        parts.append(f"about {_time(found['seconds_left'])} left")
    return ", ".join(parts)


def _losses(report: Mapping[str, Any]) -> str:
    """The losses of a round."""
    metrics = report.get("metrics")
    if not isinstance(metrics, dict):
        return ""
    return losses_as_text(
        {_plain(name): value for name, value in metrics.items() if _number(value) is not None}
    )


def _missed(report: Mapping[str, Any]) -> str:
    """Who gave no update in a round, and why."""
    failed, dropped = report.get("failed"), report.get("dropped")
    parts = [
        f"{_plain(client)} ({_plain(why)})"
        for client, why in (failed.items() if isinstance(failed, dict) else ())
    ]
    parts += [
        f"{_plain(client)} (no answer)" for client in (dropped if isinstance(dropped, list) else ())
    ]
    return ", ".join(parts)


def _client_table(clients: Sequence[Mapping[str, Any]]) -> str:
    """A line for every client; letters may be two columns wide or none."""
    from rich.cells import cell_len

    rows = [("client", "state", "last seen", "rows", "task", "rounds")]
    for client in clients:
        seen = _number(client.get("last_seen"))
        rows.append(
            (
                _plain(client.get("client_id"), most=40),
                _plain(client.get("state")),
                "–" if seen is None else f"{_time(seen)} ago",
                _count(client.get("rows")),
                _plain(client.get("task")),
                _count(client.get("rounds")),
            )
        )
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (text, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(text))
            cells.append(space + text if place in (2, 3, 5) else text + space)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, moves of the cursor
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links
    r"|\x1b[@-Z\\^_]?"
)
JOINERS = "\u200c\u200d"  # which emoji and some scripts need


def _plain(text: Any, most: int = 200) -> str:
    """A text of unknown origin on one line, without anything that commands a terminal."""
    if text is None:
        return "–"
    line = " ".join(ESCAPES.sub("", str(text)).split())
    line = "".join(sign if sign.isprintable() or sign in JOINERS else "\ufffd" for sign in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _number(value: Any) -> float | None:
    """A number that makes sense here; None for anything else."""
    good = type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e18
    return value if good else None


def _count(value: Any) -> str:
    """A number of things."""
    number = _number(value)
    return "–" if number is None else f"{number:,.0f}"


def _time(seconds: float) -> str:
    """A duration in at most two units."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02d} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min"


def _bytes(value: Any) -> str:
    """A size in decimal units."""
    size = _number(value)
    if size is None:
        return "–"
    if size < 1000:
        return f"{size:.0f} B"
    units = ["kB", "MB", "GB", "TB"]
    size /= 1000
    while size >= 999.95 and len(units) > 1:  # which would be rounded to 1000.0
        size /= 1000
        del units[0]
    return f"{size:,.1f} {units[0]}"
