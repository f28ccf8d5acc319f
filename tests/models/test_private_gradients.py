"""Private steps against single records: autograd twice, one record at a time, and vmap."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional

from genesis.codes import Codes, Layout
from genesis.errors import DataError, PlanError, TrainingError
from genesis.models import LocalTraining, create_model
from genesis.models.ctgan import CTGAN
from genesis.models.dense import Dense, RecordGradients, set_clipped
from genesis.models.matmul import fast_matmul
from genesis.models.rows import TrainingRows
from genesis.models.sampler import ReleasedSampler
from genesis.models.tvae import TVAE
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.noise import repeatable_noise

POOL = 30
CONFIGS = {
    "ctgan": {"embedding_dim": 5, "pac": 1, "generator_dim": (8,), "discriminator_dim": (12, 9)},
    "tvae": {"embedding_dim": 4, "compress_dims": (11, 9), "decompress_dims": (8, 10)},
}
SHAPES = {
    "ctgan": [{}, {"discriminator_dim": (16,)}, {"discriminator_dropout": 0.0}],
    "tvae": [{}, {"compress_dims": (), "decompress_dims": ()}],
}
EVERY = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
BOUNDS = {"none is clipped": 1e9, "some are": 30.0, "all are": 1e-3}

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@dataclass(frozen=True)
class Chosen(PrivateSteps):
    """A batch that was chosen by hand, without noise; it remembers the squared norms."""

    records: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()

    def batch(self, n, device):
        return torch.tensor(self.records, dtype=torch.int64)

    def entries(self, n, device):
        # A batch is padded; what comes after the records counts nothing.
        return functional.pad(torch.tensor(self.taken, dtype=torch.int64), (0, n - len(self.taken)))

    def factors(self, squared_norms):
        object.__setattr__(self, "squared_norms", squared_norms)
        return super().factors(squared_norms)


def chosen(bound, records, taken):
    return Chosen(bound, 0.0, 0.5, POOL, 1, records=tuple(records), taken=tuple(taken))


def drawn(n, **changes):
    """Steps that draw their batches, from as many records as are wanted in a batch."""
    steps = PrivateSteps(1.0, 0.0, min(1.0, POOL / max(n, 1)), POOL, 3)
    return replace(steps, **changes)


def build(name, layout, shape=None, dtype=torch.float64):
    cls = {"ctgan": CTGAN, "tvae": TVAE}[name]
    model = cls(layout, CONFIGS[name] | (shape or {}), seed=3, dtype=dtype)
    # Away from the start: weights as large as after some training, and sigmas that differ.
    generator = torch.Generator().manual_seed(1)
    vector = model.get_vector()
    model.set_vector(vector + 0.3 * torch.randn(vector.shape, dtype=dtype, generator=generator))
    if name == "tvae":
        model.weights["generator.sigma"].uniform_(0.3, 1.0, generator=generator)
    return model


def local(private, **changes):
    return LocalTraining(epochs=1, batch_size=7, seed=(0,), private=private, **changes)


def take_step(model, rows, private):
    """The gradient (p,) of one step, and the losses of its records: (n losses' arguments, loss)."""
    on_device = TrainingRows.of(rows, model.device, model.dtype)
    prepared = model.prepare(on_device, local(private))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad(), fast_matmul(model.device):
        if model.name == "ctgan":
            noise = model.draw_pool_noise(prepared, generator)
            model.private_critic_step(prepared, noise)
            return prepared, noise
        noise = model._normal(POOL, generator)
        model.private_step(on_device, noise, private)
        return prepared, noise[list(private.taken)]


def gradient(model):
    """(p,) of the part that learns from records, once more as the sum and not the mean."""
    part = {"ctgan": "discriminator.", "tvae": ""}[model.name]
    named = [g.flatten() for name, g in model.gradients.items() if name.startswith(part)]
    return torch.cat(named).clone() * POOL


# The losses of one record, as the papers write them, for autograd.


def score(weights, x, masks):
    for i, mask in enumerate(masks):
        layer = f"discriminator.seq.{3 * i}"
        x = functional.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        x = functional.leaky_relu(x, 0.2) * mask
    layer = f"discriminator.seq.{3 * len(masks)}"
    return functional.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).squeeze(-1)


