"""A lower bound on the ε of a training method, from training once.

Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run". Canaries are rows of
which each is trained on or left out by a fair coin. From what training returned, an auditor scores
all m of them, and guesses "in" for the r/2 highest scores and "out" for the r/2 lowest; the share
r/m is fixed in advance. If training is (ε, δ)-DP, each guess is right with probability at most
e^ε / (1 + e^ε), whatever the others are, so that more right guesses than that allows refute ε
(theorem 5.2; a canary in or out is the neighbouring relation).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genesis.errors import DataError, PlanError
from genesis.evaluation.attacks import View, create_attack
from genesis.evaluation.rows import Rows, align
from genesis.schema import Kind, Schema

if TYPE_CHECKING:
    import torch

    from genesis.evaluation.training import Train

__all__ = [
    "OneRun",
    "audit_one_run",
    "check_canaries",
    "epsilon_of_guesses",
    "epsilon_one_run",
    "p_value_of_guesses",
]

GUESS_FRACTION, DELTA, LEVEL = 0.1, 1e-5, 0.95
"""What is fixed before an audit, if its user does not fix it."""

LARGEST_EPSILON = 50.0
"""No audit claims more."""


@dataclass(frozen=True)
class OneRun:
    """What one training run says about ε.

    Args:
        epsilon: A lower bound, with the confidence of `level`; 0 says nothing.
        ceiling: The bound if all guesses had been right: no audit of this size can claim more.
        p_value: Chance of so many right guesses if the method were (0, δ)-DP.
        canaries: Number of canaries, m.
        included: How many of them were trained on.
        guesses: Number of guesses, r.
        correct: How many of them were right, v.
        delta: δ of the claim.
        level: Confidence of the bound.
        attack: What scored the canaries.
    """

    epsilon: float
    ceiling: float
    p_value: float
    canaries: int
    included: int
    guesses: int
    correct: int
    delta: float
    level: float
    attack: str

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return asdict(self)


def audit_one_run(
    train: Train,
    table: pd.DataFrame,
    *,
    canaries: int = 1000,
    guess_fraction: float = GUESS_FRACTION,
    delta: float = DELTA,
    level: float = LEVEL,
    attack: str = "calibrated",
    schema: Schema | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
) -> OneRun:
    """Audit a training method by what it returns.

    Rows of the table, drawn at random, become canaries: every cell becomes one of the column's
    distinct values, any of them as likely, so that they are valid and unlike any row. The rest of
    the table is always trained on.

    Args:
        train: (rows, seed) -> synthetic rows, by a generator trained on these rows. It must be
            the whole method whose ε is claimed.
        table: Rows to train on.
        canaries: How many of them become canaries.
        guess_fraction: Share of the canaries that are guessed about, chosen before any result.
        delta: δ of the claim.
        level: Confidence of the bound.
        attack: Name of the membership inference that scores canaries, chosen before any result.
        schema: Kinds of the columns; what the table says if None.
        seed: Decides everything drawn; None for coins of the operating system, as a claim to
            others needs.
        device: Where scores are computed.

    Raises:
        DataError: The table has not more rows than canaries.
        PlanError: Too few canaries are guessed about for any bound above 0, or no such attack.
    """
    scorer = create_attack(attack)
    guesses = check_canaries(canaries, len(table), guess_fraction, delta, level)
    rng = np.random.default_rng(seed)
    schema = schema or Schema.infer(table)
    drawn = rng.permutation(len(table))
    base = table.iloc[np.sort(drawn[canaries:])]
    strange = _made_strange(table, drawn[:canaries], schema, rng)
    included = rng.integers(2, size=canaries) == 1
    rows = pd.concat([base, strange[included]], ignore_index=True)
    synthetic = train(rows.iloc[rng.permutation(len(rows))].reset_index(drop=True), _draw(rng))
    # Ids and constants say nothing, and need not be alike.
    schema = Schema(tuple(c for c in schema if c.kind not in (Kind.ID, Kind.CONSTANT)))
    tables = {
        "members": strange[included],
        "non_members": strange[~included],
        "reference": base,
        "synthetic": synthetic,
    }
    found = align(
        {name: each.filter(schema.names) for name, each in tables.items()}, schema=schema
    ).rows
    sides = found["members"], found["non_members"]
    view = View(
        found["synthetic"], found["reference"], Rows.concat(sides), seed=_draw(rng), device=device
    )
    known = np.repeat([True, False], [len(side) for side in sides])
    correct = _correct(scorer.scores(view), known, guesses, rng)
    return OneRun(
        epsilon=epsilon_of_guesses(canaries, guesses, correct, delta, level),
        ceiling=epsilon_of_guesses(canaries, guesses, guesses, delta, level),
        p_value=p_value_of_guesses(canaries, guesses, correct, 0.0, delta),
        canaries=canaries,
        included=int(included.sum()),
        guesses=guesses,
        correct=correct,
        delta=delta,
        level=level,
        attack=attack,
    )


def epsilon_one_run(
    scores: npt.ArrayLike,
    included: npt.ArrayLike,
    guess_fraction: float = GUESS_FRACTION,
    delta: float = DELTA,
    level: float = LEVEL,
    *,
    seed: int = 0,
) -> float:
    """The lower bound on ε that scores of canaries give.

    Args:
        scores: (m,) higher for canaries that are taken for included.
        included: (m,) whether they were, each by a fair coin.
        guess_fraction: Share of the canaries that are guessed about, chosen before any result.
        delta: δ of the claim.
        level: Confidence of the bound.
        seed: Decides which of equal scores counts as higher.

    Raises:
        PlanError: Too few canaries are guessed about for any bound above 0.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(included, dtype=bool)
    guesses = _guesses(len(values), guess_fraction, delta, level)
    correct = _correct(values, truth, guesses, np.random.default_rng(seed))
    return epsilon_of_guesses(len(values), guesses, correct, delta, level)


