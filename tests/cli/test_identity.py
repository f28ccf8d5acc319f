"""`genesis federated identity`."""

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from genesis_cli.federated import federated

from genesis.federated.secagg.identity import (
    Identity,
    Roster,
    fingerprint,
    read_key,
    roster_line,
)

ROOT = Path(__file__).parents[2]
Make = Callable[..., Result]


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Run the command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(federated, ["identity", *words], env=env)

    return run


def test_makes_a_key_and_says_its_line(identity: Make) -> None:
    done = identity("--output", "north.key", "--client-id", "north")
    assert done.exit_code == 0
    assert stat.S_IMODE(Path("north.key").stat().st_mode) == 0o600
    public = Identity.load("north.key").public
    assert done.stdout.count("\n") == 1
    Path("roster.toml").write_text(done.stdout)
    assert dict(Roster.load("roster.toml")) == {"north": public}
    assert done.stderr.startswith("north.key: a new key, not encrypted.")
    assert done.stderr.rstrip().endswith(fingerprint(public))
    assert len(done.stderr.splitlines()) == 3


def test_shows_a_key_that_is_there(identity: Make) -> None:
    first = identity("--output", "north.key", "--client-id", "north")
    before = Path("north.key").read_bytes()
    again = identity("--output", "north.key", "--client-id", "north")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert again.stderr.startswith("north.key: the key that was there.")
    assert Path("north.key").read_bytes() == before


def test_lines_add_up_to_a_roster(identity: Make) -> None:
    names = ["north", "ward 3", "west.example"]
    lines = ""
    for number, name in enumerate(names):
        done = identity("--output", f"{number}.key", "--client-id", name, "--quiet")
        assert (done.exit_code, done.stderr) == (0, "")
        lines += done.stdout
    Path("roster.toml").write_text(lines)
    done = identity("--fingerprints", "roster.toml")
    assert (done.exit_code, done.stderr) == (0, "")
    shown = [
        f"{fingerprint(Identity.load(f'{number}.key').public)}  {name}"
        for number, name in enumerate(names)
    ]
    assert done.stdout.splitlines() == shown


def test_names_and_the_environment(identity: Make) -> None:
    done = identity("--output", "a.key")
    Path("roster.toml").write_text(done.stdout)
    assert list(Roster.load("roster.toml")) == [socket.gethostname()]
    env = {"GENESIS_OUTPUT": "a.key", "GENESIS_CLIENT_ID": "north", "GENESIS_QUIET": "1"}
    done = identity(env=env)
    assert done.stdout.startswith('north = "ed25519:')
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "error: nothing to do: give --output or --fingerprints; see"),
        (["--output", "a", "--fingerprints", "b"], 2, "error: --fingerprints makes no key"),
        (["--output", "no/a.key"], 1, "error: cannot write no/a.key; got no such folder"),
        (["--output", "a.key", "--client-id", ""], 1, "error: a client id is printable text"),
        (["--output", "table.csv"], 1, "error: table.csv is no private key in PEM, or is damaged"),
        (["--fingerprints", "none"], 1, "error: the roster none cannot be read; got No such"),
        (["--fingerprints", "table.csv"], 1, "error: table.csv is no roster; got"),
    ],
)
def test_errors(identity: Make, words: list[str], status: int, message: str) -> None:
    Path("table.csv").write_text("age,sex\n31,Female\n")
    done = identity(*words)
    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["table.csv"]
    assert Path("table.csv").read_text() == "age,sex\n31,Female\n"


def test_the_tutorial(tmp_path: Path) -> None:
    """The commands of docs/secure-aggregation.md that need no network, as printed."""
    page = (ROOT / "docs" / "secure-aggregation.md").read_text(encoding="utf-8")
    for name in ("south", "west"):
        line = roster_line(name, Identity.generate().public)
        (tmp_path / f"{name}.line").write_text(f"{line}\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    script = "".join(block for block in blocks if "identity --" in block)
    assert script.count("genesis federated identity") == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    roster = Roster.load(tmp_path / "roster.toml")
    shown = [f"{fingerprint(key)}  {name}" for name, key in roster.items()]
    assert list(roster) == ["north", "south", "west"]
    assert done.stdout.splitlines() == shown
    # What is printed of the first key belongs together.
    (printed,) = re.findall(r'^north = "(ed25519:.*)"$', page, re.MULTILINE)
    assert page.count(fingerprint(read_key(printed))) == 2
    assert (
        f"Its fingerprint, to compare by telephone: {fingerprint(roster['north'])}" in done.stderr
    )
