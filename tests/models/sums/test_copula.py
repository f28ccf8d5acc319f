"""A copula fitted from sums: against simulated tables, brute force and another library."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import multivariate_normal

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, FederationError, GenesisError, PlanError, TrainingError
from genesis.models.sums import Budget, Question
from genesis.models.sums.copula import Copula
from genesis.models.sums.normal_scores import Cells, latent_correlation, nearest_correlation
from genesis.models.sums.rows import SumRows
from genesis.models.sums.truncated_normal import draw_truncated


def rng(seed=0):
    return np.random.default_rng(seed)


def rows_of(codes, layout):
    scalars = np.zeros((len(codes), layout.n_scalars), np.float32)
    return SumRows(layout, Codes(scalars, codes.astype(np.int32)))


def counts_of(codes, layout):
    """(S,) how often each code occurs."""
    columns = zip(codes.T, layout.block_widths, strict=True)
    return np.concatenate([np.bincount(c[c >= 0], minlength=w) for c, w in columns]).astype(float)


def normal_codes(correlation, probabilities, n, seed=0):
    """Codes of jointly normal numbers."""
    z = rng(seed).multivariate_normal(np.zeros(len(correlation)), correlation, n)
    cuts = [ndtri(np.cumsum(p)[:-1]) for p in probabilities]
    return np.stack([np.searchsorted(c, x) for c, x in zip(cuts, z.T, strict=True)], axis=1)


def fitted(layout, shards, *, noise=0.0, config=None, seed=0):
    """A copula of some shards of codes; the sums come with noise where there is a budget."""
    counts = sum(counts_of(codes, layout) for codes in shards)
    fit = Copula.fit(
        layout,
        config or {},
        rows=sum(map(len, shards)),
        frequencies=counts,
        n_rounds=5,
        seed=0,
        budget=Budget(0.01) if noise else None,
    )
    while question := fit.question():
        total = sum(Copula.answer(rows_of(codes, layout), question) for codes in shards)
        deviation = noise * question.norm if noise else 0.0
        total = total + np.rint(rng(seed).normal(0, deviation, total.shape)).astype(np.int64)
        final = fit.take(total, deviation)
    assert final is not None
    model = Copula(layout, fit.config)
    model.set_vector(fit.vector)
    return model


LAYOUT = Layout((5, 4), (3, 2))
CORRELATION = np.array(
    [[1, 0.6, -0.4, 0.3], [0.6, 1, 0.1, 0.5], [-0.4, 0.1, 1, 0.2], [0.3, 0.5, 0.2, 1]]
)
PROBABILITIES = [
    np.array([0.1, 0.2, 0.4, 0.2, 0.1]),
    np.array([0.7, 0.1, 0.1, 0.1]),
    np.array([0.2, 0.5, 0.3]),
    np.array([0.85, 0.15]),
]


@pytest.fixture(scope="module")
def model():
    return fitted(LAYOUT, [normal_codes(CORRELATION, PROBABILITIES, 20_000)])


@pytest.fixture(scope="module")
def table():
    """The joint probabilities of the model's codes, by integrating the density over every cell."""
    cells = [Cells.of(p) for p in PROBABILITIES]
    normal = multivariate_normal(np.zeros(4), CORRELATION, seed=0, abseps=1e-6, releps=1e-6)
    joint = np.zeros([len(p) for p in PROBABILITIES])
    for place in np.ndindex(joint.shape):
        low = [c.edges[k] for c, k in zip(cells, place, strict=True)]
        high = [c.edges[k + 1] for c, k in zip(cells, place, strict=True)]
        joint[place] = normal.cdf(high, lower_limit=low)
    return joint / joint.sum()


# Scores and correlations.


