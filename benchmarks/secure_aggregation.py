"""What secure aggregation costs: time of clients and server, traffic, and what rounding does.

    python -m benchmarks.secure_aggregation masking         # 10 and 100 clients, 1M parameters
    python -m benchmarks.secure_aggregation traffic         # of a round, beside one in the clear
    python -m benchmarks.secure_aggregation flower          # beside SecAgg+, 10 clients
    python -m benchmarks.secure_aggregation flower --clients 100 --parameters 200000
    python -m benchmarks.secure_aggregation paillier        # beside phe
    python -m benchmarks.secure_aggregation fidelity adult.csv
    python -m benchmarks.secure_aggregation quality adult.csv --target income --seeds 3

Each prints JSON lines. Times are the least of all repetitions and, where all clients do the same,
of all clients, for whatever else the machine does only adds to them; `cpu` is the same work in
time of all cores together, which others disturb less. Training is left out but for `fidelity`
and `quality`. What is compared takes turns in one process.

`flower` plays the client mod and the workflow of Flower's SecAgg+ as they are, without a network
and without the strategy, and with shares for everybody, as ours has. Ours adds masks on as many
threads as there are cores, up to four.

`paillier` uses `phe`, which is in no extra of this package (it is under the GPL):
``pip install phe``, for this benchmark alone. Figures whose names end in `_core_s_scaled` are
seconds of one core, scaled up from samples.

`traffic` plays a whole round of a federation with little to train on, and counts bodies as the
transport makes them, both ways, in all steps; without headers of HTTP.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.scoring import Judge
from genesis import FederatedSynthesizer
from genesis.federated.callbacks import Callback, RoundReport
from genesis.federated.messages import Reply, Request
from genesis.federated.plan import Plan
from genesis.federated.rounds import Federation
from genesis.federated.secagg import Ring, Sum, masking
from genesis.federated.secagg.identity import Identity, Roster, Trust
from genesis.federated.secagg.purpose import Agreed, purpose
from genesis.federated.secagg.vectors import UpdateVector
from genesis.federated.secure_shard import SecureShard
from genesis.federated.shard import Shard
from genesis.federated.transport.body import encode_reply, encode_request
from genesis.federated.transport.in_process import InProcessTransport
from genesis.partition import partition

PARAMETERS = 1_000_000
ABOUT_A_MILLION = {"generator_dim": (616, 616), "discriminator_dim": (616, 616)}
METRICS = ("generator_loss", "discriminator_loss", "update_norm")
SIZE_OF_A_CHANGE = 3e-3
CLIENTS = 5
ROWS = 100
ROUNDINGS = 20


@click.group(help=__doc__.splitlines()[0])
def secure_aggregation() -> None:
    pass


def show(**values: object) -> None:
    click.echo(json.dumps(values))


class Timer:
    """Adds up how long pieces of work take: by the clock, and on all cores of this process."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    @contextmanager
    def running(self, sign: int = 1) -> Iterator[None]:
        """Add what happens inside, or take it out again with the sign -1."""
        seconds, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += sign * (time.perf_counter() - seconds)
        self.cpu += sign * (time.process_time() - cpu)


def least(what: str, *parts: Sequence[Timer]) -> dict[str, float]:
    """The shortest of all times of the same work, in ms; of several parts, their sum."""
    return {
        f"{what}_ms": round(sum(min(t.seconds for t in part) for part in parts) * 1e3, 1),
        f"{what}_cpu_ms": round(sum(min(t.cpu for t in part) for part in parts) * 1e3, 1),
    }


def repeated(work: Callable[[], object], times: int) -> list[Timer]:
    """Times of the same work."""
    timers = [Timer() for _ in range(times)]
    for timer in timers:
        with timer.running():
            work()
    return timers


def named(clients: int) -> tuple[str, ...]:
    return tuple(f"client_{number:03d}" for number in range(clients))


# --- masking ---


