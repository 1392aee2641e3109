"""ResNets: stages of residual blocks, then the mean over space and a linear classifier.

A layer is one residual block; the stem belongs to the first. Source: He et al., CVPR 2016.

The stem is torchvision's, a 7x7 convolution of stride 2 and a max-pool, or the one published for
SEDONA, which spares small images: below 64 pixels a 3x3 convolution and no max-pool, at 64 pixels
the 7x7 convolution and no max-pool, from 65 pixels on torchvision's. Of an image that is no square
the longer side decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.image_size import ImageSize, height_and_width
from sedona_nni.models.backbone import (
    BackboneContext,
    Layer,
    Parts,
    Stem,
    conv_unit,
    halved,
)
from sedona_nni.models.feature_shape import FeatureShape

__all__ = ["BASIC_DEPTHS", "BOTTLENECK_DEPTHS", "resnet", "stem_in_words"]

_NARROW = 16  # channels, the floats of an AVX-512 register

BASIC_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECK_DEPTHS = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}


class _NarrowShortcut(nn.Conv2d):
    """A strided 1x1 convolution, done without a stride on the pixels that it looks at.

    On the way back through a strided one in ``channels_last`` whose input has fewer channels than a
    register has floats, oneDNN writes beyond its memory, and the process dies (torch 2.14): with
    AVX2 at fewer than 8, with AVX-512 and one image of bf16 at fewer than 16.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, channels, S/2, S/2), rounded up."""
        down, across = self.stride
        return F.conv2d(features[:, :, ::down, ::across], self.weight)


def _stem_form(image_size: ImageSize, stem: Stem) -> tuple[int, int, bool]:
    """Return kernel size and stride of the stem's convolution, and whether a max-pool follows."""
    longer = max(height_and_width(image_size))
    if stem == "published" and longer < 64:
        return 3, 1, False
    return 7, 2, stem == "torchvision" or halved(longer) > 32


def stem_in_words(image_size: ImageSize, stem: Stem) -> str:
    """Return for instance ``"7x7 convolution of stride 2, max-pool"``."""
    kernel_size, stride, pools = _stem_form(image_size, stem)
    words = f"{kernel_size}x{kernel_size} convolution"
    return words + " of stride 2" * (stride == 2) + ", max-pool" * pools


def _resnet_stem(context: BackboneContext) -> tuple[nn.Sequential, FeatureShape]:
    """Return what precedes the residual blocks, and its output shape."""
    width = context.width(16)
    shape = replace(context.images, channels=width)
    kernel_size, stride, pools = _stem_form(context.image_size, context.stem)
    stem = conv_unit(
        context.in_channels, width, kernel_size, stride=stride, activation=context.activation
    )
    if stride == 2:
        shape = shape.resized(halved)
    if pools:
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        shape = shape.resized(halved)
    return stem, shape


class _PaddedShortcut(nn.Module):
    """Every second pixel, and channels of zeros on top: a shortcut without weights (option A)."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, s, s) to (B, C + extra_channels, ceil(s / 2), ceil(s / 2))."""
        return F.pad(features[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra_channels))


def resnet(
    bottleneck: bool,
    depths: Sequence[int],
    context: BackboneContext,
    *,
    padded_shortcuts: bool = False,
    own_stem: bool = False,
) -> Parts:
    """Return a ResNet.

    Args:
        bottleneck: Whether residual blocks are bottlenecks, or basic ones of two convolutions.
        depths: Residual blocks of each stage, four stages at most.
        context: See `BackboneContext`.
        padded_shortcuts: Whether shortcuts between stages have no weights; only for basic blocks.
        own_stem: Whether the stem is a layer of its own, above which the network can be cut.
    """
    # Imported here because it takes about a second and only ResNets need it
    from torchvision.models.resnet import BasicBlock, Bottleneck

    kind = Bottleneck if bottleneck else BasicBlock
    stem, shape = _resnet_stem(context)
    layers = [Layer("stem", stem, shape)] if own_stem else []
    for stage, (base, depth) in enumerate(zip((16, 32, 64, 128), depths, strict=False)):
        width = context.width(base)
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            out_channels = width * kind.expansion
            shortcut: nn.Module | None = None
            if padded_shortcuts and stride > 1:
                shortcut = _PaddedShortcut(out_channels - shape.channels)
            elif stride > 1 or shape.channels != out_channels:
                if stride > 1 and shape.channels < _NARROW:
                    shortcut = nn.Sequential(
                        _NarrowShortcut(shape.channels, out_channels, 1, stride, bias=False),
                        nn.BatchNorm2d(out_channels),
                    )
                else:
                    shortcut = conv_unit(shape.channels, out_channels, 1, stride=stride)
            block = kind(shape.channels, width, stride, shortcut)
            block.relu = context.activation()  # torchvision's own works in place
            shape = shape.resized(halved if stride > 1 else int, out_channels)
            module = block if layers else stem.append(block)
            layers.append(Layer(f"stage{stage + 1}_{index + 1}", module, shape))
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape.channels, context.num_classes)
    )
    return layers, head
