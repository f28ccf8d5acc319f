"""Rounded changes have the mean that they stand for, and their sum never overflows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis.codes import Codes, Layout
from genesis.errors import FederationError
from genesis.federated.secagg.quantise import Quantiser, first_exponents
from genesis.models import LocalTraining, create_model

BITS = (24, 32)
LARGEST = {bits: 2 ** (bits - 1) - 1 for bits in BITS}
BELOW_ONE = 1 - 2.0**-53

Change = npt.NDArray[np.float32]


class Rounding:
    """A generator whose every number is the same, so that all round the same way."""

    def __init__(self, uniform: float) -> None:
        self._uniform = uniform

    def random(self, *, out: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        out[:] = self._uniform
        return out


ALL_UP: Any = Rounding(BELOW_ONE)
ALL_DOWN: Any = Rounding(0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def signed(encoded: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    return encoded.view(np.int32).astype(np.int64)


def add_up(
    quantiser: Quantiser, changes: list[Change], shares: list[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The mean of changes as the server gets it, through the ring, and the counters."""
    total = np.zeros(quantiser.length, dtype=np.uint32)
    weight, counts = 0, np.zeros(len(quantiser.sizes), dtype=np.int64)
    for client, (change, share) in enumerate(zip(changes, shares, strict=True)):
        encoded, clipped = quantiser.encode(change, share, rng(client))
        total += encoded
        weight += quantiser.share_slot(share)
        counts += clipped
    unused = 32 - quantiser.bits  # of the ring's bits, which do not travel
    total = (total << np.uint32(unused)).view(np.int32) >> unused
    return quantiser.decode(total.astype(np.int64)) / quantiser.shares(weight), counts


def mean_of(changes: list[Change], shares: list[float]) -> npt.NDArray[np.float64]:
    return np.average(np.stack(changes).astype(np.float64), axis=0, weights=shares)


def relative_rmse(found: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((found - true) ** 2) / np.mean(true**2)))


def drawn_shares(clients: int, seed: int) -> list[float]:
    rows = rng(seed).integers(1, 10_000, clients)
    return [int(n) / int(rows.sum()) for n in rows]


# Rounding.


