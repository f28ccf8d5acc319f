"""`genesis federated identity`."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from genesis.errors import printable

from . import options
from .outputs import say

__all__ = ["identity"]


@click.command(short_help="Make the key that other clients know a client by.")
@options.option(
    "--output", type=options.FILE, metavar="KEY", help="File for the key; one that is there stays."
)
@options.option(
    "--client-id",
    metavar="ID",
    help="Name in the run, as in 'client'. [default: the name of this machine]",
)
@options.option(
    "--fingerprints",
    type=options.FILE,
    metavar="ROSTER",
    help="Show the fingerprint of every key in a roster instead.",
)
@options.quiet
def identity(
    output: Path | None, client_id: str | None, fingerprints: Path | None, quiet: bool
) -> None:
    """Make the key that other clients know a client by, and print its line of the roster.

    With secure aggregation clients sign what they tell each other through the server. The key stays
    with its owner. Its line goes to the owners of all other clients, by another way than the
    server; everybody's lines in one file are the roster. Compare fingerprints by telephone.

    \b
    Examples:
      genesis federated identity --output north.key --client-id north
      genesis federated identity --output north.key --client-id north --quiet >> roster.toml
      genesis federated identity --fingerprints roster.toml
    """
    if output is None and fingerprints is None:
        raise click.UsageError("nothing to do: give --output or --fingerprints")
    if output is not None and fingerprints is not None:
        raise click.UsageError("--fingerprints makes no key: leave --output out")

    # Here, because it brings cryptography.
    from genesis.federated.secagg.identity import Identity, Roster, fingerprint, roster_line

    if fingerprints is not None:
        for name, public in Roster.load(fingerprints).items():
            click.echo(f"{fingerprint(public)}  {printable(name)}")
    if output is not None:
        found = output.exists()
        key = Identity.load(output) if found else Identity.generate()
        line = roster_line(socket.gethostname() if client_id is None else client_id, key.public)
        if not found:
            key.save(output)
        click.echo(line)
        what = "the key that was there" if found else "a new key, not encrypted"
        say(
            f"{output}: {what}. Keep it on this machine, for this client alone.\n"
            "The line above is for everybody's roster; give it to the other clients' owners "
            "yourself, not by the server.\n"
            f"Its fingerprint, to compare by telephone: {fingerprint(key.public)}",
            quiet=quiet,
        )
