"""The interface of servers and clients as its documentation prints it, on this machine.

Only names of hosts lead elsewhere: to 127.0.0.1, at a free port.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from genesis import Synthesizer
from genesis.errors import PlanError
from genesis.federated import FederatedServer
from genesis.federated.certificates import make_certificates


def customers(seed: int, n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 95, n),
            "status": rng.choice(["new", "loyal", "lost"], n),
            "region": rng.integers(1, 4, n),
            "diagnosis": rng.integers(1, 5, n),
            "treatment": rng.choice(["a", "b"], n),
            "outcome": rng.choice(["home", "ward"], n),
        }
    )


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port; a folder of files; and hosts that are this machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("local_customers", "hospital_1_patients"):
        customers(0).to_csv(f"{name}.csv", index=False)
    find = socket.getaddrinfo

    def here(host: Any, *args: Any, **more: Any) -> Any:
        return find("127.0.0.1" if host == "coordinator.example.com" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def play(
    port: int, server: str, client: str, others: int = 2
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the text of a server and of clients, as programs would; what they defined."""
    outcome: list[BaseException] = []

    def program(text: str, names: dict[str, Any]) -> None:
        try:
            text = text.replace("8000", str(port)).replace("//server:", "//localhost:")
            exec(compile(text, "<printed>", "exec"), names)
        except BaseException as error:
            outcome.append(error)

    spaces: list[dict[str, Any]] = [{"os": os} for _ in range(others + 2)]
    names = [f"client_id='other_{i}'" for i in range(others)]
    texts = [server, client, *(re.sub(r"client_id='\w+'", name, client) for name in names)]
    threads = [
        threading.Thread(target=program, args=(textwrap.dedent(text), names))
        for text, names in zip(texts, spaces, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcome == []
    return spaces[0], spaces[1:]


SERVER = """
from genesis.federated import FederatedServer

server = FederatedServer(
    host='0.0.0.0',
    port=8000,
    method='ctgan',
    config={'epochs': 10},
    n_rounds=10,
    min_clients=3
)

# Start server (blocks until training complete)
server.start()

# After training, generate from aggregated model
synthetic = server.generate(1000)
"""

CLIENT = """
from genesis.federated import FederatedClient
import pandas as pd

# Load local data (never leaves this machine)
local_data = pd.read_csv('local_customers.csv')

client = FederatedClient(
    server_url='http://server:8000',
    client_id='org_1'
)

# Participate in federated training
client.train(
    local_data,
    discrete_columns=['status', 'region']
)
"""


def test_quick_start(port: int, caplog: pytest.LogCaptureFixture) -> None:
    server, clients = play(port, SERVER, CLIENT)
    assert len(server["synthetic"]) == 1000
    assert set(server["synthetic"]["region"]) <= {1, 2, 3}
    assert "listening at 127.0.0.1 instead of 0.0.0.0" in caplog.text
    rows = server["server"].generate(20, seed=1)
    for names in clients:
        pd.testing.assert_frame_equal(names["client"].model.generate(20, seed=1), rows)


CONFIGURED_SERVER = """
from genesis.federated import FederatedServer
from genesis.federated.callbacks import CheckpointCallback, MetricsCallback, RoundCallback

server = FederatedServer(
    host='0.0.0.0',
    port=8000,

    # Model config
    method='ctgan',
    config={'epochs': 30},

    # Federated config
    n_rounds=10,              # Total communication rounds
    min_clients=3,            # Minimum clients to start
    max_clients=100,
    client_fraction=0.5,      # Fraction of clients per round

    # Aggregation
    aggregation='fedavg',

    # Security
    auth_token=os.environ.get('FEDERATED_AUTH_TOKEN'),
    ssl_cert='server.crt',
    ssl_key='server.key',
    callbacks=[
        RoundCallback(),      # Called each round
        MetricsCallback(),    # Track metrics
        CheckpointCallback()  # Save progress
    ]
)

seen = []

@server.on_round_complete
def log_round(round_num, metrics):
    seen.append(f"Round {round_num}: {metrics}")

@server.on_round_complete
def log_progress(round_num, metrics, n_clients):
    seen.append(f"Round {round_num}/{server.n_rounds}")
    seen.append(f"  Clients: {n_clients}")
    seen.append(f"  Metrics: {metrics}")

@server.on_training_complete
def save_model(model):
    model.save('federated_model.pkl')
    synthetic = model.generate(10000)
    synthetic.to_csv('federated_synthetic.csv')

server.start()
"""

CONFIGURED_CLIENT = """
import pandas as pd
from genesis.federated import FederatedClient

# Load local patient data
patients = pd.read_csv('hospital_1_patients.csv')

client = FederatedClient(
    server_url='https://coordinator.example.com:8000',
    client_id='hospital_1',

    # Training config
    local_epochs=5,           # Epochs per round
    batch_size=64,
    learning_rate=0.001,

    # Communication
    compression='gzip',       # Compress updates
    retry_attempts=3,
    timeout_seconds=300,
    max_grad_norm=1.0,
    clip_per_layer=True,
    verbose=True,
    ssl_verify='ca.crt'
)

told = []

@client.on_train_complete
def log_training(metrics):
    told.append(f"Local training: {metrics}")

# Join federated training
client.train(
    patients,
    discrete_columns=['diagnosis', 'treatment', 'outcome']
)
"""


def test_everything_configured(
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FEDERATED_AUTH_TOKEN", "a-token-that-nobody-guesses")
    make_certificates(tmp_path, servers=["coordinator.example.com"])
    server, clients = play(port, CONFIGURED_SERVER, CONFIGURED_CLIENT)
    assert len(server["seen"]) == 40
    assert server["seen"][1:3] == ["Round 1/10", "  Clients: 3"]
    assert len(pd.read_csv("federated_synthetic.csv")) == 10_000
    assert len(Synthesizer.load("federated_model.pkl").generate(3)) == 3
    assert Path("checkpoints/checkpoint.safetensors").exists()
    for names in clients:
        assert len(names["told"]) == 10
        assert names["told"][0].startswith("Local training: {")
    assert "round 10/10" in capsys.readouterr().err


COMPLETE_SERVER = """
from genesis.federated import FederatedServer

server = FederatedServer(
    host='0.0.0.0',
    port=8000,
    method='ctgan',
    config={'epochs': 100},
    n_rounds=10,
    min_clients=3,
    aggregation='fedavg',
    ssl_cert='server.crt',
    ssl_key='server.key'
)

seen = []

@server.on_round_complete
def log_progress(round_num, metrics, n_clients):
    seen.append(f"Round {round_num}/{server.n_rounds}")
    seen.append(f"  Clients: {n_clients}")
    seen.append(f"  Metrics: {metrics}")

@server.on_training_complete
def save_model(model):
    model.save('federated_model.pkl')
    synthetic = model.generate(10000)
    synthetic.to_csv('federated_synthetic.csv')

server.start()
"""

PRIVATE_CLIENT = """
import pandas as pd
from genesis.federated import FederatedClient

# Load local patient data
patients = pd.read_csv('hospital_1_patients.csv')

client = FederatedClient(
    server_url='https://coordinator.example.com:8000',
    client_id='hospital_1',
    local_epochs=5,
    privacy={
        'differential_privacy': {
            'epsilon': 1.0,
            'delta': 1e-5
        }
    },
    ssl_verify='ca.crt'
)

# Join federated training
client.train(
    patients,
    discrete_columns=['diagnosis', 'treatment', 'outcome']
)

print("Training complete!")
"""


def test_private_clients(
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FEDERATED_AUTH_TOKEN", "a-token-that-nobody-guesses")
    make_certificates(tmp_path, servers=["coordinator.example.com"])
    server, clients = play(port, COMPLETE_SERVER, PRIVATE_CLIENT)
    assert server["seen"][:3] == ["Round 1/10", "  Clients: 3", "  Metrics: {}"]
    assert len(pd.read_csv("federated_synthetic.csv")) == 10_000
    assert capsys.readouterr().out == "Training complete!\n" * 3
    report = server["server"].privacy
    assert 0.9 < report["epsilon"] <= 1.0
    assert report["unprotected"] == []
    assert Synthesizer.load("federated_model.pkl").epsilon == report["epsilon"]
    for names in clients:
        assert names["client"].model.privacy == json.loads(json.dumps(report))


PRIVATE = [
    """
    client = FederatedClient(
        server_url='http://server:8000',
        privacy={
            'differential_privacy': {
                'epsilon': 1.0,
                'delta': 1e-5,
                'max_grad_norm': 1.0
            }
        }
    )
    """,
    """
    client = FederatedClient(
        server_url='http://server:8000',
        client_id='hospital_1',

        # Training config
        local_epochs=5,           # Epochs per round
        batch_size=64,
        learning_rate=0.001,

        # Privacy
        privacy={
            'differential_privacy': {'epsilon': 1.0}
        },

        # Communication
        compression='gzip',       # Compress updates
        retry_attempts=3,
        timeout_seconds=300
    )
    """,
]


@pytest.mark.parametrize("text", PRIVATE)
def test_a_private_client_of_a_server_that_promises_nothing(port: int, text: str) -> None:
    text = f"from genesis.federated import FederatedClient\n{textwrap.dedent(text)}"
    text += "\nclient.train(pd.read_csv('local_customers.csv'), discrete_columns=['status'])\n"
    alone = SERVER.replace("min_clients=3", "min_clients=1")
    server, [names] = play(port, alone, f"import pandas as pd\n{text}", others=0)
    assert 0.9 < server["server"].epsilon <= 1.0
    assert names["client"].model.epsilon == server["server"].epsilon
    assert len(server["synthetic"]) == 1000


REFUSED: list[Callable[[], object]] = [
    lambda: FederatedServer(encryption="paillier"),
    lambda: _client(secure_aggregation=True),
    lambda: _client(privacy={"differential_privacy": {"epsilon": -1.0}}),
    lambda: _client(privacy={"differential_privacy": {"delta": 1e-5}}),
    lambda: _client(privacy={"differential_privacy": {"epsilon": 1.0, "noise": 2.0}}),
    lambda: _client(privacy={"differential_privacy": {"epsilon": 1.0, "unit": "client"}}),
    lambda: _client(privacy={"differential_privacy": {"epsilon": 1.0, "budget": 3.0}}),
    lambda: _client(privacy={"k_anonymity": 5}),
    lambda: FederatedServer(privacy={"differential_privacy": {"epsilon": 1.0, "ledger": "x"}}),
    lambda: FederatedServer(privacy={"differential_privacy": {"epsilon": 1.0}}, config={"pac": 2}),
    lambda: FederatedServer(
        privacy={"differential_privacy": {"epsilon": 1.0, "trust": "distributed"}}
    ),
    lambda: _client(clip_per_layer=True),
    lambda: _client(max_grad_norm=0),
    lambda: _client(compression="rar"),
    lambda: _client(retry_attempts=-1),
    lambda: _client(timeout_seconds=0),
    lambda: _client(ssl_cert="a.crt", server_url="https://server:8000"),
    lambda: _client(ssl_verify="missing.crt", server_url="https://server:8000"),
    lambda: _client(auth_token=""),
    lambda: _client(auth_token="a-token-with a space"),
    lambda: _client(auth_token="a-token-that-nobody-guesses", server_url="http://server:8000"),
    lambda: _client(server_url="server:8000"),
    lambda: FederatedServer(resume=True),
    lambda: FederatedServer(join_timeout=0),
    lambda: FederatedServer(rounds=3),
    lambda: FederatedServer(min_clients=3, max_clients=2),
    lambda: FederatedServer(auth_token="short"),
    lambda: FederatedServer(auth_token={"a": "t" * 20, "b": "t" * 20}),
    lambda: FederatedServer(ssl_cert="server.crt"),
    lambda: FederatedServer(ssl_cert="missing.crt", ssl_key="missing.key"),
]


def _client(server_url: str = "http://127.0.0.1:8000", **choices: Any) -> object:
    from genesis.federated import FederatedClient

    return FederatedClient(server_url, "org_1", **choices)


@pytest.mark.parametrize("make", REFUSED)
def test_what_cannot_be_is_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(PlanError):
        make()


def test_before_anything_was_trained(caplog: pytest.LogCaptureFixture) -> None:
    server = FederatedServer(host="0.0.0.0", auth_token="a-token-that-nobody-guesses")
    assert server.url == "http://127.0.0.1:8000"
    assert "there is no TLS (ssl_cert, ssl_key)" in caplog.text
    with pytest.raises(PlanError, match="call start first"):
        server.generate(3)
    with pytest.raises(PlanError, match="call start first"):
        server.status()
    caplog.clear()
    assert FederatedServer(host="0.0.0.0", insecure=True).host == "0.0.0.0"
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
