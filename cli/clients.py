"""Which table is whose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from genesis.errors import DataError

__all__ = ["name_clients"]


def name_clients(tables: Sequence[Path]) -> dict[str, Path]:
    """Client id -> table: the name of the file, with its folder where two would be the same.

    Raises:
        DataError: A file is given twice.
    """
    places = [path.resolve() for path in tables]
    place, count = Counter(places).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"{tables[places.index(place)]} is given {count} times", do="name each table once"
        )
    names = [_stem(path) for path in places]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{_stem(path)}" for path in places]
    if len(set(names)) < len(names):
        names = [str(path) for path in tables]
    return dict(zip(names, tables, strict=True))


def _stem(path: Path) -> str:
    """The name of a table's file, without what says its format."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name
