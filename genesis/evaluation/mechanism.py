"""Does a private step of training do what its ε was computed for? An audit with canaries.

The accountant believes that one step releases Σ_i clip_C(g_i) + N(0, σ² C²), summed over a batch by
Poisson sampling. Then adding a record moves the sum by at most C, and whoever is to tell from the
result whether it was there faces two normal distributions that are at most

    μ = 1/σ

standard deviations apart (Dong, Roth & Su 2022, "Gaussian differential privacy"). Here the step
that is shipped is run many times with a record, the canary, and without (Nasr et al. 2021,
"Adversary instantiation"), and the distance that is seen is compared with that. The statistic is
the inner product of the noisy sum and the direction in which the canary moves it.

The auditor knows all but the noise: the parameters, every other record, the seed, and which entry
of its pool of random numbers a record takes. What ε promises holds against them, too. They see what
`GenerativeModel.mean_gradient` returns after `GenerativeModel.train` has made one step, with a
learning rate of 0, so that every step begins where the first one did, and so that neither noise nor
records may show in parameters or in what is derived from them.

A direction chosen badly makes an audit blind, and never makes it wrong. So canaries and directions
are chosen by steps that are almost without noise: those that move the sum furthest. They tell the
sensitivity of the sum as well, to many digits; but that the noise fits it, only the noise tells.

A single step is audited, and no code is proved right: that a table was fitted privately before, or
that ε was computed well, are other questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from genesis.codes import Codes, Layout
from genesis.errors import PlanError, TrainingError
from genesis.evaluation.steps import Counter, Steps
from genesis.models import MODELS, LocalTraining, check_private_config, create_model, model_class
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.noise import Noise
from genesis.seeding import check_seed

__all__ = [
    "Batches",
    "Canary",
    "Mechanism",
    "NoiseScale",
    "audit_step",
    "private_methods",
]

Floats = npt.NDArray[np.float64]

LAYOUT = Layout((3, 2), (3, 4))
"""Both kinds of column: two numeric ones and two with categories."""

WIDTH, LATENT = 16, 8
"""A step does the same with wide layers as with narrow ones, and narrow ones are quick."""

ROWS, BATCH = 24, 16
"""Records beside the canary, and B."""

MAX_NORM = 0.1
"""C. So small that gradients of untrained models are clipped: else clipping is not tested."""

QUIET = 1e-9
"""σ of steps that are almost without noise."""

LARGE = (10.0, 100.0, 1000.0)
"""Scalars of very large canaries; those of a table's rows are in [-1, 1]."""

CANDIDATES = 12
"""Rows among which a canary is chosen."""

COPIES = 64
"""Records, all alike, of which batches are drawn."""

COUNTED = 12
"""Batches whose records are counted by the sum of their gradients."""

TOLERANCE = 1e-3
"""What sums in single precision may be wrong by, relative to C."""

