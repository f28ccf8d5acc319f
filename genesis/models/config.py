"""Configs of models: frozen dataclasses whose fields carry their own checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from genesis.errors import PlanError, nearest_names

__all__ = [
    "Check",
    "device_choice",
    "flag",
    "number",
    "option",
    "optional",
    "parse",
    "whole",
    "widths",
]

Config = TypeVar("Config")

Check = Callable[[Any], Any]
"""Returns the value as the config keeps it, or raises ValueError that says what is needed."""


def option(default: Any, check: Check) -> Any:
    """A field of a config with its default and its check."""
    return field(default=default, metadata={"check": check})


def whole(at_least: int, at_most: int | None = None) -> Check:
    """A whole number."""
    needed = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"

    def check(value: Any) -> int:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or value < at_least or (at_most is not None and value > at_most):
            raise ValueError(f"a whole number {needed}")
        return int(value)

    return check


def number(at_least: float = 0.0, *, above: float = -math.inf, below: float = math.inf) -> Check:
    """A finite number."""

    def check(value: Any) -> float:
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not real or not at_least <= value < below or value <= above:
            needed = f"above {above:g}" if above >= at_least else f"≥ {at_least:g}"
            raise ValueError(
                f"a number {needed}" + ("" if below == math.inf else f" and < {below:g}")
            )
        return float(value)

    return check


def optional(check: Check) -> Check:
    """None, or what another check accepts."""
    return lambda value: None if value is None else check(value)


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def device_choice(value: Any) -> bool | str | None:
    """True, false, the name of a device, or None."""
    if value is not None and not isinstance(value, bool | str):
        raise ValueError("true, false or the name of a device")
    return value


def widths(at_least: int) -> Check:
    """Widths of the hidden layers, at least so many of them."""
    needed = f"a list of {f'at least {at_least} ' if at_least else ''}whole numbers"

    def check(value: Any) -> tuple[int, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(needed)
        try:
            checked = tuple(whole(1)(width) for width in value)
        except ValueError:
            raise ValueError(f"{needed}, each at least 1") from None
        if len(checked) < at_least:
            raise ValueError(needed)
        return checked

    return check


def parse(cls: type[Config], config: Mapping[str, Any], model: str) -> Config:
    """Build a config dataclass from a mapping.

    Args:
        cls: A dataclass whose fields are made by `option`.
        config: What the user chose; the other fields keep their defaults.
        model: Name of the model, for the messages.

    Raises:
        PlanError: A key is unknown, or a value is not what its field needs.
    """
    if not isinstance(config, Mapping):
        raise PlanError("config must map names to values", got=repr(config), do="pass a dict")
    checks = {f.name: f.metadata["check"] for f in fields(cls)}  # type: ignore[arg-type]
    chosen = {}
    for key, value in config.items():
        if key not in checks:
            raise PlanError(f"{model} has no option '{key}'", do=nearest_names(key, checks))
        try:
            chosen[key] = checks[key](value)
        except ValueError as needed:
            raise PlanError(
                f"option '{key}' of {model} needs {needed}", got=repr(value), do="change it"
            ) from None
    return cls(**chosen)
