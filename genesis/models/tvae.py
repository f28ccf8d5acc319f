"""TVAE: a variational autoencoder for tables (Xu et al. 2019, section 4.5).

Architecture, parameter names and loss are those of ctgan.TVAE, so that parameters can move both
ways (see `genesis.models.exchange`). The decoder is called "generator" among the parameters.

For rows x, mean mu and log-variance l of the encoder, noise e ~ N(0, 1) and the decoder's logits r
at z = mu + e exp(l / 2), the loss over B rows is::

    f / B [ Σ (x - tanh r)² / 2 sigma² + log sigma + Σ cross entropy(r, code) ]
        - 1 / 2B Σ (1 + l - mu² - exp l),

with the first sum over scalars, the second over softmax blocks, and f the `loss_factor`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Condition, Layout
from genesis.models import LocalTraining
from genesis.models.config import device_choice, flag, number, option, parse, whole, widths
from genesis.models.dense import Dense, RecordGradients, dense_shapes, draw_dense, set_clipped
from genesis.models.flat import CALIBRATION_ROWS, REFERENCE_SEED, Drawer, FlatModel, Scorer, seeded
from genesis.models.parameters import ParameterLayout
from genesis.models.rows import TrainingRows, padded
from genesis.privacy.dp_sgd import PrivateSteps

__all__ = ["TVAE", "TVAEConfig"]

_BETAS = (0.9, 0.999)
"""Decay of Adam's moments."""

_LARGEST_SIGMA = 1.0
"""Largest standard deviation of a scalar."""

_PRIOR_DRAWS = 2**14
"""Latent rows that the likelihood of a row is averaged over."""

_PRIOR_DRAWS_AT_ONCE = 2**10

_POSTERIOR_DRAWS = 8
"""Draws that a row's ELBO is averaged over."""


@dataclass(frozen=True)
class TVAEConfig:
    """The arguments of ctgan.TVAE, with its defaults, and five more.

    Args:
        embedding_dim: Number of latent numbers of a row.
        compress_dims: Widths of the encoder's hidden layers.
        decompress_dims: Widths of the decoder's hidden layers.
        l2scale: Weight decay.
        batch_size: Rows of a step; `LocalTraining.batch_size` goes before it.
        epochs: For the caller: passes over the rows.
        loss_factor: Weight of the reconstruction.
        enable_gpu: For the caller: whether to use a GPU if there is one.
        verbose: For the caller: whether to show progress.
        cuda: For the caller: older name of enable_gpu, or a device.
        learning_rate: Step size of Adam.
        calibrate: Whether drawn codes are shifted to be as frequent as released counts say.
        sample_codes: Whether generated codes are drawn from the decoder's softmax, the distribution
            that training fits. ctgan.TVAE takes the likeliest code, which thins out the rare ones.
        sigma: Standard deviation of the scalars at the beginning, in (0, 1].
        least_sigma: What it never falls below. A record's gradient grows with its inverse square:
            where gradients are clipped, small ones leave no room for the codes.
    """

    embedding_dim: int = option(128, whole(1))
    compress_dims: tuple[int, ...] = option((128, 128), widths(0))
    decompress_dims: tuple[int, ...] = option((128, 128), widths(0))
    l2scale: float = option(1e-5, number())
    batch_size: int = option(500, whole(1))
    epochs: int = option(300, whole(1))
    loss_factor: float = option(2.0, number())
    enable_gpu: bool = option(True, flag)
    verbose: bool = option(False, flag)
    cuda: bool | str | None = option(None, device_choice)
    learning_rate: float = option(1e-3, number())
    calibrate: bool = option(True, flag)
    sample_codes: bool = option(True, flag)
    sigma: float = option(0.1, number(above=0, below=1.0 + 1e-9))
    least_sigma: float = option(0.01, number(above=0, below=1.0 + 1e-9))


@dataclass(frozen=True)
class _Prepared:
    """What the epochs of one call of `train` share.

    Args:
        rows: The shard.
        batch_size: B.
        private: Draws batches, clips and adds noise; or None.
    """

    rows: TrainingRows
    batch_size: int
    private: PrivateSteps | None


@dataclass(frozen=True)
class _Backward:
    """What one pass through the model leaves.

    Args:
        losses: The reconstruction's part of the loss, and the divergence's.
        layers: Every layer with the gradient of its result (n, out) and its input (n, in).
        errors: (T, n) squared errors of the scalars.
    """

    losses: tuple[Tensor, Tensor]
    layers: list[tuple[Dense, Tensor, Tensor]]
    errors: Tensor


