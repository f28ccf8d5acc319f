"""One table in, one table out: `Synthesizer`."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from genesis.calibration import Calibration
from genesis.codes import Codes
from genesis.conditions import Where
from genesis.devices import resolve_device
from genesis.encoding.encoder import Encoder
from genesis.errors import (
    ConditionError,
    DataError,
    GenesisError,
    ModelFileError,
    PlanError,
    TrainingError,
)
from genesis.imputation import impute
from genesis.model_file import Contents, read_file, write_file
from genesis.models import (
    DEFAULT_EPOCHS,
    GenerativeModel,
    LocalTraining,
    check_private_config,
    create_model,
    encoder_choices,
    is_sum_model,
    model_class,
    private_choices,
)
from genesis.models.choosing import chosen_method, suited
from genesis.models.sums import Budget, SumFit
from genesis.models.sums.rows import SumRows
from genesis.privacy.budget import Privacy
from genesis.privacy.guard import Guard
from genesis.privacy.one_table import (
    guard_of,
    pooled_statistics,
    promise_of,
    schema_of,
    table_of,
    table_report,
)
from genesis.progress import ProgressBar
from genesis.schema import Schema
from genesis.seeding import Stream, check_seed, generator, key, secret_generator
from genesis.statistics import ShardStatistics

__all__ = ["Progress", "Synthesizer"]

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every epoch with the epochs done, their number in all, and the losses."""

CHUNK_ROWS = 32_768  # rows generated and decoded at a time, to bound memory
PATIENCE = 20  # rows drawn for one row wanted, before a condition is enforced


