"""A mixture of products: against sums over its cells, and expectation-maximisation by hand."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.special import gammaln, logsumexp
from scipy.stats import chisquare

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, FederationError, GenesisError, PlanError, TrainingError
from genesis.models.sums import Question
from genesis.models.sums.mixture import Mixture, _systematic
from genesis.models.sums.rows import UNIT, SumRows

TINY = Layout((3,), (2, 4))
STARTS = np.array([0, 3, 5])
CELLS = np.array(list(itertools.product(*map(range, TINY.block_widths))), dtype=np.int32)
"""Every row that the tiny layout knows."""


def rng(seed=0):
    return np.random.default_rng(seed)


def chances(k=3, seed=0, layout=TINY):
    """Random weights (K,) and tables (S, K)."""
    tables = [rng(seed + i).dirichlet(np.ones(w), k).T for i, w in enumerate(layout.block_widths)]
    return rng(seed).dirichlet(np.ones(k)), np.concatenate(tables)


def tiny(k=3, seed=0):
    weights, tables = chances(k, seed)
    model = Mixture(TINY, {"components": k})
    model.set_vector(torch.from_numpy(np.concatenate([weights, tables.ravel()])).float())
    return model


def rows_of(codes, layout=TINY):
    codes = np.asarray(codes, dtype=np.int32)
    return Codes(np.zeros((len(codes), layout.n_scalars), np.float32), codes)


def joint(codes, weights, tables):
    """w_k prod_j theta_jk(x_j) of rows: (n, K); unknown codes say nothing."""
    found = np.tile(weights, (len(codes), 1))
    for block, start in enumerate(STARTS):
        column = codes[:, block]
        found *= np.where((column < 0)[:, None], 1.0, tables[start + np.maximum(column, 0)])
    return found


def of_cells(model):
    vector = model.get_vector().double().numpy()
    k = model.config.components
    return joint(CELLS, vector[:k], vector[k:].reshape(-1, k)).sum(1)


def some_codes(n, seed=0, unknown=0.1):
    kind = rng(seed).random(n)
    codes = np.stack([(kind**p * w).astype(int) for p, w in ((1, 3), (0.5, 2), (2, 4))], 1)
    codes[rng(seed + 1).random(codes.shape) < unknown] = -1
    return codes


def question(weights, tables, group=0, groups=1):
    n, k = tables.shape
    return Question(
        "expect",
        n * k + k + 2,
        {"group": group, "groups": groups},
        {"weights": weights.astype(np.float32), "tables": tables.astype(np.float32)},
    )


def counts_of(codes, layout=TINY):
    blocks = zip(codes.T, layout.block_widths, strict=True)
    return np.concatenate([np.bincount(c[c >= 0], minlength=w) for c, w in blocks]).astype(float)


def begin(codes, *, n_rounds=8, seed=0, layout=TINY, **config):
    frequencies = counts_of(codes, layout)
    choices = {"rows": len(codes), "frequencies": frequencies, "n_rounds": n_rounds, "seed": seed}
    return Mixture.fit(layout, config, **choices)


def finish(fit, codes, layout=TINY):
    """Answer all questions; what every pass came to."""
    rows, passes = SumRows(layout, rows_of(codes, layout)), []
    while (asked := fit.question()) is not None:
        metrics = fit.take(Mixture.answer(rows, asked))
        if metrics is not None:
            passes.append(metrics)
    return passes


def fitted(codes, **choices):
    fit = begin(codes, **choices)
    finish(fit, codes)
    model = Mixture(TINY, fit.config)
    model.set_vector(fit.vector)
    return model


# --- the E step ---


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_expected_counts_are_those_by_hand(k):
    codes = some_codes(500)
    weights, tables = chances(k)
    found = Mixture.answer(SumRows(TINY, rows_of(codes)), question(weights, tables))
    each = joint(codes, weights, tables)
    shares = each / each.sum(1, keepdims=True)
    expected = np.zeros((9, k))
    for block, start in enumerate(STARTS):
        for row in np.flatnonzero(codes[:, block] >= 0):
            expected[start + codes[row, block]] += shares[row]
    assert found.dtype == np.int64
    # Each row is rounded down by less than a unit, and float32 is off by little.
    below = expected.ravel() - found[: 9 * k] * UNIT
    assert (below > -1e-3).all()
    assert (below < 500 * UNIT + 1e-3).all()
    members = shares.sum(0) - found[9 * k : -2] * UNIT
    assert ((members > -1e-3) & (members < 500 * UNIT + 1e-3)).all()
    assert found[-2] * UNIT == pytest.approx(np.log(each.sum(1)).sum(), abs=0.05)
    assert found[-1] == 500


def test_a_row_that_cannot_be_still_belongs_somewhere():
    tables = np.zeros((9, 2))
    tables[[0, 3, 5]] = 1
    asked = question(np.array([1.0, 0.0]), tables)
    found = Mixture.answer(SumRows(TINY, rows_of([[2, 1, 3]] * 10)), asked)
    assert found[-1] == 10
    assert found[18:20].sum() == pytest.approx(10 / UNIT, rel=1e-3)
    assert found[-2] * UNIT == pytest.approx(10 * np.log(1e-30**3), rel=1e-3)


@pytest.mark.parametrize("change", ["kind", "size", "tables", "weights", "missing"])
def test_a_question_of_another_model_is_refused(change):
    weights, tables = chances(3)
    asked = question(weights, tables)
    arrays = dict(asked.arrays)
    if change == "tables":
        arrays["tables"] = tables[:-1].astype(np.float32)
    if change == "weights":
        arrays["weights"] = weights[:-1].astype(np.float32)
    if change == "missing":
        del arrays["weights"]
    kind, size = "pairs" if change == "kind" else asked.kind, asked.size + (change == "size")
    with pytest.raises(FederationError, match="none of mixture's"):
        Mixture.answer(
            SumRows(TINY, rows_of(some_codes(5))), Question(kind, size, asked.meta, arrays)
        )


@pytest.mark.parametrize("asked", [(3, 2**40), (0, 9), (2, 2), (-1, 2), (0, 0), (None, 1)])
def test_no_row_is_asked_for_by_itself(asked):
    # Of very many groups each has one row, whose expected counts are its codes.
    rows = SumRows(TINY, rows_of(some_codes(5)))
    with pytest.raises(FederationError, match="none of mixture's"):
        Mixture.answer(rows, question(*chances(3), *asked))
    with pytest.raises(PlanError, match="from 1 to 8"):
        begin(some_codes(20), groups=9)


# --- the M step ---


def test_a_step_is_that_by_hand():
    """One component's tables and weights from its expected counts, with what they are drawn to."""
    codes = some_codes(400)
    fit = begin(codes, components=3, groups=1, restarts=1, n_rounds=3)
    asked = fit.question()
    answer = Mixture.answer(SumRows(TINY, rows_of(codes)), asked)
    a = np.array([0.03 * w for w in TINY.block_widths])
    fit._smoothing.learn = lambda _: None  # concentrations stay what they are
    fit.take(answer)
    sums = answer[:27].reshape(9, 3) * UNIT
    mean = fit._smoothing._mean(0, torch.from_numpy(sums[:3])).numpy()
    released = counts_of(codes)
    expected = []
    for block, (start, width) in enumerate(zip(STARTS, TINY.block_widths, strict=True)):
        rows = slice(start, start + width)
        counts = released[rows]
        whole = 0.999 * counts / counts.sum() + 0.001 / width
        m = mean if block == 0 else whole[:, None]
        expected.append((sums[rows] + a[block] * m) / (sums[rows].sum(0) + a[block]))
    weights = answer[27:30] * UNIT + 0.1
    np.testing.assert_allclose(
        fit.vector[3:].reshape(9, 3).numpy(), np.concatenate(expected), rtol=1e-5
    )
    np.testing.assert_allclose(fit.vector[:3].numpy(), weights / weights.sum(), rtol=1e-5)