def masked(
    identities: Mapping[str, Identity], length: int, bits: int, late: int = 0
) -> tuple[list[Timer], Timer]:
    """Times of the clients that stay, and of the server, of one sum.

    Args:
        identities: Of the clients, by their ids.
        length: Numbers in a vector.
        bits: Of a number.
        late: Clients that share keys, and then upload nothing.
    """
    names = tuple(identities)
    keys = tuple(identity.public for identity in identities.values())
    sum = Sum(secrets.token_hex(16), 0, secrets.token_bytes(32), names, keys, length, bits)
    most = 2 ** (bits - 1) // len(names)
    numbers = np.random.default_rng(0).integers(-most, most, length)
    vector: Ring = numbers.astype(np.int32).view(np.uint32)

    server, clients = Timer(), {name: Timer() for name in names}
    parties = {}
    for name, identity in identities.items():
        with clients[name].running():
            parties[name] = masking.ClientSide(name, identity).party(sum)
    with server.running():
        collector = masking.ServerSide().collector(sum)
        messages = collector.messages()
    step = 0
    while messages:
        answers = {}
        for name, message in messages.items():
            if step >= masking.UPLOAD and name in names[:late]:
                continue
            with clients[name].running():
                answer = parties[name].answer(step, message, lambda: vector)
            answers[name] = bytes(answer)
        with server.running():
            collector.take(answers)
            messages = collector.messages()
        step += 1
    with server.running():
        total = collector.total()
    assert np.array_equal(total, numbers * (len(names) - late))
    return [clients[name] for name in names[late:]], server


def rounding(length: int, clients: int, bits: int) -> tuple[UpdateVector, npt.NDArray[np.float32]]:
    """How an update is rounded, and one."""
    change = np.random.default_rng(0).normal(0, SIZE_OF_A_CHANGE, length).astype(np.float32)
    sizes = tuple(len(part) for part in np.array_split(change, 16))
    return UpdateVector(sizes, (-3,) * 16, METRICS, clients, bits), change


def around(length: int, clients: int, bits: int, times: int) -> dict[str, list[Timer]]:
    """Times of what surrounds a sum: rounding, what it is bound to, and reading the total."""
    content, change = rounding(length, clients, bits)
    metrics, rng = dict.fromkeys(METRICS, 0.0), np.random.default_rng(0)
    encoded = content.encode(change, 1.0, metrics, rng).view(np.int32).astype(np.int64)
    work: dict[str, Callable[[], object]] = {
        "quantise": lambda: content.encode(change, 1 / clients, metrics, rng),
        "digest": lambda: purpose(Agreed(), "train", 0, {}, [change]),
        "decode": lambda: content.decode(encoded),
    }
    return {name: repeated(each, times) for name, each in work.items()}


@secure_aggregation.command("masking")
@click.option("--repeats", default=3)
def time_masking(repeats: int) -> None:
    """Time of one client in all steps, and of the server, without training and rounding."""
    for bits in (32, 24):
        for clients, late in ((10, 0), (100, 0), (100, 10)):
            identities = {name: Identity.generate() for name in named(clients)}
            times = repeats * 100 // clients
            played = [masked(identities, PARAMETERS, bits, late) for _ in range(times)]
            show(
                what="masking",
                clients=clients,
                late=late,
                bits=bits,
                **least("client", [timer for parties, _ in played for timer in parties]),
                **least("server", [server for _, server in played]),
            )
        for name, timers in around(PARAMETERS, 100, bits, ROUNDINGS).items():
            show(what="around", bits=bits, **least(name, timers))


# --- traffic ---


class Counting(InProcessTransport, Callback):
    """Counts the bytes that would cross a network in a round, to and from each client."""

    def __init__(self, shards: Mapping[str, Any]) -> None:
        super().__init__(shards)
        self.down: Counter[str] = Counter()
        self.up: Counter[str] = Counter()

    def exchange(self, requests: Mapping[str, Request], *, timeout: float) -> Iterator[Reply]:
        for client, request in requests.items():
            self.down[client] += len(encode_request(request))
        for reply in super().exchange(requests, timeout=timeout):
            self.up[reply.client_id] += len(encode_reply(reply))
            yield reply

    def on_run_start(self, run: Any) -> None:
        self.down.clear()
        self.up.clear()

    def on_round_complete(self, run: Any, report: RoundReport) -> None:
        self.of_round = self.down.copy(), self.up.copy()
        self.parameters = len(run.state.vector)
        assert set(report.clients) == set(self.up)


def play_round(scheme: str | None, clients: int, bits: int) -> Counting:
    """The traffic of one round of a federation, whose clients have little to train on."""
    rng = np.random.default_rng(0)
    shards: dict[str, Any] = {
        name: Shard(name, pd.DataFrame({"x": rng.normal(size=ROWS)}), device="cpu")
        for name in named(clients)
    }
    choices: dict[str, Any] = {}
    if scheme is not None:
        choices = {"secure_aggregation": scheme, "secure_aggregation_bits": bits}
        identities = {name: Identity.generate() for name in shards}
        trust = Trust(Roster({name: each.public for name, each in identities.items()}))
        shards = {
            name: SecureShard(shard, identity=identities[name], trust=trust, required=True)
            for name, shard in shards.items()
        }
    transport = Counting(shards)
    plan = Plan(n_rounds=1, local_epochs=1, config=ABOUT_A_MILLION, seed=0, **choices)
    Federation(plan, transport, [transport]).run()
    return transport


