"""Marginals: exact counts of pairs, and a mixture that noise does not fool."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import Schema, Synthesizer
from genesis.codes import Codes, Condition, Layout
from genesis.errors import FederationError, PlanError, TrainingError
from genesis.models.sums import Budget, Question, SumFit
from genesis.models.sums import marginals as module
from genesis.models.sums.marginals import Marginals
from genesis.models.sums.rows import SumRows

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LAYOUT = Layout((4, 3), (3, 2))
QUICK = {"components": 30, "steps": 120}
ROWS = 20_000


def drawn(n: int = ROWS, seed: int = 0, layout: Layout = LAYOUT) -> Integers:
    """(n, blocks) codes of which all follow a hidden number, and are therefore alike."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(n)
    columns = [
        ((hidden * 0.8 + rng.random(n) * 0.2) ** (1 + block / 3) * width).astype(np.int64)
        for block, width in enumerate(layout.block_widths)
    ]
    return np.stack(columns, axis=1)


def rows_of(codes: Integers, layout: Layout = LAYOUT) -> SumRows:
    scalars = np.zeros((len(codes), layout.n_scalars), dtype=np.float32)
    return SumRows(layout, Codes(scalars, codes.astype(np.int32)))


def frequencies(codes: Integers, layout: Layout = LAYOUT) -> Floats:
    widths = layout.block_widths
    parts = [np.bincount(c[c >= 0], minlength=w) for c, w in zip(codes.T, widths, strict=True)]
    return np.concatenate(parts).astype(np.float64)


def begun(
    codes: Integers, layout: Layout = LAYOUT, budget: Budget | None = None, **config: Any
) -> SumFit:
    return Marginals.fit(
        layout,
        {**QUICK, **config},
        rows=len(codes),
        frequencies=frequencies(codes, layout),
        n_rounds=1,
        seed=0,
        budget=budget,
    )


def fitted(codes: Integers, deviation: float = 0.0, **config: Any) -> tuple[Marginals, float]:
    """A model of codes, and how far it is from what it was told."""
    fit = begun(codes, **config)
    question = fit.question()
    assert question is not None
    noise = np.random.default_rng(1).normal(0, deviation, question.size)
    told = fit.take(Marginals.answer(rows_of(codes), question) + whole(noise), deviation)
    assert fit.question() is None
    assert told is not None
    model = Marginals(LAYOUT, fit.config)
    model.set_vector(fit.vector)
    return model, told["misfit"]


def whole(values: Floats) -> Integers:
    return np.rint(values).astype(np.int64)


def two_way(model: Marginals) -> dict[tuple[int, int], Floats]:
    """The two-way tables of a model, component by component."""
    named = model.parameters.views(model.get_vector())
    weights = named["generator.weights"].double().numpy()
    parts = named["generator.tables"].double().split_with_sizes(list(LAYOUT.block_widths))
    tables = [part.numpy() for part in parts]
    return {
        (i, j): sum(w * np.outer(tables[i][:, k], tables[j][:, k]) for k, w in enumerate(weights))
        for i, j in itertools.combinations(range(LAYOUT.n_blocks), 2)
    }


def counted(codes: Integers) -> dict[tuple[int, int], Floats]:
    """The same of codes, in rows."""
    widths = LAYOUT.block_widths
    found = {}
    for i, j in itertools.combinations(range(LAYOUT.n_blocks), 2):
        table = np.zeros((widths[i], widths[j]))
        known = codes[(codes[:, i] >= 0) & (codes[:, j] >= 0)]
        np.add.at(table, (known[:, i], known[:, j]), 1)
        found[i, j] = table
    return found


def shares(codes: Integers) -> dict[tuple[int, int], Floats]:
    return {pair: table / len(codes) for pair, table in counted(codes).items()}


def independent(codes: Integers) -> dict[tuple[int, int], Floats]:
    ends = np.cumsum(LAYOUT.block_widths)[:-1]
    single = [part / len(codes) for part in np.split(frequencies(codes), ends)]
    return {
        (i, j): np.outer(single[i], single[j])
        for i, j in itertools.combinations(range(LAYOUT.n_blocks), 2)
    }


def variation(a: dict[tuple[int, int], Floats], b: dict[tuple[int, int], Floats]) -> float:
    """Mean total variation of two-way tables."""
    return float(np.mean([0.5 * np.abs(a[pair] - b[pair]).sum() for pair in a]))


