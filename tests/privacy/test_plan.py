"""What is planned is what a run does, and what is advised does what it says."""

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from genesis import Schema
from genesis.errors import PlanError
from genesis.federated.promise import RunPromise
from genesis.privacy.budget import Privacy
from genesis.privacy.guard import Guard
from genesis.privacy.plan import PlannedRun, PrivacyPlan, plan
from genesis.privacy.sums import Release

KINDS = ["numeric", "numeric", "categorical", "categorical", "boolean"]


def _schema(*, stated: bool = False) -> Schema:
    entries = [{"name": f"c{i}", "kind": kind} for i, kind in enumerate(KINDS)]
    for entry in entries if stated else []:
        if entry["kind"] != "numeric":
            entry["categories"] = [False, True] if entry["kind"] == "boolean" else ["a", "b", "c"]
    return Schema.from_dict({"columns": entries})


RECORDS = PlannedRun(
    privacy=Privacy(2.0),
    schema=_schema(),
    rows=3000,
    parameters=5000,
    private_parameters=2000,
    clients=3,
    n_rounds=2,
    epochs=2,
    batch_size=100,
)
CLIENTS = replace(
    RECORDS,
    privacy=Privacy(4.0, unit="client"),
    schema=_schema(stated=True),
    public_schema=True,
    parameters=400,
    rows=30_000,
    clients=300,
    n_rounds=6,
)


@cache
def _plan(**changes: object) -> PrivacyPlan:
    """The plan of `RECORDS` or, with unit "client", of `CLIENTS`."""
    run = CLIENTS if changes.pop("unit", "record") == "client" else RECORDS
    promise = {name: changes.pop(name) for name in ("overlap", "bands") if name in changes}
    return plan(replace(run, privacy=replace(run.privacy, **promise), **changes))


@pytest.mark.parametrize("overlap", ["disjoint", "overlapping"])
def test_records_are_hidden_as_planned(overlap: str) -> None:
    found = _plan(overlap=overlap)
    guard = Guard(replace(RECORDS.privacy, overlap=overlap).among(RECORDS.clients))
    guard.begin(RECORDS.schema)
    guard.count_rows(RECORDS.rows_each)
    guard.rows = RECORDS.rows_each  # without the noise of this very count
    guard.plan_training(batch_size=RECORDS.batch_size, epochs=4)
    steps = guard.steps(2)
    guard.steps(2)

    assert found.deviation == guard.deviation
    assert found.noise_multiplier == steps.noise_multiplier
    assert (found.batch_size, found.sample_rate) == (steps.batch_size, steps.sample_rate)
    assert found.steps == 4 * steps.steps
    times = RECORDS.clients if overlap == "overlapping" else 1
    each = guard.privacy
    assert found.epsilon == pytest.approx(times * guard.ledger.epsilon(each.delta), rel=1e-12)
    assert found.epsilon <= RECORDS.privacy.epsilon
    assert found.delta == pytest.approx(RECORDS.privacy.delta)
    assert found.mechanisms == guard.ledger.split(each.delta)


@pytest.mark.parametrize(("bands", "fraction"), [(1, 1.0), (1, 0.2), (2, 1.0)])
def test_clients_are_hidden_as_planned(bands: int, fraction: float) -> None:
    found = _plan(unit="client", bands=bands, client_fraction=fraction)
    promise = RunPromise(replace(CLIENTS.privacy, bands=bands, insist=True), public_schema=True)
    counts = [np.zeros(200_000, dtype=np.int64)]
    noisy, deviation = promise.noisy_counts(CLIENTS.schema, counts, 1000)
    promise.begin_rounds(CLIENTS.parameters, CLIENTS.clients, CLIENTS.n_rounds, fraction)
    vector, rounds = torch.zeros(CLIENTS.parameters), torch.zeros(0)
    for _ in range(CLIENTS.n_rounds):
        rounds = torch.cat([rounds, promise.combine(vector, [])])

    assert found.sum_deviation * 1000 == pytest.approx(deviation)
    assert found.epsilon == pytest.approx(promise.ledger.epsilon(CLIENTS.privacy.delta), rel=1e-9)
    assert found.epsilon <= CLIENTS.privacy.epsilon
    assert found.steps == CLIENTS.n_rounds
    assert found.sample_rate == fraction / bands
    # The errors are those of what came out.
    total = 1000 * CLIENTS.clients
    assert found.frequency_error == pytest.approx(100 * np.abs(noisy[0]).mean() / total, rel=0.02)
    if bands == 1:  # the largest norm of a mean change is the clip, 1
        norm = math.sqrt(CLIENTS.parameters) * float(rounds.std())
        assert found.noise_to_signal == pytest.approx(norm, rel=0.1)


def test_the_error_of_a_frequency_is_that_of_the_sum_over_the_clients() -> None:
    found = _plan()
    noise = np.random.default_rng(0).normal(0, found.deviation, (20_000, RECORDS.clients))
    error = 100 * np.abs(noise.sum(axis=1)).mean() / RECORDS.rows
    assert found.frequency_error == pytest.approx(error, rel=0.03)
    assert found.sum_deviation == pytest.approx(found.deviation * math.sqrt(3))


