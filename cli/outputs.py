"""What a command writes: looked at before work begins, and never seen half."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis.errors import DataError

if TYPE_CHECKING:
    from genesis import Report

__all__ = ["check_outputs", "say", "say_method", "write_json", "write_report"]


def check_outputs(
    inputs: Iterable[Path],
    *,
    tables: Iterable[Path | None] = (),
    files: Iterable[Path | None] = (),
    folders: Iterable[Path | None] = (),
) -> None:
    """Make sure that everything can be written that the work is for.

    Args:
        inputs: Files that are read, and so must not be written.
        tables: Tables to be; None stands for one that is not wanted.
        files: Other files to be.
        folders: Folders to be made, or to be written in.

    Raises:
        DataError: A folder is missing, a name says no known format, or a file has two uses.
    """
    from genesis.tables import check_output  # here, because it brings pandas

    taken = {path.resolve() for path in inputs}
    for suffixes, paths in ({}, tables), ({"suffixes": None}, files):
        for path in filter(None, paths):
            check_output(path, **suffixes)
            if path.resolve() in taken:
                raise DataError(
                    f"cannot write {path}",
                    got="a file that this command uses already",
                    do="choose another name",
                )
            taken.add(path.resolve())
    for folder in filter(None, folders):
        check_output(folder / "file" if folder.is_dir() else folder, suffixes=None)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON.

    Raises:
        DataError: The disk refuses.
    """
    from genesis.tables import replace_file

    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_report(found: Report, *, page: Path | None, json: Path | None) -> None:
    """Write the page and the scores of an evaluation or an audit, whichever is wanted.

    Raises:
        DataError: The disk refuses.
    """
    if page is not None:
        found.save(page)
    if json is not None:
        write_json(json, found.to_dict())


def say(text: str, *, quiet: bool) -> None:
    """Tell the user something that is not the result: on stderr."""
    if not quiet:
        click.echo(text, err=True)


def say_method(asked: str, method: str, privacy: Mapping[str, Any] | None, *, quiet: bool) -> None:
    """Say which method "auto" is, and that another one is better under a promise, if it is."""
    from genesis.models.choosing import AUTO, advice  # here, because help texts come without them
    from genesis.privacy.budget import Privacy

    if asked == AUTO:
        say(f"method {method}", quiet=quiet)
    told = advice(method, Privacy.parse(privacy))
    if told is not None:
        say(told, quiet=quiet)
