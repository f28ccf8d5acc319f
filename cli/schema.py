"""`genesis schema`."""

from __future__ import annotations

from pathlib import Path

import click

import genesis

from . import options
from .clients import name_clients
from .outputs import check_outputs

__all__ = ["schema"]


@click.command(short_help="Show what the columns of tables are taken for.")
@click.argument("tables", metavar="TABLE...", type=options.FILE, nargs=-1, required=True)
@options.option(
    "--output", type=options.FILE, metavar="FILE", help="Schema file to write. [default: stdout]"
)
@options.discrete_columns
def schema(
    tables: tuple[Path, ...],
    output: Path | None,
    discrete_columns: tuple[tuple[str, ...], ...],
) -> None:
    """Show what the columns of tables are taken for, as TOML.

    Several tables give the schema that fits them all. Correct it by hand where it guesses wrong,
    and pass it to 'genesis fit' or 'genesis federated simulate' with --schema.

    \b
    Examples:
      genesis schema patients.csv
      genesis schema north.csv south.csv --discrete-columns ward --output schema.toml
    """
    check_outputs(tables, files=[output])
    columns = options.split_columns(discrete_columns)
    clients = name_clients(tables)
    found = genesis.Schema.merge(
        {client: _infer(path, columns) for client, path in clients.items()}
    ).settle()
    if output is None:
        click.echo(found.to_toml(), nl=False)
    else:
        found.save(output)


def _infer(path: Path, discrete_columns: list[str]) -> genesis.Schema:
    """The schema of one table; an error says whose."""
    table = genesis.read_table(path)
    try:
        return genesis.Schema.infer(table, discrete_columns)
    except genesis.GenesisError as error:
        raise type(error)(f"{path}: {error.what}", got=error.got, do=error.do) from error
