"""The audit of private steps: right ones pass, and every planted mistake is found."""

import json

import pytest
import torch

from genesis import PlanError
from genesis.evaluation.mechanism import audit_step, private_methods, private_steps
from genesis.evaluation.mechanism.shipped import BATCH
from genesis.models import critic, dense, tvae
from genesis.models.critic import Critic
from genesis.models.ctgan import CTGAN
from genesis.models.rows import TrainingRows
from genesis.models.tvae import TVAE
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.noise import Noise, repeatable_noise

TRIALS = 24
"""Enough for a mistake."""

TINY = {
    "ctgan": {"embedding_dim": 2, "generator_dim": (4,), "discriminator_dim": (8, 8)},
    "tvae": {"embedding_dim": 2, "compress_dims": (8,), "decompress_dims": (8,)},
}


def audited(method: str, trials: int = TRIALS, **changes):
    return audit_step(method, TINY[method], trials=trials, noise=repeatable_noise(7), **changes)


@pytest.mark.parametrize("method", private_methods())
def test_right_steps_pass(method: str) -> None:
    found = audited(method, 150)
    assert (found.finding, found.faults, found.doubts) == ("nothing found", (), ())
    assert [canary.kind for canary in found.canaries] == ["extreme", "large"]
    for canary in found.canaries:
        assert canary.low <= found.mu == 1.0 <= canary.high
        assert canary.high - canary.low < 1.2
        assert canary.sensitivity == pytest.approx(1, abs=1e-4)
    for noise in (found.noise, found.empty):
        assert noise.scale == pytest.approx(1, abs=0.02)
    assert "private" not in found.text.replace("private step", "")
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["verdict"]["finding"] == "nothing found"
    assert told["canaries"][1]["mu"] == found.canaries[1].mu


@pytest.mark.parametrize("sigma", [0.5, 4.0])
def test_the_distance_is_that_of_the_noise(sigma: float) -> None:
    found = audited("tvae", 100, noise_multiplier=sigma)
    assert found.finding == "nothing found"
    assert all(canary.low <= found.mu == 1 / sigma <= canary.high for canary in found.canaries)


def test_without_a_test_s_noise_it_is_the_operating_system_s() -> None:
    first, second = (audit_step("tvae", TINY["tvae"], trials=20) for _ in range(2))
    assert first.canaries[0].mu != second.canaries[0].mu
    assert first.canaries[0].sensitivity == pytest.approx(second.canaries[0].sensitivity)


# Planted mistakes: each changes what is shipped, as somebody might.

FINISH, BATCHES, WRITE = PrivateSteps.finish, PrivateSteps.batch, TrainingRows.write
CLIPPED = dense.set_clipped
CRITIC = Critic.clipped_gradient


def noise_by_root_of_batch(patch) -> None:
    def finish(self, gradient):
        noise = self.noise.normal(len(gradient)).to(gradient)
        sigma = self.noise_multiplier * self.max_grad_norm
        gradient.add_(noise, alpha=sigma / self.batch_size**0.5).div_(self.batch_size)

    patch.setattr(PrivateSteps, "finish", finish)


def noise_after_division(patch) -> None:
    """The noise of the sum, on the mean: far too much, so that nobody is hurt but the model."""

    def finish(self, gradient):
        noise = self.noise.normal(len(gradient)).to(gradient)
        gradient.div_(self.batch_size)
        gradient.add_(noise, alpha=self.noise_multiplier * self.max_grad_norm)

    patch.setattr(PrivateSteps, "finish", finish)


def no_noise_on_empty_batches(patch) -> None:
    def finish(self, gradient):
        if gradient.any():
            FINISH(self, gradient)

    patch.setattr(PrivateSteps, "finish", finish)


def no_noise_on_a_part(patch) -> None:
    def finish(self, gradient):
        last = gradient[-9:] / self.batch_size
        FINISH(self, gradient)
        gradient[-9:] = last

    patch.setattr(PrivateSteps, "finish", finish)


def seeded_noise(patch) -> None:
    def normal(_, n):
        return torch.randn(n, generator=torch.Generator().manual_seed(0))

    patch.setattr(Noise, "normal", normal)


def one_number_of_noise(patch) -> None:
    normal = Noise.normal
    patch.setattr(Noise, "normal", lambda self, n: normal(self, 1).expand(n))


def no_clipping(patch) -> None:
    patch.setattr(PrivateSteps, "factors", lambda _, norms: torch.ones_like(norms))


def clipping_of_every_layer(patch) -> None:
    """Each layer's gradient is clipped to C, and so the whole one to C times the root of layers."""

    def clipped(gradients, private, n):
        for gradient in gradients:
            CLIPPED([gradient], private, n)

    patch.setattr(critic, "set_clipped", clipped)
    patch.setattr(tvae, "set_clipped", clipped)


