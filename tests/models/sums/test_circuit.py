"""The circuit against sums over all states of tiny trees, and what its fit must keep to."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.stats import chisquare
from sklearn.metrics import mutual_info_score

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, FederationError, PlanError, TrainingError
from genesis.models.sums import Budget, Question
from genesis.models.sums.chow_liu import (
    central_parents,
    count_pairs,
    group_codes,
    mutual_information,
)
from genesis.models.sums.circuit import Circuit, block_chances, states_for
from genesis.models.sums.rows import SumRows

TINY = Layout((2,), (3, 2, 2))
TREE = (1, -1, 1, 2)
STATES = 2
CELLS = np.array(list(itertools.product(*map(range, TINY.block_widths))), dtype=np.int32)
"""Every row that the tiny layout knows."""


def tiny(seed=0, tree=TREE, layout=TINY, states=STATES):
    """A circuit whose tables are random."""
    model = Circuit(layout, {"states": states, "tree": tree})
    vector = torch.rand(model.parameters.size, generator=torch.Generator().manual_seed(seed)) + 0.05
    for view in model.parameters.views(vector).values():
        view /= view.sum(-1, keepdim=True)
    model.set_vector(vector)
    return model


def joint(model):
    """P(states, codes) of all states and all rows in CELLS: [(states, (cells,))]."""
    tree = model.tree
    for states in itertools.product(range(STATES), repeat=TINY.n_blocks):
        chance = torch.ones(len(CELLS), dtype=torch.float64)
        for block, (parent, state) in enumerate(zip(tree.parents, states, strict=True)):
            above = tree.root if parent < 0 else tree.edges[block][states[parent]]
            chance *= above[state].double()
            chance *= tree.emissions[block][state].double()[CELLS[:, block]]
        yield states, chance.numpy()


def chances(model):
    """P(codes) of all rows in CELLS."""
    return sum(chance for _, chance in joint(model))


def agrees(row):
    """Which of CELLS have the codes that a row knows."""
    return ((row < 0) | (row == CELLS)).all(1)


def codes_of(codes, layout=TINY):
    codes = np.asarray(codes, dtype=np.int32)
    return Codes(np.zeros((len(codes), layout.n_scalars), np.float32), codes)


def random_rows(n, layout=TINY, seed=0, unknown=0.0):
    """Rows whose blocks have much in common."""
    rng = np.random.default_rng(seed)
    kind = rng.random(n)
    columns = [
        np.where(rng.random(n) < 0.8, kind, rng.random(n)) * width for width in layout.block_widths
    ]
    codes = np.stack(columns, axis=1).astype(np.int32)
    codes[rng.random(codes.shape) < unknown] = -1
    return codes_of(codes, layout)


def counts_of(rows, layout=TINY):
    """Released counts of every code."""
    blocks = zip(rows.codes.T, layout.block_widths, strict=True)
    return np.concatenate(
        [np.bincount(column[column >= 0], minlength=w) for column, w in blocks]
    ).astype(float)


def begin(rows, layout=TINY, n_rounds=4, **config):
    return Circuit.fit(
        layout,
        config,
        rows=len(rows),
        frequencies=counts_of(rows, layout),
        n_rounds=n_rounds,
        seed=1,
    )


def finish(fit, shards, layout=TINY):
    """Go through all questions; the metrics of every round."""
    rounds = []
    while question := fit.question():
        total = sum(Circuit.answer(SumRows(layout, shard), question) for shard in shards)
        metrics = fit.take(total)
        if metrics is not None:
            rounds.append(metrics["negative_log_likelihood"])
    return rounds


def model_of(fit, layout=TINY):
    model = Circuit(layout, fit.config)
    model.set_vector(fit.vector)
    return model


# One circuit.

PARTLY_KNOWN = np.array(
    [(1, 2, 0, 1), (-1, 2, 0, 1), (1, -1, -1, 0), (-1, -1, -1, 1), (-1, -1, -1, -1)], dtype=np.int32
)


def test_likelihood_is_the_sum_over_all_states():
    model = tiny()
    of_cells = chances(model)
    expected = [math.log(of_cells[agrees(row)].sum()) for row in PARTLY_KNOWN]
    scores = model.row_scores(codes_of(PARTLY_KNOWN), np.random.default_rng(0))
    assert list(scores) == ["log_likelihood"]
    np.testing.assert_allclose(scores["log_likelihood"], expected, atol=1e-5)
    assert of_cells.sum() == pytest.approx(1)


def test_expected_counts_are_those_of_all_states():
    model = tiny(1)
    views = model.parameters.views(torch.zeros(model.parameters.size, dtype=torch.float64))
    for row in PARTLY_KNOWN:
        known = agrees(row)
        total = chances(model)[known].sum()
        for states, chance in joint(model):
            posterior = chance[known].sum() / total
            for block, (parent, state) in enumerate(zip(TREE, states, strict=True)):
                if parent < 0:
                    views["generator.root"][state] += posterior
                else:
                    views[f"generator.edge.{block}"][states[parent], state] += posterior
                if row[block] >= 0:
                    views[f"generator.emission.{block}"][state, row[block]] += posterior
    question = expectations(model)
    answer = Circuit.answer(SumRows(TINY, codes_of(PARTLY_KNOWN)), question)
    expected = torch.cat([view.flatten() for view in views.values()])
    np.testing.assert_allclose(answer[:-2] / 2.0**32, expected, atol=1e-5)
    scores = model.row_scores(codes_of(PARTLY_KNOWN), np.random.default_rng(0))
    assert answer[-2] / 2.0**20 == pytest.approx(scores["log_likelihood"].sum(), abs=1e-5)
    assert answer[-1] == len(PARTLY_KNOWN)


def expectations(model, part=0, parts=1):
    """The question for expected counts under a circuit."""
    return Question(
        "expectations",
        model.parameters.size + 2,
        meta={"states": STATES, "tree": TREE, "part": part, "parts": parts, "bits": 32},
        arrays={"parameters": model.get_vector().numpy()},
    )


def test_a_row_far_from_the_root_does_not_underflow():
    layout = Layout((), (2,) * 300)
    tree = (-1,) + (0,) * 299
    model = Circuit(layout, {"states": 2, "tree": tree})
    vector = model.get_vector()
    for name, view in model.parameters.views(vector).items():
        certain = torch.tensor([[1 - 1e-6, 1e-6], [1e-6, 1 - 1e-6]])
        view.copy_(torch.tensor([0.5, 0.5]) if name == "generator.root" else certain)
    model.set_vector(vector)
    codes = np.zeros((1, 300), dtype=np.int32)
    codes[:, :100] = 1  # the first hundred children say otherwise than all after them
    score = model.row_scores(codes_of(codes, layout), np.random.default_rng(0))["log_likelihood"]
    # The likeliest state of the root is 0, and then 99 children and the root's own code err.
    assert score[0] == pytest.approx(math.log(0.5) + 99 * math.log(2e-6) + math.log(1e-6), rel=1e-3)


@pytest.mark.parametrize(
    "weights",
    [
        {1: np.array([True, False, True])},
        {0: np.array([0.3, 1.0]), 3: np.array([1.0, 0.0])},
        {0: np.array([0.0, 0.5]), 1: np.array([0.0, 0.2, 1.0]), 2: np.array([1.0, 0.1])},
    ],
    ids=["one block", "a part of a bin", "three blocks"],
)
def test_given_is_the_distribution_of_rows_that_agree(weights):
    model = tiny(2)
    before = chances(model)
    for block, weight in weights.items():
        before = before * weight[CELLS[:, block]]
    model.tree = model.tree.given(weights)
    np.testing.assert_allclose(chances(model), before / before.sum(), atol=1e-6)


def test_rows_come_as_often_as_they_should():
    model = tiny(3)
    n = 40_000
    allowed = {1: np.array([True, False, True]), 3: np.array([False, True])}
    rows = model.generate(n, Condition(allowed), np.random.default_rng(0))
    expected = chances(model) * allowed[1][CELLS[:, 1]] * allowed[3][CELLS[:, 3]]
    expected *= n / expected.sum()
    found = np.array([(rows.codes == cell).all(1).sum() for cell in CELLS])
    assert found[expected == 0].sum() == 0
    assert chisquare(found[expected > 0], expected[expected > 0]).pvalue > 1e-3
    assert rows.codes.dtype == np.int32
    assert rows.scalars.dtype == np.float32
    assert rows.scalars.shape == (n, 1)
    assert abs(rows.scalars).max() <= 1
    assert rows.scalars.std() == pytest.approx(1 / math.sqrt(3), abs=0.01)
    again = model.generate(n, Condition(allowed), np.random.default_rng(0))
    np.testing.assert_array_equal(rows.codes, again.codes)


def test_unknown_codes_are_drawn_given_the_known_ones():
    model = tiny(4)
    n = 30_000
    row = np.array([1, -1, -1, 0], dtype=np.int32)
    allowed = {1: np.array([1.0, 0.25, 0.0])}
    completed = model.complete(np.tile(row, (n, 1)), allowed, np.random.default_rng(0))
    expected = chances(model) * agrees(row) * allowed[1][CELLS[:, 1]]
    expected *= n / expected.sum()
    found = np.array([(completed == cell).all(1).sum() for cell in CELLS])
    assert found[expected == 0].sum() == 0
    assert chisquare(found[expected > 0], expected[expected > 0]).pvalue > 1e-3
    empty = model.complete(CELLS[:0], {}, np.random.default_rng(0))
    assert empty.shape == (0, 4)
    np.testing.assert_array_equal(model.complete(CELLS, {}, np.random.default_rng(0)), CELLS)


def test_what_no_row_can_have_is_refused():
    rows = codes_of([(0, 0, 0, 0), (1, 1, 1, 1)] * 50)  # code 2 of block 1 never occurs
    fit = begin(rows)
    finish(fit, [rows])
    model = model_of(fit)
    only_2 = {1: np.array([False, False, True])}
    with pytest.raises(ConditionError, match="block 1"):
        model.generate(5, Condition(only_2), np.random.default_rng(0))
    with pytest.raises(ConditionError, match="block 1"):
        model.complete(PARTLY_KNOWN, only_2, np.random.default_rng(0))
    for misfit in ({1: np.array([True])}, {4: np.array([True, True])}):
        with pytest.raises(ConditionError, match="does not fit"):
            model.generate(5, Condition(misfit), np.random.default_rng(0))
    assert (model.generate(500, None, np.random.default_rng(0)).codes[:, 1] < 2).all()


def test_codes_that_never_come_together_are_refused():
    layout = Layout((), (2, 2, 3))
    model = tiny(0, (-1, 0, 0), layout)
    vector = model.get_vector()
    for name, view in model.parameters.views(vector).items():
        if name in ("generator.edge.1", "generator.emission.0", "generator.emission.1"):
            view.copy_(torch.eye(2))
    model.set_vector(vector)
    one = {0: np.array([True, False])}
    assert (model.generate(50, Condition(one), np.random.default_rng(0)).codes[:, :2] == 0).all()
    with pytest.raises(ConditionError, match="blocks 0, 1 together"):
        model.generate(5, Condition({**one, 1: np.array([False, True])}), np.random.default_rng(0))


def test_a_vector_is_copied_and_must_fit():
    model = tiny()
    vector = model.get_vector()
    model.get_vector().zero_()
    assert torch.equal(model.get_vector(), vector)
    with pytest.raises(PlanError, match=f"{model.parameters.size} parameters"):
        model.set_vector(vector[:3])
    assert list(model.parameters.parts) == ["generator"]


# The tree.


def test_mutual_information_is_that_of_the_rows_less_its_bias():
    rows = random_rows(500, unknown=0.1)
    groups = group_codes(TINY, counts_of(rows))
    found = mutual_information(groups, count_pairs(groups, rows.codes))
    for i, j in itertools.combinations(range(4), 2):
        both = rows.codes[(rows.codes[:, i] >= 0) & (rows.codes[:, j] >= 0)]
        cells, x, y = (len(np.unique(both[:, k], axis=0)) for k in ([i, j], [i], [j]))
        bias = (cells - x - y + 1) / (2 * len(both))
        expected = mutual_info_score(both[:, i], both[:, j]) - bias
        assert found[i, j] == pytest.approx(expected, abs=1e-9)
        assert found[i, j] == found[j, i]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_the_tree_spans_with_the_most_weight_and_hangs_from_its_centre(n, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 1, (n, n))
    weights = weights + weights.T
    parents = central_parents(weights)
    edges = {frozenset((i, p)) for i, p in enumerate(parents) if p >= 0}
    best = minimum_spanning_tree(3 - weights - 3 * np.eye(n) + np.diag(np.diag(weights)))
    assert edges == {frozenset(edge) for edge in zip(*best.nonzero(), strict=True)}
    radius = shortest_path(best > 0, directed=False, unweighted=True).max(1)
    assert radius[parents.index(-1)] == radius.min()


def test_groups_are_few_and_alike():
    layout = Layout((1000,), (1000, 3))
    rng = np.random.default_rng(0)
    frequencies = rng.pareto(1, 2003)
    groups = group_codes(layout, frequencies)
    assert groups.sizes[1:] == (24, 3)
    assert 8 <= groups.sizes[0] <= 24
    numeric, category = groups.of_code[0], groups.of_code[1]
    assert (np.diff(numeric) >= 0).all()
    alone = np.argsort(-frequencies[1000:2000])[:23]
    assert sorted(category[alone]) == list(range(23))
    wide = group_codes(Layout((), (50,) * 600), np.ones(30_000))
    assert wide.n_cells < 2**23
    none = group_codes(Layout((1000,), (2,)), np.zeros(1002))
    assert len(none.of_code[0]) == 1000


def test_it_finds_the_tree_that_rows_come_from():
    layout = Layout((), (4,) * 6)
    chain = (1, 2, -1, 2, 3, 4)
    model = tiny(0, chain, layout, 4)
    sure = model.get_vector()
    for name, view in model.parameters.views(sure).items():
        if name != "generator.root":
            view.copy_(0.8 * torch.eye(4) + 0.05)
    model.set_vector(sure)
    rows = model.generate(4000, None, np.random.default_rng(1))
    fit = begin(rows, layout, states=4, n_rounds=1)
    finish(fit, [rows.take(slice(0, 1000)), rows.take(slice(1000, None))], layout)
    found = {frozenset((i, p)) for i, p in enumerate(fit.config["tree"]) if p >= 0}
    assert found == {frozenset((i, p)) for i, p in enumerate(chain) if p >= 0}


# The fit.


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 599), max_size=4), st.integers(0, 5))
def test_any_split_of_the_rows_gives_the_same_circuit(cuts, seed):
    rows = random_rows(600, seed=seed, unknown=0.05)
    whole = begin(rows, n_rounds=12)
    order = np.random.default_rng(seed).permutation(600)
    places = np.split(order, sorted(cuts))
    split = begin(rows, n_rounds=12)
    for fit in (whole, split):
        fit._parts = 3
    losses = finish(whole, [rows])
    assert finish(split, [rows.take(place) for place in places]) == pytest.approx(losses, abs=1e-6)
    assert split.config == whole.config
    torch.testing.assert_close(split.vector, whole.vector, rtol=0, atol=1e-6)


def test_every_pass_makes_rows_likelier():
    layout = Layout((9,), (4, 5, 3))
    rows = random_rows(400, layout, unknown=0.1)
    fit = begin(rows, layout, states=6, n_rounds=30, smoothing=0.5)
    prior = block_chances(layout, counts_of(rows, layout))
    penalised = []
    while question := fit.question():
        if question.kind == "expectations":
            model = model_of(fit, layout)
            log_prior = 0.0
            for name, view in model.parameters.views(model.get_vector()).items():
                emission = name.startswith("generator.emission.")
                weight = prior[int(name[-1])] if emission else 1 / view.shape[-1]
                log_prior += 0.5 * float((weight * np.log(view.double().numpy())).sum())
            scores = model.row_scores(rows, np.random.default_rng(0))["log_likelihood"]
            penalised.append(scores.sum() + log_prior)
        fit.take(Circuit.answer(SumRows(layout, rows), question))
    assert len(penalised) == 30
    assert (np.diff(penalised) > -1e-3).all()
    assert penalised[-1] > penalised[0] + 50


def test_it_learns_what_only_three_columns_together_show():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 3000))
    codes = np.stack([a, b, a ^ b, rng.integers(0, 2, 3000)], axis=1)
    layout = Layout((), (2, 2, 2, 2))
    rows = codes_of(codes, layout)
    fit = begin(rows, layout, states=8, n_rounds=40)
    finish(fit, [rows], layout)
    made = model_of(fit, layout).generate(3000, None, rng).codes
    assert (made[:, 0] ^ made[:, 1] == made[:, 2]).mean() > 0.99


def test_a_fit_goes_on_from_its_state():
    rows = random_rows(500, unknown=0.05)

    def fresh():
        fit = begin(rows, n_rounds=8)
        fit._parts = 2
        return fit

    straight = fresh()
    losses = finish(straight, [rows])
    fit, again = fresh(), []
    while fit.question():
        values, tensors = fit.to_state()
        fit = fresh()
        fit.restore(json.loads(json.dumps(values)), tensors)
        question = fit.question()
        assert question.size == fit.question().size
        metrics = fit.take(Circuit.answer(SumRows(TINY, rows), question))
        again += [] if metrics is None else [metrics["negative_log_likelihood"]]
    assert again == losses
    assert len(losses) == straight.n_rounds == 8
    assert torch.equal(fit.vector, straight.vector)
    assert fit.config == straight.config


@pytest.mark.parametrize(
    "layout",
    [Layout((), (3,)), Layout((1,), (1, 1)), Layout((5,), ()), Layout((2,), (1000,))],
    ids=["one column", "nothing varies", "one number", "wide"],
)
def test_odd_tables_and_empty_shards(layout):
    rows = random_rows(300, layout)
    fit = begin(rows, layout, n_rounds=6)
    losses = finish(fit, [rows, rows.take(slice(0, 0))], layout)
    assert np.isfinite(losses).all()
    model = model_of(fit, layout)
    made = model.generate(1000, None, np.random.default_rng(0)).codes
    assert (made >= 0).all()
    assert (made < layout.block_widths).all()
    freq = counts_of(rows, layout)
    assert (counts_of(codes_of(made, layout), layout)[freq == 0] == 0).all()
    unknown = np.full((4, layout.n_blocks), -1, dtype=np.int32)
    assert (model.complete(unknown, {}, np.random.default_rng(0)) >= 0).all()
    scores = model.row_scores(codes_of(unknown, layout), np.random.default_rng(0))
    np.testing.assert_allclose(scores["log_likelihood"], 0, atol=1e-5)


def test_codes_that_were_not_released_are_learnt_all_the_same():
    rows = random_rows(300)
    frequencies = counts_of(rows)
    frequencies[2] = -3.0  # code 0 of block 1, by noise
    fit = Circuit.fit(TINY, {}, rows=300, frequencies=frequencies, n_rounds=3, seed=0)
    assert np.isfinite(finish(fit, [rows])).all()
    made = model_of(fit).generate(3000, None, np.random.default_rng(0)).codes[:, 1]
    assert (made == 0).mean() == pytest.approx((rows.codes[:, 1] == 0).mean(), abs=0.05)


def test_no_rows_at_all():
    none = codes_of(np.zeros((0, 4)))
    fit = begin(none)
    with pytest.raises(TrainingError, match="no rows"):
        finish(fit, [none])


def test_parts_follow_from_the_codes_of_a_row():
    model = tiny()
    small = random_rows(100)
    whole = Circuit.answer(SumRows(TINY, small), expectations(model))
    of_parts = [Circuit.answer(SumRows(TINY, small), expectations(model, k, 3)) for k in range(3)]
    np.testing.assert_allclose(sum(of_parts), whole, atol=4)


def test_the_number_of_states_grows_with_the_rows():
    chosen = [states_for(n) for n in (-5, 100, 16_000, 32_561, 10**7)]
    assert chosen == sorted(chosen)
    assert chosen[0] >= 2
    assert chosen[-1] <= 128


# What is refused.


@pytest.mark.parametrize(
    "config",
    [
        {"states": 0},
        {"smoothing": 0},
        {"state": 3},
        {"tree": (0, 0)},
        {"tree": (-1, -1)},
        {"tree": (1, 0, -1)},
        {"tree": (-1, 5)},
        {"tree": (-1, 1)},
        {"tree": 3},
    ],
    ids=str,
)
def test_impossible_configs(config):
    with pytest.raises(PlanError):
        Circuit.check_config(config)


def test_configs_that_do_not_suit_the_table():
    with pytest.raises(PlanError, match="3 parents for 4 blocks"):
        Circuit(TINY, {"states": 2, "tree": (-1, 0, 0)})
    with pytest.raises(PlanError, match="too large"):
        Circuit(TINY, {"states": 100_000, "tree": TREE})
    with pytest.raises(PlanError, match="column"):
        Circuit.fit(Layout((), ()), {}, rows=0, frequencies=np.zeros(0), n_rounds=1, seed=0)
    with pytest.raises(PlanError, match="marginals"):
        Circuit.fit(
            TINY, {}, rows=9, frequencies=np.ones(9), n_rounds=1, seed=0, budget=Budget(1.0)
        )


def test_questions_of_others():
    good = expectations(tiny())
    rows = codes_of(CELLS)
    bad = [
        Question("sums", 3),
        Question("pairs", 3, arrays={"groups": np.zeros(9, np.int64)}),
        Question("pairs", 3, arrays={"groups": np.full(9, 7)}),
        Question("expectations", 3, meta=good.meta, arrays=good.arrays),
        Question("expectations", good.size, meta=good.meta),
        Question("expectations", good.size, meta={**good.meta, "tree": (0, 0, 0, 0)}),
        Question("expectations", 9, meta=good.meta, arrays={"parameters": np.zeros(3, np.float32)}),
    ]
    for question in bad:
        with pytest.raises(FederationError, match="none of a circuit"):
            Circuit.answer(SumRows(TINY, rows), question)


@pytest.mark.parametrize(("part", "parts"), [(3, 2**40), (0, 9), (2, 2), (-1, 2), (0, 0)])
def test_no_row_is_asked_for_by_itself(part, parts):
    rows = random_rows(5)
    fit = begin(rows)
    fit.take(Circuit.answer(SumRows(TINY, rows), fit.question()))
    good = fit.question()
    meta = {**good.meta, "part": part, "parts": parts}
    with pytest.raises(FederationError, match="no pass has part"):
        Circuit.answer(
            SumRows(TINY, rows), Question(good.kind, good.size, meta=meta, arrays=good.arrays)
        )


def test_sums_that_no_table_has():
    rows = random_rows(50)
    fit = begin(rows)
    with pytest.raises(TrainingError):
        fit.take(np.zeros(3, np.int64))
    with pytest.raises(TrainingError, match="below 0"):
        fit.take(np.full(fit.question().size, -1, np.int64))
