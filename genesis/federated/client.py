"""One organisation's part in a federation over a network: `FederatedClient`."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from genesis.blocks import TableBlocks
from genesis.devices import resolve_device
from genesis.errors import DataError, FederationError, PlanError, printable
from genesis.federated.callbacks.handlers import call_with_named, check_handler
from genesis.federated.choices import LocalChoices
from genesis.federated.final_model import final_model
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts
from genesis.federated.plan import check_number, check_whole
from genesis.federated.secagg import FEWEST, scheme
from genesis.federated.secagg.identity import Identity, Trust, own_trust
from genesis.federated.secure_shard import SecureShard
from genesis.federated.shard import Shard
from genesis.federated.shard_rows import shard_rows
from genesis.federated.transport.body import check_compression
from genesis.federated.transport.http.connection import Connection, Received
from genesis.federated.transport.http.reach import client_tls
from genesis.federated.transport.http.reach import server_url as read_url
from genesis.federated.transport.http.tokens import check_token, read_token
from genesis.privacy.budget import Privacy
from genesis.progress import losses_as_text
from genesis.schema import Schema
from genesis.synthesizer import Synthesizer
from genesis.tables import make_private_folder, write_private

__all__ = ["FederatedClient"]

log = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., object])

SESSION = "session.json"  # the secret of this client's session, beside its checkpoints
TOLD = ("metrics", "round_num", "n_rounds", "seconds", "client")  # what a handler can name


class FederatedClient:
    """Takes part in a federated run with a table that never leaves this machine.

    Args:
        server_url: The server's address, such as "https://server.example:8000".
        client_id: Name of this client in the run; this machine's name if None.
        local_epochs: Epochs in each round, instead of the server's.
        batch_size: Rows of a step, instead of the server's.
        learning_rate: Learning rate, instead of the server's.
        privacy: ``{"differential_privacy": {"epsilon": 1.0, "delta": 1e-5, …}}``, what this client
            promises to its own records, whatever the server asks: see `privacy.budget.Privacy`.
            With a "ledger" all runs are written down, and none goes beyond the "budget".
        compression: "gzip", "zstd" or None, for what is sent and received.
        retry_attempts: Least number of times that a request is sent again; 0 for none.
        timeout_seconds: How long the server may be away before the client gives up.
        max_grad_norm: Largest L2 norm of the change of the parameters in a round; the server can
            ask for less, never for more.
        clip_per_layer: Clip each of the L tensors to max_grad_norm / sqrt(L) instead of the whole.
        verbose: Write a line to stderr for each round.
        ssl_verify: True to trust the authorities that this machine trusts, or the PEM file of
            another one. False trusts anybody.
        ssl_cert: PEM file with this client's certificate, for a server that wants one.
        ssl_key: PEM file with the key to it.
        auth_token: The bearer token; the environment's FEDERATED_AUTH_TOKEN if None.
        insecure: Send the token over plain HTTP too: for a network that is private already.
        schema: Kinds and types of the columns; inferred if None.
        device: "auto", "cpu" or "cuda".
        secure_aggregation: Whether this client insists that the server learns sums alone: True for
            any scheme, or the name of one. A client with a roster insists on some.
        identity: File with this client's key, see `secagg.identity`; a new key if None.
        roster: File with the keys of all clients, which secure aggregation needs.
        trust_on_first_use: Believe the server about keys that the roster does not have, and write
            them down there. Whoever runs the server could then put itself in between.
        min_clients: Clients that a secure sum must be over for this one to take part in it.
        checkpoint: Folder for what this client needs to go on if it is stopped: its session, model
            and optimiser. Without one, a client that was stopped goes on with the global model; and
            if it promises privacy, not at all, for it would release again what it has released.

    Raises:
        PlanError: A choice is impossible.
    """

    def __init__(
        self,
        server_url: str,
        client_id: str | None = None,
        *,
        local_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        privacy: Mapping[str, Any] | None = None,
        compression: str | None = None,
        retry_attempts: int = 3,
        timeout_seconds: float = 300.0,
        max_grad_norm: float | None = None,
        clip_per_layer: bool = False,
        verbose: bool = False,
        ssl_verify: bool | str | Path = True,
        ssl_cert: str | Path | None = None,
        ssl_key: str | Path | None = None,
        auth_token: str | None = None,
        insecure: bool = False,
        schema: Schema | None = None,
        device: str | torch.device = "auto",
        secure_aggregation: bool | str = False,
        identity: str | Path | None = None,
        roster: str | Path | None = None,
        trust_on_first_use: bool = False,
        min_clients: int = FEWEST,
        checkpoint: str | Path | None = None,
    ) -> None:
        self._privacy = Privacy.parse(privacy)
        if self._privacy is not None and self._privacy.unit != "record":
            raise PlanError(
                "a client hides its records; only a server can hide whole clients",
                got='unit "client"',
                do='use unit "record"',
            )
        self._token = read_token() if auth_token is None else auth_token
        if self._token is not None:
            check_token(self._token, "auth_token")
        url = read_url(server_url, has_token=self._token is not None, insecure=insecure)
        self.server_url = str(url)
        self.client_id = socket.gethostname() if client_id is None else client_id
        self._choices = LocalChoices(
            local_epochs, batch_size, learning_rate, max_grad_norm, clip_per_layer
        )
        self._compression = check_compression(compression)
        check_whole("retry_attempts", retry_attempts, 0)
        check_number("timeout_seconds", timeout_seconds)
        self._attempts, self._timeout = retry_attempts, float(timeout_seconds)
        self.verbose = verbose
        self._tls: ssl.SSLContext | bool = True
        if self.server_url.startswith("https"):
            self._tls = client_tls(ssl_verify, ssl_cert, ssl_key)
        self._schema, self.device = schema, resolve_device(device)
        self._fewest = int(check_whole("min_clients", min_clients, FEWEST) or FEWEST)
        if isinstance(secure_aggregation, str):
            scheme(secure_aggregation)
        self._identity = Identity.generate() if identity is None else Identity.load(identity)
        self._trust = own_trust(
            self.client_id, self._identity.public, roster, first_use=trust_on_first_use
        )
        if secure_aggregation and self._trust is None:
            Trust()  # says what is missing
        # Who gives a roster counts on the sums being secure.
        self._secure = secure_aggregation or self._trust is not None
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self.history: list[dict[str, float]] = []
        self._on_train_complete: list[Callable[..., object]] = []
        self._model: Synthesizer | None = None
        self.rows: int | None = None  # of its table, as others know them: noisy under a promise
        self._kept: str | None = None

    def train(
        self, data: pd.DataFrame | TableBlocks, discrete_columns: Sequence[str] = ()
    ) -> FederatedClient:
        """Join the run, train in every round, and return with the final model.

        Args:
            data: This client's rows. `TableBlocks` for more of them than memory holds, which takes
                a schema and a model that is fitted from sums.
            discrete_columns: Columns to take as categories, whatever they look like.

        Raises:
            SchemaError: The table does not fit the others.
            DataError: A value cannot be used.
            PrivacyError: The budget has no room for another run.
            FederationError: The server refuses this client, is gone, or the run failed.
        """
        if not isinstance(data, pd.DataFrame | TableBlocks):
            raise DataError("train takes a table", got=f"a {type(data).__name__}")
        named = [discrete_columns] if isinstance(discrete_columns, str) else discrete_columns
        if self._checkpoint is not None:
            make_private_folder(self._checkpoint)
        self.history, self._model = [], None
        shard = Shard(
            self.client_id,
            data,
            discrete_columns=tuple(named),
            schema=self._schema,
            device=self.device,
            choices=self._choices,
            parts=Parts(self._checkpoint),
            guarded=True,
            privacy=self._privacy,
        )
        shard.promise.check_budget()
        secured = SecureShard(
            shard,
            identity=self._identity,
            trust=self._trust,
            required=self._secure,
            background=True,
            folder=self._checkpoint,
            stateful=False,
            fewest=self._fewest,
        )
        connection = Connection(
            self.server_url,
            self.client_id,
            token=self._token,
            tls=self._tls,
            compression=self._compression,
            retry_attempts=self._attempts,
            timeout_seconds=self._timeout,
            former=self._former(),
        )
        with connection:
            self._remember(connection.secret)
            self._say(f"joined {self.server_url} as '{self.client_id}'")
            if connection.welcome.get("schema") and self._privacy is None:
                # What does not fit is said here and now, and not to the server. With a promise it
                # is not even told by leaving: see `Shard._fitted`.
                schema = Schema.from_dict(connection.welcome["schema"])
                shard_rows(data).check(schema, "the table")
            try:
                self._answer(secured, connection)
            finally:
                secured.stop()
        self.rows = shard.rows
        return self

    def _answer(self, secured: SecureShard, connection: Connection) -> None:
        """Do what the server asks, until the final model is here."""
        shard = secured.shard
        prepared: Request | None = None
        started = time.perf_counter()
        for received in connection.tasks():
            request = received.request
            shard.promise.returning = connection.welcome.get("again") is True
            if request.kind != "sum" or request.meta.get("step") == 0:
                started = time.perf_counter()
            reply = secured.handle(request)
            done = secured.meant(request)
            self._remember(connection.secret)  # another one, if the server was started again
            if reply.error:
                log.warning("%s failed: %s", printable(request.kind), printable(reply.error))
            elif request.kind == "prepare":
                prepared = request
            elif done is not None and done.kind == "train":
                metrics = dict(shard.losses)  # also those that a promise keeps from the server
                seconds = time.perf_counter() - started
                self._trained(done.round, metrics, connection.welcome, seconds)
            if request.kind == "finish" and not reply.error:
                self._model = final_model(prepared, request, self.device)
                self._say("received the final model")
                self._thank(received, reply, connection)
                return
            connection.reply(received, reply)

    def _thank(self, received: Received, reply: Reply, connection: Connection) -> None:
        """Tell the server that the final model is here, which is true even if it does not hear."""
        try:
            connection.reply(received, reply)
        except FederationError as error:
            log.warning("the server may not know that the final model was received: %s", error)

    def _trained(
        self, round: int, metrics: dict[str, float], welcome: Mapping[str, Any], seconds: float
    ) -> None:
        """Tell whoever wants to know of a round."""
        self.history.append(metrics)
        n_rounds = welcome.get("n_rounds")
        n_rounds = n_rounds if isinstance(n_rounds, int) else None
        self._say(f"round {round + 1}/{n_rounds}: {losses_as_text(metrics)}; {seconds:.1f} s")
        for handler in self._on_train_complete:
            call_with_named(
                handler,
                metrics=metrics,
                round_num=round + 1,
                n_rounds=n_rounds,
                seconds=seconds,
                client=self,
            )

    def on_train_complete(self, handler: Handler) -> Handler:
        """Decorator: call the function after this client's training in every round.

        It receives what its signature names of metrics, round_num (from 1), n_rounds, seconds and
        client.

        Raises:
            PlanError: The signature names something else.
        """
        check_handler(handler, TOLD)
        self._on_train_complete.append(handler)
        return handler

    @property
    def model(self) -> Synthesizer:
        """The final model.

        Raises:
            PlanError: There is none yet.
        """
        if self._model is None:
            raise PlanError("this client has no model yet", do="call train first")
        return self._model

    def generate(
        self, n: int, where: Mapping[str, Any] | None = None, seed: int | None = None
    ) -> pd.DataFrame:
        """Generate n rows; see `Synthesizer.generate`."""
        return self.model.generate(n, where, seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file; see `Synthesizer.save`."""
        self.model.save(path)

    def _say(self, text: str) -> None:
        if self.verbose:
            sys.stderr.write(f"{text}\n")

    def _former(self) -> str | None:
        """The secret of the session that this client had before it was stopped."""
        if self._checkpoint is None:
            return None
        try:
            kept = json.loads((self._checkpoint / SESSION).read_text(encoding="utf-8"))
            same = kept["server"] == self.server_url and kept["client_id"] == self.client_id
            return str(kept["session"]) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, secret: str | None) -> None:
        """Keep the secret, readable for this user alone."""
        if self._checkpoint is None or secret is None or secret == self._kept:
            return
        self._kept = secret
        values = {"server": self.server_url, "client_id": self.client_id, "session": secret}
        try:
            write_private(self._checkpoint / SESSION, json.dumps(values))
        except DataError as error:
            log.warning("the session will not outlive this client: %s", error)
