"""Checkpoints of a run: all that the next round depends on.

A directory holds `checkpoint.safetensors`, the server's part, and a folder with one file a client.
The server's part names the folder and is replaced last, so that a run that dies while it writes
leaves the checkpoint before.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from genesis.encoding.encoder import Encoder
from genesis.errors import ModelFileError, PlanError
from genesis.federated.aggregation import State
from genesis.federated.callbacks import RoundReport
from genesis.federated.parts import folder_of_round
from genesis.federated.plan import Plan
from genesis.model_file import Contents, read_file, write_file
from genesis.tables import make_private_folder

__all__ = ["Checkpoint", "checkpoint_seed"]

FILE = "checkpoint.safetensors"
MAY_CHANGE = ("n_rounds", "timeout_seconds", "min_clients", "max_clients", "proximal_mu")


@dataclass(frozen=True)
class Checkpoint:
    """The server's part of a checkpoint.

    Args:
        plan: The plan of the run.
        encoder: The encoder agreed on.
        state: Global parameters, and what the aggregation rule remembers.
        reports: Of the rounds played.
        numbers: Client id -> its number in the run.
        rows: Client id -> its number of rows.
        last_cohort: Clients that finished the last round.
        used: Clients whose last update was used.
        promise: What the run promises and has released, see `RunPromise.to_dict`.
        sums: What secure aggregation must know, see `SecureSums.to_dict`.
        fit: What a fit from sums goes on from, see `SumFit.to_state`.
        tensors: What of the promise and of the fit is no JSON.
        directory: Where the clients' parts are, once read.
    """

    plan: Plan
    encoder: Encoder
    state: State
    reports: tuple[RoundReport, ...]
    numbers: Mapping[str, int]
    rows: Mapping[str, int]
    last_cohort: frozenset[str]
    used: frozenset[str]
    promise: Mapping[str, Any] = field(default_factory=dict)
    sums: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    directory: Path | None = None

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Whether directory holds a checkpoint."""
        return (directory / FILE).exists()

    def write(self, directory: Path) -> None:
        """Replace the checkpoint in directory; the clients' parts are there already.

        Raises:
            DataError: The disk refuses.
        """
        make_private_folder(directory)
        meta = {
            "plan": self.plan.to_dict(),
            "encoder": self.encoder.to_dict(),
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "numbers": dict(self.numbers),
            "rows": dict(self.rows),
            "last_cohort": sorted(self.last_cohort),
            "used": sorted(self.used),
            "promise": dict(self.promise),
            "sums": dict(self.sums),
            "fit": dict(self.fit),
        }
        tensors = {**self.state.to_tensors(), **self.tensors}
        write_file(directory / FILE, Contents("checkpoint", meta, tensors))
        kept = folder_of_round(directory, len(self.reports))
        for old in directory.glob("round-[0-9][0-9][0-9][0-9][0-9]"):
            if old != kept:
                shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def read(cls, directory: str | Path, plan: Plan) -> Checkpoint:
        """Read the checkpoint in directory, to continue it under plan.

        Raises:
            ModelFileError: There is none, or it is damaged.
            PlanError: It belongs to another plan.
        """
        directory = Path(directory)
        contents = read_file(directory / FILE, "checkpoint")
        meta = contents.meta
        try:
            reports = tuple(_report(each) for each in meta["reports"])
            checkpoint = cls(
                plan=plan,
                encoder=Encoder.from_dict(meta["encoder"]),
                state=State.from_tensors(contents.tensors),
                reports=reports,
                numbers={str(name): int(number) for name, number in meta["numbers"].items()},
                rows={str(name): int(rows) for name, rows in meta["rows"].items()},
                last_cohort=frozenset(meta["last_cohort"]),
                used=frozenset(meta["used"]),
                promise=meta["promise"],
                sums=meta.get("sums", {}),
                fit=meta.get("fit", {}),
                tensors=contents.tensors,
                directory=folder_of_round(directory, len(reports)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{directory} holds a damaged checkpoint") from error
        _check_same(meta["plan"], plan, len(reports))
        return checkpoint


def checkpoint_seed(directory: str | Path) -> int:
    """The seed of the run that a checkpoint belongs to.

    Raises:
        ModelFileError: There is no checkpoint, or it is damaged.
    """
    meta = read_file(Path(directory) / FILE, "checkpoint").meta
    try:
        return int(meta["plan"]["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{directory} holds a damaged checkpoint") from error


def _report(values: Mapping[str, object]) -> RoundReport:
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return RoundReport(**tuples)  # type: ignore[arg-type]


def _check_same(before: Mapping[str, object], plan: Plan, played: int) -> None:
    """A run continues under the plan it began with; only how long it lasts may change."""
    now = plan.to_dict()
    for name, value in now.items():
        if name in MAY_CHANGE or before.get(name) == value:
            continue
        raise PlanError(
            f"the checkpoint was made with another {name}",
            got=f"{value!r} instead of {before.get(name)!r}",
            do="continue with the same choices, or start anew",
        )
    shorter = dataclasses.replace(plan, n_rounds=int(str(before["n_rounds"])))
    changed = shorter.epochs_per_round != plan.epochs_per_round
    changed |= any(shorter.synchronized(r) != plan.synchronized(r) for r in range(played))
    if before["n_rounds"] != plan.n_rounds and (changed or plan.lr_schedule != "constant"):
        raise PlanError(
            "with another number of rounds the earlier rounds would have been others",
            got=f"{plan.n_rounds} rounds instead of {before['n_rounds']}",
            do="set local_epochs, a constant lr_schedule and sync_every 1, or keep the number of "
            "rounds",
        )