# --- the question ---

some_codes = st.lists(
    st.tuples(*(st.integers(-1, width - 1) for width in LAYOUT.block_widths)), max_size=20
).map(lambda rows: np.array(rows, dtype=np.int64).reshape(-1, LAYOUT.n_blocks))


def asked(layout: Layout = LAYOUT) -> Question:
    question = begun(drawn(10, layout=layout), layout).question()
    assert question is not None
    return question


@given(codes=some_codes)
def test_answers_are_the_counts_of_all_pairs_of_codes(codes: Integers) -> None:
    expected = np.concatenate([table.ravel() for table in counted(codes).values()])
    assert Marginals.answer(rows_of(codes), asked()).tolist() == expected.tolist()


@given(codes=some_codes, at=st.integers(0, 20))
def test_answers_of_two_parts_add_up(codes: Integers, at: int) -> None:
    parts = [Marginals.answer(rows_of(part), asked()) for part in (codes[:at], codes[at:])]
    assert sum(parts).tolist() == Marginals.answer(rows_of(codes), asked()).tolist()


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = drawn(100)
    whole = Marginals.answer(rows_of(codes), asked())
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    assert Marginals.answer(rows_of(codes), asked()).tolist() == whole.tolist()


@given(codes=some_codes)
def test_no_row_adds_more_than_is_paid_for(codes: Integers) -> None:
    question = asked()
    release = Marginals.releases(LAYOUT, {})[0]
    assert release.allows(question.norm)
    for row in codes:
        added = Marginals.answer(rows_of(row[None]), question)
        assert set(added.tolist()) <= {0, 1}
        assert added.sum() <= release.vectors
        assert math.sqrt(added.sum()) <= question.norm


@pytest.mark.parametrize(
    ("kind", "size", "norm"),
    [("others", 0, 0.0), ("pairs", 1, 0.0), ("pairs", 0, -0.1), ("pairs", 0, math.nan)],
)
def test_other_questions_are_refused(kind: str, size: int, norm: float) -> None:
    right = asked()
    question = Question(kind, right.size + size, norm=right.norm + norm)
    with pytest.raises(FederationError, match="none of marginals"):
        Marginals.answer(rows_of(drawn(10)), question)


def test_tables_that_are_too_large_are_left_out_and_paid_for() -> None:
    wide = Layout((), (300, 300, 2))
    question = asked(wide)
    assert question.size == 2 * 300 * 2
    assert question.norm == math.sqrt(2)
    assert Marginals.releases(wide, {})[0].allows(question.norm)


def test_one_column_needs_no_question() -> None:
    codes = drawn(100, layout=(alone := Layout((), (3,))))
    fit = begun(codes, alone)
    assert (fit.question(), fit.n_rounds) == (None, 0)
    model = Marginals(alone, fit.config)
    model.set_vector(fit.vector)
    generated = model.generate(100, None, np.random.default_rng(0)).codes
    assert np.abs(np.bincount(generated[:, 0], minlength=3) - frequencies(codes, alone)).max() <= 1


# --- the fit ---


def test_exact_tables_are_reproduced() -> None:
    codes = drawn()
    model, _ = fitted(codes)
    assert variation(independent(codes), shares(codes)) > 0.2
    assert variation(two_way(model), shares(codes)) < 0.02
    generated = model.generate(ROWS, None, np.random.default_rng(0)).codes
    assert variation(shares(generated.astype(np.int64)), shares(codes)) < 0.03


def test_noise_is_told_from_the_table() -> None:
    codes, deviation = drawn(), 150.0
    model, misfit = fitted(codes, deviation)
    noisy = {
        pair: table + np.random.default_rng(2).normal(0, deviation / ROWS, table.shape)
        for pair, table in shares(codes).items()
    }
    found = variation(two_way(model), shares(codes))
    assert found < 0.85 * variation(noisy, shares(codes))
    assert found < 0.2 * variation(independent(codes), shares(codes))
    assert 0.4 < misfit < 1.6


def test_in_noise_alone_columns_are_independent() -> None:
    codes = drawn()
    model, _ = fitted(codes, 1e6)
    assert variation(two_way(model), independent(codes)) < 0.01


