"""Columns and tables that the tests of schemas share."""

from __future__ import annotations

import numpy as np
import pandas as pd

from genesis.schema import Column, Schema

SECRET = "secret"


def infer(cells, name: str = "x", **arguments) -> Column:
    """The column that a table of one column has."""
    return Schema.infer(pd.DataFrame({name: cells}), **arguments)[name]


def merge(*columns: Column) -> Column:
    """The column that clients 1, 2, … have together."""
    schemas = {str(i): Schema((column,)) for i, column in enumerate(columns, start=1)}
    return Schema.merge(schemas).columns[0]


def people_table() -> pd.DataFrame:
    """A table with a column of every kind."""
    rng = np.random.default_rng(0)
    n = 40
    return pd.DataFrame(
        {
            "id": [f"P{i:03d}" for i in range(n)],
            "age": rng.integers(0, 99, n),
            "score": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "sex": rng.choice(["f", "m"], n),
            "smoker": rng.random(n) < 0.5,
            "seen": pd.date_range("2020-01-01", periods=n).strftime("%d.%m.%Y"),
            "born": pd.date_range("1950-01-01", periods=n, freq="97h"),
            "site": "Bonn",
        }
    )
