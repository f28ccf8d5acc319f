"""Rows as sums go over them: every row once, in a group that it alone decides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.codes import Codes, Layout
from genesis.models.sums.rows import BLOCK_ROWS, UNIT, SumRows

LAYOUT = Layout((4, 3), (3, 5, 2))
STARTS = np.array([0, 4, 7, 10, 15])
UNKNOWN = 17


def some_rows(n, seed=0, layout=LAYOUT):
    """Rows of which a third of the codes are unknown."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(-1, width, n) for width in layout.block_widths], axis=1)
    return Codes(np.zeros((n, layout.n_scalars), np.float32), codes.astype(np.int32))


def places_of(rows):
    return np.where(rows.codes < 0, UNKNOWN, rows.codes + STARTS)


def gathered(blocks):
    return torch.cat([*blocks, torch.zeros(0, 5, dtype=torch.int32)]).numpy()


@pytest.mark.parametrize("n", [0, 1, 7, BLOCK_ROWS, BLOCK_ROWS + 1, 3000])
def test_all_rows_come_once_and_in_order(n):
    rows = some_rows(n)
    blocks = list(SumRows(LAYOUT, rows).blocks())
    assert all(0 < len(block) <= BLOCK_ROWS for block in blocks)
    assert (gathered(blocks) == places_of(rows)).all()
    assert len(SumRows(LAYOUT, rows)) == n


@pytest.mark.parametrize("size", [1, 10, 64])
def test_blocks_are_as_small_as_is_asked(size):
    rows = some_rows(100)
    blocks = list(SumRows(LAYOUT, rows).blocks(size=size))
    assert max(map(len, blocks)) == size
    assert (gathered(blocks) == places_of(rows)).all()


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_groups_divide_the_rows(groups):
    rows = some_rows(3000)
    sums = SumRows(LAYOUT, rows)
    parts = [gathered(sums.blocks(group, groups)) for group in range(groups)]
    found = np.concatenate(parts)
    assert sorted(map(tuple, found)) == sorted(map(tuple, places_of(rows)))
    assert min(map(len, parts)) > 0.8 * 3000 / groups
    # Asked for in turn, of other numbers of groups in between: they are the same.
    assert (gathered(sums.blocks(0, groups + 1)) >= 0).all()
    assert (gathered(sums.blocks(1, groups)) == parts[1]).all()


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(0, 2**32), st.data())
def test_any_split_of_the_rows_has_the_same_groups(groups, seed, data):
    rows = some_rows(60, seed)
    shard = np.array(data.draw(st.lists(st.integers(0, 2), min_size=60, max_size=60)))
    shards = [SumRows(LAYOUT, rows.take(shard == k)) for k in range(3)]
    for group in range(groups):
        whole = gathered(SumRows(LAYOUT, rows).blocks(group, groups))
        parts = np.concatenate([gathered(s.blocks(group, groups)) for s in shards])
        assert sorted(map(tuple, whole)) == sorted(map(tuple, parts))


def test_rows_that_differ_in_one_block_are_spread_over_the_groups():
    """A hash that looked at some bits only would leave groups empty."""
    layout = Layout((), (1000, 2))
    for fixed in range(2):
        codes = np.zeros((1000, 2), np.int32)
        codes[:, 0] = np.arange(1000)
        codes[:, 1] = fixed
        sums = SumRows(layout, Codes(np.zeros((1000, 0), np.float32), codes))
        sizes = [sum(map(len, sums.blocks(group, 4))) for group in range(4)]
        assert sum(sizes) == 1000
        assert min(sizes) > 190


def test_sums_of_a_block_are_exact_in_float32():
    """The most that a block can add up to, in any order, is a whole number that float32 holds."""
    most = torch.tensor(1 / UNIT, dtype=torch.float32)
    total = torch.zeros((), dtype=torch.float32)
    for _ in range(BLOCK_ROWS - 1):
        total += most
    assert total + most == BLOCK_ROWS / UNIT
    assert total + (most - 1) == BLOCK_ROWS / UNIT - 1
