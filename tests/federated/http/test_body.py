"""Messages as bytes: whatever comes, there is the message or one kind of error, and no bomb."""

import contextlib
import io
import json
import math
import string
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save

from genesis.errors import FederationError, PlanError, printable
from genesis.federated.messages import Reply, Request
from genesis.federated.transport import body as module
from genesis.federated.transport.body import (
    COMPRESSIONS,
    HEADER,
    MAX_JSON,
    check_compression,
    compress,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    inflate,
    largest_reply,
)

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint64", "uint8", "int8", "bool")
VECTOR = {"vector": ("float32", 4)}

texts = st.text(st.characters(exclude_categories=()), max_size=20)  # halves of surrogate pairs too
numbers = st.integers() | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
metas = st.dictionaries(texts, values, max_size=5)
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
shapes = array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
tensors = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, shapes))
several = st.dictionaries(names, tensors, max_size=4)
vectors = st.dictionaries(
    names,
    st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, st.integers(0, 5))),
    max_size=4,
)


def same(found: Any, expected: Any) -> bool:
    """Equality to the bit and the type, NaN included."""
    if isinstance(expected, dict):
        keys = list(found) == list(expected)  # in the same order
        return keys and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return struct.pack("d", found) == struct.pack("d", expected) or (
            math.isnan(found) and math.isnan(expected)
        )
    return type(found) is type(expected) and found == expected


def same_arrays(found: Any, expected: Any) -> bool:
    return set(found) == set(expected) and all(
        found[name].dtype == expected[name].dtype
        and found[name].shape == expected[name].shape
        and found[name].tobytes() == expected[name].tobytes()
        for name in expected
    )


# --- what is sent arrives ---


@given(names, st.integers(0, 10**9), metas, several, st.booleans(), st.none() | st.just("zstd"))
def test_a_request_arrives_as_it_was_and_what_is_local_stays(
    kind: str, round: int, meta: dict[str, Any], found: Any, setup: bool, how: str | None
) -> None:
    expects = {name: (str(array.dtype), array.size) for name, array in found.items()}
    request = Request(
        kind, round, meta, found, expects, setup, local={"directory": "/no/secret/place"}
    )
    body = encode_request(request)
    assert b"/no/secret/place" not in body
    read = decode_request(inflate(compress(body, how), how, len(body)))
    assert (read.kind, read.round, read.setup) == (kind, round, setup)
    assert dict(read.expects) == expects
    assert same(read.meta, meta)
    assert same_arrays(read.arrays, found)
    assert read.local == {}


@given(metas, vectors, st.sampled_from([None, *COMPRESSIONS]))
def test_a_reply_arrives_as_it_was(meta: dict[str, Any], found: Any, how: str | None) -> None:
    expects = {name: (str(array.dtype), len(array)) for name, array in found.items()}
    body = encode_reply(Reply("whoever", meta, found))
    assert len(body) <= largest_reply("train", expects)
    read = decode_reply(inflate(compress(body, how), how, len(body)), "north", expects)
    assert read.client_id == "north"  # whose it is, the session says and not the body
    assert read.error is None
    assert same(read.meta, meta)
    assert same_arrays(read.arrays, found)


@given(texts)
def test_an_error_is_one_line_of_printable_text(error: str) -> None:
    read = decode_reply(encode_reply(Reply("north", error=error)), "north", {})
    assert read.error is not None
    assert read.error
    assert read.error.isprintable()
    assert len(read.error) <= 1000
    assert read.error in (printable(error)[:1000], "a failure without a reason")


def test_a_terminal_is_told_nothing() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07 no\r\nGET / \u202e \u2028 end"
    assert printable(evil) == "[2J ]0;owned no GET / end"
    error = decode_reply(encode_reply(Reply("n", error=evil)), "n", {}).error
    assert error == printable(evil)


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_compression_makes_smaller_and_stops_at_the_bound(how: str) -> None:
    body = bytes(100_000)
    packed = compress(body, how)
    assert len(packed) < 1000
    assert inflate(packed, how, len(body)) == body
    assert inflate(bytearray(packed), how, len(body) + 1) == body
    with pytest.raises(FederationError, match="too large"):
        inflate(packed, how, len(body) - 1)
    assert check_compression(how) == how