def test_whole_passes_never_lose_likelihood():
    """With hardly any prior, expectation-maximisation ascends (Dempster et al. 1977)."""
    codes = some_codes(800, unknown=0)
    fit = begin(codes, components=4, groups=1, restarts=1, smoothing=0.0, n_rounds=12)
    passes = [each["negative_log_likelihood"] for each in finish(fit, codes)]
    assert (np.diff(passes) < 1e-3).all()
    assert passes[-1] < passes[0] - 0.05


def test_one_component_is_the_frequencies():
    codes = some_codes(5000, unknown=0)
    model = fitted(codes, components=1, n_rounds=1)
    tables = model.get_vector()[1:].numpy()
    np.testing.assert_allclose(tables, counts_of(codes) / 5000, atol=2e-3)


@pytest.mark.parametrize("seed", [3, 5, 7])
def test_it_finds_the_table_that_it_was_drawn_from(seed):
    true = tiny(2, seed=seed)
    codes = true.generate(20_000, None, rng()).codes
    found, independent = (
        np.abs(of_cells(fitted(codes, seed=1, **choices)) - of_cells(true)).sum()
        for choices in ({"n_rounds": 60, "components": 12}, {"n_rounds": 2, "components": 1})
    )
    assert found < 0.06
    assert found < 0.6 * independent


