"""What speaks for each block and, of a probing, how well each single cut teaches what is below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.reporting.drawing import INK, Drawing, Picture, in_our_style
from sedona_nni.reporting.text import nats
from sedona_nni.searches.probing.result import ProbeResult

__all__ = ["evidence_map", "local_loss_map"]

_NUMBERED = 14  # most columns with a number on each tile; of more, the pointer tells
_TILES = 400  # of more, one image is drawn, about which the pointer tells nothing


@in_our_style
def local_loss_map(result: ProbeResult, trained: Sequence[Decoupling], name: str) -> Picture:
    """Draw the local loss of each cut with each auxiliary network, the undivided one's beside.

    Args:
        result: What the probing found.
        trained: What was trained of it; these cuts are framed.
        name: Of the picture, unique in the page.
    """
    losses = np.array(result.losses)
    choices, boundaries = result.aux_choices, len(losses)
    tiles = _Tiles(
        Drawing(name, height=1.7 + 0.3 * len(choices)),
        Normalize(min(losses.min(), result.undivided), max(losses.max(), result.undivided)),
        "cividis_r",
        columns=boundaries + 2,
    )
    tiles.draw(
        losses.T, [[f"cut after layer {j} with {c}" for j in range(boundaries)] for c in choices]
    )
    tiles.one(boundaries + 0.5, 0, result.undivided, "the undivided backbone", len(choices))
    for cut, aux in sorted({p for d in trained for p in zip(d.cuts, d.aux, strict=True)}):
        tiles.frame(cut, choices.index(aux))
    axes = tiles.drawing.axes
    axes.set_xlim(-0.55, boundaries + 1.05)
    axes.set_ylim(len(choices) - 0.45, -0.55)
    axes.set_yticks(range(len(choices)), choices)
    tiles.name_cuts(trained, boundaries, {boundaries + 0.5: "no cut"})
    tiles.drawing.colour_bar(tiles.scale, "good ←  local loss in a short training, nats  → bad")
    best_cut, best_choice = divmod(int(losses.argmin()), len(choices))
    return tiles.drawing.finish(
        "How well each single cut teaches what is below it",
        f"Least loss: after layer {best_cut} with {choices[best_choice]}, {losses.min():.3f} nats; "
        f"the undivided backbone {result.undivided:.3f}" + _framed(trained),
    )


@in_our_style
def evidence_map(result: SearchOutcome, trained: Sequence[Decoupling], name: str) -> Picture:
    """Draw the evidence for each block below a cut, see `local_loss_map`."""
    evidence = np.where(
        np.tri(result.num_layers - 1, k=-1, dtype=bool), np.nan, result.evidence().max(axis=2)
    )
    boundaries = len(evidence)
    below = ["the first layer", *(f"layer {i + 1}" for i in range(boundaries - 1))]
    tiles = _Tiles(
        Drawing(name, height=1.9 + 0.24 * min(boundaries, 12)),
        Normalize(np.nanmin(evidence), max(0, np.nanmax(evidence))),
        "cividis",
        columns=boundaries,
    )
    tiles.draw(
        evidence,
        [[f"block from {b} to layer {j}, cut there" for j in range(boundaries)] for b in below],
    )
    for decoupling in trained:
        for start, cut in zip([-1, *decoupling.cuts], decoupling.cuts, strict=False):
            tiles.frame(cut, start + 1)
    axes = tiles.drawing.axes
    axes.set_xlim(-0.55, boundaries - 0.45)
    axes.set_ylim(boundaries - 0.45, -0.55)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_ylabel("block's first layer")
    tiles.name_cuts(trained, boundaries, {})
    tiles.drawing.colour_bar(tiles.scale, "evidence for a block, nats")
    first = result.evidence()[0].max(axis=1)
    order = np.argsort(-first, kind="stable")[:3]
    best = ", ".join(f"after layer {cut} ({nats(first[cut])})" for cut in order)
    return tiles.drawing.finish(
        "What speaks for each block that ends with a cut",
        f"Of single cuts, the first row, most speaks for that {best}; of several, their blocks "
        "are added up" + _framed(trained),
    )


def _framed(trained: Sequence[Decoupling]) -> str:
    return ". Framed: what was trained" if trained else ""


class _Tiles:
    """Values as coloured tiles, numbers on them where there is room.

    Args:
        drawing: Where.
        scale: Of the colours.
        colours: Name of the colour map.
        columns: About how many tiles stand side by side.
    """

    def __init__(self, drawing: Drawing, scale: Normalize, colours: str, columns: int) -> None:
        self.drawing = drawing
        self.scale = ScalarMappable(scale, colormaps[colours])
        self._has_numbers = columns <= _NUMBERED

    def draw(self, values: np.ndarray, titles: Sequence[Sequence[str]]) -> None:
        """Draw a tile for each value; row 0 is at y = 0, column 0 at x = 0, and nan is nothing."""
        if np.isfinite(values).sum() > _TILES:
            self.drawing.axes.imshow(
                values,
                cmap=self.scale.cmap,
                norm=self.scale.norm,
                aspect="auto",
                interpolation="none",
            )
            return
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                self.one(x, y, value, titles[y][x])

    def one(self, x: float, y: float, value: float, title: str, height: int = 1) -> None:
        """Draw a tile that is some rows high from y on."""
        colour = tuple(self.scale.to_rgba(np.array([value]))[0])
        box = Rectangle((x - 0.47, y - 0.47), 0.94, height - 0.06, facecolor=colour, linewidth=0)
        self.drawing.axes.add_patch(box)
        self.drawing.entitle(box, f"{title}: {nats(value)} nats")
        if self._has_numbers:
            luminance = np.dot(colour[:3], (0.3, 0.6, 0.1))
            self.drawing.axes.text(
                x,
                y + (height - 1) / 2,
                nats(value, 2).replace("-", "\N{MINUS SIGN}"),
                color="#ffffff" if luminance < 0.5 else "#000000",
                size=8,
                ha="center",
                va="center",
            )

    def frame(self, x: float, y: float) -> None:
        """Frame the tile of something that was trained."""
        for colour, width in (("#000000", 3.6), ("#ffffff", 1.6)):
            self.drawing.axes.add_patch(
                Rectangle(
                    (x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=width
                )
            )

    def name_cuts(
        self, trained: Sequence[Decoupling], boundaries: int, others: dict[float, str]
    ) -> None:
        """Name the cuts below, and what else stands there, and mark those that were trained."""
        axes = self.drawing.axes
        for cut in sorted({cut for each in trained for cut in each.cuts}):
            (mark,) = axes.plot(
                [cut], [1.04], "v", color=INK, transform=axes.get_xaxis_transform(), clip_on=False
            )
            self.drawing.entitle(mark, f"cut after layer {cut}")
        ticks = MaxNLocator(integer=True, nbins=12).tick_values(0, boundaries - 1)
        named = {float(tick): f"{tick:.0f}" for tick in ticks if 0 <= tick < boundaries} | others
        axes.set_xticks(list(named), list(named.values()))
        axes.set_xlabel("cut after layer")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
