"""Client-level mechanisms: against oracles in float64, and what one client can change at most."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genesis.errors import ModelFileError, PlanError
from genesis.privacy.client_level import (
    Adaptive,
    NoisyMean,
    check_meaningful,
    clipped,
    noise_to_signal,
    skellam_share,
)
from genesis.privacy.ftrl import coefficients, takes_part
from genesis.privacy.noise import Noise, repeatable_noise

seeds = st.integers(0, 2**32 - 1)


def spread(seed: int, k: int, p: int = 12) -> Tensor:
    """(k, p) float64 changes with norms from 1e-3 to 1e3."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(k, p))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy(directions * 10 ** rng.uniform(-3, 3, size=(k, 1)))


# --- clipping


@given(seeds, st.integers(0, 9), st.floats(1e-3, 1e3))
def test_clipping_against_a_loop(seed: int, k: int, max_norm: float) -> None:
    changes = spread(seed, k)
    result = clipped(changes, max_norm)
    assert result.shape == changes.shape
    for change, scaled in zip(changes, result, strict=True):
        oracle = change * min(1.0, max_norm / math.sqrt(math.fsum(x * x for x in change.tolist())))
        torch.testing.assert_close(scaled, oracle, rtol=1e-14, atol=0)


def test_short_changes_stay_as_they_are_bit_for_bit() -> None:
    changes = spread(0, 50).float()
    norms = changes.double().norm(dim=1)
    short = norms <= 1
    assert 0 < short.sum() < 50
    assert torch.equal(clipped(changes, 1.0)[short], changes[short])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_change_that_is_not_finite_counts_nothing(bad: float) -> None:
    changes = spread(0, 3).float()
    alone = clipped(changes, 1.0)
    changes[1, 4] = bad
    result = clipped(changes, 1.0)
    assert torch.equal(result[1], torch.zeros(12))
    assert torch.equal(result[[0, 2]], alone[[0, 2]])


@pytest.mark.parametrize("size", [1e-38, 1e15, 1e25, 3e38])
@pytest.mark.parametrize("max_norm", [1e-8, 1.0, 1e8])
def test_no_size_that_float32_has_gets_past_the_clip(size: float, max_norm: float) -> None:
    result = clipped(torch.full((1, 100), size), max_norm)
    assert float(result.double().norm()) <= max_norm * (1 + 1e-6)


# --- the mean


@given(seeds, st.integers(0, 8), st.floats(0.1, 10), st.floats(0.01, 100))
def test_the_mean_against_the_formula(seed: int, k: int, sigma: float, max_norm: float) -> None:
    """Whoever came, the divisor is the number that was expected."""
    expected, vector = 6.5, spread(seed + 1, 1)[0]
    vectors = vector + spread(seed, k)
    mean = NoisyMean(sigma, max_norm, expected)
    result = mean.combine(vector, vectors, repeatable_noise(seed))
    z = repeatable_noise(seed).normal(12).double()
    total = sum((clipped(v[None] - vector, max_norm)[0] for v in vectors), torch.zeros(12).double())
    oracle = vector + (total + sigma * max_norm * z) / expected
    torch.testing.assert_close(result, oracle, rtol=1e-12, atol=1e-12)
    assert mean.max_norm == max_norm


def test_noise_alone_has_the_deviation_that_is_accounted() -> None:
    mean = NoisyMean(noise_multiplier=1.5, max_norm=0.2, expected=8)
    result = mean.combine(torch.zeros(200_000), torch.zeros(0, 200_000), Noise())
    assert result.dtype == torch.float32
    assert float(result.std()) == pytest.approx(1.5 * 0.2 / 8, rel=0.02)  # 12 standard errors


def test_noise_is_fresh_in_every_run() -> None:
    vector, vectors = torch.zeros(5), torch.zeros(2, 5)
    first, second = (NoisyMean(1.0, 1.0, 2).combine(vector, vectors, Noise()) for _ in range(2))
    assert not torch.equal(first, second)


def test_combining_changes_nothing_that_it_is_given() -> None:
    vector, vectors = spread(0, 1)[0], spread(1, 4)
    before = vector.clone(), vectors.clone()
    NoisyMean(1.0, 1.0, 4, bands=2).combine(vector, vectors, repeatable_noise(0))
    assert torch.equal(vector, before[0])
    assert torch.equal(vectors, before[1])


