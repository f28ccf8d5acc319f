"""Models to and from the reference implementation, the package ctgan.

`to_library` gives a ctgan.CTGAN or ctgan.TVAE whose `sample` works. Beside the parameters it holds
an encoder, fitted on released statistics, and released frequencies: no row, which a model trained
by ctgan itself keeps in its sampler. `from_library` goes the other way.

The orders of the features differ. ctgan has one column after the other, each with its scalar and
its modes; here scalars come first, modes second and categories last. A ctgan model tells discrete
columns by their having a single softmax, so all scalars and modes can be declared one column that
stands before them: then its order is ours, and parameters move to it as they are.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from genesis.codes import Codes, Layout
from genesis.encoding import ColumnEncoding
from genesis.encoding.discrete import DiscreteEncoding
from genesis.encoding.encoder import Encoder
from genesis.encoding.numeric import MODE_HALF_WIDTH, NumericEncoding
from genesis.errors import ConditionError, PlanError, nearest_names
from genesis.mixtures import Mixture
from genesis.models.ctgan import CTGAN, CTGANConfig
from genesis.models.sampler import generation_probabilities
from genesis.models.tvae import TVAE, TVAEConfig
from genesis.schema import Column, Kind, Schema
from genesis.values import labels

__all__ = ["ReleasedSampler", "ReleasedTransformer", "Span", "from_library", "to_library"]

_CALLERS = ("enable_gpu", "cuda", "verbose")
"""Options that say how to run a model, not what it is."""

_OURS = (
    "calibrate",
    "discriminator_dropout",
    "learning_rate",
    "least_sigma",
    "sample_codes",
    "sigma",
)
"""Options that ctgan does not have."""


class Span(NamedTuple):
    """Features that one activation works on: "tanh" or "softmax"."""

    dim: int
    activation_fn: str


class ReleasedTransformer:
    """Stands where a ctgan model has its data transformer, and decodes with an encoder of ours.

    Args:
        encoder: Decodes generated rows.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.output_info_list = _spans(encoder.layout)
        self.output_dimensions = encoder.layout.width

    def inverse_transform(
        self, data: npt.NDArray[Any], sigmas: npt.NDArray[Any] | None = None
    ) -> pd.DataFrame:
        """Rows of a table from activated features.

        Args:
            data: (n, F) features.
            sigmas: (F,) standard deviations of a TVAE's scalars.
        """
        # ctgan's set_random_state works through numpy's global state, so that is what is drawn on.
        rng = np.random.default_rng(np.random.randint(2**31))
        layout = self.encoder.layout
        scalars = data[:, : layout.n_scalars]
        if sigmas is not None:
            scalars = rng.normal(scalars, sigmas[: layout.n_scalars])
        codes = np.empty((len(data), layout.n_blocks), dtype=np.int32)
        for block, features in enumerate(np.split(data, layout.block_starts, axis=1)[1:-1]):
            codes[:, block] = features.argmax(axis=1)
        return self.encoder.decode(Codes(scalars.clip(-1, 1).astype(np.float32), codes), rng)

    def convert_column_name_value_to_id(self, column_name: str, value: Any) -> dict[str, int]:
        """The numbers of a discrete column and of one of its values.

        Raises:
            ConditionError: There is no such column, it is numeric, or it never has this value.
        """
        layout, known = self.encoder.layout, self.encoder.block_of
        block = known.get(column_name, -1)
        if block < layout.n_scalars:
            discrete = [name for name, place in known.items() if place >= layout.n_scalars]
            raise ConditionError(
                f"'{column_name}' is no discrete column", do=nearest_names(column_name, discrete)
            )
        series = pd.Series([value], dtype=object)
        _, codes = self.encoder.encodings[block].encode(series, np.random.default_rng(0))
        if codes[0] < 0:
            raise ConditionError(f"column '{column_name}' never has the value asked for")
        column = block - layout.n_scalars
        return {"discrete_column_id": column, "column_id": block, "value_id": int(codes[0])}


