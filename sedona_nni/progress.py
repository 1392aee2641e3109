"""How far work is, in a line that a person can read at 80 columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

__all__ = ["Narrator", "Place", "duration", "place", "progress_bar", "tracked"]

T = TypeVar("T")

_PACES = 5  # of the last parts of work, that the time left is estimated from
_REPEATED = 0.05  # of the longest: a part that took no longer was not done but told again


class Place(NamedTuple):
    """Where work is.

    Attributes:
        part: What it is counted in: epoch, step or probe.
        done: How many of them are done.
        total: Of how many.
        words: What is known of the last one, may be nothing.
    """

    part: str
    done: int
    total: int
    words: str

    def __str__(self) -> str:
        """Return for instance ``"epoch 3 of 8, validation accuracy 94.2%"``."""
        return ", ".join(filter(None, [f"{self.part} {self.done} of {self.total}", self.words]))


def place(numbers: Mapping[str, Any]) -> Place | None:
    """Return how far the reporter of numbers is, None if they do not tell.

    Args:
        numbers: What a training, a search or a probing reports, see `training.loop.train`
            and `sedona_nni.trials.search.run_search`.
    """
    part = next((name for name in numbers if f"{name}s" in numbers), None)
    if part is None:
        return None
    return Place(part, int(numbers[part]), int(numbers[f"{part}s"]), _words(part, numbers))


def _words(part: str, numbers: Mapping[str, Any]) -> str:
    if "tried" in numbers:
        return f"{numbers['tried']}: loss {numbers['loss']:.3f}"
    if "default" not in numbers:  # a search of one's own, or one of before
        return ""
    if "decided" in numbers:
        accuracy = f"validation accuracy {numbers['default']:.1%}"
        return f"{accuracy}, decided {numbers['decided']:.1%}"
    if part == "epoch":
        return f"validation accuracy {numbers['default']:.1%}"
    return f"default {numbers['default']:.4g}"


def duration(seconds: float) -> str:
    """Return a time of which only the size matters: ``"12 s"``, ``"5 min"``, ``"1.5 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


class Narrator:
    """Tells each report in a line: where the work is, the best so far, the time left.

    Args:
        tell: Takes a line.
        clock: Seconds since anything.
    """

    def __init__(
        self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._last = clock()
        self._paces: list[tuple[int, float]] = []  # parts done, seconds
        self._done = 0
        self._best: tuple[float, str] | None = None

    def __call__(self, numbers: Mapping[str, Any]) -> None:
        """Tell a report."""
        where = place(numbers)
        if where is None:
            known = (
                f"{name} {value:.4g}" if isinstance(value, float | int) else f"{name} {value}"
                for name, value in numbers.items()
                if value is not None
            )
            self._tell(", ".join(known))
            return
        line = [str(where), *self._best_so_far(where, numbers)]
        left = self._left_s(where)
        if left is not None:
            line.append(f"{duration(left)} left")
        self._tell(", ".join(line))

    def _best_so_far(self, where: Place, numbers: Mapping[str, Any]) -> list[str]:
        """Return the best of what is tried one after another, or of epochs: a search's accuracy,
        step by step, is not what it is after."""
        if "tried" in numbers:
            value, shown = -numbers["loss"], f"least {numbers['loss']:.3f} ({numbers['tried']})"
        elif where.part == "epoch" and "default" in numbers:
            value, shown = numbers["default"], f"best {numbers['default']:.1%} (epoch {where.done})"
        else:
            return []
        if self._best is None or value > self._best[0]:
            self._best = (value, shown)
        return [self._best[1]]

    def _left_s(self, where: Place) -> float | None:
        now = self._clock()
        self._paces.append((where.done - self._done, now - self._last))
        self._last, self._done = now, where.done
        recent = self._paces[1:][-_PACES:] or self._paces  # the first took preparations, too
        longest = max(seconds for _, seconds in recent)
        recent = [pace for pace in recent if pace[1] > _REPEATED * longest]
        parts = sum(done for done, _ in recent)
        if parts <= 0 or where.done == where.total:
            return None
        return sum(seconds for _, seconds in recent) / parts * (where.total - where.done)


class _Left(ProgressColumn):
    """The time left: what the task's field ``left`` says, or else by its pace."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        if left is None:
            seconds = task.time_remaining
            left = "" if seconds is None else f"{duration(seconds)} left"
        return Text(left)


def progress_bar(console: Console) -> Progress:
    """Return a bar for tasks; nothing but the description is ever cut off.

    From left to right: the description, a bar, "n of N", the time left, and the task's field
    ``best``. What does not fit is left out, by the width of the terminal.
    """
    fixed: Any = {"no_wrap": True}
    width = console.width
    columns: list[ProgressColumn] = [
        TextColumn(
            "{task.description}",
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            markup=False,
        )
    ]
    if width >= 70:
        columns.append(BarColumn(bar_width=10 if width < 100 else 20))
    count = "{task.completed:.0f} of {task.total:.0f}"
    columns += [
        TextColumn(count, table_column=Column(**fixed)),
        _Left(table_column=Column(**fixed)),
    ]
    if width >= 60:
        columns.append(TextColumn("{task.fields[best]}", table_column=Column(**fixed)))
    return Progress(
        *columns,
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    )


def tracked(
    items: Sequence[T], description: str, *, done: int = 0, total: int = 0, shown: bool = True
) -> Iterator[T]:
    """Go through items; in a terminal a bar shows how far they are.

    Args:
        items: What to go through.
        description: What they are.
        done: How many were done before.
        total: Of how many all these are; by default what was done and the items.
        shown: Whether there is a bar at all.
    """
    terminal = shown and sys.stderr.isatty()
    bar = progress_bar(Console(stderr=True, force_terminal=terminal))
    with bar:
        task = bar.add_task(description, completed=done, total=total or done + len(items), best="")
        for item in items:
            yield item
            bar.advance(task)
