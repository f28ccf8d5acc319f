"""Correlated noise against the matrices that it stands for, and its sensitivity by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genesis.errors import ModelFileError, PlanError
from genesis.privacy.ftrl import (
    BandedNoise,
    accounted_noise_multiplier,
    coefficients,
    participations,
    sensitivity,
    takes_part,
)
from genesis.privacy.noise import repeatable_noise

Matrix = npt.NDArray[np.float64]


def strategy(bands: int, rounds: int) -> Matrix:
    """C (rounds, rounds)."""
    c = coefficients(bands)
    return np.array(
        [[c[t - s] if 0 <= t - s < bands else 0.0 for s in range(rounds)] for t in range(rounds)]
    )


def farthest(matrix: Matrix, rounds: tuple[int, ...]) -> float:
    """The most that changes of norm 1 in these rounds move C x: an extreme point, so signs do."""
    signs = itertools.product((-1.0, 1.0), repeat=len(rounds))
    return max((float(np.linalg.norm(matrix[:, rounds] @ sign)) for sign in signs), default=0.0)


def apart(rounds: int, bands: int) -> list[tuple[int, ...]]:
    """All choices of rounds, no two of them less than bands apart."""
    return [
        chosen
        for size in range(rounds + 1)
        for chosen in itertools.combinations(range(rounds), size)
        if all(later - earlier >= bands for earlier, later in itertools.pairwise(chosen))
    ]


def test_full_coefficients_are_the_square_root_of_the_prefix_sums() -> None:
    square_root = strategy(12, 12)
    np.testing.assert_allclose(square_root @ square_root, np.tri(12), atol=1e-14)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
def test_sensitivity_is_the_worst_of_all_choices_of_rounds(bands: int, rounds: int) -> None:
    matrix = strategy(bands, rounds)
    worst = max(farthest(matrix, chosen) for chosen in apart(rounds, bands))
    assert sensitivity(bands, rounds) == pytest.approx(worst, rel=1e-13)


@pytest.mark.parametrize("bands", [2, 3, 5])
def test_a_client_that_comes_too_early_moves_more_than_is_accounted(bands: int) -> None:
    matrix = strategy(bands, 8)
    assert farthest(matrix, tuple(range(0, 8, bands - 1))) > sensitivity(bands, 8)


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 30))
def test_clients_take_turns(bands: int, rounds: int, number: int) -> None:
    mine = [t for t in range(rounds) if takes_part(number, t, bands)]
    assert all(later - earlier == bands for earlier, later in itertools.pairwise(mine))
    assert len(mine) == participations(rounds, bands, number) <= participations(rounds, bands)
    for t in range(rounds):
        assert sum(takes_part(client, t, bands) for client in range(3 * bands)) == 3


@given(st.integers(1, 12), st.integers(1, 60))
def test_sensitivity_grows_with_the_participations(bands: int, rounds: int) -> None:
    column = math.sqrt(sum(c * c for c in coefficients(bands)))
    most = math.sqrt(participations(rounds, bands)) * column
    assert sensitivity(bands, rounds) <= most * (1 + 1e-12)
    if rounds % bands == 0:
        assert sensitivity(bands, rounds) == pytest.approx(most)


@given(st.floats(0.1, 100), st.integers(1, 500))
def test_independent_noise_is_accounted_as_one_release_a_round(sigma: float, rounds: int) -> None:
    once = accounted_noise_multiplier(sigma, bands=1, rounds=rounds)
    assert once**-2 == pytest.approx(rounds * sigma**-2)


@pytest.mark.parametrize("bands", [2, 4, 16])
@pytest.mark.parametrize("rounds", [16, 64, 100])
def test_sums_over_rounds_have_less_error_than_under_independent_noise(
    bands: int, rounds: int
) -> None:
    prefix = np.tri(rounds)
    correlated = prefix @ np.linalg.inv(strategy(bands, rounds)) * sensitivity(bands, rounds)
    independent = prefix * math.sqrt(participations(rounds, bands))
    assert np.linalg.norm(correlated) < 0.95 * np.linalg.norm(independent)


@pytest.mark.parametrize("bands", [1, 2, 3, 16])
def test_noise_solves_the_triangular_system(bands: int) -> None:
    rounds, n = 10, 7
    banded, noise, same = BandedNoise(bands), repeatable_noise(0), repeatable_noise(0)
    drawn = torch.stack([banded.draw(n, noise) for _ in range(rounds)]).double().numpy()
    normal = torch.stack([same.normal(n) for _ in range(rounds)]).double().numpy()
    np.testing.assert_allclose(strategy(bands, rounds) @ drawn, normal, atol=1e-5)


def test_noise_does_not_grow_over_many_rounds() -> None:
    banded, noise = BandedNoise(32), repeatable_noise(0)
    drawn = [float(banded.draw(500, noise).std()) for _ in range(400)]
    assert max(drawn) < 1.5  # |C⁻¹'s row| is at most that of the full square root, √1.28


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("before", [0, 1, 3, 8])
def test_noise_goes_on_from_a_checkpoint_bit_for_bit(bands: int, before: int) -> None:
    straight, noise = BandedNoise(bands), repeatable_noise(1)
    for _ in range(before):
        straight.draw(6, noise)
    resumed = BandedNoise(bands)
    resumed.restore(straight.to_tensors() | {"vector": torch.zeros(6)}, before)
    first, second = repeatable_noise(2), repeatable_noise(2)
    for _ in range(6):
        assert torch.equal(straight.draw(6, first), resumed.draw(6, second))


def test_what_was_drawn_may_be_changed_by_whoever_drew_it() -> None:
    banded, noise = BandedNoise(2), repeatable_noise(1)
    drawn = banded.draw(6, noise)
    kept = drawn.clone()
    drawn.zero_()
    assert torch.equal(banded.to_tensors()["past_noise"][0], kept)


@pytest.mark.parametrize(("bands", "rounds"), [(2, 3), (4, 3), (1, 3)])
def test_noise_of_another_run_is_refused(bands: int, rounds: int) -> None:
    banded, noise = BandedNoise(3), repeatable_noise(1)
    for _ in range(3):
        banded.draw(6, noise)
    with pytest.raises(ModelFileError, match="earlier rounds"):
        BandedNoise(bands).restore(banded.to_tensors(), rounds)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(PlanError, match="bands"):
        BandedNoise(0)
    with pytest.raises(PlanError, match="0 rounds"):
        accounted_noise_multiplier(1.0, bands=2, rounds=0)
