"""What is told of a promise: in model files, in reports and by `--json`.

Everything that a claim of privacy needs to mean something stands in it: the unit, the neighbouring
relation, δ, who is trusted, what is taken for public, and what every mechanism released. Nothing in
it is about the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from genesis.errors import PrivacyError
from genesis.privacy.budget import ASSUMED_PUBLIC, Privacy
from genesis.privacy.events import SkellamSum
from genesis.privacy.ledger import Ledger

__all__ = ["client_report", "in_words", "recomputed", "record_report", "spent_epsilon"]

TOLERANCE = 0.01  # between the grids of two versions of the accountant
RELATION = "add or remove one {unit}"
PROTECTS = {
    "local": "from the server, all other clients and whoever sees what comes of the run: every "
    "client adds its noise before anything leaves it",
    "server": "from the clients and whoever sees what comes of the run, not from the server: it "
    "sees what every client sends and adds the noise",
    "distributed": "from the server, all other clients and whoever sees what comes of the run, as "
    "long as secure aggregation holds and no more than {colluding} tell the server their noise: ",
}
TOGETHER = {
    "record": "clients add the noise of counts together, and all other noise each by itself",
    "client": "clients add all noise together",
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
    kinds = {event["kind"] for each in told.values() for event in each["ledger"]}
    unprotected = sorted(set(clients) - set(told))
    shared = [each["promise"] for each in told.values() if each["promise"]["trust"] != "local"]
    return {
        **_together(told.values(), overlap, unprotected),
        "unit": "record",
        "neighbouring": RELATION.format(unit="record"),
        **_trust(shared[0] if shared else {"unit": "record", "trust": "local"}),
        "overlap": overlap,
        "combined": "sum" if overlap == "overlapping" else "maximum",
        "public": [ASSUMED_PUBLIC[public_schema]],
        "unprotected": unprotected,
        "gradients": gradients,
        "accountant": accountant(renyi=SkellamSum.kind in kinds),
        "clients": told,
    }


def client_report(privacy: Privacy, ledger: Ledger, *, clients: int) -> dict[str, Any]:
    """What was released that hides whole clients, by a server or by all of them together."""
    promise = privacy.to_dict()["differential_privacy"]
    return {
        "epsilon": ledger.epsilon(privacy.delta),
        "delta": privacy.delta,
        "unit": "client",
        "neighbouring": RELATION.format(unit="client"),
        **_trust(promise),
        "overlap": privacy.overlap,
        "combined": "one ledger",
        "public": [ASSUMED_PUBLIC[True], f"the number of clients, {clients}"],
        "unprotected": [],
        "gradients": "updates clipped as a whole",
        "accountant": accountant(renyi=privacy.needs_secure_aggregation),
        "promise": promise,
        "mechanisms": ledger.split(privacy.delta),
        "ledger": ledger.to_list(),
    }


def spent_epsilon(report: Mapping[str, Any]) -> float | None:
    """ε of a report, computed again from the ledgers in it; see `recomputed`."""
    found: float | None = recomputed(report)["epsilon"]
    return found


def recomputed(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report with ε and δ, those of every client and mechanism too, as its ledgers have them.

    Raises:
        PrivacyError: A ledger holds what cannot be accounted for, or costs more than is claimed; or
            the report is damaged.
    """
    try:
        again = _again(report)
        same = report["accountant"] in (accountant(), accountant(renyi=True))
        tolerance = 1e-9 if same else TOLERANCE
        _check_claim(report, again, tolerance)
        for name, client in report.get("clients", {}).items():
            _check_claim(client, again["clients"][name], tolerance)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise PrivacyError("the model's account of its privacy is damaged") from error
    return again


def _again(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report made anew of the ledgers in it."""
    if report["unit"] == "client":
        ledger, delta = Ledger.from_list(report["ledger"]), report["delta"]
        return {**report, "epsilon": ledger.epsilon(delta), "mechanisms": ledger.split(delta)}
    if report["unit"] != "record":
        raise ValueError("unknown unit")
    told = {name: _of_client(client) for name, client in report["clients"].items()}
    total = _together(told.values(), report["overlap"], report["unprotected"])
    return {**report, **total, "clients": told}


def _together(
    told: Collection[Mapping[str, Any]], overlap: str, unprotected: Sequence[str]
) -> dict[str, float | None]:
    """ε and δ of a person who is at one of some clients, or can be at all of them."""
    if not isinstance(unprotected, list):
        raise TypeError("unknown clients")
    if unprotected or not told:
        return {"epsilon": None, "delta": None}
    if overlap not in ("overlapping", "disjoint"):
        raise ValueError("unknown overlap")
    together = sum if overlap == "overlapping" else max
    return {key: float(together([each[key] for each in told])) for key in ("epsilon", "delta")}


def _check_claim(claimed: Mapping[str, Any], found: Mapping[str, Any], tolerance: float) -> None:
    """Refuse a claim of more than was kept.

    Raises:
        PrivacyError: It is one.
    """
    for name, letter in (("epsilon", "ε"), ("delta", "δ")):
        said, is_so = claimed[name], found[name]
        if said is not None and (is_so is None or not is_so <= said * (1 + tolerance)):
            shown = "none" if is_so is None else f"{is_so:.4g}"
            raise PrivacyError(
                "the model claims more privacy than its ledger shows",
                got=f"{letter} = {said:.4g} claimed and {shown} spent",
                do="do not rely on it; train it again",
            )


def _trust(promise: Mapping[str, Any]) -> dict[str, str]:
    """Who adds the noise of a promise, and from whom that protects."""
    trust, colluding = promise["trust"], promise.get("colluding")
    who = "a third of the clients in a sum" if colluding is None else f"{colluding} of the clients"
    protects = PROTECTS[trust].format(colluding=who)
    if trust == "distributed":
        protects += TOGETHER[promise["unit"]]
    return {"trust": trust, "protects": protects}


def accountant(*, renyi: bool = False) -> str:
    """What computed ε: Rényi DP where noise is on vectors of any numbers, see `accounting`."""
    way = "Rényi differential privacy" if renyi else "privacy loss distributions"
    return f"{way} of dp-accounting {version('dp-accounting')}"


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
