"""Whole runs under Paillier, with keys too short for anything but a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from click.testing import CliRunner
from genesis_cli.main import genesis as command

import genesis
from genesis.errors import FederationError, PlanError
from genesis.federated import FederatedServer
from genesis.federated.messages import Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.shard import Shard
from tests.dirty import QUICK_TVAE, dirty_table
from tests.federated.lossy import Lossy, secured

SHORT = {"key_bits": 512, "insecure_key_bits": True}
LONGER = {"key_bits": 1024, "insecure_key_bits": True, "workers": 0}
TINY = {**QUICK_TVAE, "compress_dims": (8,), "decompress_dims": (8,), "embedding_dim": 4}
TABLES = {  # what is the same in all rows, clients in the clear say; under sums they count it
    name: dirty_table(60 + 10 * i, seed=i).drop(columns="hospital") for i, name in enumerate("abcd")
}


def play(silent: Any = None, **choices: Any) -> Federation:
    plan = Plan("tvae", TINY, n_rounds=2, local_epochs=1, seed=3, **choices)
    shards = {name: Shard(name, table, device="cpu") for name, table in TABLES.items()}
    if plan.scheme is None:
        network = Lossy(shards)
    else:
        network = Lossy(secured(shards, options={**SHORT, "workers": 0}))
    if silent is not None:
        network.silent = silent
    federation = Federation(plan, network)
    federation.run()
    return federation


def secure(**choices: Any) -> dict[str, Any]:
    return {
        "secure_aggregation": "paillier",
        "secure_aggregation_options": SHORT,
        **choices,
    }


def test_it_is_the_run_in_the_clear_but_for_rounding() -> None:
    clear, hidden = play(), play(**secure())
    assert clear.encoder is not None
    assert hidden.encoder is not None
    assert hidden.encoder.digest == clear.encoder.digest
    assert clear.state is not None
    assert hidden.state is not None
    error = torch.linalg.vector_norm(hidden.state.vector - clear.state.vector)
    assert error < 1e-3 * torch.linalg.vector_norm(clear.state.vector)


def test_the_round_goes_on_when_the_key_holder_is_gone() -> None:
    """The first client by name makes the key; here it is never heard of after the first round."""

    def silent(client: str, request: Request) -> bool:
        return client == "a" and request.round >= 1

    federation = play(silent, **secure())
    assert [report.clients for report in federation.reports] == [tuple("abcd"), tuple("bcd")]


def test_short_keys_are_for_those_who_say_so() -> None:
    with pytest.raises(PlanError, match="3,072"):
        Plan(secure_aggregation="paillier", secure_aggregation_options={"key_bits": 2048})
    with pytest.raises(PlanError, match="no such option"):
        Plan(secure_aggregation="paillier", secure_aggregation_options={"bits": 2048})
    plan = Plan("tvae", TINY, n_rounds=1, **secure())
    shards = {name: Shard(name, table, device="cpu") for name, table in TABLES.items()}
    run = Federation(plan, Lossy(secured(shards, options=LONGER)))
    with pytest.raises(FederationError, match="key"):  # a server's plan does not bind clients
        run.run()


def test_the_printed_server() -> None:
    choices = {"secure_aggregation": True, "encryption": "paillier"}
    server = FederatedServer(host="127.0.0.1", port=0, **choices)
    assert server.plan.scheme == "paillier"


def test_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("genesis.federated.secagg.pail")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gmpy2", None)
    words = ["federated", "simulate", "a.csv", "b.csv", "c.csv", "--output", "out.csv"]
    done = CliRunner().invoke(command, [*words, "--secure-aggregation", "paillier"])
    assert done.exit_code == 1
    assert "pip install 'genesis-federated[paillier]'" in done.output
    with pytest.raises(genesis.GenesisError):
        Plan(secure_aggregation="paillier")
