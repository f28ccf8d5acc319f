"""The tree that ties the blocks of a table together best, from counts of pairs of codes.

Of all trees, the one whose pairs of neighbours share the most mutual information in sum is the most
likely (Chow and Liu 1968). Codes are first put into a few groups, so that a table of a pair is
small, and what information sparse tables seem to hold by chance is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from genesis.codes import Layout

__all__ = ["Groups", "central_parents", "count_pairs", "group_codes", "mutual_information"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MOST_GROUPS = 24
_MOST_CELLS = 2**22
"""Cells of the tables of all pairs, about: 32 MiB of an answer."""


@dataclass(frozen=True)
class Groups:
    """Groups of the codes of every block.

    Args:
        of_code: For every block (width,), the group of each code.
        sizes: Number of groups of every block.
    """

    of_code: tuple[Integers, ...]
    sizes: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of blocks, the first one below the second."""
        return list(combinations(range(len(self.sizes)), 2))

    @property
    def n_cells(self) -> int:
        """Cells of the tables of all pairs."""
        return sum(self.sizes[i] * self.sizes[j] for i, j in self.pairs)


def group_codes(layout: Layout, frequencies: Floats) -> Groups:
    """Put the codes of every block into few groups.

    Bins of a numeric column join their neighbours, to groups of about the same frequency. Of a
    category block the most frequent codes stay alone and the others are one group.

    Args:
        layout: Layout of the encoded rows.
        frequencies: (S,) counts of every code of every block, not negative.
    """
    pairs = max(math.comb(layout.n_blocks, 2), 1)
    most = max(2, min(_MOST_GROUPS, math.isqrt(_MOST_CELLS // pairs)))
    of_code = []
    blocks = np.split(frequencies, np.cumsum(layout.block_widths)[:-1])
    for block, counts in enumerate(blocks):
        if len(counts) <= most:
            groups = np.arange(len(counts))
        elif block < layout.n_scalars:
            middle = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1.0)
            groups = np.unique((middle * most).astype(np.int64), return_inverse=True)[1]
        else:
            rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
            groups = np.minimum(rank, most - 1)
        of_code.append(groups.astype(np.int64))
    return Groups(tuple(of_code), tuple(int(groups.max()) + 1 for groups in of_code))


def count_pairs(groups: Groups, codes: npt.NDArray[np.int32]) -> Integers:
    """Rows in every cell of the tables of all pairs; a row counts where it knows both codes.

    Args:
        groups: The groups.
        codes: (n, blocks); -1 is unknown.

    Returns:
        (groups.n_cells,) the tables one after the other, in the order of groups.pairs.
    """
    # A last group holds what is unknown, and is cut off at the end.
    grouped = [
        np.append(of_code, size)[column]
        for of_code, size, column in zip(groups.of_code, groups.sizes, codes.T, strict=True)
    ]
    tables = [np.zeros(0, dtype=np.int64)]
    for i, j in groups.pairs:
        rows, columns = groups.sizes[i] + 1, groups.sizes[j] + 1
        cells = np.bincount(grouped[i] * columns + grouped[j], minlength=rows * columns)
        tables.append(cells.reshape(rows, columns)[:-1, :-1].ravel())
    return np.concatenate(tables).astype(np.int64, copy=False)


def mutual_information(groups: Groups, counts: Integers) -> Floats:
    """Mutual information of every pair of blocks, in nats.

    A table of independent columns seems to hold (cells - rows - columns + 1) / 2n by chance, where
    only those that are not empty count (Miller 1955); that is taken off.

    Args:
        groups: The groups.
        counts: Of `count_pairs`, summed.

    Returns:
        (blocks, blocks) symmetric; slightly below 0 for pairs that have nothing in common.
    """
    information = np.zeros((len(groups.sizes), len(groups.sizes)))
    start = 0
    for i, j in groups.pairs:
        stop = start + groups.sizes[i] * groups.sizes[j]
        table = counts[start:stop].reshape(groups.sizes[i], -1).astype(np.float64)
        information[i, j] = information[j, i] = _corrected(table)
        start = stop
    return information


def _corrected(table: Floats) -> float:
    """Mutual information of one table, less its bias."""
    n, rows, columns = table.sum(), table.sum(1), table.sum(0)
    if n <= 0:
        return 0.0
    i, j = np.nonzero(table)
    cells = table[i, j]
    found = float(np.sum(cells * np.log(cells * n / (rows[i] * columns[j]))) / n)
    bias = (len(cells) - np.count_nonzero(rows) - np.count_nonzero(columns) + 1) / (2 * n)
    return found - float(bias)


def central_parents(weights: Floats) -> tuple[int, ...]:
    """The maximum spanning tree, hung from its centre.

    From the centre no node is farther than from any other, so what a root says of a leaf goes
    through few tables.

    Args:
        weights: (n, n) symmetric, of the edges.

    Returns:
        The parent of every node; -1 for the root.
    """
    neighbours = _spanning_tree(weights)
    end = int(np.argmax(_distances(neighbours, 0)))
    from_end = _distances(neighbours, end)
    from_other = _distances(neighbours, int(np.argmax(from_end)))
    # Those two are the ends of a longest path, and the centre of a tree halves it.
    root = int(np.argmin(np.maximum(from_end, from_other)))
    depth = _distances(neighbours, root)
    return tuple(
        -1 if node == root else next(n for n in neighbours[node] if depth[n] < depth[node])
        for node in range(len(weights))
    )


def _spanning_tree(weights: Floats) -> list[list[int]]:
    """Neighbours of every node in the maximum spanning tree, grown from node 0 (Prim 1957)."""
    n = len(weights)
    neighbours: list[list[int]] = [[] for _ in range(n)]
    best, link = weights[0].copy(), np.zeros(n, dtype=np.int64)
    outside = np.ones(n, dtype=bool)
    outside[0] = False
    for _ in range(n - 1):
        node = int(np.argmax(np.where(outside, best, -np.inf)))
        neighbours[node].append(int(link[node]))
        neighbours[int(link[node])].append(node)
        outside[node] = False
        closer = weights[node] > best
        best[closer], link[closer] = weights[node][closer], node
    return neighbours


def _distances(neighbours: Sequence[Sequence[int]], start: int) -> Integers:
    """Edges between a node and every other one."""
    distances = np.full(len(neighbours), -1)
    distances[start] = 0
    reached = [start]
    for node in reached:
        for other in neighbours[node]:
            if distances[other] < 0:
                distances[other] = distances[node] + 1
                reached.append(other)
    return distances
