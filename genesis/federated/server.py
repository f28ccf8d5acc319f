"""A federation whose clients are on other machines: `FederatedServer`."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from genesis import __version__
from genesis.errors import DataError, GenesisError, PlanError
from genesis.federated.callbacks import Callback, CheckpointCallback
from genesis.federated.checkpoint import Checkpoint, checkpoint_seed
from genesis.federated.plan import check_number, check_whole
from genesis.federated.rounds import Federation
from genesis.federated.run import FederatedRun
from genesis.federated.status import run_status
from genesis.federated.transport.http.app import create_app
from genesis.federated.transport.http.hub import Hub
from genesis.federated.transport.http.listener import TLS, Listener
from genesis.federated.transport.http.protocol import is_loopback
from genesis.federated.transport.http.tokens import (
    OPERATOR_TOKEN,
    Tokens,
    read_token,
    read_tokens,
)
from genesis.federated.transport.http.transport import HttpTransport
from genesis.schema import Schema
from genesis.tables import make_private_folder, write_private

__all__ = ["FederatedServer"]

log = logging.getLogger(__name__)

SESSIONS = "sessions.json"  # hashes of sessions' secrets, beside the checkpoint


class FederatedServer(FederatedRun):
    """Trains one generator with clients on other machines.

    Every choice of `Plan` is an argument here. Beyond this machine the server listens only with TLS
    and tokens (or client certificates); without, it stays at 127.0.0.1 and warns.

    Args:
        host: Address to listen at: "127.0.0.1" for this machine, "0.0.0.0" for all networks.
        port: Its port; 0 for a free one, which `port` then names.
        method: "ctgan" or "tvae".
        config: Arguments of the model.
        callbacks: Called at the start, after every round and at the end.
        schema: Kinds and types of the columns; agreed on by the clients if None. With one, a
            client whose table does not fit is refused when it joins.
        device: Where the server generates: "auto", "cpu" or "cuda".
        auth_token: One token for all clients, or client id -> token;
            the environment's FEDERATED_AUTH_TOKEN if None.
        operator_token: Opens status, page and metrics; FEDERATED_OPERATOR_TOKEN if None, or else
            the clients' shared token.
        ssl_cert: PEM file with the server's certificate.
        ssl_key: PEM file with the key to it.
        ssl_ca: PEM file of the authority whose certificates clients must show; a client's id is
            then the name in its certificate.
        insecure: Listen at host even without TLS or tokens: for a network that is private already.
        checkpoint: Folder to save every round in.
        resume: Continue from checkpoint, if it holds one.
        expect_clients: Clients to wait for before the run begins, if they join in time; min_clients
            if None. Whoever comes after that is too late.
        join_timeout: Seconds to wait for them.
        patience: Seconds of silence after which a round goes on without a client, if enough others
            have answered.
        **choices: The other choices of `Plan`: n_rounds, min_clients, client_fraction,
            aggregation, timeout_seconds (of a round), …

    Raises:
        PlanError: A choice is unknown or impossible, or two contradict each other; a token is too
            short; a certificate cannot be used.
    """

    _first = "start"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        method: str = "ctgan",
        config: Mapping[str, Any] | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        schema: Schema | None = None,
        device: str | torch.device = "auto",
        auth_token: str | Mapping[str, str] | None = None,
        operator_token: str | None = None,
        ssl_cert: str | Path | None = None,
        ssl_key: str | Path | None = None,
        ssl_ca: str | Path | None = None,
        insecure: bool = False,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        expect_clients: int | None = None,
        join_timeout: float = 600.0,
        patience: float = 60.0,
        **choices: Any,
    ) -> None:
        super().__init__(
            method, config, callbacks=callbacks, schema=schema, device=device, **choices
        )
        self._tls = _tls(ssl_cert, ssl_key, ssl_ca)
        self._tokens = Tokens(
            read_tokens() if auth_token is None else auth_token,
            read_token(names=(OPERATOR_TOKEN,)) if operator_token is None else operator_token,
        )
        missing = _missing(self._tls, self._tokens)
        self.port = port
        self.host = host
        if not is_loopback(host) and missing and not insecure:
            log.warning(
                "listening at 127.0.0.1 instead of %s, because there is no %s: whoever reaches the "
                "server could read or join the run; give it, or say insecure=True (--insecure)",
                host,
                missing,
            )
            self.host = "127.0.0.1"
        if resume and checkpoint is None:
            raise PlanError("there is nothing to resume from", do="set checkpoint to a folder")
        if self.plan.scheme is not None and self.plan.stateful:
            raise PlanError(
                "with secure aggregation, clients elsewhere keep no networks or control variates "
                "of their own: a server could spoil them, so that a sum is the update of one",
                do='synchronize "both" networks, and choose another rule than scaffold',
            )
        self._expected = check_whole("expect_clients", expect_clients, 1) or 0
        check_number("join_timeout", join_timeout)
        check_number("patience", patience)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._resume, self._join_timeout, self._patience = resume, join_timeout, patience
        self._federation: Federation | None = None
        self._hub: Hub | None = None
        self._started = 0.0
        self._ended: tuple[str, str | None] | None = None

    @property
    def url(self) -> str:
        """Where clients on this machine find the server."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    def start(self) -> FederatedServer:
        """Listen, train with the clients that join, and return when they have the final model.

        Ctrl-C ends it; clients then wait for the server to come back.

        Raises:
            FederationError: The port is in use; fewer than min_clients clients joined in time, or
                came through a round.
            SchemaError: The clients' tables do not fit together.
            TrainingError: A loss is not finite; `model` is then the last good state.
            PlanError: This machine does not have the address; or the checkpoint had another plan.
            ModelFileError: The checkpoint is damaged.
            DataError: The checkpoint's folder cannot be made.
        """
        earlier, welcome = self._earlier(), self._welcome()
        listener = Listener(self.host, self.port, self._tls)
        self.port = listener.port
        self._started, self._ended = time.monotonic(), None
        hub = Hub(
            __version__,
            max_clients=self.plan.max_clients,
            patience=self._patience,
            on_change=self._remember if self._checkpoint is not None else None,
        )
        if earlier is not None:
            hub.expect({name: self._secrets().get(name) for name in earlier.numbers})
        fewest = self.plan.min_clients
        transport = HttpTransport(hub, listener, fewest)
        callbacks = list(self._callbacks)
        if self._checkpoint is not None:
            callbacks.insert(0, CheckpointCallback(self._checkpoint, strict=False))
        federation = Federation(self.plan, transport, tuple(callbacks), self._schema)
        self._federation, self._hub = federation, hub
        try:
            listener.start(create_app(hub, self._tokens, self.status, welcome))
            log.info("listening at %s", self.url)
            names = list(earlier.numbers) if earlier else ()
            transport.wait_for(names, fewest, self._join_timeout, expected=self._expected)
            federation.run(self._checkpoint if earlier is not None else None)
            self._ended = "complete", None
        except GenesisError as error:
            self._ended = "failed", str(error)
            raise
        except Exception as error:
            self._ended = "failed", f"an unexpected {type(error).__name__}"
            raise
        except BaseException:
            self._ended = "interrupted", None
            raise
        finally:
            self._adopt(federation)
            state, reason = self._ended or ("interrupted", None)
            transport.close(state, reason)
        self._complete()
        return self

    def status(self) -> dict[str, Any]:
        """How far the run is; see `status.run_status`.

        Raises:
            PlanError: The server was not started yet.
        """
        if self._federation is None or self._hub is None:
            raise PlanError("the server was not started yet", do="call start first")
        return run_status(self._federation, self._hub, self._started, self._ended)

    def _welcome(self) -> dict[str, Any]:
        """What clients are told when they join."""
        schema = self._schema
        if schema is not None:
            schema = schema.discretise(self.plan.discrete_columns).settle()
        return {
            "method": self.plan.method,
            "n_rounds": self.plan.n_rounds,
            "schema": None if schema is None else schema.to_dict(),
        }

    def _earlier(self) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one."""
        folder = self._checkpoint
        if folder is None:
            return None
        make_private_folder(folder)
        if not self._resume or not Checkpoint.is_in(folder):
            return None
        if not self._seeded:
            self.plan = dataclasses.replace(self.plan, seed=checkpoint_seed(folder))
        return Checkpoint.read(folder, self.plan)

    def _secrets(self) -> dict[str, str]:
        """Hashes of the sessions' secrets that the server before this one gave."""
        assert self._checkpoint is not None
        try:
            found = json.loads((self._checkpoint / SESSIONS).read_text(encoding="utf-8"))
            return {str(name): str(secret) for name, secret in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}  # clients then join again

    def _remember(self, secrets: Mapping[str, str]) -> None:
        """Keep the hashes, so that sessions outlive the server."""
        assert self._checkpoint is not None
        try:
            write_private(self._checkpoint / SESSIONS, json.dumps(dict(secrets)))
        except DataError as error:
            log.warning("sessions will not outlive the server: %s", error)


def _tls(
    certificate: str | Path | None, key: str | Path | None, authority: str | Path | None
) -> TLS | None:
    """The certificates that were given."""
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise PlanError("a certificate and its key go together", do="give ssl_cert and ssl_key")
    tls = TLS(Path(certificate), Path(key), None if authority is None else Path(authority))
    tls.context()  # what is wrong with them is said now
    return tls


def _missing(tls: TLS | None, tokens: Tokens) -> str:
    """What a server lacks that others can reach."""
    lacks = [] if tls is not None else ["TLS (ssl_cert, ssl_key)"]
    if tokens.open and (tls is None or tls.authority is None):
        lacks.append("token (FEDERATED_AUTH_TOKEN)")
    return " and no ".join(lacks)
