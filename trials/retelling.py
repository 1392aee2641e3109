"""What a search has reported, kept: one that goes on after an interruption tells it again first.

Who shows reports, as NNI's web UI does, takes those of a trial that is started again in place of
the earlier ones, from the first on. So curves are whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sedona_nni.files import append_line, reading, write_atomically
from sedona_nni.progress import place

__all__ = ["Retelling"]


class Retelling:
    """Passes reports on and keeps them; before the first it passes on what is kept from before it.

    Args:
        path: The file, which need not exist yet; it has a line for each report.
        report: Takes them.

    Raises:
        InputError: if the file cannot be read.
    """

    def __init__(self, path: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._path = path
        self._report = report
        self._before = _read(path)

    def __call__(self, numbers: dict[str, Any]) -> None:
        """Take a report."""
        if self._before:
            self._tell_again(numbers)
        append_line(self._path, _line(numbers))
        self._report(numbers)

    def _tell_again(self, first: Mapping[str, Any]) -> None:
        """Tell what came before a report; what an interruption has lost comes again by itself."""
        again = [numbers for numbers in self._before if _comes_before(numbers, first)]
        self._before = []
        text = "".join(f"{_line(numbers)}\n" for numbers in again)
        write_atomically(self._path, lambda path: path.write_text(text, encoding="utf-8"))
        for numbers in again:
            self._report(numbers)


def _comes_before(numbers: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    where, then = place(numbers), place(later)
    return where is None or then is None or where.done < then.done


def _line(numbers: Mapping[str, Any]) -> str:
    return json.dumps(numbers, default=float)


def _read(path: Path) -> Sequence[dict[str, Any]]:
    if not path.exists():
        return []
    with reading(path, "remove it to go on without what was reported"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # else it was cut off
