"""The status of a run as Prometheus reads it: the text of ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "metrics_text"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""What the text is to be sent as."""

STATES = ("waiting", "agreeing", "training", "finishing", "complete", "failed", "interrupted")

GAUGES = {
    "round": ("genesis_round", "Rounds that are complete."),
    "n_rounds": ("genesis_rounds_planned", "Rounds that the run is planned for."),
    "min_clients": ("genesis_clients_needed", "Clients that every round needs."),
    "seconds": ("genesis_run_seconds", "Time since the run began."),
    "seconds_left": ("genesis_seconds_left", "Time to the end of the run, as estimated."),
    "epsilon": ("genesis_epsilon", "Privacy promised; absent without differential privacy."),
    "rows_per_second": ("genesis_rows_per_second", "Rows trained on a second, last round."),
}
"""Key of the status -> name and meaning of the gauge; what is null is left out."""

COUNTERS = {
    "bytes_received": ("genesis_received_bytes", "Bytes of messages received."),
    "bytes_sent": ("genesis_sent_bytes", "Bytes of messages sent."),
}
"""The same for what only grows; "_total" is added to the name."""

CLIENT_GAUGES = {
    "last_seen": ("genesis_client_last_seen_seconds", "Time since the client was heard of."),
    "rows": ("genesis_client_rows", "Rows of the client."),
    "rounds": ("genesis_client_rounds", "Rounds that the client has taken part in."),
}
"""The same for the keys of a client."""


def metrics_text(status: Mapping[str, Any]) -> bytes:
    """The status of a run in the text format of Prometheus.

    Args:
        status: What ``GET /v1/status`` answers. Any text is fit for a label.
    """
    registry = CollectorRegistry()
    registry.register(_Status(status))
    return generate_latest(registry)


class _Status(Collector):
    """Reads one status, so that nothing is counted twice and nothing global is kept."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.status = status

    def describe(self) -> list[Metric]:
        """Nothing in advance: the registry is asked once."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families, in the order of the page."""
        status = self.status
        about = {key: _label(status[key]) for key in ("method", "aggregation", "version")}
        yield InfoMetricFamily("genesis_run", "What is run.", value=about)
        states = {state: state == status["state"] for state in STATES}
        yield _gauge("genesis_state", "1 for the state that the run is in.", "state", states)
        for key, (name, meaning) in GAUGES.items():
            if status[key] is not None:
                yield GaugeMetricFamily(name, meaning, value=status[key])
        for key, (name, meaning) in COUNTERS.items():
            yield CounterMetricFamily(name, meaning, value=status[key])
        yield from self._clients()
        yield from self._rounds()

    def _clients(self) -> Iterator[Metric]:
        """How many there are, and of each what is known."""
        clients = self.status["clients"]
        yield GaugeMetricFamily("genesis_clients", "Clients that have joined.", value=len(clients))
        present = {client["client_id"]: client["state"] != "absent" for client in clients}
        yield _gauge("genesis_client_present", "1 unless the client is absent.", "client", present)
        for key, (name, meaning) in CLIENT_GAUGES.items():
            values = {client["client_id"]: client[key] for client in clients}
            yield _gauge(name, meaning, "client", values)

    def _rounds(self) -> Iterator[Metric]:
        """What the last round measured, and how many updates there were and were not."""
        rounds = self.status["rounds"]
        counts = {
            "used": sum(len(each["clients"]) for each in rounds),
            "failed": sum(len(each["failed"]) for each in rounds),
            "dropped": sum(len(each["dropped"]) for each in rounds),
        }
        updates = CounterMetricFamily(
            "genesis_updates", "Updates asked for, by what became of them.", labels=["result"]
        )
        for result, count in counts.items():
            updates.add_metric([result], count)
        yield updates
        if rounds:
            last = rounds[-1]
            yield GaugeMetricFamily(
                "genesis_round_seconds", "Duration of the last round.", value=last["seconds"]
            )
            yield _gauge("genesis_metric", "Metrics of the last round.", "name", last["metrics"])


def _gauge(
    name: str, meaning: str, label: str, values: Mapping[str, float | None]
) -> GaugeMetricFamily:
    """A gauge with one label; what is null is left out."""
    gauge = GaugeMetricFamily(name, meaning, labels=[label])
    # Keyed again, because two texts that are the same label would spoil the whole answer.
    known = {_label(text): value for text, value in values.items() if value is not None}
    for text, value in known.items():
        gauge.add_metric([text], value)
    return gauge


def _label(text: object) -> str:
    """A text that can be written as UTF-8, which half of a surrogate pair cannot."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")
