"""Barlow Twins, a teacher without labels: ``barlow``.

Notation:
    h       features at the boundary of a batch in which each image is twice, distorted each time in
            its own way, one after the other (``views: 2``)
    p       projector: mean over space, linear to D = 256, batch norm, activation, linear to D
    z       p(h) less its mean, by its deviation, each of the D over the batch
    a, b    z of the first and of the second views, (B/2, D)
    C       a^T b / (B/2), (D, D)

    l = (sum_i (1 - C_ii)^2 + 0.005 sum_{i != j} C_ij^2) / D

Two views of an image should look alike, and different numbers tell different things. Labels only
move the means of classes by which logits are made (`sedona_nni.teachers.class_means`). The last
block of a network learns from its head and labels, as always. Published is one projector of 8,192
numbers, and each view by statistics of its own.

Sources: Zbontar, Jing, Misra, LeCun and Deny, ICML 2021 (the loss, its 0.005); Siddiqui, Krueger,
LeCun and Deny, "Blockwise Self-Supervised Learning at Scale", TMLR 2024 (for each block).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.teachers.auxiliary.network import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    Criterion,
    register_auxiliary,
)
from sedona_nni.teachers.class_means import ClassMeans
from sedona_nni.teachers.losses import class_shares

__all__ = ["BarlowTwins", "redundancy"]

_WIDTH = 256
_OFF_DIAGONAL = 0.005
_TEMPERATURE = 0.07
_EPS = 1e-5  # of a variance


@register_auxiliary("barlow")
class BarlowTwins(AuxiliaryNetwork):
    """Projector, and logits by means of classes."""

    views: ClassVar[int] = 2

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        self.num_classes = context.num_classes
        self.projector = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(context.shape.channels, _WIDTH),
            nn.BatchNorm1d(_WIDTH),
            context.activation(),
            nn.Linear(_WIDTH, _WIDTH),
        )
        self.classes = ClassMeans(context.num_classes, _WIDTH, _TEMPERATURE)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        return self._logits(self.projector(features))

    def _logits(self, projected: Tensor) -> Tensor:
        logits: Tensor = self.classes(F.normalize(projected.to(self.classes.means.dtype)))
        return logits

    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Return l, shape (), and the logits."""
        projected: Tensor = self.projector(features)
        loss = redundancy(projected.to(self.classes.means.dtype))
        logits = self._logits(projected.detach())
        if self.training:
            z = F.normalize(projected.detach().to(self.classes.means.dtype))
            self.classes.follow(z, class_shares(labels, self.num_classes).to(z.dtype))
        return loss, logits


def redundancy(projected: Tensor) -> Tensor:
    """Return l, shape (), of p(h), (B, D), whose rows 2i and 2i + 1 are views of one image."""
    variance, mean = torch.var_mean(projected, 0, correction=0)
    z = (projected - mean) * (variance + _EPS).rsqrt()
    pairs = len(z) // 2
    a, b = z[: 2 * pairs : 2], z[1 : 2 * pairs : 2]
    correlation = a.T @ b / pairs
    on_diagonal = (1 - correlation.diagonal()).square().sum()
    off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
    return (on_diagonal + _OFF_DIAGONAL * off_diagonal) / projected.shape[1]
