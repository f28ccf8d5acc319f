"""How clients agree on one schema and one encoder without showing each other a row.

    describe → labels → count …

The server learns the names and kinds of columns, the labels that occur, and sums of counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.encoding.encoder import Encoder
from genesis.encoding.grid import GridEncoding
from genesis.encoding.numeric import NumericEncoding
from genesis.errors import FederationError, GenesisError, SchemaError, printable
from genesis.federated.clients import MOST_ROWS, Clients, read
from genesis.federated.messages import Reply, Request, check_arrays
from genesis.federated.promise import RunPromise
from genesis.federated.secure_sums import SecureSums
from genesis.schema import Schema
from genesis.statistics import DISCRETE, PooledStatistics, Question
from genesis.values import Label, as_column

__all__ = ["agree_on_schema", "ask_labels", "fit_encoder"]


def agree_on_schema(
    clients: Clients, discrete_columns: Sequence[str], *, private: bool = False
) -> Schema:
    """What all clients say about their columns, made one.

    Args:
        clients: Whom to ask.
        discrete_columns: Columns to take as categories.
        private: Whether they may say nothing that they read from values.

    Raises:
        SchemaError: Their tables do not fit together, or there is nothing to learn in them.
        FederationError: A client did not answer.
    """
    asked = {"discrete_columns": list(discrete_columns), "private": private}
    request = Request("describe", meta=asked)
    replies = clients.require(request, "describe its table")
    found = {
        reply.client_id: read(reply, lambda meta: Schema.from_dict(meta["schema"]))
        for reply in replies
    }
    try:
        return Schema.merge(found).settle()
    except SchemaError as error:
        raise SchemaError(printable(str(error))[:1000]) from error


def ask_labels(
    clients: Clients,
    schema: Schema,
    promise: RunPromise,
    sums: SecureSums | None = None,
    *,
    known: bool = False,
) -> list[Mapping[str, Sequence[Label]]]:
    """The labels that occur at each client. It is then held to the schema, and to the promise.

    Args:
        clients: Whom to ask.
        schema: What was agreed on.
        promise: What the run promises.
        sums: Secure aggregation, if there is any: what clients count will be bound to the schema.
        known: Whether the labels are known from a checkpoint: as many clients as a round needs are
            then enough, and none has to release anything.

    Raises:
        SchemaError: A client's table does not fit the schema.
        FederationError: A client did not answer.
    """
    meta = {"schema": schema.to_dict(), "known": known, **promise.told(len(clients))}
    request = Request("labels", meta=meta, setup=True)
    if sums is not None:
        sums.note(request)
    replies = clients.require(request, "fit the schema", missing_ok=known)
    promise.hear(replies)
    if sums is None or known or not _any_to_find(schema):
        return [read(reply, lambda meta: _labels(meta["labels"], schema)) for reply in replies]
    found = sums.labels()
    try:
        return [_labels(found, schema)]
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise FederationError(
            "the labels of the clients are none of their columns'",
            do="give server and clients the same version",
        ) from error


def _any_to_find(schema: Schema) -> bool:
    """Whether there are categories that are not public."""
    return any(column.kind in DISCRETE and column.categories is None for column in schema)


def fit_encoder(
    clients: Clients,
    schema: Schema,
    max_categories: int,
    promise: RunPromise,
    sums: SecureSums | None = None,
    *,
    grid: int | None = None,
) -> Encoder:
    """Count until everything is known of the pooled table, then fit on the sums.

    Args:
        clients: Whom to ask.
        schema: What was agreed on.
        max_categories: Categories of a column with a slot of their own.
        promise: What the run promises.
        sums: Secure aggregation; without, the server adds up what each client counts.
        grid: See `Encoder.fit`.

    Raises:
        SchemaError: A client's table does not fit the schema, or there are fewer than two rows.
        FederationError: A client did not answer, or not what was asked.
    """
    promise.check_schema(schema)
    labels = ask_labels(clients, schema, promise, sums)
    pooled = PooledStatistics(schema, labels, private=promise.is_private, fine=grid is not None)
    while questions := pooled.questions():
        asked: dict[str, Any] = {"questions": [question.to_dict() for question in questions]}
        if promise.is_private:
            asked["private"] = True
        total = sum(question.size for question in questions)
        request = Request("count", meta=asked, expects={"counts": ("int64", total)})
        answers, replies, rows = _answers(clients, request, questions, promise, sums)
        with _fitting():
            if promise.is_private:
                pooled.take(*_with_noise(answers, replies, rows, schema, promise))
            else:
                pooled.take(answers)
    if pooled.rows < 2 and not promise.is_private:  # else it may be noise
        raise SchemaError(
            "there is too little to learn from", got=f"{pooled.rows} row", do="add rows"
        )
    with _fitting():
        encoder = Encoder.fit(pooled, max_categories=max_categories, grid=grid)
        _try_out(encoder)
    return encoder


def _answers(
    clients: Clients,
    request: Request,
    questions: Sequence[Question],
    promise: RunPromise,
    sums: SecureSums | None,
) -> tuple[list[npt.NDArray[np.int64]], Sequence[Reply], int]:
    """The sums of the clients' counts, one array a question; what they say of them; their rows."""
    ends = np.cumsum([question.size for question in questions])
    if sums is None:
        replies: Sequence[Reply] = clients.require(request, "count its values")
        total = _sum_answers(replies, questions, private=promise.is_private)
        rows = promise.rows_of(replies) if promise.is_private else 0
    else:
        request = replace(request, meta={**request.meta, "secure": {}})
        total, rows, replies = sums.counts(request, int(ends[-1]))
        sums.rows = rows
        _check_possible(total, questions, "the clients", private=promise.is_private)
    return np.split(total, ends[:-1]), replies, max(rows, 0)  # negative by noise alone


