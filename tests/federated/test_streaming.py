"""Clients that read their rows in blocks: what comes of it is what comes of them in memory."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from genesis import (
    DataError,
    FederatedSynthesizer,
    GenesisError,
    PlanError,
    Schema,
    SchemaError,
    TableBlocks,
    read_table,
    write_table,
)
from genesis.counting import Question
from genesis.encoding.encoder import Encoder
from genesis.federated import FederatedClient, FederatedServer
from genesis.federated.messages import Request
from genesis.federated.shard import Shard
from genesis.federated.shard_rows import RowsInBlocks, RowsInMemory, shard_rows
from genesis.models.sums.rows import SumRows
from genesis.statistics import PooledStatistics
from tests.dirty import dirty_table

METHODS: dict[str, dict[str, Any]] = {
    "mixture": {"components": 6, "epochs": 5, "groups": 3},
    "circuit": {"epochs": 4},
    "copula": {},
    "marginals": {"components": 4, "steps": 20},
}
FILES = {"north": ".csv", "south": ".csv.gz", "west": ".parquet"}


@cache
def schema() -> Schema:
    """What all clients have agreed on."""
    return Schema.infer(dirty_table(90))


def pieces(n: int = 90) -> dict[str, pd.DataFrame]:
    table = dirty_table(n)
    return {name: table.iloc[i::3].reset_index(drop=True) for i, name in enumerate(FILES)}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """The files of three clients."""
    found = {name: tmp_path / f"{name}{suffix}" for name, suffix in FILES.items()}
    for name, table in pieces().items():
        write_table(table, found[name])
    return found


def fitted(method: str, tables: dict[str, Any], **choices: Any) -> FederatedSynthesizer:
    given = {"seed": 3, "schema": schema(), **choices}
    return FederatedSynthesizer(method, METHODS.get(method, {}), **given).fit(tables)


def in_memory(paths: dict[str, Path]) -> dict[str, pd.DataFrame]:
    return {name: read_table(path) for name, path in paths.items()}


def in_blocks(paths: dict[str, Path], rows: int = 7) -> dict[str, TableBlocks]:
    return {name: TableBlocks(path, rows) for name, path in paths.items()}


def vector(run: Any) -> torch.Tensor:
    return run.model.model.get_vector()


@pytest.mark.parametrize("method", ["mixture", "circuit", "copula"])
def test_the_model_is_the_same_bit_for_bit(paths: dict[str, Path], method: str) -> None:
    expected = fitted(method, in_memory(paths))
    found = fitted(method, in_blocks(paths))
    assert found.model.encoder.digest == expected.model.encoder.digest
    assert torch.equal(vector(found), vector(expected))
    assert found.rows == expected.rows
    mixed = fitted(method, in_memory(paths) | {"south": TableBlocks(paths["south"], 20)})
    assert torch.equal(vector(mixed), vector(expected))
    metrics = [[report.metrics for report in run.history] for run in (found, expected)]
    assert metrics[0] == metrics[1]


def test_so_it_is_through_secure_aggregation(paths: dict[str, Path]) -> None:
    expected = fitted("mixture", in_memory(paths))
    found = fitted("mixture", in_blocks(paths, 30), secure_aggregation="masking")
    assert torch.equal(vector(found), vector(expected))


def answers(rows: Any, stated: Schema) -> list[list[tuple[Question, list[int]]]]:
    """All that is asked of a table, request by request, and the answers."""
    statistics = rows.statistics(stated)
    pooled = PooledStatistics(stated, [statistics.labels()])
    told: list[list[tuple[Question, list[int]]]] = []
    while questions := pooled.questions():
        rows.expect(questions)
        counts = [statistics.answer(question) for question in questions]
        told.append(list(zip(questions, [each.tolist() for each in counts], strict=True)))
        pooled.take(counts)
    return told


def misfits() -> pd.DataFrame:
    """A table some of whose cells do not fit the schema."""
    table = dirty_table(200).astype({"visits": object, "smoker": object, "zeros": object})
    table.loc[3::40, "visits"] = "many"
    table.loc[5::50, "smoker"] = "sometimes"
    table.loc[7::60, "admitted"] = "yesterday"
    table.loc[9::70, "zeros"] = np.inf
    return table


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_under_a_promise_what_does_not_fit_is_null_and_counted_alike(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, stated = tmp_path / f"rows{suffix}", schema()
    write_table(misfits(), path)
    memory = shard_rows(read_table(path)).conform_loosely(stated, "the table")
    blocks = shard_rows(TableBlocks(path, 7)).conform_loosely(stated, "the table")
    first, second = [record.getMessage() for record in caplog.records]
    assert first == second
    assert "212 cells do not fit the schema" in first
    assert answers(blocks, stated) == answers(memory, stated)
    with pytest.raises(SchemaError, match=r"other values among rows 1 to 7; "):
        shard_rows(TableBlocks(path, 7)).conform(stated, "the table")


class Reads:
    """How often a file was gone over, and which of its columns were read."""

    def __init__(self, blocks: TableBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
        self.columns: list[Sequence[str] | None] = []
        read = blocks.read

        def counted(columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
            self.columns.append(columns)
            return read(columns)

        monkeypatch.setattr(blocks, "read", counted)


def test_a_request_is_one_pass_over_the_columns_that_it_is_about(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stated, blocks = schema(), TableBlocks(paths["north"], 7)
    reads = Reads(blocks, monkeypatch)
    rows = RowsInBlocks(blocks, stated)
    requests = [{question.column for question, _ in request} for request in answers(rows, stated)]
    labels = {"sex", "smoker", "région=?"}
    assert [set(columns or ()) for columns in reads.columns] == [labels, *requests]


def test_how_many_rows_have_each_label_is_known_with_the_labels(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promise asks for both, column by column."""
    stated, blocks = schema(), TableBlocks(paths["north"], 7)
    statistics = RowsInBlocks(blocks, stated).statistics(stated)
    labels = statistics.labels()
    reads = Reads(blocks, monkeypatch)
    table = stated.conform(read_table(paths["north"]))
    assert labels == (expected := RowsInMemory(table).statistics(stated)).labels()
    for name, found in labels.items():
        question = Question(name, labels=tuple(found))
        assert (statistics.answer(question) == expected.answer(question)).all()
    assert reads.columns == []


