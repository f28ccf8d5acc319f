"""`genesis audit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import genesis
from genesis.errors import PrivacyError
from genesis.progress import ProgressBar

from . import options
from .outputs import check_outputs, say, write_json, write_report
from .scores import audit_as_text, mechanism_as_text

__all__ = ["audit"]

TABLES = ("members", "non_members", "synthetic")
"""What an audit of rows needs, and one of a mechanism does not."""

OF_MECHANISM = ("mechanism", "method", "config", "json", "seed", "quiet")
"""What an audit of a mechanism reads."""


@click.command(short_help="Attack synthetic rows, to see whether they leak.")
@options.table("--members", help="Rows that the generator was trained on.  [required]")
@options.table("--non-members", help="Rows like them that it was not trained on.  [required]")
@options.table("--synthetic", help="Rows that it made.  [required]")
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
@options.option(
    "--mechanism",
    is_flag=True,
    help="Audit single private steps of training instead, which needs no tables.",
)
@options.text(
    "--method",
    default=None,
    help="Method to train for these. [default: the model's] With --mechanism, whose step: ctgan, "
    "tvae, classifier, client-level, marginals or mixture. [default: each]",
)
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
    members: Path | None,
    non_members: Path | None,
    synthetic: Path | None,
    reference: Path | None,
    model: Path | None,
    secrets: tuple[tuple[str, ...], ...],
    shadows: int,
    canaries: int,
    mechanism: bool,
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

    --mechanism runs the steps that differential privacy rests on, with a planted record and
    without: those of CTGAN, TVAE and the classifier, and the round that hides whole clients, or
    the one that --method names. It ends with status 1 unless they do what their ε is computed for.

    \b
    Examples:
      genesis audit --members train.csv --non-members test.csv --synthetic synthetic.csv
      genesis audit --members train.csv --non-members test.csv --synthetic synthetic.csv \\
          --model ward.model --secrets diagnosis --report audit.html --json audit.json
      genesis audit --members train.csv --non-members test.csv --synthetic synthetic.csv \\
          --method tvae --epochs 100 --canaries 1000
      genesis audit --mechanism --json steps.json
      genesis audit --mechanism --method client-level
    """
    if mechanism:
        _check_uses_of_mechanism(ctx)
        _audit_mechanism(method, dict(config), json=json, seed=seed, quiet=quiet)
        return
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


def _audit_mechanism(
    method: str | None, config: Mapping[str, Any], *, json: Path | None, seed: int, quiet: bool
) -> None:
    """Audit one private step or all of them, and raise PrivacyError for what is found."""
    from genesis.evaluation.mechanism import audit_step, private_steps

    check_outputs([], files=[json])
    chosen = {method: config} if method else {each: {} for each in private_steps()}
    steps = {}
    for name, its_config in chosen.items():
        with ProgressBar(name, quiet=quiet) as bar:
            found = audit_step(name, its_config, seed=seed, progress=bar.show)
        steps[name] = found.to_dict()
    if json is not None:
        write_json(json, {"kind": "mechanism", "seed": seed, "steps": steps})
    click.echo("\n\n".join(map(mechanism_as_text, steps.values())))
    findings = {name: found["verdict"]["finding"] for name, found in steps.items()}
    wrong = [f"{name}: {found}" for name, found in findings.items() if found != "nothing found"]
    if wrong:
        raise PrivacyError(
            "the private step does not pass its audit",
            got=", ".join(wrong),
            do="rely on no ε of it before what the audit says is explained",
        )


def _check_uses_of_mechanism(ctx: click.Context) -> None:
    """Refuse options that an audit of a mechanism does not read."""
    for name in ctx.params:
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in OF_MECHANISM:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} says nothing with --mechanism", ctx)
    alone = ctx.get_parameter_source("config") is ParameterSource.COMMANDLINE
    if alone and not ctx.params["method"]:
        raise click.UsageError("--config needs --method", ctx)


def _check_uses(ctx: click.Context, *, trains: bool) -> None:
    """Refuse options that would say nothing; the environment may hold them for other commands."""
    for parameter in ctx.command.params:
        if parameter.name in TABLES and ctx.params[parameter.name] is None:
            raise click.MissingParameter(ctx=ctx, param=parameter)
    for name, needed in (("epochs", "method"), ("config", "method"), ("method", "")):
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if needed and not ctx.params[needed]:
            raise click.UsageError(f"--{name} needs --{needed}", ctx)
        if not trains:
            raise click.UsageError(f"--{name} needs --shadows or --canaries", ctx)
