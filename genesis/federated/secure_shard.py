"""A client's end of secure aggregation: `SecureShard`, which stands between a `Shard` and others.

Whatever the shard would send for the server to add up (counts, parameters, losses) goes into a sum
of which the server learns the result alone. What it asks for in the clear is refused from then on.

    secure    a session begins: which scheme, which roster
    roster    who takes part, and by which keys
    sum       one step of one sum; the first brings the request whose answers are summed
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from genesis.errors import (
    DataError,
    FederationError,
    GenesisError,
    PlanError,
    PrivacyError,
    TrainingError,
)
from genesis.federated.messages import Reply, Request
from genesis.federated.secagg import (
    FEWEST,
    ClientSide,
    Party,
    PortableParty,
    PortableSide,
    Ring,
    Scheme,
    Sum,
    check_portable,
    scheme,
)
from genesis.federated.secagg.identity import Identity, Trust, key_text, read_key
from genesis.federated.secagg.purpose import Agreed, purpose
from genesis.federated.secagg.vectors import UpdateVector, count_vector
from genesis.federated.secure_labels import LABEL_SUMS, OwnLabels
from genesis.federated.shard import Shard
from genesis.schema import Schema
from genesis.seeding import Stream, generator
from genesis.tables import make_private_folder, write_private

__all__ = ["SecureShard"]

log = logging.getLogger(__name__)

MEMORY = "secure.json"  # what a client has revealed in a session, beside its checkpoints
STATISTICS = ("count", *LABEL_SUMS)  # sums of all clients, which they may be asked for again
SUMMED = (*STATISTICS, "train", "collect")  # requests whose answers are added up
SETUP = ("labels", "prepare")  # what statistics build on, and what training builds on besides
HIDDEN: dict[str, dict[str, Any]] = {
    "labels": {"labels": {}},
    "prepare": {"rows": None},
}
"""What a reply in the clear says instead of what only a sum may tell."""
TOLD = ("spent", "private", "deviation", "error_type")  # what else of an answer leaves the client
ALL = "*"  # in place of the names of all parts of a model


@dataclass
class _Open:
    """The sum that is going on."""

    sum: Sum
    party: Party
    inner: Request | None
    answer: Callable[[], Reply]
    begun_by: bytes
    step: int = 0
    last: tuple[bytes, Reply] | None = None  # the message before, and what was said to it


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
        self._background, self._folder, self._portable = background, folder, portable
        self._options = dict(options or {})
        self._fewest = fewest
        self._session: str | None = None
        self._scheme: Scheme | None = None
        self._side: ClientSide | None = None
        self._keys: dict[str, bytes] = {}
        self._agreed = Agreed()
        self._set_up: set[str] = set()  # kinds of requests that this client was set up with
        self._schema: str | None = None  # digest of the one schema that its rows were held against
        self._may_be_stateful, self._stateful = stateful, False  # the latter as the plan is
        self._open: _Open | None = None
        self._labels = OwnLabels({})
        self._number = -1
        self._revealed: set[str] = set()  # "kind round" of sums that this client let be opened
        self._shown: set[str] = set()  # parts whose change was in them, and was not replaced since
        self._counted: str | None = None  # digest of the roster whose statistics were opened
        self._total: int | None = None  # rows of all clients, as the server once said
        self._epochs: int | None = None  # of every round
        self._diverged = False  # whether its training failed, and the server heard of it
        self._working: Future[Reply] | None = None

    @property
    def is_secure(self) -> bool:
        """Whether a session of secure aggregation has begun."""
        return self._session is not None

    def handle(self, request: Request) -> Reply:
        """Do what is asked. Never raises: a failure is a reply that says why."""
        try:
            if request.kind == "secure":
                return self._begin(request)
            if request.kind == "roster":
                return self._meet(request)
            if request.kind == "sum":
                return self._sum(request)
            return self._in_the_clear(request)
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

    def meant(self, request: Request) -> Request | None:
        """What a request is about, if this client has just done it: that of a sum is inside it."""
        if request.kind != "sum":
            return request
        opened = self._open
        if opened is None or self._scheme is None or opened.step != self._scheme.UPLOAD + 1:
            return None
        return opened.inner

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
        if self._session not in (None, session) and self._revealed:
            raise FederationError(
                f"client '{self.client_id}' has taken part in another session already, and two "
                "sums over different clients tell of those in which they differ",
                do="start it again for a new run",
            )
        if self.identity is None:
            self.identity = Identity.generate()
        if self._portable:
            check_portable(name)
        if session != self._session:
            self._number = -1
            self._recall(session)
        self._session, self._scheme = session, scheme(name)
        self._side = self._scheme.ClientSide(self.client_id, self.identity, **self._options)
        self._open, self._keys = None, {}
        self._agreed, self._set_up = Agreed(), set()
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
        if self._counted not in (None, _roster_digest(keys)):
            raise FederationError(
                "the server names other clients than those whose values were counted together, and "
                "two sums over different clients tell of those in which they differ",
                do="start it again for a new run",
            )
        self._keys = keys
        return Reply(self.client_id)

    # --- sums ---

    def _sum(self, request: Request) -> Reply:
        """One step of a sum."""
        if int(request.meta["step"]) == 0 and not self._is_again(request):
            self._open = None
            self._open = self._opened(request)
        opened, chosen = self._open, self._scheme
        if opened is None or chosen is None or request.meta["number"] != opened.sum.number:
            raise _Failure(
                Reply(
                    self.client_id,
                    meta={"error_type": "FederationError", "lost": True},
                    error="it was away, and takes no part in this sum any more",
                )
            )
        step = int(request.meta["step"])
        message = request.arrays["message"].tobytes()
        if step == opened.step - 1 and opened.last is not None and opened.last[0] == message:
            return opened.last[1]  # a server that has not heard it hears the same again
        if step < opened.step:  # a scheme need not ask everybody in every step
            raise FederationError("a step of a sum was asked for twice, or out of order")
        told: dict[str, Any] = {}

        def values() -> Ring:
            reply = opened.answer()
            if reply.error:
                self._diverged |= reply.meta.get("error_type") == TrainingError.__name__
                raise _Failure(reply)
            told.update({name: reply.meta[name] for name in TOLD if name in reply.meta})
            return self._vector(opened, reply)

        answer = np.frombuffer(opened.party.answer(step, message, values), dtype=np.uint8)
        if step == chosen.REVEAL:
            self._reveal(opened)  # remembered before the answer leaves
        reply = Reply(self.client_id, meta=told, arrays={"message": answer})
        opened.step, opened.last = step + 1, (message, reply)
        return reply

    def _is_again(self, request: Request) -> bool:
        """Whether the first step of the sum that is open is asked for once more."""
        opened = self._open
        return opened is not None and opened.step == 1 and opened.begun_by == _digest(request)

    def _opened(self, request: Request) -> _Open:
        """A sum begins, and with it the work on what is to be summed."""
        meta, side = request.meta, self._side
        if side is None or self._session is None or not self._keys:
            raise _out_of_step()
        self._wait()
        number = int(meta["number"])
        if number <= self._number:
            raise FederationError("the server asks again for a sum that was begun before")
        cohort = tuple(str(name) for name in meta["cohort"])
        inner: Request | None = None
        digest = self._agreed.digest
        if meta.get("inner") is not None:
            inner = self._inner(request)
            digest = self._purpose(inner)
        unknown = sorted(set(cohort) - set(self._keys))
        if unknown:
            raise FederationError(
                "the server asks for a sum with a client that is not in the roster",
                got=f"'{unknown[0]}'",
            )
        sum = Sum(
            session=self._session,
            number=number,
            purpose=digest,
            cohort=cohort,
            keys=tuple(self._keys[name] for name in cohort),
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
        if sum.complete and set(cohort) != set(self._keys):
            raise FederationError("the server asks for statistics of some of the clients only")
        self._number = number
        party = side.setup(sum) if inner is None else side.party(sum)
        if party is None:
            raise _out_of_step()
        if inner is not None:
            inner = _within(sum, inner)
        return _Open(sum, party, inner, self._begin_work(inner), _digest(request))

    def _inner(self, request: Request) -> Request:
        """The request whose answer goes into a sum."""
        told = request.meta["inner"]
        kind, round = str(told["kind"]), int(told["round"])
        if kind not in SUMMED:
            raise FederationError("a sum of what cannot be summed was asked for")
        if not self._set_up >= set(SETUP[: 1 if kind in STATISTICS else 2]):
            raise FederationError("a sum was asked for before all clients were told the same")
        arrays = {name: array for name, array in request.arrays.items() if name != "message"}
        inner = Request(kind, round, told["meta"], arrays)
        if kind == "train" and inner.meta["epochs"] < 1:
            raise FederationError("the server asks for training that changes nothing")
        if kind not in STATISTICS:
            known = f"{kind} {round}" in self._revealed
            if known or _overlap(_parts(inner.meta["send"]), self._stale(inner)):
                raise _asked_twice(round)
            if self._diverged:
                # Rows decide whether a model diverges, and the server could send one after another.
                raise FederationError(
                    "the server goes on after this client's training diverged",
                    do="start it again for a new run",
                )
            if kind == "train" and self._epochs not in (None, inner.meta["epochs"]):
                # Else a later round could begin with the very epochs, of the same random numbers.
                raise FederationError("the server asks for other epochs than in rounds before")
            if not (self._stateful or _begins_anew(inner)):
                raise FederationError("the server asks for a change from what not all received")
        return inner

    def _stale(self, request: Request) -> set[str]:
        """Parts whose change was revealed, and is the same still after a request."""
        if request.kind != "train" or "vector" not in request.arrays:
            return self._shown
        received = _parts(request.meta["receive"])
        return set() if ALL in received else self._shown - received

    def _purpose(self, inner: Request) -> bytes:
        """What this client believes that all are asked, and start from."""
        arrays: list[npt.NDArray[Any]] = []
        if inner.kind not in STATISTICS:
            if inner.kind == "train":
                self.shard.receive(inner)
                self._shown = self._stale(inner)
                if inner.meta["secure"]["renew"]:
                    self.shard.renew()
                if not self._stateful:
                    arrays.append(np.frombuffer(self.shard.past, dtype=np.uint8))
            # Also of parts that are not sent: with another critic, a generator learns otherwise.
            parts = None if inner.kind == "train" else inner.meta["send"]
            arrays.append(self.shard.known(parts)[0])
        if "control" in inner.arrays:
            arrays.append(inner.arrays["control"])
        return purpose(self._agreed, inner.kind, inner.round, inner.meta, arrays)

    def _vector(self, opened: _Open, reply: Reply) -> Ring:
        """What a reply to the inner request says, as numbers of the ring."""
        inner, sum = opened.inner, opened.sum
        if inner is None:
            raise _out_of_step()
        if inner.kind in LABEL_SUMS:
            vector: Ring = self._labels.vector(inner.kind, inner.meta)
        elif inner.kind == "count":
            vector = count_vector(reply.arrays["counts"], int(reply.meta["rows"]))
        elif self.shard.promise.whole is not None:
            if sum.bits != 32:
                raise PrivacyError("noise that clients add together has 32 bits")
            vector = reply.arrays["vector"]
        else:
            known, sizes = self.shard.known(inner.meta["send"])
            secure = inner.meta["secure"]
            layout = UpdateVector.from_dict(secure, sizes, clients=len(sum.cohort), bits=sum.bits)
            sent = reply.arrays["vector"]
            change = np.concatenate([sent[: len(known)] - known, sent[len(known) :]])
            rng = generator(self.shard.seed[0], Stream.ROUNDING, *self.shard.seed[2:], inner.round)
            share = self._share(secure.get("rows"), len(sum.cohort))
            vector = layout.encode(change, share, reply.meta["metrics"], rng)
        if len(vector) != sum.length:
            raise FederationError(
                "the vectors of a sum are not as long as the server says",
                got=f"{sum.length} instead of {len(vector)}",
                do="give server and clients the same version",
            )
        return vector

    def _share(self, total: int | None, clients: int) -> float:
        """How much this client counts: by rows if all of them are known, else as every other."""
        if total is None:
            return 1 / clients
        if self._total not in (None, total):
            # Whoever may guess again finds this client's rows by what it refuses.
            raise FederationError("the server says another number of all clients' rows than before")
        self._total = total
        rows = self.shard.rows or 0
        if self.shard.promise.is_private:  # then both are noisy, and may not fit
            return min(rows / max(total, 1), 1.0)
        if not 0 <= rows <= total:
            raise FederationError("the server says that all clients have fewer rows than this one")
        return rows / max(total, 1)

    def _reveal(self, opened: _Open) -> None:
        """Let a sum be opened: once for a round, because two sums differ in their clients."""
        inner = opened.inner
        if inner is None:
            return
        if inner.kind in STATISTICS:
            self._counted = _roster_digest(self._keys)
        else:
            name = f"{inner.kind} {inner.round}"
            if name in self._revealed:
                raise _asked_twice(inner.round)
            self._revealed.add(name)
            self._shown |= _parts(inner.meta["send"])
            self._epochs = inner.meta.get("epochs", self._epochs)
        if self._folder is not None:
            make_private_folder(self._folder)
            write_private(self._folder / MEMORY, json.dumps(self.memory()))

    # --- what is remembered ---

    def memory(self) -> dict[str, Any] | None:
        """What this client must remember of its session, as JSON values; None before one.

        Nothing in it is secret.
        """
        if self._session is None:
            return None
        return {
            "session": self._session,
            "keys": {name: key_text(key) for name, key in self._keys.items()},
            "number": self._number,
            "total": self._total,
            "revealed": sorted(self._revealed),
            "shown": sorted(self._shown),
            "counted": self._counted,
            "schema": self._schema,
            "epochs": self._epochs,
            "diverged": self._diverged,
        }

    def remember(self, kept: Mapping[str, Any]) -> None:
        """Go on from `memory`, before the session is begun again."""
        if self._trust is not None:
            self._trust.remember({name: read_key(key) for name, key in kept["keys"].items()})
        self._revealed, self._shown = set(kept["revealed"]), set(kept["shown"])
        self._counted, self._total = kept["counted"], kept["total"]
        self._session, self._number = kept["session"], kept["number"]
        self._schema, self._epochs = kept["schema"], kept["epochs"]
        self._diverged |= kept["diverged"]

    def _recall(self, session: str) -> None:
        """Know what was revealed in a session before this client was stopped."""
        self._revealed, self._shown = set(), set()
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

    def opened(self) -> Request | None:
        """The sum that is open, as a message to a process that goes on with it; None without one.

        There are secrets in it until it has been opened: see `masking.MaskingParty.to_dict`.
        """
        opened, chosen = self._open, self._scheme
        if opened is None or opened.inner is None or chosen is None or opened.step > chosen.REVEAL:
            return None
        sum, inner = opened.sum, opened.inner
        meta = {
            "number": sum.number,
            "purpose": sum.purpose.hex(),
            "cohort": list(sum.cohort),
            "length": sum.length,
            "bits": sum.bits,
            "complete": sum.complete,
            "inner": inner.meta,
            "step": opened.step,
            "party": cast(PortableParty, opened.party).to_dict(),
        }
        # Once the vector has left, its training needs nothing any more.
        arrays = inner.arrays if opened.step <= chosen.UPLOAD else {}
        return Request(inner.kind, inner.round, meta, arrays)

    def reopen(self, kept: Request) -> None:
        """Go on from `opened`, after the session was begun again.

        Raises:
            FederationError: It was another session, or other clients.
        """
        meta, side = kept.meta, self._side
        if side is None or self._session is None or not set(meta["cohort"]) <= set(self._keys):
            raise _out_of_step()
        sum = Sum(
            session=self._session,
            number=meta["number"],
            purpose=bytes.fromhex(meta["purpose"]),
            cohort=tuple(meta["cohort"]),
            keys=tuple(self._keys[name] for name in meta["cohort"]),
            length=meta["length"],
            bits=meta["bits"],
            complete=meta["complete"],
        )
        party = cast(PortableSide, side).resumed(sum, meta["party"])
        inner = _within(sum, Request(kept.kind, kept.round, meta["inner"], kept.arrays))
        # Of what was said before, only a server that is not heard of here could ask again.
        self._open = _Open(sum, party, inner, self._begin_work(inner), b"", meta["step"])

    # --- the shard's own work ---

    def _begin_work(self, inner: Request | None) -> Callable[[], Reply]:
        """Start on the answer to a request, or leave it until it is wanted."""
        if inner is None:
            return lambda: Reply(self.client_id)
        if inner.kind in LABEL_SUMS:
            return lambda: Reply(self.client_id)
        if not self._background or inner.kind == "count":
            return lambda: self.shard.handle(inner)
        working: Future[Reply] = Future()
        # A daemon, so that a client that is stopped does not go on training.
        Thread(target=lambda: working.set_result(self.shard.handle(inner)), daemon=True).start()
        self._working = working
        return working.result

    def _wait(self) -> None:
        """Until the shard is idle: a round that the server gave up on may still be trained."""
        if self._working is not None:
            self._working.result()
            self._working = None

    def _in_the_clear(self, request: Request) -> Reply:
        """What is no sum goes to the shard, as far as it tells nothing that a sum would hide."""
        if not self.is_secure:
            if self._required and request.kind != "describe":
                raise FederationError(
                    f"client '{self.client_id}' insists on secure aggregation, and the server's "
                    "plan has none",
                    do="start the server with --secure-aggregation masking",
                )
            reply = self.shard.handle(request)
            return _without_constants(reply) if self._required and not reply.error else reply
        if request.kind in SUMMED:
            raise FederationError(
                f"the server asks client '{self.client_id}' in the clear for what secure "
                "aggregation hides",
                got=f"'{request.kind}'",
                do="give server and clients the same version",
            )
        self._wait()
        if request.kind in SETUP:  # what builds on it is of no use then
            self._set_up -= set(SETUP[SETUP.index(request.kind) :])
        if request.kind == "labels":
            self._take_schema(request.meta.get("schema"))
        if request.meta.get("stateful") and not self._may_be_stateful:
            raise PlanError(
                "clients are to keep networks or control variates of their own, which a server "
                "could spoil, so that a sum is the update of one of them",
                do='synchronize "both" networks, and choose another rule than scaffold',
            )
        reply = self.shard.handle(request)
        if reply.error:
            return reply
        if request.kind in SETUP:
            self._agreed.note(request.kind, request.meta)
            self._set_up.add(request.kind)
        self._shown = self._stale(request)
        if request.kind == "finish":
            self._shown.add(ALL)  # its model may not be everybody's: none of it is summed
        if request.kind == "labels":
            self._labels = OwnLabels(reply.meta["labels"])
        if request.kind == "prepare":
            self._stateful = bool(request.meta.get("stateful"))
        if request.kind == "describe":
            return _without_constants(reply)
        if request.kind not in HIDDEN:
            return reply
        return replace(reply, meta={**reply.meta, **HIDDEN[request.kind]})

    def _take_schema(self, schema: Any) -> None:
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


class _Failure(Exception):  # noqa: N818 - it is a reply
    """The shard could not do what was to be summed."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.error)


