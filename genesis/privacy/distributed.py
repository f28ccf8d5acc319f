"""Differential privacy of whole clients against the server too: noise that they add together.

    every client's change is scaled down to a norm of at most C, and up to whole numbers
    a share of Skellam noise is added to each, modulo 2^32
    the server learns the sum over the clients, under secure aggregation, and divides it by the
    number of clients that is expected

(Agarwal, Kairouz and Liu 2021, "The Skellam Mechanism for Differentially Private Federated
Learning".) Shares add up to noise that nobody knows: of any h honest clients that are in the sum,
to all that was planned. The server chooses who takes part in a round and is whom the promise is
held against, so a round costs the same whoever is in it: no sampling makes it cheaper. Neighbouring
federations differ in whether a client sends its change or zeros, with a share of noise in any case.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genesis.errors import PlanError, PrivacyError
from genesis.privacy.budget import Privacy, calibrated, rho_of
from genesis.privacy.client_level import COUNTS, ROUNDS, WEIGHT, skellam_share
from genesis.privacy.events import Event, SkellamSum
from genesis.privacy.noise import Noise
from genesis.schema import Schema
from genesis.statistics import planned_releases

__all__ = ["NoisySum", "OneCohort", "shared_counts"]

MOST = 2**31 - 1  # of a sum, on either side of 0
TAIL = 10.0  # deviations of noise that a sum has room for: more has a chance of 1e-23 a number
SPARE = 1.05  # noise that there is room for over what is needed, before it is known precisely
FINE = 1e9  # whole numbers so large that it makes no difference that they are whole
SLACK = 1 - 1e-9  # of a clip, for what sums of squares lose of their digits


@dataclass(frozen=True)
class NoisySum:
    """What clients' changes become on their way into a sum, the same at both ends.

    With C·S = amplitude, a change of a norm of at most C is one of whole numbers of a norm of at
    most Δ₂ = C·S + √P, however it is rounded: no number moves by 1 or more. Of whole numbers,
    Δ₁ <= Δ₂ min(√P, Δ₂).

    Args:
        clients: n, that are asked; a sum is over some of them, or all.
        honest: h, those of any sum whose shares nobody else knows, at least; in 1 … n.
        parameters: P, numbers in a change.
        max_norm: C.
        noise_multiplier: σ, deviation of the noise of h clients over Δ₂.
        amplitude: C·S, a power of two, so that both ends have the very same.
    """

    clients: int
    honest: int
    parameters: int
    max_norm: float
    noise_multiplier: float
    amplitude: float

    @classmethod
    def planned(
        cls,
        spent: tuple[Event, ...],
        privacy: Privacy,
        *,
        clients: int,
        threshold: int,
        parameters: int,
        n_rounds: int,
    ) -> NoisySum:
        """The sums of a whole run, such that all of them stay within a promise.

        Args:
            spent: What was released before.
            privacy: The promise.
            clients: Asked in a round, in every round as many.
            threshold: Of them, without whom secure aggregation reveals nothing.
            parameters: Numbers in a change.
            n_rounds: Rounds of the plan. Each may hold any client.

        Raises:
            PlanError: All of so few clients might tell their noise, or there is no room for it.
            PrivacyError: The promise leaves no room for training.
        """
        honest = privacy.honest(clients, threshold)

        def multiplier(amplitude: float) -> float:
            event = _event(1.0, amplitude, parameters, n_rounds)
            return calibrated(spent, event, privacy.epsilon, privacy.delta)

        # How large numbers may be depends on the noise, and a little of the noise on how large they
        # are: so room is made for a little more noise.
        most = SPARE * multiplier(FINE)
        amplitude = _amplitude(clients, honest, parameters, most)
        found = multiplier(amplitude) if amplitude else math.inf
        if found > most:
            raise PlanError(
                "numbers of 32 bits have no room for the noise of so many clients",
                got=f"{clients} clients, a noise multiplier of {most:.3g} and {parameters:,} "
                "numbers",
                do="promise a larger epsilon, have fewer clients in a round, or a smaller model",
            )
        return cls(clients, honest, parameters, privacy.max_grad_norm, found, amplitude)

    def event(self, n_rounds: int = 1) -> SkellamSum:
        """What some rounds release."""
        return _event(self.noise_multiplier, self.amplitude, self.parameters, n_rounds)

    @property
    def scale(self) -> float:
        """S: whole numbers over what they stand for."""
        return self.amplitude / self.max_norm

    @property
    def share_variance(self) -> float:
        """Variance of the noise that each client adds to each whole number."""
        return skellam_share((self.noise_multiplier * self.event().l2) ** 2, self.honest)

    @property
    def most_noise(self) -> float:
        """Deviation of the noise of all n clients over C: see `client_level.check_meaningful`.

        More than σ, for shares are sized for h of them.
        """
        return math.sqrt(self.clients * self.share_variance) / self.amplitude

    def encode(self, change: npt.NDArray[np.floating], noise: Noise) -> npt.NDArray[np.uint32]:
        """A client's change (P,) as it goes into the sum: (P,) modulo 2^32.

        A change that is not finite cannot be bounded, and counts nothing.

        Raises:
            PrivacyError: It has another number of numbers.
        """
        if change.shape != (self.parameters,):
            raise PrivacyError(
                "a change of another size than its noise was planned for",
                got=f"{change.size:,} numbers instead of {self.parameters:,}",
                do="give server and clients the same version",
            )
        whole = rounded(change, self.max_norm, self.scale, noise)
        whole += noise.skellam(self.parameters, self.share_variance)
        return whole.astype(np.uint32)

    def decode(self, total: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The mean change (P,) of n clients, of the sum of those who came: others changed nothing.

        Args:
            total: (P,) the sum modulo 2^32, its upper half as negative numbers.
        """
        return total / (self.scale * self.clients)


