"""Masks that cancel in the sum: Bonawitz et al. 2017, "Practical Secure Aggregation", figure 4.

Every two clients agree on a mask, which one of them adds and the other subtracts, and each adds one
of its own. What it uploads is uniform to anybody who lacks one of its masks::

    y_k = x_k + PRG(b_k) + Σ_{j>k} PRG(s_kj) - Σ_{j<k} PRG(s_kj)      modulo 2^bits

Masks of pairs are gone from Σ y_k, if all are there. The seed b_k, and the key of which all s_kj
can be computed, are shared among the clients as `shamir` does. They reveal b_k of a client whose
vector is in the sum, and the key of one that dropped out after the others had added its masks;
never both of one client, because with both the server would know x_k.

    step         the server sends            a client answers
    0 advertise  nothing                     two fresh keys, signed: for sealing, and for masks
    1 share      the keys of all             a commitment to b_k, and sealed shares for the others
    2 upload     the shares sealed to it     y_k
    3 agree      who uploaded                its signature of that
    4 unmask     the signatures              one share of each client that shared

The paper's variant against a server that does what it likes: it can't swap keys, because they are
signed by the keys of `Sum`, and can't tell two stories of who survived, because each client signs
one of them and reveals nothing before `Sum.threshold` of them have signed the same. Together with
fewer than 2·threshold - n of the n clients, about a third, it learns the sum of the others' vectors
and nothing else. A client that lies can spoil a sum, but not read more of it. All keys are bound to
`Sum.context`, so what is true of another sum is worth nothing in this one.

Messages are rows of fixed width, of the clients that have one: see `_pack`. With n clients they are
about 0.4 kB · n per client and sum, beside the vector itself.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from genesis.errors import FederationError
from genesis.federated.secagg import Answer, Ring, Sum, shamir
from genesis.federated.secagg.identity import Identity, verify

__all__ = ["REVEAL", "UPLOAD", "ClientSide", "MaskingCollector", "MaskingParty", "ServerSide"]

UPLOAD = 2
REVEAL = 4

KEY, SIGNATURE, TAG = 32, 64, 16
ADVERT = 2 * KEY + SIGNATURE
SHARES = 2 * shamir.SHARE_BYTES
SEALED = SHARES + TAG
COMMITMENT = 32
"""Bytes of what there is in messages."""

CHUNK = 2**18
"""Bytes of a mask at a time: it stays in the cache between being made and being added."""

THREADS = min(4, os.cpu_count() or 1)


class ServerSide:
    """Makes collectors."""

    def setup(self, sum: Sum) -> None:
        """Nothing: every sum has its own keys."""

    def collector(self, sum: Sum) -> MaskingCollector:
        return MaskingCollector(sum)


class ClientSide:
    """Makes parties, one for each number of a sum.

    Args:
        client_id: In the cohort of every sum.
        identity: Whose public key stands there.
    """

    def __init__(self, client_id: str, identity: Identity) -> None:
        self._client_id, self._identity = client_id, identity
        self._session: str | None = None
        self._number = -1

    def setup(self, sum: Sum) -> None:
        """Nothing: every sum has its own keys."""

    def party(self, sum: Sum) -> MaskingParty:
        """For one sum, of a higher number than those before and in the same session.

        Raises:
            FederationError: It is not, or the sum has another key for this client. Two sums of the
                same vectors, over two sets of clients, would tell of the one in which they differ.
        """
        if sum.session != (self._session or sum.session):
            raise FederationError("the server changed sessions between two secure sums")
        if sum.number <= self._number:
            raise FederationError(
                "the server asked for the same secure sum twice",
                got=f"sum {sum.number} after sum {self._number}",
                do="begin it again, with a new number",
            )
        position = sum.at(self._client_id)
        if sum.keys[position] != self._identity.public:
            raise FederationError(
                f"the server has another key for client '{self._client_id}'",
                do="give everybody the same roster of keys",
            )
        self._session, self._number = sum.session, sum.number
        return MaskingParty(sum, position, self._identity)

    def resumed(self, sum: Sum, values: Mapping[str, Any]) -> MaskingParty:
        """A party that another process began, and that goes on here: from `MaskingParty.to_dict`.

        Raises:
            FederationError: It can't be a party of this sum.
        """
        party = self.party(sum)
        party.restore(values)
        return party


class MaskingParty:
    """A client's end of one sum."""

    def __init__(self, sum: Sum, position: int, identity: Identity) -> None:
        self._sum, self._me, self._identity = sum, position, identity
        self._step = 0
        self._sealing_key = X25519PrivateKey.generate()
        self._mask_key = X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(KEY)
        self._adverts: dict[int, bytes] = {}
        self._secrets: dict[int, bytes] = {}  # shared with each other client, for sealing
        self._shares: dict[int, bytes] = {}  # of each client that shared: of its key and its seed
        self._survivors: tuple[int, ...] = ()

    def answer(self, step: int, message: bytes, values: Callable[[], Ring]) -> Answer:
        steps = (self._advertise, self._share, self._upload, self._agree, self._unmask)
        if step != self._step or step >= len(steps):
            raise FederationError(
                "the server asked for the steps of a secure sum out of order",
                got=f"step {step}",
                do="begin the sum again, with a new number",
            )
        self._step = len(steps)  # a step that fails is the last
        answer = steps[step](message, values)
        self._step = step + 1
        return answer

    def _advertise(self, message: bytes, values: Callable[[], Ring]) -> bytes:
        """The public keys and a signature."""
        keys = _public(self._sealing_key) + _public(self._mask_key)
        signature = self._identity.sign(_bound(self._sum, b"advert", self._me) + keys)
        self._adverts[self._me] = keys + signature
        return self._adverts[self._me]

    def _share(self, message: bytes, values: Callable[[], Ring]) -> bytes:
        """A commitment to the seed; for each other client, in order, what only it can open."""
        adverts = _unpack(self._sum, message, ADVERT)
        _check_enough(self._sum, adverts)
        if adverts.get(self._me) != self._adverts[self._me]:
            raise FederationError("the server changed the keys of this client")
        for position, advert in adverts.items():
            if not _signed_advert(self._sum, position, advert):
                raise FederationError(
                    f"{self._name(position)} did not sign its keys for this sum",
                    do="compare the rosters of keys; if they agree, the server changed something",
                )
        if twice := _with_keys_of_others(adverts):
            raise FederationError(f"{self._name(min(twice))} has the keys of another client")

        key, n = self._mask_key.private_bytes_raw(), self._sum.threshold
        points = [position + 1 for position in adverts]
        pairs = zip(shamir.split(key, n, points), shamir.split(self._seed, n, points), strict=True)
        shares = dict(zip(adverts, (of_key + of_seed for of_key, of_seed in pairs), strict=True))
        self._adverts, self._shares[self._me] = adverts, shares.pop(self._me)
        sealed = []
        for position, pair in shares.items():
            secret = _exchange(self._sealing_key, _keys(adverts[position])[0])
            self._secrets[position] = secret
            sealed.append(_seal(self._sum, secret, self._me, position, pair))
        return _commitment(self._sum, self._me, self._seed) + b"".join(sealed)

    def _upload(self, message: bytes, values: Callable[[], Ring]) -> memoryview:
        """The masked vector."""
        for position, sealed in _unpack(self._sum, message, SEALED).items():
            if position not in self._secrets:
                raise FederationError(f"{self._name(position)} shared, but had no keys")
            opened = _open(self._sum, self._secrets[position], position, self._me, sealed)
            if opened is None:
                raise FederationError(f"the shares from {self._name(position)} can't be opened")
            self._shares[position] = opened
        _check_enough(self._sum, self._shares)

        masks = [(_self_mask(self._sum, self._me, self._seed), 1)]
        for position in self._shares.keys() - {self._me}:
            secret = _exchange(self._mask_key, _keys(self._adverts[position])[1])
            masks.append(_pair_mask(self._sum, self._me, position, secret))
        vector = values()
        if vector.dtype != self._sum.dtype or vector.shape != (self._sum.length,):
            raise FederationError(
                "a vector is not what the sum is of", got=f"{vector.dtype} {vector.shape}"
            )
        masked = vector.copy()
        add_masks(masked, masks)
        return _to_wire(masked, self._sum.bits)

    def _agree(self, message: bytes, values: Callable[[], Ring]) -> bytes:
        """A signature of who survived."""
        survivors = _unpack(self._sum, message, 0)
        _check_enough(self._sum, survivors)
        if not survivors.keys() <= self._shares.keys():
            raise FederationError("a client is to be in the sum that was not when it was masked")
        if self._me not in survivors:
            raise FederationError("the server dropped this client, and asks it nevertheless")
        self._survivors = tuple(survivors)
        return self._identity.sign(_survivors_text(self._sum, self._survivors))

    def _unmask(self, message: bytes, values: Callable[[], Ring]) -> bytes:
        """One share of each client that shared: of a survivor's seed, or of another's key."""
        signatures = _unpack(self._sum, message, SIGNATURE)
        _check_enough(self._sum, signatures)
        if not signatures.keys() <= set(self._survivors):
            raise FederationError("a client agreed on the sum that is not in it")
        for position, signature in signatures.items():
            if not _signed_survivors(self._sum, position, self._survivors, signature):
                raise FederationError(
                    f"{self._name(position)} did not sign the same clients as this one",
                    do="do not trust the server: it may have told them different things",
                )
        revealed = []
        for position in sorted(self._shares):
            of_key, of_seed = _halves(self._shares[position])
            revealed.append(of_seed if position in self._survivors else of_key)
        return b"".join(revealed)

    def to_dict(self) -> dict[str, Any]:
        """What its further steps need, as JSON values, so that another process can go on with them.

        Whoever has it from before the upload can read the vector in what is uploaded. What is left
        after the upload are this client's shares, which alone say nothing.
        """
        values: dict[str, Any] = {
            "step": self._step,
            "survivors": list(self._survivors),
            "shares": _to_hex(self._shares),
        }
        if self._step <= UPLOAD:
            values |= {
                "sealing_key": self._sealing_key.private_bytes_raw().hex(),
                "mask_key": self._mask_key.private_bytes_raw().hex(),
                "seed": self._seed.hex(),
                "adverts": _to_hex(self._adverts),
                "secrets": _to_hex(self._secrets),
            }
        return values

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from `to_dict`. The other process must not: it would take a step twice."""
        self._step = int(values["step"])
        self._survivors = tuple(values["survivors"])
        self._shares = _of_hex(values["shares"])
        if self._step <= UPLOAD:
            sealing, mask = (bytes.fromhex(values[name]) for name in ("sealing_key", "mask_key"))
            self._sealing_key = X25519PrivateKey.from_private_bytes(sealing)
            self._mask_key = X25519PrivateKey.from_private_bytes(mask)
            self._seed = bytes.fromhex(values["seed"])
            self._adverts = _of_hex(values["adverts"])
            self._secrets = _of_hex(values["secrets"])

    def _name(self, position: int) -> str:
        """How a client is called in errors."""
        return f"client '{self._sum.cohort[position]}'"


class MaskingCollector:
    """The server's end of one sum."""

    def __init__(self, sum: Sum) -> None:
        self._sum = sum
        self._failed: dict[str, str] = {}
        self.failed: Mapping[str, str] = self._failed
        self.survivors: tuple[str, ...] = ()

        self._step = 0
        self._messages: Mapping[int, bytes] = dict.fromkeys(range(len(sum.cohort)), b"")
        self._reply_length = ADVERT
        self._adverts: dict[int, bytes] = {}
        self._commitments: dict[int, bytes] = {}
        self._there: tuple[int, ...] = ()  # positions of survivors
        self._vector: Ring = np.zeros(0, np.uint32)
        self._known = False

    def messages(self) -> Mapping[str, bytes]:
        return {self._sum.cohort[at]: message for at, message in self._messages.items()}

    def reply_length(self) -> int:
        return self._reply_length

    def take(self, answers: Mapping[str, Answer]) -> None:
        good: dict[int, Answer] = {}
        for position in self._messages:
            answer = answers.get(self._sum.cohort[position])
            if answer is None:
                continue
            if len(answer) != self._reply_length:
                self._fail(position, f"answered {len(answer)} bytes for {self._reply_length}")
                continue
            good[position] = answer
        steps = (self._adverts_in, self._shares_in, self._vectors_in, self._signed, self._revealed)
        self._messages, step = {}, steps[self._step]
        step(good)
        self._step += 1

    def total(self) -> npt.NDArray[np.int64]:
        if not self._known:
            raise FederationError("the sum is not known yet")
        signed = self._vector.view(f"i{self._vector.itemsize}")
        above = 8 * signed.itemsize - self._sum.bits  # bits above the number's, of no meaning
        total: npt.NDArray[np.int64] = (signed << above >> above).astype(np.int64)
        return total

    def _adverts_in(self, answers: Mapping[int, Answer]) -> None:
        """Step 0: keep the keys that are good, and send all to all."""
        for position, answer in answers.items():
            advert = bytes(answer)
            if not _signed_advert(self._sum, position, advert):
                self._fail(position, "did not sign its keys for this sum, or by another key")
                continue
            if not _usable(advert):
                self._fail(position, "has keys that hide nothing")
                continue
            self._adverts[position] = advert
        for position in _with_keys_of_others(self._adverts):
            self._fail(position, "has the keys of another client")
            del self._adverts[position]
        _check_enough(self._sum, self._adverts)
        self._messages = dict.fromkeys(self._adverts, _pack(self._sum, self._adverts))
        self._reply_length = COMMITMENT + SEALED * (len(self._adverts) - 1)

    def _shares_in(self, answers: Mapping[int, Answer]) -> None:
        """Step 1: send each client what the others sealed for it."""
        _check_enough(self._sum, answers)
        inboxes: dict[int, dict[int, bytes]] = {position: {} for position in answers}
        for sender, answer in answers.items():
            self._commitments[sender] = bytes(answer[:COMMITMENT])
            receivers = [position for position in self._adverts if position != sender]
            for k, receiver in enumerate(receivers):
                if receiver in inboxes:  # the others dropped out
                    begin = COMMITMENT + SEALED * k
                    inboxes[receiver][sender] = bytes(answer[begin : begin + SEALED])
        self._messages = {position: _pack(self._sum, inbox) for position, inbox in inboxes.items()}
        self._reply_length = self._sum.length * self._sum.bits // 8

    def _vectors_in(self, answers: Mapping[int, Answer]) -> None:
        """Step 2: add up what came."""
        _check_enough(self._sum, answers)
        self._vector = cast(Ring, np.zeros(self._sum.length, self._sum.dtype))
        bits = self._sum.bits

        def add(part: Ring, begin: int) -> None:
            for answer in answers.values():
                _add_wire(part, memoryview(answer)[begin * bits // 8 :], bits)

        _in_parts(self._vector, add)
        self._there = tuple(answers)
        self.survivors = tuple(self._sum.cohort[position] for position in self._there)
        message = _pack(self._sum, dict.fromkeys(self._there, b""))
        self._messages = dict.fromkeys(self._there, message)
        self._reply_length = SIGNATURE

    def _signed(self, answers: Mapping[int, Answer]) -> None:
        """Step 3: show everybody that enough agree."""
        signatures: dict[int, bytes] = {}
        for position, answer in answers.items():
            if not _signed_survivors(self._sum, position, self._there, bytes(answer)):
                self._fail(position, "did not sign who is in the sum")
                continue
            signatures[position] = bytes(answer)
        _check_enough(self._sum, signatures)
        enough = dict(islice(signatures.items(), self._sum.threshold))
        self._messages = dict.fromkeys(signatures, _pack(self._sum, enough))
        self._reply_length = shamir.SHARE_BYTES * len(self._commitments)

    def _revealed(self, answers: Mapping[int, Answer]) -> None:
        """Step 4: remove the masks that have not cancelled."""
        _check_enough(self._sum, answers)
        masks = []
        for k, position in enumerate(self._commitments):
            row = slice(shamir.SHARE_BYTES * k, shamir.SHARE_BYTES * (k + 1))
            shares = {at + 1: bytes(answer[row]) for at, answer in answers.items()}
            if position in self._there:
                seed = self._joined(shares, position, self._is_seed)
                masks.append((_self_mask(self._sum, position, seed), -1))
                continue
            key = X25519PrivateKey.from_private_bytes(self._joined(shares, position, self._is_key))
            for survivor in self._there:
                secret = _exchange(key, _keys(self._adverts[survivor])[1])
                # What the survivor added with one sign, the client that is gone has with the other.
                masks.append(_pair_mask(self._sum, position, survivor, secret))
        add_masks(self._vector, masks)
        self._known = True
        self._reply_length = 0

    def _joined(
        self, shares: Mapping[int, bytes], position: int, right: Callable[[int, bytes], bool]
    ) -> bytes:
        """A secret of a client; if a share of it is wrong, and there are more, without that one."""
        points, n = list(shares), self._sum.threshold
        for first in range(len(points) if len(points) > n else 1):
            chosen = (points + points)[first : first + n]
            try:
                secret = shamir.join({x: shares[x] for x in chosen})
            except FederationError:
                continue
            if right(position, secret):
                return secret
        raise FederationError(
            f"the masks of client '{self._sum.cohort[position]}' can't be removed from the sum",
            got="shares of them that do not fit together",
            do="play the round again; if it fails again, without this client",
        )

    def _is_seed(self, position: int, secret: bytes) -> bool:
        """Whether it is what the client committed itself to."""
        return _commitment(self._sum, position, secret) == self._commitments[position]

    def _is_key(self, position: int, secret: bytes) -> bool:
        """Whether it is the key of which the client advertised the public half."""
        public = _public(X25519PrivateKey.from_private_bytes(secret))
        return public == _keys(self._adverts[position])[1]

    def _fail(self, position: int, reason: str) -> None:
        """Go on without a client that answered nonsense."""
        self._failed[self._sum.cohort[position]] = reason


# --- messages ---


def _pack(sum: Sum, rows: Mapping[int, bytes]) -> bytes:
    """A byte for each client that says whether it has a row, 1 or 0; then the rows in order."""
    has = bytes(position in rows for position in range(len(sum.cohort)))
    return has + b"".join(rows[position] for position in sorted(rows))


def _unpack(sum: Sum, message: bytes, width: int) -> dict[int, bytes]:
    """Rows of a width, by their clients' positions in order."""
    n = len(sum.cohort)
    has = message[:n]
    there = [position for position, byte in enumerate(has) if byte]
    if len(message) != n + width * len(there) or set(has) - {0, 1}:
        raise FederationError(
            "a message of the server makes no sense",
            got=f"{len(message)} bytes",
            do="give server and clients the same version",
        )
    rows = (message[n + width * k : n + width * (k + 1)] for k in range(len(there)))
    return dict(zip(there, rows, strict=True))


def _to_hex(rows: Mapping[int, bytes]) -> dict[str, str]:
    """Rows of bytes as JSON values."""
    return {str(position): row.hex() for position, row in rows.items()}


def _of_hex(rows: Mapping[str, str]) -> dict[int, bytes]:
    """The inverse."""
    return {int(position): bytes.fromhex(row) for position, row in rows.items()}


def _check_enough(sum: Sum, who: Collection[int]) -> None:
    """Make sure that no fewer than the threshold take part."""
    if len(who) < sum.threshold:
        raise FederationError(
            "too few clients are left in a secure sum",
            got=f"{len(who)} of {len(sum.cohort)} where {sum.threshold} are needed",
            do="see why the others dropped out",
        )


def _to_wire(vector: Ring, bits: int) -> memoryview:
    """The lower `bits` of each number, little-endian."""
    little = vector.astype(vector.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    if bits == 24:
        whole = little.reshape(-1, 4)
        little = np.empty((len(vector), 3), np.uint8)
        for k in range(3):  # four times as fast as all at once
            little[:, k] = whole[:, k]
    return little.reshape(-1).data


def _add_wire(vector: Ring, answer: memoryview, bits: int) -> None:
    """Add the first of what `_to_wire` gave. Above 24 bits a number may then hold anything."""
    little, n = vector.dtype.newbyteorder("<"), len(vector)
    if bits == 24:
        # Every third byte begins a number; the fourth one read is the next number's.
        vector[:-1] += np.ndarray(n - 1, little, answer, strides=(3,))
        vector[-1:] += int.from_bytes(answer[3 * n - 3 : 3 * n], "little")
    else:
        vector += np.frombuffer(answer, little, n)


# --- keys ---


def _bound(sum: Sum, label: bytes, *positions: int) -> bytes:
    """What a key or a signature is for: in which sum, and of which clients."""
    whose = struct.pack(f">{len(positions)}I", *positions)
    return b"genesis masking 1 " + label + b"\0" + sum.context + whose


def _derived(secret: bytes, info: bytes) -> bytes:
    """A key of 32 bytes: HKDF-SHA256 (RFC 5869)."""
    return HKDF(SHA256(), KEY, None, info).derive(secret)


def _public(key: X25519PrivateKey) -> bytes:
    """The public half of a key."""
    return key.public_key().public_bytes_raw()


def _exchange(key: X25519PrivateKey, public: bytes) -> bytes:
    """The secret of two keys: X25519 (RFC 7748). A few public keys have none with anybody."""
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise FederationError("a client has a key that hides nothing") from error


def _keys(advert: bytes) -> tuple[bytes, bytes]:
    """The public keys of an advert: for sealing, and for masks."""
    return advert[:KEY], advert[KEY : 2 * KEY]


def _halves(shares: bytes) -> tuple[bytes, bytes]:
    """The two shares of a client's secrets: of its mask key, and of its seed."""
    return shares[: shamir.SHARE_BYTES], shares[shamir.SHARE_BYTES :]


def _usable(advert: bytes) -> bool:
    """Whether the keys of an advert have secrets with others."""
    probe = X25519PrivateKey.generate()
    try:
        for public in _keys(advert):
            _exchange(probe, public)
    except FederationError:
        return False
    return True


def _with_keys_of_others(adverts: Mapping[int, bytes]) -> set[int]:
    """The clients that have a key which is there twice. Whoever has it too is not known."""
    owners: dict[bytes, list[int]] = {}
    for position, advert in adverts.items():
        for key in _keys(advert):
            owners.setdefault(key, []).append(position)
    return {position for each in owners.values() if len(each) > 1 for position in each}


def _signed_advert(sum: Sum, position: int, advert: bytes) -> bool:
    """Whether a client itself says that these are its keys in this sum."""
    keys, signature = advert[: 2 * KEY], advert[2 * KEY :]
    return verify(sum.keys[position], signature, _bound(sum, b"advert", position) + keys)


def _survivors_text(sum: Sum, survivors: Iterable[int]) -> bytes:
    """What clients sign of who survived."""
    return _bound(sum, b"survivors") + _pack(sum, dict.fromkeys(survivors, b""))


def _signed_survivors(sum: Sum, position: int, survivors: Iterable[int], signature: bytes) -> bool:
    """Whether a client says so too."""
    return verify(sum.keys[position], signature, _survivors_text(sum, survivors))


def _seal(sum: Sum, secret: bytes, sender: int, receiver: int, shares: bytes) -> bytes:
    """AES-256-GCM. A key has one direction and one message, so its nonce may be the same."""
    key = _derived(secret, _bound(sum, b"seal", sender, receiver))
    return AESGCM(key).encrypt(bytes(12), shares, None)


def _open(sum: Sum, secret: bytes, sender: int, receiver: int, sealed: bytes) -> bytes | None:
    """What `_seal` sealed; None if it is something else."""
    key = _derived(secret, _bound(sum, b"seal", sender, receiver))
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, None)
    except InvalidTag:
        return None


def _commitment(sum: Sum, position: int, seed: bytes) -> bytes:
    """What a seed can be recognised by, and nothing can be learnt of it from."""
    return _derived(seed, _bound(sum, b"commitment", position))


# --- masks ---


def _self_mask(sum: Sum, position: int, seed: bytes) -> bytes:
    """The key of a client's own mask."""
    return _derived(seed, _bound(sum, b"self", position))


def _pair_mask(sum: Sum, mine: int, other: int, secret: bytes) -> tuple[bytes, int]:
    """The key of the mask of two clients, and the sign with which the first one adds it."""
    key = _derived(secret, _bound(sum, b"pair", min(mine, other), max(mine, other)))
    return key, 1 if mine < other else -1


def add_masks(vector: Ring, masks: Sequence[tuple[bytes, int]]) -> None:
    """vector += Σ sign · PRG(key), in place, where PRG is AES-256 in counter mode.

    Args:
        vector: (length,)
        masks: Keys of 32 bytes that are used nowhere else, and signs 1 or -1.
    """
    _in_parts(vector, lambda part, begin: _add_masks(part, masks, begin * vector.itemsize))


def _in_parts(vector: Ring, work: Callable[[Ring, int], None]) -> None:
    """Work on parts of a vector, each with the place where it begins, on several threads.

    Parts of the vector, not of what is added to it: threads then share nothing.
    """
    chunk = CHUNK // vector.itemsize
    chunks = -(-len(vector) // chunk)
    parts = min(THREADS, chunks)
    bounds = [*(chunk * (chunks * k // parts) for k in range(parts)), len(vector)]
    if parts == 1:
        work(vector, 0)
        return
    with ThreadPoolExecutor(parts) as pool:
        done = pool.map(lambda ends: work(vector[slice(*ends)], ends[0]), pairwise(bounds))
        list(done)  # an error of a thread comes up here


def _add_masks(part: Ring, masks: Sequence[tuple[bytes, int]], offset: int) -> None:
    """The same for a part that begins `offset` bytes, a multiple of 16, after the vector."""
    counter = modes.CTR((offset // 16).to_bytes(16, "big"))
    streams = [
        (Cipher(algorithms.AES(key), counter).encryptor(), np.add if sign > 0 else np.subtract)
        for key, sign in masks
    ]
    size = min(CHUNK, part.nbytes)
    zeros, stream = memoryview(bytes(size)), bytearray(size + 15)
    numbers = np.frombuffer(stream, part.dtype.newbyteorder("<"), size // part.itemsize)
    for begin in range(0, len(part), len(numbers)):
        some = part[begin : begin + len(numbers)]
        for encryptor, add in streams:
            encryptor.update_into(zeros[: some.nbytes], stream)
            add(some, numbers[: len(some)], out=some)
