"""The ledger: nothing is forgotten, and nothing is released that was not written down before."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis.errors import DataError, PrivacyError
from genesis.privacy.events import Event, Gaussian, SampledGaussian, Skellam, times
from genesis.privacy.ledger import Ledger, LedgerFile

COUNTS = Skellam(40.0, 3, "counts")
STEPS = SampledGaussian(1.0, 0.01, 100, "steps")


def opened(path: Path, budget: float | None = None) -> LedgerFile:
    return LedgerFile(path, budget=budget, delta=1e-5)


# --- in memory ---

EVENTS = st.sampled_from(
    [COUNTS, STEPS, SampledGaussian(1.0, 0.01, 7, "steps"), Gaussian(3.0), Gaussian(3.0, 2, "b")]
)


def singles(events: list[Event] | tuple[Event, ...]) -> list[Event]:
    """Every release by itself."""
    return [
        single
        for event in events
        for single in [Ledger((event,)).to_list()[0] | {"count": 1, "steps": 1}] * times(event)
    ]


@given(st.lists(EVENTS, max_size=6))
def test_like_releases_are_joined_and_none_is_lost(events: list[Event]) -> None:
    ledger = Ledger()
    for event in events:
        before, ledger = ledger, ledger.with_event(event)
        assert before.is_within(ledger)
        assert not ledger.is_within(before)
    assert singles(ledger.events) == singles(events)
    assert Ledger.from_list(json.loads(json.dumps(ledger.to_list()))) == ledger


def test_a_ledger_is_split_by_what_releases_were_for() -> None:
    ledger = Ledger((COUNTS, STEPS, COUNTS))
    split = ledger.split(1e-5)
    assert split == {
        "counts": Ledger((COUNTS, COUNTS)).epsilon(1e-5),
        "steps": Ledger((STEPS,)).epsilon(1e-5),
    }
    assert max(split.values()) < ledger.epsilon(1e-5) < sum(split.values())


# --- on disk ---


def test_what_was_spent_is_there_when_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    file = opened(path)
    assert file.spent() == 0
    file.spend([COUNTS, STEPS], "a")
    file.spend([STEPS], "a")
    file.spend([COUNTS], "b")
    again = opened(path)
    assert again.ledger("a").events == (COUNTS, SampledGaussian(1.0, 0.01, 200, "steps"))
    assert again.ledger("b").events == (COUNTS,)
    assert again.ledger("c").events == ()
    assert again.spent() == again.ledger().epsilon(1e-5) > again.ledger("a").epsilon(1e-5)


def test_a_run_between_does_not_part_the_releases_of_another(tmp_path: Path) -> None:
    file = opened(tmp_path / "ledger.json")
    for run in "abab":
        file.spend([STEPS], run)
    assert file.ledger("a").events == (SampledGaussian(1.0, 0.01, 200, "steps"),)


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    opened(path).spend([COUNTS], "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_runs_cannot_pass_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    one = Ledger((STEPS,)).epsilon(1e-5)
    opened(path, budget=one * 1.01).spend([STEPS], "a")
    for run in ("a", "b"):
        before = path.read_bytes()
        with pytest.raises(PrivacyError, match=r"more than the budget in ledger.json; got ε = "):
            opened(path).spend([STEPS], run)
        with pytest.raises(PrivacyError, match="more than the budget"):
            opened(path).check([STEPS])
        assert path.read_bytes() == before


def test_of_releases_that_are_too_many_none_is_written_down(tmp_path: Path) -> None:
    file = opened(tmp_path / "ledger.json", budget=Ledger((COUNTS,)).epsilon(1e-5) * 1.01)
    with pytest.raises(PrivacyError, match="more than the budget"):
        file.spend([COUNTS, STEPS], "a")
    assert file.spent() == 0
    file.spend([COUNTS], "a")


def test_the_budget_in_the_file_holds_for_who_opened_it_before(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    early = opened(path)
    late = opened(path, budget=0.01)
    for file in (early, late, opened(path)):
        with pytest.raises(PrivacyError, match="more than the budget"):
            file.spend([STEPS], "a")
    opened(path, budget=5.0)  # its owner raises it
    early.spend([STEPS], "a")
    assert json.loads(path.read_text())["budget"] == 5.0


def test_the_delta_of_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    LedgerFile(path, budget=None, delta=1e-7)
    file = LedgerFile(path, budget=None, delta=0.5)
    file.spend([STEPS], "a")
    assert file.spent() == Ledger((STEPS,)).epsilon(1e-7)


PROGRAM = """
import sys
from genesis.errors import PrivacyError
from genesis.privacy.events import SampledGaussian
from genesis.privacy.ledger import LedgerFile
file = LedgerFile(sys.argv[1], budget=None, delta=1e-5)
done = 0
for _ in range(3):
    try:
        file.spend([SampledGaussian(1.0, 0.01, 100, "steps")], sys.argv[2])
        done += 1
    except PrivacyError:
        pass
