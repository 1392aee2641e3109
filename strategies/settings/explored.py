"""Settings of the tuner that lets one of NNI's own strategies explore the decouplings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupling import check_num_blocks
from sedona_nni.errors import InputError
from sedona_nni.machine import Machine
from sedona_nni.strategies.settings.costs import MEASURED, block_bound, known_costs
from sedona_nni.strategies.settings.parts import Bound, Exploration, Plugins, Training
from sedona_nni.strategies.settings.reading import (
    check_training,
    load_named_plugins,
    read_parts,
)
from sedona_nni.training.task_backbone import task_layers

__all__ = ["ExploredSettings", "check_exploration_bound", "read_explored"]


@dataclass(frozen=True)
class ExploredSettings:
    """Settings of `sedona_nni.strategies.bridge.BridgeTuner`.

    Attributes:
        training: What is trained, and how.
        machine: What each trial may use.
        plugins: What is loaded first.
        bound: How large blocks may be.
        exploration: What is explored, and how.
    """

    training: Training
    machine: Machine
    plugins: Plugins
    bound: Bound
    exploration: Exploration

    @property
    def uses_costs(self) -> bool:
        """Whether anything depends on what blocks cost."""
        return self.bound.bounds_blocks

    @property
    def trainings(self) -> dict[str, int]:
        """How many trials train what each strategy chooses, by the names in the table."""
        return {self.exploration.strategy: self.exploration.max_trials}

    @property
    def num_trials(self) -> int:
        """How many trials the experiment has."""
        return self.exploration.max_trials


def read_explored(class_args: Mapping[str, Any], folder: Path) -> ExploredSettings:
    """Read and check them.

    Args:
        class_args: What the YAML file has.
        folder: What relative paths are relative to: ``trialCodeDirectory``.

    Raises:
        InputError: if a field is misspelt or missing, or its value breaks a rule.
    """
    load_named_plugins(class_args, folder)
    parts = read_parts(class_args, (Training, Machine, Plugins, Bound, Exploration))
    training, bound, exploration = parts[Training], parts[Bound], parts[Exploration]
    check_training(training, folder)
    if bound.compute != "macs" and bound.max_block_share is None:
        raise InputError.rule("compute", "must come with a max_block_share", bound.compute)
    check_num_blocks(exploration.num_blocks, task_layers(training.task))
    training.train.check_aux(training.aux if exploration.num_blocks > 1 else [])
    settings = ExploredSettings(training, parts[Machine], parts[Plugins], bound, exploration)
    if settings.uses_costs and bound.compute != MEASURED:
        costs = known_costs(bound, training, training.aux, folder)
        within = block_bound(bound, costs, training, training.aux, folder)
        if within is not None:
            check_exploration_bound(settings, within)
    return settings


def check_exploration_bound(settings: ExploredSettings, bound: BlockBound) -> None:
    """Check that there is a decoupling within a bound.

    Raises:
        InputError: if there is none.
    """
    ends = bound.ends([settings.training.aux] * (bound.num_layers - 1))
    bound.check(settings.exploration.num_blocks, ends)
