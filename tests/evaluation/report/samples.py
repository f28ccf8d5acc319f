"""Scores and pictures as an evaluation and an audit make them, written by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

EVIL = "<script>alert(1)</script>"
ODD = [
    EVIL,
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }}",
    "Größe <b>in</b> µm",
    "年収",
    "",
    "--ink",
]

COLUMNS = {
    "age": ("KSComplement", 0.947),
    "workclass": ("TVComplement", 0.918),
    "education": ("TVComplement", 0.884),
    "hours_per_week": ("KSComplement", 0.791),
    "capital_gain": ("KSComplement", 0.702),
    "marital_status": ("TVComplement", 0.931),
    "admitted": ("KSComplement", 0.956),
    "income": ("TVComplement", 0.973),
}


def bell(n: int, centre: float, width: float) -> list[float]:
    """Shares of n bars under a bell."""
    weights = [math.exp(-(((i + 0.5) / n - centre) ** 2) / (2 * width**2)) for i in range(n)]
    return [weight / sum(weights) for weight in weights]


def numeric(low: float, high: float, shift: float = 0.0, bars: int = 40) -> dict[str, Any]:
    """A numeric column; the synthetic rows are off by a shift."""
    return {
        "kind": "numeric",
        "edges": [low + (high - low) * i / bars for i in range(bars + 1)],
        "real": bell(bars, 0.4, 0.18),
        "synthetic": bell(bars, 0.4 + shift, 0.15),
        "holdout": bell(bars, 0.405, 0.178),
        "nulls": {"real": 0.021, "synthetic": 0.034, "holdout": 0.02},
    }


def discrete(labels: list[str], real: list[float], synthetic: list[float]) -> dict[str, Any]:
    """A discrete column."""
    holdout = [share + (0.004 if i % 2 else -0.004) for i, share in enumerate(real)]
    return {
        "kind": "discrete",
        "labels": labels,
        "real": real,
        "synthetic": synthetic,
        "holdout": holdout,
    }


def matrix(n: int, diagonal: float = 1.0, phase: float = 1.0) -> list[list[float | None]]:
    """A symmetric matrix with a gap."""
    cells: list[list[float | None]] = [
        [diagonal if i == j else math.cos(phase * (i + 1) * (j + 1)) for j in range(n)]
        for i in range(n)
    ]
    if n > 2:
        cells[0][2] = cells[2][0] = None
    return cells


def curve(power: float) -> dict[str, list[float]]:
    """A curve on a grid of logs: TPR = FPR ** power."""
    fpr = [10 ** (-3 + 3 * i / 40) for i in range(41)]
    return {"fpr": [0.0, *fpr], "tpr": [0.0, *(rate**power for rate in fpr)]}


def attack(auc: float, tpr: float, half: float = 0.02, **more: Any) -> dict[str, Any]:
    """What an attack reached."""
    return {
        "auc": auc,
        "auc_low": auc - half,
        "auc_high": min(auc + half, 1.0),
        "tpr_at_1pct_fpr": tpr,
        "tpr_low": tpr * 0.6,
        "tpr_high": min(tpr * 1.5, 1.0),
        "tpr_at_01pct_fpr": tpr / 8,
        "tpr_01_low": 0.0,
        "tpr_01_high": tpr / 3,
        "epsilon_low": max(0.0, 8 * (auc - 0.55)),
        "found": auc - half > 0.5,
        **more,
    }


def control(attack_name: str, auc: float, tpr: float, found: bool) -> dict[str, Any]:
    """What the strongest attack reached on a control."""
    keys = ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low", "tpr_high")
    reached = attack(auc, tpr)
    return {"attack": attack_name, **{key: reached[key] for key in keys}, "found": found}


def membership(leak: bool = False) -> dict[str, Any]:
    """Attacks and controls."""
    attacks = {
        "distance": attack(0.507, 0.011),
        "calibrated": attack(0.512, 0.014),
        "density": attack(0.641 if leak else 0.519, 0.083 if leak else 0.013),
        "monte_carlo": attack(0.503, 0.009),
        "classifier": attack(0.498, 0.01),
        "logan": attack(0.494, 0.008),
        "recoding": attack(0.501, 0.012),
    }
    power = {
        "copier": control("distance", 0.996, 0.99, True),
        "noisy_copier": control("density", 0.871, 0.41, True),
        "leak": control("calibrated", 0.546, 0.06, leak),
        "recoded": control("recoding", 0.934, 0.72, True),
        "fresh": control("logan", 0.508, 0.013, False),
        "shuffled": control("density", 0.511, 0.012, False),
        "holdout": control("logan", 0.508, 0.013, False) | {"same_as": "fresh"},
    }
    text = "The attack 'density' tells members from non-members with an AUC of 0.641."
    quiet = (
        "No attack found a leak, but that means little. The attacks missed a table with 5 % of the "
        "members in it: with 2,400 members and 2,400 non-members a leak like that stays unseen."
    )
    return {
        "attacks": attacks,
        "worst": "density",
        "power": power,
        "members": 2400,
        "non_members": 2400,
        "reference": 1200,
        "verdict": {
            "finding": "leak" if leak else "inconclusive",
            "text": f"Something about the members leaks. {text}" if leak else quiet,
            "reasons": [text if leak else quiet],
        },
    }


def curves() -> dict[str, Any]:
    """ROC curves of attacks and controls."""
    attacks = {name: {**curve(0.97), "control": False} for name in ("distance", "logan", "density")}
    positive = {"copier": 0.004, "noisy_copier": 0.2, "leak": 0.62, "recoded": 0.07}
    negative = {"fresh": 1.02, "shuffled": 0.98}
    return (
        attacks
        | {"density": {**curve(0.86), "control": False}}
        | {name: {**curve(power), "control": True} for name, power in (positive | negative).items()}
    )


def evaluation() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every section, of rows that are middling."""
    names = list(COLUMNS)
    pairs = [
        {
            "columns": [a, b],
            "metric": "CorrelationSimilarity",
            "score": 0.99 - 0.031 * i - 0.017 * j,
        }
        for j, b in enumerate(names)
        for i, a in enumerate(names[:j])
    ]
    auroc = {"auroc": 0.861, "f1_macro": 0.713, "accuracy": 0.829}
    better = {"auroc": 0.926, "f1_macro": 0.794, "accuracy": 0.871}
    models = {
        name: {
            "tstr": {metric: value - drop for metric, value in auroc.items()},
            "trtr": {metric: value - drop for metric, value in better.items()},
            "augmented": {metric: value - drop + 0.002 for metric, value in better.items()},
        }
        for name, drop in (
            ("gradient_boosting", 0.0),
            ("random_forest", 0.012),
            ("logistic_regression", 0.021),
        )
    }
    scores = {
        "kind": "evaluation",
        "tables": {
            "real": {"rows": 32561, "columns": 8},
            "synthetic": {"rows": 32561, "columns": 8},
            "holdout": {"rows": 16281, "columns": 8},
        },
        "fidelity": {
            "quality": 0.843,
            "column_shapes": 0.888,
            "column_pair_trends": 0.798,
            "columns": {name: {"metric": m, "score": s} for name, (m, s) in COLUMNS.items()},
            "pairs": pairs,
            "diagnostic": {
                "score": 0.996,
                "data_validity": 0.993,
                "data_structure": 1.0,
                "columns": [
                    {"column": name, "metric": "BoundaryAdherence", "score": 0.941 if i == 4 else 1}
                    for i, name in enumerate(names)
                ],
            },
            "coverage": {
                "score": 0.93,
                "columns": {
                    name: {"metric": "RangeCoverage", "score": 1 - i / 40}
                    for i, name in enumerate(names)
                },
            },
            "average_jsd": 0.0391,
            "average_wd": 0.0213,
            "jsd": {
                "workclass": 0.012,
                "education": 0.041,
                "marital_status": 0.02,
                "income": 0.001,
            },
            "wd": {"age": 0.011, "hours_per_week": 0.032, "capital_gain": 0.004, "admitted": 0.01},
        },
        "detection": {
            "c2st_auc": 0.784,
            "c2st_low": 0.777,
            "c2st_high": 0.791,
            "models": {
                "gradient_boosting": {"auc": 0.784, "low": 0.777, "high": 0.791},
                "logistic_regression": {"auc": 0.639, "low": 0.63, "high": 0.648},
            },
            "columns": [
                {"column": name, "importance": 0.14 / (i + 1) - 0.02}
                for i, name in enumerate(["capital_gain", "hours_per_week", "age", "income"])
            ],
            "rows": 20000,
            "reason": None,
        },
        "utility": {
            "target": "income",
            "task": "classification",
            "metric": "auroc",
            "model": "gradient_boosting",
            "tstr": 0.861,
            "trtr": 0.926,
            "augmented": 0.928,
            "difference": {"value": -0.065, "low": -0.071, "high": -0.059},
            "augmentation_gain": {"value": 0.002, "low": -0.002, "high": 0.006},
            "importance_agreement": 0.81,
            "importances": {
                "real": {name: 0.2 / (i + 1) for i, name in enumerate(names)},
                "synthetic": {name: 0.15 / (i + 2) for i, name in enumerate(names)},
            },
            "models": models,
            "train_rows": 30000,
            "synthetic_rows": 30000,
            "test_rows": 16281,
            "reason": None,
            "tested_on": "the holdout",
        },
        "similarity": {
            "label": "similarity, not privacy",
            "dcr": {
                "synthetic": {"median": 0.214, "p05": 0.041},
                "holdout": {"median": 0.187, "p05": 0.022},
            },
            "closer_to_real": {"share": 0.506, "low": 0.498, "high": 0.514},
            "nndr": {
                "synthetic": {"median": 0.881, "p05": 0.402},
                "holdout": {"median": 0.874, "p05": 0.389},
            },
            "exact_copies": {"count": 41, "share": 0.00126, "holdout_share": 0.0019},
            "near_copies": {"share": 0.004, "threshold": 0.02, "holdout_share": 0.01},
            "new_rows": {"share": 0.997, "low": 0.994, "high": 0.999, "rows": 2000},
            "copied_ids": {},
        },
        "controls": {
            "shuffled": {
                "quality": 0.88,
                "column_shapes": 0.997,
                "column_pair_trends": 0.763,
                "c2st_auc": 0.987,
                "c2st_logistic": 0.492,
                "tstr": 0.492,
            },
            "holdout": {
                "quality": 0.989,
                "column_shapes": 0.993,
                "column_pair_trends": 0.985,
                "c2st_auc": 0.499,
                "c2st_logistic": 0.49,
                "tstr": 0.924,
            },
        },
        "privacy": membership(),
    }
    classes = ["Private", "Self-emp-not-inc", "Local-gov", "State-gov", "Never-worked"]
    degrees = [f"{i}th grade of the upper school" for i in range(1, 13)]
    pictures = {
        "distributions": {
            "age": numeric(17, 90, 0.02),
            "workclass": discrete(
                [*classes, "null"],
                [0.7, 0.1, 0.08, 0.05, 0.01, 0.06],
                [0.76, 0.07, 0.07, 0.04, 0, 0.06],
            ),
            "education": discrete([*degrees, "4 others"], bell(13, 0.6, 0.2), bell(13, 0.5, 0.22)),
            "hours_per_week": numeric(1, 99, 0.12),
            "capital_gain": numeric(0, 99999, -0.2),
            "marital_status": discrete(
                ["Married", "Never married", "Divorced"], [0.47, 0.33, 0.2], [0.5, 0.32, 0.18]
            ),
            "admitted": numeric(0, 1, 0.01)
            | {
                "kind": "datetime",
                "edges": [f"20{10 + i // 4}-{1 + 3 * (i % 4):02}-01" for i in range(41)],
            },
            "income": discrete(["<=50K", ">50K"], [0.76, 0.24], [0.79, 0.21]),
        },
        "trends": {
            "columns": names,
            "real": matrix(8),
            "synthetic": matrix(8, phase=1.1),
            "score": [
                [1 if i == j else 0.99 - 0.031 * min(i, j) - 0.017 * max(i, j) for j in range(8)]
                for i in range(8)
            ],
        },
        "curves": curves(),
        "losses": [
            {"generator_loss": 1.4 - 0.2 * i + 0.03 * i**2, "discriminator_loss": -0.3 + 0.03 * i}
            for i in range(10)
        ],
    }
    return scores, pictures