class ReleasedSampler:
    """Stands where a ctgan.CTGAN has the sampler of its training rows, and holds none.

    Args:
        layout: Layout of the encoded rows.
        frequencies: (C,) released counts, or None.
    """

    def __init__(self, layout: Layout, frequencies: npt.NDArray[np.float64] | None) -> None:
        self._starts = np.cumsum([0, *layout.category_widths])
        self._probabilities = generation_probabilities(layout, frequencies, None)

    def dim_cond_vec(self) -> int:
        """C, the width of the condition."""
        return len(self._probabilities)

    def sample_original_condvec(self, batch: int) -> npt.NDArray[np.float32] | None:
        """One-hot conditions (batch, C), drawn by frequency; None without discrete columns."""
        if not self.dim_cond_vec():
            return None
        drawn = np.random.choice(self.dim_cond_vec(), batch, p=self._probabilities)
        return self._one_hot(drawn)

    def generate_cond_from_condition_column_info(
        self, condition_info: dict[str, int], batch: int
    ) -> npt.NDArray[np.float32]:
        """The same one-hot condition for all rows: (batch, C)."""
        start = self._starts[condition_info["discrete_column_id"]]
        return self._one_hot(np.full(batch, start + condition_info["value_id"]))

    def _one_hot(self, conditions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) -> (n, C)."""
        vectors = np.zeros((len(conditions), self.dim_cond_vec()), dtype=np.float32)
        vectors[np.arange(len(conditions)), conditions] = 1
        return vectors


def to_library(model: CTGAN | TVAE, encoder: Encoder) -> Any:
    """A ctgan.CTGAN or ctgan.TVAE that generates what model does.

    Its `sample` differs in ways that are ctgan's own: a CTGAN normalises each batch by its own
    statistics and calibrates nothing, and a TVAE takes the likeliest code instead of drawing one.

    Args:
        model: The model.
        encoder: The encoder that its rows were made with.
    """
    import ctgan
    from ctgan.synthesizers.ctgan import Generator
    from ctgan.synthesizers.tvae import Decoder

    layout = model.layout
    if isinstance(model, CTGAN):
        library = ctgan.CTGAN(**_options(model.config), enable_gpu=False)
        library._transformer = ReleasedTransformer(encoder)
        library._data_sampler = ReleasedSampler(layout, model.category_frequencies)
        inputs = model.config.embedding_dim + layout.condition_width
        library._generator = _filled(Generator, inputs, model.config.generator_dim, model)
        return library
    library = ctgan.TVAE(**_options(model.config), enable_gpu=False)
    library.transformer = ReleasedTransformer(encoder)
    inputs = model.config.embedding_dim
    library.decoder = _filled(Decoder, inputs, model.config.decompress_dims, model)
    return library


def from_library(library: Any) -> tuple[Encoder, CTGAN | TVAE]:
    """The encoder and the model of a fitted ctgan.CTGAN or ctgan.TVAE.

    After training, ctgan throws away a CTGAN's critic and a TVAE's encoder: those parameters are
    fresh. A TVAE does not say either how frequent categories were: each counts once.

    Raises:
        PlanError: It is not fitted, or nothing that ctgan makes.
    """
    import ctgan

    cls: type[CTGAN | TVAE]
    if isinstance(library, ctgan.CTGAN):
        cls, transformer = CTGAN, library._transformer
        generator, sampler = library._generator, library._data_sampler
    elif isinstance(library, ctgan.TVAE):
        cls, transformer = TVAE, getattr(library, "transformer", None)
        generator, sampler = getattr(library, "decoder", None), None
    else:
        raise PlanError("a ctgan.CTGAN or ctgan.TVAE is needed", got=type(library).__name__)
    if generator is None:
        raise PlanError("this ctgan model has learned nothing yet", do="call its fit first")
    encoder = _encoder_of(transformer, sampler)
    model = cls(encoder.layout, _config_of(library, cls), frequencies=encoder.frequencies)
    vector = model.get_vector()
    views = model.parameters.views(vector)
    order = torch.as_tensor(_our_order(transformer))
    last = f"seq.{len(generator.seq) - 1}."
    for name, value in generator.named_parameters():
        by_feature = name.startswith(last) or name == "sigma"
        views[f"generator.{name}"].copy_(value.detach()[order] if by_feature else value.detach())
    model.set_vector(vector)
    return encoder, model


def _spans(layout: Layout) -> list[list[Span]]:
    """A layout in ctgan's words: what is numeric as one column, then the discrete columns."""
    numeric = [Span(1, "tanh")] * layout.n_scalars
    numeric += [Span(width, "softmax") for width in layout.mode_widths]
    discrete = [[Span(width, "softmax")] for width in layout.category_widths]
    return [numeric, *discrete] if numeric else discrete