def encoder(rows: RowsInMemory, stated: Schema) -> Encoder:
    statistics = rows.statistics(stated)
    pooled = PooledStatistics(stated, [statistics.labels()])
    while questions := pooled.questions():
        pooled.take([statistics.answer(question) for question in questions])
    return Encoder.fit(pooled, grid=128)


def test_codes_are_small_and_lie_in_a_file_that_goes_with_them(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stated = schema()
    memory = RowsInMemory(stated.conform(read_table(paths["north"])))
    agreed = encoder(memory, stated)
    before = set(tmp_path.iterdir()), _mapped(tmp_path)
    expected = memory.encode(agreed, None)
    found = RowsInBlocks(TableBlocks(paths["north"], 7), stated).encode(agreed, None)
    assert found.codes.dtype == np.int8
    assert isinstance(found.codes.base, np.memmap)
    assert found.scalars.nbytes == 0
    assert (found.codes == expected.codes).all()
    assert _mapped(tmp_path) == before[1] + 1
    assert len(found.take(np.arange(5))) == 5
    for groups in (1, 3):
        sums = [SumRows(agreed.layout, codes) for codes in (found, expected)]
        for group in range(groups):
            blocks = [list(rows.blocks(group, groups, 16)) for rows in sums]
            assert all(torch.equal(a, b) for a, b in zip(*blocks, strict=True))
    del found, sums
    gc.collect()
    assert (set(tmp_path.iterdir()), _mapped(tmp_path)) == before


def _mapped(folder: Path) -> int:
    """Files of a folder that are mapped into memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(f" {folder}/" in line for line in lines)


def test_a_disk_without_room_is_an_error(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = schema()
    agreed = encoder(RowsInMemory(stated.conform(read_table(paths["north"]))), stated)

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(DataError, match="no room for 0 MB of codes; got No space left"):
        RowsInBlocks(TableBlocks(paths["north"]), stated).encode(agreed, None)


def test_a_schema_is_needed(paths: dict[str, Path]) -> None:
    with pytest.raises(GenesisError, match=r"in blocks needs a schema.*genesis schema"):
        fitted("mixture", in_blocks(paths, 30), schema=None)
    client = FederatedClient("http://127.0.0.1:1", "north", retry_attempts=0)
    with pytest.raises(SchemaError, match=r"in blocks needs a schema; make one with"):
        client.train(TableBlocks(paths["north"]))


def test_models_that_are_trained_in_steps_refuse(paths: dict[str, Path]) -> None:
    with pytest.raises(GenesisError, match=r"tvae is trained in steps.*read in blocks"):
        fitted("tvae", in_blocks(paths, 30), n_rounds=1)
    shard = Shard("north", TableBlocks(paths["north"]), schema=schema())
    assert shard.handle(Request("describe", meta={"discrete_columns": []})).error is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"visits": "few"}, r"'visits' of client 'a' is not what the schema says: numeric"),
        ({"smoker": "no"}, r"'smoker' of client 'a' is not what the schema says: boolean"),
        ({"admitted": "03.01.2020"}, r"'admitted' of client 'a' is not .*: datetime \(%Y-%m-%d\)"),
        ({"hospital": "south"}, r"'hospital' of client 'a' is categorical and .* constant"),
        ({"sex": None}, r"'sex' of client 'a' holds nulls and the schema allows none"),
        ({"visits": np.inf}, r"'visits' of client 'a' is not what"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], error: str) -> None:
    table = dirty_table(40).astype(object)
    for name, value in change.items():
        table.loc[30, name] = value
    write_table(table, tmp_path / "a.csv")
    for data in (read_table(tmp_path / "a.csv"), TableBlocks(tmp_path / "a.csv", 7)):
        reply = Shard("a", data).handle(
            Request("labels", meta={"schema": schema().to_dict(), "privacy": None})
        )
        assert reply.meta.get("error_type") in ("SchemaError", "DataError")
    with pytest.raises(SchemaError, match=error):
        shard_rows(data).conform(schema(), "client 'a'")


def test_columns_must_be_those_of_the_schema(tmp_path: Path) -> None:
    write_table(dirty_table(20).drop(columns="sex"), tmp_path / "a.csv")
    with pytest.raises(SchemaError, match=r"the table does not have the columns .*no column 'sex'"):
        shard_rows(TableBlocks(tmp_path / "a.csv", 7)).check(schema(), "the table")


def test_a_promise_is_kept(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise aside, all that is released is what it is of rows in memory."""
    released: list[list[list[int]]] = []
    for module in ("privacy.guard", "privacy.sums"):
        monkeypatch.setattr(f"genesis.{module}.noisy_counts", lambda exact, *_: seen(exact))
    monkeypatch.setattr("genesis.privacy.guard.released_labels", lambda known, *_: list(known))

    def seen(exact: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        released[-1].append(exact.tolist())
        return exact

    private = {"differential_privacy": {"epsilon": 80.0, "delta": 1e-5}}
    for tables in (in_memory(paths), in_blocks(paths, 15)):
        released.append([])
        run = fitted("marginals", tables, privacy=private)
        assert run.epsilon <= 80.0
    assert released[0] == released[1] != []


def test_over_a_network(paths: dict[str, Path]) -> None:
    expected = fitted("mixture", in_memory(paths))
    server = FederatedServer(
        port=0, method="mixture", config=METHODS["mixture"], seed=3, schema=schema(), min_clients=3
    )

    def join(name: str) -> FederatedClient:
        while not server_is_up(server):
            time.sleep(0.01)
        client = FederatedClient(server.url, name, schema=schema())
        return client.train(TableBlocks(paths[name], 30))

    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(server.start)
        clients = list(pool.map(join, paths))
        running.result()
    for run in (server, *clients):
        assert torch.equal(vector(run), vector(expected))


def server_is_up(server: FederatedServer) -> bool:
    try:
        return server.status()["state"] == "waiting"
    except PlanError:
        return False
