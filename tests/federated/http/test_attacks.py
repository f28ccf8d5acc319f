"""What a stranger, a client or a server may try, and what becomes of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save

from genesis.errors import DataError, FederationError, ModelFileError
from genesis.federated.choices import LocalChoices
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts
from genesis.federated.shard import Shard
from genesis.federated.transport.body import MAX_JSON, SMALL_JSON, decode_reply, largest_reply
from genesis.model_file import Contents, read_file, write_file
from genesis.schema import Schema
from genesis.statistics import PooledStatistics, ShardStatistics

ROWS = 40


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "name": [f"Person {i:02d} X" for i in rng.permutation(ROWS)],
            "cost": rng.normal(size=ROWS).round(3),
            "ward": np.resize(["C", "B", "A"], ROWS),
        }
    )


def ask(shard: Shard, kind: str, meta: dict[str, Any] | None = None, **arrays: Any) -> Reply:
    return shard.handle(Request(kind, meta=meta or {}, arrays=arrays))


def as_categories(rows: pd.DataFrame) -> dict[str, Any]:
    """A schema by which a server would be told every value."""
    return {"columns": [{"name": name, "kind": "categorical", "dtype": "object"} for name in rows]}


# --- a server that asks for more ---


def test_labels_do_not_stand_in_the_order_of_the_rows() -> None:
    rows = table()
    reply = ask(Shard("north", rows), "labels", {"schema": as_categories(rows)})
    assert reply.error is None
    for name, found in reply.meta["labels"].items():
        assert found == sorted(found)
        assert found != list(rows[name].drop_duplicates())


def test_keys_are_not_told_as_labels() -> None:
    rows = table()
    guarded = Shard("north", rows, guarded=True)
    reply = ask(guarded, "labels", {"schema": as_categories(rows)})
    assert "'name' holds keys" in str(reply.error)
    assert not any(value in str(reply.error) for value in rows["name"])
    willing = Shard("north", rows, guarded=True, discrete_columns=("name",))
    assert ask(willing, "labels", {"schema": as_categories(rows)}).error is None


def test_a_schema_of_its_own_binds_the_server() -> None:
    rows = table()
    shard = Shard("north", rows, guarded=True, schema=Schema.infer(rows))
    schema = Schema.infer(rows, ["cost"]).to_dict()
    assert "'cost' is numeric in the schema" in str(ask(shard, "labels", {"schema": schema}).error)


@pytest.mark.parametrize(
    "question",
    [
        {"parents": [0], "shift": 64, "bits": 40},
        {"parents": [0], "shift": 8, "bits": 9},
        {"parents": [-1], "shift": 64, "bits": 1},
        {"parents": [1], "shift": 64, "bits": 1},
        {"parents": list(range(4096)), "shift": 52, "bits": 12},
        {"parents": [0], "shift": 100, "bits": 1},
    ],
)
def test_bins_that_do_not_exist_are_not_counted(question: dict[str, Any]) -> None:
    shard = Shard("north", table())
    ask(shard, "labels", {"schema": Schema.infer(table()).to_dict()})
    reply = ask(shard, "count", {"questions": [{"column": "cost", **question}]})
    assert "bins that do not exist" in str(reply.error)


def test_a_question_is_not_asked_a_thousand_times() -> None:
    shard = Shard("north", table())
    ask(shard, "labels", {"schema": Schema.infer(table()).to_dict()})
    question = {"column": "cost", "parents": [0], "shift": 64, "bits": 12}
    assert ask(shard, "count", {"questions": [question] * 1000}).error


def prepared(shard: Shard, rows: pd.DataFrame, config: dict[str, Any]) -> Reply:
    from genesis.encoding.encoder import Encoder

    schema = Schema.infer(rows)
    ask(shard, "labels", {"schema": schema.to_dict()})
    own = ShardStatistics(schema, schema.conform(rows))
    pooled = PooledStatistics(schema, [own.labels()])
    while questions := pooled.questions():
        pooled.take([own.answer(question) for question in questions])
    meta = {"encoder": Encoder.fit(pooled).to_dict(), "method": "tvae", "config": config}
    return ask(shard, "prepare", {**meta, "seed": 1, "number": 0, "measures": []})


def test_a_model_that_fits_nowhere_is_not_built() -> None:
    reply = prepared(Shard("north", table()), table(), {"compress_dims": [10**6, 10**6]})
    assert "too large" in str(reply.error)


def test_control_variates_do_not_go_past_a_clients_own_norm() -> None:
    shard = Shard("north", table(), choices=LocalChoices(max_grad_norm=1.0))
    assert prepared(shard, table(), {"compress_dims": [4]}).error is None
    size = len(shard.snapshot()["vector"])
    meta = {"epochs": 1, "learning_rate_scale": 1.0, "send": None, "receive": None}
    meta |= {"max_grad_norm": None, "clip_per_layer": False, "used": False}
    zeros = np.zeros(size, np.float32)
    assert "control variates" in str(ask(shard, "train", meta, vector=zeros, control=zeros).error)


def test_a_server_fills_no_disk(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for rounds in (100_000, 10**300, -1):
        with pytest.raises(DataError):
            parts.keep(rounds, "run", 0, {"vector": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


# --- files ---


def test_what_belongs_to_a_run_is_for_its_owner_alone(tmp_path: Path) -> None:
    Parts(tmp_path / "kept").keep(1, "run", 0, {"vector": torch.zeros(1)})
    (path,) = (tmp_path / "kept").glob("*/*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_header_too_deep_is_damage(tmp_path: Path) -> None:
    write_file(tmp_path / "file", Contents("model", {}, {}))
    deep = json.dumps({"version": 1, "kind": "model", "sha256": "", "meta": 0})
    deep = deep.replace('"meta": 0', '"meta": ' + "[" * 100_000 + "]" * 100_000)
    (tmp_path / "file").write_bytes(save({}, metadata={"genesis": deep}))
    with pytest.raises(ModelFileError, match="damaged"):
        read_file(tmp_path / "file", "model")


# --- bodies ---


def test_little_bytes_do_not_become_much_memory() -> None:
    text = b'{"meta":{"a":[' + b"{}," * (1 << 20) + b'{}]},"error":null}'
    with pytest.raises(FederationError):
        decode_reply(save({"json": np.frombuffer(text, np.uint8)}), "north", {})
    assert largest_reply("train", {}) < largest_reply("labels", {})
    assert largest_reply("train", {}) - SMALL_JSON == largest_reply("labels", {}) - MAX_JSON
