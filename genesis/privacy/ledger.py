"""The ledger: all that was released about a table, and the file in which its owner keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis.errors import DataError, PrivacyError
from genesis.privacy.accounting import epsilon
from genesis.privacy.events import Event, event_from_dict, event_to_dict, repeated, times

__all__ = ["Ledger", "LedgerFile", "read_ledger"]

VERSION = 1
LOCK_SECONDS = 60.0  # that another program may take to write one line


@dataclass(frozen=True)
class Ledger:
    """What was released, in order. Nothing is ever taken out.

    Args:
        events: The releases.
    """

    events: tuple[Event, ...] = ()

    def with_event(self, event: Event) -> Ledger:
        """The ledger after one more release; one like the last becomes more of it."""
        if self.events and (joined := _joined(self.events[-1], event)) is not None:
            return Ledger((*self.events[:-1], joined))
        return Ledger((*self.events, event))

    def is_within(self, other: Ledger) -> bool:
        """Whether it is a beginning of another ledger, which then costs no less."""
        if len(self.events) > len(other.events):
            return False
        pairs = list(zip(self.events, other.events, strict=False))
        same = all(repeated(mine, 1) == repeated(others, 1) for mine, others in pairs)
        return same and all(times(mine) <= times(others) for mine, others in pairs)

    def epsilon(self, delta: float) -> float:
        """What all of it costs; see `accounting.epsilon`."""
        return epsilon(self.events, delta)

    def spending(self, events: Iterable[Event], epsilon: float, delta: float) -> Ledger:
        """The ledger after more releases, if all of it costs no more than was promised.

        Raises:
            PrivacyError: It costs more.
        """
        after = self
        for event in events:
            after = after.with_event(event)
        cost = after.epsilon(delta)
        if cost > epsilon:
            raise PrivacyError(
                "this would release more than was promised",
                got=f"ε = {cost:.4g} of {epsilon:g}, at δ = {delta:g}",
                do="end the run here, or promise a larger epsilon in a new one",
            )
        return after

    def split(self, delta: float) -> dict[str, float]:
        """Purpose -> ε of the releases for it alone. Their sum is more than they cost together."""
        purposes = dict.fromkeys(event.purpose for event in self.events)
        return {
            purpose: epsilon([e for e in self.events if e.purpose == purpose], delta)
            for purpose in purposes
        }

    def to_list(self) -> list[dict[str, Any]]:
        """As JSON values."""
        return [event_to_dict(event) for event in self.events]

    @classmethod
    def from_list(cls, values: Iterable[Mapping[str, Any]]) -> Ledger:
        """The inverse of `to_list`.

        Raises:
            PrivacyError: One is no event that can be accounted for.
        """
        return cls(tuple(event_from_dict(each) for each in values))


class LedgerFile:
    """What was released about one table in all runs ever, on its owner's disk.

    A release is written down before it happens, and refused where the budget does not allow it. A
    file that is missing is begun; one that is damaged, or disappears later, stops everything. What
    the file says of its budget holds, for programs too that have had it open for long.

    Args:
        path: The file. Beside it lies a lock, so that two runs cannot spend the same twice.
        budget: ε that all runs together may cost, or None to keep what the file says.
        delta: δ of the budget, for a file that is begun.

    Raises:
        PrivacyError: The file is damaged, or of another version.
        DataError: The disk refuses.
    """

    def __init__(self, path: str | Path, *, budget: float | None, delta: float) -> None:
        # Not a link to it: that would be replaced, and the file would not know what came after.
        self.path = Path(path).resolve()
        with self._locked():
            begun = {"version": VERSION, "unit": "record", "budget": None, "delta": delta}
            known = self._read() if self.path.exists() else {**begun, "releases": []}
            if budget is not None:
                known["budget"] = float(budget)
            self._write(known)

    def ledger(self, run: str | None = None) -> Ledger:
        """All releases, or those of one run."""
        with self._locked():
            return _ledger(self._read()["releases"], run)

    def spent(self) -> float:
        """ε of all releases, at the δ of the file."""
        with self._locked():
            known = self._read()
        return _ledger(known["releases"], None).epsilon(known["delta"])

    def check(self, events: Sequence[Event]) -> None:
        """Make sure that the budget allows some releases.

        Raises:
            PrivacyError: It does not.
        """
        with self._locked():
            self._check(self._read(), events)

    def spend(self, events: Sequence[Event], run: str) -> None:
        """Write releases down, all or none. Only then may they happen.

        Raises:
            PrivacyError: The budget does not allow it.
            DataError: The disk refuses.
        """
        with self._locked():
            known = self._read()
            self._check(known, events)
            releases = known["releases"]
            for event in events:
                if releases and releases[-1]["run"] == run:
                    joined = _joined(event_from_dict(releases[-1]["event"]), event)
                    if joined is not None:
                        event = joined
                        del releases[-1]
                releases.append({"run": run, "event": event_to_dict(event)})
            self._write(known)

    def _check(self, known: Mapping[str, Any], events: Sequence[Event]) -> None:
        """Raise PrivacyError where events would cost more than is left."""
        budget, delta = known["budget"], known["delta"]
        if budget is None:
            return
        before = _ledger(known["releases"], None)
        after = epsilon([*before.events, *events], delta)
        if after > budget:
            raise PrivacyError(
                f"this would spend more than the budget in {self.path.name}",
                got=f"ε = {before.epsilon(delta):.4g} spent, {after:.4g} with this, of "
                f"{budget:.4g}",
                do="ask for a smaller epsilon, or let the table's owner raise the budget",
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other programs out."""
        from filelock import FileLock, Timeout

        if not self.path.parent.is_dir():  # a lock would be made with its folder
            raise DataError(
                f"the ledger {self.path} cannot be kept", got="no such folder", do="make it first"
            )
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            with FileLock(lock, timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise PrivacyError(
                f"another program holds the ledger {self.path.name}", do="try again when it is done"
            ) from None
        except OSError as error:
            raise DataError(
                f"the ledger {self.path.name} cannot be kept",
                got=error.strerror,
                do="choose another",
            ) from error

    def _read(self) -> dict[str, Any]:
        """What the file says, which was there when it was opened."""
        try:
            return read_ledger(self.path)
        except FileNotFoundError:
            raise PrivacyError(f"the ledger {self.path.name} is gone", do=_MEND) from None

    def _write(self, known: Mapping[str, Any]) -> None:
        """Replace the file."""
        from genesis.tables import write_private  # here, because it brings pandas

        write_private(self.path, json.dumps(known, indent=1))


_MEND = "bring the last good copy back: without it nobody knows what was spent"


def read_ledger(path: Path) -> dict[str, Any]:
    """What a ledger's file says. Nothing is written, and nobody is kept out.

    Returns:
        "budget": ε or None, "delta", and "releases": each of a "run", and its "event".

    Raises:
        PrivacyError: It is damaged, or of another version.
        FileNotFoundError: There is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise PrivacyError(f"the ledger {path.name} cannot be read", do=_MEND) from error
    try:
        known = json.loads(text)
        if known["version"] != VERSION:
            raise PrivacyError(f"the ledger {path.name} is of another version", do="update Genesis")
        # A budget that is missing, or not a number, would allow everything.
        budget, delta = known["budget"], known["delta"]
        if not (0 < delta < 1 and (budget is None or 0 < budget < math.inf)):
            raise ValueError("no budget")
        if known["unit"] != "record" or not isinstance(known["releases"], list):
            raise ValueError("no releases of records")
        if not all(isinstance(each["run"], str) for each in known["releases"]):
            raise ValueError("no name of a run")
        _ledger(known["releases"], None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PrivacyError(f"the ledger {path.name} is damaged", do=_MEND) from error
    return dict(known)


def _ledger(releases: Sequence[Mapping[str, Any]], run: str | None) -> Ledger:
    """The releases of a file, all or those of one run."""
    ledger = Ledger()
    for each in releases:
        if run in (None, each["run"]):
            ledger = ledger.with_event(event_from_dict(each["event"]))
    return ledger


def _joined(last: Event, event: Event) -> Event | None:
    """Two events as one, if they differ in nothing but how often they happened."""
    if repeated(last, 1) != repeated(event, 1):
        return None
    return repeated(last, times(last) + times(event))
