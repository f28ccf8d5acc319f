"""Clients at the nodes of a Flower federation.

A request is one message and a reply the answer to it. Both hold bytes of ours, which Flower
carries and does not read, as records:

    body    the request or the reply; the same bytes for all who are asked the same, so that
            Flower's object store holds a large vector once
    turn    what belongs to this message alone
    setup   for a node that has lost what it knew, the requests that set it up
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

import genesis
from genesis.errors import FederationError, printable
from genesis.federated.messages import ClientInfo, Reply, Request
from genesis.federated.transport.body import decode_reply, encode_request, largest_reply

__all__ = ["ASK", "HELLO", "FlowerTransport", "keep_setup"]

log = logging.getLogger(__name__)

HELLO, ASK = "hello", "ask"  # actions of the ClientApp
GONE = (3, 4, 5)  # Flower's codes for a message or a reply that expired, and for a node offline
QUICKEST, SLOWEST = 0.05, 1.0  # seconds from one look for replies to the next
LONGEST_NAME = 100


class FlowerTransport:
    """Clients that are nodes of a Flower federation.

    A node is known by the client id that it gives when it is asked; see `wait_for`.

    Args:
        grid: What Flower gives to a ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}  # client id -> node
        self._handled: dict[int, int] = {}  # node -> requests that it has handled, as it says
        self._setup: dict[int, dict[str, bytes]] = {}  # node -> kind -> request

    def wait_for(self, names: Sequence[str], fewest: int, timeout: float) -> None:
        """Ask every node who it is, until all who are online have said so and are enough.

        Args:
            names: Clients to wait for as long as there is time; nobody in particular if empty.
            fewest: How many there must be.
            timeout: Seconds. Nodes that have not answered by then are left out.

        Raises:
            FederationError: There are fewer, or two say that they are the same client.
        """
        deadline = time.monotonic() + timeout
        asked: set[int] = set()
        awaited: dict[str, int] = {}
        refused: dict[int, str] = {}
        pause = QUICKEST
        while True:
            for node in sorted(set(self._grid.get_node_ids()) - asked):
                asked.add(node)
                awaited |= self._push(node, HELLO, {}, timeout)
            for node, message in self._pull(awaited):
                if reason := self._welcome(node, message):
                    refused[node] = reason
                    log.warning("node %d is left out: %s", node, reason)
            there = self._nodes.keys()
            if len(there) >= fewest and there >= set(names) and not awaited:
                return
            if time.monotonic() >= deadline:
                break
            pause = _sleep(pause, deadline)
        if len(there) < fewest:
            reasons = "".join(f"; node {node}: {reason}" for node, reason in refused.items())
            raise FederationError(
                f"too few clients joined within {timeout:g} s",
                got=f"{len(there)}, min_clients is {fewest}{reasons}",
                do="start more SuperNodes, lower min_clients or wait longer (join_timeout)",
            )

    def clients(self) -> Sequence[ClientInfo]:
        """The nodes that have said who they are."""
        online = set(self._grid.get_node_ids())
        return [ClientInfo(client, node in online) for client, node in self._nodes.items()]

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        """Push the requests, and pull replies until all are there or the time is up."""
        deadline = time.monotonic() + timeout
        clients = {self._nodes[client]: client for client in requests if client in self._nodes}
        encoded = {id(request): encode_request(request) for request in requests.values()}
        bodies = {node: encoded[id(requests[client])] for node, client in clients.items()}
        awaited: dict[str, int] = {}
        for node, client in clients.items():
            awaited |= self._ask(node, bodies[node], timeout)
            if requests[client].setup:
                keep_setup(self._setup.setdefault(node, {}), requests[client].kind, bodies[node])
        lost: set[int] = set()
        pause = QUICKEST
        while awaited:
            for node, message in self._pull(awaited):
                client, left = clients[node], deadline - time.monotonic()
                if node not in lost and _record(message, "turn").get("lost"):
                    log.warning("client '%s' has lost what it knew, and begins again", client)
                    lost.add(node)
                    awaited |= self._ask(node, bodies[node], left, again=True)
                elif reply := self._read(node, message, client, requests[client]):
                    yield reply
            if time.monotonic() >= deadline:
                return
            if awaited:
                pause = _sleep(pause, deadline)

    def _ask(
        self, node: int, body: bytes, seconds: float, *, again: bool = False
    ) -> dict[str, int]:
        """Push a request; again with all that a node must know which has forgotten everything."""
        records = {"body": ConfigRecord({"body": body})}
        if again:
            records["setup"] = ConfigRecord({"bodies": list(self._setup.get(node, {}).values())})
        return self._push(node, ASK, records, seconds)

    def _push(
        self, node: int, action: str, records: Mapping[str, ConfigRecord], seconds: float
    ) -> dict[str, int]:
        """Send a message: its id -> the node; nothing if Flower did not take it."""
        turn = ConfigRecord()
        turn["handled"] = self._handled.get(node, 0)
        # A message's id is a hash of its content, and whoever guesses one could answer in the
        # place of another node.
        turn["nonce"] = secrets.token_bytes(16)
        message = Message(
            RecordDict({**records, "turn": turn}),
            node,
            f"query.{action}",
            ttl=max(seconds, 1.0),  # whoever comes too late for it is asked something newer
        )
        return dict.fromkeys(filter(None, self._grid.push_messages([message])), node)

    def _pull(self, awaited: dict[str, int]) -> Iterator[tuple[int, Message]]:
        """The messages that have come, with their nodes. They are awaited no more."""
        if not awaited:
            return
        for message in self._grid.pull_messages(list(awaited)):
            node = awaited.pop(message.metadata.reply_to_message_id, None)
            if node is not None:
                yield node, message

    def _welcome(self, node: int, message: Message) -> str | None:
        """Take a node in; or why it cannot be."""
        if message.has_error():
            return _one_line(message.error.reason)
        told = _record(message, "turn")
        client, version = told.get("client_id"), told.get("version")
        if "error" in told:
            return _one_line(told["error"])
        if not isinstance(client, str) or not 0 < len(client) <= LONGEST_NAME:
            return "it says no name"
        if client != _one_line(client):
            return "its name cannot be printed"
        if version != genesis.__version__:
            return f"it has version {_one_line(version)}, and the server {genesis.__version__}"
        if client in self._nodes:
            raise FederationError(
                f"two nodes say that they are client '{client}'",
                got=f"nodes {self._nodes[client]} and {node}",
                do="give every SuperNode a client-id of its own",
            )
        self._nodes[client] = node
        return None

    def _read(self, node: int, message: Message, client: str, request: Request) -> Reply | None:
        """The reply in a message; None from a node that is gone."""
        if message.has_error():
            if message.error.code in GONE:
                return None
            return Reply(client, error=_one_line(message.error.reason))
        body = _record(message, "body").get("body")
        handled = _record(message, "turn").get("handled")
        try:
            if not isinstance(body, bytes) or not isinstance(handled, int):
                raise FederationError(
                    "its reply is not one of this program",
                    do="give server and clients the same version",
                )
            if len(body) > largest_reply(request.kind, request.expects):
                raise FederationError("its reply is too large", got=f"{len(body):,} bytes")
            reply = decode_reply(body, client, request.expects)
        except FederationError as error:
            return Reply(client, error=str(error))
        self._handled[node] = handled
        return reply


def keep_setup(setup: dict[str, bytes], kind: str, body: bytes) -> None:
    """Keep a request that sets a client up, in place of what it makes void.

    Args:
        setup: Kind of a request -> its bytes, in the order in which they came.
        kind: Kind of the new one.
        body: Its bytes.
    """
    kinds = list(setup)
    for void in kinds[kinds.index(kind) :] if kind in setup else []:
        del setup[void]
    setup[kind] = body


def _record(message: Message, name: str) -> ConfigRecord:
    """A record of a message; an empty one if it is not there."""
    found = message.content.get(name) if message.has_content() else None
    return found if isinstance(found, ConfigRecord) else ConfigRecord()


def _one_line(text: object) -> str:
    """What a node says, fit for a terminal."""
    return printable(str(text))[:1000] or "nothing that can be read"


def _sleep(pause: float, deadline: float) -> float:
    """Wait for a while, and say how long to wait the next time."""
    time.sleep(max(min(pause, deadline - time.monotonic()), 0.0))
    return min(2 * pause, SLOWEST)
