"""What the study's experiments left, as one document.

A *run* is one training. A *trial* is one replicate of a strategy: in each space it may spend the
cost of so many trainings, its search included. Its *pick* of a space is the run there that
validated best; what counts is that run's test accuracy.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from benchmarks.record import Header
from sedona_nni.errors import InputError
from sedona_nni.files import Document
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

__all__ = ["BACKPROP", "Measure", "Net", "Run", "Search", "Space", "Study", "Trial"]

BACKPROP = "backprop"
"""The strategy that cuts nothing: it has no space, and its pick stands beside those of each."""

Measure = Literal["pick", "training"]
"""What is compared: test accuracy of the ``pick``; or mean test accuracy of all of a trial's
trainings in a space, what a single ``training`` comes to when there is nothing to choose from."""

Accuracy = Annotated[float, Field(ge=0, le=1)]


class Space(BaseModel):
    """A set of decouplings to choose from.

    Attributes:
        num_blocks: K.
        max_block_share: Only those within this bound, see `decouplings.bounds`; by default all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_blocks: int = Field(ge=2)
    max_block_share: str | None = None

    @property
    def in_words(self) -> str:
        """For instance ``"K = 2, blocks ≤ 1.3/K"``."""
        bound = "any blocks" if self.max_block_share is None else f"blocks ≤ {self.max_block_share}"
        return f"K = {self.num_blocks}, {bound}"


class Run(BaseModel):
    """One training.

    Attributes:
        space: The space that it was done for, from 0; None for back-propagation. A training that
            served two spaces stands here twice.
        cuts: Its cuts, rising boundaries.
        aux: Its auxiliary networks, one per cut.
        seed: Its seed.
        validation_accuracy: Of the epoch that validated best.
        test_accuracy: Of the same weights.
        time_s: Seconds of training and validation.
        processor_s: Seconds of processors meanwhile; None in studies from before it was kept.
        images: Images learned from, each as often as it was.
        macs: Per image, with auxiliary networks.
        parameters: With auxiliary networks.
        peak_memory_mib: Of a training step, see `sedona_nni.trials.train.run_training`.
        largest_share: See `sedona_nni.decouplings.compute.Compute.largest_share`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: int | None
    cuts: tuple[int, ...]
    aux: tuple[str, ...]
    seed: int
    validation_accuracy: Accuracy
    test_accuracy: Accuracy
    time_s: float
    processor_s: float | None = None
    images: int
    macs: int
    parameters: int
    peak_memory_mib: float
    largest_share: float = Field(gt=0, le=1)

    @property
    def ideal_speedup(self) -> float:
        """What a pipeline with a device per block gains at best over back-propagation on one."""
        return 1 / self.largest_share


class Search(BaseModel):
    """What a search or probing came to, and cost; it serves all spaces.

    Attributes:
        time_s: Seconds.
        processor_s: Seconds of processors meanwhile; likewise.
        images: Images learned from, each as often as it was.
        search_result: For `sedona_nni.searches.documents.parse_result`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_s: float
    processor_s: float | None = None
    images: int
    search_result: dict[str, Any]


class Trial(BaseModel):
    """One replicate of a strategy.

    Attributes:
        key: Its name in the ledger.
        strategy: Its strategy.
        replicate: From 0; replicates of the same number share training seeds over the strategies.
        time_s: Seconds of all that it did.
        processor_s: Seconds of processors meanwhile; likewise.
        images: Of its search and its trainings.
        search: What it spent before its trainings, if anything.
        runs: Its trainings.
        picks: Indices into ``runs``, one for each space that it has runs in.
        left_out: Why it has none in a space, by the number of the space.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    strategy: str
    replicate: int = Field(ge=0)
    time_s: float
    processor_s: float | None = None
    images: int
    search: Search | None
    runs: tuple[Run, ...]
    picks: tuple[int, ...]
    left_out: dict[int, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= pick < len(self.runs) for pick in self.picks):
            raise ValueError(f"picks must be indices of runs, but got {self.picks} in {self.key}")
        spaces = [self.runs[pick].space for pick in self.picks]
        if len(set(spaces)) < len(spaces) or set(spaces) != {run.space for run in self.runs}:
            raise ValueError(
                f"picks must be one run for each space, but got {spaces} in {self.key}"
            )
        for pick in self.picks:
            chosen = self.runs[pick]
            best = max(r.validation_accuracy for r in self.runs if r.space == chosen.space)
            if chosen.validation_accuracy < best:
                raise ValueError(
                    f"picks must have validated best, but run {pick} of {self.key} not"
                )
        return self

    def with_first(self, count: int) -> Trial:
        """Return what it would have been with only the first trainings in each space."""
        runs: list[Run] = []
        picks: list[int] = []
        for space in dict.fromkeys(run.space for run in self.runs):
            kept = [run for run in self.runs if run.space == space][:count]
            best = max(range(len(kept)), key=lambda i: kept[i].validation_accuracy)
            picks.append(len(runs) + best)
            runs += kept
        return self.model_copy(update={"runs": tuple(runs), "picks": tuple(picks)})

    def pick(self, space: int) -> Run | None:
        """Return what it picked; None if it did nothing in this space.

        Back-propagation knows no spaces: its pick is the same for all.
        """
        found = [self.runs[pick] for pick in self.picks if self.runs[pick].space in (space, None)]
        return found[0] if found else None

    def cost_s(self, space: int) -> float:
        """Return the seconds that its pick took: all of the search, and the space's trainings."""
        before = 0.0 if self.search is None else self.search.time_s
        return before + math.fsum(run.time_s for run in self.runs_in(space))

    def runs_in(self, space: int) -> list[Run]:
        """Return its trainings in a space."""
        return [run for run in self.runs if run.space in (space, None)]


