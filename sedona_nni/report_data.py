"""What a report on experiments shows, as data: `build_report` makes it of their ledgers.

Experiments on the same task are put together, and spreads are those over experiments. Within one a
strategy is followed along its cost: its search first, then its trainings in the order in which they
were handed out. Its best training so far is the one that validates best; test data only report.

Cost is counted twice. ``images``: those that the steps of trainings and searches took, which is
steps times batch size; one of a search takes more computing than one of a training. ``time_s``:
seconds of the trials, as if they had run one after another. A search that serves several numbers of
blocks is charged to each of them. A failed training is charged what the strategy's others cost on
average.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from sedona_nni.compute import Compute
from sedona_nni.decoupling import Decoupling, SearchResult
from sedona_nni.errors import InputError
from sedona_nni.ledger import TrialRecord
from sedona_nni.report import serves
from sedona_nni.task import Task

__all__ = [
    "COSTS",
    "Curve",
    "Experiment",
    "Group",
    "Importance",
    "Report",
    "SearchView",
    "Source",
    "Spread",
    "StrategySummary",
    "Study",
    "TrialView",
    "Within",
    "build_report",
]

Cost = Literal["images", "time_s"]
COSTS: tuple[Cost, ...] = ("images", "time_s")

Importance: TypeAlias = Callable[[Sequence[tuple[Mapping[str, Any], float]]], dict[str, float]]
"""Says how much each hyperparameter matters, from those of trials and what came of them."""

MIN_TRIALS_FOR_IMPORTANCE = 12  # of fewer, chance is all that there is to see

Accuracy = Annotated[FiniteFloat, Field(ge=0, le=1)]
Amount = Annotated[FiniteFloat, Field(ge=0)]


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spread(_Shown):
    """Values of the same thing in several experiments.

    Attributes:
        mean: Their mean.
        sd: Their sample standard deviation (n - 1 in the denominator), None of a single one.
        values: The values themselves.
    """

    mean: float
    sd: float | None
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of values, None of none."""
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), sd=sd, values=list(values))


class Block(_Shown):
    """A block of a network.

    Attributes:
        first_layer: Its first layer.
        last_layer: Its last layer.
        aux: Its auxiliary network, None for the last block, which has the head.
        share: MACs of its layers (and head), as a share of the backbone's.
        aux_share: MACs of its auxiliary network, as a share of the backbone's, too.
    """

    first_layer: int
    last_layer: int
    aux: str | None
    share: float
    aux_share: float


class TrialView(_Shown):
    """A training.

    Attributes:
        experiment: The experiment's name.
        key: The trial's name in it.
        strategy: What its decoupling comes from.
        status: Whether it has ended, and how.
        reason: Why it failed.
        decoupling: What was trained.
        hyperparameters: Those that were tuned.
        seed: Of the training.
        validation_accuracy: Fraction; of the epoch that validates best, as the next.
        test_accuracy: Fraction.
        best_epoch: That epoch, from 1.
        parameters: Number of weights, auxiliary networks included.
        peak_memory_mib: Peak memory of a training step, MiB.
        time_s: Seconds of training.
        images: Images that the steps took.
        compute: MACs of the backbone's layers and of the auxiliary networks, for one image.
        sizes: Height and width of each layer's maps, pixels.
        blocks: What share of the compute each block has.
        ideal_speedup: Gain of a pipeline with a device per block over back-propagation on one
            device if nothing but computing took time, see `Compute.largest_share`.
        history: By name a value for each epoch that was kept, None where there was none.
    """

    experiment: str
    key: str
    strategy: str
    status: Literal["running", "succeeded", "failed"]
    reason: str | None = None
    decoupling: Decoupling
    hyperparameters: dict[str, Any] = {}
    seed: int | None = None
    validation_accuracy: Accuracy | None = None
    test_accuracy: Accuracy | None = None
    best_epoch: int | None = None
    parameters: int | None = None
    peak_memory_mib: Amount | None = None
    time_s: Amount | None = None
    images: Amount | None = None
    compute: Compute | None = None
    sizes: list[int] = []
    blocks: list[Block] = []
    ideal_speedup: float | None = None
    history: dict[str, list[FiniteFloat | None]] = {}


