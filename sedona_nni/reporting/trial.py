"""What a trial is and what comes of it: what tuners send, trials read, and ledgers keep.

A trial is of one of four kinds, and so is its result; their ``kind`` tells which:

    search     a search, of whatever sort, which finds out from what decouplings derive
    train      one training of one decoupling
    repeated   trainings of one decoupling with several seeds
    study      all that a strategy of a study does in one replicate

Settings that a plug-in may define (of methods, of searches) stay plain JSON here, and are read by
who trains or searches. So everyone can read what became of a trial without them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from sedona_nni.decouplings.bounds import BlockShare
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.machine import Machine
from sedona_nni.reporting.former_trials import with_kind
from sedona_nni.task import Task

__all__ = [
    "AnyResult",
    "AnyTrial",
    "RepeatedTrial",
    "RepeatedTrialResult",
    "SearchInStudy",
    "SearchTrial",
    "SearchTrialResult",
    "SecondObjective",
    "SeedResult",
    "StudyRun",
    "StudySearch",
    "StudySpace",
    "StudyTrial",
    "StudyTrialResult",
    "TrainTrial",
    "TrainTrialResult",
    "read_result",
    "read_trial",
]

Number: TypeAlias = int | float
SecondObjective = Literal["memory", "speed-up"]


class _Trial(BaseModel):
    """What every trial has.

    Attributes:
        key: Its name, unique in the experiment.
        strategy: What its decoupling comes from, e.g. ``"sedona"``; of a search, whose it is.
        task: Backbone and data.
        machine: What it may use.
        plugins: What to load first, see `sedona_nni.plugins.load_plugins`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern=r"^[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*$")  # it names folders
    strategy: str
    task: Task = Task()
    machine: Machine = Machine()
    plugins: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """What tells it from other trials at a glance: texts and numbers by name."""
        return {"key": self.key, "strategy": self.strategy}


class SearchTrial(_Trial):
    """A search.

    Attributes:
        search: Which one, by its name.
        aux: The auxiliary networks to choose from.
        settings: Of the search.
        train: Of the trainings that a decoupling is wanted for, where the search depends on them.
    """

    kind: Literal["search"] = "search"
    search: str
    aux: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    train: dict[str, Any] | None = None


class TrainTrial(_Trial):
    """A training.

    Attributes:
        decoupling: What is trained.
        train: Settings of the training.
        hyperparameters: What was drawn, in place of some of them.
        second_objective: What counts beside its accuracy, if anything does.
        ideal_speedup: Of its decoupling, where that counts.
    """

    kind: Literal["train"] = "train"
    decoupling: Decoupling
    train: dict[str, Any] = {}
    hyperparameters: dict[str, Any] = {}
    second_objective: SecondObjective | None = None
    ideal_speedup: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the training, with what was drawn."""
        return {**self.train, **self.hyperparameters}

    @property
    def summary(self) -> dict[str, Any]:
        """See `_Trial.summary`."""
        return {**super().summary, **_trained(self), **self.hyperparameters}


class RepeatedTrial(_Trial):
    """Trainings with the seeds ``train.seed``, ``train.seed + 1`` and so on.

    Attributes:
        decoupling: What is trained.
        train: Settings of the first training.
        repetitions: How many there are.
    """

    kind: Literal["repeated"] = "repeated"
    decoupling: Decoupling
    train: dict[str, Any] = {}
    repetitions: int = Field(ge=1)

    @property
    def settings(self) -> dict[str, Any]:
        """See `TrainTrial.settings`; nothing is drawn."""
        return self.train

    @property
    def summary(self) -> dict[str, Any]:
        """See `_Trial.summary`."""
        return {**super().summary, **_trained(self)}


class StudySpace(BaseModel):
    """Decouplings that strategies choose from.

    Attributes:
        num_blocks: K.
        max_block_share: Only those within this bound, by MACs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_blocks: int = Field(ge=2)
    max_block_share: BlockShare | None = None

    @property
    def in_words(self) -> str:
        """The same for people."""
        words = f"{self.num_blocks} blocks"
        return words if self.max_block_share is None else f"{words} within {self.max_block_share}"


