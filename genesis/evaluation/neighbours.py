"""Who lies near whom: distances between many points, in blocks.

‖a - b‖² = ‖a‖² + ‖b‖² - 2 a·b makes all distances of two blocks one matrix product. A block never
has more than `BLOCK_FLOATS` distances, so memory does not grow with the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Neighbourhood", "choose_bandwidth", "neighbourhood"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BLOCK_FLOATS = 2**20
"""Distances of one block: 4 MiB of float32, which stay in the cache while they are sorted."""

BLOCK_CORPUS = 2**12
"""Points of the corpus that one block holds at most."""

BANDWIDTH_ROWS = 2_000
"""Rows that `choose_bandwidth` looks at."""

BANDWIDTHS = tuple(float(h) for h in np.geomspace(0.02, 2.0, 15))
"""Bandwidths that `choose_bandwidth` tries, in the units of a `Space`."""


@dataclass(frozen=True)
class Neighbourhood:
    """What lies around n targets.

    Args:
        distances: (n, k) Euclidean distances of the nearest points, rising; infinite where the
            corpus has fewer than k.
        indices: (n, k) which points those are; -1 where there is none.
        within: (n,) how many points lie within the radius; None if none was given.
        log_density: (n,) logarithm of the mean Gaussian kernel, without its constant factor; None
            if no bandwidth was given.
    """

    distances: Floats
    indices: Integers
    within: Integers | None
    log_density: Floats | None


def neighbourhood(
    targets: Tensor,
    corpus: Tensor,
    *,
    k: int = 2,
    radius: float | None = None,
    bandwidth: float | None = None,
    exclude_self: bool = False,
) -> Neighbourhood:
    """What lies around each target among the points of a corpus.

    Args:
        targets: (n, d) float32.
        corpus: (m, d) float32 on the same device.
        k: Number of nearest points wanted, at least 1.
        radius: Count points at most so far away.
        bandwidth: h of the kernel exp(-‖a - b‖² / 2h²).
        exclude_self: Target i is point i of the corpus, and no neighbour of itself.
    """
    n, device = len(targets), targets.device
    # Results are written in place: small tensors that stay would pin the memory between them.
    found = (
        torch.empty(n, k, device=device),
        torch.empty(n, k, dtype=torch.int64, device=device),
        torch.empty(n, dtype=torch.int64, device=device),
        torch.empty(n, device=device),
    )
    rows = max(1, BLOCK_FLOATS // max(1, min(len(corpus), BLOCK_CORPUS)))
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        first = start if exclude_self else None
        for whole, part in zip(
            found, _block(targets[block], corpus, k, radius, bandwidth, first), strict=True
        ):
            whole[block] = part
    distances, indices, within, log_density = (each.cpu().numpy() for each in found)
    return Neighbourhood(
        distances.astype(np.float64),
        indices,
        None if radius is None else within,
        None if bandwidth is None else log_density.astype(np.float64),
    )


def choose_bandwidth(reference: Tensor) -> float:
    """The bandwidth under which each reference row is likeliest given the others.

    Leave-one-out likelihood of a kernel density (Habbema et al. 1974), over `BANDWIDTHS`. The
    density of a kernel of d dimensions carries the factor h^-d; d is estimated from the distances
    themselves (Levina & Bickel 2004), because categories span fewer dimensions than they have.

    Args:
        reference: (n, d) float32; of more than 2,000 rows as many are looked at.

    Returns:
        One of `BANDWIDTHS`; 0.5 for fewer than 3 rows.
    """
    if len(reference) < 3:
        return 0.5
    if len(reference) > BANDWIDTH_ROWS:
        # Always the same rows: which of them says nothing, and a seed would have to be handed down.
        chosen = np.random.default_rng(0).choice(len(reference), BANDWIDTH_ROWS, replace=False)
        reference = reference[torch.from_numpy(np.sort(chosen)).to(reference.device)]
    near = neighbourhood(reference, reference, k=min(10, len(reference) - 1), exclude_self=True)
    d = _intrinsic_dimension(near.distances)
    scores = []
    for h in BANDWIDTHS:
        found = neighbourhood(reference, reference, k=1, bandwidth=h, exclude_self=True).log_density
        assert found is not None
        # A row far from all others would alone decide for a wide kernel; the median does not mind.
        scores.append(float(np.median(found)) - d * math.log(h))
    return BANDWIDTHS[int(np.argmax(scores))]


def _intrinsic_dimension(distances: Floats) -> float:
    """1 / mean log(r_k / r_j) over the nearest distances (n, k), at least 1."""
    positive = np.maximum(distances, 1e-3)
    logs = np.log(positive[:, -1:] / positive[:, :-1]) if positive.shape[1] > 1 else np.ones((1, 1))
    return max(1.0, 1 / max(float(logs.mean()), 1e-2))


def _block(
    targets: Tensor,
    corpus: Tensor,
    k: int,
    radius: float | None,
    bandwidth: float | None,
    first: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The neighbourhood of a block of targets, the corpus being gone through in blocks.

    Args:
        targets: (b, d).
        corpus: (m, d).
        k: See `neighbourhood`.
        radius: See `neighbourhood`.
        bandwidth: See `neighbourhood`.
        first: The place in the corpus of the first target, if targets are points of it.
    """
    b, device = len(targets), targets.device
    best = torch.full((b, k), torch.inf, device=device)
    places = torch.full((b, k), -1, dtype=torch.int64, device=device)
    within = torch.zeros(b, dtype=torch.int64, device=device)
    log_sum = torch.full((b,), -torch.inf, device=device)
    squares = targets.square().sum(1, keepdim=True)
    edges = [*range(0, len(corpus), BLOCK_CORPUS), len(corpus)]
    for start, stop in pairwise(edges):
        part = corpus[start:stop]
        d2 = torch.addmm(part.square().sum(1), targets, part.t(), alpha=-2)
        d2.add_(squares).clamp_(min=0)
        if first is not None:
            own = torch.arange(first, first + b, device=device)
            here = (own >= start) & (own < stop)
            d2[here, own[here] - start] = torch.inf
        if radius is not None:
            within += (d2 <= radius * radius).sum(1)
        nearest, where = torch.topk(d2, min(k, stop - start), dim=1, largest=False)
        best, chosen = torch.topk(torch.cat([best, nearest], 1), k, dim=1, largest=False)
        places = torch.cat([places, where + start], 1).gather(1, chosen)
        if bandwidth is not None:
            part_sum = torch.logsumexp(d2.mul_(-0.5 / bandwidth**2), 1)
            log_sum = torch.logaddexp(log_sum, part_sum)
    others = max(1, len(corpus) - (first is not None))
    return *_exact(targets, corpus, best, places), within, log_sum - math.log(others)


def _exact(targets: Tensor, corpus: Tensor, best: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The distances of the nearest points once more, without the cancellation of the product."""
    known = torch.isfinite(best)
    distances = torch.full_like(best, torch.inf)
    if known.any():
        rows = known.nonzero()[:, 0]
        distances[known] = torch.linalg.vector_norm(targets[rows] - corpus[places[known]], dim=1)
    distances, order = torch.sort(distances, dim=1, stable=True)
    return distances, torch.where(known, places, -1).gather(1, order)
