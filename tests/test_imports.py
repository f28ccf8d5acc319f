"""What an import costs, and that every public name and every package is really there."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genesis
import genesis.federated

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "numpy", "pandas", "scipy", "ctgan", "sdv", "rich"]


@pytest.mark.parametrize(
    "program",
    [
        "import genesis",
        "import genesis.federated",
        "from genesis_cli.main import genesis; genesis.main(['--help'], standalone_mode=False)",
        "from genesis_cli.federated import federated as f; f.main(['--help'], standalone_mode=False)",
        "from genesis_cli.main import genesis as g; g.main(['fit', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported(program: str) -> None:
    program += f"; import sys; sys.exit(', '.join(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", [genesis, genesis.federated])
def test_every_public_name_resolves(package) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) <= set(dir(package))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Syntheziser'"):
        _ = genesis.Syntheziser


def test_every_package_is_installed() -> None:
    """The list in pyproject.toml is complete: an editable install would not notice."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [
        ".".join(init.parent.relative_to(ROOT).parts) for init in ROOT.glob("genesis/**/__init__.py")
    ]
    assert sorted(listed) == sorted([*found, "genesis_cli"])
