"""Sessions, tasks and replies without a network: by example, and as a machine driven at random."""

import asyncio
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genesis.federated.messages import Reply
from genesis.federated.transport.body import COMPRESSIONS, inflate
from genesis.federated.transport.http.hub import (
    GRACE_SECONDS,
    Body,
    Hub,
    RefusedError,
    RunEndedError,
    Session,
    Task,
)

VERSION = "1.2.3"
NAMES = ("north", "south", "west")


class Clock:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_hub(**choices: Any) -> tuple[Hub, Clock]:
    clock = Clock()
    return Hub(VERSION, clock=clock, **choices), clock


def task(client: str, kind: str = "train", *, setup: bool = False) -> Task:
    return Task(client, kind, Body(kind.encode()), setup=setup)


def poll(hub: Hub, session: Session) -> Task | None:
    """What a client gets that does not wait."""
    return asyncio.run(hub.next_task(session, 0))


def drained(inbox: "SimpleQueue[Reply]") -> list[Reply]:
    found = []
    while True:
        try:
            found.append(inbox.get_nowait())
        except Empty:
            return found


def refusal(status: int, match: str) -> Any:
    """That something is refused so."""
    return pytest.raises(RefusedError, match=match, check=lambda error: error.status == status)


def joined(hub: Hub, *names: str) -> list[Session]:
    return [hub.session(hub.join(name, VERSION)) for name in names]


# --- joining ---


def test_a_session_is_known_by_its_secret_alone() -> None:
    hub, _ = a_hub()
    secrets = {name: hub.join(name, VERSION) for name in NAMES}
    assert len(set(secrets.values())) == 3
    for name, secret in secrets.items():
        assert hub.session(secret).client_id == name
        assert secret not in repr(vars(hub))
    for other in ("", "x", secrets["north"][:-1], secrets["north"] + "x", "\ud800", "é"):
        with refusal(428, "join again"):
            hub.session(other)


@pytest.mark.parametrize(
    "name", ["", "x" * 101, " a", "a ", "a\nb", "a\x1b[31m", "\u202e", "\ud800"]
)
def test_names_that_cannot_be_shown_are_refused(name: str) -> None:
    hub, _ = a_hub()
    with refusal(400, "client id"):
        hub.join(name, VERSION)
    assert hub.names() == []


def test_another_version_is_refused() -> None:
    hub, _ = a_hub()
    with refusal(409, "this server runs genesis 1.2.3 and client 'north' 1.2.4"):
        hub.join("north", "1.2.4")


def test_a_second_client_of_a_name_waits_until_the_first_is_silent() -> None:
    hub, clock = a_hub()
    first = hub.join("north", VERSION)
    for former in (None, "", "wrong", hub.sessions["north"].secret_hash):
        with refusal(409, "there is a client 'north' already") as caught:
            hub.join("north", VERSION, former)
        assert caught.value.retry_after == GRACE_SECONDS
    clock.now += GRACE_SECONDS - 1
    hub.session(first)  # it is heard of
    clock.now += GRACE_SECONDS - 1
    with refusal(409, "already") as caught:
        hub.join("north", VERSION)
    assert caught.value.retry_after == 1
    clock.now += 1
    second = hub.join("north", VERSION)
    with refusal(428, "join again"):
        hub.session(first)
    assert hub.session(second).client_id == "north"


def test_who_knows_the_former_secret_or_said_goodbye_comes_back_at_once() -> None:
    hub, _ = a_hub()
    first = hub.join("north", VERSION)
    second = hub.join("north", VERSION, first)
    with refusal(409, "already"):
        hub.join("north", VERSION, first)  # only the last one counts
    hub.leave(hub.session(second))
    assert hub.session(hub.join("north", VERSION)).client_id == "north"


def test_the_run_takes_only_so_many_and_those_who_left_do_not_count() -> None:
    hub, clock = a_hub(max_clients=2, patience=60)
    north, _ = joined(hub, "north", "south")
    with refusal(409, "the run is full: it takes 2 clients"):
        hub.join("west", VERSION)
    hub.leave(north)
    assert hub.names() == ["south"]
    hub.join("west", VERSION)
    with refusal(409, "full"):
        hub.join("north", VERSION)
    clock.now += 60  # both were killed
    assert hub.names() == []
    joined(hub, "north", "east")


