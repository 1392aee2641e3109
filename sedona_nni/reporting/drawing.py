"""How the pictures of a report look: SVG that goes into a page.

They are drawn with matplotlib and then handed over to the page: what is ink, faint or a strategy's
colour becomes one of the page's CSS variables, so that pictures follow the page into the dark, and
marks get titles, which a browser shows under the pointer. A picture is narrow enough for a
telephone; wide pages put several side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axis import XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sedona_nni.reporting.results import without_variant

__all__ = [
    "DASHES",
    "FAINT",
    "INK",
    "NUM_COLOURS",
    "PAPER",
    "Drawing",
    "Picture",
    "Style",
    "band",
    "in_our_style",
    "legend_key",
    "log_if_wide",
    "padded",
    "styles",
]

NUM_COLOURS = 8
# Colours that stand for the page's variables until a picture is done
INK, FAINT, PAPER = "#010101", "#010102", "#010103"
_COLOURS = [f"#0102{number:02x}" for number in range(NUM_COLOURS)]
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(_COLOURS)},
}
_WELL_KNOWN = (
    *("sedona", "uniform", "random", "backprop", "predsim", "regularized_evolution", "probe"),
    "tpe",
)
_MARKERS = "osD^vPX<"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))
_WIDE = 6  # an axis whose largest value is as many times its smallest is logarithmic
_WIDTH = 5.0  # inches; 360 units of the picture, and its text has 10 of them
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)
in_our_style = matplotlib.rc_context(
    {
        "font.size": 10,
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name may have dollar signs
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": FAINT,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.6,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "hatch.linewidth": 0.8,
    }
)


@dataclass(frozen=True)
class Style:
    """How a strategy looks, everywhere.

    Attributes:
        number: Of its colour.
        marker: Of its points; tells numbers of blocks apart.
        dash: Of its lines, likewise.
    """

    number: int
    marker: str
    dash: Any

    @property
    def colour(self) -> str:
        """Its colour."""
        return _COLOURS[self.number]


@dataclass(frozen=True)
class Picture:
    """A picture and what it says.

    Attributes:
        name: Unique in the page.
        svg: The picture.
        caption: What it is.
        text: What is to be seen, for those who do not see it.
    """

    name: str
    svg: str
    caption: str
    text: str


def styles(strategies: Sequence[str]) -> dict[str, Style]:
    """Return how each strategy looks; well-known ones look the same in every report.

    Strategies that differ in the number of blocks or the place among the leaders alone,
    ``name-k<K>`` or ``name-<place>``, share their colour.
    """
    bases = {name: without_variant(name) for name in strategies}
    numbers = {name: number for number, name in enumerate(_WELL_KNOWN) if name in bases.values()}
    free = [number for number in range(NUM_COLOURS) if number not in numbers.values()]
    found: dict[str, Style] = {}
    variants: dict[str, int] = {}
    for name, base in bases.items():
        if base not in numbers:
            numbers[base] = free.pop() if free else len(numbers) % NUM_COLOURS
        variants[base] = variants.get(base, -1) + 1
        number, variant = numbers[base], variants[base]
        marker = _MARKERS[(number + variant) % len(_MARKERS)]
        found[name] = Style(number, marker, DASHES[variant % len(DASHES)])
    return found


class Drawing:
    """A matplotlib figure on its way to an SVG picture.

    Args:
        name: Of the picture, unique in the page.
        height: In inches.
        shape: Rows and columns of axes.
    """

    def __init__(self, name: str, height: float = 3.3, shape: tuple[int, int] = (1, 1)) -> None:
        self.name = name
        self.figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        self.panels = list(self.figure.subplots(*shape, squeeze=False).flat)
        self.axes = self.panels[0]
        self._titles: dict[str, str] = {}

    def entitle(self, artist: Any, text: str) -> None:
        """Let a browser show a text where the pointer is on an artist."""
        identifier = f"{self.name}-{len(self._titles)}"
        artist.set_gid(identifier)
        self._titles[identifier] = text

    def point(self, x: float, y: float, look: Style, text: str, faint: bool = False) -> None:
        """Draw a strategy's mark with a title."""
        (mark,) = self.axes.plot(
            [x],
            [y],
            look.marker,
            color=look.colour,
            markerfacecolor=PAPER if faint else look.colour,
            markeredgecolor=look.colour if faint else PAPER,
            markeredgewidth=1.2 if faint else 0.6,
            alpha=0.65 if faint else 1,
            markersize=4.5 if faint else 6.5,
            zorder=3 if faint else 4,
            clip_on=False,
        )
        self.entitle(mark, text)

    def colour_bar(self, image: Any, label: str) -> None:
        """Put a bar below that explains the colours of an image in any of the axes."""
        bar = self.figure.colorbar(
            image, ax=self.panels, location="bottom", aspect=35, pad=0.02, label=label
        )
        assert bar.solids is not None
        bar.solids.set_rasterized(True)  # an image in place of 256 shapes
        bar.outline.set_visible(False)

    def legend(self, handles: Sequence[Any] | None = None) -> None:
        """Put a legend below."""
        handles = self.axes.get_legend_handles_labels()[0] if handles is None else handles
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), 60 // (longest + 7)))
        rows_first = [handle for column in range(columns) for handle in handles[column::columns]]
        self.figure.legend(
            handles=rows_first, loc="outside lower center", ncols=columns, columnspacing=1.2
        )

    def finish(self, caption: str, text: str) -> Picture:
        """Return the picture."""
        with matplotlib.rc_context({"svg.hashsalt": self.name}):
            written = io.BytesIO()
            self.figure.savefig(
                written,
                format="svg",
                transparent=True,
                metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
            )
        root = ElementTree.fromstring(written.getvalue())
        for size in ("width", "height"):
            del root.attrib[size]
        root.set("role", "img")
        root.set("aria-label", f"{caption}. {text}")
        referred = set(re.findall(r"#([\w-]+)", ElementTree.tostring(root, encoding="unicode")))
        for element in root.iter():
            identifier = element.attrib.get("id")
            if identifier in self._titles:
                title = ElementTree.Element(f"{{{_SVG}}}title")
                title.text = self._titles[identifier]
                element.insert(0, title)
            if identifier is not None and identifier not in referred:  # not unique in the page
                del element.attrib["id"]
        svg = ElementTree.tostring(root, encoding="unicode")
        svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
        svg = re.sub(r"font: ([^;\"]*?)px '[^;\"]*", r"font-size: \1px", svg)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, variable)
        return Picture(self.name, svg, caption, text)


def band(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean - deviation and mean + deviation, as far as accuracies go."""
    return np.clip(mean - deviation, 0, 1), np.clip(mean + deviation, 0, 1)


def log_if_wide(axis: XAxis, values: Sequence[float]) -> bool:
    """Make an axis logarithmic if its values span much; return whether it is."""
    if not 0 < _WIDE * min(values) <= max(values):
        return False
    axis.axes.set_xscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return True


def padded(span: tuple[float, float]) -> tuple[float, float]:
    """Return limits with some room around what they are to show."""
    room = 0.06 * max(span[1] - span[0], 0.01)
    return span[0] - room, span[1] + room


def legend_key(strategy: str, look: Style) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="", label=strategy)
