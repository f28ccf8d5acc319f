"""What a hostile server may try against Paillier, and bugs that would let it succeed.

An attack fails on what is shipped. A bug is planted in what is shipped, as somebody might write it,
and the same attack must then succeed: an attack that never succeeds proves nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gmpy2")

from gmpy2 import mpz

from genesis.errors import FederationError
from genesis.federated.secagg import paillier
from genesis.federated.secagg.identity import Identity
from genesis.federated.secagg.paillier import channels, randomness, setup, sums
from genesis.federated.secagg.paillier.channels import TAG_BYTES, Channels
from genesis.federated.secagg.paillier.keys import PublicKey, SecretKey
from genesis.federated.secagg.paillier.mac import SumMac
from genesis.federated.secagg.paillier.randomness import Pool, Powers
from genesis.federated.secagg.paillier.setup import ClientKeys, SetupParty
from genesis.federated.secagg.paillier.sums import Agreement, SumParty
from tests.federated.secagg.paillier_federation import Federation, HostileServer, ring

Patch = pytest.MonkeyPatch
Attack = Callable[[], None]
Bug = Callable[[Patch], None]

ATTACKS: list[Attack] = []
BUGS: list[tuple[Attack, Bug]] = []


def attack(function: Attack) -> Attack:
    """Something that fails if the attack succeeds."""
    ATTACKS.append(function)
    return function


def bug(*attacks: Attack) -> Callable[[Bug], Bug]:
    """Something that lets attacks succeed."""

    def keep(plant: Bug) -> Bug:
        BUGS.extend((each, plant) for each in attacks)
        return plant

    return keep


def refused(call: Callable[[], object]) -> bool:
    """Whether something raises, and says why."""
    try:
        call()
    except FederationError:
        return True
    return False


ALL = range(5)


def filler(server: HostileServer) -> list[Any]:
    """What anybody can make of the public key: zeros, and a check value of zero."""
    public, length = server.federation.public, len(server.of(0))
    return public.encrypt([mpz(0)] * length, Powers.of(public).draw(length))


def shifted(server: HostileServer, product: list[Any], by: dict[int, int]) -> list[Any]:
    """With numbers added to what is encrypted."""
    public = server.federation.public
    return [c * (1 + by.get(at, 0) * public.n) % public.square for at, c in enumerate(product)]


# --- what is to be decrypted ---


@attack
def one_client_as_if_it_were_all() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, server.of(1)) is None


@attack
def one_client_among_fillers() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, server.product(server.of(1), *[filler(server)] * 4)) is None


@attack
def one_client_many_times() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, server.of(1, 1, 1, 1, 1)) is None


@attack
def all_of_a_sum_twice() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, server.of(*ALL, *ALL)) is None


@attack
def fewer_than_are_said() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, server.of(0, 1, 2, 3)) is None


@attack
def more_than_are_said() -> None:
    server = HostileServer(Federation())
    assert server.open(range(4), server.of(*ALL)) is None


@attack
def others_than_are_said() -> None:
    server = HostileServer(Federation())
    assert server.open(range(4), server.of(1, 2, 3, 4)) is None


@attack
def uploads_of_another_sum() -> None:
    federation = Federation()
    before = HostileServer(federation, 1)
    server = HostileServer(federation, 2)
    assert server.open(ALL, before.of(*ALL)) is None


@attack
def uploads_for_another_purpose() -> None:
    """The clients believe that different things are summed."""
    federation = Federation()
    server = HostileServer(federation, 1)
    told = federation.sum(1, purpose=bytes(32))
    party = SumParty(
        told,
        federation.keys_of("c00"),
        federation.identities["c00"],
        federation.clients["c00"]._pool,
        1,
    )
    server.parties["c00"] = party
    for step in (0, 1):
        party.answer(step, b"", lambda: ring(server.vectors["c00"], told))
    assert refused(lambda: server.open(ALL, server.of(*ALL)))


@attack
def a_changed_sum() -> None:
    for by in ({0: 1}, {0: -(1 << 24)}, {1: (1 << 127) - 1}, {1: (1 << 61) - 1}):
        server = HostileServer(Federation())
        assert server.open(ALL, shifted(server, server.of(*ALL), by)) is None


@attack
def changes_that_cancel_out() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, shifted(server, server.of(*ALL), {0: 1, 1: -1})) is None


@attack
def a_scaled_sum() -> None:
    server = HostileServer(Federation())
    square = server.federation.public.square
    assert server.open(ALL, [c * c % square for c in server.of(*ALL)]) is None


@attack
def plaintexts_in_another_order() -> None:
    server = HostileServer(Federation())
    first, second, *rest = server.of(*ALL)
    assert server.open(ALL, [second, first, *rest]) is None


@attack
def another_check_value() -> None:
    server = HostileServer(Federation())
    assert server.open(ALL, shifted(server, server.of(*ALL), {len(server.of(0)) - 1: 1})) is None


@attack
def check_values_among_the_plaintexts() -> None:
    server = HostileServer(Federation(), length=10)
    plain, tag = server.of(*ALL)
    square = server.federation.public.square
    assert server.open(ALL, [plain * tag % square, tag]) is None
    server = HostileServer(Federation(), length=10)
    assert server.open(ALL, [plain * plain % square, tag * plain % square]) is None


@attack
def ciphertexts_of_another_key() -> None:
    federation = Federation()
    server = HostileServer(federation)
    public = SecretKey.generate(512).public
    plain = [mpz(5)] * len(server.of(0))
    assert server.open(ALL, public.encrypt(plain, Powers.of(public).draw(len(plain)))) is None


@attack
def no_ciphertexts() -> None:
    n = Federation().public.n
    for number in (mpz(0), mpz(1), n):
        server = HostileServer(Federation())
        assert server.open(ALL, [number] * len(server.of(0))) is None


# --- who is in a sum ---


@attack
def a_sum_of_two() -> None:
    server = HostileServer(Federation())
    assert refused(lambda: server.open((0, 1), server.of(0, 1)))


@attack
def a_statistic_without_somebody() -> None:
    server = HostileServer(Federation(), complete=True)
    assert refused(lambda: server.open(range(4), server.of(*range(4))))


@attack
def a_sum_that_nobody_signed() -> None:
    server = HostileServer(Federation())
    own = server.signatures((0, 1, 2, 3))
    forged = {x: Identity.generate().sign(b"") for x in (1, 2, 3)}
    assert refused(lambda: server.ask((0, 1, 2, 3), server.of(*range(4)), {**own, **forged}))


@attack
def a_sum_that_too_few_signed() -> None:
    server = HostileServer(Federation())
    signatures = server.signatures(ALL)
    few = {x: signatures[x] for x in range(3)}
    assert refused(lambda: server.ask(ALL, server.of(*ALL), few))


@attack
def two_stories() -> None:
    """Some are told that everybody is there, others that the last one is missing."""
    server = HostileServer(Federation())
    signed = server.signatures(ALL) | {4: b""}
    cohort = server.sum.cohort
    again = {}
    for x in range(4):
        text = sums.position_bits(range(4), 5)
        party = server.parties[cohort[x]]
        if not refused(lambda party=party, text=text: party.answer(2, text, lambda: None)):
            again[x] = b"signed twice"
    assert signed
    assert not again


@attack
def another_set_than_was_signed() -> None:
    """The holder signed one set; the server got others to sign another one."""
    server = HostileServer(Federation(7))
    cohort = server.sum.cohort
    server.parties[cohort[0]].answer(2, sums.position_bits(range(7), 7), lambda: None)
    text, wanted = sums.position_bits(range(6), 7), range(6)
    signed = {x: server.parties[cohort[x]].answer(2, text, lambda: None) for x in range(1, 6)}
    assert refused(lambda: server.ask(wanted, server.of(*wanted), signed))


@attack
def a_difference_by_way_of_the_next_holder() -> None:
    """The holder opens one sum; said to be gone, another set is to be opened by the next one."""
    server = HostileServer(Federation(7))
    everybody = server.signatures(range(7))
    assert server.ask(range(7), server.of(*range(7)), everybody) is not None
    text = sums.signed_text(server.sum, tuple(range(6)))
    given = 0
    for giver in range(2, 6):
        forged = {x: server.federation.identities[f"c0{x}"].sign(text) for x in (0, 1)}
        forged |= {x: everybody[x] for x in range(2, 6)}
        given += not refused(lambda g=giver, f=forged: server.hand_over(g, 1, range(6), f))
    assert not given


@attack
def the_same_sum_once_more() -> None:
    federation = Federation()
    HostileServer(federation, 1)
    assert refused(lambda: HostileServer(federation, 1))


@attack
def opening_twice() -> None:
    server = HostileServer(Federation())
    signatures = server.signatures(ALL)
    assert server.ask(ALL, server.of(*ALL), signatures) is not None
    assert refused(lambda: server.ask(ALL, server.of(*ALL), signatures, step=5))


@attack
def opening_before_signing() -> None:
    server = HostileServer(Federation())
    text = sums.signed_text(server.sum, tuple(ALL))
    signed = {x: server.federation.identities[f"c0{x}"].sign(text) for x in ALL}
    assert refused(lambda: server.ask(ALL, server.of(*ALL), signed))


@attack
def uploading_twice() -> None:
    server = HostileServer(Federation())
    other = ring(server.vectors["c00"], server.sum)
    for step in (0, 1):
        assert refused(lambda s=step: server.parties["c01"].answer(s, b"", lambda: other))


# --- the secret key ---


@attack
def the_key_for_somebody_who_must_not_have_it() -> None:
    """Only the first third may; the server chose the last."""
    server = HostileServer(Federation(7))
    signatures = server.signatures(range(7))
    assert setup.holders(tuple(range(7))) == (0, 1, 2)
    assert refused(lambda: server.hand_over(3, 6, range(7), signatures))
    assert not refused(lambda: server.hand_over(4, 1, range(7), signatures))


@attack
def a_share_asked_for_twice() -> None:
    server = HostileServer(Federation(7))
    signatures = server.signatures(range(7))
    server.hand_over(3, 1, range(7), signatures, 4)
    assert refused(lambda: server.hand_over(3, 1, range(7), signatures, 6))


@attack
def shares_of_another_sum() -> None:
    """What was handed over for one sum is of no use in another."""
    federation = Federation(7)
    keys = federation.keys_of("c01")
    sealed = {x: federation.keys_of(f"c0{x}").hand_over(bytes(32), 1) for x in range(2, 7)}
    assert refused(lambda: keys.take_over(bytes([1] * 32), sealed))
    assert keys.take_over(bytes(32), sealed) == federation.keys_of("c00").secret


@attack
def too_few_shares() -> None:
    federation = Federation(7)
    sealed = {x: federation.keys_of(f"c0{x}").hand_over(bytes(32), 1) for x in (2, 3)}
    assert refused(lambda: federation.keys_of("c01").take_over(bytes(32), sealed))


@attack
def shares_that_are_wrong() -> None:
    """One too many is wrong: the key can be put together of the others."""
    federation = Federation(8)
    federation.keys_of("c02").share = bytes(33)
    sealed = {x: federation.keys_of(f"c0{x}").hand_over(bytes(32), 1) for x in range(2, 8)}
    keys = federation.keys_of("c01")
    assert not refused(lambda: keys.take_over(bytes(32), sealed))


# --- the setup ---


class Between:
    """A server in the middle of a setup."""

    def __init__(self, n: int = 4) -> None:
        self.federation = Federation(n, begin=False)
        self.sum = self.federation.sum(0, length=1, complete=True)
        clients = self.federation.clients
        self.parties = {name: clients[name].setup(self.sum) for name in self.sum.cohort}
        self.adverts = {
            x: bytes(party.answer(0, b"", lambda: None))
            for x, party in enumerate(self.parties.values())
        }

    def book(self, **changes: bytes) -> bytes:
        adverts = self.adverts | {int(name[1:]): advert for name, advert in changes.items()}
        return setup._book(adverts, len(self.sum.cohort))

    def make(self, book: bytes) -> tuple[bytes, list[bytes]]:
        """The holder's announcement and its boxes."""
        answer = bytes(self.parties["c00"].answer(1, book, lambda: None))
        cut = setup.Announcement.n_bytes(len(self.sum.cohort), 512)
        width = setup.BOX_BYTES
        return answer[:cut], [answer[at : at + width] for at in range(cut, len(answer), width)]

    def learn(self, x: int, book: bytes, announcement: bytes, box: bytes) -> None:
        self.parties[f"c0{x}"].answer(2, book + announcement + box, lambda: None)


