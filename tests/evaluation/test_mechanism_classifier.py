"""The audit of the classifier's private step: the right one passes, planted mistakes are found."""

import pytest
import torch
from opacus.optimizers import DPPerLayerOptimizer

from genesis import PlanError
from genesis.evaluation.mechanism import Mechanism, audit_step
from genesis.privacy import opacus_steps
from genesis.privacy.noise import repeatable_noise
from genesis.privacy.opacus_steps import PrivateOptimizer
from tests.evaluation.test_mechanism import (
    TRIALS,
    centred_batches,
    neighbours_mixed,
    seeded_noise,
    shuffled_batches,
)


def audited(trials: int = TRIALS) -> Mechanism:
    noise = repeatable_noise(7)
    return audit_step("classifier", {"hidden": [4]}, trials=trials, noise=noise)


def test_the_right_step_passes() -> None:
    found = audited(100)
    assert (found.finding, found.faults, found.doubts) == ("nothing found", (), ())
    assert found.unit == "record"
    for canary in found.canaries:
        assert canary.low <= found.mu == 1.0 <= canary.high
        assert canary.sensitivity == pytest.approx(1, abs=1e-4)
    for noise in (found.noise, found.empty):
        assert noise.scale == pytest.approx(1, abs=0.05)
    assert found.text.startswith("A private step of the classifier does what its ε was computed")


def noise_forgotten(patch) -> None:
    def add_noise(self) -> None:
        for p in self.params:
            p.grad = p.summed_grad.view_as(p)

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def noise_by_root_of_batch(patch) -> None:
    add_noise = PrivateOptimizer.add_noise

    def added(self) -> None:
        self.noise_multiplier /= self.expected_batch_size**0.5
        add_noise(self)

    patch.setattr(PrivateOptimizer, "add_noise", added)


def no_noise_on_biases(patch) -> None:
    add_noise = PrivateOptimizer.add_noise

    def added(self) -> None:
        add_noise(self)
        for p in self.params:
            if p.ndim == 1:
                p.grad = p.summed_grad.clone()

    patch.setattr(PrivateOptimizer, "add_noise", added)


def no_noise_on_empty_batches(patch) -> None:
    add_noise = PrivateOptimizer.add_noise

    def added(self) -> None:
        if not len(self.grad_samples[0]):
            self.noise_multiplier = 0.0
        add_noise(self)

    patch.setattr(PrivateOptimizer, "add_noise", added)


def no_clipping(patch) -> None:
    def clip_and_accumulate(self) -> None:
        for p in self.params:
            p.summed_grad = p.grad_sample.sum(0)

    patch.setattr(PrivateOptimizer, "clip_and_accumulate", clip_and_accumulate)


def clipping_of_every_layer(patch) -> None:
    def clip_and_accumulate(self) -> None:
        self.max_grad_norms = [self.max_grad_norm] * len(self.params)
        DPPerLayerOptimizer.clip_and_accumulate(self)

    patch.setattr(PrivateOptimizer, "clip_and_accumulate", clip_and_accumulate)


def clipping_of_the_mean(patch) -> None:
    def clip_and_accumulate(self) -> None:
        sums = [gradients.sum(0) for gradients in self.grad_samples]
        norm = torch.stack([each.norm() for each in sums]).norm() / self.expected_batch_size
        for p, each in zip(self.params, sums, strict=True):
            p.summed_grad = each * (self.max_grad_norm / norm.clamp_min(1e-30)).clamp_max(1)

    patch.setattr(PrivateOptimizer, "clip_and_accumulate", clip_and_accumulate)


def division_by_the_batch_that_came(patch) -> None:
    scale = PrivateOptimizer.scale_grad

    def scale_grad(self) -> None:
        self.expected_batch_size = max(len(self.grad_samples[0]), 1)
        scale(self)

    patch.setattr(PrivateOptimizer, "scale_grad", scale_grad)


def loss_that_is_a_mean(patch) -> None:
    """What Opacus takes for gradients of single records is then smaller, the more came."""
    recorded = opacus_steps.recorded

    def averaged(network):
        hooked = recorded(network)
        hooked.register_full_backward_pre_hook(lambda _, dy: (dy[0] / max(len(dy[0]), 1),))
        return hooked

    patch.setattr(opacus_steps, "recorded", averaged)


MISTAKES = [
    (noise_forgotten, "Records show in"),
    (noise_by_root_of_batch, "standard deviations, where 1/σ = 1.00 is accounted for"),
    (no_noise_on_biases, "to which no noise is added"),
    (no_noise_on_empty_batches, "The noise of an empty batch is 0.000"),
    (seeded_noise, "The noise is 0.000"),
    (no_clipping, "standard deviations, where 1/σ"),
    (clipping_of_every_layer, "times C, where C is allowed"),
    (clipping_of_the_mean, "One large record makes results differ"),
    (division_by_the_batch_that_came, "not the sum over the records that were drawn"),
    (loss_that_is_a_mean, "not the sum over the records that were drawn"),
    (shuffled_batches, "Batches are not drawn by Poisson sampling"),
    (centred_batches, "standard deviations, where 1/σ"),
    (neighbours_mixed, "times C, where C is allowed"),
]


@pytest.mark.parametrize(("plant", "fault"), MISTAKES, ids=[f.__name__ for f, _ in MISTAKES])
def test_mistakes_are_found(plant, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = audited()
    assert found.finding == "fault"
    assert any(fault in each for each in found.faults), found.faults


def test_what_is_no_choice_of_it() -> None:
    with pytest.raises(PlanError, match="the audited classifier has no option 'epochs'"):
        audit_step("classifier", {"epochs": 3})
