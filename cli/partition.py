"""`genesis partition`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

import genesis

from . import options
from .outputs import check_outputs, say

__all__ = ["partition"]


@click.command(short_help="Divide a table among clients.")
@click.argument("table", type=options.FILE)
@options.output("DIR", "Folder for one table a client; it must be new or empty.")
@options.whole("--clients", help="Number of clients. [default: the values of --by]")
@options.option("--iid", is_flag=True, help="Divide at random and equally.")
@options.number(
    "--dirichlet", metavar="ALPHA", help="Divide by --by; a smaller ALPHA differs more."
)
@options.number("--quantity", metavar="ALPHA", help="Divide at random, but not equally.")
@options.option("--by", metavar="COLUMN", help="Column that decides, alone or with --dirichlet.")
@options.whole("--seed", default=0, help="Makes another division.")
@options.quiet
def partition(
    table: Path,
    output: Path,
    clients: int | None,
    iid: bool,
    dirichlet: float | None,
    quantity: float | None,
    by: str | None,
    seed: int,
    quiet: bool,
) -> None:
    """Divide a table among clients, to try a federation out.

    Every row goes to exactly one client. Each client has a file, in the format of the table.

    \b
    Examples:
      genesis partition patients.csv --by hospital --output sites
      genesis partition patients.csv --clients 5 --iid --output sites
      genesis partition patients.csv --clients 5 --dirichlet 0.5 --by outcome --output sites
      genesis partition patients.csv --clients 5 --quantity 0.5 --output sites
    """
    if iid and (clients is None or (dirichlet, quantity, by) != (None, None, None)):
        raise click.UsageError("--iid goes with --clients and nothing else")
    check_outputs([table], folders=[output])
    if output.is_dir() and any(output.iterdir()):
        raise genesis.DataError(
            f"the folder {output} is not empty", do="name a new one, so that no old client stays"
        )

    from genesis.partition import partition as divide

    rows = genesis.read_table(table)
    shards = divide(rows, clients, dirichlet=dirichlet, quantity=quantity, by=by, seed=seed)
    suffix = "".join(table.suffixes[-2:]) if table.suffix.lower() == ".gz" else table.suffix
    # All clients appear together: moved into place when the last one is written.
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".") as temporary:
        folder = Path(temporary) / "clients"
        folder.mkdir()
        for client, shard in shards.items():
            genesis.write_table(shard, folder / f"{client}{suffix}")
        folder.replace(output)
    for client, shard in shards.items():
        say(f"{len(shard):9,} rows in {output / client}{suffix}", quiet=quiet)
