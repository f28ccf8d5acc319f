"""Differential privacy of whole clients, at a server that they trust with their updates.

    every client's change is scaled down to a norm of at most C
    N(0, σ² C²) is added to every coordinate of the sum
    and the sum is divided by the number of clients that is *expected*, not the one that came

(McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models".) Every client
counts the same, because weights tell about rows. Neighbouring federations differ in whether
anything that one client sends counts (zero-out). The noise is independent of how many numbers a
model has and of how few clients there are, so a model of many numbers needs many clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genesis.errors import ModelFileError, PlanError
from genesis.privacy.budget import Privacy, calibrated, rho_of
from genesis.privacy.events import Event, Gaussian, SampledGaussian
from genesis.privacy.ftrl import (
    BandedNoise,
    accounted_noise_multiplier,
    sensitivity,
    takes_part,
)
from genesis.privacy.noise import Noise
from genesis.schema import Schema
from genesis.statistics import DISCRETE, planned_releases

__all__ = [
    "COUNTS",
    "ROUNDS",
    "WEIGHT",
    "Adaptive",
    "NoisyMean",
    "Rounds",
    "check_meaningful",
    "check_stated",
    "clipped",
    "noise_to_signal",
    "planned_counts",
    "skellam_share",
]

COUNTS = "counts of the columns"
ROUNDS = "rounds of training"
"""What releases are for, in the ledger."""

WEIGHT = 1000
"""What a client's counts of one column add up to, so that every client counts as one."""

MOST_NOISE = 3.0
"""Noise over the largest possible mean change, beyond which there is nothing to learn from."""


def check_stated(schema: Schema, *, public: bool) -> None:
    """Make sure that whole clients can be hidden in the statistics of a schema.

    Args:
        schema: What the columns are.
        public: Whether the operator stated it.

    Raises:
        PlanError: The schema leaves something to be counted that one client can decide.
    """
    unknown = [c.name for c in schema if c.kind in DISCRETE and c.categories is None]
    if unknown or not public:
        raise PlanError(
            "client-level privacy needs a schema file that states all categories",
            got=f"none of column '{unknown[0]}'" if unknown else "no schema",
            do="write one with 'genesis schema', state the categories in it, and pass it",
        )


def planned_counts(schema: Schema, privacy: Privacy) -> Gaussian:
    """The counts of a schema's columns, with the noise that a promise leaves for them.

    d vectors, of each of which one client changes as much as all of its rows, cost d / 2σ² of
    zero-concentrated differential privacy.

    Raises:
        PlanError: Not the server adds the noise: see `distributed`.
    """
    privacy.check_secure(secure=False)
    releases = planned_releases(schema)
    rho = rho_of(privacy.epsilon, privacy.delta)
    return Gaussian(math.sqrt(releases / (2 * privacy.statistics * rho)), releases, COUNTS)


@dataclass(frozen=True)
class Rounds:
    """The rounds of a whole run, in which a promise hides clients.

    Args:
        clients: K, number of clients.
        n_rounds: Rounds of the plan.
        fraction: Share of the clients in a round, in (0, 1]: the chance of each.
        bands: Groups that take turns, of correlated noise.

    Raises:
        PlanError: Some clients would never take part, or two choices say who does.
    """

    clients: int
    n_rounds: int
    fraction: float = 1.0
    bands: int = 1

    def __post_init__(self) -> None:
        if self.bands > self.n_rounds or self.bands > self.clients:
            raise PlanError(
                "there are more bands than rounds or clients, so some would never take part",
                got=f"{self.bands} bands, {self.n_rounds} rounds and {self.clients} clients",
                do="use fewer bands",
            )
        if self.bands > 1 and self.fraction < 1:
            raise PlanError(
                "bands say who takes part, and so does client_fraction",
                do="leave client_fraction out",
            )

    @property
    def expected(self) -> float:
        """Clients expected in a round."""
        return self.fraction * self.clients / self.bands

    def cohort(self, numbers: Mapping[str, int], round: int, noise: Noise) -> list[str]:
        """Names of the clients of a round: a Poisson sample, or those whose turn it is.

        Args:
            numbers: Of all clients by their names, the same in every round.
            round: Number of noisy sums before this one.
            noise: What says who is sampled: as secret as noise is, for it is what hides a client.
        """
        names = sorted(numbers)
        if self.bands > 1:
            return [name for name in names if takes_part(numbers[name], round, self.bands)]
        chances = noise.uniform(len(names)).tolist()
        return [name for name, u in zip(names, chances, strict=True) if u < self.fraction]

    def noise_multiplier(self, spent: tuple[Event, ...], privacy: Privacy) -> float:
        """σ of a round, for which all of them stay within a promise.

        Args:
            spent: What was released before.
            privacy: The promise.

        Raises:
            PrivacyError: It leaves no room for them.
            PlanError: Not the server adds the noise: see `distributed`.
        """
        privacy.check_secure(secure=False)
        found = calibrated(spent, self.event(1.0), privacy.epsilon, privacy.delta)
        return found * sensitivity(self.bands, self.n_rounds) if self.bands > 1 else found

    def event(self, noise_multiplier: float) -> Gaussian | SampledGaussian:
        """What all rounds release together, with σ in each: correlated noise makes them one."""
        if self.bands > 1:
            accounted = accounted_noise_multiplier(
                noise_multiplier, bands=self.bands, rounds=self.n_rounds
            )
            return Gaussian(accounted, 1, ROUNDS)
        if self.fraction < 1:
            return SampledGaussian(noise_multiplier, self.fraction, self.n_rounds, ROUNDS)
        return Gaussian(noise_multiplier, self.n_rounds, ROUNDS)