print(done)
"""


def test_two_processes_cannot_spend_the_same_twice(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    opened(path, budget=Ledger((SampledGaussian(1.0, 0.01, 400),)).epsilon(1e-5) * 1.001)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), run], stdout=subprocess.PIPE, text=True
        )
        for run in "ab"
    ]
    done = [int(program.communicate()[0]) for program in programs]
    ledger = opened(path).ledger()
    assert sum(done) == 4
    assert sum(map(times, ledger.events)) == 400


def test_a_link_and_its_file_are_one_ledger(tmp_path: Path) -> None:
    path, link = tmp_path / "ledger.json", tmp_path / "elsewhere" / "link.json"
    link.parent.mkdir()
    link.symlink_to(path)
    opened(path)
    opened(link).spend([STEPS], "a")
    assert link.is_symlink()
    assert opened(path).ledger("a").events == (STEPS,)


WHOLE: dict[str, Any] = {
    "version": 1,
    "unit": "record",
    "budget": 3.0,
    "delta": 1e-5,
    "releases": [{"run": "a", "event": {"kind": "gaussian", "noise_multiplier": 2.0}}],
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        "[" * 100_000,
        *(json.dumps({k: v for k, v in WHOLE.items() if k != name}) for name in WHOLE),
        *(
            json.dumps(WHOLE | change)
            for change in (
                {"version": 2},
                {"unit": "client"},
                {"budget": math.nan},
                {"budget": math.inf},
                {"budget": -1.0},
                {"budget": "3"},
                {"delta": math.nan},
                {"delta": 0},
                {"delta": 1.0},
                {"delta": None},
                {"delta": "1e-5"},
                {"releases": None},
                {"releases": {}},
                {"releases": ""},
                {"releases": [{}]},
                {"releases": ["a"]},
                {"releases": [{"run": "a"}]},
                {"releases": [{"run": "a", "event": {"kind": "laplace", "scale": 1.0}}]},
                {"releases": [{"run": None, "event": WHOLE["releases"][0]["event"]}]},
                {"releases": [{"event": WHOLE["releases"][0]["event"]}]},
            )
        ),
    ],
)
def test_a_damaged_ledger_stops_everything(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    file = opened(path)
    path.write_text(text)
    attempts = [
        lambda: opened(path),
        lambda: opened(path, budget=9.0),
        lambda: file.spend([COUNTS], "a"),
        lambda: file.check([COUNTS]),
        lambda: file.ledger("a"),
        file.spent,
    ]
    for attempt in attempts:
        with pytest.raises(PrivacyError) as error:
            attempt()
        assert "\n" not in str(error.value)
    assert path.read_text() == text  # for whoever mends it


def test_bytes_that_are_no_text_stop_everything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PrivacyError, match="cannot be read"):
        opened(path)


def test_a_ledger_that_disappears_is_not_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    file = opened(path)
    file.spend([COUNTS], "a")
    path.unlink()
    for attempt in (lambda: file.spend([COUNTS], "a"), file.spent, lambda: file.check([COUNTS])):
        with pytest.raises(PrivacyError, match="is gone"):
            attempt()
    assert not path.exists()


def test_a_full_disk_is_told_and_spends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.json"
    file = opened(path)
    file.spend([COUNTS], "a")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(DataError, match="No space left"):
            file.spend([STEPS], "a")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be kept|cannot write"):
        opened(tmp_path / "file" / "ledger.json")


def test_a_ledger_held_by_another_program_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    path = tmp_path / "ledger.json"
    file = opened(path)
    monkeypatch.setattr("genesis.privacy.ledger.LOCK_SECONDS", 0.05)
    with (
        FileLock(str(path) + ".lock"),
        pytest.raises(PrivacyError, match="another program holds the ledger"),
    ):
        file.spend([COUNTS], "a")
    assert file.spent() == 0
