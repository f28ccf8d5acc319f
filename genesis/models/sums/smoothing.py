"""How far a component's frequencies are drawn in to the table's: priors fitted on the sums.

A component has its own frequencies θ of the codes of a block. Their prior is a Dirichlet
distribution with mean m and concentration a; after expected counts s of n rows they are

    θ = (s + a m) / (n + a).

m is the frequency in the whole table, and for codes in an order the table's frequency times the
component's density relative to it, smoothed over neighbours. a is what makes the counts of all
components likeliest (Minka 2000, "Estimating a Dirichlet distribution", eq. 65, for the
Dirichlet-multinomial with a known mean): where components do not differ, it grows until they are
the table; where they do, it stays small. So a model has about as many parameters as its table tells
of, which is what keeps it from remembering rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genesis.codes import Layout

__all__ = ["Smoothing"]

UNIFORM = 1e-3  # share of the uniform distribution in the table's frequencies: none is 0
BANDWIDTH = 0.03  # of the kernel, as a share of the rows
HEAVY = 4.0  # times the mean frequency, from which a code of a number stands by itself
LEAST, MOST = 1e-3, 1e5  # of a concentration
STEPS = 3  # of the fixed point, each time: it is followed over many passes
NO_STRENGTH = 1e-9  # in place of 0: components of no rows are the table
RARE = 1e-3  # expected rows below which a cell adds nothing to the fixed point


class Smoothing:
    """Priors of all blocks of a layout.

    Args:
        layout: The layout.
        frequencies: (S,) released counts of every code.
        strength: What concentrations are multiplied with where they are used.
        device: Where the tables are.
    """

    def __init__(
        self,
        layout: Layout,
        frequencies: Tensor,
        *,
        strength: float = 1.0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.widths, self.strength = list(layout.block_widths), strength
        counts = frequencies.to(device, torch.float64).clamp(min=0).split_with_sizes(self.widths)
        self.frequencies = [_shares(count) for count in counts]
        # Little smoothing at first: components are not what they will be yet.
        self.concentrations = [0.03 * width for width in self.widths]
        self.kernels = [
            _kernel(self.frequencies[block], last_apart=null)
            for block, null in enumerate(layout.null_modes or (False,) * layout.n_scalars)
        ]

    def tables(self, sums: Tensor) -> Tensor:
        """Frequencies of every component after expected counts sums: (S, K) -> (S, K) float64."""
        blocks = []
        for block, counts in enumerate(sums.split_with_sizes(self.widths)):
            prior = max(self.concentrations[block] * self.strength, NO_STRENGTH)
            smoothed = counts + prior * self._mean(block, counts)
            blocks.append(smoothed / smoothed.sum(0))
        return torch.cat(blocks)

    def learn(self, sums: Tensor) -> None:
        """Follow the concentrations that make expected counts sums (S, K) likeliest."""
        for block, counts in enumerate(sums.split_with_sizes(self.widths)):
            if self.widths[block] == 1:
                continue
            used = counts.sum(0) > 1
            counts = counts[:, used]
            if not counts.shape[1]:
                continue
            mean, n, a = self._mean(block, counts), counts.sum(0), self.concentrations[block]
            cells = counts > RARE
            s, m = counts[cells], mean[cells]
            for _ in range(STEPS):
                prior = torch.full_like(n, a)
                gained = (m * (torch.digamma(s + a * m) - torch.digamma(a * m))).sum()
                spent = (torch.digamma(n + a) - torch.digamma(prior)).sum()
                a = min(max(a * float(gained / spent), LEAST), MOST)
            self.concentrations[block] = a

    def evidence(self, sums: Tensor) -> float:
        """ln of the chance of whole counts sums (S, K) under the priors alone.

        The Dirichlet-multinomial: Σ ln Γ(s + a m) / Γ(a m) - ln Γ(n + a) / Γ(a).
        """
        total = 0.0
        for block, counts in enumerate(sums.split_with_sizes(self.widths)):
            a = self.concentrations[block]
            mean, n = self._mean(block, counts), counts.sum(0)
            cells = counts > RARE
            s, m = counts[cells], a * mean[cells]
            total += float((torch.lgamma(s + m) - torch.lgamma(m)).sum())
            total -= float((torch.lgamma(n + a) - torch.lgamma(torch.full_like(n, a))).sum())
        return total

    def _mean(self, block: int, counts: Tensor) -> Tensor:
        """m of every component: (width, K)."""
        shares = self.frequencies[block][:, None]
        if block >= len(self.kernels):
            return shares.expand_as(counts)
        kernel = self.kernels[block]
        near = kernel @ shares
        # Density relative to the table's, of neighbours and of one row of the table.
        relative = (kernel @ counts + near) / (near * (counts.sum(0) + 1))
        mean = shares * relative
        return mean / mean.sum(0)


def _shares(counts: Tensor) -> Tensor:
    """Frequencies, none of which is 0."""
    total = counts.sum()
    uniform = torch.full_like(counts, 1 / len(counts))
    return uniform if total <= 0 else (1 - UNIFORM) * counts / total + UNIFORM * uniform


def _kernel(shares: Tensor, *, last_apart: bool) -> Tensor:
    """(width, width) how near codes of a number are, by the rows between them.

    Codes that very many rows have, and null, are near to nothing: they are values of their own.
    """
    alone = shares > HEAVY / len(shares)
    if last_apart:
        alone[-1] = True
    mass = torch.where(alone, 0.0, shares)
    position = (torch.cumsum(mass, 0) - mass / 2) / mass.sum().clamp(min=1e-12)
    kernel = torch.exp(-0.5 * ((position[:, None] - position) / BANDWIDTH) ** 2)
    kernel[alone], kernel[:, alone] = 0.0, 0.0
    kernel[alone, alone] = 1.0
    return kernel
