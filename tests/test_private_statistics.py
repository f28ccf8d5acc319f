from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.encoding.encoder import Encoder
from genesis.encoding.numeric import NumericEncoding
from genesis.errors import DataError
from genesis.privacy.histograms import check_disjoint, noisy_counts, released_labels
from genesis.privacy.noise import Noise, repeatable_noise
from genesis.schema import Column, Kind, Schema
from genesis.statistics import PooledStatistics, Question, ShardStatistics, planned_releases
from tests.test_statistics import pool

DEVIATIONS = (0.0, 20.0, 150.0)


def noisy_pool(
    schema: Schema,
    table: pd.DataFrame,
    deviation: float,
    noise: Noise | None = None,
    rows: float | None = None,
) -> PooledStatistics:
    """Ask one shard as a client with a promise would let itself be asked."""
    noise = noise or repeatable_noise(7)
    shard = ShardStatistics(schema, schema.conform(table) if len(table) else table)
    labels = shard.labels()
    if deviation:
        for name, known in labels.items():
            counts = shard.answer(Question(name, labels=tuple(known)))
            labels[name] = released_labels(known, counts, deviation, 1e-6, noise)
    pooled = PooledStatistics(schema, [labels], private=True)
    spent = 0
    while questions := pooled.questions():
        assert [Question.from_dict(json.loads(json.dumps(q.to_dict()))) for q in questions] == (
            questions
        )
        spent += check_disjoint(questions)
        answers = [noisy_counts(shard.answer(q), deviation, noise) for q in questions]
        pooled.take(answers, deviation, len(table) if rows is None else rows)
    assert spent <= planned_releases(schema)
    return pooled


def mixed_table(n: int = 20_000) -> pd.DataFrame:
    """Columns as tables have them: whole, zero-inflated, rounded, dates, few and many labels."""
    rng = np.random.default_rng(0)
    gains = np.where(rng.random(n) < 0.7, 0, np.round(rng.lognormal(7, 0.8, n), 2))
    few = rng.choice(["yes", "no", "maybe"], n, p=[0.6, 0.3, 0.1]).astype(object)
    few[rng.random(n) < 0.1] = None
    return pd.DataFrame(
        {
            "age": np.clip(rng.normal(40, 12, n).round(), 17, 90).astype(int),
            "gain": np.minimum(gains, 2999.99),
            "price": np.round(rng.gamma(4, 15, n), 2),
            "height": rng.normal(170, 10, n),
            "day": pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 2000, n), "D"),
            "score": np.where(rng.random(n) < 0.2, np.nan, rng.integers(-5, 6, n)),
            "two": rng.choice(["a", "b"], n, p=[0.8, 0.2]),
            "few": few,
            "flag": rng.random(n) < 0.3,
            "many": [f"c{i:03d}" for i in np.minimum(rng.geometric(0.02, n), 1000)],
        }
    )


def numeric(encoder: Encoder, name: str) -> NumericEncoding:
    encoding = encoder.encodings[encoder.block_of[name]]
    assert isinstance(encoding, NumericEncoding)
    return encoding


def frequencies(encoder: Encoder, name: str) -> npt.NDArray[np.float64]:
    counts = encoder.encodings[encoder.block_of[name]].counts
    return np.asarray(counts / counts.sum())


