"""What a vector in a sum of updates, or of counts, consists of.

    updates  | changes, for every tensor | clipped numbers, one a tensor | α | α · metric, … |
    counts   | counts                                                    | rows |

A client with the share α of all rows (or of all clients, where they count alike) sends α times its
changes. Whoever is left after drop-outs, the mean is the sum over the sum of their α::

    mean change = Σ_k α_k Δ_k / Σ_k α_k
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError
from genesis.federated.secagg.quantise import Quantiser
from genesis.privacy.distributed import NoisySum

__all__ = [
    "LARGEST_METRIC",
    "MeanUpdate",
    "NoisyVector",
    "UpdateVector",
    "count_vector",
    "read_counts",
]

LARGEST_METRIC = 1024.0  # a loss beyond it, or below its negative, counts as this much


@dataclass(frozen=True)
class MeanUpdate:
    """What a sum of updates says.

    Args:
        change: (P,) float64, the clients' mean change.
        clipped: (L,) numbers of each tensor that were clipped, over all clients.
        metrics: Means of the clients' metrics.
    """

    change: npt.NDArray[np.float64]
    clipped: npt.NDArray[np.int64]
    metrics: dict[str, float]


@dataclass(frozen=True)
class UpdateVector:
    """How an update becomes whole numbers.

    Args:
        sizes: Numbers in each tensor.
        exponents: Tensor l is clipped to ±2^exponents[l].
        metrics: Names of the metrics that clients tell.
        clients: How many take part.
        bits: Of a number on its way.
    """

    sizes: tuple[int, ...]
    exponents: tuple[int, ...]
    metrics: tuple[str, ...]
    clients: int
    bits: int

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], sizes: Sequence[int], *, clients: int, bits: int
    ) -> UpdateVector:
        """What the server tells of it, for a client that knows the rest.

        Raises:
            FederationError: It does not fit the client's tensors.
        """
        exponents = tuple(int(each) for each in values["exponents"])
        copies = len(exponents) // max(len(sizes), 1)
        return cls(tuple(sizes) * copies, exponents, tuple(values["metrics"]), clients, bits)

    def to_dict(self) -> dict[str, Any]:
        """The same, for the server."""
        return {"exponents": list(self.exponents), "metrics": list(self.metrics)}

    @cached_property
    def quantiser(self) -> Quantiser:
        """How changes are rounded."""
        return Quantiser(self.bits, self.clients, self.sizes, self.exponents)

    @property
    def length(self) -> int:
        """Numbers in the vector."""
        return sum(self.sizes) + len(self.sizes) + 1 + len(self.metrics)

    def encode(
        self,
        change: npt.NDArray[np.float32],
        share: float,
        metrics: Mapping[str, float],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.uint32]:
        """(length,) what a client with some share sends.

        Raises:
            FederationError: The change is not finite, or of another length.
        """
        if len(change) != sum(self.sizes):
            raise FederationError(
                "the server asks for another update than this client's model has",
                do="give server and clients the same version",
            )
        quantiser = self.quantiser
        numbers, clipped = quantiser.encode(change, share, rng)
        told = [
            quantiser.fixed(metrics.get(name, 0.0), LARGEST_METRIC, share) for name in self.metrics
        ]
        rest = np.array([quantiser.share_slot(share), *told], dtype=np.uint32)
        return np.concatenate([numbers, quantiser.counter_slots(clipped), rest])

    def decode(self, total: npt.NDArray[np.int64]) -> MeanUpdate:
        """What the sum (length,) of the clients' vectors says.

        Raises:
            FederationError: Nobody counts anything in it.
        """
        quantiser, size, tensors = self.quantiser, sum(self.sizes), len(self.sizes)
        share = quantiser.shares(int(total[size + tensors]))
        if not share > 0:
            raise FederationError("the clients that are left have no rows")
        told = total[size + tensors + 1 :]
        return MeanUpdate(
            quantiser.decode(total[:size]) / share,
            total[size : size + tensors],
            {
                name: quantiser.unfixed(int(number), LARGEST_METRIC) / share
                for name, number in zip(self.metrics, told, strict=True)
            },
        )


@dataclass(frozen=True)
class NoisyVector:
    """A change to which every client has added its share of noise: nothing else goes with it.

    Args:
        noisy: How it becomes whole numbers.
    """

    noisy: NoisySum

    def to_dict(self) -> dict[str, Any]:
        """Nothing: clients find out by themselves how much noise a promise needs."""
        return {}

    @property
    def length(self) -> int:
        """Numbers in the vector."""
        return self.noisy.parameters

    def decode(self, total: npt.NDArray[np.int64]) -> MeanUpdate:
        """What the sum (length,) says."""
        return MeanUpdate(self.noisy.decode(total), np.zeros(0, dtype=np.int64), {})


def count_vector(counts: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.uint64]:
    """What a client sends of its counts: exact, since sums of counts are far below 2^63."""
    return np.append(counts, np.int64(rows)).astype(np.uint64)


def read_counts(total: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """The sums of counts, and of rows."""
    return total[:-1], int(total[-1])
