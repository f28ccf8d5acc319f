"""What the commands of servers and clients share: options, log lines, and a clean end."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from genesis.errors import printable

from . import options

__all__ = [
    "auth_token_file",
    "insecure",
    "lines_on_stderr",
    "ssl_cert",
    "ssl_key",
    "ssl_verify",
    "stops_on_term",
]

TERMINATED = 143  # what a shell reports for a program that SIGTERM ended

ssl_cert = options.option(
    "--ssl-cert", type=options.FILE, metavar="FILE", help="Certificate to show, PEM."
)
ssl_key = options.option("--ssl-key", type=options.FILE, metavar="FILE", help="Its key, PEM.")
ssl_verify = options.option(
    "--ssl-verify",
    type=options.FILE,
    metavar="CA",
    help="Authority of the server's certificate, PEM. [default: those that this machine trusts]",
)
insecure = options.option(
    "--insecure", is_flag=True, help="Do without TLS and tokens on a network that is private."
)


def auth_token_file(help_text: str) -> options.Decorator:
    """Where tokens are; never on the command line, which others on the machine can read."""
    return options.option("--auth-token-file", type=options.FILE, metavar="FILE", help=help_text)


@contextmanager
def stops_on_term() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that connections and files are closed."""

    def stop(*_: object) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def lines_on_stderr(*, quiet: bool) -> Iterator[None]:
    """Show what the program has to say while it runs; if quiet, its warnings alone."""
    log = logging.getLogger("genesis")
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s %(message)s", "%H:%M:%S"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class _Lines(logging.Formatter):
    """One line for each record; a traceback is for --debug."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(logging.makeLogRecord({**vars(record), "exc_info": None}))
        if record.levelno >= logging.WARNING:
            time, _, message = text.partition(" ")
            text = f"{time} warning: {message}"
        # What others have named themselves commands no terminal.
        return printable(text)
