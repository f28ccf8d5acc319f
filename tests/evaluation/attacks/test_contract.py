"""What every attack owes its callers: see `genesis.evaluation.attacks.Attack`."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from genesis.errors import PlanError
from genesis.evaluation.attacks import ATTACKS, Attack, View, create_attack, logan
from genesis.evaluation.controls import copier
from genesis.evaluation.intervals import auc_interval
from genesis.evaluation.rows import Rows
from tests.evaluation.population import only, population

MEMBERS, OTHERS, REFERENCE = (population(n, seed) for seed, n in enumerate((200, 200, 150)))
TARGETS = Rows.concat([MEMBERS, OTHERS])
FRESH = population(200, 3)

DAMAGE: dict[str, Callable[[Rows], Rows]] = {
    "numbers only": lambda rows: only(rows, discrete=slice(0, 0)),
    "categories only": lambda rows: only(rows, numeric=slice(0, 0)),
    "nulls only": lambda rows: replace(rows, numeric=rows.numeric * np.nan, codes=rows.codes * 0),
    "one value": lambda rows: replace(
        rows, numeric=np.ones_like(rows.numeric), codes=np.ones_like(rows.codes)
    ),
}


@pytest.fixture(params=list(ATTACKS))
def attack(request: pytest.FixtureRequest) -> Attack:
    return create_attack(request.param)


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logan, "STEPS", 60)


def split(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return scores[: len(MEMBERS)], scores[len(MEMBERS) :]


def test_it_goes_by_its_name() -> None:
    assert all(create_attack(name).name == name for name in ATTACKS)


def test_an_unknown_attack_is_refused() -> None:
    with pytest.raises(PlanError, match="unknown attack 'distence'; did you mean distance"):
        create_attack("distence")


def test_a_copier_is_found(attack: Attack) -> None:
    copies = copier(MEMBERS, 200, 0)
    found = auc_interval(*split(attack.scores(View(copies, REFERENCE, TARGETS))))
    learns = attack.name in ("classifier", "density", "logan")
    assert found.low > (0.5 if learns else 0.85)


def test_fresh_rows_raise_no_alarm(attack: Attack) -> None:
    found = auc_interval(*split(attack.scores(View(FRESH, REFERENCE, TARGETS))), level=0.999)
    assert found.low <= 0.5 <= found.high


def test_the_same_scores_twice_and_from_no_other_stream(attack: Attack) -> None:
    state, others = torch.get_rng_state(), np.random.get_state()[1].copy()
    view = View(FRESH, REFERENCE, TARGETS, seed=3)
    first = attack.scores(view)
    again = attack.scores(View(FRESH, REFERENCE, TARGETS, seed=3))
    shared = attack.scores(View(MEMBERS, REFERENCE, TARGETS, seed=3).of(FRESH))
    assert first.shape == (len(TARGETS),)
    assert first.dtype == np.float64
    assert np.array_equal(first, again)
    assert np.array_equal(first, shared)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(others, np.random.get_state()[1])


def test_targets_may_come_in_any_order(attack: Attack) -> None:
    order = np.random.default_rng(0).permutation(len(TARGETS))
    scores = attack.scores(View(FRESH, REFERENCE, TARGETS))
    turned = attack.scores(View(FRESH, REFERENCE, TARGETS.take(order)))
    np.testing.assert_allclose(turned, scores[order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("synthetic", [1, 200])
@pytest.mark.parametrize("reference", [1, 150])
def test_few_rows_will_do(attack: Attack, synthetic: int, reference: int) -> None:
    view = View(FRESH.take(slice(0, synthetic)), REFERENCE.take(slice(0, reference)), TARGETS)
    assert np.isfinite(attack.scores(view)).all()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("damaged", ["synthetic", "all"])
def test_any_columns_will_do(attack: Attack, damage: str, damaged: str) -> None:
    tables = {"synthetic": FRESH, "reference": REFERENCE, "targets": TARGETS}
    if "only" in damage and damage != "nulls only":
        damaged = "all"  # columns are the same everywhere
    for name in tables if damaged == "all" else [damaged]:
        tables[name] = DAMAGE[damage](tables[name])
    scores = attack.scores(View(**tables))
    assert np.isfinite(scores).all()
    if damage in ("nulls only", "one value") and damaged == "all":
        assert np.ptp(scores) == 0
