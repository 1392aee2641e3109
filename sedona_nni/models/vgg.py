"""VGG: stages of equal convolution units between max-pools, then two hidden layers.

A max-pool belongs to the front of the next layer, so that an auxiliary network sees the map before
it is pooled. Source: Simonyan and Zisserman, ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from sedona_nni.models.backbone import BackboneContext, Layer, Parts, conv_unit

__all__ = ["VGG_DEPTHS", "vgg"]

VGG_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def vgg(
    depths: Sequence[int],
    context: BackboneContext,
    *,
    width: int = 16,
    bias: bool = False,
    dropout: float = 0.5,
) -> Parts:
    """Return a VGG.

    Args:
        depths: Convolution units of each stage.
        context: See `BackboneContext`.
        width: Width of the first stage; it doubles up to eightfold. The head's is 64 times as much.
        bias: Whether convolutions have a bias, which the batch norms behind them cancel.
        dropout: Of the head.
    """
    widths = [context.width(base) for base in (width, 2 * width, 4 * width, 8 * width, 8 * width)]
    shape = context.images
    layers: list[Layer] = []
    for stage, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
        for index in range(depth):
            module = conv_unit(
                shape.channels, channels, 3, bias=bias, activation=context.activation
            )
            shape = replace(shape, channels=channels)
            if stage > 0 and index == 0:
                module.insert(0, nn.MaxPool2d(2))
                shape = shape.resized(lambda side: side // 2)
            layers.append(Layer(f"conv{stage + 1}_{index + 1}", module, shape))
    hidden = context.width(64 * width)
    head = nn.Sequential(
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(shape.channels * (shape.height // 2) * (shape.width // 2), hidden),
        context.activation(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        context.activation(),
        nn.Dropout(dropout),
        nn.Linear(hidden, context.num_classes),
    )
    return layers, head
