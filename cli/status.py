"""`genesis federated status`."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis import __version__
from genesis.errors import FederationError, PlanError
from genesis.progress import losses_as_text

from . import options
from .group import INTERRUPTED
from .outputs import say

if TYPE_CHECKING:
    import httpx

__all__ = ["status", "status_as_text"]

ENDED = ("complete", "failed", "interrupted")
PATIENCE = 10  # seconds for an answer
AWAY = 600  # seconds after which a server that is watched counts as gone for good
MOST_BYTES = 16_000_000
TOKENS = ("FEDERATED_OPERATOR_TOKEN", "FEDERATED_AUTH_TOKEN")

CERTIFICATE_PROBLEMS = {
    9: ("is not valid yet", "check the clocks of both machines"),
    10: ("has expired", "renew the server's certificate"),
    62: ("is for another host", "use a name that the certificate holds"),
    64: ("is for another host", "use an address that the certificate holds"),
}
"""Number that OpenSSL gives a failed verification -> what it means, and what to do. The others
come from not knowing who signed."""


@click.command(short_help="Show how a run on a server is.")
@options.option("--server", metavar="URL", required=True, help="Address of the server.")
# Not from the environment, where GENESIS_JSON is the name of a file for other commands.
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@options.option("--watch", is_flag=True, help="Go on until the run ends.")
@options.number("--interval", default=2.0, help="Seconds from one look to the next, with --watch.")
@options.option(
    "--ssl-verify",
    type=options.FILE,
    metavar="CA",
    help="Certificate of the CA that signed the server's. [default: the public ones]",
)
@options.option("--ssl-cert", type=options.FILE, metavar="FILE", help="Certificate of your own.")
@options.option("--ssl-key", type=options.FILE, metavar="FILE", help="Its private key.")
@options.option(
    "--auth-token-file",
    type=options.FILE,
    metavar="FILE",
    help="File with the token on one line, if it is not in the environment.",
)
@options.option(
    "--insecure", is_flag=True, help="Send the token even where others on the way can read it."
)
def status(
    server: str,
    as_json: bool,
    watch: bool,
    interval: float,
    ssl_verify: Path | None,
    ssl_cert: Path | None,
    ssl_key: Path | None,
    auth_token_file: Path | None,
    insecure: bool,
) -> None:
    """Show how a run on a server is: its state, its rounds and its clients.

    The token is FEDERATED_OPERATOR_TOKEN, else FEDERATED_AUTH_TOKEN, else in --auth-token-file.
    Without --insecure it is sent over https alone, or to this machine. A run that has failed is
    not an error of this command: read the state.

    \b
    Examples:
      genesis federated status --server http://127.0.0.1:8000
      genesis federated status --server https://coordinator.example.com:8000 \\
          --ssl-verify ca.crt --watch
      genesis federated status --server http://127.0.0.1:8000 --json | jq .round
    """
    if (ssl_cert is None) != (ssl_key is None):
        raise click.UsageError("--ssl-cert and --ssl-key need each other")
    if not 0.1 <= interval <= 86_400:
        raise click.UsageError("--interval must be from 0.1 to 86400 seconds")
    url = _read_url(server)
    token = _read_token(auth_token_file)
    if token and url.scheme == "http" and not _is_loopback(url.host) and not insecure:
        raise PlanError(
            f"a token for {url.host} could be read on its way",
            got="an address with http://",
            do="use https://, or --insecure if nobody listens",
        )
    tls = _tls(ssl_verify, ssl_cert, ssl_key) if url.scheme == "https" else True
    with closing(_client(token, tls, proxies=not _is_loopback(url.host))) as client:
        ask = partial(_ask, client, url)
        if not watch:
            found = ask()
            click.echo(json.dumps(found, indent=2) if as_json else status_as_text(found))
            return
        try:
            if as_json:
                _watch(ask, interval, lambda found: click.echo(json.dumps(found)))
            elif sys.stdout.isatty():
                _watch_in_place(ask, interval)
            else:
                _watch(ask, interval, lambda found: click.echo(f"{status_as_text(found)}\n"))
        except KeyboardInterrupt:  # the usual way to stop watching, and so not worth a message
            click.get_current_context().exit(INTERRUPTED)


# Watching.


def _looks(ask: Callable[[], Any], interval: float) -> Iterator[tuple[Any, str | None]]:
    """The last status read, and why it is not the newest, until the run has ended.

    Raises:
        FederationError: The first look fails, or the server has been away for long.
    """
    found, answered = ask(), time.monotonic()
    yield found, None
    while found["state"] not in ENDED:
        time.sleep(interval)
        try:
            found, answered, problem = ask(), time.monotonic(), None
        except FederationError as error:
            if time.monotonic() - answered > AWAY:
                raise
            problem = str(error)
        yield found, problem


def _watch(
    ask: Callable[[], Any], interval: float, show: Callable[[Mapping[str, Any]], None]
) -> None:
    """Show one status after the other; on stderr, when the server goes away and returns."""
    away = False
    for found, problem in _looks(ask, interval):
        if problem and not away:
            say(f"{problem}; asking again", quiet=False)
        elif away and not problem:
            say("the server answers again", quiet=False)
        away = problem is not None
        if not away:
            show(found)


def _watch_in_place(ask: Callable[[], Any], interval: float) -> None:
    """Show the newest status at one place of the terminal."""
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        for found, problem in _looks(ask, interval):
            lines = status_as_text(found)
            if problem:
                lines += f"\n\nNot the newest: {problem}; asking again"
            live.update(Text(lines, no_wrap=True, overflow="ellipsis"), refresh=True)


# Asking.


def _ask(client: httpx.Client, url: httpx.URL) -> dict[str, Any]:
    """The status that the server tells.

    Raises:
        FederationError: There is no answer, or it is not the status of a run.
    """
    import httpx

    try:
        found = _parse(_get(client, url))
    except httpx.HTTPError as error:
        raise _explain(error, url) from error
    except UnicodeError:  # from the system, of a name that no host can have
        raise _unknown_host(url) from None
    if found is None:
        raise FederationError(
            f"the server at {_place(url)} is no Genesis server",
            got="something other than the status of a run",
            do="check the address",
        )
    return found


def _get(client: httpx.Client, url: httpx.URL) -> bytes:
    """The body of a good answer, within bounds of time and size.

    Raises:
        httpx.HTTPError: There is no answer.
        FederationError: There is, but not a good one.
    """
    import httpx

    latest = time.monotonic() + PATIENCE
    with client.stream("GET", url.copy_with(path=url.path.rstrip("/") + "/v1/status")) as answer:
        if answer.status_code != httpx.codes.OK:
            raise _refused(answer, url)
        body = b""
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > MOST_BYTES:
                raise FederationError(
                    f"the status at {_place(url)} is too long",
                    got=f"more than {MOST_BYTES:,} bytes",
                    do="check the address",
                )
            if time.monotonic() > latest:
                raise httpx.ReadTimeout("the answer comes too slowly")
        return body


def _parse(body: bytes) -> dict[str, Any] | None:
    """The status in a body; None if there is none."""
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return found if _is_status(found) else None


def _no_number(name: str) -> float:
    """Refuse NaN and Infinity, which are no JSON, though Python reads and writes them."""
    raise ValueError(name)


def _is_status(found: Any) -> bool:
    """Whether a value has what every status has."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("state"), str)
        and all(type(found.get(key)) is int for key in ("round", "n_rounds"))
        and all(
            isinstance(found.get(key), list) and all(isinstance(each, dict) for each in found[key])
            for key in ("clients", "rounds")
        )
    )


