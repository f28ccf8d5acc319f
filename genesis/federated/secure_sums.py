"""The server's end of secure aggregation over a transport: `SecureSums`.

Each sum is a `secagg.Collector`, whose messages travel as requests and replies like everything
else. The first message of a sum brings the request whose answers are summed, so that clients train
while they exchange keys and shares.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import DataError, FederationError, ModelFileError
from genesis.federated.aggregation import Aggregator, State
from genesis.federated.choices import FULL_BATCH
from genesis.federated.clients import Clients, raise_failures, read
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.secagg import FEWEST, Collector, ServerSide, Sum, scheme
from genesis.federated.secagg.identity import key_text, read_key
from genesis.federated.secagg.purpose import FRESH, Agreed, after, purpose
from genesis.federated.secagg.quantise import first_exponents
from genesis.federated.secagg.vectors import NoisyVector, UpdateVector, read_counts
from genesis.federated.secure_labels import union_of_labels
from genesis.federated.updates import Combined, Hear
from genesis.federated.vectors import moved, places_of, tensor_sizes
from genesis.models.parameters import ParameterLayout
from genesis.privacy.distributed import NoisySum
from genesis.values import Label

__all__ = ["SecureSums"]

log = logging.getLogger(__name__)

ATTEMPTS = 3  # at statistics, which need everybody, when a client was away
USUAL_RATE = 1e-3  # of learning, until the model's is known
GRADIENTS = 7  # first exponent of what control variates are clipped to: those of tvae reach 84


@dataclass(frozen=True)
class _Summed:
    """What came of a sum.

    Args:
        total: (length,) the sum over the survivors.
        survivors: Clients whose vectors are in it, sorted.
        failed: Client id -> why, for those that said so or answered nonsense.
        replies: With which clients sent their vectors; nothing but what may be known is in them.
    """

    total: npt.NDArray[np.int64]
    survivors: tuple[str, ...]
    failed: dict[str, str]
    replies: tuple[Reply, ...]


@dataclass
class SecureSums:
    """Sums over the clients of a run, of which the server sees the results alone.

    Args:
        plan: The plan, which names the scheme.
        clients: The clients.
    """

    plan: Plan
    clients: Clients
    rows: int = field(default=0, init=False)  # of all clients, once they are known
    measured: tuple[str, ...] = field(default=(), init=False)  # names of what they may tell beside
    noisy: NoisySum | None = field(default=None, init=False)  # if clients add noise together
    session: str = field(default_factory=lambda: secrets.token_hex(16), init=False)
    _number: int = field(default=0, init=False)
    _keys: dict[str, bytes] = field(default_factory=dict, init=False)
    _agreed: Agreed = field(default_factory=Agreed, init=False)
    _side: ServerSide | None = field(default=None, init=False)
    _exponents: dict[str, list[int]] = field(default_factory=dict, init=False)
    _pasts: dict[str, bytes | None] = field(default_factory=dict, init=False)
    _goes_on: bool = field(default=False, init=False)  # with clients that may have lost theirs
    _learning_rate: float = field(default=USUAL_RATE, init=False)

    # --- a session ---

    def begin(self) -> None:
        """Learn everybody's key, tell all of them, and do what the scheme does once.

        In a session that goes on, keys are known of clients that are not there yet.

        Raises:
            FederationError: A client cannot take part.
            PlanError: One trusts nobody, or insists on another scheme.
        """
        name = str(self.plan.scheme)
        self._side = scheme(name).ServerSide(**self.plan.secure_aggregation_options)
        hello = Request("secure", meta={"scheme": name, "session": self.session}, setup=True)
        known = bool(self._keys)
        replies = self.clients.require(hello, "begin secure aggregation", missing_ok=known)
        for reply in replies:  # whether a key may be another than before, the others know
            self._keys[reply.client_id] = read(reply, lambda meta: read_key(str(meta["key"])))
        told = {client: key_text(key) for client, key in self._keys.items()}
        roster = Request("roster", meta={"keys": told}, setup=True)
        self.clients.require(roster, "accept the others' keys", missing_ok=known)
        sum = self._next(self.clients.names, self._agreed.digest, length=1, bits=64, complete=True)
        collector = self._side.setup(sum)
        if collector is not None:
            self._play(sum, collector, dict.fromkeys(sum.cohort), raise_failures)

    def prepare(
        self,
        request: Request,
        config: Any,
        measured: tuple[str, ...],
        noisy: NoisySum | None,
    ) -> None:
        """Know what updates will be like, before clients are asked to prepare for them.

        Args:
            request: What they are asked.
            config: Of the model: a dataclass.
            measured: Names of what clients may tell beside.
            noisy: The noise that they add together, if they do.
        """
        self.note(request)
        self.measured, self.noisy = measured, noisy
        named = (v for k, v in vars(config).items() if k.endswith(("_lr", "learning_rate")))
        rates = [rate for rate in named if rate is not None]
        self._learning_rate = max(rates, default=USUAL_RATE)

    def note(self, request: Request) -> None:
        """Remember a request that sets all clients up: sums are bound to it."""
        self._agreed.note(request.kind, request.meta)

    # --- sums ---

    def counts(self, request: Request, size: int) -> tuple[npt.NDArray[np.int64], int, list[Reply]]:
        """The sums of all clients' counts, and of their rows.

        Args:
            request: For counts.
            size: How many.

        Returns:
            (size,) the sums; rows; the replies, without counts.

        Raises:
            GenesisError: What a client failed with.
            FederationError: A client was away.
        """
        summed = self._of_all(request, size + 1)
        counts, rows = read_counts(summed.total)
        return counts, rows, list(summed.replies)

    def answers(self, request: Request, size: int) -> tuple[npt.NDArray[np.int64], list[Reply]]:
        """The sum of all clients' answers to a question of a fit.

        Args:
            request: The question.
            size: Numbers in an answer.

        Returns:
            (size,) the sum; the replies, without answers.

        Raises:
            GenesisError: What a client failed with.
            FederationError: A client was away.
        """
        summed = self._of_all(request, size)
        return summed.total, list(summed.replies)

    def labels(self) -> dict[str, list[Label]]:
        """The labels that occur at any client, of each column in which there are any.

        Raises:
            GenesisError: What a client failed with.
            FederationError: A client was away, or they do not add up.
        """

        def total(kind: str, meta: Mapping[str, Any], length: int) -> npt.NDArray[np.int64]:
            return self._of_all(Request(kind, meta=meta), length).total

        return union_of_labels(total, len(self.clients.names))

    def _of_all(self, request: Request, length: int) -> _Summed:
        """A sum of statistics, which needs everybody."""
        arrays = [request.arrays[name] for name in sorted(request.arrays)]
        digest = purpose(self._agreed, request.kind, request.round, request.meta, arrays)
        for attempt in range(1, ATTEMPTS + 1):
            sum = self._next(self.clients.names, digest, length=length, bits=64, complete=True)
            try:
                return self._total(sum, dict.fromkeys(sum.cohort, request), raise_failures)
            except _TooFewError:
                if attempt == ATTEMPTS:
                    raise
                # Harmless: it is the sum over the same clients again, or no sum at all.
                log.warning("a client was away while values were added up; doing it again")
        raise AssertionError("unreachable")

    def updates(
        self,
        requests: Mapping[str, Request],
        *,
        rule: Aggregator,
        state: State,
        layout: ParameterLayout,
        hear: Hear,
    ) -> Combined:
        """See `Gatherer`."""
        if not requests:
            raise FederationError(
                f"secure aggregation needs at least {FEWEST} clients",
                got="nobody who is there",
                do="see why the clients are away",
            )
        play = partial(self._mean, requests, rule=rule, state=state, layout=layout, hear=hear)
        past, goes_on, self._goes_on = self._past(requests), self._goes_on, False
        try:
            return play(past)
        except _TooFewError:
            if past is None or not goes_on or self.noisy is not None:  # whose rounds are paid
                raise
            log.warning("clients have lost what they knew; all of them begin with new optimisers")
            return play(None)

    def _mean(
        self,
        requests: Mapping[str, Request],
        past: bytes | None,
        *,
        rule: Aggregator,
        state: State,
        layout: ParameterLayout,
        hear: Hear,
    ) -> Combined:
        """The same of clients with a past, or with none from now on."""
        one = next(iter(requests.values()))
        parts = one.meta["send"]
        places = places_of(layout, parts)
        vector = state.vector.cpu().numpy()
        sizes = tensor_sizes(layout, places)
        start = [vector if one.kind == "train" else np.concatenate([vector[p] for p in places])]
        if rule.control_variates:
            start.append(state.slots["control"].cpu().numpy())
            sizes *= 2
        if one.kind == "train" and not self.plan.stateful:
            start.insert(0, np.frombuffer(past or FRESH, dtype=np.uint8))
        content = self._content(one, sizes, rule, len(requests))
        told = {**self._told(content, rule), "renew": past is None}
        asked = _with_meta(requests, {"secure": told})
        one = next(iter(asked.values()))
        digest = purpose(self._agreed, one.kind, one.round, one.meta, start)
        sum = self._next(requests, digest, length=content.length, bits=self.bits)
        self._pasts |= dict.fromkeys(requests)  # nobody knows how far they come
        summed = self._total(sum, asked, hear)
        self._pasts |= dict.fromkeys(summed.survivors, after(past or FRESH, digest))
        mean = content.decode(summed.total)
        if isinstance(content, UpdateVector):
            self._exponents[_which(one)] = content.quantiser.next_exponents(
                mean.change, mean.clipped
            )
        if mean.clipped.any():
            log.warning("%d numbers of the clients' updates were clipped", mean.clipped.sum())
        combined = moved(state.vector, mean.change, layout, parts)
        return Combined(combined, summed.survivors, summed.failed, mean.metrics)

    def _past(self, clients: Iterable[str]) -> bytes | None:
        """What some clients have trained for since their optimisers were new.

        None if it is not the same, or not known of one: then all of them begin anew.
        """
        if self.plan.stateful:
            return FRESH
        pasts = {self._pasts.get(client, FRESH) for client in clients}
        return pasts.pop() if len(pasts) == 1 else None

    @property
    def bits(self) -> int:
        """Of a number of an update on its way."""
        return 24 if self.plan.scheme == "paillier" else self.plan.secure_aggregation_bits

    def _next(
        self,
        cohort: Iterable[str],
        digest: bytes,
        *,
        length: int,
        bits: int,
        complete: bool = False,
    ) -> Sum:
        """The next sum of the session."""
        names = tuple(sorted(cohort))
        keys = tuple(self._keys[name] for name in names)
        number, self._number = self._number, self._number + 1
        return Sum(self.session, number, digest, names, keys, length, bits, complete)

    def _total(self, sum: Sum, asked: Mapping[str, Request], hear: Hear) -> _Summed:
        assert self._side is not None
        return self._play(sum, self._side.collector(sum), asked, hear)

    def _play(
        self,
        sum: Sum,
        collector: Collector,
        asked: Mapping[str, Request | None],
        hear: Hear,
    ) -> _Summed:
        """All steps of a sum.

        Raises:
            FederationError: Too few clients are left.
        """
        failed: dict[str, str] = {}
        silent: dict[str, str] = {}
        uploaded: list[Reply] = []
        step = 0
        while messages := collector.messages():
            expects = {"message": ("uint8", collector.reply_length())}
            requests = _requests(sum, step, messages, asked, expects)
            replies = self.clients.exchange(requests)
            hear([reply for reply in replies if not reply.meta.get("lost")])
            failed |= {reply.client_id: reply.error for reply in replies if reply.error}
            there = [reply for reply in replies if not reply.error]
            silent |= dict.fromkeys(set(requests) - {r.client_id for r in replies}, "no answer")
            if step == self._upload:
                uploaded = there
            try:
                collector.take({each.client_id: each.arrays["message"].tobytes() for each in there})
            except FederationError as error:
                reasons = "; ".join(
                    f"'{client}': {why}"
                    for client, why in sorted({**silent, **failed, **collector.failed}.items())
                )
                got = "; ".join(part for part in (error.got, reasons) if part)
                raise _TooFewError(error.what, got=got or None, do=error.do) from error
            if step == self._upload and not sum.complete:
                # While clients can still take part in the round again: not once it is opened.
                self.clients.enough(collector.survivors, "sent their sums", failed | silent)
            step += 1
        failed |= dict(collector.failed)
        survivors = tuple(collector.survivors)
        return _Summed(
            collector.total(),
            survivors,
            {client: why for client, why in failed.items() if client not in survivors},
            tuple(reply for reply in uploaded if reply.client_id in survivors),
        )

    @property
    def _upload(self) -> int:
        return scheme(str(self.plan.scheme)).UPLOAD

    def _content(
        self, request: Request, sizes: Sequence[int], rule: Aggregator, clients: int
    ) -> UpdateVector | NoisyVector:
        """What clients put into a sum of updates."""
        if self.noisy is not None:
            return NoisyVector(self.noisy)
        exponents = self._exponents.get(_which(request)) or self._first_exponents(len(sizes), rule)
        measured = self.measured if request.kind == "train" else ()
        return UpdateVector(tuple(sizes), tuple(exponents), measured, clients, self.bits)

    def _told(self, content: UpdateVector | NoisyVector, rule: Aggregator) -> dict[str, Any]:
        """What clients are told of it, and of the rows by whose number they count."""
        return {**content.to_dict(), "rows": None if rule.uniform_weights else self.rows}

    def _first_exponents(self, tensors: int, rule: Aggregator) -> list[int]:
        """Clips of the first round."""
        if rule.control_variates:
            return [*self._first_of_changes(tensors // 2), *[GRADIENTS] * (tensors // 2)]
        return self._first_of_changes(tensors)

    def _first_of_changes(self, tensors: int) -> list[int]:
        return first_exponents(self.bits, self._learning_rate, self._most_steps, tensors)

    @property
    def _most_steps(self) -> int:
        """More steps than any client makes in a round."""
        batch = int(self.plan.model_config.get("batch_size", FULL_BATCH))
        return self.plan.epochs_per_round * max(2 * self.rows // batch, 1)

    # --- a run that goes on ---

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: nothing of it is secret."""
        return {
            "session": self.session,
            "keys": {client: key_text(key) for client, key in self._keys.items()},
            "number": self._number,
            "pasts": {
                client: None if past is None else past.hex() for client, past in self._pasts.items()
            },
            "exponents": {parts: list(each) for parts, each in self._exponents.items()},
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from `to_dict`, before `begin`.

        Raises:
            ModelFileError: It is damaged.
        """
        try:
            # A run that was stopped in a round had begun sums that its checkpoint knows nothing of,
            # and clients answer no number twice. By the clock, all numbers after it are higher.
            self.session = str(values["session"])
            self._number = max(int(values["number"]), time.time_ns())
            self._goes_on = True
            self._pasts = {
                str(client): None if past is None else bytes.fromhex(past)
                for client, past in values["pasts"].items()
            }
            keys = values["keys"].items()
            self._keys = {str(client): read_key(str(key)) for client, key in keys}
            self._exponents = {
                str(parts): [int(e) for e in each] for parts, each in values["exponents"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
            raise ModelFileError("what the checkpoint says of secure sums is damaged") from error


class _TooFewError(FederationError):
    """Too few clients are left in a sum."""


def _requests(
    sum: Sum,
    step: int,
    messages: Mapping[str, bytes],
    asked: Mapping[str, Request | None],
    expects: Mapping[str, tuple[str, int]],
) -> dict[str, Request]:
    """The requests of a step; one object for all who are sent the same, for it may be large."""
    made: dict[tuple[int, bytes], Request] = {}
    requests = {}
    for client, message in messages.items():
        inner = asked[client]
        same = (id(inner), message)
        if same not in made:
            meta: dict[str, Any] = {"number": sum.number, "step": step}
            arrays: dict[str, npt.NDArray[Any]] = {}
            if step == 0:
                meta |= {"cohort": list(sum.cohort), "length": sum.length, "bits": sum.bits}
                if inner is not None:
                    meta["inner"] = {
                        "kind": inner.kind,
                        "round": inner.round,
                        "meta": dict(inner.meta),
                    }
                    arrays |= inner.arrays
            arrays["message"] = np.frombuffer(message, dtype=np.uint8)
            round = 0 if inner is None else inner.round
            made[same] = Request("sum", round, meta, arrays, expects)
        requests[client] = made[same]
    return requests


def _which(request: Request) -> str:
    """Which parts of a model a request asks for, in a word."""
    send = request.meta["send"]
    return "all" if send is None else ",".join(send)


def _with_meta(requests: Mapping[str, Request], more: Mapping[str, Any]) -> dict[str, Request]:
    """Requests that say more; still one object for all who are sent the same."""
    changed: dict[int, Request] = {}
    for request in requests.values():
        if id(request) not in changed:
            changed[id(request)] = replace(request, meta={**request.meta, **more}, expects={})
    return {client: changed[id(request)] for client, request in requests.items()}
