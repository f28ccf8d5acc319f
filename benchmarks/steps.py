"""How long one training step takes: the reference implementation, ours, and our products alone.

Run it with ``python benchmarks/steps.py [--table CSV] [--epochs N]``. The three take turns, epoch
by epoch, in one process, so that whatever else the machine does hits all of them; medians are
printed. Without a table the rows are random, with as many columns and categories as Adult has.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import ctgan
import numpy as np
import pandas as pd
import torch

from genesis.codes import Codes, Layout
from genesis.models import LocalTraining, create_model
from genesis.models.matmul import fast_matmul
from genesis.synthesizer import Synthesizer

ADULT = Layout((10, 10, 10, 2, 4, 10), (9, 16, 7, 15, 6, 5, 2, 42, 2))
ROWS = 10_000
BATCH = 500
THREADS = 2

Span = namedtuple("Span", ["dim", "activation_fn"])
Product = tuple[int, int, int]


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", help="a CSV file")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    layout, rows = encoded(options.table) if options.table else (ADULT, random_rows(ADULT, ROWS))
    products = {"ctgan": ctgan_products(layout), "tvae": tvae_products(layout)}
    for name, library in (("ctgan", ctgan.CTGAN), ("tvae", ctgan.TVAE)):
        times = take_turns(name, library, layout, rows, products[name], options.epochs)
        medians = {key: statistics.median(t) * 1e3 for key, t in times.items()}
        line = "  ".join(f"{key} {median:6.2f} ms" for key, median in medians.items())
        ratio = medians["reference"] / medians["ours"]
        print(f"{name:6} {line}  reference/ours {ratio:.2f}")


def encoded(path: str) -> tuple[Layout, Codes]:
    """The rows of a CSV file."""
    table = pd.read_csv(path)
    encoder = Synthesizer("tvae", {"epochs": 1}, seed=0).fit(table).encoder
    return encoder.layout, encoder.encode(table, np.random.default_rng(0))


def take_turns(
    name: str,
    library: type[Any],
    layout: Layout,
    rows: Codes,
    products: list[Product],
    epochs: int,
) -> dict[str, list[float]]:
    """Seconds of a step in every epoch but the first, which warms up.

    The reference shows its progress by wrapping the range of its epochs; the wrapper is replaced
    by one that lets the others run before it hands out the next epoch.
    """
    model, steps = create_model(name, layout, {}), len(rows) // BATCH
    times: dict[str, list[float]] = {"reference": [], "ours": [], "products": []}

    def timed(key: str, run: Callable[[], Any]) -> None:
        start = time.perf_counter()
        run()
        times[key].append((time.perf_counter() - start) / steps)

    def between(numbers: Iterable[int], **_: Any) -> Iterator[int]:
        for epoch in numbers:
            local = LocalTraining(1, BATCH, (0,), first_epoch=epoch)
            timed("ours", lambda local=local: model.train(rows, local))  # type: ignore[misc]
            timed("products", lambda: multiply(products, steps))
            start = time.perf_counter()
            yield epoch
            times["reference"].append((time.perf_counter() - start) / steps)

    module = sys.modules[library.__module__]
    stand_in = mock.Mock(return_value=Encoded(layout, rows))
    with mock.patch.multiple(module, tqdm=between, DataTransformer=stand_in):
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
        np.put_along_axis(self.features, rows.codes + layout.block_starts[:-1], 1.0, axis=1)
        self.features[:, : layout.n_scalars] = rows.scalars

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
