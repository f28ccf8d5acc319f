"""What calibrating generated rows changes: the same models with and without it, and a control.

    python -m benchmarks.calibration adult.csv --target income --models build/models

Five clients of Dirichlet 0.5 by the target train ten rounds of three epochs; the first two thirds
of the rows train, the rest are the holdout. Models are kept in a folder and used again. The control
is a "generator" of real rows whose columns were shuffled one by one: there are no trends to find in
them, so calibration must find none.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.scoring import Judge
from genesis import FederatedSynthesizer, Synthesizer
from genesis.calibration import Calibration
from genesis.codes import Codes
from genesis.encoding.encoder import Encoder
from genesis.partition import partition

CLIENTS, ROUNDS, LOCAL_EPOCHS, DIRICHLET = 5, 10, 3, 0.5

Draw = Callable[[int], Codes]
Values = dict[str, npt.NDArray[Any]]


def trained(method: str, table: pd.DataFrame, target: str, seed: int, folder: Path) -> Synthesizer:
    """A federated model, trained unless the folder has it."""
    path = folder / f"{method}-{seed}.model"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shards = partition(table, CLIENTS, seed=seed, dirichlet=DIRICHLET, by=target)
        choices = {"n_rounds": ROUNDS, "local_epochs": LOCAL_EPOCHS, "seed": seed}
        FederatedSynthesizer(method, **choices).fit(shards).save(path)
    return Synthesizer.load(path)


def drawer(model: Synthesizer, seed: int) -> Draw:
    """What generates codes of a model."""
    rng = np.random.default_rng(seed)
    return lambda n: model.model.generate(n, None, rng)


def shuffler(encoder: Encoder, table: pd.DataFrame, seed: int) -> Draw:
    """What draws codes of real rows, column by column."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> Codes:
        columns = {name: rng.choice(column.to_numpy(), n) for name, column in table.items()}
        return encoder.encode(pd.DataFrame(columns).astype(table.dtypes), rng)

    return draw


def both(encoder: Encoder, draw: Draw, n: int, seed: int) -> dict[str, tuple[pd.DataFrame, float]]:
    """n rows without and with calibration, and the seconds that they took."""

    def plain(n: int, rng: np.random.Generator) -> Values:
        codes = draw(n)
        return {
            e.column.name: encoder.values(codes, block, rng)
            for block, e in enumerate(encoder.encodings)
        }

    def calibrated(n: int, rng: np.random.Generator) -> Values:
        return Calibration(encoder).values(draw, n, rng)

    tables = {}
    for name, make in {"plain": plain, "calibrated": calibrated}.items():
        rng, started = np.random.default_rng(seed), time.perf_counter()
        values = make(n, rng)
        seconds = time.perf_counter() - started
        tables[name] = encoder.assemble(values, n, rng), seconds
    return tables


def main() -> None:
    """Print one JSON line a table, then the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--models", type=Path, required=True, help="folder of trained models")
    parser.add_argument("--methods", default="ctgan,tvae")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=4, help="tables of every model")
    arguments = parser.parse_args()

    rows = pd.read_csv(arguments.table)
    cut = len(rows) * 2 // 3
    train, test = rows[:cut].reset_index(drop=True), rows[cut:].reset_index(drop=True)
    judge, lines = Judge(train, test, arguments.target), []
    for seed in range(arguments.seeds):
        drawers: dict[str, tuple[Encoder, Draw]] = {}
        for method in arguments.methods.split(","):
            model = trained(method, train, arguments.target, seed, arguments.models)
            drawers[method] = model.encoder, drawer(model, seed)
        encoder = next(iter(drawers.values()))[0]
        drawers["shuffled columns"] = encoder, shuffler(encoder, train, seed)
        for name, (encoder, draw) in drawers.items():
            for number in range(arguments.draws):
                tables = both(encoder, draw, len(train), number)
                for way, (table, seconds) in tables.items():
                    line = {"rows of": name, "": way, "seed": seed, "draw": number}
                    lines.append({**line, **judge.score(table), "seconds": round(seconds, 2)})
                    print(json.dumps(lines[-1]), flush=True)
    scores = pd.DataFrame(lines).set_index(["rows of", "", "seed", "draw"])
    print(scores.groupby(["rows of", ""], sort=False).mean().round(4).to_string())
    gains = scores.xs("calibrated", level="") - scores.xs("plain", level="")
    print("\ncalibrated - plain, means and their standard errors over seeds and draws")
    print(gains.groupby("rows of", sort=False).agg(["mean", "sem"]).round(4).to_string())


if __name__ == "__main__":
    main()
