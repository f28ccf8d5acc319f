"""Keys, rosters, and what a client makes of the keys that a server tells it."""

from __future__ import annotations

import logging
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from genesis.errors import DataError, FederationError, PlanError
from genesis.federated.secagg import identity
from genesis.federated.secagg.identity import (
    Identity,
    Roster,
    Trust,
    fingerprint,
    key_text,
    own_trust,
    read_key,
    roster_line,
    verify,
)

KEYS = {name: Identity.generate().public for name in ("north", "south", "west")}
OTHER = Identity.generate().public

public_keys = st.binary(min_size=32, max_size=32)
client_ids = st.text(min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and text == text.strip()
)


def test_signs_as_the_standard_says() -> None:
    """The first two tests of RFC 8032, section 7.1."""
    for secret, public, message, signature in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ]:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        own = Identity(key)
        assert own.public.hex() == public
        assert own.sign(bytes.fromhex(message)).hex() == signature
        assert verify(own.public, bytes.fromhex(signature), bytes.fromhex(message))


@given(st.binary(), st.binary(max_size=70), st.binary(max_size=40))
def test_only_the_signature_of_the_message_is_one(message: bytes, junk: bytes, key: bytes) -> None:
    own = Identity.generate()
    signature = own.sign(message)
    assert len(signature) == 64
    assert verify(own.public, signature, message)
    assert not verify(own.public, signature, message + b"0")
    assert not verify(own.public, junk, message)
    assert not verify(own.public, bytes([signature[0] ^ 1]) + signature[1:], message)
    assert not verify(OTHER, signature, message)
    assert not verify(key, signature, message)


def test_a_key_comes_back_from_its_file(tmp_path: Path) -> None:
    own = Identity.generate()
    path = tmp_path / "north.key"
    own.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert Identity.load(path).public == own.public
    assert verify(own.public, Identity.load(str(path)).sign(b"text"), b"text")
    assert [each.name for each in tmp_path.iterdir()] == ["north.key"]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "north.key"
    Identity.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"north\.key is there already"):
        Identity.generate().save(path)
    link = tmp_path / "link.key"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is there already"):
        Identity.generate().save(link)
    assert path.read_bytes() == before


def test_a_key_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Identity.generate().save(tmp_path / "no" / "north.key")

    def full(*_: object) -> None:
        raise DataError("the disk is full")

    monkeypatch.setattr(identity, "write_private", full)
    with pytest.raises(DataError, match="full"):
        Identity.generate().save(tmp_path / "north.key")
    assert not list(tmp_path.iterdir())


def test_nothing_tells_a_private_key() -> None:
    own = Identity.generate()
    assert repr(own).startswith("<genesis.")
    with pytest.raises(TypeError):
        pickle.dumps(own)


def _pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: str = "") -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password.encode())
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


