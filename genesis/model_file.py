"""One safe file: tensors and JSON in the safetensors format, with a version and a hash.

Loading runs no code, whatever the file holds, and a file that was cut short, changed or written by
a newer version is refused. Tensors are stored from the CPU, so a model trained on a GPU loads
anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genesis.errors import ModelFileError
from genesis.tables import replace_file

__all__ = ["FORMAT_VERSION", "Contents", "read_file", "write_file"]

FORMAT_VERSION = 1
PRIVATE = ("checkpoint", "part")  # they hold the critic, which has seen rows


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Args:
        kind: What it is: "model", "checkpoint", or a client's "part" of one.
        meta: JSON values.
        tensors: By name, on the CPU.
    """

    kind: str
    meta: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        digest = hashlib.sha256(self.kind.encode())
        digest.update(json.dumps(self.meta, sort_keys=True, ensure_ascii=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def write_file(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write a file whole or not at all; one that belongs to a run for its owner alone.

    Args:
        path: Where to; one that is there is replaced.
        contents: What to write.

    Raises:
        DataError: The folder is missing or the disk refuses.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in contents.tensors.items()}
    stored = Contents(contents.kind, contents.meta, tensors)
    header = {
        "version": FORMAT_VERSION,
        "kind": stored.kind,
        "meta": stored.meta,
        "sha256": stored.digest,
    }
    # One key, because safetensors writes several in any order: equal models are equal files.
    text = json.dumps(header, sort_keys=True, ensure_ascii=True)
    with replace_file(path) as temporary:
        if stored.kind in PRIVATE:
            temporary.touch(mode=0o600)  # and only then written to
        temporary.write_bytes(save(tensors, metadata={"genesis": text}))


def read_file(path: str | os.PathLike[str], kind: str) -> Contents:
    """Read a file and check it.

    Args:
        path: The file.
        kind: What it must be.

    Raises:
        ModelFileError: It is missing, cut short, changed, of another kind or too new.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"there is no {kind} file {path}", do="check the path")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get("genesis")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a {kind} file, or was cut short", do="write or fetch it again"
        ) from error
    if text is None:
        raise ModelFileError(f"{path} is not a file of this program", do="check the path")
    try:
        header = json.loads(text)
        version, found, expected = header["version"], header["kind"], header["sha256"]
        contents = Contents(kind, dict(header["meta"]), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged", do="write or fetch it again") from error
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has another format",
            got=f"version {version}, this program reads {FORMAT_VERSION}",
            do="use the version of the program that wrote it",
        )
    if found != kind:
        raise ModelFileError(f"{path} is no {kind}", got=f"a {found}", do="check the path")
    if contents.digest != expected:
        raise ModelFileError(
            f"{path} was changed after it was written", do="write or fetch it again"
        )
    return contents
