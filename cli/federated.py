"""`genesis federated`, which is also `genesis-federated`: the group of federated commands."""

from __future__ import annotations

from .group import Commands

__all__ = ["federated", "main"]

federated = Commands(
    "federated",
    {
        "simulate": (".simulate:simulate", "Run a whole federation on this machine."),
        "server": (".server:server", "Train with clients on other machines."),
        "client": (".client:client", "Take part in a run with a table that stays here."),
        "status": (".status:status", "Show how a run on a server is."),
        "certificates": (
            ".certificates:certificates",
            "Make certificates for the server and its clients.",
        ),
        "identity": (".identity:identity", "Make the key that other clients know a client by."),
    },
    short_help="Train one generator over many tables.",
    help="""Train one generator over many tables, none of which leaves its owner.

    \b
    Examples:
      genesis federated simulate north.csv south.csv west.csv --output synthetic.csv
      genesis federated server --min-clients 3
      genesis federated client --server http://127.0.0.1:8000 --data north.csv --client-id north
      genesis federated status --server http://127.0.0.1:8000
    """,
)


def main() -> None:
    """Entry point of `genesis-federated`."""
    federated.main(prog_name="genesis-federated")
