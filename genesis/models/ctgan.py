"""CTGAN: a conditional Wasserstein GAN for tables.

After Xu et al. 2019, "Modeling tabular data using conditional GAN".
Architecture, parameter names and losses are those of ctgan.CTGAN, so that parameters can move both
ways (see `genesis.models.exchange`). Gradients are written by hand: one step is a short list of
matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Condition, Layout
from genesis.errors import PlanError
from genesis.models import LocalTraining
from genesis.models.blocks import draw_gumbel
from genesis.models.config import (
    device_choice,
    flag,
    number,
    option,
    optional,
    parse,
    whole,
    widths,
)
from genesis.models.critic import Critic, critic_shapes, draw_dropout
from genesis.models.flat import CALIBRATION_ROWS, REFERENCE_SEED, Drawer, FlatModel, Scorer, seeded
from genesis.models.generator import Generator, Saved, generator_shapes
from genesis.models.parameters import ParameterLayout
from genesis.models.rows import TrainingRows, padded
from genesis.models.sampler import (
    Categorical,
    ReleasedSampler,
    RowSampler,
    generation_probabilities,
)
from genesis.privacy.dp_sgd import PrivateSteps

__all__ = ["CTGAN", "CTGANConfig", "CriticNoise", "GeneratorNoise", "PoolNoise"]

_TAU = 0.2
"""Temperature of the Gumbel-softmax."""

_BETAS = (0.5, 0.9)
"""Decay of Adam's moments."""


