"""`genesis audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import genesis
from genesis.progress import ProgressBar

from . import options
from .outputs import check_outputs, say, write_report
from .scores import audit_as_text

__all__ = ["audit"]


@click.command(short_help="Attack synthetic rows, to see whether they leak.")
@options.table("--members", required=True, help="Rows that the generator was trained on.")
@options.table("--non-members", required=True, help="Rows like them that it was not trained on.")
@options.table("--synthetic", required=True, help="Rows that it made.")
@options.table("--reference", help="More such rows. [default: a part of the non-members]")
@options.option("--model", type=options.FILE, metavar="MODEL", help="The generator's model file.")
@options.option(
    "--secrets",
    type=options.WORDS,
    multiple=True,
    metavar="A,B",
    help="Columns to guess from the others; repeatable. [default: each in turn]",
)
@options.whole(
    "--shadows", default=0, help="Generators to train, for attacks that learn from them: 4, 6, 8, …"
)
@options.whole(
    "--canaries", default=0, help="Rows to plant for a bound on the method's ε: 60 or more."
)
@options.text("--method", default=None, help="Method to train for these. [default: the model's]")
@options.epochs
@options.config
@options.report
@options.option("--json", type=options.FILE, metavar="FILE", help="File for all scores, as JSON.")
@options.schema
@options.discrete_columns
@options.device
@options.fixed_seed
@options.quiet
@click.pass_context
def audit(
    ctx: click.Context,
    members: Path,
    non_members: Path,
    synthetic: Path,
    reference: Path | None,
    model: Path | None,
    secrets: tuple[tuple[str, ...], ...],
    shadows: int,
    canaries: int,
    method: str | None,
    epochs: int | None,
    config: tuple[tuple[str, Any], ...],
    report: Path | None,
    json: Path | None,
    schema: Path | None,
    discrete_columns: tuple[tuple[str, ...], ...],
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Attack synthetic rows, to see whether they leak.

    Members and non-members are rows of the same population, and differ in nothing but that the
    generator was trained on the members. The same attacks are run on tables that leak on purpose:
    that nothing was found is worth as much as what they find there.

    --shadows and --canaries train the method again: with --method, --epochs and --config, or as
    the model was trained.

    \b
    Examples:
      genesis audit --members train.csv --non-members test.csv --synthetic synthetic.csv
      genesis audit --members train.csv --non-members test.csv --synthetic synthetic.csv \\
          --model ward.model --secrets diagnosis --report audit.html --json audit.json
      genesis audit --members train.csv --non-members test.csv --synthetic synthetic.csv \\
          --method tvae --epochs 100 --canaries 1000
    """
    _check_uses(ctx, trains=bool(shadows or canaries))
    named = [members, non_members, synthetic, reference, model, schema]
    check_outputs(filter(None, named), files=[report, json])
    kinds = genesis.Schema.load(schema) if schema else None
    discrete = options.split_columns(discrete_columns)
    tables = {
        name: genesis.read_table(path)
        for name, path in {
            "members": members,
            "non_members": non_members,
            "synthetic": synthetic,
            "reference": reference,
        }.items()
        if path is not None
    }
    choices = dict(config) | ({} if epochs is None else {"epochs": epochs})
    train = None
    if method is not None:
        from genesis.evaluation.training import training  # here, because it brings torch

        train = training(
            method,
            choices,
            len(tables["synthetic"]),
            schema=kinds,
            discrete_columns=discrete,
            device=device,
        )
    with ProgressBar("steps", quiet=quiet) as bar:
        found = genesis.audit(
            **tables,
            model=model,
            secrets=options.split_columns(secrets),
            train=train,
            shadows=shadows,
            canaries=canaries,
            schema=kinds,
            discrete_columns=discrete,
            seed=seed,
            device=device,
            progress=bar.show,
        )
    write_report(found, page=report, json=json)
    click.echo(audit_as_text(found.to_dict()))
    if report is not None:
        say(f"report in {report}", quiet=quiet)


def _check_uses(ctx: click.Context, *, trains: bool) -> None:
    """Refuse options that would say nothing; the environment may hold them for other commands."""
    for name, needed in (("epochs", "method"), ("config", "method"), ("method", "")):
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if needed and not ctx.params[needed]:
            raise click.UsageError(f"--{name} needs --{needed}", ctx)
        if not trains:
            raise click.UsageError(f"--{name} needs --shadows or --canaries", ctx)
