"""DP-FTRL: noise that largely cancels out over the rounds, where nobody takes part in every round.

What a server publishes after t rounds is a sum over these rounds, so noise may be added in one
round and taken away in the next ones. With z independent and normal, round t gets

    w_t = z_t - Σ_{1 ≤ j < b} c_j w_{t-j}     that is, C w = z

for C lower triangular, Toeplitz and with b bands (Choquette-Choo et al. 2023, "(Amplified) Banded
Matrix Factorization"). Its bands are the first coefficients of (1 - x)^(-1/2), the square root of
the matrix of prefix sums (Kalinin and Lampert 2024, "Banded Square Root Matrix Factorization").
They fall from 1, so the recursion is stable (Eneström and Kakeya), and none depends on how many
rounds there will be.

Publishing x + w tells what publishing C x + z tells. A client that waits b rounds before it takes
part again meets columns of C that share no row, so what it changes adds up in squares.

Clients in b groups take turns. That is for when not everybody can be asked in every round: for the
same ε, 8 groups over 100 rounds have 0.45 times the noise that they would have if it were
independent, but 1.3 times that of everybody in every round (one band).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from genesis.errors import ModelFileError, PlanError
from genesis.privacy.noise import Noise

__all__ = [
    "BandedNoise",
    "accounted_noise_multiplier",
    "coefficients",
    "participations",
    "sensitivity",
    "takes_part",
]


def takes_part(number: int, round: int, bands: int) -> bool:
    """Whether a client takes part in a round: group g does in rounds g, g + bands, and so on.

    Args:
        number: The client's number, at least 0, the same in every round.
        round: Number of *noisy sums* before this one, so that turns follow the noise.
        bands: Groups, at least 1. Client i is in group i mod bands.
    """
    return number % bands == round % bands


def participations(rounds: int, bands: int, number: int = 0) -> int:
    """How often a client takes part in the first rounds; no number has more than number 0."""
    return len(range(number % bands, rounds, bands))


def coefficients(bands: int) -> tuple[float, ...]:
    """First coefficients of the series (1 - x)^(-1/2) = Σ c_j x^j: 1, 1/2, 3/8, 5/16.

    Raises:
        PlanError: bands is below 1.
    """
    if bands < 1:
        raise PlanError("bands of noise must be at least 1", got=str(bands))
    found = [1.0]
    for j in range(1, bands):
        found.append(found[-1] * (2 * j - 1) / (2 * j))
    return tuple(found)


def sensitivity(bands: int, rounds: int) -> float:
    """How far one client moves C x if each of its changes has a norm of at most 1 (L2).

    Exact, for everybody who takes part at most every bands-th round. Group 0 moves it most: it is
    never behind another group, and the later a column begins, the fewer rows it has. Its columns
    cover each row once, so the squared norm is Σ_{t < rounds} c²_{t mod bands}.

    Raises:
        PlanError: bands is below 1.
    """
    squares = [c * c for c in coefficients(bands)]
    whole, rest = divmod(max(rounds, 0), bands)
    return math.sqrt(whole * math.fsum(squares) + math.fsum(squares[:rest]))


def accounted_noise_multiplier(noise_multiplier: float, *, bands: int, rounds: int) -> float:
    """What to account for all rounds together: one Gaussian release, not one a round.

    Unit: a client. Neighbouring: all that one client sends counts, or nothing of it (zero-out).
    With one band it is σ / √rounds: as many Gaussian releases of σ.

    Args:
        noise_multiplier: σ, the standard deviation of z over the norm that updates are clipped to.
        bands: Groups that take turns.
        rounds: Rounds played, at least 1; n_rounds of the plan where σ is being chosen.

    Raises:
        PlanError: bands or rounds is below 1.
    """
    if rounds < 1:
        raise PlanError("nothing is released before the first round", got=f"{rounds} rounds")
    return noise_multiplier / sensitivity(bands, rounds)


class BandedNoise:
    """Draws w, round by round; with one band it is independent noise.

    Args:
        bands: b, at least 1. What was drawn in the last b - 1 rounds is kept, and is as secret as
            the updates: whoever has it can take it away from what was published.

    Raises:
        PlanError: bands is below 1.
    """

    def __init__(self, bands: int) -> None:
        self.coefficients = coefficients(bands)
        self._past: deque[Tensor] = deque(maxlen=bands - 1)  # the newest first

    def draw(self, n: int, noise: Noise) -> Tensor:
        """(n,) float32 on the CPU: w of the next round; n must be the same in every round."""
        drawn = noise.normal(n)
        for coefficient, past in zip(self.coefficients[1:], self._past, strict=False):
            drawn.sub_(past, alpha=coefficient)
        self._past.appendleft(drawn.clone())
        return drawn

    def to_tensors(self) -> dict[str, Tensor]:
        """What the next draw depends on, for a checkpoint: "past_noise" (rounds kept, n)."""
        return {"past_noise": torch.stack(tuple(self._past))} if self._past else {}

    def restore(self, tensors: Mapping[str, Tensor], rounds: int) -> None:
        """Go on where `to_tensors` was called, after that many rounds; other names are ignored.

        Raises:
            ModelFileError: It was another number of bands or of rounds.
        """
        past = tensors.get("past_noise", torch.empty(0, 0))
        kept = min(rounds, len(self.coefficients) - 1)
        if past.ndim != 2 or len(past) != kept:
            raise ModelFileError(
                "the noise of earlier rounds does not fit this run",
                got=f"shape {tuple(past.shape)} instead of {kept} rounds of it",
                do="continue with the same choices, or start anew",
            )
        self._past.clear()
        self._past.extend(past.to("cpu", torch.float32).unbind())
