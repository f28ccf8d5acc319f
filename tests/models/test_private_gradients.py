"""Private steps against single records: autograd twice, one record at a time, and vmap."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from genesis.codes import Codes, Layout
from genesis.errors import DataError, PlanError, TrainingError
from genesis.models import LocalTraining, create_model
from genesis.models.ctgan import CTGAN
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