def clipped(changes: Tensor, max_norm: float) -> Tensor:
    """Changes (K, P), each scaled to an L2 norm of at most max_norm, above 0.

    A change that is not finite, or too long to be scaled precisely, cannot be bounded, and counts
    nothing.
    """
    factors = (max_norm / _norms(changes)).clamp_max(1)
    scaled = changes * factors[:, None].to(changes)
    scaled[~(factors > 1e-30)] = 0  # NaN is not above
    return scaled


@dataclass(frozen=True)
class Adaptive:
    """A clip that follows a quantile of the changes' norms.

    Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping"::

        b̃ = ½ + (Σ_k (1[|Δ_k| ≤ C] - ½) + N(0, σ_b²)) / expected
        C ← C · exp(-η (b̃ - γ))

    A client adds -½ or ½, so the count's sensitivity is ½, and nobody at all looks like a half.

    Args:
        quantile: γ in [0, 1], share of changes that the clip should leave alone.
        rate: η, above 0.

    Raises:
        PlanError: A choice out of its range.
    """

    quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise PlanError("quantile of the clip must be in [0, 1]", got=str(self.quantile))
        if not 0 < self.rate < math.inf:
            raise PlanError("rate of the clip must be above 0", got=str(self.rate))

    @staticmethod
    def deviation(expected: float) -> float:
        """σ_b: as in the paper, a twentieth of the clients expected."""
        return expected / 20

    def rest(self, noise_multiplier: float, expected: float) -> float:
        """σ_Δ: what σ becomes for the changes, so that sum and count together cost as much as σ.

        σ_Δ = (σ⁻² - (2 σ_b)⁻²)^(-1/2), theorem 1 of the paper. For banded noise, where columns have
        a norm of 1 or more, it is a little more than is needed.

        Raises:
            PlanError: The count alone would cost more: there are too few clients.
        """
        left = noise_multiplier**-2 - (2 * self.deviation(expected)) ** -2
        if not left > 0:
            raise PlanError(
                "too few clients a round for an adaptive clip",
                got=f"{expected:g} expected with a noise multiplier of {noise_multiplier:.3g}",
                do=f"have more than {10 * noise_multiplier:.0f} clients a round, or set a fixed "
                "clip",
            )
        return float(left**-0.5)

    def step(self, max_norm: float, changes: Tensor, expected: float, noise: Noise) -> float:
        """The next clip, after max_norm and the changes (K, P) that it was used on."""
        within = float((_norms(changes) <= max_norm).double().sub(0.5).sum())
        within += self.deviation(expected) * float(noise.normal(1))
        share = 0.5 + within / expected
        return max_norm * math.exp(-self.rate * (share - self.quantile))


