"""A client's end of secure aggregation: `SecureShard`, which stands between a `Shard` and others.

Whatever the shard would send for the server to add up (counts, parameters, losses) goes into a sum
of which the server learns the result alone. What it asks for in the clear is refused from then on.

    secure    a session begins: which scheme, which roster
    roster    who takes part, and by which keys
    sum       one step of one sum; the first brings the request whose answers are summed

Any other request goes to the shard, as far as it tells nothing that a sum would hide. `disclosures`
knows what was opened before, `open_sum` is the sum that is going on, and `secure_answers` turns
what the shard says into numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from genesis.errors import DataError, FederationError, GenesisError, PlanError, TrainingError
from genesis.federated.disclosures import ALL, STATISTICS, Disclosures, named_parts
from genesis.federated.messages import Reply, Request
from genesis.federated.open_sum import OpenSum, digest_of, kept_sum, within
from genesis.federated.secagg import (
    FEWEST,
    ClientSide,
    PortableSide,
    Ring,
    Scheme,
    Sum,
    check_portable,
    scheme,
)
from genesis.federated.secagg.identity import Identity, Trust, key_text, read_key
from genesis.federated.secagg.purpose import Agreed, purpose
from genesis.federated.secure_answers import Answers
from genesis.federated.secure_labels import LABEL_SUMS, OwnLabels
from genesis.federated.shard import Shard
from genesis.schema import Schema

__all__ = ["SecureShard"]

log = logging.getLogger(__name__)

SUMMED = (*STATISTICS, "train", "collect")  # requests whose answers are added up
UNENCODED = (*LABEL_SUMS, "count")  # statistics that need no encoder
SETUP = ("labels", "prepare")  # what statistics build on, and what training builds on besides
HIDDEN: dict[str, dict[str, Any]] = {
    "labels": {"labels": {}},
    "prepare": {"rows": None},
}
"""What a reply in the clear says instead of what only a sum may tell."""
TOLD = ("spent", "private", "deviation", "error_type")  # what else of an answer leaves the client


class SecureShard:
    """Answers for a shard, and lets nothing out of it but into sums.

    Args:
        shard: The rows.
        identity: What this client signs with; a new one if None.
        trust: Whose keys it believes. None believes nobody: no secure session can begin.
        required: The scheme that this client insists on; True for any, False for none.
        background: Whether it trains in a thread of its own, while keys and shares are exchanged.
        folder: Where it remembers what it has revealed; in memory if None.
        portable: Whether other processes must be able to go on where this one ends: see `memory`
            and `opened`. A scheme that does not allow it is refused.
        fewest: Clients that a sum must be over, at least: the server chooses them.
        stateful: Whether it takes part where clients keep networks or control variates of their
            own. A server that means harm could spoil those of all clients but one.
        options: Of the scheme, such as the length of keys.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        identity: Identity | None = None,
        trust: Trust | None = None,
        required: bool | str = False,
        background: bool = False,
        folder: Path | None = None,
        portable: bool = False,
        stateful: bool = True,
        fewest: int = FEWEST,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.shard, self.client_id = shard, shard.client_id
        self.identity, self._trust, self._required = identity, trust, required
        self._portable, self._fewest, self._options = portable, fewest, dict(options or {})
        self._may_be_stateful, self._stateful = stateful, False  # the latter as the plan is
        self._disclosed = Disclosures(self.client_id, trust, folder)
        self._answers = Answers(shard, self._disclosed, background=background)
        self._scheme: Scheme | None = None
        self._side: ClientSide | None = None
        self._agreed = Agreed()
        self._set_up: set[str] = set()  # kinds of requests that this client was set up with
        self._open: OpenSum | None = None

    @property
    def is_secure(self) -> bool:
        """Whether a session of secure aggregation has begun."""
        return self._disclosed.session is not None

    def handle(self, request: Request) -> Reply:
        """Do what is asked. Never raises: a failure is a reply that says why."""
        try:
            if request.kind == "secure":
                return self._begin(request)
            if request.kind == "roster":
                return self._meet(request)
            if request.kind == "sum":
                return self._sum(request)
            return self._in_the_clear(request) if self.is_secure else self._without_sums(request)
        except _Failure as failure:
            return failure.reply
        except GenesisError as error:
            kind, message = type(error).__name__, str(error)
        except Exception as error:
            # Foreign messages may quote anything, so only their type leaves the client.
            log.exception("client '%s' failed at '%s'", self.client_id, request.kind)
            kind, message = "FederationError", f"an unexpected {type(error).__name__}"
        self._open = None
        return Reply(self.client_id, meta={"error_type": kind}, error=message)

    def stop(self) -> None:
        """End work that nobody waits for any more."""
        self._answers.stop()

    def meant(self, request: Request) -> Request | None:
        """What a request is about, if this client has just done it: that of a sum is inside it."""
        if request.kind != "sum":
            return request
        opened = self._open
        return opened.inner if opened is not None and opened.has_just_uploaded else None

    # --- a session ---

    def _begin(self, request: Request) -> Reply:
        """A session begins, or goes on after this client was away."""
        name, session = str(request.meta["scheme"]), str(request.meta["session"])
        if self._required not in (False, True, name):
            raise PlanError(
                f"the server asks for {name}, and client '{self.client_id}' insists on another "
                "scheme of secure aggregation",
                got=str(self._required),
                do="agree on one",
            )
        if self._trust is None:
            raise PlanError(
                f"client '{self.client_id}' knows nobody's key, so the server could take part in "
                "place of all others",
                do="give it the roster of keys (--roster), or say --trust-on-first-use",
            )
        chosen = scheme(name)
        if self._portable:
            check_portable(name)
        self._disclosed.begin(session)
        if self.identity is None:
            self.identity = Identity.generate()
        self._scheme = chosen
        self._side = chosen.ClientSide(self.client_id, self.identity, **self._options)
        self._agreed, self._set_up, self._open = Agreed(), set(), None
        return Reply(self.client_id, meta={"key": key_text(self.identity.public)})

    def _meet(self, request: Request) -> Reply:
        """Who takes part, as the server says, held against what this client knows itself."""
        if self._trust is None or self.identity is None:
            raise _out_of_step()
        told = {str(name): read_key(str(key)) for name, key in request.meta["keys"].items()}
        if told.get(self.client_id) != self.identity.public:
            raise FederationError(
                f"the server tells others another key of client '{self.client_id}' than it has",
                do="do not go on: somebody may be between",
            )
        try:
            keys = self._trust.keys_for(told)
        except DataError as error:
            log.error("client '%s': %s", self.client_id, error)  # it names a file of this machine
            raise FederationError(
                f"client '{self.client_id}' could not write down the others' keys", do="see its log"
            ) from None
        self._disclosed.meet(keys)
        return Reply(self.client_id)

    # --- a sum ---

    def _sum(self, request: Request) -> Reply:
        """One step of a sum."""
        step = int(request.meta["step"])
        if step == 0 and not (self._open is not None and self._open.is_begun_by(request)):
            self._open = None
            self._open = self._begin_sum(request)
        opened = self._open
        if opened is None or request.meta["number"] != opened.sum.number:
            lost = {"error_type": "FederationError", "lost": True}
            why = "it was away, and takes no part in this sum any more"
            raise _Failure(Reply(self.client_id, meta=lost, error=why))
        message = request.arrays["message"].tobytes()
        said = opened.said(step, message)
        if said is not None:  # a server that has not heard it hears the same again
            return said
        told: dict[str, Any] = {}

        def values() -> Ring:
            """The shard's answer, once the scheme wants it."""
            if opened.inner is None:
                raise _out_of_step()
            done = opened.work()
            if done.error:
                kind = done.meta.get("error_type")
                self._disclosed.diverged |= kind == TrainingError.__name__
                raise _Failure(done)
            told.update({name: done.meta[name] for name in TOLD if name in done.meta})
            return self._answers.vector(opened.inner, opened.sum, done)

        answer = np.frombuffer(opened.party.answer(step, message, values), dtype=np.uint8)
        if step == opened.scheme.REVEAL and opened.inner is not None:
            self._disclosed.reveal(opened.inner)  # remembered before the answer leaves
        reply = Reply(self.client_id, meta=told, arrays={"message": answer})
        opened.says(step, message, reply)
        return reply

    def _begin_sum(self, request: Request) -> OpenSum:
        """A sum begins, and with it the work on what is to be summed."""
        chosen, side = self._scheme, self._side
        if chosen is None or side is None or not self._disclosed.keys:
            raise _out_of_step()
        self._answers.wait()
        if int(request.meta["number"]) <= self._disclosed.number:
            raise FederationError("the server asks again for a sum that was begun before")
        inner = None if request.meta.get("inner") is None else self._inner(request)
        sum = self._agreed_sum(request.meta, inner)
        self._disclosed.number = sum.number
        party = side.setup(sum) if inner is None else side.party(sum)
        if party is None:
            raise _out_of_step()
        inner = None if inner is None else within(sum, inner)
        return OpenSum(chosen, sum, party, inner, self._answers.begin(inner), digest_of(request))

    def _inner(self, request: Request) -> Request:
        """The request whose answer goes into a sum, if it may."""
        told = request.meta["inner"]
        kind, round = str(told["kind"]), int(told["round"])
        if kind not in SUMMED:
            raise FederationError("a sum of what cannot be summed was asked for")
        if not self._set_up >= set(SETUP[: 1 if kind in UNENCODED else 2]):
            raise FederationError("a sum was asked for before all clients were told the same")
        arrays = {name: array for name, array in request.arrays.items() if name != "message"}
        inner = Request(kind, round, told["meta"], arrays)
        if kind == "train" and inner.meta["epochs"] < 1:
            raise FederationError("the server asks for training that changes nothing")
        if kind not in STATISTICS:
            self._disclosed.check(inner)
            if not (self._stateful or _begins_anew(inner)):
                raise FederationError("the server asks for a change from what not all received")
        return inner

    def _purpose(self, inner: Request) -> bytes:
        """What this client believes that all are asked, and start from."""
        arrays: list[npt.NDArray[Any]] = []
        if inner.kind == "train":
            self.shard.receive(inner)
            self._disclosed.receive(inner)
            if inner.meta["secure"]["renew"]:
                self.shard.renew()
            if not self._stateful:
                arrays.append(np.frombuffer(self.shard.past, dtype=np.uint8))
        if inner.kind not in STATISTICS:
            # Also of parts that are not sent: with another critic, a generator learns otherwise.
            parts = None if inner.kind == "train" else inner.meta["send"]
            arrays.append(self.shard.known(parts)[0])
        if "control" in inner.arrays:
            arrays.append(inner.arrays["control"])
        if inner.kind == "sums":
            # Under other parameters than the others', this client's rows could stand out.
            arrays += [inner.arrays[name] for name in sorted(inner.arrays)]
        return purpose(self._agreed, inner.kind, inner.round, inner.meta, arrays)

    def _agreed_sum(self, meta: Mapping[str, Any], inner: Request | None) -> Sum:
        """What all must agree on, if the sum is over as many clients as it must be."""
        digest = self._agreed.digest if inner is None else self._purpose(inner)
        session, keys = self._disclosed.session, self._disclosed.keys
        assert session is not None
        cohort = tuple(str(name) for name in meta["cohort"])
        unknown = sorted(set(cohort) - set(keys))
        if unknown:
            raise FederationError(
                "the server asks for a sum with a client that is not in the roster",
                got=f"'{unknown[0]}'",
            )
        sum = Sum(
            session=session,
            number=int(meta["number"]),
            purpose=digest,
            cohort=cohort,
            keys=tuple(keys[name] for name in cohort),
            length=int(meta["length"]),
            bits=int(meta["bits"]),
            # Statistics never change, so a second set of clients would tell of their difference.
            complete=inner is None or inner.kind in STATISTICS,
        )
        sum.at(self.client_id)
        if len(cohort) < self._fewest:
            raise FederationError(
                f"client '{self.client_id}' takes part in sums over more clients only",
                got=f"{len(cohort)}, and it wants {self._fewest}",
                do="let more clients take part in a round (--client-fraction)",
            )
        if sum.complete and set(cohort) != set(keys):
            raise FederationError("the server asks for statistics of some of the clients only")
        return sum

    # --- what goes to the shard in the clear ---

    def _without_sums(self, request: Request) -> Reply:
        """No session has begun: a client that insists on one says what its columns are, no more."""
        if self._required and request.kind != "describe":
            raise FederationError(
                f"client '{self.client_id}' insists on secure aggregation, and the server's "
                "plan has none",
                do="start the server with --secure-aggregation masking",
            )
        reply = self.shard.handle(request)
        return _without_constants(reply) if self._required and not reply.error else reply

    def _in_the_clear(self, request: Request) -> Reply:
        """What is no sum goes to the shard, as far as it tells nothing that a sum would hide."""
        kind, meta = request.kind, request.meta
        if kind in SUMMED:
            raise FederationError(
                f"the server asks client '{self.client_id}' in the clear for what secure "
                "aggregation hides",
                got=f"'{kind}'",
                do="give server and clients the same version",
            )
        self._answers.wait()
        if kind in SETUP:  # what builds on it is of no use then
            self._set_up -= set(SETUP[SETUP.index(kind) :])
        if kind == "labels":
            self._disclosed.take_schema(meta.get("schema"))
        if meta.get("stateful") and not self._may_be_stateful:
            raise PlanError(
                "clients are to keep networks or control variates of their own, which a server "
                "could spoil, so that a sum is the update of one of them",
                do='synchronize "both" networks, and choose another rule than scaffold',
            )
        reply = self.shard.handle(request)
        if reply.error:
            return reply
        if kind in SETUP:
            self._agreed.note(kind, meta)
            self._set_up.add(kind)
        if kind == "labels":
            self._answers.labels = OwnLabels(reply.meta["labels"])
        if kind == "prepare":
            self._stateful = bool(meta.get("stateful"))
        if kind == "finish":
            self._disclosed.finish()
        if kind == "describe":
            return _without_constants(reply)
        return replace(reply, meta={**reply.meta, **HIDDEN.get(kind, {})})

    # --- going on in another process ---

    def memory(self) -> dict[str, Any] | None:
        """What it must remember of its session, as JSON values, none secret; None before one."""
        return self._disclosed.memory()

    def remember(self, kept: Mapping[str, Any]) -> None:
        """Go on from `memory`, before the session is begun again."""
        self._disclosed.remember(kept)

    def opened(self) -> Request | None:
        """The sum that is open, as a message to a process that goes on with it; None without one.

        There are secrets in it until it has been opened: see `masking.MaskingParty.to_dict`.
        """
        return None if self._open is None else self._open.to_request()

    def reopen(self, kept: Request) -> None:
        """Go on from `opened`, after the session was begun again.

        Raises:
            FederationError: It was another session, or other clients.
        """
        chosen, side = self._scheme, self._side
        session, keys = self._disclosed.session, self._disclosed.keys
        met = set(kept.meta["cohort"]) <= set(keys)
        if chosen is None or side is None or session is None or not met:
            raise _out_of_step()
        sum, inner = kept_sum(kept, session, keys)
        party = cast(PortableSide, side).resumed(sum, kept.meta["party"])
        work = self._answers.begin(inner)
        # Of what was said before, only a server that is not heard of here could ask again.
        self._open = OpenSum(chosen, sum, party, inner, work, b"", kept.meta["step"])


class _Failure(Exception):  # noqa: N818 - it is a reply
    """The shard could not do what was to be summed."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.error)


def _begins_anew(request: Request) -> bool:
    """Whether what is sent changes from the parameters that come with the request, and no others.

    What a client was told before, which may not be what others were told, then makes no difference.
    """
    received = "vector" in request.arrays and ALL in named_parts(request.meta["receive"])
    return request.kind == "train" and received and "control" not in request.arrays


def _without_constants(described: Reply) -> Reply:
    """What a client says of its columns, but for the value of one that holds no other."""
    columns = [
        column if column.of is None else replace(column, kind=column.of, of=None, value=None)
        for column in Schema.from_dict(described.meta["schema"])
    ]
    return replace(described, meta={"schema": Schema(tuple(columns)).to_dict()})


def _out_of_step() -> FederationError:
    return FederationError(
        "a sum was asked for before the keys for it were agreed on",
        do="give server and clients the same version",
    )