def test_bands_correlate_the_noise_of_rounds() -> None:
    """Over two rounds of two bands, the second takes half of the first's noise away."""
    mean, noise, same = NoisyMean(2.0, 0.5, 4, bands=2), repeatable_noise(0), repeatable_noise(0)
    nothing, none = torch.zeros(9), torch.zeros(0, 9)
    first, second = (mean.combine(nothing, none, noise) for _ in range(2))
    z = [same.normal(9) for _ in range(2)]
    torch.testing.assert_close(first, z[0] / 4)
    torch.testing.assert_close(second, (z[1] - z[0] / 2) / 4)
    assert mean.accounted_noise_multiplier() == pytest.approx(2 / math.sqrt(1 + 1 / 4))
    assert mean.accounted_noise_multiplier(4) == pytest.approx(2 / math.sqrt(2 + 2 / 4))


@pytest.mark.parametrize("bands", [1, 2, 3])
@pytest.mark.parametrize("group", [0, 1, 2])
def test_one_client_moves_all_rounds_together_no_more_than_is_accounted(
    bands: int, group: int
) -> None:
    """What is published, times C and over σ, is standard normal noise around what is moved."""
    rounds, sigma, clip, expected = 8, 0.7, 0.3, 2.5
    vector, change = torch.zeros(12).double(), 1e3 * spread(0, 1)
    published: list[list[Tensor]] = []
    for counts in (1, 0):
        mean, noise = NoisyMean(sigma, clip, expected, bands), repeatable_noise(0)
        published.append([])
        for _ in range(rounds):
            there = counts and takes_part(group, mean.rounds, bands)
            came = change if there else change[:0]
            published[-1].append(mean.combine(vector, came, noise))
    with_it, without = (torch.stack(results) for results in published)
    c = coefficients(bands)
    moved = torch.zeros(rounds, 12).double()
    for j in range(bands):
        moved[j:] += c[j] * (with_it - without)[: rounds - j] * expected / (sigma * clip)
    cost = 1 / mean.accounted_noise_multiplier()
    assert float(moved.norm()) <= cost * (1 + 1e-9)
    if group == 0:
        assert float(moved.norm()) == pytest.approx(cost)


# --- the adaptive clip


@given(st.floats(0.01, 10), st.floats(0.01, 50))
def test_sum_and_count_together_cost_what_is_accounted(sigma: float, spare: float) -> None:
    """Gaussian releases compose as their inverse squares add up."""
    expected = 10 * sigma * (1 + spare)
    adaptive = Adaptive()
    count = adaptive.deviation(expected) / 0.5
    left = adaptive.rest(sigma, expected)
    assert left > sigma
    assert left**-2 + count**-2 == pytest.approx(sigma**-2)


@given(seeds, st.floats(1e-3, 1e3), st.integers(1, 3), st.integers(0, 8))
def test_one_client_moves_no_more_than_is_accounted(
    seed: int, max_norm: float, bands: int, who: int
) -> None:
    """Of sum and count, over their noise: together at most 1/σ, with the client and without."""
    sigma, expected, adaptive = 0.7, 9.0, Adaptive(rate=0.3)
    vector, vectors = torch.zeros(12).double(), spread(seed, 9)
    others = torch.cat([vectors[:who], vectors[who + 1 :]])
    results, clips = [], []
    for came in (vectors, others):
        mean = NoisyMean(sigma, max_norm, expected, bands=bands, adaptive=adaptive)
        results.append(mean.combine(vector, came, repeatable_noise(seed)))
        clips.append(mean.max_norm)
    left = adaptive.rest(sigma, expected)
    moved = float((results[0] - results[1]).norm()) * expected / (left * max_norm)
    counted = math.log(clips[1] / clips[0]) * expected / 0.3 / adaptive.deviation(expected)
    assert abs(counted) == pytest.approx(0.5 / adaptive.deviation(expected))
    assert math.hypot(moved, counted) <= 1 / sigma * (1 + 1e-9)


def test_noise_and_count_use_the_clip_that_did_the_clipping() -> None:
    expected, adaptive = 20.0, Adaptive(quantile=0.5, rate=0.2)
    vector, vectors = torch.zeros(12).double(), spread(3, 20)
    mean = NoisyMean(1.0, 0.5, expected, adaptive=adaptive)
    noise, same = repeatable_noise(3), repeatable_noise(3)
    for _ in range(5):
        clip = mean.max_norm
        result = mean.combine(vector, vectors, noise)
        z, z_count = same.normal(12).double(), float(same.normal(1))
        total = clipped(vectors, clip).sum(0) + adaptive.rest(1.0, expected) * clip * z
        torch.testing.assert_close(result, total / expected, rtol=1e-9, atol=1e-9)
        within = int((vectors.norm(dim=1) <= clip).sum())
        share = 0.5 + (within - 10 + 1.0 * z_count) / expected  # σ_b = 20 / 20
        assert mean.max_norm == pytest.approx(clip * math.exp(-0.2 * (share - 0.5)))


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_clip_finds_the_quantile_from_below_and_above(quantile: float, start: float) -> None:
    rng = np.random.default_rng(0)
    norms = rng.lognormal(sigma=0.5, size=400)
    vectors = torch.zeros(400, 2)
    vectors[:, 0] = torch.from_numpy(norms)
    mean = NoisyMean(1.0, start, 400, adaptive=Adaptive(quantile))
    noise, clips = repeatable_noise(0), []
    for _ in range(300):
        mean.combine(torch.zeros(2), vectors, noise)
        clips.append(mean.max_norm)
    found = math.exp(np.mean(np.log(clips[200:])))
    assert found == pytest.approx(np.quantile(norms, quantile), rel=0.05)