def own_advert(server: Between, x: int) -> tuple[Channels, bytes]:
    """A key that the server made in place of a client's."""
    mine = Channels(server.sum, x, Identity.generate())
    return mine, mine.advert


@attack
def a_key_of_the_servers_own() -> None:
    """In place of a client's, it would open what is sealed for that one."""
    server = Between()
    _, advert = own_advert(server, 2)
    assert refused(lambda: server.make(server.book(c2=advert)))


@attack
def a_key_of_another_session() -> None:
    old = Between()
    new = replace(old.sum, session="cd")
    assert channels.check_advert(old.sum, 2, old.adverts[2])
    assert not channels.check_advert(new, 2, old.adverts[2])


@attack
def a_clients_own_key_exchanged() -> None:
    """By an older one that it signed itself, say."""
    server = Between()
    identity = server.federation.identities["c00"]
    other = Channels(server.sum, 0, identity)
    assert refused(lambda: server.make(server.book(c0=other.advert)))


@attack
def a_holder_of_the_servers_choice() -> None:
    server = Between()
    answered = not refused(lambda: server.parties["c01"].answer(1, server.book(), lambda: None))
    assert not answered


@attack
def a_public_key_of_the_servers_own() -> None:
    """It would read all that is encrypted with it."""
    server = Between()
    book = server.book()
    announcement, boxes = server.make(book)
    public = SecretKey.generate(512).public.to_bytes()
    changed = public + announcement[len(public) :]
    assert refused(lambda: server.learn(1, book, changed, boxes[0]))


