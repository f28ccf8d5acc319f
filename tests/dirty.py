"""Tables as they come: nulls everywhere, dates, keys, point masses, odd names."""

from __future__ import annotations

import numpy as np
import pandas as pd


def dirty_table(n: int = 600, seed: int = 0) -> pd.DataFrame:
    """A table of n rows with a column of every kind.

    "zeros" is 0 in 40 % of the rows and exactly 99.5 in 5 %, "größe, cm" is null in 20 %.
    """
    rng = np.random.default_rng(seed)
    sex = rng.choice(["Female", "Male"], n, p=[0.4, 0.6])
    height = np.where(sex == "Female", 165.0, 178.0) + rng.normal(0, 7, n)
    income = np.exp(rng.normal(8, 1, n))
    income[rng.random(n) < 0.4] = 0.0
    income[rng.random(n) < 0.05] = 99.5
    days = pd.Timestamp("2019-03-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D")
    table = pd.DataFrame(
        {
            "patient_id": [f"P-{i:05d}" for i in range(n)],
            "sex": sex,
            "größe, cm": np.round(height, 1),
            "zeros": income,
            "visits": rng.poisson(3, n),
            "smoker": rng.random(n) < 0.3,
            "région=?": rng.choice(["Île-de-France", "Bretagne", 'a "quoted", one', ""], n),
            "admitted": days.strftime("%Y-%m-%d"),
            "seen": pd.Series(days + pd.to_timedelta(rng.integers(0, 86_400, n), unit="s")),
            "hospital": "north",
        }
    )
    table.loc[rng.random(n) < 0.2, "größe, cm"] = np.nan
    table.loc[rng.random(n) < 0.1, "région=?"] = np.nan
    table.loc[rng.random(n) < 0.15, "admitted"] = np.nan
    return table


QUICK = {"epochs": 2, "batch_size": 100, "generator_dim": (32,), "discriminator_dim": (32,)}
"""A config of ctgan for tests that are not about what it learns."""

QUICK_TVAE = {"epochs": 2, "batch_size": 100, "compress_dims": (32,), "decompress_dims": (32,)}
"""The same for tvae."""
