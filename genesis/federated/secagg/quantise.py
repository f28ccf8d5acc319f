"""Changes of parameters as whole numbers that can be added up modulo a power of two.

A client's part of the mean is its change Δ times its share α of all rows. Of tensor l, whose clip
is C = 2^e, n clients send in b bits::

    q = floor(α S clip(Δ, ±C) + u),  u uniform in [0, 1),  S = (2^(b-1) - 1 - n) / C

which is α S Δ on average (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision",
section 3), and S times the mean is the sum. It never overflows: |q| ≤ α (2^(b-1) - 1 - n) + 1,
and shares add up to at most 1, so |Σ q| ≤ 2^(b-1) - 1, whoever is missing.

Clips are powers of two, and known to all before anybody has trained. What is clipped is lost and
what is rounded is not, so clips are generous: a counter of clipped numbers is added up as well, and
`Quantiser.next_exponents` follows what the sums of a round show, which are no secret.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genesis.errors import FederationError

__all__ = ["Quantiser", "first_exponents"]

LEAST, MOST = -24, 12
"""Exponents of a clip: from 6e-8 to 4096."""

HEADROOM = 16.0
"""A clip over the largest mean change of its tensor. Single clients change by more than their mean:
K independent ones by √K as much, and up to 12 times was seen of TVAEs on different rows."""

REACH = 4.0
"""A clip over the learning rate times the steps. Adam moves a parameter by about its learning rate
in a step (Kingma and Ba 2015, section 2.1); up to 2.4 times that was seen."""

GENEROUS = 2
"""The exponent that costs nothing in 32 bits."""

_CHUNK = 2**15
"""Numbers worked on at a time, few enough to stay in a core's cache."""


