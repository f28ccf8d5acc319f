"""A client that has a token and answers with anything but the truth."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import genesis
from genesis.errors import FederationError, GenesisError, SchemaError, TrainingError
from genesis.federated import FederatedClient
from genesis.federated.messages import ClientInfo, Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from genesis.federated.transport.body import (
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from genesis.federated.transport.http.protocol import SESSION, TASK, VERSION
from genesis.federated.transport.http.transport import HttpTransport
from genesis.synthesizer import Synthesizer
from tests.federated.http.processes import TOKEN, in_thread, serve

EVE = "adversary"  # the first by name: what it says of columns and metrics is read first
NAMES = (EVE, "north", "south")
ROWS = 40
Lie = Callable[[Request, Reply], Reply | bytes | None]


def table(seed: int) -> pd.DataFrame:
    """Columns of every kind."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.normal(size=ROWS).round(2),
            "number": rng.integers(0, 9, ROWS) * 7,
            "letter": rng.choice(["a", "b", "c"], ROWS),
            "yes": rng.random(ROWS) < 0.5,
            "day": rng.choice(["2024-01-15", "2024-02-20", "2025-03-25"], ROWS),
            "empty": [None] * ROWS if seed != 1 else rng.choice(["x", "y"], ROWS),
        }
    )


TABLES = {name: table(seed) for seed, name in enumerate(NAMES)}
PLAN: dict[str, Any] = {
    "method": "tvae",
    "config": {"compress_dims": (4,), "decompress_dims": (4,), "embedding_dim": 4},
    "local_epochs": 1,
    "batch_size": 20,
    "min_clients": 2,
    "discrete_columns": ("number",),
    "seed": 3,
}


class Wire:
    """Clients in this process, whose messages become bytes on their way as over a network.

    Args:
        lie: What the adversary answers, given the request and the truth; None for nothing.
    """

    def __init__(self, lie: Lie) -> None:
        self.lie = lie
        self.shards = {name: Shard(name, rows, device="cpu") for name, rows in TABLES.items()}

    def clients(self) -> Sequence[ClientInfo]:
        return [ClientInfo(name) for name in NAMES]

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        for name in sorted(requests):
            request = decode_request(encode_request(requests[name]))
            answer: Reply | bytes | None = self.shards[name].handle(request)
            if name == EVE:
                assert isinstance(answer, Reply)
                answer = self.lie(request, answer)
            body = encode_reply(answer) if isinstance(answer, Reply) else answer
            if body is not None:
                try:
                    yield decode_reply(body, name, requests[name].expects)
                except FederationError:
                    continue  # it was refused, and nothing else came


def play(lie: Lie, **choices: Any) -> Federation:
    """A whole run, and rows of its model."""
    federation = Federation(Plan(**PLAN | {"n_rounds": 2} | choices), Wire(lie))
    federation.run()
    assert federation.encoder is not None
    assert federation.state is not None
    model = Synthesizer.of_parameters(
        "tvae",
        federation.plan.model_config,
        federation.encoder,
        federation.state.vector,
        seed=0,
        device="cpu",
    )
    assert len(model.generate(20)) == 20
    return federation


def instead(kind: str, answer: Any) -> Lie:
    """The truth, but for one kind of request."""

    def lie(request: Request, truth: Reply) -> Any:
        if request.kind != kind:
            return truth
        return answer(truth) if callable(answer) else answer

    return lie


def failing(kind: str) -> Lie:
    """An honest failure."""
    return instead(kind, Reply(EVE, {"error_type": "DataError"}, error="no disk"))


def vector_of(federation: Federation) -> bytes:
    assert federation.state is not None
    return federation.state.vector.numpy().tobytes()


# --- what a lie may be ---