def test_a_table_of_few_kinds_of_rows_is_learnt():
    """Equal rows are all in one part of the table, so no part is like the whole of it."""
    layout, codes = Layout((), (10, 10)), np.repeat(np.arange(10), 500)[:, None].repeat(2, 1)
    fit = begin(codes, layout=layout, n_rounds=20)
    finish(fit, codes, layout)
    model = Mixture(layout, fit.config)
    model.set_vector(fit.vector)
    generated = model.generate(5000, None, rng()).codes
    assert (generated[:, 0] == generated[:, 1]).mean() > 0.98


@pytest.mark.parametrize("groups", [1, 2])  # small tables have one
def test_components_that_come_to_nothing_are_left_out(groups):
    codes = np.repeat(CELLS[[0, 9, 23]], 400, axis=0)
    fit = begin(codes, components=60, groups=groups, n_rounds=12)
    passes = finish(fit, codes)
    kept = fit.config["components"]
    assert passes[-1]["components"] == kept < 60
    assert len(fit.vector) == kept * 10
    # The last passes are of the same components.
    assert {each["components"] for each in passes[-3:]} == {kept}


@pytest.mark.parametrize("strength", [0.0, 1.0, 100.0])
def test_any_smoothing_fits(strength):
    model = fitted(some_codes(300), smoothing=strength, components=20)
    assert model.get_vector().isfinite().all()
    assert of_cells(model).sum() == pytest.approx(1, abs=1e-5)


def test_smoother_mixtures_fit_less_closely():
    codes = some_codes(300)
    found = [
        finish(fit := begin(codes, smoothing=s, components=20), codes)[-1] for s in (0.01, 1, 100)
    ]
    losses = [each["negative_log_likelihood"] for each in found]
    assert losses == sorted(losses)
    assert fit.question() is None


# --- passes, groups and starts ---


