"""`genesis federated certificates`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from . import options
from .outputs import say

__all__ = ["certificates"]


@click.command(short_help="Make certificates for the server and its clients.")
@options.output("DIR", "Folder for the files; an authority that it holds is used again.")
@options.option(
    "--server",
    type=options.WORDS,
    multiple=True,
    metavar="NAME,…",
    help="Names and IP addresses that clients reach the server by, besides localhost; repeatable.",
)
@options.option(
    "--client", multiple=True, metavar="ID", help="Id of a client, as in --client-id; repeatable."
)
@options.whole(
    "--days", default=365, help="How long the certificates of server and clients are valid."
)
@options.option(
    "--name", metavar="NAME", help="Name of the authority. [default: Genesis federation]"
)
@options.option(
    "--renew", is_flag=True, help="Replace certificates that are there, and their keys."
)
@options.quiet
def certificates(
    output: Path,
    server: tuple[tuple[str, ...], ...],
    client: tuple[str, ...],
    days: int,
    name: str | None,
    renew: bool,
    quiet: bool,
) -> None:
    """Make certificates, so that server and clients know each other.

    Writes an authority (ca.crt, ca.key), and certificates that it signs: server.crt, and
    clients/ID.crt for each client, with their keys (.key). Everyone needs ca.crt, and of the others
    only what is their own: a key belongs on no other machine. Keep ca.key off the server, since
    whoever has it can admit clients.

    \b
    Examples:
      genesis federated certificates --output certificates --server federation.example.org
      genesis federated certificates --output certificates --client north --client south
      genesis federated certificates --output certificates --client north --days 90 --renew
    """
    servers = list(chain.from_iterable(server))
    if not servers and not client:
        raise click.UsageError("nothing to make: give --server, --client or both")

    from genesis.federated.certificates import make_certificates

    made = make_certificates(
        output, servers=servers, clients=client, days=days, name=name, renew=renew
    )
    for each in made:
        say(f"{each.path}: {each.owner}, until {each.expires:%Y-%m-%d}", quiet=quiet)
    say(
        "Each has its key beside it (.key), which is not encrypted: hand it to its owner alone.\n"
        f"Keep {output / 'ca.key'} off the server: whoever has it can admit clients.",
        quiet=quiet,
    )
