"""Registries: what users choose by name, ours and theirs, in one shape for all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from sedona_nni.errors import InputError

__all__ = ["Registry"]

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """Things of one kind by their names, in the order in which they were registered.

    Attributes:
        kind: What they are, for messages, e.g. ``"data set"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> None:
        """Register one more.

        Raises:
            InputError: if the name is taken.
        """
        if name in self._things:
            raise InputError.rule(self.kind, "must have a name that is not taken", name)
        self._things[name] = thing

    def __getitem__(self, name: str) -> T:
        """Return what has a name.

        Raises:
            InputError: if nothing has; it lists the names.
        """
        if name not in self._things:
            raise InputError.rule(self.kind, f"must be one of {', '.join(self)}", name)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)
