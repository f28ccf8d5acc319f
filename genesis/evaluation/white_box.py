"""Membership inference with the model at hand, and not only rows that it generated.

Who holds what decides who can attack how. A model file holds the generator (or decoder) alone. The
other half of a model is closer to the rows: a critic was trained to tell them from all else, and an
autoencoder's encoder knows where each of them lies. In a federation the server and every client
hold both halves, and without secure aggregation the server also sees what each client made of them.

The scores are those of the models themselves: `GenerativeModel.row_scores`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from genesis.codes import Codes
from genesis.errors import SchemaError, TrainingError
from genesis.evaluation.attacks import View, create_attack
from genesis.evaluation.membership import (
    LEVEL,
    MOST_TARGETS,
    Finding,
    check_people,
    judge,
    worst,
)
from genesis.evaluation.rows import Aligned, Rows, align
from genesis.federated.messages import Reply, Request
from genesis.federated.shard import Shard
from genesis.models import GenerativeModel, create_model, is_sum_model
from genesis.privacy.budget import Privacy

if TYPE_CHECKING:
    from genesis.synthesizer import Synthesizer

__all__ = ["SEES", "WhiteBox", "check_model", "white_box"]

Scores = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Those of members and those of non-members."""

FILE = "whoever holds the model file"
FEDERATION = "the server and every client of a federation"
SERVER = "the server of a federation without secure aggregation"

SEES = {
    "critic": FEDERATION,
    "reconstruction": FEDERATION,
    "elbo": FEDERATION,
    "likelihood": FILE,
    "log_likelihood": FILE,
    "nearest_draw": FILE,
}
"""Who can run an attack; the names of all that the server alone can begin with "single_update"."""

DRAWS = 20_000
"""Rows that are generated for "nearest_draw"."""

CLIENT_ROWS = 1_000
"""Members that the client of "single_update" trains on: few enough for it to take seconds."""

LOCAL_EPOCHS = 30
"""Passes over them in a round: those of a plan with 10 rounds and 300 epochs."""

ROUNDS = 10
"""Rounds that a client's promise must last for."""

EARLIER_ROUNDS = 2
"""Rounds that the server trained alone before it asked the client."""


@dataclass(frozen=True)
class WhiteBox:
    """What attacks on a model found.

    Args:
        attacks: Name -> what it found.
        worst: The attack on the model itself that found most: no "single_update".
        sees: Name -> who can run it.
        left_out: Why attacks that need the whole model were not run; None if they were.
        members: Number of members attacked.
        non_members: Number of non-members attacked.
        reference: Number of rows that the attackers compared with.
    """

    attacks: Mapping[str, Finding]
    worst: str
    sees: Mapping[str, str]
    left_out: str | None
    members: int
    non_members: int
    reference: int

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "attacks": {name: finding.to_dict() for name, finding in self.attacks.items()},
            "worst": self.worst,
            "sees": dict(self.sees),
            "left_out": self.left_out,
            "members": self.members,
            "non_members": self.non_members,
            "reference": self.reference,
        }


