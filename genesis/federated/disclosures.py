"""What a client has disclosed by secure sums, and what it refuses because of it: `Disclosures`.

Two sums that differ in one client tell what that client put into them. So a client remembers
which sums it let be opened, and over whom, beyond the process that it runs in.

    session, number    which sums were begun: none of them can be begun again
    keys               who the others are, as this client came to believe
    revealed, shown    rounds that were opened, and parts not replaced since: none is summed twice
    counted            whose statistics were opened: no others' will be
    total              rows of all clients: whoever may guess again finds this client's among them
    schema             what the rows were held against: how they fail to fit another tells of them
    epochs             of every round: no two rounds may begin with the same random numbers
    diverged           whether training failed, which rows decide: no other model is tried after it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genesis.errors import DataError, FederationError
from genesis.federated.messages import Request
from genesis.federated.secagg.identity import Trust, key_text, read_key
from genesis.federated.secure_labels import LABEL_SUMS
from genesis.tables import make_private_folder, write_private

__all__ = ["ALL", "MEMORY", "STATISTICS", "Disclosures", "named_parts"]

MEMORY = "secure.json"  # the file, beside the client's checkpoints
STATISTICS = ("count", "sums", *LABEL_SUMS)  # of all clients, who may be asked for them again
ALL = "*"  # in place of the names of all parts of a model


class Disclosures:
    """What a client has disclosed in a session.

    Args:
        client_id: Its name.
        trust: Whose keys it believes; None if nobody's.
        folder: Where it is remembered; in memory if None.

    `session` is the one that has begun, if any, and `keys` are those of who takes part in it. Its
    owner sets the `number` of the last sum that was begun, and whether training has `diverged` and
    the server heard of it.
    """

    def __init__(self, client_id: str, trust: Trust | None, folder: Path | None) -> None:
        self.session: str | None = None
        self.keys: dict[str, bytes] = {}
        self.number = -1
        self.diverged = False
        self._client_id, self._trust, self._folder = client_id, trust, folder
        self._revealed: set[str] = set()  # "kind round" of sums that this client let be opened
        self._shown: set[str] = set()  # parts whose change was in them, and was not replaced since
        self._counted: str | None = None  # digest of the roster whose statistics were opened
        self._total: int | None = None  # rows of all clients, as the server once said
        self._schema: str | None = None  # digest of the one schema that the rows were held against
        self._epochs: int | None = None  # of every round

    # --- a session ---

    def begin(self, session: str) -> None:
        """A session begins, or goes on.

        Raises:
            FederationError: Something was disclosed in another one, or what was kept is damaged.
        """
        if session != self.session:
            if self.session is not None and self._revealed:
                raise FederationError(
                    f"client '{self._client_id}' has taken part in another session already, "
                    "and two sums over different clients tell of those in which they differ",
                    do="start it again for a new run",
                )
            self.number = -1
            self._revealed, self._shown = set(), set()
            self._recall(session)
        self.session, self.keys = session, {}

    def meet(self, keys: Mapping[str, bytes]) -> None:
        """Take part with these clients.

        Raises:
            FederationError: They are others than those whose statistics were opened.
        """
        if self._counted not in (None, _roster_digest(keys)):
            raise FederationError(
                "the server names other clients than those whose values were counted together, and "
                "two sums over different clients tell of those in which they differ",
                do="start it again for a new run",
            )
        self.keys = dict(keys)

    # --- what is refused, and what is disclosed ---

    def check(self, inner: Request) -> None:
        """Refuse to sum what was trained, if it tells more than the sums that were opened.

        Args:
            inner: A request to train, or to send what was trained.

        Raises:
            FederationError: It does.
        """
        known = f"{inner.kind} {inner.round}" in self._revealed
        if known or _overlap(named_parts(inner.meta["send"]), self._shown_after(inner)):
            raise _asked_twice(inner.round)
        if self.diverged:
            # Rows decide whether a model diverges, and the server could send one after another.
            raise FederationError(
                "the server goes on after this client's training diverged",
                do="start it again for a new run",
            )
        if inner.kind == "train" and self._epochs not in (None, inner.meta["epochs"]):
            # Else a later round could begin with the very epochs, of the same random numbers.
            raise FederationError("the server asks for other epochs than in rounds before")

    def receive(self, inner: Request) -> None:
        """Take note of what parameters replace: its next change is another than was shown."""
        self._shown = self._shown_after(inner)

    def reveal(self, inner: Request) -> None:
        """Let a sum be opened: once for a round, because two sums differ in their clients.

        Raises:
            FederationError: It is the second time.
            DataError: It cannot be written down.
        """
        if inner.kind in STATISTICS:
            self._counted = _roster_digest(self.keys)
        else:
            name = f"{inner.kind} {inner.round}"
            if name in self._revealed:
                raise _asked_twice(inner.round)
            self._revealed.add(name)
            self._shown |= named_parts(inner.meta["send"])
            self._epochs = inner.meta.get("epochs", self._epochs)
        if self._folder is not None:
            make_private_folder(self._folder)
            write_private(self._folder / MEMORY, json.dumps(self.memory()))

    def finish(self) -> None:
        """The model is the final one, which may not be everybody's: none of it is summed."""
        self._shown.add(ALL)

    def take_total(self, total: int) -> None:
        """The rows of all clients, once and for all.

        Raises:
            FederationError: They are not as many as before.
        """
        if self._total not in (None, total):
            # Whoever may guess again finds this client's rows by what it refuses.
            raise FederationError("the server says another number of all clients' rows than before")
        self._total = total

    def take_schema(self, schema: Any) -> None:
        """One schema, for good: how rows fail to fit one tells of them, such as a count of nulls.

        Raises:
            FederationError: It is another one than before.
        """
        digest = hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()
        if self._schema not in (None, digest):
            raise FederationError(
                "the server holds this client's rows against a second schema, and what does not "
                "fit tells of the rows",
                do="start it again for a new run",
            )
        self._schema = digest

    def _shown_after(self, request: Request) -> set[str]:
        """Parts whose change was revealed, and is the same still after a request."""
        if request.kind != "train" or "vector" not in request.arrays:
            return self._shown
        received = named_parts(request.meta["receive"])
        return set() if ALL in received else self._shown - received

    # --- what is kept ---

    def memory(self) -> dict[str, Any] | None:
        """All of it, as JSON values; None before a session. Nothing in it is secret."""
        if self.session is None:
            return None
        return {
            "session": self.session,
            "keys": {name: key_text(key) for name, key in self.keys.items()},
            "number": self.number,
            "total": self._total,
            "revealed": sorted(self._revealed),
            "shown": sorted(self._shown),
            "counted": self._counted,
            "schema": self._schema,
            "epochs": self._epochs,
            "diverged": self.diverged,
        }

    def remember(self, kept: Mapping[str, Any]) -> None:
        """Go on from `memory`, before the session is begun again."""
        told = Disclosures(self._client_id, None, None)
        told._revealed, told._shown = set(kept["revealed"]), set(kept["shown"])
        told._counted, told._total = kept["counted"], kept["total"]
        told._schema, told._epochs = kept["schema"], kept["epochs"]
        told.session, told.number = kept["session"], kept["number"]
        told.diverged = self.diverged or bool(kept["diverged"])
        keys = {name: read_key(key) for name, key in kept["keys"].items()}
        if self._trust is not None:
            self._trust.remember(keys)
        told._trust, told._folder = self._trust, self._folder
        vars(self).update(vars(told))  # all of it or, if some is missing, nothing

    def _recall(self, session: str) -> None:
        """Know what was disclosed in a session before this client was stopped."""
        if self._folder is None:
            return
        try:
            kept = json.loads((self._folder / MEMORY).read_text(encoding="utf-8"))
            if kept["session"] == session:
                self.remember(kept)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise FederationError(
                "what this client kept of its secure sums is damaged",
                do="start a new run, in another folder",
            ) from error


def named_parts(named: Sequence[str] | None) -> set[str]:
    """Parts of a model as a request names them; `ALL` for None.

    Raises:
        FederationError: It names something else.
    """
    if named is None:
        return {ALL}
    if not isinstance(named, list) or ALL in named:
        raise FederationError("the server names parts of a model that no model has")
    return set(named)


def _overlap(some: set[str], others: set[str]) -> bool:
    """Whether two sets of parts have one in common."""
    return bool(some and others and (some & others or ALL in some | others))


def _roster_digest(keys: Mapping[str, bytes]) -> str:
    """Who takes part, in short."""
    told = {name: key_text(key) for name, key in keys.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _asked_twice(round: int) -> FederationError:
    return FederationError(
        f"the server asks a second time for round {round + 1}, and two sums over different clients "
        "tell of those in which they differ",
        do="start a new run",
    )
