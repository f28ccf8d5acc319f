"""`genesis impute`."""

from __future__ import annotations

from pathlib import Path

import click

import genesis

from . import options
from .outputs import check_outputs, say

__all__ = ["impute"]


@click.command(short_help="Fill the empty cells of a table.")
@click.argument("table", type=options.FILE)
@options.option(
    "--model",
    type=options.FILE,
    required=True,
    metavar="MODEL",
    help="Generator of such rows: a mixture or a circuit.",
)
@options.output("FILE", "Table to write: .csv, .csv.gz or .parquet.")
@options.device
@options.seed
@options.quiet
def impute(
    table: Path, model: Path, output: Path, device: str, seed: int | None, quiet: bool
) -> None:
    """Fill the empty cells of a table.

    Each is drawn given what its row says in other columns; all other cells stay as they are. The
    table may lack columns that the generator knows, but have no others. Keys are never filled in.

    \b
    Examples:
      genesis fit patients.csv --output patients.model --method mixture
      genesis impute patients.csv --model patients.model --output full.csv
      genesis impute new.parquet --model patients.model --output full.parquet --seed 1
    """
    check_outputs([table, model], tables=[output])
    synthesizer = genesis.Synthesizer.load(model, device=device)
    rows = genesis.read_table(table)
    filled = synthesizer.impute(rows, seed)
    cells = rows.isna().sum() - filled.isna().sum()
    for name in filled.columns[filled.isna().any()]:
        # pandas reads whole numbers with gaps as floats: 7 would be written as 7.0.
        filled[name] = filled[name].convert_dtypes()
        say(f"the empty cells of column '{name}' stay: it holds keys", quiet=quiet)
    genesis.write_table(filled, output)
    n_columns = int((cells > 0).sum())
    said = f"{cells.sum():,} cells of {n_columns} column{'s' * (n_columns != 1)}"
    say(f"{said} filled in {output}", quiet=quiet)
