"""Numeric and datetime columns: modes of a mixture, point masses and null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.mixtures import Mixture
from genesis.schema import Column
from genesis.statistics import NumericStatistics
from genesis.values import numbers

__all__ = ["MODE_HALF_WIDTH", "NumericEncoding"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MODE_HALF_WIDTH = 4.0  # standard deviations of a mode that the scalar's [-1, 1] spans
SCALAR_LIMIT = 0.99  # a scalar never quite reaches +-1, where tanh has no gradient
BLOCK_ROWS = 65_536  # rows encoded at a time, to bound memory


@dataclass(frozen=True)
class NumericEncoding:
    """A numeric or datetime column: Gaussian modes, then point masses, then null.

    Args:
        column: The column.
        mixture: Gaussian modes of what is neither a point mass nor null, or None.
        mode_counts: (k,) rows of each Gaussian mode, by the mixture's weights.
        atoms: (a,) ascending point masses.
        atom_counts: (a,) rows of each.
        nulls: Rows that are null; the null mode exists if there are any.
        lower: Smallest value decoded.
        upper: Largest value decoded.
    """

    column: Column
    mixture: Mixture | None
    mode_counts: Integers
    atoms: Floats
    atom_counts: Integers
    nulls: int
    lower: float
    upper: float
    kind: ClassVar[str] = "numeric"

    @classmethod
    def build(
        cls, column: Column, statistics: NumericStatistics, mixture: Mixture | None
    ) -> NumericEncoding:
        """From the pooled statistics of the column and the mixture fitted on them."""
        rest = statistics.counts.sum()
        weights = mixture.weights if mixture is not None else np.empty(0)
        # Public bounds may exclude point masses, which then count as the bound.
        inside = np.clip(statistics.atoms, statistics.lower, statistics.upper)
        atoms, place = np.unique(inside, return_inverse=True)
        atom_counts = np.zeros(len(atoms), dtype=np.int64)
        np.add.at(atom_counts, place, statistics.atom_counts)
        return cls(
            column=column,
            mixture=mixture,
            mode_counts=np.rint(weights * rest).astype(np.int64),
            atoms=atoms,
            atom_counts=atom_counts,
            nulls=statistics.nulls,
            lower=statistics.lower,
            upper=statistics.upper,
        )

    @property
    def has_scalar(self) -> bool:
        """A column of point masses alone has no inside: its values are labels."""
        return self.mixture is not None

    @property
    def is_sound(self) -> bool:
        """Whether it encodes every value: as many counts as codes, and numbers that make sense."""
        fields = [self.atoms, self.atom_counts, self.mode_counts]
        modes = np.empty(0)
        if self.mixture is not None:
            parts = (self.mixture.weights, self.mixture.means, self.mixture.deviations)
            fields += parts
            modes = self.mixture.means
            if not len(modes) or any(part.shape != modes.shape for part in parts):
                return False
            if (self.mixture.weights <= 0).any() or (self.mixture.deviations <= 0).any():
                return False
        return (
            all(part.ndim == 1 and bool(np.isfinite(part).all()) for part in fields)
            and self.mode_counts.shape == modes.shape
            and self.atom_counts.shape == self.atoms.shape
            and bool((np.diff(self.atoms) > 0).all())
            and -np.inf < self.lower <= self.upper < np.inf
            and self.nulls >= 0
        )

    @property
    def n_modes(self) -> int:
        """Number of Gaussian modes."""
        return len(self.mixture.means) if self.mixture is not None else 0

    @property
    def counts(self) -> Integers:
        """(width,) pooled rows of Gaussian modes, point masses and null."""
        null = [self.nulls] if self.nulls else []
        return np.concatenate([self.mode_counts, self.atom_counts, null]).astype(np.int64)

    def encode(
        self, values: pd.Series[Any], rng: np.random.Generator | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Draw each value's mode by its responsibility, as CTGAN does; then its place in it."""
        given = numbers(self.column, values)
        scalars = np.zeros(len(given), dtype=np.float32)
        null_code = self.n_modes + len(self.atoms) if self.nulls else -1
        codes = np.full(len(given), null_code, dtype=np.int32)
        present = np.flatnonzero(~np.isnan(given))
        inside = np.clip(given[present], self.lower, self.upper)
        if len(self.atoms):
            nearest = _nearest(self.atoms, inside)
            on_atom = self.atoms[nearest] == inside
            if self.mixture is None:  # nothing else to be: a value never seen is the nearest one
                on_atom[:] = True
            codes[present[on_atom]] = self.n_modes + nearest[on_atom]
            present, inside = present[~on_atom], inside[~on_atom]
        if self.mixture is not None:
            for start in range(0, len(present), BLOCK_ROWS):
                rows = present[start : start + BLOCK_ROWS]
                codes[rows], scalars[rows] = _place(
                    self.mixture, inside[start : start + BLOCK_ROWS], rng
                )
        return scalars, codes

    def decode(
        self,
        scalars: npt.NDArray[np.float32] | None,
        codes: npt.NDArray[np.int32],
        rng: np.random.Generator,
    ) -> Floats:
        """Values (n,), NaN for null, rounded as the column is and within its bounds."""
        fixed = np.concatenate([np.zeros(self.n_modes), self.atoms, [np.nan]])
        decoded = fixed[codes]
        if self.mixture is not None and scalars is not None:
            inside = np.flatnonzero((codes >= 0) & (codes < self.n_modes))
            modes = codes[inside]
            x = scalars[inside] * (MODE_HALF_WIDTH * self.mixture.deviations)[modes]
            decoded[inside] = self.settle(x + self.mixture.means[modes])
        return decoded

    def settle(self, values: Floats) -> Floats:
        """Values on the column's grid and within its bounds."""
        clipped = np.clip(values, self.lower, self.upper)
        if self.column.decimals is None:
            return clipped
        return np.clip(np.round(clipped, self.column.decimals), self.lower, self.upper) + 0.0

    def reach(self, mode: int) -> tuple[float, float]:
        """The values that a Gaussian mode can decode to."""
        assert self.mixture is not None
        half = MODE_HALF_WIDTH * self.mixture.deviations[mode]
        ends = np.array([self.mixture.means[mode] - half, self.mixture.means[mode] + half])
        low, high = self.settle(ends)
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; floats keep every bit."""
        mixture = self.mixture
        return {
            "kind": self.kind,
            "column": self.column.name,
            "weights": mixture.weights.tolist() if mixture else None,
            "means": mixture.means.tolist() if mixture else None,
            "deviations": mixture.deviations.tolist() if mixture else None,
            "mode_counts": self.mode_counts.tolist(),
            "atoms": self.atoms.tolist(),
            "atom_counts": self.atom_counts.tolist(),
            "nulls": self.nulls,
            "lower": self.lower,
            "upper": self.upper,
        }

    @classmethod
    def from_dict(cls, column: Column, values: Mapping[str, Any]) -> NumericEncoding:
        """The inverse of `to_dict`."""
        mixture = None
        if values["weights"] is not None:
            mixture = Mixture(
                *(np.array(values[key], np.float64) for key in ("weights", "means", "deviations"))
            )
        return cls(
            column=column,
            mixture=mixture,
            mode_counts=np.array(values["mode_counts"], np.int64),
            atoms=np.array(values["atoms"], np.float64),
            atom_counts=np.array(values["atom_counts"], np.int64),
            nulls=int(values["nulls"]),
            lower=float(values["lower"]),
            upper=float(values["upper"]),
        )


def _place(
    mixture: Mixture, values: Floats, rng: np.random.Generator | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Modes drawn by responsibility (n,), or the likeliest, and positions within them (n,)."""
    distance = (values[:, None] - mixture.means) / mixture.deviations
    log_density = np.log(mixture.weights / mixture.deviations) - 0.5 * distance**2
    if rng is None:
        modes = log_density.argmax(axis=1)
    else:
        density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        cumulative = np.cumsum(density, axis=1)
        drawn = rng.random(len(values)) * cumulative[:, -1]
        modes = (cumulative <= drawn[:, None]).sum(axis=1).clip(max=len(mixture.means) - 1)
    inside = np.take_along_axis(distance, modes[:, None], axis=1)[:, 0] / MODE_HALF_WIDTH
    return modes.astype(np.int32), np.clip(inside, -SCALAR_LIMIT, SCALAR_LIMIT).astype(np.float32)


def _nearest(ascending: Floats, values: Floats) -> Integers:
    """Index of the nearest of some ascending numbers."""
    right = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    left = (right - 1).clip(min=0)
    nearer_left = np.abs(values - ascending[left]) <= np.abs(ascending[right] - values)
    return np.where(nearer_left, left, right)