def test_every_change_of_records_does_what_it_says() -> None:
    found = _plan()
    changes = {change.what: change for change in found.changes}
    for what, other in {
        "1 round instead of 2": {"n_rounds": 1},
        "1 epoch instead of 2 a round": {"epochs": 1},
        "batches of 200 rows": {"batch_size": 200},
        "a model of a quarter of the size": {"parameters": 1250, "private_parameters": 500},
    }.items():
        after = plan(replace(RECORDS, **other))
        assert changes[what].noise_to_signal == after.noise_to_signal < found.noise_to_signal
        assert changes[what].frequency_error == after.frequency_error
    assert changes["half of the columns"].frequency_error < found.frequency_error
    named = "a schema file that states categories and decimals"
    assert changes[named].frequency_error < found.frequency_error
    assert changes["ε = 4"].noise_to_signal < found.noise_to_signal
    noises = [change.noise_to_signal for change in found.changes]
    assert noises == sorted(noises)


def test_what_changes_nothing_is_not_advised() -> None:
    found = _plan(
        schema=Schema(_schema(stated=True).columns[2:3]), n_rounds=1, epochs=1, batch_size=1000
    )
    assert {change.what for change in found.changes} == {
        "a model of a quarter of the size",
        "ε = 4",
    }
    assert found.label_threshold is None


def test_overlapping_clients_are_told_what_that_costs() -> None:
    found = _plan(overlap="overlapping")
    change = next(c for c in found.changes if c.what == "nobody's records at two clients")
    assert change.frequency_error == pytest.approx(_plan().frequency_error)


def test_so_many_clients_are_enough() -> None:
    few = replace(CLIENTS, clients=10, rows=2000)
    found = plan(few)
    assert found.refused is not None
    assert found.clients_needed is not None
    assert found.clients_needed > few.clients
    enough = plan(replace(few, clients=found.clients_needed, rows=100_000))
    assert enough.refused is None
    assert 2.5 < enough.noise_to_signal <= 3
    assert enough.clients_needed == found.clients_needed
    assert found.records_instead is not None
    records = plan(replace(few, privacy=Privacy(4.0)))
    assert found.records_instead.noise_to_signal == records.noise_to_signal
    assert found.records_instead.frequency_error == records.frequency_error
    assert records.records_instead is None
    # The run says the very same.
    promise = RunPromise(few.privacy, public_schema=True)
    promise.noisy_counts(few.schema, [np.zeros(1, dtype=np.int64)], 1000)
    with pytest.raises(PlanError) as refused:
        promise.begin_rounds(few.parameters, few.clients, few.n_rounds, 1.0)
    assert str(refused.value) == found.refused


@pytest.mark.parametrize("public", [False, True])
def test_a_schema_that_leaves_categories_out_is_refused_as_in_a_run(public: bool) -> None:
    schema = _schema(stated=not public)
    found = _plan(unit="client", schema=schema, public_schema=public)
    with pytest.raises(PlanError) as refused:
        RunPromise(CLIENTS.privacy, public_schema=public).check_schema(schema)
    assert found.refused == str(refused.value)


def test_an_adaptive_clip_of_too_few_clients_is_refused() -> None:
    privacy = replace(CLIENTS.privacy, adaptive_clip=True, insist=True)
    found = plan(replace(CLIENTS, privacy=privacy, clients=12, rows=1200))
    assert found.refused is not None
    assert "too few clients a round for an adaptive clip" in found.refused


def test_impossible_runs() -> None:
    with pytest.raises(PlanError, match="got 4 clients and 3 rows"):
        replace(RECORDS, clients=4, rows=3)
    with pytest.raises(PlanError, match="more bands than rounds"):
        plan(replace(CLIENTS, privacy=Privacy(4.0, unit="client", bands=7)))


def test_a_plan_is_json() -> None:
    for found in (_plan(), _plan(unit="client")):
        values = json.loads(json.dumps(found.to_dict()))
        assert values["epsilon"] == found.epsilon
        assert values["changes"][0] == vars(found.changes[0])
        assert sum(values["shares"].values()) == pytest.approx(1)
    assert _plan().clients_needed is not None
    assert _plan(clients=1, n_rounds=1).clients_needed is None


# --- models that are fitted from sums ---


def pairs(columns: int) -> tuple[Release, ...]:
    return (Release(math.comb(columns, 2)),)


SUMS = replace(RECORDS, releases=pairs)


def test_noise_of_sums_is_that_of_the_run() -> None:
    found = plan(SUMS)
    guard = Guard(SUMS.privacy)
    guard.begin(SUMS.schema)
    guard.count_rows(1000)
    planned = guard.plan_sums(pairs(len(KINDS)))
    assert found.noise_multiplier == pytest.approx(planned.noise_multiplier)
    assert (found.steps, found.batch_size) == (1, None)
    in_sum = math.sqrt(SUMS.clients) * planned.deviation(0, 1.0)
    assert found.noise_to_signal == pytest.approx(in_sum / SUMS.rows)
    assert 0.97 * 2.0 < found.epsilon <= 2.0
    assert "sums over the rows" in found.mechanisms


def test_advice_about_sums_is_about_columns_and_epsilon() -> None:
    found = plan(SUMS)
    better = {change.what: change.noise_to_signal for change in found.changes}
    assert better["half of the columns"] < 0.6 * found.noise_to_signal
    assert better["ε = 4"] < 0.7 * found.noise_to_signal
    assert not any("batch" in what or "epoch" in what or "model" in what for what in better)
