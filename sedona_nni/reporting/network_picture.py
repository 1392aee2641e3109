"""A network with its cuts and auxiliary networks, over each block's share of the compute."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Polygon, Rectangle

from sedona_nni.image_size import height_and_width, size_in_words
from sedona_nni.reporting.data import Block, TrialView
from sedona_nni.reporting.drawing import INK, PAPER, Drawing, Picture, Style, in_our_style

__all__ = ["network"]

_ROOM_FOR_A_NAME = 0.14  # of a picture's width


@in_our_style
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
    heights = [max(height_and_width(size)) for size in sizes]
    drawing = Drawing(name, height=2.3)
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
            height = 0.22 + 0.78 * np.log2(1 + heights[layer]) / np.log2(1 + max(heights))
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
                f"layer {layer}: maps of {size_in_words(sizes[layer])}, "
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
    drawing: Drawing, block: Block, end: float, pitch: float, room: float, crowded: bool
) -> None:
    """Draw a cut at ``end`` and the auxiliary network above it, its name aslant if crowded."""
    axes = drawing.axes
    middle = end + room * pitch / 2
    axes.plot([middle, middle], [-0.05, 1.05], color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
    half = min(0.035, max(0.45 * pitch, 0.014))
    base = end - pitch / 2
    axes.annotate(
        "",
        (base, 1.17),
        (base, 0.98),
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1, "mutation_scale": 7},
    )
    shape = Polygon(
        [
            (base - half, 1.18),
            (base + half, 1.18),
            (base + half / 2, 1.36),
            (base - half / 2, 1.36),
        ],
        facecolor=PAPER,
        edgecolor=INK,
        hatch="/////",
        linewidth=0.8,
    )
    axes.add_patch(shape)
    drawing.entitle(shape, f"auxiliary network {block.aux}: {block.aux_share:.1%} of the compute")
    slant: dict[str, Any] = {"rotation": 60, "ha": "left", "rotation_mode": "anchor"}
    where: dict[str, Any] = slant if crowded else {"ha": "center"}
    axes.text(base, 1.42, str(block.aux), va="bottom", size=9, **where)
