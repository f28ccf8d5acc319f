"""Models whose training is sums: one file each, behind the protocols `SumModel` and `SumFit`.

Networks are trained where the rows are, and averaging them is not training on all rows. These
models learn from *sums over the rows* alone: expected counts, products of scores, cells of
marginals. So a fit asks questions, every shard answers with a vector of whole numbers, and nothing
but the sum of the answers is ever used::

    fit = Mixture.fit(layout, config, …)
    while question := fit.question():
        fit.take(sum(Mixture.answer(rows, question) for rows in shards))
    model = Mixture(layout, fit.config); model.set_vector(fit.vector)

Whole numbers add up without rounding, and what a row adds does not depend on the rows around it. So
the model is that of the pooled table for any split of its rows, and goes through secure aggregation
and differential privacy as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from genesis.models import GenerativeModel

if TYPE_CHECKING:
    import torch

    from genesis.codes import Layout
    from genesis.models.sums.rows import SumRows
    from genesis.privacy.sums import Release

__all__ = ["Budget", "Question", "SumFit", "SumModel"]

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """What every shard is asked: to go over its rows and add up a vector of whole numbers.

    Args:
        kind: What to add up; a word of the model's own.
        size: Numbers in an answer.
        meta: JSON values.
        arrays: Numbers, such as the parameters that expectations are taken under.
        norm: Largest L2 norm of what one row adds to an answer. Noise that hides a row is in
            proportion to it, so an answer must keep to it whatever the question says.
    """

    kind: str
    size: int
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    norm: float = float("inf")


class SumFit(Protocol):
    """The fit of one model: what is known of the sums so far."""

    @property
    def n_rounds(self) -> int:
        """Rounds in all, as far as can be said now."""

    @property
    def config(self) -> dict[str, Any]:
        """The config of the model as it is now, with everything that was chosen by the fit."""

    @property
    def vector(self) -> torch.Tensor:
        """(P,) float32 parameters of that model, on the CPU."""

    def question(self) -> Question | None:
        """What to ask every shard next; None when the model is fitted.

        Asked twice, it is the same question.
        """

    def take(self, total: Integers, deviation: float = 0.0) -> Mapping[str, float] | None:
        """Learn from the sum of all answers to the question.

        Args:
            total: (size,) the sum.
            deviation: Standard deviation of the noise in each number of it.

        Returns:
            What the round came to, if that was its last question; else None.

        Raises:
            TrainingError: No table has such sums.
        """

    def to_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """All that the next question depends on: JSON values, and tensors by name."""

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from `to_state`."""


class SumModel(GenerativeModel, Protocol):
    """A generator whose parameters follow from sums over the rows.

    Its config says in "epochs" how many passes over the rows are made, unless a plan does.

    `train`, `mean_gradient` and the optimiser's state of other models have no meaning here.
    """

    grid: ClassVar[int]
    """Most codes of a numeric column: see `encoding.grid`."""

    private: ClassVar[bool]
    """Whether it can be fitted from sums with noise."""

    @classmethod
    def releases(cls, layout: Layout, config: Mapping[str, Any]) -> tuple[Release, ...]:
        """The answers of a private fit: what a client pays for, as it knows itself.

        They follow from the columns and the config alone. Empty if it cannot be fitted in private.
        """

    @classmethod
    def fit(
        cls,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        rows: int,
        frequencies: npt.NDArray[np.float64],
        n_rounds: int,
        seed: int,
        device: str | torch.device = "cpu",
        budget: Budget | None = None,
    ) -> SumFit:
        """Begin to fit a model.

        Args:
            layout: Layout of the encoded rows.
            config: As of the constructor; what is None in it is chosen by the fit.
            rows: Number of rows of all shards, with noise under a promise of privacy.
            frequencies: (S,) released counts of every code of every block.
            n_rounds: Passes over the rows.
            seed: Decides where it starts.
            device: Where parameters are computed.
            budget: What the answers may cost together; None where they are exact.

        Raises:
            PlanError: The config and the table do not go together, or the budget is too small.
        """

    @classmethod
    def answer(
        cls,
        rows: SumRows,
        question: Question,
    ) -> Integers:
        """(question.size,) what some rows add up to. Zeros for no rows.

        What one row adds depends on that row and the question alone, and has a norm of at most
        question.norm.

        Raises:
            FederationError: It is no question of this model.
        """

    def complete(
        self,
        codes: npt.NDArray[np.int32],
        allowed: Mapping[int, npt.NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.int32]:
        """Fill the unknown codes of rows: drawn from their distribution given the known ones.

        Args:
            codes: (n, blocks); -1 where a code is unknown.
            allowed: Block number -> (width,) codes that may be filled in there.
            rng: Draws them.

        Returns:
            (n, blocks), none of which is -1.
        """


@dataclass(frozen=True)
class Budget:
    """What the answers of a private fit may cost together, in zero-concentrated privacy.

    An answer of norm Δ with noise of standard deviation σ costs Δ² / 2σ² (Bun and Steinke 2016,
    proposition 1.6).

    Args:
        rho: ρ of all answers together, of each client.
        clients: Variance of the noise in a sum over that of one client that hides its rows alone:
            the number of clients; less where they add shares of noise together, at least 1.
    """

    rho: float
    clients: float = 1.0