@pytest.mark.parametrize(("groups", "n_rounds"), [(1, 1), (1, 7), (3, 1), (3, 7), (5, 20)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_it_asks_as_often_as_it_says(groups, n_rounds, restarts):
    codes = some_codes(200)
    fit = begin(codes, groups=groups, n_rounds=n_rounds, restarts=restarts, components=3)
    said = fit.n_rounds
    rows, asked, passes, whole = SumRows(TINY, rows_of(codes)), [], 0, 0
    while (each := fit.question()) is not None:
        assert fit.question() is not None
        asked.append((each.meta["group"], each.meta["groups"]))
        passes += fit.take(Mixture.answer(rows, each)) is not None
    planned = n_rounds + (restarts - 1) * (n_rounds > 1) * max(n_rounds // 4, 1)
    assert passes == fit.n_rounds <= said == planned
    whole = -(-n_rounds // 5)
    assert asked[-whole:] == [(0, 1)] * whole
    divided = [each for each in asked if each[1] > 1]
    assert divided == [(i % groups, groups) for i in range(len(divided))]
    if n_rounds > 1:
        assert asked[0] == (0, 1)  # every start looks at all rows first


def test_the_best_start_is_gone_on_with():
    """By the likelihood of its parameters and what they cost, as it was at the comparison."""
    codes = some_codes(600, unknown=0)
    fit = begin(codes, restarts=4, n_rounds=8, components=3, groups=1)
    rows, scores, states = SumRows(TINY, rows_of(codes)), [], []
    score = fit._penalty

    def watched():
        penalty = score()
        if fit._pass != fit._trial:
            return penalty  # it is also asked whether there were passes enough
        states.append(fit.vector)
        scores.append(penalty + likelihood[0])
        return penalty

    fit._penalty = watched
    while len(scores) < 4:
        asked = fit.question()
        answer = Mixture.answer(rows, asked)
        likelihood = [answer[-2] * UNIT]
        fit.take(answer)
    assert len(set(np.round(scores, 3))) > 1
    assert torch.equal(fit.vector, states[int(np.argmax(scores))])


def test_the_penalty_is_that_of_cheeseman_and_stutz():
    """ln p(S) - ln p(S | parameters): the counts of a complete table, by their formulas."""
    codes = some_codes(300, unknown=0)
    fit = begin(codes, components=2, groups=1, restarts=1, n_rounds=4)
    finish(fit, codes)
    counts, members = fit._counts.numpy(), fit._members.numpy()
    tables, weights = fit._tables.numpy(), fit._weights.numpy()
    complete = (counts * np.log(tables)).sum() + (members * np.log(weights)).sum()
    prior = gammaln(members + 0.1).sum() - 2 * gammaln(0.1)
    prior += gammaln(0.2) - gammaln(members.sum() + 0.2)
    evidence = fit._smoothing.evidence(fit._counts)
    assert fit._penalty() == pytest.approx(evidence + prior - complete)
    assert fit._penalty() < 0


def test_another_seed_starts_elsewhere():
    codes = some_codes(100)
    vectors = [begin(codes, seed=seed).vector for seed in (1, 1, 2)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


@pytest.mark.parametrize("n", [1, 2, 15])
def test_few_rows_are_enough(n):
    codes = some_codes(n)
    fit = begin(codes, n_rounds=5)
    finish(fit, codes)
    assert fit.config["components"] <= n
    assert fit.vector.isfinite().all()


def test_groups_in_which_there_is_no_row():
    codes = np.repeat(CELLS[:1], 50, axis=0)
    fit = begin(codes, groups=8, n_rounds=10)
    assert all(np.isfinite(list(each.values())).all() for each in finish(fit, codes))
    assert fit.vector.isfinite().all()


def test_sums_that_no_table_has_are_refused():
    fit = begin(some_codes(20))
    asked = fit.question()
    for place in (0, -1):
        total = np.zeros(asked.size, np.int64)
        total[place] = -1
        with pytest.raises(TrainingError, match="no rows have"):
            fit.take(total)


def test_impossible_choices_are_refused():
    codes = some_codes(20)
    for config in ({"components": 0}, {"smoothing": -1}, {"restarts": 1.5}, {"component": 3}):
        with pytest.raises(PlanError):
            begin(codes, **config)
    with pytest.raises(PlanError, match="more components than there are rows"):
        begin(codes, components=21)


def test_a_state_is_json():
    codes = some_codes(200)
    fit = begin(codes, restarts=3)
    rows = SumRows(TINY, rows_of(codes))
    for _ in range(4):
        fit.take(Mixture.answer(rows, fit.question()))
    values, tensors = fit.to_state()
    assert any(name.startswith("best.") for name in tensors)
    assert json.loads(json.dumps(values)) == values


# --- the model ---


def test_without_a_fit_it_is_the_frequencies():
    counts = counts_of(some_codes(100))
    model = Mixture(TINY, {}, frequencies=counts)
    tables = model.get_vector()[1:].numpy()
    for start, width in zip(STARTS, TINY.block_widths, strict=True):
        part = counts[start : start + width]
        np.testing.assert_allclose(tables[start : start + width], part / part.sum(), rtol=1e-6)


def test_what_is_no_distribution_is_refused():
    model = tiny()
    vector = model.get_vector()
    for place, value in ((0, -0.1), (5, float("nan")), (5, float("inf")), (slice(0, 3), 0.0)):
        wrong = vector.clone()
        wrong[place] = value
        with pytest.raises(GenesisError, match="no chances"):
            model.set_vector(wrong)
    with pytest.raises(GenesisError, match="30 parameters"):
        model.set_vector(vector[:-1])
    assert torch.equal(model.get_vector(), vector)


def test_scores_are_log_likelihoods():
    model, codes = tiny(), some_codes(50)
    vector = model.get_vector().double().numpy()
    each = joint(codes, vector[:3], vector[3:].reshape(9, 3))
    found = model.row_scores(rows_of(codes), rng())["log_likelihood"]
    np.testing.assert_allclose(found, logsumexp(np.log(each), axis=1), rtol=1e-5, atol=1e-5)


def test_generated_rows_follow_the_mixture():
    model, n = tiny(), 30_000
    codes = model.generate(n, None, rng()).codes
    place = codes @ np.array([8, 4, 1])
    assert chisquare(np.bincount(place, minlength=24), n * of_cells(model) / of_cells(model).sum())
    assert np.abs(np.bincount(place, minlength=24) / n - of_cells(model)).sum() < 0.02


def test_generated_columns_are_as_frequent_as_can_be():
    """Sampling is systematic: a code comes as often as it should to within a row a component."""
    model, n = tiny(), 1000
    vector = model.get_vector().double().numpy()
    expected = n * vector[3:].reshape(9, 3) @ vector[:3]
    found = counts_of(model.generate(n, None, rng()).codes)
    assert (np.abs(found - expected) <= 6).all()


def test_generated_rows_stand_in_no_order():
    model = tiny(2, seed=3)
    codes = model.generate(4000, None, rng()).codes
    first, last = codes[:2000], codes[2000:]
    assert (np.abs(counts_of(first) - counts_of(last)) < 250).all()


@pytest.mark.parametrize("enforced", [True, False])
def test_conditions_hold_and_the_rest_follows(enforced):
    model, n = tiny(), 30_000
    shares = np.array([0.5, 0.0, 1.0])
    allowed = {0: np.array([True, False, True]), 2: np.array([False, True, True, True])}
    rows = model.generate(n, Condition(allowed, enforced, {0: shares}), rng())
    assert Condition(allowed).holds(rows.codes).all()
    expected = of_cells(model) * shares[CELLS[:, 0]] * allowed[2][CELLS[:, 2]]
    found = np.bincount(rows.codes @ np.array([8, 4, 1]), minlength=24)
    assert np.abs(found / n - expected / expected.sum()).sum() < 0.02
    assert not found[expected == 0].any()


def test_what_no_component_has_is_refused():
    model = Mixture(TINY, {"components": 2})
    tables = np.zeros((9, 2))
    tables[[0, 3, 5], 0] = tables[[1, 4, 6], 1] = 1
    model.set_vector(torch.from_numpy(np.append([0.5, 0.5], tables.ravel())).float())
    both = Condition({0: np.array([True, False, False]), 1: np.array([False, True])})
    with pytest.raises(ConditionError, match="together"):
        model.generate(5, both, rng())
    one = Condition({0: np.array([True, False, False])})
    assert (model.generate(50, one, rng()).codes == [0, 0, 0]).all()
    for wrong in ({0: np.ones(2, bool)}, {3: np.ones(2, bool)}, {1: np.zeros(2, bool)}):
        with pytest.raises(ConditionError):
            model.generate(5, Condition(wrong), rng())


def test_unknown_codes_are_drawn_given_the_known_ones():
    model, n = tiny(), 30_000
    for known in ([0, -1, -1], [-1, 1, 2], [-1, -1, -1]):
        filled = model.complete(np.tile(np.int32(known), (n, 1)), {}, rng())
        agrees = ((np.array(known) < 0) | (known == CELLS)).all(1)
        expected = of_cells(model) * agrees
        found = np.bincount(filled @ np.array([8, 4, 1]), minlength=24) / n
        assert np.abs(found - expected / expected.sum()).sum() < 0.03
        assert not found[~agrees].any()


def test_only_what_is_allowed_is_filled_in():
    model, n = tiny(), 30_000
    allowed = {2: np.array([True, False, False, True])}
    filled = model.complete(np.tile(np.int32([1, -1, -1]), (n, 1)), allowed, rng())
    expected = of_cells(model) * (CELLS[:, 0] == 1) * allowed[2][CELLS[:, 2]]
    found = np.bincount(filled @ np.array([8, 4, 1]), minlength=24) / n
    assert np.abs(found - expected / expected.sum()).sum() < 0.03
    assert not found[expected == 0].any()
    known = model.complete(np.int32([[1, 1, 1]]), allowed, rng())
    assert (known == [1, 1, 1]).all()  # what is known stays, allowed or not


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_systematic_numbers_add_up(n):
    shares = rng().dirichlet(np.ones(6), 4).T
    shares[2] = 0
    shares[5, 1] = 0
    found = _systematic(shares, np.full(4, n), rng().random(4))
    assert (found.sum(0) == n).all()
    assert (np.abs(found - n * shares / shares.sum(0)) < 1 + 1e-9).all()
    assert not found[shares == 0].any()
    mean = np.mean(
        [_systematic(shares, np.full(4, 5), rng(s).random(4)) for s in range(4000)], axis=0
    )
    np.testing.assert_allclose(mean, 5 * shares / shares.sum(0), atol=0.05)
