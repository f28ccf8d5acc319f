"""What privacy costs: rows of federations with ε = 1, 3 and 10 beside those without, and attacks.

    python -m benchmarks.privacy utility adult.csv --target income --seeds 3
    python -m benchmarks.privacy attack adult.csv --seeds 3
    python -m benchmarks.privacy noise adult.csv

`utility`: the first two thirds of the rows train, at five clients; the rest are the holdout. The
schema is public: all categories and the bounds of all numbers are stated. `tv2` is the mean total
variation of all two-way tables, numbers in 20 bins of equal frequency.

`attack`: 200 rows, no dropout, 600 epochs: a critic that knows its rows by heart, attacked by its
own scores, before and after.

`noise`: how long one client of `utility` takes to choose its noise, and what it spends of ε.
Models make no difference to it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.scoring import Judge
from genesis import FederatedSynthesizer, Kind, Schema, Synthesizer
from genesis.evaluation.white_box import white_box
from genesis.federated.choices import private_batch_size
from genesis.federated.plan import Plan
from genesis.partition import partition
from genesis.privacy.guard import Statistics, Training
from genesis.privacy.ledger import Ledger

CLIENTS = 5
BINS = 20
OVERFITTED = {"batch_size": 100, "discriminator_dropout": 0.0, "epochs": 600, "pac": 1}


def public_schema(table: pd.DataFrame) -> Schema:
    """What an operator would state of Adult: it was made from a census whose codebook is public."""
    columns = []
    for column in Schema.infer(table):
        entry = column.to_dict()
        known = table[column.name].dropna()
        if column.kind is Kind.NUMERIC:
            entry |= {"lower": float(known.min()), "upper": float(known.max())}
        elif column.kind in (Kind.CATEGORICAL, Kind.BOOLEAN):
            entry |= {"categories": sorted(known.unique().tolist(), key=str)}
        columns.append(entry)
    return Schema.from_dict({"columns": columns})


class TwoWay:
    """Total variation of two-way tables between a real table and others."""

    def __init__(self, real: pd.DataFrame) -> None:
        self.real = real
        self.edges = {
            name: np.unique(np.quantile(real[name].dropna(), np.linspace(0, 1, BINS + 1)[1:-1]))
            for name in real.select_dtypes("number")
        }
        self.labels = {
            name: pd.Index(real[name].dropna().unique()) for name in real if name not in self.edges
        }

    def codes(self, table: pd.DataFrame) -> dict[str, npt.NDArray[np.int64]]:
        """Every column as numbers from 0; nulls and unknown labels are one more."""
        found = {}
        for name in self.real:
            if name in self.edges:
                values = table[name].to_numpy(float)
                places = np.searchsorted(self.edges[name], values, side="right")
                found[str(name)] = np.where(np.isnan(values), len(self.edges[name]) + 1, places)
            else:
                places = self.labels[name].get_indexer(table[name])
                found[str(name)] = np.where(places < 0, len(self.labels[name]), places)
        return found

    def error(self, table: pd.DataFrame) -> float:
        """The mean over all pairs of columns."""
        ours, theirs = self.codes(self.real), self.codes(table)
        errors = []
        for first, second in itertools.combinations(ours, 2):
            width = int(max(ours[second].max(), theirs[second].max())) + 1
            a, b = (c[first] * width + c[second] for c in (ours, theirs))
            size = int(max(a.max(), b.max())) + 1
            shares = [np.bincount(x, minlength=size) / len(x) for x in (a, b)]
            errors.append(0.5 * np.abs(shares[0] - shares[1]).sum())
        return float(np.mean(errors))


def utility(arguments: argparse.Namespace) -> None:
    """One JSON line a run, then the table of means."""
    rows = pd.read_csv(arguments.table)
    cut = len(rows) * 2 // 3
    train, test = rows[:cut].reset_index(drop=True), rows[cut:].reset_index(drop=True)
    schema, two_way = public_schema(rows), TwoWay(train)
    judge = Judge(train, test, arguments.target)
    lines: list[dict[str, Any]] = []

    def report(line: dict[str, Any], synthetic: pd.DataFrame) -> None:
        lines.append({**line, **judge.score(synthetic), "tv2": two_way.error(synthetic)})
        print(json.dumps(lines[-1]), flush=True)

    if arguments.controls:
        rng = np.random.default_rng(0)
        shuffled = pd.DataFrame({n: rng.permutation(c.to_numpy()) for n, c in train.items()})
        report({"method": "-", "epsilon": "shuffled columns", "seed": -1}, shuffled)
        report({"method": "-", "epsilon": "real holdout", "seed": -1}, test)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        shards = partition(train, CLIENTS, seed=seed)
        for method in arguments.methods.split(","):
            for epsilon in [
                None if e == "none" else float(e) for e in arguments.epsilons.split(",")
            ]:
                privacy = epsilon and {"differential_privacy": {"epsilon": epsilon}}
                # A promise has defaults of its own: 80 epochs of small batches in small networks.
                choices = {} if privacy else {"local_epochs": 15}
                started = time.perf_counter()
                built = FederatedSynthesizer(
                    method,
                    n_rounds=10,
                    schema=schema,
                    seed=seed,
                    privacy=privacy or None,
                    **choices,
                )
                synthetic = built.fit(shards).generate(len(train))
                seconds = round(time.perf_counter() - started, 1)
                line = {"method": method, "epsilon": epsilon, "seed": seed, "seconds": seconds}
                report({**line, "spent": built.epsilon}, synthetic)
    frame = pd.DataFrame(lines)
    frame["epsilon"] = frame["epsilon"].map(lambda e: "none" if e is None or e != e else str(e))
    means = frame.groupby(["method", "epsilon"], sort=False).agg(["mean", "std"])
    print(means.drop(columns=["seed"]).round(4).to_string(), file=sys.stderr)


def attack(arguments: argparse.Namespace) -> None:
    """AUC of the critic's own scores on rows that it learnt by heart, without and with privacy."""
    rows = pd.read_csv(arguments.table)
    schema = public_schema(rows)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        order = np.random.default_rng(seed).permutation(len(rows))
        members, others = rows.iloc[order[:200]], rows.iloc[order[200:800]]
        for epsilon in [None if e == "none" else float(e) for e in arguments.epsilons.split(",")]:
            privacy = {"differential_privacy": {"epsilon": epsilon}} if epsilon else None
            config = {**OVERFITTED, "learning_rate": 1e-3}
            model = Synthesizer("ctgan", config, schema=schema, seed=seed, privacy=privacy)
            model.fit(members)
            found = white_box(model, members, others, seed=seed).attacks["critic"].auc
            line = {"epsilon": epsilon, "seed": seed, "auc": found.value}
            print(json.dumps({**line, "low": found.low, "high": found.high}), flush=True)


