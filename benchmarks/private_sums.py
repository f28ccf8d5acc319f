"""What privacy costs models that are fitted from sums: ε by whom the noise protects from.

    python -m benchmarks.private_sums adult.csv --target income --seeds 3
    python -m benchmarks.private_sums adult.csv --target income --methods marginals,copula,mixture
    python -m benchmarks.private_sums adult.csv --methods ctgan --epsilons 1,10 --trusts local

The first two thirds of the rows train, the rest are the holdout. The schema is public: categories
and bounds are stated. One table is "table". Eight clients, each of which has mostly some of the
labels, add all noise by themselves ("local"), or together under secure aggregation ("distributed").
Methods that are trained in steps, such as ctgan, are there to be compared with. What is refused,
for noise would leave nothing, is written down with the reason.

`tv2` is the mean total variation of all two-way tables of the training rows and the generated ones,
numbers in 20 bins of equal frequency; `tstr` the AUROC of trees that learn from generated rows and
are tested on the holdout. Rows without any dependence and the holdout itself say what they mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.privacy import TwoWay, public_schema
from benchmarks.scoring import Judge
from genesis import FederatedSynthesizer, Schema, Synthesizer
from genesis.errors import PlanError
from genesis.partition import partition

CLIENTS = 8
ALPHA = 0.5  # of the Dirichlet distribution of labels over clients
TRUSTS = ("table", "local", "distributed")


def generated(
    method: str,
    train: pd.DataFrame,
    schema: Schema,
    *,
    promise: dict[str, Any] | None,
    trust: str,
    target: str,
    seed: int,
) -> tuple[pd.DataFrame, float | None]:
    """As many rows as there were, and ε that was spent."""
    privacy = None
    if promise is not None:
        shared = {"trust": "distributed"} if trust == "distributed" else {}
        privacy = {"differential_privacy": {**promise, **shared}}
    built: Synthesizer | FederatedSynthesizer
    if trust == "table":
        built = Synthesizer(method, schema=schema, privacy=privacy, seed=seed).fit(train)
    else:
        shards = partition(train, CLIENTS, dirichlet=ALPHA, by=target, seed=seed)
        built = FederatedSynthesizer(
            method,
            schema=schema,
            privacy=privacy,
            seed=seed,
            secure_aggregation=trust == "distributed",
        ).fit(shards)
    return pd.DataFrame(built.generate(len(train))), built.epsilon


def main() -> None:
    """One JSON line a run, then the table of means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", default="income")
    parser.add_argument("--methods", default="marginals")
    parser.add_argument("--epsilons", default="0.3,1,3,10,none")
    parser.add_argument("--trusts", default=",".join(TRUSTS))
    parser.add_argument("--statistics", type=float, default=None, help="share of the budget")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = pd.read_csv(arguments.table)
    cut = len(rows) * 2 // 3
    train, test = rows[:cut].reset_index(drop=True), rows[cut:].reset_index(drop=True)
    schema, two_way, judge = (
        public_schema(rows),
        TwoWay(train),
        Judge(train, test, arguments.target),
    )
    lines: list[dict[str, Any]] = []

    def report(line: dict[str, Any], synthetic: pd.DataFrame) -> None:
        # Training on the holdout would be tested on itself.
        tstr = None if synthetic is test else judge.score(synthetic)["tstr"]
        lines.append({**line, "tv2": two_way.error(synthetic), "tstr": tstr})
        print(json.dumps(lines[-1]), flush=True)

    rng = np.random.default_rng(0)
    shuffled = pd.DataFrame({n: rng.permutation(c.to_numpy()) for n, c in train.items()})
    report({"method": "shuffled columns", "epsilon": "-", "trust": "-", "seed": 0}, shuffled)
    report({"method": "real holdout", "epsilon": "-", "trust": "-", "seed": 0}, test)
    for seed in range(arguments.seeds):
        for method in arguments.methods.split(","):
            for epsilon in arguments.epsilons.split(","):
                promise = None if epsilon == "none" else {"epsilon": float(epsilon)}
                if promise is not None and arguments.statistics is not None:
                    promise["statistics"] = arguments.statistics
                for trust in arguments.trusts.split(","):
                    started = time.perf_counter()
                    line = {"method": method, "epsilon": epsilon, "trust": trust, "seed": seed}
                    try:
                        synthetic, spent = generated(
                            method,
                            train,
                            schema,
                            promise=promise,
                            trust=trust,
                            target=arguments.target,
                            seed=seed,
                        )
                    except PlanError as refused:
                        print(json.dumps({**line, "refused": str(refused)}), flush=True)
                        continue
                    seconds = round(time.perf_counter() - started, 1)
                    report({**line, "spent": spent, "seconds": seconds}, synthetic)
    frame = pd.DataFrame(lines).drop(columns=["seed"])
    means = frame.groupby(["method", "epsilon", "trust"], sort=False).agg(["mean", "std"])
    print(means.round(4).to_string(), file=sys.stderr)


if __name__ == "__main__":
    main()
