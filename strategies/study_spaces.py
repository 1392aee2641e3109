"""What a study's strategies choose from: decouplings into K blocks, maybe within a bound."""

from __future__ import annotations

import torch

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks, uniform_cuts
from sedona_nni.errors import InputError
from sedona_nni.reporting.trial import StudySpace
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone, task_layers

__all__ = ["check_space", "fixed_aux", "space_bound", "uniform_in", "why_not_uniform"]


def fixed_aux(strategy: str) -> str | None:
    """Return the auxiliary network of a strategy that cuts uniformly, None of any other.

    ``uniform:<aux>`` has the one that it names (DGL), ``predsim`` its own.
    """
    kind, _, name = strategy.partition(":")
    if kind == "uniform" and name:
        return name
    return "predsim" if strategy == "predsim" else None


def space_bound(space: StudySpace, task: Task, aux: tuple[str, ...]) -> BlockBound | None:
    """Return the bound on the blocks of a task's backbone, None if there is none.

    Args:
        space: The space.
        task: The task.
        aux: Auxiliary networks that may be used.
    """
    if space.max_block_share is None:
        return None
    with torch.device("meta"):
        compute = compute_in_macs(task_backbone(task), aux)
    return BlockBound(compute, space.max_block_share)


def uniform_in(space: StudySpace, task: Task, aux: str) -> Decoupling:
    """Return uniform cuts with the same auxiliary network at each, or what is nearest to them.

    Raises:
        InputError: if no such decoupling is within the bound.
    """
    layers = task_layers(task)
    cuts = uniform_cuts(layers, space.num_blocks)
    bound = space_bound(space, task, (aux,))
    if bound is not None:
        return bound.nearest(cuts, [[aux]] * (layers - 1))
    return Decoupling(backbone=task.backbone, cuts=cuts, aux=[aux] * len(cuts))


def why_not_uniform(space: StudySpace, task: Task, aux: str) -> str | None:
    """Return why `uniform_in` is not possible, None if it is."""
    try:
        uniform_in(space, task, aux)
    except InputError as error:
        return str(error)
    return None


def check_space(space: StudySpace, task: Task, aux: tuple[str, ...]) -> None:
    """Check that a search can choose from a space, whatever it prefers.

    Raises:
        InputError: unless 2 <= K <= L, and if the costliest auxiliary networks leave no decoupling
            within the bound.
    """
    check_num_blocks(space.num_blocks, task_layers(task))
    bound = space_bound(space, task, aux)
    if bound is not None:
        ends = bound.ends([aux] * (bound.num_layers - 1), costliest=True)
        bound.check(space.num_blocks, ends, f" whichever of {', '.join(aux)} is preferred")
