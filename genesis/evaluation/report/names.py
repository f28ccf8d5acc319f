"""What the keys of the scores are called on the page."""

from __future__ import annotations

from genesis.evaluation.report.values import words

__all__ = [
    "CONTROLS",
    "MEASURES",
    "NEGATIVE",
    "ONE_ROUND",
    "POSITIVE",
    "RULES",
    "SHORT",
    "attack_label",
    "column_label",
    "control_label",
]

POSITIVE = {
    "copier": "The members themselves",
    "noisy_copier": "The members with 5 % noise",
    "leak": "Fresh rows with 5 % of the members",
    "recoded": "The members, re-coded",
}
"""Controls that leak by construction: the attacks have to find them."""

NEGATIVE = {
    "fresh": "Fresh real rows",
    "holdout": "The real holdout",
    "shuffled": "Shuffled columns",
}
"""Controls that hold nothing about the members: the attacks should find nothing."""

CONTROLS = POSITIVE | NEGATIVE

SHORT = {
    "copier": "copy",
    "noisy_copier": "noisy copy",
    "leak": "5 % leak",
    "recoded": "re-coded copy",
}
"""The positive controls in a word or two."""

MEASURES = {
    "auroc": "AUROC",
    "f1_macro": "F1 macro",
    "accuracy": "Accuracy",
    "r2": "R²",
    "mae": "Mean absolute error",
}

RULES = {
    "BoundaryAdherence": "in the real range",
    "CategoryAdherence": "of known categories",
    "KeyUniqueness": "keys that occur once",
}
"""What each rule of SDMetrics' diagnosis counts."""

ONE_ROUND = "single_update"
"""How the names of attacks begin that tell of one round of training, and not of the model."""

_ATTACKS = {
    "distance": "Nearest distance",
    "calibrated": "Calibrated distance",
    "density": "Density ratio (DOMIAS)",
    "monte_carlo": "Monte Carlo",
    "classifier": "Classifier",
    "logan": "Neural critic (LOGAN)",
    "recoding": "Re-coding undone",
    "critic": "Critic score",
    "reconstruction": "Reconstruction",
    "elbo": "Evidence lower bound (ELBO)",
    "likelihood": "Likelihood",
    "nearest_draw": "Nearest of many draws",
    "lira": "LiRA",
    "rmia": "RMIA",
}


def column_label(name: object) -> str:
    """Name of a column; even one that is empty can be seen."""
    return str(name) or "(no name)"


def attack_label(name: str) -> str:
    """Name of an attack."""
    if name.startswith(ONE_ROUND):
        inner = attack_label(name.removeprefix(ONE_ROUND).lstrip("_"))
        return f"One round: {inner}" if inner else "One round"
    return _ATTACKS.get(name, words(name))


def control_label(name: str) -> str:
    """Name of a control."""
    return CONTROLS.get(name, words(name))
