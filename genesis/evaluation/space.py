"""A space in which rows of mixed kinds have distances.

Every column adds at most about 1 to the squared distance of two rows, so that none decides alone:

* A number stands at its rank among the reference rows, F(x) in [0, 1], interpolated between them,
  and a little beyond on either side where it lies outside: ranks make seconds and euros alike.
* Two categories are at squared distance 1, whichever they are. Up to `AXES` of them have an axis
  each. More share that many dimensions, where each has a random direction; two of those are at
  squared distance 1 on average (Johnson & Lindenstrauss 1984), and equal ones still at 0.
* A null stands apart from all values, by at least √3/2.

The space is fitted on reference rows, which are what an attacker has anyway.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.evaluation.rows import Rows

__all__ = ["Space"]

Floats = npt.NDArray[np.float64]

AXES = 32
"""Categories of one column that have an axis each; of more, the dimensions they share."""

NULL_HEIGHT = 0.75**0.5
"""How far a null stands above the middle of the ranks: 1 from both ends, √3/2 from the middle."""

TAIL = 0.05
"""What a number gains beyond the ranks for each factor e of its distance from the reference."""


@dataclass(frozen=True)
class Space:
    """The space of one reference table.

    Args:
        values: Of every numeric column, the distinct numbers in the reference, rising.
        ranks: Of every numeric column, the mid-ranks of those numbers in [0, 1].
        directions: Of every discrete column (size, dimensions): where each code stands.
    """

    values: tuple[Floats, ...]
    ranks: tuple[Floats, ...]
    directions: tuple[npt.NDArray[np.float32], ...]

    @classmethod
    def fit(cls, reference: Rows) -> Space:
        """The space of reference rows; codes that they lack have their place all the same."""
        scales = [_ranked(column[~np.isnan(column)]) for column in reference.numeric.T]
        columns = reference.columns
        return cls(
            tuple(values for values, _ in scales),
            tuple(ranks for _, ranks in scales),
            tuple(
                _directions(name, size)
                for name, size in zip(columns.discrete, columns.sizes, strict=True)
            ),
        )

    @property
    def dimensions(self) -> int:
        """Number of coordinates of a row."""
        return 2 * len(self.values) + sum(len(each[0]) for each in self.directions)

    def embed(self, rows: Rows, device: str | torch.device = "cpu") -> Tensor:
        """Rows as points: (n, d) float32."""
        n = len(rows)
        points = np.empty((n, self.dimensions), np.float32)
        for place, column in enumerate(rows.numeric.T):
            null = np.isnan(column)
            points[:, 2 * place] = np.where(null, 0.5, self._rank(place, column))
            points[:, 2 * place + 1] = null * NULL_HEIGHT
        start = 2 * len(self.values)
        for codes, directions in zip(rows.codes.T, self.directions, strict=True):
            stop = start + directions.shape[1]
            points[:, start:stop] = directions[codes]
            start = stop
        return torch.from_numpy(points).to(device)

    def _rank(self, place: int, column: Floats) -> Floats:
        """Interpolated ranks (n,) of numbers, beyond [0, 1] outside of the reference."""
        values, ranks = self.values[place], self.ranks[place]
        if not len(values):  # the reference has nulls only
            return np.full(len(column), 0.5)
        # A quarter of each, because the range of the largest numbers is none.
        low, high, cells = float(values[0]) / 4, float(values[-1]) / 4, column / 4
        spread = max(high - low, abs(low), 1e-12)
        beyond = np.maximum(cells - high, 0) + np.minimum(cells - low, 0)
        tails = np.sign(beyond) * np.log1p(np.abs(beyond) / spread)
        return np.asarray(np.interp(column, values, ranks) + TAIL * tails)


def _ranked(column: Floats) -> tuple[Floats, Floats]:
    """The distinct numbers of a column and their mid-ranks: ties share the middle of theirs."""
    values, counts = np.unique(column, return_counts=True)
    return values, (np.cumsum(counts) - counts / 2) / max(len(column), 1)


def _directions(name: str, size: int) -> npt.NDArray[np.float32]:
    """(size, dimensions) places of the codes of a column, at distance 1 of each other."""
    if size <= AXES:
        return np.eye(size, dtype=np.float32) / np.float32(2**0.5)
    # Seeded by the column's name: the same for any order of columns, different for each of them.
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal((size, AXES))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return (drawn / 2**0.5).astype(np.float32)
