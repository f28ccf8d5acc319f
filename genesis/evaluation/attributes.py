"""Attribute inference: is a secret column guessed better with the synthetic rows than without?

The attacker knows all other columns of a person. Two ways to guess the secret one:

* nearest: it is what the nearest synthetic row says (Giomi et al. 2023);
* boosting: gradient boosting, trained on the synthetic rows, predicts it.

Much of what is guessed right is knowledge of the population: it holds for people who were never
trained on too, and real rows of others would tell it as well. Both are measured beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.errors import SchemaError, nearest_names
from genesis.evaluation.features import learn
from genesis.evaluation.guesses import Guesses, difference_interval, drawn
from genesis.evaluation.intervals import Interval, proportion_interval
from genesis.evaluation.neighbours import neighbourhood
from genesis.evaluation.rows import Rows
from genesis.evaluation.space import Space

if TYPE_CHECKING:
    import torch

__all__ = ["Attributes", "SecretGuesses", "attributes", "check_secrets"]

Flags = npt.NDArray[np.bool_]

TOLERANCE = 0.025
"""A number is right within so much of the ranks of the control: 2.5 % of people lie between."""

SHARED = 15
"""Columns of which each gets all guesses: what more columns cost is bounded by fewer guesses."""

CLASSES = 10
"""Categories that boosting chooses among: each costs a tree in every iteration."""

TRAINING_ROWS = 10_000
"""Rows that boosting is trained on at most."""


@dataclass(frozen=True)
class SecretGuesses:
    """Guesses of one secret column in one way.

    Args:
        guesses: Guesses with the synthetic rows, of members and of the control.
        reference: Share of the same members guessed right with real rows of others.
        gain: What as many synthetic rows tell more about the members than these, in [-1, 1]. The
            interval is for the people asked: which rows of others are known is chance too, and not
            in it, so that it describes and proves nothing.
    """

    guesses: Guesses
    reference: Interval | None = None
    gain: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        entry = self.guesses.to_dict()
        for name, value in (("reference", self.reference), ("gain", self.gain)):
            entry[name] = value and value.value
            entry[f"{name}_low"] = value and value.low
            entry[f"{name}_high"] = value and value.high
        return entry


@dataclass(frozen=True)
class Attributes:
    """Guesses of every secret column.

    Args:
        columns: Secret column -> way of guessing -> guesses.
    """

    columns: dict[str, dict[str, SecretGuesses]]

    @property
    def worst(self) -> tuple[str, str]:
        """The column, and the way of guessing it, that surely leaks most."""
        pairs = [(name, way) for name, ways in self.columns.items() for way in ways]
        return max(pairs, key=lambda pair: self.columns[pair[0]][pair[1]].guesses.severity)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON: the worst column, then all."""
        secret, way = self.worst
        columns = {
            name: {
                way: {"secret": name, "attacker": way, **guesses.to_dict()}
                for way, guesses in ways.items()
            }
            for name, ways in self.columns.items()
        }
        return {**columns[secret][way], "columns": columns}


def check_secrets(names: Sequence[str], secrets: Sequence[str]) -> None:
    """Raise SchemaError for a secret that is none of the columns that can be guessed."""
    for name in secrets:
        if name not in names:
            raise SchemaError(f"no column '{name}' can be guessed", do=nearest_names(name, names))


def attributes(
    members: Rows,
    control: Rows,
    synthetic: Rows,
    *,
    secrets: Sequence[str] = (),
    most: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Attributes:
    """Guess secret columns from all others.

    Named secrets are guessed in both ways. If none are named, every column is guessed by nearest
    rows, and the worst of them by boosting too. Intervals hold for all of these at once. The
    baseline is the single guess that suits most synthetic rows.

    Args:
        members: Rows that the generator was trained on.
        control: Rows of other people. They are also the real rows that a second attacker has.
        synthetic: What the generator made.
        secrets: Columns to guess; each in turn if none are named.
        most: Members and controls that are guessed about, of each; more than `SHARED` columns
            share the guesses of so many.
        level: Confidence of the intervals.
        seed: Who they are, and what boosting draws.
        device: Where distances are computed.

    Raises:
        SchemaError: A secret column is not there.
    """
    names = members.columns.names
    check_secrets(names, secrets)
    most = math.ceil(most * min(1, SHARED / len(secrets or names)))
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(members), len(control)]))
    tables = _Tables(
        drawn(members, most, rng),
        drawn(control, most, rng),
        drawn(synthetic, len(synthetic), rng),
        drawn(control, len(control), rng),
    )
    asked = {name: _Secret(name, control, seed, device) for name in secrets or names}
    each = 1 - (1 - level) / (2 * len(asked) if secrets else len(asked) + 1)
    found = {
        name: {"nearest": _guessed(secret, secret.nearest, tables, each)}
        for name, secret in asked.items()
    }
    for name in asked if secrets else [Attributes(found).worst[0]]:
        found[name]["boosting"] = _guessed(asked[name], asked[name].boosting, tables, each)
    return Attributes(found)


