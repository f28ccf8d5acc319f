"""How long models fitted from sums take: a federated fit, and a million rows.

OMP_NUM_THREADS=2 python -m benchmarks.quick_fits adult.csv --target income
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from benchmarks.prepared_tables import prepare
from genesis import FederatedSynthesizer
from genesis.partition import partition

MILLION = 1_000_000


def main() -> None:
    """Print one JSON line a method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--target")
    parser.add_argument("--methods", default="mixture,circuit,copula")
    arguments = parser.parse_args()
    table = prepare(arguments.table, arguments.target)
    shards = partition(table.train, 5, dirichlet=0.5, by=table.target, seed=0)
    for method in arguments.methods.split(","):
        started = time.perf_counter()
        fitted = FederatedSynthesizer(method, seed=0, device="cpu").fit(shards)
        fit, started = time.perf_counter() - started, time.perf_counter()
        fitted.generate(MILLION)
        line = {"method": method, "threads": torch.get_num_threads(), "fit": round(fit, 1)}
        print(json.dumps(line | {"million": round(time.perf_counter() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()