def test_scores_are_means_of_the_cells():
    p = np.array([0.01, 0.29, 0.0, 0.6, 0.1])
    scores, z = Cells.of(p).scores, ndtri((np.arange(1e6) + 0.5) / 1e6)
    code = np.searchsorted(np.cumsum(p)[:-1], ndtr(z), side="right")
    for k in (0, 1, 3, 4):
        assert scores[k] == pytest.approx(z[code == k].mean(), abs=1e-4)
    assert scores[1] < scores[2] < scores[3]
    assert p @ scores == pytest.approx(0, abs=1e-12)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_scores_ascend_and_are_bounded(counts):
    cells = Cells.of(np.array(counts, float))
    assert (np.diff(cells.scores) >= -1e-9).all()
    assert (np.abs(cells.scores) <= 8).all()
    assert cells.probabilities.sum() == pytest.approx(1)
    assert cells.edges[-1] == np.inf
    assert cells.edges[0] == -np.inf


@pytest.mark.parametrize("rho", [-0.95, -0.5, 0.0, 0.3, 0.9])
def test_latent_correlation_undoes_the_cells(rho):
    """Scores of the exact joint distribution of two cut normals give back their correlation."""
    cells = [Cells.of(p) for p in PROBABILITIES[:2]]
    normal = multivariate_normal(np.zeros(2), [[1, rho], [rho, 1]])
    mass = np.array(
        [
            [
                normal.cdf([b, d], lower_limit=[a, c])
                for c, d in zip(cells[1].edges, cells[1].edges[1:], strict=False)
            ]
            for a, b in zip(cells[0].edges, cells[0].edges[1:], strict=False)
        ]
    )
    scores = [c.scores for c in cells]
    spread = np.sqrt(np.prod([c.probabilities @ c.scores**2 for c in cells]))
    scored = scores[0] @ mass @ scores[1] / spread
    found = latent_correlation(np.full((2, 2), scored), cells, scores)[0, 1]
    assert found == pytest.approx(rho, abs=2e-3)
    if rho:
        assert abs(scored) < abs(rho) - 0.01


def test_nearest_correlation():
    """The example of Higham 2002, section 4, up to the smallest eigenvalue; valid ones stay."""
    y = 2 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)
    wrong = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], float)
    np.testing.assert_allclose(
        nearest_correlation(wrong),
        [[1, 0.7607, 0.1573], [0.7607, 1, 0.7607], [0.1573, 0.7607, 1]],
        atol=1e-3,
    )
    np.testing.assert_allclose(nearest_correlation(CORRELATION), CORRELATION, atol=1e-12)
    assert np.linalg.eigvalsh(nearest_correlation(y / 2 * 3 - np.eye(4) * 2))[0] > 0


# The fit.


def test_the_correlation_is_found(model):
    assert np.abs(model.correlation - CORRELATION).max() < 0.025
    for cells, p in zip(model.cells, PROBABILITIES, strict=True):
        np.testing.assert_allclose(cells.probabilities, p, atol=0.015)


def test_another_library_finds_the_same():
    """SDV's copula on the numbers themselves, ours on their deciles."""
    import pandas as pd
    from sdv.metadata import Metadata
    from sdv.single_table import GaussianCopulaSynthesizer

    n = 4000
    z = rng().multivariate_normal(np.zeros(4), CORRELATION, n)
    numbers = pd.DataFrame(z, columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = {name: {"sdtype": "numerical"} for name in numbers}
        metadata = Metadata.load_from_dict({"tables": {"table": {"columns": columns}}})
        theirs = GaussianCopulaSynthesizer(
            metadata, default_distribution="norm", enforce_min_max_values=False
        )
        theirs.fit({"table": numbers})
    cuts = np.quantile(z, np.linspace(0.1, 0.9, 9), axis=0)
    codes = np.stack([np.searchsorted(c, x) for c, x in zip(cuts.T, z.T, strict=True)], axis=1)
    ours = fitted(Layout((10,) * 4, ()), [codes]).correlation
    # Standard error of a correlation, (1 - ρ²) / √n, is at most 0.016 here.
    assert np.abs(ours - theirs._model.correlation.to_numpy()).max() < 0.02


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 60), st.integers(0, 1000), st.booleans())
def test_any_split_is_the_pooled_table(shards, n, seed, private):
    codes = normal_codes(CORRELATION, PROBABILITIES, n, seed)
    codes[rng(seed).random(codes.shape) < 0.1] = -1
    shard_of = rng(seed).integers(0, shards, n)
    split = [codes[shard_of == k] for k in range(shards)]
    fit = Copula.fit(
        LAYOUT,
        {},
        rows=n,
        frequencies=counts_of(codes, LAYOUT),
        n_rounds=1,
        seed=0,
        budget=Budget(1.0) if private else None,
    )
    question = fit.question()
    pooled = Copula.answer(rows_of(codes, LAYOUT), question)
    assert pooled.dtype == np.int64
    assert pooled.shape == (question.size,)
    parts = [Copula.answer(rows_of(each, LAYOUT), question) for each in split]
    np.testing.assert_array_equal(sum(parts), pooled)
    for row in codes[:5]:
        one = Copula.answer(rows_of(row[None], LAYOUT), question)
        assert np.linalg.norm(one.astype(float)) <= question.norm
    fit.take(pooled)
    assert torch.isfinite(fit.vector).all()


