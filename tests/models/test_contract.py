"""What every model owes its callers: see `genesis.models.GenerativeModel`."""

import numpy as np
import pytest
import torch

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, DataError, GenesisError, PlanError, TrainingError
from genesis.models import MODELS, LocalTraining, create_model, model_class

SMALL = {
    "ctgan": {"embedding_dim": 8, "generator_dim": (16, 8), "discriminator_dim": (16, 8)},
    "tvae": {"embedding_dim": 8, "compress_dims": (16, 8), "decompress_dims": (8, 16)},
}
SEED = (7, 1)


@pytest.fixture(params=list(MODELS))
def name(request):
    return request.param


def local(epochs=1, first_epoch=0, **others):
    return LocalTraining(epochs, 20, SEED, first_epoch=first_epoch, **others)


def rng():
    return np.random.default_rng(0)


def test_vector_round_trip(name, layout):
    model = create_model(name, layout, SMALL[name], seed=1)
    vector = torch.randn(model.parameters.size, generator=torch.Generator().manual_seed(0))
    model.set_vector(vector)
    assert torch.equal(model.get_vector(), vector)
    model.get_vector().zero_()
    assert torch.equal(model.get_vector(), vector)


def test_vector_of_another_model_is_refused(name, mixed):
    model = create_model(name, mixed, SMALL[name])
    with pytest.raises(GenesisError, match=f"{model.parameters.size} parameters"):
        model.set_vector(torch.zeros(3))


def test_parts_cover_the_vector(name, mixed):
    parameters = create_model(name, mixed, SMALL[name]).parameters
    assert "generator" in parameters.parts
    assert sum(part.stop - part.start for part in parameters.parts.values()) == parameters.size


