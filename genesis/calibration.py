"""Generated rows fitted to what is known of every column by itself.

A federation releases how frequent every label is and how numbers are distributed. Generators learn
these only roughly, and what they miss can be mended without training: of more rows than are wanted
those are taken with which labels and nulls are as frequent as they should be (`raking`), and
numbers are moved to the released distribution in their order, as quantile mapping does. How columns
go together stays as the generator has it.

Nothing but released statistics is used, so a promise of privacy holds as it did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.codes import Codes
from genesis.encoding.encoder import Encoder
from genesis.encoding.grid import GridEncoding
from genesis.encoding.numeric import NumericEncoding
from genesis.mixtures import Mixture
from genesis.raking import Margin, raked, resampled

__all__ = ["Calibration", "Distribution"]

Floats = npt.NDArray[np.float64]

FACTOR = 3  # rows drawn for one wanted; no weight is above it, so that no row comes twice
LEAST_ROWS = 8192  # drawn in any case: a single row has no place among others
FINE_POINTS = 100_000  # numbers of a column of which each gets a probability of its own


@dataclass(frozen=True)
class Distribution:
    """A distribution as pieces in ascending order, uniform within each.

    Args:
        low: (m,) lower ends.
        high: (m,) upper ends; low for a single value.
        mass: (m,) rows in each, above 0.
    """

    low: Floats
    high: Floats
    mass: Floats

    @classmethod
    def of(cls, encoding: NumericEncoding | GridEncoding) -> Distribution:
        """What was released of a column, nulls aside; without pieces if nothing was."""
        if isinstance(encoding, GridEncoding):
            low, high, decimals = encoding.low, encoding.high, encoding.column.decimals
            if decimals is not None:  # values are rounded: else the ends would get half of a value
                half = np.where(high > low, 10.0**-decimals / 2, 0.0)
                low, high = low - half, high + half
            return cls(low, high, encoding.leaf_counts.astype(np.float64))
        pieces = [(encoding.atoms, encoding.atoms, encoding.atom_counts.astype(np.float64))]
        if encoding.mixture is not None:
            low, high, mass = _pieces_of_mixture(encoding, encoding.mixture)
            if mass.any():  # else every number there is a point mass
                pieces.append((low, high, mass / mass.sum() * encoding.mode_counts.sum()))
        low, high, mass = (np.concatenate(each) for each in zip(*pieces, strict=True))
        kept = np.flatnonzero(mass > 0)
        kept = kept[np.lexsort((high[kept], low[kept]))]
        return cls(low[kept], high[kept], mass[kept])

    def quantile(self, u: Floats) -> Floats:
        """(n,) values with the shares u (n,), in [0, 1], of all rows below them."""
        ends = np.cumsum(self.mass)
        below = u * ends[-1]
        piece = np.searchsorted(ends, below, side="right").clip(max=len(ends) - 1)
        place = np.clip(1 - (ends[piece] - below) / self.mass[piece], 0, 1)
        values: Floats = self.low[piece] + place * (self.high[piece] - self.low[piece])
        return values


class Calibration:
    """Fits the rows of a generator to the released statistics of an encoder.

    Args:
        encoder: The encoder that the generator was trained with.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._distributions = {
            block: Distribution.of(encoding)
            for block, encoding in enumerate(encoder.encodings)
            if isinstance(encoding, NumericEncoding | GridEncoding)
        }

    def values(
        self, draw: Callable[[int], Codes], n: int, rng: np.random.Generator
    ) -> dict[str, npt.NDArray[Any]]:
        """Decoded columns of n rows.

        Labels and nulls are as frequent as released, up to the sampling error of n rows. So are
        numbers; among the rows that were drawn they keep their order, and equal ones are told apart
        at random where the distribution wants it.

        Args:
            draw: Generates a number of rows, without any condition: what is released says nothing
                of rows that satisfy one.
            n: Rows wanted. More are drawn: three times as many, and some thousands in any case.
            rng: Decodes, breaks ties and chooses.
        """
        codes = draw(max(FACTOR * n, LEAST_ROWS) if n else 0)
        numbers = {block: self.encoder.values(codes, block, rng) for block in self._distributions}
        weights = raked(self._margins(codes, numbers), len(codes), most=FACTOR)
        rows = resampled(weights, n, rng)
        values: dict[str, npt.NDArray[Any]] = {}
        for block, encoding in enumerate(self.encoder.encodings):
            if isinstance(encoding, NumericEncoding | GridEncoding):
                found = self._moved(block, numbers.pop(block), weights, rng)[rows]
                values[encoding.column.name] = encoding.settle(found)
            else:
                values[encoding.column.name] = self.encoder.values(codes.take(rows), block, rng)
        return values

    def _margins(self, codes: Codes, numbers: dict[int, Floats]) -> list[Margin]:
        """What raking should reach: the labels of discrete columns, the nulls of the others.

        Point masses are left to `_moved`: as cells to be raked they brought nothing more, and rows
        that resemble the real ones less.
        """
        margins = []
        for block, encoding in enumerate(self.encoder.encodings):
            if not isinstance(encoding, NumericEncoding | GridEncoding):
                counts = encoding.counts.astype(np.float64)
                margins.append(Margin(codes.codes[:, block], counts))
            elif encoding.nulls:
                present = float(self._distributions[block].mass.sum())
                null = np.isnan(numbers[block]).astype(np.int64)
                margins.append(Margin(null, np.array([present, float(encoding.nulls)])))
        return margins

    def _moved(
        self, block: int, values: Floats, weights: Floats, rng: np.random.Generator
    ) -> Floats:
        """Weighted values moved to the released distribution; nulls stay."""
        distribution = self._distributions[block]
        present = np.flatnonzero(~np.isnan(values))
        if not len(present) or not len(distribution.mass):
            return values
        order = present[np.lexsort((rng.random(len(present)), values[present]))]
        below = np.cumsum(weights[order])
        moved = values.copy()
        moved[order] = distribution.quantile((below - weights[order] / 2) / below[-1])
        return moved


def _pieces_of_mixture(
    encoding: NumericEncoding, mixture: Mixture
) -> tuple[Floats, Floats, Floats]:
    """Lower ends, upper ends and mass of the Gaussian part of a column, all of it in its bounds.

    What was released beside the point masses has none of their values.
    """
    from scipy.special import ndtr

    lower, upper, decimals = encoding.lower, encoding.upper, encoding.column.decimals
    if decimals is not None and (upper - lower) * 10.0**decimals < FINE_POINTS:
        points = np.arange(np.rint((upper - lower) * 10.0**decimals) + 1) / 10.0**decimals
        low = high = np.unique(encoding.settle(lower + points))
        cuts = (low[1:] + low[:-1]) / 2
    else:
        spread = np.linspace(-4, 4, 401)
        inside = (mixture.means[:, None] + mixture.deviations[:, None] * spread).ravel()
        ends = np.concatenate([inside, encoding.atoms, [lower, upper]])
        ends = np.unique(np.clip(ends, lower, upper))
        low, high = (ends[:-1], ends[1:]) if len(ends) > 1 else (ends, ends)
        cuts = low[1:]
    below = ndtr((cuts[:, None] - mixture.means) / mixture.deviations) @ mixture.weights
    mass = np.diff(np.concatenate([[0.0], below, [1.0]]))
    mass[(low == high) & np.isin(low, encoding.atoms)] = 0.0
    return low, high, mass