@pytest.mark.parametrize("how", [None, "none", ""])
def test_no_compression_is_none(how: str | None) -> None:
    assert check_compression(how) is None
    assert inflate(b"four", None, 4) == b"four"
    with pytest.raises(FederationError, match="too large"):
        inflate(b"five!", None, 4)


def test_other_compressions_are_refused() -> None:
    with pytest.raises(PlanError, match="unknown compression 'brotli'"):
        check_compression("brotli")
    with pytest.raises(FederationError, match="unknown way"):
        inflate(b"", "br", 10)


# --- what else may come ---


def body_of(text: bytes, **tensors: Any) -> bytes:
    """A body with any JSON and any tensors."""
    return save({"json": np.frombuffer(text, np.uint8), **tensors})


def raw(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refuses(body: bytes) -> None:
    """Neither end takes it, and neither fails in another way."""
    for decode in (decode_request, lambda body: decode_reply(body, "north", VECTOR)):
        with pytest.raises(FederationError):
            decode(body)


def tensor(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


GOOD = b'{"kind":"train","round":0,"meta":{},"expects":{},"error":null}'
JSONS = {
    "deep": b'{"meta":' + b"[" * 200 + b"]" * 200 + b"}",
    "deeper": b'{"meta":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50 + b"1" + b"}" * 50,
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "text": b'"meta"',
    "an endless number": b'{"meta":' + b"9" * 100_000 + b"}",
    "nothing": b"",
    "not closed": b'{"meta":{}',
    "not UTF-8": b'{"meta":{"\xff":1}}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "no meta": b'{"kind":"train","round":0,"error":null,"expects":{}}',
    "meta is a list": b'{"kind":"train","round":0,"meta":[],"error":null,"expects":{}}',
    "wrong types": b'{"kind":1,"round":"0","meta":{},"error":0,"expects":{}}',
    "error is an object": b'{"kind":null,"meta":{},"error":{}}',
}


@pytest.mark.parametrize("text", JSONS.values(), ids=JSONS)
def test_other_json_is_refused(text: bytes) -> None:
    refuses(body_of(text))


@pytest.mark.parametrize(
    "expects",
    [
        "[]",
        "null",
        '"ab"',
        '{"a":1}',
        '{"a":["float32"]}',
        '{"a":["float32",null]}',
        '{"a":["float32",NaN]}',
        '{"a":["float32",Infinity]}',
        '{"a":["float32",[]]}',
        '{"a":["float32",1,2]}',
    ],
)
def test_a_request_that_expects_nonsense_is_refused(expects: str) -> None:
    text = f'{{"kind":"train","round":0,"meta":{{}},"expects":{expects}}}'
    with pytest.raises(FederationError, match="same version"):
        decode_request(body_of(text.encode()))


STRANGE_TENSORS = {
    "no json": save({"array.vector": np.zeros(4, np.float32)}),
    "json of floats": save({"json": np.zeros(4, np.float32)}),
    "json of two dimensions": save({"json": np.zeros((2, 2), np.uint8)}),
    "another prefix": body_of(GOOD, vector=np.zeros(4, np.float32)),
    "cut short": body_of(GOOD)[:-1],
    "trailing garbage": body_of(GOOD) + b"x",
    "nothing": b"",
    "a length alone": (8).to_bytes(8, "little"),
    "a long header": raw(b" " * (HEADER + 1)),
    "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
    "a header of 2^64 - 1 bytes": b"\xff" * 8 + b"{}",
    "a header that is no JSON": raw(b"{{{{"),
    "a header that is a list": raw(b"[]"),
    "beyond the end": raw({"json": tensor("U8", [9], 0, 9)}, b"{}"),
    "before the start": raw({"json": tensor("U8", [2], -2, 0)}, b"{}"),
    "backwards": raw({"json": tensor("U8", [2], 2, 0)}, b"{}"),
    "offsets of 2^64": raw({"json": tensor("U8", [2], 0, 1 << 64)}, b"{}"),
    "overlapping": raw(
        {"json": tensor("U8", [4], 0, 4), "array.vector": tensor("U8", [4], 2, 6)}, b"{}  {}"
    ),
    "a hole": raw(
        {"json": tensor("U8", [2], 0, 2), "array.vector": tensor("U8", [2], 4, 6)}, b"{}  {}"
    ),
    "a shape of 2^62": raw({"json": tensor("U8", [1 << 31, 1 << 31], 0, 2)}, b"{}"),
    "a shape that overflows": raw({"json": tensor("U8", [1 << 32, 1 << 32, 2], 0, 2)}, b"{}"),
    "a negative shape": raw({"json": tensor("U8", [-2], 0, 2)}, b"{}"),
    "a dtype of 4 bits": raw({"json": tensor("F4", [4], 0, 2)}, b"{}"),
    "a dtype that numpy lacks": raw({"json": tensor("F8_E4M3", [2], 0, 2)}, b"{}"),
    "a dtype that nobody has": raw({"json": tensor("PICKLE", [2], 0, 2)}, b"{}"),
    "metadata of a wrong type": raw(
        {"__metadata__": {"a": 1}, "json": tensor("U8", [2], 0, 2)}, b"{}"
    ),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.stat\x94.",
}


@pytest.mark.parametrize("body", STRANGE_TENSORS.values(), ids=STRANGE_TENSORS)
def test_other_tensors_are_refused(body: bytes) -> None:
    refuses(body)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"vector": np.zeros(4, np.float64)},
        {"vector": np.zeros(3, np.float32)},
        {"vector": np.zeros(5, np.float32)},
        {"vector": np.zeros((4, 1), np.float32)},
        {"vector": np.zeros((0, 4), np.float32)},
        {"vector": np.zeros(4, np.float32), "extra": np.zeros(0, np.float32)},
        {"Vector": np.zeros(4, np.float32)},
        {"vector\n": np.zeros(4, np.float32)},
    ],
    ids=str,
)
def test_other_arrays_than_were_asked_for_are_refused(found: Any) -> None:
    with pytest.raises(FederationError, match="its reply"):
        decode_reply(encode_reply(Reply("north", {}, found)), "north", VECTOR)


