"""What a search is: the interface between whoever wants one and the algorithms.

A search looks at a task and finds out what speaks for a cut at each boundary and for each auxiliary
network there: its *outcome*, see `sedona_nni.decouplings.outcome`. How that becomes decouplings is
common to all searches, see `sedona_nni.decouplings.choice`; so is what surrounds one in a trial:
reading the data, going on, results. A search says how it is done:

    settings    a pydantic model of its options, as users write them
    outcome     a subclass of `SearchOutcome`; its ``format`` tells it from those of other searches
    run         the algorithm

A new one is a folder with these three, brought together in a subclass of `SearchKind`, of which
`register_search` makes one known; ours are listed in `sedona_nni.searches`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.registry import Registry
from sedona_nni.searches.progress import SearchProgress
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

__all__ = ["SEARCHES", "Findings", "SearchKind", "SearchSetup", "register_search"]

_CPU = torch.device("cpu")

SettingsT = TypeVar("SettingsT", bound=BaseModel)


@dataclass(frozen=True)
class SearchSetup:
    """What a search works with, beside its settings.

    Attributes:
        task: Backbone and data; `sedona_nni.training.task_backbone.task_backbone` makes the
            backbone, with weights from torch's global generator.
        splits: The task's images. The test part only reports.
        aux: Names of the C auxiliary networks to choose from.
        train: Of the full trainings that a decoupling is wanted for, where the search asks for it,
            see `SearchKind.uses_training`; else None.
        device: Where to compute.
        report: Takes numbers of how it goes, now and then, for curves and for a line on a terminal:
            how far it is, as ``step`` of ``steps``; ``default``, the larger the better, or if one
            thing is tried after another what was ``tried``, a text, and its ``loss``; and whatever
            else, numbers and texts. A trial tells again what came before an interruption.
        num_reports: About how often; a probing reports as often as it probes.
        progress: What outlives an interruption, small things; it keeps the time, too.
        directory: What outlives an interruption, large things; None keeps nothing. Not before
            something is put there need it exist, and a finished search's is removed.

    Examples:
        >>> from sedona_nni import (
        ...     SEARCHES, ProbeSettings, SearchSetup, Task, TrainSettings, discretise, load_splits,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> train = TrainSettings(epochs=2, batch_size=20)
        >>> splits = load_splits(task, train.validation_fraction)
        >>> setup = SearchSetup(task, splits, aux=("conv1", "mlp"), train=train)
        >>> findings = SEARCHES["probe"].run(setup, ProbeSettings(cost=4))
        >>> discretise(findings.outcome, num_blocks=3).num_blocks
        3
    """

    task: Task
    splits: Splits
    aux: tuple[str, ...]
    train: TrainSettings | None = None
    device: torch.device = _CPU
    report: Callable[[dict[str, Any]], None] = lambda numbers: None
    num_reports: int = 75
    progress: SearchProgress = field(default_factory=SearchProgress)
    directory: Path | None = None


@dataclass(frozen=True)
class Findings:
    """What a search came to.

    Attributes:
        outcome: What decouplings for every K derive from.
        default: What stands for it in NNI, which maximises; for searches it has no further use.
        images: How many its steps took, the same one as often as it was taken.
        numbers: Whatever else its results say, fit for JSON.

    Examples:
        >>> from sedona_nni import Findings, ProbeResult
        >>> outcome = ProbeResult(
        ...     backbone="mine", dataset="digits", aux_choices=["conv1"],
        ...     losses=[[0.9], [0.5], [0.4]], undivided=0.3,
        ... )
        >>> Findings(outcome, default=-0.3, images=1000).numbers
        {}
    """

    outcome: SearchOutcome
    default: float
    images: int
    numbers: dict[str, Any] = field(default_factory=dict)


class NoOptions(BaseModel):
    """The options of a search that has none in a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchKind(ABC, Generic[SettingsT]):
    """Base of all searches; a subclass has the attributes and `run`.

    Attributes:
        name: What users and tables call it, and its trials its strategy.
        field: Under which name its settings stand in experiments and in trial parameters.
        settings: Class of its settings; they have a ``seed``, and no field without a default.
        outcome: Class of its outcome.
        noun: What reports call a search of this sort, e.g. ``"probing"``.
        default_is_accuracy: Whether `Findings.default` is a validation accuracy.
        uses_training: Whether how it searches depends on how its decouplings will be trained.
        cost: Which of its settings says what it costs, in full trainings by MACs, if one does. In
            a study it must be given, and its strategy trains as much as the rest of the budget
            allows; without such a setting, once.
        study_options: Class of the options that it has in a study beside its settings.
        fixed_in_study: Settings that must not be given in a study, and what they follow from.

    Examples:
        >>> from sedona_nni import SEARCHES, SearchKind
        >>> all(isinstance(SEARCHES[name], SearchKind) for name in SEARCHES)
        True
    """

    name: str
    field: str
    settings: type[SettingsT]
    outcome: type[SearchOutcome]
    noun: str = "search"
    default_is_accuracy: bool = False
    uses_training: bool = False
    cost: str | None = None
    study_options: type[BaseModel] = NoOptions
    fixed_in_study: Mapping[str, str] = MappingProxyType({})

    def check(self, setup: SearchSetup, settings: SettingsT) -> None:
        """Check that it can be searched, before anything is kept or written.

        Raises:
            InputError: if numbers do not fit the task.
        """
        return

    @abstractmethod
    def run(self, setup: SearchSetup, settings: SettingsT) -> Findings:
        """Search.

        With the same setup and settings, and on the same machine, it finds the same. What it has
        put into ``setup.progress`` and ``setup.directory`` was put there by a search of the same
        setup and settings, which it goes on with. Torch's global generators are left as they were.

        Raises:
            InputError: if what was kept cannot be read.
        """

    def validation_fraction(self, settings: SettingsT, train: TrainSettings | None) -> float:
        """Return the share of the training images that validate: by default ``train``'s."""
        return (train or TrainSettings()).validation_fraction

    def for_study(
        self, settings: SettingsT, options: Any, train: TrainSettings, steps: int
    ) -> SettingsT:
        """Return how to search in a study: by default as the settings say.

        Args:
            settings: What its file has.
            options: Its `study_options`.
            train: How the study trains.
            steps: Of such a training.
        """
        return settings

    def in_words(self, results: Mapping[str, Any]) -> str:
        """Return what is worth saying of the results, in a few words.

        Args:
            results: Those of the trial: ``default``, ``images``, ``time_s``, `Findings.numbers`,
                and the outcome as ``search_result``.
        """
        default = results["default"]
        if self.default_is_accuracy:
            return f"validation accuracy {default:.1%}"
        return f"default {default:.4g}"


SEARCHES: Registry[SearchKind[Any]] = Registry("search")
"""The searches by name."""


def register_search(kind: SearchKind[Any]) -> None:
    """Make a search known under its name, wherever the names of this project's can stand.

    Raises:
        InputError: if it is no search, or lacks an attribute; or if its name, the field of its
            settings, or the format of its outcome is taken by another search; searches may share
            the class of an outcome.

    Examples:
        >>> import random
        >>> from pydantic import BaseModel
        >>> from sedona_nni import (
        ...     Findings, SearchKind, SearchResult, register_search, task_backbone,
        ... )
        >>> class LuckSettings(BaseModel):
        ...     seed: int = 0
        >>> class Luck(SearchKind[LuckSettings]):
        ...     name, field, settings, outcome = "luck", "luck", LuckSettings, SearchResult
        ...
        ...     def run(self, setup, settings):
        ...         draw = random.Random(settings.seed).random
        ...         boundaries = task_backbone(setup.task).num_layers - 1
        ...         found = SearchResult(
        ...             backbone=setup.task.backbone,
        ...             dataset=setup.task.dataset,
        ...             aux_choices=setup.aux,
        ...             alpha=[(draw(), draw()) for _ in range(boundaries)],
        ...             beta=[[draw() for _ in setup.aux] for _ in range(boundaries)],
        ...         )
        ...         return Findings(found, default=0.0, images=0)
        >>> register_search(Luck())
    """
    given: object = kind  # whatever a plug-in registers
    if not isinstance(given, SearchKind):
        rule = "must be a SearchKind, and not its class"
        raise InputError.rule("search", rule, getattr(given, "__name__", type(given).__name__))
    for attribute in ("name", "field", "settings", "outcome"):
        if not hasattr(kind, attribute):
            raise InputError.rule("search", f"must have {attribute!r}", type(kind).__name__)
    for other in SEARCHES.so_far:
        if other.field == kind.field:
            raise InputError.rule("search", "must have a field that is not taken", kind.field)
        if other.outcome is not kind.outcome and _format(other) == _format(kind):
            rule = "must have an outcome of another format than other searches'"
            raise InputError.rule("search", rule, _format(kind))
    SEARCHES.add(kind.name, kind)


def _format(kind: SearchKind[Any]) -> str:
    return kind.outcome.format_name()