class SearchHistory(_Shown):
    """How a search went.

    Attributes:
        step: Steps done at each report.
        default: Validation accuracy of the relaxed network's head.
        meta_loss: Mean meta-loss since the report before, nats.
    """

    step: list[int]
    default: list[Accuracy]
    meta_loss: list[FiniteFloat]


class Relaxation(_Shown):
    """What alpha and beta were during a search, from the end of pre-training on.

    Attributes:
        step: Steps done.
        a_loc: a^loc of every boundary.
        aux: Softmax of beta: the weights of the auxiliary choices at every boundary.
    """

    step: list[int]
    a_loc: list[list[Accuracy]]
    aux: list[list[list[Accuracy]]]


class SearchView(_Shown):
    """A search.

    Attributes:
        experiment: The experiment's name.
        key: The trial's name in it.
        strategy: Whose search it is.
        status: Whether it has ended, and how.
        reason: Why it failed.
        pretrain_steps: Steps before the first that changes alpha and beta.
        result: What it found.
        a_loc: How much each boundary prefers a cut.
        undecided: Share of boundaries whose a^loc is within 0.01 of 0.5.
        validation_accuracy: Of the relaxed network's head at the end, a fraction.
        peak_memory_mib: Peak memory of a step, MiB.
        time_s: Seconds that it took.
        images: Images that its steps took.
        history: How it went, None where that was not kept.
        relaxation: What it did to alpha and beta, likewise.
    """

    experiment: str
    key: str
    strategy: str
    status: Literal["running", "succeeded", "failed"]
    reason: str | None = None
    pretrain_steps: int | None = None
    result: SearchResult | None = None
    a_loc: list[float] = []
    undecided: float | None = None
    validation_accuracy: Accuracy | None = None
    peak_memory_mib: Amount | None = None
    time_s: Amount | None = None
    images: Amount | None = None
    history: SearchHistory | None = None
    relaxation: Relaxation | None = None

    def serves(self, strategy: str) -> bool:
        """Return whether a strategy trains what this finds."""
        return serves(self.strategy, strategy)


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


class Experiment(_Shown):
    """An experiment.

    Attributes:
        name: NNI's id, or the name of the folder or file that was given.
        state: ``running``; ``finished``; ``unfinished`` if trials are open but nothing runs, as far
            as can be told.
        planned: Number of trials that it is going to have, None where that is not known.
        succeeded: Trials that did, searches included.
        failed: Trials that did not.
        open: Keys of the trials that were handed out and have not ended.
    """

    name: str
    state: Literal["running", "finished", "unfinished"]
    planned: int | None
    succeeded: int
    failed: int
    open: list[str]


class Curve(_Shown):
    """Best accuracy so far of a strategy over its cost; a step at each of the points.

    Attributes:
        strategy: Whose.
        cost: In what.
        num_experiments: n, over how many experiments values are the mean.
        points: Costs, from where all n have a training; one that has ended keeps its best.
        validation: Mean accuracy at each.
        validation_sd: Its standard deviation, None if n is 1.
        test: Mean test accuracy of the same trainings; None if it was not measured.
        test_sd: Its standard deviation.
    """

    strategy: str
    cost: Cost
    num_experiments: int
    points: list[float]
    validation: list[float]
    validation_sd: list[float] | None
    test: list[float] | None
    test_sd: list[float] | None


class Within(_Shown):
    """What a strategy reaches within a cost that all strategies have spent.

    Attributes:
        num_experiments: How many of its experiments have a training within it.
        validation_accuracy: Of the best training so far.
        test_accuracy: Of the same trainings.
        first: Least cost of a first training of it, search included.
    """

    num_experiments: int
    validation_accuracy: Spread | None
    test_accuracy: Spread | None
    first: float


