"""A server that means harm, and clients that secure aggregation protects from it.

Each test breaks the protocol in one way; a client refuses it, and no number of its own leaves it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.errors import FederationError
from genesis.federated.disclosures import MEMORY
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.secagg import masking
from genesis.federated.secagg.identity import Identity, Roster, Trust, key_text
from genesis.federated.secure_labels import LABEL_SUMS
from genesis.federated.secure_shard import SecureShard
from genesis.federated.secure_sums import Combined
from genesis.federated.shard import Shard
from tests.dirty import QUICK, dirty_table
from tests.federated.lossy import IDENTITIES, Lossy, secured, step_of

NAMES = ("a", "b", "c", "d")
VICTIM = "d"


class Reached(BaseException):
    """A run is where a test wants it."""


@cache
def tables() -> dict[str, pd.DataFrame]:
    columns = ["sex", "größe, cm", "visits"]
    return {name: dirty_table(40 + 7 * k, k)[columns] for k, name in enumerate(NAMES)}


class Server:
    """A server that has played by the rules so far.

    Args:
        until: What it is about to ask for: the kind of a sum and its round.
        options: Of the clients.
        choices: Of the plan.
    """

    def __init__(
        self,
        until: tuple[str, int] = ("train", 0),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        **choices: Any,
    ) -> None:
        shards = {name: Shard(name, table) for name, table in tables().items()}
        clients = secured(shards, required=True)
        for name, each in (options or {}).items():
            clients |= {name: secured(shards, required=True, **each)[name]}
        plan = {"config": QUICK, "n_rounds": 5, "seed": 7, "secure_aggregation": True}
        self.network = Lossy(clients, lambda _, request: self._stops(request, until))
        self.run = Federation(Plan(**plan | choices), self.network)
        with pytest.raises(Reached):
            self.run.run()
        self.network.silent = lambda *_: False
        self.victim: SecureShard = clients[VICTIM]
        self.network.heard.clear()
        self.numbers = itertools.count(1000)

    def _stops(self, request: Request, until: tuple[str, int]) -> bool:
        if step_of(request) == (*until, 0):
            raise Reached
        return False

    @property
    def session(self) -> str:
        assert self.run._sums is not None
        return self.run._sums.session

    @property
    def keys(self) -> dict[str, str]:
        return {name: key_text(IDENTITIES[name].public) for name in NAMES}

    def training(self, round: int, cohort: Sequence[str] = NAMES) -> dict[str, Request]:
        """What an honest server would ask in a round."""
        return self.run._training_requests(round, list(cohort))

    def play(self, requests: Mapping[str, Request]) -> Combined:
        """A sum of updates, as an honest server takes it."""
        sums, state, layout = self.run._sums, self.run.state, self.run._layout
        assert sums is not None
        assert state is not None
        assert layout is not None
        return sums.updates(
            requests,
            rule=self.run.plan.aggregator(),
            state=state,
            layout=layout,
            hear=lambda _: None,
        )

    def ask(self, kind: str, round: int = 0, meta: Any = None, **arrays: Any) -> Reply:
        """Ask the victim for anything."""
        return self.victim.handle(Request(kind, round, meta or {}, arrays))

    def asked(self, kind: str) -> Request:
        """What the victim was asked while the server played by the rules."""
        return next(r for name, r in self.network.asked if name == VICTIM and r.kind == kind)

    def begin(
        self,
        kind: str = "train",
        round: int = 0,
        *,
        cohort: Sequence[str] = NAMES,
        inner: Any = None,
        arrays: Any = None,
        **meta: Any,
    ) -> Reply:
        """Ask the victim for the first step of a sum, of a request that may be changed."""
        asked = self.training(round)[VICTIM] if kind == "train" else None
        told = {} if asked is None else {**asked.meta, "secure": self.secure()}
        told = {"send": None, "secure": self.secure()} if kind == "collect" else told
        if kind == "count":
            told = {"questions": [], "secure": {}}
        sent = {} if asked is None else dict(asked.arrays)
        usual = {
            "number": next(self.numbers),
            "step": 0,
            "cohort": list(cohort),
            "length": 10,
            "bits": 64 if kind == "count" else 32,
            "inner": {"kind": kind, "round": round, "meta": told | (inner or {})},
        }
        message = np.zeros(0, np.uint8)
        return self.ask(
            "sum", round, usual | meta, **{"message": message, **sent, **(arrays or {})}
        )

    def secure(self, **changes: Any) -> dict[str, Any]:
        """What is told of the vectors."""
        assert self.run._layout is not None
        tensors = len(self.run._layout.shapes)
        usual = {"exponents": [2] * tensors, "metrics": [], "rows": None, "renew": False}
        return usual | changes


def refused(reply: Reply, words: str = "") -> str:
    """Why a client refuses; nothing else may be in its reply."""
    assert reply.error, "it was not refused"
    assert words in reply.error, reply.error
    assert not reply.arrays
    assert reply.meta.keys() <= {"error_type", "lost"}
    rows, said = {str(len(table)) for table in tables().values()}, reply.error
    assert "fingerprint" in said or not rows & set(re.findall(r"\d+", said))
    return reply.error


def accepted(reply: Reply) -> Reply:
    """A client that answers."""
    assert not reply.error, reply.error
    return reply


# --- what is asked for in the clear ---


@pytest.mark.parametrize("kind", ["count", "train", "collect"])
def test_what_sums_hide_is_not_told_in_the_clear(kind: str) -> None:
    server = Server()
    asked = {
        "count": Request("count", meta={"questions": []}),
        "train": server.training(0)[VICTIM],
        "collect": Request("collect", meta={"send": None}),
    }[kind]
    for _ in range(2):
        refused(server.victim.handle(asked), "in the clear for what secure aggregation hides")
    server.play(server.training(0))
    refused(server.victim.handle(asked), "in the clear")


@pytest.mark.parametrize("send", [[], (), "", {}, None, ["generator"], [[]]])
def test_training_that_sends_nothing_is_no_way_to_give_clients_different_models(send: Any) -> None:
    server = Server()
    asked = server.training(0)[VICTIM]
    refused(server.victim.handle(replace(asked, meta={**asked.meta, "send": send})), "clear")


def test_a_client_that_insists_tells_a_plain_server_its_schema_and_no_more() -> None:
    plan = Plan(config=QUICK, n_rounds=1, seed=7, min_clients=3)
    shards = {name: Shard(name, table) for name, table in tables().items()}
    network = Lossy(secured(shards, required=True))
    with pytest.raises(FederationError, match="insists on secure aggregation"):
        Federation(plan, network).run()
    assert {request.kind for _, request in network.asked} == {"describe", "labels"}
    for reply in network.heard:
        assert reply.error or reply.meta.keys() == {"schema"}
        assert not reply.arrays
    for kind in ("count", "prepare", "train", "collect", "checkpoint", "restore", "finish"):
        refused(network.shards["a"].handle(Request(kind)), "insists on secure aggregation")


def test_rows_and_losses_are_in_no_reply() -> None:
    server = Server()
    told = accepted(server.victim.handle(server.asked("prepare")))
    assert told.meta.keys() == {"rows", "parameters"}
    assert told.meta["rows"] is None
    server.play(server.training(0))
    assert not any(reply.meta for reply in server.network.heard)


# --- the same again, over other clients ---


def test_a_round_is_summed_once() -> None:
    server = Server()
    server.play(server.training(0))
    for cohort in (NAMES, ("a", "b", "d")):
        with pytest.raises(FederationError) as raised:
            server.play(server.training(0, cohort))
        asked = [server.victim, *map(server.network.shards.get, "ab")]
        assert all(asked)
        assert "a second time for round 1" in str(raised.value)
    assert server.play(server.training(1, ("a", "b", "d"))).survivors == ("a", "b", "d")


REPEATS: dict[str, Any] = {
    "what was trained, again": ("collect", 0, {}, None),
    "the same in another round": ("collect", 7, {}, None),
    "a part of it": ("collect", 0, {"send": ["generator"]}, None),
    "a round without new parameters": ("train", 1, {"receive": []}, {}),
    "one with nothing new in them": ("train", 1, {"receive": None}, {}),
    "one with parameters of no part": ("train", 1, {"receive": ["none"]}, {"vector": ()}),
    "one with those of every part": ("train", 1, {"receive": ["*"]}, {"vector": ()}),
    "parts that are letters": ("train", 1, {"receive": [], "send": "generator"}, {}),
    "training without training": ("train", 1, {"epochs": 0}, None),
}


@pytest.mark.parametrize("how", REPEATS)
def test_what_was_trained_is_summed_once(how: str) -> None:
    """The sums would differ in their clients alone, and their difference is a client's update."""
    kind, round, inner, sent = REPEATS[how]
    server = Server()
    server.play(server.training(0))
    if sent is not None:
        real = server.training(1)[VICTIM]
        arrays = {name: np.array(value, np.float32) for name, value in sent.items()}
        server.training = lambda *_: {VICTIM: replace(real, arrays=arrays)}  # type: ignore[method-assign]
    reply = server.begin(kind, round, cohort=("a", "b", "d"), inner=inner)
    said = refused(reply)
    assert any(
        words in said for words in ("a second time", "parts of a model", "changes nothing")
    ), said


