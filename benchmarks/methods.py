"""Methods beside each other on one table: how good their rows are, and how long they take.

    python -m benchmarks.methods adult.csv --methods mixture,genesis-ctgan:30,ctgan:30,shuffled
    python -m benchmarks.methods heart_disease_4sites.csv --by site --methods circuit,holdout
    python -m benchmarks.methods network --iid --methods copula,tvae:30,sdv-copula

Tables are prepared by `benchmarks.prepared_tables`. A method is

======================== ===========================================================================
``mixture``, ``circuit`` a federation of clients; ``circuit@1`` promises every record ε = 1, with a
                         public schema
``federated-ctgan:30``   the same for networks: 10 rounds, 30 epochs in all
``genesis-ctgan:30``     `Synthesizer` on the pooled rows, 30 epochs; also tvae
``ctgan:30``             the library's own on the pooled rows; also tvae
``sdv-copula``           SDV's GaussianCopulaSynthesizer on the pooled rows
``shuffled``             a control: every column permuted, so that nothing depends on anything
``holdout``              a control: real rows that nothing was trained on
``training``             a control: the training rows; its TSTR is what real rows are worth
======================== ===========================================================================

`quality`, `shapes`, `trends`: SDMetrics. `tstr`: AUROC of boosting trained on synthetic rows and
tested on the holdout. `c2st`: AUC of boosting that tells synthetic rows from training rows, 0.5
where it cannot. `c2st_plain`: the same as papers have it, with labels as numbers and 10,000 rows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctgan
import numpy as np
import pandas as pd
import torch
from sdv.single_table import GaussianCopulaSynthesizer

from benchmarks.prepared_tables import PreparedTable, prepare
from benchmarks.privacy import public_schema
from benchmarks.scoring import Judge
from genesis import FederatedSynthesizer, Kind, Schema, Synthesizer
from genesis.errors import GenesisError
from genesis.partition import partition

Sampler = Callable[[int], pd.DataFrame]
NETWORKS = ("ctgan", "tvae")
CONTROLS = ("shuffled", "holdout", "training")
ROUNDS = 10
DIRICHLET = 0.5
USUAL = (
    "mixture,circuit,copula,ctgan:30,genesis-ctgan:30,tvae:30,genesis-tvae:30,sdv-copula,"
    "shuffled,holdout"
)


@dataclass(frozen=True)
class Method:
    """One of the methods in words: ``name``, ``name:epochs``, ``name@epsilon``."""

    text: str
    name: str
    epochs: int | None
    epsilon: float | None

    @property
    def federated(self) -> bool:
        """Whether clients keep their rows; all others see the pooled table."""
        pooled = (*NETWORKS, *CONTROLS, "sdv-copula")
        return self.name not in pooled and not self.name.startswith("genesis-")

    @staticmethod
    def read(text: str) -> Method:
        """What a word of --methods means."""
        found = re.fullmatch(r"([a-z-]+)(?::(\d+))?(?:@([\d.]+))?", text)
        if found is None:
            raise ValueError(f"no method is called {text}")
        name, epochs, epsilon = found.groups()
        if epochs is None and name.rpartition("-")[2] in NETWORKS:
            raise ValueError(f"how many epochs of {name}? write {name}:30")
        return Method(
            text,
            name,
            None if epochs is None else int(epochs),
            None if epsilon is None else float(epsilon),
        )


@dataclass(frozen=True)
class Split:
    """How the training rows are divided among clients.

    Args:
        clients: How many there are, unless every value of a column is one.
        by: The column whose values differ from client to client; None for clients that are alike.
        dirichlet: How much they do; None for one client a value.
    """

    clients: int
    by: str | None
    dirichlet: float | None

    def __str__(self) -> str:
        if self.by is None:
            return f"{self.clients} alike"
        if self.dirichlet is None:
            return f"by {self.by}"
        return f"{self.clients} Dirichlet {self.dirichlet} by {self.by}"

    def shards(self, table: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
        """Client -> its rows."""
        if self.by is not None and self.dirichlet is None:
            return partition(table, by=self.by)
        uneven: dict[str, Any] = {"by": self.by, "dirichlet": self.dirichlet} if self.by else {}
        return partition(table, self.clients, seed=seed, **uneven)


def fit(method: Method, table: PreparedTable, split: Split, seed: int) -> Sampler:
    """What generates rows, once the method has seen the training rows."""
    train = table.train
    if method.name == "shuffled":
        rng = np.random.default_rng(seed)
        return lambda _: pd.DataFrame({k: rng.permutation(v.to_numpy()) for k, v in train.items()})
    if method.name == "holdout":
        return lambda _: table.test
    if method.name == "training":
        return lambda _: train
    if method.name == "sdv-copula":
        return sdv_copula(train, seed)
    if method.name in NETWORKS:
        return library(method, train, seed)
    config = {} if method.epochs is None else {"epochs": method.epochs}
    private: dict[str, Any] = {}
    if method.epsilon is not None:
        private["privacy"] = {"differential_privacy": {"epsilon": method.epsilon}}
        private["schema"] = public_schema(pd.concat([train, table.test]))
    if method.name.startswith("genesis-"):
        name = method.name.removeprefix("genesis-")
        return Synthesizer(name, config, seed=seed, device="cpu", **private).fit(train).generate
    shards = split.shards(train, seed)
    name = method.name.removeprefix("federated-")
    if name in NETWORKS:
        private["n_rounds"] = ROUNDS
    built = FederatedSynthesizer(name, config, seed=seed, device="cpu", **private)
    return built.fit(shards).generate


def library(method: Method, train: pd.DataFrame, seed: int) -> Sampler:
    """CTGAN or TVAE of the library `ctgan`, which takes no nulls and gives numbers unrounded.

    A numeric column with nulls becomes one with its median in their place, and one that says where
    they were; afterwards they are put back, and numbers rounded as the real ones are.
    """
    columns = list(Schema.infer(train))
    holes = [c.name for c in columns if c.kind is Kind.NUMERIC and c.nulls]
    discrete = [c.name for c in columns if c.kind is not Kind.NUMERIC]
    filled = train.fillna(dict.fromkeys(discrete, "?")).fillna(train[holes].median())
    flags = {name: f"{name} is null" for name in holes}
    for name, flag in flags.items():
        filled[flag] = np.where(train[name].isna(), "yes", "no").astype(object)
    torch.manual_seed(seed)
    np.random.seed(seed)
    kinds = {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}
    built = kinds[method.name](epochs=method.epochs, enable_gpu=False)
    built.fit(filled, [*discrete, *flags.values()])

    def sample(n: int) -> pd.DataFrame:
        rows = built.sample(n)
        for name, flag in flags.items():
            rows[name] = rows[name].mask(rows[flag] == "yes")
        for column in columns:
            cells = rows[column.name]
            if column.kind is not Kind.NUMERIC:
                rows[column.name] = cells.mask(cells == "?", None)
            elif column.decimals is not None:
                rows[column.name] = cells.round(column.decimals)
        return rows[[c.name for c in columns]]

    return sample


def sdv_copula(train: pd.DataFrame, seed: int) -> Sampler:
    """SDV's Gaussian copula with its defaults."""
    np.random.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = GaussianCopulaSynthesizer(Schema.infer(train).to_metadata())
        built.fit({"table": train})
    built._set_random_state(seed)  # else every sampling starts from the same state

    def sample(n: int) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows: pd.DataFrame = built.sample(n)["table"]
            return rows

    return sample


