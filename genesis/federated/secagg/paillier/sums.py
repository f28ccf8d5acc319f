"""One sum, step by step.

    step         who         the server sends              the client answers
    0 prepare    everybody   nothing                       nothing, and makes randomness meanwhile
    1 upload     everybody   nothing                       its ciphertexts and check value
    2 agree      survivors   whose uploads are in the sum  its signature of that
    3 open       the holder  signatures, product           the sum

Each client signs one set of clients, and the holder goes on only if more than two thirds signed
the one that it is shown. So there cannot be two sums of one number over different sets, whose
difference would be somebody's vector: not even if the server says that a holder is gone, and asks
the next one.

If the holder does not answer, two more steps take the place of the last, again and again while
there is somebody to ask:

    hand over    survivors   signatures, the next holder   its share of the secret key, sealed to it
    take over    the holder  shares, signatures, product   the sum
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from genesis.errors import FederationError
from genesis.federated.secagg import FEWEST, Answer, Ring, Sum, shamir
from genesis.federated.secagg.identity import Identity, verify
from genesis.federated.secagg.paillier.channels import TAG_BYTES
from genesis.federated.secagg.paillier.keys import read_numbers, write_numbers
from genesis.federated.secagg.paillier.mac import SumMac
from genesis.federated.secagg.paillier.packing import Packing
from genesis.federated.secagg.paillier.randomness import Pool
from genesis.federated.secagg.paillier.setup import ClientKeys, ServerKeys, holders, quorum
from genesis.federated.secagg.paillier.wire import Reader, position_bits

__all__ = ["AGREE", "PREPARE", "UPLOAD", "Agreement", "SumCollector", "SumParty"]

log = logging.getLogger(__name__)

PREPARE, UPLOAD, AGREE = range(3)

OPEN, HAND_OVER, TAKE_OVER = b"o", b"h", b"t"
"""What a message after these steps asks for."""

SIGNATURE_BYTES = 64
SEALED_BYTES = shamir.SHARE_BYTES + TAG_BYTES

OPENED, REFUSED = b"\1", b"\0"
"""What a key holder's answer begins with."""


@dataclass(frozen=True)
class Agreement:
    """Who is in a sum, and who signed that.

    Args:
        survivors: Positions in the cohort.
        signatures: Of those that signed, by their positions.
    """

    survivors: tuple[int, ...]
    signatures: Mapping[int, bytes]

    def to_bytes(self, sum: Sum) -> bytes:
        """For clients."""
        n = len(sum.cohort)
        signed = dict(sorted(self.signatures.items()))
        bits = position_bits(self.survivors, n) + position_bits(signed, n)
        return bits + b"".join(signed.values())

    @classmethod
    def read(cls, reader: Reader, sum: Sum) -> Agreement:
        """The inverse of `to_bytes`, for a client, which believes nothing.

        Raises:
            FederationError: Too few are in the sum, or signed it.
        """
        n = len(sum.cohort)
        survivors, signers = reader.positions(n), reader.positions(n)
        check_survivors(sum, survivors)
        signatures = {position: reader.take(SIGNATURE_BYTES) for position in signers}
        message = signed_text(sum, survivors)
        for position, signature in signatures.items():
            if position not in survivors or not verify(sum.keys[position], signature, message):
                raise FederationError(
                    f"client '{sum.cohort[position]}' did not sign who is in the sum",
                    do="do not go on: the server tells clients different things",
                )
        if len(signatures) < quorum(n):
            raise FederationError(
                "too few clients signed who is in the sum",
                got=f"{len(signatures)} of {n}",
                do=f"at least {quorum(n)} must",
            )
        return cls(survivors, signatures)


