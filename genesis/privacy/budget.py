"""What somebody promises: `Privacy`, and how its ε is divided before anything is looked at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genesis.errors import PlanError, PrivacyError, nearest_names
from genesis.privacy.accounting import epsilon
from genesis.privacy.events import Event, Gaussian, SampledGaussian, SkellamSum

__all__ = ["ASSUMED_PUBLIC", "Privacy", "calibrated", "least_noise", "rho_of"]

UNITS = ("record", "client")
TRUSTS = ("local", "server", "distributed")
OVERLAPS = ("disjoint", "overlapping")
_USUAL = {"record": "local", "client": "server"}  # trust of a unit

ASSUMED_PUBLIC = {
    True: "the schema file: names, kinds and types of columns, and all that it states of them",
    False: "names, kinds and types of the columns, how dates are written and in which unit, and "
    "whether columns can be null, as they were inferred from the tables",
}
"""What a promise takes for public, with and without a schema of the operator's."""

LARGEST_EPSILON = 100.0  # beyond, a promise is none
PRECISION = 1e-3  # relative, of ε and of a noise multiplier
STRIDE = 1.3  # from one guess of it to the next
LEAST_NOISE, MOST_NOISE = 0.2, 1e6


@dataclass(frozen=True)
class Privacy:
    """A promise of (ε, δ)-differential privacy (Dwork and Roth 2014, definition 2.4).

    Neighbouring tables differ by one unit that is added or removed.

    Args:
        epsilon: ε in (0, 100], for everything that one run releases.
        delta: δ in (0, 1): well below one over the number of units.
        max_grad_norm: Largest L2 norm of what one unit changes in a step: of a record's gradient,
            or of a client's update. Above 0.
        unit: Whose presence is hidden: one "record", or one "client" with all its records.
        trust: Who adds the noise. "local": every client, so that the promise holds against the
            server and everybody else; for records. "server": the server, which sees everything; for
            clients. "distributed": all clients together, so that sums over them are noisy enough
            for the promise to hold against the server too; only under secure aggregation, which
            hides what is less noisy than the sum. The usual one of the unit if None.
        overlap: "disjoint" where a person's record is at one client only. "overlapping" where it
            can be at all of them: each client then gets a K-th of ε and δ.
        statistics: Share of the budget for range, histograms and counts, in (0, 0.9].
        adaptive_clip: Of clients: whether max_grad_norm follows the median norm of the updates.
        colluding: Of distributed noise: clients that may tell the server theirs, at most. None for
            a third of them, rounded down, with whom secure aggregation itself still holds.
        bands: Of clients: DP-FTRL, for clients that cannot be sampled at random: noise that is
            correlated over so many rounds, in each of which another part of the clients takes part.
        insist: Go on where so few clients make the noise larger than what it hides.
        ledger: Of a client: file in which it keeps all releases of all runs.
        budget: Of a client: ε that all runs in this file together may cost.

    Raises:
        PlanError: One is impossible, or two contradict each other.
    """

    epsilon: float
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    unit: str = "record"
    trust: str | None = None
    overlap: str = "disjoint"
    statistics: float = 0.15
    colluding: int | None = None
    adaptive_clip: bool = False
    bands: int = 1
    insist: bool = False
    ledger: str | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        _check_number("epsilon", self.epsilon, LARGEST_EPSILON, "a smaller one")
        _check_number("delta", self.delta, 1.0, "1e-5, or less for a large table", below=True)
        _check_number("max_grad_norm", self.max_grad_norm, math.inf, "1.0")
        _check_number("statistics", self.statistics, 0.9, "0.15")
        if self.budget is not None:
            _check_number("budget", self.budget, math.inf, "the ε of all runs together")
        _check_choice("unit", self.unit, UNITS)
        if self.trust is None:
            object.__setattr__(self, "trust", _USUAL[self.unit])
        _check_choice("trust", self.trust, TRUSTS)
        _check_choice("overlap", self.overlap, OVERLAPS)
        _check_whole("bands", self.bands, 1)
        if self.colluding is not None:
            _check_whole("colluding", self.colluding, 0)
        for name in ("adaptive_clip", "insist"):
            if not isinstance(getattr(self, name), bool):
                raise PlanError(f"{name} must be true or false", got=_named(getattr(self, name)))
        if self.ledger is not None and not (isinstance(self.ledger, str) and self.ledger):
            raise PlanError("ledger must be the name of a file", got=_named(self.ledger))
        self._check_together()

    def _check_together(self) -> None:
        """Refuse what nothing enforces."""
        if self.unit == "record" and self.trust == "server":
            raise PlanError(
                "records are hidden by noise at the client; nothing adds it at the server",
                got='unit "record" and trust "server"',
                do='use trust "local" or "distributed", or unit "client"',
            )
        if self.unit == "client" and self.trust == "local":
            raise PlanError(
                "a client that hides all of itself in noise of its own tells nothing",
                got='unit "client" and trust "local"',
                do='use trust "server" or "distributed", or unit "record"',
            )
        if self.trust == "distributed":
            self._check_distributed()
        elif self.colluding is not None:
            raise PlanError(
                "colluding is about noise that clients add together",
                got=f'trust "{self.trust}"',
                do='leave it out, or use trust "distributed"',
            )
        if self.unit == "record" and (self.adaptive_clip or self.bands > 1):
            raise PlanError(
                "adaptive_clip and bands are about clients' updates",
                got='unit "record"',
                do='leave them out, or use unit "client"',
            )
        if self.adaptive_clip and self.bands > 1:
            raise PlanError(
                "correlated noise is made for one norm in all rounds",
                got=f"adaptive_clip and {self.bands} bands",
                do="leave one of them out",
            )
        if self.unit == "client" and (self.ledger or self.budget or self.overlap != "disjoint"):
            raise PlanError(
                "ledger, budget and overlap are about records",
                got='unit "client"',
                do="leave them out",
            )
        if self.budget is not None and self.ledger is None:
            raise PlanError("a budget over several runs needs a ledger", do="name its file")

    def _check_distributed(self) -> None:
        """Refuse what shares of noise do not cover."""
        if self.adaptive_clip or self.bands > 1:
            raise PlanError(
                "noise that clients add together is made for one norm, anew in every round",
                got="adaptive_clip" if self.adaptive_clip else f"{self.bands} bands",
                do='leave it out, or use trust "server"',
            )
        if self.unit == "record" and self.overlap != "disjoint":
            raise PlanError(
                "of somebody with records at several clients, one sum tells more than noise that "
                "they add together covers",
                got=f'overlap "{self.overlap}" and trust "distributed"',
                do='use trust "local"',
            )

    @property
    def needs_secure_aggregation(self) -> bool:
        """Whether it holds only where nobody sees what a single client sends."""
        return self.trust == "distributed"

    def check_secure(self, *, secure: bool) -> None:
        """Refuse noise of all together where each is seen by itself.

        Args:
            secure: Whether there is secure aggregation.

        Raises:
            PlanError: There is none, and the promise needs it.
        """
        if self.needs_secure_aggregation and not secure:
            raise PlanError(
                "noise that clients add together needs secure aggregation, without which the "
                "server sees what each of them sends",
                got='trust "distributed"',
                do=f'use secure aggregation, or trust "{_USUAL[self.unit]}"',
            )

    def honest(self, clients: int, present: int | None = None) -> int:
        """Clients in a sum whose noise nobody but they knows, at least.

        Args:
            clients: Asked for the sum.
            present: Of them, without whom nothing is revealed; all of them if None.

        Raises:
            PlanError: Nobody would be left.
        """
        colluding = clients // 3 if self.colluding is None else self.colluding
        left = (clients if present is None else present) - colluding
        if left < 1:
            raise PlanError(
                "with so few clients in a sum, all of them might tell their noise",
                got=f"{left + colluding} of {clients} clients, {colluding} of them colluding",
                do="promise to fewer colluding ones, or have more clients",
            )
        return left

    @classmethod
    def parse(cls, privacy: Mapping[str, Any] | None) -> Privacy | None:
        """What an argument ``privacy=`` says; None where nothing is promised.

        Args:
            privacy: ``{"differential_privacy": {"epsilon": 1.0, "delta": 1e-5, …}}``.

        Raises:
            PlanError: It says something else. A promise that is not understood is never left out.
        """
        if privacy is None:
            return None
        if not isinstance(privacy, Mapping) or set(privacy) != {"differential_privacy"}:
            raise PlanError(
                "privacy must be {'differential_privacy': {'epsilon': …, 'delta': …}}",
                got=_named(privacy),
                do="write it so, or leave it out",
            )
        given = privacy["differential_privacy"]
        if not isinstance(given, Mapping):
            raise PlanError("differential_privacy must map names to values", got=_named(given))
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise PlanError(
                    f"differential_privacy has no {_word(name)}",
                    do=nearest_names(str(name), known),
                )
        given = {name: value for name, value in given.items() if value is not None}
        if "epsilon" not in given:
            raise PlanError("a promise of differential privacy needs an epsilon", do="choose one")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """What `parse` reads, as JSON values; nothing that only this client's owner may know."""
        values = dataclasses.asdict(self)
        del values["ledger"], values["budget"]
        if self.colluding is None:  # which earlier versions did not know of
            del values["colluding"]
        return {"differential_privacy": values}

    def among(self, clients: int) -> Privacy:
        """The promise of one of some clients, such that theirs together are this one.

        A person in all of K tables is protected by K promises; they add up (Dwork and Roth 2014,
        theorem 3.16). Of a person in one table only, by one.
        """
        if self.overlap == "disjoint":
            return self
        return dataclasses.replace(self, epsilon=self.epsilon / clients, delta=self.delta / clients)

    def by_itself(self) -> Privacy:
        """What a client promises where the plan promises nothing: others then add no noise."""
        if not self.needs_secure_aggregation:
            return self
        return dataclasses.replace(self, trust="local", colluding=None)

    def stricter(self, plans: Privacy) -> Privacy:
        """A client's own promise and its plan's as one that keeps both, all about records.

        Shares of noise count on those of the others, who know the plan alone. So a client adds its
        share only if that suffices for its own promise as well; else all of the noise, and then no
        less than the share that the others count on.
        """
        found = dataclasses.replace(
            self,
            epsilon=min(self.epsilon, plans.epsilon),
            delta=min(self.delta, plans.delta),
            max_grad_norm=min(self.max_grad_norm, plans.max_grad_norm),
            ledger=self.ledger or plans.ledger,
            budget=plans.budget if self.budget is None else self.budget,
        )
        if self.trust == plans.trust == "local":
            return found
        if (
            self.trust == plans.trust
            and self.epsilon >= plans.epsilon
            and self.delta >= plans.delta
            and self.colluding == plans.colluding
        ):
            return dataclasses.replace(found, statistics=plans.statistics)
        statistics = min(self.statistics, plans.statistics)
        return dataclasses.replace(found.by_itself(), statistics=statistics)


