"""The study in figures: what strategies picked, what it cost, and how they compare."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.study.comparison import Comparison
from benchmarks.study.document import Measure, Net, Study, Trial
from benchmarks.view import Table

__all__ = ["comparison_tables", "overview", "picks_of", "picks_table"]

_NONE = "–"


_OF = {"pick": "the picks", "training": "single trainings, nothing chosen"}


def overview(study: Study, measure: Measure = "pick") -> Table:
    """Return mean and standard deviation of every strategy in every space."""
    rows = []
    for strategy in study.strategies:
        values = [list(net.accuracies(strategy, s, measure).values()) for net, s in study.places]
        rows.append([strategy, *map(_mean_and_sd, values)])
    headings = [f"{net.name}: {net.spaces[space].in_words}" for net, space in study.places]
    title = f"Test accuracy of {_OF[measure]}, %: mean ± standard deviation (n)"
    return Table(title, ["strategy", *headings], rows)


def picks_of(net: Net, space: int, strategy: str) -> dict[str, Any] | None:
    """Return what a strategy picked in a space and what that cost, fit for JSON; means over its
    replicates.

    Accuracies are fractions, ``single_training`` that of all its trainings there; ``cost_s`` is in
    seconds, with all of the search, and ``cost_trainings`` the same by the mean time of a training
    by back-propagation (None if there is none). None if the strategy has no picks there.
    """
    trials = [trial for trial in net.of(strategy) if trial.pick(space) is not None]
    if not trials:
        return None
    picks = [_pick(trial, space) for trial in trials]
    cost = statistics.fmean(trial.cost_s(space) for trial in trials)
    accuracies = [pick.test_accuracy for pick in picks]
    return {
        "n": len(picks),
        "test_accuracy": statistics.fmean(accuracies),
        "single_training": statistics.fmean(net.accuracies(strategy, space, "training").values()),
        "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "test_accuracies": accuracies,
        "validation_accuracies": [pick.validation_accuracy for pick in picks],
        "picks": [{"cuts": pick.cuts, "aux": pick.aux, "seed": pick.seed} for pick in picks],
        "cost_s": cost,
        "cost_trainings": None if math.isnan(net.training_s) else cost / net.training_s,
        "ideal_speedup": statistics.fmean(pick.ideal_speedup for pick in picks),
        "peak_memory_mib": statistics.fmean(pick.peak_memory_mib for pick in picks),
    }


def picks_table(study: Study, net: Net, space: int) -> Table:
    """Return all strategies' picks in one space, and why one has none."""
    rows, reasons = [], []
    for strategy in study.strategies:
        found = picks_of(net, space, strategy)
        if found is None:
            rows.append([strategy, "0", *[_NONE] * 8])
            reasons += [f"{strategy}: {t.left_out.get(space, _NONE)}" for t in net.of(strategy)[:1]]
            continue
        trainings = found["cost_trainings"]
        rows.append(
            [
                strategy,
                str(found["n"]),
                f"{100 * found['test_accuracy']:.2f}",
                _NONE if found["sd"] is None else f"{100 * found['sd']:.2f}",
                " ".join(f"{100 * each:.2f}" for each in found["test_accuracies"]),
                f"{100 * found['single_training']:.2f}",
                f"{found['cost_s']:.1f}",
                _NONE if trainings is None else f"{trainings:.1f}",
                f"{found['ideal_speedup']:.2f}",
                f"{found['peak_memory_mib']:.1f}",
            ]
        )
    title = (
        f"{net.name}, {net.task.dataset}: {net.spaces[space].in_words}. Test accuracy of picks, "
        "%; mean cost of a pick, search included, in seconds and in trainings by back-propagation"
    )
    if reasons:
        title += f" (left out: {'; '.join(reasons)})"
    headings = ["strategy", "n", "mean", "SD", "every replicate", "one training"]
    headings += ["cost, s", "trainings", "ideal speed-up", "peak memory, MiB"]
    return Table(title, headings, rows)


def comparison_tables(strategies: Sequence[str], comparisons: Sequence[Comparison]) -> list[Table]:
    """Return a table over everything for each measure, and of picks one for each reference by net
    and space.

    Args:
        strategies: In the order of the rows.
        comparisons: As `compare` orders them.
    """
    pooled: dict[tuple[Measure, str, str], str] = {}
    for each in comparisons:
        if each.space is None:  # the first such of two strategies is over most
            difference, interval, _, n = _figures(each)
            key = (each.measure, each.strategy, each.reference)
            pooled.setdefault(key, f"{difference} [{interval}] ({n})")
    references = list(dict.fromkeys(each.reference for each in comparisons))
    measures = list(dict.fromkeys(each.measure for each in comparisons))
    title = (
        "Strategy less {}: difference in test accuracy of {}, points; 95 % interval, paired by {}"
    )
    tables = [
        Table(
            title.format(
                "reference", _OF[measure], "replicate of a net over all of its spaces (n)"
            ),
            ["strategy", *(f"less {reference}" for reference in references)],
            [
                [name, *(pooled.get((measure, name, each), _NONE) for each in references)]
                for name in strategies
            ],
        )
        for measure in measures
    ]
    for reference in references:
        rows = [
            [each.strategy, each.net or "all", each.space or "all", *_figures(each)]
            for each in comparisons
            if each.reference == reference and each.measure == "pick"
        ]
        headings = ["strategy", "net", "space", "difference", "95 % interval", "p", "n"]
        words = "replicate; p of the t-test, not corrected for the number of comparisons"
        tables.append(Table(title.format(reference, _OF["pick"], words), headings, rows))
    return tables


def _pick(trial: Trial, space: int) -> Any:
    pick = trial.pick(space)
    assert pick is not None
    return pick


def _mean_and_sd(values: Sequence[float]) -> str:
    if not values:
        return _NONE
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread} ({len(values)})"


def _figures(each: Comparison) -> list[str]:
    figures = [f"{100 * each.mean:+.2f}", _NONE, _NONE, str(each.n)]
    if each.low is not None and each.high is not None and each.p is not None:
        figures[1] = f"{100 * each.low:+.2f} to {100 * each.high:+.2f}"
        figures[2] = "< 0.001" if each.p < 0.001 else f"{each.p:.3f}"
    return figures
