"""What a client decides by itself, and how large batches are where nobody decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genesis.errors import PlanError
from genesis.federated.plan import check_number, check_whole
from genesis.models import GenerativeModel

__all__ = ["FULL_BATCH", "LocalChoices", "batch_size_for", "private_batch_size"]

FULL_BATCH = 500  # batch size of a client that holds all rows
SMALLEST_BATCH = 50  # below, batch normalisation has too few rows to normalise by


@dataclass(frozen=True)
class LocalChoices:
    """What a client decides by itself, whatever the plan says.

    Args:
        local_epochs: Epochs in a round.
        batch_size: Rows of a step.
        learning_rate: Learning rate.
        max_grad_norm: Largest L2 norm of its change of the parameters; the smaller of its own and
            the plan's holds.
        clip_per_layer: Clip each of the L tensors to max_grad_norm / sqrt(L).

    Raises:
        PlanError: One is impossible.
    """

    local_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    max_grad_norm: float | None = None
    clip_per_layer: bool = False

    def __post_init__(self) -> None:
        check_whole("local_epochs", self.local_epochs, 1)
        check_whole("batch_size", self.batch_size, 2)
        check_number("learning_rate", self.learning_rate)
        check_number("max_grad_norm", self.max_grad_norm)
        if self.clip_per_layer and self.max_grad_norm is None:
            raise PlanError("clip_per_layer needs a norm to clip to", do="set max_grad_norm")

    def applied_to(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The plan's config of the model with these choices."""
        own = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return {**config, **{name: value for name, value in own.items() if value is not None}}

    def clipping(self, max_norm: float | None, per_layer: bool) -> tuple[float | None, bool]:
        """The stricter of the plan's and these."""
        norms = [norm for norm in (max_norm, self.max_grad_norm) if norm is not None]
        return min(norms, default=None), per_layer or self.clip_per_layer


def batch_size_for(model: GenerativeModel, config: Mapping[str, Any], rows: int, total: int) -> int:
    """Rows of a step, for a shard of some rows out of a total.

    If the config does not say and the shard holds the share s of all rows, 500 s (1 + s) / 2, and
    at least 50. With 500 s every client would make as many steps in an epoch as one client with all
    the rows; small clients make up to twice as many, for what averaging takes back. With 500
    regardless, each of K clients would make a K-th of the steps and learn next to nothing.
    """
    if "batch_size" in config:
        return int(config["batch_size"])
    share = rows / max(total, 1)
    multiple = model.batch_multiple
    fitting = round(FULL_BATCH * share * (1 + share) / 2 / multiple) * multiple
    smallest = math.ceil(SMALLEST_BATCH / multiple) * multiple
    return max(min(fitting, FULL_BATCH), smallest)


def private_batch_size(config: Mapping[str, Any]) -> int:
    """Rows expected in a private step.

    Steps cost privacy and rows do not, so a small shard makes as few as one with all the rows.
    """
    return int(config.get("batch_size", FULL_BATCH))