@attack
def a_changed_box() -> None:
    server = Between()
    book = server.book()
    announcement, boxes = server.make(book)
    broken = bytes([boxes[0][0] ^ 1]) + boxes[0][1:]
    assert refused(lambda: server.learn(1, book, announcement, broken))
    other = Between()
    other_book = other.book()
    told = other.make(other_book)[0]
    assert refused(lambda: other.learn(1, other_book, told, boxes[0]))


@attack
def a_box_of_somebody_else() -> None:
    server = Between()
    book = server.book()
    announcement, boxes = server.make(book)
    assert refused(lambda: server.learn(2, book, announcement, boxes[0]))


@attack
def a_setup_without_somebody() -> None:
    server = Between()
    del server.adverts[3]
    assert refused(lambda: server.make(server.book()))


@attack
def a_setup_twice() -> None:
    server = Between()
    assert refused(lambda: server.parties["c01"].answer(0, b"", lambda: None))
    client = server.federation.clients["c01"]
    assert refused(lambda: client.setup(server.sum))


# --- what ciphertexts tell ---


@attack
def randomness_used_twice() -> None:
    """The quotient of two ciphertexts would be 1 + (m - m') n."""
    federation = Federation()
    public = federation.public
    first, second = HostileServer(federation, 1), HostileServer(federation, 2)
    seen = set()
    for server in (first, second):
        for name, upload in server.uploads.items():
            packing = sums.Packing(server.sum.length, server.sum.bits, public)
            plain = packing.pack(ring(server.vectors[name], server.sum))
            inverses = public.encrypt([-m for m in plain], [mpz(1)] * len(plain))
            pairs = zip(upload[:-1], inverses, strict=True)
            powers = [c * inverse % public.square for c, inverse in pairs]
            assert not seen & set(powers)
            assert 1 not in powers
            seen |= set(powers)


