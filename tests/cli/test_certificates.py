"""`genesis federated certificates`."""

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from genesis_cli.group import Commands

GROUP = Commands("federated", {"certificates": (".certificates:certificates", "Certificates.")})
Make = Callable[..., Result]
HEAVY = ["cryptography", "pandas", "numpy", "torch"]


@pytest.fixture
def certificates(folder: Path) -> Make:  # noqa: ARG001 (only there)
    """Run the command, in a folder of its own."""

    def run(*words: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(GROUP, ["certificates", *words], env=env)

    return run


def test_says_what_it_wrote(certificates: Make) -> None:
    words = ["--output", "out", "--server", "a.example.org,192.0.2.7", "--server", "b"]
    done = certificates(*words, "--client", "north", "--client", "ward 3")
    assert (done.exit_code, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("out/ca.crt: authority 'Genesis federation', until 20")
    names = "localhost, 127.0.0.1, ::1, a.example.org, 192.0.2.7, b"
    assert lines[1].startswith(f"out/server.crt: server {names}, until 20")
    assert lines[2].startswith("out/clients/north.crt: client 'north', until 20")
    assert lines[3].startswith("out/clients/ward%203.crt: client 'ward 3', until 20")
    assert "not encrypted" in lines[4]
    assert lines[5].startswith("Keep out/ca.key off the server")
    written = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")}
    stems = ["ca", "server", "clients/north", "clients/ward%203"]
    assert written == {f"{stem}.{end}" for stem in stems for end in ("crt", "key")}
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile="out/ca.crt")
    context.load_cert_chain("out/server.crt", "out/server.key")
    assert len(context.get_ca_certs()) == 1


def test_a_client_later(certificates: Make) -> None:
    assert certificates("--output", "out", "--server", "b", "--name", "Ärzte").exit_code == 0
    authority = Path("out/ca.key").read_bytes()
    done = certificates("--output", "out", "--client", "north", "--days", "30", "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    assert Path("out/ca.key").read_bytes() == authority
    again = ["--output", "out", "--client", "north"]
    done = certificates(*again)
    assert done.exit_code == 1
    assert done.stderr == (
        "error: out/clients/north.crt is there already; "
        "renew it (--renew), or choose another folder\n"
    )
    before = Path("out/clients/north.crt").read_bytes()
    assert certificates(*again, "--renew").exit_code == 0
    assert Path("out/clients/north.crt").read_bytes() != before


def test_from_the_environment(certificates: Make) -> None:
    env = {"GENESIS_OUTPUT": "out", "GENESIS_SERVER": "a,b", "GENESIS_CLIENT": "north south"}
    done = certificates(env=env)
    assert done.exit_code == 0
    for part in ("::1, a, b, until", "client 'north'", "client 'south'"):
        assert part in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "error: missing option '--output'"),
        (["--output", "out"], 2, "error: nothing to make: give --server, --client or both; see"),
        (["--output", "out", "--days", "x", "--client", "a"], 2, "error: invalid value for"),
        (["--output", "out", "--days", "0", "--client", "a"], 1, "error: certificates are valid"),
        (["--output", "out", "--server", "https://a"], 1, "error: the server's name is neither"),
        (["--output", "out", "--client", "a" * 65], 1, "error: the id of a client is empty or"),
        (["--output", "no/out", "--client", "a"], 1, "error: cannot make the folder no/out; got"),
    ],
)
def test_errors(certificates: Make, words: list[str], status: int, message: str) -> None:
    done = certificates(*words)
    assert done.exit_code == status
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_help_comes_at_once(certificates: Make) -> None:
    done = certificates("--help")
    assert done.exit_code == 0
    assert "genesis federated certificates " in done.stdout.partition("Examples:")[2]
    code = (
        "import sys; from genesis_cli.certificates import certificates\n"
        "certificates.main(['--help'], standalone_mode=False)\n"
        f"sys.exit(', '.join(set({HEAVY}) & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
