"""The server's loop. Read this first.

    describe → labels → count … → prepare → train × n_rounds → finish

The server reaches clients through `Transport.exchange` alone. Everything it learns of their tables
is a schema, labels and sums of counts; everything it learns of their training are the parameters
that the aggregation rule asks for, or with secure aggregation their sums alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.encoding.encoder import Encoder
from genesis.errors import FederationError, TrainingError
from genesis.federated.aggregation import State
from genesis.federated.agreement import agree_on_schema, ask_labels, fit_encoder
from genesis.federated.callbacks import Callback, RoundReport
from genesis.federated.checkpoint import Checkpoint
from genesis.federated.clients import Clients, read, whole
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import folder_of_round
from genesis.federated.plan import Plan
from genesis.federated.promise import RunPromise
from genesis.federated.secure_sums import SecureSums
from genesis.federated.seen_updates import SeenUpdates
from genesis.federated.sum_rounds import SumRounds
from genesis.federated.transport import Transport
from genesis.federated.updates import Combined, Gatherer, Hear, expected, part_of
from genesis.models import create_model, encoder_choices, is_sum_model, model_class
from genesis.models.parameters import ParameterLayout
from genesis.schema import Schema
from genesis.seeding import Stream, generator

if TYPE_CHECKING:
    from torch import Tensor

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
    phase: str = field(default="waiting", init=False)
    promise: RunPromise = field(init=False)
    _clients: Clients | None = field(default=None, init=False)
    _seen: SeenUpdates = field(init=False)
    _sums: SecureSums | None = field(default=None, init=False)
    _last_cohort: frozenset[str] = field(default=frozenset(), init=False)
    _used: frozenset[str] = field(default=frozenset(), init=False)
    _layout: ParameterLayout | None = field(default=None, init=False)
    _fit: SumRounds | None = field(default=None, init=False)  # of a model that is fitted from sums
    _stop: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.promise = RunPromise(self.plan.promise, public_schema=self.schema is not None)

    def run(self, resume_from: str | Path | None = None) -> None:
        """The whole run; afterwards `encoder`, `state` and `reports` hold what came of it.

        `phase` says how far it is: waiting, agreeing, training, finishing, complete.

        Args:
            resume_from: Directory of a checkpoint to continue from.

        Raises:
            SchemaError: The clients' tables do not fit together.
            TrainingError: A client's loss is not finite; the last good state is kept.
            FederationError: Fewer than `min_clients` clients answered.
        """
        checkpoint = Checkpoint.read(resume_from, self.plan) if resume_from else None
        self._clients = Clients.join(self.transport, self.plan)
        self.phase = "agreeing"
        with self._timed("encoder"):
            if checkpoint is not None:
                self._clients = self.clients.numbered(checkpoint.numbers)
                self.rows = dict(checkpoint.rows)
                self.promise.restore(checkpoint.promise, checkpoint.tensors)
            self._begin_sums(checkpoint)
            if checkpoint is None:
                self.encoder = fit_encoder(
                    self.clients,
                    self._agree(),
                    self.plan.max_categories,
                    self.promise,
                    self._sums,
                    **encoder_choices(self.plan.method),
                )
            else:
                self.encoder = checkpoint.encoder
                schema = self.encoder.schema
                ask_labels(self.clients, schema, self.promise, self._sums, known=True)
            self._prepare(known=checkpoint is not None)
        self._begin(checkpoint)
        self.phase = "training"
        try:
            for callback in self.callbacks:
                callback.on_run_start(self)
            with self._timed("training"):
                while not self._done:
                    if self._stop:
                        log.info("stopped before round %d: %s", len(self.reports) + 1, self._stop)
                        break
                    self.reports.append(self._play(len(self.reports)))
                    for callback in self.callbacks:
                        callback.on_round_complete(self, self.reports[-1])
        finally:
            # Before the clients' parameters become the final ones: a callback may save them.
            for callback in self.callbacks:
                callback.on_run_end(self, self.reports)
        self.phase = "finishing"
        self._average_rest()
        self._finish()
        self.phase = "complete"

    # --- for callbacks ---

    @property
    def n_rounds(self) -> int:
        """Rounds of the plan, or as many as a fit from sums takes."""
        return self.plan.n_rounds if self._fit is None else self._fit.fit.n_rounds

    @property
    def _done(self) -> bool:
        """Whether there is nothing left to train."""
        if self._fit is not None:
            return self._fit.done
        return len(self.reports) >= self.plan.n_rounds

    @property
    def private(self) -> bool:
        """Whether the run promises privacy: no metric of a client is then known."""
        return self.promise.is_private

    @property
    def stopped(self) -> str | None:
        """Why the run was stopped early, if it was."""
        return self._stop

    def stop(self, reason: str) -> None:
        """End the run after this round."""
        self._stop = reason

    def save_checkpoint(self, directory: str | Path, *, strict: bool = True) -> None:
        """Keep everything that the next round depends on, the clients' part included.

        Args:
            directory: Where to.
            strict: Whether a client that cannot keep its part is an error. It can go on too, but
                not if it is stopped and started again.

        Raises:
            FederationError: A client could not keep its part.
            DataError: The disk refuses.
        """
        assert self.encoder is not None
        assert self.state is not None
        directory = Path(directory)
        rounds = len(self.reports)
        fit, tensors = ({}, {}) if self._fit is None else self._fit.to_state()
        request = Request(
            "checkpoint",
            meta={"rounds": rounds},
            local={"directory": folder_of_round(directory, rounds)},
        )
        # A client that is busy with a round that is over would hold up everybody.
        busy = self.reports[-1].dropped if self.reports else ()
        idle = [client for client in self.clients.names if client not in busy]
        for reply in self.clients.ask(request, idle):
            if reply.error and strict:
                raise FederationError(
                    f"client '{reply.client_id}' could not keep its checkpoint", got=reply.error
                )
            if reply.error:
                log.warning("client '%s' kept no checkpoint: %s", reply.client_id, reply.error)
        Checkpoint(
            plan=self.plan,
            encoder=self.encoder,
            state=self.state,
            reports=tuple(self.reports),
            numbers=dict(self.clients.numbers),
            rows=dict(self.rows),
            last_cohort=self._last_cohort,
            used=self._used,
            promise=self.promise.to_dict(),
            sums={} if self._sums is None else self._sums.to_dict(),
            fit=fit,
            tensors=self.promise.to_tensors() | tensors,
        ).write(directory)

    # --- before the rounds ---

    def _begin_sums(self, checkpoint: Checkpoint | None) -> None:
        """Agree on keys, if the plan has secure aggregation."""
        if self.plan.scheme is None:
            return
        self._sums = SecureSums(self.plan, self.clients)
        if checkpoint is not None:
            self._sums.restore(checkpoint.sums)
            self._sums.rows = checkpoint.encoder.rows
        self._sums.begin()

    def _agree(self) -> Schema:
        """What the operator says about the columns; else what the clients say, made one."""
        if self.schema is not None:
            return self.schema.discretise(self.plan.discrete_columns).settle()
        return agree_on_schema(
            self.clients, self.plan.discrete_columns, private=self.promise.is_private
        )

    @property
    def config(self) -> dict[str, Any]:
        """The config of the model: with what a fit has chosen, or what private clients need."""
        if self._fit is not None:
            return self._fit.fit.config
        return self.plan.config_for(private=self.promise.hides_records)

    @property
    def privacy(self) -> dict[str, Any] | None:
        """What was promised so far and what it came to; see `privacy.report`."""
        names = [] if self._clients is None else self.clients.names
        return self.promise.report(names, model_class(self.plan.method).private_gradients)

    def _prepare(self, *, known: bool = False) -> None:
        """Every client encodes its rows and builds the model."""
        assert self.encoder is not None
        model = create_model(
            self.plan.method,
            self.encoder.layout,
            self.config,
            seed=self.seed,
            frequencies=self.encoder.frequencies,
        )
        self._layout = model.parameters
        self._seen = SeenUpdates(self.clients, self.promise, self.rows, len(self.encoder.encodings))
        rule = self.plan.aggregator()
        self.state = rule.initial(model.get_vector())
        self.promise.begin_rounds(
            model.parameters.size,
            len(self.clients),
            self.n_rounds,
            self.plan.client_fraction,
            min(self._cohort_size, len(self.clients)),
        )
        meta = {
            "encoder": self.encoder.to_dict(),
            "method": self.plan.method,
            "config": self.config,
            "seed": self.seed,
            "measures": list(rule.measures),
            "rounds": self.n_rounds,
            "epochs": self.plan.epochs_per_round,
            "known": known,
        }
        if self._sums is not None:
            meta["stateful"] = self.plan.stateful
        request = Request("prepare", meta=meta, setup=True)
        if self._sums is not None:
            measured = (*model_class(self.plan.method).losses, "update_norm")
            if self.promise.is_private:
                measured = ()  # it stays with the clients
            self._sums.prepare(request, model.config, measured, self.promise.noisy)
        replies = self.clients.require(request, "encode its rows", numbered=True, missing_ok=known)
        self.promise.hear(replies)
        for reply in replies:
            if self._sums is None and (not known or reply.meta.get("rows") is not None):
                self.rows[reply.client_id] = read(reply, lambda meta: whole(meta["rows"]))
            if reply.meta.get("parameters") != model.parameters.digest:
                raise FederationError(
                    f"client '{reply.client_id}' builds another model from the same plan",
                    do="give server and clients the same version",
                )
        if is_sum_model(self.plan.method):
            self._fit = self._new_fit()
            self.state = State(self._fit.fit.vector)

    def _new_fit(self) -> SumRounds:
        """The fit of a model from sums, before its first question."""
        assert self.encoder is not None
        model, layout = model_class(self.plan.method), self.encoder.layout
        releases = model.releases(layout, self.plan.model_config)
        fit = model.fit(
            layout,
            self.plan.model_config,
            rows=self.encoder.rows,
            frequencies=self.encoder.frequencies,
            n_rounds=self.plan.n_rounds,
            seed=self.seed,
            budget=self.promise.budget(self.encoder.schema, releases, len(self.clients)),
        )
        return SumRounds(fit, self.clients, self.promise, self._sums)

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """Start from the checkpoint, if there is one."""
        if checkpoint is None:
            return
        self.state = checkpoint.state
        if self._fit is not None:
            self._fit.restore(checkpoint.fit, checkpoint.tensors)
        self.reports = list(checkpoint.reports)
        self._last_cohort, self._used = checkpoint.last_cohort, checkpoint.used
        request = Request("restore", local={"directory": checkpoint.directory})
        self.clients.require(request, "restore its checkpoint", missing_ok=True)

    # --- the rounds ---

    def _play(self, round: int) -> RoundReport:
        """One round: parameters out, local training, parameters back, one step of the rule."""
        if self._fit is not None:
            return self._play_sums(self._fit, round)
        started = time.perf_counter()
        cohort = self._cohort(round)
        requests = self._training_requests(round, cohort)
        what = f"finished round {round + 1}"
        combined = self._combine(requests, what, partial(self._hear, round))
        for client, reason in combined.failed.items():
            log.warning("round %d: client '%s' failed: %s", round + 1, client, reason)
        dropped = tuple(sorted(set(cohort) - set(combined.survivors) - set(combined.failed)))
        if dropped:
            log.warning("round %d: no answer from %s", round + 1, ", ".join(dropped))
        if combined.vector is not None:
            self._step(combined.vector, len(combined.survivors))
        self._last_cohort = frozenset(combined.survivors)
        self._used = (self._used - frozenset(cohort)) | self._last_cohort
        return RoundReport(
            round=round,
            n_rounds=self.plan.n_rounds,
            metrics=combined.metrics,
            clients=combined.survivors,
            failed=combined.failed,
            dropped=dropped,
            seconds=time.perf_counter() - started,
        )

    def _play_sums(self, fit: SumRounds, round: int) -> RoundReport:
        """One round of a fit: questions out, sums back."""
        report = fit.play(round)
        self.state = State(fit.fit.vector)
        self._last_cohort = frozenset(report.clients)
        return report

    def _combine(self, requests: Mapping[str, Request], what: str, hear: Hear) -> Combined:
        """What the updates come to that some clients are asked for.

        Raises:
            FederationError: Fewer clients than a round needs did what was asked.
        """
        assert self.state is not None
        assert self._layout is not None
        gatherer: Gatherer = self._seen if self._sums is None else self._sums
        self.promise.pay_round()
        combined = gatherer.updates(
            requests,
            rule=self.plan.aggregator(),
            state=self.state,
            layout=self._layout,
            hear=hear,
        )
        if requests and not self.promise.hides_clients:  # whose rounds look alike, whoever came
            self.clients.enough(combined.survivors, what, combined.failed)
        return combined

    def _hear(self, round: int, replies: Sequence[Reply]) -> None:
        """What replies tell of promises, and of training that went wrong."""
        self.promise.hear(replies)
        if not self.promise.hides_clients:  # else a single one would decide whether the run goes on
            _raise_divergence(round, replies)

    def _step(self, combined: Tensor, clients: int) -> None:
        """One step of the rule, to what the updates of so many clients come to.

        Raises:
            TrainingError: They add up to what is not finite; the state stays as it was.
        """
        assert self.state is not None
        participation = clients / len(self.clients)
        if self.promise.hides_clients:
            participation = self.plan.client_fraction
        state = self.plan.aggregator().step(self.state, combined, participation)
        if not np.isfinite(state.vector.cpu().numpy()).all():
            raise TrainingError(
                "the clients' updates add up to parameters that are not finite",
                do="leave out the client whose losses are unlike the others', or choose a rule "
                "that lets no single client decide, such as median",
            )
        self.state = state

    def _average_rest(self) -> None:
        """Average what a run that was stopped early has not, as its last round would have."""
        if not self.reports or self._fit is not None:
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
        assert self._layout is not None
        expects = expected(self._layout, rest, self._copies)
        request = Request("collect", meta=meta, expects=expects)
        requests = dict.fromkeys(sorted(self._last_cohort), request)
        combined = self._combine(requests, "sent what they trained", self.promise.hear)
        if combined.vector is not None:
            self._step(combined.vector, len(combined.survivors))

    def _cohort(self, round: int) -> list[str]:
        """The clients of a round: all of them, or a random share of those who are there."""
        if self.promise.adds_noise:
            return self.promise.cohort(self.clients.numbers)
        # Where clients add noise together, it is for as many in every round.
        clients = self.clients.names if self.promise.hides_clients else self.clients.present
        size = self._cohort_size
        if size >= len(clients):
            # Those who are away are asked too where everybody counts: they may be on their way.
            return clients if size < len(self.clients) else self.clients.names
        rng = generator(self.seed, Stream.COHORT, round)
        return sorted(rng.choice(clients, size=size, replace=False).tolist())

    @property
    def _cohort_size(self) -> int:
        """Clients of a round, if there are as many."""
        wanted = math.ceil(self.plan.client_fraction * len(self.clients))
        return max(wanted, self.plan.min_clients)

    def _training_requests(self, round: int, cohort: list[str]) -> dict[str, Request]:
        """What each client is sent: the parameters it lacks, and how to train."""
        assert self.state is not None
        assert self._layout is not None
        rule = self.plan.aggregator()
        send = self.plan.synchronized(round)
        vector = self.state.vector.cpu().numpy()
        meta = {
            "epochs": self.plan.epochs_per_round,
            "learning_rate_scale": self.plan.learning_rate_scale(round),
            "send": None if send is None else list(send),
            "max_grad_norm": self._max_grad_norm,
            "clip_per_layer": self.plan.clip_per_layer,
            "rounds": self.n_rounds,
            **rule.local_options,
        }
        expects = expected(self._layout, send, self._copies)
        # One array, and one request, for all who are sent the same: a vector may be large.
        arrays: dict[tuple[str, ...] | None, dict[str, npt.NDArray[Any]]] = {}
        same: dict[tuple[Any, bool], Request] = {}
        requests = {}
        for client in cohort:
            receive, used = self._lacks(round, client), client in self._used
            if receive not in arrays:
                arrays[receive] = {}
                if receive != ():
                    arrays[receive]["vector"] = part_of(vector, self._layout, receive)
                if rule.control_variates:
                    arrays[receive]["control"] = self.state.slots["control"].cpu().numpy()
            if (receive, used) not in same:
                told = {**meta, "receive": None if receive is None else list(receive), "used": used}
                same[receive, used] = Request("train", round, told, arrays[receive], expects)
            requests[client] = same[receive, used]
        return requests

    def _lacks(self, round: int, client: str) -> tuple[str, ...] | None:
        """Parts that changed at the server since the client trained; None for all of them."""
        if round == 0:
            return None
        if client in self._last_cohort:
            return self.plan.synchronized(round - 1)
        return None if self.plan.synchronize == "both" else (self.plan.synchronize,)

    def _finish(self) -> None:
        """Every client receives the final parameters."""
        assert self.state is not None
        arrays = {"vector": self.state.vector.cpu().numpy()}
        meta = {"privacy": self.privacy}
        if self._fit is not None:
            meta["config"] = self.config
        took = {
            reply.client_id
            for reply in self.clients.ask(Request("finish", meta=meta, arrays=arrays))
            if not reply.error
        }
        for client in sorted(set(self.clients.names) - took):
            log.warning("client '%s' did not take the final model", client)

    # --- what is known once the run has begun ---

    @property
    def clients(self) -> Clients:
        """The clients that joined."""
        assert self._clients is not None
        return self._clients

    @property
    def _max_grad_norm(self) -> float | None:
        """What updates are clipped to."""
        if self.promise.hides_clients:
            return self.promise.max_grad_norm
        return self.plan.max_grad_norm

    @property
    def _copies(self) -> int:
        """Vectors in an update: where a rule has control variates, the client's comes too."""
        return 2 if self.plan.aggregator().control_variates else 1

    @property
    def seed(self) -> int:
        """The seed of the plan."""
        assert self.plan.seed is not None  # a plan draws one
        return self.plan.seed

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _raise_divergence(round: int, replies: Sequence[Reply]) -> None:
    """A loss that is not finite ends the run: averaging on would hide it."""
    for reply in replies:
        if reply.error and reply.meta.get("error_type") == "TrainingError":
            raise TrainingError(
                f"training diverged in round {round + 1} at client '{reply.client_id}'",
                got=reply.error,
                do="likely causes: too high a learning rate, too small a batch, or extreme "
                "values in a column; the state before this round is kept",
            )