@attack
def guessing_a_vector() -> None:
    """Whoever guesses it can't even see that the guess is right."""
    server = HostileServer(Federation(), length=10)
    public, upload = server.federation.public, server.uploads["c01"]
    packing = sums.Packing(10, 24, public)
    (plain,) = packing.pack(ring(server.vectors["c01"], server.sum))
    assert (upload[0] - 1) // public.n % public.n != plain % public.n
    assert upload[0] != 1 + plain % public.n * public.n


@attack
def a_tag_that_tells_of_the_plaintext() -> None:
    """A holder that is shown one client's check value alone learns nothing: r_i is on it."""
    server = HostileServer(Federation(), length=10)
    secret = server.federation.keys_of("c00").secret
    assert secret is not None
    plain, tag = secret.decrypt(server.uploads["c01"])
    check = server.parties["c01"]._mac
    assert (check._combine([plain]) - tag) % secret.public.n != 0


# --- bugs ---


@bug(one_client_as_if_it_were_all, one_client_among_fillers, fewer_than_are_said)
@bug(more_than_are_said, others_than_are_said, a_changed_sum, one_client_many_times)
@bug(uploads_of_another_sum, changes_that_cancel_out, plaintexts_in_another_order)
@bug(another_check_value, a_scaled_sum, all_of_a_sum_twice, no_ciphertexts)
def check_values_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(SumMac, "holds", lambda *_: True)