def test_who_is_gone_before_the_run_begins_is_no_part_of_it() -> None:
    hub, clock = a_hub(patience=60)
    joined(hub, "killed")
    clock.now += 59
    left, _ = joined(hub, "left", "north")
    hub.leave(left)
    assert hub.names() == ["killed", "north"]
    clock.now += 1
    assert hub.names() == ["north"]
    hub.ask([task("north")], SimpleQueue())
    for name in ("killed", "left"):
        with refusal(409, f"the run has begun without client '{name}'"):
            hub.join(name, VERSION)


def test_the_first_tasks_close_the_run() -> None:
    hub, clock = a_hub()
    secrets = [hub.join(name, VERSION) for name in NAMES]
    hub.ask([task("north"), task("south")], SimpleQueue())
    assert hub.names() == ["north", "south"]
    with refusal(409, "the run has begun without client 'west'"):
        hub.check(hub.session(secrets[2]))
    with refusal(409, "the run has begun without client 'west'"):
        hub.join("west", VERSION, secrets[2])
    clock.now += 1000
    assert hub.names() == ["north", "south"]  # whoever is away still belongs to it
    assert not hub.is_present("north")
    joined(hub, "north")
    assert hub.is_present("north")


def test_hashes_of_sessions_are_told_and_outlive_the_server() -> None:
    told: list[dict[str, str]] = []
    hub, _ = a_hub(on_change=lambda hashes: told.append(dict(hashes)))
    secrets = {name: hub.join(name, VERSION) for name in NAMES}
    assert [len(each) for each in told] == [1, 2, 3]
    assert not set(secrets.values()) & set(told[-1].values())

    after, clock = a_hub()
    after.expect({**told[-1], "east": None})
    assert after.names() == sorted([*NAMES, "east"])
    assert after.silence("north") is None
    assert not after.is_present("north")
    assert after.session(secrets["north"]).client_id == "north"
    assert after.is_present("north")
    joined(after, "east")  # its secret was lost: it may join at once
    with refusal(409, "already"):
        after.join("south", VERSION)  # perhaps it is on its way with its own
    clock.now += GRACE_SECONDS
    after.join("south", VERSION)
    with refusal(409, "begun without client 'newcomer'"):
        after.join("newcomer", VERSION)


# --- tasks and replies ---


def test_a_task_is_given_until_it_is_answered_and_its_reply_counts_once() -> None:
    hub, _ = a_hub()
    north, south = joined(hub, "north", "south")
    inbox: SimpleQueue[Reply] = SimpleQueue()
    asked, other = task("north"), task("south")
    hub.ask([asked, other], inbox)
    assert poll(hub, north) is poll(hub, north) is asked
    assert poll(hub, south) is other
    assert hub.task(south, asked.id) is None  # it is nobody else's
    assert hub.task(north, asked.id) is asked
    reply = Reply("north")
    assert hub.deliver(north, asked, reply)
    assert not hub.deliver(north, asked, Reply("north"))  # sent again, for the answer was lost
    assert hub.task(north, asked.id) is None
    assert poll(hub, north) is None
    assert drained(inbox) == [reply]
    assert drained(inbox) == []


def test_a_late_reply_reaches_nobody() -> None:
    hub, _ = a_hub()
    (north,) = joined(hub, "north")
    first, second = SimpleQueue[Reply](), SimpleQueue[Reply]()
    old, new = task("north"), task("north")
    hub.ask([old], first)
    found = hub.task(north, old.id)
    hub.withdraw()
    assert found is old
    assert not hub.deliver(north, old, Reply("north"))
    hub.ask([new], second)
    assert hub.task(north, old.id) is None
    assert not hub.deliver(north, old, Reply("north"))
    assert hub.deliver(north, new, Reply("north"))
    assert drained(first) == []
    assert len(drained(second)) == 1


@pytest.mark.parametrize("strange", ["", "é", "x" * 5000, "../reply", "\ud7ff", "None"])
def test_a_reply_to_nothing_is_no_reply(strange: str) -> None:
    hub, _ = a_hub()
    (north,) = joined(hub, "north")
    hub.ask([task("north")], SimpleQueue())
    assert hub.task(north, strange) is None


