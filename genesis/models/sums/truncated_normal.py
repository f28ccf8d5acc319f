"""Normal numbers of which the cells are known: drawn by Gibbs sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtri_exp

from genesis.models.sums.normal_scores import Cells

__all__ = ["draw_in_cells", "draw_truncated"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]


def draw_in_cells(
    correlation: Floats,
    cells: Sequence[Cells],
    codes: Integers,
    evidence: Mapping[int, Floats],
    sweeps: int,
    rng: np.random.Generator,
) -> Integers:
    """Fill the unknown codes of rows, given the known ones.

    The numbers of blocks that are known or restricted anywhere are drawn in turn, each given the
    others and its cell (Geweke 1991): a Markov chain, which comes close to their joint
    distribution after some sweeps. One such block alone needs one draw. All other blocks follow
    from them exactly.

    Args:
        correlation: (D, D) of the numbers, positive definite.
        cells: Cells of the D blocks.
        codes: (n, D); -1 where unknown.
        evidence: Block -> (width,) share of every code that may be filled in there, in [0, 1];
            not 0 for all codes that have any probability.
        sweeps: Draws of every number.
        rng: Draws them.

    Returns:
        (n, D) codes, none of which is -1.
    """
    filled = codes.copy()
    known = codes >= 0
    bound = [b for b in range(len(cells)) if b in evidence or known[:, b].any()]
    others = [b for b in range(len(cells)) if b not in bound]
    inner = correlation[np.ix_(bound, bound)]
    z = np.zeros((len(codes), len(bound)))
    for i, b in enumerate(bound):
        z[known[:, b], i] = cells[b].scores[codes[known[:, b], b]]
    precision = np.linalg.inv(inner)
    for _ in range(sweeps if len(bound) > 1 else 1):
        for i, b in enumerate(bound):
            # z_i given the others is normal with mean -Σ_j Λ_ij z_j / Λ_ii and variance 1 / Λ_ii.
            variance = 1 / precision[i, i]
            mean = z[:, i] - z @ precision[:, i] * variance
            deviation = np.sqrt(variance)
            if b in evidence:
                rows = np.flatnonzero(~known[:, b])
                filled[rows, b] = _draw_cell(cells[b], evidence[b], mean[rows], deviation, rng)
            low, high = _ends(cells[b], filled[:, b])
            drawn = draw_truncated((low - mean) / deviation, (high - mean) / deviation, rng)
            z[:, i] = mean + deviation * drawn
    for i, b in enumerate(bound):
        free = np.flatnonzero(filled[:, b] < 0)
        filled[free, b] = _cell_of(cells[b], z[free, i])
    if others:
        slope = correlation[np.ix_(others, bound)] @ precision
        rest = correlation[np.ix_(others, others)] - slope @ correlation[np.ix_(bound, others)]
        factor = np.linalg.cholesky(rest)
        free_z = z @ slope.T + rng.standard_normal((len(codes), len(others))) @ factor.T
        for i, b in enumerate(others):
            filled[:, b] = _cell_of(cells[b], free_z[:, i])
    return filled


def draw_truncated(low: Floats, high: Floats, rng: np.random.Generator) -> Floats:
    """Standard normal numbers, each between two ends: (n,). Exact far out in the tails too."""
    # The logarithm of Φ is exact on the left, so intervals on the right are mirrored.
    flip = low > -high
    left, right = np.where(flip, -high, low), np.where(flip, -low, high)
    below, above = log_ndtr(left), log_ndtr(right)
    u = 1 - rng.random(len(low))  # above 0
    drawn = ndtri_exp(np.minimum(above + np.log(u + (1 - u) * np.exp(below - above)), -1e-16))
    drawn = np.where(flip, -drawn, drawn)
    within: Floats = np.clip(drawn, low, high)
    return within


def _draw_cell(
    cells: Cells,
    shares: Floats,
    mean: Floats,
    deviation: float,
    rng: np.random.Generator,
) -> Integers:
    """A code for each row, by the mass of its cell times its share: (n,)."""
    codes = np.flatnonzero(shares * cells.probabilities).astype(np.int32)
    if len(codes) == 1:
        return np.full(len(mean), codes[0])
    low = (cells.edges[codes] - mean[:, None]) / deviation
    high = (cells.edges[codes + 1] - mean[:, None]) / deviation
    flip = low > -high
    left, right = np.where(flip, -high, low), np.where(flip, -low, high)
    above = log_ndtr(right)
    with np.errstate(divide="ignore"):
        inside = -np.expm1(np.minimum(log_ndtr(left) - above, 0.0))
        log_mass = above + np.log(inside * shares[codes])
    mass = np.exp(log_mass - log_mass.max(axis=1, keepdims=True))
    cumulative = np.cumsum(mass, axis=1)
    drawn = rng.random(len(mean)) * cumulative[:, -1]
    chosen = (cumulative <= drawn[:, None]).sum(axis=1).clip(max=len(codes) - 1)
    drawn_codes: Integers = codes[chosen]
    return drawn_codes


def _ends(cells: Cells, codes: Integers) -> tuple[Floats, Floats]:
    """Edges of the cells of codes (n,); -inf and inf where a code is -1."""
    unknown = codes < 0
    low, high = cells.edges[codes], cells.edges[codes + 1]
    return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


def _cell_of(cells: Cells, z: Floats) -> Integers:
    """The codes whose cells numbers lie in: (n,)."""
    codes: Integers = np.searchsorted(cells.edges[1:-1], z, side="right").astype(np.int32)
    return codes
