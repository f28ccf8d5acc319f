"""A tree of hidden variables, one above every block: a hidden Chow-Liu tree.

Every block has a hidden variable of h states. Hidden variables form a tree, and the code of a block
depends on the state of its own alone (Liu and Van den Broeck 2021, "Tractable regularization of
probabilistic circuits", section 6)::

    P(codes, states) = π(z_root) · Π over edges A_i(z_parent, z_i) · Π over blocks E_i(z_i, x_i)

Sums over all states are exact, in one pass from the leaves to the root (likelihood) and one back
(posterior; Pearl 1988). So everything here is exact: expected counts, the tree given what is known
of some blocks, and draws of what is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from genesis.errors import ConditionError
from genesis.models.parameters import ParameterLayout
from genesis.models.sums.inversion import draw_columns, draw_from

__all__ = ["HiddenTree", "Weights", "tree_shapes"]

Weights = Mapping[int, npt.NDArray[np.float64] | npt.NDArray[np.bool_]]
"""Block -> (width,) in [0, 1], how far each of its codes agrees with what is known of it."""

_IMPOSSIBLE = 1e-12
"""Likelihood of a code that no state emits. It tells nothing of the states, as a code that is not
known, and expected counts then make it possible."""

_LEAST = 1e-30
"""What divisors are kept above."""

_FEW = 3
"""Children whose messages can be multiplied as they are. A state that many children rule out may be
saved by many others, so the messages of more children are multiplied as logarithms."""

_BLOCK = {"cpu": 1024, "cuda": 2**15}
"""Rows whose messages are held at a time: what a processor's cache holds, or fills a GPU."""


