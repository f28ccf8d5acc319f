"""`genesis federated status`, asked of a real server."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from genesis_cli import status as command
from genesis_cli.group import Commands
from genesis_cli.status import status_as_text
from hypothesis import given
from hypothesis import strategies as st

from tests.federated.http import EVIL, HOSTILE, Stub, client, report, status

GROUP = Commands("federated", {"status": (".status:status", "Show how a run on a server is.")})
PROGRAM = [
    sys.executable,
    "-c",
    "from genesis_cli.group import Commands\n"
    "Commands('federated', {'status': ('.status:status', '')}).main(prog_name='genesis')",
    "status",
]
TOKEN = "a-token-of-sixteen-letters"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of its own, and neither tokens nor options nor proxies in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("GENESIS_", "FEDERATED_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server that has a run."""
    with Stub() as stub:
        stub.tell(status())
        yield stub


def ask(url: str, *words: object, env: dict[str, str] | None = None) -> Result:
    """Run the command."""
    line = ["status", "--server", url, *map(str, words)]
    return CliRunner().invoke(GROUP, line, env=env)


def fails(done: Result, *parts: str) -> None:
    """Assert that a command failed with one line that holds some parts, and no token."""
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    for part in parts:
        assert part in done.stderr
    assert TOKEN not in done.stderr
    assert "unexpected" not in done.stderr


# What is shown.


def test_a_table_for_people(stub: Stub) -> None:
    clients = [
        client("north"),
        client("south-west", state="absent", last_seen=5025.0, rows=1_234_567, task=None),
        client("年収", last_seen=None, rows=None, rounds=0),
    ]
    last = report(2, ["north"], failed={"south-west": "no rows"}, dropped=["年収"])
    stub.tell(status(2, clients=clients, rounds=[report(1, []), last], epsilon=1.25))
    done = ask(stub.url)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
state    training
round    2 of 10, 1 min 23 s so far, about 3 min 20 s left
losses   generator -0.6252, condition 1.057, discriminator -0.5718
missed   south-west (no rows), 年収 (no answer)
run      ctgan, fedavg
privacy  ε 1.25 promised
traffic  5,432 rows/s, 12.3 MB received, 1.0 MB sent