class Net(BaseModel):
    """All trials with one backbone and data set.

    Attributes:
        task: Backbone and data.
        aux: Auxiliary networks of the spaces.
        train: Settings of every training, but for its seed.
        spaces: The spaces.
        budget: What a trial may spend on a space, trainings.
        searches: Settings of the searches, by strategy.
        trials: The trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    aux: tuple[str, ...]
    train: TrainSettings
    spaces: tuple[Space, ...]
    budget: float
    searches: dict[str, dict[str, Any]]
    trials: tuple[Trial, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({(trial.strategy, trial.replicate) for trial in self.trials}) < len(self.trials):
            raise ValueError("trials must hold each replicate of a strategy once")
        for trial in self.trials:
            if any(run.space is not None and run.space >= len(self.spaces) for run in trial.runs):
                raise ValueError(
                    f"runs must be of one of the spaces, but not all of {trial.key} are"
                )
        return self

    @property
    def name(self) -> str:
        """For instance ``"vgg13 x 0.5"``."""
        return f"{self.task.backbone} x {self.task.width_multiplier:g}"

    def of(self, strategy: str) -> list[Trial]:
        """Return a strategy's trials, by replicate."""
        found = [trial for trial in self.trials if trial.strategy == strategy]
        return sorted(found, key=lambda trial: trial.replicate)

    def accuracies(self, strategy: str, space: int, measure: Measure = "pick") -> dict[int, float]:
        """Return what a strategy came to in a space, by replicate, see `Measure`."""
        found = {}
        for trial in self.of(strategy):
            pick = trial.pick(space)
            if pick is not None:
                runs = [pick] if measure == "pick" else trial.runs_in(space)
                found[trial.replicate] = math.fsum(r.test_accuracy for r in runs) / len(runs)
        return found

    @property
    def training_s(self) -> float:
        """Mean seconds of a training by back-propagation; NaN if there is none."""
        times = [run.time_s for trial in self.of(BACKPROP) for run in trial.runs]
        return math.fsum(times) / len(times) if times else math.nan


class Study(Document):
    """Everything that was trained.

    Attributes:
        header: How it was made, where, and with which versions.
        nets: One for each backbone and data set.
    """

    format: Literal["sedona-nni/study/1"] = "sedona-nni/study/1"
    header: Header
    nets: tuple[Net, ...] = Field(min_length=1)

    def with_first(self, strategy: str, count: int) -> Study:
        """Return the study with only the first trainings of a strategy in each space.

        Raises:
            InputError: if it has no such strategy, or count is below 1.
        """
        if strategy not in self.strategies:
            raise InputError.rule("first", f"must name {', '.join(self.strategies)}", strategy)
        if count < 1:
            raise InputError.rule("first", "must leave at least 1 training", count)
        nets = []
        for net in self.nets:
            cut = [t.with_first(count) if t.strategy == strategy else t for t in net.trials]
            nets.append(net.model_copy(update={"trials": tuple(cut)}))
        return self.model_copy(update={"nets": tuple(nets)})

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies in the order in which they come, back-propagation last."""
        names = dict.fromkeys(trial.strategy for net in self.nets for trial in net.trials)
        return sorted(names, key=lambda name: name == BACKPROP)

    @property
    def replicates(self) -> int:
        """Replicates of the strategy that has most."""
        return max(len(net.of(name)) for net in self.nets for name in self.strategies)

    @property
    def places(self) -> list[tuple[Net, int]]:
        """Every net with each of its spaces: where strategies can be compared."""
        return [(net, number) for net in self.nets for number in range(len(net.spaces))]
