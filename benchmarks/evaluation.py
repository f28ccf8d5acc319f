"""What the scores of an evaluation say about tables that are known, and what they cost.

    python -m benchmarks.evaluation controls adult.csv --target income
    python -m benchmarks.evaluation time adult.csv --target income
    python -m benchmarks.evaluation memory
    python -m benchmarks.evaluation fresh adult.csv
    python -m benchmarks.evaluation models adult.csv
    python -m benchmarks.evaluation closeness adult.csv

`controls` evaluates tables that copy, leak, shuffle, or were generated; `time` takes one evaluation
and one audit of 30,000 rows; `memory` takes the peak of distances of 200,000 x 50; `fresh` counts
in how many of 20 draws the attacks' intervals cover 0.5 on rows that nobody trained on; `models`
attacks overfitted models from inside; `closeness` asks SDMetrics how well protected known tables
are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.memory import peak_memory
from genesis import Synthesizer, audit, evaluate, read_table
from genesis.evaluation import controls
from genesis.evaluation.detection import detect
from genesis.evaluation.fidelity import quality
from genesis.evaluation.membership import membership
from genesis.evaluation.rows import Aligned, Rows, align
from genesis.evaluation.shadow import shadow
from genesis.evaluation.similarity import similarity
from genesis.evaluation.training import training_like
from genesis.evaluation.utility import headline
from genesis.evaluation.white_box import white_box

WHAT = ("controls", "time", "memory", "fresh", "models", "closeness")


def shown(**values: object) -> None:
    """One line of JSON."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps(rounded, ensure_ascii=False), flush=True)


def known(path: Path, target: str, members: int, epochs: int) -> None:
    """Scores of tables whose leak is known, and of generated ones."""
    order = np.random.default_rng(0).permutation(len(table := read_table(path)))
    trained, held = table.iloc[order[:members]], table.iloc[order[members : 3 * members]]
    generated = {
        method: Synthesizer(method, {"epochs": epochs}, seed=0).fit(trained).generate(members)
        for method in ("ctgan", "tvae")
    }
    for name, made in ({"": trained} | generated).items():
        aligned = align({"real": trained, "synthetic": made, "holdout": held})
        real, rest = aligned.rows["real"], aligned.rows["holdout"]
        cut = np.random.default_rng(1).permutation(len(rest)) < len(rest) // 2
        others, spare = rest.take(cut), rest.take(~cut)
        cases = (
            {name: aligned.rows["synthetic"]}
            if name
            else {
                "the real rows": real,
                "real holdout": controls.fresh(spare, members, 0),
                "shuffled columns": controls.shuffled(real, 0),
                "copier, 5 % noise": controls.noisy_copier(real, members, 0),
                "5 % leak": controls.leak(real, spare, members, 0),
                "re-coded copy": controls.recoded(real, 0),
            }
        )
        for what, rows in cases.items():
            scores(what, aligned, real, others, rows, target)


def scores(what: str, aligned: Aligned, real: Rows, others: Rows, rows: Rows, target: str) -> None:
    """One line of the table of controls."""
    looks, found = quality(real, rows), detect(real, rows, seed=0)
    attacked = membership(real, others, rows, controls=False)
    worst = attacked.attacks[attacked.worst]
    frames = Aligned(
        aligned.schema,
        {"real": aligned.frames["real"], "synthetic": aligned.frames["real"]},
        {"real": real, "synthetic": rows, "holdout": others},
    )
    near = similarity(frames, "holdout").to_dict()
    shown(
        table=what,
        quality=looks.score,
        trends=looks.column_pair_trends,
        boosting=found.models["gradient_boosting"].value,
        logistic=found.models["logistic_regression"].value,
        tstr=headline(rows, others, target),
        dcr=near["dcr"]["synthetic"]["median"],
        exact=near["exact_copies"]["share"],
        attack=attacked.worst,
        auc=[round(x, 3) for x in (worst.auc.value, worst.auc.low, worst.auc.high)],
        tpr=worst.tpr_1 and [round(x, 3) for x in (worst.tpr_1.value, worst.tpr_1.low)],
        found=any(each.found for each in attacked.attacks.values()),
    )


def seconds(path: Path, target: str) -> None:
    """One evaluation and one audit of 30,000 rows and their steps."""
    table = read_table(path)
    real, held = table.iloc[:30_000], table.iloc[30_000:]
    model = Synthesizer("tvae", {"epochs": 5}, seed=0).fit(real)
    made = model.generate(30_000)
    for name in ("evaluate", "audit"):
        steps = Steps()
        if name == "evaluate":
            report = evaluate(real, made, holdout=held, target=target, progress=steps)
        else:
            report = audit(real, held, made, model=model, progress=steps)
        report.to_html()
        steps(0, 0, "end")
        for step, took in steps.took():
            shown(what=name, step=step, seconds=took)
        total = steps.begun[-1][1] - steps.begun[0][1]
        shown(what=name, seconds=total, threads=torch.get_num_threads())


