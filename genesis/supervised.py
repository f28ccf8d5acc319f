"""A network that learns labels of encoded rows: its numbers, and the steps of its training.

With privacy every step is one of DP-SGD, `privacy.dp_sgd`, whose gradients Opacus computes record
by record. What a table, its columns and its labels are is the business of `classifier`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genesis.models.blocks import Blocks
from genesis.models.rows import TrainingRows
from genesis.privacy.dp_sgd import PrivateSteps

__all__ = ["NO_LABEL", "LabelledRows", "features", "initialised", "network_of", "train"]

NO_LABEL = -1
"""Of a row that teaches nothing."""


@dataclass(frozen=True)
class LabelledRows:
    """What is learned from.

    Args:
        rows: n rows.
        blocks: How their codes become features.
        labels: (n,) int64 the class of each, or `NO_LABEL`.
    """

    rows: TrainingRows
    blocks: Blocks
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def train(
    network: nn.Sequential,
    examples: LabelledRows,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
    private: PrivateSteps | None = None,
) -> None:
    """Train a network by Adam.

    With privacy the network's hooks and the gradients of single records stay at it: keep a copy of
    the numbers, never the network itself.

    Args:
        network: Features (b, F) -> logits (b, classes).
        examples: What it learns from.
        epochs: Passes over the rows.
        batch_size: Rows of a step; not read with privacy.
        learning_rate: At least 0.
        rng: Orders the rows; not drawn from with privacy.
        private: Makes every step one of DP-SGD, and says how many there are in an epoch.
    """
    recorded: nn.Module = network
    optimizer: Any = torch.optim.Adam(network.parameters(), learning_rate)
    device = examples.labels.device
    batches: Iterable[Tensor]
    if private is None:
        batches = _shuffled(len(examples), epochs, batch_size, rng, device)
    else:
        from genesis.privacy import opacus_steps  # here, because Opacus takes a second

        recorded = opacus_steps.recorded(network)
        optimizer = opacus_steps.PrivateOptimizer(optimizer, private)
        batches = (private.batch(len(examples), device) for _ in range(private.steps * epochs))
    for batch in batches:
        optimizer.zero_grad()
        x = features(examples.rows, batch, examples.blocks).requires_grad_(private is not None)
        loss = nn.functional.cross_entropy(
            recorded(x), examples.labels[batch], ignore_index=NO_LABEL, reduction="sum"
        )
        if private is None:  # else the optimiser divides: how many came is private
            loss = loss / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def features(rows: TrainingRows, batch: Tensor, blocks: Blocks) -> Tensor:
    """The features (b, F) of some rows (b,), which may be none."""
    width = blocks.n_scalars + blocks.n_softmax
    x = rows.scalars.new_empty(len(batch), width)
    rows.write(x, batch, blocks)
    return x


def network_of(sizes: Sequence[int], device: torch.device) -> nn.Sequential:
    """Linear layers with ReLU between them; their numbers are yet to be set."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        # Without memory at first: torch would fill it from the generator that all share.
        layers += [nn.Linear(wide, narrow, device="meta"), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to_empty(device=device)


@torch.no_grad()
def initialised(
    sizes: Sequence[int], device: torch.device, rng: np.random.Generator
) -> nn.Sequential:
    """The same, its numbers drawn as torch does, uniform in ±1 / √(inputs), but from a stream."""
    network = network_of(sizes, device)
    for layer in network:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for p in layer.parameters():
                p.copy_(torch.from_numpy(rng.uniform(-bound, bound, tuple(p.shape))))
    return network


def _shuffled(
    n: int, epochs: int, batch_size: int, rng: np.random.Generator, device: torch.device
) -> Iterator[Tensor]:
    """Batches of all epochs, each of which meets every row once."""
    for _ in range(epochs):
        order = torch.as_tensor(rng.permutation(n), device=device)
        yield from torch.split(order, batch_size)