texts = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ["\x1b[2J\x1b]0;owned\x07", "\ud800", "a\r\nb", "\u202e", "__proto__", "x" * 5000, "NaN", "1"]
)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**400), 2**63, 2**53, 2**48, -1, 0, 1e308, 5e-324, True, False])
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
DTYPES = ["int64", "uint8", "float32", "bool", "object", "category", "Int8", "boolean", "string"]
DTYPES += [
    "datetime64[ns]",
    "datetime64[ns, Mars/Phobos]",
    "complex128",
    "period[D]",
    "f4,f4",
    "V9",
]
DTYPES += ["timedelta64[ns]", "decimal128(7,3)[pyarrow]", "Sparse[int]", "interval[int64, right]"]
KINDS = ["numeric", "categorical", "boolean", "datetime", "id", "constant"]
COLUMN: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["amount", "letter", "day", "more", "\x1b[31m"]),
    "kind": st.sampled_from(KINDS),
    "dtype": st.sampled_from(DTYPES),
    "decimals": st.sampled_from([-1, 0, 8, 22, 23, 400, 10**30]),
    "format": st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%", "", "9" * 10**6, "\\", "uuid", "%Q"]),
    "ambiguous": st.booleans(),
    "unit": st.sampled_from(["D", "s", "us", "Y", "25s", "generic", ""]),
    "nulls": st.booleans(),
    "categories": st.lists(numbers | texts, max_size=3),
    "value": numbers | texts,
    "of": st.sampled_from(KINDS),
    "lower": numbers | st.sampled_from(["2024-01-01", "NaT", "99999999-01-01", ""]),
    "upper": numbers | st.sampled_from(["2024-01-01", "NaT", "99999999-01-01", ""]),
}


@st.composite
def mutated(draw: st.DrawFn, truth: Any) -> Any:
    """JSON values with a few places changed, whatever they were."""
    changed = copy.deepcopy(truth)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = changed
        for _ in range(draw(st.integers(0, 4))):
            inner = place.values() if isinstance(place, dict) else place
            containers = [each for each in inner if isinstance(each, dict | list)]
            if not containers:
                break
            place = draw(st.sampled_from(containers))
        if isinstance(place, dict):
            key = draw(st.sampled_from([*place, *COLUMN]) | texts)
            if key in place and draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = draw(COLUMN.get(key, anything) | anything)
        elif place and draw(st.booleans()):
            place[draw(st.integers(0, len(place) - 1))] = draw(anything)
        else:
            place.append(draw(anything))
    return changed


def lies(truth: Reply, data: st.DataObject) -> Reply:
    """Some other answer: a few places changed, or all of it."""
    meta = data.draw(mutated(dict(truth.meta)) | st.dictionaries(texts, anything, max_size=3))
    error = data.draw(st.none() | st.none() | st.none() | texts)
    return Reply(EVE, meta, {} if error else truth.arrays, error)


def survives(lie: Lie) -> None:
    """The run ends well, or with an error that is one line and does nothing on a terminal."""
    told = "the run completes"
    try:
        play(lie)
    except GenesisError as error:
        told = str(error)
        event(type(error).__name__)
    else:
        event(told)
    assert told.isprintable()
    assert len(told) < 3000


few = settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)


# --- before the rounds, where all must agree ---


@pytest.mark.parametrize("kind", ["describe", "labels", "prepare"])
def test_whatever_is_said_before_the_rounds(kind: str) -> None:
    @few
    @given(st.data())
    def check(data: st.DataObject) -> None:
        survives(instead(kind, lambda truth: lies(truth, data)))

    check()


@few
@given(st.data())
def test_any_schema(data: st.DataObject) -> None:
    """Also one that the others can live with, and that nothing is wrong with at first sight."""
    name = data.draw(st.sampled_from(list(TABLES[EVE])))
    said = data.draw(st.fixed_dictionaries({}, optional=COLUMN))

    def lie(request: Request, truth: Reply) -> Reply:
        if request.kind == "describe":
            meta: dict[str, Any] = copy.deepcopy(dict(truth.meta))
            columns = meta["schema"]["columns"]
            place = [column["name"] for column in columns].index(name)
            columns[place] = {**columns[place], **said, "name": name}
            return Reply(EVE, meta)
        return agreeable(request, truth)

    survives(lie)


