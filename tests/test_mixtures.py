from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from genesis import mixtures
from genesis.mixtures import fit_mixtures


def test_equals_scikit_learn_from_the_same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """On standardised rows, with the same responsibilities to start from, it is the same fit."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-2, 0.3, 300), rng.normal(1, 1, 500)])
    low, median, high = np.sort(rows)[[199, 399, 599]]
    rows = (rows - median) / ((high - low) / 1.349)
    monkeypatch.setattr(mixtures, "RESTARTS", 1)
    start = mixtures._kmeans_start(
        mixtures._stack([rows], "cpu"), mixtures._stack([np.ones(len(rows))], "cpu"), 5
    )[0].T.numpy()

    oracle = BayesianGaussianMixture(
        n_components=5,
        weight_concentration_prior_type="dirichlet_process",
        weight_concentration_prior=mixtures.WEIGHT_PRIOR,
        max_iter=mixtures.MAX_ITERATIONS,
        tol=mixtures.TOLERANCE,
        reg_covar=mixtures.VARIANCE_FLOOR,
        mean_prior=np.array([0.0]),
        covariance_prior=np.array([[1.0]]),
    )
    monkeypatch.setattr(
        oracle,
        "_initialize_parameters",
        lambda x, *_args, **_kwargs: oracle._initialize(x, start),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        oracle.fit(rows[:, None])
    kept = oracle.weights_ > 0.005

    (fitted,) = fit_mixtures([rows], [np.ones(len(rows))], components=5)
    np.testing.assert_allclose(fitted.means, oracle.means_[kept, 0], atol=1e-7)
    np.testing.assert_allclose(
        fitted.deviations, np.sqrt(oracle.covariances_[kept, 0, 0]), atol=1e-7
    )
    np.testing.assert_allclose(
        fitted.weights, oracle.weights_[kept] / oracle.weights_[kept].sum(), atol=1e-7
    )


def test_counts_stand_for_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    rows = np.round(rng.normal(0, 3, 2000))
    values, counts = np.unique(rows, return_counts=True)
    (by_counts,) = fit_mixtures([values], [counts.astype(float)])
    assert np.isclose(by_counts.weights.sum(), 1)
    assert abs(np.dot(by_counts.weights, by_counts.means) - rows.mean()) < 0.05


def test_a_column_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(2)
    columns = [np.sort(rng.normal(size=n)) for n in (40, 300, 1000)]
    weights = [np.ones(len(column)) for column in columns]
    together = fit_mixtures(columns, weights)
    alone = fit_mixtures(columns[:1], weights[:1])
    assert abs(len(together[0].means) - len(alone[0].means)) <= 2


@settings(max_examples=25, deadline=None)
@given(
    scale=st.sampled_from([1e-9, 1e-3, 1.0, 1e6, 1e12]),
    shift=st.sampled_from([0.0, -1e6, 1e9]),
    n=st.integers(1, 30),
)
def test_any_scale_gives_usable_modes(scale: float, shift: float, n: int) -> None:
    points = shift + scale * np.linspace(-1, 1, n)
    (fitted,) = fit_mixtures([points], [np.full(n, 3.0)])
    assert len(fitted.means) >= 1
    assert (fitted.deviations > 0).all()
    assert np.isfinite(fitted.means).all()
    assert np.isclose(fitted.weights.sum(), 1)


def test_no_columns() -> None:
    assert fit_mixtures([], []) == []


def test_a_few_codes_far_away_leave_the_others_their_resolution() -> None:
    rng = np.random.default_rng(0)
    rows = np.append(rng.normal(50, 1, 4990), np.full(10, 999_999_999.0))
    (fitted,) = fit_mixtures([rows], [np.ones(len(rows))])
    assert fitted.deviations[np.abs(fitted.means - 50) < 5].max() < 3
