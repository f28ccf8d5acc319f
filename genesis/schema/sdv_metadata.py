"""Columns as SDV's metadata of one table, and back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from genesis.errors import SchemaError
from genesis.schema.column import Column, Kind
from genesis.schema.keys import ANY_TEXT, literal_token, shape_tokens

if TYPE_CHECKING:
    from sdv.metadata import Metadata

__all__ = ["columns_of_metadata", "metadata_of_columns"]

_SDTYPES = {
    Kind.NUMERIC: "numerical",
    Kind.CATEGORICAL: "categorical",
    Kind.BOOLEAN: "boolean",
    Kind.DATETIME: "datetime",
    Kind.ID: "id",
}
_REGEXES = {"9": "[0-9]", "A": "[A-Z]", "a": "[a-z]"}
_HEX = "[0-9a-f]"
_UUID_REGEX = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"


def metadata_of_columns(columns: Iterable[Column]) -> Metadata:
    """SDV's metadata of a table, called "table", that has these columns."""
    from sdv.metadata import Metadata  # seconds, which only those wait for who want it

    entries = {column.name: _to_sdv(column) for column in columns}
    return Metadata.load_from_dict({"tables": {"table": {"columns": entries}}})


def columns_of_metadata(metadata: Metadata, public_ranges: bool) -> Iterator[Column]:
    """The columns of the one table that metadata describes.

    Args:
        metadata: The metadata.
        public_ranges: Take its ranges and categories as public ones.

    Raises:
        SchemaError: It has no table, or several.
    """
    tables = metadata.to_dict()["tables"]
    if len(tables) != 1:
        raise SchemaError(
            "the metadata is not that of one table",
            got=f"{len(tables)} tables",
            do="keep one, with metadata.remove_table",
        )
    (table,) = tables.values()
    for name, entry in table["columns"].items():
        yield Column.from_dict(_from_sdv(name, entry, public_ranges))


def _to_sdv(column: Column) -> dict[str, Any]:
    """A column in SDV's words."""
    kind = column.of or column.kind
    if column.undecided:
        return {"sdtype": "unknown", "pii": False, "range_is_nullable": True}
    entry: dict[str, Any] = {"sdtype": _SDTYPES[kind], "range_is_nullable": column.nulls}
    if kind is Kind.ID and column.format != "integer":
        entry["regex_format"] = _regex(column.format or ANY_TEXT)
    if kind is Kind.DATETIME and column.format:
        entry["datetime_format"] = column.format
    if kind is Kind.NUMERIC and column.decimals is not None:
        entry["decimal_places"] = column.decimals
    if kind is Kind.CATEGORICAL and column.categories:
        entry["range_values"] = list(column.categories)
    if kind is Kind.NUMERIC:
        bounds = {"range_min": column.lower, "range_max": column.upper}
        entry |= {key: bound for key, bound in bounds.items() if bound is not None}
    return entry


def _from_sdv(name: str, entry: Mapping[str, Any], public_ranges: bool) -> dict[str, Any]:
    """A column of SDV as an entry of a schema file."""
    kind = {sdtype: kind for kind, sdtype in _SDTYPES.items()}.get(entry["sdtype"], Kind.ID)
    values = entry.get("range_values")
    if entry["sdtype"] == "ordinal":
        kind = Kind.CATEGORICAL
    if kind is Kind.CATEGORICAL and values and all(isinstance(v, bool) for v in values):
        kind = Kind.BOOLEAN
    # SDV allows nulls where it does not say otherwise.
    found = {"name": name, "kind": str(kind), "nulls": entry.get("range_is_nullable", True)}
    if kind is Kind.ID:
        text = entry["sdtype"] != "id" or "regex_format" in entry
        found["format"] = _shape_of_regex(entry.get("regex_format", "")) if text else "integer"
    if kind is Kind.NUMERIC and "decimal_places" in entry:
        found["decimals"] = entry["decimal_places"]
    if entry.get("datetime_format"):
        found["format"] = entry["datetime_format"]
    if public_ranges and kind in (Kind.NUMERIC, Kind.DATETIME):
        places = {"lower": entry.get("range_min"), "upper": entry.get("range_max")}
        found |= {key: bound for key, bound in places.items() if bound is not None}
    if public_ranges and kind is Kind.CATEGORICAL and values:
        found["categories"] = values
    return found


def _regex(shape: str) -> str:
    """The regular expression of a shape of keys."""
    if shape == "uuid":
        return _UUID_REGEX
    runs = ((token, len(list(run))) for token, run in itertools.groupby(shape_tokens(shape)))
    return "".join(
        _REGEXES.get(token, re.escape(token[-1])) + (f"{{{n}}}" if n > 1 else "")
        for token, n in runs
    )


def _shape_of_regex(regex: str) -> str:
    """The shape of keys that a regular expression means, any text if it is not a simple one."""
    if regex == _UUID_REGEX:
        return "uuid"
    part = r"(\[0-9\]|\\d|\[A-Z\]|\[a-z\]|\\\W|[^][\\.^$*+?{}()|])(?:\{(\d+)\})?"
    if not re.fullmatch(f"(?:{part})+", regex):
        return ANY_TEXT
    tokens = {regex: token for token, regex in _REGEXES.items()} | {r"\d": "9"}
    return "".join(
        tokens.get(found, literal_token(found[-1])) * int(n or 1)
        for found, n in re.findall(part, regex)
    )
