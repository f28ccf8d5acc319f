from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from genesis import (
    DataError,
    ModelFileError,
    PlanError,
    Schema,
    SchemaError,
    Synthesizer,
    TrainingError,
)
from genesis.model_file import Contents, read_file, write_file
from tests.dirty import QUICK, QUICK_TVAE, dirty_table


@pytest.fixture(scope="module", params=["ctgan", "tvae"])
def fitted(request: pytest.FixtureRequest) -> Synthesizer:
    config = QUICK if request.param == "ctgan" else QUICK_TVAE
    return Synthesizer(request.param, config, seed=7).fit(dirty_table(300))


@pytest.mark.parametrize("n", [0, 1, 2, 301])
def test_generated_rows_look_like_the_table(fitted: Synthesizer, n: int) -> None:
    table, rows = dirty_table(300), fitted.generate(n)
    assert rows.shape == (n, table.shape[1])
    assert list(rows.columns) == list(table.columns)
    if n:
        assert rows.dtypes.equals(table.dtypes)
    assert rows["patient_id"].is_unique
    assert set(rows["sex"]) <= {"Female", "Male"}
    assert (rows["hospital"] == "north").all()


def test_the_seed_decides_everything() -> None:
    table = dirty_table(200)
    first, second, other = (Synthesizer("ctgan", QUICK, seed=s).fit(table) for s in (1, 1, 2))
    rows = [(s.generate(50), s.generate(50)) for s in (first, second, other)]
    assert rows[0][0].equals(rows[1][0])
    assert rows[0][1].equals(rows[1][1])
    assert not rows[0][0].equals(rows[0][1])
    assert not rows[0][0].equals(rows[2][0])
    assert first.generate(50, seed=9).equals(second.generate(50, seed=9))


def test_chunks_do_not_show(fitted: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genesis.synthesizer.CHUNK_ROWS", 64)
    rows = fitted.generate(200)
    assert rows["patient_id"].is_unique
    assert rows.index.tolist() == list(range(200))


def test_a_model_file_gives_the_same_rows(fitted: Synthesizer, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.pkl")
    again = Synthesizer.load(tmp_path / "model.pkl")
    fitted.save(tmp_path / "model.twin")
    assert (tmp_path / "model.twin").read_bytes() == (tmp_path / "model.pkl").read_bytes()
    assert again.generate(40, seed=5).equals(fitted.generate(40, seed=5))
    assert again.schema == fitted.schema


def test_a_model_file_holds_no_critic_and_no_row(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "x": np.random.default_rng(0).normal(size=400),
            "secret": [f"s{i:04d}" for i in range(400)],
        }
    )
    synthesizer = Synthesizer("ctgan", QUICK, seed=0).fit(table)
    synthesizer.save(tmp_path / "model")
    contents = read_file(tmp_path / "model", "model")
    assert all(name.startswith("generator.") for name in contents.tensors)
    stored = (tmp_path / "model").read_bytes()
    for value in table["x"]:
        assert np.float64(value).tobytes() not in stored
        assert repr(float(value)).encode() not in stored
    assert not any(secret.encode() in stored for secret in table["secret"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-100], "cut short"),
        (lambda data: data[:20], "cut short"),
        (lambda _: b"not a model at all", "not a model file"),
        (lambda data: data[:-3] + b"\x01\x02\x03", "changed after it was written"),
        (lambda data: data.replace(b'\\"version\\": 1', b'\\"version\\": 9'), "version 9"),
        (lambda data: data.replace(b'"genesis"', b'"someone"'), "not a file of this program"),
        (
            lambda data: data.replace(b'\\"kind\\": \\"model', b'\\"kind\\": \\"mudel'),
            "is no model",
        ),
    ],
)
def test_a_spoilt_model_file_is_refused(
    fitted: Synthesizer, tmp_path: Path, spoil: object, message: str
) -> None:
    path = tmp_path / "model"
    fitted.save(path)
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelFileError, match=message):
        Synthesizer.load(path)


def test_a_missing_model_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no model file"):
        Synthesizer.load(tmp_path / "nothing")


def test_files_keep_tensors_and_values(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([], dtype=torch.int64)}
    write_file(tmp_path / "f", Contents("checkpoint", {"é": [1, None, "x"]}, tensors))
    again = read_file(tmp_path / "f", "checkpoint")
    assert again.meta == {"é": [1, None, "x"]}
    assert all(torch.equal(again.tensors[name], tensors[name]) for name in tensors)


