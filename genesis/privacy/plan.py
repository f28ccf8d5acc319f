"""What a promise would cost in noise, before any row is read.

Everything is computed by what computes it in a run: `guard.Statistics`, and `guard.Training` or
`sums.Sums`, where records are hidden, `client_level.planned_counts` and `client_level.Rounds` where
whole clients are, `distributed.shared_counts` and `distributed.NoisySum` where they add the noise
together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from genesis.errors import PlanError, PrivacyError
from genesis.privacy.budget import LARGEST_EPSILON, Privacy
from genesis.privacy.client_level import (
    MOST_NOISE,
    Adaptive,
    Rounds,
    check_meaningful,
    check_stated,
    noise_to_signal,
    planned_counts,
)
from genesis.privacy.distributed import NoisySum, shared_counts
from genesis.privacy.events import Event, times
from genesis.privacy.guard import Statistics, Training
from genesis.privacy.histograms import label_threshold
from genesis.privacy.ledger import Ledger
from genesis.privacy.sums import Release, Sums
from genesis.schema import Column, Kind, Schema
from genesis.statistics import DISCRETE, NUMERIC

__all__ = ["Change", "PlannedRun", "PrivacyPlan", "plan"]

FEWEST = 3  # clients of secure aggregation
WORTH = 0.98  # what a change must bring the noise down to, at least, to be worth telling


@dataclass(frozen=True)
class PlannedRun:
    """A run that somebody has in mind.

    Args:
        privacy: What it promises.
        schema: Its columns.
        rows: Rows of all clients together, divided evenly; at least 1.
        parameters: Numbers in the model.
        private_parameters: Numbers of it that private steps on the rows change.
        clients: Tables.
        n_rounds: Rounds of training.
        epochs: Passes of each client over its rows in a round.
        batch_size: Rows of a step.
        client_fraction: Share of the clients in a round.
        public_schema: Whether the schema is stated by the operator, and not inferred.
        releases: Number of columns -> the answers of a fit from sums; None for a model that is
            trained in steps.

    Raises:
        PlanError: There are fewer rows than clients, no clients, or too few to add noise together.
    """

    privacy: Privacy
    schema: Schema
    rows: int
    parameters: int
    private_parameters: int
    clients: int = 1
    n_rounds: int = 1
    epochs: int = 1
    batch_size: int = 500
    client_fraction: float = 1.0
    public_schema: bool = False
    releases: Callable[[int], tuple[Release, ...]] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= self.rows:
            raise PlanError(
                "every client needs a row, and a run a client",
                got=f"{self.clients} clients and {self.rows} rows",
                do="plan for fewer clients, or more rows",
            )
        if self.privacy.needs_secure_aggregation and self.cohort < FEWEST:
            raise PlanError(
                f"noise that clients add together needs at least {FEWEST} of them",
                got=f"{self.cohort} in a round",
                do="plan for more clients",
            )

    @cached_property
    def rows_each(self) -> int:
        """Rows of a client."""
        return self.rows // self.clients

    @property
    def cohort(self) -> int:
        """Clients of a round of secure sums."""
        asked = max(math.ceil(self.client_fraction * self.clients), FEWEST)
        return min(asked, self.clients)


@dataclass(frozen=True)
class Change:
    """What would come of a change in a plan.

    Args:
        what: The change, in words.
        noise_to_signal: As in `PrivacyPlan`, after it.
        frequency_error: The same.
    """

    what: str
    noise_to_signal: float
    frequency_error: float


@dataclass(frozen=True)
class PrivacyPlan:
    """How much noise a run would have.

    Args:
        unit: What is hidden: a "record" or a "client".
        epsilon: ε of the whole run, by the accountant; within the promise.
        delta: δ of it.
        mechanisms: Purpose -> ε of it alone. They add up to more than they cost together.
        shares: Purpose -> its share of the budget. Costs of noise add up about like squares of ε.
        releases: Vectors of counts that are released with noise.
        deviation: Standard deviation of a client's noise in every count, in rows; None where whole
            clients are hidden.
        sum_deviation: The same in the sum over the clients: in rows, or in clients where those are
            hidden.
        frequency_error: Mean absolute error of the share of rows that have some value, in percent
            points.
        label_threshold: Rows of one client that a label needs to be known at all, about; None where
            all labels are public.
        batch_size: Rows expected in a step; None where whole clients are hidden, or sums are asked.
        sample_rate: Chance of a row to be in a step, or of a client to be in a round.
        steps: Steps, or rounds, in the whole run; answers of a fit from sums.
        noise_multiplier: σ, noise of a step over the most that one unit changes.
        noise_to_signal: Norm of a step's noise over the largest that its mean gradient can have; of
            a round's and its mean change where clients are hidden. Of sums, the deviation of the
            noise in a number of all clients' first answer over the most that all rows add to it.
        clients_needed: Clients from which on whole ones could be hidden; None for a single table.
        refused: Why the run would not begin, or None.
        changes: What would make the noise less, the best for training first.
        records_instead: Where clients are hidden, what hiding records would have instead, with the
            noise of one client's step, which the mean over the clients makes less again.
    """

    unit: str
    epsilon: float
    delta: float
    mechanisms: Mapping[str, float]
    shares: Mapping[str, float]
    releases: int
    deviation: float | None
    sum_deviation: float
    frequency_error: float
    label_threshold: float | None
    batch_size: int | None
    sample_rate: float
    steps: int
    noise_multiplier: float
    noise_to_signal: float
    clients_needed: int | None = None
    refused: str | None = None
    changes: tuple[Change, ...] = ()
    records_instead: Change | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def plan(run: PlannedRun) -> PrivacyPlan:
    """How much noise a run would have, and what would make it less.

    Raises:
        PlanError: Its choices contradict each other.
        PrivacyError: The promise leaves no room for training.
    """
    found = _planned(run)
    changes = []
    for what, other in _alternatives(run):
        try:
            after = _planned(other)
        except (PlanError, PrivacyError):
            continue
        change = Change(what, after.noise_to_signal, after.frequency_error)
        if (
            change.noise_to_signal < WORTH * found.noise_to_signal
            or change.frequency_error < WORTH * found.frequency_error
        ):
            changes.append(change)
    return replace(
        found,
        clients_needed=_clients_needed(run),
        changes=tuple(sorted(changes, key=lambda change: change.noise_to_signal)),
        records_instead=_records_instead(run),
    )


def _planned(run: PlannedRun) -> PrivacyPlan:
    """The plan alone."""
    return _of_clients(run) if run.privacy.unit == "client" else _of_records(run)


def _of_records(run: PlannedRun) -> PrivacyPlan:
    """Every client adds its own noise, and the sum over K of them has √K times as much.

    Or it adds a share of 1 / √h to counts, and the sum has √(K / h) times as much as is needed.
    """
    promise = run.privacy.among(run.clients)
    statistics = Statistics.planned(run.schema, promise)
    honest = promise.honest(run.clients) if promise.needs_secure_aggregation else 1
    deviation = statistics.deviation / math.sqrt(honest)
    in_sum = deviation * math.sqrt(run.clients)
    threshold = None
    if statistics.label_sets:
        threshold = label_threshold(statistics.label_deviation, statistics.label_delta)
    learning = _sums(run, promise, statistics, honest) or _steps(run, promise, statistics)
    # Of a person who may be at every client, all clients' promises together.
    together = run.clients if run.privacy.overlap == "overlapping" else 1
    ledger = Ledger((*statistics.events, *learning.events))
    return PrivacyPlan(
        unit="record",
        epsilon=ledger.epsilon(promise.delta) * together,
        delta=promise.delta * together,
        mechanisms=(mechanisms := ledger.split(promise.delta)),
        shares=_shares(mechanisms),
        releases=statistics.releases,
        deviation=deviation,
        sum_deviation=in_sum,
        frequency_error=_frequency_error(in_sum, run.rows),
        label_threshold=threshold,
        batch_size=learning.batch_size,
        sample_rate=learning.sample_rate,
        steps=learning.steps,
        noise_multiplier=learning.noise_multiplier,
        noise_to_signal=learning.noise_to_signal,
    )


@dataclass(frozen=True)
class _Learning:
    """What a client's model learns from its rows, and with how much noise."""

    events: tuple[Event, ...]
    batch_size: int | None
    sample_rate: float
    steps: int
    noise_multiplier: float
    noise_to_signal: float


