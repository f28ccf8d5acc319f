"""One step of CTGAN against the reference implementation: same inputs, same noise."""

from types import SimpleNamespace

import ctgan
import numpy as np
import pytest
import torch
from ctgan.synthesizers.ctgan import Discriminator, Generator
from torch.nn import functional

from genesis.models import LocalTraining
from genesis.models.critic import draw_dropout
from genesis.models.ctgan import CTGAN
from genesis.models.matmul import fast_matmul
from genesis.models.rows import TrainingRows

BATCH = 40
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# Adam divides by the gradient's size and so makes the rounding of tiny gradients visible: in
# float32 only the first step can be compared.
STEPS = {torch.float64: 3, torch.float32: 1}
SHAPES = {
    "plain": {"pac": 10, "generator_dim": (32, 32), "discriminator_dim": (32, 32)},
    "uneven": {"pac": 1, "generator_dim": (64, 32, 16), "discriminator_dim": (64, 32, 16)},
    "shallow": {"pac": 4, "generator_dim": (), "discriminator_dim": (16,)},
}


class Reference:
    """The modules and losses of the reference implementation, with the noise put in."""

    def __init__(self, model, output_info, monkeypatch):
        config, layout = model.config, model.layout
        self.pac, self.dtype = config.pac, model.dtype
        self.widths = list(layout.block_widths)
        self.category_widths = layout.category_widths
        self.n_conditions = layout.condition_width
        inputs = config.embedding_dim + layout.condition_width
        self.generator = Generator(inputs, config.generator_dim, layout.width)
        width = layout.width + layout.condition_width
        self.critic = Discriminator(width, config.discriminator_dim, config.pac)
        self.losses = ctgan.CTGAN(enable_gpu=False)
        self.losses._transformer = SimpleNamespace(output_info_list=output_info)
        vector = model.parameters.views(model.get_vector())
        for part, module in self.parts().items():
            module.to(self.dtype)
            state = {n.removeprefix(f"{part}."): v for n, v in vector.items() if n.startswith(part)}
            module.load_state_dict(state, strict=False)
        self.optimisers = {
            "generator": self.adam(self.generator, config.generator_lr, config.generator_decay),
            "discriminator": self.adam(
                self.critic, config.discriminator_lr, config.discriminator_decay
            ),
        }
        self.monkeypatch = monkeypatch

    @staticmethod
    def adam(module, learning_rate, decay):
        return torch.optim.Adam(
            module.parameters(), lr=learning_rate, betas=(0.5, 0.9), weight_decay=decay
        )

    def parts(self):
        return {"generator": self.generator, "discriminator": self.critic}

    def put_noise(self, gumbel, dropout, mixing=None):
        """Serve the given noise wherever the reference implementation draws some."""
        blocks = list(gumbel.split(self.widths))
        masks = list(dropout)
        self.monkeypatch.setattr(
            functional,
            "gumbel_softmax",
            lambda logits, tau, **_: ((logits + blocks.pop(0).t()) / tau).softmax(1),
        )
        self.monkeypatch.setattr(functional, "dropout", lambda x, *_: x * masks.pop(0))
        if mixing is not None:
            self.monkeypatch.setattr(torch, "rand", lambda *_, **__: mixing.view(-1, 1, 1))

    def one_hot(self, conditions):
        if conditions is None:
            return torch.zeros(BATCH, 0, dtype=self.dtype)
        return functional.one_hot(conditions, self.n_conditions).to(self.dtype)

    def generate(self, noise):
        condition = self.one_hot(noise.conditions)
        logits = self.generator(torch.cat([noise.latent, condition], 1))
        activated = self.losses._apply_activate(logits)
        return logits, torch.cat([activated, condition], 1), condition

    def critic_gradient(self, noise, real):
        packs = len(noise.mixing)
        in_turn = [mask[i * packs : (i + 1) * packs] for i in range(3) for mask in noise.dropout]
        self.put_noise(noise.gumbel, in_turn, noise.mixing)
        _, fake, _ = self.generate(noise)
        real = torch.cat([real, self.one_hot(noise.real_conditions)], 1)
        loss = self.critic(fake).mean() - self.critic(real).mean()
        penalty = self.critic.calc_gradient_penalty(real, fake, "cpu", self.pac)
        self.monkeypatch.undo()
        self.critic.zero_grad()
        (loss + penalty).backward()
        return loss, penalty

    def generator_gradient(self, noise):
        self.put_noise(noise.gumbel, noise.dropout)
        logits, fake, condition = self.generate(noise)
        loss = -self.critic(fake).mean()
        self.monkeypatch.undo()
        condition_loss = torch.zeros(())
        if noise.conditions is not None:
            column_of = torch.repeat_interleave(torch.tensor(self.category_widths))
            columns = functional.one_hot(column_of[noise.conditions], len(self.category_widths))
            condition_loss = self.losses._cond_loss(logits, condition, columns)
        self.generator.zero_grad()
        (loss + condition_loss).backward()
        return loss, condition_loss


