"""The closing table of an experiment: one row per strategy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.speed import ideal_speedup, measured_speedups
from sedona_nni.reporting.trial import (
    RepeatedTrial,
    RepeatedTrialResult,
    SearchTrialResult,
    SecondObjective,
    StudyTrial,
    StudyTrialResult,
    TrainTrial,
    TrainTrialResult,
    method_of,
)

__all__ = [
    "Compromise",
    "StrategyRow",
    "as_markdown",
    "closing_table",
    "comparison",
    "compromise_table",
    "compromises",
    "markdown_table",
    "serves",
    "trials_in_words",
    "without_variant",
]


class StrategyRow(BaseModel):
    """The best trial of a strategy, chosen by validation accuracy; test data only reports.

    In a study, whose trials repeat the same, means over all of them: see `sedona_nni.trials.study`.

    Attributes:
        decoupling: Of the best trial; this and the next six are None if no trial succeeded, and
            what a study does not have.
        method: Name of the method that trained it.
        validation_accuracy: Fraction.
        test_accuracy: Fraction.
        parameters: Number of weights trained, auxiliary networks included.
        peak_memory_mib: Peak memory of a training step, MiB; of a training in parallel that of the
            process that needs most, as the next.
        ideal_peak_memory_mib: That of the largest block in a process of its own, as counted, MiB.
        peak_resident_mib: The most main memory that its process had, MiB.
        processes: In how many it was trained.
        ideal_speedup: See `sedona_nni.reporting.speed`.
        measured_speedup: See there.
        time_s: Time that the best trial took to train, seconds.
        search_time_s: Time that the strategy's search trials took, seconds; None without any.
        num_trials: Training trials that succeeded.
        num_failed: Training trials that did not.
        num_stopped: Training trials that were stopped early, as there was no hope for them.
        num_planned: Training trials that it was to have, where the experiment ended before; so the
            row is not to be compared with others.
        is_mean: Whether it is of a study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str
    decoupling: Decoupling | None = None
    method: str | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    parameters: int | None = None
    peak_memory_mib: float | None = None
    ideal_peak_memory_mib: float | None = None
    peak_resident_mib: float | None = None
    processes: int | None = None
    ideal_speedup: float | None = None
    measured_speedup: float | None = None
    time_s: float | None = None
    search_time_s: float | None = None
    num_trials: int
    num_failed: int
    num_stopped: int = 0
    num_planned: int | None = None
    is_mean: bool = False


def serves(search: str, strategy: str) -> bool:
    """Return whether a strategy trains what a search of another name finds.

    One search serves every number of blocks and all leaders: that of ``sedona`` also ``sedona-k2``,
    ``sedona-3`` and ``sedona-k2-3``.
    """
    return search in (strategy, without_variant(strategy))


def without_variant(strategy: str) -> str:
    """Return a strategy's name without number of blocks and place among the leaders."""
    return re.sub(r"(-k\d+)?(-\d+)?$", "", strategy)


def comparison(
    records: Iterable[TrialRecord], planned: Mapping[str, int] | None = None
) -> list[StrategyRow]:
    """Return one row per strategy, in the order in which they first appear.

    Args:
        records: The trials.
        planned: Of an experiment that has ended early, how many trainings each strategy was to
            have; then each of these has a row, in this order.
    """
    known = list(records)
    trained = {record.strategy for record in known if not record.is_search}
    speedups = measured_speedups(known)
    strategies = planned or [
        strategy
        for strategy in dict.fromkeys(record.strategy for record in known)
        if strategy in trained or not any(serves(strategy, other) for other in trained)
    ]
    return [
        _row(
            strategy,
            [
                record
                for record in known
                if record.strategy == strategy
                or (record.is_search and serves(record.strategy, strategy))
            ],
            (planned or {}).get(strategy),
            speedups,
        )
        for strategy in strategies
    ]


