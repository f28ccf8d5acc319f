"""Certificates for a federation: a small authority of its own, and whom it vouches for.

Both ends trust one file, ca.crt. Its key, ca.key, signs a certificate for the server, which clients
compare with the name that they connect to, and one for every client, whose common name is the
client's id. They are X.509 as RFC 5280 profiles it, strictly (`ssl.VERIFY_X509_STRICT`), with keys
on the curve P-256, which every TLS library takes.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from genesis.errors import DataError, PlanError
from genesis.tables import replace_file

__all__ = ["DEFAULT_NAME", "Certificate", "make_certificates"]

DEFAULT_NAME = "Genesis federation"
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")  # of every server, for whoever is on its machine
AUTHORITY_DAYS = 3650
EARLY = timedelta(minutes=5)  # by which a new certificate is valid before now: clocks differ
MAX_NAME_BYTES = 64  # of a common name (RFC 5280, appendix A: ub-common-name)

# Names of DNS; a last label of digits alone would be a mistyped IP address.
LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = re.compile(rf"(?:\*\.)?(?:{LABEL}\.)*(?!\d+$){LABEL}", re.IGNORECASE)

KEY_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Certificate:
    """A certificate that was written.

    Args:
        path: Its file; its private key lies beside it, in a file of the same name but for .key.
        owner: Whose it is, in words.
        expires: When it ends, in UTC.
    """

    path: Path
    owner: str
    expires: datetime


@dataclass(frozen=True)
class _Signed:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(
    directory: str | os.PathLike[str],
    *,
    servers: Iterable[str] = (),
    clients: Iterable[str] = (),
    days: int = 365,
    name: str | None = None,
    renew: bool = False,
) -> list[Certificate]:
    """Make certificates for the server and the clients of a federation.

    Writes server.crt and server.key if the server has a name, and clients/ID.crt and clients/ID.key
    for every client. An authority, ca.crt and ca.key, is made if the folder has none, and never
    replaced. Either everything is written or, after an error, nothing is.

    Private keys are not encrypted, and only their owner may read them (mode 0600).

    Args:
        directory: The folder; it is made, for its owner alone, if there is none.
        servers: Names and IP addresses that clients reach the server by, besides this machine's
            localhost, 127.0.0.1 and ::1; "*.example.org" is a name. Without any there is no
            certificate for a server.
        clients: Their ids. In names of files, what is not a letter of ASCII, a digit or one of
            "_.-~" stands as in an URL: "ward 3" is ward%203.crt.
        days: How long the certificates of servers and clients are valid, 1 to 3,650, but not
            longer than the authority's, which is valid for 3,650 days.
        name: What the authority is called; by default `DEFAULT_NAME`, or as it is called already.
        renew: Replace certificates and keys of the server and of clients that have some.

    Returns:
        What was written: the authority if it is new, the server, the clients.

    Raises:
        PlanError: A name, an id or the number of days cannot stand in a certificate, or two ids
            would share a file.
        DataError: There is a certificate already, the authority in the folder cannot be used, or
            the disk refuses.
    """
    directory, servers = Path(directory), list(servers)
    if not 1 <= days <= AUTHORITY_DAYS:
        raise PlanError(
            "certificates are valid for a number of days",
            got=f"{days:,}",
            do=f"give 1 to {AUTHORITY_DAYS:,}",
        )
    hosts = [_host(server) for server in (*LOCAL_NAMES, *servers)] if servers else []
    paths = _client_paths(directory / "clients", clients)
    for path in [*([directory / "server.crt"] if servers else []), *paths.values()]:
        _check_free(path, renew)

    found = _load_authority(directory, name)
    authority = found or _make_authority(DEFAULT_NAME if name is None else name)
    signed: dict[Path, _Signed] = {}
    owners: dict[Path, str] = {}
    if found is None:
        path = directory / "ca.crt"
        signed[path], owners[path] = authority, f"authority '{_common_name(authority)}'"
    if servers:
        path, unique = directory / "server.crt", list(dict.fromkeys(hosts))
        signed[path] = _sign_server(authority, unique, days)
        owners[path] = f"server {', '.join(str(host.value) for host in unique)}"
    for client, path in paths.items():
        signed[path] = _sign_client(authority, client, days)
        owners[path] = f"client '{client}'"

    _write(signed)
    return [
        Certificate(path, owners[path], each.certificate.not_valid_after_utc)
        for path, each in signed.items()
    ]


def _host(server: str) -> x509.GeneralName:
    """A server's name or address as it stands in a certificate."""
    try:
        if "%" not in server:  # a scope, which is of no use beyond one machine
            return x509.IPAddress(ipaddress.ip_address(server))
    except ValueError:
        pass  # then it is a name
    if len(server) > 253 or not HOST.fullmatch(server):
        raise PlanError(
            "the server's name is neither a host's name nor an IP address",
            got=repr(server),
            do="give it alone, such as federation.example.org or 192.0.2.7; "
            "letters beyond ASCII as xn--…",
        )
    return x509.DNSName(server.lower())


