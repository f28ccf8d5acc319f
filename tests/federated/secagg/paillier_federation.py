"""Clients and a server with small keys, and a network between them that loses things."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError
from genesis.federated.secagg import Collector, Party, Sum, paillier
from genesis.federated.secagg.identity import Identity
from genesis.federated.secagg.paillier import keys, setup, sums
from genesis.federated.secagg.paillier.wire import position_bits

KEY_BITS = 512
PURPOSE = bytes(range(32))

Vectors = Mapping[str, npt.NDArray[np.int64]]
Lost = Collection[tuple[int, str]]
"""Steps and the clients that do not answer in them."""


class Federation:
    """A session, set up unless that is what is tested."""

    def __init__(self, n: int = 5, *, session: str = "ab", begin: bool = True, **options: Any):
        self.names = tuple(f"c{i:02}" for i in range(n))
        self.identities = {name: Identity.generate() for name in self.names}
        self.session = session
        options = {"key_bits": KEY_BITS, "insecure_key_bits": True, **options}
        self.server = paillier.ServerSide(**options)
        self.clients = {
            name: paillier.ClientSide(name, identity, workers=0, **options)
            for name, identity in self.identities.items()
        }
        self.errors: dict[str, FederationError] = {}
        self.traffic = 0
        if begin:
            self.begin()

    @property
    def public(self) -> keys.PublicKey:
        assert self.server._keys is not None
        return self.server._keys.public

    def keys_of(self, name: str) -> setup.ClientKeys:
        found = self.clients[name]._keys
        assert found is not None
        return found

    def sum(
        self,
        number: int = 1,
        *,
        length: int = 50,
        bits: int = 24,
        complete: bool = False,
        cohort: Collection[str] | None = None,
        purpose: bytes = PURPOSE,
    ) -> Sum:
        names = self.names if cohort is None else tuple(cohort)
        public = tuple(self.identities[name].public for name in names)
        return Sum(self.session, number, purpose, names, public, length, bits, complete)

    def begin(self, lost: Lost = (), complete: bool = True) -> Collector:
        asked = self.sum(0, length=1, complete=complete)
        collector = self.server.setup(asked)
        self.play(collector, {name: self.clients[name].setup(asked) for name in self.names}, lost)
        return collector

    def add(self, asked: Sum, vectors: Vectors, lost: Lost = ()) -> Collector:
        collector = self.server.collector(asked)
        parties = {name: self.clients[name].party(asked) for name in asked.cohort}
        self.play(collector, parties, lost, {n: ring(v, asked) for n, v in vectors.items()})
        return collector

    def play(
        self,
        collector: Collector,
        parties: Mapping[str, Party],
        lost: Lost = (),
        values: Mapping[str, Any] | None = None,
        on_answer: Callable[[int, str, bytes], bytes] | None = None,
    ) -> None:
        """Until the sum is known. A client that refuses is as one that is gone."""
        gone: set[str] = set()
        step = 0
        while messages := collector.messages():
            answers = {}
            for name, message in messages.items():
                self.traffic += len(message)
                if (step, name) in lost:
                    gone.add(name)
                if name in gone:
                    continue
                try:
                    answer = parties[name].answer(
                        step, message, lambda name=name: (values or {})[name]
                    )
                except FederationError as error:
                    self.errors[name] = error
                    continue
                assert len(answer) == collector.reply_length()
                self.traffic += len(answer)
                answers[name] = on_answer(step, name, bytes(answer)) if on_answer else bytes(answer)
            collector.take(answers)
            step += 1


def ring(vector: npt.NDArray[np.int64], asked: Sum) -> Any:
    """Numbers as clients give them."""
    return vector.astype(np.int64).view(np.uint64).astype(asked.dtype)


def random_vectors(asked: Sum, seed: int = 0) -> dict[str, npt.NDArray[np.int64]]:
    """As large as their sum lets them be."""
    rng = np.random.default_rng(seed)
    top = 2 ** (asked.bits - 1) // len(asked.cohort)
    return {name: rng.integers(-top, top, asked.length) for name in asked.cohort}


class HostileServer:
    """Has uploads of all clients for one sum, and may do with them what it likes."""

    def __init__(self, federation: Federation, number: int = 1, **choices: Any) -> None:
        self.federation = federation
        self.sum = federation.sum(number, **choices)
        # Half as large as they may be, so that it is not their size that gives it away.
        self.vectors = {n: v // 2 for n, v in random_vectors(self.sum, number).items()}
        self.parties: dict[str, Any] = {}
        self.uploads: dict[str, list[Any]] = {}
        public = federation.public
        for name in self.sum.cohort:
            party = self.parties[name] = federation.clients[name].party(self.sum)
            party.answer(0, b"", lambda: None)
            upload = party.answer(1, b"", lambda name=name: ring(self.vectors[name], self.sum))
            self.uploads[name] = keys.read_numbers(upload, public.width)

    def product(self, *uploads: list[Any]) -> list[Any]:
        square = self.federation.public.square
        whole = list(uploads[0])
        for upload in uploads[1:]:
            whole = [a * b % square for a, b in zip(whole, upload, strict=True)]
        return whole

    def of(self, *positions: int) -> list[Any]:
        """The product of these clients' uploads."""
        return self.product(*(self.uploads[self.sum.cohort[x]] for x in positions))

    def signatures(self, survivors: Collection[int], step: int = sums.AGREE) -> dict[int, bytes]:
        """What clients sign if they are told of these survivors."""
        text = position_bits(survivors, len(self.sum.cohort))
        names = {position: self.sum.cohort[position] for position in survivors}
        return {x: self.parties[name].answer(step, text, lambda: None) for x, name in names.items()}

    def ask(
        self,
        survivors: Collection[int],
        product: list[Any],
        signatures: Mapping[int, bytes],
        *,
        holder: int = 0,
        step: int = 3,
    ) -> npt.NDArray[np.int64] | None:
        """What the holder makes of it: a sum, or None if it refuses."""
        public = self.federation.public
        agreement = sums.Agreement(tuple(survivors), signatures).to_bytes(self.sum)
        message = sums.OPEN + agreement + keys.write_numbers(product, public.width)
        answer = self.parties[self.sum.cohort[holder]].answer(step, message, lambda: None)
        if answer[:1] == sums.OPENED:
            return sums.Packing(self.sum.length, self.sum.bits, public).read(answer[1:])
        assert not any(answer)  # nothing is told of what it refuses
        return None

    def open(self, survivors: Collection[int], product: list[Any]) -> Any:
        """The same, with all signatures that there can be."""
        return self.ask(survivors, product, self.signatures(survivors))

    def expected(self, *positions: int) -> npt.NDArray[np.int64]:
        whole: npt.NDArray[np.int64] = sum(self.vectors[self.sum.cohort[x]] for x in positions)
        return whole

    def hand_over(
        self,
        giver: int,
        receiver: int,
        survivors: Collection[int],
        signatures: Mapping[int, bytes],
        step: int = 4,
    ) -> bytes:
        """A client's share for another one."""
        agreement = sums.Agreement(tuple(survivors), signatures).to_bytes(self.sum)
        message = sums.HAND_OVER + agreement + struct.pack(">I", receiver)
        found: bytes = self.parties[self.sum.cohort[giver]].answer(step, message, lambda: None)
        return found