client      state         last seen       rows  task   rounds
north       working         1 s ago     12,345  train       3
south-west  absent   1 h 23 min ago  1,234,567  –           3
年収        working               –          –  train       0
"""
    )


def test_a_run_that_waits(stub: Stub) -> None:
    stub.tell(status(0, (), state="waiting", rows_per_second=None, seconds_left=None))
    text = ask(stub.url).stdout
    assert text.startswith("state    waiting\nround    0 of 10, 1 min 23 s so far\nrun ")
    assert "no differential privacy" in text
    assert text.endswith("no clients yet\n")


@pytest.mark.parametrize("state", ["failed", "interrupted", "complete"])
def test_a_run_that_is_over_is_no_error(state: str, stub: Stub) -> None:
    stub.tell(status(state=state, reason="too few clients"))
    done = ask(stub.url)
    assert done.exit_code == 0
    assert f"state    {state}: too few clients\n" in done.stdout
    assert "left" not in done.stdout


def test_json_is_what_the_server_told(stub: Stub) -> None:
    told = status(2, tuple(HOSTILE)) | {"of another version": [1, {"deep": None}], "big": 10**30}
    stub.tell(told)
    done = ask(stub.url, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == told
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_json_needs_no_file(stub: Stub) -> None:
    """For other commands, GENESIS_JSON is a file."""
    done = ask(stub.url, env={"GENESIS_JSON": "scores.json"})
    assert done.stdout.startswith("state ")


def test_hostile_names_command_no_terminal(stub: Stub) -> None:
    names = (*HOSTILE, "\x1b]0;title\x07shown", "\x9b2Jgone", "a\u2028b\u200bc", "\x1b")
    last = report(1, [], failed={EVIL: "\x1b[2Jwhy\n"}, metrics={"a\x1b[1mb_loss": 1.0})
    stub.tell(status(1, names, state="failed", reason="one\ntwo\x1b[31m", rounds=[last]))
    text = ask(stub.url).stdout
    assert "state    failed: one two\n" in text
    assert f"missed   {EVIL} (why)\n" in text
    assert "losses   ab 1\n" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u200b\u202e\ud800-\udfff]", text)
    lines = text.partition("rounds\n")[2].splitlines()
    assert len(lines) == len(names)
    starts = "north\ufffdred south", "yyyyyyyy", "shown ", "gone ", "a b\ufffdc "
    assert all(any(line.startswith(start) for line in lines) for start in starts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
KEYS = ["reason", "method", "aggregation", "seconds", "seconds_left", "epsilon", "rows_per_second"]
KEYS += ["bytes_received", "bytes_sent", "secure_aggregation"]


@given(
    st.fixed_dictionaries(
        {
            "state": st.text(),
            "round": st.integers(),
            "n_rounds": st.integers(),
            "clients": st.lists(
                st.dictionaries(
                    st.sampled_from(["client_id", "state", "last_seen", "rows", "task", "rounds"]),
                    JSON,
                ),
                max_size=3,
            ),
            "rounds": st.lists(
                st.dictionaries(st.sampled_from(["metrics", "failed", "dropped"]), JSON), max_size=2
            ),
        },
        optional=dict.fromkeys(KEYS, JSON),
    )
)
def test_whatever_else_a_status_holds(found: dict[str, Any]) -> None:
    """What is no number is a dash; what is no text is written as one; lines stay lines."""
    text = status_as_text(found)
    table = text.partition("\n\n")[2].splitlines()
    assert len(table) == 1 + len(found["clients"])
    signs = set(text) - {"\n", "\u200c", "\u200d"}
    assert all(sign.isprintable() for sign in signs)


# Watching.


def test_watching_ends_with_the_run(stub: Stub) -> None:
    stub.turns = [partial(stub.tell, status(i)) for i in range(3)]
    stub.turns.append(lambda: stub.tell(status(3, state="complete")))
    done = ask(stub.url, "--watch", "--interval", 0.1)
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.findall(r"round +(\d)", done.stdout) == ["0", "1", "2", "3"]
    assert done.stdout.count("\n\nstate") == 3


def test_watching_in_json_is_a_line_a_look(stub: Stub) -> None:
    stub.turns = [lambda: None, lambda: stub.tell(status(4, state="failed", reason="a\nb"))]
    done = ask(stub.url, "--watch", "--interval", 0.1, "--json")
    assert done.exit_code == 0
    assert [json.loads(line)["round"] for line in done.stdout.splitlines()] == [3, 4]


def test_watching_survives_a_server_that_is_away(stub: Stub) -> None:
    """It is gone, then it is back but not well, then the run ends."""

    def restart() -> None:
        stub.stop()
        time.sleep(0.4)
        stub.answers["/v1/status"] = (503, {}, b"")
        stub.turns = [lambda: None, lambda: stub.tell(status(9, state="complete"))]
        stub.start()

    other = threading.Thread(target=restart)
    stub.turns = [lambda: None, other.start]
    done = ask(stub.url, "--watch", "--interval", 0.1)
    other.join()
    assert done.exit_code == 0
    assert done.stdout.endswith("\n")
    assert "round    9 of 10" in done.stdout
    away, back = done.stderr.splitlines()
    assert away.endswith("; asking again")
    assert back == "the server answers again"


def test_watching_does_not_wait_for_ever(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "AWAY", 0.3)
    stub.turns = [lambda: None, lambda: stub.answers.clear()]
    done = ask(stub.url, "--watch", "--interval", 0.1, "--json")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: the server at http://127.0.0.1")


def test_watching_needs_a_first_answer(stub: Stub) -> None:
    stub.answers.clear()
    fails(ask(stub.url, "--watch"), "is no Genesis server; got status 404")
    assert len(stub.asked) == 1


def test_ctrl_c_ends_watching_quietly(stub: Stub) -> None:
    words = ["--server", stub.url, "--watch", "--interval", "0.1", "--json"]
    with subprocess.Popen(
        [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["state"] == "training"
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=20)
    assert (program.returncode, said) == (130, "")


def test_a_terminal_shows_one_picture(stub: Stub) -> None:
    """The lines of the last look are overwritten by those of the next."""
    stub.turns = [
        lambda: stub.tell(status(1, (EVIL, "\x1b[31mred"))),
        lambda: stub.answers.update({"/v1/status": (500, {}, b"")}),
        lambda: stub.tell(status(2, state="complete")),
    ]
    ours, its = pty.openpty()
    words = ["--server", stub.url, "--watch", "--interval", "0.1"]
    terminal = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen([*PROGRAM, *words], stdout=its, stderr=its, env=terminal) as program:
        os.close(its)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the end of a terminal
                break
    os.close(ours)
    assert program.returncode == 0
    text = shown.decode()
    pictures = [int(found) for found in re.findall(r"round +(\d) of", text)]
    assert pictures[:3] == [1, 1, 2]
    assert "Not the newest: the server at" in text
    assert text.count("\x1b[1A") > 10  # up, over the former picture
    assert "\x1b[31m" not in text


# Who may ask.


def test_without_a_token_none_is_sent(stub: Stub) -> None:
    ask(stub.url, env={"FEDERATED_AUTH_TOKEN": ""})
    [(path, headers)] = stub.asked
    assert path == "/v1/status"
    assert "authorization" not in headers


OPERATOR, AUTH, FILE = "operator" * 2, "auth" * 4, "file" * 4


@pytest.mark.parametrize(
    ("env", "sent"),
    [
        ({"FEDERATED_OPERATOR_TOKEN": OPERATOR, "FEDERATED_AUTH_TOKEN": AUTH}, OPERATOR),
        ({"FEDERATED_OPERATOR_TOKEN": " ", "FEDERATED_AUTH_TOKEN": f"{AUTH}\n"}, AUTH),
        ({"FEDERATED_AUTH_TOKEN_FILE": "token"}, FILE),
        ({"FEDERATED_AUTH_TOKEN": AUTH, "GENESIS_AUTH_TOKEN_FILE": "token"}, FILE),
    ],
)
def test_where_the_token_comes_from(
    env: dict[str, str], sent: str, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token").write_text(f"{FILE}\n")
    stub.token = sent
    assert ask(stub.url, env=env).exit_code == 0
    assert stub.asked[0][1]["authorization"] == f"Bearer {sent}"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"two\nlines", "must be printable ASCII without spaces"),
        (b'north = "token"\n', "must be printable ASCII without spaces"),
        ("tökén".encode(), "must be printable ASCII without spaces"),
        (b"\xff\xfe", "bytes that are not UTF-8"),
        (b"x" * 5000, "the token is too long; got 5000 characters"),
        (b"short", "the token is too short; got 5 characters"),
        (None, "cannot be read; got No such file"),
    ],
)
def test_files_without_a_token(
    content: bytes | None, part: str, stub: Stub, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    done = ask(stub.url, "--auth-token-file", path)
    fails(done, part)
    assert "tökén" not in done.stderr
    assert "lines" not in done.stderr
    assert stub.asked == []


def test_a_token_that_no_header_can_hold(stub: Stub) -> None:
    done = ask(stub.url, env={"FEDERATED_AUTH_TOKEN": "one\r\nX-Other: two"})
    fails(done, "the token must be printable ASCII without spaces")
    assert "X-Other" not in done.stderr
    assert stub.asked == []


@pytest.mark.parametrize(
    ("host", "goes"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("localhost.example.com", False),
        ("2130706433", False),
        ("host.invalid", False),
    ],
)
def test_a_token_does_not_go_where_others_can_read_it(host: str, goes: bool) -> None:
    env = {"FEDERATED_AUTH_TOKEN": TOKEN}
    done = ask(f"http://{host}:9", env=env)
    refusal = "could be read on its way"
    assert (refusal not in done.stderr) == goes
    fails(done)
    if host == "host.invalid":
        assert refusal not in ask(f"http://{host}:9", "--insecure", env=env).stderr
        assert refusal not in ask(f"https://{host}:9", env=env).stderr
        assert refusal not in ask(f"http://{host}:9").stderr


def test_a_proxy_is_not_asked_for_this_machine(stub: Stub) -> None:
    """What is sent there would leave the machine."""
    with Stub() as proxy:
        env = {"http_proxy": proxy.url, "all_proxy": proxy.url, "FEDERATED_AUTH_TOKEN": TOKEN}
        assert ask(stub.url, env=env).exit_code == 0
    assert proxy.asked == []


# What can be wrong.


@pytest.mark.parametrize(
    ("code", "headers", "part"),
    [
        (301, {"Location": "/elsewhere"}, "sends us elsewhere; got status 301"),
        (307, {"Location": "http://127.0.0.1:9/"}, "sends us elsewhere; got status 307"),
        (401, {"WWW-Authenticate": "Bearer"}, "refuses the token; got status 401"),
        (403, {}, "refuses the token; got status 403"),
        (404, {}, "is no Genesis server; got status 404"),
        (429, {"Retry-After": "60"}, "is asked too often; got status 429"),
        (204, {}, "is no Genesis server; got status 204"),
        (500, {}, "has an error of its own; got status 500"),
    ],
)
def test_other_answers(code: int, headers: dict[str, str], part: str, stub: Stub) -> None:
    stub.answers["/v1/status"] = (code, headers, f"{EVIL} {TOKEN}".encode())
    fails(ask(stub.url, env={"FEDERATED_AUTH_TOKEN": TOKEN}), part)
    assert len(stub.asked) == 1


def test_a_server_that_wants_a_token(stub: Stub) -> None:
    stub.token = TOKEN
    fails(ask(stub.url), "wants a token; got status 401; set FEDERATED_OPERATOR_TOKEN or")
    assert ask(stub.url, env={"FEDERATED_OPERATOR_TOKEN": TOKEN}).exit_code == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"status": "ok"}',
        b'{"state": "training"}',
        json.dumps(status() | {"round": True}).encode(),
        json.dumps(status() | {"clients": [3]}).encode(),
        json.dumps(status() | {"rounds": {}}).encode(),
        json.dumps(status() | {"seconds": float("nan")}).encode(),
        b"[" * 100_000,
        b"9" * 10_000,
        b"\xff",
    ],
    ids=range(14),
)
def test_what_is_no_status(body: bytes, stub: Stub) -> None:
    stub.answers["/v1/status"] = (200, {}, body)
    for words in [], ["--json"], ["--watch"]:
        done = ask(stub.url, *words)
        fails(done, "is no Genesis server; got something other than the status of a run")


def test_a_body_without_an_end(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST_BYTES", 1000)
    fails(ask(stub.url), "the status at http://127.0.0.1", "got more than 1,000 bytes")


def test_a_server_that_does_not_answer(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PATIENCE", 0.2)
    done = threading.Event()
    stub.turns = [lambda: done.wait(20)]
    fails(ask(stub.url), "got nothing in time")
    done.set()


def test_a_server_that_answers_in_drops(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drop comes in time, the whole does not."""
    monkeypatch.setattr(command, "PATIENCE", 0)
    monkeypatch.setattr(command, "_client", _patient(command._client))
    fails(ask(stub.url), "got nothing in time")


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    """Clients that wait for every drop."""

    def patient(*args: Any, **values: Any) -> Any:
        client = make(*args, **values)
        client.timeout = 10
        return client

    return patient


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("localhost:8000", "has no http:// or https://"),
        ("coordinator", "has no http:// or https://"),
        ("", "has no http:// or https://"),
        ("ftp://example.com", "has no http:// or https://"),
        ("http://", "has no host"),
        ("http://127.0.0.1:99999", "no such port"),
        ("http://[::1", "cannot be read"),
        ("http://a\x00b", "cannot be read"),
        (f"http://operator:{TOKEN}@127.0.0.1", "holds a user or a password"),
        (f"http://127.0.0.1/?token={TOKEN}", "has a ? or #"),
        ("http://host.invalid", "there is no host host.invalid"),
        (f"http://{'a' * 64}.com", "there is no host aaaa"),
    ],
)
def test_addresses_of_no_server(url: str, part: str) -> None:
    fails(ask(url), part)


