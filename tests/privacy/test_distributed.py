"""Noise that clients add together: as much as was planned, of nobody's knowledge, and no less.

A check passes on what is shipped. A bug is planted in it, as somebody might write it, and the same
check must then fail: a check that finds nothing proves nothing.
"""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import ive, ndtr

from genesis import Classifier, Schema, Synthesizer
from genesis.errors import PlanError, PrivacyError
from genesis.privacy import distributed, guard
from genesis.privacy import noise as noises
from genesis.privacy.accounting import epsilon, epsilon_prv, epsilon_rdp
from genesis.privacy.budget import Privacy
from genesis.privacy.client_guard import ClientGuard
from genesis.privacy.client_level import (
    WEIGHT,
    Rounds,
    noise_to_signal,
    planned_counts,
)
from genesis.privacy.distributed import NoisySum, rounded, shared_counts
from genesis.privacy.events import (
    Gaussian,
    SampledGaussian,
    Skellam,
    SkellamSum,
    Threshold,
    event_from_dict,
    event_to_dict,
    times,
)
from genesis.privacy.guard import Guard, Statistics
from genesis.privacy.ledger import Ledger
from genesis.privacy.noise import Noise, repeatable_noise
from genesis.privacy.plan import PlannedRun, plan
from genesis.privacy.report import client_report, in_words, recomputed, record_report
from genesis.statistics import DISCRETE, PooledStatistics, Question, ShardStatistics

Patch = pytest.MonkeyPatch

RECORDS = Privacy(2.0, trust="distributed")
CLIENTS = Privacy(4.0, unit="client", trust="distributed", max_grad_norm=0.5)
COHORT = [f"client {i}" for i in range(7)]  # of which two may collude
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": RNG.integers(18, 80, 600),
        "town": pd.Categorical(RNG.choice(["a", "b", "c"], 600)),
        "rare": ["x"] * 599 + ["only one has this"],
    }
)
SCHEMA = Schema.infer(TABLE, []).without_values()
SHARD = ShardStatistics(SCHEMA, TABLE)
STATED = Schema(
    tuple(
        replace(column, categories=tuple(sorted(TABLE[column.name].unique())))
        if column.kind in DISCRETE
        else column
        for column in Schema.infer(TABLE, [])
    )
)
STATED_SHARD = ShardStatistics(STATED, TABLE)
TOWN = [Question("town", labels=("a", "b"))]
ALPHA = 1e-7  # chance that a test of right noise fails


def noisy_sum(**changed: Any) -> NoisySum:
    choices: dict[str, Any] = {
        "clients": 7,
        "threshold": 5,
        "parameters": 1000,
        "n_rounds": 10,
    }
    return NoisySum.planned((), CLIENTS, **{**choices, **changed})


def is_variance(drawn: npt.NDArray[Any], variance: float) -> bool:
    """Whether Skellam numbers, which are all but normal ones, may have a variance."""
    square = np.square(drawn.astype(float)).sum() / variance
    chance = stats.chi2.cdf(square, drawn.size)
    return bool(ALPHA < chance < 1 - ALPHA)


# --- noise of a large variance ---


@pytest.mark.parametrize("variance", [1e4, 1e5, 1e6])
def test_normal_noise_that_is_kept_by_chance_is_skellam_noise(variance: float) -> None:
    k = np.arange(-int(9.5 * math.sqrt(variance)), int(9.5 * math.sqrt(variance)) + 1)
    deviation = math.sqrt(variance)
    normal = ndtr((0.5 - abs(k)) / deviation) - ndtr((-0.5 - abs(k)) / deviation)
    kept = noises._log_kept(k / deviation, variance)
    assert kept.max() <= 0
    found = normal * np.exp(kept)
    exact = ive(abs(k), variance)
    wrong = np.abs(found / found.sum() - exact / exact.sum()).sum()
    assert wrong < 0.1 / variance**2 + 1e-12
    assert np.abs(normal - exact).sum() > 0.01 / variance  # which uncorrected noise is not


@pytest.mark.parametrize("variance", [1e6, 1e12, 1e15, 4e16])
def test_noise_of_a_large_variance_has_its_distribution(variance: float) -> None:
    drawn = repeatable_noise(3).skellam(300_000, variance)
    assert drawn.dtype == np.int64
    assert is_variance(drawn, variance)
    assert stats.kstest(drawn / math.sqrt(variance), "norm").pvalue > ALPHA
    # Every digit is noise: also the last one.
    assert stats.chisquare(np.bincount(drawn & 15)).pvalue > ALPHA


