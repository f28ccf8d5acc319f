"""The plan: every choice of a federated run, checked together before anything is sent."""

from __future__ import annotations

import dataclasses
import math
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from genesis.errors import PlanError, nearest_names
from genesis.federated.aggregation import Aggregator, CombineFunction, create_aggregator, is_sum
from genesis.federated.secagg import FEWEST, scheme
from genesis.models import (
    DEFAULT_EPOCHS,
    check_private_config,
    default_rounds,
    is_sum_model,
    model_class,
    private_choices,
)
from genesis.models.choosing import chosen_method, suited
from genesis.privacy.budget import Privacy

__all__ = ["Plan", "check_number", "check_whole", "read_choices"]

SCHEDULES = ("constant", "cosine", "step")
OF_TRAINING = (
    "aggregation",
    "batch_size",
    "client_fraction",
    "clip_per_layer",
    "learning_rate",
    "local_epochs",
    "lr_schedule",
    "max_grad_norm",
    "proximal_mu",
    "sync_every",
    "synchronize",
)
"""Choices about models that are trained in steps."""

SYNCHRONIZE = ("both", "generator", "discriminator")
LEAST = {
    "n_rounds": 1,
    "min_clients": 1,
    "max_clients": 1,
    "sync_every": 1,
    "local_epochs": 1,
    "batch_size": 2,
    "max_categories": 2,
    "seed": 0,
}


