"""DGL's convolutional networks that keep the width of the features: ``cnn`` and ``cnn5x5``.

Notation:
    C, H, W channels, height and width of the features at the boundary
Source: Belilovsky et al., ICML 2020.
"""

from __future__ import annotations

from torch import Tensor, nn

from sedona_nni.models import conv_unit
from sedona_nni.teachers.auxiliary.network import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    register_auxiliary,
)

__all__ = ["CnnAuxiliary", "WideCnnAuxiliary"]


@register_auxiliary("cnn")
class CnnAuxiliary(AuxiliaryNetwork):
    """Two 3x3 convolutions C to C, pool to 2 x 2, batch norm, linear classifier."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        channels, act = context.shape.channels, context.activation
        self.features = nn.Sequential(
            conv_unit(channels, channels, 3, activation=act),
            conv_unit(channels, channels, 3, activation=act),
            nn.AdaptiveAvgPool2d(2),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(4 * channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(features))
        return logits


@register_auxiliary("cnn5x5")
class WideCnnAuxiliary(AuxiliaryNetwork):
    """Three 5x5 convolutions C to C, mean over space, linear classifier.

    Batch norm and activation follow all convolutions but the last. DGL's counterpart of DNI's
    synthesizers on the CNN of their paper, there with zeros for the last convolution.
    """

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        channels, act = context.shape.channels, context.activation
        self.features = nn.Sequential(
            conv_unit(channels, channels, 5, activation=act, bias=True),
            conv_unit(channels, channels, 5, activation=act, bias=True),
            nn.Conv2d(channels, channels, 5, padding=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(features))
        return logits
