"""A way between a client and a server on which things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Self

__all__ = ["Fault", "Proxy"]


@dataclass(frozen=True)
class Fault:
    """What happens to one connection.

    Args:
        up: Bytes towards the server after which the connection is cut; None for never.
        down: The same for bytes towards the client.
        hole: Whether it is not cut then, but nothing gets through any more, and nobody is told.
        delay: Seconds that every piece is late.
        twice: Whether everything that reached the server reaches it a second time once the
            connection is over, from somebody who does not listen to the answers. Not if a client
            joined on it: to join twice is to begin a session anew.
    """

    up: int | None = None
    down: int | None = None
    hole: bool = False
    delay: float = 0.0
    twice: bool = False


class Proxy:
    """Passes on what comes, on connections that each have their fault.

    Args:
        port: Of the server, on this machine.
        fault: What happens to the connection of a number, from 0.
    """

    def __init__(self, port: int, fault: Callable[[int], Fault]) -> None:
        self.server_port, self._fault = port, fault
        self.port, self.connections, self.cuts = 0, 0, 0
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        self._over.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """One connection, for as long as both ends and its fault allow."""
        fault = self._fault(self.connections)
        self.connections += 1
        sent, writers = bytearray(), [answer]
        with suppress(OSError):  # the server is away, and so is this connection
            server, ask = await asyncio.open_connection("127.0.0.1", self.server_port)
            writers.append(ask)
            await self._pass_both(client, ask, server, answer, fault, sent)
            if fault.twice and b"/v1/join" not in sent:
                _, again = await asyncio.open_connection("127.0.0.1", self.server_port)
                writers.append(again)
                again.write(sent)
                await again.drain()
                await asyncio.sleep(0.2)
        for writer in writers:
            writer.close()

    async def _pass_both(
        self,
        client: asyncio.StreamReader,
        ask: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        answer: asyncio.StreamWriter,
        fault: Fault,
        sent: bytearray,
    ) -> None:
        """Both directions, until one of them ends."""
        ways = [
            asyncio.ensure_future(self._pass(client, ask, fault.up, fault, sent)),
            asyncio.ensure_future(self._pass(server, answer, fault.down, fault, bytearray())),
            asyncio.ensure_future(self._over.wait()),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)

    async def _pass(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        limit: int | None,
        fault: Fault,
        passed: bytearray,
    ) -> None:
        """One direction, until its end or its limit."""
        with suppress(OSError, asyncio.CancelledError):
            while data := await source.read(1 << 14):
                await asyncio.sleep(fault.delay)
                data = data if limit is None else data[: limit - len(passed)]
                target.write(data)
                await target.drain()
                passed += data
                if len(passed) == limit:
                    self.cuts += 1
                    if fault.hole:
                        await self._over.wait()
                    return
