"""The errors that Genesis raises, in one tree.

    GenesisError
    ├── DataError            rows that cannot be used: an empty file, infinities, mixed types
    ├── SchemaError          columns and kinds that do not fit: to each other, or to a schema
    ├── PlanError            choices that contradict each other or name something unknown
    ├── ConditionError       a condition on generated rows that no row can satisfy
    ├── PrivacyError         a release that a promise of privacy does not allow
    ├── TrainingError        training that cannot go on: a loss that is not finite
    ├── FederationError      too few clients, or a client that answered wrongly
    ├── ModelFileError       a model file or checkpoint that is damaged, foreign or too new
    └── MissingExtraError    an optional dependency that is not installed

Every message is one line for the person who reads it: what is wrong; what was found; what to do.
Messages never quote values of a table, because a client's error travels to the server: they name
columns, kinds, counts and row numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConditionError",
    "DataError",
    "FederationError",
    "GenesisError",
    "MissingExtraError",
    "ModelFileError",
    "PlanError",
    "PrivacyError",
    "SchemaError",
    "TrainingError",
    "nearest_names",
    "printable",
]


class GenesisError(Exception):
    """What every error of this package is.

    Args:
        what: What is wrong.
        got: What was found instead of what is needed, if that is not plain already.
        do: What the reader can do about it.
    """

    def __init__(self, what: str, *, got: str | None = None, do: str | None = None) -> None:
        self.what, self.got, self.do = what, got, do
        super().__init__("; ".join(part for part in (what, got and f"got {got}", do) if part))


class DataError(GenesisError, ValueError):
    """Rows that cannot be used."""


class SchemaError(GenesisError, ValueError):
    """Columns or kinds that do not fit."""


class PlanError(GenesisError, ValueError):
    """Choices of a run that contradict each other or name something unknown."""


class ConditionError(GenesisError, ValueError):
    """A condition that no generated row can satisfy."""


class PrivacyError(GenesisError, RuntimeError):
    """A release that a promise of privacy does not allow, or that nothing can account for."""


class TrainingError(GenesisError, RuntimeError):
    """Training that cannot go on."""


class FederationError(GenesisError, RuntimeError):
    """Too few clients, or a client that answered wrongly."""


class ModelFileError(GenesisError, ValueError):
    """A model file or checkpoint that cannot be read."""


class MissingExtraError(GenesisError, ImportError):
    """An optional dependency that is not installed."""


def nearest_names(name: str, known: Iterable[str]) -> str:
    """The advice for an unknown name: the names like it, then every known one."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = f"choose one of {', '.join(known)}"
    return f"did you mean {' or '.join(close)}? {listed}" if close else listed


def printable(text: str) -> str:
    """What somebody else wrote as one line, which does nothing on a terminal but stand there."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
