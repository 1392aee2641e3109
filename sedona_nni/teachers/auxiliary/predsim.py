"""Prediction and similarity matching: ``predsim`` and ``predsim-flat``.

Source: Nøkland and Eidnes, ICML 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.models import FeatureShape, scaled_width
from sedona_nni.teachers.auxiliary.network import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    Criterion,
    register_auxiliary,
)
from sedona_nni.teachers.losses import class_shares

__all__ = ["PredSim", "similarity_matrix"]


def _root(x: Tensor) -> Tensor:
    """Return the square root, with zero instead of infinite derivatives of any order at zero.

    Features that are zero for a whole sample are common behind a ReLU.
    """
    positive = x > 0
    return torch.where(positive, x, 1).sqrt() * positive


def similarity_matrix(features: Tensor, *, of_std: bool = True) -> Tensor:
    """Return how alike the samples of a batch are: cosine similarities, (B, B), in [-1, 1].

    Maps, (B, C, H, W), with C > 3 and H W > 1 are reduced to the standard deviation over space of
    each channel (unbiased) if ``of_std``; all else is flattened, to x, (B, n). With z = x - mean(x)
    per sample: R_ij = z_i . z_j / ((|z_i| + 1e-8) (|z_j| + 1e-8)).
    """
    if of_std and features.dim() == 4 and features.shape[1] > 3 and features[0, 0].numel() > 1:
        features = _root(features.flatten(2).var(dim=2))
    x = features.flatten(1)
    z = x - x.mean(dim=1, keepdim=True)
    z = z / (_root(z.square().sum(dim=1, keepdim=True)) + 1e-8)
    return (z @ z.T).clamp(-1, 1)


@register_auxiliary("predsim")
class PredSim(AuxiliaryNetwork):
    """Prediction and similarity matching, with a loss of its own.

    The logits come from a linear classifier on pooled features. The loss is

        0.01 CE(logits, y) + 0.99 mean((R(conv(h)) - R(onehot(y)))^2)

    with R of `similarity_matrix` and a 3x3 convolution C to C. It takes no criterion: the published
    loss has no label smoothing.
    """

    similarity_weight = 0.99

    def __init__(self, context: AuxiliaryContext, *, of_std: bool = True) -> None:
        super().__init__()
        self.of_std = of_std
        channels, sides = context.shape.channels, (context.shape.height, context.shape.width)
        self.num_classes = context.num_classes
        kernel, pooled = _pool_to(scaled_width(512, context.width_multiplier), context.shape)
        pad = [
            (k * (out - side // k)) // 2 for k, out, side in zip(kernel, pooled, sides, strict=True)
        ]
        self.pool = nn.AvgPool2d(kernel, padding=(pad[0], pad[1]))
        self.classifier = nn.Linear(channels * pooled[0] * pooled[1], context.num_classes)
        self.similarity = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(features).flatten(1))
        return logits

    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of prediction and similarity, shape (), and the logits."""
        logits: Tensor = self(features)
        targets = class_shares(labels, self.num_classes).to(features.dtype)
        alike = similarity_matrix(self.similarity(features), of_std=self.of_std)
        difference = alike - similarity_matrix(targets)
        mismatch = difference.square().mean()  # F.mse_loss lacks forward over reverse mode
        weight = self.similarity_weight
        return (1 - weight) * F.cross_entropy(logits, labels) + weight * mismatch, logits


@register_auxiliary("predsim-flat")
def _predsim_flat(context: AuxiliaryContext) -> AuxiliaryNetwork:
    """PredSim whose similarities are of whole maps, not of their standard deviations."""
    return PredSim(context, of_std=False)


def _pool_to(target: int, shape: FeatureShape) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the kernel and the output size that leave at most ``target`` features, if possible.

    Height and width are halved in turn, height first, as long as there are pixels.
    """
    kernel, sides = [1, 1], (shape.height, shape.width)
    out = [*sides]
    axis = 0
    while shape.channels * out[0] * out[1] > target and out != [1, 1]:
        if out[axis] > 1:
            kernel[axis] *= 2
            out[axis] = -(-sides[axis] // kernel[axis])
        axis = 1 - axis
    return (kernel[0], kernel[1]), (out[0], out[1])
