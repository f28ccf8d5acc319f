"""Paillier: the encryption, its parts, and sums of honest clients of whom some drop out."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gmpy2")

from gmpy2 import gcd, is_prime, mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genesis.errors import FederationError, MissingExtraError, PlanError
from genesis.federated.secagg import Sum, paillier, scheme
from genesis.federated.secagg.identity import Identity
from genesis.federated.secagg.paillier import randomness
from genesis.federated.secagg.paillier.keys import (
    PublicKey,
    SecretKey,
    check_key_bits,
    write_numbers,
)
from genesis.federated.secagg.paillier.mac import SumMac
from genesis.federated.secagg.paillier.packing import Packing
from genesis.federated.secagg.paillier.randomness import Pool, Powers
from genesis.federated.secagg.paillier.setup import holders, quorum
from genesis.federated.secagg.paillier.wire import Reader, position_bits
from tests.federated.secagg.paillier_federation import KEY_BITS, Federation, random_vectors, ring

SECRET = SecretKey.generate(KEY_BITS)
PUBLIC = SECRET.public
POWERS = Powers.of(PUBLIC)
N = int(PUBLIC.n)

numbers = st.integers(0, N - 1)


def encrypted(*plain: int) -> list[Any]:
    return PUBLIC.encrypt([mpz(m) for m in plain], POWERS.draw(len(plain)))


# --- the encryption ---


def test_a_key_is_as_damgard_jurik_and_nielsen_want_it() -> None:
    p, q = SECRET.p, SECRET.q
    assert p * q == PUBLIC.n
    assert PUBLIC.n.bit_length() == KEY_BITS
    assert is_prime(p)
    assert is_prime(q)
    assert p % 4 == q % 4 == 3
    assert gcd(p - 1, q - 1) == 2
    assert gcd(PUBLIC.n, (p - 1) * (q - 1)) == 1
    # The base is an n-th power, so that nothing of it is left after decrypting, and minus a square.
    assert pow(int(PUBLIC.base), int((p - 1) * (q - 1)), N * N) == 1
    assert pow(int(-PUBLIC.base), int((p - 1) // 2), int(p)) == 1


@given(st.lists(numbers, min_size=1, max_size=70))
@settings(max_examples=20)
def test_decrypts_what_was_encrypted(plain: list[int]) -> None:
    """By the textbook too: m = L(c^λ) / L(g^λ) mod n, L(u) = (u - 1) / n."""
    ciphertexts = encrypted(*plain)
    assert SECRET.decrypt(ciphertexts, workers=2) == plain
    phi = int((SECRET.p - 1) * (SECRET.q - 1))
    below = pow((pow(N + 1, phi, N * N) - 1) // N, -1, N)
    textbook = [(pow(int(c), phi, N * N) - 1) // N * below % N for c in ciphertexts]
    assert textbook == plain


@given(numbers, numbers)
@settings(max_examples=20)
def test_a_product_of_ciphertexts_is_a_sum(a: int, b: int) -> None:
    c, d = encrypted(a, b)
    assert SECRET.decrypt([c * d % PUBLIC.square]) == [(a + b) % N]


def test_no_two_ciphertexts_are_the_same() -> None:
    assert len(set(encrypted(*[5] * 100))) == 100


def test_ciphertexts_look_random_whatever_is_in_them() -> None:
    """χ² of their lower bytes, 255 degrees of freedom: beyond 400 once in 10^8."""
    for plain in (0, 1, N - 1):
        content = write_numbers(encrypted(*[plain] * 300), PUBLIC.width)
        lower = np.frombuffer(content, np.uint8).reshape(300, -1)[:, :-1].ravel()
        counts = np.bincount(lower, minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400


def test_keys_come_back_from_bytes() -> None:
    content = PUBLIC.to_bytes()
    assert len(content) == KEY_BITS * 3 // 8
    assert PublicKey.from_bytes(content, KEY_BITS) == PUBLIC
    assert SecretKey.from_bytes(PUBLIC, SECRET.to_bytes()) == SECRET
    for wrong in (content[:-1], bytes(len(content)), content[:64] + bytes(128)):
        with pytest.raises(FederationError, match="no key of the agreed length"):
            PublicKey.from_bytes(wrong, KEY_BITS)
    for number in (1, 0, N, int(SECRET.p) + 2):
        with pytest.raises(FederationError, match="do not fit the public one"):
            SecretKey.from_bytes(PUBLIC, number.to_bytes(KEY_BITS // 8, "little"))


def test_no_secret_shows_when_it_is_printed() -> None:
    federation = Federation(3)
    keys = federation.keys_of("c00")
    assert keys.secret is not None
    hidden = [f"{keys.secret.p}", f"{keys.secret.q}", f"{keys.mac_key!r}"]
    for shown in (keys, keys.secret, Powers.of(keys.secret.public, keys.secret)):
        assert not any(secret in repr(shown) for secret in hidden)


def test_short_keys_have_to_be_asked_for() -> None:
    check_key_bits(3072, insecure=False)
    for bits, insecure in [(2048, False), (3071, False), (256, True), (520, True), (1 << 15, True)]:
        with pytest.raises(PlanError, match="Paillier key"):
            check_key_bits(bits, insecure)
    with pytest.raises(PlanError, match="insecure_key_bits=True"):
        paillier.ServerSide(key_bits=2048)
    with pytest.raises(PlanError, match="insecure_key_bits=True"):
        paillier.ClientSide("north", Identity.generate(), key_bits=2048)


def test_says_how_to_install_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(paillier.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gmpy2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'genesis-federated\[paillier\]'"):
        scheme("paillier")


# --- packing ---


@given(st.data(), st.sampled_from([24, 32, 64]), st.integers(1, 90), st.integers(1, 5))
def test_sums_of_plaintexts_are_sums_of_slots(
    data: st.DataObject, bits: int, length: int, clients: int
) -> None:
    packing = Packing(length, bits, PUBLIC)
    top = 2 ** (bits - 1)
    low, high = -(top // clients), (top - 1) // clients
    edges = st.sampled_from([low, high, 0, -1]) | st.integers(low, high)
    total, vectors = [mpz(0)] * packing.count, []
    for _ in range(clients):
        vectors.append(data.draw(arrays(np.int64, length, elements=edges)))
        values = vectors[-1].view(np.uint64).astype(np.uint64 if bits == 64 else np.uint32)
        pairs = zip(total, packing.pack(values), strict=True)
        total = [(a + b) % PUBLIC.n for a, b in pairs]
    content = packing.to_bytes(total)
    assert len(content) == packing.n_bytes
    assert (packing.read(content) == np.sum(vectors, axis=0)).all()


def test_a_hundred_clients_at_their_bound_fit() -> None:
    """Numbers below (2^(b-1) - 1 - K) / K, rounded away from 0: nothing spills."""
    clients = 100
    for bits in (24, 32):
        packing = Packing(30, bits, PUBLIC)
        bound = (2 ** (bits - 1) - 1 - clients) // clients + 1
        for sign in (1, -1):
            vector = np.full(30, sign * bound, dtype=np.int64).astype(np.uint32)
            total = [clients * m % PUBLIC.n for m in packing.pack(vector)]
            assert (packing.read(packing.to_bytes(total)) == sign * bound * clients).all()


def test_a_sum_beyond_its_last_slot_is_noticed() -> None:
    packing = Packing(7, 64, PUBLIC)
    assert packing.slots == 7
    plain = packing.pack(np.full(7, 2**63 - 1, dtype=np.uint64))
    for too_large in ([2 * plain[0]], [PUBLIC.n // 2], [PUBLIC.n // 3]):
        with pytest.raises(FederationError, match="larger than its slots"):
            packing.to_bytes(too_large)


def test_the_upper_byte_of_24_bits_does_not_count() -> None:
    packing = Packing(2, 24, PUBLIC)
    signed = packing.pack(np.array([-1, 5], dtype=np.int32).view(np.uint32))
    assert signed == packing.pack(np.array([0xFFFFFF, 0xAB000005], dtype=np.uint32))
    assert packing.read(packing.to_bytes([m % PUBLIC.n for m in signed])).tolist() == [-1, 5]


def test_a_vector_is_hardly_longer_when_encrypted() -> None:
    """A million parameters: 1.51 times as many bytes as float32."""
    packing = Packing(1_000_000, 24, PublicKey(3072, mpz(1) << 3071, mpz(2)))
    assert packing.slots == 127
    assert (packing.count + 1) * packing.key.width <= 1.52 * 4_000_000


# --- check values ---


@given(st.lists(st.lists(st.integers(-(2**500), 2**500), min_size=4, max_size=4), min_size=1))
@settings(max_examples=20)
def test_check_values_add_up(vectors: list[list[int]]) -> None:
    check = SumMac(bytes(32), bytes(32), PUBLIC.n)
    tags = [check.tag([mpz(m) for m in vector], i) for i, vector in enumerate(vectors)]
    total = [mpz(sum(column)) % N for column in zip(*vectors, strict=True)]
    assert check.holds(total, sum(tags) % N, range(len(vectors)))
    assert not check.holds(total, sum(tags) % N, range(len(vectors) + 1))
    assert not check.holds([total[0] + 1, *total[1:]], sum(tags) % N, range(len(vectors)))


def test_check_values_depend_on_all_that_they_are_for() -> None:
    plain = [mpz(1), mpz(2)]
    tags = {
        SumMac(key, context, PUBLIC.n).tag(plain, position)
        for key in (bytes(32), bytes([1] * 32))
        for context in (bytes(32), bytes([1] * 32))
        for position in (0, 1, 256)
    }
    assert len(tags) == 12


# --- randomness ---


def test_powers_are_those_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []

    def token_bytes(n: int) -> bytes:
        drawn.append(os.urandom(n))
        return drawn[-1]

    monkeypatch.setattr(randomness.secrets, "token_bytes", token_bytes)
    for powers in (POWERS, Powers.of(PUBLIC, SECRET), Powers.from_line(POWERS.to_line())):
        drawn.clear()
        made = list(powers.draw(5))
        assert all(len(digits) == KEY_BITS // 16 for digits in drawn)
        exponents = [int.from_bytes(digits, "little") for digits in drawn]
        assert made == [pow(int(PUBLIC.base), a, N * N) for a in exponents]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """One that starts processes even for few."""
    monkeypatch.setattr(randomness, "FEWEST_APART", 4)
    pool = Pool(Powers.of(PUBLIC, SECRET), PUBLIC.width, 2)
    yield pool
    pool.close()


def is_power(number: Any) -> bool:
    return pow(int(number), int((SECRET.p - 1) * (SECRET.q - 1)), N * N) == 1


def test_processes_make_powers_and_none_comes_twice(pool: Pool) -> None:
    pool.order(9)
    pool.order(9)  # they are on their way
    assert [worker.count for worker in pool._workers] == [5, 4]
    taken = pool.take(7)
    assert len(pool._made) == 2  # kept for the next sum
    taken += pool.take(7)
    assert len(set(taken)) == 14
    assert all(is_power(power) for power in taken)


def test_powers_come_without_processes_too(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process dies, or can't be started."""
    pool.order(8)
    for worker in pool._workers:
        worker.process.kill()
    first = pool.take(8)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    pool.order(8)
    assert not pool._workers
    assert len({*first, *pool.take(8)}) == 16


