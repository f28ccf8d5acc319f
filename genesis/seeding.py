"""Where random numbers come from: one seed, and a stream of its own for every use of it.

Streams are children of the seed by name, so that no two uses share numbers and none depends on how
many the others have drawn.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from genesis.errors import PlanError

__all__ = ["Stream", "check_seed", "generator", "key", "secret_generator"]


class Stream(IntEnum):
    """What random numbers are drawn for."""

    ENCODING = 1
    TRAINING = 2
    COHORT = 3
    GENERATION = 4
    ROUNDING = 5


def check_seed(seed: int) -> int:
    """A seed that a user gave.

    Raises:
        PlanError: It is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise PlanError("seed must be a whole number of at least 0", got=repr(seed), do="change it")
    return int(seed)


def key(seed: int, stream: Stream, *numbers: int) -> tuple[int, ...]:
    """Entropy of a stream, for np.random.SeedSequence."""
    return (seed, int(stream), *numbers)


def generator(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """The numbers of a stream."""
    return np.random.default_rng(np.random.SeedSequence(key(seed, stream, *numbers)))


def secret_generator() -> np.random.Generator:
    """Numbers that come from the operating system and are the same for nobody else.

    For what is drawn row by row of private rows: with numbers that others know, one row more would
    give all rows after it another draw, which is a change of all of them.
    """
    return np.random.default_rng()
