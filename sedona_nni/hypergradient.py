"""The hypergradient: how the validation loss after T training steps depends on alpha and beta.

    w_{t+1} = step(w_t, alpha, beta), t = 0 ... T-1        (`inner_step`; w stands for (w, s, r))
    meta_loss = CE(backbone and final head with w_T, validation batch)
    hypergradient = d meta_loss / d (alpha, beta), through all T steps

Forwards, T steps are run and only the gradient vector of each is kept, no graph. Backwards, from
v = d meta_loss / d w_T, each step is run once more as a differentiable function of (w_t, alpha,
beta), v is pulled back through it, and its graph is dropped. This is the chain rule as unrolling
applies it, so the result is the same; but one step's graph exists at a time, whatever T is.
Source: Pyeon et al., "SEDONA", ICLR 2021, section 3 (the objective); the recomputation is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nni.batches import Batch
from sedona_nni.inner_step import InnerProblem, PulledBack, TrainingState

__all__ = ["Hypergradient", "hypergradient"]


@dataclass(frozen=True)
class Hypergradient:
    """d meta_loss / d (alpha, beta), and what was seen on the way.

    Attributes:
        alpha: Shape (L-1, 2).
        beta: Shape (L-1, C).
        meta_loss: Mean validation loss after T steps, nats, shape ().
        meta_accuracy: Accuracy on the same batch, a fraction, shape ().
        inner_losses: Losses of the L classifiers before each step, shape (T, L).
    """

    alpha: Tensor
    beta: Tensor
    meta_loss: Tensor
    meta_accuracy: Tensor
    inner_losses: Tensor


def hypergradient(
    problem: InnerProblem,
    start: TrainingState,
    train_batches: Sequence[Batch],
    validation_batch: Batch,
    *,
    lr: float,
    seed: int,
) -> Hypergradient:
    """Differentiate the validation loss after T = len(train_batches) steps from ``start``.

    Args:
        problem: The relaxed network with its optimizer and loss.
        start: (w_0, s_0, r_0); it is not changed.
        train_batches: One per step.
        validation_batch: What meta_loss is taken on.
        lr: Learning rate of all T steps.
        seed: Of the dropout masks; step t uses ``seed + t``.
    """
    gradients: list[Tensor] = []
    losses, state = [], start
    for t, batch in enumerate(train_batches):
        gradient, statistics, step_losses = problem.gradient(state, batch, seed + t)
        state = problem.update(state, gradient, statistics, lr)
        gradients.append(gradient)
        losses.append(step_losses)

    meta_loss, accuracy, to_weights, to_statistics = problem.validation(state, validation_batch)

    network = problem.network
    pulled = PulledBack(
        weights=to_weights,
        slots=torch.zeros_like(start.slots),
        statistics=to_statistics,
        alpha=torch.zeros_like(network.alpha),
        beta=torch.zeros_like(network.beta),
    )
    for t, batch in reversed(list(enumerate(train_batches))):
        gradient = gradients.pop()
        state = start  # w_t again, from the gradients before it: cheaper than keeping T states
        for earlier in gradients:
            state = problem.update(state, earlier, start.statistics, lr)
        pulled = problem.pull_back(state, gradient, batch, lr, seed + t, pulled)
    return Hypergradient(pulled.alpha, pulled.beta, meta_loss, accuracy, torch.stack(losses))
