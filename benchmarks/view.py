"""What a reader sees of values: tables, on a terminal and in Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
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

    def show(self, console: Console) -> None:
        """Print the table."""
        table = RichTable(box=SIMPLE_HEAD, title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            is_text = any(" " in row[index] for row in self.rows)
            # Where there is too little room, texts take more lines and numbers stay whole
            table.add_column(heading, justify="right" if index else "left", no_wrap=not is_text)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


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
                table.show(Console())
