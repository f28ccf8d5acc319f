"""The sections of the page, in their order."""

from __future__ import annotations

from genesis.evaluation.report import privacy, quality
from genesis.evaluation.report.section import Section

__all__ = ["AUDIT", "EVALUATION"]

TRAINING = Section(
    "losses",
    "Training",
    "What training reported, round by round.",
    "",  # most reports are not of a training run
    quality.losses,
)

COLUMNS = Section(
    "columns",
    "Columns",
    "Each column by itself, real beside synthetic.",
    "Fidelity was not measured.",
    quality.columns,
    key="fidelity",
)

DETECTION = Section(
    "detection",
    "Detection",
    "Can a classifier tell synthetic rows from real ones, and by what?",
    "Detection was not measured.",
    quality.detection,
)

SIMILARITY = Section(
    "similarity",
    "Similarity, not privacy",
    "How close synthetic rows come to the training rows. Far is not safe: a re-coded copy is "
    "far from everything.",
    "Similarity was not measured.",
    quality.similarity,
)

EVALUATION = (
    Section(
        "controls",
        "Beside the controls",
        "What each score means: synthetic rows between shuffled columns, which hold no dependence, "
        "and real rows.",
        "No control was run.",
        quality.controls,
    ),
    COLUMNS,
    Section(
        "pairs",
        "Pairs of columns",
        "Whether columns go together as they do in the real rows.",
        "There are no two columns to compare.",
        quality.pairs,
        key="fidelity",
    ),
    DETECTION,
    Section(
        "utility",
        "Utility",
        "Do models learn from synthetic rows what they learn from real ones?",
        "No target column was named.",
        quality.utility,
    ),
    Section(
        "attacks",
        "Membership inference",
        "Can an attacker who sees the synthetic rows tell whether someone was trained on?",
        "No rows were given that were never trained on.",
        privacy.attacks,
        key="privacy",
    ),
    SIMILARITY,
    TRAINING,
)

AUDIT = (
    Section(
        "attacks",
        "Membership inference",
        "Can an attacker who sees the synthetic rows tell whether someone was trained on?",
        "No attack was run.",
        privacy.attacks,
    ),
    Section(
        "white_box",
        "With the model at hand",
        "The same question for those who hold the model or see its updates.",
        "No model was given.",
        privacy.model_attacks("white_box"),
        "attacks",
    ),
    Section(
        "shadow",
        "With shadow models",
        "The same question for an attacker who can train the generator again and again.",
        "Shadow models were not asked for.",
        privacy.model_attacks("shadow"),
        "attacks",
    ),
    Section(
        "attributes",
        "Guessing a secret",
        "Can a secret column be guessed better for people who were trained on?",
        "Attribute inference was not measured.",
        privacy.risk("attributes"),
        "risk",
    ),
    Section(
        "singling_out",
        "Singling out",
        "Do the synthetic rows lead to descriptions that fit exactly one person?",
        "Singling out was not measured.",
        privacy.risk("singling_out"),
        "risk",
    ),
    Section(
        "linkability",
        "Linking records",
        "Do the synthetic rows help to link two parts of one person's record?",
        "Linkability was not measured.",
        privacy.risk("linkability"),
        "risk",
    ),
    Section(
        "one_run",
        "Audit in one run",
        "How much privacy the training method provably loses, by canaries.",
        "It trains the method again, and was not asked for.",
        privacy.one_run,
    ),
    DETECTION,
    SIMILARITY,
    COLUMNS,
)
