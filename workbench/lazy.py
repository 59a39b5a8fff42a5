"""Packages whose names are loaded when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib import import_module


def lazy_names(
    package: str, names: Collection[str], modules: Sequence[str]
) -> Callable[[str], object]:
    """A package's ``__getattr__``: loads the module that defines what is asked for, and no more.

    A command that lists 500 runs must not wait for torch.

    Args:
        names: what the package offers, its ``__all__``.
        modules: where these are defined, light modules first.
    """

    def load(name: str) -> object:
        if name in names:
            for module in modules:
                found = import_module(f"{package}.{module}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
