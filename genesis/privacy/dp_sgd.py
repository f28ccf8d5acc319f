"""DP-SGD (Abadi et al. 2016): what one private step of training does, whatever the model is.

    every record joins the batch with chance q, whatever the others do
    its gradient is scaled down to a norm of at most C
    N(0, σ² C²) is added to every coordinate of the sum
    and the sum is divided by B, the batch size that is *expected*, not the one that came

The number of records that came is private, so nothing may be divided by it, and a batch that came
out empty is a step like any other. A model computes the gradients' norms and their scaled sum in
closed form; this file has the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genesis.privacy.noise import Noise

__all__ = ["PrivateSteps"]


@dataclass(frozen=True)
class PrivateSteps:
    """How a model takes private steps.

    Args:
        max_grad_norm: C, largest L2 norm of one record's gradient, above 0.
        noise_multiplier: σ, standard deviation of the noise over C, above 0.
        sample_rate: q in (0, 1], the chance of every record to join a batch.
        batch_size: B, the expected number of records in a batch, at least 1. Nothing private.
        steps: Steps in an epoch, at least 1.
        noise: Where random numbers come from.
    """

    max_grad_norm: float
    noise_multiplier: float
    sample_rate: float
    batch_size: int
    steps: int
    noise: Noise = field(default_factory=Noise)

    def batch(self, n: int, device: torch.device) -> Tensor:
        """The records of one batch: ascending numbers below n, as many as came out.

        Poisson sampling: what the accounting assumes. Which records came is as secret as the noise.
        Drawn are the gaps between those that come, so that others cost nothing. A gap is more than
        k with chance (1 - q)^k, as is ⌈ln(1 - u) / ln(1 - q)⌉ for u uniform in [0, 1).
        """
        expected = self.sample_rate * n
        stay = torch.tensor(-self.sample_rate, dtype=torch.float64).log1p()
        last, parts = torch.tensor(-1.0, dtype=torch.float64), []
        while last < n:
            u = self.noise.uniform(int(expected + 6 * math.sqrt(expected)) + 8)
            gaps = (u.neg().log1p() / stay).ceil().clamp_min(1)
            parts.append(gaps.cumsum(0) + last)
            last = parts[-1][-1]
        records = torch.cat(parts)
        return records[records < n].long().to(device)

    def entries(self, n: int, device: torch.device) -> Tensor:
        """For each of n records, which entry of a pool of B it takes: (n,) numbers below B.

        Whatever else a step draws at random comes from a seed, which others know. So it is drawn
        for B entries, always, and a record takes one of them in secret: then nothing that is known
        depends on which records came, and a record changes nothing of what the others meet.
        """
        return (self.noise.uniform(n) * self.batch_size).long().to(device)

    def factors(self, squared_norms: Tensor) -> Tensor:
        """What the records' gradients are scaled by: (b,) in [0, 1], given (b,) squared norms.

        A gradient that is not finite cannot be bounded, and counts nothing.
        """
        norms = squared_norms.clamp_min(0).sqrt()
        factors = (self.max_grad_norm / norms.clamp_min(1e-30)).clamp_max(1)
        return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))

    def finish(self, gradient: Tensor) -> None:
        """Turn the sum of scaled gradients (p,), in place, into the noisy mean of the batch."""
        noise = self.noise.normal(len(gradient)).to(gradient)
        gradient.add_(noise, alpha=self.noise_multiplier * self.max_grad_norm)
        gradient.div_(self.batch_size)
