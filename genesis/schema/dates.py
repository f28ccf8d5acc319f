"""How dates are written, and in which unit times are counted since 1970."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from genesis.errors import SchemaError

__all__ = [
    "UNITS",
    "coarsest_unit",
    "count_since_1970",
    "find_format",
    "swapped_format",
    "unit_of_format",
]

UNITS = ("D", "s", "us")  # coarsest first

# Where a day and a month cannot be told apart, the month comes first, as pandas reads them.
_DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m", "%Y/%m"),
    *("%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%Y", "%m/%d/%y", "%d/%m/%y"),
    *("%d-%b-%Y", "%d %b %Y", "%d/%b/%Y", "%d-%b-%y"),
)
_TIMES = ("", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S.%f", " %H:%M", "T%H:%M")
_LOOKS_LIKE_A_DATE = re.compile(r"\d{1,4}[-/. ](\d{1,2}|[A-Za-z]{3})\b")
_ZONE = re.compile(r":\d\d(?:\.\d+)?( ?UTC|Z|[+-]\d\d:?\d\d)$")


def find_format(texts: pd.Index[Any]) -> tuple[str, str | None] | None:
    """The format in which half of some distinct texts or more are dates, None if there is none.

    A time zone is part of the format as plain text, so that it is written again.

    Args:
        texts: Distinct texts, of which at most 100 are read.

    Returns:
        The format, and the same one with day and month exchanged, if it reads as many.
    """
    places = np.unique(np.linspace(0, len(texts) - 1, 100).astype(int))
    sample = texts[places].astype(str)
    if sum(map(bool, map(_LOOKS_LIKE_A_DATE.match, sample))) * 2 < len(sample):
        return None
    zones = Counter(match[1] for match in map(_ZONE.search, sample) if match)
    zone = zones.most_common(1)[0][0] if zones else ""
    read = {
        format: int(pd.to_datetime(sample, format=format, errors="coerce").notna().sum())
        for format in (date + time + (zone if time else "") for date in _DATES for time in _TIMES)
    }
    best = max(read, key=lambda format: read[format])  # the first one of equals
    # A number of a year and a month may also be a season (2011-12) or a score.
    enough = len(sample) if "%d" not in best else (len(sample) + 1) // 2
    if read[best] < enough:
        return None
    swapped = swapped_format(best)
    return best, swapped if read.get(swapped) == read[best] else None


def swapped_format(format: str) -> str:
    """A format with day and month exchanged."""
    return re.sub(r"%[dm]", lambda match: {"%d": "%m", "%m": "%d"}[match[0]], format)


def coarsest_unit(times: pd.Series[Any]) -> str:
    """The coarsest unit in which times are whole since 1970, at most microseconds."""
    utc = times.dropna()
    utc = utc.dt.tz_convert("UTC").dt.tz_localize(None) if utc.dt.tz is not None else utc
    ticks = utc.to_numpy()
    for unit in UNITS[:-1]:
        if (ticks.astype(f"datetime64[{unit}]") == ticks).all():
            return unit
    return UNITS[-1]


def unit_of_format(format: str | None) -> str:
    """The unit of times that are written in a format, seconds if there is none."""
    if format is None:
        return "s"
    return "us" if "%f" in format else "s" if re.search("%[HISMpcX]", format) else "D"


def count_since_1970(name: str, bound: Any, unit: str) -> int:
    """A bound of a column of datetimes, given in ISO format, as units since 1970.

    Raises:
        SchemaError: It is no date.
    """
    try:
        found = np.array(str(bound), dtype=f"datetime64[{unit}]")
        if np.isnat(found):
            raise ValueError("no time at all")
        return int(found.astype(np.int64))
    except (ValueError, OverflowError) as error:
        raise SchemaError(
            f"a bound of column '{name}' is no date", do='write it as "2024-12-31"'
        ) from error