def test_a_failed_write_leaves_the_old_file(
    fitted: Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    fitted.save(path)
    before = path.read_bytes()

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises((OSError, DataError)):
        fitted.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_not_finite_names_the_epoch_and_keeps_the_last_good_state() -> None:
    config = {**QUICK, "generator_lr": 1e30, "discriminator_lr": 1e30}
    synthesizer = Synthesizer("ctgan", config, seed=0)
    with pytest.raises(TrainingError, match=r"epoch \d.*learning rate"):
        synthesizer.fit(dirty_table(200))
    assert synthesizer.model.get_vector().isfinite().all()
    assert len(synthesizer.generate(5)) == 5


def test_a_schema_is_obeyed() -> None:
    table = dirty_table(200)
    schema = Schema.infer(table, ["visits"])
    rows = Synthesizer("ctgan", QUICK, schema=schema, seed=0).fit(table).generate(20)
    assert set(rows["visits"]) <= set(table["visits"])
    with pytest.raises(SchemaError, match="sex"):
        Synthesizer("ctgan", QUICK, schema=schema).fit(table.drop(columns="sex"))


@pytest.mark.parametrize("kind", ["numbers only", "labels only", "one column", "two rows"])
def test_narrow_tables(kind: str) -> None:
    rng = np.random.default_rng(0)
    table = {
        "numbers only": pd.DataFrame({"x": rng.normal(size=60), "y": rng.normal(size=60)}),
        "labels only": pd.DataFrame({"a": list("xyz") * 20, "b": list("pq") * 30}),
        "one column": pd.DataFrame({"x": rng.normal(size=60)}),
        "two rows": pd.DataFrame({"x": [1.5, 2.25], "a": ["p", "q"]}),
    }[kind]
    for method, config in (("ctgan", QUICK), ("tvae", QUICK_TVAE)):
        rows = Synthesizer(method, config, seed=0).fit(table).generate(30)
        assert rows.dtypes.equals(table.dtypes)
        assert len(rows) == 30


def test_models_move_to_ctgan_and_back(fitted: Synthesizer) -> None:
    library = fitted.to_ctgan()
    rows = library.sample(50)
    assert list(rows.columns) == list(fitted.schema.names)
    assert set(rows["sex"]) <= {"Female", "Male"}
    assert rows["patient_id"].is_unique


def test_a_fitted_ctgan_generates_here() -> None:
    import ctgan

    table = dirty_table(200)[["sex", "visits", "zeros", "smoker"]]
    for cls in (ctgan.CTGAN, ctgan.TVAE):
        library = cls(epochs=1, batch_size=100, enable_gpu=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.fit(table, ["sex", "smoker"])
        rows = Synthesizer.from_ctgan(library, seed=0).generate(40, where={"sex": "Male"})
        assert (rows["sex"] == "Male").all()
        assert rows.dtypes.equals(table.dtypes)


def test_progress_is_told_every_epoch() -> None:
    told: list[tuple[int, int]] = []
    Synthesizer("ctgan", QUICK, seed=0).fit(
        dirty_table(100), progress=lambda done, total, _: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]


def test_what_cannot_be_asked() -> None:
    with pytest.raises(PlanError, match="did you mean ctgan"):
        Synthesizer("ctgam")
    with pytest.raises(PlanError, match="did you mean epochs"):
        Synthesizer("ctgan", {"epoch": 3})
    with pytest.raises(PlanError, match="fit first"):
        Synthesizer().generate(3)
    with pytest.raises(DataError, match="too little"):
        Synthesizer().fit(pd.DataFrame({"x": [1.0]}))
    with pytest.raises(PlanError, match="at least 0"):
        Synthesizer("ctgan", QUICK).fit(dirty_table(60)).generate(-1)
    with pytest.raises(PlanError, match="seed"):
        Synthesizer("ctgan", QUICK, seed=-1)
    with pytest.raises(PlanError, match="seed"):
        Synthesizer("ctgan", QUICK).fit(dirty_table(60)).generate(1, seed=-1)
    with pytest.raises(PlanError, match="max_categories"):
        Synthesizer("ctgan", QUICK, max_categories=1)


def test_categories_are_the_same_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genesis.synthesizer.CHUNK_ROWS", 7)
    table = pd.DataFrame({"c": pd.Categorical(list("abcdefghij") * 10), "x": np.arange(100) % 7})
    rows = Synthesizer("ctgan", QUICK, seed=0).fit(table).generate(50)
    assert rows.dtypes.equals(table.dtypes)


def test_discrete_columns_go_before_the_schema() -> None:
    table = dirty_table(100)
    synthesizer = Synthesizer("ctgan", QUICK, schema=Schema.infer(table), seed=0)
    for columns in (["visits"], "visits"):
        synthesizer.fit(table, discrete_columns=columns)
        assert str(synthesizer.schema["visits"].kind) == "categorical"
    with pytest.raises(SchemaError, match="did you mean visits"):
        synthesizer.fit(table, discrete_columns=["visit"])


def test_a_model_that_was_trained_on_a_gpu_loads_without_one(tmp_path: Path) -> None:
    synthesizer = Synthesizer("ctgan", QUICK, seed=0).fit(dirty_table(60))
    synthesizer.config["cuda"] = "cuda:0"
    synthesizer.save(tmp_path / "model")
    assert len(Synthesizer.load(tmp_path / "model").generate(3)) == 3


def test_a_file_is_not_the_whole_model(tmp_path: Path) -> None:
    fitted = Synthesizer("tvae", QUICK_TVAE, seed=0).fit(dirty_table(60))
    fitted.save(tmp_path / "model")
    assert fitted.complete
    assert not Synthesizer.load(tmp_path / "model").complete
    assert not Synthesizer().complete


def test_calibrated_rows_are_reproducible_and_have_no_condition() -> None:
    """What calibration does is tested by itself."""
    table = pd.DataFrame({"x": np.arange(60.0), "y": ["a", "b", "b"] * 20})
    fitted = Synthesizer("tvae", {"epochs": 1}, seed=0).fit(table)
    first, again = (fitted.generate(40, seed=3, calibrate=True) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert abs((first["y"] == "a").mean() - 1 / 3) < 0.03
    assert len(fitted.generate(0, calibrate=True)) == 0
    with pytest.raises(PlanError, match="rows of a condition cannot be calibrated"):
        fitted.generate(1, {"y": "a"}, calibrate=True)
