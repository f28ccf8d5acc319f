"""What a hostile server reads out of one reply to `train`: rows, to the unit.

    python -m benchmarks.imprint

The server names a model whose first layer has 4,000 neurons with the same weights and thresholds
that rise from one to the next ("imprint module", Fowl et al. 2022, "Robbing the Fed", ICLR). A row
moves the neurons whose thresholds it passes, so that the difference between two neighbours holds
the rows between their thresholds: where that is one row, the difference of their gradients is that
row. Adam's first step is a known function of the gradient, and a large learning rate keeps its
size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from genesis.codes import Codes
from genesis.encoding.encoder import Encoder
from genesis.federated.messages import Arrays, Reply, Request
from genesis.federated.shard import Shard
from genesis.models import create_model
from genesis.schema import Schema
from genesis.statistics import PooledStatistics

ROWS, NEURONS, RATE, EPSILON = 300, 4000, 1e7, 1e-8  # the last is Adam's


def patients() -> pd.DataFrame:
    """A table with a column that nobody should learn of a person."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS),
            "salary": np.round(rng.lognormal(10, 1, ROWS), 2),
            "height": np.round(rng.normal(170, 10, ROWS), 1),
            "ward": rng.choice(list("ABC"), ROWS),
            "hiv": rng.choice(["yes", "no"], ROWS, p=[0.1, 0.9]),
        }
    )


def ask(shard: Shard, kind: str, meta: dict[str, Any], arrays: Arrays | None = None) -> Reply:
    """What a client answers, who has no choice of its own."""
    reply = shard.handle(Request(kind, meta=meta, arrays=arrays or {}))
    assert reply.error is None, reply.error
    return reply


def agree(shard: Shard) -> Encoder:
    """The encoder, as in any run."""
    schema = ask(shard, "describe", {"discrete_columns": []}).meta["schema"]
    labels = ask(shard, "labels", {"schema": schema}).meta["labels"]
    pooled = PooledStatistics(Schema.from_dict(schema), [labels])
    while questions := pooled.questions():
        asked = {"questions": [question.to_dict() for question in questions]}
        counts = ask(shard, "count", asked).arrays["counts"]
        ends = np.cumsum([question.size for question in questions])
        pooled.take(np.split(counts, ends[:-1]))
    return Encoder.fit(pooled)


def imprint(shard: Shard) -> pd.DataFrame:
    """The rows that one reply gives away."""
    encoder = agree(shard)
    config = {
        "compress_dims": [NEURONS],
        "decompress_dims": [],
        "embedding_dim": 1,
        "batch_size": ROWS,
        "l2scale": 0.0,
        "learning_rate": RATE,
    }
    told = {"encoder": encoder.to_dict(), "method": "tvae", "config": config, "seed": 1}
    ask(shard, "prepare", {**told, "number": 0, "measures": []})
    model = create_model("tvae", encoder.layout, config, seed=1, frequencies=encoder.frequencies)
    sent = torch.zeros(model.parameters.size)
    layers = model.parameters.views(sent)
    weights = torch.randn(encoder.layout.width, generator=torch.Generator().manual_seed(3))
    weights[: encoder.layout.n_scalars] *= 2
    layers["generator.sigma"].fill_(1.0)
    layers["encoder.seq.0.weight"].copy_(weights.expand(NEURONS, -1))
    layers["encoder.seq.0.bias"].copy_(-torch.linspace(-8, 8, NEURONS))
    layers["encoder.fc1.weight"].fill_(1e-12)
    layers["encoder.fc1.bias"].fill_(1.0)
    meta = {"epochs": 1, "learning_rate_scale": 1.0, "send": None, "receive": None, "used": False}
    meta |= {"max_grad_norm": None, "clip_per_layer": False}
    answer = ask(shard, "train", meta, {"vector": sent.numpy()}).arrays["vector"]
    # Adam's first step: change = rate · g / (|g| + ε). With u = change / rate, g = ε u / (1 - |u|).
    unit = (sent - torch.from_numpy(answer)).double() / RATE
    gradient = model.parameters.views((EPSILON * unit / (1 - unit.abs())).contiguous())
    weight, bias = (gradient[f"encoder.seq.0.{name}"].double() for name in ("weight", "bias"))
    between = weight[:-1] - weight[1:], bias[:-1] - bias[1:]
    sizes = between[1].abs()
    alone = (sizes / sizes[sizes > 0].median() - 1).abs() < 0.3  # one row between two thresholds
    return decoded(encoder, (between[0][alone] / between[1][alone, None]).float())


def decoded(encoder: Encoder, rows: torch.Tensor) -> pd.DataFrame:
    """Rows of features as a table."""
    start, codes = encoder.layout.n_scalars, []
    for width in encoder.layout.block_widths:
        codes.append(rows[:, start : start + width].argmax(1))
        start += width
    scalars = rows[:, : encoder.layout.n_scalars].numpy()
    found = Codes(scalars, torch.stack(codes, 1).numpy().astype(np.int32))
    return encoder.decode(found, np.random.default_rng(0))


def main() -> None:
    """Attack a client, and count what is right."""
    table = patients()
    found = imprint(Shard("north", table, device="cpu"))
    whole = [
        {tuple(row) for row in rows.assign(salary=rows["salary"].round()).values.tolist()}
        for rows in (table, found.round({"height": 1}))
    ]
    print(f"{len(whole[0] & whole[1])} of {ROWS} rows, whole, from one reply")


if __name__ == "__main__":
    main()
