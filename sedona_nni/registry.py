"""Registries: what users choose by name, ours and theirs, in one shape for all kinds.

Whatever looks a name up first loads the plug-ins that are installed as packages, see
`sedona_nni.plugins`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Generic, NamedTuple, TypeVar

from sedona_nni.errors import InputError
from sedona_nni.plugins import load_installed

__all__ = ["Registry"]

T = TypeVar("T")


class _Family(NamedTuple, Generic[T]):
    """Things whose names have a number: ``pattern`` matches them, ``make`` returns what has one."""

    pattern: re.Pattern[str]
    make: Callable[[int], T]
    rest: str


class Registry(Generic[T]):
    """Things of one kind by their names, in the order in which they were registered.

    Attributes:
        kind: What they are, as in the settings that name them, e.g. ``"dataset"``.

    Examples:
        >>> from sedona_nni import SEARCHES
        >>> [*SEARCHES]
        ['sedona', 'probe', 'slopes']
        >>> SEARCHES["probe"].settings.__name__
        'ProbeSettings'
    """

    def __init__(self, kind: str, *, reserved: Collection[str] = (), beside: str = "") -> None:
        """Make an empty one.

        Args:
            kind: See above.
            reserved: Names that mean something else where a thing of this kind is named.
            beside: What else can be named there, in words.
        """
        self.kind = kind
        self._reserved = reserved
        self._beside = beside
        self._things: dict[str, T] = {}
        self._families: list[_Family[T]] = []

    def add(self, name: str, thing: T) -> None:
        """Register one more.

        Raises:
            InputError: if the name is taken.
        """
        if name in self._things or name in self._reserved or self._of_family(name) is not None:
            raise InputError.rule(self.kind, "must have a name that is not taken", name)
        self._things[name] = thing

    def add_family(
        self, prefix: str, make: Callable[[int], T], *, listed: Collection[int], rest: str
    ) -> None:
        """Register things that are called ``prefix`` and a number from 1 on.

        Args:
            prefix: What their names begin with.
            make: Returns the one of a number.
            listed: Numbers of those that are listed.
            rest: The others, in words, e.g. ``"a deeper convN"``.
        """
        family = _Family(re.compile(f"{re.escape(prefix)}([1-9][0-9]*)"), make, rest)
        self._things |= {f"{prefix}{number}": make(number) for number in listed}
        self._families.append(family)

    def remove(self, name: str) -> None:
        """Forget a thing, e.g. to register a better one under its name."""
        del self._things[name]

    def _of_family(self, name: str) -> T | None:
        for family in self._families:
            if (match := family.pattern.fullmatch(name)) is not None:
                return family.make(int(match[1]))
        return None

    def __getitem__(self, name: str) -> T:
        """Return what has a name.

        Raises:
            InputError: if nothing has; it lists the names.
        """
        load_installed()
        if name in self._things:
            return self._things[name]
        found = self._of_family(name)
        if found is None:
            raise InputError(f"{self.kind}: {self.rule}, but got {name!r}")
        return found

    @property
    def rule(self) -> str:
        """Which names there are, as a rule for who names another."""
        others = [*(family.rest for family in self._families), self._beside]
        rest = [f" (or {other})" for other in others if other]
        return f"must be one of {', '.join(self)}{''.join(rest)}"

    @property
    def so_far(self) -> list[T]:
        """What is registered by now; for whoever registers, as it loads no plug-ins."""
        return list(self._things.values())

    def __contains__(self, name: object) -> bool:
        load_installed()
        return name in self._things or (isinstance(name, str) and self._of_family(name) is not None)

    def __iter__(self) -> Iterator[str]:
        load_installed()
        return iter(self._things)
