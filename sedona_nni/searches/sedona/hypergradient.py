"""The hypergradient: how the validation loss after T training steps depends on alpha and beta.

    w_{t+1} = step(w_t, alpha, beta), t = 0 ... T-1        (`inner_step`; w stands for (w, s, r))
    meta_loss = CE(backbone and final head with w_T, validation batch)
    hypergradient = d meta_loss / d (alpha, beta), through all T steps

Forwards, T steps are run and only the gradient vector of each is kept, no graph. Backwards, from
v = d meta_loss / d w_T, each step is run once more as a differentiable function of (w_t, alpha,
beta), v is pulled back through it, and its graph is dropped. This is the chain rule as unrolling
applies it, so the result is the same; but one step's graph exists at a time, whatever T is.

Beyond 32 steps, up to a whole training, the steps are taken in *legs* of m = max(32, sqrt(T)): w is
kept before each, gradient vectors of one leg at a time, and those of all but the last leg are
computed again on the way back. With n weights and u vectors of state for each, that is
(1 + u) n T/m numbers for the moments and n m for the gradients, and a pass more for each step.
Sources: Pyeon et al., "SEDONA", ICLR 2021, section 3 (the objective); Griewank and Walther,
"Revolve", ACM TOMS 2000 (what to keep of many steps; this is its simplest form); the rest is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nni.data.batches import Batch
from sedona_nni.searches.sedona.inner_step import InnerProblem, PulledBack, TrainingState

__all__ = [
    "SHORTEST_LEG",
    "Hypergradient",
    "LookAhead",
    "hypergradient",
    "legs",
    "look_ahead",
    "pull_back",
]

SHORTEST_LEG = 32
"""Steps that a leg has at least: to compute it again costs more than some vectors more."""


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
        moments: Where each leg began.
        gradients: The gradient vectors (n,) that the steps of the last leg used.
        losses: Losses of the L classifiers before each step, shape (T, L).
    """

    state: TrainingState
    moments: list[TrainingState]
    gradients: list[Tensor]
    losses: Tensor


def look_ahead(
    problem: InnerProblem,
    start: TrainingState,
    train_batches: Sequence[Batch],
    *,
    lrs: Sequence[float],
    seed: int,
) -> LookAhead:
    """Train for T = len(train_batches) steps from ``start``, which is not changed.

    Takes what `hypergradient` does.
    """
    ahead = LookAhead(
        start, [], [], start.weights.new_zeros(0, problem.network.backbone.num_layers)
    )
    for leg in legs(len(train_batches)):
        state, gradients, losses = _train(problem, ahead.state, train_batches, leg, lrs, seed)
        moments = [*ahead.moments, ahead.state]
        ahead = LookAhead(state, moments, gradients, torch.cat([ahead.losses, losses]))
    return ahead


def legs(steps: int) -> list[range]:
    """Return the numbers of the steps of each leg."""
    numbers = range(steps)
    length = max(SHORTEST_LEG, math.isqrt(steps))
    return [numbers[first : first + length] for first in numbers[::length]]


def _train(
    problem: InnerProblem,
    state: TrainingState,
    train_batches: Sequence[Batch],
    steps: range,
    lrs: Sequence[float],
    seed: int,
) -> tuple[TrainingState, list[Tensor], Tensor]:
    """Do some of the steps; return where they led, their gradient vectors and their losses."""
    gradients, losses = [], []
    for t in steps:
        gradient, statistics, step_losses = problem.gradient(state, train_batches[t], seed + t)
        state = problem.update(state, gradient, statistics, lrs[t])
        gradients.append(gradient)
        losses.append(step_losses)
    return state, gradients, torch.stack(losses)


def _replay(
    problem: InnerProblem, start: TrainingState, gradients: Sequence[Tensor], lrs: Sequence[float]
) -> TrainingState:
    """Return w_t and s_t again from the gradients before: cheaper than to keep all of them.

    The running statistics stay those of ``start``; no step depends on them.
    """
    state = start
    for gradient, lr in zip(gradients, lrs, strict=True):
        state = problem.update(state, gradient, start.statistics, lr)
    return state


def pull_back(
    problem: InnerProblem,
    ahead: LookAhead,
    train_batches: Sequence[Batch],
    after: PulledBack,
    *,
    lrs: Sequence[float],
    seed: int,
    to_start: bool = False,
) -> PulledBack:
    """Pull cotangents of where the steps led back through all of them, to alpha and beta.

    Takes the batches, rates and seed of the look ahead; and whether they are wanted of where the
    steps began, too, which costs a little more.
    """
    gradients = ahead.gradients
    for start, leg in reversed([*zip(ahead.moments, legs(len(train_batches)), strict=True)]):
        if not gradients:
            _, gradients, _ = _train(problem, start, train_batches, leg, lrs, seed)
        for t in reversed(leg):
            done = t - leg.start
            state = _replay(problem, start, gradients[:done], lrs[leg.start : t])
            after = problem.pull_back(
                state,
                gradients[done],
                train_batches[t],
                lrs[t],
                seed + t,
                after,
                first=t == 0 and not to_start,
            )
        gradients = []
    return after


def hypergradient(
    problem: InnerProblem,
    start: TrainingState,
    train_batches: Sequence[Batch],
    validation_batch: Batch,
    *,
    lrs: Sequence[float],
    seed: int,
) -> Hypergradient:
    """Differentiate the validation loss after T = len(train_batches) steps from ``start``.

    Args:
        problem: The relaxed network with its optimizer and loss.
        start: (w_0, s_0, r_0); it is not changed.
        train_batches: One per step.
        validation_batch: What meta_loss is taken on.
        lrs: Learning rate of each step.
        seed: Of the dropout masks; step t uses ``seed + t``.
    """
    ahead = look_ahead(problem, start, train_batches, lrs=lrs, seed=seed)
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
    pulled = pull_back(problem, ahead, train_batches, at_end, lrs=lrs, seed=seed)
    return Hypergradient(pulled.alpha, pulled.beta, meta_loss, accuracy, ahead.losses)
