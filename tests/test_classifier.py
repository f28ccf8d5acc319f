"""The downstream classifier: what it learns, what it promises, and what it keeps."""

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

import genesis.classifier
from genesis import Classifier, DataError, PlanError, Schema, SchemaError, TrainingError
from genesis.privacy.accounting import epsilon
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.events import SampledGaussian
from genesis.privacy.noise import Noise, repeatable_noise
from genesis.privacy.opacus_steps import PrivateOptimizer, recorded
from genesis.privacy.report import spent_epsilon


def promise(epsilon: float = 8.0, **others: Any) -> dict[str, Any]:
    return {"differential_privacy": {"epsilon": epsilon, "delta": 1e-5, **others}}


def customers(n: int, seed: int) -> pd.DataFrame:
    """A table whose column "bought" is the better known the more is known of all others."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, n)
    income = np.round(rng.lognormal(10, 1, n), 2)
    colour = rng.choice(["red", "green", "blue"], n, p=[0.5, 0.3, 0.2])
    z = rng.normal(size=n)
    logit = 0.05 * (age - 50) + (np.log(income) - 10) + 1.2 * (colour == "red") - 0.6 + 0.8 * z
    bought = np.where(rng.random(n) < 1 / (1 + np.exp(-logit)), "yes", "no")
    return pd.DataFrame({"age": age, "income": income, "colour": colour, "z": z, "bought": bought})


def auroc(classifier: Classifier, table: pd.DataFrame) -> float:
    return float(roc_auc_score(table["bought"] == "yes", classifier.predict_proba(table)["yes"]))


TRAIN, TEST = customers(2000, 0), customers(2000, 1)
QUICK: dict[str, Any] = {"epochs": 2, "hidden": (8,), "device": "cpu"}


@pytest.fixture(scope="module")
def plain() -> Classifier:
    return Classifier(seed=0, device="cpu").fit(TRAIN, "bought")


@pytest.fixture(scope="module")
def private() -> Classifier:
    return Classifier(seed=0, device="cpu", hidden=(32,), privacy=promise()).fit(TRAIN, "bought")


# --- what it learns ---


def test_it_is_near_a_regression_that_was_told_how_the_table_was_made(plain) -> None:
    def told(table: pd.DataFrame) -> np.ndarray:
        red = table["colour"] == "red"
        income = np.log(table["income"]) - 10
        return np.column_stack([(table["age"] - 50) / 20, income, red, table["z"]])

    regression = LogisticRegression().fit(told(TRAIN), TRAIN["bought"])
    best = roc_auc_score(TEST["bought"] == "yes", regression.predict_proba(told(TEST))[:, 1])
    assert auroc(plain, TEST) > best - 0.025


def test_with_privacy_it_is_clearly_better_than_chance(private) -> None:
    assert auroc(private, TEST) > 0.75


def test_chances_are_a_table_of_labels(plain) -> None:
    some = TEST.sample(300, random_state=0)
    chances = plain.predict_proba(some)
    assert list(chances.columns) == list(plain.classes_) == ["no", "yes"]
    assert chances.index.equals(some.index)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    predicted = plain.predict(some)
    assert predicted.name == "bought"
    assert predicted.index.equals(some.index)
    assert (predicted == chances.idxmax(axis=1)).all()
    assert (predicted == some["bought"]).mean() > 0.65


@pytest.mark.parametrize(
    "labels",
    [
        np.array([False, True]),
        np.array([3, 7, 11]),
        np.array([0.5, 1.5]),
        pd.Categorical(["a", "b"]),
        pd.array([1, 2], dtype="Int64"),
        pd.to_datetime(["2020-01-01", "2021-01-01"]).astype(str),
    ],
)
def test_labels_keep_their_type(labels) -> None:
    target = pd.Series(labels)[np.arange(60) % len(labels)].reset_index(drop=True)
    table = pd.DataFrame({"x": np.arange(60) % len(labels) * 10.0 + np.arange(60) / 60})
    table["target"] = target
    found = Classifier(epochs=80, batch_size=20, seed=0, device="cpu").fit(table, "target")
    predicted = found.predict(table)
    assert predicted.dtype == target.dtype
    assert list(predicted) == list(target)
    assert list(found.classes_) == sorted(set(target))


def test_a_rows_prediction_does_not_depend_on_its_company(plain) -> None:
    alone = pd.concat([plain.predict_proba(TEST.iloc[[i]]) for i in range(20)])
    np.testing.assert_allclose(alone, plain.predict_proba(TEST)[:20], atol=1e-6)


def test_rows_are_predicted_in_chunks(plain, monkeypatch) -> None:
    whole = plain.predict_proba(TEST)
    monkeypatch.setattr(genesis.classifier, "CHUNK_ROWS", 333)
    np.testing.assert_allclose(plain.predict_proba(TEST), whole, atol=1e-6)
    assert plain.predict(TEST).equals(whole.idxmax(axis=1).rename("bought"))


def test_the_target_is_no_feature(plain, private) -> None:
    for fitted in (plain, private):
        chances = fitted.predict_proba(TEST)
        assert chances.equals(fitted.predict_proba(TEST.drop(columns="bought")))
        assert chances.equals(fitted.predict_proba(TEST.assign(bought="no", other=1)))
        assert "bought" not in fitted._fitted.encoder.schema


def test_new_rows_may_lack_what_was_never_lacking(plain) -> None:
    strange = TEST[:50].assign(colour="violet", z=np.nan, income=1e30)
    assert np.isfinite(plain.predict_proba(strange)).all(axis=None)


def test_a_linear_model_has_no_hidden_layer() -> None:
    linear = Classifier(hidden=(), epochs=2, seed=0, device="cpu").fit(TRAIN, "bought")
    assert len(linear._fitted.network) == 1
    assert auroc(linear, TEST) > 0.6


# --- seeds ---


def test_the_same_seed_gives_the_same_classifier_but_never_the_same_noise() -> None:
    def twice(**choices: Any) -> bool:
        a, b = (Classifier(seed=3, **QUICK, **choices).fit(TRAIN[:300], "bought") for _ in "ab")
        return a.predict_proba(TEST).equals(b.predict_proba(TEST))

    before = torch.random.get_rng_state()
    assert twice()
    assert not twice(privacy=promise())
    assert before.equal(torch.random.get_rng_state())  # nor is the user's own generator drawn from


# --- rows and tables that cannot be used ---


def test_a_row_without_a_label_teaches_nothing() -> None:
    table = TRAIN[:300].copy()
    table.loc[::3, "bought"] = None
    network, optimizer = _spied(table)
    assert [len(batch) for batch in network] == [300, 300]
    teaching = table["bought"].notna().to_numpy()
    for weights in network:
        assert (weights[teaching] > 0).all()
        assert (weights[~teaching] == 0).all()
    assert optimizer.privacy is not None


def _spied(table: pd.DataFrame) -> tuple[list[np.ndarray], Classifier]:
    """Norms of every record's gradient, of steps that all records join."""
    norms = []

    class Spy(PrivateOptimizer):
        def clip_and_accumulate(self) -> None:
            squared = sum(g.reshape(len(g), -1).square().sum(1) for g in self.grad_samples)
            norms.append(squared.sqrt().numpy())
            super().clip_and_accumulate()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genesis.privacy.opacus_steps.PrivateOptimizer", Spy)
        patch.setattr(PrivateSteps, "batch", lambda *given: torch.arange(given[1]))
        classifier = Classifier(batch_size=10_000, seed=0, privacy=promise(20), **QUICK)
        classifier.fit(table, "bought")
    return norms, classifier


