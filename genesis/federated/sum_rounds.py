"""Rounds of a model that is fitted from sums over the rows: `SumRounds`.

    question → every client's answer → their sum → what the next question builds on

The rounds of other models average what was trained; here the sum of the answers is all there is to
know, whoever's rows are in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError, ModelFileError
from genesis.federated.callbacks import RoundReport
from genesis.federated.clients import Clients
from genesis.federated.messages import Reply, Request, check_arrays
from genesis.federated.promise import RunPromise
from genesis.federated.secure_sums import SecureSums
from genesis.models.sums import Question, SumFit

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SumRounds", "sum_request"]

log = logging.getLogger(__name__)

PREFIX = "fit."  # of tensors in a checkpoint
LARGEST = float(1 << 55)  # of an answer, so that those of 200 clients add up

Expected = Mapping[str, tuple[str, int]]


@dataclass
class SumRounds:
    """Asks clients what a fit wants to know, and tells the fit their sum.

    Args:
        fit: The fit.
        clients: Whom to ask.
        promise: What the run promises.
        sums: Secure aggregation; without, the server adds up what each client answers.
    """

    fit: SumFit
    clients: Clients
    promise: RunPromise
    sums: SecureSums | None = None
    _asked: int = field(default=0, init=False)

    @property
    def done(self) -> bool:
        """Whether the model is fitted."""
        return self.fit.question() is None

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that the next question depends on, for a checkpoint."""
        values, tensors = self.fit.to_state()
        kept = {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}
        return {"fit": values, "asked": self._asked}, kept

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_state`.

        Raises:
            ModelFileError: It is damaged.
        """
        kept = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(PREFIX)
        }
        try:
            self.fit.restore(values["fit"], kept)
            self._asked = int(values["asked"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError("what the checkpoint says of the fit is damaged") from error

    def play(self, round: int) -> RoundReport:
        """All questions of one round.

        Args:
            round: Its number, from 0.

        Raises:
            FederationError: Too few clients answered, or not what was asked.
            TrainingError: No table has such sums.
        """
        started = time.perf_counter()
        failed: dict[str, str] = {}
        answered = set(self.clients.names)
        metrics: Mapping[str, float] | None = None
        while metrics is None:
            question = self.fit.question()
            if question is None:
                raise FederationError("a fit ended within a round")
            total, deviation, survivors = self._total(question, round, failed)
            answered &= set(survivors)
            metrics = self.fit.take(total, deviation)
        dropped = set(self.clients.names) - answered - set(failed)
        return RoundReport(
            round=round,
            n_rounds=self.fit.n_rounds,
            metrics={} if self.promise.is_private else dict(metrics),
            clients=tuple(sorted(answered)),
            failed=failed,
            dropped=tuple(sorted(dropped)),
            seconds=time.perf_counter() - started,
        )

    def _total(
        self, question: Question, round: int, failed: dict[str, str]
    ) -> tuple[npt.NDArray[np.int64], float, Sequence[str]]:
        """The sum of the answers, the deviation of the noise in it, and whose they are."""
        request = sum_request(question, round, self._asked)
        self._asked += 1
        if self.sums is not None:
            total, replies = self.sums.answers(request, question.size)
        else:
            replies = [
                reply
                for reply in self.clients.ask(request)
                if self._holds(reply, request.expects, failed)
            ]
            names = [reply.client_id for reply in replies]
            self.clients.enough(names, "answered", failed)
            total = np.zeros(question.size, dtype=np.int64)
            for reply in replies:
                total += reply.arrays["sums"]
        self.promise.hear(replies)
        deviation = self.promise.noise_in(replies) if self.promise.is_private else 0.0
        return total, deviation, [reply.client_id for reply in replies]

    def _holds(self, reply: Reply, expects: Expected, failed: dict[str, str]) -> bool:
        """Whether a reply is an answer; else why not goes to failed."""
        if reply.error:
            failed[reply.client_id] = reply.error
        else:
            try:
                check_arrays(reply.arrays, expects)
            except FederationError as error:
                failed[reply.client_id] = str(error)
            else:
                if np.abs(reply.arrays["sums"].astype(np.float64)).max(initial=0) < LARGEST:
                    return True
                failed[reply.client_id] = "its answer holds sums that no rows have"
        log.warning("client '%s' failed: %s", reply.client_id, failed[reply.client_id])
        return False


def sum_request(question: Question, round: int, number: int) -> Request:
    """A question as a request.

    Args:
        question: The question.
        round: Number of the round.
        number: Of all questions of the run so far.
    """
    meta: dict[str, Any] = {
        "question": question.kind,
        "size": question.size,
        "meta": dict(question.meta),
        "shapes": {name: list(array.shape) for name, array in question.arrays.items()},
        "norm": question.norm if np.isfinite(question.norm) else None,
        "number": number,
    }
    arrays = {name: np.ascontiguousarray(a).reshape(-1) for name, a in question.arrays.items()}
    return Request("sums", round, meta, arrays, expects={"sums": ("int64", question.size)})
