"""Faster float32 matrix products on CPUs where they cost no accuracy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

__all__ = ["LARGEST_ERROR", "fast_matmul", "relative_error", "route_is_exact"]

LARGEST_ERROR = 2e-6
"""Largest error of a product, relative to its largest entry, that still counts as float32."""

_SHAPES = ((500, 232, 256), (156, 744, 500), (256, 150, 2600), (50, 2600, 256))
"""(m, k, n) like those of a training step: oneDNN chooses its kernel by shape."""

_mkldnn: Any = torch.backends.mkldnn
_lock = threading.Lock()
_users = 0
_before = "none"


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Let oneDNN compute the float32 products inside, where it is measured to be exact enough.

    The setting permits bfloat16, but most CPUs' kernels under it still multiply in float32, about
    twice as fast as the default library on AMD processors. Others really round to bfloat16, hence
    `route_is_exact`. Whether the route is taken depends on the machine only, never on timing, so
    equal seeds give equal bits.
    """
    if device.type != "cpu" or not route_is_exact():
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


@lru_cache(maxsize=1)
def route_is_exact() -> bool:
    """Whether the route has float32's accuracy here; measured once in a process."""
    if not _mkldnn.is_available() or not hasattr(_mkldnn, "matmul"):
        return False
    _enter()
    try:
        return all(relative_error(*shape) <= LARGEST_ERROR for shape in _SHAPES)
    finally:
        _leave()


def relative_error(m: int, k: int, n: int) -> float:
    """Largest error of an (m, k) x (k, n) float32 product, relative to its largest entry."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(m, k, generator=generator)
    b = torch.randn(k, n, generator=generator)
    exact = a.double() @ b.double()
    return float(((a @ b) - exact).abs().max() / exact.abs().max())


def _enter() -> None:
    """Switch the route on for the first of the threads that use it."""
    global _users, _before
    with _lock:
        if _users == 0:
            _before = _mkldnn.matmul.fp32_precision
            _mkldnn.matmul.fp32_precision = "bf16"
        _users += 1


def _leave() -> None:
    """Restore the setting when the last thread leaves."""
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _mkldnn.matmul.fp32_precision = _before