def rho_of(epsilon: float, delta: float) -> float:
    """ρ of zero-concentrated differential privacy that is about (ε, δ).

    From ε = ρ + 2 √(ρ ln 1/δ) (Bun and Steinke 2016, proposition 1.3). For dividing a budget only:
    what it costs is always computed from the ledger.
    """
    log = -math.log(delta)
    # The difference of the two roots, without cancelling all digits of a small ε.
    return (epsilon / (math.sqrt(log + epsilon) + math.sqrt(log))) ** 2


def calibrated(
    spent: tuple[Event, ...],
    planned: Gaussian | SampledGaussian | SkellamSum,
    epsilon_target: float,
    delta: float,
) -> float:
    """The least noise multiplier with which planned releases stay within a target.

    By root finding on the joint cost of what was released and what is planned, so that the target
    is met and never passed.

    Args:
        spent: What was released, or is certain to be.
        planned: What is planned; its own noise multiplier does not matter.
        epsilon_target: ε of all together.
        delta: δ.

    Raises:
        PrivacyError: No noise is enough: what was released costs more already.
    """

    def together(multiplier: float) -> tuple[Event, ...]:
        return (*spent, dataclasses.replace(planned, noise_multiplier=multiplier))

    guess = _guess(planned, rho_of(epsilon_target, delta))
    return least_noise(together, guess, epsilon_target, delta)