@dataclass(frozen=True)
class CTGANConfig:
    """The arguments of ctgan.CTGAN, with its defaults but for pac, and three more.

    Args:
        embedding_dim: Number of latent numbers of a row.
        generator_dim: Widths of the generator's residual layers.
        discriminator_dim: Widths of the critic's hidden layers.
        generator_lr: Learning rate of the generator.
        generator_decay: Its weight decay.
        discriminator_lr: Learning rate of the critic.
        discriminator_decay: Its weight decay.
        learning_rate: Replaces both learning rates, if given.
        batch_size: Rows of a step, a multiple of pac; `LocalTraining.batch_size` goes before it.
        discriminator_dropout: Share of the critic's hidden numbers that a step leaves out, in
            [0, 1). With less of it the critic learns single rows by heart sooner.
        discriminator_steps: Steps of the critic for one of the generator.
        log_frequency: Whether training draws categories by the logarithm of their frequency.
        calibrate: Whether generated codes are shifted to be as frequent as released counts say.
        verbose: For the caller: whether to show progress.
        epochs: For the caller: passes over the rows.
        pac: Rows that the critic scores together. The library's default is 10; scoring fewer
            together gave better rows at every number of clients that was measured.
        enable_gpu: For the caller: whether to use a GPU if there is one.
        cuda: For the caller: older name of enable_gpu, or a device.
    """

    embedding_dim: int = option(128, whole(1))
    generator_dim: tuple[int, ...] = option((256, 256), widths(0))
    discriminator_dim: tuple[int, ...] = option((256, 256), widths(1))
    generator_lr: float = option(2e-4, number())
    generator_decay: float = option(1e-6, number())
    discriminator_lr: float = option(2e-4, number())
    discriminator_decay: float = option(1e-6, number())
    learning_rate: float | None = option(None, optional(number()))
    batch_size: int = option(500, whole(2))
    discriminator_dropout: float = option(0.5, number(below=1))
    discriminator_steps: int = option(1, whole(1))
    log_frequency: bool = option(True, flag)
    calibrate: bool = option(True, flag)
    verbose: bool = option(False, flag)
    epochs: int = option(300, whole(1))
    pac: int = option(2, whole(1))
    enable_gpu: bool = option(True, flag)
    cuda: bool | str | None = option(None, device_choice)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise PlanError unless batches divide into packs."""
        if batch_size < 2 or batch_size % self.pac:
            below, smallest = batch_size - batch_size % self.pac, max(self.pac, 2)
            sizes = sorted({max(below, smallest), max(below + self.pac, smallest)})
            raise PlanError(
                "the batch size of ctgan must be a multiple of pac, and at least 2",
                got=f"batch_size {batch_size} and pac {self.pac}",
                do=f"choose batch_size {' or '.join(map(str, sizes))}",
            )


@dataclass(frozen=True)
class CriticNoise:
    """Everything random in one step of the critic, for B rows in G = B / pac packs.

    Args:
        latent: (B, E) normal.
        gumbel: (S, B) Gumbel, for every feature of a softmax block.
        conditions: (B,) categories of the fake rows, or None without discrete columns.
        real_conditions: (B,) the same in another order: those of the real rows.
        rows: (B,) real rows that satisfy them.
        mixing: (G, 1) uniform.
        dropout: Masks (3G, width) of the critic's layers.
    """

    latent: Tensor
    gumbel: Tensor
    conditions: Tensor | None
    real_conditions: Tensor | None
    rows: Tensor
    mixing: Tensor
    dropout: list[Tensor]


@dataclass(frozen=True)
class PoolNoise:
    """What a private step of the critic draws for a pool of B entries; shapes as in `CriticNoise`.

    Each record takes one of the entries: a fake row, and all that is random about its own loss.

    Args:
        latent: (B, E).
        gumbel: (S, B).
        conditions: (B,) of the fake rows, or None without discrete columns.
        columns: (B,) the discrete column that the record's own condition is about, or None.
        mixing: (B, 1).
        dropout: Masks (3B, width).
    """

    latent: Tensor
    gumbel: Tensor
    conditions: Tensor | None
    columns: Tensor | None
    mixing: Tensor
    dropout: list[Tensor]


@dataclass(frozen=True)
class GeneratorNoise:
    """Everything random in one step of the generator; shapes as in `CriticNoise`.

    Args:
        latent: (B, E).
        gumbel: (S, B).
        conditions: (B,) or None.
        dropout: Masks (G, width).
    """

    latent: Tensor
    gumbel: Tensor
    conditions: Tensor | None
    dropout: list[Tensor]


@dataclass(frozen=True)
class _Prepared:
    """What the epochs of one call of `train` share.

    Args:
        rows: The shard.
        sampler: Draws conditions and rows.
        hidden: (B, H) buffer of the generator.
        pairs: (2B, F + C) buffer of the critic: fake rows, then real rows, conditions last.
    """

    rows: TrainingRows
    sampler: RowSampler
    hidden: Tensor
    pairs: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.hidden)

    @property
    def fake(self) -> Tensor:
        """(B, F + C) buffer of fake rows."""
        return self.pairs[: self.batch_size]


@dataclass(frozen=True)
class _PreparedPrivately:
    """The same of private training, whose batches have no fixed size.

    Args:
        rows: The shard.
        sampler: Draws conditions.
        private: Draws batches, clips and adds noise.
        hidden: (B, H) buffer of the generator.
        fake: (B, F + C) buffer of fake rows.
    """

    rows: TrainingRows
    sampler: ReleasedSampler
    private: PrivateSteps
    hidden: Tensor
    fake: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.hidden)


@dataclass(frozen=True)
class _Folded:
    """What generation needs beside the parameters, derived from them.

    Args:
        layers: Weight and bias of every residual layer, batch normalisation folded in.
        shift: (S, 1) added to the logits of the codes.
    """

    layers: list[tuple[Tensor, Tensor]]
    shift: Tensor


class CTGAN(FlatModel):
    """A conditional GAN on encoded rows.

    Args:
        layout: Layout of the encoded rows.
        config: See `CTGANConfig`.
        device: Where it trains and generates.
        seed: Decides the initial parameters.
        frequencies: (S,) released counts of every code; see `generation_probabilities` and
            `Blocks.calibrate`.
        dtype: float32; float64 is for tests.

    Raises:
        PlanError: The config is impossible.
    """

    name = "ctgan"
    losses: ClassVar[tuple[str, ...]] = (
        "generator_loss",
        "condition_loss",
        "discriminator_loss",
        "gradient_penalty",
    )
    private_config: ClassVar[Mapping[str, Any]] = {"pac": 1}
    private_defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 128,
        "discriminator_dim": (128,),
        "discriminator_dropout": 0.0,
        "discriminator_lr": 2e-3,
        "discriminator_steps": 5,
        "epochs": 80,
        "generator_lr": 5e-4,
    }
    private_gradients: ClassVar[str] = (
        "per-record gradients of the critic with its penalty, in closed form"
    )

    def __init__(
        self,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        frequencies: npt.NDArray[np.float64] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = parse(CTGANConfig, config, self.name)
        self.config.check_batch_size(self.config.batch_size)
        c, width = self.config, layout.width + layout.condition_width
        shapes = {
            **dict(
                generator_shapes(
                    c.embedding_dim, layout.condition_width, c.generator_dim, layout.width
                )
            ),
            **dict(critic_shapes(width * c.pac, c.discriminator_dim)),
        }
        super().__init__(
            layout, ParameterLayout(shapes), device=device, dtype=dtype, frequencies=frequencies
        )
        self.generator = Generator(
            self.weights, self.gradients, c.embedding_dim, layout.condition_width, c.generator_dim
        )
        self.critic = Critic(self.weights, self.gradients, c.discriminator_dim)
        self._folded: _Folded | None = None
        # Block of every condition: column d of the discrete ones is block T + d.
        self._condition_block = self.blocks.block_of_feature[
            layout.width - layout.n_scalars - layout.condition_width :
        ]
        # Drawn on the CPU, so that every device starts from the same parameters.
        initial = seeded(torch.device("cpu"), seed)
        self.generator.initialise(initial)
        self.critic.initialise(initial)
        places = self.parameters.parts
        self._add_adam(
            "generator",
            places["generator"],
            learning_rate=c.generator_lr if c.learning_rate is None else c.learning_rate,
            betas=_BETAS,
            weight_decay=c.generator_decay,
        )
        self._add_adam(
            "discriminator",
            places["discriminator"],
            learning_rate=c.discriminator_lr if c.learning_rate is None else c.learning_rate,
            betas=_BETAS,
            weight_decay=c.discriminator_decay,
        )

    @property
    def category_frequencies(self) -> npt.NDArray[np.float64] | None:
        """(C,) those of the categories that it can be conditioned on, the last of all codes."""
        if self.frequencies is None:
            return None
        return self.frequencies[len(self.frequencies) - self.layout.condition_width :]

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Raise PlanError for a config that the model would refuse."""
        checked = parse(CTGANConfig, config, cls.name)
        checked.check_batch_size(checked.batch_size)

    @property
    def batch_multiple(self) -> int:
        """Rows come in packs."""
        return self.config.pac

    # One step.

    def critic_step(self, prepared: _Prepared, noise: CriticNoise) -> tuple[Tensor, Tensor]:
        """Write the critic's gradient; returns its loss and the gradient penalty."""
        fake, real = prepared.pairs.chunk(2)
        self._write_fake(fake, prepared.hidden, noise)
        width = self.layout.width
        prepared.rows.write(real[:, :width], noise.rows, self.blocks)
        self._write_conditions(real, noise.real_conditions)
        return self.critic.loss_gradient(self._packs(prepared.pairs), noise.mixing, noise.dropout)

    def private_critic_step(
        self, prepared: _PreparedPrivately, noise: PoolNoise
    ) -> tuple[Tensor, Tensor]:
        """Write the critic's gradient by DP-SGD; returns its loss and the gradient penalty.

        The record is all that the loss of a record knows of the shard: its condition is what it has
        in a column that was drawn without looking, and its fake row is one of a pool that has the
        same size whatever batch came, since batch normalisation lets generated rows see each other.
        """
        private, gradient = prepared.private, self._gradient[self._places["discriminator"]]
        records = private.batch(len(prepared.rows), self.device)
        if not len(records):
            private.finish(gradient.zero_())
            return gradient.new_zeros(()), gradient.new_zeros(())
        rows = padded(records)
        entries = private.entries(len(rows), self.device)
        self._write_fake(prepared.fake, prepared.hidden, noise)
        pairs = self._vector.new_empty(2 * len(rows), prepared.fake.shape[1])
        fake, real = pairs.chunk(2)
        torch.index_select(prepared.fake, 0, entries, out=fake)
        codes = prepared.rows.write(real[:, : self.layout.width], rows, self.blocks)
        own = None
        if noise.columns is not None:
            own = prepared.sampler.own_conditions(codes, noise.columns[entries])
        self._write_conditions(real, own)
        three = torch.cat([entries + i * prepared.batch_size for i in range(3)])
        masks = [mask.index_select(0, three) for mask in noise.dropout]
        losses = self.critic.clipped_gradient(
            pairs, noise.mixing[entries], masks, private, len(records)
        )
        private.finish(gradient)
        return losses

    def generator_step(
        self, prepared: _Prepared | _PreparedPrivately, noise: GeneratorNoise
    ) -> tuple[Tensor, Tensor]:
        """Write the generator's gradient; returns -mean(score) and the condition's loss."""
        fake = prepared.fake
        logits, activated, saved = self._write_fake(fake, prepared.hidden, noise)
        loss, d_packs = self.critic.score_gradient(self._packs(fake), noise.dropout)
        d_features = d_packs.view(fake.shape)[:, : self.layout.width]
        d_logits = self.blocks.activate_backward(d_features.t().contiguous(), activated, _TAU)
        condition_loss = torch.zeros_like(loss)
        if noise.conditions is not None:
            condition_loss = self._add_condition_gradient(d_logits, logits, noise.conditions)
        self.generator.backward(d_logits, prepared.hidden, saved)
        return loss, condition_loss

    def draw_critic_noise(self, prepared: _Prepared, generator: torch.Generator) -> CriticNoise:
        """Draw the noise of a step of the critic."""
        n, packs = prepared.batch_size, prepared.batch_size // self.config.pac
        conditions = prepared.sampler.conditions(n, generator)
        shuffled = None
        if conditions is not None:
            shuffled = conditions[torch.randperm(n, device=self.device, generator=generator)]
        return CriticNoise(
            latent=self._normal(n, generator),
            gumbel=self._gumbel(n, generator),
            conditions=conditions,
            real_conditions=shuffled,
            rows=prepared.sampler.rows(n, shuffled, generator),
            mixing=torch.rand(packs, 1, device=self.device, dtype=self.dtype, generator=generator),
            dropout=self._dropout(3 * packs, generator),
        )

    def draw_pool_noise(
        self, prepared: _PreparedPrivately, generator: torch.Generator
    ) -> PoolNoise:
        """Draw the noise of a private step of the critic."""
        n = prepared.batch_size
        return PoolNoise(
            latent=self._normal(n, generator),
            gumbel=self._gumbel(n, generator),
            conditions=prepared.sampler.conditions(n, generator),
            columns=prepared.sampler.columns(n, generator),
            mixing=torch.rand(n, 1, device=self.device, dtype=self.dtype, generator=generator),
            dropout=self._dropout(3 * n, generator),
        )

    def draw_generator_noise(
        self, prepared: _Prepared | _PreparedPrivately, generator: torch.Generator
    ) -> GeneratorNoise:
        """Draw the noise of a step of the generator."""
        n = prepared.batch_size
        return GeneratorNoise(
            latent=self._normal(n, generator),
            gumbel=self._gumbel(n, generator),
            conditions=prepared.sampler.conditions(n, generator),
            dropout=self._dropout(n // self.config.pac, generator),
        )

    def _write_fake(
        self, fake: Tensor, hidden: Tensor, noise: CriticNoise | PoolNoise | GeneratorNoise
    ) -> tuple[Tensor, Tensor, list[Saved]]:
        """Write generated rows to fake (B, F + C); returns logits, activated (F, B) and saved."""
        self.generator.start(hidden, noise.latent, noise.conditions)
        logits, saved = self.generator.forward(hidden)
        activated = self.blocks.activate(logits, noise.gumbel, _TAU)
        fake[:, : self.layout.width].copy_(activated.t())
        self._write_conditions(fake, noise.conditions)
        return logits, activated, saved

    def _write_conditions(self, x: Tensor, conditions: Tensor | None) -> None:
        """Write one-hot conditions (B,), none where -1, to the last C features of x (B, F + C)."""
        one_hot = x[:, self.layout.width :].zero_()
        if conditions is not None:
            known = (conditions >= 0).to(x.dtype)
            one_hot.scatter_(1, conditions.clamp(min=0).unsqueeze(1), known.unsqueeze(1))

    def _packs(self, x: Tensor) -> Tensor:
        """(n, F + C) -> (n / pac, pac (F + C)), a view."""
        return x.view(-1, self.config.pac * x.shape[1])

    def _add_condition_gradient(
        self, d_logits: Tensor, logits: Tensor, conditions: Tensor
    ) -> Tensor:
        """Add the gradient of the conditions' cross entropy to d_logits (F, B); return the loss.

        Only the block that a row is conditioned on counts: the others are masked before a softmax
        over all categories. The gradient is (p - one-hot) / B.
        """
        categories = slice(self.layout.width - self.layout.condition_width, None)
        others = self._condition_block.unsqueeze(1) != self._condition_block[conditions]
        masked = logits[categories].masked_fill_(others, -torch.inf)
        wanted = conditions.unsqueeze(0)
        loss = -torch.log_softmax(masked, 0).gather(0, wanted).mean()
        share = 1 / len(conditions)
        # A second softmax is quicker than exp of the first one's many -inf.
        d = d_logits[categories].add_(torch.softmax(masked, 0), alpha=share)
        d.scatter_add_(0, wanted, d.new_full(wanted.shape, -share))
        return loss

    def _normal(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, E) latent numbers."""
        shape = n, self.config.embedding_dim
        return torch.randn(shape, device=self.device, dtype=self.dtype, generator=generator)

    def _gumbel(self, n: int, generator: torch.Generator) -> Tensor:
        """(S, n) Gumbel numbers."""
        return draw_gumbel((self.blocks.n_softmax, n), self._vector, generator)

    def _dropout(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Masks (n, width) of the critic's hidden layers."""
        rate, dims = self.config.discriminator_dropout, self.config.discriminator_dim
        return draw_dropout(rate, n, dims, self._vector, generator)

    # What FlatModel asks for.

    def prepare(self, rows: TrainingRows, local: LocalTraining) -> _Prepared | _PreparedPrivately:
        """The buffers of a batch and the sampler of a shard."""
        width = self.layout.width + self.layout.condition_width
        if local.private is not None:
            n = local.private.batch_size
            self._check_private(n)
            return _PreparedPrivately(
                rows=rows,
                sampler=ReleasedSampler(self.layout, self.category_frequencies, self.device),
                private=local.private,
                hidden=self._vector.new_empty(n, self.generator.hidden_width),
                fake=self._vector.new_empty(n, width),
            )
        n = local.batch_size
        self.config.check_batch_size(n)
        return _Prepared(
            rows=rows,
            sampler=RowSampler(rows, self.layout, log_frequency=self.config.log_frequency),
            hidden=self._vector.new_empty(n, self.generator.hidden_width),
            pairs=self._vector.new_empty(2 * n, width),
        )

    def _check_private(self, batch_size: int) -> None:
        """Raise PlanError where rows see each other in the critic, or a batch is too small."""
        if self.config.pac != 1:
            raise PlanError(
                "ctgan with differential privacy needs pac 1: the critic scores each row by itself",
                got=f"pac {self.config.pac}",
                do="choose pac 1",
            )
        self.config.check_batch_size(batch_size)

    def _epoch(
        self, prepared: _Prepared | _PreparedPrivately, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Alternate steps: one of the generator after every discriminator_steps of the critic."""
        critic_steps = self._critic_steps(prepared)
        every = min(self.config.discriminator_steps, critic_steps)
        total = self._vector.new_zeros(4)
        for step in range(1, critic_steps + 1):
            critic_losses = self._train_critic(prepared, generator)
            if step % every:
                continue
            noise = self.draw_generator_noise(prepared, generator)
            generator_losses = self.generator_step(prepared, noise)
            self.optimisers["generator"].step()
            total += torch.stack([*generator_losses, *critic_losses])
        score, condition, critic, penalty = (total / (critic_steps // every)).unbind()
        return {
            "generator_loss": score + condition,
            "condition_loss": condition,
            "discriminator_loss": critic,
            "gradient_penalty": penalty,
        }

    def _critic_steps(self, prepared: _Prepared | _PreparedPrivately) -> int:
        """Steps of the critic in an epoch.

        Without privacy the generator makes max(rows // batch, 1) steps, as the reference
        implementation counts an epoch.
        """
        if isinstance(prepared, _PreparedPrivately):
            return prepared.private.steps
        steps = max(len(prepared.rows) // prepared.batch_size, 1)
        return steps * self.config.discriminator_steps

    def _train_critic(
        self, prepared: _Prepared | _PreparedPrivately, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One step of the critic and of its optimiser; returns what the step does."""
        if isinstance(prepared, _PreparedPrivately):
            losses = self.private_critic_step(prepared, self.draw_pool_noise(prepared, generator))
        else:
            losses = self.critic_step(prepared, self.draw_critic_noise(prepared, generator))
        self.optimisers["discriminator"].step()
        return losses

    def _drawer(self, condition: Condition | None) -> Drawer:
        """Generates rows one by one: batch normalisation is folded into the linear layers.

        The reference implementation generates with the statistics of each batch of 500, which
        makes a row depend on its neighbours and fails for a batch that is all alike.
        """
        mask = self.blocks.condition_mask(condition)
        if self._folded is None:
            self._folded = self._fold()
        folded, start = self._folded, self._hidden_drawer(condition)
        n_scalars = self.layout.n_scalars
        shift = folded.shift if mask is None else folded.shift + mask

        def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            logits = self.generator.folded_logits(start(n, generator), folded.layers)
            codes = self.blocks.sample(logits[n_scalars:].add_(shift), generator)
            return torch.tanh(logits[:n_scalars]).t(), codes

        return draw

    def _fold(self) -> _Folded:
        """Layers without batch normalisation, and calibrated codes, from a reference batch."""
        start = self._hidden_drawer(None)
        seed = seeded(self.device, REFERENCE_SEED)
        layers = self.generator.fold(start(self._chunk, seed))
        shift = self._no_shift
        if self.config.calibrate:
            logits = self.generator.folded_logits(start(CALIBRATION_ROWS, seed), layers)
            shift = self._calibrated(logits)
        return _Folded(layers, shift)

    def _hidden_drawer(
        self, condition: Condition | None
    ) -> Callable[[int, torch.Generator], Tensor]:
        """Draws started hidden rows (n, H) for generation."""
        weights = generation_probabilities(self.layout, self.category_frequencies, condition)
        categories = None
        if len(weights):
            categories = Categorical(torch.as_tensor(weights, device=self.device))

        def draw(n: int, generator: torch.Generator) -> Tensor:
            conditions = categories.draw(n, generator) if categories else None
            hidden = self._vector.new_empty(n, self.generator.hidden_width)
            self.generator.start(hidden, self._normal(n, generator), conditions)
            return hidden

        return draw

    def _scorer(self, generator_only: bool, generator: torch.Generator) -> Scorer:
        """The critic's score of a pack filled with copies of a row, without a condition.

        Other fillings (generated rows, their mean) and the row's own conditions were tried: they
        tell members from others no better.
        """
        if generator_only:
            return lambda _: {}
        no_condition = self._vector.new_zeros(1, self.layout.condition_width)

        def score(x: Tensor) -> dict[str, Tensor]:
            row = torch.cat([x, no_condition.expand(len(x), -1)], dim=1)
            return {"critic": self.critic.score(row.repeat(1, self.config.pac))}

        return score

    @property
    def _row_floats(self) -> int:
        """Hidden numbers, logits and their noise."""
        return self.generator.hidden_width + 2 * self.layout.width

    def _forget(self) -> None:
        """Folded layers belong to the parameters that they were made from."""
        self._folded = None