def named(module, part, *, biases_before_norm):
    """Parameters of a module by our names."""
    return {
        f"{part}.{name}": parameter
        for name, parameter in module.named_parameters()
        if biases_before_norm or not name.endswith("fc.bias")
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_the_reference(
    layout, shape, dtype, make_rows, one_hot, output_info, relative, monkeypatch
):
    """Losses and gradients of every step, and the parameters after the last."""
    config = {"embedding_dim": 8, **SHAPES[shape]}
    model = CTGAN(layout, config, seed=3, dtype=dtype)
    rows = make_rows(layout, 200, unknown=0.1)
    features = one_hot(rows, layout).to(dtype)
    reference = Reference(model, output_info(layout), monkeypatch)
    prepared = model.prepare(TrainingRows.of(rows, model.device, dtype), local(BATCH))
    generator = torch.Generator().manual_seed(0)
    tolerance = TOLERANCE[dtype]
    for _ in range(STEPS[dtype]):
        noise = model.draw_critic_noise(prepared, generator)
        with fast_matmul(model.device):
            ours = model.critic_step(prepared, noise)
        theirs = reference.critic_gradient(noise, features[noise.rows.long()])
        assert ours == pytest.approx([loss.item() for loss in theirs], rel=tolerance, abs=tolerance)
        check_gradients(model, reference.critic, "discriminator", relative, tolerance)
        model.optimisers["discriminator"].step()
        reference.optimisers["discriminator"].step()

        noise = model.draw_generator_noise(prepared, generator)
        with fast_matmul(model.device):
            ours = model.generator_step(prepared, noise)
        theirs = reference.generator_gradient(noise)
        assert ours == pytest.approx([loss.item() for loss in theirs], rel=tolerance, abs=tolerance)
        check_gradients(model, reference.generator, "generator", relative, tolerance)
        model.optimisers["generator"].step()
        reference.optimisers["generator"].step()
    if dtype is torch.float32:
        return
    after = model.parameters.views(model.get_vector())
    for part, module in reference.parts().items():
        for name, parameter in named(module, part, biases_before_norm=False).items():
            torch.testing.assert_close(after[name], parameter.detach(), rtol=0, atol=1e-9)


def check_gradients(model, module, part, relative, tolerance):
    """Biases before a batch normalisation cancel: theirs is rounding noise, ours is 0."""
    for name, parameter in named(module, part, biases_before_norm=False).items():
        if name == f"discriminator.seq.{3 * len(model.config.discriminator_dim)}.bias":
            # Fake and real rows cancel here, up to rounding.
            assert parameter.grad.abs() < 1e-6
            assert model.gradients[name] == 0
            continue
        assert relative(model.gradients[name], parameter.grad) < tolerance, name


def test_gradient_is_that_of_the_losses(mixed, make_rows):
    """Central differences along random directions, through every part of both steps."""
    model = CTGAN(mixed, {"embedding_dim": 8, "pac": 2, **dims((16, 8, 4))}, dtype=torch.float64)
    rows = TrainingRows.of(make_rows(mixed, 50), model.device, model.dtype)
    prepared = model.prepare(rows, local(20))
    generator = torch.Generator().manual_seed(0)
    steps = {
        "discriminator": (model.critic_step, model.draw_critic_noise(prepared, generator)),
        "generator": (model.generator_step, model.draw_generator_noise(prepared, generator)),
    }
    start = model.get_vector()
    for part, (step, noise) in steps.items():
        place = model.parameters.parts[part]
        step(prepared, noise)
        gradient = torch.cat([g.flatten() for g in model.gradients.values()])[place].clone()
        for _ in range(3):
            direction = torch.zeros_like(start)
            direction[place] = torch.randn(gradient.shape, dtype=start.dtype, generator=generator)
            direction /= direction.norm()
            losses = []
            for h in (1e-6, -1e-6):
                model.set_vector(start + h * direction)
                losses.append(sum(step(prepared, noise)))
            model.set_vector(start)
            slope = (losses[0] - losses[1]) / 2e-6
            assert slope == pytest.approx((gradient @ direction[place]).item(), rel=1e-5)


def test_a_dead_critic_has_a_finite_gradient(mixed, make_rows):
    """Where dropout takes every path, the input's gradient is 0 and its norm has no derivative."""
    model = CTGAN(mixed, {"discriminator_dim": (1,), "pac": 1})
    losses = model.train(make_rows(mixed, 100), local(50))
    assert losses["gradient_penalty"] > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_the_reference(layout, shape, make_rows, one_hot, output_info, monkeypatch):
    """Its critic without dropout, on packs of the same row that nothing was asked of."""
    model = CTGAN(layout, {"embedding_dim": 8, **SHAPES[shape]}, seed=3, dtype=torch.float64)
    rows = make_rows(layout, 20, unknown=0.1)
    reference = Reference(model, output_info(layout), monkeypatch)
    conditions = torch.zeros(20, layout.condition_width, dtype=torch.float64)
    x = torch.cat([one_hot(rows, layout), conditions], 1)
    packs = x.repeat_interleave(model.config.pac, 0)
    theirs = reference.critic.eval()(packs).squeeze(1).detach().numpy()
    ours = model.row_scores(rows, np.random.default_rng(0))["critic"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
    generator = torch.Generator().manual_seed(0)
    masks = draw_dropout(rate, 300, (64, 100), torch.zeros(()), generator)
    assert [mask.shape for mask in masks] == [(300, 64), (300, 100)]
    for mask in masks:
        kept = mask[mask != 0]
        assert (kept == kept[0]).all()
        assert kept[0].item() == pytest.approx(1 / (1 - rate))
        assert (mask == 0).double().mean() == pytest.approx(rate, abs=0.02)


def test_half_of_the_dropout_is_the_default(mixed, make_rows):
    """As in the reference; with none of it a step is another one."""
    vectors = []
    for config in ({}, {"discriminator_dropout": 0.5}, {"discriminator_dropout": 0.0}):
        model = CTGAN(mixed, {"embedding_dim": 8, **SHAPES["shallow"], **config})
        model.train(make_rows(mixed, 50), local(20))
        vectors.append(model.get_vector())
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def dims(widths):
    return {"generator_dim": widths, "discriminator_dim": widths}


def local(batch_size):
    return LocalTraining(epochs=1, batch_size=batch_size, seed=(0,))
