"""The text of /metrics, read back by the parser of Prometheus' own client."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from genesis.federated.transport.http.metrics import CONTENT_TYPE, STATES, metrics_text
from tests.federated.http import HOSTILE, client, report, status

# With halves of surrogate pairs, which JSON can hold and UTF-8 cannot.
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12) | st.sampled_from(HOSTILE)
AMOUNTS = st.integers(0, 2**53)
SECONDS = st.floats(0, 1e9)
MAYBE = st.none() | SECONDS

CLIENTS = st.lists(
    st.builds(
        client,
        TEXTS,
        state=st.sampled_from(["waiting", "working", "absent"]),
        last_seen=MAYBE,
        rows=st.none() | AMOUNTS,
        task=st.sampled_from(["train", None]),
        rounds=AMOUNTS,
    ),
    max_size=5,
    unique_by=lambda each: label(each["client_id"]),
)
METRICS = st.dictionaries(TEXTS, st.none() | st.floats(), max_size=4)
ROUNDS = st.lists(
    st.builds(
        report,
        st.integers(1, 9),
        st.lists(TEXTS, max_size=3),
        metrics=METRICS,
        failed=st.dictionaries(TEXTS, TEXTS, max_size=3),
        dropped=st.lists(TEXTS, max_size=3),
        seconds=SECONDS,
    ),
    max_size=3,
)
STATUSES = st.fixed_dictionaries(
    {
        "state": st.sampled_from(STATES),
        "reason": st.none() | TEXTS,
        "method": TEXTS,
        "aggregation": TEXTS,
        "version": TEXTS,
        "round": AMOUNTS,
        "n_rounds": AMOUNTS,
        "min_clients": AMOUNTS,
        "seconds": SECONDS,
        "seconds_left": MAYBE,
        "epsilon": MAYBE,
        "secure_aggregation": st.sampled_from([None, "masking", "paillier"]),
        "rows_per_second": MAYBE,
        "bytes_received": AMOUNTS,
        "bytes_sent": AMOUNTS,
        "clients": CLIENTS,
        "rounds": ROUNDS,
    }
)


def label(text: str) -> str:
    """What a text is as a label: half a surrogate pair is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def read(value: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Name and labels -> value, of every sample."""
    text = metrics_text(value).decode()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    found = {(each.name, *each.labels.values()): each.value for each in samples}
    assert len(found) == len(samples)
    return found


@given(STATUSES)
def test_everything_is_read_back(value: dict[str, Any]) -> None:
    found = read(value)
    expected = {
        "genesis_round": value["round"],
        "genesis_rounds_planned": value["n_rounds"],
        "genesis_clients_needed": value["min_clients"],
        "genesis_clients": len(value["clients"]),
        "genesis_run_seconds": value["seconds"],
        "genesis_seconds_left": value["seconds_left"],
        "genesis_epsilon": value["epsilon"],
        "genesis_rows_per_second": value["rows_per_second"],
        "genesis_received_bytes_total": value["bytes_received"],
        "genesis_sent_bytes_total": value["bytes_sent"],
        "genesis_round_seconds": value["rounds"][-1]["seconds"] if value["rounds"] else None,
    }
    assert {name: found.get((name,)) for name in expected} == expected
    states = {state: float(state == value["state"]) for state in STATES}
    assert {key[1]: v for key, v in found.items() if key[0] == "genesis_state"} == states
    for each in value["clients"]:
        name = label(each["client_id"])
        assert found.get(("genesis_client_rows", name)) == each["rows"]
        assert found.get(("genesis_client_last_seen_seconds", name)) == each["last_seen"]
        assert found["genesis_client_rounds", name] == each["rounds"]
        assert found["genesis_client_present", name] == (each["state"] != "absent")


@given(METRICS)
def test_metrics_of_the_last_round(metrics: dict[str, float | None]) -> None:
    """Not of the first; and a metric may be no number at all."""
    found = read(status(rounds=[report(1, []), report(2, [], metrics=metrics)]))
    shown = {key[1]: value for key, value in found.items() if key[0] == "genesis_metric"}
    known = {label(name): value for name, value in metrics.items() if value is not None}
    assert shown.keys() == known.keys()
    for name, value in known.items():
        assert shown[name] == value or (math.isnan(shown[name]) and math.isnan(value))


@given(ROUNDS)
def test_updates_are_counted(rounds: list[dict[str, Any]]) -> None:
    found = read(status(rounds=rounds))
    for result, key in [("used", "clients"), ("failed", "failed"), ("dropped", "dropped")]:
        expected = sum(len(each[key]) for each in rounds)
        assert found["genesis_updates_total", result] == expected


def test_two_names_that_are_one_label() -> None:
    """A scrape with a series twice would be refused as a whole; `read` asserts that it is not."""
    found = read(status(names=("\ud800", "\\ud800")))
    assert found["genesis_client_rows", "\\ud800"] == 12_345


def test_nothing_global_is_changed() -> None:
    before = {family.name for family in REGISTRY.collect()}
    assert metrics_text(status()) == metrics_text(status())
    assert {family.name for family in REGISTRY.collect()} == before
    assert not any(name.startswith("genesis") for name in before)


def test_how_it_looks() -> None:
    lines = metrics_text(status(names=('a"b\\c\nd',))).decode().splitlines()
    assert "# TYPE genesis_received_bytes_total counter" in lines
    assert "genesis_received_bytes_total 1.2345678e+07" in lines
    assert 'genesis_state{state="training"} 1.0' in lines
    assert r'genesis_client_rows{client="a\"b\\c\nd"} 12345.0' in lines
    assert CONTENT_TYPE.startswith("text/plain; version=")