def test_the_norm_holds_whatever_is_asked():
    """A row at the end of every block is scaled down, not refused."""
    codes = normal_codes(CORRELATION, PROBABILITIES, 50)
    fit = Copula.fit(LAYOUT, {}, rows=50, frequencies=counts_of(codes, LAYOUT), n_rounds=1, seed=0)
    asked = fit.question()
    ends = np.array(LAYOUT.block_widths) - 1
    free = np.linalg.norm(Copula.answer(rows_of(ends[None], LAYOUT), asked).astype(float))
    small = Question(asked.kind, asked.size, arrays=asked.arrays, norm=free / 1.5)
    held = np.linalg.norm(Copula.answer(rows_of(ends[None], LAYOUT), small).astype(float))
    assert 0.5 * small.norm < held <= small.norm


def test_clipping_leaves_the_correlation(model):
    """A norm without noise costs next to nothing."""
    codes = normal_codes(CORRELATION, PROBABILITIES, 20_000)
    private = fitted(LAYOUT, [codes], noise=1e-9)
    assert np.abs(private.correlation - model.correlation).max() < 0.01


def test_noise_shrinks_what_it_hides():
    codes = normal_codes(CORRELATION, PROBABILITIES, 20_000)
    usual, loud = (fitted(LAYOUT, [codes], noise=noise) for noise in (20, 1e4))
    assert np.abs(usual.correlation - CORRELATION).max() < 0.05
    independent = normal_codes(np.eye(4), PROBABILITIES, 20_000)
    small, raw = [], []
    for seed in range(20):
        small.append(np.abs(fitted(LAYOUT, [independent], noise=100, seed=seed).correlation))
        raw.append((small[-1] > 1e-6).sum() - 4)
    assert np.mean(raw) < 12 * 0.5
    assert np.isfinite(loud.correlation).all()


def test_sums_of_no_table():
    fit = Copula.fit(LAYOUT, {}, rows=9, frequencies=np.ones(14), n_rounds=1, seed=0)
    size = fit.question().size
    with pytest.raises(TrainingError, match="sums of a copula are 20 numbers"):
        fit.take(np.zeros(3, np.int64))
    with pytest.raises(TrainingError, match="negative"):
        fit.take(np.full(size, -5, np.int64))


@pytest.mark.parametrize(
    "change",
    [{"kind": "other"}, {"size": 3}, {"arrays": {}}, {"norm": 1.0}, {"norm": float("nan")}],
    ids=str,
)
def test_other_questions_are_refused(change):
    asked = Copula.fit(LAYOUT, {}, rows=9, frequencies=np.ones(14), n_rounds=1, seed=0).question()
    fields = {"kind": asked.kind, "size": asked.size, "arrays": asked.arrays, **change}
    with pytest.raises(FederationError, match="no question of a copula"):
        Copula.answer(rows_of(np.zeros((2, 4)), LAYOUT), Question(**fields))


def test_the_fit_goes_on_from_its_state():
    codes = normal_codes(CORRELATION, PROBABILITIES, 500)
    begin = {"rows": 500, "frequencies": counts_of(codes, LAYOUT), "n_rounds": 1, "seed": 0}
    first, second = (Copula.fit(LAYOUT, {}, **begin) for _ in range(2))
    assert second.question().size == first.question().size
    first.take(Copula.answer(rows_of(codes, LAYOUT), first.question()))
    second.restore(*first.to_state())
    assert second.question() is None
    assert torch.equal(second.vector, first.vector)