def test_large_noise_takes_fresh_keys_of_the_operating_system() -> None:
    import os

    noise, asked = Noise(), []

    def entropy(n: int) -> bytes:
        asked.append(n)
        return os.urandom(n)

    noise._entropy = entropy
    noise.skellam(5, 1e12)
    assert asked == [32, 32]


# --- what it costs ---


def exact_renyi(shift: int, variance: float, order: int) -> float:
    """Rényi divergence of Skellam noise from the same, moved, by summing it up."""
    reach = int(14 * math.sqrt(variance)) + 40 + shift
    k = np.arange(-reach, reach + 1)
    p, q = ive(abs(k), variance), ive(abs(k - shift), variance)
    known = (p > 1e-290) & (q > 1e-290)
    logs = order * np.log(p[known]) + (1 - order) * np.log(q[known])
    return float(np.logaddexp.reduce(logs)) / (order - 1)


@pytest.mark.parametrize("variance", [0.8, 4.0, 100.0, 1e4])
@pytest.mark.parametrize("shift", [1, 2, 7])
def test_the_bound_is_above_what_noise_really_costs(shift: int, variance: float) -> None:
    multiplier = math.sqrt(variance) / shift
    from genesis.privacy.accounting import _skellam_sum

    line = _skellam_sum(SkellamSum(multiplier, shift, shift))
    for order in (2, 3, 5, 8, 16):
        bound = line.xi + line.rho * order
        assert exact_renyi(shift, variance, order) <= bound * (1 + 1e-9)


@pytest.mark.parametrize(("multiplier", "count"), [(1.0, 1), (6.0, 20), (50.0, 100), (300.0, 100)])
def test_it_costs_a_little_more_than_normal_noise(multiplier: float, count: int) -> None:
    found = epsilon([SkellamSum(multiplier, 1e6, 1e9, count)], 1e-5)
    normal = [Gaussian(multiplier, count)]
    assert epsilon(normal, 1e-5) <= found <= 1.15 * epsilon_rdp(normal, 1e-5)
    small = epsilon([SkellamSum(multiplier, 10.0, 100.0, count)], 1e-5)
    assert found <= small


MIXED = [
    SkellamSum(30.0, 1000.0, 1000.0, 20),
    SkellamSum(8.0, 1e6, 1e9, 10),
    Gaussian(9.0, 3),
    SampledGaussian(2.0, 0.05, 100),
    Skellam(40.0, 12),
    Threshold(20.0, 1e-7, 2),
]


def test_releases_of_all_kinds_add_up() -> None:
    everything = epsilon(MIXED, 1e-5)
    for n in range(1, len(MIXED)):
        part = epsilon(MIXED[:n], 1e-5)
        assert part < epsilon(MIXED[: n + 1], 1e-5) <= everything
    # As much as if all were normal noise, of which the cost is known better.
    normal = [
        Gaussian(event.noise_multiplier, event.count) if isinstance(event, SkellamSum) else event
        for event in MIXED
    ]
    assert epsilon(normal, 1e-5) <= everything <= 1.2 * epsilon(normal, 1e-5)
    assert epsilon(MIXED[::-1], 1e-5) == everything
    assert epsilon([MIXED[0], Threshold(20.0, 1e-5, 2)], 1e-5) == math.inf  # δ is spent
    assert epsilon([SkellamSum(1e-9, 1.0, 1.0)], 1e-5) == math.inf
    with pytest.raises(PrivacyError):
        epsilon_prv(MIXED[:1], 1e-5)


@pytest.mark.parametrize(
    "wrong", [{"l1": 0.5}, {"l2": 0.0}, {"noise_multiplier": -1}, {"count": 0}]
)
def test_an_event_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    event = SkellamSum(3.0, 10.0, 20.0, 4, "rounds")
    assert event_from_dict(json.loads(json.dumps(event_to_dict(event)))) == event
    with pytest.raises(PrivacyError):
        event_from_dict({**event_to_dict(event), **wrong})


# --- the sum of changes, and bugs in it ---

Check = Callable[[], None]
Bug = Callable[[Patch], None]


