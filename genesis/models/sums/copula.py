"""A Gaussian copula, fitted from one sum of products.

Every block of codes is read as a normal number of which only the cell is known (see
`normal_scores`), and these numbers are jointly normal. The frequencies of the codes are known
before the fit, so the correlations are all there is to learn: one question, and D(D+1)/2 numbers of
the model. It is the smallest of the models and the quickest; it knows that columns rise and fall
together, and nothing that depends on more than two of them. Categories are taken in the order of
their codes, whatever they mean.

Gaussian copulas: Nelsen 2006, "An introduction to copulas", section 2.3. Correlations of numbers of
which only cells are known: Olsson 1979, the polychoric correlation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, GenesisError
from genesis.models.config import flag, option, parse, whole
from genesis.models.parameters import ParameterLayout
from genesis.models.sums import Budget, Question
from genesis.models.sums.normal_scores import (
    Cells,
    latent_correlation,
    log_density,
    nearest_correlation,
)
from genesis.models.sums.rows import SumRows
from genesis.models.sums.score_products import (
    correlation_of_scores,
    product_question,
    sum_products,
    whole_scores,
)
from genesis.models.sums.truncated_normal import draw_in_cells
from genesis.privacy.sums import Release

__all__ = ["Copula", "CopulaConfig", "CopulaFit"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CHUNK_CELLS = 2**20  # rows times cells that are looked at together when codes are drawn


@dataclass(frozen=True)
class CopulaConfig:
    """What can be chosen of a copula.

    Args:
        sweeps: Draws of every number in the Markov chain that fills in codes given others.
        epochs: For the caller: passes over the rows; one is all it takes.
        verbose: For the caller: whether progress is shown.
    """

    sweeps: int = option(30, whole(1))
    epochs: int = option(1, whole(1))
    verbose: bool = option(False, flag)


class Copula:
    """A Gaussian copula over the codes of a table.

    Its parameters are the probabilities of all codes and the rows of a triangular factor of the
    correlation, up to their lengths: every vector is a model.

    Args:
        layout: Layout of the encoded rows.
        config: See `CopulaConfig`.
        device: For the protocol; it works on the CPU.
        seed: For the protocol; nothing is random.
        frequencies: (S,) released counts of every code; uniform if None.

    Raises:
        PlanError: Unknown or impossible config.
    """

    name: ClassVar[str] = "copula"
    losses: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[int] = 100
    private: ClassVar[bool] = True
    private_gradients: ClassVar[str] = "no gradients, but sums over the rows"
    batch_multiple = 1

    def __init__(
        self,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        frequencies: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.layout, self.config = layout, self.parsed(config)
        codes = sum(layout.block_widths)
        shapes = {
            "generator.probabilities": (codes,),
            "generator.factor": (layout.n_blocks * (layout.n_blocks + 1) // 2,),
        }
        self.parameters = ParameterLayout(shapes)
        self._vector = torch.zeros(self.parameters.size)
        counts = np.ones(codes) if frequencies is None else frequencies
        blocks = [Cells.of(each).probabilities for each in _split(layout, counts)]
        self._write("generator.probabilities", np.concatenate([*blocks, np.empty(0)]))
        self.set_factor(np.eye(layout.n_blocks))

    @classmethod
    def parsed(cls, config: Mapping[str, Any]) -> CopulaConfig:
        """All choices of a config.

        Raises:
            PlanError: It is impossible.
        """
        return parse(CopulaConfig, config, cls.name)

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Raise PlanError for a config that the model would refuse."""
        cls.parsed(config)

    @classmethod
    def releases(
        cls,
        layout: Layout,  # noqa: ARG003 - of the protocol
        config: Mapping[str, Any],  # noqa: ARG003
    ) -> tuple[Release, ...]:
        """One answer, of a norm that follows from the frequencies."""
        return (Release(None),)

    @classmethod
    def fit(
        cls,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        rows: int,  # noqa: ARG003
        frequencies: npt.NDArray[np.float64],
        n_rounds: int,  # noqa: ARG003
        seed: int,  # noqa: ARG003
        device: str | torch.device = "cpu",  # noqa: ARG003
        budget: Budget | None = None,
    ) -> CopulaFit:
        """Begin to fit a copula; it takes one round, whatever n_rounds says."""
        model = cls(layout, config, frequencies=frequencies)
        return CopulaFit(model, private=budget is not None)

    @classmethod
    def answer(cls, rows: SumRows, question: Question) -> Integers:
        """(question.size,) sums of products on and above the diagonal, then the numbers of rows.

        Raises:
            FederationError: It is no question of a copula.
        """
        return sum_products(rows.layout.block_widths, rows.codes.codes, question)

    def get_vector(self) -> torch.Tensor:
        """All parameters: a copy, (P,) float32."""
        return self._vector.clone()

    def set_vector(self, vector: torch.Tensor) -> None:
        """Replace all parameters by vector (P,).

        Raises:
            GenesisError: The vector has another size, or is not finite.
        """
        if vector.shape != self._vector.shape:
            raise GenesisError(
                f"{self.name} has {self.parameters.size} parameters in one vector",
                got=f"shape {tuple(vector.shape)}",
                do="build both sides from the same encoder and config",
            )
        if not vector.isfinite().all():
            raise GenesisError(f"parameters of {self.name} that are not finite")
        self._vector.copy_(vector)
        self._forget()

    def set_factor(self, factor: npt.NDArray[Any]) -> None:
        """Replace the triangular factor (D, D) of the correlation."""
        self._write("generator.factor", factor[np.tril_indices(len(factor))])
        self._forget()

    @cached_property
    def cells(self) -> list[Cells]:
        """The cells of every block."""
        return [Cells.of(each) for each in _split(self.layout, self._read("probabilities"))]

    @cached_property
    def factor(self) -> Floats:
        """(D, D) triangular, with rows of length 1."""
        blocks = self.layout.n_blocks
        factor = np.zeros((blocks, blocks))
        factor[np.tril_indices(blocks)] = self._read("factor")
        factor[~factor.any(axis=1)] = np.eye(blocks)[~factor.any(axis=1)]
        scaled: Floats = factor / np.linalg.norm(factor, axis=1, keepdims=True)
        return scaled

    @cached_property
    def correlation(self) -> Floats:
        """(D, D) correlation of the normal numbers, positive definite."""
        return nearest_correlation(self.factor @ self.factor.T)

    def generate(self, n: int, condition: Condition | None, rng: np.random.Generator) -> Codes:
        """Generate n rows.

        A condition always holds, enforced or not: rows are drawn from the distribution given it.
        That is exact for one block, and a Markov chain of `sweeps` sweeps for more.

        Raises:
            ConditionError: The condition does not fit the layout, or has no probability.
        """
        unknown = np.full((n, self.layout.n_blocks), -1, dtype=np.int32)
        evidence = {} if condition is None else condition.evidence(self.layout)
        codes = self._fill(unknown, evidence, rng)
        scalars = rng.uniform(-1, 1, (n, self.layout.n_scalars)).astype(np.float32)
        return Codes(scalars, codes)

    def complete(
        self,
        codes: npt.NDArray[np.int32],
        allowed: Mapping[int, npt.NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.int32]:
        """Fill the unknown codes of rows: drawn from their distribution given the known ones.

        By a Markov chain of `sweeps` sweeps over the numbers behind the codes.

        Raises:
            ConditionError: What is known or allowed has no probability.
        """
        evidence = Condition(dict(allowed)).evidence(self.layout)
        for block, cells in enumerate(self.cells):
            if (cells.probabilities[codes[codes[:, block] >= 0, block]] == 0).any():
                raise ConditionError(
                    f"a known code of block {block} has no probability", do="leave it out"
                )
        return self._fill(codes, evidence, rng)

    def row_scores(
        self, rows: Codes, rng: np.random.Generator, *, generator_only: bool = False
    ) -> dict[str, npt.NDArray[np.float64]]:
        """How likely each row is: {"log_likelihood": (n,)}.

        An approximation, see `normal_scores.log_density`. Codes of -1 count nothing.
        """
        return {"log_likelihood": log_density(self.correlation, self.cells, rows.codes)}

    def _fill(
        self,
        codes: npt.NDArray[np.int32],
        evidence: Mapping[int, Floats],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.int32]:
        """As `complete`, with evidence that codes may satisfy in part."""
        for block, shares in evidence.items():
            if not (self.cells[block].probabilities * shares).any():
                raise ConditionError(f"what is allowed of block {block} has no probability")
        filled = np.empty_like(codes)
        chunk = max(256, _CHUNK_CELLS // max([1, *self.layout.block_widths]))
        for start in range(0, len(codes), chunk):
            here = slice(start, start + chunk)
            filled[here] = draw_in_cells(
                self.correlation, self.cells, codes[here], evidence, self.config.sweeps, rng
            )
        return filled

    def _read(self, part: str) -> Floats:
        """One tensor of the vector."""
        return self.parameters.views(self._vector)[f"generator.{part}"].double().numpy()

    def _write(self, name: str, values: Floats) -> None:
        """Replace one tensor of the vector."""
        self.parameters.views(self._vector)[name].copy_(torch.from_numpy(values))

    def _forget(self) -> None:
        """Drop what was derived from parameters that have changed."""
        for derived in ("cells", "factor", "correlation"):
            self.__dict__.pop(derived, None)


class CopulaFit:
    """The fit of a copula: one question.

    Args:
        model: A copula that knows how frequent codes are.
        private: Whether what a row adds must be bounded.
    """

    def __init__(self, model: Copula, *, private: bool) -> None:
        self._model, self._private = model, private
        self._fitted = not model.layout.n_blocks

    @property
    def n_rounds(self) -> int:
        """One."""
        return 1

    @property
    def config(self) -> dict[str, Any]:
        """The config of the model."""
        return dataclasses.asdict(self._model.config)

    @property
    def vector(self) -> torch.Tensor:
        """(P,) parameters; without any correlation before the sums are known."""
        return self._model.get_vector()

    def question(self) -> Question | None:
        """The products of the scores of every two blocks, and the rows where both are known."""
        return None if self._fitted else product_question(self._model.cells, private=self._private)

    def take(self, total: Integers, deviation: float = 0.0) -> Mapping[str, float] | None:
        """Find the correlation behind the sums.

        Raises:
            TrainingError: No table has such sums.
        """
        scored = correlation_of_scores(total, self._model.cells, deviation)
        latent = latent_correlation(scored, self._model.cells, whole_scores(self._model.cells))
        self._model.set_factor(np.linalg.cholesky(nearest_correlation(latent)))
        self._fitted = True
        return {}

    def to_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Whether the sums are known, and the parameters."""
        return {"fitted": self._fitted}, {"vector": self.vector}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from `to_state`."""
        self._fitted = bool(values["fitted"])
        self._model.set_vector(tensors["vector"])


def _split(layout: Layout, values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Values (S,) of every code, block by block."""
    return np.split(values, np.cumsum(layout.block_widths)[:-1]) if layout.n_blocks else []
