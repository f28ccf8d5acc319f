"""What the README and the quickstart print works as printed, in their order."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from genesis_cli.main import genesis as command

from genesis import Synthesizer

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/evaluation.md",
    "docs/imputation.md",
    "docs/privacy.md",
    "docs/secure-aggregation.md",
)


def patients(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 95, n),
            "sex": rng.choice(["Female", "Male"], n),
            "ward": rng.choice(["A1", "A2", "A3"], n),
            "diagnosis": rng.integers(1, 5, n),
            "outcome": rng.choice(["home", "ward", "dead"], n),
            "cost": np.round(rng.lognormal(7, 1, n), 2),
        }
    )


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    names = ("north", "south", "west", "hospital_1", "hospital_2", "hospital_3", "patients")
    for seed, name in enumerate([*names, "others", "synthetic"]):
        patients(60, seed).to_csv(f"{name}.csv", index=False)
    Synthesizer("tvae", {"epochs": 1}, seed=0).fit(patients(60, 6)).save("patients.model")
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("tables")
def test_commands(page: str) -> None:
    run = 0
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["genesis"]:
                continue
            if words[1] == "partition":  # each of them divides into a new folder
                words[words.index("--output") + 1] = f"shards{run}"
            done = CliRunner().invoke(command, words[1:])
            assert done.exit_code == 0, (line, done.output)
            run += 1
    assert run > 1


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("tables")
def test_python(page: str) -> None:
    given = ("table", "real", "synthetic", "holdout")
    names: dict[str, Any] = {name: patients(60, seed) for seed, name in enumerate(given)}
    names |= {site: patients(60, seed) for seed, site in enumerate(("north", "south", "west"))}
    names |= {"__name__": "__main__", "hospitals": [patients(60, seed) for seed in (7, 8, 9)]}
    found = blocks(page, "python")
    assert found
    for block in found:
        exec(compile(block, page, "exec"), names)
    if "elderly" in names:
        assert len(names["synthetic"]) == 10_000
        assert (names["elderly"]["age"] >= 80).all()


def terminals(page: str) -> list[str]:
    """The commands of the first block in which each has a terminal of its own."""
    block = blocks(page, "sh")[0].replace("\\\n", " ")
    return [line for line in block.splitlines() if line.startswith("genesis ")]


def test_three_terminals(tables: Path) -> None:
    """As printed, at once; only the port is another one if somebody has it."""
    assert terminals("README.md") == terminals("docs/network.md")
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = 8000 if busy.connect_ex(("127.0.0.1", 8000)) else free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GENESIS_PORT": str(port)}
    program = Path(sys.executable).with_name("genesis")
    running = []
    try:
        for line in terminals("README.md"):
            words = shlex.split(line.replace(":8000", f":{port}"))
            running.append(
                subprocess.Popen(
                    [program, *words[1:]],
                    cwd=tables,
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for process in running:
            _, told = process.communicate(timeout=120)
            assert process.returncode == 0, told
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert len(Synthesizer.load("wards.model").generate(3)) == 3
    for name in ("north", "south"):
        synthetic = pd.read_csv(f"{name}_synthetic.csv")
        assert synthetic.shape == pd.read_csv(f"{name}.csv").shape


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
