"""The ClientApp: the rows of one node.

Flower may handle each message in a process of its own. What the shard knows therefore stays in
`context.state`, which the SuperNode keeps and never sends: the requests that set the shard up, its
snapshot once it has trained, and what it has released under a promise of privacy; with secure
aggregation also what it has revealed, and the secrets of the sum that is open. A process that has
the shard goes on with it; any other builds it anew, and the same numbers come out.

What a node says of itself in `--node-config`:

    client-id         its name, which no other node may have
    data              its table: .csv, .csv.gz or .parquet
    discrete-columns  columns to take as categories, separated by commas
    schema            TOML file with the schema that it insists on; inferred if left out
    device            "auto", "cpu" or "cuda"
    checkpoint        folder for what it needs to go on if it is stopped
    model             file for the final model

and what it decides by itself, whatever the plan says; see `choices.LocalChoices`:

    local-epochs, batch-size, learning-rate, max-grad-norm, clip-per-layer

and what it promises its own records, whatever the plan promises; see `privacy.budget.Privacy`:

    epsilon, delta, privacy-max-grad-norm, privacy-statistics
    privacy-ledger, privacy-budget    its ledger lies beside the table if it is not named

and with secure aggregation, of which masking is possible here; see `secagg.identity`:

    identity             file with its key; a new one for each run if left out
    roster               file with the keys of all nodes
    trust-on-first-use   true to believe the server about keys that are not in the roster
    secure-aggregation   true to insist on it, as a node does that has a roster
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from safetensors.torch import load, save

import genesis
from genesis.errors import DataError, FederationError, GenesisError, PlanError, SchemaError
from genesis.federated.choices import LocalChoices
from genesis.federated.final_model import final_model
from genesis.federated.flower.transport import ASK, HELLO, keep_setup
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts
from genesis.federated.secagg import check_portable
from genesis.federated.secagg.identity import Identity, Trust, own_trust
from genesis.federated.secure_shard import SecureShard
from genesis.federated.shard import Shard
from genesis.federated.transport.body import decode_request, encode_reply, encode_request
from genesis.privacy.budget import Privacy
from genesis.schema import Schema
from genesis.tables import check_output, read_table

__all__ = ["app"]

log = logging.getLogger(__name__)

RECORD = "genesis"  # name of what is kept in context.state
KEPT = ("run", "handled", "snapshot", "promise", "identity", "session", "opened")
PROMISE = {
    "epsilon": "epsilon",
    "delta": "delta",
    "max_grad_norm": "privacy-max-grad-norm",
    "statistics": "privacy-statistics",
    "ledger": "privacy-ledger",
    "budget": "privacy-budget",
}
"""Choice of a client's own promise -> its name in the node config."""

_shards: dict[tuple[int, int], tuple[int, SecureShard]] = {}
"""(run, node) -> requests handled, shard"""

app = ClientApp()


@app.query(HELLO)
def hello(message: Message, context: Context) -> Message:
    """Say who this is; or, if it has no rows to offer, why."""
    try:
        shard = _shard(context, Memory.of(context))
        told = {"client_id": shard.client_id, "version": genesis.__version__}
    except Exception as error:
        told = {"error": _failure(error).error or ""}
    return Message(RecordDict({"turn": ConfigRecord(dict(told))}), reply_to=message)


@app.query(ASK)
def ask(message: Message, context: Context) -> Message:
    """Do what is asked. Never raises: Flower would send the text of any error to the server."""
    memory = Memory.of(context)
    try:
        turn, setup = message.content["turn"], message.content.get("setup")
        if setup is not None:
            memory.begin_again(cast(Any, turn["handled"]), cast(Any, setup["bodies"]))
        elif memory.handled < cast(Any, turn["handled"]):
            return Message(RecordDict({"turn": ConfigRecord({"lost": True})}), reply_to=message)
        body = encode_reply(_handle(cast(Any, message.content["body"]["body"]), context, memory))
    except Exception as error:
        body = encode_reply(_failure(error))
    told = RecordDict(
        {
            "body": ConfigRecord({"body": body}),
            "turn": ConfigRecord({"handled": memory.handled}),
        }
    )
    return Message(told, reply_to=message)


