"""Priors of a mixture: against the formulas in scipy, and simulated counts."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import betaln, gammaln

from genesis.codes import Layout
from genesis.models.sums.smoothing import BANDWIDTH, HEAVY, LEAST, MOST, UNIFORM, Smoothing

WIDTHS = (6, 4, 2)
NUMBERS = Layout((6,), (4, 2))
CATEGORIES = Layout((), WIDTHS)


def rng(seed=0):
    return np.random.default_rng(seed)


def table_counts(widths=WIDTHS, seed=0):
    return torch.from_numpy(rng(seed).integers(1, 100, sum(widths)).astype(float))


def shares_of(counts):
    counts = counts.numpy()
    return (1 - UNIFORM) * counts / counts.sum() + UNIFORM / len(counts)


def evidence(counts, mean, a):
    """ln of the chance of the counts (m, K) of one block, in one order of their rows."""
    n = counts.sum(0)
    cells = gammaln(counts + a * mean[:, None]) - gammaln(a * mean)[:, None]
    return cells.sum() - (gammaln(n + a) - gammaln(a)).sum()


def simulated(mean, a, n, seed=0):
    """Counts (m, K) of components whose frequencies have a known concentration."""
    shares = rng(seed).dirichlet(a * mean, len(n))
    return np.stack([rng(seed + 1 + k).multinomial(n[k], p) for k, p in enumerate(shares)], 1)


# --- frequencies ---


def test_frequencies_are_drawn_in_to_the_table():
    counts, sums = table_counts(), torch.from_numpy(rng(1).gamma(1, 30, (12, 5)))
    smoothing = Smoothing(CATEGORIES, counts)
    smoothing.concentrations = [2.0, 0.5, 100.0]
    found = smoothing.tables(sums).split(list(WIDTHS))
    blocks = zip(found, counts.split(list(WIDTHS)), sums.split(list(WIDTHS)), strict=True)
    for (table, whole, each), a in zip(blocks, smoothing.concentrations, strict=True):
        expected = (each.numpy() + a * shares_of(whole)[:, None]) / (each.numpy().sum(0) + a)
        np.testing.assert_allclose(table.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("layout", [NUMBERS, CATEGORIES], ids=["numbers", "categories"])
@pytest.mark.parametrize("strength", [0.0, 1.0, 5.0])
def test_tables_are_distributions(layout, strength):
    """Whatever the counts are: of all rows, of none, of unknown codes alone."""
    sums = torch.from_numpy(rng().gamma(0.3, 5, (12, 4)))
    sums[:, 1] = 0
    sums[:6, 2] = 0
    counts = table_counts()
    counts[[0, 7]] = 0
    tables = Smoothing(layout, counts, strength=strength).tables(sums)
    assert tables.isfinite().all()
    for table in tables.split(list(WIDTHS)):
        assert (table >= 0).all()
        np.testing.assert_allclose(table.sum(0).numpy(), 1)


def test_no_frequency_is_nothing():
    counts = torch.zeros(12, dtype=torch.float64)
    counts[0], counts[-1] = 5, -3
    for shares in Smoothing(CATEGORIES, counts).frequencies:
        assert (shares > 0).all()
        assert float(shares.sum()) == pytest.approx(1)


def test_more_strength_is_nearer_to_the_table():
    sums = torch.from_numpy(rng().gamma(1, 5, (12, 4)))
    far = []
    for strength in (0.1, 1.0, 10.0, 1e6):
        smoothing = Smoothing(CATEGORIES, table_counts(), strength=strength)
        whole = torch.cat(smoothing.frequencies)[:, None]
        far.append(float((smoothing.tables(sums) - whole).abs().sum()))
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-2


# --- numbers: neighbours ---


def means(layout, counts, sums):
    """The means of the priors of the first block: what tables are without counts of their own."""
    smoothing = Smoothing(layout, counts)
    return smoothing.frequencies[0].numpy(), smoothing._mean(0, sums).numpy()


def test_the_mean_of_a_number_is_smoothed_over_neighbours():
    width = 40
    layout, counts = Layout((width,), ()), torch.full((width,), 25.0, dtype=torch.float64)
    sums = torch.zeros(width, 3, dtype=torch.float64)
    sums[10, 0], sums[:, 1] = 200, 5
    shares, mean = means(layout, counts, sums)
    np.testing.assert_allclose(mean.sum(0), 1)
    np.testing.assert_allclose(mean[:, 1], shares)  # as the table
    np.testing.assert_allclose(mean[:, 2], shares)  # of no rows
    # A Gaussian of the distance in rows, of 200 rows at one place and one of the whole table.
    position = (np.arange(width) + 0.5) / width
    kernel = np.exp(-0.5 * ((position[:, None] - position) / BANDWIDTH) ** 2)
    near = kernel @ shares
    expected = shares * (200 * kernel[:, 10] + near) / near
    np.testing.assert_allclose(mean[:, 0], expected / expected.sum())
    assert mean[:, 0].argmax() == 10
    assert mean[11, 0] > mean[14, 0] > mean[30, 0]


def test_frequent_values_and_null_are_near_to_nothing():
    width = 20
    counts = torch.full((width,), 10.0, dtype=torch.float64)
    counts[5] = 10 * HEAVY * width
    sums = torch.zeros(width, 2, dtype=torch.float64)
    sums[5, 0] = sums[-1, 1] = 100
    shares, mean = means(Layout((width,), (), (True,)), counts, sums)
    for column, alone in ((0, 5), (1, width - 1)):
        others = np.delete(np.arange(width), alone)
        ratio = (mean[:, column] / shares)[others]
        np.testing.assert_allclose(ratio, ratio[0])
        assert mean[alone, column] > shares[alone]


# --- concentrations ---


def test_evidence_is_that_of_the_dirichlet_multinomial():
    counts = table_counts()
    sums = rng(2).integers(0, 40, (12, 5)).astype(float)
    sums[:6, 1] = 0
    smoothing = Smoothing(CATEGORIES, counts)
    smoothing.concentrations = [3.0, 0.2, 50.0]
    starts, expected = np.cumsum([0, *WIDTHS]), 0.0
    for block, a in enumerate(smoothing.concentrations):
        rows = slice(starts[block], starts[block + 1])
        expected += evidence(sums[rows], shares_of(counts[rows]), a)
    assert smoothing.evidence(torch.from_numpy(sums)) == pytest.approx(expected, rel=1e-9)


def test_evidence_of_two_codes_is_the_beta_binomial():
    counts = torch.tensor([30.0, 70.0], dtype=torch.float64)
    smoothing = Smoothing(Layout((), (2,)), counts)
    smoothing.concentrations = [4.0]
    p, q = 4 * shares_of(counts)
    found = smoothing.evidence(torch.tensor([[7.0], [2.0]], dtype=torch.float64))
    assert found == pytest.approx(betaln(7 + p, 2 + q) - betaln(p, q))


@pytest.mark.parametrize("a", [0.3, 3.0, 30.0])
def test_concentrations_are_the_likeliest(a):
    """The fixed point, followed for long, is where scipy finds the largest evidence."""
    width = 8
    counts = torch.from_numpy(rng(3).integers(50, 500, width).astype(float))
    mean = shares_of(counts)
    sums = simulated(mean, a, [200] * 60).astype(float)
    smoothing = Smoothing(Layout((), (width,)), counts)
    for _ in range(300):
        smoothing.learn(torch.from_numpy(sums))
    best = minimize_scalar(
        lambda log_a: -evidence(sums, mean, np.exp(log_a)), bounds=(-7, 9), method="bounded"
    )
    found = smoothing.concentrations[0]
    assert np.log(found) == pytest.approx(best.x, abs=0.01)
    assert found == pytest.approx(a, rel=0.35)


def test_every_step_towards_a_concentration_is_likelier():
    sums = torch.from_numpy(simulated(np.full(6, 1 / 6), 5.0, [100] * 20).astype(float))
    smoothing = Smoothing(Layout((), (6,)), torch.full((6,), 20.0, dtype=torch.float64))
    found = []
    for _ in range(30):
        found.append(smoothing.evidence(sums))
        smoothing.learn(sums)
    assert (np.diff(found) >= -1e-9).all()


def test_components_that_do_not_differ_become_the_table():
    counts = torch.tensor([100.0, 300.0, 600.0], dtype=torch.float64)
    smoothing = Smoothing(Layout((), (3,)), counts)
    for _ in range(500):
        smoothing.learn(counts[:, None].repeat(1, 10) * 0.7)
    assert 500 < smoothing.concentrations[0] <= MOST


def test_components_that_share_nothing_are_left_alone():
    smoothing = Smoothing(Layout((), (4,)), torch.full((4,), 1e4, dtype=torch.float64))
    for _ in range(50):
        smoothing.learn(torch.eye(4, dtype=torch.float64) * 1e4)
    assert LEAST <= smoothing.concentrations[0] < 0.5


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 1e-4, 1e12])
def test_no_counts_break_a_concentration(value):
    smoothing = Smoothing(NUMBERS, table_counts())
    for layout_sums in (torch.full((12, 3), value, dtype=torch.float64), torch.zeros(12, 0)):
        smoothing.learn(layout_sums.double())
        assert all(LEAST <= a <= MOST for a in smoothing.concentrations)
        assert np.isfinite(smoothing.evidence(layout_sums.double()))


def test_a_block_of_one_code_has_nothing_to_learn():
    layout = Layout((1,), (1, 2))
    smoothing = Smoothing(layout, torch.tensor([9.0, 9.0, 4.0, 5.0], dtype=torch.float64))
    before = smoothing.concentrations[:2]
    sums = torch.tensor([[5.0, 4.0], [5.0, 4.0], [4.0, 0.0], [1.0, 4.0]], dtype=torch.float64)
    smoothing.learn(sums)
    assert smoothing.concentrations[:2] == before
    assert (smoothing.tables(sums)[:2] == 1).all()
