"""`evaluate`: how good synthetic rows are, beside controls that show what each score means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from genesis.devices import resolve_device
from genesis.errors import SchemaError, nearest_names
from genesis.evaluation import pictures
from genesis.evaluation.controls import shuffled
from genesis.evaluation.detection import Detection, detect
from genesis.evaluation.fidelity import fidelity, quality
from genesis.evaluation.membership import (
    FEWEST_MEMBERS,
    FEWEST_NON_MEMBERS,
    Membership,
    check_disjoint,
    membership,
)
from genesis.evaluation.report import Report
from genesis.evaluation.rows import Aligned, Rows, align
from genesis.evaluation.similarity import similarity
from genesis.evaluation.steps import Counter, Steps
from genesis.evaluation.utility import check_target, headline, utility
from genesis.evaluation.verdict import verdict
from genesis.seeding import check_seed

if TYPE_CHECKING:
    import torch

    from genesis.schema import Schema

__all__ = ["check_tables", "evaluate"]

TEST_SHARE = 0.25
"""Share of the real rows that stand in for a holdout where there is none."""


def evaluate(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    holdout: pd.DataFrame | None = None,
    target: str | None = None,
    schema: Schema | None = None,
    discrete_columns: Sequence[str] = (),
    losses: Iterable[Mapping[str, float]] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Steps | None = None,
) -> Report:
    """Measure how good synthetic rows are, and attack them if there is a holdout.

    The same scores are taken of real rows with every column shuffled, and of real rows that the
    generator has not seen: they say what bad and perfect look like on this table. Scores do not
    depend on the order of rows or columns.

    Args:
        real: Rows that the generator was trained on.
        synthetic: Rows that it made.
        holdout: Real rows that it was not trained on. Without any, a quarter of the real rows
            stands in where that makes sense, and there is no membership inference.
        target: A column that models are to predict; no utility is measured if None.
        schema: Kinds of the columns; what the tables say if None.
        discrete_columns: Columns to take as categories, whatever they look like.
        losses: Of every round or epoch of training, for the report.
        seed: Decides whatever is drawn.
        device: Where distances are computed: "auto", "cpu" or "cuda".
        progress: Told of every step.

    Returns:
        The scores by section, those of the controls among them, and their pictures.

    Raises:
        DataError: A table has no rows, the holdout overlaps the real rows, or the target has one
            value only.
        SchemaError: Columns or kinds differ between the tables, or there is no such target.
        PlanError: There is no such seed or device.
    """
    check_seed(seed)
    place = resolve_device(device)
    target = None if target is None else str(target)
    aligned = align(
        {"real": real, "synthetic": synthetic, "holdout": holdout},
        schema=schema,
        discrete_columns=discrete_columns,
    )
    rows = aligned.rows
    train, test = _checked(aligned, target, seed)

    say = Counter(7 if target is None else 8, progress)
    say("fidelity")
    shapes = fidelity(aligned)
    say("detection")
    found = detect(rows["real"], rows["synthetic"], seed=seed)
    useful = None
    if target is not None:
        say("utility")
        useful = utility(train, rows["synthetic"], test, target, seed=seed)
    say("similarity")
    near = similarity(aligned, "holdout" if "holdout" in rows else None, place, seed)
    say("control: shuffled columns")
    mixed = shuffled(rows["real"], seed)
    controls = {"shuffled": _control(train, mixed, test, target, seed)}
    say("control: real rows")
    controls["holdout"] = _control(train, test, None, target, seed)
    say("membership inference")
    attacked = _attack(rows, seed, place)
    say("report")

    scores = {
        "kind": "evaluation",
        "tables": aligned.sizes(),
        "fidelity": shapes.to_dict(),
        "detection": found.to_dict(),
        "utility": None if useful is None else _with_test(useful.to_dict(), "holdout" in rows),
        "similarity": near.to_dict(),
        "controls": controls,
        "privacy": _privacy(attacked, found, rows),
        "seed": seed,
    }
    drawn = {
        "distributions": pictures.distributions(aligned),
        "trends": pictures.trends(shapes.quality, quality(rows["synthetic"], rows["real"])),
        "curves": {} if attacked is None else pictures.curves(attacked),
        "losses": [dict(each) for each in losses],
    }
    return Report(scores, drawn)


def check_tables(
    real: pd.DataFrame,
    holdout: pd.DataFrame | None,
    target: str | None,
    *,
    schema: Schema | None = None,
    discrete_columns: Sequence[str] = (),
) -> None:
    """Make sure that `evaluate` will take these, before there are synthetic rows.

    Args:
        real: As `evaluate`.
        holdout: As `evaluate`.
        target: As `evaluate`.
        schema: As `evaluate`.
        discrete_columns: As `evaluate`.

    Raises:
        DataError: As `evaluate`.
        SchemaError: As `evaluate`.
    """
    tables = {"real": real, "holdout": holdout}
    _checked(align(tables, schema=schema, discrete_columns=discrete_columns), target, seed=0)


def _checked(aligned: Aligned, target: str | None, seed: int) -> tuple[Rows, Rows]:
    """Real rows to train on and to test on, where the target and the holdout can be used.

    Raises:
        SchemaError: The target is no column that can be predicted.
        DataError: It has one value only, or the holdout overlaps the real rows.
    """
    rows = aligned.rows
    if "holdout" in rows:
        check_disjoint(rows["real"], rows["holdout"], ("real rows", "rows of the holdout"))
    train, test = _divided(rows, seed)
    if target is not None:
        if target not in aligned.schema:
            raise SchemaError(
                f"there is no column '{target}' to be the target",
                do=nearest_names(target, rows["real"].columns.names),
            )
        check_target(train, test, target)
    return train, test


def _divided(rows: Mapping[str, Rows], seed: int) -> tuple[Rows, Rows]:
    """Real rows to train on and real rows to test on."""
    real = rows["real"]
    if "holdout" in rows:
        return real, rows["holdout"]
    order = np.random.default_rng(np.random.SeedSequence([seed, len(real)])).permutation(len(real))
    test, train = np.split(order, [round(TEST_SHARE * len(real))])
    # A single row is all that there is to train and to test on.
    parts = (np.sort(part) if len(part) else order for part in (train, test))
    first, second = (real.take(part) for part in parts)
    return first, second


def _control(
    real: Rows, other: Rows, test: Rows | None, target: str | None, seed: int
) -> dict[str, float | None]:
    """The scores of a control in the place of the synthetic rows.

    Args:
        real: What it is compared with.
        other: The control.
        test: Where a model trained on the control is tested; None for the other half of itself.
        target: What the model predicts.
        seed: Decides whatever is drawn.
    """
    looks, found = quality(real, other), detect(real, other, seed=seed)
    if test is None:
        order = np.random.default_rng(np.random.SeedSequence([seed, len(other)])).permutation(
            len(other)
        )
        halves = np.array_split(order, 2)
        other, test = (other.take(np.sort(half)) for half in halves)
    logistic = found.models.get("logistic_regression")
    return {
        "quality": looks.score,
        "column_shapes": looks.column_shapes,
        "column_pair_trends": looks.column_pair_trends,
        "c2st_auc": found.to_dict()["c2st_auc"],
        "c2st_logistic": logistic and logistic.value,
        "tstr": None if target is None else headline(other, test, target, seed=seed),
    }


def _with_test(useful: dict[str, Any], held: bool) -> dict[str, Any]:
    """The utility with a word on the rows that models were tested on."""
    tested = "the holdout" if held else "a quarter of the real rows, which the generator has seen"
    return useful | {"tested_on": tested}


def _attack(rows: Mapping[str, Rows], seed: int, device: torch.device) -> Membership | None:
    """Membership inference, where there are rows enough."""
    if _too_few(rows) is not None:
        return None
    return membership(rows["real"], rows["holdout"], rows["synthetic"], seed=seed, device=device)


def _too_few(rows: Mapping[str, Rows]) -> str | None:
    """Why there is no membership inference, if there is none."""
    if "holdout" not in rows:
        return "no holdout was given, and without rows that were not trained on there is no attack"
    for name, table, fewest in (
        ("real table", rows["real"], FEWEST_MEMBERS),
        ("holdout", rows["holdout"], FEWEST_NON_MEMBERS),
    ):
        if len(table) < fewest:
            count = "one row" if len(table) == 1 else f"{len(table)} rows"
            return f"the {name} has {count}, and an interval needs at least {fewest}"
    return None


def _privacy(
    attacked: Membership | None, found: Detection, rows: Mapping[str, Rows]
) -> dict[str, Any]:
    """The attacks with their verdict, or why there are none."""
    if attacked is None:
        return {"attacks": None, "why": _too_few(rows)}
    scores = attacked.to_dict()
    auc = found.to_dict()["c2st_auc"]
    return scores | {"verdict": verdict(scores, auc).to_dict()}