def test_unknown_codes_take_nothing_from_the_known() -> None:
    codes = drawn()
    holes = codes.copy()
    holes[np.random.default_rng(3).random(codes.shape) < 0.3] = -1
    model, _ = fitted(holes)
    assert variation(two_way(model), shares(codes)) < 0.03


def test_a_client_that_is_away_takes_its_rows_along() -> None:
    codes = drawn()
    fit = begun(codes)
    question = fit.question()
    assert question is not None
    fit.take(Marginals.answer(rows_of(codes[::2]), question), 20.0)
    model = Marginals(LAYOUT, fit.config)
    model.set_vector(fit.vector)
    assert variation(two_way(model), shares(codes)) < 0.05


def test_a_fit_depends_on_its_seed_and_on_nothing_else() -> None:
    codes = drawn(500)
    first, second = (fitted(codes, 5.0)[0].get_vector() for _ in range(2))
    assert torch.equal(first, second)


def test_a_fit_goes_on_from_its_state() -> None:
    codes = drawn(500)
    before, after = begun(codes), begun(codes)
    question = before.question()
    assert question is not None
    after.restore(*before.to_state())
    assert after.question() == question
    before.take(Marginals.answer(rows_of(codes), question))
    after.restore(*before.to_state())
    assert after.question() is None
    assert torch.equal(after.vector, before.vector)


def test_a_fit_starts_from_the_frequencies() -> None:
    model = Marginals(LAYOUT, {**QUICK})
    model.set_vector(begun(codes := drawn()).vector)
    assert variation(two_way(model), independent(codes)) < 1e-5


def test_negative_counts_without_noise_are_refused() -> None:
    fit = begun(drawn(10))
    question = fit.question()
    assert question is not None
    with pytest.raises(TrainingError, match="negative"):
        fit.take(np.full(question.size, -1))


def test_conditions_hold() -> None:
    model, _ = fitted(drawn(2000))
    condition = Condition({2: np.array([False, False, True])})
    generated = model.generate(50, condition, np.random.default_rng(0))
    assert condition.holds(generated.codes).all()


# --- too little to spend ---


def needed(layout: Layout, rho: float, clients: float = 1.0) -> None:
    begun(drawn(2000, layout=layout), layout, Budget(rho, clients))


def layout_of(columns: int) -> Layout:
    return Layout((), (10,) * columns)


@settings(max_examples=20)
@given(columns=st.integers(2, 30), rho=st.floats(1e-7, 3e-5), clients=st.floats(1, 30))
def test_what_an_error_advises_is_enough(columns: int, rho: float, clients: float) -> None:
    with pytest.raises(PlanError, match="epsilon is too small for so many columns") as caught:
        needed(layout_of(columns), rho, clients)
    assert caught.value.do is not None
    words = caught.value.do.split()
    times, kept = float(words[3]), int(words[-4])
    needed(layout_of(columns), rho * times**2, clients)
    assert kept <= columns
    if kept > 1:
        needed(layout_of(kept), rho, clients)


@pytest.mark.parametrize(
    "config", [{"components": 0}, {"steps": 0}, {"restarts": 2}, {"epochs": 0}], ids=str
)
def test_impossible_choices_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        Marginals.check_config(config)


# --- whole ---


def test_a_private_table_spends_its_promise_and_learns_how_columns_depend() -> None:
    codes = drawn(5000, layout=Layout((), (4, 3, 3)))
    table = pd.DataFrame({name: codes[:, i].astype(str) for i, name in enumerate("abc")})
    schema = Schema.from_dict(
        {
            "columns": [
                {"name": n, "kind": "categorical", "categories": sorted(table[n].unique())}
                for n in table
            ]
        }
    )
    promise = {"differential_privacy": {"epsilon": 3.0}}
    built = Synthesizer("marginals", QUICK, schema=schema, privacy=promise).fit(table)
    assert built.epsilon is not None
    assert 2.95 < built.epsilon <= 3.0

    def dependence(rows: pd.DataFrame) -> Floats:
        return pd.crosstab(rows["a"], rows["b"], normalize=True).to_numpy()

    made = built.generate(5000)
    assert isinstance(made, pd.DataFrame)
    alone = np.outer(dependence(table).sum(1), dependence(table).sum(0))
    apart = [np.abs(found - dependence(table)).sum() for found in (dependence(made), alone)]
    assert apart[0] < 0.3 * apart[1]
