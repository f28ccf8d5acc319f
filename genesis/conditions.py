"""Conditions on generated rows: what a user asks for, in terms of the encoding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.codes import Codes, Condition
from genesis.encoding.discrete import DiscreteEncoding
from genesis.encoding.encoder import Encoder
from genesis.encoding.grid import GridEncoding
from genesis.encoding.numeric import NumericEncoding
from genesis.errors import ConditionError, nearest_names
from genesis.schema import Column, Kind
from genesis.values import Label, labels, numbers

__all__ = ["Where"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class Where:
    """A parsed condition.

    Build it with `Where.parse`. A value of the mapping may be

    - a single value: the column equals it; None asks for null;
    - a list or set: the column is one of them;
    - for numeric and datetime columns a tuple ``(low, high)``, both included; None leaves a side
      open.

    Args:
        condition: Codes that are allowed.
        intervals: Block of a numeric column -> the closed intervals its values must lie in.
        labels: Block of a discrete column -> the labels it may have.
    """

    condition: Condition
    intervals: dict[int, list[Interval]] = field(default_factory=dict)
    labels: dict[int, frozenset[Label]] = field(default_factory=dict)

    @classmethod
    def parse(cls, where: Mapping[str, Any], encoder: Encoder) -> Where:
        """Read a mapping of column names to what they must be.

        Raises:
            ConditionError: A column is unknown, is an id, or can never be what is asked.
        """
        parsed = cls(Condition({}))
        for label, wanted in where.items():
            name = str(label)
            if name not in encoder.schema.names:
                raise ConditionError(
                    f"there is no column '{name}'", do=nearest_names(name, encoder.schema.names)
                )
            column = encoder.schema[name]
            if column.kind is Kind.ID:
                raise ConditionError(
                    f"column '{name}' holds keys, which are generated anew",
                    do="set a condition on another column",
                )
            if column.kind is Kind.CONSTANT:
                if not _is_constant(column, wanted):
                    raise _impossible(column, wanted, f"always {column.value!r}")
                continue
            block = encoder.block_of[name]
            encoding = encoder.encodings[block]
            if isinstance(encoding, NumericEncoding | GridEncoding):
                intervals = _intervals(column, wanted)
                if isinstance(encoding, GridEncoding):
                    shares = _grid_shares(encoding, intervals, _asks_null(wanted))
                    allowed, parsed.condition.shares[block] = shares > 0, shares
                else:
                    allowed = _allowed_modes(encoding, intervals, _asks_null(wanted))
                parsed.intervals[block] = intervals
                ends = [_shown(column, end) for end in (encoding.lower, encoding.upper)]
                known = f"between {ends[0]} and {ends[1]}"
            else:
                assert isinstance(encoding, DiscreteEncoding)
                accepted = _labels(encoding, wanted)
                allowed = _allowed_labels(encoding, accepted)
                parsed.labels[block] = accepted
                if encoding.tail and allowed[len(encoding.labels)]:
                    parsed.condition.shares[block] = _tail_shares(encoding, accepted)
                few = [str(label) for label in encoding.labels[:12]]
                known = "one of " + ", ".join(few) + (", …" if len(encoding.labels) > 12 else "")
            if not allowed.any():
                raise _impossible(column, wanted, known)
            parsed.condition.allowed[block] = allowed
        return parsed

    @property
    def told(self) -> Condition:
        """The condition as a wish: a model is told it, and need not fulfil it."""
        return dataclasses.replace(self.condition, enforced=False)

    def values(
        self, encoder: Encoder, codes: Codes, rng: np.random.Generator
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
        """Decoded values of every encoded column, and which rows satisfy the condition: (n,)."""
        keep = self.condition.holds(codes.codes)
        decoded: dict[str, npt.NDArray[Any]] = {}
        for block, encoding in enumerate(encoder.encodings):
            if isinstance(encoding, DiscreteEncoding):
                column = codes.codes[:, block]
                values: npt.NDArray[Any] = encoding.decode(
                    None, column, rng, self.labels.get(block)
                )
            elif isinstance(encoding, GridEncoding) and block in self.intervals:
                values = encoding.decode_within(
                    codes.scalars[:, block], codes.codes[:, block], self.intervals[block]
                )
            else:
                values = encoder.values(codes, block, rng)
            if block in self.intervals:
                keep &= np.isnan(values) | _inside(values, self.intervals[block])
            decoded[encoding.column.name] = values
        return decoded, keep

    def force(
        self,
        encoder: Encoder,
        codes: Codes,
        values: dict[str, npt.NDArray[Any]],
        rng: np.random.Generator,
    ) -> dict[str, npt.NDArray[Any]]:
        """Draw numbers anew that lie outside what is asked for, in rows whose codes are allowed.

        They are uniform on the part of the interval that their mode reaches: moving them to its
        edge instead would pile them up there.
        """
        forced = dict(values)
        for block, intervals in self.intervals.items():
            encoding = encoder.encodings[block]
            if isinstance(encoding, GridEncoding):
                continue  # decoded within them
            assert isinstance(encoding, NumericEncoding)
            given = values[encoding.column.name].copy()
            modes = codes.codes[:, block]
            for row in np.flatnonzero(~np.isnan(given) & ~_inside(given, intervals)):
                low, high = _reachable(encoding, int(modes[row]), intervals)
                drawn = encoding.settle(np.array([rng.uniform(low, high)]))
                given[row] = np.clip(drawn, low, high)[0]
            forced[encoding.column.name] = given
        return forced


def _several(wanted: Any) -> list[Any]:
    """What is asked as a list of alternatives."""
    if isinstance(wanted, (list, set, frozenset, np.ndarray, pd.Series, pd.Index)):
        return list(wanted)
    return [wanted]


def _is_null(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return any(value is null for null in (None, pd.NaT, pd.NA))


def _asks_null(wanted: Any) -> bool:
    return any(_is_null(value) for value in _several(wanted))


def _is_constant(column: Column, wanted: Any) -> bool:
    """Whether the only value of a column is among those asked for."""
    if column.of in (Kind.NUMERIC, Kind.DATETIME):
        written = dataclasses.replace(column, kind=column.of, unit=column.unit or "us")
        value = np.array([_number(written, column.value)])
        return bool(_inside(value, _intervals(written, wanted))[0])
    asked = list(wanted) if isinstance(wanted, tuple) else _several(wanted)
    return any(not _is_null(value) and str(column.value) == _spelled(value) for value in asked)


def _spelled(value: Any) -> str:
    """A wanted label as text."""
    return str(labels(pd.Series([value], dtype=object), as_text=True)[1][0])


def _impossible(column: Column, wanted: Any, known: str) -> ConditionError:
    asked = repr(wanted)
    if isinstance(wanted, tuple):
        asked = "..".join("" if end is None else str(end) for end in wanted)
    return ConditionError(
        f"no row can have {column.name} = {asked}", do=f"column '{column.name}' is {known}"
    )


def _number(column: Column, value: Any) -> float:
    """One wanted value of a numeric or datetime column as the encoder's number."""
    try:
        if column.kind is Kind.DATETIME:
            return float(numbers(dataclasses.replace(column, format=None), _date(column, value))[0])
        return float(value)
    except (ValueError, TypeError) as error:
        what = "date" if column.kind is Kind.DATETIME else "number"
        raise ConditionError(
            f"a condition on column '{column.name}' needs a {what}", got=repr(value)
        ) from error


