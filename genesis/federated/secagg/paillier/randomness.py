"""Powers of h for ciphertexts: nearly all of the work of encrypting, and possible before it.

A power hᵃ for a of k bytes is the product of one entry from each of k tables of 256, because
a = Σ_i a_i 256^i (Brickell, Gordon, McCurley and Wilson 1992, "Fast Exponentiation with
Precomputation")::

    hᵃ = Π_i T_i[a_i]    T_i[d] = h^(d 256^i)

Whoever knows p and q takes it modulo p² and q², which is faster, and puts both together.

A `Pool` makes many of them in processes of their own, while a client trains. They have to be
processes, because gmpy2 multiplies under the interpreter's lock.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Thread

from gmpy2 import invert, mpz

from genesis.federated.secagg.paillier.keys import PublicKey, SecretKey, read_numbers, write_numbers

__all__ = ["Pool", "Powers", "n_cores"]

FEWEST_APART = 400
"""Powers for which other processes are started: about half a second's work."""

DIGITS = 256


def n_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Powers:
    """Draws random powers of a base.

    Args:
        base: h.
        moduli: n², or p² and q².
        exponent_bytes: k.
    """

    base: mpz
    moduli: tuple[mpz, ...] = field(repr=False)
    exponent_bytes: int

    @classmethod
    def of(cls, public: PublicKey, secret: SecretKey | None = None) -> Powers:
        """Those that a key asks for."""
        moduli = (public.square,) if secret is None else (secret.p**2, secret.q**2)
        return cls(public.base, moduli, public.exponent_bytes)

    @cached_property
    def _tables(self) -> list[list[list[mpz]]]:
        """T of each modulus."""
        return [
            _tables(self.base % modulus, modulus, self.exponent_bytes) for modulus in self.moduli
        ]

    def draw(self, count: int) -> Iterator[mpz]:
        """Powers of fresh exponents, of which no two are the same but by chance."""
        if len(self.moduli) == 1:
            for _ in range(count):
                yield _power(
                    self._tables[0], self.moduli[0], secrets.token_bytes(self.exponent_bytes)
                )
            return
        p, q = self.moduli
        q_in_p = invert(q, p)
        for _ in range(count):
            digits = secrets.token_bytes(self.exponent_bytes)
            of_p, of_q = (
                _power(*each, digits) for each in zip(self._tables, self.moduli, strict=True)
            )
            yield of_q + q * ((of_p - of_q) * q_in_p % p)

    def to_line(self) -> str:
        """As text, for another process. With p and q it is as secret as they are."""
        return " ".join(f"{each:x}" for each in (self.exponent_bytes, self.base, *self.moduli))

    @classmethod
    def from_line(cls, line: str) -> Powers:
        """The inverse of `to_line`."""
        k, base, *moduli = (mpz(each, 16) for each in line.split())
        return cls(base, tuple(moduli), int(k))


class Pool:
    """Powers that are made ahead, and given out once each.

    What was made for a sum that failed is kept for the next one.

    Args:
        powers: Where they come from.
        width: Bytes of one.
        workers: Processes that make many of them, at most; 0 makes all of them here.
    """

    def __init__(self, powers: Powers, width: int, workers: int) -> None:
        self._powers, self._width, self._n_workers = powers, width, workers
        self._made: list[mpz] = []
        self._workers: list[_Worker] = []
        weakref.finalize(self, _stop, self._workers)  # also when the program ends

    def order(self, count: int) -> None:
        """See to it that as many are on their way; those that take a moment come when taken."""
        missing = count - len(self._made) - sum(worker.count for worker in self._workers)
        if missing < FEWEST_APART or not self._n_workers:
            return
        each = -(-missing // self._n_workers)
        for at in range(0, missing, each):
            worker = _Worker.start(self._powers, min(each, missing - at), self._width)
            if worker is None:  # this machine does not let us: they are made when they are taken
                return
            self._workers.append(worker)

    def take(self, count: int) -> list[mpz]:
        """Powers that nobody else gets, waiting for those on their way."""
        while len(self._made) < count and self._workers:
            self._made += self._workers.pop().wait()
        self._made += self._powers.draw(max(count - len(self._made), 0))
        taken, self._made = self._made[:count], self._made[count:]
        return taken

    def close(self) -> None:
        """Stop making more."""
        _stop(self._workers)


class _Worker:
    """Another process, which makes powers.

    It is a program and not a fork: torch and its threads do not survive that. And it is none of
    `multiprocessing`, which would run the user's own script again.
    """

    def __init__(self, process: subprocess.Popen[bytes], count: int, width: int) -> None:
        self.process, self.count, self._width = process, count, width
        self._content = b""
        self._thread = Thread(target=self._read, name="genesis-paillier", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, powers: Powers, count: int, width: int) -> _Worker | None:
        """Begin, or None if there can be no other process."""
        path = os.pathsep.join(each or str(Path.cwd()) for each in sys.path)
        command = [sys.executable, "-m", "genesis.federated.secagg.paillier.worker"]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError:
            return None
        assert process.stdin is not None
        try:  # by a pipe, because all can see how a program was called
            with process.stdin:
                process.stdin.write(f"{count} {width} {powers.to_line()}\n".encode())
        except OSError:
            process.kill()
        return cls(process, count, width)

    def wait(self) -> list[mpz]:
        """What it made: nothing if it failed."""
        self._thread.join()
        whole = self.process.wait() == 0 and len(self._content) == self.count * self._width
        return read_numbers(self._content, self._width) if whole else []

    def _read(self) -> None:
        """Take in what it writes, as it does, because a pipe does not hold much."""
        assert self.process.stdout is not None
        with self.process.stdout:
            self._content = self.process.stdout.read()


def _stop(workers: list[_Worker]) -> None:
    """End processes whose work nobody wants any more."""
    for worker in workers:
        worker.process.kill()
        worker.wait()
    workers.clear()


def _tables(base: mpz, modulus: mpz, n_digits: int) -> list[list[mpz]]:
    """T_i for i < n_digits."""
    tables = []
    for _ in range(n_digits):
        row = [mpz(1)]
        for _ in range(1, DIGITS):
            row.append(row[-1] * base % modulus)
        tables.append(row)
        base = row[-1] * base % modulus
    return tables


def _power(tables: list[list[mpz]], modulus: mpz, digits: bytes) -> mpz:
    """Π_i T_i[a_i]."""
    product = tables[0][digits[0]]
    for table, digit in zip(tables[1:], digits[1:], strict=True):
        product = product * table[digit] % modulus
    return product


def serve(line: str) -> Iterator[bytes]:
    """What a worker writes for a line of `_Worker`."""
    count, width, rest = line.split(" ", 2)
    for power in Powers.from_line(rest).draw(int(count)):
        yield write_numbers([power], int(width))
