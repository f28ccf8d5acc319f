"""Many synthetic rows lie around members."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from genesis.evaluation.attacks import View

__all__ = ["MonteCarlo"]


class MonteCarlo:
    """The number of synthetic rows within a radius (Hilprecht et al. 2019, equation 3)."""

    name: ClassVar[str] = "monte_carlo"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """The number within the median distance; of equal numbers, the nearer comes first: (n,)."""
        near = view.near_synthetic
        assert near.within is not None
        return near.within - near.distances[:, 0] / (1 + near.distances[:, 0])
