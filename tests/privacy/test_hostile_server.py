"""A server that chooses what it sends so that the answer tells of a single row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from genesis.encoding.encoder import Encoder
from genesis.errors import PrivacyError
from genesis.federated.messages import Reply, Request
from genesis.federated.parts import Parts
from genesis.federated.promise import RunPromise
from genesis.federated.shard import Shard
from genesis.privacy.budget import Privacy
from genesis.privacy.ledger import LedgerFile, read_ledger
from genesis.schema import Column, Kind, Schema
from genesis.schema.checking import loosely_conformed
from genesis.statistics import PooledStatistics, Question, ShardStatistics

SMALL = {"pac": 1, "generator_dim": [8], "discriminator_dim": [8], "batch_size": 100}


def wards(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"ward": rng.choice(["a", "b"], n), "dose": rng.integers(0, 90, n)})


def shard(table: pd.DataFrame, folder: Path | None = None, **promise: Any) -> Shard:
    parts, privacy = Parts(folder), Privacy(1.0, **promise)
    return Shard("ward", table, device="cpu", parts=parts, guarded=True, privacy=privacy)


def agreed() -> Schema:
    return Schema.infer(wards()).without_values().settle()


def labels(asked: Shard, **meta: Any) -> Reply:
    told = {"schema": agreed().to_dict(), "run": "a", "known": False, **meta}
    return asked.handle(Request("labels", meta=told))


def prepare(asked: Shard, encoder: dict[str, Any], known: bool = False) -> Reply:
    meta = {"encoder": encoder, "method": "ctgan", "config": SMALL, "seed": 1, "number": 0}
    meta |= {"measures": [], "rounds": 2, "epochs": 1, "known": known}
    return asked.handle(Request("prepare", meta=meta))


def set_up(asked: Shard) -> Encoder:
    """As an honest server does it."""
    pooled = PooledStatistics(agreed(), [labels(asked).meta["labels"]], private=True)
    while questions := pooled.questions():
        meta = {"questions": [question.to_dict() for question in questions], "private": True}
        reply = asked.handle(Request("count", meta=meta))
        ends = np.cumsum([question.size for question in questions])[:-1]
        answers = np.split(reply.arrays["counts"], ends)
        pooled.take(answers, reply.meta["deviation"], reply.meta["rows"])
    encoder = Encoder.fit(pooled)
    assert prepare(asked, encoder.to_dict()).error is None
    return encoder


@pytest.mark.parametrize("dose", [5, 97])
def test_an_encoder_that_a_value_breaks_is_refused_whatever_the_values(dose: int) -> None:
    rows = pd.concat([wards(), pd.DataFrame({"ward": ["a"], "dose": [dose]})], ignore_index=True)
    asked = shard(rows)
    values = set_up(asked).to_dict()
    numeric = next(column for column in values["columns"] if column["column"] == "dose")
    numeric |= {"weights": [], "means": [], "deviations": [], "mode_counts": [], "nulls": 0}
    numeric |= {"atoms": [float(i) for i in range(90)], "atom_counts": [1] * 90}
    assert labels(asked, known=True).error is None
    assert "not of the schema" in str(prepare(asked, values).error)


def test_a_server_names_no_file_of_a_client_and_no_budget(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    LedgerFile(mine, budget=3.0, delta=1e-5)
    plans = Privacy(2.0, ledger=str(other), budget=1e9)
    told = {"differential_privacy": {**vars(plans)}}
    labels(shard(wards(), ledger=str(mine)), privacy=told)
    assert read_ledger(mine)["budget"] == 3.0
    plain = Shard("ward", wards(), device="cpu", guarded=True)
    labels(plain, privacy=told)
    assert not other.exists()


def test_steps_whose_outcome_can_be_collected_are_not_given_back(tmp_path: Path) -> None:
    asked = shard(wards(), tmp_path)
    encoder = set_up(asked)
    meta = {"epochs": 1, "learning_rate_scale": 1.0, "send": None, "max_grad_norm": None}
    meta |= {"rounds": 2, "receive": [], "used": False}  # trains, and fails without clip_per_layer
    for steps in (1, 2):
        assert asked.handle(Request("train", 0, meta)).error
        asked = shard(wards(), tmp_path)  # the client is started again
        labels(asked, known=True)
        prepare(asked, encoder.to_dict(), known=True)
        assert asked._guard is not None
        assert asked._guard.training is not None
        spent = asked._guard.ledger.events[-1]
        assert spent == asked._guard.training.event(steps)


def test_turns_beyond_those_that_were_paid_are_refused() -> None:
    promise = Privacy(8.0, unit="client", bands=2, insist=True)
    begun = RunPromise(promise, public_schema=True)
    begun.begin_rounds(10, 40, 2, 1.0)
    begun.combine(torch.zeros(10), [])
    resumed = RunPromise(promise, public_schema=True)
    resumed.restore(begun.to_dict(), begun.to_tensors())
    with pytest.raises(PrivacyError, match="paid for"):
        resumed.begin_rounds(10, 40, 24, 1.0)


COLUMNS = [
    Column("x", Kind.DATETIME, "object", unit="D"),
    Column("x", Kind.DATETIME, "object", unit="D", format="%d.%m.%Y"),
    Column("x", Kind.NUMERIC, "float64"),
    Column("x", Kind.BOOLEAN, "bool"),
    Column("x", Kind.CATEGORICAL, "int64"),
    Column("x", Kind.CATEGORICAL, "object"),
    Column("x", Kind.CATEGORICAL, "object", categories=("a", "1")),
]
CELLS: list[Any] = ["2020-01-31", "31.01.2020", 1, 1.0, "1", True, "a", None]
CELLS += [np.inf, 10**400, [1], 3j]


@pytest.mark.parametrize("column", COLUMNS, ids=str)
@pytest.mark.parametrize("one_more", CELLS, ids=repr)
def test_no_cell_decides_how_another_is_read(column: Column, one_more: Any) -> None:
    """And none fails, since whether something fails is told."""

    def read(cells: list[Any]) -> list[str]:
        series = pd.Series(cells, dtype=object)
        return [str(cell) for cell in loosely_conformed(column, series)]

    without = [cell for cell in CELLS if cell is not one_more]
    assert read([one_more, *without])[1:] == read(without)


@pytest.mark.parametrize("one_more", ["1", True, 1.0])
def test_one_more_row_changes_one_count(one_more: Any) -> None:
    column = Column("x", Kind.CATEGORICAL, "int64")
    schema = Schema((column,))

    def counts(cells: list[Any]) -> Any:
        rows = pd.DataFrame({"x": pd.Series(cells, dtype=object)})
        statistics = ShardStatistics(schema, schema.conform_loosely(rows))
        return statistics.answer(Question("x", labels=(1, 2, None)))

    cells: list[Any] = [1] * 50 + [2] * 30
    assert np.abs(counts([one_more, *cells]) - counts(cells)).sum() <= 1
