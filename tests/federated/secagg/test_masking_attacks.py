"""What a server, a client or both can try against masked sums, and what they get.

A proof passes on what is shipped. A bug is planted in a copy of `masking.py`, as somebody might
write it, and the proof must then fail: one that finds nothing proves nothing. Each check that the
module makes is such a bug, by being left out; a test makes sure that none is forgotten.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.errors import FederationError
from genesis.federated.secagg import Sum, masking, shamir
from genesis.federated.secagg.masking import ADVERT, COMMITMENT, KEY, SEALED, SIGNATURE
from tests.federated.secagg.test_masking import (
    IDENTITIES,
    STEPS,
    Network,
    a_sum,
    vectors,
)

Proof = Callable[[ModuleType], None]
SHARE = shamir.SHARE_BYTES
MANY = 20_000
"""Numbers, enough to tell masks from anything else."""

# --- what the proofs share ---


def rows(network: Network, message: bytes, width: int) -> dict[int, bytes]:
    return masking._unpack(network.sum, message, width)


def packed(network: Network, of: Mapping[int, bytes]) -> bytes:
    return masking._pack(network.sum, of)


def trimmed(network: Network, message: bytes, width: int, left: int) -> bytes:
    """With the first rows only."""
    return packed(network, dict(itertools.islice(rows(network, message, width).items(), left)))


def advert(scheme: ModuleType, sum: Sum, position: int) -> bytes:
    """A good one, of a client that does not answer further."""
    side = scheme.ClientSide(sum.cohort[position], IDENTITIES[position])
    return bytes(side.party(sum).answer(0, b"", lambda: None))


def signed_keys(sum: Sum, position: int, keys: bytes) -> bytes:
    """An advert for any keys, of a client that lies."""
    text = masking._bound(sum, b"advert", position) + keys
    return keys + IDENTITIES[position].sign(text)


def agreement(sum: Sum, position: int, survivors: Iterable[int]) -> bytes:
    """A client's signature of who survived."""
    return IDENTITIES[position].sign(masking._survivors_text(sum, survivors))


def with_advert(network: Network, position: int, changed: bytes, victim: int = 0) -> Network:
    """A server that shows one client another advert of some client."""

    def down(step: int, client: str, message: bytes) -> bytes:
        if step != 1 or client != network.sum.cohort[victim]:
            return message
        return packed(network, {**rows(network, message, ADVERT), position: changed})

    network.down = down
    return network


def check_refused(network: Network, step: int, *clients: int, because: str) -> None:
    """That exactly these clients refused, in this step."""
    assert set(network.refused) == {network.sum.cohort[at] for at in clients}
    for at, why in network.refused.values():
        assert at == step
        assert because in why


