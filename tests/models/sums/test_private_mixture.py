"""A mixture under a promise of privacy: what a row adds, what it costs, and what noise leaves."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from genesis import FederatedSynthesizer, Schema, Synthesizer
from genesis.codes import Codes, Layout
from genesis.errors import FederationError, PlanError, TrainingError
from genesis.models.sums import Budget, Question, SumFit
from genesis.models.sums.mixture import Mixture
from genesis.models.sums.private_mixture_fit import PASSES
from genesis.models.sums.rows import UNIT, SumRows
from genesis.privacy.noise import Noise

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LAYOUT = Layout((4, 3), (3, 2))
WIDTH = sum(LAYOUT.block_widths)
NORM = math.sqrt(5) / UNIT
ROWS = 20_000


def drawn(n: int = ROWS, seed: int = 0) -> Integers:
    """(n, blocks) codes of which all follow a hidden number, and are therefore alike."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(n)
    columns = [
        ((hidden * 0.8 + rng.random(n) * 0.2) ** (1 + block / 3) * width).astype(np.int64)
        for block, width in enumerate(LAYOUT.block_widths)
    ]
    return np.stack(columns, axis=1)


def rows_of(codes: Integers) -> SumRows:
    scalars = np.zeros((len(codes), LAYOUT.n_scalars), dtype=np.float32)
    return SumRows(LAYOUT, Codes(scalars, codes.astype(np.int32)))


def frequencies(codes: Integers) -> Floats:
    widths = LAYOUT.block_widths
    parts = [np.bincount(c[c >= 0], minlength=w) for c, w in zip(codes.T, widths, strict=True)]
    return np.concatenate(parts).astype(np.float64)


def begun(codes: Integers, rho: float = 1.0, clients: float = 1.0, **config: Any) -> SumFit:
    return Mixture.fit(
        LAYOUT,
        config,
        rows=len(codes),
        frequencies=frequencies(codes),
        n_rounds=3,
        seed=0,
        budget=Budget(rho, clients),
    )


def finished(fit: SumFit, codes: Integers, deviation: float = 0.0) -> Mixture:
    """A model of codes, with noise of a deviation, in rows, in every count."""
    rng = np.random.default_rng(1)
    while (question := fit.question()) is not None:
        noise = np.rint(rng.normal(0, deviation / UNIT, question.size)).astype(np.int64)
        fit.take(Mixture.answer(rows_of(codes), question) + noise, deviation / UNIT)
    model = Mixture(LAYOUT, fit.config)
    model.set_vector(fit.vector)
    return model


def dependence(codes: Integers) -> Floats:
    """Shares of pairs of codes in the first and the third block."""
    table = np.zeros((4, 3))
    np.add.at(table, (codes[:, 0], codes[:, 2]), 1 / len(codes))
    return table


def apart(model: Mixture, codes: Integers) -> float:
    made = model.generate(ROWS, None, np.random.default_rng(0)).codes
    return float(np.abs(dependence(made.astype(np.int64)) - dependence(codes)).sum())


def independent(codes: Integers) -> float:
    table = dependence(codes)
    return float(np.abs(np.outer(table.sum(1), table.sum(0)) - table).sum())


# --- the question ---

some_codes = st.lists(
    st.tuples(*(st.integers(-1, width - 1) for width in LAYOUT.block_widths)),
    min_size=1,
    max_size=8,
).map(lambda rows: np.array(rows, dtype=np.int64))
any_number = st.one_of(
    st.floats(0, 1, width=32),
    st.floats(width=32),
    st.sampled_from([0.0, -1.0, 1e-38, 1e38, math.inf, -math.inf, math.nan]),
)


@st.composite
def any_question(draw: st.DrawFn) -> Question:
    k = draw(st.integers(1, 5))
    arrays = {
        name: draw(arrays_of.arrays(np.float32, shape, elements=any_number))
        for name, shape in (("weights", (k,)), ("tables", (WIDTH, k)))
    }
    return Question("expect privately", WIDTH * k + k, arrays=arrays, norm=NORM)