def _check_common_name(owner: str, name: str) -> None:
    """Raise PlanError if a name cannot be the common name of a certificate."""
    if not name.isprintable() or name != name.strip():  # what cannot be encoded is not printable
        raise PlanError(
            f"{owner} cannot stand in a certificate",
            got=repr(name),
            do="use printable characters, without spaces around them",
        )
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise PlanError(
            f"{owner} is empty or too long for a certificate",
            got=f"{len(name.encode())} bytes as UTF-8",
            do=f"use 1 to {MAX_NAME_BYTES}",
        )


def _client_paths(folder: Path, clients: Iterable[str]) -> dict[str, Path]:
    """Client id -> the file of its certificate, also where upper and lower case are the same."""
    paths: dict[str, Path] = {}
    taken = {path.stem.lower(): path for path in folder.glob("*.crt")}
    for client in dict.fromkeys(clients):
        _check_common_name("the id of a client", client)
        stem = quote(client, safe="")
        stem = f"%2E{stem[1:]}" if stem.startswith(".") else stem  # nobody looks for hidden files
        path = paths[client] = folder / f"{stem}.crt"
        if (other := taken.setdefault(stem.lower(), path)) != path:
            raise PlanError(
                "two clients would share a file, where upper and lower case are the same",
                got=f"{other.name} and {path.name}",
                do="choose ids that differ in more than that",
            )
    return paths


def _check_free(path: Path, renew: bool) -> None:
    """Raise DataError if there is a certificate or a key that may not be replaced."""
    for file in (path, path.with_suffix(".key")):
        if file.exists() and not renew:
            raise DataError(
                f"{file} is there already", do="renew it (--renew), or choose another folder"
            )


def _load_authority(directory: Path, name: str | None) -> _Signed | None:
    """The authority in a folder, or None if there is none.

    Args:
        directory: The folder.
        name: What it must be called, if that matters.

    Raises:
        DataError: It cannot be used.
    """
    certificate_path, key_path = files = directory / "ca.crt", directory / "ca.key"
    missing = [path for path in files if not path.exists()]
    if len(missing) == len(files):
        return None
    if missing:
        raise DataError(
            f"{missing[0]} is missing",
            got="the other file of the authority",
            do="put it back, or name a new folder",
        )
    authority = _Signed(_read_certificate(certificate_path), _read_key(key_path))
    certificate, called = authority.certificate, _common_name(authority)
    if certificate.public_key() != authority.key.public_key():
        raise DataError(
            f"{key_path} does not belong to {certificate_path}", do="put the right one back"
        )
    if not certificate.not_valid_before_utc <= _now() < certificate.not_valid_after_utc:
        raise DataError(
            "the authority is not valid now",
            got=f"{certificate_path}, from {certificate.not_valid_before_utc:%Y-%m-%d}"
            f" to {certificate.not_valid_after_utc:%Y-%m-%d}",
            do="check the clock, or make a new authority in another folder"
            " and give its ca.crt to everyone",
        )
    if name is not None and name != called:
        raise DataError(
            "the authority has another name",
            got=f"'{called}' in {certificate_path}",
            do="drop the name, or choose another folder",
        )
    return authority


def _read(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror) from error


