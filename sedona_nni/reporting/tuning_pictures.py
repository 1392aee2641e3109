"""The tuning of hyperparameters: its history, and what matters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sedona_nni.reporting.data import Study, TrialView
from sedona_nni.reporting.drawing import (
    INK,
    Drawing,
    Picture,
    Style,
    in_our_style,
    legend_key,
    log_if_wide,
    padded,
)

__all__ = ["importance_bars", "over_hyperparameter", "tuning_history"]


@in_our_style
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
    drawing = Drawing(name, height=2.6)
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
                    color=INK,
                    transform=axes.get_xaxis_transform(),
                    clip_on=False,
                )
                how = "stopped early" if number in study.stopped else "failed"
                drawing.entitle(cross, f"{where}: {how}")
    axes.set_xlabel("training")
    axes.set_ylabel("validation accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.06)
    axes.set_ylim(*padded(span))
    scored = [value for study in studies for value in study.accuracies if value is not None]
    stopped = sum(len(study.stopped) for study in studies)
    failed = sum(value is None for study in studies for value in study.accuracies) - stopped
    said = f"{len(scored)} trainings" + (f", {failed} failed" if failed else "")
    said += f", {stopped} stopped early" if stopped else ""
    if scored:
        said += f", from {min(scored):.1%} to {max(scored):.1%}"
    return drawing.finish(f"{studies[0].strategy}: trainings in their order", said)


@in_our_style
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
    drawing = Drawing(name, height=2.9)
    axes = drawing.axes
    for trial, value, accuracy in shown:
        text = f"{trial.key} of {trial.experiment}: {hyperparameter} {value:.3g}, {accuracy:.1%}"
        drawing.point(value, accuracy, looks[trial.strategy], text)
    log_if_wide(axes.xaxis, values)
    axes.set_xlabel(hyperparameter)
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(0.06)
    strategies = dict.fromkeys(trial.strategy for trial, _, _ in shown)
    drawing.legend([legend_key(strategy, looks[strategy]) for strategy in strategies])
    best = max(shown, key=lambda row: row[2])
    return drawing.finish(
        f"Validation accuracy over {hyperparameter}",
        f"The best, {best[2]:.1%}, has {hyperparameter} = {best[1]:.3g}",
    )


@in_our_style
def importance_bars(studies: Sequence[Study], looks: dict[str, Style], name: str) -> Picture | None:
    """Draw how much each hyperparameter matters to each strategy; None if nobody can tell."""
    shares = {study.strategy: study.importance for study in studies if study.importance}
    if not shares:
        return None
    names = sorted({name for of in shares.values() for name in of})
    drawing = Drawing(name, height=1.3 + 0.22 * len(names) * len(shares))
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