@settings(max_examples=50)
@given(codes=some_codes, question=any_question())
def test_no_row_adds_more_than_the_norm_whatever_is_asked(
    codes: Integers, question: Question
) -> None:
    answer = Mixture.answer(rows_of(codes), question)
    assert answer.min() >= 0
    for row in range(len(codes)):
        one = Mixture.answer(rows_of(codes[row : row + 1]), question)
        rest = Mixture.answer(rows_of(np.delete(codes, row, 0)), question)
        assert math.sqrt(sum(int(number) ** 2 for number in one)) <= question.norm * (1 + 1e-12)
        assert (answer - rest).tolist() == one.tolist()


def test_a_certain_row_adds_just_the_norm() -> None:
    """Else more noise is added than is needed."""
    tables, weights = np.ones((WIDTH, 1), np.float32), np.ones(1, np.float32)
    arrays = {"weights": weights, "tables": tables}
    question = Question("expect privately", WIDTH + 1, arrays=arrays, norm=NORM)
    one = Mixture.answer(rows_of(drawn(1)), question)
    assert np.linalg.norm(one.astype(float)) == pytest.approx(NORM)


def asked() -> Question:
    question = begun(drawn(5000), components=3).question()
    assert question is not None
    return question


def test_nothing_is_asked_but_expected_counts() -> None:
    """No likelihood, and no number of rows: noise in proportion to them would be far larger."""
    question, codes = asked(), drawn(300)
    answer = Mixture.answer(rows_of(codes), question)
    counts, members = answer[: WIDTH * 3].reshape(WIDTH, 3), answer[WIDTH * 3 :]
    assert question.norm == NORM
    assert len(members) == 3
    for block in np.split(counts, np.cumsum(LAYOUT.block_widths)[:-1]):
        assert (block.sum(0) == members).all()
    assert 0.99 * 300 / UNIT < members.sum() <= 300 / UNIT


