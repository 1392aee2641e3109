"""The pictures of a report, as SVG that goes into a page.

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
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from sedona_nni.report_data import Block, Cost, Curve, SearchView, StrategySummary, Study, TrialView

__all__ = [
    "NUM_COLOURS",
    "Picture",
    "Style",
    "accuracy_over_cost",
    "end_of_search",
    "importance_bars",
    "learning_curves",
    "network",
    "over_hyperparameter",
    "preferred_auxiliary",
    "relaxation_map",
    "search_progress",
    "styles",
    "trade_off",
    "tuning_history",
]

NUM_COLOURS = 8
# Colours that stand for the page's variables until a picture is done
_INK, _FAINT, _PAPER = "#010101", "#010102", "#010103"
_COLOURS = [f"#0102{number:02x}" for number in range(NUM_COLOURS)]
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _PAPER: "var(--paper)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(_COLOURS)},
}
_WELL_KNOWN = ("sedona", "uniform", "random", "backprop", "predsim", "regularized_evolution", "tpe")
_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))
_WIDE = 6  # an axis whose largest value is as many times its smallest is logarithmic
_ROOM_FOR_A_NAME = 0.14  # of a picture's width
_WIDTH = 5.0  # inches; 360 units of the picture, and its text has 10 of them
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)
_drawing = matplotlib.rc_context(
    {
        "font.size": 10,
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name may have dollar signs
        "text.color": _INK,
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": _FAINT,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.6,
        "xtick.color": _FAINT,
        "ytick.color": _FAINT,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
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

    Strategies that differ in the number of blocks alone, ``name-k<K>``, share their colour.
    """
    bases = {name: re.sub(r"-k\d+$", "", name) for name in strategies}
    numbers = {name: number for number, name in enumerate(_WELL_KNOWN) if name in bases.values()}
    free = [number for number in range(NUM_COLOURS) if number not in numbers.values()]
    found: dict[str, Style] = {}
    variants: dict[str, int] = {}
    for name, base in bases.items():
        if base not in numbers:  # the last colour is nobody's, so it is the first to be given away
            numbers[base] = free.pop() if free else len(numbers) % NUM_COLOURS
        variants[base] = variants.get(base, -1) + 1
        number, variant = numbers[base], variants[base]
        marker = _MARKERS[(number + variant) % len(_MARKERS)]
        found[name] = Style(number, marker, _DASHES[variant % len(_DASHES)])
    return found


class _Drawing:
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
            markerfacecolor=_PAPER if faint else look.colour,
            markeredgecolor=look.colour if faint else _PAPER,
            markeredgewidth=1.2 if faint else 0.6,
            alpha=0.65 if faint else 1,
            markersize=4.5 if faint else 6.5,
            zorder=3 if faint else 4,
            clip_on=False,
        )
        self.entitle(mark, text)

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