PEM = _pem(ed25519.Ed25519PrivateKey.generate())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the key .* cannot be read; got No such file.*; make one with: genesis federated"),
        (b"", "is no private key in PEM, or is damaged"),
        (b"\xff" * 200, "is no private key in PEM, or is damaged"),
        (PEM[:60], "is no private key in PEM, or is damaged"),
        (_pem(ed25519.Ed25519PrivateKey.generate(), "secret"), "is encrypted; decrypt it: openssl"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "is no Ed25519 key"),
    ],
    ids=["missing", "empty", "bytes", "half", "encrypted", "another kind"],
)
def test_what_is_no_key(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "north.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        Identity.load(path)
    assert PEM.splitlines()[1].decode()[16:40] not in str(raised.value)


@given(public_keys)
def test_a_public_key_as_text(public: bytes) -> None:
    text = key_text(public)
    assert text.startswith("ed25519:")
    assert read_key(text) == public
    for wrong in (text[8:], text[:-1], text + "=", text + "A", text.upper(), f" {text}", ""):
        with pytest.raises(DataError, match="a public key is damaged"):
            read_key(wrong)


def test_a_key_has_one_text() -> None:
    """The last digit has bits that no byte needs."""
    text = key_text(bytes(32))
    assert text.endswith("AAA=")
    with pytest.raises(DataError, match="damaged"):
        read_key(text[:-2] + "B=")
    with pytest.raises(DataError, match="damaged"):
        read_key(text[:-2] + "ä=")


@given(public_keys, public_keys)
def test_fingerprints_tell_keys_apart(one: bytes, other: bytes) -> None:
    groups = fingerprint(one).split(" ")
    assert [len(group) for group in groups] == [4] * 8
    assert (fingerprint(one) == fingerprint(other)) == (one == other)


@given(st.dictionaries(client_ids, public_keys, min_size=1, max_size=5))
def test_a_roster_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[str, bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    Roster(keys).save(path)
    loaded = Roster.load(path)
    assert dict(loaded) == keys
    assert all(loaded.key_of(name) == loaded[name] == key for name, key in keys.items())
    lines = "".join(f"{roster_line(name, key)}\n" for name, key in keys.items())
    assert path.read_text(encoding="utf-8") == lines


def test_lines_of_several_people(tmp_path: Path) -> None:
    """As they come by mail, from any system, with a remark."""
    path = tmp_path / "roster.toml"
    lines = [f"{roster_line(name, key)}\r\n" for name, key in KEYS.items()]
    path.write_bytes(b"\xef\xbb\xbf# May 2031\r\n" + "\r\n".join(lines).encode())
    roster = Roster.load(path)
    assert dict(roster) == KEYS
    assert len(roster) == 3
    with pytest.raises(FederationError, match="client 'east' is not in the roster; ask its owner"):
        roster.key_of("east")


NORTH = f'north = "{key_text(KEYS["north"])}"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the roster .* cannot be read; got No such file"),
        ("", "there is no key in the roster; write a line for each client"),
        (b"\xff\xfe", "is not UTF-8"),
        (NORTH + NORTH, r"is no roster; got .* \(at line 2, .* once: north = "),
        ("north: ed25519", "is no roster; got .* write one line"),
        ("north = 7", "has no key for 'north'; copy the whole line"),
        ('north = "ed25519:AAAA"', "has no key for 'north'; copy the whole line"),
        (f"a.{NORTH}", "has no key for 'a'; got a name with a dot outside quotes"),
        (f"[clients]\n{NORTH}", "has no key for 'clients'"),
        (PEM, "is no roster"),
    ],
    ids=[
        "missing",
        "empty",
        "no text",
        "twice",
        "no TOML",
        "number",
        "short",
        "dot",
        "table",
        "key",
    ],
)
def test_what_is_no_roster(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "roster.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as raised:
        Roster.load(path)
    assert PEM.splitlines()[1].decode()[16:40] not in str(raised.value)


@pytest.mark.parametrize("name", ["", " north", "no\nrth", "\ud800", "\x1b[2J"])
def test_names_that_no_client_has(name: str) -> None:
    with pytest.raises(DataError, match="a client id is printable text"):
        roster_line(name, OTHER)


Warnings = Callable[[], list[str]]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    """What was warned of since the last call."""

    def since() -> list[str]:
        found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
        caplog.clear()
        return found

    return since


def test_trust_needs_a_reason() -> None:
    with pytest.raises(PlanError, match=r"\(--roster\).*\(--trust-on-first-use\)"):
        Trust()
    with pytest.raises(PlanError, match="needs to know"):
        Trust(None, path=Path("known.toml"))


def test_a_roster_decides(warnings: Warnings) -> None:
    trust = Trust(Roster(KEYS))
    assert trust.keys_for(KEYS) == KEYS
    two = {name: KEYS[name] for name in ("north", "west")}
    assert trust.keys_for(two) == two
    with pytest.raises(
        FederationError, match="'west' shows another key than the roster has; somebody may be betw"
    ) as raised:
        trust.keys_for({**KEYS, "west": OTHER})
    for key in (OTHER, KEYS["west"]):
        assert fingerprint(key) in str(raised.value)
    with pytest.raises(FederationError, match="'east' is not in the roster"):
        trust.keys_for({**KEYS, "east": OTHER})
    with pytest.raises(FederationError, match="'west' shows no Ed25519 key"):
        trust.keys_for({"west": KEYS["west"] + b"0"})
    assert not warnings()


@pytest.mark.parametrize("trust", [Trust(Roster(KEYS)), Trust(first_use=True)])
def test_two_clients_with_one_key(trust: Trust) -> None:
    with pytest.raises(FederationError, match="two clients show the same key; got 'a' and 'b'"):
        trust.keys_for({"a": OTHER, "b": OTHER})


def test_the_first_use_is_believed_once(warnings: Warnings) -> None:
    trust = Trust(first_use=True)
    assert trust.keys_for(KEYS) == KEYS
    (said,) = warnings()
    assert "whoever runs it could have put itself in between" in said
    assert all(f"'{name}' ({fingerprint(key)})" in said for name, key in KEYS.items())
    assert trust.keys_for(KEYS) == KEYS
    assert not warnings()
    with pytest.raises(
        FederationError, match="'west' shows another key than it had when it was first seen"
    ):
        trust.keys_for({**KEYS, "west": OTHER})
    assert trust.keys_for({**KEYS, "ea\nst": OTHER})["ea\nst"] == OTHER
    (said,) = warnings()
    assert said.startswith(f"took the server's word for the keys of 'ea st' ({fingerprint(OTHER)})")


def test_nothing_of_a_refused_answer_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    trust = Trust(Roster(KEYS), first_use=True, path=path)
    with pytest.raises(FederationError, match="another key than the roster"):
        trust.keys_for({"east": OTHER, "north": Identity.generate().public})
    assert not path.exists()
    changed = {"east": Identity.generate().public}
    assert trust.keys_for(changed) == changed


def test_the_first_use_is_remembered_in_a_file(tmp_path: Path, warnings: Warnings) -> None:
    path = tmp_path / "known.toml"
    Trust(first_use=True, path=path).keys_for(KEYS)
    assert len(warnings()) == 1
    assert dict(Roster.load(path)) == KEYS
    later = Trust(first_use=True, path=str(path))
    assert later.keys_for(KEYS) == KEYS
    assert not warnings()
    with pytest.raises(FederationError, match="than it had when it was first seen"):
        later.keys_for({"north": OTHER})
    later.keys_for({"east": OTHER})
    assert len(warnings()) == 1
    assert dict(Roster.load(path)) == {**KEYS, "east": OTHER}
    assert Trust(Roster.load(path)).keys_for(KEYS) == KEYS


def test_a_roster_goes_before_what_was_believed(tmp_path: Path, warnings: Warnings) -> None:
    """North has a new key, and its owner told everybody."""
    path = tmp_path / "known.toml"
    Roster(KEYS).save(path)
    new = {**KEYS, "north": OTHER}
    trust = Trust(Roster({"north": OTHER}), first_use=True, path=path)
    assert trust.keys_for(new) == new
    with pytest.raises(FederationError, match="'north' shows another key than the roster has"):
        trust.keys_for(KEYS)
    assert not warnings()


def test_a_damaged_memory_is_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(NORTH[:30])
    with pytest.raises(DataError, match="is no roster"):
        Trust(first_use=True, path=path)
    assert path.read_text() == NORTH[:30]
    with pytest.raises(DataError, match="cannot write"):
        Trust(first_use=True, path=tmp_path / "no" / "known.toml").keys_for(KEYS)


def test_what_was_compared_stays_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(f"# compared by telephone\n{NORTH}", encoding="utf-8")
    told = {"north": KEYS["north"], "stranger": OTHER}
    assert Trust(Roster.load(path), first_use=True, path=path).keys_for(told) == told
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# compared by telephone", NORTH.strip()]
    assert lines[2].startswith("# Not compared with anybody")
    assert Roster.load(path) == told


def test_a_roster_that_cannot_be_written_is_found_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        own_trust("north", KEYS["north"], tmp_path / "no" / "roster.toml", first_use=True)
