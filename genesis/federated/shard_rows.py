"""The rows of a shard, in memory or in a file: all that is ever done with them.

Statistics and models that are fitted from sums need no more of a table than sums over its rows. So
a table that is larger than memory is gone over block by block, and what comes of it is the same.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.blocks import TableBlocks
from genesis.codes import Codes
from genesis.counting import Question, sorted_labels
from genesis.encoding.encoder import Encoder
from genesis.errors import DataError, SchemaError
from genesis.schema import Kind, Schema
from genesis.schema.checking import check_column
from genesis.schema.column import described
from genesis.statistics import DISCRETE, ShardStatistics
from genesis.values import Label

__all__ = ["BlockStatistics", "RowsInBlocks", "RowsInMemory", "ShardRows", "shard_rows"]

log = logging.getLogger(__name__)


class ShardRows(Protocol):
    """What a shard needs of its rows, wherever they are."""

    in_memory: ClassVar[bool]
    """Whether a model can be trained on them in steps."""

    def __len__(self) -> int: ...

    def infer(self, discrete_columns: Sequence[str] = (), only: str | None = None) -> Schema:
        """The schema that they seem to have, or that of one column: see `Schema.infer`.

        Raises:
            SchemaError: It cannot be told.
        """

    def check(self, schema: Schema, owner: str) -> None:
        """Make sure that they have a schema: see `Schema.check`."""

    def conform(self, schema: Schema, owner: str) -> ShardRows:
        """The same as a schema has them: see `Schema.conform`."""

    def conform_loosely(self, schema: Schema, owner: str) -> ShardRows:
        """The same, where what does not fit is null: see `Schema.conform_loosely`."""

    def statistics(self, schema: Schema) -> ShardStatistics:
        """What answers questions about them, once they are as the schema has them."""

    def expect(self, questions: Sequence[Question]) -> None:
        """Know what is asked of the statistics next, to answer all of it at once."""

    def encode(self, encoder: Encoder, rng: np.random.Generator | None) -> Codes:
        """Encode them: see `Encoder.encode`."""


def shard_rows(table: pd.DataFrame | TableBlocks) -> ShardRows:
    """The rows of a table."""
    return RowsInBlocks(table) if isinstance(table, TableBlocks) else RowsInMemory(table)


class RowsInMemory:
    """Rows of a table that is at hand.

    Args:
        table: The table.
    """

    in_memory: ClassVar[bool] = True

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def infer(self, discrete_columns: Sequence[str] = (), only: str | None = None) -> Schema:
        """The schema that they seem to have."""
        names = [str(name) for name in self._table]
        places = [place for place, name in enumerate(names) if only in (None, name)]
        return Schema.infer(self._table.iloc[:, places], list(dict.fromkeys(discrete_columns)))

    def check(self, schema: Schema, owner: str) -> None:
        """Make sure that they have a schema."""
        schema.check(self._table, owner)

    def conform(self, schema: Schema, owner: str) -> RowsInMemory:
        """The same as a schema has them."""
        return RowsInMemory(schema.conform(self._table, owner))

    def conform_loosely(self, schema: Schema, owner: str) -> RowsInMemory:
        """The same, where what does not fit is null."""
        table = schema.conform_loosely(self._table, owner)
        _warn(_unknown(self._table, table), owner)
        return RowsInMemory(table)

    def statistics(self, schema: Schema) -> ShardStatistics:
        """What answers questions about them."""
        return ShardStatistics(schema, self._table)

    def expect(self, questions: Sequence[Question]) -> None:
        """Nothing is gained by knowing."""

    def encode(self, encoder: Encoder, rng: np.random.Generator | None) -> Codes:
        """Encode them."""
        return encoder.encode(self._table, rng)


class RowsInBlocks:
    """Rows of a file that are read block by block, whenever they are needed.

    Args:
        blocks: The file.
        schema: As which its rows are read, once it was found that they are such.
    """

    in_memory: ClassVar[bool] = False

    def __init__(self, blocks: TableBlocks, schema: Schema | None = None) -> None:
        self._blocks, self._schema = blocks, schema
        self._statistics: BlockStatistics | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def infer(self, discrete_columns: Sequence[str] = (), only: str | None = None) -> Schema:
        """Refused: what a column is can depend on any of its rows."""
        raise SchemaError(
            "a table that is read in blocks needs a schema",
            do="make one with 'genesis schema' of a part of it, and give it as the schema",
        )

    def check(self, schema: Schema, owner: str) -> None:
        """Make sure that they have a schema, as far as it can be told of one row after the other.

        It is all but what a column would be taken for without the schema.
        """
        for block in self._blocks:
            _check_block(schema, block, owner)

    def conform(self, schema: Schema, owner: str) -> RowsInBlocks:
        """The same as a schema has them."""
        self.check(schema, owner)
        return RowsInBlocks(self._blocks, schema)

    def conform_loosely(self, schema: Schema, owner: str) -> RowsInBlocks:
        """The same, where what does not fit is null."""
        blocks = ((block, schema.conform_loosely(block, owner)) for block in self._blocks)
        _warn(sum(_unknown(given, block) for given, block in blocks), owner)
        return RowsInBlocks(self._blocks, schema)

    def statistics(self, schema: Schema) -> ShardStatistics:
        """What answers questions about them."""
        self._statistics = BlockStatistics(schema, self._read)
        return self._statistics

    def expect(self, questions: Sequence[Question]) -> None:
        """Know what is asked of the statistics next."""
        if self._statistics is not None:
            self._statistics.expect(questions)

    def encode(self, encoder: Encoder, rng: np.random.Generator | None) -> Codes:
        """Encode them into a file that has no name and is gone with the codes.

        Codes are of the smallest type that holds them, and nothing is kept of where a number lies
        in its bin: models that are fitted from sums do not ask.

        Raises:
            DataError: The disk refuses.
        """
        layout = encoder.layout
        dtype = np.min_scalar_type(-max(layout.block_widths, default=1))
        shape = len(self), layout.n_blocks
        names = [encoding.column.name for encoding in encoder.encodings]
        try:
            with tempfile.TemporaryFile() as file:
                for block in self._read(names):
                    # Written, not mapped yet: a disk that is full is an error then, and no crash.
                    file.write(encoder.encode(block, rng).codes.astype(dtype).tobytes())
                file.flush()
                codes: npt.NDArray[np.int32] = np.asarray(np.memmap(file, dtype, "c", shape=shape))
        except OSError as error:
            raise DataError(
                f"there is no room for {np.prod(shape) * dtype.itemsize / 1e6:,.0f} MB of codes",
                got=error.strerror,
                do="name a folder that has it in TMPDIR",
            ) from error
        return Codes(np.empty((len(self), 0), dtype=np.float32), codes)

    def _read(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """The blocks of some columns, as the schema has them."""
        if self._schema is None:
            yield from self._blocks.read(names)
            return
        schema = Schema(tuple(self._schema[name] for name in names))
        for block in self._blocks.read(names):
            yield schema.conform_loosely(block)


class BlockStatistics(ShardStatistics):
    """Answers questions about one table as the sum of what its blocks answer.

    Args:
        schema: The schema agreed on.
        read: Goes over the blocks of some columns.
    """

    def __init__(
        self, schema: Schema, read: Callable[[Sequence[str]], Iterator[pd.DataFrame]]
    ) -> None:
        self.schema, self._read = schema, read
        self._expected: tuple[Question, ...] = ()
        self._answers: dict[Question, npt.NDArray[np.int64]] = {}

    def expect(self, questions: Sequence[Question]) -> None:
        """Answer these questions together, as soon as one of them is asked."""
        self._expected = tuple(questions)

    def labels(self) -> dict[str, list[Label]]:
        """The labels that occur in every discrete column whose categories are not public."""
        counts: dict[str, Counter[Label]] = {
            column.name: Counter()
            for column in self.schema
            if column.kind in DISCRETE and column.categories is None
        }
        for block in self._blocks(list(counts)):
            for name, found in block.labels().items():
                counted = block.answer(Question(name, labels=tuple(found)))
                counts[name].update(dict(zip(found, counted.tolist(), strict=True)))
        labels = {name: sorted_labels(found) for name, found in counts.items()}
        # How many rows have each is what a promise asks next.
        self._answers = {
            Question(name, labels=tuple(found)): np.array([counts[name][each] for each in found])
            for name, found in labels.items()
        }
        return labels

    def answer(self, question: Question) -> npt.NDArray[np.int64]:
        """The counts asked for, one number a label or bin."""
        if question not in self._answers:
            together = self._expected if question in self._expected else (question,)
            sums = {each: np.zeros(each.size, dtype=np.int64) for each in together}
            for block in self._blocks(list(dict.fromkeys(each.column for each in together))):
                for each, total in sums.items():
                    total += block.answer(each)
            self._answers = sums
        return self._answers[question]

    def _blocks(self, names: Sequence[str]) -> Iterator[ShardStatistics]:
        """Statistics of the blocks, which know of some columns."""
        schema = Schema(tuple(self.schema[name] for name in names))
        blocks = self._read(names) if names else ()
        return (ShardStatistics(schema, block) for block in blocks)


def _check_block(schema: Schema, block: pd.DataFrame, owner: str) -> None:
    """Raise SchemaError for cells that a schema does not allow, whatever the others are."""
    table = schema.conform_loosely(block, owner)
    for column in schema:
        if column.kind is Kind.ID:
            continue
        cells = block[column.name]
        if column.kind is Kind.CONSTANT:
            check_column(column, cells, owner)
        what, nulls = f"column '{column.name}' of {owner}", cells.isna()
        among = f"among rows {block.index[0] + 1:,} to {block.index[-1] + 1:,}"
        if nulls.any() and not column.nulls:
            raise SchemaError(
                f"{what} holds nulls and the schema allows none",
                got=f"{int(nulls.sum()):,} {among}",
                do="set nulls = true in the schema, or fill them in",
            )
        strange = int((table[column.name].isna() & ~nulls).sum())
        if strange:
            raise SchemaError(
                f"{what} is not what the schema says: {described(column)}",
                got=f"{strange:,} other values {among}",
                do="mend it, or change the schema",
            )


def _unknown(given: pd.DataFrame, table: pd.DataFrame) -> int:
    """Cells that are null only since they were made to fit."""
    return int((table.isna().sum() - given.isna().sum()).clip(lower=0).sum())


def _warn(unknown: int, owner: str) -> None:
    if unknown:
        log.warning("%s: %d cells do not fit the schema and count as null", owner, unknown)