def test_a_label_too_rare_to_be_told_is_no_class() -> None:
    table = TRAIN.assign(bought=TRAIN["bought"].where(TRAIN.index != 7, "a single one"))
    found = Classifier(seed=0, privacy=promise(), **QUICK).fit(table, "bought")
    assert list(found.classes_) == ["no", "yes"]
    exact = Classifier(seed=0, **QUICK).fit(table, "bought")
    assert list(exact.classes_) == ["a single one", "no", "yes"]


def test_stated_categories_are_classes_and_cost_no_delta() -> None:
    stated = Schema.infer(TRAIN, ["bought"]).to_dict()
    for column in stated["columns"]:
        if column["name"] in ("bought", "colour"):
            column["categories"] = sorted({*TRAIN[column["name"]], "never"})
    found = Classifier(seed=0, schema=Schema.from_dict(stated), privacy=promise(), **QUICK).fit(
        TRAIN, "bought"
    )
    assert list(found.classes_) == ["never", "no", "yes"]
    assert {each["kind"] for each in found.privacy["clients"]["table"]["ledger"]} == {
        "skellam",
        "sampled_gaussian",
    }


@pytest.mark.parametrize("privacy", [None, promise()])
def test_one_class_cannot_be_told_apart(privacy) -> None:
    with pytest.raises(DataError, match=r"'bought' needs at least two labels.*got (one|none)"):
        Classifier(privacy=privacy, **QUICK).fit(TRAIN[:50].assign(bought="yes"), "bought")


