from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.encoding.encoder import Encoder
from genesis.encoding.numeric import NumericEncoding
from genesis.schema import Column, Kind, Schema
from tests.dirty import dirty_table
from tests.test_statistics import pool


def encoder_of(table: pd.DataFrame, discrete: tuple[str, ...] = (), **options: int) -> Encoder:
    schema = Schema.infer(table, discrete).settle()
    return Encoder.fit(pool(schema, [table]), **options)


def round_trip(encoder: Encoder, table: pd.DataFrame) -> pd.DataFrame:
    codes = encoder.encode(encoder.schema.conform(table), np.random.default_rng(0))
    return encoder.decode(codes, np.random.default_rng(1))


def test_a_dirty_table_comes_back() -> None:
    table = dirty_table(800)
    decoded = round_trip(encoder_of(table), table)
    assert list(decoded.columns) == list(table.columns)
    assert decoded.dtypes.equals(table.dtypes)
    for name in table.columns.drop("patient_id"):
        assert (decoded[name].isna() == table[name].isna()).all(), name
    # The fewer than 5 rows at the end of a column are drawn in to its bound.
    assert (decoded["visits"] == table["visits"].clip(upper=decoded["visits"].max())).all()
    assert (decoded["visits"] != table["visits"]).sum() < 5
    for name in ("sex", "smoker", "région=?", "hospital"):
        pd.testing.assert_series_equal(decoded[name], table[name])
    assert decoded["patient_id"].is_unique
    assert not set(decoded["patient_id"]) - {f"P-{i:05d}" for i in range(10**5)}
    near = (decoded["größe, cm"] - table["größe, cm"]).abs()
    assert (near.dropna() < 0.11).mean() > 0.97  # all but a few far from every mode
    exact = table["zeros"].isin([0.0, 99.5])
    assert (decoded["zeros"] == table["zeros"])[exact].all()
    assert not decoded["zeros"][~exact].isin([0.0, 99.5]).any()


def test_json_keeps_every_bit() -> None:
    encoder = encoder_of(dirty_table(500))
    again = Encoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again.digest == encoder.digest
    assert again.layout == encoder.layout
    assert (again.frequencies == encoder.frequencies).all()


def test_shards_give_the_encoder_of_the_pooled_table_bit_for_bit() -> None:
    table = dirty_table(700)
    schemas = {str(i): Schema.infer(table.iloc[i::4]) for i in range(4)}
    schema = Schema.merge(schemas)
    parts = Encoder.fit(pool(schema, [table.iloc[i::4] for i in range(4)]))
    assert parts.digest == encoder_of(table).digest


def test_a_long_tail_shares_one_slot_and_comes_back_by_frequency() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"code": (rng.zipf(1.3, 20_000) % 5000).astype(str), "x": rng.random(20_000)}
    )
    encoder = encoder_of(table, max_categories=50)
    (discrete,) = (e for e in encoder.encodings if e.column.name == "code")
    assert len(discrete.counts) == 50
    decoded = round_trip(encoder, table)
    assert set(decoded["code"]) <= set(table["code"])
    real, again = (t["code"].value_counts() for t in (table, decoded))
    head = real.index[:49]
    assert (real[head] == again[head]).all()
    tail = real.index[49:150]
    assert abs(again.reindex(tail, fill_value=0).sum() / real[tail].sum() - 1) < 0.1


def test_labels_and_nulls_that_were_never_seen() -> None:
    table = pd.DataFrame({"a": ["x", "y"] * 50, "n": [1.0, 2.0] * 50, "z": np.arange(100) / 7})
    encoder = encoder_of(table)
    strange = pd.DataFrame({"a": ["new", None], "n": [1.7, None], "z": [1e9, None]})
    codes = encoder.encode(strange, np.random.default_rng(0))
    names = [e.column.name for e in encoder.encodings]
    assert codes.codes[:, names.index("a")].tolist() == [-1, -1]
    decoded = encoder.decode(codes, np.random.default_rng(0))
    assert decoded["n"][0] == 2.0  # the nearest of two point masses
    assert decoded["z"][0] == decoded["z"].max() <= 99 / 7
    assert decoded["n"][1:].isna().all()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(-1e12, 1e12), st.integers(-5, 5)), min_size=6, max_size=60
    ),
    decimals=st.sampled_from([None, 0, 2]),
    seed=st.integers(0, 1000),
)
def test_decoding_never_leaves_the_bounds_nor_the_grid(
    values: list[float | None], decimals: int | None, seed: int
) -> None:
    numbers = pd.Series(values, dtype=float)
    if decimals is not None:
        numbers = numbers.round(decimals)
    table = pd.DataFrame({"x": numbers, "y": np.arange(len(values)) % 3})
    if numbers.dropna().nunique() < 2:
        return
    encoder = encoder_of(table, ("y",))
    block = encoder.block_of["x"]
    encoding = encoder.encodings[block]
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, len(encoding.counts), 500).astype(np.int32)
    decoded = encoding.decode(rng.uniform(-1, 1, 500).astype(np.float32), codes, rng)
    present = decoded[~np.isnan(decoded)]
    assert (present >= encoding.lower).all()
    assert (present <= encoding.upper).all()
    given_decimals = encoder.schema["x"].decimals
    if given_decimals is not None:
        assert (present == np.round(present, given_decimals)).all()
    assert np.isnan(decoded).any() == bool(numbers.isna().any())


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "int64", "Int64", "float32", "Float64", "boolean", "bool", "string"]
)
def test_dtypes_come_back(dtype: str) -> None:
    values = pd.Series([0, 1, 1, 0, 1, 1] * 5)
    if dtype == "string":
        values = values.astype(str)
    column = values.astype(dtype)
    if dtype[0].isupper() or dtype in ("boolean", "string"):
        column[3] = pd.NA
    table = pd.DataFrame({"c": column, "x": np.arange(30) * 0.5})
    decoded = round_trip(encoder_of(table), table)
    pd.testing.assert_series_equal(decoded["c"], table["c"])