def _client(token: str | None, tls: ssl.SSLContext | bool, *, proxies: bool) -> httpx.Client:
    """A client that sends the token to one address and follows no redirect."""
    import httpx

    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    headers["User-Agent"] = f"genesis/{__version__}"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    # What goes to this machine must not go round by a proxy, which would leave it.
    return httpx.Client(headers=headers, verify=tls, timeout=PATIENCE, trust_env=proxies)


# What is wrong.


def _refused(answer: httpx.Response, url: httpx.URL) -> FederationError:
    """An answer that is not a status, in words."""
    import httpx

    place, code = _place(url), answer.status_code
    if code in (401, 403):
        if "authorization" not in answer.request.headers:
            return FederationError(
                f"the server at {place} wants a token", do=f"set {TOKENS[0]} or --auth-token-file"
            )
        return FederationError(
            f"the server at {place} refuses the token",
            got=f"status {code}",
            do="use the operator's token that the server was started with",
        )
    if answer.is_redirect:
        what, advice = "sends us elsewhere", "give the address it redirects to as --server"
    elif answer.is_server_error:
        what, advice = "has an error of its own", "see what it logs"
    elif code == httpx.codes.TOO_MANY_REQUESTS:
        what, advice = "is asked too often", "wait for a minute"
    else:
        what, advice = "is no Genesis server", "check the address"
    return FederationError(f"the server at {place} {what}", got=f"status {code}", do=advice)