def test_a_client_that_comes_back_learns_again_what_it_forgot() -> None:
    hub, _ = a_hub()
    (north,) = joined(hub, "north")
    inbox: SimpleQueue[Reply] = SimpleQueue()
    kinds = [("describe", False), ("labels", True), ("count", False), ("prepare", True)]
    for kind, setup in kinds:
        asked = task("north", kind, setup=setup)
        hub.ask([asked], inbox)
        assert hub.deliver(north, asked, Reply("north", {"said": kind}))
        hub.withdraw()
    asked = task("north")
    hub.ask([asked], inbox)
    hub.leave(north)
    drained(inbox)

    (again,) = joined(hub, "north")
    for kind in ("labels", "prepare"):
        given = poll(hub, again)
        assert given is not None
        assert given.kind == kind
        assert hub.task(again, asked.id) is asked  # it might still answer what it had
        assert hub.deliver(again, given, Reply("north", {"said": kind}))
    assert poll(hub, again) is asked
    assert drained(inbox) == []  # the server has these answers already
    assert hub.deliver(again, asked, Reply("north"))
    assert len(drained(inbox)) == 1


def test_a_setup_task_that_waits_still_is_not_given_twice() -> None:
    hub, _ = a_hub()
    (north,) = joined(hub, "north")
    inbox: SimpleQueue[Reply] = SimpleQueue()
    asked = task("north", "labels", setup=True)
    hub.ask([asked], inbox)
    hub.leave(north)
    (again,) = joined(hub, "north")
    assert poll(hub, again) is asked
    assert hub.deliver(again, asked, Reply("north"))
    assert poll(hub, again) is None
    assert len(drained(inbox)) == 1


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (Reply("north", {"rows": 11}), "came back with another table or key"),
        (Reply("north", {}), "came back with another table or key"),
        (Reply("north", {"rows": 10}, error="no column 'age'"), "no column 'age'"),
    ],
)
def test_a_client_that_comes_back_with_something_else_may_not_go_on(
    second: Reply, why: str
) -> None:
    hub, _ = a_hub()
    (north,) = joined(hub, "north")
    inbox: SimpleQueue[Reply] = SimpleQueue()
    setup = task("north", "prepare", setup=True)
    hub.ask([setup], inbox)
    hub.deliver(north, setup, Reply("north", {"rows": 10}))
    asked = task("north")
    hub.ask([asked], inbox)
    hub.leave(north)
    drained(inbox)
    (again,) = joined(hub, "north")
    hub.deliver(again, setup, second)
    with refusal(409, why):
        poll(hub, again)
    assert drained(inbox) == []
    hub.leave(again)
    (third,) = joined(hub, "north")  # with the right table it may
    hub.deliver(third, setup, Reply("north", {"rows": 10}))
    assert poll(hub, third) is asked


def test_a_failed_setup_is_not_held_against_the_next_try() -> None:
    hub, _ = a_hub()
    (north,) = joined(hub, "north")
    setup = task("north", "prepare", setup=True)
    hub.ask([setup], SimpleQueue())
    hub.deliver(north, setup, Reply("north", {"error_type": "DataError"}, error="a full disk"))
    hub.leave(north)
    (again,) = joined(hub, "north")
    hub.deliver(again, setup, Reply("north", {"rows": 10}))
    hub.check(again)


def test_who_left_is_not_waited_for() -> None:
    hub, clock = a_hub(patience=60)
    north, south = joined(hub, "north", "south")
    hub.ask([task("north"), task("south")], SimpleQueue())
    hub.leave(north)
    assert not hub.is_present("north")
    assert hub.is_present("south")
    clock.now += 59
    assert hub.is_present("south")
    clock.now += 1
    assert not hub.is_present("south")
    assert not hub.is_present("nobody")
    assert hub.silence("nobody") is None
    assert south.client_id == "south"


# --- waiting ---


def test_whoever_waits_hears_at_once() -> None:
    async def run() -> None:
        hub, _ = a_hub()
        north, south = joined(hub, "north", "south")
        waiting = [
            asyncio.create_task(hub.next_task(session, 60)) for session in (north, north, south)
        ]
        await asyncio.sleep(0)
        asked = task("north")
        hub.ask([asked], SimpleQueue())
        assert await asyncio.gather(*waiting[:2]) == [asked, asked]
        with refusal(409, "begun without client 'south'"):
            await waiting[2]

    asyncio.run(asyncio.wait_for(run(), 10))


