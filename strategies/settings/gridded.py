"""Settings of the tuner that trains every decoupling of a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks, every_decoupling
from sedona_nni.errors import InputError
from sedona_nni.machine import Machine
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import RepeatedTrial
from sedona_nni.strategies.settings.parts import Grid, GridPart, Plugins, Training
from sedona_nni.strategies.settings.reading import (
    check_training,
    load_named_plugins,
    read_parts,
)
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_layers

__all__ = ["GridSettings", "grid_decouplings", "read_grid"]


@dataclass(frozen=True)
class GridSettings:
    """Settings of `sedona_nni.strategies.grid.GridTuner`.

    Attributes:
        training: What is trained, and how.
        machine: What each trial may use.
        plugins: What is loaded first.
        grid: Which decouplings.
        wanted: Those that no earlier run has trained, each with its part and its number in the
            whole grid.
    """

    training: Training
    machine: Machine
    plugins: Plugins
    grid: Grid
    wanted: tuple[tuple[int, GridPart, Decoupling], ...]

    @property
    def trainings(self) -> dict[str, int]:
        """How many trials train the decouplings of each name in the table."""
        return dict(Counter(part.name for _, part, _ in self.wanted))

    @property
    def num_trials(self) -> int:
        """How many trials the experiment has."""
        return sum(self.trainings.values())


def read_grid(class_args: Mapping[str, Any], folder: Path) -> GridSettings:
    """Read and check them.

    Args:
        class_args: What the YAML file has.
        folder: What relative paths are relative to: ``trialCodeDirectory``.

    Raises:
        InputError: if a field is misspelt or missing, or its value breaks a rule.
    """
    load_named_plugins(class_args, folder)
    parts = read_parts(class_args, (Training, Machine, Plugins, Grid))
    training, grid = parts[Training], parts[Grid]
    check_training(training, folder)
    for number, part in enumerate(grid.parts):
        check_num_blocks(part.num_blocks, task_layers(training.task))
        training.train.check_aux(training.aux if part.num_blocks > 1 else [])
        sample, all_ = part.sample or 0, len(_all(training, part))
        if sample > all_:
            rule = f"must be at most {all_}, the decouplings into {part.num_blocks} blocks"
            raise InputError.rule(f"parts.{number}.sample", rule, sample)
    whole = [
        (part, decoupling) for part in grid.parts for decoupling in grid_decouplings(training, part)
    ]
    seeds = _trained(training, [folder / path for path in grid.trained])
    wanted = tuple(
        (number, part, decoupling)
        for number, (part, decoupling) in enumerate(whole)
        if seeds.get(decoupling, 0) < part.seeds
    )
    if not wanted:
        rule = "must leave something to train"
        raise InputError.rule("trained", rule, [str(path) for path in grid.trained])
    return GridSettings(training, parts[Machine], parts[Plugins], grid, wanted)


def _trained(training: Training, ledgers: Iterable[Path]) -> dict[Decoupling, int]:
    """Return with how many seeds earlier runs have trained decouplings.

    Raises:
        InputError: if a file is no ledger, or has trainings of another kind.
    """
    found: dict[Decoupling, int] = {}
    for path in ledgers:
        if not path.is_file():
            raise InputError.rule("trained", "must be ledgers, trials.jsonl", str(path))
        for record in Ledger(path):
            trial = record.parameters
            if record.result is None or not isinstance(trial, RepeatedTrial):
                continue
            train = TrainSettings.model_validate(trial.train)  # that of before may lack settings
            if (trial.task, train) != (training.task, training.train):
                rule = f"must have the same task and training, but {trial.key} has not"
                raise InputError.rule("trained", rule, str(path))
            found[trial.decoupling] = max(found.get(trial.decoupling, 0), trial.repetitions)
    return found


def grid_decouplings(training: Training, part: GridPart) -> list[Decoupling]:
    """Return the decouplings of a part of a grid, in a fixed order."""
    found = _all(training, part)
    if part.sample is None:
        return found
    drawn = np.random.default_rng(training.seed).choice(len(found), part.sample, replace=False)
    return [found[index] for index in drawn]


def _all(training: Training, part: GridPart) -> list[Decoupling]:
    backbone = training.task.backbone
    return every_decoupling(backbone, task_layers(training.task), part.num_blocks, training.aux)