def _explain(error: httpx.HTTPError, url: httpx.URL) -> FederationError:
    """Why there is no answer, in words; those of the libraries may quote the other side."""
    import httpx

    place = _place(url)
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError(verify_code=code):
                problem, advice = CERTIFICATE_PROBLEMS.get(
                    code, ("is signed by an unknown CA", "give that CA as --ssl-verify")
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
                    do="give a certificate that it accepts as --ssl-cert and --ssl-key",
                )
            case socket.gaierror():
                return _unknown_host(url)
            case ConnectionRefusedError():
                return FederationError(
                    f"no server answers at {place}",
                    got="connection refused",
                    do="start one with 'genesis federated server', or check the address",
                )
            case httpx.TimeoutException():
                return FederationError(
                    f"no server answers at {place}",
                    got=f"nothing in {PATIENCE} s",
                    do="check the address, and whether a firewall is in the way",
                )
            case ConnectionResetError() | httpx.RemoteProtocolError() | httpx.ReadError():
                hint = "use https:// if the server has a certificate"
                return FederationError(
                    f"the server at {place} broke off the connection",
                    do=hint if url.scheme == "http" else "see what it logs",
                )
            case OSError(strerror=str() as reason):
                return FederationError(
                    f"no server answers at {place}", got=reason.lower(), do="check the address"
                )
    return FederationError(
        f"no server answers at {place}", got=type(error).__name__, do="check the address"
    )


def _unknown_host(url: httpx.URL) -> FederationError:
    return FederationError(f"there is no host {url.host}", do="check the address")


def _causes(error: BaseException) -> Sequence[BaseException]:
    """An error and what led to it, the first cause first: it says most."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.insert(0, following)
        following = following.__cause__ or following.__context__
    return chain


# Where to ask, and as whom.


def _read_url(text: str) -> httpx.URL:
    """The address of a server.

    Raises:
        PlanError: It is not one. What is wrong is not quoted, as it may hold a password.
    """
    import httpx

    advice = "give one like https://coordinator.example.com:8000"
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise PlanError("the address of the server cannot be read", do=advice) from None
    if url.scheme not in ("http", "https"):
        raise PlanError("the address of the server has no http:// or https://", do=advice)
    if not url.host or not 0 < (url.port or 80) < 65_536:
        raise PlanError("the address of the server has no host, or no such port", do=advice)
    if url.userinfo:
        raise PlanError(
            "the address of the server holds a user or a password",
            do=f"set the token as {TOKENS[0]} or --auth-token-file",
        )
    if url.query or url.fragment:
        raise PlanError("the address of the server has a ? or #", do=advice)
    return url


def _place(url: httpx.URL) -> str:
    """An address for messages, without its path."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this machine; without asking anybody."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_token(path: Path | None) -> str | None:
    """The token, if there is one anywhere. An empty variable is as good as none.

    Raises:
        PlanError: It cannot be read, or cannot be sent in a header.
    """
    for name in TOKENS:
        if token := os.environ.get(name, "").strip():
            return _checked(token, name)
    return _checked(_one_line(path), str(path)) if path else None


def _one_line(path: Path) -> str:
    """The only line of a file."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(65_537).strip()
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise PlanError(f"the token in {path} cannot be read", got=got) from None
    return text


def _checked(token: str, source: str) -> str:
    """A token that a header can hold; never quoted."""
    if re.fullmatch(r"[!-~]{1,4096}", token):
        return token
    raise PlanError(
        f"the token in {source} cannot be used",
        got="nothing" if not token else "more than one line of ASCII without spaces",
        do="put the token there, and nothing else",
    )


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """How to know the server, and how to be known by it.

    Raises:
        PlanError: A file cannot be used.
    """
    import httpx

    try:
        context = ssl.create_default_context(cafile=ca) if ca else httpx.create_ssl_context()
    except OSError as error:
        raise PlanError(
            f"the CA {ca} cannot be used", got=_reason(error, "no certificate")
        ) from None
    if certificate and key:
        try:
            # Without a password, OpenSSL would ask for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            got = _reason(error, "no PEM files that fit together, or a key with a password")
            raise PlanError(f"{certificate} and {key} cannot be used", got=got) from None
    return context


def _reason(error: OSError, otherwise: str) -> str:
    """What the system has against a file; of OpenSSL's errors, something that can be understood."""
    known = None if isinstance(error, ssl.SSLError) else error.strerror
    return known.lower() if known else otherwise


