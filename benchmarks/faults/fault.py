"""What every fault has: how it is done, what is to be said of it, how it is mended."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.faults.home import Command, Home
from benchmarks.faults.subject import Subject

__all__ = ["Fault"]


class Fault(ABC):
    """One that is to be done once.

    Args:
        draw: What is random in it, from 0 to 1.

    Attributes:
        name: In records.
        reasons: What a command that it has ended says, at least one of them.
        is_around: Whether it is done to all processes alike; then a victim is of no account.
    """

    name: str
    reasons: tuple[str, ...] = ("sedona-nni: ",)
    is_around = False

    def __init__(self, draw: float) -> None:
        self.draw = draw

    def fits(self, subject: Subject, victim: str) -> bool:
        """Return whether it is worth doing to a process, one of the subject's victims."""
        return True

    @contextlib.contextmanager
    def home(self, folder: Path) -> Iterator[Home]:
        """Have a home in which it can be done.

        Args:
            folder: A new one.
        """
        home = Home(folder / "home", folder / "outside")
        try:
            yield home
        finally:
            home.end()
            home.remove()

    @abstractmethod
    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """Do it.

        Args:
            home: Where.
            process: The victim.
            again: Returns the words of the same command.

        Raises:
            psutil.Error: if there is no victim any more.
            Broken: if it is met otherwise than promised.
        """

    def is_said(self, victim: str, said: str) -> bool:
        """Return whether enough was said for the command to go on, or to wait for its user."""
        return True

    def mend(self, process: psutil.Process, command: Command, goes_on: bool) -> bool:
        """Do what a user would where the command waits for him.

        Args:
            process: The victim.
            command: The command.
            goes_on: Whether he lets it go on where he has the choice.

        Returns:
            Whether the command was interrupted.
        """
        return False

    def undo(self) -> None:  # noqa: B027  what is done to a process ends with it
        """Take it away, so that the next command is not met by it."""