def agreeable(request: Request, truth: Reply) -> Reply:
    """An answer that fits what is asked, from a client whose own rows may not fit any more."""
    if not truth.error:
        return truth
    if request.kind == "labels":
        return Reply(EVE, {"labels": {}})
    (dtype, size) = next(iter(request.expects.values()), ("int64", 0))
    arrays = {name: np.zeros(size, dtype) for name in request.expects}
    return Reply(EVE, truth.meta, arrays, None if request.kind == "count" else truth.error)


counts = st.sampled_from([0, 1, 5, 1000, 2**47, 2**48, 2**53, 2**62, 2**63 - 1, -1, -(2**63)])


@few
@given(st.data())
def test_whatever_is_counted(data: st.DataObject) -> None:
    """Counts that no table has are refused; that others contradict each other is no matter."""

    def lie(truth: Reply) -> Reply:
        found = truth.arrays["counts"].copy()
        match data.draw(st.sampled_from(["some", "all", "none", "shuffled", "wide"])):
            case "some":
                for place in data.draw(st.lists(st.integers(0, len(found) - 1), max_size=5)):
                    found[place] = data.draw(counts)
            case "all":
                found[:] = data.draw(counts)
            case "none":
                found[:] = 0
            case "shuffled":
                np.random.default_rng(0).shuffle(found)
            case "wide":
                found[1:-1] = 1000
        return Reply(EVE, {}, {"counts": found})

    survives(instead("count", lie))


BEFORE: dict[str, tuple[str, Any]] = {
    "no schema": ("describe", Reply(EVE)),
    "keys of a million letters": (
        "describe",
        Reply(EVE, {"schema": {"columns": [{"name": EVE, "kind": "id", "format": "9" * 10**6}]}}),
    ),
    "a schema of nothing": ("describe", Reply(EVE, {"schema": {"columns": []}})),
    "a nested schema": ("describe", Reply(EVE, {"schema": {"schema": {"columns": []}}})),
    "a schema within a schema": ("describe", Reply(EVE, {"schema": {"columns": [[{}], [{}]]}})),
    "columns without end": (
        "describe",
        Reply(EVE, {"schema": {"columns": [{"name": str(i), "kind": "id"} for i in range(9999)]}}),
    ),
    "labels that cannot be hashed": ("labels", Reply(EVE, {"labels": {"letter": [["a"], {}]}})),
    "labels of no column": ("labels", Reply(EVE, {"labels": {"more": ["a"]}})),
    "labels that are a text": ("labels", Reply(EVE, {"labels": {"letter": "abc"}})),
    "labels that are null": ("labels", Reply(EVE, {"labels": {"letter": [None]}})),
    "infinite labels": ("labels", Reply(EVE, {"labels": {"number": [float("inf")]}})),
    "labels too large": ("labels", Reply(EVE, {"labels": {"number": [2**70]}})),
    "endless labels": ("labels", Reply(EVE, {"labels": {"number": [10**400]}})),
    "text among numbers": ("labels", Reply(EVE, {"labels": {"number": ["seven"]}})),
    "no labels at all": ("labels", Reply(EVE, {"labels": None})),
    "no counts": ("count", Reply(EVE)),
    "negative counts": ("count", lambda truth: with_counts(truth, -1)),
    "counts without end": ("count", lambda truth: with_counts(truth, 2**63 - 1)),
    "counts whose sum has no end": ("count", lambda truth: with_counts(truth, 2**47)),
    "negative rows": ("prepare", lambda truth: with_meta(truth, rows=-1)),
    "true rows": ("prepare", lambda truth: with_meta(truth, rows=True)),
    "half a row": ("prepare", lambda truth: with_meta(truth, rows=0.5)),
    "endless rows": ("prepare", lambda truth: with_meta(truth, rows=10**400)),
    "no rows": ("prepare", lambda truth: with_meta(truth, rows=None)),
    "another model": ("prepare", lambda truth: with_meta(truth, parameters="0" * 64)),
    "a model that is a list": ("prepare", lambda truth: with_meta(truth, parameters=[[]])),
}


