"""Handlers: plain functions that receive, of all there is to know, what their signature names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from inspect import Parameter
from typing import Any, TypeVar

from genesis.errors import PlanError, nearest_names
from genesis.federated.callbacks import RoundReport, Run

__all__ = ["ROUND_NAMES", "call_with_named", "check_handler", "round_arguments"]

Result = TypeVar("Result")

ROUND_NAMES = (
    "round_num",
    "n_rounds",
    "metrics",
    "n_clients",
    "clients",
    "failed",
    "dropped",
    "seconds",
    "report",
    "run",
)
"""What a handler of a complete round can name: fields of `RoundReport` and the `Run`."""

_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def round_arguments(run: Run, report: RoundReport) -> dict[str, Any]:
    """The values of `ROUND_NAMES`."""
    return {
        "round_num": report.round_num,
        "n_rounds": report.n_rounds,
        "metrics": dict(report.metrics),
        "n_clients": len(report.clients),
        "clients": report.clients,
        "failed": dict(report.failed),
        "dropped": report.dropped,
        "seconds": report.seconds,
        "report": report,
        "run": run,
    }


def call_with_named(function: Callable[..., Result], /, **available: Any) -> Result:
    """Call function with those of the available arguments that its signature names.

    A parameter ``**kwargs`` receives all of them; one that is not available keeps its default.

    Raises:
        PlanError: The signature requires a name that is not available.
    """
    check_handler(function, available)
    parameters = _parameters(function)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return function(**available)
    wanted = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
    return function(**{name: value for name, value in available.items() if name in wanted})


def check_handler(function: Callable[..., Any], names: Iterable[str]) -> None:
    """Refuse a handler that could not be called, before anything has run.

    Raises:
        PlanError: It is no function, or its signature requires a name that is not among names.
    """
    names = list(names)
    for parameter in _parameters(function):
        variadic = parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        if variadic or parameter.default is not Parameter.empty:
            continue
        if parameter.name not in names or parameter.kind not in _BY_NAME:
            raise PlanError(
                f"the handler {_name(function)} asks for '{parameter.name}', which it is not given",
                do=nearest_names(parameter.name, names),
            )


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a handler."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise PlanError(
            f"the handler {_name(function)} is not a function with named arguments",
            do="define it with def",
        ) from None


def _name(function: object) -> str:
    """How an error calls a handler."""
    return getattr(function, "__name__", type(function).__name__)
