"""Rows as sums over them need them: places in a table of all codes, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Codes, Layout

__all__ = ["BLOCK_ROWS", "UNIT", "SumRows"]

BLOCK_ROWS = 1024
"""Rows of a block: float32 adds up as many multiples of `UNIT` in [0, 1] without rounding."""

UNIT = 2.0**-14
"""What expectations are rounded down to, row by row, so that their sums are exact."""


class SumRows:
    """The encoded rows of one shard.

    Args:
        layout: Their layout.
        codes: The rows. A code of -1 is unknown and counts nothing.
        device: Where they are gone over.
    """

    def __init__(self, layout: Layout, codes: Codes, device: str | torch.device = "cpu") -> None:
        self.layout, self.codes, self.device = layout, codes, torch.device(device)
        self._groups: tuple[int, npt.NDArray[np.int64]] = (1, np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.codes)

    def blocks(self, group: int = 0, groups: int = 1, size: int = BLOCK_ROWS) -> Iterator[Tensor]:
        """Places of the codes of some rows, a block at a time.

        A place is a row in a table of all S codes of all blocks; that of an unknown code is S.

        Args:
            group: Which rows: those whose codes have this hash.
            groups: Number of hashes. What group a row is in depends on the row alone, so the rows
                of a group are the same for any split of the table.
            size: Rows of a block, at most.

        Yields:
            (b, blocks) int32 on the device.
        """
        first = self.layout.block_starts[:-1] - self.layout.n_scalars
        unknown = int(self.layout.block_starts[-1]) - self.layout.n_scalars
        chosen = None if groups == 1 else np.flatnonzero(self._group_of(groups) == group)
        for start in range(0, len(self) if chosen is None else len(chosen), size):
            rows = slice(start, start + size) if chosen is None else chosen[start : start + size]
            codes = self.codes.codes[rows]
            places = np.where(codes < 0, unknown, codes + first).astype(np.int32)
            yield torch.from_numpy(places).to(self.device)

    def _group_of(self, groups: int) -> npt.NDArray[np.int64]:
        """(n,) the group of every row; kept, for every group is asked for in turn."""
        if self._groups[0] != groups:
            hashed = np.zeros(len(self), dtype=np.uint64)
            with np.errstate(over="ignore"):
                for block in range(self.layout.n_blocks):
                    # Steps of SplitMix64 (Steele et al. 2014), which mix all bits of all codes.
                    code = self.codes.codes[:, block].astype(np.int64).astype(np.uint64)
                    hashed = (hashed ^ code) + np.uint64(0x9E3779B97F4A7C15)
                    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                    hashed ^= hashed >> np.uint64(31)
            self._groups = groups, (hashed % np.uint64(groups)).astype(np.int64)
        return self._groups[1]
