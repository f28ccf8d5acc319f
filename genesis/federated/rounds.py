"""The server's loop. Read this first.

    describe → labels → count … → prepare → train × n_rounds → finish

The server reaches clients through `Transport.exchange` alone. Everything it learns of their tables
is a schema, labels and sums of counts; everything it learns of their training are the parameters
that the aggregation rule asks for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.encoding.encoder import Encoder
from genesis.errors import FederationError, GenesisError, SchemaError, TrainingError
from genesis.federated.aggregation import State, aggregate
from genesis.federated.callbacks import Callback, RoundReport
from genesis.federated.checkpoint import Checkpoint
from genesis.federated.messages import Reply, Request, Update
from genesis.federated.plan import Plan
from genesis.federated.transport import Transport
from genesis.models import create_model
from genesis.models.parameters import ParameterLayout
from genesis.schema import Schema
from genesis.seeding import Stream, generator
from genesis.statistics import PooledStatistics

__all__ = ["Federation"]

log = logging.getLogger(__name__)


@dataclass
class Federation:
    """One federated run: what the server knows and does.

    Args:
        plan: Every choice of the run.
        transport: How clients are reached.
        callbacks: Called at the start, after every round and at the end.
        schema: The schema that the operator insists on, or None to agree on one.
    """

    plan: Plan
    transport: Transport
    callbacks: Sequence[Callback] = ()
    schema: Schema | None = None

    encoder: Encoder | None = field(default=None, init=False)
    state: State | None = field(default=None, init=False)
    reports: list[RoundReport] = field(default_factory=list, init=False)
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    rows: dict[str, int] = field(default_factory=dict, init=False)
    _numbers: dict[str, int] = field(default_factory=dict, init=False)
    _last_cohort: frozenset[str] = field(default=frozenset(), init=False)
    _used: frozenset[str] = field(default=frozenset(), init=False)
    _layout: ParameterLayout | None = field(default=None, init=False)
    _stop: str | None = field(default=None, init=False)

    def run(self, resume_from: str | Path | None = None) -> None:
        """The whole run; afterwards `encoder`, `state` and `reports` hold what came of it.

        Args:
            resume_from: Directory of a checkpoint to continue from.

        Raises:
            SchemaError: The clients' tables do not fit together.
            TrainingError: A client's loss is not finite; the last good state is kept.
            FederationError: Fewer than `min_clients` clients answered.
        """
        checkpoint = Checkpoint.read(resume_from, self.plan) if resume_from else None
        clients = self._join()
        with self._timed("encoder"):
            if checkpoint is None:
                schema = self._agree_on_schema(clients)
                self.encoder = self._fit_encoder(schema, clients)
            else:
                _check_clients(clients, checkpoint.numbers)
                self._numbers = dict(checkpoint.numbers)
                self._ask_labels(clients, checkpoint.encoder.schema)
                self.encoder = checkpoint.encoder
            self._prepare(clients)
        self._begin(checkpoint)
        try:
            for callback in self.callbacks:
                callback.on_run_start(self)
            with self._timed("training"):
                for round in range(len(self.reports), self.plan.n_rounds):
                    if self._stop:
                        log.info("stopped before round %d: %s", round + 1, self._stop)
                        break
                    self.reports.append(self._play(round, clients))
                    for callback in self.callbacks:
                        callback.on_round_complete(self, self.reports[-1])
        finally:
            # Before the clients' parameters become the final ones: a callback may save them.
            for callback in self.callbacks:
                callback.on_run_end(self, self.reports)
        self._average_rest(clients)
        self._finish(clients)

    # --- for callbacks ---

    @property
    def n_rounds(self) -> int:
        """Rounds of the plan."""
        return self.plan.n_rounds

    @property
    def stopped(self) -> str | None:
        """Why the run was stopped early, if it was."""
        return self._stop

    def stop(self, reason: str) -> None:
        """End the run after this round."""
        self._stop = reason

    def save_checkpoint(self, directory: str | Path) -> None:
        """Keep everything that the next round depends on, the clients' part included.

        Raises:
            FederationError: A client could not keep its part.
        """
        assert self.encoder is not None
        assert self.state is not None
        directory = Path(directory)
        folder = Checkpoint.folder(directory, len(self.reports))
        requests = self._request_each(
            sorted(self._numbers), "checkpoint", {"directory": str(folder)}, numbered=True
        )
        self._require(self._exchange(requests), "keep its checkpoint")
        Checkpoint(
            plan=self.plan,
            encoder=self.encoder,
            state=self.state,
            reports=tuple(self.reports),
            numbers=dict(self._numbers),
            last_cohort=self._last_cohort,
            used=self._used,
        ).write(directory)

    # --- the table ---

    def _join(self) -> list[str]:
        """The clients of the run, in the order of their names."""
        clients = sorted(client.client_id for client in self.transport.clients())
        if self.plan.max_clients is not None:
            clients = clients[: self.plan.max_clients]
        self._enough(clients, "joined")
        self._numbers = {client: number for number, client in enumerate(clients)}
        return clients

    def _agree_on_schema(self, clients: list[str]) -> Schema:
        """What the operator says about the columns; else what the clients say, made one."""
        if self.schema is not None:
            return self.schema.discretise(self.plan.discrete_columns).settle()
        meta = {"discrete_columns": list(self.plan.discrete_columns)}
        replies = self._exchange(self._request_each(clients, "describe", meta))
        self._require(replies, "describe its table")
        found = {reply.client_id: Schema.from_dict(reply.meta["schema"]) for reply in replies}
        return Schema.merge(found).settle()

    def _ask_labels(self, clients: list[str], schema: Schema) -> list[Mapping[str, Any]]:
        replies = self._exchange(
            self._request_each(clients, "labels", {"schema": schema.to_dict()})
        )
        self._require(replies, "fit the schema")
        return [reply.meta["labels"] for reply in replies]

    def _fit_encoder(self, schema: Schema, clients: list[str]) -> Encoder:
        """Count until everything is known of the pooled table, then fit on the sums."""
        pooled = PooledStatistics(schema, self._ask_labels(clients, schema))
        while questions := pooled.questions():
            meta = {"questions": [question.to_dict() for question in questions]}
            replies = self._exchange(self._request_each(clients, "count", meta))
            self._require(replies, "count its values")
            pooled.take(_sum_answers(replies, [question.size for question in questions]))
        if pooled.rows < 2:
            raise SchemaError(
                "there is too little to learn from", got=f"{pooled.rows} row", do="add rows"
            )
        return Encoder.fit(pooled, max_categories=self.plan.max_categories)

    # --- the model ---

    def _prepare(self, clients: list[str]) -> None:
        """Every client encodes its rows and builds the model."""
        assert self.encoder is not None
        model = create_model(
            self.plan.method,
            self.encoder.layout,
            self.plan.model_config,
            seed=self.seed,
            frequencies=self.encoder.frequencies,
        )
        self._layout = model.parameters
        rule = self.plan.aggregator()
        self.state = rule.initial(model.get_vector())
        meta = {
            "encoder": self.encoder.to_dict(),
            "method": self.plan.method,
            "config": self.plan.model_config,
            "seed": self.seed,
            "measures": list(rule.measures),
        }
        replies = self._exchange(self._request_each(clients, "prepare", meta, numbered=True))
        self._require(replies, "encode its rows")
        self.rows = {reply.client_id: int(reply.meta["rows"]) for reply in replies}
        for reply in replies:
            if reply.meta["parameters"] != model.parameters.digest:
                raise FederationError(
                    f"client '{reply.client_id}' builds another model from the same plan",
                    do="give server and clients the same version",
                )

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """Start from the checkpoint, if there is one."""
        if checkpoint is None:
            return
        self.state = checkpoint.state
        self.reports = list(checkpoint.reports)
        self._last_cohort, self._used = checkpoint.last_cohort, checkpoint.used
        meta = {"directory": str(checkpoint.directory)}
        requests = self._request_each(sorted(self._numbers), "restore", meta, numbered=True)
        self._require(self._exchange(requests), "restore its checkpoint")

    def _play(self, round: int, clients: list[str]) -> RoundReport:
        """One round: parameters out, local training, parameters back, one step of the rule."""
        started = time.perf_counter()
        cohort = self._cohort(round, clients)
        replies = self._exchange(self._training_requests(round, cohort))
        failed = {reply.client_id: reply.error for reply in replies if reply.error}
        self._raise_divergence(round, replies)
        answered = [reply for reply in replies if not reply.error]
        send = self.plan.synchronized(round)
        updates = self._updates(answered, send, failed)
        for client, reason in failed.items():
            log.warning("round %d: client '%s' failed: %s", round + 1, client, reason)
        survivors = [update.client_id for update in updates]
        dropped = tuple(sorted(set(cohort) - set(survivors) - set(failed)))
        if dropped:
            log.warning("round %d: no answer from %s", round + 1, ", ".join(dropped))
        self._enough(survivors, f"finished round {round + 1}", failed)
        if send != ():
            self._step(updates, clients)
        self._last_cohort = frozenset(survivors)
        self._used = (self._used - frozenset(cohort)) | self._last_cohort
        return RoundReport(
            round=round,
            n_rounds=self.plan.n_rounds,
            metrics=_mean_metrics(updates, self.plan.aggregator().measures),
            clients=tuple(survivors),
            failed={client: str(reason) for client, reason in failed.items()},
            dropped=dropped,
            seconds=time.perf_counter() - started,
        )

    def _step(self, updates: Sequence[Update], clients: Sequence[str]) -> None:
        """One step of the rule, on the updates of some of the clients."""
        assert self.state is not None
        participation = len(updates) / len(clients)
        self.state = aggregate(self.plan.aggregator(), self.state, updates, participation)

    def _average_rest(self, clients: Sequence[str]) -> None:
        """Average what a run that was stopped early has not, as its last round would have."""
        if not self.reports:
            return
        sent = self.plan.synchronized(len(self.reports) - 1)
        wanted = self.plan.synchronized(self.plan.n_rounds - 1)
        rest = wanted if sent == () else tuple(p for p in wanted or () if p not in (sent or ()))
        if rest == ():
            return
        meta = {
            "send": None if rest is None else list(rest),
            "max_grad_norm": self.plan.max_grad_norm,
            "clip_per_layer": self.plan.clip_per_layer,
        }
        replies = self._exchange(self._request_each(sorted(self._last_cohort), "collect", meta))
        failed = {reply.client_id: reply.error for reply in replies if reply.error}
        updates = self._updates([r for r in replies if not r.error], rest, failed)
        self._enough([update.client_id for update in updates], "sent what they trained", failed)
        self._step(updates, clients)

    def _cohort(self, round: int, clients: list[str]) -> list[str]:
        """The clients of a round: all of them, or a random share."""
        size = max(math.ceil(self.plan.client_fraction * len(clients)), self.plan.min_clients)
        if size >= len(clients):
            return clients
        rng = generator(self.seed, Stream.COHORT, round)
        return sorted(rng.choice(clients, size=size, replace=False).tolist())

    def _training_requests(self, round: int, cohort: list[str]) -> dict[str, Request]:
        """What each client is sent: the parameters it lacks, and how to train."""
        assert self.state is not None
        rule = self.plan.aggregator()
        send = self.plan.synchronized(round)
        vector = self.state.vector.cpu().numpy()
        meta = {
            "epochs": self.plan.epochs_per_round,
            "first_epoch": round * self.plan.epochs_per_round,
            "learning_rate_scale": self.plan.learning_rate_scale(round),
            "send": None if send is None else list(send),
            "max_grad_norm": self.plan.max_grad_norm,
            "clip_per_layer": self.plan.clip_per_layer,
            **rule.local_options,
        }
        requests = {}
        for client in cohort:
            receive = self._lacks(round, client)
            arrays: dict[str, npt.NDArray[Any]] = {}
            if receive != ():
                arrays["vector"] = np.concatenate([vector[p] for p in self._places(receive)])
            if rule.control_variates:
                arrays["control"] = self.state.slots["control"].cpu().numpy()
            kept = None if receive is None else list(receive)
            told = {**meta, "receive": kept, "used": client in self._used}
            requests[client] = Request("train", round, told, arrays)
        return requests

    def _lacks(self, round: int, client: str) -> tuple[str, ...] | None:
        """Parts that changed at the server since the client trained; None for all of them."""
        if round == 0:
            return None
        if client in self._last_cohort:
            return self.plan.synchronized(round - 1)
        return None if self.plan.synchronize == "both" else (self.plan.synchronize,)

    def _places(self, parts: tuple[str, ...] | None) -> list[slice]:
        assert self._layout is not None
        known = self._layout.parts
        return [place for name, place in known.items() if parts is None or name in parts]

    def _updates(
        self,
        replies: Sequence[Reply],
        send: tuple[str, ...] | None,
        failed: dict[str, str],
    ) -> list[Update]:
        """Replies as updates; those that make no sense are added to the failed instead."""
        updates: list[Update] = []
        for reply in replies:
            try:
                updates.append(self._update(reply, send))
            except FederationError as error:
                failed[reply.client_id] = str(error)
        return updates

    def _update(self, reply: Reply, send: tuple[str, ...] | None) -> Update:
        """A client's reply as an update of the whole vector; parts it kept count as unchanged.

        Raises:
            FederationError: It has another shape than was asked for, or is not finite.
        """
        assert self.state is not None
        whole = self.state.vector.cpu().numpy()
        if send != ():
            vector = reply.arrays.get("vector", np.empty(0, np.float32))
            places = self._places(send)
            expected = sum(place.stop - place.start for place in places)
            if self.plan.aggregator().control_variates:
                expected *= 2
            if vector.shape != (expected,) or vector.dtype != np.float32:
                raise FederationError(
                    "its update has the wrong shape", got=f"{vector.dtype} {vector.shape}"
                )
            if not np.isfinite(vector).all():
                raise FederationError("its update holds values that are not finite")
            if send is None:
                whole = vector
            else:
                whole = whole.copy()
                start = 0
                for place in places:
                    size = place.stop - place.start
                    whole[place] = vector[start : start + size]
                    start += size
        metrics = {name: float(value) for name, value in reply.meta["metrics"].items()}
        return Update(reply.client_id, whole, float(self.rows[reply.client_id]), metrics)

    def _finish(self, clients: list[str]) -> None:
        """Every client receives the final parameters."""
        assert self.state is not None
        arrays = {"vector": self.state.vector.cpu().numpy()}
        requests = {client: Request("finish", arrays=arrays) for client in clients}
        for reply in self._exchange(requests):
            if reply.error:
                log.warning("client '%s' did not take the final model", reply.client_id)

    # --- clients ---

    @property
    def seed(self) -> int:
        """The seed of the plan."""
        assert self.plan.seed is not None  # a plan draws one
        return self.plan.seed

    def _request_each(
        self, clients: list[str], kind: str, meta: Mapping[str, Any], *, numbered: bool = False
    ) -> dict[str, Request]:
        """The same request for every client, with its number if need be."""
        return {
            client: Request(
                kind, meta={**meta, "number": self._numbers[client]} if numbered else meta
            )
            for client in clients
        }

    def _exchange(self, requests: Mapping[str, Request]) -> list[Reply]:
        """All replies, in the order of the clients' names, so that sums never depend on arrival."""
        replies = self.transport.exchange(requests, timeout=self.plan.timeout_seconds)
        return sorted(replies, key=lambda reply: reply.client_id)

    def _require(self, replies: Sequence[Reply], what: str) -> None:
        """Before the rounds every client is needed: the encoding must be everybody's.

        Raises:
            GenesisError: What a client failed with, or FederationError if some did not answer.
        """
        kinds = {cls.__name__: cls for cls in _subclasses(GenesisError)}
        for reply in replies:
            if reply.error:
                cls = kinds.get(str(reply.meta.get("error_type")), FederationError)
                named = f"client '{reply.client_id}'"
                text = reply.error if named in reply.error else f"{named}: {reply.error}"
                raise cls(text)
        missing = sorted(set(self._numbers) - {reply.client_id for reply in replies})
        if missing:
            raise FederationError(
                f"client '{missing[0]}' did not {what}",
                got=f"{len(missing)} of {len(self._numbers)} clients without an answer",
                do="check that they are running, or leave them out",
            )

    def _enough(
        self, clients: Sequence[str], what: str, failed: Mapping[str, str | None] | None = None
    ) -> None:
        if len(clients) >= max(self.plan.min_clients, 1):
            return
        reasons = "; ".join(f"'{client}': {why}" for client, why in (failed or {}).items())
        raise FederationError(
            f"too few clients {what}",
            got=f"{len(clients)}, min_clients is {self.plan.min_clients}"
            + (f" ({reasons})" if reasons else ""),
            do="add clients or lower min_clients",
        )

    def _raise_divergence(self, round: int, replies: Sequence[Reply]) -> None:
        """A loss that is not finite ends the run: averaging on would hide it."""
        for reply in replies:
            if reply.error and reply.meta.get("error_type") == "TrainingError":
                raise TrainingError(
                    f"training diverged in round {round + 1} at client '{reply.client_id}'",
                    got=reply.error,
                    do="likely causes: too high a learning rate, too small a batch, or extreme "
                    "values in a column; the state before this round is kept",
                )

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _check_clients(clients: Sequence[str], before: Mapping[str, int]) -> None:
    """A run continues with the clients that it began with."""
    missing = [f"no '{client}'" for client in sorted(set(before) - set(clients))]
    extra = [f"'{client}' besides" for client in sorted(set(clients) - set(before))]
    if missing or extra:
        raise FederationError(
            "the checkpoint was made with other clients",
            got=", ".join([*missing, *extra]),
            do="continue with the same tables under the same names, or start anew",
        )


def _sum_answers(replies: Sequence[Reply], sizes: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """The sums over the clients of their counts, one array a question."""
    total = np.zeros(sum(sizes), dtype=np.int64)
    for reply in replies:
        counts = reply.arrays["counts"]
        if counts.shape != total.shape or counts.dtype != np.int64 or (counts < 0).any():
            raise FederationError(
                f"client '{reply.client_id}' answered with counts of the wrong shape",
                got=f"{counts.dtype} {counts.shape}",
                do="give server and clients the same version",
            )
        total += counts
    return np.split(total, np.cumsum(sizes)[:-1])


def _mean_metrics(updates: Sequence[Update], measures: Sequence[str]) -> dict[str, float]:
    """Means of the clients' losses, weighted by rows; what a rule had measured is left out."""
    hidden = tuple(f"{measure}." for measure in measures)
    names = [name for name in updates[0].metrics if not name.startswith(hidden)] if updates else []
    total = sum(update.weight for update in updates) or 1.0
    return {
        name: sum(update.metrics.get(name, 0.0) * update.weight for update in updates) / total
        for name in names
    }


def _subclasses(cls: type[GenesisError]) -> Iterator[type[GenesisError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from _subclasses(each)
