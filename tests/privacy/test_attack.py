"""A critic that knows its rows by heart, before and after."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genesis import Column, Kind, Schema, Synthesizer
from genesis.evaluation.white_box import white_box

LABELS = tuple("abcdefgh")
COLUMNS = [f"c{i}" for i in range(12)]
OVERFITTED = {
    "batch_size": 100,
    "discriminator_dropout": 0.0,
    "epochs": 300,
    "learning_rate": 1e-3,
    "pac": 1,
}


@pytest.mark.slow
def test_privacy_takes_away_what_a_critic_remembers() -> None:
    """In rows of nothing but chance there is nothing else to learn than the rows."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.choice(LABELS, 800) for name in COLUMNS})
    schema = Schema(
        tuple(Column(name, Kind.CATEGORICAL, "object", categories=LABELS) for name in COLUMNS)
    )
    members, others = rows[:200], rows[200:]

    def auc(epsilon: float | None) -> float:
        privacy = epsilon and {"differential_privacy": {"epsilon": epsilon}}
        model = Synthesizer("ctgan", OVERFITTED, schema=schema, seed=0, privacy=privacy or None)
        model.fit(members)
        return white_box(model, members, others, seed=0).attacks["critic"].auc.value

    assert auc(None) >= 0.8
    assert np.mean([auc(3.0) for _ in range(4)]) <= 0.55
