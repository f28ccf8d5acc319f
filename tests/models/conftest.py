"""Encoded rows to train on, and the reference implementation on the same layouts."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from genesis.codes import Codes, Layout

Span = namedtuple("Span", ["dim", "activation_fn"])

LAYOUTS = {
    "mixed": Layout((4, 3), (3, 5, 2)),
    "discrete only": Layout((), (3, 5)),
    "numeric only": Layout((4, 3, 1), ()),
    "tiny": Layout((1,), (2,)),
}


@pytest.fixture(params=list(LAYOUTS))
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture
def mixed():
    return LAYOUTS["mixed"]


@pytest.fixture
def make_rows():
    def make(layout: Layout, n: int, *, unknown: float = 0.0, seed: int = 0) -> Codes:
        """Rows with uneven categories, a share of them unknown."""
        rng = np.random.default_rng(seed)
        scalars = rng.uniform(-0.99, 0.99, (n, layout.n_scalars)).astype(np.float32)
        uneven = [(rng.random(n) ** 2 * width).astype(np.int32) for width in layout.block_widths]
        codes = np.stack(uneven, axis=1)
        categories = codes[:, layout.n_scalars :]
        categories[rng.random(categories.shape) < unknown] = -1
        return Codes(scalars, codes)

    return make


@pytest.fixture
def one_hot():
    def expand(rows: Codes, layout: Layout) -> torch.Tensor:
        """All features of rows: (n, F)."""
        x = np.zeros((len(rows), layout.width))
        x[:, : layout.n_scalars] = rows.scalars
        for block, start in enumerate(layout.block_starts[:-1]):
            known = np.flatnonzero(rows.codes[:, block] >= 0)
            x[known, start + rows.codes[known, block]] = 1
        return torch.from_numpy(x)

    return expand


@pytest.fixture
def output_info():
    def describe(layout: Layout):
        """A layout in the words of the reference implementation.

        It tells discrete columns by having one softmax alone. All scalars and mode blocks make
        one column here, so that its order of features is ours.
        """
        numeric = [Span(1, "tanh")] * layout.n_scalars
        numeric += [Span(width, "softmax") for width in layout.mode_widths]
        discrete = [[Span(width, "softmax")] for width in layout.category_widths]
        return ([numeric] if numeric else []) + discrete

    return describe


@pytest.fixture
def relative():
    def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        """Largest difference, relative to the largest entry."""
        return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))

    return error
