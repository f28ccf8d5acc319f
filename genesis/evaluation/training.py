"""The training that shadows and canaries go through: that of the generator under audit, again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from genesis.synthesizer import Synthesizer

if TYPE_CHECKING:
    import torch

    from genesis.schema import Schema

__all__ = ["Train", "training", "training_like"]

Train = Callable[[pd.DataFrame, int], pd.DataFrame]
"""Trains on real rows with a seed, and returns synthetic ones."""


def training(
    method: str,
    config: Mapping[str, Any],
    n: int,
    *,
    schema: Schema | None = None,
    discrete_columns: Sequence[str] = (),
    device: str | torch.device = "auto",
) -> Train:
    """The training of a method on whatever rows it is given.

    Args:
        method: "ctgan" or "tvae".
        config: Arguments of the model.
        n: Rows to generate.
        schema: Kinds of the columns; inferred anew from the rows if None.
        discrete_columns: Columns to take as categories, whatever they look like.
        device: Where it trains and generates.

    Raises:
        PlanError: Unknown method or device, or an impossible config.
    """
    chosen = {**config, "verbose": False}
    Synthesizer(method, chosen, device=device)  # a wrong choice is told before any attack

    def train(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        synthesizer = Synthesizer(method, chosen, schema=schema, seed=seed, device=device)
        return synthesizer.fit(rows, discrete_columns).generate(n)

    return train


def training_like(model: Synthesizer, schema: Schema, n: int) -> Train:
    """The training that made a model, as far as its file tells: method and config.

    Args:
        model: The model.
        schema: Kinds of the columns that it is trained on anew.
        n: Rows to generate.
    """
    return training(model.method, model.config, n, schema=schema, device=model.device)