def tree_shapes(
    states: int, parents: Sequence[int], widths: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a `HiddenTree`; along the last axis they sum to 1."""
    edges = {f"generator.edge.{i}": (states, states) for i, p in enumerate(parents) if p >= 0}
    emissions = {f"generator.emission.{i}": (states, w) for i, w in enumerate(widths)}
    return {"generator.root": (states,), **edges, **emissions}


@dataclass(frozen=True)
class HiddenTree:
    """A distribution of rows of codes.

    Args:
        parents: The parent of every block; -1 for the root.
        root: (h,) π, the chances of its states.
        edges: Block -> (h, h), the chances of its state (second axis) given that of its parent.
        emissions: For every block (h, width), the chances of its codes given its state.
    """

    parents: tuple[int, ...]
    root: Tensor
    edges: Mapping[int, Tensor]
    emissions: tuple[Tensor, ...]

    @classmethod
    def of(cls, parameters: ParameterLayout, vector: Tensor, parents: Sequence[int]) -> HiddenTree:
        """The tree of a vector of parameters, named as by `tree_shapes`."""
        views = parameters.views(vector)
        return cls(
            tuple(parents),
            views["generator.root"],
            {i: views[f"generator.edge.{i}"] for i, p in enumerate(parents) if p >= 0},
            tuple(views[f"generator.emission.{i}"] for i in range(len(parents))),
        )

    @cached_property
    def order(self) -> tuple[int, ...]:
        """All blocks, parents before their children."""
        order = [self.parents.index(-1)]
        for block in order:
            order += self.children[block]
        return tuple(order)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of every block."""
        children: list[list[int]] = [[] for _ in self.parents]
        for block, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(block)
        return tuple(tuple(c) for c in children)

    @property
    def block_rows(self) -> int:
        """Rows that are looked at together."""
        return _BLOCK.get(self.root.device.type, _BLOCK["cuda"])

    # Rows whose codes are known, or some of them.

    def likelihoods(self, weights: Weights) -> list[Tensor]:
        """For every block (width + 1, h), the likelihood of each code given the state.

        The last row is for a code that is not known: Σ_x E(z, x) weight(x).
        """
        tables = []
        for block, emission in enumerate(self.emissions):
            table = emission.t()
            table = torch.where(table.amax(1, keepdim=True) > 0, table, _IMPOSSIBLE)
            unknown = torch.ones_like(table[0])
            if block in weights:
                unknown = self._weighted(block, weights).sum(1)
            tables.append(torch.cat([table, unknown.unsqueeze(0)]))
        return tables

    def upward(self, codes: Tensor, tables: Sequence[Tensor]) -> _Beliefs:
        """What the blocks below every hidden variable say of it, from the leaves to the root.

            b_i(z) = E_i(z, x_i) Π over children c of m_c(z),   m_c(z) = Σ_z' A_c(z, z') b_c(z')

        Rows of b are divided by their largest entries, and the logarithms of those add up.

        Args:
            codes: (n, blocks) int64; -1 is unknown.
            tables: Of `likelihoods`.
        """
        below: dict[int, Tensor] = {}
        messages: dict[int, Tensor] = {}
        log = self.root.new_zeros(len(codes), 1)
        for block in reversed(self.order):
            table, column = tables[block], codes[:, block]
            b = table.index_select(0, torch.where(column < 0, len(table) - 1, column))
            b = _product(b, [messages[child] for child in self.children[block]], log)
            below[block] = b
            if self.parents[block] >= 0:
                messages[block] = (b @ self.edges[block].t()).clamp_(min=_LEAST)
        root = self.root * b
        total = root.sum(1, keepdim=True).clamp_(min=_LEAST)
        return _Beliefs(below, messages, root / total, (log + total.log())[:, 0])

    def log_likelihood(self, codes: Tensor) -> Tensor:
        """(n,) ln P(codes), of those that are known, for codes (n, blocks)."""
        tables = self.likelihoods({})
        parts = [
            self.upward(part.long(), tables).log_likelihood
            for part in torch.split(codes, self.block_rows)
        ]
        return torch.cat(parts) if parts else self.root.new_zeros(0)

    def expected_counts(self, codes: Tensor, parameters: ParameterLayout) -> tuple[Tensor, Tensor]:
        """How often rows are expected to use every parameter, and their log-likelihoods.

        From the root to the leaves, with q_i the posterior of a state,

            n_i(z, z') = A_i(z, z') Σ over rows of u_i(z) b_i(z'),   u_i = q_parent / m_i,
            q_i(z') = b_i(z') Σ_z u_i(z) A_i(z, z').

        Args:
            codes: (n, blocks); -1 is unknown.
            parameters: Names and shapes of the counts.

        Returns:
            (P,) float64, in which sums of float32 products are as good as exact, and (n,).
        """
        counts = torch.zeros(parameters.size, dtype=torch.float64, device=codes.device)
        views, tables = parameters.views(counts), self.likelihoods({})
        emitted = [torch.zeros_like(table, dtype=torch.float64) for table in tables]
        log_likelihood = []
        for part in torch.split(codes, self.block_rows):
            rows = len(part)
            # Blocks of one size: what a product rounds a row to may depend on how many there are.
            part = nn.functional.pad(part.long(), (0, 0, 0, self.block_rows - rows), value=-1)
            beliefs = self.upward(part, tables)
            log_likelihood.append(beliefs.log_likelihood[:rows])
            posterior: dict[int, Tensor] = {}
            for block in self.order:
                parent, b = self.parents[block], beliefs.below[block]
                if parent < 0:
                    q = beliefs.root
                    q[rows:] = 0
                    views["generator.root"] += q.double().sum(0)
                else:
                    u = posterior[parent] / beliefs.messages[block]
                    views[f"generator.edge.{block}"].addmm_(u.double().t(), b.double())
                    q = b.mul_(u @ self.edges[block])
                posterior[block] = q
                known = torch.where(part[:, block] < 0, len(emitted[block]) - 1, part[:, block])
                emitted[block].index_add_(0, known, q.double())
        for block, edge in self.edges.items():
            views[f"generator.edge.{block}"] *= edge
        for block, table in enumerate(emitted):
            views[f"generator.emission.{block}"].copy_(table[:-1].t())
        return counts, torch.cat(log_likelihood) if log_likelihood else self.root.new_zeros(0)

    # What is not known, drawn.

    def given(self, weights: Weights) -> HiddenTree:
        """The distribution of rows given what is known of some blocks: a tree of the same shape.

        Its tables are those of this one, times what lies below an entry (`upward`), scaled to sums
        of 1: A'(z, z') ∝ A(z, z') b(z').

        Raises:
            ConditionError: No row is like that.
        """
        emissions, logs = [], []
        for block in range(len(self.emissions)):
            table = self._weighted(block, weights).double()
            emissions.append(_normalised(table))
            logs.append(table.sum(1).log())
        edges = {}
        for block in reversed(self.order):
            for child in self.children[block]:
                table = self.edges[child].double() * _scaled_exp(logs[child])
                edges[child] = _normalised(table)
                logs[block] = logs[block] + table.sum(1).log()
        root = self.root.double() * _scaled_exp(logs[self.order[0]])
        if not root.sum() > 0:
            named = ", ".join(str(block) for block in sorted(weights))
            raise ConditionError(
                f"no row can have what is asked of blocks {named} together", do="allow more codes"
            )
        return HiddenTree(self.parents, root / root.sum(), edges, tuple(emissions))

    def _weighted(self, block: int, weights: Weights) -> Tensor:
        """(h, width) the emission of a block, times what is known of it."""
        emission = self.emissions[block]
        if block not in weights:
            return emission
        weight = torch.as_tensor(weights[block], dtype=emission.dtype, device=emission.device)
        emission = emission * weight
        if not emission.any():
            raise ConditionError(
                f"no row can have what is asked of block {block}", do="allow more codes"
            )
        return emission

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, blocks) int32 codes of n rows, each from the root down."""
        device = self.root.device
        codes = torch.empty(n, len(self.parents), dtype=torch.int32, device=device)
        states: dict[int, Tensor] = {-1: torch.zeros(n, dtype=torch.int64, device=device)}
        edges = self.edges
        for block in self.order:
            table = edges[block] if block in edges else self.root.unsqueeze(0)
            states[block] = draw_from(table, states[self.parents[block]], generator)
            codes[:, block] = draw_from(self.emissions[block], states[block], generator)
        return codes

    def complete(self, codes: Tensor, weights: Weights, generator: torch.Generator) -> Tensor:
        """Rows (n, blocks) with their unknown codes drawn given the known ones.

        Raises:
            ConditionError: No row can have what weights ask of a block.
        """
        parts = [
            self._completed(part, weights, generator)
            for part in torch.split(codes, self.block_rows)
        ]
        return torch.cat(parts) if parts else codes

    def _completed(self, codes: Tensor, weights: Weights, generator: torch.Generator) -> Tensor:
        """The same for a few rows."""
        beliefs = self.upward(codes.long(), self.likelihoods(weights))
        completed, states = codes.clone(), dict[int, Tensor]()
        for block in self.order:
            chances = beliefs.root
            if self.parents[block] >= 0:
                chances = self.edges[block][states[self.parents[block]]] * beliefs.below[block]
            states[block] = draw_columns(chances, generator)
            unknown = torch.nonzero(codes[:, block] < 0)[:, 0]
            if len(unknown):
                emission = self._weighted(block, weights)
                drawn = draw_from(emission, states[block][unknown], generator)
                completed[unknown, block] = drawn.to(completed.dtype)
        return completed


@dataclass(frozen=True)
class _Beliefs:
    """What an upward pass over n rows finds.

    Args:
        below: Block -> (n, h), b.
        messages: Block -> (n, h), m, of all but the root.
        root: (n, h) posterior of the root's state.
        log_likelihood: (n,).
    """

    below: dict[int, Tensor]
    messages: dict[int, Tensor]
    root: Tensor
    log_likelihood: Tensor


def _product(b: Tensor, messages: Sequence[Tensor], log: Tensor) -> Tensor:
    """b (n, h) times all messages, each row up to a factor whose logarithm is added to log (n, 1).

    b is written over.
    """
    if len(messages) > _FEW:
        logs = b.clamp_(min=_LEAST).log_()
        for message in messages:
            logs += message.log()
        largest = logs.amax(1, keepdim=True)
        log += largest
        return logs.sub_(largest).exp_()
    for message in messages:
        b *= message
        largest = b.amax(1, keepdim=True).clamp_(min=_LEAST)
        b /= largest
        log += largest.log_()
    return b


def _scaled_exp(logs: Tensor) -> Tensor:
    """exp of logs (h,) up to a factor; zeros where all are -inf."""
    return (logs - logs.max().clamp(min=-1e300)).exp()


def _normalised(table: Tensor) -> Tensor:
    """Rows that sum to 1; those of zeros, which nothing leads to, are left."""
    total = table.sum(1, keepdim=True)
    return table / torch.where(total > 0, total, 1.0)