class TVAE(FlatModel):
    """A variational autoencoder on encoded rows.

    Args:
        layout: Layout of the encoded rows.
        config: See `TVAEConfig`.
        device: Where it trains and generates.
        seed: Decides the initial parameters.
        frequencies: (S,) released counts of every code; see `Blocks.calibrate`.
        dtype: float32; float64 is for tests.

    Raises:
        PlanError: The config is impossible.
    """

    name = "tvae"
    losses: ClassVar[tuple[str, ...]] = ("loss", "reconstruction_loss", "divergence_loss")
    private_config: ClassVar[Mapping[str, Any]] = {}
    private_defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 128,
        "compress_dims": (64,),
        "decompress_dims": (64,),
        "embedding_dim": 16,
        "epochs": 80,
        "learning_rate": 5e-3,
        "least_sigma": 0.1,
        "sigma": 0.3,
    }
    private_gradients: ClassVar[str] = "per-record norms of the whole loss by ghost clipping"

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
        self.config = parse(TVAEConfig, config, self.name)
        self._shift: Tensor | None = None
        shapes = ParameterLayout(dict(_shapes(layout.width, self.config)))
        super().__init__(layout, shapes, device=device, dtype=dtype, frequencies=frequencies)
        self._compress = self._stack("encoder", len(self.config.compress_dims))
        self._decompress = self._stack("generator", len(self.config.decompress_dims))
        self._output = self._dense(f"generator.seq.{2 * len(self.config.decompress_dims)}")
        self._latent = self._fused_heads()
        self._sigma = self.weights["generator.sigma"]
        self._sigma_gradient = self.gradients["generator.sigma"]
        self._sigmas = self._sigma_layer()
        initial = seeded(torch.device("cpu"), seed)
        heads = [self._dense("encoder.fc1"), self._dense("encoder.fc2")]
        for layer in (*self._compress, *heads, *self._decompress, self._output):
            draw_dense(layer, initial)
        self._sigma.fill_(self.config.sigma)
        self._add_adam(
            "adam",
            slice(None),
            learning_rate=self.config.learning_rate,
            betas=_BETAS,
            weight_decay=self.config.l2scale,
        )

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Raise PlanError for a config that the model would refuse."""
        parse(TVAEConfig, config, cls.name)

    def step(self, x: Tensor, noise: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Write the gradient of the loss.

        Args:
            x: (B, F) features of the rows.
            noise: (B, E) normal.
            codes: (B, blocks), needed only where some are -1: such a block counts nothing.

        Returns:
            The reconstruction's part of the loss, and the divergence's.
        """
        n = len(x)
        passed = self._backward(x, noise, codes, n)
        for layer, dy, inputs in passed.layers:
            layer.set_gradient(dy, inputs)
        sigma, squares = self._sigma[: self.layout.n_scalars], passed.errors.sum(1)
        self._sigma_gradient.zero_()
        self._sigma_gradient[: len(sigma)] = (n / sigma - squares / sigma**3) * (
            self.config.loss_factor / n
        )
        return passed.losses

    def private_step(
        self, shard: TrainingRows, noise: Tensor, private: PrivateSteps
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient by DP-SGD, with latent noise (B, E); returns what `step` does.

        No layer mixes records, so a backward pass for the sum of the records' losses has what
        belongs to record i in row i. The whole loss is clipped: encoder, decoder and sigma.
        """
        records = private.batch(len(shard), self.device)
        if not len(records):
            private.finish(self._gradient.zero_())
            return self._gradient.new_zeros(()), self._gradient.new_zeros(())
        rows = padded(records)
        entries = private.entries(len(rows), self.device)
        x, codes = self._features(shard, rows)
        passed = self._backward(x, noise.index_select(0, entries), codes, 1)
        gradients = [
            RecordGradients(layer, dy.unsqueeze(0), inputs.unsqueeze(0))
            for layer, dy, inputs in passed.layers
        ]
        sigma = self._sigmas.weight.t()
        d_sigma = (1 / sigma - passed.errors / sigma**3).mul_(self.config.loss_factor)
        one = d_sigma.new_ones(1, len(rows), 1)
        gradients.append(RecordGradients(self._sigmas, one, d_sigma.t().unsqueeze(0), biased=0))
        self._sigma_gradient.zero_()
        set_clipped(gradients, private, len(records))
        private.finish(self._gradient)
        reconstruction, divergence = passed.losses
        return reconstruction / len(rows), divergence

    def _backward(self, x: Tensor, noise: Tensor, codes: Tensor | None, divisor: int) -> _Backward:
        """Both passes through the model, for the sum of the records' losses over divisor."""
        compressed = _relu_forward(self._compress, x)
        mu, log_variance = self._latent(compressed[-1]).chunk(2, dim=1)
        std = torch.exp(0.5 * log_variance)
        decompressed = _relu_forward(self._decompress, torch.addcmul(mu, noise, std))
        logits = self._output.columns(decompressed[-1])
        reconstruction, d_logits, errors = self._reconstruct(logits, x.t(), codes, divisor)
        divergence = _divergence(mu, log_variance, std)

        layers = [(self._output, d_logits.t(), decompressed[-1])]
        d_z = d_logits.t() @ self._output.weight
        d_z = _relu_backward(self._decompress, d_z, decompressed, layers)
        # z = mu + noise std, and std = exp(l / 2), so dl = dz noise std / 2.
        share = 1 / divisor
        d_mu = torch.add(d_z, mu, alpha=share)
        d_log_variance = (d_z * noise).mul_(std).add_((std * std).sub_(1), alpha=share).mul_(0.5)
        d_heads = torch.cat([d_mu, d_log_variance], dim=1)
        layers.append((self._latent, d_heads, compressed[-1]))
        d_hidden = d_heads @ self._latent.weight
        _relu_backward(self._compress, d_hidden, compressed, layers, to_input=False)
        return _Backward((reconstruction, divergence), layers, errors)

    def _reconstruct(
        self, logits: Tensor, x: Tensor, codes: Tensor | None, divisor: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction's loss, its gradient for the logits and the scalars' squared errors.

        Logits, their gradient and x are (F, B), the errors (T, B).
        """
        t, n = self.layout.n_scalars, x.shape[1]
        scale = self.config.loss_factor / divisor
        d_logits = torch.empty_like(logits)

        sigma = self._sigma[:t]
        tanh = torch.tanh(logits[:t])
        error = tanh - x[:t]
        squares = error.square()
        loss = (squares.sum(1) / (2 * sigma**2) + n * sigma.log()).sum()
        slope = (1 - tanh * tanh) * (scale / sigma**2).unsqueeze(1)
        torch.mul(error, slope, out=d_logits[:t])

        # log p of every feature; cross entropy is -Σ x log p and its gradient is p - x.
        log_p = d_logits[t:]
        self.blocks.log_softmax(logits[t:], out=log_p)
        wanted = x[t:]
        loss = loss - (log_p * wanted).sum()
        log_p.exp_()
        if codes is not None:
            log_p.mul_((codes >= 0).t()[self.blocks.block_of_feature])
        log_p.sub_(wanted).mul_(scale)
        return loss * scale, d_logits, squares

    def _stack(self, part: str, n: int) -> list[Dense]:
        """The hidden layers of a part; every second module of the reference is an activation."""
        return [self._dense(f"{part}.seq.{2 * i}") for i in range(n)]

    def _dense(self, name: str) -> Dense:
        """The layer called name."""
        return Dense.of(name, self.weights, self.gradients)

    def _fused_heads(self) -> Dense:
        """Both heads of the encoder as one layer: their weights lie side by side, so do biases."""
        width = 2 * self.config.embedding_dim

        def both(vector: Tensor, kind: str) -> Tensor:
            first = self.parameters.slices[f"encoder.fc1.{kind}"].start
            second = self.parameters.slices[f"encoder.fc2.{kind}"].stop
            joined = vector[first:second]
            return joined.view(width, -1) if kind == "weight" else joined

        vectors = self._vector, self._gradient
        return Dense(*(both(v, kind) for v in vectors for kind in ("weight", "bias")))

    def _sigma_layer(self) -> Dense:
        """The T sigmas that are read as the weights of a layer, whose input is 1 and bias nothing.

        So the gradients of sigma by each record are those of a layer.
        """
        weight, gradient = (
            v[: self.layout.n_scalars].unsqueeze(0) for v in (self._sigma, self._sigma_gradient)
        )
        return Dense(weight, weight.new_zeros(1), gradient, weight.new_zeros(1))

    # What FlatModel asks for.

    def prepare(self, rows: TrainingRows, local: LocalTraining) -> _Prepared:
        """What an epoch needs to know."""
        return _Prepared(rows, local.batch_size, local.private)

    def _epoch(self, prepared: _Prepared, generator: torch.Generator) -> dict[str, Tensor]:
        """As many steps as an epoch has."""
        total, steps = self._vector.new_zeros(2), 0
        for losses in self._gradients(prepared, generator):
            self.optimisers["adam"].step()
            self._sigma.clamp_(self.config.least_sigma, _LARGEST_SIGMA)
            total += torch.stack(losses)
            steps += 1
        reconstruction, divergence = (total / steps).unbind()
        return {
            "loss": reconstruction + divergence,
            "reconstruction_loss": reconstruction,
            "divergence_loss": divergence,
        }

    def _gradients(
        self, prepared: _Prepared, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Write the gradients of an epoch one after the other, and yield their losses.

        All rows once, in a new order, the last batch maybe short; or private steps.
        """
        private = prepared.private
        if private is not None:
            for _ in range(private.steps):
                noise = self._normal(private.batch_size, generator)
                yield self.private_step(prepared.rows, noise, private)
            return
        order = torch.randperm(len(prepared.rows), device=self.device, generator=generator)
        for rows in torch.split(order, prepared.batch_size):
            x, codes = self._features(prepared.rows, rows)
            yield self.step(x, self._normal(len(rows), generator), codes)

    def _features(self, shard: TrainingRows, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The features (B, F) of rows (B,), and their codes where the shard has unknown ones."""
        x = self._vector.new_empty(len(rows), self.layout.width)
        codes = shard.write(x, rows, self.blocks)
        return x, codes if shard.has_unknown else None

    def _drawer(self, condition: Condition | None) -> Drawer:
        """Decodes normal latent numbers; scalars get the decoder's noise, N(0, sigma²)."""
        t = self.layout.n_scalars
        mask = self.blocks.condition_mask(condition)
        if self._shift is None:
            self._shift = self._new_shift()
        shift = self._shift if mask is None else self._shift + mask

        def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            logits = self._decode(n, generator)
            noise = torch.randn(t, n, device=self.device, dtype=self.dtype, generator=generator)
            scalars = torch.tanh(logits[:t]).addcmul_(noise, self._sigma[:t].unsqueeze(1))
            chosen = logits[t:].add_(shift)
            draws = self.config.sample_codes
            codes = self.blocks.sample(chosen, generator) if draws else self.blocks.pick(chosen)
            return scalars.clamp_(-1, 1).t(), codes

        return draw

    def _decode(self, n: int, generator: torch.Generator) -> Tensor:
        """Logits (F, n) of n rows."""
        hidden = _relu_forward(self._decompress, self._normal(n, generator))[-1]
        return self._output.columns(hidden)

    def _new_shift(self) -> Tensor:
        """(S, 1) added to the logits of the codes; the likeliest code is taken as it is."""
        if not (self.config.calibrate and self.config.sample_codes):
            return self._no_shift
        return self._calibrated(self._decode(CALIBRATION_ROWS, seeded(self.device, REFERENCE_SEED)))

    def _forget(self) -> None:
        """The shift belongs to parameters that have changed."""
        self._shift = None

    def _normal(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, E) latent numbers."""
        shape = n, self.config.embedding_dim
        return torch.randn(shape, device=self.device, dtype=self.dtype, generator=generator)

    def _scorer(self, generator_only: bool, generator: torch.Generator) -> Scorer:
        """Likelihood, reconstruction and ELBO of rows; for the last two the encoder is needed.

        likelihood      log 1/M Σ_m p(x | z_m), with z_m ~ N(0, 1): importance sampling whose
                        proposal is the prior, so the decoder alone is needed
        reconstruction  log p(x | mu)
        elbo            f 1/L Σ_l log p(x | mu + e_l exp(l / 2)) - KL, with e_l ~ N(0, 1): the
                        loss of training with its sign changed

        All leave out the normal distribution's constant.
        """
        latents = self._normal(_PRIOR_DRAWS, generator)
        noise = self._normal(_POSTERIOR_DRAWS, generator)

        def score(x: Tensor) -> dict[str, Tensor]:
            likelihoods = [
                self._likelihoods(z, x).logsumexp(0)
                for z in torch.split(latents, _PRIOR_DRAWS_AT_ONCE)
            ]
            likelihood = torch.stack(likelihoods).logsumexp(0) - math.log(len(latents))
            if generator_only:
                return {"likelihood": likelihood}
            mu, log_variance = self._latent(_relu_forward(self._compress, x)[-1]).chunk(2, dim=1)
            std = torch.exp(0.5 * log_variance)
            drawn = torch.stack([self._likelihood(torch.addcmul(mu, e, std), x) for e in noise])
            divergence = 0.5 * (mu * mu + std * std - log_variance - 1).sum(1)
            return {
                "likelihood": likelihood,
                "reconstruction": self._likelihood(mu, x),
                "elbo": self.config.loss_factor * drawn.mean(0) - divergence,
            }

        return score

    def _likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x_i | z_i) for rows x (n, F), each with its own z (n, E): (n,)."""
        tanh, log_p, sigma = self._predicted(z)
        t = self.layout.n_scalars
        squares = ((x[:, :t].t() - tanh) / sigma).square_().sum(0)
        return (log_p * x[:, t:].t()).sum(0) - 0.5 * squares - sigma.log().sum()

    def _likelihoods(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x_i | z_m) for all rows x (n, F) and all z (M, E): (M, n), in matrix products.

        (x - r)² / 2 sigma² = x² / 2 sigma² - x r / sigma² + r² / 2 sigma².
        """
        tanh, log_p, sigma = self._predicted(z)
        t = self.layout.n_scalars
        own, given = x[:, :t].t() / sigma, tanh / sigma
        total = torch.addmm((x[:, t:] @ log_p).t(), given.t(), own)
        total.sub_(0.5 * own.square().sum(0)).sub_(0.5 * given.square().sum(0).unsqueeze(1))
        return total.sub_(sigma.log().sum())

    def _predicted(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder at z (M, E): its scalars (T, M), log p of codes (S, M) and sigma (T, 1)."""
        t = self.layout.n_scalars
        logits = self._output.columns(_relu_forward(self._decompress, z)[-1])
        log_p = self.blocks.log_softmax(logits[t:], out=torch.empty_like(logits[t:]))
        return torch.tanh(logits[:t]), log_p, self._sigma[:t].unsqueeze(1)

    @property
    def _row_floats(self) -> int:
        """Latent and hidden numbers, logits and their noise."""
        return self.config.embedding_dim + sum(self.config.decompress_dims) + 2 * self.layout.width


def _shapes(width: int, config: TVAEConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters."""
    inputs = config.embedding_dim
    for i, outputs in enumerate((*config.decompress_dims, width)):
        yield from dense_shapes(f"generator.seq.{2 * i}", inputs, outputs).items()
        inputs = outputs
    yield "generator.sigma", (width,)
    inputs = width
    for i, outputs in enumerate(config.compress_dims):
        yield from dense_shapes(f"encoder.seq.{2 * i}", inputs, outputs).items()
        inputs = outputs
    for head in ("fc1", "fc2"):
        yield f"encoder.{head}.weight", (config.embedding_dim, inputs)
    for head in ("fc1", "fc2"):
        yield f"encoder.{head}.bias", (config.embedding_dim,)


def _relu_forward(layers: list[Dense], x: Tensor) -> list[Tensor]:
    """x (n, in) and the output (n, out) of every layer."""
    outputs = [x]
    for layer in layers:
        outputs.append(layer(outputs[-1]).clamp_min_(0))
    return outputs


def _relu_backward(
    layers: list[Dense],
    d: Tensor,
    outputs: list[Tensor],
    passed: list[tuple[Dense, Tensor, Tensor]],
    *,
    to_input: bool = True,
) -> Tensor:
    """Backward pass through layers given d (n, out) for the last output; returns it for x.

    Appends every layer, the gradient of its result and its input to passed. With to_input=False the
    last product is left out and the result means nothing.
    """
    for i in range(len(layers) - 1, -1, -1):
        d = torch.ops.aten.threshold_backward(d, outputs[i + 1], 0)
        passed.append((layers[i], d, outputs[i]))
        if i or to_input:
            d = d @ layers[i].weight
    return d


def _divergence(mu: Tensor, log_variance: Tensor, std: Tensor) -> Tensor:
    """KL divergence of N(mu, std²) from N(0, 1), the mean over rows."""
    terms = (mu * mu).add_(std * std).sub_(log_variance)
    return 0.5 * (terms.sum() / len(mu) - mu.shape[1])
