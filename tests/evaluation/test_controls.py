"""Tables whose leak is known leak what they should, and nothing else."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.evaluation.controls import copier, fresh, leak, noisy_copier, recoded, shuffled
from genesis.evaluation.rows import Rows
from tests.evaluation.population import only, population

seeds = st.integers(0, 2**32 - 1)

MEMBERS, OTHERS = population(200, 0), population(150, 1)

CONTROLS: dict[str, Callable[[int], Rows]] = {
    "copier": lambda seed: copier(MEMBERS, 120, seed),
    "noisy_copier": lambda seed: noisy_copier(MEMBERS, 120, seed),
    "leak": lambda seed: leak(MEMBERS, OTHERS, 120, seed),
    "fresh": lambda seed: fresh(OTHERS, 120, seed),
    "shuffled": lambda seed: shuffled(MEMBERS, seed),
    "recoded": lambda seed: recoded(MEMBERS, seed),
}


def counted(rows: Rows) -> Counter[int]:
    return Counter(rows.keys().tolist())


def same(a: Rows, b: Rows) -> bool:
    return a.keys().tolist() == b.keys().tolist()


@pytest.mark.parametrize("name", CONTROLS)
def test_the_seed_decides(name: str) -> None:
    assert same(CONTROLS[name](3), CONTROLS[name](3))
    assert not same(CONTROLS[name](3), CONTROLS[name](4))


@pytest.mark.parametrize("rows", [MEMBERS.take(slice(0, 1)), MEMBERS], ids=["one row", "many"])
@pytest.mark.parametrize("columns", ["numbers", "categories", "nulls"])
def test_any_table_will_do(rows: Rows, columns: str) -> None:
    if columns == "nulls":
        rows = replace(rows, numeric=rows.numeric * np.nan, codes=rows.codes * 0)
    else:
        none = slice(0, 0)
        rows = only(rows, **{"discrete" if columns == "numbers" else "numeric": none})
    made = [copier(rows, 5, 0), noisy_copier(rows, 5, 0), leak(rows, rows, 5, 0)]
    made += [fresh(rows, 5, 0), shuffled(rows, 0), recoded(rows, 0)]
    for table in made:
        assert table.columns == rows.columns
        assert len(table) in (5, len(rows), min(5, 1 + len(rows)))
        if columns == "nulls":
            assert set(counted(table)) == set(counted(rows))


@given(seed=seeds, n=st.integers(1, 500))
def test_a_copier_copies_each_member_as_often(seed: int, n: int) -> None:
    members = only(MEMBERS, discrete=slice(0, 0)).take(~np.isnan(MEMBERS.numeric[:, 1]))
    copies = counted(copier(members, n, seed))
    assert copies.total() == n
    assert copies.keys() <= counted(members).keys()
    assert set(copies.values()) <= {n // len(members), n // len(members) + 1}


def test_noise_is_a_twentieth_of_the_spread() -> None:
    members = population(20_000, 0)
    copies, noisy = copier(members, 20_000, 5), noisy_copier(members, 20_000, 5)
    assert np.array_equal(np.isnan(noisy.numeric), np.isnan(copies.numeric))
    spread = np.nanstd(noisy.numeric - copies.numeric, axis=0)
    np.testing.assert_allclose(spread, 0.05 * np.nanstd(members.numeric, axis=0), rtol=0.03)
    for k in range(members.codes.shape[1]):
        shares = np.bincount(members.codes[:, k]) / len(members)
        changed = (noisy.codes[:, k] != copies.codes[:, k]).mean()
        # A category is drawn anew with 5 %, and then equals the old one by chance.
        assert changed == pytest.approx(0.05 * (1 - (shares**2).sum()), abs=0.006)


@given(seed=seeds)
def test_a_leak_gives_a_twentieth_of_the_members_away(seed: int) -> None:
    leaking = counted(leak(MEMBERS, OTHERS, 120, seed))
    assert leaking.total() == 120
    assert sum((leaking & counted(MEMBERS)).values()) == 10
    assert sum((leaking & counted(OTHERS)).values()) == 110


def test_a_leak_among_few_others_is_smaller_not_thinner() -> None:
    leaking = counted(leak(MEMBERS, OTHERS, 10_000, 0))
    assert leaking.total() == 10 + len(OTHERS)
    assert sum((leaking & counted(MEMBERS)).values()) == 10


@given(seed=seeds, n=st.integers(1, 200))
def test_fresh_rows_are_others_once_each(seed: int, n: int) -> None:
    rows = counted(fresh(OTHERS, n, seed))
    assert rows.total() == min(n, len(OTHERS))
    assert rows <= counted(OTHERS)


def test_shuffled_columns_keep_their_cells_and_lose_each_other() -> None:
    members = population(5_000, 0)
    mixed = shuffled(members, 0)
    np.testing.assert_array_equal(np.sort(mixed.numeric, axis=0), np.sort(members.numeric, axis=0))
    np.testing.assert_array_equal(np.sort(mixed.codes, axis=0), np.sort(members.codes, axis=0))

    def dependence(rows: Rows) -> float:
        return abs(float(np.corrcoef(rows.numeric[:, 0], rows.codes[:, 0])[0, 1]))

    assert dependence(members) > 0.5
    assert dependence(mixed) < 0.05


@given(seed=seeds)
def test_recoding_can_be_undone(seed: int) -> None:
    written = recoded(MEMBERS, seed)
    assert np.array_equal(np.isnan(written.numeric), np.isnan(MEMBERS.numeric))
    for before, after in zip(MEMBERS.numeric.T, written.numeric.T, strict=True):
        known = ~np.isnan(before)
        order = np.argsort(before[known], kind="stable")
        old, new = np.diff(before[known][order]), np.diff(after[known][order])
        # Strictly rising or strictly falling, and equal where the numbers were.
        assert (np.sign(new) == np.sign(old)).all() or (np.sign(new) == -np.sign(old)).all()
    for before, after in zip(MEMBERS.codes.T, written.codes.T, strict=True):
        pairs = set(zip(before.tolist(), after.tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert all((a == 0) == (b == 0) for a, b in pairs)


def test_a_recoded_row_resembles_no_row() -> None:
    assert not counted(recoded(MEMBERS, 0)) & counted(MEMBERS)


@pytest.mark.filterwarnings("error")
def test_the_largest_and_smallest_numbers_stay_finite() -> None:
    rng = np.random.default_rng(0)
    ends = rng.choice([-1.7e308, 1.0, 1.7e308], 60)
    numeric = np.column_stack([ends, 1e-300 * rng.normal(size=60), np.full(60, np.nan)])
    rows = replace(population(60, 0), numeric=numeric)
    for control in (noisy_copier(rows, 60, 0), recoded(rows, 0)):
        assert np.isfinite(control.numeric[:, :2]).all()
        assert np.isnan(control.numeric[:, 2]).all()
