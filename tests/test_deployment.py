"""The image, the compose file and the manifests: valid, strict, and true to the commands they run.

No container engine is needed. Linters and schemas read the files, and what would run in containers
runs as processes, with the same words and variables.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import pandas as pd
import pytest
import yaml
from genesis_cli.federated import federated
from genesis_cli.main import genesis

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"
PORT = "8000"
WRITTEN = {"checkpoint", "model", "output"}  # options whose files a command writes


# --- what the files say ----------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """What is started, and what it finds there.

    Args:
        where: What starts it, for people.
        words: The command.
        variables: Its environment, beside the image's.
        mounts: Path -> whether it may be written.
        secrets: Path -> name of the file that lies there, in the folder that the page fills.
    """

    where: str
    words: list[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, bool] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return IMAGE_ENVIRONMENT | dict(self.variables)


def read_dockerfile() -> list[tuple[str, str]]:
    """Instructions and what follows them, without comments and broken lines."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line]
    return [(instruction, rest) for instruction, _, rest in lines]


def in_image(instruction: str) -> str:
    """What the final image is told by an instruction that is given once."""
    (found,) = (rest for what, rest in IMAGE if what == instruction)
    return found


def find(kind: str, name: str) -> dict[str, Any]:
    """An object of the manifests."""
    (found,) = (each for each in OBJECTS[kind] if each["metadata"]["name"] == name)
    return found


def compose_containers() -> Iterator[Container]:
    for name, service in COMPOSE["services"].items():
        mounts = dict.fromkeys(service["tmpfs"], True)
        for volume in service["volumes"]:
            _, path, *mode = volume.split(":")
            mounts[path] = mode != ["ro"]
        secrets = {}
        for secret in service["secrets"]:
            given = {"source": secret, "target": secret} if isinstance(secret, str) else secret
            file = COMPOSE["secrets"][given["source"]]["file"]
            secrets[f"/run/secrets/{given['target']}"] = Path(file).name
        mounts |= dict.fromkeys(secrets, False)
        words, variables = shlex.split(service["command"]), service["environment"]
        yield Container(f"compose-{name}", words, variables, mounts, secrets)


def kubernetes_containers() -> Iterator[Container]:
    for name, template in TEMPLATES.items():
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        (source,) = container["envFrom"]
        variables = find("ConfigMap", source["configMapRef"]["name"])["data"]
        mounts, secrets = {}, {}
        for mount in container["volumeMounts"]:
            path, volume = mount["mountPath"], volumes[mount["name"]]
            mounts[path] = not mount.get("readOnly", False)
            if "secret" in volume:
                files = page_secrets()[volume["secret"]["secretName"]]
                secrets = {f"{path}/{key}": file for key, file in files.items()}
        yield Container(f"kubernetes-{name}", container["command"], variables, mounts, secrets)


def page_containers() -> Iterator[Container]:
    """What the page starts: in a shell, in a container, and in a systemd unit."""
    started = r"^(?:docker run .* |ExecStart=\S*/)?(genesis(?:-federated)? .*)$"
    for i, words in enumerate(re.findall(started, PAGE_COMMANDS, re.MULTILINE)):
        yield Container(f"page-{i}", shlex.split(words, comments=True))


def page_secrets() -> dict[str, dict[str, str]]:
    """Names of Kubernetes' secrets -> keys -> names of the files that the page makes them from."""
    secrets = {}
    for line in re.findall(r"^kubectl create secret generic (.*)$", PAGE_COMMANDS, re.MULTILINE):
        name, *words = shlex.split(line)
        files = [words[i + 1] for i, word in enumerate(words) if word == "--from-file"]
        pairs = [file.rpartition("=") for file in files]
        secrets[name] = {key or Path(file).name: Path(file).name for key, _, file in pairs}
    return secrets


DOCKERFILE = read_dockerfile()
IMAGE = DOCKERFILE[max(i for i, (what, _) in enumerate(DOCKERFILE) if what == "FROM") :]
IMAGE_ENVIRONMENT = dict(
    word.split("=", 1) for what, rest in IMAGE if what == "ENV" for word in shlex.split(rest)
)
USER, GROUP = map(int, in_image("USER").split(":"))

COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())
OBJECTS: dict[str, list[dict[str, Any]]] = {}
for manifest in MANIFESTS:
    for each in yaml.safe_load_all(manifest.read_text()):
        OBJECTS.setdefault(each["kind"], []).append(each)
