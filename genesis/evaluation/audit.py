"""`audit`: every attack there is on synthetic rows, and on the model and the method behind them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from genesis.devices import resolve_device
from genesis.errors import PlanError
from genesis.evaluation import pictures
from genesis.evaluation.attributes import attributes, check_secrets
from genesis.evaluation.detection import detect
from genesis.evaluation.linkability import linkability
from genesis.evaluation.membership import membership
from genesis.evaluation.one_run import audit_one_run, check_canaries
from genesis.evaluation.report import Report
from genesis.evaluation.rows import Aligned, align
from genesis.evaluation.shadow import check_shadows, shadow
from genesis.evaluation.similarity import similarity
from genesis.evaluation.singling_out import singling_out
from genesis.evaluation.steps import Counter, Steps
from genesis.evaluation.training import Train, training_like
from genesis.evaluation.verdict import verdict
from genesis.evaluation.white_box import check_model, white_box
from genesis.seeding import check_seed
from genesis.synthesizer import Synthesizer

if TYPE_CHECKING:
    import torch

    from genesis.schema import Schema

__all__ = ["audit"]

LEVEL = 0.99
"""Confidence of each risk: there are several, and a false alarm of any is one of the audit."""


def audit(
    members: pd.DataFrame,
    non_members: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    reference: pd.DataFrame | None = None,
    model: Synthesizer | str | os.PathLike[str] | None = None,
    secrets: Sequence[str] = (),
    train: Train | None = None,
    shadows: int = 0,
    canaries: int = 0,
    schema: Schema | None = None,
    discrete_columns: Sequence[str] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Steps | None = None,
) -> Report:
    """Attack synthetic rows, to see whether they leak.

    The same attacks are run on tables that leak on purpose, and on tables that cannot: what they
    find there tells what it is worth that they find nothing. No result makes rows "private".

    Args:
        members: Rows that the generator was trained on.
        non_members: Rows of the same population that it was not trained on.
        synthetic: Rows that it made.
        reference: More rows of the population, which attackers of the rows and of the model
            compare with; a part of the non-members if None. Shadows and risks need none.
        model: The generator, or its file: attacks by those who hold it. One in memory still has
            the critic or encoder that it was trained with, a file does not.
        secrets: Columns that attackers guess from the others; each in turn if there are none.
        train: The method under audit, for shadows and canaries: (rows, seed) -> synthetic rows, as
            many as were published. That of the model if None.
        shadows: Generators to train on halves of the rows, for attacks that learn from them; 0 for
            none.
        canaries: Rows to plant in the members, for a lower bound on the ε of the method from one
            more training run; 0 for none.
        schema: Kinds of the columns; what the tables say if None.
        discrete_columns: Columns to take as categories, whatever they look like.
        seed: Decides whatever is drawn.
        device: Where distances are computed: "auto", "cpu" or "cuda".
        progress: Told of every step.

    Returns:
        The scores, of which "verdict" says what they allow one to say, and their pictures.

    Raises:
        DataError: A table has no rows or too few, two tables overlap, or canaries take all rows.
        SchemaError: Columns or kinds differ between the tables, or from those of the model; or a
            secret cannot be guessed.
        ModelFileError: The model file cannot be read.
        PlanError: Shadows or canaries without a method to train, or impossible numbers of them; or
            no such seed or device.
    """
    check_seed(seed)
    place = resolve_device(device)
    aligned = align(
        {
            "members": members,
            "non_members": non_members,
            "synthetic": synthetic,
            "reference": reference,
        },
        schema=schema,
        discrete_columns=discrete_columns,
    )
    rows, frames = aligned.rows, aligned.frames
    generator = _loaded(model, device)
    if generator is not None and train is None:
        train = training_like(generator, aligned.schema, len(synthetic))
    if (shadows or canaries) and train is None:
        raise PlanError(
            "shadows and canaries need a method to train",
            got="neither a model nor a method",
            do="give the model, or the method that made the rows",
        )
    # What may be wrong is told before the work begins.
    check_secrets(rows["members"].columns.names, secrets)
    if generator is not None:
        check_model(generator, frames["members"], frames["non_members"], frames.get("reference"))
    if shadows:
        check_shadows(shadows)
    if canaries:
        check_canaries(canaries, len(frames["members"]))
    steps = 6 + (generator is not None) + bool(shadows) + bool(canaries)
    say = Counter(steps, progress)

    say("membership inference")
    attacked = membership(
        rows["members"],
        rows["non_members"],
        rows["synthetic"],
        reference=rows.get("reference"),
        seed=seed,
        device=place,
    )
    say("detection")
    found = detect(rows["non_members"], rows["synthetic"], seed=seed)
    say("similarity")
    evaluated = _as_evaluation(aligned)
    near = similarity(evaluated, "holdout", place, seed)
    people = rows["members"], rows["non_members"], rows["synthetic"]
    say("attribute inference")
    guessed = attributes(*people, secrets=secrets, level=LEVEL, seed=seed, device=place)
    say("singling out")
    singled = singling_out(*people, level=LEVEL, seed=seed)
    say("linkability")
    linked = linkability(*people, level=LEVEL, seed=seed, device=place)
    inside = run = shaded = None
    if generator is not None:
        say("with the model")
        inside = white_box(
            generator,
            frames["members"],
            frames["non_members"],
            reference=frames.get("reference"),
            seed=seed,
            device=place,
        )
    if shadows and train is not None:
        say("shadow models")
        shaded = shadow(
            train,
            frames["members"],
            frames["non_members"],
            synthetic,
            shadows=shadows,
            seed=seed,
            device=place,
        )
    if canaries and train is not None:
        say("one-run audit")
        run = audit_one_run(
            train,
            frames["members"],
            canaries=canaries,
            schema=aligned.schema,
            seed=seed,
            device=place,
        )

    scores = {"kind": "audit", "tables": aligned.sizes()} | attacked.to_dict()
    parts = {
        "white_box": inside,
        "shadow": shaded,
        "attributes": guessed,
        "singling_out": singled,
        "linkability": linked,
        "one_run": run,
        "similarity": near,
        "detection": found,
    }
    scores |= {name: None if part is None else part.to_dict() for name, part in parts.items()}
    scores["verdict"] = verdict(scores, found.to_dict()["c2st_auc"]).to_dict()
    scores["seed"] = seed
    drawn = {
        "distributions": pictures.distributions(evaluated),
        "curves": pictures.curves(attacked),
    }
    return Report(scores, drawn)


def _loaded(
    model: Synthesizer | str | os.PathLike[str] | None, device: str | torch.device
) -> Synthesizer | None:
    """A model, read from its file if need be."""
    if isinstance(model, str | os.PathLike):
        return Synthesizer.load(model, device=device)
    return model


def _as_evaluation(aligned: Aligned) -> Aligned:
    """The same tables under the names that they have in an evaluation."""
    names = {"real": "members", "synthetic": "synthetic", "holdout": "non_members"}
    return Aligned(
        aligned.schema,
        {name: aligned.frames[key] for name, key in names.items()},
        {name: aligned.rows[key] for name, key in names.items()},
    )
