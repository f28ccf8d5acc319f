"""Runs with secure aggregation in one process, whoever drops out and when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

import genesis
from genesis.errors import FederationError, TrainingError
from genesis.federated import CheckpointCallback
from genesis.federated.aggregation import State
from genesis.federated.aggregation.fedavg import FedAvg
from genesis.federated.aggregation.weighted import Weighted
from genesis.federated.client_promise import ClientPromise
from genesis.federated.clients import Clients
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.secagg import masking
from genesis.federated.secagg.purpose import FRESH, after
from genesis.federated.secure_shard import SecureShard
from genesis.federated.secure_sums import SecureSums
from genesis.federated.shard import Shard
from genesis.models.parameters import ParameterLayout
from tests.dirty import QUICK, QUICK_TVAE, dirty_table
from tests.federated.lossy import Lossy, Silent, secured, step_of

NAMES = ("a", "b", "c", "d", "e")
STEPS = 5
NEVER = STEPS
# --- sums of vectors that nobody has to train ---

LAYOUT = ParameterLayout({"generator.weight": (4, 3), "generator.bias": (3,), "critic.w": (5,)})


@dataclass
class Vectors:
    """What a `Shard` is to a `SecureShard`, with updates that are given."""

    client_id: str
    change: npt.NDArray[np.float32]
    rows: int = 10
    counts: tuple[int, ...] = (1, 2, 3)
    seed: tuple[int, ...] = (7, 1, 0)
    start: npt.NDArray[np.float32] = field(default_factory=lambda: np.ones(20, np.float32))
    past: bytes = FRESH
    promise: ClientPromise = field(default_factory=lambda: ClientPromise("", None, Parts()))

    def handle(self, request: Request) -> Reply:
        if request.kind == "count":
            counts = np.array(self.counts, np.int64)
            return Reply(self.client_id, {"rows": self.rows}, {"counts": counts})
        if request.kind != "train":
            return Reply(self.client_id, {"labels": {}})
        self.past = after(self.past, request.local["purpose"])
        metrics = {"loss": float(self.change[0])}
        vector = self.start + self.change
        return Reply(self.client_id, {"metrics": metrics}, {"vector": vector})

    def receive(self, request: Request) -> None:
        self.start = request.arrays["vector"]

    def renew(self) -> None:
        self.past = FRESH

    def known(self, parts: list[str] | None) -> tuple[npt.NDArray[np.float32], list[int]]:
        return self.start, [12, 3, 5]


class Sums:
    """A server that sums vectors of clients which are told nothing else."""

    def __init__(self, names: Sequence[str] = NAMES, *, weighted: bool = False) -> None:
        rng = np.random.default_rng(len(names))
        self.shards = {
            name: Vectors(name, rng.normal(0, 3e-3, 20).astype(np.float32), 10 * k, seed=(7, 1, k))
            for k, name in enumerate(names, start=1)
        }
        self.network = Lossy(secured(self.shards))
        plan = Plan(secure_aggregation=True, seed=1)
        clients = Clients.join(self.network, plan)
        self.sums = SecureSums(plan, clients)
        self.sums.begin()
        for kind in ("labels", "prepare"):
            self.sums.note(Request(kind))
            clients.require(Request(kind), "hear what all are told")
        self.sums.rows = sum(shard.rows for shard in self.shards.values())
        self.sums.measured = ("loss",)
        self.rule = Weighted() if weighted else FedAvg()
        self.round = 0

    def play(self, gone: Mapping[str, int], *, for_good: bool = True) -> Any:
        """A round in which some clients are silent in a step, and in those after it if for good."""

        def is_silent(client: str, request: Request) -> bool:
            step, last = request.meta["step"], gone.get(client, NEVER)
            return bool(step >= last if for_good else step == last)

        start = np.full(20, 0.25 * self.round, np.float32)
        meta = {"send": None, "receive": None, "epochs": 1}
        asked = Request("train", self.round, meta, {"vector": start})
        self.network.silent = is_silent
        self.round += 1
        return self.sums.updates(
            dict.fromkeys(self.shards, asked),
            rule=self.rule,
            state=State(torch.from_numpy(start)),
            layout=LAYOUT,
            hear=lambda _: None,
        )

    def mean(self, survivors: Sequence[str]) -> npt.NDArray[np.float64]:
        """What their updates come to, in float64."""
        weigh = isinstance(self.rule, Weighted)
        weights = [self.shards[name].rows if weigh else 1 for name in survivors]
        changes = [self.shards[name].change.astype(float) for name in survivors]
        return np.average(changes, axis=0, weights=weights)

    def check(self, gone: Mapping[str, int], **options: Any) -> None:
        """Play a round; it comes out right, or says why it cannot."""
        n, threshold = len(self.shards), 2 * len(self.shards) // 3 + 1
        steps = {name: gone.get(name, NEVER) for name in self.shards}
        left = [sum(last > step for last in steps.values()) for step in range(STEPS)]
        if min(left) < threshold:
            with pytest.raises(FederationError, match="too few clients are left") as raised:
                self.play(gone, **options)
            first = next(step for step in range(STEPS) if left[step] < threshold)
            assert f"{left[first]} of {n} where {threshold} are needed" in str(raised.value)
            for name, last in gone.items():
                assert (f"'{name}': no answer" in str(raised.value)) == (last <= first)
            return
        combined = self.play(gone, **options)
        survivors = tuple(name for name, last in steps.items() if last > masking.UPLOAD)
        assert combined.survivors == survivors
        assert not combined.failed
        change = combined.vector.numpy().astype(float) - 0.25 * (self.round - 1)
        # What float32 parameters leave of a change, and then what 32-bit numbers do.
        assert np.abs(change - self.mean(survivors)).max() < 1e-7 + 2.0**-24 * self.round
        losses = [self.shards[name].change[0] for name in survivors]
        assert min(losses) - 1e-4 <= combined.metrics["loss"] <= max(losses) + 1e-4


SINGLE = [{}, *({name: step} for name in NAMES for step in range(STEPS))]
DOUBLE = [
    dict(zip(pair, steps, strict=True))
    for pair in itertools.combinations(NAMES, 2)
    for steps in itertools.product(range(STEPS), repeat=2)
]


def test_whoever_drops_out_and_when_the_sum_is_that_of_the_others() -> None:
    """Every client in every step: each time one round, and all of them are there in the next."""
    sums, weighted = Sums(), Sums(weighted=True)
    for gone in SINGLE:
        sums.check(gone)
    for gone in SINGLE[::3]:
        weighted.check(gone)


def test_a_client_that_misses_a_step_takes_no_part_in_the_rest() -> None:
    sums = Sums()
    for gone in SINGLE[1::2]:
        sums.check(gone, for_good=False)


def test_any_two_of_five_are_too_many_and_the_round_after_works() -> None:
    sums = Sums()
    for gone in DOUBLE[:: len(DOUBLE) // 40]:
        sums.check(gone)
        sums.check({})


@pytest.mark.slow
def test_any_two_of_five_and_of_seven() -> None:
    five = Sums()
    for gone in DOUBLE:
        five.check(gone)
    seven = Sums("abcdefg")
    for pair in itertools.combinations("abcdefg", 2):
        for steps in itertools.product(range(STEPS), repeat=2):
            seven.check(dict(zip(pair, steps, strict=True)))


@pytest.mark.parametrize("seed", range(6))
def test_any_set_of_seven(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sums = Sums("abcdefg", weighted=bool(seed % 2))
    for _ in range(4):
        gone = rng.choice(list("abcdefg"), rng.integers(0, 4), replace=False)
        sums.check({str(name): int(rng.integers(STEPS)) for name in gone})


def test_a_client_that_says_why_it_fails_is_named_and_what_it_said() -> None:
    sums = Sums()
    sums.shards["b"].change[3] = np.nan
    combined = sums.play({})
    assert combined.survivors == ("a", "c", "d", "e")
    assert "'" not in combined.failed["b"]
    assert "not finite" in combined.failed["b"]
    sums.shards["c"].change[0] = np.inf
    with pytest.raises(FederationError) as raised:
        sums.play({"d": 1})
    assert "'b': its update holds values that are not finite" in str(raised.value)
    assert "'d': no answer" in str(raised.value)
    assert "3 of 5 where 4 are needed" not in str(raised.value)  # they were fewer still


def test_statistics_need_everybody_and_are_asked_for_again() -> None:
    sums = Sums()
    asked = Request("count", meta={"questions": [], "secure": {}})
    for step in range(STEPS):
        missed = {"c"}

        def is_silent(client: str, request: Request) -> bool:
            away = request.meta["step"] == step and client in missed  # noqa: B023 - called here
            missed.difference_update({client} if away else ())  # noqa: B023
            return away

        sums.network.silent = is_silent
        counts, rows, replies = sums.sums.counts(asked, 3)
        assert not missed
        assert (counts.tolist(), rows, len(replies)) == ([5, 10, 15], 150, 5)


def test_statistics_without_a_client_that_stays_away_are_refused() -> None:
    sums = Sums()
    sums.network.silent = lambda client, request: client == "c" and request.meta["step"] == 2
    with pytest.raises(FederationError, match="too few clients") as raised:
        sums.sums.counts(Request("count", meta={"questions": [], "secure": {}}), 3)
    assert "4 of 5 where 5 are needed" in str(raised.value)
    assert "'c': no answer" in str(raised.value)
    sums.check({})  # its updates can still be taken


def test_nobody_to_ask_is_an_error_too() -> None:
    sums = Sums()
    for few in ({}, {"a": sums.shards["a"]}):
        sums.shards = few
        with pytest.raises(FederationError, match="at least 3 clients"):
            sums.play({})


# --- whole runs ---

RATES = {"generator_lr": 2e-4, "discriminator_lr": 2e-4}
STEADY = QUICK | RATES | {"batch_size": 20, "epochs": 6}
"""So many steps that float32 parameters say much of how far they have moved."""
CHOICES: dict[str, Any] = {"config": QUICK, "n_rounds": 1, "seed": 7}


@cache
def tables() -> dict[str, pd.DataFrame]:
    columns = ["sex", "größe, cm", "visits"]
    return {name: dirty_table(40 + 10 * k, k)[columns] for k, name in enumerate(NAMES)}


class Start:
    """Keeps the parameters that a run begins with."""

    def __init__(self) -> None:
        self.vector = torch.zeros(0)

    def on_run_start(self, run: Federation) -> None:
        assert run.state is not None
        self.vector = run.state.vector.clone()

    def on_round_complete(self, run: Federation, report: Any) -> None:
        """Nothing."""

    def on_run_end(self, run: Federation, reports: Any) -> None:
        """Nothing."""


def run(
    silent: Silent = lambda *_: False, callbacks: Sequence[Any] = (), **choices: Any
) -> tuple[Federation, npt.NDArray[np.float64], Lossy]:
    """A run; what it came to, and how far its parameters moved."""
    plan, start = Plan(**CHOICES | choices), Start()
    shards = {name: Shard(name, table) for name, table in tables().items()}
    network = Lossy(shards if plan.scheme is None else secured(shards, required=True), silent)
    federation = Federation(plan, network, (start, *callbacks))
    federation.run()
    assert federation.state is not None
    return federation, (federation.state.vector.double() - start.vector.double()).numpy(), network


def error(change: npt.NDArray[np.float64], plain: npt.NDArray[np.float64]) -> float:
    """RMSE of a change, relative to the change."""
    return float(np.linalg.norm(change - plain) / np.linalg.norm(plain))


def quiet(*names: str, round: int = 0, step: int = masking.UPLOAD) -> Silent:
    """Some clients are silent in a round: when they are to send what they trained, or earlier."""

    def is_silent(client: str, request: Request) -> bool:
        if client not in names or request.round != round:
            return False
        if request.kind == "train":
            return True
        return request.kind == "sum" and started[client] and request.meta["step"] == step

    started = dict.fromkeys(names, False)

    def watch(client: str, request: Request) -> bool:
        if client in names and request.kind == "sum" and request.meta["step"] == 0:
            started[client] = (request.meta.get("inner") or {}).get("kind") == "train"
        return is_silent(client, request)

    return watch


BOUNDS = {32: 5e-6, 24: 1e-4}


def exact(network: Lossy, *, by_rows: bool) -> npt.NDArray[np.float64]:
    """The mean change that a run in the clear should come to, in float64."""
    vectors = {r.client_id: r.arrays["vector"] for r in network.heard if "vector" in r.arrays}
    start = next(r.arrays["vector"] for _, r in network.asked if r.kind == "train")
    changes = [vector.astype(float) - start.astype(float) for vector in vectors.values()]
    rows = [len(tables()[name]) if by_rows else 1 for name in vectors]
    return np.average(changes, axis=0, weights=rows)


@pytest.mark.parametrize("rule", ["fedavg", "weighted"])
@pytest.mark.parametrize("silent", [(), ("b",)])
def test_the_update_is_that_of_a_run_in_the_clear(rule: str, silent: tuple[str, ...]) -> None:
    choices = {"aggregation": rule, "config": STEADY}
    _, plain, network = run(quiet(*silent), **choices)
    expected = exact(network, by_rows=rule == "weighted")
    assert error(plain, expected) < 5e-6
    for bits, bound in BOUNDS.items():
        choices |= {"secure_aggregation": True, "secure_aggregation_bits": bits}
        secure, change, _ = run(quiet(*silent), **choices)
        assert secure.reports[0].clients == tuple(sorted(set(NAMES) - set(silent)))
        assert secure.reports[0].dropped == silent
        assert error(change, expected) <= bound


KINDS_OF_RUN = {
    "tvae": {"config": QUICK_TVAE, "method": "tvae"},
    "scaffold": {"aggregation": "scaffold"},
    "generator": {"synchronize": "generator"},
    "discriminator": {"synchronize": "discriminator"},
    "some of them": {"client_fraction": 0.6},
    **{
        rule: pytest.param({"aggregation": rule}, marks=pytest.mark.slow)
        for rule in ("fedprox", "fedadam", "fedyogi", "fedavgm")
    },
}


@pytest.mark.parametrize("choices", KINDS_OF_RUN.values(), ids=KINDS_OF_RUN.keys())
def test_every_plan_that_is_a_sum_ends_where_it_does_in_the_clear(choices: dict[str, Any]) -> None:
    choices = {"n_rounds": 3, **choices}
    _, plain, _ = run(**choices)
    secure, change, _ = run(secure_aggregation=True, **choices)
    assert [report.failed for report in secure.reports] == [{}] * 3
    # Rounding differs by 1e-6; an adaptive rule divides by what may be next to nothing.
    adaptive = choices.get("aggregation") in ("fedadam", "fedyogi")
    # And of clients that were not all in the round before, optimisers begin anew.
    loose = adaptive or "client_fraction" in choices
    assert error(change, plain) < (0.5 if loose else 0.01)
    losses = secure.reports[0].metrics
    assert "update_norm" in losses
    assert all(np.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("step", range(STEPS))
def test_a_client_that_was_away_takes_part_in_the_next_round(step: int) -> None:
    secure, _, network = run(quiet("c", step=step), n_rounds=2, secure_aggregation=True)
    first, second = secure.reports
    is_in = step > masking.UPLOAD
    assert first.clients == (NAMES if is_in else ("a", "b", "d", "e"))
    assert first.dropped == (() if is_in else ("c",))
    assert second.clients == NAMES
    assert not any(reply.error for reply in network.heard)


def test_too_few_end_the_run_and_say_who_was_missing() -> None:
    with pytest.raises(FederationError, match="too few clients are left") as raised:
        run(quiet("b", "d"), n_rounds=2, secure_aggregation=True)
    assert "3 of 5 where 4 are needed" in str(raised.value)
    assert "'b': no answer; 'd': no answer" in str(raised.value)


def test_a_run_that_was_stopped_early_takes_the_sum_of_the_rest() -> None:
    class Stop(Start):
        def on_round_complete(self, run: Federation, report: Any) -> None:
            run.stop("enough")

    choices = {"synchronize": "discriminator", "n_rounds": 3, "config": STEADY}
    _, plain, _ = run(callbacks=[Stop()], **choices)
    _, change, network = run(callbacks=[Stop()], secure_aggregation=True, **choices)
    assert error(change, plain) <= 3 * BOUNDS[32]  # neither of them is exact
    assert "collect" in {
        (request.meta.get("inner") or {}).get("kind") for _, request in network.asked
    }


def test_nothing_but_sums_crosses() -> None:
    _, _, network = run(n_rounds=2, secure_aggregation=True)
    _, _, plain = run(n_rounds=2)
    arrays = {name for reply in network.heard for name in reply.arrays}
    assert arrays == {"message"}
    assert not any(reply.meta.get("labels") for reply in network.heard)
    for reply in network.heard:
        assert reply.meta.keys() <= {
            *("schema", "key", "labels", "private", "rows", "parameters", "deviation")
        }
        assert reply.meta.get("rows") is None
    # The real updates, and the real counts, are in no message: neither as numbers nor as changes.
    sent = b"".join(reply.arrays["message"].tobytes() for reply in network.heard if reply.arrays)
    for reply in plain.heard:
        for name, array in reply.arrays.items():
            part = array[np.flatnonzero(array)][:4] if name == "counts" else array[:4]
            assert len(part) < 4 or part.tobytes() not in sent


def test_a_loss_that_is_not_finite_ends_the_run_as_it_does_in_the_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = Shard.handle

    def diverge(self: Shard, request: Request) -> Reply:
        if request.kind == "train" and self.client_id == "d":
            return Reply("d", meta={"error_type": "TrainingError"}, error="the loss is nan")
        return handle(self, request)

    monkeypatch.setattr(Shard, "handle", diverge)
    with pytest.raises(TrainingError, match="diverged in round 1 at client 'd'"):
        run(secure_aggregation=True)


# --- runs that go on ---


class Interrupted(BaseException):
    """Ends a server in the middle of something."""


def resumable(network: Lossy, folder: Path, resume: bool) -> Federation:
    plan = Plan(**CHOICES | {"n_rounds": 3, "secure_aggregation": True})
    federation = Federation(plan, network, (CheckpointCallback(folder),))
    federation.run(folder if resume else None)
    return federation


@pytest.mark.parametrize("new_clients", [False, True])
def test_a_server_that_is_stopped_again_and_again_goes_on(
    tmp_path: Path, new_clients: bool
) -> None:
    """In the middle of the second round: its clients live on, or were started again too."""

    def clients() -> dict[str, SecureShard]:
        return secured({name: Shard(name, table) for name, table in tables().items()})

    def stops(client: str, request: Request) -> bool:
        if step_of(request) == ("train", 1, 0):
            reached.append(client)
        if reached and request.kind == "sum" and request.meta["step"] == masking.REVEAL:
            raise Interrupted
        return False

    reached: list[str] = []
    network = Lossy(clients(), stops)
    for attempt in range(3):
        reached.clear()
        if new_clients and attempt:
            network.shards = clients()
        with pytest.raises(Interrupted):
            resumable(network, tmp_path, resume=attempt > 0)
    if new_clients:
        network.shards = clients()
    network.silent = lambda *_: False
    federation = resumable(network, tmp_path, resume=True)
    assert [report.clients for report in federation.reports] == [NAMES] * 3
    assert federation.state is not None
    if new_clients:  # those that live on have trained the second round more than once
        whole, _, _ = run(n_rounds=3, secure_aggregation=True)
        assert whole.state is not None
        assert torch.equal(federation.state.vector, whole.state.vector)


def test_a_server_that_is_stopped_before_the_rounds_begins_anew() -> None:
    """With the same clients, which have counted for it and not been in the sum of a round."""

    def stops(client: str, request: Request) -> bool:
        nonlocal kind
        kind = (request.meta.get("inner") or {"kind": kind})["kind"]
        if client == "e" and kind == "train" and request.meta["step"] == masking.UPLOAD:
            raise Interrupted
        return False

    kind = ""
    shards = {name: Shard(name, table) for name, table in tables().items()}
    network = Lossy(secured(shards), stops)
    plan = Plan(**CHOICES | {"secure_aggregation": True})
    with pytest.raises(Interrupted):
        Federation(plan, network).run()
    network.silent = lambda *_: False
    anew = Federation(plan, network)
    anew.run()
    assert anew.reports[0].clients == NAMES
    whole, _, _ = run(secure_aggregation=True)
    assert anew.state is not None
    assert whole.state is not None
    assert torch.equal(anew.state.vector, whole.state.vector)
    with pytest.raises(FederationError, match="taken part in another session already"):
        Federation(plan, network).run()


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [
        genesis.FederatedSynthesizer(**CHOICES, secure_aggregation=True).fit(tables())
        for _ in range(2)
    ]
    first, second = (each.generate(20, seed=3) for each in runs)
    assert first.equals(second)