TEMPLATES = {
    each["metadata"]["name"].removeprefix("genesis-federated-"): each["spec"]["template"]
    for each in [*OBJECTS["Deployment"], *OBJECTS["Job"]]
}

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
PAGE_BLOCKS = re.findall(r"^```(?:bash|ini)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PAGE_COMMANDS = "\n".join(PAGE_BLOCKS).replace("\\\n", " ")

CONTAINERS = [*compose_containers(), *kubernetes_containers()]
STARTED = [*CONTAINERS, Container("image", json.loads(in_image("CMD"))), *page_containers()]
in_container = pytest.mark.parametrize("container", CONTAINERS, ids=lambda each: each.where)


# --- what linters and schemas say ------------------------------------------------------------


def check(tool: str, *words: str | Path) -> None:
    """Run a program of the extra `dev`."""
    program = shutil.which(tool, path=PATH)
    if program is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile_lints() -> None:
    check("hadolint", "--no-color", DEPLOY / "Dockerfile")


def test_compose_file_is_valid() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    check("check-jsonschema", *schema, DEPLOY / "docker-compose.yml")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(manifest: Path) -> None:
    check("kubernetes-validate", "--strict", manifest)


# --- what is started -------------------------------------------------------------------------


def parse(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> tuple[click.Command, dict[str, Any]]:
    """The command that is meant, and the values that it would get; nothing runs."""
    for name in [name for name in os.environ if name.startswith(("GENESIS_", "FEDERATED_"))]:
        monkeypatch.delenv(name)
    for name, value in container.environment.items():
        monkeypatch.setenv(name, value)
    name, *words = container.words
    command: click.Command = {"genesis": genesis, "genesis-federated": federated}[name]
    context = None
    while isinstance(command, click.Group):
        # With the group's settings: a command keeps the help option that it is first asked for.
        settings = command.context_settings
        context = click.Context(command, parent=context, info_name=name, **settings)
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    return command, command.make_context(name, words, parent=context).params


@pytest.mark.parametrize("container", STARTED, ids=lambda each: each.where)
def test_commands_and_variables_are_real(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, _ = parse(container, monkeypatch)
    named = {name for name in container.variables if name.startswith("GENESIS_")}
    assert named <= {param.envvar for param in command.params}


@in_container
def test_files_are_mounted(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path lies in a mount: of those for secrets, for data, or to write to."""
    command, values = parse(container, monkeypatch)
    paths = {param.name: values[param.name] for param in command.params}
    paths = {name: path for name, path in paths.items() if isinstance(path, Path)}
    paths |= {name: path for name, path in container.variables.items() if name.endswith("_FILE")}
    for name, path in paths.items():
        (mount,) = (each for each in container.mounts if Path(path).is_relative_to(each))
        assert container.mounts[mount] == (name in WRITTEN), name
        if name not in WRITTEN and name != "data":
            assert str(path) in container.secrets, name


@in_container
def test_a_restarted_container_goes_on(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, values = parse(container, monkeypatch)
    assert values["checkpoint"] is not None
    assert command.name == "client" or values["resume"]


@in_container
def test_strangers_are_kept_out(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    command, values = parse(container, monkeypatch)
    assert "FEDERATED_AUTH_TOKEN_FILE" in container.variables
    assert not values["insecure"]
    if command.name == "server":
        assert "FEDERATED_OPERATOR_TOKEN_FILE" in container.variables
        assert (values["host"], values["port"]) == ("0.0.0.0", int(PORT))
        assert None not in (values["ssl_cert"], values["ssl_key"])
    else:
        assert re.fullmatch(rf"https://.*:{PORT}", values["server"])
        assert values["ssl_verify"] is not None


def test_certificate_holds_the_names_that_clients_call(monkeypatch: pytest.MonkeyPatch) -> None:
    command, made = parse(next(page_containers()), monkeypatch)
    assert command.name == "certificates"
    clients = [each for each in CONTAINERS if each.words[1] == "client"]
    called = {urlsplit(parse(each, monkeypatch)[1]["server"]).hostname for each in clients}
    assert called <= {name for names in made["server"] for name in names}


def test_no_secret_is_inline() -> None:
    for container in CONTAINERS:
        for name in container.variables:
            assert "TOKEN" not in name or name.endswith("_FILE"), name
    for secret in OBJECTS["Secret"]:
        assert "data" not in secret
        assert all(re.fullmatch("<.*>", text) for text in secret["stringData"].values())
        assert secret["stringData"].keys() == page_secrets()[secret["metadata"]["name"]].keys()
    # What `kubectl apply -f` takes from a folder must not replace the real ones.
    assert not [
        path
        for path in MANIFESTS
        if path.suffix != ".example" and "Secret" in path.read_text().split()
    ]


# --- the image -------------------------------------------------------------------------------


def test_image_is_built_from_nothing_else() -> None:
    lines = [rest.split() for what, rest in DOCKERFILE if what == "COPY"]
    copied = {name for *names, _ in lines for name in names if not names[0].startswith("--from")}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_image_has_the_tested_versions() -> None:
    commands = " ".join(rest for what, rest in DOCKERFILE if what == "RUN")
    (torch,) = re.findall(r"torch==\S+", commands)
    assert torch in (ROOT / "constraints.txt").read_text().split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (python,) = {rest.split()[0] for _, rest in DOCKERFILE if rest.startswith("python:")}
    assert python == f"python:{project['requires-python'].removeprefix('>=')}-slim"


def test_image_runs_as_nobody_and_gets_signals() -> None:
    assert USER > 0
    assert GROUP > 0
    assert "ENTRYPOINT" not in {what for what, _ in IMAGE}
    assert in_image("EXPOSE") == IMAGE_ENVIRONMENT["GENESIS_PORT"] == PORT


# --- the compose file ------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_is_hardened_and_declared(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["image"] == "genesis:latest"
    assert service["restart"] == "on-failure"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for source, path, *mode in (volume.split(":") for volume in service["volumes"]):
        if source.startswith("."):
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
            assert path == in_image("WORKDIR")  # made for the image's user, as its volumes are
    assert set(service["networks"]) <= {"default", *COMPOSE["networks"]}
    if name == "server":
        assert service["ports"] == [f"{PORT}:{PORT}"]
        assert "healthcheck" not in service
    else:
        assert "ports" not in service
        assert service["healthcheck"] == {"disable": True}
        assert service["depends_on"] == {"server": {"condition": "service_healthy"}}


def test_clients_share_nothing() -> None:
    clients = [each for name, each in COMPOSE["services"].items() if name != "server"]
    fewest = COMPOSE["services"]["server"]["environment"]["GENESIS_MIN_CLIENTS"]
    assert len(clients) == int(fewest)
    sources = [volume.split(":")[0] for each in clients for volume in each["volumes"]]
    tokens = [each["secrets"][-1]["source"] for each in clients]
    assert len({*sources, *tokens}) == len(sources) + len(tokens)


# --- the manifests ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_pod_is_restricted(name: str) -> None:
    pod = TEMPLATES[name]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": GROUP,
        "fsGroup": GROUP,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # variables of services would be taken for options
    (container,) = pod["containers"]
    assert container["image"] == "genesis:latest"
    assert container["resources"].keys() == {"requests", "limits"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert find("PersistentVolumeClaim", claim["claimName"])
        if secret := volume.get("secret"):
            assert find("Secret", secret["secretName"])


def test_there_is_one_server_and_clients_find_it() -> None:
    name = "genesis-federated-server"
    deployment, service = find("Deployment", name)["spec"], find("Service", name)["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    labels = TEMPLATES["server"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    (container,) = TEMPLATES["server"]["spec"]["containers"]
    (opened,) = container["ports"]
    assert opened["containerPort"] == int(PORT)
    (offered,) = service["ports"]
    assert (offered["port"], offered["targetPort"]) == (int(PORT), opened["name"])
    assert find("ConfigMap", "genesis-client")["data"]["GENESIS_SERVER"] == f"https://{name}:{PORT}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = {"scheme": "HTTPS", "path": "/health", "port": opened["name"]}
        assert container[probe]["httpGet"] == asked


@pytest.mark.parametrize(
    ("name", "into", "out"), [("server", ["https"], []), ("client", [], [53, 53, int(PORT)])]
)
def test_network_is_closed(name: str, into: list[Any], out: list[Any]) -> None:
    policy = find("NetworkPolicy", f"genesis-federated-{name}")["spec"]
    assert policy["podSelector"]["matchLabels"] == TEMPLATES[name]["metadata"]["labels"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == into
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == out


def test_everything_is_in_the_namespace() -> None:
    (namespace,) = (each["metadata"]["name"] for each in OBJECTS["Namespace"])
    for kind, objects in OBJECTS.items():
        for each in objects:
            assert kind == "Namespace" or each["metadata"]["namespace"] == namespace


# --- the same as processes -------------------------------------------------------------------


class Place:
    """Where containers run as processes: a folder stands in for the root of each.

    Args:
        folder: Where these folders are made.
        secrets: Where the files of the page are.
    """

    def __init__(self, folder: Path, secrets: Path) -> None:
        self.folder, self.secrets = folder, secrets
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])

    def prepare(self, container: Container) -> Path:
        """Make the root of a container, with what is mounted there."""
        root = self.folder / container.where
        for mount in container.mounts:
            path = root / mount[1:]
            (path.parent if mount in container.secrets else path).mkdir(parents=True, exist_ok=True)
        for path, file in container.secrets.items():
            shutil.copy(self.secrets / file, root / path[1:])
        return root

    def here(self, container: Container, text: str) -> str:
        """A word or the value of a variable, as it is here."""
        if text.startswith("/"):
            return f"{self.folder / container.where}{text}"
        if text.startswith("https://"):
            return f"https://localhost:{self.port}"
        return {"0.0.0.0": "127.0.0.1", PORT: self.port}.get(text, text)

    def environment(self, container: Container, **more: str) -> dict[str, str]:
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GENESIS_", "FEDERATED_"))
        }
        inside = {name: self.here(container, text) for name, text in container.environment.items()}
        return outside | inside | {"PATH": PATH} | more

    def start(self, container: Container, stack: ExitStack, **more: str) -> subprocess.Popen[str]:
        """Start a process, which ends with the stack at the latest."""
        words = [self.here(container, word) for word in container.words]
        environment = self.environment(container, **more)
        process = stack.enter_context(
            subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        return process

    def start_server(
        self, server: Container, stack: ExitStack, **more: str
    ) -> subprocess.Popen[str]:
        """Start the server, and wait as those do who depend on it."""
        process, deadline = self.start(server, stack, **more), time.monotonic() + 120
        while not self.is_healthy(server):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return process

    def is_healthy(self, server: Container) -> bool:
        """What the image's health check says."""
        words = json.loads(in_image("HEALTHCHECK").partition("CMD ")[2])
        environment = self.environment(server)
        return subprocess.run(words, env=environment, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the first commands of the page make."""
    folder = tmp_path_factory.mktemp("coordinator")
    (folder / "deploy").mkdir()
    environment = os.environ | {"PATH": PATH}
    subprocess.run(["bash", "-e", "-c", PAGE_BLOCKS[0]], cwd=folder, env=environment, check=True)
    return folder / "deploy" / "secrets"


@pytest.mark.parametrize("files", ["compose", "kubernetes"])
def test_entry_points_train_together(files: str, tmp_path: Path, secrets: Path) -> None:
    containers = [each for each in CONTAINERS if each.where.startswith(files)]
    server, *clients = sorted(containers, key=lambda each: each.words[1] == "client")
    place = Place(tmp_path, secrets)
    short = {"GENESIS_ROUNDS": "2", "GENESIS_EPOCHS": "2", "GENESIS_MIN_CLIENTS": str(len(clients))}
    for i, client in enumerate(clients):
        rng = np.random.default_rng(i)
        table = pd.DataFrame({"age": rng.integers(18, 95, 60), "ward": rng.choice(["A", "B"], 60)})
        table.to_csv(place.prepare(client) / "data" / f"client{i + 1}.csv", index=False)
    place.prepare(server)
    assert not place.is_healthy(server)
    with ExitStack() as stack:
        coordinator = place.start_server(server, stack, **short)
        coordinator.terminate()
        assert coordinator.wait(timeout=60) == 143
        coordinator = place.start_server(server, stack, **short)
        (status,) = (each for each in page_containers() if "status" in each.words)
        words = [place.here(status, word) for word in status.words if word != "--watch"]
        told = subprocess.run(
            words, cwd=secrets, env=place.environment(status), capture_output=True, text=True
        )
        assert (told.returncode, told.stderr) == (0, "")
        assert "waiting" in told.stdout
        processes = [coordinator, *(place.start(client, stack) for client in clients)]
        said = [process.communicate(timeout=120)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), said
    for client in clients:
        assert len(pd.read_csv(tmp_path / client.where / "state" / "synthetic.csv")) == 1000
    models = [tmp_path / each.where / "state" / "federated.model" for each in containers]
    assert len({model.read_bytes() for model in models}) == 1