def test_parts_of_a_model_are_summed_once_each() -> None:
    server = Server(synchronize="discriminator")
    server.play(server.training(0))
    meta = {"send": ["discriminator"], "secure": server.secure()}
    refused(server.begin("collect", inner=meta), "a second time")
    refused(server.begin("collect", inner=meta | {"send": None}), "a second time")
    accepted(server.begin("collect", inner=meta | {"send": ["generator"]}))
    for send in ("generator", {"generator": 1}, ["*"]):  # what could be taken for other parts
        refused(server.begin("train", 1, inner={"send": send}), "parts of a model")


def test_statistics_are_of_all_clients_or_of_none() -> None:
    server = Server(("count", 0))
    for cohort in itertools.combinations(NAMES, 3):
        words = "not in the sum" if VICTIM not in cohort else "some of the clients only"
        refused(server.begin("count", cohort=cohort), words)
        refused(server.begin("count", cohort=cohort, bits=32), words)


def test_labels_are_united_over_all_clients_or_none() -> None:
    server = Server(("label_count", 0))
    asked = server.asked("labels")
    assert accepted(server.victim.handle(asked)).meta["labels"] == {}
    for kind in LABEL_SUMS:
        words = "some of the clients only"
        refused(server.begin(kind, cohort=("a", "b", "d"), inner={}), words)
        refused(server.ask(kind, meta={"salt": "00" * 16, "room": 8}), "in the clear")


