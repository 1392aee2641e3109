"""Tables of a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def show_table(headings: Iterable[str], rows: Iterable[list[str]]) -> None:
    """Print a table as wide as it needs: rich would leave out what does not fit."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = list(rows)
    for place, heading in enumerate(headings):
        if heading == "decoupling":  # the only long texts
            table.add_column(heading, min_width=17)
        else:
            texts = [*heading.split(" "), *(row[place] for row in shown)]
            longest = max(map(len, texts))
            table.add_column(heading.replace(" ", "\n"), no_wrap=True, min_width=longest)
    for row in shown:
        table.add_row(*row)
    console = Console()
    unlimited = console.options.update(max_width=1000)
    needed = console.measure(table, options=unlimited).minimum
    console.width = max(console.width, 100, needed)
    console.print(table, markup=False)