def critic_loss(weights, fake, real, mixing, masks):
    of_fake, of_real, of_mixed = masks
    mixed = mixing * real + (1 - mixing) * fake
    slope = grad(lambda x: score(weights, x, of_mixed))(mixed)
    penalty = 10 * (slope.square().sum().sqrt() - 1) ** 2
    return score(weights, fake, of_fake) - score(weights, real, of_real) + penalty


def critic_arguments(model, rows, prepared, noise, private, one_hot):
    """Fake and real rows with their conditions, mixing numbers and masks: a row for each record."""
    records, entries = list(private.records), torch.tensor(private.taken, dtype=torch.int64)
    layout = model.layout
    real = torch.zeros(len(records), layout.width + layout.condition_width, dtype=model.dtype)
    real[:, : layout.width] = one_hot(rows, layout)[records]
    for i, (record, entry) in enumerate(zip(records, entries, strict=True)):
        if noise.columns is None:
            continue
        column = int(noise.columns[entry])
        code = int(rows.codes[record, layout.n_scalars + column])
        if code >= 0:
            real[i, layout.width + sum(layout.category_widths[:column]) + code] = 1
    masks = [[mask[entries + i * POOL] for mask in noise.dropout] for i in range(3)]
    return prepared.fake[entries], real, noise.mixing[entries], masks


def tvae_loss(weights, x, noise, known, layout, config):
    h = x
    for i in range(len(config.compress_dims)):
        h = functional.linear(h, *layer(weights, f"encoder.seq.{2 * i}")).relu()
    mu = functional.linear(h, *layer(weights, "encoder.fc1"))
    log_variance = functional.linear(h, *layer(weights, "encoder.fc2"))
    h = mu + noise * (log_variance / 2).exp()
    for i in range(len(config.decompress_dims)):
        h = functional.linear(h, *layer(weights, f"generator.seq.{2 * i}")).relu()
    last = f"generator.seq.{2 * len(config.decompress_dims)}"
    logits = functional.linear(h, *layer(weights, last))
    t = layout.n_scalars
    sigma = weights["generator.sigma"][:t]
    loss = ((x[:t] - logits[:t].tanh()) ** 2 / (2 * sigma**2) + sigma.log()).sum()
    blocks = zip(layout.block_starts[:-1], layout.block_widths, strict=True)
    for block, (start, width) in enumerate(blocks):
        log_p = logits[start : start + width].log_softmax(0)
        loss = loss - known[block] * (log_p * x[start : start + width]).sum()
    divergence = -0.5 * (1 + log_variance - mu**2 - log_variance.exp()).sum()
    return config.loss_factor * loss + divergence


def layer(weights, name):
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def oracle(model, rows, prepared, noise, private, one_hot):
    """A function of the weights and one record's arguments, and the arguments of all records."""
    if model.name == "ctgan":
        return critic_loss, critic_arguments(model, rows, prepared, noise, private, one_hot)
    records = list(private.records)
    known = torch.from_numpy(rows.codes >= 0)[records].double()
    arguments = one_hot(rows, model.layout)[records], noise, known
    return (
        lambda weights, x, e, k: tvae_loss(weights, x, e, k, model.layout, model.config),
        arguments,
    )


def single_gradients(model, loss, arguments):
    """(n, p) by autograd, one record after the other."""
    part = {"ctgan": "discriminator.", "tvae": ""}[model.name]
    names = [name for name in model.weights if name.startswith(part)]
    found = []
    for i in range(len(arguments[0])):
        weights = {n: model.weights[n].clone().requires_grad_() for n in names}
        value = loss(weights, *(pick(a, i) for a in arguments))
        value.backward()
        of_one = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights.values()]
        found.append(torch.cat([g.flatten() for g in of_one]))
    return torch.stack(found)


