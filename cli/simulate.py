"""`genesis federated simulate`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import genesis
import genesis.evaluation
import genesis.federated
from genesis.federated.plan import Plan, read_choices
from genesis.progress import ProgressBar, losses_as_text

from . import options
from .clients import name_clients
from .outputs import check_outputs, say, write_json
from .scores import evaluation_as_text

if TYPE_CHECKING:
    from genesis import FederatedSynthesizer, Report
    from genesis.federated.callbacks import RoundReport

__all__ = ["simulate"]

JOINED = ("config", "aggregation_options", "discrete_columns")  # options that are given in parts


def _read_plan(ctx: click.Context, _: click.Parameter, path: Path | None) -> dict[str, Any]:
    """The choices of a plan file, as defaults of the options that are named like them.

    So the command line goes before the environment, that before the plan, and that before what
    is usual.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise genesis.PlanError(f"the plan {path} cannot be read", got=got) from error
    Plan.from_toml(text)  # a wrong plan is wrong even where the command line goes before it
    choices = read_choices(text)
    ctx.default_map = {name: value for name, value in choices.items() if name not in JOINED}
    return choices


@click.command(short_help="Run a whole federation on this machine.")
@click.argument("tables", metavar="TABLE...", type=options.FILE, nargs=-1, required=True)
@options.output("FILE", "Table to write: .csv, .csv.gz or .parquet.")
@options.whole("--rows", help="Synthetic rows. [default: as many as the tables have]")
@options.option("--model", type=options.FILE, metavar="MODEL", help="File for the trained model.")
@options.option("--json", type=options.FILE, metavar="FILE", help="File for an account, as JSON.")
@options.report
@options.table("--holdout", help="Rows of no client, to evaluate and attack the synthetic ones.")
@options.option("--target", metavar="COLUMN", help="Column that models are to predict.")
@options.option(
    "--plan",
    type=options.FILE,
    metavar="FILE",
    is_eager=True,
    callback=_read_plan,
    help="TOML file with these choices, named as the arguments of FederatedSynthesizer.",
)
@options.method
@options.whole(
    "--rounds", "n_rounds", default=Plan.n_rounds, help="Rounds of training and averaging."
)
@options.epochs
@options.whole("--local-epochs", help="Epochs of a client in a round. [default: epochs / rounds]")
@options.batch_size
@options.number("--learning-rate", help="Learning rate. [default: the model's]")
@options.config
@options.text(
    "--aggregation",
    default=str(Plan.aggregation),
    help="Rule that makes one model of many: fedavg, weighted, fedprox, median, …",
)
@options.option(
    "--aggregation-options",
    type=options.SETTING,
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of that rule, such as server_learning_rate=0.1; repeatable.",
)
@options.number("--proximal-mu", help="Strength of fedprox.")
@options.whole("--min-clients", default=Plan.min_clients, help="Clients that every round needs.")
@options.number(
    "--client-fraction", default=Plan.client_fraction, help="Share of the clients in a round."
)
@options.text(
    "--lr-schedule",
    default=Plan.lr_schedule,
    help="Learning rate over the rounds: constant, cosine or step.",
)
@options.number("--max-grad-norm", help="Largest norm of a client's update in a round.")
@options.option("--clip-per-layer", is_flag=True, help="Clip each layer instead of the whole.")
@options.text(
    "--synchronize",
    default=Plan.synchronize,
    help="What is averaged: both, generator or discriminator.",
)
@options.whole(
    "--sync-every", default=Plan.sync_every, help="Rounds from one averaging to the next."
)
@options.schema
@options.discrete_columns
@options.max_categories
@options.option(
    "--checkpoint", type=options.FILE, metavar="DIR", help="Folder to save every round in."
)
@options.option("--resume", is_flag=True, help="Continue from --checkpoint.")
@options.option("--epsilon", type=float, hidden=True)
@options.option("--delta", type=float, hidden=True)
@options.option("--secure-aggregation", hidden=True)
@options.device
@options.seed
@options.quiet
def simulate(
    tables: tuple[Path, ...],
    output: Path,
    rows: int | None,
    model: Path | None,
    json: Path | None,
    report: Path | None,
    holdout: Path | None,
    target: str | None,
    plan: dict[str, Any],
    epochs: int | None,
    config: tuple[tuple[str, Any], ...],
    aggregation_options: tuple[tuple[str, Any], ...],
    schema: Path | None,
    discrete_columns: tuple[tuple[str, ...], ...],
    checkpoint: Path | None,
    resume: bool,
    epsilon: float | None,
    delta: float | None,
    secure_aggregation: str | None,
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

    choices = plan | choices
    choices["config"] = plan.get("config", {}) | dict(config)
    if epochs is not None:
        choices["config"]["epochs"] = epochs
    choices["aggregation_options"] = plan.get("aggregation_options", {}) | dict(aggregation_options)
    if discrete_columns:
        choices["discrete_columns"] = options.split_columns(discrete_columns)
    if epsilon is not None or delta is not None:
        choices["privacy"] = {"differential_privacy": {"epsilon": epsilon, "delta": delta}}
    if secure_aggregation is not None:
        choices["secure_aggregation"] = secure_aggregation

    callbacks: list[genesis.federated.Callback] = []
    if checkpoint is not None:
        callbacks.append(genesis.federated.CheckpointCallback(checkpoint))
    synthesizer = genesis.FederatedSynthesizer(
        **choices,
        schema=genesis.Schema.load(schema) if schema else None,
        device=device,
        callbacks=[*callbacks, genesis.federated.ProgressCallback(quiet=quiet)],
    )
    import pandas as pd  # here, because help texts come at once without it

    shards = {client: genesis.read_table(path) for client, path in clients.items()}
    sizes = {client: len(shard) for client, shard in shards.items()}
    held = genesis.read_table(holdout) if holdout else None
    pooled = pd.concat(shards.values(), ignore_index=True) if evaluates else None
    if pooled is not None:
        given = synthesizer.plan.discrete_columns
        genesis.evaluation.check_tables(pooled, held, target, discrete_columns=given)
    synthesizer.fit(shards, resume_from=checkpoint if resume else None)
    generating = time.perf_counter()
    synthetic = synthesizer.generate(sum(sizes.values()) if rows is None else rows)
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
        write_json(json, _account(synthesizer, sizes, seconds, scores))
    say(_summary(synthesizer, sizes, seconds), quiet=quiet)
    if scores is not None:
        click.echo(evaluation_as_text(scores.to_dict()))
    say(f"{len(synthetic):,} synthetic rows in {output}", quiet=quiet)
    for what, path in (("model", model), ("report", report)):
        if path is not None:
            say(f"{what} in {path}", quiet=quiet)


def _account(
    synthesizer: FederatedSynthesizer,
    sizes: Mapping[str, int],
    seconds: Mapping[str, float],
    scores: Report | None,
) -> dict[str, Any]:
    """What happened, for a program to read. Rounds count from 1."""
    plan = synthesizer.plan
    return {
        "method": plan.method,
        "aggregation": plan.aggregation,
        "seed": plan.seed,
        "clients": {client: {"rows": size} for client, size in sizes.items()},
        "rounds": [_round(report) for report in synthesizer.history],
        "seconds": dict(seconds),
        "epsilon": None,
        "evaluation": None if scores is None else scores.to_dict(),
    }


def _round(report: RoundReport) -> dict[str, Any]:
    """One round of the account."""
    return {
        "round": report.round_num,
        "metrics": dict(report.metrics),
        "clients": list(report.clients),
        "failed": dict(report.failed),
        "dropped": list(report.dropped),
        "seconds": report.seconds,
    }


def _summary(
    synthesizer: FederatedSynthesizer, sizes: Mapping[str, int], seconds: Mapping[str, float]
) -> str:
    """What happened, for a person to read."""
    reports = synthesizer.history
    width = max(map(len, [*sizes, "client"]))
    lines = [f"{'client':{width}}  {'rows':>9}  rounds"]
    for client, size in sizes.items():
        took_part = sum(client in report.clients for report in reports)
        lines.append(f"{client:{width}}  {size:9,}  {took_part} of {len(reports)}")
    spent = ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items() if what != "total")
    lines.append(f"{len(reports)} rounds in {seconds['total']:.1f} s: {spent}")
    if reports:
        lines.append(f"last round: {losses_as_text(reports[-1].metrics)}")
    return "\n".join(lines)