def noise_is_enough() -> None:
    """The shares of the fewest honest clients make the noise that was planned, and no more."""
    # 5 of 7 are in the sum, 2 of whom collude; 7 of 10, and 3.
    few = noisy_sum(parameters=100_000), noisy_sum(clients=10, threshold=7)
    for found, honest in zip(few, (3, 4), strict=True):
        event = found.event()
        planned = (event.noise_multiplier * event.l2) ** 2
        noise, nothing = Noise(), np.zeros(found.parameters)
        total = sum(
            found.encode(nothing, noise).view(np.int32).astype(np.int64) for _ in range(honest)
        )
        assert isinstance(total, np.ndarray)
        assert is_variance(total, planned)
        assert stats.kstest(total / math.sqrt(planned), "norm").pvalue > ALPHA
    # Of statistics all 7 are in the sum, 2 of whom collude.
    records = Guard(RECORDS)
    records.begin(SCHEMA)
    assert records.deviation_in(COHORT) * math.sqrt(5) == pytest.approx(records.deviation)


def a_change_is_bounded() -> None:
    """No client changes the sum by more than the event says, whatever its change is."""
    found = noisy_sum(parameters=400)
    event, rng = found.event(), np.random.default_rng(0)
    half = np.full(400, 0.5 / found.scale) + 1e-12
    for change in (
        rng.normal(0, 1e6, 400),
        rng.normal(0, 1e-3, 400).astype(np.float32),
        np.eye(400)[3] * 0.5,
        -np.eye(400)[3] * 1e30,
        half,
        np.zeros(400),
    ):
        whole = distributed.rounded(change, found.max_norm, found.scale, Noise()).astype(float)
        assert np.linalg.norm(whole) <= event.l2
        assert np.abs(whole).sum() <= event.l1
    # Next to a clip of 0 there is nothing but what rounding adds, of which l2 has just so much.
    tiny = distributed.rounded(np.full(400, 0.999), 1e-3, 1.0, Noise())
    assert np.linalg.norm(tiny.astype(float)) <= 1e-3 + math.sqrt(400)
    assert set(np.unique(tiny)) <= {0, 1}
    for wrong in (math.nan, math.inf):
        assert not distributed.rounded(np.array([1.0, wrong]), 1.0, 100.0, Noise()).any()


def nobody_can_repeat_it() -> None:
    """Neither a seed nor what was sent before tells the noise."""
    found, sent = noisy_sum(), []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        noise = Noise()
        sent += [found.encode(np.zeros(1000), noise) for _ in range(2)]
    for one, other in itertools.combinations(sent, 2):
        assert (one != other).mean() > 0.99


def the_mean_comes_back() -> None:
    """Of clients that all change as much as they may in one number, with all their noise."""
    found = noisy_sum(clients=1000, threshold=667, parameters=4)
    change = np.array([0.5, 0, 0, 0])
    noise = Noise()
    with np.errstate(over="ignore"):
        total = sum(found.encode(change, noise).astype(np.uint64) for _ in range(1000))
    ring = np.asarray(total).astype(np.uint32).view(np.int32).astype(np.int64)
    spread = found.most_noise * found.max_norm / found.clients
    wrong = np.abs(found.decode(ring) - change)
    assert wrong.max() < 7 * spread
    assert spread < 0.02
    # There is room for more, so that it never wraps around.
    fullest = found.clients * found.amplitude + 9.9 * found.most_noise * found.amplitude
    assert 2**28 < fullest < 2**31


CHECKS: list[Check] = [
    noise_is_enough,
    a_change_is_bounded,
    nobody_can_repeat_it,
    the_mean_comes_back,
]


def shares_for_all_clients(patch: Patch) -> None:
    """As if nobody colluded, and nobody dropped out."""
    patch.setattr(Privacy, "honest", lambda _, clients, *__: clients)


def deviation_instead_of_variance(patch: Patch) -> None:
    """A share of 1 / h of the deviation adds up to 1 / √h of it."""
    for place in (distributed, guard):
        patch.setattr(place, "skellam_share", lambda variance, n: variance / n**2)


def sized_for_survivors(patch: Patch) -> None:
    patch.setattr(
        Privacy,
        "honest",
        lambda _, *given: given[-1],
    )


def not_clipped(patch: Patch) -> None:
    patch.setattr(distributed, "rounded", lambda x, _, s, noise: rounded(x, 1e300, s, noise))


def rounded_by_normal_noise(patch: Patch) -> None:
    def wrong(x: Any, c: float, s: float, noise: Noise) -> Any:
        exact = x.astype(float) * s * min(1.0, c / max(np.linalg.norm(x), 1e-300))
        return np.rint(exact + noise.normal(len(x)).numpy()).astype(np.int64)

    patch.setattr(distributed, "rounded", wrong)


