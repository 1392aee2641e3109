"""The relaxation with losses mixed in place of logits.

    l_i = sum_c b_ic CE(aux_ic(h_i), y)        instead of        CE(sum_c b_ic aux_ic(h_i), y)

All else is as in `relaxation`. Mixed logits are an ensemble: a candidate that is poor alone may be
worth much in it, and its weight in beta says so, not what it teaches alone. Mixed losses are what
the candidates teach one by one, so the hypergradient of beta_ic is about candidate c itself; at a
one-hot b_i the two are the same. Each candidate still learns from its own part of l_i alone.
Source: this project.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from sedona_nni.searches.sedona.inner_step import InnerProblem
from sedona_nni.searches.sedona.relaxation import MixedAuxiliary, RelaxedNetwork, Valve
from sedona_nni.teachers.auxiliary import Criterion

__all__ = ["MixedLossesProblem", "logits_of_candidates", "mixed_loss"]


class MixedLossesProblem(InnerProblem):
    """The relaxed network's training where the candidates' losses are mixed."""

    def local_logits(
        self, boundary: int, features: Tensor, a: Tensor, b: Tensor, valve: Valve
    ) -> Tensor:
        """See `InnerProblem.local_logits`; here those of all candidates, (C, B, classes)."""
        return logits_of_candidates(self.network, boundary, features, a, valve)

    def local_loss(self, logits: Tensor, labels: Tensor, b: Tensor) -> Tensor:
        """See `InnerProblem.local_loss`."""
        return mixed_loss(self.criterion, logits, labels, b)


def logits_of_candidates(
    network: RelaxedNetwork, boundary: int, features: Tensor, a: Tensor, valve: Valve
) -> Tensor:
    """Return the logits of each candidate at a boundary behind its valve, (C, B, classes)."""
    auxiliary = cast(MixedAuxiliary, network.auxiliaries[boundary])
    return auxiliary.each(valve(features, a[boundary, 0]))


def mixed_loss(criterion: Criterion, logits: Tensor, labels: Tensor, b: Tensor) -> Tensor:
    """Return sum_c b_c CE(logits_c, y), shape ().

    Args:
        criterion: CE.
        logits: Of each candidate, (C, B, classes).
        labels: y, (B,).
        b: Shape (C,).
    """
    return torch.stack([criterion(each, labels) for each in logits]) @ b
