"""The private steps that are shipped, each made to be taken again and again from one beginning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from genesis.codes import Codes, Layout
from genesis.errors import PlanError, nearest_names
from genesis.models import MODELS, LocalTraining, check_private_config, create_model, model_class
from genesis.models.blocks import Blocks
from genesis.models.config import option, parse, widths
from genesis.models.rows import TrainingRows
from genesis.privacy.client_level import NoisyMean, Rounds
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.noise import Noise
from genesis.seeding import Stream, generator
from genesis.supervised import LabelledRows, initialised, train

__all__ = ["BATCH", "Floats", "Step", "private_methods", "private_steps", "shipped_step"]

Floats = npt.NDArray[np.float64]

CPU = torch.device("cpu")

LAYOUT = Layout((3, 2), (3, 4))
"""Both kinds of column: two numeric ones and two with categories."""

CLASSES = 3
"""Labels of the classifier, in a last column of the rows."""

WIDTH, LATENT = 16, 8
"""A step does the same with wide layers as with narrow ones, and narrow ones are quick."""

NUMBERS = 60
"""Parameters that a client sends."""

BATCH = 16
"""B: records that are expected in a batch, or clients in a round."""

MAX_NORM = 0.1
"""C. So small that gradients of untrained models are clipped: else clipping is not tested."""

QUIET = 1e-9
"""σ of steps that are almost without noise."""


def private_methods() -> list[str]:
    """Names of the generative models that can take private steps."""
    return [name for name in MODELS if hasattr(model_class(name), "private_gradients")]


def private_steps() -> list[str]:
    """Names of all private steps: those of training, the one that hides clients, and noisy sums."""
    from genesis.evaluation.mechanism.summed import SUM_STEPS

    return [*private_methods(), *OTHERS, *SUM_STEPS]


@dataclass(frozen=True)
class _KnownSteps(PrivateSteps):
    """Steps of which an auditor knows all but the noise: every record takes the first entry.

    Args:
        drawn: The records of every batch, as they were drawn.
    """

    drawn: list[torch.Tensor] = field(default_factory=list)

    def batch(self, n: int, device: torch.device) -> torch.Tensor:
        """What is shipped, and seen."""
        self.drawn.append(super().batch(n, device))
        return self.drawn[-1]

    def entries(self, n: int, device: torch.device) -> torch.Tensor:
        """The first entry of the pool for each of n records."""
        return torch.zeros(n, dtype=torch.int64, device=device)


class Step(ABC):
    """A shipped step, to be taken again and again from the same parameters.

    Args:
        noise_multiplier: σ.
        noise: Where random numbers come from.
        seed: Of the initial parameters, and of all that is not secret.
    """

    unit = "record"
    """Whose presence it hides."""

    gradient = "gradient"
    """What it clips of each of them."""

    layout = LAYOUT
    """What the records are, as rows of Codes."""

    sampled = True
    """Whether it is taken on batches; else on all records."""

    def __init__(self, noise_multiplier: float, noise: Noise, seed: int) -> None:
        self._sigma, self._noise, self._seed = noise_multiplier, noise, seed
        self.moved = False  # whether anything but the optimiser has changed parameters

    def sum(self, rows: Codes, *, quiet: bool = False) -> Floats:
        """The (noisy) sum of gradients over C after a step on all rows: (P,)."""
        return self.batch(rows, quiet=quiet, rate=1.0, steps=1)[0]

    @property
    def mu(self) -> float:
        """The distance of its results with and without a record that is accounted for."""
        return 1 / self._sigma

    @abstractmethod
    def batch(
        self, rows: Codes, *, quiet: bool, rate: float, steps: int
    ) -> tuple[Floats, list[torch.Tensor]]:
        """The sum of the last of some steps, over C, and the batches that were drawn for them."""

    def _multiplier(self, quiet: bool) -> float:
        """σ, or next to nothing."""
        return QUIET if quiet else self._sigma

    def _private(self, quiet: bool, rate: float, steps: int) -> _KnownSteps:
        """Steps of DP-SGD."""
        return _KnownSteps(
            max_grad_norm=MAX_NORM,
            noise_multiplier=self._multiplier(quiet),
            sample_rate=rate,
            batch_size=BATCH,
            steps=steps,
            noise=self._noise,
        )


class _ModelStep(Step):
    """The step of a generative model, with a learning rate of 0."""

    def __init__(self, method: str, config: Mapping[str, Any], *known: Any) -> None:
        super().__init__(*known)
        chosen = {**model_class(method).private_config, **config}
        self._model = create_model(method, LAYOUT, _narrow(method, chosen), seed=self._seed)
        self._vector = self._model.get_vector()

    def batch(
        self, rows: Codes, *, quiet: bool, rate: float, steps: int
    ) -> tuple[Floats, list[torch.Tensor]]:
        """With the mean of the sums instead of the last."""
        private = self._private(quiet, rate, steps)
        local = LocalTraining(
            epochs=1,
            batch_size=BATCH,
            seed=(self._seed,),
            learning_rate_scale=0.0,
            private=private,
        )
        self._model.train(rows, local)
        self.moved |= not torch.equal(self._vector, self._model.get_vector())
        return _over_clip(self._model.mean_gradient()), private.drawn


@dataclass(frozen=True)
class _Layers:
    """What can be chosen of an audited classifier."""

    hidden: tuple[int, ...] = option((WIDTH,), widths(0))


class _ClassifierStep(Step):
    """The step of `genesis.Classifier`, with a learning rate of 0; rows end with their label."""

    layout = Layout(LAYOUT.mode_widths, (*LAYOUT.category_widths, CLASSES))

    def __init__(self, config: Mapping[str, Any], *known: Any) -> None:
        super().__init__(*known)
        hidden = parse(_Layers, config, "the audited classifier").hidden
        self._sizes = (LAYOUT.width, *hidden, CLASSES)
        self._blocks = Blocks(LAYOUT, CPU, torch.float32)

    def batch(
        self, rows: Codes, *, quiet: bool, rate: float, steps: int
    ) -> tuple[Floats, list[torch.Tensor]]:
        private = self._private(quiet, rate, steps)
        features = Codes(rows.scalars, rows.codes[:, :-1])
        examples = LabelledRows(
            TrainingRows.of(features, CPU, torch.float32),
            self._blocks,
            torch.as_tensor(rows.codes[:, -1], dtype=torch.int64),
        )
        # Anew every time: gradients of single records hang on a network that was trained.
        rng = generator(self._seed, Stream.TRAINING, 0)
        network = initialised(self._sizes, CPU, rng)
        before = _flat(p.detach().clone() for p in network.parameters())
        train(
            network,
            examples,
            epochs=1,
            batch_size=BATCH,
            learning_rate=0.0,
            rng=rng,
            private=private,
        )
        self.moved |= not torch.equal(before, _flat(p.detach() for p in network.parameters()))
        return _over_clip(_flat(p.grad for p in network.parameters())), private.drawn


class _ClientStep(Step):
    """A round that hides clients, each of which sends its row's scalars as a change.

    The server's noise is independent, and its clip fixed.
    """

    unit, gradient = "client", "update"
    layout = Layout((1,) * NUMBERS, ())

    def __init__(self, config: Mapping[str, Any], *known: Any) -> None:
        super().__init__(*known)
        if config:
            raise PlanError(
                "the step that hides clients has no options",
                got=", ".join(map(repr, config)),
                do="leave config out",
            )
        rng = generator(self._seed, Stream.TRAINING, 0)
        self._vector = torch.from_numpy(rng.normal(0, 0.1, NUMBERS).astype(np.float32))

    def batch(
        self, rows: Codes, *, quiet: bool, rate: float, steps: int
    ) -> tuple[Floats, list[torch.Tensor]]:
        rounds = Rounds(max(len(rows), 1), steps, rate)
        mean = NoisyMean(self._multiplier(quiet), MAX_NORM, expected=BATCH)
        clients = {f"{number:06}": number for number in range(len(rows))}
        vector, combined = self._vector.clone(), self._vector
        vectors = vector + torch.from_numpy(rows.scalars)
        drawn = []
        for round in range(steps):
            names = rounds.cohort(clients, round, self._noise)
            drawn.append(torch.tensor([clients[name] for name in names], dtype=torch.int64))
            combined = mean.combine(vector, vectors[drawn[-1]], self._noise)
        self.moved |= not torch.equal(vector, self._vector)
        return _over_clip(combined.double() - vector.double()), drawn


OTHERS = {"classifier": _ClassifierStep, "client-level": _ClientStep}
"""Private steps that are no generative model's."""