@bug(ciphertexts_of_another_key, check_values_among_the_plaintexts)
def what_does_not_fit_is_cut(patch: Patch) -> None:
    patch.setattr(SumMac, "holds", lambda *_: True)
    patch.setattr(sums.Packing, "to_bytes", lambda self, _: bytes(self.n_bytes))


@bug(fewer_than_are_said, more_than_are_said, others_than_are_said, one_client_among_fillers)
@bug(one_client_as_if_it_were_all, one_client_many_times, all_of_a_sum_twice, a_scaled_sum)
@bug(a_tag_that_tells_of_the_plaintext)
def check_values_without_their_pads(patch: Patch) -> None:
    patch.setattr(SumMac, "_pad", lambda *_: mpz(0))


@bug(others_than_are_said)
def pads_without_their_clients(patch: Patch) -> None:
    pad = SumMac._pad
    patch.setattr(SumMac, "_pad", lambda self, _: pad(self, 0))


@bug(a_changed_sum, changes_that_cancel_out, plaintexts_in_another_order)
def check_values_without_the_plaintexts(patch: Patch) -> None:
    patch.setattr(SumMac, "_combine", lambda *_: mpz(0))


@bug(changes_that_cancel_out, plaintexts_in_another_order)
def one_coefficient_for_all(patch: Patch) -> None:
    patch.setattr(SumMac, "_combine", lambda _, plain: 12345 * sum(plain))


@bug(a_changed_sum)
def check_values_modulo_a_prime(patch: Patch) -> None:
    prime = 2**127 - 1
    combine, pad = SumMac._combine, SumMac._pad

    def holds(self: SumMac, plain: list[Any], tag: Any, positions: Iterable[int]) -> bool:
        signed = [m if 2 * m < self._n else m - self._n for m in plain]
        whole = combine(self, signed) + sum(pad(self, x) % prime for x in positions)
        return bool((whole - tag) % prime == 0)

    def tag(self: SumMac, plain: list[Any], position: int) -> Any:
        return (combine(self, plain) + pad(self, position)) % prime

    patch.setattr(SumMac, "tag", tag)
    patch.setattr(SumMac, "holds", holds)


@bug(uploads_of_another_sum)
def check_values_of_no_sum(patch: Patch) -> None:
    init = SumMac.__init__
    patch.setattr(SumMac, "__init__", lambda self, key, _, n: init(self, key, b"", n))


@bug(a_sum_of_two, a_statistic_without_somebody)
def any_number_of_clients(patch: Patch) -> None:
    patch.setattr(sums, "check_survivors", lambda *_: None)
    patch.setattr(sums, "quorum", lambda _: 1)


@bug(a_sum_that_nobody_signed, a_difference_by_way_of_the_next_holder)
def signatures_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(sums, "verify", lambda *_: True)
    never_minds_the_set(patch)


@bug(a_sum_that_too_few_signed)
def any_number_of_signatures(patch: Patch) -> None:
    patch.setattr(sums, "quorum", lambda _: 1)


@bug(uploads_for_another_purpose)
def sums_without_their_purpose(patch: Patch) -> None:
    context = sums.Sum.context.func
    known = property(lambda self: context(replace(self, purpose=bytes(32))))
    patch.setattr(sums.Sum, "context", known)


@bug(another_set_than_was_signed)
def never_minds_the_set(patch: Patch) -> None:
    read = Agreement.read.__func__
    answer = SumParty.answer

    def loose(self: SumParty, step: int, message: bytes, values: Any) -> Any:
        if step > sums.AGREE:
            agreed = read(Agreement, sums.Reader(message[1:]), self._sum)
            self._agreed = agreed.survivors
        return answer(self, step, message, values)

    patch.setattr(SumParty, "answer", loose)


@bug(two_stories, uploading_twice)
def steps_in_any_order(patch: Patch) -> None:
    answer = SumParty.answer

    def loose(self: SumParty, step: int, message: bytes, values: Any) -> Any:
        self._done = step - 1
        return answer(self, step, message, values)

    patch.setattr(SumParty, "answer", loose)


@bug(opening_before_signing)
def steps_that_can_be_left_out(patch: Patch) -> None:
    never_minds_the_set(patch)
    steps_in_any_order(patch)


@bug(the_same_sum_once_more)
def sums_that_are_not_remembered(patch: Patch) -> None:
    begin = paillier.ClientSide._begin

    def forgetful(self: Any, asked: Any) -> int:
        self._last = -1
        return begin(self, asked)

    patch.setattr(paillier.ClientSide, "_begin", forgetful)


