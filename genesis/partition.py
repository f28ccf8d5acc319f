"""Dividing one table among clients, to simulate a federation.

Every row goes to exactly one client, no client goes without, and the same seed divides alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.errors import DataError, PlanError, SchemaError, nearest_names

__all__ = ["partition", "split_by_value", "split_dirichlet", "split_evenly", "split_unevenly"]

Rows = npt.NDArray[np.int64]

MAX_BINS = 10  # of the numbers that `split_dirichlet` divides by
MAX_VALUES = 1000  # of the column that `split_by_value` divides by


def partition(
    table: pd.DataFrame,
    k: int | None = None,
    *,
    dirichlet: float | None = None,
    quantity: float | None = None,
    by: str | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Divide a table among clients.

    ============================ ==================================================
    ``k``                        alike: equally many random rows
    ``k, dirichlet=alpha, by=…`` equally many rows, with other values of a column
    ``k, quantity=alpha``        random rows, but not equally many
    ``by=…``                     one client for every value of a column
    ============================ ==================================================

    Args:
        table: The rows.
        k: Number of clients.
        dirichlet: How like each other the clients' values are: see `split_dirichlet`.
        quantity: How like each other the clients' sizes are: see `split_unevenly`.
        by: Name of the column that decides.
        seed: Decides what is random.

    Returns:
        Client -> its rows, with the index and the order that they have in the table. Clients are
        called client_1, client_2, …, or by their value of the column, in a form that can name a
        file.

    Raises:
        PlanError: The choices contradict each other.
        SchemaError: There is no such column.
        DataError: There are fewer rows than clients, or a column has too many values.
    """
    if dirichlet is not None and quantity is not None:
        raise PlanError(
            "a table is divided by values or by sizes", got="dirichlet and quantity", do="drop one"
        )
    if dirichlet is not None and by is None:
        raise PlanError("dirichlet needs a column to divide by", do="name it with by")
    if k is None and (by is None or dirichlet is not None):
        raise PlanError("the number of clients is missing", do="give it")
    if by is not None and dirichlet is None and (k is not None or quantity is not None):
        raise PlanError(
            "a column alone decides how many clients there are and how large",
            got="k" if k is not None else "quantity",
            do="drop it, or add dirichlet",
        )
    if k is None:
        shards = split_by_value(table, str(by))
    else:
        if dirichlet is not None:
            rows = split_dirichlet(table, k, str(by), dirichlet, seed)
        elif quantity is not None:
            rows = split_unevenly(len(table), k, quantity, seed)
        else:
            rows = split_evenly(len(table), k, seed)
        shards = {f"client_{i}": shard for i, shard in enumerate(rows, start=1)}
    return {client: table.iloc[rows] for client, rows in shards.items()}


def split_evenly(n: int, k: int, seed: int) -> list[Rows]:
    """Divide n rows among k clients at random, equally but for one row.

    Returns:
        The numbers of each client's rows, ascending.

    Raises:
        PlanError: k is less than 1.
        DataError: There are fewer rows than clients.
    """
    _check_sizes(n, k)
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(rows) for rows in np.array_split(order, k)]


def split_unevenly(n: int, k: int, alpha: float, seed: int) -> list[Rows]:
    """Divide n rows among k clients at random, in sizes that differ.

    Every client has one row, and the others fall to clients with p ~ Dirichlet(alpha, …, alpha).

    Args:
        n: Number of rows.
        k: Number of clients.
        alpha: Above 0: small gives few clients nearly all rows, large makes sizes alike.
        seed: Decides the sizes and the rows.

    Returns:
        The numbers of each client's rows, ascending.

    Raises:
        PlanError: k is less than 1, or alpha is not above 0.
        DataError: There are fewer rows than clients.
    """
    _check_sizes(n, k, alpha)
    rng = np.random.default_rng(seed)
    sizes = 1 + rng.multinomial(n - k, rng.dirichlet(np.full(k, alpha)))
    return [np.sort(rows) for rows in np.split(rng.permutation(n), np.cumsum(sizes)[:-1])]


