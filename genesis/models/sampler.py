"""Training by sampling: conditions, and rows that satisfy them (Xu et al. 2019, section 4.3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Condition, Layout
from genesis.models.rows import TrainingRows

__all__ = ["Categorical", "ReleasedSampler", "RowSampler", "generation_probabilities"]


class Categorical:
    """Draws from a discrete distribution by inverting its cumulative sums.

    Args:
        weights: (C,) not negative, at least one positive.
    """

    def __init__(self, weights: Tensor) -> None:
        cumulative = torch.cumsum(weights.double(), 0)
        self._cumulative = cumulative / cumulative[-1]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) int64 draws. right=True steps over categories of weight 0."""
        u = _uniform(n, self._cumulative, generator)
        return torch.searchsorted(self._cumulative, u, right=True)


class RowSampler:
    """Draws conditions as often as the rows of a shard say, and rows for given conditions.

    A condition is one category of one discrete column: a number in [0, C). Its column is drawn
    uniformly, its category by the (logarithm of the) number of rows that have it. Rows lie sorted
    by category, as in a compressed sparse matrix: those of category c are
    order[start[c] : start[c] + count[c]], so drawing one costs one uniform number.

    Args:
        rows: The shard.
        layout: Its layout.
        log_frequency: Draw categories by log(1 + count) instead of count.
    """

    def __init__(self, rows: TrainingRows, layout: Layout, *, log_frequency: bool) -> None:
        self._n_rows = len(rows)
        self._like = rows.scalars
        orders, starts, counts, weights = [], [], [], []
        taken = 0
        for column, width in enumerate(layout.category_widths, start=layout.n_scalars):
            code = rows.codes[:, column].long()
            order = torch.argsort(code, stable=True)
            n_unknown = int((code < 0).sum())
            count = torch.bincount(code[order[n_unknown:]], minlength=width)
            orders.append(order[n_unknown:].int())
            starts.append(taken + torch.cumsum(count, 0) - count)
            counts.append(count)
            weight = torch.log1p(count.double()) if log_frequency else count.double()
            # A column without a known category in this shard is never drawn.
            weights.append(weight / weight.sum().clamp(min=1e-300))
            taken += len(orders[-1])
        self._categories: Categorical | None = None
        if taken:
            self._order, self._start = torch.cat(orders), torch.cat(starts)
            self._count = torch.cat(counts)
            self._categories = Categorical(torch.cat(weights))

    def conditions(self, n: int, generator: torch.Generator) -> Tensor | None:
        """(n,) conditions, or None where the rows have no category to draw."""
        return self._categories.draw(n, generator) if self._categories else None

    def rows(self, n: int, conditions: Tensor | None, generator: torch.Generator) -> Tensor:
        """(n,) rows, each satisfying its condition; any rows where conditions is None."""
        u = _uniform(n, self._like, generator)
        if conditions is None:
            return (u * self._n_rows).long()
        inside = (u * self._count[conditions]).long()
        return self._order[self._start[conditions] + inside]


class ReleasedSampler:
    """Draws conditions as often as released counts say: what private training may know.

    Args:
        layout: Layout of the encoded rows.
        frequencies: (C,) released counts of the categories, or None.
        device: Where conditions are needed.
    """

    def __init__(
        self,
        layout: Layout,
        frequencies: npt.NDArray[np.float64] | None,
        device: torch.device,
    ) -> None:
        self._device, self._first_block = device, layout.n_scalars
        self._starts = torch.as_tensor(
            layout.block_starts[layout.n_scalars : -1] - layout.width + layout.condition_width,
            device=device,
        )
        weights = generation_probabilities(layout, frequencies, None)
        self._categories: Categorical | None = None
        if len(weights):
            self._categories = Categorical(torch.as_tensor(weights, device=device))

    def conditions(self, n: int, generator: torch.Generator) -> Tensor | None:
        """(n,) conditions, or None without discrete columns."""
        return self._categories.draw(n, generator) if self._categories else None

    def columns(self, n: int, generator: torch.Generator) -> Tensor | None:
        """(n,) discrete columns, all equally likely, or None without any."""
        if not len(self._starts):
            return None
        shape = (n,)
        return torch.randint(len(self._starts), shape, device=self._device, generator=generator)

    def own_conditions(self, codes: Tensor, columns: Tensor) -> Tensor:
        """(n,) what rows with codes (n, blocks) have in columns (n,); -1 where it is unknown."""
        own = codes.gather(1, (columns + self._first_block).unsqueeze(1)).squeeze(1).long()
        return torch.where(own < 0, own, own + self._starts[columns])


def generation_probabilities(
    layout: Layout, frequencies: npt.NDArray[np.float64] | None, condition: Condition | None
) -> npt.NDArray[np.float64]:
    """Probabilities (C,) of the conditions that generated rows are drawn with.

    Every discrete column is equally likely, its categories as often as the released counts say.
    The reference implementation draws them by log-frequency here too, which makes rare categories
    too frequent among generated rows; log-frequency is for training alone.

    Args:
        layout: Layout of the encoded rows.
        frequencies: (C,) counts, possibly noisy: negative ones count as 0. None is uniform.
        condition: Where it restricts discrete columns, only those are drawn, and among the
            allowed categories only.
    """
    if not layout.condition_width:
        return np.zeros(0)
    counts = np.ones(layout.condition_width) if frequencies is None else frequencies
    columns = np.split(np.maximum(counts, 0.0), np.cumsum(layout.category_widths)[:-1])
    allowed = condition.allowed if condition else {}
    blocks = range(layout.n_scalars, layout.n_blocks)
    conditioned = [block in allowed for block in blocks]
    probabilities = []
    for block, column in zip(blocks, columns, strict=True):
        mask = allowed.get(block, np.ones(len(column), dtype=bool))
        column = column * mask if (column * mask).any() else mask.astype(np.float64)
        drawn = block in allowed or not any(conditioned)
        probabilities.append(drawn * column / column.sum())
    together: npt.NDArray[np.float64] = np.concatenate(probabilities)
    together /= together.sum()
    return together


def _uniform(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) float64 in [0, 1): float32 could not address every one of many rows."""
    return torch.rand(n, dtype=torch.float64, device=like.device, generator=generator)