class SumParty:
    """A client's end of one sum.

    Args:
        sum: What is summed.
        keys: Of the session.
        identity: What the client signs with.
        pool: Randomness for its ciphertexts.
        workers: Threads that decrypt.
    """

    def __init__(
        self, sum: Sum, keys: ClientKeys, identity: Identity, pool: Pool, workers: int
    ) -> None:
        self._sum, self._keys, self._identity, self._pool = sum, keys, identity, pool
        self._workers = workers
        self._position = sum.at(keys.setup.cohort[keys.position])
        public = keys.announcement.public
        self._packing = Packing(sum.length, sum.bits, public)
        self._mac = SumMac(keys.mac_key, sum.context, public.n)
        self._done = -1  # the step that was done last
        self._agreed: tuple[int, ...] = ()
        self._given: set[int] = set()
        self._opened = False

    def answer(self, step: int, message: bytes, values: Callable[[], Ring]) -> Answer:
        # Of the steps after the first three, a client is asked for none, for some or for all.
        in_order = step == self._done + 1 if self._done < AGREE else step > self._done
        if not in_order:
            raise FederationError("a step of a sum was asked for twice, or out of order")
        self._done = step
        reader = Reader(message)
        if step == PREPARE:
            reader.end()
            self._pool.order(self._packing.count + 1)
            return b""
        if step == UPLOAD:
            reader.end()
            return self._upload(values())
        if step == AGREE:
            return self._agree(reader)
        asked = reader.take(1)
        agreement = Agreement.read(reader, self._sum)
        if agreement.survivors != self._agreed:
            raise FederationError(
                "the server changes who is in the sum, after this client signed it",
                do="do not go on: the difference of two sums would be somebody's vector",
            )
        if asked == HAND_OVER:
            return self._hand_over(reader)
        if asked == TAKE_OVER:
            self._take_over(reader)
        return self._open(reader)

    def _upload(self, values: Ring) -> bytes:
        """Ciphertexts of the vector, and of its check value."""
        if len(values) != self._sum.length or values.dtype != self._sum.dtype:
            raise FederationError("a vector does not fit its sum", do="give all the same version")
        public, plaintexts = self._packing.key, self._packing.pack(values)
        plaintexts.append(self._mac.tag(plaintexts, self._position))
        randomness = self._pool.take(len(plaintexts))
        return write_numbers(public.encrypt(plaintexts, randomness), public.width)

    def _agree(self, reader: Reader) -> bytes:
        """Sign who is in the sum."""
        survivors = reader.positions(len(self._sum.cohort))
        reader.end()
        check_survivors(self._sum, survivors)
        if self._position not in survivors:
            raise FederationError("the server leaves this client out of the sum")
        self._agreed = survivors
        return self._identity.sign(signed_text(self._sum, survivors))

    def _hand_over(self, reader: Reader) -> bytes:
        """Give this client's share of the secret key to the next holder."""
        (next_holder,) = struct.unpack(">I", reader.take(4))
        reader.end()
        if next_holder in self._given:
            raise FederationError("the server asks twice for a share of the secret key")
        self._given.add(next_holder)
        return self._keys.hand_over(self._sum.context, next_holder)

    def _take_over(self, reader: Reader) -> None:
        """Become the key holder."""
        givers = reader.positions(len(self._keys.setup.cohort))
        sealed = {position: reader.take(SEALED_BYTES) for position in givers}
        if self._keys.position not in holders(self._keys.members):
            raise FederationError("the server wants a client to hold the key that must not have it")
        self._keys.secret = self._keys.take_over(self._sum.context, sealed)

    def _open(self, reader: Reader) -> bytes:
        """Decrypt the sum, if it is that of the clients that signed it."""
        public, packing, secret = self._packing.key, self._packing, self._keys.secret
        product = read_numbers(reader.take((packing.count + 1) * public.width), public.width)
        reader.end()
        if secret is None or self._opened:
            raise FederationError("the server asks for a sum that this client cannot open, or has")
        self._opened = True
        try:
            *plaintexts, tag = secret.decrypt(product, self._workers)
            if self._mac.holds(plaintexts, tag, self._agreed):
                return OPENED + packing.to_bytes(plaintexts)
        except FederationError:
            pass  # no ciphertexts of this key, or sums that are too large: said in one way
        log.warning(
            "refused to open sum %d: what the server gave is not the sum of what %d clients sent",
            self._sum.number,
            len(self._agreed),
        )
        return REFUSED + bytes(packing.n_bytes)


