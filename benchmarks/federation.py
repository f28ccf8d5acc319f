"""What federating costs: federated runs beside central training by the library, with controls.

    python benchmarks/federation.py adult.csv --target income --seeds 4

The first two thirds of the rows train, the rest are the holdout (so is Adult's file made). Every
run sees as many rows as 30 central epochs, or makes as many steps a client.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.scoring import Judge
from genesis import FederatedSynthesizer, Kind, Schema, Synthesizer
from genesis.partition import partition

EPOCHS = 30
CLIENTS = 5


def library(method: str, table: pd.DataFrame, seed: int) -> Any:
    """The library's own synthesizer, on pooled rows."""
    import ctgan

    torch.manual_seed(seed)
    np.random.seed(seed)
    discrete = [c.name for c in Schema.infer(table) if c.kind is not Kind.NUMERIC]
    built = {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}[method](epochs=EPOCHS, enable_gpu=False)
    built.fit(table, discrete)
    return built.sample(len(table))


def central(method: str, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One client with all rows."""
    return Synthesizer(method, {"epochs": EPOCHS}, seed=seed).fit(table).generate(len(table))


def federated(
    method: str, table: pd.DataFrame, seed: int, *, by: str | None, **choices: Any
) -> pd.DataFrame:
    """Five clients, alike or of different shares of the labels of a column."""
    split: dict[str, Any] = {} if by is None else {"dirichlet": 0.5, "by": by}
    shards = partition(table, CLIENTS, seed=seed, **split)
    built = FederatedSynthesizer(method, n_rounds=10, seed=seed, **choices).fit(shards)
    return built.generate(len(table))


def main() -> None:
    """Print one JSON line a run, then the table of means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", default="ctgan,tvae")
    parser.add_argument("--only", help="names of runs, separated by semicolons")
    arguments = parser.parse_args()

    rows = pd.read_csv(arguments.table)
    cut = len(rows) * 2 // 3
    train, test = rows[:cut].reset_index(drop=True), rows[cut:].reset_index(drop=True)
    judge = Judge(train, test, arguments.target)
    full = {"config": {"batch_size": 500}, "local_epochs": 15}
    usual = {"local_epochs": 3}
    runs: dict[str, Callable[[str, int], Any]] = {
        "library, central": lambda m, s: library(m, train.fillna("?"), s),
        "central": lambda m, s: central(m, train, s),
        "10 x 15, IID": lambda m, s: federated(m, train, s, by=None, **full),
        "10 x 15, Dirichlet 0.5": lambda m, s: federated(m, train, s, by=arguments.target, **full),
        "10 x 15, Dirichlet 0.5, scaffold": lambda m, s: federated(
            m, train, s, by=arguments.target, aggregation="scaffold", **full
        ),
        "10 x 3, defaults": lambda m, s: federated(m, train, s, by=None, **usual),
        "10 x 3, defaults, Dirichlet 0.5": lambda m, s: federated(
            m, train, s, by=arguments.target, **usual
        ),
    }
    wanted = arguments.only.split(";") if arguments.only else list(runs)
    table = [
        {"method": "-", "run": name, "seed": -1, "seconds": 0.0, **scores}
        for name, scores in judge.controls().items()
    ]
    for line in table:
        print(json.dumps(line), flush=True)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for method in arguments.methods.split(","):
            for name in wanted:
                started = time.perf_counter()
                synthetic = runs[name](method, seed)
                seconds = time.perf_counter() - started
                line = {"method": method, "run": name, "seed": seed, "seconds": round(seconds, 1)}
                table.append({**line, **judge.score(synthetic)})
                print(json.dumps(table[-1]), flush=True)
    means = pd.DataFrame(table).groupby(["method", "run"], sort=False).agg(["mean", "std"])
    print(means.drop(columns="seed").round(4).to_string(), file=sys.stderr)


if __name__ == "__main__":
    main()
