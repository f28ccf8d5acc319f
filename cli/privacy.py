"""`genesis privacy`: the group of commands about promises of privacy."""

from __future__ import annotations

from .group import Commands

__all__ = ["privacy"]

privacy = Commands(
    "privacy",
    {
        "plan": (".privacy_plan:plan", "Show how much noise a run would have."),
        "spent": (".privacy_spent:spent", "Show what was promised and what was released."),
    },
    short_help="Plan a promise of privacy, and read what was kept.",
    help="""Plan a promise of differential privacy before a run, and read what was kept after it.

    \b
    Examples:
      genesis privacy plan --epsilon 1 --rows 50000 --clients 5 --columns 14
      genesis privacy spent ward.model
      genesis privacy spent patients.csv.ledger.json
    """,
)