class StrategySummary(_Shown):
    """A strategy, all its trainings and searches in all experiments.

    Attributes:
        strategy: Its name.
        num_experiments: In how many experiments a training of it succeeded.
        num_trials: Trainings that succeeded.
        num_failed: Trainings that did not.
        best: For each experiment the best of its trainings; the best of them first.
        validation_accuracy: Of those.
        test_accuracy: Of those.
        peak_memory_mib: Of those, MiB.
        ideal_speedup: Of those.
        time_s: Seconds that those trainings took.
        search_time_s: Seconds that its searches took; None without any.
        total: All that it has cost, by kind of cost.
        within: What it reaches within the group's budget, by kind of cost.
    """

    strategy: str
    num_experiments: int
    num_trials: int
    num_failed: int
    best: list[TrialView]
    validation_accuracy: Spread | None
    test_accuracy: Spread | None
    peak_memory_mib: Spread | None
    ideal_speedup: Spread | None
    time_s: Spread | None
    search_time_s: Spread | None
    total: dict[Cost, Spread]
    within: dict[Cost, Within]


class Study(_Shown):
    """The tuning of a strategy's hyperparameters.

    Attributes:
        strategy: Whose.
        experiment: Name of the experiment.
        accuracies: Validation accuracy of every training that has ended, None where it failed.
        importance: Share of each hyperparameter in what makes trainings of the strategy good, all
            experiments together; None below `MIN_TRIALS_FOR_IMPORTANCE` trainings.
    """

    strategy: str
    experiment: str
    accuracies: list[Accuracy | None]
    importance: dict[str, float] | None


class Group(_Shown):
    """All there is on one task.

    Attributes:
        task: The task.
        experiments: The experiments.
        strategies: Their strategies, in order of appearance.
        curves: Accuracy over cost.
        budgets: The cost that every strategy has spent in every experiment, by kind.
        studies: Tuning, by strategy and experiment.
        searches: Every search.
        trials: Every training.
        differing: Training settings that are not the same in all trainings though not tuned; the
            seed aside.
    """

    task: Task
    experiments: list[Experiment]
    strategies: list[StrategySummary]
    curves: list[Curve]
    budgets: dict[Cost, float]
    studies: list[Study]
    searches: list[SearchView]
    trials: list[TrialView]
    differing: list[str]


class Report(_Shown):
    """The whole report; a group for each task."""

    format: Literal["sedona-nni/report/1"] = "sedona-nni/report/1"
    groups: list[Group]


def build_report(sources: Iterable[Source], importance: Importance) -> Report:
    """Put together what a report on experiments shows.

    Args:
        sources: The experiments.
        importance: How to tell which hyperparameters matter.

    Raises:
        InputError: if an experiment has no trials, or one that makes no sense.
    """
    by_task: dict[str, list[tuple[Source, Task]]] = {}
    for source in sources:
        if not source.records:
            raise InputError(f"{source.name}: has no trials yet")
        task = _task(source)
        same = task.model_dump_json(exclude={"data_dir", "split_seed"})
        by_task.setdefault(same, []).append((source, task))
    groups = []
    for members in by_task.values():
        groups.append(_group(members[0][1], [source for source, _ in members], importance))
    return Report(groups=groups)


def _task(source: Source) -> Task:
    record = source.records[0]
    try:
        return Task.model_validate(record.parameters.get("task", {}))
    except ValidationError as error:
        raise InputError.from_validation(error, f"{source.name}: {record.key}.task") from None