def seeded(patch: Patch) -> None:
    def init(self: Noise) -> None:
        self._entropy, self._uniform = np.random.default_rng(0).bytes, np.empty(0, np.float32)

    patch.setattr(Noise, "__init__", init)


def no_room_for_noise(patch: Patch) -> None:
    patch.setattr(distributed, "TAIL", 0.0)


def too_large(patch: Patch) -> None:
    patch.setattr(distributed, "MOST", 2**33)


BUGS: list[tuple[Check, Bug]] = [
    (noise_is_enough, deviation_instead_of_variance),
    (noise_is_enough, shares_for_all_clients),
    (noise_is_enough, sized_for_survivors),
    (a_change_is_bounded, not_clipped),
    (a_change_is_bounded, rounded_by_normal_noise),
    (nobody_can_repeat_it, seeded),
    (the_mean_comes_back, too_large),
    (the_mean_comes_back, no_room_for_noise),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_is_shipped_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "plant"), BUGS, ids=lambda part: part.__name__)
def test_what_is_planted_is_found(check: Check, plant: Bug, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


# --- rounding ---


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-3, 1e3),
    st.integers(0, 24),
)
def test_rounding_moves_no_number_by_one(change: Any, max_norm: float, bits: int) -> None:
    scale = 2.0**bits / max_norm
    whole = rounded(change, max_norm, scale, Noise())
    norm = np.linalg.norm(change.astype(float))
    exact = change.astype(float) * scale * (min(max_norm / norm, 1) if norm else 1)
    assert (np.abs(whole - exact) <= 1 + 1e-6 * np.abs(exact)).all()
    assert np.linalg.norm(whole.astype(float)) <= 2.0**bits + math.sqrt(len(change))


def test_rounding_is_right_on_average() -> None:
    whole = rounded(np.full(400_000, 0.3), 1e9, 1.0, Noise())
    assert stats.binomtest(int(whole.sum()), len(whole), 0.3).pvalue > ALPHA
    whole = rounded(np.full(400_000, -0.3), 1e9, 1.0, Noise())
    assert stats.binomtest(int(-whole.sum()), len(whole), 0.3).pvalue > ALPHA


# --- a run's changes ---


