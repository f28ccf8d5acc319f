"""`genesis federated status`."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis import __version__
from genesis.errors import FederationError

from . import options
from .group import INTERRUPTED
from .network import auth_token_file, ssl_cert, ssl_key, ssl_verify
from .outputs import say
from .status_text import ENDED, status_as_text

if TYPE_CHECKING:
    import httpx

__all__ = ["status"]

PATIENCE = 10  # seconds for an answer
AWAY = 600  # seconds after which a server that is watched counts as gone for good
MOST_BYTES = 16_000_000


@click.command(short_help="Show how a run on a server is.")
@options.option("--server", metavar="URL", required=True, help="Address of the server.")
# Not from the environment, where GENESIS_JSON is the name of a file for other commands.
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@options.option("--watch", is_flag=True, help="Go on until the run ends.")
@options.number("--interval", default=2.0, help="Seconds from one look to the next, with --watch.")
@ssl_verify
@ssl_cert
@ssl_key
@auth_token_file("The operator's token. [default: FEDERATED_OPERATOR_TOKEN]")
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

    The token is in --auth-token-file, else FEDERATED_OPERATOR_TOKEN, else FEDERATED_AUTH_TOKEN.
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
    # Here, because help texts come at once without them.
    from genesis.federated.transport.http import protocol, reach, tokens

    token = tokens.read_token(auth_token_file, (tokens.OPERATOR_TOKEN, tokens.AUTH_TOKEN))
    if token is not None:
        tokens.check_token(token)
    url = reach.server_url(server, has_token=token is not None, insecure=insecure)
    tls: ssl.SSLContext | bool = True
    if url.scheme == "https":
        tls = reach.client_tls(ssl_verify or True, ssl_cert, ssl_key)
    with closing(_client(token, tls, proxies=not protocol.is_loopback(url.host))) as client:
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


# --- watching ---


def _looks(ask: Callable[[], Any], interval: float) -> Iterator[tuple[Any, str | None]]:
    """The last status read, and why it is not the newest, until the run has ended.

    Raises:
        FederationError: The first look fails, or the server has been away for long.
    """
    found, away_since = ask(), None
    yield found, None
    while found["state"] not in ENDED:
        time.sleep(interval)
        try:
            found, away_since, problem = ask(), None, None
        except FederationError as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY:
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


# --- asking ---


def _ask(client: httpx.Client, url: httpx.URL) -> dict[str, Any]:
    """The status that the server tells.

    Raises:
        FederationError: There is no answer, or it is not the status of a run.
    """
    import httpx

    from genesis.federated.transport.http.reach import explain, place_of, unknown_host

    try:
        found = _parse(_get(client, url))
    except httpx.HTTPError as error:
        raise explain(error, url) from error
    except UnicodeError:  # from the system, of a name that no host can have
        raise unknown_host(url) from None
    if found is None:
        raise FederationError(
            f"the server at {place_of(url)} is no Genesis server",
            got="something other than the status of a run",
            do="check the address",
        )
    return found


def _get(client: httpx.Client, url: httpx.URL) -> bytearray:
    """The body of a good answer, within bounds of time and size.

    Raises:
        httpx.HTTPError: There is no answer.
        FederationError: There is, but not a good one.
    """
    import httpx

    from genesis.federated.transport.http.reach import place_of

    latest = time.monotonic() + PATIENCE
    with client.stream("GET", url.copy_with(path=url.path.rstrip("/") + "/v1/status")) as answer:
        if answer.status_code != httpx.codes.OK:
            raise _refused(answer, url)
        body = bytearray()
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > MOST_BYTES:
                raise FederationError(
                    f"the status at {place_of(url)} is too long",
                    got=f"more than {MOST_BYTES:,} bytes",
                    do="check the address",
                )
            if time.monotonic() > latest:
                raise httpx.ReadTimeout("the answer comes too slowly")
        return body


def _parse(body: bytearray) -> dict[str, Any] | None:
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


# --- what is wrong ---


def _refused(answer: httpx.Response, url: httpx.URL) -> FederationError:
    """An answer that is not a status, in words."""
    import httpx

    from genesis.federated.transport.http.reach import place_of

    place, code = place_of(url), answer.status_code
    if code in (401, 403) and "authorization" in answer.request.headers:
        what, advice = "refuses the token", "use the operator's, which the server was started with"
    elif code in (401, 403):
        what, advice = "wants a token", "set FEDERATED_OPERATOR_TOKEN or --auth-token-file"
    elif answer.is_redirect:
        what, advice = "sends us elsewhere", "give the address it redirects to as --server"
    elif answer.is_server_error:
        what, advice = "has an error of its own", "see what it logs"
    elif code == httpx.codes.TOO_MANY_REQUESTS:
        what, advice = "is asked too often", "wait for a minute"
    else:
        what, advice = "is no Genesis server", "check the address"
    return FederationError(f"the server at {place} {what}", got=f"status {code}", do=advice)
