"""Codes as cells of normal numbers: their edges and scores, and the correlation behind scores.

A column of codes is read as a standard normal number Z of which only the cell is known: code k is
the cell between the quantiles of the cumulated frequencies before and after it. Its normal score is
the mean of Z in the cell. Scores vary less than Z, so their correlation is below that of the
numbers behind them; `latent_correlation` undoes that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

__all__ = ["LIMIT", "Cells", "latent_correlation", "log_density", "nearest_correlation"]

Floats = npt.NDArray[np.float64]

LIMIT = 8.0
"""Largest score; fewer than one row in 10^15 lies beyond."""

MOST_CORRELATION = 0.999
SMALLEST_EIGENVALUE = 1e-4
_TERMS = 100
"""Terms of the Hermite series; what is left out is below ρ^100."""
_HALVINGS = 40
_RAREST = 1e-30
_PROJECTIONS = 100


@dataclass(frozen=True)
class Cells:
    """The cells of one block.

    Args:
        probabilities: (w,) of the codes, in their order; they sum to 1.
    """

    probabilities: Floats

    @classmethod
    def of(cls, counts: Floats) -> Cells:
        """From counts (w,), of which negative ones count as 0; uniform if nothing is left."""
        counts = np.maximum(counts.astype(np.float64), 0.0)
        total = counts.sum()
        return cls(counts / total if total > 0 else np.full(len(counts), 1 / len(counts)))

    @cached_property
    def edges(self) -> Floats:
        """(w + 1,) ascending, from -inf to inf; a code without probability has an empty cell."""
        below = np.concatenate([[0.0], np.cumsum(self.probabilities)])
        last = int(np.flatnonzero(self.probabilities)[-1])
        below[last + 1 :] = 1.0
        edges: Floats = ndtri(np.minimum(below, 1.0))
        return edges

    @cached_property
    def scores(self) -> Floats:
        """(w,) E[Z | a < Z < b] = (φ(a) - φ(b)) / (Φ(b) - Φ(a)), within ±LIMIT."""
        height = _density(self.edges)
        empty = np.clip(self.edges[:-1], -LIMIT, LIMIT)
        mass = self.probabilities
        means = np.divide(height[:-1] - height[1:], mass, out=empty, where=mass > 0)
        return np.clip(means, -LIMIT, LIMIT)

    def coefficients(self, scores: Floats) -> Floats:
        """(_TERMS,) Hermite coefficients E[s(Z) h_m(Z)], m ≥ 1, of the step function s.

        With normalised polynomials h_m, ∫ h_m φ over a cell is (h_{m-1} φ)(a) - (h_{m-1} φ)(b)
        over √m; and √(m+1) h_{m+1}(x) = x h_m(x) - √m h_{m-1}(x).
        """
        x = np.where(np.isfinite(self.edges), self.edges, 0.0)
        before, here = np.zeros_like(x), _density(self.edges)
        coefficients = np.empty(_TERMS)
        for m in range(_TERMS):
            coefficients[m] = scores @ (here[:-1] - here[1:]) / np.sqrt(m + 1)
            before, here = here, (x * here - np.sqrt(m) * before) / np.sqrt(m + 1)
        return coefficients


def latent_correlation(
    correlation: Floats, cells: Sequence[Cells], scores: Sequence[Floats]
) -> Floats:
    """The correlation of normal numbers whose scores have a given correlation.

    Numbers of correlation ρ have scores of covariance Σ_m a_m b_m ρ^m, where a_m and b_m are the
    Hermite coefficients of the two step functions (Mehler's formula). That grows with ρ wherever
    scores ascend, so ρ is found by halving.

    Args:
        correlation: (D, D) of the scores; read above the diagonal alone.
        cells: Cells of the D blocks.
        scores: Their scores, ascending.

    Returns:
        (D, D) with a diagonal of ones; not always positive definite.
    """
    latent = np.eye(len(cells))
    i, j = np.triu_indices(len(cells), 1)
    if not len(i):
        return latent
    coefficients = np.array([c.coefficients(s) for c, s in zip(cells, scores, strict=True)])
    deviations = np.array(
        [np.sqrt(c.probabilities @ s**2) for c, s in zip(cells, scores, strict=True)]
    )
    series = coefficients[i] * coefficients[j]
    wanted = correlation[i, j] * deviations[i] * deviations[j]
    low, high = np.full(len(i), -MOST_CORRELATION), np.full(len(i), MOST_CORRELATION)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = np.zeros(len(i))
        for term in series.T[::-1]:
            reached = (reached + term) * middle
        below = reached < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    # A block of one code has no scores to tell anything by.
    found = np.where(deviations[i] * deviations[j] > 0, (low + high) / 2, 0.0)
    latent[i, j] = latent[j, i] = found
    return latent


def nearest_correlation(matrix: Floats) -> Floats:
    """The correlation matrix nearest to a symmetric one, positive definite.

    Alternating projections on matrices without small eigenvalues and on those with a diagonal of
    ones (Higham 2002, algorithm 3.3). One that is both already is left as it is.
    """
    if not len(matrix):
        return matrix
    y, correction = matrix, np.zeros_like(matrix)
    for _ in range(_PROJECTIONS):
        shifted = y - correction
        values, vectors = np.linalg.eigh(shifted)
        if values[0] >= SMALLEST_EIGENVALUE:
            positive = shifted
        else:
            positive = (vectors * np.maximum(values, SMALLEST_EIGENVALUE)) @ vectors.T
        correction, y = positive - shifted, positive.copy()
        np.fill_diagonal(y, 1.0)
        if np.abs(y - positive).max() < 1e-9:
            break
    deviations = np.sqrt(np.diag(positive))
    nearest: Floats = positive / np.outer(deviations, deviations)
    return nearest


def log_density(
    correlation: Floats, cells: Sequence[Cells], codes: npt.NDArray[np.int32]
) -> Floats:
    """About the logarithm of the probability of each row: (n,).

    The probabilities of the codes, times the density of the copula at their normal scores s:
    log c(s) = -½ log |R| - ½ sᵀ(R⁻¹ - I)s. The probability itself is that of a box in D dimensions,
    which has no closed form.

    Args:
        correlation: R, (D, D), positive definite.
        cells: Cells of the D blocks.
        codes: (n, D); a block whose code is -1 counts nothing.
    """
    density, scores, known = np.zeros(len(codes)), np.zeros(codes.shape), codes >= 0
    for block, each in enumerate(cells):
        here, found = known[:, block], codes[known[:, block], block]
        scores[here, block] = each.scores[found]
        density[here] += np.log(each.probabilities[found].clip(min=_RAREST))
    patterns, pattern_of = np.unique(known, axis=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        rows = np.flatnonzero(pattern_of.reshape(-1) == i)
        inner, s = correlation[np.ix_(pattern, pattern)], scores[np.ix_(rows, pattern)]
        excess = np.linalg.inv(inner) - np.eye(len(inner))
        density[rows] -= 0.5 * np.linalg.slogdet(inner)[1]
        density[rows] -= 0.5 * np.einsum("ni,ij,nj->n", s, excess, s)
    return density


def _density(x: Floats) -> Floats:
    """φ(x)."""
    density: Floats = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    return density
