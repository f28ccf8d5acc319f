"""`genesis fit`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import genesis
from genesis.privacy.report import in_words
from genesis.progress import ProgressBar, losses_as_text

from . import options
from .outputs import check_outputs, say, say_method
from .privacy_options import gather_privacy, ledger_options, ledgers_of, privacy_options

__all__ = ["fit"]


@click.command(short_help="Train a generator on one table.")
@click.argument("table", type=options.FILE)
@options.output("MODEL", "File for the trained model.")
@options.method
@options.epochs
@options.batch_size
@options.config
@options.schema
@options.discrete_columns
@options.max_categories
@privacy_options()
@ledger_options()
@options.device
@options.seed
@options.quiet
def fit(
    table: Path,
    output: Path,
    method: str,
    epochs: int | None,
    batch_size: int | None,
    config: tuple[tuple[str, Any], ...],
    schema: Path | None,
    discrete_columns: tuple[tuple[str, ...], ...],
    max_categories: int,
    epsilon: float | None,
    delta: float | None,
    privacy: tuple[tuple[str, Any], ...],
    privacy_ledger: Path | None,
    privacy_budget: float | None,
    device: str,
    seed: int | None,
    quiet: bool,
) -> None:
    """Train a generator on one table.

    The model file holds no row of the table; 'genesis generate' writes synthetic rows from it.

    \b
    Examples:
      genesis fit patients.csv --output patients.model
      genesis fit patients.csv --output patients.model --discrete-columns ward,outcome
      genesis fit patients.parquet --output patients.model --method tvae --epochs 100 --seed 1
      genesis fit patients.csv --output patients.model --schema schema.toml --epsilon 1
    """
    started = time.perf_counter()
    promise = gather_privacy(
        epsilon=epsilon,
        delta=delta,
        privacy=privacy,
        privacy_ledger=privacy_ledger,
        privacy_budget=privacy_budget,
        table=table,
    )
    check_outputs([table, *ledgers_of(promise)], files=[output])
    arguments = dict(config)
    arguments |= {"epochs": epochs} if epochs is not None else {}
    arguments |= {"batch_size": batch_size} if batch_size is not None else {}
    synthesizer = genesis.Synthesizer(
        method,
        arguments,
        schema=genesis.Schema.load(schema) if schema else None,
        max_categories=max_categories,
        seed=seed,
        device=device,
        privacy=promise,
    )
    rows = genesis.read_table(table)

    with ProgressBar("epochs", quiet=quiet) as bar:
        synthesizer.fit(rows, options.split_columns(discrete_columns), bar.show)
    synthesizer.save(output)
    epochs = len(synthesizer.losses)
    if synthesizer.privacy is None:
        told = f"{len(rows):,} rows, {epochs} epochs; at the end "
        told += losses_as_text(synthesizer.losses[-1])
    else:  # exact numbers are for whoever asks for them
        told = f"about {synthesizer.encoder.rows:,} rows, {epochs} epochs\n"
        told += in_words(synthesizer.privacy)
    say_method(method, synthesizer.method, promise, quiet=quiet)
    say(f"{told}\nmodel in {output} after {time.perf_counter() - started:.1f} s", quiet=quiet)
