"""Where synthetic rows are denser than the population, the generator has overfitted."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from genesis.evaluation.attacks import View

__all__ = ["Density"]


class Density:
    """Density ratio of synthetic and reference rows: DOMIAS (van Breugel et al. 2023, eq. 2).

    The densities are those of a Gaussian kernel in the space: as the squared distance is a sum over
    columns, that is a product kernel (Racine & Li 2004), which fits tables of numbers and
    categories. Both have the same bandwidth, which comes from the likelihood of reference rows.
    """

    name: ClassVar[str] = "density"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """log p(synthetic) - log p(reference) at every target: (n,)."""
        synthetic, reference = view.near_synthetic.log_density, view.near_reference.log_density
        assert synthetic is not None
        assert reference is not None
        return synthetic - reference
