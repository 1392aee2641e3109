"""Frank-Wolfe steps over exactly K-1 cuts, as an optimizer of alpha and beta.

Notation as in `relaxation`, and z_jc = a_j^loc b_jc, the share of the cut at j with c.

The decouplings into K blocks are the corners of

    Z = { z >= 0 : sum_c z_jc <= 1 for each j, sum_jc z_jc = K-1 }

and a linear function is least over Z at one of them: K-1 boundaries, an auxiliary network each. So
with the slopes s = - dL/dz a step goes from where one is towards the decoupling that is best to
first order,

    v_n = the K-1 boundaries of the largest max_c s_jc, each with that c
    z  <- z + (v_n - z) / (n + 2)                                      n = 0, 1, ...

so that z is the mean of the start and of all v. Nothing is pushed to be decided, as logits are by
a softmax: a cut's share is how often it was among the best. The start, a^loc the same everywhere,
need not be in Z; with a small one it is close to the undivided network.
Source: Frank and Wolfe, "An algorithm for quadratic programming", Naval Research Logistics 1956;
Jaggi, "Revisiting Frank-Wolfe", ICML 2013. Their use here is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sedona_nni.errors import InputError
from sedona_nni.searches.sedona.meta_optimizer import MetaOptimizer
from sedona_nni.searches.sedona.relaxation import slopes

__all__ = ["FrankWolfe"]


class FrankWolfe(MetaOptimizer):
    """Moves the shares of cuts towards decouplings into K blocks.

    Args:
        alpha: The logits of every boundary, shape (L-1, 2).
        beta: Those of its auxiliary choices, shape (L-1, C).
        num_blocks: K, from 2 to L.

    Raises:
        InputError: if it is another.
    """

    def __init__(self, alpha: Tensor, beta: Tensor, num_blocks: int) -> None:
        if not 2 <= num_blocks <= len(alpha) + 1:
            rule = f"must be from 2 to the number of layers, {len(alpha) + 1}"
            raise InputError.rule("meta_num_blocks", rule, num_blocks)
        super().__init__(alpha, beta)
        self._cuts = num_blocks - 1

    @torch.no_grad()
    def step(self, to_alpha: Tensor, to_beta: Tensor) -> None:
        """See `MetaOptimizer.step`."""
        alpha, beta = self.arch
        state = self.state[0]
        done = state.setdefault("step", torch.zeros(()))
        found = slopes(alpha, beta, to_alpha, to_beta)
        best, which = found.max(dim=1)
        corner = torch.zeros_like(found)
        cuts = best.argsort(descending=True, stable=True)[: self._cuts]
        corner[cuts, which[cuts]] = 1
        a, b = alpha.double().softmax(1), beta.double().softmax(1)
        z = a[:, :1] * b
        z = z + (corner - z) / (float(done) + 2)
        # Not 1 - sum of z, which a corner visited again and again would round to 0
        up = a[:, 1] + (1 - corner.sum(1) - a[:, 1]) / (float(done) + 2)
        alpha.copy_(torch.stack([z.sum(1).log(), up.log()], dim=1))
        beta.copy_((z / z.sum(1, keepdim=True)).log())
        state["step"] = done + 1
