"""Whether a training fits into memory, told before any is allocated.

A process that trains all blocks needs the peak of a step, see `sedona_nni.decouplings.memory`; in
parallel each process needs that of its block. The images of the data set, copies of weights, Python
and PyTorch themselves are not counted, and some methods keep more than greedy learning: so what is
refused does not fit, and what is not refused may not, either.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch

from sedona_nni.data.sets import form_of
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.memory import StepPeaks, peaks_of_step
from sedona_nni.errors import InputError
from sedona_nni.free_memory import available_bytes
from sedona_nni.models.pretrained import freeze_pretrained
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form
from sedona_nni.training.task_backbone import backbone_for

__all__ = ["check_fits", "needed_bytes"]

_MIB = 2**20
_IRRELEVANT = {
    "parallel",
    "seed",
    "lr",
    "lr_min",
    "epochs",
    "milestones",
    "schedule",
    "warmup_epochs",
}


@functools.lru_cache(maxsize=32)
def _peaks(task: Task, decoupling: str, settings: str, device: str) -> StepPeaks:
    train = TrainSettings.model_validate_json(settings)
    frozen = train.lr_pretrained == 0  # then what is in the file of weights counts
    with torch.device("meta"):
        backbone = backbone_for(task, *form_of(task), task.weights if frozen else None)
        network = build_decoupled(backbone, Decoupling.model_validate_json(decoupling))
    if frozen:
        for block in network.blocks:
            freeze_pretrained(block)
    return peaks_of_step(network, backbone.images, step_form(train, device))


def needed_bytes(
    task: Task, decoupling: Decoupling, settings: TrainSettings, device: torch.device
) -> list[int]:
    """Return the least that each process of a training needs, see the top of this file.

    Args:
        task: Backbone and data.
        decoupling: Where to cut, and with which auxiliary networks.
        settings: How to train; they say whether each block has a process of its own.
        device: Of the kind on which it is trained.

    Returns:
        One number, or that of each process.
    """
    bare = decoupling.model_copy(update={"provenance": {}}).model_dump_json()

    def peaks(replicas: int = 1) -> StepPeaks:
        own = settings.model_copy(update={"batch_size": max(2, settings.batch_size // replicas)})
        return _peaks(task, bare, own.model_dump_json(exclude=_IRRELEVANT), device.type)

    if settings.parallel is not None and decoupling.cuts:
        counts = settings.parallel.replicas_of(decoupling.num_blocks)
        return [peaks(n).ranks[block] for block, n in enumerate(counts) for _ in range(n)]
    if settings.method.name == "sequential":  # the optimizer's state of one block at a time
        return [max(peaks().ranks)]
    return [peaks().one_process]


def check_fits(
    task: Task,
    decoupling: Decoupling,
    settings: TrainSettings,
    devices: Sequence[torch.device],
) -> None:
    """Check that a training is not larger than the memory that is left.

    Args:
        task: Backbone and data.
        decoupling: Where to cut, and with which auxiliary networks.
        settings: How to train.
        devices: Where: one, or that of each process.

    Raises:
        InputError: if it is.
    """
    try:
        needed = needed_bytes(task, decoupling, settings, devices[0])
    except RuntimeError:  # a plug-in's network that cannot be run dry
        return
    of_each: dict[torch.device, int] = {}
    for device, own in zip(itertools.cycle(devices), needed, strict=False):
        of_each[device] = of_each.get(device, 0) + own
    for device, total in of_each.items():
        left = available_bytes(device)
        if left is not None and total > left:
            raise InputError(
                f"memory: this training needs at least {total / _MIB:,.0f} MiB, but {device} has "
                f"{left / _MIB:,.0f} MiB left; smaller batches, accumulate, checkpoint or more "
                "blocks need less, and --force (check_memory: false) trains all the same"
            )
