"""Sums over the rows with noise: what the answers of a fit may cost together, and which were given.

A model that is fitted from sums asks a few questions. An answer is either some vectors of counts
side by side, of each of which one record changes one count by one, and then costs what statistics
cost; or any whole numbers that one record changes by no more than a norm. Both get Skellam noise.

How many answers there are, of which kind and with which share of the budget each, is fixed by the
columns alone, before the first statistic is known. What is asked may follow from earlier answers;
the noise, over the norm, may not: that would need another theorem. All answers are written down
before the first leaves.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genesis.errors import PrivacyError
from genesis.privacy.budget import Privacy, least_noise, rho_of
from genesis.privacy.events import Event, Skellam, SkellamSum
from genesis.privacy.histograms import noisy_counts
from genesis.privacy.noise import Noise

if TYPE_CHECKING:
    from genesis.models.sums import Question

__all__ = ["SUMS", "Release", "SumAnswers", "Sums"]

Integers = npt.NDArray[np.int64]

SUMS = "sums over the rows"
LEAST = 1024.0
"""Norm from which on it costs next to nothing more that numbers are whole: see `SkellamSum`."""
_EXACT = 1 + 1e-9  # for what a square of a square root loses


@dataclass(frozen=True)
class Release:
    """One answer of a fit, before anything is asked.

    Args:
        vectors: Vectors of counts in it at most, of each of which a row changes one count by one;
            None for whole numbers that a row changes by the norm of the question, at least `LEAST`.
        share: Of the budget of all answers, above 0.
    """

    vectors: int | None
    share: float = 1.0

    @property
    def norm(self) -> float:
        """The norm that is planned with: the largest of counts, the least of other numbers."""
        return LEAST if self.vectors is None else math.sqrt(self.vectors)

    def allows(self, norm: float) -> bool:
        """Whether a row may change an answer by a norm."""
        if self.vectors is None:
            return LEAST <= norm < math.inf
        return 0 < norm <= self.norm * _EXACT


@dataclass(frozen=True)
class Sums:
    """With how much noise the answers of a fit are released.

    Args:
        releases: All of them, in order. Their shares come to 1.
        noise_multiplier: z; all answers together cost about as much as one release with normal
            noise of z times what a row changes.
    """

    releases: tuple[Release, ...]
    noise_multiplier: float

    def __post_init__(self) -> None:
        shares = [release.share for release in self.releases]
        sound = all(0 < share <= 1 for share in shares) and math.isclose(sum(shares), 1.0)
        if not sound or not all(release.norm > 0 for release in self.releases):
            raise PrivacyError("answers without noise, or with more than there is to spend")

    @classmethod
    def planned(
        cls, spent: tuple[Event, ...], privacy: Privacy, releases: tuple[Release, ...]
    ) -> Sums:
        """The answers that a promise leaves room for, with the least noise that keeps it.

        Args:
            spent: What was released before.
            privacy: The promise.
            releases: What a fit asks for.

        Raises:
            PrivacyError: It leaves none.
        """

        def together(multiplier: float) -> tuple[Event, ...]:
            return (*spent, *cls(releases, multiplier).events)

        rho = (1 - privacy.statistics) * rho_of(privacy.epsilon, privacy.delta)
        guess = 1 / math.sqrt(2 * rho)
        return cls(releases, least_noise(together, guess, privacy.epsilon, privacy.delta))

    @property
    def rho(self) -> float:
        """ρ of all answers together: 1 / 2z² (Bun and Steinke 2016, proposition 1.6)."""
        return 1 / (2 * self.noise_multiplier**2)

    def deviation(self, number: int, norm: float) -> float:
        """Standard deviation of the noise in every number of an answer.

        The share s of the budget multiplies z by 1 / √s. Counts have the noise of as many vectors
        as were planned, however few there are.

        Args:
            number: Of the answer.
            norm: What a row changes.
        """
        release = self.releases[number]
        changed = norm if release.vectors is None else release.norm
        return self.noise_multiplier * changed / math.sqrt(release.share)

    @property
    def events(self) -> tuple[Event, ...]:
        """What they cost.

        Of whole numbers a row changes no sum of absolute values by more than the square of the
        norm. The larger the norm, the less noise of whole numbers costs, so it is that of `LEAST`.
        """
        return tuple(map(self._event, range(len(self.releases))))

    def _event(self, number: int) -> Event:
        """What one of them costs."""
        release = self.releases[number]
        if release.vectors is not None:
            return Skellam(self.deviation(number, release.norm), release.vectors, SUMS)
        multiplier = self.noise_multiplier / math.sqrt(release.share)
        return SkellamSum(multiplier, LEAST, LEAST**2, purpose=SUMS)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sums:
        """The inverse of `to_dict`."""
        releases = tuple(Release(**each) for each in values["releases"])
        return cls(releases, float(values["noise_multiplier"]))


class SumAnswers:
    """The answers of one table, each with its noise: given once, and the same ever after.

    Args:
        plan: What was planned.
        given: Digest of a question -> its answer.
    """

    def __init__(self, plan: Sums, given: Mapping[str, list[int]] | None = None) -> None:
        self.plan = plan
        self._given: dict[str, list[int]] = dict(given or {})

    @property
    def begun(self) -> bool:
        """Whether any was given."""
        return bool(self._given)

    def answer(
        self,
        question: Question,
        exact: Callable[[], Integers],
        *,
        share: Callable[[float], float],
        pay: Callable[[], None],
        noise: Noise,
    ) -> tuple[Integers, float]:
        """The answer to a question, and the standard deviation of this client's noise in it.

        Args:
            question: What is asked.
            exact: Adds it up.
            share: Of a deviation, what this client adds of it.
            pay: Writes down what all answers cost; called before the first is given.
            noise: Where it comes from.

        Raises:
            PrivacyError: More is asked than was planned.
        """
        asked = _digest(question)
        number = list(self._given).index(asked) if asked in self._given else len(self._given)
        self._check(question, number)
        deviation = share(self.plan.deviation(number, question.norm))
        if asked not in self._given:
            counts = exact()
            if counts.shape != (question.size,):
                raise PrivacyError("an answer is of another size than its question")
            if not self.begun:
                pay()
            self._given[asked] = noisy_counts(counts, deviation, noise).tolist()
        return np.array(self._given[asked], dtype=np.int64), deviation

    def _check(self, question: Question, number: int) -> None:
        """Raise PrivacyError for an answer that was not planned."""
        releases = self.plan.releases
        if number >= len(releases):
            raise PrivacyError(
                "more sums are asked for than the promise of privacy has paid for",
                got=f"{number + 1} instead of {len(releases)}",
                do="give server and clients the same version",
            )
        release = releases[number]
        if not release.allows(question.norm):
            planned = "or more" if release.vectors is None else "at most"
            raise PrivacyError(
                "a sum is asked for that the promise of privacy does not account for",
                got=f"a norm of {question.norm:.4g} for a row, where {release.norm:.4g} {planned} "
                "is planned",
                do="give server and clients the same version",
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"plan": self.plan.to_dict(), "given": self._given}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SumAnswers:
        """The inverse of `to_dict`."""
        return cls(Sums.from_dict(values["plan"]), values["given"])


def _digest(question: Question) -> str:
    """What tells a question from all others."""
    told = [question.kind, question.size, dict(question.meta), question.norm]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, array in sorted(question.arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
