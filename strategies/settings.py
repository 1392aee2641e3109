"""What is written under ``tuner.classArgs`` of an experiment's YAML file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from sedona_nni.data.sets import image_size_of
from sedona_nni.decouplings.bounds import BlockBound, BlockShare
from sedona_nni.decouplings.choice import discretise, leaders
from sedona_nni.decouplings.compute import Compute, compute_in_macs, load_compute
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.decouplings.layer_time import compute_in_time
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.decouplings.rules import decoupling_by_rule, is_rule
from sedona_nni.errors import InputError
from sedona_nni.files import user_path
from sedona_nni.machine import Machine
from sedona_nni.models import check_image_size, check_stem, num_layers
from sedona_nni.plugins import load_plugins
from sedona_nni.reporting.trial import SecondObjective
from sedona_nni.searches.documents import document_path, load_document
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.seed import Seed
from sedona_nni.strategies.nni_border.devices import claim_device
from sedona_nni.strategies.pruners import AnyPruner
from sedona_nni.strategies.published import SETTINGS, TRAINS_OTHERWISE, with_published
from sedona_nni.task import Task
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import check_auxiliary
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

__all__ = [
    "BalancedSettings",
    "BridgeSettings",
    "CommonSettings",
    "Contender",
    "ExperimentSettings",
    "GridPart",
    "GridSettings",
    "ProbeExperimentSettings",
    "SearchingSettings",
    "TuningSettings",
    "read_settings",
]

_SEARCHES = {"sedona": "search", "probe": "probe"}  # strategies, and the fields of their settings

SettingsT = TypeVar("SettingsT", bound="CommonSettings")

Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
BlockCounts = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
]


class Contender(NamedTuple):
    """One row of the closing table.

    Attributes:
        name: As in the table, e.g. ``"uniform-k4"``.
        strategy: Where its decoupling comes from, e.g. ``"uniform"``.
        num_blocks: K; 0 leaves it to the search or, without one, to the decoupling.
        place: Which of the decouplings that a search found, from 0, the one of the most evidence.
    """

    name: str
    strategy: str
    num_blocks: int
    place: int = 0


class _Plugins(BaseModel):
    """What is read of the settings first, as the rest may be by names that plug-ins register."""

    plugins: tuple[str, ...] = ()


class CommonSettings(BaseModel, ABC):
    """What all experiments have: a task, K-block trainings of it, and a machine to run on.

    Attributes:
        task: Backbone and data set.
        aux: The auxiliary networks to choose from.
        train: Settings of every training; tuned hyperparameters replace some of them. The n-th
            trial of each strategy trains with ``train.seed + n``.
        device: ``"auto"`` takes a GPU if there is one. Each trial has a GPU of its own.
        threads: CPU threads per trial; by default PyTorch decides.
        workers: Processes per trial that read image files, see
            `sedona_nni.data.batches.FolderImages.workers`; 0 for none beside the trial's own.
        seed: Of what the tuner draws: random decouplings, samples and hyperparameters.
        plugins: Modules of one's own, or files like ``./my_networks.py``, that register auxiliary
            networks, methods, models, data sets or searches: see `sedona_nni.plugins`. Command,
            tuner and trials load them first. Files are relative to ``trialCodeDirectory``, like
            all paths here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    aux: tuple[str, ...] = Field(default=("conv1", "conv2", "conv3", "conv4"), min_length=1)
    train: TrainSettings = TrainSettings()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=0)
    seed: Seed = 2021
    plugins: tuple[str, ...] = ()

    @property
    def machine(self) -> Machine:
        """What each trial may use."""
        return Machine(device=self.device, threads=self.threads, workers=self.workers)

    @property
    @abstractmethod
    def trainings(self) -> dict[str, int]:
        """How many trials train what each strategy chooses, by the names in the table."""

    @property
    def num_trials(self) -> int:
        """How many trials the experiment has, searches included."""
        return sum(self.trainings.values())

    def check(self, folder: Path) -> None:
        """Check what goes beyond the form of single fields.

        Args:
            folder: What relative paths in the settings are relative to: ``trialCodeDirectory``.

        Raises:
            InputError: if a name is unknown or numbers do not fit the backbone.
        """
        check_image_size(self.task.backbone, image_size_of(self.task))
        check_stem(self.task.backbone, self.task.stem)
        for name in self.aux:
            check_auxiliary(name)
        _check_seeds(self.model_dump(), "")

    def task_in(self, folder: Path) -> Task:
        """Return the task with the path of its data independent of the current folder.

        Args:
            folder: See `check`.
        """
        if self.task.data_dir is None:
            return self.task
        data_dir = folder / user_path(self.task.data_dir)
        return self.task.model_copy(update={"data_dir": str(data_dir)})