class Steps:
    """When each step began."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []

    def __call__(self, _: int, __: int, step: str) -> None:
        self.begun.append((step, time.perf_counter()))

    def took(self) -> list[tuple[str, float]]:
        """Seconds of each step."""
        ends = [at for _, at in self.begun[1:]]
        return [(step, end - at) for (step, at), end in zip(self.begun, ends, strict=False)]


def distances() -> None:
    """Everything that takes distances, on 200,000 rows of 50 columns and as many others."""
    rng = np.random.default_rng(0)
    n = 200_000
    table = pd.DataFrame({f"x{i:02d}": rng.normal(size=2 * n) for i in range(25)})
    for i in range(25):
        table[f"k{i:02d}"] = rng.integers(0, 4 + 2 * i, 2 * n).astype(str)
    real, holdout = table.iloc[:n], table.iloc[n:]
    aligned = align({"real": real, "synthetic": real.sample(n, random_state=0), "holdout": holdout})
    rows, before = aligned.rows, peak_memory()
    del table, real, holdout
    started = time.perf_counter()
    near = similarity(aligned, "holdout").to_dict()
    shown(what="similarity", seconds=time.perf_counter() - started, mb=before, peak=peak_memory())
    started = time.perf_counter()
    found = membership(rows["real"], rows["holdout"], rows["synthetic"])
    shown(
        what="membership",
        seconds=time.perf_counter() - started,
        peak=peak_memory(),
        copies=near["exact_copies"]["share"],
        auc=found.attacks[found.worst].auc.value,
    )


def fresh(path: Path, members: int, draws: int) -> None:
    """In how many draws all intervals cover 0.5, and in how many each does."""
    table = read_table(path)
    covered: dict[str, int] = {}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(table))
        parts = np.split(order[: 4 * members], [members, 3 * members])
        names = ("members", "non_members", "synthetic")
        rows = align({n: table.iloc[p] for n, p in zip(names, parts, strict=True)}).rows
        found = membership(*(rows[name] for name in names), seed=draw, controls=False)
        covers = {n: f.auc.low <= 0.5 <= f.auc.high for n, f in found.attacks.items()}
        covers["all of them"] = all(covers.values())
        covers["nothing found"] = not any(f.found for f in found.attacks.values())
        for name, holds in covers.items():
            covered[name] = covered.get(name, 0) + holds
    shown(draws=draws, members=members, **covered)


SMALL = 200
"""Members of an overfitted model."""

BARE = {"batch_size": 100, "discriminator_dropout": 0.0, "epochs": 600}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "ctgan, pac 1, 2e-4": ("ctgan", {**BARE, "pac": 1, "learning_rate": 2e-4}),
    "ctgan, pac 1, 1e-3": ("ctgan", {**BARE, "pac": 1, "learning_rate": 1e-3}),
    "ctgan, pac 2, 1e-3": ("ctgan", {**BARE, "pac": 2, "learning_rate": 1e-3}),
    "ctgan, pac 10, 1e-3": ("ctgan", {**BARE, "pac": 10, "learning_rate": 1e-3}),
    "tvae": ("tvae", {"batch_size": 100, "epochs": 1000}),
    "ctgan, defaults": ("ctgan", {}),
    "tvae, defaults": ("tvae", {}),
}
"""Name -> method and config."""


def inside(path: Path, seeds: int) -> None:
    """AUCs of white-box attacks on overfitted models, and of shadows."""
    table = read_table(path)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(table))
        members, others = table.iloc[order[:SMALL]], table.iloc[order[SMALL : 4 * SMALL]]
        for name, (method, config) in MODELS.items():
            model = Synthesizer(method, config, seed=seed).fit(members)
            found = white_box(model, members, others, seed=seed).attacks
            shown(model=name, seed=seed, **{n: f.auc.value for n, f in found.items()})
        model = Synthesizer("tvae", {"epochs": 500}, seed=seed).fit(members)
        made = model.generate(2000)
        shadows = shadow(training_like(model, model.schema, 2000), members, others, made, seed=seed)
        shown(
            model="tvae, 500 epochs, 16 shadows",
            seed=seed,
            **{n: f.auc.value for n, f in shadows.attacks.items()},
        )


def closeness(path: Path, members: int) -> None:
    """SDMetrics' DCRBaselineProtection (1 is best) of tables whose leak is known."""
    from sdmetrics.single_table import DCRBaselineProtection

    table = read_table(path)
    order = np.random.default_rng(0).permutation(len(table))
    parts = {"real": order[:members], "holdout": order[members : 3 * members]}
    rows = align({name: table.iloc[places] for name, places in parts.items()}).rows
    real, columns = rows["real"], rows["real"].columns
    kinds = {name: {"sdtype": "numerical"} for name in columns.numeric}
    kinds |= {name: {"sdtype": "categorical"} for name in columns.discrete}
    for name, made in {
        "copy": real,
        "fresh rows": controls.fresh(rows["holdout"], members, 0),
        "copies with 5 % noise": controls.noisy_copier(real, members, 0),
        "re-coded copy": controls.recoded(real, 0),
        "shuffled columns": controls.shuffled(real, 0),
    }.items():
        np.random.seed(0)  # SDMetrics draws from NumPy's global stream
        score = DCRBaselineProtection.compute(
            {"table": as_frame(real)},
            {"table": as_frame(made)},
            {"tables": {"table": {"columns": kinds}}},
            table_name="table",
            num_rows_subsample=1000,
        )
        shown(table=name, protection=float(score))


def as_frame(rows: Rows) -> pd.DataFrame:
    """Rows as a table; codes are texts."""
    numbers = pd.DataFrame(rows.numeric, columns=list(rows.columns.numeric))
    codes = pd.DataFrame(rows.codes, columns=list(rows.columns.discrete)).astype(str)
    return pd.concat([numbers, codes], axis=1)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--target")
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    if asked.what == "memory":
        process = multiprocessing.get_context("spawn").Process(target=distances)
        process.start()
        process.join()
    elif asked.table is None:
        parser.error("a table is needed")
    elif asked.what == "models":
        inside(asked.table, asked.seeds)
    elif asked.what == "closeness":
        closeness(asked.table, asked.members)
    elif asked.what == "fresh":
        fresh(asked.table, asked.members, asked.draws)
    elif asked.what == "time":
        seconds(asked.table, asked.target)
    else:
        known(asked.table, asked.target, asked.members, asked.epochs)


if __name__ == "__main__":
    main()