def test_what_cannot_be_learned_is_said() -> None:
    with pytest.raises(SchemaError, match="no column 'boght'; did you mean bought"):
        Classifier().fit(TRAIN, "boght")
    with pytest.raises(SchemaError, match="no column can be learnt from"):
        Classifier().fit(TRAIN[["bought"]], "bought")
    with pytest.raises(DataError, match="too little to learn from"):
        Classifier().fit(TRAIN[:1], "bought")
    with pytest.raises(PlanError, match="call fit first"):
        Classifier().predict(TRAIN)
    with pytest.raises(TrainingError, match="diverged"):
        Classifier(learning_rate=1e30, **QUICK).fit(TRAIN[:300], "bought")


def test_missing_columns_are_named(plain) -> None:
    with pytest.raises(SchemaError, match="'age'"):
        plain.predict(TEST.drop(columns="age"))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"epochs": 0}, "'epochs'"),
        ({"batch_size": 0.5}, "'batch_size'"),
        ({"hidden": 128}, "'hidden'"),
        ({"learning_rate": -1}, "'learning_rate'"),
        ({"seed": -1}, "seed"),
        ({"device": "abacus"}, "unknown device"),
        ({"privacy": promise(unit="client")}, "no clients to hide"),
        ({"privacy": {"epsilon": 1}}, "privacy must be"),
    ],
)
def test_impossible_choices_are_refused_at_once(choices, message) -> None:
    with pytest.raises(PlanError, match=message):
        Classifier(**choices)


# --- what is promised ---


def test_one_ledger_covers_all(private) -> None:
    report = private.privacy
    assert report["gradients"] == "per-record gradients by Opacus' hooks"
    assert report["unit"] == "record"
    kinds = [each["kind"] for each in report["clients"]["table"]["ledger"]]
    assert sorted(kinds) == ["sampled_gaussian", "skellam", "threshold"]
    assert 7 < private.epsilon <= 8
    assert spent_epsilon(report) == private.epsilon


def test_without_a_promise_nothing_is_claimed(plain) -> None:
    assert (plain.privacy, plain.epsilon) == (None, None)


def test_opacus_own_accountants_agree(private) -> None:
    from opacus.accountants import PRVAccountant, RDPAccountant

    ledger = private.privacy["clients"]["table"]["ledger"]
    (step,) = (each for each in ledger if each["kind"] == "sampled_gaussian")
    sigma, rate, steps = step["noise_multiplier"], step["sample_rate"], step["steps"]
    ours = epsilon([SampledGaussian(sigma, rate, steps)], 1e-5)
    prv, rdp = PRVAccountant(), RDPAccountant()
    for accountant in (prv, rdp):
        accountant.history.append((sigma, rate, steps))
    assert prv.get_epsilon(1e-5) == pytest.approx(ours, rel=0.01)
    assert ours <= rdp.get_epsilon(1e-5) <= 1.25 * ours


