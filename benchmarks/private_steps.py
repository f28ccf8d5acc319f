"""What differential privacy costs: the time of one step of training, with it and without.

Run it with ``python benchmarks/private_steps.py [--table CSV] [--epochs N] [--threads N]``. The two
take turns, epoch by epoch, in one process, so that whatever else the machine does hits both of
them; printed are medians, and the median of the ratios of the pairs. A step of CTGAN is one of the
critic and one of the generator, without packs in both cases. What of a private step the noise takes
is measured by itself. Without a table the rows are random, with as many columns and categories as
Adult has.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from steps import ADULT, BATCH, ROWS, THREADS, encoded, random_rows

from genesis.codes import Codes, Layout
from genesis.models import GenerativeModel, LocalTraining, create_model
from genesis.privacy.dp_sgd import PrivateSteps
from genesis.privacy.noise import Noise

GOALS = {"ctgan": 1.2, "tvae": 1.4}
CONFIGS = {"ctgan": {"pac": 1}, "tvae": {}}
NOISES = 500


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", help="a CSV file")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layout, rows = encoded(options.table) if options.table else (ADULT, random_rows(ADULT, ROWS))
    for name, goal in GOALS.items():
        plain, private = take_turns(name, layout, rows, options.epochs)
        ratio = statistics.median(b / a for a, b in zip(plain, private, strict=True))
        times = (statistics.median(t) * 1e3 for t in (plain, private))
        print("{:6} without {:6.2f} ms  private {:6.2f} ms  ".format(name, *times), end="")
        print(f"private/without {ratio:.2f} (goal {goal})  noise {time_noise(name, layout):.2f} ms")


def take_turns(
    name: str, layout: Layout, rows: Codes, epochs: int
) -> tuple[list[float], list[float]]:
    """Seconds of a step without privacy and with it, in every epoch but the first."""
    steps = len(rows) // BATCH
    private = PrivateSteps(1.0, 1.0, BATCH / len(rows), BATCH, steps)
    models = [create_model(name, layout, CONFIGS[name]) for _ in range(2)]
    times: tuple[list[float], list[float]] = ([], [])
    for epoch in range(epochs + 1):
        for model, seconds, how in zip(models, times, (None, private), strict=True):
            seconds.append(time_epoch(model, rows, epoch, how) / steps)
    return times[0][1:], times[1][1:]


def time_epoch(
    model: GenerativeModel, rows: Codes, epoch: int, private: PrivateSteps | None
) -> float:
    """Seconds of one epoch."""
    start = time.perf_counter()
    model.train(rows, LocalTraining(1, BATCH, (0,), first_epoch=epoch, private=private))
    return time.perf_counter() - start


def time_noise(name: str, layout: Layout) -> float:
    """Milliseconds of the normal numbers of a step: one for each parameter that it trains."""
    parameters = create_model(name, layout, CONFIGS[name]).parameters
    trained = parameters.parts.get("discriminator", slice(0, parameters.size))
    noise, times = Noise(), []
    for _ in range(NOISES):
        start = time.perf_counter()
        noise.normal(trained.stop - trained.start)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
