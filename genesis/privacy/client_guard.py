"""`ClientGuard`: what stands between a client and the sums in which all of it is hidden.

What `guard.Guard` is for records, it is for whole clients where these add noise together: each
computes itself how much noise the promise asks for, writes down every sum before its numbers go
into it, and refuses what is more than was planned. A server that asks for more than it said, or for
sums over other clients, gets nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import PrivacyError
from genesis.privacy.budget import Privacy
from genesis.privacy.client_level import ROUNDS, WEIGHT, check_stated, skellam_share
from genesis.privacy.distributed import NoisySum, OneCohort, shared_counts
from genesis.privacy.events import SkellamSum, event_from_dict, event_to_dict, times
from genesis.privacy.guard import check_kinds
from genesis.privacy.histograms import check_disjoint, noisy_counts
from genesis.privacy.ledger import Ledger
from genesis.privacy.noise import Noise
from genesis.schema import Schema
from genesis.statistics import Question, ShardStatistics

__all__ = ["ClientGuard"]


class ClientGuard:
    """Lets one client's counts and changes into secure sums, as far as a promise allows.

    Args:
        privacy: The promise, about clients, with noise that they add together.
        run: Name of the run.
        noise: Where random numbers come from.
    """

    def __init__(self, privacy: Privacy, *, run: str = "", noise: Noise | None = None) -> None:
        self.privacy, self.run = privacy, run
        self.ledger = Ledger()
        self.sum: NoisySum | None = None  # of the rounds
        self._noise = noise or Noise()
        self._schema: str | None = None
        self._counts: SkellamSum | None = None
        self._released = 0
        self._n_rounds = 0
        self._cohort = OneCohort()

    # --- statistics ---

    def begin(self, schema: Schema) -> None:
        """Fix what the statistics of a schema will cost. Nothing is released yet.

        Raises:
            PlanError: The schema leaves something to be counted that one client can decide.
            PrivacyError: Statistics of another schema were planned before.
        """
        check_stated(schema, public=True)  # whether it is stated by an operator, he alone knows
        digest = hashlib.sha256(json.dumps(schema.to_dict(), sort_keys=True).encode()).hexdigest()
        if self._schema not in (None, digest):
            raise PrivacyError(
                "statistics of another schema were released in this run", do="start a new run"
            )
        if self._schema is None:
            self._schema = digest
            self._counts = shared_counts(schema, self.privacy)

    @property
    def begun(self) -> bool:
        """Whether the statistics' cost is fixed."""
        return self._counts is not None

    def deviation_in(self, cohort: Collection[str] | None) -> float:
        """Standard deviation of this client's own noise in every count: see `Guard.deviation_in`.

        Raises:
            PrivacyError: There is no sum, or it is over other clients than the ones before.
            PlanError: All of so few clients might tell their noise.
        """
        planned = self._planned
        honest = self.privacy.honest(self._cohort.size(cohort))
        return math.sqrt(skellam_share((planned.noise_multiplier * WEIGHT) ** 2, honest))

    def answer(
        self,
        statistics: ShardStatistics,
        questions: Sequence[Question],
        *,
        rows: int,
        cohort: Collection[str] | None,
    ) -> npt.NDArray[np.int64]:
        """Counts for a sum over all clients, all questions' one after the other.

        Args:
            statistics: Of the table.
            questions: What is asked.
            rows: Of the table. A row counts for its share of the weight, rounded down.
            cohort: Ids of the clients, all of which are in the sum or nothing is revealed.

        Raises:
            PrivacyError: This client could change more than the promise accounts for, more is asked
                than was planned, or a share of noise would not be hidden.
        """
        vectors = check_disjoint(questions)
        check_kinds(statistics.schema, questions)
        deviation = self.deviation_in(cohort)
        planned = self._planned
        if self._released + vectors > planned.count:
            raise PrivacyError(
                "more statistics are asked for than the promise of privacy has paid for",
                got=f"{self._released + vectors} vectors of counts instead of {planned.count}",
                do="give server and clients the same version",
            )
        if self._released == 0:
            self._spend(planned)
        self._released += vectors
        counts = np.concatenate([statistics.answer(question) for question in questions])
        return noisy_counts(counts * WEIGHT // max(rows, 1), deviation, self._noise)

    # --- training ---

    def plan_rounds(
        self, parameters: int, *, clients: int, threshold: int, n_rounds: int
    ) -> NoisySum:
        """Divide what is left of the promise among the rounds of the whole run.

        The server finds the same by `NoisySum.planned`.

        Args:
            parameters: Numbers in a change.
            clients: Asked in a round, in every round as many.
            threshold: Of them, without whom secure aggregation reveals nothing.
            n_rounds: Rounds of the plan.

        Raises:
            PlanError: All of so few clients might tell their noise, or there is no room for it.
            PrivacyError: The promise leaves no room, or other rounds were planned before.
        """
        if self.sum is not None:
            same = self.sum.clients, self.sum.parameters, self._n_rounds
            if (clients, parameters, n_rounds) != same:
                raise PrivacyError(
                    "other rounds were planned before, and noise for them",
                    got=f"{n_rounds} rounds of {clients} clients and {parameters:,} numbers",
                    do="start a new run",
                )
            return self.sum
        if not self.ledger.events:
            raise PrivacyError("rounds were planned before the values were counted")
        self.sum = NoisySum.planned(
            self.ledger.events,
            self.privacy,
            clients=clients,
            threshold=threshold,
            parameters=parameters,
            n_rounds=n_rounds,
        )
        self._n_rounds = n_rounds
        return self.sum

    @property
    def rounds(self) -> int:
        """Changes that were given for a sum so far, whatever became of it."""
        return sum(times(event) for event in self.ledger.events if event.purpose == ROUNDS)

    def change(
        self, change: npt.NDArray[np.floating], *, cohort: Collection[str] | None
    ) -> npt.NDArray[np.uint32]:
        """A change (P,) for a sum over a round's clients, modulo 2^32, with a share of noise.

        Args:
            change: What training has changed.
            cohort: Ids of the clients that are asked.

        Raises:
            PrivacyError: More rounds than were planned, or of other clients; or there is no sum.
        """
        if self.sum is None:
            raise PrivacyError("a change was asked for before the rounds were planned")
        if cohort is None or len(set(cohort)) != self.sum.clients:
            raise PrivacyError(
                "a share of noise is for a sum over as many clients as were planned",
                got="no sum" if cohort is None else f"{len(set(cohort))} clients",
                do=f"ask {self.sum.clients} in every round",
            )
        if self.rounds >= self._n_rounds:
            raise PrivacyError(
                "more rounds than the promise of privacy has paid for",
                got=f"{self._n_rounds} rounds, of which some may have failed",
                do="end the run here",
            )
        self._spend(self.sum.event())
        return self.sum.encode(change, self._noise)

    # --- what is remembered ---

    def spent(self) -> dict[str, Any]:
        """The promise and the ledger as JSON values: nothing in it is about the rows."""
        return {**self.privacy.to_dict(), "ledger": self.ledger.to_list()}

    def to_dict(self) -> dict[str, Any]:
        """All it remembers, as JSON values; to be kept before what was released leaves."""
        return {
            "run": self.run,
            "promise": self.privacy.to_dict(),
            "ledger": self.ledger.to_list(),
            "schema": self._schema,
            "counts": None if self._counts is None else event_to_dict(self._counts),
            "released": self._released,
            "cohort": self._cohort.digest,
            "sum": None if self.sum is None else vars(self.sum),
            "n_rounds": self._n_rounds,
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
            counts, rounds = values["counts"], values["sum"]
            planned = None if counts is None else event_from_dict(counts)
            if not isinstance(planned, SkellamSum | None):
                raise TypeError("no sums of counts")
            self._counts = planned
            self.sum = None if rounds is None else NoisySum(**rounds)
            if self.sum is not None:
                self.sum.event()  # which refuses noise of nothing
            self.ledger = Ledger.from_list(values["ledger"])
            self._schema, self._cohort = values["schema"], OneCohort(values["cohort"])
            self._released, self._n_rounds = int(values["released"]), int(values["n_rounds"])
            self.run = str(values["run"])
        except (KeyError, TypeError, ValueError) as error:
            raise PrivacyError("what was kept of a promise of privacy is damaged") from error

    @property
    def _planned(self) -> SkellamSum:
        if self._counts is None:
            raise PrivacyError("statistics were asked for before the schema was agreed on")
        return self._counts

    def _spend(self, event: SkellamSum) -> None:
        """Write a release down, if the promise allows it."""
        self.ledger = self.ledger.spending([event], self.privacy.epsilon, self.privacy.delta)