def test_a_failure_holds_no_arrays() -> None:
    found = {"vector": np.zeros(4, np.float32)}
    with pytest.raises(FederationError, match="other arrays"):
        decode_reply(encode_reply(Reply("north", {}, found, error="no")), "north", VECTOR)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_federation_error(body: bytes) -> None:
    refuses(body)
    for how in COMPRESSIONS:
        try:
            assert len(inflate(body, how, 1000)) <= 1000
        except FederationError:
            continue


@given(st.data())
@settings(max_examples=300)
def test_a_changed_body_is_a_message_or_a_federation_error(data: st.DataObject) -> None:
    reply = Reply("north", {"metrics": {"loss": 1.5}}, {"vector": np.ones(4, np.float32)})
    body = bytearray(encode_reply(reply))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=4)
    ):
        body[place] = value
    body = body[: data.draw(st.just(len(body)) | st.integers(0, len(body)))]
    try:
        read = decode_reply(body, "north", VECTOR)
    except FederationError:
        return
    assert isinstance(read.meta, dict)
    assert read.error or read.arrays["vector"].shape == (4,)


@given(metas, st.data())
def test_any_json_in_a_good_envelope(meta: Any, data: st.DataObject) -> None:
    keys = st.sampled_from(["kind", "round", "meta", "expects", "setup", "error", "local"])
    said = data.draw(st.dictionaries(keys, values)) | ({"meta": meta} if meta else {})
    body = body_of(json.dumps(said).encode())
    with contextlib.suppress(FederationError):
        request = decode_request(body)
        assert isinstance(request.meta, dict)
        assert request.local == {}
    with contextlib.suppress(FederationError):
        reply = decode_reply(body, "north", {})
        assert reply.error is None or reply.error.isprintable()


def test_messages_of_errors_quote_nothing() -> None:
    """A body may be a table that was sent by mistake."""
    for body in (
        body_of(b'{"meta": {"patient": "Alice'),
        raw(b'{"Alice": 1}'),
        raw({"Alice": tensor("U8", [1 << 40], 0, 2)}, b"{}"),
    ):
        with pytest.raises(FederationError) as caught:
            decode_reply(body, "north", {})
        assert "Alice" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


# --- bombs ---


def gzip_bomb(size: int) -> bytes:
    packer = zlib.compressobj(level=9, wbits=31)
    chunk = bytes(1 << 20)
    return b"".join(packer.compress(chunk) for _ in range(size >> 20)) + packer.flush()


def zstd_bomb(size: int, *, told: bool = False, window: int | None = None) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(
        compression_level=1, write_content_size=told, **({"window_log": window} if window else {})
    )
    out = io.BytesIO()
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with compressor.stream_writer(out, closefd=False, size=size if told else -1) as writer:
        for _ in range(size >> 20):
            writer.write(bytes(1 << 20))
    return out.getvalue()


