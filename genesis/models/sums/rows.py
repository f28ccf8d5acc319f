"""Rows as sums over them need them: places in a table of all codes, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Codes, Layout

__all__ = ["BLOCK_ROWS", "MOST_GROUPS", "UNIT", "SumRows", "are_groups"]

BLOCK_ROWS = 1024
"""Rows of a block: float32 adds up as many multiples of `UNIT` in [0, 1] without rounding."""

STRETCH_ROWS = 65_536
"""Rows among which those of a group are looked for at a time."""

UNIT = 2.0**-14
"""What expectations are rounded down to, row by row, so that their sums are exact."""

MOST_GROUPS = 8
"""Groups that rows are divided in: one of very many would hold a single row, and its sum be it."""


class SumRows:
    """The encoded rows of one shard.

    Args:
        layout: Their layout.
        codes: The rows, of any type of whole numbers. A code of -1 is unknown and counts nothing.
            They may be larger than memory, in a file that is mapped: no copy of all is made.
        device: Where they are gone over.
    """

    def __init__(self, layout: Layout, codes: Codes, device: str | torch.device = "cpu") -> None:
        self.layout, self.codes, self.device = layout, codes, torch.device(device)
        self._groups: tuple[int, npt.NDArray[Any]] = (1, np.zeros(0, dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.codes)

    def blocks(self, group: int = 0, groups: int = 1, size: int = BLOCK_ROWS) -> Iterator[Tensor]:
        """Places of the codes of some rows, a block at a time; see `code_blocks`.

        A place is a row in a table of all S codes of all blocks; that of an unknown code is S.

        Yields:
            (b, blocks) int32 on the device.
        """
        first = self.layout.block_starts[:-1] - self.layout.n_scalars
        unknown = int(self.layout.block_starts[-1]) - self.layout.n_scalars
        for codes in self.code_blocks(group, groups, size):
            places = np.where(codes < 0, unknown, codes + first).astype(np.int32)
            yield torch.from_numpy(places).to(self.device)

    def code_blocks(
        self, group: int = 0, groups: int = 1, size: int = BLOCK_ROWS
    ) -> Iterator[npt.NDArray[Any]]:
        """The codes of some rows, a block at a time.

        Args:
            group: Which rows: those whose codes have this hash.
            groups: Number of hashes. What group a row is in depends on the row alone, so the rows
                of a group are the same for any split of the table.
            size: Rows of a block, at most.

        Yields:
            (b, blocks) whole numbers of the type that all rows have; -1 where unknown.
        """
        codes = self.codes.codes
        if groups == 1:
            yield from (codes[start : start + size] for start in range(0, len(self), size))
            return
        group_of = self._group_of(groups)
        for start in range(0, len(self), STRETCH_ROWS):
            rows = start + np.flatnonzero(group_of[start : start + STRETCH_ROWS] == group)
            yield from (codes[rows[i : i + size]] for i in range(0, len(rows), size))

    def _group_of(self, groups: int) -> npt.NDArray[Any]:
        """(n,) the group of every row; kept, for every group is asked for in turn."""
        if self._groups[0] != groups:
            found = np.empty(len(self), dtype=np.min_scalar_type(groups - 1))
            for start in range(0, len(self), STRETCH_ROWS):
                hashed = _hashed(self.codes.codes[start : start + STRETCH_ROWS])
                found[start : start + STRETCH_ROWS] = hashed % np.uint64(groups)
            self._groups = groups, found
        return self._groups[1]


def are_groups(group: Any, groups: Any) -> bool:
    """Whether a client lets itself be asked for the rows of one of so many groups."""
    whole = type(group) is int and type(groups) is int
    return whole and 0 <= group < groups <= MOST_GROUPS


def _hashed(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """(n,) a hash of every row of codes (n, blocks)."""
    hashed = np.zeros(len(codes), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in codes.T:
            # Steps of SplitMix64 (Steele et al. 2014), which mix all bits of all codes.
            code = column.astype(np.int64).astype(np.uint64)
            hashed = (hashed ^ code) + np.uint64(0x9E3779B97F4A7C15)
            hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            hashed ^= hashed >> np.uint64(31)
    return hashed
