from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from genesis.denoising import (
    denoised,
    last_occupied,
    occupied,
    on_simplex,
    quantile,
    shared_out,
    whole,
)
from genesis.errors import DataError, PrivacyError
from genesis.privacy.histograms import check_disjoint, noisy_counts, released_labels
from genesis.privacy.noise import repeatable_noise
from genesis.schema import Column, Kind, Schema
from genesis.statistics import Question, ShardStatistics

SCHEMA = Schema(
    (
        Column("x", Kind.NUMERIC, "float64"),
        Column("c", Kind.CATEGORICAL, "object"),
        Column("code", Kind.CATEGORICAL, "int64"),
    )
)
CELLS = st.tuples(
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-3, 3)),
    st.sampled_from(["a", "b", "1", None]),
    st.sampled_from([-1, 0, 1, 2, 70]),
)
QUESTIONS = st.lists(
    st.one_of(
        st.builds(
            Question,
            st.sampled_from(SCHEMA.names),
            labels=st.lists(
                st.sampled_from(["a", "b", "1", 1, 0, True, None]), min_size=1, max_size=4
            ).map(tuple),
        ),
        st.builds(
            Question,
            st.sampled_from(SCHEMA.names),
            parents=st.lists(st.sampled_from([2048, 3071, 3072, 1023]), min_size=1).map(tuple),
            shift=st.just(52),
            bits=st.integers(0, 3),
        ),
        st.builds(Question, st.sampled_from(("x", "code")), decimals=st.just(True)),
    ),
    max_size=6,
)


@settings(max_examples=300)
@given(rows=st.lists(CELLS, min_size=1, max_size=8), questions=QUESTIONS)
def test_a_record_changes_one_cell_by_one_in_so_many_vectors(
    rows: list[tuple[object, ...]], questions: list[Question]
) -> None:
    questions = [q for q in questions if not (q.column == "c" and q.labels is None)]
    try:
        vectors = check_disjoint(questions)
    except PrivacyError:
        return
    table = pd.DataFrame(rows, columns=list(SCHEMA.names))
    table["x"] = table["x"].astype(float)
    with_it, without = (ShardStatistics(SCHEMA, t) for t in (table, table.iloc[1:]))
    changed = [np.abs(with_it.answer(q) - without.answer(q)) for q in questions]
    assert sum(int(each.sum()) for each in changed) <= vectors
    assert all(each.max() <= 1 for each in changed)


BINS = {"shift": 52, "bits": 2}


@pytest.mark.parametrize(
    "questions",
    [
        [Question("x", parents=(5, 6, 5), **BINS)],
        [Question("x", parents=(5,), **BINS), Question("x", parents=(6,), **BINS)],
        [Question("x", parents=(5,), **BINS), Question("x", parents=(0,))],
        [Question("c", labels=("a", "b", "a"))],
        [Question("c", labels=(None, None))],
        [Question("c", labels=(True, 1))],
        [Question("c", labels=("a",)), Question("c", labels=("b",))],
        [Question("code", labels=("1", None)), Question("code", parents=(3071,), shift=52)],
    ],
)
def test_questions_that_overlap_are_refused(questions: list[Question]) -> None:
    with pytest.raises(PrivacyError, match="overlap"):
        check_disjoint(questions)


def test_vectors_are_counted() -> None:
    bins, nulls = Question("x", parents=(5, 6), **BINS), Question("x", labels=(None,))
    decimals, labels = Question("x", decimals=True), Question("c", labels=("a", None))
    assert check_disjoint([]) == 0
    assert check_disjoint([bins, nulls]) == 1
    assert check_disjoint([bins, nulls, labels]) == 2
    assert check_disjoint([bins, decimals, decimals, labels]) == 4


def test_questions_about_decimals_travel_and_stand_alone() -> None:
    question = Question("x", decimals=True)
    assert Question.from_dict(question.to_dict()) == question
    assert question.size == 10
    for more in ({"labels": (None,)}, {"parents": (0,)}):
        with pytest.raises(DataError, match="decimals"):
            Question("x", decimals=True, **more)


@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64"])
def test_decimals_are_counted(dtype: str) -> None:
    values = [0.0, -7.0, 3e20, 0.5, -0.25, 12.34, 1e-8, 1 / 3, np.pi, None]
    table = pd.DataFrame({"x": pd.Series(values, dtype=dtype), "y": "a"})
    schema = Schema((Column("x", Kind.NUMERIC, dtype), Column("y", Kind.CATEGORICAL, "object")))
    counts = ShardStatistics(schema, table).answer(Question("x", decimals=True))
    assert counts.sum() == 9
    assert counts[:4].tolist() == [3, 1, 2, 0]
    if dtype != "float32":
        assert counts[[8, 9]].tolist() == [1, 2]


def test_noise_is_whole_and_as_wide_as_it_should_be() -> None:
    counts = np.arange(20_000)
    noisy = noisy_counts(counts, 12.0, repeatable_noise(0))
    assert noisy.dtype == np.int64
    assert abs((noisy - counts).mean()) < 0.4
    assert (noisy - counts).std() == pytest.approx(12, rel=0.02)


