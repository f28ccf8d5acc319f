"""How clients agree on one schema and one encoder without showing each other a row.

    describe → labels → count …

The server learns the names and kinds of columns, the labels that occur, and sums of counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.encoding.encoder import Encoder
from genesis.errors import FederationError, SchemaError
from genesis.federated.clients import Clients
from genesis.federated.messages import Reply, Request
from genesis.schema import Schema
from genesis.statistics import PooledStatistics

__all__ = ["agree_on_schema", "ask_labels", "fit_encoder"]


def agree_on_schema(clients: Clients, discrete_columns: Sequence[str]) -> Schema:
    """What all clients say about their columns, made one.

    Raises:
        SchemaError: Their tables do not fit together, or there is nothing to learn in them.
        FederationError: A client did not answer.
    """
    request = Request("describe", meta={"discrete_columns": list(discrete_columns)})
    replies = clients.require(request, "describe its table")
    found = {reply.client_id: Schema.from_dict(reply.meta["schema"]) for reply in replies}
    return Schema.merge(found).settle()


def ask_labels(clients: Clients, schema: Schema) -> list[Mapping[str, Any]]:
    """The labels that occur at each client. It is then held to the schema.

    Raises:
        SchemaError: A client's table does not fit the schema.
        FederationError: A client did not answer.
    """
    request = Request("labels", meta={"schema": schema.to_dict()})
    return [reply.meta["labels"] for reply in clients.require(request, "fit the schema")]


def fit_encoder(clients: Clients, schema: Schema, max_categories: int) -> Encoder:
    """Count until everything is known of the pooled table, then fit on the sums.

    Raises:
        SchemaError: A client's table does not fit the schema, or there are fewer than two rows.
        FederationError: A client did not answer, or not what was asked.
    """
    pooled = PooledStatistics(schema, ask_labels(clients, schema))
    while questions := pooled.questions():
        asked = {"questions": [question.to_dict() for question in questions]}
        replies = clients.require(Request("count", meta=asked), "count its values")
        pooled.take(_sum_answers(replies, [question.size for question in questions]))
    if pooled.rows < 2:
        raise SchemaError(
            "there is too little to learn from", got=f"{pooled.rows} row", do="add rows"
        )
    return Encoder.fit(pooled, max_categories=max_categories)


def _sum_answers(replies: Sequence[Reply], sizes: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """The sums over the clients of their counts, one array a question."""
    total = np.zeros(sum(sizes), dtype=np.int64)
    for reply in replies:
        counts = reply.arrays["counts"]
        if counts.shape != total.shape or counts.dtype != np.int64 or (counts < 0).any():
            raise FederationError(
                f"client '{reply.client_id}' answered with counts of the wrong shape",
                got=f"{counts.dtype} {counts.shape}",
                do="give server and clients the same version",
            )
        total += counts
    return np.split(total, np.cumsum(sizes)[:-1])
