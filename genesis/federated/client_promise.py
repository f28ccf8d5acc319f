"""A client's part in a promise of privacy: what it may tell of its rows, and what it has told.

Where records are hidden, a `Guard` adds all noise before anything leaves. Where whole clients are
hidden, the server adds the noise, or a `ClientGuard` adds a share of it, and a client tells nothing
beside weighted counts and updates.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.errors import (
    DataError,
    GenesisError,
    PlanError,
    PrivacyError,
    SchemaError,
    TrainingError,
)
from genesis.federated.parts import Parts
from genesis.models import is_sum_model, model_class
from genesis.privacy.budget import Privacy
from genesis.privacy.client_guard import ClientGuard
from genesis.privacy.client_level import WEIGHT
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.guard import Guard
from genesis.privacy.ledger import LedgerFile
from genesis.privacy.sums import Release
from genesis.schema import Schema
from genesis.statistics import Question, ShardStatistics
from genesis.tables import make_private_folder, write_private
from genesis.values import Label

if TYPE_CHECKING:
    from genesis.models.sums import Question as SumQuestion

__all__ = ["ClientPromise"]

log = logging.getLogger(__name__)

GUARD = "privacy.json"  # what a client remembers of its promise, beside its checkpoints


class ClientPromise:
    """What one client promises its records, and what it remembers of that.

    A `Shard` asks it before it tells anything. Without a promise it lets everything pass.

    Args:
        client_id: Name of the client.
        own: What the client promises by itself, whatever the plan promises. What a plan promises is
            kept too.
        parts: Beside whose folder, if they have one, it is kept.
    """

    def __init__(self, client_id: str, own: Privacy | None, parts: Parts) -> None:
        self.client_id, self.own = client_id, own
        self.guard: Guard | None = None  # once a promise about records is known
        self.whole: ClientGuard | None = None  # once one is to hide all of this client in sums
        self.hidden = False  # whether all of this client is hidden, by the server or in sums
        self.returning = False  # whether the server knows it from before a restart, as it says
        self.remembered: Mapping[str, Any] | None = None  # `memory` of before, if no folder has it
        self._parts = parts
        self._counted: dict[str, Any] | None = None  # the last noisy counts, and what they answer
        self._last_state: Mapping[str, Tensor] | None = None  # after the last private training

    @property
    def is_private(self) -> bool:
        """Whether what this client measures of its rows stays with it."""
        return self.guard is not None or self.hidden

    # --- what is promised ---

    def take(self, meta: Mapping[str, Any]) -> None:
        """Take the run's promise, and this client's own.

        Raises:
            PlanError: They do not go together.
            PrivacyError: Another promise was begun already, or what was kept of it is damaged.
        """
        plans = Privacy.parse(meta.get("privacy"))
        if plans is not None:  # files of this machine, and what they allow, are the owner's alone
            plans = replace(plans, ledger=None, budget=None)
        own, run = self.own, str(meta.get("run", ""))
        hidden = plans is not None and plans.unit == "client"
        if hidden and own is not None:
            raise PlanError(
                f"client '{self.client_id}' hides its records, and the run hides whole clients",
                do="leave one of the two promises out",
            )
        if own is not None:
            promise: Privacy | None = own.by_itself() if plans is None else own.stricter(plans)
        else:
            promise = plans
        shares = plans is not None and plans.needs_secure_aggregation
        if shares and promise is not None and not promise.needs_secure_aggregation:
            log.warning(
                "client '%s' promises more than the plan, so it adds all noise itself instead of a "
                "share",
                self.client_id,
            )
        begun = self._begun
        if begun is not None and (begun.run, begun.privacy) == (run, promise):
            return  # asked again, by a server that was started again
        if begun is not None and begun.ledger.events:
            # A promise is for all that leaves, and a new one would begin with an empty ledger.
            raise PrivacyError(
                "this client has released statistics under another promise already",
                do="let the server go on with the run, or start the client again",
            )
        self.hidden, self.guard, self.whole, self._counted = hidden, None, None, None
        if promise is None or (hidden and not promise.needs_secure_aggregation):
            return
        if hidden:
            self.whole = ClientGuard(promise, run=run)
        else:
            self.guard = Guard(promise, run=run, file=_ledger_file(promise))
        kept, begun = self._kept(), self._begun
        if begun is not None and kept is not None and kept.get("run") == run:
            begun.restore(kept)
            self._counted = kept.get("counted")

    @property
    def _begun(self) -> Guard | ClientGuard | None:
        """What this client adds noise with, if it does."""
        return self.guard or self.whole

    def check_budget(self) -> None:
        """Make sure, before anybody is asked, that the owner's file has room for a whole run.

        Raises:
            PrivacyError: It has not.
        """
        if self.own is not None and self.own.ledger is not None and self._kept() is None:
            Guard(self.own, file=_ledger_file(self.own)).check_budget()

    def check(self, meta: Mapping[str, Any]) -> None:
        """Refuse a model that takes no private steps, and measures of rows.

        Args:
            meta: Of the request to prepare.

        Raises:
            PrivacyError: It is such a one.
        """
        if self.is_private and meta["measures"]:
            raise PrivacyError("a promise of privacy covers no measures of the rows")
        if self.guard is None or is_sum_model(meta["method"]):  # which `plan_sums` checks
            return
        for name, value in model_class(meta["method"]).private_config.items():
            if meta["config"].get(name) != value:
                raise PrivacyError(
                    f"private steps of {meta['method']} need {name} {value}",
                    do=f"let the server set {name} {value}, or leave it out there",
                )

    # --- statistics ---

    def begin(self, schema: Schema, *, known: bool) -> None:
        """Fix what statistics will cost, unless the run goes on from before and that is fixed.

        Raises:
            PrivacyError: They were fixed for another schema, or forgotten; or the owner's file has
                no room for them.
        """
        begun = self._begun
        if begun is None or (known and begun.begun):
            return
        if self.returning and not known and not begun.begun:
            raise self._forgotten()
        begun.begin(schema)

    def labels(self, statistics: ShardStatistics) -> dict[str, list[Label]]:
        """The labels that occur, as far as they may be told.

        Raises:
            PrivacyError: They may not.
        """
        if self.guard is not None:
            return self.guard.labels(statistics)
        found = statistics.labels()
        if self.hidden and found:
            raise PrivacyError(
                f"the categories of column '{next(iter(found))}' are not public",
                do="state them in a schema file: client-level privacy counts stated ones only",
            )
        return found

    def counts(
        self,
        statistics: ShardStatistics,
        questions: list[Question],
        rows: int,
        cohort: Sequence[str] | None = None,
    ) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
        """Counts as they may be told; with the deviation of their noise, and the number of rows.

        Args:
            statistics: Of the table.
            questions: What is asked.
            rows: Of the table.
            cohort: Ids of the clients over whom the counts are summed in secret, if they are.

        Raises:
            PrivacyError: They may not.
        """
        if self.guard is not None:
            guard, deviation = self.guard, self.guard.deviation_in(cohort)
            counts = self._noisy_counts(
                questions, lambda: guard.answer(statistics, questions, cohort=cohort)
            )
            return counts, {"deviation": deviation, "rows": guard.rows_in(rows, cohort)}
        if self.whole is not None:
            whole, deviation = self.whole, self.whole.deviation_in(cohort)
            counts = self._noisy_counts(
                questions, lambda: whole.answer(statistics, questions, rows=rows, cohort=cohort)
            )
            return counts, {"deviation": deviation, "rows": WEIGHT}
        counts = np.concatenate([statistics.answer(question) for question in questions])
        if self.hidden:
            # Every client counts as one: a record's share of it, rounded down, is its weight.
            counts, rows = counts * WEIGHT // max(rows, 1), WEIGHT
        return counts, {"deviation": 0.0, "rows": rows}

    def _noisy_counts(
        self, questions: list[Question], answer: Callable[[], npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        """Asked the same again by a server that has not heard the answer, it is the same answer.

        Other noise would be another release.
        """
        asked = json.dumps([question.to_dict() for question in questions], sort_keys=True)
        asked = hashlib.sha256(asked.encode()).hexdigest()
        if self._counted is None or self._counted["asked"] != asked:
            self._counted = {"asked": asked, "counts": answer().tolist()}
        return np.array(self._counted["counts"], dtype=np.int64)

    def forget_counts(self) -> None:
        """The encoder is here, so the server has heard the last answer."""
        self._counted = None

    def rows(self, rows: int, *, known: bool) -> int | None:
        """The number of rows as others may know it; None if they know it from an earlier run."""
        if self.hidden:
            return WEIGHT
        if self.guard is None:
            return rows
        # A client that is asked again remembers what it said; one that cannot, waits for its part.
        return self.guard.rows if known else self.guard.count_rows(rows)

    # --- sums ---

    def plan_sums(self, releases: Sequence[Release]) -> None:
        """Divide what is left of a promise about records among the answers of a fit.

        Args:
            releases: As `Guard.plan_sums` wants them; none if the model takes no part in a promise.

        Raises:
            PrivacyError: It leaves too little, or the model's sums keep no promise.
        """
        if self.is_private and not releases:
            raise PrivacyError(
                "no noise hides what a row adds to the sums of this model",
                do="choose the method marginals, or one that is trained in steps",
            )
        if self.hidden:
            raise PrivacyError(
                "sums over the rows hide rows, not whole clients", do='use unit "record"'
            )
        if self.guard is not None:
            self.guard.plan_sums(releases)

    def sum(
        self,
        question: SumQuestion,
        exact: Callable[[], npt.NDArray[np.int64]],
        cohort: Sequence[str] | None = None,
    ) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
        """What the rows add up to, as it may be told; with the deviation of the noise in it.

        Args:
            question: What is asked.
            exact: Adds it up.
            cohort: Ids of the clients over whom it is summed in secret, if it is.

        Raises:
            PrivacyError: It may not.
        """
        if self.hidden:
            raise PrivacyError("sums over the rows were asked for before they were planned")
        if self.guard is None:
            return exact(), {"deviation": 0.0}
        counts, deviation = self.guard.answer_sum(question, exact, cohort=cohort)
        return counts, {"deviation": deviation}

    # --- training ---

    def steps(
        self, meta: Mapping[str, Any], *, epochs: int, rows: int, batch_size: int
    ) -> PrivateSteps | None:
        """The steps that a promise allows; None where there is no promise about records.

        Args:
            meta: Of the request to train.
            epochs: Passes over the rows in this round.
            rows: Their number.
            batch_size: Rows of a step.

        Raises:
            PrivacyError: The promise does not allow them.
        """
        guard = self.guard
        if guard is None:
            return None
        if guard.training is None:  # it lost what it knew, and begins anew
            if not guard.ledger.events:
                raise self._forgotten()
            guard.count_rows(rows)
            guard.plan_training(batch_size=batch_size, epochs=epochs * meta["rounds"])
        return guard.steps(epochs, keep=self.keep)

    def change(
        self,
        change: npt.NDArray[np.float32],
        *,
        cohort: Sequence[str],
        threshold: int,
        n_rounds: int,
    ) -> npt.NDArray[np.uint32]:
        """What training changed, as it may go into a sum in which all of this client is hidden.

        Args:
            change: (P,) the change.
            cohort: Ids of the clients over whom it is summed in secret; nobody if it is not.
            threshold: How many of them must be in the sum.
            n_rounds: Rounds of the plan.

        Raises:
            PrivacyError: The promise does not allow it.
        """
        assert self.whole is not None
        if not cohort:
            raise PrivacyError("an update was asked for outside of a secure sum")
        self.whole.plan_rounds(
            len(change), clients=len(cohort), threshold=threshold, n_rounds=n_rounds
        )
        return self.whole.change(change, cohort=cohort)

    def outcome(
        self, asked: str, rounds: int, run: str, number: int
    ) -> Mapping[str, Tensor] | None:
        """The state after this very training, if a run that a crash threw back has done it before.

        It is then sent again: other noise would be another release.

        Args:
            asked: What is asked for.
            rounds: Rounds played after it.
            run: What tells this run from another one in the same folder.
            number: Number of the client in the run.
        """
        if self.guard is None or self.guard.last != asked:
            return None
        if self._last_state is not None:
            return self._last_state
        return self._parts.find(rounds, run, number, exactly=True)

    def sent(self, asked: str, state: Mapping[str, Tensor]) -> None:
        """What has come of private training is about to leave; this is the state after it."""
        assert self.guard is not None
        self.guard.sent(asked)
        self._last_state = state

    # --- failures ---

    def tellable(self, error: GenesisError, request: str) -> tuple[str, str]:
        """Type and message of an error, as far as they may be told."""
        if not self.is_private or not isinstance(error, DataError | SchemaError | TrainingError):
            return type(error).__name__, str(error)
        # What is wrong with a row tells of the row, and so does how many rows are wrong.
        log.error("client '%s' failed at '%s': %s", self.client_id, request, error)
        if isinstance(error, SchemaError):
            return "SchemaError", f"{error.what}; its own log says more"
        return "FederationError", "it failed; its own log says why"

    def failed(self) -> None:
        """The server is about to hear of a failure.

        If steps were taken, the model holds what came of them, which can be collected.
        """
        if self.guard is not None and self.guard.answered():
            try:
                self.keep()
            except GenesisError as error:
                log.error("client '%s' could not write down its steps: %s", self.client_id, error)

    def _forgotten(self) -> PrivacyError:
        """The error of a client that could release again what it has released."""
        return PrivacyError(
            f"client '{self.client_id}' was in this run before, and has kept nothing of what it "
            "has released",
            do="let it join the next run, with --checkpoint",
        )

    # --- what is remembered ---

    def memory(self) -> dict[str, Any] | None:
        """What this client must remember, as JSON values; None if it adds no noise."""
        begun = self._begun
        return None if begun is None else {**begun.to_dict(), "counted": self._counted}

    def keep(self) -> None:
        """Keep that in the folder, before what was released leaves; failing stops the release."""
        if self._begun is not None and self._parts.folder is not None:
            make_private_folder(self._parts.folder)
            write_private(self._parts.folder / GUARD, json.dumps(self.memory()))

    def _kept(self) -> Mapping[str, Any] | None:
        """What this client remembers from before it was stopped."""
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

    def to_tensors(self) -> dict[str, Tensor]:
        """What the guard remembers, for a checkpoint that the server keeps in this process."""
        if self._begun is None:
            return {}
        text = bytearray(json.dumps(self._begun.to_dict()), "utf-8")
        return {"guard": torch.frombuffer(text, dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_tensors`.

        Raises:
            PrivacyError: It was another promise, or makes no sense.
        """
        if self._begun is not None and "guard" in tensors:
            self._begun.restore(json.loads(bytes(tensors["guard"].tolist())))


def _ledger_file(promise: Privacy) -> LedgerFile | None:
    """Where the owner of the rows keeps all releases, if anywhere."""
    if promise.ledger is None:
        return None
    return LedgerFile(promise.ledger, budget=promise.budget, delta=promise.delta)
