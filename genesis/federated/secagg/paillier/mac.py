"""A check value that adds up with the ciphertexts, under a key that the server does not have.

Anybody can make ciphertexts, and the server decides which of them reach the key holder. It could
have one client's vector decrypted as if it were a sum. So each client i encrypts, besides its
plaintexts m_ij, one more::

    t_i = Σ_j k_j m_ij + r_i  mod n

with k_j of 128 bits and r_i uniform modulo n, both from the clients' key, this sum and r_i from the
client's place in it too. The key holder is told plaintexts M_j, T and a set of clients S, and goes
on only if ::

    T = Σ_j k_j M_j + Σ_{i∈S} r_i  mod n

To get past it without the key, T has to contain the t_i of exactly S, each once, or an r_i that
nobody knows is left over. The rest of T, made without k, has to be Σ_j k_j d_j for d the difference
of M and Σ_{i∈S} m_i. Where d_j is not 0, at most one of the 2^128 values of k_j fits: were there
two, n would divide the product of d_j and of their difference, which is smaller than the prime
factors of n. So it succeeds with a chance below 2^-127. All of it is modulo n, as is what Paillier
adds: with a prime P instead, adding P to a plaintext would go unnoticed.

The key is the group's: a client that gives it to the server undoes this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from gmpy2 import mpz

from genesis.federated.secagg.paillier.keys import read_numbers

__all__ = ["KEY_BYTES", "SumMac"]

KEY_BYTES = 32
COEFFICIENT_BYTES = 16


class SumMac:
    """Check values of one sum.

    Args:
        key: (32 bytes) of the clients.
        context: (32 bytes) of the sum. Two sums of one context would tell the server of k.
        n: The modulus of plaintexts.
    """

    def __init__(self, key: bytes, context: bytes, n: mpz) -> None:
        self._key, self._context, self._n = key, context, n

    def tag(self, plaintexts: Sequence[mpz], position: int) -> mpz:
        """t_i of the client at a position, for its plaintexts."""
        return (self._combine(plaintexts) + self._pad(position)) % self._n

    def holds(self, plaintexts: Sequence[mpz], tag: mpz, positions: Iterable[int]) -> bool:
        """Whether plaintexts are the sum of those of exactly these clients."""
        pads = sum(self._pad(position) for position in positions)
        return bool((self._combine(plaintexts) + pads - tag) % self._n == 0)

    def _combine(self, plaintexts: Sequence[mpz]) -> mpz:
        """Σ_j k_j m_j, not yet modulo n."""
        stream = Cipher(algorithms.AES(self._derive(b"coefficients", 32)), modes.CTR(bytes(16)))
        content = stream.encryptor().update(bytes(COEFFICIENT_BYTES * len(plaintexts)))
        coefficients = read_numbers(content, COEFFICIENT_BYTES)
        total = mpz(0)
        for coefficient, plaintext in zip(coefficients, plaintexts, strict=True):
            total += coefficient * plaintext
        return total

    def _pad(self, position: int) -> mpz:
        """r_i: of 128 more bits than n, so that modulo n it is uniform but for 2^-128."""
        length = (self._n.bit_length() + 7) // 8 + 16
        (drawn,) = read_numbers(self._derive(b"pad" + struct.pack(">I", position), length), length)
        return drawn % self._n

    def _derive(self, purpose: bytes, length: int) -> bytes:
        """Bytes from the key, for one purpose in this sum."""
        info = b"genesis paillier mac 1 " + self._context + purpose
        return HKDFExpand(hashes.SHA256(), length, info).derive(self._key)
