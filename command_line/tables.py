"""Tables of a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sedona_nni.printable import printable


def show_table(headings: Iterable[str], rows: Iterable[list[str]]) -> None:
    """Print a table as wide as it needs: rich would leave out what does not fit."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [[printable(cell) for cell in row] for row in rows]
    for place, heading in enumerate(headings):
        if heading == "decoupling":  # the only long texts
            table.add_column(heading, min_width=17)
        else:
            texts = [*heading.split(" "), *(row[place] for row in shown)]
            longest = max(map(len, texts))
            table.add_column(heading.replace(" ", "\n"), no_wrap=True, min_width=longest)
    for row in shown:
        table.add_row(*map(Text, row))  # or rich takes what is in brackets for markup
    console = Console()
    unlimited = console.options.update(max_width=1000)
    needed = console.measure(table, options=unlimited).minimum
    console.width = max(console.width, 100, needed)
    console.print(table)