def hello(server: Server, session: str | None = None, scheme: str = "masking") -> Reply:
    meta = {"scheme": scheme, "session": session or server.session}
    return server.ask("secure", meta=meta)


def meet(server: Server, names: Sequence[str] = NAMES, **other: str) -> Reply:
    keys = {name: server.keys[name] for name in names}
    return server.ask("roster", meta={"keys": keys | other})


def set_up(server: Server) -> None:
    for kind in ("labels", "prepare"):
        accepted(server.victim.handle(server.asked(kind)))


def test_statistics_are_of_the_same_clients_for_good() -> None:
    """Neither another roster nor another session makes a second set of them."""
    server = Server()
    refused(meet(server, ("a", "b", "d")), "other clients than those")
    accepted(meet(server))
    accepted(hello(server, "0123"))
    refused(meet(server, ("a", "b", "d")), "other clients than those")
    refused(server.begin("count"), "before the keys")
    accepted(meet(server))
    accepted(server.victim.handle(server.asked("labels")))
    accepted(server.begin("count"))  # all of them may count once more


def test_a_server_that_begins_anew_finds_the_clients_as_they_were() -> None:
    server = Server()
    server.play(server.training(0))
    number = int(server.asked("sum").meta["number"])
    for _ in range(2):
        accepted(hello(server))
        accepted(meet(server))
        refused(server.begin("train", 1), "before all clients were told the same")
        set_up(server)
        refused(server.begin("train", 0, cohort=("a", "b", "d")), "a second time for round 1")
        refused(server.begin("collect", 0), "a second time")
        refused(server.begin("train", 1, number=number), "begun before")
    for session in ("0123", "00"):
        refused(hello(server, session), "taken part in another session")
    refused(hello(server, scheme="none"), "unknown secure aggregation")
    accepted(server.begin("train", 1))


def test_a_client_that_was_started_again_remembers(tmp_path: Path) -> None:
    options = {VICTIM: {"folder": tmp_path}}
    server = Server(options=options)
    server.play(server.training(0))

    def started_again() -> None:
        shard = Shard(VICTIM, tables()[VICTIM])
        server.victim = secured(dict.fromkeys(NAMES, shard), folder=tmp_path)[VICTIM]

    started_again()
    accepted(hello(server))
    refused(meet(server, ("a", "b", "d")), "other clients than those")
    accepted(meet(server))
    set_up(server)
    refused(server.begin("train", 0), "a second time for round 1")
    refused(server.begin("collect", 5), "a second time")
    accepted(server.begin("train", 1))
    for text in ("", "{}", "[1]", json.dumps({"session": server.session, "revealed": 3})):
        (tmp_path / MEMORY).write_text(text, encoding="utf-8")
        started_again()
        refused(hello(server), "is damaged")