def test_the_ledger_counts_the_steps_that_are_taken(monkeypatch) -> None:
    taken: list[int] = []
    add_noise, batch = PrivateOptimizer.add_noise, PrivateSteps.batch

    def counted(self: PrivateSteps, n: int, device: torch.device) -> torch.Tensor:
        taken.append(len(drawn := batch(self, n, device)))
        return drawn

    noises = []
    monkeypatch.setattr(PrivateSteps, "batch", counted)
    monkeypatch.setattr(
        PrivateOptimizer, "add_noise", lambda self: (noises.append(1), add_noise(self))
    )
    found = Classifier(seed=0, batch_size=20, privacy=promise(), **QUICK).fit(TRAIN, "bought")
    ledger = found.privacy["clients"]["table"]["ledger"]
    (step,) = (each for each in ledger if each["kind"] == "sampled_gaussian")
    assert len(taken) == len(noises) == step["steps"]
    # Binomial, as the accounting has it, and not all of one size.
    n, q = len(TRAIN), step["sample_rate"]
    assert np.mean(taken) == pytest.approx(n * q, rel=0.1)
    assert np.var(taken) == pytest.approx(n * q * (1 - q), rel=0.5)


# --- one step ---


def small_network() -> nn.Sequential:
    layers = [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double()


def small_batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.normal(size=(n, 6)) * 10.0 ** rng.uniform(-2, 2, (n, 1)))
    return x, torch.from_numpy(rng.integers(0, 3, n))


