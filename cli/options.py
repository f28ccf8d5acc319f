"""Options that several commands share, and the kinds of value that they take."""

from __future__ import annotations

import csv
import shlex
import tomllib
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import click

__all__ = ["SETTING", "WORDS", "option", "table_argument", "training_options"]


class Option(click.Option):
    """An option that can also come from the environment: --batch-size from GENESIS_BATCH_SIZE."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        longest = max(self.opts, key=len)
        self.envvar = "GENESIS_" + longest.lstrip("-").replace("-", "_").upper()


option = partial(click.option, cls=Option)


class Words(click.ParamType):
    """Words between commas; one that holds a comma is quoted as in CSV."""

    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(next(csv.reader([value], skipinitialspace=True, strict=True), ()))
        except csv.Error:
            self.fail(f"'{value}' is not a list like a,b or 'a,\"b, c\"'", param, ctx)

    def split_envvar_value(self, rv: str) -> tuple[str]:
        """One list, although the option can be repeated."""
        return (rv,)


class Setting(click.ParamType):
    """KEY=VALUE, where VALUE is a TOML value (30, 0.5, true, [256, 256]) or else a string."""

    name = "setting"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not (key and equals):
            self.fail(f"'{value}' is not of the form KEY=VALUE", param, ctx)
        literal = text.lower() if text.lower() in {"true", "false"} else text
        try:
            return key, tomllib.loads(f"value = {literal}")["value"]
        except tomllib.TOMLDecodeError:
            return key, text

    def split_envvar_value(self, rv: str) -> list[str]:
        """Several settings, quoted as in a shell."""
        return shlex.split(rv)


WORDS = Words()
SETTING = Setting()

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

table_argument = partial(click.argument, type=click.Path(path_type=Path), metavar="TABLE")


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `fit` and `federated simulate` have in common."""
    options: list[Decorator] = [
        option("--method", default="ctgan", show_default=True, help="Model: ctgan or tvae."),
        option("--epochs", type=int, help="Passes over the rows, in all. [default: the model's]"),
        option("--batch-size", type=int, help="Rows of a step. [default: follows the table]"),
        option(
            "--config",
            type=SETTING,
            multiple=True,
            metavar="KEY=VALUE",
            help="Argument of the model, such as generator_lr=1e-4; repeatable.",
        ),
        option(
            "--schema",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Kinds of the columns, as written by 'genesis schema'. [default: inferred]",
        ),
        discrete_columns,
        max_categories,
        option(
            "--device", default="auto", show_default=True, help="Where to train: auto, cpu or cuda."
        ),
        option("--seed", type=int, help="Makes a run repeatable. [default: drawn]"),
    ]
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(options), command)
