"""`genesis federated server`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import genesis
import genesis.federated
from genesis.federated.plan import Plan

from . import options
from .account import account_of, summary_of
from .network import auth_token_file, insecure, lines_on_stderr, ssl_cert, ssl_key, stops_on_term
from .outputs import check_outputs, say, say_method, write_json
from .plan_options import gather_choices, plan_options

__all__ = ["server"]


@click.command(short_help="Train with clients on other machines.")
@options.text("--host", default="127.0.0.1", help="Address to listen at; 0.0.0.0 for all networks.")
@options.whole("--port", default=8000, help="Its port; 0 for a free one.")
@ssl_cert
@ssl_key
@options.option(
    "--ssl-ca",
    type=options.FILE,
    metavar="FILE",
    help="Authority whose certificates clients must show, PEM. [default: they need none]",
)
@auth_token_file(
    'Token of all clients, or TOML lines: client_id = "token". [default: FEDERATED_AUTH_TOKEN]'
)
@insecure
@plan_options(min_clients=2)
@options.whole("--max-clients", help="Clients that may join. [default: 1,000]")
@options.number(
    "--timeout-seconds",
    default=Plan.timeout_seconds,
    help="Longest that a round waits for its clients.",
)
@options.whole(
    "--expect-clients", help="Clients to wait for before the first round. [default: --min-clients]"
)
@options.number("--join-timeout", default=600.0, help="Seconds to wait for them.")
@options.number(
    "--patience", default=60.0, help="Seconds of silence after which a round needs no client."
)
@options.option(
    "--checkpoint", type=options.FILE, metavar="DIR", help="Folder to save every round in."
)
@options.option(
    "--resume", is_flag=True, help="Continue from --checkpoint, if there is something in it."
)
@options.option(
    "--output", type=options.FILE, metavar="FILE", help="Synthetic table to write at the end."
)
@options.whole("--rows", help="Its rows. [default: as many as the clients have]")
@options.option("--model", type=options.FILE, metavar="MODEL", help="File for the trained model.")
@options.option("--json", type=options.FILE, metavar="FILE", help="File for an account, as JSON.")
@options.device
@options.seed
@options.quiet
def server(
    host: str,
    port: int,
    ssl_cert: Path | None,
    ssl_key: Path | None,
    ssl_ca: Path | None,
    auth_token_file: Path | None,
    insecure: bool,
    schema: Path | None,
    expect_clients: int | None,
    join_timeout: float,
    patience: float,
    checkpoint: Path | None,
    resume: bool,
    output: Path | None,
    rows: int | None,
    model: Path | None,
    json: Path | None,
    device: str,
    quiet: bool,
    **choices: Any,
) -> None:
    """Train one generator with clients on other machines, and give it to all of them.

    The server waits for --min-clients clients, trains for --rounds rounds, and ends. With
    --checkpoint and --resume, a server that was stopped goes on where it was, with clients that
    come back by themselves.

    Beyond this machine it listens only with a certificate and tokens, which come from the
    environment (FEDERATED_AUTH_TOKEN, FEDERATED_OPERATOR_TOKEN) or from files.

    \b
    Examples:
      genesis federated server --rounds 10 --min-clients 3
      genesis federated server --host 0.0.0.0 --ssl-cert server.crt --ssl-key server.key \\
          --auth-token-file tokens.toml --method tvae --min-clients 3 \\
          --checkpoint saved --resume --model ward.model
    """
    started = time.perf_counter()
    if resume and checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint")
    if rows is not None and output is None:
        raise click.UsageError("--rows needs --output")
    if rows is not None and rows < 0:
        raise genesis.PlanError("the number of rows must be at least 0", got=str(rows))
    inputs = [path for path in (ssl_cert, ssl_key, ssl_ca, auth_token_file, schema) if path]
    check_outputs(inputs, tables=[output], files=[model, json], folders=[checkpoint])
    tokens = genesis.federated.read_tokens(auth_token_file)
    with lines_on_stderr(quiet=quiet), stops_on_term():
        run = genesis.federated.FederatedServer(
            host,
            port,
            **gather_choices(**choices),
            schema=genesis.Schema.load(schema) if schema else None,
            device=device,
            callbacks=[] if quiet else [genesis.federated.RoundCallback()],
            auth_token=tokens,
            ssl_cert=ssl_cert,
            ssl_key=ssl_key,
            ssl_ca=ssl_ca,
            insecure=insecure,
            checkpoint=checkpoint,
            resume=resume,
            expect_clients=expect_clients,
            join_timeout=join_timeout,
            patience=patience,
        )
        run.start()
        seconds = dict(run.seconds)
        if output is not None:
            generating = time.perf_counter()
            synthetic = run.generate(run.total_rows if rows is None else rows)
            genesis.write_table(synthetic, output)
            seconds["generation"] = time.perf_counter() - generating
        if model is not None:
            run.save(model)
    seconds["total"] = time.perf_counter() - started
    if json is not None:
        write_json(json, account_of(run, run.rows, seconds))
    say_method(choices["method"], run.plan.method, run.plan.privacy, quiet=quiet)
    say(summary_of(run, run.rows, seconds), quiet=quiet)
    if output is not None:
        say(f"{len(synthetic):,} synthetic rows in {output}", quiet=quiet)
    if model is not None:
        say(f"model in {model}", quiet=quiet)