def _options(config: CTGANConfig | TVAEConfig) -> dict[str, Any]:
    """Arguments for ctgan's constructor."""
    left_out = (*_CALLERS, *_OURS)
    options = {key: value for key, value in vars(config).items() if key not in left_out}
    # ctgan accepts even batches only; the size matters for sampling alone from here on.
    options["batch_size"] += options["batch_size"] % 2
    return options


def _filled(module: type[Any], inputs: int, dims: tuple[int, ...], model: CTGAN | TVAE) -> Any:
    """ctgan's generator or decoder with the parameters of model."""
    with torch.random.fork_rng(devices=[]):  # it draws parameters that are replaced at once
        filled = module(inputs, dims, model.layout.width)
    part = "generator."
    views = model.parameters.views(model.get_vector())
    ours = {name.removeprefix(part): view for name, view in views.items() if name.startswith(part)}
    filled.load_state_dict({**filled.state_dict(), **ours})
    return filled


def _config_of(library: Any, cls: type[CTGAN | TVAE]) -> dict[str, Any]:
    """The arguments that a ctgan model was made with; CTGAN keeps most behind an underscore."""
    names = fields(CTGANConfig if cls is CTGAN else TVAEConfig)
    config = {
        field.name: getattr(library, f"_{field.name}", getattr(library, field.name, None))
        for field in names
        if field.name not in (*_CALLERS, *_OURS)
    }
    return {key: value for key, value in config.items() if value is not None}


def _our_order(transformer: Any) -> list[int]:
    """Numbers of ctgan's features in our order: scalars, modes, categories."""
    scalars: list[int] = []
    modes: list[int] = []
    categories: list[int] = []
    start = 0
    for column in transformer._column_transform_info_list:
        stop = start + column.output_dimensions
        if column.column_type == "continuous":
            scalars.append(start)
            modes += range(start + 1, stop)
        else:
            categories += range(start, stop)
        start = stop
    return scalars + modes + categories


def _encoder_of(transformer: Any, sampler: Any) -> Encoder:
    """An encoder that encodes and decodes as ctgan's transformer does."""
    encodings: list[ColumnEncoding] = []
    rows = sampler._data_length if sampler else 0
    n_discrete = 0
    for column in transformer._column_transform_info_list:
        dtype = transformer._column_raw_dtypes[column.column_name]
        if column.column_type == "continuous":
            encodings.append(_numeric(column, dtype, rows))
            continue
        n = column.output_dimensions
        counts = [1] * n if sampler is None else map(len, sampler._rid_by_cat_cols[n_discrete])
        encodings.append(_discrete(column, dtype, np.array([*counts], dtype=np.int64)))
        n_discrete += 1
    return Encoder(Schema(tuple(e.column for e in encodings)), encodings, rows)


def _numeric(column: Any, dtype: Any, rows: int) -> NumericEncoding:
    """The Gaussian modes that ctgan uses of a column's mixture."""
    used = column.transform.valid_component_indicator
    fitted = column.transform._bgm_transformer
    weights = fitted.weights_[used] / fitted.weights_[used].sum()
    means = fitted.means_[used, 0]
    deviations = np.sqrt(fitted.covariances_[used]).reshape(-1)
    reach = MODE_HALF_WIDTH * deviations
    whole = pd.api.types.is_integer_dtype(dtype)
    return NumericEncoding(
        column=Column(column.column_name, Kind.NUMERIC, str(dtype), decimals=0 if whole else None),
        mixture=Mixture(weights, means, deviations),
        mode_counts=np.rint(weights * rows).astype(np.int64),
        atoms=np.empty(0),
        atom_counts=np.empty(0, dtype=np.int64),
        nulls=0,
        lower=float((means - reach).min()),
        upper=float((means + reach).max()),
    )


def _discrete(column: Any, dtype: Any, counts: npt.NDArray[np.int64]) -> DiscreteEncoding:
    """The categories of a column in ctgan's order, which has null last as ours has."""
    encoder = column.transform
    text = any(isinstance(category, str) for category in encoder.dummies)
    known = labels(pd.Series(encoder.dummies, dtype=object), text)[1][:-1]
    nulls = int(counts[-1]) if encoder._dummy_na else 0
    kind = Kind.BOOLEAN if pd.api.types.is_bool_dtype(dtype) else Kind.CATEGORICAL
    return DiscreteEncoding(
        column=Column(column.column_name, kind, str(dtype), nulls=nulls > 0),
        labels=tuple(known),
        label_counts=counts[: len(known)],
        tail=(),
        tail_counts=np.empty(0, dtype=np.int64),
        nulls=nulls,
    )