def test_processes_end_with_their_pool(pool: Pool) -> None:
    pool.order(10_000_000)
    processes = [worker.process for worker in pool._workers]
    pool.close()
    assert all(process.poll() is not None for process in processes)


# --- messages ---


@given(st.integers(1, 40), st.data())
def test_sets_of_positions_come_back(n: int, data: st.DataObject) -> None:
    positions = data.draw(st.sets(st.integers(0, n - 1)))
    content = position_bits(positions, n)
    assert len(content) == -(-n // 8)
    reader = Reader(content)
    assert reader.positions(n) == tuple(sorted(positions))
    reader.end()


def test_messages_of_another_length_are_refused() -> None:
    for read in (
        lambda: Reader(b"ab").take(3),
        lambda: Reader(b"ab").end(),
        lambda: Reader(b"\xff").positions(7),
    ):
        with pytest.raises(FederationError, match="not as long as it must be"):
            read()


def test_two_quorums_have_a_third_in_common() -> None:
    for n in range(4, 200):
        assert 2 * quorum(n) - n > n / 3
        assert quorum(n) < n  # one can be gone
    assert quorum(3) == 2
    members = tuple(range(10))
    assert holders(members) == (0, 1, 2, 3)  # 3 of 10 can be gone


# --- sums ---


def check_sum(federation: Federation, asked: Sum, lost: Any = (), seed: int = 0) -> Any:
    vectors = random_vectors(asked, seed)
    collector = federation.add(asked, vectors, lost)
    expected = sum(vectors[name] for name in collector.survivors)
    assert collector.total().dtype == np.int64
    assert (collector.total() == expected).all()
    assert not federation.errors
    return collector


@given(st.data())
@settings(max_examples=25)
def test_a_sum_is_that_of_its_survivors(data: st.DataObject) -> None:
    """Whoever drops out, whenever: the sum is right, or there is none because too few are left."""
    n = data.draw(st.integers(3, 6))
    federation = Federation(n)
    number = 0
    for _ in range(data.draw(st.integers(1, 3))):
        number += data.draw(st.integers(1, 5))
        asked = federation.sum(
            number,
            length=data.draw(st.integers(1, 60)),
            bits=data.draw(st.sampled_from([24, 32, 64])),
            complete=data.draw(st.booleans()),
        )
        lost = {
            (data.draw(st.integers(0, 5)), name)
            for name in data.draw(st.sets(st.sampled_from(federation.names), max_size=n // 2))
        }
        gone_before = {name for step, name in lost if step <= 1}
        try:
            collector, failure = check_sum(federation, asked, lost, number), ""
        except FederationError as error:
            collector, failure = None, str(error)
        if collector is None:
            assert "too few" in failure or "nobody is left" in failure
            # As many could be gone; fewer, if the holder and who would follow it are among them.
            enough = len(lost) > n - max(quorum(n), asked.threshold)
            assert enough or set(holders(tuple(range(n)))) <= {int(name[1:]) for _, name in lost}
        else:
            assert set(collector.survivors) == set(federation.names) - gone_before


def test_nobody_may_be_missing_from_a_complete_sum() -> None:
    federation = Federation(5)
    with pytest.raises(FederationError, match="too few clients are left for sum 1"):
        check_sum(federation, federation.sum(1, complete=True), {(1, "c02")})
    check_sum(federation, federation.sum(2, complete=True))
    check_sum(federation, federation.sum(3, complete=True), {(3, "c00")})  # it uploaded


def test_some_of_the_clients_can_take_part() -> None:
    federation = Federation(6)
    check_sum(federation, federation.sum(1, cohort=("c00", "c02", "c05")))
    check_sum(federation, federation.sum(2, cohort=("c01", "c02", "c03", "c04", "c05")))
    assert federation.server._keys is not None
    assert federation.server._keys.known == ["c01", "c00"]  # the holder was not asked
    check_sum(federation, federation.sum(3, cohort=("c01", "c02", "c05")))
    with pytest.raises(FederationError, match="nobody is left who may hold the key"):
        federation.server.collector(federation.sum(4, cohort=("c02", "c03", "c05")))


@pytest.mark.parametrize("step", [2, 3])
def test_when_the_holder_is_gone_the_next_one_takes_over(step: int) -> None:
    federation = Federation(5)
    collector = check_sum(federation, federation.sum(1), {(step, "c00")})
    assert collector.survivors == federation.names  # its vector is in the sum all the same
    assert federation.keys_of("c01").secret == federation.keys_of("c00").secret
    assert federation.keys_of("c02").secret is None
    check_sum(federation, federation.sum(2), {(0, "c00")})  # it stays away
    check_sum(federation, federation.sum(3), {(2, "c01")})  # it is back, and still has the key


def test_holder_after_holder_can_go() -> None:
    federation = Federation(10)
    lost = {(3, "c00"), (5, "c01"), (7, "c02")}
    collector = check_sum(federation, federation.sum(1), lost)
    assert collector.survivors == federation.names
    assert federation.server._keys is not None
    assert federation.server._keys.known == ["c03", "c00"]
    check_sum(federation, federation.sum(2), {(2, "c00"), (3, "c03"), (5, "c01")})
    assert federation.server._keys.known == ["c02", "c03", "c00"]
    with pytest.raises(FederationError, match="too few clients are left for sum 3; got 6 of 10"):
        check_sum(federation, federation.sum(3), {(2, name) for name in federation.names[:4]})


def test_of_three_clients_two_can_go_on_without_the_holder() -> None:
    federation = Federation(3)
    check_sum(federation, federation.sum(1), {(3, "c00")})
    with pytest.raises(FederationError, match="nobody is left who may hold the key"):
        check_sum(federation, federation.sum(2), {(2, "c00"), (3, "c01")})


def test_clients_that_answer_nonsense_drop_out() -> None:
    federation = Federation(5)
    for number, (step, junk) in enumerate(
        [
            (1, lambda answer: answer[:-1]),
            (1, lambda answer: bytes(len(answer))),
            (1, lambda answer: b"\xff" * len(answer)),
            (2, lambda answer: bytes(len(answer))),
            (0, lambda answer: answer + b"1"),
        ],
        start=1,
    ):
        asked = federation.sum(number)
        vectors = random_vectors(asked)
        collector = federation.server.collector(asked)
        parties = {name: federation.clients[name].party(asked) for name in federation.names}
        values = {name: ring(vector, asked) for name, vector in vectors.items()}

        def spoil(at: int, name: str, answer: bytes, step: int = step, junk: Any = junk) -> bytes:
            return bytes(junk(answer)) if (at, name) == (step, "c03") else answer

        federation.play(collector, parties, (), values, spoil)
        assert collector.failed.keys() == {"c03"}
        assert ("c03" in collector.survivors) == (step == 2)
        assert (collector.total() == sum(vectors[name] for name in collector.survivors)).all()


def test_a_wrong_share_is_left_out() -> None:
    """As long as there are enough others."""
    federation = Federation(8)
    federation.keys_of("c04").share = bytes(33)
    check_sum(federation, federation.sum(1), {(3, "c00")})
    federation = Federation(8)
    for name in ("c03", "c04"):
        federation.keys_of(name).share = bytes(33)
    asked = federation.sum(1)
    with pytest.raises(FederationError):
        federation.add(asked, random_vectors(asked), {(3, "c00")})
    assert "too few shares" in str(federation.errors["c01"])


def test_a_sum_is_what_it_says() -> None:
    federation = Federation(4)
    asked = federation.sum(1)
    party = federation.clients["c01"].party(asked)
    party.answer(0, b"", lambda: None)
    with pytest.raises(FederationError, match="does not fit its sum"):
        party.answer(1, b"", lambda: np.zeros(49, dtype=np.uint32))
    collector = federation.server.collector(federation.sum(2))
    with pytest.raises(FederationError, match="not known yet"):
        collector.total()


# --- the setup ---


def test_the_setup_needs_everybody_that_it_asks_for() -> None:
    for step, name in [(0, "c03"), (2, "c03")]:
        with pytest.raises(FederationError, match="too few clients"):
            Federation(6, begin=False).begin({(step, name)})
    with pytest.raises(FederationError, match="'c00', which was to hold the key, dropped out"):
        Federation(6, begin=False).begin({(1, "c00")})


def test_a_setup_may_leave_some_behind() -> None:
    federation = Federation(9, begin=False)
    collector = federation.begin({(0, "c00"), (2, "c08")}, complete=False)
    with pytest.raises(FederationError, match="too few"):
        Federation(5, begin=False).begin({(0, "c00"), (2, "c04")}, complete=False)
    assert collector.survivors == federation.names[1:8]
    assert collector.total().size == 0
    assert not collector.messages()
    check_sum(federation, federation.sum(1, cohort=collector.survivors))
    with pytest.raises(FederationError, match="have no keys for it"):
        federation.server.collector(federation.sum(2))
    with pytest.raises(FederationError, match="has no keys for this session"):
        federation.clients["c08"].party(federation.sum(2))
    with pytest.raises(FederationError, match="with clients that have no keys for it"):
        federation.clients["c01"].party(federation.sum(2))


def test_both_ends_have_the_same_length_of_keys() -> None:
    federation = Federation(4, begin=False)
    for name in ("c01", "c02"):
        federation.clients[name]._key_bits = 768
    with pytest.raises(FederationError, match="too few clients"):
        federation.begin()
    assert "the same length of keys" in str(federation.errors["c01"])


@pytest.mark.slow
def test_with_keys_as_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,072 bits, randomness from processes, and a holder that is gone."""
    monkeypatch.setattr(randomness, "FEWEST_APART", 4)
    federation = Federation(4, key_bits=3072, insecure_key_bits=False)
    for client in federation.clients.values():
        assert client._pool is not None
        client._pool._n_workers = 1
    try:
        for number, bits in enumerate((24, 32, 64), start=1):
            asked = federation.sum(number, length=1500, bits=bits)
            check_sum(federation, asked, {(3, "c00")} if number == 2 else ())
    finally:
        for client in federation.clients.values():
            client.close()
    assert secrets.compare_digest(
        federation.keys_of("c00").mac_key, federation.keys_of("c03").mac_key
    )
