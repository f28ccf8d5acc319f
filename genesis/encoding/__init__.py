"""The encoder: rows of a table to codes that a network can learn, and back.

Mode-specific normalisation (Xu et al. 2019, section 4.2) fitted on summed histograms instead of on
rows. A numeric value becomes the number of a mode and its position within it; a mode is a Gaussian
of the column's mixture, a point mass, or null. A label becomes its number. See `codes.Layout` for
the order of the features.

`encoder` is the file to read first; `numeric` and `discrete` are the two kinds of column, behind
the protocol `ColumnEncoding`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.schema import Column

__all__ = ["ColumnEncoding"]


class ColumnEncoding(Protocol):
    """How one column becomes a code and, if it has an inside, a scalar."""

    @property
    def column(self) -> Column:
        """The column."""

    @property
    def has_scalar(self) -> bool:
        """Whether codes need a position within them."""

    @property
    def is_sound(self) -> bool:
        """Whether it encodes every value of its column; one that others made may not."""

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(width,) pooled rows of every code."""

    def encode(
        self, values: pd.Series[Any], rng: np.random.Generator | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Scalars (n,) in [-1, 1] and codes (n,); -1 for a label that was never seen."""

    def decode(
        self,
        scalars: npt.NDArray[np.float32] | None,
        codes: npt.NDArray[np.int32],
        rng: np.random.Generator,
    ) -> npt.NDArray[Any]:
        """Values (n,): float64 with NaN for null, or labels as objects with None for null."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
