"""What a report on experiments shows, as data; `sedona_nni.reporting.build` makes it of ledgers.

Experiments on the same task are put together, and spreads are those over experiments. Each
replicate of a study counts as one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.image_size import ImageSize
from sedona_nni.reporting.results import serves
from sedona_nni.searches.documents import AnyOutcome
from sedona_nni.task import Task

__all__ = [
    "COSTS",
    "Block",
    "Compromise",
    "Cost",
    "Curve",
    "Experiment",
    "Group",
    "Relaxation",
    "Report",
    "SearchHistory",
    "SearchView",
    "Spread",
    "StrategySummary",
    "Study",
    "TrialView",
    "Within",
]

Cost = Literal["images", "time_s"]
COSTS: tuple[Cost, ...] = ("images", "time_s")

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
        reason: Why it failed or was stopped.
        share_done: How much of a training was done when it was stopped early, a fraction.
        decoupling: What was trained.
        hyperparameters: Those that were tuned.
        seed: Of the training.
        validation_accuracy: Fraction; of the epoch that validates best, as the next.
        test_accuracy: Fraction.
        best_epoch: That epoch, from 1; the mean of several trainings in one trial, as the others.
        parameters: Number of weights, auxiliary networks included.
        peak_memory_mib: Peak memory of a training step, MiB; of a training in parallel that of the
            process that needs most, as the next.
        ideal_peak_memory_mib: That of the largest block in a process of its own, as counted, MiB.
        peak_resident_mib: The most main memory that its process had, MiB.
        processes: In how many it was trained.
        time_s: Seconds of training.
        images: Images that the steps took.
        compute: MACs of the backbone's layers and of the auxiliary networks, for one image.
        sizes: Of each layer's maps, pixels, see `sedona_nni.image_size`.
        blocks: What share of the compute each block has.
        ideal_speedup: Gain of a pipeline with a device per block over back-propagation on one
            device if nothing but computing took time, see `Compute.largest_share`.
        measured_speedup: Seconds per image of back-propagation over its own, both on as many
            processors, see `sedona_nni.reporting.speed`.
        history: By name a value for each epoch that was kept, None where there was none.
    """

    experiment: str
    key: str
    strategy: str
    status: Literal["running", "succeeded", "failed", "stopped"]
    reason: str | None = None
    share_done: float | None = None
    decoupling: Decoupling
    hyperparameters: dict[str, Any] = {}
    seed: int | None = None
    validation_accuracy: Accuracy | None = None
    test_accuracy: Accuracy | None = None
    best_epoch: float | None = None
    parameters: int | None = None
    peak_memory_mib: Amount | None = None
    ideal_peak_memory_mib: Amount | None = None
    peak_resident_mib: Amount | None = None
    processes: int = 1
    time_s: Amount | None = None
    images: Amount | None = None
    compute: Compute | None = None
    sizes: list[ImageSize] = []
    blocks: list[Block] = []
    ideal_speedup: float | None = None
    measured_speedup: float | None = None
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


class Compromise(_Shown):
    """A decoupling that may be derived from a search.

    Attributes:
        decoupling: The decoupling.
        evidence: What speaks for its cuts, nats; see `SearchOutcome.evidence`.
        largest_share: Of the compute, see `Compute.largest_share`; MACs.
        ideal_speedup: 1 over it.
        is_best: Whether no other with as many blocks has as much evidence and is as fast, and more
            of one.
        is_trained: Whether it was trained.
    """

    decoupling: Decoupling
    evidence: float
    largest_share: float
    ideal_speedup: float
    is_best: bool
    is_trained: bool


class SearchView(_Shown):
    """A search.

    Attributes:
        experiment: The experiment's name.
        key: The trial's name in it.
        strategy: Whose search it is.
        search: Which search it is, by its name, see `sedona_nni.searches.SEARCHES`.
        kind: What it is called, see `SearchKind.noun`: ``relaxation`` is SEDONA's; ``probing``, by
            short trainings of single cuts.
        status: Whether it has ended, and how.
        reason: Why it failed.
        pretrain_steps: Steps of a relaxation before the first that changes alpha and beta.
        result: What it found; None also of a search that is not known here.
        a_loc: How much each boundary prefers a cut, of a relaxation.
        undecided: Share of boundaries whose a^loc is within 0.01 of 0.5, of a relaxation.
        evidence: Of other searches: e_ij, nats, row i+1 from j = i+1 on, see
            `SearchOutcome.for_reports`.
        steps: Of each probe of a probing.
        trainings: What a probing cost, in full trainings of the undivided backbone, by MACs.
        compromises: For every K of which it was trained what there is to choose from: the Pareto
            front of evidence against ideal speed-up, and what was trained; by K, then speed-up.
        validation_accuracy: Of a relaxed network's head at the end, a fraction; a probing has
            none.
        peak_memory_mib: Peak memory of a step, MiB.
        time_s: Seconds that it took.
        images: Images that its steps took.
        history: How it went, None where that was not kept.
        relaxation: What it did to alpha and beta, likewise.
    """

    experiment: str
    key: str
    strategy: str
    search: str
    kind: str
    status: Literal["running", "succeeded", "failed"]
    reason: str | None = None
    pretrain_steps: int | None = None
    result: AnyOutcome | None = None
    a_loc: list[float] = []
    undecided: float | None = None
    evidence: list[list[float]] = []
    steps: int | None = None
    trainings: Amount | None = None
    compromises: list[Compromise] = []
    validation_accuracy: Accuracy | None = None
    peak_memory_mib: Amount | None = None
    time_s: Amount | None = None
    images: Amount | None = None
    history: SearchHistory | None = None
    relaxation: Relaxation | None = None

    def serves(self, strategy: str) -> bool:
        """Return whether a strategy trains what this finds."""
        return serves(self.strategy, strategy)