def epsilon_of_guesses(m: int, r: int, v: int, delta: float, level: float) -> float:
    """The smallest ε that v of r right guesses about m canaries do not refute.

    Args:
        m: Number of canaries.
        r: Number of guesses, at most m.
        v: How many of them were right, at most r.
        delta: δ of the claim.
        level: Confidence of the bound.
    """
    refuted, possible = 0.0, LARGEST_EPSILON
    if p_value_of_guesses(m, r, v, refuted, delta) >= 1 - level:
        return 0.0
    while possible - refuted > 1e-6:
        middle = (refuted + possible) / 2
        if p_value_of_guesses(m, r, v, middle, delta) < 1 - level:
            refuted = middle
        else:
            possible = middle
    return refuted


def check_canaries(
    canaries: int,
    rows: int,
    guess_fraction: float = GUESS_FRACTION,
    delta: float = DELTA,
    level: float = LEVEL,
) -> int:
    """Make sure that `audit_one_run` can audit a table of so many rows.

    Args:
        canaries: As `audit_one_run`.
        rows: Rows of the table.
        guess_fraction: As `audit_one_run`.
        delta: As `audit_one_run`.
        level: As `audit_one_run`.

    Returns:
        The number of guesses.

    Raises:
        DataError: As `audit_one_run`.
        PlanError: As `audit_one_run`.
    """
    guesses = _guesses(canaries, guess_fraction, delta, level)
    if rows <= canaries:
        raise DataError(
            "the canaries take all rows of the table",
            got=f"{canaries} canaries, {rows} rows",
            do="give more rows, or take fewer canaries",
        )
    return guesses


def p_value_of_guesses(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Chance that v or more of r guesses about m canaries are right, if (ε, δ)-DP holds, at most.

    With W ~ Binomial(r, e^ε / (1 + e^ε)), theorem 5.2 bounds it by

        P[W >= v] + 2 m δ max_i P[v > W >= v - i] / i,  i = 1, ..., v.

    Args:
        m: Number of canaries.
        r: Number of guesses, at most m.
        v: How many of them were right, at most r.
        epsilon: ε of the claim that is tested, at least 0.
        delta: δ of the claim.
    """
    from scipy import stats

    if v < 1:
        return 1.0
    right = stats.binom(r, 1 / (1 + math.exp(-epsilon)))
    below = np.cumsum(right.pmf(np.arange(v - 1, -1, -1)))
    alpha = float((below / np.arange(1, v + 1)).max())
    return min(1.0, float(right.sf(v - 1)) + 2 * m * delta * alpha)


def _guesses(m: int, guess_fraction: float, delta: float, level: float) -> int:
    """Number of guesses, r: even, and enough of them for a bound above 0."""
    for name, value, most in (("delta", delta, 1), ("level", level, 1)):
        if not 0 <= value < most:
            raise PlanError(f"{name} must be at least 0 and below 1", got=repr(value))
    if not 0 < guess_fraction <= 1:
        raise PlanError("guess_fraction must be above 0, and 1 at most", got=repr(guess_fraction))
    if m < 1:
        raise PlanError("an audit needs canaries", got=str(m), do="plant a thousand, for example")
    guesses = 2 * int(guess_fraction * m / 2 + 1e-9)
    if p_value_of_guesses(m, guesses, guesses, 0.0, delta) >= 1 - level:
        enough = 2 * (int(-math.log2(1 - level) / 2) + 1)
        raise PlanError(
            "no bound on ε can follow, even if every guess is right",
            got=f"{guesses} guesses about {m} canaries, δ = {delta:g}",
            do=f"take at least {math.ceil(enough / guess_fraction)} canaries and a δ far below "
            "1 / canaries",
        )
    return guesses


def _correct(
    scores: npt.NDArray[np.float64],
    included: npt.NDArray[np.bool_],
    guesses: int,
    rng: np.random.Generator,
) -> int:
    """How many guesses are right: the lower half of them say "out", the upper half "in"."""
    shuffled = rng.permutation(len(scores))  # equal scores must not stand in a telling order
    order = shuffled[np.argsort(scores[shuffled], kind="stable")]
    lowest, highest = np.split(order, [guesses // 2])[0], order[len(order) - guesses // 2 :]
    return int((~included[lowest]).sum() + included[highest].sum())


def _made_strange(
    table: pd.DataFrame, rows: npt.NDArray[np.int64], schema: Schema, rng: np.random.Generator
) -> pd.DataFrame:
    """The given rows with new cells: any distinct value of the column; ids stay."""
    cells = {}
    for column in schema:
        values = table[column.name]
        if column.kind is Kind.ID:
            cells[column.name] = values.array.take(rows)
        else:
            distinct = np.flatnonzero(~values.duplicated())
            cells[column.name] = values.array.take(rng.choice(distinct, len(rows)))
    return pd.DataFrame(cells)


def _draw(rng: np.random.Generator) -> int:
    """A seed."""
    return int(rng.integers(2**31))
