"""Conditions and rows of training by sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.codes import Codes, Condition, Layout
from genesis.models.rows import TrainingRows
from genesis.models.sampler import Categorical, RowSampler, generation_probabilities

CPU = torch.device("cpu")


@st.composite
def shards(draw):
    widths = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    n = draw(st.integers(1, 30))
    rows = [[draw(st.integers(-1, width - 1)) for width in widths] for _ in range(n)]
    codes = np.array(rows, dtype=np.int32)
    return Layout((), widths), Codes(np.zeros((n, 0), np.float32), codes)


@given(shards(), st.booleans())
@settings(deadline=None, max_examples=100)
def test_rows_satisfy_their_conditions(shard, log_frequency):
    layout, rows = shard
    sampler = sampler_of(layout, rows, log_frequency)
    generator = torch.Generator().manual_seed(0)
    conditions = sampler.conditions(200, generator)
    drawn = sampler.rows(200, conditions, generator)
    assert ((drawn >= 0) & (drawn < len(rows))).all()
    if conditions is None:
        assert (rows.codes == -1).all()
        return
    block_of = np.repeat(np.arange(layout.n_blocks), layout.block_widths)
    block = block_of[conditions]
    code = conditions.numpy() - (layout.block_starts[:-1])[block]
    np.testing.assert_array_equal(rows.codes[drawn, block], code)


@pytest.mark.parametrize("log_frequency", [True, False])
def test_probabilities_equal_the_reference(log_frequency, make_rows, one_hot, output_info):
    from ctgan.data_sampler import DataSampler

    layout = Layout((3,), (4, 6, 1))
    rows = make_rows(layout, 300)
    features = one_hot(rows, layout).numpy()
    reference = DataSampler(features, output_info(layout), log_frequency)
    per_column = reference._discrete_column_category_prob
    wanted = np.concatenate(
        [p[:width] for p, width in zip(per_column, layout.category_widths, strict=True)]
    )
    cumulative = sampler_of(layout, rows, log_frequency)._categories._cumulative.numpy()
    np.testing.assert_allclose(np.diff(cumulative, prepend=0), wanted / 3, rtol=1e-6, atol=1e-9)


def test_rows_of_a_condition_are_equally_likely():
    rows = Codes(np.zeros((6, 0), np.float32), np.array([[0], [1], [0], [-1], [0], [0]], np.int32))
    sampler = sampler_of(Layout((), (2,)), rows, True)
    conditions = torch.zeros(40_000, dtype=torch.int64)
    drawn = sampler.rows(40_000, conditions, torch.Generator().manual_seed(0))
    share = np.bincount(drawn, minlength=6) / 40_000
    assert share == pytest.approx([0.25, 0, 0.25, 0, 0.25, 0.25], abs=0.02)


def test_categories_of_weight_zero_are_never_drawn():
    weights = torch.tensor([0.0, 1, 0, 0, 3, 0])
    drawn = Categorical(weights).draw(40_000, torch.Generator().manual_seed(0))
    share = np.bincount(drawn, minlength=6) / 40_000
    assert share == pytest.approx([0, 0.25, 0, 0, 0.75, 0], abs=0.02)
    assert share[[0, 2, 3, 5]].sum() == 0


def test_generation_probabilities():
    layout = Layout((2,), (2, 3))
    counts = np.array([30.0, 10, -5, 0, 8])

    def probabilities(*condition, frequencies=counts):
        allowed = {block: np.array(mask, dtype=bool) for block, mask in condition}
        return generation_probabilities(layout, frequencies, Condition(allowed)).tolist()

    assert probabilities() == [0.375, 0.125, 0, 0, 0.5]
    assert probabilities(frequencies=None) == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6])
    # Modes of a numeric column are no conditions.
    assert probabilities((0, [1, 0])) == [0.375, 0.125, 0, 0, 0.5]
    assert probabilities((1, [0, 1])) == [0, 1, 0, 0, 0]
    assert probabilities((1, [1, 1]), (2, [1, 0, 1])) == [0.375, 0.125, 0, 0, 0.5]
    # Nothing that is allowed was ever seen.
    assert probabilities((2, [1, 1, 0])) == [0, 0, 0.5, 0.5, 0]
    assert generation_probabilities(Layout((2,), ()), np.zeros(0), None).tolist() == []


def sampler_of(layout, rows, log_frequency):
    on_device = TrainingRows.of(rows, CPU, torch.float32)
    return RowSampler(on_device, layout, log_frequency=log_frequency)