def _steps(run: PlannedRun, promise: Privacy, statistics: Statistics) -> _Learning:
    """Private steps, in every round some."""
    epochs = run.n_rounds * run.epochs
    training = Training.planned(
        statistics.events, promise, rows=run.rows_each, batch_size=run.batch_size, epochs=epochs
    )
    return _Learning(
        events=(training.event(epochs),),
        batch_size=training.batch_size,
        sample_rate=training.sample_rate,
        steps=training.steps * epochs,
        noise_multiplier=training.noise_multiplier,
        noise_to_signal=noise_to_signal(
            training.noise_multiplier, run.private_parameters, training.batch_size
        ),
    )


def _sums(
    run: PlannedRun, promise: Privacy, statistics: Statistics, honest: int
) -> _Learning | None:
    """The answers of a fit, if that is how the model is trained."""
    if run.releases is None:
        return None
    learnt = [column for column in run.schema if column.kind in (*NUMERIC, *DISCRETE)]
    plan = Sums.planned(statistics.events, promise, run.releases(len(learnt)))
    first = plan.releases[0]
    most = first.norm if first.vectors is None else 1.0  # that a row adds to a number
    in_sum = plan.deviation(0, first.norm) * math.sqrt(run.clients / honest)
    return _Learning(
        events=plan.events,
        batch_size=None,
        sample_rate=1.0,
        steps=len(plan.releases),
        noise_multiplier=plan.noise_multiplier,
        noise_to_signal=in_sum / (most * run.rows),
    )


