"""A probabilistic circuit for tables: a hidden Chow-Liu tree, fitted by expectation maximisation.

After Liu and Van den Broeck 2021, "Tractable regularization of probabilistic circuits". Which block
hangs from which follows from counts of pairs; all else from the expected counts of states, which
are sums over the rows. Whatever is known of a row, the rest follows exactly: see `HiddenTree`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, PlanError
from genesis.models.config import flag, number, option, optional, parse, whole
from genesis.models.flat import seeded
from genesis.models.parameters import ParameterLayout
from genesis.models.sums.hidden_tree import HiddenTree, tree_shapes

if TYPE_CHECKING:
    from genesis.models.sums import Budget, Question
    from genesis.models.sums.circuit_fit import CircuitFit
    from genesis.models.sums.rows import SumRows
    from genesis.privacy.sums import Release

__all__ = [
    "Circuit",
    "CircuitConfig",
    "block_chances",
    "initial_vector",
    "shapes_of",
    "states_for",
]

Floats = npt.NDArray[np.float64]

_MOST_PARAMETERS = 2**27
"""An answer is 1 GiB then."""

_CHUNK = 2**16
"""Rows that are generated at a time."""

_SPREAD = 2.0
"""Standard deviation of the logarithm of what initial emissions differ by."""

_LOOSE = 0.1
"""Chance that neighbours have any two states at the start, instead of the same one."""


def _tree(value: Any) -> tuple[int, ...]:
    """Parents of a tree."""
    needed = "the parent of every block, -1 for one root"
    try:
        parents = tuple(whole(-1)(parent) for parent in value)
    except (TypeError, ValueError):
        raise ValueError(needed) from None
    children: dict[int, list[int]] = {node: [] for node in range(-1, len(parents))}
    for node, parent in enumerate(parents):
        children.get(parent, []).append(node)
    reached = [-1]
    for node in reached:
        reached += children[node]
    if parents.count(-1) != 1 or len(reached) != len(children):
        raise ValueError(needed)
    return parents


@dataclass(frozen=True)
class CircuitConfig:
    """What can be chosen about a circuit.

    Args:
        states: States of every hidden variable, at least 1. More of them give better rows, and
            remember more of each. None lets the fit choose by the number of rows.
        smoothing: Rows that every state is given beforehand, above 0: its codes as frequent as
            was released, its neighbours' states all alike. More of it forgets more.
        tree: The parent of every block, -1 for the root. None lets the fit find it.
        epochs: For the caller: passes over the rows.
        verbose: For the caller: whether progress is shown.
    """

    states: int | None = option(None, optional(whole(1)))
    smoothing: float = option(0.5, number(above=0))
    tree: tuple[int, ...] | None = option(None, optional(_tree))
    epochs: int = option(25, whole(1))
    verbose: bool = option(False, flag)


class Circuit:
    """A hidden Chow-Liu tree on encoded rows.

    Args:
        layout: Layout of the encoded rows.
        config: See `CircuitConfig`. Without states it has one, without a tree a star.
        device: Where it generates.
        seed: Decides the initial parameters.
        frequencies: (S,) released counts of every code; uniform if None.

    Raises:
        PlanError: The config is impossible, or does not suit the layout.
    """

    name: ClassVar[str] = "circuit"
    losses: ClassVar[tuple[str, ...]] = ("negative_log_likelihood",)
    grid: ClassVar[int] = 100
    private: ClassVar[bool] = False
    private_gradients: ClassVar[str] = "no gradients, but sums over the rows"
    batch_multiple = 1

    def __init__(
        self,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        frequencies: Floats | None = None,
    ) -> None:
        self.layout = layout
        self.config = self.parsed(config)
        self.device = torch.device(device)
        self.parameters, tree = shapes_of(layout, self.config)
        self._vector = torch.zeros(self.parameters.size, device=self.device)
        self.set_vector(initial_vector(self.parameters, layout, frequencies, seed))
        self.tree = HiddenTree.of(self.parameters, self._vector, tree)

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Raise PlanError for a config that the model would refuse."""
        cls.parsed(config)

    @classmethod
    def parsed(cls, config: Mapping[str, Any]) -> CircuitConfig:
        """All choices of a config.

        Raises:
            PlanError: It is impossible.
        """
        return parse(CircuitConfig, config, cls.name)

    @classmethod
    def releases(
        cls,
        layout: Layout,  # noqa: ARG003 - of the protocol
        config: Mapping[str, Any],  # noqa: ARG003
    ) -> tuple[Release, ...]:
        """None: see `SumModel.releases`."""
        return ()

    def get_vector(self) -> Tensor:
        """All parameters: a copy, (P,) float32 on the CPU."""
        return self._vector.cpu().clone()

    def set_vector(self, vector: Tensor) -> None:
        """Replace all parameters by vector (P,).

        Raises:
            PlanError: The vector has another size.
        """
        if vector.shape != self._vector.shape:
            raise PlanError(
                f"{self.name} has {self.parameters.size} parameters in one vector",
                got=f"shape {tuple(vector.shape)}",
                do="build both sides from the same encoder and config",
            )
        self._vector.copy_(vector)

    @classmethod
    def fit(
        cls,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        rows: int,
        frequencies: Floats,
        n_rounds: int,
        seed: int,
        device: str | torch.device = "cpu",  # noqa: ARG003 - of the protocol
        budget: Budget | None = None,
    ) -> CircuitFit:
        """Begin to fit a circuit; see `SumModel.fit`.

        Raises:
            PlanError: The config does not suit the table, or there is a budget: noise in all of its
                expected counts would leave nothing of them.
        """
        from genesis.models.sums.circuit_fit import CircuitFit

        if budget is not None:
            raise PlanError(
                "a circuit cannot be fitted under a promise of privacy", do="use marginals"
            )
        return CircuitFit(
            layout,
            cls.parsed(config),
            rows=rows,
            frequencies=frequencies,
            n_rounds=n_rounds,
            seed=seed,
        )

    @classmethod
    def answer(
        cls,
        rows: SumRows,
        question: Question,
    ) -> npt.NDArray[np.int64]:
        """(question.size,) what some rows add up to; see `SumModel.answer`.

        Raises:
            FederationError: It is no question of this model.
        """
        from genesis.models.sums.circuit_fit import answer

        return answer(rows, question)

    def generate(self, n: int, condition: Condition | None, rng: np.random.Generator) -> Codes:
        """Generate n rows; those of a condition come from the distribution given the condition.

        Raises:
            ConditionError: The condition does not fit the layout, or no row satisfies it.
        """
        generator = self._generator(rng)
        codes = torch.empty(n, self.layout.n_blocks, dtype=torch.int32)
        with torch.inference_mode():
            tree = self.tree
            if condition is not None:
                tree = tree.given(condition.evidence(self.layout))
            for chunk in torch.split(codes, _CHUNK):
                chunk.copy_(tree.draw(len(chunk), generator))
        return Codes(_inside(n, self.layout.n_scalars, rng), codes.numpy())

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

        Raises:
            ConditionError: What is allowed does not fit the layout, or no row has it.
        """
        with torch.inference_mode():
            on_device = torch.as_tensor(codes, device=self.device)
            completed = self.tree.complete(on_device, self._checked(allowed), self._generator(rng))
        return completed.cpu().numpy()

    def row_scores(
        self, rows: Codes, rng: np.random.Generator, *, generator_only: bool = False
    ) -> dict[str, Floats]:
        """The log-likelihood of each row, in nats: name -> (n,)."""
        with torch.inference_mode():
            codes = torch.as_tensor(rows.codes, device=self.device)
            scores = self.tree.log_likelihood(codes)
        return {"log_likelihood": scores.double().cpu().numpy()}

    def _generator(self, rng: np.random.Generator) -> torch.Generator:
        """Random numbers on the device."""
        return torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))

    def _checked(self, allowed: Mapping[int, npt.NDArray[Any]]) -> Mapping[int, npt.NDArray[Any]]:
        """The same, if it fits the layout."""
        widths = self.layout.block_widths
        for block, weights in allowed.items():
            if not 0 <= block < len(widths) or weights.shape != (widths[block],):
                raise ConditionError(f"a condition on block {block} does not fit the encoding")
        return allowed


def shapes_of(layout: Layout, config: CircuitConfig) -> tuple[ParameterLayout, tuple[int, ...]]:
    """Names and shapes of a circuit's parameters, and the parents of its tree.

    Raises:
        PlanError: Something does not suit the layout, or makes it too large.
    """
    star = (-1,) + (0,) * (layout.n_blocks - 1)
    states, tree = config.states or 1, config.tree or star
    if len(tree) != layout.n_blocks:
        raise PlanError(
            "the tree of a circuit must name the parent of every block",
            got=f"{len(tree)} parents for {layout.n_blocks} blocks",
            do="leave tree out",
        )
    parameters = ParameterLayout(tree_shapes(states, tree, layout.block_widths))
    if parameters.size > _MOST_PARAMETERS:
        raise PlanError(
            "the circuit is too large",
            got=f"{parameters.size:,} parameters; {_MOST_PARAMETERS:,} are possible",
            do="choose fewer states",
        )
    return parameters, tree


def initial_vector(
    parameters: ParameterLayout, layout: Layout, frequencies: Floats | None, seed: int
) -> Tensor:
    """Where a fit starts: nearly a mixture, whose components differ at random.

    States emit codes as frequent as was released, times random factors; neighbours have the same
    state more often than chance. So state k of all hidden variables starts as component k of a
    mixture, and they part where rows say so.

    Args:
        parameters: Of `tree_shapes`.
        layout: Layout of the encoded rows.
        frequencies: (S,) released counts of every code, possibly noisy; uniform if None.
        seed: Decides the factors.

    Returns:
        (P,) float32 on the CPU.
    """
    vector = torch.zeros(parameters.size)
    generator = seeded(torch.device("cpu"), seed)
    chances = block_chances(layout, frequencies)
    for name, view in parameters.views(vector).items():
        states, block = len(view), name.rpartition(".")[2]
        if name == "generator.root":
            view.fill_(1 / states)
        elif name.startswith("generator.edge."):
            view.copy_((1 - _LOOSE) * torch.eye(states) + _LOOSE / states)
        else:
            factors = torch.randn(view.shape, generator=generator).mul_(_SPREAD).exp_()
            emission = factors * torch.from_numpy(chances[int(block)])
            view.copy_(emission / emission.sum(1, keepdim=True))
    return vector


def block_chances(layout: Layout, frequencies: Floats | None) -> list[Floats]:
    """For every block (width,), the released chances of its codes; uniform where none is known."""
    counts = np.ones(sum(layout.block_widths)) if frequencies is None else frequencies
    blocks = np.split(np.maximum(counts, 0.0), np.cumsum(layout.block_widths)[:-1])
    return [c / c.sum() if c.sum() > 0 else np.full(len(c), 1 / max(len(c), 1)) for c in blocks]


def states_for(rows: int) -> int:
    """How many states rows afford: more made rows of 16,000 and of 32,561 others worth guessing."""
    return int(min(max(0.4 * math.sqrt(max(rows, 0)) // 8 * 8, 8), 128))


def _inside(n: int, n_scalars: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(n, T) places inside bins, all alike."""
    return rng.random((n, n_scalars), dtype=np.float32) * 2 - 1
