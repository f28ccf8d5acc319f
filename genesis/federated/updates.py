"""What clients send back after training, made sense of before it is averaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError
from genesis.federated.aggregation import Aggregator, State
from genesis.federated.clients import read
from genesis.federated.messages import Reply, Request, Update, check_arrays
from genesis.federated.vectors import places_of
from genesis.models.parameters import ParameterLayout

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Combined", "Gatherer", "Hear", "expected", "mean_metrics", "part_of", "read_updates"]

Vector = npt.NDArray[np.float32]

LONGEST_NAME = 100  # letters of a metric's name
LARGEST_METRIC = 1e100


Hear: TypeAlias = Callable[[Sequence[Reply]], None]
"""What is done with replies as they come, before anything is made of them."""


@dataclass(frozen=True)
class Combined:
    """What the updates of a round come to.

    Args:
        vector: (P,) or, with control variates, (2P,): what `Aggregator.combine` returns. None if
            nothing was sent.
        survivors: Clients whose updates are in it, sorted.
        failed: Client id -> why, of those who said so or answered nonsense.
        metrics: Means of what they measured.
    """

    vector: Tensor | None
    survivors: tuple[str, ...]
    failed: dict[str, str]
    metrics: dict[str, float]


class Gatherer(Protocol):
    """A way to gather updates: one by one (`seen_updates`), or as their sum (`secure_sums`)."""

    def updates(
        self,
        requests: Mapping[str, Request],
        *,
        rule: Aggregator,
        state: State,
        layout: ParameterLayout,
        hear: Hear,
    ) -> Combined:
        """What some clients' updates come to.

        Args:
            requests: Client id -> request to train, or to send what was trained.
            rule: Combines them, unless a promise to hide clients does.
            state: What they start from, and have or are sent.
            layout: Where the parts of a model are.
            hear: Called with the replies as they come.

        Raises:
            FederationError: There are too few of them.
        """


def part_of(
    vector: Vector, layout: ParameterLayout, parts: tuple[str, ...] | None
) -> npt.NDArray[np.float32]:
    """The parameters of some parts, or of all if None: (p,) of vector (P,), in their order."""
    return np.concatenate([vector[place] for place in places_of(layout, parts)])


def read_updates(
    replies: Sequence[Reply],
    failed: dict[str, str],
    *,
    vector: Vector,
    layout: ParameterLayout,
    parts: tuple[str, ...] | None,
    copies: int,
    rows: Mapping[str, int],
    measured: Sequence[str] = (),
) -> list[Update]:
    """Replies as updates of the whole vector, in which what a client kept counts as unchanged.

    Args:
        replies: Of the clients that did not fail.
        failed: Client id -> why; those whose reply makes no sense are added.
        vector: (P,) the global parameters that they received.
        layout: Where the parts are.
        parts: What they were asked for: () for nothing, None for everything.
        copies: Vectors in a reply: two where a rule has control variates.
        rows: Client id -> its number of rows.
        measured: Names of the metrics that the rule weighs by, none of which is below 0.
    """
    updates: list[Update] = []
    for reply in replies:
        try:
            whole = _read_vector(reply, vector, layout, parts, copies)
            metrics = read(reply, lambda meta: _metrics(meta["metrics"], measured))
        except FederationError as error:
            failed[reply.client_id] = str(error)
            continue
        updates.append(Update(reply.client_id, whole, float(rows[reply.client_id]), metrics))
    return updates


def mean_metrics(updates: Sequence[Update], measures: Sequence[str]) -> dict[str, float]:
    """Means of the clients' losses, weighted by rows.

    What a rule had measured is left out, and what fewer than half of the clients tell of: a single
    one adds nothing to the account of a run and takes nothing from it.
    """
    hidden = tuple(f"{measure}." for measure in measures)
    told = Counter(name for update in updates for name in update.metrics)
    means = {}
    for name, count in told.items():
        if name.startswith(hidden) or 2 * count < len(updates):
            continue
        known = [update for update in updates if name in update.metrics]
        total = sum(update.weight for update in known) or 1.0
        means[name] = sum(update.metrics[name] * update.weight for update in known) / total
    return means


def expected(
    layout: ParameterLayout, parts: tuple[str, ...] | None, copies: int
) -> dict[str, tuple[str, int]]:
    """What a reply must hold that is asked for some parts, or for all if None."""
    size = copies * sum(place.stop - place.start for place in places_of(layout, parts))
    return {"vector": ("float32", size)} if parts != () else {}


def _read_vector(
    reply: Reply,
    vector: Vector,
    layout: ParameterLayout,
    parts: tuple[str, ...] | None,
    copies: int,
) -> Vector:
    """The whole vector after a reply that holds some parts of it.

    Raises:
        FederationError: It has another shape than was asked for, or is not finite.
    """
    check_arrays(reply.arrays, expected(layout, parts, copies))
    if parts == ():
        return vector
    sent = reply.arrays["vector"]
    if not np.isfinite(sent).all():
        raise FederationError("its update holds values that are not finite")
    if parts is None:
        return sent
    whole = vector.copy()
    start = 0
    for place in places_of(layout, parts):
        size = place.stop - place.start
        whole[place] = sent[start : start + size]
        start += size
    return whole


def _metrics(told: Mapping[str, Any], measured: Sequence[str]) -> dict[str, float]:
    """Metrics that a mean can be taken of, and those that the rule asked for.

    Raises:
        ValueError: One is not finite or has no name that can be shown, or one is missing.
    """
    values = {name: float(value) for name, value in told.items()}
    if not all(name.isprintable() and len(name) <= LONGEST_NAME for name in values):
        raise ValueError("a metric without a name")
    # So that a sum weighted by rows is finite too.
    if not all(abs(value) <= LARGEST_METRIC for value in values.values()):
        raise ValueError("a metric that is not finite")
    measures = tuple({f"{name.partition('.')[0]}." for name in measured})
    if {name for name in values if name.startswith(measures)} != set(measured):
        raise ValueError("not what was to be measured")
    if any(values[name] < 0 for name in measured):
        raise ValueError("a distance below 0")
    return values