def test_a_number_is_used_once_and_steps_come_in_order() -> None:
    server = Server()
    first = accepted(server.begin(number=50))
    assert accepted(server.begin(number=50)) is first  # a server that has not heard it
    refused(server.begin(number=50, length=11), "begun before")
    refused(server.begin(number=49), "begun before")
    accepted(server.begin(number=51))
    message = np.zeros(4, np.uint8)
    for step in (2, 3, 4, 5, -1, 10**20):
        accepted(server.begin())
        number = next(server.numbers) - 1
        refused(server.ask("sum", meta={"number": number, "step": step}, message=message), "order")
    refused(server.ask("sum", meta={"number": number, "step": 1}, message=message), "it was away")
    refused(server.ask("sum", meta={"number": 51, "step": 1}, message=message), "it was away")


# --- who takes part ---


@pytest.mark.parametrize(
    ("cohort", "words"),
    [
        (("d",), "at least 3 clients"),
        (("a", "d"), "at least 3 clients"),
        (("a", "d", "z"), "'z'"),
        (("a", "b", "c"), "not in the sum"),
        (("a", "d", "d"), "makes no sense"),
        (("d", "b", "a"), "makes no sense"),
        ((), "at least 3 clients"),
    ],
)
def test_a_sum_is_of_three_clients_that_are_known(cohort: tuple[str, ...], words: str) -> None:
    server = Server()
    for kind in ("train", "count"):
        refused(server.begin(kind, cohort=cohort), words)


def test_keys_are_those_that_the_clients_know() -> None:
    server = Server(("count", 0))
    other = key_text(Identity.generate().public)
    said = refused(meet(server, b=other), "another key than the roster has")
    assert "'b'" in said
    refused(meet(server, d=other), "another key of client 'd'")
    refused(meet(server, ("a", "b", "c")), "another key of client 'd'")
    refused(meet(server, z=other), "'z'")
    refused(meet(server, b=server.keys["a"]), "the same key")
    refused(meet(server, b="rsa:AAAA"))
    # After all that it still knows whom it knew, or nobody.
    refused(server.begin("count", cohort=("a", "b", "c", "d", "z")))


def test_nothing_is_summed_before_keys_are_known() -> None:
    shards = secured({name: Shard(name, table) for name, table in tables().items()})
    shard = shards[VICTIM]
    message = {"message": np.zeros(0, np.uint8)}
    meta = {"number": 0, "step": 0, "cohort": list(NAMES), "length": 1, "bits": 64, "inner": None}
    refused(shard.handle(Request("sum", meta=meta, arrays=message)), "before the keys")
    keys = {name: key_text(IDENTITIES[name].public) for name in NAMES}
    refused(shard.handle(Request("roster", meta={"keys": keys | {"d": keys["a"]}})))
    accepted(shard.handle(Request("secure", meta={"scheme": "masking", "session": "ab"})))
    refused(shard.handle(Request("sum", meta=meta, arrays=message)), "before the keys")


def test_whoever_trusts_nobody_or_insists_on_another_scheme_does_not_begin() -> None:
    shard, roster = Shard("a", tables()["a"]), Roster({"a": IDENTITIES["a"].public})
    asked = Request("secure", meta={"scheme": "masking", "session": "ab"})
    said = refused(SecureShard(shard, identity=IDENTITIES["a"]).handle(asked), "--roster")
    assert "--trust-on-first-use" in said
    other = SecureShard(shard, trust=Trust(roster), required="paillier")
    refused(other.handle(asked), "insists on another scheme")


# --- one client is told another story ---


def to_one(server: Server, victim: str, step: int, **inner: Any) -> None:
    """Change what one client is asked in the first step of a sum."""

    def change(client: str, request: Request) -> Request:
        if client != victim or request.kind != "sum" or request.meta["step"] != step:
            return request
        arrays = dict(request.arrays) | inner.get("arrays", {})
        told = request.meta["inner"]
        told = {**told, "meta": {**told["meta"], **inner.get("meta", {})}}
        return replace(request, meta={**request.meta, "inner": told}, arrays=arrays)

    server.network.change = change


