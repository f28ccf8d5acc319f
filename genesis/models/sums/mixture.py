"""A mixture of products: within a component, to which a row belongs, columns are independent.

    p(x) = Σ_k w_k Π_j θ_jk(x_j)

All that one may ask of it has a closed form: the chance of a row, rows that satisfy a condition,
what is missing of a row. `mixture_fit` fits it by expectation-maximisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genesis.codes import Codes, Condition, Layout
from genesis.errors import ConditionError, FederationError, GenesisError
from genesis.models.config import flag, number, option, optional, parse, whole
from genesis.models.parameters import ParameterLayout
from genesis.models.sums import Budget, Question, SumFit
from genesis.models.sums.rows import MOST_GROUPS, UNIT, SumRows, are_groups

if TYPE_CHECKING:
    from genesis.privacy.sums import Release

__all__ = ["Mixture", "MixtureConfig", "expectations", "logarithms"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_NO_SCALARS = np.empty((0, 0), dtype=np.float32)
LOGLIK = 1e4  # a row's log-likelihood counts as no lower than minus this
TINY = 1e-30  # of what logarithms are taken of


@dataclass(frozen=True)
class MixtureConfig:
    """Choices of a mixture.

    Args:
        components: Components, at most; None for one for every 95 rows, from 16 to 600. The fit
            leaves out those that come to nothing.
        smoothing: How strongly components are drawn in to the table's frequencies, as a multiple of
            what their likelihood says; at least 0. Less fits closer and remembers more of the rows.
        restarts: Starts, of which the one of the best penalised likelihood is gone on with; None
            for 3 on fewer than 5,000 rows and else 1.
        groups: Parts that a pass over the rows is divided in, with new parameters after each; None
            for one for every 2,000 rows, up to 8. The last passes are never divided.
        epochs: For the caller: passes over the rows.
        verbose: For the caller: whether progress is shown.
    """

    components: int | None = option(None, optional(whole(1)))
    smoothing: float = option(1.0, number(0.0))
    restarts: int | None = option(None, optional(whole(1)))
    groups: int | None = option(None, optional(whole(1, MOST_GROUPS)))
    epochs: int = option(20, whole(1))
    verbose: bool = option(False, flag)


class Mixture:
    """A mixture of products over the blocks of a layout.

    Args:
        layout: Layout of the encoded rows.
        config: See `MixtureConfig`. Without a number of components it has one.
        device: Where expectations are computed.
        seed: Unused: a mixture starts as the released frequencies.
        frequencies: (S,) released counts of every code of every block.

    Raises:
        PlanError: The config is impossible.
    """

    name: ClassVar[str] = "mixture"
    losses: ClassVar[tuple[str, ...]] = ("negative_log_likelihood", "components")
    grid: ClassVar[int] = 128
    private: ClassVar[bool] = True
    private_gradients: ClassVar[str] = "no gradients, but sums over the rows"
    batch_multiple = 1

    def __init__(
        self,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        frequencies: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.config = self.parsed(config)
        self.layout, self.device = layout, torch.device(device)
        n, k = sum(layout.block_widths), self.config.components or 1
        self.parameters = ParameterLayout({"generator.weights": (k,), "generator.tables": (n, k)})
        counts = np.ones(n) if frequencies is None else np.maximum(frequencies, 0)
        shares = torch.cat([_shares(part) for part in self._blocks(torch.from_numpy(counts))])
        start = torch.cat([torch.full((k,), 1 / k), shares[:, None].expand(n, k).reshape(-1)])
        self._weights, self._tables = torch.empty(0), torch.empty(0)
        self.set_vector(start.float())

    @classmethod
    def parsed(cls, config: Mapping[str, Any]) -> Any:
        """All choices of a config.

        Raises:
            PlanError: It is impossible.
        """
        return parse(MixtureConfig, config, cls.name)

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Raise PlanError for a config that the model would refuse."""
        cls.parsed(config)

    @classmethod
    def releases(
        cls,
        layout: Layout,  # noqa: ARG003 - of the protocol
        config: Mapping[str, Any],
    ) -> tuple[Release, ...]:
        """A pass each: see `private_mixture_fit`."""
        from genesis.models.sums.private_mixture_fit import private_releases

        return private_releases(cls.parsed(config))

    @classmethod
    def fit(
        cls,
        layout: Layout,
        config: Mapping[str, Any],
        *,
        rows: int,
        frequencies: npt.NDArray[np.float64],
        n_rounds: int,
        seed: int,
        device: str | torch.device = "cpu",
        budget: Budget | None = None,
    ) -> SumFit:
        """Begin to fit a mixture: see `SumModel.fit`."""
        from genesis.models.sums.mixture_fit import MixtureFit
        from genesis.models.sums.private_mixture_fit import PrivateMixtureFit

        choices: dict[str, Any] = {
            "rows": rows,
            "frequencies": torch.as_tensor(frequencies, dtype=torch.float64),
            "seed": seed,
            "device": torch.device(device),
        }
        if budget is not None:
            return PrivateMixtureFit(layout, cls.parsed(config), **choices, budget=budget)
        return MixtureFit(layout, cls.parsed(config), **choices, n_rounds=n_rounds)

    @classmethod
    def answer(cls, rows: SumRows, question: Question) -> Integers:
        """Expected counts: of every code in every component, of components; likelihood; rows.

        The responsibilities of one row, r_k = w_k Π_j θ_jk(x_j) / p(x), are rounded down to
        multiples of `UNIT`. Its logarithm of p(x) is rounded to them.
        """
        from genesis.models.sums.private_mixture_fit import EXPECT_PRIVATELY, private_answer

        if question.kind == EXPECT_PRIVATELY:
            return private_answer(rows, question)
        n = sum(rows.layout.block_widths)
        k, rest = divmod(question.size - 2, n + 1)
        shapes = {name: array.shape for name, array in question.arrays.items()}
        group, groups = question.meta.get("group"), question.meta.get("groups")
        if (
            question.kind != "expect"
            or rest
            or shapes != {"weights": (k,), "tables": (n, k)}
            or not are_groups(group, groups)
        ):
            raise FederationError(
                f"a question that is none of {cls.name}'s",
                do="give server and clients the same version",
            )
        tables, weights = question.arrays["tables"], question.arrays["weights"]
        log_tables, log_weights = logarithms(tables, weights, rows.device)
        counts = torch.zeros(n, k, dtype=torch.int64, device=rows.device)
        members = torch.zeros(k, dtype=torch.int64, device=rows.device)
        block = torch.empty(n + 1, k, device=rows.device)
        likelihood = seen = 0
        for places in rows.blocks(question.meta["group"], question.meta["groups"]):
            logs, shares = expectations(places, log_tables, log_weights)
            shares = shares.div_(UNIT).floor_()
            block.zero_()
            for column in places.unbind(1):
                block.index_add_(0, column, shares)
            counts += block[:n].long()
            members += shares.sum(0).long()
            likelihood += int((logs.clamp(min=-LOGLIK) / UNIT).round().long().sum())
            seen += len(places)
        return np.concatenate(
            [counts.cpu().numpy().ravel(), members.cpu().numpy(), [likelihood, seen]]
        )

    # --- parameters ---

    def get_vector(self) -> Tensor:
        """All parameters: a copy, (P,) on the CPU."""
        return torch.cat([self._weights, self._tables.reshape(-1)]).cpu().clone()

    def set_vector(self, vector: Tensor) -> None:
        """Replace all parameters by vector (P,).

        Raises:
            GenesisError: The vector has another size, or is no distribution.
        """
        if vector.shape != (self.parameters.size,):
            raise GenesisError(
                f"{self.name} has {self.parameters.size} parameters in one vector",
                got=f"shape {tuple(vector.shape)}",
                do="build both sides from the same encoder and config",
            )
        found = self.parameters.views(vector.detach().to(torch.float32).cpu().clone())
        if (
            not vector.isfinite().all()
            or (vector < 0).any()
            or not found["generator.weights"].any()
        ):
            raise GenesisError(f"parameters of {self.name} that are no chances")
        self._weights, self._tables = found["generator.weights"], found["generator.tables"]

    def _blocks(self, table: Tensor) -> tuple[Tensor, ...]:
        """The rows of a table (S, …) that belong to each block."""
        return table.split_with_sizes(list(self.layout.block_widths))

    # --- what it says of rows ---

    def row_scores(
        self, rows: Codes, rng: np.random.Generator, *, generator_only: bool = False
    ) -> dict[str, Floats]:
        """The logarithm of every row's chance: "log_likelihood" -> (n,)."""
        logs = [
            expectations(places, *logarithms(self._tables, self._weights, self.device))[0]
            for places in SumRows(self.layout, rows, self.device).blocks()
        ]
        found = torch.cat([*logs, torch.zeros(0, device=self.device)])
        return {"log_likelihood": found.double().cpu().numpy()}

    def generate(self, n: int, condition: Condition | None, rng: np.random.Generator) -> Codes:
        """Generate n rows; among those that satisfy a condition, each as often as without it.

        Sampling is systematic: components, and codes within a component, come as often as they
        should to within one row, and are paired at random.

        Raises:
            ConditionError: No row can satisfy the condition.
        """
        evidence = {} if condition is None else condition.evidence(self.layout)
        weights, tables = self._given(evidence)
        members = _systematic(weights[:, None], n, rng.random(1))[:, 0]
        component = np.repeat(np.arange(len(weights)), members).astype(np.uint16)
        codes = np.empty((n, self.layout.n_blocks), dtype=np.int32)
        starts = rng.random((len(tables), len(weights)))
        for block, table in enumerate(tables):
            counts = _systematic(table, members, starts[block])
            drawn = np.repeat(np.tile(np.arange(len(table)), len(weights)), counts.T.ravel())
            # A random order within every component: a stable sort of a random one.
            order = rng.permutation(n)
            order = order[np.argsort(component[order], kind="stable")]
            codes[order, block] = drawn
        codes = codes[rng.permutation(n)]
        scalars = rng.random((n, self.layout.n_scalars), dtype=np.float32) * 2 - 1
        return Codes(scalars, codes)

    def _given(self, evidence: Mapping[int, Floats]) -> tuple[Floats, list[Floats]]:
        """Weights (K,) and tables (width, K) among rows of which evidence is known.

        Raises:
            ConditionError: There are none.
        """
        weights = self._weights.double().numpy()
        tables = [block.double().numpy() for block in self._blocks(self._tables)]
        logs = np.log(np.maximum(weights, TINY))
        for block, shares in evidence.items():
            tables[block] = tables[block] * shares[:, None]
            total = tables[block].sum(0)
            logs += np.log(np.maximum(total, TINY))
            weights = weights * (total > 0)
            tables[block] = tables[block] / np.where(total > 0, total, 1)
        if not weights.any():
            blocks = ", ".join(map(str, evidence))
            raise ConditionError(f"no row can satisfy the conditions on blocks {blocks} together")
        weights = np.where(weights > 0, np.exp(logs - logs[weights > 0].max()), 0.0)
        return weights / weights.sum(), tables

    def complete(
        self,
        codes: npt.NDArray[np.int32],
        allowed: Mapping[int, npt.NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.int32]:
        """Fill the unknown codes of rows: see `SumModel.complete`."""
        filled = codes.copy()
        tables = []
        for block, table in enumerate(self._blocks(self._tables)):
            mask = torch.as_tensor(allowed.get(block, np.ones(len(table), dtype=bool)))
            tables.append(table.double() * mask[:, None])
        possible = torch.stack([table.sum(0) for table in tables]).clamp(min=TINY).log()
        log_tables, log_weights = logarithms(self._tables, self._weights, torch.device("cpu"))
        cumulative = [torch.cumsum(table, 0).T.contiguous().numpy() for table in tables]
        start = 0
        for places in SumRows(self.layout, Codes(_NO_SCALARS, codes)).blocks():
            unknown = torch.from_numpy(codes[start : start + len(places)] < 0)
            logs = _row_logs(places, log_tables, log_weights)
            logs = logs.double() + unknown.double() @ possible
            shares = torch.softmax(logs, 1).numpy()
            component = _draw(np.cumsum(shares, 1), rng)
            for block in range(self.layout.n_blocks):
                rows = np.flatnonzero(unknown[:, block].numpy())
                drawn = _draw(cumulative[block][component[rows]], rng)
                filled[start + rows, block] = drawn
            start += len(places)
        return filled


def _shares(counts: Tensor) -> Tensor:
    """Counts as frequencies."""
    total = counts.sum()
    return counts / total if total > 0 else torch.full_like(counts, 1 / max(len(counts), 1))


def logarithms(
    tables: Tensor | npt.NDArray[Any], weights: Tensor | npt.NDArray[Any], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logarithms (S + 1, K) and (K,); the last row is that of an unknown code."""
    table = torch.as_tensor(tables, device=device).clamp(min=TINY).log()
    unknown = table.new_zeros(1, table.shape[1])
    return torch.cat([table, unknown]), torch.as_tensor(weights, device=device).clamp(TINY).log()


def _row_logs(places: Tensor, log_tables: Tensor, log_weights: Tensor) -> Tensor:
    """ln w_k Π_j θ_jk(x_j) of rows: (b, K)."""
    # Each row of the sum is added up by itself, so that it does not depend on the rows around it.
    return torch.nn.functional.embedding_bag(places, log_tables, mode="sum").add_(log_weights)


def expectations(places: Tensor, log_tables: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """ln p(x) of rows (b,), and their responsibilities (b, K)."""
    logs = _row_logs(places, log_tables, log_weights)
    return torch.logsumexp(logs, 1), torch.softmax(logs, 1)


def _systematic(shares: Floats, n: int | Integers, start: Floats) -> Integers:
    """Whole numbers near n times shares (m, …) that add up to n, each off by less than one.

    Points a step apart are laid over the cumulative shares, beginning at a random place (Madow and
    Madow 1944); start in [0, 1) has the shape of n.
    """
    ends = np.cumsum(shares, axis=0)
    last = np.where(ends[-1] > 0, ends[-1], 1)
    ends = np.floor(ends / last * n + start)
    ends[-1] = n
    return np.diff(np.minimum(ends, n), axis=0, prepend=0).astype(np.int64)


def _draw(cumulative: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(n,) draws, one from each row of cumulative weights (n, m)."""
    drawn = rng.random(len(cumulative)) * cumulative[:, -1]
    places: npt.NDArray[np.int64] = (cumulative <= drawn[:, None]).sum(1)
    return places.clip(max=cumulative.shape[1] - 1)
