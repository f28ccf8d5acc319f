"""Private steps of stacks of linear layers, whose gradients Opacus computes record by record.

Opacus (Yousefpour et al. 2021, "Opacus: User-Friendly Differential Privacy Library in PyTorch")
hooks into the layers of a network, whose loss is then an ordinary sum over the records. It suits
networks that meet every record once and alone: no penalty on gradients, no batch normalisation.
What it draws from torch's generator, the noise, comes from the operating system here.

Importing this file imports Opacus, which takes a second.
"""

from __future__ import annotations

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer

from genesis.privacy.dp_sgd import PrivateSteps

__all__ = ["PrivateOptimizer", "recorded"]


def recorded(network: torch.nn.Module) -> torch.nn.Module:
    """A network that leaves the gradient of every record at its parameters.

    Those gradients stay there as attributes of the parameters, even when they are pickled: keep a
    copy of the numbers, never the network itself.

    Args:
        network: Its loss must be the *sum* over the records of a batch, which may be empty, and its
            input must require a gradient, without which torch warns of hooks on a first layer.
    """
    hooked: torch.nn.Module = GradSampleModule(network, loss_reduction="sum")
    return hooked


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Takes a noisy mean of clipped gradients to an optimiser: one step of DP-SGD.

    Args:
        optimizer: Of the parameters of a network that is `recorded`.
        private: Clip, noise, and the expected batch size B by which every sum is divided.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, private: PrivateSteps) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=private.noise_multiplier,
            max_grad_norm=private.max_grad_norm,
            expected_batch_size=private.batch_size,
            loss_reduction="mean",
        )
        self._noise = private.noise

    def clip_and_accumulate(self) -> None:
        """Sum the records' gradients, each scaled down to a norm of at most C.

        Infinity times the factor 0 would be no number, and make the sum one that has no bound.
        """
        for gradients in self.grad_samples:
            gradients.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Add N(0, σ² C²) to every coordinate of the sum: numbers that no seed decides."""
        for p in self.params:
            noise = self._noise.normal(p.numel()).to(p).view_as(p)
            p.grad = p.summed_grad + self.noise_multiplier * self.max_grad_norm * noise
