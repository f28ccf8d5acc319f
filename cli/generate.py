"""`genesis generate`."""

from __future__ import annotations

from pathlib import Path

import click

import genesis

from . import options
from .outputs import check_outputs, say
from .where import CONDITION, read_conditions

__all__ = ["generate"]


@click.command(short_help="Write synthetic rows from a trained generator.")
@click.argument("model", type=options.FILE)
@options.whole("--rows", required=True, help="How many rows to write.")
@options.output("FILE", "Table to write: .csv, .csv.gz or .parquet.")
@options.option(
    "--where",
    type=CONDITION,
    multiple=True,
    metavar="COLUMN=VALUE",
    help="What every row must satisfy; repeatable, and then all must hold.",
)
@options.option(
    "--calibrate",
    is_flag=True,
    help="Bring every column to the frequencies released in training; not with --where.",
)
@options.device
@options.seed
@options.quiet
def generate(
    model: Path,
    rows: int,
    output: Path,
    where: tuple[str, ...],
    calibrate: bool,
    device: str,
    seed: int | None,
    quiet: bool,
) -> None:
    """Write synthetic rows from a trained generator.

    \b
    A condition is one of
      sex=Female         a value
      sex=Female,Male    any of several values
      age=30..40         a range of numbers or dates; also 30.. and ..40
      income=            no value

    \b
    Examples:
      genesis generate patients.model --rows 1000 --output synthetic.csv
      genesis generate patients.model --rows 50 --output women.csv \\
          --where sex=Female --where age=60..
    """
    check_outputs([model], tables=[output])
    synthesizer = genesis.Synthesizer.load(model, device=device)
    conditions = read_conditions(where, synthesizer.schema)
    table = synthesizer.generate(rows, conditions, seed, calibrate=calibrate)
    genesis.write_table(table, output)
    say(f"{rows:,} synthetic rows in {output}", quiet=quiet)
