"""Attacks on models: overfitted ones leak, others do not, and a file holds less than a model."""

import json

import ctgan
import numpy as np
import pandas as pd
import pytest

from genesis.errors import DataError, PlanError, SchemaError
from genesis.evaluation.white_box import SEES, white_box
from genesis.synthesizer import Synthesizer
from tests.dirty import QUICK, QUICK_TVAE, dirty_table

N = 200

OVERFITTED = {
    "ctgan": {
        "epochs": 300,
        "batch_size": 100,
        "discriminator_dropout": 0.0,
        "embedding_dim": 16,
        "generator_dim": (64,),
        "learning_rate": 1e-3,
        "pac": 1,
    },
    "tvae": {"epochs": 400, "batch_size": 50},
}


def census(n, seed=0):
    """Rows with enough columns to be told apart: 8 of categories and 4 of numbers."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(4, size=n)
    letters = np.array(list("abcdefghijkl"))
    table = {}
    for i in range(8):
        typical = rng.random(n) < 0.5
        table[f"category {i}"] = letters[
            np.where(typical, (kind + i) % 4, rng.integers(3 + i, size=n))
        ]
    for i in range(4):
        table[f"number {i}"] = np.round(kind * (i + 1) + rng.gamma(2, 3, n), 1)
    return pd.DataFrame(table)


PEOPLE = census(2000)


def sides(n=N, m=2 * N, seed=0):
    """Members and non-members."""
    order = np.random.default_rng(seed).permutation(len(PEOPLE))
    return tuple(PEOPLE.iloc[part].reset_index(drop=True) for part in (order[:n], order[n : n + m]))


@pytest.fixture(scope="module", params=["ctgan", "tvae"])
def overfitted(request):
    members, _ = sides()
    return Synthesizer(request.param, OVERFITTED[request.param], seed=0, device="cpu").fit(members)


@pytest.fixture(scope="module")
def quick():
    """A model that has hardly learned anything."""
    return Synthesizer("tvae", QUICK_TVAE, seed=0, device="cpu").fit(sides()[0])


def attack(model, *tables, **others):
    return white_box(model, *tables, local_epochs=2, **others)


def test_overfitted_models_leak(overfitted):
    found = attack(overfitted, *sides())
    best, least = {"ctgan": ("critic", 0.8), "tvae": ("reconstruction", 0.7)}[overfitted.method]
    assert found.worst == best
    assert found.attacks[best].auc.value > least
    assert found.attacks[best].found
    assert found.attacks["nearest_draw"].auc.value > 0.5
    assert found.left_out is None
    entry = found.to_dict()
    json.dumps(entry, allow_nan=False)
    assert entry["sees"].keys() == entry["attacks"].keys()
    assert (entry["members"], entry["non_members"], entry["reference"]) == (N, N, N)


def test_a_model_file_holds_less(overfitted, tmp_path):
    """No critic and no encoder; what is left gives the same scores as before."""
    overfitted.save(tmp_path / "model")
    loaded = Synthesizer.load(tmp_path / "model", device="cpu")
    whole, found = (attack(model, *sides()) for model in (overfitted, loaded))
    assert "generator alone" in found.left_out
    gone = {"ctgan": {"critic"}, "tvae": {"reconstruction", "elbo"}}[overfitted.method]
    assert whole.attacks.keys() - found.attacks.keys() == gone
    for name in found.attacks:
        assert found.attacks[name].auc.value == whole.attacks[name].auc.value


def test_models_of_the_library_come_without_the_rest():
    members, others = sides()
    fitted = ctgan.TVAE(epochs=1, enable_gpu=False)
    fitted.fit(members, [name for name in members if "category" in name])
    found = attack(Synthesizer.from_ctgan(fitted, seed=5, device="cpu"), members, others)
    assert "generator alone" in found.left_out


@pytest.mark.parametrize("method", ["ctgan", "tvae"])
def test_a_single_update_leaks(method):
    """A few epochs on few rows, in a client whose rows the server has never seen."""
    members, others = sides(100, 600, seed=3)
    model = Synthesizer(method, {"epochs": 1, "batch_size": 50}, seed=0, device="cpu").fit(members)
    found = white_box(model, members, others, local_epochs=20)
    name = {"ctgan": "single_update_critic", "tvae": "single_update_elbo"}[method]
    assert found.attacks[name].auc.low > 0.5
    assert "server" in found.sees[name]


def test_strangers_are_not_members(overfitted):
    """Neither side was trained on, whatever the model remembers of others."""
    _, strangers = sides(m=1800)
    found = attack(overfitted, strangers[:600], strangers[600:])
    remembered = [each.auc.value for name, each in found.attacks.items() if name in SEES]
    assert remembered == pytest.approx([0.5] * len(remembered), abs=0.07)


def test_a_reference_leaves_all_non_members_to_attack(quick):
    members, others = sides(m=3 * N)
    others, known = others[:N], others[N:]
    found = attack(quick, members, others, reference=known)
    assert (found.members, found.non_members, found.reference) == (N, N, 2 * N)
    mixed = known.sample(frac=1, random_state=1).iloc[:, ::-1]
    assert attack(quick, members, others, reference=mixed) == found
    with pytest.raises(DataError, match="reference rows overlap the non-members"):
        attack(quick, members, others, reference=others)
    with pytest.raises(SchemaError, match="the model was fitted on another table"):
        attack(quick, members, others, reference=known.rename(columns={"number 1": "income"}))


@pytest.mark.parametrize("method", ["ctgan", "tvae"])
def test_a_reference_of_one_row(method):
    members, others = sides()
    model = Synthesizer(method, QUICK if method == "ctgan" else QUICK_TVAE, seed=0, device="cpu")
    found = attack(model.fit(members), members, others[1:], reference=others[:1])
    json.dumps(found.to_dict(), allow_nan=False)


def test_order_does_not_matter(quick):
    members, others = sides()
    found = attack(quick, members, others)
    mixed = [table.sample(frac=1, random_state=1).iloc[:, ::-1] for table in (members, others)]
    assert attack(quick, *mixed) == found
    assert attack(quick, members, others, seed=1) != found


def test_the_model_is_left_alone(quick):
    vector, before = quick.model.get_vector(), quick.generate(5, seed=0)
    attack(quick, *sides())
    assert quick.model.get_vector().equal(vector)
    pd.testing.assert_frame_equal(quick.generate(5, seed=0), before)


def test_values_that_the_model_has_never_seen():
    members, others = sides()
    others["number 0"] = -7.5 * others["number 0"]
    others.loc[:50, ["number 1", "category 1"]] = [np.nan, None]
    others.loc[:99, "category 2"] = "never seen"
    model = Synthesizer("ctgan", QUICK, seed=0, device="cpu").fit(members)
    json.dumps(attack(model, members, others).to_dict(), allow_nan=False)


def test_tables_as_they_come():
    """Nulls, dates, keys, constants and point masses."""
    table = dirty_table(300)
    model = Synthesizer("tvae", QUICK_TVAE, seed=0, device="cpu").fit(table[:100])
    json.dumps(attack(model, table[:100], table[100:]).to_dict(), allow_nan=False)


def test_one_column_of_few_categories():
    table = pd.DataFrame({"only": np.random.default_rng(0).choice(["a", "b"], 200)})
    model = Synthesizer("ctgan", QUICK, seed=0, device="cpu").fit(table[:80])
    found = attack(model, table[:80], table[80:])
    json.dumps(found.to_dict(), allow_nan=False)
    assert not any(each.found for each in found.attacks.values())


def test_models_of_other_tables_are_refused(quick):
    members, others = sides()
    renamed = [table.rename(columns={"number 1": "income"}) for table in (members, others)]
    with pytest.raises(SchemaError, match=r"the model was fitted on another table: .*income"):
        attack(quick, *renamed)
    other_kind = others.assign(**{"number 1": "many"})
    with pytest.raises(
        SchemaError, match=r"the model was fitted .*: column 'number 1' of .* non-m"
    ):
        attack(quick, members, other_kind)


def test_tables_that_cannot_be_compared(quick):
    members, others = sides()
    with pytest.raises(DataError, match="overlap"):
        attack(quick, members, pd.concat([others, members[:100]]))
    with pytest.raises(DataError, match="too few members"):
        attack(quick, members[:5], others)
    with pytest.raises(DataError, match="too few non-members"):
        attack(quick, members, others[:5])


def test_an_unfitted_model_is_refused():
    with pytest.raises(PlanError, match="learned nothing yet"):
        attack(Synthesizer("tvae", device="cpu"), *sides())