def least_noise(
    together: Callable[[float], tuple[Event, ...]],
    guess: float,
    epsilon_target: float,
    delta: float,
) -> float:
    """The least noise multiplier with which events stay within a target: see `calibrated`.

    Args:
        together: All that was released and is planned, by the noise multiplier of what is planned.
        guess: About what it will be.
        epsilon_target: ε of all together.
        delta: δ.

    Raises:
        PrivacyError: No noise is enough: what was released costs more already.
    """

    def excess(multiplier: float) -> float:
        """ln ε - ln target."""
        return math.log(max(epsilon(together(multiplier), delta), 1e-300) / epsilon_target)

    high = guess
    above = excess(high)
    while above > 0:
        high *= STRIDE
        above = excess(high)
        if high > MOST_NOISE:
            least = epsilon(together(high), delta)
            raise PrivacyError(
                "no noise is enough to keep the promise",
                got=f"ε = {least:.3g} without the training, of {epsilon_target:g}",
                do="promise a larger epsilon, or train fewer steps",
            )
    low = high / STRIDE
    while (below := excess(low)) <= 0:
        low, high, above = low / STRIDE, low, below
        if high < LEAST_NOISE:
            return high
    # In logarithms ε is almost a line of the noise: a few steps of the false position, each a
    # little on the safe side, and bisection where that is slow.
    while above < -PRECISION and high / low > 1 + PRECISION:
        share = (below + PRECISION / 2) / (below - above)
        middle = low * (high / low) ** min(max(share, 0.1), 0.9)
        found = excess(middle)
        if found > 0:
            low, below = middle, found
        else:
            high, above = middle, found
    return high