class SearchInStudy(BaseModel):
    """How a strategy of a study searches.

    Attributes:
        settings: Of its search.
        options: What that has beside in a study, see `SearchKind.study_options`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}


class StudyTrial(_Trial):
    """A strategy of a study, tried once in every space.

    Attributes:
        replicate: Number of the replicate, from 0.
        aux: The auxiliary networks to choose from.
        train: Settings of the trainings; their seeds are this one's and others, see
            `sedona_nni.strategies.settings.parts.Study`.
        seed: Of what is drawn.
        spaces: What is chosen from.
        budget: What may be spent in each, in full trainings.
        search: How the strategy searches, if it does.
    """

    kind: Literal["study"] = "study"
    replicate: int = Field(ge=0)
    aux: tuple[str, ...] = ()
    train: dict[str, Any] = {}
    seed: int = 2021
    spaces: tuple[StudySpace, ...] = Field(min_length=1)
    budget: int = Field(default=1, ge=1)
    search: SearchInStudy | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """See `_Trial.summary`."""
        return {**super().summary, "replicate": self.replicate}


def _trained(trial: TrainTrial | RepeatedTrial) -> dict[str, Any]:
    decoupling = trial.decoupling
    cuts = [f"{cut} {name}" for cut, name in zip(decoupling.cuts, decoupling.aux, strict=True)]
    return {
        "blocks": decoupling.num_blocks,
        "cuts": ", ".join(cuts) or "none",
        "method": method_of(trial),
    }


def method_of(trial: TrainTrial | RepeatedTrial) -> str:
    """Return the name of the method that a trial trains by, see `sedona_nni.training.methods`."""
    method = trial.settings.get("method", "greedy")
    return method if isinstance(method, str) else str(method["name"])


AnyTrial: TypeAlias = Annotated[
    Annotated[
        SearchTrial | TrainTrial | RepeatedTrial | StudyTrial,
        Field(discriminator="kind"),
    ],
    BeforeValidator(with_kind),
]


class _Result(BaseModel):
    """What every trial comes to; what an earlier version did not say is None.

    Attributes:
        time_s: Seconds that it took.
        processor_s: Seconds of processors that its process used, those of all ranks together.
        images: Images that its steps took.
        data: The fingerprint of the data set, see `sedona_nni.data.identity`.
        weights: That of the task's file of weights.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    time_s: float | None = None
    processor_s: float | None = None
    images: Number | None = None
    data: str | None = None
    weights: str | None = None


class SearchTrialResult(_Result):
    """What a search comes to; each has more to say, see its `SearchKind.run`.

    Attributes:
        search: Which one it was.
        default: What stands for it in NNI; None of a search in a study.
        search_result: Its outcome, see `sedona_nni.decouplings.outcome`.
    """

    model_config = ConfigDict(extra="allow")

    kind: Literal["search"] = "search"
    search: str | None = None
    default: FiniteFloat | None = None
    search_result: dict[str, Any]


class _TrainNumbers(_Result):
    """What a training comes to, see `sedona_nni.trials.train.run_training`.

    Attributes:
        default: The accuracy that it is chosen by, that of the validation, a fraction.
        device: ``cpu`` or ``cuda``.
        cores: Processors that the CPU threads of all its processes could keep busy.
        ranks: Of a training in parallel, what each process needed, see
            `sedona_nni.training.parallel.rank.RankReport`.
    """

    default: FiniteFloat
    loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    test_ensemble_accuracy: float | None = None
    best_epoch: Number | None = None
    parameters: Number | None = None
    macs: Number | None = None
    peak_memory_mib: float | None = None
    ideal_peak_memory_mib: float | None = None
    peak_resident_mib: float | None = None
    images_per_s: float | None = None
    ideal_speedup: float | None = None
    device: str | None = None
    cores: Number | None = None
    ranks: list[dict[str, Number | None]] = []
    history: dict[str, list[Number | None]] = {}
    compute: dict[str, Any] | None = None
    sizes: list[ImageSize] = []