def test_whoever_waits_hears_of_the_end_and_of_another_client() -> None:
    async def run() -> None:
        hub, _ = a_hub()
        north, south = joined(hub, "north", "south")
        hub.ask([task("north"), task("south")], SimpleQueue())
        hub.withdraw()
        waiting = [asyncio.create_task(hub.next_task(each, 60)) for each in (north, south)]
        await asyncio.sleep(0)
        hub.leave(north)
        joined(hub, "north")
        with refusal(409, "another client has joined under this id"):
            await waiting[0]
        hub.end("failed", "no disk")
        with pytest.raises(RunEndedError) as caught:
            await waiting[1]
        assert (caught.value.state, caught.value.reason) == ("failed", "no disk")

    asyncio.run(asyncio.wait_for(run(), 10))


def test_the_server_knows_who_has_heard_of_the_end() -> None:
    hub, clock = a_hub()
    north, south, west = joined(hub, *NAMES)
    hub.ask([task(name) for name in NAMES], SimpleQueue())
    hub.end("complete")
    assert hub.untold() == set(NAMES)
    with pytest.raises(RunEndedError):
        hub.check(north)
    assert hub.untold() == {"south", "west"}
    hub.leave(south)
    assert hub.untold() == {"west"}
    with pytest.raises(RunEndedError):
        hub.join("late", VERSION)
    clock.now += GRACE_SECONDS
    assert hub.untold() == set()  # it is gone
    assert west.client_id == "west"


def test_a_body_is_compressed_once() -> None:
    body = Body(b"a" * 1000)
    assert body.packed(None) is body.plain
    for how in COMPRESSIONS:
        packed = body.packed(how)
        assert packed is body.packed(how)
        assert inflate(packed, how, 1000) == body.plain


# --- at random ---


