"""Expectation-maximisation of a mixture of products from expected counts with noise.

Every pass adds up the expected counts of all rows, and noise hides a row in them (Park et al. 2017,
"DP-EM"). No likelihood is asked for. So how many passes and components there are, follows from the
budget alone, and three things keep noise from being learned:

    a moving mean of the answers, for in the last passes expectations hardly change
    what is known of a block's counts without them: its frequencies, and the members of components
    every cell is drawn in to the table's frequencies by the signal and the noise there is in it
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Layout
from genesis.errors import FederationError, PlanError, TrainingError
from genesis.models.sums import Budget, Question
from genesis.models.sums.mixture import MixtureConfig, expectations, logarithms
from genesis.models.sums.rows import UNIT, SumRows
from genesis.models.sums.smoothing import Smoothing
from genesis.privacy.sums import Release

__all__ = ["EXPECT_PRIVATELY", "PrivateMixtureFit", "private_answer", "private_releases"]

Integers = npt.NDArray[np.int64]

EXPECT_PRIVATELY = "expect privately"
PASSES = 8  # more share the budget, fewer end before components have parted
ROWS_A_COMPONENT = 40  # in standard deviations of the noise in its members
FEWEST_COMPONENTS, MOST_COMPONENTS = 3, 100
LEAST_ROWS = 80  # in the same; with fewer, columns without any dependence are nearer to the table
FORGETTING = 0.5  # exponent of the steps of the moving mean
APART = 1.0  # standard deviation of the logarithms by which components differ when they begin
MOST_SHARES = UNIT**-2  # squares of the responsibilities of one row, added up
LEAST_DENSITY = 0.005  # of a cell, relative to the table's


def private_releases(config: MixtureConfig) -> tuple[Release, ...]:
    """The answers of a fit: equal ones, a pass each."""
    passes = min(config.epochs, PASSES)
    return (Release(None, 1 / passes),) * passes


def private_norm(layout: Layout) -> float:
    """The most that a row changes an answer by, in the L2 norm.

    Its responsibilities r, of Σ_k r_k² ≤ 1, come once for every block and once for the members: the
    squares add up to (blocks + 1) Σ_k r_k², in units of `UNIT`.
    """
    return math.sqrt(layout.n_blocks + 1) / UNIT


def private_answer(rows: SumRows, question: Question) -> Integers:
    """Expected counts of every code in every component, and of components; see `Mixture.answer`.

    Whoever asks is not trusted: a row whose responsibilities are no numbers, or of a norm above 1,
    adds nothing.
    """
    n = sum(rows.layout.block_widths)
    k, rest = divmod(question.size, n + 1)
    found = {name: (array.shape, str(array.dtype)) for name, array in question.arrays.items()}
    if (
        question.kind != EXPECT_PRIVATELY
        or rest
        or question.meta
        or found != {"weights": ((k,), "float32"), "tables": ((n, k), "float32")}
        or not question.norm >= private_norm(rows.layout)
    ):
        raise FederationError(
            "a question that is none of mixture's", do="give server and clients the same version"
        )
    logs = logarithms(question.arrays["tables"], question.arrays["weights"], rows.device)
    counts = torch.zeros(n + 1, k, dtype=torch.int64, device=rows.device)
    members = torch.zeros(k, dtype=torch.int64, device=rows.device)
    block = torch.empty(n + 1, k, device=rows.device)
    for places in rows.blocks():
        shares = expectations(places, *logs)[1].div_(UNIT).floor_()
        # False of NaN.
        kept = shares.double().square().sum(1, keepdim=True) <= MOST_SHARES
        shares = torch.where(kept, shares, 0.0)
        block.zero_()
        for column in places.unbind(1):
            block.index_add_(0, column, shares)
        counts += block.long()
        members += shares.sum(0).long()
    return np.concatenate([counts[:n].cpu().numpy().ravel(), members.cpu().numpy()])


class PrivateMixtureFit:
    """The fit of one mixture under a promise of privacy: see `SumFit`.

    Args:
        layout: Layout of the encoded rows.
        config: Choices. There is one start, and passes are whole.
        rows: Number of rows of all shards, with noise.
        frequencies: (S,) released counts of every code.
        seed: Decides where it starts.
        device: Where parameters are computed.
        budget: What all answers may cost.

    Raises:
        PlanError: The noise would hide what there is to learn.
    """

    def __init__(
        self,
        layout: Layout,
        config: MixtureConfig,
        *,
        rows: int,
        frequencies: Tensor,
        seed: int,
        device: torch.device,
        budget: Budget,
    ) -> None:
        self._layout, self._given, self._rows, self._device = layout, config, rows, device
        self._passes, self._pass = len(private_releases(config)), 0
        self._smoothing = Smoothing(layout, frequencies, device=device)
        # In rows; every pass has an equal share of ρ.
        norm = math.sqrt(layout.n_blocks + 1)
        noise = norm * math.sqrt(self._passes * budget.clients / (2 * budget.rho))
        _check_noise(layout, rows, noise)
        wanted = int(rows / (ROWS_A_COMPONENT * noise))
        k = config.components or min(max(wanted, FEWEST_COMPONENTS), MOST_COMPONENTS)
        self._weights = torch.full((k,), 1 / k, dtype=torch.float64, device=device)
        self._tables = self._start(k, seed)
        self._counts, self._members = torch.zeros_like(self._tables), self._weights.new_zeros(k)
        self._variance = 0.0  # of the noise in their mean, in rows

    # --- the protocol ---

    @property
    def n_rounds(self) -> int:
        """As many as answers are paid for."""
        return self._passes

    @property
    def config(self) -> dict[str, Any]:
        """The config with the number of components."""
        return {**dataclasses.asdict(self._given), "components": len(self._weights)}

    @property
    def vector(self) -> Tensor:
        """(P,) parameters: weights, then tables."""
        return torch.cat([self._weights, self._tables.reshape(-1)]).float().cpu()

    def question(self) -> Question | None:
        """Expected counts of all rows."""
        if self._pass >= self._passes:
            return None
        n, k = self._tables.shape
        return Question(
            EXPECT_PRIVATELY,
            size=n * k + k,
            arrays={
                "weights": self._weights.float().cpu().numpy(),
                "tables": self._tables.float().cpu().numpy(),
            },
            norm=private_norm(self._layout),
        )

    def take(self, total: Integers, deviation: float = 0.0) -> Mapping[str, float] | None:
        """One M step."""
        n, k = self._tables.shape
        if deviation == 0 and (total < 0).any():
            raise TrainingError("expected counts that no rows have")
        sums = torch.from_numpy(total.astype(np.float64)).to(self._device) * UNIT
        step = (self._pass + 1) ** -FORGETTING
        self._counts = torch.lerp(self._counts, sums[: n * k].view(n, k), step)
        self._members = torch.lerp(self._members, sums[n * k :], step)
        self._variance = (1 - step) ** 2 * self._variance + (step * deviation * UNIT) ** 2
        self._pass += 1
        members = self._known_members()
        self._weights = members / members.sum()
        self._tables = self._known_tables(members)
        return {"components": float(k)}

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that the next question depends on."""
        tensors = {
            "weights": self._weights,
            "tables": self._tables,
            "counts": self._counts,
            "members": self._members,
        }
        kept = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        return {"pass": self._pass, "variance": self._variance}, kept

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_state`."""
        self._pass, self._variance = int(values["pass"]), float(values["variance"])
        self._weights, self._tables, self._counts, self._members = (
            tensors[name].to(self._device) for name in ("weights", "tables", "counts", "members")
        )

    # --- steps ---

    def _start(self, k: int, seed: int) -> Tensor:
        """Components that differ from the table, and alike in codes that are near each other."""
        # Drawn on the CPU, so that every device starts from the same parameters.
        drawn = torch.Generator().manual_seed(seed % 2**63)
        tables = []
        for block, shares in enumerate(self._smoothing.frequencies):
            apart = torch.randn(len(shares), k, generator=drawn, dtype=torch.float64)
            near = self._near(block)
            apart = near @ apart.to(self._device) / near.square().sum(1, keepdim=True).sqrt()
            table = shares[:, None] * torch.exp(APART * apart)
            tables.append(table / table.sum(0))
        return torch.cat(tables)

    def _near(self, block: int) -> Tensor:
        """(width, width) the mean over codes near each code of a block."""
        if block < len(self._smoothing.kernels):
            kernel = self._smoothing.kernels[block]
            return kernel / kernel.sum(1, keepdim=True)
        width = self._layout.block_widths[block]
        return torch.eye(width, dtype=torch.float64, device=self._device)

    def _known_members(self) -> Tensor:
        """(K,) rows of components, which come to all rows.

        The counts of a block tell of them, too, with the noise of as many numbers as it is wide.
        """
        widths = self._layout.block_widths
        found, certainty = self._members, 1.0
        for counts in self._counts.split_with_sizes(list(widths)):
            found = found + counts.sum(0) / len(counts)
            certainty += 1 / len(counts)
        found = found / certainty
        found = found + (self._rows - found.sum()) / len(found)
        found = found.clamp(min=max(math.sqrt(self._variance), 1.0))
        return found * (self._rows / found.sum())

    def _known_tables(self, members: Tensor) -> Tensor:
        """(S, K) frequencies of components.

        How far counts are from m n, the table's frequencies m times the members n, adds up to 0 for
        every code, and up to the same for all codes of a component: projected onto that, the noise
        has (1 - 1/K) (1 - 1/width) of its variance. Averaged over near codes, counts apart = m n d
        + N(0, s²) tell of relative densities 1 + d, of which d is a priori N(0, τ²). Hence, with
        c a little above 1 so that chance alone seldom makes τ positive,

            d = τ² m n · apart / (τ² (m n)² + s²),   τ² = Σ_k (apart² - c s²) / Σ_k (m n)²
        """
        blocks, k = [], len(members)
        for block, counts in enumerate(self._counts.split_with_sizes(self._layout.block_widths)):
            shares, near = self._smoothing.frequencies[block][:, None], self._near(block)
            apart = counts - shares * members
            apart = apart - apart.mean(0) - apart.mean(1, keepdim=True) + apart.mean()
            left = self._given.smoothing * (1 - 1 / k) * (1 - 1 / len(counts))
            noise = left * self._variance * near.square().sum(1, keepdim=True) + UNIT**2
            apart, expected = near @ apart, near @ shares * members
            chance = 1 + math.sqrt(2 / k)  # one standard deviation above the mean of χ²/K
            spread = (apart.square() - chance * noise).sum(1, keepdim=True)
            spread = (spread / expected.square().sum(1, keepdim=True)).clamp(min=0)
            density = 1 + spread * expected * apart / (spread * expected.square() + noise)
            table = shares * density.clamp(min=LEAST_DENSITY)
            blocks.append(table / table.sum(0))
        return torch.cat(blocks)


def _check_noise(layout: Layout, rows: int, noise: float) -> None:
    """Raise PlanError if noise, in rows, leaves nothing of how columns depend on each other."""
    times = LEAST_ROWS * noise / max(rows, 1)
    if times > 1:
        fewer = max(math.floor((layout.n_blocks + 1) / times**2) - 1, 1)
        raise PlanError(
            "epsilon is too small for expected counts: noise would hide how columns depend on "
            "each other",
            got=f"noise of {noise:.3g} rows in each, of {rows:,} rows",
            do=f"promise an epsilon {math.floor(10 * times + 1) / 10:g} times as large, keep "
            f"{fewer} of the columns, or choose marginals",
        )
