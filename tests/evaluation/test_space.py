"""The space of mixed rows."""

import numpy as np
import pandas as pd
import pytest
import torch

from genesis.evaluation.rows import align
from genesis.evaluation.space import AXES, Space
from tests.dirty import dirty_table


def squared(points: torch.Tensor) -> np.ndarray:
    """Squared distances of all pairs."""
    x = points.double().numpy()
    return np.stack([((x - each) ** 2).sum(1) for each in x])


def embed(table: pd.DataFrame, reference: pd.DataFrame | None = None) -> torch.Tensor:
    tables = {"real": table, "reference": table if reference is None else reference}
    rows = align(tables).rows
    return Space.fit(rows["reference"]).embed(rows["real"])


def test_no_column_adds_more_than_one() -> None:
    table = dirty_table(400)
    rows = align({"real": table}).rows["real"]
    n_columns = len(rows.columns.names)
    assert squared(Space.fit(rows).embed(rows)).max() <= n_columns * 1.01


def test_equal_rows_have_no_distance_and_others_have_one() -> None:
    table = dirty_table(300)
    rows = align({"real": table}).rows["real"]
    distances = squared(Space.fit(rows).embed(rows))
    equal = rows.keys()[:, None] == rows.keys()[None, :]
    assert (distances[equal] == 0).all()
    assert (distances[~equal] > 0).all()


def test_numbers_stand_at_their_ranks() -> None:
    table = pd.DataFrame({"x": [0.5, 1.5, 100.5, 1000.5]})
    points = embed(table)
    np.testing.assert_allclose(points[:, 0], [0.125, 0.375, 0.625, 0.875])


def test_ties_share_a_rank() -> None:
    points = embed(pd.DataFrame({"x": [0, 0, 0, 5]}))
    np.testing.assert_allclose(points[:, 0], [0.375, 0.375, 0.375, 0.875])


def test_numbers_outside_of_the_reference_stay_apart() -> None:
    reference = pd.DataFrame({"x": np.linspace(0.5, 1.5, 50)})
    table = pd.DataFrame({"x": [-1000.5, -10.5, 0.5, 1.5, 10.5, 1000.5]})
    x = embed(table, reference)[:, 0].numpy()
    assert (np.diff(np.sort(x)) > 0.01).all()


@pytest.mark.parametrize("factor", [1, 1e9])
def test_the_scale_of_a_column_does_not_matter(factor: float) -> None:
    table = dirty_table(200)
    scaled = table.assign(**{"größe, cm": table["größe, cm"] * factor})
    np.testing.assert_allclose(np.sort(embed(scaled)), np.sort(embed(table)), atol=1e-6)


def test_categories_are_at_distance_one() -> None:
    distances = squared(embed(pd.DataFrame({"x": list("abcab")})))
    assert set(np.round(distances, 6).ravel()) == {0.0, 1.0}


def test_many_categories_share_dimensions() -> None:
    table = pd.DataFrame({"x": [f"c{i // 2}" for i in range(2000)]})
    points = embed(table)
    assert points.shape == (2000, AXES)
    distances = squared(points)[np.triu_indices(2000, 1)]
    assert (distances == 0).sum() == 1000
    others = distances[distances > 0]
    assert others.mean() == pytest.approx(1, abs=0.01)
    assert others.min() > 0.2


def test_nulls_are_far_from_values() -> None:
    points = embed(pd.DataFrame({"x": [0.5, 1.5, 2.5, np.nan, np.nan]}))
    distances = squared(points)
    assert (distances[3, :3] >= 0.7499).all()
    assert distances[3, 4] == 0


def test_a_reference_of_nulls_and_unseen_categories() -> None:
    reference = pd.DataFrame({"x": [np.nan, np.nan], "y": ["a", "b"]})
    table = pd.DataFrame({"x": [1.5, -3.5], "y": ["c", "a"]})
    assert torch.isfinite(embed(table, reference)).all()


def test_one_row() -> None:
    reference = pd.DataFrame({"x": [3.5], "y": ["a"]})
    table = pd.DataFrame({"x": [1.5, 3.5], "y": ["a", "b"]})
    assert torch.isfinite(embed(table, reference)).all()
