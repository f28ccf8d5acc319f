"""What was released about private data, as data: the entries of a ledger.

An event says which mechanism ran and with how much noise; never what came out of it. What it costs
is computed from it by `accounting`, when somebody asks. All events are about one unit (a record, or
a client with all of its records) and about adding or removing it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeAlias

from genesis.errors import PrivacyError

__all__ = [
    "Composed",
    "Event",
    "Gaussian",
    "SampledGaussian",
    "Skellam",
    "SkellamSum",
    "Threshold",
    "event_from_dict",
    "event_to_dict",
    "repeated",
    "times",
]


@dataclass(frozen=True)
class Gaussian:
    """Vectors of a bounded L2 norm a unit, each released with normal noise.

    Args:
        noise_multiplier: Standard deviation of the noise over the most that one unit changes.
        count: Vectors released so.
        purpose: What for, in words.
    """

    kind: ClassVar[str] = "gaussian"
    noise_multiplier: float
    count: int = 1
    purpose: str = ""

    def __post_init__(self) -> None:
        _require_positive(self, "noise_multiplier", self.noise_multiplier)
        _require_count(self, "count", self.count)


@dataclass(frozen=True)
class SampledGaussian:
    """The same on Poisson samples: every unit is in a sample with chance sample_rate, by itself.

    Args:
        noise_multiplier: Standard deviation of the noise over the most that one unit changes.
        sample_rate: In (0, 1].
        steps: Samples taken.
        purpose: What for, in words.
        sampling: "poisson". Shuffled or fixed batches have other costs, which nothing here knows.
    """

    kind: ClassVar[str] = "sampled_gaussian"
    noise_multiplier: float
    sample_rate: float
    steps: int
    purpose: str = ""
    sampling: str = "poisson"

    def __post_init__(self) -> None:
        _require_positive(self, "noise_multiplier", self.noise_multiplier)
        _require_share(self, "sample_rate", self.sample_rate)
        _require_count(self, "steps", self.steps)
        if self.sampling != "poisson":
            raise PrivacyError(
                "the cost of a step is known for Poisson samples only",
                got=f"sampling {self.sampling!r}",
                do="let every record join each batch by a chance of its own",
            )


@dataclass(frozen=True)
class Skellam:
    """Vectors of counts, of which one unit changes one by one, released with Skellam noise.

    Args:
        deviation: Standard deviation of the noise, in counts.
        count: Vectors released so.
        purpose: What for, in words.
    """

    kind: ClassVar[str] = "skellam"
    deviation: float
    count: int = 1
    purpose: str = ""

    def __post_init__(self) -> None:
        _require_positive(self, "deviation", self.deviation)
        _require_count(self, "count", self.count)


@dataclass(frozen=True)
class SkellamSum:
    """Vectors of whole numbers, of a bounded change a unit, released with Skellam noise.

    Args:
        noise_multiplier: Standard deviation of the noise over l2.
        l2: The most that one unit changes, in the L2 norm.
        l1: The same in the L1 norm, at least l2: noise of whole numbers costs a little by it.
        count: Vectors released so.
        purpose: What for, in words.
    """

    kind: ClassVar[str] = "skellam_sum"
    noise_multiplier: float
    l2: float
    l1: float
    count: int = 1
    purpose: str = ""

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "l2", "l1"):
            _require_positive(self, name, getattr(self, name))
        if self.l1 < self.l2:
            raise PrivacyError("l1 of SkellamSum is at least its l2", got=repr(self.l1))
        _require_count(self, "count", self.count)


@dataclass(frozen=True)
class Threshold:
    """Sets of labels: those whose count, with normal noise, is above a threshold.

    Args:
        deviation: Standard deviation of the noise, in counts.
        delta: The most likely that a label which one unit alone has is released, in (0, 1).
        count: Sets released so.
        purpose: What for, in words.
    """

    kind: ClassVar[str] = "threshold"
    deviation: float
    delta: float
    count: int = 1
    purpose: str = ""

    def __post_init__(self) -> None:
        _require_positive(self, "deviation", self.deviation)
        _require_share(self, "delta", self.delta)
        if self.delta == 1:
            raise PrivacyError("delta of Threshold must be below 1")
        _require_count(self, "count", self.count)


@dataclass(frozen=True)
class Composed:
    """Several events, all of them count times.

    Args:
        events: At least one.
        count: How often all of them happened.
        purpose: What for, in words.
    """

    kind: ClassVar[str] = "composed"
    events: tuple[Event, ...]
    count: int = 1
    purpose: str = ""

    def __post_init__(self) -> None:
        _require_count(self, "count", self.count)
        if not self.events or not all(type(event) in _KINDS.values() for event in self.events):
            raise PrivacyError("a composition of what is no event", do=_UPDATE)


Event: TypeAlias = Gaussian | SampledGaussian | Skellam | SkellamSum | Threshold | Composed

_KINDS: dict[str, type[Any]] = {
    cls.kind: cls for cls in (Gaussian, SampledGaussian, Skellam, SkellamSum, Threshold, Composed)
}
_UPDATE = "read it with the version that wrote it"


def times(event: Event) -> int:
    """How many releases an event is."""
    return event.steps if isinstance(event, SampledGaussian) else event.count


def repeated(event: Event, n: int, purpose: str | None = None) -> Event:
    """The same release n times, for the same purpose or another one."""
    purpose = event.purpose if purpose is None else purpose
    if isinstance(event, SampledGaussian):
        return replace(event, steps=n, purpose=purpose)
    return replace(event, count=n, purpose=purpose)


def event_to_dict(event: Event) -> dict[str, Any]:
    """As JSON values."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Composed):
        values["events"] = [event_to_dict(each) for each in event.events]
    return {"kind": event.kind, **values}


def event_from_dict(values: Mapping[str, Any]) -> Event:
    """The inverse of `event_to_dict`.

    Raises:
        PrivacyError: It is no event that can be accounted for. An event that is not understood must
            never be left out: what is left would claim too little.
    """
    try:
        given = dict(values)
        kind = given.pop("kind")
        if kind == "composed":
            given["events"] = tuple(event_from_dict(each) for each in given["events"])
        event: Event = _KINDS[kind](**given)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PrivacyError("a release that nothing can account for", do=_UPDATE) from error
    return event


def _require_positive(event: object, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PrivacyError(f"{name} of {type(event).__name__} must be a number")
    if not 0 < value < math.inf:
        raise PrivacyError(f"{name} of {type(event).__name__} must be above 0", got=repr(value))


def _require_share(event: object, name: str, value: Any) -> None:
    _require_positive(event, name, value)
    if value > 1:
        raise PrivacyError(f"{name} of {type(event).__name__} is at most 1", got=repr(value))


def _require_count(event: Event, name: str, value: Any) -> None:
    if not isinstance(event.purpose, str):
        raise PrivacyError(f"the purpose of {type(event).__name__} must be words")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PrivacyError(f"{name} of {type(event).__name__} is at least 1", got=repr(value))
