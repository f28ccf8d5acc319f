"""`genesis`: the group of all commands."""

from __future__ import annotations

import click

from genesis import __version__

from .group import Commands

__all__ = ["genesis", "main"]

genesis = Commands(
    "genesis",
    {
        "schema": (".schema:schema", "Show what the columns of tables are taken for."),
        "fit": (".fit:fit", "Train a generator on one table."),
        "generate": (".generate:generate", "Write synthetic rows from a trained generator."),
        "impute": (".impute:impute", "Fill the empty cells of a table."),
        "evaluate": (".evaluate:evaluate", "Measure how good synthetic rows are."),
        "audit": (".audit:audit", "Attack synthetic rows, to see whether they leak."),
        "partition": (".partition:partition", "Divide a table among clients."),
        "federated": (".federated:federated", "Train one generator over many tables."),
        "privacy": (".privacy:privacy", "Plan a promise of privacy, and read what was kept."),
    },
    help="""Synthetic tables, from data that may not be pooled.

    \b
    Examples:
      genesis fit patients.csv --output patients.model
      genesis generate patients.model --rows 1000 --output synthetic.csv
      genesis evaluate --real patients.csv --synthetic synthetic.csv --report report.html
      genesis federated simulate north.csv south.csv west.csv --output synthetic.csv
    """,
    epilog="Tables are CSV, gzipped CSV or Parquet, told by their names (.csv, .csv.gz, .parquet). "
    "Every option can also come from the environment: GENESIS_ROUNDS=10 is --rounds 10.",
)
genesis = click.version_option(__version__, message="genesis %(version)s")(genesis)


def main() -> None:
    """Entry point of `genesis`."""
    genesis.main(prog_name="genesis")