def _date(column: Column, value: Any) -> pd.Series[Any]:
    """One wanted date: read as the column is written, if it is so, and in its time zone."""
    if column.format is not None and isinstance(value, str):
        read = pd.to_datetime(pd.Series([value]), format=column.format, errors="coerce")
        if read.notna().all():
            return read
    time, dtype = pd.Timestamp(value), pd.api.types.pandas_dtype(column.dtype)
    if time.tz is None and isinstance(dtype, pd.DatetimeTZDtype):
        time = time.tz_localize(dtype.tz)
    return pd.Series([time])


def _shown(column: Column, value: float) -> str:
    """A number of a column as its user knows it."""
    if column.kind is Kind.DATETIME:
        return str(pd.Timestamp(int(value), unit=column.unit or "us"))
    return f"{value:.12g}"


def _intervals(column: Column, wanted: Any) -> list[Interval]:
    """The closed intervals that a numeric column may lie in."""
    if isinstance(wanted, tuple):
        if len(wanted) != 2:
            raise ConditionError(
                f"a range on column '{column.name}' is a pair (low, high)", got=repr(wanted)
            )
        low = -math.inf if wanted[0] is None else _number(column, wanted[0])
        high = math.inf if wanted[1] is None else _number(column, wanted[1])
        if low > high:
            raise ConditionError(
                f"a range on column '{column.name}' ends before it begins", do="swap its ends"
            )
        return [(low, high)]
    chosen = [_number(column, value) for value in _several(wanted) if not _is_null(value)]
    return [(value, value) for value in chosen]


def _inside(values: npt.NDArray[Any], intervals: list[Interval]) -> npt.NDArray[np.bool_]:
    """Which numbers lie in any of the intervals."""
    keep = np.zeros(len(values), dtype=bool)
    for low, high in intervals:
        keep |= (values >= low) & (values <= high)
    return keep


