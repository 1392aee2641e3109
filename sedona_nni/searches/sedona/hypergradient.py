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

from sedona_nni.data.batches import Batch
from sedona_nni.searches.sedona.inner_step import InnerProblem, PulledBack, TrainingState

__all__ = ["Hypergradient", "LookAhead", "hypergradient", "look_ahead", "pull_back", "replay"]


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


@dataclass(frozen=True)
class LookAhead:
    """T training steps ahead of some moment.

    Attributes:
        state: Where they led.
        gradients: The gradient vector (n,) that each step used.
        losses: Losses of the L classifiers before each step, shape (T, L).
    """

    state: TrainingState
    gradients: list[Tensor]
    losses: Tensor


def look_ahead(
    problem: InnerProblem,
    start: TrainingState,
    train_batches: Sequence[Batch],
    *,
    lr: float,
    seed: int,
) -> LookAhead:
    """Train for T = len(train_batches) steps from ``start``, which is not changed."""
    state, gradients, losses = start, [], []
    for t, batch in enumerate(train_batches):
        gradient, statistics, step_losses = problem.gradient(state, batch, seed + t)
        state = problem.update(state, gradient, statistics, lr)
        gradients.append(gradient)
        losses.append(step_losses)
    return LookAhead(state, gradients, torch.stack(losses))


def replay(
    problem: InnerProblem, start: TrainingState, gradients: Sequence[Tensor], *, lr: float
) -> TrainingState:
    """Return w_t and s_t again from the t gradients before: cheaper than to keep all of them.

    The running statistics stay those of ``start``; no step depends on them.
    """
    state = start
    for gradient in gradients:
        state = problem.update(state, gradient, start.statistics, lr)
    return state


def pull_back(
    problem: InnerProblem,
    start: TrainingState,
    gradients: Sequence[Tensor],
    train_batches: Sequence[Batch],
    after: PulledBack,
    *,
    lr: float,
    seed: int,
) -> PulledBack:
    """Pull cotangents of where the steps led back through all of them, to alpha and beta."""
    for t in reversed(range(len(gradients))):
        state = replay(problem, start, gradients[:t], lr=lr)
        after = problem.pull_back(
            state, gradients[t], train_batches[t], lr, seed + t, after, first=t == 0
        )
    return after


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
    ahead = look_ahead(problem, start, train_batches, lr=lr, seed=seed)
    meta_loss, accuracy, to_weights, to_statistics = problem.validation(
        ahead.state, validation_batch
    )
    at_end = PulledBack(
        weights=to_weights,
        slots=torch.zeros_like(start.slots),
        statistics=to_statistics,
        alpha=torch.zeros_like(problem.network.alpha),
        beta=torch.zeros_like(problem.network.beta),
    )
    pulled = pull_back(problem, start, ahead.gradients, train_batches, at_end, lr=lr, seed=seed)
    return Hypergradient(pulled.alpha, pulled.beta, meta_loss, accuracy, ahead.losses)
