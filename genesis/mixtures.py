"""Gaussian mixtures of many columns at once, fitted on histograms.

Variational inference for a one-dimensional Gaussian mixture with a truncated Dirichlet process
prior (Blei & Jordan 2006; Bishop 2006, section 10.2), as scikit-learn's BayesianGaussianMixture
does it for rows. Here every data point carries a weight, its count, so that a fit on summed
histograms is the fit on the pooled rows; and all columns and restarts are one batch of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Mixture", "fit_mixtures"]

Floats = npt.NDArray[np.float64]

WEIGHT_PRIOR = 1e-3  # concentration of the Dirichlet process: few components stay in use
VARIANCE_FLOOR = 1e-6  # added to variances of standardised data
TOLERANCE = 1e-3  # change of the evidence bound that counts as converged
MAX_ITERATIONS = 100
RESTARTS = 4
SHORT = 160  # points of a histogram that is fitted with other short ones


@dataclass(frozen=True)
class Mixture:
    """Components of a fitted mixture, heaviest use first decided by the fit's order.

    Args:
        weights: (k,) sum to 1.
        means: (k,).
        deviations: (k,) standard deviations, above 0.
    """

    weights: Floats
    means: Floats
    deviations: Floats


def fit_mixtures(
    points: Sequence[Floats],
    counts: Sequence[Floats],
    *,
    components: int = 10,
    min_weight: float = 0.005,
    device: str | torch.device = "cpu",
) -> list[Mixture]:
    """Fit one mixture to every weighted histogram.

    The result depends on nothing but the histograms: starts are drawn from a fixed seed.

    Args:
        points: One array of positions a column.
        counts: Their counts, above 0.
        components: Largest number of components.
        min_weight: Components lighter than this are dropped.
        device: Where to compute.

    Returns:
        One mixture a column, on the scale of its points.
    """
    # Padding a short histogram to the length of a long one would cost more than a second batch.
    short = [i for i, x in enumerate(points) if len(x) <= SHORT]
    long = [i for i, x in enumerate(points) if len(x) > SHORT]
    fitted: dict[int, Mixture] = {}
    with _one_thread():
        for batch in (short, long):
            mixtures = _fit_batch(
                [points[i] for i in batch],
                [counts[i] for i in batch],
                components,
                min_weight,
                device,
            )
            fitted |= dict(zip(batch, mixtures, strict=True))
    return [fitted[i] for i in range(len(points))]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: these tensors are so small that waking a second one takes longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit_batch(
    points: Sequence[Floats],
    counts: Sequence[Floats],
    components: int,
    min_weight: float,
    device: str | torch.device,
) -> list[Mixture]:
    """Fit columns of similar length together; of several starts the best bound counts."""
    if not points:
        return []
    places = [_place_and_scale(x, w) for x, w in zip(points, counts, strict=True)]
    standardised = [(x - place) / scale for x, (place, scale) in zip(points, places, strict=True)]
    x, w = _stack(standardised, device), _stack(counts, device)
    columns = len(x)
    posterior = _fit(x.repeat(RESTARTS, 1), w.repeat(RESTARTS, 1), components)
    best = posterior.bound.view(RESTARTS, columns).argmax(0) * columns + torch.arange(
        columns, device=x.device
    )
    weights = posterior.expected_weights()[best].cpu().numpy()
    means = posterior.mean[best].cpu().numpy()
    deviations = posterior.variance[best].sqrt().cpu().numpy()
    mixtures = []
    for i in range(columns):
        keep, (place, scale) = weights[i] > min_weight, places[i]
        mixtures.append(
            Mixture(
                weights=weights[i][keep] / weights[i][keep].sum(),
                means=means[i][keep] * scale + place,
                deviations=deviations[i][keep] * scale,
            )
        )
    return mixtures


def _place_and_scale(x: Floats, w: Floats) -> tuple[float, float]:
    """Median and spread of a histogram, as robust as mean and standard deviation are not.

    The prior of every component is as wide as the spread. A few codes of 999,999,999 would make a
    standard deviation so large that the components of all other values became one.
    """
    order = np.argsort(x)
    below = np.cumsum(w[order])
    low, median, high = (x[order][np.searchsorted(below, p * below[-1])] for p in (0.25, 0.5, 0.75))
    normal_range = 1.349  # interquartile range of N(0, 1)
    spread = (high - low) / normal_range
    spread = spread or np.sqrt(np.average((x - median) ** 2, weights=w))
    return float(median), float(spread) or max(abs(float(median)), 1.0) * 1e-6


def _stack(rows: Sequence[Floats], device: str | torch.device) -> Tensor:
    """Rows of different lengths as one matrix, padded with 0: points of no weight."""
    stacked = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.float64)
    for i, row in enumerate(rows):
        stacked[i, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.float64))
    return stacked.to(device)


@dataclass
class _Posterior:
    """Parameters of the variational posterior; every field is (columns, components).

    Stick k is Beta(stick_a, stick_b); mean and precision of component k are Normal-Wishart with
    mean_precision (kappa) and degrees (nu); variance is the expected scale.
    """

    stick_a: Tensor
    stick_b: Tensor
    mean_precision: Tensor
    mean: Tensor
    degrees: Tensor
    variance: Tensor
    bound: Tensor  # (columns,)

    def take(self, columns: Tensor) -> _Posterior:
        """The posterior of some columns."""
        return _Posterior(*(getattr(self, f.name)[columns] for f in fields(self)))

    def put(self, columns: Tensor, other: _Posterior) -> None:
        """Replace the posterior of some columns."""
        for f in fields(self):
            getattr(self, f.name)[columns] = getattr(other, f.name)

    def expected_log_weights(self) -> Tensor:
        """E[ln pi_k] = E[ln v_k] + sum_{j<k} E[ln (1 - v_j)] of the stick-breaking prior."""
        total = torch.digamma(self.stick_a + self.stick_b)
        taken = torch.digamma(self.stick_a) - total
        left = torch.digamma(self.stick_b) - total
        return taken + torch.cumsum(left, 1) - left

    def expected_weights(self) -> Tensor:
        """Weights at the expected sticks, scaled to sum to 1."""
        stick = self.stick_a / (self.stick_a + self.stick_b)
        remaining = torch.cumprod(1 - stick, 1)
        weights = stick * torch.cat([torch.ones_like(stick[:, :1]), remaining[:, :-1]], 1)
        return weights / weights.sum(1, keepdim=True)

    def log_responsibilities(self, x: Tensor) -> Tensor:
        """ln r of Bishop eq. 10.46-10.49 for x (columns, points): (columns, components, points)."""
        squared = (x[:, None, :] - self.mean[:, :, None]).square_().div_(self.variance[:, :, None])
        constant = (
            self.expected_log_weights()
            - 0.5 * math.log(2 * math.pi)
            - 0.5 * (self.variance.log() + self.degrees.log())
            + 0.5 * (math.log(2.0) + torch.digamma(0.5 * self.degrees) - 1 / self.mean_precision)
        )
        joint = squared.mul_(-0.5).add_(constant[:, :, None])
        return joint.sub_(torch.logsumexp(joint, 1, keepdim=True))


def _fit(x: Tensor, w: Tensor, components: int) -> _Posterior:
    """Coordinate ascent from a k-means start until the evidence bound stands still."""
    everything = _maximise(x, w, _kmeans_start(x, w, components))
    running = torch.arange(len(x), device=x.device)
    for _ in range(MAX_ITERATIONS):
        q = everything.take(running)
        x_here, w_here = x[running], w[running]
        log_r = q.log_responsibilities(x_here)
        r = log_r.exp()
        entropy = -torch.einsum("ckm,ckm,cm->c", r, log_r, w_here)
        new = _maximise(x_here, w_here, r)
        new.bound = entropy + _log_normalisers(new)
        everything.put(running, new)
        # A column stops by itself, so that its mixture never depends on the columns beside it.
        running = running[(new.bound - q.bound).abs() >= TOLERANCE]
        if not len(running):
            break
    return everything


def _maximise(x: Tensor, w: Tensor, r: Tensor) -> _Posterior:
    """The posterior of responsibilities r (Bishop eq. 10.51-10.63); a priori N(0, 1)."""
    weighted = r * w[:, None, :]
    n = weighted.sum(2) + 10 * torch.finfo(x.dtype).eps
    mean = torch.einsum("ckm,cm->ck", weighted, x) / n
    deviation = (x[:, None, :] - mean[:, :, None]).square_()
    spread = torch.einsum("ckm,ckm->ck", weighted, deviation) / n + VARIANCE_FLOOR
    kappa, nu = 1 + n, 1 + n
    after = n.flip(1).cumsum(1).flip(1) - n
    scatter = 1 + n * spread + n / kappa * mean.square()
    return _Posterior(
        stick_a=1 + n,
        stick_b=WEIGHT_PRIOR + after,
        mean_precision=kappa,
        mean=n * mean / kappa,
        degrees=nu,
        variance=scatter / nu,
        bound=torch.full_like(n[:, 0], -math.inf),
    )


def _log_normalisers(q: _Posterior) -> Tensor:
    """The evidence bound without its entropy term, up to a constant: (columns,)."""
    log_det = -0.5 * (q.variance.log() + q.degrees.log())
    wishart = -(
        q.degrees * log_det + 0.5 * math.log(2.0) * q.degrees + torch.lgamma(0.5 * q.degrees)
    )
    beta = torch.lgamma(q.stick_a) + torch.lgamma(q.stick_b) - torch.lgamma(q.stick_a + q.stick_b)
    return (beta - wishart - 0.5 * q.mean_precision.log()).sum(1)


def _kmeans_start(x: Tensor, w: Tensor, components: int) -> Tensor:
    """Weighted k-means++ and Lloyd's iterations: one-hot responsibilities (columns, k, points)."""
    generator = torch.Generator().manual_seed(0)

    def draw(p: Tensor, n: int) -> Tensor:
        """Draw n positions of each row with chance p, on the CPU for the same draws everywhere."""
        p = p.cpu()
        p = torch.where(p.sum(1, keepdim=True) > 0, p, torch.ones_like(p))
        picks = torch.multinomial(p / p.amax(1, keepdim=True), n, True, generator=generator)
        return x.gather(1, picks.to(x.device))

    centres = draw(w, 1)
    nearest = (x - centres).square()
    for _ in range(1, components):
        # Greedy k-means++: of a few candidates keep the one that lowers the cost most.
        candidates = draw(nearest * w, 2 + int(math.log(components)))
        trial = torch.minimum(
            nearest[:, :, None], (x[:, :, None] - candidates[:, None, :]).square()
        )
        best = (trial * w[:, :, None]).sum(1).argmin(1, keepdim=True)
        centres = torch.cat([centres, candidates.gather(1, best)], 1)
        nearest = trial.gather(2, best[:, None].expand(-1, x.shape[1], 1)).squeeze(2)
    for _ in range(30):
        label = (x[:, :, None] - centres[:, None, :]).square_().argmin(2)
        mass = torch.zeros_like(centres).scatter_add_(1, label, w)
        moment = torch.zeros_like(centres).scatter_add_(1, label, w * x)
        moved = torch.where(mass > 0, moment / mass.clamp_min(1e-300), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return torch.nn.functional.one_hot(label, components).to(x.dtype).transpose(1, 2)
