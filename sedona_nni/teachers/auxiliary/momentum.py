"""A momentum copy of the next layer: ``man`` and ``man++``.

Notation:
    h       what crosses the boundary
    N       the layer above it, with weights w that the block above trains
    E       a copy of N whose weights e follow: e <- 0.995 e + 0.005 w after each step of the block
    M       another layer of N's form, which learns with the block
    s       a factor for each channel; learned by ``man++`` from 1 on, 1 for ``man``

    y = M(h) + s E(h),    logits = linear(mean over space of y)

The block learns from the logits. Of the network above it knows e alone: no gradient comes from
there. Where the block above does not learn meanwhile there is nothing to follow: `sequential`
training refuses such a teacher, and in a probing, which computes nothing above a cut, E stays as N
begins; of that 0.995^20 = 0.90 would be left after its 20 steps. E runs in training mode, as N
does, and the running statistics of its batch norms follow its own batches.

Sources: Su et al., "Momentum Auxiliary Network for Supervised Local Learning", ECCV 2024, and its
release (0.995; there the classifier is InfoPro's); MAN++, TPAMI 2026, arXiv 2507.16279 (the
factor).
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from sedona_nni.teachers.auxiliary.augmented import like
from sedona_nni.teachers.auxiliary.network import AUXILIARY, AuxiliaryContext, Teacher

__all__ = ["MomentumAuxiliary"]

_DECAY = 0.995


class MomentumAuxiliary(Teacher):
    """The layer above as it was, and one like it."""

    def __init__(self, context: AuxiliaryContext, *, scales: bool = False) -> None:
        super().__init__()
        around = context.around
        assert around is not None
        self.shape = around.shapes[around.boundary + 1]
        self._above = (around.above[0],)  # in a tuple it is no submodule
        self.learning = like(around.above[0])
        self.following = copy.deepcopy(around.above[0]).requires_grad_(False)
        channels = self.shape.channels
        self.scale = nn.Parameter(torch.ones(channels)) if scales else None
        self.classifier = nn.Linear(channels, context.num_classes)

    def drawn(self) -> None:
        """Let the copy begin as what it follows."""
        self.following.load_state_dict(self._above[0].state_dict())

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses the boundary to (B, num_classes)."""
        learned, followed = self.learning(features), self.following(features)
        maps = self.shape.as_maps(followed)
        if self.scale is not None:
            maps = self.scale[:, None, None] * maps
        pooled = (self.shape.as_maps(learned) + maps).mean(dim=(2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the copy follow."""
        pairs = zip(self.following.parameters(), self._above[0].parameters(), strict=True)
        for old, new in pairs:
            old.lerp_(new.to(old), 1 - _DECAY)


AUXILIARY.add("man", MomentumAuxiliary)
AUXILIARY.add("man++", partial(MomentumAuxiliary, scales=True))
