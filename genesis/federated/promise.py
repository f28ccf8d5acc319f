"""The server's part in a promise of privacy: who promised what, and what it came to.

Where records are hidden, clients add all noise themselves and the server only writes down what they
say. Where whole clients are hidden, the server adds the noise, or clients do it together in sums of
which it sees nothing else; either way it keeps the ledger.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.errors import FederationError, ModelFileError, PrivacyError
from genesis.federated.clients import read
from genesis.federated.messages import Reply, Update
from genesis.federated.secagg import threshold_of
from genesis.models.sums import Budget
from genesis.privacy.budget import Privacy
from genesis.privacy.client_level import (
    COUNTS,
    Adaptive,
    NoisyMean,
    Rounds,
    check_meaningful,
    check_stated,
    planned_counts,
)
from genesis.privacy.distributed import NoisySum, shared_counts
from genesis.privacy.events import Event, Gaussian, repeated
from genesis.privacy.guard import Statistics
from genesis.privacy.ledger import Ledger
from genesis.privacy.noise import Noise
from genesis.privacy.report import client_report, record_report
from genesis.privacy.sums import Release, Sums
from genesis.schema import Schema

__all__ = ["RunPromise"]

MOST_DEVIATION = 1e12  # of the noise that a client says it added
MOST_EVENTS = 1000  # in its ledger: three, and three more after every restart
PREFIX = "promise."  # of tensors in a checkpoint


@dataclass
class RunPromise:
    """What a run promises, and what has been released.

    Args:
        privacy: What the plan says; None if it promises nothing. Clients may promise nevertheless.
        public_schema: Whether the operator stated the schema.
    """

    privacy: Privacy | None
    public_schema: bool

    run: str = field(default_factory=lambda: secrets.token_hex(8), init=False)
    clients: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    private_clients: set[str] = field(default_factory=set, init=False)
    ledger: Ledger = field(default_factory=Ledger, init=False)
    noisy: NoisySum | None = field(default=None, init=False)  # of rounds, if clients add the noise
    _mean: NoisyMean | None = field(default=None, init=False)
    _rounds: Rounds | None = field(default=None, init=False)
    _multiplier: float = field(default=0.0, init=False)
    _noise: Noise = field(default_factory=Noise, init=False)
    _tensors: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def hides_clients(self) -> bool:
        """Whether whole clients are hidden, by the server or by all of them together."""
        return self.privacy is not None and self.privacy.unit == "client"

    @property
    def adds_noise(self) -> bool:
        """Whether the server hides whole clients."""
        return self.privacy is not None and self.privacy.trust == "server"

    @property
    def hides_records(self) -> bool:
        """Whether any client hides its records."""
        planned = self.privacy is not None and self.privacy.unit == "record"
        return planned or bool(self.private_clients)

    @property
    def is_private(self) -> bool:
        """Whether there is a promise at all."""
        return self.hides_clients or self.hides_records

    def told(self, clients: int) -> dict[str, Any]:
        """What each of some clients is told of it."""
        promise = None if self.privacy is None else self.privacy.among(clients)
        return {"run": self.run, "privacy": None if promise is None else promise.to_dict()}

    # --- what clients say ---

    def hear(self, replies: Sequence[Reply]) -> None:
        """Write down which clients keep a promise, and what they have released.

        Raises:
            PrivacyError: One does not keep the plan's, or says what cannot be accounted for.
        """
        for reply in replies:
            if reply.error:
                continue
            if read(reply, lambda meta: bool(meta.get("private"))):
                self.private_clients.add(reply.client_id)
            elif self.hides_records and self.privacy is not None and "labels" in reply.meta:
                raise PrivacyError(
                    f"client '{reply.client_id}' keeps no promise of privacy, and the plan has one",
                    do="give server and clients the same version",
                )
            if "spent" in reply.meta:
                self.clients[reply.client_id] = self._spent(reply)

    def _spent(self, reply: Reply) -> dict[str, Any]:
        """A client's promise and ledger, as it says.

        What it has said before was released, whether it remembers it or not.
        """
        spent = read(reply, lambda meta: dict(meta["spent"]))
        # What cannot be accounted for is refused.
        ledger = read(reply, lambda _: Ledger.from_list(spent["ledger"]))
        told = {"differential_privacy": spent.get("differential_privacy")}
        read(reply, lambda _: Privacy.parse(told))
        said = self.clients.get(reply.client_id)
        before = Ledger() if said is None else Ledger.from_list(said["ledger"])
        if not before.is_within(ledger):
            for event in ledger.events:
                before = before.with_event(event)
            spent["ledger"] = before.to_list()
        if len(spent["ledger"]) > MOST_EVENTS:
            raise FederationError(
                f"client '{reply.client_id}' says that it has released more than can be told",
                got=f"{len(spent['ledger'])} kinds of releases",
                do="leave it out",
            )
        return spent

    def noise_in(self, replies: Sequence[Reply]) -> float:
        """Standard deviation of the noise in the sum of the clients' counts.

        Raises:
            FederationError: A client says something impossible of its noise.
        """
        deviations = [read(reply, lambda meta: _deviation(meta["deviation"])) for reply in replies]
        return math.hypot(*deviations)

    def rows_of(self, replies: Sequence[Reply]) -> int:
        """Rows in all, with noise, as the clients say.

        Raises:
            FederationError: A client says something impossible.
        """
        return sum(read(reply, lambda meta: _rows(meta["rows"])) for reply in replies)

    def budget(self, schema: Schema, releases: Sequence[Release], clients: int) -> Budget | None:
        """What the plan's promise leaves for the answers of a fit; None where it promises nothing.

        Args:
            schema: The columns.
            releases: What the fit asks for.
            clients: Number of clients, each of which adds as much noise as the plan makes it.

        Raises:
            PrivacyError: It leaves nothing.
        """
        if self.privacy is None or self.hides_clients:
            return None
        promise = self.privacy.among(clients)
        spent = Statistics.planned(schema, promise).events
        shares = promise.honest(clients) if promise.needs_secure_aggregation else 1
        return Budget(Sums.planned(spent, promise, tuple(releases)).rho, clients / shares)

    # --- whole clients ---

    def check_schema(self, schema: Schema) -> None:
        """Make sure that whole clients can be hidden in the statistics of a schema.

        Raises:
            PlanError: The schema leaves something to be counted that one client can decide.
        """
        if self.hides_clients:
            check_stated(schema, public=self.public_schema)

    def noisy_counts(
        self, schema: Schema, answers: Sequence[npt.NDArray[np.int64]], weight: int
    ) -> tuple[list[npt.NDArray[np.int64]], float]:
        """Sums of clients' counts with the server's noise, and its standard deviation.

        Each client's counts of one column add up to weight at most, so that is what one of them can
        change in the L2 norm too.
        """
        assert self.privacy is not None
        planned = planned_counts(schema, self.privacy)
        if not self.ledger.events:
            self._spend(planned)
        deviation = planned.noise_multiplier * weight
        noisy = []
        for counts in answers:
            drawn = self._noise.normal(len(counts)).double().numpy() * deviation
            noisy.append(np.rint(counts + drawn).astype(np.int64))
        return noisy, deviation

    def pay_counts(self, schema: Schema) -> None:
        """Write down what counts cost to which all clients together have added the noise."""
        assert self.privacy is not None
        if not self.ledger.events:
            self._spend(shared_counts(schema, self.privacy))

    def begin_rounds(
        self,
        parameters: int,
        clients: int,
        n_rounds: int,
        fraction: float,
        cohort: int | None = None,
    ) -> None:
        """Choose the noise of the rounds, for all of them together.

        Args:
            parameters: Numbers in an update.
            clients: Number of clients.
            n_rounds: Rounds of the plan.
            fraction: Share of the clients in a round.
            cohort: How many that is, where it is the same in every round; all if None.

        Raises:
            PlanError: So few clients, or so much noise, that nothing could be learnt.
        """
        if not self.hides_clients:
            return
        assert self.privacy is not None
        promise = self.privacy
        if not self.adds_noise:
            self._begin_sums(promise, parameters, cohort or clients, n_rounds)
            return
        self._rounds = rounds = Rounds(clients, n_rounds, fraction, promise.bands)
        if not self._multiplier:  # a run that goes on has it
            self._multiplier = rounds.noise_multiplier(self.ledger.events, promise)
        check_meaningful(self._multiplier, parameters, rounds.expected, insist=promise.insist)
        self._mean = NoisyMean(
            self._multiplier,
            promise.max_grad_norm,
            rounds.expected,
            bands=promise.bands,
            adaptive=Adaptive() if promise.adaptive_clip else None,
        )
        if self._tensors:
            self._mean.restore(self._tensors)
        self._check_paid()

    def _begin_sums(self, promise: Privacy, parameters: int, clients: int, n_rounds: int) -> None:
        """The same where all clients of a round add the noise together."""
        counts = tuple(event for event in self.ledger.events if event.purpose == COUNTS)
        self.noisy = NoisySum.planned(
            counts,
            promise,
            clients=clients,
            threshold=threshold_of(clients),
            parameters=parameters,
            n_rounds=n_rounds,
        )
        check_meaningful(self.noisy.most_noise, parameters, clients, insist=promise.insist)

    def pay_round(self) -> None:
        """Write down what a round costs to which clients add the noise, whatever becomes of it.

        Raises:
            PrivacyError: The promise does not allow another one.
        """
        if self.noisy is not None:
            self._spend(self.noisy.event())

    def _check_paid(self) -> None:
        """Correlated noise is paid before its first round: later on there cannot be more of them.

        Raises:
            PrivacyError: There are, in a run that goes on.
        """
        assert self._mean is not None
        assert self._rounds is not None
        if self._rounds.bands == 1 or self._mean.rounds == 0:
            return
        planned = self._rounds.event(self._multiplier)
        paid = [each for each in self.ledger.events if each.purpose == planned.purpose]
        if not any(_costs_no_less(each, planned) for each in paid):
            raise PrivacyError(
                "more rounds than the promise of privacy has paid for",
                got=f"{self._rounds.n_rounds} rounds of correlated noise",
                do="continue with the number of rounds that the run began with",
            )

    @property
    def max_grad_norm(self) -> float:
        """What updates of whole clients are clipped to in the next round."""
        assert self.privacy is not None
        return self.privacy.max_grad_norm if self._mean is None else self._mean.max_norm

    def cohort(self, numbers: Mapping[str, int]) -> list[str]:
        """The clients of the next round, as `Rounds.cohort` says."""
        assert self._mean is not None
        assert self._rounds is not None
        return self._rounds.cohort(numbers, self._mean.rounds, self._noise)

    def combine(self, vector: Tensor, updates: Sequence[Update]) -> Tensor:
        """The private mean (P,) of clients' parameters, which started from vector (P,).

        Raises:
            PrivacyError: The promise does not allow another round.
        """
        assert self._mean is not None
        assert self._rounds is not None
        planned = self._rounds.event(self._multiplier)
        if self._rounds.bands == 1:
            self._spend(repeated(planned, 1))
        elif self._mean.rounds == 0:
            self._spend(planned)  # all rounds at once: their noise is one
        elif self._mean.rounds >= self._rounds.n_rounds:
            raise PrivacyError("more rounds than the promise of privacy has paid for")
        vectors = torch.empty(0, len(vector))
        if updates:
            vectors = torch.from_numpy(np.stack([update.vector for update in updates]))
        return self._mean.combine(vector, vectors.to(vector.device), self._noise)

    def _spend(self, event: Event) -> None:
        """Write a release down, if the promise allows it."""
        assert self.privacy is not None
        self.ledger = self.ledger.spending([event], self.privacy.epsilon, self.privacy.delta)

    # --- what is told of it ---

    def report(self, clients: Sequence[str], gradients: str) -> dict[str, Any] | None:
        """What was promised and what it came to, as JSON values; None without any promise.

        Args:
            clients: All that took part.
            gradients: How records' gradients are clipped.
        """
        if self.hides_clients:
            assert self.privacy is not None
            return client_report(self.privacy, self.ledger, clients=len(clients))
        if not self.hides_records:
            return None
        return record_report(
            self.clients,
            clients,
            overlap="disjoint" if self.privacy is None else self.privacy.overlap,
            public_schema=self.public_schema,
            gradients=gradients,
        )

    def to_dict(self) -> dict[str, Any]:
        """What a run that goes on must know, as JSON values."""
        return {
            "run": self.run,
            "public_schema": self.public_schema,
            "clients": self.clients,
            "private_clients": sorted(self.private_clients),
            "ledger": self.ledger.to_list(),
            "multiplier": self._multiplier,
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """The same that is no JSON."""
        tensors = {} if self._mean is None else self._mean.to_tensors()
        return {PREFIX + name: tensor for name, tensor in tensors.items()}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_dict` and `to_tensors`, before `begin_rounds`.

        Raises:
            ModelFileError: They are damaged.
        """
        try:
            self.run = str(values["run"])
            self.public_schema = bool(values["public_schema"])
            self.clients = dict(values["clients"])
            self.private_clients = set(values["private_clients"])
            self.ledger = Ledger.from_list(values["ledger"])
            self._multiplier = float(values["multiplier"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError("the checkpoint's promise of privacy is damaged") from error
        self._tensors = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(PREFIX)
        }


def _costs_no_less(paid: Event, planned: Event) -> bool:
    """Whether one Gaussian release has no more noise than another."""
    if not (isinstance(paid, Gaussian) and isinstance(planned, Gaussian)):
        return False
    return paid.noise_multiplier <= planned.noise_multiplier


def _deviation(value: Any) -> float:
    """A standard deviation that somebody claims.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not 0 <= float(value) <= MOST_DEVIATION:
        raise ValueError("no standard deviation")
    return float(value)


def _rows(value: Any) -> int:
    """A noisy number of rows that somebody claims.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**48:
        raise ValueError("no number of rows")
    return value