LEAST_TRIALS = 20
"""Fewer show nothing."""


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
    """What the audit of a model's private step found.

    Args:
        method: Name of the model.
        noise_multiplier: σ.
        mu: 1/σ, the largest distance that is accounted for.
        level: Confidence with which all intervals hold, and no right step fails, at once.
        canaries: What each of them did.
        noise: The noise beside some records.
        empty: The noise of steps whose batch was empty.
        batches: How batches are drawn.
        faults: What is wrong, a sentence each.
        doubts: What could not be tested, a sentence each.
    """

    method: str
    noise_multiplier: float
    mu: float
    level: float
    canaries: tuple[Canary, ...]
    noise: NoiseScale
    empty: NoiseScale
    batches: Batches
    faults: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def finding(self) -> str:
        """Either "fault", "inconclusive" or "nothing found"."""
        return "fault" if self.faults else "inconclusive" if self.doubts else "nothing found"

    @property
    def text(self) -> str:
        """The same in one sentence or two."""
        step = f"A private step of {self.method}"
        if self.faults:
            return f"{step} is not what its ε was computed for. {self.faults[0]}"
        if self.doubts:
            return f"No fault of the private step of {self.method} was found. {self.doubts[0]}"
        return (
            f"{step} does what its ε was computed for, as far as canaries tell: two of them moved "
            f"the sum as far as one record may, and no further. This is about one step, and no "
            f"proof."
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


def private_methods() -> list[str]:
    """Names of the models that can take private steps."""
    return [name for name in MODELS if hasattr(model_class(name), "private_gradients")]


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
    """Audit the private step of a model, on the CPU and on rows that are made up.

    Args:
        method: Name of the model, of `private_methods`.
        config: Arguments of the model; layers are narrow where it does not say.
        noise_multiplier: σ of the audited step, above 0.
        trials: Steps with each canary, and as many without; at least 20.
        level: Confidence with which all that is said of a right step holds at once, in (0, 1).
        seed: Decides whatever is drawn but the noise and the batches.
        noise: Where these come from; the operating system if None, as in training.
        progress: Told of every part.

    Raises:
        PlanError: No such model, or it takes no private steps under this config; or an impossible
            number.
    """
    check_seed(seed)
    if method in MODELS and method not in private_methods():
        raise PlanError(
            f"{method} takes no private steps", do=f"choose one of {', '.join(private_methods())}"
        )
    check_private_config(method, config or {})
    _check_numbers(noise_multiplier, trials, level)
    say = Counter(5, progress)
    step = _Step(method, config or {}, noise_multiplier, noise or Noise(), seed)
    rng = np.random.default_rng(np.random.SeedSequence([seed, ROWS]))
    table = _ordinary(rng, ROWS)
    # What may go wrong by chance: an interval for each canary, one and two tests for each noise,
    # three tests of batches.
    tail = (1 - level) / 11
    say("choice of canaries")
    chosen = [_chosen(step, kind, table, rng) for kind in ("extreme", "large")]
    say("steps without a canary")
    without = np.stack([step.sum(table) for _ in range(trials)])
    noisy = np.ptp(without, axis=0) > 0
    say("steps with a canary")
    canaries, bare = [], 0
    for candidate in chosen:
        with_it = np.stack([step.sum(candidate.rows) for _ in range(trials)])
        bare = max(bare, _moved(with_it, without, ~noisy))
        canaries.append(_compared(candidate, with_it, without, noisy, tail))
    say("noise of empty batches")
    nobody = np.stack([step.sum(table.take(slice(0))) for _ in range(trials)])
    sigma = noise_multiplier
    beside = _noise_scale((without - without.mean(0))[:, noisy] / sigma, trials - 1, tail)
    # Where an empty batch has no noise its sum is 0, and so is this.
    empty = _noise_scale(nobody[:, noisy] / sigma, trials, tail)
    bare = max(bare, _moved(nobody, without, ~noisy))
    say("batches")
    batches = _batches(step, chosen[0].row, noisy, trials, tail)
    faults = _faults(step, 1 / sigma, canaries, beside, empty, batches, bare)
    return Mechanism(
        method=method,
        noise_multiplier=sigma,
        mu=1 / sigma,
        level=level,
        canaries=tuple(canaries),
        noise=beside,
        empty=empty,
        batches=batches,
        faults=tuple(faults),
        doubts=tuple(_doubts(canaries)),
    )


@dataclass(frozen=True)
class _KnownSteps(PrivateSteps):
    """Steps of which an auditor knows all but the noise: every record takes the first entry.

    Args:
        drawn: The records of every batch, as they were drawn.
    """

    drawn: list[torch.Tensor] = field(default_factory=list)

    def batch(self, n: int, device: torch.device) -> torch.Tensor:
        """What is shipped, and seen."""
        self.drawn.append(super().batch(n, device))
        return self.drawn[-1]

    def entries(self, n: int, device: torch.device) -> torch.Tensor:
        """The first entry of the pool for each of n records."""
        return torch.zeros(n, dtype=torch.int64, device=device)


class _Step:
    """The shipped step of a model, to be taken again and again from the same parameters.

    Args:
        method: Name of the model.
        config: Arguments of the model.
        noise_multiplier: σ.
        noise: Where random numbers come from.
        seed: Of the initial parameters, and of all that is not secret.
    """

    def __init__(
        self,
        method: str,
        config: Mapping[str, Any],
        noise_multiplier: float,
        noise: Noise,
        seed: int,
    ) -> None:
        chosen = {**model_class(method).private_config, **config}
        self._model = create_model(method, LAYOUT, _narrow(method, chosen), seed=seed)
        self._sigma, self._noise, self._seed = noise_multiplier, noise, seed
        self._vector = self._model.get_vector()

    @property
    def moved(self) -> bool:
        """Whether anything but the optimiser has changed parameters: its learning rate is 0."""
        return not torch.equal(self._vector, self._model.get_vector())

    def sum(self, rows: Codes, *, quiet: bool = False) -> Floats:
        """The (noisy) sum of gradients over C after a step on all rows: (P,)."""
        return self.batch(rows, quiet=quiet, rate=1.0, steps=1)[0]

    def batch(
        self, rows: Codes, *, quiet: bool, rate: float, steps: int
    ) -> tuple[Floats, list[torch.Tensor]]:
        """The mean of the sums of some steps, over C, and the batches that were drawn for them."""
        private = _KnownSteps(
            max_grad_norm=MAX_NORM,
            noise_multiplier=QUIET if quiet else self._sigma,
            sample_rate=rate,
            batch_size=BATCH,
            steps=steps,
            noise=self._noise,
        )
        local = LocalTraining(
            epochs=1,
            batch_size=BATCH,
            seed=(self._seed,),
            learning_rate_scale=0.0,
            private=private,
        )
        self._model.train(rows, local)
        gradient = self._model.mean_gradient().double().numpy()
        return gradient * (BATCH / MAX_NORM), private.drawn


@dataclass(frozen=True)
class _Chosen:
    """A canary among the records.

    Args:
        kind: As in `Canary`.
        row: The canary alone.
        rows: The records and it.
        change: (P,) how it changes the sum when there is no noise, over C.
        fails: Whether another one made training fail.
    """

    kind: str
    row: Codes
    rows: Codes
    change: Floats
    fails: bool


def _chosen(step: _Step, kind: str, table: Codes, rng: np.random.Generator) -> _Chosen:
    """Of some candidates, the canary that moves the sum of the table's gradients furthest."""
    base = step.sum(table, quiet=True)
    best, fails = None, False
    for row in _extreme(rng) if kind == "extreme" else _large(rng):
        rows = Codes(
            np.concatenate([table.scalars, row.scalars]), np.concatenate([table.codes, row.codes])
        )
        try:
            change = step.sum(rows, quiet=True) - base
        except TrainingError:
            fails = True
            continue
        if best is None or np.linalg.norm(change) > np.linalg.norm(best.change):
            best = _Chosen(kind, row, rows, change, fails)
    if best is None:
        raise TrainingError("every canary makes training fail", got=f"{CANDIDATES} {kind} ones")
    return _Chosen(kind, best.row, best.rows, best.change, fails)


def _compared(
    chosen: _Chosen,
    with_it: Floats,
    without: Floats,
    noisy: npt.NDArray[np.bool_],
    tail: float,
) -> Canary:
    """How far apart (trials, P) sums with and without a canary are, by those coordinates."""
    from scipy import stats

    n, change = len(without), np.where(noisy, chosen.change, 0.0)
    direction = change / max(float(np.linalg.norm(change)), 1e-300)
    ours, theirs = with_it @ direction, without @ direction
    spread = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    apart = float(ours.mean() - theirs.mean())
    mu = apart / spread if spread else math.copysign(math.inf, apart) if apart else 0.0
    # Cohen's d: the means' part, and that of the standard deviation below them.
    error = math.sqrt(2 / n + mu**2 / (4 * n)) if math.isfinite(mu) else 0.0
    slack = float(stats.norm.isf(tail / 2)) * error
    sensitivity = math.inf if chosen.fails else float(np.linalg.norm(chosen.change))
    return Canary(chosen.kind, sensitivity, mu, mu - slack, mu + slack, n)


def _noise_scale(noise: Floats, freedom: int, tail: float) -> NoiseScale:
    """How large noise (trials, p) is, in units of what was promised.

    Every coordinate and every step is looked at by itself: noise that is the same in all steps has
    the right size on the whole, and so has one number that is added to all coordinates.
    """
    from scipy import stats

    trials, p = noise.shape
    squares = noise**2
    total = float(squares.sum())
    if not total:
        return NoiseScale(0.0, 0.0, 0.0, even=True, trials=trials)
    chi = stats.chi2(freedom * p)
    scale = math.sqrt(total / (freedom * p))
    low, high = (math.sqrt(total / float(chi.isf(share))) for share in (tail / 2, 1 - tail / 2))
    squares /= scale**2
    of_coordinates = stats.chi2(freedom).cdf(squares.sum(0))
    of_steps = stats.chi2(p).cdf(squares.sum(1) * (trials / freedom))
    even = all(
        tail / len(each) < 2 * min(float(each.min()), 1 - float(each.max()))
        for each in (of_coordinates, of_steps)
    )
    return NoiseScale(scale, low, high, even, trials)


def _batches(
    step: _Step, row: Codes, noisy: npt.NDArray[np.bool_], steps: int, tail: float
) -> Batches:
    """Draw batches of records that are all like one, and count who came."""
    from scipy import stats

    same = row.take(np.zeros(COPIES, dtype=np.int64))
    rate = BATCH / COPIES
    drawn = step.batch(same, quiet=False, rate=rate, steps=steps)[1]
    joined = np.zeros((steps, COPIES))
    for seen, records in zip(joined, drawn, strict=False):
        np.add.at(seen, records.numpy(), 1)
    variance = rate * (1 - rate)
    sizes, records, total = joined.sum(1), joined.sum(0), float(joined.sum())
    of_sizes = ((sizes - COPIES * rate) ** 2 / (COPIES * variance)).sum()
    of_records = ((records - steps * rate) ** 2 / (steps * variance)).sum()
    chances = [
        stats.chi2(steps).cdf(of_sizes),
        stats.chi2(COPIES).cdf(of_records),
        stats.norm.cdf((total - joined.size * rate) / math.sqrt(joined.size * variance)),
    ]
    poisson = len(drawn) == steps and joined.max() <= 1
    return Batches(
        steps=steps,
        sizes=float(of_sizes / steps),
        records=float(of_records / COPIES),
        share=total / (joined.size * rate),
        poisson=bool(poisson and all(tail < 2 * min(chance, 1 - chance) for chance in chances)),
        counted=_counted(step, row, same, rate, noisy),
    )


def _counted(
    step: _Step, row: Codes, same: Codes, rate: float, noisy: npt.NDArray[np.bool_]
) -> bool:
    """Whether k records that are alike, in a batch of any size, make k times the sum of one."""
    one = step.sum(row, quiet=True)[noisy]
    for _ in range(COUNTED):
        total, drawn = step.batch(same, quiet=True, rate=rate, steps=1)
        k = len(drawn[0]) if len(drawn) == 1 else 0
        allowed = TOLERANCE * max(k, 1) * max(float(np.linalg.norm(one)), 1)
        if np.linalg.norm(total[noisy] - k * one) > allowed:
            return False
    return True


def _moved(sums: Floats, others: Floats, still: npt.NDArray[np.bool_]) -> int:
    """In how many coordinates without noise (trials, P) sums over two tables differ."""
    return int((sums[:, still] != others[0, still]).any(0).sum())


def _faults(
    step: _Step,
    mu: float,
    canaries: list[Canary],
    noise: NoiseScale,
    empty: NoiseScale,
    batches: Batches,
    bare: int,
) -> Iterator[str]:
    """What is wrong, worst first."""
    if step.moved:
        yield "Parameters change by something else than the noisy gradient."
    if bare:
        yield f"Records show in {bare:,} numbers of the gradient to which no noise is added."
    for canary in sorted(canaries, key=lambda canary: -canary.low):
        if canary.low > mu:
            yield (
                f"One {canary.kind} record makes results differ by {_short(canary.mu)} "
                f"[{_short(canary.low)}, {_short(canary.high)}] standard deviations, where 1/σ = "
                f"{_short(mu)} is accounted for."
            )
    for canary in sorted(canaries, key=lambda canary: -canary.sensitivity):
        if canary.sensitivity > 1 + TOLERANCE:
            finite = math.isfinite(canary.sensitivity)
            how = f"by {_short(canary.sensitivity)} times C" if finite else "beyond all numbers"
            yield f"One {canary.kind} record moves the sum of gradients {how}, where C is allowed."
    for scale, where in ((noise, ""), (empty, " of an empty batch")):
        if not scale.right:
            uneven = "" if scale.even else ", and not fresh in every step and coordinate"
            yield (
                f"The noise{where} is {scale.scale:.3f} [{scale.low:.3f}, {scale.high:.3f}] times "
                f"σC/B{uneven}."
            )
    if not batches.poisson:
        yield (
            f"Batches are not drawn by Poisson sampling: their sizes vary {batches.sizes:.2f} "
            f"times, and how often records come {batches.records:.2f} times, as much as they would."
        )
    if not batches.counted:
        yield (
            "A step is not the sum over the records that were drawn, divided by the batch size "
            "that is expected."
        )


def _doubts(canaries: list[Canary]) -> Iterator[str]:
    """Where the audit would have found nothing whatever the step does."""
    for canary in canaries:
        if canary.sensitivity < 1 - TOLERANCE:
            yield (
                f"The {canary.kind} canary moves the sum by {canary.sensitivity:.3f} times C only, "
                f"so that little is known of clipping."
            )


def _narrow(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with narrow layers where it does not say."""
    defaults = create_model(method, LAYOUT, config).config
    small: dict[str, Any] = {
        each.name: (WIDTH, WIDTH)
        for each in fields(defaults)
        if isinstance(getattr(defaults, each.name), tuple)
    }
    if hasattr(defaults, "embedding_dim"):
        small["embedding_dim"] = LATENT
    return small | dict(config)


def _ordinary(rng: np.random.Generator, n: int) -> Codes:
    """n rows such as tables have."""
    codes = [rng.integers(width, size=n) for width in LAYOUT.block_widths]
    scalars = rng.uniform(-0.99, 0.99, (n, LAYOUT.n_scalars))
    return Codes(scalars.astype(np.float32), np.stack(codes, axis=1).astype(np.int32))


def _extreme(rng: np.random.Generator) -> Iterator[Codes]:
    """Candidates at the ends of what the encoding allows."""
    for _ in range(CANDIDATES):
        row = _ordinary(rng, 1)
        yield Codes(np.where(row.scalars < 0, -1, 1).astype(np.float32), row.codes)


def _large(rng: np.random.Generator) -> Iterator[Codes]:
    """Candidates beyond them: no encoder makes them, and clipping must not rest on that."""
    for i, row in enumerate(_extreme(rng)):
        yield Codes(row.scalars * np.float32(LARGE[i % len(LARGE)]), row.codes)


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


def _short(value: float) -> str:
    """A number in few signs."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON knows them: what is infinite is None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
