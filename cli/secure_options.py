"""Secure aggregation as options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from genesis.federated.secagg import FEWEST, SCHEMES

from . import options

__all__ = ["identity_options", "secure_aggregation"]


def secure_aggregation(help_text: str) -> options.Decorator:
    """Which scheme."""
    return options.option(
        "--secure-aggregation",
        type=click.Choice(list(SCHEMES)),
        help=f"{help_text} [default: none]",
    )


def identity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Who a client is to the others, and whom it believes."""
    for add in (
        options.whole(
            "--min-clients",
            default=FEWEST,
            help="Clients that a secure sum must be over for this one to take part in it.",
        ),
        options.option(
            "--trust-on-first-use",
            is_flag=True,
            help="Believe the server about keys that the roster does not have.",
        ),
        options.option(
            "--roster",
            type=options.FILE,
            metavar="FILE",
            help="The public keys of all clients, for secure aggregation.",
        ),
        options.option(
            "--identity",
            type=options.FILE,
            metavar="KEY",
            help="This client's key: see 'genesis federated identity'. [default: a new one]",
        ),
    ):
        command = add(command)
    return command