@_drawing
def accuracy_over_cost(
    curves: Sequence[Curve],
    cost: Cost,
    what: str,
    looks: dict[str, Style],
    budget: float,
    name: str,
) -> Picture | None:
    """Draw the best accuracy so far over cost; None if there is nothing to draw.

    Args:
        curves: Those of all strategies and kinds of cost.
        cost: The kind to draw.
        what: ``"validation"`` or ``"test"``.
        looks: See `styles`.
        budget: The cost that all strategies have spent.
        name: Of the picture, unique in the page.
    """
    shown = [curve for curve in curves if curve.cost == cost and getattr(curve, what) is not None]
    if not shown:
        return None
    unit, unit_name = _unit(cost, max(curve.points[-1] for curve in shown))
    drawing = _Drawing(name)
    axes, said = drawing.axes, []
    for curve in shown:
        look = looks[curve.strategy]
        points = np.array(curve.points) / unit
        mean = np.array(getattr(curve, what))
        label = curve.strategy
        if curve.num_experiments > 1:
            label += f" (n = {curve.num_experiments})"
        axes.plot(
            points,
            mean,
            drawstyle="steps-post",
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            markersize=0,
            label=label,
        )
        if (deviation := getattr(curve, f"{what}_sd")) is not None:
            low, high = _band(mean, np.array(deviation))
            axes.fill_between(
                points, low, high, step="post", color=look.colour, alpha=0.18, linewidth=0
            )
        for point, value in zip(points, mean, strict=True):
            text = f"{curve.strategy}: {value:.1%} after {point:.3g} {unit_name}"
            drawing.point(point, value, look, text)
        said.append(f"{curve.strategy} {mean[-1]:.1%} after {points[-1]:.3g} {unit_name}")
    axes.axvline(budget / unit, color=_FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    if not _log_if_wide(axes.xaxis, [point for curve in shown for point in curve.points]):
        axes.set_xlim(0, axes.get_xlim()[1])
    axes.set_xlabel(
        f"{'images taken by' if cost == 'images' else 'time of'} search and trainings, {unit_name}"
    )
    axes.set_ylabel(f"{what} accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    drawing.legend(_marked_handles(axes.get_legend_handles_labels()[0]))
    return drawing.finish(
        f"{what.capitalize()} accuracy over {'images' if cost == 'images' else 'time'}",
        "Reached: " + ", ".join(said),
    )


def _band(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean - deviation and mean + deviation, as far as accuracies go."""
    return np.clip(mean - deviation, 0, 1), np.clip(mean + deviation, 0, 1)


def _log_if_wide(axis: XAxis, values: Sequence[float]) -> bool:
    """Make an axis logarithmic if its values span much; return whether it is."""
    if not 0 < _WIDE * min(values) <= max(values):
        return False
    axis.axes.set_xscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return True


def _unit(cost: Cost, largest: float) -> tuple[float, str]:
    """Return a convenient unit of a cost, and its name."""
    if cost == "images":
        scales = [(1e6, "million images"), (1e3, "thousand images"), (1, "images")]
    else:
        scales = [(86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds")]
    return next((scale for scale in scales if largest >= 3 * scale[0]), scales[-1])


def _marked_handles(handles: Sequence[Any]) -> list[Line2D]:
    """Return legend entries that show the marker as well as the line."""
    return [
        Line2D(
            [],
            [],
            color=handle.get_color(),
            linestyle=handle.get_linestyle(),
            marker=handle.get_marker(),
            label=handle.get_label(),
        )
        for handle in handles
    ]


@_drawing
def network(trial: TrialView, look: Style, name: str) -> Picture | None:
    """Draw a network with its cuts and auxiliary networks over each block's share of the compute.

    Args:
        trial: A training of it.
        look: Of its strategy.
        name: Of the picture.
    """
    if trial.compute is None or not trial.sizes:
        return None
    blocks, sizes = trial.blocks, trial.sizes
    drawing = _Drawing(name, height=2.3)
    axes = drawing.axes
    axes.set_axis_off()
    # The layers: 0 to 1 from left to right, with room at each cut, 0 to 1 from the middle line
    room = 0.9
    pitch = 1 / (len(sizes) + room * (len(blocks) - 1))
    between = [block.last_layer + 1 - block.first_layer + room for block in blocks[1:-1]]
    crowded = any(pitch * distance < _ROOM_FOR_A_NAME for distance in between)
    for number, block in enumerate(blocks):
        shade = _shade(number)
        for layer in range(block.first_layer, block.last_layer + 1):
            height = 0.22 + 0.78 * np.log2(1 + sizes[layer]) / np.log2(1 + max(sizes))
            box = Rectangle(
                ((layer + number * room + 0.08) * pitch, 0.5 - height / 2),
                0.84 * pitch,
                height,
                facecolor=look.colour,
                alpha=shade,
                linewidth=0,
            )
            axes.add_patch(box)
            share = trial.compute.layers[layer] / sum(trial.compute.layers)
            drawing.entitle(
                box,
                f"layer {layer}: maps of {sizes[layer]} x {sizes[layer]}, "
                f"{share:.1%} of the backbone's compute",
            )
        end = (block.last_layer + 1 + number * room) * pitch
        if block.aux is not None:
            _auxiliary(drawing, block, end, pitch, room, crowded)
    axes.text(0, -0.12, "layer 0", ha="left", va="top", size=9)
    axes.text(1, -0.12, f"layer {len(sizes) - 1}, head", ha="right", va="top", size=9)
    # Each block's share of the compute, in a bar that is as long as the layers
    whole_length = sum(block.share + block.aux_share for block in blocks)
    left = 0.0
    for number, block in enumerate(blocks):
        for share, what in ((block.share, "layers"), (block.aux_share, "auxiliary network")):
            part = Rectangle(
                (left, -0.78),
                share / whole_length,
                0.3,
                facecolor=look.colour if what == "layers" else "none",
                edgecolor=look.colour,
                alpha=_shade(number) if what == "layers" else 1,
                hatch=None if what == "layers" else "////",
                linewidth=0.6,
            )
            axes.add_patch(part)
            drawing.entitle(
                part, f"block {number + 1}, {what}: {share:.1%} of the backbone's compute"
            )
            left += share / whole_length
        whole = block.share + block.aux_share
        length = whole / whole_length
        if length >= 0.08:
            axes.text(left - length / 2, -0.84, f"{whole:.0%}", ha="center", va="top", size=9)
    axes.text(0, -1.12, "of the backbone's compute; hatched: auxiliary networks", va="top", size=9)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-1.32, 1.05 if len(blocks) == 1 else 2.1 if crowded else 1.62)
    shares = ", ".join(f"{block.share + block.aux_share:.0%}" for block in blocks)
    return drawing.finish(
        f"{trial.strategy}: {trial.decoupling.in_words()}",
        f"{len(sizes)} layers, blocks with {shares} of the compute, "
        f"ideal speed-up {trial.ideal_speedup:.2f}",
    )


def _shade(number: int) -> float:
    """Return the opacity of a block's colour: neighbours differ."""
    return 0.9 if number % 2 == 0 else 0.55


def _auxiliary(
    drawing: _Drawing, block: Block, end: float, pitch: float, room: float, crowded: bool
) -> None:
    """Draw a cut at ``end`` and the auxiliary network above it, its name aslant if crowded."""
    axes = drawing.axes
    middle = end + room * pitch / 2
    axes.plot([middle, middle], [-0.05, 1.05], color=_INK, linewidth=1.2, linestyle=(0, (3, 2)))
    half = min(0.035, max(0.45 * pitch, 0.014))
    base = end - pitch / 2
    axes.annotate(
        "",
        (base, 1.17),
        (base, 0.98),
        arrowprops={"arrowstyle": "-|>", "color": _INK, "linewidth": 1, "mutation_scale": 7},
    )
    shape = Polygon(
        [
            (base - half, 1.18),
            (base + half, 1.18),
            (base + half / 2, 1.36),
            (base - half / 2, 1.36),
        ],
        facecolor=_PAPER,
        edgecolor=_INK,
        hatch="/////",
        linewidth=0.8,
    )
    axes.add_patch(shape)
    drawing.entitle(shape, f"auxiliary network {block.aux}: {block.aux_share:.1%} of the compute")
    slant: dict[str, Any] = {"rotation": 60, "ha": "left", "rotation_mode": "anchor"}
    where: dict[str, Any] = slant if crowded else {"ha": "center"}
    axes.text(base, 1.42, str(block.aux), va="bottom", size=9, **where)


@_drawing
def learning_curves(
    summary: StrategySummary, look: Style, name: str, span: tuple[float, float]
) -> Picture | None:
    """Draw every block's validation accuracy over the epochs of a strategy's best trainings.

    Of several experiments their mean and standard deviation, as far as their best trainings have
    the same number of blocks and epochs as the best of them; None without any history.

    Args:
        summary: Of the strategy.
        look: Of the strategy.
        name: Of the picture, unique in the page.
        span: Accuracies that the picture shows; the same in all that are compared.
    """
    trials = [trial for trial in summary.best if "block_1_accuracy" in trial.history]
    if not trials:
        return None
    epochs = trials[0].history["epoch"]
    blocks = [key for key in trials[0].history if re.fullmatch(r"block_\d+_accuracy", key)]
    alike = [
        trial
        for trial in trials
        if trial.history["epoch"] == epochs and set(blocks) == _blocks_of(trial)
    ]
    drawing = _Drawing(name, height=2.9)
    axes, said = drawing.axes, []
    for number, key in enumerate(blocks):
        values = np.array([trial.history[key] for trial in alike], dtype=float)
        mean = values.mean(0)
        last = number == len(blocks) - 1
        label = f"block {number + 1}" + (" (the head)" if last else "")
        (line,) = axes.plot(
            epochs,
            mean,
            color=look.colour,
            linewidth=2.4 if last else 1.4,
            linestyle="-" if last else _DASHES[1:][number % (len(_DASHES) - 1)],
            alpha=1 if last else 0.55 + 0.35 * number / len(blocks),
            marker="o" if len(epochs) == 1 else None,
            label=label,
        )
        drawing.entitle(line, f"{label}: {mean[-1]:.1%} in the end")
        if len(alike) > 1:
            spread = values.std(0, ddof=1)
            low, high = _band(mean, spread)
            axes.fill_between(epochs, low, high, color=look.colour, alpha=0.12, linewidth=0)
        said.append(f"{label} {mean[-1]:.1%}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy")
    axes.set_ylim(*_padded(span))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    drawing.legend()
    of = "its best training" if len(alike) == 1 else f"its best trainings, n = {len(alike)}"
    return drawing.finish(f"{summary.strategy}: {of}", "In the end " + ", ".join(said))


def _padded(span: tuple[float, float]) -> tuple[float, float]:
    """Return limits with some room around what they are to show."""
    room = 0.06 * max(span[1] - span[0], 0.01)
    return span[0] - room, span[1] + room


def _blocks_of(trial: TrialView) -> set[str]:
    return {key for key in trial.history if re.fullmatch(r"block_\d+_accuracy", key)}


@_drawing
def trade_off(
    summaries: Sequence[StrategySummary],
    trials: Sequence[TrialView],
    against: str,
    looks: dict[str, Style],
    name: str,
) -> Picture | None:
    """Draw the test accuracy of every training against what else counts.

    Args:
        summaries: Of all strategies; their best trainings stand out.
        trials: All trainings.
        against: ``"peak_memory_mib"`` or ``"ideal_speedup"``.
        looks: See `styles`.
        name: Of the picture, unique in the page.
    """
    shown = [
        trial
        for trial in trials
        if trial.test_accuracy is not None and getattr(trial, against) is not None
    ]
    if not shown:
        return None
    quantity, unit = {
        "peak_memory_mib": ("peak memory", " MiB"),
        "ideal_speedup": ("ideal speed-up", ""),
    }[against]
    best = {(trial.experiment, trial.key) for summary in summaries for trial in summary.best}
    drawing = _Drawing(name)
    axes = drawing.axes
    for trial in sorted(shown, key=lambda trial: (trial.experiment, trial.key) in best):
        value = getattr(trial, against)
        text = f"{trial.key} of {trial.experiment}: {trial.test_accuracy:.1%}, {value:.3g}{unit}"
        faint = (trial.experiment, trial.key) not in best
        drawing.point(value, trial.test_accuracy or 0.0, looks[trial.strategy], text, faint)
    axes.set_xlabel(f"{quantity},{unit}" if unit else f"{quantity}, times back-propagation")
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(0.08)
    named = [summary.strategy for summary in summaries if summary.best]
    drawing.legend([_key(strategy, looks[strategy]) for strategy in named])
    said = [
        f"{summary.strategy} {summary.test_accuracy.mean:.1%} at {spread.mean:.3g}{unit}"
        for summary in summaries
        if summary.test_accuracy is not None and (spread := getattr(summary, against)) is not None
    ]
    return drawing.finish(f"Test accuracy against {quantity}", "Best trainings: " + ", ".join(said))


def _key(strategy: str, look: Style) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="", label=strategy)


@_drawing
def relaxation_map(search: SearchView, cuts: Sequence[int], name: str) -> Picture | None:
    """Draw a^loc of every boundary over the search, and the cuts that came of it."""
    relaxation = search.relaxation
    if relaxation is None or len(relaxation.step) < 2 or not relaxation.a_loc[0]:
        return None
    values = np.array(relaxation.a_loc).T  # (L-1, times)
    boundaries = len(values)
    drawing = _Drawing(name, height=min(5.0, 2.2 + 0.14 * boundaries))
    axes = drawing.axes
    reach = max(0.01, float(np.abs(values - 0.5).max()))
    image = axes.imshow(
        values,
        cmap="PuOr_r",
        vmin=0.5 - reach,
        vmax=0.5 + reach,
        aspect="auto",
        interpolation="none",
        extent=(relaxation.step[0], relaxation.step[-1], boundaries - 0.5, -0.5),
    )
    _colour_bar(drawing, image, "prefers to pass ←  a_loc  → prefers a cut")
    axes.grid(False)
    for cut in cuts:
        (mark,) = axes.plot(
            [1.02], [cut], "<", color=_INK, transform=axes.get_yaxis_transform(), clip_on=False
        )
        drawing.entitle(mark, f"cut after layer {cut}")
    axes.set_xlabel("step")
    axes.set_ylabel("boundary after layer")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    found = ", ".join(f"{i}: {value:.2f}" for i, value in enumerate(values[:, -1]))
    return drawing.finish("How much each boundary prefers a cut, over the search", f"End: {found}")


def _colour_bar(drawing: _Drawing, image: Any, label: str) -> None:
    bar = drawing.figure.colorbar(
        image, ax=drawing.panels, location="bottom", aspect=35, pad=0.02, label=label
    )
    assert bar.solids is not None
    bar.solids.set_rasterized(True)  # an image in place of 256 shapes
    bar.outline.set_visible(False)


@_drawing
def preferred_auxiliary(search: SearchView, name: str) -> Picture | None:
    """Draw the weight of every auxiliary choice at every boundary over the search."""
    relaxation = search.relaxation
    if relaxation is None or len(relaxation.step) < 2 or not relaxation.aux[0]:
        return None
    choices = [] if search.result is None else search.result.aux_choices
    if len(choices) < 2:
        return None
    values = np.array(relaxation.aux)  # (times, L-1, C)
    boundaries = values.shape[1]
    rows = (len(choices) + 1) // 2
    drawing = _Drawing(name, height=0.9 + rows * (0.9 + 0.07 * boundaries), shape=(rows, 2))
    for panel, choice in enumerate(choices):
        axes = drawing.panels[panel]
        image = axes.imshow(
            values[:, :, panel].T,
            cmap="cividis",
            vmin=float(values.min()),
            vmax=float(values.max()),
            aspect="auto",
            interpolation="none",
            extent=(relaxation.step[0], relaxation.step[-1], boundaries - 0.5, -0.5),
        )
        axes.set_title(choice, size=10)
        axes.grid(False)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    for panel in drawing.panels[len(choices) :]:
        panel.set_axis_off()
    drawing.figure.supylabel("boundary after layer", size=10)
    _colour_bar(drawing, image, "weight (softmax of beta) over steps")
    weights = np.array(values[-1])
    found = ", ".join(f"{i}: {choices[int(row.argmax())]}" for i, row in enumerate(weights))
    return drawing.finish("How much weight each auxiliary network has", f"Heaviest: {found}")


@_drawing
def end_of_search(search: SearchView, cuts: Sequence[int], look: Style, name: str) -> Picture:
    """Draw what a search ended with: a^loc of every boundary, and how decided it is."""
    drawing = _Drawing(name, height=2.6)
    axes = drawing.axes
    for boundary, value in enumerate(search.a_loc):
        (bar,) = axes.bar(
            [boundary],
            [value - 0.5],
            bottom=0.5,
            width=0.8,
            color=look.colour,
            alpha=0.9 if boundary in cuts else 0.4,
        )
        drawing.entitle(bar, f"boundary {boundary}: a_loc {value:.3f}")
        if boundary in cuts:
            axes.annotate(
                "cut",
                (boundary, max(value, 0.5)),
                (0, 3),
                textcoords="offset points",
                ha="center",
                size=9,
            )
    axes.axhline(0.5, color=_INK, linewidth=1)
    axes.set_xlabel("boundary after layer")
    axes.set_ylabel("a_loc at the end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)
    return drawing.finish(
        "Where the search ended",
        f"{search.undecided:.0%} of {len(search.a_loc)} boundaries are within 0.01 of 0.5",
    )


@_drawing
def search_progress(search: SearchView, look: Style, name: str) -> Picture | None:
    """Draw validation accuracy and meta-loss over a search."""
    history = search.history
    if history is None or not history.step:
        return None
    drawing = _Drawing(name, height=3.0, shape=(2, 1))
    rows = ((history.default, "accuracy"), (history.meta_loss, "meta-loss, nats"))
    for axes, (values, label) in zip(drawing.panels, rows, strict=True):
        axes.plot(history.step, values, color=look.colour)
        axes.set_ylabel(label)
        axes.set_xlim(0, history.step[-1])
        if search.pretrain_steps is not None:
            axes.axvline(search.pretrain_steps, color=_FAINT, linewidth=1, linestyle=(0, (2, 2)))
    drawing.panels[0].yaxis.set_major_formatter(PercentFormatter(1))
    drawing.panels[0].tick_params(labelbottom=False)
    drawing.panels[1].set_xlabel("step")
    return drawing.finish(
        "The relaxed network while it is searched",
        f"Validation accuracy ends at {history.default[-1]:.1%}, "
        f"the meta-loss at {history.meta_loss[-1]:.2f} nats",
    )


@_drawing
def tuning_history(
    studies: Sequence[Study], look: Style, name: str, span: tuple[float, float]
) -> Picture:
    """Draw the trainings of a strategy in their order, in every experiment, and the best so far.

    Args:
        studies: Of the strategy.
        look: Of the strategy.
        name: Of the picture, unique in the page.
        span: Accuracies that the picture shows; the same in all that are compared.
    """
    drawing = _Drawing(name, height=2.6)
    axes = drawing.axes
    for study in studies:
        numbers = range(1, len(study.accuracies) + 1)
        best: list[float] = []
        for accuracy in study.accuracies:
            best.append(max(accuracy or 0.0, best[-1] if best else 0.0))
        if any(best):
            shown = [value or np.nan for value in best]
            axes.plot(numbers, shown, drawstyle="steps-post", color=look.colour, alpha=0.8)
        for number, accuracy in zip(numbers, study.accuracies, strict=True):
            where = f"training {number} of {study.experiment}"
            if accuracy is not None:
                drawing.point(number, accuracy, look, f"{where}: {accuracy:.1%}", faint=True)
            else:
                (cross,) = axes.plot(
                    [number],
                    [0.03],
                    "x",
                    color=_INK,
                    transform=axes.get_xaxis_transform(),
                    clip_on=False,
                )
                drawing.entitle(cross, f"{where}: failed")
    axes.set_xlabel("training")
    axes.set_ylabel("validation accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.06)
    axes.set_ylim(*_padded(span))
    scored = [value for study in studies for value in study.accuracies if value is not None]
    failed = sum(value is None for study in studies for value in study.accuracies)
    said = f"{len(scored)} trainings" + (f", {failed} failed" if failed else "")
    if scored:
        said += f", from {min(scored):.1%} to {max(scored):.1%}"
    return drawing.finish(f"{studies[0].strategy}: trainings in their order", said)


@_drawing
def over_hyperparameter(
    trials: Sequence[TrialView], hyperparameter: str, looks: dict[str, Style], name: str
) -> Picture | None:
    """Draw the validation accuracy of all trainings over one of their hyperparameters."""
    shown = [
        (trial, value, trial.validation_accuracy)
        for trial in trials
        if trial.validation_accuracy is not None
        and isinstance(value := trial.hyperparameters.get(hyperparameter), int | float)
    ]
    values = [value for _, value, _ in shown]
    if len(set(values)) < 2:
        return None
    drawing = _Drawing(name, height=2.9)
    axes = drawing.axes
    for trial, value, accuracy in shown:
        text = f"{trial.key} of {trial.experiment}: {hyperparameter} {value:.3g}, {accuracy:.1%}"
        drawing.point(value, accuracy, looks[trial.strategy], text)
    _log_if_wide(axes.xaxis, values)
    axes.set_xlabel(hyperparameter)
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(0.06)
    strategies = dict.fromkeys(trial.strategy for trial, _, _ in shown)
    drawing.legend([_key(strategy, looks[strategy]) for strategy in strategies])
    best = max(shown, key=lambda row: row[2])
    return drawing.finish(
        f"Validation accuracy over {hyperparameter}",
        f"The best, {best[2]:.1%}, has {hyperparameter} = {best[1]:.3g}",
    )


@_drawing
def importance_bars(studies: Sequence[Study], looks: dict[str, Style], name: str) -> Picture | None:
    """Draw how much each hyperparameter matters to each strategy; None if nobody can tell."""
    shares = {study.strategy: study.importance for study in studies if study.importance}
    if not shares:
        return None
    names = sorted({name for of in shares.values() for name in of})
    drawing = _Drawing(name, height=1.3 + 0.22 * len(names) * len(shares))
    axes = drawing.axes
    height = 0.8 / len(shares)
    for place, (strategy, of) in enumerate(shares.items()):
        where = np.arange(len(names)) + (place - (len(shares) - 1) / 2) * height
        axes.barh(
            where,
            [of.get(each, 0.0) for each in names],
            height=0.9 * height,
            color=looks[strategy].colour,
            label=strategy,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("importance")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)
    drawing.legend([Patch(color=looks[each].colour, label=each) for each in shares])
    said = [f"{strategy}: {max(of, key=lambda k: of[k])} most" for strategy, of in shares.items()]
    return drawing.finish("Which hyperparameters matter", ", ".join(said))