def test_nobody_moves_a_median_clip_by_noise_alone() -> None:
    mean = NoisyMean(1.0, 3.0, 40, adaptive=Adaptive())
    noise = repeatable_noise(0)
    noise.normal = torch.zeros  # type: ignore[method-assign]
    mean.combine(torch.zeros(4), torch.zeros(0, 4), noise)
    assert mean.max_norm == 3.0


# --- going on


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_resumed_mean_equals_the_straight_one_bit_for_bit(bands: int, before: int) -> None:
    def make() -> NoisyMean:
        return NoisyMean(1.0, 0.5, 30, bands=bands, adaptive=Adaptive())

    vector, vectors, noise = torch.zeros(12), spread(4, 25).float(), repeatable_noise(0)
    straight = make()
    for _ in range(before):
        straight.combine(vector, vectors, noise)
    resumed = make()
    resumed.restore(straight.to_tensors())
    first, second = repeatable_noise(1), repeatable_noise(1)
    for _ in range(5):
        one, two = (
            m.combine(vector, vectors, n) for m, n in ((straight, first), (resumed, second))
        )
        assert torch.equal(one, two)
    assert resumed.max_norm == straight.max_norm
    assert resumed.rounds == straight.rounds == before + 5


def test_a_checkpoint_without_the_state_is_refused() -> None:
    with pytest.raises(ModelFileError, match="private mean"):
        NoisyMean(1.0, 0.5, 30).restore({"vector": torch.zeros(3)})


# --- what makes no sense


@pytest.mark.parametrize("name", ["noise_multiplier", "max_norm", "expected"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_impossible_choices_are_refused(name: str, value: float) -> None:
    choices = {"noise_multiplier": 1.0, "max_norm": 1.0, "expected": 5.0} | {name: value}
    with pytest.raises(PlanError, match=name):
        NoisyMean(**choices)


def test_too_few_clients_for_an_adaptive_clip_are_refused() -> None:
    with pytest.raises(PlanError, match="more than 10 clients"):
        NoisyMean(1.0, 1.0, 10, adaptive=Adaptive())
    NoisyMean(1.0, 1.0, 10.01, adaptive=Adaptive())


@pytest.mark.parametrize("choice", [{"quantile": 1.1}, {"quantile": -0.1}, {"rate": 0.0}])
def test_an_impossible_adaptive_clip_is_refused(choice: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="of the clip"):
        Adaptive(**choice)


def test_noise_to_signal_is_that_of_the_mechanism() -> None:
    parameters, mean = 50_000, NoisyMean(2.0, 0.3, 40)
    noise_only = mean.combine(torch.zeros(parameters), torch.zeros(0, parameters), Noise())
    largest = 0.3  # |mean change| if all go the same way
    ratio = noise_to_signal(2.0, parameters, 40)
    assert float(noise_only.norm()) / largest == pytest.approx(ratio, rel=0.02)


def test_a_run_of_noise_alone_is_refused_unless_insisted_on() -> None:
    check_meaningful(1.0, 90_000, 100)  # 3.0 exactly
    with pytest.raises(PlanError, match="about 100 clients"):
        check_meaningful(1.0, 90_000, 10)
    check_meaningful(1.0, 90_000, 10, insist=True)


@given(st.floats(0, 1e6, allow_subnormal=False), st.integers(1, 1000), st.integers(0, 100))
def test_whoever_survives_the_shares_of_noise_reach_the_variance(
    variance: float, threshold: int, more: int
) -> None:
    assert (threshold + more) * skellam_share(variance, threshold) >= variance * (1 - 1e-12)


def test_noise_shared_by_nobody_is_refused() -> None:
    with pytest.raises(PlanError, match="shared"):
        skellam_share(1.0, 0)