@given(
    bits=st.sampled_from(BITS),
    clients=st.integers(1, 200),
    exponent=st.integers(-24, 12),
    share=st.floats(0, 1),
    numbers=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_a_number_becomes_one_of_its_two_neighbours(
    bits: int, clients: int, exponent: int, share: float, numbers: list[float], seed: int
) -> None:
    quantiser = Quantiser(bits, clients, [len(numbers)], [exponent])
    change = np.ldexp(np.array(numbers, dtype=np.float32), exponent)
    encoded, clipped = quantiser.encode(change, share, rng(seed))
    assert not clipped.any()
    scale = Fraction(LARGEST[bits] - clients) / Fraction(2) ** exponent
    part = Fraction(math.floor(Fraction(share) * 2 ** (bits - 2)), 2 ** (bits - 2))
    for number, code in zip(change, signed(encoded), strict=True):
        exact = Fraction(float(number)) * part * scale
        assert abs(int(code) - exact) <= 1 + Fraction(1, 2**20)  # floating point, of 2^31


@pytest.mark.parametrize("bits", BITS)
def test_rounding_is_right_on_average(bits: int) -> None:
    n = 200_000
    quantiser = Quantiser(bits, 10, [n], [0])
    for target in (0.5, -0.25, 3.9, -1000.125):
        change = np.full(n, target / (LARGEST[bits] - 10) * 4, dtype=np.float32)
        exact = float(change[0]) * (LARGEST[bits] - 10) / 4
        codes = signed(quantiser.encode(change, 0.25, rng(7))[0])
        assert set(codes) == {math.floor(exact), math.floor(exact) + 1}
        chance = exact - math.floor(exact)
        assert abs(codes.mean() - exact) < 6 * math.sqrt(chance * (1 - chance) / n)
    # And what always rounds to the nearest would be found out.
    change = np.full(n, 0.25 / (LARGEST[bits] - 10), dtype=np.float32)
    nearest: Any = Rounding(0.5)
    assert signed(quantiser.encode(change, 1.0, nearest)[0]).mean() == 0


def test_large_numbers_are_not_rounded_before_they_are_rounded() -> None:
    """In float32 they would be by up to 64 of the 2^31 steps, the same at every client."""
    quantiser = Quantiser(32, 3, [1000], [0])
    change = rng(1).uniform(0.5, 1, 1000).astype(np.float32)
    exact = change.astype(np.float64) * (LARGEST[32] - 3)
    assert np.abs(signed(quantiser.encode(change, 1.0, rng(2))[0]) - exact).max() <= 1
    share = 0.3
    exact *= quantiser.shares(quantiser.share_slot(share))
    assert np.abs(signed(quantiser.encode(change, share, rng(2))[0]) - exact).max() <= 1


def test_neighbouring_numbers_round_independently() -> None:
    n = 100_000  # several chunks
    quantiser = Quantiser(24, 3, [n], [0])
    change = np.full(n, 0.5 / (LARGEST[24] - 3), dtype=np.float32)
    codes = signed(quantiser.encode(change, 1.0, rng(3))[0]).astype(np.float64)
    for lag in (1, 2, 2**15):
        assert abs(np.corrcoef(codes[:-lag], codes[lag:])[0, 1]) < 6 / math.sqrt(n - lag)


# Sums.


@given(
    bits=st.sampled_from(BITS),
    clients=st.integers(3, 12),
    tensors=st.lists(st.tuples(st.integers(0, 30), st.integers(-24, 12)), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_the_sum_is_the_weighted_mean_of_those_who_are_left(
    bits: int,
    clients: int,
    tensors: list[tuple[int, int]],
    seed: int,
    data: st.DataObject,
) -> None:
    sizes, exponents = zip(*tensors, strict=True)
    quantiser = Quantiser(bits, clients, sizes, exponents)
    clip = np.repeat(2.0 ** np.array(exponents), sizes)
    draw = rng(seed)
    changes = [np.float32(clip * draw.uniform(-1.5, 1.5, quantiser.length)) for _ in range(clients)]
    shares = drawn_shares(clients, seed)
    left = sorted(data.draw(st.sets(st.integers(0, clients - 1), min_size=1)))
    changes, shares = [changes[i] for i in left], [shares[i] for i in left]
    found, counts = add_up(quantiser, changes, shares)
    clipped = [np.float32(change.clip(-clip, clip)) for change in changes]
    weights = [float(quantiser.share_slot(share)) for share in shares]
    step = clip / (LARGEST[bits] - clients) / quantiser.shares(int(sum(weights)))
    assert (np.abs(found - mean_of(clipped, weights)) <= step * (len(left) + 1e-6)).all()
    beyond = np.sum([np.abs(change) > clip for change in changes], axis=0)
    ends = np.cumsum(sizes)[:-1]
    assert counts.tolist() == [part.sum() for part in np.split(beyond, ends)]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("clients", [3, 100])
@pytest.mark.parametrize("shares", ["equal", "by rows", "on the grid"])
@pytest.mark.parametrize("rounding", [ALL_UP, ALL_DOWN])
@pytest.mark.parametrize("sign", [-1, 1])
def test_no_sum_overflows(bits: int, clients: int, shares: str, rounding: Any, sign: int) -> None:
    lowest, highest = furthest_sums(bits, clients, shares, rounding, sign)
    assert -LARGEST[bits] <= lowest <= highest <= LARGEST[bits]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("rounding", "sign"), [(ALL_UP, 1), (ALL_DOWN, -1)])
def test_without_room_for_rounding_a_sum_would_overflow(
    bits: int, rounding: Any, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quantiser, "_range", property(lambda self: self._largest))
    lowest, highest = furthest_sums(bits, 100, "on the grid", rounding, sign)
    assert max(-lowest, highest) > LARGEST[bits]


def furthest_sums(bits: int, clients: int, kind: str, rounding: Any, sign: int) -> tuple[int, int]:
    """The lowest and highest number when all change by their clips or more, without a ring."""
    quantiser = Quantiser(bits, clients, [2, 1], [-24, 12])
    change = sign * np.float32([2.0**-24, 3e38, 2.0**12])
    sums = []
    for seed in range(10):
        if kind == "equal":
            shares = [1 / clients] * clients
        elif kind == "by rows":
            shares = drawn_shares(clients, seed)
        else:  # no share is rounded down, so they add up to 1
            grid = 2 ** (bits - 2)
            drawn = rng(seed).multinomial(grid, rng(seed).dirichlet(np.ones(clients)))
            shares = [int(part) / grid for part in drawn]
        codes = [signed(quantiser.encode(change, share, rounding)[0]) for share in shares]
        sums.append(np.sum(codes, axis=0))
    return int(np.min(sums)), int(np.max(sums))


@pytest.mark.parametrize("bits", BITS)
def test_equal_changes_have_themselves_as_mean(bits: int) -> None:
    """Whoever is left and however shares were rounded: their rounding is divided out."""
    clients = 100
    quantiser = Quantiser(bits, clients, [500], [0])
    change = rng(4).uniform(-1, 1, 500).astype(np.float32)
    for left in (100, 67, 3):
        found, _ = add_up(quantiser, [change] * left, drawn_shares(clients, 5)[:left])
        together = sum(drawn_shares(clients, 5)[:left])
        assert np.abs(found - change).max() < 3 * math.sqrt(left) / LARGEST[bits] / together


@pytest.mark.parametrize(("bits", "target"), [(32, 5e-6), (24, 1e-4)])
def test_the_mean_is_precise(bits: int, target: float) -> None:
    """For changes without anything in common, of which the mean is small: the hardest ones."""
    n, clients = 50_000, 10
    changes = [rng(k).normal(0, 3e-3, n).astype(np.float32) for k in range(clients)]
    shares = drawn_shares(clients, 6)
    true = mean_of(changes, shares)
    exponents = first_exponents(bits, 2e-4, 100, 1)
    for _ in range(3):
        quantiser = Quantiser(bits, clients, [n], exponents)
        found, counts = add_up(quantiser, changes, shares)
        assert not counts.any()
        assert relative_rmse(found, true) < target
        exponents = quantiser.next_exponents(found, counts)


@pytest.mark.parametrize(("bits", "target"), [(32, 5e-6), (24, 1e-4)])
@pytest.mark.parametrize(
    ("method", "config", "rate"),
    [
        ("ctgan", {"generator_dim": [32, 32], "discriminator_dim": [32]}, 2e-4),
        ("tvae", {"compress_dims": [32], "decompress_dims": [32]}, 1e-3),
    ],
)
def test_the_mean_of_trained_models_is_precise(
    method: str, config: dict[str, Any], rate: float, bits: int, target: float
) -> None:
    clients, steps, rounds = 4, 6, 3
    layout = Layout((4, 3), (3, 5, 2))
    model = create_model(method, layout, config, seed=1)
    sizes = [math.prod(shape) for shape in model.parameters.shapes.values()]
    shares = drawn_shares(clients, 8)
    vector = model.get_vector()
    exponents = first_exponents(bits, rate, steps, len(sizes))
    for round in range(rounds):
        changes = []
        for client in range(clients):
            model.set_vector(vector)
            model.load_optimiser_state({})
            local = LocalTraining(2, 50, (1, client), first_epoch=2 * round)
            model.train(some_rows(layout, 150, client), local)
            changes.append((model.get_vector() - vector).numpy())
        quantiser = Quantiser(bits, clients, sizes, exponents)
        found, counts = add_up(quantiser, changes, shares)
        assert not counts.any()
        assert relative_rmse(found, mean_of(changes, shares)) < target
        exponents = quantiser.next_exponents(found, counts)
        vector = vector + torch.from_numpy(found).float()


def some_rows(layout: Layout, n: int, seed: int) -> Codes:
    """Rows whose categories are uneven, in another way at every client."""
    draw = rng(seed)
    scalars = draw.uniform(-0.9, 0.9, (n, layout.n_scalars)).astype(np.float32)
    power = 1 + seed
    codes = [(draw.random(n) ** power * width).astype(np.int32) for width in layout.block_widths]
    return Codes(scalars, np.stack(codes, axis=1))


# What is refused.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 40_000, 40_009])
def test_numbers_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    quantiser = Quantiser(32, 3, [1, 40_000, 0, 9], [0, 0, 0, 0])
    change = np.zeros(quantiser.length, dtype=np.float32)
    change[place] = bad
    with pytest.raises(FederationError, match=r"^its update holds values that are not finite$"):
        quantiser.encode(change, 0.5, rng())


def test_a_change_of_another_length_is_refused() -> None:
    with pytest.raises(FederationError, match="another length"):
        Quantiser(32, 3, [4], [0]).encode(np.zeros(5, dtype=np.float32), 0.5, rng())


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_share_is_refused(share: float) -> None:
    quantiser = Quantiser(32, 3, [1], [0])
    calls: list[Callable[[], object]] = [
        lambda: quantiser.encode(np.zeros(1, dtype=np.float32), share, rng()),
        lambda: quantiser.share_slot(share),
        lambda: quantiser.fixed(1.0, 1.0, share),
    ]
    for call in calls:
        with pytest.raises(FederationError, match="share of the rows") as caught:
            call()
        assert not re.search(r"\d\.\d", str(caught.value))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 16},
        {"bits": 64},
        {"clients": 0},
        {"clients": 2**16 + 1},
        {"exponents": [0]},
        {"exponents": [0, 13]},
        {"exponents": [0, -25]},
        {"exponents": [0, 0.5]},
        {"exponents": [0, math.nan]},
    ],
)
def test_nonsense_from_the_server_is_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"bits": 32, "clients": 3, "sizes": [2, 3], "exponents": [0, 0]}
    Quantiser(**right)
    with pytest.raises(FederationError, match="makes no sense"):
        Quantiser(**(right | wrong))