@dataclass
class NoisyMean:
    """The private mean of the clients' changes, and what it remembers from round to round.

    With one band all clients, or a Poisson sample of them, may take part in every round. With b
    bands clients take turns as `ftrl.takes_part(number, mean.rounds, b)` says; nothing here can see
    who came.

    Args:
        noise_multiplier: σ, standard deviation of the noise over the clip, above 0.
        max_norm: C, the clip: with adaptive, that of the first round, and then of the next.
        expected: Number of clients in a round that was planned: N, qN or N / b, above 0. Nothing
            that depends on who came.
        bands: Of the noise's correlation over rounds, see `ftrl`; 1 for independent noise.
        adaptive: How the clip adapts; None for a fixed one.

    Raises:
        PlanError: A choice out of its range, or too few clients for an adaptive clip.
    """

    noise_multiplier: float
    max_norm: float
    expected: float
    bands: int = 1
    adaptive: Adaptive | None = None

    rounds: int = field(default=0, init=False)
    """Calls of `combine` so far, those before a checkpoint included."""

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "max_norm", "expected"):
            if not 0 < getattr(self, name) < math.inf:
                raise PlanError(f"{name} must be above 0", got=str(getattr(self, name)))
        self._noise = BandedNoise(self.bands)
        self._multiplier = self.noise_multiplier
        if self.adaptive:
            self._multiplier = self.adaptive.rest(self.noise_multiplier, self.expected)

    def combine(self, vector: Tensor, vectors: Tensor, noise: Noise) -> Tensor:
        """v + (Σ clip(v_k - v, C) + N(0, σ² C²)) / expected, then the next clip.

        Args:
            vector: (P,) parameters that the clients started from, P the same in every round.
            vectors: (K, P) their parameters now; K may be 0, and such a round costs as much.
            noise: Where the noise comes from.

        Returns:
            (P,) of vector's dtype and device.
        """
        changes = vectors - vector
        total = clipped(changes, self.max_norm).sum(0)
        drawn = self._noise.draw(len(vector), noise).to(total)
        # Over the clip of its round the sum is one of the matrix mechanism, whatever clips came
        # before: it holds for sums that are chosen after seeing the earlier ones (Denisov et al.
        # 2022, "Improved Differential Privacy for SGD via Optimal Private Linear Operators").
        total.add_(drawn, alpha=self._multiplier * self.max_norm)
        if self.adaptive:
            self.max_norm = self.adaptive.step(self.max_norm, changes, self.expected, noise)
        self.rounds += 1
        return vector + total / self.expected

    def accounted_noise_multiplier(self, rounds: int | None = None) -> float:
        """Noise multiplier of *one* Gaussian release that costs what all rounds cost together.

        The adaptive clip is paid too. For a Poisson sample of the clients, which one band allows,
        account `noise_multiplier` once a round with its sampling rate instead.

        Args:
            rounds: At least 1; None for those played.

        Raises:
            PlanError: No round.
        """
        return accounted_noise_multiplier(
            self.noise_multiplier,
            bands=self.bands,
            rounds=self.rounds if rounds is None else rounds,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """What the next round depends on, for a checkpoint.

        "max_norm" () float64, "rounds" () int64 and, after a round with several bands,
        "past_noise" (rounds kept, P), which is secret: see `BandedNoise`.
        """
        return {
            "max_norm": torch.tensor(self.max_norm, dtype=torch.float64),
            "rounds": torch.tensor(self.rounds),
            **self._noise.to_tensors(),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where `to_tensors` was called on a mean of the same choices.

        Raises:
            ModelFileError: The tensors are not of such a mean.
        """
        try:
            max_norm, rounds = float(tensors["max_norm"]), int(tensors["rounds"])
        except KeyError as error:
            raise ModelFileError("the checkpoint lacks the state of the private mean") from error
        self._noise.restore(tensors, rounds)
        self.max_norm, self.rounds = max_norm, rounds


def noise_to_signal(noise_multiplier: float, parameters: int, expected: float) -> float:
    """Norm of a round's noise over the largest norm that the mean change can have: σ √P / expected.

    Args:
        noise_multiplier: σ.
        parameters: P, numbers in the model, or in the part of it that is sent.
        expected: Clients expected in a round.
    """
    return noise_multiplier * math.sqrt(parameters) / expected


def check_meaningful(
    noise_multiplier: float, parameters: int, expected: float, *, insist: bool = False
) -> None:
    """Refuse a run in which the noise drowns the clients.

    Args:
        noise_multiplier: σ.
        parameters: P, numbers in the model, or in the part of it that is sent.
        expected: Clients expected in a round.
        insist: Let it run nevertheless.

    Raises:
        PlanError: `noise_to_signal` is above 3.
    """
    ratio = noise_to_signal(noise_multiplier, parameters, expected)
    if ratio > MOST_NOISE and not insist:
        enough = math.ceil(expected * ratio / MOST_NOISE)
        raise PlanError(
            "the noise that hides a whole client would drown what clients learn",
            got=f"noise of {ratio:.3g} times the largest mean change, with {expected:g} clients a "
            f"round and a noise multiplier of {noise_multiplier:.3g}",
            do=f"use the unit 'record', or about {enough} clients a round, fewer rounds, or a "
            "smaller model",
        )


def skellam_share(variance: float, threshold: int) -> float:
    """Variance of the noise that each client adds, for a sum that nobody sees the parts of.

    Sums of Skellam numbers are Skellam again, so the noise of any `threshold` honest clients that
    survive has the variance that was accounted; more of them only add to it.

    Args:
        variance: That the sum must have, at least 0.
        threshold: Honest clients that are sure to be in the sum, at least 1: those below which
            secure aggregation reveals nothing, less those who may collude.

    Raises:
        PlanError: threshold is below 1.
    """
    if threshold < 1:
        raise PlanError("noise can be shared by at least one client", got=str(threshold))
    return variance / threshold


def _norms(changes: Tensor) -> Tensor:
    """(K,) float64 L2 norms of (K, P): in float32 the square of a finite number may be infinite.

    One by one, so that there is never a float64 copy of them all.
    """
    norms = [float(torch.linalg.vector_norm(change, dtype=torch.float64)) for change in changes]
    return torch.tensor(norms, dtype=torch.float64, device=changes.device)