def split_dirichlet(table: pd.DataFrame, k: int, by: str, alpha: float, seed: int) -> list[Rows]:
    """Divide rows among k clients equally, but with other values of one column.

    As Hsu et al. 2019 (arXiv 1909.06335, section 3): a client's rows are drawn, without
    replacement, by q ~ Dirichlet(alpha p), where p are the frequencies of the values in the table.
    Where a value runs out, q is normalised over the others; so the last clients take what is left.

    Args:
        table: The rows.
        k: Number of clients.
        by: The column. Null is a value. Numbers and datetimes that have more than 10 values count
            as one of 10 quantiles.
        alpha: Above 0: small gives each client few values, large makes clients alike.
        seed: Decides the rows.

    Returns:
        The numbers of each client's rows, ascending.

    Raises:
        PlanError: k is less than 1, or alpha is not above 0.
        SchemaError: There is no such column.
        DataError: There are fewer rows than clients.
    """
    _check_sizes(len(table), k, alpha)
    rng = np.random.default_rng(seed)
    groups = _groups(_cells(table, by))
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]  # group by group, random within
    left = np.bincount(groups)
    ends = np.cumsum(left)
    concentrations = alpha * left / left.sum()
    shards = []
    for size in map(len, np.array_split(order, k)):
        starts, counts = ends - left, _draw(size, concentrations, left, rng)
        taken = [order[s : s + c] for s, c in zip(starts, counts, strict=True)]
        shards.append(np.sort(np.concatenate(taken)))
        left = left - counts
    return shards


def split_by_value(table: pd.DataFrame, by: str) -> dict[str, Rows]:
    """Divide rows by the values of a column.

    Args:
        table: The rows.
        by: The column. Null is a value, called "missing".

    Returns:
        The value, in a form that can name a file -> the numbers of its rows, ascending. Values
        stand in the order in which they first occur.

    Raises:
        SchemaError: There is no such column.
        DataError: It has more than 1,000 values.
    """
    codes, values = pd.factorize(_cells(table, by), use_na_sentinel=False)
    if len(values) > MAX_VALUES:
        raise DataError(
            f"column '{by}' has too many values to divide by",
            got=f"{len(values):,}",
            do="choose another column, or a number of clients and dirichlet",
        )
    order = np.argsort(codes, kind="stable")
    shards = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return dict(zip(_file_names(values), shards, strict=True))


def _check_sizes(n: int, k: int, alpha: float = 1.0) -> None:
    """Raise PlanError or DataError if n rows cannot be divided among k clients."""
    if k < 1:
        raise PlanError("there must be a client to divide among", got=f"{k} clients")
    if not 0 < alpha < np.inf:
        raise PlanError("the concentration of a Dirichlet is a number above 0", got=f"{alpha}")
    if n < k:
        raise DataError(
            "there are fewer rows than clients", got=f"{n:,} rows for {k:,}", do="use fewer clients"
        )


def _cells(table: pd.DataFrame, by: str) -> pd.Series[Any]:
    """The column called by, whose label may be no text."""
    names = [str(name) for name in table.columns]
    if by not in names:
        raise SchemaError(f"unknown column '{by}'", do=nearest_names(by, names))
    return table.iloc[:, names.index(by)]


def _groups(cells: pd.Series[Any]) -> Rows:
    """(n,) the number of each cell's value, or of its quantile; nulls are a value."""
    types = pd.api.types
    measured = types.is_numeric_dtype(cells.dtype) and not types.is_bool_dtype(cells.dtype)
    measured = measured or types.is_datetime64_any_dtype(cells.dtype)
    if measured and cells.nunique() > MAX_BINS:
        cells = pd.qcut(cells, MAX_BINS, labels=False, duplicates="drop")
    return np.asarray(pd.factorize(cells, use_na_sentinel=False)[0], dtype=np.int64)


def _draw(
    size: int, concentrations: npt.NDArray[np.float64], left: Rows, rng: np.random.Generator
) -> Rows:
    """How many of a client's rows have each value, drawn as long as there are any left.

    Args:
        size: Rows of the client, at most all that are left.
        concentrations: (m,) of the Dirichlet distribution of its probabilities of the values.
        left: (m,) rows left of each.
        rng: Draws.

    Returns:
        (m,) counts, at most left.
    """
    counts = np.zeros_like(left)
    q = rng.dirichlet(concentrations)
    while (missing := size - counts.sum()) > 0:
        open_values = counts < left
        q = np.where(open_values, q, 0.0)
        if q.sum() == 0:
            # A few components of a Dirichlet, normalised, are a Dirichlet: drawn anew where
            # floating point has nothing left of them.
            q[open_values] = rng.dirichlet(concentrations[open_values])
        counts = np.minimum(counts + rng.multinomial(missing, q / q.sum()), left)
    return counts


def _file_names(values: Sequence[Any] | pd.Index[Any]) -> list[str]:
    """Values as unique names of files, also where upper and lower case are the same."""
    names: list[str] = []
    taken: set[str] = set()
    for value in values:
        number = isinstance(value, float) and value.is_integer()
        text = "missing" if pd.isna(value) else str(int(value) if number else value)
        name = stem = re.sub(r"[^\w.-]+", "_", text)[:100].strip("._") or "value"
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name.lower())
        names.append(name)
    return names
