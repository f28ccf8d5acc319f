"""A classifier that learns to tell synthetic rows from others tells members, too."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from genesis.evaluation.attacks import View
from genesis.evaluation.features import learn
from genesis.evaluation.rows import Rows

__all__ = ["Classifier"]

MOST_ROWS = 5_000
"""Of either table that are learnt from."""


class Classifier:
    """Gradient boosting on synthetic against reference rows.

    The simplest form of LOGAN (Hayes et al. 2019): the classifier's probability is a function of
    the density ratio that `density` estimates, by trees, which see the columns that matter.
    """

    name: ClassVar[str] = "classifier"

    def scores(self, view: View) -> npt.NDArray[np.float64]:
        """The probability of every target to be synthetic: (n,)."""
        rng = np.random.default_rng(np.random.SeedSequence([view.seed, len(view.synthetic)]))
        tables = [
            table.take(np.sort(rng.permutation(len(table))[:MOST_ROWS]))
            for table in (view.synthetic, view.reference)
        ]
        is_synthetic = np.arange(sum(map(len, tables))) < len(tables[0])
        predict = learn(
            "gradient_boosting", Rows.concat(tables), is_synthetic * 1, classes=2, seed=view.seed
        )
        return predict(view.targets)[:, 1]
