"""Shadow models: what a row's score would be if it had been trained on, and if it had not.

Some rows score high whether or not they were trained on, because they are ordinary. An attacker who
can train as the model was trained finds out: K generators are trained on random halves of all rows
in question, so that half of them know a row x. Its score in the table under attack is compared
with its own scores in those tables. Two attacks do so:

    lira  log N(s; mu_in(x), sigma_in²) - log N(s; mu_out(x), sigma_out²)
    rmia  log p - log mean over k of p_k

`lira` is the likelihood-ratio attack (Carlini et al. 2022, "Membership Inference Attacks From First
Principles", algorithm 1), with the variances pooled over rows, as they advise for few shadows.
`rmia` is the robust attack (Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference
Attacks", equations 2 to 4). It goes on to count the population rows z whose own ratio is smaller,
which leaves the order of the targets as it is.

The score s = log p is the logarithm of the density of a table at the row, that of a Gaussian kernel
in the `Space`: no more than the synthetic rows is needed of a generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from genesis.errors import DataError, PlanError
from genesis.evaluation.membership import (
    LEVEL,
    Finding,
    check_people,
    judge,
    worst,
)
from genesis.evaluation.neighbours import choose_bandwidth, neighbourhood
from genesis.evaluation.rows import Aligned, Rows, align
from genesis.evaluation.space import Space
from genesis.evaluation.training import Train

__all__ = ["Shadow", "check_shadows", "lira", "rmia", "shadow"]

Floats = npt.NDArray[np.float64]
Included = npt.NDArray[np.bool_]

FEWEST_SHADOWS = 4
"""Below, rows have not two scores of either kind, and nothing is known of how these vary."""

SHARPER = 0.5
"""Factor on the bandwidth that suits a population: what single rows leave behind is narrower.

With half of it, a copied row stands out as it does by distance alone, and what a generator learned
by heart no less than with all of it.
"""

SMALLEST_DEVIATION = 1e-3
"""Of a row's scores: where they do not vary, any difference is large."""


@dataclass(frozen=True)
class Shadow:
    """What attacks with shadow models found.

    Args:
        attacks: "lira" and "rmia" -> what it found.
        worst: The attack that found more.
        shadows: K.
        rows: Synthetic rows of each table that were looked at.
        members: Number of members attacked.
        non_members: Number of non-members attacked.
    """

    attacks: Mapping[str, Finding]
    worst: str
    shadows: int
    rows: int
    members: int
    non_members: int

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "attacks": {name: finding.to_dict() for name, finding in self.attacks.items()},
            "worst": self.worst,
            "shadows": self.shadows,
            "rows": self.rows,
            "members": self.members,
            "non_members": self.non_members,
        }


def shadow(
    train: Train,
    members: pd.DataFrame,
    non_members: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    shadows: int = 16,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Shadow:
    """Attack synthetic rows with the help of shadow models.

    As many non-members as members are attacked, if there are, so that a shadow has as many rows to
    train on as the generator under attack. Tables are cut to the size of the smallest one: a
    density varies with the number of rows that it is estimated from.

    Args:
        train: Trains as the generator under attack was trained. It should return as many rows as
            `synthetic` has.
        members: Rows that the generator was trained on.
        non_members: Rows of the same population that it was not.
        synthetic: What it made.
        shadows: K, an even number of at least 4; 16 and more are worth their time.
        seed: Decides the halves, and is where the seeds of the shadows come from.
        device: Where distances are computed.

    Raises:
        PlanError: shadows is odd or too small.
        SchemaError: Columns or kinds differ between tables, also those that train returns.
        DataError: There are too few members or non-members, or some are both; or train returns
            no rows.
    """
    check_shadows(shadows)
    tables = {"members": members, "non_members": non_members, "synthetic": synthetic}
    aligned = align(tables)
    check_people(aligned.rows["members"], aligned.rows["non_members"])
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(members), len(non_members)]))
    chosen = np.sort(rng.permutation(len(non_members))[: len(members)])
    ours, theirs = aligned.frames["members"], aligned.frames["non_members"].iloc[chosen]
    targets = pd.concat([ours, theirs], ignore_index=True)
    included = _halves(len(targets), shadows, rng)
    made = [
        train(targets[column].reset_index(drop=True), _seed(seed, k))
        for k, column in enumerate(included.T)
    ]
    if not all(map(len, made)):
        raise DataError("the training returned no rows", do="let it return synthetic rows")
    size = min(map(len, [synthetic, *made]))
    rows = Rows.concat([aligned.rows["members"], aligned.rows["non_members"].take(chosen)])
    bandwidth = SHARPER * choose_bandwidth(Space.fit(rows).embed(rows, device))
    own, *others = (
        _log_densities(
            aligned, chosen, table.iloc[rng.permutation(len(table))[:size]], bandwidth, device
        )
        for table in [aligned.frames["synthetic"], *made]
    )
    known = np.column_stack(others)
    scores = {"lira": lira(own, known, included), "rmia": rmia(own, known)}
    n, level = len(ours), 1 - (1 - LEVEL) / len(scores)
    attacks = {
        name: judge(each[:n], each[n:], level=level, seed=seed) for name, each in scores.items()
    }
    return Shadow(attacks, worst(attacks), shadows, size, n, len(theirs))


