"""Membership inference: can anyone tell who was in the table that a generator was trained on?

Attacks (`genesis.evaluation.attacks`) score members and non-members without knowing which is which;
if members score higher, synthetic rows give them away. What the attacks find in tables whose leak
is known (`genesis.evaluation.controls`) shows what it means that they find nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.errors import DataError, PlanError
from genesis.evaluation.attacks import ATTACKS, View, create_attack
from genesis.evaluation.controls import HARMLESS, LEAKING, control
from genesis.evaluation.copies import Copies, copies
from genesis.evaluation.detection import detect
from genesis.evaluation.fingerprint import same_counts
from genesis.evaluation.intervals import (
    Interval,
    auc_interval,
    epsilon_lower_bound,
    roc_curve,
    tpr_at_fpr,
)
from genesis.evaluation.rows import Rows

if TYPE_CHECKING:
    import torch

__all__ = [
    "Control",
    "Finding",
    "Membership",
    "check_disjoint",
    "check_people",
    "judge",
    "membership",
    "worst",
]

Floats = npt.NDArray[np.float64]
Curve = tuple[tuple[float, ...], tuple[float, ...]]

LEVEL = 0.95
"""Confidence of all intervals of an audit together."""

CONTROLS = LEAKING + HARMLESS
"""Tables that are attacked beside the synthetic one."""

MOST_TARGETS = 5_000
"""Members that are attacked, and non-members."""

FEWEST_MEMBERS = 20
FEWEST_NON_MEMBERS = 40
"""Half of them are attacked, the rest is what attackers compare with."""

DRAWS = 200
"""Bootstrap samples; they only have to show a standard deviation."""

OVERLAP_CHANCE = 1e-3
"""Twins of members among non-members are refused where fewer tables have as many by chance."""


@dataclass(frozen=True)
class Finding:
    """What one attack found in one table.

    Args:
        auc: Chance that a member scores higher than a non-member.
        tpr_1: Share of members found at 1 % false positives; None below 100 non-members.
        tpr_01: The same at 0.1 %; None below 1,000 non-members.
        epsilon_low: An ε that the generator exceeds.
        found: Whether members score higher than chance explains.
        curve: False and true positive rates, for a picture.
    """

    auc: Interval
    tpr_1: Interval | None
    tpr_01: Interval | None
    epsilon_low: float
    found: bool
    curve: Curve = field(repr=False)

    @property
    def advantage(self) -> float:
        """What ranks attacks: the lower end of 2 AUC - 1, or of TPR - 1 %, whichever is more."""
        by_tpr = self.tpr_1.low - 0.01 if self.tpr_1 else -1.0
        return max(2 * self.auc.low - 1, by_tpr)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "auc": self.auc.value,
            "auc_low": self.auc.low,
            "auc_high": self.auc.high,
            **_rates(self.tpr_1, "tpr_at_1pct_fpr", "tpr"),
            **_rates(self.tpr_01, "tpr_at_01pct_fpr", "tpr_01"),
            "epsilon_low": self.epsilon_low,
            "found": self.found,
        }


@dataclass(frozen=True)
class Control:
    """What the attacks found in a table whose leak is known.

    Args:
        attack: The attack that found most.
        finding: What it found.
        found: Whether any attack found anything.
        same_as: The control that this one is the same as, if it is.
    """

    attack: str
    finding: Finding
    found: bool
    same_as: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        shared = ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low", "tpr_high")
        finding = self.finding.to_dict()
        entry = {"attack": self.attack, **{key: finding[key] for key in shared}}
        entry["found"] = self.found
        return entry | ({"same_as": self.same_as} if self.same_as else {})


@dataclass(frozen=True)
class Membership:
    """What all attacks found.

    Args:
        attacks: Name -> what it found in the synthetic rows.
        worst: The attack that found most.
        power: Control -> what the attacks found in it; empty if there were none.
        members: Number of members attacked.
        non_members: Number of non-members attacked.
        reference: Number of rows that the attackers compared with.
        apart: AUC of a classifier that tells members from non-members without any synthetic row,
            cross-validated: above 0.5 where they come from different populations, and then attacks
            find the population. None if there are too few rows for it, or no columns.
        same_counts: Columns whose values occur exactly as often as those of the members.
        copies: Members, and non-members, that stand in the synthetic table as they are.
    """

    attacks: Mapping[str, Finding]
    worst: str
    power: Mapping[str, Control]
    members: int
    non_members: int
    reference: int
    apart: Interval | None
    same_counts: tuple[str, ...]
    copies: Copies

    @property
    def curves(self) -> dict[str, Curve]:
        """Attack or control -> false and true positive rates; of controls, of the best attack."""
        return {name: finding.curve for name, finding in self.attacks.items()} | {
            name: control.finding.curve for name, control in self.power.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "attacks": {name: finding.to_dict() for name, finding in self.attacks.items()},
            "worst": self.worst,
            "power": {name: control.to_dict() for name, control in self.power.items()},
            "members": self.members,
            "non_members": self.non_members,
            "reference": self.reference,
            "apart": self.apart and self.apart.to_dict(),
            "same_counts": list(self.same_counts),
            "copies": self.copies.to_dict(),
        }


def membership(
    members: Rows,
    non_members: Rows,
    synthetic: Rows,
    *,
    reference: Rows | None = None,
    attacks: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    controls: bool = True,
) -> Membership:
    """Attack synthetic rows, and tables whose leak is known.

    At most 5,000 members and 5,000 non-members are attacked. The non-members are divided at random:
    half are attacked, a quarter is what attackers compare with and a quarter what negative controls
    are made of; where a reference is given, that quarter is attacked, too. Controls are as large as
    the synthetic table, where there are rows for it; copiers copy all who are attacked at least.

    The intervals of all AUCs hold at once with 95 % confidence (Bonferroni): each has the level
    1 - 0.05 / (attacks · tables), the controls being tables, too. So the worst of them may be
    looked at without correction. So do those of each other kind, but not all kinds together; those
    of true positive rates are for the thresholds taken (see `tpr_at_fpr`). What is `found` is false
    in any table in at most one audit in twenty, if chance decided who is a member.

    Args:
        members: Rows that the generator was trained on.
        non_members: Rows of the same population that it was not.
        synthetic: What it made.
        reference: Other rows of the population that attackers have.
        attacks: Keys of `ATTACKS`; all if None.
        seed: Decides whatever is drawn.
        device: Where distances are computed.
        controls: Whether to attack the controls, too.

    Raises:
        DataError: There are too few members or non-members, or two tables overlap.
        PlanError: Unknown attack, or none.
    """
    names = list(ATTACKS) if attacks is None else list(dict.fromkeys(attacks))
    attackers = {name: create_attack(name) for name in names}
    if not names:
        raise PlanError("there is no attack to make", do=f"name some of {', '.join(ATTACKS)}")
    check_people(members, non_members, reference)

    rng = np.random.default_rng(np.random.SeedSequence([seed, len(members), len(non_members)]))
    order = rng.permutation(len(members))
    targets = members.take(np.sort(order[:MOST_TARGETS]))
    others, reference, spare = _divided(non_members, reference, rng)
    view = View(synthetic, reference, Rows.concat([targets, others]), seed=seed, device=device)
    level = 1 - (1 - LEVEL) / (len(names) * (1 + len(CONTROLS) * controls))

    def attacked(rows: Rows) -> dict[str, Finding]:
        """What every attack finds in a table."""
        seen = view.of(rows)
        scores = {name: attacker.scores(seen) for name, attacker in attackers.items()}
        return {
            name: judge(each[: len(targets)], each[len(targets) :], level=level, seed=seed)
            for name, each in scores.items()
        }

    findings = attacked(synthetic)
    power = {}
    if controls:
        n = max(len(synthetic), len(targets))
        copied = members.take(order[:n])  # targets first
        for name in CONTROLS:
            found = attacked(control(name, copied, spare, n, seed))
            best = worst(found)
            power[name] = Control(best, found[best], any(each.found for each in found.values()))
        # A holdout in the place of the synthetic rows is fresh rows once more.
        power["holdout"] = replace(power["fresh"], same_as="fresh")
    # With all non-members, so that it sees a difference no worse than attacks do.
    apart = detect(targets, non_members, seed=seed)
    return Membership(
        attacks=findings,
        worst=worst(findings),
        power=power,
        members=len(targets),
        non_members=len(others),
        reference=len(reference),
        apart=apart.models.get("gradient_boosting"),
        same_counts=same_counts(members, synthetic),
        copies=copies(members, non_members, synthetic),
    )


def judge(
    members: npt.ArrayLike, non_members: npt.ArrayLike, *, level: float = LEVEL, seed: int = 0
) -> Finding:
    """What the scores of an attack show.

    Members are found if they score higher on the whole (the interval of the AUC lies above 0.5), or
    if there are more of them among the highest scores than chance puts there: above all but 1 % of
    the non-members, or above all of them, as where a table holds a handful of copies. The first may
    go wrong with the chance (1 - level) / 2, each of the others with half of that.

    Args:
        members: (n,) scores, at least one.
        non_members: (m,) scores, at least one.
        level: Confidence, in (0, 1); 1 - 0.05 / k for each of k attacks.
        seed: Decides what is drawn.
    """
    ours, theirs = (np.asarray(side, dtype=np.float64) for side in (members, non_members))
    area = auc_interval(ours, theirs, level=level, draws=DRAWS, seed=seed)
    grid = np.geomspace(min(1.0, max(1e-3, 1 / len(theirs))), 1.0, 61)
    curve = roc_curve(ours, theirs, grid)
    return Finding(
        auc=area,
        tpr_1=tpr_at_fpr(ours, theirs, 0.01, level=level),
        tpr_01=tpr_at_fpr(ours, theirs, 0.001, level=level),
        epsilon_low=epsilon_lower_bound(ours, theirs, level=level, seed=seed),
        found=area.low > 0.5
        or min(_chance_on_top(ours, theirs, fpr) for fpr in (0.0, 0.01)) < (1 - level) / 4,
        curve=(tuple(grid.tolist()), tuple(curve.tolist())),
    )


def worst(findings: Mapping[str, Finding]) -> str:
    """The attack from which members have most to fear; of equals, the first by name.

    Where none found anything, it is the one with the highest AUC.
    """
    found = [name for name in sorted(findings) if findings[name].found]
    if found:
        return max(found, key=lambda name: findings[name].advantage)
    return max(sorted(findings), key=lambda name: findings[name].auc.value)


def check_disjoint(
    members: Rows, non_members: Rows, called: tuple[str, str] = ("members", "non-members")
) -> None:
    """Refuse non-members that are members.

    Two people may have equal rows, so that twins alone prove nothing. But if it does not matter
    which rows were trained on, a group of g equal rows falls on both sides with the probability
    1 - s^g - (1 - s)^g, s being the share of members. Too many groups on both sides are an overlap.

    Args:
        members: At least one row.
        non_members: At least one row.
        called: What both are called in the message.

    Raises:
        DataError: There are more twins than chance explains; with the count.
    """
    from scipy import stats

    keys = np.concatenate([members.keys(), non_members.keys()])
    _, group = np.unique(keys, return_inverse=True)
    sizes = np.bincount(group)
    inside = np.bincount(group[: len(members)], minlength=len(sizes))
    several = sizes > 1
    if not several.any():
        return
    both = (inside > 0) & (inside < sizes)
    share = len(members) / len(keys)
    chance = 1 - share ** sizes[several] - (1 - share) ** sizes[several]
    # Groups differ in their chance; the tail of the binomial with the mean chance is no smaller
    # (Hoeffding 1956, theorem 4).
    if stats.binom.sf(both.sum() - 1, several.sum(), chance.mean()) >= OVERLAP_CHANCE:
        return
    twins = int(both[group[len(members) :]].sum())
    raise DataError(
        f"the {called[1]} overlap the {called[0]}",
        got=f"{twins:,} of {len(non_members):,} that equal one of the {called[0]}, too many for "
        "chance",
        do="take those rows out of one of the two",
    )


def check_people(members: Rows, non_members: Rows, reference: Rows | None = None) -> None:
    """Refuse tables that are too small for any interval to say something, or that overlap.

    Args:
        members: Rows that the generator was trained on.
        non_members: Rows of the same population that it was not.
        reference: Other rows of the population that attackers have.

    Raises:
        DataError: There are too few members or non-members, or two tables overlap.
    """
    for name, rows, fewest in (
        ("members", members, FEWEST_MEMBERS),
        ("non-members", non_members, FEWEST_NON_MEMBERS),
    ):
        if len(rows) < fewest:
            raise DataError(
                f"there are too few {name} for an interval",
                got=str(len(rows)),
                do=f"give at least {fewest} of them",
            )
    check_disjoint(members, non_members)
    if reference is not None:
        # With its own row in the reference, a target would seem to be a non-member at once.
        check_disjoint(members, reference, ("members", "reference rows"))
        check_disjoint(non_members, reference, ("non-members", "reference rows"))


def _divided(
    non_members: Rows, reference: Rows | None, rng: np.random.Generator
) -> tuple[Rows, Rows, Rows]:
    """Non-members to attack, rows to compare with, and rows to make controls of."""
    order = rng.permutation(len(non_members))
    n = len(non_members) // 2 if reference is None else len(non_members) * 3 // 4
    attacked, rest = np.split(order, [min(n, MOST_TARGETS)])
    if reference is None:
        known, rest = np.split(rest, [len(rest) // 2])
        reference = non_members.take(np.sort(known))
    return non_members.take(np.sort(attacked)), reference, non_members.take(np.sort(rest))


def _chance_on_top(members: Floats, non_members: Floats, fpr: float) -> float:
    """How likely so many members score above all but a share fpr of the non-members by chance.

    If scores do not depend on membership, the highest x + k of them are a sample of all. At least x
    members lie above the (k + 1)-th non-member if that sample has at most k non-members, which is
    hypergeometric. Unlike an interval at a fixed threshold, that minds the threshold to be chosen.
    """
    from scipy import stats

    allowed = math.floor(fpr * len(non_members) + 1e-9)
    threshold = np.sort(non_members)[::-1][allowed]
    above = int((members > threshold).sum())
    total = len(members) + len(non_members)
    return float(stats.hypergeom.cdf(allowed, total, len(non_members), above + allowed))


def _rates(rate: Interval | None, value: str, prefix: str) -> dict[str, float | None]:
    """A true positive rate under the names that it has in JSON."""
    numbers = (None, None, None) if rate is None else (rate.value, rate.low, rate.high)
    return dict(zip((value, f"{prefix}_low", f"{prefix}_high"), numbers, strict=True))
