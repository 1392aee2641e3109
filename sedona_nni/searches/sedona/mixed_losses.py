"""The relaxation with losses mixed in place of logits.

    l_i = sum_c b_ic CE(aux_ic(h_i), y)        instead of        CE(sum_c b_ic aux_ic(h_i), y)

All else is as in `relaxation`. Mixed logits are an ensemble: a candidate that is poor alone may be
worth much in it, and its weight in beta says so, not what it teaches alone. Mixed losses are what
the candidates teach one by one, so the hypergradient of beta_ic is about candidate c itself; at a
one-hot b_i the two are the same. Each candidate still learns from its own part of l_i alone.
Source: this project.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sedona_nni.searches.sedona.inner_step import InnerProblem
from sedona_nni.searches.sedona.relaxation import MixedAuxiliary, Valve
from sedona_nni.teachers.auxiliary import Criterion

__all__ = ["MixedLossesProblem", "mixed_losses"]


class MixedLossesProblem(InnerProblem):
    """The relaxed network's training where the candidates' losses are mixed."""

    def local_logits(
        self,
        mixed: MixedAuxiliary,
        features: Sequence[Tensor],
        a: Tensor,
        b: Tensor,
        valve: Valve,
    ) -> Tensor:
        """See `InnerProblem.local_logits`; those of all candidates, (C, boundaries, B, classes)."""
        return mixed.each(mixed.behind(valve, features, a))

    def local_losses(
        self, mixed: MixedAuxiliary, logits: Tensor, labels: Tensor, b: Tensor
    ) -> Tensor:
        """See `InnerProblem.local_losses`."""
        return mixed_losses(self.criterion, logits, labels, mixed.own(b))


def mixed_losses(criterion: Criterion, logits: Tensor, labels: Tensor, b: Tensor) -> Tensor:
    """Return sum_c b_c CE(logits_c, y) at each boundary, (boundaries,).

    Args:
        criterion: CE.
        logits: Of each candidate, (C, boundaries, B, classes).
        labels: y, (B,).
        b: Shape (boundaries, C).
    """
    losses = torch.stack(
        [torch.stack([criterion(each, labels) for each in of_one]) for of_one in logits]
    )
    return torch.einsum("gc,cg->g", b, losses)
