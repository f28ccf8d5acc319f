"""Members lie nearer to synthetic rows than to others of the population."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from genesis.evaluation.attacks import View
from genesis.evaluation.neighbours import Neighbourhood

__all__ = ["Calibrated", "log_ratio"]

FLOOR = 1e-3
"""Distances below it are alike: of a twin in both tables nothing can be told."""


class Calibrated:
    """The nearest synthetic row against the nearest reference row.

    A common row is near to everything, so nearness alone says little of it. The calibration is that
    of GAN-Leaks (Chen et al. 2020, section 4.5), as a ratio, so that it does not depend on scale.
    """

    name: ClassVar[str] = "calibrated"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """See `log_ratio`: (n,)."""
        return log_ratio(view.near_reference, view.near_synthetic)


def log_ratio(reference: Neighbourhood, synthetic: Neighbourhood) -> npt.NDArray[np.float64]:
    """log d(reference) - log d(synthetic), of the nearest rows of either: (n,)."""
    far, near = reference.distances[:, 0], synthetic.distances[:, 0]
    return np.asarray(np.log(far + FLOOR) - np.log(near + FLOOR))
