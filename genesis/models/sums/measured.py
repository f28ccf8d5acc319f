"""A mixture of products fitted to two-way tables that come with noise.

The two-way tables of a mixture with weights w (K,) and tables T (S, K), all of them side by side,
are the matrix

    M = T diag(w) Tᵀ                                                                   (S, S)

so all of them, and their gradients, are one product. What is fitted is the likeliest mixture under
normal noise, where the logarithms of T are a priori normal around those of the frequencies: with
much noise that prior is all there is, and columns become independent. The tables know more of a
single column than its frequencies, which have noise too and are not fitted otherwise.

After Aydore et al. 2021, "Differentially private query release through adaptive projection", and
Cai et al. 2021, who choose how to represent what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Measured"]

Integers = npt.NDArray[np.int64]

SPREAD = 3.0  # standard deviation of the logarithms of T under the prior
START = 1.0  # of those that a fit starts with: components that differ stay different
RATE = 0.15  # learning rate of the first step; that of the last is next to none
HALF = 0.5  # rows of a code that none was counted of


@dataclass(frozen=True)
class Measured:
    """What was measured of a table, as shares of its rows.

    Args:
        widths: Widths of the blocks.
        single: (S,) shares of all codes.
        pairs: (S, S) shares of all pairs of codes, above the diagonal.
        counted: (S, S) 1 for what was measured of them, else 0.
        deviation: Standard deviation of the noise in each, as a share.
    """

    widths: tuple[int, ...]
    single: Tensor
    pairs: Tensor
    counted: Tensor
    deviation: float

    @classmethod
    def of(
        cls,
        widths: Sequence[int],
        frequencies: npt.NDArray[np.float64],
        tables: Mapping[tuple[int, int], Integers],
        *,
        deviation: float,
        rows: int,
    ) -> Measured:
        """From counts.

        Args:
            widths: Widths of the blocks.
            frequencies: (S,) counts of all codes.
            tables: Pair of blocks i < j -> (width, width) counts. There is at least one.
            deviation: Standard deviation of the noise in each count.
            rows: Number of rows, about: how many are in the tables, they say themselves.
        """
        single = [
            (HALF + np.maximum(part, 0)) / (HALF + np.maximum(part, 0)).sum()
            for part in np.split(frequencies, np.cumsum(widths)[:-1])
        ]
        totals = {pair: float(table.sum()) for pair, table in tables.items()}
        mean = sum(totals.values()) / len(totals)
        if deviation > 0:  # what noise a total has, the mean of all has hardly
            mean = min(max(mean, rows / 2), 2.0 * rows)
            totals = dict.fromkeys(tables, mean)
        starts, size = np.concatenate([[0], np.cumsum(widths)]), sum(widths)
        pairs, counted = torch.zeros(size, size), torch.zeros(size, size)
        for (i, j), table in tables.items():
            place = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            share = table / max(totals[i, j], 1.0)
            pairs[place] = torch.from_numpy(share).float()
            counted[place] = 1.0
        singles = torch.from_numpy(np.concatenate(single)).float()
        return cls(tuple(widths), singles, pairs, counted, max(deviation, 1.0) / max(mean, 1.0))

    def fit(
        self, components: int, steps: int, *, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor, float]:
        """The likeliest mixture, about.

        Args:
            components: K.
            steps: Of Adam (Kingma and Ba 2015), with a learning rate that falls like a cosine.
            seed: Decides where it starts.
            device: Where it is computed.

        Returns:
            Weights (K,), tables (S, K), both on the CPU; and the mean square of what is between the
            mixture and the tables, over the variance of the noise.
        """
        single, pairs, counted = (x.to(device) for x in (self.single, self.pairs, self.counted))
        base = single.log()[:, None]
        drawn = torch.Generator().manual_seed(seed % 2**63)
        start = START * torch.randn(len(single), components, generator=drawn)
        own = start.to(device).requires_grad_()
        logits = torch.zeros(components, device=device, requires_grad=True)
        cells = float(counted.sum())
        step = torch.optim.Adam([own, logits], RATE)
        misfit = math.inf
        for number in range(steps):
            step.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * number / steps)) / 2
            weights, tables = torch.softmax(logits, 0), self._tables(base + own)
            weighted = tables * weights
            off = ((weighted @ tables.T - pairs) * counted).square().sum()
            prior = own.square().sum() / SPREAD**2
            loss = (off / self.deviation**2 + prior) / (2 * cells)
            step.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            step.step()
            misfit = float(off.detach()) / cells / self.deviation**2
        with torch.no_grad():
            weights, tables = torch.softmax(logits, 0), self._tables(base + own)
        return weights.cpu(), tables.cpu(), misfit

    def _tables(self, logits: Tensor) -> Tensor:
        """Chances (S, K) of logits, block by block."""
        parts = logits.split_with_sizes(list(self.widths))
        return torch.cat([torch.softmax(part, 0) for part in parts])
