"""Public names that are imported on first use (PEP 562), so that `import genesis` is instant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The `__all__`, `__getattr__` and `__dir__` of a package.

    Args:
        package: `__name__` of the package.
        exports: Module -> the public names that it defines.
    """
    modules = {name: module for module, names in exports.items() for name in names}

    class Package(ModuleType):
        """A package that a submodule does not take a public name from, by being imported."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in modules or not isinstance(value, ModuleType):
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return sorted(modules), getattr_, dir_
