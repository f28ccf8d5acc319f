"""Where privacy noise comes from: the operating system, never a seed.

Noise that somebody else can compute hides nothing, and a seed is known: to the server, to every
client, in a model file. So all that differential privacy draws, the choice of a batch included,
comes from ChaCha20 (RFC 8439) under a key of `os.urandom` that is used once and forgotten; only
Skellam noise of a small variance comes from PCG64 under such a key, which is no cipher: numpy draws
Poisson numbers from nothing else.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

from genesis.errors import PrivacyError

__all__ = ["Noise", "repeatable_noise"]

_KEY_BYTES = 32
_NONCE = bytes(16)  # a key is used once, so its nonce may be the same

_LARGE = 1e6
"""Variance from which on Skellam noise is rounded normal noise, corrected."""
_REACH = 10.0
"""Deviations that it can reach; 53 bits make normal noise of 8.6 at most."""


class Noise:
    """Random numbers that nobody can predict."""

    def __init__(self) -> None:
        self._entropy: Callable[[int], bytes] = os.urandom
        self._uniform = np.empty(0, dtype=np.float32)

    def normal(self, n: int) -> Tensor:
        """(n,) float32 on the CPU, independent and standard normal.

        Box and Muller 1958: for u, v uniform in (0, 1), sqrt(-2 ln u) (cos 2πv, sin 2πv) are two
        of them. u has 32 bits, so no number is beyond 6.8; a normal one is with chance 1e-11.
        """
        half = -(-n // 2)
        words = torch.from_numpy(np.frombuffer(self._bytes(8 * half), dtype=np.uint32))
        if len(self._uniform) != 2 * half:  # kept: new memory costs as much as the numbers
            self._uniform = np.empty(2 * half, dtype=np.float32)
        uniform = torch.from_numpy(self._uniform).copy_(words).mul_(2.0**-32).add_(2.0**-33)
        radius = uniform[:half].log_().mul_(-2).clamp_min_(0).sqrt_()
        angle = uniform[half:].mul_(2 * math.pi)
        drawn = torch.empty(2 * half)
        torch.cos(angle, out=drawn[:half]).mul_(radius)
        torch.sin(angle, out=drawn[half:]).mul_(radius)
        return drawn[:n]

    def uniform(self, n: int) -> Tensor:
        """(n,) float64 on the CPU, independent and uniform in [0, 1)."""
        words = np.frombuffer(self._bytes(8 * n), dtype=np.uint64)
        return torch.from_numpy((words >> np.uint64(11)) * 2.0**-53)

    def skellam(self, n: int, variance: float) -> npt.NDArray[np.int64]:
        """(n,) whole numbers: differences of two Poisson numbers with mean variance / 2 each.

        Sums of Skellam numbers are Skellam again, so K clients can each add a K-th of the variance
        (Agarwal, Kairouz and Liu 2021, "The Skellam Mechanism").
        """
        if variance >= _LARGE:
            return self._large_skellam(n, variance)
        seed = int.from_bytes(self._entropy(_KEY_BYTES), "little")
        rng = np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(seed)))
        drawn: npt.NDArray[np.int64] = rng.poisson(variance / 2, n) - rng.poisson(variance / 2, n)
        return drawn.astype(np.int64)

    def _large_skellam(self, n: int, variance: float) -> npt.NDArray[np.int64]:
        """The same of a large variance μ, where no Poisson number can be drawn precisely.

        Whether one is taken hangs on the difference of logarithms near μ ln μ, of which no digit
        behind the point is left at μ = 1e15. So k = t √μ is drawn from normal noise and rounded,
        and kept with a chance that is all but 1: see `_log_kept`.
        """
        deviation = math.sqrt(variance)
        drawn = np.rint(self._precise_normal(n) * deviation)
        chance = _log_kept(drawn / deviation, variance)
        kept = self.uniform(n).numpy() < np.exp(chance, out=chance)
        whole = drawn.astype(np.int64)
        if not kept.all():
            whole[~kept] = self._large_skellam(int((~kept).sum()), variance)
        return whole

    def _precise_normal(self, n: int) -> npt.NDArray[np.float64]:
        """(n,) standard normal, as `normal` but of 53 bits, for noise of many digits."""
        half = -(-n // 2)
        uniform = self.uniform(2 * half)
        radius = uniform[:half].neg_().log1p_().mul_(-2).sqrt_()
        angle = uniform[half:].mul_(2 * math.pi)
        drawn = torch.cat([torch.cos(angle).mul_(radius), torch.sin(angle).mul_(radius)])
        return drawn[:n].numpy()

    def _bytes(self, n: int) -> bytearray:
        """n bytes of a fresh key stream."""
        cipher = Cipher(algorithms.ChaCha20(self._entropy(_KEY_BYTES), _NONCE), mode=None)
        stream = bytearray(n)
        cipher.encryptor().update_into(bytes(n), stream)
        return stream


def _log_kept(t: npt.NDArray[np.float64], variance: float) -> npt.NDArray[np.float64]:
    """ln of the chance with which rounded normal noise t √μ is kept, to be Skellam noise.

    From ln P(k) = s - μ - k asinh(k / μ) - ½ ln 2π s + 1 / 8s + …, of e^-μ I_k(μ) and
    s = √(μ² + k²), and from the chance of normal noise to be in k ± ½::

        A(t) = μ ln(P(k) / P(k ± ½)) = (t⁴ - 7 t² + 4) / 24 + O(1 / μ)
        ln chance = (A(t) - A(10)) / μ

    What is left of the difference is about 1 / 25 μ², of all chances together.
    """
    square = np.square(t)
    largest = _REACH**2 * (_REACH**2 - 7)
    kept: npt.NDArray[np.float64] = (square * (square - 7) - largest) / (24 * variance)
    return kept


def repeatable_noise(seed: int) -> Noise:
    """Noise that can be computed from a seed, and therefore protects nothing: for tests.

    Raises:
        PrivacyError: No test is running.
    """
    # Set by pytest itself while a test runs; a variable of the environment alone is not enough.
    if "pytest" not in sys.modules or "PYTEST_CURRENT_TEST" not in os.environ:
        raise PrivacyError(
            "privacy noise cannot be made from a seed", do="leave the seed out: noise is fresh"
        )
    rng = np.random.default_rng(seed)
    noise = Noise()
    noise._entropy = rng.bytes
    return noise
