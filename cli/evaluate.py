"""`genesis evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

import genesis
from genesis.progress import ProgressBar

from . import options
from .outputs import check_outputs, say, write_report
from .scores import evaluation_as_text

__all__ = ["evaluate"]


@click.command(short_help="Measure how good synthetic rows are.")
@options.table("--real", required=True, help="Rows that the generator was trained on.")
@options.table("--synthetic", required=True, help="Rows that it made.")
@options.table("--holdout", help="Real rows that it was not trained on. Attacks need them.")
@options.option("--target", metavar="COLUMN", help="Column that models are to predict.")
@options.report
@options.option("--json", type=options.FILE, metavar="FILE", help="File for all scores, as JSON.")
@options.schema
@options.discrete_columns
@options.device
@options.fixed_seed
@options.quiet
def evaluate(
    real: Path,
    synthetic: Path,
    holdout: Path | None,
    target: str | None,
    report: Path | None,
    json: Path | None,
    schema: Path | None,
    discrete_columns: tuple[tuple[str, ...], ...],
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Measure how good synthetic rows are, beside controls.

    The same scores are taken of the real rows with every column shuffled, and of real rows that
    the generator has not seen: what bad and perfect look like on this table. With a holdout, the
    rows are also attacked: can one tell who was trained on?

    \b
    Examples:
      genesis evaluate --real train.csv --synthetic synthetic.csv
      genesis evaluate --real train.csv --synthetic synthetic.csv --holdout test.csv \\
          --target outcome --report report.html --json scores.json
    """
    check_outputs(filter(None, [real, synthetic, holdout, schema]), files=[report, json])
    with ProgressBar("steps", quiet=quiet) as bar:
        found = genesis.evaluate(
            genesis.read_table(real),
            genesis.read_table(synthetic),
            holdout=genesis.read_table(holdout) if holdout else None,
            target=target,
            schema=genesis.Schema.load(schema) if schema else None,
            discrete_columns=options.split_columns(discrete_columns),
            seed=seed,
            device=device,
            progress=bar.show,
        )
    write_report(found, page=report, json=json)
    click.echo(evaluation_as_text(found.to_dict()))
    if report is not None:
        say(f"report in {report}", quiet=quiet)
