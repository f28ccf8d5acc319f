"""What clients tell each other through the server, without it: X25519 (RFC 7748) and AES-GCM.

Each makes a key for the session and signs it with the one that the others know. Both ends of a pair
derive from these a key for every message, so that a message can be read by nobody else, comes from
nobody else, and is nothing in another place: a nonce is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from genesis.errors import FederationError
from genesis.federated.secagg import Sum
from genesis.federated.secagg.identity import Identity, verify

__all__ = ["ADVERT_BYTES", "NONCE", "TAG_BYTES", "Channels", "check_advert"]

KEY_BYTES = 32
ADVERT_BYTES = KEY_BYTES + 64  # and its signature
TAG_BYTES = 16
NONCE = bytes(12)  # a key is used once, so its nonce may be the same


def check_advert(sum: Sum, position: int, advert: bytes) -> bool:
    """Whether the client at a position of the setup made this advert."""
    key, signature = advert[:KEY_BYTES], advert[KEY_BYTES:]
    return verify(sum.keys[position], signature, _signed(sum, position, key))


class Channels:
    """One client's channels to the others.

    Args:
        sum: The setup, whose cohort they are.
        position: The client's own.
        identity: What it signs with.
    """

    def __init__(self, sum: Sum, position: int, identity: Identity) -> None:
        self._sum, self._position = sum, position
        self._key = X25519PrivateKey.generate()
        public = self._key.public_key().public_bytes_raw()
        self.advert = public + identity.sign(_signed(sum, position, public))
        self._others: Mapping[int, bytes] = {}

    def meet(self, adverts: Mapping[int, bytes]) -> None:
        """Take in everybody's adverts.

        Raises:
            FederationError: One was not made by its client for this session, or its own is not as
                it was.
        """
        for position, advert in adverts.items():
            if not check_advert(self._sum, position, advert):
                raise FederationError(
                    f"the key of client '{self._sum.cohort[position]}' for this session bears no "
                    "signature of it",
                    do="do not go on: somebody may be between",
                )
        if adverts.get(self._position) != self.advert:
            raise FederationError(
                "the server tells others another key of this client than it has",
                do="do not go on: somebody may be between",
            )
        self._others = {position: advert[:KEY_BYTES] for position, advert in adverts.items()}

    def seal(self, receiver: int, purpose: bytes, content: bytes) -> bytes:
        """A message to another client; for each receiver and purpose there can be one."""
        return self._cipher(receiver, self._position, receiver, purpose).encrypt(
            NONCE, content, None
        )

    def open(self, sender: int, purpose: bytes, sealed: bytes) -> bytes:
        """A message from another client.

        Raises:
            FederationError: It was changed, or meant for something else.
        """
        try:
            cipher = self._cipher(sender, sender, self._position, purpose)
            return cipher.decrypt(NONCE, sealed, None)
        except InvalidTag as error:
            raise FederationError(
                f"what client '{self._sum.cohort[sender]}' sealed for this one was changed on its "
                "way",
                do="do not go on: somebody may be between",
            ) from error

    def _cipher(self, other: int, sender: int, receiver: int, purpose: bytes) -> AESGCM:
        """What both ends derive for one message."""
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(self._others[other]))
        except (KeyError, ValueError) as error:  # a key of low order has nothing in common
            raise FederationError(
                f"client '{self._sum.cohort[other]}' has no key in this session"
            ) from error
        place = struct.pack(">II", sender, receiver)
        info = b"genesis paillier channel 1 " + self._sum.context + place + purpose
        return AESGCM(HKDF(hashes.SHA256(), 32, None, info).derive(shared))


def _signed(sum: Sum, position: int, key: bytes) -> bytes:
    """What a client signs about its key."""
    place = struct.pack(">I", position)
    return b"genesis paillier advert 1 " + sum.context + place + key