def shipped_step(
    method: str, config: Mapping[str, Any], noise_multiplier: float, noise: Noise, seed: int
) -> Step:
    """The private step of that name.

    Args:
        method: One of `private_steps`.
        config: Choices for it; layers are narrow where it does not say.
        noise_multiplier: σ.
        noise: Where random numbers come from.
        seed: Of the initial parameters, and of all that is not secret.

    Raises:
        PlanError: There is no such step, or it cannot be taken under this config.
    """
    from genesis.evaluation.mechanism.summed import SUM_STEPS

    known = noise_multiplier, noise, seed
    if method in SUM_STEPS:
        return SUM_STEPS[method](config, *known)
    if method in OTHERS:
        return OTHERS[method](config, *known)
    if method in private_methods():
        check_private_config(method, config)
        return _ModelStep(method, config, *known)
    advice = nearest_names(method, private_steps())
    if method in MODELS:
        raise PlanError(f"{method} takes no private steps", do=advice)
    raise PlanError(f"unknown method '{method}'", do=advice)


def _narrow(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with narrow layers where it does not say."""
    defaults = create_model(method, LAYOUT, config).config
    small: dict[str, Any] = {
        each.name: (WIDTH, WIDTH)
        for each in fields(defaults)
        if isinstance(getattr(defaults, each.name), tuple)
    }
    if hasattr(defaults, "embedding_dim"):
        small["embedding_dim"] = LATENT
    return small | dict(config)


def _flat(parts: Iterable[Any]) -> torch.Tensor:
    """Tensors as one of one dimension."""
    return torch.cat([part.reshape(-1) for part in parts])


def _over_clip(mean: torch.Tensor) -> Floats:
    """The sum over C of which this is the mean over B."""
    sums: Floats = mean.double().numpy() * (BATCH / MAX_NORM)
    return sums