class Machine(RuleBasedStateMachine):
    """Clients that come, go, are killed, and answer whatever they were ever asked."""

    def __init__(self) -> None:
        super().__init__()
        self.hub, self.clock = a_hub(patience=60)
        self.loop = asyncio.new_event_loop()
        self.secrets: dict[str, list[str]] = {name: [] for name in NAMES}
        self.forgotten: set[str] = set()  # secrets of those who left before the run began
        self.tasks: list[Task] = []  # all that there ever were
        self.inboxes: list[SimpleQueue[Reply]] = []
        self.exchange_of: dict[str, int] = {}  # task id -> number of its exchange
        self.delivered: list[str] = []
        self.setups: dict[str, dict[str, Task]] = {name: {} for name in NAMES}
        self.relearned: dict[str, list[str]] = {}  # secret -> kinds that it was asked again
        self.roster: frozenset[str] | None = None
        self.open: set[str] = set()  # clients whose task of the last exchange is not answered

    def teardown(self) -> None:
        self.loop.close()

    names = st.sampled_from(NAMES)

    @initialize()
    def begin(self) -> None:
        for name in NAMES:
            self.join(name, VERSION, former=False)

    @rule(
        name=names, version=st.sampled_from([VERSION, VERSION, VERSION, "0"]), former=st.booleans()
    )
    def join(self, name: str, version: str, former: bool) -> None:
        known = self.hub.sessions.get(name)
        given = self.secrets[name][-1] if former and self.secrets[name] else None
        silent = known is None or self.clock.now - (known.seen or 0) >= GRACE_SECONDS
        may = version == VERSION and (self.roster is None or name in self.roster)
        may &= silent or known is None or known.left or given is not None
        if not may:
            with refusal(409, name):
                self.hub.join(name, version, given)
            return
        secret = self.hub.join(name, version, given)
        assert all(secret not in each for each in self.secrets.values())
        self.secrets[name].append(secret)
        self.relearned[secret] = []

    def session(self, name: str, back: int) -> Session | None:
        """The session of the last secret of a client, or of one before."""
        if back >= len(self.secrets[name]):
            return None
        secret = self.secrets[name][-1 - back]
        if back or secret in self.forgotten:
            with refusal(428, "join again"):  # an earlier one is not valid any more
                self.hub.session(secret)
            return None
        session = self.hub.session(secret)
        assert session.client_id == name
        return session

    @rule(name=names, back=st.integers(0, 1))
    def leave(self, name: str, back: int) -> None:
        if session := self.session(name, back):
            self.hub.leave(session)
            assert not self.hub.is_present(name)
            if self.roster is None:
                self.forgotten.add(self.secrets[name][-1])

    @rule(seconds=st.sampled_from([1.0, GRACE_SECONDS, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(some=st.sets(names, min_size=1), kind=st.sampled_from(["labels", "prepare", "train"]))
    def ask(self, some: set[str], kind: str) -> None:
        self.hub.withdraw()
        asked = [
            task(name, kind, setup=kind != "train") for name in sorted(some & set(self.hub.names()))
        ]
        if not asked:
            self.open = set()
            return
        self.roster = self.roster or frozenset(each.client_id for each in asked)
        self.inboxes.append(SimpleQueue())
        self.hub.ask(asked, self.inboxes[-1])
        for each in asked:
            self.tasks.append(each)
            self.exchange_of[each.id] = len(self.inboxes) - 1
            if each.setup:
                self.setups[each.client_id][kind] = each
        self.open = {each.client_id for each in asked}

    @rule()
    def withdraw(self) -> None:
        self.hub.withdraw()
        self.open = set()

    def poll(self, session: Session) -> Task | None:
        return self.loop.run_until_complete(self.hub.next_task(session, 0))

    @rule(name=names, any_task=st.none() | st.integers(0, 1000), lies=st.booleans())
    def answer(self, name: str, any_task: int | None, lies: bool) -> None:
        """Answer what is asked, or anything that anybody was ever asked."""
        session = self.session(name, 0)
        if session is None:
            return
        try:
            given = self.poll(session)
        except RefusedError:
            return
        chosen = given
        if any_task is not None and self.tasks:
            chosen = self.tasks[any_task % len(self.tasks)]
        if chosen is None:
            return
        before = set(map(id, session.behind))
        found = self.hub.task(session, chosen.id)
        assert found in (None, chosen)
        if found is None:
            event("a reply was late, or somebody else's")
            assert chosen is not given
            assert not self.hub.deliver(session, chosen, Reply(name))
            return
        assert found.client_id == name
        again = id(found) in before
        says = {"task": found.id} if not found.setup else {"table": 2 if lies and again else 1}
        assert self.hub.deliver(session, found, Reply(name, {**says, "exchange": 0}))
        if again:
            event("a client learned again")
            self.relearned[self.secrets[name][-1]].append(found.kind)
            known = found.kind in self.hub._answers.get(name, {})
            assert (session.refused is not None) == (lies and known)
            if session.refused:
                event("a client came back with another table or key")
        else:
            self.delivered.append(found.id)
            assert name in self.open
            self.open.discard(name)
            assert self.exchange_of[found.id] == len(self.inboxes) - 1
        assert not self.hub.deliver(session, found, Reply(name))  # once is enough

    @rule(name=names)
    def everything_is_given_in_order(self, name: str) -> None:
        """First what a client lacks, each once and in the order of the run; then what is open."""
        session = self.session(name, 0)
        if session is None or session.refused:
            return
        given = self.poll(session)
        if session.behind:
            assert given is session.behind[0]
            assert given.setup
        elif name in self.open:
            assert given is self.hub.pending[name]
            assert self.exchange_of[given.id] == len(self.inboxes) - 1
        else:
            assert given is None
        asked = self.relearned[self.secrets[name][-1]]
        assert len(set(asked)) == len(asked)

    @invariant()
    def replies_reach_their_own_exchange_once(self) -> None:
        assert len(set(self.delivered)) == len(self.delivered)
        counts = [sum(self.exchange_of[each] == i for each in self.delivered) for i in self.numbers]
        assert [inbox.qsize() for inbox in self.inboxes] == counts

    @property
    def numbers(self) -> Iterator[int]:
        return iter(range(len(self.inboxes)))

    @invariant()
    def only_the_roster_takes_part(self) -> None:
        if self.roster is not None:
            assert set(self.hub.names()) == self.roster
            assert set(self.hub.sessions) <= self.roster
        assert set(self.hub.pending) == self.open
        assert {session.client_id for session in self.hub._by_secret.values()} <= set(NAMES)


Machine.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