STORIES: dict[str, Any] = {
    "model": lambda server: {"arrays": {"vector": server.training(0)["a"].arrays["vector"] + 1}},
    "plan": lambda _: {"meta": {"learning_rate_scale": 0.5}},
    "epochs": lambda _: {"meta": {"epochs": 2}},
    "clips": lambda server: {"meta": {"secure": server.secure(exponents=[1] * 50)}},
    "rows": lambda server: {"meta": {"secure": server.secure(rows=10**6)}},
}


@pytest.mark.parametrize("what", STORIES)
def test_whoever_is_told_another_story_is_in_no_sum(what: str) -> None:
    server = Server()
    to_one(server, VICTIM, 0, **STORIES[what](server))
    combined = server.play(server.training(0))
    assert combined.survivors == ("a", "b", "c")
    assert "did not sign its keys for this sum" in combined.failed[VICTIM]
    assert {len(r.arrays["message"]) for r in server.network.heard if r.client_id == VICTIM} == {
        masking.ADVERT
    }


def test_nor_does_it_believe_the_others_then() -> None:
    """A server that is in the know passes on what the others said for another model."""
    server = Server()
    others = {
        name: accepted(server.network.shards[name].handle(request))
        for name, request in _first_steps(server).items()
    }
    own = server.training(0)[VICTIM].arrays["vector"] + 1
    accepted(server.begin(number=500, arrays={"vector": own}))
    mine = accepted(server.begin(number=500, arrays={"vector": own})).arrays["message"]
    adverts = [*(others[name].arrays["message"] for name in "abc"), mine]
    message = np.concatenate([np.ones(4, np.uint8), *adverts])
    said = refused(server.ask("sum", meta={"number": 500, "step": 1}, message=message))
    assert "client 'a' did not sign its keys for this sum" in said


def _first_steps(server: Server) -> dict[str, Request]:
    """The first step of sum 500 for the others, with the model that all should have."""
    asked = server.training(0)
    meta = {
        "number": 500,
        "step": 0,
        "cohort": list(NAMES),
        "length": 10,
        "bits": 32,
        "inner": {
            "kind": "train",
            "round": 0,
            "meta": {**asked["a"].meta, "secure": server.secure()},
        },
    }
    message = {"message": np.zeros(0, np.uint8)}
    return {name: Request("sum", 0, meta, {**message, **asked[name].arrays}) for name in NAMES[:3]}


def test_another_question_to_one_client_is_no_question() -> None:
    server = Server(("count", 0))
    sums = server.run._sums
    assert sums is not None
    real = next(r for _, r in server.network.asked if step_of(r) == ("count", 0, 0))
    told = real.meta["inner"]["meta"]
    one = {"questions": [*told["questions"][:1], *told["questions"]][: len(told["questions"])]}
    to_one(server, VICTIM, 0, meta=one)
    with pytest.raises(FederationError, match="too few clients") as raised:
        sums.counts(Request("count", meta=told), int(real.meta["length"]) - 1)
    assert "'d': did not sign its keys for this sum" in str(raised.value)
    sent = [r.arrays["message"] for r in server.network.heard if r.client_id == VICTIM]
    assert {len(each) for each in sent} == {masking.ADVERT}


def test_another_encoder_for_one_client_is_none() -> None:
    server = Server()
    meta = dict(server.asked("prepare").meta)
    accepted(server.ask("prepare", meta={**meta, "seed": 8}))
    combined = server.play(server.training(0))
    assert combined.survivors == ("a", "b", "c")


def test_a_critic_that_is_not_sent_is_everybodys_too() -> None:
    """With a critic that teaches nothing for all clients but one, a sum is that one's update."""
    server = Server(synchronize="generator")
    layout = server.run._layout
    assert layout is not None
    vector = server.training(0)["a"].arrays["vector"].copy()
    vector[layout.parts["discriminator"]] = 0
    to_one(server, VICTIM, 0, arrays={"vector": vector})
    combined = server.play(server.training(0))
    assert combined.survivors == ("a", "b", "c")
    assert "did not sign its keys for this sum" in combined.failed[VICTIM]


def test_what_failed_is_not_agreed_on() -> None:
    """One client has another encoder, and all of them are told the same that they cannot use."""
    server = Server()
    prepare = server.asked("prepare")
    accepted(server.ask("prepare", meta={**prepare.meta, "seed": 8}))
    refused(server.ask("prepare", meta={**prepare.meta, "method": "none"}))
    refused(server.begin(), "before all clients were told the same")
    refused(server.begin("collect"), "before all clients were told the same")
    accepted(server.victim.handle(prepare))
    accepted(server.begin())