def test_seed_decides_the_initial_parameters(name, mixed):
    state = torch.get_rng_state()
    first, again, other = (create_model(name, mixed, {}, seed=s).get_vector() for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_trains_the_same_way_twice(name, layout, make_rows):
    rows, state = make_rows(layout, 50, unknown=0.1), torch.get_rng_state()
    results = []
    for _ in range(2):
        model = create_model(name, layout, SMALL[name])
        losses = model.train(rows, local(epochs=2))
        assert all(np.isfinite(loss) for loss in losses.values())
        results.append((losses, model.get_vector()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(create_model(name, layout, SMALL[name]).get_vector(), results[0][1])
    assert torch.equal(torch.get_rng_state(), state)


def test_split_epochs_are_the_same_epochs(name, mixed, make_rows):
    """Two calls of three epochs, in two processes as it were, equal one call of six."""
    rows = make_rows(mixed, 50)
    whole, first, second = (create_model(name, mixed, SMALL[name]) for _ in range(3))
    losses = whole.train(rows, local(epochs=6))
    first.train(rows, local(epochs=3))
    second.set_vector(first.get_vector())
    second.load_optimiser_state(first.optimiser_state())
    assert second.train(rows, local(epochs=3, first_epoch=3)) == losses
    assert torch.equal(second.get_vector(), whole.get_vector())


def test_optimiser_state_can_be_dropped(name, mixed, make_rows):
    rows, model = make_rows(mixed, 50), create_model(name, mixed, SMALL[name])
    start = model.get_vector()
    assert model.optimiser_state() == {}
    model.train(rows, local())
    once = model.get_vector()
    for fresh in (False, True):
        model.set_vector(start)
        if fresh:
            model.load_optimiser_state({})
        model.train(rows, local())
        assert torch.equal(model.get_vector(), once) is fresh


def test_learning_rate_scale(name, mixed, make_rows):
    model = create_model(name, mixed, SMALL[name])
    start = model.get_vector()
    model.train(make_rows(mixed, 50), local(learning_rate_scale=0.0))
    assert torch.equal(model.get_vector(), start)


def test_proximal_pull_keeps_near(name, mixed, make_rows):
    moved = []
    for mu in (0.0, 100.0):
        model = create_model(name, mixed, SMALL[name])
        start = model.get_vector()
        model.train(make_rows(mixed, 50), local(epochs=10, proximal_mu=mu))
        moved.append(float((model.get_vector() - start).norm()))
    assert moved[1] < 0.5 * moved[0]


def test_mean_gradient_is_uncorrected(name, mixed, make_rows):
    """At learning rate 0 all steps see the same weights, whatever is added to the gradient."""
    rows, means = make_rows(mixed, 50), []
    for correction in (None, 1.0):
        model = create_model(name, mixed, SMALL[name])
        if correction is not None:
            correction = torch.full((model.parameters.size,), correction)
        model.train(rows, local(learning_rate_scale=0.0, correction=correction))
        means.append(model.mean_gradient())
    assert means[0].shape == (model.parameters.size,)
    assert means[0].abs().max() > 0
    assert torch.equal(*means)


def test_correction_moves_the_weights(name, mixed, make_rows):
    """A correction that outweighs all gradients makes every weight fall."""
    model = create_model(name, mixed, SMALL[name])
    start = model.get_vector()
    model.train(make_rows(mixed, 20), local(correction=torch.full_like(start, 1e6)))
    assert (model.get_vector() < start).all()


@pytest.mark.parametrize("n", [1, 3, 47])
def test_trains_on_few_rows(name, layout, n, make_rows):
    model = create_model(name, layout, SMALL[name])
    model.train(make_rows(layout, n), local(epochs=2))


def test_trains_on_unknown_categories_alone(name, mixed, make_rows):
    create_model(name, mixed, SMALL[name]).train(make_rows(mixed, 30, unknown=1.0), local())


def test_no_rows_cannot_be_trained_on(name, mixed, make_rows):
    with pytest.raises(DataError, match="no rows"):
        create_model(name, mixed, SMALL[name]).train(make_rows(mixed, 0), local())


def test_rows_are_left_alone(name, mixed, make_rows):
    rows, same = make_rows(mixed, 50, unknown=0.2), make_rows(mixed, 50, unknown=0.2)
    create_model(name, mixed, SMALL[name]).train(rows, local())
    np.testing.assert_array_equal(rows.codes, same.codes)
    np.testing.assert_array_equal(rows.scalars, same.scalars)


@pytest.mark.parametrize("n", [0, 1, 37, 9001])
def test_generates_any_number_of_rows(name, layout, n):
    rows = create_model(name, layout, SMALL[name]).generate(n, None, rng())
    assert rows.scalars.shape == (n, layout.n_scalars)
    assert rows.codes.shape == (n, layout.n_blocks)
    assert (rows.scalars.dtype, rows.codes.dtype) == (np.float32, np.int32)
    assert (np.abs(rows.scalars) <= 1).all()
    assert ((rows.codes >= 0) & (rows.codes < layout.block_widths)).all()


def test_generation_is_reproducible(name, mixed, make_rows):
    model = create_model(name, mixed, SMALL[name])
    first, again = (model.generate(100, None, rng()) for _ in range(2))
    np.testing.assert_array_equal(first.codes, again.codes)
    np.testing.assert_array_equal(first.scalars, again.scalars)
    # Parameters alone decide, not what the model did before it got them.
    other = create_model(name, mixed, SMALL[name], seed=5)
    other.train(make_rows(mixed, 50), local())
    other.generate(3, None, rng())
    other.set_vector(model.get_vector())
    np.testing.assert_array_equal(other.generate(100, None, rng()).scalars, first.scalars)


def test_every_row_satisfies_the_condition(name, mixed):
    """Blocks of modes and of categories, several at once."""
    allowed = {
        0: np.array([False, True, False, True]),
        3: np.array([False, False, True, False, True]),
        4: np.array([True, False]),
    }
    condition = Condition(allowed)
    rows = create_model(name, mixed, SMALL[name]).generate(500, condition, rng())
    assert condition.holds(rows.codes).all()


def test_a_condition_may_be_a_wish(name, mixed):
    """A model that is only told may miss; what it could not be told changes nothing."""
    model = create_model(name, mixed, SMALL[name])
    told = Condition({0: np.array([False, True, False, False])}, enforced=False)
    rows = model.generate(500, told, rng())
    assert not told.holds(rows.codes).all()
    np.testing.assert_array_equal(rows.codes, model.generate(500, None, rng()).codes)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({2: np.zeros(3, dtype=bool)}, "allows no code of block 2"),
        ({2: np.ones(4, dtype=bool)}, "block 2 does not fit"),
        ({9: np.ones(3, dtype=bool)}, "block 9 does not fit"),
    ],
)
def test_impossible_conditions(name, mixed, allowed, message):
    model = create_model(name, mixed, SMALL[name])
    with pytest.raises(ConditionError, match=message):
        model.generate(1, Condition(allowed), rng())


def test_rows_are_scored_one_by_one(name, layout, make_rows):
    """Finite, reproducible, and the same in whatever company a row comes."""
    rows = make_rows(layout, 70, unknown=0.2)
    model = create_model(name, layout, SMALL[name], seed=1)
    scores = model.row_scores(rows, rng())
    assert scores
    order = np.random.default_rng(3).permutation(70)
    some = model.row_scores(rows.take(order[:9]), rng())
    none = model.row_scores(rows.take(slice(0)), rng())
    for key, each in scores.items():
        assert each.shape == (70,)
        assert each.dtype == np.float64
        assert np.isfinite(each).all()
        np.testing.assert_array_equal(model.row_scores(rows, rng())[key], each)
        np.testing.assert_allclose(some[key], each[order[:9]], rtol=1e-4, atol=1e-4)
        assert none[key].shape == (0,)


def test_scoring_changes_nothing(name, mixed, make_rows):
    model, state = create_model(name, mixed, SMALL[name]), torch.get_rng_state()
    vector, rows = model.get_vector(), model.generate(20, None, rng())
    model.row_scores(make_rows(mixed, 30), rng())
    assert torch.equal(model.get_vector(), vector)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(model.generate(20, None, rng()).codes, rows.codes)


def test_the_generator_alone_scores_without_the_rest(name, mixed, make_rows):
    """What a model file lacks may be anything."""
    model, rows = create_model(name, mixed, SMALL[name]), make_rows(mixed, 30)
    every, scores = (model.row_scores(rows, rng(), generator_only=only) for only in (False, True))
    assert scores.keys() < every.keys()
    vector, place = model.get_vector(), model.parameters.parts["generator"]
    lost = torch.full_like(vector, torch.nan)
    lost[place] = vector[place]
    model.set_vector(lost)
    for key, each in model.row_scores(rows, rng(), generator_only=True).items():
        np.testing.assert_array_equal(each, scores[key])


def test_rows_like_those_of_training_score_higher(name, mixed, make_rows):
    """Than rows in which what was frequent is rare."""
    model, rows = create_model(name, mixed, SMALL[name]), make_rows(mixed, 400)
    model.train(rows, local(epochs=20))
    mirrored = Codes(rows.scalars, np.array(mixed.block_widths, np.int32) - 1 - rows.codes)
    others = model.row_scores(mirrored, rng())
    for key, each in model.row_scores(rows, rng()).items():
        assert each.mean() > others[key].mean()


def test_divergence_is_undone(name, mixed, make_rows):
    rows, model = make_rows(mixed, 50), create_model(name, mixed, SMALL[name])
    model.train(rows, local())
    vector, state = model.get_vector(), model.optimiser_state()
    rows.scalars[7] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        model.train(rows, local(epochs=3, first_epoch=1))
    assert torch.equal(model.get_vector(), vector)
    after = model.optimiser_state()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[key], state[key]) for key in state)