def far_apart(table: pd.DataFrame, pooled: PooledStatistics, name: str) -> float:
    """Total variation between a column and its statistics, in 32 bins of equal mass."""
    found = pooled.numeric[name]
    x = np.clip(np.concatenate([found.positions, found.atoms]), found.lower, found.upper)
    weight = np.concatenate([found.counts, found.atom_counts]).astype(float)
    real = table[name].dropna().to_numpy()
    real = real.astype("datetime64[D]").astype(float) if real.dtype.kind == "M" else real
    edges = np.unique(np.quantile(real, np.linspace(0, 1, 33)))
    one, other = (
        np.bincount(np.searchsorted(edges, v, side="right"), w, len(edges) + 1) / w.sum()
        for v, w in ((x, weight), (real.astype(float), np.ones(len(real))))
    )
    return float(np.abs(one - other).sum() / 2)


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_a_table_is_described_as_well_as_the_noise_allows(deviation: float) -> None:
    table = mixed_table()
    pooled = noisy_pool(Schema.infer(table).without_values(), table, deviation)
    encoder = Encoder.fit(pooled)
    assert {c.name: c.decimals for c in encoder.schema if c.kind is Kind.NUMERIC} == {
        "age": 0,
        "gain": 2,
        "price": 2,
        "height": None,
        "score": 0,
    }
    limit = {0.0: 0.05, 20.0: 0.06, 150.0: 0.25}[deviation]
    for name in ("age", "gain", "price", "height", "day", "score"):
        # Bins of a histogram end elsewhere than those of the comparison: 0.02 to 0.04 is nothing.
        assert far_apart(table, pooled, name) < limit, name
    cut = {0.0: 0.01, 20.0: 0.03, 150.0: 0.06}[deviation]
    widths = {"age": (17, 127), "gain": (0, 4096), "price": (0, 512), "height": (64, 256)}
    for name, (lower, upper) in widths.items():
        found = numeric(encoder, name)
        assert lower <= found.lower < found.upper <= upper, name
        real = table[name].quantile([cut, 1 - cut])
        assert found.lower <= real.iloc[0], name
        assert real.iloc[1] <= found.upper, name
    gain = numeric(encoder, "gain")
    assert gain.atoms[0] == 0
    assert gain.atom_counts[0] == pytest.approx((table["gain"] == 0).sum(), rel=0.05)
    assert deviation > 100 or 2999.99 in gain.atoms  # 3 % of the rows
    score = numeric(encoder, "score")
    assert score.atoms.tolist() == list(range(-5, 6))
    assert score.nulls == pytest.approx(table["score"].isna().sum(), rel=0.15)
    assert not numeric(encoder, "age").nulls
    assert not numeric(encoder, "height").nulls
    assert frequencies(encoder, "two") == pytest.approx([0.8, 0.2], abs=0.02)
    assert frequencies(encoder, "few") == pytest.approx([0.09, 0.27, 0.54, 0.1], abs=0.02)
    assert frequencies(encoder, "flag") == pytest.approx([0.7, 0.3], abs=0.02)
    codes = encoder.encode(encoder.schema.conform(table[:500]), np.random.default_rng(0))
    decoded = encoder.decode(codes, np.random.default_rng(0))
    assert decoded.dtypes.equals(table.dtypes)


def test_without_noise_all_is_nearly_exact() -> None:
    table = mixed_table(5000)
    schema = Schema.infer(table)
    exact, found = pool(schema, [table]), noisy_pool(schema, table, 0.0)
    for name, labels in exact.discrete.items():
        assert found.discrete[name].labels == labels.labels
        assert (found.discrete[name].counts == labels.counts).all()
        assert found.discrete[name].nulls == labels.nulls
    for name, column in exact.numeric.items():
        other = found.numeric[name]
        assert other.nulls == column.nulls
        # An atom that only deeper levels of the exact tree tell from its neighbours may be missing.
        common = np.isin(column.atoms, other.atoms)
        assert column.atom_counts[common].tolist() == (
            other.atom_counts[np.isin(other.atoms, column.atoms)].tolist()
        )
        assert other.counts.sum() + other.atom_counts.sum() + other.nulls == 5000
        width = np.nanmax(column.upper) - column.lower
        assert other.lower == pytest.approx(column.lower, abs=0.1 * width)
        assert other.upper == pytest.approx(column.upper, abs=0.1 * width)


@pytest.mark.parametrize("deviation", DEVIATIONS)
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_few_rows_make_an_encoder_too(deviation: float, rows: int) -> None:
    table = mixed_table(200)
    schema = Schema.infer(table).without_values()
    for given_rows in (rows, 0.0, -40.0):
        pooled = noisy_pool(schema, table[:rows], deviation, rows=given_rows)
        encoder = Encoder.fit(pooled)
        assert all(len(encoding.counts) for encoding in encoder.encodings)
        json.dumps(encoder.to_dict(), allow_nan=False)
        codes = encoder.encode(table, np.random.default_rng(0))
        assert len(encoder.decode(codes, np.random.default_rng(0))) == 200
        assert np.isfinite(encoder.frequencies).all()
        assert (encoder.frequencies >= 0).all()


@settings(max_examples=30)
@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9)),
        min_size=1,
        max_size=40,
    ),
    deviation=st.sampled_from([0.0, 1.0, 30.0]),
    times=st.sampled_from([1, 100]),
    decimals=st.sampled_from([None, 0, 2, 22]),
    bounds=st.sampled_from([(None, None), (0, None), (0, 1), (-1e9, 1e9), (64, 100), (-0.5, 0.5)]),
    seed=st.integers(0, 50),
)
def test_nothing_crashes_and_everything_adds_up(
    values: list[float | None],
    deviation: float,
    times: int,
    decimals: int | None,
    bounds: tuple[float | None, float | None],
    seed: int,
) -> None:
    table = pd.DataFrame({"x": pd.Series(values * times, dtype=float), "y": "a"})
    column = Column(
        "x",
        Kind.NUMERIC,
        "float64",
        decimals=decimals,
        nulls=True,
        lower=bounds[0],
        upper=bounds[1],
    )
    schema = Schema((column, Column("y", Kind.CATEGORICAL, "object", categories=("a", "b"))))
    pooled = noisy_pool(schema, table, deviation, repeatable_noise(seed))
    found = pooled.numeric["x"]
    assert (np.diff(found.positions) > 0).all()
    assert (np.diff(found.atoms) > 0).all()
    assert (found.counts > 0).all()
    assert found.counts.sum() + found.atom_counts.sum() + found.nulls == len(table)
    assert found.lower <= found.upper
    for bound, given_bound in ((found.lower, bounds[0]), (found.upper, bounds[1])):
        assert given_bound is None or abs(bound - given_bound) < 1  # drawn in to the grid
    assert pooled.schema["x"].decimals == decimals or decimals is None
    for label in pooled.discrete.values():
        assert (label.counts >= 0).all()