@dataclass(frozen=True)
class _HiddenClients:
    """The noise that hides whole clients.

    Args:
        counts: What the counts release.
        counts_deviation: Standard deviation of the noise in their sums, in clients.
        rounds: What all rounds release.
        multiplier: σ of a round.
        drawn: Standard deviation of the noise in a round's sum over the clip.
        expected: Clients of a round.
    """

    counts: Event
    counts_deviation: float
    rounds: Event
    multiplier: float
    drawn: float
    expected: float


def _hidden_clients(run: PlannedRun, privacy: Privacy, schema: Schema) -> _HiddenClients:
    """The server adds the noise, once for all; or the clients do, together. Each counts as one."""
    if privacy.needs_secure_aggregation:
        shared = shared_counts(schema, privacy)
        found = NoisySum.planned(
            (shared,),
            privacy,
            clients=run.cohort,
            threshold=max(2 * run.cohort // 3 + 1, FEWEST),
            parameters=run.parameters,
            n_rounds=run.n_rounds,
        )
        return _HiddenClients(
            counts=shared,
            counts_deviation=shared.noise_multiplier
            * math.sqrt(run.clients / privacy.honest(run.clients)),
            rounds=found.event(run.n_rounds),
            multiplier=found.noise_multiplier,
            drawn=found.most_noise,
            expected=run.cohort,
        )
    counts = planned_counts(schema, privacy)
    rounds = Rounds(run.clients, run.n_rounds, run.client_fraction, privacy.bands)
    multiplier = rounds.noise_multiplier((counts,), privacy)
    return _HiddenClients(
        counts=counts,
        counts_deviation=counts.noise_multiplier,
        rounds=rounds.event(multiplier),
        multiplier=multiplier,
        drawn=multiplier,
        expected=rounds.expected,
    )


def _of_clients(run: PlannedRun) -> PrivacyPlan:
    """Whole clients are hidden."""
    found = _hidden_clients(run, run.privacy, run.schema)
    ledger = Ledger((found.counts, found.rounds))
    return PrivacyPlan(
        unit="client",
        epsilon=ledger.epsilon(run.privacy.delta),
        delta=run.privacy.delta,
        mechanisms=(mechanisms := ledger.split(run.privacy.delta)),
        shares=_shares(mechanisms),
        releases=times(found.counts),
        deviation=None,
        sum_deviation=found.counts_deviation,
        frequency_error=_frequency_error(found.counts_deviation, run.clients),
        label_threshold=None,
        batch_size=None,
        sample_rate=found.expected / run.clients,
        steps=run.n_rounds,
        noise_multiplier=found.multiplier,
        noise_to_signal=noise_to_signal(found.drawn, run.parameters, found.expected),
        refused=_refusal(run, found),
    )


def _refusal(run: PlannedRun, found: _HiddenClients) -> str | None:
    """What the run itself would say to these choices."""
    privacy = run.privacy
    try:
        check_stated(run.schema, public=run.public_schema)
        check_meaningful(found.drawn, run.parameters, found.expected, insist=privacy.insist)
        if privacy.adaptive_clip:
            Adaptive().rest(found.multiplier, found.expected)
    except PlanError as error:
        return str(error)
    return None


def _clients_needed(run: PlannedRun) -> int | None:
    """For how many clients the noise that hides a whole one is small enough to begin with."""
    if run.clients == 1:
        return None
    privacy = run.privacy
    if privacy.unit != "client":
        privacy = Privacy(
            privacy.epsilon, privacy.delta, unit="client", statistics=privacy.statistics
        )
    try:
        found = _hidden_clients(run, privacy, _stated(run.schema))
    except PrivacyError:
        return None
    ratio = noise_to_signal(found.drawn, run.parameters, found.expected)
    return math.ceil(run.clients * ratio / MOST_NOISE)


def _records_instead(run: PlannedRun) -> Change | None:
    """What the same run would be if it hid records; None if it does."""
    privacy = run.privacy
    if privacy.unit == "record":
        return None
    records = Privacy(
        privacy.epsilon, privacy.delta, privacy.max_grad_norm, statistics=privacy.statistics
    )
    after = _planned(replace(run, privacy=records))
    what = "records hidden instead of clients"
    return Change(what, after.noise_to_signal, after.frequency_error)


def _shares(mechanisms: Mapping[str, float]) -> dict[str, float]:
    """Which share of the budget each purpose has, of ε of each alone.

    ε of Gaussian noise is about √ρ, and ρ adds up (Bun and Steinke 2016): shares are those of ε².
    """
    total = sum(epsilon**2 for epsilon in mechanisms.values())
    return {purpose: epsilon**2 / total for purpose, epsilon in mechanisms.items()}


def _frequency_error(deviation: float, total: float) -> float:
    """E|X| of normal noise in a count, in percent of all that is counted: 100 √(2/π) σ / n."""
    return 100 * math.sqrt(2 / math.pi) * deviation / total


# --- what to change ---


def _alternatives(run: PlannedRun) -> Iterator[tuple[str, PlannedRun]]:
    """Runs like this one with one thing changed, each with the change in words."""
    privacy = run.privacy
    if run.n_rounds > 1 and run.releases is None:
        rounds = run.n_rounds // 2
        yield (
            f"{_number(rounds, 'round')} instead of {run.n_rounds:,}",
            replace(run, n_rounds=rounds),
        )
    if privacy.unit == "record":
        yield from _alternatives_of_records(run)
    else:
        yield from _alternatives_of_clients(run)
    if run.releases is None:
        yield (
            "a model of a quarter of the size",
            replace(
                run,
                parameters=max(run.parameters // 4, 1),
                private_parameters=max(run.private_parameters // 4, 1),
            ),
        )
    learnt = [column for column in run.schema if column.kind in (*NUMERIC, *DISCRETE)]
    if len(learnt) > 1:
        yield "half of the columns", replace(run, schema=Schema(tuple(learnt[::2])))
    larger = min(2 * privacy.epsilon, LARGEST_EPSILON)
    yield f"ε = {larger:g}", replace(run, privacy=replace(privacy, epsilon=larger))


def _alternatives_of_records(run: PlannedRun) -> Iterator[tuple[str, PlannedRun]]:
    """Those that make sense where records are hidden."""
    if run.epochs > 1 and run.releases is None:
        epochs = run.epochs // 2
        yield (
            f"{_number(epochs, 'epoch')} instead of {run.epochs:,}"
            + " a round" * (run.n_rounds > 1),
            replace(run, epochs=epochs),
        )
    if run.batch_size < run.rows_each and run.releases is None:
        size = min(2 * run.batch_size, run.rows_each)
        yield f"batches of {size:,} rows", replace(run, batch_size=size)
    stated = _stated(run.schema)
    if stated != run.schema:
        yield (
            "a schema file that states categories and decimals",
            replace(run, schema=stated, public_schema=True),
        )
    if run.privacy.overlap == "overlapping":
        disjoint = replace(run.privacy, overlap="disjoint")
        yield "nobody's records at two clients", replace(run, privacy=disjoint)


def _alternatives_of_clients(run: PlannedRun) -> Iterator[tuple[str, PlannedRun]]:
    """Those that make sense where clients are hidden."""
    privacy = run.privacy
    twice = replace(run, clients=2 * run.clients, rows=2 * run.rows)
    yield f"{2 * run.clients:,} clients", twice
    if run.client_fraction < 1:
        yield "all clients in every round", replace(run, client_fraction=1.0)
    if privacy.bands > 1:
        yield "one band", replace(run, privacy=replace(privacy, bands=1))


def _stated(schema: Schema) -> Schema:
    """A schema of whose columns the categories and decimals are public."""
    return Schema(tuple(map(_stated_column, schema)))


def _stated_column(column: Column) -> Column:
    """The same of a column. How many categories there are makes no difference to the noise."""
    if column.kind in DISCRETE and column.categories is None:
        return replace(column, categories=(False, True))
    if column.kind is Kind.NUMERIC and column.decimals is None:
        return replace(column, decimals=2)
    return column


def _number(n: int, what: str) -> str:
    """One round, two rounds."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
