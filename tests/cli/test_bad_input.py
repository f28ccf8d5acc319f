"""Bad input: one clear line, exit status 1 (2 for wrong usage), and nothing written."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from tests.cli.conftest import SHORT, SITES, SMALL, Run, people

TABLE = "bad.csv"


def _changed(**columns: object) -> Callable[[], None]:
    return lambda: people(40, 0).assign(**columns).to_csv(TABLE, index=False)


def _text(text: str) -> Callable[[], None]:
    return lambda: Path(TABLE).write_text(text) and None


ROWS = people(40, 0)
BAD_TABLES: dict[str, tuple[Callable[[], object], str]] = {
    "no file": (lambda: None, "there is no file bad.csv"),
    "empty file": (_text(""), "bad.csv is empty"),
    "header only": (_text("age,sex,income\n"), "bad.csv has no rows"),
    "duplicate names": (_text("age,sex,age\n1,a,2\n2,b,1\n"), "two columns of bad.csv"),
    "no name": (_text(",age\n1,2\n2,3\n"), "has no name"),
    "ids only": (
        lambda: pd.DataFrame({"key": [f"k{i:03d}" for i in range(40)]}).to_csv(TABLE, index=False),
        "no column can be learnt from; got 1 of kind id",
    ),
    "a column of nulls": (_changed(age=None), "column 'age' holds nothing but nulls"),
    "nulls only": (
        _changed(age=None, sex=None, income=None),
        "column 'age' holds nothing but nulls; got 3 such columns",
    ),
    "infinities": (
        _changed(income=np.where(ROWS.age > 80, np.inf, 1.5)),
        "column 'income' holds infinities",
    ),
    "constant": (
        _changed(age=1, sex="x", income=0.5),
        "no column can be learnt from; got 3 of kind constant",
    ),
    "mixed types": (
        _changed(age=np.where(ROWS.age > 80, "old", ROWS.age.astype(str))),
        "column 'age' mixes numbers and text",
    ),
    "semicolons": (
        lambda: ROWS.to_csv(TABLE, index=False, sep=";"),
        "not separated by commas; got semicolons",
    ),
    "tabs": (
        lambda: ROWS.to_csv(TABLE, index=False, sep="\t"),
        "not separated by commas; got tabs",
    ),
    "ragged": (_text("age,sex\n1,a\n2,b,c\n"), "got 3 cells instead of 2 in line 3"),
    "latin1": (
        lambda: ROWS.replace("Female", "Fräulein").to_csv(TABLE, index=False, encoding="latin1"),
        "bad.csv is not UTF-8",
    ),
}
COMMANDS: dict[str, list[str]] = {
    "schema": ["schema", TABLE, "--output", "out.toml"],
    "fit": ["fit", TABLE, "--output", "out.model", *SMALL],
    "simulate": ["federated", "simulate", TABLE, "--output", "out.csv", *SHORT],
}


def _fails(run: Run, words: list[str], says: str, status: int = 1) -> None:
    """The command line ends with one line that says so, and the folder is as it was."""
    before = sorted(Path().rglob("*"))
    done = run(words)
    assert done.exit_code == status, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_table(run: Run, case: str, command: str) -> None:
    write, says = BAD_TABLES[case]
    write()
    _fails(run, COMMANDS[command], says)


@pytest.mark.parametrize("command", ["fit", "simulate"])
def test_one_row(run: Run, command: str) -> None:
    ROWS[:1].to_csv(TABLE, index=False)
    _fails(run, COMMANDS[command], "")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda: ROWS.rename(columns={"age": "years"}), ["client 'bad'", "'age'", "'years'"]),
        (
            lambda: ROWS.assign(age=np.where(ROWS.age > 50, "old", "young")),
            ["client 'bad'", "'age'", "numeric", "categorical"],
        ),
    ],
    ids=["other names", "other kinds"],
)
@pytest.mark.parametrize("command", ["schema", "simulate"])
def test_clients_that_disagree(run: Run, command: str, write, says: list[str]) -> None:
    write().to_csv(TABLE, index=False)
    words = COMMANDS[command]
    words = [*words[: words.index(TABLE)], "north.csv", *words[words.index(TABLE) :]]
    for part in says:
        _fails(run, words, part)


SIMULATE = ["federated", "simulate", *SITES, "--output", "out.csv", *SHORT]
PARTITION = ["partition", "north.csv"]
FIT = ["fit", "north.csv", "--output", "out.model", *SMALL]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*FIT, "--discrete-columns", "sexx"], "'sexx'; did you mean sex?"),
        ([*SIMULATE, "--discrete-columns", "age,sexx"], "'sexx'; did you mean sex?"),
        (["schema", "north.csv", "--discrete-columns", "sexx"], "'sexx'; did you mean sex?"),
        ([*FIT, "--method", "ctgam"], "unknown method 'ctgam'; did you mean ctgan?"),
        ([*SIMULATE, "--method", "tva"], "unknown method 'tva'; did you mean tvae"),
        ([*SIMULATE, "--aggregation", "fedavgg"], "unknown aggregation 'fedavgg'; did you mean"),
        ([*SIMULATE, "--aggregation-options", "x=1"], "aggregation 'fedavg' has no option 'x'"),
        ([*SIMULATE, "--synchronize", "critic"], "unknown synchronize 'critic'"),
        (
            [*SIMULATE, "--lr-schedule", "cosin"],
            "unknown lr_schedule 'cosin'; did you mean cosine?",
        ),
        ([*SIMULATE, "--min-clients", "4"], "min_clients is 4"),
        ([*SIMULATE, "--batch-size", "15"], "multiple of pac"),
        ([*FIT, "--batch-size", "15"], "multiple of pac"),
        ([*FIT, "--config", "embeding_dim=8"], "did you mean embedding_dim?"),
        ([*FIT, "--epochs", "0"], "epochs"),
        ([*FIT, "--device", "tpu"], "unknown device 'tpu'"),
        ([*FIT, "--schema", "none.toml"], "the schema none.toml cannot be read"),
        ([*SIMULATE, "--plan", "none.toml"], "the plan none.toml cannot be read"),
        ([*SIMULATE, "--rounds", "0"], "n_rounds must be a whole number of at least 1"),
        ([*SIMULATE, "--rows", "-1"], "the number of rows must be"),
        ([*SIMULATE, "--epsilon", "0"], "epsilon of differential privacy must be a number above 0"),
        ([*SIMULATE, "--secure-aggregation", "masking", "--aggregation", "median"], "needs each"),
        ([*SIMULATE, "--checkpoint", "none/saved"], "cannot write none/saved; got no such folder"),
        ([*SIMULATE, "--checkpoint", "saved", "--resume"], "saved"),
        ([*SIMULATE, "--output", "none/out.csv"], "cannot write none/out.csv; got no such folder"),
        ([*SIMULATE, "--output", "out.xlsx"], "out.xlsx"),
        ([*SIMULATE, "--model", "none/out.model"], "cannot write none/out.model"),
        ([*SIMULATE, "--json", "none/out.json"], "cannot write none/out.json"),
        ([*SIMULATE, "--model", "out.csv"], "cannot write out.csv; got a file that this command"),
        ([*SIMULATE, "--output", "north.csv"], "cannot write north.csv"),
        (
            ["federated", "simulate", "north.csv", "./north.csv", "--output", "o.csv"],
            "given 2 times",
        ),
        ([*FIT, "--output", "none/out.model"], "cannot write none/out.model; got no such folder"),
        ([*FIT, "--output", "north.csv"], "cannot write north.csv"),
        (["schema", "north.csv", "--output", "none/s.toml"], "cannot write none/s.toml"),
        (["partition", "none.csv", "--clients", "2", "--output", "o"], "there is no file none.csv"),
        ([*PARTITION, "--clients", "2", "--output", "none/o"], "cannot write none/o"),
        ([*PARTITION, "--clients", "2", "--output", "."], "the folder . is not empty"),
        ([*PARTITION, "--clients", "99", "--output", "o"], "fewer rows than clients"),
        ([*PARTITION, "--by", "sexx", "--output", "o"], "'sexx'; did you mean sex?"),
        ([*PARTITION, "--clients", "2", "--dirichlet", "1", "--output", "o"], "needs a column"),
        ([*PARTITION, "--output", "o"], "the number of clients is missing"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_bad_choice(run: Run, words: list[str], says: str) -> None:
    _fails(run, words, says)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "is not a model file"),
    "half": (lambda file: file[: len(file) // 2], "is not a model file, or was cut short"),
    "a byte short": (lambda file: file[:-1], "is not a model file, or was cut short"),
    "a byte changed": (lambda file: file[:-1] + bytes([file[-1] ^ 1]), "was changed"),
    "a table": (lambda _: b"age,sex\n1,a\n", "is not a model file"),
    "gzipped": (gzip.compress, "is not a model file"),
    "of another version": (
        lambda file: file.replace(b'\\"version\\": 1', b'\\"version\\": 2'),
        "has another format; got version 2",
    ),
    "foreign": (lambda _: save({"x": torch.zeros(2)}), "is not a file of this program"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_bad_model(run: Run, model: Path, case: str) -> None:
    damage, says = DAMAGES[case]
    model.write_bytes(damage(model.read_bytes()))
    _fails(run, ["generate", str(model), "--rows", "5", "--output", "out.csv"], says)


def test_no_model(run: Run) -> None:
    words = ["generate", "none.model", "--rows", "5", "--output", "out.csv"]
    _fails(run, words, "there is no model file none.model")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "-1"], "the number of rows"),
        (["--rows", "5", "--where", "sexx=Female"], "there is no column 'sexx'; did you mean sex?"),
        (["--rows", "5", "--where", "sex=None"], "no row can have sex"),
        (["--rows", "5", "--where", "age=300..400"], "no row can have age"),
        (["--rows", "5", "--where", "age=old"], "needs a number"),
        (["--rows", "5", "--where", "age=1..2", "--where", "age=3"], "two conditions"),
        (["--rows", "5", "--device", "tpu"], "unknown device"),
    ],
)
def test_bad_generate(run: Run, model: Path, words: list[str], says: str) -> None:
    _fails(run, ["generate", str(model), "--output", "out.csv", *words], says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "north.csv"], "missing option '--output'; see 'genesis fit --help'"),
        (["federated", "simulate", "--output", "o.csv"], "missing argument 'TABLE...'"),
        ([*SIMULATE, "--rounds", "many"], "'many' is not a valid integer"),
        ([*SIMULATE, "--roundz", "3"], "no such option '--roundz'. Did you mean '--rounds'?"),
        ([*SIMULATE, "--resume"], "--resume needs --checkpoint"),
        ([*FIT, "--config", "embedding_dim"], "'embedding_dim' is not of the form KEY=VALUE"),
        (["generate", "m", "--rows", "1", "--output", "o.csv", "--where", "sex"], "COLUMN=VALUE"),
        ([*PARTITION, "--iid", "--output", "o"], "--iid goes with --clients"),
        (["fitt", "north.csv"], "no such command 'fitt'; did you mean fit?"),
        (["federated", "simulat"], "no such command 'simulat'; did you mean simulate?"),
    ],
)
def test_wrong_usage(run: Run, words: list[str], says: str) -> None:
    _fails(run, words, says, status=2)


def test_a_bad_plan(run: Run) -> None:
    for text, says in [
        ("n_rounds = ", "the plan is not TOML"),
        ("rounds = 3", "a plan has no 'rounds'; did you mean n_rounds?"),
        ("n_rounds = 2.5", "n_rounds must be a whole number"),
        ('secure_aggregation = "mask"', "unknown secure aggregation 'mask'"),
    ]:
        Path("plan.toml").write_text(text)
        _fails(run, [*SIMULATE, "--plan", "plan.toml"], says)


def test_the_installed_program(run: Run) -> None:  # noqa: ARG001 (its folder)
    """The same as a process: no traceback, no warning, nothing on stdout."""
    program = "from genesis_cli.main import main; main()"
    for words, status in [
        (["fit", "bad.csv", "--output", "out.model"], 1),
        ([*SIMULATE, "--method", "gan"], 1),
        (["fit", "north.csv"], 2),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
