"""Weights that fit margins, and rows drawn by weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.raking import Margin, raked, resampled


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_row_comes_twice_where_there_are_enough():
    """Three rows for one wanted, and no weight above three."""
    margin = Margin(np.arange(30_000) % 2, np.array([0.9, 0.1]))
    weights = raked([margin], 30_000, most=3)
    rows = resampled(weights, 10_000, rng())
    assert len(np.unique(rows)) == 10_000
    assert (rows % 2 == 0).mean() == pytest.approx(0.9, abs=0.01)


def test_empty_cells_stay_empty():
    margin = Margin(np.zeros(50, np.int64), np.array([0.0, 7.0]))
    assert np.array_equal(raked([margin], 50, most=3), np.ones(50))
    assert raked([], 0, most=3).shape == (0,)
    assert resampled(np.ones(3), 0, rng()).shape == (0,)


def test_raking_is_iterative_proportional_fitting():
    """Against fitting the table of all cells, which weights of equal rows must agree with."""
    a, b = rng().integers(0, 3, 4000), rng(1).integers(0, 2, 4000)
    b = np.where(rng(2).random(4000) < 0.3, a % 2, b)
    rows, columns = np.array([0.5, 0.3, 0.2]), np.array([0.35, 0.65])
    cells = np.zeros((3, 2))
    np.add.at(cells, (a, b), 1 / 4000)
    for _ in range(200):
        cells *= (rows / cells.sum(1))[:, None]
        cells *= columns / cells.sum(0)
    weights = raked([Margin(a, rows * 7), Margin(b, columns)], 4000, most=3)
    found = np.zeros((3, 2))
    np.add.at(found, (a, b), weights / 4000)
    np.testing.assert_allclose(found, cells, atol=5e-4)
    odds = [t[0, 0] * t[1, 1] / t[0, 1] / t[1, 0] for t in (found, cells)]
    assert odds[0] == pytest.approx(odds[1], rel=0.01)


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 4), st.floats(1.5, 5))
def test_weights_are_bounded(seed, n, margins, most):
    """Whatever is wanted, possible or not."""
    draw = rng(seed)
    wanted = [
        Margin(draw.integers(0, k, n), draw.integers(0, 4, k).astype(float) ** 3)
        for k in draw.integers(1, 6, margins)
    ]
    weights = raked(wanted, n, most=most)
    assert weights.shape == (n,)
    assert ((weights > 0) & (weights <= most)).all()


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(0, 80))
def test_rows_come_as_often_as_their_weight_says(seed, rows, n):
    weights = rng(seed).exponential(size=rows)
    drawn = resampled(weights, n, rng(seed))
    assert drawn.shape == (n,)
    times = np.bincount(drawn, minlength=rows)
    wanted = n * weights / weights.sum()
    assert ((times >= np.floor(wanted - 1e-9)) & (times <= np.ceil(wanted + 1e-9))).all()
