"""Rows of one population of mixed columns, as many as a test wants."""

from __future__ import annotations

import numpy as np

from genesis.evaluation.rows import Columns, Rows

COLUMNS = Columns(
    ("age", "income", "visits"),
    ("job", "région=?", "smoker"),
    (tuple("abcdefgh"), ("north", "east", "west"), (False, True)),
)


def population(n: int, seed: int) -> Rows:
    """n rows whose columns depend on each other; other seeds draw other rows of the same kind."""
    rng = np.random.default_rng([seed, 7])
    kind = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    age = 20 + 15 * kind + rng.normal(0, 5, n)
    income = np.where(rng.random(n) < 0.3, 0.0, np.exp(7 + kind / 2 + rng.normal(0, 0.5, n)))
    income[rng.random(n) < 0.1] = np.nan
    visits = rng.poisson(1 + 2 * kind).astype(np.float64) - 1
    job = 1 + np.where(
        rng.random(n) < 0.7, 2 * kind + (rng.random(n) < 0.3), rng.integers(8, size=n)
    )
    region = rng.choice(4, n, p=[0.1, 0.5, 0.3, 0.1])
    smoker = 1 + (rng.random(n) < np.array([0.1, 0.3, 0.5, 0.7])[kind])
    return Rows(
        COLUMNS, np.column_stack([age, income, visits]), np.column_stack([job, region, smoker])
    )


def only(rows: Rows, *, numeric: slice = slice(None), discrete: slice = slice(None)) -> Rows:
    """The same rows with some of their columns."""
    known = rows.columns
    columns = Columns(known.numeric[numeric], known.discrete[discrete], known.categories[discrete])
    return Rows(columns, rows.numeric[:, numeric], rows.codes[:, discrete])
