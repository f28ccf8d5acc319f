"""Encryption under which sums can be taken (Paillier 1999), with keys and their arithmetic.

    n = p q                          p, q primes, 3 modulo 4; gcd(p - 1, q - 1) = 2
    h = (-y² mod n)ⁿ mod n²          y random; n and h are the public key
    E(m) = (1 + m n) hᵃ mod n²       a random, of half as many bits as n
    E(l) E(m) = E(l + m)             modulo n
    D(c) = (cᵖ⁻¹ mod p² - 1) / p · (-q)⁻¹ mod p, the same for q, and both together

That hᵃ takes the place of the n-th power of a random number is Damgård, Jurik and Nielsen (2010, "A
generalization of Paillier's public-key system with applications to electronic voting", section
4.2): the base never changes, so its powers can be laid out in tables.

Nothing here takes the same time for every key: whoever can time a key holder to the microsecond
while it decrypts is not among those that it protects from.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

from gmpy2 import gcd, invert, is_prime, mpz, powmod, powmod_base_list

from genesis.errors import FederationError, PlanError

__all__ = [
    "KEY_BITS",
    "PublicKey",
    "SecretKey",
    "check_key_bits",
    "read_numbers",
    "write_numbers",
]

KEY_BITS = 3072
"""Of n: as hard to break as a cipher with 128-bit keys (NIST SP 800-57 part 1, table 2)."""

CHUNK = 64  # numbers raised at a time, while other threads go on


def check_key_bits(key_bits: int, insecure: bool) -> None:
    """Make sure that a key is long enough, and that all that is made of it is whole bytes.

    Raises:
        PlanError: It is not.
    """
    if key_bits < KEY_BITS and not insecure:
        raise PlanError(
            f"a Paillier key of less than {KEY_BITS:,} bits can be broken",
            got=f"{key_bits:,}",
            do="leave key_bits out; for tests alone, say insecure_key_bits=True",
        )
    if key_bits % 16 or not 512 <= key_bits <= 16384:
        raise PlanError(
            "a Paillier key has a multiple of 16 bits, 512 to 16,384", got=f"{key_bits:,}"
        )


@dataclass(frozen=True)
class PublicKey:
    """What everybody encrypts with, and the server adds up with.

    Args:
        bits: Of n.
        n: The modulus of numbers that are encrypted.
        base: h, whose powers are the randomness of ciphertexts.
    """

    bits: int
    n: mpz
    base: mpz

    @cached_property
    def square(self) -> mpz:
        """n², the modulus of ciphertexts."""
        return self.n * self.n

    @property
    def width(self) -> int:
        """Bytes of a ciphertext."""
        return self.bits // 4

    @property
    def exponent_bytes(self) -> int:
        """Bytes of the random exponent of h."""
        return self.bits // 16

    def encrypt(self, numbers: Sequence[mpz], randomness: Iterable[mpz]) -> list[mpz]:
        """Ciphertexts of numbers modulo n, each with a power of h of its own."""
        n, square = self.n, self.square
        pairs = zip(numbers, randomness, strict=True)
        return [(1 + number * n) * power % square for number, power in pairs]

    def is_ciphertext(self, numbers: Iterable[mpz]) -> bool:
        """Whether numbers are in the range of ciphertexts."""
        return all(0 < number < self.square for number in numbers)

    def to_bytes(self) -> bytes:
        """(3 / 8 of its bits) the key for others."""
        return write_numbers([self.n], self.bits // 8) + write_numbers([self.base], self.width)

    @classmethod
    def from_bytes(cls, content: bytes, bits: int) -> PublicKey:
        """The inverse of `to_bytes`.

        Raises:
            FederationError: It is no key of as many bits.
        """
        cut = bits // 8
        if len(content) == 3 * cut:
            key = cls(
                bits, *read_numbers(content[:cut], cut), *read_numbers(content[cut:], 2 * cut)
            )
            if key.n.bit_length() == bits and key.n % 2 and 1 < key.base < key.square:
                return key
        raise FederationError(
            "what the key holder made is no key of the agreed length",
            do="give all clients the same length of keys",
        )


@dataclass(frozen=True)
class SecretKey:
    """What the key holder decrypts with.

    Args:
        public: The other half.
        p: One prime factor of n; whoever has it has the key.
        q: The other one.
    """

    public: PublicKey
    p: mpz = field(repr=False)
    q: mpz = field(repr=False)

    @classmethod
    def generate(cls, bits: int) -> SecretKey:
        """A new one, from the operating system's randomness."""
        p, q = _prime(bits // 2), _prime(bits // 2)
        while gcd(p - 1, q - 1) != 2:  # so that powers of h are as many as there can be
            q = _prime(bits // 2)
        n = p * q
        y = mpz(secrets.randbelow(int(n)))
        return cls(PublicKey(bits, n, powmod(-y * y % n, n, n * n)), p, q)

    @classmethod
    def from_bytes(cls, public: PublicKey, content: bytes) -> SecretKey:
        """The key that is p alone.

        Raises:
            FederationError: It is none of this public key.
        """
        (p,) = read_numbers(content, len(content))
        if not 1 < p < public.n or public.n % p:
            raise FederationError("the shares of the secret key do not fit the public one")
        return cls(public, p, public.n // p)

    def to_bytes(self) -> bytes:
        """(bits / 16) p alone."""
        return write_numbers([self.p], self.public.bits // 16)

    def decrypt(self, ciphertexts: Sequence[mpz], workers: int = 1) -> list[mpz]:
        """What is encrypted: numbers in [0, n).

        Args:
            ciphertexts: Whatever is none gives some number or other.
            workers: Threads.
        """
        q_in_p = invert(self.q, self.p)
        chunks = [ciphertexts[at : at + CHUNK] for at in range(0, len(ciphertexts), CHUNK)]

        def decrypted(chunk: Sequence[mpz]) -> list[mpz]:
            of_p = _logarithms(chunk, self.p, self.q)
            of_q = _logarithms(chunk, self.q, self.p)
            return [
                b + self.q * ((a - b) * q_in_p % self.p) for a, b in zip(of_p, of_q, strict=True)
            ]

        # The long part of it, raising to powers, lets other threads run.
        with ThreadPoolExecutor(workers) as pool:
            return [number for part in pool.map(decrypted, chunks) for number in part]


def read_numbers(content: bytes | memoryview, width: int) -> list[mpz]:
    """Numbers of `width` bytes each, the lowest byte first."""
    view = memoryview(content)
    read = mpz.from_bytes
    return [read(bytes(view[at : at + width]), "little") for at in range(0, len(view), width)]


def write_numbers(numbers: Iterable[mpz], width: int) -> bytes:
    """The inverse of `read_numbers`."""
    return b"".join(number.to_bytes(width, "little") for number in numbers)


def _prime(bits: int) -> mpz:
    """A random prime, 3 modulo 4, whose product with another one has twice as many bits."""
    while True:
        drawn = mpz(secrets.randbits(bits)) | (mpz(3) << (bits - 2)) | 3
        if is_prime(drawn, 40):
            return drawn


def _logarithms(ciphertexts: Sequence[mpz], p: mpz, q: mpz) -> list[mpz]:
    """What is encrypted, modulo p.

    cᵖ⁻¹ = (1 + n)^(m (p - 1)) = 1 + m (p - 1) p q = 1 - m p q modulo p²: the power of h is gone.
    """
    factor, square = invert(-q, p), p * p
    powers = powmod_base_list([c % square for c in ciphertexts], p - 1, square)
    return [(power - 1) // p * factor % p for power in powers]
