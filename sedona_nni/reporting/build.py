"""Makes the data of a report from the ledgers of experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ValidationError

from sedona_nni.decouplings.choice import FrontPoint, pareto_front
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.reporting.data import (
    COSTS,
    Block,
    Compromise,
    Cost,
    Experiment,
    Group,
    Report,
    SearchView,
    Spread,
    StrategySummary,
    Study,
    TrialView,
)
from sedona_nni.reporting.equal_cost import CostPath, best_of, curve_of, paths_of, within_of
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.speed import measured_speedups
from sedona_nni.reporting.studies import unfolded
from sedona_nni.reporting.trial import (
    RepeatedTrial,
    RepeatedTrialResult,
    SearchTrial,
    SearchTrialResult,
    StudyTrial,
    TrainTrial,
    TrainTrialResult,
)
from sedona_nni.searches import SEARCHES
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone, task_layers

__all__ = ["MIN_TRIALS_FOR_IMPORTANCE", "Importance", "Source", "build_report"]

Importance: TypeAlias = Callable[[Sequence[tuple[Mapping[str, Any], float]]], dict[str, float]]
"""Says how much each hyperparameter matters, from those of trials and what came of them."""

MIN_TRIALS_FOR_IMPORTANCE = 12  # of fewer, chance is all that there is to see


@dataclass(frozen=True)
class Source:
    """An experiment that is to be reported.

    Attributes:
        name: What to call it.
        records: Its trials.
        is_running: Whether somebody is at work on it.
        planned: Number of trials that it is going to have, None where that is not known.
    """

    name: str
    records: Sequence[TrialRecord]
    is_running: bool = False
    planned: int | None = None


@dataclass(frozen=True)
class _Part:
    """What of an experiment belongs to a group.

    Attributes:
        source: The experiment.
        runs: Its trials, by the name of what counts as an experiment: itself or its replicates.
    """

    source: Source
    runs: Mapping[str, Sequence[TrialRecord]]


def build_report(sources: Iterable[Source], importance: Importance) -> Report:
    """Put together what a report on experiments shows.

    Args:
        sources: The experiments.
        importance: How to tell which hyperparameters matter.

    Raises:
        InputError: if an experiment has no trials, or one that makes no sense.
    """
    groups: dict[tuple[str, str | None], list[_Part]] = {}
    tasks: dict[tuple[str, str | None], Task] = {}
    for source in sources:
        if not source.records:
            raise InputError(f"{source.name}: has no trials yet")
        task = source.records[0].parameters.task
        same = task.model_dump_json(exclude={"data_dir", "split_seed"})
        for space, part in _parts(source).items():
            tasks.setdefault((same, space), task)
            groups.setdefault((same, space), []).append(part)
    return Report(
        groups=[_group(tasks[key], key[1], parts, importance) for key, parts in groups.items()]
    )


def _parts(source: Source) -> dict[str | None, _Part]:
    """Return an experiment, of a study each of its spaces."""
    if not any(isinstance(record.parameters, StudyTrial) for record in source.records):
        return {None: _Part(source, {source.name: source.records})}
    by_space = unfolded(source.name, source.records)
    return {space: _Part(source, runs) for space, runs in by_space.items()}


def _group(task: Task, space: str | None, parts: Sequence[_Part], importance: Importance) -> Group:
    known = [(name, r) for part in parts for name, records in part.runs.items() for r in records]
    speedups = {
        (name, key): value
        for part in parts
        for name, records in part.runs.items()
        for key, value in measured_speedups(records).items()
    }
    trials = [
        _trial(name, record, speedups.get((name, record.key)))
        for name, record in known
        if not record.is_search
    ]
    searches = [_search(name, record) for name, record in known if record.is_search]
    searches = [_with_compromises(search, trials, task) for search in searches]
    paths = paths_of(trials, searches)
    budgets: dict[Cost, float] = {}
    for cost in COSTS:
        ends = [path.costs[cost][-1] for path in paths if path.costs.get(cost)]
        if ends and len(ends) == len(paths):
            budgets[cost] = min(ends)
    appeared = dict.fromkeys(trial.strategy for trial in trials)
    # Others are trained while a search is under way, but what was searched for comes first
    names = sorted(appeared, key=lambda name: not any(search.serves(name) for search in searches))
    own = {name: [path for path in paths if path.strategy == name] for name in names}
    curves = [curve_of(name, cost, own[name]) for name in names for cost in budgets]
    return Group(
        task=task,
        space=space,
        experiments=[_experiment(part.source) for part in parts],
        strategies=[_summary(name, trials, searches, own[name], budgets) for name in names],
        curves=[curve for curve in curves if curve is not None],
        budgets=budgets,
        studies=[] if space else _studies(trials, importance),
        searches=searches,
        trials=trials,
        differing=_differing([record for _, record in known]),
    )


def _experiment(source: Source) -> Experiment:
    counts = dict.fromkeys(("running", "succeeded", "failed", "stopped"), 0)
    for record in source.records:
        counts[record.status] += 1
    ended = counts["succeeded"] + counts["failed"] + counts["stopped"]
    missing = source.planned is not None and ended < source.planned
    state: Literal["running", "finished", "unfinished"] = "finished"
    if counts["running"] or missing:
        state = "running" if source.is_running else "unfinished"
    return Experiment(
        name=source.name,
        state=state,
        planned=source.planned,
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        stopped=counts["stopped"],
        open=[record.key for record in source.records if record.status == "running"],
        lost={
            record.key: record.reason or "no reason is known"
            for record in source.records
            if record.status == "failed" and isinstance(record.parameters, StudyTrial)
        },
    )


def _numbers(record: TrialRecord, view: type[BaseModel]) -> dict[str, Any]:
    """Return what of a trial's result a view of it shows under the same name."""
    result = {} if record.result is None else record.result.model_dump(exclude_none=True)
    return {name: result[name] for name in view.model_fields if name in result}


