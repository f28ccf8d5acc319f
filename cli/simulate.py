"""`genesis federated simulate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import genesis
import genesis.evaluation
import genesis.federated
from genesis.progress import ProgressBar

from . import options
from .account import account_of, summary_of
from .clients import name_clients
from .outputs import check_outputs, say, say_method, write_json
from .plan_options import gather_choices, plan_options
from .scores import evaluation_as_text

__all__ = ["simulate"]


@click.command(short_help="Run a whole federation on this machine.")
@click.argument("tables", metavar="TABLE...", type=options.FILE, nargs=-1, required=True)
@options.output("FILE", "Table to write: .csv, .csv.gz or .parquet.")
@options.stream("tables")
@options.whole(
    "--rows",
    help="Synthetic rows. [default: as many as the tables have, with noise under a promise]",
)
@options.option("--model", type=options.FILE, metavar="MODEL", help="File for the trained model.")
@options.option("--json", type=options.FILE, metavar="FILE", help="File for an account, as JSON.")
@options.report
@options.table("--holdout", help="Rows of no client, to evaluate and attack the synthetic ones.")
@options.option("--target", metavar="COLUMN", help="Column that models are to predict.")
@plan_options()
@options.option(
    "--checkpoint", type=options.FILE, metavar="DIR", help="Folder to save every round in."
)
@options.option("--resume", is_flag=True, help="Continue from --checkpoint.")
@options.device
@options.seed
@options.quiet
def simulate(
    tables: tuple[Path, ...],
    output: Path,
    stream: bool,
    rows: int | None,
    model: Path | None,
    json: Path | None,
    report: Path | None,
    holdout: Path | None,
    target: str | None,
    schema: Path | None,
    checkpoint: Path | None,
    resume: bool,
    device: str,
    quiet: bool,
    **choices: Any,
) -> None:
    """Run a whole federation on this machine: every table is a client.

    Clients are called like their files. The synthetic rows are written at the end, beside a model
    and an account of the run if they are asked for. With --report, --holdout or --target they are
    evaluated too, as by 'genesis evaluate' with the rows of all clients.

    \b
    Examples:
      genesis federated simulate north.csv south.csv west.csv --output synthetic.csv
      genesis federated simulate sites/*.csv --rounds 20 --aggregation weighted \\
          --discrete-columns ward,outcome --seed 1 --output synthetic.csv --model ward.model
      genesis federated simulate sites/*.csv --plan plan.toml --json rounds.json \\
          --checkpoint saved --output synthetic.csv
      genesis federated simulate sites/*.csv --holdout other.csv --target outcome \\
          --output synthetic.csv --report report.html
    """
    started = time.perf_counter()
    if resume and checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint")
    clients = name_clients(tables)
    inputs = [*tables, *([holdout] if holdout else [])]
    check_outputs(inputs, tables=[output], files=[model, json, report], folders=[checkpoint])
    if rows is not None and rows < 0:
        raise genesis.PlanError("the number of rows must be at least 0", got=str(rows))
    evaluates = bool(report or holdout or target)
    if evaluates and rows == 0:
        raise click.UsageError("--rows 0 leaves nothing for --report, --holdout and --target")
    if evaluates and stream:
        raise click.UsageError(
            "--report, --holdout and --target need tables in memory: no --stream"
        )

    callbacks: list[genesis.federated.Callback] = []
    if checkpoint is not None:
        callbacks.append(genesis.federated.CheckpointCallback(checkpoint))
    synthesizer = genesis.FederatedSynthesizer(
        **gather_choices(**choices),
        schema=genesis.Schema.load(schema) if schema else None,
        device=device,
        callbacks=[*callbacks, genesis.federated.ProgressCallback(quiet=quiet)],
    )
    import pandas as pd  # here, because help texts come at once without it

    read = genesis.TableBlocks if stream else genesis.read_table
    shards = {client: read(path) for client, path in clients.items()}
    sizes = {client: len(shard) for client, shard in shards.items()}
    held = genesis.read_table(holdout) if holdout else None
    pooled = pd.concat(shards.values(), ignore_index=True) if evaluates else None
    if pooled is not None:
        given = synthesizer.plan.discrete_columns
        genesis.evaluation.check_tables(pooled, held, target, discrete_columns=given)
    synthesizer.fit(shards, resume_from=checkpoint if resume else None)
    if synthesizer.privacy is not None:
        sizes = synthesizer.rows  # the account and the rows to be written tell of these alone
    generating = time.perf_counter()
    total = sum(sizes.values()) or synthesizer.total_rows
    synthetic = synthesizer.generate(total if rows is None else rows)
    seconds = dict(synthesizer.seconds) | {"generation": time.perf_counter() - generating}
    genesis.write_table(synthetic, output)
    if model is not None:
        synthesizer.save(model)
    scores = None
    if pooled is not None:
        evaluating = time.perf_counter()
        with ProgressBar("steps", quiet=quiet) as bar:
            scores = genesis.evaluate(
                pooled,
                synthetic,
                holdout=held,
                target=target,
                schema=synthesizer.schema,
                losses=[dict(each.metrics) for each in synthesizer.history],
                device=device,
                progress=bar.show,
            )
        seconds["evaluation"] = time.perf_counter() - evaluating
    seconds["total"] = time.perf_counter() - started
    if report is not None and scores is not None:
        scores.save(report)
    if json is not None:
        write_json(json, account_of(synthesizer, sizes, seconds, scores))
    say_method(choices["method"], synthesizer.plan.method, synthesizer.plan.privacy, quiet=quiet)
    say(summary_of(synthesizer, sizes, seconds), quiet=quiet)
    if scores is not None:
        click.echo(evaluation_as_text(scores.to_dict()))
    say(f"{len(synthetic):,} synthetic rows in {output}", quiet=quiet)
    for what, path in (("model", model), ("report", report)):
        if path is not None:
            say(f"{what} in {path}", quiet=quiet)
