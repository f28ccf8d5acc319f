"""What a client does with its rows: `Shard.handle(request) -> reply`. No transport in it.

The rows never leave the shard. What does, in the order of a run:

    describe    names and kinds of its columns
    labels      the labels that occur in its discrete columns
    count       how many of its values lie in given bins or carry given labels
    prepare     the number of its rows; then it has encoded them
    train       parameters after local training, and losses
    collect     parameters that it has trained and not sent, when a run is stopped early
    sums        what its rows add up to, for a model that is fitted from sums
    checkpoint  nothing: it keeps what it remembers in a file of its own
    restore     nothing: it has read that file
    finish      nothing: it has received the final model
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from genesis.blocks import TableBlocks
from genesis.codes import Codes
from genesis.devices import resolve_device
from genesis.encoding.encoder import Encoder
from genesis.errors import (
    DataError,
    FederationError,
    GenesisError,
    PlanError,
    PrivacyError,
    SchemaError,
    TrainingError,
)
from genesis.federated.aggregation.divergence import divergences
from genesis.federated.choices import FULL_BATCH, LocalChoices, batch_size_for, private_batch_size
from genesis.federated.client_promise import ClientPromise
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts, read_part, write_part
from genesis.federated.secagg.purpose import FRESH, after
from genesis.federated.shard_rows import ShardRows, shard_rows
from genesis.federated.vectors import clipped, places_of, tensor_sizes, write_parts
from genesis.models import (
    GenerativeModel,
    LocalTraining,
    create_model,
    is_sum_model,
    model_class,
)
from genesis.models.sums import Question as SumQuestion
from genesis.models.sums import SumModel
from genesis.models.sums.rows import SumRows
from genesis.privacy.budget import Privacy
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.guard import Guard, check_kinds
from genesis.schema import Kind, Schema
from genesis.seeding import Stream, generator, key, secret_generator
from genesis.statistics import DISCRETE, Question, ShardStatistics

__all__ = ["Shard"]

log = logging.getLogger(__name__)

MOST_QUESTIONS = 3  # about a column at once: its nulls, its decimals and its values


class Shard:
    """One client's rows, and what it remembers between rounds.

    Args:
        client_id: Name of the client.
        table: Its rows; as blocks, if they are more than memory holds: see `shard_rows`.
        discrete_columns: Columns to take as categories, beside those of the plan.
        schema: The schema that the client insists on, or None to infer it.
        device: Where it trains.
        choices: What the client decides by itself.
        parts: Where it keeps its part of checkpoints, unless the server runs in this process.
        guarded: Whether it refuses a schema that makes it tell more than its own does: see
            `_check_kinds`. For a client whose server is somebody else's.
        privacy: What the client promises its own records, whatever the plan promises. What a plan
            promises is kept too.
    """

    def __init__(
        self,
        client_id: str,
        table: pd.DataFrame | TableBlocks,
        *,
        discrete_columns: tuple[str, ...] = (),
        schema: Schema | None = None,
        device: str | torch.device = "auto",
        choices: LocalChoices | None = None,
        parts: Parts | None = None,
        guarded: bool = False,
        privacy: Privacy | None = None,
    ) -> None:
        parts = parts or Parts()
        self._given = shard_rows(table)
        if guarded and schema is None and not self._given.in_memory:
            self._given.infer()  # which says what is missing
        self.client_id = client_id
        self.encoder: Encoder | None = None
        self.losses: dict[str, float] = {}  # of the last round, for this client's own eyes
        self.past = FRESH  # digest of the sums that it has trained for since its optimiser is new
        self.rows: int | None = None  # as others know them
        self.promise = ClientPromise(client_id, privacy, parts)
        self._table: ShardRows | None = None  # the same as the agreed schema has them
        self._discrete_columns = discrete_columns
        self._own_schema = schema
        self._device = resolve_device(device)
        self._choices = choices or LocalChoices()
        self._parts = parts
        self._guarded = guarded
        self._run = ""  # tells this run from others that were kept in the same folder
        self._number = 0
        self._begun = False
        self._kept: int | None = None  # rounds after which it last kept its part
        self._statistics: ShardStatistics | None = None
        self._codes: Codes | None = None
        self._model: GenerativeModel | None = None
        self._sum_rows: SumRows | None = None  # the same rows, if the model is fitted from sums
        self._seed: tuple[int, ...] = ()
        self._batch_size = FULL_BATCH
        self._known: Tensor | None = None  # parameters as the server last gave them
        self._control: Tensor | None = None
        self._next_control: Tensor | None = None
        self._measured: dict[str, float] = {}

    def handle(self, request: Request) -> Reply:
        """Do what is asked. Never raises: a failure is a reply that says why."""
        handlers: dict[str, Callable[[Request], Reply]] = {
            "describe": self._describe,
            "labels": self._labels,
            "count": self._count,
            "prepare": self._prepare,
            "train": self._train,
            "collect": self._collect,
            "sums": self._sums,
            "checkpoint": self._checkpoint,
            "restore": self._restore,
            "finish": self._finish,
        }
        try:
            if request.kind not in handlers:
                raise FederationError(
                    f"a request of unknown kind '{request.kind}'",
                    do="give server and clients the same version",
                )
            reply = handlers[request.kind](request)
            self.promise.keep()
            return reply
        except GenesisError as error:
            kind, message = self.promise.tellable(error, request.kind)
        except Exception as error:
            # Foreign messages may quote cells of the table, so only their type leaves the client.
            log.exception("client '%s' failed at '%s'", self.client_id, request.kind)
            kind, message = "FederationError", f"an unexpected {type(error).__name__}"
        self.promise.failed()
        return Reply(self.client_id, meta={"error_type": kind}, error=message)

    @property
    def _guard(self) -> Guard | None:
        """What stands between the rows and others; None without a promise about records."""
        return self.promise.guard

    def _describe(self, request: Request) -> Reply:
        wanted = [*request.meta["discrete_columns"], *self._discrete_columns]
        schema = self._own_schema
        if schema is None:
            schema = self._given.infer(wanted)
            if self.promise.own is not None or request.meta.get("private"):
                schema = schema.without_values()
        return Reply(self.client_id, meta={"schema": schema.to_dict()})

    def _labels(self, request: Request) -> Reply:
        schema = Schema.from_dict(request.meta["schema"])
        if self._guarded:
            self._check_kinds(schema)
        self.promise.take(request.meta)
        table = self._fitted(schema)
        known = bool(request.meta.get("known"))  # a run that goes on from a checkpoint
        self.promise.begin(schema, known=known)
        self._table, self._statistics = table, table.statistics(schema)
        found = {} if known else self.promise.labels(self._statistics)
        return Reply(self.client_id, meta={"labels": found, "private": self._guard is not None})

    def _fitted(self, schema: Schema) -> ShardRows:
        """The rows as a schema has them.

        Under a promise cells that do not fit are unknown: a schema that is refused because of a
        cell would tell of the cell, and it is the server that chooses the schema.

        Raises:
            SchemaError: They do not fit.
            DataError: There are none, or infinities.
        """
        owner = f"client '{self.client_id}'"
        if not self.promise.is_private:
            return self._given.conform(schema, owner)
        return self._given.conform_loosely(schema, owner)

    def _check_kinds(self, schema: Schema) -> None:
        """Refuse a schema by which this client would tell keys, or what its own schema rules out.

        Raises:
            SchemaError: The server's schema is such a one.
        """
        own = self._own_schema
        for column in schema:
            if column.kind in DISCRETE and self._is_key(column.name):
                raise SchemaError(
                    f"column '{column.name}' holds keys at client '{self.client_id}', and the run "
                    "takes them as categories, which all clients would see",
                    do="drop it, or name it in this client's discrete_columns",
                )
            mine = None if own is None or own[column.name].undecided else own[column.name]
            if mine is not None and (mine.of or mine.kind) is not (column.of or column.kind):
                raise SchemaError(
                    f"column '{column.name}' is {mine.kind} in the schema of client "
                    f"'{self.client_id}' and {column.kind} in the run's",
                    do="give all the same schema file",
                )

    def _is_key(self, name: str) -> bool:
        """Whether a column looks like keys, and this client has not said that it holds others."""
        if self._own_schema is not None:
            return self._own_schema[name].kind is Kind.ID
        if name in map(str, self._discrete_columns):
            return False
        try:
            return self._given.infer(only=name)[name].kind is Kind.ID
        except GenesisError:  # of several types, or not there: then it is no key
            return False

    def _count(self, request: Request) -> Reply:
        if self._statistics is None or self._table is None:
            raise FederationError("counts were asked for before the schema was agreed on")
        questions = [Question.from_dict(each) for each in request.meta["questions"]]
        if len(questions) > MOST_QUESTIONS * len(self._statistics.schema):
            raise FederationError("more is asked than there are columns")
        if "cohort" in request.local:  # whether a text is a number depends on the text
            check_kinds(self._statistics.schema, questions)
        self._table.expect(questions)
        counts, told = self.promise.counts(
            self._statistics, questions, len(self._given), request.local.get("cohort")
        )
        if self._guard is None and not request.meta.keys() & {"private", "secure"}:
            told = {}  # where all counts are exact, nobody asks how far they are off
        return Reply(self.client_id, meta=told, arrays={"counts": counts})

    def _prepare(self, request: Request) -> Reply:
        meta = request.meta
        table = self._table
        if table is None and not self._guarded:
            table = self._given  # as it is, for whoever knows what they encode
        if table is None:
            raise FederationError("the encoder was sent before the schema was agreed on")
        encoder = Encoder.from_dict(meta["encoder"])
        if self.promise.is_private:
            schema = None if self._statistics is None else self._statistics.schema
            if schema is None or not encoder.suits(schema):
                # Where a certain value broke it, whether it breaks would tell of that value.
                raise FederationError("the encoder is not of the schema that was agreed on")
        summed = is_sum_model(meta["method"])
        if not summed and not self._given.in_memory:
            raise PlanError(
                f"{meta['method']} is trained in steps, for which rows must be in memory",
                got=f"a table of client '{self.client_id}' that is read in blocks",
                do="read the whole table, or choose a model that is fitted from sums",
            )
        config = dict(meta["config"]) if summed else self._choices.applied_to(meta["config"])
        self.promise.check(meta)
        self._number = int(meta["number"])
        self._seed = key(meta["seed"], Stream.TRAINING, self._number)
        rng = generator(meta["seed"], Stream.ENCODING, self._number)
        self._codes = table.encode(encoder, rng if self._guard is None else secret_generator())
        # The codes are all that training needs.
        self._statistics = self._table = None
        self.promise.forget_counts()
        self._model = create_model(
            meta["method"],
            encoder.layout,
            config,
            device=self._device,
            seed=meta["seed"],
            frequencies=encoder.frequencies,
        )
        rows = self.promise.rows(len(self._codes), known=bool(meta.get("known")))
        self._sum_rows = None
        if summed:
            self._sum_rows = SumRows(encoder.layout, self._codes, self._device)
            self.promise.plan_sums(model_class(meta["method"]).releases(encoder.layout, config))
        elif self._guard is not None:
            self._batch_size = private_batch_size(config)
            if rows is not None:
                epochs = (self._choices.local_epochs or meta["epochs"]) * meta["rounds"]
                self._guard.plan_training(batch_size=self._batch_size, epochs=epochs)
        elif rows is not None:
            self._batch_size = batch_size_for(self._model, config, rows, encoder.rows)
        self._run = f"{meta['seed']} {meta['method']} {encoder.digest}"
        self._known = self._control = self._next_control = None
        self.past = FRESH
        self._begun, self._kept = False, None
        if "divergence" in meta["measures"]:
            self._measured = divergences(encoder, self._codes)
        self.encoder, self.rows = encoder, rows
        told: dict[str, Any] = {"rows": rows, "parameters": self._model.parameters.digest}
        if self._guard is not None:
            told |= {"private": True, "spent": self._guard.spent()}
        return Reply(self.client_id, meta=told)

    def receive(self, request: Request) -> None:
        """Take the parameters that come with a request to train; twice is as good as once."""
        model, _ = self._ready()
        self._recall(request.round)
        if self._known is None:
            self._known = model.get_vector()
        if "vector" in request.arrays:
            start, received = model.get_vector(), _tensor(request.arrays["vector"])
            for vector in (start, self._known):
                write_parts(model, vector, received, request.meta["receive"])
            model.set_vector(start)

    def renew(self) -> None:
        """Forget what the optimiser remembers of earlier rounds."""
        model, _ = self._ready()
        model.load_optimiser_state({})
        self.past = FRESH

    def known(self, parts: list[str] | None) -> tuple[npt.NDArray[np.float32], list[int]]:
        """Parameters that the server last gave, of some parts or all: (p,); sizes of its tensors.

        Raises:
            FederationError: It has given none yet.
        """
        model, _ = self._ready()
        if self._known is None:
            raise FederationError("parameters were asked for before training")
        places = places_of(model.parameters, parts)
        known = torch.cat([self._known[place] for place in places])
        return known.numpy(), tensor_sizes(model.parameters, places)

    @property
    def seed(self) -> tuple[int, ...]:
        """What the random numbers of its training begin with."""
        return self._seed

    def _train(self, request: Request) -> Reply:
        model, codes = self._ready()
        meta = request.meta
        epochs = self._choices.local_epochs or meta["epochs"]
        self.receive(request)
        assert self._known is not None
        asked = _digest(request)
        correction = self._correction(request, len(self._known))
        done = self.promise.outcome(asked, request.round + 1, self._run, self._number)
        if done is not None:
            self.restore(done)
        else:
            local = LocalTraining(
                epochs=epochs,
                batch_size=self._batch_size,
                seed=self._seed,
                first_epoch=request.round * epochs,
                # No schedule has more than 1, and the rate may be this client's own.
                learning_rate_scale=min(float(meta["learning_rate_scale"]), 1.0),
                proximal_mu=meta.get("proximal_mu", 0.0),
                correction=correction,
                private=self._private_steps(meta, epochs),
            )
            if "purpose" in request.local:
                self.past = after(self.past, request.local["purpose"])
            self.losses = self._learn(model, codes, local)
            if self._control is not None:
                self._next_control = model.mean_gradient()
        metrics = dict(self.losses)
        arrays: dict[str, npt.NDArray[Any]] = {}
        if meta["send"] != []:
            sent, metrics["update_norm"] = self._trained(model, meta)
            if self._control is not None:
                assert self._next_control is not None
                sent = torch.cat([sent, self._next_control - self._control])
            arrays["vector"] = self._hidden(sent, request)
        self.losses = metrics
        if self._parts.folder is not None:
            # Before the server has the reply, so that it never knows more than this folder.
            self._keep_or_warn(request.round + 1)
        private = self.promise.is_private
        told: dict[str, Any] = {"metrics": {} if private else metrics | self._measured}
        if self._guard is not None:
            self.promise.sent(asked, self.snapshot())
            told["spent"] = self._guard.spent()
        return Reply(self.client_id, meta=told, arrays=arrays)

    def _learn(
        self, model: GenerativeModel, codes: Codes, local: LocalTraining
    ) -> dict[str, float]:
        """Train, and return the losses; none if it diverged and nobody may know."""
        try:
            return model.train(codes, local)
        except TrainingError as error:
            if self.promise.whole is None:
                raise
            # Its rows decide whether it does, and the server sees who is missing from a sum: so
            # this client is in it, with the parameters as they were before.
            log.error("client '%s' has learnt nothing in this round: %s", self.client_id, error)
            return {}

    def _private_steps(self, meta: Mapping[str, Any], epochs: int) -> PrivateSteps | None:
        """The steps that a promise allows; None where there is no promise about records."""
        _, codes = self._ready()
        return self.promise.steps(meta, epochs=epochs, rows=len(codes), batch_size=self._batch_size)

    def _hidden(self, sent: Tensor, request: Request) -> npt.NDArray[Any]:
        """What was trained; where all of this client is hidden in a sum, its noisy change."""
        if self.promise.whole is None:
            return sent.numpy()
        known, _ = self.known(request.meta["send"])
        return self.promise.change(
            sent.numpy() - known,
            cohort=request.local.get("cohort", ()),
            threshold=request.local.get("threshold", 0),
            n_rounds=int(request.meta["rounds"]),
        )

    def _sums(self, request: Request) -> Reply:
        """What the rows add up to; the same numbers whenever the same is asked."""
        model, _ = self._ready()
        rows, meta = self._sum_rows, request.meta
        if rows is None:
            raise FederationError(f"{model.name} is not fitted from sums")
        if set(request.arrays) != set(meta["shapes"]):
            # All clients agreed on these numbers in the order of their names, not on the names.
            raise FederationError("a question that says little of its arrays, or too much")
        question = SumQuestion(
            kind=meta["question"],
            size=int(meta["size"]),
            meta=meta["meta"],
            arrays={
                name: request.arrays[name].reshape(shape) for name, shape in meta["shapes"].items()
            },
            norm=math.inf if meta["norm"] is None else float(meta["norm"]),
        )
        sums, told = self.promise.sum(
            question,
            lambda: cast(SumModel, model).answer(rows, question),
            request.local.get("cohort"),
        )
        if self._guard is not None:
            told["spent"] = self._guard.spent()
        return Reply(self.client_id, meta=told, arrays={"sums": sums})

    def _collect(self, request: Request) -> Reply:
        """Parameters as they are; the losses are those of the last round."""
        model, _ = self._ready()
        if self.promise.whole is not None:
            raise PrivacyError("no round is paid for in which parameters are collected")
        sent, _ = self._trained(model, request.meta)
        return Reply(
            self.client_id, meta={"metrics": self._measured}, arrays={"vector": sent.numpy()}
        )

    def _trained(self, model: GenerativeModel, meta: Mapping[str, Any]) -> tuple[Tensor, float]:
        """The parts asked for, and the norm of their change; clipped if the plan says so.

        The change is what has happened since the server last gave these parameters, however many
        rounds ago that was.
        """
        assert self._known is not None
        places, trained = places_of(model.parameters, meta["send"]), model.get_vector()
        known = torch.cat([self._known[place] for place in places])
        sent = torch.cat([trained[place] for place in places])
        norm = float(torch.linalg.vector_norm(sent - known))
        max_norm, per_layer = self._choices.clipping(meta["max_grad_norm"], meta["clip_per_layer"])
        if max_norm is not None:
            sent = clipped(model, known, sent, places, max_norm, per_layer)
        return sent, norm

    def _correction(self, request: Request, size: int) -> Tensor | None:
        """SCAFFOLD's c - c_k; a client that takes part for the first time has c_k = 0.

        A new c_k counts only once the server has used the update that came with it: c would no
        longer be the mean of all c_k otherwise.
        """
        if "control" not in request.arrays:
            return None
        if self._choices.max_grad_norm is not None:
            raise PlanError(
                "control variates hold gradients that this client's max_grad_norm does not limit",
                do="leave max_grad_norm to the plan, or choose another aggregation",
            )
        if self._control is None:
            self._control = torch.zeros(size)
        if self._next_control is not None and request.meta["used"]:
            self._control = self._next_control
        self._next_control = None
        return _tensor(request.arrays["control"]) - self._control

    def snapshot(self) -> dict[str, Tensor]:
        """What this client remembers: its parameters, optimiser and control variate."""
        model, _ = self._ready()
        if self._sum_rows is not None:
            return {}  # what it answers follows from its rows alone
        state = {f"optimiser.{name}": value for name, value in model.optimiser_state().items()}
        state["vector"] = model.get_vector()
        remembered = {
            "known": self._known,
            "control": self._control,
            "next_control": self._next_control,
        }
        if self.past != FRESH:
            remembered["past"] = torch.frombuffer(bytearray(self.past), dtype=torch.uint8)
        return state | {name: value for name, value in remembered.items() if value is not None}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `snapshot`; from an empty one, as the client begins."""
        model, _ = self._ready()
        self._begun = True
        if not state or self._sum_rows is not None:
            return
        model.set_vector(state["vector"])
        prefix = "optimiser."
        model.load_optimiser_state(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        self._known, self._control = state.get("known"), state.get("control")
        self._next_control = state.get("next_control")
        self.past = bytes(state["past"].tolist()) if "past" in state else FRESH

    def _checkpoint(self, request: Request) -> Reply:
        """Keep what this client remembers after so many rounds."""
        if "directory" in request.local:
            folder = Path(request.local["directory"])
            state = self.snapshot() | self.promise.to_tensors()
            write_part(folder, self._number, self._run, state)
        else:
            rounds = int(request.meta["rounds"])
            self._recall(rounds)
            try:
                self._keep(rounds)
            except DataError as error:
                log.warning("client '%s' kept no checkpoint: %s", self.client_id, error)
                raise DataError("its disk refuses the checkpoint", got=error.got) from error
        return Reply(self.client_id)

    def _recall(self, rounds: int) -> None:
        """A client that was started again, or whose server was, goes on from what it kept."""
        if not self._begun:
            self.restore(self._parts.find(rounds, self._run, self._number) or {})

    def _keep(self, rounds: int) -> None:
        """Keep what this client remembers, if that was not done."""
        if rounds != self._kept:
            self._parts.keep(rounds, self._run, self._number, self.snapshot())
            self._kept = rounds

    def _keep_or_warn(self, rounds: int) -> None:
        """The same after a round, which a full disk does not spoil."""
        try:
            self._keep(rounds)
        except DataError as error:
            log.warning("client '%s' kept no checkpoint: %s", self.client_id, error)

    def _restore(self, request: Request) -> Reply:
        """Continue from `_checkpoint` in the server's folder; a client without one starts anew.

        A client elsewhere looks for its part by itself, when it begins to train.
        """
        if "directory" in request.local:
            folder = Path(request.local["directory"])
            state = read_part(folder, self._number, self._run) or {}
            self.promise.restore(state)
            self.restore(state)
        return Reply(self.client_id)

    def _finish(self, request: Request) -> Reply:
        model, _ = self._ready()
        if self._sum_rows is None:  # else this client keeps no model of its own
            model.set_vector(_tensor(request.arrays["vector"]))
        return Reply(self.client_id)

    def _ready(self) -> tuple[GenerativeModel, Codes]:
        if self._model is None or self._codes is None:
            raise FederationError("training was asked for before the encoder was agreed on")
        return self._model, self._codes


def _digest(request: Request) -> str:
    """What a request for training asks, in short."""
    digest = hashlib.sha256(f"{request.round} {json.dumps(request.meta, sort_keys=True)}".encode())
    for name in sorted(request.arrays):
        digest.update(name.encode() + request.arrays[name].tobytes())
    return digest.hexdigest()


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
