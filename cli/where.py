"""`--where column=value`: conditions on generated rows, as text."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from genesis.errors import ConditionError

if TYPE_CHECKING:
    from genesis.schema import Schema

__all__ = ["CONDITION", "read_conditions"]


class Condition(click.ParamType[str]):
    """COLUMN=VALUE, left as it is: only the model's schema tells what it means."""

    name = "condition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "=" not in value:
            self.fail(f"'{value}' is not of the form COLUMN=VALUE", param, ctx)
        return str(value)

    def split_envvar_value(self, rv: str) -> list[str]:
        """Several conditions, quoted as in a shell."""
        return shlex.split(rv)


CONDITION = Condition()


def read_conditions(texts: Iterable[str], schema: Schema) -> dict[str, Any]:
    """Conditions as `Synthesizer.generate` takes them.

    ``age=30..40`` is a range of numbers or dates, and open without one of its ends;
    ``sex=Female,Male`` is any of several values, quoted as in CSV where they hold commas;
    ``age=`` is null.

    Args:
        texts: COLUMN=VALUE, one a column.
        schema: What the columns are.

    Raises:
        ConditionError: A column comes twice.
    """
    from genesis.schema import Kind

    where: dict[str, Any] = {}
    for text in texts:
        column, value = _split(text, schema)
        if column in where:
            raise ConditionError(
                f"column '{column}' has two conditions", do="join them: a,b or low..high"
            )
        ordered = column in schema and schema[column].kind in (Kind.NUMERIC, Kind.DATETIME)
        if ordered and ".." in value:
            low, _, high = value.partition("..")
            where[column] = (low or None, high or None)
        else:
            cells = next(csv.reader([value], skipinitialspace=True), []) or [""]
            values = [cell or None for cell in cells]
            where[column] = values if len(values) > 1 else values[0]
    return where


def _split(text: str, schema: Schema) -> tuple[str, str]:
    """Column and value; a column's name may itself hold an equals sign."""
    ends = [place for place, sign in enumerate(text) if sign == "="]
    end = next((place for place in ends if text[:place] in schema), ends[0])
    return text[:end], text[end + 1 :]