def _group(task: Task, sources: Sequence[Source], importance: Importance) -> Group:
    trials = [_trial(s.name, r) for s in sources for r in s.records if r.stage == "train"]
    searches = [_search(s.name, r) for s in sources for r in s.records if r.stage == "search"]
    paths = _paths(trials, searches)
    budgets: dict[Cost, float] = {}
    for cost in COSTS:
        ends = [path.costs[cost][-1] for path in paths if path.costs.get(cost)]
        if ends and len(ends) == len(paths):
            budgets[cost] = min(ends)
    names = list(dict.fromkeys(trial.strategy for trial in trials))
    own = {name: [path for path in paths if path.strategy == name] for name in names}
    curves = [_curve(name, cost, own[name]) for name in names for cost in budgets]
    return Group(
        task=task,
        experiments=[_experiment(source) for source in sources],
        strategies=[_summary(name, trials, searches, own[name], budgets) for name in names],
        curves=[curve for curve in curves if curve is not None],
        budgets=budgets,
        studies=_studies(trials, importance),
        searches=searches,
        trials=trials,
        differing=_differing(sources),
    )


def _experiment(source: Source) -> Experiment:
    counts = dict.fromkeys(("running", "succeeded", "failed"), 0)
    for record in source.records:
        counts[record.status] += 1
    ended = counts["succeeded"] + counts["failed"]
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
        open=[record.key for record in source.records if record.status == "running"],
    )


def _trial(experiment: str, record: TrialRecord) -> TrialView:
    given, result = record.parameters, dict(record.result or {})
    shown = {
        **{name: result[name] for name in TrialView.model_fields if name in result},
        "experiment": experiment,
        "key": record.key,
        "strategy": record.strategy,
        "status": record.status,
        "reason": record.reason,
        "decoupling": given.get("decoupling"),
        "hyperparameters": given.get("hyperparameters", {}),
        "seed": given.get("train", {}).get("seed"),
        "validation_accuracy": result.get("default"),
    }
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
    result = dict(record.result or {})
    shown = {
        **{name: result[name] for name in SearchView.model_fields if name in result},
        "experiment": experiment,
        "key": record.key,
        "strategy": record.strategy,
        "status": record.status,
        "reason": record.reason,
        "pretrain_steps": record.parameters.get("search", {}).get("pretrain_steps"),
        "result": result.get("search_result"),
        "validation_accuracy": result.get("default"),
    }
    try:
        search = SearchView.model_validate(shown)
    except ValidationError as error:
        raise InputError.from_validation(error, f"{experiment}: {record.key}") from None
    if search.result is None:
        return search
    found = search.result
    return search.model_copy(
        update={"a_loc": found.a_loc().tolist(), "undecided": found.undecided_share}
    )


@dataclass(frozen=True)
class _Path:
    """A strategy in an experiment.

    Attributes:
        strategy: Its name.
        trials: Trainings that succeeded, in the order in which they were handed out.
        costs: What had been spent when each of them was done, by kind; only kinds that are known.
    """

    strategy: str
    trials: list[TrialView]
    costs: dict[Cost, list[float]]

    def best_within(self, cost: Cost, budget: float) -> TrialView | None:
        """Return the best training that is done at that cost."""
        done = [t for t, c in zip(self.trials, self.costs[cost], strict=True) if c <= budget]
        return _best(done)


def _best(trials: Iterable[TrialView]) -> TrialView | None:
    return max(trials, key=lambda trial: trial.validation_accuracy or 0.0, default=None)


def _paths(trials: Sequence[TrialView], searches: Sequence[SearchView]) -> list[_Path]:
    """Return the path of each strategy that has a training that succeeded, by experiment."""
    pairs = dict.fromkeys((trial.strategy, trial.experiment) for trial in trials)
    found = []
    for strategy, experiment in pairs:
        own = [t for t in trials if (t.strategy, t.experiment) == (strategy, experiment)]
        done = [trial for trial in own if trial.status == "succeeded"]
        search = [s for s in searches if s.experiment == experiment and s.serves(strategy)]
        costs: dict[Cost, list[float]] = {}
        for cost in COSTS:
            if (spent := _cumulative(cost, own, search)) is not None:
                costs[cost] = spent
        if done:
            found.append(_Path(strategy, done, costs))
    return found