@dataclass(frozen=True)
class Quantiser:
    """How the clients of a sum write their changes, the same at both ends.

    Args:
        bits: b of a number on its way, 24 or 32.
        clients: n, from 1 to 65536, of whom any may be in the sum.
        sizes: (L,) lengths of the tensors in a change, in order.
        exponents: (L,) e of their clips, from -24 to 12.

    Raises:
        FederationError: It describes nothing that can be added up.
    """

    bits: int
    clients: int
    sizes: Sequence[int]
    exponents: Sequence[int]

    def __post_init__(self) -> None:
        fits = self.bits in (24, 32) and 1 <= self.clients <= 2**16
        whole = all(isinstance(e, int) and LEAST <= e <= MOST for e in self.exponents)
        if not (fits and whole and len(self.sizes) == len(self.exponents)):
            raise FederationError(
                "what changes are to be rounded to makes no sense",
                do="give server and clients the same version and plan",
            )

    @property
    def length(self) -> int:
        """P, numbers in a change."""
        return sum(self.sizes)

    def encode(
        self, change: npt.NDArray[np.float32], share: float, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """What a client adds to the sum.

        Args:
            change: (P,) Δ.
            share: α in [0, 1]; those of all clients add up to 1.
            rng: Rounds. Another one at every client: errors then cancel rather than add up.

        Returns:
            (P,) q in two's complement, and (L,) how many numbers of each tensor were clipped.

        Raises:
            FederationError: The change is not finite or has another length, or it is no share.
        """
        if change.shape != (self.length,):
            raise FederationError(
                "its update has another length than the plan says",
                got=f"{change.size} numbers instead of {self.length}",
                do="give server and clients the same version and plan",
            )
        share = self.share_slot(share) / self._one  # as it will be divided by
        encoded = np.empty(self.length, dtype=np.uint32)
        signed = encoded.view(np.int32)
        clipped = np.zeros(len(self.sizes), dtype=np.int64)
        scaled_buffer, uniform_buffer = np.empty((2, _CHUNK))
        for tensor, place in self._chunks():
            part, clip = change[place], 2.0 ** self.exponents[tensor]
            scaled, uniform = scaled_buffer[: len(part)], uniform_buffer[: len(part)]
            low, high = part.min(), part.max()  # NaN, if there is one
            if not (math.isfinite(low) and math.isfinite(high)):
                raise FederationError("its update holds values that are not finite")
            if low < -clip or high > clip:
                clipped[tensor] += np.count_nonzero(np.abs(part) > clip)
                part = part.clip(-clip, clip)
            # In float32 the numbers themselves would be rounded, and that is not unbiased.
            np.multiply(part, share * self._scale(tensor), out=scaled, dtype=np.float64)
            scaled += rng.random(out=uniform)
            signed[place] = np.floor(scaled, out=scaled)
        return encoded, clipped

    def decode(self, total: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The sum of α clip(Δ): (P,), of the sum (P,) of q.

        Divided by `shares` of those who are in it, it is their mean change.
        """
        decoded = total.astype(np.float64)
        for tensor, place in enumerate(self._places()):
            decoded[place] /= self._scale(tensor)
        return decoded

    def share_slot(self, share: float) -> int:
        """A share as one number, with 2^(b-2) for 1, rounded down so that the sum is at most 1.

        Raises:
            FederationError: It is no share.
        """
        if not 0 <= share <= 1:
            raise FederationError("its share of the rows is not between 0 and 1")
        return math.floor(share * self._one)

    def shares(self, total: int) -> float:
        """The sum of the shares, of the sum of their numbers."""
        return int(total) / self._one

    def counter_slots(self, clipped: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """(L,) counters whose sum cannot overflow: they stop where it could."""
        return np.minimum(clipped, self._largest // self.clients).astype(np.uint32)

    def fixed(self, value: float, bound: float, share: float) -> int:
        """A client's part of a mean of small precision, such as a loss, as one number.

        Args:
            value: Counts as 0 if it is NaN, and at most as much as the bound.
            bound: Largest size of a value that matters, above 0.
            share: α of the client.
        """
        clipped = 0.0 if math.isnan(value) else min(max(value, -bound), bound)
        part = self.share_slot(share) / self._one
        return round(clipped / bound * part * self._range) % 2**32

    def unfixed(self, total: int, bound: float) -> float:
        """The sum of α times the value, of the sum of its numbers: divide it by `shares`."""
        return int(total) / self._range * bound

    def next_exponents(
        self, change: npt.NDArray[np.float64], clipped: npt.NDArray[np.int64]
    ) -> list[int]:
        """Exponents for the round that comes, from what the last one's sums show.

        A clip is 16 times the largest mean change. It falls by one power of two a round at most,
        for a quiet round says little, and rises by two at least where something was clipped.

        Args:
            change: (P,) mean change of the round, which this was the quantiser of.
            clipped: (L,) sums of the counters.
        """
        exponents = []
        for place, count, before in zip(self._places(), clipped, self.exponents, strict=True):
            largest = float(np.abs(change[place]).max(initial=0.0))
            least = before + 2 if count else before - 1
            exponents.append(_within(max(_exponent(HEADROOM * largest), least)))
        return exponents

    @property
    def _one(self) -> int:
        """What the share 1 is written as."""
        return 1 << (self.bits - 2)

    @property
    def _largest(self) -> int:
        """The largest number that b bits can hold."""
        return (1 << (self.bits - 1)) - 1

    @property
    def _range(self) -> int:
        """What the clip is written as: every client may add 1 to the sum by rounding."""
        return self._largest - self.clients

    def _scale(self, tensor: int) -> float:
        """S, exactly."""
        return self._range / 2.0 ** self.exponents[tensor]

    def _places(self) -> Iterator[slice]:
        """Where the tensors lie in a change."""
        start = 0
        for size in self.sizes:
            yield slice(start, start + size)
            start += size

    def _chunks(self) -> Iterator[tuple[int, slice]]:
        """Pieces of the tensors, and the numbers of these."""
        for tensor, place in enumerate(self._places()):
            for start in range(place.start, place.stop, _CHUNK):
                yield tensor, slice(start, min(start + _CHUNK, place.stop))


def first_exponents(bits: int, learning_rate: float, steps: int, tensors: int) -> list[int]:
    """Exponents for the first round, when nothing is known of changes but who makes them.

    Args:
        bits: 24 or 32.
        learning_rate: The model's largest.
        steps: Local steps of the client that makes most of them.
        tensors: L.
    """
    reached = GENEROUS if bits == 32 else _exponent(REACH * learning_rate * steps)
    return [min(_within(reached), GENEROUS)] * tensors


def _exponent(size: float) -> int:
    """The smallest e with 2^e ≥ size."""
    if size <= 0:
        return LEAST
    fraction, exponent = math.frexp(size)
    return exponent - 1 if fraction == 0.5 else exponent


def _within(exponent: int) -> int:
    """The exponent of a clip that is nearest."""
    return min(max(exponent, LEAST), MOST)
