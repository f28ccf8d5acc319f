"""A classifier of one column of a table: `Classifier`, what synthetic tables are often made for.

A small network on the encoder's features of the other columns. With a promise of privacy, one
ledger covers all that it learns: the statistics under its features, its classes, and every step of
its training.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from genesis.devices import resolve_device
from genesis.encoding.discrete import DiscreteEncoding
from genesis.encoding.encoder import Encoder
from genesis.errors import DataError, PlanError, SchemaError, TrainingError, nearest_names
from genesis.models.blocks import Blocks
from genesis.models.config import number, option, optional, parse, whole, widths
from genesis.models.rows import TrainingRows
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.one_table import (
    guard_of,
    pooled_statistics,
    promise_of,
    schema_of,
    table_of,
    table_report,
)
from genesis.schema import Schema
from genesis.seeding import Stream, check_seed, generator
from genesis.statistics import PooledStatistics, ShardStatistics
from genesis.supervised import (
    NO_LABEL,
    LabelledRows,
    features,
    initialised,
    network_of,
    train,
)
from genesis.values import as_column

__all__ = ["Classifier"]

CHUNK_ROWS = 32_768  # rows predicted at a time, to bound memory
LEARNING_RATES = {False: 1e-3, True: 1e-2}  # without and with privacy
GRADIENTS = "per-record gradients by Opacus' hooks"


@dataclass(frozen=True)
class _Config:
    """How it is trained."""

    epochs: int = option(20, whole(1))
    batch_size: int = option(256, whole(1))
    hidden: tuple[int, ...] = option((128,), widths(0))
    learning_rate: float | None = option(None, optional(number(above=0.0)))


@dataclass(frozen=True)
class _Fitted:
    """What was learned: nothing in it is a row.

    Args:
        encoder: Of the columns that are features.
        target: The classes are its labels.
        network: Features -> logits of the classes.
    """

    encoder: Encoder
    target: DiscreteEncoding
    network: nn.Sequential


class Classifier:
    """Predicts one discrete column of a table from the others.

    Args:
        epochs: Passes over the rows.
        batch_size: Rows of a step; with privacy, how many are expected. Their gradients are then
            held one by one, batch_size times the parameters of the network.
        hidden: Widths of the hidden layers; none makes it a linear model.
        learning_rate: Of Adam; 0.001 if None, and 0.01 with privacy, where steps are few.
        schema: Kinds and types of the columns, the target's too; inferred if None.
        seed: Decides training, but never the noise of privacy; drawn by the operating system if
            None.
        device: "auto", "cpu" or "cuda".
        privacy: ``{"differential_privacy": {"epsilon": 1.0, "delta": 1e-5, …}}``, what is promised
            to every record of the table: see `privacy.budget.Privacy`.

    Raises:
        PlanError: An argument or the promise is impossible.
    """

    def __init__(
        self,
        *,
        epochs: int = 20,
        batch_size: int = 256,
        hidden: Sequence[int] = (128,),
        learning_rate: float | None = None,
        schema: Schema | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        privacy: Mapping[str, Any] | None = None,
    ) -> None:
        self._promise = promise_of(privacy)
        chosen = {"epochs": epochs, "batch_size": batch_size, "hidden": hidden}
        self._config = parse(_Config, {**chosen, "learning_rate": learning_rate}, "the classifier")
        self.seed = secrets.randbits(32) if seed is None else check_seed(seed)
        self.device = resolve_device(device)
        self.privacy: dict[str, Any] | None = None  # what was promised and released
        self._schema = schema
        self._fitted: _Fitted | None = None

    def fit(
        self, table: pd.DataFrame, target: str, discrete_columns: Sequence[str] = ()
    ) -> Classifier:
        """Learn to predict a column.

        A row whose target is null teaches nothing. Nor does one whose label is none of the classes,
        as with privacy a label is that is too rare to be told.

        Args:
            table: At least two rows.
            target: The column to predict; whatever it looks like, its values are labels.
            discrete_columns: Other columns to take as categories, whatever they look like.

        Raises:
            SchemaError: There is no such column, no other to learn from, or the table does not fit
                the schema.
            DataError: There are too few rows or classes, or a value cannot be used.
            PrivacyError: The promise leaves nothing for training.
            TrainingError: The network's parameters are not finite.
        """
        if target not in (names := [str(name) for name in table.columns]):
            raise SchemaError(f"there is no column '{target}'", do=nearest_names(target, names))
        if len(table) < 2:
            raise DataError(
                "there is too little to learn from",
                got="one row" if len(table) else "no rows",
                do="add rows",
            )
        guard = guard_of(self._promise)
        discrete = [*discrete_columns, target]
        schema = schema_of(table, self._schema, discrete, private=guard is not None)
        table = table_of(table, schema, private=guard is not None)
        pooled = pooled_statistics(ShardStatistics(schema, table), len(table), guard)
        labels = _labels_of(pooled, target, private=guard is not None)
        encoder = _features_of(pooled, target)
        private = None
        if guard is not None:
            epochs = self._config.epochs
            guard.plan_training(batch_size=self._config.batch_size, epochs=epochs)
            private = guard.steps(epochs)
        network = self._train(encoder, labels, table, private)
        self._fitted = _Fitted(encoder, labels, network)
        self.privacy = table_report(
            guard, public_schema=self._schema is not None, gradients=GRADIENTS
        )
        return self

    def predict_proba(self, table: pd.DataFrame) -> pd.DataFrame:
        """How likely every class is for every row.

        Categories and nulls that were never seen count as nothing known. Columns that are not
        learned from, the target among them, may be there or not.

        Args:
            table: At least one row.

        Returns:
            (n, classes): the rows' index, and a column for every label; rows sum to 1.

        Raises:
            PlanError: Nothing was fitted yet.
            SchemaError: A column is missing, or of another kind.
            DataError: There are no rows, or a value cannot be used.
        """
        fitted = self._learned
        chances = np.concatenate(list(self._chances(fitted, table)))
        return pd.DataFrame(chances, index=table.index, columns=self._labels(fitted))

    def predict(self, table: pd.DataFrame) -> pd.Series[Any]:
        """The likeliest class of every row, of the target's type; else as `predict_proba`."""
        fitted = self._learned
        best = [chances.argmax(axis=1) for chances in self._chances(fitted, table)]
        values = np.array(fitted.target.labels, dtype=object)[np.concatenate(best)]
        column = fitted.target.column
        found = as_column(column, values, fitted.target.labels)
        return pd.Series(found, index=table.index, name=column.name)

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """(classes,) the labels that it can predict, sorted.

        Raises:
            PlanError: Nothing was fitted yet.
        """
        return np.asarray(self._labels(self._learned))

    @property
    def epsilon(self) -> float | None:
        """What everything released costs together; None without a promise of privacy."""
        return None if self.privacy is None else self.privacy["epsilon"]

    @property
    def _learned(self) -> _Fitted:
        if self._fitted is None:
            raise PlanError("this classifier has learned nothing yet", do="call fit first")
        return self._fitted

    def _labels(self, fitted: _Fitted) -> pd.Index[Any]:
        """The labels as an index of their own type."""
        return pd.Index(list(fitted.target.labels))

    def _chances(self, fitted: _Fitted, table: pd.DataFrame) -> Iterator[npt.NDArray[np.float64]]:
        """Chances of the classes (b, classes), chunk by chunk."""
        rows = self._rows(fitted.encoder, _known_columns(table, fitted.encoder.schema))
        blocks = self._blocks(fitted.encoder)
        for chunk in torch.split(torch.arange(len(rows), device=self.device), CHUNK_ROWS):
            with torch.inference_mode():
                logits = fitted.network(features(rows, chunk, blocks))
                yield logits.double().softmax(1).cpu().numpy()

    def _rows(self, encoder: Encoder, table: pd.DataFrame) -> TrainingRows:
        """Encoded rows, each of which depends on that row alone."""
        return TrainingRows.of(encoder.encode(table, None), self.device, torch.float32)

    def _blocks(self, encoder: Encoder) -> Blocks:
        """How codes become features."""
        return Blocks(encoder.layout, self.device, torch.float32)

    def _train(
        self,
        encoder: Encoder,
        labels: DiscreteEncoding,
        table: pd.DataFrame,
        private: PrivateSteps | None,
    ) -> nn.Sequential:
        """A network that was trained on all epochs."""
        rng = generator(self.seed, Stream.TRAINING, 0)
        _, codes = labels.encode(table[labels.column.name], None)
        given = np.where(codes < len(labels.labels), codes, NO_LABEL)  # the code beyond is null's
        examples = LabelledRows(
            self._rows(encoder, table),
            self._blocks(encoder),
            torch.as_tensor(given, dtype=torch.int64, device=self.device),
        )
        sizes = (encoder.layout.width, *self._config.hidden, len(labels.labels))
        trained = initialised(sizes, self.device, rng)
        train(
            trained,
            examples,
            epochs=self._config.epochs,
            batch_size=self._config.batch_size,
            learning_rate=self._config.learning_rate or LEARNING_RATES[private is not None],
            rng=rng,
            private=private,
        )
        if not all(bool(p.isfinite().all()) for p in trained.parameters()):
            raise TrainingError("training diverged", do="lower the learning rate")
        # The numbers alone: gradients of single records hang on what was trained.
        kept = network_of(sizes, self.device)
        kept.load_state_dict(trained.state_dict())
        return kept.requires_grad_(False)