def _cumulative(
    cost: Cost, trials: Sequence[TrialView], searches: Sequence[SearchView]
) -> list[float] | None:
    """Return what was spent at the end of each training that succeeded, None if not known."""
    searched = [getattr(search, cost) for search in searches if search.status == "succeeded"]
    trained = [getattr(trial, cost) for trial in trials if trial.status == "succeeded"]
    if not trained or None in searched or None in trained:
        return None
    typical = statistics.fmean(trained)
    spent, ends = sum(searched), []
    for trial in trials:
        if trial.status == "succeeded":
            spent += getattr(trial, cost)
            ends.append(spent)
        elif trial.status == "failed":
            spent += typical
    return ends


def _curve(strategy: str, cost: Cost, paths: Sequence[_Path]) -> Curve | None:
    """Average the best so far over experiments wherever all have one, None if there are none."""
    if not paths:
        return None
    ends = [path.costs[cost] for path in paths]
    start = max(end[0] for end in ends)
    points = sorted({point for end in ends for point in end if start <= point})
    best = [[path.best_within(cost, point) for path in paths] for point in points]
    validation = [[t.validation_accuracy for t in row if t is not None] for row in best]
    test = [[t.test_accuracy for t in row if t is not None] for row in best]
    validation_mean, validation_sd = _statistics(validation)
    test_mean, test_sd = _statistics(test)
    assert validation_mean is not None
    return Curve(
        strategy=strategy,
        cost=cost,
        num_experiments=len(paths),
        points=points,
        validation=validation_mean,
        validation_sd=validation_sd,
        test=test_mean,
        test_sd=test_sd,
    )


def _statistics(
    rows: Sequence[Sequence[float | None]],
) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and standard deviation of each row, None where they do not exist."""
    known = [[value for value in row if value is not None] for row in rows]
    if any(len(row) < len(all_) or not row for row, all_ in zip(known, rows, strict=True)):
        return None, None
    spreads = [Spread.of(row) for row in known]
    means = [spread.mean for spread in spreads if spread is not None]
    deviations = [s.sd for s in spreads if s is not None and s.sd is not None]
    return means, deviations if len(deviations) == len(means) else None


def _summary(
    strategy: str,
    trials: Sequence[TrialView],
    searches: Sequence[SearchView],
    paths: Sequence[_Path],
    budgets: Mapping[Cost, float],
) -> StrategySummary:
    own = [trial for trial in trials if trial.strategy == strategy]
    best = [trial for path in paths if (trial := _best(path.trials)) is not None]
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
        best=sorted(best, key=lambda trial: -(trial.validation_accuracy or 0.0)),
        validation_accuracy=spread("validation_accuracy"),
        test_accuracy=spread("test_accuracy"),
        peak_memory_mib=spread("peak_memory_mib"),
        ideal_speedup=spread("ideal_speedup"),
        time_s=spread("time_s"),
        search_time_s=Spread.of(search_times),
        total={cost: found for cost, found in total.items() if found is not None},
        within={cost: _within(cost, budgets[cost], paths) for cost in budgets if paths},
    )


def _within(cost: Cost, budget: float, paths: Sequence[_Path]) -> Within:
    best = [trial for path in paths if (trial := path.best_within(cost, budget)) is not None]
    return Within(
        num_experiments=len(best),
        validation_accuracy=Spread.of([t.validation_accuracy or 0.0 for t in best]),
        test_accuracy=Spread.of([t.test_accuracy for t in best if t.test_accuracy is not None]),
        first=min(path.costs[cost][0] for path in paths),
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
            own = [t.validation_accuracy for t in ended if t.experiment == experiment]
            found.append(
                Study(
                    strategy=strategy,
                    experiment=experiment,
                    accuracies=own,
                    importance=shares,
                )
            )
    return found


def _differing(sources: Sequence[Source]) -> list[str]:
    seen: dict[str, set[str]] = {}
    for record in (record for source in sources for record in source.records):
        tuned = record.parameters.get("hyperparameters", {})
        for name, value in record.parameters.get("train", {}).items():
            if name != "seed" and name not in tuned:
                seen.setdefault(name, set()).add(repr(value))
    return sorted(name for name, values in seen.items() if len(values) > 1)
