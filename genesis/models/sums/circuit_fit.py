"""How a circuit is fitted: a tree from counts of pairs, then expectation maximisation.

    pairs → the tree → expected counts of some rows → … → expected counts of all rows → …

A pass over all rows makes one step (Dempster, Laird and Rubin 1977). The first passes make one step
for every part of the rows (Cappé and Moulines 2009, "On-line expectation-maximization"), which
comes as far in fewer passes. What part a row belongs to follows from its codes alone, so it does
not matter where the row lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Layout
from genesis.errors import FederationError, PlanError, TrainingError
from genesis.models.config import parse
from genesis.models.parameters import ParameterLayout
from genesis.models.sums import Question
from genesis.models.sums.chow_liu import (
    Groups,
    central_parents,
    count_pairs,
    group_codes,
    mutual_information,
)
from genesis.models.sums.circuit import (
    Circuit,
    CircuitConfig,
    block_chances,
    shapes_of,
    states_for,
)
from genesis.models.sums.hidden_tree import HiddenTree
from genesis.models.sums.rows import MOST_GROUPS, SumRows, are_groups

__all__ = ["CircuitFit", "answer"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MOST_BITS = 54
"""Of a sum. What is rounded away grows from step to step, so all of them are used."""

_LIKELIHOOD = 2.0**20
"""Parts of a nat that log-likelihoods are rounded to."""

_LEAST_PART = 2000
"""Rows that a part of the rows in an early pass should have."""

_EARLY = 5
"""Most passes that are made in parts; at most a quarter of all are."""

_BLOCK = 2**16
"""Rows that are gone over at a time."""

_FORGETTING = 0.7
"""The k-th part counts k^-0.7 as much as all before it (Cappé and Moulines 2009, eq. 9)."""


class CircuitFit:
    """The fit of one circuit; see `SumFit`.

    Args:
        layout: Layout of the encoded rows.
        config: What was chosen of the circuit.
        rows: Number of rows of all shards.
        frequencies: (S,) released counts of every code of every block.
        n_rounds: Passes over the rows.
        seed: Decides where it starts.

    Raises:
        PlanError: The config does not suit the layout, or there is no column.
    """

    def __init__(
        self,
        layout: Layout,
        config: CircuitConfig,
        *,
        rows: int,
        frequencies: Floats,
        n_rounds: int,
        seed: int,
    ) -> None:
        if not layout.n_blocks:
            raise PlanError("a circuit needs at least one column")
        self._layout, self._seed, self._rounds, self._rows = layout, seed, n_rounds, max(rows, 1)
        self._frequencies = np.maximum(frequencies, 0.0)
        self._chances = [torch.from_numpy(c) for c in block_chances(layout, frequencies)]
        self._groups = group_codes(layout, self._frequencies)
        self._early = min(_EARLY, n_rounds // 4)
        self._parts = max(1, min(MOST_GROUPS, rows // _LEAST_PART))
        # Without any pair the tree is known.
        self._tree_known = config.tree is not None or layout.n_blocks == 1
        tree = config.tree or (-1,) + (0,) * (layout.n_blocks - 1)
        self._round = self._part = self._updates = 0
        self._log_likelihood = self._seen = 0.0
        self._begin(replace(config, tree=tree, states=config.states or states_for(rows)))

    @property
    def n_rounds(self) -> int:
        """Passes over the rows."""
        return self._rounds

    @property
    def config(self) -> dict[str, Any]:
        """The config of the circuit; a star until the tree is known."""
        return asdict(self._config)

    @property
    def vector(self) -> Tensor:
        """(P,) float32 parameters of the circuit, on the CPU."""
        return self._vector.clone()

    def question(self) -> Question | None:
        """The counts of pairs first, then expected counts; None after the last round."""
        if self._round >= self._rounds:
            return None
        if not self._tree_known:
            return Question(
                "pairs",
                self._groups.n_cells,
                arrays={"groups": np.concatenate(self._groups.of_code)},
            )
        return Question(
            "expectations",
            self._parameters.size + 2,
            meta={
                "states": self._config.states,
                "tree": self._config.tree,
                "part": self._part,
                "parts": self._parts_now,
                "bits": self._bits,
            },
            arrays={"parameters": self._vector.numpy().copy()},
        )

    def take(self, total: Integers, deviation: float = 0.0) -> Mapping[str, float] | None:
        """Learn from the sum of all answers to the question.

        Returns:
            The mean over the rows of -ln P, in nats, by the parameters that the round's questions
            were asked with; None where the round goes on.

        Raises:
            TrainingError: No table has such sums.
        """
        question = self.question()
        if question is None or total.shape != (question.size,):
            raise TrainingError(
                "the sum of the answers is none to the question", got=f"{total.size:,} numbers"
            )
        counts = total if question.kind == "pairs" else total[:-2]
        if (counts < 0).any():
            raise TrainingError("no table has such sums", got="counts below 0")
        if question.kind == "pairs":
            self._tree_known = True
            tree = central_parents(mutual_information(self._groups, total))
            self._begin(replace(self._config, tree=tree))
            return None
        return self._take_expectations(total)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that the next question depends on."""
        values = {
            "config": self.config,
            "tree_known": self._tree_known,
            "round": self._round,
            "part": self._part,
            "updates": self._updates,
            "log_likelihood": self._log_likelihood,
            "seen": self._seen,
        }
        return values, {"vector": self._vector.clone(), "counts": self._counts.clone()}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_state`."""
        self._begin(parse(CircuitConfig, values["config"], Circuit.name))
        self._vector.copy_(tensors["vector"])
        self._counts.copy_(tensors["counts"])
        self._tree_known = bool(values["tree_known"])
        self._round, self._part = int(values["round"]), int(values["part"])
        self._updates = int(values["updates"])
        self._log_likelihood, self._seen = float(values["log_likelihood"]), float(values["seen"])

    @property
    def _parts_now(self) -> int:
        """Parts that the rows are in, in this round."""
        return self._parts if self._round < self._early else 1

    def _begin(self, config: CircuitConfig) -> None:
        """Start with the circuit of a config."""
        model = Circuit(
            self._layout, asdict(config), seed=self._seed, frequencies=self._frequencies
        )
        self._config, self._parameters = model.config, model.parameters
        self._vector = model.get_vector()
        self._views = self._parameters.views(self._vector)
        self._counts = torch.zeros(self._parameters.size, dtype=torch.float64)

    @property
    def _bits(self) -> int:
        """Behind the point of an expected count, of which there are as many as rows."""
        return min(max(_MOST_BITS - self._rows.bit_length(), 0), 48)

    def _take_expectations(self, total: Integers) -> Mapping[str, float] | None:
        """Make a step; returns what a round came to."""
        rows = float(total[-1])
        self._log_likelihood += float(total[-2]) / _LIKELIHOOD
        self._seen += rows
        if rows > 0:
            self._step(torch.from_numpy(total[:-2] / 2.0**self._bits), rows)
        self._part += 1
        if self._part < self._parts_now:
            return None
        if self._seen <= 0:
            raise TrainingError("there are no rows to learn from", do="check the shards")
        loss = -self._log_likelihood / self._seen
        self._round += 1
        self._part, self._log_likelihood, self._seen = 0, 0.0, 0.0
        return {Circuit.losses[0]: loss}

    def _step(self, counts: Tensor, rows: float) -> None:
        """The likeliest parameters given expected counts, a priori those of a Dirichlet."""
        if self._parts_now > 1:
            # As chances, because parts differ in their number of rows.
            self._updates += 1
            weight = self._updates**-_FORGETTING
            self._counts = self._counts.lerp(counts / rows, weight)
            counts = self._counts * self._rows
        smoothing = self._config.smoothing
        for name, view in self._parameters.views(counts).items():
            block = name.rpartition(".")[2]
            emission = name.startswith("generator.emission.")
            prior = self._chances[int(block)] if emission else 1 / view.shape[-1]
            more = view + smoothing * prior
            self._views[name].copy_(more / more.sum(-1, keepdim=True))


def answer(rows: SumRows, question: Question) -> Integers:
    """(question.size,) what rows add up to: counts of pairs, or expected counts.

    Expected counts are those of every parameter, in its place; then the log-likelihood of the rows,
    and their number. Each is summed in float64 and rounded once.

    Raises:
        FederationError: It is no question of a circuit.
    """
    try:
        if question.kind == "pairs":
            groups = _groups(rows.layout, question.arrays["groups"])
            asked, size = partial(_pairs, groups, rows), groups.n_cells
        elif question.kind == "expectations":
            parameters, tree = _tree(rows.layout, question, rows.device)
            part, parts = question.meta["part"], question.meta["parts"]
            if not are_groups(part, parts):
                raise ValueError(f"no pass has part {part} of {parts}")
            bits = int(question.meta["bits"])
            if not 0 <= bits < _MOST_BITS:
                raise ValueError("counts of so many bits")
            asked = partial(_expectations, parameters, tree, rows, part, parts, bits)
            size = parameters.size + 2
        else:
            raise ValueError(f"no question is called '{question.kind}'")
        if size != question.size:
            raise ValueError(f"the answer has {size:,} numbers, not {question.size:,}")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FederationError(f"the question is none of a circuit: {error}") from error
    return asked()


def _groups(layout: Layout, of_code: Integers) -> Groups:
    """The groups that a question names."""
    if of_code.shape != (sum(layout.block_widths),) or (of_code < 0).any():
        raise ValueError("groups do not fit the encoding")
    blocks = np.split(of_code.astype(np.int64), np.cumsum(layout.block_widths)[:-1])
    if any(block.max() >= len(block) for block in blocks):
        raise ValueError("groups do not fit the encoding")
    return Groups(tuple(blocks), tuple(int(block.max()) + 1 for block in blocks))


def _tree(
    layout: Layout, question: Question, device: torch.device
) -> tuple[ParameterLayout, HiddenTree]:
    """The tree that expectations are taken under, and where its parameters lie."""
    config = {name: question.meta[name] for name in ("states", "tree")}
    parameters, parents = shapes_of(layout, parse(CircuitConfig, config, Circuit.name))
    vector = torch.as_tensor(question.arrays["parameters"], device=device)
    if vector.shape != (parameters.size,):
        raise ValueError("the parameters are not those of the tree")
    return parameters, HiddenTree.of(parameters, vector, parents)


def _pairs(groups: Groups, rows: SumRows) -> Integers:
    """Rows in every cell of the tables of all pairs."""
    total = np.zeros(groups.n_cells, dtype=np.int64)
    for codes in rows.code_blocks(size=_BLOCK):
        total += count_pairs(groups, codes)
    return total


def _expectations(
    parameters: ParameterLayout, tree: HiddenTree, rows: SumRows, part: int, parts: int, bits: int
) -> Integers:
    """Expected counts, the log-likelihood and the number of those rows that are in the part."""
    total = torch.zeros(parameters.size + 2, dtype=torch.float64, device=rows.device)
    with torch.inference_mode():
        for codes in rows.code_blocks(part, parts, _BLOCK):
            on_device = torch.from_numpy(codes).to(rows.device)
            counts, log_likelihood = tree.expected_counts(on_device, parameters)
            total[:-2] += counts
            total[-2] += log_likelihood.double().sum()
            total[-1] += len(codes)
        total[:-2] *= 2.0**bits
        total[-2] *= _LIKELIHOOD
        return total.round_().long().cpu().numpy()