def _labels_of(pooled: PooledStatistics, target: str, *, private: bool) -> DiscreteEncoding:
    """The labels of the target, each of which is a class.

    Raises:
        DataError: They are fewer than two.
    """
    found = pooled.discrete.get(target)  # a constant has no statistics
    occurring = 1 if found is None else int((found.counts > 0).sum())
    if found is None or occurring < 2:
        raise DataError(
            f"column '{target}' needs at least two labels to be predicted",
            got="one" if occurring else "none",
            do="state its categories in a schema, or promise a larger epsilon"
            if private
            else "choose another target, or other rows",
        )
    return DiscreteEncoding.build(pooled.schema[target], found, max_categories=len(found.labels))


def _features_of(pooled: PooledStatistics, target: str) -> Encoder:
    """The encoder of all columns but the target, in which nothing may be missing later on.

    Raises:
        SchemaError: There is no other column to learn from.
    """
    encoder = Encoder.fit(pooled)
    encodings = [each for each in encoder.encodings if each.column.name != target]
    names = {each.column.name for each in encodings}
    columns = (replace(column, nulls=True) for column in encoder.schema if column.name in names)
    return Encoder(Schema(tuple(columns)).settle(), encodings, encoder.rows)


def _known_columns(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The columns of a schema, and no others."""
    wanted = [str(name) in schema for name in table.columns]
    return schema.conform(table.loc[:, wanted])
