"""The attacks by distance against their formulas, written out."""

import numpy as np
import pytest

from genesis.evaluation.attacks import View, create_attack
from genesis.evaluation.rows import Rows
from tests.evaluation.population import population

TARGETS = population(60, 0)


@pytest.fixture
def view() -> View:
    synthetic = Rows.concat([population(80, 1), TARGETS.take(slice(0, 5))])
    return View(synthetic, population(70, 2), TARGETS)


def distances(view: View, of: str) -> np.ndarray:
    targets, others = view.targets_at.double().numpy(), getattr(view, of).double().numpy()
    return np.sqrt(((targets[:, None] - others[None]) ** 2).sum(-1))


def test_distance(view: View) -> None:
    expected = -distances(view, "synthetic_at").min(1)
    np.testing.assert_allclose(create_attack("distance").scores(view), expected, atol=1e-6)


def test_calibrated(view: View) -> None:
    near, far = (distances(view, of).min(1) for of in ("synthetic_at", "reference_at"))
    expected = np.log((far + 1e-3) / (near + 1e-3))
    np.testing.assert_allclose(create_attack("calibrated").scores(view), expected, atol=1e-4)


def test_density(view: View) -> None:
    h = view.background.bandwidth
    synthetic, reference = (
        np.exp(-(distances(view, of) ** 2) / (2 * h * h)).mean(1)
        for of in ("synthetic_at", "reference_at")
    )
    expected = np.log(synthetic / reference)
    np.testing.assert_allclose(create_attack("density").scores(view), expected, atol=1e-3)


def test_monte_carlo(view: View) -> None:
    near = distances(view, "synthetic_at")
    within = (near <= np.median(near.min(1)) + 1e-6).sum(1)
    scores = create_attack("monte_carlo").scores(view)
    np.testing.assert_array_equal(np.ceil(scores - 1e-9), within)
    for count in np.unique(within):
        alike = within == count
        rank, nearness = np.argsort(scores[alike]), np.argsort(-near.min(1)[alike])
        np.testing.assert_array_equal(rank, nearness)