def check_uniform(data: np.ndarray, bits: int) -> None:
    """χ² of each byte of the lower bits; with 255 degrees of freedom 450 has a chance of 1e-12."""
    size = data.itemsize
    bytes_ = np.ascontiguousarray(data).view(np.uint8).reshape(-1, size)
    for k in range(bits // 8):
        counts = np.bincount(bytes_[:, k], minlength=256)
        expected = len(data) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 450


def received(network: Network, upload: bytes) -> np.ndarray:
    """The numbers of an upload."""
    vector = np.zeros(network.sum.length, network.sum.dtype)
    masking._add_wire(vector, upload, network.sum.bits)
    return vector


def same(sum: Sum, value: int) -> dict[str, np.ndarray]:
    """All clients have one number everywhere."""
    return dict.fromkeys(sum.cohort, np.full(sum.length, value, sum.dtype))


# --- step 0 and 1: keys ---


def swapped_keys_are_refused(scheme: ModuleType) -> None:
    """The server puts itself between two clients."""
    for part in (0, 1):
        network = Network(a_sum(), scheme=scheme)

        def down(step: int, client: str, message: bytes, network=network, part=part) -> bytes:
            if step != 1 or client != network.sum.cohort[0]:
                return message
            each = rows(network, message, ADVERT)
            mine = X25519PrivateKey.generate().public_key().public_bytes_raw()
            changed = bytearray(each[2])
            changed[KEY * part : KEY * (part + 1)] = mine
            return packed(network, {**each, 2: bytes(changed)})

        network.down = down
        network.run()
        check_refused(network, 1, 0, because="client 02' did not sign its keys for this sum")
        network.check("client 00")


def adverts_of_others_are_refused(scheme: ModuleType) -> None:
    """They are signed, but for another place."""
    network = Network(a_sum(), scheme=scheme)

    def down(step: int, client: str, message: bytes) -> bytes:
        if step != 1 or client != network.sum.cohort[0]:
            return message
        each = rows(network, message, ADVERT)
        return packed(network, {**each, 2: each[3], 3: each[2]})

    network.down = down
    network.run()
    check_refused(network, 1, 0, because="did not sign")


def replayed_adverts_are_refused(scheme: ModuleType) -> None:
    """By the server, and by the others if it lets them pass."""
    old = advert(scheme, a_sum(), 2)
    network = with_advert(Network(a_sum(number=1), scheme=scheme), 2, old)
    network.run()
    check_refused(network, 1, 0, because="did not sign")

    def up(step: int, client: str, answer: bytes) -> bytes:
        return old if (step, client) == (0, "client 02") else answer

    network = Network(a_sum(number=1), up=up, scheme=scheme)
    network.check("client 02")
    assert set(network.collector.failed) == {"client 02"}
    assert "did not sign" in network.collector.failed["client 02"]


CHANGES = {
    "session": {"session": "cd"},
    "number": {"number": 1},
    "purpose": {"purpose": bytes(31) + b"\1"},
    "length": {"length": 41},
    "bits": {"bits": 24},
    "complete": {"complete": True},
    "cohort": {"cohort": ("a", "client 01", "client 02", "client 03", "client 04")},
    "keys": {"keys": (IDENTITIES[-1].public, *a_sum().keys[1:])},
}


def who_sums_something_else_is_left_out(scheme: ModuleType) -> None:
    """By the server, and by the others if it lets it pass."""
    for change in CHANGES.values():
        other = replace(a_sum(), **change)
        assert other.context != a_sum().context
        network = Network(a_sum(), believed={"client 02": other}, scheme=scheme)
        network.check("client 02")
        assert set(network.collector.failed) == {"client 02"}
        network = with_advert(Network(a_sum(), scheme=scheme), 2, advert(scheme, other, 2))
        network.run()
        check_refused(network, 1, 0, because="did not sign")


def another_advert_of_its_own_is_refused(scheme: ModuleType) -> None:
    """The server has one from before the client was started again."""
    network = Network(a_sum(), scheme=scheme)
    with_advert(network, 0, advert(scheme, network.sum, 0)).run()
    check_refused(network, 1, 0, because="changed the keys of this client")
    network = Network(a_sum(), scheme=scheme)

    def without(step: int, client: str, message: bytes) -> bytes:
        if step != 1 or client != network.sum.cohort[0]:
            return message
        return packed(
            network, {at: row for at, row in rows(network, message, ADVERT).items() if at}
        )

    network.down = without
    network.run()
    check_refused(network, 1, 0, because="changed the keys of this client")


def keys_that_are_there_twice_are_refused(scheme: ModuleType) -> None:
    """A client that says another's keys are its own. The server drops both, and others refuse."""
    network = Network(a_sum(7), scheme=scheme)
    known: dict[str, bytes] = {}

    def up(step: int, client: str, answer: bytes) -> bytes:
        known.setdefault(client, answer)
        if (step, client) == (0, "client 04"):
            return signed_keys(network.sum, 4, known["client 03"][: 2 * KEY])
        return answer

    network.up = up
    network.check("client 03", "client 04")
    assert set(network.collector.failed) == {"client 03", "client 04"}
    network = Network(a_sum(), scheme=scheme)

    def down(step: int, client: str, message: bytes) -> bytes:
        if step != 1 or client != network.sum.cohort[0]:
            return message
        each = rows(network, message, ADVERT)
        return packed(network, {**each, 4: signed_keys(network.sum, 4, each[3][: 2 * KEY])})

    network.down = down
    network.run()
    check_refused(network, 1, 0, because="has the keys of another client")


WEAK = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
"""Points of low order: the secret with anybody is 0."""


def keys_that_hide_nothing_are_refused(scheme: ModuleType) -> None:
    """The server drops a client that signs them, and others refuse it when they need the key."""
    for weak, part in itertools.product(WEAK, (0, 1)):
        network = Network(a_sum(), scheme=scheme)

        def weakened(good: bytes, weak=weak, part=part) -> bytes:
            keys = [good[:KEY], good[KEY : 2 * KEY]]
            keys[part] = weak
            return signed_keys(a_sum(), 2, b"".join(keys))

        def up(step: int, client: str, answer: bytes, weakened=weakened) -> bytes:
            return weakened(answer) if (step, client) == (0, "client 02") else answer

        network.up = up
        network.check("client 02")
        assert network.collector.failed == {"client 02": "has keys that hide nothing"}
        assert not network.refused
        network = Network(a_sum(), scheme=scheme)

        def down(
            step: int, client: str, message: bytes, weakened=weakened, network=network
        ) -> bytes:
            if step != 1 or client != network.sum.cohort[0]:
                return message
            each = rows(network, message, ADVERT)
            return packed(network, {**each, 2: weakened(each[2])})

        network.down = down
        network.run()
        check_refused(network, 1 + part, 0, because="hides nothing")


def too_few_are_refused(step: int, width: int, others: int) -> Proof:
    """A server that goes on with fewer than the threshold; others: whether the client is beside."""

    def proof(scheme: ModuleType) -> None:
        network = Network(a_sum(7), scheme=scheme)

        def down(at: int, client: str, message: bytes) -> bytes:
            if at != step or client != network.sum.cohort[0]:
                return message
            return trimmed(network, message, width, network.sum.threshold - 1 - others)

        network.down = down
        network.run()
        check_refused(network, step, 0, because="too few clients are left")

    proof.__name__ = f"too_few_are_refused_in_step_{step}"
    return proof


too_few_keys = too_few_are_refused(1, ADVERT, 0)
too_few_shares = too_few_are_refused(2, SEALED, 1)
too_few_survivors = too_few_are_refused(3, 0, 0)
too_few_signatures = too_few_are_refused(4, SIGNATURE, 0)


# --- step 1 and 2: shares ---


def tampered_shares_are_refused(scheme: ModuleType) -> None:
    """Any byte changed; another's; another client's; one's own, sent back."""
    for name in ("first", "last", "senders", "reflected", "redirected"):
        network = Network(a_sum(), scheme=scheme)

        def down(step: int, client: str, message: bytes, network=network, name=name) -> bytes:
            if step != 2 or client != network.sum.cohort[0]:
                return message
            each = rows(network, message, SEALED)
            changed = bytearray(each[2])
            changed[{"first": 0, "last": -1}.get(name, 0)] ^= 1
            box = {
                "first": bytes(changed),
                "last": bytes(changed),
                "senders": each[3],
                "reflected": network.heard[1]["client 00"][COMMITMENT:][SEALED : 2 * SEALED],
                "redirected": network.heard[1]["client 02"][COMMITMENT:][SEALED : 2 * SEALED],
            }[name]
            return packed(network, {**each, 2: box})

        network.down = down
        network.run()
        check_refused(network, 2, 0, because="the shares from client 'client 02' can't be opened")


def boxes_have_a_direction(scheme: ModuleType) -> None:
    """With the same secret of two clients."""
    sum, secret = a_sum(), bytes(32)
    box = scheme._seal(sum, secret, 1, 2, bytes(66))
    assert scheme._open(sum, secret, 1, 2, box) == bytes(66)
    assert scheme._open(sum, secret, 2, 1, box) is None
    assert scheme._open(sum, secret, 1, 3, box) is None
    assert scheme._open(replace(sum, number=1), secret, 1, 2, box) is None
    assert scheme._open(sum, b"\1" + bytes(31), 1, 2, box) is None


def shares_of_strangers_are_refused(scheme: ModuleType) -> None:
    """Of a client whose keys were not shown."""
    network = Network(a_sum(), scheme=scheme)

    def down(step: int, client: str, message: bytes) -> bytes:
        if step != 1 or client != network.sum.cohort[0]:
            return message
        return trimmed(network, message, ADVERT, 4)

    def up(step: int, _: str, answer: bytes) -> bytes:
        return answer.ljust(COMMITMENT + 4 * SEALED, b"\0") if step == 1 else answer

    network.down, network.up = down, up
    network.run(3)
    step, why = network.refused["client 00"]
    assert step == 2
    assert "had no keys" in why


def nothing_secret_passes_the_server(scheme: ModuleType) -> None:
    """Before the last step: no key, no seed, no share, no vector; and after it, one of two."""
    network = Network(a_sum(7), gone={2: ["client 06"]}, scheme=scheme)
    network.run(4)
    passed = b"".join(b"".join(each.values()) for each in (*network.said, *network.heard))
    parties = list(network.parties.values())
    for party in parties:
        secret = [party._seed]
        secret += [key.private_bytes_raw() for key in (party._mask_key, party._sealing_key)]
        secret += [*party._secrets.values()]
        secret += [half for both in party._shares.values() for half in masking._halves(both)]
        secret += [network.values[network.sum.cohort[party._me]].tobytes()[:32]]
        assert not any(each in passed for each in secret)
    network.run()
    passed = b"".join(network.heard[4].values())
    for party in parties[:6]:
        for position, both in party._shares.items():
            of_key, of_seed = masking._halves(both)
            assert (of_seed in passed, of_key in passed) == (position < 6, position == 6)


# --- step 2: vectors ---


def uploads_are_uniform(scheme: ModuleType) -> None:
    """Of nothing but zeros and of nothing but the largest number, alone and some together."""
    for bits in (24, 32, 64):
        for value in (0, 2 ** (bits - 1) - 1):
            sum = a_sum(4, bits=bits, length=MANY)
            network = Network(sum, same(sum, value), scheme=scheme).run(3)
            uploads = [received(network, each) for each in network.heard[2].values()]
            for some in range(1, 2 ** len(uploads)):  # all together: the masks of clients are there
                total = np.zeros(sum.length, sum.dtype)
                for k, upload in enumerate(uploads):
                    if some >> k & 1:
                        total += upload
                check_uniform(total, bits)
            correlations = np.corrcoef([each & 0xFFFF for each in uploads]) - np.eye(4)
            assert np.abs(correlations).max() < 6 / MANY**0.5


def masks_do_not_repeat(scheme: ModuleType) -> None:
    """Within a vector, not even where another thread or the next chunk begins."""
    sum = a_sum(3, length=6 * 2**16)
    network = Network(sum, same(sum, 0), scheme=scheme).run(3)
    for upload in network.heard[2].values():
        blocks = np.frombuffer(upload, "V16")
        assert len(set(blocks.tolist())) == len(blocks)


def masks_are_fresh(scheme: ModuleType) -> None:
    """Two sums of the same vectors have nothing in common, even if all of `Sum` is the same."""
    sum = a_sum(3, length=MANY)
    first, second = (Network(sum, same(sum, 0), scheme=scheme).run(3) for _ in range(2))
    for client in sum.cohort:
        uploads = [received(each, each.heard[2][client]) for each in (first, second)]
        check_uniform(uploads[0] - uploads[1], 32)
    parties = [party for each in (first, second) for party in each.parties.values()]
    assert len({party._seed for party in parties}) == 6
    for name in ("_mask_key", "_sealing_key"):
        assert len({getattr(party, name).private_bytes_raw() for party in parties}) == 6


def every_key_has_one_purpose(scheme: ModuleType) -> None:
    """Keys of other sums, other clients, other uses and other secrets differ."""
    sums = [a_sum(), *(replace(a_sum(), **change) for change in CHANGES.values())]
    keys = []
    for sum, secret in itertools.product(sums, (bytes(32), b"\1" * 32)):
        for one in range(3):
            keys += [scheme._self_mask(sum, one, secret), scheme._commitment(sum, one, secret)]
            for other in range(one):
                key, sign = scheme._pair_mask(sum, one, other, secret)
                back = scheme._pair_mask(sum, other, one, secret)
                assert back == (key, -sign)
                keys.append(key)
        boxes = itertools.permutations(range(3), 2)
        keys += [scheme._seal(sum, secret, *pair, bytes(66)) for pair in boxes]
    assert len(set(keys)) == len(keys)


def wrong_vectors_are_not_sent(scheme: ModuleType) -> None:
    for wrong in (np.zeros(41, np.uint32), np.zeros(40, np.uint64), np.zeros((1, 40), np.uint32)):
        network = Network(a_sum(), scheme=scheme)
        network.values["client 00"] = wrong
        network.check("client 00")
        check_refused(network, 2, 0, because="not what the sum is of")


# --- step 3 and 4: survivors ---


def false_survivors_are_refused(scheme: ModuleType) -> None:
    """Somebody who never shared; without the client that is asked."""
    cases: list[tuple[list[int], str]] = [
        ([0, 1, 2, 3, 4, 5, 6], "was not when it was masked"),
        ([1, 2, 3, 4, 5], "the server dropped this client"),
    ]
    for survivors, why in cases:
        network = Network(a_sum(7), gone={1: ["client 06"]}, scheme=scheme)

        def down(step: int, client: str, message: bytes, network=network, who=survivors) -> bytes:
            if step != 3 or client != network.sum.cohort[0]:
                return message
            return packed(network, dict.fromkeys(who, b""))

        network.down = down
        network.run()
        check_refused(network, 3, 0, because=why)


def nobody_may_miss_in_a_complete_sum(scheme: ModuleType) -> None:
    """Neither if it drops out nor if the server says so."""
    for step in range(STEPS):
        network = Network(a_sum(complete=True), gone={step: ["client 02"]}, scheme=scheme).run()
        assert network.stopped is not None
        assert network.stopped[0] == step
    network = Network(a_sum(complete=True), scheme=scheme)

    def down(step: int, _: str, message: bytes) -> bytes:
        return trimmed(network, message, 0, 4) if step == 3 else message

    network.down = down
    network.run()
    assert len(network.refused) == 5
    Network(a_sum(complete=True), scheme=scheme).check()


def asked(network: Network, views: Mapping[int, Collection[int]]) -> dict[int, bytes]:
    """Signatures of clients to whom the server says that these survived."""
    signed = {}
    for position, survivors in views.items():
        message = packed(network, dict.fromkeys(survivors, b""))
        answer = network.ask(network.sum.cohort[position], 3, message)
        assert answer is not None
        signed[position] = answer
    return signed


def a_split_view_opens_nothing(scheme: ModuleType) -> None:
    """Some are told that client 6 survived, and others that it did not: both of its secrets."""
    network = Network(a_sum(7), scheme=scheme).run(3)
    everybody, others = range(7), range(6)
    signed = asked(network, {k: everybody if k < 3 else others for k in range(6)})
    for position in range(6):
        client = network.sum.cohort[position]
        assert network.ask(client, 4, packed(network, signed)) is None
    check_refused(network, 4, *range(6), because="did not sign the same clients")


def gets_both_secrets(scheme: ModuleType, n: int, colluding: int) -> bool:
    """Whether a server gets both secrets of an honest client, by telling each what it likes.

    All it can tell is tried. The colluding clients, the last ones, sign and reveal everything.
    """
    honest, bad = range(n - colluding), range(n - colluding, n)
    needed = a_sum(n).threshold
    views = [
        view for size in range(needed, n + 1) for view in itertools.combinations(range(n), size)
    ]
    for told in itertools.product(*([view for view in views if at in view] for at in honest)):
        network = Network(a_sum(n, length=1), scheme=scheme).run(3)
        signed = asked(network, dict(zip(honest, told, strict=True)))
        revealed = dict.fromkeys(honest, (colluding, colluding))  # shares of seeds, and of keys
        for at, view in zip(honest, told, strict=True):
            agreed = {other: signed[other] for other in honest if told[other] == view}
            agreed |= {other: agreement(network.sum, other, view) for other in bad if other in view}
            if network.ask(network.sum.cohort[at], 4, packed(network, agreed)) is None:
                continue
            for other, (seeds, keys) in revealed.items():
                revealed[other] = (seeds + (other in view), keys + (other not in view))
        if any(min(both) >= needed for both in revealed.values()):
            return True
    return False


def no_story_opens_both_secrets(scheme: ModuleType) -> None:
    """With fewer than 2·threshold - n clients on its side, and with as many it does."""
    assert 2 * a_sum(4).threshold - 4 == 2
    assert not gets_both_secrets(scheme, 4, 1)
    assert gets_both_secrets(scheme, 4, 2)


def false_signatures_are_refused(scheme: ModuleType) -> None:
    """Nonsense, of another sum, of others, of somebody who is not in the sum."""
    n, survivors = 7, range(6)
    earlier = Network(a_sum(n), gone={2: ["client 06"]}, scheme=scheme).run().heard[3]
    for name in ("nonsense", "earlier sum", "another's", "of another label", "not in the sum"):
        network = Network(a_sum(n, number=1), gone={2: ["client 06"]}, scheme=scheme).run(3)
        sum = network.sum
        signed = asked(network, dict.fromkeys(survivors, survivors))
        why = "did not sign the same clients"
        if name == "nonsense":
            signed[2] = bytes(SIGNATURE)
        elif name == "earlier sum":
            signed[2] = earlier["client 02"]
        elif name == "another's":
            signed[2] = signed[3]
        elif name == "of another label":
            text = masking._survivors_text(sum, survivors)
            signed[2] = IDENTITIES[2].sign(text.replace(b"survivors", b"survivers"))
        else:
            signed[6] = agreement(sum, 6, survivors)
            why = "agreed on the sum that is not in it"
        assert network.ask("client 00", 4, packed(network, signed)) is None
        check_refused(network, 4, 0, because=why)


def steps_come_once_and_in_order(scheme: ModuleType) -> None:
    """Asked again, a client would reveal the other secret too."""
    network = Network(a_sum(7), scheme=scheme).run()
    told = [each["client 00"] for each in network.said]
    fewer = packed(network, dict.fromkeys(range(6), b""))
    agreed = packed(network, {k: agreement(network.sum, k, range(6)) for k in range(6)})
    for step, message in [*enumerate(told), (3, fewer), (4, agreed), (STEPS, b""), (-1, b"")]:
        assert network.ask("client 00", step, message) is None
    for first in (1, 2, 3, 4, STEPS, -1):
        network = Network(a_sum(), scheme=scheme)
        assert network.ask("client 00", first, b"") is None
        assert "out of order" in network.refused["client 00"][1]
    for step in range(1, STEPS):  # a step that failed is not tried again
        network = Network(a_sum(), scheme=scheme).run(step)
        message = network.collector.messages()["client 00"]
        assert network.ask("client 00", step, message[:-1]) is None
        assert network.ask("client 00", step, message) is None
        assert "out of order" in network.refused["client 00"][1]


def messages_of_another_length_are_refused(scheme: ModuleType) -> None:
    for step in range(1, STEPS):
        for change in (
            lambda message: message[:-1],
            lambda message: message + b"\0",
            lambda _: b"",
            lambda message: b"\2" + message[1:],
        ):
            network = Network(a_sum(), scheme=scheme).run(step)
            message = network.collector.messages()["client 01"]
            assert network.ask("client 01", step, change(message)) is None
            assert "makes no sense" in network.refused["client 01"][1]


# --- all that the server has in the end ---


def derivable(scheme: ModuleType, network: Network) -> dict[int, list[tuple[bytes, int]]]:
    """The masks of each upload that the server can compute from all that it has heard."""
    sum = network.sum
    heard = [
        {sum.cohort.index(client): answer for client, answer in each.items()}
        for each in network.heard
    ]
    sharers, survivors = list(heard[1]), list(heard[2])
    secrets = {}
    for k, position in enumerate(sharers):
        shares = {at + 1: answer[SHARE * k : SHARE * (k + 1)] for at, answer in heard[4].items()}
        secrets[position] = shamir.join(dict(itertools.islice(shares.items(), sum.threshold)))
    masks: dict[int, list[tuple[bytes, int]]] = {position: [] for position in sharers}
    for position in survivors:
        masks[position].append((scheme._self_mask(sum, position, secrets[position]), 1))
    for gone in set(sharers) - set(survivors):
        key = X25519PrivateKey.from_private_bytes(secrets[gone])
        for position in set(sharers) - {gone}:
            secret = masking._exchange(key, masking._keys(heard[0][position])[1])
            masks[position].append(scheme._pair_mask(sum, position, gone, secret))
            masks[gone].append(scheme._pair_mask(sum, gone, position, secret))
    return masks


def all_that_is_derived_leaves_vectors_uniform(scheme: ModuleType) -> None:
    """Every part of the survivors stays masked; so does a client whose vector comes too late."""
    sum = a_sum(7, length=MANY)
    for gone, too_late in (({}, ""), ({1: ["client 05"]}, "client 06")):
        late: dict[str, bytes] = {}

        def up(step: int, client: str, answer: bytes, late=late, who=too_late) -> bytes | None:
            if (step, client) != (2, who):
                return answer
            late[client] = answer
            return None

        network = Network(sum, same(sum, 5), up=up, gone=gone, scheme=scheme).run()
        expected = 5 * len(network.collector.survivors)
        assert set(network.collector.total().tolist()) == {expected}
        uploads = {**network.heard[2], **late}
        stripped = {}
        for position, known in derivable(scheme, network).items():
            client = sum.cohort[position]
            assert len(known) == {"": 1, client: 5}.get(too_late, 2)
            vector = received(network, uploads[client])
            masking.add_masks(vector, [(key, -sign) for key, sign in known])
            stripped[client] = vector
        if too_late:
            check_uniform(stripped.pop(too_late), 32)
        for size in range(1, len(stripped)):
            for some in itertools.combinations(stripped.values(), size):
                check_uniform(np.sum(some, axis=0, dtype=np.uint32), 32)
        total = np.sum(list(stripped.values()), axis=0, dtype=np.uint32)
        assert set(total.tolist()) == {expected}


def worlds_of_equal_sums_look_alike(scheme: ModuleType) -> None:
    """Same messages of the same lengths, the same total, and uploads that nothing tells apart."""
    sum = a_sum(5, length=MANY)
    one = vectors(sum, 1)
    other = {client: vector.copy() for client, vector in one.items()}
    other["client 00"] += np.uint32(7)
    other["client 01"] -= np.uint32(7)
    worlds = [
        Network(sum, values, gone={3: ["client 04"]}, scheme=scheme) for values in (one, other)
    ]
    totals = [network.total() for network in worlds]
    np.testing.assert_array_equal(*totals)
    shapes = [
        [
            [(client, len(message)) for client, message in each.items()]
            for each in (*network.said, *network.heard)
        ]
        for network in worlds
    ]
    assert shapes[0] == shapes[1]
    for client in sum.cohort:
        uploads = [received(network, network.heard[2][client]) for network in worlds]
        for each in (*uploads, uploads[0] - uploads[1]):
            check_uniform(each, 32)
    for said in zip(*(network.said[1].values() for network in worlds), strict=True):
        assert said[0] != said[1]


def no_vector_is_in_the_servers_state(scheme: ModuleType) -> None:
    """All of it, after every step."""
    for bits in (24, 32, 64):
        network = Network(a_sum(bits=bits), gone={2: ["client 03"]}, scheme=scheme)
        while network.collector.messages():
            network.step()
            state = [getattr(network.collector, name) for name in vars(network.collector)]
            state = [each for each in state if not callable(each)]
            whole = pickle.dumps([state, network.said, network.heard])
            for vector in network.values.values():
                for plain in (vector.tobytes(), bytes(masking._to_wire(vector, bits))):
                    assert plain[:12] not in whole
                    assert plain[-12:] not in whole
        assert network.stopped is None


# --- the server against clients that lie ---


def nonsense_drops_a_client_and_not_the_run(scheme: ModuleType) -> None:
    """Another length or a wrong signature; after its vector came, the vector counts."""
    for step in range(STEPS):
        changes: list[Callable[[bytes], bytes]] = [lambda answer: answer[:-1], lambda _: b""]
        changes += [lambda answer: answer + b"\0"]
        if step in (0, 3):
            changes += [lambda answer: answer[:-1] + bytes([answer[-1] ^ 1])]
        for change in changes:

            def up(at: int, client: str, answer: bytes, step=step, change=change) -> bytes:
                return change(answer) if (at, client) == (step, "client 02") else answer

            network = Network(a_sum(), up=up, scheme=scheme)
            network.check(*["client 02"] * (step <= masking.UPLOAD))
            assert set(network.collector.failed) == {"client 02"}
            assert network.collector.failed["client 02"]


def too_few_end_the_run_at_once(scheme: ModuleType) -> None:
    for step in range(STEPS):
        gone = {step: ["client 00", "client 01"]}
        network = Network(a_sum(), gone=gone, scheme=scheme).run()
        assert network.stopped is not None
        assert network.stopped[0] == step
        assert "3 of 5 where 4 are needed" in network.stopped[1]
        assert not network.collector.messages()
        with pytest.raises(FederationError, match="not known"):
            network.collector.total()


def there_is_no_total_before_the_end(scheme: ModuleType) -> None:
    network = Network(a_sum(), scheme=scheme)
    while network.collector.messages():
        with pytest.raises(FederationError, match="not known"):
            network.collector.total()
        network.step()
    network.check()


def strangers_are_not_listened_to(scheme: ModuleType) -> None:
    """Answers of clients that were not asked, or have failed already."""
    network = Network(a_sum(), scheme=scheme)
    while network.collector.messages():
        messages = network.collector.messages()
        heard = {c: network.ask(c, len(network.heard), m) for c, m in messages.items()}
        if not network.heard:
            heard["client 02"] = b""
        network.heard.append(heard)
        length = network.collector.reply_length()
        network.collector.take({**heard, "client 02": bytes(length), "nobody": bytes(length)})
    assert network.collector.survivors == tuple(c for c in network.sum.cohort if c != "client 02")
    assert set(network.collector.failed) == {"client 02"}


def wrong_shares_are_found(scheme: ModuleType) -> None:
    """One liar in the last step: with shares to spare the total is right, else there is none."""
    for late, row in itertools.product(([], ["client 06"]), (0, 6)):
        for missing in ([], ["client 05"]):

            def up(step: int, client: str, answer: bytes, row=row) -> bytes:
                if (step, client) != (4, "client 02"):
                    return answer
                changed = bytearray(answer)
                changed[SHARE * row + 20] ^= 1
                return bytes(changed)

            gone = {2: late, 4: missing}
            network = Network(a_sum(7), up=up, gone=gone, scheme=scheme).run()
            left = 7 - len(late) - len(missing)
            if left > network.sum.threshold:
                network.check(*late)
            else:
                assert network.stopped is not None
                assert network.stopped[0] == 4
                assert f"masks of client 'client 0{row}' can't be removed" in network.stopped[1]


def shares_of_another_seed_are_found(scheme: ModuleType) -> None:
    """A client that commits itself to one seed and shares another."""

    def up(step: int, client: str, answer: bytes) -> bytes:
        return bytes(COMMITMENT) + answer[COMMITMENT:] if step == 1 and "2" in client else answer

    network = Network(a_sum(), up=up, scheme=scheme).run()
    assert network.stopped is not None
    assert "masks of client 'client 02' can't be removed" in network.stopped[1]


# --- a client's side of a session ---


def a_sum_is_played_once(scheme: ModuleType) -> None:
    side = scheme.ClientSide("client 01", IDENTITIES[1])
    for number in (0, 1, 5):
        side.party(a_sum(number=number))
    for change in ({"number": 5}, {"number": 3}, {"number": 5, "purpose": b"\1" * 32}):
        with pytest.raises(FederationError, match="the same secure sum twice"):
            side.party(a_sum(**change))
    with pytest.raises(FederationError, match="changed sessions"):
        side.party(a_sum(number=6, session="cd"))
    side.party(a_sum(number=6))


def a_key_that_is_not_its_own_is_refused(scheme: ModuleType) -> None:
    with pytest.raises(FederationError, match="another key for client 'client 01'"):
        scheme.ClientSide("client 01", IDENTITIES[2]).party(a_sum())
    with pytest.raises(FederationError, match="'nobody' is not in the sum"):
        scheme.ClientSide("nobody", IDENTITIES[2]).party(a_sum())


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Another byte somewhere, another end, or something else altogether."""
    at, byte, other = draw(st.integers(0, 999)), draw(st.integers(1, 255)), draw(st.binary())
    kind = draw(st.sampled_from(["byte", "byte", "cut", "longer", "other"]))

    def changed(message: bytes) -> bytes:
        if kind == "byte" and message:
            where = at % len(message)
            return message[:where] + bytes([message[where] ^ byte]) + message[where + 1 :]
        return {"cut": message[: at % (len(message) + 1)], "longer": message + other}.get(
            kind, other
        )

    return changed


@given(step=st.integers(0, STEPS - 1), change=damage())
@settings(max_examples=25)
def test_a_damaged_message_costs_one_client_at_most(
    step: int, change: Callable[[bytes], bytes]
) -> None:
    def down(at: int, client: str, message: bytes) -> bytes:
        return change(message) if (at, client) == (step, "client 01") else message

    network = Network(a_sum(), down=down).run()
    lost = set(network.refused) | set(network.collector.failed)
    assert lost <= {"client 01"}
    network.check(*(lost if step <= masking.UPLOAD else []))


@given(step=st.sampled_from([0, 1, 3, 4]), change=damage())
@settings(max_examples=25)
def test_a_damaged_answer_never_gives_a_wrong_sum(
    step: int, change: Callable[[bytes], bytes]
) -> None:
    def up(at: int, client: str, answer: bytes) -> bytes:
        return change(answer) if (at, client) == (step, "client 01") else answer

    network = Network(a_sum(6), up=up).run()
    assert len(network.collector.failed) + len(network.refused) <= 1
    if network.stopped is None:
        network.check(*set(network.sum.cohort) - set(network.collector.survivors))
    else:  # what it committed itself to is not what it shared
        assert step == 1
        assert "masks of client 'client 01' can't be removed" in network.stopped[1]


PROOFS: list[Proof] = [
    swapped_keys_are_refused,
    adverts_of_others_are_refused,
    replayed_adverts_are_refused,
    who_sums_something_else_is_left_out,
    another_advert_of_its_own_is_refused,
    keys_that_are_there_twice_are_refused,
    keys_that_hide_nothing_are_refused,
    too_few_keys,
    too_few_shares,
    too_few_survivors,
    too_few_signatures,
    tampered_shares_are_refused,
    boxes_have_a_direction,
    shares_of_strangers_are_refused,
    nothing_secret_passes_the_server,
    uploads_are_uniform,
    masks_do_not_repeat,
    masks_are_fresh,
    every_key_has_one_purpose,
    wrong_vectors_are_not_sent,
    false_survivors_are_refused,
    nobody_may_miss_in_a_complete_sum,
    a_split_view_opens_nothing,
    no_story_opens_both_secrets,
    false_signatures_are_refused,
    steps_come_once_and_in_order,
    messages_of_another_length_are_refused,
    all_that_is_derived_leaves_vectors_uniform,
    worlds_of_equal_sums_look_alike,
    no_vector_is_in_the_servers_state,
    nonsense_drops_a_client_and_not_the_run,
    too_few_end_the_run_at_once,
    there_is_no_total_before_the_end,
    strangers_are_not_listened_to,
    wrong_shares_are_found,
    shares_of_another_seed_are_found,
    a_sum_is_played_once,
    a_key_that_is_not_its_own_is_refused,
]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_proof(proof: Proof) -> None:
    proof(masking)


# --- bugs that the proofs must find ---

SOURCE = inspect.getsource(masking)


def compiled(tree: ast.Module) -> ModuleType:
    """A copy of the module from another source."""
    module = ModuleType(masking.__name__)
    exec(compile(ast.fix_missing_locations(tree), masking.__file__, "exec"), vars(module))
    return module


def with_text(*changes: tuple[str, str]) -> ModuleType:
    """A copy in which something else is written."""
    source = SOURCE
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return compiled(ast.parse(source))


class Checks(ast.NodeTransformer):
    """Finds all checks: conditions under which something is raised or a client fails, and calls of
    functions that check. Leaves one out, if it is told which."""

    def __init__(self, without: str | None = None) -> None:
        self.without, self.found = without, []
        self.within = ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.within = node.name
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        body = "\n".join(map(ast.unparse, node.body))
        condition = ast.unparse(node.test)
        if ("raise " in body or "_fail(" in body) and self.is_left_out(condition):
            node.test = ast.Constant(False)
        joins = self.within == "_joined" and body.startswith("return ")
        if joins and self.is_left_out(condition):
            node.test = ast.Constant(True)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        text = ast.unparse(node.value)
        if text.startswith("_check") and self.is_left_out(text):
            return ast.Pass()
        return node

    def is_left_out(self, text: str) -> bool:
        name = f"{self.within}: {text}"
        self.found.append(name)
        return name == self.without


LEFT_OUT: dict[str, Proof] = {
    # A client's session.
    "party: sum.session != (self._session or sum.session)": a_sum_is_played_once,
    "party: sum.number <= self._number": a_sum_is_played_once,
    "party: sum.keys[position] != self._identity.public": a_key_that_is_not_its_own_is_refused,
    # A client's steps.
    "answer: step != self._step or step >= len(steps)": steps_come_once_and_in_order,
    "_share: _check_enough(self._sum, adverts)": too_few_keys,
    "_share: adverts.get(self._me) != self._adverts[self._me]": (
        another_advert_of_its_own_is_refused
    ),
    "_share: not _signed_advert(self._sum, position, advert)": swapped_keys_are_refused,
    "_share: (twice := _with_keys_of_others(adverts))": keys_that_are_there_twice_are_refused,
    "_upload: position not in self._secrets": shares_of_strangers_are_refused,
    "_upload: opened is None": tampered_shares_are_refused,
    "_upload: _check_enough(self._sum, self._shares)": too_few_shares,
    "_upload: vector.dtype != self._sum.dtype or vector.shape != (self._sum.length,)": (
        wrong_vectors_are_not_sent
    ),
    "_agree: _check_enough(self._sum, survivors)": too_few_survivors,
    "_agree: not survivors.keys() <= self._shares.keys()": false_survivors_are_refused,
    "_agree: self._me not in survivors": false_survivors_are_refused,
    "_unmask: _check_enough(self._sum, signatures)": too_few_signatures,
    "_unmask: not signatures.keys() <= set(self._survivors)": false_signatures_are_refused,
    "_unmask: not _signed_survivors(self._sum, position, self._survivors, signature)": (
        a_split_view_opens_nothing
    ),
    # The server's.
    "take: len(answer) != self._reply_length": nonsense_drops_a_client_and_not_the_run,
    "total: not self._known": there_is_no_total_before_the_end,
    "_adverts_in: not _signed_advert(self._sum, position, advert)": replayed_adverts_are_refused,
    "_adverts_in: not _usable(advert)": keys_that_hide_nothing_are_refused,
    "_adverts_in: _check_enough(self._sum, self._adverts)": too_few_end_the_run_at_once,
    "_shares_in: _check_enough(self._sum, answers)": too_few_end_the_run_at_once,
    "_vectors_in: _check_enough(self._sum, answers)": too_few_end_the_run_at_once,
    "_signed: not _signed_survivors(self._sum, position, self._there, bytes(answer))": (
        nonsense_drops_a_client_and_not_the_run
    ),
    "_signed: _check_enough(self._sum, signatures)": too_few_end_the_run_at_once,
    "_revealed: _check_enough(self._sum, answers)": too_few_end_the_run_at_once,
    "_joined: right(position, secret)": wrong_shares_are_found,
    # Both ends'.
    "_unpack: len(message) != n + width * len(there) or set(has) - {0, 1}": (
        messages_of_another_length_are_refused
    ),
    "_check_enough: len(who) < sum.threshold": too_few_keys,
}


def test_every_check_can_be_left_out() -> None:
    """So that a new one needs a proof."""
    finder = Checks()
    finder.visit(ast.parse(SOURCE))
    assert finder.found == list(dict.fromkeys(finder.found))
    assert set(finder.found) == set(LEFT_OUT)


def check_fails(proof: Proof, scheme: ModuleType) -> None:
    """That a proof finds the bug in a scheme."""
    with pytest.raises((Exception, pytest.fail.Exception)):
        proof(scheme)


@pytest.mark.parametrize(("check", "proof"), LEFT_OUT.items(), ids=list(LEFT_OUT))
def test_a_check_that_is_left_out_is_missed(check: str, proof: Proof) -> None:
    check_fails(proof, compiled(Checks(without=check).visit(ast.parse(SOURCE))))


SELF_MASK = "masks = [(_self_mask(self._sum, self._me, self._seed), 1)]"
PAIR_MASK = "masks.append(_pair_mask(self._sum, self._me, position, secret))"

NO_MASKS = [
    ("        add_masks(masked, masks)\n", ""),
    ("        add_masks(self._vector, masks)\n", ""),
]

WRITTEN: dict[str, tuple[Proof, list[tuple[str, str]]]] = {
    "no masks at all": (uploads_are_uniform, NO_MASKS),
    "no masks at all, and the server's state": (
        no_vector_is_in_the_servers_state,
        NO_MASKS,
    ),
    "no mask of its own": (
        all_that_is_derived_leaves_vectors_uniform,
        [
            (SELF_MASK, "masks = []"),
            ("masks.append((_self_mask(self._sum, position, seed), -1))", "pass"),
        ],
    ),
    "no masks of pairs": (
        all_that_is_derived_leaves_vectors_uniform,
        [
            (PAIR_MASK, "pass"),
            ("masks.append(_pair_mask(self._sum, position, survivor, secret))", "pass"),
        ],
    ),
    "masks of half of the numbers": (
        uploads_are_uniform,
        [("add_masks(masked, masks)", "add_masks(masked[::2], masks)")],
    ),
    "masks of one byte less": (
        uploads_are_uniform,
        [
            (
                "add_masks(masked, masks)",
                "add_masks(masked, masks); masked &= masked.dtype.type(-257 % 2**32)",
            )
        ],
    ),
    "masks that begin again in every thread": (
        masks_do_not_repeat,
        [("(offset // 16).to_bytes", "(0).to_bytes"), ("min(4, os.cpu_count() or 1)", "2")],
    ),
    "masks that begin again in every chunk": (
        masks_do_not_repeat,
        [
            ("encryptor.update_into(zeros[: some.nbytes], stream)", "stream[:] = again"),
            ("zeros, stream =", "again, stream ="),
            ("memoryview(bytes(size)), bytearray(size + 15)", "os.urandom(size), bytearray(size)"),
        ],
    ),
    "a seed that is always the same": (
        masks_are_fresh,
        [("secrets.token_bytes(KEY)", "bytes(KEY)")],
    ),
    "keys that are always the same": (
        masks_are_fresh,
        [
            (
                "self._mask_key = X25519PrivateKey.generate()",
                "self._mask_key = X25519PrivateKey.from_private_bytes(bytes([position] * KEY))",
            )
        ],
    ),
    "keys and signatures of any sum": (every_key_has_one_purpose, [(" + sum.context", "")]),
    "signatures of any sum": (replayed_adverts_are_refused, [(" + sum.context", "")]),
    "survivors of any sum": (
        false_signatures_are_refused,
        [('_bound(sum, b"survivors") +', 'b"survivors" +')],
    ),
    "keys of any client": (
        every_key_has_one_purpose,
        [('{len(positions)}I", *positions)', '0I")')],
    ),
    "adverts of any client": (
        adverts_of_others_are_refused,
        [
            ('_bound(self._sum, b"advert", self._me)', '_bound(self._sum, b"advert")'),
            (
                'verify(sum.keys[position], signature, _bound(sum, b"advert", position) + keys)',
                'any(verify(key, signature, _bound(sum, b"advert") + keys) for key in sum.keys)',
            ),
        ],
    ),
    "keys of any use": (every_key_has_one_purpose, [(' + label + b"\\0"', "")]),
    "keys of no secret": (
        every_key_has_one_purpose,
        [(".derive(secret)", ".derive(bytes(KEY))")],
    ),
    "boxes of no direction": (
        boxes_have_a_direction,
        [
            (
                "AESGCM(key).encrypt",
                'AESGCM(_derived(secret, _bound(sum, b"seal"))).encrypt',
            ),
            (
                "AESGCM(key).decrypt",
                'AESGCM(_derived(secret, _bound(sum, b"seal"))).decrypt',
            ),
        ],
    ),
    "boxes that are open": (
        nothing_secret_passes_the_server,
        [
            ("AESGCM(key).encrypt(bytes(12), shares, None)", "shares + bytes(TAG)"),
            ("AESGCM(key).decrypt(bytes(12), sealed, None)", "sealed[:-TAG]"),
        ],
    ),
    "boxes of no tag": (
        tampered_shares_are_refused,
        [
            (
                "return AESGCM(key).decrypt(bytes(12), sealed, None)",
                "return Cipher(algorithms.AES(key), modes.CTR(bytes(15) + b'\\2'))"
                ".decryptor().update(sealed[:-TAG])",
            )
        ],
    ),
    "a commitment that is the seed": (
        nothing_secret_passes_the_server,
        [('return _derived(seed, _bound(sum, b"commitment", position))', "return seed")],
    ),
    "keys that nobody checks": (
        keys_that_hide_nothing_are_refused,
        [
            (
                'raise FederationError("a client has a key that hides nothing") from error',
                "return bytes(KEY)",
            )
        ],
    ),
    "clients with others' keys stay": (
        keys_that_are_there_twice_are_refused,
        [("            del self._adverts[position]\n", "")],
    ),
    "the other secret is revealed": (
        nothing_secret_passes_the_server,
        [("revealed.append(of_seed if", "revealed.append(of_key if")],
    ),
    "a step that fails can be tried again": (
        steps_come_once_and_in_order,
        [("self._step = len(steps)  #", "pass  #")],
    ),
    "steps are not counted": (
        steps_come_once_and_in_order,
        [("self._step = step + 1", "self._step = step")],
    ),
    "seeds that are not compared": (
        shares_of_another_seed_are_found,
        [("== self._commitments[position]", "!= b''")],
    ),
    "keys that are not compared": (
        wrong_shares_are_found,
        [("return public == _keys(self._adverts[position])[1]", "return True")],
    ),
    "shares to spare are not used": (
        wrong_shares_are_found,
        [("range(len(points) if len(points) > n else 1)", "range(1)")],
    ),
    "a total of too few": (
        there_is_no_total_before_the_end,
        [("        self._known = False\n", "        self._known = True\n")],
    ),
    "no masks at all, and two worlds": (
        worlds_of_equal_sums_look_alike,
        NO_MASKS,
    ),
    "answers of anybody": (
        strangers_are_not_listened_to,
        [("for position in self._messages:", "for position in range(len(self._sum.cohort)):")],
    ),
}


@pytest.mark.parametrize("bug", WRITTEN)
def test_a_planted_bug_is_found(bug: str) -> None:
    proof, changes = WRITTEN[bug]
    check_fails(proof, with_text(*changes))


@pytest.mark.parametrize(
    ("threshold", "proof"),
    [(3, nobody_may_miss_in_a_complete_sum), (2, no_story_opens_both_secrets)],
)
def test_a_lower_threshold_is_found(
    threshold: int, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sum, "threshold", property(lambda _: threshold))
    check_fails(proof, masking)


def test_a_copy_without_a_bug_passes() -> None:
    """So that what is found above is the bug, and not the copy."""
    copy = with_text()
    for proof in (uploads_are_uniform, steps_come_once_and_in_order, wrong_shares_are_found):
        proof(copy)
