"""What a client does with its rows: `Shard.handle(request) -> reply`. No transport in it.

The rows never leave the shard. What does, in the order of a run:

    describe    names and kinds of its columns
    labels      the labels that occur in its discrete columns
    count       how many of its values lie in given bins or carry given labels
    prepare     the number of its rows; then it has encoded them
    train       parameters after local training, and losses
    collect     parameters that it has trained and not sent, when a run is stopped early
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from genesis.codes import Codes
from genesis.devices import resolve_device
from genesis.encoding.encoder import Encoder
from genesis.encoding.numeric import NumericEncoding
from genesis.errors import (
    DataError,
    FederationError,
    GenesisError,
    PlanError,
    PrivacyError,
    SchemaError,
    TrainingError,
)
from genesis.federated.aggregation.divergence import jensen_shannon, wasserstein
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts, read_part, write_part
from genesis.federated.plan import check_number, check_whole
from genesis.models import GenerativeModel, LocalTraining, create_model, model_class
from genesis.privacy.budget import Privacy
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.guard import Guard
from genesis.privacy.ledger import LedgerFile
from genesis.schema import Kind, Schema
from genesis.seeding import Stream, generator, key, secret_generator
from genesis.statistics import DISCRETE, Question, ShardStatistics
from genesis.tables import make_private_folder, write_private
from genesis.values import Label

__all__ = ["LocalChoices", "Shard", "batch_size_for", "private_batch_size"]

log = logging.getLogger(__name__)

FULL_BATCH = 500  # batch size of a client that holds all rows
SMALLEST_BATCH = 50  # below, batch normalisation has too few rows to normalise by
WEIGHT = 1000  # what a client's counts add up to where whole clients are hidden
GUARD = "privacy.json"  # what a client remembers of its promise, beside its checkpoints


@dataclass(frozen=True)
class LocalChoices:
    """What a client decides by itself, whatever the plan says.

    Args:
        local_epochs: Epochs in a round.
        batch_size: Rows of a step.
        learning_rate: Learning rate.
        max_grad_norm: Largest L2 norm of its change of the parameters; the smaller of its own and
            the plan's holds.
        clip_per_layer: Clip each of the L tensors to max_grad_norm / sqrt(L).

    Raises:
        PlanError: One is impossible.
    """

    local_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    max_grad_norm: float | None = None
    clip_per_layer: bool = False

    def __post_init__(self) -> None:
        check_whole("local_epochs", self.local_epochs, 1)
        check_whole("batch_size", self.batch_size, 2)
        check_number("learning_rate", self.learning_rate)
        check_number("max_grad_norm", self.max_grad_norm)
        if self.clip_per_layer and self.max_grad_norm is None:
            raise PlanError("clip_per_layer needs a norm to clip to", do="set max_grad_norm")

    def applied_to(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The plan's config of the model with these choices."""
        own = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return {**config, **{name: value for name, value in own.items() if value is not None}}

    def clipping(self, max_norm: float | None, per_layer: bool) -> tuple[float | None, bool]:
        """The stricter of the plan's and these."""
        norms = [norm for norm in (max_norm, self.max_grad_norm) if norm is not None]
        return min(norms, default=None), per_layer or self.clip_per_layer


