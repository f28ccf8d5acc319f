"""How messages are laid out: parts of known width, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from genesis.errors import FederationError

__all__ = ["Reader", "position_bits"]


class Reader:
    """Cuts a message into its parts.

    Args:
        message: All of it.
    """

    def __init__(self, message: bytes) -> None:
        self._rest = memoryview(message)

    def take(self, width: int) -> bytes:
        """The next bytes.

        Raises:
            FederationError: There are not as many.
        """
        if len(self._rest) < width:
            raise _malformed()
        part, self._rest = self._rest[:width], self._rest[width:]
        return bytes(part)

    def positions(self, n: int) -> tuple[int, ...]:
        """The inverse of `position_bits`.

        Raises:
            FederationError: It says something of others than n clients.
        """
        bits = np.unpackbits(np.frombuffer(self.take(-(-n // 8)), np.uint8))
        if bits[n:].any():
            raise _malformed()
        return tuple(int(position) for position in np.flatnonzero(bits))

    def end(self) -> None:
        """Make sure that nothing is left.

        Raises:
            FederationError: Something is.
        """
        if len(self._rest):
            raise _malformed()


def position_bits(positions: Iterable[int], n: int) -> bytes:
    """(⌈n / 8⌉ bytes) a set of positions below n, with a bit for each."""
    bits = np.zeros(n, dtype=np.uint8)
    bits[list(positions)] = 1
    return np.packbits(bits).tobytes()


def _malformed() -> FederationError:
    return FederationError(
        "a message about a sum is not as long as it must be",
        do="give server and clients the same version and the same length of keys",
    )