def _check_seeds(settings: Mapping[str, Any], where: str) -> None:
    """Check that there is room above every seed, as later trials have the next ones."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            _check_seeds(value, f"{where}{name}.")
        elif name in ("seed", "split_seed") and isinstance(value, int) and value >= 2**32:
            raise InputError.rule(f"{where}{name}", "must be below 2^32", value)


class BalancedSettings(CommonSettings):
    """Settings of a tuner that chooses decouplings, maybe with a bound on their blocks.

    Attributes:
        max_block_share: Bound on the largest block's share of the backbone's compute, with the
            block's auxiliary network: a number, e.g. ``0.4``, or a multiple of 1/K, e.g.
            ``1.3/K``. Every decoupling but back-propagation respects it: what is chosen is the
            best, the nearest or a random one of those that do, and what is given has to.
        compute: What a share is of: ``macs``, or ``time``, that of a forward and a backward pass
            of ``train.batch_size`` images, measured where the tuner runs before the first trial;
            or the path of a file of such times, or of a decoupling that was derived with them.
    """

    max_block_share: BlockShare | None = None
    compute: str = "macs"

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`. A bound on time is checked where time is measured."""
        super().check(folder)
        if self.compute != "macs" and not self.uses_compute:
            raise InputError.rule("compute", "must come with a max_block_share", self.compute)

    @property
    def uses_compute(self) -> bool:
        """Whether anything depends on what blocks cost."""
        return self.max_block_share is not None

    def aux_names(self, folder: Path) -> set[str]:
        """Return the auxiliary networks that decouplings may use, see `check`."""
        return set(self.aux)

    @abstractmethod
    def check_bound(self, bound: BlockBound, folder: Path) -> None:
        """Check that every decoupling can respect the bound, whatever a search finds.

        Raises:
            InputError: if one cannot.
        """

    def bound(
        self, folder: Path, measured: Path | None = None, aux: Iterable[str] = ()
    ) -> BlockBound | None:
        """Return the bound on blocks, None if there is none.

        Args:
            folder: See `check`.
            measured: Where measured times are, or are left.
            aux: Auxiliary networks beside those of the settings.

        Raises:
            InputError: if a decoupling cannot respect it, or `compute` names no such file.
        """
        if self.max_block_share is None:
            return None
        bound = BlockBound(self.costs(folder, measured, aux), self.max_block_share)
        self.check_bound(bound, folder)
        return bound

    def costs(self, folder: Path, measured: Path | None = None, aux: Iterable[str] = ()) -> Compute:
        """Return what `compute` says.

        Args:
            folder: See `check`.
            measured: Where measured times are, or are left.
            aux: Auxiliary networks beside those of the settings.

        Raises:
            InputError: if `compute` names no file of the backbone and the auxiliary networks.
        """
        names = self.aux_names(folder).union(aux) - {NO_AUXILIARY}
        if self.compute not in ("macs", "time"):
            compute = load_compute(folder / user_path(self.compute))
        elif self.compute == "time" and measured is not None and measured.exists():
            compute = Compute.load(measured)
        else:
            compute = self._count_or_measure(folder, names)
        compute.check_covers(self.task.backbone, names)
        if self.compute == "time" and measured is not None:
            compute.save(measured)
        return compute

    def _count_or_measure(self, folder: Path, names: Iterable[str]) -> Compute:
        task = self.task_in(folder)
        counted = self.compute == "macs"
        with torch.random.fork_rng(devices=[]), torch.device("meta" if counted else "cpu"):
            backbone = task_backbone(task)
        if counted:
            return compute_in_macs(backbone, names)
        with claim_device(self.device, threads=self.threads) as device:
            batch_size = self.train.batch_size
            return compute_in_time(backbone, names, device=device, batch_size=batch_size)


