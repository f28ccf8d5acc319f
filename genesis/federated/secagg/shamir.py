"""Shamir 1979, "How to Share a Secret": any `threshold` shares give it, fewer say nothing of it.

The secret is the value at 0 of a random polynomial over the whole numbers modulo a prime, and the
shares are its values elsewhere::

    f(x) = secret + a_1 x + … + a_{t-1} x^{t-1}    a_k uniform
    secret = Σ_i f(x_i) λ_i                        λ_i = Π_{j≠i} x_j / (x_j - x_i)
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

from genesis.errors import FederationError

__all__ = ["PRIME", "SECRET_BYTES", "SHARE_BYTES", "join", "split"]

PRIME = 2**256 + 297
"""The smallest above 2^256: any 32 bytes are a number below it."""

SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, points: Sequence[int]) -> list[bytes]:
    """Shares of a secret.

    Args:
        secret: Of 32 bytes.
        threshold: Shares that give it back, at least 1.
        points: Where the polynomial is taken: different ones, in [1, 2^32). Small ones are faster.

    Returns:
        A share of 33 bytes for each point.

    Raises:
        FederationError: It can't be split in this way.
    """
    _check_points(points)
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(points):
        raise FederationError(
            "this secret can't be split",
            got=f"{len(secret)} bytes for {len(points)} shares of which {threshold} are needed",
        )
    constant = int.from_bytes(secret, "big")
    # The highest power first, as Horner's rule takes them.
    polynomial = [*(secrets.randbelow(PRIME) for _ in range(threshold - 1)), constant]
    return [_value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in points]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of which these are shares.

    Wrong shares give another secret, so whoever can should compare it with what is known of it.

    Args:
        shares: Exactly as many as are needed, by their points.

    Returns:
        32 bytes.

    Raises:
        FederationError: They are not shares of 32 bytes.
    """
    points = tuple(sorted(shares))
    _check_points(points)
    numbers = [int.from_bytes(shares[x], "big") for x in points]
    terms = zip(numbers, _weights(points, PRIME), strict=True)
    secret = sum(number * weight for number, weight in terms) % PRIME
    if secret >> 8 * SECRET_BYTES or any(len(share) != SHARE_BYTES for share in shares.values()):
        raise FederationError("the shares of a secret do not fit together")
    return secret.to_bytes(SECRET_BYTES, "big")


def _check_points(points: Sequence[int]) -> None:
    """Make sure that no point is 0, where the secret itself is, and none is there twice."""
    if not points or len(set(points)) != len(points) or not all(0 < x < 2**32 for x in points):
        raise FederationError("shares of a secret need points of their own, from 1")


def _value(polynomial: Sequence[int], x: int) -> int:
    """f(x), by Horner's rule.

    Reduced once at the end: x is small, so that the number grows slowly, and dividing costs more.
    """
    value = 0
    for coefficient in polynomial:
        value = value * x + coefficient
    return value % PRIME


@lru_cache(maxsize=64)  # the secrets of all clients are joined at the same points
def _weights(points: tuple[int, ...], prime: int) -> list[int]:
    """λ of each point."""
    whole = prod(points)
    below = [x * prod(other - x for other in points if other != x) for x in points]
    return [whole * pow(each, -1, prime) % prime for each in below]
