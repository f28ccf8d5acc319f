"""Many small numbers in one large one, which can be added up as it is.

A number x_j of b bits, -2^(b-1) <= x_j < 2^(b-1), stands in slot j of its plaintext::

    m = Σ_j x_j 2^(b j)

so a sum of plaintexts has the sums of the slots in its slots, as long as these are in range
themselves: no room is left for carries. That they are is up to whoever made the numbers, such as
`Quantiser`. A sum that is not spills into the slot above, and nobody notices.

As bytes, each slot has 2^(b-1) added to it, so that no number is negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from genesis.errors import FederationError
from genesis.federated.secagg import Ring
from genesis.federated.secagg.paillier.keys import PublicKey, read_numbers, write_numbers

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """How a vector stands in plaintexts.

    Args:
        length: Numbers in the vector.
        bits: Of a slot, a multiple of 8.
        key: Whose plaintexts they are.
    """

    length: int
    bits: int
    key: PublicKey

    @property
    def slots(self) -> int:
        """In a plaintext, which is less than n / 2 away from 0."""
        return (self.key.bits - 2) // self.bits

    @property
    def count(self) -> int:
        """Plaintexts of a vector."""
        return -(-self.length // self.slots)

    @property
    def n_bytes(self) -> int:
        """Of a vector in `to_bytes`."""
        return self.length * self.bits // 8

    @cached_property
    def _offset(self) -> mpz:
        """2^(b-1) in each slot."""
        return sum(mpz(1) << (self.bits * slot + self.bits - 1) for slot in range(self.slots))

    def pack(self, values: Ring) -> list[mpz]:
        """(count,) plaintexts of a vector, of which the lower bits of each number are taken."""
        width = self.bits // 8
        padded = np.zeros(self.count * self.slots, dtype=values.dtype.newbyteorder("<"))
        padded[: self.length] = values
        padded ^= padded.dtype.type(1 << (self.bits - 1))  # adds it, modulo 2^b
        lower = padded.view(np.uint8).reshape(len(padded), -1)[:, :width]
        return [m - self._offset for m in read_numbers(lower.tobytes(), self.slots * width)]

    def to_bytes(self, plaintexts: Sequence[mpz]) -> bytes:
        """(n_bytes) the slots of sums of plaintexts, given modulo n.

        Raises:
            FederationError: They are no such sums.
        """
        n, width = self.key.n, self.slots * self.bits // 8
        lifted = [(m if 2 * m < n else m - n) + self._offset for m in plaintexts]
        if any(m < 0 or m.bit_length() > 8 * width for m in lifted):
            raise FederationError("the sum of the vectors is larger than its slots")
        return write_numbers(lifted, width)[: self.n_bytes]

    def read(self, content: bytes | memoryview) -> npt.NDArray[np.int64]:
        """(length,) the numbers of `to_bytes`."""
        whole = np.zeros((self.length, 8), dtype=np.uint8)
        whole[:, : self.bits // 8] = np.frombuffer(content, np.uint8).reshape(self.length, -1)
        numbers = whole.view("<u8").ravel() - np.uint64(1 << (self.bits - 1))  # modulo 2^64
        return numbers.view(np.int64)
