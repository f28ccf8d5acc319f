"""The groups: help, versions, and errors of every sort in one line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from genesis_cli.federated import federated
from genesis_cli.group import Commands
from genesis_cli.main import genesis as program

import genesis
from tests.cli.conftest import Run


@pytest.mark.parametrize("group", [program, federated])
def test_help_lists_what_the_commands_say_of_themselves(group: Commands) -> None:
    text = CliRunner().invoke(group, ["--help"]).stdout
    with click.Context(group) as ctx:
        for name, (_, line) in group.lazy.items():
            command = group.get_command(ctx, name)
            assert command is not None
            assert command.name == name
            assert command.short_help == line
            assert line in text


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command."""
    found = []
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            deeper = isinstance(command, click.Group)
            found += _commands(command, (*path, name)) if deeper else [(*path, name)]
    return found


@pytest.mark.parametrize("words", _commands(program), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(program, [*words, "-h"])
    assert done.exit_code == 0
    assert f"genesis {' '.join(words)} " in done.stdout.partition("Example")[2]


def test_genesis_federated_is_the_same_group() -> None:
    one = CliRunner().invoke(program, ["federated", "simulate", "--help"]).stdout
    other = CliRunner().invoke(federated, ["simulate", "--help"]).stdout
    assert one.partition("\n")[2] == other.partition("\n")[2]


def test_version(run: Run) -> None:
    done = run(["--version"])
    assert (done.exit_code, done.stdout) == (0, f"genesis {genesis.__version__}\n")


def test_no_command_shows_help(run: Run) -> None:
    done = run([])
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: genesis")


def _raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let reading a table fail."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(genesis, "read_table", fail)


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (genesis.DataError("a", got="b", do="c"), "a; got b; c", 1),
        (genesis.DataError("a\nb"), "a b", 1),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.csv"),
            "cannot use 'x.csv'; got no space left on device",
            1,
        ),
        (OSError(errno.EIO, "Input/output error"), "the system refused; got input/output error", 1),
        (MemoryError(), "out of memory; use fewer rows", 1),
        (ValueError("two\nlines"), "unexpected ValueError: two lines; run", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str, status: int
) -> None:
    _raises(monkeypatch, error)
    done = run(["schema", "north.csv"])
    assert done.exit_code == status
    assert done.stderr.strip().startswith(f"error: {line}")
    assert done.stderr.strip().count("\n") == 0


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _raises(monkeypatch, ValueError("wrong"))
    for words, env in [
        (["--debug", "schema", "north.csv"], {}),
        (["schema", "north.csv"], {"GENESIS_DEBUG": "1"}),
    ]:
        done = run(words, env)
        assert done.exit_code == 1
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: unexpected ValueError: wrong")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(run: Run) -> None:  # noqa: ARG001 (its folder)
    """Standard output is an output too."""
    code = "from genesis_cli.main import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "schema", "north.csv"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "error: the system refused; got no space left on device" in done.stderr
    assert "Traceback" not in done.stderr
