"""The union of the clients' sets of labels, learnt through sums alone.

A category is in a column of some clients' tables and not of others'. The server must know all of
them to number them, and learns from four sums modulo 2^64::

    how many labels each client has       bounds the size of the union
    a sketch of their keys                the keys, each with the number of clients that have it
    for each key, the length of its text  c clients send c · length
    for each key, pieces of its text      c clients send c · piece

A label is text: its column's name and itself, in JSON, so that it comes back with its very type.
Its key is a number of 48 bits, the first of SHA-256(salt | text).

The sketch is an invertible Bloom lookup table (Goodrich & Mitzenmacher 2011, "Invertible Bloom
Lookup Tables"), with sums for exclusive ors, so that adding up the tables of sets gives the table
of all (as in Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead").
Each key is in one cell of each of k = 4 blocks. With Σ over the keys in a cell, of which each is
at c_key < 2^16 clients, the cell holds ::

    Σ c_key        Σ c_key · key        Σ c_key · check(key)      modulo 2^64

If they are all one key, it is the second number divided by the first; the third, and the place of
the cell, prove it. It is then taken out of its other cells, where another may now be alone, and so
on until nothing is left.

What the server learns: the union, and of each label the *number* of clients at which it occurs,
not which. If that number is one, the client's label is known and its name is not. A client that
does not keep to this can spoil it, and learns nothing by it. A server that does not learns no more
either: what a client refuses never depends on its labels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genesis.counting import sorted_labels
from genesis.errors import FederationError
from genesis.values import Label

__all__ = [
    "LONGEST_TEXT",
    "MOST_LABELS",
    "MOST_TEXT",
    "FoundKeys",
    "LabelSketch",
    "UnreadableLabelsError",
    "keys_of",
    "lengths_of",
    "pieces",
    "read_lengths",
    "read_texts",
    "texts_of",
    "written",
]

Numbers = npt.NDArray[np.uint64]
Lengths = npt.NDArray[np.int64]

MOST_LABELS = 1 << 20  # different ones, in all columns
MOST_TEXT = 64 << 20  # bytes of all labels' texts
LONGEST_TEXT = 1 << 20  # bytes of one

KEYS = np.uint64(1 << 48)  # that there are
MOST_CLIENTS = np.uint64(1 << 16)  # c · key < 2^64 below it
BLOCKS = 4
CELLS_PER_KEY = 1.4  # above 1.295, the threshold of four blocks
PAIRS = 1000.0  # see LabelSketch
ROUNDS = 1000  # of taking keys out; sketches that can be read at all need about 15, at most 120
PIECE = 4  # bytes of text in a number

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class UnreadableLabelsError(FederationError):
    """Sums that no labels have, or that chance spoilt: with another salt they may be read."""


@dataclass(frozen=True)
class FoundKeys:
    """What a sketch held.

    Args:
        keys: (u,) ascending.
        clients: (u,) at how many clients each is.
    """

    keys: Numbers
    clients: Numbers


# --- labels as text ---


def written(labels: Mapping[str, Sequence[Label]]) -> list[bytes]:
    """Each label of each column as text that says its type; each text once.

    Raises:
        FederationError: One is infinite, or too long.
    """
    texts: dict[bytes, None] = {}
    for column, known in labels.items():
        try:
            found = dict.fromkeys(_texts(column, known))
        except ValueError as error:
            raise FederationError(
                f"column '{column}' holds numbers that are not finite among its categories",
                do="replace them by nulls",
            ) from error
        longest = max(map(len, found), default=0)
        if longest > LONGEST_TEXT:
            raise FederationError(
                f"column '{column}' holds text that is too long for a category",
                got=f"{longest:,} bytes",
                do="drop the column",
            )
        texts |= found
    return list(texts)


def keys_of(texts: Sequence[bytes], salt: bytes) -> Numbers:
    """(n,) the keys of texts: the first 48 bits of SHA-256(salt | text), lowest byte first.

    Two of n texts share one with a chance of n² / 2^49. It is found out when they are read.
    """
    digests = b"".join([hashlib.sha256(salt + text).digest() for text in texts])
    return np.frombuffer(digests, dtype="<u8")[::4].astype(np.uint64) % KEYS


def _texts(column: str, labels: Iterable[Label]) -> list[bytes]:
    """Labels of a column, each as the one text that it has at all clients.

    Raises:
        ValueError: One is not finite.
    """
    head = f"[{_JSON.encode(column)},"
    texts = [f"{head}{_JSON.encode(label)}]" for label in labels]
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _label(text: bytes) -> tuple[str, Label]:
    """The inverse.

    Raises:
        ValueError: It is no label's text.
        RecursionError: The same.
    """
    found = json.loads(text.decode("utf-8", "surrogatepass"))
    if not (isinstance(found, list) and len(found) == 2 and isinstance(found[0], str)):
        raise ValueError("no label")
    if not isinstance(found[1], (str, int, float)) or _texts(found[0], found[1:]) != [text]:
        raise ValueError("no label")
    return found[0], found[1]


# --- which keys there are ---


@dataclass(frozen=True)
class LabelSketch:
    """A table from which up to `room` different keys can be read.

    Reading fails with a chance below one in a million. For one thing, two keys may share all their
    cells; with b cells in a block and n keys, the chance is at most ::

        n² / 2 · b^-4 = 5e-7    for  b = sqrt(1000 n)

    Then, keys may be too crowded to begin with, which for four blocks sets in sharply at 1.295
    cells a key: at 8,000 keys, from where on 1.4 n is the larger, it is 1.30 with a standard
    deviation of 0.006, which falls with n.

    Args:
        room: Different keys in all sets together.

    Raises:
        FederationError: It is no number of labels that there may be.
    """

    room: int

    def __post_init__(self) -> None:
        if not 1 <= self.room <= MOST_LABELS:
            raise FederationError(
                "the sketch of labels has an impossible size",
                got=f"room for {self.room:,}",
                do="give server and clients the same version",
            )

    @property
    def block(self) -> int:
        """Cells in each of the blocks."""
        crowded = CELLS_PER_KEY * self.room / BLOCKS
        return math.ceil(max(crowded, math.sqrt(PAIRS * self.room)))

    @property
    def length(self) -> int:
        """Numbers in the table: three a cell."""
        return 3 * BLOCKS * self.block

    def of(self, keys: Numbers) -> Numbers:
        """(length,) the table of one client's keys (n,)."""
        table = np.zeros((3, BLOCKS * self.block), dtype=np.uint64)
        _add(table, self._cells(keys), keys, np.ones_like(keys))
        return table.ravel()

    def read(self, total: npt.NDArray[np.int64], occurrences: int) -> FoundKeys:
        """The keys in the sum of tables.

        Whatever the sum is, this ends soon: after `ROUNDS` rounds, and as soon as more keys are
        taken out than there are cells.

        Args:
            total: (length,) the sum.
            occurrences: How many keys the clients have, one by one.

        Raises:
            UnreadableLabelsError: There are more than there is room for, or they are no keys.
        """
        table = total.astype(np.uint64).reshape(3, -1)
        keys, clients = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        taken, changed = 0, np.flatnonzero(table[0])
        for _ in range(ROUNDS):
            key, count = self._alone(table, changed)
            taken += len(key)
            if not len(key) or taken > table.shape[1]:
                break
            cells = self._cells(key)
            _add(table, cells, key, -count)  # modulo 2^64, this takes away
            keys.append(key)
            clients.append(count)
            changed = np.unique(cells)
        all_keys, first = np.unique(np.concatenate(keys), return_index=True)
        counts = np.concatenate(clients)[first]
        if table.any() or len(all_keys) != taken or counts.sum() != occurrences:
            raise _unreadable()
        return FoundKeys(all_keys, counts)

    def _alone(self, table: Numbers, cells: npt.NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        """The keys that are alone in one of some cells, and at how many clients they are."""
        count, keys, check = table[:, cells]
        some = (count > 0) & (count < MOST_CLIENTS)
        cells, count, keys, check = cells[some], count[some], keys[some], check[some]
        key = keys // count
        alone = (keys % count == 0) & (key < KEYS)
        alone &= _check(key) * count == check
        alone &= (self._cells(key) == cells).any(axis=0)
        found, first = np.unique(key[alone], return_index=True)
        return found, count[alone][first]

    def _cells(self, keys: Numbers) -> npt.NDArray[np.int64]:
        """(BLOCKS, n) the cells of keys (n,)."""
        block, half = np.uint64(self.block), np.uint64(32)
        rows = [
            (((_mixed(keys, row + 1) >> half) * block) >> half).astype(np.int64) + row * self.block
            for row in range(BLOCKS)
        ]
        return np.stack(rows)


def _add(table: Numbers, cells: npt.NDArray[np.int64], keys: Numbers, counts: Numbers) -> None:
    """Put keys (n,) into their cells (BLOCKS, n), each so many times."""
    for row, numbers in zip(table, (counts, counts * keys, counts * _check(keys)), strict=True):
        np.add.at(row, cells, np.broadcast_to(numbers, cells.shape))


def _check(keys: Numbers) -> Numbers:
    """(n,) numbers of 32 bits, so that no sum of them outgrows what an encrypted slot can hold."""
    return _mixed(keys, 0) >> np.uint64(32)


def _mixed(keys: Numbers, stream: int) -> Numbers:
    """(n,) other numbers of 64 bits, as if at random: the finaliser of splitmix64."""
    mixed = keys + np.uint64((stream + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


# --- what they say ---


def lengths_of(texts: Sequence[bytes], own: Numbers, keys: Numbers) -> Numbers:
    """(u,) what a client says of lengths: those of its texts, and zero for other keys.

    Nothing is said of texts whose keys are not asked for. To refuse would tell who has them.

    Args:
        texts: Its own.
        own: (n,) their keys.
        keys: (u,) all keys, ascending.
    """
    lengths = np.zeros(len(keys), dtype=np.uint64)
    there, places = _places(own, keys)
    np.add.at(lengths, places, np.array([len(text) for text in texts], np.uint64)[there])
    return lengths


def read_lengths(total: npt.NDArray[np.int64], found: FoundKeys) -> Lengths:
    """(u,) the length in bytes of each key's text, from the sum of the clients'.

    Raises:
        UnreadableLabelsError: They do not add up.
        FederationError: It is too much text.
    """
    lengths = _divided(total, found.clients)
    if ((lengths < 1) | (lengths > LONGEST_TEXT)).any():
        raise _unreadable()
    checked = lengths.astype(np.int64)
    _check_size(checked)
    return checked


def _check_size(lengths: Lengths) -> None:
    """Make sure that texts of these lengths (u,) are not too much.

    Raises:
        FederationError: They are.
    """
    size = int(lengths.sum(dtype=np.float64))
    if size > MOST_TEXT:
        raise FederationError(
            "the labels of the clients are too much text",
            got=f"{size:,} bytes",
            do="drop columns of long text, or give them as ids",
        )


def texts_of(texts: Sequence[bytes], own: Numbers, keys: Numbers, lengths: Lengths) -> Numbers:
    """(pieces of all texts,) what a client says of texts: its own, and zeros for other keys.

    A text that is longer than its place is cut off: two texts have one key, then, or somebody
    lies, and the sum will not add up.

    Args:
        texts: Its own.
        own: (n,) their keys.
        keys: (u,) all keys, ascending.
        lengths: (u,) the lengths of their texts.

    Raises:
        FederationError: It is too much text, or there are not as many lengths as keys.
    """
    _check_size(lengths)
    if len(lengths) != len(keys):  # here, where it does not depend on who has which
        raise FederationError(
            "the server asks for labels in a way that makes no sense",
            do="give server and clients the same version",
        )
    counts = pieces(lengths)
    starts = PIECE * (np.cumsum(counts) - counts)
    page = bytearray(PIECE * int(counts.sum()))
    there, places = _places(own, keys)
    begin, end = starts[places].tolist(), (starts + lengths)[places].tolist()
    for which, a, b in zip(there.tolist(), begin, end, strict=True):
        text = texts[which][: b - a]
        page[a : a + len(text)] = text
    return np.frombuffer(page, dtype="<u4").astype(np.uint64)


def read_texts(
    total: npt.NDArray[np.int64], found: FoundKeys, lengths: Lengths, salt: bytes
) -> dict[str, list[Label]]:
    """The labels of each column, from the sum of the clients' texts: in an order of their own.

    Raises:
        UnreadableLabelsError: The texts do not add up, or their keys are others.
    """
    counts = pieces(lengths)
    numbers = _divided(total, np.repeat(found.clients, counts))
    if (numbers >= 1 << 8 * PIECE).any():
        raise _unreadable()
    page = numbers.astype("<u4").tobytes()
    starts = PIECE * (np.cumsum(counts) - counts)
    ends = starts + lengths
    texts = [page[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    if not np.array_equal(keys_of(texts, salt), found.keys):
        raise _unreadable()
    labels: dict[str, list[Label]] = {}
    for text in sorted(texts):  # for labels that are equal, such as 1 and True
        try:
            column, label = _label(text)
        except (ValueError, RecursionError) as error:
            raise _unreadable() from error
        labels.setdefault(column, []).append(label)
    return {column: sorted_labels(labels[column]) for column in sorted(labels)}


def pieces(lengths: Lengths) -> Lengths:
    """(u,) numbers that texts of these lengths take."""
    return -(-lengths // PIECE)


def _places(own: Numbers, keys: Numbers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which of a client's keys (n,) are among all (u,), and where."""
    places = np.searchsorted(keys, own)
    there = np.flatnonzero(np.append(keys, np.uint64(0))[places] == own)
    there = there[places[there] < len(keys)]
    return there, places[there]


def _divided(total: npt.NDArray[np.int64], clients: Numbers) -> Numbers:
    """(n,) what each of so many clients said, if all said the same.

    Raises:
        UnreadableLabelsError: They did not.
    """
    numbers = total.astype(np.uint64)
    if (numbers % clients).any():
        raise _unreadable()
    return numbers // clients


def _unreadable() -> UnreadableLabelsError:
    return UnreadableLabelsError(
        "the labels of the clients do not add up",
        do=f"find the client that lies or has another version; {MOST_LABELS:,} labels may be read",
    )