def test_a_last_step_that_diverges_is_undone(name, mixed, make_rows):
    """Every loss is finite, the parameters after the last step are not."""
    model = create_model(name, mixed, SMALL[name])
    vector = model.get_vector()
    with pytest.raises(TrainingError):
        model.train(make_rows(mixed, 20), local(learning_rate_scale=float("inf")))
    assert torch.equal(model.get_vector(), vector)


def test_configs_are_checked(name):
    check = model_class(name).check_config
    check({"verbose": True, "enable_gpu": False, "cuda": "cuda:0", "epochs": 3})
    with pytest.raises(PlanError, match="did you mean embedding_dim"):
        check({"embeding_dim": 3})
    for wrong in (0, 1.5, True, "8", None):
        with pytest.raises(PlanError, match=r"'embedding_dim' of .* needs a whole number"):
            check({"embedding_dim": wrong})
    with pytest.raises(PlanError, match=r"'verbose' of .* needs true or false"):
        check({"verbose": 1})
    for key in SMALL[name]:
        if key.endswith(("dim", "dims")) and key != "embedding_dim":
            for wrong in (3, "12", [0], [1.5]):
                with pytest.raises(PlanError, match=f"'{key}' of .* needs a list"):
                    check({key: wrong})


def test_the_reference_configs_are_known(name):
    """Every argument of the reference is accepted with its default, which is ours but for pac."""
    import inspect

    import ctgan

    reference = {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}[name]
    arguments = inspect.signature(reference).parameters
    defaults = {key: argument.default for key, argument in arguments.items()}
    model = create_model(name, Layout((2,), (2,)), defaults)
    ours = {"pac": 10} if name == "ctgan" else {}
    assert model.parameters.digest == create_model(name, Layout((2,), (2,)), ours).parameters.digest


