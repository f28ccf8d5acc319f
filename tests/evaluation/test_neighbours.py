"""Neighbourhoods against all distances at once."""

import numpy as np
import pytest
import torch

from genesis.evaluation import neighbours
from genesis.evaluation.neighbours import choose_bandwidth, neighbourhood


@pytest.fixture(params=[2**24, 300], ids=["one block", "many blocks"])
def blocks(request, monkeypatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_FLOATS", request.param)
    monkeypatch.setattr(neighbours, "BLOCK_CORPUS", min(request.param, 2**12) // 10)


def points(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("exclude_self", [False, True])
def test_as_all_distances_say(exclude_self: bool) -> None:
    corpus = points(137)
    targets = corpus if exclude_self else points(61, seed=1)
    every = torch.cdist(targets.double(), corpus.double())
    if exclude_self:
        every.fill_diagonal_(torch.inf)
    found = neighbourhood(
        targets, corpus, k=4, radius=1.7, bandwidth=0.6, exclude_self=exclude_self
    )
    nearest, where = every.sort(1)
    np.testing.assert_allclose(found.distances, nearest[:, :4], rtol=1e-5)
    np.testing.assert_array_equal(found.indices, where[:, :4])
    np.testing.assert_array_equal(found.within, (every <= 1.7).sum(1))
    kernels = torch.exp(-every.square() / (2 * 0.6**2)).sum(1) / (137 - exclude_self)
    np.testing.assert_allclose(found.log_density, kernels.log(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("blocks")
def test_equal_points_have_no_distance_at_all() -> None:
    """The matrix product alone would leave a few thousandths."""
    corpus = points(50, d=100) * 10
    assert (neighbourhood(corpus, corpus, k=1).distances == 0).all()


def test_a_corpus_smaller_than_k() -> None:
    found = neighbourhood(points(4), points(2, seed=1), k=3)
    assert np.isinf(found.distances[:, 2]).all()
    assert (found.indices[:, 2] == -1).all()
    alone = neighbourhood(points(1), points(1), k=1, bandwidth=0.5, exclude_self=True)
    assert alone.log_density[0] == -np.inf


def test_no_targets() -> None:
    found = neighbourhood(points(0), points(3), k=2, radius=1.0, bandwidth=1.0)
    assert found.distances.shape == (0, 2)
    assert found.within.shape == found.log_density.shape == (0,)


def test_the_bandwidth_follows_the_scale() -> None:
    wide, narrow = choose_bandwidth(points(400, 2)), choose_bandwidth(points(400, 2) / 10)
    assert 0.1 < wide < 1.0
    assert wide / narrow == pytest.approx(10, rel=0.4)


def test_a_few_points_have_a_bandwidth_too() -> None:
    assert choose_bandwidth(points(1)) > 0
    assert choose_bandwidth(points(5)) > 0
    assert choose_bandwidth(torch.zeros(50, 3)) > 0