def clipping_of_the_mean(patch) -> None:
    """The gradient of the batch is clipped, and not those of its records."""

    def clipped(gradients, private, n):
        ones = torch.ones(gradients[0].dy.shape[1])
        ones[n:] = 0
        for gradient in gradients:
            gradient.set_scaled_sum(ones / n)
        parts = [g.layer.weight_gradient for g in gradients]
        parts += [g.layer.bias_gradient for g in gradients if g.biased]
        norm = torch.stack([part.norm() for part in parts]).norm()
        for part in parts:
            part.mul_(min(1.0, private.max_grad_norm / norm) * private.batch_size)

    patch.setattr(critic, "set_clipped", clipped)
    patch.setattr(tvae, "set_clipped", clipped)


def clipping_of_the_sum(patch) -> None:
    """Its norm is at most C with and without any record, which may turn it around."""

    def clipped(gradients, private, n):
        ones = torch.ones(gradients[0].dy.shape[1])
        ones[n:] = 0
        for gradient in gradients:
            gradient.set_scaled_sum(ones)
        parts = [g.layer.weight_gradient for g in gradients]
        parts += [g.layer.bias_gradient for g in gradients if g.biased]
        norm = torch.stack([part.norm() for part in parts]).norm()
        for part in parts:
            part.mul_(min(1.0, private.max_grad_norm / norm))

    patch.setattr(critic, "set_clipped", clipped)
    patch.setattr(tvae, "set_clipped", clipped)


def division_by_the_batch_that_came(patch) -> None:
    def clipped(gradients, private, n):
        CLIPPED(gradients, private, n)
        for gradient in gradients:
            gradient.layer.weight_gradient.mul_(private.batch_size / n)
            gradient.layer.bias_gradient.mul_(private.batch_size / n)

    patch.setattr(critic, "set_clipped", clipped)
    patch.setattr(tvae, "set_clipped", clipped)


def penalty_outside_the_clip(patch) -> None:
    def clipped(self, packs, mixing, dropout, private, records):
        layers = [*self._hidden, self._output]

        def gradients(weight, bound):
            patch.setattr(critic, "_LAMBDA", weight)
            steps = PrivateSteps(bound, 1.0, 1.0, private.batch_size, 1)
            losses = CRITIC(self, packs, mixing, dropout, steps, records)
            return [layer.weight_gradient.clone() for layer in layers], losses

        scores, _ = gradients(0.0, private.max_grad_norm)
        whole, losses = gradients(10.0, 1e9)
        without, _ = gradients(0.0, 1e9)
        for layer, a, b, c in zip(layers, scores, whole, without, strict=True):
            layer.weight_gradient.copy_(a + b - c)
        return losses

    patch.setattr(Critic, "clipped_gradient", clipped)


def sigma_outside_the_clip(patch) -> None:
    def clipped(gradients, private, n):
        CLIPPED(gradients[:-1], private, n)
        sigma = gradients[-1]
        sigma.set_scaled_sum((torch.arange(sigma.dy.shape[1]) < n).float())

    patch.setattr(tvae, "set_clipped", clipped)


def batches_of_one_size(patch) -> None:
    def batch(self, n, device):
        size = round(n * self.sample_rate)
        generator = torch.Generator().manual_seed(n)
        return torch.randperm(n, generator=generator)[:size].sort()[0].to(device)

    patch.setattr(PrivateSteps, "batch", batch)


def shuffled_batches(patch) -> None:
    """Every record once in a round of steps, in batches that differ in size as Poisson's do."""
    left: dict[int, list] = {}

    def batch(self, n, device):
        if not left.get(n):
            rounds = round(1 / self.sample_rate)
            into = (self.noise.uniform(n) * rounds).long()
            left[n] = [torch.nonzero(into == i).squeeze(1) for i in range(rounds)]
        return left[n].pop().to(device)

    patch.setattr(PrivateSteps, "batch", batch)


def batches_with_replacement(patch) -> None:
    def batch(self, n, device):
        size = len(BATCHES(self, n, device))
        return (self.noise.uniform(size) * n).long().sort()[0]

    patch.setattr(PrivateSteps, "batch", batch)


def batches_cut_to_size(patch) -> None:
    """Drawn as they ought to be, and then cut where nobody looks."""
    clip = PrivateSteps.factors

    def factors(self, norms):
        return torch.cat([clip(self, norms[:BATCH]), torch.zeros_like(norms[BATCH:])])

    patch.setattr(PrivateSteps, "factors", factors)


def centred_batches(patch) -> None:
    """As batch normalisation does."""

    def write(self, x, rows, blocks):
        codes = WRITE(self, x, rows, blocks)
        x.sub_(x.mean(0))
        return codes

    patch.setattr(TrainingRows, "write", write)