def test_ctgan_batches_divide_into_packs(mixed, make_rows):
    check = model_class("ctgan").check_config
    check({"batch_size": 60, "pac": 6})
    with pytest.raises(
        PlanError, match="got batch_size 500 and pac 7; choose batch_size 497 or 504"
    ):
        check({"pac": 7})
    model = create_model("ctgan", mixed, {"pac": 10})
    with pytest.raises(PlanError, match="batch_size 25 and pac 10"):
        model.train(make_rows(mixed, 50), LocalTraining(1, 25, SEED))


@pytest.mark.parametrize("wrong", [1, 1.0, -0.1, "0.5", None])
def test_dropout_is_a_share(wrong):
    with pytest.raises(PlanError, match="'discriminator_dropout' of ctgan needs a number ≥ 0 and"):
        model_class("ctgan").check_config({"discriminator_dropout": wrong})


def test_ctgan_steps(mixed, make_rows):
    """rows // batch steps in an epoch, and so many of the critic for each of the generator."""
    model = create_model("ctgan", mixed, {**SMALL["ctgan"], "discriminator_steps": 2})
    model.train(make_rows(mixed, 59), local(epochs=3))
    state = model.optimiser_state()
    assert state["generator.step"] == 6
    assert state["discriminator.step"] == 12


def test_tvae_steps(mixed, make_rows):
    """The last, short batch counts."""
    model = create_model("tvae", mixed, SMALL["tvae"])
    model.train(make_rows(mixed, 41), local(epochs=3))
    assert model.optimiser_state()["adam.step"] == 9


def test_ctgan_generates_by_frequency(mixed):
    """A generator that obeys its condition gives categories as often as they were released."""
    frequencies = np.ones(sum(mixed.block_widths))
    frequencies[-10:] = [60.0, 40, 0, 10, 10, 10, 10, 60, 90, 10]
    config = {**SMALL["ctgan"], "calibrate": False}
    model = create_model("ctgan", mixed, config, frequencies=frequencies)
    # Make the output of every category its own condition.
    output = model.weights["generator.seq.2.weight"]
    output.zero_()
    output[-mixed.condition_width :, -mixed.condition_width :].fill_diagonal_(50.0)
    model.weights["generator.seq.2.bias"].zero_()
    codes = model.generate(30_000, None, rng()).codes
    # A column is conditioned on in a third of the rows, and uniform in the others.
    share = np.bincount(codes[:, 4], minlength=2) / 30_000
    assert share == pytest.approx([0.9 / 3 + 1 / 3, 0.1 / 3 + 1 / 3], abs=0.02)
    condition = Condition({4: np.array([True, True])})
    share = np.bincount(model.generate(30_000, condition, rng()).codes[:, 4]) / 30_000
    assert share == pytest.approx([0.9, 0.1], abs=0.02)
    told = Condition({4: np.array([False, True])}, enforced=False)
    assert (model.generate(100, told, rng()).codes[:, 4] == 1).all()


@pytest.mark.parametrize("name", ["ctgan", "tvae"])
def test_codes_are_calibrated(name, mixed):
    """Whatever the network makes, its codes are as frequent as was released."""
    counts = rng().integers(1, 100, sum(mixed.block_widths)).astype(float)
    counts[-3] = 0
    model = create_model(name, mixed, SMALL[name], frequencies=counts, seed=3)
    codes = model.generate(40_000, None, rng()).codes
    for block, wanted in enumerate(np.split(counts, np.cumsum(mixed.block_widths)[:-1])):
        share = np.bincount(codes[:, block], minlength=len(wanted)) / 40_000
        assert share == pytest.approx(wanted / wanted.sum(), abs=0.015)
