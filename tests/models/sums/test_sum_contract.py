"""What every model that is fitted from sums owes its callers: see `genesis.models.sums`."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, FederationError, GenesisError, PlanError
from genesis.models import (
    SUM_MODELS,
    create_model,
    default_rounds,
    encoder_choices,
    is_sum_model,
    model_class,
)
from genesis.models.sums import Question
from genesis.models.sums.rows import SumRows

LAYOUTS = {
    "numbers and categories": Layout((5, 3), (4, 2, 3), (True, False)),
    "one number": Layout((6,), ()),
    "one category": Layout((), (4,)),
    "one code": Layout((), (1,)),
    "blocks of one code": Layout((1, 4), (1, 3)),
    "many columns": Layout((4,) * 6, (2, 5, 3) * 4),
}
SMALL = {
    "mixture": {"components": 4, "groups": 3, "restarts": 2},
    "circuit": {"states": 3},
    "copula": {},
    "marginals": {"components": 8, "steps": 60},
}
N = 80
NEAR = {"circuit": 1e-6}
"""How near sums over parts of a table are to those over all of it, where they are not the same."""


@pytest.fixture(params=list(SUM_MODELS))
def name(request):
    return request.param


@pytest.fixture(params=list(LAYOUTS))
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture
def mixed():
    return LAYOUTS["numbers and categories"]


def rng(seed=0):
    return np.random.default_rng(seed)


def some_rows(layout, n=N, seed=0, unknown=0.05):
    """Rows whose columns have much in common, some of them unknown."""
    kind = rng(seed).random(n)
    noise = rng(seed + 1).random((layout.n_blocks, n))
    mixed = np.where(noise < 0.7, kind, noise)
    codes = np.stack(
        [(x**2 * w).astype(np.int32) for x, w in zip(mixed, layout.block_widths, strict=True)], 1
    )
    codes[rng(seed + 2).random(codes.shape) < unknown] = -1
    return Codes(np.zeros((n, layout.n_scalars), np.float32), codes)


def counts_of(rows, layout):
    blocks = zip(rows.codes.T, layout.block_widths, strict=True)
    return np.concatenate([np.bincount(c[c >= 0], minlength=w) for c, w in blocks]).astype(float)


def begin(name, layout, rows, *, seed=3, n_rounds=4):
    return model_class(name).fit(
        layout,
        SMALL[name],
        rows=len(rows),
        frequencies=counts_of(rows, layout),
        n_rounds=n_rounds,
        seed=seed,
    )


def sum_of(name, layout, shards, question):
    total = np.zeros(question.size, np.int64)
    for shard in shards:
        answer = model_class(name).answer(SumRows(layout, shard), question)
        assert answer.dtype == np.int64
        assert answer.shape == (question.size,)
        total += answer
    return total


def check_same(name, found, pooled):
    assert np.abs(found - pooled).max() <= NEAR.get(name, 0) * np.abs(pooled).max()


def finish(name, layout, fit, shards, after=None):
    """Answer all questions; the metrics of every round."""
    rounds = []
    while (question := fit.question()) is not None:
        metrics = fit.take(sum_of(name, layout, shards, question))
        if metrics is not None:
            rounds.append(metrics)
        if after is not None:
            after(fit)
    return rounds


def model_of(name, layout, fit):
    model = create_model(name, layout, fit.config)
    model.set_vector(fit.vector)
    return model


_fitted = {}


def fitted(name, layout):
    if (name, layout) not in _fitted:
        rows = some_rows(layout)
        fit = begin(name, layout, rows)
        finish(name, layout, fit, [rows])
        _fitted[name, layout] = model_of(name, layout, fit)
    return _fitted[name, layout]


# --- what it says of itself ---


def test_it_is_known_as_a_model_of_sums(name):
    cls = model_class(name)
    assert is_sum_model(name)
    assert cls.name == name
    assert encoder_choices(name) == {"grid": cls.grid}
    assert cls.grid > 1
    assert default_rounds(name, {}) == cls.parsed({}).epochs
    assert default_rounds(name, {"epochs": 7}) == 7
    with pytest.raises(PlanError):
        cls.check_config({"no such choice": 1})


def test_what_is_private_says_what_it_releases(name, mixed):
    cls = model_class(name)
    assert bool(cls.releases(mixed, SMALL[name])) == cls.private


# --- the fit ---


def test_it_asks_as_many_rounds_as_it_says(name, layout):
    rows = some_rows(layout)
    fit = begin(name, layout, rows)
    rounds = finish(name, layout, fit, [rows])
    assert len(rounds) == fit.n_rounds
    assert fit.question() is None
    for metrics in rounds:
        assert set(metrics) <= set(model_class(name).losses)
        assert np.isfinite(list(metrics.values())).all()
    assert fit.vector.dtype == torch.float32
    assert fit.vector.isfinite().all()


def test_asked_twice_it_is_the_same_question(name, mixed):
    rows = some_rows(mixed)
    fit = begin(name, mixed, rows)
    first, again = fit.question(), fit.question()
    assert (first.kind, first.size, first.meta, first.norm) == (
        again.kind,
        again.size,
        again.meta,
        again.norm,
    )
    assert json.loads(json.dumps(first.meta)) == first.meta
    for key, array in first.arrays.items():
        assert (array == again.arrays[key]).all()


def test_the_seed_decides_everything(name, mixed):
    rows = some_rows(mixed)
    state, vectors = torch.get_rng_state(), []
    for _ in range(2):
        fit = begin(name, mixed, rows)
        finish(name, mixed, fit, [rows])
        vectors.append(fit.vector)
    assert torch.equal(*vectors)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_rows_add_nothing(name, layout):
    rows = some_rows(layout)
    fit = begin(name, layout, rows)
    while (question := fit.question()) is not None:
        assert not sum_of(name, layout, [rows.take(slice(0, 0))], question).any()
        fit.take(sum_of(name, layout, [rows], question))


@settings(max_examples=4)
@given(st.lists(st.integers(0, 3), min_size=N, max_size=N))
@pytest.mark.parametrize("called", list(SUM_MODELS))
@pytest.mark.parametrize("columns", ["numbers and categories", "blocks of one code"])
def test_any_split_of_the_rows_gives_the_same_model(called, columns, shard):
    layout = LAYOUTS[columns]
    rows, shard = some_rows(layout), np.array(shard)
    shards = [rows.take(shard == k) for k in range(4)]  # some of them may be empty
    whole, parts = begin(called, layout, rows), begin(called, layout, rows)
    while (question := whole.question()) is not None:
        pooled = sum_of(called, layout, [rows], question)
        check_same(called, sum_of(called, layout, shards, parts.question()), pooled)
        whole.take(pooled)
        parts.take(pooled)
    assert torch.equal(whole.vector, parts.vector)
    assert whole.config == parts.config


def test_every_row_is_a_shard(name, layout):
    rows = some_rows(layout, 30)
    fit = begin(name, layout, rows)
    each = [rows.take(slice(k, k + 1)) for k in range(30)]
    while (question := fit.question()) is not None:
        pooled = sum_of(name, layout, [rows.take(rng().permutation(30))], question)
        check_same(name, sum_of(name, layout, each, question), pooled)
        fit.take(pooled)


def test_a_row_adds_no_more_than_the_norm(name, mixed):
    rows = some_rows(mixed, 20)
    fit = begin(name, mixed, rows)
    while (question := fit.question()) is not None:
        for k in range(20):
            one = sum_of(name, mixed, [rows.take(slice(k, k + 1))], question)
            assert np.linalg.norm(one.astype(float)) <= question.norm * (1 + 1e-9)
        fit.take(sum_of(name, mixed, [rows], question))


def test_rows_of_unknown_codes_alone_can_be_fitted(name, layout):
    rows = some_rows(layout, unknown=1.0)
    fit = begin(name, layout, rows)
    finish(name, layout, fit, [rows])
    assert fit.vector.isfinite().all()


@pytest.mark.parametrize("n", [2, 3, 9])
def test_few_rows_can_be_fitted(name, layout, n):
    rows = some_rows(layout, n, unknown=0)
    config = {k: v for k, v in SMALL[name].items() if k != "components" or name != "mixture"}
    frequencies = counts_of(rows, layout)
    choices = {"rows": n, "frequencies": frequencies, "n_rounds": 4, "seed": 1}
    fit = model_class(name).fit(layout, config, **choices)
    finish(name, layout, fit, [rows])
    assert fit.vector.isfinite().all()
    generated = model_of(name, layout, fit).generate(20, None, rng())
    assert (generated.codes >= 0).all()


def test_a_question_of_another_model_is_refused(name, mixed):
    rows = SumRows(mixed, some_rows(mixed))
    for kind, size in (("no such kind", 3), ("", 0)):
        with pytest.raises(FederationError):
            model_class(name).answer(rows, Question(kind, size))
    fit = begin(name, mixed, some_rows(mixed))
    asked = fit.question()
    wrong = Question(asked.kind, asked.size + 1, asked.meta, asked.arrays, asked.norm)
    with pytest.raises(FederationError):
        model_class(name).answer(rows, wrong)


# --- going on ---


def test_it_goes_on_from_every_question(name, mixed):
    """Kept as JSON and tensors after each answer, and restored in a fit of another process."""
    rows, kept = some_rows(mixed), []

    def keep(fit):
        values, tensors = fit.to_state()
        kept.append((json.dumps(values), {k: v.clone() for k, v in tensors.items()}))

    fit = begin(name, mixed, rows)
    keep(fit)
    finish(name, mixed, fit, [rows], keep)
    for values, tensors in kept:
        again = begin(name, mixed, rows)
        again.restore(json.loads(values), tensors)
        finish(name, mixed, again, [rows])
        assert torch.equal(again.vector, fit.vector)
        assert again.config == fit.config
        assert again.n_rounds == fit.n_rounds


def test_a_state_is_a_copy(name, mixed):
    rows = some_rows(mixed)
    fit = begin(name, mixed, rows)
    before = fit.vector
    for tensor in fit.to_state()[1].values():
        tensor.zero_()
    assert torch.equal(fit.vector, before)
    finish(name, mixed, fit, [rows])
    assert not torch.equal(fit.vector, before) or fit.n_rounds == 0


# --- the model ---


def test_vector_round_trip(name, layout):
    model = fitted(name, layout)
    vector = model.get_vector()
    assert vector.shape == (model.parameters.size,)
    other = create_model(name, layout, model.config.__dict__)
    other.set_vector(vector)
    assert torch.equal(other.get_vector(), vector)
    other.get_vector().zero_()
    assert torch.equal(other.get_vector(), vector)
    with pytest.raises(GenesisError, match="parameters"):
        other.set_vector(vector[:-1])


def test_it_is_a_model_before_its_fit(name, layout):
    rows = some_rows(layout)
    model = create_model(name, layout, {}, frequencies=counts_of(rows, layout))
    generated = model.generate(50, None, rng())
    assert (generated.codes >= 0).all()
    assert (generated.codes < layout.block_widths).all()
    assert "generator" in model.parameters.parts


@pytest.mark.parametrize("n", [0, 1, 500])
def test_generated_rows_are_codes_of_the_layout(name, layout, n):
    rows = fitted(name, layout).generate(n, None, rng())
    again = fitted(name, layout).generate(n, None, rng())
    assert rows.codes.dtype == np.int32
    assert rows.codes.shape == (n, layout.n_blocks)
    assert ((rows.codes >= 0) & (rows.codes < layout.block_widths)).all()
    assert rows.scalars.dtype == np.float32
    assert rows.scalars.shape == (n, layout.n_scalars)
    assert (np.abs(rows.scalars) <= 1).all()
    if n == 500 and layout.n_scalars:
        assert np.abs(rows.scalars.mean()) < 0.1
        assert rows.scalars.std() == pytest.approx(3**-0.5, abs=0.05)
    assert (rows.codes == again.codes).all()
    assert (rows.scalars == again.scalars).all()


def test_generated_frequencies_are_those_of_the_table(name, mixed):
    """Every model knows as much, whatever else it learns."""
    rows = some_rows(mixed, 2000, unknown=0)
    fit = begin(name, mixed, rows)
    finish(name, mixed, fit, [rows])
    found = model_of(name, mixed, fit).generate(8000, None, rng())
    shares = [counts_of(each, mixed) / len(each) for each in (rows, found)]
    assert np.abs(shares[0] - shares[1]).max() < 0.05


def conditions(layout):
    """One block, every other code of every block, and a single code of each of two."""
    some = [np.arange(w) % 2 == 0 for w in layout.block_widths]
    last = [np.arange(w) == w - 1 for w in layout.block_widths]
    return [{0: last[0]}, dict(enumerate(some)), dict(list(enumerate(last))[-2:])]


@pytest.mark.parametrize("which", range(3))
def test_conditions_hold_exactly(name, layout, which):
    condition = Condition(conditions(layout)[which])
    rows = fitted(name, layout).generate(300, condition, rng())
    assert condition.holds(rows.codes).all()
    assert len(rows) == 300


def test_shares_of_a_condition_are_kept_to(name, mixed):
    """A code of which little satisfies the condition comes as much more rarely."""
    allowed, shares = np.ones(4, bool), np.array([1e-9, 1.0, 1.0, 0.0])
    rows = fitted(name, mixed).generate(300, Condition({2: allowed}, True, {2: shares}), rng())
    assert set(rows.codes[:, 2]) <= {1, 2}


def test_conditions_that_do_not_fit_are_refused(name, mixed):
    model = fitted(name, mixed)
    for wrong in (
        {0: np.zeros(5, bool)},
        {0: np.ones(4, bool)},
        {5: np.ones(3, bool)},
        {-1: np.ones(3, bool)},
    ):
        with pytest.raises(ConditionError):
            model.generate(5, Condition(wrong), rng())


@pytest.mark.parametrize("unknown", [0.0, 0.5, 1.0])
def test_only_unknown_codes_are_filled_in(name, layout, unknown):
    rows = some_rows(layout, 300, seed=9, unknown=unknown)
    before = rows.codes.copy()
    filled = fitted(name, layout).complete(rows.codes, {}, rng())
    assert filled.dtype == np.int32
    assert (rows.codes == before).all()
    assert (filled == before)[before >= 0].all()
    assert ((filled >= 0) & (filled < layout.block_widths)).all()


def test_what_is_filled_in_is_allowed(name, layout):
    rows = some_rows(layout, 300, seed=9, unknown=0.5)
    for allowed in conditions(layout):
        filled = fitted(name, layout).complete(rows.codes, allowed, rng())
        for block, mask in allowed.items():
            assert mask[filled[rows.codes[:, block] < 0, block]].all()
        assert (filled == rows.codes)[rows.codes >= 0].all()


def test_what_is_filled_in_follows_what_is_known(name, mixed):
    """Of a table whose last column repeats the third: better than by chance."""
    rows = some_rows(mixed, 3000, unknown=0)
    rows.codes[:, 4] = np.minimum(rows.codes[:, 2], 2)
    fit = begin(name, mixed, rows, n_rounds=20)
    finish(name, mixed, fit, [rows])
    hidden = rows.codes.copy()
    hidden[:, 4] = -1
    filled = model_of(name, mixed, fit).complete(hidden, {}, rng())
    shares = np.bincount(rows.codes[:, 4]) / 3000
    hit = (filled[:, 4] == rows.codes[:, 4]).mean()
    assert hit > 0.3 + 0.7 * (shares**2).sum()


def test_a_score_depends_on_its_row_alone(name, layout):
    model, rows = fitted(name, layout), some_rows(layout, 60, seed=5, unknown=0.2)
    scores = model.row_scores(rows, rng())
    assert set(model.row_scores(rows, rng(), generator_only=True)) <= set(scores)
    order = rng(1).permutation(60)
    for key, found in scores.items():
        assert found.shape == (60,)
        assert np.isfinite(found).all()
        some = model.row_scores(rows.take(order[:7]), rng())[key]
        np.testing.assert_allclose(some, found[order[:7]], rtol=1e-6, atol=1e-6)
        one = model.row_scores(rows.take(slice(3, 4)), rng())[key]
        np.testing.assert_allclose(one, found[3:4], rtol=1e-6, atol=1e-6)
    assert scores
    none = model.row_scores(rows.take(slice(0, 0)), rng())
    assert all(found.shape == (0,) for found in none.values())


def test_rows_it_was_fitted_on_score_above_others(name, mixed):
    """Codes drawn column by column, each as frequent as in the table, are less like it."""
    rows = some_rows(mixed, 2000, unknown=0)
    fit = begin(name, mixed, rows, n_rounds=12)
    finish(name, mixed, fit, [rows])
    model = model_of(name, mixed, fit)
    shuffled = np.stack([rng(i).permutation(c) for i, c in enumerate(rows.codes.T)], 1)
    real = model.row_scores(rows, rng())
    fake = model.row_scores(Codes(rows.scalars, shuffled), rng())
    assert all(real[key].mean() > fake[key].mean() for key in real)
