"""`genesis privacy plan`."""

from __future__ import annotations

import json
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import genesis
from genesis.federated.plan import Plan

from . import options
from .plan_options import gather_choices, plan_options

if TYPE_CHECKING:
    from genesis.models import GenerativeModel
    from genesis.privacy.plan import PlannedRun, PrivacyPlan
    from genesis.privacy.sums import Release
    from genesis.schema import Schema

__all__ = ["plan"]

MODES = 10
"""Modes of a column of numbers, and categories of one whose categories nobody states."""

WIDTH = 50
"""Characters of what begins a line."""


@click.command(short_help="Show how much noise a run would have.")
@click.argument("table", type=options.FILE, required=False)
@options.whole("--rows", required=True, help="Rows of all clients together, about.")
@options.whole("--clients", default=1, help="Tables; one is what 'genesis fit' has.")
@options.whole("--columns", help="Number of columns, if there is neither TABLE nor --schema.")
@options.whole("--numeric", help="How many of --columns hold numbers or dates. [default: half]")
@plan_options()
# Not from the environment, where GENESIS_JSON is the name of a file for other commands.
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@click.pass_context
def plan(
    ctx: click.Context,
    /,
    table: Path | None,
    rows: int,
    clients: int,
    columns: int | None,
    numeric: int | None,
    as_json: bool,
    schema: Path | None,
    **choices: Any,
) -> None:
    """Show how much noise a run would have, before anything is released.

    Takes the options of 'genesis federated simulate' and its plan file. Of a TABLE the names, kinds
    and types of its columns are read; how many rows there are is private, so --rows is what you
    would say of it in public. What is shown is computed by what computes it in a run.

    \b
    Examples:
      genesis privacy plan --epsilon 1 --rows 50000 --columns 14 --numeric 6
      genesis privacy plan patients.csv --epsilon 1 --rows 50000 --clients 5 --rounds 10 \\
          --local-epochs 3 --batch-size 500
      genesis privacy plan --schema schema.toml --plan plan.toml --rows 50000 --clients 5
      genesis privacy plan --epsilon 8 --privacy-unit client --schema schema.toml \\
          --rows 2000000 --clients 2000
    """
    _check_uses(table, schema, columns, numeric)
    for name, value in (("rows", rows), ("clients", clients)):
        if value < 1:
            raise click.UsageError(f"--{name} must be at least 1", ctx)
    if clients == 1 and ctx.get_parameter_source("n_rounds") is ParameterSource.DEFAULT:
        choices["n_rounds"] = 1  # as 'genesis fit'
    chosen = Plan(**gather_choices(**choices))
    if chosen.promise is None:
        raise click.UsageError("a promise of privacy needs --epsilon", ctx)
    found_schema = _schema(table, schema, columns, numeric, chosen)
    run = _run(
        chosen,
        found_schema,
        rows=rows,
        clients=clients,
        public=table is None and (columns is None or chosen.promise.unit == "client"),
    )
    from genesis.privacy.plan import plan as planned  # here, because it brings torch

    found = planned(run)
    click.echo(json.dumps(_as_values(run, found), indent=2) if as_json else _as_text(run, found))


def _check_uses(
    table: Path | None, schema: Path | None, columns: int | None, numeric: int | None
) -> None:
    """Refuse none, and several, of what says which columns there are."""
    if sum(each is not None for each in (table, schema, columns)) != 1:
        raise click.UsageError("give one of TABLE, --schema and --columns")
    if numeric is not None and columns is None:
        raise click.UsageError("--numeric needs --columns")
    if columns is not None and columns < 1:
        raise click.UsageError("--columns must be at least 1")
    if columns is not None and not 0 <= (numeric or 0) <= columns:
        raise click.UsageError("--numeric must be from 0 to --columns")


def _schema(
    table: Path | None, schema: Path | None, columns: int | None, numeric: int | None, chosen: Plan
) -> Schema:
    """The columns of the run, as the run would have them."""
    if schema is not None:
        return genesis.Schema.load(schema).discretise(chosen.discrete_columns).settle()
    if table is not None:
        inferred = genesis.Schema.infer(genesis.read_table(table), chosen.discrete_columns)
        return inferred.without_values().settle()
    assert columns is not None
    assert chosen.promise is not None
    numbers = columns // 2 if numeric is None else numeric
    entries: list[dict[str, Any]] = []
    for i in range(columns):
        entry: dict[str, Any] = {"kind": "numeric"} if i < numbers else {"kind": "categorical"}
        if i >= numbers and chosen.promise.unit == "client":
            # Whole clients cannot be hidden where categories have to be found out.
            entry["categories"] = [str(n) for n in range(MODES)]
        entries.append({"name": f"column {i + 1}", **entry})
    return genesis.Schema.from_dict({"columns": entries}).settle()


