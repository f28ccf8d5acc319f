"""What an import costs, and that every public name and every package is really there."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genesis
import genesis.evaluation
import genesis.federated

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "numpy", "pandas", "scipy", "ctgan", "sdv", "rich"]
HEAVY += ["sdmetrics", "sklearn", "plotly", "jinja2"]
HEAVY += ["dp_accounting", "opacus"]
HEAVY += ["fastapi", "uvicorn", "httpx", "limits", "cryptography", "prometheus_client", "flwr"]


@pytest.mark.parametrize(
    "program",
    [
        "import genesis",
        "import genesis.evaluation",
        "import genesis.federated",
        "from genesis_cli.main import genesis as group; show([])",
        "from genesis_cli.main import genesis as group; show(['fit'])",
        "from genesis_cli.main import genesis as group; show(['evaluate'])",
        "from genesis_cli.main import genesis as group; show(['audit'])",
        "from genesis_cli.main import genesis as group; show(['federated', 'simulate'])",
        "from genesis_cli.main import genesis as group; show(['privacy', 'plan'])",
        "from genesis_cli.main import genesis as group; show(['privacy', 'spent'])",
        "from genesis_cli.federated import federated as group; show([])",
        "from genesis_cli.federated import federated as group; show(['server'])",
        "from genesis_cli.federated import federated as group; show(['client'])",
        "from genesis_cli.federated import federated as group; show(['status'])",
        "from genesis_cli.federated import federated as group; show(['certificates'])",
        "from genesis_cli.federated import federated as group; show(['identity'])",
    ],
)
def test_nothing_heavy_is_imported(program: str) -> None:
    """Neither by `import genesis` nor by help texts, which must come at once."""
    lines = [
        "import sys",
        "def show(words): group.main([*words, '--help'], standalone_mode=False)",
        program,
        f"sys.exit(', '.join(set({HEAVY}) & set(sys.modules)) or 0)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", [genesis, genesis.evaluation, genesis.federated])
def test_every_public_name_resolves(package) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Syntheziser'"):
        _ = genesis.Syntheziser


def test_every_package_is_installed() -> None:
    """The list in pyproject.toml is complete: an editable install would not notice."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    inits = ROOT.glob("genesis/**/__init__.py")
    found = [".".join(init.parent.relative_to(ROOT).parts) for init in inits]
    assert sorted(listed) == sorted([*found, "genesis_cli"])


def test_submodules_do_not_take_public_names() -> None:
    code = (
        "import genesis.evaluation.evaluate\n"
        "from genesis.evaluation import audit, evaluate\n"
        "assert callable(audit) and callable(evaluate)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
