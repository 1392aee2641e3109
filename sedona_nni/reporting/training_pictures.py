"""What trainings reach: over cost, over epochs, and against memory and speed-up."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sedona_nni.reporting.data import Cost, Curve, StrategySummary, TrialView
from sedona_nni.reporting.drawing import (
    DASHES,
    FAINT,
    Drawing,
    Picture,
    Style,
    band,
    in_our_style,
    legend_key,
    log_if_wide,
    padded,
)

__all__ = ["accuracy_over_cost", "learning_curves", "trade_off"]

_MANY = 100  # marks of a curve; of more, a picture takes seconds and shows less


@in_our_style
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
    drawing = Drawing(name)
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
            low, high = band(mean, np.array(deviation))
            axes.fill_between(
                points, low, high, step="post", color=look.colour, alpha=0.18, linewidth=0
            )
        for point, value in _told_apart(points, mean):
            text = f"{curve.strategy}: {value:.1%} after {point:.3g} {unit_name}"
            drawing.point(point, value, look, text)
        said.append(f"{curve.strategy} {mean[-1]:.1%} after {points[-1]:.3g} {unit_name}")
    axes.axvline(budget / unit, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    if not log_if_wide(axes.xaxis, [point for curve in shown for point in curve.points]):
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


def _told_apart(points: np.ndarray, mean: np.ndarray) -> list[tuple[float, float]]:
    """Return the points that get a mark: all or, of many, those where something changes."""
    pairs = list(zip(points.tolist(), mean.tolist(), strict=True))
    if len(pairs) <= _MANY:
        return pairs
    steps = [now for before, now in itertools.pairwise(pairs) if now[1] != before[1]]
    return [pairs[0], *steps, pairs[-1]]


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


@in_our_style
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
    drawing = Drawing(name, height=2.9)
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
            linestyle="-" if last else DASHES[1:][number % (len(DASHES) - 1)],
            alpha=1 if last else 0.55 + 0.35 * number / len(blocks),
            marker="o" if len(epochs) == 1 else None,
            label=label,
        )
        drawing.entitle(line, f"{label}: {mean[-1]:.1%} in the end")
        if len(alike) > 1:
            spread = values.std(0, ddof=1)
            low, high = band(mean, spread)
            axes.fill_between(epochs, low, high, color=look.colour, alpha=0.12, linewidth=0)
        said.append(f"{label} {mean[-1]:.1%}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy")
    axes.set_ylim(*padded(span))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    drawing.legend()
    of = "its best training" if len(alike) == 1 else f"its best trainings, n = {len(alike)}"
    return drawing.finish(f"{summary.strategy}: {of}", "In the end " + ", ".join(said))


def _blocks_of(trial: TrialView) -> set[str]:
    return {key for key in trial.history if re.fullmatch(r"block_\d+_accuracy", key)}


@in_our_style
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
        against: ``"peak_memory_mib"``, ``"ideal_speedup"`` or ``"measured_speedup"``.
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
        "measured_speedup": ("measured speed-up", ""),
    }[against]
    best = {(trial.experiment, trial.key) for summary in summaries for trial in summary.best}
    drawing = Drawing(name)
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
    drawing.legend([legend_key(strategy, looks[strategy]) for strategy in named])
    said = [
        f"{summary.strategy} {summary.test_accuracy.mean:.1%} at {spread.mean:.3g}{unit}"
        for summary in summaries
        if summary.test_accuracy is not None and (spread := getattr(summary, against)) is not None
    ]
    return drawing.finish(f"Test accuracy against {quantity}", "Best trainings: " + ", ".join(said))