def gradient(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    loss = nn.functional.cross_entropy(network(x), y, reduction="sum")
    return list(torch.autograd.grad(loss, list(network.parameters())))


def backward(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    hooked = recorded(network)
    out = hooked(x.requires_grad_())
    nn.functional.cross_entropy(out, y, reduction="sum").backward()
    return hooked


def private_step(network: nn.Module, **choices: Any) -> PrivateOptimizer:
    usual = {"max_grad_norm": 0.7, "noise_multiplier": 1e-12, "sample_rate": 0.1, "steps": 1}
    private = PrivateSteps(**{**usual, "batch_size": 16, **choices})
    return PrivateOptimizer(torch.optim.SGD(network.parameters(), lr=1.0), private)


def test_hooks_give_the_gradients_of_single_records() -> None:
    network, (x, y) = small_network(), small_batch(40)
    single = [gradient(network, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    backward(network, x, y)
    for p, *records in zip(network.parameters(), *single, strict=True):
        torch.testing.assert_close(p.grad_sample, torch.stack(records), rtol=1e-12, atol=1e-14)


def test_a_step_is_the_clipped_sum_and_noise_over_the_expected_size() -> None:
    network, (x, y) = small_network(), small_batch(40)
    before = [p.detach().clone() for p in network.parameters()]
    sums = [torch.zeros_like(p) for p in before]
    for i in range(len(x)):
        single = gradient(network, x[i : i + 1], y[i : i + 1])
        norm = torch.cat([g.reshape(-1) for g in single]).norm()
        for total, g in zip(sums, single, strict=True):
            total += g * min(1.0, 0.7 / float(norm))
    optimizer = private_step(network, noise_multiplier=1.3, noise=repeatable_noise(5))
    backward(network, x, y)
    optimizer.step()
    noise = repeatable_noise(5)
    for p, old, total in zip(network.parameters(), before, sums, strict=True):
        added = 1.3 * 0.7 * noise.normal(p.numel()).double().view_as(p)
        # Opacus divides by the norm + 1e-6, so it clips a little more.
        torch.testing.assert_close(old - p, (total + added) / 16, rtol=1e-5, atol=1e-6)


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    network = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
    before = torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])
    optimizer = private_step(network, noise_multiplier=2.0, max_grad_norm=3.0)
    backward(network, torch.empty(0, 100), torch.empty(0, dtype=torch.int64))
    optimizer.step()
    moved = torch.cat([p.detach().reshape(-1) for p in network.parameters()]) - before
    assert float(moved.std()) == pytest.approx(2.0 * 3.0 / 16, rel=0.03)


def test_empty_batches_come_and_go(monkeypatch) -> None:
    steps = []
    step = PrivateOptimizer.step
    monkeypatch.setattr(PrivateOptimizer, "step", lambda self: (steps.append(1), step(self)))
    monkeypatch.setattr(PrivateSteps, "batch", lambda *_: torch.empty(0, dtype=torch.int64))
    found = Classifier(seed=0, privacy=promise(), **QUICK).fit(TRAIN[:300], "bought")
    assert len(steps) >= 2
    assert np.isfinite(found.predict_proba(TEST)).all(axis=None)


def test_a_record_without_a_finite_gradient_counts_nothing() -> None:
    network, (x, y) = small_network(), small_batch(10)
    clean, broken = copy.deepcopy(network), copy.deepcopy(network)
    for model, rows in ((clean, x[1:]), (broken, x.clone())):
        if model is broken:
            rows[0] = torch.nan
        optimizer = private_step(model, noise=repeatable_noise(1))
        backward(model, rows, y[len(y) - len(rows) :])
        optimizer.step()
    for a, b in zip(clean.parameters(), broken.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_noise_comes_from_no_seed_of_torch(monkeypatch) -> None:
    drawn: list[int] = []
    normal = Noise.normal
    monkeypatch.setattr(Noise, "normal", lambda self, n: (drawn.append(n), normal(self, n))[1])
    moved = []
    for _ in "ab":
        torch.manual_seed(0)
        network, (x, y) = small_network(), small_batch(4)
        optimizer = private_step(network, noise_multiplier=1.0)
        backward(network, x, y)
        optimizer.step()
        moved.append([p.detach().clone() for p in network.parameters()])
    assert sum(drawn) == 2 * sum(p.numel() for p in small_network().parameters())
    assert not any(a.equal(b) for a, b in zip(*moved, strict=True))


# --- what is kept ---

CANARY = 7_654_321.125


def with_canaries() -> pd.DataFrame:
    table = TRAIN.assign(note=[f"free text {i * 7919} of a row" for i in range(len(TRAIN))])
    table.loc[5, ["income", "z"]] = CANARY, -CANARY
    return table


@pytest.mark.parametrize("privacy", [None, promise()])
def test_no_row_is_kept(privacy) -> None:
    table = with_canaries()
    table.loc[5, "colour"] = "ultraviolet"
    found = Classifier(seed=0, privacy=privacy, **QUICK).fit(table, "bought")
    kept = pickle.dumps(found)
    texts = [str(CANARY), repr(CANARY), "free text"]
    texts += ["ultraviolet"] if privacy else []  # without privacy, a category is known by name
    for text in texts:
        assert text.encode() not in kept
    for value in (CANARY, -CANARY):
        for form in ("<f8", ">f8", "<f4"):
            assert np.array(value, dtype=form).tobytes() not in kept
    for held in reachable(found):
        assert not isinstance(held, pd.DataFrame | pd.Series)
        if isinstance(held, np.ndarray | torch.Tensor):
            assert len(table) not in held.shape
        if isinstance(held, torch.Tensor):
            assert held.grad is None
            assert not hasattr(held, "grad_sample")
            assert not hasattr(held, "summed_grad")
    again = pickle.loads(kept)
    assert again.predict_proba(TEST).equals(found.predict_proba(TEST))


def reachable(root: Any) -> list[Any]:
    """All data that a classifier holds on to, the attributes of its parameters among them."""
    data = ("genesis", "torch", "numpy", "pandas", "builtins", "collections")
    found, todo = {id(root): root}, [root]
    while todo:
        held = todo.pop()
        for each in [*gc.get_referents(held), *getattr(held, "__dict__", {}).values()]:
            is_code = callable(each) and not isinstance(each, nn.Module)
            is_module = isinstance(each, dict) and "__spec__" in each
            known = type(each).__module__.split(".")[0] in data
            if known and not is_code and not is_module and id(each) not in found:
                found[id(each)] = each
                todo.append(each)
    return list(found.values())
