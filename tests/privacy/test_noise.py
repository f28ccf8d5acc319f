"""Noise has the distributions that accounting assumes, and nobody can make it again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from genesis.privacy.noise import Noise, repeatable_noise

N = 200_000
ALPHA = 1e-6  # chance that a test of right noise fails; that of a seed is known not to


def test_normal_noise_is_normal() -> None:
    drawn = repeatable_noise(1).normal(N).double().numpy()
    assert stats.kstest(drawn, "norm").pvalue > ALPHA
    # Also in the tails, which is what δ is about.
    for bound in (3.0, 4.0):
        beyond = int((np.abs(drawn) > bound).sum())
        assert stats.binomtest(beyond, N, 2 * stats.norm.sf(bound)).pvalue > ALPHA
    # Box and Muller's two halves of one pair tell nothing of each other.
    pairs = drawn.reshape(2, -1)
    for first, second in ((pairs[0], pairs[1]), (drawn[:-1], drawn[1:]), pairs**2):
        assert stats.pearsonr(first, second).pvalue > ALPHA


def test_uniform_noise_is_uniform() -> None:
    drawn = repeatable_noise(2).uniform(N)
    assert drawn.dtype == torch.float64
    assert 0 <= float(drawn.min()) <= float(drawn.max()) < 1
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > ALPHA
    assert stats.pearsonr(drawn[:-1].numpy(), drawn[1:].numpy()).pvalue > ALPHA


@pytest.mark.parametrize("variance", [0.5, 9.0, 1e4, 1e9])
def test_skellam_noise_has_its_variance_and_shape(variance: float) -> None:
    drawn = repeatable_noise(3).skellam(N, variance)
    assert drawn.dtype == np.int64
    # Skellam has an excess kurtosis of 1 / σ²; that of the sample variance follows.
    spread = np.sqrt((2 + 1 / variance) / N)
    worst = stats.norm.isf(ALPHA / 2)
    assert abs(drawn.mean()) < worst * np.sqrt(variance / N)
    assert abs(np.mean(drawn.astype(float) ** 2) / variance - 1) < worst * spread
    if variance < 100:
        known = np.arange(-12, 13)
        chances = stats.skellam.pmf(known, variance / 2, variance / 2)
        known, chances = known[chances * N > 10], chances[chances * N > 10]
        counts = np.array([(drawn == k).sum() for k in known])
        rest = N - counts.sum()
        expected = np.append(chances, 1 - chances.sum()) * N
        assert stats.chisquare(np.append(counts, rest), expected).pvalue > ALPHA


def test_parts_of_skellam_noise_add_up_to_the_whole() -> None:
    parts = sum(repeatable_noise(seed).skellam(N, 25.0) for seed in range(4))
    spread = np.sqrt((2 + 1 / 100.0) / N)
    assert abs(np.mean(np.square(parts)) / 100 - 1) < stats.norm.isf(ALPHA / 2) * spread


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_as_many_numbers_as_asked_for(n: int) -> None:
    noise = Noise()
    assert noise.normal(n).shape == noise.uniform(n).shape == (n,)
    assert noise.skellam(n, 4.0).shape == (n,)
    assert noise.normal(n).dtype == torch.float32


def test_the_worst_words_still_make_finite_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    for byte in (0, 255):
        noise = Noise()
        monkeypatch.setattr(noise, "_bytes", lambda n, byte=byte: bytearray([byte]) * n)
        assert bool(noise.normal(8).isfinite().all())
        assert 0 <= float(noise.uniform(8).max()) < 1


def test_no_seed_repeats_noise() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        noise = Noise()
        drawn.append((noise.normal(64), noise.uniform(64), noise.skellam(64, 1e6)))
        drawn.append((noise.normal(64), noise.uniform(64), noise.skellam(64, 1e6)))
    for kind in range(3):
        assert len({tuple(each[kind].tolist()) for each in drawn}) == len(drawn)


def test_noise_takes_a_fresh_key_of_the_operating_system_each_time() -> None:
    import os

    noise, asked = Noise(), []
    assert noise._entropy is os.urandom

    def entropy(n: int) -> bytes:
        asked.append(n)
        return os.urandom(n)

    noise._entropy = entropy
    noise.normal(5), noise.uniform(5), noise.skellam(5, 2.0)
    assert asked == [32, 32, 32]


def test_repeatable_noise_repeats_in_a_test() -> None:
    assert torch.equal(repeatable_noise(5).normal(9), repeatable_noise(5).normal(9))
    assert not torch.equal(repeatable_noise(5).normal(9), repeatable_noise(6).normal(9))


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import os; os.environ['PYTEST_CURRENT_TEST'] = 'test'",
        "import pytest, os; os.environ.pop('PYTEST_CURRENT_TEST', None)",
    ],
)
def test_repeatable_noise_is_refused_where_no_test_runs(before: str) -> None:
    program = f"""{before}
from genesis.errors import PrivacyError
from genesis.privacy.noise import repeatable_noise
try:
    repeatable_noise(0)
except PrivacyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("privacy noise cannot be made from a seed")