def with_counts(truth: Reply, count: int) -> Reply:
    return Reply(EVE, {}, {"counts": np.full_like(truth.arrays["counts"], count)})


def with_meta(truth: Reply, **changes: Any) -> Reply:
    return Reply(EVE, {**truth.meta, **changes}, truth.arrays)


@pytest.mark.parametrize(("kind", "answer"), BEFORE.values(), ids=BEFORE)
def test_a_lie_before_the_rounds_ends_the_run_in_words(kind: str, answer: Any) -> None:
    with pytest.raises(GenesisError, match=EVE) as caught:
        play(instead(kind, answer))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["describe", "labels", "count", "prepare"])
@pytest.mark.parametrize("error_type", ["SchemaError", "KeyboardInterrupt", ["DataError"], None])
def test_a_failure_before_the_rounds_is_told_as_text(kind: str, error_type: Any) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\r\nall is well\u202e"
    answer = Reply(EVE, {"error_type": error_type}, error=evil)
    expected = SchemaError if error_type == "SchemaError" else FederationError
    with pytest.raises(expected, match="all is well") as caught:
        play(instead(kind, answer))
    assert str(caught.value) == "client 'adversary': [2J ]0;owned all is well"


def test_names_of_columns_do_nothing_on_a_terminal() -> None:
    column = {"name": "\x1b[31m\ud800\n", "kind": "numeric"}
    for columns in ([column], [{**column, "dtype": 7}]):
        with pytest.raises(SchemaError, match="adversary") as caught:
            play(instead("describe", Reply(EVE, {"schema": {"columns": columns}})))
        assert str(caught.value).isprintable()
        json.dumps(str(caught.value)).encode("utf-8")


# --- in the rounds, which the others play on ---


def vector(size: int, value: float) -> dict[str, Any]:
    return {"vector": np.full(size, value, np.float32)}


def trained(truth: Reply, meta: Any = None, **changes: Any) -> Reply:
    """The truth with other metrics."""
    told = {**truth.meta["metrics"], **changes} if meta is None else meta
    return Reply(EVE, {"rows": 1, "metrics": told}, truth.arrays)


IN_ROUNDS: dict[str, Any] = {
    "nothing": None,
    "no metrics": lambda truth: Reply(EVE, {"rows": 1}, truth.arrays),
    "metrics that are a list": lambda truth: trained(truth, [1, 2]),
    "metrics that are null": lambda truth: Reply(EVE, {"metrics": None}, truth.arrays),
    "metrics of metrics": lambda truth: trained(truth, loss={"loss": 1}),
    "metrics of text": lambda truth: trained(truth, loss="low"),
    "not a number": lambda truth: trained(truth, loss=float("nan")),
    "infinite": lambda truth: trained(truth, loss=float("-inf")),
    "nearly infinite": lambda truth: trained(truth, loss=1.7e308),
    "endless": lambda truth: trained(truth, loss=10**400),
    "names for a terminal": lambda truth: trained(truth, **{"\x1b[2J": 1.0}),
    "names without end": lambda truth: trained(truth, **{"x" * 10**6: 1.0}),
    "an update that is not a number": lambda truth: Reply(
        EVE, truth.meta, vector(len(truth.arrays["vector"]), np.nan)
    ),
    "an infinite update": lambda truth: Reply(
        EVE, truth.meta, vector(len(truth.arrays["vector"]), -np.inf)
    ),
    "an update of another length": lambda truth: Reply(EVE, truth.meta, vector(3, 0.0)),
    "no update": lambda truth: Reply(EVE, truth.meta),
    "a failure": Reply(EVE, {"error_type": "DataError"}, error="no disk"),
    "a failure without a reason": Reply(EVE, error="\x00\x1b"),
    "a failure of an unknown kind": Reply(EVE, {"error_type": {"a": []}}, error="no disk"),
    "a pickle": b"\x80\x04\x95.",
    "nothing but noise": bytes(range(256)),
    "no object": save({"json": np.frombuffer(b"[]", np.uint8)}),
    "a deep one": save({"json": np.frombuffer(b'{"meta":' + b"[" * 99, np.uint8)}),
}


