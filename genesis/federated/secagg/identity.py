"""Who a client is to the others: a key that signs, and a roster of everybody's keys.

What clients say to each other passes through the server. They sign it with Ed25519 (RFC 8032), and
a server that puts itself in between is found out, as long as each knows the others' public keys
from somewhere else than the server: from a `Roster`, which their owners put together beforehand.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import tomli_w
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from genesis.errors import DataError, FederationError, PlanError, printable
from genesis.tables import check_output, replace_file, write_private

__all__ = [
    "Identity",
    "Roster",
    "Trust",
    "fingerprint",
    "key_text",
    "own_trust",
    "read_key",
    "roster_line",
    "verify",
]

log = logging.getLogger(__name__)

KIND = "ed25519:"
KEY_BYTES = 32
MAKE_ONE = "make one with: genesis federated identity --output …"


class Identity:
    """A client's private key, with which it signs what it says to the others.

    Args:
        key: The key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        """(32 bytes) what the others know it by."""

    @classmethod
    def generate(cls) -> Identity:
        """A new one, from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read one that was saved.

        Raises:
            DataError: There is none, or it is damaged, encrypted or of another kind.
        """
        path = Path(path)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise DataError(
                f"the key {path} cannot be read", got=error.strerror, do=MAKE_ONE
            ) from error
        except TypeError as error:
            raise DataError(
                f"{path} is encrypted", do=f"decrypt it: openssl pkey -in {path.name} -out …"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DataError(
                f"{path} is no private key in PEM, or is damaged", do=MAKE_ONE
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DataError(f"{path} is no Ed25519 key", do=MAKE_ONE)
        return cls(key)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, unencrypted, to a new file (PKCS #8 in PEM) that only its owner can read.

        Raises:
            DataError: There is a file of that name, or the disk refuses.
        """
        path = Path(path)
        check_output(path, suffixes=None)
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            # Of two programs that look at once, only one finds the name free.
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            raise DataError(f"{path} is there already", do="choose another name") from None
        except OSError as error:
            raise DataError(f"cannot write {path}", got=error.strerror) from error
        try:
            write_private(path, pem.decode())
        except DataError:
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def from_bytes(cls, secret: bytes) -> Identity:
        """The one of which these are the `to_bytes`."""
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    def to_bytes(self) -> bytes:
        """(32 bytes) the private key itself, for a place that nobody else can read."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """(64 bytes) the signature of a message."""
        return self._key.sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a public key signed a message; False for what is no key at all."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_text(public: bytes) -> str:
    """A public key as people send it to each other: "ed25519:" and base64."""
    return KIND + base64.b64encode(public).decode()


def read_key(text: str) -> bytes:
    """The inverse of `key_text`.

    Raises:
        DataError: It is no such text.
    """
    try:
        public = base64.b64decode(text.removeprefix(KIND), validate=True)
    except (binascii.Error, ValueError):
        public = b""
    if len(public) != KEY_BYTES or text != key_text(public):
        raise DataError(
            "a public key is damaged, or no Ed25519 key",
            do="copy the whole line that 'genesis federated identity' printed",
        )
    return public


def fingerprint(public: bytes) -> str:
    """A public key for the telephone: the first 128 bits of its SHA-256, in eight groups.

    To find another key with the same takes 2^128 attempts.
    """
    digits = hashlib.sha256(public).hexdigest()[:32]
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def roster_line(client_id: str, public: bytes) -> str:
    """A client's line of a roster, without its line break.

    Raises:
        DataError: The id could not be one.
    """
    if not client_id or not client_id.isprintable() or client_id != client_id.strip():
        raise DataError(
            "a client id is printable text without spaces around it", do="choose another"
        )
    return tomli_w.dumps({client_id: key_text(public)}).rstrip("\n")


class Roster(Mapping[str, bytes]):
    """Client id -> public key, which its owners told each other without the server.

    As a file it is TOML, with a line for each client: ``north = "ed25519:…"``. Lines of several
    people can be put one after the other.

    Args:
        keys: (32 bytes each) the keys.

    Raises:
        DataError: There are none.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        if not self._keys:
            raise DataError("there is no key in the roster", do="write a line for each client")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Roster:
        """Read a roster.

        Raises:
            DataError: It cannot be read, or is no roster.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
            lines = tomllib.loads(text)
        except OSError as error:
            raise DataError(f"the roster {path} cannot be read", got=error.strerror) from error
        except UnicodeDecodeError as error:
            raise DataError(f"the roster {path} is not UTF-8", do="save it as that") from error
        except tomllib.TOMLDecodeError as error:
            raise DataError(
                f"{path} is no roster",
                got=str(error),
                do='write one line for each client, once: north = "ed25519:…"',
            ) from error
        keys = {}
        for client_id, line in lines.items():
            try:
                keys[client_id] = read_key(line if isinstance(line, str) else "")
            except DataError as error:
                raise DataError(
                    f"{path} has no key for '{client_id}'",
                    got="a name with a dot outside quotes" if isinstance(line, dict) else None,
                    do="copy the whole line that 'genesis federated identity' printed",
                ) from error
        return cls(keys)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it. There is nothing secret in it, but who can change it can be anybody.

        Raises:
            DataError: The disk refuses.
        """
        text = "".join(roster_line(client, key) + "\n" for client, key in self.items())
        with replace_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def key_of(self, client_id: str) -> bytes:
        """(32 bytes) the key of a client.

        Raises:
            FederationError: The roster does not have it.
        """
        if client_id not in self._keys:
            raise FederationError(
                f"client '{client_id}' is not in the roster",
                do="ask its owner for its line, by another way than the server, and add it",
            )
        return self._keys[client_id]

    def __getitem__(self, client_id: str) -> bytes:
        return self._keys[client_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class Trust:
    """Which keys this client believes to be the others'.

    Args:
        roster: The keys that are known, or None.
        first_use: Whether to believe the server about clients that are not in the roster, the first
            time that it names them.
        path: File that remembers whom it was believed about, for later runs; with first_use only.

    Raises:
        PlanError: There is neither a roster nor first_use.
        DataError: The file cannot be read.
    """

    def __init__(
        self,
        roster: Roster | None = None,
        *,
        first_use: bool = False,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if roster is None and not first_use:
            raise PlanError(
                "secure aggregation needs to know the other clients' keys",
                do="give a roster of them (--roster), or believe the server about them"
                " (--trust-on-first-use)",
            )
        self._roster = roster
        self._first_use = first_use
        self._path = Path(path) if first_use and path is not None else None
        self._met: dict[str, bytes] = {}
        if self._path is not None and self._path.exists():
            self._met |= Roster.load(self._path)

    def keys_for(self, told: Mapping[str, bytes]) -> dict[str, bytes]:
        """What the server says the clients' keys are, if all of it can be believed.

        Args:
            told: Client id -> its public key.

        Returns:
            The same.

        Raises:
            FederationError: A key is another than the known one, or not known, or no key; or two
                clients show the same.
            DataError: What is new could not be written down.
        """
        if twins := _twins(told):
            raise FederationError(
                "two clients show the same key",
                got="'{}' and '{}'".format(*twins),
                do="make a key for each: genesis federated identity",
            )
        new = {client: key for client, key in told.items() if not self._knows(client, key)}
        if new:
            met = {**self._met, **new}
            if self._path is not None:
                self._write(new)
            self._met = met
            log.warning(
                "took the server's word for the keys of %s: whoever runs it could have put itself "
                "in between and read what secure aggregation should hide; compare fingerprints, or "
                "use a roster",
                ", ".join(f"'{printable(name)}' ({fingerprint(key)})" for name, key in new.items()),
            )
        return dict(told)

    def remember(self, keys: Mapping[str, bytes]) -> None:
        """Know whom it has believed the server about before, in another process."""
        self._met = {**keys, **self._met}

    def _write(self, new: Mapping[str, bytes]) -> None:
        """Add keys to the file, which otherwise stays as its owner wrote it."""
        assert self._path is not None
        text = self._path.read_text(encoding="utf-8-sig") if self._path.exists() else ""
        lines = [roster_line(client, key) for client, key in new.items()]
        said = f"# Not compared with anybody: what the server said on {date.today()}."
        with replace_file(self._path) as temporary:
            whole = "\n".join([*text.splitlines(), said, *lines]) + "\n"
            temporary.write_text(whole, encoding="utf-8")

    def _knows(self, client_id: str, key: bytes) -> bool:
        """Whether a key is the known one; False if it is believed for the first time."""
        if len(key) != KEY_BYTES:
            raise FederationError(
                f"client '{client_id}' shows no Ed25519 key",
                do="give server and clients the same version",
            )
        if self._roster is not None and (client_id in self._roster or not self._first_use):
            known, source = self._roster.key_of(client_id), "the roster has"
        elif client_id in self._met:
            known, source = self._met[client_id], "it had when it was first seen"
        else:
            return False
        if key != known:
            raise FederationError(
                f"client '{client_id}' shows another key than {source}; somebody may be between",
                got=f"fingerprint {fingerprint(key)} instead of {fingerprint(known)}",
                do="ask its owner by another way than the server whether its key is new",
            )
        return True


def own_trust(
    client_id: str,
    public: bytes,
    roster: str | os.PathLike[str] | None,
    *,
    first_use: bool = False,
) -> Trust | None:
    """What a client believes, which knows its own key; None if it knows nobody's.

    Args:
        client_id: The client.
        public: (32 bytes) its key.
        roster: File with the roster. With first_use it may be missing, and learns new keys.
        first_use: Whether to believe the server about new keys.

    Raises:
        DataError: The file cannot be read, or has another key for this client.
    """
    if roster is None and not first_use:
        return None
    if roster is not None and first_use:
        check_output(roster, suffixes=None)
    if roster is None or (first_use and not Path(roster).exists()):
        known: Mapping[str, bytes] = {}
    else:
        known = Roster.load(roster)
    if known.get(client_id, public) != public:
        raise DataError(
            f"{roster} has another key for '{client_id}' than this client",
            do="give it the key that belongs to the roster (--identity), or mend the roster",
        )
    return Trust(Roster({**known, client_id: public}), first_use=first_use, path=roster)


def _twins(keys: Mapping[str, bytes]) -> tuple[str, str] | None:
    """Two clients with the same key, if there are some."""
    owners: dict[bytes, str] = {}
    for client_id, key in keys.items():
        if (other := owners.setdefault(key, client_id)) != client_id:
            return other, client_id
    return None