@pytest.mark.parametrize(
    "layout",
    [
        Layout((), ()),
        Layout((1,), ()),
        Layout((), (3,)),
        Layout((1, 4), (1, 2)),
        Layout((7, 9), ()),
    ],
    ids=str,
)
@pytest.mark.parametrize("n", [0, 1, 40])
def test_odd_tables(layout, n):
    codes = np.stack([rng(w).integers(-1, w, n) for w in (*layout.block_widths, 1)], axis=1)
    codes = codes[:, : layout.n_blocks]
    counts = np.concatenate([counts_of(codes, layout), []]) if layout.n_blocks else np.empty(0)
    fit = Copula.fit(layout, {}, rows=n, frequencies=counts, n_rounds=1, seed=0)
    if question := fit.question():
        fit.take(Copula.answer(rows_of(codes, layout), question))
    assert fit.question() is None
    model = Copula(layout, {})
    model.set_vector(fit.vector)
    drawn = model.generate(9, None, rng())
    assert drawn.codes.shape == (9, layout.n_blocks)
    assert ((drawn.codes >= 0) & (drawn.codes < np.array(layout.block_widths))).all()


# What it generates.


def distance(codes, table):
    """Total variation between rows and a joint distribution."""
    found = np.zeros(table.shape)
    np.add.at(found, tuple(codes.T), 1 / len(codes))
    return np.abs(found - table).sum() / 2


def test_rows_have_the_distribution(model, table):
    drawn = model.generate(100_000, None, rng())
    assert drawn.codes.dtype == np.int32
    assert drawn.scalars.dtype == np.float32
    assert (np.abs(drawn.scalars) <= 1).all()
    # Expected sampling error: Σ √(2 p / π n) / 2 ≈ 0.012; the model's own: as much.
    assert distance(drawn.codes, table) < 0.03


@pytest.mark.parametrize(
    "allowed",
    [
        {3: [False, True]},
        {0: [True, False, False, False, True], 3: [False, True]},
        {1: [False, False, False, True], 2: [True, False, True]},
    ],
    ids=["one", "two", "uneven"],
)
def test_conditional_rows_have_the_conditional_distribution(model, table, allowed):
    allowed = {block: np.array(mask) for block, mask in allowed.items()}
    given_that = table.copy()
    for block, mask in allowed.items():
        given_that *= mask.reshape([-1 if b == block else 1 for b in range(4)])
    condition = Condition(allowed)
    drawn = model.generate(40_000, condition, rng())
    assert condition.holds(drawn.codes).all()
    assert distance(drawn.codes, given_that / given_that.sum()) < 0.03


def test_a_condition_may_cut_a_code(model, table):
    """Half of what decodes from a code satisfies it: half as many rows have it."""
    shares = np.array([1.0, 0.5, 0.0, 0.0, 0.0])
    condition = Condition({0: shares > 0, 3: np.array([False, True])}, shares={0: shares})
    drawn = model.generate(40_000, condition, rng())
    given_that = table * shares[:, None, None, None] * np.array([0, 1])
    assert distance(drawn.codes, given_that / given_that.sum()) < 0.03


def test_completed_rows_have_the_conditional_distribution(model, table):
    codes = np.tile(np.array([[4, -1, 0, -1], [-1, 3, -1, 1]], np.int32), (20_000, 1))
    filled = model.complete(codes, {3: np.array([True, True])}, rng())
    np.testing.assert_array_equal(filled[codes >= 0], codes[codes >= 0])
    first, second = table.copy(), table.copy()
    for place in np.ndindex(table.shape):
        first[place] *= place[0] == 4 and place[2] == 0
        second[place] *= place[1] == 3 and place[3] == 1
    assert distance(filled[::2], first / first.sum()) < 0.03
    assert distance(filled[1::2], second / second.sum()) < 0.03


def test_nothing_unknown_stays(model):
    codes = normal_codes(CORRELATION, PROBABILITIES, 100).astype(np.int32)
    np.testing.assert_array_equal(model.complete(codes, {}, rng()), codes)
    assert model.complete(codes[:0], {}, rng()).shape == (0, 4)


