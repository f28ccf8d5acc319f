"""The ServerApp: a plan from the run config, the rounds over the Grid, the files at the end.

What the run config says, with "" for what it does not:

    every choice of a Plan by its name, config.epochs and the like for those within; discrete
    columns separated by commas; and privacy.epsilon and the like for what the run promises
    plan                TOML file with choices, for what the run config leaves open
    join_timeout        how long to wait for min_clients nodes
    schema              TOML file with the schema; agreed on by the clients if left out
    model               file for the trained model
    synthetic, rows     table of synthetic rows, and how many; as many as the clients have
    checkpoint          folder to save every round in
    resume              true to go on from there, if there is something
    device              where the synthetic rows are generated: "auto", "cpu" or "cuda"

All paths are on the machine of the ServerApp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from genesis.devices import resolve_device
from genesis.errors import PlanError, nearest_names
from genesis.federated.callbacks import Callback
from genesis.federated.callbacks.checkpoint import CheckpointCallback
from genesis.federated.callbacks.round import RoundCallback
from genesis.federated.checkpoint import Checkpoint, checkpoint_seed
from genesis.federated.flower.transport import FlowerTransport
from genesis.federated.plan import Plan, read_choices
from genesis.federated.rounds import Federation
from genesis.federated.secagg import check_portable
from genesis.privacy.budget import Privacy
from genesis.schema import Schema
from genesis.synthesizer import Synthesizer
from genesis.tables import check_output, write_table

__all__ = ["Settings", "app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the nodes, play the rounds, and write what is wanted."""
    settings = Settings.read(context.run_config)
    plan, earlier = settings.plan, settings.earlier()
    transport = FlowerTransport(grid)
    transport.wait_for(list(earlier or ()), plan.min_clients, settings.join_timeout)
    callbacks: list[Callback] = [RoundCallback()]
    if settings.checkpoint is not None:
        callbacks.insert(0, CheckpointCallback(settings.checkpoint, strict=False))
    federation = Federation(plan, transport, callbacks, settings.schema)
    federation.run(None if earlier is None else settings.checkpoint)
    settings.write(federation)


@dataclass(frozen=True)
class Settings:
    """What the run config says.

    Args:
        plan: Every choice of the run.
        join_timeout: How long to wait for the clients.
        schema: The schema that the operator insists on, or None to agree on one.
        model: File for the trained model.
        synthetic: File for synthetic rows.
        rows: How many; as many as the clients have if None.
        checkpoint: Folder to save every round in.
        resume: Whether to go on from there, if there is something.
        device: Where rows are generated.
    """

    plan: Plan
    join_timeout: float = 600.0
    schema: Schema | None = None
    model: Path | None = None
    synthetic: Path | None = None
    rows: int | None = None
    checkpoint: Path | None = None
    resume: bool = False
    device: str = "auto"

    @classmethod
    def read(cls, run_config: Mapping[str, Any]) -> Settings:
        """Read a run config, and make sure that its files can be read and written.

        Raises:
            PlanError: It says something unknown or impossible.
            DataError: A file cannot be written.
            SchemaError: The schema is none.
        """
        said = {name: value for name, value in run_config.items() if value != ""}
        own = {each.name for each in dataclasses.fields(cls)}
        choices = _read_plan(Path(said["plan"])) if "plan" in said else {}
        choices |= _choices({k: v for k, v in said.items() if k not in own}, choices)
        given: dict[str, Any] = {k: v for k, v in said.items() if k in own - {"plan"}}
        for name in ("model", "synthetic", "checkpoint"):
            if name in given:
                given[name] = Path(given[name])
        if "schema" in given:
            given["schema"] = Schema.load(given["schema"])
        _check(given)
        if given.get("resume"):
            if "checkpoint" not in given:
                raise PlanError("there is nothing to resume from", do="set checkpoint to a folder")
            if Checkpoint.is_in(given["checkpoint"]):
                choices.setdefault("seed", checkpoint_seed(given["checkpoint"]))
        plan = Plan(**choices)
        if plan.scheme is not None:
            check_portable(plan.scheme)
        return cls(plan=plan, **given)

    def earlier(self) -> Mapping[str, int] | None:
        """The clients of the run to go on with, and their numbers, if there is such a run.

        Raises:
            ModelFileError: Its checkpoint is damaged.
            PlanError: It had another plan.
        """
        if not self.resume or self.checkpoint is None or not Checkpoint.is_in(self.checkpoint):
            return None
        return Checkpoint.read(self.checkpoint, self.plan).numbers

    def write(self, federation: Federation) -> None:
        """Write the files that are wanted of a run that is complete.

        Raises:
            DataError: The disk refuses.
        """
        assert federation.encoder is not None
        assert federation.state is not None
        model = Synthesizer.of_parameters(
            self.plan.method,
            federation.config,
            federation.encoder,
            federation.state.vector.cpu(),
            seed=federation.seed,
            device=self.device,
            privacy=federation.privacy,
        )
        if self.model is not None:
            model.save(self.model)
        if self.synthetic is not None:
            rows = sum(federation.rows.values()) if self.rows is None else self.rows
            write_table(model.generate(rows), self.synthetic)


def _read_plan(path: Path) -> dict[str, Any]:
    """The choices in a plan file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise PlanError(f"the plan {path} cannot be read", got=got) from error
    return read_choices(text)


def _check(given: Mapping[str, Any]) -> None:
    """Make sure of everything that is only used at the end, or for waiting."""
    for name, kind in (("rows", int), ("join_timeout", int | float), ("resume", bool)):
        value = given.get(name)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if value is not None and (wrong or value < 0):
            raise PlanError(f"{name} in the run config is impossible", got=repr(value))
    resolve_device(given.get("device", "auto"))
    if "model" in given:
        check_output(given["model"], suffixes=None)
    if "synthetic" in given:
        check_output(given["synthetic"])


def _choices(said: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that a run config says, which Flower has made flat: config.epochs and so on."""
    fields = {each.name for each in dataclasses.fields(Plan)}
    nested = {"config", "aggregation_options", "privacy"}
    choices: dict[str, Any] = {}
    for name, value in said.items():
        outer, _, inner = name.partition(".")
        if outer not in fields or bool(inner) != (outer in nested):
            known = fields - nested | {each.name for each in dataclasses.fields(Settings)}
            raise PlanError(f"the run config has no '{name}'", do=nearest_names(name, known))
        if outer == "privacy":
            promise = choices.setdefault(outer, _promise(plan.get(outer)))
            promise["differential_privacy"][inner] = value
        elif inner:
            choices.setdefault(outer, dict(plan.get(outer, {})))[inner] = value
        elif outer == "discrete_columns":
            choices[outer] = [column.strip() for column in str(value).split(",")]
        else:
            choices[outer] = value
    return choices


def _promise(privacy: Any) -> dict[str, Any]:
    """What a plan file promises, to be changed by the run config."""
    Privacy.parse(privacy)
    return {"differential_privacy": dict((privacy or {}).get("differential_privacy", {}))}
