"""What can be counted of a column: the questions, the bins they are about, what sums amount to.

Numeric columns are counted on one fixed tree. A float64 becomes an unsigned integer of the same
order, its key, and a bin is a prefix of the key's bits: the first 12 are sign and exponent, so the
root's children are the powers of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import DataError
from genesis.schema import Column
from genesis.values import Label

__all__ = [
    "DECIMALS",
    "KEY_BITS",
    "POINT_MASS",
    "RANGE_BITS",
    "SMALL_CELL",
    "DiscreteStatistics",
    "Leaves",
    "NumericStatistics",
    "Question",
    "keys_of",
    "numbers_in",
    "settled",
    "sorted_labels",
    "to_grid",
    "values_of",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

POINT_MASS = 0.01  # share of the rows from which a single value is kept as itself
SMALL_CELL = 5  # fewer rows than this never make a point mass or a bound
KEY_BITS = 64
RANGE_BITS = 12  # sign and exponent: the powers of two
MOST_BINS = 1 << 19  # all powers of two in 128 bins each
DECIMALS = 10  # answers to how many decimals a value has: 0 to 8, or more


def keys_of(values: Floats) -> Keys:
    """Floats as unsigned integers of the same order: flip negatives, else set the sign bit."""
    bits = values.view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def values_of(keys: Keys) -> Floats:
    """The inverse of `keys_of`."""
    sign = np.uint64(1 << 63)
    bits = np.where(keys & sign, keys ^ sign, ~keys)
    return bits.view(np.float64)


@dataclass(frozen=True)
class Question:
    """How many values of a column lie in each of some bins, or carry each of some labels.

    Args:
        column: Name of the column.
        labels: The labels to count; None among them counts nulls.
        parents: Or: bins to count within, as prefixes of `64 - shift` bits.
        shift: Bits of a key below the prefix of a parent.
        bits: Each parent is divided in 2**bits bins.
        decimals: Or: how many values need 0, 1, … 8 decimals to be written, and how many more.
    """

    column: str
    labels: tuple[Label, ...] | None = None
    parents: tuple[int, ...] = ()
    shift: int = KEY_BITS
    bits: int = 0
    decimals: bool = False

    def __post_init__(self) -> None:
        # Questions come over networks too, and what no tree asks would cost any amount of memory.
        if self.labels is None and not (
            0 <= self.bits <= min(RANGE_BITS, self.shift)
            and self.shift <= KEY_BITS
            and len(self.parents) << self.bits <= MOST_BINS
            and all(0 <= parent < 1 << (KEY_BITS - self.shift) for parent in self.parents)
        ):
            raise DataError("a question about bins that do not exist")
        if self.decimals and (self.labels is not None or self.parents):
            raise DataError("a question about decimals and something else at once")

    @property
    def size(self) -> int:
        """Number of counts in an answer."""
        if self.decimals:
            return DECIMALS
        return len(self.labels) if self.labels is not None else len(self.parents) << self.bits

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        if self.decimals:
            return {"column": self.column, "decimals": True}
        if self.labels is not None:
            return {"column": self.column, "labels": list(self.labels)}
        return {
            "column": self.column,
            "parents": list(self.parents),
            "shift": self.shift,
            "bits": self.bits,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Question:
        """The inverse of `to_dict`."""
        given = dict(values)
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
        return cls(**given)

    def first_keys(self) -> Keys:
        """The lowest key of every bin: (parents * 2**bits,)."""
        width = 1 << (self.shift - self.bits)
        starts = np.array([parent << self.shift for parent in self.parents], dtype=np.uint64)
        steps = np.array([i * width for i in range(1 << self.bits)], dtype=np.uint64)
        return (starts[:, None] + steps[None, :]).ravel()

    def ends(self) -> tuple[Floats, Floats]:
        """The lowest and the highest value of every bin."""
        first = self.first_keys()
        return values_of(first), values_of(first + np.uint64((1 << (self.shift - self.bits)) - 1))


def sorted_labels(labels: Iterable[Label]) -> list[Label]:
    """Labels in an order of their own: numbers before text."""
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


@dataclass(frozen=True)
class NumericStatistics:
    """The pooled values of a numeric column.

    Args:
        nulls: Number of nulls.
        positions: (m,) ascending positions of the bins that hold no point mass.
        counts: (m,) rows in each.
        atoms: (a,) ascending point masses: single values with at least 1 % of the rows.
        atom_counts: (a,) rows of each.
        lower: Values below, fewer than 5 rows, are drawn in to it.
        upper: The same above.
        leaves: All bins, with their ends.
    """

    nulls: int
    positions: Floats
    counts: Integers
    atoms: Floats
    atom_counts: Integers
    lower: float
    upper: float
    leaves: Leaves


@dataclass(frozen=True)
class DiscreteStatistics:
    """The pooled labels of a discrete column, in their order, nulls aside.

    Args:
        nulls: Number of nulls.
        labels: What occurs, sorted.
        counts: (len(labels),) rows of each.
    """

    nulls: int
    labels: tuple[Label, ...]
    counts: Integers


@dataclass(frozen=True)
class Leaves:
    """Bins of a column that are not divided any further, in ascending order.

    Args:
        low: (m,) smallest value.
        high: (m,) largest value.
        counts: (m,) rows.
        is_atom: (m,) whether it is a point mass, at `low`.
    """

    low: Floats
    high: Floats
    counts: Integers
    is_atom: Booleans


def settled(
    column: Column, leaves: Leaves, nulls: int, widest: tuple[float, float]
) -> NumericStatistics:
    """Point masses apart, and bounds that no handful of rows decides.

    Args:
        column: The column.
        leaves: Its bins.
        nulls: Its nulls.
        widest: Its bounds where the rows are too few to decide them.
    """
    low, high, counts, is_atom = leaves.low, leaves.high, leaves.counts, leaves.is_atom
    lower, upper = widest
    if int(counts.sum()) >= 2 * SMALL_CELL:
        lower = float(low[np.searchsorted(np.cumsum(counts), SMALL_CELL)])
        upper = float(high[::-1][np.searchsorted(np.cumsum(counts[::-1]), SMALL_CELL)])
    if column.lower is not None:
        lower = float(column.lower)
    if column.upper is not None:
        upper = float(column.upper)
    if lower > upper:  # next to nothing was counted, or only beyond a bound that is stated
        lower, upper = (upper, upper) if column.upper is not None else (lower, lower)
    first, last = to_grid(np.array([lower]), np.array([upper]), column.decimals)
    middle = low / 2 + high / 2  # halves first: the sum of two large floats may overflow
    return NumericStatistics(
        nulls=nulls,
        positions=middle[~is_atom],
        counts=counts[~is_atom],
        atoms=low[is_atom],
        atom_counts=counts[is_atom],
        lower=float(first[0]),
        upper=float(last[0]),
        leaves=leaves,
    )


def to_grid(low: Floats, high: Floats, decimals: int | None) -> tuple[Floats, Floats]:
    """The smallest and largest multiple of 10**-decimals in each bin that holds any."""
    if decimals is None:
        return low, high
    first, last, on_grid = _multiples(low, high, decimals)
    return np.where(on_grid, first, low), np.where(on_grid, last, high)


def numbers_in(low: Floats, high: Floats, decimals: int | None) -> Floats:
    """How many multiples of 10**-decimals each bin holds; infinitely many if there is no grid."""
    if decimals is None:
        return np.where(low == high, 1.0, np.inf)
    first, last, on_grid = _multiples(low, high, decimals)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.rint(last * 10.0**decimals) - np.rint(first * 10.0**decimals) + 1
    numbers = np.where(low == high, 1.0, numbers)
    # No value is -0.0: see `values.numbers`.
    found: Floats = np.where(on_grid, numbers, 0.0) - ((high == 0) & np.signbit(high) & on_grid)
    return found


def _multiples(low: Floats, high: Floats, decimals: int) -> tuple[Floats, Floats, Booleans]:
    """The first and last multiple of 10**-decimals in bins, and which bins hold any."""
    scale = 10.0**decimals
    with np.errstate(over="ignore", invalid="ignore"):
        first, last = np.floor(low * scale), np.ceil(high * scale)
        # Dividing a whole number by a power of ten is correctly rounded, so it gives the very
        # float that the decimal text reads as; multiplying may be off by one unit, hence the steps.
        first = np.where(first / scale < low, first + 1, first)
        first = np.where(first / scale < low, first + 1, first)
        last = np.where(last / scale > high, last - 1, last)
        last = np.where(last / scale > high, last - 1, last)
        first, last = first / scale + 0.0, last / scale + 0.0
    return first, last, np.isfinite(first) & np.isfinite(last) & (first <= last)
