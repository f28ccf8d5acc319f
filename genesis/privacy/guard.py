"""`Guard`: what stands between a table and everything that leaves its owner.

Before anything is released it is written down; before that, the promise is asked whether it allows
it. What a guard gives out is differentially private by itself, so whoever receives it, honest or
not, may do with it what they like.

    statistics   counts with Skellam noise, labels above a noisy threshold, a noisy number of rows
    training     steps of DP-SGD, with the noise that is left of the promise
    sums         instead of steps: counts that a model is fitted from, with the noise that is left

Where clients add noise together, counts have a client's share of it only, and leave for a sum over
all clients; only that sum is then private. Labels and steps are no sums of what clients have
(steps depend on those before), so each client adds all of their noise itself.

The cost of statistics and sums is fixed by the schema before the first is asked for, and is written
down as a whole: noise that depended on what was seen would need another theorem.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.errors import PrivacyError
from genesis.privacy.budget import Privacy, calibrated, rho_of
from genesis.privacy.client_level import skellam_share
from genesis.privacy.distributed import OneCohort
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.events import (
    Event,
    Gaussian,
    SampledGaussian,
    Skellam,
    Threshold,
    event_from_dict,
    event_to_dict,
)
from genesis.privacy.histograms import check_disjoint, noisy_counts, released_labels
from genesis.privacy.ledger import Ledger, LedgerFile
from genesis.privacy.noise import Noise
from genesis.privacy.sums import Release, SumAnswers, Sums
from genesis.schema import Schema
from genesis.statistics import DISCRETE, NUMERIC, Question, ShardStatistics, planned_releases
from genesis.values import Label

if TYPE_CHECKING:
    from genesis.models.sums import Question as SumQuestion

__all__ = ["Guard", "Statistics", "Training", "check_kinds"]

LABELS = 0.05  # share of ρ and δ for labels that no schema names
RESERVED = 0.5  # share of δ that training is planned with, see `Training.planned`
COUNTS = "counts of the columns"
NAMES = "labels that occur"
STEPS = "steps of training"


@dataclass(frozen=True)
class Statistics:
    """With how much noise statistics are released.

    Args:
        deviation: Standard deviation of the noise in every count: of the client's, or of the sum's
            where clients add it together.
        releases: Vectors of counts in all, the number of rows included.
        label_deviation: The same for the sets of labels.
        label_delta: δ of each.
        label_sets: Columns whose labels no schema names.
    """

    deviation: float
    releases: int
    label_deviation: float
    label_delta: float
    label_sets: int

    @classmethod
    def planned(cls, schema: Schema, privacy: Privacy) -> Statistics:
        """What a promise leaves for the columns of a schema.

        d vectors of which one record changes one count by one cost d / 2σ² of zero-concentrated
        differential privacy.
        """
        rho = rho_of(privacy.epsilon, privacy.delta)
        # The rows are counted for the client's own use, and once more where sums have less noise.
        releases = planned_releases(schema) + (2 if privacy.needs_secure_aggregation else 1)
        sets = sum(column.kind in DISCRETE and column.categories is None for column in schema)
        return cls(
            deviation=math.sqrt(releases / (2 * privacy.statistics * rho)),
            releases=releases,
            label_deviation=math.sqrt(sets / (2 * LABELS * rho)) if sets else 0.0,
            label_delta=LABELS * privacy.delta / max(sets, 1),
            label_sets=sets,
        )

    @property
    def events(self) -> tuple[Event, ...]:
        """What they cost."""
        counts = Skellam(self.deviation, self.releases, COUNTS)
        if not self.label_sets:
            return (counts,)
        names = Threshold(self.label_deviation, self.label_delta, self.label_sets, NAMES)
        return (counts, names)


@dataclass(frozen=True)
class Training:
    """The private steps of one client in a whole run.

    Args:
        noise_multiplier: σ.
        sample_rate: q.
        batch_size: B.
        steps: Steps in an epoch.
    """

    noise_multiplier: float
    sample_rate: float
    batch_size: int
    steps: int

    @classmethod
    def planned(
        cls,
        spent: tuple[Event, ...],
        privacy: Privacy,
        *,
        rows: int,
        batch_size: int,
        epochs: int,
    ) -> Training:
        """The steps that a promise leaves room for.

        Their number and rate follow the noisy number of rows, which was released before, and the
        cost of releases is computed as if all of them had been fixed from the start. For noise that
        was chosen by what was seen that is no theorem. Half of δ is kept for it, which is a margin
        and no bound.

        Args:
            spent: What was released before.
            privacy: The promise.
            rows: The noisy number of rows.
            batch_size: Rows of a step, as wanted.
            epochs: Passes over the rows in the whole run.

        Raises:
            PrivacyError: It leaves none.
        """
        # Noise may leave next to no rows; a generator's batch has two at least.
        batch_size = max(min(batch_size, rows), 2)
        steps = max(rows // batch_size, 1)
        rate = min(batch_size / rows, 1.0)
        event = SampledGaussian(1.0, rate, steps * epochs, STEPS)
        multiplier = calibrated(spent, event, privacy.epsilon, RESERVED * privacy.delta)
        return cls(multiplier, rate, batch_size, steps)

    def event(self, epochs: int) -> SampledGaussian:
        """What some epochs cost."""
        return SampledGaussian(self.noise_multiplier, self.sample_rate, self.steps * epochs, STEPS)


class Guard:
    """Releases statistics and training steps of one table, as far as a promise allows.

    Args:
        privacy: The promise, about records.
        run: Name of the run, by which a file's releases of this run are told from others.
        file: Where the owner of the table keeps all releases, or None.
        noise: Where random numbers come from.
    """

    def __init__(
        self,
        privacy: Privacy,
        *,
        run: str = "",
        file: LedgerFile | None = None,
        noise: Noise | None = None,
    ) -> None:
        self.privacy, self.run = privacy, run
        self._file = file
        self._noise = noise or Noise()
        # After a restart without its other memory a client still knows what it has spent.
        self.ledger = Ledger() if file is None else file.ledger(run)
        self.rows: int | None = None  # noisy
        self._rows_share: int | None = None  # with a share of noise
        self._cohort = OneCohort()
        self.training: Training | None = None
        self.sums: SumAnswers | None = None
        self.last: str | None = None  # what was asked of the last stretch of training
        self._schema: str | None = None
        self._statistics: Statistics | None = None
        self._released = 0
        self._allowed = Ledger()  # what training was planned to come to
        self._labels: dict[str, list[Label]] | None = None
        # Training that is paid for and not sent: with the ledger before it; as a crash has left it.
        self._unsent: tuple[Ledger, Event] | None = None
        self._paid: Event | None = None

    # --- statistics ---

    def begin(self, schema: Schema) -> None:
        """Fix what the statistics of a schema will cost. Nothing is released yet.

        Raises:
            PrivacyError: Statistics of another schema were planned before, or the owner's file has
                no room for all that the promise allows.
        """
        digest = hashlib.sha256(json.dumps(schema.to_dict(), sort_keys=True).encode()).hexdigest()
        if self._schema not in (None, digest):
            raise PrivacyError(
                "statistics of another schema were released in this run", do="start a new run"
            )
        if self._schema is None:
            if not self.ledger.events:
                self.check_budget()
            self._schema = digest
            self._statistics = Statistics.planned(schema, self.privacy)

    def check_budget(self) -> None:
        """Make sure that the owner's file has room for all that the promise allows.

        Raises:
            PrivacyError: It has not.
        """
        if self._file is not None:
            self._file.check([self._whole()])

    @property
    def begun(self) -> bool:
        """Whether the statistics' cost is fixed."""
        return self._statistics is not None

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise that hides a record in every count.

        Of this client's noise, or of all clients' together where they add shares of it.
        """
        return self._planned.deviation

    def deviation_in(self, cohort: Collection[str] | None) -> float:
        """Standard deviation of this client's own noise in every count.

        Shares of h clients make the whole, √h times as large as each: the least number of clients
        that tell nobody theirs.

        Args:
            cohort: Ids of the clients, all of which are in the sum or nothing is revealed; None
                where counts are not for a sum.

        Raises:
            PrivacyError: Shares hide nothing outside of a sum; or a sum is over other clients than
                the ones before: two sums would tell of those in which they differ.
            PlanError: All of so few clients might tell their noise.
        """
        return self._share(self.deviation, cohort)

    def _share(self, deviation: float, cohort: Collection[str] | None) -> float:
        """What this client adds of the noise of a deviation: see `deviation_in`."""
        if not self.privacy.needs_secure_aggregation:
            return deviation
        honest = self.privacy.honest(self._cohort.size(cohort))
        return math.sqrt(skellam_share(deviation**2, honest))

    def labels(self, statistics: ShardStatistics) -> dict[str, list[Label]]:
        """Labels that pass a noisy threshold, of the discrete columns that no schema names them of.

        Asked again, the answer is the same: another one would be another release.

        Raises:
            PrivacyError: The promise does not allow it.
        """
        if self._labels is None:
            self._pay(0)
            planned = self._planned
            found = {}
            for name, known in statistics.labels().items():
                question = Question(name, labels=tuple(known))
                found[name] = released_labels(
                    known,
                    statistics.answer(question),
                    planned.label_deviation,
                    planned.label_delta,
                    self._noise,
                )
            self._labels = found
        return self._labels

    def answer(
        self,
        statistics: ShardStatistics,
        questions: Sequence[Question],
        *,
        cohort: Collection[str] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Noisy counts, all questions' one after the other.

        Args:
            statistics: Of the table.
            questions: What is asked.
            cohort: As in `deviation_in`: over whom the counts are summed in secret, if at all.

        Raises:
            PrivacyError: One record could change more than the promise accounts for, or decide
                whether there is an answer; or more is asked than was planned; or a share of noise
                would not be hidden.
        """
        vectors = check_disjoint(questions)
        check_kinds(statistics.schema, questions)
        deviation = self.deviation_in(cohort)
        self._pay(vectors)
        exact = [statistics.answer(question) for question in questions]
        return noisy_counts(np.concatenate(exact), deviation, self._noise)

    def count_rows(self, rows: int) -> int:
        """The noisy number of rows, at least 1; the same whenever it is asked for.

        It has all of the noise, also where others add some: what a client does follows it, and may
        be seen.

        Raises:
            PrivacyError: The promise does not allow it.
        """
        if self.rows is None:
            self._pay(1)
            counted = noisy_counts(np.array([rows]), self.deviation, self._noise)
            self.rows = max(int(counted[0]), 1)
        return self.rows

    def rows_in(self, rows: int, cohort: Collection[str] | None) -> int:
        """The number of rows for a sum over clients; the same whenever it is asked for.

        Args:
            rows: Their number.
            cohort: As in `deviation_in`.

        Returns:
            With a share of noise where clients add it together, maybe below 0; else `count_rows`.

        Raises:
            PrivacyError: The promise does not allow it.
        """
        if not self.privacy.needs_secure_aggregation:
            return self.count_rows(rows)
        deviation = self.deviation_in(cohort)
        if self._rows_share is None:
            self._pay(1)
            self._rows_share = int(noisy_counts(np.array([rows]), deviation, self._noise)[0])
        return self._rows_share

    # --- training ---

    def plan_training(self, *, batch_size: int, epochs: int) -> None:
        """Divide what is left of the promise among the steps of the whole run.

        Args:
            batch_size: Rows of a step.
            epochs: Passes over the rows in all rounds together.

        Raises:
            PrivacyError: There is too little left, in the promise or in the owner's file.
        """
        if self.training is not None:
            return
        if self.rows is None:
            raise PrivacyError("training was planned before the rows were counted")
        if self.sums is not None:
            raise PrivacyError("the promise of privacy is divided among sums already")
        training = Training.planned(
            self.ledger.events,
            self.privacy,
            rows=self.rows,
            batch_size=batch_size,
            epochs=epochs,
        )
        if self._file is not None:
            self._file.check([training.event(epochs)])
        self.training = training
        self._allowed = self.ledger.with_event(training.event(epochs))

    def steps(self, epochs: int, *, keep: Callable[[], object] | None = None) -> PrivateSteps:
        """The private steps of some epochs, which are written down as spent.

        Args:
            epochs: Passes over the rows.
            keep: Keeps `to_dict` on the owner's disk. It is called before they are written down, so
                that after a crash it is known that nothing came of them, and they are not paid for
                again. What has come of them may leave once `sent` was called and kept.

        Raises:
            PrivacyError: They are more than was planned.
        """
        training = self.training
        if training is None:
            raise PrivacyError("training was asked for before it was planned")
        event, paid = training.event(epochs), self._paid
        self._paid = None
        if paid not in (None, event):
            self.ledger = self.ledger.with_event(paid)  # for nothing, but it stands in the file
        if keep is not None:
            self._unsent = self.ledger, event
            keep()
        if paid == event:
            self.ledger = self.ledger.with_event(event)
        else:
            self._spend(event)
        return PrivateSteps(
            max_grad_norm=self.privacy.max_grad_norm,
            noise_multiplier=training.noise_multiplier,
            sample_rate=training.sample_rate,
            batch_size=training.batch_size,
            steps=training.steps,
            noise=self._noise,
        )

    def sent(self, asked: str) -> None:
        """What has come of the last steps is about to leave.

        Args:
            asked: What was asked for, by which it is known when it is asked for again.
        """
        self.last, self._unsent = asked, None

    def answered(self) -> bool:
        """Whoever asked for the last steps hears something, if only that they failed.

        Returns:
            Whether they were still taken for steps that nothing came of.
        """
        unsent, self._unsent = self._unsent, None
        return unsent is not None

    # --- sums ---

    def plan_sums(self, releases: Sequence[Release]) -> Sums:
        """Divide what is left of the promise among the answers of a fit.

        Args:
            releases: What the fit asks for, as it follows from the columns alone: never as a server
                wants it, who may have chosen it by what it has seen.

        Returns:
            The plan, the same when it is asked for again.

        Raises:
            PrivacyError: There is too little left, in the promise or in the owner's file; or
                something else was planned before.
        """
        if self.training is not None:
            raise PrivacyError("the promise of privacy is divided among steps of training already")
        if self.sums is None:
            if not self.ledger.events:
                raise PrivacyError("sums were planned before the values were counted")
            plan = Sums.planned(self.ledger.events, self.privacy, tuple(releases))
            if self._file is not None:
                self._file.check(plan.events)
            self.sums = SumAnswers(plan)
            self._allow_sums(self.ledger)
        if self.sums.plan.releases != tuple(releases):
            raise PrivacyError("other sums were planned before", do="start a new run")
        return self.sums.plan

    def answer_sum(
        self,
        question: SumQuestion,
        exact: Callable[[], npt.NDArray[np.int64]],
        *,
        cohort: Collection[str] | None = None,
    ) -> tuple[npt.NDArray[np.int64], float]:
        """A noisy answer to a question of a fit; asked again, the same.

        Args:
            question: What is asked. That a row changes the answer by no more than question.norm,
                and counts only as `Release` says, is for the model's `answer` to make sure.
            exact: Adds up the rows.
            cohort: As in `deviation_in`.

        Returns:
            (question.size,) the answer, and the standard deviation of this client's noise in it.

        Raises:
            PrivacyError: It was not planned, or the promise does not allow it.
        """
        if self.sums is None:
            raise PrivacyError("sums were asked for before they were planned")
        return self.sums.answer(
            question,
            exact,
            share=lambda deviation: self._share(deviation, cohort),
            pay=self._pay_sums,
            noise=self._noise,
        )

    def _pay_sums(self) -> None:
        """Write all answers down, unless a crash came between that and the first of them."""
        assert self.sums is not None
        if self.ledger != self._allowed:
            self._spend(*self.sums.plan.events)

    def _allow_sums(self, before: Ledger) -> None:
        """What the ledger comes to when all answers are in it."""
        assert self.sums is not None
        for event in self.sums.plan.events:
            before = before.with_event(event)
        self._allowed = before

    # --- what is remembered ---

    def spent(self) -> dict[str, Any]:
        """The promise and the ledger as JSON values: nothing in it is about the rows."""
        return {**self.privacy.to_dict(), "ledger": self.ledger.to_list()}

    def to_dict(self) -> dict[str, Any]:
        """All it remembers, as JSON values; for the owner's disk."""
        training, ledger, unsent = self.training, self.ledger, self._paid
        if self._unsent is not None:
            ledger, unsent = self._unsent
        return {
            "run": self.run,
            "promise": self.privacy.to_dict(),
            "ledger": ledger.to_list(),
            "unsent": None if unsent is None else event_to_dict(unsent),
            "schema": self._schema,
            "statistics": None if self._statistics is None else vars(self._statistics),
            "released": self._released,
            "labels": self._labels,
            "rows": self.rows,
            "rows_share": self._rows_share,
            "cohort": self._cohort.digest,
            "training": None if training is None else vars(training),
            "sums": None if self.sums is None else self.sums.to_dict(),
            "last": self.last,
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from `to_dict`.

        Raises:
            PrivacyError: It was another promise, or makes no sense.
        """
        try:
            if values["promise"] != self.privacy.to_dict():
                raise PrivacyError(
                    "the run was begun with another promise of privacy",
                    do="go on with the same one, or start a new run",
                )
            ledger = Ledger.from_list(values["ledger"])
            statistics, training = values["statistics"], values["training"]
            self._statistics = None if statistics is None else Statistics(**statistics)
            self.training = None if training is None else Training(**training)
            if self._statistics is not None:
                _ = self._statistics.events  # which refuses noise of nothing
            if self.training is not None:
                self.training.event(1)  # likewise
            sums = values["sums"]
            self.sums = None if sums is None else SumAnswers.from_dict(sums)
            self._schema, self._labels = values["schema"], values["labels"]
            self._released, self.rows = int(values["released"]), values["rows"]
            self.last, self.run = values["last"], str(values["run"])
            self._rows_share, self._cohort = values["rows_share"], OneCohort(values["cohort"])
            unsent = None if values["unsent"] is None else event_from_dict(values["unsent"])
        except (KeyError, TypeError, ValueError) as error:
            raise PrivacyError("what was kept of a promise of privacy is damaged") from error
        # The owner's file goes before: it is written first, and knows of what came after.
        self.ledger = ledger if self._file is None else self._file.ledger(self.run)
        if not ledger.is_within(self.ledger):
            raise PrivacyError(
                "the owner's ledger lacks what this run has released",
                do="bring the last good copy back, or start a new run",
            )
        if unsent is not None and ledger != self.ledger == ledger.with_event(unsent):
            self.ledger, self._paid = ledger, unsent
        if self.sums is not None and not self.sums.begun:
            self._allow_sums(ledger)

    # --- the ledger ---

    @property
    def _planned(self) -> Statistics:
        if self._statistics is None:
            raise PrivacyError("statistics were asked for before the schema was agreed on")
        return self._statistics

    def _whole(self) -> Event:
        """About what the whole promise costs, so that a run is refused before its first release."""
        promise = self.privacy
        multiplier = calibrated((), Gaussian(1.0), promise.epsilon, promise.delta)
        return Gaussian(multiplier, purpose="all of a run")

    def _pay(self, n: int) -> None:
        """Count n vectors of counts; before the first release, write all statistics down."""
        if self._released + n > self._planned.releases:
            raise PrivacyError(
                "more statistics are asked for than the promise of privacy has paid for",
                got=f"{self._released + n} vectors of counts instead of {self._planned.releases}",
                do="give server and clients the same version",
            )
        if self._released == 0 and self._labels is None and self.rows is None:
            self._spend(*self._planned.events)
        self._released += n

    def _spend(self, *events: Event) -> None:
        """Write releases down, if the promise allows them.

        Raises:
            PrivacyError: It does not, or the owner's file does not.
        """
        ledger = self.ledger
        for event in events:
            ledger = ledger.with_event(event)
        # What was found to keep the promise when it was planned need not be computed again.
        if not ledger.is_within(self._allowed):
            self.ledger.spending(events, self.privacy.epsilon, self.privacy.delta)
        if self._file is not None:
            self._file.spend(events, self.run)
        self.ledger = ledger


def check_kinds(schema: Schema, questions: Sequence[Question]) -> None:
    """Refuse questions that do not suit a column, whatever it holds.

    Bins of labels can be counted as long as all of these are numbers: that it fails would tell of
    the one that is not.

    Raises:
        PrivacyError: There is one.
    """
    for question in questions:
        kinds = NUMERIC if question.labels is None else (*NUMERIC, *DISCRETE)
        if schema[question.column].kind not in kinds:
            raise PrivacyError(
                f"a question about column '{question.column}' does not suit its kind",
                do="give server and clients the same version",
            )
