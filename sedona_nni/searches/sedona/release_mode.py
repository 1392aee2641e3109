"""The search as the authors' release computes it, for comparison with its results.

It differs from ours in two ways. Notation as in `relaxation`; s_i = 1 / (a_i^loc + 1e-5).

1. The auxiliary networks see h_i / s_i and their logits are multiplied by s_i, a constant in all
   derivatives; and they learn from a_i^loc l_i instead of l_i. Where they begin with a convolution
   and batch norm, dividing by s_i changes nothing, so in effect the logits grow as a^loc shrinks.
2. What is minimised with regard to alpha and beta is the last inner *training* loss

       R_0, with R_i = a_i^loc l_i + a_i^up R_{i+1} and R_{L-1} the final loss,

   on the T-th training batch, before the T-th update. So T-1 steps are looked through, R_0 depends
   on alpha and beta also by itself, and the validation loss is only reported.

The release divides all gradients of layer i by the product of a_k^up, k < i. What is left is the
gradient of R_i, which is what a gradient valve computes without the division.
Source: github.com/mjpyeon/sedona as of commit d769bf9, sedona.py and models/module.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from sedona_nni.data.batches import Batch
from sedona_nni.searches.sedona.hypergradient import Hypergradient, look_ahead, pull_back
from sedona_nni.searches.sedona.inner_step import (
    InnerProblem,
    PulledBack,
    TrainingState,
    seeded,
)
from sedona_nni.searches.sedona.relaxation import MixedAuxiliary, Valve

__all__ = ["ReleaseProblem", "release_hypergradient", "rescaled_logits"]


class ReleaseProblem(InnerProblem):
    """The relaxed network's training with rescaled auxiliary networks, and its objective R_0."""

    def local_logits(
        self,
        mixed: MixedAuxiliary,
        features: Sequence[Tensor],
        a: Tensor,
        b: Tensor,
        valve: Valve,
    ) -> Tensor:
        """See `InnerProblem.local_logits`."""
        return rescaled_logits(mixed, features, a, b, valve)

    def objective(self, state: TrainingState, batch: Batch, seed: int) -> PulledBack:
        """Return the gradient of R_0 with regard to the weights, alpha and beta."""
        images, labels = batch
        self.load(state)
        to_weights = self.weights.gradients()
        network = self.network
        a, b = network.a, network.b
        with seeded(seed, network.alpha.device), self.training_mode():
            at_boundaries, logits = network(images, a, _open)
            local: list[Tensor] = []
            for mixed in network.mixed:
                features = [at_boundaries[i] for i in mixed.boundaries]
                local_logits = self.local_logits(mixed, features, a, b, _open)
                local += self.local_losses(mixed, local_logits, labels, b)
            total = self.criterion(logits, labels)
            for (a_loc, a_up), loss in reversed(list(zip(a, local, strict=True))):
                total = a_loc * loss + a_up * total
            total.backward()
        alpha, beta = network.alpha.grad, network.beta.grad
        network.alpha.grad = network.beta.grad = None
        return PulledBack(
            to_weights,
            torch.zeros_like(state.slots),
            torch.zeros_like(state.statistics),
            cast(Tensor, alpha),
            cast(Tensor, beta),
        )


def rescaled_logits(
    mixed: MixedAuxiliary, features: Sequence[Tensor], a: Tensor, b: Tensor, valve: Valve
) -> Tensor:
    """Return s_i times the logits for h_i / s_i, behind a valve with a_i^loc.

    Takes and returns what `InnerProblem.local_logits` does.
    """
    a_loc = mixed.own(a)[:, 0]
    s = 1 / (a_loc.detach() + 1e-5)
    logits = mixed([each / one for each, one in zip(features, s, strict=True)], mixed.own(b))
    return torch.stack(
        [valve(one * each, scale) for one, each, scale in zip(s, logits, a_loc, strict=True)]
    )


def _open(features: Tensor, scale: Tensor) -> Tensor:
    """A valve that is no valve: R_0 is an ordinary function, differentiated as it is."""
    return features


def release_hypergradient(
    problem: InnerProblem,
    start: TrainingState,
    train_batches: Sequence[Batch],
    validation_batch: Batch,
    *,
    lrs: Sequence[float],
    seed: int,
) -> Hypergradient:
    """Differentiate R_0 on the last of T = len(train_batches) batches; see the module.

    Takes and returns what `hypergradient.hypergradient` does; ``meta_loss`` is the validation loss
    after all T steps, as the release reports it, not what was differentiated.
    """
    assert isinstance(problem, ReleaseProblem)
    *before, last = train_batches
    steps = len(before)
    ahead = look_ahead(problem, start, before, lrs=lrs[:steps], seed=seed)
    state, losses = problem.step(ahead.state, last, lrs[steps], seed + steps)
    meta_loss, accuracy, *_ = problem.validation(state, validation_batch)
    at_end = problem.objective(ahead.state, last, seed + steps)
    pulled = pull_back(problem, ahead, before, at_end, lrs=lrs[:steps], seed=seed)
    losses = torch.cat([ahead.losses, losses[None]])
    return Hypergradient(pulled.alpha, pulled.beta, meta_loss, accuracy, losses)