@pytest.fixture(scope="module")
def without() -> bytes:
    """The parameters of a run in which the adversary fails in every round."""
    return vector_of(play(failing("train")))


@pytest.mark.parametrize("answer", IN_ROUNDS.values(), ids=IN_ROUNDS)
def test_a_lie_in_the_rounds_leaves_the_others_the_run(answer: Any, without: bytes) -> None:
    federation = play(instead("train", answer))
    assert vector_of(federation) == without
    for report in federation.reports:
        assert report.clients == ("north", "south")
        assert [*report.failed, *report.dropped] == [EVE]
        assert all(reason.isprintable() for reason in report.failed.values())
        json.dumps(report.to_dict(), allow_nan=False).encode("utf-8")


def test_whatever_is_told_of_training() -> None:
    """Another lie in every round; where one passes for the truth, its numbers are averaged."""

    @settings(few, max_examples=8)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        federation = play(instead("train", lambda truth: lies(truth, data)), n_rounds=10)
        for report in federation.reports:
            assert {"north", "south"} <= set(report.clients)
            json.dumps(report.to_dict(), allow_nan=False).encode("utf-8")
        event(f"{sum(EVE in report.clients for report in federation.reports)} lies of 10 pass")

    check()


def test_one_client_cannot_rename_what_the_others_measure() -> None:
    told = [
        play(instead("train", lambda truth, names=names: trained(truth, names))).reports[-1].metrics
        for names in ({}, {"lies": 1.0}, {f"{i}": 1.0 for i in range(1000)})
    ]
    assert told[0] == told[1] == told[2]
    assert "loss" in str(sorted(told[0]))


@pytest.mark.parametrize("rule", ["median", "krum", "trimmed_mean", "weighted", "scaffold"])
def test_a_lie_in_the_rounds_under_other_rules(rule: str) -> None:
    """Whose replies are longer, or whose weights come from what clients say."""
    choices: dict[str, Any] = {"aggregation": rule}
    if rule == "krum":
        choices |= {"aggregation_options": {"n_byzantine": 0}}
    expected = vector_of(play(failing("train"), **choices))
    for answer in (IN_ROUNDS["an update that is not a number"], IN_ROUNDS["no metrics"]):
        assert vector_of(play(instead("train", answer), **choices)) == expected


DIVERGENCES: dict[str, Any] = {
    "none": {"loss": 1.0},
    "negative": {"divergence.0": -1.0},
    "more than there are columns": {"divergence.99": 1.0},
    "of a strange name": {"divergence.": 1.0, "divergence.x": 2.0},
}


@pytest.mark.parametrize("told", DIVERGENCES.values(), ids=DIVERGENCES)
def test_a_lie_about_distances_costs_only_the_liar(told: dict[str, float]) -> None:
    expected = vector_of(play(failing("train"), aggregation="similarity"))

    def lie(truth: Reply) -> Reply:
        return trained(truth, told) if "loss" in told else trained(truth, **told)

    found = play(instead("train", lie), aggregation="similarity")
    assert vector_of(found) == expected


