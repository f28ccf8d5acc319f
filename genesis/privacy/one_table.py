"""One table under a promise of privacy, or under none: what all that learns from one table does.

Without a promise there is no guard, and the same functions give what is exact.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from genesis.errors import PlanError
from genesis.privacy.budget import Privacy
from genesis.privacy.guard import Guard
from genesis.privacy.ledger import LedgerFile
from genesis.privacy.report import record_report
from genesis.schema import Schema
from genesis.statistics import PooledStatistics, ShardStatistics

__all__ = ["guard_of", "pooled_statistics", "promise_of", "schema_of", "table_of", "table_report"]


def promise_of(privacy: Mapping[str, Any] | None) -> Privacy | None:
    """What is promised to the records of one table.

    Raises:
        PlanError: It is not understood, or cannot be kept with one table.
    """
    promise = Privacy.parse(privacy)
    if promise is not None and promise.unit != "record":
        raise PlanError(
            "one table has no clients to hide", got='unit "client"', do='use unit "record"'
        )
    if promise is not None:
        promise.check_secure(secure=False)
    return promise


def guard_of(promise: Privacy | None) -> Guard | None:
    """What keeps a promise; a new one for every fit."""
    if promise is None:
        return None
    file = None
    if promise.ledger is not None:
        file = LedgerFile(promise.ledger, budget=promise.budget, delta=promise.delta)
    return Guard(promise, run=secrets.token_hex(8), file=file)


def schema_of(
    table: pd.DataFrame,
    stated: Schema | None,
    discrete_columns: Sequence[str],
    *,
    private: bool,
) -> Schema:
    """What was stated of the columns, or else what they look like.

    Raises:
        SchemaError: No column can be learned from.
    """
    if stated is not None:
        return stated.discretise(discrete_columns).settle()
    schema = Schema.infer(table, discrete_columns)
    return (schema.without_values() if private else schema).settle()


def table_of(table: pd.DataFrame, schema: Schema, *, private: bool) -> pd.DataFrame:
    """A table as a schema has it; where it is private, no cell decides how another one is read.

    Raises:
        SchemaError: It is not as the schema says, which the owner alone is told.
        DataError: There are infinities.
    """
    conformed = schema.conform(table)
    return schema.conform_loosely(table) if private else conformed


def pooled_statistics(
    shard: ShardStatistics, rows: int, guard: Guard | None, *, fine: bool = False
) -> PooledStatistics:
    """All that an encoder needs to know of a table; with noise, if there is a promise to keep.

    Args:
        shard: The table.
        rows: Its number of rows.
        guard: Keeps the promise.
        fine: See `PooledStatistics`.
    """
    if guard is None:
        pooled = PooledStatistics(shard.schema, [shard.labels()], fine=fine)
        while questions := pooled.questions():
            pooled.take([shard.answer(question) for question in questions])
        return pooled
    guard.begin(shard.schema)
    pooled = PooledStatistics(shard.schema, [guard.labels(shard)], private=True)
    while questions := pooled.questions():
        counts = guard.answer(shard, questions)
        ends = np.cumsum([question.size for question in questions])[:-1]
        pooled.take(np.split(counts, ends), guard.deviation, guard.count_rows(rows))
    return pooled


def table_report(
    guard: Guard | None, *, public_schema: bool, gradients: str
) -> dict[str, Any] | None:
    """What was promised to the records and released of them: see `report.record_report`."""
    if guard is None:
        return None
    return record_report(
        {"table": guard.spent()},
        ["table"],
        overlap="disjoint",
        public_schema=public_schema,
        gradients=gradients,
    )