def _trial(experiment: str, record: TrialRecord, speedup: float | None) -> TrialView:
    given, result = record.parameters, record.result
    assert isinstance(given, TrainTrial | RepeatedTrial)
    shown = {
        **_numbers(record, TrialView),
        "experiment": experiment,
        "key": record.key,
        "strategy": record.strategy,
        "status": record.status,
        "reason": record.reason,
        "share_done": record.share_done,
        "decoupling": given.decoupling,
        "hyperparameters": {},
        "seed": given.train.get("seed"),
        "validation_accuracy": None if result is None else result.default,
        "measured_speedup": speedup,
    }
    if isinstance(result, TrainTrialResult | RepeatedTrialResult):
        shown["processes"] = len(result.ranks) or 1
    if isinstance(given, TrainTrial):
        drawn = {"hyperparameters": given.hyperparameters, "ideal_speedup": given.ideal_speedup}
        shown |= drawn
    try:
        trial = TrialView.model_validate(shown)
    except ValidationError as error:
        raise InputError.from_validation(error, f"{experiment}: {record.key}") from None
    if trial.compute is None:
        return trial
    return trial.model_copy(
        update={
            "blocks": _blocks(trial.decoupling, trial.compute),
            "ideal_speedup": 1 / trial.compute.largest_share(trial.decoupling),
        }
    )


def _blocks(decoupling: Decoupling, compute: Compute) -> list[Block]:
    blocks = []
    ranges = decoupling.blocks(len(compute.layers))
    wholes = compute.blocks(decoupling)
    for block, aux, whole in zip(ranges, [*decoupling.aux, None], wholes, strict=True):
        own = sum(compute.layers[block.start : block.stop])
        blocks.append(
            Block(
                first_layer=block[0],
                last_layer=block[-1],
                aux=aux,
                share=own / compute.total,
                aux_share=(whole - own) / compute.total,
            )
        )
    return blocks


def _search(experiment: str, record: TrialRecord) -> SearchView:
    given, result = record.parameters, record.result
    assert isinstance(given, SearchTrial)
    kind, found, accuracy = given.search, None, None
    if given.search in SEARCHES:
        known = SEARCHES[given.search]
        kind = known.noun
        if isinstance(result, SearchTrialResult):
            found = result.search_result
            accuracy = result.default if known.default_is_accuracy else None
    shown = {
        **_numbers(record, SearchView),
        "experiment": experiment,
        "key": record.key,
        "strategy": record.strategy,
        "search": given.search,
        "kind": kind,
        "status": record.status,
        "reason": record.reason,
        "pretrain_steps": given.settings.get("pretrain_steps"),
        "result": found,
        "validation_accuracy": accuracy,
    }
    try:
        search = SearchView.model_validate(shown)
    except ValidationError as error:
        raise InputError.from_validation(error, f"{experiment}: {record.key}") from None
    if search.result is None:
        return search
    numbers = search.result.for_reports()
    shown = {name: numbers[name] for name in SearchView.model_fields if name in numbers}
    return search.model_copy(update=shown)


