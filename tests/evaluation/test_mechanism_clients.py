"""The audit of the step that hides clients: the right one passes, planted mistakes are found."""

import json

import numpy as np
import pytest
import torch

from genesis import PlanError
from genesis.evaluation.mechanism import Mechanism, audit_step
from genesis.privacy import client_level
from genesis.privacy.client_level import NoisyMean, Rounds
from genesis.privacy.ftrl import BandedNoise
from genesis.privacy.noise import repeatable_noise
from tests.evaluation.test_mechanism import TRIALS, one_number_of_noise, seeded_noise


def audited(trials: int = TRIALS, **changes) -> Mechanism:
    return audit_step("client-level", trials=trials, noise=repeatable_noise(7), **changes)


@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_the_right_step_passes(sigma: float) -> None:
    found = audited(400, noise_multiplier=sigma)
    assert (found.finding, found.faults, found.doubts) == ("nothing found", (), ())
    for canary in found.canaries:
        assert canary.low <= found.mu == 1 / sigma <= canary.high
        assert canary.sensitivity == pytest.approx(1, abs=1e-4)
    for noise in (found.noise, found.empty):
        assert noise.scale == pytest.approx(1, abs=0.02)
    assert found.text.startswith("A private step of the client level does what its ε was computed")
    assert "as far as one client may" in found.text
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["unit"] == "client"


CLIPPED, DRAW, COMBINE = client_level.clipped, BandedNoise.draw, NoisyMean.combine


def noise_forgotten(patch) -> None:
    patch.setattr(BandedNoise, "draw", lambda _, n, __: torch.zeros(n))


def noise_of_the_mean(patch) -> None:
    """Divided by the clients that are expected, as the sum is; and then once more."""

    def draw(self, n, noise):
        return DRAW(self, n, noise) / 16

    patch.setattr(BandedNoise, "draw", draw)


def no_noise_when_nobody_comes(patch) -> None:
    def combine(self, vector, vectors, noise):
        return COMBINE(self, vector, vectors, noise) if len(vectors) else vector

    patch.setattr(NoisyMean, "combine", combine)


def no_clipping(patch) -> None:
    patch.setattr(client_level, "clipped", lambda changes, _: changes)


def clipping_of_every_number(patch) -> None:
    patch.setattr(client_level, "clipped", lambda changes, norm: changes.clamp(-norm, norm))


def clipping_of_the_mean(patch) -> None:
    def clipped(changes, max_norm):
        if not len(changes):
            return changes
        return CLIPPED(changes.mean(0)[None], max_norm).expand(len(changes), -1)

    patch.setattr(client_level, "clipped", clipped)


def division_by_the_clients_that_came(patch) -> None:
    def combine(self, vector, vectors, noise):
        self.expected = max(len(vectors), 1)
        return COMBINE(self, vector, vectors, noise)

    patch.setattr(NoisyMean, "combine", combine)


def clients_weighted(patch) -> None:
    """By how far they moved, which tells of their rows as their number does."""

    def clipped(changes, max_norm):
        return CLIPPED(changes, max_norm) * (1 + changes.norm(dim=1, keepdim=True).clamp_max(9))

    patch.setattr(client_level, "clipped", clipped)


def clip_by_the_median(patch) -> None:
    """A clip that is chosen by the very changes that it is used on."""

    def combine(self, vector, vectors, noise):
        if len(vectors):
            self.max_norm = float((vectors - vector).norm(dim=1).median())
        return COMBINE(self, vector, vectors, noise)

    patch.setattr(NoisyMean, "combine", combine)


def rounds_of_one_size(patch) -> None:
    def cohort(self, numbers, _, noise):
        size = int(np.rint(self.fraction * len(numbers)))
        chances = noise.uniform(len(numbers))
        return [sorted(numbers)[i] for i in chances.argsort()[:size].sort()[0].tolist()]

    patch.setattr(Rounds, "cohort", cohort)


def clients_in_turns(patch) -> None:
    """Accounted as if it were chance."""

    def cohort(self, numbers, round, _):
        turns = int(np.rint(1 / self.fraction))
        return [name for name in sorted(numbers) if numbers[name] % turns == round % turns]

    patch.setattr(Rounds, "cohort", cohort)


MISTAKES = [
    (noise_forgotten, "Clients show in"),
    (noise_of_the_mean, "standard deviations, where 1/σ = 1.00 is accounted for"),
    (no_noise_when_nobody_comes, "The noise of an empty batch is 0.000"),
    (seeded_noise, "The noise is 0.000"),
    (one_number_of_noise, "not fresh in every step and coordinate"),
    (no_clipping, "One large client makes results differ"),
    (clipping_of_every_number, "times C, where C is allowed"),
    (clipping_of_the_mean, "One large client"),
    (division_by_the_clients_that_came, "not the sum over the clients that were drawn"),
    (clients_weighted, "times C, where C is allowed"),
    (clip_by_the_median, "times C, where C is allowed"),
    (rounds_of_one_size, "Batches are not drawn by Poisson sampling"),
    (clients_in_turns, "Batches are not drawn by Poisson sampling"),
]


@pytest.mark.parametrize(("plant", "fault"), MISTAKES, ids=[f.__name__ for f, _ in MISTAKES])
def test_mistakes_are_found(plant, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = audited()
    assert found.finding == "fault"
    assert any(fault in each for each in found.faults), found.faults


def test_it_has_no_options() -> None:
    with pytest.raises(PlanError, match="the step that hides clients has no options; got 'bands'"):
        audit_step("client-level", {"bands": 4})
