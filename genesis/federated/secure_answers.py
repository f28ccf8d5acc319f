"""What a shard answers to a request whose answers are summed: `Answers`.

The answer is worked out while keys and shares are exchanged, and becomes whole numbers when the
scheme wants them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

import numpy as np

from genesis.errors import FederationError, PrivacyError
from genesis.federated.disclosures import Disclosures
from genesis.federated.messages import Reply, Request
from genesis.federated.secagg import Ring, Sum
from genesis.federated.secagg.vectors import UpdateVector, count_vector
from genesis.federated.secure_labels import LABEL_SUMS, OwnLabels
from genesis.federated.shard import Shard
from genesis.seeding import Stream, generator

__all__ = ["Answers"]

STOPPED_WITHIN = 10.0  # seconds: a step takes less


class Answers:
    """The answers of a shard to what is summed.

    Args:
        shard: The shard.
        disclosed: What it has disclosed, among which is how many rows all clients are said to have.
        background: Whether it works in a thread of its own.

    `labels` are its own, once it knows them.
    """

    def __init__(self, shard: Shard, disclosed: Disclosures, *, background: bool) -> None:
        self.labels = OwnLabels({})
        self._shard, self._disclosed, self._background = shard, disclosed, background
        self._working: Future[Reply] | None = None
        self._thread: Thread | None = None

    def begin(self, inner: Request | None) -> Callable[[], Reply]:
        """Start on the answer to a request, or leave it until it is wanted.

        Returns:
            Waits for the answer, which is empty if nothing needs to be asked of the shard.
        """
        if inner is None or inner.kind in LABEL_SUMS:
            return lambda: Reply(self._shard.client_id)
        if not self._background or inner.kind == "count":
            return lambda: self._shard.handle(inner)
        working: Future[Reply] = Future()

        def work() -> None:
            with suppress(SystemExit):  # by which `stop` ends it
                working.set_result(self._shard.handle(inner))

        self._thread = Thread(target=work, daemon=True)
        self._thread.start()
        self._working = working
        return working.result

    def stop(self) -> None:
        """End work that nobody waits for any more.

        A program that ended while a thread is in the midst of a step would be aborted, and one that
        waited for it would go on for the rest of a round. So the thread is made to leave.
        """
        thread = self._thread
        if thread is not None and thread.is_alive():
            leave, number = ctypes.py_object(SystemExit), ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(number, leave)
            thread.join(STOPPED_WITHIN)

    def wait(self) -> None:
        """Until the shard is idle: a round that the server gave up on may still be trained."""
        if self._working is not None:
            self._working.result()
            self._working = None

    def vector(self, inner: Request, sum: Sum, reply: Reply) -> Ring:
        """(length,) what a reply says, as numbers of the ring.

        Args:
            inner: The request whose answers are summed.
            sum: Their sum.
            reply: What the shard says to it.

        Raises:
            FederationError: The server asks for something else than this client has.
            PrivacyError: A promise needs numbers of another size.
        """
        if inner.kind in LABEL_SUMS:
            vector: Ring = self.labels.vector(inner.kind, inner.meta)
        elif inner.kind == "sums":
            vector = reply.arrays["sums"].astype(np.uint64)
        elif inner.kind == "count":
            vector = count_vector(reply.arrays["counts"], int(reply.meta["rows"]))
        elif self._shard.promise.whole is not None:
            if sum.bits != 32:
                raise PrivacyError("noise that clients add together has 32 bits")
            vector = reply.arrays["vector"]
        else:
            vector = self._update(inner, sum, reply)
        if len(vector) != sum.length:
            raise FederationError(
                "the vectors of a sum are not as long as the server says",
                got=f"{sum.length} instead of {len(vector)}",
                do="give server and clients the same version",
            )
        return vector

    def _update(self, inner: Request, sum: Sum, reply: Reply) -> Ring:
        """The change of what was trained, and the losses, by this client's share."""
        shard, secure = self._shard, inner.meta["secure"]
        known, sizes = shard.known(inner.meta["send"])
        layout = UpdateVector.from_dict(secure, sizes, clients=len(sum.cohort), bits=sum.bits)
        sent = reply.arrays["vector"]  # parameters, and after them what is a change already
        change = np.concatenate([sent[: len(known)] - known, sent[len(known) :]])
        rng = generator(shard.seed[0], Stream.ROUNDING, *shard.seed[2:], inner.round)
        share = self._share(secure.get("rows"), len(sum.cohort))
        return layout.encode(change, share, reply.meta["metrics"], rng)

    def _share(self, total: int | None, clients: int) -> float:
        """How much this client counts: by rows if all of them are known, else as every other."""
        if total is None:
            return 1 / clients
        self._disclosed.take_total(total)
        rows = self._shard.rows or 0
        if self._shard.promise.is_private:  # then both are noisy, and may not fit
            return min(rows / max(total, 1), 1.0)
        if not 0 <= rows <= total:
            raise FederationError("the server says that all clients have fewer rows than this one")
        return rows / max(total, 1)