def test_nothing_is_summed_of_a_model_that_one_client_was_given() -> None:
    server = Server(synchronize="generator")
    layout = server.run._layout
    assert layout is not None
    vector = server.training(0)[VICTIM].arrays["vector"]
    accepted(server.ask("finish", meta={"privacy": None}, vector=vector * 2))
    part = {"vector": vector[layout.parts["generator"]]}
    refused(server.begin(inner={"receive": ["generator"]}, arrays=part), "a second time")
    refused(server.begin("collect"), "a second time")
    accepted(server.begin())  # all of it is replaced


def moved(server: Server) -> dict[str, float]:
    """How much each client's training has changed its parameters."""
    distances = {}
    for name, client in server.network.shards.items():
        snapshot = client.shard.snapshot()
        distances[name] = float((snapshot["vector"] - snapshot["known"]).norm())
    return distances


@pytest.mark.parametrize("others_are_summed", [False, True])
def test_what_a_client_was_told_before_makes_no_difference_to_a_sum(
    others_are_summed: bool,
) -> None:
    """Moments without end would hold all clients still but one, whose update the sum then is."""
    server = Server()
    spoilt = {"proximal_mu": 1e30, "epochs": 3}
    asked = {n: replace(r, meta={**r.meta, **spoilt}) for n, r in server.training(0).items()}
    last = masking.UPLOAD + (3 if others_are_summed else 1)
    server.network.silent = lambda name, request: (
        name == VICTIM or request.meta["step"] == last  # a server that goes no further
    )
    if others_are_summed:
        assert VICTIM not in server.play(asked).survivors
    else:
        with pytest.raises(FederationError, match="too few"):
            server.play(asked)
    server.network.silent = lambda *_: False
    again = {
        name: replace(r, meta={**r.meta, "epochs": 3}) for name, r in server.training(1).items()
    }
    assert server.play(again).survivors == NAMES
    distances = moved(server)
    assert min(distances.values()) > 0.5 * distances[VICTIM]


def test_a_client_may_want_more_others() -> None:
    server = Server(options={VICTIM: {"fewest": 4}})
    refused(
        server.begin(cohort=("a", "b", VICTIM)), "over more clients only; got 3, and it wants 4"
    )
    assert "more clients only" not in str(server.begin().error)


def test_nor_does_a_server_that_hides_what_it_told_them() -> None:
    """It says that nobody has to begin anew: then the victim is in no sum with the others."""
    server = Server()
    server.network.silent = lambda name, _: name == VICTIM
    server.play(server.training(0))
    server.network.silent = lambda *_: False
    sums = server.run._sums
    assert sums is not None
    sums._pasts[VICTIM] = sums._pasts["a"]
    combined = server.play(server.training(1))
    assert combined.survivors == tuple("abc")
    assert "did not sign its keys" in combined.failed[VICTIM]
    assert server.play(server.training(2)).survivors == NAMES  # all of them, with new optimisers


@pytest.mark.parametrize(
    ("kind", "inner", "sent"),
    [
        ("collect", {}, {}),
        ("train", {"receive": ["generator"]}, {}),
        ("train", {"receive": []}, {}),
        ("train", {}, {"control": np.zeros(1, np.float32)}),
    ],
)
def test_a_change_begins_at_what_all_received(kind: str, inner: Any, sent: Any) -> None:
    server = Server()
    refused(server.begin(kind, inner=inner, arrays=sent), "from what not all received")
    accepted(server.begin())


@pytest.mark.parametrize("choices", [{"synchronize": "generator"}, {"aggregation": "scaffold"}])
def test_what_clients_keep_is_not_for_servers_elsewhere(choices: dict[str, Any]) -> None:
    server = Server(**choices)
    prepare = server.asked("prepare")
    server.victim._may_be_stateful = False
    refused(server.victim.handle(prepare), "of their own, which a server could spoil")
    refused(server.begin(), "before all clients were told the same")
    accepted(server.ask("prepare", meta={**prepare.meta, "stateful": False}))
    inner = {"receive": ["generator"]}
    refused(server.begin(inner=inner), "from what not all received")


