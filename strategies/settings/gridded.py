"""Settings of the tuner that trains every decoupling of a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks, every_decoupling
from sedona_nni.errors import InputError
from sedona_nni.machine import Machine
from sedona_nni.strategies.settings.parts import Grid, GridPart, Plugins, Training
from sedona_nni.strategies.settings.reading import (
    check_training,
    load_named_plugins,
    read_parts,
)
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
    """

    training: Training
    machine: Machine
    plugins: Plugins
    grid: Grid

    @property
    def trainings(self) -> dict[str, int]:
        """How many trials train the decouplings of each name in the table."""
        found: Counter[str] = Counter()
        for part in self.grid.parts:
            found[part.name] += len(grid_decouplings(self.training, part))
        return dict(found)

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
    return GridSettings(training, parts[Machine], parts[Plugins], grid)


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
