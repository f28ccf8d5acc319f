"""Enough shares give the secret, and fewer say nothing of it."""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.errors import FederationError
from genesis.federated.secagg import shamir

Patch = pytest.MonkeyPatch

SMALL = 7


def composite(n: int) -> bool:
    """Whether a number is surely no prime (Fermat)."""
    return any(pow(base, n - 1, n) != 1 for base in (2, 3, 5, 7, 11, 13))


def test_the_prime_is_the_first_above_all_secrets() -> None:
    assert not composite(shamir.PRIME)
    assert all(composite(n) for n in range(2**256, shamir.PRIME))
    assert shamir.PRIME < 2 ** (8 * shamir.SHARE_BYTES)


@given(st.data())
def test_any_shares_that_are_enough_give_the_secret(data: st.DataObject) -> None:
    secret = data.draw(st.binary(min_size=32, max_size=32))
    points = data.draw(st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=12, unique=True))
    threshold = data.draw(st.integers(1, len(points)))
    shares = dict(zip(points, shamir.split(secret, threshold, points), strict=True))
    assert {len(share) for share in shares.values()} == {shamir.SHARE_BYTES}
    chosen = data.draw(st.permutations(points))
    assert shamir.join({x: shares[x] for x in chosen[:threshold]}) == secret
    assert shamir.join(shares) == secret  # of a polynomial of a lower degree than could be
    wrong = {**shares, chosen[0]: (int.from_bytes(shares[chosen[0]]) ^ 1).to_bytes(33)}
    with suppress(FederationError):  # where it does not fit into 32 bytes
        assert shamir.join({x: wrong[x] for x in chosen[:threshold]}) != secret


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6),
    st.lists(st.integers(1, 100), min_size=6, max_size=6, unique=True),
)
def test_it_is_interpolation(polynomial: list[int], points: list[int]) -> None:
    """Against fractions, that know nothing of primes."""
    points = points[: len(polynomial)]
    values = [sum(a * x**k for k, a in enumerate(reversed(polynomial))) for x in points]
    assert [shamir._value(polynomial, x) for x in points] == values
    exact = Fraction(0)
    for x, value in zip(points, values, strict=True):
        others = [other for other in points if other != x]
        exact += value * np.prod([Fraction(other, other - x) for other in others] or [Fraction(1)])
    assert exact == polynomial[-1]
    shares = {x: value.to_bytes(33, "big") for x, value in zip(points, values, strict=True)}
    assert int.from_bytes(shamir.join(shares), "big") == exact


# --- fewer shares than are needed ---


@contextmanager
def drawn(numbers: tuple[int, ...]) -> Iterator[None]:
    """A small prime, and these numbers for random ones."""
    left = list(numbers)
    with Patch.context() as patch:
        patch.setattr(shamir, "PRIME", SMALL)
        patch.setattr(secrets, "randbelow", lambda _: left.pop(0))
        yield


def fewer_shares_say_nothing() -> None:
    """Over a small prime, with all random numbers there are: the same shares for all secrets."""
    threshold, points = 3, (1, 2, 5, 6)
    draws = list(itertools.product(range(SMALL), repeat=threshold - 1))
    for few in itertools.combinations(range(len(points)), threshold - 1):
        seen = []
        for number in range(SMALL):
            counts: Counter[tuple[bytes, ...]] = Counter()
            for numbers in draws:
                with drawn(numbers):
                    shares = shamir.split(number.to_bytes(32, "big"), threshold, points)
                counts[tuple(shares[k] for k in few)] += 1
            seen.append(counts)
        assert all(counts == seen[0] for counts in seen)
        assert set(seen[0].values()) == {1}  # all pairs of numbers, equally often


def shares_are_uniform() -> None:
    """Over the real prime, of the same secret: each byte, but for the 33rd, which is nearly 0."""
    n = 3000
    shares = [shamir.split(bytes(32), 3, (1, 2, 3)) for _ in range(n)]
    for k in range(3):
        data = np.frombuffer(b"".join(each[k] for each in shares), np.uint8).reshape(n, -1)
        assert data[:, 0].max() == 0
        counts = np.bincount(data[:, 1:].reshape(-1), minlength=256)
        expected = 32 * n / 256
        assert ((counts - expected) ** 2 / expected).sum() < 450  # 255 degrees; p = 1e-12
    assert len({share for each in shares for share in each}) == 3 * n


def all_of_them_are_enough() -> None:
    shares = shamir.split(bytes(range(32)), 3, (1, 2, 3))
    assert shamir.join(dict(zip((1, 2, 3), shares, strict=True))) == bytes(range(32))


def nonsense_is_refused() -> None:
    for secret, threshold, points in [
        (bytes(31), 2, (1, 2)),
        (bytes(32), 3, (1, 2)),
        (bytes(32), 0, (1, 2)),
        (bytes(32), 2, (0, 1)),
        (bytes(32), 2, (1, 1)),
        (bytes(32), 1, ()),
    ]:
        with pytest.raises(FederationError):
            shamir.split(secret, threshold, points)
    for shares in [
        {},
        {0: bytes(33)},
        {1: bytes(32)},
        {1: (2**256).to_bytes(33, "big")},
    ]:
        with pytest.raises(FederationError):
            shamir.join(shares)


PROOFS = [fewer_shares_say_nothing, shares_are_uniform, all_of_them_are_enough, nonsense_is_refused]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_proof(proof: Callable[[], None]) -> None:
    proof()


# --- bugs that the proofs must find ---


def no_randomness(patch: Patch) -> None:
    patch.setattr(secrets, "randbelow", lambda _: 0)


def too_little_randomness(patch: Patch) -> None:
    patch.setattr(secrets, "randbelow", lambda _: secrets.randbits(128))


def one_number_for_all(patch: Patch) -> None:
    """Such as a seed's."""
    number = secrets.randbits(255)
    patch.setattr(secrets, "randbelow", lambda _: number)


def secret_is_the_first_coefficient(patch: Patch) -> None:
    value = shamir._value
    patch.setattr(shamir, "_value", lambda polynomial, x: value(polynomial[::-1], x))


def degree_below(patch: Patch) -> None:
    value = shamir._value
    patch.setattr(shamir, "_value", lambda polynomial, x: value(polynomial[1:], x))


def no_remainder(patch: Patch) -> None:
    def value(polynomial: list[int], x: int) -> int:
        return sum(a * x**k for k, a in enumerate(reversed(polynomial)))

    patch.setattr(shamir, "_value", value)


def wrong_weights(patch: Patch) -> None:
    patch.setattr(shamir, "_weights", lambda points, _: [1] * len(points))


def points_unchecked(patch: Patch) -> None:
    patch.setattr(shamir, "_check_points", lambda _: None)


@pytest.mark.parametrize(
    ("plant", "proof"),
    [
        (no_randomness, shares_are_uniform),
        (too_little_randomness, shares_are_uniform),
        (one_number_for_all, shares_are_uniform),
        (secret_is_the_first_coefficient, all_of_them_are_enough),
        (degree_below, fewer_shares_say_nothing),
        (no_remainder, fewer_shares_say_nothing),
        (wrong_weights, all_of_them_are_enough),
        (points_unchecked, nonsense_is_refused),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[Patch], None], proof: Callable[[], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, OverflowError)):
        proof()
