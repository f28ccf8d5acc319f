"""Messages as bytes: safetensors with the JSON inside as one more tensor.

Reading them runs no code, whatever they hold, and takes no more memory than was agreed on before:
an array's place and size are checked by safetensors, its name, dtype and length against what was
asked for, and what is compressed is inflated within a bound.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from genesis.errors import FederationError, PlanError, nearest_names, printable
from genesis.federated.messages import Arrays, Reply, Request, check_arrays

__all__ = [
    "COMPRESSIONS",
    "MAX_JSON",
    "check_compression",
    "compress",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
    "inflate",
    "largest_reply",
]

COMPRESSIONS = ("gzip", "zstd")
MAX_JSON = 32 << 20  # bytes; the labels of a million categories fit
LONG_REPLIES = ("describe", "labels")  # requests whose replies hold text of every column
SMALL_JSON = 1 << 20  # bytes, in all other replies
MOST_CONTAINERS = 1 << 20  # lists and objects in JSON, each of which takes 30 times its bytes
HEADER = 1 << 16  # bytes for names and shapes of arrays
WINDOW = 1 << 23  # bytes of memory that a zstd stream may ask for beside its output
DEEPEST = 32  # containers within containers of JSON; comparing or printing them recurses

Expected = Mapping[str, tuple[str, int]]


def encode_request(request: Request) -> bytes:
    """A request as bytes; what is `local` stays here."""
    values = {
        "kind": request.kind,
        "round": request.round,
        "meta": request.meta,
        "expects": request.expects,
        "setup": request.setup,
    }
    return _encode(values, request.arrays)


def decode_request(body: bytes | bytearray) -> Request:
    """The inverse of `encode_request`.

    Raises:
        FederationError: It is something else.
    """
    values, arrays = _decode(body)
    kind, round, meta = values.get("kind"), values.get("round"), values.get("meta")
    expects = values.get("expects")
    if not (isinstance(kind, str) and isinstance(round, int) and isinstance(meta, dict)):
        raise _foreign()
    try:
        wanted = {str(name): (str(dtype), int(n)) for name, (dtype, n) in expects.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise _foreign() from None
    return Request(kind, round, meta, arrays, wanted, values.get("setup") is True)


def encode_reply(reply: Reply) -> bytes:
    """A reply as bytes. Whose it is, the transport knows."""
    return _encode({"meta": reply.meta, "error": reply.error}, reply.arrays)


def decode_reply(body: bytes | bytearray, client_id: str, expects: Expected) -> Reply:
    """The inverse of `encode_reply`, for a reply of which the server knows what it must hold.

    Args:
        body: What came.
        client_id: From whom.
        expects: The arrays that were asked for; see `Request`. A failure holds none.

    Raises:
        FederationError: It is something else.
    """
    values, arrays = _decode(body)
    meta, error = values.get("meta"), values.get("error")
    if not isinstance(meta, dict) or not (error is None or isinstance(error, str)):
        raise _foreign()
    check_arrays(arrays, {} if error else expects)
    # One line of printable text, because it ends up in logs and on terminals.
    told = None if error is None else printable(error)[:1000] or "a failure without a reason"
    return Reply(client_id, meta, arrays, told)


def largest_reply(kind: str, expects: Expected) -> int:
    """Bytes that a reply to a request of a kind may have at most."""
    text = MAX_JSON if kind in LONG_REPLIES else SMALL_JSON
    return text + HEADER + sum(np.dtype(d).itemsize * n for d, n in expects.values())


def compress(body: bytes, how: str | None) -> bytes:
    """A body made smaller by "gzip" or "zstd", fast rather than well; as it is if None."""
    if how == "gzip":
        packer = zlib.compressobj(level=1, wbits=31)
        return packer.compress(body) + packer.flush()
    if how == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress(body)
    return body


def inflate(body: bytes | bytearray, how: str | None, limit: int) -> bytes | bytearray:
    """The inverse of `compress`, which stops as soon as there is more than limit bytes.

    Raises:
        FederationError: It is not compressed so, was cut short, or is larger.
    """
    if how is None:
        found: bytes | bytearray = body
    elif how == "gzip":
        found = _gunzip(body, limit)
    elif how == "zstd":
        found = _unzstd(body, limit)
    else:
        raise FederationError("a body is compressed in an unknown way", do="use gzip or zstd")
    if len(found) > limit:
        raise FederationError("a body is too large", got=f"more than {limit:,} bytes")
    return found


def check_compression(how: str | None) -> str | None:
    """A way to compress that a user named.

    Raises:
        PlanError: There is no such way.
    """
    if how in (None, "none", ""):
        return None
    if how not in COMPRESSIONS:
        raise PlanError(f"unknown compression '{how}'", do=nearest_names(str(how), COMPRESSIONS))
    return how


def _encode(values: Mapping[str, Any], arrays: Arrays) -> bytes:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    # A table's text may hold half of a surrogate pair, which strict UTF-8 does not.
    encoded = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    tensors = {f"array.{name}": np.ascontiguousarray(array) for name, array in arrays.items()}
    return save({"json": encoded, **tensors})


def _decode(body: bytes | bytearray) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The JSON object and the arrays of a body."""
    # A long header would be a million names, each of which is an object here.
    if int.from_bytes(body[:8], "little") > HEADER:
        raise _foreign()
    try:
        tensors = load(bytes(body))
        text = tensors.pop("json")
        if text.dtype != np.uint8 or text.nbytes > MAX_JSON:
            raise _foreign()
        if np.count_nonzero((text == ord("[")) | (text == ord("{"))) > MOST_CONTAINERS:
            raise _foreign()
        values = json.loads(text.tobytes().decode("utf-8", "surrogatepass"))
        arrays = {name.removeprefix("array."): array for name, array in tensors.items()}
    except (SafetensorError, KeyError, ValueError, RecursionError, TypeError, OverflowError):
        # Their messages quote what came.
        raise _foreign() from None
    if not isinstance(values, dict) or not all(name.startswith("array.") for name in tensors):
        raise _foreign()
    if _is_deeper(values, DEEPEST):
        raise _foreign()
    return values, arrays


def _is_deeper(values: dict[str, Any], levels: int) -> bool:
    """Whether JSON values hold more containers within each other than so many."""
    level: list[Any] = [values]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _gunzip(body: bytes | bytearray, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise FederationError("a body is not gzip, as it says") from None
    if len(found) <= limit and not unpacker.eof:
        raise FederationError("a body was cut short")
    return found


def _unzstd(body: bytes | bytearray, limit: int) -> bytes:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(bytes(body))
        found = bytearray()
        while len(found) <= limit and (chunk := reader.read(min(1 << 20, limit + 1 - len(found)))):
            found += chunk
        if len(found) <= limit:
            expected = zstandard.frame_content_size(bytes(body[:64]))
            if expected not in (-1, len(found)):
                raise FederationError("a body was cut short")
    except zstandard.ZstdError:
        raise FederationError("a body is not zstd, as it says") from None
    return bytes(found)


def _foreign() -> FederationError:
    return FederationError(
        "a body is not a message of this program", do="give server and clients the same version"
    )
