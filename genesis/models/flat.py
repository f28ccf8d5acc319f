"""What the models share: one flat vector, its optimisers, and training that can be undone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Codes, Condition, Layout
from genesis.errors import DataError, GenesisError, PlanError, TrainingError
from genesis.models import LocalTraining
from genesis.models.adam import FlatAdam
from genesis.models.blocks import Blocks
from genesis.models.matmul import fast_matmul
from genesis.models.parameters import ParameterLayout
from genesis.models.rows import TrainingRows

__all__ = ["CALIBRATION_ROWS", "REFERENCE_SEED", "Drawer", "FlatModel", "Scorer", "seeded"]

Drawer = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Draws n rows: scalars (n, T) and codes (n, blocks)."""

Scorer = Callable[[Tensor], dict[str, Tensor]]
"""Scores rows, given their features (B, F): name -> (B,)."""

REFERENCE_SEED = 0
"""Seed of the rows that stand for all generated ones where something is derived from them."""

CALIBRATION_ROWS = 4096
"""Their number, where codes are calibrated on them."""

MOST_PARAMETERS = (1 << 28) - (1 << 20)  # 1 GiB of float32, less what is around it
_CHUNK_FLOATS = 2**22
"""Numbers that one chunk of generated rows may need: 16 MiB of float32."""


