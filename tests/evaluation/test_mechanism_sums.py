"""The audit of noisy sums: right answers pass, planted mistakes are found."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from genesis import PlanError
from genesis.evaluation.mechanism import Mechanism, audit_step
from genesis.models.sums import private_mixture_fit
from genesis.models.sums.marginals import Marginals
from genesis.models.sums.mixture import Mixture
from genesis.models.sums.rows import SumRows
from genesis.privacy import sums
from genesis.privacy.events import SkellamSum
from genesis.privacy.noise import repeatable_noise
from genesis.privacy.sums import Sums
from tests.evaluation.test_mechanism import TRIALS

MODELS = ["marginals", "mixture"]


def audited(method: str, trials: int = TRIALS, **changes) -> Mechanism:
    return audit_step(method, trials=trials, noise=repeatable_noise(7), **changes)


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_right_answers_pass(method: str, sigma: float) -> None:
    found = audited(method, 150, noise_multiplier=sigma)
    assert (found.finding, found.faults, found.doubts) == ("nothing found", (), ())
    assert found.mu == pytest.approx(1 / sigma)
    for canary in found.canaries:
        assert canary.low <= found.mu <= canary.high
        assert canary.sensitivity == pytest.approx(1, abs=1e-3)
    for noise in (found.noise, found.empty):
        assert noise.scale == pytest.approx(1, abs=0.02)
    assert found.batches is None
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["batches"] is None


def test_a_pass_of_many_has_its_share_of_the_budget() -> None:
    assert audited("mixture", 20, config={"epochs": 1}).mu == pytest.approx(1)
    with pytest.raises(PlanError):
        audited("mixture", 20, config={"epochs": 0})


# Planted mistakes: each changes what is shipped, as somebody might.

DEVIATION, EVENT = Sums.deviation, Sums._event
NOISY, EXPECTED = sums.noisy_counts, private_mixture_fit.expectations
ANSWERS = {"marginals": Marginals.answer, "mixture": Mixture.answer}
CLASSES = {"marginals": Marginals, "mixture": Mixture}


def half_the_noise(patch, _) -> None:
    patch.setattr(sums, "noisy_counts", lambda counts, d, noise: NOISY(counts, d / 2, noise))


def noise_forgotten(patch, _) -> None:
    patch.setattr(sums, "noisy_counts", lambda counts, *_: counts)


def the_same_noise_everywhere(patch, _) -> None:
    def noisy(counts, deviation, noise):
        return counts + NOISY(np.zeros(1), deviation, noise)

    patch.setattr(sums, "noisy_counts", noisy)


def noise_of_every_pass_paid_once(patch, _) -> None:
    """Less is written down than is spent."""

    def event(self, number):
        paid = EVENT(self, number)
        field = "noise_multiplier" if isinstance(paid, SkellamSum) else "deviation"
        return type(paid)(**{**vars(paid), field: 4 * getattr(paid, field)})

    patch.setattr(Sums, "_event", event)


def a_row_counts_twice(patch, method) -> None:
    def answer(_, rows, question):
        twice = SumRows(rows.layout, rows.codes.take(np.repeat(np.arange(len(rows)), 2)))
        return ANSWERS[method](twice, question)

    patch.setattr(CLASSES[method], "answer", classmethod(answer))


def responsibilities_of_every_component(patch, _) -> None:
    """As if a row belonged to each of them wholly."""

    def expectations(*given):
        logs, shares = EXPECTED(*given)
        return logs, shares.fill_(1)

    patch.setattr(private_mixture_fit, "expectations", expectations)
    patch.setattr(private_mixture_fit, "MOST_SHARES", math.inf)


MISTAKES = [
    *((method, half_the_noise, "standard deviations, where 1/σ = 1.00") for method in MODELS),
    *((method, half_the_noise, "times σC/B.") for method in MODELS),
    *((method, noise_forgotten, "to which no noise is added") for method in MODELS),
    *((method, the_same_noise_everywhere, "not fresh in every") for method in MODELS),
    *((method, noise_of_every_pass_paid_once, "where 1/σ = 0.25") for method in MODELS),
    *((method, a_row_counts_twice, "by 2.00 times C, where C is allowed") for method in MODELS),
    ("mixture", responsibilities_of_every_component, "times C, where C is allowed"),
]


@pytest.mark.parametrize(
    ("method", "plant", "fault"),
    MISTAKES,
    ids=[f"{m}-{f.__name__}-{i}" for i, (m, f, _) in enumerate(MISTAKES)],
)
def test_mistakes_are_found(method, plant, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, method)
    found = audited(method, 150)
    assert found.finding == "fault"
    assert any(fault in each for each in found.faults), found.faults