def check_shadows(shadows: int) -> None:
    """Raise PlanError for shadows that are too few, or cannot be divided into pairs."""
    if shadows < FEWEST_SHADOWS or shadows % 2:
        raise PlanError(
            f"the number of shadows must be even and at least {FEWEST_SHADOWS}",
            got=str(shadows),
            do=f"choose {max(FEWEST_SHADOWS, shadows + shadows % 2)}",
        )


def lira(scores: Floats, known: Floats, included: Included) -> Floats:
    """The likelihood-ratio attack.

    Args:
        scores: (n,) of the rows in the table under attack.
        known: (n, K) in the tables of the shadows.
        included: (n, K) whether a row was trained on; both occur for every row.

    Returns:
        (n,) log N(s; mu_in, sigma_in²) - log N(s; mu_out, sigma_out²), with the means of each row
        and the variances of all.
    """
    log_likelihoods = []
    for part in (included, ~included):
        count = part.sum(1)
        mean = np.where(part, known, 0).sum(1) / count
        squares = np.where(part, known - mean[:, None], 0) ** 2
        # Each row's mean takes a degree of freedom.
        variance = squares.sum() / max(int((count - 1).sum()), 1)
        deviation = max(float(np.sqrt(variance)), SMALLEST_DEVIATION)
        log_likelihoods.append(norm.logpdf(scores, mean, deviation))
    return np.asarray(log_likelihoods[0] - log_likelihoods[1])


def rmia(scores: Floats, known: Floats) -> Floats:
    """The robust attack.

    Args:
        scores: (n,) logarithms of the density in the table under attack.
        known: (n, K) those in the tables of the shadows.

    Returns:
        (n,) log p - log mean_k p_k. Half of the shadows were trained on the row, so that the mean
        is the p(x) of the paper's equation 2.
    """
    return np.asarray(scores - logsumexp(known, axis=1) + np.log(known.shape[1]))


def _halves(n: int, shadows: int, rng: np.random.Generator) -> Included:
    """(n, K): each shadow of a pair trains on what the other does not.

    So every row is in half of the shadows, and all of them have equally many rows.
    """
    first = [rng.permutation(n) < n // 2 for _ in range(shadows // 2)]
    return np.column_stack([half for each in first for half in (each, ~each)])


def _seed(seed: int, k: int) -> int:
    """The seed of shadow k."""
    return int(np.random.SeedSequence([seed, k, 1]).generate_state(1)[0])


def _log_densities(
    aligned: Aligned,
    chosen: npt.NDArray[np.int64],
    table: pd.DataFrame,
    bandwidth: float,
    device: str | torch.device,
) -> Floats:
    """Logarithm of the density of a table at all members and the chosen non-members: (n,)."""
    tables = {name: aligned.frames[name] for name in ("members", "non_members")}
    # Aligned by themselves, so that one table at a time is held as numbers. The targets stay in
    # their order: it is already that of their values.
    rows = align(tables | {"synthetic": table}, schema=aligned.schema).rows
    targets = Rows.concat([rows["members"], rows["non_members"].take(chosen)])
    space = Space.fit(targets)
    places, corpus = (space.embed(each, device) for each in (targets, rows["synthetic"]))
    found = neighbourhood(places, corpus, k=1, bandwidth=bandwidth).log_density
    assert found is not None
    return found