def test_epochs_stay_those_of_the_first_round() -> None:
    """Round 2 of 3 epochs and round 3 of 2 would begin with the same two."""
    server = Server()
    server.play(server.training(0))
    refused(server.begin("train", 1, inner={"epochs": 3}), "other epochs")
    accepted(server.begin("train", 1))


def test_a_client_diverges_once() -> None:
    """Of models made up for it, whether each diverges would tell of the rows one by one."""
    server = Server()
    assert server.run.state is not None
    before = server.run.state.vector.clone()
    server.run.state.vector.fill_(1e30)
    with pytest.raises(FederationError, match="diverged"):
        server.play(server.training(0))
    server.run.state.vector.copy_(before)
    refused(server.begin("train", 1, number=10**6), "after this client's training diverged")


def test_the_same_bytes_of_another_type_are_another_story() -> None:
    server = Server(aggregation="scaffold")
    server.play(server.training(0))
    assert server.run.state is not None
    server.run.state.slots["control"] += 1e-3
    control = server.training(1)[VICTIM].arrays["control"].view(np.int32)
    to_one(server, VICTIM, 0, arrays={"control": control})
    assert server.play(server.training(1)).survivors == ("a", "b", "c")


def test_rows_are_held_against_one_schema() -> None:
    """What does not fit is counted in an error, and the server would choose what is counted."""
    server = Server(("count", 0))
    asked = server.asked("labels")
    column, *others = asked.meta["schema"]["columns"]
    stated = {"columns": [{**column, "categories": ["none"]}, *others]}
    for _ in range(2):
        refused(server.ask("labels", meta={**asked.meta, "schema": stated}), "second schema")
        accepted(hello(server, "0123"))
    accepted(server.victim.handle(asked))


def test_training_builds_on_the_last_schema() -> None:
    server = Server()
    accepted(server.victim.handle(server.asked("labels")))
    refused(server.begin(), "before all clients were told the same")
    accepted(server.victim.handle(server.asked("prepare")))
    accepted(server.begin())


def test_the_value_of_a_constant_is_not_told() -> None:
    table = pd.DataFrame({"age": [1.5, 2.0, 2.5], "ill": ["yes"] * 3, "left": [None] * 3})
    request = Request("describe", meta={"discrete_columns": []})
    client = secured({"a": Shard("a", table)}, required=True)["a"]
    before = accepted(client.handle(request)).meta
    accepted(client.handle(Request("secure", meta={"scheme": "masking", "session": "ab"})))
    assert before == accepted(client.handle(request)).meta
    age, ill, left = before["schema"]["columns"]
    assert (age["decimals"], ill["kind"], left["kind"]) == (1, "categorical", "constant")
    assert "yes" not in json.dumps(before)


# --- what does not fit ---


def own_sum(server: Server, secure: Mapping[str, Any], round: int = 0, **meta: Any) -> Reply:
    """What the victim answers when it is to send its vector, in a sum that all agree on."""
    number = next(server.numbers)
    asked = server.training(round)
    length = sum(int(np.prod(s)) for s in server.run._layout.shapes.values())  # type: ignore[union-attr]
    length += len(server.run._layout.shapes) + 1  # type: ignore[union-attr]
    told = {
        "number": number,
        "step": 0,
        "cohort": list(NAMES),
        "length": length,
        "bits": 32,
        **meta,
        "inner": {
            "kind": "train",
            "round": round,
            "meta": {**asked["a"].meta, "secure": server.secure(**{"renew": True, **secure})},
        },
    }
    clients = server.network.shards
    messages: Mapping[str, Any] = dict.fromkeys(NAMES, np.zeros(0, np.uint8))
    adverts = {}
    for name in NAMES:
        arrays = {"message": messages[name], **asked[name].arrays}
        adverts[name] = accepted(clients[name].handle(Request("sum", round, told, arrays)))
    everybody = np.ones(4, np.uint8)
    packed = np.concatenate([everybody, *(adverts[name].arrays["message"] for name in NAMES)])
    shares = {}
    for name in NAMES:
        request = Request("sum", round, {"number": number, "step": 1}, {"message": packed})
        shares[name] = accepted(clients[name].handle(request)).arrays["message"]
    rows = []
    for name in NAMES[:3]:
        at = [other for other in NAMES if other != name].index(VICTIM)
        start = masking.COMMITMENT + masking.SEALED * at
        rows.append(shares[name][start : start + masking.SEALED])
    inbox = np.concatenate([np.array([1, 1, 1, 0], np.uint8), *rows])
    return server.ask("sum", round, {"number": number, "step": 2}, message=inbox)


