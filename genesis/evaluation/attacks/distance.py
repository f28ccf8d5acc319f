"""Members lie near synthetic rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from genesis.evaluation.attacks import View

__all__ = ["Distance"]


class Distance:
    """How near the nearest synthetic row is (Chen et al. 2020, GAN-Leaks, full black box)."""

    name: ClassVar[str] = "distance"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """Minus the distance of the nearest synthetic row: (n,)."""
        return -view.near_synthetic.distances[:, 0]
