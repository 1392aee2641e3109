"""What a reader sees of values: tables, on a terminal and in Markdown."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

__all__ = ["Table", "View"]


@dataclass(frozen=True)
class Table:
    """A table for readers; every cell is text already.

    Attributes:
        title: What it shows, with units that no heading has.
        headings: One per column.
        rows: One cell per column.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, the first column to the left and the others right."""
        lines = [self.headings, ["---", *["---:"] * (len(self.headings) - 1)], *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def show(self) -> None:
        """Print the table, whole: with longer lines than a narrow terminal has, if need be."""
        table = RichTable(box=SIMPLE_HEAD, title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            cells = [row[index] for row in self.rows]
            # Where there is too little room, texts take more lines; words and numbers stay whole
            widest = max(map(len, cells), default=1)
            table.add_column(
                textwrap.fill(heading, max(widest, 1), break_long_words=False),
                justify="right" if index else "left",
                no_wrap=not any(" " in cell for cell in cells),
                min_width=max(len(word) for cell in [heading, *cells] for word in cell.split(" ")),
            )
        for row in self.rows:
            table.add_row(*row)
        console = Console()
        unbounded = console.options.update(max_width=sys.maxsize)  # as in a narrow one 0 would do
        narrowest = Measurement.get(console, unbounded, table).minimum
        console.width = max(narrowest, console.width)
        console.print(table, soft_wrap=True)


@dataclass(frozen=True)
class View:
    """Values, and what a reader should see of them.

    Attributes:
        results: All of them, fit for JSON.
        tables: For readers.
    """

    results: dict[str, Any]
    tables: Sequence[Table]

    def show(self, *, as_json: bool) -> None:
        """Print the tables, or all values as JSON."""
        if as_json:
            print(json.dumps(self.results))
        else:
            for table in self.tables:
                table.show()
