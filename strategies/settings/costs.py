"""What blocks cost in an experiment, as far as it can be told without measuring."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import Compute, compute_in_macs, load_compute
from sedona_nni.files import user_path
from sedona_nni.strategies.settings.parts import Bound, Training
from sedona_nni.strategies.settings.reading import task_in
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["MEASURED", "block_bound", "known_costs"]

MEASURED = "time"
"""Costs that only a run can tell, see `sedona_nni.strategies.measuring`."""


def known_costs(bound: Bound, training: Training, aux: Collection[str], folder: Path) -> Compute:
    """Return what blocks cost in MACs, or in what a file says.

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
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone = task_backbone(task_in(training.task, folder))
        found = compute_in_macs(backbone, names)
    else:
        found = load_compute(folder / user_path(bound.compute))
    found.check_covers(training.task.backbone, names)
    return found


def block_bound(bound: Bound, costs: Compute | None) -> BlockBound | None:
    """Return the bound on blocks, None if there is none.

    Args:
        bound: What the experiment says.
        costs: What blocks cost, where anything depends on it.
    """
    if bound.max_block_share is None or costs is None:
        return None
    return BlockBound(costs, bound.max_block_share)
