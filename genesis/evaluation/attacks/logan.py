"""A neural critic that learns to tell synthetic rows from others tells members, too."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from genesis.evaluation.attacks import View

__all__ = ["Logan"]

WIDTH = 128
STEPS = 400
BATCH = 256
"""Rows of either kind in a step."""

LEARNING_RATE = 1e-3


class Logan:
    """A critic trained on synthetic against reference rows (Hayes et al. 2019, LOGAN, 4.2.2).

    In the paper the attacker, who has no access to the critic that trained the generator, trains
    a GAN of his own on what it made, reference rows being the fakes where there are some. Tables
    need only the critic.
    """

    name: ClassVar[str] = "logan"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """The critic's logit of every target: (n,)."""
        devices = [view.targets_at.device] if view.targets_at.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(view.seed)
            critic = _trained(view.synthetic_at, view.reference_at)
        with torch.inference_mode():
            logits: Tensor = critic(view.targets_at)[:, 0]
        return np.asarray(logits.double().cpu())


def _trained(synthetic: Tensor, reference: Tensor) -> nn.Module:
    """A critic whose logit is high for the rows (s, d) and low for the rows (r, d)."""
    critic = nn.Sequential(
        nn.Linear(synthetic.shape[1], WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, 1),
    ).to(synthetic.device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=LEARNING_RATE)
    truth = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)]).to(synthetic.device)
    for _ in range(STEPS):
        batch = torch.cat([_drawn(synthetic), _drawn(reference)])
        loss = binary_cross_entropy_with_logits(critic(batch)[:, 0], truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return critic


def _drawn(rows: Tensor) -> Tensor:
    """A batch of rows, with replacement: equally many of both, however many there are."""
    return rows[torch.randint(len(rows), (BATCH,), device=rows.device)]
