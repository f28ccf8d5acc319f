"""How to read each number, and when it lies. One entry a number, by section of the page."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["READING", "Term"]


class Term(NamedTuple):
    """What one number says."""

    name: str
    says: str
    lies: str


_AUC = Term(
    "AUC of an attack",
    "An attack gives each row a score that should be higher for members, which are rows that the "
    "generator was trained on. The AUC is the chance that a random member is scored above a random "
    "non-member: 0.5 is guessing, 1 is certainty. Intervals hold for all attacks at once (95 %).",
    "It is an average over rows. An attack that is certain of one row in a hundred hardly moves "
    "it, which is why the true positive rate at few false alarms stands beside it.",
)
_TPR = Term(
    "TPR at 1 % and at 0.1 % FPR",
    "How many members an attack names when it may be wrong about one non-member in a hundred, or "
    "in a thousand. Guessing reaches 1 % and 0.1 %. This is what matters to the one person who is "
    "found.",
    "With few non-members the interval is wide, and below a thousand of them the second rate "
    "cannot be measured at all.",
)
_EPSILON = Term(
    "ε at least",
    "The smallest ε of differential privacy that is consistent with what the attack achieved, at "
    "95 % confidence. The threshold is chosen on one half of the rows and judged on the other.",
    "It is a lower bound. Zero says that this attack proved nothing, not that ε is zero.",
)

READING: dict[str, tuple[Term, ...]] = {
    "controls": (
        Term(
            "Shuffled columns",
            "The real table with every column shuffled by itself. Each column is perfect and "
            "nothing that connects two columns is left. A score that likes it does not see "
            "dependence.",
            "It holds real values, so it is no floor for scores of single columns.",
        ),
        Term(
            "Real holdout",
            "Other real rows in the place of the synthetic ones. This is about the best that any "
            "synthetic table can do.",
            "If the holdout comes from another time or place than the training rows, this best is "
            "lower than it should be.",
        ),
    ),
    "columns": (
        Term(
            "Shape",
            "One minus the largest gap between the two distribution functions (numbers and dates) "
            "or one minus half the summed gap of the shares (categories). 1 is the same shape.",
            "Each column is judged alone: shuffled columns reach 1. A rare category can be missing "
            "without a mark.",
        ),
        Term(
            "Quality",
            "SDMetrics: the mean of column shapes and pair trends.",
            "Shuffled columns often beat a trained model. Never read it without the controls.",
        ),
        Term(
            "JSD and WD",
            "Jensen–Shannon divergence of the shares (base 2, categories) and Wasserstein distance "
            "as a share of the real range (numbers). 0 is the same.",
            "One outlier in the real rows widens the range and makes every WD look small.",
        ),
        Term(
            "Coverage",
            "The part of the real range, or of the real categories, that synthetic rows reach.",
            "Reaching the ends says nothing about the middle; and full coverage of rare values "
            "can be a sign of copying.",
        ),
        Term(
            "Validity",
            "SDMetrics' diagnosis: values within the real range, known categories, keys that do "
            "not repeat.",
            "It checks rules, not realism. Anything but 1 deserves a look.",
        ),
    ),
    "pairs": (
        Term(
            "Agreement of a pair",
            "One minus the difference between the two correlations, or between the two tables of "
            "joint shares. 1 is the same.",
            "Two columns that have nothing to do with each other agree for free, and most pairs "
            "are of this kind. Dependence among three columns is not seen at all.",
        ),
    ),
    "detection": (
        Term(
            "C2ST AUC",
            "A classifier is trained to tell real rows from synthetic ones and judged on rows that "
            "it has not seen. 0.5: it cannot. 1: always. The interval is 95 %.",
            "It is strict: one column with the wrong rounding takes it to 1, though such rows can "
            "still be useful. See which column it was.",
        ),
        Term(
            "Logistic regression",
            "The same with a classifier that sees each column by itself. If it fails where "
            "boosting succeeds, what is wrong is how columns go together.",
            "0.5 here proves little: shuffled columns reach it.",
        ),
        Term(
            "Importance",
            "How much AUC the classifier loses when one column is shuffled in the rows it is "
            "judged on.",
            "Two columns that say the same share their importance and can both look harmless.",
        ),
    ),
    "utility": (
        Term(
            "Trained on synthetic, real, both",
            "Models learn from synthetic rows, from the real training rows, or from both, and are "
            "all judged on the same real rows that none has seen.",
            "One target is one question. Rows that answer it well can be poor for another.",
        ),
        Term(
            "AUROC, F1, accuracy, R²",
            "AUROC: ranking of classes, 0.5 is guessing. F1 macro: mean over classes of precision "
            "with recall. Accuracy: share that is right. R²: share of variance explained.",
            "With rare classes accuracy is high for a model that never names them.",
        ),
        Term(
            "Augmentation gain",
            "What adding the synthetic rows to the real ones brings.",
            "It is near zero where there are real rows enough, even for perfect synthetic rows.",
        ),
        Term(
            "Importance agreement",
            "The share of importance that both models put on the same columns. 1: they rely on "
            "the same ones.",
            "Of two columns that say the same, each model may pick another.",
        ),
    ),
    "similarity": (
        Term(
            "Distance to the closest record",
            "From each synthetic row to the nearest real row, beside the same from holdout rows. "
            "Distances alike: synthetic rows are no closer to the training rows than fresh rows "
            "are.",
            "This is similarity, not privacy. A re-coding of every training row that anyone can "
            "undo is far from all of them and leaks everything.",
        ),
        Term(
            "Nearest-neighbour ratio",
            "Nearest distance over that to the second nearest. Near 0: one single real row is "
            "resembled.",
            "In tables with many equal rows both distances are 0 and the ratio says nothing.",
        ),
        Term(
            "Exact and near copies, new rows",
            "Synthetic rows that equal a training row; that lie closer to one than 95 % of the "
            "training rows lie to another; and that match none, numbers within 1 %.",
            "Few columns with few values repeat by chance: look at the holdout's share.",
        ),
    ),
    "attacks": (
        _AUC,
        _TPR,
        _EPSILON,
        Term(
            "Planted leaks",
            "The same attacks on tables that leak by construction. What they find there is what "
            "they would have found in yours.",
            "A leak of another kind than the planted ones can still be missed.",
        ),
        Term(
            "Harmless controls",
            "The same attacks on tables that know nothing of the members. An alarm there means "
            "that members and non-members differ by themselves, and no result counts.",
            "In at most one audit in twenty there is a false alarm by chance.",
        ),
    ),
    "white_box": (
        Term(
            "Who could do this",
            "These attacks read the model, not the rows. The server of a federation sees every "
            "update; whoever is given a model file holds the generator alone.",
            "An attack that needs the critic cannot be run by someone who has only synthetic rows.",
        ),
    ),
    "shadow": (
        Term(
            "Shadow models",
            "The generator is trained many times with and without each row, and the scores of both "
            "worlds are compared (LiRA, RMIA). The strongest black-box attack there is here.",
            "With few shadow models the two worlds are known poorly and the attack is too weak.",
        ),
    ),
    "attributes": (
        Term(
            "Rate, baseline, control",
            "How often a secret column is guessed right about members, by the single best guess "
            "for everybody, and about people who were not trained on. Beside it, how often real "
            "rows of others would tell it.",
            "A good generator teaches true patterns, so the rate is high for everybody. Only what "
            "goes beyond the control comes from a person's own row.",
        ),
        Term(
            "Risk",
            "(rate − control) ÷ (1 − control): what remains when the control is taken off.",
            "An interval that holds 0 says that no risk was shown, not that there is none.",
        ),
    ),
    "singling_out": (
        Term(
            "Rate, baseline, control",
            "How often a predicate found in the synthetic rows fits exactly one training row, "
            "beside random predicates, and beside rows that were not trained on.",
            "Rates depend on the number of rows: compare them with their control only.",
        ),
        Term(
            "Risk",
            "(rate − control) ÷ (1 − control).",
            "An interval that holds 0 says that no risk was shown, not that there is none.",
        ),
    ),
    "linkability": (
        Term(
            "Rate, baseline, control",
            "How often two halves of one person's columns are linked through the synthetic rows, "
            "by chance, and for people who were not trained on.",
            "It depends on how the columns are divided between the two halves.",
        ),
        Term(
            "Risk",
            "(rate − control) ÷ (1 − control).",
            "An interval that holds 0 says that no risk was shown, not that there is none.",
        ),
    ),
    "one_run": (
        Term(
            "ε at least",
            "Rows made unusual were each put in by the toss of a coin, the generator was trained "
            "once, and an attack guessed which were in. The bound follows from the right guesses.",
            "It is a lower bound for these canaries and this attack.",
        ),
        Term(
            "Ceiling",
            "The bound if every guess had been right: more than this, so few guesses cannot show.",
            "A low bound under a low ceiling says nothing. Use more canaries.",
        ),
    ),
    "losses": (
        Term(
            "Losses",
            "Means over the clients, as training reported them.",
            "Losses of a GAN do not fall as rows get better. Judge the rows, not the loss.",
        ),
    ),
}
