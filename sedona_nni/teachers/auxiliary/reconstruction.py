"""Reconstruction of what a block was given, from what it returns: ``recon``.

Notation:
    g       what the block is given: features as they cross below it, without what a cut of a
            further kind adds, or the images
    h       what it returns
    D       decoder: h at the size of g (bilinear, maps only), batch norm or layer norm, 1x1
            convolution or linear map to a quarter of h's width, GELU, another to the width of g
    r       height of the boundary, 0 to 1

The block learns from

    l = u mean((D(h) - g)^2) / var(g) + v CE(logits, y),    u = 1 - r/2,    v = 1/2 + r/2

with logits of a linear classifier on the mean over space. With v = 0 a block would learn to keep
all that it is given, classes or not. A decoder of maps is of 1x1 convolutions; tokens that are as
many below as above are decoded as they are.

Sources: Pathak et al., "Local Learning on Transformers via Feature Reconstruction", arXiv
2212.14215 (features in place of InfoPro's images); the decoder is LoPT's. The weights are ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.models import FeatureShape
from sedona_nni.teachers.auxiliary.infopro import between
from sedona_nni.teachers.auxiliary.network import (
    AuxiliaryContext,
    Criterion,
    Seen,
    Teacher,
    register_auxiliary,
)

__all__ = ["Reconstruction"]

_KEEP, _TELL = (1.0, 0.5), (0.5, 1.0)  # u and v at the bottom and at the top
_LEAST_VARIANCE = 1e-6  # of features that are all the same


@register_auxiliary("recon")
class Reconstruction(Teacher):
    """Decoder of the block's input, and a linear classifier."""

    reads_inputs: ClassVar[bool] = True

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        around = context.around
        assert around is not None
        self.shape, self.inputs = context.shape, around.inputs
        self.keep, self.tell = between(*_KEEP, around.height), between(*_TELL, around.height)
        channels = context.shape.channels
        narrow, wide = max(1, channels // 4), around.inputs.channels
        self.by_token = _same_tokens(context.shape, around.inputs)
        self.decoder = (
            nn.Sequential(
                nn.LayerNorm(channels),
                nn.Linear(channels, narrow),
                nn.GELU(),
                nn.Linear(narrow, wide),
            )
            if self.by_token
            else nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.Conv2d(channels, narrow, 1),
                nn.GELU(),
                nn.Conv2d(narrow, wide, 1),
            )
        )
        self.classifier = nn.Linear(channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses the boundary to (B, num_classes)."""
        logits: Tensor = self.classifier(self.shape.as_maps(features).mean(dim=(2, 3)))
        return logits

    def teach(
        self, features: Tensor, labels: Tensor, criterion: Criterion, seen: Seen
    ) -> tuple[Tensor, Tensor]:
        """Return l, shape (), and the logits."""
        logits: Tensor = self(features)
        given = seen.inputs
        if not self.by_token:
            features, given = self.shape.as_maps(features), self.inputs.as_maps(given)
            size = (self.inputs.height, self.inputs.width)
            if features.shape[2:] != size:
                features = F.interpolate(features, size, mode="bilinear", align_corners=True)
        # In mixed precision of single numbers, as squares can be beyond half ones. Not by mse_loss,
        # whose kernels take memory that a dry run does not see
        missed = self.decoder(features) - given
        error = missed.to(torch.promote_types(missed.dtype, torch.float32)).square().mean()
        missing = error / given.var().clamp(min=_LEAST_VARIANCE)
        return self.keep * missing + self.tell * criterion(logits, labels), logits


def _same_tokens(shape: FeatureShape, inputs: FeatureShape) -> bool:
    """Return whether what is returned has a token or a place for each that is given."""
    sizes = {(each.layout, each.size, each.extra) for each in (shape, inputs)}
    return len(sizes) == 1 and shape.layout != "map"
