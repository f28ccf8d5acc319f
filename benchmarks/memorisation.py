"""What models fitted from sums remember of the rows that they were fitted on.

    python -m benchmarks.memorisation adult.csv --target income --sizes 500,2000,16000 \\
        --methods mixture,mixture:components=400,circuit:states=32 --json memorisation.jsonl

Members and non-members are equally many rows of one table, drawn at random. The attack on the model
guesses that a row is a member if the model finds it likely; the attacks on the rows are those of
`genesis audit`. Beside them stand the scores of the synthetic rows, because a model that has learnt
nothing remembers nothing, and a table of copies, which every attack must find.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import genesis
from benchmarks.prepared_tables import prepare
from benchmarks.scoring import Judge


def read_method(text: str) -> tuple[str, dict[str, Any]]:
    """A name, and options after a colon: "mixture:components=400;smoothing=0.1"."""
    name, _, options = text.partition(":")
    pairs = (option.split("=") for option in options.split(";") if option)
    return name, {key: json.loads(value) for key, value in pairs}


def measure(
    method: str, members: pd.DataFrame, others: pd.DataFrame, judge: Judge, seed: int
) -> dict[str, Any]:
    """The scores of one model, and how well attacks tell its rows from others."""
    name, config = read_method(method)
    started = time.perf_counter()
    if name == "copies":
        model, synthetic = None, members.sample(frac=1, random_state=seed).reset_index(drop=True)
    else:
        model = genesis.Synthesizer(name, config, seed=seed, device="cpu").fit(members)
        synthetic = model.generate(len(members))
    seconds = time.perf_counter() - started
    found = genesis.audit(members, others, synthetic, model=model, seed=seed).to_dict()
    line: dict[str, Any] = {"seconds": round(seconds, 1)}
    if model is not None:
        attack = found["white_box"]["attacks"]["log_likelihood"]
        line |= {"likelihood_auc": attack["auc"], "low": attack["auc_low"]}
        line |= {"high": attack["auc_high"], "size": model.model.parameters.size}
        line["chosen"] = {
            key: value for key, value in model.config.items() if key in ("components", "states")
        }
    worst = found["worst"]
    line |= {"worst": worst, "worst_auc": found["attacks"][worst]["auc"]}
    line["c2st"] = found["detection"]["c2st_auc"]
    return line | judge.score(synthetic)


def main() -> None:
    """Print one JSON line a model, then the table of means over seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--target")
    parser.add_argument("--sizes", default="500,2000,16000")
    parser.add_argument("--methods", default="copies,mixture,circuit,copula")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = prepare(arguments.table, arguments.target)
    pool = pd.concat([table.train, table.test], ignore_index=True)
    lines: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for size in map(int, arguments.sizes.split(",")):
            order = np.random.default_rng(seed).permutation(len(pool))
            parts = [pool.iloc[order[i * size : (i + 1) * size]] for i in range(2)]
            members, others = (part.reset_index(drop=True) for part in parts)
            judge = Judge(members, pool.iloc[order[2 * size :]].iloc[:20_000], table.target)
            for method in arguments.methods.split(","):
                line = {"method": method, "rows": size, "seed": seed}
                lines.append(line | measure(method, members, others, judge, seed))
                print(json.dumps(lines[-1]), flush=True)
                if arguments.json:
                    with arguments.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(lines[-1]) + "\n")
    shown = pd.DataFrame(lines).drop(columns=["seed", "chosen"], errors="ignore")
    means = shown.groupby(["rows", "method"], sort=False).mean(numeric_only=True)
    print(means.round(3).to_string(), file=sys.stderr)


if __name__ == "__main__":
    main()
