"""`audit`: every attack on one table, what it relies on, and what it refuses."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genesis import DataError, ModelFileError, PlanError, Report, SchemaError, Synthesizer, audit
from tests.dirty import QUICK_TVAE, dirty_table


@lru_cache
def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Members, non-members, and rows of neither."""
    return dirty_table(150, 0), dirty_table(200, 2), dirty_table(150, 1)


@lru_cache
def plain() -> Report:
    return audit(*tables())


def test_the_scores_that_programs_rely_on() -> None:
    scores = plain().to_dict()
    assert scores["worst"] in scores["attacks"]
    wanted = {"auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low", "tpr_high"}
    for found in (*scores["attacks"].values(), *scores["power"].values()):
        assert set(found) >= wanted
    for part in ("attributes", "singling_out", "linkability"):
        assert set(scores[part]) >= {"rate", "low", "high", "baseline", "control", "risk"}
    for part in ("white_box", "shadow", "one_run"):
        assert scores[part] is None
    assert scores["verdict"]["finding"] != "leak"
    json.dumps(scores, allow_nan=False)
    assert "</html>" in plain().to_html()
    assert len(plain().to_frame())


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    mixed = [
        table.iloc[rng.permutation(len(table)), rng.permutation(table.shape[1])]
        for table in tables()
    ]
    assert audit(*mixed).to_dict() == plain().to_dict()


def test_a_copier_is_caught_by_everything() -> None:
    members, others, _ = tables()
    scores = audit(members, others, members).to_dict()
    assert scores["verdict"]["finding"] == "leak"
    assert scores["copies"]["found"]
    for part in ("singling_out", "linkability"):
        assert scores[part]["risk_low"] > 0


def test_a_method_under_audit() -> None:
    """Shadows and canaries train what they are told to."""
    sizes: list[int] = []

    def remember(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        sizes.append(len(rows))
        return rows.sample(frac=1, random_state=seed % 2**32)

    members, others, synthetic = tables()
    scores = audit(members, others, synthetic, train=remember, shadows=4, canaries=120).to_dict()
    assert len(sizes) == 5
    run = scores["one_run"]
    assert run["epsilon"] == pytest.approx(run["ceiling"]), "a copier tells every canary"
    assert scores["verdict"]["finding"] == "leak"
    assert "canaries" in " ".join(scores["verdict"]["reasons"])


def test_a_model_in_memory_and_its_file(tmp_path: Path) -> None:
    members, others, synthetic = tables()
    fitted = Synthesizer("tvae", QUICK_TVAE, seed=0).fit(members)
    fitted.save(tmp_path / "model")
    whole = audit(members, others, synthetic, model=fitted).to_dict()["white_box"]
    read = audit(members, others, synthetic, model=tmp_path / "model").to_dict()["white_box"]
    assert set(whole["attacks"]) - set(read["attacks"]) == {"elbo", "reconstruction"}
    (tmp_path / "model").write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        audit(members, others, synthetic, model=tmp_path / "model")


def test_what_cannot_be_audited() -> None:
    members, others, synthetic = tables()
    with pytest.raises(DataError, match="too few members for an interval; got 5"):
        audit(members.iloc[:5], others, synthetic)
    with pytest.raises(DataError, match="overlap"):
        audit(members, pd.concat([others, members.iloc[:40]]), synthetic)
    with pytest.raises(DataError, match="the synthetic table has no rows"):
        audit(members, others, synthetic.iloc[:0])
    with pytest.raises(SchemaError, match="no column 'smokes' can be guessed"):
        audit(members, others, synthetic, secrets=["smokes"])
    with pytest.raises(PlanError, match="need a method to train"):
        audit(members, others, synthetic, shadows=4)
    other = Synthesizer("tvae", QUICK_TVAE, seed=0).fit(members.drop(columns="sex"))
    with pytest.raises(SchemaError, match="the model was fitted on another table"):
        audit(members, others, synthetic, model=other)
