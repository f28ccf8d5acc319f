"""The rows of a shard, expanded to features only for the batch that needs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genesis.codes import Codes
from genesis.models.blocks import Blocks

__all__ = ["TrainingRows", "padded"]

_MULTIPLE = 16
"""Sizes of padded batches are multiples of it."""


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a shard on the device, still as codes.

    Args:
        scalars: (n, T).
        codes: (n, blocks) int32; -1 where a category is unknown.
        has_unknown: Whether any code is -1.
    """

    scalars: Tensor
    codes: Tensor
    has_unknown: bool

    @classmethod
    def of(cls, rows: Codes, device: torch.device, dtype: torch.dtype) -> TrainingRows:
        """The rows; on a CPU they share their memory with the Codes."""
        scalars = torch.as_tensor(rows.scalars, device=device, dtype=dtype)
        codes = torch.as_tensor(rows.codes, device=device)
        return cls(scalars, codes, bool((rows.codes < 0).any()))

    def __len__(self) -> int:
        return len(self.codes)

    def write(self, x: Tensor, rows: Tensor, blocks: Blocks) -> Tensor:
        """Write the features of the given rows (B,) to x (B, F); returns their codes (B, blocks).

        A code of -1 leaves its block at zero.
        """
        codes = self.codes.index_select(0, rows)
        x.zero_()
        torch.index_select(self.scalars, 0, rows, out=x[:, : blocks.n_scalars])
        known = (codes >= 0).to(x.dtype)
        x.scatter_(1, codes.clamp(min=0) + blocks.starts, known)
        return codes


def padded(rows: Tensor) -> Tensor:
    """Row numbers (n,), at least one, and then some of them again, up to a multiple of 16.

    For batches whose size is random: products of a shape that is new cost as much again, since
    oneDNN makes a kernel for each. The rows that come again must count nothing.
    """
    size = -(-len(rows) // _MULTIPLE) * _MULTIPLE
    return rows[torch.arange(size, device=rows.device) % len(rows)]
