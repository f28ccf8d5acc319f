"""Counts and labels that a client may let out.

    counts of a column   one record changes one of them by one: Skellam noise on each
    labels of a column   the fact that a label occurs may be one record's: a threshold as well

Both hold only for questions about a column that no record answers twice, which is checked first:
whoever asks is not trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from genesis.counting import Question, sorted_labels
from genesis.denoising import denoised, occupied
from genesis.errors import PrivacyError
from genesis.privacy.noise import Noise
from genesis.values import Label

__all__ = [
    "check_disjoint",
    "denoised",
    "label_threshold",
    "noisy_counts",
    "occupied",
    "released_labels",
]

Integers = npt.NDArray[np.int64]


def check_disjoint(questions: Sequence[Question]) -> int:
    """Find that one record changes at most one count by one in each of so many vectors.

    Of one column there may be one question about bins and one about nulls, or one about labels;
    together they are one vector, as a value is in one bin or is null. Every question about
    decimals is a vector of its own.

    Args:
        questions: All that is asked in one request.

    Returns:
        Number of vectors.

    Raises:
        PrivacyError: A record might be counted twice.
    """
    with_bins: set[str] = set()
    with_labels: dict[str, tuple[Label, ...]] = {}
    decimals = 0
    for question in questions:
        name = question.column
        if question.decimals:
            decimals += 1
            continue
        cells = question.parents if question.labels is None else question.labels
        twice = name in (with_bins if question.labels is None else with_labels)
        if twice or len(set(cells)) < len(cells):
            raise _overlap(name)
        if question.labels is None:
            with_bins.add(name)
        else:
            with_labels[name] = question.labels
    for name in with_bins & with_labels.keys():
        if with_labels[name] != (None,):
            raise _overlap(name)
    return len(with_bins | with_labels.keys()) + decimals


def _overlap(name: str) -> PrivacyError:
    return PrivacyError(
        f"the questions about column '{name}' overlap",
        got="bins or labels that may count one row twice",
        do="give server and clients the same version",
    )


def noisy_counts(counts: Integers, deviation: float, noise: Noise) -> Integers:
    """Counts (m,) with Skellam noise of a standard deviation on each; some may be negative."""
    return counts.astype(np.int64) + noise.skellam(len(counts), deviation**2)


def label_threshold(deviation: float, delta: float) -> float:
    """What the noisy count of a label must exceed: 1 + deviation Φ⁻¹(1 - delta).

    Then a label that a single row has is released with chance delta (Korolova et al. 2009, with
    Gaussian noise).
    """
    return 1 + deviation * NormalDist().inv_cdf(1 - delta)


def released_labels(
    labels: Sequence[Label], counts: Integers, deviation: float, delta: float, noise: Noise
) -> list[Label]:
    """The labels that enough rows have for their existence to be no secret.

    A label is released if its count and N(0, deviation²) exceed `label_threshold`.

    Args:
        labels: The labels of a column that occur, in any order.
        counts: (len(labels),) rows of each.
        deviation: Of the noise, above 0.
        delta: In (0, 1).
        noise: Where it comes from.

    Returns:
        Labels, sorted: their order tells nothing.
    """
    threshold = label_threshold(deviation, delta)
    drawn = noise.normal(len(labels)).numpy().astype(np.float64)
    passed = counts + deviation * drawn > threshold
    return sorted_labels(label for label, kept in zip(labels, passed, strict=True) if kept)
