"""Peak memory of training on a wide column: 100,000 rows, one column of 10,000 categories.

    python benchmarks/memory.py

Prints the resident memory after imports and the peak after training, for both methods, and for a
limit of categories so high that every one of them has a feature.
"""

from __future__ import annotations

import multiprocessing
import resource

import numpy as np
import pandas as pd

ROWS, CATEGORIES = 100_000, 10_000


def wide_table() -> pd.DataFrame:
    """Categories with a long tail, beside ten ordinary columns."""
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, CATEGORIES + 1) ** 0.8
    codes = rng.choice(CATEGORIES, ROWS, p=chance / chance.sum())
    codes[:CATEGORIES] = np.arange(CATEGORIES)
    table = pd.DataFrame({"code": np.array([f"c{i:05d}" for i in range(CATEGORIES)])[codes]})
    for i in range(5):
        table[f"x{i}"] = rng.normal(size=ROWS)
        table[f"k{i}"] = rng.integers(0, 8, ROWS).astype(str)
    return table


def measure(method: str, max_categories: int) -> None:
    """Train one epoch and print the peak."""
    from genesis import Synthesizer

    table = wide_table()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    synthesizer = Synthesizer(method, {"epochs": 1}, max_categories=max_categories, seed=0)
    rows = synthesizer.fit(table).generate(1000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seen = rows["code"].nunique()
    width = synthesizer.encoder.layout.width
    print(
        f"{method}, {max_categories:,} categories at most: {width:,} features, "
        f"{before} MB before, {peak} MB at the peak; {seen} codes in 1,000 rows"
    )


def main() -> None:
    """Every case in a process of its own, whose peak is its own."""
    context = multiprocessing.get_context("spawn")
    for method in ("ctgan", "tvae"):
        for limit in (1000, CATEGORIES):
            process = context.Process(target=measure, args=(method, limit))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