def rounded(
    change: npt.NDArray[np.floating], max_norm: float, scale: float, noise: Noise
) -> npt.NDArray[np.int64]:
    """A change (P,) within a norm, times scale, in whole numbers that are right on average.

    Each is rounded up with the chance of what is behind its point.
    """
    exact = change.astype(np.float64)
    norm = math.sqrt(float(exact @ exact))
    if not math.isfinite(norm):
        return np.zeros(len(exact), dtype=np.int64)
    exact *= scale * min(SLACK * max_norm / max(norm, 1e-300), 1.0)
    below = np.floor(exact)
    exact -= below
    whole = below.astype(np.int64)
    whole += noise.uniform(len(exact)).numpy() < exact
    return whole


def shared_counts(schema: Schema, privacy: Privacy) -> SkellamSum:
    """The sums of clients' weighted counts, with the noise that a promise leaves for them.

    d vectors cost d / 2σ² of zero-concentrated differential privacy, and next to nothing more for
    noise of whole numbers.
    """
    releases = planned_releases(schema)
    rho = rho_of(privacy.epsilon, privacy.delta)
    multiplier = math.sqrt(releases / (2 * privacy.statistics * rho))
    return SkellamSum(multiplier, WEIGHT, WEIGHT, releases, COUNTS)


class OneCohort:
    """The clients over whom all statistics of a run are summed: the same ones every time.

    Two sums over others, in each of which a client has the same noise, would tell of those in which
    they differ, behind two shares of noise only.

    Args:
        digest: Of clients that were summed over before, as `digest` had it.
    """

    def __init__(self, digest: str | None = None) -> None:
        self.digest = digest

    def size(self, cohort: Collection[str] | None) -> int:
        """How many they are.

        Args:
            cohort: Their ids; None where nothing is summed.

        Raises:
            PrivacyError: Nothing is summed, or others were summed over before.
        """
        if cohort is None:
            raise PrivacyError(
                "a share of noise hides nothing outside of a sum over all clients",
                do="let the server set up secure aggregation",
            )
        names = sorted(set(cohort))
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
        if self.digest not in (None, digest):
            raise PrivacyError(
                "statistics of this run were summed over other clients before",
                got=f"{len(names)} clients now",
                do="start a new run",
            )
        self.digest = digest
        return len(names)


def _event(multiplier: float, amplitude: float, parameters: int, n_rounds: int) -> SkellamSum:
    """Rounds of changes of an amplitude."""
    root = math.sqrt(parameters)
    l2 = amplitude + root
    return SkellamSum(multiplier, l2, l2 * max(min(root, l2), 1.0), n_rounds, ROUNDS)


def _amplitude(clients: int, honest: int, parameters: int, multiplier: float) -> float:
    """The largest power of two that a sum has room for, 0 if there is none.

    n (C·S + 1) + 10 √(n / h) σ Δ₂ must be below 2^31: all clients' numbers, and ten deviations of
    the noise of all n of them. Else a sum might wrap around: no less private, but of no use.
    """
    noise = TAIL * math.sqrt(clients / honest) * multiplier
    room = MOST - clients - noise * math.sqrt(parameters)
    if room < clients + noise:
        return 0.0
    return 2.0 ** math.floor(math.log2(room / (clients + noise)))
