"""The encoded table: what models train on and what they generate.

A row is a few scalars in [-1, 1] and a few codes. One-hot features exist only for the rows of a
batch, so memory grows with rows x columns whatever the number of categories.

The one-hot features of a row stand in this order, and every model shares it::

    [ scalars (T) | mode blocks (T of them) | category blocks (D of them) ]

Scalar t and mode block t belong to the same numeric column. Category blocks come last, so the C
features that a model can be conditioned on are simply the last C of the F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["Codes", "Condition", "Layout"]


@dataclass(frozen=True)
class Layout:
    """Widths of the features of one encoded row.

    Args:
        mode_widths: Number of modes of every numeric column; its scalar is the position in a mode.
        category_widths: Number of categories of every discrete column.
    """

    mode_widths: tuple[int, ...]
    category_widths: tuple[int, ...]

    @property
    def n_scalars(self) -> int:
        """T, the number of scalar features."""
        return len(self.mode_widths)

    @cached_property
    def block_widths(self) -> tuple[int, ...]:
        """Widths of all softmax blocks, mode blocks first."""
        return self.mode_widths + self.category_widths

    @property
    def n_blocks(self) -> int:
        """Number of softmax blocks."""
        return len(self.block_widths)

    @cached_property
    def block_starts(self) -> npt.NDArray[np.int64]:
        """First feature of every block, and F at the end: shape (n_blocks + 1,)."""
        return self.n_scalars + np.concatenate([[0], np.cumsum(self.block_widths)]).astype(np.int64)

    @cached_property
    def width(self) -> int:
        """F, the number of features of a row."""
        return self.n_scalars + sum(self.block_widths)

    @cached_property
    def condition_width(self) -> int:
        """C, the number of features a model can be conditioned on: the last C of the F features."""
        return sum(self.category_widths)


@dataclass(frozen=True)
class Codes:
    """Encoded rows.

    Args:
        scalars: (n, T) float32 in [-1, 1]; 0 where the mode has no inside (a null, a point mass).
        codes: (n, n_blocks) int32, the one feature of each block that is on; -1 where none is, for
            a category that the encoder has never seen.
    """

    scalars: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Codes:
        """The given rows."""
        return Codes(self.scalars[rows], self.codes[rows])


@dataclass(frozen=True)
class Condition:
    """What generated rows must satisfy, in terms of the encoding.

    Args:
        allowed: Block number -> (width,) bool, the codes that a row may have there.
        enforced: Whether a model must rule out every other code. If not, it is only told what is
            wanted where it can be told (a conditional vector), and rows may miss it.
    """

    allowed: dict[int, npt.NDArray[np.bool_]]
    enforced: bool = True

    def holds(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which rows of codes (n, n_blocks) satisfy it: (n,) bool."""
        keep = np.ones(len(codes), dtype=bool)
        for block, mask in self.allowed.items():
            keep &= mask[codes[:, block]] & (codes[:, block] >= 0)
        return keep