def _row(
    strategy: str,
    records: list[TrialRecord],
    planned: int | None,
    speedups: Mapping[str, float],
) -> StrategyRow:
    own = [r for r in records if not r.is_search]
    trained = [r for r in own if r.status == "succeeded"]
    searched = [r.result for r in records if isinstance(r.result, SearchTrialResult)]
    ended = Counter(r.status for r in own if r.status != "running")
    row: dict[str, Any] = {
        "strategy": strategy,
        "num_trials": len(trained),
        "num_failed": ended["failed"],
        "num_stopped": ended["stopped"],
        "num_planned": None if ended.total() == planned else planned,
        "search_time_s": sum(each.time_s or 0.0 for each in searched) if searched else None,
    }
    if any(isinstance(record.parameters, StudyTrial) for record in records):
        studied = [r.result for r in trained if isinstance(r.result, StudyTrialResult)]
        row |= {"is_mean": True, **_means(studied)}
    elif trained:
        best = max(trained, key=lambda record: record.validation_accuracy)
        row |= {**_of_the_best(best), "measured_speedup": speedups.get(best.key)}
    return StrategyRow.model_validate(row)


def _of_the_best(record: TrialRecord) -> dict[str, Any]:
    """Return what the table says of a training that succeeded."""
    trial, result = record.parameters, record.result
    assert isinstance(trial, TrainTrial | RepeatedTrial)
    assert isinstance(result, TrainTrialResult | RepeatedTrialResult)
    return {
        "decoupling": trial.decoupling,
        "method": method_of(trial),
        "validation_accuracy": result.default,
        "test_accuracy": result.test_accuracy,
        "parameters": result.parameters,
        "peak_memory_mib": result.peak_memory_mib,
        "ideal_peak_memory_mib": result.ideal_peak_memory_mib,
        "peak_resident_mib": result.peak_resident_mib,
        "processes": len(result.ranks) or 1,
        "ideal_speedup": ideal_speedup(record),
        "time_s": result.time_s,
    }


def _means(results: list[StudyTrialResult]) -> dict[str, float]:
    """Return the means of a study's trials; nothing of none, and no search of those without."""
    searched = [0.0 if result.search is None else result.search.time_s for result in results]
    columns = {
        "validation_accuracy": [result.default for result in results],
        "test_accuracy": [result.test_accuracy for result in results],
        "time_s": [(r.time_s or 0.0) - s for r, s in zip(results, searched, strict=True)],
        "search_time_s": [r.search.time_s for r in results if r.search is not None],
    }
    return {name: fmean(values) for name, values in columns.items() if values}