@bug(a_setup_twice)
def setups_that_are_not_remembered(patch: Patch) -> None:
    sums_that_are_not_remembered(patch)


@bug(opening_twice)
def openings_that_are_not_remembered(patch: Patch) -> None:
    open = SumParty._open

    def forgetful(self: SumParty, reader: Any) -> bytes:
        self._opened = False
        return open(self, reader)

    patch.setattr(SumParty, "_open", forgetful)


@bug(the_key_for_somebody_who_must_not_have_it)
def anybody_may_hold_the_key(patch: Patch) -> None:
    patch.setattr(setup, "holders", lambda members: members)


@bug(a_share_asked_for_twice)
def shares_that_are_not_remembered(patch: Patch) -> None:
    hand_over = SumParty._hand_over

    def forgetful(self: SumParty, reader: Any) -> bytes:
        self._given.clear()
        return hand_over(self, reader)

    patch.setattr(SumParty, "_hand_over", forgetful)


@bug(shares_of_another_sum)
def shares_for_any_sum(patch: Patch) -> None:
    patch.setattr(setup, "_share_purpose", lambda _: b"share")


@bug(too_few_shares)
def a_lower_threshold(patch: Patch) -> None:
    patch.setattr(setup, "quorum", lambda _: 3)


@bug(shares_that_are_wrong)
def shares_are_not_compared(patch: Patch) -> None:
    patch.setattr(ClientKeys, "committed", lambda *_: True)


@bug(a_key_of_the_servers_own, a_key_of_another_session)
def adverts_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(channels, "verify", lambda *_: True)


@bug(a_key_of_another_session)
def adverts_of_no_session(patch: Patch) -> None:
    patch.setattr(channels, "_signed", lambda _, position, key: struct.pack(">I", position) + key)


@bug(a_clients_own_key_exchanged)
def own_adverts_are_not_looked_at(patch: Patch) -> None:
    meet = Channels.meet

    def loose(self: Channels, adverts: dict[int, bytes]) -> None:
        meet(self, {**adverts, self._position: self.advert})

    patch.setattr(Channels, "meet", loose)


@bug(a_holder_of_the_servers_choice)
def anybody_may_make_the_keys(patch: Patch) -> None:
    members = SetupParty._members

    def first(self: SetupParty, reader: Any) -> Any:
        found, book = members(self, reader)
        return (self._position, *(x for x in found if x != self._position)), book

    patch.setattr(SetupParty, "_members", first)


@bug(a_public_key_of_the_servers_own)
def boxes_without_the_announcement(patch: Patch) -> None:
    patch.setattr(setup, "_box_purpose", lambda *_: b"keys")


@bug(a_changed_box, a_box_of_somebody_else, a_public_key_of_the_servers_own)
def seals_are_not_looked_at(patch: Patch) -> None:
    open = Channels.open

    def loose(self: Channels, sender: int, purpose: bytes, sealed: bytes) -> bytes:
        try:
            return open(self, sender, purpose, sealed)
        except FederationError:
            return sealed[:-TAG_BYTES]

    patch.setattr(Channels, "open", loose)
    patch.setattr(ClientKeys, "committed", lambda *_: True)


@bug(a_setup_without_somebody)
def a_setup_of_any_number(patch: Patch) -> None:
    patch.setattr(setup.Sum, "threshold", property(lambda _: 1))


@bug(randomness_used_twice)
def randomness_is_kept(patch: Patch) -> None:
    take = Pool.take

    def keep(self: Pool, count: int) -> list[Any]:
        taken = take(self, count)
        self._made = [*taken, *self._made]
        return taken

    patch.setattr(Pool, "take", keep)


@bug(randomness_used_twice)
def randomness_of_a_seed(patch: Patch) -> None:
    rng = np.random.default_rng
    patch.setattr(randomness.secrets, "token_bytes", lambda n: rng(0).bytes(n))


