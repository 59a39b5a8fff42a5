"""Things that settings call by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from workbench.errors import RequestError, unknown_name

ThingT = TypeVar("ThingT")


class Lookup(dict[str, ThingT]):
    """Things of one kind by name; asking for an unknown name tells the nearest one.

    Args:
        kind: what they are, for errors: "weighting".

    Raises:
        RequestError: from ``lookup[name]`` and :meth:`check`, where nothing has that name.

    Example:
        >>> Lookup("color", {"red": 1})["rad"]
        Traceback (most recent call last):
        workbench.errors.RequestError: Unknown color 'rad'. Did you mean 'red'? Known: red.
    """

    def __init__(self, kind: str, things: Mapping[str, ThingT]) -> None:
        super().__init__(things)
        self.kind = kind

    def __missing__(self, name: str) -> ThingT:
        raise unknown_name(self.kind, name, self)

    def check(self, name: str) -> str:
        """The name, if something has it: a validator of settings."""
        self[name]
        return name

    def register(self, name: str, thing: ThingT) -> None:
        """Add a thing of one's own.

        Raises:
            RequestError: the name is taken.
        """
        if self.setdefault(name, thing) is not thing:
            raise RequestError(f"A {self.kind} named {name!r} is already registered.")
