"""What blocks cost in a run of an experiment; what has to be measured is measured here.

That takes a device for seconds to minutes. So it is a step of a run, and nothing that is checked
beforehand does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.layer_time import compute_in_time
from sedona_nni.machine import Machine
from sedona_nni.strategies.nni_border.devices import claim_device
from sedona_nni.strategies.settings.costs import MEASURED, block_bound, known_costs
from sedona_nni.strategies.settings.explored import ExploredSettings, check_exploration_bound
from sedona_nni.strategies.settings.parts import Training
from sedona_nni.strategies.settings.reading import task_in
from sedona_nni.strategies.settings.tuned import TunedSettings, aux_names, check_bound, plan_of
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["run_bound", "run_costs"]


def run_costs(
    settings: TunedSettings | ExploredSettings,
    folder: Path,
    kept: Path,
    aux: Iterable[str] = (),
) -> Compute | None:
    """Return what blocks cost: in MACs or memory, in what a file says, or in time on this machine.

    Args:
        settings: Of the experiment; while it is measured, a device as they say is claimed.
        folder: What relative paths are relative to.
        kept: Where measured times are, or are left: they are measured once.
        aux: Auxiliary networks beside those of the settings.

    Returns:
        None where nothing depends on it.

    Raises:
        InputError: if a file is none of the backbone and the auxiliary networks, or there is no
            such device.
    """
    if not settings.uses_costs:
        return None
    training, limits = settings.training, settings.bound
    names = _names(settings, folder, aux)
    if limits.compute != MEASURED:
        return known_costs(limits, training, names, folder)
    names -= {NO_AUXILIARY}
    found = Compute.load(kept) if kept.exists() else None
    if found is None:
        found = _measured(training, settings.machine, names, folder)
    found.check_covers(training.task.backbone, names)
    found.save(kept)
    return found


def _measured(training: Training, machine: Machine, aux: Iterable[str], folder: Path) -> Compute:
    with torch.random.fork_rng(devices=[]):
        backbone = task_backbone(task_in(training.task, folder))
    with claim_device(machine.device, threads=machine.threads) as device:
        batch_size = training.train.batch_size
        return compute_in_time(backbone, aux, device=device, batch_size=batch_size)


def _names(
    settings: TunedSettings | ExploredSettings, folder: Path, aux: Iterable[str]
) -> set[str]:
    """Return the auxiliary networks that may be used."""
    names = {*settings.training.aux, *aux}
    if isinstance(settings, TunedSettings):
        names |= aux_names(settings, plan_of(settings, folder))
    return names


def run_bound(
    settings: TunedSettings | ExploredSettings,
    folder: Path,
    costs: Compute | None,
    aux: Iterable[str] = (),
) -> BlockBound | None:
    """Return the bound on blocks, None if there is none.

    Args:
        settings: Of the experiment.
        folder: What relative paths are relative to.
        costs: What `run_costs` returned.
        aux: Auxiliary networks beside those of the settings.

    Raises:
        InputError: if a decoupling cannot respect it.
    """
    names = _names(settings, folder, aux)
    bound = block_bound(settings.bound, costs, settings.training, names, folder)
    if bound is None:
        return None
    if isinstance(settings, TunedSettings):
        check_bound(settings, plan_of(settings, folder), bound)
    else:
        check_exploration_bound(settings, bound)
    return bound