# Slots beside the change.


@given(
    bits=st.sampled_from(BITS),
    rows=st.lists(st.integers(1, 10**7), min_size=1, max_size=200),
)
def test_shares_never_add_up_to_more_than_one(bits: int, rows: list[int]) -> None:
    quantiser = Quantiser(bits, len(rows), [], [])
    slots = [quantiser.share_slot(n / sum(rows)) for n in rows]
    assert sum(slots) <= 2 ** (bits - 2)
    assert 0 <= 1 - quantiser.shares(sum(slots)) < len(rows) / 2 ** (bits - 2) + 1e-9


@given(
    bits=st.sampled_from(BITS),
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=100),
    bound=st.sampled_from([1.0, 100.0, 1e6]),
    seed=st.integers(0, 1000),
)
def test_means_of_metrics(bits: int, values: list[float], bound: float, seed: int) -> None:
    clients = len(values)
    quantiser = Quantiser(bits, clients, [], [])
    shares = drawn_shares(clients, seed)
    total = sum(
        int(np.uint32(quantiser.fixed(value, bound, share)).view(np.int32))
        for value, share in zip(values, shares, strict=True)
    )
    assert abs(total) <= LARGEST[bits]
    weights = [quantiser.share_slot(share) for share in shares]
    counted = np.clip(np.nan_to_num(values, posinf=bound, neginf=-bound), -bound, bound)
    exact = float(counted @ np.array(weights)) / 2 ** (bits - 2)
    step = bound / (LARGEST[bits] - clients)
    assert abs(quantiser.unfixed(total, bound) - exact) <= (0.5 + 1e-6) * clients * step