class Shard:
    """One client's rows, and what it remembers between rounds.

    Args:
        client_id: Name of the client.
        table: Its rows.
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
        table: pd.DataFrame,
        *,
        discrete_columns: tuple[str, ...] = (),
        schema: Schema | None = None,
        device: str | torch.device = "auto",
        choices: LocalChoices | None = None,
        parts: Parts | None = None,
        guarded: bool = False,
        privacy: Privacy | None = None,
    ) -> None:
        self.client_id = client_id
        self.encoder: Encoder | None = None
        self.losses: dict[str, float] = {}  # of the last round, for this client's own eyes
        self.rows: int | None = None  # as others know them
        self.returning = False  # whether the server knows it from before a restart, as it says
        self.remembered: Mapping[str, Any] | None = None  # `memory` of before, if no folder has it
        self._given = table
        self._table: pd.DataFrame | None = None  # the same as the agreed schema has it
        self._discrete_columns = discrete_columns
        self._own_schema = schema
        self._device = resolve_device(device)
        self._choices = choices or LocalChoices()
        self._parts = parts or Parts()
        self._guarded = guarded
        self._privacy = privacy
        self._guard: Guard | None = None  # once the run's promise is known
        self._counted: dict[str, Any] | None = None  # the last noisy counts, and what they answer
        self._last_state: Mapping[str, Tensor] | None = None  # after the last private training
        self._hidden = False  # whether the server hides all of this client
        self._run = ""  # tells this run from others that were kept in the same folder
        self._number = 0
        self._begun = False
        self._kept: int | None = None  # rounds after which it last kept its part
        self._statistics: ShardStatistics | None = None
        self._codes: Codes | None = None
        self._model: GenerativeModel | None = None
        self._seed: tuple[int, ...] = ()
        self._batch_size = FULL_BATCH
        self._config: Mapping[str, Any] = {}
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
            self._keep_guard()
            return reply
        except GenesisError as error:
            if self._is_private and isinstance(error, DataError | SchemaError | TrainingError):
                # What is wrong with a row tells of the row, and so does how many rows are wrong.
                log.error("client '%s' failed at '%s': %s", self.client_id, request.kind, error)
                if isinstance(error, SchemaError):
                    return self._failure("SchemaError", f"{error.what}; its own log says more")
                return self._failure("FederationError", "it failed; its own log says why")
            return self._failure(type(error).__name__, str(error))
        except Exception as error:
            # Foreign messages may quote cells of the table, so only their type leaves the client.
            log.exception("client '%s' failed at '%s'", self.client_id, request.kind)
            return self._failure("FederationError", f"an unexpected {type(error).__name__}")

    def _failure(self, kind: str, message: str) -> Reply:
        if self._guard is not None and self._guard.answered():
            # Steps were taken, and the model holds what came of them, which can be collected.
            try:
                self._keep_guard()
            except GenesisError as error:
                log.error("client '%s' could not write down its steps: %s", self.client_id, error)
        return Reply(self.client_id, meta={"error_type": kind}, error=message)

    def _describe(self, request: Request) -> Reply:
        wanted = [*request.meta["discrete_columns"], *self._discrete_columns]
        schema = self._own_schema
        if schema is None:
            schema = Schema.infer(self._given, list(dict.fromkeys(wanted)))
            if self._privacy is not None or request.meta.get("private"):
                schema = schema.without_values()
        return Reply(self.client_id, meta={"schema": schema.to_dict()})

    def _labels(self, request: Request) -> Reply:
        schema = Schema.from_dict(request.meta["schema"])
        if self._guarded:
            self._check_kinds(schema)
        self._promise(request.meta)
        self._table = self._fitted(schema)
        self._statistics = ShardStatistics(schema, self._table)
        known = bool(request.meta.get("known"))  # a run that goes on from a checkpoint
        if self._guard is not None and not self._guard.begun:
            if self.returning and not known:
                raise self._forgotten()
            self._guard.begin(schema)
        elif self._guard is not None and not known:
            self._guard.begin(schema)
        found: dict[str, list[Label]] = {}
        if not known:
            found = self._known_labels(self._statistics)
        return Reply(self.client_id, meta={"labels": found, "private": self._guard is not None})

    def _fitted(self, schema: Schema) -> pd.DataFrame:
        """The rows as a schema has them.

        Under a promise cells that do not fit are unknown: a schema that is refused because of a
        cell would tell of the cell, and it is the server that chooses the schema.

        Raises:
            SchemaError: They do not fit.
            DataError: There are none, or infinities.
        """
        owner = f"client '{self.client_id}'"
        if not self._is_private:
            return schema.conform(self._given, owner)
        table = schema.conform_loosely(self._given, owner)
        unknown = int((table.isna().sum() - self._given.isna().sum()).clip(lower=0).sum())
        if unknown:
            log.warning("%s: %d cells do not fit the schema and count as null", owner, unknown)
        return table

    def _known_labels(self, statistics: ShardStatistics) -> dict[str, list[Label]]:
        """The labels that occur, as far as a promise lets them be told."""
        if self._guard is not None:
            return self._guard.labels(statistics)
        found = statistics.labels()
        if self._hidden and found:
            raise PrivacyError(
                f"the categories of column '{next(iter(found))}' are not public",
                do="state them in a schema file: client-level privacy counts stated ones only",
            )
        return found

    def _promise(self, meta: Mapping[str, Any]) -> None:
        """Take the run's promise, and this client's own.

        Raises:
            PlanError: They do not go together.
        """
        plans = Privacy.parse(meta.get("privacy"))
        if plans is not None:  # files of this machine, and what they allow, are the owner's alone
            plans = replace(plans, ledger=None, budget=None)
        own, run = self._privacy, str(meta.get("run", ""))
        hidden = plans is not None and plans.unit == "client"
        if hidden and own is not None:
            raise PlanError(
                f"client '{self.client_id}' hides its records, and the run hides whole clients",
                do="leave one of the two promises out",
            )
        promise = plans if own is None else own if plans is None else own.stricter(plans)
        if self._guard is not None and (self._guard.run, self._guard.privacy) == (run, promise):
            return  # asked again, by a server that was started again
        if self._guard is not None and self._guard.ledger.events:
            # A promise is for all that leaves, and a new one would begin with an empty ledger.
            raise PrivacyError(
                "this client has released statistics under another promise already",
                do="let the server go on with the run, or start the client again",
            )
        self._hidden, self._guard = hidden, None
        if promise is None or hidden:
            return
        file = None
        if promise.ledger is not None:
            file = LedgerFile(promise.ledger, budget=promise.budget, delta=promise.delta)
        self._guard = Guard(promise, run=run, file=file)
        self._counted = None
        kept = self._kept_promise()
        if kept is not None and kept.get("run") == run:
            self._guard.restore(kept)
            self._counted = kept.get("counted")

    def check_budget(self) -> None:
        """Make sure, before anybody is asked, that the owner's file has room for a whole run.

        Raises:
            PrivacyError: It has not.
        """
        own = self._privacy
        if own is not None and own.ledger is not None and self._kept_promise() is None:
            file = LedgerFile(own.ledger, budget=own.budget, delta=own.delta)
            Guard(own, file=file).check_budget()

    def memory(self) -> dict[str, Any] | None:
        """What this client must remember of its promise, as JSON values; None without one."""
        if self._guard is None:
            return None
        return {**self._guard.to_dict(), "counted": self._counted}

    def _forgotten(self) -> PrivacyError:
        """The error of a client that could release again what it has released."""
        return PrivacyError(
            f"client '{self.client_id}' was in this run before, and has kept nothing of what it "
            "has released",
            do="let it join the next run, with --checkpoint",
        )

    def _kept_promise(self) -> Mapping[str, Any] | None:
        """What this client remembers of a promise from before it was stopped."""
        if self._parts.folder is None:
            return self.remembered
        try:
            kept = json.loads((self._parts.folder / GUARD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PrivacyError(
                "what this client kept of its promise of privacy is damaged",
                do="start a new run, in another folder",
            ) from error
        return kept if isinstance(kept, dict) else None

    def _keep_guard(self) -> None:
        """Remember a promise, before what was released leaves; a failure stops the release."""
        if self._guard is not None and self._parts.folder is not None:
            make_private_folder(self._parts.folder)
            write_private(self._parts.folder / GUARD, json.dumps(self.memory()))

    @property
    def _is_private(self) -> bool:
        """Whether what this client measures of its rows stays with it."""
        return self._guard is not None or self._hidden

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
        places = {str(label): place for place, label in enumerate(self._given.columns)}
        if name not in places or name in map(str, self._discrete_columns):
            return False
        try:
            return Schema.infer(self._given.iloc[:, [places[name]]])[name].kind is Kind.ID
        except GenesisError:  # of several types: then it is no key
            return False

    def _count(self, request: Request) -> Reply:
        if self._statistics is None:
            raise FederationError("counts were asked for before the schema was agreed on")
        questions = [Question.from_dict(each) for each in request.meta["questions"]]
        if len(questions) > 2 * len(self._statistics.schema):
            raise FederationError("more is asked than there are columns")
        if self._guard is not None:
            return self._noisy_counts(self._guard, self._statistics, questions)
        answers = np.concatenate([self._statistics.answer(question) for question in questions])
        rows = len(self._given)
        if self._hidden:
            # Every client counts as one: a record's share of it, rounded down, is its weight.
            answers, rows = answers * WEIGHT // max(rows, 1), WEIGHT
        meta = {"deviation": 0.0, "rows": rows} if request.meta.get("private") else {}
        return Reply(self.client_id, meta=meta, arrays={"counts": answers})

    def _noisy_counts(
        self, guard: Guard, statistics: ShardStatistics, questions: list[Question]
    ) -> Reply:
        """Counts as a promise lets them be told.

        Asked the same again by a server that has not heard the answer, it is the same answer: other
        noise would be another release.
        """
        asked = json.dumps([question.to_dict() for question in questions], sort_keys=True)
        asked = hashlib.sha256(asked.encode()).hexdigest()
        if self._counted is None or self._counted["asked"] != asked:
            counts = guard.answer(statistics, questions)
            self._counted = {"asked": asked, "counts": counts.tolist()}
        return Reply(
            self.client_id,
            meta={"deviation": guard.deviation, "rows": guard.count_rows(len(self._given))},
            arrays={"counts": np.array(self._counted["counts"], dtype=np.int64)},
        )

    def _prepare(self, request: Request) -> Reply:
        meta = request.meta
        table = self._table
        if table is None and not self._guarded:
            table = self._given  # as it is, for whoever knows what they encode
        if table is None:
            raise FederationError("the encoder was sent before the schema was agreed on")
        encoder = Encoder.from_dict(meta["encoder"])
        if self._is_private:
            schema = None if self._statistics is None else self._statistics.schema
            if schema is None or not encoder.suits(schema):
                # Where a certain value broke it, whether it breaks would tell of that value.
                raise FederationError("the encoder is not of the schema that was agreed on")
        config = self._choices.applied_to(meta["config"])
        self._check_private(meta)
        self._config = config
        self._number = int(meta["number"])
        self._seed = key(meta["seed"], Stream.TRAINING, self._number)
        rng = generator(meta["seed"], Stream.ENCODING, self._number)
        self._codes = encoder.encode(table, rng if self._guard is None else secret_generator())
        # The codes are all that training needs.
        self._statistics = self._table = self._counted = None
        self._model = create_model(
            meta["method"],
            encoder.layout,
            config,
            device=self._device,
            seed=meta["seed"],
            frequencies=encoder.frequencies,
        )
        rows = self._told_rows(len(self._codes), known=bool(meta.get("known")))
        if rows is not None:
            self._batch_size = self._batch_size_of(self._model, rows, encoder.rows)
        if self._guard is not None and rows is not None:
            epochs = self._choices.local_epochs or meta["epochs"]
            self._guard.plan_training(batch_size=self._batch_size, epochs=epochs * meta["rounds"])
        self._run = f"{meta['seed']} {meta['method']} {encoder.digest}"
        self._known = self._control = self._next_control = None
        self._begun, self._kept = False, None
        if "divergence" in meta["measures"]:
            self._measured = _divergences(encoder, self._codes)
        self.encoder, self.rows = encoder, rows
        told: dict[str, Any] = {"rows": rows, "parameters": self._model.parameters.digest}
        if self._guard is not None:
            told |= {"private": True, "spent": self._guard.spent()}
        return Reply(self.client_id, meta=told)

    def _check_private(self, meta: Mapping[str, Any]) -> None:
        """Refuse a model that takes no private steps, and measures of rows.

        Raises:
            PrivacyError: It is such a one.
        """
        if not self._is_private:
            return
        if meta["measures"]:
            raise PrivacyError("a promise of privacy covers no measures of the rows")
        if self._guard is None:
            return
        for name, value in model_class(meta["method"]).private_config.items():
            if meta["config"].get(name) != value:
                raise PrivacyError(
                    f"private steps of {meta['method']} need {name} {value}",
                    do=f"let the server set {name} {value}, or leave it out there",
                )

    def _told_rows(self, rows: int, *, known: bool) -> int | None:
        """The number of rows as others may know it; None if they know it from an earlier run."""
        if self._hidden:
            return WEIGHT
        if self._guard is None:
            return rows
        # A client that is asked again remembers what it said; one that cannot, waits for its part.
        return self._guard.rows if known else self._guard.count_rows(rows)

    def _train(self, request: Request) -> Reply:
        model, codes = self._ready()
        meta = request.meta
        self._recall(request.round)
        epochs = self._choices.local_epochs or meta["epochs"]
        if self._known is None:
            self._known = model.get_vector()
        if "vector" in request.arrays:
            start, received = model.get_vector(), _tensor(request.arrays["vector"])
            for vector in (start, self._known):
                _write_parts(model, vector, received, meta["receive"])
            model.set_vector(start)
        asked = _digest(request)
        correction = self._correction(request, len(self._known))
        if not self._trained_before(asked, request.round + 1):
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
            self.losses = model.train(codes, local)
            if self._control is not None:
                self._next_control = model.mean_gradient()
        metrics = dict(self.losses)
        arrays: dict[str, npt.NDArray[Any]] = {}
        if meta["send"] != []:
            sent, metrics["update_norm"] = self._trained(model, meta)
            if self._control is not None:
                assert self._next_control is not None
                sent = torch.cat([sent, self._next_control - self._control])
            arrays["vector"] = sent.numpy()
        self.losses = metrics
        if self._parts.folder is not None:
            # Before the server has the reply, so that it never knows more than this folder.
            self._keep_or_warn(request.round + 1)
        if self._guard is None:
            told = {} if self._hidden else metrics | self._measured
            return Reply(self.client_id, meta={"metrics": told}, arrays=arrays)
        self._guard.sent(asked)
        self._last_state = self.snapshot()
        return Reply(
            self.client_id, meta={"metrics": {}, "spent": self._guard.spent()}, arrays=arrays
        )

    def _private_steps(self, meta: Mapping[str, Any], epochs: int) -> PrivateSteps | None:
        """The steps that a promise allows; None where there is no promise about records."""
        guard = self._guard
        if guard is None:
            return None
        if guard.training is None:  # it lost what it knew, and begins anew
            if not guard.ledger.events:
                raise self._forgotten()
            model, codes = self._ready()
            assert self.encoder is not None
            rows = guard.count_rows(len(codes))
            self._batch_size = self._batch_size_of(model, rows, self.encoder.rows)
            guard.plan_training(batch_size=self._batch_size, epochs=epochs * meta["rounds"])
        return guard.steps(epochs, keep=self._keep_guard)

    def _batch_size_of(self, model: GenerativeModel, rows: int, total: int) -> int:
        """Rows of a step, for so many rows as others know of, out of a total."""
        if self._guard is None:
            return batch_size_for(model, self._config, rows, total)
        return private_batch_size(self._config)

    def _trained_before(self, asked: str, rounds: int) -> bool:
        """Whether this very training was done before, by a run that a crash threw back.

        Its outcome is then sent again: other noise would be another release.
        """
        if self._guard is None or self._guard.last != asked:
            return False
        state: Mapping[str, Tensor] | None = self._last_state
        if state is None:
            state = self._parts.find(rounds, self._run, self._number, exactly=True)
        if state is None:
            return False
        self.restore(state)
        return True

    def _collect(self, request: Request) -> Reply:
        """Parameters as they are; the losses are those of the last round."""
        model, _ = self._ready()
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
        places, trained = _places(model, meta["send"]), model.get_vector()
        known = torch.cat([self._known[place] for place in places])
        sent = torch.cat([trained[place] for place in places])
        norm = float(torch.linalg.vector_norm(sent - known))
        max_norm, per_layer = self._choices.clipping(meta["max_grad_norm"], meta["clip_per_layer"])
        if max_norm is not None:
            sent = _clip(model, known, sent, places, max_norm, per_layer)
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
        state = {f"optimiser.{name}": value for name, value in model.optimiser_state().items()}
        state["vector"] = model.get_vector()
        remembered = {
            "known": self._known,
            "control": self._control,
            "next_control": self._next_control,
        }
        return state | {name: value for name, value in remembered.items() if value is not None}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `snapshot`; from an empty one, as the client begins."""
        model, _ = self._ready()
        self._begun = True
        if not state:
            return
        model.set_vector(state["vector"])
        prefix = "optimiser."
        model.load_optimiser_state(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        self._known, self._control = state.get("known"), state.get("control")
        self._next_control = state.get("next_control")

    def _checkpoint(self, request: Request) -> Reply:
        """Keep what this client remembers after so many rounds."""
        if "directory" in request.local:
            folder = Path(request.local["directory"])
            state = self.snapshot()
            if self._guard is not None:
                state["guard"] = _as_tensor(json.dumps(self._guard.to_dict()))
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
            state = dict(read_part(folder, self._number, self._run) or {})
            if self._guard is not None and "guard" in state:
                self._guard.restore(json.loads(bytes(state.pop("guard").tolist())))
            self.restore(state)
        return Reply(self.client_id)

    def _finish(self, request: Request) -> Reply:
        model, _ = self._ready()
        model.set_vector(_tensor(request.arrays["vector"]))
        return Reply(self.client_id)

    def _ready(self) -> tuple[GenerativeModel, Codes]:
        if self._model is None or self._codes is None:
            raise FederationError("training was asked for before the encoder was agreed on")
        return self._model, self._codes


def batch_size_for(model: GenerativeModel, config: Mapping[str, Any], rows: int, total: int) -> int:
    """Rows of a step, for a shard of some rows out of a total.

    If the config does not say and the shard holds the share s of all rows, 500 s (1 + s) / 2, and
    at least 50. With 500 s every client would make as many steps in an epoch as one client with all
    the rows; small clients make up to twice as many, for what averaging takes back. With 500
    regardless, each of K clients would make a K-th of the steps and learn next to nothing.
    """
    if "batch_size" in config:
        return int(config["batch_size"])
    share = rows / max(total, 1)
    multiple = model.batch_multiple
    fitting = round(FULL_BATCH * share * (1 + share) / 2 / multiple) * multiple
    smallest = math.ceil(SMALLEST_BATCH / multiple) * multiple
    return max(min(fitting, FULL_BATCH), smallest)


def private_batch_size(config: Mapping[str, Any]) -> int:
    """Rows expected in a private step.

    Steps cost privacy and rows do not, so a small shard makes as few as one with all the rows.
    """
    return int(config.get("batch_size", FULL_BATCH))


def _as_tensor(text: str) -> Tensor:
    """A text as bytes."""
    return torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)


