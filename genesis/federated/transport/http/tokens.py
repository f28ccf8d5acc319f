"""Bearer tokens: who may join, and who may look.

Tokens are kept as hashes, all of the same length, and all of them are compared with what was given,
in constant time: how long it takes says neither how much of a token was right nor whose it is.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from genesis.errors import PlanError

__all__ = [
    "ANYONE",
    "AUTH_TOKEN",
    "OPERATOR_TOKEN",
    "Tokens",
    "check_token",
    "read_token",
    "read_tokens",
]

AUTH_TOKEN = "FEDERATED_AUTH_TOKEN"  # the environment variable, also with _FILE at its end
OPERATOR_TOKEN = "FEDERATED_OPERATOR_TOKEN"
ANYONE = ""  # owner of a token that all clients share
LONGEST = 4096  # characters; a header is not much longer
SHORTEST = 16  # characters; 16 random ones are out of reach, and words of 8 are not


class Tokens:
    """The tokens that a server takes.

    Args:
        clients: One token for all clients, client id -> token, or None to let anybody in.
        operator: Who may see status, page and metrics; whoever has the shared token if None.

    Raises:
        PlanError: A token is too short, or cannot stand in a header; or two clients have the same.
    """

    def __init__(
        self, clients: str | Mapping[str, str] | None = None, operator: str | None = None
    ) -> None:
        self.open = clients is None
        given = {ANYONE: clients} if isinstance(clients, str) else dict(clients or {})
        if clients is not None and not given:
            raise PlanError("there is no client among the tokens", do="give one for each client")
        self._clients: dict[bytes, str] = {}
        for name, token in given.items():
            what = f"the token of client '{name}'" if name else "auth_token"
            self._clients[_hash(check_token(token, what))] = name
        if len(self._clients) < len(given):
            raise PlanError("two clients have the same token", do="give each one of its own")
        self._shared = isinstance(clients, str)
        self._operator: bytes | None = None
        if operator is not None:
            self._operator = _hash(check_token(operator, "operator_token"))
        if self._operator in self._clients and not self._shared:
            raise PlanError("a client has the operator's token", do="give each one of its own")

    def owner(self, token: str | None) -> str | None:
        """Whose token it is: a client id, `ANYONE`, or None for nobody's."""
        if self.open:
            return ANYONE
        found, given = None, _hash(token or "")
        for known, name in self._clients.items():
            if hmac.compare_digest(known, given):
                found = name
        return found

    def is_operator(self, token: str | None) -> bool:
        """Whether a token opens status, page and metrics."""
        if self._operator is not None:
            return hmac.compare_digest(self._operator, _hash(token or ""))
        return self.open or (self._shared and self.owner(token) is not None)


def check_token(token: str, what: str = "the token") -> str:
    """A token that can stand in a header and cannot be guessed.

    Raises:
        PlanError: It is something else. The message does not hold it.
    """
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise PlanError(f"{what} must be printable ASCII without spaces", do="make another one")
    if len(token) < SHORTEST:
        raise PlanError(
            f"{what} is too short",
            got=f"{len(token)} characters, at least {SHORTEST} are needed",
            do="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    if len(token) > LONGEST:
        raise PlanError(
            f"{what} is too long",
            got=f"{len(token)} characters, at most {LONGEST} can be sent",
            do="check that it is the token",
        )
    return token


def read_tokens(
    path: Path | None = None, environment: Mapping[str, str] = os.environ
) -> str | dict[str, str] | None:
    """A server's tokens, from a file or the environment; None if there are none.

    Args:
        path: A file with one line, the token of all clients; or TOML, client id = "token".
        environment: Where FEDERATED_AUTH_TOKEN is looked for, or FEDERATED_AUTH_TOKEN_FILE.

    Raises:
        PlanError: The file cannot be read, or holds something else.
    """
    if path is None and (token := environment.get(AUTH_TOKEN, "").strip()):
        return token
    if path is None and (named := environment.get(f"{AUTH_TOKEN}_FILE", "").strip()):
        path = Path(named)
    if path is None:
        return None
    text = _read(path)
    if "=" not in text.rstrip("="):
        return text
    try:
        tokens = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        tokens = {}
    if not tokens or not all(isinstance(token, str) for token in tokens.values()):
        raise PlanError(
            f"{path} holds no tokens", do='write one token, or client_id = "token" for each client'
        )
    return tokens


def read_token(
    path: Path | None = None,
    names: tuple[str, ...] = (AUTH_TOKEN,),
    environment: Mapping[str, str] = os.environ,
) -> str | None:
    """One token, from a file or the environment; None if there is none.

    Args:
        path: A file with one line.
        names: Environment variables, the first one that is there counts; with _FILE at the end of
            its name it holds the path of a file.
        environment: Where they are looked for.

    Raises:
        PlanError: The file cannot be read.
    """
    if path is not None:
        return _read(path)
    for name in names:
        if token := environment.get(name, "").strip():
            return token
        if named := environment.get(f"{name}_FILE", "").strip():
            return _read(Path(named))
    return None


def _read(path: Path) -> str:
    """The text of a file of tokens."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise PlanError(
            f"the token file {path} cannot be read", got=got, do="check its name and its mode"
        ) from None
    if not text:
        raise PlanError(f"the token file {path} is empty", do="write a token into it")
    return text


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