def _within(sum: Sum, request: Request) -> Request:
    """A request that knows the sum it is for, as noise must that clients add together."""
    told = {"cohort": sum.cohort, "threshold": sum.threshold, "purpose": sum.purpose}
    return replace(request, local=told)


def _digest(request: Request) -> bytes:
    """What a request says, in short."""
    digest = hashlib.sha256(json.dumps(request.meta, sort_keys=True).encode())
    for name in sorted(request.arrays):
        digest.update(name.encode() + request.arrays[name].tobytes())
    return digest.digest()


def _parts(named: Sequence[str] | None) -> set[str]:
    """Parts of a model as a request names them.

    Raises:
        FederationError: It names something else.
    """
    if named is None:
        return {ALL}
    if not isinstance(named, list) or ALL in named:
        raise FederationError("the server names parts of a model that no model has")
    return set(named)


def _begins_anew(request: Request) -> bool:
    """Whether what is sent changes from the parameters that come with the request, and no others.

    What a client was told before, which may not be what others were told, then makes no difference.
    """
    received = "vector" in request.arrays and ALL in _parts(request.meta["receive"])
    return request.kind == "train" and received and "control" not in request.arrays


def _without_constants(described: Reply) -> Reply:
    """What a client says of its columns, but for the value of one that holds no other."""
    columns = [
        column if column.of is None else replace(column, kind=column.of, of=None, value=None)
        for column in Schema.from_dict(described.meta["schema"])
    ]
    return replace(described, meta={"schema": Schema(tuple(columns)).to_dict()})


def _overlap(some: set[str], others: set[str]) -> bool:
    """Whether two sets of parts have one in common."""
    return bool(some and others and (some & others or ALL in some | others))


def _roster_digest(keys: Mapping[str, bytes]) -> str:
    """Who takes part, in short."""
    told = {name: key_text(key) for name, key in keys.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _out_of_step() -> FederationError:
    return FederationError(
        "a sum was asked for before the keys for it were agreed on",
        do="give server and clients the same version",
    )


def _asked_twice(round: int) -> FederationError:
    return FederationError(
        f"the server asks a second time for round {round + 1}, and two sums over different clients "
        "tell of those in which they differ",
        do="start a new run",
    )