class SumCollector:
    """The server's end of one sum.

    Args:
        sum: What is summed.
        keys: Of the session; those that hold the secret key are noted in it.
    """

    def __init__(self, sum: Sum, keys: ServerKeys) -> None:
        self._sum, self._keys = sum, keys
        self.failed: dict[str, str] = {}
        self.survivors: tuple[str, ...] = ()
        self._packing = Packing(sum.length, sum.bits, keys.public)
        self._alive = sum.cohort
        self._step = PREPARE
        self._product: list[mpz] = []
        self._agreement = Agreement((), {})
        self._asks = OPEN
        self._holder = ""
        self._tried: set[str] = set()
        self._sealed: dict[int, bytes] = {}
        self._total: npt.NDArray[np.int64] | None = None
        self._check_holder(sum.cohort)

    def messages(self) -> Mapping[str, bytes]:
        sum = self._sum
        if self._total is not None:
            return {}
        if self._step in (PREPARE, UPLOAD):
            return dict.fromkeys(self._alive, b"")
        if self._step == AGREE:
            text = position_bits(self._agreement.survivors, len(sum.cohort))
            return dict.fromkeys(self._alive, text)
        message = self._asks + self._agreement.to_bytes(sum)
        if self._asks == HAND_OVER:
            position = struct.pack(">I", self._keys.setup.at(self._holder))
            return dict.fromkeys(self._givers(), message + position)
        if self._asks == TAKE_OVER:
            message += position_bits(self._sealed, len(self._keys.setup.cohort))
            message += b"".join(self._sealed.values())
        return {self._holder: message + write_numbers(self._product, self._keys.public.width)}

    def reply_length(self) -> int:
        if self._step <= AGREE:
            upload = (self._packing.count + 1) * self._keys.public.width
            return (0, upload, SIGNATURE_BYTES)[self._step]
        return SEALED_BYTES if self._asks == HAND_OVER else 1 + self._packing.n_bytes

    def take(self, answers: Mapping[str, Answer]) -> None:
        length, asked = self.reply_length(), self.messages()
        told: dict[str, bytes] = {}
        for name in asked:  # sorted, as the cohort is
            if name in answers and len(answers[name]) == length:
                told[name] = bytes(answers[name])
            elif name in answers:
                self.failed[name] = "its answer has the wrong length"
        if self._step <= AGREE:
            (self._prepared, self._uploaded, self._signed)[self._step](told)
        elif self._asks == HAND_OVER:
            self._handed_over(told)
        else:
            self._opened(told)
        self._step += 1

    def total(self) -> npt.NDArray[np.int64]:
        if self._total is None:
            raise FederationError("the sum is not known yet")
        return self._total

    def _prepared(self, told: Mapping[str, bytes]) -> None:
        """Who is there."""
        self._keep(tuple(told))

    def _uploaded(self, told: Mapping[str, bytes]) -> None:
        """Add up, which is to multiply."""
        public, kept = self._keys.public, []
        square = public.square
        for name, answer in told.items():
            numbers = read_numbers(answer, public.width)
            if not public.is_ciphertext(numbers):
                self.failed[name] = "it sent what is no ciphertext"
                continue
            kept.append(name)
            if self._product:
                pairs = zip(self._product, numbers, strict=True)
                numbers = [product * number % square for product, number in pairs]
            self._product = numbers
        self._keep(tuple(kept))
        self.survivors = tuple(kept)
        self._agreement = Agreement(tuple(self._sum.at(name) for name in kept), {})

    def _signed(self, told: Mapping[str, bytes]) -> None:
        """Who agrees, and who is to open the sum."""
        sum, survivors = self._sum, self._agreement.survivors
        text, signatures = signed_text(sum, survivors), {}
        for name, signature in told.items():
            if verify(sum.keys[sum.at(name)], signature, text):
                signatures[sum.at(name)] = signature
            else:
                self.failed[name] = "its signature is not its own"
        if len(signatures) < quorum(len(sum.cohort)):
            raise self._too_few(len(signatures), quorum(len(sum.cohort)))
        self._agreement = Agreement(survivors, signatures)
        self._alive = tuple(sum.cohort[position] for position in signatures)
        self._ask_holder()

    def _opened(self, told: Mapping[str, bytes]) -> None:
        """The sum, or a holder that is gone."""
        answer = told.get(self._holder)
        if answer is None:
            self._tried.add(self._holder)
            self._alive = tuple(name for name in self._alive if name != self._holder)
            self._ask_holder()
            return
        if self._holder not in self._keys.known:
            self._keys.known.insert(0, self._holder)
        if answer[:1] != OPENED:
            raise FederationError(
                f"the key holder '{self._holder}' refuses to open sum {self._sum.number}",
                got="what is not the sum of what these clients sent, or too large",
                do="look at the clients' versions: one of them answers wrongly",
            )
        self._total = self._packing.read(answer[1:])
        self._product, self._sealed = [], {}

    def _handed_over(self, told: Mapping[str, bytes]) -> None:
        """Shares for the next holder."""
        setup = self._keys.setup
        self._alive = tuple(name for name in self._alive if name in told or name == self._holder)
        self._sealed = {setup.at(name): told[name] for name in self._givers() if name in told}
        if len(self._sealed) + 1 < (needed := quorum(len(self._keys.members))):
            raise self._too_few(len(self._sealed) + 1, needed)
        self._asks = TAKE_OVER

    def _ask_holder(self) -> None:
        """Turn to somebody who can open the sum."""
        self._check_holder(self._alive)
        able = [name for name in self._keys.known if name in self._alive]
        self._asks = OPEN if able else HAND_OVER
        self._holder = able[0] if able else self._successors(self._alive)[0]

    def _check_holder(self, there: tuple[str, ...]) -> None:
        """Make sure that, among those that are there, somebody can open the sum."""
        if any(name in self._keys.known for name in there):
            return
        needed, setup = quorum(len(self._keys.members)), self._keys.setup
        if not self._successors(there):
            first = ", ".join(f"'{setup.cohort[x]}'" for x in holders(self._keys.members))
            raise FederationError(
                f"nobody is left who may hold the key, which are {first}",
                do="begin a new session, with clients that stay",
            )
        first_holder = setup.cohort[self._keys.members[0]]
        if len([name for name in there if name != first_holder]) < needed:
            raise self._too_few(len(there), needed)

    def _successors(self, there: tuple[str, ...]) -> list[str]:
        """Who may take the key over."""
        cohort = self._keys.setup.cohort
        names = [cohort[position] for position in holders(self._keys.members)[1:]]
        return [name for name in names if name in there and name not in self._tried]

    def _givers(self) -> list[str]:
        """Who has a share of the key for the next holder."""
        first = self._keys.setup.cohort[self._keys.members[0]]
        return [name for name in self._alive if name not in (self._holder, first)]

    def _keep(self, names: tuple[str, ...]) -> None:
        """Go on with these clients, if they are enough."""
        if len(names) < self._sum.threshold:
            raise self._too_few(len(names), self._sum.threshold)
        self._alive = names

    def _too_few(self, n: int, needed: int) -> FederationError:
        """The error that too few clients are left."""
        return FederationError(
            f"too few clients are left for sum {self._sum.number}",
            got=f"{n} of {len(self._sum.cohort)}",
            do=f"at least {needed} must stay until it is known",
        )


def check_survivors(sum: Sum, survivors: tuple[int, ...]) -> None:
    """Make sure that enough clients are in a sum.

    Raises:
        FederationError: They are not.
    """
    if len(survivors) < max(sum.threshold, FEWEST):
        raise FederationError(
            "the server wants to open a sum of too few clients",
            got=f"{len(survivors)} of {len(sum.cohort)}",
            do=f"at least {sum.threshold} must be in it",
        )


def signed_text(sum: Sum, survivors: tuple[int, ...]) -> bytes:
    """What clients sign about who is in a sum."""
    bits = position_bits(survivors, len(sum.cohort))
    return b"genesis paillier survivors 1 " + sum.context + bits