def vmap_gradients(model, loss, arguments):
    """(n, p) by torch.func, all records at once."""
    part = {"ctgan": "discriminator.", "tvae": ""}[model.name]
    weights = {n: w.clone() for n, w in model.weights.items() if n.startswith(part)}
    found = vmap(grad(loss), in_dims=(None, *(0 for _ in arguments)))(weights, *arguments)
    return torch.cat([g.flatten(1) for g in found.values()], 1)


def pick(argument, i):
    if isinstance(argument, list):
        return [pick(part, i) for part in argument]
    return argument[i]


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(("name", "shape"), EVERY)
def test_gradients_are_those_of_single_records(name, shape, bound, layout, make_rows, one_hot):
    """Norms, clipped sums, and both oracles the same."""
    model = build(name, layout, shape)
    rows = make_rows(layout, 12, unknown=0.2)
    # Entry 4 is taken twice, and record 5 does not take part.
    records = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    private = chosen(bound, records, [4, 9, 4, 0, POOL - 1, 1, 2, 3, 5, 6, 7])
    prepared, noise = take_step(model, rows, private)
    loss, arguments = oracle(model, rows, prepared, noise, private, one_hot)
    single = single_gradients(model, loss, arguments)
    norms = single.norm(dim=1)
    torch.testing.assert_close(vmap_gradients(model, loss, arguments), single, rtol=0, atol=1e-11)
    torch.testing.assert_close(private.squared_norms.sqrt(), norms, rtol=1e-12, atol=0)
    factors = (bound / norms).clamp(max=1)
    wanted = (factors.unsqueeze(1) * single).sum(0)
    assert (gradient(model) - wanted).norm() <= 1e-12 * wanted.norm()
    if bound == BOUNDS["all are"]:
        assert (norms > bound).all()


def test_gradients_add_up(mixed, make_rows):
    """What a record adds is its own affair, whoever else is in the batch, and at most C."""
    bound = 2.0
    for name in CONFIGS:
        model = build(name, mixed)
        rows = make_rows(mixed, 40)
        others = list(range(1, 40))

        def summed(records, model=model, rows=rows):
            take_step(model, rows, chosen(bound, records, [(7 * r) % POOL for r in records]))
            return gradient(model)

        alone = summed([0])
        assert 0 < alone.norm() <= bound * (1 + 1e-9)
        for company in ([5], others, others[:16]):
            torch.testing.assert_close(
                summed([0, *company]) - summed(company), alone, rtol=0, atol=1e-11
            )