@pytest.mark.parametrize(
    ("clients", "parameters", "n_rounds"),
    [(3, 1_000_000, 100), (10, 1_000_000, 1), (1000, 50_000, 300), (100_000, 10, 20), (50, 1, 5)],
)
def test_all_rounds_stay_within_the_promise(clients: int, parameters: int, n_rounds: int) -> None:
    spent = (shared_counts(STATED, CLIENTS),)
    choices = {"clients": clients, "parameters": parameters, "n_rounds": n_rounds}
    threshold = max(2 * clients // 3 + 1, 3)
    found = NoisySum.planned(spent, CLIENTS, threshold=threshold, **choices)
    assert 0.99 * 4.0 < epsilon([*spent, found.event(n_rounds)], 1e-5) <= 4.0
    assert epsilon([*spent, found.event(n_rounds + max(n_rounds // 20, 1))], 1e-5) > 4.0
    assert math.log2(found.amplitude).is_integer()
    assert found == NoisySum.planned(spent, CLIENTS, threshold=threshold, **choices)
    # What all of them draw is at most about √3 times what is needed, and not less.
    assert 1 <= found.most_noise / found.noise_multiplier < 1.8


def test_where_there_is_no_room_it_is_said() -> None:
    with pytest.raises(PlanError, match="no room for the noise"):
        noisy_sum(clients=2 * 10**9, threshold=2 * 10**9)
    with pytest.raises(PlanError, match=r"all of them might tell .*got 3 of 7 clients, 3 of them"):
        NoisySum.planned(
            (),
            Privacy(4.0, unit="client", trust="distributed", colluding=3),
            clients=7,
            threshold=3,
            parameters=9,
            n_rounds=1,
        )
    with pytest.raises(PrivacyError, match="another size"):
        noisy_sum().encode(np.zeros(999), Noise())


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 9), st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_the_ring_gives_the_mean_of_what_was_clipped(n: int, seed: int, parameters: int) -> None:
    found = noisy_sum(clients=n, threshold=max(2 * n // 3 + 1, 3), parameters=parameters)
    rng = np.random.default_rng(seed)
    changes = [rng.normal(0, 0.1, parameters).astype(np.float32) for _ in range(n)]
    total, noise = np.zeros(parameters, dtype=np.uint32), repeatable_noise(seed)
    for change in changes:
        total += found.encode(change, noise)
    clipped = [c * min(1.0, 0.5 / np.linalg.norm(c)) for c in changes]
    wrong = found.decode(total.view(np.int32).astype(np.int64)) - np.mean(clipped, axis=0)
    assert np.abs(wrong).max() < 8 * found.most_noise * found.max_norm / n


def test_what_an_attacker_finds_is_less_than_was_promised() -> None:
    """One client's largest change, against zeros, behind the shares of the honest ones alone."""
    found, n = noisy_sum(parameters=1, n_rounds=1), 100_000
    event, noise = found.event(), Noise()
    drawn = [
        sum(noise.skellam(n, found.share_variance) for _ in range(found.honest)) for _ in range(2)
    ]
    change = rounded(np.array([0.5]), found.max_norm, found.scale, noise)
    without, with_it = drawn[0], drawn[1] + change
    promised, delta = epsilon([event], 1e-5), 1e-5
    best = 0.0
    for bound in np.quantile(with_it, [0.5, 0.8, 0.9, 0.95, 0.99]):
        hits, false = int((with_it > bound).sum()), int((without > bound).sum())
        low = stats.binomtest(hits, n).proportion_ci(0.9999).low
        high = stats.binomtest(false, n).proportion_ci(0.9999).high
        best = max(best, math.log(max(low - delta, 1e-9) / high))
    assert 0.3 * promised < best <= promised


# --- records ---


def begun(promise: Privacy = RECORDS, **choices: Any) -> Guard:
    found = Guard(promise, **choices)
    found.begin(SCHEMA)
    return found


def test_shares_do_not_leave_but_for_a_sum() -> None:
    found = begun()
    for ask in (
        lambda: found.answer(SHARD, TOWN),
        lambda: found.rows_in(600, None),
        lambda: found.deviation_in(None),
    ):
        with pytest.raises(PrivacyError, match="hides nothing outside of a sum"):
            ask()
    assert found.ledger.events == ()


def test_a_sum_of_shares_is_as_noisy_as_one_client_would_be() -> None:
    drawn: list[Any] = []
    question = [Question("town", labels=tuple(f"none {i}" for i in range(4000)))]
    for _ in range(5):  # 7 without those who collude
        found = begun()
        drawn.append(found.answer(SHARD, question, cohort=COHORT))
    assert is_variance(np.asarray(sum(drawn)), found.deviation**2)
    assert is_variance(drawn[0], found.deviation_in(COHORT) ** 2)
    # Local noise is whole, wherever it goes.
    local = begun(Privacy(2.0))
    assert local.deviation_in(COHORT) == local.deviation_in(None) == local.deviation
    assert is_variance(local.answer(SHARD, question, cohort=COHORT), local.deviation**2)


def test_the_ledger_tells_of_the_sum() -> None:
    found = begun()
    found.answer(SHARD, TOWN, cohort=COHORT)
    counts, names = found.ledger.events
    assert isinstance(counts, Skellam)
    assert isinstance(names, Threshold)
    assert counts.deviation == found.deviation
    assert names == Statistics.planned(SCHEMA, Privacy(2.0)).events[1]
    assert counts.count == times(Statistics.planned(SCHEMA, Privacy(2.0)).events[0]) + 1


def test_what_a_client_does_by_itself_has_all_of_the_noise(monkeypatch: Patch) -> None:
    used: list[float] = []

    def spy(counts: Any, deviation: float, _: Noise) -> Any:
        used.append(deviation)
        return counts

    monkeypatch.setattr(guard, "noisy_counts", spy)
    found = begun()
    assert found.labels(SHARD)["rare"] == ["x"]
    assert found.count_rows(600) == 600
    assert found.rows_in(600, COHORT) == 600
    assert found.rows_in(7, COHORT) == 600  # what it said
    assert used == [found.deviation, found.deviation_in(COHORT)]
    assert begun(Privacy(2.0)).rows_in(600, None) == 600


def test_other_clients_are_other_sums_and_refused() -> None:
    found = begun()
    found.answer(SHARD, TOWN, cohort=COHORT)
    for other in (COHORT[:-1], [*COHORT[:-1], "another"], [*COHORT, "one more"]):
        with pytest.raises(PrivacyError, match="summed over other clients before"):
            found.answer(SHARD, TOWN, cohort=other)
    found.answer(SHARD, TOWN, cohort=COHORT[::-1])
    again = Guard(RECORDS)
    again.restore(json.loads(json.dumps(found.to_dict())))
    with pytest.raises(PrivacyError, match="summed over other clients before"):
        again.answer(SHARD, TOWN, cohort=COHORT[:-1])
    again.answer(SHARD, TOWN, cohort=COHORT)


def test_a_whole_run_pays_for_all_statistics() -> None:
    found, private = begun(), PooledStatistics(SCHEMA, [begun().labels(SHARD)], private=True)
    while questions := private.questions():
        counts = found.answer(SHARD, questions, cohort=COHORT)
        ends = np.cumsum([question.size for question in questions])[:-1]
        private.take(np.split(counts, ends), found.deviation, found.rows_in(600, COHORT))
    found.count_rows(600)
    found.plan_training(batch_size=50, epochs=2)
    found.steps(2)
    assert 1.8 < found.ledger.epsilon(RECORDS.delta) <= 2.0


# --- whole clients ---


def hidden(**choices: Any) -> ClientGuard:
    found = ClientGuard(CLIENTS, **choices)
    found.begin(STATED)
    return found


def ready(n_rounds: int = 3, **choices: Any) -> ClientGuard:
    found = hidden(**choices)
    found.answer(STATED_SHARD, TOWN, rows=600, cohort=COHORT)
    found.plan_rounds(50, clients=7, threshold=5, n_rounds=n_rounds)
    return found


def test_counts_of_a_client_are_those_of_one() -> None:
    question = [Question("town", labels=("a", *(f"none {i}" for i in range(4000))))]
    drawn = [hidden().answer(STATED_SHARD, question, rows=600, cohort=COHORT) for _ in range(5)]
    found = hidden()
    found.answer(STATED_SHARD, question, rows=600, cohort=COHORT)
    (event,) = found.ledger.events
    assert isinstance(event, SkellamSum)
    assert event == shared_counts(STATED, CLIENTS)
    assert (event.l1, event.l2) == (WEIGHT, WEIGHT)
    total = np.asarray(sum(drawn))[1:]
    assert is_variance(total, (event.noise_multiplier * WEIGHT) ** 2)
    assert is_variance(drawn[0][1:], found.deviation_in(COHORT) ** 2)


def test_no_more_counts_than_were_planned() -> None:
    found = hidden()
    for _ in range(shared_counts(STATED, CLIENTS).count):
        found.answer(STATED_SHARD, TOWN, rows=600, cohort=COHORT)
    with pytest.raises(PrivacyError, match="more statistics are asked for"):
        found.answer(STATED_SHARD, TOWN, rows=600, cohort=COHORT)
    with pytest.raises(PrivacyError, match="overlap"):
        hidden().answer(STATED_SHARD, TOWN * 2, rows=600, cohort=COHORT)
    for wrong in (None, COHORT[1:]):
        found = ready()
        with pytest.raises(PrivacyError):
            found.answer(STATED_SHARD, TOWN, rows=600, cohort=wrong)
    with pytest.raises(PlanError, match="states all categories"):
        ClientGuard(CLIENTS).begin(SCHEMA)


def test_no_more_rounds_than_were_planned() -> None:
    found = ready()
    for number in range(3):
        assert found.rounds == number
        sent = found.change(np.zeros(50, np.float32), cohort=COHORT)
        assert sent.dtype == np.uint32
        assert sent.any()
    assert 0.98 * 4.0 < found.ledger.epsilon(CLIENTS.delta) <= 4.0
    with pytest.raises(PrivacyError, match="more rounds than"):
        found.change(np.zeros(50), cohort=COHORT)
    # The server finds the same, by itself.
    server = NoisySum.planned(
        (shared_counts(STATED, CLIENTS),),
        CLIENTS,
        clients=7,
        threshold=5,
        parameters=50,
        n_rounds=3,
    )
    assert server == found.sum
    ledger = Ledger((shared_counts(STATED, CLIENTS), server.event(3)))
    assert ledger == found.ledger


def test_rounds_of_other_clients_are_refused() -> None:
    found = ready()
    for wrong in (None, COHORT[1:], [*COHORT, "one more"], COHORT[:6] + COHORT[:1]):
        with pytest.raises(PrivacyError, match="as many clients as were planned"):
            found.change(np.zeros(50), cohort=wrong)
    assert found.rounds == 0
    found.plan_rounds(50, clients=7, threshold=5, n_rounds=3)
    for other in ({"n_rounds": 4}, {"clients": 8}):
        with pytest.raises(PrivacyError, match="other rounds were planned"):
            found.plan_rounds(50, **{"clients": 7, "threshold": 5, "n_rounds": 3, **other})
    with pytest.raises(PrivacyError, match="before the rounds were planned"):
        hidden().change(np.zeros(50), cohort=COHORT)
    with pytest.raises(PrivacyError, match="before the values were counted"):
        hidden().plan_rounds(50, clients=7, threshold=5, n_rounds=3)


def test_a_client_that_is_started_again_knows_what_it_spent() -> None:
    found = ready()
    found.change(np.zeros(50), cohort=COHORT)
    kept = json.loads(json.dumps(found.to_dict()))
    again = ClientGuard(CLIENTS)
    again.restore(kept)
    assert again.to_dict() == found.to_dict()
    assert (again.rounds, again.sum, again.begun) == (1, found.sum, True)
    again.change(np.zeros(50), cohort=COHORT)
    for wrong in ({"counts": 1}, {"sum": {}}, {"ledger": [{}]}, {"promise": {}}, {"n_rounds": "x"}):
        with pytest.raises(PrivacyError):
            ClientGuard(CLIENTS).restore({**kept, **wrong})


def test_an_outlier_or_a_broken_client_changes_no_more_than_any(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Noise, "skellam", lambda _, n, __: np.zeros(n, np.int64))
    for worst in (1e30, math.nan, 1.0):
        found = ready()
        assert found.sum is not None
        sent = found.change(np.full(50, worst, np.float32), cohort=COHORT).view(np.int32)
        assert np.linalg.norm(sent.astype(float)) <= found.sum.event().l2


def test_the_server_adds_no_noise_to_it() -> None:
    for call in (
        lambda: planned_counts(STATED, CLIENTS),
        lambda: Rounds(7, 3).noise_multiplier((), CLIENTS),
        lambda: Synthesizer("tvae", privacy=RECORDS.to_dict()),
        lambda: Classifier(privacy=RECORDS.to_dict()),
        lambda: RECORDS.check_secure(secure=False),
        lambda: CLIENTS.check_secure(secure=False),
    ):
        with pytest.raises(PlanError, match="needs secure aggregation"):
            call()
    CLIENTS.check_secure(secure=True)
    Privacy(1.0).check_secure(secure=False)


# --- the promise ---


def test_the_promise_can_be_written_and_read() -> None:
    promise = Privacy(3.0, trust="distributed", colluding=2)
    assert Privacy.parse(json.loads(json.dumps(promise.to_dict()))) == promise
    text = 'differential_privacy = {epsilon = 3.0, trust = "distributed", colluding = 2}'
    assert Privacy.parse(tomllib.loads(text)) == promise
    assert "colluding" not in Privacy(3.0).to_dict()["differential_privacy"]
    assert promise.needs_secure_aggregation
    assert not Privacy(3.0).needs_secure_aggregation


@pytest.mark.parametrize(
    "said",
    [
        {"colluding": 1},
        {"colluding": -1, "trust": "distributed"},
        {"colluding": True, "trust": "distributed"},
        {"colluding": 1.5, "trust": "distributed"},
        {"trust": "distributed", "overlap": "overlapping"},
        {"trust": "distributed", "unit": "client", "adaptive_clip": True},
        {"trust": "distributed", "unit": "client", "bands": 4},
    ],
)
def test_what_shares_of_noise_do_not_cover_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        Privacy(1.0, **said)


def test_who_is_honest() -> None:
    assert [RECORDS.honest(n) for n in (3, 4, 6, 100)] == [2, 3, 4, 67]
    assert [RECORDS.honest(n, max(2 * n // 3 + 1, 3)) for n in (3, 4, 6, 9, 100)] == [
        2,
        2,
        3,
        4,
        34,
    ]
    all_but_one = Privacy(1.0, trust="distributed", colluding=6)
    assert all_but_one.honest(7) == 1
    with pytest.raises(PlanError, match="all of them might tell"):
        all_but_one.honest(6)


DISTRIBUTED = {"trust": "distributed"}


@pytest.mark.parametrize(
    ("own", "plans", "trust"),
    [
        ({"epsilon": 2.0, **DISTRIBUTED}, {"epsilon": 1.0, **DISTRIBUTED}, "distributed"),
        ({"epsilon": 1.0, **DISTRIBUTED}, {"epsilon": 1.0, **DISTRIBUTED}, "distributed"),
        ({"epsilon": 1.0, **DISTRIBUTED}, {"epsilon": 2.0, **DISTRIBUTED}, "local"),
        ({"delta": 1e-7, **DISTRIBUTED}, DISTRIBUTED, "local"),
        ({"colluding": 3, **DISTRIBUTED}, DISTRIBUTED, "local"),
        ({"statistics": 0.9, **DISTRIBUTED}, DISTRIBUTED, "distributed"),
        ({}, DISTRIBUTED, "local"),
        ({"statistics": 0.9}, DISTRIBUTED, "local"),
        ({"overlap": "overlapping"}, DISTRIBUTED, "local"),
        (DISTRIBUTED, {}, "local"),
    ],
)
def test_a_client_counts_on_no_more_than_the_plan_says(
    own: dict[str, Any], plans: dict[str, Any], trust: str
) -> None:
    mine, theirs = (Privacy(**{"epsilon": 1.0, **said}) for said in (own, plans))
    both = mine.stricter(theirs)
    assert both.trust == trust
    assert both.epsilon == min(mine.epsilon, theirs.epsilon)
    assert both.delta == min(mine.delta, theirs.delta)
    # Others count on a share of this client's; it adds that at least.
    if theirs.trust == "distributed":
        assert begun(both).deviation_in(COHORT) >= begun(theirs).deviation_in(COHORT)
    # It counts on theirs, which are those of the plan.
    if trust == "distributed":
        assert begun(both).deviation_in(COHORT) == begun(theirs).deviation_in(COHORT)


def test_where_the_plan_promises_nothing_all_noise_is_the_clients_own() -> None:
    promise = Privacy(1.0, trust="distributed", colluding=1, ledger="x")
    assert promise.by_itself() == Privacy(1.0, ledger="x")
    assert Privacy(2.0).by_itself() == Privacy(2.0)


# --- what is told ---


def test_the_report_says_whom_to_trust() -> None:
    found = ready()
    found.change(np.zeros(50), cohort=COHORT)
    told = client_report(CLIENTS, found.ledger, clients=7)
    assert recomputed(json.loads(json.dumps(told)))["epsilon"] == told["epsilon"]
    assert told["trust"] == "distributed"
    assert "no more than a third of the clients in a sum tell" in told["protects"]
    assert "clients add all noise together" in told["protects"]
    assert "Rényi" in told["accountant"]
    assert "trust: distributed" in in_words(told)
    few = Privacy(4.0, unit="client", trust="distributed", colluding=2)
    assert "2 of the clients" in client_report(few, found.ledger, clients=7)["protects"]

    records = begun()
    records.answer(SHARD, TOWN, cohort=COHORT)
    own = begun(Privacy(2.0))
    own.count_rows(600)
    both = {"a": records.spent(), "b": own.spent()}
    told = record_report(
        both, ["a", "b"], overlap="disjoint", public_schema=False, gradients="clipped"
    )
    assert told["trust"] == "distributed"
    assert "all other noise each by itself" in told["protects"]
    assert "loss distributions" in told["accountant"]
    assert recomputed(told)["epsilon"] == told["epsilon"]


def test_a_plan_tells_what_together_costs_less() -> None:
    run = PlannedRun(RECORDS, STATED, 7000, 500, 400, clients=7, n_rounds=3, public_schema=True)
    alone = PlannedRun(
        Privacy(2.0), STATED, 7000, 500, 400, clients=7, n_rounds=3, public_schema=True
    )
    together, apart = plan(run), plan(alone)
    assert together.sum_deviation < 0.6 * apart.sum_deviation
    assert together.deviation is not None
    assert together.deviation == pytest.approx(together.sum_deviation / math.sqrt(7))
    assert together.noise_multiplier == pytest.approx(apart.noise_multiplier, rel=0.02)
    with pytest.raises(PlanError, match="at least 3 of them"):
        PlannedRun(RECORDS, STATED, 7000, 500, 400, clients=2)


def test_a_plan_that_hides_clients_is_what_clients_do() -> None:
    found = ready()
    run = PlannedRun(CLIENTS, STATED, 7000, 50, 40, clients=7, n_rounds=3, public_schema=True)
    told = plan(run)
    assert found.sum is not None
    assert told.noise_multiplier == found.sum.noise_multiplier
    assert told.noise_to_signal == noise_to_signal(found.sum.most_noise, 50, 7)
    assert told.sum_deviation * WEIGHT == pytest.approx(found.deviation_in(COHORT) * math.sqrt(7))
    assert told.epsilon <= 4.0
    assert told.refused is not None
    assert told.records_instead is not None
