"""Options that several commands share, and the kinds of value that they take."""

from __future__ import annotations

import csv
import shlex
import tomllib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click

__all__ = [
    "FILE",
    "batch_size",
    "config",
    "device",
    "discrete_columns",
    "epochs",
    "fixed_seed",
    "max_categories",
    "method",
    "number",
    "option",
    "output",
    "quiet",
    "report",
    "schema",
    "seed",
    "split_columns",
    "stream",
    "table",
    "text",
    "whole",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Option(click.Option):
    """An option that can also come from the environment: --batch-size from GENESIS_BATCH_SIZE."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.envvar = "GENESIS_" + self.opts[0].lstrip("-").replace("-", "_").upper()


option = partial(click.option, cls=Option)
text = partial(option, metavar="NAME", show_default=True)
whole = partial(option, type=int, metavar="N", show_default=True)
number = partial(option, type=float, metavar="X", show_default=True)
table = partial(option, type=click.Path(path_type=Path), metavar="TABLE")


class Words(click.ParamType[tuple[str, ...]]):
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


class Setting(click.ParamType[tuple[str, Any]]):
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
FILE = click.Path(path_type=Path)

method = text(
    "--method",
    default="ctgan",
    help="Model: ctgan, tvae, mixture, circuit, copula, marginals, or auto for what suits best.",
)
epochs = whole("--epochs", help="Passes over the rows, in all. [default: the model's]")
batch_size = whole("--batch-size", help="Rows of a step. [default: 500, in a small shard fewer]")
config = option(
    "--config",
    type=SETTING,
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of the model, such as embedding_dim=64; repeatable.",
)
schema = option(
    "--schema",
    type=FILE,
    metavar="FILE",
    help="Kinds of the columns, from 'genesis schema'. [default: inferred]",
)
discrete_columns = option(
    "--discrete-columns",
    type=WORDS,
    multiple=True,
    metavar="A,B",
    help="Columns to take as categories, whatever they look like; repeatable.",
)
max_categories = whole(
    "--max-categories",
    default=1000,
    help="Categories of a column with a slot of their own; the rest share one.",
)
device = text("--device", default="auto", help="Where to compute: auto, cpu or cuda.")
seed = whole("--seed", help="Makes the result repeatable. [default: drawn]")
fixed_seed = whole("--seed", default=0, help="Decides whatever is drawn.")
report = option(
    "--report", type=FILE, metavar="FILE", help="Page to write: one HTML file that opens offline."
)
quiet = option("--quiet", is_flag=True, help="Show nothing but results and errors.")


def output(metavar: str, help_text: str) -> Decorator:
    """Where the result goes; every command that computes for long needs to be told."""
    return option("--output", type=FILE, required=True, metavar=metavar, help=help_text)


def stream(what: str) -> Decorator:
    """Whether tables are read in blocks."""
    return option(
        "--stream",
        is_flag=True,
        help=f"Read {what} in blocks, for more rows than memory holds; needs --schema, and a model "
        "that is fitted from sums.",
    )


def split_columns(given: Iterable[Iterable[str]]) -> list[str]:
    """The columns of a repeated --discrete-columns, each once."""
    return list(dict.fromkeys(chain.from_iterable(given)))
