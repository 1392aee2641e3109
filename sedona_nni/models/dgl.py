"""The small networks of "Decoupled Greedy Learning of CNNs" and of the paper on DNI.

Sources: Belilovsky et al., ICML 2020; Jaderberg et al., "Decoupled Neural Interfaces using
Synthetic Gradients", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import nn

from sedona_nni.models.backbone import BackboneContext, Layer, Parts, conv_unit
from sedona_nni.models.feature_shape import FeatureShape

__all__ = ["dgl_cnn", "dni_cnn"]


def dgl_cnn(
    depth: int,
    width: int,
    pooled: Collection[int],
    context: BackboneContext,
    *,
    bias: bool = True,
    hidden: int = 2,
) -> Parts:
    """Return convolution units in a row, then the mean over quarters and a perceptron.

    Args:
        depth: Number of 3x3 convolution units, each a layer.
        width: Width of the first.
        pooled: The layers that begin with a 2x2 max-pool and double the width.
        context: See `BackboneContext`.
        bias: Whether convolutions have a bias.
        hidden: Hidden layers of the perceptron, four times as wide as the last layer, each with
            batch norm.
    """
    shape = context.images
    channels = context.width(width)
    layers = []
    for index in range(depth):
        pool = []
        if index in pooled:
            channels *= 2
            pool = [nn.MaxPool2d(2)]
        unit = conv_unit(shape.channels, channels, 3, bias=bias, activation=context.activation)
        if pool:
            shape = shape.resized(lambda side: side // 2)
        shape = replace(shape, channels=channels)
        layers.append(Layer(f"conv{index + 1}", nn.Sequential(*pool, *unit), shape))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    wide = 4 * channels
    for _ in range(hidden):
        head.extend([nn.Linear(wide, wide), nn.BatchNorm1d(wide), context.activation()])
    return layers, head.append(nn.Linear(wide, context.num_classes))


def dni_cnn(context: BackboneContext) -> Parts:
    """Return three 5x5 convolution units, each with a pool of 3x3, and a linear classifier.

    A fourth layer is the mean over space. At 32 pixels it changes nothing; a cut before it gives
    the third convolution, too, a gradient that is not the classifier's own.
    """
    width, shape = context.width(128), context.images
    layers: list[Layer] = []
    for index, pool in enumerate((nn.MaxPool2d(3), nn.AvgPool2d(3), nn.AvgPool2d(3))):
        channels = width if layers else context.in_channels
        unit = conv_unit(channels, width, 5, bias=True, activation=context.activation)
        shape = shape.resized(lambda side: side // 3, width)
        layers.append(Layer(f"conv{index + 1}", unit.append(pool), shape))
    layers.append(Layer("mean", nn.AdaptiveAvgPool2d(1), FeatureShape(width, 1)))
    return layers, nn.Sequential(nn.Flatten(), nn.Linear(width, context.num_classes))
