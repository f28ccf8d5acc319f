"""What is told of a promise: in model files, in reports and by `--json`.

Everything that a claim of privacy needs to mean something stands in it: the unit, the neighbouring
relation, δ, who is trusted, what is taken for public, and what every mechanism released. Nothing in
it is about the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from genesis.errors import PrivacyError
from genesis.privacy.budget import ASSUMED_PUBLIC, Privacy
from genesis.privacy.ledger import Ledger

__all__ = ["client_report", "in_words", "record_report", "spent_epsilon"]

RELATION = "add or remove one {unit}"
PROTECTS = {
    "local": "from the server, all other clients and whoever sees what comes of the run: every "
    "client adds its noise before anything leaves it",
    "server": "from the clients and whoever sees what comes of the run, not from the server: it "
    "sees what every client sends and adds the noise",
}


def record_report(
    spent: Mapping[str, Mapping[str, Any]],
    clients: Sequence[str],
    *,
    overlap: str,
    public_schema: bool,
    gradients: str,
) -> dict[str, Any]:
    """What clients released that hide their records.

    Args:
        spent: Client id -> its promise and ledger, as `Guard.spent` gives them.
        clients: All that took part.
        overlap: "disjoint" or "overlapping": whether a person can be at several clients.
        public_schema: Whether the schema was stated and not inferred.
        gradients: How records' gradients are clipped.

    Returns:
        epsilon is that of a person: the largest of the clients', or their sum where a person can be
        at several; None if any client promises nothing.
    """
    told = {name: _of_client(spent[name]) for name in sorted(spent)}
    unprotected = sorted(set(clients) - set(told))
    epsilons = [each["epsilon"] for each in told.values()]
    deltas = [each["delta"] for each in told.values()]
    together = sum if overlap == "overlapping" else max
    return {
        "epsilon": None if unprotected or not told else float(together(epsilons)),
        "delta": None if unprotected or not told else float(together(deltas)),
        "unit": "record",
        "neighbouring": RELATION.format(unit="record"),
        "trust": "local",
        "protects": PROTECTS["local"],
        "overlap": overlap,
        "combined": "sum" if overlap == "overlapping" else "maximum",
        "public": [ASSUMED_PUBLIC[public_schema]],
        "unprotected": unprotected,
        "gradients": gradients,
        "accountant": accountant(),
        "clients": told,
    }


def client_report(privacy: Privacy, ledger: Ledger, *, clients: int) -> dict[str, Any]:
    """What a server released that hides whole clients."""
    return {
        "epsilon": ledger.epsilon(privacy.delta),
        "delta": privacy.delta,
        "unit": "client",
        "neighbouring": RELATION.format(unit="client"),
        "trust": "server",
        "protects": PROTECTS["server"],
        "overlap": privacy.overlap,
        "combined": "one ledger",
        "public": [ASSUMED_PUBLIC[True], f"the number of clients, {clients}"],
        "unprotected": [],
        "gradients": "updates clipped as a whole",
        "accountant": accountant(),
        "promise": privacy.to_dict()["differential_privacy"],
        "mechanisms": ledger.split(privacy.delta),
        "ledger": ledger.to_list(),
    }


def spent_epsilon(report: Mapping[str, Any]) -> float | None:
    """ε of a report, computed again from the ledgers in it.

    Raises:
        PrivacyError: A ledger holds what cannot be accounted for, or costs more than is claimed.
    """
    if report["unit"] == "client":
        found: float | None = Ledger.from_list(report["ledger"]).epsilon(report["delta"])
    else:
        each = [_of_client(client)["epsilon"] for client in report["clients"].values()]
        together = sum if report["overlap"] == "overlapping" else max
        found = None if report["unprotected"] or not each else float(together(each))
    claimed = report["epsilon"]
    if claimed is not None and (found is None or found > claimed * (1 + 1e-9)):
        raise PrivacyError(
            "the model claims more privacy than its ledger shows",
            got=f"ε = {claimed:.4g} claimed and {found if found is None else f'{found:.4g}'} spent",
        )
    return found


def accountant() -> str:
    """What computed ε."""
    return f"privacy loss distributions of dp-accounting {version('dp-accounting')}"


def in_words(report: Mapping[str, Any] | None) -> str:
    """One line for a person."""
    if report is None:
        return "no promise of privacy"
    if report["epsilon"] is None:
        missing = ", ".join(report["unprotected"]) or "every client"
        return f"no promise of privacy for the records of {missing}"
    return (
        f"({report['epsilon']:.3g}, {report['delta']:.3g})-differentially private for each "
        f"{report['unit']} ({report['neighbouring']}); trust: {report['trust']}"
    )


def _of_client(spent: Mapping[str, Any]) -> dict[str, Any]:
    """A client's promise, ledger, and what it cost."""
    promise = dict(spent.get("promise") or spent["differential_privacy"])
    ledger = Ledger.from_list(spent["ledger"])
    return {
        "epsilon": ledger.epsilon(promise["delta"]),
        "delta": promise["delta"],
        "promise": promise,
        "mechanisms": ledger.split(promise["delta"]),
        "ledger": ledger.to_list(),
    }