def test_another_value_changes_one_contribution(mixed, make_rows):
    for name in CONFIGS:
        model = build(name, mixed)
        rows = make_rows(mixed, 6)
        others = make_rows(mixed, 6, seed=1)
        changed = Codes(rows.scalars.copy(), rows.codes.copy())
        changed.scalars[2], changed.codes[2] = others.scalars[2], others.codes[2]
        sums = []
        for table, records in ((rows, (0, 1, 2)), (changed, (0, 1, 2)), (rows, (0, 1))):
            take_step(model, table, chosen(1.0, records, records))
            sums.append(gradient(model))
        assert (sums[0] - sums[2]).norm() <= 1 + 1e-9
        assert (sums[1] - sums[2]).norm() <= 1 + 1e-9
        assert not torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_record_without_a_finite_gradient_counts_nothing(name, bad, mixed, make_rows):
    model = build(name, mixed, dtype=torch.float32)
    rows = make_rows(mixed, 5)
    take_step(model, rows, chosen(1.0, (0, 1, 3), (0, 1, 3)))
    wanted = gradient(model)
    rows.scalars[2] = bad
    take_step(model, rows, chosen(1.0, (0, 1, 2, 3), (0, 1, 2, 3)))
    torch.testing.assert_close(gradient(model), wanted, rtol=1e-4, atol=1e-5)
    take_step(model, rows, chosen(1.0, (2,), (2,)))
    assert (gradient(model) == 0).all()


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 30.0, 1e3, 1e8])
@pytest.mark.parametrize("name", CONFIGS)
def test_no_parameters_get_more_out_of_a_record(name, scale, mixed, make_rows):
    """Those that a hostile server might send, in float32, where large terms cancel."""
    model = build(name, mixed, {"discriminator_dropout": 0.0} if name == "ctgan" else None)
    vector = model.get_vector()
    for exponents in ((1, 1), (1, -1), (-1, 1)):
        factors = torch.ones_like(vector)
        for i, place in enumerate(model.parameters.slices.values()):
            factors[place] = scale ** exponents[i // 2 % 2]
        small = create_model(name, mixed, vars(model.config))
        small.set_vector((vector * factors).float())
        small.weights.get("generator.sigma", torch.ones(1)).clamp_(0.01, 1)
        for record in range(4):
            take_step(small, make_rows(mixed, 4), chosen(1e-2, (record,), (record,)))
            assert gradient(small).norm() <= 1e-2 * (1 + 1e-3)


@pytest.mark.parametrize(
    ("bound", "of_y", "of_x", "left"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (1.0, 1e3, 1e3, 1e-6),
        (1.0, 1e6, 1e6, 0.0),
        (1e-9, 1e9, 1e9, 1e-9),
        (1e-9, 1e-24, 1e17, 0.5),
    ],
)
def test_rounding_hides_no_gradient(bound, of_y, of_x, left):
    """Terms that cancel but for a share, and squares that are too small for float32."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        y = torch.randn(1, 1, 40, generator=generator) * of_y
        x = torch.randn(2, 1, 60, generator=generator) * of_x
        x[1] = x[0] + left * x[1]
        dy = torch.cat([y, -y * (1 + left * torch.rand(1, generator=generator).clamp(max=1))])
        layer = Dense(torch.empty(0), torch.empty(0), torch.empty(40, 60), torch.empty(40))
        steps = PrivateSteps(bound, 0.0, 0.5, 1, 1)
        set_clipped([RecordGradients(layer, dy, x, biased=2)], steps, 1)
        both = torch.cat([layer.weight_gradient.flatten(), layer.bias_gradient]).double()
        assert both.norm() <= bound * 1.01


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_leaves_nothing_to_the_next(name, mixed, make_rows):
    model, rows = build(name, mixed), make_rows(mixed, 10)
    quiet = chosen(1.0, (1, 2, 3), (4, 5, 6))
    take_step(model, rows, quiet)
    wanted = gradient(model)
    take_step(model, rows, replace(quiet, noise_multiplier=5.0))
    assert not torch.equal(gradient(model), wanted)
    take_step(model, rows, quiet)
    assert torch.equal(gradient(model), wanted)


@pytest.mark.parametrize("n", [0, 50])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_empty_batch_is_noise_alone(name, n, mixed, make_rows):
    """Its standard deviation is σC/B in every coordinate."""
    model = build(name, mixed, dtype=torch.float32)
    private = drawn(n, noise_multiplier=1.5, max_grad_norm=4.0, sample_rate=1e-12, steps=1)
    before = model.get_vector()
    losses = model.train(make_rows(mixed, n), local(private))
    assert all(map(np.isfinite, losses.values()))
    noise = model.mean_gradient()[private_place(model)] * POOL / (1.5 * 4.0)
    assert noise.std().item() == pytest.approx(1, abs=4 / np.sqrt(2 * len(noise)))
    assert noise.mean().item() == pytest.approx(0, abs=4 / np.sqrt(len(noise)))
    assert (noise != 0).all()
    assert (model.get_vector() != before)[private_place(model)].float().mean() > 0.99


@pytest.mark.parametrize("name", CONFIGS)
def test_noise_is_fresh(name, mixed, make_rows):
    """The same seed twice: different parameters."""
    vectors = []
    for _ in range(2):
        model = build(name, mixed, dtype=torch.float32)
        model.train(make_rows(mixed, 50), local(drawn(50, noise_multiplier=1.0)))
        vectors.append(model.get_vector())
    assert not torch.equal(*vectors)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_but_batches_depends_on_the_rows(name, mixed, make_rows):
    """Without noise and without a record in any batch, two tables make the same model."""
    vectors = []
    for rows in (make_rows(mixed, 50), make_rows(mixed, 83, unknown=0.5, seed=1)):
        model = build(name, mixed)
        private = drawn(50, sample_rate=1e-12, noise=repeatable_noise(0))
        model.train(rows, local(private))
        vectors.append(model.get_vector())
    assert torch.equal(*vectors)


@pytest.mark.parametrize("name", CONFIGS)
def test_batch_sizes_are_binomial(name, mixed, make_rows):
    """Through `train`, where batches are padded; the entries taken are spread over the pool."""
    n, q, steps = 60, 0.3, 300
    sizes, taken = [], []

    @dataclass(frozen=True)
    class Watched(PrivateSteps):
        def factors(self, squared_norms):
            sizes.append(len(squared_norms))
            return super().factors(squared_norms)

        def entries(self, n, device):
            taken.append(super().entries(n, device))
            return taken[-1]

    model = build(name, mixed, dtype=torch.float32)
    private = Watched(1.0, 1.0, q, POOL, steps, noise=repeatable_noise(4))
    model.train(make_rows(mixed, n), local(private))
    assert len(sizes) == steps
    assert np.mean(sizes) == pytest.approx(n * q, abs=4 * np.sqrt(n * q * (1 - q) / steps))
    assert np.var(sizes) == pytest.approx(n * q * (1 - q), rel=4 * np.sqrt(2 / steps))
    counts = torch.bincount(torch.cat(taken), minlength=POOL)
    assert len(counts) == POOL
    assert counts.min() > 0.7 * counts.float().mean()


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("rate", [1e-9, 0.01, 0.5, 0.97, 1.0])
def test_every_record_comes_with_the_same_chance(n, rate):
    private = PrivateSteps(1.0, 1.0, rate, 1, 1, noise=repeatable_noise(n))
    batches = [private.batch(n, torch.device("cpu")) for _ in range(400)]
    assert all((batch.diff() > 0).all() for batch in batches)
    counts = torch.bincount(torch.cat(batches), minlength=n).double()
    assert len(counts) == n
    deviation = np.sqrt(400 * rate * (1 - rate)) + 1e-9
    assert ((counts - 400 * rate).abs() < 5 * deviation + 1).all()
    together = torch.zeros(n, dtype=torch.float64)
    for batch in batches:
        if 0 in batch:
            together[batch] += 1
    # Whether the first record comes says nothing about the others.
    both = 400 * rate**2
    assert ((together[1:] - both).abs() < 5 * np.sqrt(both) + 1).all()


def test_steps_of_an_epoch(mixed, make_rows):
    for critic, for_one, of_generator in ((6, 1, 6), (7, 3, 2), (2, 5, 1)):
        model = build("ctgan", mixed, {"discriminator_steps": for_one}, torch.float32)
        model.train(make_rows(mixed, 50), local(drawn(50, steps=critic, noise_multiplier=1.0)))
        state = model.optimiser_state()
        assert int(state["discriminator.step"]) == critic
        assert int(state["generator.step"]) == of_generator
    model = build("tvae", mixed, dtype=torch.float32)
    model.train(make_rows(mixed, 50), local(drawn(50, steps=5)))
    assert int(model.optimiser_state()["adam.step"]) == 5


def test_records_may_not_be_scored_together(mixed, make_rows):
    model = create_model("ctgan", mixed, {"pac": 2})
    before = model.get_vector()
    with pytest.raises(PlanError, match="pac 1"):
        model.train(make_rows(mixed, 50), local(drawn(50)))
    with pytest.raises(PlanError, match="at least 2"):
        build("ctgan", mixed, dtype=torch.float32).train(
            make_rows(mixed, 50), local(drawn(50, batch_size=1))
        )
    assert torch.equal(model.get_vector(), before)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_decide_nothing(name, mixed, make_rows):
    """A loss that is not finite is no error; parameters that are not finite are one."""
    rows = make_rows(mixed, 50)
    rows.scalars[:] = np.nan
    model = build(name, mixed, dtype=torch.float32)
    losses = model.train(rows, local(drawn(50, noise_multiplier=1.0)))
    assert not all(map(np.isfinite, losses.values()))
    assert model.get_vector().isfinite().all()
    before = model.get_vector()
    with pytest.raises(TrainingError, match="diverged"):
        model.train(rows, local(drawn(50, noise_multiplier=np.inf)))
    assert torch.equal(model.get_vector(), before)
    with pytest.raises(DataError):
        model.train(make_rows(mixed, 0), local(None))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_mean_gradient_is_that_of_the_noisy_ones(name, mixed, make_rows):
    model = build(name, mixed)
    private = drawn(20, sample_rate=1.0, max_grad_norm=0.1, steps=1)
    model.train(make_rows(mixed, 20), local(private))
    mean = model.mean_gradient()[private_place(model)]
    assert 0 < mean.norm() <= 20 * 0.1 / POOL * (1 + 1e-9)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_trained_model_holds_no_row(name, mixed, make_rows):
    rows = make_rows(mixed, 50)
    rows.scalars[:] = np.float32(0.7312345)
    model = build(name, mixed, dtype=torch.float32)
    model.train(rows, local(drawn(50, sample_rate=1.0, noise_multiplier=1.0)))
    saved = pickle.dumps(model)
    assert rows.scalars.tobytes()[:4] not in saved
    assert model.get_vector().numpy().tobytes()[:400] in saved


def test_conditions_are_as_frequent_as_released_counts():
    """Naturally, with negative counts as 0 and uniformly where nothing was counted."""
    layout = Layout((2,), (3, 2))
    released = {(30.0, 10.0, -5.0, 0.0, -2.0): (0.375, 0.125, 0, 0.25, 0.25), None: (1 / 6,) * 3}
    for counts, wanted in released.items():
        frequencies = None if counts is None else np.array(counts)
        sampler = ReleasedSampler(layout, frequencies, torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        found = torch.bincount(sampler.conditions(40_000, generator), minlength=5) / 40_000
        for i, share in enumerate(wanted):
            assert found[i].item() == pytest.approx(share, abs=0.01)
            assert share or not found[i]
        columns = torch.bincount(sampler.columns(40_000, generator)) / 40_000
        assert columns.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    counts = np.array([3.0, 4.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    model = CTGAN(layout, {"pac": 1}, frequencies=counts)
    prepared = model.prepare(None, local(drawn(50, batch_size=500)))
    noise = model.draw_pool_noise(prepared, generator)
    assert set(noise.conditions.tolist()) == {2, 3}
    assert set(model.draw_generator_noise(prepared, generator).conditions.tolist()) == {2, 3}
    codes = torch.tensor([[0, 2, 1], [1, -1, 0], [1, 0, 1]], dtype=torch.int32)
    assert sampler.own_conditions(codes, torch.tensor([0, 0, 1])).tolist() == [2, -1, 4]


def private_place(model):
    """Where the parameters that learn from records lie in the vector."""
    return model.parameters.parts["discriminator"] if model.name == "ctgan" else slice(None)
