"""Certificates, as the standard library's TLS takes them."""

import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import assume, given
from hypothesis import strategies as st

from genesis.errors import DataError, GenesisError, PlanError
from genesis.federated import certificates as module
from genesis.federated.certificates import DEFAULT_NAME, make_certificates

IDS = [
    "north",
    "Köln 3/å",
    "病院",
    "../..",
    ".hidden",
    "a" * 64,
    "localhost",
    "50% 'quoted', \"so\"",
]
HOSTS = ["federation.example.org", "192.0.2.7", "2001:db8::7", "*.pods.example.org"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that tests read."""
    folder = tmp_path_factory.mktemp("federations") / "one"
    make_certificates(folder, servers=HOSTS, clients=IDS)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, whose names are all the same."""
    folder = tmp_path_factory.mktemp("federations") / "other"
    make_certificates(folder, servers=HOSTS, clients=IDS)
    return folder


def _client_file(folder: Path, client: str) -> Path:
    """The certificate of a client, found by what stands in it."""
    for path in (folder / "clients").glob("*.crt"):
        if _common_name(path) == client:
            return path
    raise AssertionError(client)


def _common_name(path: Path) -> object:
    [name] = _load(path).subject
    return name.value


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _context(protocol: int, trusted: Path | None, own: Path | None) -> ssl.SSLContext:
    """One end of a connection: whom it trusts, which must be shown, and what it shows."""
    context = ssl.SSLContext(protocol)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if trusted is not None:
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    if own is not None:
        context.load_cert_chain(own, own.with_suffix(".key"))
    return context


def _connect(
    *,
    server: Path,
    trusts: Path,
    host: str = "federation.example.org",
    client: Path | None = None,
    server_trusts: Path | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLObject:
    """A handshake in memory; the server's end of it."""
    at_server = _context(ssl.PROTOCOL_TLS_SERVER, server_trusts, server)
    at_client = _context(ssl.PROTOCOL_TLS_CLIENT, trusts, client)
    at_client.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = at_client.wrap_bio(to_client, to_server, server_hostname=host)
    two = at_server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [one, two]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    return two


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("client", IDS)
def test_both_ends_know_each_other(folder: Path, client: str, version: ssl.TLSVersion) -> None:
    end = _connect(
        server=folder / "server.crt",
        trusts=folder / "ca.crt",
        client=_client_file(folder, client),
        server_trusts=folder / "ca.crt",
        version=version,
    )
    shown = end.getpeercert()
    assert shown is not None
    assert shown["subject"] == ((("commonName", client),),)


@pytest.mark.parametrize(
    "host",
    [
        *["federation.example.org", "FEDERATION.example.org", "192.0.2.7", "2001:db8:0::7"],
        *["server-0.pods.example.org", "localhost", "127.0.0.1", "::1"],
    ],
)
def test_every_name_of_the_server(folder: Path, host: str) -> None:
    _connect(server=folder / "server.crt", trusts=folder / "ca.crt", host=host)


@pytest.mark.parametrize("host", ["example.org", "x.federation.example.org", "192.0.2.8", "server"])
def test_no_other_name(folder: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _connect(server=folder / "server.crt", trusts=folder / "ca.crt", host=host)


def test_another_authority_of_the_same_name(folder: Path, other: Path) -> None:
    one, two = folder / "ca.crt", other / "ca.crt"
    assert _load(one).subject == _load(two).subject
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        _connect(server=folder / "server.crt", trusts=two)
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        _connect(
            server=folder / "server.crt",
            trusts=one,
            client=_client_file(other, "north"),
            server_trusts=one,
        )


def test_a_client_without_a_certificate(folder: Path) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return"):
        _connect(
            server=folder / "server.crt", trusts=folder / "ca.crt", server_trusts=folder / "ca.crt"
        )


def test_nobody_poses_as_another(folder: Path) -> None:
    """Neither a client whose id is the server's name as the server, nor the server as a client."""
    authority = folder / "ca.crt"
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _connect(server=_client_file(folder, "localhost"), trusts=authority, host="localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _connect(
            server=folder / "server.crt",
            trusts=authority,
            client=folder / "server.crt",
            server_trusts=authority,
        )


def test_a_client_is_no_authority(folder: Path, tmp_path: Path) -> None:
    """Its key may sign what it likes."""
    own = _client_file(folder, "north")
    for end in (".crt", ".key"):
        (tmp_path / f"ca{end}").write_bytes(own.with_suffix(end).read_bytes())
    key = serialization.load_pem_private_key(own.with_suffix(".key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    parent = module._Signed(_load(own), key)
    forged = module._sign_server(parent, [x509.DNSName("localhost")], 10)
    chain = [forged.certificate, parent.certificate]
    text = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    (tmp_path / "forged.crt").write_bytes(text)
    module._write_key(tmp_path / "forged.key", forged.key)
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA"):
        _connect(server=tmp_path / "forged.crt", trusts=folder / "ca.crt", host="localhost")
    with pytest.raises(DataError, match="not the certificate of an authority"):
        make_certificates(tmp_path, clients=["south"])


def _at(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Let it be so many days from now."""
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    monkeypatch.setattr(module, "_now", lambda: now)


def test_expired(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _at(monkeypatch, -100)
    make_certificates(tmp_path, servers=["localhost"], clients=["old"], days=99)
    make_certificates(tmp_path, clients=["young"], days=101)
    server, trusted = tmp_path / "server.crt", tmp_path / "ca.crt"
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        _connect(server=server, trusts=trusted, host="localhost")
    _at(monkeypatch, 0)
    make_certificates(tmp_path, servers=["localhost"], renew=True)
    young, old = (_client_file(tmp_path, client) for client in ("young", "old"))
    words = {"server": server, "trusts": trusted, "host": "localhost", "server_trusts": trusted}
    _connect(**words, client=young)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        _connect(**words, client=old)


@pytest.mark.parametrize(("days", "valid"), [(0.003, True), (0.01, False)])
def test_a_clock_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, days: float, valid: bool
) -> None:
    _at(monkeypatch, days)
    make_certificates(tmp_path, servers=["localhost"])
    words = {"server": tmp_path / "server.crt", "trusts": tmp_path / "ca.crt", "host": "localhost"}
    if valid:
        _connect(**words)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
            _connect(**words)


def test_what_stands_in_them(folder: Path) -> None:
    authority = _load(folder / "ca.crt")
    files = [folder / "server.crt", *(folder / "clients").glob("*.crt")]
    assert len(files) == 1 + len(IDS)
    serials = {authority.serial_number}
    for path in files:
        each = _load(path)
        each.verify_directly_issued_by(authority)
        serials.add(each.serial_number)
        length = each.not_valid_after_utc - each.not_valid_before_utc
        assert length == timedelta(days=365, minutes=5)
        constraints = each.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = each.extensions.get_extension_for_class(x509.KeyUsage)
        assert (constraints.critical, constraints.value.ca) == (True, False)
        assert (usage.critical, usage.value.digital_signature) == (True, True)
        assert not usage.value.key_cert_sign
        own = serialization.load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        assert own.public_key() == each.public_key()
    assert len(serials) == 2 + len(IDS)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    names = _load(_client_file(folder, "Köln 3/å")).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["urn:genesis:client:K%C3%B6ln%203%2F%C3%A5"]


def test_names_of_files(folder: Path) -> None:
    found = {path.name for path in (folder / "clients").iterdir() if path.suffix == ".crt"}
    assert found == {
        "north.crt",
        "K%C3%B6ln%203%2F%C3%A5.crt",
        "%E7%97%85%E9%99%A2.crt",
        "%2E.%2F...crt",
        "%2Ehidden.crt",
        f"{'a' * 64}.crt",
        "localhost.crt",
        "50%25%20%27quoted%27%2C%20%22so%22.crt",
    }


@given(st.sets(st.text("abAB/\\%2F.~_ -'ö病\n", min_size=1, max_size=5), max_size=4))
def test_ids_never_share_a_file(clients: set[str]) -> None:
    """Two that pass have two files, each a plain name."""
    try:
        paths = module._client_paths(Path("nowhere"), sorted(clients))
    except PlanError:
        assume(False)
    assert {path.parent for path in paths.values()} <= {Path("nowhere")}
    assert len({path.name.lower() for path in paths.values()}) == len(clients)
    assert all(len(path.name) < 255 and path.name.isascii() for path in paths.values())


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_only_the_owner_reads_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    modes = []
    fdopen = os.fdopen

    def watch(descriptor: int, mode: str) -> object:
        modes.append((stat.S_IMODE(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size))
        return fdopen(descriptor, mode)

    monkeypatch.setattr(os, "fdopen", watch)
    before = os.umask(0)
    request.addfinalizer(lambda: os.umask(before))
    make_certificates(tmp_path / "new", servers=["localhost"], clients=["a"])
    assert modes == [(0o600, 0)] * 3  # from the start, while they were empty

    def mode(path: str) -> int:
        return stat.S_IMODE((tmp_path / "new" / path).stat().st_mode)

    assert [mode(path) for path in (".", "clients")] == [0o700] * 2
    assert [mode(path) for path in ("ca.key", "server.key", "clients/a.key")] == [0o600] * 3


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_authority_is_used_again(tmp_path: Path) -> None:
    first = make_certificates(tmp_path, servers=["a.example.org", "LocalHost"], name="Ärzte")
    [authority, server] = first
    assert (authority.path, authority.owner) == (tmp_path / "ca.crt", "authority 'Ärzte'")
    assert server.owner == "server localhost, 127.0.0.1, ::1, a.example.org"
    before = _contents(tmp_path)
    assert len(before) == 4
    [client] = make_certificates(tmp_path, clients=["north", "north"], days=30, name="Ärzte")
    assert (client.path, client.owner) == (tmp_path / "clients/north.crt", "client 'north'")
    assert abs(client.expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)
    assert before.items() <= _contents(tmp_path).items()
    _connect(
        server=server.path,
        trusts=authority.path,
        host="a.example.org",
        client=client.path,
        server_trusts=authority.path,
    )


def test_an_authority_alone(tmp_path: Path) -> None:
    [authority] = make_certificates(tmp_path / "new")
    assert authority.owner == f"authority '{DEFAULT_NAME}'"
    assert make_certificates(tmp_path / "new") == []


def test_renewing(tmp_path: Path) -> None:
    make_certificates(tmp_path, servers=["localhost"], clients=["a", "b"])
    before = _contents(tmp_path)
    for words in ({"servers": ["localhost"]}, {"clients": ["c", "b"]}):
        with pytest.raises(DataError, match="is there already; renew"):
            make_certificates(tmp_path, **words)
    assert _contents(tmp_path) == before
    make_certificates(tmp_path, clients=["a", "c"], renew=True)
    after = _contents(tmp_path)
    new = {
        path.relative_to(tmp_path).as_posix() for path in after if after[path] != before.get(path)
    }
    assert new == {"clients/a.crt", "clients/a.key", "clients/c.crt", "clients/c.key"}


def test_no_certificate_outlives_its_authority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [authority, server] = make_certificates(tmp_path, servers=["localhost"], days=3650)
    _at(monkeypatch, 3600)
    [client] = make_certificates(tmp_path, clients=["late"])
    assert client.expires == server.expires == authority.expires


def test_an_authority_that_has_expired(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    for days in (3651, -1):
        _at(monkeypatch, days)
        with pytest.raises(DataError, match=r"is not valid now; got .*ca\.crt, from 2.* to 2"):
            make_certificates(tmp_path, clients=["late"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"days": 0}, "number of days; got 0; give 1 to 3,650"),
        ({"days": 3651}, "number of days; got 3,651"),
        ({"name": ""}, "the name of the authority is empty"),
        ({"name": "a\nb"}, "the name of the authority cannot stand"),
        ({"clients": [""]}, "the id of a client is empty"),
        ({"clients": ["ö" * 33]}, "too long for a certificate; got 66 bytes as UTF-8; use 1 to 64"),
        ({"clients": ["a\0b"]}, r"cannot stand in a certificate; got 'a\\x00b'"),
        ({"clients": [" a"]}, "without spaces around them"),
        ({"clients": ["\udcff"]}, r"got '\\udcff'; use printable"),
        ({"clients": ["a/B", "A/b"]}, "share a file.*; got a%2FB.crt and A%2Fb.crt"),
    ],
)
def test_what_cannot_stand_in_a_certificate(
    tmp_path: Path, words: dict[str, object], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        make_certificates(tmp_path / "new", **words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "server",
    [
        *["", "https://a.org", "a.org:8000", "[::1]", "fe80::1%eth0", "10.0.0.256", "10.0.0"],
        *["a..b", ".a", "a.", "-a", "a b", "a\n", "bücher.example", "a.*.org", "*", "*.*.org"],
        *["a" * 64, ".".join(["a" * 50] * 5)],
    ],
)
def test_what_is_no_name_of_a_server(tmp_path: Path, server: str) -> None:
    with pytest.raises(PlanError, match="neither a host's name nor an IP address; got "):
        make_certificates(tmp_path / "new", servers=[server])
    assert not list(tmp_path.iterdir())


def test_a_client_that_would_share_a_file_with_an_older_one(tmp_path: Path) -> None:
    make_certificates(tmp_path, clients=["North"])
    with pytest.raises(PlanError, match=r"got North\.crt and north\.crt"):
        make_certificates(tmp_path, clients=["north"], renew=True)


def _key(kind: str) -> bytes:
    """A private key that an authority cannot be used with."""
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else _curve()
    secret: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if kind == "encrypted":
        secret = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)


def _curve() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _plain_certificate() -> bytes:
    """A certificate without extensions."""
    key, name = _curve(), x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ca.key", None, r"ca\.key is missing; got the other file of the authority; put it back"),
        ("ca.crt", None, r"ca\.crt is missing; got the other file"),
        ("ca.key", lambda: b"", r"ca\.key is no private key in PEM"),
        ("ca.crt", lambda: b"\xff\0", r"ca\.crt is no certificate in PEM"),
        ("ca.crt", lambda: _key("plain"), r"ca\.crt is no certificate in PEM"),
        ("ca.crt", _plain_certificate, r"ca\.crt is not the certificate of an authority"),
        ("ca.key", lambda: _key("plain"), r"ca\.key does not belong to .*ca\.crt"),
        ("ca.key", lambda: _key("encrypted"), r"ca\.key is encrypted; .*openssl pkey -in ca\.key"),
        ("ca.key", lambda: _key("RSA"), r"ca\.key is a key of another kind"),
    ],
)
def test_an_authority_that_cannot_be_used(
    tmp_path: Path, file: str, content: Callable[[], bytes] | None, message: str
) -> None:
    make_certificates(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content())
    before = _contents(tmp_path)
    with pytest.raises(DataError, match=message):
        make_certificates(tmp_path, clients=["north"], renew=True)
    assert _contents(tmp_path) == before


def test_an_authority_of_another_name(tmp_path: Path) -> None:
    make_certificates(tmp_path, name="one")
    with pytest.raises(DataError, match="has another name; got 'one' in"):
        make_certificates(tmp_path, name="two")


def test_a_damaged_certificate(folder: Path, tmp_path: Path) -> None:
    for file in ("ca.crt", "ca.key"):
        lines = (folder / file).read_text().splitlines()
        for damaged in (lines[:-1], [lines[0], *lines[2:]], [*lines[:2], "!", *lines[3:]]):
            for name in ("ca.crt", "ca.key"):
                (tmp_path / name).write_bytes((folder / name).read_bytes())
            (tmp_path / file).write_text("\n".join(damaged))
            with pytest.raises(DataError, match=f"{file} is no "):
                make_certificates(tmp_path, clients=["north"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("file", "none/new"):
        with pytest.raises(DataError, match=r"cannot make the folder .*; got "):
            make_certificates(tmp_path / folder)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"ca\.crt cannot be read; got "):
        make_certificates(tmp_path)


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the last of the files."""
    make_certificates(tmp_path, clients=["a"])
    before, write_key, left = _contents(tmp_path), module._write_key, [3]

    def fail(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
        left[0] -= 1
        write_key(path, key)
        if not left[0]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_key", fail)
    with pytest.raises(GenesisError, match=r"cannot write .*\.key; got No space left on device"):
        make_certificates(tmp_path, servers=["localhost"], clients=["a", "b"], renew=True)
    assert _contents(tmp_path) == before
