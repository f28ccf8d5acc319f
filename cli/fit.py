"""`genesis fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import genesis

from .options import option, output_option, quiet_option, schema_of, settings, table_argument
from .options import training_options
from .progress import epochs_shown, say

__all__ = ["fit"]


@click.command(short_help="Train a generator on one table.")
@table_argument("table")
@output_option("MODEL", "Where to write the model.")
@training_options
@quiet_option
def fit(table: Path, output: Path, quiet: bool, **options: Any) -> None:
    """Train a generator on one table.

    \b
    Examples:
      genesis fit patients.csv --output patients.model
      genesis fit patients.parquet --output patients.model --method tvae --epochs 100 \\
          --discrete-columns ward,outcome --seed 1
    """