class FlatModel(ABC):
    """A `GenerativeModel` whose parameters, gradients and moments are flat vectors.

    Args:
        layout: Layout of the encoded rows.
        parameters: Names and shapes of the parameters.
        device: Where it trains and generates.
        dtype: float32; float64 is for tests of the gradients.
        frequencies: (S,) released counts of every code, or None.
    """

    name: ClassVar[str]

    def __init__(
        self,
        layout: Layout,
        parameters: ParameterLayout,
        *,
        device: str | torch.device,
        dtype: torch.dtype,
        frequencies: npt.NDArray[np.float64] | None,
    ) -> None:
        # A client builds what a server names, and memory that is not there ends its process.
        if parameters.size > MOST_PARAMETERS:
            raise PlanError(
                f"the {self.name} is too large",
                got=f"{parameters.size:,} parameters; {MOST_PARAMETERS:,} fit in a message",
                do="choose narrower layers, or lower max_categories",
            )
        self.layout, self.parameters, self.frequencies = layout, parameters, frequencies
        self.device, self.dtype = torch.device(device), dtype
        self.blocks = Blocks(layout, self.device, dtype)
        self._vector = torch.zeros(parameters.size, device=self.device, dtype=dtype)
        self._gradient = torch.zeros_like(self._vector)
        self.weights = parameters.views(self._vector)
        self.gradients = parameters.views(self._gradient)
        self.optimisers: dict[str, FlatAdam] = {}
        self._places: dict[str, slice] = {}

    # What a model must say.

    @abstractmethod
    def prepare(self, rows: TrainingRows, local: LocalTraining) -> Any:
        """Whatever the epochs of one call of `train` need, computed once."""

    @abstractmethod
    def _epoch(self, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Train one epoch and return its mean losses as scalars on the device."""

    @abstractmethod
    def _drawer(self, condition: Condition | None) -> Drawer:
        """What draws rows that satisfy the condition."""

    @abstractmethod
    def _scorer(self, generator_only: bool, generator: torch.Generator) -> Scorer:
        """What scores rows; all that is random about it is drawn here, the same for every row."""

    @property
    @abstractmethod
    def _row_floats(self) -> int:
        """Numbers that one generated row needs on its way."""

    def _forget(self) -> None:  # noqa: B027 - most models derive nothing
        """Drop what was derived from parameters that have changed."""

    # The protocol.

    @property
    def batch_multiple(self) -> int:
        """Batch sizes must be multiples of it."""
        return 1

    def get_vector(self) -> Tensor:
        """All parameters: a copy, (P,) on the CPU."""
        return self._vector.detach().to("cpu", copy=True)

    def set_vector(self, vector: Tensor) -> None:
        """Replace all parameters by vector (P,); the optimiser's memory stays.

        Raises:
            GenesisError: The vector has another size.
        """
        if vector.shape != self._vector.shape:
            raise GenesisError(
                f"{self.name} has {self.parameters.size} parameters in one vector",
                got=f"shape {tuple(vector.shape)}",
                do="build both sides from the same encoder and config",
            )
        self._vector.copy_(vector)
        self._forget()

    def train(self, rows: Codes, local: LocalTraining) -> dict[str, float]:
        """Train on rows and return the mean losses of the last epoch, all finite.

        Raises:
            DataError: There are no rows, and training is not private.
            PlanError: The batch size does not suit the model, or the model cannot be private.
            TrainingError: A loss or a parameter is not finite; parameters and optimiser are then
                those before the call. In private training only the parameters are asked: they may
                be known, and losses may not.
        """
        if not len(rows) and local.private is None:
            raise DataError("there are no rows to train on", do="give the shard at least one row")
        before, remembered = self._vector.clone(), self.optimiser_state()
        correction = local.correction
        for name, optimiser in self.optimisers.items():
            share = None if correction is None else correction[self._places[name]]
            optimiser.begin(local.learning_rate_scale, local.proximal_mu, share)
        with torch.inference_mode(), fast_matmul(self.device):
            on_device = TrainingRows.of(rows, self.device, self.dtype)
            prepared = self.prepare(on_device, local)
            for epoch in range(local.first_epoch, local.first_epoch + local.epochs):
                generator = seeded(self.device, *local.seed, epoch)
                losses = _as_floats(self._epoch(prepared, generator))
                diverged = local.private is None and not all(map(math.isfinite, losses.values()))
                if diverged:
                    break
        self._forget()
        if diverged or not self._vector.isfinite().all():
            self._vector.copy_(before)
            self.load_optimiser_state(remembered)
            raise TrainingError(
                f"training of {self.name} diverged in epoch {epoch}",
                got="a loss or a parameter that is not finite",
                do="lower the learning rate, or train more rows at a time",
            )
        return losses

    def mean_gradient(self) -> Tensor:
        """Mean over the last call of `train` of the uncorrected gradients: (P,) on the CPU."""
        mean = torch.zeros_like(self._vector)
        for name, optimiser in self.optimisers.items():
            mean[self._places[name]] = optimiser.mean_gradient()
        return mean.cpu()

    def generate(self, n: int, condition: Condition | None, rng: np.random.Generator) -> Codes:
        """Generate n rows, of which every one satisfies a condition that is enforced.

        Works in chunks, so that n rows need little more memory than their codes.

        Raises:
            ConditionError: The condition does not fit the layout, or allows nothing in a block.
        """
        scalars = torch.empty(n, self.layout.n_scalars)
        codes = torch.empty(n, self.layout.n_blocks, dtype=torch.int32)
        generator = torch.Generator(self.device)
        generator.manual_seed(int(rng.integers(2**63)))
        with torch.inference_mode(), fast_matmul(self.device):
            draw = self._drawer(condition)
            for start in range(0, n, self._chunk):
                chunk = slice(start, min(start + self._chunk, n))
                drawn = draw(chunk.stop - start, generator)
                scalars[chunk].copy_(drawn[0])
                codes[chunk].copy_(drawn[1])
        return Codes(scalars.numpy(), codes.numpy())

    def row_scores(
        self, rows: Codes, rng: np.random.Generator, *, generator_only: bool = False
    ) -> dict[str, npt.NDArray[np.float64]]:
        """How well the model knows each row: name -> (n,), the higher the better.

        Args:
            rows: The rows. A block whose code is -1 counts nothing.
            rng: Draws latent numbers, the same for all rows: no row's score depends on the others.
            generator_only: Leave out what needs more than the part "generator".
        """
        generator = torch.Generator(self.device)
        generator.manual_seed(int(rng.integers(2**63)))
        parts: dict[str, list[Tensor]] = {}
        with torch.inference_mode(), fast_matmul(self.device):
            on_device = TrainingRows.of(rows, self.device, self.dtype)
            score = self._scorer(generator_only, generator)
            for chunk in torch.split(torch.arange(len(rows), device=self.device), self._chunk):
                x = self._vector.new_empty(len(chunk), self.layout.width)
                on_device.write(x, chunk, self.blocks)
                for name, scores in score(x).items():
                    parts.setdefault(name, []).append(scores)
        return {name: torch.cat(scores).double().cpu().numpy() for name, scores in parts.items()}

    def optimiser_state(self) -> dict[str, Tensor]:
        """Moments and steps of every Adam: copies on the CPU; empty before any training."""
        return {
            f"{name}.{key}": value
            for name, optimiser in self.optimisers.items()
            for key, value in optimiser.state().items()
        }

    def load_optimiser_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue with what `optimiser_state` returned; an empty one starts afresh."""
        for name, optimiser in self.optimisers.items():
            prefix = f"{name}."
            optimiser.load_state(
                {
                    key.removeprefix(prefix): value
                    for key, value in state.items()
                    if key.startswith(prefix)
                }
            )

    @property
    def _no_shift(self) -> Tensor:
        """(S, 1) zeros: codes as the model makes them."""
        return self._vector.new_zeros(self.blocks.n_softmax, 1)

    def _calibrated(self, logits: Tensor) -> Tensor:
        """(S, 1) that makes codes as frequent as was released, given logits (F, B) of rows."""
        if self.frequencies is None:
            return self._no_shift
        wanted = torch.as_tensor(self.frequencies, device=self.device, dtype=self.dtype)
        return self.blocks.calibrate(logits[self.layout.n_scalars :], wanted)

    @property
    def _chunk(self) -> int:
        """Rows that are generated at a time."""
        return min(4096, max(256, _CHUNK_FLOATS // self._row_floats))

    def _add_adam(
        self,
        name: str,
        place: slice,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        """Give a slice of the vector its optimiser."""
        self._places[name] = place
        self.optimisers[name] = FlatAdam(
            self._vector[place],
            self._gradient[place],
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
        )


def seeded(device: torch.device, *key: int) -> torch.Generator:
    """A generator on device for the random stream that key names."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


def _as_floats(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses in one transfer from the device."""
    return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