BOMB = 256 << 20
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "gzip": ("gzip", lambda: gzip_bomb(BOMB)),
    "gzip, two members": ("gzip", lambda: gzip_bomb(BOMB) * 2),
    "zstd": ("zstd", lambda: zstd_bomb(BOMB)),
    "zstd that says its size": ("zstd", lambda: zstd_bomb(BOMB, told=True)),
    "zstd with a window of 128 MB": ("zstd", lambda: zstd_bomb(BOMB, window=27)),
}


@pytest.mark.parametrize(("how", "make"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_no_more_memory_than_the_bound(how: str, make: Callable[[], bytes]) -> None:
    bomb = make()
    assert len(bomb) < BOMB / 500
    tracemalloc.start()
    try:
        with pytest.raises(FederationError):
            inflate(bomb, how, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_may_lie_about_its_size() -> None:
    """4 GB are said and a few bytes sent, or few said and more sent."""
    frame = bytearray(zstd_bomb(1 << 20, told=True))
    assert zstandard.frame_content_size(bytes(frame)) == 1 << 20
    place = bytes(frame).index((1 << 20).to_bytes(4, "little"))
    for said in ((1 << 32) - 1, 1):
        frame[place : place + 4] = said.to_bytes(4, "little")
        with pytest.raises(FederationError):
            inflate(frame, "zstd", 1 << 21)


@pytest.mark.parametrize("how", COMPRESSIONS)
@pytest.mark.parametrize("keep", [0, 1, 10, -5, -1])
def test_what_was_cut_short_is_no_message(how: str, keep: int) -> None:
    reply = Reply("north", {"a": "b" * 50}, {"vector": np.arange(4, dtype=np.float32)})
    packed = compress(encode_reply(reply), how)[:keep]
    with pytest.raises(FederationError):
        decode_reply(inflate(packed, how, 1 << 20), "north", VECTOR)


@given(st.sampled_from(COMPRESSIONS), st.data())
def test_damaged_compression_is_the_message_or_a_federation_error(
    how: str, data: st.DataObject
) -> None:
    reply = Reply("north", {"text": string.printable}, {"vector": np.arange(4, dtype=np.float32)})
    packed = bytearray(compress(encode_reply(reply), how))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    packed += data.draw(st.binary(max_size=5))
    with contextlib.suppress(FederationError):
        decode_reply(inflate(packed, how, 1 << 20), "north", VECTOR)


MEASURED = """
import resource, sys
from genesis.federated.transport.body import decode_reply, decode_request
from genesis.errors import FederationError
body = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for decode in (decode_request, lambda body: decode_reply(body, "north", {})):
    try:
        decode(body)
    except FederationError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def many_names(n: int) -> bytes:
    """A header with so many tensors of no length."""
    header = {f"array.{i}": tensor("U8", [0], 2, 2) for i in range(n)}
    return raw(header | {"json": tensor("U8", [2], 0, 2)}, b"{}")


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux")
@pytest.mark.parametrize(
    ("make", "megabytes"),
    [
        (lambda: many_names(400_000), 40),
        (lambda: body_of(b" " * (MAX_JSON + 1)), 3 * (MAX_JSON >> 20) + 10),
        (lambda: body_of(b'{"meta":' + b"[" * (4 << 20)), 40),
    ],
    ids=["many names", "more JSON than there may be", "a deep one"],
)
def test_what_is_refused_costs_little_memory(make: Callable[[], bytes], megabytes: int) -> None:
    found = subprocess.run(
        [sys.executable, "-c", MEASURED], input=make(), capture_output=True, check=True
    )
    assert int(found.stdout) < megabytes << 10


def test_a_reply_may_be_as_large_as_what_was_asked_for() -> None:
    expects = {"vector": ("float32", 1000), "counts": ("int64", 10)}
    assert largest_reply("labels", expects) == MAX_JSON + HEADER + 4000 + 80
    assert largest_reply("train", expects) < largest_reply("labels", expects)


def test_json_is_read_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    body = encode_reply(Reply("north", {"labels": ["x" * 1000]}))
    decode_reply(body, "north", {})
    monkeypatch.setattr(module, "MAX_JSON", 1000)
    with pytest.raises(FederationError):
        decode_reply(body, "north", {})
