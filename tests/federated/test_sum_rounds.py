"""Runs of a model that is fitted from sums: it is that of the pooled table, whoever has it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import genesis
from genesis.errors import FederationError, GenesisError, PlanError
from genesis.federated import CheckpointCallback, FederatedClient
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.sum_rounds import LARGEST
from genesis.models import SUM_MODELS
from genesis.schema import Schema
from tests.dirty import dirty_table
from tests.federated.http.processes import PATIENCE, TOKEN, Processes, in_thread
from tests.federated.lossy import Lossy, Silent, secured, step_of

N = 120
ROUNDS = 4
CONFIG = {"components": 5, "groups": 2, "restarts": 2, "epochs": ROUNDS}
CHOICES: dict[str, Any] = {"method": "mixture", "config": CONFIG, "seed": 7}
PASSES = ROUNDS + 1  # with one of the other start
NAMES = ("a", "b", "c", "d")


@cache
def pooled() -> pd.DataFrame:
    """A table with a category of one row, the last one."""
    table = dirty_table(N).drop(columns=["patient_id", "hospital"])
    table.loc[N - 1, "sex"] = "Other"
    return table


@cache
def schema() -> Schema:
    return Schema.infer(pooled())


@cache
def central() -> genesis.Synthesizer:
    """The model of the pooled table."""
    run = genesis.Synthesizer("mixture", CONFIG, schema=schema(), seed=7)
    return run.fit(pooled())


def shards(of: npt.NDArray[np.int64]) -> dict[str, pd.DataFrame]:
    """The table divided among clients, those without rows left out."""
    return {NAMES[k]: pooled()[of == k].reset_index(drop=True) for k in np.unique(of)}


FOUR = np.arange(N) % 4


def vector_of(run: Any) -> torch.Tensor:
    found: torch.Tensor = run.model.model.get_vector()
    return found


def simulated(tables: Mapping[str, pd.DataFrame], **choices: Any) -> Any:
    return genesis.FederatedSynthesizer(schema=schema(), **CHOICES | choices).fit(tables)


def check_same(run: Any) -> None:
    """It ended with the model of the pooled table, bit for bit."""
    assert run.model.encoder.digest == central().encoder.digest
    assert torch.equal(vector_of(run), vector_of(_Central()))
    assert run.generate(40, seed=1).equals(central().generate(40, seed=1))


class _Central:
    """The model of the pooled table, as a run has one."""

    model = property(lambda _: central())


def federation(
    silent: Silent = lambda *_: False, callbacks: Any = (), **choices: Any
) -> tuple[Federation, Lossy]:
    """A run that is about to begin, and its network."""
    plan = Plan(**CHOICES | choices)
    clients = {name: Shard(name, table) for name, table in shards(FOUR).items()}
    network = Lossy(clients if plan.scheme is None else secured(clients, required=True), silent)
    return Federation(plan, network, callbacks, schema()), network


def state_of(run: Federation) -> torch.Tensor:
    assert run.state is not None
    return run.state.vector


# --- the pooled model ---


@settings(max_examples=6)
@given(st.lists(st.integers(0, 3), min_size=N, max_size=N))
def test_any_split_gives_the_model_of_the_pooled_table(of: list[int]) -> None:
    run = simulated(shards(np.array(of)))
    check_same(run)
    assert len(run.history) == PASSES


@pytest.mark.parametrize("by", ["sex", "visits", "zeros", "admitted"])
def test_clients_that_differ_in_a_column_give_the_same(by: str) -> None:
    """Each has a quarter of its values, so that most codes are at one client alone."""
    rank = pooled()[by].rank(method="first", na_option="bottom").to_numpy()
    check_same(simulated(shards(((rank - 1) * 4 // N).astype(np.int64))))


def test_a_client_with_one_row_of_a_category_that_nobody_else_has() -> None:
    of = np.where(np.arange(N) == N - 1, 3, np.arange(N) % 3)
    run = simulated(shards(of))
    check_same(run)
    assert "Other" in set(run.generate(3000, seed=0)["sex"])


@pytest.mark.parametrize("clients", [1, 3])
def test_history_tells_the_likelihood_of_the_pooled_table(clients: int) -> None:
    run = simulated(shards(np.arange(N) % clients))
    assert [dict(report.metrics) for report in run.history] == central().losses
    assert {report.n_rounds for report in run.history} == {PASSES}
    assert {report.clients for report in run.history} == {NAMES[:clients]}


@pytest.mark.parametrize("method", sorted(SUM_MODELS))
def test_every_model_is_that_of_the_pooled_table(method: str) -> None:
    table = pooled()[["sex", "visits", "smoker", "zeros"]]
    config: dict[str, Any] = {"epochs": 3}
    if method == "marginals":
        config |= {"components": 6, "steps": 10}
    whole = genesis.Synthesizer(method, config, seed=3).fit(table)
    tables = [table.iloc[: N // 2], table.iloc[N // 2 :].reset_index(drop=True)]
    run = genesis.FederatedSynthesizer(
        method, config, seed=3, schema=Schema.infer(table), n_rounds=None
    ).fit(tables)
    assert torch.equal(vector_of(run), whole.model.get_vector())


def test_the_seed_decides_where_it_starts() -> None:
    assert not torch.equal(vector_of(simulated(shards(FOUR), seed=8)), vector_of(_Central()))


def test_rounds_are_passes() -> None:
    assert Plan("mixture").n_rounds == 20
    assert Plan("mixture", {"epochs": 7}).n_rounds == 7
    assert Plan("mixture", {"epochs": 7}, n_rounds=3).n_rounds == 3
    assert Plan("marginals").n_rounds == 1
    assert Plan("ctgan").n_rounds == 10
    run = simulated(shards(FOUR), n_rounds=1)
    assert len(run.history) == 1


# --- secure aggregation ---


def test_secure_aggregation_gives_the_same() -> None:
    check_same(simulated(shards(FOUR), secure_aggregation="masking"))


def test_no_answer_leaves_a_client_in_the_clear() -> None:
    run, network = federation(secure_aggregation=True)
    run.run()
    assert torch.equal(state_of(run), vector_of(_Central()))
    assert not any(request.kind == "sums" for _, request in network.asked)
    assert not any("sums" in reply.arrays for reply in network.heard)
    for client in network.shards:
        reply = network.shards[client].handle(Request("sums", meta={"size": 3}))
        assert "in the clear" in str(reply.error)
        assert not reply.arrays


def spoil_numbers(request: Request) -> dict[str, npt.NDArray[Any]]:
    tables = request.arrays["tables"].copy()
    tables[0] += np.float32(1e-3)
    return {**request.arrays, "tables": tables}


def spoil_type(request: Request) -> dict[str, npt.NDArray[Any]]:
    return {**request.arrays, "tables": request.arrays["tables"].view(np.int32)}


def spoil_names(request: Request) -> dict[str, npt.NDArray[Any]]:
    """The same numbers in the same order, but the first ones are called otherwise."""
    weights, tables = request.arrays["weights"], request.arrays["tables"]
    return {**request.arrays, "a": tables, "tables": weights, "weights": weights}


@pytest.mark.parametrize("spoil", [spoil_numbers, spoil_type, spoil_names])
def test_other_parameters_for_one_client_are_no_sum(spoil: Any) -> None:
    """Under them its rows would stand out of the sum."""
    run, network = federation(secure_aggregation=True)

    def change(client: str, request: Request) -> Request:
        if client != "d" or step_of(request) != ("sums", 1, 0):
            return request
        return Request(request.kind, request.round, request.meta, spoil(request))

    network.change = change
    with pytest.raises(FederationError):
        run.run()
    assert len(run.reports) == 1


def test_names_of_parameters_are_part_of_what_is_agreed_on() -> None:
    """One client takes the first array for its tables, the others the second: both fit."""
    run, network = federation(secure_aggregation=True, config={**CONFIG, "components": 1})

    def change(client: str, request: Request) -> Request:
        if step_of(request) != ("sums", 0, 0):
            return request
        tables, weights = request.arrays["tables"], request.arrays["weights"]
        flat = np.full_like(tables, 0.5)
        arrays = {**request.arrays, "tables": flat, "u": tables, "weights": weights}
        if client == "d":
            arrays = {**request.arrays, "a": flat, "tables": tables, "weights": weights}
        return Request(request.kind, request.round, request.meta, arrays)

    network.change = change
    with pytest.raises(FederationError):
        run.run()
    assert not run.reports


@pytest.mark.parametrize("step", range(4))
def test_a_client_that_misses_a_step_is_asked_again(step: int) -> None:
    missed = {"b"}

    def is_silent(client: str, request: Request) -> bool:
        away = (
            client in missed
            and request.kind == "sum"
            and request.round == 2
            and request.meta["step"] == step
        )
        missed.difference_update({client} if away else ())
        return away

    run, _ = federation(is_silent, secure_aggregation=True)
    run.run()
    assert not missed
    assert torch.equal(state_of(run), vector_of(_Central()))


def test_without_a_client_there_is_no_secure_sum() -> None:
    run, _ = federation(
        lambda client, request: client == "b" and request.kind == "sum" and request.round == 2,
        secure_aggregation=True,
    )
    with pytest.raises(FederationError, match="'b': no answer"):
        run.run()
    assert len(run.reports) == 2


# --- clients that fail ---


def test_a_round_goes_on_without_those_who_drop_out() -> None:
    def is_silent(client: str, request: Request) -> bool:
        return client == "b" and request.kind == "sums" and request.round == 2

    run, _ = federation(is_silent, min_clients=3)
    run.run()
    assert [report.dropped for report in run.reports] == [(), (), ("b",), (), ()]
    assert run.reports[2].clients == ("a", "c", "d")
    assert len(run.reports) == PASSES
    # The last pass was over all rows again, but from elsewhere.
    assert state_of(run).isfinite().all()
    assert not torch.equal(state_of(run), vector_of(_Central()))


def test_who_is_away_in_one_part_of_a_round_is_named() -> None:
    missed: set[int] = set()

    def is_silent(client: str, request: Request) -> bool:
        away = client == "c" and request.kind == "sums" and request.round == 1 and not missed
        missed.update({request.round} if away else ())
        return away

    run, _ = federation(is_silent, min_clients=2)
    run.run()
    assert run.reports[1].dropped == ("c",)
    assert run.reports[1].clients == ("a", "b", "d")


def test_too_few_answers_end_the_run() -> None:
    run, _ = federation(
        lambda client, request: client in "ab" and request.kind == "sums" and request.round == 1,
        min_clients=3,
    )
    with pytest.raises(FederationError, match="min_clients is 3"):
        run.run()
    assert len(run.reports) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda sums: sums[:-1], "wrong shape"),
        (lambda sums: sums.astype(np.float64), "wrong shape"),
        (lambda sums: np.full_like(sums, int(LARGEST)), "no rows have"),
        (lambda sums: np.full_like(sums, np.iinfo(np.int64).min), "no rows have"),
    ],
)
def test_an_answer_that_makes_no_sense_is_left_out(spoil: Any, reason: str) -> None:
    run, network = federation(min_clients=2)
    handle = network.shards["a"].handle

    def spoiled(request: Request) -> Reply:
        reply: Reply = handle(request)
        if request.kind != "sums":
            return reply
        return Reply("a", reply.meta, {"sums": spoil(reply.arrays["sums"])})

    network.shards["a"].handle = spoiled
    run.run()
    for report in run.reports:
        assert report.clients == ("b", "c", "d")
        assert reason in report.failed["a"]
        assert report.dropped == ()


@pytest.mark.parametrize("meta", [{}, {"question": "expect", "size": 3, "meta": {}, "shapes": {}}])
def test_a_question_that_makes_no_sense_is_answered_with_an_error(meta: dict[str, Any]) -> None:
    run, network = federation()
    run.run()
    reply = network.shards["a"].handle(Request("sums", 0, meta))
    assert reply.error
    assert "\n" not in reply.error
    assert not reply.arrays


def test_a_model_that_is_trained_answers_no_question() -> None:
    run, network = federation(
        method="tvae", config={"epochs": 1, "compress_dims": (8,), "decompress_dims": (8,)}
    )
    run.run()
    assert "not fitted from sums" in str(network.shards["a"].handle(Request("sums")).error)


# --- going on ---


@pytest.mark.parametrize("last", [0, 1, 3])
@pytest.mark.parametrize("secure", [False, True])
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    last: int, secure: bool, tmp_path: Path
) -> None:
    class Stop(CheckpointCallback):
        def on_round_complete(self, run: Any, report: Any) -> None:
            super().on_round_complete(run, report)
            if report.round == last:
                run.stop("enough for today")

    stopped, _ = federation(callbacks=[Stop(tmp_path)], secure_aggregation=secure)
    stopped.run()
    assert len(stopped.reports) == last + 1
    resumed, _ = federation(secure_aggregation=secure)
    resumed.run(tmp_path)
    assert torch.equal(state_of(resumed), vector_of(_Central()))
    assert resumed.config == central().config
    assert [dict(report.metrics) for report in resumed.reports] == central().losses


def test_a_run_that_is_stopped_has_a_model(tmp_path: Path) -> None:
    class Stop(CheckpointCallback):
        def on_round_complete(self, run: Any, report: Any) -> None:
            run.stop("enough")

    run = genesis.FederatedSynthesizer(schema=schema(), callbacks=[Stop(tmp_path)], **CHOICES)
    run.fit(shards(FOUR))
    assert len(run.history) == 1
    assert len(run.generate(20, seed=0)) == 20


def test_a_damaged_fit_is_refused(tmp_path: Path) -> None:
    run, _ = federation(callbacks=[CheckpointCallback(tmp_path)], n_rounds=2)
    run.run()
    assert run._fit is not None
    values, tensors = run._fit.to_state()
    for wrong in ({}, {**values, "fit": {}}, {**values, "asked": "many"}):
        with pytest.raises(GenesisError, match="damaged"):
            run._fit.restore(wrong, tensors)
    with pytest.raises(GenesisError, match="damaged"):
        run._fit.restore(values, {})


# --- plans ---


@pytest.mark.parametrize(
    "choice",
    [
        {"local_epochs": 2},
        {"aggregation": "median"},
        {"aggregation": "weighted"},
        {"client_fraction": 0.5},
        {"learning_rate": 0.1},
        {"lr_schedule": "cosine"},
        {"batch_size": 50},
        {"max_grad_norm": 1.0},
        {"synchronize": "generator"},
        {"sync_every": 2},
        {"aggregation": "fedprox", "proximal_mu": 0.1},
    ],
    ids=lambda choice: next(iter(choice)),
)
def test_choices_about_training_are_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="says nothing") as raised:
        Plan("mixture", **choice)
    assert "\n" not in str(raised.value)
    assert next(iter(choice)) in str(raised.value)


def test_choices_that_say_something_are_not_refused() -> None:
    Plan("mixture", min_clients=3, secure_aggregation=True, max_categories=10, sync_every=1)
    plan = Plan("mixture", CONFIG, seed=3)
    assert Plan.from_toml(plan.to_toml()) == plan


def test_a_circuit_promises_nothing() -> None:
    with pytest.raises(PlanError, match="no noise hides a row"):
        Plan("circuit", privacy={"differential_privacy": {"epsilon": 1.0, "delta": 1e-5}})


# --- over HTTP ---


def test_over_http_it_is_the_same(tmp_path: Path) -> None:
    """A server and a client in processes of their own, the other clients in threads."""
    names, table = NAMES[:3], pooled()[["sex", "visits", "smoker"]]
    of = np.minimum(np.arange(N) // 50, 2)
    tables = {name: table[of == k].reset_index(drop=True) for k, name in enumerate(names)}
    for name, each in tables.items():
        each.to_csv(tmp_path / f"{name}.csv", index=False)
    read = {name: genesis.read_table(tmp_path / f"{name}.csv") for name in names}
    expected = genesis.FederatedSynthesizer(**CHOICES).fit(read)
    with Processes(tmp_path) as processes:
        processes.write_plan({**CHOICES, "min_clients": 3})
        server, url = processes.server("--plan", "plan.toml", "--model", "server.model")
        client = processes.client(url, "a", "--model", "a.model")
        others = [
            in_thread(FederatedClient(url, name, auth_token=TOKEN).train, read[name])
            for name in names[1:]
        ]
        for program in (server, client):
            assert program.end() == 0, program.said
            assert "arning" not in program.said
            assert "Traceback" not in program.said
        for other in others:
            other.result(PATIENCE)
    expected.save(tmp_path / "expected.model")
    files = {(tmp_path / f"{name}.model").read_bytes() for name in ("server", "a", "expected")}
    assert len(files) == 1
