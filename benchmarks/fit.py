"""Whole runs beside the library's: encoder, fit and a million generated rows.

    python -m benchmarks.fit adult.csv --epochs 30 --threads 2

Both sides run in the same process, one after the other, in turns; generation runs in a process of
its own, whose peak of memory is its own. Quote ratios: they move less with the machine than times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.memory import peak_memory
from genesis import Encoder, Kind, Schema, Synthesizer
from genesis.statistics import PooledStatistics, ShardStatistics

METHODS = ("ctgan", "tvae")


def discrete_columns(table: pd.DataFrame) -> list[str]:
    """What the library must be told."""
    return [c.name for c in Schema.infer(table) if c.kind is not Kind.NUMERIC]


def encode_ours(table: pd.DataFrame, schema: Schema) -> None:
    """Check, counts, mixtures and codes."""
    rows = schema.conform(table)
    shard = ShardStatistics(schema, rows)
    pooled = PooledStatistics(schema, [shard.labels()])
    while questions := pooled.questions():
        pooled.take([shard.answer(question) for question in questions])
    Encoder.fit(pooled).encode(rows, np.random.default_rng(0))


def encode_library(table: pd.DataFrame, names: list[str]) -> None:
    """The library's transformer."""
    from ctgan.data_transformer import DataTransformer

    transformer = DataTransformer()
    transformer.fit(table, names)
    transformer.transform(table)


def library(method: str, epochs: int) -> Any:
    """The library's synthesizer on the CPU."""
    import ctgan

    return {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}[method](epochs=epochs, enable_gpu=False)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def paired(name: str, ours: Callable[[], object], theirs: Callable[[], object], turns: int) -> None:
    """Time both sides in turns and print medians and their ratio."""
    times = [(timed(ours), timed(theirs)) for _ in range(turns)]
    mine, other = (float(np.median(side)) for side in zip(*times, strict=True))
    print(
        json.dumps(
            {
                "what": name,
                "ours": round(mine, 3),
                "library": round(other, 3),
                "ratio": round(other / mine, 2),
                "turns": turns,
            }
        ),
        flush=True,
    )


def generate(model: Path, kind: str, n: int, threads: int) -> None:
    """Load a model, generate n rows and print seconds and the growth of the peak of memory."""
    torch.set_num_threads(threads)
    if kind == "ours":
        synthesizer = Synthesizer.load(model)
        make = synthesizer.generate
    else:
        import ctgan

        make = ctgan.CTGAN.load(model).sample
    make(2000)  # imports and first touches are not what is measured
    before = peak_memory()
    seconds = timed(lambda: make(n))
    grown = peak_memory() - before
    line = {"what": f"generate {n:,} rows, {kind}", "seconds": round(seconds, 2), "MB": grown}
    print(json.dumps(line), flush=True)


def main() -> None:
    """One JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = pd.read_csv(arguments.table)
    table = rows[: len(rows) * 2 // 3].fillna("?")

    # Both are told what the columns are, and both have been imported.
    schema, names = Schema.infer(table).settle(), discrete_columns(table)
    encode_ours(table, schema)
    paired("encoder", lambda: encode_ours(table, schema), lambda: encode_library(table, names), 3)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            mine = Synthesizer(method, {"epochs": arguments.epochs}, seed=0)
            other = library(method, arguments.epochs)
            paired(
                f"fit {method}, {arguments.epochs} epochs",
                lambda mine=mine: mine.fit(table),
                lambda other=other: other.fit(table, names),
                arguments.turns,
            )
            mine.save(Path(folder) / f"ours-{method}")
            other.save(Path(folder) / f"library-{method}")
            for kind in ("ours", "library"):
                process = context.Process(
                    target=generate,
                    args=(
                        Path(folder) / f"{kind}-{method}",
                        kind,
                        arguments.rows,
                        arguments.threads,
                    ),
                )
                process.start()
                process.join()


if __name__ == "__main__":
    main()
