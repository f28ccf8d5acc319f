"""The question that a copula is fitted from: products of normal scores, as whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError, TrainingError
from genesis.models.sums import Question
from genesis.models.sums.normal_scores import LIMIT, Cells

__all__ = ["correlation_of_scores", "product_question", "sum_products", "whole_scores"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SCALE = 1024
"""Scores are whole multiples of 1 / _SCALE, so that their products add up without rounding."""

_ONE = _SCALE**2
"""What a row counts, in the unit of a product of scores."""

_BLOCK_ROWS = 65_536


def whole_scores(cells: Sequence[Cells]) -> list[Floats]:
    """The normal scores of every block, rounded to multiples of 1 / _SCALE."""
    return [np.rint(each.scores * _SCALE) / _SCALE for each in cells]


def product_question(cells: Sequence[Cells], *, private: bool) -> Question:
    """Asks for the products of all pairs of scores, and the rows where both are known.

    What a row adds is held to a norm if it is private: where the squares of its scores add up to
    more than R², they are scaled to it. R² is three standard deviations above their mean, as of
    independent normal numbers: that bends few rows and costs little noise.

    Args:
        cells: Cells of the D blocks.
        private: Whether what a row adds must be bounded.
    """
    scores = whole_scores(cells)
    norm = math.inf
    if private:
        squares = _squares(cells, scores)
        usual = float(squares.sum() + 3 * math.sqrt(2 * (squares**2).sum()))
        most = sum(float((s**2).max()) for s in scores)
        norm = _ONE * math.hypot(min(usual, most), math.sqrt(_pairs(len(cells))))
    whole = np.rint(np.concatenate(scores) * _SCALE).astype(np.int32)
    return Question("products", 2 * _pairs(len(cells)), arrays={"scores": whole}, norm=norm)


def sum_products(
    widths: Sequence[int], codes: npt.NDArray[np.int32], question: Question
) -> Integers:
    """(D(D+1),) sums over rows of products x_i x_j, i ≤ j, then how many rows know both.

    Args:
        widths: Widths of the D blocks.
        codes: (n, D); -1 where unknown.
        question: As of `product_question`.

    Raises:
        FederationError: It is no such question.
    """
    tables, radius = _asked(widths, question)
    products, both = np.zeros((2, len(widths), len(widths)), dtype=np.int64)
    for start in range(0, len(codes), _BLOCK_ROWS):
        some = codes[start : start + _BLOCK_ROWS]
        known = (some >= 0).astype(np.float64)
        x = np.empty(some.shape)
        for block, table in enumerate(tables):
            x[:, block] = table[some[:, block]]
        x *= known
        if radius < math.inf:
            length = np.sqrt((x * x).sum(axis=1, keepdims=True))
            x = np.trunc(x * np.minimum(1.0, radius / np.maximum(length, 1.0)))
        # Whole numbers whose sum is below 2^53: exact in float64, in any order.
        products += (x.T @ x).astype(np.int64)
        both += (known.T @ known).astype(np.int64)
    upper = np.triu_indices(len(widths))
    return np.concatenate([products[upper], both[upper] * _ONE])


def correlation_of_scores(
    total: Integers, cells: Sequence[Cells], deviation: float = 0.0
) -> Floats:
    """The correlation of the scores, of which only the part above the diagonal is filled: (D, D).

    Rows that were scaled make products and squares smaller alike, so that their quotient stays
    about the same. Under noise it shrinks by the factor 1 - noise² / r² (Breiman 1995, the
    nonnegative garrote).

    Args:
        total: The sum of all answers.
        cells: Cells of the D blocks.
        deviation: Standard deviation of the noise in each number of it.

    Raises:
        TrainingError: No table has such sums.
    """
    pairs, upper = _pairs(len(cells)), np.triu_indices(len(cells))
    if total.shape != (2 * pairs,):
        raise TrainingError(
            f"the sums of a copula are {2 * pairs} numbers", got=f"shape {total.shape}"
        )
    products, rows = total[:pairs] / _ONE, total[pairs:] / _ONE
    mean, noise = np.zeros((2, len(cells), len(cells)))
    mean[upper] = products / np.maximum(rows, 1)
    noise[upper] = deviation / _ONE / np.maximum(rows, 1)
    squares = np.diag(mean)
    if deviation > 0:  # the released frequencies say within which bounds they are
        released = _squares(cells, whole_scores(cells))
        squares = np.clip(squares, released / 2, released)
    elif (rows < 0).any() or (squares < 0).any():
        raise TrainingError("a number of rows or a sum of squares is negative")
    spread = np.sqrt(np.outer(squares, squares))
    known = spread > 0
    r = np.divide(mean, spread, out=np.zeros_like(mean), where=known)
    error = np.divide(noise, spread, out=np.zeros_like(mean), where=known)
    kept = 1 - np.divide(error, r, out=np.zeros_like(r), where=r != 0) ** 2
    correlation: Floats = np.clip(r * np.maximum(kept, 0.0), -1.0, 1.0)
    return correlation


def _asked(widths: Sequence[int], question: Question) -> tuple[list[Integers], float]:
    """The whole scores of every block, and the longest that a row of them may be.

    The products x_i x_j, i ≤ j, of a row have a norm of at most |x|².

    Raises:
        FederationError: It is no question of a copula.
    """
    scores = question.arrays.get("scores", np.empty(0))
    size, least = 2 * _pairs(len(widths)), _ONE * math.sqrt(_pairs(len(widths)))
    if (
        (question.kind, question.size, scores.shape) != ("products", size, (sum(widths),))
        or scores.dtype != np.int32
        or (np.abs(scores.astype(np.int64)) > LIMIT * _SCALE).any()
        or not question.norm >= least
    ):
        raise FederationError("this is no question of a copula", do="use the same version")
    radius = math.sqrt(math.sqrt(question.norm**2 - least**2))
    return np.split(scores.astype(np.int64), np.cumsum(widths)[:-1]), radius


def _pairs(blocks: int) -> int:
    """Pairs of blocks, and each with itself."""
    return blocks * (blocks + 1) // 2


def _squares(cells: Sequence[Cells], scores: Sequence[Floats]) -> Floats:
    """(D,) mean squares of scores."""
    return np.array([c.probabilities @ s**2 for c, s in zip(cells, scores, strict=True)])
