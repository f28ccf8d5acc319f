"""Membership inference without a model: one attack a file, all behind the protocol `Attack`.

An attacker holds the synthetic rows, reference rows of the same population that nobody trained on,
and targets: rows of which some were trained on. An attack gives every target a score, and members
should score higher. `View` is what the attacker sees; what several attacks need of it (who lies
near whom) is found once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from genesis.errors import PlanError, nearest_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from genesis.evaluation.neighbours import Neighbourhood
    from genesis.evaluation.rows import Rows
    from genesis.evaluation.space import Space

__all__ = ["ATTACKS", "Attack", "View", "create_attack"]

ATTACKS: dict[str, str] = {
    "calibrated": "genesis.evaluation.attacks.calibrated:Calibrated",
    "classifier": "genesis.evaluation.attacks.classifier:Classifier",
    "density": "genesis.evaluation.attacks.density:Density",
    "distance": "genesis.evaluation.attacks.distance:Distance",
    "logan": "genesis.evaluation.attacks.logan:Logan",
    "monte_carlo": "genesis.evaluation.attacks.monte_carlo:MonteCarlo",
    "recoding": "genesis.evaluation.attacks.recoding:Recoding",
}

FINER = 0.5
"""Factor on the bandwidth of the likeliest density, which smooths what was memorised away: copies
of 5,000 rows of a census table are found with an AUC of 0.57 at 1, of 0.73 at 0.5."""

RADIUS_TARGETS = 1000
"""Targets that decide the radius of `View.near_synthetic`."""


class Attack(Protocol):
    """A way to tell members from others."""

    name: ClassVar[str]

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """One finite number for each target (n,): higher for those taken for members.

        The same for the same view, and for targets in any order.
        """


@dataclass(frozen=True)
class _Background:
    """What an attacker knows apart from the synthetic rows."""

    reference: Rows
    targets: Rows
    space: Space
    device: str | torch.device

    @cached_property
    def targets_at(self) -> Tensor:
        """(n, d) points of the targets."""
        return self.space.embed(self.targets, self.device)

    @cached_property
    def reference_at(self) -> Tensor:
        """(r, d) points of the reference."""
        return self.space.embed(self.reference, self.device)

    @cached_property
    def bandwidth(self) -> float:
        """Of Gaussian kernels: finer than suits the reference."""
        from genesis.evaluation.neighbours import choose_bandwidth

        return FINER * choose_bandwidth(self.reference_at)

    @cached_property
    def near(self) -> Neighbourhood:
        """Reference rows near the targets."""
        from genesis.evaluation.neighbours import neighbourhood

        return neighbourhood(self.targets_at, self.reference_at, bandwidth=self.bandwidth)


@dataclass(frozen=True)
class View:
    """What an attacker sees.

    Args:
        synthetic: Rows of the generator under attack, at least one.
        reference: Rows of the same population that are not among the targets, at least one.
        targets: The rows in question.
        seed: Decides whatever an attack draws.
        device: Where tensors live.
    """

    synthetic: Rows
    reference: Rows
    targets: Rows
    seed: int = 0
    device: str | torch.device = "cpu"
    _background: _Background | None = field(default=None, repr=False)

    def of(self, synthetic: Rows) -> View:
        """The same attacker before other synthetic rows; what is known already stays known."""
        return replace(self, synthetic=synthetic, _background=self.background)

    @cached_property
    def background(self) -> _Background:
        """What does not depend on the synthetic rows."""
        if self._background is not None:
            return self._background
        from genesis.evaluation.space import Space

        space = Space.fit(self.reference)
        return _Background(self.reference, self.targets, space, self.device)

    @property
    def targets_at(self) -> Tensor:
        """Points of the targets in the space: (n, d) float32."""
        return self.background.targets_at

    @property
    def reference_at(self) -> Tensor:
        """Points of the reference: (r, d) float32."""
        return self.background.reference_at

    @cached_property
    def synthetic_at(self) -> Tensor:
        """Points of the synthetic rows: (s, d) float32."""
        return self.background.space.embed(self.synthetic, self.device)

    @property
    def near_reference(self) -> Neighbourhood:
        """Reference rows near the targets, with their density (not `within`)."""
        return self.background.near

    @cached_property
    def near_synthetic(self) -> Neighbourhood:
        """Synthetic rows near the targets, with their density and how many lie within a radius.

        The radius is the median distance of targets to the nearest synthetic row (Hilprecht et al.
        2019, section 4.2.2).
        """
        from genesis.evaluation.neighbours import neighbourhood

        # Chosen by their hashes: at random, and the same ones in whatever order targets come.
        some = np.argsort(self.targets.keys(), kind="stable")[:RADIUS_TARGETS]
        nearest = neighbourhood(self.targets_at[some], self.synthetic_at, k=1).distances
        return neighbourhood(
            self.targets_at,
            self.synthetic_at,
            radius=float(np.median(nearest)),
            bandwidth=self.background.bandwidth,
        )


def create_attack(name: str) -> Attack:
    """The attack called name.

    Raises:
        PlanError: There is no such attack.
    """
    if name not in ATTACKS:
        raise PlanError(f"unknown attack '{name}'", do=nearest_names(name, ATTACKS))
    module, _, cls = ATTACKS[name].partition(":")
    attack: Attack = getattr(import_module(module), cls)()
    return attack