def closing_table(rows: Iterable[StrategyRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the closing table.

    There are columns for what the largest block takes alone, as counted beforehand, and for the
    peak of processes, where they are known; for their number where some have trained in several;
    and for speed-ups where one of a cut network was measured: "1.48× of 1.70×", that of the ideal.
    """
    shown = list(rows)
    columns: dict[str, Callable[[StrategyRow], str]] = {
        "strategy": lambda row: row.strategy,
        "decoupling": _trained,
        "validation accuracy": lambda row: _text(row.validation_accuracy, "{:.1%}"),
        "test accuracy": lambda row: _text(row.test_accuracy, "{:.1%}"),
        "weights": lambda row: _text(row.parameters, "{:,}"),
        "peak memory": lambda row: _text(row.peak_memory_mib, "{:.0f} MiB"),
    }
    if any(row.ideal_peak_memory_mib is not None for row in shown):
        columns["largest block"] = lambda row: _text(row.ideal_peak_memory_mib, "{:.0f} MiB")
    if any(row.peak_resident_mib is not None for row in shown):
        columns["process peak"] = lambda row: _text(row.peak_resident_mib, "{:.0f} MiB")
    if any(row.processes not in (None, 1) for row in shown):
        columns["processes"] = lambda row: _text(row.processes, "{}")
    if any(row.measured_speedup and row.decoupling and row.decoupling.cuts for row in shown):
        columns["speed-up"] = _speedup
    columns |= {
        "training": lambda row: _text(row.time_s, "{:.1f} s"),
        "search": lambda row: _text(row.search_time_s, "{:.1f} s"),
        "trials": lambda row: trials_in_words(
            row.num_trials, row.num_failed, row.num_stopped, row.num_planned
        ),
    }
    return [*columns], [[text(row) for text in columns.values()] for row in shown]


def trials_in_words(succeeded: int, failed: int, stopped: int, planned: int | None = None) -> str:
    """Return how many trainings there are, how many came to nothing, and how many were to be."""
    others = {"failed": failed, "stopped early": stopped}
    said = ", ".join(f"{count} {how}" for how, count in others.items() if count)
    number = str(succeeded) if planned is None else f"{succeeded} of {planned}"
    return f"{number} ({said})" if said else number


def compromises(records: Iterable[TrialRecord]) -> list[Compromise]:
    """Return the trainings that none other is at least as good as in both objectives and better in
    one, by falling accuracy; none of an experiment with one objective."""
    found = []
    for record in records:
        trial, result = record.parameters, record.result
        if not isinstance(trial, TrainTrial) or not isinstance(result, TrainTrialResult):
            continue
        for value in record.second_value:
            if trial.second_objective is not None and value is not None:
                found.append(
                    Compromise(
                        key=record.key,
                        decoupling=trial.decoupling,
                        hyperparameters=trial.hyperparameters,
                        validation_accuracy=result.default,
                        test_accuracy=result.test_accuracy,
                        second_objective=trial.second_objective,
                        value=value,
                    )
                )
    best = [each for each in found if not any(other.dominates(each) for other in found)]
    return sorted(best, key=lambda each: -each.validation_accuracy)


class Compromise(BaseModel):
    """A training of an experiment with two objectives.

    Attributes:
        key: The training's name.
        decoupling: What was trained.
        hyperparameters: Those that were tuned.
        validation_accuracy: Fraction, the first objective.
        test_accuracy: Fraction.
        second_objective: What ``value`` is.
        value: Peak memory of a training step, MiB; or ideal speed-up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    decoupling: Decoupling
    hyperparameters: dict[str, Any]
    validation_accuracy: float
    test_accuracy: float | None
    second_objective: SecondObjective
    value: float

    def dominates(self, other: Compromise) -> bool:
        """Return whether this is at least as good in both objectives, and better in one."""
        mine, others = self._goods, other._goods
        return mine != others and all(m >= o for m, o in zip(mine, others, strict=True))

    @property
    def _goods(self) -> tuple[float, float]:
        sign = -1 if self.second_objective == "memory" else 1
        return self.validation_accuracy, sign * self.value


def compromise_table(found: Iterable[Compromise]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a table of compromises."""
    shown = list(found)
    in_mib = bool(shown) and shown[0].second_objective == "memory"
    second, form = ("peak memory", "{:.0f} MiB") if in_mib else ("ideal speed-up", "{:.2f}")
    headings = ["training", "decoupling", "validation accuracy", "test accuracy", second, "tuned"]
    return headings, [
        [
            each.key,
            each.decoupling.in_words(),
            _text(each.validation_accuracy, "{:.1%}"),
            _text(each.test_accuracy, "{:.1%}"),
            form.format(each.value),
            ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in each.hyperparameters.items()
            ),
        ]
        for each in shown
    ]


def _trained(row: StrategyRow) -> str:
    """Say what was trained and, unless it is greedy learning, by which method."""
    if row.decoupling is None:
        return "mean of its trials" if row.is_mean else ""
    words = row.decoupling.in_words()
    is_usual = row.method in (None, "greedy") or not row.decoupling.cuts
    return words if is_usual else f"{words}, {row.method}"


def _speedup(row: StrategyRow) -> str:
    measured = _text(row.measured_speedup, "{:.2f}×")
    return measured if row.ideal_speedup is None else f"{measured} of {row.ideal_speedup:.2f}×"


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def as_markdown(rows: Iterable[StrategyRow]) -> str:
    """Return the closing table as Markdown."""
    return markdown_table(*closing_table(rows))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