def _digest(request: Request) -> str:
    """What a request for training asks, in short."""
    digest = hashlib.sha256(f"{request.round} {json.dumps(request.meta, sort_keys=True)}".encode())
    for name in sorted(request.arrays):
        digest.update(name.encode() + request.arrays[name].tobytes())
    return digest.hexdigest()


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _places(model: GenerativeModel, parts: list[str] | None) -> list[slice]:
    """Where the given parts lie in the vector, in its order; None means all of it."""
    known = model.parameters.parts
    return [place for name, place in known.items() if parts is None or name in parts]


def _write_parts(
    model: GenerativeModel, vector: Tensor, received: Tensor, parts: list[str] | None
) -> None:
    """Put received parts in their places in vector."""
    places = _places(model, parts)
    if sum(place.stop - place.start for place in places) != len(received):
        raise FederationError(
            "the server sent parameters of another model",
            got=f"{len(received)} numbers",
            do="give server and clients the same version and plan",
        )
    start = 0
    for place in places:
        size = place.stop - place.start
        vector[place] = received[start : start + size]
        start += size


def _clip(
    model: GenerativeModel,
    received: Tensor,
    sent: Tensor,
    places: list[slice],
    max_norm: float,
    per_layer: bool,
) -> Tensor:
    """Parameters whose change has an L2 norm of at most max_norm.

    Per layer, each of the L tensors is clipped to max_norm / sqrt(L), which bounds the whole too.
    """
    change = sent - received
    if not per_layer:
        norm = torch.linalg.vector_norm(change)
        return sent if norm <= max_norm else received + change * (max_norm / norm)
    layers = [
        place.stop - place.start
        for place in model.parameters.slices.values()
        if any(part.start <= place.start < part.stop for part in places)
    ]
    limit = max_norm / math.sqrt(len(layers))
    for layer in torch.split(change, layers):
        norm = torch.linalg.vector_norm(layer)
        if norm > limit:
            layer.mul_(limit / norm)
    return received + change


def _divergences(encoder: Encoder, codes: Codes) -> dict[str, float]:
    """How far each column of this shard is from all shards: see aggregation.similarity."""
    measured = {}
    for block, encoding in enumerate(encoder.encodings):
        width = len(encoding.counts)
        own = codes.codes[:, block]
        counts = np.bincount(own[own >= 0], minlength=width)
        if isinstance(encoding, NumericEncoding):
            means = encoding.mixture.means if encoding.mixture is not None else np.empty(0)
            positions = np.concatenate([means, encoding.atoms])
            order = np.argsort(positions, kind="stable")
            value = wasserstein(counts[order], encoding.counts[order], positions[order])
        else:
            value = jensen_shannon(counts, encoding.counts)
        measured[f"divergence.{block}"] = float(value)
    return measured
