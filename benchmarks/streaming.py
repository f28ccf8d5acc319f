"""Peak memory of a client of 1,000,000 rows and 30 columns, in memory and read in blocks.

    python -m benchmarks.streaming [--rows N] [--epochs 4] [--components 600] [--folder FOLDER]

One client, one mixture, one thread. A mixture has 600 components from 66,000 rows on; fewer make
the passes shorter and change little of the memory. Each way runs in a process of its own; its peak
is all that the process ever held, the interpreter and its libraries included. The models must be
the same.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd

SOME = 20_000  # rows that the schema is told from
AT_ONCE = 100_000


def some_rows(n: int, seed: int) -> pd.DataFrame:
    """15 numeric columns (long tails, point masses, nulls, decimals) and 15 of categories."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 12, n)
    columns: dict[str, object] = {}
    for i in range(15):
        x = rng.normal(group * (i % 4), 1 + i / 5)
        x = np.exp(x / 8) if i % 3 == 0 else np.round(x, i % 4)
        x[rng.random(n) < 0.02 * i] = np.nan if i % 2 else 0.0
        columns[f"x{i}"] = x
    for i in range(15):
        code = np.where(rng.random(n) < 0.6, group % (i + 2), rng.integers(0, (i + 2) ** 2 // 2, n))
        columns[f"k{i}"] = np.char.add("label ", code.astype(str))
    return pd.DataFrame(columns)


def write(path: Path, rows: int) -> None:
    """Write the table, a part at a time."""
    for start in range(0, rows, AT_ONCE):
        part = some_rows(min(AT_ONCE, rows - start), seed=start)
        part.to_csv(path, mode="a", header=start == 0, index=False)


def megabytes() -> int:
    """The peak of this process so far (Linux counts it in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(path: Path, streams: bool, config: dict[str, int], report: Connection) -> None:
    """Train, and report seconds, peaks and what tells the model from another."""
    import torch

    from genesis import FederatedSynthesizer, Schema, TableBlocks, read_table

    torch.set_num_threads(1)
    schema = Schema.infer(some_rows(SOME, seed=0))
    at_first, started = megabytes(), time.perf_counter()
    table = TableBlocks(path) if streams else read_table(path)
    held, read = megabytes(), time.perf_counter()
    run = FederatedSynthesizer("mixture", config, schema=schema, seed=0, device="cpu")
    run.fit([table])
    vector = run.model.model.get_vector().numpy()
    report.send(
        {
            "MB before": at_first,
            "MB read": held,
            "MB at the peak": megabytes(),
            "s to read": round(read - started, 1),
            "s in all": round(time.perf_counter() - started, 1),
            "s a pass": round(float(np.median([each.seconds for each in run.history])), 1),
            "model": hashlib.sha256(vector.tobytes()).hexdigest()[:12],
        }
    )


def main() -> None:
    """Both ways, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--components", type=int, default=600)
    parser.add_argument("--folder", type=Path, help="Where the table is written.")
    chosen = parser.parse_args()
    config = {"epochs": chosen.epochs, "components": chosen.components}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "rows.csv"
        write(path, chosen.rows)
        print(f"{chosen.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB of CSV")
        for way, streams in (("in memory", False), ("in blocks", True)):
            told, report = context.Pipe(duplex=False)
            process = context.Process(target=measure, args=(path, streams, config, report))
            process.start()
            report.close()
            found = told.recv()
            process.join()
            print(f"{way}: " + ", ".join(f"{value} {name}" for name, value in found.items()))


if __name__ == "__main__":
    main()
