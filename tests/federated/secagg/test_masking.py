"""The masked sum is the plain sum, whoever drops out and when."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.errors import FederationError
from genesis.federated.secagg import Ring, Sum, masking
from genesis.federated.secagg.identity import Identity

STEPS = 5
IDENTITIES = sorted((Identity.generate() for _ in range(12)), key=lambda each: each.public)
"""Of the clients, made once."""


def a_sum(n: int = 5, **changes: Any) -> Sum:
    """What n clients agree on."""
    said = {"session": "ab", "number": 0, "purpose": bytes(32), "length": 40, **changes}
    cohort = tuple(f"client {k:02d}" for k in range(n))
    return Sum(cohort=cohort, keys=tuple(each.public for each in IDENTITIES[:n]), **said)


def vectors(sum: Sum, seed: int = 0) -> dict[str, Ring]:
    """Some that are as large as they may be."""
    most = 2 ** (sum.bits - 1) // len(sum.cohort) - 1
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-most, most, (len(sum.cohort), sum.length), endpoint=True)
    return {c: x.astype(sum.dtype) for c, x in zip(sum.cohort, drawn, strict=True)}


def plain(sum: Sum, values: Mapping[str, Ring], who: Iterable[str]) -> np.ndarray:
    """What the sum should be."""
    total = np.zeros(sum.length, np.int64)
    for client in who:
        total += values[client].view(f"i{values[client].itemsize}")
    return total


Change = Callable[[int, str, bytes], bytes | None]
"""From the step, the client and what was said to what arrives: None for nothing."""


class Network:
    """Server, clients and what passes between them, which a test may change.

    Args:
        sum: What is summed.
        values: The vectors; some if None.
        down: Changes what the server says.
        up: Changes what a client answers.
        gone: For each step the clients that never answer from then on.
        believed: What some clients think is summed.
        keys: The clients' keys.
        scheme: The module, or one with a bug.
    """

    def __init__(
        self,
        sum: Sum,
        values: Mapping[str, Ring] | None = None,
        *,
        down: Change | None = None,
        up: Change | None = None,
        gone: Mapping[int, Sequence[str]] | None = None,
        believed: Mapping[str, Sum] | None = None,
        keys: Sequence[Identity] = IDENTITIES,
        scheme: ModuleType = masking,
    ) -> None:
        self.sum, self.values = sum, vectors(sum) if values is None else values
        self.down, self.up, self.gone = down, up, gone or {}
        self.collector = scheme.ServerSide().collector(sum)
        self.parties = {
            client: scheme.ClientSide(client, identity).party((believed or {}).get(client, sum))
            for client, identity in zip(sum.cohort, keys, strict=False)
        }
        self.said: list[dict[str, bytes]] = []
        self.heard: list[dict[str, bytes]] = []
        self.refused: dict[str, tuple[int, str]] = {}
        """The step at which a client refused to answer, and why."""
        self.stopped: tuple[int, str] | None = None
        """The step in which the server gave up, and why."""

    def ask(self, client: str, step: int, message: bytes) -> bytes | None:
        """What a client answers; None if it refuses."""
        try:
            return bytes(self.parties[client].answer(step, message, lambda: self.values[client]))
        except FederationError as error:
            self.refused[client] = (step, str(error))
            return None

    def step(self) -> None:
        """One step of everybody."""
        number, said, heard = len(self.said), dict(self.collector.messages()), {}
        away = {c for step, clients in self.gone.items() if step <= number for c in clients}
        for client, sent in said.items():
            message = self.down(number, client, sent) if self.down else sent
            if client in away or message is None:
                continue
            answer = self.ask(client, number, message)
            if answer is None:
                continue
            if not self.down:
                assert len(answer) == self.collector.reply_length()
            changed = self.up(number, client, answer) if self.up else answer
            if changed is not None:
                heard[client] = changed
        self.said.append(said)
        self.heard.append(heard)
        try:
            self.collector.take(heard)
        except FederationError as error:
            self.stopped = (number, str(error))

    def run(self, steps: int = STEPS) -> Network:
        """All steps, or the first ones."""
        while self.collector.messages() and len(self.said) < steps:
            self.step()
        return self

    def total(self) -> np.ndarray:
        return self.run().collector.total()

    def check(self, *missing: str) -> None:
        """That the total is right, of all clients but some."""
        there = [client for client in self.sum.cohort if client not in missing]
        np.testing.assert_array_equal(self.total(), plain(self.sum, self.values, there))
        assert self.collector.survivors == tuple(there)


@pytest.mark.parametrize("bits", [24, 32, 64])
@pytest.mark.parametrize("length", [1, 40, 2**16 + 3])
def test_the_masked_sum_is_the_plain_sum(bits: int, length: int) -> None:
    network = Network(a_sum(5, bits=bits, length=length))
    network.check()
    assert network.collector.total().dtype == np.int64
    assert not network.collector.failed
    assert not network.collector.messages()
    assert network.collector.reply_length() == 0


@given(data=st.data())
@settings(max_examples=60)
def test_it_is_whoever_drops_out(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 10), "clients")
    bits = data.draw(st.sampled_from([24, 32, 64]), "bits")
    complete = data.draw(st.booleans(), "complete")
    sum = a_sum(n, bits=bits, length=data.draw(st.integers(1, 50), "length"), complete=complete)
    # For most clients the end, or nearly all examples would have too few of them.
    last = st.one_of(st.just(STEPS), st.just(STEPS), st.integers(0, STEPS))
    steps = dict(zip(sum.cohort, data.draw(st.lists(last, min_size=n, max_size=n)), strict=True))
    gone = {step: [c for c in sum.cohort if steps[c] == step] for step in range(STEPS)}
    network = Network(sum, vectors(sum, n), gone=gone).run()
    left = [len([c for c in sum.cohort if steps[c] > step]) for step in range(STEPS)]
    if left[-1] < sum.threshold:
        assert network.stopped is not None
        step, error = network.stopped
        assert step == next(step for step in range(STEPS) if left[step] < sum.threshold)
        assert error.startswith(f"too few clients are left in a secure sum; got {left[step]} of")
        with pytest.raises(FederationError, match="not known"):
            network.collector.total()
        return
    network.check(*(c for c in sum.cohort if steps[c] <= masking.UPLOAD))
    assert not network.refused


@pytest.mark.parametrize("gone", [{}, {2: ["client 01"]}, {3: ["client 01"]}])
def test_another_process_goes_on_after_each_step(gone: Mapping[int, Sequence[str]]) -> None:
    network = Network(a_sum(), gone=gone)
    secret: dict[str, set[str]] = {client: set() for client in network.sum.cohort}
    for step in range(STEPS):
        network.step()
        for client, identity in zip(network.sum.cohort, IDENTITIES, strict=False):
            text = json.dumps(network.parties[client].to_dict())
            kept = json.loads(text)
            if step < masking.UPLOAD:
                secret[client] |= {kept[name] for name in ("sealing_key", "mask_key", "seed")}
            elif client in network.heard[masking.UPLOAD]:  # what it uploaded is safe from now on
                assert not any(each in text for each in secret[client])
            side = masking.ClientSide(client, identity)
            network.parties[client] = side.resumed(network.sum, kept)
            with pytest.raises(FederationError, match="the same secure sum twice"):
                side.party(network.sum)
    assert not network.refused
    network.check(*gone.get(masking.UPLOAD, ()))


def test_two_clients_are_too_few() -> None:
    with pytest.raises(FederationError, match="at least 3 clients"):
        a_sum(2)
    assert [a_sum(n).threshold for n in (3, 4, 5, 6, 7, 10)] == [3, 3, 4, 5, 5, 7]
    assert a_sum(10, complete=True).threshold == 10


def test_numbers_wrap_around_as_in_a_ring() -> None:
    for bits in (24, 32, 64):
        sum = a_sum(3, bits=bits)
        most = np.full(sum.length, 2 ** (bits - 1) - 1, sum.dtype)
        network = Network(sum, dict.fromkeys(sum.cohort, most))
        assert set(network.total().tolist()) == {2 ** (bits - 1) - 3}


def test_what_one_gives_is_left_as_it_is() -> None:
    """The vector is not masked in place, and belongs to the caller."""
    network = Network(a_sum())
    before = {client: vector.copy() for client, vector in network.values.items()}
    network.run()
    for client, vector in network.values.items():
        np.testing.assert_array_equal(vector, before[client])


def test_control_traffic_is_small() -> None:
    """Against 0.6 kB for each client there is, per client."""
    for n in (3, 10):
        network = Network(a_sum(n, length=1)).run()
        for client in network.sum.cohort:
            both = (*network.said, *network.heard)
            assert sum(len(each[client]) for each in both) < 600 * n


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2**16, 3 * 2**16 + 5])
def test_masks_are_aes_in_counter_mode(
    dtype: type, threads: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the block cipher on counters, whatever the number of threads."""
    monkeypatch.setattr(masking, "THREADS", threads)
    vector = np.arange(length, dtype=dtype)
    masks = [(bytes([k] * 32), sign) for k, sign in enumerate((1, -1, -1))]
    expected = vector.copy()
    for key, sign in masks:
        stream = counters(key, -(-vector.nbytes // 16))[: vector.nbytes]
        mask = np.frombuffer(stream, dtype)
        expected = expected + mask if sign > 0 else expected - mask
    masking.add_masks(vector, masks)
    np.testing.assert_array_equal(vector, expected)


def counters(key: bytes, blocks: int) -> bytes:
    """AES of 0, 1, 2, …"""
    numbers = np.zeros((blocks, 2), ">u8")
    numbers[:, 1] = np.arange(blocks)
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(numbers.tobytes())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [24, 32, 64])
def test_a_hundred_clients(bits: int) -> None:
    keys = sorted((Identity.generate() for _ in range(100)), key=lambda each: each.public)
    cohort = tuple(f"client {k:02d}" for k in range(100))
    sum = Sum("ab", 0, bytes(32), cohort, tuple(each.public for each in keys), 200_000, bits)
    network = Network(sum, gone={1: cohort[:5], 2: cohort[5:15], 3: cohort[15:20]}, keys=keys)
    network.check(*cohort[:15])