class _TunedSettings(BalancedSettings):
    """Settings of a tuner that trains several decouplings, each with tuned hyperparameters.

    Attributes:
        published: Take over the settings of a published table, see `strategies.published`; what
            else is given here replaces them, in ``task``, ``train`` and ``train_for`` setting by
            setting.
        compare: Decouplings to train on the same budget: ``"uniform"`` cuts with the same
            auxiliary network at each (DGL), the same cuts with ``"predsim"`` at each, which trains
            with ``label_smoothing: 0`` unless ``train_for`` says otherwise, a ``"random"``
            decoupling, and ``"backprop"``.
        uniform_aux: The auxiliary network of ``"uniform"``.
        also: Further decouplings to train on the same budget, by names for the table: the JSON of a
            decoupling, the path of its file, or a rule, see `sedona_nni.decouplings.rules`, e.g.
            ``{layerwise: every:1:mlp-sr}``.
        leaders: How many decouplings that a search found are trained for each K: those of the most
            evidence, as `decouplings.choice.leaders` orders them. The table calls the second one,
            e.g., ``sedona-2``.
        train_for: What single strategies have otherwise than ``train``, by their names, e.g.
            ``{predsim: {optimizer: adam, lr: 0.0005}}``. What is given here, or by ``published``,
            is not tuned for that strategy: ``train_for`` goes before ``searchSpace``, and this
            before ``train``. Each setting is replaced as a whole, a method with its options.
        trials_per_strategy: Trainings of each decoupling. Failed ones count, too.
        sampler: Optuna's sampler of hyperparameters.
        pruner: Stops hopeless trainings: ``median`` or ``halving``, or its name and options, see
            `sedona_nni.strategies.pruners`; ``none`` stops nothing.
        second_objective: What counts beside the validation accuracy: ``memory``, the peak of a
            training step, or ``speed-up``, the ideal one of a pipeline with a device per block, in
            what ``compute`` says. Hyperparameters are drawn with both in view, and the results list
            the best compromises of all trainings. The speed-up is the decoupling's alone.
    """

    published: Literal["cifar10", "tiny-imagenet", "imagenet"] | None = None
    compare: tuple[Literal["uniform", "predsim", "random", "backprop"], ...] = ()
    uniform_aux: str = "mlp-sr"
    also: dict[Name, Decoupling | str] = Field(default_factory=dict)
    leaders: int = Field(default=1, ge=1)
    train_for: dict[str, dict[str, Any]] = Field(default_factory=dict)
    trials_per_strategy: int = Field(default=1, ge=1)
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: AnyPruner = None
    second_objective: SecondObjective | None = None

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        if self.pruner is not None and self.second_objective is not None:
            raise ValueError(
                "pruner must be none where there is a second_objective, as Optuna compares "
                f"trainings by one number, but got {self.pruner.name}"
            )
        return self

    @property
    def uses_compute(self) -> bool:
        """See `BalancedSettings.uses_compute`."""
        return super().uses_compute or self.second_objective == "speed-up"

    @model_validator(mode="before")
    @classmethod
    def _take_over_published(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("published") in SETTINGS:
            return with_published(given["published"], given)
        return given

    @property
    @abstractmethod
    def main_strategy(self) -> str:
        """Name of the strategy that the others are compared with."""

    @property
    @abstractmethod
    def block_counts(self) -> Sequence[int]:
        """Every K to train; 0 leaves it to the search."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Strategies whose decouplings come from a document: what a search finds, or is given."""
        return (self.main_strategy,)

    @property
    def contenders(self) -> list[Contender]:
        """What is trained: every strategy with every K; back-propagation knows one K."""
        found: list[Contender] = []
        for strategy in (self.main_strategy, *self.compare):
            if strategy == "backprop":
                found.append(Contender(strategy, strategy, 1))
                continue
            for count in self.block_counts:
                name = f"{strategy}-k{count}" if len(self.block_counts) > 1 else strategy
                found.append(Contender(name, strategy, count))
                if strategy == self.main_strategy:
                    found += [
                        Contender(f"{name}-{place + 1}", strategy, count, place)
                        for place in range(1, self.leaders)
                    ]
        return [*found, *(Contender(name, name, 0) for name in self.also)]

    @property
    def trainings(self) -> dict[str, int]:
        """See `CommonSettings.trainings`."""
        return {each.name: self.trials_per_strategy for each in self.contenders}

    def fixed_for(self, strategy: str) -> dict[str, Any]:
        """Return what a strategy has otherwise than ``train``, and what is not tuned for it."""
        return {**TRAINS_OTHERWISE.get(strategy, {}), **self.train_for.get(strategy, {})}

    def train_settings(self, strategy: str) -> TrainSettings:
        """Return how a strategy trains.

        Raises:
            InputError: if ``train_for`` has an unknown setting or breaks a rule.
        """
        changed = {**self.train.model_dump(), **self.fixed_for(strategy)}
        try:
            return TrainSettings.model_validate(changed)
        except ValidationError as error:
            raise InputError.from_validation(error, f"train_for.{strategy}") from None

    def also_decoupling(self, name: str, folder: Path) -> Decoupling:
        """Return a decoupling of ``also``.

        Args:
            name: Its name there.
            folder: See `CommonSettings.check`.

        Raises:
            InputError: if it cannot be read, is a search result, or does not fit the backbone.
        """
        document = self._document(self.also[name], folder)
        if isinstance(document, SearchOutcome):
            raise InputError.rule(f"also.{name}", "must be a decoupling", self.also[name])
        self._check_decoupling(document, name)
        return document

    def _document(self, given: Decoupling | str, folder: Path) -> Decoupling | SearchOutcome:
        """Return what a setting names: itself, what a rule makes, or what a file holds."""
        if isinstance(given, Decoupling):
            return given
        if is_rule(given):
            backbone = self.task.backbone
            return decoupling_by_rule(given, backbone, num_layers(backbone))
        return load_document(document_path(given, folder))

    def _check_decoupling(self, decoupling: Decoupling, strategy: str) -> None:
        """Check that a decoupling fits the backbone, and how the strategy trains."""
        if decoupling.backbone != self.task.backbone:
            rule = f"must be one of the task's backbone, {self.task.backbone}"
            raise InputError.rule("decoupling", rule, decoupling.backbone)
        decoupling.blocks(num_layers(self.task.backbone))
        for name in set(decoupling.aux) - {NO_AUXILIARY}:
            check_auxiliary(name)
        self.train_settings(strategy).method.check(decoupling.aux)

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        if self.uniform_aux != NO_AUXILIARY:
            check_auxiliary(self.uniform_aux)
        if len(set(self.compare)) < len(self.compare):
            raise InputError.rule("compare", "must name each strategy once", list(self.compare))
        if len(set(self.block_counts)) < len(self.block_counts):
            raise InputError.rule(
                "num_blocks", "must have each number once", list(self.block_counts)
            )
        for count in self.block_counts:
            if count > 0:
                check_num_blocks(count, num_layers(self.task.backbone))
        strategies = (*self.sources, "uniform", "predsim", "random", "backprop")
        taken = {each.name for each in self.contenders if each.strategy not in self.also}
        for name in self.also:
            if name in taken.union(strategies):
                raise InputError.rule("also", "must not have the name of another strategy", name)
            self.also_decoupling(name, folder)
        known = (*strategies, *self.also)
        for strategy in self.train_for:
            if strategy not in known:
                raise InputError.rule("train_for", f"must name {', '.join(known)}", strategy)
            self.train_settings(strategy)
        for each in self.contenders:
            if each.strategy in self.compare:
                self._check_method(each, folder)

    def _check_method(self, contender: Contender, folder: Path) -> None:
        """Check that the method of a contender can train what it chooses."""
        method = self.train_settings(contender.strategy).method
        method.check(self.aux_of(contender, folder))

    def aux_of(self, contender: Contender, folder: Path) -> Sequence[str]:
        """Return the auxiliary networks at the cuts of a contender, as far as they are known: of
        those that it chooses from the first, and of K = 0 two blocks.

        Args:
            contender: One of `contenders`.
            folder: See `CommonSettings.check`.
        """
        _, strategy, num_blocks, _ = contender
        if strategy in self.also:
            return self.also_decoupling(strategy, folder).aux
        return self.aux_for(strategy)[:1] * (num_blocks - 1 if num_blocks else 1)

    def aux_for(self, strategy: str) -> tuple[str, ...]:
        """Return the auxiliary networks that a strategy chooses from."""
        fixed = {"uniform": (self.uniform_aux,), "predsim": ("predsim",)}
        return fixed.get(strategy, self.aux)

    def aux_names(self, folder: Path) -> set[str]:
        """See `BalancedSettings.aux_names`."""
        chosen = [self.aux_for(strategy) for strategy in self.compare]
        given = [self.also_decoupling(name, folder).aux for name in self.also]
        return super().aux_names(folder).union(*chosen, *given)

    def check_bound(self, bound: BlockBound, folder: Path) -> None:
        """See `BalancedSettings.check_bound`."""
        for name in self.also:
            bound.require(self.also_decoupling(name, folder), f"also.{name}")
        chosen = set(self.compare) - {"backprop", *self.sources}
        for _, strategy, count, _ in self.contenders:
            if strategy in chosen and count > 0:
                names = self.aux_for(strategy)
                ends = bound.ends([names] * (bound.num_layers - 1))
                bound.check(count, ends, f" with {' or '.join(names)}")


class SearchingSettings(_TunedSettings):
    """Settings of a tuner whose first trial is a search.

    Attributes:
        num_blocks: K, the number of blocks that the backbone is cut into. A list trains each: one
            search serves all. 0 leaves it to the search of SEDONA, which then cuts wherever
            a^loc > a^up.
        compare: As in any tuning; and ``"sedona"`` beside a probing, or ``"probe"`` beside SEDONA,
            which then searches in a trial of its own.
        search: Settings of SEDONA's search, if there is one.
        probe: Settings of the probing, if there is one.
    """

    num_blocks: Annotated[BlockCounts, Field(min_length=1)]
    compare: tuple[Literal["sedona", "probe", "uniform", "predsim", "random", "backprop"], ...] = ()  # type: ignore[assignment]  # more than what it replaces
    search: SearchSettings = SearchSettings()
    probe: ProbeSettings = ProbeSettings()

    @property
    def sources(self) -> tuple[str, ...]:
        """See `_TunedSettings.sources`: every strategy that searches, the main one first."""
        return (self.main_strategy, *(name for name in self.compare if name in _SEARCHES))

    @property
    def block_counts(self) -> Sequence[int]:
        """See `_TunedSettings.block_counts`."""
        return self.num_blocks

    @property
    def num_trials(self) -> int:
        """See `CommonSettings.num_trials`."""
        return len(self.sources) + super().num_trials

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        if self.main_strategy in self.compare:
            rule = f"must not name {self.main_strategy}, which is what others are compared with"
            raise InputError.rule("compare", rule, list(self.compare))
        for strategy, field in _SEARCHES.items():
            if strategy not in self.sources and field in self.model_fields_set:
                raise InputError(f"{field}: must come with {strategy} in compare")
        super().check(folder)
        if 0 in self.num_blocks and "probe" in self.sources:
            rule = "must be at least 1 for a probing, which tells where to cut but not how often"
            raise InputError.rule("num_blocks", rule, list(self.num_blocks))
        boundaries = num_layers(self.task.backbone) - 1
        for each in self.contenders:
            if each.strategy == self.main_strategy:
                self._check_method(each, folder)
        for count in self.num_blocks:
            most = math.comb(boundaries, count - 1) if count else 1
            which = f"into {count} blocks" if count else "where the search decides their number"
            self._check_leaders(most, which)

    def _check_leaders(self, most: int, which: str) -> None:
        if self.leaders > most:
            rule = f"must be at most {most}, the decouplings {which}"
            raise InputError.rule("leaders", rule, self.leaders)

    def check_bound(self, bound: BlockBound, folder: Path) -> None:
        """See `BalancedSettings.check_bound`: nothing that the search finds may fail later."""
        super().check_bound(bound, folder)
        one = "sedona" in self.sources  # it leaves a boundary one, be it too large for a block
        ends = bound.ends([self.aux] * (bound.num_layers - 1), costliest=one)
        which = f" whichever of {', '.join(self.aux)} the search prefers" if one else ""
        for count in self.num_blocks:
            bound.check(count, ends, which)
            if count:
                most = bound.count(count, ends, self.leaders)
                within = f"into {count} blocks within the bound{',' * one}{which}"
                self._check_leaders(most, within)


class ExperimentSettings(SearchingSettings):
    """Settings of `sedona_nni.strategies.tuner.SedonaTuner`."""

    @property
    def main_strategy(self) -> str:
        """See `_TunedSettings.main_strategy`."""
        return "sedona"


class ProbeExperimentSettings(SearchingSettings):
    """Settings of `sedona_nni.strategies.tuner.ProbeTuner`."""

    @property
    def main_strategy(self) -> str:
        """See `_TunedSettings.main_strategy`."""
        return "probe"


class TuningSettings(_TunedSettings):
    """Settings of `sedona_nni.strategies.tuner.OptunaTuner`.

    Attributes:
        decoupling: The decoupling to tune the training of: its JSON, the path of a file, or a rule,
            see `sedona_nni.decouplings.rules`. The file may also be a search result.
        num_blocks: K, of a search result's decoupling, see `ExperimentSettings`; only with one.
        name: What the table calls it.
    """

    decoupling: Decoupling | str
    num_blocks: BlockCounts = ()
    name: Name = "given"

    @property
    def main_strategy(self) -> str:
        """See `_TunedSettings.main_strategy`."""
        return self.name

    @property
    def block_counts(self) -> Sequence[int]:
        """See `_TunedSettings.block_counts`; of a decoupling that is in a file 0, too."""
        if isinstance(self.decoupling, Decoupling):
            return [self.decoupling.num_blocks]
        return self.num_blocks or [0]

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        document = self.load(folder)
        if isinstance(document, SearchOutcome) and not self.num_blocks:
            raise InputError(f"num_blocks: must be given, as {self.decoupling} is a search result")
        if isinstance(document, Decoupling) and self.num_blocks:
            raise InputError("num_blocks: must not be given, as there is a decoupling")
        if isinstance(document, Decoupling) and self.leaders > 1:
            raise InputError.rule("leaders", "must be 1, as there is a decoupling", self.leaders)
        for count in self.block_counts:
            self._check_decoupling(derived(document, count, place=self.leaders - 1), self.name)
        if self.name in ("uniform", "predsim", "random", "backprop"):
            raise InputError.rule("name", "must not be that of another strategy", self.name)

    def aux_of(self, contender: Contender, folder: Path) -> Sequence[str]:
        """See `_TunedSettings.aux_of`."""
        if contender.strategy == self.name:
            return derived(self.load(folder), contender.num_blocks, place=contender.place).aux
        return super().aux_of(contender, folder)

    def load(self, folder: Path) -> Decoupling | SearchOutcome:
        """Return the decoupling or the search result, from its file if there is one.

        Raises:
            InputError: if the file cannot be read or a rule does not fit the backbone.
        """
        return self._document(self.decoupling, folder)

    def aux_names(self, folder: Path) -> set[str]:
        """See `BalancedSettings.aux_names`."""
        document = self.load(folder)
        own = document.aux if isinstance(document, Decoupling) else document.aux_choices
        return super().aux_names(folder).union(own)

    def check_bound(self, bound: BlockBound, folder: Path) -> None:
        """See `BalancedSettings.check_bound`."""
        super().check_bound(bound, folder)
        document = self.load(folder)
        for count in self.block_counts:
            bound.require(derived(document, count, bound, self.leaders - 1), "decoupling")


def derived(
    document: Decoupling | SearchOutcome,
    num_blocks: int,
    bound: BlockBound | None = None,
    place: int = 0,
) -> Decoupling:
    """Return the decoupling itself, or one that a search result gives for K.

    Args:
        document: The one or the other.
        num_blocks: K.
        bound: What a search result's has to respect.
        place: See `Contender`.

    Raises:
        InputError: as `decouplings.choice.discretise` does, or if there are not as many.
    """
    if isinstance(document, Decoupling):
        return document
    if place == 0:
        return discretise(document, num_blocks, bound)
    found = leaders(document, num_blocks, place + 1, bound)
    if place >= len(found):
        rule = f"must be at most {len(found)}, the decouplings that there are"
        raise InputError.rule("leaders", rule, place + 1)
    return found[place]


class BridgeSettings(BalancedSettings):
    """Settings of `sedona_nni.strategies.bridge.BridgeTuner`.

    Attributes:
        strategy: Which of NNI's own strategies explores the space.
        strategy_args: Keyword arguments of its class, e.g. ``population_size``.
        num_blocks: K, the number of blocks that the backbone is cut into.
        max_trials: How many decouplings to train. Failed trainings count, too.
    """

    strategy: Literal["random", "regularized_evolution", "tpe"]
    strategy_args: dict[str, Any] = Field(default_factory=dict)
    num_blocks: int = Field(ge=1)
    max_trials: int = Field(ge=1)

    @property
    def trainings(self) -> dict[str, int]:
        """See `CommonSettings.trainings`."""
        return {self.strategy: self.max_trials}

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        check_num_blocks(self.num_blocks, num_layers(self.task.backbone))
        self.train.method.check(self.aux[:1] * (self.num_blocks - 1))

    def check_bound(self, bound: BlockBound, folder: Path) -> None:
        """See `BalancedSettings.check_bound`."""
        bound.check(self.num_blocks, bound.ends([self.aux] * (bound.num_layers - 1)))


class GridPart(BaseModel):
    """Some of the decouplings of a grid.

    Attributes:
        num_blocks: K; 1 is back-propagation.
        seeds: Trainings of each decoupling, with ``train.seed``, ``train.seed + 1`` and so on.
        sample: Only so many decouplings, drawn without repetition; by default all that there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_blocks: int = Field(ge=1)
    seeds: int = Field(default=1, ge=1)
    sample: int | None = Field(default=None, ge=1)

    @property
    def name(self) -> str:
        """What stands for the strategy."""
        return "backprop" if self.num_blocks == 1 else f"grid-k{self.num_blocks}"


class GridSettings(CommonSettings):
    """Settings of `sedona_nni.strategies.grid.GridTuner`.

    Attributes:
        parts: What is trained, in this order.
    """

    parts: tuple[GridPart, ...] = Field(min_length=1)

    @property
    def trainings(self) -> dict[str, int]:
        """See `CommonSettings.trainings`."""
        found: Counter[str] = Counter()
        for part in self.parts:
            found[part.name] += len(self.decouplings(part))
        return dict(found)

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        layers = num_layers(self.task.backbone)
        for number, part in enumerate(self.parts):
            check_num_blocks(part.num_blocks, layers)
            self.train.method.check(self.aux[:1] * (part.num_blocks - 1))
            sample, all_ = part.sample or 0, len(self._all(part))
            if sample > all_:
                rule = f"must be at most {all_}, the decouplings into {part.num_blocks} blocks"
                raise InputError.rule(f"parts.{number}.sample", rule, sample)

    def decouplings(self, part: GridPart) -> list[Decoupling]:
        """Return the decouplings of a part, in a fixed order."""
        found = self._all(part)
        if part.sample is None:
            return found
        drawn = np.random.default_rng(self.seed).choice(len(found), part.sample, replace=False)
        return [found[index] for index in drawn]

    def _all(self, part: GridPart) -> list[Decoupling]:
        from sedona_nni.decouplings.decoupling import every_decoupling

        backbone = self.task.backbone
        return every_decoupling(backbone, num_layers(backbone), part.num_blocks, self.aux)


def read_settings(model: type[SettingsT], class_args: Mapping[str, Any], folder: Path) -> SettingsT:
    """Read ``tuner.classArgs``, after loading the plug-ins that they name.

    Args:
        model: The settings of the tuner in question.
        class_args: What the YAML file has.
        folder: See `CommonSettings.check`.

    Raises:
        InputError: if a plug-in cannot be loaded, a field is misspelt or missing, or its value
            breaks a rule.
    """
    try:
        load_plugins(_Plugins.model_validate(dict(class_args)).plugins, folder)
        settings = model.model_validate(dict(class_args))
    except ValidationError as error:
        raise InputError.from_validation(error, "tuner.classArgs") from None
    settings.check(folder)
    if isinstance(settings, BalancedSettings) and settings.compute != "time":
        settings.bound(folder)
        if settings.uses_compute:
            settings.costs(folder)
    return settings
