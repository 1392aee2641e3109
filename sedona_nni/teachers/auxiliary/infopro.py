"""InfoPro: keep what the image says, and tell the classes: ``infopro``, ``infopro-contrast``.

Notation:
    x       the image, each channel's numbers brought to [0, 1]
    h       features at the boundary, (B, C, H, W)
    R       decoder: h at the image's size (bilinear), 3x3 convolution to 12 channels, batch norm,
            ReLU, 3x3 convolution to the image's channels
    f       3x3 convolution C to min(2C, the widest of the network's layers), of stride 2 if that is
            2C; batch norm, ReLU, mean over space, linear to 128, ReLU, linear
    r       height of the boundary, 0 to 1

The block below learns from

    l = u BCE(sigmoid(R(h)), x) + v l_y,    u = 5 (1 - r) + 0.5 r,    v = 0.5 (1 - r) + r

with l_y = CE(f(h), y), or by contrast, with z = f(h) / |f(h)| of 128 numbers and t = 0.07,

    l_y = - mean_i sum_{j != i} w_ij log p_ij / sum_{j != i} w_ij
    p_ij = exp(z_i.z_j / t) / sum_{k != i} exp(z_i.z_k / t)

with w_ij = 1 where i and j are of one class (y_i.y_j of shares, where images were mixed) and 0
else; images alone of their class add nothing. The release has no logits then; here they are by
running means of classes, `sedona_nni.teachers.class_means`.

The published weights u and v are tuned for each K, from bottom to top between 0 and 20 for u and 0
and 2 for v, and shift with the number of the block; ours are those of ResNet-110 on CIFAR-10 with
K = 2 at the bottom and with K = 16 at the top. The release undoes the normalisation of its images,
which here a batch's smallest and largest number of each channel stand for.

Source: Wang, Ni, Song, Yang and Huang, "Revisiting Locally Supervised Learning: an Alternative to
End-to-end Training", ICLR 2021, and its release (widths, weights); contrast: Khosla et al., NeurIPS
2020.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.models import conv_unit
from sedona_nni.teachers.auxiliary.network import (
    AUXILIARY,
    AuxiliaryContext,
    Criterion,
    Seen,
    Teacher,
)
from sedona_nni.teachers.class_means import ClassMeans
from sedona_nni.teachers.losses import class_shares

__all__ = ["InfoPro", "between", "contrast"]

_DECODER_WIDTH, _WIDTH = 12, 128
_KEEP, _TELL = (5.0, 0.5), (0.5, 1.0)  # u and v at the bottom and at the top
_TEMPERATURE = 0.07


class InfoPro(Teacher):
    """Decoder and classifier, with weights that shift with height."""

    def __init__(self, context: AuxiliaryContext, *, contrasts: bool = False) -> None:
        super().__init__()
        around = context.around
        assert around is not None
        self.shape, self.images = context.shape, around.images
        self.num_classes = context.num_classes
        self.keep, self.tell = between(*_KEEP, around.height), between(*_TELL, around.height)
        channels, act = context.shape.channels, context.activation
        self.decoder = nn.Sequential(
            conv_unit(channels, _DECODER_WIDTH, 3, bias=True, activation=act),
            nn.Conv2d(_DECODER_WIDTH, around.images.channels, 3, padding=1),
        )
        widest = max(shape.channels for shape in around.shapes)
        stride = 2 if 2 * channels <= widest else 1
        width = min(2 * channels, max(channels, widest))
        self.encoder = nn.Sequential(
            conv_unit(channels, width, 3, stride=stride, activation=act),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, _WIDTH),
            act(),
            nn.Linear(_WIDTH, _WIDTH if contrasts else context.num_classes),
        )
        self.classes = ClassMeans(context.num_classes, _WIDTH, _TEMPERATURE) if contrasts else None

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses the boundary to (B, num_classes)."""
        encoded: Tensor = self.encoder(self.shape.as_maps(features))
        if self.classes is None:
            return encoded
        logits: Tensor = self.classes(F.normalize(encoded.to(self.classes.means.dtype)))
        return logits

    def teach(
        self, features: Tensor, labels: Tensor, criterion: Criterion, seen: Seen
    ) -> tuple[Tensor, Tensor]:
        """Return l, shape (), and the logits."""
        maps = self.shape.as_maps(features)
        size = (self.images.height, self.images.width)
        decoded = self.decoder(F.interpolate(maps, size, mode="bilinear", align_corners=True))
        target = _in_unit_range(seen.images)
        kept = F.binary_cross_entropy_with_logits(decoded.to(target.dtype), target)
        encoded: Tensor = self.encoder(maps)
        if self.classes is None:
            return self.keep * kept + self.tell * criterion(encoded, labels), encoded
        z = F.normalize(encoded.to(self.classes.means.dtype))
        shares = class_shares(labels, self.num_classes).to(z.dtype)
        logits: Tensor = self.classes(z)
        if self.training:
            self.classes.follow(z.detach(), shares)
        return self.keep * kept + self.tell * contrast(z, shares, _TEMPERATURE), logits


def between(bottom: float, top: float, height: float) -> float:
    """Return what shifts from one value to another with height, 0 to 1."""
    return bottom * (1 - height) + top * height


def contrast(z: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss, shape ().

    Args:
        z: Of length 1 each, (B, n).
        shares: Of classes, (B, classes).
        temperature: t.
    """
    alike = shares @ shares.T
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    each = logits.log_softmax(1).masked_fill(itself, 0.0)
    alike = alike.masked_fill(itself, 0.0)
    losses = -(alike * each).sum(1) / alike.sum(1).clamp(min=torch.finfo(z.dtype).tiny)
    return losses.mean()


def _in_unit_range(images: Tensor) -> Tensor:
    lowest, highest = images.aminmax(dim=0, keepdim=True)
    lowest = lowest.amin((2, 3), keepdim=True)
    highest = highest.amax((2, 3), keepdim=True)
    return (images - lowest) / (highest - lowest).clamp(min=torch.finfo(images.dtype).tiny)


AUXILIARY.add("infopro", InfoPro)
AUXILIARY.add("infopro-contrast", partial(InfoPro, contrasts=True))