def noise(arguments: argparse.Namespace) -> None:
    """One JSON line a promise: σ of a step, ε of all releases at the whole of δ, seconds."""
    rows = pd.read_csv(arguments.table)
    schema, each = public_schema(rows), len(rows) * 2 // 3 // CLIENTS
    for epsilon in [float(e) for e in arguments.epsilons.split(",") if e != "none"]:
        plan = Plan(n_rounds=10, privacy={"differential_privacy": {"epsilon": epsilon}})
        promise, epochs = plan.promise, plan.n_rounds * plan.epochs_per_round
        batch_size = private_batch_size(plan.config_for(private=True))
        counts = Statistics.planned(schema, promise).events
        started = time.perf_counter()
        training = Training.planned(
            counts, promise, rows=each, batch_size=batch_size, epochs=epochs
        )
        seconds = round(time.perf_counter() - started, 2)
        spent = Ledger((*counts, training.event(epochs))).epsilon(promise.delta)
        line = {"epsilon": epsilon, "noise": training.noise_multiplier, "spent": spent}
        print(json.dumps({**line, "seconds": seconds}), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["utility", "attack", "noise"])
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", default="income")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", default="ctgan,tvae")
    parser.add_argument("--epsilons", default="none,1,3,10")
    parser.add_argument("--controls", action="store_true")
    arguments = parser.parse_args()
    {"utility": utility, "attack": attack, "noise": noise}[arguments.what](arguments)


if __name__ == "__main__":
    main()
