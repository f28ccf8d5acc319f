"""Noisy answers to a question about sums over the rows, each made to be given again and again."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from genesis.codes import Codes, Layout
from genesis.evaluation.mechanism.shipped import Floats, Step
from genesis.models import model_class
from genesis.models.sums import Budget, Question
from genesis.models.sums.rows import SumRows
from genesis.privacy.events import Skellam, SkellamSum
from genesis.privacy.sums import SumAnswers, Sums

__all__ = ["SUM_STEPS", "SumStep"]

WIDE = Layout((3, 2, 4, 2), (3, 4, 2, 3))
"""As many columns as make noise of counts nearly normal."""

MANY = 10**6
"""Rows that a fit is told of, so that it refuses no noise."""

SHARPNESS = 60
"""Power of the tables, so that a row belongs to one component: else little is known of the norm."""


class SumStep(Step):
    """The first answer of a private fit; its clip is the norm of the question."""

    gradient, sampled = "answer", False
    layout = WIDE
    name: str
    small: Mapping[str, Any] = {}  # where the config does not say

    def __init__(self, config: Mapping[str, Any], *known: Any) -> None:
        super().__init__(*known)
        self._model = model_class(self.name)
        self._config = {**self.small, **config}
        self._model.check_config(self._config)
        self._releases = self._model.releases(WIDE, self._config)
        fit = self._model.fit(
            WIDE,
            self._config,
            rows=MANY,
            frequencies=np.ones(sum(WIDE.block_widths)),
            n_rounds=1,
            seed=self._seed,
            budget=Budget(self._plan(quiet=False).rho),
        )
        self._question = self._hardest(fit.question())

    @property
    def mu(self) -> float:
        """Of what the ledger says that an answer costs."""
        event = self._plan(quiet=False).events[0]
        if isinstance(event, Skellam):
            return math.sqrt(event.count) / event.deviation
        assert isinstance(event, SkellamSum)
        return math.sqrt(event.count) / event.noise_multiplier

    def _plan(self, *, quiet: bool) -> Sums:
        """All answers of a fit, with noise of σ over the norm in the first of them."""
        share = math.sqrt(self._releases[0].share)
        return Sums(self._releases, self._multiplier(quiet) * share)

    @abstractmethod
    def _hardest(self, question: Question) -> Question:
        """The question that one row moves the answer of furthest."""

    def batch(
        self, rows: Codes, *, quiet: bool, rate: float, steps: int
    ) -> tuple[Floats, list[torch.Tensor]]:
        """The answer to the same question, of all rows, with fresh noise."""
        found, _ = SumAnswers(self._plan(quiet=quiet)).answer(
            self._question,
            lambda: self._model.answer(SumRows(WIDE, rows), self._question),
            share=lambda deviation: deviation,
            pay=lambda: None,
            noise=self._noise,
        )
        return found / self._question.norm, []


class _MarginalsStep(SumStep):
    """Counts of all pairs."""

    name = "marginals"

    def _hardest(self, question: Question) -> Question:
        return question


class _MixtureStep(SumStep):
    """Expected counts."""

    name, small = "mixture", {"components": 5}

    def _hardest(self, question: Question) -> Question:
        tables = question.arrays["tables"].astype(np.float64) ** SHARPNESS
        ends = np.cumsum(WIDE.block_widths)[:-1]
        parts = [part / part.sum(0) for part in np.split(tables, ends)]
        sharp = np.concatenate(parts).astype(np.float32)
        return replace(question, arrays={**question.arrays, "tables": sharp})


SUM_STEPS = {step.name: step for step in (_MarginalsStep, _MixtureStep)}
"""Models that are fitted from noisy sums -> the step that is audited."""
