"""Keys: telling them by their name, what they look like, and making up new ones.

What they look like is "integer", "uuid" or a shape, in which 9 is any digit, A and a are any
letters and the rest is itself; a backslash before 9, A, a or a backslash takes its meaning away.
"""

from __future__ import annotations

import itertools
import re
import string
import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = [
    "ANY_TEXT",
    "LONGEST_SHAPE",
    "is_called_a_key",
    "literal_token",
    "merge_shapes",
    "new_keys",
    "shape_of",
    "shape_tokens",
]

ANY_TEXT = "aaaaaaaa"  # shape of keys that have none in common
LONGEST_SHAPE = 256  # letters; every key that is made up has as many

_CLASSES = "9Aa"  # ordered: what is of several classes is of the last one
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_KEY_WORD = re.compile(
    "ids?|uu?id|guid|key|pk|no|nr|number|ssn|mrn|index|row|rownames?|unnamed|record|serial"
    "|patient|subject|obs"
)


def is_called_a_key(name: str) -> bool:
    """Whether a name is, or ends in, a word for keys, set off by a mark or by its capitals."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    last = re.split(r"[^a-z0-9]+", words.strip("_ .:-#0"))[-1]
    return _KEY_WORD.fullmatch(last) is not None


def shape_of(texts: pd.Index[Any]) -> str:
    """What unique texts look like: a shape, or "uuid"."""
    values = texts.astype(str)
    if _UUID.fullmatch(values[0]) and all(map(_UUID.fullmatch, values)):
        return "uuid"
    lengths = values.str.len()
    if lengths.min() == lengths.max() <= 64:
        letters = np.array(values, dtype=f"U{lengths[0]}").view(np.uint32).reshape(len(values), -1)
        return "".join(map(_shape_of_place, letters.T, values[0]))
    ends = zip(min(values), max(values), strict=False)
    shared = list(itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    rest = values.str.slice(len(shared))
    if all(re.fullmatch("[0-9]+", text) for text in rest):
        shape = "".join(_token(letter) for letter, _ in shared) + "9" * int(rest.str.len().max())
        return shape if len(shape) <= LONGEST_SHAPE else ANY_TEXT
    return ANY_TEXT


def _shape_of_place(letters: npt.NDArray[np.uint32], first: str) -> str:
    """The token for one place of texts that are equally long, from its code points (n,)."""
    if (letters == ord(first)).all():
        return _token(first)
    if ((letters >= ord("0")) & (letters <= ord("9"))).all():
        return "9"
    return "a" if ((letters >= ord("a")) & (letters <= ord("z"))).any() else "A"


def _token(letter: str) -> str:
    """The token for a letter that all have in common: itself, or any digit if it is one."""
    return "9" if letter in "0123456789" else literal_token(letter)


def literal_token(letter: str) -> str:
    """The token that means a letter itself."""
    return "\\" + letter if letter in "9Aa\\" else letter


def shape_tokens(shape: str) -> list[str]:
    """The tokens of a shape of ids: its letters, each with its backslash if it has one.

    The last letter of a token is what it means, or its class if the token is just 9, A or a.
    """
    return re.findall(r"\\.|.", shape, re.DOTALL)


def _class(token: str) -> str:
    """The class of what a token means."""
    if token in _CLASSES:
        return token
    letter = token[-1]
    return "9" if letter in "0123456789" else "A" if letter.isupper() else "a"


def merge_shapes(shapes: Iterable[str]) -> str:
    """The narrowest shape of all. Taken together, because pair by pair the order would matter."""
    distinct = sorted(set(shapes), key=len)
    if len(distinct) == 1:
        return distinct[0]
    if {"integer", "uuid"} & set(distinct):
        return ANY_TEXT
    tokens = [shape_tokens(shape) for shape in distinct]
    if len({len(each) for each in tokens}) == 1:
        return "".join(
            place[0] if len(set(place)) == 1 else max(map(_class, place), key=_CLASSES.index)
            for place in zip(*tokens, strict=True)
        )
    # Numbers that differ in how many digits they have: what stands before is the same.
    heads = {tuple(itertools.dropwhile("9".__eq__, reversed(each))) for each in tokens}
    if len(heads) == 1 and len(heads.pop()) < len(tokens[0]):
        return max(distinct, key=lambda shape: len(shape_tokens(shape)))
    return ANY_TEXT


def new_keys(format: str, n: int, rng: np.random.Generator, first_row: int = 0) -> npt.NDArray[Any]:
    """Keys that no row ever had a part in: (n,), all different.

    Args:
        format: Of the column: "integer", "uuid" or a shape.
        n: Number of keys.
        rng: Draws uuids.
        first_row: Rows that were given keys before.

    Returns:
        Whole numbers as float64, or texts as objects: see `values.as_column`.
    """
    numbers = np.arange(first_row + 1, first_row + n + 1, dtype=np.int64)
    if format == "integer":
        return numbers.astype(np.float64)
    if format == "uuid":
        drawn = rng.bytes(16 * n)
        texts = [str(uuid.UUID(bytes=drawn[16 * i : 16 * i + 16], version=4)) for i in range(n)]
        return np.array(texts, dtype=object)
    return _numbered(format, numbers)


def _numbered(shape: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Numbers written with the letters of a shape: 9 counts 0-9, A counts A-Z, a counts a-z.

    A number that is too large for the shape is written after it.
    """
    alphabets = {"9": "0123456789", "A": string.ascii_uppercase, "a": string.ascii_lowercase}
    tokens = shape_tokens(shape)
    letters = np.empty((len(numbers), len(tokens)), dtype="<U1")
    left = numbers.copy()
    for place in reversed(range(len(tokens))):
        alphabet = alphabets.get(tokens[place])
        if alphabet is None:
            letters[:, place] = tokens[place][-1]
            continue
        letters[:, place] = np.array(list(alphabet))[left % len(alphabet)]
        left //= len(alphabet)
    texts = letters.view(f"<U{max(len(tokens), 1)}")[:, 0].astype(object)
    overflow = left > 0
    texts[overflow] = [f"{t}{n}" for t, n in zip(texts[overflow], numbers[overflow], strict=True)]
    return texts