def _overlap(encoding: NumericEncoding, interval: Interval) -> Interval | None:
    """The part of an interval that the column can take, on the column's grid."""
    low, high = max(interval[0], encoding.lower), min(interval[1], encoding.upper)
    if encoding.column.decimals is not None and low <= high:
        scale = 10.0**encoding.column.decimals
        ends = np.array([low, high])
        on_grid = np.round(ends, encoding.column.decimals)
        low = on_grid[0] if on_grid[0] >= low else (np.round(low * scale) + 1) / scale
        high = on_grid[1] if on_grid[1] <= high else (np.round(high * scale) - 1) / scale
    return (float(low), float(high)) if low <= high else None


def _allowed_modes(
    encoding: NumericEncoding, intervals: list[Interval], null: bool
) -> npt.NDArray[np.bool_]:
    """Modes that can decode to a wanted value: (width,)."""
    allowed = np.zeros(len(encoding.counts), dtype=bool)
    overlaps = [o for o in (_overlap(encoding, interval) for interval in intervals) if o]
    reaches = [encoding.reach(mode) for mode in range(encoding.n_modes)]
    for mode, (low, high) in enumerate(reaches):
        allowed[mode] = any(low <= o[1] and o[0] <= high for o in overlaps)
    n_modes, n_atoms = encoding.n_modes, len(encoding.atoms)
    allowed[n_modes : n_modes + n_atoms] = _inside(encoding.atoms, intervals)
    if encoding.nulls:
        allowed[-1] = null
    if overlaps and not allowed.any() and n_modes:
        # Between the modes: the nearest one is moved there.
        middle = (overlaps[0][0] + overlaps[0][1]) / 2
        distance = [min(abs(middle - low), abs(middle - high)) for low, high in reaches]
        allowed[int(np.argmin(distance))] = True
    return allowed


def _grid_shares(
    encoding: GridEncoding, intervals: list[Interval], null: bool
) -> npt.NDArray[np.float64]:
    """Share of every code that is wanted: (width,)."""
    shares = np.zeros(len(encoding.counts))
    if encoding.n_bins:
        shares[: encoding.n_bins] = encoding.shares(intervals)
    if encoding.nulls:
        shares[-1] = null
    return shares


def _tail_shares(encoding: DiscreteEncoding, accepted: frozenset[Label]) -> npt.NDArray[np.float64]:
    """Share of every code that decodes to an accepted label, where the tail does in part."""
    shares = _allowed_labels(encoding, accepted).astype(np.float64)
    wanted = np.array([label in accepted for label in encoding.tail])
    shares[len(encoding.labels)] = encoding.tail_counts[wanted].sum() / encoding.tail_counts.sum()
    return shares


def _labels(encoding: DiscreteEncoding, wanted: Any) -> frozenset[Label]:
    """The labels asked for, as the encoder spells them."""
    alternatives = list(wanted) if isinstance(wanted, tuple) else _several(wanted)
    known: dict[str, Label] = {str(label): label for label in (*encoding.labels, *encoding.tail)}
    accepted: set[Label] = set()
    for value in alternatives:
        if _is_null(value):
            accepted.add(None)
            continue
        spelled = _spelled(value)
        if encoding.column.kind is Kind.BOOLEAN:  # true, TRUE: as other programs write it
            spelled = spelled.capitalize()
        if spelled not in known:
            raise ConditionError(
                f"no row can have {encoding.column.name} = {value!r}",
                do=nearest_names(spelled, list(known)[:50]),
            )
        accepted.add(known[spelled])
    return frozenset(accepted)


def _allowed_labels(
    encoding: DiscreteEncoding, accepted: frozenset[Label]
) -> npt.NDArray[np.bool_]:
    """Codes that can decode to an accepted label: (width,)."""
    allowed = [label in accepted for label in encoding.labels]
    if encoding.tail:
        allowed.append(any(label in accepted for label in encoding.tail))
    if encoding.nulls:
        allowed.append(None in accepted)
    return np.array(allowed, dtype=bool)


def _reachable(encoding: NumericEncoding, mode: int, intervals: list[Interval]) -> Interval:
    """The first interval that a mode reaches, cut to its reach; else the first one possible."""
    overlaps = [o for o in (_overlap(encoding, interval) for interval in intervals) if o]
    low, high = encoding.reach(mode)
    for first, last in overlaps:
        if first <= high and low <= last:
            return max(first, low), min(last, high)
    return overlaps[0]
