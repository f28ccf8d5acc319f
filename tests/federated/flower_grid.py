"""A Flower federation in one process, without a SuperLink."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

with warnings.catch_warnings():
    # Flower's command line, which comes with it, asks click for something deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    pytest.importorskip("flwr")
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.common.serde import (
        context_from_proto,
        context_to_proto,
        message_from_proto,
        message_to_proto,
    )
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

    from genesis.federated.flower import client_app
    from genesis.federated.flower.transport import FlowerTransport

Handler = Callable[[Message, Context], Message | None]


class MemoryGrid(Grid):
    """Nodes in this process. Messages and contexts become bytes and back, as they do in Flower.

    Args:
        node_configs: What the SuperNodes were started with; they are numbered from 100.
        processes: How many take turns to handle messages; 0 for a new one for each, as in Flower's
            own deployments. What they share are the contexts.
        run_id: Number of the run.
        threads: Node -> its thread, for nodes that answer in their own time instead of at once.
    """

    def __init__(
        self,
        node_configs: Iterable[Mapping[str, Any]],
        *,
        processes: int = 1,
        run_id: int = 7,
        threads: Mapping[int, ThreadPoolExecutor] | None = None,
    ) -> None:
        # Where Flower's own process for a ServerApp keeps who it is.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
        self.contexts = {
            node: Context(run_id, node, dict(config), RecordDict(), {})
            for node, config in enumerate(node_configs, start=100)
        }
        self.handlers: dict[int, Handler] = dict.fromkeys(self.contexts, client_app.app)
        self.pushed: list[Message] = []
        self._replies: dict[str, Message] = {}
        self._threads = threads or {}
        self._memories: list[dict[Any, Any]] = [{} for _ in range(processes)]

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return Run.create_empty(TaskIdentity.run_id)

    def create_message(self, *args: Any, **options: Any) -> Message:
        raise NotImplementedError  # Flower's older way to make one, which the transport never takes

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            ids.append(message.object_id)
            self.pushed.append(message)
            turn = len(self.pushed) % max(len(self._memories), 1)
            client_app._shards = self._memories[turn] if self._memories else {}
            if self._threads:
                self._threads[message.metadata.dst_node_id].submit(self._answer, message)
            else:
                self._answer(message)
        return ids

    def _answer(self, message: Message) -> None:
        if reply := self._handle(message):
            self._replies[message.object_id] = reply

    def _handle(self, sent: Message) -> Message | None:
        message = message_from_proto(message_to_proto(sent))
        node = message.metadata.dst_node_id
        try:
            reply = self.handlers[node](message, self.contexts[node])
        except Exception as error:  # the same as flwr-clientapp does with it
            return Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
        self.contexts[node] = copied(self.contexts[node])
        return None if reply is None else message_from_proto(message_to_proto(reply))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(each) for each in message_ids if each in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        raise NotImplementedError  # it waits for everybody; the transport pushes and pulls


def copied(context: Context) -> Context:
    """A context as another process receives it."""
    return context_from_proto(context_to_proto(context))


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[dict[str, Any]]:
    """The node configs of clients, whose tables are written into a folder."""
    configs = []
    for client, table in tables.items():
        path = folder / f"{client}.parquet"
        table.to_parquet(path, index=False)
        configs.append({"client-id": client, "data": str(path), "device": "cpu"})
    return configs


@contextmanager
def flower_transport(handlers: Mapping[str, Any]) -> Iterator[FlowerTransport]:
    """A transport to nodes that answer by `handle(request)` of these objects, such as shards."""
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(
            client_app, "_new_shard", lambda context: handlers[context.node_config["client-id"]]
        )
        nodes = range(100, 100 + len(handlers))
        threads = {node: stack.enter_context(ThreadPoolExecutor(1)) for node in nodes}
        configs = [{"client-id": client} for client in handlers]
        transport = FlowerTransport(MemoryGrid(configs, threads=threads))
        transport.wait_for(list(handlers), len(handlers), 30)
        yield transport
