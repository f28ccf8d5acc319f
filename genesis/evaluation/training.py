"""The training that shadows and canaries go through: that of the generator under audit, again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from genesis.synthesizer import Synthesizer

if TYPE_CHECKING:
    from genesis.schema import Schema

__all__ = ["Train", "training_like"]

Train = Callable[[pd.DataFrame, int], pd.DataFrame]
"""Trains on real rows with a seed, and returns synthetic ones."""


def training_like(model: Synthesizer, schema: Schema, n: int) -> Train:
    """The training that made a model, as far as its file tells: method and config.

    Args:
        model: The model.
        schema: Kinds of the columns that it is trained on anew.
        n: Rows to generate.
    """

    def train(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        config = {**model.config, "verbose": False}
        again = Synthesizer(model.method, config, schema=schema, seed=seed, device=model.device)
        return again.fit(rows).generate(n)

    return train
