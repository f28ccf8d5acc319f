"""Expectation-maximisation of a mixture of products from sums over the rows.

    E  every row's chance of belonging to each component, added up: expected counts   (the shards)
    M  tables and weights from the expected counts, drawn in by `smoothing`           (here)

After a first look at all rows, passes over them are divided in groups, with an M step after each
(Cappé and Moulines 2009): expected counts are then a moving mean. The last passes are whole again,
so that in the end the parameters are those of all rows alike. Components that come to nothing are
left out on the way, so their number is what the likelihood and its penalty, the smoothing, leave.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Layout
from genesis.errors import PlanError, TrainingError
from genesis.models.sums import Question
from genesis.models.sums.mixture import MixtureConfig
from genesis.models.sums.rows import MOST_GROUPS, UNIT
from genesis.models.sums.smoothing import Smoothing

__all__ = ["MixtureFit"]

Integers = npt.NDArray[np.int64]

FEWEST_COMPONENTS, MOST_COMPONENTS = 16, 600
ROWS_A_COMPONENT = 95  # closer fits remember rows: see docs/benchmarks.md
ROWS_A_GROUP = 2000
FEW_ROWS, STARTS = 5000, 3  # fewer rows than these are begun with more than once
WHOLE = 5  # one pass of so many, the last ones, is not divided
FORGETTING = 0.6  # exponent of the steps of the moving mean
CLOSENESS = 100.0  # rows that a component resembles the table by when it begins
UNMIXED = 0.9  # share of its own that it begins with
WEIGHT = 0.1  # rows that a component counts beside its own
LEAST_ROWS = 2.0  # a component of fewer is left out
LEAST_GAIN = 1e-3  # nats a row, of a pass that another one is worth


class MixtureFit:
    """The fit of one mixture: see `SumFit`.

    Args:
        layout: Layout of the encoded rows.
        config: Choices.
        rows: Number of rows of all shards.
        frequencies: (S,) released counts of every code.
        n_rounds: Passes over the rows, at least 1; those of other starts come before.
        seed: Decides where it starts.
        device: Where parameters are computed.

    Raises:
        PlanError: There are more components than rows.
    """

    def __init__(
        self,
        layout: Layout,
        config: MixtureConfig,
        *,
        rows: int,
        frequencies: Tensor,
        n_rounds: int,
        seed: int,
        device: torch.device,
    ) -> None:
        if (config.components or 1) > rows:
            raise PlanError(
                "a mixture cannot have more components than there are rows",
                got=f"{config.components} components and {rows} rows",
                do="leave components out, or lower it",
            )
        self._layout, self._given, self._rows, self._seed = layout, config, rows, seed
        self._frequencies, self._device = frequencies, device
        self._passes, self._whole = n_rounds, math.ceil(n_rounds / WHOLE)
        restarts = config.restarts or (STARTS if rows < FEW_ROWS else 1)
        self._starts = restarts if n_rounds > 1 else 1
        self._trial = max(n_rounds // 4, 1)  # passes after which starts are compared
        wanted = config.groups or min(rows // ROWS_A_GROUP, MOST_GROUPS)
        self._groups = max(min(wanted, rows), 1)
        self._start, self._pass, self._group, self._steps = 0, 0, 0, 0
        self._best: tuple[float, dict[str, Any], dict[str, Tensor]] | None = None
        self._begin()

    # --- the protocol ---

    @property
    def n_rounds(self) -> int:
        """Passes over the rows, those of the starts that come to nothing included.

        Fewer than were asked for, once the penalised likelihood does not grow any more.
        """
        return self._passes + (self._starts - 1) * self._trial

    @property
    def config(self) -> dict[str, Any]:
        """The config with the number of components as it is now."""
        return {**dataclasses.asdict(self._given), "components": len(self._weights)}

    @property
    def vector(self) -> Tensor:
        """(P,) parameters: weights, then tables."""
        return torch.cat([self._weights, self._tables.reshape(-1)]).float().cpu()

    def question(self) -> Question | None:
        """Expected counts of the next group of rows."""
        if self._pass >= self._passes:
            return None
        n, k = self._tables.shape
        return Question(
            "expect",
            size=n * k + k + 2,
            meta={"group": self._group, "groups": self._parts},
            arrays={
                "weights": self._weights.float().cpu().numpy(),
                "tables": self._tables.float().cpu().numpy(),
            },
        )

    def take(self, total: Integers, deviation: float = 0.0) -> Mapping[str, float] | None:
        """One M step."""
        n, k = self._tables.shape
        if (total[:-2] < 0).any() or total[-1] < 0:
            raise TrainingError("expected counts that no rows have")
        seen = int(total[-1])
        sums = torch.from_numpy(total[:-2].astype(np.float64)).to(self._device) * UNIT
        self._likelihood += float(total[-2]) * UNIT
        self._seen += seen
        if seen:
            self._move(sums[: n * k].view(n, k), sums[n * k :], seen)
        self._group += 1
        if self._group < self._parts:
            return None
        return self._end_pass()

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that the next question depends on."""
        values, tensors = self._state()
        values |= {"start": self._start, "best": None}
        if self._best is not None:
            values["best"] = {"score": self._best[0], "values": self._best[1]}
            tensors |= {f"best.{name}": tensor for name, tensor in self._best[2].items()}
        return values, tensors

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_state`."""
        self._start = int(values["start"])
        self._go_on(values, tensors)
        self._best = None
        if values["best"] is not None:
            kept = {
                name.removeprefix("best."): tensor
                for name, tensor in tensors.items()
                if name.startswith("best.")
            }
            self._best = values["best"]["score"], values["best"]["values"], kept

    # --- steps ---

    def _begin(self) -> None:
        """Components like the table, each a little of its own."""
        k = self._given.components or min(
            max(self._rows // ROWS_A_COMPONENT, FEWEST_COMPONENTS),
            MOST_COMPONENTS,
            max(self._rows, 1),
        )
        self._smoothing = Smoothing(
            self._layout,
            self._frequencies,
            strength=self._given.smoothing,
            device=self._device,
        )
        # Drawn on the CPU, so that every device starts from the same parameters.
        drawn = torch.Generator().manual_seed(_seed(self._seed, self._start))
        tables = []
        for shares in self._smoothing.frequencies:
            near = shares.cpu()[:, None]
            own = torch._standard_gamma((near * CLOSENESS).repeat(1, k), generator=drawn) + 1e-6
            tables.append(UNMIXED * own / own.sum(0) + (1 - UNMIXED) * near)
        self._tables = torch.cat(tables).to(self._device)
        self._weights = torch.full((k,), 1 / k, dtype=torch.float64, device=self._device)
        self._counts = self._tables.new_zeros(self._tables.shape)
        self._members = self._weights.new_zeros(k)
        self._pass, self._group, self._steps = 0, 0, 0
        self._likelihood, self._seen, self._score = 0.0, 0, -1e300

    @property
    def _parts(self) -> int:
        """Groups of this pass."""
        # Equal rows are in one group: what the first group lacks, components would not learn again.
        divided = 0 < self._pass < self._passes - self._whole
        return self._groups if divided else 1

    def _move(self, counts: Tensor, members: Tensor, seen: int) -> None:
        """The moving mean of expected counts, and the parameters that follow from it."""
        if self._parts == 1:
            self._counts, self._members = counts, members
        else:
            scale = self._rows / seen
            step = max((self._steps + 1) ** -FORGETTING, 1 / self._parts)
            self._counts = torch.lerp(self._counts, counts * scale, step)
            self._members = torch.lerp(self._members, members * scale, step)
        self._steps += 1
        self._tables = self._smoothing.tables(self._counts)
        weights = self._members + WEIGHT
        self._weights = weights / weights.sum()

    def _end_pass(self) -> dict[str, float]:
        """Follow the priors, leave out what came to nothing, compare starts."""
        mean = self._likelihood / max(self._seen, 1)
        self._pass, self._group = self._pass + 1, 0
        self._likelihood, self._seen = 0.0, 0
        self._leave_out()
        if self._pass < self._passes:
            self._smoothing.learn(self._counts)
            self._tables = self._smoothing.tables(self._counts)
        score = mean * self._rows + self._penalty()
        if self._pass == self._trial and self._start < self._starts:
            self._compare(score)
        elif self._start == self._starts and score - self._score < LEAST_GAIN * self._rows:
            # Nothing but the last passes is left.
            self._passes = min(self._passes, self._pass + self._whole)
        self._score = score
        return {
            "negative_log_likelihood": -mean,
            "components": float(len(self._weights)),
        }

    def _leave_out(self) -> None:
        """Components of next to no rows; the last passes change nothing but numbers."""
        # No more than half at a time: the others have what is theirs only in the next pass.
        kept = self._members >= self._members.median().clamp(max=LEAST_ROWS)
        early = self._pass < self._passes - self._whole
        if early and bool(kept.any()) and not bool(kept.all()):
            self._counts, self._members = self._counts[:, kept], self._members[kept]
            self._tables, weights = self._tables[:, kept], self._weights[kept]
            self._weights = weights / weights.sum()

    def _compare(self, score: float) -> None:
        """After its first passes: keep this start if it is the best, and begin the next one."""
        if self._best is None or score > self._best[0]:
            self._best = score, *self._state()
        self._start += 1
        if self._start < self._starts:
            self._begin()
        else:
            self._go_on(self._best[1], self._best[2])
            self._best = None

    def _penalty(self) -> float:
        """What the likelihood of the best parameters exceeds that of the model by, about.

        ln p(D) ≈ ln p(D | θ̂) + ln p(S) - ln p(S | θ̂), with expected counts S in place of whole
        rows (Cheeseman and Stutz 1996, eq. 14).
        """
        complete = float((self._counts * self._tables.clamp(min=1e-300).log()).sum())
        complete += float((self._members * self._weights.clamp(min=1e-300).log()).sum())
        k = len(self._members)
        prior = torch.full_like(self._members, WEIGHT)
        weights = float((torch.lgamma(self._members + prior) - torch.lgamma(prior)).sum())
        weights += math.lgamma(k * WEIGHT) - math.lgamma(float(self._members.sum()) + k * WEIGHT)
        return self._smoothing.evidence(self._counts) + weights - complete

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        values = {
            "pass": self._pass,
            "group": self._group,
            "steps": self._steps,
            "passes": self._passes,
            "score": self._score,
            "likelihood": self._likelihood,
            "seen": self._seen,
            "concentrations": list(self._smoothing.concentrations),
        }
        tensors = {
            "weights": self._weights,
            "tables": self._tables,
            "counts": self._counts,
            "members": self._members,
        }
        return values, {name: tensor.cpu().clone() for name, tensor in tensors.items()}

    def _go_on(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._pass, self._group = int(values["pass"]), int(values["group"])
        self._steps, self._seen = int(values["steps"]), int(values["seen"])
        self._passes, self._score = int(values["passes"]), float(values["score"])
        self._likelihood = float(values["likelihood"])
        self._smoothing.concentrations = [float(a) for a in values["concentrations"]]
        self._weights = tensors["weights"].to(self._device)
        self._tables = tensors["tables"].to(self._device)
        self._counts = tensors["counts"].to(self._device)
        self._members = tensors["members"].to(self._device)


def _seed(seed: int, start: int) -> int:
    """The seed of one start."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1, np.uint64)[0] >> 1)
