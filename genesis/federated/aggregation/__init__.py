"""Aggregation: how the updates of a round become the next global parameters, one rule a file.

A rule is three steps. `weigh` says how much each client counts, `combine` makes one vector of the
clients' vectors, and `step` moves the server's state there. Every rule is `fedavg.FedAvg` with one
of them changed; to write your own, subclass that, or pass any object with the members of
`Aggregator`, or a plain function of (vectors, weights).

Vectors are parameters after local training, not changes. Rules that need the change (server
optimisers) take it from `state.vector`; all the others commute with a shift of the origin.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from genesis.errors import FederationError, PlanError, nearest_names

if TYPE_CHECKING:
    from torch import Tensor

    from genesis.federated.messages import Update

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "State",
    "aggregate",
    "aggregator_class",
    "combine",
    "create_aggregator",
    "is_sum",
]

AGGREGATORS: dict[str, str] = {
    "fedadam": "genesis.federated.aggregation.fedadam:FedAdam",
    "fedavg": "genesis.federated.aggregation.fedavg:FedAvg",
    "fedavgm": "genesis.federated.aggregation.fedavgm:FedAvgM",
    "fedprox": "genesis.federated.aggregation.fedprox:FedProx",
    "fedyogi": "genesis.federated.aggregation.fedyogi:FedYogi",
    "krum": "genesis.federated.aggregation.krum:Krum",
    "median": "genesis.federated.aggregation.median:Median",
    "multi_krum": "genesis.federated.aggregation.multi_krum:MultiKrum",
    "scaffold": "genesis.federated.aggregation.scaffold:Scaffold",
    "similarity": "genesis.federated.aggregation.similarity:Similarity",
    "trimmed_mean": "genesis.federated.aggregation.trimmed_mean:TrimmedMean",
    "weighted": "genesis.federated.aggregation.weighted:Weighted",
}

CombineFunction: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class State:
    """The server's state between rounds.

    Args:
        vector: (P,) float32, the global parameters.
        slots: Name -> what the rule remembers: momentum, second moment, control variate.
    """

    vector: Tensor
    slots: Mapping[str, Tensor] = field(default_factory=dict)

    def to_tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, as in a checkpoint: "vector", "slots.momentum" and so on."""
        return {"vector": self.vector} | {f"slots.{k}": slot for k, slot in self.slots.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> State:
        """The state that `to_tensors` was called on; other names are ignored."""
        prefix = "slots."
        slots = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        return cls(tensors["vector"], slots)


@runtime_checkable
class Aggregator(Protocol):
    """One rule. No method changes what it is given."""

    needs_individual_updates: ClassVar[bool]
    """Whether `combine` must see every client's vector. If not, it is Σ weight · vector, which
    secure aggregation can compute without showing the server any of them."""

    uniform_weights: ClassVar[bool]
    """Whether `weigh` is 1/K whatever the clients hold. If not, weights tell about their data."""

    control_variates: ClassVar[bool]
    """Whether each client keeps a control variate: it is sent ``slots["control"]`` with the
    parameters, and its vector is (2P,), its parameters and then its new minus its old variate."""

    measures: ClassVar[tuple[str, ...]]
    """What clients are asked to measure on their rows and to send as ``metrics["<measure>.<i>"]``,
    one number for each column: "divergence", see `divergence`."""

    @property
    def local_options(self) -> Mapping[str, float]:
        """What local training must know, by the name of a field of `LocalTraining`."""

    def initial(self, vector: Tensor) -> State:
        """The state before the first round, with parameters vector (P,)."""

    def weigh(self, updates: Sequence[Update]) -> Tensor:
        """How much each of the K updates counts: (K,) float64, at least 0, of sum 1.

        Raises:
            FederationError: An update lacks what the rule weighs by.
        """

    def combine(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """One vector (P,) of the clients' vectors (K, P) and weights (K,).

        With one client it is that client's vector, bit for bit.

        Raises:
            FederationError: The rule needs more clients.
        """

    def step(self, state: State, combined: Tensor, participation: float) -> State:
        """The next state.

        Args:
            state: The state that the clients started from.
            combined: What `combine` returned.
            participation: Share of all clients that combined is made of, in (0, 1].
        """


def aggregator_class(name: str) -> type[Any]:
    """The class of the rule called name.

    Raises:
        PlanError: There is no such rule.
    """
    if name not in AGGREGATORS:
        raise PlanError(f"unknown aggregation '{name}'", do=nearest_names(name, AGGREGATORS))
    module, _, cls = AGGREGATORS[name].partition(":")
    return getattr(import_module(module), cls)  # type: ignore[no-any-return]


def create_aggregator(rule: str | Aggregator | CombineFunction, **options: Any) -> Aggregator:
    """The rule that a plan names.

    Args:
        rule: A key of `AGGREGATORS`; an object with the members of `Aggregator`; or a function from
            vectors (K, P) and the clients' shares of the rows (K,) to a vector (P,).
        **options: The rule's own options, only with a name.

    Raises:
        PlanError: Unknown name, unknown or impossible option, or an object that is no rule.
    """
    if isinstance(rule, str):
        cls = aggregator_class(rule)
        known = inspect.signature(cls).parameters
        for option in options:
            if option not in known:
                advice = nearest_names(option, known) if known else "it takes no options"
                raise PlanError(f"aggregation '{rule}' has no option '{option}'", do=advice)
        built: Aggregator = cls(**options)
        return built
    if options:
        raise PlanError(
            "options go only with an aggregation given by name",
            got=f"an object and {', '.join(sorted(options))}",
            do="set them on the object",
        )
    if isinstance(rule, type):
        raise PlanError(f"aggregation is the class {rule.__name__}", do="pass an object of it")
    if isinstance(rule, Aggregator):
        return rule
    if callable(rule):
        from genesis.federated.aggregation.function import FunctionRule

        return FunctionRule(rule)
    raise PlanError(
        "aggregation must be a name, an aggregator or a function",
        got=f"a {type(rule).__name__}",
        do="choose a name, or subclass genesis.federated.aggregation.fedavg.FedAvg",
    )


def is_sum(rule: Aggregator) -> bool:
    """Whether a rule combines as `FedAvg` does: Σ weight · vector, with weights 1/K or n_k / n."""
    from genesis.federated.aggregation.fedavg import FedAvg
    from genesis.federated.aggregation.weighted import Weighted

    combine, weigh = getattr(type(rule), "combine", None), getattr(type(rule), "weigh", None)
    return combine is FedAvg.combine and weigh in (FedAvg.weigh, Weighted.weigh)


def aggregate(
    rule: Aggregator, state: State, updates: Sequence[Update], participation: float
) -> State:
    """One round of a rule on updates that the server may see: `combine`, and then its step."""
    return rule.step(state, combine(rule, state, updates), participation)


def combine(rule: Aggregator, state: State, updates: Sequence[Update]) -> Tensor:
    """What a rule makes of updates that the server may see.

    Args:
        rule: The rule.
        state: The state that the clients started from.
        updates: At least one, in any order: they are sorted by client, so that sums are always
            taken in the same order.

    Raises:
        FederationError: No update, updates of different lengths, or fewer than the rule needs.
    """
    import numpy as np
    import torch

    updates = sorted(updates, key=lambda update: update.client_id)
    expected = len(state.vector) * (2 if rule.control_variates else 1)
    if not updates:
        raise FederationError("no client sent an update")
    for update in updates:
        if update.vector.shape != (expected,):
            raise FederationError(
                f"the update of client '{update.client_id}' has the wrong length",
                got=f"shape {update.vector.shape} instead of ({expected},)",
                do="give every client the same version, plan and schema",
            )
    vectors = torch.from_numpy(np.stack([update.vector for update in updates]))
    return rule.combine(vectors.to(state.vector.device), rule.weigh(updates))
