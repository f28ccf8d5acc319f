"""One private step, taken many times with a canary and without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from genesis.errors import PlanError
from genesis.evaluation.mechanism.comparing import batches_of, compared, moved, noise_scale
from genesis.evaluation.mechanism.findings import Mechanism, doubts, faults
from genesis.evaluation.mechanism.records import chosen, ordinary
from genesis.evaluation.mechanism.shipped import shipped_step
from genesis.evaluation.steps import Counter, Steps
from genesis.privacy.noise import Noise
from genesis.seeding import check_seed

__all__ = ["audit_step"]

ROWS = 24
"""Records beside the canary."""

LEAST_TRIALS = 20
"""Fewer show nothing."""


def audit_step(
    method: str,
    config: Mapping[str, Any] | None = None,
    *,
    noise_multiplier: float = 1.0,
    trials: int = 400,
    level: float = 0.999,
    seed: int = 0,
    noise: Noise | None = None,
    progress: Steps | None = None,
) -> Mechanism:
    """Audit a private step of training, on the CPU and on records that are made up.

    Args:
        method: Whose step, of `private_steps`: a model's name, "classifier" or "client-level". Of a
            model that is fitted from sums, it is an answer.
        config: Arguments of the model, or "hidden" of the classifier; layers are narrow where it
            does not say.
        noise_multiplier: σ of the audited step, above 0.
        trials: Steps with each canary, and as many without; at least 20.
        level: Confidence with which all that is said of a right step holds at once, in (0, 1).
        seed: Decides whatever is drawn but the noise and the batches.
        noise: Where these come from; the operating system if None, as in training.
        progress: Told of every part.

    Raises:
        PlanError: No such step, or it cannot be taken under this config; or an impossible
            number.
    """
    check_seed(seed)
    _check_numbers(noise_multiplier, trials, level)
    step = shipped_step(method, config or {}, noise_multiplier, noise or Noise(), seed)
    say = Counter(5 if step.sampled else 4, progress)
    rng = np.random.default_rng(np.random.SeedSequence([seed, ROWS]))
    table = ordinary(step.layout, rng, ROWS)
    # What may go wrong by chance: an interval for each canary, one and two tests for each noise,
    # three tests of batches.
    tail = (1 - level) / 11
    say("choice of canaries")
    candidates = [chosen(step, kind, table, rng) for kind in ("extreme", "large")]
    say("steps without a canary")
    without = np.stack([step.sum(table) for _ in range(trials)])
    noisy = np.ptp(without, axis=0) > 0
    say("steps with a canary")
    canaries, bare = [], 0
    for candidate in candidates:
        with_it = np.stack([step.sum(candidate.rows) for _ in range(trials)])
        bare = max(bare, moved(with_it, without, ~noisy))
        canaries.append(compared(candidate, with_it, without, noisy, tail))
    say("noise of empty batches")
    nobody = np.stack([step.sum(table.take(slice(0))) for _ in range(trials)])
    sigma = noise_multiplier
    beside = noise_scale((without - without.mean(0))[:, noisy] / sigma, trials - 1, tail)
    # Where an empty batch has no noise its sum is 0, and so is this.
    empty = noise_scale(nobody[:, noisy] / sigma, trials, tail)
    bare = max(bare, moved(nobody, without, ~noisy))
    batches = None
    if step.sampled:
        say("batches")
        batches = batches_of(step, candidates[0].row, noisy, trials, tail)
    return Mechanism(
        method=method,
        unit=step.unit,
        noise_multiplier=sigma,
        mu=step.mu,
        level=level,
        canaries=tuple(canaries),
        noise=beside,
        empty=empty,
        batches=batches,
        faults=tuple(faults(step, canaries, beside, empty, batches, bare)),
        doubts=tuple(doubts(canaries)),
    )


def _check_numbers(noise_multiplier: float, trials: int, level: float) -> None:
    """Raise PlanError for numbers with which no audit can be made."""
    if not 0 < noise_multiplier < math.inf:
        raise PlanError("noise_multiplier must be above 0", got=repr(noise_multiplier))
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < LEAST_TRIALS:
        raise PlanError(
            f"trials must be a whole number of at least {LEAST_TRIALS}", got=repr(trials)
        )
    if not 0 < level < 1:
        raise PlanError("level must be above 0 and below 1", got=repr(level))
