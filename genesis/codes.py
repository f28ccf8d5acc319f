"""The encoded table: what models train on and what they generate.

A row is a few scalars in [-1, 1] and a few codes. One-hot features exist only for the rows of a
batch, so memory grows with rows x columns whatever the number of categories.

The one-hot features of a row stand in this order, and every model shares it::

    [ scalars (T) | mode blocks (T of them) | category blocks (D of them) ]

Scalar t and mode block t belong to the same numeric column. Category blocks come last, so the C
features that a model can be conditioned on are simply the last C of the F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from genesis.errors import ConditionError

__all__ = ["Codes", "Condition", "Layout"]


@dataclass(frozen=True)
class Layout:
    """Widths of the features of one encoded row.

    Args:
        mode_widths: Number of modes of every numeric column; its scalar is the position in a mode.
        category_widths: Number of categories of every discrete column.
        null_modes: Whether the last mode of every numeric column is null; empty if none is.
    """

    mode_widths: tuple[int, ...]
    category_widths: tuple[int, ...]
    null_modes: tuple[bool, ...] = ()

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
        shares: Block number -> (width,) share of what decodes from each code that satisfies it, in
            [0, 1]: of a bin that an interval cuts, for instance. All of an allowed code if missing.
        enforced: Whether a model must rule out every other code. If not, it is only told what is
            wanted where it can be told (a conditional vector), and rows may miss it.
    """

    allowed: dict[int, npt.NDArray[np.bool_]]
    enforced: bool = True
    shares: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)

    def evidence(self, layout: Layout) -> dict[int, npt.NDArray[np.float64]]:
        """Block number -> (width,) chance that what decodes from each code satisfies it.

        Raises:
            ConditionError: It does not fit the layout, or allows nothing in a block.
        """
        found = {}
        for block, allowed in self.allowed.items():
            if not 0 <= block < layout.n_blocks or len(allowed) != layout.block_widths[block]:
                raise ConditionError(f"a condition on block {block} does not fit the encoding")
            found[block] = self.shares.get(block, np.ones(len(allowed))) * allowed
            if not found[block].any():
                raise ConditionError(
                    f"a condition allows no code of block {block}", do="allow at least one"
                )
        return found

    def holds(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which rows of codes (n, n_blocks) satisfy it: (n,) bool."""
        keep = np.ones(len(codes), dtype=bool)
        for block, mask in self.allowed.items():
            keep &= mask[codes[:, block]] & (codes[:, block] >= 0)
        return keep