class Synthesizer:
    """Learns one table and generates rows like its own.

    Args:
        method: "ctgan", "tvae", one of `models.SUM_MODELS`, or "auto" for the one that suits the
            promise of privacy, see `models.choosing`.
        config: Arguments of the model; of the first two those of `ctgan.CTGAN` and `ctgan.TVAE`.
        schema: Kinds and types of the columns; inferred if None.
        max_categories: Categories of a column with a slot of their own; the rest share one.
        seed: Decides training and generation, but never the noise of privacy; drawn by the
            operating system if None.
        device: "auto", "cpu" or "cuda".
        privacy: ``{"differential_privacy": {"epsilon": 1.0, "delta": 1e-5, …}}``, what is promised
            to every record: see `privacy.budget.Privacy`.

    Raises:
        PlanError: Unknown method or device, or an impossible config, seed, max_categories or
            promise.
    """

    def __init__(
        self,
        method: str = "ctgan",
        config: Mapping[str, Any] | None = None,
        *,
        schema: Schema | None = None,
        max_categories: int = 1000,
        seed: int | None = None,
        device: str | torch.device = "auto",
        privacy: Mapping[str, Any] | None = None,
    ) -> None:
        method = chosen_method(method, promise_of(privacy))
        self._promise = _promise(privacy, method, config or {})
        self.privacy: dict[str, Any] | None = None  # what was promised and released
        if self._promise is not None:
            config = private_choices(method, config or {})
        model_class(method).check_config(config or {})
        self.method, self.config = method, dict(config or {})
        self.max_categories, self.device = max_categories, resolve_device(device, self.config)
        self.seed = secrets.randbits(32) if seed is None else check_seed(seed)
        if max_categories < 2:
            raise PlanError("max_categories must be at least 2", got=repr(max_categories))
        self.losses: list[dict[str, float]] = []
        self._schema = schema
        self._encoder: Encoder | None = None
        self._model: GenerativeModel | None = None
        self._calls = 0
        self._complete = False

    def fit(
        self,
        table: pd.DataFrame,
        discrete_columns: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Synthesizer:
        """Learn a table.

        Args:
            table: At least two rows.
            discrete_columns: Columns to take as categories, whatever they look like.
            progress: Called after every epoch; a bar on stderr if config["verbose"] is true.

        Raises:
            SchemaError: The table has no column that can be learned, or does not fit the schema.
            DataError: A value cannot be used, or there are too few rows.
            TrainingError: A loss is not finite.
        """
        if len(table) < 2:
            raise DataError(
                "there is too little to learn from",
                got="one row" if len(table) else "no rows",
                do="add rows",
            )
        guard = guard_of(self._promise)
        schema = schema_of(table, self._schema, discrete_columns, private=guard is not None)
        table = table_of(table, schema, private=guard is not None)
        choices = encoder_choices(self.method)
        statistics = ShardStatistics(schema, table)
        pooled = pooled_statistics(statistics, len(table), guard, fine="grid" in choices)
        encoder = Encoder.fit(pooled, max_categories=self.max_categories, **choices)
        rng = generator(self.seed, Stream.ENCODING, 0)
        codes = encoder.encode(table, rng if guard is None else secret_generator())
        model = self._adopt(encoder)
        self._complete = True
        with ProgressBar("epochs", quiet=not self.config.get("verbose")) as bar:
            learn = self._fit_sums if is_sum_model(self.method) else self._train
            learn(model, codes, guard, progress or bar.show)
        self.privacy = table_report(
            guard, public_schema=self._schema is not None, gradients=model.private_gradients
        )
        return self

    def _train(
        self, model: GenerativeModel, codes: Codes, guard: Guard | None, progress: Progress
    ) -> None:
        """All epochs, one by one: any split of them gives the same numbers."""
        epochs = int(self.config.get("epochs", DEFAULT_EPOCHS))
        batch_size = int(self.config.get("batch_size", 500))
        private = None
        if guard is not None:
            guard.plan_training(batch_size=batch_size, epochs=epochs)
            private = guard.steps(epochs)
        self.losses = []
        for epoch in range(epochs):
            local = LocalTraining(
                epochs=1,
                batch_size=batch_size,
                seed=key(self.seed, Stream.TRAINING, 0),
                first_epoch=epoch,
                private=private,
            )
            try:
                losses = model.train(codes, local)
            except TrainingError as error:
                raise TrainingError(
                    f"training diverged in epoch {epoch + 1}",
                    got=str(error),
                    do="lower the learning rate; the state before this epoch is kept",
                ) from error
            self.losses.append(losses)
            progress(epoch + 1, epochs, losses)

    def _fit_sums(
        self, model: GenerativeModel, codes: Codes, guard: Guard | None, progress: Progress
    ) -> None:
        """A model from sums over the rows, in as many rounds as config["epochs"] says."""
        encoder, cls = self.encoder, model_class(self.method)
        config = dataclasses.asdict(model.config)
        budget = None
        if guard is not None:
            budget = Budget(guard.plan_sums(cls.releases(encoder.layout, config)).rho)
        fit: SumFit = cls.fit(
            encoder.layout,
            config,
            rows=encoder.rows,
            frequencies=encoder.frequencies,
            n_rounds=config["epochs"],
            seed=self.seed,
            device=self.device,
            budget=budget,
        )
        rows = SumRows(encoder.layout, codes, self.device)
        self.losses = []
        while (question := fit.question()) is not None:
            exact = partial(cls.answer, rows, question)
            answered = (exact(), 0.0) if guard is None else guard.answer_sum(question, exact)
            losses = fit.take(*answered)
            if losses is not None:
                self.losses.append(dict(losses))
                progress(len(self.losses), fit.n_rounds, losses)
        self.config = fit.config
        self._adopt(encoder).set_vector(fit.vector)

    @property
    def epsilon(self) -> float | None:
        """What everything released costs together; None without a promise of privacy."""
        return None if self.privacy is None else self.privacy["epsilon"]

    @property
    def schema(self) -> Schema:
        """The schema of what is generated."""
        return self.encoder.schema

    @property
    def encoder(self) -> Encoder:
        """The encoder.

        Raises:
            PlanError: Nothing was fitted yet.
        """
        if self._encoder is None:
            raise PlanError("this synthesizer has learned nothing yet", do="call fit first")
        return self._encoder

    @property
    def model(self) -> GenerativeModel:
        """The model of encoded rows.

        Raises:
            PlanError: Nothing was fitted yet.
        """
        if self._model is None:
            raise PlanError("this synthesizer has learned nothing yet", do="call fit first")
        return self._model

    @property
    def complete(self) -> bool:
        """Whether the parts are there that only training needs, which a model file does not hold.

        They are the critic, or the encoder of an autoencoder.
        """
        return self._complete

    @classmethod
    def of_parameters(
        cls,
        method: str,
        config: Mapping[str, Any],
        encoder: Encoder,
        vector: torch.Tensor,
        *,
        seed: int,
        device: str | torch.device = "auto",
        privacy: Mapping[str, Any] | None = None,
    ) -> Synthesizer:
        """A synthesizer that was trained elsewhere.

        Args:
            method: Its model.
            config: The model's arguments.
            encoder: Its encoder.
            vector: (P,) parameters of the model.
            seed: Decides what it generates.
            device: Where it generates.
            privacy: What was promised and released, see `privacy.report`.
        """
        built = cls(method, config, seed=seed, device=device)
        built._adopt(encoder).set_vector(vector)
        built._complete = True
        built.privacy = None if privacy is None else dict(privacy)
        return built

    def _adopt(self, encoder: Encoder) -> GenerativeModel:
        """Take an encoder and a fresh model for it."""
        self._encoder = encoder
        self._model = create_model(
            self.method,
            encoder.layout,
            self.config,
            device=self.device,
            seed=self.seed,
            frequencies=encoder.frequencies,
        )
        self._calls = 0
        return self._model

    def generate(
        self,
        n: int,
        where: Mapping[str, Any] | None = None,
        seed: int | None = None,
        *,
        calibrate: bool = False,
    ) -> pd.DataFrame:
        """Generate rows.

        Args:
            n: Number of rows, at least 0.
            where: What every row must satisfy: column -> a value, a list of values, None for null,
                or for numbers and dates a tuple (low, high).
            seed: Decides the rows. If None, every call gives other rows, and the same sequence of
                calls after the same fit gives the same ones.
            calibrate: Whether labels, nulls and numbers of every column are brought to the
                frequencies that were released in training: see `calibration`. It takes about three
                times as long. Not together with where: what was released is of all rows.

        Returns:
            n rows with the columns, order and types of the table that was learned.

        Raises:
            PlanError: n or seed is negative, nothing was fitted yet, or rows of a condition should
                be calibrated.
            ConditionError: No row can satisfy where.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise PlanError("the number of rows must be a whole number of at least 0", got=repr(n))
        encoder = self.encoder
        asked = Where.parse(where or {}, encoder)
        if calibrate and where:
            raise PlanError(
                "rows of a condition cannot be calibrated: what was released is of all rows",
                do="leave out where, or calibrate",
            )
        calibration = Calibration(encoder) if calibrate else None
        rng = self._stream(seed, 1)
        values: dict[str, npt.NDArray[Any]] = {}
        for start in range(0, max(n, 1), CHUNK_ROWS):
            chunk = slice(start, min(start + CHUNK_ROWS, n))
            size = chunk.stop - start
            if calibration is None:
                parts = self._values(size, asked, rng)
            else:
                parts = calibration.values(
                    lambda rows: self.model.generate(rows, None, rng), size, rng
                )
            for name, part in parts.items():
                if name not in values:  # filled in place: joined chunks would exist twice
                    values[name] = np.empty(n, part.dtype)
                values[name][chunk] = part
        return encoder.assemble(values, n, rng)

    def impute(self, table: pd.DataFrame, seed: int | None = None) -> pd.DataFrame:
        """Fill the nulls of a table, each drawn given what is known of its row.

        Args:
            table: Any number of rows, with all or some of the columns that were learned. What was
                never seen in them counts as unknown, and stays.
            seed: Decides what is filled in; None as in `generate`.

        Returns:
            A copy whose other cells, columns and index are the same. Ids are left as they are.
            What becomes of types: see `imputation.impute`.

        Raises:
            PlanError: The method cannot do so, seed is negative, or nothing was fitted yet.
            SchemaError: The table has a column that was not learned.
            DataError: A value is not of its column's kind.
        """
        encoder, model = self.encoder, self.model
        return impute(table, encoder, model, self._stream(seed, 2))

    def _stream(self, seed: int | None, use: int) -> np.random.Generator:
        """The random numbers of a call: of a seed for one use of it, or others in every call."""
        if seed is not None:
            return generator(check_seed(seed), Stream.GENERATION, use)
        self._calls += 1
        return generator(self.seed, Stream.GENERATION, 0, self._calls - 1)

    def _values(
        self, n: int, asked: Where, rng: np.random.Generator
    ) -> dict[str, npt.NDArray[Any]]:
        """Decoded columns of n rows that satisfy what is asked."""
        if not asked.condition.allowed or n == 0:
            return asked.values(self.encoder, self.model.generate(n, None, rng), rng)[0]
        if is_sum_model(self.method):
            return self._exact_values(n, asked, rng)
        # Rows that come out right by themselves have the right company in their other columns, so
        # the model is first told the condition and its misses are thrown away. What is rare for the
        # model is then enforced, code by code.
        found: list[dict[str, npt.NDArray[Any]]] = []
        missing, drawn = n, 0
        while missing > 0 and drawn < PATIENCE * n + 1000:
            size = min(max(2 * missing, 500), CHUNK_ROWS)
            values, keep = asked.values(
                self.encoder, self.model.generate(size, asked.told, rng), rng
            )
            found.append(_rows(values, np.flatnonzero(keep)[:missing]))
            missing -= min(int(keep.sum()), missing)
            drawn += size
        if missing:
            codes = self.model.generate(missing, asked.condition, rng)
            values, _ = asked.values(self.encoder, codes, rng)
            found.append(asked.force(self.encoder, codes, values, rng))
        joined = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        # Found and enforced rows stand one after the other; mixed, any part of them is a sample.
        return _rows(joined, rng.permutation(n))

    def _exact_values(
        self, n: int, asked: Where, rng: np.random.Generator
    ) -> dict[str, npt.NDArray[Any]]:
        """The same of a model that knows which rows satisfy a condition."""
        try:
            codes = self.model.generate(n, asked.condition, rng)
        except ConditionError as error:
            blocks = asked.condition.allowed
            names = ", ".join(self.encoder.encodings[block].column.name for block in blocks)
            raise ConditionError(
                f"no row can have what is asked of {names} together",
                do="ask for less of one of them",
            ) from error
        return asked.values(self.encoder, codes, rng)[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file: generator, encoder and schema; no row, and no critic.

        Args:
            path: Where to; any name, also one that ends in .pkl. It is never a pickle.

        Raises:
            PlanError: Nothing was fitted yet.
            DataError: The folder is missing or the disk refuses.
        """
        # The critic has seen every row and is not needed to generate: it stays here.
        layout = self.model.parameters
        vector = self.model.get_vector()
        kept = layout.parts["generator"]
        tensors = {
            name: vector[place].view(layout.shapes[name])
            for name, place in layout.slices.items()
            if kept.start <= place.start < kept.stop
        }
        # Every choice, also those left to their defaults, which a later version may change.
        config = {k: list(v) if isinstance(v, tuple) else v for k, v in self._choices().items()}
        meta = {
            "method": self.method,
            "config": config,
            "encoder": self.encoder.to_dict(),
            "encoder_sha256": self.encoder.digest,
            "parameters_sha256": layout.of_part("generator").digest,
            "privacy": self.privacy,
        }
        write_file(path, Contents("model", meta, tensors))

    def _choices(self) -> dict[str, Any]:
        """The whole config of the model."""
        choices: dict[str, Any] = dataclasses.asdict(self.model.config)
        return choices

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "auto") -> Synthesizer:
        """Read a model file.

        Generation draws a seed of its own, so that two programs that load the same file do not
        generate the same rows unless they ask for it.

        Args:
            path: What `save` wrote.
            device: Where it generates.

        Raises:
            ModelFileError: It is missing, damaged, no model, or of another version.
        """
        contents = read_file(path, "model")
        meta = contents.meta
        try:
            encoder = Encoder.from_dict(meta["encoder"])
            # "auto" is what there is here, whatever the config wanted where it was trained.
            built = cls(meta["method"], meta["config"], device=resolve_device(device))
            model = built._adopt(encoder)
            if model.parameters.of_part("generator").digest != meta["parameters_sha256"]:
                raise ModelFileError(f"{path} holds a model of another architecture")
            vector = model.get_vector()
            for name, tensor in contents.tensors.items():
                vector[model.parameters.slices[name]] = tensor.reshape(-1).float()
            model.set_vector(vector)
            built.privacy = meta.get("privacy")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, GenesisError):
                raise
            raise ModelFileError(f"{path} is damaged", do="write or fetch it again") from error
        return built

    def to_ctgan(self) -> Any:
        """A `ctgan.CTGAN` or `ctgan.TVAE` whose own `sample` generates what this model does.

        It holds released frequencies instead of training rows.

        Raises:
            PlanError: Nothing was fitted yet.
        """
        from genesis.models.exchange import to_library

        return to_library(self.model, self.encoder)  # type: ignore[arg-type]

    @classmethod
    def from_ctgan(
        cls, fitted: Any, *, seed: int | None = None, device: str | torch.device = "auto"
    ) -> Synthesizer:
        """A synthesizer that generates what a fitted `ctgan.CTGAN` or `ctgan.TVAE` does.

        Args:
            fitted: The library's synthesizer.
            seed: Decides what is generated.
            device: Where it generates.

        Raises:
            PlanError: It is not fitted, or nothing that ctgan makes.
        """
        from genesis.models.exchange import from_library

        encoder, model = from_library(fitted)
        config = dataclasses.asdict(model.config)
        built = cls(model.name, config, seed=seed, device=device)
        built._adopt(encoder).set_vector(model.get_vector())
        return built


def _rows(
    values: Mapping[str, npt.NDArray[Any]], rows: npt.NDArray[Any]
) -> dict[str, npt.NDArray[Any]]:
    """Some rows of decoded columns."""
    return {name: column[rows] for name, column in values.items()}


def _promise(
    privacy: Mapping[str, Any] | None, method: str, config: Mapping[str, Any]
) -> Privacy | None:
    """What is promised to the records of one table.

    Raises:
        PlanError: It cannot be kept here, or not with this config.
    """
    promise = promise_of(suited(method, privacy))
    if promise is not None:
        check_private_config(method, config)
    return promise
