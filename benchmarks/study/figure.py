"""The study as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.document import BACKPROP, Net, Run, Study

__all__ = ["draw_pareto", "draw_strips", "front"]

# Okabe and Ito's colours, which colour-blind people can tell apart, and shapes for all others
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")
_MARKERS = "osD^vPXh"
_BACKPROP_COLOUR = "0.35"
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
}


def draw_strips(study: Study, path: Path) -> None:
    """Draw the test accuracy of every strategy's picks: a panel for each net and space.

    A dot is a replicate, a bar their mean, a dotted bar the mean of all of the strategy's
    trainings; back-propagation's mean and standard deviation are a band over the whole panel.

    Args:
        study: The study.
        path: The picture; the format is that of the name's end.
    """
    plt = _pyplot()
    from matplotlib.ticker import MaxNLocator

    strategies = [name for name in study.strategies if name != BACKPROP]
    colours = _styles(study)
    columns = max(len(net.spaces) for net in study.nets)
    size = (max(2 + 2.25 * columns, 6), 1.1 + len(study.nets) * (0.75 + 0.28 * len(strategies)))
    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(
            len(study.nets),
            columns,
            figsize=size,
            layout="constrained",
            sharex="row",
            sharey=True,
            squeeze=False,
        )
        for row, net in zip(panels, study.nets, strict=True):
            for panel in row[len(net.spaces) :]:
                panel.set_axis_off()
            for space, panel in enumerate(row[: len(net.spaces)]):
                _draw_band(panel, net, space)
                for place, strategy in enumerate(strategies):
                    values = [100 * each for each in net.accuracies(strategy, space).values()]
                    if not values:
                        middle = (0.5, place)
                        panel.text(*middle, "none", transform=panel.get_yaxis_transform(), **_HINT)
                        continue
                    colour, marker = colours[strategy]
                    heights = place + 0.2 * _spread(len(values))
                    panel.plot(values, heights, marker, color=colour, ms=5, alpha=0.6, mew=0)
                    mean = float(np.mean(values))
                    panel.plot([mean] * 2, [place - 0.36, place + 0.36], color=colour, lw=3)
                    single = net.accuracies(strategy, space, "training").values()
                    plain = 100 * float(np.mean(list(single)))
                    panel.plot([plain] * 2, [place - 0.36, place + 0.36], ":", color=colour, lw=2)
                panel.set_title(net.spaces[space].in_words, fontsize=11)
                panel.set_yticks(range(len(strategies)), strategies)
                panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
                panel.grid(axis="x")
            row[0].set_ylabel(f"{net.name}\n{net.task.dataset}", fontweight="bold")
        panels[0][0].set_ylim(len(strategies) - 0.5, -0.5)
        words = (
            "dots: replicates; bars: means; dotted bars: means of all trainings, nothing chosen; "
            "dashed, grey: back-propagation, mean ± SD"
        )
        figure.supxlabel(f"test accuracy of the picks, %\n({words})", fontsize=11)
        _save(figure, path)


def draw_pareto(study: Study, path: Path) -> None:
    """Draw test accuracy against ideal speed-up and against peak memory: a row for each net.

    A dot is a training, and a pick if it has its strategy's colour; the line is the front of all of
    them. The large marks are the means of each strategy's picks, one for each space.

    Args:
        study: The study.
        path: The picture; the format is that of the name's end.
    """
    plt = _pyplot()
    axes: tuple[tuple[str, Callable[[Run], float], bool], ...] = (
        ("ideal speed-up (1 / share of the largest block)", lambda run: run.ideal_speedup, True),
        ("peak memory of a training step, MiB", lambda run: run.peak_memory_mib, False),
    )
    styles = _styles(study)
    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(
            len(study.nets),
            2,
            figsize=(11, 0.9 + 3.6 * len(study.nets)),
            layout="constrained",
            sharey="row",
            squeeze=False,
        )
        for row, net in zip(panels, study.nets, strict=True):
            for panel, (label, value, more_is_better) in zip(row, axes, strict=True):
                _draw_runs(panel, net, value, more_is_better)
                for strategy in study.strategies:
                    _draw_picks(panel, net, strategy, value, *styles[strategy])
                panel.set_xlabel(label)
                panel.grid()
            row[0].set_ylabel(f"{net.name}, {net.task.dataset}\ntest accuracy, %")
        words = "small marks: picks; large: their means in each space; grey dots: other trainings"
        figure.supxlabel(words, fontsize=11)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5, **_LEGEND)
        _save(figure, path)


def front(
    points: Iterable[tuple[float, float]], *, more_is_better: bool
) -> list[tuple[float, float]]:
    """Return the points (x, y) that no other is better than in both, from the best x on.

    Args:
        points: The points, at least one; more of y is better.
        more_is_better: Whether more of x is, too, or less.
    """
    sign = -1 if more_is_better else 1
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (sign * point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 11, "columnspacing": 1.2}
_HINT: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": "0.5"}


def _draw_band(panel: Any, net: Net, space: int) -> None:
    values = [100 * each for each in net.accuracies(BACKPROP, space).values()]
    if not values:
        return
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    panel.axvspan(mean - spread, mean + spread, color="0.88", zorder=0)
    panel.axvline(mean, color=_BACKPROP_COLOUR, linestyle="--", linewidth=1.2, zorder=0.5)


def _draw_runs(panel: Any, net: Net, value: Callable[[Run], float], more_is_better: bool) -> None:
    runs = [run for trial in net.trials for run in trial.runs]
    points = [(value(run), 100 * run.test_accuracy) for run in runs]
    panel.plot(*zip(*points, strict=True), "o", color="0.75", ms=3, mew=0)
    best = zip(*front(points, more_is_better=more_is_better), strict=True)
    panel.step(*best, where="post", color="0.45", lw=1.2, label="front of all trainings")


def _draw_picks(
    panel: Any,
    net: Net,
    strategy: str,
    value: Callable[[Run], float],
    colour: str,
    marker: str,
) -> None:
    """Draw the picks of each space and their mean; back-propagation's, the same in all, once."""
    means: dict[tuple[float, ...], None] = {}
    for space in range(len(net.spaces)):
        picks = [pick for trial in net.of(strategy) if (pick := trial.pick(space)) is not None]
        if picks:
            points = np.array([(value(pick), 100 * pick.test_accuracy) for pick in picks])
            panel.plot(*points.T, marker, color=colour, ms=4, mew=0, alpha=0.6)
            means[tuple(points.mean(axis=0))] = None
    places = np.array(list(means) or [(np.nan, np.nan)]).T
    size = 15 if marker == "*" else 10
    panel.plot(*places, marker, color=colour, ms=size, mec="white", label=strategy, zorder=3)


def _spread(count: int) -> np.ndarray:
    """Return places from -1 to 1, so that dots of the same value stay apart."""
    return np.linspace(-1, 1, count) if count > 1 else np.zeros(1)


def _styles(study: Study) -> dict[str, tuple[str, str]]:
    """Return each strategy's colour and marker."""
    names = [name for name in study.strategies if name != BACKPROP]
    found = {
        name: (_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, name in enumerate(names)
    }
    return {**found, BACKPROP: (_BACKPROP_COLOUR, "*")}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