def _with_compromises(search: SearchView, trials: Sequence[TrialView], task: Task) -> SearchView:
    """Return a search with what there was to choose from, where that can be counted."""
    trained = {
        trial.decoupling
        for trial in trials
        if trial.experiment == search.experiment and search.serves(trial.strategy)
    }
    compute = None if search.result is None else _compute(task, search.result)
    if search.result is None or compute is None:
        return search
    found: list[Compromise] = []
    for num_blocks in sorted({each.num_blocks for each in trained} - {1}):
        front = pareto_front(search.result, num_blocks, compute)
        best = {point.decoupling for point in front}
        others = [
            FrontPoint.of(search.result, each, compute)
            for each in trained - best
            if each.num_blocks == num_blocks
        ]
        found += [
            Compromise(
                decoupling=point.decoupling.model_copy(update={"provenance": {}}),
                evidence=point.evidence,
                largest_share=point.largest_share,
                ideal_speedup=point.ideal_speedup,
                is_best=point.decoupling in best,
                is_trained=point.decoupling in trained,
            )
            for point in sorted([*front, *others], key=lambda point: -point.largest_share)
        ]
    return search.model_copy(update={"compromises": found})


def _compute(task: Task, found: SearchOutcome) -> Compute | None:
    """Return the MACs of what was searched, None if that is another network or nobody knows."""
    with suppress(InputError):
        if (task.backbone, task_layers(task)) == (found.backbone, found.num_layers):
            return _counted(task, tuple(found.aux_choices))
    return None


@lru_cache(maxsize=8)  # a study has many searches of the same network
def _counted(task: Task, aux: tuple[str, ...]) -> Compute:
    with torch.device("meta"):
        return compute_in_macs(task_backbone(task), aux)


def _summary(
    strategy: str,
    trials: Sequence[TrialView],
    searches: Sequence[SearchView],
    paths: Sequence[CostPath],
    budgets: Mapping[Cost, float],
) -> StrategySummary:
    own = [trial for trial in trials if trial.strategy == strategy]
    best = [trial for path in paths if (trial := best_of(path.trials)) is not None]
    search_times = [s.time_s for s in searches if s.serves(strategy) and s.time_s is not None]
    total = {
        cost: Spread.of([path.costs[cost][-1] for path in paths if cost in path.costs])
        for cost in COSTS
    }

    def spread(name: str) -> Spread | None:
        values = [getattr(trial, name) for trial in best]
        return Spread.of([value for value in values if value is not None])

    return StrategySummary(
        strategy=strategy,
        num_experiments=len(paths),
        num_trials=sum(trial.status == "succeeded" for trial in own),
        num_failed=sum(trial.status == "failed" for trial in own),
        num_stopped=sum(trial.status == "stopped" for trial in own),
        best=sorted(best, key=lambda trial: -(trial.validation_accuracy or 0.0)),
        validation_accuracy=spread("validation_accuracy"),
        test_accuracy=spread("test_accuracy"),
        peak_memory_mib=spread("peak_memory_mib"),
        peak_resident_mib=spread("peak_resident_mib"),
        ideal_speedup=spread("ideal_speedup"),
        measured_speedup=spread("measured_speedup"),
        time_s=spread("time_s"),
        search_time_s=Spread.of(search_times),
        total={cost: found for cost, found in total.items() if found is not None},
        within={cost: within_of(cost, budgets[cost], paths) for cost in budgets if paths},
    )


def _studies(trials: Sequence[TrialView], importance: Importance) -> list[Study]:
    found: list[Study] = []
    for strategy in dict.fromkeys(trial.strategy for trial in trials):
        ended = [t for t in trials if t.strategy == strategy and t.status != "running"]
        scored = [
            (trial.hyperparameters, trial.validation_accuracy)
            for trial in ended
            if trial.hyperparameters and trial.validation_accuracy is not None
        ]
        enough = len(scored) >= MIN_TRIALS_FOR_IMPORTANCE
        shares = importance(scored) if enough else None
        for experiment in dict.fromkeys(trial.experiment for trial in ended):
            own = [trial for trial in ended if trial.experiment == experiment]
            found.append(
                Study(
                    strategy=strategy,
                    experiment=experiment,
                    accuracies=[trial.validation_accuracy for trial in own],
                    stopped=[n for n, t in enumerate(own, start=1) if t.status == "stopped"],
                    importance=shares,
                )
            )
    return found


def _differing(records: Sequence[TrialRecord]) -> list[str]:
    seen: dict[str, set[str]] = {}
    for record in records:
        trial = record.parameters
        if not isinstance(trial, TrainTrial | RepeatedTrial):
            continue
        tuned = trial.hyperparameters if isinstance(trial, TrainTrial) else {}
        for name, value in trial.train.items():
            if name != "seed" and name not in tuned:
                seen.setdefault(name, set()).add(repr(value))
    return sorted(name for name, values in seen.items() if len(values) > 1)
