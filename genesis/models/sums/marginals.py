"""Marginals: a mixture of products fitted to the two-way tables of all pairs of columns.

One question is all it asks: how many rows have each pair of codes. Counts hide a row in little
noise, and thousands of them that overlap tell most of what the noise hides in each. So this is the
model for a promise of differential privacy. Measuring all pairs at once is the Gaussian mechanism
of RAP (Aydore et al. 2021, "Differentially private query release through adaptive projection");
what their noisy tables have in common is found as in `measured`.

It is a `Mixture` in all but how it is fitted.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Layout
from genesis.errors import FederationError, PlanError, TrainingError
from genesis.models.config import flag, option, parse, whole
from genesis.models.sums import Budget, Question, SumFit
from genesis.models.sums.measured import Measured
from genesis.models.sums.mixture import Mixture
from genesis.models.sums.rows import SumRows
from genesis.privacy.sums import Release

__all__ = ["Marginals", "MarginalsConfig", "MarginalsFit"]

Integers = npt.NDArray[np.int64]

PAIRS = "pairs"
MOST_CELLS = 2**16  # of a two-way table; larger ones are left out
MOST_NOISE = 0.5  # of the rows, beyond which noise leaves nothing of how columns depend
BLOCK_ROWS = 2**16


@dataclass(frozen=True)
class MarginalsConfig:
    """Choices of marginals.

    Args:
        components: Components of the mixture.
        steps: Steps of its fit to the tables, which cost no privacy.
        epochs: For the caller: passes over the rows, of which one is all that is needed.
        verbose: For the caller: whether progress is shown.
    """

    components: int = option(300, whole(1))
    steps: int = option(400, whole(1))
    epochs: int = option(1, whole(1))
    verbose: bool = option(False, flag)


class Marginals(Mixture):
    """A mixture of products over the blocks of a layout, from two-way tables.

    Args:
        layout: Layout of the encoded rows.
        config: See `MarginalsConfig`.
        device: Where it is fitted.
        seed: Unused: a mixture starts as the released frequencies.
        frequencies: (S,) released counts of every code of every block.

    Raises:
        PlanError: The config is impossible.
    """

    name: ClassVar[str] = "marginals"
    losses: ClassVar[tuple[str, ...]] = ("misfit",)
    grid: ClassVar[int] = 24
    private: ClassVar[bool] = True

    @classmethod
    def parsed(cls, config: Mapping[str, Any]) -> MarginalsConfig:
        """All choices of a config.

        Raises:
            PlanError: It is impossible.
        """
        return parse(MarginalsConfig, config, cls.name)

    @classmethod
    def releases(
        cls,
        layout: Layout,
        config: Mapping[str, Any],  # noqa: ARG003 - of the protocol
    ) -> tuple[Release, ...]:
        """One answer: a vector of counts for every pair of columns, whatever their codes are."""
        return (Release(max(math.comb(layout.n_blocks, 2), 1)),)

    @classmethod
    def fit(
        cls,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        rows: int,
        frequencies: npt.NDArray[np.float64],
        n_rounds: int,  # noqa: ARG003 - of the protocol
        seed: int,
        device: str | torch.device = "cpu",
        budget: Budget | None = None,
    ) -> SumFit:
        """Begin to fit marginals: see `SumModel.fit`. One pass is enough, whatever n_rounds says.

        Raises:
            PlanError: The config is impossible, or the noise would hide the table.
        """
        if budget is not None:
            _check_noise(layout, rows, budget)
        start = Marginals(layout, config, frequencies=frequencies)
        return MarginalsFit(layout, start, frequencies, rows, seed, torch.device(device))

    @classmethod
    def answer(cls, rows: SumRows, question: Question) -> Integers:
        """(question.size,) rows of every pair of codes, pair of blocks by pair of blocks.

        A row adds one to one count of every pair, or nothing where a code is unknown.
        """
        pairs, widths = list(_pairs(rows.layout)), rows.layout.block_widths
        ends = np.cumsum([widths[i] * widths[j] for i, j in pairs], dtype=np.int64)
        if (
            question.kind != PAIRS
            or not pairs
            or question.size != ends[-1]
            or not question.norm**2 > len(pairs) - 1e-6
        ):
            raise FederationError(
                f"a question that is none of {cls.name}'s",
                do="give server and clients the same version",
            )
        total = np.zeros(question.size, dtype=np.int64)
        tables = np.split(total, ends[:-1])
        for start in range(0, len(rows), BLOCK_ROWS):
            codes = rows.codes.codes[start : start + BLOCK_ROWS].T.astype(np.int64)
            for (i, j), table in zip(pairs, tables, strict=True):
                places = codes[i] * widths[j] + codes[j]
                known = (codes[i] >= 0) & (codes[j] >= 0)
                table += np.bincount(places[known], minlength=len(table))
        return total


class MarginalsFit:
    """The fit of marginals: see `SumFit`.

    Args:
        layout: Layout of the encoded rows.
        start: The model before its question.
        frequencies: (S,) released counts of every code.
        rows: Number of rows, about.
        seed: Decides where the fit starts.
        device: Where it is computed.
    """

    def __init__(
        self,
        layout: Layout,
        start: Marginals,
        frequencies: npt.NDArray[np.float64],
        rows: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._layout, self._config, self._rows = layout, start.config, rows
        self._frequencies, self._seed, self._device = frequencies, seed, device
        self._pairs = list(_pairs(layout))
        self._vector, self._fitted = start.get_vector(), not self._pairs

    @property
    def n_rounds(self) -> int:
        """One, unless there is no pair of columns."""
        return min(len(self._pairs), 1)

    @property
    def config(self) -> dict[str, Any]:
        """The config as it was given."""
        return dataclasses.asdict(self._config)

    @property
    def vector(self) -> Tensor:
        """(P,) parameters: weights, then tables."""
        return self._vector.clone()

    def question(self) -> Question | None:
        """All pairs, once."""
        if self._fitted:
            return None
        widths = self._layout.block_widths
        size = sum(widths[i] * widths[j] for i, j in self._pairs)
        return Question(PAIRS, size, norm=math.sqrt(len(self._pairs)))

    def take(self, total: Integers, deviation: float = 0.0) -> Mapping[str, float] | None:
        """Fit the mixture. "misfit" is 1 where it is as far from the tables as noise explains."""
        if deviation == 0 and (total < 0).any():
            raise TrainingError("a number of rows is negative")
        measured = Measured.of(
            self._layout.block_widths,
            self._frequencies,
            dict(zip(self._pairs, self._tables(total), strict=True)),
            deviation=deviation,
            rows=self._rows,
        )
        weights, tables, misfit = measured.fit(
            self._config.components, self._config.steps, seed=self._seed, device=self._device
        )
        self._vector, self._fitted = torch.cat([weights, tables.reshape(-1)]), True
        return {"misfit": misfit}

    def _tables(self, total: Integers) -> Iterator[Integers]:
        """The counts of every pair, (width, width)."""
        start = 0
        for i, j in self._pairs:
            shape = self._layout.block_widths[i], self._layout.block_widths[j]
            yield total[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Whether it was asked, and what came of it."""
        return {"fitted": self._fitted}, {"vector": self._vector.clone()}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_state`."""
        self._fitted, self._vector = bool(values["fitted"]), tensors["vector"].clone()


def _pairs(layout: Layout) -> Iterator[tuple[int, int]]:
    """Pairs of blocks whose table is not too large for noise to leave anything of it."""
    for i, j in itertools.combinations(range(layout.n_blocks), 2):
        if layout.block_widths[i] * layout.block_widths[j] <= MOST_CELLS:
            yield i, j


def _check_noise(layout: Layout, rows: int, budget: Budget) -> None:
    """Refuse noise in which nothing is left to learn of how columns depend on each other.

    All tables side by side are one symmetric matrix (S, S). Noise of deviation σ has a largest
    eigenvalue of about 2 σ √S (Wigner 1958), which is compared with the number of rows. It grows
    like the power 3/2 of the number of columns, and shrinks about like ε.

    Raises:
        PlanError: It is such noise.
    """
    blocks = layout.n_blocks
    deviation = math.sqrt(math.comb(blocks, 2) * budget.clients / (2 * budget.rho))
    noise = 2 * deviation * math.sqrt(sum(layout.block_widths)) / max(rows, 1)
    if noise > MOST_NOISE:
        times = noise / MOST_NOISE
        fewer = max(math.floor(blocks * times ** (-2 / 3)), 1)
        raise PlanError(
            "epsilon is too small for so many columns: noise would hide how they depend on each "
            "other",
            got=f"{blocks} columns, and noise of {noise:.2g} of the rows where {MOST_NOISE:g} "
            "leaves something",
            do=f"promise an epsilon {math.floor(10 * times + 1) / 10:g} times as large, or keep "
            f"{fewer} of the columns",
        )