# The status as text.


def status_as_text(found: Mapping[str, Any]) -> str:
    """A status for a person at a terminal. Values of other kinds than expected are dashes."""
    rounds, clients = found["rounds"], found["clients"]
    last = rounds[-1] if rounds else {}
    state = _plain(found["state"])
    if found.get("reason"):
        state += f": {_plain(found['reason'])}"
    speed, epsilon = _number(found.get("rows_per_second")), _number(found.get("epsilon"))
    traffic = [f"{_bytes(found.get(f'bytes_{way}'))} {way}" for way in ("received", "sent")]
    lines = {
        "state": state,
        "round": _progress(found),
        "losses": _losses(last),
        "missed": _missed(last),
        "run": ", ".join(
            _plain(found[key]) for key in ("method", "aggregation") if found.get(key) is not None
        ),
        "privacy": "no differential privacy" if epsilon is None else f"ε {epsilon:.4g} spent",
        "traffic": ", ".join([*([f"{speed:,.0f} rows/s"] if speed is not None else []), *traffic]),
    }
    text = "\n".join(f"{name:9}{value}" for name, value in lines.items() if value)
    return f"{text}\n\n{_client_table(clients)}" if clients else f"{text}\n\nno clients yet"


def _progress(found: Mapping[str, Any]) -> str:
    """How far the run has come, and for how long it goes on."""
    parts = [f"{found['round']:,} of {found['n_rounds']:,}"]
    if _number(found.get("seconds")) is not None:
        parts.append(f"{_time(found['seconds'])} so far")
    if _number(found.get("seconds_left")) is not None and found["state"] not in ENDED:
        parts.append(f"about {_time(found['seconds_left'])} left")
    return ", ".join(parts)


def _losses(report: Mapping[str, Any]) -> str:
    """The losses of a round."""
    metrics = report.get("metrics")
    if not isinstance(metrics, dict):
        return ""
    return losses_as_text(
        {_plain(name): value for name, value in metrics.items() if _number(value) is not None}
    )


def _missed(report: Mapping[str, Any]) -> str:
    """Who gave no update in a round, and why."""
    failed, dropped = report.get("failed"), report.get("dropped")
    parts = [
        f"{_plain(client)} ({_plain(why)})"
        for client, why in (failed.items() if isinstance(failed, dict) else ())
    ]
    parts += [
        f"{_plain(client)} (no answer)" for client in (dropped if isinstance(dropped, list) else ())
    ]
    return ", ".join(parts)


def _client_table(clients: Sequence[Mapping[str, Any]]) -> str:
    """A line for every client; letters may be two columns wide or none."""
    from rich.cells import cell_len

    rows = [("client", "state", "last seen", "rows", "task", "rounds")]
    for client in clients:
        seen = _number(client.get("last_seen"))
        rows.append(
            (
                _plain(client.get("client_id"), most=40),
                _plain(client.get("state")),
                "–" if seen is None else f"{_time(seen)} ago",
                _count(client.get("rows")),
                _plain(client.get("task")),
                _count(client.get("rounds")),
            )
        )
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (text, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(text))
            cells.append(space + text if place in (2, 3, 5) else text + space)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, moves of the cursor
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links
    r"|\x1b[@-Z\\^_]?"
)
JOINERS = "\u200c\u200d"  # which emoji and some scripts need


def _plain(text: Any, most: int = 200) -> str:
    """A text of unknown origin on one line, without anything that commands a terminal."""
    if text is None:
        return "–"
    line = " ".join(ESCAPES.sub("", str(text)).split())
    line = "".join(sign if sign.isprintable() or sign in JOINERS else "\ufffd" for sign in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _number(value: Any) -> float | None:
    """A number that makes sense here; None for anything else."""
    good = type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e18
    return value if good else None


def _count(value: Any) -> str:
    """A number of things."""
    number = _number(value)
    return "–" if number is None else f"{number:,.0f}"


def _time(seconds: float) -> str:
    """A duration in at most two units."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02d} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min"


def _bytes(value: Any) -> str:
    """A size in decimal units."""
    size = _number(value)
    if size is None:
        return "–"
    if size < 1000:
        return f"{size:.0f} B"
    units = ["kB", "MB", "GB", "TB"]
    size /= 1000
    while size >= 999.95 and len(units) > 1:  # which would be rounded to 1000.0
        size /= 1000
        del units[0]
    return f"{size:,.1f} {units[0]}"