def neighbours_mixed(patch) -> None:
    """As pac does."""

    def write(self, x, rows, blocks):
        codes = WRITE(self, x, rows, blocks)
        x.add_(x.roll(1, 0)).mul_(0.5)
        return codes

    patch.setattr(TrainingRows, "write", write)


def records_in_the_generator_s_step(patch) -> None:
    step = CTGAN.generator_step

    def generator_step(self, prepared, noise):
        losses = step(self, prepared, noise)
        self._gradient[self._places["generator"]][:2].add_(prepared.rows.scalars.sum(0))
        return losses

    patch.setattr(CTGAN, "generator_step", generator_step)


def records_in_the_parameters(patch) -> None:
    step = TVAE.private_step

    def private_step(self, shard, noise, private):
        if len(shard):
            self._sigma[:2] = shard.scalars.mean(0).abs().clamp(0.01, 1)
        return step(self, shard, noise, private)

    patch.setattr(TVAE, "private_step", private_step)


MISTAKES = [
    ("ctgan", noise_by_root_of_batch, "standard deviations, where 1/σ = 1.00 is accounted for"),
    ("tvae", noise_by_root_of_batch, "standard deviations, where 1/σ = 1.00 is accounted for"),
    ("tvae", noise_after_division, "times σC/B."),
    ("ctgan", no_noise_on_empty_batches, "The noise of an empty batch is 0.000"),
    ("tvae", no_noise_on_empty_batches, "The noise of an empty batch is 0.000"),
    ("tvae", no_noise_on_a_part, "to which no noise is added"),
    ("tvae", seeded_noise, "The noise is 0.000"),
    ("tvae", one_number_of_noise, "not fresh in every step and coordinate"),
    ("ctgan", no_clipping, "standard deviations, where 1/σ"),
    ("tvae", no_clipping, "standard deviations, where 1/σ"),
    ("tvae", clipping_of_every_layer, "times C, where C is allowed"),
    ("ctgan", clipping_of_the_mean, "One large record makes results differ"),
    ("tvae", clipping_of_the_mean, "One large record makes results differ"),
    ("tvae", clipping_of_the_sum, "times C, where C is allowed"),
    ("tvae", division_by_the_batch_that_came, "not the sum over the records that were drawn"),
    ("ctgan", penalty_outside_the_clip, "standard deviations, where 1/σ"),
    ("tvae", sigma_outside_the_clip, "standard deviations, where 1/σ"),
    ("tvae", batches_of_one_size, "Batches are not drawn by Poisson sampling"),
    ("tvae", shuffled_batches, "Batches are not drawn by Poisson sampling"),
    ("tvae", batches_with_replacement, "Batches are not drawn by Poisson sampling"),
    ("tvae", batches_cut_to_size, "not the sum over the records that were drawn"),
    ("ctgan", centred_batches, "standard deviations, where 1/σ"),
    ("tvae", centred_batches, "standard deviations, where 1/σ"),
    ("ctgan", neighbours_mixed, "times C, where C is allowed"),
    ("tvae", neighbours_mixed, "times C, where C is allowed"),
    ("ctgan", records_in_the_generator_s_step, "to which no noise is added"),
    ("tvae", records_in_the_parameters, "Parameters change by something else"),
]


@pytest.mark.parametrize(
    ("method", "plant", "fault"), MISTAKES, ids=[f"{m}-{f.__name__}" for m, f, _ in MISTAKES]
)
def test_mistakes_are_found(method, plant, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = audited(method)
    assert found.finding == "fault"
    assert any(fault in each for each in found.faults), found.faults
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_audit_that_would_find_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genesis.evaluation.mechanism.shipped.MAX_NORM", 1e12)
    found = audit_step("tvae", TINY["tvae"], trials=20, noise=repeatable_noise(7))
    assert (found.finding, found.faults) == ("inconclusive", ())
    assert "little is known of clipping" in found.text


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("tvea", {}, "unknown method 'tvea'; did you mean tvae"),
        ("ctgan", {"config": {"pac": 2}}, "private steps of ctgan need pac 1; got pac 2"),
        ("tvae", {"noise_multiplier": 0.0}, "noise_multiplier must be above 0; got 0.0"),
        ("tvae", {"trials": 3}, "trials must be a whole number of at least 20; got 3"),
        ("tvae", {"level": 1.0}, "level must be above 0 and below 1; got 1.0"),
        ("tvae", {"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_audited(method, changes, message) -> None:
    with pytest.raises(PlanError, match=message):
        audit_step(method, **changes)


def test_a_model_without_private_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TVAE, "private_gradients")
    assert private_methods() == ["ctgan"]
    assert private_steps() == ["ctgan", "classifier", "client-level", "marginals", "mixture"]
    with pytest.raises(PlanError, match="tvae takes no private steps; choose one of classifier"):
        audit_step("tvae")