@dataclass
class Memory:
    """What a node keeps of a run from one message to the next.

    Args:
        run: The run.
        handled: Requests that it has handled.
        setup: Kind of a request -> its bytes, for those that set the shard up.
        snapshot: The shard's snapshot in safetensors' format; empty until it has trained.
        promise: What the shard remembers of its promise of privacy, as JSON; empty without one.
        identity: Its key, if it has no file for it. Secret.
        session: What it remembers of secure aggregation, as JSON; empty without it.
        opened: The secure sum that is open; empty without one. Secret.
        lost: Whether something was lost, as the server tells.
    """

    run: str
    handled: int = 0
    setup: dict[str, bytes] = field(default_factory=dict)
    snapshot: bytes = b""
    promise: str = ""
    identity: bytes = b""
    session: str = ""
    opened: bytes = b""
    lost: bool = False

    @classmethod
    def of(cls, context: Context) -> Memory:
        """What is kept of the context's run. Flower hands on what another run has left, too."""
        kept, run = cast(Any, context.state.get(RECORD)), str(context.run_id)
        if kept is None or kept["run"] != run:
            return cls(run)
        setup = dict(zip(kept["kinds"], kept["setup"], strict=True))
        same = {name: kept[name] for name in KEPT}
        return cls(setup=setup, **same)

    def keep(self, context: Context) -> None:
        """Leave it for the process that handles the next message."""
        context.state[RECORD] = ConfigRecord(
            {
                "kinds": list(self.setup),
                "setup": list(self.setup.values()),
                **{name: getattr(self, name) for name in KEPT},
            }
        )

    def begin_again(self, handled: int, bodies: list[bytes]) -> None:
        """Take the place of what was lost, as the server tells it."""
        self.handled, self.snapshot, self.opened, self.lost = handled, b"", b"", True
        self.setup = {decode_request(body).kind: body for body in bodies}


def _handle(body: bytes, context: Context, memory: Memory) -> Reply:
    """The shard's reply to a request; memory and context then hold what the shard knows."""
    request = decode_request(body)
    secured = _shard(context, memory)
    shard, reply = secured.shard, secured.handle(request)
    memory.handled += 1
    if request.setup and not reply.error:
        keep_setup(memory.setup, request.kind, body)
        memory.snapshot = b""
    elif memory.snapshot or (_trains(request, reply) and shard.encoder is not None):
        tensors = {name: t.detach().cpu().contiguous() for name, t in shard.snapshot().items()}
        memory.snapshot = save(tensors)
    promise = shard.promise.memory()
    memory.promise = "" if promise is None else json.dumps(promise)
    session, opened = secured.memory(), secured.opened()
    memory.session = "" if session is None else json.dumps(session)
    memory.opened = b"" if opened is None else encode_request(opened)
    if secured.identity is not None and not context.node_config.get("identity"):
        memory.identity = secured.identity.to_bytes()
    _shards[context.run_id, context.node_id] = memory.handled, secured
    prepare = memory.setup.get("prepare")
    if request.kind == "finish":
        # The last request; and a SuperNode keeps every context for as long as it runs.
        del _shards[context.run_id, context.node_id]
        memory.setup, memory.snapshot, memory.identity, memory.opened = {}, b"", b"", b""
    memory.keep(context)
    if request.kind == "finish" and prepare is not None and not reply.error:
        _save_model(decode_request(prepare), request, context)
    return reply


def _trains(request: Request, reply: Reply) -> bool:
    """Whether a request has changed what a shard knows of the model."""
    return request.kind == "train" or (request.kind == "sum" and not reply.error)


