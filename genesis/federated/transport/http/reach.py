"""How a server is reached from elsewhere: its address, certificates, and why it does not answer."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx

from genesis.errors import FederationError, PlanError
from genesis.federated.transport.http.protocol import is_loopback

__all__ = [
    "client_tls",
    "explain",
    "is_hopeless",
    "place_of",
    "server_url",
    "speaks_tls",
    "unknown_host",
]

log = logging.getLogger(__name__)

CERTIFICATE_PROBLEMS = {
    9: ("is not valid yet", "check the clocks of both machines"),
    10: ("has expired", "renew the server's certificate"),
    62: ("is for another host", "use a name that the certificate holds"),
    64: ("is for another host", "use an address that the certificate holds"),
}
"""Number that OpenSSL gives a failed verification -> what it means, and what to do. The others
come from not knowing who signed."""


def server_url(text: str, *, has_token: bool, insecure: bool = False) -> httpx.URL:
    """The address of a server.

    Args:
        text: What the user wrote.
        has_token: Whether a token will be sent there.
        insecure: Whether it may be sent in the clear to another machine.

    Raises:
        PlanError: It is no address, or the token would be sent in the clear. What is wrong is not
            quoted, as it may hold a password.
    """
    advice = "give one like https://coordinator.example.com:8000"
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise PlanError("the address of the server cannot be read", do=advice) from None
    if url.scheme not in ("http", "https"):
        raise PlanError("the address of the server has no http:// or https://", do=advice)
    if not url.host or not 0 < (url.port or 80) < 65_536:
        raise PlanError("the address of the server has no host, or no such port", do=advice)
    if url.userinfo:
        raise PlanError("the address of the server holds a user or a password", do="use a token")
    if url.query or url.fragment:
        raise PlanError("the address of the server has a ? or #", do=advice)
    if url.scheme == "http" and not is_loopback(url.host) and not insecure:
        if has_token:
            raise PlanError(
                f"a token for {url.host} could be read on its way",
                got="an address with http://",
                do="use https://, or insecure=True (--insecure) on a network that is private",
            )
        log.warning("whoever is on the way to %s can read all that is sent", place_of(url))
    return url


def place_of(url: httpx.URL) -> str:
    """An address for messages, without its path."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def client_tls(
    verify: bool | str | Path = True,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> ssl.SSLContext:
    """What connections are made with, TLS 1.2 or newer.

    Args:
        verify: True to trust the authorities that this machine trusts, or the PEM file of one.
            False trusts anybody, and is for trying things out.
        certificate: PEM file with a certificate to show, for a server that wants one.
        key: PEM file with the key to it.

    Raises:
        PlanError: A file cannot be used, or one of two is missing.
    """
    if (certificate is None) != (key is None):
        raise PlanError("a certificate and its key go together", do="give ssl_cert and ssl_key")
    try:
        # Not what httpx makes by default: it trusts a list of its own instead of the machine's.
        context = ssl.create_default_context(cafile=None if isinstance(verify, bool) else verify)
    except OSError as error:
        raise PlanError(
            f"the CA {verify} cannot be used",
            got=_reason(error, "no certificate"),
            do="give the PEM file with the certificate of the CA (ca.crt)",
        ) from None
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        log.warning("the server's certificate is not checked, so the server may be anybody")
    if certificate is not None and key is not None:
        try:
            # Without a password, OpenSSL would ask for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            got = _reason(error, "no PEM files that fit together, or a key with a password")
            raise PlanError(
                f"{certificate} and {key} cannot be used",
                got=got,
                do="give PEM files that belong together, the key without a password",
            ) from None
    return context


def is_hopeless(error: httpx.HTTPError) -> bool:
    """Whether a failure will be the same however often one tries: a matter of certificates."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return True
            case ssl.SSLError(reason=str() as reason):
                if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE") or "ALERT" in reason:
                    return True
    return isinstance(error, httpx.UnsupportedProtocol)


def speaks_tls(url: httpx.URL, seconds: float = 5.0) -> bool:
    """Whether whoever answers at an address with http:// wants https://."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((url.host, url.port or 80), seconds) as connection,
            anybody.wrap_socket(connection),
        ):
            return True
    except OSError:
        return False


def explain(error: httpx.HTTPError, url: httpx.URL) -> FederationError:
    """Why there is no answer, in words; those of the libraries may quote the other side."""
    place = place_of(url)
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError(verify_code=code):
                problem, advice = CERTIFICATE_PROBLEMS.get(
                    code,
                    ("is signed by an unknown CA", "give its CA as ssl_verify (--ssl-verify)"),
                )
                return FederationError(f"the certificate of {place} {problem}", do=advice)
            case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
                return FederationError(
                    f"the server at {place} does not speak TLS",
                    do="use http:// if you trust the way",
                )
            case ssl.SSLError(reason=str() as reason) if "ALERT" in reason:
                words = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
                return FederationError(
                    f"the server at {place} refuses the TLS connection",
                    got=words,
                    do="give a certificate that it accepts: ssl_cert and ssl_key (--ssl-cert, "
                    "--ssl-key)",
                )
            case socket.gaierror():
                return unknown_host(url)
            case ConnectionRefusedError():
                return FederationError(
                    f"no server answers at {place}",
                    got="connection refused",
                    do="start one with 'genesis federated server', or check the address",
                )
            case httpx.TimeoutException():
                return FederationError(
                    f"no server answers at {place}",
                    got="nothing in time",
                    do="check the address, and whether a firewall is in the way",
                )
            case ConnectionResetError() | httpx.RemoteProtocolError() | httpx.ReadError():
                hints = {
                    "http": "use https:// if the server has a certificate",
                    "https": "if it wants a certificate, give one that it accepts: ssl_cert and "
                    "ssl_key (--ssl-cert, --ssl-key)",
                }
                return FederationError(
                    f"the server at {place} broke off the connection", do=hints[url.scheme]
                )
            case OSError(strerror=str() as reason):
                return FederationError(
                    f"no server answers at {place}", got=reason.lower(), do="check the address"
                )
    return FederationError(
        f"no server answers at {place}", got=type(error).__name__, do="check the address"
    )


def unknown_host(url: httpx.URL) -> FederationError:
    """A name that nobody has."""
    return FederationError(f"there is no host {url.host}", do="check the address")


def _causes(error: BaseException) -> Sequence[BaseException]:
    """An error and what led to it, the first cause first: it says most."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.insert(0, following)
        following = following.__cause__ or following.__context__
    return chain


def _reason(error: OSError, otherwise: str) -> str:
    """What the system has against a file; of OpenSSL's errors, something that can be understood."""
    known = None if isinstance(error, ssl.SSLError) else error.strerror
    return known.lower() if known else otherwise
