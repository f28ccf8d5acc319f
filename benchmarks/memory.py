"""Peak memory of training on a wide column: 100,000 rows, one column of 10,000 categories.

    python benchmarks/memory.py

Prints the peak of resident memory before and after training, for both methods, with the usual limit
of 1,000 categories that have a feature of their own.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

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


def peak_memory() -> int:
    """Largest resident memory of this process so far, in MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def measure(method: str) -> None:
    """Train one epoch and print the peak."""
    from genesis import Synthesizer

    table = wide_table()
    before = peak_memory()
    synthesizer = Synthesizer(method, {"epochs": 1}, seed=0)
    rows = synthesizer.fit(table).generate(1000)
    peak = peak_memory()
    seen = rows["code"].nunique()
    width = synthesizer.encoder.layout.width
    print(
        f"{method}: {width:,} features, "
        f"{before} MB before, {peak} MB at the peak; {seen} codes in 1,000 rows"
    )


def main() -> None:
    """Every case in a process of its own, whose peak is its own."""
    context = multiprocessing.get_context("spawn")
    for method in ("ctgan", "tvae"):
        process = context.Process(target=measure, args=(method,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
