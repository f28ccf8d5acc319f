"""What an audit of a private step says: each number beside what it ought to be, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genesis.evaluation.mechanism.shipped import Step

__all__ = ["TOLERANCE", "Batches", "Canary", "Mechanism", "NoiseScale", "doubts", "faults"]

TOLERANCE = 1e-3
"""What sums in single precision may be wrong by, relative to C."""

TITLES = {"classifier": "the classifier", "client-level": "the client level"}
"""What steps are called in a sentence, unless by their name."""


@dataclass(frozen=True)
class Canary:
    """How far one record moves what a step releases.

    Args:
        kind: "extreme", a row such as tables have, or "large", one beyond all bounds.
        sensitivity: How far it moves the sum when there is no noise, over C; at most 1 is allowed.
            Infinite if training fails.
        mu: Distance of the results with and without it, in standard deviations.
        low: Lower end of its interval.
        high: Upper end.
        trials: Steps with the canary, and as many without.
    """

    kind: str
    sensitivity: float
    mu: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class NoiseScale:
    """The noise of many steps on the same records.

    Args:
        scale: Its standard deviation over σC/B, which ought to be 1.
        low: Lower end of its interval.
        high: Upper end.
        even: Whether every coordinate and every step has as much of it, and each its own.
        trials: Number of steps.
    """

    scale: float
    low: float
    high: float
    even: bool
    trials: int

    @property
    def right(self) -> bool:
        """Whether it is the noise that was promised."""
        return self.even and self.low <= 1 <= self.high


@dataclass(frozen=True)
class Batches:
    """The batches of many steps: every record joins each of them with the same chance.

    Args:
        steps: Number of steps.
        sizes: Variance of the batches' sizes over n q (1 - q), which ought to be 1.
        records: Variance of how often records came over steps q (1 - q), which ought to be 1.
        share: How many joined in all over n steps q, which ought to be 1.
        poisson: Whether all three may come from Poisson sampling, and no record joined twice.
        counted: Whether the sum of gradients is that of the records that were drawn, divided by B.
    """

    steps: int
    sizes: float
    records: float
    share: float
    poisson: bool
    counted: bool


@dataclass(frozen=True)
class Mechanism:
    """What the audit of a private step found.

    Args:
        method: Name of the step.
        unit: Whose presence it hides, "record" or "client".
        noise_multiplier: σ.
        mu: 1/σ, the largest distance that is accounted for; of sums, as the ledger has it.
        level: Confidence with which all intervals hold, and no right step fails, at once.
        canaries: What each of them did.
        noise: The noise beside some records.
        empty: The noise of steps whose batch was empty.
        batches: How batches are drawn; None of a step on all records.
        faults: What is wrong, a sentence each.
        doubts: What could not be tested, a sentence each.
    """

    method: str
    unit: str
    noise_multiplier: float
    mu: float
    level: float
    canaries: tuple[Canary, ...]
    noise: NoiseScale
    empty: NoiseScale
    batches: Batches | None
    faults: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def finding(self) -> str:
        """Either "fault", "inconclusive" or "nothing found"."""
        return "fault" if self.faults else "inconclusive" if self.doubts else "nothing found"

    @property
    def text(self) -> str:
        """The same in one sentence or two."""
        of = TITLES.get(self.method, self.method)
        step = f"A private step of {of}"
        if self.faults:
            return f"{step} is not what its ε was computed for. {self.faults[0]}"
        if self.doubts:
            return f"No fault of the private step of {of} was found. {self.doubts[0]}"
        return (
            f"{step} does what its ε was computed for, as far as canaries tell: two of them moved "
            f"the sum as far as one {self.unit} may, and no further. This is about one step, and "
            f"no proof."
        )

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        verdict = {
            "finding": self.finding,
            "text": self.text,
            "reasons": [*self.faults, *self.doubts],
        }
        values = asdict(self)
        for key in ("faults", "doubts"):
            del values[key]
        values["canaries"] = [_finite(asdict(canary)) for canary in self.canaries]
        return {**values, "verdict": verdict}


def faults(
    step: Step,
    canaries: list[Canary],
    noise: NoiseScale,
    empty: NoiseScale,
    batches: Batches | None,
    bare: int,
) -> Iterator[str]:
    """What is wrong, worst first."""
    if step.moved:
        yield f"Parameters change by something else than the noisy {step.gradient}."
    if bare:
        yield (
            f"{step.unit.capitalize()}s show in {bare:,} numbers of the {step.gradient} "
            f"to which no noise is added."
        )
    for canary in sorted(canaries, key=lambda canary: -canary.low):
        if canary.low > step.mu:
            yield (
                f"One {canary.kind} {step.unit} makes results differ by {_short(canary.mu)} "
                f"[{_short(canary.low)}, {_short(canary.high)}] standard deviations, where 1/σ = "
                f"{_short(step.mu)} is accounted for."
            )
    for canary in sorted(canaries, key=lambda canary: -canary.sensitivity):
        if canary.sensitivity > 1 + TOLERANCE:
            finite = math.isfinite(canary.sensitivity)
            how = f"by {_short(canary.sensitivity)} times C" if finite else "beyond all numbers"
            yield (
                f"One {canary.kind} {step.unit} moves the sum of {step.gradient}s {how}, where C "
                f"is allowed."
            )
    for scale, where in ((noise, ""), (empty, " of an empty batch")):
        if not scale.right:
            uneven = "" if scale.even else ", and not fresh in every step and coordinate"
            yield (
                f"The noise{where} is {scale.scale:.3f} [{scale.low:.3f}, {scale.high:.3f}] times "
                f"σC/B{uneven}."
            )
    if batches is None:
        return
    if not batches.poisson:
        yield (
            f"Batches are not drawn by Poisson sampling: their sizes vary {batches.sizes:.2f} "
            f"times, and how often {step.unit}s come {batches.records:.2f} times, as much as they "
            f"would."
        )
    if not batches.counted:
        yield (
            f"A step is not the sum over the {step.unit}s that were drawn, divided by the number "
            f"that is expected."
        )


def doubts(canaries: list[Canary]) -> Iterator[str]:
    """Where the audit would have found nothing whatever the step does."""
    for canary in canaries:
        if canary.sensitivity < 1 - TOLERANCE:
            yield (
                f"The {canary.kind} canary moves the sum by {canary.sensitivity:.3f} times C only, "
                f"so that little is known of clipping."
            )


def _short(value: float) -> str:
    """A number in few signs."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON knows them: what is infinite is None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