@pytest.mark.parametrize(
    "change",
    [
        {"norm": NORM * 0.99},
        {"norm": math.nan},
        {"kind": "expect nothing"},
        {"meta": {"group": 0, "groups": 2}},
        {"size": WIDTH * 3 + 4},
        {"arrays": {}},
    ],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_other_questions_are_refused(change: dict[str, Any]) -> None:
    right = asked()
    with pytest.raises(FederationError, match="none of mixture's"):
        Mixture.answer(rows_of(drawn(10)), Question(**{**vars(right), **change}))


@pytest.mark.parametrize("dtype", [np.float64, np.complex64, np.int64, np.bool_])
def test_parameters_of_another_type_are_refused(dtype: Any) -> None:
    right = asked()
    arrays = {**right.arrays, "tables": right.arrays["tables"].astype(dtype)}
    with pytest.raises(FederationError, match="none of mixture's"):
        Mixture.answer(
            rows_of(drawn(10)), Question(right.kind, right.size, arrays=arrays, norm=NORM)
        )


# --- the fit ---


@pytest.mark.parametrize("epochs", [1, 3, 8, 20])
def test_as_many_answers_are_asked_for_as_are_paid_for(epochs: int) -> None:
    codes = drawn(5000)
    releases = Mixture.releases(LAYOUT, {"epochs": epochs})
    fit = begun(codes, epochs=epochs)
    questions = 0
    while (question := fit.question()) is not None:
        assert releases[questions].allows(question.norm)
        told = fit.take(Mixture.answer(rows_of(codes), question))
        assert told == {"components": fit.config["components"]}
        questions += 1
    assert questions == len(releases) == fit.n_rounds == min(epochs, PASSES)
    assert len({release.share for release in releases}) == 1


def test_without_noise_dependence_is_learned() -> None:
    codes = drawn()
    assert apart(finished(begun(codes), codes), codes) < 0.2 * independent(codes)


def test_noise_is_told_from_the_table() -> None:
    codes = drawn()
    deviation = math.sqrt(5 * PASSES / (2 * 0.02))
    assert apart(finished(begun(codes, 0.02), codes, deviation), codes) < 0.5 * independent(codes)


def test_any_noise_leaves_a_distribution() -> None:
    codes = drawn(500)
    for deviation in (1.0, 1e3, 1e8):
        named = finished(begun(codes, components=8), codes, deviation)
        tables = named.parameters.views(named.get_vector())["generator.tables"]
        assert (tables >= 0).all()
        for block in tables.split_with_sizes(list(LAYOUT.block_widths)):
            torch.testing.assert_close(block.sum(0), torch.ones(8))


def test_more_noise_makes_fewer_components() -> None:
    codes = drawn(5000)
    found = [begun(codes, rho).config["components"] for rho in (0.02, 0.5, 50.0, 1e6)]
    assert found == sorted(found)
    assert found[0] < found[1] < found[2] <= found[3] == 100
    assert begun(codes, 0.5, 4.0).config["components"] < found[1]
    assert begun(codes, components=7).config["components"] == 7


def test_any_split_of_the_rows_gives_the_same_model() -> None:
    codes, shard = drawn(3000), np.random.default_rng(0).integers(4, size=3000)
    whole, parts = begun(codes), begun(codes)
    while (question := whole.question()) is not None:
        whole.take(Mixture.answer(rows_of(codes), question))
        same = parts.question()
        assert same is not None
        answers = [Mixture.answer(rows_of(codes[shard == k]), same) for k in range(4)]
        parts.take(np.sum(answers, axis=0))
    assert torch.equal(whole.vector, parts.vector)


def test_a_fit_goes_on_from_its_state() -> None:
    codes = drawn(3000)
    before, after = begun(codes), begun(codes)
    for _ in range(3):
        question = before.question()
        assert question is not None
        before.take(Mixture.answer(rows_of(codes), question), 5.0 / UNIT)
    values, tensors = before.to_state()
    after.restore(json.loads(json.dumps(values)), tensors)
    first, second = (finished(fit, codes, 5.0).get_vector() for fit in (before, after))
    assert torch.equal(first, second)


def test_negative_counts_without_noise_are_refused() -> None:
    fit = begun(drawn(3000))
    question = fit.question()
    assert question is not None
    with pytest.raises(TrainingError, match="no rows have"):
        fit.take(np.full(question.size, -1))


@settings(max_examples=20)
@given(rho=st.floats(1e-7, 1e-3), clients=st.floats(1, 30))
def test_what_an_error_advises_is_enough(rho: float, clients: float) -> None:
    codes = drawn(2000)
    with pytest.raises(PlanError, match="epsilon is too small for expected counts") as caught:
        begun(codes, rho, clients)
    assert "\n" not in str(caught.value)
    assert caught.value.do is not None
    begun(codes, rho * float(caught.value.do.split()[3]) ** 2, clients)


# --- whole ---


def table(n: int = 3000) -> pd.DataFrame:
    codes = drawn(n)
    return pd.DataFrame({name: codes[:, i].astype(str) for i, name in enumerate("abcd")})


def stated(rows: pd.DataFrame) -> Schema:
    columns = [
        {"name": n, "kind": "categorical", "categories": sorted(rows[n].unique())} for n in rows
    ]
    return Schema.from_dict({"columns": columns})


def private(epsilon: float, **choices: Any) -> dict[str, Any]:
    return {"differential_privacy": {"epsilon": epsilon, **choices}}


def test_a_private_table_spends_its_promise_and_no_more() -> None:
    rows = table()
    made = [
        Synthesizer("mixture", schema=stated(rows), privacy=private(3.0), seed=5).fit(rows)
        for _ in range(2)
    ]
    for each in made:
        assert each.epsilon is not None
        assert 2.9 < each.epsilon <= 3.0
    # The seed decides where a fit starts, and nothing of the noise.
    assert not torch.equal(made[0].model.get_vector(), made[1].model.get_vector())


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_federations_that_share_rows_out_otherwise_learn_the_same(
    trust: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: Noise, n: int, __: float) -> Integers:
        return np.zeros(n, dtype=np.int64)

    monkeypatch.setattr(Noise, "skellam", silent)
    rows, vectors = table(1500), []
    for seed in (0, 1):
        of = np.random.default_rng(seed).integers(3, size=len(rows))
        shards = [rows[of == k].reset_index(drop=True) for k in range(3)]
        built = FederatedSynthesizer(
            "mixture",
            schema=stated(rows),
            privacy=private(8.0, trust=trust),
            seed=5,
            secure_aggregation=trust == "distributed",
        ).fit(shards)
        assert built.epsilon is not None
        assert built.epsilon <= 8.0
        vectors.append(built.model.model.get_vector())
    assert torch.equal(*vectors)


def test_too_small_a_promise_is_refused_in_one_line() -> None:
    rows = table(400)
    with pytest.raises(PlanError, match="times as large") as caught:
        Synthesizer("mixture", schema=stated(rows), privacy=private(0.1)).fit(rows)
    assert "\n" not in str(caught.value)