def test_an_outlier_and_a_rare_label_are_not_seen() -> None:
    table = mixed_table(5000)[["height", "few"]]
    schema = replace_column(Schema.infer(table), "height", decimals=None)
    row = {"height": 1e30, "few": "unheard of"}
    more = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
    exact = [pool(schema, [each]).numeric["height"] for each in (table, more)]
    assert exact[1].positions.max() > 1e29 > exact[0].positions.max()
    noisy = [
        Encoder.fit(noisy_pool(schema, each, 20.0, repeatable_noise(3), rows=5000.0))
        for each in (table, more)
    ]
    for one, other in zip(noisy[0].encodings, noisy[1].encodings, strict=True):
        assert one.column.name in ("height", "few")
        assert len(one.counts) == len(other.counts)
    one, other = (numeric(each, "height") for each in noisy)
    assert (one.lower, one.upper, one.atoms.tolist()) == (other.lower, other.upper, [])
    assert one.to_dict() == other.to_dict()
    assert "unheard of" not in json.dumps(noisy[1].to_dict())


def replace_column(schema: Schema, name: str, **changes: object) -> Schema:
    return Schema(tuple(replace(c, **changes) if c.name == name else c for c in schema))


def test_how_much_is_asked_is_known_beforehand_and_follows_from_the_schema() -> None:
    schema = Schema(
        (
            Column("free", Kind.NUMERIC, "float64"),  # range, bins, children, decimals
            Column("rounded", Kind.NUMERIC, "float64", decimals=1),  # range, bins, children
            Column("whole", Kind.NUMERIC, "int64"),  # the same
            Column("bounded", Kind.NUMERIC, "int64", lower=0, upper=120),  # bins, children
            Column("byte", Kind.NUMERIC, "uint8"),  # the same
            Column("wide", Kind.NUMERIC, "int64", lower=0, upper=10**6),  # range, bins, children
            Column("day", Kind.DATETIME, "datetime64[ns]", unit="D"),  # the same
            Column("label", Kind.CATEGORICAL, "object"),
            Column("flag", Kind.BOOLEAN, "bool"),
            Column("key", Kind.ID, "int64", format="integer"),
            Column("one", Kind.CONSTANT, "int64", value=3, of=Kind.NUMERIC),
        )
    )
    assert planned_releases(schema) == 4 + 3 + 3 + 2 + 2 + 3 + 3 + 1 + 1
    questions = PooledStatistics(schema, [], private=True).questions()
    assert check_disjoint(questions) == 1 + 7 + 1 + 1
    by_column = {q.column: q for q in questions if q.labels is None and not q.decimals}
    assert by_column["bounded"].bits == 7
    assert len(by_column["bounded"].parents) == 8  # 0, 1, 2 to 3, … 64 to 127
    assert len(by_column["wide"].parents) == 21
    assert len(by_column["whole"].parents) <= 2 * 64 + 1


def test_point_masses_on_no_grid_are_round_numbers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 100, 10_000)
    x[:2000], x[2000:3000], x[3000:3500] = 0.0, -12.5, 99.9
    table = pd.DataFrame({"x": x, "y": rng.random(10_000)})
    found = noisy_pool(Schema.infer(table), table, 30.0).numeric["x"]
    assert found.atoms.tolist() == [-12.5, 0.0, 99.9]
    assert found.atom_counts == pytest.approx([1000, 2000, 500], abs=120)


def test_labels_too_rare_to_be_told_are_not_made_up_for_by_others() -> None:
    rng = np.random.default_rng(0)
    rare = [f"rare {i}" for i in range(500)]
    labels = np.concatenate([["a"] * 3000, ["b"] * 1000, rng.choice(rare, 4000)])
    table = pd.DataFrame({"c": labels, "x": rng.random(8000)})
    found = noisy_pool(Schema.infer(table), table, 20.0).discrete["c"]
    assert found.labels == ("a", "b")
    assert found.counts == pytest.approx([3000, 1000], abs=100)


def test_noisy_counts_need_a_noisy_number_of_rows() -> None:
    pooled = PooledStatistics(Schema((Column("x", Kind.NUMERIC, "int64"),)), [], private=True)
    answers = [np.zeros(question.size, dtype=np.int64) for question in pooled.questions()]
    with pytest.raises(DataError, match="number of rows"):
        pooled.take(answers, 5.0)