def test_evidence_without_probability():
    layout = Layout((), (3, 2))
    model = Copula(layout, {}, frequencies=np.array([5.0, 0.0, 5.0, 3.0, 7.0]))
    with pytest.raises(ConditionError, match="block 0 has no probability"):
        model.generate(3, Condition({0: np.array([False, True, False])}), rng())
    with pytest.raises(ConditionError, match="block 0 has no probability"):
        model.complete(np.array([[1, -1]], np.int32), {}, rng())
    assert not (model.generate(3000, None, rng()).codes[:, 0] == 1).any()


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({2: np.zeros(3, dtype=bool)}, "allows no code of block 2"),
        ({2: np.ones(4, dtype=bool)}, "block 2 does not fit"),
        ({9: np.ones(3, dtype=bool)}, "block 9 does not fit"),
    ],
)
def test_impossible_conditions(model, allowed, message):
    with pytest.raises(ConditionError, match=message):
        model.generate(1, Condition(allowed), rng())


@pytest.mark.parametrize(
    ("low", "high"), [(-np.inf, np.inf), (-1, 2), (5, np.inf), (-400.5, -400), (30, 31), (2, 2)]
)
def test_truncated_normals(low, high):
    drawn = draw_truncated(np.full(50_000, float(low)), np.full(50_000, float(high)), rng())
    assert ((drawn >= low) & (drawn <= high)).all()
    if np.isfinite([low, high]).all() and high > low:
        grid = np.linspace(low, high, 200_001)
        density = np.exp(-0.5 * (grid**2 - np.min(grid**2)))
    else:
        grid = np.linspace(max(low, -12.0), min(high, 12.0), 200_001)
        density = np.exp(-0.5 * (grid**2 - np.min(grid**2)))
    mean = (grid * density).sum() / density.sum()
    assert drawn.mean() == pytest.approx(mean, abs=0.02)


# Scores, vectors, options.


def test_likely_rows_score_higher(model, table):
    """The approximation follows the logarithm of the true probabilities."""
    codes = np.array(list(np.ndindex(table.shape)))
    scores = model.row_scores(rows_of(codes, LAYOUT).codes, rng())["log_likelihood"]
    wanted = np.log(table.reshape(-1).clip(min=1e-12))
    common = wanted > np.log(1e-4)
    assert np.corrcoef(scores[common], wanted[common])[0, 1] > 0.95
    some = codes.copy()[:7]
    some[:, 1] = -1
    every = model.row_scores(rows_of(np.concatenate([codes, some]), LAYOUT).codes, rng())
    np.testing.assert_allclose(every["log_likelihood"][: len(codes)], scores)
    assert np.isfinite(every["log_likelihood"]).all()


@given(st.integers(0, 1000))
def test_every_vector_is_a_model(seed):
    model = Copula(LAYOUT, {})
    generator = torch.Generator().manual_seed(seed)
    model.set_vector(torch.randn(model.parameters.size, generator=generator))
    assert np.linalg.eigvalsh(model.correlation)[0] > 0
    codes = model.generate(20, None, rng()).codes
    assert ((codes >= 0) & (codes < LAYOUT.block_widths)).all()


def test_vectors(model):
    copy = Copula(LAYOUT, {})
    copy.set_vector(model.get_vector())
    assert torch.equal(copy.get_vector(), model.get_vector())
    np.testing.assert_array_equal(
        copy.generate(50, None, rng()).codes, model.generate(50, None, rng()).codes
    )
    assert list(model.parameters.parts) == ["generator"]
    with pytest.raises(GenesisError, match=f"{model.parameters.size} parameters"):
        model.set_vector(torch.zeros(3))
    with pytest.raises(GenesisError, match="not finite"):
        copy.set_vector(torch.full_like(model.get_vector(), torch.nan))


def test_options_are_checked():
    Copula.check_config({"sweeps": 5, "verbose": True, "epochs": 3})
    with pytest.raises(PlanError, match="did you mean sweeps"):
        Copula.check_config({"sweep": 3})
    with pytest.raises(PlanError, match="needs a whole number of at least 1"):
        Copula(LAYOUT, {"sweeps": 0})