def run(method: Method, table: PreparedTable, split: Split, seed: int, judge: Judge) -> Any:
    """One line of results."""
    line: dict[str, Any] = {"method": method.text, "table": table.name, "seed": seed}
    line["split"] = str(split) if method.federated else "pooled"
    try:
        started = time.perf_counter()
        sampler = fit(method, table, split, seed)
        fitted = time.perf_counter()
        rows = sampler(len(table.train))
        line["fit_seconds"] = fitted - started
        line["generate_seconds"] = time.perf_counter() - fitted
    except GenesisError as error:
        return {**line, "error": str(error)}
    line |= judge.score(rows)
    if method.name == "holdout":
        line["tstr"] = None  # it would be tested on the rows that it was trained on
    line["c2st"] = judge.distinguish(rows)
    line["c2st_plain"] = judge.distinguish_plainly(rows)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}


def summary(lines: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds, a row a method."""
    table = pd.DataFrame(lines)
    scores = [name for name in table if name not in ("method", "table", "seed", "split", "error")]
    groups = table.groupby("method", sort=False)[scores]
    means, spreads = groups.mean(), groups.std()
    shown = pd.DataFrame(
        {
            name: [
                f"{mean:.3f}" + (f" ± {spread:.3f}" if spread == spread else "")
                for mean, spread in zip(means[name], spreads[name], strict=True)
            ]
            for name in scores
        },
        index=means.index,
    )
    return str(shown.to_string())


def main() -> None:
    """Print one JSON line a run, then the table of means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a CSV file, or network for a generated table")
    parser.add_argument("--target", help="a column of two values; known for known tables")
    parser.add_argument("--methods", default=USUAL)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file to append the lines to")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--by", help="column whose values differ among clients; else the target")
    ways.add_argument("--iid", action="store_true", help="clients that are alike")
    parser.add_argument(
        "--dirichlet",
        type=float,
        help=f"how alike the clients are, {DIRICHLET} if not said; a table of several sites has "
        "one client a site instead",
    )
    arguments = parser.parse_args()
    methods = [Method.read(text) for text in arguments.methods.split(",")]
    table = prepare(arguments.table, arguments.target)
    by = None if arguments.iid else arguments.by or table.sites or table.target
    dirichlet = arguments.dirichlet
    if dirichlet is None and by != table.sites:
        dirichlet = DIRICHLET
    split = Split(arguments.clients, by, dirichlet)
    judge = Judge(table.train, table.test, table.target)
    lines = []
    for method in methods:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            if seed > arguments.first_seed and method.name in ("holdout", "training"):
                continue  # no seed decides anything
            lines.append(run(method, table, split, seed, judge))
            text = json.dumps(lines[-1], ensure_ascii=False)
            print(text, flush=True)
            if arguments.json is not None:
                with arguments.json.open("a") as file:
                    file.write(text + "\n")
    print(summary(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
