"""Which labels occur at the clients: the dialogue of `secagg.labels`, and both its ends.

    label_count      how many labels a client has
    label_sketch     salt, room           the sketch of their keys
    label_lengths    salt, keys           the lengths of the texts
    label_texts      salt, keys, lengths  the texts

Each is a sum of 64 bits, of all clients.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError
from genesis.federated.secagg.labels import (
    MOST_LABELS,
    LabelSketch,
    UnreadableLabelsError,
    keys_of,
    lengths_of,
    pieces,
    read_lengths,
    read_texts,
    texts_of,
    written,
)
from genesis.values import Label

__all__ = ["LABEL_SUMS", "OwnLabels", "Total", "union_of_labels"]

LABEL_SUMS = ("label_count", "label_sketch", "label_lengths", "label_texts")

Total: TypeAlias = Callable[[str, Mapping[str, Any], int], npt.NDArray[np.int64]]
"""Kind of a request, its JSON values, length -> (length,) the sum of what all clients answer."""

SALT = 16  # bytes
ATTEMPTS = 3  # with all the room that the union can need


class OwnLabels:
    """A client's end.

    Args:
        labels: Its own, of each column.

    Raises:
        FederationError: A label cannot be sent.
    """

    def __init__(self, labels: Mapping[str, Sequence[Label]]) -> None:
        self._texts = written(labels)

    def vector(self, kind: str, meta: Mapping[str, Any]) -> npt.NDArray[np.uint64]:
        """What the client adds to a sum.

        Args:
            kind: One of `LABEL_SUMS`.
            meta: What the server says with it.

        Raises:
            FederationError: The server asks for something else. It does not depend on the labels.
        """
        texts = self._texts
        if kind == "label_count":
            return np.array([len(texts)], dtype=np.uint64)
        try:
            own = keys_of(texts, bytes.fromhex(meta["salt"]))
            if kind == "label_sketch":
                return LabelSketch(int(meta["room"])).of(own)
            keys = _unpacked(meta["keys"], "<u8").astype(np.uint64)
            if kind == "label_lengths":
                return lengths_of(texts, own, keys)
            lengths = _unpacked(meta["lengths"], "<u4").astype(np.int64)
            return texts_of(texts, own, keys, lengths)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise FederationError(
                "the server asks for labels in a way that makes no sense",
                do="give server and clients the same version",
            ) from error


def union_of_labels(total: Total, clients: int) -> dict[str, list[Label]]:
    """The labels of all clients, of each column in which there are any.

    Args:
        total: Takes a sum over all clients.
        clients: How many there are.

    Returns:
        Name of column -> labels; both in an order that does not depend on the clients.

    Raises:
        FederationError: There are too many, or they do not add up.
    """
    occurrences = int(total("label_count", {}, 1)[0])
    if not 0 <= occurrences <= clients * MOST_LABELS:
        raise FederationError(
            "the clients have too many labels",
            got=f"{occurrences:,}",
            do="drop columns with so many categories, or state them in a schema file",
        )
    if not occurrences:
        return {}
    *rooms, last = _rooms(occurrences, clients)
    for room in rooms:
        with suppress(UnreadableLabelsError):
            return _attempt(total, occurrences, room)
    return _attempt(total, occurrences, last)


def _rooms(occurrences: int, clients: int) -> list[int]:
    """For how many different labels there is room at each attempt.

    There are at least as many as a client has in the mean, and at most as many as all together.
    Clients' labels are much the same as a rule, so twice the mean mostly is enough.
    """
    most = min(occurrences, MOST_LABELS)
    room = 2 * -(-occurrences // clients)
    rooms = []
    while room < most:
        rooms.append(room)
        room *= 2
    return rooms + ATTEMPTS * [most]


def _attempt(total: Total, occurrences: int, room: int) -> dict[str, list[Label]]:
    """The union, if there is room for it in the sketch.

    Raises:
        UnreadableLabelsError: There is not, or what the clients say does not add up.
    """
    sketch, salt = LabelSketch(room), secrets.token_bytes(SALT)
    told: dict[str, Any] = {"salt": salt.hex()}
    table = total("label_sketch", {**told, "room": room}, sketch.length)
    found = sketch.read(table, occurrences)
    told["keys"] = _packed(found.keys, "<u8")
    lengths = read_lengths(total("label_lengths", dict(told), len(found.keys)), found)
    told["lengths"] = _packed(lengths, "<u4")
    return read_texts(total("label_texts", told, int(pieces(lengths).sum())), found, lengths, salt)


def _packed(numbers: npt.NDArray[Any], dtype: str) -> str:
    """Numbers (u,) as text, which is shorter than their digits."""
    return base64.b64encode(numbers.astype(dtype).tobytes()).decode()


def _unpacked(text: str, dtype: str) -> npt.NDArray[Any]:
    """The inverse.

    Raises:
        ValueError: They are no such numbers.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype)