def guesses(rate: float, control_rate: float) -> dict[str, Any]:
    """A rate beside its control."""
    risk = max(0.0, (rate - control_rate) / (1 - control_rate))
    return {
        "guesses": 2000,
        "baseline": 0.2,
        "rate": rate,
        "low": rate - 0.02,
        "high": rate + 0.02,
        "control": control_rate,
        "control_low": control_rate - 0.02,
        "control_high": control_rate + 0.02,
        "risk": risk,
        "risk_low": max(0.0, risk - 0.04),
        "risk_high": risk + 0.04,
        "reason": None,
    }


def audit() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every section, of rows that leak."""
    kinds = {"univariate": guesses(0.11, 0.1), "multivariate": guesses(0.31, 0.29)}
    real = {"reference": 0.8, "reference_low": 0.78, "reference_high": 0.82}
    secrets = {
        "income": {"nearest": guesses(0.86, 0.79) | real, "boosting": guesses(0.82, 0.8) | real},
        "diagnosis <b>": {"nearest": guesses(0.52, 0.5) | real},
    }
    scores = {
        "kind": "audit",
        "tables": {
            "members": {"rows": 2400, "columns": 8},
            "non_members": {"rows": 4800, "columns": 8},
            "synthetic": {"rows": 2400, "columns": 8},
        },
        **membership(leak=True),
        "white_box": {
            "attacks": {"critic": attack(0.909, 0.475), "single_update": attack(0.62, 0.05)},
            "worst": "critic",
            "left_out": None,
            "sees": {"critic": "whoever holds the critic", "single_update": "the server"},
        },
        "shadow": {
            "attacks": {"lira": attack(0.66, 0.09), "rmia": attack(0.67, 0.1)},
            "worst": "rmia",
        },
        "attributes": {
            **secrets["income"]["nearest"],
            "secret": "income",
            "attacker": "nearest",
            "columns": secrets,
        },
        "singling_out": {**kinds["multivariate"], "predicates": "multivariate", **kinds},
        "linkability": {**guesses(0.04, 0.03), "halves": [["age"], ["income"]]},
        "one_run": {
            "epsilon": 1.32,
            "ceiling": 4.61,
            "p_value": 1e-9,
            "canaries": 1000,
            "included": 491,
            "guesses": 100,
            "correct": 83,
            "delta": 1e-5,
            "level": 0.95,
            "attack": "calibrated",
        },
        "detection": evaluation()[0]["detection"],
        "similarity": evaluation()[0]["similarity"],
    }
    return scores, {"curves": curves(), "distributions": evaluation()[1]["distributions"]}


def wide() -> tuple[dict[str, Any], dict[str, Any]]:
    """Sixty columns with odd names, and odd categories."""
    names = [
        *ODD,
        *(f"a very long name of a column that goes on {'x' * 40} {i}" for i in range(53)),
    ]
    scores, pictures = evaluation()
    scores["fidelity"]["columns"] = {
        name: {"metric": "KSComplement", "score": 0.4 + i / 100} for i, name in enumerate(names)
    }
    scores["fidelity"]["pairs"] = [
        {"columns": [a, b], "metric": EVIL, "score": 0.7} for a, b in pairwise(names)
    ]
    scores["fidelity"]["diagnostic"]["columns"] = [
        {"column": name, "metric": EVIL, "score": 0.5} for name in names
    ]
    scores["detection"]["columns"] = [{"column": name, "importance": 0.1} for name in names]
    scores["utility"]["target"] = EVIL
    scores["utility"]["importances"] = {k: dict.fromkeys(names, 0.1) for k in ("real", "synthetic")}
    scores["similarity"]["copied_ids"] = dict.fromkeys(ODD, 0.5)
    scores["privacy"]["verdict"]["text"] = f"Odd: {EVIL}"
    pictures["distributions"] = {
        name: numeric(0, 1, 0.1)
        if i % 2
        else discrete(list(ODD), bell(7, 0.3, 0.2), bell(7, 0.4, 0.2))
        for i, name in enumerate(names)
    }
    pictures["trends"] = {"columns": names, "real": None, "synthetic": None, "score": matrix(60)}
    pictures["losses"] = [{EVIL: 1.0, "{{ 7 * 7 }}": None}, {EVIL: 0.5}]
    return scores, pictures


def one_column() -> tuple[dict[str, Any], dict[str, Any]]:
    """A table of one column: no pairs, little else."""
    scores = {
        "kind": "evaluation",
        "tables": {"real": {"rows": 1, "columns": 1}, "synthetic": {"rows": 1, "columns": 1}},
        "fidelity": {
            "quality": None,
            "column_shapes": 1.0,
            "column_pair_trends": None,
            "columns": {EVIL: {"metric": "KSComplement", "score": None}},
            "pairs": [],
        },
        "privacy": {"attacks": None, "why": "No holdout was given."},
        "detection": {"c2st_auc": None, "models": {}, "columns": [], "reason": "too few rows"},
    }
    picture = {
        "kind": "numeric",
        "edges": [4.5, 5.5],
        "real": [1.0],
        "synthetic": [1.0],
        "holdout": None,
    }
    return scores, {"distributions": {EVIL: picture}, "trends": {"columns": [], "score": None}}


SAMPLES = {"evaluation": evaluation, "audit": audit, "wide": wide, "one_column": one_column}
