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
from genesis.privacy import client_guard, distributed, guard
from genesis.privacy import noise as noises
from genesis.privacy.accounting import epsilon, epsilon_prv, epsilon_rdp
from genesis.privacy.budget import Privacy
from genesis.privacy.client_guard import ClientGuard
from genesis.privacy.client_level import (
    WEIGHT,
    Rounds,
    noise_to_signal,
    planned_counts,
    skellam_share,
)
from genesis.privacy.distributed import NoisySum, OneCohort, rounded, shared_counts
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
from genesis.privacy.report import client_report, in_words, record_report, recomputed
from genesis.statistics import PooledStatistics, Question, ShardStatistics

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
STATED = Schema.infer(TABLE, [])
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


@pytest.mark.parametrize("wrong", [{"l1": 0.5}, {"l2": 0.0}, {"noise_multiplier": -1}, {"count": 0}])
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
            found.encode(nothing, noise).view(np.int32).astype(np.int64)
            for _ in range(honest)
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
    patch.setattr(Privacy, "honest", lambda self, clients, present=None: clients)


def deviation_instead_of_variance(patch: Patch) -> None:
    """A share of 1 / h of the deviation adds up to 1 / √h of it."""
    for place in (distributed, guard):
        patch.setattr(place, "skellam_share", lambda variance, n: variance / n**2)


def sized_for_survivors(patch: Patch) -> None:
    patch.setattr(
        Privacy, "honest", lambda self, clients, present=None: clients if present is None else present
    )


def not_clipped(patch: Patch) -> None:
    patch.setattr(distributed, "rounded", lambda x, c, s, noise: rounded(x, math.inf, s, noise))


def rounded_by_normal_noise(patch: Patch) -> None:
    def wrong(x: Any, c: float, s: float, noise: Noise) -> Any:
        exact = x.astype(float) * s * min(1.0, c / max(np.linalg.norm(x), 1e-300))
        return np.rint(exact + noise.normal(len(x)).numpy()).astype(np.int64)

    patch.setattr(distributed, "rounded", wrong)


def seeded(patch: Patch) -> None:
    patch.setattr(Noise, "__init__", lambda self: vars(self).update(vars(repeatable_noise(0))))


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
