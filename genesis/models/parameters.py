"""Names, shapes and parts of a flat vector of parameters."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

__all__ = ["ParameterLayout"]


@dataclass(frozen=True)
class ParameterLayout:
    """How a flat vector of P numbers divides into named tensors.

    Args:
        shapes: Name -> shape, in the order of the vector. A name starts with its part and a dot:
            "generator.seq.0.fc.weight".
    """

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Name -> where it lies in the vector."""
        slices, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            slices[name] = slice(start, stop)
            start = stop
        return slices

    @cached_property
    def size(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def parts(self) -> dict[str, slice]:
        """Part ("generator", "discriminator", …) -> where it lies; parts are contiguous."""
        parts: dict[str, slice] = {}
        for name, place in self.slices.items():
            part = name.partition(".")[0]
            first = parts[part].start if part in parts else place.start
            parts[part] = slice(first, place.stop)
        return parts

    def of_part(self, part: str) -> ParameterLayout:
        """The layout of one part alone."""
        return ParameterLayout(
            {name: shape for name, shape in self.shapes.items() if name.startswith(f"{part}.")}
        )

    def views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The named tensors as views of vector (P,)."""
        return {name: vector[place].view(self.shapes[name]) for name, place in self.slices.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and shapes, so that two sides can tell that they mean the same."""
        text = json.dumps([[name, list(shape)] for name, shape in self.shapes.items()])
        return hashlib.sha256(text.encode()).hexdigest()
