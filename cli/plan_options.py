"""The choices of a plan as options, for every command that starts a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

import genesis
from genesis.federated.plan import Plan, read_choices

from . import options
from .privacy_options import gather_privacy, privacy_options
from .secure_options import secure_aggregation

__all__ = ["gather_choices", "plan_options"]

JOINED = (
    "config",
    "aggregation_options",
    "discrete_columns",
    "privacy",
    "secure_aggregation",
)  # options that are given in parts


def _read_plan(ctx: click.Context, _: click.Parameter, path: Path | None) -> dict[str, Any]:
    """The choices of a plan file, as defaults of the options that are named like them.

    So the command line goes before the environment, that before the plan, and that before what
    is usual.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise genesis.PlanError(f"the plan {path} cannot be read", got=got) from error
    Plan.from_toml(text)  # a wrong plan is wrong even where the command line goes before it
    choices = read_choices(text)
    ctx.default_map = {name: value for name, value in choices.items() if name not in JOINED}
    return choices


def plan_options(min_clients: int = Plan.min_clients) -> Callable[[Any], Any]:
    """All of them, for a command that passes what it receives to `gather_choices`.

    Args:
        min_clients: What is usual.
    """
    listed = [
        options.option(
            "--plan",
            type=options.FILE,
            metavar="FILE",
            is_eager=True,
            callback=_read_plan,
            help="TOML file with these choices, named as the arguments of FederatedSynthesizer.",
        ),
        options.method,
        options.whole(
            "--rounds",
            "n_rounds",
            help="Rounds of training and averaging. [default: 10, or the model's]",
        ),
        options.epochs,
        options.whole(
            "--local-epochs", help="Epochs of a client in a round. [default: epochs / rounds]"
        ),
        options.batch_size,
        options.number("--learning-rate", help="Learning rate. [default: the model's]"),
        options.config,
        options.text(
            "--aggregation",
            default=str(Plan.aggregation),
            help="Rule that makes one model of many: fedavg, weighted, fedprox, median, …",
        ),
        options.option(
            "--aggregation-options",
            type=options.SETTING,
            multiple=True,
            metavar="KEY=VALUE",
            help="Option of that rule, such as server_learning_rate=0.1; repeatable.",
        ),
        options.number("--proximal-mu", help="Strength of fedprox."),
        options.whole("--min-clients", default=min_clients, help="Clients that every round needs."),
        options.number(
            "--client-fraction",
            default=Plan.client_fraction,
            help="Share of the clients in a round.",
        ),
        options.text(
            "--lr-schedule",
            default=Plan.lr_schedule,
            help="Learning rate over the rounds: constant, cosine or step.",
        ),
        options.number("--max-grad-norm", help="Largest norm of a client's update in a round."),
        options.option(
            "--clip-per-layer", is_flag=True, help="Clip each layer instead of the whole."
        ),
        options.text(
            "--synchronize",
            default=Plan.synchronize,
            help="What is averaged: both, generator or discriminator.",
        ),
        options.whole(
            "--sync-every", default=Plan.sync_every, help="Rounds from one averaging to the next."
        ),
        options.schema,
        options.discrete_columns,
        options.max_categories,
        privacy_options(unit=True),
        secure_aggregation("The server learns sums of the clients' updates and nothing else."),
        options.whole(
            "--secure-aggregation-bits",
            default=Plan.secure_aggregation_bits,
            help="Of a number in those sums: 32 or 24, which is less to send.",
        ),
    ]
    return lambda command: reduce(lambda made, add: add(made), reversed(listed), command)


def gather_choices(
    plan: dict[str, Any],
    *,
    epochs: int | None,
    config: tuple[tuple[str, Any], ...],
    aggregation_options: tuple[tuple[str, Any], ...],
    discrete_columns: tuple[tuple[str, ...], ...],
    epsilon: float | None,
    delta: float | None,
    privacy: tuple[tuple[str, Any], ...],
    privacy_unit: str | None,
    secure_aggregation: str | None,
    **choices: Any,
) -> dict[str, Any]:
    """The arguments of `Plan`, of a plan file and the options of a command line."""
    choices = plan | choices
    choices["config"] = plan.get("config", {}) | dict(config)
    if epochs is not None:
        choices["config"]["epochs"] = epochs
    choices["aggregation_options"] = plan.get("aggregation_options", {}) | dict(aggregation_options)
    if discrete_columns:
        choices["discrete_columns"] = options.split_columns(discrete_columns)
    promise = gather_privacy(
        epsilon=epsilon,
        delta=delta,
        privacy=privacy,
        privacy_unit=privacy_unit,
        plan=plan.get("privacy"),
    )
    if promise is not None:
        choices["privacy"] = promise
    if secure_aggregation is not None:
        choices["secure_aggregation"] = secure_aggregation
        choices.pop("encryption", None)  # the plan's word for the same
    return choices