def test_nobody_is_there(stub: Stub) -> None:
    with Stub() as gone:
        pass
    fails(ask(gone.url), "no server answers at", "connection refused", "genesis federated server")
    assert ask(f"{stub.url}/").exit_code == 0


def test_behind_a_path(stub: Stub) -> None:
    stub.answers = {"/one/v1/status": stub.answers["/v1/status"]}
    for url in (f"{stub.url}/one", f"{stub.url}/one/"):
        assert ask(url).exit_code == 0


def test_the_server_from_the_environment(stub: Stub) -> None:
    done = CliRunner().invoke(GROUP, ["status"], env={"GENESIS_SERVER": stub.url})
    assert done.exit_code == 0


@pytest.mark.parametrize(
    "words",
    [["--interval", "0"], ["--interval", "nan"], ["--ssl-cert", "a.crt"], ["--ssl-key", "a.key"]],
)
def test_wrong_usage(words: list[str], stub: Stub) -> None:
    assert ask(stub.url, *words).exit_code == 2
    assert stub.asked == []


# TLS.


class Authority:
    """Signs certificates; files are written to a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.path = self.write(name, self.key, self.name, [], authority=True)

    def write(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey | None = None,
        subject: x509.Name | None = None,
        hosts: list[x509.GeneralName] | None = None,
        *,
        days: tuple[int, int] = (-1, 1),
        authority: bool = False,
    ) -> Path:
        """A certificate, valid from and to some days from now; its key lies beside it."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if hosts is None else hosts
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        path = self.folder / f"{name}.crt"
        signed = builder.sign(self.key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        path.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom our servers' certificates come from."""
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


def serve(certificate: Path, *, clients: Path | None = None) -> Stub:
    """A server with a certificate, which may want one of its clients too."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    if clients:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(clients)
    stub = Stub(tls)
    stub.tell(status())
    return stub


def test_over_tls(authority: Authority) -> None:
    with serve(authority.write("good")) as stub:
        done = ask(stub.url, "--ssl-verify", authority.path, env={"FEDERATED_AUTH_TOKEN": TOKEN})
    assert done.exit_code == 0, done.stderr
    assert stub.asked[0][1]["authorization"] == f"Bearer {TOKEN}"


DNS: list[x509.GeneralName] = [x509.DNSName("coordinator.example.com")]
ADDRESS: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]


@pytest.mark.parametrize(
    ("values", "known", "part"),
    [
        ({}, False, "is signed by an unknown CA; give its CA as ssl_verify (--ssl-verify)"),
        ({"days": (-9, -2)}, True, "has expired"),
        ({"days": (2, 9)}, True, "is not valid yet"),
        ({"hosts": DNS}, True, "is for another host"),
        ({"hosts": ADDRESS}, True, "is for another host"),
    ],
    ids=["unknown", "expired", "early", "name", "address"],
)
def test_wrong_certificates(
    values: dict[str, Any], known: bool, part: str, authority: Authority
) -> None:
    with serve(authority.write("wrong", **values)) as stub:
        words = ["--ssl-verify", authority.path] if known else []
        done = ask(stub.url, *words, env={"FEDERATED_AUTH_TOKEN": TOKEN})
    fails(done, f"the certificate of {stub.url} {part}")
    assert stub.asked == []


def test_another_ca(authority: Authority, tmp_path: Path) -> None:
    with serve(authority.write("good")) as stub:
        done = ask(stub.url, "--ssl-verify", Authority(tmp_path, "other").path)
    fails(done, "is signed by an unknown CA")


def test_another_name_for_the_host(authority: Authority) -> None:
    with serve(authority.write("wrong", hosts=DNS)) as stub:
        url = stub.url.replace("127.0.0.1", "localhost")
        done = ask(url, "--ssl-verify", authority.path)
    fails(done, "is for another host; use a name that the certificate holds")


def test_a_server_that_wants_a_certificate(authority: Authority, tmp_path: Path) -> None:
    with serve(authority.write("good"), clients=authority.path) as stub:
        words = ["--ssl-verify", authority.path]
        done = ask(stub.url, *words)
        fails(done, "refuses the TLS connection", "(--ssl-cert, --ssl-key)")
        other = Authority(tmp_path, "other").write("stranger")
        for mine, code in ((other, 1), (authority.write("operator"), 0)):
            pair = ["--ssl-cert", mine, "--ssl-key", mine.with_suffix(".key")]
            assert ask(stub.url, *words, *pair).exit_code == code


def test_http_where_https_is_spoken(authority: Authority) -> None:
    with serve(authority.write("good")) as stub:
        done = ask(stub.url.replace("https", "http"))
    fails(done, "broke off the connection; use https:// if the server has a certificate")


def test_https_where_http_is_spoken(stub: Stub) -> None:
    fails(ask(stub.url.replace("http", "https")), "does not speak TLS")


def test_files_that_are_no_certificates(authority: Authority, tmp_path: Path) -> None:
    good, empty = authority.write("good"), tmp_path / "empty"
    empty.write_text("")
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    url = "https://127.0.0.1:9"
    fails(ask(url, "--ssl-verify", "nowhere"), "the CA nowhere cannot be used; got no such file")
    fails(ask(url, "--ssl-verify", empty), "cannot be used; got no certificate")
    for certificate, key in [
        (empty, good.with_suffix(".key")),
        (good, authority.path.with_suffix(".key")),
        (authority.path, locked),
        (good, tmp_path / "nowhere"),
    ]:
        done = ask(url, "--ssl-cert", certificate, "--ssl-key", key)
        fails(done, f"{certificate} and {key} cannot be used; got no")


# Help.


def test_help_comes_at_once() -> None:
    code = (
        "import sys\n"
        "from genesis_cli.status import status\n"
        "status.main(['--help'], standalone_mode=False)\n"
        "sys.exit(', '.join({'httpx', 'rich', 'torch', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "genesis federated status --server " in done.stdout.partition("Examples:")[2]