def white_box(
    model: Synthesizer,
    members: pd.DataFrame,
    non_members: pd.DataFrame,
    *,
    reference: pd.DataFrame | None = None,
    local_epochs: int = LOCAL_EPOCHS,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> WhiteBox:
    """Attack a model.

    ==================  ==========================================================================
    critic              A CTGAN's critic scores the row (Hayes et al. 2019, "LOGAN").
    reconstruction      How likely a TVAE's decoder makes the row from where its encoder puts it.
    elbo                A TVAE's training loss at the row, with its sign changed.
    likelihood          How likely a TVAE's decoder makes the row from anywhere.
    log_likelihood      How likely the row is under a model that is fitted from sums.
    nearest_draw        20,000 rows are generated; how much nearer is one of them than a row of the
                        reference (the attack "calibrated")?
    single_update_…     The server has trained on the reference, and sends its parameters to a
                        client. It scores the row by what the client answers, and once more by what
                        a client with the reference would have answered: the difference is what
                        *these* rows did. There is one for each of the model's scores. A client
                        of a model with a promise of privacy keeps the promise.
    ==================  ==========================================================================

    The first three need the whole model, which a model file does not hold. The last trains anew
    with the encoder and the config, and tells what a client would give away in *one* round of a
    federation like that: nothing about the model at hand.

    Without a reference, non-members are divided at random: half are attacked, half are the
    reference. At most 5,000 members and 5,000 non-members are attacked, by "single_update" 1,000
    members, and at most 5,000 rows are compared with. All intervals hold at once with 95 %
    confidence (Bonferroni).

    Args:
        model: The model, fitted in this process or loaded from a model file.
        members: Rows that it was trained on.
        non_members: Rows of the same population that it was not.
        reference: Other rows of the population that attackers have.
        local_epochs: Passes of the client over its rows.
        seed: Decides whatever is drawn.
        device: Where the client trains and distances are computed; the model stays where it is.

    Raises:
        SchemaError: The tables are not of the kind that the model was fitted on.
        DataError: There are too few members or non-members, or two tables overlap.
        PlanError: The model was not fitted.
    """
    targets, others, known = _divided(check_model(model, members, non_members, reference), seed)
    whole = model.complete
    scores = _model_scores(model, targets, others, seed, generator_only=not whole)
    scores["nearest_draw"] = _nearest_draw(model, targets, others, known, seed, device)
    left_out = None if whole else "the model holds its generator alone"
    if is_sum_model(model.method):
        left_out = "what one client's sums tell a server that sees them, without secure aggregation"
    else:
        server = _Server(model, local_epochs, seed, device)
        scores |= server.single_update(targets.first(CLIENT_ROWS), others, known.first(CLIENT_ROWS))
    level = 1 - (1 - LEVEL) / len(scores)
    attacks = {
        name: judge(ours, theirs, level=level, seed=seed) for name, (ours, theirs) in scores.items()
    }
    return WhiteBox(
        attacks=attacks,
        worst=worst({name: attacks[name] for name in attacks if name in SEES}),
        sees={name: SEES.get(name, SERVER) for name in attacks},
        left_out=left_out,
        members=len(targets),
        non_members=len(others),
        reference=len(known),
    )


@dataclass(frozen=True)
class _Table:
    """The same rows as a table and as numbers."""

    frame: pd.DataFrame
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: npt.NDArray[np.int64]) -> _Table:
        """The rows at some places."""
        return _Table(self.frame.iloc[places].reset_index(drop=True), self.rows.take(places))

    def first(self, n: int) -> _Table:
        """At most n rows: any, where the order is random."""
        return self.take(np.arange(min(n, len(self))))


def check_model(
    model: Synthesizer,
    members: pd.DataFrame,
    non_members: pd.DataFrame,
    reference: pd.DataFrame | None = None,
) -> Aligned:
    """The tables in the schema of a model.

    Args:
        model: The model.
        members: As `white_box`.
        non_members: As `white_box`.
        reference: As `white_box`.

    Raises:
        SchemaError: They have another one.
    """
    try:
        return align(
            {"members": members, "non_members": non_members, "reference": reference},
            schema=model.schema,
        )
    except SchemaError as error:
        raise SchemaError(
            f"the model was fitted on another table: {error.what}",
            got=error.got,
            do="give rows of the table that it was fitted on",
        ) from error


