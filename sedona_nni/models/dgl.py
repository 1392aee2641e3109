"""The small networks of "Decoupled Greedy Learning of CNNs" and of the paper on DNI.

Sources: Belilovsky et al., ICML 2020; Jaderberg et al., "Decoupled Neural Interfaces using
Synthetic Gradients", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from sedona_nni.models.backbone import BackboneContext, FeatureShape, Layer, Parts, conv_unit

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
    shape = FeatureShape(context.in_channels, context.image_size)
    channels = context.width(width)
    layers = []
    for index in range(depth):
        pool = []
        if index in pooled:
            channels *= 2
            pool = [nn.MaxPool2d(2)]
        unit = conv_unit(shape.channels, channels, 3, bias=bias, activation=context.activation)
        shape = FeatureShape(channels, shape.size // 2 if pool else shape.size)
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
    width, size = context.width(128), context.image_size
    layers: list[Layer] = []
    for index, pool in enumerate((nn.MaxPool2d(3), nn.AvgPool2d(3), nn.AvgPool2d(3))):
        channels = width if layers else context.in_channels
        unit = conv_unit(channels, width, 5, bias=True, activation=context.activation)
        size //= 3
        layers.append(Layer(f"conv{index + 1}", unit.append(pool), FeatureShape(width, size)))
    layers.append(Layer("mean", nn.AdaptiveAvgPool2d(1), FeatureShape(width, 1)))
    return layers, nn.Sequential(nn.Flatten(), nn.Linear(width, context.num_classes))
