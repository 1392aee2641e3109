"""What a training begins with."""

from __future__ import annotations

import torch

from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["initial_network"]


def initial_network(task: Task, decoupling: Decoupling, seed: int) -> DecoupledNetwork:
    """Return a task's network, cut, with the seed's initial weights.

    Those of the backbone depend on the task and the seed, not on the decoupling. Torch's global
    generator is left as it was.

    Raises:
        InputError: if task and decoupling do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_decoupled(task_backbone(task), decoupling)
