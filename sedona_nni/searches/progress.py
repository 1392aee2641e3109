"""What outlives the interruption of a search: its clocks, and small things of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import Self

from sedona_nni.files import read_json, reading, write_json

__all__ = ["SearchProgress"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Spent:
    """Seconds of a clock, and of processors that this process used, all its threads together."""

    time_s: float
    processor_s: float

    @classmethod
    def so_far(cls) -> Self:
        """Return what both clocks show; only differences mean something."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: _Spent) -> _Spent:
        """Return what was spent from other to this."""
        return _Spent(self.time_s - other.time_s, self.processor_s - other.processor_s)


class SearchProgress:
    """The clocks of a search and, in a file, what it has kept; all go on where they were.

    Attributes:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._started = _Spent.so_far()
        self._kept_at: _Spent | None = None

    @property
    def time_s(self) -> float:
        """Seconds that the search had taken, earlier sessions included, when it kept something the
        last time; of one that never did, until now."""
        return self._spent.time_s

    @property
    def processor_s(self) -> float:
        """Likewise, seconds of processors that its process used, all its threads together."""
        return self._spent.processor_s

    @property
    def _spent(self) -> _Spent:
        return _Spent.so_far() - self._started if self._kept_at is None else self._kept_at

    def kept(
        self,
        take: Callable[[dict[str, Any]], T],
        otherwise: T,
        remedy: str = "remove it to start again",
    ) -> T:
        """Return what an interrupted search had kept, and let the clocks go on from there.

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
            time_s = float(content.pop("time_s"))
            self._kept_at = _Spent(time_s, float(content.pop("processor_s", 0.0)))  # older: none
            found = take(content)
        self._started = _Spent.so_far() - self._kept_at
        return found

    def keep(self, **content: Any) -> None:
        """Keep this, fit for JSON, in place of what was kept before."""
        self._kept_at = _Spent.so_far() - self._started
        if self.path is not None:
            write_json(self.path, {**content, **asdict(self._kept_at)})