def test_updates_that_add_up_to_nothing_end_the_run_with_the_last_good_state() -> None:
    """Each is finite; a sum of the rule is not."""
    huge = float(np.finfo(np.float32).max)

    def lie(request: Request, truth: Reply) -> Reply:
        if request.kind == "train" and request.round == 1:
            return Reply(EVE, truth.meta, vector(len(truth.arrays["vector"]), huge))
        return truth

    wire = Wire(lie)
    federation = Federation(Plan(**PLAN | {"n_rounds": 2}, aggregation=_twice), wire)
    with pytest.raises(TrainingError, match="not finite"):
        federation.run()
    assert len(federation.reports) == 1
    assert federation.state is not None
    assert federation.state.vector.isfinite().all()


def _twice(vectors: Any, weights: Any) -> Any:
    """A rule that overflows."""
    mean = weights.to(vectors) @ vectors
    return mean * (1 if vectors.abs().max() < 1e30 else 1e30)


def test_who_says_that_training_diverged_ends_the_run() -> None:
    """Which is no worse than what it could do by training badly; the operator reads its name."""
    answer = Reply(EVE, {"error_type": "TrainingError"}, error="\x1b[31mloss is nan")
    with pytest.raises(
        TrainingError, match=r"diverged in round 1 at client 'adversary'.*\[31mloss"
    ):
        play(instead("train", answer))


@pytest.mark.parametrize("answer", [Reply(EVE, error="\x1b[2J"), Reply(EVE, {"a": 1}), None, b"x"])
def test_a_lie_at_the_end_is_no_matter(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = vector_of(play(instead("", None)))
    for kind in ("finish", "checkpoint"):
        assert vector_of(play(instead(kind, answer))) == expected
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("answer", [None, b"x", Reply(EVE, {"metrics": []}), Reply(EVE, error="x")])
def test_a_lie_when_the_rest_is_collected(answer: Any) -> None:
    """A run that was stopped early asks for what was not averaged yet."""
    found = []
    for lie in (instead("collect", answer), failing("collect")):
        plan = Plan(**PLAN | {"n_rounds": 4, "sync_every": 4})
        federation = Federation(plan, Wire(lie))
        federation.callbacks = (_Stop(),)
        federation.run()
        found.append(vector_of(federation))
    assert found[0] == found[1]


class _Stop(genesis.federated.Callback):
    """Stops after two rounds."""

    def on_round_complete(self, run: Any, report: Any) -> None:
        if report.round == 1:
            run.stop("enough")


# --- over HTTP ---


class Adversary:
    """A client that speaks HTTP by itself.

    Args:
        url: Of the server.
        answers: Kind of a request -> bodies to send, one after the other until one is accepted; a
            list for every request of that kind. The truth where there is none.
    """

    def __init__(self, url: str, answers: Mapping[str, Sequence[Sequence[bytes]]]) -> None:
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {TOKEN}", VERSION: genesis.__version__},
            verify=False,
        )
        self.answers = {kind: list(each) for kind, each in answers.items()}
        self.statuses: list[int] = []
        self.shard = Shard(EVE, TABLES[EVE], device="cpu")
        said = self.http.post("/v1/join", content=json.dumps({"client_id": EVE}))
        self.http.headers[SESSION] = said.raise_for_status().json()["session"]

    def run(self) -> None:
        """Answer until the run is over."""
        while True:
            given = self.http.get("/v1/task", timeout=60)
            if given.status_code == 410:
                self.leave()
                return
            if given.status_code != 200:
                continue
            request = decode_request(given.content)
            truth = self.shard.handle(request)
            bodies = self.answers.get(request.kind) or [[encode_reply(truth)]]
            for body in bodies.pop(0) if request.kind in self.answers else bodies[0]:
                answer = self.http.post(f"/v1/reply/{given.headers[TASK]}", content=body)
                self.statuses.append(answer.status_code)
            if request.kind == "finish":
                self.leave()
                return

    def leave(self) -> None:
        self.http.post("/v1/leave")
        self.http.close()


