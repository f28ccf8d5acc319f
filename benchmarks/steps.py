"""How long one training step takes: the reference implementation, ours, and our products alone.

Run it with ``python benchmarks/steps.py [epochs]``. The three take turns, epoch by epoch, in one
process, so that whatever else the machine does hits all of them; medians are printed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import ctgan
import numpy as np
import torch

from genesis.codes import Codes, Layout
from genesis.models import LocalTraining, create_model
from genesis.models.matmul import fast_matmul

ADULT = Layout((10, 10, 10, 2, 4, 10), (9, 16, 7, 15, 6, 5, 2, 42, 2))
ROWS = 10_000
BATCH = 500
THREADS = 2

Span = namedtuple("Span", ["dim", "activation_fn"])
Product = tuple[int, int, int]


def main() -> None:
    """Print a line for each model."""
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    torch.set_num_threads(THREADS)
    rows = random_rows(ADULT, ROWS)
    for name, library, products in (
        ("ctgan", ctgan.CTGAN, ctgan_products(ADULT)),
        ("tvae", ctgan.TVAE, tvae_products(ADULT)),
    ):
        model = create_model(name, ADULT, {})
        ours = lambda epoch, model=model: model.train(rows, LocalTraining(1, BATCH, (0,), epoch))  # noqa: E731
        floor = lambda _, products=products: multiply(products, ROWS // BATCH)  # noqa: E731
        times = take_turns(library, rows, {"ours": ours, "products": floor}, epochs)
        medians = {key: statistics.median(t) / (ROWS // BATCH) * 1e3 for key, t in times.items()}
        line = "  ".join(f"{key} {median:6.2f} ms" for key, median in medians.items())
        ratio = medians["reference"] / medians["ours"]
        print(f"{name:6} {line}  reference/ours {ratio:.2f}")


def take_turns(
    library: type[Any],
    rows: Codes,
    others: dict[str, Callable[[int], Any]],
    epochs: int,
) -> dict[str, list[float]]:
    """Seconds of every epoch but the first, of the reference and of the others in between.

    The reference shows its progress by wrapping the range of its epochs; the wrapper is replaced
    by one that lets the others run before it hands out the next epoch.
    """
    times: dict[str, list[float]] = {"reference": [], **{key: [] for key in others}}

    def between(numbers: Iterable[int], **_: Any) -> Iterator[int]:
        for epoch in numbers:
            for key, run in others.items():
                start = time.perf_counter()
                run(epoch)
                times[key].append(time.perf_counter() - start)
            start = time.perf_counter()
            yield epoch
            times["reference"].append(time.perf_counter() - start)

    module = sys.modules[library.__module__]
    encoded = mock.Mock(return_value=Encoded(ADULT, rows))
    with mock.patch.multiple(module, tqdm=between, DataTransformer=encoded):
        # The table is not looked at: the stand-in has the encoded rows already.
        library(epochs=epochs + 1, batch_size=BATCH, enable_gpu=False).fit(np.zeros((2, 1)))
    return {key: seconds[1:] for key, seconds in times.items()}


class Encoded:
    """Stands in for the reference's transformer, with rows that are encoded already."""

    def __init__(self, layout: Layout, rows: Codes) -> None:
        numeric = [Span(1, "tanh")] * layout.n_scalars
        numeric += [Span(width, "softmax") for width in layout.mode_widths]
        discrete = [[Span(width, "softmax")] for width in layout.category_widths]
        self.output_info_list = [numeric, *discrete]
        self.output_dimensions = layout.width
        self.features = np.zeros((len(rows), layout.width))
        self.features[:, : layout.n_scalars] = rows.scalars
        on = rows.codes + layout.block_starts[:-1]
        np.put_along_axis(self.features, on, 1.0, axis=1)

    def fit(self, *_: Any) -> None:
        """Nothing is left to fit."""

    def transform(self, _: Any) -> np.ndarray[Any, Any]:
        """All features (n, F)."""
        return self.features


def random_rows(layout: Layout, n: int) -> Codes:
    """Rows with uneven categories."""
    rng = np.random.default_rng(0)
    codes = [(rng.random(n) ** 2 * width).astype(np.int32) for width in layout.block_widths]
    scalars = rng.uniform(-0.99, 0.99, (n, layout.n_scalars)).astype(np.float32)
    return Codes(scalars, np.stack(codes, axis=1))


def ctgan_products(layout: Layout) -> list[Product]:
    """(m, k, n) of the matrix products of a step with the default widths."""
    f, c, b, packs, w = layout.width, layout.condition_width, BATCH, BATCH // 10, 256
    first, second, last = 128 + c, 128 + c + w, 128 + c + 2 * w
    pack = 10 * (f + c)
    forward = [(b, first, w), (b, second, w), (f, last, b)]
    backward = [(f, b, last), (b, f, 2 * w), (w, b, second), (b, w, w), (w, b, first)]
    critic = [(2 * packs, pack, w), (3 * packs, w, w), (3 * packs, w, w), (packs, w, pack)]
    critic += [(w, 3 * packs, pack), (packs, pack, w), (w, 3 * packs, w), (packs, w, w)]
    score = [(packs, pack, w), (packs, w, w), (packs, w, w), (packs, w, pack)]
    return forward * 2 + backward + critic + score


def tvae_products(layout: Layout) -> list[Product]:
    """(m, k, n) of the matrix products of a step with the default widths."""
    f, b, w = layout.width, BATCH, 128
    layers = [(f, w), (w, w), (w, 2 * w), (w, w), (w, w), (w, f)]
    forward = [(b, i, o) for i, o in layers]
    weights = [(o, b, i) for i, o in layers]
    return forward + weights + [(b, o, i) for i, o in layers[1:]]


def multiply(products: list[Product], steps: int) -> None:
    """The products alone, as often as an epoch has them."""
    factors = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in products]
    with fast_matmul(torch.device("cpu")):
        for _ in range(steps):
            for a, b, out in factors:
                torch.mm(a, b, out=out)


if __name__ == "__main__":
    main()
