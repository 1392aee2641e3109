"""What blocks cost in an experiment, as far as it can be told without measuring."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

import torch

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import Compute, compute_in_macs, load_compute
from sedona_nni.decouplings.memory import compute_in_memory
from sedona_nni.decouplings.rules import RuleCosts
from sedona_nni.files import user_path
from sedona_nni.models import Backbone
from sedona_nni.strategies.settings.parts import Bound, Training
from sedona_nni.strategies.settings.reading import task_in
from sedona_nni.task import Task
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["MEASURED", "block_bound", "known_costs", "rule_costs"]

MEASURED = "time"
"""Costs that only a run can tell, see `sedona_nni.strategies.measuring`."""


def known_costs(bound: Bound, training: Training, aux: Collection[str], folder: Path) -> Compute:
    """Return what blocks cost in MACs, in memory, or in what a file says.

    Args:
        bound: Which of them, or the path of the file; not what is `MEASURED`.
        training: What is trained.
        aux: The auxiliary networks that may be used.
        folder: What relative paths are relative to.

    Raises:
        InputError: if there is no such file of the backbone and the auxiliary networks.
    """
    names = set(aux) - {NO_AUXILIARY}
    if bound.compute == "macs":
        found = compute_in_macs(_shapes(training, folder), names)
    elif bound.compute == "memory":
        found = _memory(training, names, folder)
    else:
        found = load_compute(folder / user_path(bound.compute))
    found.check_covers(training.task.backbone, names)
    return found


def block_bound(
    bound: Bound,
    costs: Compute | None,
    training: Training,
    aux: Collection[str],
    folder: Path,
) -> BlockBound | None:
    """Return the bound on blocks, None if there is none.

    Args:
        bound: What the experiment says.
        costs: What blocks cost, where anything depends on it.
        training: What is trained, and how.
        aux: The auxiliary networks that may be used.
        folder: What relative paths are relative to.
    """
    if costs is None or not bound.bounds_blocks:
        return None
    if bound.max_block_memory is None:
        return BlockBound(costs, bound.max_block_share)
    memory = _memory(training, aux, folder)
    return BlockBound(costs, bound.max_block_share, memory, bound.max_block_memory)


def rule_costs(training: Training, folder: Path) -> RuleCosts:
    """Return what counts costs for a decoupling by rule.

    Args:
        training: What is trained, and how.
        folder: What relative paths are relative to.
    """
    return lambda unit, aux: known_costs(Bound(compute=unit), training, [aux], folder)


def _shapes(training: Training, folder: Path) -> Backbone:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return task_backbone(task_in(training.task, folder))


def _memory(training: Training, aux: Collection[str], folder: Path) -> Compute:
    task = task_in(training.task, folder)
    return _memory_of(task, training.train.model_dump_json(), tuple(sorted(aux)))


@functools.lru_cache(maxsize=8)  # seconds for large networks, and settings are read several times
def _memory_of(task: Task, train: str, aux: tuple[str, ...]) -> Compute:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        backbone = task_backbone(task)
    return compute_in_memory(backbone, aux, step_form(TrainSettings.model_validate_json(train)))
