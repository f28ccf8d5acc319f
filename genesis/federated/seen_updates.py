"""Updates that the server sees, client by client: `SeenUpdates`.

`secure_sums` is the other way, in which it sees their sum alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genesis.federated.aggregation import Aggregator, State, combine
from genesis.federated.clients import Clients
from genesis.federated.messages import Request
from genesis.federated.promise import RunPromise
from genesis.federated.updates import Combined, Hear, mean_metrics, read_updates
from genesis.models.parameters import ParameterLayout

__all__ = ["SeenUpdates"]


@dataclass(frozen=True)
class SeenUpdates:
    """Asks for updates, looks at each, and combines them.

    Args:
        clients: Whom to ask.
        promise: What the run promises.
        rows: Client id -> its number of rows.
        columns: Number of columns, of each of which a rule may have something measured.
    """

    clients: Clients
    promise: RunPromise
    rows: Mapping[str, int]
    columns: int

    def updates(
        self,
        requests: Mapping[str, Request],
        *,
        rule: Aggregator,
        state: State,
        layout: ParameterLayout,
        hear: Hear,
    ) -> Combined:
        """See `Gatherer`."""
        replies = self.clients.exchange(requests) if requests else []
        hear(replies)
        failed = {reply.client_id: reply.error for reply in replies if reply.error}
        parts = _parts(requests)
        updates = read_updates(
            [reply for reply in replies if not reply.error],
            failed,
            vector=state.vector.cpu().numpy(),
            layout=layout,
            parts=parts,
            copies=2 if rule.control_variates else 1,
            rows=self.rows,
            measured=[
                f"{each}.{column}" for each in rule.measures for column in range(self.columns)
            ],
        )
        survivors = tuple(update.client_id for update in updates)
        metrics = mean_metrics(updates, rule.measures)
        if parts == ():
            return Combined(None, survivors, failed, metrics)
        if self.promise.hides_clients:
            return Combined(self.promise.combine(state.vector, updates), survivors, failed, metrics)
        # Whether they are enough for the run, others decide; for none at all there is no mean.
        combined = combine(rule, state, updates) if updates else None
        return Combined(combined, survivors, failed, metrics)


def _parts(requests: Mapping[str, Request]) -> tuple[str, ...] | None:
    """What clients are asked to send: () for nothing, None for everything."""
    for request in requests.values():
        send = request.meta["send"]
        return None if send is None else tuple(send)
    return None