@secure_aggregation.command()
@click.option("--scheme", default="masking", type=click.Choice(["masking", "paillier"]))
def traffic(scheme: str) -> None:
    """Bytes of a round, beside those of one in the clear."""
    cases = {"masking": [(n, b) for n in (10, 100) for b in (32, 24)], "paillier": [(3, 24)]}
    for clients, bits in cases[scheme]:
        plain, secure = (play_round(each, clients, bits) for each in (None, scheme))
        first, *_, name = named(clients)  # the first one may be a key holder, with more to carry
        (plain_down, plain_up), (down, up) = plain.of_round, secure.of_round
        of_plain, of_last = plain_down[name] + plain_up[name], down[name] + up[name]
        saved = plain.parameters * (4 - bits // 8)
        show(
            what="traffic",
            scheme=scheme,
            clients=clients,
            bits=bits,
            parameters=plain.parameters,
            plain_kb=round(of_plain / 1e3, 1),
            down_kb=round(down[name] / 1e3, 1),
            up_kb=round(up[name] / 1e3, 1),
            more_kb=round((of_last + saved - of_plain) / 1e3, 1),
            ratio=round(of_last / of_plain, 4),
            up_ratio=round(up[name] / plain_up[name], 4),
            first_ratio=round((down[first] + up[first]) / of_plain, 4),
        )


# --- Flower ---


@dataclass
class Neighbours:
    """Flower's "grid" and strategy, without a network: asks the client mod in this process.

    Args:
        clients: How many.
        parameters: Numbers in a vector.
    """

    clients: int
    parameters: int

    def __post_init__(self) -> None:
        from flwr.app import Context, RecordDict

        def context(node: int) -> Any:
            return Context(0, node, {}, RecordDict(), {})

        self.contexts = {node: context(node) for node in range(1, self.clients + 1)}
        self.timers = {node: Timer() for node in self.contexts}
        self.asking = Timer()
        self.down = self.up = 0
        _, self.change = rounding(self.parameters, self.clients, 32)
        self.found: Any = None

    def num_available(self) -> int:
        return self.clients

    def configure_fit(self, round: int, parameters: Any, clients: Any) -> list[Any]:
        from types import SimpleNamespace

        from flwr.common import FitIns

        nodes = [SimpleNamespace(node_id=node) for node in self.contexts]
        return [(node, FitIns(parameters, {})) for node in nodes]

    def aggregate_fit(self, round: int, results: Any, failures: Any) -> tuple[Any, dict[str, Any]]:
        self.found = results[0][1].parameters
        assert not failures
        return self.found, {}

    def send_and_receive(self, messages: Sequence[Any], timeout: float | None) -> list[Any]:
        from flwr.client.mod import secaggplus_mod
        from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

        replies = []
        with self.asking.running():
            for message in messages:
                node = message.metadata.dst_node_id
                sent = recorddict_to_proto(message.content)
                message.content = recorddict_from_proto(sent)  # the mod changes what it is given
                message.metadata.__dict__["_message_id"] = secrets.token_hex(8)
                with self.timers[node].running():
                    reply = secaggplus_mod(message, self.contexts[node], self.train)
                reply.metadata.__dict__["_src_node_id"] = node
                self.down += sent.ByteSize()
                self.up += recorddict_to_proto(reply.content).ByteSize()
                replies.append(reply)
        return replies

    def train(self, message: Any, context: Any) -> Any:
        """What a client's app would do, without training."""
        from flwr.app import Message
        from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
        from flwr.compat.common.recorddict_compat import fitres_to_recorddict

        with self.timers[message.metadata.dst_node_id].running(-1):
            parameters = ndarrays_to_parameters([self.change])
            result = FitRes(Status(Code.OK, ""), parameters, 1, {})
            return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)