class Experiment(_Shown):
    """An experiment.

    Attributes:
        name: NNI's id, or the name of the folder or file that was given.
        state: ``running``; ``finished``; ``unfinished`` if trials are open but nothing runs, as far
            as can be told.
        planned: Number of trials that it is going to have, None where that is not known.
        succeeded: Trials that did, searches included.
        failed: Trials that did not.
        stopped: Trials that were stopped early, as there was no hope for them.
        open: Keys of the trials that were handed out and have not ended.
        lost: Why trials of a study failed, by key; nothing else tells of them.
    """

    name: str
    state: Literal["running", "finished", "unfinished"]
    planned: int | None
    succeeded: int
    failed: int
    stopped: int = 0
    open: list[str]
    lost: dict[str, str] = {}


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
        num_stopped: Trainings that were stopped early.
        best: For each experiment the best of its trainings; the best of them first.
        validation_accuracy: Of those.
        test_accuracy: Of those.
        peak_memory_mib: Of those, MiB.
        peak_resident_mib: Of those, MiB.
        ideal_speedup: Of those.
        measured_speedup: Of those.
        time_s: Seconds that those trainings took.
        search_time_s: Seconds that its searches took; None without any.
        total: All that it has cost, by kind of cost.
        within: What it reaches within the group's budget, by kind of cost.
    """

    strategy: str
    num_experiments: int
    num_trials: int
    num_failed: int
    num_stopped: int = 0
    best: list[TrialView]
    validation_accuracy: Spread | None
    test_accuracy: Spread | None
    peak_memory_mib: Spread | None
    peak_resident_mib: Spread | None
    ideal_speedup: Spread | None
    measured_speedup: Spread | None
    time_s: Spread | None
    search_time_s: Spread | None
    total: dict[Cost, Spread]
    within: dict[Cost, Within]


class Study(_Shown):
    """The tuning of a strategy's hyperparameters.

    Attributes:
        strategy: Whose.
        experiment: Name of the experiment.
        accuracies: Validation accuracy of every training that has ended, None where it failed or
            was stopped early.
        stopped: Numbers of those stopped early, from 1.
        importance: Share of each hyperparameter in what makes trainings of the strategy good, all
            experiments together; None below `MIN_TRIALS_FOR_IMPORTANCE` trainings.
    """

    strategy: str
    experiment: str
    accuracies: list[Accuracy | None]
    stopped: list[int] = []
    importance: dict[str, float] | None


class Group(_Shown):
    """All there is on one task.

    Attributes:
        task: The task.
        space: Of a study: from which decouplings its strategies choose here, in words.
        experiments: The experiments.
        strategies: Their strategies: those that searched, then in order of appearance.
        curves: Accuracy over cost.
        budgets: The cost that every strategy has spent in every experiment, by kind.
        studies: Tuning, by strategy and experiment.
        searches: Every search.
        trials: Every training.
        differing: Training settings that are not the same in all trainings though not tuned; the
            seed aside.
    """

    task: Task
    space: str | None = None
    experiments: list[Experiment]
    strategies: list[StrategySummary]
    curves: list[Curve]
    budgets: dict[Cost, float]
    studies: list[Study]
    searches: list[SearchView]
    trials: list[TrialView]
    differing: list[str]

    @property
    def has_measured_speedups(self) -> bool:
        """Whether one is known of a network that is cut."""
        return any(t.measured_speedup is not None and t.decoupling.cuts for t in self.trials)

    @property
    def is_repeated(self) -> bool:
        """Whether spreads over experiments, or over a study's replicates, can be told."""
        names = {each.experiment for of in (self.trials, self.searches) for each in of}
        return len(self.experiments) > 1 or len(names) > 1


class Report(_Shown):
    """The whole report; a group for each task, and for each space of a study."""

    format: Literal["sedona-nni/report/1"] = "sedona-nni/report/1"
    groups: list[Group]
