"""The union of the clients' labels comes out of sums, or an error does; and nothing else."""

from __future__ import annotations

import base64
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from genesis.errors import FederationError
from genesis.federated import secure_labels
from genesis.federated.secagg import labels as sketches
from genesis.federated.secagg.labels import (
    LONGEST_TEXT,
    MOST_LABELS,
    MOST_TEXT,
    FoundKeys,
    LabelSketch,
    UnreadableLabelsError,
    keys_of,
    read_lengths,
    texts_of,
    written,
)
from genesis.federated.secure_labels import LABEL_SUMS, OwnLabels, union_of_labels
from genesis.values import Label

Labels = Mapping[str, Sequence[Label]]
Change = Callable[[str, npt.NDArray[np.uint64]], npt.NDArray[np.uint64]]

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=9)  # with lone surrogates
ANY_LABEL = (
    ANY_TEXT
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
OWN = st.dictionaries(ANY_TEXT, st.lists(ANY_LABEL, max_size=6), max_size=3)
CLIENTS = st.lists(OWN, min_size=1, max_size=5)
FEW: list[Labels] = [
    {"town": ["Ulm", "Köln", 7], "fit": [True, False]},
    {"town": ["Ulm", "a longer name", "7"]},
    {"town": ["Ulm", 7.5], "fit": [True]},
    {},
]


def as_is(_: str, total: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return total


class Federation:
    """Clients whose vectors are added up, and what was asked of them."""

    def __init__(self, clients: Sequence[Labels], change: Change = as_is) -> None:
        self.clients, self.change = [OwnLabels(each) for each in clients], change
        self.asked: list[str] = []
        self.totals: list[bytes] = []

    def total(self, kind: str, meta: Mapping[str, Any], length: int) -> npt.NDArray[np.int64]:
        total = np.zeros(length, dtype=np.uint64)
        for client in self.clients:
            vector = client.vector(kind, meta)
            assert (vector.dtype, vector.shape) == (np.uint64, (length,))
            total += vector
        self.asked.append(kind)
        self.totals.append(total.tobytes())
        return self.change(kind, total).view(np.int64)

    def union(self) -> dict[str, list[Label]]:
        return union_of_labels(self.total, len(self.clients))


def typed(labels: Labels) -> set[tuple[str, str]]:
    """1, 1.0 and True are three labels, and -0.0 is not 0.0."""
    return {(column, repr(label)) for column in labels for label in labels[column]}


def keys(n: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    found = np.unique(np.random.default_rng(seed).integers(0, 2**48, n, dtype=np.uint64))
    assert len(found) == n
    return found


@pytest.fixture
def same_salts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", bytes)


# --- what comes out ---


@given(CLIENTS)
@example([{}])
@example([{"a": [1, 1.0, True, "1", "true", -0.0, 0.0, 0, ""]}, {"a": ["\ud83d\ude00", "😀"]}])
def test_the_union_comes_back_with_its_types(clients: list[Labels]) -> None:
    union = Federation(clients).union()
    assert typed(union) == set().union(*map(typed, clients))
    assert all(len(known) == len(typed({"": known})) for known in union.values())
    assert all(union.values())


@settings(max_examples=30)
@given(CLIENTS, st.randoms())
def test_the_order_is_not_that_of_the_clients(clients: list[Labels], random: Any) -> None:
    other = list(clients)
    random.shuffle(other)
    first, second = Federation(clients).union(), Federation(other).union()
    assert repr(first) == repr(second)


@pytest.mark.usefixtures("same_salts")
@settings(max_examples=25)
@given(st.lists(st.sets(st.integers(0, 99)), min_size=2, max_size=5), st.randoms())
def test_sums_tell_no_more_than_at_how_many_clients_a_label_is(
    held: list[set[int]], random: Any
) -> None:
    """Two worlds: each label is at as many clients, at whichever."""
    others: list[list[int]] = [[] for _ in held]
    for label, count in Counter(label for own in held for label in own).items():
        for client in random.sample(others, count):
            client.append(label)
    first = Federation([{"a": sorted(own)} for own in held])
    second = Federation([{"a": own} for own in others])
    assert first.union() == second.union()
    assert first.totals == second.totals


def test_labels_that_few_clients_share_need_more_room() -> None:
    clients = [{"a": [f"{client} {i}" for i in range(1000)]} for client in range(7)]
    federation = Federation(clients)
    assert typed(federation.union()) == set().union(*map(typed, clients))
    assert federation.asked.count("label_sketch") > 1
    shared = Federation(clients[:1] * 7)
    assert len(shared.union()["a"]) == 1000
    assert shared.asked == list(LABEL_SUMS)


def test_without_labels_nothing_is_asked_but_their_number() -> None:
    federation = Federation([{}, {"a": []}, {}])
    assert federation.union() == {}
    assert federation.asked == ["label_count"]


# --- the sketch ---


@given(st.integers(1, MOST_LABELS))
def test_a_sketch_has_the_room_that_it_says(room: int) -> None:
    sketch = LabelSketch(room)
    assert room**2 / 2 / sketch.block**4 <= 5e-7
    assert 4 * sketch.block >= 1.4 * room
    assert sketch.length == 12 * sketch.block
    assert sketch.length <= 4.21 * MOST_LABELS


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 2**16 - 1), st.integers(0, 2**32))
def test_a_full_sketch_is_read(n: int, most: int, seed: int) -> None:
    sketch, known = LabelSketch(n), keys(n, seed)
    clients = np.random.default_rng(seed).integers(1, most, n, dtype=np.uint64, endpoint=True)
    table = np.zeros((3, sketch.length // 3), dtype=np.uint64)
    sketches._add(table, sketch._cells(known), known, clients)
    found = sketch.read(table.ravel().view(np.int64), int(clients.sum()))
    assert np.array_equal(found.keys, known)
    assert np.array_equal(found.clients, clients)


def test_keys_fall_everywhere_alike() -> None:
    """χ² of the cells of a block, which keys that follow one another must fill too."""
    sketch, n = LabelSketch(10), 40_000
    for known in (keys(n), np.arange(n, dtype=np.uint64)):
        for row, cells in enumerate(sketch._cells(known)):
            counts = np.bincount(cells - row * sketch.block, minlength=sketch.block)
            expected = n / sketch.block
            chi = float(((counts - expected) ** 2 / expected).sum())
            assert len(counts) == sketch.block
            assert abs(chi - sketch.block) < 5 * math.sqrt(2 * sketch.block)


def test_two_keys_share_their_cells_as_rarely_as_they_should(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a tenth of the cells, 10^4 times as often: the bound holds, and is not loose."""
    monkeypatch.setattr(sketches, "PAIRS", 10.0)
    n, failed, trials = 20, 0, 2000
    sketch = LabelSketch(n)
    expected = n * (n - 1) / 2 / sketch.block**4 * trials
    for seed in range(trials):
        cells = sketch._cells(keys(n, seed))
        failed += len(np.unique(cells, axis=1).T) < n
    assert abs(failed - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize("n", [20, 5000])
def test_too_many_keys_are_noticed(n: int) -> None:
    sketch = LabelSketch(n)
    known = keys(sketch.length // 2)
    with pytest.raises(UnreadableLabelsError, match="do not add up"):
        sketch.read(sketch.of(known).view(np.int64), len(known))


def test_reading_ends_after_so_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch, known = LabelSketch(5000), keys(5000)
    monkeypatch.setattr(sketches, "ROUNDS", 2)
    with pytest.raises(UnreadableLabelsError):
        sketch.read(sketch.of(known).view(np.int64), len(known))


@pytest.mark.parametrize("room", [-1, 0, MOST_LABELS + 1, 2**62])
def test_a_sketch_has_a_possible_size(room: int) -> None:
    with pytest.raises(FederationError, match="impossible size"):
        LabelSketch(room)


# --- lies ---


def changing(wanted: str, at: int, by: int) -> Change:
    """One number of a sum is another one."""

    def change(kind: str, total: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        if kind == wanted:
            total[at % len(total)] += np.uint64(by)
        return total

    return change


@settings(max_examples=100)
@given(
    st.sampled_from(LABEL_SUMS),
    st.integers(0, 2**20),
    st.integers(1, 300) | st.integers(1, 2**64 - 1),
)
def test_one_wrong_number_spoils_it_or_does_nothing(kind: str, at: int, by: int) -> None:
    try:
        found = Federation(FEW, changing(kind, at, by)).union()
    except FederationError:
        return
    assert kind == "label_texts"  # behind the end of a text
    assert typed(found) == set().union(*map(typed, FEW))


@settings(max_examples=50)
@given(st.sampled_from(LABEL_SUMS), st.integers(0, 2**32))
def test_noise_is_an_error(kind: str, seed: int) -> None:
    """Which is what comes out when the clients do not all take part in the same sum."""

    def change(summed: str, total: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        noise = np.random.default_rng(seed).integers(0, 2**64, len(total), dtype=np.uint64)
        return total + noise if summed == kind else total

    with pytest.raises(FederationError):
        Federation(FEW, change).union()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"null",
        b'["a"]',
        b'["a",1,2]',
        b'["a",null]',
        b'["a",NaN]',
        b'["a",Infinity]',
        b'["a",[1]]',
        b'["a",{}]',
        b'["a", 1]',
        b'["a",1.50]',
        b"[1,1]",
        b'["a",' + 5000 * b"9" + b"]",
        b'["a",' + 100_000 * b"[" + 100_000 * b"]" + b"]",
    ],
)
def test_what_is_no_label_is_an_error(text: bytes) -> None:
    federation = Federation(FEW)
    federation.clients[1]._texts.append(text)
    with pytest.raises(UnreadableLabelsError, match="do not add up") as caught:
        federation.union()
    assert federation.asked.count("label_sketch") <= 5
    assert "Ulm" not in str(caught.value)


@pytest.mark.parametrize("claimed", [-1, 4 * MOST_LABELS + 1, 2**63 - 1])
def test_an_impossible_number_of_labels_is_not_believed(claimed: int) -> None:
    asked = []

    def total(kind: str, *_: Any) -> npt.NDArray[np.int64]:
        asked.append(kind)
        return np.array([claimed])

    with pytest.raises(FederationError, match="too many labels"):
        union_of_labels(total, 4)
    assert asked == ["label_count"]


def test_texts_have_a_largest_size() -> None:
    found = FoundKeys(keys(100), np.ones(100, dtype=np.uint64))
    with pytest.raises(FederationError, match="too much text"):
        read_lengths(np.full(100, LONGEST_TEXT), found)
    with pytest.raises(UnreadableLabelsError):
        read_lengths(np.full(100, LONGEST_TEXT + 1), found)
    with pytest.raises(FederationError, match="too much text"):
        texts_of([], keys(0), keys(1), np.array([MOST_TEXT + 1]))


# --- a server that asks for something else ---


def packed(numbers: Sequence[int], dtype: str) -> str:
    return base64.b64encode(np.array(numbers, dtype=dtype).tobytes()).decode()


SALT = bytes(16)
OWN_KEYS = [int(key) for key in keys_of(written(FEW[0]), SALT)]
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "salt": st.just(SALT.hex()) | st.text() | st.none(),
        "room": st.integers(-1, 3000) | st.just(2**70) | st.floats() | st.text() | st.none(),
        "keys": st.lists(st.sampled_from(OWN_KEYS) | st.integers(0, 2**64 - 1), max_size=9).map(
            lambda found: packed(found, "<u8")
        )
        | st.text()
        | st.none(),
        "lengths": st.lists(st.integers(0, 30) | st.integers(0, 2**32 - 1), max_size=9).map(
            lambda found: packed(found, "<u4")
        )
        | st.text()
        | st.none(),
    },
)


@given(st.sampled_from(LABEL_SUMS), ASKED)
def test_what_a_client_refuses_does_not_tell_of_its_labels(kind: str, asked: Any) -> None:
    answers = set()
    for labels in FEW:
        try:
            answers.add(str(len(OwnLabels(labels).vector(kind, asked))))
        except FederationError as error:
            answers.add(str(error))
    assert len(answers) == 1


@given(st.lists(st.tuples(st.sampled_from(OWN_KEYS), st.integers(0, 30)), max_size=9))
def test_whatever_it_is_asked_for_a_client_answers(pairs: list[tuple[int, int]]) -> None:
    """The same key more than once, out of order, with other lengths."""
    own = OwnLabels(FEW[0])
    asked = {
        "salt": SALT.hex(),
        "keys": packed([key for key, _ in pairs], "<u8"),
        "lengths": packed([length for _, length in pairs], "<u4"),
    }
    size = sum(-(-length // 4) for _, length in pairs)
    assert len(own.vector("label_lengths", asked)) == len(pairs)
    assert len(own.vector("label_texts", asked)) == size


# --- chance, and what cannot be sent ---


def test_labels_with_one_key_are_read_with_another_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    def clash(texts: Sequence[bytes], salt: bytes) -> npt.NDArray[np.uint64]:
        found = keys_of(texts, salt)
        return found if salt == b"second" else found % np.uint64(3)

    salts = [b"first", b"second"]
    monkeypatch.setattr(secrets, "token_bytes", lambda _: salts.pop(0))
    for module in (sketches, secure_labels):
        monkeypatch.setattr(module, "keys_of", clash)
    federation = Federation(FEW[:1] * 3)
    assert typed(federation.union()) == typed(FEW[0])
    assert federation.asked.count("label_sketch") == 2


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(FederationError, match="column 'a' holds numbers that are not finite"):
        written({"a": [1.5, number]})


def test_very_long_text_is_refused_and_not_quoted() -> None:
    with pytest.raises(FederationError, match="column 'a' holds text that is too long") as caught:
        written({"a": [LONGEST_TEXT * "secret"]})
    assert "secret" not in str(caught.value)


@given(st.lists(ANY_LABEL), st.binary(max_size=16))
def test_keys_are_of_48_bits_and_of_the_salt(known: list[Label], salt: bytes) -> None:
    texts = written({"a": known})
    found = keys_of(texts, salt)
    assert (found < 2**48).all()
    assert len(set(texts)) == len(texts) == len(found)
    assume(texts)
    assert not np.array_equal(found, keys_of(texts, salt + b"x"))
