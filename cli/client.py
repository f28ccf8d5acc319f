"""`genesis federated client`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import genesis
import genesis.federated

from . import options
from .network import (
    auth_token_file,
    insecure,
    lines_on_stderr,
    ssl_cert,
    ssl_key,
    ssl_verify,
    stops_on_term,
)
from .outputs import check_outputs, say
from .privacy_options import gather_privacy, ledger_options, ledgers_of, privacy_options
from .secure_options import identity_options, secure_aggregation

__all__ = ["client"]


@click.command(short_help="Take part in a run with a table that stays here.")
@options.option("--server", metavar="URL", required=True, help="Address of the server.")
@options.table("--data", required=True, help="This client's rows.")
@options.stream("--data")
@options.option(
    "--client-id", metavar="ID", help="Name in the run. [default: the name of this machine]"
)
@options.discrete_columns
@options.schema
@options.whole("--local-epochs", help="Epochs in a round. [default: the server's]")
@options.batch_size
@options.number("--learning-rate", help="Learning rate. [default: the server's]")
@options.number("--max-grad-norm", help="Largest norm of this client's update in a round.")
@options.option("--clip-per-layer", is_flag=True, help="Clip each layer instead of the whole.")
@options.text("--compression", help="Compress what is sent: gzip or zstd. [default: nothing]")
@options.whole("--retry-attempts", default=3, help="Least number of times to try again.")
@options.number(
    "--timeout-seconds", default=300.0, help="How long the server may be away, in seconds."
)
@ssl_verify
@ssl_cert
@ssl_key
@auth_token_file("This client's token. [default: FEDERATED_AUTH_TOKEN]")
@insecure
@options.option(
    "--checkpoint",
    type=options.FILE,
    metavar="DIR",
    help="Folder for what this client needs to go on if it is stopped.",
)
@options.option(
    "--output", type=options.FILE, metavar="FILE", help="Synthetic table to write at the end."
)
@options.whole(
    "--rows", help="Its rows. [default: as many as --data has, with noise under a promise]"
)
@options.option("--model", type=options.FILE, metavar="MODEL", help="File for the final model.")
@privacy_options()
@ledger_options()
@secure_aggregation("Insist that the server learns sums alone.")
@identity_options
@options.device
@options.quiet
def client(
    server: str,
    data: Path,
    stream: bool,
    client_id: str | None,
    discrete_columns: tuple[tuple[str, ...], ...],
    schema: Path | None,
    local_epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    max_grad_norm: float | None,
    clip_per_layer: bool,
    compression: str | None,
    retry_attempts: int,
    timeout_seconds: float,
    ssl_verify: Path | None,
    ssl_cert: Path | None,
    ssl_key: Path | None,
    auth_token_file: Path | None,
    insecure: bool,
    checkpoint: Path | None,
    output: Path | None,
    rows: int | None,
    model: Path | None,
    epsilon: float | None,
    delta: float | None,
    privacy: tuple[tuple[str, Any], ...],
    privacy_ledger: Path | None,
    privacy_budget: float | None,
    secure_aggregation: str | None,
    identity: Path | None,
    roster: Path | None,
    trust_on_first_use: bool,
    min_clients: int,
    device: str,
    quiet: bool,
) -> None:
    """Take part in a run with a table that stays on this machine.

    The client waits for the server, trains when it is asked to, and ends with the final model. One
    that is stopped and started again under its id goes on; with --checkpoint, exactly as if it had
    not been stopped.

    \b
    Examples:
      genesis federated client --server http://127.0.0.1:8000 --data north.csv --client-id north \\
          --output synthetic.csv
      genesis federated client --server https://server.example:8000 --ssl-verify ca.crt \\
          --auth-token-file token --data ward.parquet --client-id hospital_1 \\
          --discrete-columns ward,outcome --checkpoint saved --model ward.model
      genesis federated client --server http://127.0.0.1:8000 --data north.csv --client-id north \\
          --secure-aggregation masking --identity north.key --roster roster.toml
      genesis federated client --server http://127.0.0.1:8000 --data large.parquet --stream \\
          --schema schema.toml --model final.model
    """
    if rows is not None and output is None:
        raise click.UsageError("--rows needs --output")
    if rows is not None and rows < 0:
        raise genesis.PlanError("the number of rows must be at least 0", got=str(rows))
    promise = gather_privacy(
        epsilon=epsilon,
        delta=delta,
        privacy=privacy,
        privacy_ledger=privacy_ledger,
        privacy_budget=privacy_budget,
        table=data,
    )
    tls = (ssl_verify, ssl_cert, ssl_key, auth_token_file)
    given = (data, schema, identity, roster, *tls, *ledgers_of(promise))
    check_outputs(
        [path for path in given if path], tables=[output], files=[model], folders=[checkpoint]
    )
    with lines_on_stderr(quiet=quiet), stops_on_term():
        participant = genesis.federated.FederatedClient(
            server,
            client_id,
            local_epochs=local_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            privacy=promise,
            compression=compression,
            retry_attempts=retry_attempts,
            timeout_seconds=timeout_seconds,
            max_grad_norm=max_grad_norm,
            clip_per_layer=clip_per_layer,
            verbose=not quiet,
            ssl_verify=True if ssl_verify is None else ssl_verify,
            ssl_cert=ssl_cert,
            ssl_key=ssl_key,
            auth_token=genesis.federated.read_token(auth_token_file),
            insecure=insecure,
            schema=genesis.Schema.load(schema) if schema else None,
            device=device,
            secure_aggregation=secure_aggregation or False,
            identity=identity,
            roster=roster,
            trust_on_first_use=trust_on_first_use,
            min_clients=min_clients,
            checkpoint=checkpoint,
        )
        table = genesis.TableBlocks(data) if stream else genesis.read_table(data)
        participant.train(table, options.split_columns(discrete_columns))
        if output is not None:
            known = len(table) if participant.rows is None else participant.rows
            synthetic = participant.generate(known if rows is None else rows)
            genesis.write_table(synthetic, output)
            say(f"{len(synthetic):,} synthetic rows in {output}", quiet=quiet)
        if model is not None:
            participant.save(model)
            say(f"model in {model}", quiet=quiet)