def secaggplus(clients: int, parameters: int) -> tuple[list[Timer], Timer, dict[str, float]]:
    """Times of the clients and of the server in Flower's workflow, and its traffic."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
    from flwr.common import parameters_to_ndarrays
    from flwr.server import LegacyContext
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 0, 0, 0
    grid = Neighbours(clients, parameters)
    state = RecordDict(
        {
            "config": ConfigRecord({"current_round": 1}),
            "parameters": ArrayRecord([np.zeros(parameters, np.float32)]),
        }
    )
    context = LegacyContext(Context(0, 0, {}, state, {}), None, grid, grid)  # type: ignore[arg-type]
    threshold = max(2 * clients // 3 + 1, 3)
    workflow = SecAggPlusWorkflow(1.0, threshold / clients, max_weight=1.0)
    whole = Timer()
    with whole.running():
        workflow(grid, context)
    (found,) = parameters_to_ndarrays(grid.found)
    assert np.allclose(found, grid.change, atol=1e-5), "the workflow found another mean"
    whole.seconds -= grid.asking.seconds
    whole.cpu -= grid.asking.cpu
    plain = 4 * parameters * clients
    ratios = {"ratio": (grid.down + grid.up) / (2 * plain), "up_ratio": grid.up / plain}
    return list(grid.timers.values()), whole, {k: round(v, 3) for k, v in ratios.items()}


@secure_aggregation.command()
@click.option("--clients", default=10)
@click.option("--parameters", default=PARAMETERS)
@click.option("--repeats", default=3)
def flower(clients: int, parameters: int, repeats: int) -> None:
    """Masking and SecAgg+, in turns; both with rounding."""
    identities = {name: Identity.generate() for name in named(clients)}
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(masked(identities, parameters, 32))
        theirs.append(secaggplus(clients, parameters))
    more = around(parameters, clients, 32, ROUNDINGS)
    same = {"clients": clients, "parameters": parameters}
    show(
        what="ours",
        **same,
        **least("client", [timer for each in ours for timer in each[0]], more["quantise"]),
        **least("server", [each[1] for each in ours], more["decode"]),
    )
    show(
        what="flower",
        **same,
        **least("client", [timer for each in theirs for timer in each[0]]),
        **least("server", [each[1] for each in theirs]),
        **theirs[0][2],
    )


# --- paillier ---


@secure_aggregation.command()
@click.option("--key-bits", default=3072)
@click.option("--sample", default=200)
@click.option("--repeats", default=3)
def paillier(key_bits: int, sample: int, repeats: int) -> None:
    """One client and the key holder at 24 bits, and phe with the same key and plaintexts."""
    from gmpy2 import mpz
    from phe.paillier import PaillierPrivateKey, PaillierPublicKey

    from genesis.federated.secagg.paillier.keys import SecretKey, write_numbers
    from genesis.federated.secagg.paillier.mac import SumMac
    from genesis.federated.secagg.paillier.packing import Packing
    from genesis.federated.secagg.paillier.randomness import Pool, Powers, n_cores

    secret = SecretKey.generate(key_bits)
    public = secret.public
    packing = Packing(PARAMETERS, 24, public)
    mac = SumMac(secrets.token_bytes(32), secrets.token_bytes(32), public.n)
    vector = np.random.default_rng(0).integers(0, 2**24, PARAMETERS).astype(np.uint32)

    preparing, online = Timer(), []
    pool = Pool(Powers.of(public), public.width, n_cores())
    with preparing.running():
        pool.order(packing.count + 1)
        randomness = pool.take(packing.count + 1)
    for _ in range(repeats):  # never twice with the same randomness but here
        online.append(Timer())
        with online[-1].running():
            plaintexts = packing.pack(vector)
            plaintexts.append(mac.tag(plaintexts, 0))
            ciphertexts = public.encrypt(plaintexts, randomness)
            upload = write_numbers(ciphertexts, public.width)

    n = len(plaintexts)
    theirs = PaillierPublicKey(int(public.n))
    their_secret = PaillierPrivateKey(theirs, int(secret.p), int(secret.q))
    powers, some, of_holder = Powers.of(public), plaintexts[:sample], Powers.of(public, secret)
    list(powers.draw(1)), list(of_holder.draw(1))  # makes their tables, once in a session
    theirs_some = [int(plaintext % public.n) for plaintext in some]
    work: dict[str, Callable[[], Any]] = {
        "preparation": lambda: list(powers.draw(sample)),
        "preparation_of_holder": lambda: list(of_holder.draw(sample)),
        "phe_encryption": lambda: [theirs.raw_encrypt(each) for each in theirs_some],
        "decryption": lambda: secret.decrypt(ciphertexts[:sample]),
        "phe_decryption": lambda: [
            their_secret.raw_decrypt(int(each)) for each in ciphertexts[:sample]
        ],
    }
    assert [mpz(each) for each in work["phe_decryption"]()] == work["decryption"]()
    timers: dict[str, list[Timer]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, each in work.items():
            timers[name] += repeated(each, 1)
    core = {name: min(timer.cpu for timer in each) for name, each in timers.items()}
    show(
        what="paillier",
        key_bits=key_bits,
        ciphertexts=n,
        cores=n_cores(),
        preparation_s=round(preparing.seconds, 2),
        online_s=round(min(timer.seconds for timer in online), 3),
        upload_ratio=round(len(upload) / (4 * PARAMETERS), 3),
        **{f"{name}_core_s_scaled": round(s / sample * n, 1) for name, s in core.items()},
        phe_unpacked_hours_scaled=round(core["phe_encryption"] / sample * PARAMETERS / 3600, 2),
    )


# --- fidelity ---


class Vectors(Callback):
    """Keeps the parameters at the start and after each round.

    Args:
        noise: Added to them after the first round, relative to their change.
    """

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.kept: list[torch.Tensor] = []

    def on_run_start(self, run: Any) -> None:
        self.kept.append(run.state.vector.double())

    def on_round_complete(self, run: Any, report: RoundReport) -> None:
        vector = run.state.vector
        if report.round == 0 and self.noise:
            size = self.noise * (vector - self.kept[0]).square().mean().sqrt()
            noise = torch.randn(len(vector), generator=torch.Generator().manual_seed(0))
            vector = (vector + size * noise).float()
            run.state = replace(run.state, vector=vector)
        self.kept.append(vector.double())


SECURE: dict[str, dict[str, Any]] = {
    "in the clear": {},
    "masking, 32 bits": {"secure_aggregation": True},
    "masking, 24 bits": {"secure_aggregation": True, "secure_aggregation_bits": 24},
}


@secure_aggregation.command()
@click.argument("table", type=Path)
@click.option("--method", default="ctgan")
@click.option("--local-epochs", default=3)
@click.option("--seed", default=0)
def fidelity(table: Path, method: str, local_epochs: int, seed: int) -> None:
    """Relative error of the updates of two rounds, root mean square, of five clients.

    The control is noise of the size of the rounding, on parameters in the clear: training
    magnifies either.
    """
    rows = pd.read_csv(table)
    shards = partition(rows[: len(rows) * 2 // 3], CLIENTS, seed=seed)
    runs = [(name, 0.0, choices) for name, choices in SECURE.items()]
    runs += [("noise in the clear", size, {}) for size in (5e-7, 5e-6)]
    clear: list[torch.Tensor] = []
    for name, noise, choices in runs:
        vectors = Vectors(noise)
        FederatedSynthesizer(
            method,
            n_rounds=2,
            local_epochs=local_epochs,
            seed=seed,
            callbacks=[vectors],
            **choices,
        ).fit(shards)
        clear = clear or vectors.kept
        errors = [
            float((vectors.kept[k] - clear[k]).norm() / (clear[k] - clear[k - 1]).norm())
            for k in (1, 2)
        ]
        show(what="fidelity", method=method, run=name, first=errors[0], second=errors[1])


@secure_aggregation.command()
@click.argument("table", type=Path)
@click.option("--target", required=True)
@click.option("--method", default="ctgan")
@click.option("--seeds", default=3)
@click.option("--rounds", default=10)
@click.option("--local-epochs", default=3)
def quality(
    table: Path, target: str, method: str, seeds: int, rounds: int, local_epochs: int
) -> None:
    """Scores of rows of federations in the clear and with masking; the same seeds."""
    rows = pd.read_csv(table)
    cut = len(rows) * 2 // 3
    train, test = rows[:cut].reset_index(drop=True), rows[cut:].reset_index(drop=True)
    judge, lines = Judge(train, test, target), []
    for seed in range(seeds):
        shards = partition(train, CLIENTS, seed=seed)
        for name, choices in SECURE.items():
            started = time.perf_counter()
            built = FederatedSynthesizer(
                method, n_rounds=rounds, local_epochs=local_epochs, seed=seed, **choices
            ).fit(shards)
            seconds = round(time.perf_counter() - started, 1)
            scores = judge.score(built.generate(len(train)))
            lines.append({"run": name, "seed": seed, "seconds": seconds, **scores})
            show(what="quality", method=method, **lines[-1])
    means = pd.DataFrame(lines).groupby("run", sort=False).agg(["mean", "std"])
    click.echo(means.drop(columns="seed").round(4).to_string(), err=True)


if __name__ == "__main__":
    secure_aggregation()