def test_the_sum_that_all_agree_on_is_sent() -> None:
    assert len(accepted(own_sum(Server(), {})).arrays["message"]) > 1000


@pytest.mark.parametrize(
    ("secure", "meta", "words"),
    [
        ({}, {"length": 10}, "not as long as the server says"),
        ({}, {"bits": 24}, ""),
        ({}, {"bits": 64}, "makes no sense"),
        ({"exponents": []}, {}, "another update"),
        ({"exponents": [2]}, {}, "another update"),
        ({"exponents": [13] * 50}, {}, "makes no sense"),
        ({"exponents": [-25] * 50}, {}, "makes no sense"),
        ({"exponents": "many"}, {}, "unexpected"),
        ({"exponents": [2.5e300] * 50}, {}, "makes no sense"),
        ({"metrics": ["a"]}, {}, "not as long as the server says"),
        ({"metrics": 3}, {}, "unexpected"),
        ({"rows": 3}, {}, "fewer rows than this one"),
        ({"rows": -1}, {}, "fewer rows than this one"),
        ({"rows": "all"}, {}, "unexpected"),
    ],
)
def test_what_does_not_fit_is_not_sent(
    secure: dict[str, Any], meta: dict[str, Any], words: str
) -> None:
    server = Server()
    assert server.run._layout is not None
    tensors = len(server.run._layout.shapes)
    if isinstance(each := secure.get("exponents"), list) and len(each) > 1:
        secure = {"exponents": each[:1] * tensors}
    reply = own_sum(server, secure, **meta)
    if meta == {"bits": 24}:  # fewer bits hide it just as well
        assert len(accepted(reply).arrays["message"]) % 3 == 0
        return
    refused(reply, words)
    # Nor can what was refused be had in the steps that follow.
    number = next(server.numbers) - 1
    for step in (2, 3, 4):
        message = np.ones(4, np.uint8)
        refused(server.ask("sum", meta={"number": number, "step": step}, message=message))


def test_rows_cannot_be_guessed_again_and_again() -> None:
    """Whether a client refuses a number of rows tells of its own, so it hears one number only."""
    server = Server(aggregation="weighted")
    total = sum(map(len, tables().values()))
    accepted(own_sum(server, {"rows": total}))
    for round, guess in enumerate((total - 1, 60, 61, 10**6), start=1):
        refused(own_sum(server, {"rows": guess}, round), "another number of all clients' rows")
    accepted(own_sum(server, {"rows": total}, 6))
    accepted(own_sum(server, {}, 7))


@settings(max_examples=60)
@given(data=st.data())
def test_nonsense_is_answered_by_an_error(data: st.DataObject) -> None:
    """Whatever else a server says, in whatever step: an error, and no array."""
    server = _kept()
    values = st.one_of(
        st.none(), st.integers(-3, 5), st.text(max_size=3), st.lists(st.integers(), max_size=2)
    )
    kind = data.draw(st.sampled_from(["sum", "secure", "roster", "count", "train", "collect"]))
    names = ("number", "step", "cohort", "length", "bits", "inner", "keys", "scheme", "send")
    meta = data.draw(st.dictionaries(st.sampled_from(names), values))
    message = np.array(data.draw(st.lists(st.integers(0, 255), max_size=9)), np.uint8)
    said = refused(server.ask(kind, meta=meta, message=message))
    assert not any(word in said for word in ("Traceback", "array("))


@cache
def _kept() -> Server:
    return Server()


@pytest.mark.parametrize("step", range(5))
def test_garbage_in_place_of_what_the_others_said(step: int) -> None:
    server = Server()
    rng = np.random.default_rng(step)

    def change(client: str, request: Request) -> Request:
        if client != VICTIM or request.kind != "sum" or request.meta["step"] != step:
            return request
        message = request.arrays["message"]
        garbage: npt.NDArray[np.uint8] = rng.integers(0, 256, max(len(message), 1), np.uint8)
        return replace(request, arrays={**request.arrays, "message": garbage})

    server.network.change = change
    combined = server.play(server.training(0))
    if step == 0:  # in which nothing is said to them
        assert combined.survivors == NAMES
        return
    said = [reply for reply in server.network.heard if reply.client_id == VICTIM]
    refused(said[-1])
    assert combined.survivors == (NAMES if step > masking.UPLOAD else NAMES[:3])
