"""The command line in a folder of its own, with three small tables in it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from genesis_cli.main import genesis

SMALL = ["--config", "embedding_dim=8", "--config", "generator_dim=[16]"]
SMALL += ["--config", "discriminator_dim=[16]"]
SHORT = [*SMALL, "--rounds", "2", "--local-epochs", "1", "--seed", "5"]
SITES = ["north.csv", "south.csv", "west.csv"]

Run = Callable[..., Result]


def people(n: int, seed: int) -> pd.DataFrame:
    """n rows of the kinds that a table usually has."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "sex": rng.choice(["Female", "Male"], n),
            "income": rng.lognormal(10, 1, n).round(2),
        }
    )
    table.loc[rng.random(n) < 0.2, "income"] = np.nan
    return table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `SITES` in it and no option in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("GENESIS_"):
            monkeypatch.delenv(name)
    for seed, name in enumerate(SITES):
        people(40 + 10 * seed, seed).to_csv(name, index=False)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:  # noqa: ARG001 (only there)
    """Run a command line as the installed program does."""

    def run(words: Sequence[object], env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(genesis, [str(word) for word in words], env=env)

    return run


@pytest.fixture(scope="session")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A trained model, to put where a test wants it."""
    folder = tmp_path_factory.mktemp("model")
    people(60, 9).to_csv(folder / "table.csv", index=False)
    words = ["fit", folder / "table.csv", "--output", folder / "model", "--epochs", 1, *SMALL]
    done = CliRunner().invoke(genesis, [str(word) for word in [*words, "--seed", 3]])
    assert done.exit_code == 0, done.stderr
    return (folder / "model").read_bytes()


@pytest.fixture
def model(folder: Path, model_bytes: bytes) -> Path:
    """A trained model in the current folder."""
    (folder / "people.model").write_bytes(model_bytes)
    return Path("people.model")
