"""The softmax blocks of a layout, as tensors.

Logits are kept transposed, (F, B): the features of a block are then contiguous rows, and a softmax
over them runs along the long side of the memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genesis.codes import Condition, Layout
from genesis.errors import ConditionError

__all__ = ["Blocks", "draw_gumbel"]


_CALIBRATION_STEPS = 30
_CALIBRATED = 5e-4
"""Largest difference of a frequency from the wanted one that needs no further step."""

_RAREST = 1e-9


class Blocks:
    """What a batch does with the blocks of a layout.

    Args:
        layout: Layout of the encoded rows: T scalars, then S features of softmax blocks.
        device: Where the batches are.
        dtype: Their type.
    """

    def __init__(self, layout: Layout, device: torch.device, dtype: torch.dtype) -> None:
        self.n_scalars = layout.n_scalars
        self.width = layout.width
        self.n_softmax = layout.width - layout.n_scalars
        self.widths = list(layout.block_widths)
        self.starts = torch.as_tensor(layout.block_starts[:-1], device=device)  # (blocks,)
        block_of_feature = np.repeat(np.arange(layout.n_blocks), self.widths)
        self.block_of_feature = torch.as_tensor(block_of_feature, device=device)  # (S,)
        # (blocks, S) ones where a feature belongs to a block: sums within blocks are products
        # with it, which is quicker than a scatter.
        self.members = torch.zeros(layout.n_blocks, self.n_softmax, device=device, dtype=dtype)
        self.members[self.block_of_feature, torch.arange(self.n_softmax, device=device)] = 1
        self.members_t = self.members.t().contiguous()

    def softmax(self, logits: Tensor, out: Tensor) -> Tensor:
        """Softmax within every block: (S, B) -> out (S, B)."""
        for block, result in zip(
            logits.split_with_sizes(self.widths), out.split_with_sizes(self.widths), strict=True
        ):
            torch.softmax(block, 0, out=result)
        return out

    def log_softmax(self, logits: Tensor, out: Tensor) -> Tensor:
        """Logarithm of `softmax`: (S, B) -> out (S, B)."""
        for block, result in zip(
            logits.split_with_sizes(self.widths), out.split_with_sizes(self.widths), strict=True
        ):
            torch.log_softmax(block, 0, out=result)
        return out

    def activate(self, logits: Tensor, gumbel: Tensor, tau: float) -> Tensor:
        """tanh of the scalars, Gumbel-softmax of the blocks: (F, B), (S, B) -> (F, B).

        The relaxed sample is softmax((logits + gumbel) / tau) (Jang et al. 2017, eq. 2).
        """
        t = self.n_scalars
        activated = torch.empty_like(logits)
        torch.tanh(logits[:t], out=activated[:t])
        self.softmax((logits[t:] + gumbel).mul_(1 / tau), out=activated[t:])
        return activated

    def activate_backward(self, d: Tensor, activated: Tensor, tau: float) -> Tensor:
        """Gradient for the logits, given d for the activated features: (F, B) each.

        tanh' = 1 - tanh²; for p = softmax(x / tau) of one block, dx = p (d - Σ p d) / tau.
        """
        t = self.n_scalars
        d_logits = torch.empty_like(d)
        tanh, p = activated[:t], activated[t:]
        torch.mul(d[:t], 1 - tanh * tanh, out=d_logits[:t])
        pd = p * d[t:]
        sums = self.members_t @ (self.members @ pd)
        torch.addcmul(pd, p, sums, value=-1, out=d_logits[t:]).mul_(1 / tau)
        return d_logits

    def calibrate(self, logits: Tensor, frequencies: Tensor) -> Tensor:
        """The shift (S, 1) with which sampled codes are as frequent as they should be.

        With Gumbel noise code j of a block comes with chance p_j = mean over rows of
        softmax(logits + shift)_j. The shift that makes p the wanted q maximises a concave function
        (its gradient is q - p), and shift += ln q - ln p climbs it.

        Args:
            logits: (S, B) of rows that stand for all.
            frequencies: (S,) counts of every code; a block without any is left alone.

        Returns:
            Numbers in [-30, 30].
        """
        shift = torch.zeros_like(logits[:, :1])
        counts = frequencies.clamp(min=0).split_with_sizes(self.widths)
        wanted = torch.cat([c / c.sum() if c.sum() > 0 else torch.ones_like(c) for c in counts])
        known = torch.cat([(c.sum() > 0).expand(len(c)) for c in counts])
        chances = torch.empty_like(logits)
        for _ in range(_CALIBRATION_STEPS):
            found = self.softmax(logits + shift, out=chances).mean(1)
            step = wanted.clamp(min=_RAREST).log() - found.clamp(min=_RAREST).log()
            shift = (shift + (step * known).unsqueeze(1)).clamp(-30, 30)
            if ((found - wanted) * known).abs().max() < _CALIBRATED:
                break
        return shift

    def condition_mask(self, condition: Condition | None) -> Tensor | None:
        """(S, 1): 0 where a code is allowed and -inf where it is not; None if nothing is enforced.

        Raises:
            ConditionError: The condition does not fit the layout, or allows nothing in a block.
        """
        if condition is None:
            return None
        mask = torch.zeros(self.n_softmax, 1, device=self.starts.device, dtype=self.members.dtype)
        blocks = mask.split_with_sizes(self.widths)
        for block, allowed in condition.allowed.items():
            if not 0 <= block < len(blocks) or len(allowed) != len(blocks[block]):
                raise ConditionError(f"a condition on block {block} does not fit the encoding")
            if not allowed.any():
                raise ConditionError(
                    f"a condition allows no code of block {block}", do="allow at least one"
                )
            forbidden = torch.as_tensor(~allowed, device=mask.device)
            blocks[block][forbidden] = -torch.inf
        return mask if condition.enforced else None

    def sample(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """A code of every block, drawn from its softmax: (S, B) -> (B, blocks).

        The distribution is that of the largest of logits + Gumbel noise, of which one number a
        feature would be needed; inverting the cumulative sums takes one a block.
        """
        n = logits.shape[1]
        drawn = torch.empty(n, len(self.widths), dtype=torch.int64, device=logits.device)
        u = torch.rand(
            (len(self.widths), n), device=logits.device, dtype=logits.dtype, generator=generator
        )
        u.mul_(1 - 2**-22)  # u times the sum stays below it in float32: no forbidden last code
        for i, block in enumerate(logits.split_with_sizes(self.widths)):
            below = (block - block.amax(0)).exp_()
            for j in range(1, len(below)):  # three times as fast as cumsum down the columns
                below[j] += below[j - 1]
            torch.sum(below <= u[i] * below[-1], 0, out=drawn[:, i])
        return drawn

    def pick(self, logits: Tensor) -> Tensor:
        """The code of the largest logit of every block: (S, B) -> (B, blocks)."""
        picked = [block.max(0).indices for block in logits.split_with_sizes(self.widths)]
        if not picked:
            return logits.new_zeros(logits.shape[1], 0, dtype=torch.int64)
        return torch.stack(picked, dim=1)


def draw_gumbel(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel numbers, -log(-log u), of the type and device of like."""
    u = torch.rand(shape, device=like.device, dtype=like.dtype, generator=generator)
    return u.clamp_(min=1e-20).log_().neg_().log_().neg_()