def _run(chosen: Plan, schema: Schema, *, rows: int, clients: int, public: bool) -> PlannedRun:
    """What the run would be, with a model as large as it would about be.

    Raises:
        PlanError: There are fewer rows than clients.
    """
    # Here, because they bring torch.
    from genesis.federated.choices import batch_size_for, private_batch_size
    from genesis.models import is_sum_model
    from genesis.privacy.plan import PlannedRun

    assert chosen.promise is not None
    private = chosen.promise.unit == "record"
    config = chosen.config_for(private=private)
    model = _model(chosen, schema, config)
    layout = model.parameters
    # Steps on the rows train the critic of a GAN, and all of an autoencoder.
    trained = layout.parts.get("discriminator", slice(0, layout.size))
    summed = is_sum_model(chosen.method)
    batch_size = 1 if summed else private_batch_size(config)
    if not private:
        batch_size = batch_size_for(model, config, max(rows // clients, 1), rows)
    return PlannedRun(
        privacy=chosen.promise,
        schema=schema,
        rows=rows,
        parameters=layout.size,
        private_parameters=trained.stop - trained.start,
        clients=clients,
        n_rounds=chosen.n_rounds,
        epochs=chosen.epochs_per_round,
        batch_size=batch_size,
        client_fraction=chosen.client_fraction,
        public_schema=public,
        releases=partial(_releases, chosen) if summed else None,
    )


def _releases(chosen: Plan, columns: int) -> tuple[Release, ...]:
    """The answers of a fit from sums, which follow from the number of columns."""
    from genesis.codes import Layout
    from genesis.models import model_class

    releases: tuple[Release, ...] = model_class(chosen.method).releases(
        Layout((), (2,) * columns), chosen.config_for(private=True)
    )
    return releases


def _model(chosen: Plan, schema: Schema, config: dict[str, Any]) -> GenerativeModel:
    """A model of the columns, as wide as it can be told without the rows."""
    from genesis.codes import Layout
    from genesis.models import create_model
    from genesis.statistics import DISCRETE, NUMERIC

    widths = [len(c.categories or range(MODES)) for c in schema if c.kind in DISCRETE]
    layout = Layout(
        mode_widths=(MODES,) * sum(column.kind in NUMERIC for column in schema),
        category_widths=tuple(min(width, chosen.max_categories) for width in widths),
    )
    return create_model(chosen.method, layout, config)


# --- what is told ---


def _as_values(run: PlannedRun, found: PrivacyPlan) -> dict[str, Any]:
    """Everything, for a program to read."""
    return {
        "promise": run.privacy.to_dict()["differential_privacy"],
        "rows": run.rows,
        "clients": run.clients,
        "rounds": run.n_rounds,
        "local_epochs": run.epochs,
        "columns": len(run.schema),
        "parameters": run.parameters,
        **found.to_dict(),
    }


def _as_text(run: PlannedRun, found: PrivacyPlan) -> str:
    """The same for a person."""
    lines = [*_of_promise(run, found), "", *_of_statistics(run, found), ""]
    training = _of_training if run.releases is None else _of_sums
    lines += [*training(run, found), "", *_of_shares(found)]
    if found.changes:
        lines += ["", *_of_changes(run, found)]
    if found.clients_needed is not None:
        hidden = run.privacy.unit == "client"
        lines += ["", _wrapped(_needed(found.clients_needed, run.clients, hidden=hidden))]
    if (instead := found.records_instead) is not None:
        lines.append(
            _wrapped(
                f"With {instead.what}, one client's step would have a noise of "
                f"{instead.noise_to_signal:.2g} times the most it can learn, before the mean over "
                f"{run.clients:,} clients, and a frequency an error of "
                f"{instead.frequency_error:.2g} percent points."
            )
        )
    if found.refused is not None:
        lines += ["", _wrapped(f"This run would be refused: {found.refused}.")]
    return "\n".join(lines)


def _of_promise(run: PlannedRun, found: PrivacyPlan) -> list[str]:
    """What would be promised."""
    tables = f"{run.clients:,} clients" if run.clients > 1 else "one table"
    lines = [
        f"({found.epsilon:.3g}, {found.delta:.3g})-differential privacy for each {found.unit}; "
        f"{run.rows:,} rows of {tables}, {len(run.schema)} columns"
    ]
    if run.privacy.overlap == "overlapping" and run.clients > 1:
        each = run.privacy.among(run.clients)
        lines.append(f"each client promises ({each.epsilon:.3g}, {each.delta:.3g}): people overlap")
    return lines


def _of_statistics(run: PlannedRun, found: PrivacyPlan) -> list[str]:
    """The noise of the counts."""
    lines = ["Statistics of the columns"]
    lines.append(_line("histograms that are released with noise", f"{found.releases:,}"))
    if found.deviation is not None:
        each = f"{found.deviation:,.1f} rows"
        lines.append(_line("standard deviation of the noise in a count", each))
    if found.unit == "client" or run.clients > 1:
        counted = "clients" if found.unit == "client" else "rows"
        in_sum = f"{found.sum_deviation:,.1f} {counted}"
        lines.append(_line("the same in the sum over all clients", in_sum))
    error = f"{found.frequency_error:.2g} percent points"
    lines.append(_line("expected error of a frequency", error))
    if found.label_threshold is not None:
        label = f"about {found.label_threshold:,.0f}" + " at one client" * (run.clients > 1)
        lines.append(_line("rows that a category needs to be known at all", label))
    return lines


def _of_training(run: PlannedRun, found: PrivacyPlan) -> list[str]:
    """The noise of the steps, or of the rounds."""
    hidden = found.unit == "client"
    of, who = ("round", "clients") if hidden else ("step", "rows")
    lines = ["Training"]
    if found.batch_size is not None:
        lines.append(_line("batch size", f"{found.batch_size:,}"))
    counted = f"{of}s in the whole run" + " of a client" * (run.clients > 1 and not hidden)
    learnt = run.parameters if hidden else run.private_parameters
    ratio = f"{found.noise_to_signal:.2g}, of about {learnt:,} numbers"
    lines += [
        _line(f"share of the {who} in a {of}", f"{found.sample_rate:.3g}"),
        _line(counted, f"{found.steps:,}"),
        _line("noise multiplier", f"{found.noise_multiplier:.3g}"),
        _line(f"noise of a {of} over the most it can learn", ratio),
    ]
    return lines


def _of_sums(run: PlannedRun, found: PrivacyPlan) -> list[str]:
    """The noise of the answers that a model is fitted from."""
    in_sum = f"{found.noise_to_signal:.2g}"
    return [
        "Sums over the rows",
        _line("answers in the whole run" + " of a client" * (run.clients > 1), f"{found.steps:,}"),
        _line("noise multiplier of all of them together", f"{found.noise_multiplier:.3g}"),
        _line("noise in a number over the most that all rows add", in_sum),
    ]


def _of_shares(found: PrivacyPlan) -> list[str]:
    """Where ε goes."""
    lines = [f"{'Where the budget goes':{WIDTH}}  share  ε if it were alone"]
    for purpose, epsilon in found.mechanisms.items():
        lines.append(_line(purpose, f"{found.shares[purpose]:5.0%}  {epsilon:.3g}"))
    return lines


def _of_changes(run: PlannedRun, found: PrivacyPlan) -> list[str]:
    """What would make the noise less, one by one."""
    of = "round" if found.unit == "client" else "step" if run.releases is None else "sum"
    lines = [f"{'What to change':{WIDTH}}  {f'noise of a {of}':>16}  error of a frequency"]
    rows = [("as planned", found.noise_to_signal, found.frequency_error)]
    rows += [(each.what, each.noise_to_signal, each.frequency_error) for each in found.changes]
    for what, noise, error in rows:
        lines.append(_line(what, f"{noise:16.2g}  {error:20.2g}"))
    return lines


def _needed(needed: int, clients: int, *, hidden: bool) -> str:
    """For how many clients whole ones can be hidden."""
    if hidden and needed <= clients:
        return f"Whole clients can be hidden from about {needed:,} clients on."
    return (
        f"To hide whole clients, about {needed:,} clients would be needed instead of {clients:,}."
    )


def _line(name: str, value: str) -> str:
    """A name and its value."""
    return f"  {name:{WIDTH - 2}}  {value}"


def _wrapped(text: str) -> str:
    """Text in lines of a terminal."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
