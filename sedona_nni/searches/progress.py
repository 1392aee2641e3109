"""What outlives the interruption of a search: its clock, and small things of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sedona_nni.files import read_json, reading, write_json

__all__ = ["SearchProgress"]

T = TypeVar("T")


class SearchProgress:
    """The clock of a search and, in a file, what it has kept; both go on where they were.

    Attributes:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._started = time.perf_counter()
        self._kept_at_s: float | None = None

    @property
    def time_s(self) -> float:
        """Seconds that the search had taken, earlier sessions included, when it kept something the
        last time; of one that never did, until now."""
        if self._kept_at_s is None:
            return time.perf_counter() - self._started
        return self._kept_at_s

    def kept(
        self,
        take: Callable[[dict[str, Any]], T],
        otherwise: T,
        remedy: str = "remove it to start again",
    ) -> T:
        """Return what an interrupted search had kept, and let the clock go on from there.

        Args:
            take: Returns it, of what was given to `keep` last; it may raise anything.
            otherwise: What is returned if there is none.
            remedy: What to do if it cannot be read, in a few words.

        Raises:
            InputError: if the file cannot be read, or ``take`` raises.
        """
        if self.path is None or not self.path.exists():
            return otherwise
        with reading(self.path, remedy):
            content = read_json(self.path)
            self._kept_at_s = float(content.pop("time_s"))
            found = take(content)
        self._started = time.perf_counter() - self._kept_at_s
        return found

    def keep(self, **content: Any) -> None:
        """Keep this, fit for JSON, in place of what was kept before."""
        self._kept_at_s = time.perf_counter() - self._started
        if self.path is not None:
            write_json(self.path, {**content, "time_s": self._kept_at_s})
