"""Generative models: one file each, all behind the protocol `GenerativeModel`.

A model is built from the layout of the encoded rows and a config, and is otherwise one flat vector
of parameters. `create_model` finds it by name; its class is imported only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from genesis.errors import PlanError, nearest_names

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from genesis.codes import Codes, Condition, Layout
    from genesis.models.parameters import ParameterLayout
    from genesis.privacy.dp_sgd import PrivateSteps

__all__ = [
    "DEFAULT_EPOCHS",
    "DEFAULT_ROUNDS",
    "MODELS",
    "SUM_MODELS",
    "GenerativeModel",
    "LocalTraining",
    "check_private_config",
    "create_model",
    "default_rounds",
    "encoder_choices",
    "is_sum_model",
    "model_class",
    "private_choices",
]

DEFAULT_EPOCHS = 300
"""Epochs in all where the config does not say, as in the reference library."""

DEFAULT_ROUNDS = 10
"""Rounds of a federated run of a model that is trained in steps."""

MODELS: dict[str, str] = {
    "ctgan": "genesis.models.ctgan:CTGAN",
    "tvae": "genesis.models.tvae:TVAE",
}
"""Models that are trained in steps."""

SUM_MODELS: dict[str, str] = {
    "mixture": "genesis.models.sums.mixture:Mixture",
    "circuit": "genesis.models.sums.circuit:Circuit",
    "copula": "genesis.models.sums.copula:Copula",
    "marginals": "genesis.models.sums.marginals:Marginals",
}
"""Models that are fitted from sums over the rows: see `models.sums`."""


@dataclass(frozen=True)
class LocalTraining:
    """One stretch of training on the rows of one shard.

    Args:
        epochs: Passes over the rows, at least 1.
        batch_size: Rows of a step.
        seed: Key of the random stream; epoch e draws from SeedSequence([*seed, e]), so that any
            split of the epochs over rounds gives the same numbers.
        first_epoch: Epochs that this shard has trained before.
        learning_rate_scale: Factor on the learning rates of the model's config (lr_schedule).
        proximal_mu: Weight of FedProx's pull mu/2 ||w - w_received||^2 (Li et al. 2020, eq. 2).
        correction: (P,) added to every gradient, SCAFFOLD's c - c_k (Karimireddy et al. 2020,
            eq. 3), or None.
        private: Makes every step on the rows a step of DP-SGD. It says then how large batches are
            and how many of them make an epoch; batch_size is not read. The vector is the only
            thing that may leave the shard: losses are not private.
    """

    epochs: int
    batch_size: int
    seed: tuple[int, ...]
    first_epoch: int = 0
    learning_rate_scale: float = 1.0
    proximal_mu: float = 0.0
    correction: torch.Tensor | None = None
    private: PrivateSteps | None = None


class GenerativeModel(Protocol):
    """A generator of encoded rows whose state is one flat vector.

    Built as ``Model(layout, config, device=..., seed=..., frequencies=...)``: see `create_model`.
    """

    name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    """Names of what `train` returns."""

    private_config: ClassVar[Mapping[str, Any]]
    """What its config must be for private steps."""

    private_defaults: ClassVar[Mapping[str, Any]]
    """What is better than its usual defaults for private steps: noise grows with the number of
    parameters and of steps."""

    private_gradients: ClassVar[str]
    """How the gradients of single records are bounded, in words."""

    config: Any
    """A dataclass of all its choices."""

    parameters: ParameterLayout
    """Names and shapes of the flat vector, and its parts ("generator", "discriminator")."""

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Raise PlanError for a config that the model would refuse."""

    @property
    def batch_multiple(self) -> int:
        """Batch sizes must be multiples of it."""

    def get_vector(self) -> torch.Tensor:
        """All parameters: a copy, (P,) float32 on the CPU."""

    def set_vector(self, vector: torch.Tensor) -> None:
        """Replace all parameters by vector (P,); what the optimiser remembers stays."""

    def train(self, rows: Codes, local: LocalTraining) -> dict[str, float]:
        """Train on rows and return the mean losses of the last epoch, all finite.

        Moments of the optimiser carry over from call to call. Private training differs: it works
        without any rows, and what a loss is, finite or not, decides nothing.

        Raises:
            DataError: There are no rows.
            PlanError: The batch size does not suit the model, or the model cannot be private.
            TrainingError: A loss is not finite; the parameters are then those before the call.
        """

    def mean_gradient(self) -> torch.Tensor:
        """Mean of the uncorrected gradients of the last call of `train`: (P,) float32 on the CPU.

        Weight decay and FedProx's pull are corrections too. Each part counts its own steps.
        """

    def generate(self, n: int, condition: Condition | None, rng: np.random.Generator) -> Codes:
        """Generate n rows.

        An enforced condition holds for every row: blocks are sampled among the allowed codes. One
        that is not is only told to the model, where the model can be told. The rows depend on the
        parameters, the condition and rng alone.

        Raises:
            ConditionError: The condition allows no code of some block, or does not fit the layout.
        """

    def row_scores(
        self, rows: Codes, rng: np.random.Generator, *, generator_only: bool = False
    ) -> dict[str, npt.NDArray[np.float64]]:
        """How well the model knows each row: name of a score -> (n,), the higher the better.

        For those who want to know how much a model remembers of the rows that it was trained on.

        Args:
            rows: The rows. A block whose code is -1 counts nothing.
            rng: Draws latent numbers, the same for all rows: no row's score depends on the others.
            generator_only: Leave out scores that need more than the part "generator", which is all
                that a model file holds. There may be none left.
        """

    def optimiser_state(self) -> dict[str, torch.Tensor]:
        """What the optimiser remembers between calls of `train`: copies on the CPU."""

    def load_optimiser_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue with what `optimiser_state` returned; an empty mapping starts afresh."""


def model_class(name: str) -> type[Any]:
    """The class of the model called name.

    Raises:
        PlanError: There is no such model.
    """
    known = {**MODELS, **SUM_MODELS}
    if name not in known:
        raise PlanError(f"unknown method '{name}'", do=nearest_names(name, [*known, "auto"]))
    module, _, cls = known[name].partition(":")
    return getattr(import_module(module), cls)  # type: ignore[no-any-return]


def is_sum_model(name: str) -> bool:
    """Whether the model called name is fitted from sums over the rows instead of trained in steps.

    Raises:
        PlanError: There is no such model.
    """
    return hasattr(model_class(name), "answer")


def encoder_choices(name: str) -> dict[str, Any]:
    """What the encoder of the model called name is fitted with, beside the usual.

    Raises:
        PlanError: There is no such model.
    """
    return {"grid": model_class(name).grid} if is_sum_model(name) else {}


def default_rounds(name: str, config: Mapping[str, Any]) -> int:
    """Rounds of a federated run of the model called name, if nobody says how many.

    Raises:
        PlanError: There is no such model, or its config is impossible.
    """
    if not is_sum_model(name):
        return DEFAULT_ROUNDS
    return int(model_class(name).parsed(config).epochs)


def check_private_config(name: str, config: Mapping[str, Any]) -> None:
    """Make sure that the model called name takes private steps under a config.

    Raises:
        PlanError: It does not, or there is no such model.
    """
    if is_sum_model(name):
        if not model_class(name).private:
            raise PlanError(
                f"no noise hides a row in the sums that {name} is fitted from",
                do="choose marginals, or leave the promise of privacy out",
            )
        return
    for option, value in model_class(name).private_config.items():
        if config.get(option, value) != value:
            raise PlanError(
                f"private steps of {name} need {option} {value}",
                got=f"{option} {config[option]!r}",
                do=f"leave {option} out",
            )


def private_choices(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config for private steps of the model called name, where it does not say otherwise.

    Raises:
        PlanError: It says what no private step can be, or there is no such model.
    """
    check_private_config(name, config)
    cls = model_class(name)
    if is_sum_model(name):
        return dict(config)
    return {**cls.private_config, **cls.private_defaults, **config}


def create_model(
    name: str,
    layout: Layout,
    config: Mapping[str, Any],
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    frequencies: npt.NDArray[np.float64] | None = None,
) -> GenerativeModel:
    """Build the model called name.

    Args:
        name: A key of `MODELS` or `SUM_MODELS`.
        layout: Layout of the encoded rows.
        config: Arguments of the model; unknown ones raise.
        device: Where it trains and generates.
        seed: Decides the initial parameters.
        frequencies: (S,) released counts of every code of every block. Conditions are drawn from
            those of discrete columns when rows are generated; uniform if None.

    Raises:
        PlanError: Unknown name, unknown or impossible config.
    """
    model: GenerativeModel = model_class(name)(
        layout, config, device=device, seed=seed, frequencies=frequencies
    )
    return model