class TrainTrialResult(_TrainNumbers):
    """What a training comes to, see `sedona_nni.trials.train.run_training`."""

    kind: Literal["train"] = "train"


class SeedResult(_TrainNumbers):
    """One of several trainings in a trial.

    Attributes:
        seed: Its seed.
    """

    seed: int


class RepeatedTrialResult(_TrainNumbers):
    """What the first of several trainings comes to, but for each number the mean over all.

    Attributes:
        runs: Each training.
    """

    kind: Literal["repeated"] = "repeated"
    runs: list[SeedResult] = []


class StudySearch(BaseModel):
    """A search in a study, see `SearchTrialResult`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    time_s: float
    processor_s: float | None = None
    images: Number
    search_result: dict[str, Any]


class StudyRun(BaseModel):
    """A training in a study.

    Attributes:
        space: Number of its space, from 0; None of back-propagation, which is in all.
        decoupling: What was trained.
        seed: Its seed.
        validation_accuracy: Fraction.
        test_accuracy: Fraction.
        time_s: Seconds that it took.
        processor_s: Seconds of processors that its process used.
        images: Images that its steps took.
        macs: Per image, with auxiliary networks.
        peak_memory_mib: Of a training step.
        parameters: Number of weights, with auxiliary networks.
        largest_share: Of the decoupling, see `Compute.largest_share`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    space: int | None = None
    decoupling: Decoupling
    seed: int
    validation_accuracy: float
    test_accuracy: float
    time_s: float
    processor_s: float | None = None
    images: Number
    macs: Number | None = None
    peak_memory_mib: float
    parameters: Number
    largest_share: float = Field(gt=0)


class StudyTrialResult(_Result):
    """What a strategy came to in a replicate, see `sedona_nni.trials.study.run_study_trial`.

    Attributes:
        default: Mean over the spaces of the validation accuracy of the picks.
        test_accuracy: Mean of their test accuracy.
        search: Its search, None of a strategy without one.
        runs: Every training, in the order of the spaces.
        picks: Of each space the number of the pick among them; None where there is none.
        left_out: Why not, by the space's number.
    """

    kind: Literal["study"] = "study"
    default: FiniteFloat
    test_accuracy: float
    search: StudySearch | None = None
    runs: list[StudyRun]
    picks: list[int | None] = []
    left_out: dict[str, str] = {}


AnyResult: TypeAlias = Annotated[
    SearchTrialResult | TrainTrialResult | RepeatedTrialResult | StudyTrialResult,
    Field(discriminator="kind"),
]

_Trials: TypeAdapter[AnyTrial] = TypeAdapter(AnyTrial)
_Results: TypeAdapter[AnyResult] = TypeAdapter(AnyResult)


def read_trial(parameters: Any) -> AnyTrial:
    """Return the trial that some JSON describes, also if it was written by an earlier version.

    Raises:
        InputError: if it describes none.
    """
    try:
        return _Trials.validate_python(parameters)
    except ValidationError as error:
        raise InputError.from_validation(error, "parameters") from None


def read_result(trial: AnyTrial, result: Any) -> AnyResult:
    """Return what came of a trial, from JSON; earlier versions did not say of which kind it is.

    Raises:
        InputError: if it makes no sense, or is of another kind than the trial.
    """
    if isinstance(result, dict):
        result = {"kind": trial.kind, **result}
    try:
        found = _Results.validate_python(result)
    except ValidationError as error:
        raise InputError.from_validation(error, "") from None
    if found.kind != trial.kind:
        raise InputError.rule("kind", f"must be that of the trial, {trial.kind}", found.kind)
    return found
