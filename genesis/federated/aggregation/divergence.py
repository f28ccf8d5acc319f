"""How far one client's column is from the pooled one: what `similarity` asks clients to measure."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from genesis.codes import Codes
from genesis.encoding.encoder import Encoder
from genesis.encoding.numeric import NumericEncoding

__all__ = ["divergences", "jensen_shannon", "wasserstein"]


def divergences(encoder: Encoder, codes: Codes) -> dict[str, float]:
    """How far each column of one client is from all clients'.

    Args:
        encoder: Fitted on the counts of all clients.
        codes: The client's rows.

    Returns:
        "divergence.0", …: of every column, in the order of the encoder.
    """
    measured = {}
    for block, encoding in enumerate(encoder.encodings):
        width = len(encoding.counts)
        own = codes.codes[:, block]
        counts = np.bincount(own[own >= 0], minlength=width)
        if isinstance(encoding, NumericEncoding):
            means = encoding.mixture.means if encoding.mixture is not None else np.empty(0)
            positions = np.concatenate([means, encoding.atoms])
            order = np.argsort(positions, kind="stable")
            value = wasserstein(counts[order], encoding.counts[order], positions[order])
        else:
            value = jensen_shannon(counts, encoding.counts)
        measured[f"divergence.{block}"] = float(value)
    return measured


def jensen_shannon(counts: npt.ArrayLike, pooled: npt.ArrayLike) -> float:
    """Jensen-Shannon distance of two vectors of counts of the same categories.

    √(KL(p | m) / 2 + KL(q | m) / 2) with m = (p + q) / 2, in nats, as Fed-TGAN computes it.

    Args:
        counts: (n,) the client's counts, at least 0.
        pooled: (n,) those of all clients, not all 0.

    Returns:
        In [0, √ln 2]; √ln 2 if the client counted nothing.
    """
    p, q = _shares(counts), _shares(pooled)
    if p is None or q is None:
        return math.sqrt(math.log(2))
    mean = (p + q) / 2
    return math.sqrt(max(0.0, (_kl(p, mean) + _kl(q, mean)) / 2))


def wasserstein(counts: npt.ArrayLike, pooled: npt.ArrayLike, positions: npt.ArrayLike) -> float:
    """Wasserstein-1 distance of two histograms, in units of the range of the positions.

    ∫ |P(x) - Q(x)| dx of the two distribution functions, for mass at the positions.

    Args:
        counts: (n,) the client's counts, at least 0.
        pooled: (n,) those of all clients, not all 0.
        positions: (n,) middles of the bins, ascending.

    Returns:
        In [0, 1]; 1 if the client counted nothing.
    """
    p, q = _shares(counts), _shares(pooled)
    if p is None or q is None:
        return 1.0
    gaps = np.diff(np.asarray(positions, dtype=float))
    if not gaps.sum() > 0:
        return 0.0
    return float(np.abs(np.cumsum(p - q)[:-1]) @ gaps / gaps.sum())


def _shares(counts: npt.ArrayLike) -> npt.NDArray[np.float64] | None:
    """Counts divided by their sum, or None if that is 0."""
    values = np.asarray(counts, dtype=float)
    total = values.sum()
    return values / total if total > 0 else None


def _kl(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence, where q > 0 wherever p > 0."""
    on = p > 0
    return float(p[on] @ np.log(p[on] / q[on]))
