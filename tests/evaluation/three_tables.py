"""Members, a control and synthetic rows: what attacks on attributes, people and halves take."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from genesis.evaluation.rows import Rows, align
from tests.dirty import dirty_table


class Three(NamedTuple):
    """The arguments of an attack."""

    members: Rows
    control: Rows
    synthetic: Rows


def three(members: pd.DataFrame, control: pd.DataFrame, synthetic: pd.DataFrame) -> Three:
    """Tables made comparable."""
    rows = align({"members": members, "non_members": control, "synthetic": synthetic}).rows
    return Three(rows["members"], rows["non_members"], rows["synthetic"])


def copied(n: int = 600, m: int = 600, seed: int = 0) -> Three:
    """A generator that copies its n members, beside a control of m rows."""
    rows = fresh(n, m, seed)
    return rows._replace(synthetic=rows.members)


def fresh(n: int = 600, m: int = 600, seed: int = 0) -> Three:
    """A generator that knows the population, and nothing of its n members."""
    everyone = _population()
    parts = np.split(np.random.default_rng(seed).permutation(len(everyone)), [n, n + m, 2 * n + m])
    return Three(*(everyone.take(np.sort(part)) for part in parts[:3]))


@cache
def _population() -> Rows:
    """People to draw from."""
    return align({"real": dirty_table(4000)}).rows["real"]


def _awkward() -> dict[str, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """Tables that attacks must live with."""
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame({"x": rng.normal(size=40), "y": -rng.integers(0, 3, 40) * 1.0})
    nulls = numbers.assign(x=np.where(np.arange(40) < 39, np.nan, 1.0))
    words = pd.DataFrame({"a b": rng.choice(["u", "v"], 40), "c": ["only"] * 39 + [None]})
    many = pd.DataFrame({"k": [f"k{i % 2000}" for i in range(9000)], "x": rng.normal(size=9000)})
    many["k"] = many["k"].where(np.arange(9000) < 6000, "new" + many["k"])
    return {
        "one row": (numbers[:1], numbers[1:2], numbers[2:3]),
        "one member": (numbers[:1], numbers[1:], numbers),
        "one synthetic row": (numbers[:20], numbers[20:], numbers[:1]),
        "one column": (numbers[["x"]][:20], numbers[["x"]][20:], numbers[["x"]]),
        "nulls in the synthetic rows": (numbers[:20], numbers[20:], nulls),
        "nulls in the control": (numbers, nulls[:30], numbers[:10]),
        "one category": (words[:20], words[20:39], words),
        "4,000 categories": (many[:3000], many[3000:6000], many[6000:]),
        "numbers and words": (
            pd.concat([numbers, words], axis=1)[:20],
            pd.concat([numbers, words], axis=1)[20:],
            pd.concat([nulls, words], axis=1),
        ),
    }


AWKWARD = _awkward()


def check_entry(entry: dict[str, Any]) -> None:
    """What an attack says is JSON without NaN; shares lie in [0, 1] and in their intervals."""
    json.dumps(entry, allow_nan=False)
    for prefix, name in (("", "rate"), ("control_", "control"), ("risk_", "risk")):
        value, low, high = entry[name], entry[f"{prefix}low"], entry[f"{prefix}high"]
        if value is None:
            assert entry["reason"], f"{name} is missing for a reason"
        else:
            assert 0 <= low <= value <= high <= 1, name