def _guess(planned: Gaussian | SampledGaussian | SkellamSum, rho: float) -> float:
    """About the noise that costs ρ: T steps of rate q cost about T q² / 2σ² (Bun et al. 2018)."""
    match planned:
        case Gaussian(count=count) | SkellamSum(count=count):
            return math.sqrt(count / (2 * rho))
        case SampledGaussian(sample_rate=rate, steps=steps):
            return max(rate * math.sqrt(steps / (2 * rho)), LEAST_NOISE)


def _check_number(name: str, value: Any, most: float, advice: str, *, below: bool = False) -> None:
    """Raise PlanError unless value is a number in (0, most], or (0, most) if below."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # An int may be too large for a float, and is compared with one nevertheless.
    if not number or not 0 < value <= min(most, 1e300) or (below and value == most):
        limit = "" if most == math.inf else f" and {'below' if below else 'at most'} {most:g}"
        raise PlanError(
            f"{name} of differential privacy must be a number above 0{limit}",
            got=_named(value),
            do=f"choose {advice}",
        )


def _check_whole(name: str, value: Any, least: int) -> None:
    """Raise PlanError unless value is a whole number of at least least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PlanError(f"{name} must be a whole number of at least {least}", got=_named(value))


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise PlanError(f"{name} must be a word", got=f"a {type(value).__name__}")
    if value not in known:
        raise PlanError(
            f"unknown {name} {value!r} of differential privacy", do=nearest_names(value, known)
        )


def _named(value: Any) -> str:
    """What somebody gave, in a few words: a number, the keys of a mapping, or its type."""
    if isinstance(value, Mapping):
        return f"keys {', '.join(map(_word, value))}" if value else "an empty mapping"
    if isinstance(value, int | float):
        return "a number of many digits" if abs(value) > 1e300 else repr(value)
    return f"a {type(value).__name__}"


def _word(name: Any) -> str:
    """A key in quotes, on one line."""
    return repr(name) if isinstance(name, str) else f"a key of type {type(name).__name__}"