@pytest.mark.parametrize("bits", BITS)
def test_counters_never_overflow(bits: int) -> None:
    for clients in (3, 100, 2**16):
        quantiser = Quantiser(bits, clients, [1, 1, 1], [0, 0, 0])
        slots = quantiser.counter_slots(np.array([0, 1, 2**40]))
        assert slots.dtype == np.uint32
        assert slots[:2].tolist() == [0, 1]
        assert 0 < int(slots[2]) * clients <= LARGEST[bits]


# Exponents.


def test_clips_follow_what_the_sums_show() -> None:
    before = [0, 0, 0, 0, 0, 11, -24]
    quantiser = Quantiser(24, 3, [2, 1, 1, 1, 0, 1, 1], before)
    change = np.array([0.0, -3.0, 1e-9, 1e-9, 1 / 16, 1e6, 0.0])
    counts = np.array([0, 0, 5, 0, 0, 1, 0])
    #        16 · 3 = 48, one down, two up, exactly 1 and one down, no numbers, the most, the least
    expected = [6, -1, 2, 0, -1, 12, -24]
    assert quantiser.next_exponents(change, counts) == expected


def test_a_clip_that_is_too_small_opens_within_a_few_rounds() -> None:
    changes = [rng(k).normal(0, 1, 1000).astype(np.float32) for k in range(4)]
    exponents, rounds = [-10], 0
    while True:
        quantiser = Quantiser(24, 4, [1000], exponents)
        found, counts = add_up(quantiser, changes, [0.25] * 4)
        if not counts.any():
            break
        exponents, rounds = quantiser.next_exponents(found, counts), rounds + 1
    assert rounds <= 4
    assert np.abs(found - mean_of(changes, [1.0] * 4)).max() < 1e-4


@given(rate=st.floats(1e-8, 1e3), steps=st.integers(1, 10**6))
def test_the_first_clip_has_room_for_all_steps(rate: float, steps: int) -> None:
    assert first_exponents(32, rate, steps, 3) == [2, 2, 2]
    (exponent,) = first_exponents(24, rate, steps, 1)
    assert -24 <= exponent <= 2
    if -24 < exponent < 2:
        assert 2.0 ** (exponent - 1) < 4 * rate * steps <= 2.0**exponent
