"""Models that move to ctgan and back."""

import pickle
from dataclasses import asdict

import ctgan
import numpy as np
import pandas as pd
import pytest
import torch

from genesis.codes import Condition
from genesis.errors import ConditionError, PlanError
from genesis.models.ctgan import CTGAN
from genesis.models.exchange import from_library, to_library
from genesis.models.tvae import TVAE
from genesis.synthesizer import Synthesizer

SMALL = {
    "ctgan": {
        "embedding_dim": 8,
        "generator_dim": (16, 8),
        "discriminator_dim": (16,),
        "epochs": 2,
    },
    "tvae": {"embedding_dim": 8, "compress_dims": (16,), "decompress_dims": (16, 8), "epochs": 2},
}
OURS, THEIRS = {"ctgan": CTGAN, "tvae": TVAE}, {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}
DISCRETE = ["town", "sick", "grade"]

pytestmark = pytest.mark.parametrize("name", list(OURS))


@pytest.fixture(scope="module")
def table():
    """Numeric columns between discrete ones, so that the orders of the features differ."""
    rng = np.random.default_rng(0)
    n = 300
    return pd.DataFrame(
        {
            "town": rng.choice(["Ulm", "Bonn", "Kiel"], n, p=[0.7, 0.2, 0.1]),
            "age": rng.integers(18, 90, n),
            "sick": rng.random(n) < 0.3,
            "dose": np.concatenate([rng.normal(0, 1, n // 2), rng.normal(20, 3, n - n // 2)]),
            "grade": rng.choice(np.array(["a", "b", None], dtype=object), n),
        }
    )


@pytest.fixture
def fitted(name, table):
    """A ctgan model, fitted without progress bars or threads."""
    torch.manual_seed(0)
    library = THEIRS[name](**SMALL[name], batch_size=100, enable_gpu=False)
    library.fit(table, DISCRETE)
    return library


@pytest.fixture
def synthesizer(name, table):
    return Synthesizer(name, SMALL[name], seed=0, device="cpu").fit(table, DISCRETE)


def logits(library, inputs):
    """What ctgan's generator or decoder makes of inputs."""
    if isinstance(library, ctgan.CTGAN):
        return library._generator(inputs).detach()
    return library.decoder(inputs)[0].detach()


def transformer(library):
    return vars(library).get("_transformer") or library.transformer


def test_ctgan_samples_from_our_parameters(synthesizer, table):
    state = torch.get_rng_state()
    library = to_library(synthesizer.model, synthesizer.encoder)
    assert torch.equal(torch.get_rng_state(), state)
    rows = library.sample(321)
    assert list(rows.columns) == list(table.columns)
    assert (rows.dtypes == synthesizer.generate(1).dtypes).all()
    assert len(rows) == 321
    assert set(rows["town"]) <= set(table["town"])
    assert rows["age"].between(table["age"].min(), table["age"].max()).all()


def test_ctgan_decodes_our_logits(name, synthesizer):
    """The same latent numbers give the same codes, up to each side's way to normalise."""
    model = synthesizer.model
    library = to_library(model, synthesizer.encoder)
    generator = torch.Generator().manual_seed(0)
    if name == "tvae":
        z = torch.randn(50, 8, generator=generator)
        ours = model._output.columns(
            torch.relu(model._decompress[1](torch.relu(model._decompress[0](z))))
        ).t()
    else:
        hidden = model._hidden_drawer(None)(50, generator)
        ours = model.generator.forward(hidden)[0].t()
        z = hidden[:, -model.layout.condition_width - 8 :]
    torch.testing.assert_close(logits(library, z), ours, rtol=0, atol=1e-4)


def test_random_state_of_ctgan_counts(synthesizer):
    samples = []
    for _ in range(2):
        library = to_library(synthesizer.model, synthesizer.encoder)
        library.set_random_state(3)
        samples.append(library.sample(50))
    pd.testing.assert_frame_equal(*samples)


def test_no_row_goes_along(synthesizer, table):
    """A pickle of the model holds less than the rows would take, however many there were."""
    library = to_library(synthesizer.model, synthesizer.encoder)
    kept = dict(vars(library))
    for module in ("_generator", "decoder"):
        kept.pop(module, None)
    many = pd.concat([table] * 100, ignore_index=True)
    assert len(pickle.dumps(kept)) < many.memory_usage(deep=True).sum() / 50


def test_ctgan_parameters_come_over(name, fitted):
    """The same inputs give the same logits, in our order of features."""
    encoder, model = from_library(fitted)
    assert isinstance(model, OURS[name])
    assert model.config.embedding_dim == 8
    assert model.config.batch_size == 100
    back = to_library(model, encoder)
    width = 8 + (encoder.layout.condition_width if name == "ctgan" else 0)
    inputs = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    spans = [s for column in transformer(fitted).output_info_list for s in column]
    pieces = logits(fitted, inputs).split([s.dim for s in spans], dim=1)
    scalars = [p for p, s in zip(pieces, spans, strict=True) if s.activation_fn == "tanh"]
    # town | age | sick | dose | grade
    town, _, age, sick, _, dose, grade = pieces
    ours = torch.cat([*scalars, age, dose, town, sick, grade], dim=1)
    torch.testing.assert_close(logits(back, inputs), ours, rtol=0, atol=1e-6)


def test_both_decode_alike(fitted, table):
    """Our encoder reads what ctgan encoded, and writes what ctgan decodes."""
    encoder, _ = from_library(fitted)
    rng = np.random.default_rng(0)
    rows = encoder.decode(encoder.encode(table, rng), rng)
    theirs = transformer(fitted)
    np.random.seed(0)
    expected = theirs.inverse_transform(theirs.transform(table))
    for column in ("town", "sick", "grade"):
        assert (rows[column].fillna("null") == table[column].fillna("null")).all()
    # What lies outside all modes is cut off by both, at a mode drawn by each.
    close = np.isclose(rows["dose"], table["dose"]) & np.isclose(expected["dose"], table["dose"])
    assert close.mean() > 0.95
    assert (rows["age"] == table["age"]).mean() > 0.95


def test_a_foreign_model_generates(name, fitted, table):
    encoder, model = from_library(fitted)
    built = Synthesizer.of_parameters(
        name, asdict(model.config), encoder, model.get_vector(), seed=0, device="cpu"
    )
    rows = built.generate(200, where={"town": "Kiel"})
    assert (rows["town"] == "Kiel").all()
    assert list(rows.columns) == list(table.columns)
    if name == "ctgan":
        block = encoder.block_of["town"]
        counts = table["town"].value_counts()
        assert encoder.encodings[block].counts.tolist() == [
            counts[label] for label in encoder.encodings[block].labels
        ]
        condition = Condition({block: np.array([True, False, False])})
        assert len(model.generate(10, condition, np.random.default_rng(0))) == 10


def test_conditions_of_ctgan(name, synthesizer):
    library = to_library(synthesizer.model, synthesizer.encoder)
    if name == "ctgan":
        assert len(library.sample(20, "town", "Kiel")) == 20
    convert = transformer(library).convert_column_name_value_to_id
    assert convert("sick", True)["discrete_column_id"] == 1
    with pytest.raises(ConditionError, match="'age' is no discrete column"):
        convert("age", 30)
    with pytest.raises(ConditionError, match="column 'town' never has"):
        convert("town", "Rome")


def test_only_fitted_models_of_ctgan(name):
    with pytest.raises(PlanError, match="learned nothing"):
        from_library(THEIRS[name](enable_gpu=False))
    with pytest.raises(PlanError, match="is needed; got Linear"):
        from_library(torch.nn.Linear(1, 1))
