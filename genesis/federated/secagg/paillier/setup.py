"""What clients do once in a session: one of them makes the keys, and the others get what they need.

    step         who         the server sends              the client answers
    0 advertise  everybody   nothing                       its key for sealed messages, signed
    1 make       the holder  all adverts                   `Announcement`, and a box for each other
    2 learn      the others  adverts, announcement, a box  nothing

The key holder is the first client of the cohort. In a box, which only its receiver can open, are
the clients' key for check values and a share of the key that the secret one is encrypted with. When
the holder is gone, as many others as `quorum` can put it together.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from genesis.errors import FederationError
from genesis.federated.secagg import Answer, Ring, Sum, shamir
from genesis.federated.secagg.identity import Identity
from genesis.federated.secagg.paillier import mac
from genesis.federated.secagg.paillier.channels import (
    ADVERT_BYTES,
    NONCE,
    TAG_BYTES,
    Channels,
    check_advert,
)
from genesis.federated.secagg.paillier.keys import PublicKey, SecretKey
from genesis.federated.secagg.paillier.wire import Reader, position_bits

__all__ = [
    "Announcement",
    "ClientKeys",
    "ServerKeys",
    "SetupCollector",
    "SetupParty",
    "holders",
    "quorum",
]

ADVERTISE, MAKE, LEARN = range(3)

COMMITMENT_BYTES = 32
BOX_BYTES = mac.KEY_BYTES + shamir.SHARE_BYTES + TAG_BYTES


def quorum(n: int) -> int:
    """How many of n clients agree on who is in a sum, and put the secret key together.

    More than two thirds, so that two sets of them have more than a third of all in common. Of three
    clients it is two: a sum of three has only one set, and two of them know the third's vector.
    """
    return min(2 * n // 3 + 1, n - 1)


def holders(members: tuple[int, ...]) -> tuple[int, ...]:
    """Who may ever hold the secret key, in this order: as many as can be gone, and one more."""
    return members[: len(members) - quorum(len(members)) + 1]


@dataclass(frozen=True)
class Announcement:
    """What the key holder tells everybody, the server included.

    Args:
        public: The key to encrypt with.
        wrapped: The secret key, encrypted with the key that is shared.
        commitments: (32 bytes each) to the share of every member but the holder.
    """

    public: PublicKey
    wrapped: bytes
    commitments: tuple[bytes, ...]

    @staticmethod
    def n_bytes(n_members: int, key_bits: int) -> int:
        """As bytes."""
        return key_bits * 3 // 8 + key_bits // 16 + TAG_BYTES + COMMITMENT_BYTES * (n_members - 1)

    def to_bytes(self) -> bytes:
        """For the others."""
        return self.public.to_bytes() + self.wrapped + b"".join(self.commitments)

    @classmethod
    def read(cls, reader: Reader, n_members: int, key_bits: int) -> Announcement:
        """The inverse of `to_bytes`.

        Raises:
            FederationError: It is none.
        """
        public = PublicKey.from_bytes(reader.take(key_bits * 3 // 8), key_bits)
        wrapped = reader.take(key_bits // 16 + TAG_BYTES)
        commitments = [reader.take(COMMITMENT_BYTES) for _ in range(n_members - 1)]
        return cls(public, wrapped, tuple(commitments))


@dataclass
class ClientKeys:
    """What a client knows after the setup.

    Args:
        setup: The sum that it was about.
        position: The client's own, in its cohort.
        members: Positions of those that have keys; the first of them made them.
        channels: To the others.
        announcement: What the holder said.
        mac_key: (32 bytes) the clients' key for check values.
        share: Of the key that the secret key is wrapped with; the first holder has none.
        secret: The secret key, if this client holds it.
    """

    setup: Sum
    position: int
    members: tuple[int, ...]
    channels: Channels
    announcement: Announcement
    mac_key: bytes = field(repr=False)
    share: bytes | None = field(default=None, repr=False)
    secret: SecretKey | None = field(default=None, repr=False)

    def hand_over(self, context: bytes, receiver: int) -> bytes:
        """This client's share of the secret key, sealed to the next one that holds it.

        Args:
            context: (32 bytes) of the sum that it is for.
            receiver: Position of the next holder in the setup.

        Raises:
            FederationError: The receiver may not hold it, or this client has no share.
        """
        if receiver not in holders(self.members) or receiver == self.position or not self.share:
            raise FederationError(
                "the server wants a share of the secret key for a client that must not have it",
                do="do not go on",
            )
        return self.channels.seal(receiver, _share_purpose(context), self.share)

    def take_over(self, context: bytes, sealed: Mapping[int, bytes]) -> SecretKey:
        """Put the secret key together, of the others' shares and this client's own.

        Args:
            context: (32 bytes) of the sum that they were given for.
            sealed: What others sealed for this client, by their positions in the setup.

        Raises:
            FederationError: Too few of them are right.
        """
        shares = {self.position: self.share} if self.share else {}
        for sender, content in sealed.items():
            share = self.channels.open(sender, _share_purpose(context), content)
            if self.committed(sender, share):
                shares[sender] = share
        needed = quorum(len(self.members))
        if len(shares) < needed:
            raise FederationError(
                "too few shares are there to put the secret key together",
                got=f"{len(shares)} of {needed}",
            )
        key = shamir.join({x + 1: share for x, share in list(shares.items())[:needed]})
        try:
            prime = AESGCM(key).decrypt(NONCE, self.announcement.wrapped, self.setup.context)
        except InvalidTag as error:
            raise FederationError("the shares of the secret key do not give it back") from error
        return SecretKey.from_bytes(self.announcement.public, prime)

    def committed(self, position: int, share: bytes) -> bool:
        """Whether this is the share that the key holder gave to a member."""
        if position not in self.members[1:]:
            return False
        announced = self.announcement.commitments[self.members.index(position) - 1]
        return announced == _commitment(self.setup, position, share)


class SetupParty:
    """A client's end of the setup.

    Args:
        sum: Who takes part.
        position: The client's own.
        identity: What it signs with.
        key_bits: Of the key to make or to accept.
        done: Gets the keys.
    """

    def __init__(
        self,
        sum: Sum,
        position: int,
        identity: Identity,
        key_bits: int,
        done: Callable[[ClientKeys], None],
    ) -> None:
        self._sum, self._position, self._key_bits, self._done = sum, position, key_bits, done
        self._channels = Channels(sum, position, identity)
        self._next: tuple[int, ...] = (ADVERTISE,)

    def answer(self, step: int, message: bytes, values: Callable[[], Ring]) -> Answer:
        if step not in self._next:
            raise FederationError("a step of the setup was asked for twice, or out of order")
        self._next = (MAKE, LEARN) if step == ADVERTISE else ()
        reader = Reader(message)
        if step == ADVERTISE:
            reader.end()
            return self._channels.advert
        return self._make(reader) if step == MAKE else self._learn(reader)

    def _members(self, reader: Reader) -> tuple[tuple[int, ...], bytes]:
        """Who advertised, once that is checked, and all of it as it was told."""
        n = len(self._sum.cohort)
        members = reader.positions(n)
        adverts = {position: reader.take(ADVERT_BYTES) for position in members}
        if len(members) < self._sum.threshold:
            raise FederationError(
                "too few clients take part in the setup of secure aggregation",
                got=f"{len(members)} of {n}",
                do=f"at least {self._sum.threshold} must",
            )
        self._channels.meet(adverts)
        return members, _book(adverts, n)

    def _make(self, reader: Reader) -> bytes:
        """Make the keys, and boxes for the others."""
        members, book = self._members(reader)
        reader.end()
        if members[0] != self._position:
            raise FederationError("the server wants keys of a client that is not to make them")
        secret, mac_key = SecretKey.generate(self._key_bits), secrets.token_bytes(mac.KEY_BYTES)
        wrapping = secrets.token_bytes(shamir.SECRET_BYTES)
        wrapped = AESGCM(wrapping).encrypt(NONCE, secret.to_bytes(), self._sum.context)
        others = members[1:]
        split = shamir.split(wrapping, quorum(len(members)), [other + 1 for other in others])
        shares = dict(zip(others, split, strict=True))
        commitments = [_commitment(self._sum, other, share) for other, share in shares.items()]
        announcement = Announcement(secret.public, wrapped, tuple(commitments))
        purpose = _box_purpose(book, announcement)
        boxes = [
            self._channels.seal(other, purpose, mac_key + share) for other, share in shares.items()
        ]
        self._done(
            ClientKeys(
                self._sum,
                self._position,
                members,
                self._channels,
                announcement,
                mac_key,
                secret=secret,
            )
        )
        return announcement.to_bytes() + b"".join(boxes)

    def _learn(self, reader: Reader) -> bytes:
        """Take in what the key holder made."""
        members, book = self._members(reader)
        announcement = Announcement.read(reader, len(members), self._key_bits)
        box = reader.take(BOX_BYTES)
        reader.end()
        content = self._channels.open(members[0], _box_purpose(book, announcement), box)
        keys = ClientKeys(
            self._sum,
            self._position,
            members,
            self._channels,
            announcement,
            content[: mac.KEY_BYTES],
            share=(share := content[mac.KEY_BYTES :]),
        )
        if not keys.committed(self._position, share):
            raise FederationError("the key holder committed to another share than it gave")
        self._done(keys)
        return b""


@dataclass
class ServerKeys:
    """What the server knows after the setup.

    Args:
        setup: The sum that it was about.
        members: Positions of those that were told of the keys.
        survivors: Ids of those that have them.
        public: The key to add up with.
        known: Ids of those that hold the secret key, the newest first.
    """

    setup: Sum
    members: tuple[int, ...]
    survivors: tuple[str, ...]
    public: PublicKey
    known: list[str]


class SetupCollector:
    """The server's end of the setup.

    Args:
        sum: Who takes part.
        key_bits: Of the key to make.
        done: Gets the keys.
    """

    def __init__(self, sum: Sum, key_bits: int, done: Callable[[ServerKeys], None]) -> None:
        self._sum, self._key_bits, self._done = sum, key_bits, done
        self.failed: dict[str, str] = {}
        self.survivors: tuple[str, ...] = ()
        self._step = ADVERTISE
        self._adverts: dict[int, bytes] = {}
        self._announcement = b""
        self._boxes: dict[str, bytes] = {}

    @property
    def _members(self) -> tuple[int, ...]:
        """Positions of those that advertised."""
        return tuple(self._adverts)

    def messages(self) -> Mapping[str, bytes]:
        cohort = self._sum.cohort
        if self._step == ADVERTISE:
            return dict.fromkeys(cohort, b"")
        book = _book(self._adverts, len(cohort))
        if self._step == MAKE:
            return {cohort[self._members[0]]: book}
        return {name: book + self._announcement + box for name, box in self._boxes.items()}

    def reply_length(self) -> int:
        if self._step == MAKE:
            n = len(self._members)
            return Announcement.n_bytes(n, self._key_bits) + BOX_BYTES * (n - 1)
        return ADVERT_BYTES if self._step == ADVERTISE else 0

    def take(self, answers: Mapping[str, Answer]) -> None:
        told = {name: bytes(answer) for name, answer in answers.items()}
        for name in [name for name, answer in told.items() if len(answer) != self.reply_length()]:
            self.failed[name] = "its answer has the wrong length"
            del told[name]
        (self._met, self._made, self._learnt)[self._step](told)
        self._step += 1

    def total(self) -> npt.NDArray[np.int64]:
        """Nothing: a setup adds up nothing."""
        return np.zeros(0, dtype=np.int64)

    def _met(self, told: Mapping[str, bytes]) -> None:
        """Everybody's adverts."""
        for position, name in enumerate(self._sum.cohort):
            if name not in told:
                continue
            if check_advert(self._sum, position, told[name]):
                self._adverts[position] = told[name]
            else:
                self.failed[name] = "its key for the session bears no signature of it"
        self._require(len(self._adverts))

    def _made(self, told: Mapping[str, bytes]) -> None:
        """The holder's keys, and a box for each other."""
        members = self._members
        holder = self._sum.cohort[members[0]]
        if holder not in told:
            raise FederationError(
                f"client '{holder}', which was to hold the key, dropped out while it made it",
                do="begin again, without it if it stays away",
            )
        reader = Reader(told[holder])
        self._announcement = reader.take(Announcement.n_bytes(len(members), self._key_bits))
        others = [self._sum.cohort[position] for position in members[1:]]
        self._boxes = {name: reader.take(BOX_BYTES) for name in others}

    def _learnt(self, told: Mapping[str, bytes]) -> None:
        """The others have their keys."""
        members = self._members
        announced = Announcement.read(Reader(self._announcement), len(members), self._key_bits)
        holder = self._sum.cohort[members[0]]
        survivors = (holder, *(name for name in self._boxes if name in told))
        self._require(len(survivors))
        self._boxes.clear()
        self.survivors = survivors
        self._done(ServerKeys(self._sum, members, survivors, announced.public, [holder]))

    def _require(self, n: int) -> None:
        """Make sure that enough clients are left."""
        if n < self._sum.threshold:
            raise FederationError(
                "too few clients are left to set up secure aggregation",
                got=f"{n} of {len(self._sum.cohort)}",
                do=f"at least {self._sum.threshold} must answer",
            )


def _book(adverts: Mapping[int, bytes], n: int) -> bytes:
    """Everybody's adverts as all are told."""
    return position_bits(adverts, n) + b"".join(adverts.values())


def _box_purpose(book: bytes, announcement: Announcement) -> bytes:
    """What a box is bound to: all that goes with it, so that everybody has the same."""
    return b"keys" + hashlib.sha256(book + announcement.to_bytes()).digest()


def _share_purpose(context: bytes) -> bytes:
    """What a share that is handed over is bound to."""
    return b"share" + context


def _commitment(sum: Sum, position: int, share: bytes) -> bytes:
    """That a share is as the holder made it. A share is random, so nothing is told of it."""
    place = struct.pack(">I", position)
    return hashlib.sha256(b"genesis paillier share 1 " + sum.context + place + share).digest()