def _shard(context: Context, memory: Memory) -> SecureShard:
    """The node's shard as the requests that were handled have left it."""
    handled, known = _shards.get((context.run_id, context.node_id), (None, None))
    if known is not None and handled == memory.handled:
        return known
    shard = _new_shard(context)
    shard.promise.remembered = json.loads(memory.promise) if memory.promise else None
    shard.promise.returning = memory.lost
    secured = _secured(shard, context, memory)
    if memory.session:
        secured.remember(json.loads(memory.session))
    for body in memory.setup.values():
        if error := secured.handle(decode_request(body)).error:
            raise FederationError("this client could not be set up again", got=error)
    if memory.snapshot:
        shard.restore(load(memory.snapshot))
    if memory.opened:
        secured.reopen(decode_request(memory.opened))
    _shards[context.run_id, context.node_id] = memory.handled, secured
    return secured


def _secured(shard: Shard, context: Context, memory: Memory) -> SecureShard:
    """The shard behind secure aggregation, as far as the server asks for it."""
    told = context.node_config
    first_use, insists = told.get("trust-on-first-use", False), told.get("secure-aggregation")
    if not isinstance(first_use, bool):
        raise PlanError("trust-on-first-use in the node config is neither true nor false")
    required = insists if isinstance(insists, bool) else str(insists or "")
    if isinstance(required, str) and required:
        check_portable(required)
    file, roster, folder = told.get("identity"), told.get("roster"), told.get("checkpoint")
    with _paths_untold():
        if file:
            identity = Identity.load(str(file))
        elif memory.identity:
            identity = Identity.from_bytes(memory.identity)
        else:
            identity = Identity.generate()
        trust = own_trust(
            shard.client_id, identity.public, str(roster) if roster else None, first_use=first_use
        )
    if required and trust is None:
        Trust()  # says what is missing
    return SecureShard(
        shard,
        identity=identity,
        trust=trust,
        required=required or trust is not None,
        folder=Path(str(folder)) if folder else None,
        portable=True,
        stateful=False,
    )


def _new_shard(context: Context) -> Shard:
    """A shard of what the node config names."""
    told = context.node_config
    for name in ("client-id", "data"):
        if not told.get(name):
            raise PlanError(
                f"the node config has no '{name}'",
                do='start the SuperNode with --node-config \'client-id="…" data="…"\'',
            )
    own = {f.name: told.get(f.name.replace("_", "-"), f.default) for f in fields(LocalChoices)}
    promised = {name: told[key] for name, key in PROMISE.items() if told.get(key, "") != ""}
    if promised:
        promised.setdefault("ledger", f"{told['data']}.ledger.json")
    privacy = Privacy.parse({"differential_privacy": promised} if promised else None)
    named = str(told.get("discrete-columns", "")).split(",")
    schema, folder, model = told.get("schema"), told.get("checkpoint"), told.get("model")
    with _paths_untold():
        if model:
            check_output(str(model), suffixes=None)
        return Shard(
            str(told["client-id"]),
            read_table(str(told["data"])),
            discrete_columns=tuple(column.strip() for column in named if column.strip()),
            schema=Schema.load(str(schema)) if schema else None,
            device=str(told.get("device", "auto")),
            choices=LocalChoices(**cast(Any, own)),
            parts=Parts(Path(str(folder)) if folder else None),
            guarded=True,
            privacy=privacy,
        )


def _save_model(prepare: Request, finish: Request, context: Context) -> None:
    """Write the final model, if the node config names a file for it."""
    path = context.node_config.get("model")
    if not path:
        return
    device = str(context.node_config.get("device", "auto"))
    model = final_model(prepare, finish, device)
    with _paths_untold():
        model.save(str(path))


@contextmanager
def _paths_untold() -> Iterator[None]:
    """Errors that name paths of this machine are for its log: they are not the server's business.

    Raises:
        FederationError: In place of them.
    """
    try:
        yield
    except (DataError, SchemaError) as error:
        log.error("%s", error)
        raise FederationError(
            "a file of this node cannot be used", do="see the log of its SuperNode"
        ) from None


def _failure(error: Exception) -> Reply:
    """An error as a reply. Foreign messages may quote cells, so only their type leaves the node."""
    if isinstance(error, GenesisError):
        return Reply("", {"error_type": type(error).__name__}, error=str(error))
    log.error("an unexpected error", exc_info=error)
    return Reply("", error=f"an unexpected {type(error).__name__}")
