"""Settings of the tuner of a study: strategies that choose decouplings, compared at equal cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from sedona_nni.errors import InputError
from sedona_nni.machine import Machine
from sedona_nni.reporting.trial import SearchInStudy, StudyTrial
from sedona_nni.searches import SEARCHES
from sedona_nni.strategies.plan import BACKPROP, RANDOM
from sedona_nni.strategies.settings.parts import Plugins, Study, Training
from sedona_nni.strategies.settings.reading import (
    check_seeds,
    check_training,
    load_named_plugins,
    read_parts,
    task_in,
)
from sedona_nni.strategies.study_spaces import check_space, fixed_aux, why_not_uniform
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import check_auxiliary, check_plain

__all__ = [
    "EVOLUTION",
    "StudiedSearch",
    "StudySettings",
    "num_leaders",
    "read_study",
    "study_trial",
]

EVOLUTION = "evolution"
_ASKING = (RANDOM, EVOLUTION)  # NNI's strategies


class StudiedSearch(NamedTuple):
    """How a search is done in a study.

    Attributes:
        settings: Its settings.
        options: What it has beside in a study, see `SearchKind.study_options`.
    """

    settings: BaseModel
    options: BaseModel


@dataclass(frozen=True)
class StudySettings:
    """Settings of `sedona_nni.strategies.study.StudyTuner`.

    Attributes:
        training: What is trained, and how.
        machine: What each trial may use.
        plugins: What is loaded first.
        study: What is compared.
        searches: How each search is done, by its name.
    """

    training: Training
    machine: Machine
    plugins: Plugins
    study: Study
    searches: Mapping[str, StudiedSearch]

    @property
    def trials(self) -> list[tuple[str, int]]:
        """Strategy and replicate of every trial: the first replicates of all, then the second, so
        that an early end leaves a fair picture."""
        replicates = self.study.replicates
        rounds = range(max(replicates.values()))
        return [(s, r) for r in rounds for s, count in replicates.items() if r < count]

    @property
    def trainings(self) -> dict[str, int]:
        """How many trials each strategy has."""
        return dict(self.study.replicates)

    @property
    def num_trials(self) -> int:
        """How many trials the study has."""
        return sum(self.trainings.values())


def read_study(class_args: Mapping[str, Any], folder: Path) -> StudySettings:
    """Read and check them.

    Args:
        class_args: What the YAML file has.
        folder: What relative paths are relative to: ``trialCodeDirectory``.

    Raises:
        InputError: if a field is misspelt or missing, or its value breaks a rule.
    """
    load_named_plugins(class_args, folder)
    kinds = [SEARCHES[name] for name in SEARCHES]
    options = [kind.study_options for kind in kinds]
    under = {kind.field: kind.settings for kind in kinds}
    parts = read_parts(class_args, (Training, Machine, Plugins, Study, *options), under)
    settings = StudySettings(
        training=parts[Training],
        machine=parts[Machine],
        plugins=parts[Plugins],
        study=parts[Study],
        searches={
            kind.name: StudiedSearch(parts.under[kind.field], parts[kind.study_options])
            for kind in kinds
        },
    )
    check_training(settings.training, folder)
    check_seeds({kind.field: parts.under[kind.field].model_dump() for kind in kinds})
    for kind in kinds:
        for name, source in kind.fixed_in_study.items():
            if name in parts.under[kind.field].model_fields_set:
                raise InputError(
                    f"{kind.field}.{name}: must not be given, it follows from {source}"
                )
    _check(settings, task_in(settings.training.task, folder))
    return settings


def _check(settings: StudySettings, task: Task) -> None:
    training, study = settings.training, settings.study
    training.train.check_aux(training.aux)
    if len(set(study.spaces)) < len(study.spaces):
        raise InputError("spaces: must be different from each other")
    for space in study.spaces:
        check_space(space, task, training.aux)
    for strategy, count in study.replicates.items():
        if count < 1:
            raise InputError.rule(f"replicates.{strategy}", "must be at least 1", count)
        _check_strategy(settings, strategy, task)


def _check_strategy(settings: StudySettings, strategy: str, task: Task) -> None:
    aux = fixed_aux(strategy)
    if aux is not None:
        check_auxiliary(aux)
        settings.training.train.check_aux([aux])
        reasons = [why_not_uniform(space, task, aux) for space in settings.study.spaces]
        if all(reasons):
            raise InputError(f"replicates.{strategy}: fits into none of the spaces; {reasons[0]}")
    elif strategy in SEARCHES:
        check_plain(settings.training.aux, "in a search")
        kind, budget = SEARCHES[strategy], settings.study.budget
        how = settings.searches[strategy].settings
        if kind.cost is not None and getattr(how, kind.cost) is None:
            raise InputError(f"{kind.field}.{kind.cost}: must be given, to be within the budget")
        if num_leaders(strategy, how, budget) < 1:
            rule = f"must leave a training of the budget, {budget}"
            raise InputError.rule(f"{kind.field}.{kind.cost}", rule, getattr(how, str(kind.cost)))
    elif strategy not in (*_ASKING, BACKPROP):
        known = (*SEARCHES, *_ASKING, "uniform:<aux>", "predsim", BACKPROP)
        rule = f"must name some of {', '.join(known)}"
        raise InputError.rule("replicates", rule, strategy)


def num_leaders(search: str, settings: BaseModel, budget: int) -> int:
    """Return how many trainings a strategy that searches can afford in each space.

    Args:
        search: Its name.
        settings: Of the search.
        budget: Of each space, in full trainings. A search whose settings do not say what it costs
            is meant to cost all but one of them.
    """
    cost = SEARCHES[search].cost
    return 1 if cost is None else math.floor(budget - getattr(settings, cost))


def study_trial(settings: StudySettings, strategy: str, replicate: int) -> StudyTrial:
    """Return the trial of a replicate of a strategy."""
    training, search = settings.training, settings.searches.get(strategy)
    return StudyTrial(
        key=f"{strategy}-{replicate:03d}",
        strategy=strategy,
        task=training.task,
        machine=settings.machine,
        plugins=settings.plugins.plugins,
        replicate=replicate,
        aux=training.aux,
        train=training.train.model_dump(mode="json"),
        seed=training.seed,
        spaces=settings.study.spaces,
        budget=settings.study.budget,
        search=None
        if search is None
        else SearchInStudy(
            settings=search.settings.model_dump(mode="json"),
            options=search.options.model_dump(mode="json"),
        ),
    )