def test_a_label_of_one_row_passes_as_rarely_as_delta_says() -> None:
    n, delta = 40_000, 0.01
    labels = [f"{i:05d}" for i in range(n)]
    found = released_labels(labels, np.ones(n, dtype=np.int64), 30.0, delta, repeatable_noise(1))
    assert abs(len(found) - n * delta) < 4 * math.sqrt(n * delta)
    assert found == sorted(found)
    # A label with as many rows as the threshold is passes half of the time.
    middle = np.full(n, round(1 + 30 * quantile_of(1 - delta)), dtype=np.int64)
    passed = released_labels(labels, middle, 30.0, delta, repeatable_noise(2))
    assert len(passed) == pytest.approx(n / 2, rel=0.05)


def quantile_of(p: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(p))


def test_released_labels_are_in_an_order_of_their_own() -> None:
    counts = np.full(5, 10**6)
    known = ["b", 3, "a", True, -2]
    assert released_labels(known, counts, 1.0, 1e-6, repeatable_noise(0)) == [-2, True, 3, "a", "b"]
    assert released_labels([], np.empty(0, np.int64), 1.0, 1e-6, repeatable_noise(0)) == []


NUMBERS = st.lists(st.integers(-500, 500), min_size=1, max_size=12)


@given(NUMBERS, st.integers(0, 3000))
def test_denoised_counts_are_whole_and_add_up(counts: list[int], total: int) -> None:
    found = denoised(np.array(counts), total)
    assert found.dtype == np.int64
    assert (found >= 0).all()
    assert found.sum() == total
    exact = np.abs(np.array(counts))
    assert (denoised(exact) == exact).all()


@settings(max_examples=30)
@given(st.lists(st.integers(-30, 60), min_size=2, max_size=6), st.integers(1, 100), st.data())
def test_the_nearest_point_of_the_simplex(
    counts: list[int], total: int, data: st.DataObject
) -> None:
    y = np.array(counts, dtype=float)
    v = np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(y), max_size=len(y))), float)
    found = on_simplex(y, total, v)
    assert found.sum() == pytest.approx(total)
    oracle = minimize(
        lambda x: ((x - y) ** 2 / v).sum(),
        np.full(len(y), total / len(y)),
        jac=lambda x: 2 * (x - y) / v,
        bounds=[(0, None)] * len(y),
        constraints={"type": "eq", "fun": lambda x: x.sum() - total, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert ((found - y) ** 2 / v).sum() <= oracle.fun + 1e-6


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_rounding_keeps_running_sums(values: list[float]) -> None:
    found = whole(np.array(values))
    assert (found >= 0).all()
    assert np.abs(np.cumsum(found) - np.cumsum(values)).max() <= 0.5 + 1e-6


def test_empty_cells_rarely_look_occupied() -> None:
    rng = np.random.default_rng(0)
    alarms = [occupied(rng.normal(0, 40, 200), 40).any() for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(0.005, abs=0.005)
    assert occupied(np.array([0, 1, 3]), 0).tolist() == [False, True, True]
    assert quantile() == pytest.approx(quantile_of(0.995))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 6), st.sampled_from([0, 5, 200]))
def test_totals_are_shared_out(seed: int, parents: int, bits: int, deviation: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.poisson(rng.gamma(0.3, 100, (parents, 2**bits))).astype(float)
    room = rng.integers(0, 3, truth.shape).astype(float)
    truth[room == 0] = 0
    counts = np.rint(truth + rng.normal(0, deviation, truth.shape))
    variances = np.full(truth.shape, max(deviation, 1e-3) ** 2)
    totals = truth.sum(axis=1)
    shared = shared_out(totals, counts, variances, room)
    assert (shared >= 0).all()
    assert (shared[room == 0] == 0).all()
    assert shared.sum(axis=1) == pytest.approx(totals)
    if deviation == 0:
        assert shared == pytest.approx(truth, abs=1e-3)


def test_sharing_out_is_better_than_the_counts_are() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(-3, 3, 128)
    truth = 20_000 * np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    truth[90] += 3000  # a point mass beside what is smooth
    counts = truth + rng.normal(0, 130, 128)
    ones = np.ones((1, 128))
    found = shared_out(np.array([truth.sum()]), counts[None], 130**2 * ones, ones)[0]
    projected = on_simplex(counts, truth.sum())
    assert np.abs(found - truth).sum() < 0.6 * np.abs(projected - truth).sum()
    assert found[90] == pytest.approx(truth[90], abs=400)


def test_the_last_bin_is_no_spurious_one() -> None:
    truth = np.zeros(64)
    truth[:20] = 300
    assert last_occupied(truth, np.full(64, 1e-6)) == 19
    nowhere_else = np.where(np.arange(64) == 5, 1.0, 0.0)
    assert last_occupied(-7 * nowhere_else, nowhere_else) == 5
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 100, (400, 64))
    found = [last_occupied(truth + each, np.full(64, 100.0**2)) for each in noise]
    assert np.mean(np.isin(found, range(15, 24))) > 0.85
    # By themselves, three bins of noise in a hundred are above three hundred of its rows' two.
    assert np.mean([np.flatnonzero(truth + each > 200).max() for each in noise]) > 30