@dataclass(frozen=True)
class _Tables:
    """Who is guessed about, and from what; all rows are in random order."""

    members: Rows
    control: Rows
    synthetic: Rows
    reference: Rows


class _Secret:
    """One secret column, and ways to guess it for targets from known rows.

    Guesses are rows of the secret column alone.
    """

    def __init__(self, name: str, reference: Rows, seed: int, device: str | torch.device) -> None:
        self._name = (name,)
        self._others = tuple(other for other in reference.columns.names if other != name)
        self._space, self._space_of_others = (
            Space.fit(reference.only(names)) for names in (self._name, self._others)
        )
        self._seed, self._device = seed, device

    def nearest(self, known: Rows, targets: Rows) -> Rows:
        """What the nearest known row says, and any of them where several are."""
        points = (
            self._space_of_others.embed(rows.only(self._others), self._device)
            for rows in (targets, known)
        )
        return known.only(self._name).take(neighbourhood(*points, k=1).indices[:, 0])

    def boosting(self, known: Rows, targets: Rows) -> Rows:
        """What gradient boosting predicts: one of the common categories, or a number's rank."""
        secrets = known.only(self._name)
        others, asked = known.only(self._others), targets.only(self._others)
        if secrets.columns.discrete:
            codes = secrets.codes[:, 0]
            common = np.sort(np.argsort(-np.bincount(codes), kind="stable")[:CLASSES])
            use = np.flatnonzero(np.isin(codes, common))[:TRAINING_ROWS]
            classes = np.searchsorted(common, codes[use])
            predict = learn(
                "gradient_boosting", others.take(use), classes, classes=len(common), seed=self._seed
            )
            guessed = common[predict(asked).argmax(axis=1)]
            return replace(secrets, numeric=np.empty((len(asked), 0)), codes=guessed[:, None])
        use = np.flatnonzero(~np.isnan(secrets.numeric[:, 0]))[:TRAINING_ROWS]
        scale, places = self._space.values[0], self._space.ranks[0]
        if not len(use) or not len(scale):  # there are nulls only, here or in the reference
            return secrets.take(np.zeros(len(asked), np.int64))
        ranks = self._ranks(secrets.take(use))
        guessed = learn("gradient_boosting", others.take(use), ranks, seed=self._seed)(asked)
        numbers = np.interp(guessed, places, scale)
        codes = np.empty((len(asked), 0), np.int64)
        return replace(secrets, numeric=numbers[:, None], codes=codes)

    def always(self, known: Rows, targets: Rows) -> Rows:
        """The one guess that suits most known rows."""
        secrets = known.only(self._name)
        if secrets.columns.discrete:
            codes = secrets.codes[:, 0]
            best = np.argmax(np.bincount(codes)[codes])
        else:
            ranks = np.where(np.isnan(secrets.numeric[:, 0]), np.inf, self._ranks(secrets))
            rising = np.sort(ranks)
            last = np.searchsorted(rising, ranks + TOLERANCE, side="right")
            best = np.argmax(last - np.searchsorted(rising, ranks - TOLERANCE))
        return secrets.take(np.full(len(targets), best))

    def right(self, guesses: Rows, targets: Rows) -> Flags:
        """(n,) whether guesses are right."""
        apart = self._space.embed(guesses) - self._space.embed(targets.only(self._name))
        return np.asarray(apart.norm(dim=1).numpy() <= TOLERANCE)

    def _ranks(self, secrets: Rows) -> npt.NDArray[np.float64]:
        """(n,) ranks of numbers in the reference."""
        return self._space.embed(secrets).numpy()[:, 0].astype(np.float64)


def _guessed(
    secret: _Secret, guess: Callable[[Rows, Rows], Rows], tables: _Tables, level: float
) -> SecretGuesses:
    """Guess one column in one way."""
    members, synthetic = tables.members, tables.synthetic

    def right(way: Callable[[Rows, Rows], Rows], known: Rows, targets: Rows = members) -> Flags:
        return secret.right(way(known, targets), targets)

    n = len(members)
    everyone = right(guess, synthetic, Rows.concat([members, tables.control]))
    guesses = Guesses.count(
        int(everyone[:n].sum()),
        n,
        int(everyone[n:].sum()),
        len(tables.control),
        baseline=float(right(secret.always, synthetic).mean()),
        level=level,
    )
    # As many rows of either kind, for more rows tell more.
    known = min(len(synthetic), len(tables.reference))
    by_reference = right(guess, tables.reference.take(slice(known)))
    by_synthetic = (
        everyone[:n] if known == len(synthetic) else right(guess, synthetic.take(slice(known)))
    )
    reference, same = (
        proportion_interval(int(flags.sum()), n, level=level)
        for flags in (by_reference, by_synthetic)
    )
    return SecretGuesses(guesses, reference, difference_interval(same, reference))