class Run:
    """A run over HTTP with the adversary and two honest clients, which is over.

    Args:
        answers: Of the adversary.
        **choices: Of the server.
    """

    def __init__(self, answers: Mapping[str, Sequence[Sequence[bytes]]], **choices: Any) -> None:
        self.server, self.served = serve(**PLAN | {"device": "cpu"} | choices)
        self.eve = Adversary(self.server.url, answers)
        self.clients = [
            FederatedClient(self.server.url, name, auth_token=TOKEN, device="cpu")
            for name in NAMES[1:]
        ]
        trained = [in_thread(each.train, TABLES[each.client_id]) for each in self.clients]
        for each in (self.served, *trained, in_thread(self.eve.run)):
            each.exception(120)


@pytest.fixture
def _all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that needs two clients waits for three."""
    wait = HttpTransport.wait_for
    monkeypatch.setattr(
        HttpTransport, "wait_for", lambda self, *_, **__: wait(self, NAMES, len(NAMES), 60)
    )


@pytest.mark.usefixtures("_all_three")
def test_a_hostile_client_over_http(caplog: pytest.LogCaptureFixture) -> None:
    """Every lie of a round is sent, those that are refused one after the other before the last."""
    caplog.set_level(logging.INFO, "genesis")
    size = 0

    def lie(request: Request, truth: Reply) -> Reply:
        nonlocal size
        if request.kind == "train":
            size = request.expects["vector"][1]
        return failing("train")(request, truth)

    choices: dict[str, Any] = {"n_rounds": 8, "min_clients": 2}
    expected = vector_of(play(lie, **choices))
    truth = Reply(EVE, {"rows": 1, "metrics": {"loss": 0.0}}, vector(size, 0.0))
    told = [each(truth) if callable(each) else each for each in IN_ROUNDS.values() if each]
    bodies = [encode_reply(each) if isinstance(each, Reply) else each for each in told]
    taken, refused = [], []
    for body in bodies:
        try:
            decode_reply(body, EVE, {"vector": ("float32", size)})
            taken.append(body)
        except FederationError:
            refused.append(body)
    assert len(refused) >= 6
    rounds = [[*refused[i::8], taken[i]] for i in range(8)]
    finish = [encode_reply(Reply(EVE, error="\x1b[2J"))]

    run = Run({"train": rounds, "finish": [finish]}, **choices)
    assert run.served.result() is run.server
    assert run.eve.statuses.count(422) == len(refused)
    assert [report.clients for report in run.server.history] == [("north", "south")] * 8
    federation = run.server._federation
    assert federation is not None
    assert vector_of(federation) == expected
    for client in run.clients:
        assert client.generate(5, seed=1).equals(run.server.generate(5, seed=1))
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.usefixtures("_all_three")
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("describe", Reply(EVE, {"schema": {"columns": [{"name": "\x1b\ud800", "kind": "id"}]}})),
        ("labels", Reply(EVE, {"labels": {"letter": ["\ud800", ["a"]]}})),
        ("count", Reply(EVE, error="\x1b[2J no \ud800 counts")),
        ("prepare", Reply(EVE, {"rows": True, "parameters": "0"})),
    ],
)
def test_everybody_is_told_why_a_run_fails(kind: str, answer: Reply) -> None:
    run = Run({kind: [[encode_reply(answer)]] * 9})
    with pytest.raises(GenesisError, match=EVE) as caught:
        run.served.result()
    assert str(caught.value).isprintable()
    status = run.server.status()
    assert status["state"] == "failed"
    assert json.loads(json.dumps(status, allow_nan=False))["reason"] == str(caught.value)
    assert set(run.eve.statuses) == {200}


@pytest.mark.usefixtures("_all_three")
def test_who_never_answers_holds_nobody_up() -> None:
    """It is there, and says nothing: the round ends without it at its deadline."""
    run = Run({"train": [[]] * 10**6, "finish": [[]] * 10**6}, n_rounds=1, timeout_seconds=2.0)
    (report,) = run.server.history
    assert report.clients == ("north", "south")
    assert report.dropped == (EVE,)
    assert run.server.status()["state"] == "complete"
