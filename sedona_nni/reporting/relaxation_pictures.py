"""A search of SEDONA's: what it did to alpha and beta, and where it ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sedona_nni.reporting.data import SearchView
from sedona_nni.reporting.drawing import (
    FAINT,
    INK,
    Drawing,
    Picture,
    Style,
    in_our_style,
)

__all__ = [
    "end_of_search",
    "preferred_auxiliary",
    "relaxation_map",
    "search_progress",
]


@in_our_style
def relaxation_map(search: SearchView, cuts: Sequence[int], name: str) -> Picture | None:
    """Draw a^loc of every boundary over the search, and the cuts that came of it."""
    relaxation = search.relaxation
    if relaxation is None or len(relaxation.step) < 2 or not relaxation.a_loc[0]:
        return None
    values = np.array(relaxation.a_loc).T  # (L-1, times)
    boundaries = len(values)
    drawing = Drawing(name, height=min(5.0, 2.2 + 0.14 * boundaries))
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
    drawing.colour_bar(image, "prefers to pass ←  a_loc  → prefers a cut")
    axes.grid(False)
    for cut in cuts:
        (mark,) = axes.plot(
            [1.02], [cut], "<", color=INK, transform=axes.get_yaxis_transform(), clip_on=False
        )
        drawing.entitle(mark, f"cut after layer {cut}")
    axes.set_xlabel("step")
    axes.set_ylabel("boundary after layer")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    found = ", ".join(f"{i}: {value:.2f}" for i, value in enumerate(values[:, -1]))
    return drawing.finish("How much each boundary prefers a cut, over the search", f"End: {found}")


@in_our_style
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
    drawing = Drawing(name, height=0.9 + rows * (0.9 + 0.07 * boundaries), shape=(rows, 2))
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
    drawing.colour_bar(image, "weight (softmax of beta) over steps")
    weights = np.array(values[-1])
    found = ", ".join(f"{i}: {choices[int(row.argmax())]}" for i, row in enumerate(weights))
    return drawing.finish("How much weight each auxiliary network has", f"Heaviest: {found}")


@in_our_style
def end_of_search(search: SearchView, cuts: Sequence[int], look: Style, name: str) -> Picture:
    """Draw what a search ended with: a^loc of every boundary, and how decided it is."""
    drawing = Drawing(name, height=2.6)
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
    axes.axhline(0.5, color=INK, linewidth=1)
    axes.set_xlabel("boundary after layer")
    axes.set_ylabel("a_loc at the end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)
    return drawing.finish(
        "Where the search ended",
        f"{search.undecided:.0%} of {len(search.a_loc)} boundaries are within 0.01 of 0.5",
    )


@in_our_style
def search_progress(search: SearchView, look: Style, name: str) -> Picture | None:
    """Draw validation accuracy and meta-loss over a search."""
    history = search.history
    if history is None or not history.step:
        return None
    drawing = Drawing(name, height=3.0, shape=(2, 1))
    rows = ((history.default, "accuracy"), (history.meta_loss, "meta-loss, nats"))
    for axes, (values, label) in zip(drawing.panels, rows, strict=True):
        axes.plot(history.step, values, color=look.colour)
        axes.set_ylabel(label)
        axes.set_xlim(0, history.step[-1])
        if search.pretrain_steps is not None:
            axes.axvline(search.pretrain_steps, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    drawing.panels[0].yaxis.set_major_formatter(PercentFormatter(1))
    drawing.panels[0].tick_params(labelbottom=False)
    drawing.panels[1].set_xlabel("step")
    return drawing.finish(
        "The relaxed network while it is searched",
        f"Validation accuracy ends at {history.default[-1]:.1%}, "
        f"the meta-loss at {history.meta_loss[-1]:.2f} nats",
    )