def _with_noise(
    answers: list[npt.NDArray[np.int64]],
    replies: Sequence[Reply],
    rows: int,
    schema: Schema,
    promise: RunPromise,
) -> tuple[list[npt.NDArray[np.int64]], float, int]:
    """Sums, the standard deviation of the noise in them, and the rows that they count."""
    deviation = promise.noise_in(replies)
    if promise.hides_clients and not promise.adds_noise:
        promise.pay_counts(schema)
    elif promise.hides_clients:
        answers, deviation = promise.noisy_counts(schema, answers, rows // len(replies))
    return answers, deviation, rows


@contextmanager
def _fitting() -> Iterator[None]:
    """Counts that no table has may overflow, or leave nothing to divide by.

    Raises:
        FederationError: They do.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except GenesisError:
        raise
    except (ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise FederationError(
            "no encoder fits what the clients counted",
            do="drop columns of numbers beyond 1e300, or find the client whose counts are wrong",
        ) from error


def _try_out(encoder: Encoder) -> None:
    """Write an encoder, and the ends of its columns, as will be done with them later.

    Raises:
        ValueError: Something is not finite, or no value of its column.
        ArithmeticError: The same.
    """
    json.dumps(encoder.to_dict(), allow_nan=False)
    for encoding in encoder.encodings:
        if isinstance(encoding, NumericEncoding | GridEncoding):
            column = encoding.column
            ends = ((encoding.lower, column.lower), (encoding.upper, column.upper))
            counted = [end for end, stated in ends if stated is None]
            with np.errstate(invalid="raise"):
                as_column(column, np.array(counted, dtype=np.float64))


def _labels(found: Mapping[str, Any], schema: Schema) -> dict[str, Sequence[Label]]:
    """Labels of known columns, each of a type that a label can have.

    Raises:
        ValueError: They are something else.
    """
    for name, known in found.items():
        if name not in schema.names or not isinstance(known, list):
            raise ValueError("labels of no column")
        if not all(isinstance(label, str) or math.isfinite(label) for label in known):
            raise ValueError("labels that are not finite")
        # The very thing that is done with them when rows are generated.
        as_column(schema[name], np.array([*known, None], dtype=object), known)
    return dict(found)


def _sum_answers(
    replies: Sequence[Reply], questions: Sequence[Question], *, private: bool = False
) -> npt.NDArray[np.int64]:
    """The sums over the clients of their counts.

    Where clients add noise, counts may be negative, and no table need have them.
    """
    total = np.zeros(sum(question.size for question in questions), dtype=np.int64)
    for reply in replies:
        check_arrays(reply.arrays, {"counts": ("int64", len(total))})
        counts = reply.arrays["counts"]
        _check_possible(counts, questions, f"client '{reply.client_id}'", private=private)
        total += counts
    return total


def _check_possible(
    counts: npt.NDArray[np.int64], questions: Sequence[Question], who: str, *, private: bool
) -> None:
    """Make sure that some table has these counts; with noise, that they can be added up.

    Raises:
        FederationError: None has.
    """
    if private:
        possible = bool((np.abs(counts) < MOST_ROWS).all())
    else:
        answers = np.split(counts, np.cumsum([question.size for question in questions])[:-1])
        possible = bool((counts >= 0).all()) and all(map(_is_possible, answers, questions))
    if not possible:
        raise FederationError(
            f"{who} answered with counts that no table has",
            do="give server and clients the same version",
        )


def _is_possible(counts: npt.NDArray[np.int64], question: Question) -> bool:
    """Whether some table has these counts, none of which is negative."""
    if counts.sum(dtype=np.float64) >= MOST_ROWS:
        return False
    # The outermost bins are those of what is no number.
    return question.shift < 64 or question.labels is not None or not (counts[0] or counts[-1])