@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
def test_datetimes_come_back(zone: str | None) -> None:
    times = pd.date_range("2024-03-30 22:00", periods=200, freq="37min", tz=zone).to_series(
        index=range(200)
    )
    times[3] = pd.NaT
    table = pd.DataFrame({"t": times, "text": times.dt.strftime("%d/%m/%Y %H:%M"), "x": range(200)})
    table["x"] = table["x"] * 1.5
    decoded = round_trip(encoder_of(table), table)
    assert decoded.dtypes.equals(table.dtypes)
    gap = (decoded["t"] - table["t"]).abs().dropna()
    assert (gap <= pd.Timedelta("1s")).mean() > 0.95
    assert decoded["text"].isna().tolist() == table["text"].isna().tolist()
    assert pd.to_datetime(decoded["text"], format="%d/%m/%Y %H:%M").notna().sum() == 199


def test_keys_are_new_and_do_not_repeat_over_chunks() -> None:
    table = dirty_table(300).assign(number=range(300, 600), key=lambda t: t.index.map(_uuid))
    encoder = encoder_of(table)
    codes = encoder.encode(encoder.schema.conform(table), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    both = pd.concat([encoder.decode(codes, rng), encoder.decode(codes, rng, first_row=300)])
    for name in ("patient_id", "number", "key"):
        assert both[name].is_unique, name
    assert not set(both["key"]) & set(table["key"])
    assert both["patient_id"].str.fullmatch(r"P-\d{5}").all()


def _uuid(i: int) -> str:
    return f"{i:08x}-0000-4000-8000-{i:012x}"


def test_the_encoder_holds_no_extreme_of_a_single_row() -> None:
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"x": rng.normal(size=3000), "y": rng.normal(size=3000)})
    text = json.dumps(encoder_of(table).to_dict())
    for value in (*np.sort(table["x"])[[0, -1]], *table["y"][:50]):
        assert repr(float(value)) not in text


def test_a_single_outlier_neither_widens_the_modes_nor_is_one() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"x": rng.normal(50, 1, 1000), "y": np.round(rng.lognormal(10, 0.4, 1000))}
    )
    table.loc[0, ["x", "y"]] = 1e30, 5_000_003
    encoder = encoder_of(table)
    for name in ("x", "y"):
        encoding = encoder.encodings[encoder.block_of[name]]
        assert isinstance(encoding, NumericEncoding)
        assert encoding.mixture is not None
        assert encoding.mixture.means.max() <= encoding.upper < table[name].max()
    decoded = round_trip(encoder, table)
    assert (decoded["x"] - table["x"])[1:].abs().max() < 2


def test_public_bounds_hold_for_point_masses_too() -> None:
    values = [*np.round(np.linspace(1, 99, 180), 1), *[500.0] * 10, *[700.0] * 10]
    schema = Schema(
        (
            Column("x", Kind.NUMERIC, "float64", decimals=1, lower=0, upper=100),
            Column("y", Kind.NUMERIC, "float64"),
        )
    )
    table = pd.DataFrame({"x": values, "y": np.linspace(0, 1, 200)})
    encoder = Encoder.fit(pool(schema, [table]))
    decoded = round_trip(encoder, table)["x"]
    encoding = encoder.encodings[encoder.block_of["x"]]
    assert isinstance(encoding, NumericEncoding)
    assert encoding.atoms.tolist() == [100]
    assert decoded.between(0, 100).all()
    assert (decoded == 100).sum() == 20
    assert encoding.counts.sum() == pytest.approx(200, abs=2)


def test_labels_beyond_the_precision_of_floats() -> None:
    table = pd.DataFrame({"n": [2**60 + 1, 2**60 + 2, 2**62 + 3] * 10, "c": 2**60 + 7})
    table["x"] = np.arange(30) % 7
    pd.testing.assert_frame_equal(
        round_trip(encoder_of(table, ("n",)), table)[["n", "c"]], table[["n", "c"]]
    )
