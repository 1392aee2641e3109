"""Selection by perturbation: what a finished relaxation loses by each choice, not what it weighs.

The size of alpha and beta says how training moved them, which need not be what a choice is worth
(Wang et al. on DARTS). So each choice is tried on the finished relaxed network: boundary j is not
cut (a_j^loc = 0), or cut (a_j^loc = 1) with c alone (b_jc = 1), while all others stay as they are.
In SEDONA that does not change what the network computes but what it learns from, so P training
steps follow, for all choices from the same weights, with the same images, at rates that begin anew.
With l the validation loss thereafter, on the same images for all,

    worth of the cut at j with c = l(j not cut) - l(j cut with c)

There each operation is masked in turn, one edge is decided after the other, and the network is
tuned between decisions; here all boundaries are compared at once, so that K stays open.
Source: Wang et al., "Rethinking architecture selection in differentiable NAS", ICLR 2021 (the
idea); its form for gradients instead of operations is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sedona_nni.data.batches import Batch
from sedona_nni.searches.sedona.hypergradient import look_ahead
from sedona_nni.searches.sedona.inner_step import InnerProblem, TrainingState
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork

__all__ = ["decided", "perturbed"]

_LARGE = 60.0  # logits that far apart are weights of 1 and 0, e^-120 < the least float32


@contextmanager
def decided(network: RelaxedNetwork, boundary: int, choice: int) -> Iterator[None]:
    """Let a boundary be decided, and be as it was afterwards.

    Args:
        network: Its alpha and beta change for the time being.
        boundary: j.
        choice: 0: not cut; 1 + c: cut, with auxiliary network c.
    """
    kept = network.alpha.detach().clone(), network.beta.detach().clone()
    cut = choice > 0
    with torch.no_grad():
        network.alpha[boundary] = torch.tensor([_LARGE, -_LARGE] if cut else [-_LARGE, _LARGE])
        if cut:
            network.beta[boundary] = -_LARGE
            network.beta[boundary, choice - 1] = _LARGE
    try:
        yield
    finally:
        with torch.no_grad():
            network.alpha.copy_(kept[0])
            network.beta.copy_(kept[1])


def perturbed(
    problem: InnerProblem,
    start: TrainingState,
    boundary: int,
    choice: int,
    train_batches: Sequence[Batch],
    validation_batch: Batch,
    *,
    lrs: Sequence[float],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return validation loss and accuracy, each of shape (), after training with a choice made.

    Args:
        problem: The relaxed network with its optimizer and loss.
        start: Where its training is; it is not changed.
        boundary: Of which the choice is.
        choice: See `decided`.
        train_batches: One per step, P of them.
        validation_batch: What is judged by.
        lrs: Learning rate of each step.
        seed: Of the dropout masks.
    """
    with decided(problem.network, boundary, choice):
        ahead = look_ahead(problem, start, train_batches, lrs=lrs, seed=seed)
    loss, accuracy, *_ = problem.validation(ahead.state, validation_batch)
    return loss, accuracy