def _read_certificate(path: Path) -> x509.Certificate:
    """An authority's certificate, with what `_sign` needs of it."""
    content = _read(path)
    try:
        certificate = x509.load_pem_x509_certificate(content)
        extensions = certificate.extensions
        is_authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        is_authority = False
    except (ValueError, x509.DuplicateExtension) as error:
        raise DataError(
            f"{path} is no certificate in PEM, or is damaged", do="put the right one back"
        ) from error
    if not is_authority:
        raise DataError(
            f"{path} is not the certificate of an authority",
            do="name a folder where this command made one, or a new one",
        )
    return certificate


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """An authority's private key."""
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise DataError(
            f"{path} is encrypted",
            do=f"put it there decrypted for this: openssl pkey -in {path.name} -out …",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(
            f"{path} is no private key in PEM, or is damaged", do="put the right one back"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataError(
            f"{path} is a key of another kind than this command makes",
            do="name a folder where it made one, or a new one",
        )
    return key


def _common_name(signed: _Signed) -> str:
    """What the subject of a certificate is called, "" if nothing."""
    names = signed.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _now() -> datetime:
    """The time, in whole seconds as in certificates."""
    return datetime.now(UTC).replace(microsecond=0)


def _make_authority(name: str) -> _Signed:
    """A new authority, whose certificate its own key signs."""
    _check_common_name("the name of the authority", name)
    extensions = [
        # No further authorities below this one.
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage("key_cert_sign", "crl_sign"), True),
    ]
    return _sign(None, name, AUTHORITY_DAYS, extensions)


def _sign_server(authority: _Signed, hosts: Sequence[x509.GeneralName], days: int) -> _Signed:
    """A certificate for a server under its names, in the order given."""
    extensions = _end_extensions(ExtendedKeyUsageOID.SERVER_AUTH, hosts)
    # Only the names in the extension count (RFC 9525); this one is for people.
    return _sign(authority, "server", days, extensions)


def _sign_client(authority: _Signed, client: str, days: int) -> _Signed:
    """A certificate for a client, whose common name is its id.

    The same id as a URI is for software that takes names from extensions alone.
    """
    uri = x509.UniformResourceIdentifier(f"urn:genesis:client:{quote(client, safe='')}")
    extensions = _end_extensions(ExtendedKeyUsageOID.CLIENT_AUTH, [uri])
    return _sign(authority, client, days, extensions)


def _end_extensions(
    purpose: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]
) -> list[tuple[x509.ExtensionType, bool]]:
    """The extensions, critical or not, of a certificate that signs no others.

    One purpose each: a client cannot pose as the server, whatever it is called.
    """
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage("digital_signature"), True),
        (x509.ExtendedKeyUsage([purpose]), False),
        (x509.SubjectAlternativeName(names), False),  # critical only where the subject is empty
    ]


def _key_usage(*uses: str) -> x509.KeyUsage:
    """What a key may be used for."""
    return x509.KeyUsage(**{use: use in uses for use in KEY_USES})


def _sign(
    authority: _Signed | None,
    common_name: str,
    days: int,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> _Signed:
    """A new key and a certificate for it, signed by an authority or, without one, by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer, signer, issuer_identifier = subject, key, identifier
    now = _now()
    expires = now + timedelta(days=days)
    if authority is not None:
        above = authority.certificate
        issuer, signer = above.subject, authority.key
        issuer_identifier = above.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
        expires = min(expires, above.not_valid_after_utc)  # useless without its authority

    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(expires)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier),
            critical=False,
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return _Signed(builder.sign(signer, hashes.SHA256()), key)


def _write(signed: dict[Path, _Signed]) -> None:
    """Write certificates and their keys: all of them, or none."""
    for folder in dict.fromkeys(path.parent for path in signed):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {folder}", got=error.strerror) from error
    with ExitStack() as stack:
        # They appear when the last one is written, in reverse: keys before their certificates.
        for path, each in reversed(signed.items()):
            temporary = stack.enter_context(replace_file(path))
            temporary.write_bytes(each.certificate.public_bytes(serialization.Encoding.PEM))
            temporary = stack.enter_context(replace_file(path.with_suffix(".key")))
            _write_key(temporary, each.key)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key to a new file that nobody else could ever read."""
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
