"""`genesis federated`, which is also `genesis-federated`: the group of federated commands."""

from __future__ import annotations

from .group import Commands

__all__ = ["federated", "main"]

federated = Commands(
    "federated",
    {
        "simulate": (".simulate:simulate", "Run a whole federation on this machine."),
    },
    short_help="Train one generator over many tables.",
    help="""Train one generator over many tables, none of which leaves its owner.

    \b
    Example:
      genesis federated simulate north.csv south.csv west.csv --output synthetic.csv
    """,
)


def main() -> None:
    """Entry point of `genesis-federated`."""
    federated.main(prog_name="genesis-federated")
