"""One step of TVAE against the reference implementation: same rows, same noise."""

import numpy as np
import pytest
import torch
from ctgan.synthesizers.tvae import Decoder, Encoder, _loss_function

from genesis.codes import Codes, Layout
from genesis.models.matmul import fast_matmul
from genesis.models.tvae import TVAE

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# Adam divides by the gradient's size and so makes the rounding of tiny gradients visible: in
# float32 only the first step can be compared.
STEPS = {torch.float64: 3, torch.float32: 1}
SHAPES = {
    "plain": {"compress_dims": (32, 32), "decompress_dims": (32, 32)},
    "uneven": {"compress_dims": (64, 32, 16), "decompress_dims": (16, 48)},
    "shallow": {"compress_dims": (), "decompress_dims": ()},
}


class Reference:
    """The modules and the loss of the reference implementation."""

    def __init__(self, model, output_info):
        config = model.config
        self.output_info, self.factor = output_info, config.loss_factor
        self.n_scalars, width = model.layout.n_scalars, model.layout.width
        self.encoder = Encoder(width, config.compress_dims, config.embedding_dim)
        self.generator = Decoder(config.embedding_dim, config.decompress_dims, width)
        vector = model.parameters.views(model.get_vector())
        for part, module in self.parts().items():
            module.to(model.dtype)
            state = {n.removeprefix(f"{part}."): v for n, v in vector.items() if n.startswith(part)}
            module.load_state_dict(state)
        parameters = [*self.encoder.parameters(), *self.generator.parameters()]
        self.optimiser = torch.optim.Adam(parameters, weight_decay=config.l2scale)

    def parts(self):
        return {"encoder": self.encoder, "generator": self.generator}

    def parameters(self):
        return {
            f"{part}.{name}": parameter
            for part, module in self.parts().items()
            for name, parameter in module.named_parameters()
            # Nothing reads sigma where there is no scalar.
            if name != "sigma" or self.n_scalars
        }

    def gradient(self, x, noise):
        mu, std, log_variance = self.encoder(x)
        logits, sigma = self.generator(noise * std + mu)
        losses = _loss_function(logits, x, sigma, mu, log_variance, self.output_info, self.factor)
        self.optimiser.zero_grad()
        sum(losses).backward()
        return losses

    def step(self):
        self.optimiser.step()
        self.generator.sigma.data.clamp_(0.01, 1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_the_reference(layout, shape, dtype, make_rows, one_hot, output_info, relative):
    """Losses and gradients of every step, and the parameters after the last."""
    model = TVAE(layout, {"embedding_dim": 8, **SHAPES[shape]}, seed=3, dtype=dtype)
    reference = Reference(model, output_info(layout))
    generator = torch.Generator().manual_seed(0)
    tolerance = TOLERANCE[dtype]
    for seed in range(STEPS[dtype]):
        x = one_hot(make_rows(layout, 40, seed=seed), layout).to(dtype)
        noise = torch.randn(40, 8, dtype=dtype, generator=generator)
        with fast_matmul(model.device):
            ours = model.step(x, noise)
        theirs = reference.gradient(x, noise)
        assert ours == pytest.approx([loss.item() for loss in theirs], rel=tolerance)
        for name, parameter in reference.parameters().items():
            assert relative(model.gradients[name], parameter.grad) < tolerance, name
        model.optimisers["adam"].step()
        model.weights["generator.sigma"].clamp_(0.01, 1.0)
        reference.step()
    if dtype is torch.float32:
        return
    after = model.parameters.views(model.get_vector())
    for name, parameter in reference.parameters().items():
        torch.testing.assert_close(after[name], parameter.detach(), rtol=0, atol=1e-9)


def test_unknown_categories_count_nothing(mixed, make_rows, one_hot):
    """An unknown code leaves the loss and the gradient of its block untouched."""
    model = TVAE(mixed, {"embedding_dim": 8, **SHAPES["plain"]}, dtype=torch.float64)
    rows = make_rows(mixed, 30)
    rows.codes[:, 3] = -1
    x, codes = one_hot(rows, mixed), torch.from_numpy(rows.codes)
    noise = torch.randn(30, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = sum(model.step(x, noise, codes))
    output = model.gradients["generator.seq.4.bias"]
    start, stop = mixed.block_starts[3:5]
    assert (output[start:stop] == 0).all()
    assert (output[:start] != 0).all()
    # Logits of that block can be anything.
    model.weights["generator.seq.4.bias"][start:stop] += 5
    assert sum(model.step(x, noise, codes)) == before


def test_gradient_is_that_of_the_loss(mixed, make_rows, one_hot):
    """Central differences along random directions, with unknown codes."""
    model = TVAE(mixed, {"embedding_dim": 4, **SHAPES["uneven"]}, dtype=torch.float64)
    rows = make_rows(mixed, 30, unknown=0.2)
    x, codes = one_hot(rows, mixed), torch.from_numpy(rows.codes)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    model.step(x, noise, codes)
    gradient = torch.cat([g.flatten() for g in model.gradients.values()])
    start = model.get_vector()
    for _ in range(3):
        direction = torch.randn(start.shape, dtype=start.dtype, generator=generator)
        direction /= direction.norm()
        losses = []
        for h in (1e-6, -1e-6):
            model.set_vector(start + h * direction)
            losses.append(sum(model.step(x, noise, codes)))
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope == pytest.approx((gradient @ direction).item(), rel=1e-5)


def test_the_likelihood_of_all_rows_adds_up():
    """Over every combination of codes, and over the whole line for a scalar."""
    rng = np.random.default_rng(0)
    layout = Layout((), (3, 4, 2))
    codes = np.stack([a.ravel() for a in np.indices(layout.category_widths)], 1).astype(np.int32)
    rows = Codes(np.zeros((len(codes), 0), np.float32), codes)
    model = TVAE(layout, {"embedding_dim": 3, **SHAPES["uneven"]}, dtype=torch.float64)
    assert np.exp(model.row_scores(rows, rng)["likelihood"]).sum() == pytest.approx(1)

    line = np.linspace(-3, 3, 3001, dtype=np.float32)
    rows = Codes(line[:, None], np.zeros((len(line), 1), np.int32))
    model = TVAE(Layout((1,), ()), {"embedding_dim": 3, **SHAPES["uneven"]}, dtype=torch.float64)
    density = np.exp(model.row_scores(rows, rng)["likelihood"]) / np.sqrt(2 * np.pi)
    assert density.sum() * (line[1] - line[0]) == pytest.approx(1, abs=1e-4)


def test_scores_are_those_of_the_loss(mixed, make_rows, one_hot):
    """The ELBO is the loss of training for the same noise; it never exceeds the likelihood."""
    model = TVAE(
        mixed, {"embedding_dim": 2, "loss_factor": 1.0, **SHAPES["plain"]}, dtype=torch.float64
    )
    rows = make_rows(mixed, 60, unknown=0.2)
    x, codes = one_hot(rows, mixed), torch.from_numpy(rows.codes)
    scores = model.row_scores(rows, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    losses = [
        sum(
            model.step(
                x, torch.randn(1, 2, dtype=x.dtype, generator=generator).expand(60, 2), codes
            )
        )
        for _ in range(400)
    ]
    assert -scores["elbo"].mean() == pytest.approx(float(sum(losses)) / 400, rel=0.02)
    reconstruction, _ = model.step(x, torch.zeros(60, 2, dtype=x.dtype), codes)
    assert -scores["reconstruction"].mean() == pytest.approx(float(reconstruction), rel=1e-12)
    assert (scores["elbo"] < scores["likelihood"] + 0.5).all()