@bug(guessing_a_vector, randomness_used_twice)
def no_randomness(patch: Patch) -> None:
    patch.setattr(
        PublicKey,
        "encrypt",
        lambda self, plain, _: [(1 + m * self.n) % self.square for m in plain],
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_fails(attack: Attack) -> None:
    attack()


@pytest.mark.parametrize(
    ("attack", "plant"), BUGS, ids=lambda each: each.__name__.replace("test_", "")
)
def test_would_succeed(attack: Attack, plant: Bug, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        attack()


def test_every_attack_can_succeed() -> None:
    assert {attack for attack, _ in BUGS} == set(ATTACKS)


# --- what the server has ---


def reachable(whole: Any, seen: set[int]) -> Iterable[Any]:
    """All that an object holds, however deep."""
    if id(whole) in seen:
        return
    seen.add(id(whole))
    yield whole
    parts: Iterable[Any] = ()
    if isinstance(whole, dict):
        parts = [*whole.keys(), *whole.values()]
    elif isinstance(whole, list | tuple | set | frozenset):
        parts = whole
    elif hasattr(whole, "__dict__"):
        parts = vars(whole).values()
    elif hasattr(whole, "__self__"):
        parts = [whole.__self__]
    for part in parts:
        yield from reachable(part, seen)


def test_the_server_never_holds_a_vector_or_a_key() -> None:
    federation = Federation()
    asked = federation.sum(1, length=40)
    vectors = {
        name: np.full(40, 1000 + 111 * x, dtype=np.int64) for x, name in enumerate(federation.names)
    }
    seen: list[bytes] = []
    collector = federation.server.collector(asked)
    parties = {name: federation.clients[name].party(asked) for name in asked.cohort}

    def spy(*told: Any) -> bytes:
        seen.append(told[-1])
        return seen[-1]

    values = {name: ring(vector, asked) for name, vector in vectors.items()}
    federation.play(collector, parties, {(3, "c00")}, values, spy)
    secret = federation.keys_of("c00").secret
    assert secret is not None
    known = [*reachable([federation.server, collector, seen], set())]
    whole = b"".join(bytes(each) for each in known if isinstance(each, bytes | bytearray))
    arrays = [each for each in known if isinstance(each, np.ndarray)]
    assert any((array == sum(vectors.values())).all() for array in arrays)  # it looks everywhere
    for vector in vectors.values():
        assert not any(len(array) == 40 and (array == vector).all() for array in arrays)
        for width in (3, 4, 8):
            for number in (int(vector[0]), int(vector[0]) + 2**23):
                assert number.to_bytes(width, "little") * 5 not in whole
    numbers = {int(each) for each in known if isinstance(each, int | type(mpz(0)))}
    assert int(federation.public.n) in numbers  # it does look
    assert not numbers & {int(secret.p), int(secret.q)}
    for name in federation.names:
        keys = federation.keys_of(name)
        assert keys.mac_key not in whole
        assert keys.share is None or keys.share not in whole
    assert secret.to_bytes() not in whole


def test_two_worlds_with_one_sum_look_alike() -> None:
    """To the server: what it is told is as long, and what it can read is the same."""
    told: list[list[bytes]] = []
    rng = np.random.default_rng(0)
    whole = rng.integers(-1000, 1000, (5, 40))
    moved = np.vstack([whole[0] + 500, whole[1] - 500, whole[2:]])
    for world in (whole, moved):
        federation = Federation()
        asked = federation.sum(1, length=40)
        collector = federation.server.collector(asked)
        parties = {name: federation.clients[name].party(asked) for name in asked.cohort}
        pairs = zip(federation.names, world, strict=True)
        values = {name: ring(vector, asked) for name, vector in pairs}
        answers: list[bytes] = []
        federation.play(collector, parties, (), values, lambda *a, to=answers: _kept(to, a[-1]))
        told.append(answers)
    one, other = told
    assert [len(answer) for answer in one] == [len(answer) for answer in other]
    assert one[-1] == other[-1]  # the sum, of both
    assert not set(one[5:-1]) & set(other[5:-1])


def _kept(to: list[bytes], answer: bytes) -> bytes:
    to.append(answer)
    return answer


def test_little_is_said_besides_vectors() -> None:
    """At most 0.6 kB a client, for each client and sum, besides vectors."""
    n = 10
    federation = Federation(n)
    asked = federation.sum(1, length=40)
    collector = federation.server.collector(asked)
    parties = {name: federation.clients[name].party(asked) for name in asked.cohort}
    values = {name: ring(np.zeros(40, dtype=np.int64), asked) for name in asked.cohort}
    before = federation.traffic
    federation.play(collector, parties, (), values)
    vector = 3 * 128  # two plaintexts, and the check value
    product, plain = vector, 1 + 40 * 3
    control = federation.traffic - before - n * vector - product - plain
    assert 0 < control <= n * 600
    assert before <= n * n * 600