def _divided(aligned: Aligned, seed: int) -> tuple[_Table, _Table, _Table]:
    """Members and non-members to attack, and rows to compare with; each in random order."""
    check_people(
        aligned.rows["members"], aligned.rows["non_members"], aligned.rows.get("reference")
    )
    tables = {name: _Table(aligned.frames[name], rows) for name, rows in aligned.rows.items()}
    ours, theirs, known = tables["members"], tables["non_members"], tables.get("reference")
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(ours), len(theirs)]))
    others = theirs.take(rng.permutation(len(theirs)))
    targets = ours.take(rng.permutation(len(ours))).first(MOST_TARGETS)
    if known is not None:
        known = known.take(rng.permutation(len(known)))
    else:
        half = min(len(others) // 2, MOST_TARGETS)
        others, known = others.first(half), others.take(np.arange(half, len(others)))
    return targets, others.first(MOST_TARGETS), known.first(MOST_TARGETS)


def _model_scores(
    model: Synthesizer, targets: _Table, others: _Table, seed: int, *, generator_only: bool
) -> dict[str, Scores]:
    """What the model itself says of the rows."""
    codes = _encoded(model, targets, others, seed)
    return _scores(model.model, codes, len(targets), seed, generator_only=generator_only)


def _nearest_draw(
    model: Synthesizer,
    targets: _Table,
    others: _Table,
    reference: _Table,
    seed: int,
    device: str | torch.device,
) -> Scores:
    """How much nearer the rows are to something that the model generates than to other rows."""
    tables = {
        "members": targets.frame,
        "non_members": others.frame,
        "reference": reference.frame,
        "synthetic": model.generate(DRAWS, seed=seed),
    }
    rows = align(tables, schema=model.schema).rows
    both = Rows.concat([rows["members"], rows["non_members"]])
    view = View(rows["synthetic"], rows["reference"], both, seed=seed, device=device)
    scores = create_attack("calibrated").scores(view)
    return scores[: len(targets)], scores[len(targets) :]


@dataclass(frozen=True)
class _Server:
    """The server of a federation, that attacks one client in one round.

    Args:
        model: Its encoder and config are those of the federation.
        local_epochs: Of a round.
        seed: Decides what the server and the client draw.
        device: Where both train.
    """

    model: Synthesizer
    local_epochs: int
    seed: int
    device: str | torch.device

    def single_update(self, client: _Table, others: _Table, own: _Table) -> dict[str, Scores]:
        """Scores s(x; answer of the client) - s(x; answer of a client with the server's rows).

        Both answers are to the same parameters, those of a server that has trained on its own rows
        before: what any rows of the population would change cancels.
        """
        sent = self._answer(own, None, EARLIER_ROUNDS * self.local_epochs)
        promise = _promise_of(self.model)
        answers = [
            self._answer(client, sent, self.local_epochs, promise),
            self._answer(own, sent, self.local_epochs),
        ]
        codes = _encoded(self.model, client, others, self.seed)
        model = create_model(
            self.model.method, self.model.encoder.layout, self.model.config, device=self.device
        )
        scores = []
        for answer in answers:
            model.set_vector(torch.from_numpy(answer))
            scores.append(_scores(model, codes, len(client), self.seed))
        answered, expected = scores
        return {
            f"single_update_{name}": (ours - expected[name][0], theirs - expected[name][1])
            for name, (ours, theirs) in answered.items()
        }

    def _answer(
        self,
        table: _Table,
        sent: npt.NDArray[np.float32] | None,
        epochs: int,
        promise: Privacy | None = None,
    ) -> npt.NDArray[np.float32]:
        """Parameters (P,) that a client with these rows answers with, as over any transport."""
        shard = Shard("client", table.frame, device=self.device, privacy=promise)
        if promise is not None:
            schema = self.model.encoder.schema.to_dict()
            self._ask(shard, "labels", {"schema": schema, "known": True})
        self._ask(
            shard,
            "prepare",
            {
                "encoder": self.model.encoder.to_dict(),
                "method": self.model.method,
                "config": self.model.config,
                "seed": self.seed,
                "number": 0,
                "measures": [],
                "rounds": ROUNDS,
                "epochs": epochs,
            },
        )
        reply = self._ask(
            shard,
            "train",
            {
                "epochs": epochs,
                "learning_rate_scale": 1.0,
                "receive": None,
                "send": None,
                "max_grad_norm": None,
                "clip_per_layer": False,
                "used": False,
                "rounds": ROUNDS,
            },
            {} if sent is None else {"vector": sent},
        )
        return np.array(reply.arrays["vector"], dtype=np.float32)

    @staticmethod
    def _ask(
        shard: Shard,
        kind: str,
        meta: Mapping[str, Any],
        arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Reply:
        """What a client replies."""
        reply = shard.handle(Request(kind, meta=meta, arrays=arrays or {}))
        if reply.error:
            raise TrainingError("the client of the single-update attack failed", got=reply.error)
        return reply


def _promise_of(model: Synthesizer) -> Privacy | None:
    """What every client of the federation promised that the model comes from, if they all did."""
    report = model.privacy
    if report is None or report["epsilon"] is None or report["unit"] != "record":
        return None
    promises = [client["promise"] for client in report["clients"].values()]
    weakest = max(promises, key=lambda promise: promise["epsilon"])
    return Privacy.parse({"differential_privacy": weakest})


def _encoded(model: Synthesizer, targets: _Table, others: _Table, seed: int) -> Codes:
    """Targets, then others, as the model's codes."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    table = pd.concat([targets.frame, others.frame], ignore_index=True)
    return model.encoder.encode(table, rng)


def _scores(
    model: GenerativeModel, codes: Codes, n: int, seed: int, *, generator_only: bool = False
) -> dict[str, Scores]:
    """A model's scores of the first n rows, and of the others."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    scores = model.row_scores(codes, rng, generator_only=generator_only)
    return {name: (each[:n], each[n:]) for name, each in scores.items()}