@dataclass(frozen=True)
class Plan:
    """Every choice of a federated run.

    Args:
        method: The model: "ctgan", "tvae", one of `models.SUM_MODELS`, or "auto" for the one that
            suits the promise of privacy, see `models.choosing`.
        config: Its arguments; those of `ctgan.CTGAN` and `ctgan.TVAE` for the first two.
        n_rounds: Rounds of local training and aggregation, or passes over the rows of a model that
            is fitted from sums; None for 10, or the model's own number.
        local_epochs: Epochs of each client in each round; `config["epochs"] // n_rounds` if None,
            at least 1.
        batch_size: Rows of a step; if None it follows the shard, see `choices.batch_size_for`.
        learning_rate: Replaces the learning rates of the config.
        aggregation: Name of a rule, or an object or function: see `aggregation`.
        aggregation_options: Options of a rule given by name.
        proximal_mu: FedProx's weight; an option of aggregation "fedprox".
        min_clients: Clients that must take part in every round.
        max_clients: Clients that may take part in the run.
        client_fraction: Share of the clients that take part in a round, in (0, 1].
        lr_schedule: "constant"; "cosine", from 1 to 0 over the rounds; or "step", halved twice.
        max_grad_norm: Largest L2 norm of a client's change of the parameters in a round.
        clip_per_layer: Clip each of the L tensors to max_grad_norm / sqrt(L) instead of the whole.
        synchronize: What is averaged: "both" networks, the "generator" (each client keeps a critic
            of its own), or the "discriminator" (generators meet in the last round only).
        sync_every: Average in every so many-th round, and in the last.
        discrete_columns: Columns to take as categories, whatever they look like.
        max_categories: Categories of a column with a slot of their own; the rest share one.
        seed: Decides everything but privacy noise; drawn by the operating system if None.
        timeout_seconds: How long a round waits for its clients.
        privacy: ``{"differential_privacy": {"epsilon": 1.0, "delta": 1e-5, …}}``, what the run
            promises: see `privacy.budget.Privacy`. None promises nothing.
        secure_aggregation: Whether the server learns sums alone: True or "masking" for masks that
            cancel, "paillier" for encryption; see `secagg`. At least three clients then take part.
        encryption: "paillier", with secure_aggregation True, says the same as
            secure_aggregation "paillier".
        secure_aggregation_bits: Of a number on its way, 32 or 24: 24 are a quarter less traffic.
            Paillier has 24 whatever is said here.
        secure_aggregation_options: Options of the scheme, such as ``{"key_bits": 4096}`` of
            Paillier. Clients elsewhere have their own, and refuse shorter keys.

    Raises:
        PlanError: A choice is unknown or impossible, or two contradict each other.
    """

    method: str = "ctgan"
    config: Mapping[str, Any] = field(default_factory=dict)
    n_rounds: int = None  # type: ignore[assignment]  # until the method is known
    local_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    aggregation: str | Aggregator | CombineFunction = "fedavg"
    aggregation_options: Mapping[str, Any] = field(default_factory=dict)
    proximal_mu: float | None = None
    min_clients: int = 1
    max_clients: int | None = None
    client_fraction: float = 1.0
    lr_schedule: str = "constant"
    max_grad_norm: float | None = None
    clip_per_layer: bool = False
    synchronize: str = "both"
    sync_every: int = 1
    discrete_columns: tuple[str, ...] = ()
    max_categories: int = 1000
    seed: int | None = None
    timeout_seconds: float = 3600.0
    privacy: Mapping[str, Any] | None = None
    secure_aggregation: bool | str = False
    encryption: str | None = None
    secure_aggregation_bits: int = 32
    secure_aggregation_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("config", "aggregation_options", "secure_aggregation_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise PlanError(
                    f"{name} must map names to values",
                    got=repr(getattr(self, name)),
                    do="change it",
                )
        object.__setattr__(self, "discrete_columns", tuple(self.discrete_columns))
        object.__setattr__(self, "method", chosen_method(self.method, Privacy.parse(self.privacy)))
        if self.seed is None:
            object.__setattr__(self, "seed", secrets.randbits(32))
        if self.n_rounds is None:
            object.__setattr__(self, "n_rounds", default_rounds(self.method, self.config))
        for name, least in LEAST.items():
            object.__setattr__(self, name, check_whole(name, getattr(self, name), least))
        check_number("client_fraction", self.client_fraction, most=1)
        for name in ("learning_rate", "max_grad_norm", "timeout_seconds"):
            check_number(name, getattr(self, name))
        self._check_choice("lr_schedule", SCHEDULES)
        self._check_choice("synchronize", SYNCHRONIZE)
        if self.max_clients is not None and self.max_clients < self.min_clients:
            raise PlanError(
                "max_clients is below min_clients",
                got=f"{self.max_clients} and {self.min_clients}",
                do="raise max_clients or lower min_clients",
            )
        if self.clip_per_layer and self.max_grad_norm is None:
            raise PlanError("clip_per_layer needs a norm to clip to", do="set max_grad_norm")
        if is_sum_model(self.method):
            self._check_sums()
        model_class(self.method).check_config(self.model_config)
        if self.synchronize == "discriminator" and self.method == "tvae":
            raise PlanError("tvae has no discriminator", do="synchronize 'both' or 'generator'")
        rule = self.aggregator()
        if rule.control_variates and (self.synchronize != "both" or self.sync_every > 1):
            raise PlanError(
                f"aggregation {self.aggregation!r} corrects drift in every round and every part",
                got=f"synchronize '{self.synchronize}' and sync_every {self.sync_every}",
                do="synchronize 'both' parts in every round, or choose another rule",
            )
        self._check_secure(rule)
        self._check_promise(rule)

    def _check_sums(self) -> None:
        """Refuse choices about local training and averaging, of which there is none."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        for name in OF_TRAINING:
            if getattr(self, name) != usual[name]:
                raise PlanError(
                    f"{self.method} is fitted from sums over the rows, so {name} says nothing",
                    got=repr(getattr(self, name)),
                    do="leave it out, or choose ctgan or tvae",
                )

    def _check_secure(self, rule: Aggregator) -> None:
        """Refuse choices that need more than sums, or that leave too few clients to hide among."""
        name = self.scheme
        if name is None:
            return
        try:
            scheme(name).ServerSide(**self.secure_aggregation_options)
        except TypeError as error:
            raise PlanError(
                f"{name} has no such option",
                got=", ".join(self.secure_aggregation_options),
                do="leave secure_aggregation_options out",
            ) from error
        if self.secure_aggregation_bits not in (24, 32):
            raise PlanError(
                "secure_aggregation_bits is 24 or 32", got=repr(self.secure_aggregation_bits)
            )
        if rule.measures:
            raise PlanError(
                f"aggregation {self.aggregation!r} has every client tell how it differs, which "
                "secure aggregation is there to hide",
                do="choose fedavg or weighted",
            )
        if rule.needs_individual_updates or not is_sum(rule):
            raise PlanError(
                "secure aggregation shows the server nothing but sums, and this rule needs each "
                "client's update",
                got=f"aggregation {self.to_dict()['aggregation']!r}",
                do="choose fedavg, weighted, fedprox, fedavgm, fedadam or fedyogi",
            )
        if self.sync_every > 1:
            raise PlanError(
                "secure aggregation needs every round to be averaged: clients that all start from "
                "the same parameters are what an update hides among",
                got=f"sync_every {self.sync_every}",
                do="leave it out, or raise local_epochs",
            )
        if self.min_clients == LEAST["min_clients"]:
            object.__setattr__(self, "min_clients", FEWEST)
        for limit in ("min_clients", "max_clients"):
            if (getattr(self, limit) or FEWEST) < FEWEST:
                raise PlanError(
                    f"secure aggregation needs at least {FEWEST} clients: of a sum of two, each "
                    "knows the other's update",
                    got=f"{limit} {getattr(self, limit)}",
                    do=f"raise {limit} to {FEWEST}",
                )

    @property
    def scheme(self) -> str | None:
        """Name of the scheme of secure aggregation; None without any.

        Raises:
            PlanError: secure_aggregation and encryption contradict each other.
        """
        asked, encryption = self.secure_aggregation, self.encryption
        if encryption is not None and asked in (False, None):
            raise PlanError(
                "encryption is a way of secure aggregation",
                got=f"encryption={encryption!r} without secure_aggregation",
                do="set secure_aggregation=True too",
            )
        if asked in (False, None):
            return None
        if asked is True:
            return "masking" if encryption is None else str(encryption)
        if encryption not in (None, asked):
            raise PlanError(
                "secure_aggregation and encryption name two schemes",
                got=f"{asked!r} and {encryption!r}",
                do="leave encryption out",
            )
        return str(asked)

    @property
    def stateful(self) -> bool:
        """Whether clients keep parameters or control variates of their own between rounds."""
        return self.synchronize != "both" or self.aggregator().control_variates

    def _check_promise(self, rule: Aggregator) -> None:
        """Refuse choices under which a promise would not hold."""
        promise = self.promise
        if promise is None:
            return
        promise.check_secure(secure=self.scheme is not None)
        if promise.unit == "client" and promise.trust == "server" and self.scheme is not None:
            raise PlanError(
                "a server that adds the noise must see each client's update, which secure "
                "aggregation hides",
                got='unit "client" and trust "server"',
                do='use trust "distributed"',
            )
        if promise.needs_secure_aggregation:
            self._check_shared_noise(promise)
        if promise.ledger is not None or promise.budget is not None:
            raise PlanError(
                "ledger and budget belong to the owner of a table",
                do="give them to each client, or leave them out",
            )
        if rule.measures:
            raise PlanError(
                f"aggregation {self.aggregation!r} has clients measure their rows, which no "
                "promise of privacy covers",
                do="choose fedavg, or another rule",
            )
        if promise.unit == "client":
            if is_sum_model(self.method):
                raise PlanError(
                    "sums over the rows hide rows, not whole clients",
                    got=f'method "{self.method}" and unit "client"',
                    do='use unit "record", or choose ctgan or tvae',
                )
            self._check_client_level(rule)
            return
        check_private_config(self.method, self.config)

    def _check_shared_noise(self, promise: Privacy) -> None:
        """Refuse sums that hide too little, or have no room for the noise of all clients."""
        if self.scheme != "masking":
            raise PlanError(
                "noise that clients add together bears some that help the server, and this scheme "
                "bears none",
                got=f"secure aggregation {self.scheme!r}",
                do="use masking",
            )
        if promise.unit == "client" and self.secure_aggregation_bits != 32:
            raise PlanError(
                "noise that clients add together needs sums of 32 bits",
                got=f"{self.secure_aggregation_bits}",
                do="set secure_aggregation_bits to 32",
            )

    def _check_client_level(self, rule: Aggregator) -> None:
        """Refuse what is more than a sum of clipped updates that count alike."""
        if rule.needs_individual_updates or not rule.uniform_weights or rule.control_variates:
            raise PlanError(
                "client-level privacy needs a rule that is a sum in which all clients count alike",
                got=f"aggregation {self.aggregation!r}",
                do="choose fedavg, fedprox, fedavgm, fedadam or fedyogi",
            )
        if self.synchronize != "both" or self.sync_every > 1:
            raise PlanError(
                "client-level privacy averages everything in every round",
                got=f"synchronize '{self.synchronize}' and sync_every {self.sync_every}",
                do="leave both out",
            )
        if self.max_grad_norm is not None or self.clip_per_layer:
            raise PlanError(
                "client-level privacy clips updates itself",
                got="max_grad_norm of the plan",
                do="set max_grad_norm inside differential_privacy",
            )

    @property
    def promise(self) -> Privacy | None:
        """What `privacy` says."""
        return Privacy.parse(suited(self.method, self.privacy))

    def _check_choice(self, name: str, known: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in known:
            raise PlanError(f"unknown {name} '{value}'", do=nearest_names(str(value), known))

    @property
    def model_config(self) -> dict[str, Any]:
        """The config that the model is built with, if no client trains with privacy of its own."""
        promise = self.promise
        return self.config_for(private=promise is not None and promise.unit == "record")

    def config_for(self, *, private: bool) -> dict[str, Any]:
        """The config of the model, made fit for private steps where there are any."""
        config = dict(self.config)
        if private:
            config = private_choices(self.method, config)
        if self.batch_size is not None:
            config["batch_size"] = self.batch_size
        if self.learning_rate is not None:
            config["learning_rate"] = self.learning_rate
        return config

    @property
    def epochs_per_round(self) -> int:
        """Epochs of each client in each round."""
        if self.local_epochs is not None:
            return self.local_epochs
        return max(int(self.model_config.get("epochs", DEFAULT_EPOCHS)) // self.n_rounds, 1)

    def learning_rate_scale(self, round: int) -> float:
        """Factor on the learning rate in a round: 1 in the first."""
        progress = round / self.n_rounds
        if self.lr_schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.lr_schedule == "step":
            return 0.5 ** int(3 * progress)
        return 1.0

    def synchronized(self, round: int) -> tuple[str, ...] | None:
        """Parts of the model that are averaged in a round; None for all of them."""
        last = round == self.n_rounds - 1
        if not last and (round + 1) % self.sync_every:
            return ()
        if self.synchronize == "both":
            return None
        if self.synchronize == "discriminator":
            # Only now does the server get a generator that has been trained.
            return ("discriminator", "generator") if last else ("discriminator",)
        return ("generator",)

    def aggregator(self) -> Aggregator:
        """The rule of the plan.

        Raises:
            PlanError: It is unknown, or its options are.
        """
        options = dict(self.aggregation_options)
        if self.proximal_mu is not None:
            if self.aggregation != "fedprox":
                raise PlanError(
                    "proximal_mu is an option of aggregation 'fedprox'",
                    got=f"aggregation {self.aggregation!r}",
                    do="choose fedprox, or leave proximal_mu out",
                )
            options["proximal_mu"] = self.proximal_mu
        return create_aggregator(self.aggregation, **options)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a rule given as an object is named by its type."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rule = self.aggregation
        values["aggregation"] = rule if isinstance(rule, str) else type(rule).__name__
        values["aggregation_options"] = dict(self.aggregation_options)
        values["secure_aggregation_options"] = dict(self.secure_aggregation_options)
        values["discrete_columns"] = list(self.discrete_columns)
        values["privacy"] = None if self.promise is None else self.promise.to_dict()
        values["config"] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.config.items()
        }
        return values

    def to_toml(self) -> str:
        """As TOML; what is None is left out.

        Raises:
            PlanError: The rule is an object, which TOML cannot hold.
        """
        import tomli_w

        if not isinstance(self.aggregation, str):
            raise PlanError("a rule given as an object cannot be written to TOML", do="use a name")
        values = {k: v for k, v in self.to_dict().items() if v is not None and v != {}}
        return tomli_w.dumps(values)

    @classmethod
    def from_toml(cls, text: str) -> Plan:
        """Read what `to_toml` writes.

        Raises:
            PlanError: It is no TOML, or holds an unknown or impossible choice.
        """
        return cls(**read_choices(text))


def read_choices(text: str) -> dict[str, Any]:
    """The choices of a plan in TOML, unchecked but for their names.

    Raises:
        PlanError: It is no TOML, or holds an unknown choice.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError("the plan is not TOML", got=str(error), do="mend it") from error
    known = [f.name for f in dataclasses.fields(Plan)]
    for name in values:
        if name not in known:
            raise PlanError(f"a plan has no '{name}'", do=nearest_names(name, known))
    return values


def check_whole(name: str, value: Any, least: int) -> int | None:
    """A whole number of at least least, or None.

    Raises:
        PlanError: It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise PlanError(
            f"{name} must be a whole number of at least {least}", got=repr(value), do="change it"
        )
    return int(value)


def check_number(name: str, value: Any, above: float = 0.0, most: float = math.inf) -> None:
    """Make sure that value is None, or a number in (above, most].

    Raises:
        PlanError: It is something else.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"{name} must be a number", got=repr(value), do="change it")
    if not above < value <= most:
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise PlanError(f"{name} must be above {above:g}{limit}", got=repr(value), do="change it")
